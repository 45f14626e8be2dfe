/* What a run is like, drawn from its seed: the cluster, its settings, which faults may strike, what clients do. */
#include "sim/world_private.h"

#include <ftw.h>
#include <stdio.h>
#include <sys/stat.h>

#include "sim/checker.h"
#include "sim/env_sim.h"
#include "sim/workload.h"

enum {
    ROT_PERCENT = 30, /* of the runs */
    RATE_LEAST = 450, /* see draw_rate */
    RATE_MOST = 5000,
    SCANS_LARGE_FACTOR = 20, /* so many fewer where scans read many MB */
    MAP_BYTES = 64 << 20,
    ELEMENT_ROOM_BYTES = 256, /* of a map: some 100 take the users', the rest is for images */
};

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
        world->map_bytes = MAP_BYTES >> random_between(draw, 1, 4);
        world->has_small_map = true;
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
    world->map_bytes = MAP_BYTES;
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

/* Operations a second. Five hundred, on average, are asked of the simulator (docs/TESTING.md): more of
 * them cost time in which other runs could show more. Faults, and what follows the load, take half of
 * what is drawn: some 520 are left. Most runs ask fewer than the mean, some three times as many. */
static uint32_t draw_rate(struct world *world)
{
    struct random *draw = &world->draw;
    bool fills_logs =
        world->bias == BIAS_LOGS || world->bias == BIAS_CUTOFF || world->bias == BIAS_IMAGES;
    uint64_t most = random_between(draw, RATE_LEAST, RATE_MOST);
    uint64_t rate = random_between(draw, fills_logs ? most / 2 : RATE_LEAST, most);
    return (uint32_t)(world->scans_large ? rate / SCANS_LARGE_FACTOR : rate);
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
        .rate = draw_rate(world),
        .grain_us = world->grain_us,
        .burst_us = random_percent(draw, 30) ? 0 : (uint32_t)random_between(draw, 2000, 30000),
        .timeout_ms = (uint32_t)random_between(draw, 1000, 6000),
        .hurry_percent = world->hurry_percent,
        .elements_max = (uint32_t)(world->map_bytes / ELEMENT_ROOM_BYTES),
        .scans_large = world->scans_large,
        .lease_percent = world->lease_percent,
        .break_per_mille = random_percent(draw, 70) ? 0 : (uint32_t)random_below(draw, 50),
        .company_percent = random_percent(draw, 50) ? 0 : (uint32_t)random_between(draw, 10, 100),
    };
    workload_init(&world->workload, &config, &world->schedule, &world->network, world->node_count,
                  &world->logger, world_note_violation, world);
    world->workload.ack_all = world_on_ack_all;
}

void world_init(struct world *world)
{
    uint64_t seed = world->options->seed;
    schedule_init(&world->schedule, BEGIN_US);
    network_init(&world->network, &world->schedule, seed);
    world->network.on_fate = world_on_frame_fate;
    world->network.ctx = world;
    checker_init(&world->checker, world_note_violation, world);
    world->logger = world_make_logger(world, NULL);
    world->draw = random_stream(seed, 1);
    world->nemesis = random_stream(seed, 2);
    draw_run(world);
    size_t at = 0, to = 0;
    for (uint32_t i = 0; i < world->node_count; i++) {
        world_init_node(world, i);
        at += (size_t)snprintf(world->bootstrap + at, sizeof world->bootstrap - at, "%s%s=%s",
                               i ? "," : "", world->nodes[i].name, world->nodes[i].address);
        to += (size_t)snprintf(world->endpoints + to, sizeof world->endpoints - to, "%s%s",
                               i ? "," : "", world->nodes[i].address);
    }
    init_workload(world);
    world->strike.run = world_run_strike;
    world->heal_links.run = world_run_heal_links;
    world->reigns.end.run = world_run_reign_end;
    world->amnesia.end.run = world_run_amnesia;
    world->old.put.run = world_run_put;
}

static int remove_one(const char *path, const struct stat *stat_of, int flag, struct FTW *ftw)
{
    return remove(path);
}

void world_fini(struct world *world)
{
    world_end_old_image(world);
    workload_kill(&world->workload);
    for (uint32_t i = 0; i < world->node_count; i++) {
        if (!world->nodes[i].env->is_dead) {
            world_end_process(&world->nodes[i], ENV_SIM_CRASH);
        }
    }
    network_fini(&world->network);
    workload_fini(&world->workload);
    for (uint32_t i = 0; i < world->node_count; i++) {
        world_fini_node(&world->nodes[i]);
    }
    checker_fini(&world->checker);
    schedule_fini(&world->schedule);
    nftw(world->options->scratch, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}
