/* Images between nodes: brings a replica back whose log was cut behind its back, or whose store is damaged.
 *
 * The follower pulls. Its primary offers an image under an id (RAFT_IMAGE, the follower's heartbeat); the follower's node asks for it
 * piece by piece (VERB_IMAGE, on the link between the two nodes only), one piece in flight, writes each durably aside, and when all
 * are there swaps it in. The follower keeps the place, so a broken link costs one piece: when the offer comes again, it asks on.
 *
 * Bounded on both sides: LIMIT_STORE_IMAGES are open and LIMIT_IMAGES_RECEIVED received at a time, each with one piece in memory;
 * the sending node reads image_bytes_per_second at most, over all of them. */
#ifndef NODE_IMAGES_H
#define NODE_IMAGES_H

#include "raft/raft.h"
#include "wire/frame.h"

struct images;
struct link;
struct node;
struct partition;

struct images *images_new(struct node *node);
/* Before store_close. Frees at once; jobs in flight end by themselves. NULL allowed. */
void images_free(struct images *images);

/* A replica needs an image of the partition, which leads: opens one, if there is room, and offers it. */
void images_want(struct images *images, struct partition *partition, const struct raft_image_want *want);
/* The partition's primary offers an image that is needed here: begins or goes on. */
void images_offered(struct images *images, struct partition *partition, const struct raft_image *image);
/* A VERB_IMAGE question or answer arrived from another node. */
void images_question(struct images *images, struct link *link, const struct frame *frame);
void images_answer(struct images *images, struct link *link, const struct frame *frame);
/* The link is gone: what was asked there is asked again when the offer comes again. */
void images_link_lost(struct images *images, struct link *link);
/* Every NODE_TICK_US: throttle, deadlines, images that are not on offer any more. */
void images_tick(struct images *images);

#endif
