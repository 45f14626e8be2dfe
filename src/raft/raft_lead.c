/* The leader: what it sends to each follower, and what it makes of the answers: commit, cut, heartbeats, check-quorum. The states of
 * a follower in its eyes and the invariants (I2, I7, I9, I14, I19) stand in raft.c. */
#include "raft/raft_private.h"

#include <string.h>

#include "base/check.h"
#include "base/err.h"

/* Part of a heartbeat's time, see raft_note_sent. */
enum { HEARTBEAT_GRACE = 4 };

/* An image on offer is given up when its follower was silent for that many election timeouts: it
 * pins pages of the store and entries of the log. */
enum { IMAGE_SILENCE_TIMEOUTS = 10 };

void raft_leader_advance_commit(struct raft *raft)
{
    uint64_t match[LIMIT_REPLICAS];
    raft->progress[raft->private->self].match = raft_sound_index(raft); /* only one vote */
    for (int i = 0; i < raft->config.replica_count; i++) {
        match[i] = raft->progress[i].episode ? 0 : raft->progress[i].match; /* I14 */
    }
    uint64_t index = raft_majority_value(raft, match);
    if (index > raft->commit && raft_term_at(raft, index) == raft->term) { /* I2 */
        raft->commit = index;
        raft->out.commit_advanced = true;
    }
}

void raft_leader_advance_cut(struct raft *raft)
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

void raft_note_sent(struct raft *raft, struct raft_progress *peer)
{
    struct raft_private *p = raft->private;
    uint64_t beat = raft->config.heartbeat_ms, from = p->now_ms + beat / HEARTBEAT_GRACE;
    if (from >= p->next_beat_ms) { /* divides once a heartbeat's time */
        p->next_beat_ms = (from / beat + 1) * beat;
    }
    peer->beat_ms = p->next_beat_ms;
}

/* An append at peer->next with count entries. */
static void append_emit(struct raft *raft, struct raft_progress *peer, uint32_t count)
{
    CHECK(peer->next >= raft->log_start && peer->next + count <= raft->last_index + 1);
    struct raft_message *append = raft_emit(raft, RAFT_APPEND, peer->id);
    append->index = peer->next - 1;
    append->log_term = raft_term_at(raft, peer->next - 1);
    append->commit = raft->commit;
    append->flushed = raft->cut;
    append->needs_image = peer->is_refuted;
    append->count = count;
    append->sequence = ++peer->sequence;
    append->echo = raft->lease.peers[peer - raft->progress].vouched_ms;
    peer->told_commit = append->commit;
    peer->told_cut = append->flushed;
    peer->is_settled = false;
    if (peer->episode && raft->commit >= peer->heal_index && peer->match >= peer->heal_index) {
        append->episode = peer->episode; /* I14 */
        append->hint = peer->heal_index;
    }
    raft_note_sent(raft, peer);
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

void raft_probe_from(struct raft *raft, struct raft_progress *peer, uint64_t next)
{
    flights_clear(peer);
    peer->resume = 0;
    if (next < raft->log_start) {
        if (peer->state == RAFT_PROBE && peer->next == raft->log_start) {
            peer->state = RAFT_IMAGING; /* it was refused there: only an image helps */
            peer->probe_sent = false;
            raft_image_over(peer);
            return;
        }
        next = raft->log_start;
    }
    peer->state = RAFT_PROBE;
    peer->next = next;
    peer->probe_sent = false;
}

static void flush_peer(struct raft *raft, struct raft_progress *peer)
{
    if (raft_wants_image(peer)) {
        raft_flush_image(raft, peer);
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

void raft_lead_flush(struct raft *raft)
{
    for (int i = 0; i < raft->config.replica_count; i++) {
        if (i != raft->private->self) {
            flush_peer(raft, &raft->progress[i]);
        }
    }
    if (raft->transfer_to) {
        raft_flush_transfer(raft);
    }
}

static bool peer_has_news(const struct raft *raft, const struct raft_progress *peer)
{
    return peer->heartbeat_due || raft_wants_image(peer) ||
           (peer->state == RAFT_PROBE && !peer->probe_sent) ||
           (peer->state == RAFT_STREAM && peer->next <= raft->last_index && has_room(raft, peer) &&
            !is_held_back(peer));
}

bool raft_lead_has_news(const struct raft *raft)
{
    bool has = raft->transfer_to != 0;
    for (int i = 0; !has && i < raft->config.replica_count; i++) {
        has = i != raft->private->self && peer_has_news(raft, &raft->progress[i]);
    }
    return has;
}

bool raft_lead_only_speaks(const struct raft *raft)
{
    bool has = false;
    for (int i = 0; i < raft->config.replica_count; i++) {
        const struct raft_progress *peer = &raft->progress[i];
        if (i == raft->private->self) {
            continue;
        }
        if (raft_wants_image(peer) || peer->state != RAFT_STREAM ||
            peer->next <= raft->last_index) {
            return false;
        }
        has |= peer->heartbeat_due;
    }
    return has;
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
    uint64_t prev = raft_runs_search(raft, min_u64(m->hint, m->index - 1), m->log_term);
    raft_probe_from(raft, peer, max_u64(prev, peer->match) + 1);
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
        raft_image_over(peer);
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
        raft_image_over(peer); /* wherever it has that from: the log is enough now */
        raft_probe_from(raft, peer, max_u64(peer->match, m->index) + 1);
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
    raft_leader_advance_commit(raft);
}

void raft_note_damage(struct raft_progress *peer, bool is_damaged)
{
    bool is_healed = peer->is_damaged && !is_damaged;
    peer->is_damaged = is_damaged;
    if (is_damaged) {
        peer->is_refuted = false; /* it knows */
        peer->digest = peer->mark = (struct raft_digest){ 0 };
    }
    if (is_healed && peer->state != RAFT_IMAGING) {
        raft_image_over(peer);
    }
}

void raft_note_episode(struct raft *raft, struct raft_progress *peer, uint64_t episode)
{
    if (episode != 0 && episode != peer->episode) {
        peer->heal_index = raft->last_index;
        peer->match = 0;
        if (peer->state != RAFT_IMAGING) {
            raft_probe_from(raft, peer,
                            max_u64(raft->log_start, min_u64(peer->next, raft->last_index + 1)));
        }
    }
    peer->episode = episode;
}

void raft_step_append_reply(struct raft *raft, const struct raft_message *m)
{
    struct raft_progress *peer = raft_find_peer(raft, m->from);
    if (raft->role != RAFT_LEADER) {
        return;
    }
    peer->heard_ms = raft->private->now_ms;
    peer->is_full = m->is_full;
    raft_note_episode(raft, peer, m->episode);
    if (!peer->episode) {
        lease_heard_reply(&raft->lease, (int)(peer - raft->progress), m->stamp, m->echo,
                          raft->private->now_ms);
        raft_leader_vouch(raft);
    }
    if (m->flushed > peer->flushed && m->flushed <= raft->last_index) {
        peer->flushed = m->flushed;
        raft_leader_advance_cut(raft);
    }
    raft_note_damage(peer, m->needs_image);
    raft_note_digest(raft, peer, m);
    if (m->sequence == peer->sequence) {
        peer->is_settled = m->granted && m->hint == 0 && m->episode == 0; /* I20 */
    }
    if (m->granted) {
        append_granted(raft, peer, m);
    } else {
        append_refused(raft, peer, m);
    }
}

static bool hears_majority(const struct raft *raft)
{
    int heard = 1;
    for (int i = 0; i < raft->config.replica_count; i++) {
        heard += i != raft->private->self && !raft->progress[i].episode &&
                 raft_is_heard_lately(raft, raft->progress[i].heard_ms);
    }
    return heard >= raft_majority(raft);
}

static void tick_peer(struct raft *raft, struct raft_progress *peer)
{
    uint64_t now = raft->private->now_ms;
    bool is_due = now >= peer->beat_ms;
    bool is_image_due =
        raft_wants_image(peer) && now - peer->image_sent_ms >= raft->config.heartbeat_ms;
    if (is_due && raft_beat_suffices(raft, peer)) {
        raft_beat_due(raft, peer);
    } else if (is_due || is_image_due) {
        peer->heartbeat_due = true;
    }
    if (raft_wants_image(peer) && now - peer->heard_ms > (uint64_t)IMAGE_SILENCE_TIMEOUTS *
                                                             raft->config.election_timeout_ms) {
        raft_image_over(peer);
        peer->is_damaged = false;          /* it says so again when it comes back */
        if (peer->state == RAFT_IMAGING) { /* and may hold more by then */
            raft_probe_from(raft, peer, max_u64(peer->match + 1, raft->log_start));
        }
    }
    bool reads_wait = raft->read_confirmed < raft->read_sequence;
    if (reads_wait && peer->read_sent > peer->read_acked &&
        now - peer->read_sent_ms >= raft->config.heartbeat_ms) {
        peer->read_sent = peer->read_acked; /* the question or its answer was lost */
        raft->out.read_round_wanted = true;
    }
}

void raft_lead_tick(struct raft *raft)
{
    if (!hears_majority(raft) ||
        (raft->needs_image && !raft->transfer_to && !raft_stand_in(raft))) {
        raft_become_follower(raft, raft->term, 0); /* the second: nobody took over in time */
        return;
    }
    if (raft->transfer_to && raft->private->now_ms >= raft->private->transfer_deadline_ms) {
        raft_transfer_end(raft);
    }
    for (int i = 0; i < raft->config.replica_count; i++) {
        if (i != raft->private->self) {
            tick_peer(raft, &raft->progress[i]);
        }
    }
    raft_tick_holes(raft);
}

uint64_t raft_lead_quiet_until(const struct raft *raft)
{
    uint64_t until = UINT64_MAX;
    if (raft->transfer_to || raft->needs_image || raft->hole || raft->unfilled ||
        raft->read_confirmed < raft->read_sequence) {
        return 0;
    }
    for (int i = 0; i < raft->config.replica_count; i++) {
        const struct raft_progress *peer = &raft->progress[i];
        if (i != raft->private->self && raft_wants_image(peer)) {
            return 0;
        }
        if (i != raft->private->self) {
            uint64_t silent = peer->heard_ms + raft->config.election_timeout_ms;
            until = min_u64(until, peer->beat_ms);
            until = raft_is_heard_lately(raft, peer->heard_ms) ? min_u64(until, silent) : until;
        }
    }
    return until;
}

bool raft_fetched(struct raft *raft, uint64_t to, uint64_t first, uint32_t count, uint32_t bytes)
{
    struct raft_progress *peer = raft_find_peer(raft, to);
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

void raft_peer_reset(struct raft *raft, uint64_t replica)
{
    struct raft_progress *peer = raft_find_peer(raft, replica);
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
    peer->is_settled = false;
    peer->allegiance = 0;
    raft_read_unsend(raft, peer);
    raft->private->transfer_sent &= raft->transfer_to != replica;
}

void raft_peer_restarted(struct raft *raft, uint64_t replica)
{
    struct raft_progress *peer = raft_find_peer(raft, replica);
    if (peer && raft->role == RAFT_LEADER) {
        peer->match = 0; /* `next` stands behind it: if all is there, the first probe finds it */
    }
}

int raft_propose(struct raft *raft, const uint32_t *sizes, uint32_t count, uint64_t *first)
{
    (void)sizes; /* the driver answers for bytes, by entries_in_memory */
    if (raft->role != RAFT_LEADER || raft->transfer_to) {
        return ERR_NOT_PRIMARY;
    }
    CHECK(count > 0);
    *first = raft->last_index + 1;
    raft_runs_push(raft, raft->term);
    raft->last_index += count - 1;
    raft_effect_append(raft, *first, count, 0);
    return 0;
}

bool raft_is_everywhere(const struct raft *raft, uint64_t index)
{
    for (int i = 0; i < raft->config.replica_count; i++) {
        const struct raft_progress *peer = &raft->progress[i];
        bool is_missing = i == raft->private->self
                              ? raft->durable_index < index
                              : peer->match < index && raft_is_heard_lately(raft, peer->heard_ms);
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
        count += i != raft->private->self && raft_is_heard_lately(raft, peer->heard_ms) &&
                 peer->state != RAFT_IMAGING && !peer->episode;
    }
    return count * 2 > raft->config.replica_count;
}
