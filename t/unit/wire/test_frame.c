/* The frame: round trips, every field wrong in turn, every truncation, every single damaged bit of
 * a header. Frames lie in memory of exactly their size, so that a sanitizer sees any read behind
 * them. */
#include "wire/frame.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/hash.h"
#include "base/limits.h"
#include "base/mem.h"

static const struct frame sample = {
    .type = FRAME_RESPONSE,
    .hops = 2,
    .verb = 6,
    .flags = FRAME_MORE,
    .status = ERR_NOT_FOUND,
    .request_id = 0x1122334455667788,
    .deadline_ms = 5000,
    .trace_id = 0x99aabbccddeeff00,
    .epoch = 17,
    .time = 0x0123456789abcdef,
    .message = { (const uint8_t *)"message", 7 },
    .payload = { (const uint8_t *)"the payload", 11 },
};

static struct buf pack(const struct frame *frame)
{
    struct buf buf = { 0 };

    frame_pack_head(frame, &buf);
    buf_append_span(&buf, frame->payload);
    return buf;
}

/* Parses a copy that ends where its memory ends. */
static int64_t parse_exact(const void *bytes, size_t size, struct frame *frame, size_t *need,
                           struct err *err)
{
    void *copy = mem_dup(bytes, size);
    int64_t result = frame_parse(span_of(copy, size), frame, need, err);

    mem_free(copy);
    return result;
}

static void assert_parses_to(const struct buf *buf, int64_t expected)
{
    struct frame frame = { .verb = 4711 };
    struct err err = { 0 };
    size_t need;

    assert_int_equal(parse_exact(buf->data, buf->size, &frame, &need, &err), expected);
    if (expected < 0) {
        assert_int_equal(err.code, expected);
        assert_true(err.text[0] != '\0');
        assert_int_equal(frame.verb, 4711); /* untouched */
    }
}

static void a_frame_survives_the_way(void **state)
{
    struct buf buf = pack(&sample);
    struct frame frame;
    size_t need;

    buf_append(&buf, "next", 4); /* the stream goes on */
    int64_t size = frame_parse(buf_span(&buf), &frame, &need, NULL);
    assert_int_equal(size, FRAME_HEADER_BYTES + 7 + 11);
    assert_int_equal(need, size);
    assert_int_equal(frame.type, sample.type);
    assert_int_equal(frame.hops, sample.hops);
    assert_int_equal(frame.verb, sample.verb);
    assert_int_equal(frame.flags, sample.flags);
    assert_int_equal(frame.status, sample.status);
    assert_true(frame.request_id == sample.request_id);
    assert_int_equal(frame.deadline_ms, sample.deadline_ms);
    assert_true(frame.trace_id == sample.trace_id);
    assert_true(frame.epoch == sample.epoch);
    assert_true(frame.time == sample.time);
    assert_true(span_equal(frame.message, sample.message));
    assert_true(span_equal(frame.payload, sample.payload));
    buf_fini(&buf);
}

/* The offsets are a promise to other builds. */
static void the_fields_stand_where_the_format_says(void **state)
{
    struct buf buf = pack(&sample);

    assert_memory_equal(buf.data, "CRN1\x01\x04", 6);
    assert_int_equal(get_u16(buf.data + 6), 6);
    assert_int_equal(get_u16(buf.data + 8), FRAME_MORE);
    assert_int_equal(buf.data[10], 2);
    assert_int_equal((int32_t)get_u32(buf.data + 12), ERR_NOT_FOUND);
    assert_int_equal(get_u32(buf.data + 16), 7);
    assert_int_equal(get_u32(buf.data + 20), 11);
    assert_true(get_u64(buf.data + 24) == sample.request_id);
    assert_int_equal(get_u32(buf.data + 32), 5000);
    assert_int_equal(get_u32(buf.data + 36), hash_crc32c(0, "messagethe payload", 18));
    assert_true(get_u64(buf.data + 40) == sample.trace_id);
    assert_true(get_u64(buf.data + 48) == sample.epoch);
    assert_true(get_u64(buf.data + 56) == sample.time);
    assert_int_equal(get_u32(buf.data + 68), hash_crc32c(0, buf.data, 68));
    buf_fini(&buf);
}

static void a_frame_may_be_empty(void **state)
{
    struct frame empty = { .type = FRAME_HELLO };
    struct buf buf = pack(&empty);

    assert_int_equal(buf.size, FRAME_HEADER_BYTES);
    assert_parses_to(&buf, FRAME_HEADER_BYTES);
    buf_fini(&buf);
}

static void pieces_pack_like_a_whole(void **state)
{
    struct buf whole = pack(&sample);
    struct buf pieces = { 0 };
    size_t at;

    buf_append(&pieces, "before", 6);
    uint32_t crc = frame_pack_begin(&sample, sample.payload.size, &pieces, &at);
    assert_int_equal(at, 6);
    crc = hash_crc32c(crc, "the ", 4);
    crc = hash_crc32c(crc, "payload", 7);
    frame_pack_finish(&pieces, at, crc);
    buf_append(&pieces, "the payload", 11);
    buf_consume(&pieces, 6);
    assert_true(span_equal(buf_span(&pieces), buf_span(&whole)));
    buf_fini(&pieces);
    buf_fini(&whole);
}

static void a_cut_frame_is_incomplete_at_every_byte(void **state)
{
    struct buf buf = pack(&sample);
    struct frame frame;
    size_t need;

    for (size_t size = 0; size < buf.size; size++) {
        assert_int_equal(parse_exact(buf.data, size, &frame, &need, NULL), 0);
        assert_int_equal(need, size < FRAME_HEADER_BYTES ? FRAME_HEADER_BYTES : buf.size);
    }
    buf_fini(&buf);
}

static void every_damaged_bit_is_found(void **state)
{
    struct buf buf = pack(&sample);
    struct frame frame;
    size_t need;

    for (size_t bit = 0; bit < buf.size * 8; bit++) {
        buf.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        int64_t result = parse_exact(buf.data, buf.size, &frame, &need, NULL);
        int64_t expected = bit < 32 ? ERR_PROTOCOL : bit < 40 ? ERR_PROTOCOL_VERSION : ERR_CHECKSUM;
        assert_int_equal(result, expected);
        buf.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    assert_parses_to(&buf, (int64_t)buf.size);
    buf_fini(&buf);
}

/* One bad field with a right checksum: what a faulty or hostile peer sends. */
static void assert_field_refused(size_t at, const void *bytes, size_t size, int expected)
{
    struct buf buf = pack(&sample);

    memcpy(buf.data + at, bytes, size);
    put_u32(buf.data + 68, hash_crc32c(0, buf.data, 68));
    assert_parses_to(&buf, expected);
    buf.size = FRAME_HEADER_BYTES; /* the header alone suffices to refuse it */
    assert_parses_to(&buf, expected);
    buf_fini(&buf);
}

static void assert_sizes_refused(uint32_t message_bytes, uint32_t payload_bytes)
{
    uint8_t sizes[8];

    put_u32(sizes, message_bytes);
    put_u32(sizes + 4, payload_bytes);
    assert_field_refused(16, sizes, 8, ERR_FRAME_TOO_LARGE);
}

static void bad_fields_are_refused_by_the_header_alone(void **state)
{
    assert_field_refused(0, "CRN2", 4, ERR_PROTOCOL);
    assert_field_refused(0, "GET ", 4, ERR_PROTOCOL);
    assert_field_refused(4, "\x00", 1, ERR_PROTOCOL_VERSION);
    assert_field_refused(4, "\x02", 1, ERR_PROTOCOL_VERSION);
    assert_field_refused(5, "\x00", 1, ERR_PROTOCOL);
    assert_field_refused(5, "\x06", 1, ERR_PROTOCOL);
    assert_field_refused(5, "\xff", 1, ERR_PROTOCOL);
    assert_field_refused(11, "\x01", 1, ERR_PROTOCOL);
    assert_field_refused(12, "\x01\x00\x00\x00", 4, ERR_PROTOCOL);
    assert_field_refused(64, "\x01\x00\x00\x00", 4, ERR_PROTOCOL);
    assert_field_refused(64, "\x00\x00\x00\x80", 4, ERR_PROTOCOL);
    assert_sizes_refused(LIMIT_MESSAGE_BYTES + 1, 0);
    assert_sizes_refused(UINT32_MAX, 0);
    assert_sizes_refused(0, UINT32_MAX);
    assert_sizes_refused(UINT32_MAX, UINT32_MAX); /* their sum wraps in 32 bits */
    assert_sizes_refused(0, LIMIT_FRAME_BYTES - FRAME_HEADER_BYTES + 1);
    assert_sizes_refused(1, LIMIT_FRAME_BYTES - FRAME_HEADER_BYTES);
}

static void the_largest_frame_is_accepted(void **state)
{
    struct frame frame = { .type = FRAME_REQUEST };
    struct frame parsed;
    struct buf buf = { 0 };
    size_t payload_bytes = LIMIT_FRAME_BYTES - FRAME_HEADER_BYTES - LIMIT_MESSAGE_BYTES;
    uint8_t *bytes = mem_zalloc(LIMIT_FRAME_BYTES);
    size_t need;

    frame.message = span_of(bytes, LIMIT_MESSAGE_BYTES);
    frame.payload = span_of(bytes, payload_bytes);
    frame_pack_head(&frame, &buf);
    assert_int_equal(frame_parse(span_of(buf.data, FRAME_HEADER_BYTES), &parsed, &need, NULL), 0);
    assert_int_equal(need, LIMIT_FRAME_BYTES);
    buf_append_span(&buf, frame.payload);
    assert_int_equal(frame_parse(buf_span(&buf), &parsed, &need, NULL), LIMIT_FRAME_BYTES);
    buf_fini(&buf);
    mem_free(bytes);
}

/* Somebody speaks HTTP to the port: no need to wait for 72 bytes of it. */
static void rubbish_is_refused_from_its_first_byte(void **state)
{
    struct frame frame;
    size_t need;

    assert_int_equal(frame_parse(span_of_string("G"), &frame, &need, NULL), ERR_PROTOCOL);
    assert_int_equal(frame_parse(span_of_string("CRX"), &frame, &need, NULL), ERR_PROTOCOL);
    assert_int_equal(frame_parse(span_of_string("CRN1\x09"), &frame, &need, NULL),
                     ERR_PROTOCOL_VERSION);
    assert_int_equal(frame_parse((struct span){ NULL, 0 }, &frame, &need, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_frame_survives_the_way),
        cmocka_unit_test(the_fields_stand_where_the_format_says),
        cmocka_unit_test(a_frame_may_be_empty),
        cmocka_unit_test(pieces_pack_like_a_whole),
        cmocka_unit_test(a_cut_frame_is_incomplete_at_every_byte),
        cmocka_unit_test(every_damaged_bit_is_found),
        cmocka_unit_test(bad_fields_are_refused_by_the_header_alone),
        cmocka_unit_test(the_largest_frame_is_accepted),
        cmocka_unit_test(rubbish_is_refused_from_its_first_byte),
    };
    return cmocka_run_group_tests_name("frame", tests, NULL, NULL);
}
