/* Scrub: is what LMDB holds of a replica still what was written?
 *
 * One read transaction for all of it, so that what is found can be compared with the meta record
 * that belongs to it; the steps are jobs, bounded in bytes. What the walk (store_walk.c) and the
 * digest don't notice, nobody does here: a replica whose digest is the same as its peers' holds
 * what they hold, which is for the caller to compare. */
#include "store/store_private.h"

#include "base/check.h"

struct store_scrub {
    struct store_job job;
    struct store *store;
    struct store_replica *replica;
    struct store_name name;
    MDB_txn *txn;
    MDB_dbi sessions;
    struct store_meta meta;
    struct store_walk walk;
    size_t bytes_max;
    bool is_closed, is_complete;
    store_stage_done *done;
    void *ctx;
    int status;
    struct err err;
};

static void free_scrub(struct store_scrub *scrub)
{
    mdb_txn_abort(scrub->txn);
    store_walk_fini(&scrub->walk);
    mem_free(scrub);
}

/* After store_close: the transaction went with LMDB. */
static void free_job(struct store_job *job)
{
    struct store_scrub *scrub = container_of(job, struct store_scrub, job);
    store_walk_fini(&scrub->walk);
    mem_free(scrub);
}

void store_scrub_detach(struct store *store)
{
    struct store_scrub *scrub = store->scrub;
    if (scrub && scrub->job.store) {
        free_scrub(scrub);
    } else if (scrub) { /* a step is queued: it finds nothing to do, and frees it */
        mdb_txn_abort(scrub->txn);
    }
    store->scrub = NULL;
}

uint64_t store_scrub_pinned_from(const struct store *store)
{
    return store->scrub ? mdb_txn_id(store->scrub->txn) : UINT64_MAX;
}

bool store_scrub_uses(const struct store *store, const struct store_name *name)
{
    return store->scrub && store_name_equal(&store->scrub->name, name);
}

int store_scrub_open(struct store_replica *replica, struct store_scrub **out, struct err *err)
{
    struct store *store = replica->store;
    if (store->scrub) {
        return err_set(err, ERR_BUSY, "another scrub is under way");
    }
    int rc = store_refuse_stopped(replica, err);
    if (rc != 0) {
        return rc;
    }
    MDB_txn *txn;
    struct store_meta meta;
    rc = store_snapshot(replica, &txn, &meta, err);
    if (rc != 0) {
        return rc;
    }
    struct store_scrub *scrub = MEM_NEW(struct store_scrub);
    store_job_init(&scrub->job, store);
    scrub->job.free = free_job;
    scrub->store = store;
    scrub->replica = replica;
    scrub->name = store_replica_name(replica);
    scrub->txn = txn;
    scrub->sessions = store->sessions;
    scrub->meta = meta;
    scrub->walk.map = &store->map;
    scrub->walk.dbi = replica->dbi;
    scrub->walk.is_for_records = true;
    store->scrub = scrub;
    *out = scrub;
    return 0;
}

void store_scrub_close(struct store_scrub *scrub)
{
    if (!scrub) {
        return;
    }
    scrub->is_closed = true;
    if (!store_job_is_started(&scrub->job)) {
        struct store *store = scrub->store;
        store->scrub = NULL;
        free_scrub(scrub);
        store_unpinned(store);
    }
}

uint64_t store_scrub_index(const struct store_scrub *scrub)
{
    return scrub->meta.applied;
}

bool store_scrub_is_complete(const struct store_scrub *scrub)
{
    return scrub->is_complete;
}

/* All in one step: they are few, next to records. */
static int check_sessions(struct store_scrub *scrub)
{
    uint8_t packed[SESSION_KEY_PREFIX_BYTES];
    store_name_sessions(&scrub->name, packed);
    struct span prefix = span_of(packed, sizeof packed);
    MDB_cursor *cursor;
    int rc = mdb_cursor_open(scrub->txn, scrub->sessions, &cursor), code = 0;
    if (rc != 0) {
        return store_lmdb_error(&scrub->err, rc, "scrubbing sessions");
    }
    MDB_val key = val_of(prefix), value;
    uint64_t count = 0;
    for (rc = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
         rc == 0 && code == 0 && span_has_prefix(span_of_val(key), prefix);
         rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) {
        struct span id = span_of((uint8_t *)key.mv_data + prefix.size, key.mv_size - prefix.size);
        code = session_check(id, span_of_val(value), &scrub->err);
        count++;
    }
    mdb_cursor_close(cursor);
    if (code != 0) {
        return code;
    }
    if (rc != 0 && rc != MDB_NOTFOUND) {
        return store_lmdb_error(&scrub->err, rc, "scrubbing sessions");
    }
    return count == scrub->meta.sessions
               ? 0
               : err_set(&scrub->err, ERR_CORRUPT, "%llu sessions, and there should be %llu",
                         (unsigned long long)count, (unsigned long long)scrub->meta.sessions);
}

static int check_totals(struct store_scrub *scrub)
{
    if (scrub->walk.count != scrub->meta.keys) {
        return err_set(&scrub->err, ERR_CORRUPT, "%llu keys, and there should be %llu",
                       (unsigned long long)scrub->walk.count, (unsigned long long)scrub->meta.keys);
    }
    if (scrub->walk.digest != scrub->meta.digest) {
        return err_set(&scrub->err, ERR_CORRUPT, "the digest of all records does not match");
    }
    return check_sessions(scrub);
}

/* On the read thread. */
static void scrub_work(struct store_job *job)
{
    struct store_scrub *scrub = container_of(job, struct store_scrub, job);
    int rc = store_walk_step(&scrub->walk, scrub->txn, scrub->bytes_max, &scrub->err);
    scrub->is_complete = rc == 0;
    scrub->status = rc == 0 ? check_totals(scrub) : rc < 0 ? rc : 0;
}

static void scrub_done(struct store_job *job)
{
    struct store_scrub *scrub = container_of(job, struct store_scrub, job);
    if (store_is_damage(scrub->status) && scrub->replica->generation == scrub->name.generation) {
        store_damage(scrub->replica, false, scrub->err.text);
    }
    if (scrub->is_closed) {
        store_scrub_close(scrub);
        return;
    }
    scrub->done(scrub->ctx, scrub->status, scrub->status == 0 ? NULL : &scrub->err);
}

void store_scrub_step(struct store_scrub *scrub, size_t bytes_max, store_stage_done *done,
                      void *ctx)
{
    CHECK(!scrub->is_complete && !scrub->is_closed);
    scrub->bytes_max = bytes_max;
    scrub->done = done;
    scrub->ctx = ctx;
    scrub->job.work = scrub_work;
    scrub->job.done = scrub_done;
    store_job_start(&scrub->job, ENV_JOB_READ);
}
