/* Those who wait for a partition: writes from when they are admitted until they are proposed and told, reads and their rounds (I2,
 * I3, I7, I8 of partition.c). */
#include "node/partition_private.h"

#include <stddef.h>

#include "base/hlc.h"

enum {
    PROPOSE_ENTRIES_MAX = 1024, /* of one turn; the rest goes in the next */
    /* Ticks after which a follower's read waits no longer: for its leader's word, whose question
     * or answer may be lost; and then for what the leader has. */
    FOLLOW_ASK_TICKS = 5,
    FOLLOW_TICKS = 2,
};

/* Nothing more can be applied; and without other replicas nothing will be. */
static bool is_at_a_loss(const struct partition *partition)
{
    return partition->group.replica_count == 1 && store_replica_is_stopped(partition->store);
}

void partition_finish_write(struct partition *partition, struct partition_write *write, int status)
{
    list_remove(&write->link);
    write->status = status;
    list_append(&partition->done_writes, &write->link);
    partition_wake(partition);
}

static void finish_read(struct partition *partition, struct partition_read *read, int status)
{
    list_remove(&read->link);
    read->status = status;
    list_append(&partition->done_reads, &read->link);
    partition_wake(partition);
}

void partition_finish_all_writes(struct partition *partition, struct list *list, int status)
{
    LIST_FOR_SAFE(node, list)
    {
        partition_finish_write(partition, container_of(node, struct partition_write, link), status);
    }
}

void partition_finish_all_reads(struct partition *partition, struct list *list, int status)
{
    LIST_FOR_SAFE(node, list)
    {
        finish_read(partition, container_of(node, struct partition_read, link), status);
    }
}

void partition_tell_done(struct partition *partition)
{
    struct list *node;
    while ((node = list_take_first(&partition->done_writes))) {
        struct partition_write *write = container_of(node, struct partition_write, link);
        partition_drop_payload(write);
        write->done(write, write->status, NULL);
    }
    while ((node = list_take_first(&partition->done_reads))) {
        struct partition_read *read = container_of(node, struct partition_read, link);
        read->done(read, read->status);
    }
}

/* Deletes make room, and the control group's entries are few and needed: they pass where an
 * ordinary write is refused because store, disk or log are full. */
static bool is_vital(const struct partition *partition, const struct partition_write *write)
{
    return write->payload->data[0] == COMMAND_DELETE || partition->group.group == 0;
}

static int admit_vital(struct partition *partition, size_t bytes)
{
    int status = store_admit(partition->host->store, 0);
    return status ? status : log_admit_vital(partition->host->log, bytes);
}

static int admit_ordinary(struct partition *partition, size_t bytes)
{
    int status = store_admit(partition->host->store, bytes);
    status = status ? status : log_admit(partition->host->log, bytes);
    return status ? status : reserve_admit(partition->host->reserve, bytes);
}

static int admit(struct partition *partition, const struct partition_write *write)
{
    size_t bytes = write->payload->size;
    bool vital = is_vital(partition, write);
    int status =
        is_at_a_loss(partition) ? ERR_CORRUPT : budget_admit(partition->host->budget, vital);
    return status != 0 ? status
           : vital     ? admit_vital(partition, bytes)
                       : admit_ordinary(partition, bytes);
}

void partition_write(struct partition *partition, struct partition_write *write)
{
    list_append(&partition->queued, &write->link);
    int status = admit(partition, write);
    if (status != 0) {
        partition_finish_write(partition, write, status);
    }
    partition_wake(partition);
}

/* Registers the read with the core: joins `reads`, waits in `early`, or is refused. */
static void register_read(struct partition *partition, struct partition_read *read)
{
    int status = is_at_a_loss(partition) ? ERR_CORRUPT
                 : partition->raft.needs_image
                     ? ERR_NOT_PRIMARY
                     : raft_read(&partition->raft, &read->sequence, &read->index);
    if (status == 0) {
        list_append(&partition->reads, &read->link);
    } else if (status == ERR_UNAVAILABLE) {
        list_append(&partition->early, &read->link);
    } else {
        finish_read(partition, read, status);
    }
}

void partition_read(struct partition *partition, struct partition_read *read)
{
    const struct raft *raft = &partition->raft;
    partition->stats.reads++;
    register_read(partition, read);
    if (read->status == 0 && raft->role == RAFT_LEADER && read->sequence > raft->read_confirmed) {
        partition->host->read_wanted(partition->host->ctx,
                                     partition); /* a turn would do nothing more */
    } else {
        partition_wake(partition);
    }
}

void partition_write_forget(struct partition *partition, struct partition_write *write)
{
    list_remove(&write->link);
    partition_drop_payload(write);
}

void partition_read_forget(struct partition *partition, struct partition_read *read)
{
    list_remove(&read->link);
}

bool partition_settle_round(struct partition *partition)
{
    struct raft_effects *out = &partition->raft.out;
    if (partition->is_awake || partition->failed) {
        return false;
    }
    partition_send_messages(partition, NULL, 0, 0);
    if (out->reads_confirmed || out->read_round_wanted) {
        out->reads_confirmed = out->read_round_wanted = false;
        partition_settle_reads(partition);
        partition_want_round(partition);
    }
    return !raft_has_news(&partition->raft) && list_is_empty(&partition->done_reads);
}

void partition_count_unapplied(struct partition *partition, uint64_t added, uint64_t applied)
{
    applied = applied < partition->unapplied ? applied : partition->unapplied;
    partition->unapplied += added - applied;
    partition->host->budget->unapplied += added - applied;
}

void partition_propose_queued(struct partition *partition)
{
    struct raft *raft = &partition->raft;
    partition->is_held = false;
    if (raft->role != RAFT_LEADER) {
        partition_finish_all_writes(partition, &partition->queued, ERR_NOT_PRIMARY);
        return;
    }
    if (raft->transfer_to != 0 || partition->applied < raft->noop_index ||
        list_is_empty(&partition->queued)) {
        return; /* I3; they wait */
    }
    uint32_t count = 0, sizes[PROPOSE_ENTRIES_MAX];
    LIST_FOR(node, &partition->queued)
    {
        if (count == PROPOSE_ENTRIES_MAX) {
            break;
        }
        struct partition_write *write = container_of(node, struct partition_write, link);
        if (!budget_propose(partition->host->budget, write->payload->size,
                            is_vital(partition, write))) {
            partition->is_held = true;
            break;
        }
        sizes[count] = write->payload->size;
        partition->host->scratch->blobs[count] = write->payload;
        partition->host->scratch->terms[count] = raft->term;
        count++;
    }
    uint64_t first;
    if (count == 0) {
        return;
    }
    if (log_reserve(partition->host->log, partition->group.group, count, 1) != 0) {
        partition_finish_all_writes(partition, &partition->queued, ERR_NO_MEMORY);
        return;
    }
    int status = raft_propose(raft, sizes, count, &first);
    if (status != 0) {
        partition_finish_all_writes(partition, &partition->queued, ERR_NOT_PRIMARY);
        return;
    }
    uint64_t wall_us = env_wall_us(partition->host->env);
    for (uint32_t i = 0; i < count; i++) {
        struct partition_write *write =
            container_of(list_take_first(&partition->queued), struct partition_write, link);
        uint64_t newest = *partition->host->hlc;
        uint64_t floor = store_replica_time(partition->store);
        newest = partition->last_time > newest ? partition->last_time : newest;
        newest = floor > newest ? floor : newest;
        partition->last_time = *partition->host->hlc = hlc_next(newest, wall_us);
        command_set_time(write->payload, partition->last_time);
        write->index = first + i;
        write->term = raft->term;
        partition_count_unapplied(partition, sizes[i] + BUDGET_ENTRY_BYTES, 0);
        list_append(&partition->inflight, &write->link);
    }
    log_append(partition->host->log, partition->group.group, first, partition->host->scratch->terms,
               partition->host->scratch->blobs, count);
    raft_effects_clear_log(raft);
    partition->stats.proposals += count;
    if (!list_is_empty(&partition->queued) && !partition->is_held) {
        partition_wake(partition);
    }
}

void partition_settle_acks(struct partition *partition)
{
    if (partition->raft.role != RAFT_LEADER) {
        partition_finish_all_writes(partition, &partition->acking, ERR_UNKNOWN_OUTCOME);
    }
    while (!list_is_empty(&partition->acking)) {
        struct partition_write *write =
            container_of(partition->acking.next, struct partition_write, link);
        if (!raft_is_everywhere(&partition->raft, write->index)) {
            return;
        }
        list_remove(&write->link);
        write->done(write, 0, &write->result);
    }
}

void partition_settle_reads(struct partition *partition)
{
    struct raft *raft = &partition->raft;
    partition_settle_follows(partition);
    while (!list_is_empty(&partition->reads)) {
        struct partition_read *read =
            container_of(partition->reads.next, struct partition_read, link);
        if (read->sequence > raft->read_confirmed || read->index > partition->applied) {
            break;
        }
        list_remove(&read->link);
        read->done(read, 0);
    }
    if (is_at_a_loss(partition)) {
        partition_finish_all_reads(partition, &partition->reads, ERR_CORRUPT);
        partition_finish_all_reads(partition, &partition->early, ERR_CORRUPT);
        partition_finish_all_writes(partition, &partition->queued, ERR_CORRUPT);
        partition_finish_all_writes(partition, &partition->inflight, ERR_UNKNOWN_OUTCOME);
    } else if (raft->role != RAFT_LEADER || raft->needs_image) {
        partition_finish_all_reads(partition, &partition->reads, ERR_NOT_PRIMARY);
        partition_finish_all_reads(partition, &partition->early, ERR_NOT_PRIMARY);
    } else if (!list_is_empty(&partition->early) && raft->commit >= raft->noop_index) {
        struct list early;
        list_init(&early);
        struct list *node;
        while ((node = list_take_first(&partition->early))) {
            list_append(&early, node);
        }
        while ((node = list_take_first(&early))) {
            register_read(partition, container_of(node, struct partition_read, link));
        }
    }
}

void partition_want_round(struct partition *partition)
{
    if (!list_is_empty(&partition->reads) && partition->raft.role == RAFT_LEADER) {
        partition->host->read_wanted(partition->host->ctx, partition);
    }
}

/* Whether a majority, this replica included, knows of the newest waiting read already: asking more
 * of them would only cost. What stays unanswered for a heartbeat's time counts as not asked, so
 * another one is asked then. */
static bool is_asked_enough(const struct raft *raft)
{
    int asked = 1;
    for (int i = 0; i < raft->config.replica_count; i++) {
        asked += raft->progress[i].id != raft->config.self &&
                 raft->progress[i].read_sent >= raft->read_sequence;
    }
    return asked > raft->config.replica_count / 2;
}

void partition_read_round(struct partition *partition, uint64_t node_id)
{
    const struct topology_replica *replica = partition_replica_on(partition, node_id);
    raft_clock(&partition->raft, *partition->host->now_ms);
    if (replica && !is_asked_enough(&partition->raft) &&
        raft_read_send(&partition->raft, replica->id)) {
        partition_send_messages(partition, NULL, 0, 0);
    }
}

bool partition_read_ride(struct partition *partition, uint64_t node_id, uint64_t changes,
                         struct partition_ride *ride)
{
    struct raft *raft = &partition->raft;
    const struct topology_replica *replica = partition_replica_on(partition, node_id);
    raft_clock(raft, *partition->host->now_ms);
    if (!replica || is_asked_enough(raft) || !raft_read_ride(raft, replica->id, changes)) {
        return false;
    }
    *ride = (struct partition_ride){ partition->group.group, replica->id, raft->term,
                                     raft->read_sequence };
    return true;
}

void partition_read_ridden(struct partition *partition, const struct partition_ride *ride,
                           bool is_confirmed)
{
    raft_clock(&partition->raft, *partition->host->now_ms);
    raft_read_ridden(&partition->raft, ride->replica, ride->term, ride->sequence, is_confirmed);
    if (!partition_settle_round(partition)) {
        partition_settle(partition);
    }
}

/* --- Reads at a follower */

bool partition_may_follow(const struct partition *partition)
{
    return partition_is_readable(partition) && !partition->is_installing && !partition->has_holes &&
           raft_read_may_follow(&partition->raft);
}

void partition_follow(struct partition *partition, struct partition_read *read)
{
    partition->stats.reads++;
    partition->stats.follows++;
    list_append(&partition->follows.waiting, &read->link);
    partition->host->quiet_until_ms[partition->group.group] = 0; /* its ticks are counted */
    partition->host->read_wanted(partition->host->ctx, partition);
}

bool partition_wants_follow(const struct partition *partition)
{
    return !list_is_empty(&partition->follows.waiting);
}

bool partition_follow_ask(struct partition *partition, uint64_t node_id, uint64_t *replica,
                          uint64_t *term)
{
    struct follows *follows = &partition->follows;
    if (list_is_empty(&follows->waiting) || !list_is_empty(&follows->asked) ||
        !partition_may_follow(partition) || partition_leader_node(partition) != node_id) {
        return false;
    }
    struct list *node;
    while ((node = list_take_first(&follows->waiting))) {
        list_append(&follows->asked, node);
    }
    follows->node_id = node_id;
    follows->term = *term = partition->raft.term;
    *replica = partition->self;
    return true;
}

void partition_follow_answered(struct partition *partition, uint64_t node_id, uint64_t commit)
{
    struct follows *follows = &partition->follows;
    if (list_is_empty(&follows->asked) || follows->node_id != node_id) {
        return;
    }
    if (commit == 0) {
        partition_finish_all_reads(partition, &follows->asked, ERR_NOT_PRIMARY);
        return;
    }
    struct list *node;
    while ((node = list_take_first(&follows->asked))) {
        struct partition_read *read = container_of(node, struct partition_read, link);
        read->index = commit;
        read->sequence = 0;
        list_append(&follows->granted, node);
    }
    raft_read_granted(&partition->raft, follows->term, commit);
    partition_settle_follows(partition);
    if (raft_has_news(&partition->raft)) {
        partition_settle(partition);
    }
}

void partition_settle_follows(struct partition *partition)
{
    struct follows *follows = &partition->follows;
    while (partition_is_readable(partition) && !list_is_empty(&follows->granted)) {
        struct partition_read *read =
            container_of(follows->granted.next, struct partition_read, link);
        if (read->index > partition->applied) {
            break; /* what was granted later is no less */
        }
        list_remove(&read->link);
        read->done(read, 0);
    }
    if (!partition_is_readable(partition)) {
        partition_finish_all_reads(partition, &follows->granted, ERR_NOT_PRIMARY);
    }
    if (!partition_may_follow(partition)) {
        partition_finish_all_reads(partition, &follows->waiting, ERR_NOT_PRIMARY);
    }
    if (!raft_read_may_follow(&partition->raft) || follows->term != partition->raft.term) {
        partition_finish_all_reads(partition, &follows->asked, ERR_NOT_PRIMARY);
    }
}

static void tick_reads(struct partition *partition, struct list *list, uint64_t ticks_max)
{
    LIST_FOR_SAFE(node, list)
    {
        struct partition_read *read = container_of(node, struct partition_read, link);
        if (++read->sequence > ticks_max) {
            finish_read(partition, read, ERR_NOT_PRIMARY);
        }
    }
}

void partition_tick_follows(struct partition *partition)
{
    struct follows *follows = &partition->follows;
    tick_reads(partition, &follows->waiting, FOLLOW_ASK_TICKS);
    tick_reads(partition, &follows->asked, FOLLOW_ASK_TICKS);
    tick_reads(partition, &follows->granted, FOLLOW_TICKS);
}

bool partition_is_following(const struct partition *partition)
{
    const struct follows *follows = &partition->follows;
    return !list_is_empty(&follows->waiting) || !list_is_empty(&follows->asked) ||
           !list_is_empty(&follows->granted);
}

uint64_t partition_grant(struct partition *partition, uint64_t replica, uint64_t term)
{
    return raft_read_grant(&partition->raft, replica, term);
}

static void mark_done(struct partition_write *write, int status, const struct store_result *result)
{
    write->index = status == 0 ? write->index : 0; /* lost: nothing to wait for */
}

void partition_mark(struct partition *partition)
{
    struct raft *raft = &partition->raft;
    struct partition_write *mark = &partition->mark;
    uint64_t since = partition->mark_since;
    partition->mark_since = raft->commit;
    /* One at a time until it is flushed here: else this replica would not know its digest. */
    if (!raft_wants_mark(raft, since) || list_is_linked(&mark->link) ||
        mark->index > raft->flushed) {
        return;
    }
    struct command command = { .type = COMMAND_MARK,
                               .feature_level = (uint16_t)partition->host->feature_level };
    *mark = (struct partition_write){ .payload = command_pack(&command), .done = mark_done };
    partition_write(partition, mark);
}

bool partition_is_readable(const struct partition *partition)
{
    /* Between the swap of an image and the word of it, what is known of the store's state is of the
     * one before. */
    return !partition->failed && !partition->is_damaged && !partition->raft.needs_image &&
           partition->applied == store_replica_applied(partition->store);
}

bool partition_has_lease(const struct partition *partition)
{
    const struct raft *raft = &partition->raft;
    return partition_is_readable(partition) && partition->applied >= raft->commit &&
           raft_lease(raft, env_now_us(partition->host->env) / 1000) == 0;
}

uint64_t partition_staleness_ms(const struct partition *partition)
{
    uint64_t fresh_ms = partition->raft.lease.fresh_ms;
    if (partition_has_lease(partition)) {
        return 0;
    }
    return fresh_ms ? env_now_us(partition->host->env) / 1000 + 1 - fresh_ms : UINT64_MAX;
}
