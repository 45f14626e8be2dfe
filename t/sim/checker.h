/* The checkers: what must hold after every step, whatever happened.
 *
 *   C1  at most one leader per group and term
 *   C2  the commit index of a running replica never goes back
 *   C3  log matching over committed entries: an index that was committed with a term has that term on every replica, for ever
 *   C4  leader completeness: who becomes leader has every committed entry
 *   C5  state machine equality: an index is applied with the same term and payload by every replica, each time it is applied
 *   C6  a running replica applies indices in order, without holes, and only committed ones
 *       (an image, which must hold committed entries only, takes the place of all up to its index)
 *   C7  a leader's commit index advances to entries of its own term only (Raft §5.4.2, figure 8)
 *   C8  when it does, a majority of the group has the entry durable: what a client was told is on disks
 *   C9  what a replica said to be durable is in its log when its process begins again (nothing but damage excuses it, and an image
 *       that contradicts it), and it remembers the terms that it led
 *   C10 per replica and follower, bytes and messages in flight are bounded (base/limits.h)
 *   C11 what a replica holds for durable is: a power loss at that moment would leave the sectors of its log
 *   C12 who gave a leader its vote has it on disk by then, and remembers it whatever happens to its process
 *   C13 a leader that hears no majority does not lead for long
 *   C14 per node, what waits for a connection and what the overlay holds are bounded; no request outlives its deadline for long
 *   C24 nobody but a node whose disk was put back finds that it has forgotten a promise
 *
 * C15 to C23, C25 and C26 stand in checker_state.h. */
#ifndef SIM_CHECKER_H
#define SIM_CHECKER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/hashtab.h"

enum { CHECKER_NODES_MAX = 9 };

struct node;
struct raft;

struct checker_entry {
    uint64_t term; /* 0: not committed as far as known */
    uint64_t committed_in; /* term of who was first seen to hold it committed */
    uint64_t hash; /* of the payload; 0: not applied yet */
};

/* Read rounds of a leader, as last seen. */
struct checker_round {
    uint64_t term, reads, sequence;
    bool is_sent, is_open; /* reads wait for `sequence`, which was asked of somebody; or of nobody yet */
};

/* What was last seen of one replica. */
struct checker_seen {
    uint64_t term, commit, applied, durable;
    uint64_t deaf_since_us; /* a leader that hears no majority; 0: hears one */
    int role;
    struct checker_round round;
};

/* What its disk must hold whatever happens to its process; 0: nothing known. */
struct checker_kept {
    uint64_t durable, durable_term;
    uint64_t led; /* newest term in which it led, so that its vote for itself was durable */
};

/* A vote that was counted. */
struct checker_vote {
    uint64_t replica, term, vote;
    bool may_be_spent; /* its receiver may be forgotten: then it is held as one that nobody got */
};

struct checker_group {
    struct checker_entry *entries; /* by index */
    uint64_t count;                /* highest index known + 1 */
    uint64_t capacity;
    uint64_t committed;            /* highest index committed anywhere */
    uint64_t committed_before;     /* the same, when a disk was put back */
    uint64_t compare_from;         /* world_judge.c: behind this the replicas are to be compared */
    uint64_t led;                  /* newest term in which anybody led */
    struct hashtab leaders;        /* term → node index + 1 */
    struct checker_kept kept[CHECKER_NODES_MAX];
    struct checker_vote votes[CHECKER_NODES_MAX]; /* the newest of each replica; replica 0: no more */
};

struct checker {
    struct checker_group *groups;
    struct checker_seen *seen[CHECKER_NODES_MAX]; /* by group; one array a node, since a step looks at all of it */
    uint32_t group_count;
    struct node *nodes[CHECKER_NODES_MAX]; /* those that run */
    uint64_t touched[CHECKER_NODES_MAX];   /* bit by group: something happened to it since the last step */
    size_t opened[CHECKER_NODES_MAX];      /* groups of the node at its last step */
    bool is_damaged[CHECKER_NODES_MAX];    /* C9 and C11 ask nothing of them */
    /* Its disk was put back to an earlier state: until it is whole again (checker_old_ended), C9 and C12 ask nothing of it, and C8
     * goes on as if it had what it had. */
    bool is_old[CHECKER_NODES_MAX];
    bool was_old[CHECKER_NODES_MAX];       /* once: others may remember more than its store holds */
    bool may_recall[CHECKER_NODES_MAX];    /* until its process ends: it may say that it has forgotten something (C24) */
    uint64_t batches[CHECKER_NODES_MAX];   /* of the log, when C20 and C21 last looked */
    /* Called with the first violation; later ones are counted only. */
    void (*violated)(void *ctx, const char *text);
    void *ctx;
    uint64_t violations, elections, committed, applied, images, steps;
};

void checker_init(struct checker *checker, void (*violated)(void *ctx, const char *text), void *ctx);
void checker_fini(struct checker *checker);
/* The node's disk was damaged: what it promised before it may have lost. */
void checker_damaged(struct checker *checker, uint32_t node);
/* A node's process began: what was seen of it before is no promise any more. */
void checker_node_began(struct checker *checker, uint32_t node);
/* It ended, or is about to be freed. */
void checker_node_ended(struct checker *checker, uint32_t node);
/* Its disk is put back to an earlier state, now. */
void checker_old_began(struct checker *checker, uint32_t node);
/* Whether its replicas hold again all that was committed when that happened. */
bool checker_old_is_whole(const struct checker *checker, uint32_t node);
/* It is: from now on it keeps its promises like any other, those of before included. */
void checker_old_ended(struct checker *checker, uint32_t node);
/* After a step of a node. */
void checker_step(struct checker *checker, uint32_t node, struct node *of);
/* Now and then, of a node that is not paused: C13, C14. */
void checker_look(struct checker *checker, uint32_t node, uint64_t now_us);
/* From node_config.observe_turn: the next step looks at this replica. */
void checker_turn(struct checker *checker, uint32_t node, uint32_t group);
/* From node_config.observe. */
void checker_applied(struct checker *checker, uint32_t node, uint32_t group, uint64_t index, uint64_t term, struct span payload);
/* From node_config.observe_image. */
void checker_image(struct checker *checker, uint32_t node, uint32_t group, uint64_t index, uint64_t term);
void checker_fail(struct checker *checker, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
