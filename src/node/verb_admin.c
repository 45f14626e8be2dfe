/* Verbs about the cluster and this node: topology, status. */
#include "node/request_private.h"

enum {
    COUNTERS = sizeof(struct node_counters) / sizeof(uint64_t),
    REFUSED_BYTES = 64 << 10, /* see gather_refusals */
};

/* False: there is no memory. */
static bool make_hints(struct request *request, size_t *count, Cairn__V1__Hint ***out)
{
    struct node *node = request->node;
    const struct topology *topology = node->topology;
    size_t most = topology->partition_count;
    if (!request_reserve(request, most * (sizeof **out + sizeof ***out), 2)) {
        return false;
    }
    *out = request_take(request, most * sizeof **out);
    Cairn__V1__Hint *hints = request_take(request, most * sizeof *hints);
    for (size_t i = 1; i < most; i++) {
        request_make_hint(request, topology->partitions[i].group, &hints[i]);
        (*out)[(*count)++] = &hints[i];
    }
    return true;
}

void admin_topology(struct request *request, const struct frame *frame)
{
    struct node *node = request->node;
    Cairn__V1__TopologyRequest *asked = message_unpack(&cairn__v1__topology_request__descriptor,
                                                       &request->allocator, frame->message);
    if (!asked) {
        request_fail_unpack(request);
        return;
    }
    Cairn__V1__TopologyResponse response = CAIRN__V1__TOPOLOGY_RESPONSE__INIT;
    if (asked->epoch != node->topology->epoch) {
        response.topology =
            (ProtobufCBinaryData){ node->topology_packed.size, node->topology_packed.data };
    }
    request_set_kind(request, MEM_ANSWER);
    if (!make_hints(request, &response.n_hints, &response.hints)) {
        request_starve(request);
        return;
    }
    request_answer(request, 0, 0, &response.base, NULL, 0);
}

/* Whether an ordinary write would be refused now: one of some size, since a full store may still take a byte. */
static void gather_refusals(struct node *node, struct node_counters *out)
{
    int store = store_admit(node->store, REFUSED_BYTES);
    int log = log_admit(node->log, REFUSED_BYTES);
    out->flush_awaited = store == ERR_BUSY || node->is_refusing;
    out->store_full = store == ERR_STORE_FULL;
    out->disk_full = store == ERR_DISK_FULL || log == ERR_DISK_FULL ||
                     reserve_refuses(node->reserve, REFUSED_BYTES);
}

/* Counters that are kept elsewhere join the node's own. */
static void gather_counters(struct node *node, struct node_counters *out)
{
    *out = node->counters;
    for (size_t i = 0; i < node->link_count; i++) {
        out->raft_messages_sent += node->links[i].peer.messages_sent;
        out->raft_frames_sent += node->links[i].peer.frames_sent;
    }
    if (!node->log) {
        return;
    }
    for (size_t i = 0; i < node->partition_count; i++) {
        if (node->partitions[i]) {
            const struct partition_stats *stats = partition_stats(node->partitions[i]);
            out->elections += stats->elections;
            out->proposals += stats->proposals;
            out->applied += stats->applied;
            out->reads_followed += stats->follows;
            out->digests_compared += partition_raft(node->partitions[i])->digests_compared;
            out->digests_differed += partition_raft(node->partitions[i])->digests_differed;
            out->replicas_damaged += stats->damages;
            out->replicas_repaired += stats->repairs;
            out->replicas_suspect += partition_raft(node->partitions[i])->is_suspect;
            out->replicas_in_repair += partition_is_damaged(node->partitions[i]);
        }
    }
    gather_refusals(node, out);
    const struct log_stats *log = log_stats(node->log);
    out->log_batches = log->batches;
    out->log_entries = log->entries;
    out->log_bytes = log->bytes;
    out->log_sync_us = log->syncs_us_total;
    out->log_latency_us = log_latency_us(node->log);
    out->disk_slow = node->disks.log.is_slow;
    out->flush_slow = node->disks.flush.is_slow;
    out->log_live_bytes = log_live_bytes(node->log);
    out->log_budget_bytes = node_log_budget(node);
    out->log_holes = log->holes;
    out->log_holes_filled = log->holes_filled;
    out->replicas_healed = log->healed;
    const struct store_stats *store = store_stats(node->store);
    out->store_flushes = store->flushes;
    out->store_flush_us = store->flush_us_total;
    out->flush_latency_us = node_flush_us(node);
    out->store_overlay_bytes = store->overlay_bytes;
    out->store_used_bytes = store->used_bytes;
    out->store_pinned_bytes = store->pinned_bytes;
    out->store_keys = store->keys;
    out->store_checksum_failures = store->checksum_failures;
}

static void add_counter(struct request *request, Cairn__V1__StatusResponse *response,
                        const char *name, uint64_t value)
{
    Cairn__V1__Counter *counter = request_take(request, sizeof *counter);
    cairn__v1__counter__init(counter);
    counter->name = (char *)name;
    counter->value = value;
    response->counters[response->n_counters++] = counter;
}

static void add_counters(struct request *request, Cairn__V1__StatusResponse *response)
{
    struct node_counters counters;
    gather_counters(request->node, &counters);
    response->counters = request_take(request, COUNTERS * sizeof *response->counters);
#define METRIC(name, kind, text) add_counter(request, response, #name, counters.name);
#include "tbl/metrics.def"
#undef METRIC
}

static void add_group(struct request *request, Cairn__V1__StatusResponse *response,
                      struct partition *partition)
{
    const struct raft *raft = partition_raft(partition);
    Cairn__V1__GroupStatus *group = request_take(request, sizeof *group);
    cairn__v1__group_status__init(group);
    group->group = partition_group(partition);
    group->role = (char *)raft_role_name(raft->role);
    group->term = raft->term;
    group->last_index = raft->last_index;
    group->durable_index = raft->durable_index;
    group->commit_index = raft->commit;
    group->applied_index = partition_applied(partition);
    group->flushed_index = raft->flushed;
    group->log_start = raft->log_start;
    group->leader_node_id = partition_leader_node(partition);
    group->damaged = partition_is_damaged(partition);
    group->suspect = raft->is_suspect;
    group->hole = raft->hole;
    group->keys = store_replica_keys(partition_store(partition));
    response->groups[response->n_groups++] = group;
}

void admin_status(struct request *request, const struct frame *frame)
{
    struct node *node = request->node;
    Cairn__V1__StatusResponse response = CAIRN__V1__STATUS_RESPONSE__INIT;
    size_t bytes = COUNTERS * (sizeof *response.counters + sizeof **response.counters) +
                   node->partition_count * (sizeof *response.groups + sizeof **response.groups);
    request_set_kind(request, MEM_ANSWER);
    if (!request_reserve(request, bytes, 2 + COUNTERS + node->partition_count)) {
        request_starve(request);
        return;
    }
    response.name = (char *)node->config.name;
    response.node_id = node->id;
    response.version = CAIRN_VERSION;
    response.uptime_ms = (env_now_us(node->env) - node->started_us) / 1000;
    response.time = node->hlc;
    if (node->topology) {
        response.cluster_id = (ProtobufCBinaryData){ 16, node->topology->cluster_id };
        response.cluster_name = node->topology->cluster_name;
        response.epoch = node->topology->epoch;
    }
    add_counters(request, &response);
    if (node->log) {
        response.groups = request_take(request, node->partition_count * sizeof *response.groups);
        for (size_t i = 0; i < node->partition_count; i++) {
            if (node->partitions[i]) {
                add_group(request, &response, node->partitions[i]);
            }
        }
    }
    request_answer(request, 0, 0, &response.base, NULL, 0);
}
