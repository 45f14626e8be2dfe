/* A pool against a plain array: whatever is taken and given back at random, items are aligned, apart from each other and keep what is
 * written; memory follows what is taken, and nothing of it is left behind. */
#include "base/pool.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/hash.h"

enum { THINGS = 2000, ROUNDS = 100000, ITEM_BYTES = 170, ITEMS_A_CHUNK = 92 };

static void fill(uint8_t *item, uint64_t number)
{
    memset(item, (int)(number % 251), ITEM_BYTES);
    memcpy(item, &number, sizeof number);
}

static void assert_filled(const uint8_t *item, uint64_t number)
{
    uint8_t expected[ITEM_BYTES];
    fill(expected, number);
    assert_memory_equal(item, expected, ITEM_BYTES);
}

static void items_keep_what_is_written_until_they_are_given_back(void **state)
{
    static uint8_t *things[THINGS];
    struct pool pool;
    size_t used = 0;
    pool_init(&pool, ITEM_BYTES);
    for (uint64_t round = 0; round < ROUNDS; round++) {
        size_t at = hash_u64(round) % THINGS;
        if (things[at]) {
            assert_filled(things[at], at);
            pool_give(&pool, things[at]);
            things[at] = NULL;
            used--;
        } else {
            assert_non_null(things[at] = pool_try_take(&pool, NULL));
            assert_int_equal((uintptr_t)things[at] % 16, 0);
            fill(things[at], at);
            used++;
        }
    }
    assert_true(pool.chunk_count <=
                THINGS / ITEMS_A_CHUNK + 1); /* what was given back is used again */
    for (size_t at = 0; at < THINGS; at++) {
        if (things[at]) {
            assert_filled(things[at], at);
            pool_give(&pool, things[at]);
            things[at] = NULL;
        }
    }
    assert_int_equal(pool.chunk_count, 0);
    pool_fini(&pool);
}

static void memory_goes_back_with_what_was_in_it(void **state)
{
    static void *things[THINGS];
    struct pool pool;
    pool_init(&pool, ITEM_BYTES);
    for (size_t i = 0; i < THINGS; i++) {
        assert_non_null(things[i] = pool_try_take(&pool, NULL));
    }
    size_t most = pool.chunk_count;
    assert_true(most >= THINGS / ITEMS_A_CHUNK);
    for (size_t i = 0; i < THINGS / 2; i++) {
        pool_give(&pool, things[i]);
    }
    assert_true(pool.chunk_count <= most / 2 + 1);
    for (size_t i = 0; i < THINGS / 2; i++) { /* in what is left of a chunk, then in new ones */
        assert_non_null(pool_try_take(&pool, NULL));
    }
    assert_int_equal(pool.chunk_count, most);
    pool_fini(&pool); /* with all that is in it: the sanitizers see whether something stays */
    assert_int_equal(pool.chunk_count, 0);
}

static void a_refusal_changes_nothing(void **state)
{
    struct mem_gate gate = { .refuse_in = 1 };
    struct pool pool;
    pool_init(&pool, 1);
    assert_null(pool_try_take(&pool, &gate));
    assert_int_equal(pool.chunk_count, 0);
    uint8_t *one = pool_try_take(&pool, &gate);
    uint8_t *other = pool_try_take(&pool, &gate);
    assert_non_null(one);
    assert_true(other >= one + 16 || one >= other + 16);
    pool_give(&pool, one);
    assert_ptr_equal(pool_try_take(&pool, &gate), one);
    pool_fini(&pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(items_keep_what_is_written_until_they_are_given_back),
        cmocka_unit_test(memory_goes_back_with_what_was_in_it),
        cmocka_unit_test(a_refusal_changes_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
