/* Disks that lose what they held: bits that rot (sim/rot.h), files that are forgotten, disks put back to an earlier state
 * (sim/old_image.h, decisions/009). */
#include "sim/world_private.h"

#include "base/mem.h"
#include "node/node_private.h"
#include "server/server.h"
#include "sim/checker.h"
#include "sim/env_sim.h"
#include "sim/old_image.h"
#include "sim/rot.h"
#include "sim/workload.h"

enum {
    AMNESIA_MAX_US = SECOND_US / 2, /* of commits that are forgotten */
};

/* Amnesia. One node is cut off for a moment, so that it lacks what the others commit meanwhile; then
 * all others fall, and the victim's log loses the headers of just that. If it voted for the one
 * that was cut off, or was elected by it, what was acknowledged would be gone; it must wait for the
 * others, which come later. */
static bool strike_amnesia(struct world *world)
{
    struct world_node *victim = &world->nodes[world->victim], *behind = world_draw_node(world);
    if (behind == victim || victim->env->is_dead || behind->env->is_dead ||
        schedule_is_waiting(&world->amnesia.end)) {
        return false;
    }
    world_cut_off(world, behind);
    LOG_INFO(&world->logger, "world: %s is cut off, %s will forget", behind->name, victim->name);
    world->amnesia.behind = behind;
    world->amnesia.mark = disk_log_writes(victim->disk);
    schedule_add(&world->schedule, &world->amnesia.end,
                 world->schedule.now_us + random_between(&world->nemesis, 5000, AMNESIA_MAX_US));
    return false; /* noted when it happens */
}

void world_run_amnesia(struct schedule_event *event)
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
            world_end_process(node, ENV_SIM_CRASH);
        }
        world_boot_later(node, node == victim ? random_between(&world->nemesis, 1000, 300000)
                                              : world_draw_restart(world) + SECOND_US);
    }
    if (disk_ruin_log(victim->disk, world->amnesia.mark) > 0) {
        world_note_rot(victim, FAULT_FLIP_LOG);
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
        world_strike_end(node, ENV_SIM_CRASH);
        node->log_flips_due = 1u << random_below(random, 8);
        return false; /* noted when it happens */
    }
    for (uint64_t left = 1ull << random_below(random, 8); left > 0; left--) {
        is_struck |= disk_flip_log(node->disk, random_percent(random, 70) ? DISK_ROT_RECENT
                                                                          : DISK_ROT_ANYWHERE);
    }
    if (is_struck) {
        world_note_rot(node, FAULT_FLIP_LOG);
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
            world_note_rot(node, FAULT_FLIP_RECORD);
        }
    }
    mem_free(path);
}

bool world_strike_rot(struct world *world, enum world_fault fault)
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

/* Old disk images. What is promised (decisions/009): while the other nodes run and are connected, no
 * acknowledged write is lost by one disk that is put back, if somebody remembers: either a later
 * start of the node, which others keep on disk, or what it said since the image was taken, which
 * they keep in memory. So first everything is made well; for a while the node lives on; then it is
 * killed and comes back on the image; and nothing else strikes until it is whole. */
void world_end_old_image(struct world *world)
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

void world_calm(struct world *world)
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
        disk_calm(node->disk);
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
    world_end_old_image(world);
    old->node = world_draw_node(world);
    old->image = old_image_take(old->node->disk, old->node->data);
    uint32_t draw = (uint32_t)random_below(&world->nemesis, 100);
    old->is_with_all = draw < 30;
    old->has_behind = draw < 65;
    for (uint32_t i = 0; i < world->node_count; i++) {
        old->starts[i] = world->nodes[i].starts;
    }
    put_later(world, random_between(&world->nemesis, 100000, 8 * SECOND_US));
}

bool world_strike_old_image(struct world *world)
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
    world_note_fault(world, FAULT_OLD_IMAGE);
    if (!old->node->env->is_dead) {
        world_end_process(old->node, old->behind ? ENV_SIM_POWER_LOSS : ENV_SIM_CRASH);
    }
    checker_old_began(&world->checker, old->node->number);
    old_image_put(old->image, old->node->disk, old->node->data);
    old->image = NULL;
    world_boot_later(
        old->node, random_between(&world->nemesis, 1000, old->behind ? SECOND_US / 5 : SECOND_US));
}

/* In most strikes one of the others is cut off before, so that it lacks what this node and the rest
 * commit: if it had the vote of the forgetful one, that would be gone. It asks for that vote where
 * the forgetful one led, which loses its power, so that nothing of it is on its way any more, and is
 * back before the rest have elected. In a share of them nobody's memory is left: all others fall with
 * the node, and what binds it is the start that the image knows nothing of, which they keep on
 * disk. */
static bool cut_one_off(struct world *world)
{
    struct world_old *old = &world->old;
    if (!old->has_behind) {
        return false;
    }
    do {
        old->behind = world_draw_node(world);
    } while (old->behind == old->node);
    LOG_INFO(&world->logger, "world: %s is cut off, %s will fall", old->behind->name,
             old->is_with_all ? "all" : old->node->name);
    world_cut_off(world, old->behind);
    put_later(world, random_between(&world->nemesis, 5000, AMNESIA_MAX_US));
    return true;
}

static void fall_with(struct world *world)
{
    enum env_sim_end end = random_percent(&world->nemesis, 50) ? ENV_SIM_CRASH : ENV_SIM_POWER_LOSS;
    for (uint32_t i = 0; i < world->node_count; i++) {
        struct world_node *node = &world->nodes[i];
        if (node == world->old.node) {
            continue;
        }
        if (!node->env->is_dead) {
            world_end_process(node, end);
        }
        world_boot_later(node,
                         random_between(&world->nemesis, 1000,
                                        node == world->old.behind ? SECOND_US / 10 : SECOND_US));
    }
}

/* False: this node has not started again since the image was taken; it does now. */
static bool has_started_since(struct world *world)
{
    struct world_old *old = &world->old;
    if (old->node->starts > old->starts[old->node->number]) {
        return true;
    }
    world_strike_end(old->node, ENV_SIM_CRASH);
    put_later(world, SECOND_US / 4);
    return false;
}

/* Whether all other nodes have connections to each other. One that broke for another reason (memory) while a
 * node was cut off is dialled again only after a while, and until then nobody waits for what that node
 * remembers. */
static bool are_others_connected(const struct world *world)
{
    for (uint32_t i = 0; i < world->node_count; i++) {
        const struct world_node *from = &world->nodes[i];
        const struct node *node = from->server ? server_node(from->server) : NULL;
        for (size_t j = 0; from != world->old.node && j < (node ? node->link_count : 0); j++) {
            bool is_other = node->links[j].node_id != node_id(server_node(world->old.node->server));
            if (is_other && !node->links[j].peer.conn) {
                return false;
            }
        }
    }
    return true;
}

void world_run_put(struct schedule_event *event)
{
    struct world *world = container_of(event, struct world, old.put);
    struct world_old *old = &world->old;
    if (old->behind && !old->is_with_all && old->node->server && !are_others_connected(world)) {
        network_unblock_all(&world->network);
        old->behind = NULL;
        put_later(world, SECOND_US / 4);
        return;
    }
    if (old->behind) {
        put_back(world);
        network_unblock_all(&world->network);
        if (old->is_with_all) {
            fall_with(world);
        }
        old->behind = NULL;
        return;
    }
    if (is_void(world)) {
        old->is_healing = false;
        world->checker.is_damaged[world->victim] ? world_end_old_image(world) : take_image(world);
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
        world_calm(world);
        old->is_healing = true;
        /* then all others have heard of its start */
        put_later(world, random_below(&world->nemesis, 2 * SECOND_US) +
                             (old->is_with_all ? 2 * SECOND_US : 0));
        return;
    }
    if (!cut_one_off(world)) {
        put_back(world);
    }
}

bool world_is_old_whole(struct world *world)
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

bool world_is_old_over(struct world *world)
{
    struct world_old *old = &world->old;
    if (old->image && !old->is_healing && is_void(world)) {
        world_end_old_image(world);
    }
    if (old->image && !old->is_healing) {
        world_calm(world);
    }
    return world_is_old_whole(world) && !old->image;
}
