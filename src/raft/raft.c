/* The Raft core of one group's replica: event and state in, state and effects out.
 *
 * Every public function is an event. It changes `struct raft` and notes in raft->out what the
 * driver must do; nothing else happens. What can wait for the end of the loop turn (appends,
 * heartbeats, acks) is only marked, and emitted by raft_flush, so that many
 * events cost one message per follower.
 *
 * Invariants
 *   I1  commit <= last_index; durable_index <= last_index; log_start - 1 <= min(commit,
 *       durable_index).
 *   I2  commit never goes back. A leader raises it only to an index of its own term that a
 *       majority holds durably (§5.4.2); a follower only to min(leader's commit, prev + n) of an
 *       append that matched.
 *   I3  A granted APPEND_REPLY names min(verified, durable_index): verified is the end of the
 *       prefix that was compared with this term's leader, 0 in every new term. What lies behind it
 *       may be another leader's.
 *   I4  No message but a pre-vote and its reply leaves before (term, vote) as they stood when it
 *       was made are durable: the others promise not to go back. So a leader's own vote is durable
 *       before anybody else could have voted for it.
 *   I5  A message is dropped when the term moves on before it has left: its promise was another
 *       term's, and its entries may be replaced.
 *   I6  A candidate claims only what its own disk holds; a voter compares with all that it has,
 *       durable or not (the cautious side).
 *   I7  In flight to one follower: at most inflight_messages_max appends, and inflight_bytes_max
 *       bytes or a single entry.
 *   I8  A read joins only a round of which no message has been sent yet.
 *   I9  cut <= min(flushed) over all replicas, itself included.
 *   I10 The log's terms are kept as runs in order of `first`; runs[0].first == log_start unless
 *       the log is empty.
 *
 * Roles
 *   follower ──time out──▶ pre-candidate ──majority would──▶ candidate ──majority did──▶ leader
 *             become_pre_candidate      become_candidate              become_leader
 *   any ──higher term, a leader in this term, no majority heard──▶ follower: become_follower
 *   follower ──RAFT_TRANSFER──▶ candidate: the leader's order stands for the pre-vote
 *
 * A follower in the leader's eyes (progress.state)
 *   PROBE     one empty append at a time, at `next`, until one matches
 *   STREAM    appends follow each other unanswered
 *   FETCHING  the next entries are being read from disk
 *   IMAGING   it refused the log's beginning: an image of the store is on offer to it or wanted of
 *             the driver. RAFT_IMAGE messages are its heartbeat; what it answers changes nothing
 *             about the image until it has it (image_id says which one), so nothing begins it anew
 *   A follower whose store is damaged (is_damaged) is offered an image beside any state: its log
 *   goes on.
 *
 * Images
 *   I11 What an image holds is committed, hence part of every later leader's log: it is installed
 *       whatever the term is by then, and verified in it. It is not installed over a store that
 *       has gone beyond it, unless that store is damaged.
 *   I12 "I have it" (IMAGE_REPLY granted) is said only by (index, term) in the own log or by the
 *       own commit index, never by a higher term.
 *   I13 A log that holds (index, term) of an installed image keeps what stands behind; any other
 *       log ends, and begins anew behind the image.
 *
 * Damage of the log
 *   I14 A suspect replica may have lost entries that it acknowledged; terms and votes it has kept.
 *       It counts for nothing: no vote, no campaign, no acknowledgement that is counted, no read
 *       confirmed; yet it is counted in the size of the quorum. Who leads a later term was elected
 *       by a majority without it, and any majority that committed an entry with its help shares a
 *       member with that one which is not it: so the leader has the entry. (One that it helped to
 *       elect before the loss has all that it had acknowledged then, by §5.4.1, and made itself
 *       what came since.) So when the leader hears of the suspicion, its last index covers
 *       everything that the replica ever acknowledged: acknowledgements still under way included.
 *       Once the leader has committed that index, without counting the replica, and the replica
 *       holds it verified, durable and without a hole, one record ends the suspicion. The
 *       episode's number, drawn at each start, keeps words about an earlier suspicion from ending
 *       this one.
 *
 *   I15 What is committed here every later leader has. So a replica whose log was lost below what
 *       its store has applied begins it behind that, and learns the term of the entry before.
 *
 *   I17 What others remember of this replica's promises binds it, whatever its disk says (raft_remind,
 *       decisions/009): it goes to the newest term in which they heard it, without a vote there (the
 *       one it gave may be forgotten), and until its log is again as up-to-date as the newest entry
 *       that it acknowledged, or may have counted as leader, it doesn't campaign and votes for
 *       nobody who lacks that. If its disk's term is newer than the one of the acknowledgement, the
 *       disk was written later, so nothing is lost. A replica whose disk may be older than any
 *       memory (raft_suspect) falls under I14, and hears every other member's term first: it may
 *       have voted in any term that somebody has entered.
 *   I18 What a replica confirmed to a read round holds as long as its term, role and leader stay and it
 *       isn't suspect: so it stands for later rounds, too, as long as its node has counted no
 *       change since (config.changes). The count travels with the confirmation, as it was when that
 *       was made, and is forgotten with the connection.
 *
 *   I19 A log without room takes no entries, yet what it says and hears goes on: it follows,
 *       acknowledges what it has, learns what is committed (which is what makes room), votes. What
 *       it holds already, and no-ops, it always takes. A leader sends such a follower one trifle a
 *       heartbeat, and the payload of a hole.
 *
 *   I16 Entries from the first hole (raft_holes) on are not acknowledged or counted for this
 *       replica; votes are compared by the true last (index, term), holes or not, so that an entry
 *       lives while its header is on a majority and its payload anywhere. A hole is erased only by
 *       a leader's verified conflict, or by a cut of the log, where the store covers the entry.
 *
 * Thread: the loop. Not here: payloads, the clock, the disk, membership changes, learners, the
 * content of images.
 *
 * Sources: Ongaro, "Consensus: Bridging Theory and Practice" (§3.6.2 commit, §3.10 transfer, §6.4
 * read index, §9.6 pre-vote). Where we differ: the leader's disk is one vote among others
 * (§10.2.1); probes are empty; the place of conflict is searched by term on both sides; a follower
 * acknowledges when its disk is done, not when the message came. */
#include "raft/raft.h"

#include <stddef.h>
#include <string.h>

#include "base/check.h"
#include "base/err.h"
#include "base/mem.h"

/* A replica that steps down by order stays quiet for that many election timeouts, so that the
 * others elect first. */
enum { STEP_DOWN_TIMEOUTS = 4 };

/* Part of a heartbeat's time, see heartbeat_at. */
enum { HEARTBEAT_GRACE = 4 };

/* A leader with a hole steps down after that many. */
enum { HOLE_TIMEOUTS = 2 };

/* An image on offer is given up when its follower was silent for that many election timeouts: it
 * pins pages of the store and entries of the log. */
enum { IMAGE_SILENCE_TIMEOUTS = 10 };

/* Succession, see reset_election_timer: in parts of the election timeout. Four ranks and the random
 * part stay below twice the timeout. */
enum { SUCCESSION_STEP = 4, SUCCESSION_SPREAD = 8, SUCCESSION_RANKS = 4 };

/* A campaign's question is repeated after that part of a heartbeat's time: whoever heard the dead
 * leader a little later (an append, a read round) is still bound to it when the successor asks
 * first. */
enum { CAMPAIGN_REPEAT = 4 };

struct raft_private {
    struct raft_run *runs;
    size_t run_count, run_capacity;
    uint64_t random;
    uint64_t now_ms; /* of the last tick */
    uint64_t election_deadline_ms;
    uint64_t campaign_sent_ms;
    bool campaign_order; /* the campaign is by order of the leader */
    bool state_durable;  /* (term, vote) are durable as they stand */
    int self;            /* position in config.replicas */

    /* Follower: see I3. */
    uint64_t verified;
    uint64_t acked;        /* newest index acknowledged in this term */
    uint64_t ack_sequence; /* newest append verified in this term */
    bool ack_due;
    bool tells_mark; /* the last answer told the mark's digest */

    bool read_round_closed; /* read_sequence was sent to somebody: a new read begins another */
    uint64_t transfer_deadline_ms;
    uint64_t transfer_sent_ms;
    bool transfer_sent;

    bool heal_asked;        /* out.heal, and not durable yet */
    uint64_t hole_since_ms; /* leader: the first hole is this one since */
    uint64_t fill_asked_ms;

    uint64_t began_term, began_vote; /* as the disk had them at start */
    bool is_to_hear;
    uint32_t heard;                            /* bit i: member i has told what it remembers */
    uint64_t told_term[LIMIT_REPLICAS];        /* the terms that they were in then */
    struct raft_memory memory[LIMIT_REPLICAS]; /* of the others */

    struct raft_message held[LIMIT_RAFT_HELD_MESSAGES]; /* I4 */
    uint32_t held_count;
    struct raft_message dropped; /* where a message goes that there is no room for */
};

static uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t max_u64(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* The run that holds index; index must be in [log_start, last_index]. */
static size_t runs_find(const struct raft *raft, uint64_t index)
{
    const struct raft_private *p = raft->private;
    size_t low = 0, high = p->run_count;
    CHECK(high > 0 && index >= p->runs[0].first);
    if (index >= p->runs[high - 1].first) {
        return high - 1;
    }
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (p->runs[middle].first <= index) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

uint64_t raft_term_at(const struct raft *raft, uint64_t index)
{
    if (index + 1 == raft->log_start) {
        return raft->start_term;
    }
    if (index < raft->log_start || index > raft->last_index) {
        return 0;
    }
    return raft->private->runs[runs_find(raft, index)].term;
}

static uint64_t last_term(const struct raft *raft)
{
    return raft_term_at(raft, raft->last_index);
}

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

/* Says how far the own store has flushed, and a digest of it: where the flush ended, every other
 * time that of the last mark. Both are told again and again, so it doesn't matter which is lost. */
static void tell_flushed(struct raft *raft, struct raft_message *reply)
{
    struct raft_private *p = raft->private;
    p->tells_mark = !p->tells_mark && raft->marks[0].digest != 0;
    reply->flushed = raft->flushed;
    reply->commit = p->tells_mark ? raft->marks[0].index : raft->flushed;
    reply->digest = own_digest(raft, reply->commit);
}

/* One more entry behind last_index. */
static void runs_push(struct raft *raft, uint64_t term)
{
    struct raft_private *p = raft->private;
    raft->last_index++;
    if (p->run_count > 0 && p->runs[p->run_count - 1].term == term) {
        return;
    }
    if (p->run_count == p->run_capacity) {
        p->run_capacity = p->run_capacity ? p->run_capacity * 2 : 8;
        p->runs = mem_realloc(p->runs, p->run_capacity * sizeof(*p->runs));
    }
    p->runs[p->run_count++] = (struct raft_run){ .first = raft->last_index, .term = term };
}

/* Forgets the entries from `first` on. */
static void runs_truncate(struct raft *raft, uint64_t first)
{
    struct raft_private *p = raft->private;
    CHECK(first > raft->commit && first >= raft->log_start);
    while (p->run_count > 0 && p->runs[p->run_count - 1].first >= first) {
        p->run_count--;
    }
    raft->last_index = first - 1;
    raft->durable_index = min_u64(raft->durable_index, first - 1);
}

/* The largest index <= `index` whose term is <= `term`: where two logs can still agree, seen from
 * one side. Goes by whole runs. */
static uint64_t find_by_term(const struct raft *raft, uint64_t index, uint64_t term)
{
    while (index >= raft->log_start && raft_term_at(raft, index) > term) {
        index = raft->private->runs[runs_find(raft, index)].first - 1;
    }
    return index;
}

/* What this replica's disk holds without a hole. */
static uint64_t sound_index(const struct raft *raft)
{
    return raft->hole ? min_u64(raft->durable_index, raft->hole - 1) : raft->durable_index;
}

/* The log was lost from below what the store has applied on: it begins behind that, and which term
 * the entry before had will be learned (I15). */
static bool start_is_unknown(const struct raft *raft)
{
    return raft->log_start > 1 && raft->start_term == 0;
}

static uint64_t random_next(struct raft *raft)
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

/* Nobody campaigns before T has passed since it heard a leader: stickiness (is_sticky) would refuse
 * it, and leases rest on that. Behind T, the followers of a leader that falls silent come in the
 * order of the list of members, a quarter of T apart: so the first attempt is nearly always made by
 * one alone, soon after T. Drawing from T to 2T instead costs half of T on the average and, over
 * the many groups that a dead node led, nearly all of T for the slowest. When the successor is dead
 * too, or its log is too short, the next has its turn; whoever has tried in vain, or never heard a
 * leader, draws from T to 2T as in the paper (§9.3), so that no order can repeat a collision for
 * ever. */
static void reset_election_timer(struct raft *raft)
{
    uint64_t timeout = raft->config.election_timeout_ms, behind;
    if (raft->leader != 0) {
        behind = timeout * succession_rank(raft) / SUCCESSION_STEP +
                 random_next(raft) % (timeout / SUCCESSION_SPREAD + 1);
    } else {
        behind = random_next(raft) % timeout;
    }
    if (raft->hole != 0) {
        behind += timeout; /* who may have the payload goes first */
    }
    raft->private->election_deadline_ms = raft->private->now_ms + timeout + behind;
}

static int majority(const struct raft *raft)
{
    return raft->config.replica_count / 2 + 1;
}

/* The largest value that a majority has reached. */
static uint64_t majority_value(const struct raft *raft, const uint64_t *values)
{
    uint64_t sorted[LIMIT_REPLICAS];
    for (int i = 0; i < raft->config.replica_count; i++) {
        int at = i;
        for (; at > 0 && sorted[at - 1] < values[i]; at--) {
            sorted[at] = sorted[at - 1];
        }
        sorted[at] = values[i];
    }
    return sorted[majority(raft) - 1];
}

/* The other member of that id; NULL for strangers and for itself. */
static struct raft_progress *find_peer(struct raft *raft, uint64_t id)
{
    for (int i = 0; i < raft->config.replica_count; i++) {
        if (raft->progress[i].id == id && i != raft->private->self) {
            return &raft->progress[i];
        }
    }
    return NULL;
}

static bool is_heard_lately(const struct raft *raft, uint64_t heard_ms)
{
    return raft->private->now_ms - heard_ms < raft->config.election_timeout_ms;
}

/* I4: what may leave at once goes to out, the rest waits. The result is to be filled by the caller,
 * before the next emit. */
static struct raft_message *emit(struct raft *raft, uint8_t type, uint64_t to)
{
    struct raft_private *p = raft->private;
    struct raft_effects *out = &raft->out;
    bool promises = type != RAFT_PRE_VOTE && type != RAFT_PRE_VOTE_REPLY;
    struct raft_message *message;
    if (promises && !p->state_durable) {
        bool full = p->held_count == LIMIT_RAFT_HELD_MESSAGES;
        message = full ? &p->dropped : &p->held[p->held_count++];
    } else {
        size_t capacity = mem_try_grow(raft->config.gate, &out->messages, out->message_capacity,
                                       out->message_count + 1, sizeof(*out->messages));
        out->message_capacity = capacity ? capacity : out->message_capacity;
        message = capacity ? &out->messages[out->message_count++] : &p->dropped;
    }
    *message = (struct raft_message){ .type = type,
                                      .group = raft->config.group,
                                      .from = raft->config.self,
                                      .to = to,
                                      .term = raft->term,
                                      .stamp = p->now_ms };
    return message;
}

static void release_held(struct raft *raft)
{
    struct raft_private *p = raft->private;
    CHECK(p->state_durable);
    for (uint32_t i = 0; i < p->held_count; i++) {
        CHECK(p->held[i].term == raft->term);
        *emit(raft, p->held[i].type, p->held[i].to) = p->held[i];
    }
    p->held_count = 0;
}

static void effect_append(struct raft *raft, uint64_t first, uint32_t count, uint32_t skip)
{
    struct raft_effects *out = &raft->out;
    if (out->append) {
        /* Only a leader's own entries may gather; a follower's belong to the message at hand. */
        CHECK(raft->role == RAFT_LEADER && out->append_first + out->append_count == first);
        out->append_count += count;
        return;
    }
    out->append = true;
    out->append_first = first;
    out->append_count = count;
    out->append_skip = skip;
}

static void transfer_end(struct raft *raft)
{
    if (raft->transfer_to) {
        raft->transfer_to = 0;
        raft->out.transfer_done = true;
    }
}

/* Whoever counts on what this replica confirmed must ask again (I18). */
static void note_change(struct raft *raft)
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
    lease_enter_term(&raft->lease);
    raft->out.message_count = 0; /* I5 */
    raft->out.fetch_count = 0;
    raft->out.persist_state = true;
    note_change(raft);
}

static void become_follower(struct raft *raft, uint64_t term, uint64_t leader)
{
    transfer_end(raft);
    if (term > raft->term) {
        enter_term(raft, term, 0);
    }
    if (raft->role != RAFT_FOLLOWER) {
        reset_election_timer(raft);
        raft->role = RAFT_FOLLOWER;
        note_change(raft);
    }
    if (raft->leader != leader) {
        raft->leader = leader;
        note_change(raft);
    }
}

static bool votes_suffice(const struct raft *raft)
{
    return __builtin_popcount(raft->votes) >= majority(raft);
}

/* Asks everybody who has not granted yet. */
static void campaign_ask(struct raft *raft)
{
    struct raft_private *p = raft->private;
    bool pre = raft->role == RAFT_PRE_CANDIDATE;
    p->campaign_sent_ms = p->now_ms;
    for (int i = 0; i < raft->config.replica_count; i++) {
        if (i == p->self || (raft->votes >> i & 1)) {
            continue;
        }
        struct raft_message *ask =
            emit(raft, pre ? RAFT_PRE_VOTE : RAFT_VOTE, raft->config.replicas[i]);
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
    reset_election_timer(raft);
    campaign_ask(raft); /* held until then */
}

static void become_pre_candidate(struct raft *raft)
{
    struct raft_private *p = raft->private;
    raft->role = RAFT_PRE_CANDIDATE;
    raft->leader = 0;
    note_change(raft);
    p->ack_due = false;
    raft->votes = 1u << p->self;
    reset_election_timer(raft);
    if (votes_suffice(raft)) {
        become_candidate(raft, false);
    } else {
        campaign_ask(raft);
    }
}

static void become_leader(struct raft *raft)
{
    struct raft_private *p = raft->private;
    CHECK(raft->role == RAFT_CANDIDATE && p->state_durable && raft->vote == raft->config.self);
    raft->role = RAFT_LEADER;
    raft->leader = raft->config.self;
    note_change(raft);
    p->read_round_closed = true;
    p->hole_since_ms = p->now_ms;
    lease_enter_term(&raft->lease);
    for (int i = 0; i < raft->config.replica_count; i++) {
        struct raft_progress *peer = &raft->progress[i];
        *peer = (struct raft_progress){ .id = raft->config.replicas[i],
                                        .state = RAFT_PROBE,
                                        .next = raft->last_index + 1,
                                        .heard_ms = p->now_ms,
                                        .sent_ms = p->now_ms };
    }
    /* Entries of earlier terms are committed only by one of this term above them (§5.4.2, §6.4). */
    runs_push(raft, raft->term);
    raft->noop_index = raft->last_index;
    effect_append(raft, raft->noop_index, 1, 0);
}

static void count_vote(struct raft *raft, int voter)
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

/* Nothing is on offer any more. */
static void image_over(struct raft_progress *peer)
{
    peer->image_id = peer->image_index = peer->image_floor = 0;
    peer->image_sent_ms = 0;
}

static bool wants_image(const struct raft_progress *peer)
{
    return peer->state == RAFT_IMAGING || peer->is_damaged;
}

static void leader_advance_commit(struct raft *raft)
{
    uint64_t match[LIMIT_REPLICAS];
    raft->progress[raft->private->self].match = sound_index(raft); /* only one vote */
    for (int i = 0; i < raft->config.replica_count; i++) {
        match[i] = raft->progress[i].episode ? 0 : raft->progress[i].match; /* I14 */
    }
    uint64_t index = majority_value(raft, match);
    if (index > raft->commit && raft_term_at(raft, index) == raft->term) { /* I2 */
        raft->commit = index;
        raft->out.commit_advanced = true;
    }
}

static void leader_advance_cut(struct raft *raft)
{
    uint64_t cut = raft->flushed;
    raft->progress[raft->private->self].flushed = raft->flushed;
    for (int i = 0; i < raft->config.replica_count; i++) {
        cut = min_u64(cut, raft->progress[i].flushed);
    }
    raft->cut = max_u64(raft->cut, cut); /* I9: what is flushed stays flushed */
}

static void flights_clear(struct raft_progress *peer)
{
    peer->flight_head = peer->flight_count = 0;
    peer->inflight_bytes = peer->inflight_messages = 0;
}

static void flights_add(struct raft_progress *peer, uint64_t last, uint32_t bytes)
{
    CHECK(peer->flight_count < LIMIT_RAFT_INFLIGHT_MESSAGES);
    uint32_t at = (peer->flight_head + peer->flight_count) % LIMIT_RAFT_INFLIGHT_MESSAGES;
    peer->flights[at] = (struct raft_flight){ last, bytes };
    peer->flight_count++;
    peer->inflight_messages++;
    peer->inflight_bytes += bytes;
}

static void flights_landed(struct raft_progress *peer)
{
    while (peer->flight_count > 0 && peer->flights[peer->flight_head].last <= peer->match) {
        peer->inflight_bytes -= peer->flights[peer->flight_head].bytes;
        peer->inflight_messages--;
        peer->flight_head = (peer->flight_head + 1) % LIMIT_RAFT_INFLIGHT_MESSAGES;
        peer->flight_count--;
    }
}

/* An append at peer->next with count entries. */
static void append_emit(struct raft *raft, struct raft_progress *peer, uint32_t count)
{
    CHECK(peer->next >= raft->log_start && peer->next + count <= raft->last_index + 1);
    struct raft_message *append = emit(raft, RAFT_APPEND, peer->id);
    append->index = peer->next - 1;
    append->log_term = raft_term_at(raft, peer->next - 1);
    append->commit = raft->commit;
    append->flushed = raft->cut;
    append->needs_image = peer->is_refuted;
    append->count = count;
    append->sequence = ++peer->sequence;
    append->echo = raft->lease.peers[peer - raft->progress].vouched_ms;
    if (peer->episode && raft->commit >= peer->heal_index && peer->match >= peer->heal_index) {
        append->episode = peer->episode; /* I14 */
        append->hint = peer->heal_index;
    }
    peer->sent_ms = raft->private->now_ms;
    peer->heartbeat_due = false;
}

static void entries_emit(struct raft *raft, struct raft_progress *peer, uint32_t count,
                         uint32_t bytes)
{
    append_emit(raft, peer, count);
    peer->next += count;
    flights_add(peer, peer->next - 1, bytes);
    peer->next = max_u64(peer->next, peer->resume);
    peer->resume = 0;
}

static bool has_room(const struct raft *raft, const struct raft_progress *peer)
{
    return peer->inflight_messages < raft->config.inflight_messages_max &&
           (peer->inflight_messages == 0 || peer->inflight_bytes < raft->config.inflight_bytes_max);
}

/* I19: nothing of what it asked for either, that is. */
static bool is_held_back(const struct raft_progress *peer)
{
    return peer->is_full && peer->resume == 0;
}

static void fetch_begin(struct raft *raft, struct raft_progress *peer)
{
    struct raft_effects *out = &raft->out;
    uint32_t room = raft->config.inflight_bytes_max;
    if (raft->private->now_ms < peer->fetch_after_ms ||
        (peer->inflight_messages > 0 &&
         peer->inflight_bytes + raft->config.append_bytes_max > room)) {
        return;
    }
    int at = 0;
    while (at < out->fetch_count && out->fetches[at].to != peer->id) {
        at++;
    }
    CHECK(at < LIMIT_REPLICAS);
    out->fetches[at] = (struct raft_fetch){ .to = peer->id, .first = peer->next };
    out->fetch_count += at == out->fetch_count;
    peer->state = RAFT_FETCHING;
}

/* How many entries at `next` can be sent from memory in one message; *bytes of them. At least one if
 * it is there, however large. */
static uint32_t entries_at_hand(const struct raft *raft, const struct raft_progress *peer,
                                uint32_t bytes_max, uint32_t *bytes)
{
    const struct raft_config *config = &raft->config;
    uint32_t room = config->inflight_bytes_max - peer->inflight_bytes;
    uint32_t count_max =
        (uint32_t)min_u64(raft->last_index - peer->next + 1, config->append_entries_max);
    uint32_t count = config->entries_in_memory(config->ctx, peer->next, count_max,
                                               (uint32_t)min_u64(room, bytes_max), bytes);
    CHECK(count <= count_max);
    return count;
}

/* One large entry goes when nothing else is in flight. */
static bool has_to_wait(const struct raft *raft, const struct raft_progress *peer, uint32_t bytes)
{
    return peer->inflight_messages > 0 &&
           bytes > raft->config.inflight_bytes_max - peer->inflight_bytes;
}

/* Sends what is new and fits (I7). */
static void stream_entries(struct raft *raft, struct raft_progress *peer)
{
    while (peer->next <= raft->last_index && has_room(raft, peer) && !is_held_back(peer)) {
        uint32_t bytes = 0;
        uint32_t count = entries_at_hand(raft, peer, raft->config.append_bytes_max, &bytes);
        if (count == 0) {
            fetch_begin(raft, peer);
            break;
        }
        if (has_to_wait(raft, peer, bytes)) {
            break;
        }
        entries_emit(raft, peer, count, bytes);
    }
}

/* I19: an election behind which all waits, a delete. */
static void stream_trifle(struct raft *raft, struct raft_progress *peer)
{
    uint32_t bytes = 0, count = 0;
    if (peer->next <= raft->last_index && has_room(raft, peer)) {
        count = entries_at_hand(raft, peer, LIMIT_RAFT_TRIFLE_BYTES, &bytes);
    }
    if (count > 0 && bytes <= LIMIT_RAFT_TRIFLE_BYTES && !has_to_wait(raft, peer, bytes)) {
        entries_emit(raft, peer, count, bytes);
    }
}

/* Tries `next` as the place where the logs meet. */
static void probe_from(struct raft *raft, struct raft_progress *peer, uint64_t next)
{
    flights_clear(peer);
    peer->resume = 0;
    if (next < raft->log_start) {
        if (peer->state == RAFT_PROBE && peer->next == raft->log_start) {
            peer->state = RAFT_IMAGING; /* it was refused there: only an image helps */
            peer->probe_sent = false;
            image_over(peer);
            return;
        }
        next = raft->log_start;
    }
    peer->state = RAFT_PROBE;
    peer->next = next;
    peer->probe_sent = false;
}

/* Offers the image, or asks the driver for one; as often as a heartbeat. */
static void flush_image(struct raft *raft, struct raft_progress *peer)
{
    struct raft_effects *out = &raft->out;
    uint64_t now = raft->private->now_ms;
    if (peer->image_sent_ms != 0 && now - peer->image_sent_ms < raft->config.heartbeat_ms) {
        return;
    }
    peer->image_sent_ms = now;
    if (peer->image_id == 0) {
        int at = 0;
        while (at < out->image_count && out->images[at].to != peer->id) {
            at++;
        }
        CHECK(at < LIMIT_REPLICAS);
        out->images[at] = (struct raft_image_want){ .to = peer->id, .floor = peer->image_floor };
        out->image_count += at == out->image_count;
        return;
    }
    struct raft_message *offer = emit(raft, RAFT_IMAGE, peer->id);
    offer->index = peer->image_index;
    offer->log_term = raft_term_at(raft, peer->image_index);
    offer->commit = raft->commit;
    offer->sequence = peer->image_id;
    if (peer->state == RAFT_IMAGING) {
        peer->sent_ms = now;
        peer->heartbeat_due = false;
    }
}

static void flush_peer(struct raft *raft, struct raft_progress *peer)
{
    if (wants_image(peer)) {
        flush_image(raft, peer);
    }
    switch (peer->state) {
    case RAFT_PROBE:
        if (!peer->probe_sent) {
            peer->probe_sequence = peer->sequence + 1;
            peer->probe_sent = true;
            append_emit(raft, peer, 0);
        }
        break;
    case RAFT_STREAM:
        /* the news of a commit rides along, or with the next heartbeat */
        stream_entries(raft, peer);
        if (peer->heartbeat_due && is_held_back(peer)) {
            stream_trifle(raft, peer);
        }
        break;
    case RAFT_FETCHING:
    case RAFT_IMAGING:
        break;
    }
    if (peer->heartbeat_due) {
        append_emit(raft, peer, 0); /* at `next`: also finds out what was lost */
    }
}

static void flush_transfer(struct raft *raft)
{
    struct raft_private *p = raft->private;
    struct raft_progress *peer = find_peer(raft, raft->transfer_to);
    bool due = !p->transfer_sent || p->now_ms - p->transfer_sent_ms >= raft->config.heartbeat_ms;
    if (!peer || !due || peer->match < raft->last_index || peer->episode) {
        return; /* its claim must beat everybody's log: wait until its disk holds everything */
    }
    emit(raft, RAFT_TRANSFER, peer->id)->index = peer->match;
    raft->lease.was_ordered = true;
    p->transfer_sent = true;
    p->transfer_sent_ms = p->now_ms;
}

/* One of the two led this term, and the other acknowledged to there. */
static void remember_ack(struct raft *raft, uint64_t member, uint64_t index, uint64_t log_term,
                         bool has_led)
{
    struct raft_progress *peer = find_peer(raft, member);
    struct raft_memory *of = peer ? &raft->private->memory[peer - raft->progress] : NULL;
    if (of && index > 0 && index <= raft->last_index &&
        (raft->term > of->ack_term || (raft->term == of->ack_term && index > of->index))) {
        of->ack_term = raft->term;
        of->index = index;
        of->log_term = log_term;
        of->has_led = has_led;
    }
}

/* I17, the other side: what the sender of this message is bound by. All but pre-votes leave only
 * when the term is on its disk (I4). */
static void remember(struct raft *raft, const struct raft_message *m)
{
    if (m->type == RAFT_PRE_VOTE || m->type == RAFT_PRE_VOTE_REPLY) {
        return;
    }
    struct raft_memory *of = &raft->private->memory[find_peer(raft, m->from) - raft->progress];
    of->term = max_u64(of->term, m->term);
    if (m->type == RAFT_VOTE_REPLY && m->granted) {
        of->vote_term = max_u64(of->vote_term, m->term);
    } else if (m->type == RAFT_APPEND_REPLY && m->granted && m->episode == 0 &&
               m->term == raft->term && raft->role == RAFT_LEADER) {
        remember_ack(raft, m->from, m->index, m->log_term, false);
    }
}

/* I14, I17: nobody is missing who might tell of a term in which this replica has voted. */
static bool has_heard_all(const struct raft *raft)
{
    uint32_t all = (1u << raft->config.replica_count) - 1;
    return !raft->private->is_to_hear || (raft->private->heard | 1u << raft->private->self) == all;
}

static void flush_ack(struct raft *raft)
{
    struct raft_private *p = raft->private;
    if (!p->ack_due || raft->leader == 0 || !p->state_durable) {
        return;
    }
    p->ack_due = false;
    p->acked = min_u64(p->verified, sound_index(raft)); /* I3 */
    struct raft_message *reply = emit(raft, RAFT_APPEND_REPLY, raft->leader);
    reply->granted = true;
    reply->index = p->acked;
    reply->log_term = raft_term_at(raft, p->acked);
    tell_flushed(raft, reply);
    reply->needs_image = raft->needs_image;
    reply->is_full = raft->room != RAFT_ROOM_ANY;
    reply->sequence = p->ack_sequence;
    reply->hint = raft->unfilled <= p->verified ? raft->unfilled : 0;
    reply->episode = raft->episode;
    reply->echo = raft->lease.append_ms;
    if (!raft->is_suspect) {
        remember_ack(raft, raft->leader, reply->index, reply->log_term, true);
    }
}

void raft_flush(struct raft *raft)
{
    if (raft->role == RAFT_FOLLOWER) {
        flush_ack(raft);
    }
    if (raft->role != RAFT_LEADER) {
        return;
    }
    for (int i = 0; i < raft->config.replica_count; i++) {
        if (i != raft->private->self) {
            flush_peer(raft, &raft->progress[i]);
        }
    }
    if (raft->transfer_to) {
        flush_transfer(raft);
    }
}

static bool peer_has_news(const struct raft *raft, const struct raft_progress *peer)
{
    return peer->heartbeat_due || wants_image(peer) ||
           (peer->state == RAFT_PROBE && !peer->probe_sent) ||
           (peer->state == RAFT_STREAM && peer->next <= raft->last_index && has_room(raft, peer) &&
            !is_held_back(peer));
}

/* Something for the driver besides what raft_flush would emit. */
static bool has_effects(const struct raft *raft)
{
    const struct raft_effects *out = &raft->out;
    return out->persist_state || out->append || out->role_changed || out->commit_advanced ||
           out->reads_confirmed || out->read_round_wanted || out->transfer_done || out->heal ||
           out->start_learned || out->image_offered || out->digest_refuted ||
           out->digest_undecided || out->diverged || out->cut_wanted ||
           out->message_count + (size_t)out->fetch_count > 0 ||
           out->fill_count + out->image_count > 0;
}

bool raft_has_news(const struct raft *raft)
{
    if (has_effects(raft)) {
        return true;
    }
    if (raft->role != RAFT_LEADER) {
        return raft->role == RAFT_FOLLOWER && raft->private->ack_due;
    }
    bool has = raft->transfer_to != 0;
    for (int i = 0; !has && i < raft->config.replica_count; i++) {
        has = i != raft->private->self && peer_has_news(raft, &raft->progress[i]);
    }
    return has;
}

bool raft_only_speaks(const struct raft *raft)
{
    if (has_effects(raft) || raft->transfer_to != 0 || !raft->private->state_durable) {
        return false;
    }
    if (raft->role != RAFT_LEADER) {
        return raft->role == RAFT_FOLLOWER && raft->private->ack_due && raft->leader != 0;
    }
    bool has = false;
    for (int i = 0; i < raft->config.replica_count; i++) {
        const struct raft_progress *peer = &raft->progress[i];
        if (i == raft->private->self) {
            continue;
        }
        if (wants_image(peer) || peer->state != RAFT_STREAM || peer->next <= raft->last_index) {
            return false;
        }
        has |= peer->heartbeat_due;
    }
    return has;
}

/* §9.6, §6.4.1: who hears a leader does not help to depose it. Leases rest on it, so it holds
 * whatever became of that leader and its term meanwhile. */
static bool is_sticky(const struct raft *raft)
{
    return raft->role == RAFT_LEADER || /* a leader without a majority steps down by itself */
           raft->private->now_ms < raft->lease.promise_until_ms;
}

static bool is_before(uint64_t term, uint64_t index, uint64_t other_term, uint64_t other_index)
{
    return term < other_term || (term == other_term && index < other_index);
}

bool raft_is_short(const struct raft *raft)
{
    return is_before(last_term(raft), raft->last_index, raft->owed_term, raft->owed_index);
}

/* I6: against all that stands in memory. I17 */
static bool is_up_to_date(const struct raft *raft, const struct raft_message *m)
{
    return !is_before(m->log_term, m->index, last_term(raft), raft->last_index) &&
           !is_before(m->log_term, m->index, raft->owed_term, raft->owed_index);
}

static void step_pre_vote(struct raft *raft, const struct raft_message *m)
{
    if (is_sticky(raft)) {
        return;
    }
    bool granted = m->term > raft->term && is_up_to_date(raft, m) && !raft->is_suspect; /* I14 */
    struct raft_message *reply = emit(raft, RAFT_PRE_VOTE_REPLY, m->from);
    reply->granted = granted;
    reply->term = granted ? m->term : raft->term;
}

/* In the current term. */
static void step_vote(struct raft *raft, const struct raft_message *m)
{
    /* The term may have been entered while the promise to the last one's leader holds. */
    bool is_free = raft->vote == 0 && raft->leader == 0 && (m->transfer || !is_sticky(raft));
    bool granted =
        (raft->vote == m->from || is_free) && is_up_to_date(raft, m) && !raft->is_suspect; /* I14 */
    if (granted && raft->vote == 0) {
        become_follower(raft, raft->term, 0); /* a pre-candidate gives way */
        raft->vote = m->from;
        raft->private->state_durable = false;
        raft->out.persist_state = true;
    }
    if (granted) {
        reset_election_timer(raft);
    }
    emit(raft, RAFT_VOTE_REPLY, m->from)->granted = granted;
}

static void step_vote_reply(struct raft *raft, const struct raft_message *m)
{
    bool pre = m->type == RAFT_PRE_VOTE_REPLY;
    enum raft_role role = pre ? RAFT_PRE_CANDIDATE : RAFT_CANDIDATE;
    uint64_t term = pre ? raft->term + 1 : raft->term;
    if (m->granted && raft->role == role && m->term == term) {
        count_vote(raft, (int)(find_peer(raft, m->from) - raft->progress));
    }
}

/* The sender claims to lead this term. False: it cannot be. */
static bool follow(struct raft *raft, uint64_t leader)
{
    if (raft->role == RAFT_LEADER || (raft->leader != 0 && raft->leader != leader)) {
        return false; /* two leaders in one term: some other replica lost its vote; better deaf than
                         wrong */
    }
    become_follower(raft, raft->term, leader);
    lease_promise(&raft->lease, raft->private->now_ms, raft->config.election_timeout_ms);
    reset_election_timer(raft);
    return true;
}

static void append_refuse(struct raft *raft, const struct raft_message *m)
{
    struct raft_message *reply = emit(raft, RAFT_APPEND_REPLY, m->from);
    /* What is committed here the leader has too, so the search ends there. */
    uint64_t hint = find_by_term(raft, min_u64(m->index - 1, raft->last_index), m->log_term);
    hint = max_u64(hint, raft->commit);
    reply->index = m->index;
    reply->hint = hint;
    bool is_unknown = hint + 1 == raft->log_start && start_is_unknown(raft);
    reply->log_term =
        is_unknown ? raft->term : raft_term_at(raft, hint); /* committed: any will do */
    tell_flushed(raft, reply);
    reply->episode = raft->episode;
    reply->needs_image = raft->needs_image;
    reply->is_full = raft->room != RAFT_ROOM_ANY;
    reply->sequence = m->sequence;
    reply->echo = raft->lease.append_ms; /* refused, but followed */
}

/* Compares the entries with the log; takes those that are new. False: they contradict what must not
 * change. */
static bool append_merge(struct raft *raft, const struct raft_message *m,
                         const struct raft_entry *entries)
{
    uint32_t skip = 0;
    for (; skip < m->count; skip++) {
        uint64_t index = m->index + 1 + skip;
        if (index > raft->last_index ||
            (index + 1 >= raft->log_start && raft_term_at(raft, index) != entries[skip].term)) {
            break; /* below log_start - 1 everything is committed, hence equal */
        }
    }
    if (skip == m->count) {
        return true; /* repeated or empty: must not shorten the log */
    }
    uint64_t first = m->index + 1 + skip;
    if (first <= raft->last_index) {
        if (first <= raft->commit || first <= raft->private->verified) {
            return false;
        }
        runs_truncate(raft, first);
    }
    for (uint32_t i = skip; i < m->count; i++) {
        runs_push(raft, entries[i].term);
    }
    effect_append(raft, first, m->count - skip, skip);
    return true;
}

/* The entry before the log is committed, so every leader has it, with its term (I15). */
static void learn_start(struct raft *raft, const struct raft_message *m,
                        const struct raft_entry *entries)
{
    uint64_t at = raft->log_start - 1;
    if (m->index == at) {
        raft->start_term = m->log_term;
    } else if (m->index < at && at <= m->index + m->count) {
        raft->start_term = entries[at - m->index - 1].term;
    }
    raft->out.start_learned |= raft->start_term != 0;
}

/* The leader says that this replica holds again everything up to `hint`, and that this covers what
 * it may have promised. It must be true of the log as it is now (I14). */
static void consider_heal(struct raft *raft, const struct raft_message *m)
{
    struct raft_private *p = raft->private;
    if (!raft->is_suspect || !has_heard_all(raft) || p->heal_asked || m->episode != raft->episode ||
        min_u64(p->verified, sound_index(raft)) < m->hint || start_is_unknown(raft)) {
        return;
    }
    raft->vote = raft->vote ? raft->vote : m->from;
    p->state_durable = false;
    p->heal_asked = true;
    raft->out.heal = true;
}

/* How many of the entries the log has room for (I19). */
static uint32_t entries_taken(const struct raft *raft, const struct raft_message *m,
                              const struct raft_entry *entries)
{
    uint64_t bytes = 0, bytes_max = raft->room == RAFT_ROOM_SMALL ? LIMIT_RAFT_TRIFLE_BYTES : 0;
    uint64_t held = raft->last_index - min_u64(m->index, raft->last_index);
    for (uint32_t i = 0; i < m->count && raft->room != RAFT_ROOM_ANY; i++) {
        bytes += entries[i].size;
    }
    return bytes <= bytes_max ? m->count : (uint32_t)min_u64(m->count, held);
}

void raft_take(struct raft *raft, enum raft_room room)
{
    raft->room = room;
}

static void step_append(struct raft *raft, const struct raft_message *message,
                        const struct raft_entry *entries)
{
    struct raft_private *p = raft->private;
    struct raft_message taken = *message;
    const struct raft_message *m = &taken;
    taken.count = entries_taken(raft, message, entries);
    if (!follow(raft, m->from)) {
        return;
    }
    lease_heard_append(&raft->lease, m->stamp, m->echo, m->commit, p->now_ms);
    if (start_is_unknown(raft)) {
        learn_start(raft, m, entries);
    }
    bool matches = m->index <= raft->last_index &&
                   (m->index + 1 < raft->log_start || raft_term_at(raft, m->index) == m->log_term);
    if (!matches && m->index > raft->commit) {
        append_refuse(raft, m);
        return;
    }
    if (!matches || !append_merge(raft, m, entries)) {
        raft->out.diverged = true;
        return;
    }
    raft->out.digest_refuted |= m->needs_image && !raft->needs_image;
    uint64_t end = m->index + m->count;
    p->verified = max_u64(p->verified, end);
    p->ack_sequence = max_u64(p->ack_sequence, m->sequence);
    /* New entries are answered when the disk has them, what adds nothing now, or was cut short. */
    if (m->count == 0 || end <= raft->durable_index || m->count < message->count) {
        p->ack_due = true;
    }
    uint64_t commit = min_u64(m->commit, end); /* I2 */
    if (commit > raft->commit) {
        raft->commit = commit;
        raft->out.commit_advanced = true;
    }
    raft->cut = max_u64(raft->cut, min_u64(m->flushed, raft->flushed));
    consider_heal(raft, m);
}

static void step_read(struct raft *raft, const struct raft_message *m)
{
    if (!follow(raft, m->from) || raft->is_suspect) {
        return;
    }
    struct raft_message *reply = emit(raft, RAFT_READ_REPLY, m->from);
    reply->granted = true;
    reply->sequence = m->sequence;
    reply->index = raft->config.changes ? *raft->config.changes : 0; /* now, also if it is held */
}

static void step_transfer(struct raft *raft, const struct raft_message *m)
{
    if (follow(raft, m->from) && !raft->needs_image && !raft->is_suspect && !raft_is_short(raft)) {
        become_candidate(raft, true);
    }
}

/* The log holds the image's last entry, or it is known to be committed here (I12). */
static bool has_image(const struct raft *raft, uint64_t index, uint64_t term)
{
    bool is_whole = raft->hole == 0 || raft->hole > index;
    return is_whole && (index <= raft->commit ||
                        (index <= raft->last_index && raft_term_at(raft, index) == term));
}

/* A committed entry here must be what the image says that it is. */
static bool contradicts_image(const struct raft *raft, uint64_t index, uint64_t term)
{
    bool is_unknown = index + 1 == raft->log_start && start_is_unknown(raft);
    return index <= raft->commit && index + 1 >= raft->log_start &&
           raft_term_at(raft, index) != term && !is_unknown;
}

static void step_image(struct raft *raft, const struct raft_message *m)
{
    struct raft_private *p = raft->private;
    if (!follow(raft, m->from)) {
        return;
    }
    if (contradicts_image(raft, m->index, m->log_term)) {
        raft->out.diverged = true;
        return;
    }
    struct raft_message *reply = emit(raft, RAFT_IMAGE_REPLY, m->from);
    reply->needs_image = raft->needs_image;
    reply->episode = raft->episode;
    reply->sequence = m->sequence;
    if (!raft->needs_image && has_image(raft, m->index, m->log_term)) {
        p->verified = max_u64(p->verified, m->index);
        p->ack_due = true;
        if (m->index > raft->commit) { /* the leader's store holds it: it is committed */
            raft->commit = m->index;
            raft->out.commit_advanced = true;
        }
        reply->granted = true;
        reply->hint = raft->commit;
    } else if (raft->needs_image && m->index + 1 < raft->log_start) {
        reply->hint = raft->log_start - 1; /* the own log could not follow it */
    } else {
        raft->out.image_offered = true;
        raft->out.image = (struct raft_image){ m->from, m->sequence, m->index, m->log_term };
    }
}

static void append_refused(struct raft *raft, struct raft_progress *peer,
                           const struct raft_message *m)
{
    bool stale = m->index <= peer->match || m->index > raft->last_index ||
                 peer->state == RAFT_IMAGING ||
                 (peer->state == RAFT_PROBE && m->index != peer->next - 1);
    if (stale) {
        return;
    }
    /* The hint is the follower's half of the search, this the leader's: skip whole terms that
     * cannot match. */
    uint64_t prev = find_by_term(raft, min_u64(m->hint, m->index - 1), m->log_term);
    probe_from(raft, peer, max_u64(prev, peer->match) + 1);
}

/* The follower verified the entry at `hint`, and has lost its payload: it is sent again, alone, and
 * then what comes next. Where the log here begins later only an image helps. */
static void resend_hole(struct raft *raft, struct raft_progress *peer, const struct raft_message *m)
{
    if (m->hint == 0 || m->hint >= peer->next || peer->state != RAFT_STREAM ||
        m->sequence < peer->resend_sequence) {
        return;
    }
    if (m->hint < raft->log_start) {
        flights_clear(peer);
        peer->state = RAFT_IMAGING;
        image_over(peer);
        return;
    }
    flights_clear(peer);
    peer->resume = peer->next;
    peer->next = m->hint;
    peer->resend_sequence = peer->sequence + 1;
}

static void append_granted(struct raft *raft, struct raft_progress *peer,
                           const struct raft_message *m)
{
    if (m->index > raft->last_index) {
        return;
    }
    if (peer->state == RAFT_IMAGING && m->index + 1 >= raft->log_start) {
        image_over(peer); /* wherever it has that from: the log is enough now */
        probe_from(raft, peer, max_u64(peer->match, m->index) + 1);
    }
    bool probe_matched = peer->state == RAFT_PROBE && peer->probe_sent &&
                         (m->sequence >= peer->probe_sequence || m->index + 1 >= peer->next);
    if (probe_matched) {
        peer->state = RAFT_STREAM;
        peer->probe_sent = false;
    }
    resend_hole(raft, peer, m);
    if (m->index <= peer->match) {
        flights_landed(peer); /* what was sent again */
        return;
    }
    peer->match = m->index;
    if (peer->next <= peer->match && peer->resume == 0) {
        peer->next = peer->match + 1;
        if (peer->state == RAFT_FETCHING) {
            peer->state = RAFT_STREAM; /* what is being read is not needed any more */
        }
    }
    flights_landed(peer);
    leader_advance_commit(raft);
}

static void note_damage(struct raft_progress *peer, bool is_damaged)
{
    bool is_healed = peer->is_damaged && !is_damaged;
    peer->is_damaged = is_damaged;
    if (is_damaged) {
        peer->is_refuted = false; /* it knows */
        peer->digest = peer->mark = (struct raft_digest){ 0 };
    }
    if (is_healed && peer->state != RAFT_IMAGING) {
        image_over(peer);
    }
}

/* I14. A suspicion that begins, or another one: whatever it may have acknowledged is below what
 * stands here now; what it holds is to be found out. */
static void note_episode(struct raft *raft, struct raft_progress *peer, uint64_t episode)
{
    if (episode != 0 && episode != peer->episode) {
        peer->heal_index = raft->last_index;
        peer->match = 0;
        if (peer->state != RAFT_IMAGING) {
            probe_from(raft, peer,
                       max_u64(raft->log_start, min_u64(peer->next, raft->last_index + 1)));
        }
    }
    peer->episode = episode;
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
static void leader_vouch(struct raft *raft)
{
    if (raft->commit >= raft->noop_index) {
        lease_vouch(&raft->lease, raft->config.replica_count, leader_confirmed(raft));
    }
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
        *unknown += told == 0 && newest < index && is_heard_lately(raft, peer->heard_ms);
    }
    return count;
}

/* A majority that agrees is right: damage hits one, and applying is deterministic. */
static void judge_digest(struct raft *raft, struct raft_progress *peer, uint64_t index)
{
    uint64_t own = own_digest(raft, index), told = told_digest(peer, index);
    int unknown;
    raft->digests_differed++;
    if (count_digest(raft, index, own, &unknown) >= majority(raft)) {
        peer->is_refuted = true;
    } else if (count_digest(raft, index, told, &unknown) >= majority(raft)) {
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

static void note_digest(struct raft *raft, struct raft_progress *peer, const struct raft_message *m)
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
        wants |= i != raft->private->self && is_heard_lately(raft, peer->heard_ms) &&
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

static void step_append_reply(struct raft *raft, const struct raft_message *m)
{
    struct raft_progress *peer = find_peer(raft, m->from);
    if (raft->role != RAFT_LEADER) {
        return;
    }
    peer->heard_ms = raft->private->now_ms;
    peer->is_full = m->is_full;
    note_episode(raft, peer, m->episode);
    if (!peer->episode) {
        lease_heard_reply(&raft->lease, (int)(peer - raft->progress), m->stamp, m->echo,
                          raft->private->now_ms);
        leader_vouch(raft);
    }
    if (m->flushed > peer->flushed && m->flushed <= raft->last_index) {
        peer->flushed = m->flushed;
        leader_advance_cut(raft);
    }
    note_damage(peer, m->needs_image);
    note_digest(raft, peer, m);
    if (m->granted) {
        append_granted(raft, peer, m);
    } else {
        append_refused(raft, peer, m);
    }
}

static void step_image_reply(struct raft *raft, const struct raft_message *m)
{
    struct raft_progress *peer = find_peer(raft, m->from);
    if (raft->role != RAFT_LEADER) {
        return;
    }
    peer->heard_ms = raft->private->now_ms;
    note_episode(raft, peer, m->episode);
    note_damage(peer, m->needs_image);
    if (m->sequence != peer->image_id || peer->image_id == 0) {
        return; /* about an image that is closed */
    }
    if (m->granted) {
        image_over(peer);
        if (peer->state == RAFT_IMAGING) {
            uint64_t commit = min_u64(m->hint, raft->last_index);
            probe_from(raft, peer, max_u64(peer->match, commit) + 1);
        }
    } else if (m->hint > peer->image_index) {
        image_over(peer);
        peer->image_floor = m->hint;
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
    uint64_t confirmed = majority_value(raft, acked);
    if (confirmed > raft->read_confirmed) {
        raft->read_confirmed = confirmed;
        raft->out.reads_confirmed = true;
    }
    if (raft->read_confirmed < raft->read_sequence && peer->read_sent < raft->read_sequence) {
        raft->out.read_round_wanted = true;
    }
}

static void step_read_reply(struct raft *raft, const struct raft_message *m)
{
    if (raft->role == RAFT_LEADER && m->granted && m->sequence <= raft->read_sequence) {
        struct raft_progress *peer = find_peer(raft, m->from);
        peer->allegiance = m->index;
        take_confirmation(raft, peer, m->sequence);
    }
}

/* Somebody's payload is damaged; the one here may serve. */
static void step_fill(struct raft *raft, const struct raft_message *m)
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

static bool entries_are_sound(const struct raft_message *m, const struct raft_entry *entries)
{
    uint64_t term = m->log_term;
    if (m->count > 0 && (!entries || m->count > LIMIT_RAFT_APPEND_ENTRIES)) {
        return false;
    }
    for (uint32_t i = 0; i < m->count; i++) {
        if (entries[i].term == 0 || entries[i].term < term || entries[i].term > m->term) {
            return false;
        }
        term = entries[i].term;
    }
    return true;
}

/* What comes from the network is not trusted to make sense. */
static bool is_sound(struct raft *raft, const struct raft_message *m,
                     const struct raft_entry *entries)
{
    const uint64_t index_max = UINT64_MAX / 2; /* nothing below overflows by adding */
    if (m->type == 0 || m->type >= RAFT_MESSAGE_MAX || m->group != raft->config.group ||
        m->to != raft->config.self || !find_peer(raft, m->from)) {
        return false;
    }
    if (m->term == 0 || m->term > index_max || m->index > index_max || m->log_term > m->term) {
        return false;
    }
    if (m->type == RAFT_IMAGE && (m->index == 0 || m->log_term == 0 || m->sequence == 0)) {
        return false;
    }
    if (m->type != RAFT_APPEND && m->type != RAFT_FILL_REPLY) {
        return m->count == 0;
    }
    return entries_are_sound(m, entries) && (m->type == RAFT_APPEND || m->count == 1);
}

/* False: the message is done with. */
static bool step_higher_term(struct raft *raft, const struct raft_message *m)
{
    if (m->type == RAFT_PRE_VOTE || (m->type == RAFT_PRE_VOTE_REPLY && m->granted)) {
        return true; /* a term that nobody has entered yet */
    }
    if (m->type == RAFT_VOTE && !m->transfer && is_sticky(raft)) {
        return false;
    }
    become_follower(raft, m->term, 0);
    return true;
}

/* The sender must learn that the world moved on: also a leader that can no longer lead us, because
 * our term is durable. */
static void step_lower_term(struct raft *raft, const struct raft_message *m)
{
    uint8_t reply = m->type == RAFT_PRE_VOTE ? RAFT_PRE_VOTE_REPLY
                    : m->type == RAFT_VOTE   ? RAFT_VOTE_REPLY
                    : m->type == RAFT_APPEND ? RAFT_APPEND_REPLY
                    : m->type == RAFT_READ   ? RAFT_READ_REPLY
                    : m->type == RAFT_IMAGE  ? RAFT_IMAGE_REPLY
                                             : 0;
    if (reply) {
        struct raft_message *refusal = emit(raft, reply, m->from);
        refusal->index = reply == RAFT_APPEND_REPLY ? m->index : 0;
        refusal->sequence = m->sequence;
    }
}

void raft_step(struct raft *raft, const struct raft_message *m, const struct raft_entry *entries)
{
    CHECK(!raft->out
               .append); /* the driver hands entries to the log before it steps the next message */
    if (!is_sound(raft, m, entries)) {
        return;
    }
    remember(raft, m);
    if (m->term < raft->term) {
        step_lower_term(raft, m);
        return;
    }
    if (m->term > raft->term && !step_higher_term(raft, m)) {
        return;
    }
    switch (m->type) {
    case RAFT_PRE_VOTE:
        step_pre_vote(raft, m);
        break;
    case RAFT_VOTE:
        step_vote(raft, m);
        break;
    case RAFT_PRE_VOTE_REPLY:
    case RAFT_VOTE_REPLY:
        step_vote_reply(raft, m);
        break;
    case RAFT_APPEND:
        step_append(raft, m, entries);
        break;
    case RAFT_APPEND_REPLY:
        step_append_reply(raft, m);
        break;
    case RAFT_READ:
        step_read(raft, m);
        break;
    case RAFT_READ_REPLY:
        step_read_reply(raft, m);
        break;
    case RAFT_TRANSFER:
        step_transfer(raft, m);
        break;
    case RAFT_FILL:
        step_fill(raft, m);
        break;
    case RAFT_IMAGE:
        step_image(raft, m);
        break;
    case RAFT_IMAGE_REPLY:
        step_image_reply(raft, m);
        break;
    }
}

static bool hears_majority(const struct raft *raft)
{
    int heard = 1;
    for (int i = 0; i < raft->config.replica_count; i++) {
        heard += i != raft->private->self && !raft->progress[i].episode &&
                 is_heard_lately(raft, raft->progress[i].heard_ms);
    }
    return heard >= majority(raft);
}

/* When the peer is to hear something again, if it doesn't sooner. Not a heartbeat's time after it
 * heard the last, but when the clock passes a multiple of that: so the heartbeats of all groups
 * between two nodes fall together and share a frame, a wake-up and an answer. What was sent within
 * the last quarter before such a moment stands for it, so silence lasts five quarters at most. */
static uint64_t heartbeat_at(const struct raft *raft, const struct raft_progress *peer)
{
    uint64_t beat = raft->config.heartbeat_ms;
    return ((peer->sent_ms + beat / HEARTBEAT_GRACE) / beat + 1) * beat;
}

static void tick_peer(struct raft *raft, struct raft_progress *peer)
{
    uint64_t now = raft->private->now_ms;
    if (now >= heartbeat_at(raft, peer) ||
        (wants_image(peer) && now - peer->image_sent_ms >= raft->config.heartbeat_ms)) {
        peer->heartbeat_due = true;
    }
    if (wants_image(peer) && now - peer->heard_ms > (uint64_t)IMAGE_SILENCE_TIMEOUTS *
                                                        raft->config.election_timeout_ms) {
        image_over(peer);
        peer->is_damaged = false;          /* it says so again when it comes back */
        if (peer->state == RAFT_IMAGING) { /* and may hold more by then */
            probe_from(raft, peer, max_u64(peer->match + 1, raft->log_start));
        }
    }
    bool reads_wait = raft->read_confirmed < raft->read_sequence;
    if (reads_wait && peer->read_sent > peer->read_acked &&
        now - peer->read_sent_ms >= raft->config.heartbeat_ms) {
        peer->read_sent = peer->read_acked; /* the question or its answer was lost */
        raft->out.read_round_wanted = true;
    }
}

/* A leader asks everybody for the payload that it lacks. */
static void ask_for_payload(struct raft *raft)
{
    struct raft_private *p = raft->private;
    p->fill_asked_ms = p->now_ms;
    for (int i = 0; i < raft->config.replica_count; i++) {
        if (i != p->self) {
            struct raft_message *ask = emit(raft, RAFT_FILL, raft->config.replicas[i]);
            ask->index = raft->unfilled;
            ask->log_term = raft_term_at(raft, raft->unfilled);
        }
    }
}

/* Asks again for what nobody has sent. A leader whom nobody helps can't commit or apply: it gives
 * way for a while. */
static void tick_holes(struct raft *raft)
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

static void tick_leader(struct raft *raft)
{
    if (!hears_majority(raft) || (raft->needs_image && !raft->transfer_to)) {
        become_follower(raft, raft->term, 0); /* the second: nobody took over in time */
        return;
    }
    if (raft->transfer_to && raft->private->now_ms >= raft->private->transfer_deadline_ms) {
        transfer_end(raft);
    }
    for (int i = 0; i < raft->config.replica_count; i++) {
        if (i != raft->private->self) {
            tick_peer(raft, &raft->progress[i]);
        }
    }
    tick_holes(raft);
}

static uint64_t leader_quiet_until(const struct raft *raft)
{
    uint64_t until = UINT64_MAX;
    if (raft->transfer_to || raft->needs_image || raft->hole || raft->unfilled ||
        raft->read_confirmed < raft->read_sequence) {
        return 0;
    }
    for (int i = 0; i < raft->config.replica_count; i++) {
        const struct raft_progress *peer = &raft->progress[i];
        if (i != raft->private->self && wants_image(peer)) {
            return 0;
        }
        if (i != raft->private->self) {
            uint64_t silent = peer->heard_ms + raft->config.election_timeout_ms;
            until = min_u64(until, heartbeat_at(raft, peer));
            until = is_heard_lately(raft, peer->heard_ms) ? min_u64(until, silent) : until;
        }
    }
    return until;
}

uint64_t raft_quiet_until(const struct raft *raft)
{
    return raft->role == RAFT_LEADER     ? leader_quiet_until(raft)
           : raft->role == RAFT_FOLLOWER ? raft->private->election_deadline_ms
                                         : 0;
}

void raft_clock(struct raft *raft, uint64_t now_ms)
{
    raft->private->now_ms = max_u64(raft->private->now_ms, now_ms);
}

void raft_tick(struct raft *raft, uint64_t now_ms)
{
    struct raft_private *p = raft->private;
    raft_clock(raft, now_ms);
    if (raft->role == RAFT_LEADER) {
        tick_leader(raft);
    } else if (p->now_ms >= p->election_deadline_ms &&
               (raft->needs_image || raft->is_suspect || raft_is_short(raft))) {
        become_follower(raft, raft->term, 0);
        reset_election_timer(raft);
    } else if (p->now_ms >= p->election_deadline_ms) {
        become_pre_candidate(raft);
    } else if (raft->role == RAFT_PRE_CANDIDATE ||
               (raft->role == RAFT_CANDIDATE && p->state_durable)) {
        if (p->now_ms - p->campaign_sent_ms >= raft->config.heartbeat_ms / CAMPAIGN_REPEAT) {
            campaign_ask(raft);
        }
    }
}

/* --- Word from the log and the store
 * ---------------------------------------------------------------------------------------- */

void raft_state_durable(struct raft *raft, uint64_t term, uint64_t vote)
{
    struct raft_private *p = raft->private;
    if (term != raft->term || vote != raft->vote || p->state_durable) {
        return; /* older word: what is promised now comes with a later one */
    }
    p->state_durable = true;
    release_held(raft);
    if (raft->role == RAFT_CANDIDATE) {
        count_vote(raft, p->self);
    }
}

void raft_entries_durable(struct raft *raft, uint64_t index, uint64_t term)
{
    struct raft_private *p = raft->private;
    if (index <= raft->durable_index || index > raft->last_index ||
        raft_term_at(raft, index) != term) {
        return;
    }
    raft->durable_index = index;
    if (raft->role == RAFT_LEADER) {
        leader_advance_commit(raft);
    } else if (min_u64(p->verified, sound_index(raft)) > p->acked) {
        p->ack_due = raft->role == RAFT_FOLLOWER;
    }
}

void raft_flushed(struct raft *raft, uint64_t index)
{
    CHECK(index <= raft->commit && index <= raft->durable_index);
    raft->flushed = max_u64(raft->flushed, index);
    if (raft->role == RAFT_LEADER) {
        leader_advance_cut(raft);
    }
}

bool raft_fetched(struct raft *raft, uint64_t to, uint64_t first, uint32_t count, uint32_t bytes)
{
    struct raft_progress *peer = find_peer(raft, to);
    if (!peer || raft->role != RAFT_LEADER || peer->state != RAFT_FETCHING || peer->next != first) {
        return false;
    }
    peer->state = RAFT_STREAM;
    if (count == 0 || is_held_back(peer)) {
        peer->fetch_after_ms = raft->private->now_ms + raft->config.heartbeat_ms;
        peer->next = max_u64(peer->next, peer->resume); /* it will say again what it lacks */
        peer->resume = 0;
        return false;
    }
    CHECK(first + count <= raft->last_index + 1);
    entries_emit(raft, peer, count, bytes);
    return true;
}

void raft_log_cut(struct raft *raft, uint64_t log_start)
{
    struct raft_private *p = raft->private;
    CHECK(log_start >= raft->log_start);
    CHECK(log_start - 1 <= raft->commit && log_start - 1 <= raft->durable_index); /* I1 */
    if (log_start == raft->log_start) {
        return;
    }
    raft->start_term = raft_term_at(raft, log_start - 1);
    size_t gone = log_start > raft->last_index ? p->run_count : runs_find(raft, log_start);
    p->run_count -= gone;
    memmove(p->runs, p->runs + gone, p->run_count * sizeof(*p->runs));
    if (p->run_count > 0) {
        p->runs[0].first = log_start;
    }
    raft->log_start = log_start;
    for (int i = 0; raft->role == RAFT_LEADER && i < raft->config.replica_count; i++) {
        struct raft_progress *peer = &raft->progress[i];
        if (i != p->self && peer->state == RAFT_IMAGING) {
            peer->next = max_u64(peer->next, log_start);
        } else if (i != p->self && peer->next < log_start) {
            probe_from(raft, peer, log_start);
        }
        if (peer->image_id != 0 && peer->image_index + 1 < log_start) {
            image_over(peer); /* the log could not follow it */
        }
    }
}

/* What the replica still needs of the log, given that there is little room. */
static uint64_t cut_below_peer(const struct raft *raft, const struct raft_progress *peer,
                               enum raft_cut level)
{
    if (peer->state == RAFT_IMAGING) {
        bool is_pinned = peer->image_id != 0 && level < RAFT_CUT_ALL;
        return is_pinned ? peer->image_index : UINT64_MAX;
    }
    bool is_spared = level == RAFT_CUT_HEARD && is_heard_lately(raft, peer->heard_ms);
    return is_spared ? peer->match : UINT64_MAX;
}

uint64_t raft_cut_at(const struct raft *raft, enum raft_cut level)
{
    uint64_t cut = raft->flushed;
    if (level == RAFT_CUT_SPARING || raft->needs_image) { /* a damaged store holds nothing */
        cut = min_u64(cut, raft->cut);
    }
    for (int i = 0; raft->role == RAFT_LEADER && i < raft->config.replica_count; i++) {
        if (i != raft->private->self) {
            cut = min_u64(cut, cut_below_peer(raft, &raft->progress[i], level));
        }
    }
    return cut;
}

/* The question that it was asked last is not to be answered any more. */
static void read_unsend(struct raft *raft, struct raft_progress *peer)
{
    if (peer->read_sent > peer->read_acked) {
        peer->read_sent = peer->read_acked;
        raft->out.read_round_wanted |= raft->read_confirmed < raft->read_sequence;
    }
}

void raft_peer_reset(struct raft *raft, uint64_t replica)
{
    struct raft_progress *peer = find_peer(raft, replica);
    if (!peer || raft->role != RAFT_LEADER) {
        return;
    }
    if (peer->state == RAFT_IMAGING) {
        peer->image_sent_ms = 0; /* the transfer goes on where it stood */
    } else {
        peer->state = RAFT_PROBE;
        peer->probe_sent = false;
        peer->next = max_u64(peer->match + 1, raft->log_start);
        flights_clear(peer);
    }
    lease_peer_reset(&raft->lease, (int)(peer - raft->progress));
    peer->allegiance = 0;
    read_unsend(raft, peer);
    raft->private->transfer_sent &= raft->transfer_to != replica;
}

void raft_peer_restarted(struct raft *raft, uint64_t replica)
{
    struct raft_progress *peer = find_peer(raft, replica);
    if (peer && raft->role == RAFT_LEADER) {
        peer->match = 0; /* `next` stands behind it: if all is there, the first probe finds it */
    }
}

/* --- Disks put back */

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
        become_follower(raft, term, 0);
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
           is_before(last_term(raft), raft->last_index, told->log_term, told->index);
}

static bool remind_log(struct raft *raft, const struct raft_memory *told)
{
    if (!lacks_promised(raft, told)) {
        return false;
    }
    if (is_before(raft->owed_term, raft->owed_index, told->log_term, told->index)) {
        raft->owed_term = told->log_term;
        raft->owed_index = told->index;
    }
    return !told->has_led; /* else it is as likely that its disk was not done when it died */
}

/* It campaigns or leads, and must not. */
static void give_way(struct raft *raft)
{
    if (raft->role != RAFT_FOLLOWER) {
        become_follower(raft, raft->term, 0);
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
    note_change(raft);
    raft->episode = random_next(raft) | 1;
    p->heal_asked = false;
    for (int i = 0; i < raft->config.replica_count; i++) {
        spend_vote(raft, p->told_term[i]);
    }
}

/* --- Images */

int raft_image_offer(struct raft *raft, uint64_t to, uint64_t index, uint64_t id)
{
    struct raft_progress *peer = find_peer(raft, to);
    CHECK(id != 0);
    if (raft->role != RAFT_LEADER) {
        return ERR_NOT_PRIMARY;
    }
    if (!peer || !wants_image(peer) || index == 0 || index + 1 < raft->log_start ||
        index < peer->image_floor || index > raft->commit) {
        return ERR_BAD_REQUEST;
    }
    peer->image_id = id;
    peer->image_index = index;
    peer->image_sent_ms = 0;
    return 0;
}

void raft_image_withdraw(struct raft *raft, uint64_t to)
{
    struct raft_progress *peer = find_peer(raft, to);
    if (peer && raft->role == RAFT_LEADER) {
        image_over(peer);
    }
}

bool raft_image_may_install(const struct raft *raft, uint64_t index, uint64_t term)
{
    /* The term must be durable: a log that begins with a term above its own would be no log. */
    if (raft->role == RAFT_LEADER || !raft->private->state_durable) {
        return false;
    }
    if (raft->needs_image) {
        return index + 1 >= raft->log_start && !contradicts_image(raft, index, term);
    }
    return !has_image(raft, index, term);
}

static void log_empty(struct raft *raft, uint64_t index, uint64_t term)
{
    CHECK(index > raft->commit && raft->role != RAFT_LEADER && !raft->out.append);
    raft->private->run_count = 0;
    raft->log_start = index + 1;
    raft->start_term = term;
    raft->last_index = raft->durable_index = index;
    raft->private->verified = min_u64(raft->private->verified, index);
}

bool raft_image_installed(struct raft *raft, uint64_t index, uint64_t term)
{
    struct raft_private *p = raft->private;
    CHECK(index > 0 && term <= raft->term);
    if (index + 1 == raft->log_start && start_is_unknown(raft)) {
        raft->start_term = term; /* I15 */
        raft->out.start_learned = true;
    }
    bool is_kept = index <= raft->last_index && raft_term_at(raft, index) == term;
    if (!is_kept) {
        log_empty(raft, index, term);
    }
    raft->durable_index = max_u64(raft->durable_index, index); /* in the store, if not in the log */
    raft->flushed = index;
    memset(raft->digests, 0, sizeof raft->digests);
    memset(raft->marks, 0, sizeof raft->marks);
    raft->lease.fresh_ms = raft->needs_image ? 0 : raft->lease.fresh_ms; /* it may have gone back */
    raft->needs_image = false;
    if (index > raft->commit) {
        raft->commit = index;
        raft->out.commit_advanced = true;
    }
    p->verified = max_u64(p->verified, index); /* I11 */
    p->ack_due = raft->role == RAFT_FOLLOWER;
    return is_kept;
}

void raft_need_image(struct raft *raft)
{
    raft->needs_image = true;
    if (raft->role == RAFT_PRE_CANDIDATE || raft->role == RAFT_CANDIDATE ||
        (raft->role == RAFT_LEADER && !raft->transfer_to && raft_transfer(raft, 0) != 0)) {
        become_follower(raft, raft->term, 0);
    }
    raft->private->ack_due = raft->role == RAFT_FOLLOWER && raft->private->acked > 0;
}

int raft_propose(struct raft *raft, const uint32_t *sizes, uint32_t count, uint64_t *first)
{
    (void)sizes; /* the driver answers for bytes, by entries_in_memory */
    if (raft->role != RAFT_LEADER || raft->transfer_to) {
        return ERR_NOT_PRIMARY;
    }
    CHECK(count > 0);
    *first = raft->last_index + 1;
    runs_push(raft, raft->term);
    raft->last_index += count - 1;
    effect_append(raft, *first, count, 0);
    return 0;
}

bool raft_is_noop(const struct raft *raft, uint64_t index)
{
    return index != 0 && index == raft->noop_index;
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
    if (majority(raft) == 1) {
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
    if (!read_mark(raft, find_peer(raft, replica))) {
        return false;
    }
    emit(raft, RAFT_READ, replica)->sequence = raft->read_sequence;
    return true;
}

bool raft_read_ride(struct raft *raft, uint64_t replica, uint64_t changes)
{
    struct raft_progress *peer = find_peer(raft, replica);
    return peer && changes != 0 && peer->allegiance == changes && read_mark(raft, peer);
}

void raft_read_ridden(struct raft *raft, uint64_t replica, uint64_t term, uint64_t sequence,
                      bool is_confirmed)
{
    struct raft_progress *peer = find_peer(raft, replica);
    if (!peer || raft->role != RAFT_LEADER || raft->term != term) {
        return;
    }
    CHECK(sequence <= raft->read_sequence);
    if (is_confirmed) {
        take_confirmation(raft, peer, sequence);
    } else {
        read_unsend(raft, peer);
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

bool raft_is_everywhere(const struct raft *raft, uint64_t index)
{
    for (int i = 0; i < raft->config.replica_count; i++) {
        const struct raft_progress *peer = &raft->progress[i];
        bool is_missing = i == raft->private->self
                              ? raft->durable_index < index
                              : peer->match < index && is_heard_lately(raft, peer->heard_ms);
        if (is_missing) {
            return false;
        }
    }
    return true;
}

bool raft_needs_no_image(const struct raft *raft)
{
    int count = !raft->is_suspect;
    for (int i = 0; i < raft->config.replica_count; i++) {
        const struct raft_progress *peer = &raft->progress[i];
        count += i != raft->private->self && is_heard_lately(raft, peer->heard_ms) &&
                 peer->state != RAFT_IMAGING && !peer->episode;
    }
    return count * 2 > raft->config.replica_count;
}

void raft_applied(struct raft *raft, uint64_t applied)
{
    lease_applied(&raft->lease, applied);
    if (raft->role == RAFT_LEADER && raft->commit >= raft->noop_index && applied >= raft->commit) {
        raft->lease.fresh_ms = max_u64(raft->lease.fresh_ms, leader_confirmed(raft));
    }
}

/* The most caught-up member among those heard lately. */
static struct raft_progress *transfer_choose(struct raft *raft)
{
    struct raft_progress *best = NULL;
    for (int i = 0; i < raft->config.replica_count; i++) {
        struct raft_progress *peer = &raft->progress[i];
        bool waits = peer->is_full && peer->match < raft->last_index;
        if (i != raft->private->self && is_heard_lately(raft, peer->heard_ms) && !waits &&
            !wants_image(peer) && !peer->episode && (!best || peer->match > best->match)) {
            best = peer;
        }
    }
    return best;
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
        leader_advance_commit(raft);
    } else {
        p->ack_due = raft->role == RAFT_FOLLOWER; /* the leader sends again, or counts on */
    }
}

bool raft_fill_send(struct raft *raft, uint64_t to, uint64_t index)
{
    if (!find_peer(raft, to) || index < raft->log_start || index > raft->last_index) {
        return false;
    }
    struct raft_message *reply = emit(raft, RAFT_FILL_REPLY, to);
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

int raft_transfer(struct raft *raft, uint64_t to)
{
    struct raft_private *p = raft->private;
    if (raft->role != RAFT_LEADER) {
        return ERR_NOT_PRIMARY;
    }
    if (raft->transfer_to) {
        return ERR_BUSY;
    }
    struct raft_progress *peer = to ? find_peer(raft, to) : transfer_choose(raft);
    if (!peer || peer->episode) {
        return to && !peer ? ERR_BAD_REQUEST : ERR_UNAVAILABLE;
    }
    raft->transfer_to = peer->id;
    p->transfer_deadline_ms = p->now_ms + raft->config.election_timeout_ms;
    p->transfer_sent = false;
    return 0;
}

void raft_step_down(struct raft *raft)
{
    become_follower(raft, raft->term, raft->role == RAFT_FOLLOWER ? raft->leader : 0);
    raft->private->election_deadline_ms =
        raft->private->now_ms + (uint64_t)STEP_DOWN_TIMEOUTS * raft->config.election_timeout_ms;
}

static void init_config(struct raft *raft, const struct raft_config *config)
{
    struct raft_config *own = &raft->config;
    *own = *config;
    CHECK(own->replica_count > 0 && own->replica_count <= LIMIT_REPLICAS);
    CHECK(own->election_timeout_ms > 0 && own->heartbeat_ms > 0);
    CHECK(own->heartbeat_ms < own->election_timeout_ms && own->entries_in_memory);
    CHECK(own->inflight_messages_max > 0 && own->inflight_bytes_max > 0);
    CHECK(own->inflight_messages_max <= LIMIT_RAFT_INFLIGHT_MESSAGES);
    CHECK(own->append_bytes_max > 0 && own->append_entries_max > 0);
    CHECK(own->append_entries_max <= LIMIT_RAFT_APPEND_ENTRIES);
    raft->private->self = -1;
    for (int i = 0; i < own->replica_count; i++) {
        CHECK(own->replicas[i] != 0);
        raft->progress[i].id = own->replicas[i];
        if (own->replicas[i] == own->self) {
            raft->private->self = i;
        }
    }
    CHECK(raft->private->self >= 0);
}

static void init_log(struct raft *raft, const struct raft_start *start)
{
    struct raft_private *p = raft->private;
    CHECK(start->log_start > 0 && start->last_index + 1 >= start->log_start);
    CHECK(start->commit <= start->last_index);
    CHECK((start->run_count == 0) == (start->last_index + 1 == start->log_start));
    raft->log_start = start->log_start;
    raft->start_term = start->start_term;
    raft->last_index = raft->durable_index = start->last_index;
    raft->commit = max_u64(start->commit, start->log_start - 1);
    p->run_count = p->run_capacity = start->run_count;
    if (start->run_count == 0) {
        return;
    }
    p->runs = mem_alloc(start->run_count * sizeof(*p->runs));
    for (size_t i = 0; i < start->run_count; i++) {
        const struct raft_run *run = &start->runs[i];
        uint64_t after = i == 0 ? start->log_start : start->runs[i - 1].first + 1;
        CHECK(i == 0 ? run->first == after : run->first >= after);
        CHECK(run->first <= start->last_index && run->term <= start->term);
        p->runs[i] = *run;
    }
}

void raft_init(struct raft *raft, const struct raft_config *config, const struct raft_start *start,
               uint64_t now_ms)
{
    *raft = (struct raft){ .role = RAFT_FOLLOWER, .term = start->term, .vote = start->vote };
    raft->private = MEM_NEW(struct raft_private);
    raft->private->state_durable = true;
    raft->private->now_ms = now_ms;
    init_config(raft, config);
    raft->private->random = config->seed ^ config->self * 0x9e3779b97f4a7c15u ^ config->group;
    init_log(raft, start);
    raft->private->began_term = start->term;
    raft->private->began_vote = start->vote;
    raft->private->is_to_hear = start->is_to_hear;
    raft->is_suspect = start->is_suspect;
    raft->episode = start->is_suspect ? random_next(raft) | 1 : 0;
    reset_election_timer(raft);
    /* Without a durable term it never followed anybody; alone it promised nobody. */
    lease_init(&raft->lease, now_ms, config->election_timeout_ms,
               start->term > 0 && config->replica_count > 1);
    if (config->replica_count == 1) {
        raft->private->election_deadline_ms = now_ms; /* there is no leader to wait for */
    }
}

void raft_fini(struct raft *raft)
{
    mem_free(raft->private->runs);
    mem_free(raft->private);
    mem_free(raft->out.messages);
    *raft = (struct raft){ 0 };
}

void raft_effects_clear_log(struct raft *raft)
{
    raft->out.persist_state = false;
    raft->out.append = false;
    raft->out.append_first = 0;
    raft->out.append_count = raft->out.append_skip = 0;
}

void raft_effects_clear(struct raft *raft)
{
    memset(&raft->out, 0, offsetof(struct raft_effects, messages));
}

const char *raft_role_name(enum raft_role role)
{
    static const char *const names[] = { "follower", "pre-candidate", "candidate", "leader" };
    return (unsigned)role < sizeof(names) / sizeof(names[0]) ? names[role] : "?";
}

const char *raft_message_name(uint8_t type)
{
    static const char *const names[] = { "?",          "pre-vote",  "pre-vote-reply", "vote",
                                         "vote-reply", "append",    "append-reply",   "read",
                                         "read-reply", "transfer",  "image",          "image-reply",
                                         "fill",       "fill-reply" };
    return type < sizeof(names) / sizeof(names[0]) ? names[type] : names[0];
}
