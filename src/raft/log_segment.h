/* Segment files: made ahead of use, recycled, read back.
 *
 * A segment is a file NUMBER.log (16 hex digits) of fixed size, full of blocks that were written
 * before. It comes to life under the name NUMBER.spare and gets its final name only when its header
 * is durable; a .spare found at start is removed. All calls block: jobs and recovery make them. */
#ifndef RAFT_LOG_SEGMENT_H
#define RAFT_LOG_SEGMENT_H

#include "env/env.h"
#include "raft/log_record.h"

/* Where an entry's payload lies. */
struct log_place {
    uint32_t segment; /* number; 0: not on disk yet */
    uint32_t at;      /* content position */
    uint32_t size;
    uint32_t crc;
};

void log_segment_path(char out[512], const char *directory, uint64_t number, const char *suffix);
/* Parses NUMBER.log or NUMBER.spare. */
bool log_segment_parse(const char *name, uint64_t *number, bool *is_spare);

/* Makes the segment that `header` describes, from the file of segment `reuse` (whose content is
 * lost; its number must be smaller) or, reuse = 0, from a new file written with zeroes. All durable
 * on return. On failure nothing of the new segment is left. ERR_DISK_FULL, ERR_IO. */
int log_segment_make(struct env *env, const char *directory,
                     const struct log_record_segment *header, uint64_t reuse, struct env_file **out,
                     struct err *err);
/* Opens a segment and checks that its header names `number` and `owner`. ERR_CLUSTER_MISMATCH,
 * ERR_CORRUPT, ERR_FORMAT. */
int log_segment_open(struct env *env, const char *directory, uint64_t number,
                     const struct log_record_owner *owner, struct log_record_segment *header,
                     struct env_file **out, struct err *err);

/* A window of a segment in memory, so that neighbouring payloads cost one read. A zeroed struct is
 * empty. */
struct log_segment_window {
    struct buf raw;
    uint32_t segment;
    uint32_t sector, sectors;
};
/* Reads one payload of place->size bytes and checks it: ERR_CORRUPT, ERR_IO. segment_sectors bounds
 * reading ahead. */
int log_segment_read(struct env *env, struct env_file *file, uint32_t segment_sectors,
                     const struct log_place *place, struct log_segment_window *window, uint8_t *out,
                     struct err *err);
void log_segment_window_fini(struct log_segment_window *window);

#endif
