/* Commands: what is packed comes back; every damaged byte and every cut is noticed; one meaning has
 * one encoding. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/hash.h"
#include "base/limits.h"
#include "store/command.h"

#include "attributes_equal.h"

static struct command full_put(void)
{
    return (struct command){ .type = COMMAND_PUT,
                             .feature_level = 7,
                             .time = 0x1122334455667788,
                             .session = { 1, 2 },
                             .number = 3,
                             .lowest = 2,
                             .client_time = 99,
                             .condition = CONDITION_VERSION,
                             .condition_version = 41,
                             .attributes = { .mask = ATTRIBUTE_ALL,
                                             .mode = 0644,
                                             .uid = 5,
                                             .gid = 6,
                                             .flags = RECORD_DIRECTORY,
                                             .mtime_us = 7,
                                             .expires_at_us = 8 },
                             .key = span_of_string("users/42"),
                             .value = span_of_string("a value") };
}

static void put_comes_back_whole(void **state)
{
    (void)state;
    struct command in = full_put(), out;
    struct blob *blob = command_pack(&in);
    assert_int_equal(blob->size, 24 + 40 + 16 + 40 + 8 + 7);
    assert_int_equal(command_unpack(blob_span(blob), &out, NULL), 0);
    assert_int_equal(out.type, in.type);
    assert_int_equal(out.feature_level, 7);
    assert_int_equal(out.time, in.time);
    assert_int_equal(out.session.high, 1);
    assert_int_equal(out.session.low, 2);
    assert_int_equal(out.number, 3);
    assert_int_equal(out.lowest, 2);
    assert_int_equal(out.client_time, 99);
    assert_int_equal(out.condition, CONDITION_VERSION);
    assert_int_equal(out.condition_version, 41);
    assert_attributes_equal(&out.attributes, &in.attributes);
    assert_true(span_equal(out.key, in.key));
    assert_true(span_equal(out.value, in.value));
    assert_int_equal(out.checksum, record_content_checksum(in.key, in.value));
    blob_unref(blob);
}

static void session_and_key_are_seen_at_a_glance(void **state)
{
    (void)state;
    struct session_id session;
    struct span key;
    struct command in = full_put();
    struct blob *blob = command_pack(&in);
    assert_true(command_peek(blob, &session, &key));
    assert_true(session.high == 1 && session.low == 2 && span_equal(key, in.key));
    blob->size -= 7 + 1; /* the value's bytes and one of the key's are missing */
    assert_false(command_peek(blob, &session, &key));
    blob_unref(blob);
    in.number = 0;
    blob = command_pack(&in);
    assert_true(command_peek(blob, &session, &key));
    assert_true(session.high == 0 && session.low == 0 && span_equal(key, in.key));
    blob_unref(blob);
    blob = command_pack(&(struct command){ .type = COMMAND_FENCE, .time = 1 });
    assert_false(command_peek(blob, &session, &key));
    blob_unref(blob);
}

static void bare_commands_are_small(void **state)
{
    (void)state;
    struct command put = { .type = COMMAND_PUT, .time = 1, .key = span_of_string("k") }, out;
    struct blob *blob = command_pack(&put);
    assert_int_equal(blob->size, 25);
    assert_int_equal(command_unpack(blob_span(blob), &out, NULL), 0);
    assert_int_equal(out.number, 0);
    assert_int_equal(out.condition, CONDITION_NONE);
    assert_int_equal(out.attributes.mask, 0);
    assert_int_equal(out.value.size, 0);
    blob_unref(blob);

    struct command fence = { .type = COMMAND_FENCE, .time = 5 };
    blob = command_pack(&fence);
    assert_int_equal(blob->size, 24);
    command_set_time(blob, 77);
    assert_int_equal(command_unpack(blob_span(blob), &out, NULL), 0);
    assert_int_equal(out.type, COMMAND_FENCE);
    assert_int_equal(out.time, 77);
    blob->data[0] = COMMAND_MARK;
    assert_int_equal(command_unpack(blob_span(blob), &out, NULL), 0);
    assert_int_equal(out.type, COMMAND_MARK);
    blob_unref(blob);
}

/* The sum that a command's maker or receiver noted stands for reading its bytes again. */
static void sums_are_taken_over(void **state)
{
    (void)state;
    static const uint8_t value[BLOB_SUM_MIN] = { 1, 2, 3 };
    struct command in = full_put(), out;
    in.value = span_of(value, sizeof value);
    struct blob *blob = command_pack(&in);
    assert_false(blob->is_summed);
    command_set_time(blob, 123456);
    assert_true(blob->is_summed);
    assert_int_equal(blob->crc, hash_crc32c(0, blob->data, blob->size));
    assert_int_equal(command_unpack_blob(blob, &out, NULL), 0);
    assert_true(span_equal(out.value, in.value));
    for (size_t at = 0; at < blob->size; at++) { /* received so, and summed */
        blob->data[at] ^= 0x10;
        blob->crc = hash_crc32c(0, blob->data, blob->size);
        bool is_refused = command_unpack_blob(blob, &out, NULL) != 0;
        assert_int_equal(is_refused, command_unpack(blob_span(blob), &out, NULL) != 0);
        blob->data[at] ^= 0x10;
    }
    blob_unref(blob);
}

static void attributes_outside_the_mask_are_not_packed(void **state)
{
    (void)state;
    struct command in = full_put(), out;
    in.attributes.mask = ATTRIBUTE_UID;
    struct blob *blob = command_pack(&in);
    assert_int_equal(command_unpack(blob_span(blob), &out, NULL), 0);
    assert_int_equal(out.attributes.mask, ATTRIBUTE_UID);
    assert_int_equal(out.attributes.uid, 5);
    assert_int_equal(out.attributes.mode, 0);
    assert_int_equal(out.attributes.mtime_us, 0);
    blob_unref(blob);
}

static void largest_key_and_value_fit(void **state)
{
    (void)state;
    struct blob *value = blob_new(LIMIT_VALUE_BYTES);
    memset(value->data, 'v', value->size);
    uint8_t key[LIMIT_KEY_BYTES];
    memset(key, 'k', sizeof key);
    struct command in = full_put(), out;
    in.key = span_of(key, sizeof key);
    in.value = blob_span(value);
    struct blob *blob = command_pack(&in);
    assert_int_equal(command_unpack(blob_span(blob), &out, NULL), 0);
    assert_true(span_equal(out.value, in.value));
    blob_unref(blob);
    blob_unref(value);
}

/* Every cut and every flipped bit is an error, except in fields without redundancy (feature level,
 * time, session numbers, the version of a condition, attributes): those the log's checksum covers.
 * */
static void damage_is_noticed(void **state)
{
    (void)state;
    struct command in = full_put(), out;
    struct blob *blob = command_pack(&in);
    for (size_t size = 0; size < blob->size; size++) {
        assert_true(command_unpack(span_of(blob->data, size), &out, NULL) < 0);
    }
    for (size_t bit = 0; bit < 8 * (size_t)blob->size; bit++) {
        blob->data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        int rc = command_unpack(blob_span(blob), &out, NULL);
        size_t byte = bit / 8;
        bool is_free = byte == 2 || byte == 3 || (byte >= 16 && byte < 24 + 40 + 16 + 40);
        assert_true(rc == ERR_CORRUPT || rc == ERR_FORMAT || (rc == 0 && (is_free || byte == 0)));
        blob->data[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    assert_int_equal(command_unpack(blob_span(blob), &out, NULL), 0);
    blob_unref(blob);
}

static void expect(struct blob *blob, int code)
{
    struct command out;
    struct err err;
    assert_int_equal(command_unpack(blob_span(blob), &out, &err), code);
    assert_int_equal(err.code, code);
}

static void unknown_forms_are_told_from_damage(void **state)
{
    (void)state;
    struct command in = full_put();
    struct blob *blob = command_pack(&in);
    blob->data[0] = 0;
    expect(blob, ERR_FORMAT);
    blob->data[0] = COMMAND_MARK + 1;
    expect(blob, ERR_FORMAT);
    blob->data[0] = COMMAND_PUT;
    blob->data[1] = COMMAND_VERSION + 1;
    expect(blob, ERR_FORMAT);
    blob->data[1] = COMMAND_VERSION;
    blob->data[0] = COMMAND_DELETE; /* with a value */
    expect(blob, ERR_CORRUPT);
    blob->data[0] = COMMAND_PUT;
    blob->data[24 + 40 + 1] = 1; /* behind the condition */
    expect(blob, ERR_CORRUPT);
    blob->data[24 + 40 + 1] = 0;
    blob->data[24 + 40] = CONDITION_ABSENT; /* with a version */
    expect(blob, ERR_CORRUPT);
    blob->data[24 + 40] = CONDITION_VERSION;
    put_u64(blob->data + 24 + 16, 0); /* a session without a number */
    expect(blob, ERR_CORRUPT);
    put_u64(blob->data + 24 + 16, 3);
    put_u32(blob->data + 24 + 40 + 16, 64); /* an unknown attribute */
    expect(blob, ERR_CORRUPT);
    put_u32(blob->data + 24 + 40 + 16, ATTRIBUTE_MODE); /* the others are not zero */
    expect(blob, ERR_CORRUPT);
    blob_unref(blob);
}

/* A key one byte too long, and none at all, in bytes that are otherwise sound. */
static void key_sizes_are_checked(void **state)
{
    (void)state;
    for (size_t size = 0; size <= LIMIT_KEY_BYTES + 1; size += LIMIT_KEY_BYTES + 1) {
        struct blob *blob = blob_new(24 + size);
        memset(blob->data, 0, blob->size);
        blob->data[0] = COMMAND_PUT;
        blob->data[1] = COMMAND_VERSION;
        put_u16(blob->data + 6, (uint16_t)size);
        put_u32(blob->data + 12, hash_crc32c(0, blob->data + 24, size));
        expect(blob, ERR_CORRUPT);
        blob_unref(blob);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(put_comes_back_whole),
        cmocka_unit_test(session_and_key_are_seen_at_a_glance),
        cmocka_unit_test(bare_commands_are_small),
        cmocka_unit_test(sums_are_taken_over),
        cmocka_unit_test(attributes_outside_the_mask_are_not_packed),
        cmocka_unit_test(largest_key_and_value_fit),
        cmocka_unit_test(damage_is_noticed),
        cmocka_unit_test(unknown_forms_are_told_from_damage),
        cmocka_unit_test(key_sizes_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
