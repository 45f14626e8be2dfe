/* Slots against a plain array: whatever is put and taken at random, each id names its value until it is taken, and nothing after. */
#include "base/slots.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/hash.h"

enum { THINGS = 300, ROUNDS = 100000 };

static uint64_t put(struct slots *slots, void *value)
{
    assert_true(slots_try_reserve(slots, NULL));
    return slots_put(slots, value);
}

static void ids_name_their_values_until_they_are_taken(void **state)
{
    static uint8_t things[THINGS];
    uint64_t ids[THINGS] = { 0 }, old[THINGS] = { 0 };
    struct slots slots = { 0 };
    size_t used = 0;
    assert_null(slots_find(&slots, 0));
    assert_null(slots_take(&slots, 1 << 24));
    for (uint64_t round = 0; round < ROUNDS; round++) {
        size_t at = hash_u64(round) % THINGS;
        assert_ptr_equal(slots_find(&slots, ids[at]), ids[at] ? &things[at] : NULL);
        assert_null(slots_find(&slots, old[at]));
        assert_null(slots_take(&slots, old[at]));
        if (ids[at]) {
            assert_ptr_equal(slots_take(&slots, ids[at]), &things[at]);
            old[at] = ids[at];
            ids[at] = 0;
            used--;
        } else {
            ids[at] = put(&slots, &things[at]);
            assert_int_not_equal(ids[at], 0);
            assert_int_not_equal(ids[at], old[at]);
            used++;
        }
        assert_int_equal(slots.count, used);
    }
    assert_true(slots.capacity <= 512); /* what was given back is used again */
    size_t position = 0, found = 0;
    for (uint8_t *thing; (thing = slots_next(&slots, &position)); found++) {
        assert_ptr_equal(slots_take(&slots, ids[thing - things]), thing);
    }
    assert_int_equal(found, used);
    assert_int_equal(slots.count, 0);
    slots_fini(&slots);
    assert_null(slots_find(&slots, 1));
}

static void any_number_may_be_asked_for(void **state)
{
    struct slots slots = { 0 };
    int thing;
    uint64_t id = put(&slots, &thing), hits = 0;
    for (uint64_t round = 0; round < ROUNDS; round++) {
        uint64_t any = hash_u64(round) >> round % 64;
        assert_true(slots_find(&slots, any) == (any == id ? &thing : NULL));
        hits += slots_find(&slots, id ^ 1ull << round % 64) != NULL;
    }
    assert_int_equal(hits, 0);
    slots_fini(&slots);
}

static void the_last_used_is_used_again(void **state)
{
    struct slots slots = { 0 };
    int thing;
    uint64_t first = put(&slots, &thing);
    for (int i = 0; i < 1000; i++) {
        uint64_t id = put(&slots, &thing);
        assert_ptr_equal(slots_take(&slots, id), &thing);
        assert_null(slots_take(&slots, id));
    }
    assert_int_equal(slots.capacity, 16);
    assert_ptr_equal(slots_find(&slots, first), &thing);
    slots_fini(&slots);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_name_their_values_until_they_are_taken),
        cmocka_unit_test(any_number_may_be_asked_for),
        cmocka_unit_test(the_last_used_is_used_again),
    };
    return cmocka_run_group_tests_name("slots", tests, NULL, NULL);
}
