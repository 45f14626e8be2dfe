/* The follower: takes a leader's appends into its log, and acknowledges what is verified and durable (I2, I3, I14, I15, I16, I19 of
 * raft.c). */
#include "raft/raft_private.h"

void raft_flush_ack(struct raft *raft)
{
    struct raft_private *p = raft->private;
    if (!p->ack_due || raft->leader == 0 || !p->state_durable) {
        return;
    }
    p->ack_due = false;
    p->acked = min_u64(p->verified, raft_sound_index(raft)); /* I3 */
    struct raft_message *reply = raft_emit(raft, RAFT_APPEND_REPLY, raft->leader);
    reply->granted = true;
    reply->index = p->acked;
    reply->log_term = raft_term_at(raft, p->acked);
    raft_tell_flushed(raft, reply);
    reply->needs_image = raft->needs_image;
    reply->is_full = raft->room != RAFT_ROOM_ANY;
    reply->sequence = p->ack_sequence;
    reply->hint = raft->unfilled <= p->verified ? raft->unfilled : 0;
    reply->episode = raft->episode;
    reply->echo = raft->lease.append_ms;
    if (!raft->is_suspect) {
        raft_remember_ack(raft, raft->leader, reply->index, reply->log_term, true);
    }
}

static void append_refuse(struct raft *raft, const struct raft_message *m)
{
    struct raft_message *reply = raft_emit(raft, RAFT_APPEND_REPLY, m->from);
    /* What is committed here the leader has too, so the search ends there. */
    uint64_t hint = raft_runs_search(raft, min_u64(m->index - 1, raft->last_index), m->log_term);
    hint = max_u64(hint, raft->commit);
    reply->index = m->index;
    reply->hint = hint;
    bool is_unknown = hint + 1 == raft->log_start && raft_start_is_unknown(raft);
    reply->log_term =
        is_unknown ? raft->term : raft_term_at(raft, hint); /* committed: any will do */
    raft_tell_flushed(raft, reply);
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
        raft_runs_truncate(raft, first);
    }
    for (uint32_t i = skip; i < m->count; i++) {
        raft_runs_push(raft, entries[i].term);
    }
    raft_effect_append(raft, first, m->count - skip, skip);
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
    if (!raft->is_suspect || !raft_has_heard_all(raft) || p->heal_asked ||
        m->episode != raft->episode || min_u64(p->verified, raft_sound_index(raft)) < m->hint ||
        raft_start_is_unknown(raft)) {
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

void raft_step_append(struct raft *raft, const struct raft_message *message,
                      const struct raft_entry *entries)
{
    struct raft_private *p = raft->private;
    struct raft_message taken = *message;
    const struct raft_message *m = &taken;
    taken.count = entries_taken(raft, message, entries);
    if (!raft_follow(raft, m->from)) {
        return;
    }
    lease_heard_append(&raft->lease, m->stamp, m->echo, m->commit, p->now_ms);
    if (raft_start_is_unknown(raft)) {
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
