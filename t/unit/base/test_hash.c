/* CRC32C against published vectors and hardware against table; xxh3 against fixed values, since
 * keys are placed by it. */
#include "base/hash.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

/* RFC 3720, appendix B.4, and the usual check value. */
static void crc32c_gives_the_published_values(void **state)
{
    uint8_t bytes[32];

    assert_int_equal(hash_crc32c(0, "123456789", 9), 0xE3069283u);
    memset(bytes, 0, sizeof bytes);
    assert_int_equal(hash_crc32c(0, bytes, 32), 0x8A9136AAu);
    memset(bytes, 0xff, sizeof bytes);
    assert_int_equal(hash_crc32c(0, bytes, 32), 0x62A8AB43u);
    for (int i = 0; i < 32; i++) {
        bytes[i] = (uint8_t)i;
    }
    assert_int_equal(hash_crc32c(0, bytes, 32), 0x46DD794Eu);
    assert_int_equal(hash_crc32c_portable(0, bytes, 32), 0x46DD794Eu);
    assert_int_equal(hash_crc32c(0, NULL, 0), 0);
    assert_int_equal(hash_crc32c(77, NULL, 0), 77);
}

static void crc32c_is_the_same_in_hardware_and_by_table(void **state)
{
    uint8_t bytes[300];

    for (size_t i = 0; i < sizeof bytes; i++) {
        bytes[i] = (uint8_t)hash_u64(i);
    }
    for (size_t from = 0; from < 9; from++) {
        for (size_t size = 0; size + from <= sizeof bytes; size++) {
            uint32_t seed = (uint32_t)hash_u64(size);
            assert_int_equal(hash_crc32c(seed, bytes + from, size),
                             hash_crc32c_portable(seed, bytes + from, size));
        }
    }
}

/* Long enough for lanes of every length, several blocks of them, and every rest. */
static void crc32c_of_long_input_is_the_same_by_table(void **state)
{
    enum { SIZE = 20000 };
    uint8_t *bytes = malloc(SIZE);

    assert_non_null(bytes);
    for (size_t i = 0; i < SIZE; i++) {
        bytes[i] = (uint8_t)hash_u64(i);
    }
    for (size_t size = 300; size < SIZE; size += size < 4000 ? 1 : 997) {
        uint32_t seed = (uint32_t)hash_u64(size);
        assert_int_equal(hash_crc32c(seed, bytes + size % 7, size - size % 7),
                         hash_crc32c_portable(seed, bytes + size % 7, size - size % 7));
    }
    free(bytes);
}

static void crc32c_continues_over_pieces(void **state)
{
    static const char text[] = "the quick brown fox jumps over the lazy dog";
    uint32_t whole = hash_crc32c(0, text, sizeof text);

    for (size_t cut = 0; cut <= sizeof text; cut++) {
        assert_int_equal(hash_crc32c(hash_crc32c(0, text, cut), text + cut, sizeof text - cut),
                         whole);
    }
}

static void crc32c_of_joined_pieces_is_that_of_the_whole(void **state)
{
    enum { SIZE = 70000 };
    uint8_t *bytes = malloc(SIZE);

    assert_non_null(bytes);
    for (size_t i = 0; i < SIZE; i++) {
        bytes[i] = (uint8_t)hash_u64(i);
    }
    uint32_t whole = hash_crc32c(0, bytes, SIZE);
    for (size_t cut = 0; cut <= SIZE; cut += cut < 300 ? 1 : 1009) {
        uint32_t first = hash_crc32c(0, bytes, cut),
                 second = hash_crc32c(0, bytes + cut, SIZE - cut);
        assert_int_equal(hash_crc32c_join(first, second, SIZE - cut), whole);
        assert_int_equal(hash_crc32c_join_portable(first, second, SIZE - cut), whole);
    }
    for (int bit = 0; bit < 40; bit++) { /* sizes that nobody has memory for, too */
        size_t size = ((size_t)1 << bit) + 5;
        assert_int_equal(hash_crc32c_join(whole, 7, size),
                         hash_crc32c_join_portable(whole, 7, size));
    }
    free(bytes);
}

/* These values are on disk: a library that gives others would lose keys. From XXH3's published test
 * vectors. */
static void keys_hash_as_ever(void **state)
{
    assert_true(hash_bytes("", 0) == 0x2D06800538D394C2u);
    assert_true(hash_bytes(NULL, 0) == 0x2D06800538D394C2u);
    assert_true(hash_key(0, span_of_string("users/42")) == hash_bytes("users/42", 8));
    assert_true(hash_key(1, span_of_string("users/42")) != hash_bytes("users/42", 8));
    assert_true(hash_key(1, span_of_string("users/42")) != hash_key(2, span_of_string("users/42")));
}

static void integers_mix_without_collisions(void **state)
{
    unsigned buckets[16] = { 0 };

    for (uint64_t i = 0; i < 16000; i++) {
        buckets[hash_u64(i) >> 60]++;
        assert_true(hash_u64(i) != hash_u64(i + 1));
    }
    for (int i = 0; i < 16; i++) {
        assert_in_range(buckets[i], 850, 1150); /* 1000 ± 5 sigma */
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(crc32c_gives_the_published_values),
        cmocka_unit_test(crc32c_is_the_same_in_hardware_and_by_table),
        cmocka_unit_test(crc32c_of_long_input_is_the_same_by_table),
        cmocka_unit_test(crc32c_continues_over_pieces),
        cmocka_unit_test(crc32c_of_joined_pieces_is_that_of_the_whole),
        cmocka_unit_test(keys_hash_as_ever),
        cmocka_unit_test(integers_mix_without_collisions),
    };
    return cmocka_run_group_tests_name("hash", tests, NULL, NULL);
}
