/* The faults that strike a run, but for those of world_disks.c, and their end. */
#include "sim/world_private.h"

#include "base/mem.h"
#include "node/node_private.h"
#include "server/server.h"
#include "sim/checker.h"
#include "sim/checker_state.h"
#include "sim/env_sim.h"
#include "sim/replicas.h"
#include "sim/workload.h"

enum {
    HANG_MAX_US = 4 * SECOND_US,      /* of links: long enough for an election */
    HANG_MORE_US = 3 * SECOND_US / 2, /* how much longer the disk hangs */
    LULL_MAX_US = 20 * SECOND_US,     /* the others fill and cut their logs */
    LULL_BEGIN_US = SECOND_US,        /* about when another leader is elected */
    SLOW_FACTOR_MAX = 100,
    ABSENCE_MAX_US = 40 * SECOND_US,
    OLD_POLL_US = 20 * 1000,
};

struct world_node *world_draw_node(struct world *world)
{
    return &world->nodes[random_below(&world->nemesis, world->node_count)];
}

/* At once, or in the middle of its next write to the log. */
static bool strike_one(struct world *world, enum env_sim_end end)
{
    struct world_node *node = world_draw_node(world);
    if (node->env->is_dead || random_percent(&world->nemesis, 50)) {
        return world_strike_end(node, end);
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
        struck |= world_strike_end(&world->nodes[i], end);
    }
    return struck;
}

static void heal_later(struct world *world)
{
    schedule_add(&world->schedule, &world->heal_links,
                 world->schedule.now_us + 100000 + random_below(&world->nemesis, 6 * SECOND_US));
}

void world_run_heal_links(struct schedule_event *event)
{
    struct world *world = container_of(event, struct world, heal_links);
    LOG_INFO(&world->logger, "world: links are healed");
    network_unblock_all(&world->network);
}

void world_cut_off(struct world *world, const struct world_node *node)
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
    struct world_node *node = world_draw_node(world);
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
    struct world_node *from = world_draw_node(world), *to = world_draw_node(world);
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
    struct world_node *node = world_draw_node(world);
    struct disk_faults *faults = disk_faults(node->disk);
    switch (fault) {
    case FAULT_SLOW_DISK:
        node->env->slow_factor =
            random_percent(&world->nemesis, 30)
                ? SLOW_FACTOR_MAX
                : (uint32_t)random_between(&world->nemesis, 5, SLOW_FACTOR_MAX);
        break;
    case FAULT_DISK_FULL:
        world_fill_disk(node);
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
    struct world_node *one = world_draw_node(world);
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
    struct world_node *node = world_draw_node(world);
    if (node->env->is_dead) {
        return false;
    }
    world_end_process(node, ENV_SIM_CRASH);
    node->is_absent = true;
    world_boot_later(node, random_between(&world->nemesis, RESTART_MAX_US, ABSENCE_MAX_US));
    return true;
}

static bool strike_pause(struct world *world)
{
    struct world_node *node = world_draw_node(world);
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
    struct world_node *node = world_draw_node(world);
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

void world_watch_reigns(struct world *world, struct world_node *node)
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

void world_run_reign_end(struct schedule_event *event)
{
    struct world *world = container_of(event, struct world, reigns.end);
    struct world_node *node = world->reigns.leader;
    network_unblock_all(&world->network);
    if (random_percent(&world->nemesis, 20)) {
        if (!node->env->is_dead) {
            LOG_INFO(&world->logger, "world: the reign of %s ends by a crash", node->name);
            world_end_process(node, ENV_SIM_CRASH);
            world_boot_later(node, 50000 + random_below(&world->nemesis, 300000));
        }
        return;
    }
    LOG_INFO(&world->logger, "world: the reign of %s ends", node->name);
    world_cut_off(world, node);
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
    struct world_node *node = world_draw_node(world);
    if (node->env->is_dead || schedule_is_waiting(&world->heal_links)) {
        return false;
    }
    uint64_t healed_us =
        world->schedule.now_us + random_between(&world->nemesis, SECOND_US / 2, HANG_MAX_US);
    LOG_INFO(&world->logger, "world: links and disk of %s hang", node->name);
    world_cut_off(world, node);
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
    struct world_node *node = world_draw_node(world);
    uint64_t now_us = world->schedule.now_us;
    if (node->env->is_dead || schedule_is_waiting(&world->heal_links)) {
        return false;
    }
    uint64_t healed_us = now_us + random_between(&world->nemesis, LULL_MAX_US / 4, LULL_MAX_US);
    LOG_INFO(&world->logger, "world: %s is cut off in a lull", node->name);
    world_cut_off(world, node);
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

void world_watch_swaps(struct world *world, struct world_node *node)
{
    struct node *of = server_node(node->server);
    for (size_t i = 0; i < of->partition_count && !node->env->ambush; i++) {
        if (!of->partitions[i] || !partition_is_installing(of->partitions[i])) {
            continue;
        }
        uint32_t draw = (uint32_t)random_below(&world->nemesis, 100); /* a swap takes many steps */
        struct world_node *leader = draw < 2 ? world_find_leader(world, (uint32_t)i) : NULL;
        if (leader && !leader->is_stopping) {
            server_stop(
                leader->server); /* it hands over, perhaps to one whose log goes back further */
        } else if (draw >= 95) {
            world_note_fault(world, FAULT_SWAP);
            node->ambush_end =
                random_percent(&world->nemesis, 50) ? ENV_SIM_CRASH : ENV_SIM_POWER_LOSS;
            node->env->ambush_class = ENV_JOB_FLUSH;
            node->env->ambush = &node->ambush;
        }
    }
}

static int64_t draw_around_zero(struct random *random, uint64_t most)
{
    return (int64_t)random_below(random, 2 * most + 1) - (int64_t)most;
}

static bool strike_clock(struct world *world, enum world_fault fault)
{
    static const uint64_t jumps_us[] = { 200000, 200000, 60ull * SECOND_US, 10800ull * SECOND_US };
    struct env_sim *env = world_draw_node(world)->env;
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

void world_on_frame_fate(void *ctx, enum network_fate fate)
{
    world_note_fault(ctx, frame_faults[fate]);
}

void world_begin_frame_faults(struct world *world)
{
    for (int i = 1; i < NETWORK_FATES; i++) {
        if (world->may_strike[frame_faults[i]]) {
            world->network.fates_per_10000[i] = 1u
                                                << random_below(&world->nemesis, 9); /* to 2.56 % */
        }
    }
}

/* How many allocations of a kind, on the average, are between two that fail: so each kind is struck in proportion to its use. */
void world_begin_starving(struct world *world)
{
    for (int i = 0; i < MEM_KINDS && world->may_strike[FAULT_NO_MEMORY]; i++) {
        if (random_percent(&world->nemesis, 60)) {
            world->starves_every[i] =
                1ull << random_between(&world->nemesis, i == MEM_IMAGE ? 3 : 8, 16);
        }
    }
    for (uint32_t i = 0; i < world->node_count; i++) {
        world_arm_gates(world, &world->nodes[i]);
    }
}

/* Soon, of most kinds: one allocation, or for a while all. */
static void strike_no_memory(struct world *world)
{
    struct random *random = &world->nemesis;
    struct world_node *node = world_draw_node(world);
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
        return world_strike_rot(world, fault);
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
        return world_strike_old_image(world);
    case FAULT_HANG:
        return strike_hang(world);
    case FAULT_LULL:
        return strike_lull(world);
    default:
        return strike_disk(world, fault);
    }
}

void world_run_strike(struct schedule_event *event)
{
    struct world *world = container_of(event, struct world, strike);
    if (!world_is_old_whole(world)) {
        schedule_add(&world->schedule, &world->strike, world->schedule.now_us + OLD_POLL_US);
        return;
    }
    enum world_fault fault = (enum world_fault)random_below(&world->nemesis, FAULT_COUNT);
    bool strikes = world->may_strike[fault] && !is_frame_fault(fault);
    if (strikes) {
        LOG_INFO(&world->logger, "world: %s", world_fault_name(fault));
        if (strike(world, fault)) {
            world_note_fault(world, fault);
        }
    }
    /* draws that hit nothing cost no time, so that the rate does not hang on how many faults there
     * are */
    uint64_t pause_us = strikes ? random_delay(&world->nemesis, world->fault_interval_us) : 1;
    schedule_add(&world->schedule, &world->strike, world->schedule.now_us + pause_us);
}

void world_end_starving(struct world *world)
{
    memset(world->starves_every, 0, sizeof world->starves_every);
    for (uint32_t i = 0; i < world->node_count; i++) {
        for (int j = 0; j < MEM_KINDS; j++) {
            world->nodes[i].gates.of[j].refuse_in = world->nodes[i].gates.of[j].refuse_more = 0;
        }
    }
}

void world_heal(struct world *world)
{
    LOG_INFO(&world->logger, "world: all is healed");
    schedule_remove(&world->schedule, &world->strike);
    world_calm(world);
    memset(world->network.fates_per_10000, 0, sizeof world->network.fates_per_10000);
    world_end_starving(world);
    for (uint32_t i = 0; i < world->node_count; i++) {
        struct world_node *node = &world->nodes[i];
        heal_clock(world, node->env);
        if (node->is_absent) {
            schedule_remove(&world->schedule, &node->boot);
            world_boot_later(node, world_draw_restart(world));
        }
    }
}

void world_strike_last(struct world *world)
{
    uint32_t draw = (uint32_t)random_below(&world->nemesis, 100);
    if (draw < 50) {
        LOG_INFO(&world->logger, "world: a last %s of all", draw < 35 ? "power loss" : "crash");
        strike_all(world, draw < 35 ? ENV_SIM_POWER_LOSS : ENV_SIM_CRASH);
    }
}
