/* What changes a partition's store: entries that are applied, images that take its place; and what is done when it is damaged (I4 to
 * I6 of partition.c). */
#include "node/partition_private.h"

#include <stddef.h>

#include "base/check.h"

enum {
    APPLY_READ_BYTES = 1 << 20,
    APPLY_READ_ENTRIES = 4096,
};

/* Goes on with the next tick, which is to come also where the group is at rest. */
static void starve(struct partition *partition)
{
    partition->is_starved = true;
    partition->host->quiet_until_ms[partition->group.group] = 0;
}

/* Applies one entry and answers who waits for it. False: not now, or the node must stop. */
static bool apply_entry(struct partition *partition, uint64_t index, struct blob *payload)
{
    struct store_result result = { 0 };
    struct err err;
    int status = store_apply(partition->store, index, payload, &result, &err);
    if (status != 0) {
        if (status == ERR_NO_MEMORY) { /* nothing has changed */
            starve(partition);
        } else if (store_replica_is_stopped(partition->store)) {
            partition_damaged(partition);
        } else {
            partition_fail(partition, &err);
        }
        return false;
    }
    partition->applied = index;
    partition->stats.applied++;
    /* From its no-op on a primary applies what it proposed (I3); else there is nothing to count. */
    partition_count_unapplied(partition, 0, payload->size + BUDGET_ENTRY_BYTES);
    if (partition->host->observe) {
        partition->host->observe(partition->host->ctx, partition->group.group, index,
                                 raft_term_at(&partition->raft, index), blob_span(payload));
    }
    struct list *first = partition->inflight.next;
    if (first == &partition->inflight) {
        return true;
    }
    struct partition_write *write = container_of(first, struct partition_write, link);
    CHECK(write->index >= index);
    if (write->index == index) {
        CHECK(write->term == raft_term_at(&partition->raft, index)); /* I2 */
        list_remove(&write->link);
        partition_drop_payload(write);
        if (write->ack_all) {
            write->is_applied = true;
            write->result = result;
            list_append(&partition->acking, &write->link);
        } else {
            write->done(write, 0, &result); /* I4 */
        }
    }
    return true;
}

static bool may_apply(const struct partition *partition)
{
    return !partition->is_installing && !partition->failed &&
           !store_replica_is_stopped(partition->store);
}

/* The next entry is a hole (I6). */
static bool waits_for_payload(const struct partition *partition)
{
    uint64_t next = partition->applied + 1;
    return partition->has_holes &&
           log_first_hole(partition->host->log, partition->group.group, next) == next;
}

/* The last entry that may be applied now. What is committed elsewhere may be applied before the own
 * log has it, but a flush waits for the log then; on a full disk the log may wait for the flush, which
 * lets it be cut. */
static uint64_t find_apply_end(const struct partition *partition)
{
    const struct raft *raft = &partition->raft;
    bool is_held = *partition->host->is_tight && raft->durable_index < raft->commit;
    return is_held ? raft->durable_index : raft->commit;
}

static void apply_read_done(void *ctx, int status, uint64_t first, struct blob **payloads,
                            uint32_t count)
{
    struct partition *partition = ctx;
    partition->apply_is_reading = false;
    bool is_needed = first == partition->applied + 1; /* else an image made it needless */
    if (status == ERR_NO_MEMORY) {
        starve(partition);
        return;
    }
    if (status != 0 && is_needed && !waits_for_payload(partition)) {
        struct err err;
        err_set(&err, status, "part=%u index=%lu: cannot read a committed entry from the log",
                partition->group.group, first);
        partition_fail(partition, &err);
    }
    for (uint32_t i = 0; i < count; i++) {
        if (first + i == partition->applied + 1 && first + i <= find_apply_end(partition) &&
            may_apply(partition)) {
            apply_entry(partition, first + i, payloads[i]);
        }
        blob_unref(payloads[i]);
    }
    partition_wake(partition);
}

void partition_apply_committed(struct partition *partition)
{
    uint64_t before = partition->applied;
    uint64_t end = find_apply_end(partition);
    while (partition->applied < end && !partition->apply_is_reading && !partition->is_starved &&
           may_apply(partition)) {
        uint64_t next = partition->applied + 1;
        struct blob *payload = log_peek(partition->host->log, partition->group.group, next);
        if (!payload && waits_for_payload(partition)) {
            break;
        }
        if (!payload) {
            uint64_t left = end - partition->applied;
            int status = log_read(partition->host->log, partition->group.group, next,
                                  left < APPLY_READ_ENTRIES ? (uint32_t)left : APPLY_READ_ENTRIES,
                                  APPLY_READ_BYTES, apply_read_done, partition);
            partition->apply_is_reading = status == 0;
            if (status != 0) {
                starve(partition);
            }
            break;
        }
        if (!apply_entry(partition, next, payload)) {
            break;
        }
    }
    if (partition->applied != before) {
        partition->host->applied(partition->host->ctx, partition);
    }
}

bool partition_prefetch_turn(const struct partition *partition)
{
    if (partition->applied >= partition->raft.commit) {
        return false;
    }
    log_prefetch(partition->host->log, partition->group.group, partition->applied + 1);
    return true;
}

size_t partition_look_ahead(const struct partition *partition, struct store_ahead *out, size_t max)
{
    uint64_t next = partition->applied + 1, end = find_apply_end(partition);
    size_t count = 0;
    for (; count < max && next + count <= end; count++) {
        struct blob *payload = log_peek(partition->host->log, partition->group.group, next + count);
        if (!payload) {
            break;
        }
        store_ahead_begin(&out[count], partition->store, payload);
    }
    return count;
}

void partition_damaged(struct partition *partition)
{
    if (partition->is_damaged) {
        return;
    }
    partition->is_damaged = true;
    partition->stats.damages++;
    if (partition->group.replica_count > 1) {
        LOG_WARN(partition->host->logger,
                 "part=%u the store is damaged: serves nothing until an image has replaced it",
                 partition->group.group);
        (void)partition_begin_resigning(partition); /* else raft_need_image steps down */
        raft_need_image(&partition->raft);
    } else {
        LOG_ERROR(partition->host->logger,
                  "part=%u the store is damaged, and there is no other replica to repair it from",
                  partition->group.group);
    }
    partition_settle(partition);
}

bool partition_is_damaged(const struct partition *partition)
{
    return partition->is_damaged;
}

const struct raft_progress *partition_find_progress(const struct raft *raft, uint64_t replica)
{
    for (int i = 0; i < raft->config.replica_count; i++) {
        if (raft->progress[i].id == replica) {
            return &raft->progress[i];
        }
    }
    return NULL;
}

int partition_image_offer(struct partition *partition, uint64_t to, uint64_t index, uint64_t id)
{
    int status = raft_image_offer(&partition->raft, to, index, id);
    partition_settle(partition);
    return status;
}

void partition_image_withdraw(struct partition *partition, uint64_t to)
{
    raft_image_withdraw(&partition->raft, to);
    partition_settle(partition);
}

bool partition_image_is_offered(const struct partition *partition, uint64_t to, uint64_t id)
{
    const struct raft_progress *progress = partition_find_progress(&partition->raft, to);
    return partition->raft.role == RAFT_LEADER && progress && progress->image_id == id;
}

bool partition_image_begin(struct partition *partition, uint64_t index, uint64_t term)
{
    CHECK(!partition->is_installing);
    partition->is_installing = raft_image_may_install(&partition->raft, index, term);
    return partition->is_installing;
}

/* Writes up to the image's index are in it, or will never be: who waited for them must ask again
 * (I2). */
static void drop_covered(struct partition *partition, uint64_t index)
{
    LIST_FOR_SAFE(node, &partition->inflight)
    {
        struct partition_write *write = container_of(node, struct partition_write, link);
        if (write->index <= index) {
            partition_finish_write(partition, write, ERR_UNKNOWN_OUTCOME);
        }
    }
}

void partition_image_installed(struct partition *partition, uint64_t index, uint64_t term)
{
    CHECK(partition->is_installing && store_replica_applied(partition->store) == index);
    partition->is_installing = false;
    if (partition->is_damaged) {
        LOG_WARN(partition->host->logger,
                 "part=%u the damaged store is whole again, by an image of index %lu",
                 partition->group.group, index);
        partition->is_damaged = false;
        partition->stats.repairs++;
    }
    partition->applied = index;
    raft_applied(&partition->raft, index); /* less than before, perhaps: so not as fresh */
    drop_covered(partition, index);
    bool is_kept = raft_image_installed(&partition->raft, index, term);
    raft_digest(&partition->raft, partition_told(store_replica_digest(partition->store)));
    if (!is_kept) {
        partition_drop_replaced(partition, index + 1);
        log_reset(partition->host->log, partition->group.group, index + 1, term);
    }
    partition_settle(partition);
}

bool partition_is_installing(const struct partition *partition)
{
    return partition->is_installing;
}

void partition_image_failed(struct partition *partition)
{
    partition->is_installing = false;
    partition_wake(partition);
}
