/* What must be true of a run: questions to wait for, and what is found wanting. */
#include "sim/world_private.h"

#include <stdio.h>

#include "node/node_private.h"
#include "server/server.h"
#include "sim/checker.h"
#include "sim/checker_state.h"
#include "sim/replicas.h"
#include "sim/workload.h"

enum {
    REACH_SLACK_MS = 30,              /* ticks */
    CONVERGE_MAX_US = 60 * SECOND_US, /* throttled images of all partitions, then the idle flush */
    LOG_PERCENT_MAX = 250,
    LOG_SLACK_SEGMENTS =
        2, /* beyond LIMIT_LOG_HARD_PERCENT: a batch, a checkpoint, no-ops, votes */
    LOG_OVER_US_MAX = SECOND_US / 2, /* a tick of the node's, and a flush's end */
};

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

void world_judge_log(struct world_node *node)
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
        world_note_violation(world, text);
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
        world_note_violation(world, text);
    }
}

bool world_is_formed(struct world *world)
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

bool world_is_writable(struct world *world)
{
    return world->workload.probe.left == 0;
}

bool world_are_clients_idle(struct world *world)
{
    return workload_end(&world->workload);
}

bool world_are_clients_connected(struct world *world)
{
    return workload_is_connected(&world->workload);
}

bool world_is_answered(struct world *world)
{
    return workload_is_answered(&world->workload);
}

bool world_is_all_read(struct world *world)
{
    return world->workload.final_left == 0;
}

bool world_has_converged(struct world *world)
{
    if (!world_is_formed(world)) {
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
uint64_t world_images_max_us(const struct world *world)
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
void world_compare_stores(struct world *world)
{
    struct err text;
    uint64_t now_us = world->schedule.now_us;
    uint64_t end_us = now_us + 2000ull * world->scrub_interval_ms + world_images_max_us(world);
    bool is_rotten = world->checker.is_damaged[world->victim];
    while (!are_stores_equal(world, &text)) {
        now_us = world->schedule.now_us;
        if (!is_rotten || now_us >= end_us) {
            checker_fail(&world->checker, "%s", text.text);
            return;
        }
        world_run_until(world, now_us + SECOND_US, NULL);
        if (!world_run_until(world, end_us, world_has_converged)) {
            if (world->report->violations == 0) {
                checker_fail(&world->checker, "replicas do not converge after rot: %s", text.text);
            }
            return;
        }
    }
}

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

struct world_node *world_find_leader(struct world *world, uint32_t group)
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
    struct world_node *leader = world_find_leader(world, group);
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
    struct world_node *leader = world_find_leader(world, ack->group);
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
            world_note_violation(world, text);
        }
    }
}

void world_on_ack_all(void *ctx, uint32_t writer, struct span key, uint64_t version)
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

void world_tell_replicas(struct world *world)
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

bool world_are_replicas_whole(struct world *world)
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
                const struct raft_progress *peer = &raft->progress[k];
                bool is_known = peer->id == raft->config.self || peer->state != RAFT_PROBE;
                if (!is_known || peer->state == RAFT_IMAGING) {
                    return false; /* one that has just started may turn out to need an image */
                }
            }
        }
    }
    return true;
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

bool world_has_group_to_wait(const struct world *world)
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

/* What each group had committed when it was asked whether its replicas are compared behind that. */
bool world_are_compared(struct world *world)
{
    for (uint32_t i = 0; i < world->checker.group_count; i++) {
        struct world_node *node = world_find_leader(world, i);
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
