/* Shows when a node takes its disk for the slow one, and when for well again: times in ms from the
 * start of each test. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "node/disks.h"

enum { TICK_MS = 10 };

struct story {
    struct disks disks;
    uint64_t now_ms, changes;
};

/* So much time passes with the own batches taking own_us and two other nodes' a_us and b_us. */
static void pass(struct story *story, uint64_t ms, uint64_t own_us, uint64_t a_us, uint64_t b_us)
{
    uint64_t others_us[] = { a_us, b_us }, end_ms = story->now_ms + ms;
    for (; story->now_ms < end_ms; story->now_ms += TICK_MS) {
        story->changes += disks_look(&story->disks, story->now_ms * 1000 + 1, own_us, others_us, 2);
    }
}

static void much_slower_for_long_is_slow(void **state)
{
    struct story story = { 0 };
    pass(&story, 1400, 50000, 500, 600);
    assert_false(story.disks.is_slow);
    pass(&story, 300, 50000, 500, 600);
    assert_true(story.disks.is_slow);
    assert_int_equal(story.disks.middle_us, 600);
    assert_int_equal(story.changes, 1);
}

static void a_stall_is_not(void **state)
{
    struct story story = { 0 };
    for (int i = 0; i < 20; i++) {
        pass(&story, 1000, 50000, 500, 600);
        pass(&story, 20, 500, 500, 600);
    }
    assert_int_equal(story.changes, 0);
}

static void neither_is_ten_times_hardly_anything(void **state)
{
    struct story story = { 0 };
    pass(&story, 10000, 5000, 100, 100); /* nobody feels 5 ms */
    pass(&story, 10000, 90000, 10000, 10000);
    assert_int_equal(story.changes, 0);
    pass(&story, 2000, 110000, 10000, 10000);
    assert_true(story.disks.is_slow);
}

static void where_most_are_slow_nobody_is(void **state)
{
    struct story story = { 0 };
    pass(&story, 10000, 50000, 500, 50000);
    pass(&story, 10000, 50000, 50000, 50000);
    assert_int_equal(story.changes, 0);
}

static void who_hears_nobody_compares_with_nobody(void **state)
{
    struct story story = { 0 };
    pass(&story, 10000, 500000, 0, 0);
    assert_int_equal(story.changes, 0);
    assert_false(disks_look(&story.disks, 1, 500000, NULL, 0));
    pass(&story, 2000, 500000, 500, 0); /* one of two */
    assert_true(story.disks.is_slow);
}

static void well_again_takes_longer(void **state)
{
    struct story story = { 0 };
    pass(&story, 2000, 50000, 500, 600);
    assert_true(story.disks.is_slow);
    pass(&story, 9000, 600, 500, 600);
    pass(&story, 20, 50000, 500, 600);
    pass(&story, 9000, 600, 500, 600);
    assert_true(story.disks.is_slow);
    pass(&story, 1100, 600, 500, 600);
    assert_false(story.disks.is_slow);
    assert_int_equal(story.changes, 2);
}

static void better_is_not_well(void **state)
{
    struct story story = { 0 };
    pass(&story, 2000, 50000, 500, 600);
    pass(&story, 60000, 5500, 500, 600); /* not far behind, and not near */
    assert_true(story.disks.is_slow);
    pass(&story, 20, 4000, 500, 600);
    assert_false(story.disks.is_slow);
}

/* The others became as slow as it is. */
static void there_is_nothing_to_wait_for_when_all_are_slow(void **state)
{
    struct story story = { 0 };
    pass(&story, 2000, 50000, 500, 600);
    pass(&story, 11000, 50000, 50000, 50000);
    assert_false(story.disks.is_slow);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(much_slower_for_long_is_slow),
        cmocka_unit_test(a_stall_is_not),
        cmocka_unit_test(neither_is_ten_times_hardly_anything),
        cmocka_unit_test(where_most_are_slow_nobody_is),
        cmocka_unit_test(who_hears_nobody_compares_with_nobody),
        cmocka_unit_test(well_again_takes_longer),
        cmocka_unit_test(better_is_not_well),
        cmocka_unit_test(there_is_nothing_to_wait_for_when_all_are_slow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
