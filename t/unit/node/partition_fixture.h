/* One replica of a group, for tests of the partition: its log and core are real, on the log's fake disk, and so is its store. The log
 * holds what a process before has written, the store nothing of it. The node's tick and turns are played, and the tick leaves out groups
 * that say they are quiet, as the node's does. What other replicas have to say is the test's, between two turns. */
#ifndef T_UNIT_NODE_PARTITION_FIXTURE_H
#define T_UNIT_NODE_PARTITION_FIXTURE_H

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
    TICK_US = 20 * 1000,
    SECOND_US = 1000 * 1000,
    ELECTION_MS = 300,
    HEARTBEAT_MS = 100,
    LOG_TERM = 1, /* of what the process before has written */
};

struct world {
    struct fake_env *fake;
    struct mem_gates gates;
    struct logger logger;
    struct log *log;
    struct store *store;
    char directory[32];
    struct partition *partition;
    struct partition_host host; /* with what the test adds to it */
    struct partition_scratch scratch;
    struct budget budget;
    uint64_t hlc, changes, now_ms, quiet_until_ms[GROUP + 1];
    enum raft_cut cut_level;
    bool is_tight, is_awake;
    /* What was sent is heard, and answered. False: nothing was. NULL: there is nobody else. */
    bool (*hear)(struct world *world);
    enum mem_kind kind; /* that is refused: the nth allocation from the next time on that entries are durable; 0: none is */
    uint64_t nth;
};

static inline void world_log_line(void *ctx, enum logger_level level, const char *line)
{
}

static inline void world_on_durable(void *ctx, uint32_t group, uint64_t index, uint64_t term)
{
    struct world *world = ctx;
    if (world->partition) {
        partition_durable(world->partition, index, term);
        world->gates.of[world->kind].refuse_in = world->nth;
        world->nth = 0;
    }
}

static inline void world_on_state_durable(void *ctx, uint32_t group, uint64_t term, uint64_t vote)
{
    struct world *world = ctx;
    if (world->partition) {
        partition_state_durable(world->partition, term, vote);
    }
}

static inline void world_on_hole(void *ctx, uint32_t group)
{
    fail();
}

static inline void world_on_batch(void *ctx)
{
}

static inline void world_on_failure(void *ctx, const struct err *err)
{
    fail_msg("%s", err->text);
}

static inline void world_on_flushed(void *ctx)
{
    partition_flushed(((struct world *)ctx)->partition);
}

static inline void world_on_wake(void *ctx, struct partition *partition)
{
    ((struct world *)ctx)->is_awake = true;
}

static inline void world_on_partition(void *ctx, struct partition *partition)
{
}

static inline void world_on_partition_failure(void *ctx, struct partition *partition, const struct err *err)
{
    fail_msg("%s", err->text);
}

static inline void world_open_log(struct world *world, bool is_alone)
{
    struct log_config config = { .env = &world->fake->env,
                                 .logger = &world->logger,
                                 .directory = "data/log",
                                 .segment_bytes = 64 << 10,
                                 .node_id = NODE,
                                 .is_alone = is_alone,
                                 .on_durable = world_on_durable,
                                 .on_state_durable = world_on_state_durable,
                                 .on_hole = world_on_hole,
                                 .on_suspect = world_on_hole,
                                 .on_healed = world_on_hole,
                                 .on_batch = world_on_batch,
                                 .on_failure = world_on_failure,
                                 .ctx = world };
    struct err err;
    assert_int_equal(log_open(&config, &world->log, &err), 0);
}

/* Of the process before: nothing of it was flushed. Entry i puts key-i, counted from 0. */
static inline void world_write_log(struct world *world, int entries, bool is_alone)
{
    world_open_log(world, is_alone);
    log_group_add(world->log, GROUP, REPLICA, 1, 0);
    log_append_state(world->log, GROUP, LOG_TERM, REPLICA);
    for (int i = 0; i < entries; i++) {
        char key[16];
        snprintf(key, sizeof key, "key-%d", i);
        uint64_t term = LOG_TERM;
        struct blob *payload = command_pack(&(struct command){ .type = COMMAND_PUT,
                                                               .time = hlc_from_us(1700000000000000) + (uint64_t)i,
                                                               .session = { 7, 0 },
                                                               .number = 1 + (uint64_t)i,
                                                               .lowest = 1 + (uint64_t)i,
                                                               .key = span_of_string(key),
                                                               .value = span_of_string("value") });
        log_append(world->log, GROUP, 1 + (uint64_t)i, &term, &payload, 1);
        blob_unref(payload);
    }
    fake_run(world->fake);
    log_close(world->log);
    fake_run(world->fake);
}

static inline void world_open_store(struct world *world)
{
    struct store_config config = { .env = &world->fake->env,
                                   .logger = &world->logger,
                                   .directory = world->directory,
                                   .node_id = NODE,
                                   .map_bytes = 16 << 20,
                                   .databases_max = 64,
                                   .no_sync = true,
                                   .on_failure = world_on_failure,
                                   .on_flushed = world_on_flushed,
                                   .ctx = world };
    struct err err;
    strcpy(world->directory, "/tmp/cairn-partition-XXXXXX");
    assert_non_null(mkdtemp(world->directory));
    assert_int_equal(store_open(&config, &world->store, &err), 0);
}

/* The replica of `group` on NODE, which is REPLICA, starts on a log with that many entries; no turn has passed. */
static inline void world_init(struct world *world, int entries, const struct topology_partition *group)
{
    *world = (struct world){ .fake = fake_new(1), .logger.write = world_log_line };
    bool is_alone = group->replica_count == 1;
    world_write_log(world, entries, is_alone);
    world->fake->env.gates = &world->gates;
    world_open_log(world, is_alone);
    world_open_store(world);
    world->host = (struct partition_host){ .env = &world->fake->env,
                                           .logger = &world->logger,
                                           .log = world->log,
                                           .store = world->store,
                                           .budget = &world->budget,
                                           .election_timeout_ms = ELECTION_MS,
                                           .heartbeat_ms = HEARTBEAT_MS,
                                           .scratch = &world->scratch,
                                           .hlc = &world->hlc,
                                           .changes = &world->changes,
                                           .now_ms = &world->now_ms,
                                           .cut_level = &world->cut_level,
                                           .is_tight = &world->is_tight,
                                           .quiet_until_ms = world->quiet_until_ms,
                                           .spoke = world_on_partition,
                                           .wake = world_on_wake,
                                           .read_wanted = world_on_partition,
                                           .applied = world_on_partition,
                                           .role_changed = world_on_partition,
                                           .failed = world_on_partition_failure,
                                           .ctx = world };
    budget_look(&world->budget, &(struct budget_view){ .budget = 1 << 20,
                                                       .node_count = (size_t)group->replica_count,
                                                       .room = UINT64_MAX,
                                                       .segment_bytes = 64 << 10 });
    struct err err;
    assert_int_equal(log_group_count(world->log), 1);
    assert_int_equal(partition_open(&world->host, group, NODE, log_group_at(world->log, 0), &world->partition, &err), 0);
    assert_int_equal(partition_applied(world->partition), 0);
    assert_null(log_peek(world->log, GROUP, 1));
}

static inline void world_fini(struct world *world)
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
}

/* What a node does at the end of an event, until all is at rest. */
static inline void world_end_turn(struct world *world)
{
    bool was_heard = false;
    do {
        if (world->is_awake) {
            world->is_awake = false;
            partition_turn(world->partition);
            store_turn_end(world->store);
        }
        fake_run(world->fake);
        was_heard = world->hear && world->hear(world);
    } while (world->is_awake || was_heard);
}

static inline void world_pass(struct world *world, uint64_t us)
{
    for (uint64_t passed_us = 0; passed_us < us; passed_us += TICK_US) {
        world->fake->now_us += TICK_US;
        world->now_ms = world->fake->now_us / 1000;
        if (world->quiet_until_ms[GROUP] <= world->now_ms) {
            partition_tick(world->partition, world->now_ms);
        }
        world_end_turn(world);
    }
}

#endif
