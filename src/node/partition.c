/* The partition: see partition.h.
 *
 * Files (partition_private.h is what they share)
 *   partition.c        events, their effects on core and log, the turn; leadership by choice; questions
 *   partition_open.c   what is made of log and store at the start
 *   partition_serve.c  who waits: writes until they are proposed and told, reads and their rounds
 *   partition_apply.c  what changes the store: entries, images
 *   partition_send.c   messages and the payloads that they take along
 *
 * Invariants of them all
 *
 * I1 Effects that touch the log (state, entries) are carried out right after the event that caused
 *    them; messages, applying and answers wait for the end of the turn, so that a turn costs one
 *    message per follower, whatever it proposed. Where there is nothing to do but to say something
 *    (heartbeats, and what answers them), it is said at once, while all that it needs is in the
 *    processor's cache: with a thousand groups at rest that is most of what a node does.
 *
 * I2 `inflight` is ordered by index, and every write in it stands in this log at (index, term).
 *    When a suffix is replaced, those who waited for it leave with ERR_UNKNOWN_OUTCOME: another
 *    replica may still hold the entry and be elected before the replacing one is committed. A former
 *    leader's writes that were not replaced wait on, and get the truth when the index is applied.
 *
 * I3 A leader proposes only after its no-op is applied: then the store's time and sessions cover
 *    all that the log held, and times grow along the log across primaries.
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
#include "node/partition_private.h"

enum {
    PREFER_CAUGHT_UP = 64, /* entries behind which the preferred primary may be */
    /* election timeouts between two tries to hand over to it: nothing is proposed during one */
    PREFER_PAUSE_TIMEOUTS = 10,
    SLOW_PAUSE_TIMEOUTS = 2, /* the same, where a slow disk is the reason: it costs more to stay */
};

void partition_fail(struct partition *partition, const struct err *err)
{
    if (!partition->failed) {
        partition->failed = true;
        partition->host->failed(partition->host->ctx, partition, err);
    }
}

void partition_close(struct partition *partition)
{
    partition->is_closing = true;
    partition_finish_all_writes(partition, &partition->queued, ERR_SHUTDOWN);
    partition_finish_all_writes(partition, &partition->inflight, ERR_UNKNOWN_OUTCOME);
    partition_finish_all_writes(partition, &partition->acking, ERR_UNKNOWN_OUTCOME);
    partition_finish_all_reads(partition, &partition->early, ERR_SHUTDOWN);
    partition_finish_all_reads(partition, &partition->reads, ERR_SHUTDOWN);
    partition_finish_all_reads(partition, &partition->follows.waiting, ERR_SHUTDOWN);
    partition_finish_all_reads(partition, &partition->follows.asked, ERR_SHUTDOWN);
    partition_finish_all_reads(partition, &partition->follows.granted, ERR_SHUTDOWN);
    partition_tell_done(partition);
    raft_fini(&partition->raft);
    mem_free(partition);
}

void partition_drop_replaced(struct partition *partition, uint64_t first)
{
    while (!list_is_empty(&partition->inflight)) {
        struct partition_write *last =
            container_of(partition->inflight.prev, struct partition_write, link);
        if (last->index < first) {
            break;
        }
        partition_finish_write(partition, last, ERR_UNKNOWN_OUTCOME);
    }
}

static void append_noop(struct partition *partition)
{
    const struct raft_effects *out = &partition->raft.out;
    CHECK(out->append_count == 1 && raft_is_noop(&partition->raft, out->append_first));
    struct blob *empty = blob_new(0);
    partition_drop_replaced(partition, out->append_first);
    log_append(partition->host->log, partition->group.group, out->append_first,
               &partition->raft.term, &empty, 1);
    blob_unref(empty);
}

static void take_drop(struct partition *partition, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        blob_unref(partition->host->scratch->blobs[i]);
    }
}

/* Before an append is stepped, since the core takes nothing back: its entries in scratch, and room
 * in the log. False: there is no memory; the message counts as lost then. */
static bool take_entries(struct partition *partition, const struct raft_message *message,
                         const struct raft_entry *entries, const struct span *payloads)
{
    struct partition_scratch *scratch = partition->host->scratch;
    struct mem_gate *gate = env_gate(partition->host->env, MEM_LOG);
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
    if (count > 0 && log_reserve(partition->host->log, partition->group.group, count, runs) != 0) {
        take_drop(partition, count);
        return false;
    }
    return true;
}

/* The entries of the append that was just stepped, from append_skip on; take_entries has them. */
static void append_received(struct partition *partition)
{
    const struct raft_effects *out = &partition->raft.out;
    const struct partition_scratch *scratch = partition->host->scratch;
    uint64_t bytes = 0;
    partition_drop_replaced(partition, out->append_first);
    log_append(partition->host->log, partition->group.group, out->append_first,
               scratch->terms + out->append_skip, scratch->blobs + out->append_skip,
               out->append_count);
    for (uint32_t i = 0; i < out->append_count; i++) {
        bytes += scratch->blobs[out->append_skip + i]->size;
    }
    budget_took(partition->host->budget, bytes, out->append_count);
}

/* The core hears of the log's holes: those that it must count with, and what to ask for. */
static void tell_holes(struct partition *partition)
{
    struct raft *raft = &partition->raft;
    uint32_t group = partition->group.group;
    if (!partition->has_holes) {
        return;
    }
    partition_tell_time(partition);
    uint64_t needed = raft->flushed + 1;
    raft_holes(
        raft, log_first_hole(partition->host->log, group, needed),
        log_first_unfilled(partition->host->log, group, raft->role == RAFT_LEADER ? 0 : needed));
    partition->has_holes = log_first_hole(partition->host->log, group, 0) != 0;
}

/* Whether a turn would do anything but to say what the core has to say. */
static bool has_duties(const struct partition *partition)
{
    const struct raft *raft = &partition->raft;
    return partition->applied < raft->commit || !list_is_empty(&partition->queued) ||
           !list_is_empty(&partition->acking) || !list_is_empty(&partition->early) ||
           !list_is_empty(&partition->reads) || !list_is_empty(&partition->follows.granted) ||
           !list_is_empty(&partition->done_writes) || !list_is_empty(&partition->done_reads) ||
           raft_cut_at(raft, *partition->host->cut_level) >= raft->log_start;
}

/* Who waits for all replicas may outwait one that is out of reach, or for memory, or for what the
 * leader has and this replica hasn't: then every tick counts. */
static void note_quiet(struct partition *partition)
{
    bool waits = !list_is_empty(&partition->acking) || partition_is_following(partition) ||
                 partition->is_starved || partition->is_held;
    partition->host->quiet_until_ms[partition->group.group] =
        waits ? 0 : raft_quiet_until(&partition->raft);
}

/* I1: what else a turn does, there is no need for. */
static void speak(struct partition *partition)
{
    partition_tell_time(partition);
    raft_flush(&partition->raft);
    partition_send_messages(partition, NULL, 0, 0);
    partition->host->spoke(partition->host->ctx, partition);
}

void partition_settle_after(struct partition *partition, bool is_append)
{
    struct raft_effects *out = &partition->raft.out;
    if (out->persist_state) {
        log_append_state(partition->host->log, partition->group.group, partition->raft.term,
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
        log_set_start_term(partition->host->log, partition->group.group,
                           partition->raft.start_term);
    }
    if (out->heal) {
        out->heal = false;
        log_append_healed(partition->host->log, partition->group.group, partition->raft.term,
                          partition->raft.vote);
    }
    tell_holes(partition);
    bool has_work = has_duties(partition);
    bool may_speak = !has_work && !partition->is_awake && !partition->failed;
    bool has_spoken = may_speak && raft_only_speaks(&partition->raft);
    if (has_spoken) {
        speak(partition); /* all that there was */
    }
    /* Of a write's events only some need a turn: not the second answer, say, nor what makes entries
     * durable that wait for others'. */
    if (has_work || (!has_spoken && raft_has_news(&partition->raft))) {
        partition->host->quiet_until_ms[partition->group.group] = 0;
        partition_wake(partition);
    } else {
        raft_applied(&partition->raft, partition->applied); /* what it learned of time */
        note_quiet(partition);
    }
}

static void send_beats(struct partition *partition)
{
    struct raft_beat beat;
    uint64_t to;
    while (raft_beat_next(&partition->raft, &to, &beat)) {
        partition->host->beat(partition->host->ctx, partition_node_of(partition, to),
                              partition->group.group, &beat);
    }
}

void partition_tick(struct partition *partition, uint64_t now_ms)
{
    if (partition->is_starved) {
        partition->is_starved = false;
        partition_wake(partition);
    }
    raft_tick(&partition->raft, now_ms);
    send_beats(partition);
    partition_tick_follows(partition);
    if (raft_has_news(&partition->raft) || !list_is_empty(&partition->acking) ||
        partition->is_held) {
        partition_settle(partition);
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
        filled += log_fill(partition->host->log, partition->group.group, message->index + 1 + i,
                           entries[i].term, payloads[i]);
    }
    if (filled > 0) {
        LOG_INFO(partition->host->logger, "part=%u index=%lu damaged entries were given back: %u",
                 partition->group.group, message->index + 1, filled);
        partition_settle(partition);
    }
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
    raft_clock(&partition->raft, *partition->host->now_ms);
    raft_take(&partition->raft, budget_room(partition->host->budget, partition->is_damaged));
    raft_step(&partition->raft, message, entries);
    if ((message->type == RAFT_READ || message->type == RAFT_READ_REPLY) &&
        partition_settle_round(partition)) {
        return;
    }
    partition_settle_after(partition, is_append);
    if (is_append) {
        take_drop(partition, message->count);
    }
    if (partition->has_holes && message->count > 0) {
        fill_holes(partition, message, entries, payloads);
    }
}

bool partition_beat(struct partition *partition, uint64_t node_id, const struct raft_beat *beat)
{
    struct raft *raft = &partition->raft;
    const struct topology_replica *leader = partition_replica_on(partition, node_id);
    raft_clock(raft, *partition->host->now_ms);
    raft_take(raft, budget_room(partition->host->budget, partition->is_damaged));
    bool is_followed = leader && raft_beat_hear(raft, leader->id, beat);
    if (is_followed) {
        raft_applied(raft, partition->applied); /* what it learned of time */
    }
    return is_followed;
}

void partition_beat_answered(struct partition *partition, uint64_t node_id,
                             const struct raft_beat *answer, bool is_followed)
{
    const struct topology_replica *replica = partition_replica_on(partition, node_id);
    if (!replica) {
        return;
    }
    raft_clock(&partition->raft, *partition->host->now_ms);
    raft_beat_answered(&partition->raft, replica->id, answer, is_followed);
    if (is_followed) {
        raft_applied(&partition->raft, partition->applied);
    } else {
        partition_settle(partition); /* a heartbeat is due */
    }
}

void partition_durable(struct partition *partition, uint64_t index, uint64_t term)
{
    raft_entries_durable(&partition->raft, index, term);
    partition_settle(partition);
}

void partition_state_durable(struct partition *partition, uint64_t term, uint64_t vote)
{
    raft_state_durable(&partition->raft, term, vote);
    partition_settle(partition);
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
    partition_settle(partition);
}

void partition_healed(struct partition *partition)
{
    LOG_WARN(partition->host->logger, "part=%u holds again what it may have lost; it counts again",
             partition->group.group);
    raft_healed(&partition->raft);
    partition_settle(partition);
}

void partition_flushed(struct partition *partition)
{
    struct raft *raft = &partition->raft;
    uint64_t digest, flushed = store_replica_flushed(partition->store);
    uint64_t mark = store_replica_mark(partition->store, &digest);
    if (flushed > raft->flushed && !partition->is_installing) {
        raft_flushed(raft, flushed);
        if (mark > raft->marks[0].index) {
            raft_mark(raft, mark, partition_told(digest));
        }
        raft_digest(raft, partition_told(store_replica_digest(partition->store)));
        partition_settle(partition);
    }
}

void partition_prefetch(const struct partition *partition)
{
    const struct raft *raft = &partition->raft;
    mem_prefetch(partition, offsetof(struct partition, raft.lease.peers[3]));
    mem_prefetch(&raft->out, offsetof(struct raft_effects, messages));
    raft_prefetch(raft);
    for (int i = 0; raft->role == RAFT_LEADER && i < raft->config.replica_count; i++) {
        mem_prefetch(&raft->progress[i], offsetof(struct raft_progress, flights));
    }
}

void partition_prefetch_beat(const struct partition *partition)
{
    const struct raft *raft = &partition->raft;
    __builtin_prefetch(partition);
    __builtin_prefetch(partition->group.replicas);
    raft_prefetch_beat(raft);
}

void partition_peer_reset(struct partition *partition, uint64_t node_id)
{
    const struct topology_replica *replica = partition_replica_on(partition, node_id);
    if (replica) {
        raft_peer_reset(&partition->raft, replica->id);
        partition_settle(partition);
    }
}

void partition_peer_restarted(struct partition *partition, uint64_t node_id)
{
    const struct topology_replica *replica = partition_replica_on(partition, node_id);
    if (replica) {
        raft_peer_restarted(&partition->raft, replica->id);
    }
}

bool partition_remind(struct partition *partition, uint64_t replica, const struct raft_memory *told)
{
    partition_tell_time(partition);
    bool has_lost = raft_remind(&partition->raft, replica, told);
    partition_settle(partition);
    return has_lost;
}

void partition_suspect(struct partition *partition)
{
    partition_tell_time(partition);
    log_append_suspect(partition->host->log, partition->group.group);
    raft_suspect(&partition->raft);
    partition_settle(partition);
}

/* Cuts the log behind an index that the own store covers. */
static void cut_to(struct partition *partition, uint64_t cut)
{
    struct raft *raft = &partition->raft;
    if (cut >= raft->log_start && cut <= partition->applied && cut <= raft->flushed &&
        !partition->is_installing) {
        log_cut(partition->host->log, partition->group.group, cut + 1, raft_term_at(raft, cut));
        raft_log_cut(raft, cut + 1);
        partition_settle(partition);
    }
}

void partition_cut_log(struct partition *partition)
{
    cut_to(partition, raft_cut_at(&partition->raft, *partition->host->cut_level));
}

/* What is applied lives on in the overlay, and what all hold is sent to nobody again. */
static void drop_payloads(struct partition *partition)
{
    if (partition->dropped >= partition->applied) {
        partition->dropped = partition->applied; /* an image may have put it back */
        return;
    }
    uint64_t held = raft_held_index(&partition->raft);
    uint64_t last = held < partition->applied ? held : partition->applied;
    if (last > partition->dropped) {
        log_drop_payloads(partition->host->log, partition->group.group, partition->dropped + 1,
                          last);
        partition->dropped = last;
    }
}

static void note_role(struct partition *partition)
{
    struct raft *raft = &partition->raft;
    partition_count_unapplied(partition, 0, partition->unapplied);
    if (raft->role == RAFT_LEADER) {
        partition->stats.elections++;
    }
    LOG_DEBUG(partition->host->logger, "part=%u term=%lu role=%s leader=%lu",
              partition->group.group, raft->term, raft_role_name(raft->role), raft->leader);
    partition->host->role_changed(partition->host->ctx, partition);
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
        LOG_ERROR(partition->host->logger,
                  "part=%u replicas differ at the same index, and no majority says which is right",
                  partition->group.group);
        partition->host->undecided(partition->host->ctx, partition);
    }
}

static void tell_images(struct partition *partition)
{
    const struct raft_effects *out = &partition->raft.out;
    for (int i = 0; i < out->image_count; i++) {
        partition->host->image_wanted(partition->host->ctx, partition, &out->images[i]);
    }
    if (out->image_offered && !partition->is_installing) {
        partition->host->image_offered(partition->host->ctx, partition, &out->image);
    }
}

void partition_turn(struct partition *partition)
{
    struct raft *raft = &partition->raft;
    partition->is_awake = false;
    if (partition->failed) {
        return;
    }
    raft_clock(raft, *partition->host->now_ms);
    partition_propose_queued(partition);
    raft_flush(raft);
    partition_send_messages(partition, NULL, 0, 0);
    partition_start_fetches(partition);
    partition_start_fills(partition);
    if (raft->out.role_changed) {
        raft->out.role_changed = false;
        note_role(partition);
    }
    if (raft->out.diverged) {
        LOG_ERROR(
            partition->host->logger,
            "part=%u term=%lu a leader contradicts what is committed here; its message was dropped",
            partition->group.group, raft->term);
    }
    tell_images(partition);
    tell_digests(partition);
    uint64_t cut_wanted = raft->out.cut_wanted;
    raft_effects_clear(raft);
    partition_apply_committed(partition);
    raft_applied(raft, partition->applied);
    drop_payloads(partition);
    partition_settle_acks(partition);
    partition_settle_reads(partition);
    partition_tell_done(partition);
    partition_want_round(partition);
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

/* It is heard, takes what it is sent, and its disk is as quick as others'. */
static bool is_well(const struct partition *partition, const struct topology_replica *replica,
                    uint64_t now_ms)
{
    const struct raft_progress *progress = partition_find_progress(&partition->raft, replica->id);
    CHECK(progress);
    return progress->heard_ms + partition->host->election_timeout_ms >= now_ms &&
           progress->state != RAFT_IMAGING && !progress->is_full &&
           !partition->host->is_slow(partition->host->ctx, replica->node_id);
}

/* Its store is whole, besides, and it has all that there is to have, nearly. */
static bool may_succeed(const struct partition *partition, const struct topology_replica *replica,
                        uint64_t now_ms)
{
    const struct raft_progress *progress = partition_find_progress(&partition->raft, replica->id);
    return replica->id != partition->self && is_well(partition, replica, now_ms) &&
           !progress->is_damaged &&
           progress->match + PREFER_CAUGHT_UP >= partition->raft.last_index;
}

/* Whether the others can do without this replica: where a majority needs its log all the same, handing over helps nobody. */
static bool is_dispensable(const struct partition *partition, uint64_t now_ms)
{
    int count = partition->group.replica_count, well = 0;
    for (int i = 0; i < count; i++) {
        const struct topology_replica *replica = &partition->group.replicas[i];
        well += replica->id != partition->self && is_well(partition, replica, now_ms);
    }
    return well > count / 2;
}

/* The first of the group's list, among its first `count`, that may; 0: none. */
static uint64_t first_successor(const struct partition *partition, int count, uint64_t now_ms)
{
    for (int i = 0; i < count; i++) {
        if (may_succeed(partition, &partition->group.replicas[i], now_ms)) {
            return partition->group.replicas[i].id;
        }
    }
    return 0;
}

/* Who should lead instead; 0: nobody. A node whose disk is well gives way to the preferred one only. */
static uint64_t find_successor(const struct partition *partition, bool is_slow, uint64_t now_ms)
{
    if (is_slow && !is_dispensable(partition, now_ms)) {
        return 0;
    }
    return first_successor(partition, is_slow ? partition->group.replica_count : 1, now_ms);
}

bool partition_prefer(struct partition *partition, uint64_t now_ms)
{
    struct raft *raft = &partition->raft;
    if (raft->role != RAFT_LEADER || raft->transfer_to != 0 ||
        partition->applied < raft->noop_index) {
        return false;
    }
    bool is_slow = partition->host->is_slow(partition->host->ctx, partition->self_node_id);
    uint64_t pause = is_slow ? SLOW_PAUSE_TIMEOUTS : PREFER_PAUSE_TIMEOUTS;
    if (partition->prefer_tried_ms != 0 &&
        now_ms < partition->prefer_tried_ms + pause * partition->host->election_timeout_ms) {
        return false;
    }
    uint64_t successor = find_successor(partition, is_slow, now_ms);
    if (successor == 0) {
        return false;
    }
    partition_tell_time(partition);
    bool began = raft_transfer(raft, successor) == 0;
    partition->prefer_tried_ms = now_ms;
    partition_settle(partition);
    return began;
}

int partition_begin_resigning(struct partition *partition)
{
    partition_tell_time(partition);
    uint64_t successor =
        partition->raft.role == RAFT_LEADER
            ? first_successor(partition, partition->group.replica_count, *partition->host->now_ms)
            : 0;
    return raft_transfer(&partition->raft, successor);
}

int partition_resign(struct partition *partition)
{
    int status = partition_begin_resigning(partition);
    partition_settle(partition);
    return status;
}

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

uint64_t partition_applied(const struct partition *partition)
{
    return partition->applied;
}

const struct partition_stats *partition_stats(const struct partition *partition)
{
    return &partition->stats;
}
