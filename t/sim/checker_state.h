/* More of the checkers (checker.h): what must hold between the parts of one replica, and between replicas, whatever clients happen to see
 * of it. Some bugs do harm only when two or three rare things coincide; the state that makes the harm possible is seen at once.
 *
 *   C15 a lease never outlives the promise that it rests on, even if clocks drift as far as they may (lease.h): as long as a leader
 *       counts a follower's answer, that follower, restarted or not, votes for nobody else
 *   C16 as long as a leader holds a lease, nobody leads in a later term
 *   C17 a leader proposes nothing before its no-op is applied (I3 of partition.c)
 *   C18 nothing is applied while an image takes the store's place (I5 of partition.c)
 *   C19 a read does not join a round that was sent before it came (I8 of raft.c)
 *   C20 a segment leaves the log only when a durable batch says so (I4, I5 of log.c)
 *   C21 a place in the log holds the entry that its slot names, or none (I2 of log.c): seen as soon as a batch is durable
 *   C22 what a leader takes for a follower's match is in that follower's log, and what it takes for flushed is in its store: others
 *       cut their logs by it
 *   C23 no replica suspects itself to have lost what it promised, unless its disk was damaged
 *   C25 a leader that compares its store with others', where flushes met or at a mark, finds them equal, unless a disk was damaged
 *   C26 what counts as live in a segment of the log is what lies there, so that a segment whose entries are gone can go */
#ifndef SIM_CHECKER_STATE_H
#define SIM_CHECKER_STATE_H

#include "sim/checker.h"

struct partition;

/* After a step of a node that looks at these groups, a bit each: whose entries a batch made durable, those took a turn. */
void checker_state_node(struct checker *checker, uint32_t node, uint64_t groups);
/* Of a replica that leads, after each step of its node. */
void checker_state_step(struct checker *checker, uint32_t node, uint32_t number, const struct partition *partition);
/* Of any replica, now and then. */
void checker_state_look(struct checker *checker, uint32_t node, uint32_t number, const struct partition *partition);
/* Once, of a node that runs when all has settled. */
void checker_state_end(struct checker *checker, uint32_t node);
/* A replica has just come to lead. */
void checker_state_leader(struct checker *checker, uint32_t node, uint32_t number, const struct raft *leader);

#endif
