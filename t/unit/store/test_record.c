/* Records: any set of attributes comes back, every flipped bit is noticed, and what a put or
 * setattr makes of attributes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/hlc.h"
#include "base/mem.h"
#include "store/record.h"

#include "attributes_equal.h"

static struct record sample(uint32_t mask)
{
    struct record record = {
        .version = 12, .time = 34, .attributes.mask = mask, .value = span_of_string("hello")
    };
    record.attributes.mode = mask & ATTRIBUTE_MODE ? 0755 : 0;
    record.attributes.uid = mask & ATTRIBUTE_UID ? 1 : 0;
    record.attributes.gid = mask & ATTRIBUTE_GID ? 2 : 0;
    record.attributes.flags = mask & ATTRIBUTE_FLAGS ? RECORD_DIRECTORY : 0;
    record.attributes.mtime_us = mask & ATTRIBUTE_MTIME ? 3 : 0;
    record.attributes.expires_at_us = mask & ATTRIBUTE_EXPIRES ? 4 : 0;
    return record;
}

static void every_mask_comes_back(void **state)
{
    (void)state;
    struct span key = span_of_string("key");
    for (uint32_t mask = 0; mask <= ATTRIBUTE_ALL; mask++) {
        struct record in = sample(mask), out;
        uint32_t content = record_content_checksum(key, in.value), again;
        size_t size = record_packed_size(&in);
        uint8_t *bytes = mem_alloc(size);
        record_pack(&in, content, bytes);
        assert_int_equal(record_unpack_checked(key, span_of(bytes, size), &out, &again, NULL), 0);
        assert_int_equal(again, content);
        assert_int_equal(out.version, 12);
        assert_int_equal(out.time, 34);
        assert_attributes_equal(&out.attributes, &in.attributes);
        assert_true(span_equal(out.value, in.value));
        mem_free(bytes);
    }
    struct record bare = sample(0);
    assert_int_equal(record_packed_size(&bare), 24 + 5);
}

static void every_flipped_bit_is_noticed(void **state)
{
    (void)state;
    struct span key = span_of_string("key");
    struct record in = sample(ATTRIBUTE_MODE | ATTRIBUTE_MTIME), out;
    uint8_t bytes[64];
    size_t size = record_packed_size(&in);
    assert_true(size <= sizeof bytes);
    record_pack(&in, record_content_checksum(key, in.value), bytes);
    for (size_t bit = 0; bit < 8 * size; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        int rc = record_unpack_checked(key, span_of(bytes, size), &out, NULL, NULL);
        assert_true(rc == ERR_CORRUPT || rc == ERR_FORMAT);
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    for (size_t cut = 0; cut < size; cut++) {
        assert_true(record_unpack_checked(key, span_of(bytes, cut), &out, NULL, NULL) < 0);
    }
    assert_int_equal(
        record_unpack_checked(span_of_string("kez"), span_of(bytes, size), &out, NULL, NULL),
        ERR_CORRUPT);
    assert_int_equal(record_unpack_checked(key, span_of(bytes, size), &out, NULL, NULL), 0);
}

static void put_keeps_mode_owner_and_flags_only(void **state)
{
    (void)state;
    struct record old = sample(ATTRIBUTE_ALL);
    struct attributes given = { .mask = ATTRIBUTE_UID, .uid = 9 }, out;
    attributes_for_put(&old.attributes, &given, &out);
    assert_int_equal(out.mask, ATTRIBUTE_MODE | ATTRIBUTE_UID | ATTRIBUTE_GID | ATTRIBUTE_FLAGS);
    assert_int_equal(out.mode, 0755);
    assert_int_equal(out.uid, 9);
    assert_int_equal(out.flags, RECORD_DIRECTORY);
    attributes_for_put(NULL, &given, &out);
    assert_int_equal(out.mask, ATTRIBUTE_UID);
    struct attributes times = { .mask = ATTRIBUTE_MTIME | ATTRIBUTE_EXPIRES,
                                .mtime_us = 5,
                                .expires_at_us = 6 };
    attributes_for_put(NULL, &times, &out);
    assert_int_equal(out.mtime_us, 5);
    assert_int_equal(out.expires_at_us, 6);
}

static void setattr_keeps_the_rest_and_the_shown_mtime(void **state)
{
    (void)state;
    struct attributes old = { .mask = ATTRIBUTE_MODE | ATTRIBUTE_EXPIRES,
                              .mode = 0600,
                              .expires_at_us = 50 },
                      out;
    struct attributes chmod = { .mask = ATTRIBUTE_MODE, .mode = 0644 };
    attributes_for_setattr(&old, hlc_from_us(1000) + 3, &chmod, &out);
    assert_int_equal(out.mask, ATTRIBUTE_MODE | ATTRIBUTE_EXPIRES | ATTRIBUTE_MTIME);
    assert_int_equal(out.mode, 0644);
    assert_int_equal(out.mtime_us, 1000);
    assert_int_equal(out.expires_at_us, 50);
    struct attributes never = { .mask = ATTRIBUTE_EXPIRES | ATTRIBUTE_MTIME, .mtime_us = 7 };
    attributes_for_setattr(&old, hlc_from_us(1000), &never, &out);
    assert_int_equal(out.mask, ATTRIBUTE_MODE | ATTRIBUTE_MTIME);
    assert_int_equal(out.mtime_us, 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_mask_comes_back),
        cmocka_unit_test(every_flipped_bit_is_noticed),
        cmocka_unit_test(put_keeps_mode_owner_and_flags_only),
        cmocka_unit_test(setattr_keeps_the_rest_and_the_shown_mtime),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
