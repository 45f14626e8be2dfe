/* What a replica holds, as one number: replicas of a group that applied the same entries must hold the same. */
#ifndef SIM_REPLICAS_H
#define SIM_REPLICAS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

struct partition;

/* Everything that reads show (overlay and LMDB merged): keys, values, versions, times, attributes. */
int replicas_digest_shown(struct partition *partition, uint64_t *out, struct err *err);
/* Everything that its image holds (LMDB alone, as of the last flush): the same and the sessions' results. */
int replicas_digest_image(struct partition *partition, uint64_t *out, struct err *err);
/* Has the last flush reached what was applied? Then images of equal replicas are equal. */
bool replicas_is_flushed(struct partition *partition);

#endif
