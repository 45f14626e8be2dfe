/* What others may ask about the node: who it is, its time, whether it is ready; and its state as a tree. */
#include "node/node_private.h"

enum { CLOCK_AHEAD_US = 500 * 1000 };

const uint8_t *node_cluster_id(const struct node *node)
{
    return node->topology ? node->topology->cluster_id : NULL;
}

uint64_t node_id(const struct node *node)
{
    return node->id;
}

uint64_t node_boot_id(const struct node *node)
{
    return node->boot_id;
}

const char *node_name(const struct node *node)
{
    return node->config.name;
}

uint64_t node_epoch(const struct node *node)
{
    return node->topology ? node->topology->epoch : 0;
}

void node_hear_time(struct node *node, uint64_t time)
{
    /* A clock that is far ahead must not drag the cluster along. */
    if (time > node->hlc && hlc_to_us(time) <= env_wall_us(node->env) + CLOCK_AHEAD_US) {
        node->hlc = time;
    }
}

uint64_t node_time(const struct node *node)
{
    /* Not only what was proposed: a client of a cluster at rest would hold an old time, and its
     * next write would look like a retry that comes too late. */
    uint64_t now = hlc_from_us(env_wall_us(node->env));
    return now > node->hlc ? now : node->hlc;
}

void node_count_client(struct node *node, int change)
{
    node->counters.connections += (uint64_t)(int64_t)change;
}

void node_count_refused(struct node *node)
{
    node->counters.frames_refused++;
}

bool node_is_ready(const struct node *node)
{
    if (!node->log) {
        return false;
    }
    for (size_t i = 0; i < node->partition_count; i++) {
        if (node->partitions[i] && partition_leader_node(node->partitions[i]) == 0) {
            return false;
        }
    }
    return true;
}

static void dump_partition(struct partition *partition, struct buf *out)
{
    const struct raft *raft = partition_raft(partition);
    buf_printf(out,
               "  group %u: %s term=%lu leader=%lu log=%lu..%lu durable=%lu commit=%lu applied=%lu "
               "flushed=%lu cut=%lu "
               "reads=%lu/%lu sessions=%016lx\n",
               partition_group(partition), raft_role_name(raft->role), raft->term, raft->leader,
               raft->log_start, raft->last_index, raft->durable_index, raft->commit,
               partition_applied(partition), raft->flushed, raft->cut, raft->read_confirmed,
               raft->read_sequence, store_replica_sessions_digest(partition_store(partition)));
    for (int i = 0; raft->role == RAFT_LEADER && i < raft->config.replica_count; i++) {
        const struct raft_progress *progress = &raft->progress[i];
        buf_printf(out, "    replica %lu: match=%lu next=%lu state=%d inflight=%u/%u flushed=%lu\n",
                   progress->id, progress->match, progress->next, (int)progress->state,
                   progress->inflight_messages, progress->inflight_bytes, progress->flushed);
    }
}

void node_dump(const struct node *node, struct buf *out)
{
    buf_printf(out, "node %s id=%lu hlc=%lu epoch=%lu stopping=%d\n", node->config.name, node->id,
               node->hlc, node_epoch(node), node->is_stopping);
    for (size_t i = 0; i < node->link_count; i++) {
        const struct link *link = &node->links[i];
        buf_printf(out, "  peer %s id=%lu up=%d out=%zu round=%lu/%lu\n", link->name, link->node_id,
                   link->peer.conn != NULL, link->conn ? conn_out_bytes(link->conn) : 0,
                   link->peer.round_done, link->peer.round_sent);
    }
    if (node->store) {
        const struct store_stats *stats = store_stats(node->store);
        buf_printf(out, "  store overlay=%lu used=%lu keys=%lu flushes=%lu\n", stats->overlay_bytes,
                   stats->used_bytes, stats->keys, stats->flushes);
        buf_printf(out, "  log live=%lu batches=%lu\n", log_live_bytes(node->log),
                   log_stats(node->log)->batches);
    }
    for (size_t i = 0; i < node->partition_count; i++) {
        if (node->partitions[i]) {
            dump_partition(node->partitions[i], out);
        }
    }
}
