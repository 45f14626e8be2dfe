/* The world: builds a cluster, lets it live under faults for a while, heals everything, and sees
 * whether it comes back with all it promised.
 *
 *   form (no faults) → trouble (clients work, faults strike) → healed: clients end, every key is
 * read, replicas agree → judge
 *
 * Swarm testing (Groce et al. 2012): each run draws which faults may strike at all, and how often;
 * a run in which everything happens at once hides what a run with only power losses shows. */
#include "sim/world.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/check.h"
#include "base/mem.h"
#include "node/node_private.h"
#include "server/server.h"
#include "sim/checker.h"
#include "sim/checker_state.h"
#include "sim/env_sim.h"
#include "sim/old_image.h"
#include "sim/replicas.h"
#include "sim/rot.h"
#include "sim/workload.h"

enum {
    NODES_MAX = 5,
    SECOND_US = 1000 * 1000,
    BEGIN_US = SECOND_US, /* the virtual time at which a run begins */
    FORM_MAX_US = 30 * SECOND_US,
    RESTART_MAX_US = 4 * SECOND_US,
    DRIFT_PPM_MAX = 100000,          /* what decisions/006 allows clocks */
    REACH_SLACK_MS = 30,             /* ticks */
    ANSWERS_MAX_US = 20 * SECOND_US, /* clients' deadlines are shorter */
    STOP_MAX_US = 3 * SECOND_US, /* of a node that was told to stop: STOP_TIMEOUT_US of node.c */
    UP_MAX_US =
        STOP_MAX_US + RESTART_MAX_US + 4 * SECOND_US, /* until all nodes run and know primaries */
    /* from then on until all partitions take writes; a frame lost just before is repeated late */
    WRITABLE_MAX_US = 2 * SECOND_US,
    FULL_MAX_US = 3 * SECOND_US,
    DELETES_MAX_US = 3 * SECOND_US,
    LOOKED_US = 1500 * 1000,          /* a node has looked at its disk */
    ROOM_MAX_US = 6 * SECOND_US,      /* until writes go on after disks were full */
    ROT_PERCENT = 30,                 /* of the runs */
    ROT_SOON_US = SECOND_US / 2,      /* after a start: about when the commit index is learned */
    AMNESIA_MAX_US = SECOND_US / 2,   /* of commits that are forgotten */
    HANG_MAX_US = 4 * SECOND_US,      /* of links: long enough for an election */
    HANG_MORE_US = 3 * SECOND_US / 2, /* how much longer the disk hangs */
    LULL_MAX_US = 20 * SECOND_US,     /* the others fill and cut their logs */
    LULL_BEGIN_US = SECOND_US,        /* about when another leader is elected */
    SLOW_FACTOR_MAX = 100,
    RESERVE_SEGMENTS = 2, /* as with the defaults */
    /* An image whose pieces are smaller must find a quick disk, since each piece is durable before the
     * next is asked for: it must be there before its index is cut from the log that goes on. */
    PIECE_SMALL_BYTES = 32 << 10,
    CONVERGE_MAX_US = 60 * SECOND_US, /* throttled images of all partitions, then the idle flush */
    CALM_MAX_US = 4 * SECOND_US,
    SLOW_FACTOR = 50, /* of one disk, in live_on_a_slow_disk */
    SLOW_LEAST_US = 30000,
    SLOW_PERCENT = 10,              /* of the runs */
    HANDED_MAX_US = 5 * SECOND_US,  /* from when a disk gets slow until its node leads nothing */
    RETURN_MAX_US = 16 * SECOND_US, /* from when it is well; ten of them are hysteresis */
    COMPARE_ROUND_MAX_MS =
        4000, /* replicas are waited for to be compared if a scrub's round is no longer */
    COMPARE_SLACK_US = 4 * SECOND_US,
    MAP_BYTES = 64 << 20,
    OVERLAY_BYTES = 32 << 20,
    DISK_BYTES = 1 << 30,
    LOG_PERCENT_MAX = 250,
    LOG_SLACK_SEGMENTS =
        2, /* beyond LIMIT_LOG_HARD_PERCENT: a batch, a checkpoint, no-ops, votes */
    LOG_OVER_US_MAX = SECOND_US / 2, /* a tick of the node's, and a flush's end */
    LOOK_EVERY = 64,                 /* steps: what need not be seen at once */
    ABSENCE_MAX_US = 40 * SECOND_US,
    OLD_POLL_US = 20 * 1000,
};

struct world_node {
    struct world *world;
    uint32_t number; /* from 0 */
    char name[16], address[48], *data;
    struct env_sim *env;
    struct disk *disk;
    struct server *server; /* NULL: not running */
    struct logger logger;
    /* Its log is too long: a group that could be cut there, and since when it is not. */
    uint32_t uncut_group;
    uint64_t uncut_start, uncut_us, log_looked_us;
    bool is_absent; /* for long */
    uint32_t starts;
    struct mem_gates gates;
    /* Countdowns that have struck, as last counted. */
    struct {
        uint64_t refused[MEM_KINDS], writes_failed, syncs_failed, misdirected;
    } struck;
    uint32_t flips_due;     /* in its store, before it starts again */
    uint32_t log_flips_due; /* in its log, soon after it started */
    bool is_stopping;       /* it told that it stopped; to be buried */
    int stop_status;
    char stop_text[256];
    struct schedule_event boot;  /* owner: the world */
    struct schedule_event start; /* owner: the process */
    struct schedule_event bury;
    struct schedule_event ambush; /* it was caught in the middle of writing its log */
    enum env_sim_end ambush_end;
    struct schedule_event relief; /* slow and full disks get well */
    struct schedule_event rot;    /* log_flips_due are */
};

/* What was within reach of a primary when a write was asked that all must acknowledge. */
struct world_ack {
    uint32_t group;
    uint64_t leader, term;
    struct {
        uint64_t node_id, boot_id, until_us;
    } replicas[LIMIT_REPLICAS];
};

struct world {
    const struct world_options *options;
    struct world_report *report;
    struct schedule schedule;
    struct network network;
    struct checker checker;
    struct workload workload;
    struct world_ack acks[WORKLOAD_SESSIONS_MAX]; /* by session */
    struct logger logger;                         /* the world's and the clients' own lines */
    struct random draw;                           /* what the run is like */
    struct random nemesis;
    struct world_node nodes[NODES_MAX];
    uint32_t node_count;
    char bootstrap[256], endpoints[256];
    uint64_t flush_bytes, log_bytes, segment_bytes, log_cache_bytes;
    uint32_t flush_idle_ms, scrub_interval_ms, image_chunk_bytes, image_bytes_per_second;
    enum world_bias bias;
    uint32_t mix;            /* of workloads */
    uint64_t swaps_until_us; /* images that are swapped in before strike their process */
    bool may_strike[FAULT_COUNT];
    uint64_t starves_every
        [MEM_KINDS]; /* so many allocations per one that fails; 0: none does by itself */
    uint32_t partitions, replicas;
    struct world_node *slow; /* whose disk is, in live_on_a_slow_disk */
    uint32_t victim;         /* the node whose disk may rot: never a majority of a group */
    uint32_t fault_interval_us;
    uint32_t hurry_percent, lease_percent; /* of the calls: see workload.h */
    bool scans_large;
    uint32_t grain_us; /* of every loop, see env_sim.h */
    uint64_t trouble_us;
    struct schedule_event strike, heal_links;
    struct {
        struct world_node *behind; /* lacks what came since */
        uint64_t mark;             /* of the victim's log */
        struct schedule_event end;
    } amnesia;
    /* An old disk image, and what must not happen until its node is whole again (see strike_old_image). */
    struct world_old {
        struct old_image *image;    /* NULL: none is kept */
        struct world_node *node;    /* whose */
        uint32_t starts[NODES_MAX]; /* of all, when it was taken */
        bool is_with_all;           /* all fall when it is put back */
        struct world_node *behind;  /* then: lacks what came just before */
        struct schedule_event put;
        bool is_healing;
    } old;
    struct world_reigns {
        uint32_t group;
        uint64_t until_us; /* 0: not under way */
        uint64_t term;     /* the newest whose leader was seen */
        struct world_node *leader;
        struct schedule_event end; /* of its reign */
    } reigns;
};

/* --- What people see */

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

static void on_violation(void *ctx, const char *text)
{
    struct world *world = ctx;
    if (world->report->violations++ == 0) {
        snprintf(world->report->violation, sizeof world->report->violation, "at %.6f s: %s",
                 (double)world->schedule.now_us / 1e6, text);
    }
    LOG_ERROR(&world->logger, "VIOLATION %s", text);
}

static struct logger make_logger(struct world *world, const char *node)
{
    return (struct logger){ .level = world->options->trace ? LOGGER_DEBUG : LOGGER_ERROR,
                            .write = write_line,
                            .ctx = world,
                            .node = node };
}

/* A fault has struck: at once, or, with those that wait for a file call, now. */
static void note_fault(struct world *world, enum world_fault fault)
{
    world->report->faults[fault]++;
    for (int i = 0; i < WORKLOAD_COUNT; i++) {
        world->report->cells[fault][i] += world->workload.in_flight[i] > 0;
    }
}

/* --- Nodes */

static void on_observe(void *ctx, uint32_t group, uint64_t index, uint64_t term,
                       struct span payload)
{
    struct world_node *node = ctx;
    checker_applied(&node->world->checker, node->number, group, index, term, payload);
}

static void on_observe_turn(void *ctx, uint32_t group)
{
    struct world_node *node = ctx;
    checker_turn(&node->world->checker, node->number, group);
}

static void on_observe_image(void *ctx, uint32_t group, uint64_t index, uint64_t term)
{
    struct world_node *node = ctx;
    checker_image(&node->world->checker, node->number, group, index, term);
}

static void on_stopped(void *ctx, int status, const char *text)
{
    struct world_node *node = ctx;
    node->is_stopping = true;
    node->stop_status = status;
    snprintf(node->stop_text, sizeof node->stop_text, "%s", text);
    schedule_add(&node->world->schedule, &node->bury, node->world->schedule.now_us);
}

/* Stops that have no cause among the faults are violations. */
static bool is_stop_explained(const struct world_node *node)
{
    const struct world *world = node->world;
    return node->stop_status == 0 || node->stop_status == ERR_IO ||
           node->stop_status == ERR_DISK_FULL || node->stop_status == ERR_STORE_FULL ||
           world->options->break_sync;
}

static void end_process(struct world_node *node, enum env_sim_end end)
{
    env_sim_kill(node->env, end);
    checker_node_ended(&node->world->checker, node->number);
    if (node->server) {
        server_abandon(node->server);
        node->server = NULL;
    }
    env_sim_reap(node->env);
    node->is_stopping = false;
    schedule_remove(&node->world->schedule, &node->bury);
    schedule_remove(&node->world->schedule, &node->ambush);
}

static void boot_later(struct world_node *node, uint64_t delay_us)
{
    schedule_add(&node->world->schedule, &node->boot, node->world->schedule.now_us + delay_us);
}

static uint64_t draw_restart(struct world *world)
{
    return 50000 + random_below(&world->nemesis, RESTART_MAX_US);
}

static void run_bury(struct schedule_event *event)
{
    struct world_node *node = container_of(event, struct world_node, bury);
    LOG_INFO(&node->world->logger, "world: %s stopped: %s", node->name, node->stop_text);
    if (!is_stop_explained(node)) {
        char text[400];
        snprintf(text, sizeof text, "%s stopped by itself: %s (%s)", node->name, node->stop_text,
                 err_info(node->stop_status)->name);
        on_violation(node->world, text);
    }
    end_process(node, ENV_SIM_CRASH);
    boot_later(node, draw_restart(node->world));
}

static void note_rot(struct world_node *node, enum world_fault fault)
{
    LOG_INFO(&node->world->logger, "world: %s of %s", fault_names[fault], node->name);
    checker_damaged(&node->world->checker, node->number);
    note_fault(node->world, fault);
}

static void flip_due_records(struct world_node *node)
{
    char *path = mem_printf("%s/store", node->data);
    for (; node->flips_due > 0; node->flips_due--) {
        if (rot_flip_closed_record(path, &node->world->nemesis)) {
            note_rot(node, FAULT_FLIP_RECORD);
        }
    }
    mem_free(path);
}

static void run_boot(struct schedule_event *event)
{
    struct world_node *node = container_of(event, struct world_node, boot);
    flip_due_records(node);
    LOG_INFO(&node->world->logger, "world: %s starts", node->name);
    node->is_absent = false;
    node->starts++;
    env_sim_boot(node->env);
    checker_node_began(&node->world->checker, node->number);
    schedule_add(&node->world->schedule, &node->start, node->world->schedule.now_us);
}

/* In the process: main() of a daemon. */
static void run_start(struct schedule_event *event)
{
    struct world_node *node = container_of(event, struct world_node, start);
    struct world *world = node->world;
    struct node_config config = {
        .name = node->name,
        .data = node->data,
        .listen = node->address,
        .bootstrap = world->bootstrap,
        .insecure = true,
        .cluster_name = "sim",
        .partitions = world->partitions,
        .replicas = world->replicas,
        .flush_bytes = world->flush_bytes,
        .overlay_bytes = OVERLAY_BYTES,
        .flush_idle_ms = world->flush_idle_ms,
        .log_bytes = world->log_bytes,
        .log_segment_bytes = world->segment_bytes,
        .log_cache_bytes = world->log_cache_bytes,
        .map_bytes = MAP_BYTES,
        .reserve_bytes = RESERVE_SEGMENTS * world->segment_bytes,
        .scrub_interval_ms = world->scrub_interval_ms,
        .image_chunk_bytes = world->image_chunk_bytes,
        .image_bytes_per_second = world->image_bytes_per_second,
        .store_no_sync = true,
        .observe = on_observe,
        .observe_image = on_observe_image,
        .observe_turn = on_observe_turn,
        .on_stopped = on_stopped,
        .ctx = node,
    };
    struct err err = { 0 };
    world->report->boots++;
    int status = server_start(&node->env->env, &node->logger, &config, &node->server, &err);
    if (status == 0) {
        if (node->log_flips_due > 0) {
            schedule_add(&world->schedule, &node->rot,
                         world->schedule.now_us + random_below(&world->nemesis, ROT_SOON_US));
        }
        return;
    }
    node->server = NULL;
    on_stopped(node, status, err.text);
}

static void run_relief(struct schedule_event *event)
{
    struct world_node *node = container_of(event, struct world_node, relief);
    node->env->slow_factor = node->env->flush_factor = 1;
    disk_set_capacity(node->disk, DISK_BYTES);
}

/* Something else takes what room there is, but for a little; what the node frees, it may use. */
static void fill_disk(struct world_node *node)
{
    disk_set_capacity(node->disk,
                      disk_used(node->disk) +
                          random_below(&node->world->nemesis, 2 * node->world->segment_bytes));
}

/* What a restart has found whole rots before it is used: applied, or sent to others. */
static void run_rot(struct schedule_event *event)
{
    struct world_node *node = container_of(event, struct world_node, rot);
    bool is_struck = false;
    for (; node->log_flips_due > 0; node->log_flips_due--) {
        is_struck |= disk_flip_log(node->disk, DISK_ROT_RECENT);
    }
    if (is_struck) {
        note_rot(node, FAULT_FLIP_LOG);
    }
}

static void run_ambush(struct schedule_event *event);

static void init_node(struct world *world, uint32_t number)
{
    struct world_node *node = &world->nodes[number];
    char host[32];
    node->world = world;
    node->number = number;
    snprintf(node->name, sizeof node->name, "n%u", number + 1);
    snprintf(host, sizeof host, "127.0.0.%u", number + 1);
    snprintf(node->address, sizeof node->address, "%s:7400", host);
    node->data = mem_printf("%s/%s", world->options->scratch, node->name);
    node->disk = disk_new(world->options->seed * 16 + number, DISK_BYTES);
    disk_prepare(node->disk, node->data);
    char *outside = mem_printf("%s/store/data.mdb", node->data);
    disk_count_outside(node->disk, outside);
    mem_free(outside);
    disk_faults(node->disk)->lies = world->options->break_sync;
    mkdir(node->data, 0700);
    node->env = env_sim_new(&world->schedule, &world->network, node->disk, number, host,
                            world->options->seed);
    node->env->env.gates = &node->gates;
    node->env->is_real_too = true;
    node->env->grain_us = world->grain_us;
    node->env->torn = random_percent(&world->draw, 50);
    node->env->drift_ppm = (int64_t)random_below(&world->draw, 401) - 200;
    node->env->wall_offset_us = (int64_t)random_below(&world->draw, 100000);
    node->env->log_delay_us = (uint32_t)random_between(&world->draw, 100, 2000);
    node->env->flush_delay_us = (uint32_t)random_between(
        &world->draw, 1000, world->image_chunk_bytes < PIECE_SMALL_BYTES ? 10000 : 100000);
    node->logger = make_logger(world, node->name);
    node->boot.run = run_boot;
    node->start = (struct schedule_event){ .run = run_start, .owner = node->env };
    node->bury.run = run_bury;
    node->ambush.run = run_ambush;
    node->relief.run = run_relief;
    node->rot.run = run_rot;
    boot_later(node, random_below(&world->draw, SECOND_US));
}

static void fini_node(struct world_node *node)
{
    node->world->report->jobs_cut += node->env->jobs_cut;
    node->world->report->sectors_lost += disk_stats(node->disk)->sectors_lost;
    node->world->report->sectors_torn += disk_stats(node->disk)->sectors_torn;
    node->world->report->names_lost += disk_stats(node->disk)->names_lost;
    mem_free(node->data);
    env_sim_free(node->env);
    disk_free(node->disk);
}

/* --- Faults */

static struct world_node *draw_node(struct world *world)
{
    return &world->nodes[random_below(&world->nemesis, world->node_count)];
}

static bool strike_end(struct world_node *node, enum env_sim_end end)
{
    if (node->env->is_dead) {
        return false;
    }
    end_process(node, end);
    boot_later(node, draw_restart(node->world));
    return true;
}

static void run_ambush(struct schedule_event *event)
{
    struct world_node *node = container_of(event, struct world_node, ambush);
    if (!node->env->is_dead) {
        strike_end(node, node->ambush_end);
    }
}

/* At once, or in the middle of its next write to the log. */
static bool strike_one(struct world *world, enum env_sim_end end)
{
    struct world_node *node = draw_node(world);
    if (node->env->is_dead || random_percent(&world->nemesis, 50)) {
        return strike_end(node, end);
    }
    node->ambush_end = end;
    node->env->ambush_class = ENV_JOB_LOG;
    node->env->ambush = &node->ambush;
    return true;
}

static bool strike_all(struct world *world, enum env_sim_end end)
{
    bool struck = false;
    for (uint32_t i = 0; i < world->node_count; i++) {
        struck |= strike_end(&world->nodes[i], end);
    }
    return struck;
}

static void heal_later(struct world *world)
{
    schedule_add(&world->schedule, &world->heal_links,
                 world->schedule.now_us + 100000 + random_below(&world->nemesis, 6 * SECOND_US));
}

static void run_heal_links(struct schedule_event *event)
{
    struct world *world = container_of(event, struct world, heal_links);
    LOG_INFO(&world->logger, "world: links are healed");
    network_unblock_all(&world->network);
}

/* From the other nodes; clients still reach it. */
static void cut_off(struct world *world, const struct world_node *node)
{
    for (uint32_t i = 0; i < world->node_count; i++) {
        if (i != node->number) {
            network_block(&world->network, node->number, i, true);
            network_block(&world->network, i, node->number, true);
        }
    }
}

/* Cuts one machine off: from all, or from the other nodes only (clients still reach it); now and then
 * it only does not hear, or is not heard. */
static bool strike_isolate(struct world *world)
{
    struct world_node *node = draw_node(world);
    bool from_clients = random_percent(&world->nemesis, 50);
    uint32_t end = from_clients ? NETWORK_MACHINES_MAX : world->node_count;
    uint32_t ways = (uint32_t)random_below(&world->nemesis, 4);
    for (uint32_t i = 0; i < end; i++) {
        if (i != node->number) {
            network_block(&world->network, node->number, i, ways != 0);
            network_block(&world->network, i, node->number, ways != 1);
        }
    }
    LOG_INFO(&world->logger, "world: %s %s%s", node->name,
             ways == 0   ? "does not hear"
             : ways == 1 ? "is not heard"
                         : "is isolated",
             from_clients ? "" : " (the other nodes)");
    heal_later(world);
    return true;
}

static bool strike_split(struct world *world)
{
    uint64_t side = random_u64(&world->nemesis);
    for (uint32_t i = 0; i < NETWORK_MACHINES_MAX; i++) {
        for (uint32_t j = 0; j < NETWORK_MACHINES_MAX; j++) {
            if ((side >> i & 1) != (side >> j & 1)) {
                network_block(&world->network, i, j, true);
            }
        }
    }
    LOG_INFO(&world->logger, "world: split, sides %lx", side & ((1u << world->node_count) - 1));
    heal_later(world);
    return true;
}

static bool strike_one_way(struct world *world)
{
    struct world_node *from = draw_node(world), *to = draw_node(world);
    if (from == to) {
        return false;
    }
    network_block(&world->network, from->number, to->number, true);
    LOG_INFO(&world->logger, "world: nothing passes from %s to %s", from->name, to->name);
    heal_later(world);
    return true;
}

static bool strike_disk(struct world *world, enum world_fault fault)
{
    struct world_node *node = draw_node(world);
    struct disk_faults *faults = disk_faults(node->disk);
    switch (fault) {
    case FAULT_SLOW_DISK:
        node->env->slow_factor =
            random_percent(&world->nemesis, 30)
                ? SLOW_FACTOR_MAX
                : (uint32_t)random_between(&world->nemesis, 5, SLOW_FACTOR_MAX);
        break;
    case FAULT_DISK_FULL:
        fill_disk(node);
        break;
    case FAULT_WRITE_FAILS:
        faults->fail_write_in = (uint32_t)random_between(&world->nemesis, 1, 20);
        return false; /* these two are noted when they happen */
    default:
        faults->fail_sync_in = (uint32_t)random_between(&world->nemesis, 1, 20);
        return false;
    }
    schedule_add(&world->schedule, &node->relief,
                 world->schedule.now_us + 200000 + random_below(&world->nemesis, 4 * SECOND_US));
    return true;
}

/* Each flush takes a second or more, for some time. */
static bool strike_slow_flush(struct world *world)
{
    struct world_node *one = draw_node(world);
    bool is_all = random_percent(&world->nemesis, 30);
    uint64_t typical_us = random_between(&world->nemesis, SECOND_US / 2, 4 * SECOND_US);
    uint64_t for_us = SECOND_US + random_below(&world->nemesis, 10 * SECOND_US);
    for (uint32_t i = 0; i < world->node_count; i++) {
        struct world_node *node = &world->nodes[i];
        if (node == one || is_all) {
            node->env->flush_factor = (uint32_t)(typical_us / node->env->flush_delay_us) + 1;
            schedule_add(&world->schedule, &node->relief, world->schedule.now_us + for_us);
        }
    }
    return true;
}

static bool strike_absence(struct world *world)
{
    struct world_node *node = draw_node(world);
    if (node->env->is_dead) {
        return false;
    }
    end_process(node, ENV_SIM_CRASH);
    node->is_absent = true;
    boot_later(node, random_between(&world->nemesis, RESTART_MAX_US, ABSENCE_MAX_US));
    return true;
}

/* Amnesia. One node is cut off for a moment, so that it lacks what the others commit meanwhile; then
 * all others fall, and the victim's log loses the headers of just that. If it voted for the one
 * that was cut off, or was elected by it, what was acknowledged would be gone; it must wait for the
 * others, which come later. */
static bool strike_amnesia(struct world *world)
{
    struct world_node *victim = &world->nodes[world->victim], *behind = draw_node(world);
    if (behind == victim || victim->env->is_dead || behind->env->is_dead ||
        schedule_is_waiting(&world->amnesia.end)) {
        return false;
    }
    cut_off(world, behind);
    LOG_INFO(&world->logger, "world: %s is cut off, %s will forget", behind->name, victim->name);
    world->amnesia.behind = behind;
    world->amnesia.mark = disk_log_writes(victim->disk);
    schedule_add(&world->schedule, &world->amnesia.end,
                 world->schedule.now_us + random_between(&world->nemesis, 5000, AMNESIA_MAX_US));
    return false; /* noted when it happens */
}

static void run_amnesia(struct schedule_event *event)
{
    struct world *world = container_of(event, struct world, amnesia.end);
    struct world_node *victim = &world->nodes[world->victim];
    network_unblock_all(&world->network);
    for (uint32_t i = 0; i < world->node_count; i++) {
        struct world_node *node = &world->nodes[i];
        if (node == world->amnesia.behind) {
            continue;
        }
        if (!node->env->is_dead) {
            end_process(node, ENV_SIM_CRASH);
        }
        boot_later(node, node == victim ? random_between(&world->nemesis, 1000, 300000)
                                        : draw_restart(world) + SECOND_US);
    }
    if (disk_ruin_log(victim->disk, world->amnesia.mark) > 0) {
        note_rot(victim, FAULT_FLIP_LOG);
    }
}

static bool flip_in_log(struct world_node *node)
{
    struct random *random = &node->world->nemesis;
    bool is_struck = false;
    if (random_percent(random, 30)) {
        return strike_amnesia(node->world);
    }
    if (random_percent(random, 50)) {
        strike_end(node, ENV_SIM_CRASH);
        node->log_flips_due = 1u << random_below(random, 8);
        return false; /* noted when it happens */
    }
    for (uint64_t left = 1ull << random_below(random, 8); left > 0; left--) {
        is_struck |= disk_flip_log(node->disk, random_percent(random, 70) ? DISK_ROT_RECENT
                                                                          : DISK_ROT_ANYWHERE);
    }
    if (is_struck) {
        note_rot(node, FAULT_FLIP_LOG);
    }
    return false;
}

static void flip_in_store(struct world_node *node)
{
    uint32_t flips = (uint32_t)random_between(&node->world->nemesis, 1, 4);
    const struct store *store = node->server ? server_node(node->server)->store : NULL;
    if (!store) {
        node->flips_due += flips;
        return;
    }
    char *path = mem_printf("%s/store", node->data);
    for (; flips > 0; flips--) {
        if (rot_flip_record(store, path, &node->world->nemesis)) {
            note_rot(node, FAULT_FLIP_RECORD);
        }
    }
    mem_free(path);
}

/* Rot: of one node of a run, and only where others have what it loses. Noted when it happens. */
static bool strike_rot(struct world *world, enum world_fault fault)
{
    struct world_node *node = &world->nodes[world->victim];
    if (world->node_count < 3) {
        return false;
    }
    if (fault == FAULT_FLIP_LOG) {
        return flip_in_log(node);
    }
    if (fault == FAULT_FLIP_RECORD) {
        flip_in_store(node);
    } else {
        disk_faults(node->disk)->misdirect_in = (uint32_t)random_between(&world->nemesis, 1, 20);
    }
    return false;
}

static bool strike_pause(struct world *world)
{
    struct world_node *node = draw_node(world);
    if (node->env->is_dead || node->env->paused_until_us > world->schedule.now_us) {
        return false;
    }
    uint64_t pause_us = 20000 + random_below(&world->nemesis, 3 * SECOND_US);
    LOG_INFO(&world->logger, "world: %s pauses for %lu us", node->name, pause_us);
    env_sim_pause(node->env, world->schedule.now_us + pause_us);
    return true;
}

static bool strike_restart(struct world *world)
{
    struct world_node *node = draw_node(world);
    if (!node->server || node->is_stopping) {
        return false;
    }
    server_stop(node->server); /* run_bury follows */
    return true;
}

/* Short reigns. An entry that its leader alone holds, a second leader with another one at the same
 * index, the first one back again: what Raft's figure 8 takes four elections for happens only if
 * leaders fall at the right moments. So one group is watched for some seconds, and whoever begins
 * to lead it is cut off from the other nodes (clients reach it still, and fill its log), or killed,
 * between at once and some ms later; the one that was cut off before comes back. */
static bool strike_reigns(struct world *world)
{
    struct world_reigns *reigns = &world->reigns;
    if (world->checker.group_count == 0) {
        return false;
    }
    reigns->group = (uint32_t)random_below(&world->nemesis, world->checker.group_count);
    reigns->until_us =
        world->schedule.now_us + random_between(&world->nemesis, 3 * SECOND_US, 12 * SECOND_US);
    reigns->term = 0;
    return true;
}

/* After a step of a node. */
static void watch_reigns(struct world *world, struct world_node *node)
{
    struct world_reigns *reigns = &world->reigns;
    struct partition *partition =
        node->server ? node_find_partition(server_node(node->server), reigns->group) : NULL;
    if (!partition || !partition_is_primary(partition) ||
        partition_raft(partition)->term <= reigns->term) {
        return;
    }
    static const uint32_t delays_us[] = { 1, 1000, 5000, 100000 };
    reigns->term = partition_raft(partition)->term;
    reigns->leader = node;
    schedule_add(&world->schedule, &reigns->end,
                 world->schedule.now_us +
                     random_below(&world->nemesis, delays_us[random_below(&world->nemesis, 4)]));
}

static void run_reign_end(struct schedule_event *event)
{
    struct world *world = container_of(event, struct world, reigns.end);
    struct world_node *node = world->reigns.leader;
    network_unblock_all(&world->network);
    if (random_percent(&world->nemesis, 20)) {
        if (!node->env->is_dead) {
            LOG_INFO(&world->logger, "world: the reign of %s ends by a crash", node->name);
            end_process(node, ENV_SIM_CRASH);
            boot_later(node, 50000 + random_below(&world->nemesis, 300000));
        }
        return;
    }
    LOG_INFO(&world->logger, "world: the reign of %s ends", node->name);
    cut_off(world, node);
    schedule_add(&world->schedule, &world->heal_links, world->schedule.now_us + 4 * SECOND_US);
    if (random_percent(&world->nemesis, 30)) { /* it is still writing when it is overruled */
        node->env->slow_factor = 1000;
        schedule_add(&world->schedule, &node->relief,
                     world->schedule.now_us + random_below(&world->nemesis, 6 * SECOND_US));
    }
}

/* A machine whose disk is on the network: links and disk hang together, the disk for a little longer.
 * What its leaders are writing then is overruled by others, and they hear of it before it is
 * written. */
static bool strike_hang(struct world *world)
{
    struct world_node *node = draw_node(world);
    if (node->env->is_dead || schedule_is_waiting(&world->heal_links)) {
        return false;
    }
    uint64_t healed_us =
        world->schedule.now_us + random_between(&world->nemesis, SECOND_US / 2, HANG_MAX_US);
    LOG_INFO(&world->logger, "world: links and disk of %s hang", node->name);
    cut_off(world, node);
    env_sim_hang_disk(node->env, healed_us + random_below(&world->nemesis, HANG_MORE_US));
    schedule_add(&world->schedule, &world->heal_links, healed_us);
    return true;
}

/* A lull. A machine is cut off from the other nodes, and clients fill the logs of those who lead there.
 * Soon most clients rest, and those who go on write to few groups, until the other nodes must cut
 * their logs. The groups at rest stand still meanwhile, so an image of one reaches less far than the
 * log of the replica that was cut off, and says something else. */
static bool strike_lull(struct world *world)
{
    struct world_node *node = draw_node(world);
    uint64_t now_us = world->schedule.now_us;
    if (node->env->is_dead || schedule_is_waiting(&world->heal_links)) {
        return false;
    }
    uint64_t healed_us = now_us + random_between(&world->nemesis, LULL_MAX_US / 4, LULL_MAX_US);
    LOG_INFO(&world->logger, "world: %s is cut off in a lull", node->name);
    cut_off(world, node);
    workload_lull(&world->workload, now_us + random_below(&world->nemesis, LULL_BEGIN_US),
                  healed_us + random_below(&world->nemesis, SECOND_US));
    schedule_add(&world->schedule, &world->heal_links, healed_us);
    return true;
}

/* For some seconds a process that swaps an image into its store may die there: the store's swap is
 * durable, and the log knows nothing of it. */
static bool strike_swaps(struct world *world)
{
    world->swaps_until_us =
        world->schedule.now_us + random_between(&world->nemesis, 3 * SECOND_US, 20 * SECOND_US);
    return false; /* noted when one comes */
}

static struct world_node *find_leader(struct world *world, uint32_t group);

/* After a step of a node. */
static void watch_swaps(struct world *world, struct world_node *node)
{
    struct node *of = server_node(node->server);
    for (size_t i = 0; i < of->partition_count && !node->env->ambush; i++) {
        if (!of->partitions[i] || !partition_is_installing(of->partitions[i])) {
            continue;
        }
        uint32_t draw = (uint32_t)random_below(&world->nemesis, 100); /* a swap takes many steps */
        struct world_node *leader = draw < 2 ? find_leader(world, (uint32_t)i) : NULL;
        if (leader && !leader->is_stopping) {
            server_stop(
                leader->server); /* it hands over, perhaps to one whose log goes back further */
        } else if (draw >= 95) {
            note_fault(world, FAULT_SWAP);
            node->ambush_end =
                random_percent(&world->nemesis, 50) ? ENV_SIM_CRASH : ENV_SIM_POWER_LOSS;
            node->env->ambush_class = ENV_JOB_FLUSH;
            node->env->ambush = &node->ambush;
        }
    }
}

/* Old disk images. What is promised (decisions/009): while the other nodes run and are connected, no
 * acknowledged write is lost by one disk that is put back, if somebody remembers: either a later
 * start of the node, which others keep on disk, or what it said since the image was taken, which
 * they keep in memory. So first everything is made well; for a while the node lives on; then it is
 * killed and comes back on the image; and nothing else strikes until it is whole. */
static void end_old_image(struct world *world)
{
    old_image_free(world->old.image);
    world->old.image = NULL;
    world->old.behind = NULL;
    schedule_remove(&world->schedule, &world->old.put);
}

static bool is_all_up(const struct world *world)
{
    for (uint32_t i = 0; i < world->node_count; i++) {
        const struct world_node *node = &world->nodes[i];
        if (!node->server || node->is_stopping || !node_is_ready(server_node(node->server)) ||
            node->env->paused_until_us > world->schedule.now_us) {
            return false;
        }
    }
    return true;
}

/* Whether the others know of a start that the image knows nothing of, or have lived on since. */
static bool is_remembered(const struct world *world)
{
    const struct world_old *old = &world->old;
    bool lived_on = true;
    for (uint32_t i = 0; i < world->node_count; i++) {
        lived_on &= &world->nodes[i] == old->node || world->nodes[i].starts == old->starts[i];
    }
    return lived_on || old->node->starts > old->starts[old->node->number];
}

/* Links and disks are as they should be, and nothing is on its way to change that. */
static void calm(struct world *world)
{
    network_unblock_all(&world->network);
    schedule_remove(&world->schedule, &world->heal_links);
    schedule_remove(&world->schedule, &world->reigns.end);
    schedule_remove(&world->schedule, &world->amnesia.end);
    world->reigns.until_us = world->swaps_until_us = 0;
    workload_end_lull(&world->workload);
    for (uint32_t i = 0; i < world->node_count; i++) {
        struct world_node *node = &world->nodes[i];
        env_sim_heal_disk(node->env);
        schedule_remove(&world->schedule, &node->rot);
        node->log_flips_due = node->flips_due = 0;
        disk_set_capacity(node->disk, DISK_BYTES);
        disk_faults(node->disk)->misdirect_in = 0;
        disk_faults(node->disk)->fail_sync_in = disk_faults(node->disk)->fail_write_in = 0;
        node->env->ambush = NULL;
    }
}

/* One disk of a run is harmed, and somebody must remember. */
static bool is_void(const struct world *world)
{
    return world->checker.is_damaged[world->victim] || !is_remembered(world);
}

static void put_later(struct world *world, uint64_t delay_us)
{
    schedule_add(&world->schedule, &world->old.put, world->schedule.now_us + delay_us);
}

static void take_image(struct world *world)
{
    struct world_old *old = &world->old;
    end_old_image(world);
    old->node = draw_node(world);
    old->image = old_image_take(old->node->disk, old->node->data);
    old->is_with_all = random_percent(&world->nemesis, 30);
    for (uint32_t i = 0; i < world->node_count; i++) {
        old->starts[i] = world->nodes[i].starts;
    }
    put_later(world, random_between(&world->nemesis, 100000, 8 * SECOND_US));
}

static bool strike_old_image(struct world *world)
{
    if (world->node_count >= 3 && !world->old.image && !world->checker.is_damaged[world->victim]) {
        take_image(world);
    }
    return false; /* noted when it is put back */
}

static void put_back(struct world *world)
{
    struct world_old *old = &world->old;
    LOG_INFO(&world->logger, "world: %s comes back with an old disk", old->node->name);
    note_fault(world, FAULT_OLD_IMAGE);
    if (!old->node->env->is_dead) {
        end_process(old->node, ENV_SIM_CRASH);
    }
    checker_old_began(&world->checker, old->node->number);
    old_image_put(old->image, old->node->disk, old->node->data);
    old->image = NULL;
    boot_later(old->node, random_between(&world->nemesis, 1000, SECOND_US));
}

/* In a share of the strikes nobody's memory is left: all others fall with the node. What binds it is
 * the start that the image knows nothing of, which they keep on disk. One of them is cut off before,
 * so that it lacks what this node and the rest commit: if it had the vote of the forgetful one, that
 * would be gone. */
static bool prepare_fall(struct world *world)
{
    struct world_old *old = &world->old;
    if (!old->is_with_all || old->behind) {
        return false;
    }
    do {
        old->behind = draw_node(world);
    } while (old->behind == old->node);
    LOG_INFO(&world->logger, "world: %s is cut off, all will fall", old->behind->name);
    cut_off(world, old->behind);
    put_later(world, random_between(&world->nemesis, 5000, AMNESIA_MAX_US));
    return true;
}

static void fall_with(struct world *world)
{
    enum env_sim_end end = random_percent(&world->nemesis, 50) ? ENV_SIM_CRASH : ENV_SIM_POWER_LOSS;
    network_unblock_all(&world->network);
    for (uint32_t i = 0; i < world->node_count; i++) {
        struct world_node *node = &world->nodes[i];
        if (node == world->old.node) {
            continue;
        }
        if (!node->env->is_dead) {
            end_process(node, end);
        }
        boot_later(node, random_between(&world->nemesis, 1000,
                                        node == world->old.behind ? SECOND_US / 10 : SECOND_US));
    }
    world->old.behind = NULL;
}

/* False: this node has not started again since the image was taken; it does now. */
static bool has_started_since(struct world *world)
{
    struct world_old *old = &world->old;
    if (old->node->starts > old->starts[old->node->number]) {
        return true;
    }
    strike_end(old->node, ENV_SIM_CRASH);
    put_later(world, SECOND_US / 4);
    return false;
}

static void run_put(struct schedule_event *event)
{
    struct world *world = container_of(event, struct world, old.put);
    struct world_old *old = &world->old;
    if (old->behind) {
        fall_with(world);
        put_back(world);
        return;
    }
    if (is_void(world)) {
        old->is_healing = false;
        world->checker.is_damaged[world->victim] ? end_old_image(world) : take_image(world);
        return;
    }
    if (!is_all_up(world)) {
        old->is_healing = false;
        put_later(world, SECOND_US / 4);
        return;
    }
    if (old->is_with_all && !has_started_since(world)) {
        return;
    }
    if (!old->is_healing) {
        calm(world);
        old->is_healing = true;
        /* then all others have heard of its start */
        put_later(world, random_below(&world->nemesis, 2 * SECOND_US) +
                             (old->is_with_all ? 2 * SECOND_US : 0));
        return;
    }
    if (!prepare_fall(world)) {
        put_back(world);
    }
}

static bool is_old_whole(struct world *world)
{
    struct world_old *old = &world->old;
    if (old->is_healing && world->checker.is_old[old->node->number] &&
        checker_old_is_whole(&world->checker, old->node->number)) {
        LOG_INFO(&world->logger, "world: %s is whole again", old->node->name);
        checker_old_ended(&world->checker, old->node->number);
        old->is_healing = false;
    }
    return !old->is_healing;
}

/* The same, and no image waits to be put back; what would be in its way is healed. */
static bool is_old_over(struct world *world)
{
    struct world_old *old = &world->old;
    if (old->image && !old->is_healing && is_void(world)) {
        end_old_image(world);
    }
    if (old->image && !old->is_healing) {
        calm(world);
    }
    return is_old_whole(world) && !old->image;
}

static int64_t draw_around_zero(struct random *random, uint64_t most)
{
    return (int64_t)random_below(random, 2 * most + 1) - (int64_t)most;
}

static bool strike_clock(struct world *world, enum world_fault fault)
{
    static const uint64_t jumps_us[] = { 200000, 200000, 60ull * SECOND_US, 10800ull * SECOND_US };
    struct env_sim *env = draw_node(world)->env;
    if (fault == FAULT_CLOCK_JUMP) {
        uint64_t most = jumps_us[random_below(&world->nemesis, 4)];
        env->wall_offset_us += draw_around_zero(&world->nemesis, most);
    } else if (fault == FAULT_CLOCK_STOP) {
        env_sim_stop_wall(env, 100000 + random_below(&world->nemesis, 20 * SECOND_US));
    } else {
        env_sim_drift(env, draw_around_zero(&world->nemesis, DRIFT_PPM_MAX));
    }
    return true;
}

static void heal_clock(struct world *world, struct env_sim *env)
{
    env->wall_offset_us = draw_around_zero(&world->nemesis, 100000);
    env->wall_stop_us = env->wall_go_us = 0;
    env_sim_drift(env, draw_around_zero(&world->nemesis, 200));
}

/* Faults of single frames come by themselves, at the run's rates. */
static const enum world_fault frame_faults[NETWORK_FATES] = {
    [NETWORK_LOSE] = FAULT_FRAME_LOST,
    [NETWORK_DOUBLE] = FAULT_FRAME_DOUBLED,
    [NETWORK_SWAP] = FAULT_FRAME_SWAPPED,
    [NETWORK_DELAY] = FAULT_FRAME_DELAYED,
};

static bool is_frame_fault(enum world_fault fault)
{
    return fault >= FAULT_FRAME_LOST && fault <= FAULT_FRAME_DELAYED;
}

static void on_frame_fate(void *ctx, enum network_fate fate)
{
    note_fault(ctx, frame_faults[fate]);
}

static void begin_frame_faults(struct world *world)
{
    for (int i = 1; i < NETWORK_FATES; i++) {
        if (world->may_strike[frame_faults[i]]) {
            world->network.fates_per_10000[i] = 1u
                                                << random_below(&world->nemesis, 9); /* to 2.56 % */
        }
    }
}

/* The next refusal of a kind at the run's rate. */
static void arm_gate(struct world *world, struct mem_gate *gate, int kind)
{
    uint64_t every = world->starves_every[kind];
    if (gate->refuse_in == 0 && every > 0) {
        gate->refuse_in = random_between(&world->nemesis, 1, 2 * every);
    }
}

static void arm_gates(struct world *world, struct world_node *node)
{
    for (int i = 0; i < MEM_KINDS; i++) {
        arm_gate(world, &node->gates.of[i], i);
    }
}

/* How many allocations of a kind, on the average, are between two that fail: so each kind is struck in proportion to its use. */
static void begin_starving(struct world *world)
{
    for (int i = 0; i < MEM_KINDS && world->may_strike[FAULT_NO_MEMORY]; i++) {
        if (random_percent(&world->nemesis, 60)) {
            world->starves_every[i] =
                1ull << random_between(&world->nemesis, i == MEM_IMAGE ? 3 : 8, 16);
        }
    }
    for (uint32_t i = 0; i < world->node_count; i++) {
        arm_gates(world, &world->nodes[i]);
    }
}

/* Soon, of most kinds: one allocation, or for a while all. */
static void strike_no_memory(struct world *world)
{
    struct random *random = &world->nemesis;
    struct world_node *node = draw_node(world);
    uint64_t more = random_percent(random, 20) ? random_between(random, 1, 40) : 0;
    for (int i = 0; i < MEM_KINDS; i++) {
        if (random_percent(random, 60)) {
            node->gates.of[i].refuse_in = random_between(random, 1, i == MEM_IMAGE ? 6 : 40);
            node->gates.of[i].refuse_more = more;
        }
    }
}

static bool strike(struct world *world, enum world_fault fault)
{
    switch (fault) {
    case FAULT_CRASH:
        return strike_one(world, ENV_SIM_CRASH);
    case FAULT_POWER:
        return strike_one(world, ENV_SIM_POWER_LOSS);
    case FAULT_CRASH_ALL:
        return strike_all(world, ENV_SIM_CRASH);
    case FAULT_POWER_ALL:
        return strike_all(world, ENV_SIM_POWER_LOSS);
    case FAULT_SLOW_FLUSH:
        return strike_slow_flush(world);
    case FAULT_ABSENCE:
        return strike_absence(world);
    case FAULT_RESTART:
        return strike_restart(world);
    case FAULT_PAUSE:
        return strike_pause(world);
    case FAULT_ISOLATE:
        return strike_isolate(world);
    case FAULT_SPLIT:
        return strike_split(world);
    case FAULT_ONE_WAY:
        return strike_one_way(world);
    case FAULT_NO_MEMORY:
        strike_no_memory(world);
        return false; /* noted when it strikes */
    case FAULT_FLIP_LOG:
    case FAULT_FLIP_RECORD:
    case FAULT_MISDIRECTED:
        return strike_rot(world, fault);
    case FAULT_BREAK:
        return network_break_one(&world->network);
    case FAULT_CLOCK_JUMP:
    case FAULT_CLOCK_STOP:
    case FAULT_CLOCK_DRIFT:
        return strike_clock(world, fault);
    case FAULT_REIGNS:
        return strike_reigns(world);
    case FAULT_SWAP:
        return strike_swaps(world);
    case FAULT_OLD_IMAGE:
        return strike_old_image(world);
    case FAULT_HANG:
        return strike_hang(world);
    case FAULT_LULL:
        return strike_lull(world);
    default:
        return strike_disk(world, fault);
    }
}

static void run_strike(struct schedule_event *event)
{
    struct world *world = container_of(event, struct world, strike);
    if (!is_old_whole(world)) {
        schedule_add(&world->schedule, &world->strike, world->schedule.now_us + OLD_POLL_US);
        return;
    }
    enum world_fault fault = (enum world_fault)random_below(&world->nemesis, FAULT_COUNT);
    bool strikes = world->may_strike[fault] && !is_frame_fault(fault);
    if (strikes) {
        LOG_INFO(&world->logger, "world: %s", fault_names[fault]);
        if (strike(world, fault)) {
            note_fault(world, fault);
        }
    }
    /* draws that hit nothing cost no time, so that the rate does not hang on how many faults there
     * are */
    uint64_t pause_us = strikes ? random_delay(&world->nemesis, world->fault_interval_us) : 1;
    schedule_add(&world->schedule, &world->strike, world->schedule.now_us + pause_us);
}

/* --- A run */

/* A group whose log holds what the own store has, NULL: none. (A swap holds its group's log, and
 * waits for the flush before it.) */
static const struct raft *find_uncut(const struct node *node)
{
    for (size_t i = 0; i < node->partition_count; i++) {
        const struct partition *partition = node->partitions[i];
        if (!partition || partition_is_installing(partition)) {
            continue;
        }
        const struct raft *raft = partition_raft(partition);
        if (!raft->needs_image && raft->flushed >= raft->log_start) {
            return raft;
        }
    }
    return NULL;
}

/* A log that is far over its budget holds only what waits for a flush, whatever others need. (How
 * fast flushes are is the disk's business: a follower that catches up can be faster.) */
static void look_at_log(struct world_node *node)
{
    struct world *world = node->world;
    const struct node *of = server_node(node->server);
    if (!of->log) {
        return;
    }
    uint64_t live = log_live_bytes(of->log), budget = node_log_budget(of);
    uint64_t percent = live * 100 / budget;
    if (live > budget / 100 * LIMIT_LOG_HARD_PERCENT + LOG_SLACK_SEGMENTS * world->segment_bytes) {
        char text[100];
        snprintf(text, sizeof text, "%s: the log takes %lu bytes, %lu %% of its budget", node->name,
                 live, percent);
        on_violation(world, text);
    }
    uint64_t *most = &world->report->log_percent_max;
    *most = percent > *most ? percent : *most;
    uint64_t now_us = world->schedule.now_us;
    bool was_asleep = now_us - node->log_looked_us > LOG_OVER_US_MAX / 4; /* paused, or not up */
    node->log_looked_us = now_us;
    const struct raft *uncut = percent > LOG_PERCENT_MAX ? find_uncut(of) : NULL;
    if (!uncut || was_asleep || uncut->config.group != node->uncut_group ||
        uncut->log_start != node->uncut_start) {
        node->uncut_group = uncut ? uncut->config.group : 0;
        node->uncut_start = uncut ? uncut->log_start : 0;
        node->uncut_us = now_us;
    } else if (now_us - node->uncut_us > LOG_OVER_US_MAX) {
        char text[100];
        snprintf(text, sizeof text, "%s: the log takes %lu %% of its budget and is not cut",
                 node->name, percent);
        on_violation(world, text);
    }
}

static void note_each(struct world *world, enum world_fault fault, uint64_t now, uint64_t *before)
{
    for (; *before < now; (*before)++) {
        note_fault(world, fault);
    }
}

/* Faults that wait for a call strike inside of a step. */
static void note_struck(struct world_node *node)
{
    const struct disk_stats *stats = disk_stats(node->disk);
    struct world *world = node->world;
    for (int i = 0; i < MEM_KINDS; i++) {
        world->report->starved[i] += node->gates.of[i].refused - node->struck.refused[i];
        if (node->gates.of[i].refused != node->struck.refused[i]) {
            arm_gate(world, &node->gates.of[i], i);
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
static bool run_until(struct world *world, uint64_t until_us, bool (*is_done)(struct world *world))
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
                watch_reigns(world, node);
            }
            if (world->swaps_until_us > schedule->now_us) {
                watch_swaps(world, node);
            }
            if (step % LOOK_EVERY == 0) {
                look_at_log(node);
                checker_look(&world->checker, node->number, env_now_us(&node->env->env));
            }
        }
    }
    return false;
}

/* Every node runs, is to go on running (one that was told to stop is still there for a while, and
 * starts again), and knows primaries. */
static bool is_formed(struct world *world)
{
    for (uint32_t i = 0; i < world->node_count; i++) {
        const struct server *server = world->nodes[i].server;
        const struct node *node = server ? server_node(world->nodes[i].server) : NULL;
        if (!node || node->is_stopping || !node_is_ready(node)) {
            return false;
        }
    }
    return true;
}

static bool is_writable(struct world *world)
{
    return world->workload.probe.left == 0;
}

static bool are_clients_idle(struct world *world)
{
    return workload_end(&world->workload);
}

static bool is_all_read(struct world *world)
{
    return world->workload.final_left == 0;
}

/* Every replica of every group has applied the same, and no node has anything to flush. */
static bool has_converged(struct world *world)
{
    if (!is_formed(world)) {
        return false;
    }
    for (uint32_t i = 0; i < world->node_count; i++) {
        const struct store *store = server_node(world->nodes[i].server)->store;
        /* Marks come again and again while a replica whose disk is damaged can't be compared. */
        if (store_active_operations(store) > store_active_marks(store) ||
            store_is_flushing(store)) {
            return false;
        }
    }
    for (uint32_t i = 0; i < world->checker.group_count; i++) {
        for (uint32_t j = 0; j < world->node_count; j++) {
            struct partition *partition =
                node_find_partition(server_node(world->nodes[j].server), i);
            if (partition && partition_applied(partition) != world->checker.groups[i].committed) {
                return false;
            }
        }
    }
    return true;
}

/* What a replica holds, looked at in four ways; the last two are 0 where entries that changed
 * nothing (no-ops, fences) were applied since the last flush. `sessions`: what replies depend on
 * besides the records, as it stands in memory; after the next failover it is the other one's. */
struct world_digests {
    uint64_t shown, sessions, image, own;
};

/* False: it can't be read whole; then its store knows that it is damaged. */
static bool take_digests(struct partition *partition, struct world_digests *out, struct err *err)
{
    bool is_flushed = replicas_is_flushed(partition);
    *out = (struct world_digests){
        .sessions = store_replica_sessions_digest(partition_store(partition)),
        .own = is_flushed ? store_replica_digest(partition_store(partition)) : 0,
    };
    return replicas_digest_shown(partition, &out->shown, err) == 0 &&
           (!is_flushed || replicas_digest_image(partition, &out->image, err) == 0);
}

/* What two replicas of a group differ in; NULL: nothing. */
static const char *find_difference(const struct world_digests *first,
                                   const struct world_digests *digests)
{
    bool is_on_disk = first->image != 0 && digests->image != 0;
    return digests->shown != first->shown                 ? "records"
           : digests->sessions != first->sessions         ? "sessions"
           : is_on_disk && digests->image != first->image ? "records on disk"
           : is_on_disk && digests->own != first->own     ? "own digests"
                                                          : NULL;
}

/* Replicas that applied the same entries must hold the same. False: they don't; `text` says it. */
static bool is_group_equal(struct world *world, uint32_t group, struct err *text)
{
    struct world_digests first = { 0 }, digests;
    uint32_t of = NODES_MAX;
    for (uint32_t i = 0; i < world->node_count; i++) {
        struct err err = { 0 };
        struct partition *partition =
            node_find_partition(server_node(world->nodes[i].server), group);
        if (!partition) {
            continue;
        }
        if (!take_digests(partition, &digests, &err)) {
            err_set(text, ERR_CORRUPT, "n%u cannot read all of group %u: %s", i + 1, group,
                    err.text);
            return false;
        }
        if (of == NODES_MAX) {
            first = digests;
            of = i;
        }
        const char *what = find_difference(&first, &digests);
        if (what) {
            err_set(text, ERR_CORRUPT, "n%u and n%u hold different %s of group %u", of + 1, i + 1,
                    what, group);
            return false;
        }
    }
    return true;
}

static bool are_stores_equal(struct world *world, struct err *text)
{
    for (uint32_t i = 0; i < world->checker.group_count; i++) {
        if (!is_group_equal(world, i, text)) {
            return false;
        }
    }
    return true;
}

/* How long images of all partitions may take: throttled; and where small pieces meet slow flushes,
 * each piece waits for the disk, as long again for another flush. */
static uint64_t images_max_us(const struct world *world)
{
    uint64_t pieces = 0, delay_us = 0;
    for (uint32_t i = 0; i < world->node_count; i++) {
        const struct world_node *node = &world->nodes[i];
        const struct store *store = node->server ? server_node(node->server)->store : NULL;
        uint64_t of = store ? store_used_bytes(store) / world->image_chunk_bytes : 0;
        pieces = of > pieces ? of : pieces;
        delay_us = node->env->flush_delay_us > delay_us ? node->env->flush_delay_us : delay_us;
    }
    return CONVERGE_MAX_US + 2 * pieces * delay_us;
}

/* Rot in a record that nobody reads is found by comparing replicas, at the latest by a scrub, and
 * repaired by an image: that takes its time. Without rot stores are equal as soon as they
 * have converged. */
static void compare_stores(struct world *world)
{
    struct err text;
    uint64_t now_us = world->schedule.now_us;
    uint64_t end_us = now_us + 2000ull * world->scrub_interval_ms + images_max_us(world);
    bool is_rotten = world->checker.is_damaged[world->victim];
    while (!are_stores_equal(world, &text)) {
        now_us = world->schedule.now_us;
        if (!is_rotten || now_us >= end_us) {
            checker_fail(&world->checker, "%s", text.text);
            return;
        }
        run_until(world, now_us + SECOND_US, NULL);
        if (!run_until(world, end_us, has_converged)) {
            if (world->report->violations == 0) {
                checker_fail(&world->checker, "replicas do not converge after rot: %s", text.text);
            }
            return;
        }
    }
}

/* --- Writes that every replica within reach acknowledges */

static struct world_node *find_by_node_id(struct world *world, uint64_t id)
{
    for (uint32_t i = 0; i < world->node_count; i++) {
        struct server *server = world->nodes[i].server;
        if (server && node_id(server_node(server)) == id) {
            return &world->nodes[i];
        }
    }
    return NULL;
}

/* The node that leads the group in the newest term, NULL: none. */
static struct world_node *find_leader(struct world *world, uint32_t group)
{
    struct world_node *found = NULL;
    uint64_t term = 0;
    for (uint32_t i = 0; i < world->node_count; i++) {
        struct server *server = world->nodes[i].server;
        struct partition *partition =
            server ? node_find_partition(server_node(server), group) : NULL;
        if (partition && partition_is_primary(partition) &&
            partition_raft(partition)->term > term) {
            found = &world->nodes[i];
            term = partition_raft(partition)->term;
        }
    }
    return found;
}

/* When the write is asked: until when each replica certainly counts as within reach, by what the
 * primary has heard already. */
static void note_reach(struct world *world, struct world_ack *ack, uint32_t group)
{
    *ack = (struct world_ack){ .group = group };
    struct world_node *leader = find_leader(world, group);
    if (!leader) {
        return;
    }
    struct partition *partition = node_find_partition(server_node(leader->server), group);
    const struct raft *raft = partition_raft(partition);
    const struct topology_partition *topology = partition_topology(partition);
    uint64_t now_ms = env_now_us(&leader->env->env) / 1000;
    ack->leader = node_id(server_node(leader->server));
    ack->term = raft->term;
    for (int i = 0; i < raft->config.replica_count; i++) {
        struct world_node *node = find_by_node_id(world, topology->replicas[i].node_id);
        uint64_t left_ms = raft->progress[i].heard_ms + raft->config.election_timeout_ms;
        if (node && topology->replicas[i].node_id != ack->leader &&
            left_ms > now_ms + REACH_SLACK_MS) {
            ack->replicas[i].node_id = topology->replicas[i].node_id;
            ack->replicas[i].boot_id = node_boot_id(server_node(node->server));
            ack->replicas[i].until_us =
                world->schedule.now_us +
                (left_ms - now_ms - REACH_SLACK_MS) * (1000 - DRIFT_PPM_MAX / 1000);
        }
    }
}

/* Whether that replica, of the same process as before, lacks the entry. */
static bool lacks_entry(struct world *world, uint32_t group, uint64_t id, uint64_t boot_id,
                        uint64_t index)
{
    struct world_node *node = find_by_node_id(world, id);
    if (!node || node_boot_id(server_node(node->server)) != boot_id) {
        return false;
    }
    struct partition *partition = node_find_partition(server_node(node->server), group);
    return partition && partition_raft(partition)->durable_index < index;
}

static void judge_reach(struct world *world, const struct world_ack *ack, uint64_t version)
{
    struct world_node *leader = find_leader(world, ack->group);
    if (!leader || ack->leader != node_id(server_node(leader->server)) ||
        ack->term !=
            partition_raft(node_find_partition(server_node(leader->server), ack->group))->term) {
        return; /* another one answered */
    }
    for (int i = 0; i < LIMIT_REPLICAS; i++) {
        if (ack->replicas[i].until_us > world->schedule.now_us &&
            lacks_entry(world, ack->group, ack->replicas[i].node_id, ack->replicas[i].boot_id,
                        version)) {
            char text[160];
            snprintf(
                text, sizeof text,
                "group %u index %lu was acknowledged by all, but a replica within reach lacks it",
                ack->group, version);
            on_violation(world, text);
        }
    }
}

static void on_ack_all(void *ctx, uint32_t writer, struct span key, uint64_t version)
{
    struct world *world = ctx;
    struct world_ack *ack = &world->acks[writer % WORKLOAD_SESSIONS_MAX];
    if (version != 0) {
        judge_reach(world, ack, version);
        return;
    }
    *ack = (struct world_ack){ 0 };
    for (uint32_t i = 0; i < world->node_count; i++) {
        const struct topology *topology =
            world->nodes[i].server ? server_node(world->nodes[i].server)->topology : NULL;
        if (topology) {
            note_reach(world, ack, topology->partitions[topology_locate(topology, key)].group);
            return;
        }
    }
}

/* One to four workloads. */
static uint32_t draw_mix(struct random *draw)
{
    uint32_t mix = 0;
    for (uint64_t left = random_between(draw, 1, 4); left > 0; left--) {
        mix |= 1u << random_below(draw, WORKLOAD_COUNT);
    }
    return mix;
}

static enum world_bias draw_bias(struct random *draw)
{
    static const uint32_t percents[BIAS_COUNT] = {
        [BIAS_REIGNS] = 6, [BIAS_LEADERS] = 6, [BIAS_IMAGES] = 6, [BIAS_SCANS] = 4,
        [BIAS_DISKS] = 6,  [BIAS_CUTOFF] = 4,  [BIAS_LOGS] = 4
    };
    uint32_t left = (uint32_t)random_below(draw, 100);
    int bias = BIAS_COUNT - 1;
    for (; bias > BIAS_NONE && left >= percents[bias]; bias--) {
        left -= percents[bias];
    }
    return (enum world_bias)bias;
}

static void allow_only(struct world *world, uint64_t faults)
{
    for (int i = 0; i < FAULT_COUNT; i++) {
        world->may_strike[i] = faults >> i & 1;
    }
}

/* Bends what was drawn, see enum world_bias. */
static void bend_run(struct world *world, struct random *draw)
{
    switch (world->bias) {
    case BIAS_REIGNS:
        allow_only(world, 1ull << FAULT_REIGNS);
        return;
    case BIAS_LEADERS:
        allow_only(world, random_u64(draw) &
                              (1ull << FAULT_ISOLATE | 1ull << FAULT_ONE_WAY | 1ull << FAULT_PAUSE |
                               1ull << FAULT_RESTART | 1ull << FAULT_CLOCK_DRIFT |
                               1ull << FAULT_CRASH | 1ull << FAULT_BREAK));
        world->may_strike[FAULT_ISOLATE] = true;
        world->mix = random_u64(draw) & (1u << WORKLOAD_REGISTER | 1u << WORKLOAD_RECREATE |
                                         1u << WORKLOAD_COUNTER | 1u << WORKLOAD_APPEND);
        world->mix |= 1u << WORKLOAD_CONSISTENCY;
        world->fault_interval_us = (uint32_t)random_between(draw, 300000, 2 * SECOND_US);
        world->hurry_percent = (uint32_t)random_between(draw, 0, 60);
        world->lease_percent = (uint32_t)random_between(draw, 30, 100);
        return;
    case BIAS_IMAGES:
        allow_only(world, random_u64(draw) &
                              (1ull << FAULT_ISOLATE | 1ull << FAULT_BREAK | 1ull << FAULT_CRASH |
                               1ull << FAULT_POWER | 1ull << FAULT_REIGNS | 1ull << FAULT_SPLIT |
                               1ull << FAULT_FRAME_LOST | 1ull << FAULT_NO_MEMORY));
        world->may_strike[FAULT_ABSENCE] = world->may_strike[FAULT_SWAP] = true;
        world->mix &= ~(1u << WORKLOAD_LARGE);
        world->mix |= 1u << (random_percent(draw, 50) ? WORKLOAD_SET : WORKLOAD_SCAN);
        world->segment_bytes = 1 << 16;
        world->log_bytes = 4 * world->segment_bytes * (world->partitions / LIMIT_PARTITIONS_MIN);
        world->flush_bytes = 64 << 10;
        world->flush_idle_ms = (uint32_t)random_between(draw, 100, 500);
        world->image_chunk_bytes = 4096u << random_below(draw, 3);
        world->image_bytes_per_second = 1u << random_between(draw, 16, 20);
        return;
    case BIAS_SCANS:
        allow_only(world, random_u64(draw) & (1ull << FAULT_ISOLATE | 1ull << FAULT_BREAK |
                                              1ull << FAULT_CRASH | 1ull << FAULT_PAUSE |
                                              1ull << FAULT_CRASH_ALL | 1ull << FAULT_NO_MEMORY));
        world->may_strike[FAULT_RESTART] = true;
        world->mix = 1u << WORKLOAD_SCAN;
        world->scans_large = random_percent(draw, 60);
        world->segment_bytes = 1 << 20;
        world->log_bytes = 6 * world->segment_bytes * (world->partitions / LIMIT_PARTITIONS_MIN);
        world->fault_interval_us = (uint32_t)random_between(draw, 300000, 2 * SECOND_US);
        return;
    case BIAS_DISKS:
        allow_only(world, random_u64(draw) &
                              (1ull << FAULT_ISOLATE | 1ull << FAULT_CRASH | 1ull << FAULT_REIGNS |
                               1ull << FAULT_RESTART | 1ull << FAULT_FRAME_LOST));
        world->may_strike[FAULT_OLD_IMAGE] = true;
        world->fault_interval_us = (uint32_t)random_between(draw, 300000, 2 * SECOND_US);
        return;
    case BIAS_CUTOFF:
        allow_only(world, 1ull << FAULT_HANG | 1ull << FAULT_LULL);
        world->mix &= 1u << WORKLOAD_REGISTER | 1u << WORKLOAD_SET;
        world->mix |= 1u << WORKLOAD_MULTI | 1u << WORKLOAD_RECREATE;
        world->segment_bytes = random_percent(draw, 50) ? 1 << 16 : 1 << 20;
        world->log_bytes = 4 * world->segment_bytes * (world->partitions / LIMIT_PARTITIONS_MIN);
        world->flush_bytes = 64 << 10;
        world->flush_idle_ms = (uint32_t)random_between(draw, 100, 500);
        world->fault_interval_us = (uint32_t)random_between(draw, 300000, 2 * SECOND_US);
        world->hurry_percent = (uint32_t)random_between(draw, 50, 100);
        return;
    case BIAS_LOGS:
        allow_only(world,
                   random_u64(draw) &
                       (1ull << FAULT_ISOLATE | 1ull << FAULT_CRASH | 1ull << FAULT_POWER |
                        1ull << FAULT_CRASH_ALL | 1ull << FAULT_REIGNS | 1ull << FAULT_ABSENCE |
                        1ull << FAULT_SLOW_DISK | 1ull << FAULT_PAUSE | 1ull << FAULT_FRAME_LOST));
        world->may_strike[FAULT_SLOW_FLUSH] = true;
        world->mix &= ~(1u << WORKLOAD_LARGE);
        world->mix |= 1u << (random_percent(draw, 50) ? WORKLOAD_SET : WORKLOAD_MULTI);
        world->segment_bytes = 1 << 16;
        world->log_bytes = 4 * world->segment_bytes * (world->partitions / LIMIT_PARTITIONS_MIN);
        world->fault_interval_us = (uint32_t)random_between(draw, SECOND_US, 4 * SECOND_US);
        return;
    default:
        return;
    }
}

static void draw_run(struct world *world)
{
    struct random *draw = &world->draw;
    uint32_t nodes = (uint32_t)random_below(draw, 20);
    world->node_count = nodes == 0 ? 1 : nodes < 3 ? 5 : 3;
    for (int i = 0; i < FAULT_COUNT; i++) {
        world->may_strike[i] = random_percent(draw, 40);
    }
    world->may_strike[random_below(draw, FAULT_COUNT)] = true;
    /* Not in most: of a damaged node C9 and C11 ask nothing. */
    bool may_rot = random_percent(draw, ROT_PERCENT) || world->options->damage;
    for (int i = FAULT_FLIP_LOG; i <= FAULT_MISDIRECTED; i++) {
        world->may_strike[i] = may_rot && random_percent(draw, 60);
    }
    world->partitions = LIMIT_PARTITIONS_MIN << random_percent(draw, 15);
    world->replicas = world->node_count < 5 ? world->node_count : random_percent(draw, 50) ? 3 : 5;
    world->victim = (uint32_t)random_below(draw, world->node_count);
    world->fault_interval_us = (uint32_t)random_between(draw, 100000, 5 * SECOND_US);
    uint64_t seconds = world->options->fault_seconds ? world->options->fault_seconds
                                                     : random_between(draw, 10, 60);
    world->trouble_us = seconds * SECOND_US;
    world->flush_bytes = random_percent(draw, 50) ? 64 << 10 : 1 << 20;
    world->flush_idle_ms = (uint32_t)random_between(draw, 100, 3000);
    world->scrub_interval_ms = (uint32_t)random_between(
        draw, 500, random_percent(draw, 20) ? COMPARE_ROUND_MAX_MS : 60000);
    world->image_chunk_bytes = 4096u << random_below(draw, 8);
    world->image_bytes_per_second = 1u << random_between(draw, 20, 26);
    world->mix = draw_mix(draw);
    world->hurry_percent = random_percent(draw, 50) ? 0 : (uint32_t)random_between(draw, 1, 30);
    world->lease_percent = random_percent(draw, 50) ? 0 : (uint32_t)random_between(draw, 1, 100);
    bool has_large_values = world->mix >> WORKLOAD_LARGE & 1;
    world->segment_bytes = (uint64_t)1 << random_between(draw, has_large_values ? 20 : 16, 20);
    world->log_bytes = world->segment_bytes * random_between(draw, 4, 8) *
                       (world->partitions / LIMIT_PARTITIONS_MIN);
    world->bias = draw_bias(draw);
    if (world->options->bias != BIAS_DRAWN) {
        world->bias = world->options->bias;
    }
    bend_run(world, draw);
    LOG_INFO(&world->logger, "world: bias %s", world_bias_name(world->bias));
    world->grain_us =
        random_percent(draw, 30) ? 0 : 50u << random_below(draw, 6); /* to 1.6 ms: a busy loop */
    /* small: entries are read back from the disk */
    world->log_cache_bytes = random_percent(draw, 30) ? 4096u << random_below(draw, 6) : 0;
    struct network *network = &world->network;
    network->cut_percent = (uint32_t)random_below(draw, 30);
    network->patience_us = (uint32_t)random_between(draw, SECOND_US, 15 * SECOND_US);
    network->window_bytes = 4096u << random_below(draw, 8);
    uint32_t typical = (uint32_t)random_between(draw, 30, 3000);
    for (uint32_t i = 0; i < NETWORK_MACHINES_MAX; i++) {
        for (uint32_t j = 0; j < NETWORK_MACHINES_MAX; j++) {
            network->latency_us[i][j] = (uint32_t)random_between(draw, typical / 2, typical * 2);
        }
    }
}

static void init_workload(struct world *world)
{
    struct random *draw = &world->draw;
    struct workload_config config = {
        .seed = world->options->seed,
        .endpoints = world->endpoints,
        .mix = world->mix,
        .clients = (uint32_t)random_between(draw, 2, 5),
        .sessions = (uint32_t)random_between(draw, 10, 30),
        .think_us = (uint32_t)random_between(draw, 1000, 11000) * (world->scans_large ? 20 : 1),
        .grain_us = world->grain_us,
        .burst_us = random_percent(draw, 30) ? 0 : (uint32_t)random_between(draw, 2000, 30000),
        .timeout_ms = (uint32_t)random_between(draw, 1000, 6000),
        .hurry_percent = world->hurry_percent,
        .scans_large = world->scans_large,
        .lease_percent = world->lease_percent,
        .break_per_mille = random_percent(draw, 70) ? 0 : (uint32_t)random_below(draw, 50),
    };
    workload_init(&world->workload, &config, &world->schedule, &world->network, world->node_count,
                  &world->logger, on_violation, world);
    world->workload.ack_all = on_ack_all;
}

static void init_world(struct world *world)
{
    uint64_t seed = world->options->seed;
    schedule_init(&world->schedule, BEGIN_US);
    network_init(&world->network, &world->schedule, seed);
    world->network.on_fate = on_frame_fate;
    world->network.ctx = world;
    checker_init(&world->checker, on_violation, world);
    world->logger = make_logger(world, NULL);
    world->draw = random_stream(seed, 1);
    world->nemesis = random_stream(seed, 2);
    draw_run(world);
    size_t at = 0, to = 0;
    for (uint32_t i = 0; i < world->node_count; i++) {
        init_node(world, i);
        at += (size_t)snprintf(world->bootstrap + at, sizeof world->bootstrap - at, "%s%s=%s",
                               i ? "," : "", world->nodes[i].name, world->nodes[i].address);
        to += (size_t)snprintf(world->endpoints + to, sizeof world->endpoints - to, "%s%s",
                               i ? "," : "", world->nodes[i].address);
    }
    init_workload(world);
    world->strike.run = run_strike;
    world->heal_links.run = run_heal_links;
    world->reigns.end.run = run_reign_end;
    world->amnesia.end.run = run_amnesia;
    world->old.put.run = run_put;
}

static int remove_one(const char *path, const struct stat *stat_of, int flag, struct FTW *ftw)
{
    return remove(path);
}

static void fini_world(struct world *world)
{
    end_old_image(world);
    workload_kill(&world->workload);
    for (uint32_t i = 0; i < world->node_count; i++) {
        if (!world->nodes[i].env->is_dead) {
            end_process(&world->nodes[i], ENV_SIM_CRASH);
        }
    }
    network_fini(&world->network);
    workload_fini(&world->workload);
    for (uint32_t i = 0; i < world->node_count; i++) {
        fini_node(&world->nodes[i]);
    }
    checker_fini(&world->checker);
    schedule_fini(&world->schedule);
    nftw(world->options->scratch, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* Faults end; what lies down gets up. */
static void end_starving(struct world *world)
{
    memset(world->starves_every, 0, sizeof world->starves_every);
    for (uint32_t i = 0; i < world->node_count; i++) {
        for (int j = 0; j < MEM_KINDS; j++) {
            world->nodes[i].gates.of[j].refuse_in = world->nodes[i].gates.of[j].refuse_more = 0;
        }
    }
}

static void heal(struct world *world)
{
    LOG_INFO(&world->logger, "world: all is healed");
    schedule_remove(&world->schedule, &world->strike);
    calm(world);
    memset(world->network.fates_per_10000, 0, sizeof world->network.fates_per_10000);
    end_starving(world);
    for (uint32_t i = 0; i < world->node_count; i++) {
        struct world_node *node = &world->nodes[i];
        heal_clock(world, node->env);
        if (node->is_absent) {
            schedule_remove(&world->schedule, &node->boot);
            boot_later(node, draw_restart(world));
        }
    }
}

/* What each replica looks like, for the story's end. */
static void tell_replicas(struct world *world)
{
    for (uint32_t i = 0; i < world->checker.group_count; i++) {
        for (uint32_t j = 0; j < world->node_count; j++) {
            struct world_node *node = &world->nodes[j];
            struct partition *of =
                node->server ? node_find_partition(server_node(node->server), i) : NULL;
            if (of) {
                const struct raft *raft = partition_raft(of);
                LOG_INFO(&world->logger,
                         "group=%u %s: %s term=%lu leader=%lu log=%lu..%lu durable=%lu commit=%lu "
                         "applied=%lu flushed=%lu mark=%lu compared=%lu,%lu,%lu "
                         "(committed anywhere: %lu)",
                         i, node->name, raft_role_name(raft->role), raft->term, raft->leader,
                         raft->log_start, raft->last_index, raft->durable_index, raft->commit,
                         partition_applied(of), raft->flushed, raft->marks[0].index,
                         raft->progress[0].compared, raft->progress[1].compared,
                         raft->progress[2].compared, world->checker.groups[i].committed);
            }
        }
    }
}

static void expect(struct world *world, bool is_fine, const char *what)
{
    if (!is_fine && world->report->violations == 0) {
        char text[200];
        snprintf(text, sizeof text, "no progress: %s", what);
        on_violation(world, text);
        tell_replicas(world);
    }
}

/* The last blow, in a share of the runs: what was acknowledged must survive that no process and no
 * page cache does. */
static void strike_last(struct world *world)
{
    uint32_t draw = (uint32_t)random_below(&world->nemesis, 100);
    if (draw < 50) {
        LOG_INFO(&world->logger, "world: a last %s of all", draw < 35 ? "power loss" : "crash");
        strike_all(world, draw < 35 ? ENV_SIM_POWER_LOSS : ENV_SIM_CRASH);
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
    expect(world, run_until(world, world->schedule.now_us + ROOM_MAX_US, are_writes_admitted),
           "a reserve is not made though the disks have room");
}

/* Whether every replica holds what it should, and none waits for an image. */
static bool are_replicas_whole(struct world *world)
{
    for (uint32_t i = 0; i < world->node_count; i++) {
        const struct node *node = server_node(world->nodes[i].server);
        for (size_t j = 0; j < node->partition_count; j++) {
            struct partition *partition = node->partitions[j];
            const struct raft *raft = partition ? partition_raft(partition) : NULL;
            bool is_leader = raft && raft->role == RAFT_LEADER;
            if (raft && (raft->needs_image || raft->is_suspect || raft->hole > 0)) {
                return false;
            }
            for (int k = 0; is_leader && k < raft->config.replica_count; k++) {
                if (raft->progress[k].state == RAFT_IMAGING) {
                    return false;
                }
            }
        }
    }
    return true;
}

/* All disks are full at once, under load: deletes go on all the while (decisions/008). When there
 * is room again, so do writes. */
static void live_on_full_disks(struct world *world)
{
    struct schedule *schedule = &world->schedule;
    expect_admission(world);
    run_until(world, schedule->now_us + LOOKED_US, NULL); /* a reserve is there */
    if (!is_formed(world) || !are_replicas_whole(world)) {
        return; /* images take room, and a log that has to wait for one is not cut */
    }
    LOG_INFO(&world->logger, "world: all disks are full");
    note_fault(world, FAULT_DISK_FULL);
    for (uint32_t i = 0; i < world->node_count; i++) {
        fill_disk(&world->nodes[i]);
    }
    run_until(world, schedule->now_us + random_between(&world->nemesis, 0, FULL_MAX_US), NULL);
    if (world->report->violations == 0) {
        workload_probe_again(&world->workload, CAIRN_DELETE);
    }
    expect(world, run_until(world, schedule->now_us + DELETES_MAX_US, is_writable),
           "a partition takes no deletes on full disks");
    for (uint32_t i = 0; i < world->node_count; i++) {
        disk_set_capacity(world->nodes[i].disk, DISK_BYTES);
    }
    if (world->report->violations == 0) {
        workload_probe_again(&world->workload, CAIRN_PUT);
    }
    expect(world, run_until(world, schedule->now_us + ROOM_MAX_US, is_writable),
           "a partition takes no writes though the disks have room again");
}

/* --- A slow disk */

/* It knows that it is slow, and leads nothing. */
static bool has_handed_over(struct world *world)
{
    const struct node *node = server_node(world->slow->server);
    if (!node->disks.is_slow) {
        return false;
    }
    for (size_t i = 0; i < node->partition_count; i++) {
        if (node->partitions[i] && partition_is_primary(node->partitions[i])) {
            return false;
        }
    }
    return true;
}

/* A node whose disk is well leads the groups that it is preferred for. */
static bool has_got_back(struct world *world)
{
    const struct node *node = server_node(world->slow->server);
    for (size_t i = 0; i < node->partition_count; i++) {
        const struct partition *partition = node->partitions[i];
        if (partition && partition_topology(partition)->replicas[0].node_id == node_id(node) &&
            !partition_is_primary(partition)) {
            return false;
        }
    }
    return true;
}

/* One disk takes fifty times as long as the others: soon its node leads nothing, and that stays so, while it goes on to follow
 * (decisions/012). When the disk is well, primaries return. */
static void live_on_a_slow_disk(struct world *world)
{
    struct schedule *schedule = &world->schedule;
    uint64_t others_us = SLOW_LEAST_US / SLOW_FACTOR;
    world->slow = draw_node(world);
    if (!is_formed(world) || !are_replicas_whole(world)) {
        return; /* who waits for an image can't take over */
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
    env->slow_factor = (uint32_t)(SLOW_FACTOR * others_us / env->log_delay_us) + 1;
    expect(world, run_until(world, schedule->now_us + HANDED_MAX_US, has_handed_over),
           "a node with a slow disk goes on to lead");
    run_until(world, schedule->now_us + SECOND_US, NULL); /* leadership was on its way there, too */
    expect(world, run_until(world, schedule->now_us + SECOND_US, has_handed_over),
           "a node with a slow disk is handed leadership");
    for (int i = 0; i < 8 && world->report->violations == 0; i++) {
        run_until(world, schedule->now_us + SECOND_US / 4, NULL);
        expect(world, has_handed_over(world), "a node with a slow disk leads again");
    }
    env_sim_heal_disk(env);
    expect(world, run_until(world, schedule->now_us + RETURN_MAX_US, has_got_back),
           "primaries do not return to a node whose disk is well again");
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

static bool is_suspect(const struct world *world, uint32_t group, uint64_t replica)
{
    for (uint32_t i = 0; i < world->node_count; i++) {
        struct server *server = world->nodes[i].server;
        struct partition *of = server ? node_find_partition(server_node(server), group) : NULL;
        const struct raft *raft = of ? partition_raft(of) : NULL;
        if (raft && raft->config.self == replica) {
            return raft->is_suspect;
        }
    }
    return false;
}

/* Whether a leader can have no majority yet, for want of replicas that count: the victim's counts
 * for nothing, others wait for images, which are throttled. */
static bool has_to_wait(const struct world *world, uint32_t group, const struct raft *leader)
{
    int suspects = 0, imaging = 0;
    for (int i = 0; i < leader->config.replica_count; i++) {
        bool suspect = is_suspect(world, group, leader->config.replicas[i]);
        suspects += suspect;
        imaging += !suspect && leader->progress[i].state == RAFT_IMAGING;
    }
    return suspects > 0 && imaging > 0 && (suspects + imaging) * 2 >= leader->config.replica_count;
}

static bool has_group_to_wait(const struct world *world)
{
    for (uint32_t i = 0; i < world->node_count; i++) {
        struct server *server = world->nodes[i].server;
        const struct node *node = server ? server_node(server) : NULL;
        for (size_t j = 0; node && j < node->partition_count; j++) {
            const struct raft *raft =
                node->partitions[j] ? partition_raft(node->partitions[j]) : NULL;
            if (raft && raft->role == RAFT_LEADER && has_to_wait(world, (uint32_t)j, raft)) {
                return true;
            }
        }
    }
    return false;
}

/* Every partition takes writes soon, or as soon as the images are there that it must wait for. */
static bool becomes_writable(struct world *world, uint64_t up_us)
{
    bool is_done = run_until(world, up_us + WRITABLE_MAX_US, is_writable);
    uint64_t end_us = world->schedule.now_us + images_max_us(world);
    while (!is_done && has_group_to_wait(world) && world->schedule.now_us < end_us) {
        is_done = run_until(world, world->schedule.now_us + WRITABLE_MAX_US, is_writable);
    }
    return is_done;
}

/* What each group had committed when it was asked whether its replicas are compared behind that. */
static bool are_compared(struct world *world)
{
    for (uint32_t i = 0; i < world->checker.group_count; i++) {
        struct world_node *node = find_leader(world, i);
        if (!node) {
            return false;
        }
        const struct raft *raft = partition_raft(node_find_partition(server_node(node->server), i));
        for (int j = 0; j < raft->config.replica_count; j++) {
            const struct raft_progress *peer = &raft->progress[j];
            if (peer->id != raft->config.self && peer->state != RAFT_IMAGING &&
                peer->compared < world->checker.groups[i].compare_from) {
                return false;
            }
        }
    }
    return true;
}

/* The load goes on, so flushes don't meet: the replicas of every group are compared at a mark (decisions/013), which is proposed
 * within two rounds of the scrub and flushed a while later. */
static void expect_compared(struct world *world)
{
    uint64_t flush_ms = world->scrub_interval_ms / 16;
    flush_ms = flush_ms < world->flush_idle_ms ? world->flush_idle_ms : flush_ms;
    if (world->scrub_interval_ms > COMPARE_ROUND_MAX_MS ||
        world->checker.is_damaged[world->victim] || world->report->violations > 0 ||
        !is_formed(world) || !are_replicas_whole(world)) {
        return; /* who gets an image is compared behind it */
    }
    for (uint32_t i = 0; i < world->checker.group_count; i++) {
        world->checker.groups[i].compare_from = world->checker.groups[i].committed;
    }
    uint64_t bound_us = 1000ull * (3 * world->scrub_interval_ms + 2 * flush_ms) + COMPARE_SLACK_US;
    expect(world, run_until(world, world->schedule.now_us + bound_us, are_compared),
           "replicas of a group under load are not compared");
}

/* After healing: all nodes come up, every partition takes writes soon, and then the load goes on
 * without a failure. */
static void recover(struct world *world)
{
    struct schedule *schedule = &world->schedule;
    uint64_t healed_us = schedule->now_us;
    strike_last(world);
    workload_probe(&world->workload);
    expect(world, run_until(world, schedule->now_us + UP_MAX_US, is_formed),
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
        run_until(world, schedule->now_us + LOOKED_US, NULL);
    }
    workload_expect_calm(&world->workload);
    if (world->node_count >= 3 && world->report->violations == 0 &&
        random_percent(&world->nemesis, SLOW_PERCENT)) {
        live_on_a_slow_disk(world);
    }
    uint64_t end_us = schedule->now_us + random_between(&world->nemesis, 0, CALM_MAX_US);
    uint64_t least_us = BEGIN_US + (uint64_t)world->options->least_seconds * SECOND_US;
    run_until(world, end_us > least_us ? end_us : least_us, NULL);
    expect_compared(world);
}

static void live(struct world *world)
{
    struct schedule *schedule = &world->schedule;
    expect(world, run_until(world, schedule->now_us + FORM_MAX_US, is_formed),
           "the cluster does not form");
    workload_begin(&world->workload);
    begin_frame_faults(world);
    begin_starving(world);
    schedule_add(schedule, &world->strike,
                 schedule->now_us + random_delay(&world->nemesis, world->fault_interval_us));
    run_until(world, schedule->now_us + world->trouble_us, NULL);
    schedule_remove(schedule, &world->strike);
    end_starving(world); /* an image of many allocations may never find them all */
    expect(world, run_until(world, schedule->now_us + images_max_us(world), is_old_over),
           "a node whose disk was put back is not made whole");
    end_old_image(world);
    heal(world);
    recover(world);
    expect(world, run_until(world, schedule->now_us + ANSWERS_MAX_US, are_clients_idle),
           "requests stay unanswered");
    if (world->report->violations == 0) {
        workload_read_all(&world->workload);
    }
    expect(world, run_until(world, schedule->now_us + ANSWERS_MAX_US, is_all_read),
           "keys cannot be read after healing");
    expect(world, run_until(world, schedule->now_us + images_max_us(world), has_converged),
           "replicas do not converge");
    if (world->report->violations == 0) {
        compare_stores(world);
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
    init_world(world);
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
    fini_world(world);
    mem_free(world);
}
