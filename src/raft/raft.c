/* The Raft core of one group's replica: event and state in, state and effects out.
 *
 * Every public function is an event. It changes `struct raft` and notes in raft->out what the
 * driver must do; nothing else happens. What can wait for the end of the loop turn (appends,
 * heartbeats, acks) is only marked, and emitted by raft_flush, so that many
 * events cost one message per follower.
 *
 * Files (raft_private.h is what they share)
 *   raft.c         messages and ticks come in here, effects go out; beginning, ending, names
 *   raft_runs.c    the log as terms; how far it may be cut
 *   raft_elect.c   roles, votes, handing over
 *   raft_lead.c    the leader's side of replication
 *   raft_follow.c  the follower's
 *   raft_beat.c    heartbeats of groups at rest
 *   raft_image.c   images of the store
 *   raft_read.c    reads: rounds and leases
 *   raft_damage.c  what a disk has lost: digests, what others remember, holes
 *
 * Invariants of them all
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
 *   I20 A beat (raft_beat.c) stands for an append without entries that says what the last one said. The leader sends one only where
 *       the newest append that it sent in this term told its last index as committed and its present cut, and was acknowledged as a
 *       whole, with nothing asked for: so the follower held all that the leader has, and knew it to be committed. The follower
 *       follows one only if it follows that replica in the beat's term, and holds nothing but what is verified, durable,
 *       acknowledged and committed, and its last answers said all that it has to say. A follower's log only grows within a term, so
 *       whatever way a beat took it finds what it speaks of, and the beat's echo is as true of the follower's commit index as of
 *       the leader's. An answer counts only in the beat's term, where an append was acknowledged in it before: so it confirms
 *       neither leader nor lease of another term. What doesn't fit is refused, and a whole heartbeat follows.
 *
 *   I21 A replica that needs an image (needs_image) can't serve, so others go first. But its log and votes
 *       are good, and it may be the only one to hold what the others must have before they may lead
 *       (I17, §5.4.1). So when nobody has led for a while it stands in: it campaigns as any other would,
 *       serves nothing, and hands over to the first that has caught up; if none does, it steps down.
 *
 *   I22 Where two replicas are a majority, a follower that asks its leader for the commit index is itself
 *       the confirmation of that leader: at the time of the question it was in its term t, at the time
 *       of the answer the leader was still, so neither had voted in a later term before the question,
 *       and no later leader can have been elected, or have acknowledged anything, before it. What was
 *       acknowledged before lies below the commit index of the answer: by a leader of t, which says it,
 *       or of an earlier term, once the no-op of t is committed. So a read that came before the question
 *       sees it where that index is applied. A suspect replica may have forgotten a vote: it doesn't ask
 *       and isn't answered (I14).
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
#include "base/mem.h"
#include "raft/raft_private.h"

/* A campaign's question is repeated after that part of a heartbeat's time: whoever heard the dead
 * leader a little later (an append, a read round) is still bound to it when the successor asks
 * first. */
enum { CAMPAIGN_REPEAT = 4 };

/* Election timeouts that pass without a leader before a replica that needs an image stands in (I21). */
enum { STAND_IN_AFTER = 3 };

uint64_t raft_majority_value(const struct raft *raft, const uint64_t *values)
{
    if (raft->config.replica_count == 3) {
        return lease_median(values[0], values[1], values[2]);
    }
    uint64_t sorted[LIMIT_REPLICAS];
    for (int i = 0; i < raft->config.replica_count; i++) {
        int at = i;
        for (; at > 0 && sorted[at - 1] < values[i]; at--) {
            sorted[at] = sorted[at - 1];
        }
        sorted[at] = values[i];
    }
    return sorted[raft_majority(raft) - 1];
}

struct raft_message *raft_emit(struct raft *raft, uint8_t type, uint64_t to)
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
        *raft_emit(raft, p->held[i].type, p->held[i].to) = p->held[i];
    }
    p->held_count = 0;
}

void raft_effect_append(struct raft *raft, uint64_t first, uint32_t count, uint32_t skip)
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

void raft_prefetch(const struct raft *raft)
{
    enum { LINE = 64, MEMBERS = 3 /* nearly all groups have no more */ };
    const struct raft_private *p = raft->private;
    const uint8_t *timers = (const uint8_t *)p, *memory = (const uint8_t *)p->memory;
    for (size_t i = 0; i < offsetof(struct raft_private, told_term); i += LINE) {
        __builtin_prefetch(timers + i);
    }
    for (size_t i = 0; i < MEMBERS * sizeof p->memory[0]; i += LINE) {
        __builtin_prefetch(memory + i);
    }
    __builtin_prefetch(raft->out.messages);
}

void raft_flush(struct raft *raft)
{
    if (raft->role == RAFT_FOLLOWER) {
        raft_flush_ack(raft);
    }
    if (raft->role == RAFT_LEADER) {
        raft_lead_flush(raft);
    }
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
    return raft_lead_has_news(raft);
}

bool raft_only_speaks(const struct raft *raft)
{
    if (has_effects(raft) || raft->transfer_to != 0 || !raft->private->state_durable) {
        return false;
    }
    if (raft->role != RAFT_LEADER) {
        return raft->role == RAFT_FOLLOWER && raft->private->ack_due && raft->leader != 0;
    }
    return raft_lead_only_speaks(raft);
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
        m->to != raft->config.self || !raft_find_peer(raft, m->from)) {
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
    if (m->type == RAFT_VOTE && !m->transfer && raft_is_sticky(raft)) {
        return false;
    }
    raft_become_follower(raft, m->term, 0);
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
        struct raft_message *refusal = raft_emit(raft, reply, m->from);
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
    raft_remember(raft, m);
    if (m->term < raft->term) {
        step_lower_term(raft, m);
        return;
    }
    if (m->term > raft->term && !step_higher_term(raft, m)) {
        return;
    }
    switch (m->type) {
    case RAFT_PRE_VOTE:
        raft_step_pre_vote(raft, m);
        break;
    case RAFT_VOTE:
        raft_step_vote(raft, m);
        break;
    case RAFT_PRE_VOTE_REPLY:
    case RAFT_VOTE_REPLY:
        raft_step_vote_reply(raft, m);
        break;
    case RAFT_APPEND:
        raft_step_append(raft, m, entries);
        break;
    case RAFT_APPEND_REPLY:
        raft_step_append_reply(raft, m);
        break;
    case RAFT_READ:
        raft_step_read(raft, m);
        break;
    case RAFT_READ_REPLY:
        raft_step_read_reply(raft, m);
        break;
    case RAFT_TRANSFER:
        raft_step_transfer(raft, m);
        break;
    case RAFT_FILL:
        raft_step_fill(raft, m);
        break;
    case RAFT_IMAGE:
        raft_step_image(raft, m);
        break;
    case RAFT_IMAGE_REPLY:
        raft_step_image_reply(raft, m);
        break;
    }
}

uint64_t raft_quiet_until(const struct raft *raft)
{
    return raft->role == RAFT_LEADER     ? raft_lead_quiet_until(raft)
           : raft->role == RAFT_FOLLOWER ? raft->private->election_deadline_ms
                                         : 0;
}

void raft_clock(struct raft *raft, uint64_t now_ms)
{
    raft->private->now_ms = max_u64(raft->private->now_ms, now_ms);
}

static bool may_campaign(const struct raft *raft)
{
    bool is_served = !raft->needs_image || raft->private->passed_over >= STAND_IN_AFTER; /* I21 */
    return is_served && !raft->is_suspect && !raft_is_short(raft);
}

void raft_tick(struct raft *raft, uint64_t now_ms)
{
    struct raft_private *p = raft->private;
    raft_clock(raft, now_ms);
    if (raft->role == RAFT_LEADER) {
        raft_lead_tick(raft);
    } else if (p->now_ms >= p->election_deadline_ms && !may_campaign(raft)) {
        p->passed_over += p->passed_over < STAND_IN_AFTER;
        raft_become_follower(raft, raft->term, 0);
        raft_reset_election_timer(raft);
    } else if (p->now_ms >= p->election_deadline_ms) {
        raft_become_pre_candidate(raft);
    } else if (raft->role == RAFT_PRE_CANDIDATE ||
               (raft->role == RAFT_CANDIDATE && p->state_durable)) {
        if (p->now_ms - p->campaign_sent_ms >= raft->config.heartbeat_ms / CAMPAIGN_REPEAT) {
            raft_campaign_ask(raft);
        }
    }
}

void raft_state_durable(struct raft *raft, uint64_t term, uint64_t vote)
{
    struct raft_private *p = raft->private;
    if (term != raft->term || vote != raft->vote || p->state_durable) {
        return; /* older word: what is promised now comes with a later one */
    }
    p->state_durable = true;
    release_held(raft);
    if (raft->role == RAFT_CANDIDATE) {
        raft_count_vote(raft, p->self);
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
        raft_leader_advance_commit(raft);
    } else if (min_u64(p->verified, raft_sound_index(raft)) > p->acked) {
        p->ack_due = raft->role == RAFT_FOLLOWER;
    }
}

void raft_flushed(struct raft *raft, uint64_t index)
{
    CHECK(index <= raft->commit && index <= raft->durable_index);
    raft->flushed = max_u64(raft->flushed, index);
    if (raft->role == RAFT_LEADER) {
        raft_leader_advance_cut(raft);
    }
}

bool raft_is_noop(const struct raft *raft, uint64_t index)
{
    return index != 0 && index == raft->noop_index;
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

void raft_init(struct raft *raft, const struct raft_config *config, const struct raft_start *start,
               uint64_t now_ms)
{
    *raft = (struct raft){ .role = RAFT_FOLLOWER, .term = start->term, .vote = start->vote };
    raft->private = MEM_NEW(struct raft_private);
    raft->private->state_durable = true;
    raft->private->now_ms = now_ms;
    init_config(raft, config);
    raft->private->random = config->seed ^ config->self * 0x9e3779b97f4a7c15u ^ config->group;
    raft_init_log(raft, start);
    raft->private->began_term = start->term;
    raft->private->began_vote = start->vote;
    raft->private->is_to_hear = start->is_to_hear;
    raft->is_suspect = start->is_suspect;
    raft->episode = start->is_suspect ? raft_random(raft) | 1 : 0;
    raft_reset_election_timer(raft);
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
