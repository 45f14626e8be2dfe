/* The hash table against a plain array as model, under a long random mix of calls. */
#include "base/hashtab.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/hash.h"

enum { KEYS = 512 };

static void it_agrees_with_a_model(void **state)
{
    struct hashtab table = { 0 };
    int values[8];
    void *model[KEYS] = { NULL };
    size_t count = 0;

    for (uint64_t step = 0; step < 200000; step++) {
        uint64_t random = hash_u64(step);
        uint64_t key = random % KEYS;
        /* Phases that fill and phases that empty. */
        unsigned puts = step / 5000 % 2 ? 30 : 70;
        if (random / KEYS % 100 < puts) {
            void *value = &values[random >> 32 & 7];
            assert_ptr_equal(hashtab_put(&table, key * 0x10001, value), model[key]);
            count += !model[key];
            model[key] = value;
        } else {
            assert_ptr_equal(hashtab_take(&table, key * 0x10001), model[key]);
            count -= model[key] != NULL;
            model[key] = NULL;
        }
        assert_int_equal(table.count, count);
        uint64_t other = random >> 40 & (KEYS - 1);
        assert_ptr_equal(hashtab_find(&table, other * 0x10001), model[other]);
    }
    assert_true(table.capacity <= 2048); /* taking and putting does not make it grow */
    hashtab_fini(&table);
}

static void an_empty_table_answers(void **state)
{
    struct hashtab table = { 0 };
    size_t position = 0;

    assert_null(hashtab_find(&table, 1));
    assert_null(hashtab_take(&table, 1));
    assert_null(hashtab_next(&table, &position, NULL));
    hashtab_fini(&table);
}

static void any_integer_is_a_key(void **state)
{
    struct hashtab table = { 0 };
    static const uint64_t keys[] = { 0, 1, UINT64_MAX, UINT64_MAX - 1, 1ull << 63 };
    int values[5];

    for (int i = 0; i < 5; i++) {
        assert_null(hashtab_put(&table, keys[i], &values[i]));
    }
    for (int i = 0; i < 5; i++) {
        assert_ptr_equal(hashtab_find(&table, keys[i]), &values[i]);
    }
    hashtab_fini(&table);
}

static void iteration_sees_every_pair_once_and_may_take(void **state)
{
    struct hashtab table = { 0 };
    char seen[1000] = { 0 };
    size_t position = 0;
    uint64_t key;
    void *value;

    for (uint64_t i = 0; i < 1000; i++) {
        hashtab_put(&table, i, &seen[i]);
    }
    while ((value = hashtab_next(&table, &position, &key))) {
        assert_ptr_equal(value, &seen[key]);
        assert_int_equal(seen[key]++, 0);
        if (key % 2) {
            assert_ptr_equal(hashtab_take(&table, key), value);
        }
    }
    for (int i = 0; i < 1000; i++) {
        assert_int_equal(seen[i], 1);
        assert_int_equal(hashtab_find(&table, (uint64_t)i) != NULL, i % 2 == 0);
    }
    assert_int_equal(table.count, 500);
    hashtab_fini(&table);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_agrees_with_a_model),
        cmocka_unit_test(an_empty_table_answers),
        cmocka_unit_test(any_integer_is_a_key),
        cmocka_unit_test(iteration_sees_every_pair_once_and_may_take),
    };
    return cmocka_run_group_tests_name("hashtab", tests, NULL, NULL);
}
