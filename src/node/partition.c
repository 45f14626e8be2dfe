/* The partition: see partition.h.
 *
 * Invariants
 *
 * I1 Effects that touch the log (state, entries) are carried out right after the event that caused
 *    them; messages, applying and answers wait for the end of the turn, so that a turn costs one
 *    message per follower, whatever it proposed. Where there is nothing to do but to say something
 *    (heartbeats, and what answers them), it is said at once, while all that it needs is in the
 *    processor's cache: with a thousand groups at rest that is most of what a node does.
 *
 * I2 `inflight` is ordered by index, and every write in it stands in this log at (index, term).
 * When a suffix is replaced, those who waited for it leave with ERR_UNKNOWN_OUTCOME: another
 * replica may still hold the entry and be elected before the replacing one is committed. A former
 *    leader's writes that were not replaced wait on, and get the truth when the index is applied.
 *
 * I3 A leader proposes only after its no-op is applied: then the store's time and sessions cover
 * all that the log held, and times grow along the log across primaries.
 *
 * I4 Applied state is visible in the store before any answer leaves (Ongaro's thesis, section 6.4).
 *
 * I5 While an image takes the store's place nothing is applied and no log is cut. The store's swap
 *    is the durable step; core and log follow at once or, if the process dies between, at the next
 *    start (restore_reset).
 *
 * I6 An entry whose payload is damaged in the log (a hole) is neither applied nor sent until a peer
 *    has given it back: any message that brings the same (index, term, size, checksum) does.
 *
 * I7 Read rounds make no turn of their own. A reading group's messages wait for nothing: what
 *    promises a term or a vote is held by the core until that is durable.
 *
 * I8 Writes that the log's budget lets wait (node/budget.h) stay in `queued`, in order, and are
 *    looked at again with the ticks: an event does not make room. */
#include "node/partition.h"

#include <stddef.h>

#include "base/check.h"
#include "base/hash.h"
#include "base/hlc.h"

enum {
    PROPOSE_ENTRIES_MAX = 1024, /* of one turn; the rest goes in the next */
    APPLY_READ_BYTES = 1 << 20,
    APPLY_READ_ENTRIES = 4096,
    PREFER_CAUGHT_UP = 64, /* entries behind which the preferred primary may be */
    /* election timeouts between two tries to hand over to it: nothing is proposed during one */
    PREFER_PAUSE_TIMEOUTS = 10,
    SLOW_PAUSE_TIMEOUTS = 2, /* the same, where a slow disk is the reason: it costs more to stay */
};

/* A read of the log for a laggard. */
struct fetch {
    struct partition *partition;
    uint64_t to;
    bool is_active;
};

/* What every event looks at stands together; the large and the seldom used is behind. */
struct partition {
    struct store_replica *store;
    uint64_t applied;
    uint64_t last_time; /* newest time proposed here */
    uint64_t self_node_id, self;
    uint64_t prefer_tried_ms; /* the last try to hand over, 0: none */
    bool is_awake;            /* host.wake was called for this turn */
    bool is_closing;
    bool apply_is_reading;
    bool is_starved;    /* there was no memory to apply: at the next tick */
    bool is_installing; /* I5 */
    bool has_holes;     /* perhaps: ask the log */
    bool is_damaged;    /* the store of this replica is */
    bool failed;
    bool is_held; /* I8 */
    uint64_t unapplied; /* bytes proposed in this reign, not applied; part of budget->unapplied */
    struct list queued;                  /* writes not proposed yet */
    struct list inflight;                /* writes by index */
    struct list acking;                  /* applied, by index; replicas within reach lack them */
    struct list early;                   /* reads that wait for the no-op */
    struct list reads;                   /* reads by sequence */
    struct list done_writes, done_reads; /* to be told at the end of the turn */
    struct partition_stats stats;
    struct raft raft;
    struct partition_host host;
    struct topology_partition group;
    struct fetch fetches[LIMIT_REPLICAS];
    struct partition_write mark; /* the last one proposed, linked while it waits */
    uint64_t mark_since;         /* commit index at the last partition_mark */
};

static void send_messages(struct partition *partition, struct blob **fetched,
                          uint64_t fetched_first, uint32_t fetched_count);
static void settle_reads(struct partition *partition);
static void want_round(struct partition *partition);

static void partition_wake(struct partition *partition)
{
    if (!partition->is_awake && !partition->is_closing) {
        partition->is_awake = true;
        partition->host.wake(partition->host.ctx, partition);
    }
}

static void partition_fail(struct partition *partition, const struct err *err)
{
    if (!partition->failed) {
        partition->failed = true;
        partition->host.failed(partition->host.ctx, partition, err);
    }
}

static uint32_t entries_in_memory(void *ctx, uint64_t first, uint32_t count_max, uint32_t bytes_max,
                                  uint32_t *bytes)
{
    struct partition *partition = ctx;
    return log_in_memory(partition->host.log, partition->group.group, first, count_max, bytes_max,
                         bytes);
}

/* A digest as the core takes it: there 0 says that none is known, and an empty store's is 0. */
static uint64_t told(uint64_t digest)
{
    return digest ? digest : 1;
}

/* --- Opening */

static const struct topology_replica *own_replica(const struct topology_partition *group,
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
        .election_timeout_ms = partition->host.election_timeout_ms,
        .heartbeat_ms = partition->host.heartbeat_ms,
        .seed = env_random_u64(partition->host.env),
        .inflight_bytes_max = LIMIT_RAFT_INFLIGHT_BYTES,
        .inflight_messages_max = LIMIT_RAFT_INFLIGHT_MESSAGES,
        .append_bytes_max = LIMIT_RAFT_APPEND_BYTES,
        .append_entries_max = LIMIT_RAFT_APPEND_ENTRIES,
        .gate = env_gate(partition->host.env, MEM_RAFT),
        .changes = partition->host.changes,
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
    LOG_INFO(partition->host.logger,
             "part=%u an image of index=%lu term=%lu was installed; the log begins anew behind it",
             partition->group.group, index, term);
    log_reset(partition->host.log, partition->group.group, index + 1, term);
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
    LOG_WARN(partition->host.logger,
             "part=%u the store has applied index %lu, but the log ends at %lu: entries were lost",
             partition->group.group, applied, start->last_index);
    log_rebase(partition->host.log, partition->group.group, applied + 1);
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
    const struct topology_replica *own = own_replica(group, self_node_id);
    CHECK(own);
    if (start && start->replica != own->id) {
        return err_set(err, ERR_CORRUPT,
                       "part=%u: the log is of replica %lu, the topology says %lu", group->group,
                       start->replica, own->id);
    }
    struct partition *partition = MEM_NEW(struct partition);
    partition->host = *host;
    partition->group = *group;
    partition->self_node_id = self_node_id;
    partition->self = own->id;
    list_init(&partition->queued);
    list_init(&partition->inflight);
    list_init(&partition->acking);
    list_init(&partition->early);
    list_init(&partition->reads);
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
    partition->applied = store_replica_applied(partition->store);
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
        raft_digest(&partition->raft, told(store_replica_digest(partition->store)));
    }
    partition_wake(partition);
    *out = partition;
    return 0;
}

/* --- Waiting ones */

/* Nothing more can be applied; and without other replicas nothing will be. */
static bool is_at_a_loss(const struct partition *partition)
{
    return partition->group.replica_count == 1 && store_replica_is_stopped(partition->store);
}

static void finish_write(struct partition *partition, struct partition_write *write, int status)
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

static void drop_payload(struct partition_write *write)
{
    blob_unref(write->payload);
    write->payload = NULL;
}

static void finish_all_writes(struct partition *partition, struct list *list, int status)
{
    LIST_FOR_SAFE(node, list)
    {
        finish_write(partition, container_of(node, struct partition_write, link), status);
    }
}

static void finish_all_reads(struct partition *partition, struct list *list, int status)
{
    LIST_FOR_SAFE(node, list)
    {
        finish_read(partition, container_of(node, struct partition_read, link), status);
    }
}

static void tell_done(struct partition *partition)
{
    struct list *node;
    while ((node = list_take_first(&partition->done_writes))) {
        struct partition_write *write = container_of(node, struct partition_write, link);
        drop_payload(write);
        write->done(write, write->status, NULL);
    }
    while ((node = list_take_first(&partition->done_reads))) {
        struct partition_read *read = container_of(node, struct partition_read, link);
        read->done(read, read->status);
    }
}

void partition_close(struct partition *partition)
{
    partition->is_closing = true;
    finish_all_writes(partition, &partition->queued, ERR_SHUTDOWN);
    finish_all_writes(partition, &partition->inflight, ERR_UNKNOWN_OUTCOME);
    finish_all_writes(partition, &partition->acking, ERR_UNKNOWN_OUTCOME);
    finish_all_reads(partition, &partition->early, ERR_SHUTDOWN);
    finish_all_reads(partition, &partition->reads, ERR_SHUTDOWN);
    tell_done(partition);
    raft_fini(&partition->raft);
    mem_free(partition);
}

/* Deletes make room, and the control group's entries are few and needed: they pass where an
 * ordinary write is refused because store, disk or log are full. */
static bool is_vital(const struct partition *partition, const struct partition_write *write)
{
    return write->payload->data[0] == COMMAND_DELETE || partition->group.group == 0;
}

static int admit_vital(struct partition *partition, size_t bytes)
{
    int status = store_admit(partition->host.store, 0);
    return status ? status : log_admit_vital(partition->host.log, bytes);
}

static int admit_ordinary(struct partition *partition, size_t bytes)
{
    int status = store_admit(partition->host.store, bytes);
    status = status ? status : log_admit(partition->host.log, bytes);
    return status ? status : reserve_admit(partition->host.reserve, bytes);
}

static int admit(struct partition *partition, const struct partition_write *write)
{
    size_t bytes = write->payload->size;
    bool vital = is_vital(partition, write);
    int status =
        is_at_a_loss(partition) ? ERR_CORRUPT : budget_admit(partition->host.budget, vital);
    return status != 0 ? status
           : vital     ? admit_vital(partition, bytes)
                       : admit_ordinary(partition, bytes);
}

void partition_write(struct partition *partition, struct partition_write *write)
{
    list_append(&partition->queued, &write->link);
    int status = admit(partition, write);
    if (status != 0) {
        finish_write(partition, write, status);
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
        partition->host.read_wanted(partition->host.ctx,
                                    partition); /* a turn would do nothing more */
    } else {
        partition_wake(partition);
    }
}

void partition_write_forget(struct partition *partition, struct partition_write *write)
{
    list_remove(&write->link);
    drop_payload(write);
}

void partition_read_forget(struct partition *partition, struct partition_read *read)
{
    list_remove(&read->link);
}

/* --- Effects */

/* Those who waited for entries that are now replaced can't be told here any more (I2). */
static void drop_replaced(struct partition *partition, uint64_t first)
{
    while (!list_is_empty(&partition->inflight)) {
        struct partition_write *last =
            container_of(partition->inflight.prev, struct partition_write, link);
        if (last->index < first) {
            break;
        }
        finish_write(partition, last, ERR_UNKNOWN_OUTCOME);
    }
}

static void append_noop(struct partition *partition)
{
    const struct raft_effects *out = &partition->raft.out;
    CHECK(out->append_count == 1 && raft_is_noop(&partition->raft, out->append_first));
    struct blob *empty = blob_new(0);
    drop_replaced(partition, out->append_first);
    log_append(partition->host.log, partition->group.group, out->append_first,
               &partition->raft.term, &empty, 1);
    blob_unref(empty);
}

static void take_drop(struct partition *partition, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        blob_unref(partition->host.scratch->blobs[i]);
    }
}

/* Before an append is stepped, since the core takes nothing back: its entries in scratch, and room
 * in the log. False: there is no memory; the message counts as lost then. */
static bool take_entries(struct partition *partition, const struct raft_message *message,
                         const struct raft_entry *entries, const struct span *payloads)
{
    struct partition_scratch *scratch = partition->host.scratch;
    struct mem_gate *gate = env_gate(partition->host.env, MEM_LOG);
    uint32_t count = message->count, runs = 1;
    if (count > LIMIT_RAFT_APPEND_ENTRIES) {
        return false; /* nobody sends so many */
    }
    for (uint32_t i = 0; i < count; i++) {
        runs += i > 0 && entries[i].term != entries[i - 1].term;
        scratch->terms[i] = entries[i].term;
        scratch->blobs[i] = blob_try_new(gate, payloads[i].size);
        if (!scratch->blobs[i]) {
            take_drop(partition, i);
            return false;
        }
        if (payloads[i].size > 0) {
            memcpy(scratch->blobs[i]->data, payloads[i].data, payloads[i].size);
        }
        if (payloads[i].size >= BLOB_SUM_MIN) {
            scratch->blobs[i]->crc = hash_crc32c(0, scratch->blobs[i]->data, payloads[i].size);
            scratch->blobs[i]->is_summed = true;
        }
    }
    if (count > 0 && log_reserve(partition->host.log, partition->group.group, count, runs) != 0) {
        take_drop(partition, count);
        return false;
    }
    return true;
}

/* The entries of the append that was just stepped, from append_skip on; take_entries has them. */
static void append_received(struct partition *partition)
{
    const struct raft_effects *out = &partition->raft.out;
    const struct partition_scratch *scratch = partition->host.scratch;
    uint64_t bytes = 0;
    drop_replaced(partition, out->append_first);
    log_append(partition->host.log, partition->group.group, out->append_first,
               scratch->terms + out->append_skip, scratch->blobs + out->append_skip,
               out->append_count);
    for (uint32_t i = 0; i < out->append_count; i++) {
        bytes += scratch->blobs[out->append_skip + i]->size;
    }
    budget_took(partition->host.budget, bytes, out->append_count);
}

/* Before an event whose time counts, outside turns and frames: ticks may be rare. */
static void tell_time(struct partition *partition)
{
    raft_clock(&partition->raft, env_now_us(partition->host.env) / 1000);
}

/* The core hears of the log's holes: those that it must count with, and what to ask for. */
static void tell_holes(struct partition *partition)
{
    struct raft *raft = &partition->raft;
    uint32_t group = partition->group.group;
    if (!partition->has_holes) {
        return;
    }
    tell_time(partition);
    uint64_t needed = raft->flushed + 1;
    raft_holes(
        raft, log_first_hole(partition->host.log, group, needed),
        log_first_unfilled(partition->host.log, group, raft->role == RAFT_LEADER ? 0 : needed));
    partition->has_holes = log_first_hole(partition->host.log, group, 0) != 0;
}

/* Whether a turn would do anything but to say what the core has to say. */
static bool has_duties(const struct partition *partition)
{
    const struct raft *raft = &partition->raft;
    return partition->applied < raft->commit || !list_is_empty(&partition->queued) ||
           !list_is_empty(&partition->acking) || !list_is_empty(&partition->early) ||
           !list_is_empty(&partition->reads) || !list_is_empty(&partition->done_writes) ||
           !list_is_empty(&partition->done_reads) ||
           raft_cut_at(raft, *partition->host.cut_level) >= raft->log_start;
}

/* Who waits for all replicas may outwait one that is out of reach, or for memory: then every tick
 * counts. */
static void note_quiet(struct partition *partition)
{
    bool waits = !list_is_empty(&partition->acking) || partition->is_starved || partition->is_held;
    partition->host.quiet_until_ms[partition->group.group] =
        waits ? 0 : raft_quiet_until(&partition->raft);
}

/* I1: what else a turn does, there is no need for. */
static void speak(struct partition *partition)
{
    tell_time(partition);
    raft_flush(&partition->raft);
    send_messages(partition, NULL, 0, 0);
    partition->host.spoke(partition->host.ctx, partition);
}

/* After every event but a proposal (I1). is_append: a message with entries was stepped. */
static void settle_after(struct partition *partition, bool is_append)
{
    struct raft_effects *out = &partition->raft.out;
    if (out->persist_state) {
        log_append_state(partition->host.log, partition->group.group, partition->raft.term,
                         partition->raft.vote);
        out->persist_state = false;
    }
    if (out->append) {
        if (is_append) {
            append_received(partition);
        } else {
            append_noop(partition);
        }
    }
    raft_effects_clear_log(&partition->raft);
    if (out->start_learned) {
        out->start_learned = false;
        log_set_start_term(partition->host.log, partition->group.group, partition->raft.start_term);
    }
    if (out->heal) {
        out->heal = false;
        log_append_healed(partition->host.log, partition->group.group, partition->raft.term,
                          partition->raft.vote);
    }
    tell_holes(partition);
    bool has_work = has_duties(partition);
    bool may_speak = !has_work && !partition->is_awake && !partition->failed;
    if (may_speak && raft_only_speaks(&partition->raft)) {
        speak(partition);
    }
    /* Of a write's events only some need a turn: not the second answer, say, nor what makes entries
     * durable that wait for others'. */
    if (has_work || raft_has_news(&partition->raft)) {
        partition->host.quiet_until_ms[partition->group.group] = 0;
        partition_wake(partition);
    } else {
        raft_applied(&partition->raft, partition->applied); /* what it learned of time */
        note_quiet(partition);
    }
}

static void settle(struct partition *partition)
{
    settle_after(partition, false);
}

/* --- Events */

void partition_tick(struct partition *partition, uint64_t now_ms)
{
    if (partition->is_starved) {
        partition->is_starved = false;
        partition_wake(partition);
    }
    raft_tick(&partition->raft, now_ms);
    if (raft_has_news(&partition->raft) || !list_is_empty(&partition->acking) ||
        partition->is_held) {
        settle(partition);
    } else {
        note_quiet(partition);
    }
}

/* Whatever the core made of the message: what it brings may be what is missing (I6). */
static void fill_holes(struct partition *partition, const struct raft_message *message,
                       const struct raft_entry *entries, const struct span *payloads)
{
    uint32_t filled = 0;
    for (uint32_t i = 0; i < message->count; i++) {
        filled += log_fill(partition->host.log, partition->group.group, message->index + 1 + i,
                           entries[i].term, payloads[i]);
    }
    if (filled > 0) {
        LOG_INFO(partition->host.logger, "part=%u index=%lu damaged entries were given back: %u",
                 partition->group.group, message->index + 1, filled);
        settle(partition);
    }
}

/* After a question whether a leader still leads, or the answer to one. Where many read, that is nearly
 * all that a group hears, and a turn looks at everything that it may have to do: so the answer
 * leaves, or who waited is told, at once (I7). False: there is more to do. */
static bool settle_round(struct partition *partition)
{
    struct raft_effects *out = &partition->raft.out;
    if (partition->is_awake || partition->failed) {
        return false;
    }
    send_messages(partition, NULL, 0, 0);
    if (out->reads_confirmed || out->read_round_wanted) {
        out->reads_confirmed = out->read_round_wanted = false;
        settle_reads(partition);
        want_round(partition);
    }
    return !raft_has_news(&partition->raft) && list_is_empty(&partition->done_reads);
}

void partition_message(struct partition *partition, const struct raft_message *message,
                       const struct raft_entry *entries, const struct span *payloads)
{
    if (message->to != partition->self || message->group != partition->group.group) {
        return;
    }
    bool is_append = message->type == RAFT_APPEND;
    if (is_append && !take_entries(partition, message, entries, payloads)) {
        return;
    }
    raft_clock(&partition->raft, *partition->host.now_ms);
    raft_take(&partition->raft, budget_room(partition->host.budget, partition->is_damaged));
    raft_step(&partition->raft, message, entries);
    if ((message->type == RAFT_READ || message->type == RAFT_READ_REPLY) &&
        settle_round(partition)) {
        return;
    }
    settle_after(partition, is_append);
    if (is_append) {
        take_drop(partition, message->count);
    }
    if (partition->has_holes && message->count > 0) {
        fill_holes(partition, message, entries, payloads);
    }
}

void partition_durable(struct partition *partition, uint64_t index, uint64_t term)
{
    raft_entries_durable(&partition->raft, index, term);
    settle(partition);
}

void partition_state_durable(struct partition *partition, uint64_t term, uint64_t vote)
{
    raft_state_durable(&partition->raft, term, vote);
    settle(partition);
}

void partition_hole(struct partition *partition)
{
    partition->has_holes = true;
    if (partition->group.replica_count == 1) {
        struct err err;
        err_set(&err, ERR_CORRUPT, "part=%u: the log is damaged, and there is no other replica",
                partition->group.group);
        partition_fail(partition, &err);
    }
    settle(partition);
}

void partition_healed(struct partition *partition)
{
    LOG_WARN(partition->host.logger, "part=%u holds again what it may have lost; it counts again",
             partition->group.group);
    raft_healed(&partition->raft);
    settle(partition);
}

void partition_flushed(struct partition *partition)
{
    struct raft *raft = &partition->raft;
    uint64_t digest, flushed = store_replica_flushed(partition->store);
    uint64_t mark = store_replica_mark(partition->store, &digest);
    if (flushed > raft->flushed && !partition->is_installing) {
        raft_flushed(raft, flushed);
        if (mark > raft->marks[0].index) {
            raft_mark(raft, mark, told(digest));
        }
        raft_digest(raft, told(store_replica_digest(partition->store)));
        settle(partition);
    }
}

static void prefetch(const void *memory, size_t size)
{
    enum { LINE = 64 };
    for (size_t i = 0; i < size; i += LINE) {
        __builtin_prefetch((const uint8_t *)memory + i);
    }
}

void partition_prefetch(const struct partition *partition)
{
    const struct raft *raft = &partition->raft;
    prefetch(partition, offsetof(struct partition, raft.lease.peers[3]));
    prefetch(&raft->out, offsetof(struct raft_effects, messages));
    for (int i = 0; raft->role == RAFT_LEADER && i < raft->config.replica_count; i++) {
        prefetch(&raft->progress[i], offsetof(struct raft_progress, flights));
    }
}

static const struct topology_replica *replica_on(const struct partition *partition,
                                                 uint64_t node_id)
{
    return own_replica(&partition->group, node_id);
}

void partition_peer_reset(struct partition *partition, uint64_t node_id)
{
    const struct topology_replica *replica = replica_on(partition, node_id);
    if (replica) {
        raft_peer_reset(&partition->raft, replica->id);
        settle(partition);
    }
}

void partition_peer_restarted(struct partition *partition, uint64_t node_id)
{
    const struct topology_replica *replica = replica_on(partition, node_id);
    if (replica) {
        raft_peer_restarted(&partition->raft, replica->id);
    }
}

bool partition_remind(struct partition *partition, uint64_t replica, const struct raft_memory *told)
{
    tell_time(partition);
    bool has_lost = raft_remind(&partition->raft, replica, told);
    settle(partition);
    return has_lost;
}

void partition_suspect(struct partition *partition)
{
    tell_time(partition);
    log_append_suspect(partition->host.log, partition->group.group);
    raft_suspect(&partition->raft);
    settle(partition);
}

/* --- The end of the turn */

/* Bytes of the own proposals, all the node's (budget.c, B2). */
static void count_unapplied(struct partition *partition, uint64_t added, uint64_t applied)
{
    applied = applied < partition->unapplied ? applied : partition->unapplied;
    partition->unapplied += added - applied;
    partition->host.budget->unapplied += added - applied;
}

static void propose_queued(struct partition *partition)
{
    struct raft *raft = &partition->raft;
    partition->is_held = false;
    if (raft->role != RAFT_LEADER) {
        finish_all_writes(partition, &partition->queued, ERR_NOT_PRIMARY);
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
        if (!budget_propose(partition->host.budget, write->payload->size,
                            is_vital(partition, write))) {
            partition->is_held = true;
            break;
        }
        sizes[count] = write->payload->size;
        partition->host.scratch->blobs[count] = write->payload;
        partition->host.scratch->terms[count] = raft->term;
        count++;
    }
    uint64_t first;
    if (count == 0) {
        return;
    }
    if (log_reserve(partition->host.log, partition->group.group, count, 1) != 0) {
        finish_all_writes(partition, &partition->queued, ERR_NO_MEMORY);
        return;
    }
    int status = raft_propose(raft, sizes, count, &first);
    if (status != 0) {
        finish_all_writes(partition, &partition->queued, ERR_NOT_PRIMARY);
        return;
    }
    uint64_t wall_us = env_wall_us(partition->host.env);
    for (uint32_t i = 0; i < count; i++) {
        struct partition_write *write =
            container_of(list_take_first(&partition->queued), struct partition_write, link);
        uint64_t newest = *partition->host.hlc;
        uint64_t floor = store_replica_time(partition->store);
        newest = partition->last_time > newest ? partition->last_time : newest;
        newest = floor > newest ? floor : newest;
        partition->last_time = *partition->host.hlc = hlc_next(newest, wall_us);
        command_set_time(write->payload, partition->last_time);
        write->index = first + i;
        write->term = raft->term;
        count_unapplied(partition, sizes[i] + BUDGET_ENTRY_BYTES, 0);
        list_append(&partition->inflight, &write->link);
    }
    log_append(partition->host.log, partition->group.group, first, partition->host.scratch->terms,
               partition->host.scratch->blobs, count);
    raft_effects_clear_log(raft);
    partition->stats.proposals += count;
    if (!list_is_empty(&partition->queued) && !partition->is_held) {
        partition_wake(partition);
    }
}

/* Applies one entry and answers who waits for it. False: not now, or the node must stop. */
static bool apply_entry(struct partition *partition, uint64_t index, struct blob *payload)
{
    struct store_result result = { 0 };
    struct err err;
    int status = store_apply(partition->store, index, payload, &result, &err);
    if (status != 0) {
        if (status == ERR_NO_MEMORY) { /* nothing has changed */
            partition->is_starved = true;
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
    count_unapplied(partition, 0, payload->size + BUDGET_ENTRY_BYTES);
    if (partition->host.observe) {
        partition->host.observe(partition->host.ctx, partition->group.group, index,
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
        drop_payload(write);
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
           log_first_hole(partition->host.log, partition->group.group, next) == next;
}

/* The last entry that may be applied now. What is committed elsewhere may be applied before the own
 * log has it, but a flush waits for the log then; on a full disk the log may wait for the flush, which
 * lets it be cut. */
static uint64_t find_apply_end(const struct partition *partition)
{
    const struct raft *raft = &partition->raft;
    bool is_held = *partition->host.is_tight && raft->durable_index < raft->commit;
    return is_held ? raft->durable_index : raft->commit;
}

static void apply_read_done(void *ctx, int status, uint64_t first, struct blob **payloads,
                            uint32_t count)
{
    struct partition *partition = ctx;
    partition->apply_is_reading = false;
    bool is_needed = first == partition->applied + 1; /* else an image made it needless */
    if (status == ERR_NO_MEMORY) {
        partition->is_starved = true;
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

static void apply_committed(struct partition *partition)
{
    uint64_t before = partition->applied;
    uint64_t end = find_apply_end(partition);
    while (partition->applied < end && !partition->apply_is_reading && !partition->is_starved &&
           may_apply(partition)) {
        uint64_t next = partition->applied + 1;
        struct blob *payload = log_peek(partition->host.log, partition->group.group, next);
        if (!payload && waits_for_payload(partition)) {
            break;
        }
        if (!payload) {
            uint64_t left = end - partition->applied;
            int status = log_read(partition->host.log, partition->group.group, next,
                                  left < APPLY_READ_ENTRIES ? (uint32_t)left : APPLY_READ_ENTRIES,
                                  APPLY_READ_BYTES, apply_read_done, partition);
            partition->apply_is_reading = status == 0;
            partition->is_starved = partition->is_starved || status != 0;
            break;
        }
        if (!apply_entry(partition, next, payload)) {
            break;
        }
    }
    if (partition->applied != before) {
        partition->host.applied(partition->host.ctx, partition);
    }
}

/* Writes that wait for every replica within reach. When leadership is lost, nobody here can tell
 * any more what the others hold. */
static void settle_acks(struct partition *partition)
{
    if (partition->raft.role != RAFT_LEADER) {
        finish_all_writes(partition, &partition->acking, ERR_UNKNOWN_OUTCOME);
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

static void settle_reads(struct partition *partition)
{
    struct raft *raft = &partition->raft;
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
        finish_all_reads(partition, &partition->reads, ERR_CORRUPT);
        finish_all_reads(partition, &partition->early, ERR_CORRUPT);
        finish_all_writes(partition, &partition->queued, ERR_CORRUPT);
        finish_all_writes(partition, &partition->inflight, ERR_UNKNOWN_OUTCOME);
    } else if (raft->role != RAFT_LEADER || raft->needs_image) {
        finish_all_reads(partition, &partition->reads, ERR_NOT_PRIMARY);
        finish_all_reads(partition, &partition->early, ERR_NOT_PRIMARY);
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

/* Reads that no round has confirmed yet. */
static void want_round(struct partition *partition)
{
    if (!list_is_empty(&partition->reads) && partition->raft.role == RAFT_LEADER) {
        partition->host.read_wanted(partition->host.ctx, partition);
    }
}

/* Payloads of an append: just read from disk (fetched, beginning with index fetched_first), or in
 * the log's memory. */
static bool find_payloads(struct partition *partition, const struct raft_message *message,
                          struct blob **fetched, uint64_t fetched_first, uint32_t fetched_count)
{
    for (uint32_t i = 0; i < message->count; i++) {
        uint64_t index = message->index + 1 + i;
        partition->host.scratch->terms[i] = raft_term_at(&partition->raft, index);
        if (fetched && index >= fetched_first && index < fetched_first + fetched_count) {
            partition->host.scratch->blobs[i] = fetched[index - fetched_first];
        } else {
            partition->host.scratch->blobs[i] =
                log_peek(partition->host.log, partition->group.group, index);
        }
        if (!partition->host.scratch->blobs[i]) {
            return false;
        }
    }
    return true;
}

static void send_messages(struct partition *partition, struct blob **fetched,
                          uint64_t fetched_first, uint32_t fetched_count)
{
    struct raft *raft = &partition->raft;
    for (size_t i = 0; i < raft->out.message_count; i++) {
        const struct raft_message *message = &raft->out.messages[i];
        uint64_t node_id = partition_node_of(partition, message->to);
        CHECK(node_id != 0 && message->count <= LIMIT_RAFT_APPEND_ENTRIES);
        /* An append of a term that is over may name entries that were replaced since. */
        if (message->count > 0 &&
            (message->term != raft->term ||
             !find_payloads(partition, message, fetched, fetched_first, fetched_count))) {
            continue; /* Raft repeats */
        }
        partition->host.send(partition->host.ctx, node_id, message, partition->host.scratch->terms,
                             partition->host.scratch->blobs);
    }
    raft->out.message_count = 0;
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
    const struct topology_replica *replica = replica_on(partition, node_id);
    raft_clock(&partition->raft, *partition->host.now_ms);
    if (replica && !is_asked_enough(&partition->raft) &&
        raft_read_send(&partition->raft, replica->id)) {
        send_messages(partition, NULL, 0, 0);
    }
}

bool partition_read_ride(struct partition *partition, uint64_t node_id, uint64_t changes,
                         struct partition_ride *ride)
{
    struct raft *raft = &partition->raft;
    const struct topology_replica *replica = replica_on(partition, node_id);
    raft_clock(raft, *partition->host.now_ms);
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
    raft_clock(&partition->raft, *partition->host.now_ms);
    raft_read_ridden(&partition->raft, ride->replica, ride->term, ride->sequence, is_confirmed);
    if (!settle_round(partition)) {
        settle(partition);
    }
}

static void fetch_done(void *ctx, int status, uint64_t first, struct blob **payloads,
                       uint32_t count)
{
    struct fetch *fetch = ctx;
    struct partition *partition = fetch->partition;
    uint32_t bytes = 0;
    for (uint32_t i = 0; i < count; i++) {
        bytes += payloads[i]->size;
    }
    fetch->is_active = false;
    if (status != 0) {
        LOG_WARN(partition->host.logger, "part=%u index=%lu cannot read the log for a replica: %s",
                 partition->group.group, first, err_info(status)->name);
        count = 0;
    }
    tell_time(partition);
    raft_fetched(&partition->raft, fetch->to, first, count, bytes);
    settle(partition);
    send_messages(partition, payloads, first, count);
    for (uint32_t i = 0; i < count; i++) {
        blob_unref(payloads[i]);
    }
}

/* NULL: all are reading. */
static struct fetch *free_fetch(struct partition *partition)
{
    for (int i = 0; i < LIMIT_REPLICAS; i++) {
        if (!partition->fetches[i].is_active) {
            return &partition->fetches[i];
        }
    }
    return NULL;
}

static void fill_done(void *ctx, int status, uint64_t first, struct blob **payloads, uint32_t count)
{
    struct fetch *fetch = ctx;
    struct partition *partition = fetch->partition;
    fetch->is_active = false;
    if (count > 0 && raft_fill_send(&partition->raft, fetch->to, first)) {
        send_messages(partition, payloads, first, count);
    }
    for (uint32_t i = 0; i < count; i++) {
        blob_unref(payloads[i]);
    }
}

/* Peers lack payloads. What can't be read now is asked for again. */
static void start_fills(struct partition *partition)
{
    struct raft_effects *out = &partition->raft.out;
    for (int i = 0; i < out->fill_count; i++) {
        uint64_t index = out->fills[i].index;
        struct fetch *fetch = free_fetch(partition);
        if (!fetch) {
            break;
        }
        *fetch = (struct fetch){ partition, out->fills[i].to, true };
        fetch->is_active = log_read(partition->host.log, partition->group.group, index, 1,
                                    LIMIT_RAFT_APPEND_BYTES, fill_done, fetch) == 0;
    }
    out->fill_count = 0;
}

static void start_fetches(struct partition *partition)
{
    struct raft_effects *out = &partition->raft.out;
    for (int i = 0; i < out->fetch_count; i++) {
        struct fetch *fetch = free_fetch(partition);
        if (!fetch) {
            raft_fetched(&partition->raft, out->fetches[i].to, out->fetches[i].first, 0, 0);
            continue;
        }
        *fetch = (struct fetch){ partition, out->fetches[i].to, true };
        fetch->is_active =
            log_read(partition->host.log, partition->group.group, out->fetches[i].first,
                     LIMIT_RAFT_APPEND_ENTRIES, LIMIT_RAFT_APPEND_BYTES, fetch_done, fetch) == 0;
        if (!fetch->is_active) {
            raft_fetched(&partition->raft, out->fetches[i].to, out->fetches[i].first, 0, 0);
        }
    }
    out->fetch_count = 0;
}

/* Cuts the log behind an index that the own store covers. */
static void cut_to(struct partition *partition, uint64_t cut)
{
    struct raft *raft = &partition->raft;
    if (cut >= raft->log_start && cut <= partition->applied && cut <= raft->flushed &&
        !partition->is_installing) {
        log_cut(partition->host.log, partition->group.group, cut + 1, raft_term_at(raft, cut));
        raft_log_cut(raft, cut + 1);
        settle(partition);
    }
}

void partition_cut_log(struct partition *partition)
{
    cut_to(partition, raft_cut_at(&partition->raft, *partition->host.cut_level));
}

static void note_role(struct partition *partition)
{
    struct raft *raft = &partition->raft;
    count_unapplied(partition, 0, partition->unapplied);
    if (raft->role == RAFT_LEADER) {
        partition->stats.elections++;
    }
    LOG_DEBUG(partition->host.logger, "part=%u term=%lu role=%s leader=%lu", partition->group.group,
              raft->term, raft_role_name(raft->role), raft->leader);
    partition->host.role_changed(partition->host.ctx, partition);
}

/* What comparing replicas with each other found. */
static void tell_digests(struct partition *partition)
{
    const struct raft_effects *out = &partition->raft.out;
    if (out->digest_refuted && !partition->is_damaged) {
        store_replica_mark_damaged(
            partition->store, "a majority of the replicas holds other content at the same index");
    }
    if (out->digest_undecided) {
        LOG_ERROR(partition->host.logger,
                  "part=%u replicas differ at the same index, and no majority says which is right",
                  partition->group.group);
        partition->host.undecided(partition->host.ctx, partition);
    }
}

static void tell_images(struct partition *partition)
{
    const struct raft_effects *out = &partition->raft.out;
    for (int i = 0; i < out->image_count; i++) {
        partition->host.image_wanted(partition->host.ctx, partition, &out->images[i]);
    }
    if (out->image_offered && !partition->is_installing) {
        partition->host.image_offered(partition->host.ctx, partition, &out->image);
    }
}

void partition_turn(struct partition *partition)
{
    struct raft *raft = &partition->raft;
    partition->is_awake = false;
    if (partition->failed) {
        return;
    }
    raft_clock(raft, *partition->host.now_ms);
    propose_queued(partition);
    raft_flush(raft);
    send_messages(partition, NULL, 0, 0);
    start_fetches(partition);
    start_fills(partition);
    if (raft->out.role_changed) {
        raft->out.role_changed = false;
        note_role(partition);
    }
    if (raft->out.diverged) {
        LOG_ERROR(
            partition->host.logger,
            "part=%u term=%lu a leader contradicts what is committed here; its message was dropped",
            partition->group.group, raft->term);
    }
    tell_images(partition);
    tell_digests(partition);
    uint64_t cut_wanted = raft->out.cut_wanted;
    raft_effects_clear(raft);
    apply_committed(partition);
    raft_applied(raft, partition->applied);
    settle_acks(partition);
    settle_reads(partition);
    tell_done(partition);
    want_round(partition);
    if (!list_is_empty(&partition->queued) && raft->role == RAFT_LEADER && raft->transfer_to == 0 &&
        partition->applied >= raft->noop_index && !partition->is_held) {
        partition_wake(partition);
    }
    partition_cut_log(partition);
    if (cut_wanted != 0) {
        cut_to(partition, cut_wanted);
    }
    note_quiet(partition);
}

/* --- Marks */

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
                               .feature_level = (uint16_t)partition->host.feature_level };
    *mark = (struct partition_write){ .payload = command_pack(&command), .done = mark_done };
    partition_write(partition, mark);
}

/* --- Damage */

void partition_damaged(struct partition *partition)
{
    if (partition->is_damaged) {
        return;
    }
    partition->is_damaged = true;
    partition->stats.damages++;
    if (partition->group.replica_count > 1) {
        LOG_WARN(partition->host.logger,
                 "part=%u the store is damaged: serves nothing until an image has replaced it",
                 partition->group.group);
        tell_time(partition);
        raft_need_image(&partition->raft);
    } else {
        LOG_ERROR(partition->host.logger,
                  "part=%u the store is damaged, and there is no other replica to repair it from",
                  partition->group.group);
    }
    settle(partition);
}

bool partition_is_damaged(const struct partition *partition)
{
    return partition->is_damaged;
}

/* --- Images */

static const struct raft_progress *find_progress(const struct raft *raft, uint64_t replica)
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
    settle(partition);
    return status;
}

void partition_image_withdraw(struct partition *partition, uint64_t to)
{
    raft_image_withdraw(&partition->raft, to);
    settle(partition);
}

bool partition_image_is_offered(const struct partition *partition, uint64_t to, uint64_t id)
{
    const struct raft_progress *progress = find_progress(&partition->raft, to);
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
            finish_write(partition, write, ERR_UNKNOWN_OUTCOME);
        }
    }
}

void partition_image_installed(struct partition *partition, uint64_t index, uint64_t term)
{
    CHECK(partition->is_installing && store_replica_applied(partition->store) == index);
    partition->is_installing = false;
    if (partition->is_damaged) {
        LOG_WARN(partition->host.logger,
                 "part=%u the damaged store is whole again, by an image of index %lu",
                 partition->group.group, index);
        partition->is_damaged = false;
        partition->stats.repairs++;
    }
    partition->applied = index;
    raft_applied(&partition->raft, index); /* less than before, perhaps: so not as fresh */
    drop_covered(partition, index);
    bool is_kept = raft_image_installed(&partition->raft, index, term);
    raft_digest(&partition->raft, told(store_replica_digest(partition->store)));
    if (!is_kept) {
        drop_replaced(partition, index + 1);
        log_reset(partition->host.log, partition->group.group, index + 1, term);
    }
    settle(partition);
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

/* --- Leadership by choice */

/* It is heard, has all that there is to have, nearly, and its disk is as quick as others'. */
static bool may_succeed(const struct partition *partition, const struct topology_replica *replica,
                        uint64_t now_ms)
{
    const struct raft_progress *progress = find_progress(&partition->raft, replica->id);
    CHECK(progress);
    bool awaits_image = progress->is_damaged || progress->state == RAFT_IMAGING;
    return progress->heard_ms + partition->host.election_timeout_ms >= now_ms && !awaits_image &&
           !progress->is_full && progress->match + PREFER_CAUGHT_UP >= partition->raft.last_index &&
           !partition->host.is_slow(partition->host.ctx, replica->node_id);
}

/* Who should lead instead; 0: nobody. A node whose disk is well gives way to the preferred one only. */
static uint64_t find_successor(const struct partition *partition, bool is_slow, uint64_t now_ms)
{
    int count = is_slow ? partition->group.replica_count : 1;
    for (int i = 0; i < count; i++) {
        const struct topology_replica *replica = &partition->group.replicas[i];
        if (replica->id != partition->self && may_succeed(partition, replica, now_ms)) {
            return replica->id;
        }
    }
    return 0;
}

bool partition_prefer(struct partition *partition, uint64_t now_ms)
{
    struct raft *raft = &partition->raft;
    if (raft->role != RAFT_LEADER || raft->transfer_to != 0 ||
        partition->applied < raft->noop_index) {
        return false;
    }
    bool is_slow = partition->host.is_slow(partition->host.ctx, partition->self_node_id);
    uint64_t pause = is_slow ? SLOW_PAUSE_TIMEOUTS : PREFER_PAUSE_TIMEOUTS;
    if (partition->prefer_tried_ms != 0 &&
        now_ms < partition->prefer_tried_ms + pause * partition->host.election_timeout_ms) {
        return false;
    }
    uint64_t successor = find_successor(partition, is_slow, now_ms);
    if (successor == 0) {
        return false;
    }
    tell_time(partition);
    bool began = raft_transfer(raft, successor) == 0;
    partition->prefer_tried_ms = now_ms;
    settle(partition);
    return began;
}

int partition_resign(struct partition *partition)
{
    tell_time(partition);
    int status = raft_transfer(&partition->raft, 0);
    settle(partition);
    return status;
}

/* --- Questions */

uint32_t partition_group(const struct partition *partition)
{
    return partition->group.group;
}

const struct raft *partition_raft(const struct partition *partition)
{
    return &partition->raft;
}

struct store_replica *partition_store(struct partition *partition)
{
    return partition->store;
}

const struct topology_partition *partition_topology(const struct partition *partition)
{
    return &partition->group;
}

bool partition_is_primary(const struct partition *partition)
{
    return partition->raft.role == RAFT_LEADER;
}

uint64_t partition_node_of(const struct partition *partition, uint64_t replica)
{
    for (int i = 0; i < partition->group.replica_count; i++) {
        if (partition->group.replicas[i].id == replica) {
            return partition->group.replicas[i].node_id;
        }
    }
    return 0;
}

uint64_t partition_leader_node(const struct partition *partition)
{
    return partition_node_of(partition, partition->raft.leader);
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
           raft_lease(raft, env_now_us(partition->host.env) / 1000) == 0;
}

uint64_t partition_staleness_ms(const struct partition *partition)
{
    uint64_t fresh_ms = partition->raft.lease.fresh_ms;
    if (partition_has_lease(partition)) {
        return 0;
    }
    return fresh_ms ? env_now_us(partition->host.env) / 1000 + 1 - fresh_ms : UINT64_MAX;
}

uint64_t partition_applied(const struct partition *partition)
{
    return partition->applied;
}

const struct partition_stats *partition_stats(const struct partition *partition)
{
    return &partition->stats;
}
