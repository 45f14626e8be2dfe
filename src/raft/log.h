/* The log: one segmented write-ahead log for all groups of a node, group commit, recovery.
 *
 * Loop thread calls log_append and log_append_state; what is gathered by the end of the turn is written as one batch by a job
 * (ENV_JOB_LOG): one write and one fdatasync, one batch in flight, the next gathering behind it. When a batch is durable,
 * on_durable tells each group that had something in it.
 *
 * The log keeps for every entry where it lies on disk, and the newest payloads in memory (bounded), as blobs.
 *
 * The format, the rules of recovery and what is damage stand at the head of log.c and log_record.h. */
#ifndef RAFT_LOG_H
#define RAFT_LOG_H

#include "base/err.h"
#include "base/logger.h"
#include "base/mem.h"
#include "env/env.h"
#include "raft/raft.h"

struct log;

struct log_config {
    struct env *env;
    struct logger *logger;
    const char *directory;          /* made if missing; segments and the votes file lie here */
    uint8_t cluster_id[16];
    uint64_t node_id;
    uint64_t segment_bytes;         /* 0: LIMIT_LOG_SEGMENT_BYTES */
    uint64_t cache_bytes;           /* payloads kept in memory over all groups, 0: 64 MiB; those not yet durable always stay */
    /* A group's batch is durable: entries to `index` (of `term`), and/or the state (state_term, state_vote) when has_state. */
    void (*on_durable)(void *ctx, uint32_t group, uint64_t index, uint64_t term);
    void (*on_state_durable)(void *ctx, uint32_t group, uint64_t term, uint64_t vote);
    /* All of a finished batch was told. Called once per batch, after the calls above. */
    void (*on_batch)(void *ctx);
    /* A write or sync failed: the node must stop. Called once; nothing becomes durable afterwards. */
    void (*on_failure)(void *ctx, const struct err *err);
    void *ctx;
};

/* What recovery found of one group. Entries log_start … last_index are there. */
struct log_group_start {
    uint32_t group;
    uint64_t replica;
    struct raft_start raft;         /* runs belong to the log: copy them (raft_init does) before anything is appended or cut */
};

/* Opens the directory and recovers: reads all segments, cuts a torn tail, rewrites what was not proven durable to a fresh segment
 * and syncs it. Blocks. ERR_CORRUPT with a clear text for damage (which segment, offset, why), ERR_CLUSTER_MISMATCH for another
 * cluster's or node's files, ERR_FORMAT. */
int log_open(const struct log_config *config, struct log **out, struct err *err);
/* Groups that recovery found, by group number. */
size_t log_group_count(const struct log *log);
const struct log_group_start *log_group_at(const struct log *log, size_t i);
/* Begins a group that the log does not know, with an empty log behind (start_index - 1, start_term). Durable with the next batch
 * that holds something of it. */
void log_group_add(struct log *log, uint32_t group, uint64_t replica, uint64_t start_index, uint64_t start_term);

/* Appends entries; payloads are referenced, each of at most LIMIT_ENTRY_BYTES and half a segment. first may be <= the group's last index: what was there from `first` on is replaced.
 * terms[i], payloads[i] (an empty blob for a no-op). */
void log_append(struct log *log, uint32_t group, uint64_t first, const uint64_t *terms, struct blob *const *payloads,
                uint32_t count);
void log_append_state(struct log *log, uint32_t group, uint64_t term, uint64_t vote);
/* True while something gathered or in flight is not durable. */
bool log_is_busy(const struct log *log);

/* The entry's payload if it is in memory (borrowed until the end of the turn; blob_ref to keep), else NULL. */
struct blob *log_peek(struct log *log, uint32_t group, uint64_t index);
/* As raft_config.entries_in_memory. */
uint32_t log_in_memory(struct log *log, uint32_t group, uint64_t first, uint32_t count_max, uint32_t bytes_max,
                       uint32_t *bytes);
/* Reads entries from disk: an ENV_JOB_READ job; `done` gets count blobs (it owns the references, the array is the log's), possibly
 * fewer than asked (bytes_max, and at most 8 MiB after the first; 0 when `first` is not in the log any more), or a negative error
 * (ERR_CORRUPT, ERR_IO). Entries replaced meanwhile are not returned. Not called after log_close. */
void log_read(struct log *log, uint32_t group, uint64_t first, uint32_t count_max, uint32_t bytes_max,
              void (*done)(void *ctx, int status, uint64_t first, struct blob **payloads, uint32_t count), void *ctx);
/* The same, blocking: at start only, for replay. Reads as much as fits; *count_out >= 1 on success. */
int log_read_now(struct log *log, uint32_t group, uint64_t first, uint32_t count_max, uint32_t bytes_max,
                 struct blob **payloads, uint32_t *count_out, struct err *err);

/* Entries below log_start (with the term of log_start - 1) are not needed any more; segments holding nothing needed are
 * recycled. What a segment still holds that is needed is appended again before. */
void log_cut(struct log *log, uint32_t group, uint64_t log_start, uint64_t start_term);
/* The group's log ends, and begins anew with an empty one behind (start_index - 1, start_term): an image took its place.
 * start_index must lie above the present log's start. Durable with the next batches; a crash before that brings the old log
 * back (whole or cut), so who needs the reset must be able to see that from elsewhere, and do it again. Term and vote stay. */
void log_reset(struct log *log, uint32_t group, uint64_t start_index, uint64_t start_term);
/* Bytes on disk in segments that hold something needed; the node flushes the store when this passes its limit. */
uint64_t log_live_bytes(const struct log *log);
/* So much it may take though hardly an entry is needed: what quiet groups hold is moved only beyond some segments. */
uint64_t log_live_bytes_least(const struct log *log);
/* Room left: ERR_DISK_FULL when appending another `bytes` could fail for want of space (a segment stays in reserve for what must
 * be written: votes, cuts), ERR_BUSY when too much waits for the disk, ERR_IO after a failure. */
int log_admit(const struct log *log, size_t bytes);
/* The same for what is to go on with a full disk (deletes): may use that segment, but not the rest of the present one. */
int log_admit_vital(const struct log *log, size_t bytes);

struct log_stats {
    uint64_t batches, entries, bytes, syncs_us_total, sync_us_max, segments, recycled, read_bytes;
};
const struct log_stats *log_stats(const struct log *log);
/* Ends it: no callback is made any more. What is gathered is written and synced here (blocks) or, while a job of the log is in
 * flight, as soon as that one is done, in a later event of the loop; then the memory is freed. To be sure that all is on disk,
 * wait for !log_is_busy before. */
void log_close(struct log *log);
/* Frees the memory and writes nothing: for an env that ended its jobs without telling (a simulated crash). */
void log_abandon(struct log *log);

#endif
