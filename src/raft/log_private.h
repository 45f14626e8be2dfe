/* What log.c and its files (writing, reading, keeping) and log_recover*.c (opening) share; for nobody else. */
#ifndef RAFT_LOG_PRIVATE_H
#define RAFT_LOG_PRIVATE_H

#include "base/hashtab.h"
#include "base/limits.h"
#include "raft/log.h"
#include "raft/log_index.h"
#include "raft/log_votes.h"

enum {
    /* Segments made ahead: one to go on with, one kept for what must be written on a full disk
     * (deletes; votes can do with what the present segment has left). */
    LOG_SPARES = 2,
    /* That part of the last segment that a full disk allows is left to what is no entry. It takes the cuts
     * of all groups several times; each that frees a segment gives all of it back. */
    LOG_OTHERS_PART = 8,
    /* Files of freed segments kept for reuse beyond that; more are removed, unless all files together
     * are below log_keep_bytes. */
    LOG_FREED_MAX = 2,
    /* From this many segments on, what little the oldest holds is written again. */
    LOG_CHAIN_MAX = 8,
    /* What one round of moving or one log_read reads at most. */
    LOG_READ_BYTES_MAX = 8 << 20,
    LOG_MOVE_BYTES = 1 << 20,
    /* Gathered and not yet in a batch; more: log_admit says ERR_BUSY. */
    LOG_PENDING_BYTES_MAX = 64 << 20,
    LOG_SEGMENT_BYTES_MIN = 64 << 10,
    /* Groups are numbered from 0 on, nearly without gaps: below this they are found without hashing. */
    LOG_NUMBERED_MAX = 1 << 14,
    LOG_NUMBERED_MIN = 256,
    /* Batches of which the typical latency is told: one that takes long says nothing. */
    LOG_LATENCIES = 9,
    /* A batch in flight for so long counts before it is done: many disks never come back from there. */
    LOG_HANGS_US = 200 * 1000,
    /* A segment that could not be made for want of space is tried again after. */
    LOG_SPARE_RETRY_US = 1000000,
    LOG_MEMORY_RETRY_US = 10000,
    /* What a segment's checkpoint says of a group at most: start, state, suspicion. */
    LOG_CHECKPOINT_RECORDS = 3,
};

struct log_group {
    uint32_t number;
    uint64_t replica;
    struct log_index index;
    uint64_t durable_index;
    uint64_t term, vote;
    struct log_vote votes; /* its pair in the votes file and what was written there last */
    bool has_pair;
    bool is_told; /* in the list of those to tell about this batch */
    /* Its log was reset, and no record that says so is laid out yet: the next checkpoint must say it too, or it would join
     * the new start to the old entries behind it. */
    bool is_reset;
    bool is_suspect;
    bool is_filled;      /* a hole was, by the batch at hand */
    uint64_t hole_count; /* entries whose payload is damaged and not durably written again */
    uint64_t hole_from;  /* no hole is before */
    /* During recovery, see log_recover.c. */
    bool is_doubtful, is_healed;
    uint64_t trusted_from;
    struct log_group_start start;
};

struct log_segment {
    uint32_t number;
    struct env_file *file;
    uint32_t sectors;    /* of the file */
    uint32_t used;       /* of them, header included */
    uint32_t live_count; /* entries whose place is here */
    uint64_t live_bytes;
    uint32_t readers; /* items of reads in flight */
};

/* A record that waits for a batch or is in one. */
struct log_pending {
    struct log_group *group;
    uint64_t index, term;
    struct blob *payload; /* referenced, or NULL */
    uint32_t crc;         /* filled by the job, unless it is bare */
    uint32_t size;        /* of a bare one's payload */
    uint32_t at;          /* content position, from when the batch is laid out */
    uint32_t old_segment,
        old_at; /* where the slot says the entry is until this record is durable */
    uint8_t kind;
    bool is_bare;   /* the payload is lost: only the header is written */
    bool is_silent; /* a checkpoint's: nobody waits for it */
};

struct log_pendings {
    struct log_pending *items;
    size_t first, count, capacity; /* items first … first + count - 1 wait */
    size_t others;                 /* of them, those that are no entries: cuts, states */
    uint64_t bytes;
};

struct log_batch {
    struct env_job job;
    struct log *log;
    struct log_record_packer packer;
    struct log_record_head head;
    struct log_segment *segment;
    struct log_pending *records;
    size_t count, capacity;
    struct log_vote *votes;
    size_t votes_count, votes_capacity;
    struct buf buffer;
    uint8_t *bytes;    /* the packed batch, in the buffer, aligned */
    struct buf copies; /* the previous batch's record headers */
    uint64_t sync_us;
    int status;
    struct err err;
};

/* Makes and removes segment files beside the writer. */
struct log_keeper {
    struct env_job job;
    struct log *log;
    bool is_busy;
    struct log_record_segment header; /* number 0: remove only */
    uint64_t reuse, remove;
    struct env_file *file;
    int status;
    struct err err;
};

struct log_item {
    uint64_t index, term;
    struct log_place place;
    struct log_segment *segment; /* NULL: payload was in memory */
    struct blob *payload;
    bool is_hole; /* known before, or found by this reading */
};

struct log_reading {
    struct env_job job;
    struct list link; /* in log->readings */
    struct log *log;
    struct log_group *group;
    uint64_t first;
    struct log_item *items;
    uint32_t count, capacity;
    uint32_t ready; /* once it is read: fewer than count if there was no memory for more */
    bool goes_on;   /* behind damage */
    void (*finish)(struct log_reading *reading); /* on the loop; reading is freed afterwards */
    void (*done)(void *ctx, int status, uint64_t first, struct blob **payloads, uint32_t count);
    void *ctx;
    struct err err; /* of the last that failed */
};

struct log_cached {
    struct log_group *group;
    uint64_t index;
    struct blob *payload; /* borrowed: the slot holds the reference */
};

struct log {
    struct log_config config;
    char *directory;
    struct log_record_owner owner;
    uint32_t segment_sectors;
    uint32_t batch_bytes; /* soft size */
    uint32_t entry_bytes_max;

    struct log_group **numbered; /* those whose number is below numbered_count, by it */
    uint32_t numbered_count;
    struct hashtab by_number;  /* all */
    struct log_group **groups; /* in order of their number at start, later ones behind */
    size_t group_count, group_capacity, start_count;

    struct log_segment **chain; /* in use, oldest first; the last is being written */
    size_t chain_count, chain_capacity;
    struct log_segment *spares[LOG_SPARES];
    uint32_t spare_count;
    bool is_spare_refused; /* the last attempt to make one found no space */
    bool is_retry_due;
    struct log_segment **freed;
    size_t freed_count, freed_capacity;
    uint64_t keep_bytes; /* log_keep_bytes */
    bool is_tight;       /* log_tighten */
    uint64_t next_number;
    struct log_keeper keeper;
    struct env_timer retry;
    struct mem_gate *gate;         /* NULL until the log is recovered */
    struct env_timer memory_retry; /* a batch that found no memory is begun again */

    struct log_pendings pending, moves;
    uint32_t serial;   /* of pending entries */
    uint64_t replaced_from; /* the oldest segment with an entry whose successor waits, 0: none */
    uint64_t clean_to; /* segments to this one have lost record headers: what they hold is moved, so
                          that they go and no later recovery meets them */
    bool is_flush_wanted;
    struct env_task task;
    struct log_batch batch;
    bool is_in_flight;
    uint64_t begun_us; /* when the batch in flight was handed over, or the last one was */
    uint64_t latencies_us[LOG_LATENCIES], latency_count;
    uint64_t sequence;      /* of the last batch */
    uint64_t first_segment; /* as last written */
    uint32_t previous_records, previous_crc;
    struct log_group **told;
    size_t told_capacity;

    struct log_votes votes;

    struct log_cached *cached; /* ring, oldest first */
    size_t cached_first, cached_count, cached_capacity;
    size_t cached_blobs;
    uint64_t cached_bytes;

    struct list readings;
    struct log_reading *moving;
    bool is_failed, is_closing, is_telling;
    struct log_stats stats;
};

static inline struct log_segment *log_current(const struct log *log)
{
    return log->chain[log->chain_count - 1];
}

/* --- log.c */

struct log_group *log_group_find(const struct log *log, uint32_t number);
struct log_group *log_group_new(struct log *log, uint32_t number, uint64_t replica,
                                uint64_t log_start, uint64_t start_term);
/* A batch is begun at the end of the loop's turn. */
void log_schedule(struct log *log);
/* Waiting records, the group's index, the cache. The cache is asked last: it may be compacted for it. */
bool log_append_reserve(struct log *log, struct log_group *group, uint32_t count, uint32_t runs);
/* The owner learns that a hole came or went. */
void log_hole_tell(struct log *log, const struct log_group *group);
/* I3. */
void log_fail(struct log *log, const struct err *err);
void log_free(struct log *log);
/* Ends it all, once nothing is under way. */
void log_close_step(struct log *log);

/* --- log_cache.c */

/* The entry's payload is damaged. */
void log_holes_add(struct log *log, struct log_group *group, uint64_t index, struct log_slot *slot);
void log_live_add(struct log *log, struct log_slot *slot);
/* The slot names no place any more. */
void log_live_remove(struct log *log, const struct log_slot *slot);
/* The payload is no longer in memory. */
void log_cache_drop_slot(struct log *log, struct log_slot *slot);
/* Room for so many more. False: there is no memory. */
bool log_cache_reserve(struct log *log, struct mem_gate *gate, size_t more);
/* The slot's payload is in memory from now on; room is reserved. */
void log_cache_add(struct log *log, struct log_group *group, uint64_t index, struct log_slot *slot);
/* Drops the oldest durable payloads until the cache is within the bound. */
void log_cache_evict(struct log *log, uint64_t bytes_max);
/* The entry is gone, from the cache and from its segment. */
void log_drop_slot(struct log *log, struct log_group *group, struct log_slot *slot);

/* --- log_batch.c */

/* Room for so many more. False: there is no memory; without a gate the process ends. */
bool log_pendings_reserve(struct log_pendings *pendings, struct mem_gate *gate, size_t more);
static inline bool log_pending_is_entry(const struct log_pending *record)
{
    return record->kind == LOG_RECORD_ENTRY || record->kind == LOG_RECORD_MOVED;
}
/* Queues a record; takes a reference to the payload. */
void log_pending_add(struct log_pendings *pendings, const struct log_pending *record);
/* The oldest; the reference to its payload goes with it. */
struct log_pending log_pending_take(struct log_pendings *pendings);
/* How many records a segment's checkpoint has. */
uint32_t log_checkpoint_records(const struct log *log);
/* The entry's slot, if it still names the place that the record was made for, else NULL. */
struct log_slot *log_record_slot(const struct log_pending *record);
/* Lays out the next batch from what waits: false when nothing does, or no segment has room. */
bool log_batch_begin(struct log *log);
/* Writes and syncs it; blocks. The job's work. */
void log_batch_work(struct log_batch *batch);
/* Begins a batch. */
void log_task_run(struct env_task *task);
/* Its places become the entries' places. */
void log_batch_settle(struct log *log);
/* What it refers to is let go. */
void log_batch_release(struct log_batch *batch);
void log_pendings_fini(struct log_pendings *pendings);
void log_batch_fini(struct log_batch *batch);

/* --- log_keeper.c */

struct log_segment *log_segment_find(const struct log *log, uint32_t number);
/* Adds to a list of segments. */
void log_segments_push(struct log_segment ***list, size_t *count, size_t *capacity,
                       struct log_segment *segment);
struct log_segment *log_chain_add(struct log *log, uint32_t number, struct env_file *file,
                                  uint32_t sectors, uint32_t used);
/* A file that nothing needs, to be recycled. */
void log_freed_add(struct log *log, uint32_t number, struct env_file *file, uint32_t sectors);
/* Frees the segment, if it is in the chain; nothing in it is live. */
void log_chain_drop(struct log *log, uint32_t number);
void log_keeper_step(struct log *log);
/* Sets the callbacks of task and timer. */
void log_arm(struct log *log);
/* Closes their files. */
void log_segments_fini(struct log *log, struct log_segment **segments, size_t count);

/* --- log_read.c */

/* And what it refers to. */
void log_reading_free(struct log_reading *reading);
/* Begins to write anew what the oldest segment holds, if that is worth it. */
void log_move_step(struct log *log);

#endif
