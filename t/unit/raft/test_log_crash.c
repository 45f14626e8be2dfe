/* Crashes of the log: what is told durable is there after each. Random work, a crash at any file call,
 * any subset of the unsynced sectors kept, and the model knows what was promised. LOG_SEED=n runs
 * one seed, LOG_SEEDS=n so many. */
#include "log_script.h"

/* Opens, with a crash at some file call now and then, until it succeeds. */
static void open_with_crashes(struct world *world)
{
    struct fake_env *fake = world->fake;
    for (int attempt = 0; fake_below(fake, 3) == 0 && attempt < 5; attempt++) {
        struct err err;
        fake->fault = FAKE_CRASH;
        fake->fault_at = fake->calls + 1 + fake_below(fake, 25);
        int rc = world_open(world, &err);
        if (rc < 0) {
            if (rc != ERR_IO) {
                print_error("open: %s\n", err.text);
            }
            assert_int_equal(rc, ERR_IO);
        } else {
            log_abandon(world->log);
        }
        if (fake_below(fake, 2)) {
            fake_power_loss(fake, (int)fake_below(fake, 4));
        } else {
            fake_kill(fake);
        }
    }
    world_start(world);
}

static int resets, resets_undone; /* by all runs */

static bool crash_run(uint64_t seed, bool skip_syncs)
{
    struct world *world = world_new(seed);
    struct fake_env *fake = world->fake;
    bool is_caught = false;
    world->cache_bytes = 1 + fake_below(fake, 3) * 10000;
    world_start(world);
    add_groups(world);
    fake->skip_syncs = skip_syncs;
    for (int life = 0; life < 12 && !is_caught; life++) {
        if (fake_below(fake, 3)) {
            fake->fault = FAKE_CRASH;
            fake->fault_at = fake->calls + 1 + fake_below(fake, 120);
        }
        for (int i = 0; i < 400 && world->failures == 0; i++) {
            random_step(world);
        }
        kill_process(world);
        if (fake_below(fake, 4)) {
            fake_power_loss(fake, (int)fake_below(fake, 4));
        }
        if (skip_syncs) {
            struct err err;
            uint64_t promised = world->groups[1].durable + world->groups[2].durable;
            if (world_open(world, &err) < 0) {
                is_caught = true;
                break;
            }
            const struct log_group_start *one = find_start(world, 1), *two = find_start(world, 2);
            is_caught =
                (one ? one->raft.last_index : 0) + (two ? two->raft.last_index : 0) < promised;
            break;
        }
        open_with_crashes(world);
        check_all_recovered(world);
        /* Make room: the model's arrays are finite. */
        for (uint32_t group = 1; group <= GROUPS; group++) {
            if (world->groups[group].last > ENTRIES / 2) {
                life = 12;
            }
        }
    }
    resets += world->resets;
    resets_undone += world->resets_undone;
    world_free(world);
    return is_caught;
}

static void test_crashes(void **state)
{
    const char *seeds = getenv("LOG_SEEDS");
    uint64_t first = 1, count = seeds ? strtoull(seeds, NULL, 10) : 2 * ROUNDS;
    const char *only = getenv("LOG_SEED");
    if (only) {
        first = strtoull(only, NULL, 10);
        count = 1;
    }
    for (uint64_t seed = first; seed < first + count; seed++) {
        if (seeds || only) {
            print_message("seed %llu\n", (unsigned long long)seed);
        }
        crash_run(seed, false);
    }
    print_message("# %d resets, %d undone by a crash\n", resets, resets_undone);
    assert_true(count < ROUNDS || (resets > 100 && resets_undone > 10));
}

/* The same with syncs that do nothing must fail, or the test above shows nothing. */
static void test_missing_sync_is_caught(void **state)
{
    int caught = 0;
    for (uint64_t seed = 1; seed <= 40; seed++) {
        caught += crash_run(seed, true);
    }
    assert_true(caught > 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_crashes),
        cmocka_unit_test(test_missing_sync_is_caught),
    };
    return cmocka_run_group_tests_name("log_crash", tests, NULL, NULL);
}
