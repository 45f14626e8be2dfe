/* The inside of the store, shared by store*.c: LMDB behind the overlay.
 *
 *   store.c         apply, get, admission, turns
 *   store_open.c    LMDB's environment, the identity, opening replicas
 *   store_cursor.c  ordered walks over overlay and LMDB
 *   store_flush.c   freezing, and the job that writes what is frozen
 *
 * Applying changes the overlay's active generation only. From time to time the active generation is
 * frozen, and a job on the flush thread writes it into LMDB: one transaction, one sorted walk per
 * replica, full sync. Reads look into the active generation, the frozen one, then LMDB, through a
 * read transaction that is begun by the first read and, while a flush is on its way, reset at the
 * end of the turn, so that it never pins old pages for longer.
 *
 *   active --store_freeze--> frozen --store_flush_start--> job --commit--> done --> dropped
 *                                        ^                  |
 *                                        +--- retry timer --+  no room: aborted, nothing is lost
 *
 * Invariants
 *   I1  At most one frozen generation; it isn't changed by anybody until it is dropped.
 *   I2  A frozen generation is dropped only when the loop has no read transaction that began before
 *       the commit: until then the generation hides that LMDB's old state lacks its keys.
 *   I3  LMDB holds, per replica, exactly the state after the entry that its meta record names:
 *       data, key count and sessions come in the same transaction. If one transaction is too large
 *       for the room that is left, each replica gets its own.
 *   I4  What reads lent stays until store_turn_end: a blob that is overwritten meanwhile waits in
 *       `retired`.
 *   I5  A put without condition looks into LMDB only if the replica ever had a record with
 *       attributes, which it would inherit: the lookup would cost more than all the rest of
 *       applying. Whether the key is new is then unknown (a "blind" entry), so `keys` + the blind
 *       entries that are new below = the live keys; the flush, which counts, settles it.
 *   I6  The job touches: LMDB, the frozen overlays' nodes, the flush struct. Not the store, no
 *       reference counts.
 *
 * In LMDB (integers in keys big-endian, in values little-endian):
 *
 *   database     key                                value
 *   meta         "identity"                         magic 8, format 4, CRC32C 4, cluster id 16,
 *                                                   node id 8
 *   meta         'r', group 4, replica 8            format 4, CRC32C 4, applied index 8, time 8,
 *                                                   keys 8, flags 8 (1: has had attributes)
 *   sessions     group 4, replica 8, session id 16  session.c
 *   r%u.%016llx  the user's key                     record.c (group, replica id)
 *
 * What it does not do: decide when to flush (the node does), know what is durable in the log (the
 * node waits for it), split. */
#ifndef STORE_STORE_PRIVATE_H
#define STORE_STORE_PRIVATE_H

#include <lmdb.h>

#include "store/overlay.h"
#include "store/session.h"
#include "store/store.h"

enum {
    STORE_FORMAT = 1,
    META_KEY_BYTES = 13,
    META_VALUE_BYTES = 40,
    META_HAS_ATTRIBUTES = 1,
    SESSION_KEY_PREFIX_BYTES = 12,
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
    int64_t keys;        /* I5: without blind entries, so it may be below zero */
    uint64_t blind;      /* blind entries in the active generation */
    bool has_attributes; /* a record with attributes was ever made */
    uint64_t frozen_applied, frozen_time, frozen_blind;
    int64_t frozen_keys;
    bool frozen_has_attributes;
    uint64_t flushed;
    struct overlay *active, *frozen; /* NULL: nothing in that generation */
    struct session_table sessions;
    struct buf frozen_sessions; /* packed changes, for the job */
};

struct flush;

struct store {
    struct store_config config;
    struct logger *logger;
    MDB_env *env;
    MDB_dbi meta, sessions;
    struct list replicas;
    struct generation *active, *frozen;
    struct generation *released; /* dropped, being freed bit by bit */
    struct env_timer release_timer;
    struct flush *flush;
    struct env_timer retry_timer;
    bool is_committed; /* the frozen generation is in LMDB and waits to be dropped */
    int full;          /* 0, or why the flush waits for room: ERR_STORE_FULL, ERR_DISK_FULL */
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

/* --- store_open.c */

/* LMDB's code as one of ours, with its text behind `what`. */
int store_lmdb_error(struct err *err, int rc, const char *what);
/* Pages in use, in bytes: all that were ever used less those on the free list. LMDB's code. Any
 * thread. */
int store_measure_used(MDB_env *env, uint64_t *used_bytes);
/* The key of a replica's meta record: META_KEY_BYTES. */
void store_meta_key(const struct store_replica *replica, uint8_t *out);
uint32_t store_meta_checksum(const uint8_t *key, const uint8_t *value);
/* What the keys of a replica's sessions begin with: SESSION_KEY_PREFIX_BYTES. */
void store_session_prefix(uint32_t group, uint64_t replica, uint8_t *out);
void store_replica_free(struct store_replica *replica);

/* --- store.c */

/* Begins to read unless the loop's read transaction is live already. */
int store_reader_begin(struct store *store, struct err *err);
/* Ends it; what was borrowed from it is gone. */
void store_reader_reset(struct store *store);
/* Counts and logs a damaged record; returns rc. */
int store_report_damage(struct store_replica *replica, int rc, struct err *err);

/* --- store_flush.c */

void store_release_more(struct env_timer *timer);
void store_flush_again(struct env_timer *timer);
/* The frozen generation is in LMDB: drops it. Nobody may hold what was lent (I2). */
void store_flush_drop(struct store *store);
/* Lets go of the flush when the store is closed: what hasn't begun never will, what is being
 * written is waited for. */
void store_flush_detach(struct store *store);

#endif
