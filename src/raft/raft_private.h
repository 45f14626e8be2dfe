/* What the files of the Raft core share (raft.c says how it works); for nobody else. */
#ifndef RAFT_RAFT_PRIVATE_H
#define RAFT_RAFT_PRIVATE_H

#include <stddef.h>

#include "raft/raft.h"

struct raft_private {
    struct raft_run *runs;
    size_t run_count, run_capacity;
    uint64_t random;
    uint64_t now_ms; /* of the last tick */
    uint64_t
        next_beat_ms; /* the first multiple of the heartbeat's time behind now_ms and its grace, as of the last raft_note_sent */
    uint64_t election_deadline_ms, election_wait_ms; /* the second: as drawn last */
    uint64_t campaign_sent_ms;
    uint8_t passed_over;          /* election timeouts without a leader in which it could not campaign */
    uint64_t stand_in_until_ms;   /* of a leader that needs an image */
    bool campaign_order; /* the campaign is by order of the leader */
    bool state_durable;  /* (term, vote) are durable as they stand */
    int self;            /* position in config.replicas */

    /* Follower: see I3. */
    uint64_t verified;
    uint64_t acked;        /* newest index acknowledged in this term */
    uint64_t ack_sequence; /* newest append verified in this term */
    bool ack_due;
    bool tells_mark; /* the last answer told the mark's digest */
    uint64_t told_flushed, told_mark; /* where the last answers said that flush and mark are, with their digests */

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

/* --- raft.c */

/* The largest value that a majority has reached. */
uint64_t raft_majority_value(const struct raft *raft, const uint64_t *values);
/* I4: what may leave at once goes to out, the rest waits. The result is to be filled by the caller,
 * before the next emit. */
struct raft_message *raft_emit(struct raft *raft, uint8_t type, uint64_t to);
/* The driver is to hand entries to the log: `count` from `first` on; of the message at hand those behind `skip`. */
void raft_effect_append(struct raft *raft, uint64_t first, uint32_t count, uint32_t skip);

/* --- raft_runs.c: the log as terms */

/* One more entry behind last_index. */
void raft_runs_push(struct raft *raft, uint64_t term);
/* Forgets the entries from `first` on. */
void raft_runs_truncate(struct raft *raft, uint64_t first);
/* The largest index <= `index` whose term is <= `term`: where two logs can still agree, seen from
 * one side. Goes by whole runs. */
uint64_t raft_runs_search(const struct raft *raft, uint64_t index, uint64_t term);
/* The log begins anew behind (index, term), which an image holds. */
void raft_runs_empty(struct raft *raft, uint64_t index, uint64_t term);
/* From what the disk had. */
void raft_init_log(struct raft *raft, const struct raft_start *start);

/* --- raft_elect.c: roles */

/* The next number of the seeded generator. */
uint64_t raft_random(struct raft *raft);
/* When to campaign if no leader is heard until then. */
void raft_reset_election_timer(struct raft *raft);
/* Handing over is done with, if it was under way. */
void raft_transfer_end(struct raft *raft);
/* Whoever counts on what this replica confirmed must ask again (I18). */
void raft_note_change(struct raft *raft);
/* Of `leader` (0: not known) in the term, the present one or a higher one. */
void raft_become_follower(struct raft *raft, uint64_t term, uint64_t leader);
/* Asks everybody who has not granted yet. */
void raft_campaign_ask(struct raft *raft);
/* Begins a campaign. */
void raft_become_pre_candidate(struct raft *raft);
/* That member (its position) has granted; the role follows from it. */
void raft_count_vote(struct raft *raft, int voter);
/* A leader that needs an image (I21) hands over when there is somebody to take over; false: it has waited long enough for that. */
bool raft_stand_in(struct raft *raft);
/* Orders the successor to campaign, as soon as it has all. */
void raft_flush_transfer(struct raft *raft);
/* A leader was heard lately: nobody else is helped to power. */
bool raft_is_sticky(const struct raft *raft);
/* Somebody asks whether it would be elected. Of any term. */
void raft_step_pre_vote(struct raft *raft, const struct raft_message *m);
/* Somebody asks for the vote of this term. */
void raft_step_vote(struct raft *raft, const struct raft_message *m);
/* To either question. */
void raft_step_vote_reply(struct raft *raft, const struct raft_message *m);
/* The sender claims to lead this term. False: it cannot be. */
bool raft_follow(struct raft *raft, uint64_t leader);
/* The leader orders this replica to campaign. */
void raft_step_transfer(struct raft *raft, const struct raft_message *m);

/* --- raft_lead.c: the leader */

/* I2; also after a change of the own log. */
void raft_leader_advance_commit(struct raft *raft);
/* I9. */
void raft_leader_advance_cut(struct raft *raft);
/* Tries `next` as the place where the logs meet. */
void raft_probe_from(struct raft *raft, struct raft_progress *peer, uint64_t next);
/* See raft_flush, raft_has_news, raft_only_speaks. */
void raft_lead_flush(struct raft *raft);
bool raft_lead_has_news(const struct raft *raft);
bool raft_lead_only_speaks(const struct raft *raft);
/* What the follower says of its store. */
void raft_note_damage(struct raft_progress *peer, bool is_damaged);
/* I14. A suspicion that begins, or another one: whatever it may have acknowledged is below what
 * stands here now; what it holds is to be found out. */
void raft_note_episode(struct raft *raft, struct raft_progress *peer, uint64_t episode);
/* The peer is being sent something: it is to hear again, if it doesn't sooner, not a heartbeat's time after this, but when the clock
 * passes a multiple of that: so the heartbeats of all groups between two nodes fall together and share a frame, a wake-up and an
 * answer. What was sent within the last quarter before such a moment stands for it, so silence lasts five quarters at most. */
void raft_note_sent(struct raft *raft, struct raft_progress *peer);
/* A follower acknowledges, or refuses. */
void raft_step_append_reply(struct raft *raft, const struct raft_message *m);
/* Check-quorum, heartbeats, what must be said again. */
void raft_lead_tick(struct raft *raft);
/* See raft_quiet_until. */
uint64_t raft_lead_quiet_until(const struct raft *raft);

/* --- raft_beat.c: heartbeats of groups at rest */

/* Whether a beat tells the follower all that a heartbeat would. */
bool raft_beat_suffices(const struct raft *raft, const struct raft_progress *peer);
/* Instead of a heartbeat that is due, where it suffices. */
void raft_beat_due(struct raft *raft, struct raft_progress *peer);

/* --- raft_follow.c: the follower */

/* Emits the follower's newest acknowledgement. */
void raft_flush_ack(struct raft *raft);
/* The leader sends entries, or none; `entries` are message->count many. */
void raft_step_append(struct raft *raft, const struct raft_message *message,
                      const struct raft_entry *entries);

/* --- raft_image.c: images of the store */

/* Offers the image, or asks the driver for one; as often as a heartbeat. */
void raft_flush_image(struct raft *raft, struct raft_progress *peer);
/* The leader offers an image. */
void raft_step_image(struct raft *raft, const struct raft_message *m);
/* A follower answers to the offer. */
void raft_step_image_reply(struct raft *raft, const struct raft_message *m);

/* --- raft_read.c: reads */

/* The leader asks whether it still leads. */
void raft_step_read(struct raft *raft, const struct raft_message *m);
/* What the leader may tell its followers of the age of what they hold. */
void raft_leader_vouch(struct raft *raft);
/* A follower answers that. */
void raft_step_read_reply(struct raft *raft, const struct raft_message *m);
/* The question that it was asked last is not to be answered any more. */
void raft_read_unsend(struct raft *raft, struct raft_progress *peer);

/* --- raft_damage.c: what a disk has lost */

/* Says how far the own store has flushed, and a digest of it: where the flush ended, every other
 * time that of the last mark. Both are told again and again, so it doesn't matter which is lost. */
void raft_tell_flushed(struct raft *raft, struct raft_message *reply);
/* One of the two led this term, and the other acknowledged to there. */
void raft_remember_ack(struct raft *raft, uint64_t member, uint64_t index, uint64_t log_term,
                       bool has_led);
/* I17, the other side: what the sender of this message is bound by. All but pre-votes leave only
 * when the term is on its disk (I4). */
void raft_remember(struct raft *raft, const struct raft_message *m);
/* I14, I17: nobody is missing who might tell of a term in which this replica has voted. */
bool raft_has_heard_all(const struct raft *raft);
/* What the follower tells of its content. */
void raft_note_digest(struct raft *raft, struct raft_progress *peer, const struct raft_message *m);
/* Somebody's payload is damaged; the one here may serve. */
void raft_step_fill(struct raft *raft, const struct raft_message *m);
/* Asks again for what nobody has sent. A leader whom nobody helps can't commit or apply: it gives
 * way for a while. */
void raft_tick_holes(struct raft *raft);

static inline uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static inline uint64_t max_u64(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* Of the last entry. */
static inline uint64_t raft_last_term(const struct raft *raft)
{
    return raft_term_at(raft, raft->last_index);
}

/* What this replica's disk holds without a hole. */
static inline uint64_t raft_sound_index(const struct raft *raft)
{
    return raft->hole ? min_u64(raft->durable_index, raft->hole - 1) : raft->durable_index;
}

/* The log was lost from below what the store has applied on: it begins behind that, and which term
 * the entry before had will be learned (I15). */
static inline bool raft_start_is_unknown(const struct raft *raft)
{
    return raft->log_start > 1 && raft->start_term == 0;
}

/* How many replicas one is. */
static inline int raft_majority(const struct raft *raft)
{
    return raft->config.replica_count / 2 + 1;
}

/* The other member of that id; NULL for strangers and for itself. */
static inline struct raft_progress *raft_find_peer(struct raft *raft, uint64_t id)
{
    for (int i = 0; i < raft->config.replica_count; i++) {
        if (raft->progress[i].id == id && i != raft->private->self) {
            return &raft->progress[i];
        }
    }
    return NULL;
}

/* Within an election timeout. */
static inline bool raft_is_heard_lately(const struct raft *raft, uint64_t heard_ms)
{
    return raft->private->now_ms - heard_ms < raft->config.election_timeout_ms;
}

/* Nothing is on offer any more. */
static inline void raft_image_over(struct raft_progress *peer)
{
    peer->image_id = peer->image_index = peer->image_floor = 0;
    peer->image_sent_ms = 0;
}

/* Its log, or its store, needs one. */
static inline bool raft_wants_image(const struct raft_progress *peer)
{
    return peer->state == RAFT_IMAGING || peer->is_damaged;
}

/* Less up-to-date than the other (§5.4.1). */
static inline bool raft_is_before(uint64_t term, uint64_t index, uint64_t other_term,
                                  uint64_t other_index)
{
    return term < other_term || (term == other_term && index < other_index);
}

#endif
