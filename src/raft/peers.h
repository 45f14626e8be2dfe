/* Raft between nodes: one frame per peer per loop turn carries the messages of all groups as fixed records.
 *
 * Payload of a FRAME_RAFT:
 *
 *   offset size field
 *        0    8 round: number of the read round that this frame asks, 0 = none
 *        8    8 answered: number of the newest read round that was asked by the receiver and is answered with this frame, 0 = none
 *       16    4 message count
 *       20    4 entry count (of all messages)
 *       24    8 changes: the sender's count of them (raft.h, raft_config) as the frame leaves
 *       32    4 what a batch of the sender's log takes, µs, 0 = not known
 *       36    4 1: the sender's disk is slow, see node/disks.h
 *       40    4 what a flush of the sender's store takes, µs, 0 = not known
 *       44    4 beat count
 *       48    8 stamp: the sender's monotonic clock when it made the first of the beats, ms
 *       56    4 count of the questions of followers that the round takes along
 *       60    4 count of the answers to such, of the round that is answered
 *       64      beats, PEER_BEAT_BYTES each: group, kind, term, echo (node/partition.h says what becomes of them)
 *        …      questions of followers for the commit index (raft.h, raft_read_grant), 24 bytes each: group 4, zero 4, asking replica 8,
 *               its term 8
 *        …      answers, 16 bytes each: group 4, zero 4, commit index 8
 *        …      messages, PEER_MESSAGE_BYTES each, fields of struct raft_message in order; those of read rounds
 *               (RAFT_READ, RAFT_READ_REPLY), which are many where many read, PEER_ROUND_BYTES: type, granted, two zeroes,
 *               group, from, to, term, sequence, index
 *        …      entry heads, 16 bytes each: term, size, zero; those of the first message with entries come first
 *        …      payloads, in the same order
 *
 * Read rounds: at most one is in flight to a peer; what arrives meanwhile waits for the next. A round is answered by the frame
 * that carries the replies, or by an empty one, so that a lost or ignored question never blocks the next. An answer to a round that
 * isn't in flight any more is ignored, with all that it tells. */
#ifndef RAFT_PEERS_H
#define RAFT_PEERS_H

#include "base/mem.h"
#include "raft/raft.h"
#include "wire/conn.h"

enum {
    PEER_HEAD_BYTES = 64,
    PEER_BEAT_BYTES = 24,
    PEER_ASK_BYTES = 24,
    PEER_TELL_BYTES = 16,
    PEER_MESSAGE_BYTES = 120,
    PEER_ROUND_BYTES = 48,
    PEER_ENTRY_BYTES = 16,
};

/* A heartbeat of a group at rest, or the answer to one (raft.h, struct raft_beat). */
struct peer_beat {
    uint32_t group;
    enum peer_beat_kind { PEER_BEAT = 1, PEER_BEAT_FOLLOWED, PEER_BEAT_REFUSED } kind;
    uint64_t term, echo;
};

/* The way to one other node. Embedded by its owner; a zeroed struct has no connection. */
struct peer {
    struct conn *conn; /* NULL: down; messages are dropped then */
    struct mem_gate *gate; /* the owner's to set; where memory is refused, messages and frames are dropped: Raft repeats them */
    struct raft_message *messages;
    size_t message_count, message_capacity;
    struct peer_entry {
        uint64_t term;
        struct blob *payload;
    } *entries;
    size_t entry_count, entry_capacity;
    struct peer_beat *beats;
    size_t beat_count, beat_capacity;
    uint64_t beat_stamp;         /* the least of theirs */
    struct buf asks, tells;      /* packed: followers' questions, and answers to such, for the next frame */
    struct buf head;             /* scratch: of the frame being packed */
    struct conn_piece *pieces;   /* scratch: pieces_capacity of them */
    size_t pieces_capacity;
    struct raft_entry *received; /* scratch: of the frame at hand, with as many payloads */
    struct span *payloads;
    size_t received_capacity;
    uint64_t round_sent, round_done; /* equal: none in flight */
    uint64_t round_to_answer;        /* asked by the peer and not answered yet */
    bool round_opened;               /* this turn's frame asks a new round */
    uint64_t own_changes;            /* the own node's count of changes, for the frame being packed */
    uint64_t changes;                /* its count of changes, as heard last on this connection; 0: not yet */
    bool is_urgent;                  /* something was gathered that may not wait, see peer_may_wait */
    uint64_t frames_sent, messages_sent;
    struct peer_disk {
        uint32_t log_us, flush_us; /* 0: not known */
        bool is_slow;
    } disk, own_disk; /* what the other node said of its disk on this connection; what it is told of the own one */
};

void peer_fini(struct peer *peer);
/* The connection stands or is gone: whatever was gathered is dropped, no round is in flight. */
void peer_up(struct peer *peer, struct conn *conn);
void peer_down(struct peer *peer);
/* Gathers one message; payloads (message->count many, with their terms) are referenced. */
void peer_send(struct peer *peer, const struct raft_message *message, const uint64_t *terms, struct blob *const *payloads);
/* The same for a beat made at `stamp`. */
void peer_beat(struct peer *peer, const struct peer_beat *beat, uint64_t stamp);
/* May a read round be opened this turn? Then peer_round_open, and RAFT_READ messages may be gathered for those groups that can't ride
 * on the round as such (raft_read_ride). */
bool peer_round_is_free(const struct peer *peer);
void peer_round_open(struct peer *peer);
/* Gathers a follower's question, for the round that is opened this turn; and the answer to one, which leaves with the answer to the
 * round that brought it. Without memory they are left out. */
void peer_ask(struct peer *peer, uint32_t group, uint64_t replica, uint64_t term);
void peer_tell(struct peer *peer, uint32_t group, uint64_t commit);
/* Waits no longer for the round in flight: its frame, or the answer, never came. An answer that comes yet is ignored. */
void peer_round_give_up(struct peer *peer);
/* Whether something was gathered, and all of it is entries: they may share a frame with those of a later turn. Answers, questions and heartbeats are
 * waited for. */
bool peer_may_wait(const struct peer *peer);
/* Sends what was gathered as one frame, if anything. changes: the count of the node's own changes. */
void peer_flush(struct peer *peer, uint64_t epoch, uint64_t time, uint64_t changes);

/* One message as received; payloads borrowed for the call. */
struct peer_message {
    struct raft_message message;
    const struct raft_entry *entries;
    const struct span *payloads;
};
/* Who hears what a frame brings: first of the beats, then of the messages, in order. */
struct peer_events {
    void (*beat)(void *ctx, const struct peer_beat *beat, uint64_t stamp);
    void (*message)(void *ctx, const struct peer_message *message);
    /* The group of the next one of either, so that what belongs to it may be fetched into the processor's cache meanwhile. */
    void (*ahead_of_beat)(void *ctx, uint32_t group);
    void (*ahead)(void *ctx, uint32_t group);
    /* A follower's question; and, before the round's end is told, what this node's followers asked for. After all messages. */
    void (*asked)(void *ctx, uint32_t group, uint64_t replica, uint64_t term);
    void (*told)(void *ctx, uint32_t group, uint64_t commit);
};
/* Takes a received frame apart. Notes rounds asked and answered: *round_answered is set when the round in flight came back. ERR_PROTOCOL for
 * anything malformed, ERR_NO_MEMORY: nothing was called then. */
int peer_receive(struct peer *peer, struct span payload, const struct peer_events *events, void *ctx, bool *round_answered);

#endif
