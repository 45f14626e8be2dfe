/* What disks do to replicas, and how the others help.
 *   Digests   replicas of a group that hold the same tell the same; a majority says whose store is damaged.
 *   Memory    what the others remember of this replica's promises binds it when its disk has been put back; one that may have lost
 *             anything is suspect (I14, I17 of raft.c).
 *   Holes     entries whose payload is lost, though their header stands (I16 of raft.c). */
#include "raft/raft_private.h"

#include <stddef.h>
#include <string.h>

#include "base/check.h"

/* A leader with a hole steps down after that many. */
enum { HOLE_TIMEOUTS = 2 };

/* Digest of the own store at that index, 0 = not known (any more). */
static uint64_t own_digest(const struct raft *raft, uint64_t index)
{
    for (int i = 0; i < RAFT_DIGESTS; i++) {
        if (raft->digests[i].index == index && raft->digests[i].digest != 0) {
            return raft->digests[i].digest;
        }
    }
    for (int i = 0; i < RAFT_MARKS; i++) {
        if (raft->marks[i].index == index) {
            return raft->marks[i].digest;
        }
    }
    return 0;
}

static bool is_mark(const struct raft *raft, uint64_t index)
{
    bool is = false;
    for (int i = 0; i < RAFT_MARKS; i++) {
        is = is || raft->marks[i].index == index;
    }
    return is;
}

void raft_tell_flushed(struct raft *raft, struct raft_message *reply)
{
    struct raft_private *p = raft->private;
    p->tells_mark = !p->tells_mark && raft->marks[0].digest != 0;
    reply->flushed = raft->flushed;
    reply->commit = p->tells_mark ? raft->marks[0].index : raft->flushed;
    reply->digest = own_digest(raft, reply->commit);
    p->told_mark = p->tells_mark ? raft->marks[0].index : p->told_mark;
    p->told_flushed = p->tells_mark ? p->told_flushed : raft->flushed;
}

void raft_remember_ack(struct raft *raft, uint64_t member, uint64_t index, uint64_t log_term,
                       bool has_led)
{
    struct raft_progress *peer = raft_find_peer(raft, member);
    struct raft_memory *of = peer ? &raft->private->memory[peer - raft->progress] : NULL;
    if (of && index > 0 && index <= raft->last_index &&
        (raft->term > of->ack_term || (raft->term == of->ack_term && index > of->index))) {
        of->ack_term = raft->term;
        of->index = index;
        of->log_term = log_term;
        of->has_led = has_led;
    }
}

void raft_remember(struct raft *raft, const struct raft_message *m)
{
    if (m->type == RAFT_PRE_VOTE || m->type == RAFT_PRE_VOTE_REPLY) {
        return;
    }
    struct raft_memory *of = &raft->private->memory[raft_find_peer(raft, m->from) - raft->progress];
    of->term = max_u64(of->term, m->term);
    if (m->type == RAFT_VOTE_REPLY && m->granted) {
        of->vote_term = max_u64(of->vote_term, m->term);
    } else if (m->type == RAFT_APPEND_REPLY && m->granted && m->episode == 0 &&
               m->term == raft->term && raft->role == RAFT_LEADER) {
        raft_remember_ack(raft, m->from, m->index, m->log_term, false);
    }
}

bool raft_has_heard_all(const struct raft *raft)
{
    uint32_t all = (1u << raft->config.replica_count) - 1;
    return !raft->private->is_to_hear || (raft->private->heard | 1u << raft->private->self) == all;
}

/* What the replica told of its content at the index, 0: nothing. */
static uint64_t told_digest(const struct raft_progress *peer, uint64_t index)
{
    return peer->digest.index == index ? peer->digest.digest
           : peer->mark.index == index ? peer->mark.digest
                                       : 0;
}

/* How many replicas, the own included, told this digest at the index; how many told none yet but
 * may. */
static int count_digest(const struct raft *raft, uint64_t index, uint64_t digest, int *unknown)
{
    int count = own_digest(raft, index) == digest;
    bool at_mark = is_mark(raft, index);
    *unknown = 0;
    for (int i = 0; i < raft->config.replica_count; i++) {
        const struct raft_progress *peer = &raft->progress[i];
        if (i == raft->private->self || peer->is_damaged) {
            continue;
        }
        uint64_t told = told_digest(peer, index);
        uint64_t newest = at_mark ? peer->mark.index : peer->digest.index;
        count += told == digest;
        *unknown += told == 0 && newest < index && raft_is_heard_lately(raft, peer->heard_ms);
    }
    return count;
}

/* A majority that agrees is right: damage hits one, and applying is deterministic. */
static void judge_digest(struct raft *raft, struct raft_progress *peer, uint64_t index)
{
    uint64_t own = own_digest(raft, index), told = told_digest(peer, index);
    int unknown;
    raft->digests_differed++;
    if (count_digest(raft, index, own, &unknown) >= raft_majority(raft)) {
        peer->is_refuted = true;
    } else if (count_digest(raft, index, told, &unknown) >= raft_majority(raft)) {
        raft->out.digest_refuted = true;
    } else if (unknown == 0) {
        raft->out.digest_undecided = true;
    }
}

/* What is known of all replicas at the index; judged again with each one's word. */
static void compare_at(struct raft *raft, uint64_t index)
{
    uint64_t own = own_digest(raft, index);
    if (own == 0 || raft->needs_image || raft->role != RAFT_LEADER) {
        return;
    }
    for (int i = 0; i < raft->config.replica_count; i++) {
        struct raft_progress *peer = &raft->progress[i];
        uint64_t told = i == raft->private->self ? 0 : told_digest(peer, index);
        if (told == 0) {
            continue;
        }
        raft->digests_compared++;
        peer->compared = max_u64(peer->compared, index);
        if (told != own && !peer->is_refuted) {
            judge_digest(raft, peer, index);
        }
    }
}

void raft_note_digest(struct raft *raft, struct raft_progress *peer, const struct raft_message *m)
{
    struct raft_digest *of = m->commit == m->flushed ? &peer->digest : &peer->mark;
    if (m->digest != 0 && !m->needs_image && m->commit != of->index) {
        *of = (struct raft_digest){ m->commit, m->digest };
        compare_at(raft, m->commit);
    }
}

void raft_mark(struct raft *raft, uint64_t index, uint64_t digest)
{
    CHECK(index <= raft->flushed && index > raft->marks[0].index);
    memmove(raft->marks + 1, raft->marks, (RAFT_MARKS - 1) * sizeof *raft->marks);
    raft->marks[0] = (struct raft_digest){ index, digest };
    compare_at(raft, index);
}

bool raft_wants_mark(const struct raft *raft, uint64_t since)
{
    bool wants = false;
    for (int i = 0; i < raft->config.replica_count; i++) {
        const struct raft_progress *peer = &raft->progress[i];
        wants |= i != raft->private->self && raft_is_heard_lately(raft, peer->heard_ms) &&
                 !peer->is_damaged && peer->state != RAFT_IMAGING && peer->compared < since;
    }
    return wants && raft->role == RAFT_LEADER && !raft->needs_image;
}

void raft_digest(struct raft *raft, uint64_t digest)
{
    memmove(raft->digests + 1, raft->digests, (RAFT_DIGESTS - 1) * sizeof *raft->digests);
    raft->digests[0] = (struct raft_digest){ raft->flushed, digest };
    compare_at(raft, raft->flushed);
}

void raft_step_fill(struct raft *raft, const struct raft_message *m)
{
    struct raft_effects *out = &raft->out;
    if (m->index < raft->log_start || m->index > raft->last_index || m->index == raft->unfilled ||
        raft_term_at(raft, m->index) != m->log_term) {
        return;
    }
    int at = 0;
    while (at < out->fill_count && out->fills[at].to != m->from) {
        at++;
    }
    CHECK(at < LIMIT_REPLICAS);
    out->fills[at] = (struct raft_fill){ m->from, m->index };
    out->fill_count += at == out->fill_count;
}

/* A leader asks everybody for the payload that it lacks. */
static void ask_for_payload(struct raft *raft)
{
    struct raft_private *p = raft->private;
    p->fill_asked_ms = p->now_ms;
    for (int i = 0; i < raft->config.replica_count; i++) {
        if (i != p->self) {
            struct raft_message *ask = raft_emit(raft, RAFT_FILL, raft->config.replicas[i]);
            ask->index = raft->unfilled;
            ask->log_term = raft_term_at(raft, raft->unfilled);
        }
    }
}

void raft_tick_holes(struct raft *raft)
{
    struct raft_private *p = raft->private;
    uint64_t patience = (uint64_t)HOLE_TIMEOUTS * raft->config.election_timeout_ms;
    if (raft->unfilled && p->now_ms - p->fill_asked_ms >= raft->config.heartbeat_ms) {
        ask_for_payload(raft);
    }
    bool is_over = p->now_ms - p->hole_since_ms >= patience;
    if (raft->hole && is_over) {
        raft_step_down(raft);
    } else if (raft->unfilled && is_over && raft->unfilled <= raft->flushed) {
        raft->out.cut_wanted = raft->unfilled;
    }
}

static int member_of(const struct raft *raft, uint64_t id)
{
    int at = 0;
    while (at < raft->config.replica_count && raft->config.replicas[at] != id) {
        at++;
    }
    return at < raft->config.replica_count && at != raft->private->self ? at : -1;
}

void raft_recall(const struct raft *raft, uint64_t member, struct raft_memory *out)
{
    int at = member_of(raft, member);
    *out = at >= 0 ? raft->private->memory[at] : (struct raft_memory){ 0 };
    out->now = raft->term;
    out->voted_term = at >= 0 && raft->vote == member ? raft->term : 0;
}

/* What it did in that term is forgotten: it does nothing more in it that takes a vote. */
static void spend_vote(struct raft *raft, uint64_t term)
{
    if (term > raft->term) {
        raft_become_follower(raft, term, 0);
    }
    if (term == raft->term && raft->vote == 0) {
        raft->vote = raft->config.self;
        raft->private->state_durable = false;
        raft->out.persist_state = true;
    }
}

static bool remind_state(struct raft *raft, const struct raft_memory *told)
{
    const struct raft_private *p = raft->private;
    bool is_vote_lost = p->began_term > 0 && p->began_vote == 0 && /* a spent one is fine, too */
                        (told->vote_term == p->began_term || told->voted_term == p->began_term);
    bool has_lost = told->term > p->began_term || is_vote_lost;
    if (has_lost) {
        spend_vote(raft, max_u64(p->began_term, told->term));
    }
    return has_lost;
}

/* Whether the entry was acknowledged after the disk was as it is (I17), and the log doesn't reach to
 * it. Where a later term's entries stand, its leader has overruled it, perhaps since this process
 * began: that is no loss. */
static bool lacks_promised(const struct raft *raft, const struct raft_memory *told)
{
    return told->index != 0 && told->ack_term >= raft->private->began_term &&
           raft_is_before(raft_last_term(raft), raft->last_index, told->log_term, told->index);
}

static bool remind_log(struct raft *raft, const struct raft_memory *told)
{
    if (!lacks_promised(raft, told)) {
        return false;
    }
    if (raft_is_before(raft->owed_term, raft->owed_index, told->log_term, told->index)) {
        raft->owed_term = told->log_term;
        raft->owed_index = told->index;
    }
    return !told->has_led; /* else it is as likely that its disk was not done when it died */
}

/* It campaigns or leads, and must not. */
static void give_way(struct raft *raft)
{
    if (raft->role != RAFT_FOLLOWER) {
        raft_become_follower(raft, raft->term, 0);
    }
}

bool raft_remind(struct raft *raft, uint64_t member, const struct raft_memory *told)
{
    struct raft_private *p = raft->private;
    int at = member_of(raft, member);
    if (at < 0) {
        return false;
    }
    p->heard |= 1u << at;
    p->told_term[at] = max_u64(p->told_term[at], told->now);
    bool has_lost = remind_state(raft, told);
    has_lost |= remind_log(raft, told);
    if (raft->is_suspect) {
        spend_vote(raft, told->now);
    }
    if (has_lost || raft_is_short(raft)) {
        give_way(raft);
    }
    return has_lost;
}

void raft_suspect(struct raft *raft)
{
    struct raft_private *p = raft->private;
    CHECK(raft->config.replica_count > 1);
    give_way(raft);
    raft->is_suspect = true;
    raft_note_change(raft);
    raft->episode = raft_random(raft) | 1;
    p->heal_asked = false;
    for (int i = 0; i < raft->config.replica_count; i++) {
        spend_vote(raft, p->told_term[i]);
    }
}

void raft_holes(struct raft *raft, uint64_t hole, uint64_t unfilled)
{
    struct raft_private *p = raft->private;
    if (hole == raft->hole && unfilled == raft->unfilled) {
        return;
    }
    bool is_next = unfilled && unfilled != raft->unfilled;
    p->hole_since_ms = p->now_ms;
    raft->hole = hole;
    raft->unfilled = unfilled;
    if (raft->role == RAFT_LEADER) {
        if (is_next) { /* at once: a damaged log may have many, and until the last the group waits */
            ask_for_payload(raft);
        }
        raft_leader_advance_commit(raft);
    } else {
        p->ack_due = raft->role == RAFT_FOLLOWER; /* the leader sends again, or counts on */
    }
}

bool raft_fill_send(struct raft *raft, uint64_t to, uint64_t index)
{
    if (!raft_find_peer(raft, to) || index < raft->log_start || index > raft->last_index) {
        return false;
    }
    struct raft_message *reply = raft_emit(raft, RAFT_FILL_REPLY, to);
    reply->index = index - 1;
    reply->log_term = raft_term_at(raft, index - 1);
    reply->count = 1;
    return raft->private->state_durable; /* else it was put aside, and the other will ask again */
}

void raft_healed(struct raft *raft)
{
    if (!raft->private->heal_asked) {
        return; /* another suspicion began meanwhile */
    }
    raft->private->heal_asked = false;
    raft->is_suspect = false;
    raft->episode = 0;
    raft->private->ack_due = raft->role == RAFT_FOLLOWER;
}
