/* Flushing: freezing the active generation, the job that writes it into LMDB, and what follows its
 * end. I1, I2, I3, I6 of store_private.h are kept here.
 *
 * Each transaction is a run of the job of its own. Between two of them the flush may pause, as the node paces it
 * (store_flush_pace): written in one go, its pages would keep the disk so busy that the log, and with it all
 * writers, waited for seconds. Nothing new can happen in a pause but what happens while a flush waits for
 * room: the frozen generation hides what LMDB has and what it lacks (I2), and each replica's state is whole (I3). */
#include "store/store_private.h"

#include "base/check.h"
#include "base/logger.h"

enum {
    /* Entries of a dropped generation that are freed in one go: some 0.3 ms. */
    RELEASE_ENTRIES = 4096,
    PAGE_BYTES = 4096,
    /* A flush that waits for room that images or stages keep is tried again after. */
    PINNED_RETRY_US = 100 * 1000,
};

struct flush_item {
    struct store_replica *owner; /* for the loop, not for the job */
    MDB_dbi dbi;
    struct store_name name;
    const struct overlay *overlay; /* NULL: no keys changed */
    struct span sessions;          /* packed changes */
    uint64_t digest;               /* before */
    struct store_mark mark;
    uint64_t mark_digest;   /* the job fills it in */
    struct store_meta meta; /* the job fills in keys and digest */
    bool is_written;        /* in a transaction of its own, by an earlier try */
    bool is_at_a_loss;      /* the last try failed in this replica's own database */
    bool is_damaged;        /* ... and that is damage: left out */
};

/* What the job gets; immutable for the loop while it runs. */
struct flush {
    struct store_job job;
    MDB_env *lmdb;
    MDB_txn *measurer;
    MDB_dbi meta, sessions;
    struct flush_item *items;
    size_t count;
    size_t at;         /* the first item that the next transaction writes */
    bool is_piecewise; /* one transaction per replica, all in one job: it failed before */
    bool is_whole;     /* all in one job: with stages, half a flush would be counted twice */
    bool is_repeated;  /* there was no room */
    bool is_complete;  /* all is written */
    bool is_paused;    /* no job is under way: the pace doesn't allow the next transaction yet, */
    uint64_t paused_at_us; /* since then */
    uint64_t bytes;        /* what it has to write, about */
    uint64_t dirtied;      /* by the transaction under way, about */
    uint64_t transaction_bytes;
    uint64_t pinned_from; /* see store_pinned_from */
    /* Results. */
    int status;
    struct err err;
    uint64_t used_bytes, pinned_bytes, duration_us;
};

/* Takes the record that goes away out of the digests. One that is too short to be a record was
 * damaged after it had been counted. */
static int uncount(struct flush_item *item, const struct overlay_entry *entry, MDB_val key,
                   MDB_val old)
{
    if (old.mv_size < RECORD_BYTES_MIN) {
        return MDB_CORRUPTED;
    }
    uint64_t digest = store_record_digest(span_of_val(key), span_of_val(old));
    item->meta.digest -= digest;
    if (entry->version <= item->mark.index || entry->is_past_mark) {
        item->mark_digest -= digest; /* it had gone at the mark already */
    }
    return 0;
}

static int write_deletion(MDB_cursor *cursor, const struct overlay_node *node,
                          struct flush_item *item)
{
    MDB_val key = val_of(overlay_key(node)), old;
    int rc = mdb_cursor_get(cursor, &key, &old, MDB_SET);
    if (rc == MDB_NOTFOUND) {
        return 0; /* made and deleted within the generation */
    }
    rc = rc == 0 ? uncount(item, overlay_entry(node), key, old) : rc;
    return rc == 0 ? mdb_cursor_del(cursor, 0) : rc;
}

/* The first put finds the place, and says whether the key is there; for those that are, the second
 * writes where the first has left the cursor. */
static int write_record(MDB_cursor *cursor, const struct overlay_node *node,
                        struct flush_item *item)
{
    const struct overlay_entry *entry = overlay_entry(node);
    struct record record;
    overlay_record(node, &record);
    size_t size = record_packed_size(&record);
    MDB_val key = val_of(overlay_key(node)), value = { size, NULL };
    int rc = mdb_cursor_put(cursor, &key, &value, MDB_RESERVE | MDB_NOOVERWRITE);
    if (rc == MDB_KEYEXIST) {
        rc = uncount(item, entry, key, value);
        value = (MDB_val){ size, NULL };
        rc = rc == 0 ? mdb_cursor_put(cursor, &key, &value, MDB_RESERVE | MDB_CURRENT) : rc;
    }
    if (rc == 0) {
        record_pack(&record, entry->checksum, value.mv_data);
        uint64_t digest = store_record_digest(span_of_val(key), span_of(value.mv_data, size));
        item->meta.digest += digest;
        item->mark_digest += entry->version <= item->mark.index ? digest : 0;
    }
    return rc;
}

/* Adds what it dirties to *dirtied: at most a page for each key, besides the value. */
static int write_overlay(MDB_txn *txn, struct flush_item *item, uint64_t *dirtied)
{
    MDB_cursor *cursor;
    int rc = mdb_cursor_open(txn, item->dbi, &cursor);
    if (rc != 0) {
        return rc;
    }
    for (const struct overlay_node *node = overlay_first(item->overlay); node && rc == 0;
         node = overlay_next(node)) {
        const struct overlay_entry *entry = overlay_entry(node);
        rc = entry->is_deleted ? write_deletion(cursor, node, item)
                               : write_record(cursor, node, item);
        *dirtied += PAGE_BYTES + entry->value.size;
    }
    mdb_cursor_close(cursor);
    return rc;
}

static int write_sessions(MDB_txn *txn, MDB_dbi sessions, const struct flush_item *item)
{
    uint8_t packed[SESSION_KEY_BYTES];
    store_name_sessions(&item->name, packed);
    struct reader reader = reader_of(item->sessions);
    struct session_change change;
    int rc = 0;
    while (rc == 0 && session_change_next(&reader, &change)) {
        memcpy(packed + SESSION_KEY_PREFIX_BYTES, change.id.data, SESSION_ID_BYTES);
        MDB_val key = val_of(span_of(packed, sizeof packed)), value = val_of(change.value);
        rc = change.value.size > 0 ? mdb_put(txn, sessions, &key, &value, 0)
                                   : mdb_del(txn, sessions, &key, NULL);
        rc = change.value.size == 0 && rc == MDB_NOTFOUND ? 0 : rc;
    }
    return rc;
}

static int write_item(struct flush *flush, MDB_txn *txn, struct flush_item *item)
{
    MDB_stat stat;
    item->meta.digest = item->digest;
    item->mark_digest = item->digest + item->mark.replaced;
    int rc = item->overlay ? write_overlay(txn, item, &flush->dirtied) : 0;
    rc = rc == 0 ? mdb_stat(txn, item->dbi, &stat) : rc;
    if (rc != 0) {
        item->is_at_a_loss = true;
        return rc;
    }
    item->meta.keys = stat.ms_entries;
    rc = write_sessions(txn, flush->sessions, item);
    return rc != 0 ? rc
                   : store_meta_write(txn, flush->meta, item->name.group, item->name.replica,
                                      &item->meta);
}

/* Writes items from *at in one transaction, up to `end` or until it is large enough. *at is then the
 * first that it did not write. */
static int write_items(struct flush *flush, size_t *at, size_t end)
{
    MDB_txn *txn;
    size_t i = *at;
    int rc = mdb_txn_begin(flush->lmdb, NULL, 0, &txn);
    if (rc != 0) {
        return rc;
    }
    flush->dirtied = 0;
    while (i < end && rc == 0 && flush->dirtied < flush->transaction_bytes) {
        rc = write_item(flush, txn, &flush->items[i++]);
    }
    if (rc != 0) {
        mdb_txn_abort(txn);
        return rc;
    }
    rc = mdb_txn_commit(txn);
    for (; *at < i && rc == 0; ++*at) {
        flush->items[*at].is_written = true;
    }
    return rc;
}

static bool is_out_of_room(int code)
{
    return code == ERR_STORE_FULL || code == ERR_DISK_FULL;
}

/* Did the item fail for its own database's sake alone? If the list of free pages can't be walked,
 * others would fail as well. */
static bool is_own_damage(const struct flush *flush, const struct flush_item *item, int code)
{
    uint64_t used_bytes, pinned_bytes;
    return code == ERR_CORRUPT && item->is_at_a_loss &&
           store_measure_used(flush->measurer, UINT64_MAX, &used_bytes, &pinned_bytes) == 0;
}

/* Gives every replica that isn't written yet its own transaction: what one needs to copy, the next can use again. Goes on
 * behind a replica for which there is no room, or which is damaged. */
static int write_piecewise(struct flush *flush)
{
    int first_code = 0;
    for (size_t i = 0; i < flush->count; i++) {
        struct flush_item *item = &flush->items[i];
        struct err err;
        item->is_at_a_loss = false;
        size_t at = i;
        int rc = item->is_written || item->is_damaged ? 0 : write_items(flush, &at, i + 1);
        if (rc == 0) {
            continue;
        }
        int code = store_lmdb_error(&err, rc, "flushing a replica");
        if (is_own_damage(flush, item, code)) {
            item->is_damaged = true;
            continue;
        }
        if (first_code == 0 || !is_out_of_room(code)) {
            first_code = code;
            flush->err = err;
        }
        if (!is_out_of_room(code)) {
            break;
        }
    }
    return first_code;
}

/* The next transaction, or all that is left if it is piecewise. */
static int write_more(struct flush *flush)
{
    flush->is_complete = flush->is_piecewise;
    if (flush->is_piecewise) {
        return write_piecewise(flush);
    }
    int rc = 0;
    bool is_first = true;
    while (rc == 0 && flush->at < flush->count && (is_first || flush->is_whole)) {
        rc = write_items(flush, &flush->at, flush->count);
        is_first = false;
    }
    flush->is_complete = flush->at == flush->count;
    int code = rc == 0 ? 0 : store_lmdb_error(&flush->err, rc, "flushing");
    if (code == ERR_CORRUPT) { /* whose is it? */
        flush->is_piecewise = flush->is_complete = true;
        return write_piecewise(flush);
    }
    return code;
}

/* LMDB says EIO for a write that was cut short, as it is when a disk becomes full. Where there may
 * have been too little room, it is that: to wait is right for the one and does no harm for the
 * other, since nothing was committed and the log holds it all. */
static int explain_failure(struct flush *flush)
{
    enum { BESIDES = 64 << 20 }; /* the log may take and give back so much at the same time */
    const char *path;
    uint64_t room;
    if (flush->status != ERR_IO || mdb_env_get_path(flush->lmdb, &path) != 0 ||
        env_dir_room(flush->job.env, path, &room, NULL) != 0 ||
        room >= 2 * flush->bytes + BESIDES) {
        return flush->status;
    }
    return err_set(&flush->err, ERR_DISK_FULL, "flushing: a write was cut short");
}

/* On the flush thread. */
static void flush_work(struct store_job *job)
{
    struct flush *flush = container_of(job, struct flush, job);
    uint64_t begin_us = env_now_us(job->env);
    if (flush->is_repeated) {
        store_pass_transaction(flush->lmdb, flush->meta);
    }
    flush->status = write_more(flush);
    flush->status = explain_failure(flush);
    bool is_end = flush->is_complete || flush->status != 0;
    int rc = is_end ? store_measure_used(flush->measurer, flush->pinned_from, &flush->used_bytes,
                                         &flush->pinned_bytes)
                    : 0;
    if (rc != 0 && flush->status == 0) {
        flush->status = store_lmdb_error(&flush->err, rc, "measuring the store");
    }
    flush->duration_us += env_now_us(job->env) - begin_us;
}

static void free_flush(struct flush *flush)
{
    mem_free(flush->items);
    mem_free(flush);
}

void store_flush_close(struct store *store)
{
    if (store->flush && store->flush->job.store) {
        free_flush(store->flush);
    }
}

void store_release_more(struct env_timer *timer)
{
    struct store *store = container_of(timer, struct store, release_timer);
    if (generation_release(store->released, RELEASE_ENTRIES)) {
        store->released = NULL;
    } else {
        env_timer_start(store->config.env, &store->release_timer, 0);
    }
}

/* Frees a generation bit by bit; an earlier one that isn't gone yet goes at once. */
static void release_generation(struct store *store, struct generation *generation)
{
    generation_free(store->released);
    store->released = generation;
    env_timer_start(store->config.env, &store->release_timer, 0);
}

/* The flush has counted: blind entries are no riddle any more (I5). What doesn't fit with what the
 * meta record said and we counted since is damage. Returns how many were new. */
static uint64_t settle_replica(const struct flush_item *item)
{
    struct store_replica *replica = item->owner;
    int64_t found = (int64_t)item->meta.keys - replica->frozen_keys;
    uint64_t blind = replica->frozen_blind;
    replica->keys += found;
    replica->digest = item->meta.digest;
    replica->flushed = item->meta.applied;
    if (item->mark.index != 0) {
        replica->mark_index = item->mark.index;
        replica->mark_digest = item->mark_digest;
    }
    replica->frozen_blind = 0;
    if (found < 0 || (uint64_t)found > blind) {
        store_damage(replica, true, "a flush found other keys than there should be");
        return 0;
    }
    return (uint64_t)found;
}

static void settle(struct store *store)
{
    uint64_t seen = 0, new = 0;
    for (size_t i = 0; i < store->flush->count; i++) {
        const struct flush_item *item = &store->flush->items[i];
        if (item->is_damaged) {
            store_damage(item->owner, true, "LMDB can't write it");
            continue;
        }
        seen += item->owner->frozen_blind;
        new += settle_replica(item);
    }
    if (seen > 0) {
        store->blind_seen = seen;
        store->blind_new = new;
    }
}

/* The frozen generation is in LMDB: drops it when nobody can miss it (I2). */
void store_flush_drop(struct store *store)
{
    store_reader_reset(store);
    settle(store);
    LIST_FOR(link, &store->replicas)
    {
        struct store_replica *replica = container_of(link, struct store_replica, link);
        replica->frozen = NULL;
        buf_fini(&replica->frozen_sessions);
    }
    release_generation(store, store->frozen);
    store->frozen = NULL;
    store->is_committed = false;
    free_flush(store->flush);
    store->flush = NULL;
    store_install_next(store);
    if (store->config.on_flushed) {
        store->config.on_flushed(store->config.ctx);
    }
}

static void flush_succeeded(struct store *store)
{
    struct flush *flush = store->flush;
    store->stats.flushes++;
    store->stats.flush_us_total += flush->duration_us;
    store->stats.flushed_operations += store->frozen->operations;
    store->stats.flushed_bytes += store->frozen->bytes;
    LOG_DEBUG(store->logger, "store: flushed operations=%llu bytes=%llu us=%llu used=%llu",
              (unsigned long long)store->frozen->operations,
              (unsigned long long)store->frozen->bytes, (unsigned long long)flush->duration_us,
              (unsigned long long)flush->used_bytes);
    store->is_pinned_full = store->is_staged_full = false;
    if (store->full != 0) {
        LOG_INFO(store->logger, "store: there is room again");
        store->full = 0;
    }
    store->is_committed = true;
    if (!store->has_lent) {
        store_flush_drop(store);
    }
}

static void flush_failed(struct store *store)
{
    struct flush *flush = store->flush;
    if (!is_out_of_room(flush->status) && flush->status != ERR_NO_MEMORY) {
        LOG_ERROR(store->logger, "store: flush failed: %s", flush->err.text);
        if (flush->status == ERR_CORRUPT) {
            store_condemn(store, &flush->err);
        }
        store->config.on_failure(store->config.ctx, &flush->err);
        return;
    }
    flush->is_piecewise = true;
    flush->is_repeated = flush->status == ERR_STORE_FULL;
    bool is_pinned = flush->pinned_from != UINT64_MAX;
    store->is_pinned_full = flush->is_repeated && is_pinned;
    store->is_staged_full = flush->is_repeated && !is_pinned && store_has_stages(store);
    if (store->is_pinned_full || store->is_staged_full) { /* I9, I10: nobody is refused for it */
        env_timer_start(store->config.env, &store->retry_timer, PINNED_RETRY_US);
        return;
    }
    if (store->full == 0) {
        LOG_WARN(store->logger, "store: no room for a flush, writes are refused: %s",
                 flush->err.text);
    }
    store->full = flush->status;
    env_timer_start(store->config.env, &store->retry_timer, STORE_RETRY_US);
}

static void flush_free(struct store_job *job)
{
    free_flush(container_of(job, struct flush, job));
}

static void flush_queue(struct flush *flush)
{
    flush->status = 0;
    flush->pinned_from = store_pinned_from(flush->job.store);
    flush->is_whole = store_has_stages(flush->job.store);
    flush->err = (struct err){ 0 };
    store_job_start(&flush->job, ENV_JOB_FLUSH);
}

/* Stages and their swaps wait for the flush's end (I8), and so do writers where the overlay is nearly full: for them it doesn't pause. */
static bool should_pause(const struct store *store)
{
    const struct flush *flush = store->flush;
    uint64_t written = flush->bytes * flush->at / flush->count;
    return written >= store->flush_pace && !store_has_stages(store) &&
           store_unflushed_bytes(store) < store->config.overlay_bytes_max / 4 * 3;
}

void store_flush_pace(struct store *store, uint64_t bytes)
{
    struct flush *flush = store->flush;
    store->flush_pace = bytes;
    if (flush && flush->is_paused && !should_pause(store)) {
        store->flush_paused_us = store_flush_paused_us(store);
        flush->is_paused = false;
        flush_queue(flush);
    }
}

uint64_t store_flush_paused_us(const struct store *store)
{
    const struct flush *flush = store->flush;
    bool is_paused = flush && flush->is_paused;
    return store->flush_paused_us +
           (is_paused ? env_now_us(store->config.env) - flush->paused_at_us : 0);
}

/* The next transaction, if the pace allows it. */
static void flush_more(struct store *store)
{
    struct flush *flush = store->flush;
    flush->is_paused = should_pause(store);
    flush->paused_at_us = env_now_us(store->config.env);
    if (!flush->is_paused) {
        flush_queue(flush);
    }
}

static void flush_done(struct store_job *job)
{
    struct flush *flush = container_of(job, struct flush, job);
    struct store *store = job->store;
    CHECK(store->flush == flush);
    if (flush->status == 0 && !flush->is_complete) {
        flush_more(store);
        return;
    }
    store->stats.used_bytes = flush->used_bytes ? flush->used_bytes : store->stats.used_bytes;
    /* Who was closed meanwhile pins nothing: what the others do, the next flush says. */
    bool is_known = flush->used_bytes && store_pinned_from(store) == flush->pinned_from;
    store->stats.pinned_bytes = is_known ? flush->pinned_bytes : 0;
    if (flush->status == 0) {
        flush_succeeded(store);
    } else {
        flush_failed(store);
    }
}

void store_flush_again(struct env_timer *timer)
{
    struct store *store = container_of(timer, struct store, retry_timer);
    flush_queue(store->flush);
}

/* Room for the sessions' changes of all replicas. */
static bool reserve_changes(struct store *store, struct mem_gate *gate)
{
    LIST_FOR(link, &store->replicas)
    {
        struct store_replica *replica = container_of(link, struct store_replica, link);
        if (!buf_try_reserve(&replica->frozen_sessions, gate,
                             session_table_pack_bytes(replica->sessions))) {
            return false;
        }
    }
    return true;
}

void store_prefer_flush(struct store *store, bool is_due)
{
    store->is_flush_preferred = is_due && !store->frozen;
    store_install_next(store);
}

bool store_freeze(struct store *store)
{
    struct mem_gate *gate = env_gate(store->config.env, MEM_STORE);
    CHECK(!store_is_flushing(store) && store->flush == NULL); /* I1, I8 */
    struct generation *fresh = generation_new(gate);
    if (!fresh || !reserve_changes(store, gate)) {
        generation_free(fresh);
        return false;
    }
    store->frozen = store->active;
    store->active = fresh;
    store->flush_pace = UINT64_MAX;
    store->is_flush_preferred = false; /* I8 */
    LIST_FOR(link, &store->replicas)
    {
        struct store_replica *replica = container_of(link, struct store_replica, link);
        replica->frozen = replica->active;
        replica->active = NULL;
        replica->frozen_applied = replica->is_stopped ? replica->flushed : replica->applied;
        replica->frozen_time = replica->time;
        replica->frozen_keys = replica->keys;
        replica->frozen_blind = replica->blind;
        replica->frozen_has_attributes = replica->has_attributes;
        replica->blind = 0;
        replica->frozen_mark = replica->mark;
        replica->mark = (struct store_mark){ 0 };
        replica->sessions_packed = replica->sessions->count;
        session_table_pack(replica->sessions, &replica->frozen_sessions);
    }
    return true;
}

static void make_item(struct store_replica *replica, struct flush_item *item)
{
    item->owner = replica;
    item->dbi = replica->dbi;
    item->name = store_replica_name(replica);
    item->overlay = replica->frozen;
    item->sessions = buf_span(&replica->frozen_sessions);
    item->digest = replica->digest;
    item->mark = replica->frozen_mark;
    item->meta = (struct store_meta){ .generation = replica->generation,
                                      .applied = replica->frozen_applied,
                                      .time = replica->frozen_time,
                                      .sessions = replica->sessions_packed,
                                      .image_index = replica->image_index,
                                      .image_term = replica->image_term,
                                      .has_attributes = replica->frozen_has_attributes };
}

bool store_flush_start(struct store *store)
{
    struct mem_gate *gate = env_gate(store->config.env, MEM_STORE);
    CHECK(store->frozen != NULL && store->flush == NULL);
    size_t count = 0;
    LIST_FOR(link, &store->replicas)
    {
        count++;
    }
    struct flush *flush = MEM_TRY_NEW(gate, struct flush);
    struct flush_item *items = mem_try_zalloc(gate, count * sizeof *items);
    if (!flush || !items) {
        mem_free(flush);
        mem_free(items);
        return false;
    }
    flush->items = items;
    store_job_init(&flush->job, store);
    flush->job.work = flush_work;
    flush->job.done = flush_done;
    flush->job.free = flush_free;
    flush->lmdb = store->env;
    flush->measurer = store->measurer;
    flush->meta = store->meta;
    flush->sessions = store->sessions;
    flush->bytes = store->frozen->bytes;
    flush->transaction_bytes = store->config.flush_transaction_bytes;
    LIST_FOR(link, &store->replicas)
    {
        struct store_replica *replica = container_of(link, struct store_replica, link);
        if (replica->frozen_applied > replica->flushed && !replica->is_stopped) {
            make_item(replica, &flush->items[flush->count++]);
        }
    }
    store->flush = flush;
    flush_queue(flush);
    return true;
}
