/* The checkers: what must hold after every step, whatever happened.
 *
 *   C1  at most one leader per group and term
 *   C2  the commit index of a running replica never goes back
 *   C3  log matching over committed entries: an index that was committed with a term has that term on every replica, for ever
 *   C4  leader completeness: who becomes leader has every committed entry
 *   C5  state machine equality: an index is applied with the same term and payload by every replica, each time it is applied
 *   C6  a running replica applies indices in order, without holes, and only committed ones */
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
    uint64_t hash; /* of the payload; 0: not applied yet */
};

/* What was last seen of one replica. */
struct checker_seen {
    uint64_t term, commit, applied;
    int role;
};

struct checker_group {
    struct checker_entry *entries; /* by index */
    uint64_t count;                /* highest index known + 1 */
    uint64_t capacity;
    uint64_t committed;            /* highest index committed anywhere */
    struct hashtab leaders;        /* term → node index + 1 */
    struct checker_seen seen[CHECKER_NODES_MAX];
};

struct checker {
    struct checker_group *groups;
    uint32_t group_count;
    /* Called with the first violation; later ones are counted only. */
    void (*violated)(void *ctx, const char *text);
    void *ctx;
    uint64_t violations, elections, committed, applied;
};

void checker_init(struct checker *checker, void (*violated)(void *ctx, const char *text), void *ctx);
void checker_fini(struct checker *checker);
/* A node's process began: what was seen of it before is no promise any more. */
void checker_node_began(struct checker *checker, uint32_t node);
/* After a step of a node. */
void checker_step(struct checker *checker, uint32_t node, struct node *of);
/* The same for one replica's core. */
void checker_raft(struct checker *checker, uint32_t node, uint32_t group, const struct raft *raft);
/* From node_config.observe. */
void checker_applied(struct checker *checker, uint32_t node, uint32_t group, uint64_t index, uint64_t term, struct span payload);
void checker_fail(struct checker *checker, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
