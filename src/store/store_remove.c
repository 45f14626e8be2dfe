/* Removing generations that an image has replaced, or that never came to be (I7), bit by bit: a
 * flush waits for no more than one step.
 *
 * What is left of a generation is found again when its replica is opened, so the queue needn't be
 * durable. A generation that an image still reads waits until that is closed.
 *
 * Freeing the pages of a damaged tree might free somebody else's. So a generation is walked before
 * the first of them goes, and left alone if the walk finds something: its room is lost until the
 * store begins anew. */
#include "store/store_private.h"

#include "base/check.h"
#include "base/logger.h"

enum {
    /* A database of so many pages goes at once: LMDB only lists their numbers. */
    REMOVE_PAGES = 16384,
    /* In a larger one, so many records go in one step. */
    REMOVE_RECORDS = 8192,
    REMOVE_SESSIONS = 8192,
    REMOVE_WALK_BYTES = 8 << 20,
};

struct removal {
    struct store_job job;
    struct list link; /* in store->removals */
    struct store_name name;
    MDB_env *lmdb;
    MDB_txn *measurer;
    MDB_dbi meta, sessions, data;
    struct store_walk walk;
    bool is_sound; /* the walk is over */
    bool is_gone;  /* the database is: sessions may be left */
    /* Results of a step. */
    int status;
    struct err err;
    bool is_done;
    uint64_t used_bytes; /* measured behind a step that deletes, else 0 */
    uint64_t bytes;      /* what is left of its data, as far as known */
};

static void free_removal(struct removal *removal)
{
    store_walk_fini(&removal->walk);
    mem_free(removal);
}

static void free_job(struct store_job *job)
{
    free_removal(container_of(job, struct removal, job));
}

/* Deletes up to `limit` pairs from where the cursor stands. */
static int delete_some(MDB_cursor *cursor, struct span prefix, MDB_cursor_op first, unsigned limit,
                       bool *is_empty)
{
    MDB_val key = val_of(prefix), value;
    int rc = mdb_cursor_get(cursor, &key, &value, first);
    unsigned count = 0;
    while (rc == 0 && span_has_prefix(span_of_val(key), prefix) && count < limit) {
        rc = mdb_cursor_del(cursor, 0);
        rc = rc == 0 ? mdb_cursor_get(cursor, &key, &value, MDB_NEXT) : rc; /* the one behind */
        count++;
    }
    *is_empty = count < limit;
    return rc == MDB_NOTFOUND ? 0 : rc;
}

/* Deletes some, or the database itself: then *is_gone. */
static int delete_data(MDB_txn *txn, MDB_dbi dbi, bool *is_gone)
{
    MDB_stat stat;
    int rc = mdb_stat(txn, dbi, &stat);
    if (rc != 0) {
        return rc;
    }
    if (stat.ms_branch_pages + stat.ms_leaf_pages + stat.ms_overflow_pages <= REMOVE_PAGES) {
        *is_gone = true;
        return mdb_drop(txn, dbi, 1);
    }
    MDB_cursor *cursor;
    rc = mdb_cursor_open(txn, dbi, &cursor);
    if (rc == 0) {
        bool is_empty;
        rc = delete_some(cursor, span_of("", 0), MDB_FIRST, REMOVE_RECORDS, &is_empty);
        mdb_cursor_close(cursor);
    }
    return rc;
}

/* A step with the data: walks first, then deletes. */
static int remove_data(struct removal *removal, MDB_txn *txn, bool *is_gone)
{
    char name[STORE_NAME_BYTES];
    store_name_database(&removal->name, name);
    MDB_dbi dbi;
    int rc = mdb_dbi_open(txn, name, 0, &dbi);
    *is_gone = rc == MDB_NOTFOUND;
    removal->data = dbi;
    if (rc != 0) {
        return *is_gone ? 0 : store_lmdb_error(&removal->err, rc, "opening it");
    }
    if (!removal->is_sound) {
        removal->walk.dbi = dbi;
        rc = store_walk_step(&removal->walk, txn, REMOVE_WALK_BYTES, &removal->err);
        removal->is_sound = rc == 0;
        return rc < 0 ? rc : 0;
    }
    rc = delete_data(txn, dbi, is_gone);
    return rc == 0 ? 0 : store_lmdb_error(&removal->err, rc, "deleting");
}

static int remove_sessions(struct removal *removal, MDB_txn *txn, bool *is_gone)
{
    uint8_t prefix[SESSION_KEY_PREFIX_BYTES];
    store_name_sessions(&removal->name, prefix);
    MDB_cursor *cursor;
    int rc = mdb_cursor_open(txn, removal->sessions, &cursor);
    if (rc == 0) {
        rc = delete_some(cursor, span_of(prefix, sizeof prefix), MDB_SET_RANGE, REMOVE_SESSIONS,
                         is_gone);
        mdb_cursor_close(cursor);
    }
    return rc;
}

static int remove_some(struct removal *removal, MDB_txn *txn)
{
    removal->is_gone = false;
    int code = remove_data(removal, txn, &removal->is_gone);
    if (code != 0 || !removal->is_gone) {
        return code;
    }
    int rc = remove_sessions(removal, txn, &removal->is_done);
    return rc == 0 ? 0 : store_lmdb_error(&removal->err, rc, "deleting sessions");
}

/* What a step leaves. What it freed is free for the next flush: admission counts on that. */
static void measure(struct removal *removal, bool has_deleted)
{
    uint64_t pinned_bytes;
    removal->bytes =
        removal->is_gone ? 0 : store_measure_database(removal->measurer, removal->data);
    if (has_deleted) {
        store_pass_transaction(removal->lmdb, removal->meta);
    }
    if (has_deleted && store_measure_used(removal->measurer, UINT64_MAX, &removal->used_bytes,
                                          &pinned_bytes) != 0) {
        removal->used_bytes = 0; /* the next flush measures again, and says what is wrong */
    }
}

/* On the flush thread. */
static void remove_work(struct store_job *job)
{
    struct removal *removal = container_of(job, struct removal, job);
    MDB_txn *txn;
    removal->is_done = false;
    removal->used_bytes = 0;
    bool was_sound = removal->is_sound;
    int rc = mdb_txn_begin(removal->lmdb, NULL, 0, &txn);
    if (rc != 0) {
        removal->status = store_lmdb_error(&removal->err, rc, "beginning");
        return;
    }
    removal->status = remove_some(removal, txn);
    if (removal->status != 0) {
        mdb_txn_abort(txn);
        return;
    }
    rc = mdb_txn_commit(txn); /* after a walk there is nothing to write */
    removal->status = rc == 0 ? 0 : store_lmdb_error(&removal->err, rc, "deleting");
    if (removal->status == 0) {
        measure(removal, was_sound || removal->is_gone);
    }
}

/* What can't be removed stays, and takes room. */
static void remove_done(struct store_job *job)
{
    struct removal *removal = container_of(job, struct removal, job);
    struct store *store = job->store;
    store->is_removing = false;
    if (removal->status == ERR_STORE_FULL || removal->status == ERR_DISK_FULL) {
        env_timer_start(store->config.env, &store->remove_timer, STORE_RETRY_US);
        return;
    }
    if (removal->status != 0) {
        LOG_WARN(store->logger, "store: what an image replaced stays group=%u replica=%llx: %s",
                 removal->name.group, (unsigned long long)removal->name.replica, removal->err.text);
    }
    if (removal->used_bytes != 0) {
        store->stats.used_bytes = removal->used_bytes;
    }
    if (removal->status != 0 || removal->is_done) {
        list_remove(&removal->link);
        free_removal(removal);
    }
    store_count_staged(store);
    store_remove_next(store);
}

uint64_t store_removals_bytes(const struct store *store)
{
    uint64_t bytes = 0;
    LIST_FOR(link, &store->removals)
    {
        bytes += container_of(link, struct removal, link)->bytes;
    }
    return bytes;
}

void store_remove_next(struct store *store)
{
    if (store->is_removing || store->remove_timer.due_us != 0) {
        return;
    }
    LIST_FOR(link, &store->removals)
    {
        struct removal *removal = container_of(link, struct removal, link);
        if (!store_image_uses(store, &removal->name) && !store_scrub_uses(store, &removal->name)) {
            store->is_removing = true;
            store_job_start(&removal->job, ENV_JOB_FLUSH);
            return;
        }
    }
}

void store_remove_again(struct env_timer *timer)
{
    store_remove_next(container_of(timer, struct store, remove_timer));
}

void store_remove(struct store *store, const struct store_name *name, uint64_t bytes)
{
    LIST_FOR(link, &store->removals)
    {
        struct removal *removal = container_of(link, struct removal, link);
        if (store_name_equal(&removal->name, name)) {
            return;
        }
    }
    struct removal *removal = MEM_NEW(struct removal);
    store_job_init(&removal->job, store);
    removal->job.work = remove_work;
    removal->job.done = remove_done;
    removal->job.free = free_job;
    removal->name = *name;
    removal->bytes = bytes;
    removal->lmdb = store->env;
    removal->measurer = store->measurer;
    removal->meta = store->meta;
    removal->sessions = store->sessions;
    removal->walk.map = &store->map;
    list_append(&store->removals, &removal->link);
    store_count_staged(store);
}

void store_removals_free(struct store *store)
{
    struct list *link;
    while ((link = list_take_first(&store->removals)) != NULL) {
        struct removal *removal = container_of(link, struct removal, link);
        if (removal->job.store) {
            free_removal(removal);
        } /* else its job is under way, and frees it */
    }
}
