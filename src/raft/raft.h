/* The Raft core: a pure step function. Event and state in, state and effects out: no I/O, no clock, no random beyond what the
 * caller hands in, no payloads (it knows entries by index, term and size).
 *
 * The driver (node/partition) owns payloads, log, timers and connections. Per event, and at the end of each loop turn:
 *
 *     raft_…(raft, …);                  // an event
 *     if (out.persist_state) …          // state to the log, then
 *     if (out.append) …                 // entries to the log: right after the event, because append_skip speaks of its message
 *     raft_effects_clear_log(raft);     // (several raft_propose may share one; before the next raft_step it must be done)
 *     …
 *     raft_flush(raft);                 // end of the turn: appends, heartbeats and acks, one per follower
 *     … out.messages, out.fetches, the flags
 *     raft_effects_clear(raft);
 *
 * Nothing that raft_propose, an ack or a durable log makes sendable leaves before raft_flush: so a turn with a thousand
 * proposals sends one append to each follower, and a turn with ten appends answers once. A group without an event in this
 * turn need not be flushed.
 *
 * Order of things for a client: commit_advanced, then the driver applies, then it answers: never the other way round.
 *
 * Durability: the core holds a message until what it promises is durable. It is told by raft_state_durable and
 * raft_entries_durable. The leader sends entries before its own disk is done; its own disk is only one vote.
 *
 * Time: raft_tick is called about every 10 ms with the monotonic time in ms; every other event carries no time. Before a message is
 * stepped, raft_clock tells the time: promises and stamps (raft/lease.h) must not be as coarse as the ticks, and least so after the
 * process slept. Timeouts are drawn by the core from a generator seeded in raft_config.
 */
#ifndef RAFT_RAFT_H
#define RAFT_RAFT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/limits.h"
#include "raft/lease.h"

enum raft_role { RAFT_FOLLOWER, RAFT_PRE_CANDIDATE, RAFT_CANDIDATE, RAFT_LEADER };

enum raft_message_type {
    RAFT_PRE_VOTE = 1,
    RAFT_PRE_VOTE_REPLY,
    RAFT_VOTE,
    RAFT_VOTE_REPLY,
    RAFT_APPEND,
    RAFT_APPEND_REPLY,
    RAFT_READ,       /* leader asks: am I still your leader? */
    RAFT_READ_REPLY,
    RAFT_TRANSFER,   /* leader tells its successor to campaign at once */
    RAFT_IMAGE,      /* leader offers an image of its store; the heartbeat of who lags behind the log */
    RAFT_IMAGE_REPLY,
    RAFT_FILL,       /* leader asks for the payload of the entry (index, log_term), which is damaged at home */
    RAFT_FILL_REPLY, /* brings it: one entry behind `index` */
    RAFT_MESSAGE_MAX,
};

/* Own digests that a replica remembers, to find the index that another one tells of: flushes come at their own times. Marks are rare,
 * and each is proposed only when the leader has flushed the one before. */
enum { RAFT_DIGESTS = 8, RAFT_MARKS = 4 };

struct raft_digest {
    uint64_t index, digest; /* digest 0: not known */
};

/* One message. A fixed record on the wire (raft/peers.c packs it); entries of an append follow it there. */
struct raft_message {
    uint8_t type;
    bool granted;  /* *_VOTE_REPLY: yes; APPEND_REPLY: prev matched; READ_REPLY: confirmed; IMAGE_REPLY: no need (any more) */
    bool transfer; /* VOTE, PRE_VOTE: by order of the leader, stickiness does not apply */
    bool needs_image; /* APPEND_REPLY, IMAGE_REPLY: the sender's log is good, its store is not; APPEND: the receiver's is not */
    bool is_full;     /* APPEND_REPLY: the sender takes no entries for now, but trifles */
    uint32_t group;
    uint64_t from, to;  /* replica ids */
    uint64_t term;      /* sender's term; PRE_VOTE: the term it would campaign in, echoed by a granted PRE_VOTE_REPLY */
    uint64_t index;     /* APPEND: prev index; VOTE, PRE_VOTE: last durable index; APPEND_REPLY granted: verified and durable
                           index; refused: the prev index that was refused; IMAGE: the image's index; READ_REPLY: the
                           sender's count of changes (raft_config) when it confirmed */
    uint64_t log_term;  /* term at `index`; APPEND_REPLY refused: the follower's term at `hint` */
    uint64_t commit;    /* APPEND: leader's commit index; APPEND_REPLY: the index that `digest` is of */
    uint64_t hint;      /* APPEND_REPLY refused: where to probe next (prev index to try); granted: index of a verified entry whose
                           payload is damaged here, 0 = none; APPEND with an episode: the index that ends it; IMAGE_REPLY granted: its commit;
                           else the least index of an image that it could use, 0 = any */
    uint64_t flushed;   /* APPEND_REPLY: applied and flushed to the store; APPEND: every replica has flushed to here */
    uint64_t sequence;  /* READ, READ_REPLY: number of the read round; APPEND: number of the message;
                           APPEND_REPLY: the newest number that was verified (or the refused one);
                           IMAGE, IMAGE_REPLY: id of the image */
    uint32_t count;     /* APPEND: number of entries behind `index` */
    uint64_t stamp;     /* the sender's monotonic clock at sending, ms */
    uint64_t digest;    /* APPEND_REPLY: of the store's content at `commit`: where the last flush ended, or, every other time, at the
                           last mark; 0 = not told */
    uint64_t echo;      /* APPEND, APPEND_REPLY: the newest stamp of the receiver that the sender vouches for, 0 = none: see
                           raft/lease.h */
    uint64_t episode;   /* APPEND_REPLY, IMAGE_REPLY: the sender is suspect, and this numbers its suspicion (0: it is not);
                           APPEND: this suspicion is over */
};

/* A heartbeat of a group at rest, or the answer to one, see raft_beat_next. */
struct raft_beat {
    uint64_t term;
    uint64_t stamp, echo; /* as in raft_message; of an answer: the beat's stamp */
};

/* What the driver's log has room for, of other leaders' entries. */
enum raft_room {
    RAFT_ROOM_ANY,
    RAFT_ROOM_SMALL, /* appends of at most LIMIT_RAFT_TRIFLE_BYTES */
    RAFT_ROOM_NONE,  /* no-ops */
};

/* What an entry is to the core. size in bytes, as logged. */
struct raft_entry {
    uint64_t term;
    uint32_t size;
};

struct raft_config {
    uint32_t group;
    uint64_t self;                          /* own replica id */
    uint64_t replicas[LIMIT_REPLICAS];      /* all members, self included */
    int replica_count;
    uint32_t election_timeout_ms;           /* T: a follower waits T to 2T without a leader; of one that it heard, the
                                               first successors wait little more than T */
    uint32_t heartbeat_ms;                  /* well below T */
    uint64_t seed;                          /* for timeouts */
    uint32_t inflight_bytes_max;            /* to one follower */
    uint32_t inflight_messages_max;
    uint32_t append_bytes_max;              /* of one message; a single larger entry goes alone */
    uint32_t append_entries_max;
    struct mem_gate *gate;                  /* NULL as a rule (base/mem.h); a message that finds no memory is dropped */
    bool beats;                             /* the driver carries beats: see raft_beat_next */
    /* Counted up whenever this replica has another term, role or leader than before, or becomes suspect; shared by the groups of a node;
     * begins above 0, at another number than that of any earlier process; below 2^63. NULL: nobody asks. */
    uint64_t *changes;
    /* How many entries from `first` on (at most `count_max`) the driver can send from memory within bytes_max, at least one if
     * the first is in memory; sets *bytes. 0: not in memory, see RAFT_EFFECT_FETCH. A pure query. */
    uint32_t (*entries_in_memory)(void *ctx, uint64_t first, uint32_t count_max, uint32_t bytes_max, uint32_t *bytes);
    void *ctx;
};

/* What the replica's log held at start: all of it durable. */
struct raft_start {
    uint64_t term;
    uint64_t vote;              /* replica id, 0 = none */
    uint64_t log_start;         /* first index that the log holds; log_start - 1 has term start_term */
    uint64_t start_term;        /* 0 with log_start > 1: unknown (suspect only), learned from a leader */
    uint64_t last_index;        /* log_start - 1 when the log is empty */
    /* Terms of the entries log_start … last_index as runs in order: entries from `first` on have `term`. */
    struct raft_run {
        uint64_t first, term;
    } *runs;
    size_t run_count;
    uint64_t commit;            /* lower bound known at start: the store's applied index */
    bool is_suspect;            /* the replica may have lost what it promised, see raft.c */
    bool is_to_hear;            /* a suspicion ends only after raft_remind was called for every other member */
};

/* What one member (the rememberer) knows of what another has promised, in memory only: if the other's disk is put back to an
 * earlier state, this brings the promises back. 0: nothing. */
struct raft_memory {
    uint64_t now;         /* the rememberer's own term */
    uint64_t term;        /* newest in which the other said something that it says only with that term on its disk */
    uint64_t vote_term;   /* newest in which it voted for the rememberer */
    uint64_t voted_term;  /* the rememberer's term, if that one's vote in it went to the other */
    uint64_t ack_term;    /* newest in which one of the two led and the other acknowledged, */
    uint64_t index;       /* to here, */
    uint64_t log_term;    /* an entry of this term */
    bool has_led;         /* it was the other that led, so that its own disk may or may not have held the entry */
};

/* What the driver must do, in this order within one batch of effects. All before `messages` is cleared with every batch; of the
 * arrays behind it only as many items count as their counters say: so a turn that has little to say touches little memory. */
struct raft_effects {
    /* Persist raft->term and raft->vote; then raft_state_durable(term, vote). */
    bool persist_state;
    /* Entries append_first … append_first + append_count - 1 go to the log, replacing what it holds from append_first on.
     * On a follower they are the entries of the message being stepped, beginning with its entry number append_skip;
     * on a leader they are the ones just proposed (or the no-op of an election, see raft_is_noop). */
    bool append;
    bool role_changed;      /* role, term or leader is another than before */
    bool commit_advanced;   /* raft->commit grew */
    bool reads_confirmed;   /* raft->read_confirmed grew */
    bool read_round_wanted; /* reads wait and no message asks yet: the driver calls raft_read_send when it suits */
    bool transfer_done;     /* a transfer ended; role tells how */
    bool heal;              /* the replica is suspect no more once this is durable, with raft->term and raft->vote; then
                               raft_state_durable and raft_healed */
    bool start_learned;     /* the log's unknown start_term is known: keep it */
    bool image_offered;     /* see `image` */
    bool digest_refuted;    /* the own store's content is not what a majority holds at the same index */
    bool digest_undecided;  /* replicas differ, and no majority agrees */
    bool diverged;          /* a leader's entries contradict what is committed here, or what it sent before: somebody lost
                               data; the message was dropped. Someone must act */
    int fetch_count, fill_count, image_count;
    uint32_t beats;         /* bit i: a beat to config.replicas[i], see raft_beat_next; set by raft_tick only */
    uint64_t append_first;
    uint32_t append_count;
    uint32_t append_skip;
    uint64_t cut_wanted;    /* nobody has the payload of this entry any more, which the own store covers: the log is to be cut
                               behind it, so that who lacks it gets an image */
    size_t message_count;
    /* Messages to send, in order. */
    struct raft_message *messages;
    size_t message_capacity;
    /* Followers whose next entries are not in memory: read them from disk and send them with raft_fetched, which must be called
     * for each; a newer one for the same follower (after a reset) replaces an older. */
    struct raft_fetch {
        uint64_t to, first;
    } fetches[LIMIT_REPLICAS];
    /* Peers that need an entry's payload: to be sent with raft_fill_send, when it was read. */
    struct raft_fill {
        uint64_t to, index;
    } fills[LIMIT_REPLICAS];
    /* Followers that only an image of the store can help, and none is on offer to them: open one whose index is at least
     * `floor`, then raft_image_offer. Named again with every heartbeat until that is done. */
    struct raft_image_want {
        uint64_t to, floor;
    } images[LIMIT_REPLICAS];
    /* If image_offered: the leader `from` offers its image `id` of (index, term), and this replica needs it: to be fetched from
     * there, unless that is being done. Named again with every heartbeat of the leader's. */
    struct raft_image {
        uint64_t from, id, index, term;
    } image;
};

struct raft_progress {
    /* what heartbeats and beats look at stands together */
    uint64_t id;
    uint64_t match;              /* verified durable at the follower */
    uint64_t next;               /* next index to send */
    enum { RAFT_PROBE, RAFT_STREAM, RAFT_FETCHING, RAFT_IMAGING } state;
    uint32_t inflight_bytes, inflight_messages, flight_count;
    uint64_t heard_ms;           /* last answer in this term */
    uint64_t beat_ms;            /* when it is to hear something again, see raft_note_sent */
    bool probe_sent;
    bool heartbeat_due;
    bool is_settled;             /* it acknowledged the newest append, and had nothing to ask for */
    bool is_damaged;             /* it said that its store needs an image; its log goes on */
    bool is_refuted;             /* a majority holds other content than it: told with each append until it knows */
    bool is_full;                /* it takes only trifles for now */
    uint64_t told_commit, told_cut; /* by the newest append */
    uint64_t episode;            /* of its suspicion; 0: it counts */
    uint64_t resume;             /* where to go on behind a hole that is filled, 0: none is */
    uint64_t sequence;           /* number of the last append that wants an answer */
    uint32_t beats_left;         /* until a whole heartbeat */
    uint32_t flight_head;
    uint64_t flushed;
    uint64_t read_acked;         /* newest read round confirmed */
    uint64_t read_sent;          /* newest read round sent */
    uint64_t allegiance;         /* its node's count of changes when it last confirmed in this term, 0 = not known: see raft_read_ride */
    uint64_t image_id;           /* image on offer to it, 0 = none */
    uint64_t image_index;        /* its index */
    struct raft_digest digest, mark; /* as it told last: of its flush, of a mark */
    uint64_t compared;           /* newest index at which its content was compared with the own */
    uint64_t image_floor;        /* it can use none below this index */
    /* what else the core needs follows; private to it */
    uint64_t probe_sequence;     /* number of the first probe at `next` */
    uint64_t fetch_after_ms;     /* a failed read from disk is not repeated before this */
    uint64_t read_sent_ms;
    uint64_t image_sent_ms;      /* when the image was last offered, or asked of the driver */
    uint64_t heal_index;         /* ends the suspicion when it is committed and held there */
    uint64_t resend_sequence;    /* an older answer can't know of the filling */
    struct raft_flight {
        uint64_t last;
        uint32_t bytes;
    } flights[LIMIT_RAFT_INFLIGHT_MESSAGES];
};

struct raft {
    struct raft_private *private;     /* term runs, votes, timers, held messages: raft_private.h */
    struct raft_config config;
    enum raft_role role;
    uint64_t term, vote, leader;      /* leader: replica id, 0 = unknown */
    uint64_t log_start, start_term;   /* as in raft_start */
    uint64_t last_index;
    uint64_t durable_index;           /* own log is durable to here */
    uint64_t commit;                  /* known committed; never goes back */
    uint64_t flushed;                 /* own store holds it durably */
    uint64_t cut;                     /* every replica's store holds it durably */
    uint64_t noop_index;              /* index of the no-op of its own election in this term, 0 = none */
    uint64_t read_sequence;           /* newest read round registered */
    uint64_t read_confirmed;          /* newest read round that a majority confirmed */
    uint64_t transfer_to;             /* leader: successor, 0 = none; proposals are refused meanwhile */
    bool needs_image;                 /* own store is damaged: see raft_need_image */
    enum raft_room room;              /* see raft_take */
    struct raft_digest digests[RAFT_DIGESTS]; /* of the own store where flushes ended, newest first */
    struct raft_digest marks[RAFT_MARKS];     /* of the own store at marks, newest first */
    uint64_t digests_compared, digests_differed;
    bool is_suspect;                  /* may have lost what it promised: counts for nothing */
    uint64_t episode;                 /* of the suspicion */
    uint64_t hole, unfilled;          /* see raft_holes */
    uint64_t owed_term, owed_index;   /* its log reached to here once, as others remember (I17); 0: nothing is known */
    struct lease lease;               /* what clocks prove */
    uint32_t votes;                   /* of its last campaign; bit i: config.replicas[i] granted, the own one only when durable */
    struct raft_effects out;
    struct raft_progress progress[LIMIT_REPLICAS];
};

/* Begins as a follower. The runs are copied. raft is the caller's memory; raft_fini frees what it holds. */
void raft_init(struct raft *raft, const struct raft_config *config, const struct raft_start *start, uint64_t now_ms);
void raft_fini(struct raft *raft);

/* Time passed: elections, heartbeats, check-quorum, resending. */
void raft_tick(struct raft *raft, uint64_t now_ms);
/* As long as no other event comes, raft_tick does nothing before this time but to learn it: ms; 0: tick on. */
uint64_t raft_quiet_until(const struct raft *raft);
/* Beats. Where nothing is new, raft_tick wants a beat sent instead of a heartbeat: to be taken right after it until false is returned,
 * for replica *to each. The driver may put those of many groups side by side, with one stamp that is none of theirs' later; the
 * receiver's hears it with raft_beat_hear. */
bool raft_beat_next(struct raft *raft, uint64_t *to, struct raft_beat *beat);
/* A beat of replica `leader` arrived. True: it was followed; the answer takes beat->term along, beat->stamp as its echo, and the own time.
 * False: refused, which is to be told as well. */
bool raft_beat_hear(struct raft *raft, uint64_t leader, const struct raft_beat *beat);
/* The answer. After a refusal there is a whole heartbeat to send. */
void raft_beat_answered(struct raft *raft, uint64_t replica, const struct raft_beat *answer, bool is_followed);
/* The time, before an event that carries none. No timer fires. */
void raft_clock(struct raft *raft, uint64_t now_ms);
/* What of the next appends may be taken, RAFT_ROOM_ANY at first. Entries that there is no room for are left out, as if the message
 * had not brought them; all else that it says counts. The leader hears of it, and sends only what has room until it hears otherwise. */
void raft_take(struct raft *raft, enum raft_room room);
/* A message arrived; `entries` are message->count many (terms and sizes of the append's entries). Messages for another replica
 * id or group are the driver's to drop; malformed ones (count without entries, unknown type) are ignored here. */
void raft_step(struct raft *raft, const struct raft_message *message, const struct raft_entry *entries);
/* An event comes soon: fetches into the processor's cache what nearly every one looks at, of what the caller doesn't see. */
void raft_prefetch(const struct raft *raft);
/* The same for a beat. */
void raft_prefetch_beat(const struct raft *raft);
/* End of a loop turn: emits to every follower what it can take now (entries within the bounds in flight, else a due heartbeat),
 * and a follower's newest ack. The news of a commit rides along with either. Cheap when there is nothing to say. */
void raft_flush(struct raft *raft);
/* Whether raft_flush would say something or raft->out holds what is to be done, as far as that is seen at a glance: it may be true
 * in vain, never false. */
bool raft_has_news(const struct raft *raft);
/* Whether all that there is to do is to say what raft_flush would emit: a follower's ack, a leader's heartbeats; no entries. */
bool raft_only_speaks(const struct raft *raft);
/* The leader appends `count` entries of the given sizes in its term; *first becomes their first index. ERR_NOT_PRIMARY when it
 * does not lead or is handing over. Payloads are handed to the log with the effects. */
int raft_propose(struct raft *raft, const uint32_t *sizes, uint32_t count, uint64_t *first);
/* True for the entry that this replica's election appended in this term (empty payload, written by the driver). */
bool raft_is_noop(const struct raft *raft, uint64_t index);

/* The log says: this (term, vote) is durable; entries to (index, term) are durable. Late word of a replaced suffix is ignored:
 * term must be the term that the log now holds at index. The log must not report what was replaced after it was handed over,
 * not even when the same (index, term) was appended once more: only the last appending of an index counts. */
void raft_state_durable(struct raft *raft, uint64_t term, uint64_t vote);
void raft_entries_durable(struct raft *raft, uint64_t index, uint64_t term);
/* The store says: everything to index is applied and durable there. To be told after raft_init too. index <= commit. */
void raft_flushed(struct raft *raft, uint64_t index);
/* Digest of the store's content at raft->flushed, told right after raft_flushed or raft_image_installed (0: none). Replicas of a group
 * that hold the same have the same digest at the same index; where a leader sees that they differ, a majority says who is damaged. */
void raft_digest(struct raft *raft, uint64_t digest);
/* The same at a mark that the last flush passed, at or below raft->flushed. */
void raft_mark(struct raft *raft, uint64_t index, uint64_t digest);
/* For leaders: whether a replica within reach was not compared with the own store at `since` or later. It needs a mark then. */
bool raft_wants_mark(const struct raft *raft, uint64_t since);
/* Entries from `first` on were read from disk and can be sent: sends count entries (bytes in all) to the follower if they still
 * are what it needs (the append is the last of out.messages); false: not needed any more. count 0: they could not be read, try
 * again later. bytes: at most append_bytes_max, unless a single entry is larger. */
bool raft_fetched(struct raft *raft, uint64_t to, uint64_t first, uint32_t count, uint32_t bytes);
/* The log was cut: it begins at log_start now. log_start - 1 must be committed and durable here. Up to raft->cut no replica
 * needs what is gone; who needs what was cut above it gets an image. */
void raft_log_cut(struct raft *raft, uint64_t log_start);
/* The connection to the replica broke or came back: what is in flight there may be lost; probe again. */
void raft_peer_reset(struct raft *raft, uint64_t replica);
/* After it: the replica is another process than before. Nothing that it acknowledged counts until it says so again. */
void raft_peer_restarted(struct raft *raft, uint64_t replica);

/* Disks that were put back to an earlier state (decisions/009). What is known here of another member's promises: it is told that
 * when it has started. */
void raft_recall(const struct raft *raft, uint64_t member, struct raft_memory *out);
/* Another member told what it remembers of this replica: before this replica has sent anything since it started; later, too, but
 * then what it did in between is done. True: this replica has lost something of what it promised; it is bound by it again. */
bool raft_remind(struct raft *raft, uint64_t member, const struct raft_memory *told);
/* The replica's disk is older than its last start: it may have lost anything, and is suspect from now on (I14). */
void raft_suspect(struct raft *raft);
/* Its log is shorter than what it once acknowledged: it does not campaign, and votes for none that lacks that (I17). */
bool raft_is_short(const struct raft *raft);

/* How far the log may be cut, by how much room is left for it. What a lower level spares costs others an image. */
enum raft_cut {
    RAFT_CUT_SPARING,  /* what no replica's store needs, dead ones' included */
    RAFT_CUT_HEARD,    /* what no replica needs that was heard lately and is being sent entries */
    RAFT_CUT_OWN,      /* what the own store holds, but not behind an image on offer */
    RAFT_CUT_ALL,      /* what the own store holds */
};
/* Up to here nobody is to be sent anything again, as far as this replica knows: its own log has it, and where it leads, so have all
 * others. Then the entries need not be kept in memory, once applied. */
uint64_t raft_held_index(const struct raft *raft);
/* Newest index that may be cut; below log_start: nothing. Only entries that the own store has flushed. */
uint64_t raft_cut_at(const struct raft *raft, enum raft_cut level);

/* Images. A follower whose next entries are cut, or whose store is damaged, gets an image of the leader's store. The core says
 * who needs one (out.images) and tells the follower what is on offer; fetching it, piece by piece, is between the drivers.
 *
 * raft_image_offer: image `id` (never 0, never used before in this process) of the committed index `index` is open for `to`.
 * ERR_NOT_PRIMARY; ERR_BAD_REQUEST: not wanted (any more), or the index is of no use: close it. It is on offer while
 * progress.image_id says so, then it is to be closed: the follower has it, was silent for long, or leadership ended. */
int raft_image_offer(struct raft *raft, uint64_t to, uint64_t index, uint64_t id);
/* The driver closes the image by itself (too old, the log must be cut): the follower is named in out.images again. */
void raft_image_withdraw(struct raft *raft, uint64_t to);
/* Follower: a fetched image is complete. May it be installed? False: not needed any more, or not now. If true, nothing may be
 * applied until raft_image_installed, told when the store has swapped it in durably and before anything else is flushed. Between
 * the two everything may happen, also another term: an image is committed state, valid in each later term. */
bool raft_image_may_install(const struct raft *raft, uint64_t index, uint64_t term);
/* From now on applied = flushed = index. The entries behind index stay if the log holds (index, term), and true is returned;
 * false: the log is empty now and begins at index + 1: so must the driver's. */
bool raft_image_installed(struct raft *raft, uint64_t index, uint64_t term);
/* The own store is damaged: it must be replaced by an image, whose index may lie below the commit index. Until then this replica
 * doesn't campaign, unless nobody has led for a while (I21 of raft.c), but appends, acknowledges and votes: its log is good. A leader
 * hands over, or steps down. Not for the only replica of a group: there is nobody to help. */
void raft_need_image(struct raft *raft);

/* Linearizable reads (read index). Registers a waiting read: 0 and *sequence, *index: the read may be answered once
 * raft->read_confirmed >= *sequence and the applied index >= *index. A read joins only a round that is sent after it was
 * registered. ERR_NOT_PRIMARY: does not lead; ERR_UNAVAILABLE: leads, but its no-op is not committed yet (wait for commit). */
int raft_read(struct raft *raft, uint64_t *sequence, uint64_t *index);
/* Emits RAFT_READ to one replica for everything registered so far, if that is newer than what was sent there; false: nothing to
 * ask. The driver keeps one round in flight per node pair and names in it only groups with waiting reads. */
bool raft_read_send(struct raft *raft, uint64_t replica);
/* The same without a message, for many groups at once: a replica that has confirmed, and whose node has counted no change since, still
 * confirms. So one question to a node, and its count as the answer, stands for all its replicas. `changes`: the count that the node told
 * last. True: everything registered so far rides on a question that is sent now. */
bool raft_read_ride(struct raft *raft, uint64_t replica, uint64_t changes);
/* The answer to it: term and sequence are raft->term and raft->read_sequence as they were then. is_confirmed: the count was still `changes`;
 * else the question counts as not asked. */
void raft_read_ridden(struct raft *raft, uint64_t replica, uint64_t term, uint64_t sequence, bool is_confirmed);

/* The same reads at a follower (I22 of raft.c), where two replicas are a majority: it asks its leader for the commit index, by the
 * drivers, and what was registered before it asked may be answered once its applied index is there. */

/* Whether this follower may ask its leader now; the question carries raft->term. */
bool raft_read_may_follow(const struct raft *raft);
/* Leader: the commit index for that member, which asked in `term`; 0: not from here, or not now. */
uint64_t raft_read_grant(struct raft *raft, uint64_t member, uint64_t term);
/* The answer to a question of `term`; is heard whatever has become of this replica since. What it holds of this leader is committed
 * to there. */
void raft_read_granted(struct raft *raft, uint64_t term, uint64_t commit);

/* Lease reads: 0 when no other replica can be elected at now_ms or has been before, so that the store may be read alone, once the
 * applied index has reached raft->commit. now_ms must be taken after what the reader saw: ask before the read to choose the way, and
 * again after it, just before the answer leaves. ERR_NOT_PRIMARY; ERR_UNAVAILABLE: leads, but holds no lease now: raft_read serves. */
int raft_lease(const struct raft *raft, uint64_t now_ms);
/* The store has applied to here: brings raft->lease.fresh_ms up to date, the own time before which everything that anybody
 * acknowledged is applied here. */
void raft_applied(struct raft *raft, uint64_t applied);

/* Whether every replica that was heard within an election timeout, this one included, has the entry at index durably. For leaders:
 * a replica whose answers are missing for so long counts as out of reach. */
bool raft_is_everywhere(const struct raft *raft, uint64_t index);

/* Whether a majority, this replica included, was heard within an election timeout and goes on by entries: none of them waits for an
 * image or is suspect. For leaders. */
bool raft_needs_no_image(const struct raft *raft);

/* Holes: entries whose payload the log can't give any more, though (index, term) stand. To be told at the start and when it changes;
 * 0: none. hole: the first beyond what the store has flushed: nothing from there on is acknowledged, or counted for this replica.
 * unfilled: the first whose payload nobody gave back yet (a leader's: of all that its log holds): peers are asked for it. */
void raft_holes(struct raft *raft, uint64_t hole, uint64_t unfilled);
/* The payload that out.fills asked for is at hand: the reply is the last of out.messages. False: the entry is gone. */
bool raft_fill_send(struct raft *raft, uint64_t to, uint64_t index);
/* The record that out.heal asked for is durable. */
void raft_healed(struct raft *raft);

/* Hands leadership to a replica (0: the most caught-up one that was heard lately). Ends with transfer_done: when another leads,
 * or after an election timeout (still leader, proposals accepted again). ERR_NOT_PRIMARY; ERR_BUSY: one is under way;
 * ERR_BAD_REQUEST: `to` is no other member; ERR_UNAVAILABLE: no member to choose. */
int raft_transfer(struct raft *raft, uint64_t to);
/* Steps down without campaigning for a while (shutdown, failed disk). */
void raft_step_down(struct raft *raft);

/* Term at an index in [log_start - 1, last_index]; 0 outside. */
uint64_t raft_term_at(const struct raft *raft, uint64_t index);
/* Clears persist_state and append only, once they are with the log. */
void raft_effects_clear_log(struct raft *raft);
/* Clears all effects, once they are carried out. */
void raft_effects_clear(struct raft *raft);
const char *raft_role_name(enum raft_role role);
const char *raft_message_name(uint8_t type);

#endif
