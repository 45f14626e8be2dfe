/* Shows that a replica which finds no memory while it applies goes on by itself, though its group is at
 * rest and nobody asks anything of it. The only replica of a group starts on a log whose entries its
 * store lacks, or is written to; each allocation that applying needs is refused in turn. Log, store and core are
 * real, on the log's fake disk; the node's tick is played by the test, which leaves out groups that say
 * they are quiet, as the node does. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../raft/fake_env.h"

#include "base/hlc.h"
#include "node/partition_private.h"

enum {
    GROUP = 3,
    NODE = 1,
    REPLICA = 100,
    ENTRIES = 6,
    TICK_US = 20 * 1000,
    SECOND_US = 1000 * 1000,
    ALLOCATIONS_MAX = 200,
};

struct world {
    struct fake_env *fake;
    struct mem_gates gates;
    struct logger logger;
    struct log *log;
    struct store *store;
    char directory[32];
    struct partition *partition;
    struct partition_host host;
    struct partition_scratch scratch;
    struct budget budget;
    uint64_t hlc, changes, now_ms, quiet_until_ms[GROUP + 1];
    enum raft_cut cut_level;
    bool is_tight, is_awake;
    enum mem_kind
        kind; /* that is refused: the nth allocation from the next time on that entries are durable; 0: none is */
    uint64_t nth;
};

static void quiet(void *ctx, enum logger_level level, const char *line)
{
}

static void on_durable(void *ctx, uint32_t group, uint64_t index, uint64_t term)
{
    struct world *world = ctx;
    if (world->partition) {
        partition_durable(world->partition, index, term);
        world->gates.of[world->kind].refuse_in = world->nth;
        world->nth = 0;
    }
}

static void on_state_durable(void *ctx, uint32_t group, uint64_t term, uint64_t vote)
{
    struct world *world = ctx;
    if (world->partition) {
        partition_state_durable(world->partition, term, vote);
    }
}

static void on_hole(void *ctx, uint32_t group)
{
    fail();
}

static void on_batch(void *ctx)
{
}

static void on_failure(void *ctx, const struct err *err)
{
    fail_msg("%s", err->text);
}

static void on_flushed(void *ctx)
{
}

static void on_wake(void *ctx, struct partition *partition)
{
    ((struct world *)ctx)->is_awake = true;
}

static void on_partition(void *ctx, struct partition *partition)
{
}

static bool is_slow(void *ctx, uint64_t node_id)
{
    return false;
}

static void on_partition_failure(void *ctx, struct partition *partition, const struct err *err)
{
    fail_msg("%s", err->text);
}

static void open_log(struct world *world)
{
    struct log_config config = { .env = &world->fake->env,
                                 .logger = &world->logger,
                                 .directory = "data/log",
                                 .segment_bytes = 64 << 10,
                                 .node_id = NODE,
                                 .is_alone = true,
                                 .on_durable = on_durable,
                                 .on_state_durable = on_state_durable,
                                 .on_hole = on_hole,
                                 .on_suspect = on_hole,
                                 .on_healed = on_hole,
                                 .on_batch = on_batch,
                                 .on_failure = on_failure,
                                 .ctx = world };
    struct err err;
    assert_int_equal(log_open(&config, &world->log, &err), 0);
}

/* Of the process before: nothing of it was flushed. */
static void write_log(struct world *world)
{
    uint64_t terms[ENTRIES];
    struct blob *payloads[ENTRIES];
    char key[16];
    for (int i = 0; i < ENTRIES; i++) {
        snprintf(key, sizeof key, "key-%d", i);
        terms[i] = 1;
        payloads[i] = command_pack(&(struct command){ .type = COMMAND_PUT,
                                                      .time = hlc_from_us(1700000000000000) + i,
                                                      .session = { 7, 0 },
                                                      .number = 1 + i,
                                                      .lowest = 1 + i,
                                                      .key = span_of_string(key),
                                                      .value = span_of_string("value") });
    }
    open_log(world);
    log_group_add(world->log, GROUP, REPLICA, 1, 0);
    log_append_state(world->log, GROUP, 1, REPLICA);
    log_append(world->log, GROUP, 1, terms, payloads, ENTRIES);
    fake_run(world->fake);
    log_close(world->log);
    fake_run(world->fake);
    for (int i = 0; i < ENTRIES; i++) {
        blob_unref(payloads[i]);
    }
}

static void open_store(struct world *world)
{
    struct store_config config = { .env = &world->fake->env,
                                   .logger = &world->logger,
                                   .directory = world->directory,
                                   .node_id = NODE,
                                   .map_bytes = 16 << 20,
                                   .databases_max = 64,
                                   .no_sync = true,
                                   .on_failure = on_failure,
                                   .on_flushed = on_flushed,
                                   .ctx = world };
    struct err err;
    strcpy(world->directory, "/tmp/cairn-apply-XXXXXX");
    assert_non_null(mkdtemp(world->directory));
    assert_int_equal(store_open(&config, &world->store, &err), 0);
}

static struct world *world_new(void)
{
    struct world *world = calloc(1, sizeof *world);
    world->fake = fake_new(1);
    world->logger.write = quiet;
    write_log(world);
    world->fake->env.gates = &world->gates;
    open_log(world);
    open_store(world);
    world->host = (struct partition_host){ .env = &world->fake->env,
                                           .logger = &world->logger,
                                           .log = world->log,
                                           .store = world->store,
                                           .budget = &world->budget,
                                           .election_timeout_ms = 300,
                                           .heartbeat_ms = 100,
                                           .scratch = &world->scratch,
                                           .hlc = &world->hlc,
                                           .changes = &world->changes,
                                           .now_ms = &world->now_ms,
                                           .cut_level = &world->cut_level,
                                           .is_tight = &world->is_tight,
                                           .quiet_until_ms = world->quiet_until_ms,
                                           .spoke = on_partition,
                                           .wake = on_wake,
                                           .read_wanted = on_partition,
                                           .applied = on_partition,
                                           .role_changed = on_partition,
                                           .is_slow = is_slow,
                                           .failed = on_partition_failure,
                                           .ctx = world };
    budget_look(&world->budget, &(struct budget_view){ .budget = 1 << 20,
                                                       .node_count = 1,
                                                       .room = UINT64_MAX,
                                                       .segment_bytes = 64 << 10 });
    struct topology_partition group = { .group = GROUP,
                                        .replicas = { { .id = REPLICA, .node_id = NODE } },
                                        .replica_count = 1 };
    struct err err;
    assert_int_equal(log_group_count(world->log), 1);
    assert_int_equal(partition_open(&world->host, &group, NODE, log_group_at(world->log, 0),
                                    &world->partition, &err),
                     0);
    assert_int_equal(partition_applied(world->partition), 0);
    assert_null(log_peek(world->log, GROUP, 1));
    return world;
}

static void world_free(struct world *world)
{
    char path[64];
    partition_close(world->partition);
    world->partition = NULL;
    log_close(world->log);
    store_close(world->store);
    fake_run(world->fake);
    snprintf(path, sizeof path, "%s/data.mdb", world->directory);
    unlink(path);
    snprintf(path, sizeof path, "%s/lock.mdb", world->directory);
    unlink(path);
    assert_int_equal(rmdir(world->directory), 0);
    fake_free(world->fake);
    free(world);
}

/* What a node does at the end of an event, until all is at rest. */
static void end_turn(struct world *world)
{
    do {
        if (world->is_awake) {
            world->is_awake = false;
            partition_turn(world->partition);
            store_turn_end(world->store);
        }
        fake_run(world->fake);
    } while (world->is_awake);
}

static void pass(struct world *world, uint64_t us)
{
    for (uint64_t passed_us = 0; passed_us < us; passed_us += TICK_US) {
        world->fake->now_us += TICK_US;
        world->now_ms = world->fake->now_us / 1000;
        if (world->quiet_until_ms[GROUP] <= world->now_ms) {
            partition_tick(world->partition, world->now_ms);
        }
        end_turn(world);
    }
}

/* The nth allocation of that kind from now on is refused once there is something to apply. */
static void refuse(struct world *world, enum mem_kind kind, uint64_t nth)
{
    world->kind = kind;
    world->nth = nth;
    world->gates.of[kind].refused = 0;
}

/* All is applied, and the group at rest: no tick would ever come. True: something was refused on the way. */
static bool has_gone_on(struct world *world, uint64_t applied)
{
    assert_int_equal(partition_applied(world->partition), applied);
    assert_true(world->quiet_until_ms[GROUP] == UINT64_MAX);
    return world->gates.of[world->kind].refused > 0;
}

/* It elects itself, and reads from the log what it applies. False: there are fewer allocations. */
static bool starts_without(enum mem_kind kind, uint64_t nth)
{
    struct world *world = world_new();
    refuse(world, kind, nth);
    end_turn(world);
    pass(world, SECOND_US);
    bool was_refused = has_gone_on(world, ENTRIES + 1);
    struct record record;
    struct err err;
    for (int i = 0; i < ENTRIES; i++) {
        char key[16];
        snprintf(key, sizeof key, "key-%d", i);
        assert_int_equal(
            store_get(partition_store(world->partition), span_of_string(key), &record, &err), 0);
        assert_int_equal(record.version, i + 1);
    }
    store_turn_end(world->store);
    world_free(world);
    return was_refused;
}

static void a_start_that_finds_no_memory_for_the_log_goes_on(void **state)
{
    uint64_t nth = 1;
    for (; starts_without(MEM_LOG, nth); nth++) {
        assert_true(nth < ALLOCATIONS_MAX);
    }
    assert_true(nth > ENTRIES + 2); /* what is read, each payload, the array of them */
}

static void a_start_that_finds_no_memory_for_the_store_goes_on(void **state)
{
    uint64_t nth = 1;
    for (; starts_without(MEM_STORE, nth); nth++) {
        assert_true(nth < ALLOCATIONS_MAX);
    }
    assert_true(nth > ENTRIES); /* each entry's, at least */
}

struct waiting {
    struct partition_write write;
    bool is_told;
};

static void on_written(struct partition_write *write, int status, const struct store_result *result)
{
    assert_int_equal(status, 0);
    container_of(write, struct waiting, write)->is_told = true;
}

/* What is applied is still in memory. */
static void a_write_that_finds_no_memory_goes_on(void **state)
{
    struct world *world = world_new();
    end_turn(world);
    pass(world, SECOND_US);
    uint64_t applied = ENTRIES + 1, nth = 1;
    assert_false(has_gone_on(world, applied));
    for (bool was_refused = true; was_refused; nth++) {
        char key[16];
        snprintf(key, sizeof key, "key-%d", (int)nth % ENTRIES);
        struct waiting waiting = { .write.done = on_written };
        /* A delete needs no reserve. */
        waiting.write.payload = command_pack(&(struct command){ .type = COMMAND_DELETE,
                                                                .session = { 8, nth },
                                                                .number = 1,
                                                                .lowest = 1,
                                                                .key = span_of_string(key) });
        refuse(world, MEM_STORE, nth);
        partition_write(world->partition, &waiting.write);
        end_turn(world);
        pass(world, 5 * TICK_US);
        was_refused = has_gone_on(world, ++applied);
        assert_true(waiting.is_told);
        assert_true(nth < ALLOCATIONS_MAX);
    }
    assert_true(nth > 2);
    world_free(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_start_that_finds_no_memory_for_the_log_goes_on),
        cmocka_unit_test(a_start_that_finds_no_memory_for_the_store_goes_on),
        cmocka_unit_test(a_write_that_finds_no_memory_goes_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
