/* Who leads: roles and the moves between them, campaigns and votes, the election timer, handing over. The diagram of the roles and
 * the invariants (I4 to I6, I14, I17) stand in raft.c. */
#include "raft/raft_private.h"

#include <stddef.h>

#include "base/check.h"
#include "base/err.h"

/* A replica that steps down by order stays quiet for that many election timeouts, so that the
 * others elect first. */
enum { STEP_DOWN_TIMEOUTS = 4, STAND_IN_TIMEOUTS = 2 /* until somebody has caught up */ };

/* Succession, see raft_reset_election_timer: in parts of the election timeout. Four ranks and the random
 * part stay below twice the timeout. */
enum { SUCCESSION_STEP = 4, SUCCESSION_SPREAD = 8, SUCCESSION_RANKS = 4 };

uint64_t raft_random(struct raft *raft)
{
    /* splitmix64 */
    uint64_t z = (raft->private->random += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Which of the others this replica is in the list of members, the leader left out. */
static uint32_t succession_rank(const struct raft *raft)
{
    uint32_t rank = 0;
    for (int i = 0; i < raft->private->self; i++) {
        rank += raft->config.replicas[i] != raft->leader;
    }
    return rank < SUCCESSION_RANKS ? rank : SUCCESSION_RANKS - 1;
}

/* Nobody campaigns before T has passed since it heard a leader: stickiness (raft_is_sticky) would refuse
 * it, and leases rest on that. Behind T, the followers of a leader that falls silent come in the
 * order of the list of members, a quarter of T apart: so the first attempt is nearly always made by
 * one alone, soon after T. Drawing from T to 2T instead costs half of T on the average and, over
 * the many groups that a dead node led, nearly all of T for the slowest. When the successor is dead
 * too, or its log is too short, the next has its turn; whoever has tried in vain, or never heard a
 * leader, draws from T to 2T as in the paper (§9.3), so that no order can repeat a collision for
 * ever. */
void raft_reset_election_timer(struct raft *raft)
{
    uint64_t timeout = raft->config.election_timeout_ms, behind;
    if (raft->leader != 0) {
        behind = timeout * succession_rank(raft) / SUCCESSION_STEP +
                 raft_random(raft) % (timeout / SUCCESSION_SPREAD + 1);
    } else {
        behind = raft_random(raft) % timeout;
    }
    if (raft->hole != 0) {
        behind += timeout; /* who may have the payload goes first */
    }
    raft->private->election_wait_ms = timeout + behind;
    raft->private->election_deadline_ms = raft->private->now_ms + timeout + behind;
}

void raft_transfer_end(struct raft *raft)
{
    if (raft->transfer_to) {
        raft->transfer_to = 0;
        raft->out.transfer_done = true;
    }
}

void raft_note_change(struct raft *raft)
{
    raft->out.role_changed = true;
    if (raft->config.changes) {
        ++*raft->config.changes;
    }
}

static void enter_term(struct raft *raft, uint64_t term, uint64_t vote)
{
    struct raft_private *p = raft->private;
    CHECK(term > raft->term);
    raft->term = term;
    raft->vote = vote;
    raft->leader = 0;
    raft->noop_index = 0;
    p->state_durable = false;
    p->verified = p->acked = p->ack_sequence = 0;
    p->ack_due = false;
    p->held_count = 0;
    p->told_flushed = p->told_mark = 0; /* to that leader */
    lease_enter_term(&raft->lease);
    raft->out.message_count = 0; /* I5 */
    raft->out.fetch_count = 0;
    raft->out.persist_state = true;
    raft_note_change(raft);
}

void raft_become_follower(struct raft *raft, uint64_t term, uint64_t leader)
{
    raft_transfer_end(raft);
    if (term > raft->term) {
        enter_term(raft, term, 0);
    }
    if (raft->role != RAFT_FOLLOWER) {
        raft_reset_election_timer(raft);
        raft->role = RAFT_FOLLOWER;
        raft_note_change(raft);
    }
    if (raft->leader != leader) {
        raft->leader = leader;
        raft_note_change(raft);
    }
}

static bool votes_suffice(const struct raft *raft)
{
    return __builtin_popcount(raft->votes) >= raft_majority(raft);
}

void raft_campaign_ask(struct raft *raft)
{
    struct raft_private *p = raft->private;
    bool pre = raft->role == RAFT_PRE_CANDIDATE;
    p->campaign_sent_ms = p->now_ms;
    for (int i = 0; i < raft->config.replica_count; i++) {
        if (i == p->self || (raft->votes >> i & 1)) {
            continue;
        }
        struct raft_message *ask =
            raft_emit(raft, pre ? RAFT_PRE_VOTE : RAFT_VOTE, raft->config.replicas[i]);
        ask->term = pre ? raft->term + 1 : raft->term;
        ask->transfer = !pre && p->campaign_order;
        ask->index = raft->durable_index; /* I6 */
        ask->log_term = raft_term_at(raft, raft->durable_index);
    }
}

static void become_candidate(struct raft *raft, bool by_order)
{
    struct raft_private *p = raft->private;
    enter_term(raft, raft->term + 1, raft->config.self);
    raft->role = RAFT_CANDIDATE;
    raft->votes = 0; /* the own vote counts when it is durable, see raft_state_durable */
    p->campaign_order = by_order;
    raft_reset_election_timer(raft);
    raft_campaign_ask(raft); /* held until then */
}

void raft_become_pre_candidate(struct raft *raft)
{
    struct raft_private *p = raft->private;
    raft->role = RAFT_PRE_CANDIDATE;
    raft->leader = 0;
    raft_note_change(raft);
    p->ack_due = false;
    raft->votes = 1u << p->self;
    raft_reset_election_timer(raft);
    if (votes_suffice(raft)) {
        become_candidate(raft, false);
    } else {
        raft_campaign_ask(raft);
    }
}

static void become_leader(struct raft *raft)
{
    struct raft_private *p = raft->private;
    CHECK(raft->role == RAFT_CANDIDATE && p->state_durable && raft->vote == raft->config.self);
    raft->role = RAFT_LEADER;
    raft->leader = raft->config.self;
    raft_note_change(raft);
    p->read_round_closed = true;
    p->hole_since_ms = p->now_ms;
    p->stand_in_until_ms =
        p->now_ms + (uint64_t)STAND_IN_TIMEOUTS * raft->config.election_timeout_ms;
    lease_enter_term(&raft->lease);
    for (int i = 0; i < raft->config.replica_count; i++) {
        struct raft_progress *peer = &raft->progress[i];
        *peer = (struct raft_progress){ .id = raft->config.replicas[i],
                                        .state = RAFT_PROBE,
                                        .next = raft->last_index + 1,
                                        .heard_ms = p->now_ms };
        raft_note_sent(raft, peer);
    }
    /* Entries of earlier terms are committed only by one of this term above them (§5.4.2, §6.4). */
    raft_runs_push(raft, raft->term);
    raft->noop_index = raft->last_index;
    raft_effect_append(raft, raft->noop_index, 1, 0);
}

void raft_count_vote(struct raft *raft, int voter)
{
    raft->votes |= 1u << voter;
    if (!votes_suffice(raft)) {
        return;
    }
    if (raft->role == RAFT_PRE_CANDIDATE) {
        become_candidate(raft, false);
    } else {
        become_leader(raft);
    }
}

void raft_flush_transfer(struct raft *raft)
{
    struct raft_private *p = raft->private;
    struct raft_progress *peer = raft_find_peer(raft, raft->transfer_to);
    bool due = !p->transfer_sent || p->now_ms - p->transfer_sent_ms >= raft->config.heartbeat_ms;
    if (!peer || !due || peer->match < raft->last_index || peer->episode) {
        return; /* its claim must beat everybody's log: wait until its disk holds everything */
    }
    raft_emit(raft, RAFT_TRANSFER, peer->id)->index = peer->match;
    raft->lease.was_ordered = true;
    p->transfer_sent = true;
    p->transfer_sent_ms = p->now_ms;
}

/* §9.6, §6.4.1: who hears a leader does not help to depose it. Leases rest on it, so it holds
 * whatever became of that leader and its term meanwhile. */
bool raft_is_sticky(const struct raft *raft)
{
    return raft->role == RAFT_LEADER || /* a leader without a majority steps down by itself */
           raft->private->now_ms < raft->lease.promise_until_ms;
}

bool raft_is_short(const struct raft *raft)
{
    return raft_is_before(raft_last_term(raft), raft->last_index, raft->owed_term,
                          raft->owed_index);
}

/* I6: against all that stands in memory. I17 */
static bool is_up_to_date(const struct raft *raft, const struct raft_message *m)
{
    return !raft_is_before(m->log_term, m->index, raft_last_term(raft), raft->last_index) &&
           !raft_is_before(m->log_term, m->index, raft->owed_term, raft->owed_index);
}

void raft_step_pre_vote(struct raft *raft, const struct raft_message *m)
{
    if (raft_is_sticky(raft)) {
        return;
    }
    bool granted = m->term > raft->term && is_up_to_date(raft, m) && !raft->is_suspect; /* I14 */
    struct raft_message *reply = raft_emit(raft, RAFT_PRE_VOTE_REPLY, m->from);
    reply->granted = granted;
    reply->term = granted ? m->term : raft->term;
}

/* In the current term. */
void raft_step_vote(struct raft *raft, const struct raft_message *m)
{
    /* The term may have been entered while the promise to the last one's leader holds. */
    bool is_free = raft->vote == 0 && raft->leader == 0 && (m->transfer || !raft_is_sticky(raft));
    bool granted =
        (raft->vote == m->from || is_free) && is_up_to_date(raft, m) && !raft->is_suspect; /* I14 */
    if (granted && raft->vote == 0) {
        raft_become_follower(raft, raft->term, 0); /* a pre-candidate gives way */
        raft->vote = m->from;
        raft->private->state_durable = false;
        raft->out.persist_state = true;
    }
    if (granted) {
        raft_reset_election_timer(raft);
    }
    raft_emit(raft, RAFT_VOTE_REPLY, m->from)->granted = granted;
}

void raft_step_vote_reply(struct raft *raft, const struct raft_message *m)
{
    bool pre = m->type == RAFT_PRE_VOTE_REPLY;
    enum raft_role role = pre ? RAFT_PRE_CANDIDATE : RAFT_CANDIDATE;
    uint64_t term = pre ? raft->term + 1 : raft->term;
    if (m->granted && raft->role == role && m->term == term) {
        raft_count_vote(raft, (int)(raft_find_peer(raft, m->from) - raft->progress));
    }
}

bool raft_follow(struct raft *raft, uint64_t leader)
{
    if (raft->role == RAFT_LEADER || (raft->leader != 0 && raft->leader != leader)) {
        return false; /* two leaders in one term: some other replica lost its vote; better deaf than
                         wrong */
    }
    raft_become_follower(raft, raft->term, leader);
    raft->private->passed_over = 0;
    lease_promise(&raft->lease, raft->private->now_ms, raft->config.election_timeout_ms);
    raft_reset_election_timer(raft);
    return true;
}

void raft_step_transfer(struct raft *raft, const struct raft_message *m)
{
    if (raft_follow(raft, m->from) && !raft->needs_image && !raft->is_suspect &&
        !raft_is_short(raft)) {
        become_candidate(raft, true);
    }
}

/* The most caught-up member among those heard lately. */
static struct raft_progress *transfer_choose(struct raft *raft)
{
    struct raft_progress *best = NULL;
    for (int i = 0; i < raft->config.replica_count; i++) {
        struct raft_progress *peer = &raft->progress[i];
        bool waits = peer->is_full && peer->match < raft->last_index;
        if (i != raft->private->self && raft_is_heard_lately(raft, peer->heard_ms) && !waits &&
            !raft_wants_image(peer) && !peer->episode && (!best || peer->match > best->match)) {
            best = peer;
        }
    }
    return best;
}

int raft_transfer(struct raft *raft, uint64_t to)
{
    struct raft_private *p = raft->private;
    if (raft->role != RAFT_LEADER) {
        return ERR_NOT_PRIMARY;
    }
    if (raft->transfer_to) {
        return ERR_BUSY;
    }
    struct raft_progress *peer = to ? raft_find_peer(raft, to) : transfer_choose(raft);
    if (!peer || peer->episode) {
        return to && !peer ? ERR_BAD_REQUEST : ERR_UNAVAILABLE;
    }
    raft->transfer_to = peer->id;
    p->transfer_deadline_ms = p->now_ms + raft->config.election_timeout_ms;
    p->transfer_sent = false;
    return 0;
}

bool raft_stand_in(struct raft *raft)
{
    const struct raft_progress *peer = transfer_choose(raft);
    if (raft->private->now_ms >= raft->private->stand_in_until_ms) {
        return false;
    }
    if (peer && peer->match > 0) {
        raft_transfer(raft, peer->id);
    }
    return true;
}

void raft_step_down(struct raft *raft)
{
    raft_become_follower(raft, raft->term, raft->role == RAFT_FOLLOWER ? raft->leader : 0);
    raft->private->election_deadline_ms =
        raft->private->now_ms + (uint64_t)STEP_DOWN_TIMEOUTS * raft->config.election_timeout_ms;
}
