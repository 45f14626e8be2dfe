/* The inside of the store, shared by store*.c: LMDB behind the overlay.
 *
 *   store.c         apply, get, admission, turns
 *   store_ahead.c   what applying will touch, fetched before
 *   store_open.c    LMDB's environment, the identity, opening replicas
 *   store_cursor.c  ordered walks over overlay and LMDB
 *   store_flush.c   freezing, and the job that writes what is frozen
 *   store_image.c   sending what LMDB holds of a replica; the format of its chunks
 *   store_stage.c   receiving that, and swapping it in
 *   store_damage.c  what is done about damage
 *   store_remove.c  removing replaced databases bit by bit
 *   store_scrub.c   verifying what LMDB holds of a replica, by store_walk.c
 *   store_meta.c    a replica's meta record, names and prefixes
 *   store_job.c     jobs that outlive the store
 *
 * Applying changes the overlay's active generation only. From time to time the active generation is
 * frozen, and a job on the flush thread writes it into LMDB: a few transactions with full sync, one
 * sorted walk per replica. Reads look into the active generation, the frozen one, then LMDB, through a
 * read transaction that is begun by the first read and, while a flush is on its way, reset at the
 * end of the turn, so that it never pins old pages for longer.
 *
 *   active --store_freeze--> frozen --store_flush_start--> job --commit--> done --> dropped
 *                                        ^                  |
 *                                        +--- retry timer --+  no room: aborted, nothing is lost
 *                                        +--- the pace -----+  more to write: the next transaction
 *
 * Invariants
 *   I1  At most one frozen generation; it isn't changed by anybody until it is dropped.
 *   I2  A frozen generation is dropped only when the loop has no read transaction that began before
 *       the commit: until then the generation hides that LMDB's old state lacks its keys.
 *   I3  LMDB holds, per replica, exactly the state after the entry that its meta record names:
 *       data, key count and sessions come in the same transaction. Other replicas may come in
 *       others; if they are too large for the room that is left, each replica gets its own.
 *   I4  What reads lent stays until store_turn_end: a blob that is overwritten meanwhile waits in
 *       `retired`, and a value that stands in its node is replaced by a blob.
 *   I5  A put without condition looks into LMDB only if the replica ever had a record with
 *       attributes, which it would inherit: the lookup would cost more than all the rest of
 *       applying. Whether the key is new is then unknown (a "blind" entry), so `keys` + the blind
 *       entries that are new below = the live keys; the flush, which counts, settles it.
 *   I6  The job touches: LMDB, the frozen overlays' nodes, the flush struct. Not the store, no
 *       reference counts.
 *   I7  A replica's data and sessions bear a generation number, which its meta record names:
 *       writing that record swaps them. Anything of another generation is rubbish (or a stage,
 *       which is rubbish to everybody else) and is removed. Generations are never used twice while
 *       a trace of them is left.
 *   I8  Flush and swap exclude one another: while one of them is on its way, store_is_flushing. Where
 *       both are wanted again and again they take turns: behind a flush comes a swap, behind a swap
 *       the flush that is due.
 *   I9  Images and scrubs pin all pages that flushes replace meanwhile. What they keep is known from
 *       each flush (stats.pinned_bytes): store_pinned says when they must end, before or when a
 *       flush finds no room, so that they never make the store refuse writes.
 *   I10 The map has three lines behind the quota (struct store_lines). Users' writes keep to the quota,
 *       and what stages hold, or left behind, isn't counted for them. A piece of an image is written
 *       only where all together stays below a quarter of what the map has beyond the quota. Where users'
 *       writes reach that line, stages are given up; at half of it writes wait for their removal
 *       (ERR_BUSY). The other half is the flush's, which copies pages before it frees them. So
 *       neither do stages make the store refuse writes, nor a flush fail.
 *
 * In LMDB (integers in keys big-endian, in values little-endian):
 *
 *   database     key                                value
 *   meta         "identity"                         magic 8, format 4, CRC32C 4, cluster id 16,
 *                                                   node id 8
 *   meta         'r', group 4, replica 8            store_meta.c
 *   sessions     group 4, replica 8, generation 4,  session.c
 *                session id 16
 *   r%u.%016llx.%u  the user's key                  record.c (group, replica id, generation)
 *
 * What it does not do: decide when to flush (the node does), know what is durable in the log (the
 * node waits for it), split. */
#ifndef STORE_STORE_PRIVATE_H
#define STORE_STORE_PRIVATE_H

#include <lmdb.h>
#include <stdatomic.h>

#include "base/limits.h"
#include "store/overlay.h"
#include "store/session.h"
#include "store/store.h"

enum {
    STORE_FORMAT = 2,
    META_KEY_BYTES = 13,
    META_VALUE_BYTES = 80,
    SESSION_KEY_PREFIX_BYTES = 16,
    SESSION_KEY_BYTES = SESSION_KEY_PREFIX_BYTES + SESSION_ID_BYTES,
    RECORD_BYTES_MIN = 24,        /* what store_record_digest needs of a record */
    STORE_NAME_BYTES = 48,        /* of a replica's database, with the zero */
    STORE_RETRY_US = 1000 * 1000, /* how long what found no room waits before it is tried again */
};

#define STORE_IDENTITY_KEY "identity"

/* What a generation of a replica's data is called by. */
struct store_name {
    uint32_t group;
    uint64_t replica;
    uint32_t generation;
};

/* A replica's meta record, unpacked. */
struct store_meta {
    uint32_t generation; /* of data and sessions: I7 */
    uint64_t applied, time, keys, sessions;
    uint64_t digest; /* sum of store_record_digest over all records */
    uint64_t image_index, image_term;
    bool has_attributes;
};

/* I10, in bytes. quota <= stages <= brim <= the map's size, unless the quota was set beyond the map. */
struct store_lines {
    uint64_t quota;  /* of users' data */
    uint64_t stages; /* of all that is there while an image is being received */
    uint64_t brim;   /* of all that is there */
};

/* A job of the store that may outlive it. */
struct store_job {
    struct env_job job;
    atomic_int state;    /* enum store_job_state */
    struct list link;    /* in store->jobs while started */
    struct store *store; /* the loop's; NULL when the store was closed meanwhile */
    struct env *env;
    void (*work)(struct store_job *job); /* on the job's thread */
    void (*done)(struct store_job *job); /* on the loop; not called once the store is closed */
    void (*free)(struct store_job *job); /* called instead, after the job's end */
};

/* The first mark in a generation of a replica. Its digest is what the flush would find if it ended there: from the digest before, the
 * flush takes away what the keys changed until there were before, and adds what they became: the entries up to the mark as they
 * stand, and `replaced`, the sum over those that later ones took the place of (entry.is_past_mark). So nothing is kept for it but
 * two numbers, and neither the generation nor the flush ends at it. */
struct store_mark {
    uint64_t index; /* 0: none */
    uint64_t replaced;
};

struct store_replica {
    struct store *store;
    struct list link;
    uint32_t group;
    uint64_t id;
    uint64_t hash_seed, prefix;
    uint32_t bits;
    MDB_dbi dbi;
    uint64_t applied, time;
    int64_t keys;                         /* I5: without blind entries, so it may be below zero */
    uint64_t blind;                       /* blind entries in the active generation */
    bool is_damaged, is_stopped, is_told; /* store_damage.c */
    bool has_attributes;                  /* a record with attributes was ever made */
    uint64_t frozen_applied, frozen_time, frozen_blind;
    int64_t frozen_keys;
    bool frozen_has_attributes;
    uint64_t sessions_packed; /* sessions when they were packed last: what LMDB gets, or has */
    uint64_t flushed;
    uint64_t digest; /* at `flushed` */
    struct store_mark mark, frozen_mark; /* of the active and the frozen generation */
    uint64_t mark_index, mark_digest;    /* of the newest that was flushed since the store was opened */
    uint64_t image_index, image_term;
    uint32_t generation, generation_last; /* of its data; the last that was ever used */
    struct store_stage *stage;
    struct overlay *active, *frozen; /* NULL: nothing in that generation */
    struct session_table *sessions;
    struct buf frozen_sessions; /* packed changes, for the job */
};

struct flush;

/* LMDB's file in memory. */
struct store_map {
    MDB_env *env;
    uintptr_t begin;
    size_t page_bytes;
};

struct store {
    struct store_config config;
    struct logger *logger;
    MDB_env *env;
    MDB_dbi meta, sessions;
    struct store_map map;
    struct list replicas;
    struct generation *active, *frozen;
    struct generation *released; /* dropped, being freed bit by bit */
    struct env_timer release_timer;
    struct flush *flush;
    uint64_t flush_pace; /* see store_flush_pace */
    uint64_t flush_paused_us; /* in pauses that have ended */
    struct env_timer retry_timer;
    struct env_task damage_task;
    struct list jobs;     /* started, not ended: struct store_job */
    struct list images;   /* open ones */
    struct list stages;   /* open ones */
    struct list installs; /* stages that wait for their swap, the first may be in it (I8) */
    bool is_installing; /* the first of them is being written, or is and waits for the turn's end */
    bool is_swapped;    /* ... is written, and waits for the turn's end */
    bool is_flush_preferred; /* no swap begins before the next flush */
    struct list removals; /* generations that are to be removed; the first may be in work */
    bool is_removing;
    struct store_scrub *scrub; /* the one that is open */
    struct env_timer remove_timer;
    bool is_committed; /* the frozen generation is in LMDB and waits to be dropped */
    int full;          /* 0, or why the flush waits for room: ERR_STORE_FULL, ERR_DISK_FULL */
    bool is_pinned_full; /* the flush waits for room that images or a scrub keep (I9) */
    bool is_staged_full; /* ... that stages keep, or what they left behind (I10) */
    uint64_t staged_bytes; /* of used_bytes: what stages hold, and generations that are to be removed */
    uint64_t due_bytes;    /* what pieces of images that are being written may take at most */
    /* Reset; renewed by each measurement: a read transaction made anew costs 50 bytes of zeroes for each
     * database that there might be. The flush thread's once the store is open. */
    MDB_txn *measurer;
    MDB_txn *reader;
    bool is_reading; /* reader is live */
    bool has_lent;   /* somebody may hold borrowed spans */
    unsigned cursors;
    struct blob **retired; /* overwritten, dropped at the turn's end (I4) */
    size_t retired_count, retired_capacity;
    /* Of the last flush that had any: blind entries, and those that were new keys. */
    uint64_t blind_seen, blind_new;
    struct store_stats stats;
};

static inline MDB_val val_of(struct span span)
{
    return (MDB_val){ span.size, (void *)span.data };
}

static inline struct span span_of_val(MDB_val val)
{
    return span_of(val.mv_data, val.mv_size);
}

/* --- store.c */

/* The number of the oldest transaction whose state is being read; UINT64_MAX: none is. */
uint64_t store_pinned_from(const struct store *store);
/* An old state is no longer read. */
void store_unpinned(struct store *store);
struct store_lines store_lines(const struct store *store);
/* All that is there, or may be soon: pages in use, what is to be flushed, pieces that are being written. */
uint64_t store_total_bytes(const struct store *store);

/* --- store_image.c, store_scrub.c */

uint64_t store_image_pinned_from(const struct store *store);
uint64_t store_scrub_pinned_from(const struct store *store);

/* --- store_open.c */

/* LMDB's code as one of ours, with its text behind `what`. */
int store_lmdb_error(struct err *err, int rc, const char *what);
/* Pages in use, in bytes: all that were ever used less those on the free list. And those of the free list that can't be used again
 * as long as a state from pinned_from on is read. LMDB's code. By store->measurer, on the flush thread. */
int store_measure_used(MDB_txn *measurer, uint64_t pinned_from, uint64_t *used_bytes,
                       uint64_t *pinned_bytes);
/* LMDB uses pages that transaction N freed from N + 2 on only (mdb_find_oldest), and one that fails takes no number. This makes a small
 * transaction that changes nothing, so that what was freed by the last one is free for the next. Does it fail, nothing is lost. On the
 * flush thread. */
void store_pass_transaction(MDB_env *env, MDB_dbi meta);
/* The pages of a database; 0 if LMDB can't tell. By store->measurer, on the flush thread. */
uint64_t store_measure_database(MDB_txn *measurer, MDB_dbi dbi);
/* Reads a generation's sessions into an initialised table. */
int store_load_sessions(MDB_txn *txn, MDB_dbi sessions, const struct store_name *name,
                        struct session_table *table, struct err *err);
void store_replica_free(struct store_replica *replica);

/* --- store_meta.c */

static inline bool store_name_equal(const struct store_name *a, const struct store_name *b)
{
    return a->group == b->group && a->replica == b->replica && a->generation == b->generation;
}
struct store_name store_replica_name(const struct store_replica *replica);
/* The name of a generation's database: at most STORE_NAME_BYTES. */
void store_name_database(const struct store_name *name, char *out);
/* Is it the name of a database of this replica? Then *generation is its generation. */
bool store_name_parse(struct span text, const struct store_name *of, uint32_t *generation);
/* What the keys of a generation's sessions begin with: SESSION_KEY_PREFIX_BYTES. Those of all
 * generations have all but the last 4 in common. */
void store_name_sessions(const struct store_name *name, uint8_t *out);
/* Reads and writes the meta record in a transaction. Read: 0, ERR_NOT_FOUND (without text),
 * ERR_CORRUPT, ERR_FORMAT, ERR_IO. Write: LMDB's code. */
int store_meta_read(MDB_txn *txn, MDB_dbi dbi, uint32_t group, uint64_t replica,
                    struct store_meta *out, struct err *err);
int store_meta_write(MDB_txn *txn, MDB_dbi dbi, uint32_t group, uint64_t replica,
                     const struct store_meta *meta);
/* A packed record's part in its replica's digest. Its checksum stands for value, time and
 * attributes. */
uint64_t store_record_digest(struct span key, struct span packed);
/* The same of an entry that will be one: without reading its value. 0: it is a tombstone. */
uint64_t store_entry_digest(const struct overlay_node *node);

/* --- store_job.c */

enum store_job_state { STORE_JOB_IDLE, STORE_JOB_QUEUED, STORE_JOB_RUNNING, STORE_JOB_ENDED };
void store_job_init(struct store_job *job, struct store *store);
void store_job_start(struct store_job *job, enum env_job_class class);
bool store_job_is_started(const struct store_job *job);
/* Lets go of all jobs when the store is closed: what hasn't begun never will, what is being done is
 * waited for. */
void store_jobs_detach(struct store *store);

/* --- store.c */

/* Begins to read unless the loop's read transaction is live already. */
int store_reader_begin(struct store *store, struct err *err);
/* Ends it; what was borrowed from it is gone. */
void store_reader_reset(struct store *store);
/* A read of LMDB failed with rc: marks the replica if that is damage. Returns rc. */
int store_read_failed(struct store_replica *replica, int rc, bool is_stopped, struct err *err);

/* --- store_flush.c */

void store_release_more(struct env_timer *timer);
void store_flush_again(struct env_timer *timer);
/* The frozen generation is in LMDB: drops it. Nobody may hold what was lent (I2). */
void store_flush_drop(struct store *store);
/* Frees a flush whose job is not under way; one that is frees itself. After store_jobs_detach. */
void store_flush_close(struct store *store);

/* --- store_damage.c */

void store_damage_init(struct store *store);
/* Marks a replica as damaged, or as stopped as well. */
void store_damage(struct store_replica *replica, bool is_stopped, const char *text);
/* 0, or ERR_CORRUPT when it is stopped. */
int store_refuse_stopped(const struct store_replica *replica, struct err *err);
/* Does one of our codes mean that what is stored is not what was written? */
bool store_is_damage(int code);
/* Something is damaged that all replicas need: the next store_open must fail. */
void store_condemn(struct store *store, const struct err *why);
int store_check_condemned(const struct store_config *config, struct err *err);

/* --- store_image.c */

enum store_chunk_kind { STORE_CHUNK_RECORD = 1, STORE_CHUNK_SESSION = 2 };
/* What the last chunk says of the whole. */
struct store_totals {
    uint64_t keys, sessions, time, digest;
    bool has_attributes;
};
/* An image's chunk, unpacked; all borrowed. */
struct store_chunk {
    uint32_t group;
    uint64_t index;
    struct span position, next;
    bool is_last; /* then totals are set, and next is empty */
    struct store_totals totals;
    uint32_t items;
    struct reader reader; /* for store_chunk_next */
};
int store_chunk_unpack(struct span bytes, struct store_chunk *out, struct err *err);
/* Takes an item: enum store_chunk_kind, 0 at the end, ERR_CORRUPT. */
int store_chunk_next(struct store_chunk *chunk, struct span *key, struct span *value);
/* Ends the images' transactions when the store is closed; waits for a read that is under way. */
void store_images_detach(struct store *store);
/* Does an image still read this database? */
bool store_image_uses(const struct store *store, const struct store_name *name);
/* A read transaction of its own, with the replica's meta record in it. ERR_NOT_FOUND: nothing was
 * flushed; ERR_BUSY: a swap is written and not in effect. */
int store_snapshot(struct store_replica *replica, MDB_txn **out, struct store_meta *meta,
                   struct err *err);

/* --- store_walk.c */

/* Finds where LMDB's file is mapped, by a key that is there. LMDB's code. */
int store_map_find(struct store_map *map, MDB_env *env, MDB_txn *txn, MDB_dbi dbi, MDB_val key);
/* ERR_CORRUPT: what LMDB gave out, a key or a value, doesn't lie where LMDB keeps such things. Not for
 * what was written in the same transaction. Any thread. */
int store_map_check(const struct store_map *map, MDB_val part, struct err *err);

/* The same for the pairs that a cursor meets, one after another: a leaf is judged once. Good for one
 * transaction; zeroed but for the first at the beginning. */
struct store_leaf {
    bool is_for_values;
    const uint8_t *sound, *fetched;
};
int store_leaf_check(struct store_leaf *leaf, const struct store_map *map, MDB_val key,
                     MDB_val value, struct err *err);
/* LMDB gave out this key: if it lies in another leaf than the last one, that leaf's pairs (their
 * beginnings, unless is_for_values) are fetched into the processor's cache. They lie there in any
 * order, and a walk would wait for memory at each. Only a hint: believes nothing of the page. */
void store_leaf_prefetch(struct store_leaf *leaf, const struct store_map *map, MDB_val key);

/* Zeroed but for the first three: at the beginning. */
struct store_walk {
    const struct store_map *map;
    MDB_dbi dbi;
    bool is_for_records; /* checks records, sums their digest */
    struct buf last;     /* the key that was seen last */
    uint64_t count, digest;
};
void store_walk_fini(struct store_walk *walk);
/* Goes on for about bytes_max bytes: 1: there is more; 0: that was all, and nothing was wrong;
 * ERR_…. The database must be the same in every step's transaction. */
int store_walk_step(struct store_walk *walk, MDB_txn *txn, size_t bytes_max, struct err *err);

/* --- store_scrub.c */

bool store_scrub_uses(const struct store *store, const struct store_name *name);
/* Ends it when the store is closed. After store_jobs_detach. */
void store_scrub_detach(struct store *store);

/* --- store_stage.c */

/* Starts the next swap, if there is one and its time has come. */
void store_install_next(struct store *store);
/* The swap is written: puts it into effect. Nobody may hold what was lent. */
void store_install_end(struct store *store);
void store_stages_free(struct store *store);
/* Are there some, or what they left behind, on its way out? */
bool store_has_stages(const struct store *store);
/* Something has changed that staged_bytes or due_bytes are made of. */
void store_count_staged(struct store *store);

/* --- store_remove.c */

/* Queues a generation for removal; bytes: what it takes, as far as known. */
void store_remove(struct store *store, const struct store_name *name, uint64_t bytes);
uint64_t store_removals_bytes(const struct store *store);
/* Goes on with the queue unless it is at work: after something changed that it may wait for. */
void store_remove_next(struct store *store);
void store_remove_again(struct env_timer *timer);
void store_removals_free(struct store *store);

#endif
