/* Reads that need no entry in the log: rounds that confirm that the leader still leads (I8, I18 of raft.c), reads at followers (I22),
 * leases and the age of what a replica holds (raft/lease.h). */
#include "raft/raft_private.h"

#include "base/check.h"
#include "base/err.h"

void raft_step_read(struct raft *raft, const struct raft_message *m)
{
    if (!raft_follow(raft, m->from) || raft->is_suspect) {
        return;
    }
    struct raft_message *reply = raft_emit(raft, RAFT_READ_REPLY, m->from);
    reply->granted = true;
    reply->sequence = m->sequence;
    reply->index = raft->config.changes ? *raft->config.changes : 0; /* now, also if it is held */
}

/* The newest own time at which this leader is known to have led, by the appends that were followed.
 */
static uint64_t leader_confirmed(const struct raft *raft)
{
    return lease_confirmed(&raft->lease, raft->config.replica_count, raft->private->self,
                           raft->private->now_ms);
}

/* What earlier leaders acknowledged is known to lie below the commit index only once the no-op is
 * committed. */
void raft_leader_vouch(struct raft *raft)
{
    if (raft->commit >= raft->noop_index) {
        lease_vouch(&raft->lease, raft->config.replica_count, leader_confirmed(raft));
    }
}

/* The replica still followed after read round `sequence` was asked. */
static void take_confirmation(struct raft *raft, struct raft_progress *peer, uint64_t sequence)
{
    peer->heard_ms = raft->private->now_ms;
    peer->read_acked = max_u64(peer->read_acked, sequence);
    uint64_t acked[LIMIT_REPLICAS];
    for (int i = 0; i < raft->config.replica_count; i++) {
        acked[i] = i == raft->private->self ? raft->read_sequence : raft->progress[i].read_acked;
    }
    uint64_t confirmed = raft_majority_value(raft, acked);
    if (confirmed > raft->read_confirmed) {
        raft->read_confirmed = confirmed;
        raft->out.reads_confirmed = true;
    }
    if (raft->read_confirmed < raft->read_sequence && peer->read_sent < raft->read_sequence) {
        raft->out.read_round_wanted = true;
    }
}

void raft_step_read_reply(struct raft *raft, const struct raft_message *m)
{
    if (raft->role == RAFT_LEADER && m->granted && m->sequence <= raft->read_sequence) {
        struct raft_progress *peer = raft_find_peer(raft, m->from);
        peer->allegiance = m->index;
        take_confirmation(raft, peer, m->sequence);
    }
}

void raft_read_unsend(struct raft *raft, struct raft_progress *peer)
{
    if (peer->read_sent > peer->read_acked) {
        peer->read_sent = peer->read_acked;
        raft->out.read_round_wanted |= raft->read_confirmed < raft->read_sequence;
    }
}

int raft_read(struct raft *raft, uint64_t *sequence, uint64_t *index)
{
    struct raft_private *p = raft->private;
    if (raft->role != RAFT_LEADER) {
        return ERR_NOT_PRIMARY;
    }
    if (raft->commit < raft->noop_index) {
        return ERR_UNAVAILABLE; /* the commit index may lie below what earlier leaders answered
                                   (§6.4) */
    }
    if (raft_majority(raft) == 1) {
        raft->read_confirmed = ++raft->read_sequence;
        raft->out.reads_confirmed = true;
    } else {
        raft->read_sequence += p->read_round_closed; /* I8 */
        p->read_round_closed = false;
        raft->out.read_round_wanted = true;
    }
    *sequence = raft->read_sequence;
    *index = raft->commit;
    return 0;
}

/* What waits is asked of the peer now; false: nothing is to be asked of it. */
static bool read_mark(struct raft *raft, struct raft_progress *peer)
{
    if (!peer || peer->episode || raft->role != RAFT_LEADER ||
        raft->read_confirmed >= raft->read_sequence || peer->read_sent >= raft->read_sequence) {
        return false;
    }
    peer->read_sent = raft->read_sequence;
    peer->read_sent_ms = raft->private->now_ms;
    raft->private->read_round_closed = true;
    return true;
}

bool raft_read_send(struct raft *raft, uint64_t replica)
{
    if (!read_mark(raft, raft_find_peer(raft, replica))) {
        return false;
    }
    raft_emit(raft, RAFT_READ, replica)->sequence = raft->read_sequence;
    return true;
}

bool raft_read_ride(struct raft *raft, uint64_t replica, uint64_t changes)
{
    struct raft_progress *peer = raft_find_peer(raft, replica);
    return peer && changes != 0 && peer->allegiance == changes && read_mark(raft, peer);
}

void raft_read_ridden(struct raft *raft, uint64_t replica, uint64_t term, uint64_t sequence,
                      bool is_confirmed)
{
    struct raft_progress *peer = raft_find_peer(raft, replica);
    if (!peer || raft->role != RAFT_LEADER || raft->term != term) {
        return;
    }
    CHECK(sequence <= raft->read_sequence);
    if (is_confirmed) {
        take_confirmation(raft, peer, sequence);
    } else {
        raft_read_unsend(raft, peer);
    }
}

bool raft_read_may_follow(const struct raft *raft)
{
    return raft->role == RAFT_FOLLOWER && raft->leader != 0 && raft_majority(raft) == 2 &&
           raft->private->state_durable && !raft->is_suspect && !raft->needs_image;
}

uint64_t raft_read_grant(struct raft *raft, uint64_t member, uint64_t term)
{
    const struct raft_progress *peer = raft_find_peer(raft, member);
    bool may_grant = raft->role == RAFT_LEADER && raft->term == term && raft_majority(raft) == 2 &&
                     raft->commit >= raft->noop_index && peer && !peer->episode;
    return may_grant ? raft->commit : 0;
}

void raft_read_granted(struct raft *raft, uint64_t term, uint64_t commit)
{
    if (raft->role != RAFT_FOLLOWER || raft->term != term) {
        return;
    }
    commit = min_u64(commit, raft->private->verified); /* I2 */
    if (commit > raft->commit) {
        raft->commit = commit;
        raft->out.commit_advanced = true;
    }
}

int raft_lease(const struct raft *raft, uint64_t now_ms)
{
    if (raft->role != RAFT_LEADER) {
        return ERR_NOT_PRIMARY;
    }
    uint64_t since = lease_confirmed(&raft->lease, raft->config.replica_count, raft->private->self,
                                     max_u64(now_ms, raft->private->now_ms));
    uint64_t length = (uint64_t)raft->config.election_timeout_ms * LEASE_PERCENT / 100;
    bool holds = raft->commit >= raft->noop_index && since != 0 && now_ms < since + length &&
                 !raft->transfer_to && !raft->lease.was_ordered;
    return holds ? 0 : ERR_UNAVAILABLE;
}

void raft_applied(struct raft *raft, uint64_t applied)
{
    lease_applied(&raft->lease, applied);
    if (raft->role == RAFT_LEADER && raft->commit >= raft->noop_index && applied >= raft->commit) {
        raft->lease.fresh_ms = max_u64(raft->lease.fresh_ms, leader_confirmed(raft));
    }
}
