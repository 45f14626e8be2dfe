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

/* A replica that this node holds according to the topology. */
struct log_expected {
    uint32_t group;
    uint64_t replica;
};

struct log_config {
    struct env *env;
    struct logger *logger;
    const char *directory;          /* made if missing; segments and the votes file lie here */
    uint8_t cluster_id[16];
    uint64_t node_id;
    uint64_t segment_bytes;         /* 0: LIMIT_LOG_SEGMENT_BYTES */
    uint64_t cache_bytes;           /* payloads kept in memory over all groups, 0: 64 MiB; those not yet durable always stay */
    /* For damage that costs record headers, when the log can't say which groups it held; borrowed during log_open. */
    const struct log_expected *expected;
    size_t expected_count;
    bool is_alone;                  /* nobody can give back what is lost: damage is an error of log_open */
    /* A group's batch is durable: entries to `index` (of `term`), and/or the state (state_term, state_vote) when has_state. */
    void (*on_durable)(void *ctx, uint32_t group, uint64_t index, uint64_t term);
    void (*on_state_durable)(void *ctx, uint32_t group, uint64_t term, uint64_t vote);
    /* The group's holes are others than before: one was found, or filled durably. */
    void (*on_hole)(void *ctx, uint32_t group);
    /* The record of log_append_suspect is durable. */
    void (*on_suspect)(void *ctx, uint32_t group);
    /* The record of log_append_healed is durable. */
    void (*on_healed)(void *ctx, uint32_t group);
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
    struct raft_start raft;         /* runs belong to the log: copy them (raft_init does) before anything is appended or cut;
                                       is_suspect: durable */
};

/* Opens the directory and recovers: reads all segments, cuts a torn tail, rewrites what was not proven durable to a fresh segment
 * and syncs it. Blocks. Damage: a payload that is lost becomes a hole (log_first_hole); where record headers are lost, the groups
 * that may have been there become suspect. ERR_CORRUPT with a clear text (which segment, offset, why) when nobody could help: in a log
 * that is_alone, and when votes may be lost. ERR_CLUSTER_MISMATCH for another cluster's or node's files, ERR_FORMAT. */
int log_open(const struct log_config *config, struct log **out, struct err *err);
/* Groups that recovery found, by group number. */
size_t log_group_count(const struct log *log);
const struct log_group_start *log_group_at(const struct log *log, size_t i);
/* Begins a group that the log does not know, with an empty log behind (start_index - 1, start_term). Durable with the next batch
 * that holds something of it. */
void log_group_add(struct log *log, uint32_t group, uint64_t replica, uint64_t start_index, uint64_t start_term);

/* Room for an append of `count` entries in `runs` runs of one term each, so that the next log_append can't fail. 0, or ERR_NO_MEMORY. */
int log_reserve(struct log *log, uint32_t group, uint32_t count, uint32_t runs);
/* Appends entries; payloads are referenced, each of at most LIMIT_ENTRY_BYTES and half a segment. first may be <= the group's last index: what was there from `first` on is replaced.
 * terms[i], payloads[i] (an empty blob for a no-op). */
void log_append(struct log *log, uint32_t group, uint64_t first, const uint64_t *terms, struct blob *const *payloads,
                uint32_t count);
void log_append_state(struct log *log, uint32_t group, uint64_t term, uint64_t vote);
/* The suspect replica holds again what it promised: one durable record, with the state; then on_state_durable and on_healed. */
void log_append_healed(struct log *log, uint32_t group, uint64_t term, uint64_t vote);
/* The replica may have lost what it promised: durable with the next batch; then on_suspect. */
void log_append_suspect(struct log *log, uint32_t group);
/* The log ends below what the store has applied, so durable entries were lost: empties it, to begin at log_start with an unknown
 * start term (0), and makes the replica suspect. Durable with the next batch. */
void log_rebase(struct log *log, uint32_t group, uint64_t log_start);
/* The start term of such a log was learned. */
void log_set_start_term(struct log *log, uint32_t group, uint64_t start_term);
/* True while something gathered or in flight is not durable. */
bool log_is_busy(const struct log *log);
/* Records in the batch that is on its way to the disk, 0: none is. on_batch tells its end. */
size_t log_in_flight(const struct log *log);

/* The entry's payload if it is in memory (borrowed until the end of the turn; blob_ref to keep), else NULL. */
struct blob *log_peek(struct log *log, uint32_t group, uint64_t index);
/* A hint: fetches what log_peek will look at. */
void log_prefetch(const struct log *log, uint32_t group, uint64_t index);
/* The owner needs the payloads of these entries in memory no more: drops those that are durable. Who asks for one all the same gets it
 * from the disk. Most payloads go this way, a few milliseconds after they came; config.cache_bytes bounds those that can't. */
void log_drop_payloads(struct log *log, uint32_t group, uint64_t first, uint64_t last);
/* Gives memory back: forgets the payloads that are durable (who asks for them later gets them from the disk), and keeps no more room
 * than what is left needs. For quiet moments. */
void log_trim(struct log *log);
/* As raft_config.entries_in_memory. */
uint32_t log_in_memory(struct log *log, uint32_t group, uint64_t first, uint32_t count_max, uint32_t bytes_max,
                       uint32_t *bytes);
/* Reads entries from disk: an ENV_JOB_READ job; `done` gets count blobs (it owns the references, the array is the log's), possibly
 * fewer than asked (bytes_max, and at most 8 MiB after the first; 0 when `first` is not in the log any more), or a negative error
 * (ERR_CORRUPT, ERR_IO). Entries replaced meanwhile are not returned. Not called after log_close.
 * Returns 0, or ERR_NO_MEMORY: then `done` is not called; `done` may tell ERR_NO_MEMORY too. It may be tried again. */
int log_read(struct log *log, uint32_t group, uint64_t first, uint32_t count_max, uint32_t bytes_max,
              void (*done)(void *ctx, int status, uint64_t first, struct blob **payloads, uint32_t count), void *ctx);
/* The same, blocking: at start only, for replay. Reads as much as fits; *count_out >= 1 on success. */
int log_read_now(struct log *log, uint32_t group, uint64_t first, uint32_t count_max, uint32_t bytes_max,
                 struct blob **payloads, uint32_t *count_out, struct err *err);

/* --- Holes: entries whose (index, term, size, checksum) are known and whose payload is lost here. Found at recovery, or by a read:
 * then the read ends before it (or with ERR_CORRUPT, if it is the first), and on_hole is called. Index or 0. */
/* The first at or behind `from` that is not filled durably. */
uint64_t log_first_hole(const struct log *log, uint32_t group, uint64_t from);
/* The first at or behind `from` that nobody has filled yet. */
uint64_t log_first_unfilled(const struct log *log, uint32_t group, uint64_t from);
/* Gives a payload back, if the entry is a hole of this term, size and checksum; copied. False: it is not, or there
 * is no memory. */
bool log_fill(struct log *log, uint32_t group, uint64_t index, uint64_t term, struct span payload);

/* Entries below log_start (with the term of log_start - 1) are not needed any more; segments holding nothing needed are
 * recycled. What a segment still holds that is needed is appended again before. */
void log_cut(struct log *log, uint32_t group, uint64_t log_start, uint64_t start_term);
/* The group's log ends, and begins anew with an empty one behind (start_index - 1, start_term): an image took its place.
 * start_index must lie above the present log's start. Durable with the next batches; a crash before that brings the old log
 * back (whole or cut), so who needs the reset must be able to see that from elsewhere, and do it again. Term and vote stay. */
void log_reset(struct log *log, uint32_t group, uint64_t start_index, uint64_t start_term);
/* How many bytes of files, in use or not, are kept before freed ones are removed; 0, as it begins: only what a quiet log needs. A
 * new file's blocks cost twice: once for the zeroes, once for their allocation. So while the disk has room, the log should
 * keep what one flush frees until the next one. */
void log_keep_bytes(struct log *log, uint64_t bytes);
/* Bytes on disk in segments that hold something needed; the node flushes the store when this passes its limit. */
uint64_t log_live_bytes(const struct log *log);
/* The same with what is on its way there: gathered, or in the batch in flight. */
uint64_t log_load_bytes(const struct log *log);
/* There is little room: what pins segments is written again as soon as a quarter of the log waits behind it with nothing that is
 * needed. Else that is done only for what is little. */
void log_tighten(struct log *log, bool is_tight);
/* So much it may take though hardly an entry is needed: what quiet groups hold is moved only beyond some segments. */
uint64_t log_live_bytes_least(const struct log *log);
/* Room left: ERR_DISK_FULL when appending another `bytes` could fail for want of space (a segment stays in reserve for what must
 * be written: votes, cuts), ERR_BUSY when too much waits for the disk, ERR_IO after a failure. */
int log_admit(const struct log *log, size_t bytes);
/* How many bytes the log can still take with the files that it has, what waits counted in; UINT64_MAX while the disk gives it more. */
uint64_t log_room(const struct log *log);
/* The same as log_admit for what is to go on with a full disk (deletes): may use that segment, but not the rest of the present one. */
int log_admit_vital(const struct log *log, size_t bytes);

/* How long a batch takes from here to the disk and back: the median of the last ones, or the age of the one in flight if that hangs; µs,
 * 0: there was none yet. */
uint64_t log_latency_us(const struct log *log);
/* Writes and syncs a batch that holds nothing, so that the latency is measured though nobody writes. Does nothing while something is on
 * its way, or where the room is kept for what must be written. */
void log_probe(struct log *log);

struct log_stats {
    uint64_t batches, entries, bytes, syncs_us_total, sync_us_max, segments, recycled, read_bytes;
    uint64_t holes, holes_filled;   /* found, written again */
    uint64_t suspects, healed;      /* replicas that became suspect at this start, that healed since */
};
const struct log_stats *log_stats(const struct log *log);
/* Ends it: no callback is made any more. What is gathered is written and synced here (blocks) or, while a job of the log is in
 * flight, as soon as that one is done, in a later event of the loop; then the memory is freed. To be sure that all is on disk,
 * wait for !log_is_busy before. */
void log_close(struct log *log);
/* Frees the memory and writes nothing: for an env that ended its jobs without telling (a simulated crash). */
void log_abandon(struct log *log);

#endif
