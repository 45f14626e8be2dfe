/* Shows when a node takes its disk for the slow one, and when for well again, by its log's batches and by
 * its flushes: times in ms from the start of each test. */
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
        story->changes +=
            disks_look_log(&story->disks, story->now_ms * 1000 + 1, own_us, others_us, 2);
    }
}

static void much_slower_for_long_is_slow(void **state)
{
    struct story story = { 0 };
    pass(&story, 1400, 50000, 500, 600);
    assert_false(story.disks.log.is_slow);
    pass(&story, 300, 50000, 500, 600);
    assert_true(story.disks.log.is_slow);
    assert_int_equal(story.disks.log.middle_us, 600);
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
    assert_true(story.disks.log.is_slow);
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
    assert_false(disks_look_log(&story.disks, 1, 500000, NULL, 0));
    pass(&story, 2000, 500000, 500, 0); /* one of two */
    assert_true(story.disks.log.is_slow);
}

static void well_again_takes_longer(void **state)
{
    struct story story = { 0 };
    pass(&story, 2000, 50000, 500, 600);
    assert_true(story.disks.log.is_slow);
    pass(&story, 9000, 600, 500, 600);
    pass(&story, 600, 50000, 500, 600);
    pass(&story, 9000, 600, 500, 600);
    assert_true(story.disks.log.is_slow);
    pass(&story, 1100, 600, 500, 600);
    assert_false(story.disks.log.is_slow);
    assert_int_equal(story.changes, 2);
}

static void a_stall_does_not_keep_from_being_well(void **state)
{
    struct story story = { 0 };
    pass(&story, 2000, 50000, 500, 600);
    for (int i = 0; i < 3; i++) {
        pass(&story, 3000, 600, 500, 600);
        assert_true(story.disks.log.is_slow);
        pass(&story, 400, 50000, 500, 600);
    }
    assert_true(story.disks.log.is_slow); /* 10 s are over, but not now */
    pass(&story, 20, 600, 500, 600);
    assert_false(story.disks.log.is_slow);
    pass(&story, 1400, 50000, 500, 600);
    assert_false(story.disks.log.is_slow);
}

/* The longest one by a look, and one that is longer by as little: then the ten seconds begin anew. */
static void half_a_second_is_no_stall(void **state)
{
    for (int is_longer = 0; is_longer < 2; is_longer++) {
        struct story story = { 0 };
        pass(&story, 2000, 50000, 500, 600);
        pass(&story, 5000, 600, 500, 600);
        pass(&story, 500 + is_longer * TICK_MS, 50000, 500, 600);
        pass(&story, 6000, 600, 500, 600);
        assert_int_equal(story.disks.log.is_slow, is_longer);
        pass(&story, 4100, 600, 500, 600);
        assert_false(story.disks.log.is_slow);
    }
}

static void better_is_not_well(void **state)
{
    struct story story = { 0 };
    pass(&story, 2000, 50000, 500, 600);
    pass(&story, 60000, 5500, 500, 600); /* not far behind, and not near */
    assert_true(story.disks.log.is_slow);
    pass(&story, 20, 4000, 500, 600);
    assert_false(story.disks.log.is_slow);
}

/* The others became as slow as it is. */
static void there_is_nothing_to_wait_for_when_all_are_slow(void **state)
{
    struct story story = { 0 };
    pass(&story, 2000, 50000, 500, 600);
    pass(&story, 11000, 50000, 50000, 50000);
    assert_false(story.disks.log.is_slow);
}

enum { SECOND_MS = 1000, SECOND_US = 1000 * 1000 };

/* The same with flushes: the own one hangs from now on, and is felt. */
static void hang(struct story *story, uint64_t ms, bool is_felt, uint64_t a_us, uint64_t b_us)
{
    uint64_t others_us[] = { a_us, b_us }, begin_ms = story->now_ms, end_ms = begin_ms + ms;
    for (; story->now_ms < end_ms; story->now_ms += TICK_MS) {
        uint64_t own_us = (story->now_ms - begin_ms) * 1000;
        story->changes += disks_look_flush(&story->disks, story->now_ms * 1000 + 1, own_us, is_felt,
                                           others_us, 2);
    }
}

/* Flushes come and go; each takes own_us. */
static void flush(struct story *story, uint64_t ms, uint64_t own_us, bool is_felt, uint64_t a_us,
                  uint64_t b_us)
{
    uint64_t others_us[] = { a_us, b_us }, end_ms = story->now_ms + ms;
    for (; story->now_ms < end_ms; story->now_ms += TICK_MS) {
        story->changes += disks_look_flush(&story->disks, story->now_ms * 1000 + 1, own_us, is_felt,
                                           others_us, 2);
    }
}

static void a_flush_that_hangs_is_slow(void **state)
{
    struct story story = { 0 };
    hang(&story, 3500, true, 200000, 100000); /* far from 2.2 s on */
    assert_false(disks_is_slow(&story.disks));
    hang(&story, 4 * SECOND_MS, true, 200000, 100000);
    assert_true(story.disks.flush.is_slow);
    assert_true(disks_is_slow(&story.disks));
    assert_false(story.disks.log.is_slow);
    assert_int_equal(story.changes, 1);
}

static void who_is_not_felt_is_not_slow(void **state)
{
    struct story story = { 0 };
    hang(&story, 60 * SECOND_MS, false, 200000, 100000);
    assert_int_equal(story.changes, 0);
    flush(&story, 1600, 60 * SECOND_US, true, 200000, 100000);
    assert_true(story.disks.flush.is_slow);
}

/* All flushes take seconds: whoever is behind at the moment is so by chance. */
static void where_all_flush_slowly_nobody_is_slow(void **state)
{
    struct story story = { 0 };
    for (int i = 0; i < 20; i++) {
        hang(&story, 8 * SECOND_MS, true, 3 * SECOND_US, 4 * SECOND_US);
    }
    hang(&story, 60 * SECOND_MS, true, 100000, 90 * SECOND_US); /* another one's hangs, too */
    assert_int_equal(story.changes, 0);
}

static void who_hears_of_no_flush_compares_with_none(void **state)
{
    struct story story = { 0 };
    hang(&story, 60 * SECOND_MS, true, 0, 0);
    assert_int_equal(story.changes, 0);
}

/* Slow as ever, but with less to write: the next burst would be felt. */
static void slow_flushes_that_are_not_felt_are_not_well(void **state)
{
    struct story story = { 0 };
    flush(&story, 2 * SECOND_MS, 8 * SECOND_US, true, 200000, 100000);
    assert_true(story.disks.flush.is_slow);
    flush(&story, 60 * SECOND_MS, 8 * SECOND_US, false, 200000, 100000);
    assert_true(story.disks.flush.is_slow);
    flush(&story, 20, 900000, false, 200000, 100000);
    assert_false(story.disks.flush.is_slow);
}

static void flushes_are_well_after_ten_seconds(void **state)
{
    struct story story = { 0 };
    flush(&story, 2 * SECOND_MS, 8 * SECOND_US, true, 200000, 100000);
    flush(&story, 9 * SECOND_MS, 200000, true, 200000, 100000);
    flush(&story, 600, 8 * SECOND_US, true, 200000, 100000);
    flush(&story, 9 * SECOND_MS, 200000, true, 200000, 100000);
    assert_true(story.disks.flush.is_slow);
    flush(&story, 1100, 200000, true, 200000, 100000);
    assert_false(story.disks.flush.is_slow);
    assert_int_equal(story.changes, 2);
}

static void a_stall_does_not_keep_flushes_from_being_well(void **state)
{
    struct story story = { 0 };
    flush(&story, 2 * SECOND_MS, 8 * SECOND_US, true, 200000, 100000);
    for (int i = 0; i < 3; i++) {
        flush(&story, 3 * SECOND_MS, 200000, true, 200000, 100000);
        assert_true(story.disks.flush.is_slow);
        flush(&story, 400, 8 * SECOND_US, true, 200000, 100000);
    }
    flush(&story, 20, 200000, true, 200000, 100000);
    assert_false(story.disks.flush.is_slow);
}

static void either_measure_is_enough(void **state)
{
    struct story story = { 0 };
    pass(&story, 2 * SECOND_MS, 50000, 500, 600);
    flush(&story, 2 * SECOND_MS, 8 * SECOND_US, true, 200000, 100000);
    pass(&story, 11 * SECOND_MS, 600, 500, 600);
    assert_false(story.disks.log.is_slow);
    assert_true(disks_is_slow(&story.disks));
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
        cmocka_unit_test(a_stall_does_not_keep_from_being_well),
        cmocka_unit_test(half_a_second_is_no_stall),
        cmocka_unit_test(better_is_not_well),
        cmocka_unit_test(there_is_nothing_to_wait_for_when_all_are_slow),
        cmocka_unit_test(a_flush_that_hangs_is_slow),
        cmocka_unit_test(who_is_not_felt_is_not_slow),
        cmocka_unit_test(where_all_flush_slowly_nobody_is_slow),
        cmocka_unit_test(who_hears_of_no_flush_compares_with_none),
        cmocka_unit_test(slow_flushes_that_are_not_felt_are_not_well),
        cmocka_unit_test(flushes_are_well_after_ten_seconds),
        cmocka_unit_test(a_stall_does_not_keep_flushes_from_being_well),
        cmocka_unit_test(either_measure_is_enough),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
