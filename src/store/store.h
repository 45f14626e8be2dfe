/* The store: a node's state machines. LMDB behind an ordered in-memory overlay.
 *
 * Applying goes to the overlay's active generation; reads see it at once. store_freeze makes the active generation immutable; a
 * job (ENV_JOB_FLUSH) writes it into LMDB, replica after replica, with full syncs, together with each replica's applied index, time
 * and sessions. There are at most two generations: one active, one frozen.
 *
 * One LMDB database per replica, under the bare key. Everything but the flush happens on the loop thread. Spans that reads
 * return are borrowed until the end of the turn (store_turn_end). */
#ifndef STORE_STORE_H
#define STORE_STORE_H

#include "base/err.h"
#include "base/logger.h"
#include "base/mem.h"
#include "env/env.h"
#include "store/command.h"
#include "store/record.h"

struct store;
struct store_replica;
struct store_image;
struct store_stage;
struct store_scrub;

struct store_config {
    struct env *env;
    struct logger *logger;
    const char *directory;     /* LMDB's folder; made if missing */
    uint8_t cluster_id[16];
    uint64_t node_id;
    uint64_t map_bytes;        /* LMDB's map, sparse; 0: 64 GiB */
    uint64_t quota_bytes;      /* users' bytes are refused (ERR_STORE_FULL) beyond it; 0: nine tenths of the map */
    uint64_t overlay_bytes_max; /* admission refuses (ERR_BUSY) beyond it, both generations; 0: 768 MiB */
    uint64_t flush_transaction_bytes; /* of pages that a flush changes in one transaction, about; 0: 32 MiB; smaller for tests and the simulator */
    uint32_t databases_max;    /* 0: LIMIT_PARTITIONS_MAX and some */
    bool no_sync;              /* the simulator only: LMDB on tmpfs, a flush is one atomic event */
    /* A flush failed: the node must stop (disk full is not a failure: the flush is tried again later). After ERR_CORRUPT the next
     * store_open fails with that. */
    void (*on_failure)(void *ctx, const struct err *err);
    /* A replica was found damaged: once, until an image has made it whole. From the turn's deferred work; also for those that
     * store_replica_open found damaged. May be NULL. */
    void (*on_damaged)(void *ctx, struct store_replica *replica);
    /* A flush ended well; store_replica_flushed tells how far each replica is. */
    void (*on_flushed)(void *ctx);
    void *ctx;
};

/* ERR_CLUSTER_MISMATCH: the directory belongs to another cluster or node; ERR_CORRUPT: it can't be used any more, see store_set_aside;
 * ERR_FORMAT, ERR_DISK_FULL, ERR_IO. */
int store_open(const struct store_config *config, struct store **out, struct err *err);
/* Closes without flushing: the log has the rest. Waits for a flush that is being written; one that waits for its thread does nothing
 * when its turn comes (the env must still deliver its end, which frees it). */
void store_close(struct store *store);

/* After store_open's ERR_CORRUPT: moves the directory to DIRECTORY.damaged-N (*out: its path, the caller's to mem_free), so that store_open
 * makes an empty one. Its replicas begin with applied 0: those whose log reaches down to its first entry come back from that, the
 * others need an image. ERR_CORRUPT: LIMIT_STORE_ASIDE such directories are there already; ERR_IO. Blocks. */
int store_set_aside(struct env *env, const char *directory, char **out, struct err *err);

/* Opens (or makes) a replica's state. Blocks while a flush is being written; ends what was borrowed in this turn; no cursor may be open.
 * What is damaged is no error: the replica is stopped (store_replica_is_stopped), its applied index as far as known, else 0.
 * ERR_FORMAT: of another build; ERR_STORE_FULL, ERR_DISK_FULL, ERR_IO. hash_seed, prefix (left-aligned) and
 * bits say which keys belong to it; bits 0 = all. */
int store_replica_open(struct store *store, uint32_t group, uint64_t replica, uint64_t hash_seed, uint64_t prefix, uint32_t bits,
                       struct store_replica **out, struct err *err);
uint64_t store_replica_applied(const struct store_replica *replica); /* last applied index, 0 = none */
/* Of all that it remembers of its clients: equal on replicas that applied the same. */
uint64_t store_replica_sessions_digest(const struct store_replica *replica);
uint64_t store_replica_flushed(const struct store_replica *replica); /* durable in LMDB to here */
uint64_t store_replica_time(const struct store_replica *replica);    /* newest time applied */
/* Live keys. Exact while nothing is frozen and few operations wait for a flush, else an estimate: a plain put does not look whether its
 * key exists, the flush finds out. */
uint64_t store_replica_keys(const struct store_replica *replica);
/* Digest of all records at store_replica_flushed: a sum over key, version and checksum of each. Replicas of a group that hold the
 * same at the same index have the same digest; one that has another has lost or changed something. */
uint64_t store_replica_digest(const struct store_replica *replica);
/* Digest as of the newest mark (COMMAND_MARK) that was flushed since the store was opened: *digest is what store_replica_digest would be
 * if that flush had ended at the mark, so that replicas can be compared whose flushes never meet. Returns the mark's index; 0: none,
 * or an image was installed since. Of several marks in one flush the first counts. */
uint64_t store_replica_mark(const struct store_replica *replica, uint64_t *digest);
/* Index and term of the image that was installed last, 0: none ever was. They are part of the swap: where the log doesn't reach down to
 * store_replica_applied after a start, the process died between the swap and the log's reset, which is made up for from these. */
uint64_t store_replica_image_index(const struct store_replica *replica);
uint64_t store_replica_image_term(const struct store_replica *replica);

/* Damage: something of the replica in LMDB isn't what was written. Found by apply, get, cursors, images, scrub, flush and open; ends when an
 * image is installed (store_stage_install). A damaged replica goes on as well as it can, as the last copy of something should, and
 * never delivers what is damaged; but it may miss a key without noticing: where there are other replicas, don't serve from it. */
bool store_replica_is_damaged(const struct store_replica *replica);
/* It can't go on: apply met the damage, or LMDB itself is at a loss there. Applying and reading answer ERR_CORRUPT, flushes leave it
 * out (store_replica_flushed stays, the log has the rest), store_replica_frozen says what is flushed. */
bool store_replica_is_stopped(const struct store_replica *replica);
/* The caller found that it differs from its peers. on_damaged comes. */
void store_replica_mark_damaged(struct store_replica *replica, const char *why);

/* What applying a command answered. */
struct store_result {
    int status;        /* 0, ERR_EXISTS, ERR_CONDITION_FAILED, ERR_NOT_FOUND, ERR_UNKNOWN_OUTCOME, ERR_WRONG_PARTITION, ERR_BUSY */
    uint64_t version;  /* new version; on failed conditions the present one, 0 = absent; on deletes the deleted one */
    uint64_t time;
    bool existed;      /* deletes */
    bool repeated;     /* the session had this result already: nothing was applied now */
};

/* Applies entry `index`, whose payload is `payload` (referenced if its value is too large for the overlay to copy). Indices come in order without
 * holes; time must be above the replica's. Deterministic: the same entries give the same state and results on every replica.
 * An empty payload is a no-op. ERR_CORRUPT, ERR_FORMAT, ERR_IO: nothing was applied; all else is in *result. If the replica is stopped
 * then (store_replica_is_stopped), it needs an image; else the entry itself is bad, and the node must stop. */
int store_apply(struct store_replica *replica, uint64_t index, struct blob *payload, struct store_result *result, struct err *err);

struct session;
/* Entries that are to be applied next, of whatever replicas: fetches what store_apply will touch into the processor's cache. Only hints. */
struct store_ahead {
    struct store_replica *replica;
    const struct blob *payload;
    struct session_id session;
    struct span key; /* empty: not known */
    const void *leaf;
    const struct session *found;
};
/* Fetches the payload itself (borrowed until store_ahead), which isn't read yet. */
void store_ahead_begin(struct store_ahead *item, struct store_replica *replica, const struct blob *payload);
/* Fetches the rest. */
void store_ahead(struct store_ahead *items, size_t count);

/* Would `bytes` more be admitted? 0, ERR_BUSY (overlay full, flush lags; or stages are being removed to make room), ERR_STORE_FULL,
 * ERR_DISK_FULL. For proposals; apply never refuses. Deletes pass with bytes 0 while reserved room is left. */
int store_admit(const struct store *store, size_t bytes);

/* A key's record, as of the last applied entry. ERR_NOT_FOUND, ERR_CORRUPT (checksum), ERR_IO. */
int store_get(struct store_replica *replica, struct span key, struct record *out, struct err *err);

/* An ordered walk over one replica: overlay and LMDB merged, no deleted keys. Valid until the end of the turn. [from, to); empty
 * spans are open ends. Reverse begins below `to`. */
struct store_cursor;
/* Entries are checked against their checksum, unless store_cursor_keys_only said that values aren't delivered. */
int store_cursor_open(struct store_replica *replica, struct span from, struct span to, bool reverse, struct store_cursor **out,
                      struct err *err);
/* 1: *key and *record (borrowed until the end of the turn); 0: end; < 0: error. record may be NULL after store_cursor_keys_only: then
 * it isn't even looked at. */
int store_cursor_next(struct store_cursor *cursor, struct span *key, struct record *record, struct err *err);
/* From now on records come unchecked: for walks that use keys, versions and attributes only. The value's size is right. */
void store_cursor_keys_only(struct store_cursor *cursor);
void store_cursor_close(struct store_cursor *cursor);

/* Ends the turn: borrowed spans go, the read transaction is renewed. Called by the node from its deferred work, in every turn that read
 * something. CHECKs that no cursor is open. on_flushed may be called from here. */
void store_turn_end(struct store *store);

/* Bytes and operations in the active generation: the node decides when to flush. */
uint64_t store_active_bytes(const struct store *store);
uint64_t store_active_operations(const struct store *store);
uint64_t store_active_marks(const struct store *store);
/* Bytes of both generations, and bytes in use in LMDB's file as of the last flush. */
uint64_t store_unflushed_bytes(const struct store *store);
uint64_t store_used_bytes(const struct store *store);
/* How much of the map is kept by images and a scrub: pages that flushes replaced since they were opened. */
enum store_pinned {
    STORE_PINNED_LITTLE,
    STORE_PINNED_MUCH, /* half of what would be free without them, as of the last flush: the oldest should end */
    STORE_PINNED_ALL,  /* a flush waits for room that they keep: all should end, and none be opened */
};
enum store_pinned store_pinned(const struct store *store);
bool store_is_flushing(const struct store *store); /* a frozen generation exists, or a swap is under way */
/* A flush is due, or is not any more: swaps that wait let it go first, else a queue of images would keep it off for as long as more of
 * them come. To be said again with each look. While a flush is under way it says nothing: behind it goes a swap, if one waits. */
void store_prefer_flush(struct store *store, bool is_due);
/* Freezes the active generation; CHECKs !store_is_flushing. Then, for each replica, store_replica_frozen is the index that the frozen
 * generation reaches; the node calls store_flush_start only when its log is durable to there for every replica. Both: false when there is
 * no memory, nothing has changed. */
bool store_freeze(struct store *store);
uint64_t store_replica_frozen(const struct store_replica *replica);
bool store_flush_start(struct store *store);
/* A flush pauses behind a transaction with which it has written so many bytes of the frozen generation, about, until more are allowed.
 * Each freeze sets it to UINT64_MAX: no pause. Nor does it pause while an image arrives or the overlay is nearly full. */
void store_flush_pace(struct store *store, uint64_t bytes);
/* How long all flushes since store_open have paused so. */
uint64_t store_flush_paused_us(const struct store *store);

/* --- Images: what LMDB holds of a replica at its flushed index, as a stream of checked chunks. What was applied since then isn't in
 * it: the log still holds all of that, and follows the image.
 *
 * Sending: open, read chunk after chunk at the position that the receiver asks for, close. The receiver keeps the place, so that after
 * a broken connection any chunk can be asked for again. A chunk of another replica with the same group and index fits as well. */

/* Pins the replica's state in LMDB, and with it all pages that flushes replace meanwhile: the caller bounds an image's age. ERR_BUSY:
 * LIMIT_STORE_IMAGES are open; ERR_NOT_FOUND: nothing of the replica was flushed yet; ERR_CORRUPT, ERR_IO. Loop thread. */
int store_image_open(struct store_replica *replica, struct store_image **out, struct err *err);
uint64_t store_image_index(const struct store_image *image); /* of the last entry that is in it */
/* Appends to *out one chunk of about bytes_max bytes (one record may exceed it) that begins at `position`: empty, or what
 * store_stage_position says. Blocks on the disk: for a job (ENV_JOB_READ), one call at a time per image. Every record is verified:
 * ERR_CORRUPT (this replica is damaged: store_image_close marks it). ERR_BAD_REQUEST: no such position; ERR_CLOSED: the store was closed
 * meanwhile; ERR_IO. *out is as it was after an error. */
int store_image_read(struct store_image *image, struct span position, size_t bytes_max, struct buf *out, struct err *err);
/* Not while a read runs. Loop thread; also after store_close. NULL allowed. */
void store_image_close(struct store_image *image);

/* Receiving: a stage collects an image's chunks in a database of its own, durably and unseen, then takes the replica's place in one
 * transaction. All on the loop thread; done() comes from a later event or from store_turn_end. A stage that was not installed when the
 * process ended is removed at the next store_replica_open. */
typedef void store_stage_done(void *ctx, int status, const struct err *err);
/* index and term are those of the image (what the sender's store_image_index says, and that entry's term). The replica goes on as it
 * was. ERR_BUSY: LIMIT_STORE_STAGES are open, or the replica has one. */
int store_stage_open(struct store_replica *replica, uint64_t index, uint64_t term, struct store_stage **out, struct err *err);
/* Writes a chunk; one at a time (CHECK). References the chunk until done(): 0; ERR_CORRUPT: malformed or damaged, ERR_BAD_REQUEST: not
 * the one for store_stage_position or another image's, ERR_STORE_FULL (see store_crowd), ERR_DISK_FULL, ERR_IO: nothing is
 * lost, ask again. If LMDB is damaged here, on_failure comes instead. */
void store_stage_write(struct store_stage *stage, struct blob *chunk, store_stage_done *done, void *ctx);
/* Where the next chunk must begin; empty: at the beginning. Borrowed until the next done(). */
struct span store_stage_position(const struct store_stage *stage);
bool store_stage_is_complete(const struct store_stage *stage); /* nothing is missing: store_stage_install */
/* Swaps. Only when complete (CHECK). Waits for swaps before it, for a flush in progress, and for one that is due (store_prefer_flush); keeps
 * the next from starting once it is under way.
 * When done() comes with 0, the stage is gone, applied = flushed = index, which may be less than it was; the overlay's content of
 * this replica is dropped, and a damaged replica is whole again. ERR_CORRUPT: the image isn't what its sender says it is (the sender is
 * damaged); the stage is gone, the replica as it was. ERR_STORE_FULL, ERR_DISK_FULL: may be called again. */
void store_stage_install(struct store_stage *stage, store_stage_done *done, void *ctx);
/* Gives up. A done() that is due isn't called any more; the stage's database is removed bit by bit. A swap that is being written
 * happens nevertheless. NULL allowed. */
void store_stage_abort(struct store_stage *stage);
enum store_crowd {
    STORE_CROWD_NONE,
    STORE_CROWD_SOME, /* stages take room that users' writes are about to need, or one has got none for its last piece and none is on its
                       * way: the incomplete one that was opened last should be given up, and no other be opened */
    STORE_CROWD_ALL,  /* a flush waits for their room, and for nothing else: all should be given up, complete ones too (no swap is under
                       * way then), and none be opened */
};
enum store_crowd store_crowd(const struct store *store);

/* --- Scrub: reads all that LMDB holds of a replica and holds it against its checksums, its key count and its digest. One at a time per
 * store. All on the loop thread. What is wrong marks the replica as damaged. Pins LMDB's pages like an image. */
/* ERR_BUSY: there is one; ERR_NOT_FOUND: nothing was flushed; ERR_CORRUPT: stopped, or just found damaged; ERR_IO. */
int store_scrub_open(struct store_replica *replica, struct store_scrub **out, struct err *err);
/* Reads about bytes_max bytes more (ENV_JOB_READ), then calls done(): 0, and go on unless complete; ERR_CORRUPT, ERR_FORMAT: damaged, says
 * how; ERR_IO. One step at a time, none after an error but store_scrub_close. */
void store_scrub_step(struct store_scrub *scrub, size_t bytes_max, store_stage_done *done, void *ctx);
bool store_scrub_is_complete(const struct store_scrub *scrub);
uint64_t store_scrub_index(const struct store_scrub *scrub); /* the state that is read */
/* At any time before store_close, which does it too; a done() that is due isn't called any more. NULL allowed. */
void store_scrub_close(struct store_scrub *scrub);

struct store_stats {
    uint64_t gets, scans, applied, flushes, flush_us_total, flushed_operations, flushed_bytes, used_bytes, quota_bytes, keys,
        pinned_bytes, overlay_bytes, checksum_failures, sessions, damages;
};
const struct store_stats *store_stats(struct store *store);

#endif
