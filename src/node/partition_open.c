/* Opening a partition: what log and store hold must fit together, or be made to (I5 of partition.c). */
#include "node/partition_private.h"

#include <stddef.h>

#include "base/check.h"

static uint32_t entries_in_memory(void *ctx, uint64_t first, uint32_t count_max, uint32_t bytes_max,
                                  uint32_t *bytes)
{
    struct partition *partition = ctx;
    return log_in_memory(partition->host->log, partition->group.group, first, count_max, bytes_max,
                         bytes);
}

const struct topology_replica *partition_replica_of(const struct topology_partition *group,
                                                    uint64_t node_id)
{
    for (int i = 0; i < group->replica_count; i++) {
        if (group->replicas[i].node_id == node_id) {
            return &group->replicas[i];
        }
    }
    return NULL;
}

static void make_raft_config(const struct partition *partition, struct raft_config *config)
{
    *config = (struct raft_config){
        .group = partition->group.group,
        .self = partition->self,
        .replica_count = partition->group.replica_count,
        .election_timeout_ms = partition->host->election_timeout_ms,
        .heartbeat_ms = partition->host->heartbeat_ms,
        .seed = env_random_u64(partition->host->env),
        .inflight_bytes_max = LIMIT_RAFT_INFLIGHT_BYTES,
        .inflight_messages_max = LIMIT_RAFT_INFLIGHT_MESSAGES,
        .append_bytes_max = LIMIT_RAFT_APPEND_BYTES,
        .append_entries_max = LIMIT_RAFT_APPEND_ENTRIES,
        .gate = env_gate(partition->host->env, MEM_RAFT),
        .beats = true,
        .changes = partition->host->changes,
        .entries_in_memory = entries_in_memory,
        .ctx = (void *)partition,
    };
    for (int i = 0; i < partition->group.replica_count; i++) {
        config->replicas[i] = partition->group.replicas[i].id;
    }
}

/* Where a replica dies between the store's swap and the log's reset, the log is not that store's:
 * it ends below the image, or holds another entry at its index. Then the reset is made up for.
 *
 * Nothing committed is lost by it. All up to the image's index is in the image. What the log holds
 * behind an index where it contradicts a committed entry can't be committed, nor was it ever
 * acknowledged to a leader that could have counted it. And a log that ends below holds nothing
 * behind. A log that holds the image's last entry is left alone: then what stands behind counts. */
static void restore_reset(struct partition *partition, struct raft_start *start)
{
    uint64_t index = store_replica_image_index(partition->store);
    uint64_t term = store_replica_image_term(partition->store);
    if (index < start->log_start) {
        return; /* none ever was, or the log was reset or cut since */
    }
    uint64_t own_term = 0;
    for (size_t i = 0; index <= start->last_index && i < start->run_count; i++) {
        own_term = start->runs[i].first <= index ? start->runs[i].term : own_term;
    }
    if (own_term == term) {
        return;
    }
    LOG_INFO(partition->host->logger,
             "part=%u an image of index=%lu term=%lu was installed; the log begins anew behind it",
             partition->group.group, index, term);
    log_reset(partition->host->log, partition->group.group, index + 1, term);
    *start = (struct raft_start){ .term = start->term,
                                  .vote = start->vote,
                                  .log_start = index + 1,
                                  .start_term = term,
                                  .last_index = index,
                                  .is_suspect = start->is_suspect };
}

/* The flusher never runs ahead of the log, so a log that ends below what the store has applied has
 * lost durable entries: the replica is suspect. Its log begins anew behind the store. */
static void restore_lost(struct partition *partition, struct raft_start *start)
{
    uint64_t applied = store_replica_applied(partition->store);
    if (applied <= start->last_index || partition->group.replica_count == 1 ||
        store_replica_is_damaged(partition->store)) {
        return;
    }
    LOG_WARN(partition->host->logger,
             "part=%u the store has applied index %lu, but the log ends at %lu: entries were lost",
             partition->group.group, applied, start->last_index);
    log_rebase(partition->host->log, partition->group.group, applied + 1);
    *start = (struct raft_start){ .term = start->term,
                                  .vote = start->vote,
                                  .log_start = applied + 1,
                                  .last_index = applied,
                                  .is_suspect = true };
}

/* The store may be ahead of nothing: an applied index beyond the durable log is damage of the log.
 * A store that is behind the log's start (it was damaged and set aside, say) needs an image;
 * nothing can give the only replica of a group what it lacks. */
static int check_start(const struct partition *partition, const struct raft_start *start,
                       struct err *err)
{
    uint64_t applied = store_replica_applied(partition->store);
    if (store_replica_is_damaged(partition->store) && partition->group.replica_count > 1) {
        return 0; /* what it says doesn't count */
    }
    if (applied > start->last_index) {
        return err_set(err, ERR_CORRUPT,
                       "part=%u: the store has applied index %lu, but the log ends at %lu",
                       partition->group.group, applied, start->last_index);
    }
    if (start->log_start > applied + 1 && partition->group.replica_count > 1) {
        store_replica_mark_damaged(partition->store,
                                   "entries are missing that the log has not any more");
    } else if (start->log_start > applied + 1) {
        return err_set(err, ERR_CORRUPT,
                       "part=%u: the log begins at %lu, but the store has applied only to %lu",
                       partition->group.group, start->log_start, applied);
    }
    return 0;
}

int partition_open(const struct partition_host *host, const struct topology_partition *group,
                   uint64_t self_node_id, const struct log_group_start *start,
                   struct partition **out, struct err *err)
{
    const struct topology_replica *own = partition_replica_of(group, self_node_id);
    CHECK(own);
    if (start && start->replica != own->id) {
        return err_set(err, ERR_CORRUPT,
                       "part=%u: the log is of replica %lu, the topology says %lu", group->group,
                       start->replica, own->id);
    }
    struct partition *partition = MEM_NEW(struct partition);
    partition->host = host;
    partition->group = *group;
    partition->self_node_id = self_node_id;
    partition->self = own->id;
    list_init(&partition->queued);
    list_init(&partition->inflight);
    list_init(&partition->acking);
    list_init(&partition->early);
    list_init(&partition->reads);
    list_init(&partition->follows.waiting);
    list_init(&partition->follows.asked);
    list_init(&partition->follows.granted);
    list_init(&partition->done_writes);
    list_init(&partition->done_reads);
    int status = store_replica_open(host->store, group->group, own->id, host->hash_seed,
                                    group->prefix, group->bits, &partition->store, err);
    struct raft_start raft_start = { .log_start = 1 };
    if (status == 0) {
        if (start) {
            raft_start = start->raft;
            restore_reset(partition, &raft_start);
            restore_lost(partition, &raft_start);
        }
        status = check_start(partition, &raft_start, err);
    }
    if (status != 0) {
        mem_free(partition);
        return status;
    }
    if (!start) {
        log_group_add(host->log, group->group, own->id, 1, 0);
    }
    partition->has_holes = log_first_hole(host->log, group->group, 0) != 0;
    if (raft_start.is_suspect) {
        LOG_WARN(host->logger,
                 "part=%u the disk has lost something: the replica may lack what it promised, and "
                 "counts for nothing until a leader elected without it has made it whole; if a "
                 "majority of its replicas are such, the partition is unavailable",
                 group->group);
    }
    partition->applied = partition->dropped = store_replica_applied(partition->store);
    bool is_damaged =
        store_replica_is_damaged(partition->store) && partition->group.replica_count > 1;
    raft_start.commit = is_damaged ? 0 : partition->applied;
    raft_start.is_to_hear = true;
    struct raft_config config;
    make_raft_config(partition, &config);
    raft_init(&partition->raft, &config, &raft_start, env_now_us(host->env) / 1000);
    if (is_damaged) {
        partition_damaged(partition); /* the store will say so too */
    } else {
        raft_flushed(&partition->raft, partition->applied);
        raft_digest(&partition->raft, partition_told(store_replica_digest(partition->store)));
    }
    partition_wake(partition);
    *out = partition;
    return 0;
}
