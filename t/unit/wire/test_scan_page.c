/* Scan pages: what was packed is unpacked; what was cut or bent is told, and never read beyond. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/hash.h"
#include "base/limits.h"
#include "base/mem.h"
#include "wire/scan_page.h"

static const struct scan_page_entry entries[] = {
    { .key = { (const uint8_t *)"a", 1 } },
    { .flags = SCAN_PAGE_META,
      .key = { (const uint8_t *)"b", 1 },
      .version = 1,
      .time = 2,
      .size = 1ull << 40 },
    { .flags = SCAN_PAGE_META | SCAN_PAGE_VALUE,
      .key = { (const uint8_t *)"c/d", 3 },
      .version = UINT64_MAX,
      .size = 5,
      .value = { (const uint8_t *)"value", 5 } },
    { .flags = SCAN_PAGE_META | SCAN_PAGE_ATTRIBUTES | SCAN_PAGE_VALUE,
      .key = { (const uint8_t *)"e", 1 },
      .time = 7,
      .attributes = { 63, 0640, 1, 2, 3, 4, 5 } },
    { .flags = SCAN_PAGE_META | SCAN_PAGE_ATTRIBUTES,
      .key = { (const uint8_t *)"f", 1 },
      .attributes = { .mask = 1 } },
};
enum { ENTRIES = sizeof entries / sizeof entries[0] };

static void check_entry(const struct scan_page_entry *found, const struct scan_page_entry *expected)
{
    assert_int_equal(found->flags, expected->flags);
    assert_true(span_equal(found->key, expected->key));
    assert_true(span_equal(found->value, expected->value));
    assert_int_equal(found->version, expected->version);
    assert_int_equal(found->time, expected->time);
    assert_int_equal(found->size, expected->size);
    assert_memory_equal(&found->attributes, &expected->attributes, sizeof found->attributes);
}

static void pack_all(struct buf *page)
{
    for (size_t i = 0; i < ENTRIES; i++) {
        size_t before = page->size;
        scan_page_add(page, &entries[i]);
        assert_int_equal(page->size - before, scan_page_entry_size(&entries[i]));
    }
}

static void what_is_packed_is_unpacked(void **state)
{
    struct buf page = { 0 };
    struct scan_page_entry found;
    pack_all(&page);
    struct span rest = buf_span(&page);
    for (size_t i = 0; i < ENTRIES; i++) {
        assert_true(scan_page_next(&rest, &found));
        check_entry(&found, &entries[i]);
    }
    assert_false(scan_page_next(&rest, &found));
    assert_int_equal(rest.size, 0);
    buf_fini(&page);
}

static size_t count_entries(struct span *rest)
{
    struct scan_page_entry found;
    size_t count = 0;
    while (scan_page_next(rest, &found)) {
        assert_in_range(found.key.size, 1, LIMIT_KEY_BYTES);
        count++;
    }
    return count;
}

/* Each cut lies in memory of its own, so that a sanitizer sees a byte read too much. */
static void cut_pages_are_told(void **state)
{
    struct buf page = { 0 };
    pack_all(&page);
    size_t whole = 0;
    for (size_t size = 0; size < page.size; size++) {
        uint8_t *copy = mem_dup(page.data, size);
        struct span rest = span_of(copy, size);
        size_t count = count_entries(&rest);
        assert_in_range(count, whole, whole + 1);
        assert_true(count < ENTRIES);
        whole = rest.size == 0 ? count : whole;
        mem_free(copy);
    }
    assert_int_equal(whole, ENTRIES - 1);
    buf_fini(&page);
}

static void bent_pages_do_no_harm(void **state)
{
    struct buf page = { 0 };
    pack_all(&page);
    for (uint64_t i = 0; i < 20000; i++) {
        uint64_t random = hash_u64(i);
        uint8_t *copy = mem_dup(page.data, page.size);
        copy[random % page.size] ^= (uint8_t)(1 + (random >> 32) % 255);
        struct span rest = span_of(copy, page.size);
        count_entries(&rest);
        mem_free(copy);
    }
    buf_fini(&page);
}

static void refuse(uint8_t key_size, uint8_t flags, uint8_t zero)
{
    uint8_t bytes[200] = { key_size, 0, flags, zero };
    struct span rest = span_of(bytes, sizeof bytes);
    struct scan_page_entry found;
    assert_false(scan_page_next(&rest, &found));
    assert_int_equal(rest.size, sizeof bytes);
}

static void what_is_no_entry_is_refused(void **state)
{
    refuse(0, 0, 0);
    refuse(1, 8, 0);
    refuse(1, SCAN_PAGE_VALUE, 0);
    refuse(1, SCAN_PAGE_ATTRIBUTES, 0);
    refuse(1, 0, 1);
    refuse(200, 0, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_packed_is_unpacked),
        cmocka_unit_test(cut_pages_are_told),
        cmocka_unit_test(bent_pages_do_no_harm),
        cmocka_unit_test(what_is_no_entry_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
