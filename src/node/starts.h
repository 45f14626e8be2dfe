/* Starts: which starts of itself a node's disk has seen, and which start of each other node it has heard of last. A node whose peers
 * know a start that its own disk knows nothing of has a disk that was put back to an earlier state (docs/decisions/009).
 *
 * Every start has a number, one above the last one's, and a random id, the boot id: a disk that is put back uses numbers again, but
 * never with the same ids.
 *
 * The file `starts` holds two slots, written in turn, in place, so that a full disk does not matter and a torn write spoils only
 * what was being written. Slot, STARTS_SLOT_BYTES:
 *
 *   offset size field
 *        0    4 magic
 *        4    4 CRC32C of bytes 8 to the end of the last mark
 *        8    8 sequence: the greater one counts
 *       16    4 own marks
 *       20    4 marks of others
 *       24      own marks in the order in which they were made, 16 bytes each: number, boot id
 *        …      marks of others, 24 bytes each: node id, number, boot id
 *
 * A file that is lost or damaged knows no start: the peers then say that the disk is older, and rightly so. Blocks; starts are rare,
 * and one takes a write in place and a sync. */
#ifndef NODE_STARTS_H
#define NODE_STARTS_H

#include "base/limits.h"
#include "env/env.h"

enum {
    STARTS_KEPT = 32, /* own ones; a peer that last heard of an older start can't tell */
    STARTS_SLOT_BYTES = 4096,
};

struct starts_mark {
    uint64_t number, boot_id; /* number 0: none */
};

struct starts {
    struct env *env;
    char *path, *directory; /* owned */
    uint64_t sequence;
    struct starts_mark own[STARTS_KEPT]; /* in the order in which they were made; two may have one number, see starts_adopt */
    uint32_t own_count;
    struct starts_peer {
        uint64_t node_id;
        struct starts_mark mark;
    } peers[LIMIT_NODES];
    uint32_t peer_count;
};

/* Reads what is there. ERR_IO; a missing or damaged file is an empty one. */
int starts_open(struct starts *starts, struct env *env, const char *directory, struct err *err);
void starts_fini(struct starts *starts);
/* Makes durable what the calls below have changed. ERR_IO, ERR_DISK_FULL (only where the file has yet to be made). */
int starts_save(struct starts *starts, struct err *err);

/* The node starts once more. */
void starts_begin(struct starts *starts, uint64_t boot_id);
/* A peer knows the start `known`, and the own disk does not: it goes on behind that one. */
void starts_adopt(struct starts *starts, struct starts_mark known, uint64_t boot_id);
/* The newest own one. */
struct starts_mark starts_newest(const struct starts *starts);
/* What is known of another node. */
struct starts_mark starts_of(const struct starts *starts, uint64_t node_id);
/* True: it changed something. */
bool starts_learn(struct starts *starts, uint64_t node_id, struct starts_mark mark);
/* Whether a disk with these starts, as in `own`, is older than the start `known` of the same node. */
bool starts_are_older(const struct starts_mark *own, size_t count, struct starts_mark known);

#endif
