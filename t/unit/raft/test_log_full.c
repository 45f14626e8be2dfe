/* The log on a disk that fails or is full: the failure is told once and nothing afterwards; on a full
 * disk entries are refused, while votes and cuts still go and make room. */
#include "log_script.h"

#include "base/hash.h"

/* Fails the n-th sync or write, for every n: on_failure once, and nothing is told afterwards. */
static void test_failed_sync_stops(void **state)
{
    int failed = 0;
    for (uint64_t n = 1; n < 60; n++) {
        struct world *world = world_new(n);
        world_start(world);
        fake_run(world->fake);
        add_groups(world);
        world->fake->fault = n % 2 ? FAKE_FAIL_SYNC : FAKE_FAIL_WRITE;
        world->fake->fault_at = world->fake->calls + n;
        for (uint64_t i = 1; i < 400; i += 10) {
            append(world, 1, i, 10, 1);
            append_state(world, 2, i, 20);
            fake_run(world->fake);
        }
        if (world->fake->fault == FAKE_NONE) {
            failed++;
            assert_int_equal(world->failures, 1);
            assert_string_equal(world->failure, "injected");
            assert_int_equal(log_admit(world->log, 1), ERR_IO);
        }
        assert_int_equal(world->told_after_failure, 0);
        kill_process(world);
        fake_power_loss(world->fake, 0);
        world_start(world);
        check_all_recovered(world);
        world_free(world);
    }
    assert_true(failed > 20);
}

static void test_disk_full(void **state)
{
    struct world *world = world_new(9);
    world->fake->space_left = 6 * SEGMENT + (1 << 20);
    world_start(world);
    add_groups(world);
    uint64_t i = 1;
    for (; i < 3500 && log_admit(world->log, 4000) == 0; i += 10) {
        append(world, 1, i, 10, 1);
        fake_run(world->fake);
        if (i == 1) {
            world->fake->space_left = 3 * SEGMENT;
        }
    }
    assert_true(i < 3500);
    assert_int_equal(log_admit(world->log, 1), ERR_DISK_FULL);
    assert_int_equal(world->failures, 0);
    /* Votes and cuts still go; the cut makes room. */
    append_state(world, 2, 5, 20);
    fake_run(world->fake);
    assert_int_equal(world->groups[2].term_durable, 5);
    cut(world, 1, i - 5);
    fake_run(world->fake);
    append_state(world, 2, 6, 20);
    fake_run(world->fake);
    fake_fire_timers(world->fake);
    fake_run(world->fake);
    assert_int_equal(log_admit(world->log, 1), 0);
    reopen(world);
    check_all_recovered(world);
    world_free(world);
}

/* Appends, so many at a time, until entries wait for which the disk has no room. */
static void fill_log(struct world *world, uint32_t group, uint32_t count)
{
    while (!log_is_busy(world->log)) {
        append(world, group, world->groups[group].last + 1, count, 1);
        fake_run(world->fake);
    }
}

/* A disk that has room for so many segments. */
static struct world *world_on_a_small_disk(uint64_t seed, size_t segments)
{
    struct world *world = world_new(seed);
    world->fake->space_left = segments * SEGMENT + (1 << 16);
    world_start(world);
    add_groups(world);
    fake_run(world->fake);
    return world;
}

/* Entries wait for room. Votes and cuts that come behind them don't, and the cut makes the room. */
static void test_cuts_pass_entries_without_room(void **state)
{
    for (uint64_t seed = 20; seed < 40; seed++) {
        struct world *world = world_on_a_small_disk(seed, 4);
        fill_log(world, 1 + seed % 2, seed % 4 < 2 ? 10 : 1);
        assert_true(log_room(world->log) < SEGMENT);
        struct model_group *model = &world->groups[1 + seed % 2];
        uint64_t durable = model->durable;
        assert_true(durable > 100 && durable < model->last);
        for (uint64_t term = 5; term < 8; term++) {
            append_state(world, 3, term, 30);
            fake_run(world->fake);
            assert_int_equal(world->groups[3].term_durable, term);
        }
        assert_int_equal(model->durable, durable);
        cut(world, 1 + seed % 2, durable);
        fake_run(world->fake);
        assert_false(log_is_busy(world->log));
        assert_int_equal(model->durable, model->last);
        kill_process(world);
        fake_power_loss(world->fake, 0);
        world->fake->space_left += 4 * SEGMENT;
        world_start(world);
        check_all_recovered(world);
        world_free(world);
    }
}

/* The same with a suffix that is replaced by what waits: what is replaced stays on disk until then, or the log would have a gap. */
static void test_what_is_replaced_stays_until_room_is_there(void **state)
{
    struct world *world = world_on_a_small_disk(41, 4);
    fill_log(world, 1, 10);
    struct model_group *model = &world->groups[1];
    uint64_t durable = model->durable;
    append(world, 1, durable / 2, 20, 2);
    cut(world, 1, durable / 2);
    fake_run_tasks(world->fake);
    assert_true(fake_run_job(world->fake, ENV_JOB_LOG)); /* the cut, alone */
    assert_true(log_is_busy(world->log));
    kill_process(world);
    fake_power_loss(world->fake, 0);
    world->fake->space_left += 4 * SEGMENT;
    world_start(world);
    check_all_recovered(world);
    assert_int_equal(find_start(world, 1)->raft.log_start, durable / 2);
    world_free(world);
}

/* Appends, replacements, votes and cuts at random on a disk that is full most of the time, with power losses between. */
static void test_crashes_on_a_full_disk(void **state)
{
    uint64_t waited = 0, freed = 0;
    for (uint64_t seed = 1; seed <= 150; seed++) {
        struct world *world = world_on_a_small_disk(seed * 7919, 3 + seed % 4);
        for (int step = 0; step < 150; step++) {
            uint64_t draw = hash_u64(seed * 1000 + (uint64_t)step);
            uint32_t group = 1 + draw / 16 % GROUPS;
            struct model_group *model = &world->groups[group];
            uint64_t some = draw / 256 % 40, durable = model->durable;
            bool was_busy = log_is_busy(world->log);
            if (draw % 16 < 6 && model->last + 40 < ENTRIES) {
                append(world, group, model->last + 1, 1 + (uint32_t)some, model->term + 1);
            } else if (draw % 16 < 8 && model->last > model->start + 45) {
                append(world, group, model->last - some, 1, model->term + 1);
            } else if (draw % 16 < 11) {
                append_state(world, group, model->term + 1, 10);
                fake_run(world->fake);
            } else if (draw % 16 < 14 && durable > model->start) {
                cut(world, group, model->start + (durable - model->start) * some / 40);
                fake_run(world->fake);
                freed += was_busy && !log_is_busy(world->log);
            } else if (draw % 16 == 14) {
                fake_run(world->fake);
            } else if (draw / 4096 % 4 == 0) {
                kill_process(world);
                fake_power_loss(world->fake, 0);
                world->fake->space_left += 2 * SEGMENT;
                world_start(world);
                check_all_recovered(world);
            }
            waited += was_busy;
        }
        world_free(world);
    }
    assert_true(waited > 1000 && freed > 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_failed_sync_stops),
        cmocka_unit_test(test_disk_full),
        cmocka_unit_test(test_cuts_pass_entries_without_room),
        cmocka_unit_test(test_what_is_replaced_stays_until_room_is_there),
        cmocka_unit_test(test_crashes_on_a_full_disk),
    };
    return cmocka_run_group_tests_name("log_full", tests, NULL, NULL);
}
