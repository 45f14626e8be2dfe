/* The nodes' disks compared: is this node's the slow one (docs/decisions/012)?
 *
 * Each node measures how long its log's batches and its store's flushes take, and tells the others with every frame. A node whose
 * log is much slower than that of a majority, for a while, is slow; so is one whose flushes are, once its log is full for
 * that. Its primaries are handed to others, and it gets none back until it has been well for longer.
 * Arithmetic only: no clock, no disk. */
#ifndef NODE_DISKS_H
#define NODE_DISKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What was found of one measure. Zeroed: well. */
struct disks_verdict {
    bool is_slow;
    uint64_t since_us;  /* it looks otherwise than is_slow says, since then, but for stalls; 0: it doesn't */
    uint64_t stall_us;  /* a slow one that looked well looks slow again since then; 0: it doesn't */
    uint64_t middle_us; /* what the own measure was compared with last */
};

struct disks {
    struct disks_verdict log, flush;
};

/* Both from the tick. own_us: the own measure, others_us: what the other nodes said of theirs; 0: not known. True: is_slow has
 * changed. At most LIMIT_NODES others. */

/* The measure: what a batch of the log takes (log_latency_us). */
bool disks_look_log(struct disks *disks, uint64_t now_us, uint64_t own_us, const uint64_t *others_us, size_t count);
/* The measure: what a flush takes, the one that is under way counted in. is_felt: the log is so full that writes are slowed (budget.h),
 * and a flush is under way: nobody is slow whose flush holds up nothing. */
bool disks_look_flush(struct disks *disks, uint64_t now_us, uint64_t own_us, bool is_felt, const uint64_t *others_us, size_t count);

/* By either: this node should lead nothing. */
bool disks_is_slow(const struct disks *disks);

#endif
