/* The nodes of a run: their processes begin, end, and begin again; their disks fill and get well. */
#include "sim/world_private.h"

#include <stdio.h>
#include <sys/stat.h>

#include "base/mem.h"
#include "node/node_private.h"
#include "server/server.h"
#include "sim/checker.h"
#include "sim/env_sim.h"
#include "sim/rot.h"

enum {
    ROT_SOON_US = SECOND_US / 2, /* after a start: about when the commit index is learned */
    RESERVE_SEGMENTS = 2,        /* as with the defaults */
    /* An image whose pieces are smaller must find a quick disk, since each piece is durable before the
     * next is asked for: it must be there before its index is cut from the log that goes on. */
    PIECE_SMALL_BYTES = 32 << 10,
    OVERLAY_BYTES = 32 << 20,
    /* Some thirty keys: a flush under load takes several transactions. */
    FLUSH_TRANSACTION_BYTES = 128 << 10,
};

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

void world_end_process(struct world_node *node, enum env_sim_end end)
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

void world_boot_later(struct world_node *node, uint64_t delay_us)
{
    schedule_add(&node->world->schedule, &node->boot, node->world->schedule.now_us + delay_us);
}

uint64_t world_draw_restart(struct world *world)
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
        world_note_violation(node->world, text);
    }
    world_end_process(node, ENV_SIM_CRASH);
    world_boot_later(node, world_draw_restart(node->world));
}

void world_note_rot(struct world_node *node, enum world_fault fault)
{
    LOG_INFO(&node->world->logger, "world: %s of %s", world_fault_name(fault), node->name);
    checker_damaged(&node->world->checker, node->number);
    world_note_fault(node->world, fault);
}

static void flip_due_records(struct world_node *node)
{
    char *path = mem_printf("%s/store", node->data);
    for (; node->flips_due > 0; node->flips_due--) {
        if (rot_flip_closed_record(path, &node->world->nemesis)) {
            world_note_rot(node, FAULT_FLIP_RECORD);
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
        .flush_transaction_bytes = FLUSH_TRANSACTION_BYTES,
        .overlay_bytes = OVERLAY_BYTES,
        .flush_idle_ms = world->flush_idle_ms,
        .log_bytes = world->log_bytes,
        .log_segment_bytes = world->segment_bytes,
        .log_cache_bytes = world->log_cache_bytes,
        .map_bytes = world->map_bytes,
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

void world_fill_disk(struct world_node *node)
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
        world_note_rot(node, FAULT_FLIP_LOG);
    }
}

static void run_ambush(struct schedule_event *event);

void world_init_node(struct world *world, uint32_t number)
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
    node->logger = world_make_logger(world, node->name);
    node->boot.run = run_boot;
    node->start = (struct schedule_event){ .run = run_start, .owner = node->env };
    node->bury.run = run_bury;
    node->ambush.run = run_ambush;
    node->relief.run = run_relief;
    node->rot.run = run_rot;
    world_boot_later(node, random_below(&world->draw, SECOND_US));
}

void world_fini_node(struct world_node *node)
{
    node->world->report->jobs_cut += node->env->jobs_cut;
    node->world->report->sectors_lost += disk_stats(node->disk)->sectors_lost;
    node->world->report->sectors_torn += disk_stats(node->disk)->sectors_torn;
    node->world->report->names_lost += disk_stats(node->disk)->names_lost;
    mem_free(node->data);
    env_sim_free(node->env);
    disk_free(node->disk);
}

bool world_strike_end(struct world_node *node, enum env_sim_end end)
{
    if (node->env->is_dead) {
        return false;
    }
    world_end_process(node, end);
    world_boot_later(node, world_draw_restart(node->world));
    return true;
}

static void run_ambush(struct schedule_event *event)
{
    struct world_node *node = container_of(event, struct world_node, ambush);
    if (!node->env->is_dead) {
        world_strike_end(node, node->ambush_end);
    }
}

void world_arm_gate(struct world *world, struct mem_gate *gate, int kind)
{
    uint64_t every = world->starves_every[kind];
    if (gate->refuse_in == 0 && every > 0) {
        gate->refuse_in = random_between(&world->nemesis, 1, 2 * every);
    }
}

void world_arm_gates(struct world *world, struct world_node *node)
{
    for (int i = 0; i < MEM_KINDS; i++) {
        world_arm_gate(world, &node->gates.of[i], i);
    }
}
