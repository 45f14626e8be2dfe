/* Shows who may still add to a log that outgrows its budget, and who has to wait: lines, slope, and
 * that nobody waits for what doesn't come. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/err.h"
#include "node/budget.h"

enum { BUDGET = 10 * 1000 * 1000, NODES = 3 };

enum { SEGMENT = BUDGET / 10 };

static struct budget_view view_of(uint64_t percent)
{
    return (struct budget_view){ .load = BUDGET / 100 * percent,
                                 .budget = BUDGET,
                                 .node_count = NODES,
                                 .may_shrink = true,
                                 .room = UINT64_MAX,
                                 .segment_bytes = SEGMENT };
}

static void look(struct budget *budget, uint64_t percent)
{
    struct budget_view view = view_of(percent);
    budget_look(budget, &view);
}

/* Bytes of ordinary writes of 1,000 bytes that are proposed before the next look. */
static uint64_t propose_all(struct budget *budget)
{
    uint64_t bytes = 0;
    while (bytes < 2 * (uint64_t)BUDGET && budget_propose(budget, 1000, false)) {
        bytes += 1000;
    }
    return bytes;
}

static void nothing_is_admitted_before_the_first_look(void **state)
{
    struct budget budget = { 0 };
    assert_int_equal(budget_admit(&budget, false), ERR_BUSY);
    assert_int_equal(budget_admit(&budget, true), ERR_BUSY);
    assert_false(budget_propose(&budget, 1, false));
    assert_int_equal(budget_room(&budget, false), RAFT_ROOM_NONE);
}

static void each_line_stops_whom_it_should(void **state)
{
    static const struct {
        uint64_t percent;
        int ordinary, vital;
        enum raft_room room, room_damaged;
    } lines[] = {
        { 0, 0, 0, RAFT_ROOM_ANY, RAFT_ROOM_ANY },
        { 99, 0, 0, RAFT_ROOM_ANY, RAFT_ROOM_ANY },
        { 100, 0, 0, RAFT_ROOM_ANY, RAFT_ROOM_SMALL },
        { 199, 0, 0, RAFT_ROOM_ANY, RAFT_ROOM_SMALL },
        { 200, 0, 0, RAFT_ROOM_SMALL, RAFT_ROOM_SMALL },
        { 249, 0, 0, RAFT_ROOM_SMALL, RAFT_ROOM_SMALL },
        { 250, ERR_BUSY, 0, RAFT_ROOM_SMALL, RAFT_ROOM_SMALL },
        { 299, ERR_BUSY, 0, RAFT_ROOM_SMALL, RAFT_ROOM_SMALL },
        { 300, ERR_BUSY, ERR_BUSY, RAFT_ROOM_NONE, RAFT_ROOM_NONE },
        { 900, ERR_BUSY, ERR_BUSY, RAFT_ROOM_NONE, RAFT_ROOM_NONE },
    };
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        struct budget budget = { 0 };
        look(&budget, lines[i].percent);
        assert_int_equal(budget_admit(&budget, false), lines[i].ordinary);
        assert_int_equal(budget_admit(&budget, true), lines[i].vital);
        assert_int_equal(budget_room(&budget, false), lines[i].room);
        assert_int_equal(budget_room(&budget, true), lines[i].room_damaged);
    }
}

static void writes_slow_down_before_they_stop(void **state)
{
    struct budget budget = { 0 };
    uint64_t before = UINT64_MAX;
    for (uint64_t percent = 200; percent < 250; percent += 10) {
        budget = (struct budget){ 0 };
        look(&budget, percent);
        uint64_t bytes = propose_all(&budget);
        assert_true(bytes > 0 && bytes < before);
        assert_int_equal(budget_admit(&budget, false), 0); /* they wait and are not refused */
        assert_true(budget_propose(&budget, 1000, true));  /* deletes don't wait */
        before = bytes;
    }
    look(&budget, 250);
    assert_int_equal(propose_all(&budget), 0);
}

/* B5 */
static void one_turn_stays_below_the_line_but_for_one_write(void **state)
{
    for (uint64_t percent = 0; percent < 250; percent++) {
        struct budget budget = { 0 };
        look(&budget, percent);
        assert_true(BUDGET / 100 * percent + propose_all(&budget) <= BUDGET / 100 * 250 + 1000);
    }
}

static void a_large_write_passes_and_is_paid_for_later(void **state)
{
    struct budget budget = { 0 };
    look(&budget, 240);
    assert_true(budget_propose(&budget, BUDGET / 100, false));
    assert_false(budget_propose(&budget, 1, false));
    int looks = 0;
    do {
        look(&budget, 240);
        looks++;
    } while (!budget_propose(&budget, 1, false));
    assert_in_range(looks, 2, 10);
}

/* B2 */
static void what_is_not_applied_is_bounded(void **state)
{
    struct budget budget = { 0 };
    look(&budget, 0);
    budget.unapplied = propose_all(&budget) / 1000 * (1000 + BUDGET_ENTRY_BYTES);
    assert_in_range(budget.unapplied, BUDGET / 10, BUDGET / 8 + 1100);
    look(&budget, 0);
    assert_int_equal(propose_all(&budget), 0);
    assert_int_equal(budget_admit(&budget, false), 0);
    for (int i = 0; i < 100; i++) {
        look(&budget, 0); /* waiting costs nothing */
    }
    budget.unapplied = 0;
    look(&budget, 0);
    assert_true(propose_all(&budget) > 0);
}

static void large_clusters_leave_room_for_each_others_entries(void **state)
{
    struct budget budget = { 0 };
    struct budget_view view = view_of(0);
    view.node_count = 64;
    budget_look(&budget, &view);
    assert_true(64 * propose_all(&budget) <= BUDGET / 2 + 64 * 1000);
}

static void entries_count_as_they_are_taken(void **state)
{
    struct budget budget = { 0 };
    look(&budget, 190);
    budget_took(&budget, BUDGET / 10 + 1, 1);
    assert_int_equal(budget_room(&budget, false), RAFT_ROOM_SMALL);
    budget_took(&budget, BUDGET, 1);
    assert_int_equal(budget_room(&budget, false), RAFT_ROOM_NONE);
    look(&budget, 50);
    assert_int_equal(budget_room(&budget, false), RAFT_ROOM_ANY);
}

/* B1 */
static void entries_are_taken_where_no_flush_would_make_room(void **state)
{
    static const struct {
        uint64_t percent, parts; /* at a load of so much, such a part of the budget a look */
        enum raft_room then;
    } lines[] = {
        { 201, 8, RAFT_ROOM_SMALL }, { 287, 8, RAFT_ROOM_SMALL }, { 290, 10, RAFT_ROOM_NONE },
        { 299, 64, RAFT_ROOM_NONE }, { 500, 64, RAFT_ROOM_NONE },
    };
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        struct budget budget = { 0 };
        struct budget_view view = view_of(lines[i].percent);
        uint64_t part = BUDGET / lines[i].parts;
        view.may_shrink = false;
        budget_look(&budget, &view);
        budget_took(&budget, part - 2 * BUDGET_ENTRY_BYTES, 1);
        assert_int_equal(budget_room(&budget, false), RAFT_ROOM_ANY);
        budget_took(&budget, 0, 1);
        assert_int_equal(budget_room(&budget, false), lines[i].then);
        assert_int_equal(budget_admit(&budget, false), lines[i].percent > 250 ? ERR_BUSY : 0);
    }
}

/* B4: with a full disk the last segment is for what makes room, however little the log holds, and also where no flush would help. */
static void a_full_disk_leaves_the_last_segment_to_cuts(void **state)
{
    static const struct {
        uint64_t percent; /* of a segment that the log still takes */
        enum raft_room room;
    } lines[] = {
        { 200, RAFT_ROOM_ANY },   { 51, RAFT_ROOM_ANY },   { 50, RAFT_ROOM_SMALL },
        { 26, RAFT_ROOM_SMALL }, { 25, RAFT_ROOM_NONE }, { 0, RAFT_ROOM_NONE },
    };
    for (size_t i = 0; i < 2 * sizeof lines / sizeof *lines; i++) {
        struct budget budget = { 0 };
        struct budget_view view = view_of(10);
        view.room = SEGMENT / 100 * lines[i / 2].percent;
        view.may_shrink = i % 2 == 0;
        budget_look(&budget, &view);
        assert_int_equal(budget_room(&budget, false), lines[i / 2].room);
        assert_int_equal(budget_admit(&budget, true), 0); /* log_admit_vital knows better */
    }
}

static void what_is_taken_counts_on_a_full_disk(void **state)
{
    struct budget budget = { 0 };
    struct budget_view view = view_of(10);
    view.room = SEGMENT;
    budget_look(&budget, &view);
    budget_took(&budget, SEGMENT / 2, 1);
    assert_int_equal(budget_room(&budget, false), RAFT_ROOM_SMALL);
    assert_true(budget_propose(&budget, SEGMENT / 4, true));
    assert_int_equal(budget_room(&budget, false), RAFT_ROOM_NONE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_admitted_before_the_first_look),
        cmocka_unit_test(each_line_stops_whom_it_should),
        cmocka_unit_test(writes_slow_down_before_they_stop),
        cmocka_unit_test(one_turn_stays_below_the_line_but_for_one_write),
        cmocka_unit_test(a_large_write_passes_and_is_paid_for_later),
        cmocka_unit_test(what_is_not_applied_is_bounded),
        cmocka_unit_test(large_clusters_leave_room_for_each_others_entries),
        cmocka_unit_test(entries_count_as_they_are_taken),
        cmocka_unit_test(entries_are_taken_where_no_flush_would_make_room),
        cmocka_unit_test(a_full_disk_leaves_the_last_segment_to_cuts),
        cmocka_unit_test(what_is_taken_counts_on_a_full_disk),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
