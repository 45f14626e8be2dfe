/* Images of the store, for a follower that the log cannot help: offering, taking, installing (I11 to I13 of raft.c). Their content
 * is between the drivers. */
#include "raft/raft_private.h"

#include <string.h>

#include "base/check.h"
#include "base/err.h"

void raft_flush_image(struct raft *raft, struct raft_progress *peer)
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
    struct raft_message *offer = raft_emit(raft, RAFT_IMAGE, peer->id);
    offer->index = peer->image_index;
    offer->log_term = raft_term_at(raft, peer->image_index);
    offer->commit = raft->commit;
    offer->sequence = peer->image_id;
    if (peer->state == RAFT_IMAGING) {
        raft_note_sent(raft, peer);
        peer->heartbeat_due = false;
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
    bool is_unknown = index + 1 == raft->log_start && raft_start_is_unknown(raft);
    return index <= raft->commit && index + 1 >= raft->log_start &&
           raft_term_at(raft, index) != term && !is_unknown;
}

void raft_step_image(struct raft *raft, const struct raft_message *m)
{
    struct raft_private *p = raft->private;
    if (!raft_follow(raft, m->from)) {
        return;
    }
    if (contradicts_image(raft, m->index, m->log_term)) {
        raft->out.diverged = true;
        return;
    }
    struct raft_message *reply = raft_emit(raft, RAFT_IMAGE_REPLY, m->from);
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

void raft_step_image_reply(struct raft *raft, const struct raft_message *m)
{
    struct raft_progress *peer = raft_find_peer(raft, m->from);
    if (raft->role != RAFT_LEADER) {
        return;
    }
    peer->heard_ms = raft->private->now_ms;
    raft_note_episode(raft, peer, m->episode);
    raft_note_damage(peer, m->needs_image);
    if (m->sequence != peer->image_id || peer->image_id == 0) {
        return; /* about an image that is closed */
    }
    if (m->granted) {
        raft_image_over(peer);
        if (peer->state == RAFT_IMAGING) {
            uint64_t commit = min_u64(m->hint, raft->last_index);
            raft_probe_from(raft, peer, max_u64(peer->match, commit) + 1);
        }
    } else if (m->hint > peer->image_index) {
        raft_image_over(peer);
        peer->image_floor = m->hint;
    }
}

int raft_image_offer(struct raft *raft, uint64_t to, uint64_t index, uint64_t id)
{
    struct raft_progress *peer = raft_find_peer(raft, to);
    CHECK(id != 0);
    if (raft->role != RAFT_LEADER) {
        return ERR_NOT_PRIMARY;
    }
    if (!peer || !raft_wants_image(peer) || index == 0 || index + 1 < raft->log_start ||
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
    struct raft_progress *peer = raft_find_peer(raft, to);
    if (peer && raft->role == RAFT_LEADER) {
        raft_image_over(peer);
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

bool raft_image_installed(struct raft *raft, uint64_t index, uint64_t term)
{
    struct raft_private *p = raft->private;
    CHECK(index > 0 && term <= raft->term);
    if (index + 1 == raft->log_start && raft_start_is_unknown(raft)) {
        raft->start_term = term; /* I15 */
        raft->out.start_learned = true;
    }
    bool is_kept = index <= raft->last_index && raft_term_at(raft, index) == term;
    if (!is_kept) {
        raft_runs_empty(raft, index, term);
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
        raft_become_follower(raft, raft->term, 0);
    }
    raft->private->ack_due = raft->role == RAFT_FOLLOWER && raft->private->acked > 0;
}
