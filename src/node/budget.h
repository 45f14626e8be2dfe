/* The log's budget: what a node's log may still take, and who has to wait (docs/decisions/011).
 *
 * The log holds what the store has not flushed. While flushes are slower than writes it would grow without end; so from twice its budget
 * on a node slows its own ordinary writes and takes no more than trifles from other primaries, and from there on it gets stricter. Who
 * is refused may come again: the next flush makes room.
 *
 * Looked at with every tick; what is admitted between two looks is counted here. Arithmetic only: no clock, no disk. */
#ifndef NODE_BUDGET_H
#define NODE_BUDGET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "raft/raft.h"

/* What an entry takes in the log besides its payload: its header, the copy of that in the next batch, its part of sectors. */
enum { BUDGET_ENTRY_BYTES = 100 };

/* All fields are budget.c's, but `unapplied`. Zeroed: nothing is admitted before the first look. */
struct budget {
    int64_t ordinary;  /* bytes of ordinary writes that may be admitted */
    int64_t vital;     /* of what must go on longer */
    int64_t pace;      /* of ordinary writes that may be proposed before the next look */
    int64_t entries;   /* of other primaries' entries that are taken */
    int64_t trifles;   /* the same where only trifles are taken */
    int64_t sick;      /* the same for replicas whose store is damaged */
    uint64_t unapplied; /* bytes proposed by this node's primaries and not applied, each with BUDGET_ENTRY_BYTES: the partitions count it */
};

/* What the node sees. */
struct budget_view {
    uint64_t load;     /* bytes in the log, those on their way there included */
    uint64_t budget;
    size_t node_count; /* of the cluster */
    bool may_shrink;   /* a flush is under way, or would write something */
    uint64_t room;     /* bytes that the log can take on a full disk, else UINT64_MAX */
    uint64_t segment_bytes; /* of the log */
};

void budget_look(struct budget *budget, const struct budget_view *view);
/* May a write be queued? vital: a delete, the control group's. 0, or ERR_BUSY: nothing is applied, come again. */
int budget_admit(const struct budget *budget, bool is_vital);
/* May it be proposed now? False: not before the next look. */
bool budget_propose(struct budget *budget, size_t bytes, bool is_vital);
/* Entries of another primary were taken. */
void budget_took(struct budget *budget, uint64_t bytes, size_t count);
/* What an append to a replica may bring. */
enum raft_room budget_room(const struct budget *budget, bool is_damaged);

#endif
