/* Beats: the heartbeats of groups at rest (I20 of raft.c).
 *
 * Most groups have nothing to say most of the time, and what a heartbeat says of them is what the last one said. So where a follower
 * has acknowledged an append that told it everything, the next heartbeats shrink to a beat: "as I said last, and I still lead", and the
 * answer to "as I said last, and I still follow". The driver puts all groups' beats between two nodes side by side into a frame
 * (raft/peers.h); they make no message, no effect and no turn.
 *
 * A beat is judged where it arrives, by what stands there: a follower that is not exactly where it said last refuses it, which makes the
 * leader send a whole append at once. A beat, or its answer, that is lost, doubled or late does what a heartbeat does then.
 *
 * Now and then a whole heartbeat is sent all the same: of digests an answer tells only one of two, and any frame may be lost. */
#include "raft/raft_private.h"

#include <stddef.h>

#include "base/check.h"

/* Between two whole heartbeats: that many beats, and up to twice as many, so that groups take turns. */
enum { BEATS_MIN = 12 };

/* I20: the newest append told all that there is, and was acknowledged as a whole. */
static bool is_told_all(const struct raft *raft, const struct raft_progress *peer)
{
    uint64_t last = raft->last_index;
    bool is_level = peer->match == last && peer->next == last + 1 && peer->flight_count == 0;
    return peer->is_settled && peer->state == RAFT_STREAM && is_level && peer->resume == 0 &&
           peer->told_commit == last && peer->told_cut == raft->cut && !peer->is_full &&
           !peer->is_refuted && peer->episode == 0 && !raft_wants_image(peer);
}

bool raft_beat_suffices(const struct raft *raft, const struct raft_progress *peer)
{
    return raft->config.beats && raft->transfer_to == 0 && !raft->needs_image && raft->hole == 0 &&
           raft->unfilled == 0 && !peer->heartbeat_due && is_told_all(raft, peer) &&
           raft->lease.peers[peer - raft->progress].vouched_ms != 0;
}

void raft_beat_due(struct raft *raft, struct raft_progress *peer)
{
    if (peer->beats_left == 0) {
        peer->beats_left = BEATS_MIN + (uint32_t)(raft_random(raft) % BEATS_MIN);
        peer->heartbeat_due = true;
        return;
    }
    peer->beats_left--;
    raft->out.beats |= 1u << (peer - raft->progress);
    raft_note_sent(raft, peer);
}

void raft_prefetch_beat(const struct raft *raft)
{
    enum { LINE = 64 };
    const uint8_t *timers = (const uint8_t *)raft->private;
    const uint8_t *head = (const uint8_t *)raft, *lease = (const uint8_t *)&raft->lease;
    for (size_t i = 0; i <= offsetof(struct raft, needs_image); i += LINE) {
        __builtin_prefetch(head + i);
    }
    for (size_t i = 0; i < offsetof(struct lease, peers[3]); i += LINE) {
        __builtin_prefetch(lease + i);
    }
    __builtin_prefetch(timers);
    __builtin_prefetch(timers + LINE);
    if (raft->role != RAFT_LEADER) {
        __builtin_prefetch(raft->marks);
        return;
    }
    for (int i = 0; i < raft->config.replica_count; i++) {
        const uint8_t *peer = (const uint8_t *)&raft->progress[i];
        __builtin_prefetch(peer);
        __builtin_prefetch(peer + LINE);
    }
}

bool raft_beat_next(struct raft *raft, uint64_t *to, struct raft_beat *beat)
{
    struct raft_effects *out = &raft->out;
    if (out->beats == 0) {
        return false;
    }
    CHECK(raft->role == RAFT_LEADER);
    int at = __builtin_ctz(out->beats);
    out->beats &= out->beats - 1;
    *to = raft->config.replicas[at];
    *beat = (struct raft_beat){ .term = raft->term,
                                .stamp = raft->private->now_ms,
                                .echo = raft->lease.peers[at].vouched_ms };
    return true;
}

/* The last answer said all that this replica has to say. (An image may have taken the marks away.) */
static bool has_told_all(const struct raft *raft)
{
    const struct raft_private *p = raft->private;
    uint64_t last = raft->last_index;
    bool is_level = p->acked == last && p->verified == last && raft->commit == last &&
                    raft->durable_index == last;
    bool has_told_mark = p->told_mark == raft->marks[0].index || raft->marks[0].digest == 0;
    return is_level && raft->hole == 0 && raft->unfilled == 0 && !p->ack_due && p->state_durable &&
           p->told_flushed == raft->flushed && has_told_mark && !raft->needs_image &&
           !raft->is_suspect && raft->room == RAFT_ROOM_ANY;
}

bool raft_beat_hear(struct raft *raft, uint64_t leader, const struct raft_beat *beat)
{
    if (raft->role != RAFT_FOLLOWER || raft->term != beat->term || raft->leader == 0 ||
        raft->leader != leader || !has_told_all(raft)) {
        return false;
    }
    struct raft_private *p = raft->private;
    lease_promise(&raft->lease, p->now_ms, raft->config.election_timeout_ms);
    p->election_deadline_ms = p->now_ms + p->election_wait_ms; /* as the last append drew it */
    lease_heard_append(&raft->lease, beat->stamp, beat->echo, raft->commit, p->now_ms);
    return true;
}

void raft_beat_answered(struct raft *raft, uint64_t replica, const struct raft_beat *answer,
                        bool is_followed)
{
    struct raft_progress *peer = raft_find_peer(raft, replica);
    if (!peer || raft->role != RAFT_LEADER || raft->term != answer->term || !peer->is_settled ||
        peer->episode != 0) {
        return;
    }
    peer->heard_ms = raft->private->now_ms;
    if (!is_followed) {
        peer->is_settled = false;
        peer->heartbeat_due = true;
        return;
    }
    lease_heard_reply(&raft->lease, (int)(peer - raft->progress), answer->stamp, answer->echo,
                      raft->private->now_ms);
    raft_leader_vouch(raft);
}
