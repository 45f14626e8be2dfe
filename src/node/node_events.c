/* What log, store and partitions tell the node, and what partitions ask of it: each call is passed on to whom it concerns.
 * What has to be sent, applied or answered for it is done in the turn (node.c). */
#include "base/check.h"
#include "node/node_private.h"

/* --- The log tells */

static void on_disk_failure(void *ctx, const struct err *err)
{
    node_fail(ctx, err);
}

static void on_durable(void *ctx, uint32_t group, uint64_t index, uint64_t term)
{
    struct partition *partition = node_find_partition(ctx, group);
    if (partition) {
        partition_durable(partition, index, term);
    }
}

static void on_state_durable(void *ctx, uint32_t group, uint64_t term, uint64_t vote)
{
    struct partition *partition = node_find_partition(ctx, group);
    if (partition) {
        partition_state_durable(partition, term, vote);
    }
}

static void on_hole(void *ctx, uint32_t group)
{
    struct partition *partition = node_find_partition(ctx, group);
    if (partition) {
        partition_hole(partition);
    }
}

static void on_healed(void *ctx, uint32_t group)
{
    struct partition *partition = node_find_partition(ctx, group);
    if (partition) {
        partition_healed(partition);
    }
}

static void on_suspect(void *ctx, uint32_t group)
{
    recall_suspect_durable(((struct node *)ctx)->recall);
}

static void on_batch(void *ctx)
{
    struct node *node = ctx;
    node_flush_continue(node);
    if (node->held_us != 0) {
        node_wake(node);
    }
}

void node_hear_log(struct node *node, struct log_config *config)
{
    config->on_durable = on_durable;
    config->on_state_durable = on_state_durable;
    config->on_hole = on_hole;
    config->on_suspect = on_suspect;
    config->on_healed = on_healed;
    config->on_batch = on_batch;
    config->on_failure = on_disk_failure;
    config->ctx = node;
}

/* --- The store tells */

static void on_flushed(void *ctx)
{
    struct node *node = ctx;
    node_flush_ended(node);
    reserve_flushed(node->reserve);
    for (size_t i = 0; i < node->partition_count; i++) {
        if (node->partitions[i]) {
            partition_flushed(node->partitions[i]);
        }
    }
}

static void on_damaged(void *ctx, struct store_replica *replica)
{
    struct node *node = ctx;
    for (size_t i = 0; i < node->partition_count; i++) {
        if (node->partitions[i] && partition_store(node->partitions[i]) == replica) {
            partition_damaged(node->partitions[i]);
        }
    }
}

void node_hear_store(struct node *node, struct store_config *config)
{
    config->on_failure = on_disk_failure;
    config->on_flushed = on_flushed;
    config->on_damaged = on_damaged;
    config->ctx = node;
}

/* --- Partitions ask */

static bool on_slow_asked(void *ctx, uint64_t node_id)
{
    struct node *node = ctx;
    struct link *link = node_id == node->id ? NULL : membership_find(node, node_id);
    return node_id == node->id ? disks_is_slow(&node->disks) : link && link->peer.disk.is_slow;
}

static void on_partition_wake(void *ctx, struct partition *partition)
{
    struct node *node = ctx;
    CHECK(node->awake_count < 2 * node->partition_count); /* once in this turn, once for the next */
    node->awake[node->awake_count++] = partition;
    node_wake(node);
}

static void on_partition_spoke(void *ctx, struct partition *partition)
{
    struct node *node = ctx;
    node_observe_turn(node, partition);
    node_wake(node);
}

static void on_partition_send(void *ctx, uint64_t node_id, const struct raft_message *message,
                              const uint64_t *terms, struct blob *const *payloads)
{
    struct link *link = membership_find(ctx, node_id);
    if (link) {
        peer_send(&link->peer, message, terms, payloads);
    }
}

static void on_partition_beat(void *ctx, uint64_t node_id, uint32_t group,
                              const struct raft_beat *beat)
{
    struct link *link = membership_find(ctx, node_id);
    if (link) {
        peer_beat(&link->peer, &(struct peer_beat){ group, PEER_BEAT, beat->term, beat->echo },
                  beat->stamp);
        node_wake(ctx);
    }
}

static void on_role_changed(void *ctx, struct partition *partition)
{
    struct node *node = ctx;
    uint64_t leader = partition_leader_node(partition);
    node->leads[partition_group(partition)] = partition_is_primary(partition);
    if (leader != 0) {
        node->leaders[partition_group(partition)] = leader;
    }
    if (partition_group(partition) == 0 && partition_is_primary(partition)) {
        node_publish_topology(node);
    }
}

static void on_image_wanted(void *ctx, struct partition *partition,
                            const struct raft_image_want *want)
{
    images_want(((struct node *)ctx)->images, partition, want);
}

static void on_image_offered(void *ctx, struct partition *partition, const struct raft_image *image)
{
    images_offered(((struct node *)ctx)->images, partition, image);
}

static void on_undecided(void *ctx, struct partition *partition)
{
    scrub_hurry(((struct node *)ctx)->scrub, partition_group(partition));
}

static void on_partition_failed(void *ctx, struct partition *partition, const struct err *err)
{
    node_fail(ctx, err);
}

/* The control group's key "topology" may have changed. */
static void on_applied(void *ctx, struct partition *partition)
{
    struct node *node = ctx;
    node->last_write_us = node->now_ms * 1000;
    if (partition_group(partition) == 0) {
        struct record record;
        struct err err;
        if (store_get(partition_store(partition), span_of_string("topology"), &record, &err) == 0) {
            node_take_topology(node, record.value, true);
        }
    }
}

static void on_observe(void *ctx, uint32_t group, uint64_t index, uint64_t term,
                       struct span payload)
{
    struct node *node = ctx;
    node->config.observe(node->config.ctx, group, index, term, payload);
}

void node_hear_partitions(struct node *node, struct partition_host *host)
{
    host->spoke = on_partition_spoke;
    host->wake = on_partition_wake;
    host->send = on_partition_send;
    host->beat = on_partition_beat;
    host->read_wanted = node_rounds_want;
    host->applied = on_applied;
    host->observe = node->config.observe ? on_observe : NULL;
    host->role_changed = on_role_changed;
    host->image_wanted = on_image_wanted;
    host->image_offered = on_image_offered;
    host->undecided = on_undecided;
    host->is_slow = on_slow_asked;
    host->failed = on_partition_failed;
    host->ctx = node;
}
