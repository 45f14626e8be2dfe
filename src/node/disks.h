/* The nodes' disks compared: is this node's the slow one (docs/decisions/012)?
 *
 * Each node measures how long its log's batches take and tells the others with every frame. A node whose log is much slower than
 * that of a majority, for a while, is slow: its primaries are handed to others, and it gets none back until it has been well for longer.
 * Arithmetic only: no clock, no disk. */
#ifndef NODE_DISKS_H
#define NODE_DISKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Zeroed: well. */
struct disks {
    bool is_slow;
    uint64_t since_us;  /* it looks otherwise than is_slow says, since then; 0: it doesn't */
    uint64_t middle_us; /* what the own disk was compared with last */
};

/* From the tick. own_us: what a batch of the own log takes (log_latency_us), others_us: what the other nodes said of theirs; 0: not known.
 * True: is_slow has changed. At most LIMIT_NODES others. */
bool disks_look(struct disks *disks, uint64_t now_us, uint64_t own_us, const uint64_t *others_us, size_t count);

#endif
