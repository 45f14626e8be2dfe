/* The background scrub: reads every replica's store on this node, one after the other, round after round, and compares each record
 * with its checksum, and what is there with the digest that was kept while writing. What is wrong marks the replica as damaged (the store
 * tells), and it is repaired by an image. A round takes scrub_interval_ms, more where reading at SCRUB_BYTES_PER_TICK takes longer.
 *
 * Replicas are compared with each other too, by the digests that travel with acknowledgements: see raft.h. Where flushes of a group
 * that is led here don't meet, a mark is put into its log when its turn comes (decisions/013). */
#ifndef NODE_SCRUB_H
#define NODE_SCRUB_H

#include <stdbool.h>
#include <stdint.h>

struct node;
struct scrub;

struct scrub *scrub_new(struct node *node);
/* Before store_close. NULL allowed. */
void scrub_free(struct scrub *scrub);
/* Every NODE_TICK_US. */
void scrub_tick(struct scrub *scrub);
/* Writes need the pages that it keeps: one that was opened before that time ends, and the replica is read in the next round. False: there
 * is none. */
bool scrub_give_way(struct scrub *scrub, uint64_t before_us);
/* The group is to be looked at next, whenever its turn would be. */
void scrub_hurry(struct scrub *scrub, uint32_t group);

#endif
