/* Recall: a node that starts hears from the others what it has promised, in case its disk was put back to an earlier state
 * (docs/decisions/009).
 *
 * In each greeting a node tells the other: the starts that its own disk knows; the newest start of the other that it has heard of;
 * and, for each group in which both have a replica, what it remembers of the other's promises (raft_recall). So a node learns
 *   - that its disk is older than its last start: then all its replicas are suspect, durably, and only after that it takes the
 *     forgotten start among its own, so that a crash in between forgets nothing;
 *   - what its replicas have promised since the disk was as it is: they are bound by that again.
 *
 * Until the others have told, the node is asleep: it hears no Raft message and campaigns for nothing. It wakes as soon as every node
 * has told that anybody hears of, at the latest after an election timeout, in which it may not vote anyway.
 *
 * Record of a group in the field `memory`, RECALL_BYTES: group u32, has_led u32, then now, term, vote_term, voted_term, ack_term, index,
 * log_term of struct raft_memory, u64 each. */
#ifndef NODE_RECALL_H
#define NODE_RECALL_H

#include <stdbool.h>

#include "base/bytes.h"
#include "base/err.h"

struct node;
struct link;
struct recall;

enum { RECALL_BYTES = 64 };

/* Reads what the disk knows. ERR_IO. */
int recall_open(struct node *node, struct recall **out, struct err *err);
/* Begins a start of the node, durably: when its folder was found in order (one that is refused stays as it is), and before it says
 * anything to anybody. ERR_IO. */
int recall_begin(struct recall *recall, struct err *err);
void recall_free(struct recall *recall);
/* The partitions are open: the node sleeps until the others have told. */
void recall_sleep(struct recall *recall);
bool recall_is_asleep(const struct recall *recall);

/* What goes into a greeting, in the format of its fields. recall_tell makes it the caller's, to be freed with recall_told_fini. */
struct recall_told {
    struct buf starts, memory, hears;
    uint64_t known_start, known_boot_id;
};
void recall_tell(struct recall *recall, uint64_t node_id, struct recall_told *out);
void recall_told_fini(struct recall_told *told);
/* A node of this cluster has greeted: to be told before anything else of it is heard; false: what it says is malformed. */
bool recall_hear(struct recall *recall, struct link *link, const struct recall_told *told, uint64_t boot_id);
/* The suspicion of one replica is durable. */
void recall_suspect_durable(struct recall *recall);
void recall_tick(struct recall *recall);

#endif
