/* The world: builds a cluster, lets it live under faults for a while, heals everything, and sees
 * whether it comes back with all it promised.
 *
 *   form (no faults) → trouble (clients work, faults strike) → healed: clients end, every key is read, replicas agree → judge
 *
 * Files (world_private.h is what they share)
 *   world.c         how a run goes; what a healed cluster must be able to do
 *   world_draw.c    what it is like
 *   world_node.c    processes begin and end
 *   world_faults.c  what strikes
 *   world_disks.c   the same, of disks that lose what they held
 *   world_judge.c   what must be true
 *
 * Swarm testing (Groce et al. 2012): each run draws which faults may strike at all, and how often;
 * a run in which everything happens at once hides what a run with only power losses shows. */
#include "sim/world.h"

#include <stdio.h>
#include <sys/stat.h>

#include "base/check.h"
#include "base/mem.h"
#include "node/node_private.h"
#include "server/server.h"
#include "sim/checker.h"
#include "sim/checker_state.h"
#include "sim/env_sim.h"
#include "sim/replicas.h"
#include "sim/workload.h"
#include "sim/world_private.h"

enum {
    FORM_MAX_US = 30 * SECOND_US,
    ANSWERS_MAX_US = 20 * SECOND_US, /* clients' deadlines are shorter */
    LEFT_MAX_US =
        5 * SECOND_US / 2,       /* then clients give links up that owe answers: all forgotten */
    STOP_MAX_US = 3 * SECOND_US, /* of a node that was told to stop: STOP_TIMEOUT_US of node.c */
    UP_MAX_US =
        STOP_MAX_US + RESTART_MAX_US + 4 * SECOND_US, /* until all nodes run and know primaries */
    /* from then on until all partitions take writes; a frame lost just before is repeated late */
    WRITABLE_MAX_US = 2 * SECOND_US,
    FULL_MAX_US = 3 * SECOND_US,
    DELETES_MAX_US = 3 * SECOND_US,
    LOOKED_US = 1500 * 1000,     /* a node has looked at its disk */
    ROOM_MAX_US = 6 * SECOND_US, /* until writes go on after disks were full */
    CALM_MAX_US = 4 * SECOND_US,
    DIAL_MAX_US = 6 * SECOND_US, /* a client's attempt that began before, and its pauses */
    SLOW_FACTOR = 50,            /* of one disk, in live_on_a_slow_disk */
    SLOW_LEAST_US = 30000,
    SLOW_PERCENT = 10, /* of the runs */
    SLOW_BATCHES = 9,  /* a node's verdict about its log rests on as many */
    MEASURED_MAX_US = 20 * SECOND_US,
    HANDED_MAX_US = 5 * SECOND_US,  /* from when a disk gets slow until its node leads nothing */
    RETURN_MAX_US = 16 * SECOND_US, /* from when it is well; ten of them are hysteresis */
    HANG_PERCENT = 30,              /* of the runs with the shortest logs, which are full soon */
    HANG_US = 120 * SECOND_US,      /* longer than any look at it */
    FELT_MAX_US = 30 * SECOND_US,   /* until the log is full for that: else nothing is asked */
    COMPARE_SLACK_US = 4 * SECOND_US,
    COMPARE_FLUSHES = 4, /* two for either of two marks, see expect_compared */
    LOOK_EVERY = 64,     /* steps: what need not be seen at once */
};

#define NAME(fault, text) [fault] = text

static const char *const fault_names[FAULT_COUNT] = {
    NAME(FAULT_CRASH, "crash"),
    NAME(FAULT_POWER, "power loss"),
    NAME(FAULT_CRASH_ALL, "crash of all"),
    NAME(FAULT_POWER_ALL, "power loss of all"),
    NAME(FAULT_ABSENCE, "long absence"),
    NAME(FAULT_RESTART, "restart in order"),
    NAME(FAULT_PAUSE, "pause"),
    NAME(FAULT_ISOLATE, "isolation"),
    NAME(FAULT_SPLIT, "split"),
    NAME(FAULT_ONE_WAY, "one-way link"),
    NAME(FAULT_BREAK, "broken connection"),
    NAME(FAULT_SLOW_DISK, "slow disk"),
    NAME(FAULT_SLOW_FLUSH, "slow flush"),
    NAME(FAULT_DISK_FULL, "full disk"),
    NAME(FAULT_WRITE_FAILS, "failed write"),
    NAME(FAULT_SYNC_FAILS, "failed sync"),
    NAME(FAULT_CLOCK_JUMP, "clock jump"),
    NAME(FAULT_CLOCK_STOP, "clock stop"),
    NAME(FAULT_CLOCK_DRIFT, "clock drift"),
    NAME(FAULT_FLIP_LOG, "flip in the log"),
    NAME(FAULT_FLIP_RECORD, "flip in the store"),
    NAME(FAULT_MISDIRECTED, "misdirected write"),
    NAME(FAULT_NO_MEMORY, "out of memory"),
    NAME(FAULT_FRAME_LOST, "message lost"),
    NAME(FAULT_FRAME_DOUBLED, "message doubled"),
    NAME(FAULT_FRAME_SWAPPED, "message overtaken"),
    NAME(FAULT_FRAME_DELAYED, "message delayed"),
    NAME(FAULT_REIGNS, "short reigns"),
    NAME(FAULT_SWAP, "crash at a swap"),
    NAME(FAULT_OLD_IMAGE, "old disk image"),
    NAME(FAULT_HANG, "links and disk hang"),
    NAME(FAULT_LULL, "lull"),
};

#undef NAME

const char *world_bias_name(enum world_bias bias)
{
    static const char *const names[BIAS_COUNT] = { "none",  "reigns", "leaders", "images",
                                                   "scans", "disks",  "cutoff",  "logs" };
    return names[bias];
}

const char *world_fault_name(enum world_fault fault)
{
    return fault_names[fault];
}

static void write_line(void *ctx, enum logger_level level, const char *line)
{
    struct world *world = ctx;
    if (world->options->trace) {
        fprintf(stderr, "%10.6f %s\n", (double)world->schedule.now_us / 1e6, line);
    }
}

void world_note_violation(void *ctx, const char *text)
{
    struct world *world = ctx;
    if (world->report->violations++ == 0) {
        snprintf(world->report->violation, sizeof world->report->violation, "at %.6f s: %s",
                 (double)world->schedule.now_us / 1e6, text);
    }
    LOG_ERROR(&world->logger, "VIOLATION %s", text);
}

struct logger world_make_logger(struct world *world, const char *node)
{
    return (struct logger){ .level = world->options->trace ? LOGGER_DEBUG : LOGGER_ERROR,
                            .write = write_line,
                            .ctx = world,
                            .node = node };
}

void world_note_fault(struct world *world, enum world_fault fault)
{
    world->report->faults[fault]++;
    for (int i = 0; i < WORKLOAD_COUNT; i++) {
        world->report->cells[fault][i] += world->workload.in_flight[i] > 0;
    }
}

static void note_each(struct world *world, enum world_fault fault, uint64_t now, uint64_t *before)
{
    for (; *before < now; (*before)++) {
        world_note_fault(world, fault);
    }
}

static bool has_struck(const struct world_node *node, const struct disk_stats *stats)
{
    uint64_t differ = (node->struck.writes_failed ^ stats->writes_failed) |
                      (node->struck.syncs_failed ^ stats->syncs_failed) |
                      (node->struck.misdirected ^ stats->misdirected);
    for (int i = 0; i < MEM_KINDS; i++) {
        differ |= node->struck.refused[i] ^ node->gates.of[i].refused;
    }
    return differ != 0;
}

/* Faults that wait for a call strike inside of a step. */
static void note_struck(struct world_node *node)
{
    const struct disk_stats *stats = disk_stats(node->disk);
    struct world *world = node->world;
    if (!has_struck(node, stats)) {
        return; /* as in nearly all steps */
    }
    for (int i = 0; i < MEM_KINDS; i++) {
        world->report->starved[i] += node->gates.of[i].refused - node->struck.refused[i];
        if (node->gates.of[i].refused != node->struck.refused[i]) {
            world_arm_gate(world, &node->gates.of[i], i);
        }
        note_each(world, FAULT_NO_MEMORY, node->gates.of[i].refused, &node->struck.refused[i]);
    }
    note_each(world, FAULT_WRITE_FAILS, stats->writes_failed, &node->struck.writes_failed);
    note_each(world, FAULT_SYNC_FAILS, stats->syncs_failed, &node->struck.syncs_failed);
    if (node->struck.misdirected < stats->misdirected) {
        checker_damaged(&world->checker, node->number);
    }
    note_each(world, FAULT_MISDIRECTED, stats->misdirected, &node->struck.misdirected);
}

/* Runs until `until_us` or, if given, until is_done. */
bool world_run_until(struct world *world, uint64_t until_us, bool (*is_done)(struct world *world))
{
    struct schedule *schedule = &world->schedule;
    struct schedule_event *event;
    for (uint64_t step = 0; world->report->violations == 0; step++) {
        if (is_done && step % 256 == 0 && is_done(world)) {
            return true;
        }
        event = schedule_next(schedule, until_us);
        if (!event) {
            return is_done && is_done(world);
        }
        struct env_sim *owner = event->owner; /* the event may be gone after it ran */
        if (!env_sim_step(schedule, event) || !owner || owner->machine >= world->node_count) {
            continue;
        }
        struct world_node *node = &world->nodes[owner->machine];
        note_struck(node);
        if (node->server) {
            checker_step(&world->checker, node->number, server_node(node->server));
            if (world->reigns.until_us > schedule->now_us) {
                world_watch_reigns(world, node);
            }
            if (world->swaps_until_us > schedule->now_us) {
                world_watch_swaps(world, node);
            }
            if (step % LOOK_EVERY == 0) {
                world_judge_log(node);
                checker_look(&world->checker, node->number, env_now_us(&node->env->env));
            }
        }
    }
    return false;
}

static void expect(struct world *world, bool is_fine, const char *what)
{
    if (!is_fine && world->report->violations == 0) {
        char text[200];
        snprintf(text, sizeof text, "no progress: %s", what);
        world_note_violation(world, text);
        world_tell_replicas(world);
    }
}

static bool are_writes_admitted(struct world *world)
{
    for (uint32_t i = 0; i < world->node_count; i++) {
        struct server *server = world->nodes[i].server;
        if (!server || !server_node(server)->reserve ||
            reserve_is_spent(server_node(server)->reserve)) {
            return false;
        }
    }
    return true;
}

static void expect_admission(struct world *world)
{
    expect(world, world_run_until(world, world->schedule.now_us + ROOM_MAX_US, are_writes_admitted),
           "a reserve is not made though the disks have room");
}

/* All disks are full at once, under load: deletes go on all the while (decisions/008). When there
 * is room again, so do writes. */
static void live_on_full_disks(struct world *world)
{
    struct schedule *schedule = &world->schedule;
    expect_admission(world);
    world_run_until(world, schedule->now_us + LOOKED_US, NULL); /* a reserve is there */
    if (!world_is_formed(world) || !world_are_replicas_whole(world)) {
        return; /* images take room, and a log that has to wait for one is not cut */
    }
    LOG_INFO(&world->logger, "world: all disks are full");
    world_note_fault(world, FAULT_DISK_FULL);
    for (uint32_t i = 0; i < world->node_count; i++) {
        world_fill_disk(&world->nodes[i]);
    }
    world_run_until(world, schedule->now_us + random_between(&world->nemesis, 0, FULL_MAX_US),
                    NULL);
    if (world->report->violations == 0) {
        workload_probe_again(&world->workload, CAIRN_DELETE);
    }
    expect(world, world_run_until(world, schedule->now_us + DELETES_MAX_US, world_is_writable),
           "a partition takes no deletes on full disks");
    for (uint32_t i = 0; i < world->node_count; i++) {
        disk_set_capacity(world->nodes[i].disk, DISK_BYTES);
    }
    if (world->report->violations == 0) {
        workload_probe_again(&world->workload, CAIRN_PUT);
    }
    expect(world, world_run_until(world, schedule->now_us + ROOM_MAX_US, world_is_writable),
           "a partition takes no writes though the disks have room again");
}

/* It knows that it is slow, and leads nothing. */
static bool has_handed_over(struct world *world)
{
    const struct node *node = server_node(world->slow->server);
    if (!disks_is_slow(&node->disks)) {
        return false;
    }
    for (size_t i = 0; i < node->partition_count; i++) {
        if (node->partitions[i] && partition_is_primary(node->partitions[i])) {
            return false;
        }
    }
    return true;
}

/* Only an image can bring this replica up to date: while the load goes on, its leader's log may be cut beyond that again and again
 * before the image is installed. */
static bool awaits_image(struct world *world, uint32_t group, uint64_t replica)
{
    for (uint32_t i = 0; i < world->node_count; i++) {
        struct partition *partition =
            node_find_partition(server_node(world->nodes[i].server), group);
        const struct raft *raft = partition ? partition_raft(partition) : NULL;
        for (int k = 0; raft && raft->role == RAFT_LEADER && k < raft->config.replica_count; k++) {
            const struct raft_progress *peer = &raft->progress[k];
            if (peer->id == replica && peer->state == RAFT_IMAGING) {
                return true;
            }
        }
    }
    return false;
}

/* A node whose disk is well leads the groups that it is preferred for; may_lack: but those for which it awaits an image. */
static bool leads_its_own(struct world *world, bool may_lack)
{
    const struct node *node = server_node(world->slow->server);
    for (size_t i = 0; i < node->partition_count; i++) {
        struct partition *partition = node->partitions[i];
        if (partition && partition_topology(partition)->replicas[0].node_id == node_id(node) &&
            !partition_is_primary(partition) &&
            !(may_lack && awaits_image(world, partition_group(partition),
                                       partition_raft(partition)->config.self))) {
            return false;
        }
    }
    return true;
}

static bool has_got_back(struct world *world)
{
    return leads_its_own(world, false);
}

static bool has_got_back_what_it_holds(struct world *world)
{
    return leads_its_own(world, true);
}

/* Nobody is slow. */
static bool are_disks_well(struct world *world)
{
    for (uint32_t i = 0; i < world->node_count; i++) {
        if (disks_is_slow(&server_node(world->nodes[i].server)->disks)) {
            return false;
        }
    }
    return true;
}

/* That its node leads nothing soon, and that it stays so. */
static void expect_hand_over(struct world *world)
{
    struct schedule *schedule = &world->schedule;
    expect(world, world_run_until(world, schedule->now_us + HANDED_MAX_US, has_handed_over),
           "a node with a slow disk goes on to lead");
    world->workload.is_troubled = false;
    world_run_until(world, schedule->now_us + SECOND_US,
                    NULL); /* leadership was on its way there, too */
    expect(world, world_run_until(world, schedule->now_us + SECOND_US, has_handed_over),
           "a node with a slow disk is handed leadership");
    for (int i = 0; i < 8 && world->report->violations == 0; i++) {
        world_run_until(world, schedule->now_us + SECOND_US / 4, NULL);
        expect(world, has_handed_over(world), "a node with a slow disk leads again");
    }
}

/* A node measures its log by what it writes: where little is written, that takes as long as it takes. */
static bool has_measured(struct world *world)
{
    const struct node *node = server_node(world->slow->server);
    return log_stats(node->log)->batches >= world->slow_batches;
}

/* One disk takes fifty times as long as the others: soon its node leads nothing, and that stays so, while it goes on to follow
 * (decisions/012). When the disk is well, primaries return. */
static void live_on_a_slow_disk(struct world *world)
{
    struct schedule *schedule = &world->schedule;
    uint64_t others_us = SLOW_LEAST_US / SLOW_FACTOR;
    world->slow = world_draw_node(world);
    if (!world_is_formed(world) || !world_are_replicas_whole(world) || !are_disks_well(world)) {
        return; /* who waits for an image can't take over, nor who is slow */
    }
    for (uint32_t i = 0; i < world->node_count; i++) {
        const struct world_node *node = &world->nodes[i];
        others_us = node != world->slow && node->env->log_delay_us > others_us
                        ? node->env->log_delay_us
                        : others_us;
    }
    struct env_sim *env = world->slow->env;
    schedule_remove(schedule, &world->slow->relief); /* of an earlier fault */
    LOG_INFO(&world->logger, "world: the disk of %s is slow", world->slow->name);
    /* It may have been handed partitions a moment ago, and its vote for itself takes a second. */
    world->workload.is_troubled = true;
    env->slow_factor = (uint32_t)(SLOW_FACTOR * others_us / env->log_delay_us) + 1;
    world->slow_batches = log_stats(server_node(world->slow->server)->log)->batches + SLOW_BATCHES;
    if (world_run_until(world, schedule->now_us + MEASURED_MAX_US, has_measured)) {
        expect_hand_over(world);
    }
    world->workload.is_troubled = false;
    env_sim_heal_disk(env);
    expect(world,
           world_run_until(world, schedule->now_us + RETURN_MAX_US, has_got_back_what_it_holds),
           "primaries do not return to a node whose disk is well again");
}

/* Writes wait for the flush that hangs, and the others are free to take them. */
static bool is_hang_felt(struct world *world)
{
    for (uint32_t i = 0; i < world->node_count; i++) {
        const struct node *node = server_node(world->nodes[i].server);
        bool hangs = node_flush_us(node) > SECOND_US;
        if (hangs != (&world->nodes[i] == world->slow) || hangs != node_log_is_full(node)) {
            return false;
        }
    }
    return true;
}

/* Its log has room again, and no replica needs an image. */
static bool has_caught_up(struct world *world)
{
    return !node_log_is_full(server_node(world->slow->server)) && world_are_replicas_whole(world);
}

/* A flush of all replicas, each in a transaction of its own, at most about. */
static uint64_t flush_us_max(const struct world *world)
{
    uint64_t longest_us = 0;
    for (uint32_t i = 0; i < world->node_count; i++) {
        uint64_t delay_us = world->nodes[i].env->flush_delay_us;
        longest_us = delay_us > longest_us ? delay_us : longest_us;
    }
    return 2 * longest_us * (world->partitions + 1);
}

/* Whether the log is full soon when flushes hang, and only then, and who falls behind it is sure to catch up: in a small map images
 * may be given up again and again while the load goes on (decisions/004). */
static bool may_hang_a_flush(const struct world *world)
{
    return world->node_count >= 3 && world->report->violations == 0 &&
           world->segment_bytes == 1 << 16 && !world->has_small_map &&
           flush_us_max(world) < SECOND_US; /* else a node may count as slow when it is well, too */
}

/* The flushes of one node hang, while its log is as quick as ever. Once the log is full for that, the node soon leads nothing, and
 * every partition takes writes; when flushes are well again, so do primaries return (decisions/012). */
static void live_on_a_hung_flush(struct world *world)
{
    struct schedule *schedule = &world->schedule;
    world->slow = world_draw_node(world);
    if (!world_is_formed(world) || !world_are_replicas_whole(world) || !are_disks_well(world)) {
        return;
    }
    struct env_sim *env = world->slow->env;
    schedule_remove(schedule, &world->slow->relief); /* of an earlier fault */
    LOG_INFO(&world->logger, "world: the flushes of %s hang", world->slow->name);
    env->flush_factor = HANG_US / env->flush_delay_us;
    if (world_run_until(world, schedule->now_us + FELT_MAX_US, is_hang_felt)) {
        world->report->flushes_hung++;
        expect_hand_over(world);
        if (world->report->violations == 0) {
            workload_probe_again(&world->workload, CAIRN_PUT);
        }
        expect(world, world_run_until(world, schedule->now_us + WRITABLE_MAX_US, world_is_writable),
               "a partition takes no writes while a flush hangs elsewhere");
    }
    env_sim_heal_disk(env);
    expect(world,
           world_run_until(world, schedule->now_us + world_images_max_us(world), has_caught_up),
           "a node whose flush hung does not catch up");
    expect(world, world_run_until(world, schedule->now_us + RETURN_MAX_US, has_got_back),
           "primaries do not return to a node whose flushes are well again");
}

/* Pauses that began before the healing go on. */
static uint64_t find_pause_end(const struct world *world)
{
    uint64_t end_us = world->schedule.now_us;
    for (uint32_t i = 0; i < world->node_count; i++) {
        uint64_t until_us = world->nodes[i].env->paused_until_us;
        end_us = until_us > end_us ? until_us : end_us;
    }
    return end_us;
}

/* Every partition takes writes soon, or as soon as the flush is done that makes room in a full log, or the images are there that it must
 * wait for. */
static bool becomes_writable(struct world *world, uint64_t up_us)
{
    uint64_t first_us = up_us + WRITABLE_MAX_US + flush_us_max(world);
    bool is_done = world_run_until(world, first_us, world_is_writable);
    uint64_t end_us = world->schedule.now_us + world_images_max_us(world);
    while (!is_done && world_has_group_to_wait(world) && world->schedule.now_us < end_us) {
        is_done =
            world_run_until(world, world->schedule.now_us + WRITABLE_MAX_US, world_is_writable);
    }
    return is_done;
}

/* The load goes on, so flushes don't meet: the replicas of every group are compared at a mark (decisions/013), which is proposed
 * within two rounds of the scrub, or one after the mark before it is flushed, and flushed a while later. Flushes that take longer
 * than a round follow one another: either mark waits for the one that had begun already, and for its own. */
static void expect_compared(struct world *world)
{
    uint64_t flush_ms = world->scrub_interval_ms / 16;
    flush_ms = flush_ms < world->flush_idle_ms ? world->flush_idle_ms : flush_ms;
    if (world->scrub_interval_ms > COMPARE_ROUND_MAX_MS || world->report->violations > 0 ||
        !world_is_formed(world) || !world_are_replicas_whole(world)) {
        return; /* who gets an image is compared behind it */
    }
    for (uint32_t i = 0; i < world->checker.group_count; i++) {
        world->checker.groups[i].compare_from = world->checker.groups[i].committed;
    }
    uint64_t bound_us = 1000ull * (3 * world->scrub_interval_ms + 2 * flush_ms) +
                        COMPARE_FLUSHES * flush_us_max(world) + COMPARE_SLACK_US;
    expect(world, world_run_until(world, world->schedule.now_us + bound_us, world_are_compared),
           "replicas of a group under load are not compared");
}

/* After healing: all nodes come up, every partition takes writes soon, and then the load goes on
 * without a failure. */
static void recover(struct world *world)
{
    struct schedule *schedule = &world->schedule;
    uint64_t healed_us = schedule->now_us;
    world_strike_last(world);
    workload_probe(&world->workload);
    expect(world, world_run_until(world, schedule->now_us + UP_MAX_US, world_is_formed),
           "nodes do not come up, or groups find no primary");
    uint64_t up_us = find_pause_end(world);
    expect(world, becomes_writable(world, up_us), "a partition takes no writes");
    world->report->writable_us = schedule->now_us > up_us ? schedule->now_us - up_us : 0;
    world->report->recovery_us = schedule->now_us - healed_us;
    if (world->report->violations == 0 && random_below(&world->nemesis, 4) == 0) {
        live_on_full_disks(world);
    }
    expect_admission(world);
    if (world->report->faults[FAULT_DISK_FULL] > 0 && world->report->violations == 0) {
        world_run_until(world, schedule->now_us + LOOKED_US, NULL);
    }
    if (may_hang_a_flush(world) && random_percent(&world->nemesis, HANG_PERCENT)) {
        live_on_a_hung_flush(world);
    }
    expect(world,
           world_run_until(world, schedule->now_us + DIAL_MAX_US, world_are_clients_connected),
           "a client reaches no node though all are up");
    workload_expect_calm(&world->workload);
    if (world->node_count >= 3 && world->report->violations == 0 &&
        random_percent(&world->nemesis, SLOW_PERCENT)) {
        live_on_a_slow_disk(world);
    }
    uint64_t end_us = schedule->now_us + random_between(&world->nemesis, 0, CALM_MAX_US);
    uint64_t least_us = BEGIN_US + (uint64_t)world->options->least_seconds * SECOND_US;
    world_run_until(world, end_us > least_us ? end_us : least_us, NULL);
    expect_compared(world);
}

static void live(struct world *world)
{
    struct schedule *schedule = &world->schedule;
    expect(world, world_run_until(world, schedule->now_us + FORM_MAX_US, world_is_formed),
           "the cluster does not form");
    workload_begin(&world->workload);
    world_begin_frame_faults(world);
    world_begin_starving(world);
    schedule_add(schedule, &world->strike,
                 schedule->now_us + random_delay(&world->nemesis, world->fault_interval_us));
    world_run_until(world, schedule->now_us + world->trouble_us, NULL);
    schedule_remove(schedule, &world->strike);
    world_end_starving(world); /* an image of many allocations may never find them all */
    expect(world,
           world_run_until(world, schedule->now_us + world_images_max_us(world), world_is_old_over),
           "a node whose disk was put back is not made whole");
    world_end_old_image(world);
    world_heal(world);
    recover(world);
    expect(world, world_run_until(world, schedule->now_us + ANSWERS_MAX_US, world_are_clients_idle),
           "requests stay unanswered");
    if (world->report->violations == 0) {
        workload_read_all(&world->workload);
    }
    expect(world, world_run_until(world, schedule->now_us + ANSWERS_MAX_US, world_is_all_read),
           "keys cannot be read after healing");
    expect(world, world_run_until(world, schedule->now_us + LEFT_MAX_US, world_is_answered),
           "a request that a client sent has no answer");
    expect(
        world,
        world_run_until(world, schedule->now_us + world_images_max_us(world), world_has_converged),
        "replicas do not converge");
    if (world->report->violations == 0) {
        world_compare_stores(world);
    }
    for (uint32_t i = 0; i < world->node_count && world->report->violations == 0; i++) {
        checker_state_end(&world->checker, i);
    }
    if (world->report->violations == 0) {
        world->report->undecided = workload_judge(&world->workload);
    }
}

void world_run(const struct world_options *options, struct world_report *report)
{
    struct world *world = MEM_NEW(struct world);
    *report = (struct world_report){ 0 };
    world->options = options;
    world->report = report;
    CHECK(mkdir(options->scratch, 0700) == 0);
    world_init(world);
    live(world);
    report->hash = world->schedule.hash;
    report->steps = world->schedule.steps;
    report->virtual_us = world->schedule.now_us - BEGIN_US;
    report->nodes = world->node_count;
    report->calls = world->workload.stats.calls;
    report->ok = world->workload.stats.ok;
    report->refused = world->workload.stats.refused;
    report->unknown = world->workload.stats.unknown;
    report->nothing = world->workload.stats.nothing;
    report->elections = world->checker.elections;
    report->committed = world->checker.committed;
    report->images = world->checker.images;
    world_fini(world);
    mem_free(world);
}
