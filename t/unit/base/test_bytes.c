/* Spans, buffers, integers and readers: ordinary use, the edges, and input that is too short. */
#include "base/bytes.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/mem.h"

static struct span text(const char *s)
{
    return span_of_string(s);
}

static void spans_order_like_memcmp_with_the_shorter_first(void **state)
{
    assert_true(span_compare(text("a"), text("b")) < 0);
    assert_true(span_compare(text("b"), text("a")) > 0);
    assert_true(span_compare(text("a"), text("ab")) < 0);
    assert_true(span_compare(text("ab"), text("a")) > 0);
    assert_true(span_compare(text("\xff"), text("a")) > 0); /* bytes are unsigned */
    assert_int_equal(span_compare(text("ab"), text("ab")), 0);
    assert_int_equal(span_compare((struct span){ NULL, 0 }, text("")), 0);
    assert_true(span_compare((struct span){ NULL, 0 }, text("a")) < 0);
}

static void spans_are_equal_by_bytes(void **state)
{
    assert_true(span_equal(text("ab"), text("ab")));
    assert_false(span_equal(text("ab"), text("ac")));
    assert_false(span_equal(text("ab"), text("abc")));
    assert_true(span_equal((struct span){ NULL, 0 }, text("")));
    assert_true(span_has_prefix(text("abc"), text("ab")));
    assert_true(span_has_prefix(text("abc"), (struct span){ NULL, 0 }));
    assert_false(span_has_prefix(text("ab"), text("abc")));
    assert_false(span_has_prefix(text("xbc"), text("ab")));
}

static void a_buffer_grows_and_keeps_its_bytes(void **state)
{
    struct buf buf = { 0 };

    for (int i = 0; i < 10000; i++) {
        uint8_t byte = (uint8_t)(i * 7);
        buf_append(&buf, &byte, 1);
    }
    assert_int_equal(buf.size, 10000);
    for (int i = 0; i < 10000; i++) {
        assert_int_equal(buf.data[i], (uint8_t)(i * 7));
    }
    buf_consume(&buf, 9990);
    assert_int_equal(buf.size, 10);
    assert_int_equal(buf.data[0], (uint8_t)(9990 * 7));
    buf_consume(&buf, 10);
    assert_int_equal(buf.size, 0);
    size_t capacity = buf.capacity;
    buf_clear(&buf);
    assert_int_equal(buf.capacity, capacity);
    buf_fini(&buf);
    assert_null(buf.data);
}

static void an_empty_buffer_takes_nothing(void **state)
{
    struct buf buf = { 0 };

    buf_append(&buf, NULL, 0);
    buf_append_span(&buf, (struct span){ NULL, 0 });
    buf_consume(&buf, 0);
    assert_int_equal(buf.size, 0);
    assert_non_null(buf_reserve(&buf, 0));
    buf_fini(&buf);
}

static void reserved_bytes_count_only_when_committed(void **state)
{
    struct buf buf = { 0 };

    memcpy(buf_reserve(&buf, 100), "hello", 5);
    assert_int_equal(buf.size, 0);
    buf_commit(&buf, 5);
    memcpy(buf_extend(&buf, 3), "you", 3);
    assert_true(span_equal(buf_span(&buf), text("helloyou")));
    buf_fini(&buf);
}

static void printf_appends_any_length(void **state)
{
    struct buf buf = { 0 };
    char wide[300];

    buf_printf(&buf, "%d-%s", 42, "x");
    assert_true(span_equal(buf_span(&buf), text("42-x")));
    memset(wide, 'w', sizeof wide - 1);
    wide[sizeof wide - 1] = '\0';
    buf_printf(&buf, "%s!", wide);
    assert_int_equal(buf.size, 4 + 299 + 1);
    assert_int_equal(buf.data[buf.size - 1], '!');
    buf_fini(&buf);
    for (int size = 60; size < 70; size++) { /* around the first capacity */
        buf_printf(&buf, "%*d", size, 7);
        assert_int_equal(buf.size, size);
        assert_int_equal(buf.data[size - 1], '7');
        buf_fini(&buf);
    }
}

static void integers_are_little_endian_at_any_alignment(void **state)
{
    uint8_t bytes[16] = { 0 };

    put_u32(bytes + 1, 0x01020304u);
    assert_int_equal(bytes[1], 4);
    assert_int_equal(bytes[4], 1);
    put_u16(bytes + 5, 0xbeef);
    put_u64(bytes + 7, 0x0102030405060708u);
    assert_int_equal(get_u32(bytes + 1), 0x01020304u);
    assert_int_equal(get_u16(bytes + 5), 0xbeef);
    assert_int_equal(get_u64(bytes + 7), 0x0102030405060708u);
}

static void a_reader_takes_exactly_what_is_there(void **state)
{
    static const uint8_t bytes[] = { 1, 2, 0, 3, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 'a', 'b' };
    struct reader reader = reader_of(span_of(bytes, sizeof bytes));

    assert_int_equal(reader_u8(&reader), 1);
    assert_int_equal(reader_u16(&reader), 2);
    assert_int_equal(reader_u32(&reader), 3);
    assert_int_equal(reader_u64(&reader), 4);
    assert_true(span_equal(reader_span(&reader, 2), text("ab")));
    assert_int_equal(reader.left, 0);
    assert_int_equal(reader_span(&reader, 0).size, 0);
    assert_false(reader.bad);
}

static void a_reader_that_failed_stays_bad(void **state)
{
    static const uint8_t bytes[] = { 1, 2, 3 };
    struct reader reader = reader_of(span_of(bytes, sizeof bytes));

    assert_int_equal(reader_u32(&reader), 0);
    assert_true(reader.bad);
    assert_int_equal(reader_u8(&reader), 0); /* a byte is there, but the message is bad */
    assert_int_equal(reader_span(&reader, 0).size, 0);
    assert_null(reader_span(&reader, SIZE_MAX).data);
    assert_true(reader.bad);

    reader = reader_of((struct span){ NULL, 0 });
    assert_int_equal(reader_span(&reader, 0).size, 0);
    assert_false(reader.bad);
    reader_u8(&reader);
    assert_true(reader.bad);
}

static void a_buffer_becomes_a_blob_without_a_copy(void **state)
{
    struct buf buf = { 0 };
    assert_true(buf_begin_blob(&buf, NULL, 0));
    for (int i = 0; i < 1000; i++) {
        buf_append(&buf, &i, sizeof i);
    }
    const uint8_t *data = buf.data;
    struct blob *blob = buf_take_blob(&buf);
    assert_ptr_equal(blob, data);
    assert_int_equal(blob->size, 1000 * sizeof(int));
    assert_int_equal(blob->references, 1);
    assert_false(blob->is_summed);
    for (int i = 0; i < 1000; i++) {
        assert_memory_equal(blob->data + (size_t)i * sizeof i, &i, sizeof i);
    }
    assert_null(buf.data);
    assert_int_equal(buf.size + buf.capacity, 0);
    blob_unref(blob);
    assert_true(buf_begin_blob(&buf, NULL, 100));
    blob = buf_take_blob(&buf);
    assert_int_equal(blob->size, 0);
    blob_unref(blob);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(spans_order_like_memcmp_with_the_shorter_first),
        cmocka_unit_test(spans_are_equal_by_bytes),
        cmocka_unit_test(a_buffer_grows_and_keeps_its_bytes),
        cmocka_unit_test(an_empty_buffer_takes_nothing),
        cmocka_unit_test(reserved_bytes_count_only_when_committed),
        cmocka_unit_test(printf_appends_any_length),
        cmocka_unit_test(integers_are_little_endian_at_any_alignment),
        cmocka_unit_test(a_reader_takes_exactly_what_is_there),
        cmocka_unit_test(a_reader_that_failed_stays_bad),
        cmocka_unit_test(a_buffer_becomes_a_blob_without_a_copy),
    };
    return cmocka_run_group_tests_name("bytes", tests, NULL, NULL);
}
