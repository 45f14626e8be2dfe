/* The log on a sound disk: it appends, replaces, reads, cuts, resets, recycles its files and moves what
 * little old ones hold. test_log_full.c has the disks that fail or are full, test_log_crash.c
 * the crashes, test_log_damage.c what is damaged and reported, test_log_heal.c what peers can heal. */
#include "log_script.h"
#include "raft/log_index.h"

static void test_append_and_restart(void **state)
{
    struct world *world = world_new(1);
    world_start(world);
    assert_int_equal(log_group_count(world->log), 0);
    add_groups(world);
    append_state(world, 1, 1, 10);
    append(world, 1, 1, 3, 1);
    append(world, 2, 1, 1, 1);
    assert_int_equal(world->groups[1].durable, 0);
    assert_true(log_is_busy(world->log));
    fake_run(world->fake);
    assert_false(log_is_busy(world->log));
    assert_int_equal(world->groups[1].durable, 3);
    assert_int_equal(world->groups[1].vote_durable, 10);
    assert_int_equal(world->batches, 1);
    assert_int_equal(log_stats(world->log)->entries, 4);
    check_payload(1, 2, 1, log_peek(world->log, 1, 2));
    assert_null(log_peek(world->log, 1, 4));
    uint32_t bytes;
    assert_int_equal(log_in_memory(world->log, 1, 1, 10, 1 << 20, &bytes), 3);
    assert_int_equal(log_in_memory(world->log, 1, 4, 10, 1 << 20, &bytes), 0);
    for (int i = 0; i < 5; i++) {
        reopen(world);
        check_all_recovered(world);
    }
    assert_int_equal(find_start(world, 1)->raft.last_index, 3);
    world_free(world);
}

static void test_one_batch_in_flight_next_gathers(void **state)
{
    struct world *world = world_new(2);
    world_start(world);
    add_groups(world);
    append(world, 1, 1, 1, 1);
    fake_run_tasks(world->fake);
    append(world, 1, 2, 1, 1);
    append(world, 2, 1, 1, 1);
    fake_run_tasks(world->fake);
    assert_true(fake_run_job(world->fake, ENV_JOB_LOG));
    assert_int_equal(world->groups[1].durable, 1);
    assert_true(fake_run_job(world->fake, ENV_JOB_LOG));
    assert_int_equal(world->groups[1].durable, 2);
    assert_int_equal(world->groups[2].durable, 1);
    assert_false(fake_run_job(world->fake, ENV_JOB_LOG));
    assert_int_equal(world->batches, 2);
    world_free(world);
}

/* A suffix is replaced while its own batch is in flight: that batch's word is for the rest only. */
static void test_replace_in_flight(void **state)
{
    struct world *world = world_new(3);
    world_start(world);
    add_groups(world);
    append(world, 1, 1, 5, 1);
    fake_run_tasks(world->fake);
    append(world, 1, 3, 1, 2);
    assert_true(fake_run_job(world->fake, ENV_JOB_LOG));
    assert_int_equal(world->groups[1].durable, 2);
    assert_null(log_peek(world->log, 1, 4));
    fake_run(world->fake);
    assert_int_equal(world->groups[1].durable, 3);
    reopen(world);
    check_all_recovered(world);
    assert_int_equal(find_start(world, 1)->raft.last_index, 3);
    assert_int_equal(find_start(world, 1)->raft.run_count, 2);
    world_free(world);
}

struct read_result {
    int calls, status;
    uint32_t count;
    struct blob *payloads[64];
};

static void on_read(void *ctx, int status, uint64_t first, struct blob **payloads, uint32_t count)
{
    struct read_result *result = ctx;
    result->calls++;
    result->status = status;
    result->count = count;
    for (uint32_t i = 0; i < count; i++) {
        result->payloads[i] = payloads[i];
    }
}

/* What was read begins at `first`; its entries from `second` on are of term 2. Lets go of it. */
static void check_read(struct read_result *result, uint32_t count, uint64_t first, uint64_t second)
{
    assert_int_equal(result->count, count);
    for (uint32_t i = 0; i < count; i++) {
        check_payload(1, first + i, first + i < second ? 1 : 2, result->payloads[i]);
        blob_unref(result->payloads[i]);
    }
}

static void test_read_from_disk(void **state)
{
    struct world *world = world_new(4);
    world->cache_bytes = 1;
    world_start(world);
    add_groups(world);
    append(world, 1, 1, 40, 1);
    assert_non_null(log_peek(world->log, 1, 40)); /* not durable: stays */
    fake_run(world->fake);
    assert_null(log_peek(world->log, 1, 40));
    struct read_result result = { 0 };
    log_read(world->log, 1, 1, 64, 1 << 20, on_read, &result);
    assert_int_equal(result.calls, 0);
    fake_run(world->fake);
    assert_int_equal(result.calls, 1);
    check_read(&result, 40, 1, UINT64_MAX);
    /* Entries replaced while the read runs are not returned. */
    log_read(world->log, 1, 10, 30, 1 << 20, on_read, &result);
    append(world, 1, 15, 1, 2);
    fake_run(world->fake);
    assert_int_equal(result.calls, 2);
    assert_int_equal(result.count, 5);
    for (uint32_t i = 0; i < result.count; i++) {
        blob_unref(result.payloads[i]);
    }
    log_read(world->log, 1, 100, 3, 1 << 20, on_read, &result);
    fake_run(world->fake);
    assert_int_equal(result.count, 0);
    assert_int_equal(result.status, 0);
    world_free(world);
}

/* What the owner needs no more leaves the memory as far as it is durable; a replaced entry comes anew. */
static void test_drop_payloads(void **state)
{
    struct world *world = world_new(45);
    world_start(world);
    add_groups(world);
    log_drop_payloads(world->log, 1, 1, 7); /* there is nothing */
    append(world, 1, 1, 40, 1);
    append(world, 2, 1, 3, 1);
    log_drop_payloads(world->log, 1, 1, 10);
    assert_non_null(log_peek(world->log, 1, 10)); /* not durable */
    fake_run(world->fake);
    log_drop_payloads(world->log, 1, 1, 10);
    assert_null(log_peek(world->log, 1, 1));
    assert_null(log_peek(world->log, 1, 10));
    check_payload(1, 11, 1, log_peek(world->log, 1, 11));
    append(world, 1, 41, 2, 1);
    log_drop_payloads(world->log, 1, 11, 50);
    assert_null(log_peek(world->log, 1, 40));
    check_payload(1, 41, 1, log_peek(world->log, 1, 41));
    check_payload(2, 3, 1, log_peek(world->log, 2, 3));
    struct read_result result = { 0 };
    log_read(world->log, 1, 5, 30, 1 << 20, on_read, &result);
    fake_run(world->fake);
    check_read(&result, 30, 5, UINT64_MAX);
    append(world, 1, 20, 3, 2); /* in place of what was dropped */
    fake_run(world->fake);
    check_payload(1, 20, 2, log_peek(world->log, 1, 20));
    log_drop_payloads(world->log, 1, 20, 21);
    assert_null(log_peek(world->log, 1, 21));
    check_payload(1, 22, 2, log_peek(world->log, 1, 22));
    log_cut(world->log, 1, 22, 2);
    log_drop_payloads(world->log, 1, 1, 22);
    assert_null(log_peek(world->log, 1, 22));
    world_free(world);
}

/* What is durable leaves the memory, what is not stays; then everything goes on. */
static void test_trim(void **state)
{
    struct world *world = world_new(44);
    world_start(world);
    add_groups(world);
    append(world, 1, 1, 40, 1);
    fake_run(world->fake);
    append(world, 1, 41, 2, 1);
    assert_non_null(log_peek(world->log, 1, 40));
    log_trim(world->log);
    assert_null(log_peek(world->log, 1, 40));
    check_payload(1, 41, 1, log_peek(world->log, 1, 41));
    fake_run(world->fake);
    log_trim(world->log);
    assert_null(log_peek(world->log, 1, 42));
    append(world, 1, 43, 30, 2);
    check_payload(1, 72, 2, log_peek(world->log, 1, 72));
    struct read_result result = { 0 };
    log_read(world->log, 1, 30, 20, 1 << 20, on_read, &result);
    fake_run(world->fake);
    check_read(&result, 20, 30, 43);
    reopen(world);
    check_all_recovered(world);
    world_free(world);
}

/* An index keeps no more room than its entries need, and still knows them, wherever they begin. */
static void test_index_trim(void **state)
{
    struct log_index index;
    log_index_init(&index, 1, 0);
    for (uint32_t i = 1; i <= 5000; i++) {
        log_index_push(&index)->at = i;
        log_index_push_term(&index, 1 + i / 4000);
    }
    log_index_cut(&index, 4951, 2);
    log_index_trim(&index);
    assert_int_equal(index.capacity, 64);
    log_index_push(&index)->at = 5001;
    for (uint32_t i = 4951; i <= 5001; i++) {
        assert_int_equal(log_index_at(&index, i)->at, i);
    }
    log_index_cut(&index, 5002, 2);
    log_index_trim(&index);
    assert_int_equal(index.capacity, 16);
    log_index_push(&index)->at = 5002;
    assert_int_equal(log_index_at(&index, 5002)->at, 5002);
    log_index_fini(&index);
}

/* Logs are cut as they grow: the number of files stays bounded, and files are reused. */
static void test_cut_and_recycle(void **state)
{
    struct world *world = world_new(5);
    world_start(world);
    add_groups(world);
    for (uint64_t i = 1; i < 3000; i += 10) {
        append(world, 1, i, 10, 1);
        fake_run(world->fake);
        if (i > 50) {
            cut(world, 1, i - 50);
        }
        assert_int_equal(log_admit(world->log, 1000), 0);
    }
    fake_run(world->fake);
    assert_true(log_stats(world->log)->recycled > 5);
    assert_true(log_stats(world->log)->segments <= 7);
    assert_true(world->fake->names.count <= 8);
    reopen(world);
    check_all_recovered(world);
    world_free(world);
}

/* What is freed at once is kept for reuse as long as it may be, and given back when it may not. */
static void test_freed_files_are_kept(void **state)
{
    struct world *world = world_new(15);
    world_start(world);
    add_groups(world);
    log_keep_bytes(world->log, 12 * SEGMENT);
    for (int round = 0; round < 3; round++) {
        uint64_t first = (uint64_t)round * 1000 + 1;
        for (uint64_t i = first; i < first + 1000; i += 10) {
            append(world, 1, i, 10, 1);
            fake_run(world->fake);
        }
        cut(world, 1, first + 999);
        fake_run(world->fake);
        assert_in_range(log_stats(world->log)->segments, 8, 13);
    }
    assert_true(log_stats(world->log)->recycled > 15);
    log_keep_bytes(world->log, 0);
    fake_run(world->fake);
    assert_true(log_stats(world->log)->segments <= 6);
    reopen(world);
    check_all_recovered(world);
    world_free(world);
}

/* A quiet group's few entries do not pin old segments: they are written again. */
static void test_quiet_groups_are_moved(void **state)
{
    struct world *world = world_new(6);
    world->cache_bytes = 1;
    world_start(world);
    add_groups(world);
    append_state(world, 2, 7, 20);
    append(world, 2, 1, 20, 3);
    append(world, 3, 1, 2, 1);
    for (uint64_t i = 1; i < 4000; i += 10) {
        append(world, 1, i, 10, 1);
        fake_run(world->fake);
        if (i > 50) {
            cut(world, 1, i - 50);
        }
        if (i == 2001) {
            append(world, 2, 15, 3, 4);
        }
    }
    fake_run(world->fake);
    assert_true(log_stats(world->log)->segments <= 14);
    reopen(world);
    check_all_recovered(world);
    assert_int_equal(find_start(world, 2)->raft.last_index, 17);
    assert_int_equal(find_start(world, 2)->raft.vote, 20);
    assert_int_equal(find_start(world, 3)->raft.last_index, 2);
    world_free(world);
}

/* A group that holds much and is not cut pins what lies behind it, dead or not; where there is little
 * room it is written again all the same. */
static uint64_t segments_behind_a_pin(bool is_tight)
{
    struct world *world = world_new(16);
    world->cache_bytes = 1;
    world_start(world);
    add_groups(world);
    log_keep_bytes(world->log, 0);
    for (uint64_t i = 1; i < 1000; i += 10) {
        append(world, 2, i, 10, 3);
        fake_run(world->fake);
    }
    log_tighten(world->log, is_tight);
    for (uint64_t i = 1; i < 4000; i += 10) {
        append(world, 1, i, 10, 1);
        fake_run(world->fake);
        if (i > 50) {
            cut(world, 1, i - 50);
        }
    }
    fake_run(world->fake);
    uint64_t segments = log_stats(world->log)->segments;
    reopen(world);
    check_all_recovered(world);
    assert_int_equal(find_start(world, 2)->raft.last_index, 1000);
    world_free(world);
    return segments;
}

static void test_what_pins_much_is_moved_when_tight(void **state)
{
    uint64_t loose = segments_behind_a_pin(false), tight = segments_behind_a_pin(true);
    assert_true(tight <= 30 && tight + 15 < loose);
}

/* Batches that take so many µs each. */
static void sync_slowly(struct world *world, int count, uint64_t us)
{
    for (int i = 0; i < count; i++) {
        append(world, 1, world->groups[1].last + 1, 1, 1);
        fake_run_tasks(world->fake);
        world->fake->now_us += us;
        assert_true(fake_run_job(world->fake, ENV_JOB_LOG));
    }
}

/* Some slow batches say nothing, most do; one that hangs counts before it is done. */
static void test_latency_is_the_typical_one(void **state)
{
    struct world *world = world_new(17);
    world_start(world);
    add_groups(world);
    fake_run(world->fake);
    sync_slowly(world, 9, 500);
    assert_in_range(log_latency_us(world->log), 500, 999);
    sync_slowly(world, 4, 50000);
    assert_in_range(log_latency_us(world->log), 500, 999);
    sync_slowly(world, 1, 50000);
    assert_in_range(log_latency_us(world->log), 50000, 50999);
    sync_slowly(world, 9, 500);
    append(world, 1, world->groups[1].last + 1, 1, 1);
    fake_run_tasks(world->fake);
    world->fake->now_us += 100000;
    assert_in_range(log_latency_us(world->log), 500, 999);
    world->fake->now_us += 200000;
    assert_in_range(log_latency_us(world->log), 300000, 300999);
    fake_run(world->fake);
    world_free(world);
}

/* A log at rest is measured by batches that hold nothing, and is as it was afterwards. */
static void test_probes_measure(void **state)
{
    struct world *world = world_new(18);
    world_start(world);
    add_groups(world);
    fake_run(world->fake);
    sync_slowly(world, 9, 50000);
    for (int i = 0; i < 9; i++) {
        uint64_t batches = log_stats(world->log)->batches;
        log_probe(world->log);
        log_probe(world->log);
        fake_run_tasks(world->fake);
        log_probe(world->log); /* one is on its way */
        world->fake->now_us += 500;
        fake_run(world->fake);
        assert_int_equal(log_stats(world->log)->batches, batches + 1);
        assert_int_equal(log_latency_us(world->log) < 1000, i >= 4);
    }
    sync_slowly(world, 1, 500);
    log_probe(world->log);
    fake_run(world->fake);
    reopen(world);
    check_all_recovered(world);
    world_free(world);
}

/* Cut far behind its end. */
static void test_cut_beyond_the_end(void **state)
{
    struct world *world = world_new(7);
    world_start(world);
    add_groups(world);
    append(world, 1, 1, 5, 1);
    fake_run(world->fake);
    log_cut(world->log, 1, 1000, 8);
    struct model_group *model = &world->groups[1];
    model->start = 1000;
    model->last = model->durable = 999;
    model->terms[999] = 8;
    append(world, 1, 1000, 2, 9);
    fake_run(world->fake);
    reopen(world);
    check_all_recovered(world);
    assert_int_equal(find_start(world, 1)->raft.log_start, 1000);
    assert_int_equal(find_start(world, 1)->raft.start_term, 8);
    assert_int_equal(find_start(world, 1)->raft.last_index, 1001);
    world_free(world);
}

/* The log is replaced by an image while entries of it wait and are in flight: nothing of them comes
 * back, neither by a late word nor by a restart, and also not when segments were changed between.
 */
static void test_reset(void **state)
{
    struct world *world = world_new(8);
    world_start(world);
    add_groups(world);
    append(world, 1, 1, 40, 1);
    append(world, 2, 1, 3, 1);
    fake_run(world->fake);
    append(world, 1, 41, 10, 2);
    fake_run_tasks(world->fake); /* in flight */
    append(world, 1, 51, 10, 2); /* waits */
    append_state(world, 1, 5, 10);
    reset(world, 1, 31, 3);
    assert_null(log_peek(world->log, 1, 41));
    fake_run(world->fake);
    assert_int_equal(world->groups[1].durable, 30);
    append(world, 1, 31, 20, 3);
    fake_run(world->fake);
    for (int i = 0; i < 3; i++) {
        reopen(world);
        check_all_recovered(world);
        assert_int_equal(find_start(world, 1)->raft.log_start, 31);
        assert_int_equal(find_start(world, 1)->raft.start_term, 3);
        assert_int_equal(find_start(world, 1)->raft.last_index, 50);
        assert_int_equal(find_start(world, 1)->raft.vote, 10);
    }
    /* The last batch holds the reset only: what a restart repeats must say it too. */
    reset(world, 1, 41, 4);
    fake_run(world->fake);
    for (int i = 0; i < 3; i++) {
        reopen(world);
        check_all_recovered(world);
        assert_int_equal(find_start(world, 1)->raft.last_index, 40);
        assert_int_equal(world->resets_undone, 0);
    }
    world_free(world);
}

/* What the load counts of what is gathered is what it takes then, and hardly more. */
static void test_load_foretells(void **state)
{
    for (uint64_t seed = 70; seed < 90; seed++) {
        struct world *world = world_new(seed);
        world_start(world);
        add_groups(world);
        fake_run(world->fake);
        uint64_t before = log_live_bytes(world->log);
        assert_int_equal(log_load_bytes(world->log), before);
        for (uint64_t i = 1; i < 1000; i += 10) {
            append(world, 1 + (uint32_t)(i / 10 % GROUPS),
                   world->groups[1 + i / 10 % GROUPS].last + 1, (uint32_t)(seed % 10 + 1), 1);
        }
        uint64_t foretold = log_load_bytes(world->log) - before;
        fake_run(world->fake);
        assert_false(log_is_busy(world->log));
        uint64_t taken = log_live_bytes(world->log) - before;
        assert_int_equal(log_load_bytes(world->log) - before, taken);
        assert_true(taken > SEGMENT / 2);
        if (taken > foretold || foretold > taken + taken / 10) {
            fail_msg("seed %lu: foretold %lu, taken %lu", seed, foretold, taken);
        }
        world_free(world);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_append_and_restart),
        cmocka_unit_test(test_load_foretells),
        cmocka_unit_test(test_one_batch_in_flight_next_gathers),
        cmocka_unit_test(test_replace_in_flight),
        cmocka_unit_test(test_read_from_disk),
        cmocka_unit_test(test_drop_payloads),
        cmocka_unit_test(test_trim),
        cmocka_unit_test(test_index_trim),
        cmocka_unit_test(test_cut_and_recycle),
        cmocka_unit_test(test_freed_files_are_kept),
        cmocka_unit_test(test_quiet_groups_are_moved),
        cmocka_unit_test(test_what_pins_much_is_moved_when_tight),
        cmocka_unit_test(test_latency_is_the_typical_one),
        cmocka_unit_test(test_probes_measure),
        cmocka_unit_test(test_cut_beyond_the_end),
        cmocka_unit_test(test_reset),
    };
    return cmocka_run_group_tests_name("log", tests, NULL, NULL);
}
