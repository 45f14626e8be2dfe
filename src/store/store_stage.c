/* Stages: receiving an image, and swapping it in.
 *
 * A stage is a generation of the replica's data (I7) that no meta record names yet. Each chunk is
 * one transaction with a full sync: what store_stage_position says is durable. The swap is one
 * more: it compares what is there with the totals of the last chunk and writes the meta record,
 * which then names the stage's generation.
 *
 *   empty --write--> filling --last chunk--> complete --store_stage_install--> waiting (no flush
 *     under way: I8) --> being written --commit--> swapped --turn's end--> gone
 *                                         +--> no room: complete again; totals differ: gone
 *
 * Invariants
 *   S1  The job sees the stage's own fields, the chunk and LMDB; the loop doesn't touch those
 *       fields while it is under way.
 *   S2  Data of the replica's own generation is not touched by a stage: whatever becomes of the
 *       stage, the replica is as it was until the swap.
 *   S3  As with a flush (I2), the loop goes over to the new database only when it has no read
 *       transaction from before the swap.
 *   S4  A piece is written only where there is room for all that it may take (I10). If not, it is
 *       refused as if LMDB had refused it, and may be asked for again. What the stage takes is
 *       measured behind each piece, so that admission knows it.
 */
#include "store/store_private.h"

#include "base/check.h"
#include "base/hash.h"
#include "base/limits.h"
#include "base/logger.h"

enum { PIECE_PAGES = 16, PAGE_BYTES = 4096 };

/* What a piece takes at most, about: pages that were appended to are half full at least, large records fill whole pages, but less
 * than twice their size; branch pages are a seventh of the leaves at most; and there are the copied paths of a few databases. */
static uint64_t piece_bytes_max(size_t size)
{
    return 3 * (uint64_t)size + PIECE_PAGES * PAGE_BYTES;
}

struct store_stage {
    struct store_job job;
    struct list link;         /* in store->stages */
    struct list install_link; /* in store->installs */
    struct store *store;
    struct store_replica *replica;
    store_stage_done *done; /* NULL: nobody waits */
    void *ctx;
    bool is_aborted, is_complete;
    struct blob *chunk; /* being written */
    uint64_t due_bytes; /* what it may take, until that is known */
    uint64_t bytes;     /* what there is takes */
    bool has_no_room;   /* S4: the last piece was refused; its job does nothing */
    struct buf position;

    /* For the job. */
    MDB_env *lmdb;
    MDB_txn *measurer;
    MDB_dbi meta_dbi, sessions_dbi, data;
    MDB_dbi replaced; /* the database that the swap takes out of use */
    bool has_data;    /* the database is made, and `data` its handle */
    struct store_name name;
    uint64_t hash_seed, prefix;
    uint32_t bits;
    struct store_meta meta; /* of what is there so far */
    struct store_totals totals;

    /* What the job gives back. */
    int status;
    struct err err;
    bool is_lmdb_damaged;
    uint64_t used_bytes, bytes_after; /* of the store, 0: not measured; of the stage */
    uint64_t replaced_bytes;          /* what the swap's loser takes */
    struct store_meta meta_after;
    struct session_table *table; /* the swap's */
};

static void free_table(struct session_table *table)
{
    if (table) {
        session_table_fini(table);
        mem_free(table);
    }
}

static void free_stage(struct store_stage *stage)
{
    blob_unref(stage->chunk);
    free_table(stage->table);
    buf_fini(&stage->position);
    mem_free(stage);
}

static void free_job(struct store_job *job)
{
    free_stage(container_of(job, struct store_stage, job));
}

void store_stages_free(struct store *store)
{
    struct list *link;
    while ((link = list_take_first(&store->stages)) != NULL) {
        struct store_stage *stage = container_of(link, struct store_stage, link);
        if (stage->job.store) {
            free_stage(stage);
        } /* else its job is under way, and frees it */
    }
}

int store_stage_open(struct store_replica *replica, uint64_t index, uint64_t term,
                     struct store_stage **out, struct err *err)
{
    struct store *store = replica->store;
    size_t count = 0;
    LIST_FOR(link, &store->stages)
    {
        count++;
    }
    if (count >= LIMIT_STORE_STAGES || replica->stage) {
        return err_set(err, ERR_BUSY, "%zu images are being received", count);
    }
    CHECK(index > 0);
    struct mem_gate *gate = env_gate(store->config.env, MEM_IMAGE);
    struct store_stage *stage = MEM_TRY_NEW(gate, struct store_stage);
    if (!stage || !buf_try_reserve(&stage->position, gate, 1 + LIMIT_KEY_BYTES)) {
        mem_free(stage);
        return err_set(err, ERR_NO_MEMORY, "no memory for an image");
    } /* a position is that long at most, so advance() needs no memory */
    store_job_init(&stage->job, store);
    stage->job.free = free_job;
    stage->store = store;
    stage->replica = replica;
    stage->lmdb = store->env;
    stage->measurer = store->measurer;
    stage->replaced = replica->dbi;
    stage->meta_dbi = store->meta;
    stage->sessions_dbi = store->sessions;
    stage->name = store_replica_name(replica);
    stage->name.generation = ++replica->generation_last;
    stage->hash_seed = replica->hash_seed;
    stage->prefix = replica->prefix;
    stage->bits = replica->bits;
    stage->meta = (struct store_meta){ .generation = stage->name.generation,
                                       .applied = index,
                                       .image_index = index,
                                       .image_term = term };
    replica->stage = stage;
    list_append(&store->stages, &stage->link);
    *out = stage;
    return 0;
}

struct span store_stage_position(const struct store_stage *stage)
{
    return buf_span(&stage->position);
}

bool store_stage_is_complete(const struct store_stage *stage)
{
    return stage->is_complete;
}

/* The stage's generation becomes rubbish. */
static void drop_stage(struct store_stage *stage)
{
    struct store *store = stage->store;
    list_remove(&stage->link);
    list_remove(&stage->install_link);
    if (stage->replica->stage == stage) {
        stage->replica->stage = NULL;
    }
    store_remove(store, &stage->name, stage->bytes);
    store_remove_next(store);
    free_stage(stage);
}

void store_count_staged(struct store *store)
{
    store->due_bytes = 0;
    store->staged_bytes = store_removals_bytes(store);
    LIST_FOR(link, &store->stages)
    {
        const struct store_stage *stage = container_of(link, struct store_stage, link);
        store->due_bytes += stage->due_bytes;
        store->staged_bytes += stage->bytes;
    }
}

bool store_has_stages(const struct store *store)
{
    bool is_removing = !list_is_empty(&store->removals) && store->remove_timer.due_us == 0;
    return is_removing || !list_is_empty(&store->stages);
}

enum store_crowd store_crowd(const struct store *store)
{
    bool is_incomplete = false, has_no_room = false;
    LIST_FOR(link, &store->stages)
    {
        const struct store_stage *stage = container_of(link, struct store_stage, link);
        is_incomplete |= !stage->is_complete && !stage->is_aborted;
        has_no_room |= stage->has_no_room;
    }
    bool is_waiting = !list_is_empty(&store->removals) || !list_is_empty(&store->installs);
    bool is_above = store_total_bytes(store) > store_lines(store).stages;
    return store->is_staged_full                                         ? STORE_CROWD_ALL
           : is_incomplete && (is_above || (has_no_room && !is_waiting)) ? STORE_CROWD_SOME
                                                                         : STORE_CROWD_NONE;
}

void store_stage_abort(struct store_stage *stage)
{
    if (!stage) {
        return;
    }
    stage->done = NULL;
    stage->is_aborted = true;
    bool is_in_swap =
        stage->store->is_installing && stage->store->installs.next == &stage->install_link;
    if (!is_in_swap && !store_job_is_started(&stage->job)) {
        drop_stage(stage);
    }
}

/* True: LMDB is damaged, the node stops. */
static bool check_lmdb(struct store_stage *stage)
{
    struct store *store = stage->store;
    if (stage->is_lmdb_damaged) {
        store_condemn(store, &stage->err);
        store->config.on_failure(store->config.ctx, &stage->err);
    }
    return stage->is_lmdb_damaged;
}

/* Tells who waits. The stage may be gone afterwards. */
static void tell(struct store_stage *stage, int status)
{
    store_stage_done *done = stage->done;
    struct err err = stage->err;
    stage->done = NULL;
    if (done) {
        done(stage->ctx, status, status == 0 ? NULL : &err);
    }
}

/* --- Writing a chunk */

/* A failure of LMDB's. Damage here is the store's: a stage's own pages were written a moment ago.
 */
static int lmdb_failed(struct store_stage *stage, int rc, const char *what)
{
    int code = store_lmdb_error(&stage->err, rc, what);
    stage->is_lmdb_damaged |= code == ERR_CORRUPT;
    return code;
}

static int write_record(struct store_stage *stage, MDB_cursor *cursor, struct span key,
                        struct span value)
{
    struct record record;
    int code = record_unpack_checked(key, value, &record, NULL, &stage->err);
    if (code != 0) {
        return code;
    }
    if (stage->bits != 0 &&
        (hash_key(stage->hash_seed, key) ^ stage->prefix) >> (64 - stage->bits) != 0) {
        return err_set(&stage->err, ERR_CORRUPT, "image with a key of another partition");
    }
    MDB_val key_val = val_of(key), value_val = val_of(value);
    int rc = mdb_cursor_put(cursor, &key_val, &value_val, MDB_APPEND);
    if (rc == MDB_KEYEXIST) {
        return err_set(&stage->err, ERR_CORRUPT, "image whose keys are not in order");
    }
    if (rc != 0) {
        return lmdb_failed(stage, rc, "writing an image");
    }
    stage->meta_after.keys++;
    stage->meta_after.digest += store_record_digest(key, value);
    return 0;
}

static int write_session(struct store_stage *stage, MDB_txn *txn, struct span id, struct span value)
{
    uint8_t packed[SESSION_KEY_BYTES];
    store_name_sessions(&stage->name, packed);
    memcpy(packed + SESSION_KEY_PREFIX_BYTES, id.data, SESSION_ID_BYTES);
    MDB_val key_val = val_of(span_of(packed, sizeof packed)), value_val = val_of(value);
    int rc = mdb_put(txn, stage->sessions_dbi, &key_val, &value_val, MDB_NOOVERWRITE);
    if (rc == MDB_KEYEXIST) {
        return err_set(&stage->err, ERR_CORRUPT, "image with a session twice");
    }
    if (rc != 0) {
        return lmdb_failed(stage, rc, "writing an image's sessions");
    }
    stage->meta_after.sessions++;
    return 0;
}

static int write_items(struct store_stage *stage, MDB_txn *txn, struct store_chunk *chunk)
{
    MDB_cursor *cursor;
    int rc = mdb_cursor_open(txn, stage->data, &cursor);
    if (rc != 0) {
        return lmdb_failed(stage, rc, "writing an image");
    }
    struct span key, value;
    int code = 0, kind;
    while (code == 0 && (kind = store_chunk_next(chunk, &key, &value)) != 0) {
        if (kind < 0) {
            code = err_set(&stage->err, kind, "malformed chunk of an image");
        } else if (kind == STORE_CHUNK_RECORD) {
            code = write_record(stage, cursor, key, value);
        } else {
            code = write_session(stage, txn, key, value);
        }
    }
    mdb_cursor_close(cursor);
    return code;
}

/* Makes the database on the first chunk: a stage that never got one leaves no trace. */
static int open_data(struct store_stage *stage, MDB_txn *txn)
{
    char name[STORE_NAME_BYTES];
    store_name_database(&stage->name, name);
    if (stage->has_data) {
        return 0;
    }
    int rc = mdb_dbi_open(txn, name, MDB_CREATE, &stage->data);
    return rc == 0 ? mdb_drop(txn, stage->data, 0) : rc; /* it is empty, unless LMDB is damaged */
}

static int write_chunk(struct store_stage *stage, struct store_chunk *chunk)
{
    MDB_txn *txn;
    int rc = mdb_txn_begin(stage->lmdb, NULL, 0, &txn);
    if (rc != 0) {
        return lmdb_failed(stage, rc, "writing an image");
    }
    rc = open_data(stage, txn);
    int code = rc == 0 ? write_items(stage, txn, chunk)
                       : lmdb_failed(stage, rc, "making a database for an image");
    if (code != 0) {
        mdb_txn_abort(txn);
        return code;
    }
    rc = mdb_txn_commit(txn);
    stage->has_data |= rc == 0;
    return rc == 0 ? 0 : lmdb_failed(stage, rc, "writing an image");
}

static int check_chunk(struct store_stage *stage, const struct store_chunk *chunk)
{
    if (chunk->group != stage->name.group || chunk->index != stage->meta.applied) {
        return err_set(&stage->err, ERR_BAD_REQUEST, "chunk of another image");
    }
    if (!span_equal(chunk->position, buf_span(&stage->position))) {
        return err_set(&stage->err, ERR_BAD_REQUEST, "not the chunk that was asked for");
    }
    return 0;
}

/* On the flush thread. */
static void write_work(struct store_job *job)
{
    struct store_stage *stage = container_of(job, struct store_stage, job);
    struct store_chunk chunk;
    stage->meta_after = stage->meta;
    stage->used_bytes = 0;
    if (stage->has_no_room) {
        stage->status = err_set(&stage->err, ERR_STORE_FULL, "no room in the store for an image");
        return;
    }
    stage->status = store_chunk_unpack(blob_span(stage->chunk), &chunk, &stage->err);
    stage->status = stage->status == 0 ? check_chunk(stage, &chunk) : stage->status;
    if (stage->status == 0) {
        struct store_chunk reading = chunk;
        stage->status = write_chunk(stage, &reading);
    }
    if (stage->status == 0) {
        uint64_t pinned_bytes;
        stage->bytes_after = store_measure_database(stage->measurer, stage->data);
        if (store_measure_used(stage->measurer, UINT64_MAX, &stage->used_bytes, &pinned_bytes) !=
            0) {
            stage->used_bytes = 0; /* the next flush measures again, and says what is wrong */
        }
    }
}

/* The chunk is in: what comes next stands in it. */
static void advance(struct store_stage *stage)
{
    struct store_chunk chunk;
    int rc = store_chunk_unpack(blob_span(stage->chunk), &chunk, NULL);
    CHECK(rc == 0); /* the job has read it */
    stage->meta = stage->meta_after;
    stage->bytes = stage->bytes_after;
    stage->is_complete = chunk.is_last;
    stage->totals = chunk.totals;
    buf_clear(&stage->position);
    buf_append_span(&stage->position, chunk.next);
}

static void write_done(struct store_job *job)
{
    struct store_stage *stage = container_of(job, struct store_stage, job);
    if (check_lmdb(stage)) {
        return;
    }
    struct store *store = stage->store;
    store->stats.used_bytes = stage->used_bytes ? stage->used_bytes : store->stats.used_bytes;
    stage->due_bytes = 0;
    if (stage->status == 0) {
        advance(stage);
    }
    if (stage->is_aborted) {
        drop_stage(stage);
        return;
    }
    store_count_staged(store);
    blob_unref(stage->chunk);
    stage->chunk = NULL;
    tell(stage, stage->status);
}

void store_stage_write(struct store_stage *stage, struct blob *chunk, store_stage_done *done,
                       void *ctx)
{
    CHECK(!store_job_is_started(&stage->job) && !stage->is_complete && !stage->is_aborted);
    struct store *store = stage->store;
    uint64_t bytes = piece_bytes_max(chunk->size);
    stage->has_no_room = store_total_bytes(store) + bytes > store_lines(store).stages;
    stage->due_bytes = stage->has_no_room ? 0 : bytes;
    store_count_staged(store);
    stage->chunk = blob_ref(chunk);
    stage->done = done;
    stage->ctx = ctx;
    stage->job.work = write_work;
    stage->job.done = write_done;
    store_job_start(&stage->job, ENV_JOB_FLUSH);
}

/* --- The swap */

static int check_totals(struct store_stage *stage, MDB_txn *txn)
{
    MDB_stat stat;
    int rc = mdb_stat(txn, stage->data, &stat);
    if (rc != 0) {
        return lmdb_failed(stage, rc, "measuring an image");
    }
    const struct store_totals *totals = &stage->totals;
    if (stage->meta.keys != totals->keys || stat.ms_entries != totals->keys ||
        stage->meta.sessions != totals->sessions || stage->table->count != totals->sessions) {
        return err_set(&stage->err, ERR_CORRUPT,
                       "image of %llu keys, %llu sessions, and there should be %llu, %llu",
                       (unsigned long long)stat.ms_entries, (unsigned long long)stage->table->count,
                       (unsigned long long)totals->keys, (unsigned long long)totals->sessions);
    }
    if (stage->meta.digest != totals->digest) {
        return err_set(&stage->err, ERR_CORRUPT, "image whose digest does not match");
    }
    return 0;
}

static int swap(struct store_stage *stage, MDB_txn *txn)
{
    int code =
        store_load_sessions(txn, stage->sessions_dbi, &stage->name, stage->table, &stage->err);
    code = code == 0 ? check_totals(stage, txn) : code;
    if (code != 0) {
        return code;
    }
    stage->meta_after = stage->meta;
    stage->meta_after.time = stage->totals.time;
    stage->meta_after.has_attributes = stage->totals.has_attributes;
    int rc = store_meta_write(txn, stage->meta_dbi, stage->name.group, stage->name.replica,
                              &stage->meta_after);
    return rc == 0 ? 0 : lmdb_failed(stage, rc, "installing an image");
}

/* On the flush thread. */
static void install_work(struct store_job *job)
{
    struct store_stage *stage = container_of(job, struct store_stage, job);
    MDB_txn *txn;
    stage->replaced_bytes = store_measure_database(stage->measurer, stage->replaced);
    int rc = mdb_txn_begin(stage->lmdb, NULL, 0, &txn);
    if (rc != 0) {
        stage->status = lmdb_failed(stage, rc, "installing an image");
        return;
    }
    stage->table = MEM_TRY_NEW(env_gate(stage->store->config.env, MEM_IMAGE), struct session_table);
    if (stage->table) {
        session_table_init(stage->table);
        stage->table->gate = env_gate(stage->store->config.env, MEM_IMAGE);
        stage->status = swap(stage, txn);
    } else {
        stage->status = err_set(&stage->err, ERR_NO_MEMORY, "no memory for an image's sessions");
    }
    if (stage->status != 0) {
        mdb_txn_abort(txn);
    } else if ((rc = mdb_txn_commit(txn)) != 0) {
        stage->status = lmdb_failed(stage, rc, "installing an image");
    }
}

static struct store_stage *first_install(struct store *store)
{
    return container_of(store->installs.next, struct store_stage, install_link);
}

static void install_failed(struct store_stage *stage)
{
    struct store *store = stage->store;
    store->is_installing = false;
    list_remove(&stage->install_link);
    free_table(stage->table);
    stage->table = NULL;
    LOG_WARN(store->logger, "store: no image installed group=%u replica=%llx: %s",
             stage->name.group, (unsigned long long)stage->name.replica, stage->err.text);
    struct store_stage told = { .done = stage->done, .ctx = stage->ctx, .err = stage->err };
    int status = stage->status;
    stage->done = NULL;
    if (stage->is_aborted || status == ERR_CORRUPT || status == ERR_FORMAT) {
        drop_stage(stage);
    }
    store_install_next(store);
    tell(&told, status);
}

static void install_done(struct store_job *job)
{
    struct store_stage *stage = container_of(job, struct store_stage, job);
    struct store *store = job->store;
    CHECK(store->is_installing && first_install(store) == stage);
    if (check_lmdb(stage)) {
        return;
    }
    if (stage->status != 0) {
        install_failed(stage);
        return;
    }
    store->is_swapped = true;
    if (!store->has_lent) {
        store_install_end(store);
    }
}

/* What the replica knows is now what the image says. Its overlays' nodes stay in their generation
 * until that goes. */
static void take_over(struct store_replica *replica, struct store_stage *stage)
{
    const struct store_meta *meta = &stage->meta_after;
    CHECK(!replica->frozen); /* I8 */
    replica->dbi = stage->data;
    replica->generation = meta->generation;
    replica->applied = replica->flushed = replica->frozen_applied = meta->applied;
    replica->time = meta->time;
    replica->keys = (int64_t)meta->keys;
    replica->blind = 0;
    replica->digest = meta->digest;
    replica->has_attributes = meta->has_attributes;
    replica->image_index = meta->image_index;
    replica->image_term = meta->image_term;
    replica->active = NULL;
    replica->mark = (struct store_mark){ 0 };
    replica->mark_index = replica->mark_digest = 0;
    buf_clear(&replica->frozen_sessions);
    free_table(replica->sessions);
    replica->sessions = stage->table;
    replica->sessions->gate = env_gate(stage->store->config.env, MEM_STORE);
    replica->sessions_packed = meta->sessions;
    stage->table = NULL;
    replica->stage = NULL;
    replica->is_damaged = replica->is_stopped = replica->is_told = false;
}

void store_install_end(struct store *store)
{
    struct store_stage *stage = first_install(store);
    struct store_replica *replica = stage->replica;
    store_reader_reset(store); /* S3 */
    struct store_name old = store_replica_name(replica);
    take_over(replica, stage);
    store->is_swapped = store->is_installing = false;
    list_remove(&stage->install_link);
    list_remove(&stage->link);
    LOG_INFO(store->logger, "store: image installed group=%u replica=%llx index=%llu keys=%llu",
             replica->group, (unsigned long long)replica->id, (unsigned long long)replica->applied,
             (unsigned long long)replica->keys);
    store_remove(store, &old, stage->replaced_bytes);
    store_remove_next(store);
    store_install_next(store);
    struct store_stage told = { .done = stage->done, .ctx = stage->ctx };
    free_stage(stage);
    tell(&told, 0);
}

void store_install_next(struct store *store)
{
    if (store->frozen || store->is_installing || store->is_flush_preferred ||
        list_is_empty(&store->installs)) {
        return;
    }
    struct store_stage *stage = first_install(store);
    store->is_installing = true;
    stage->job.work = install_work;
    stage->job.done = install_done;
    store_job_start(&stage->job, ENV_JOB_FLUSH);
}

void store_stage_install(struct store_stage *stage, store_stage_done *done, void *ctx)
{
    CHECK(stage->is_complete && !stage->is_aborted && !list_is_linked(&stage->install_link));
    stage->done = done;
    stage->ctx = ctx;
    list_append(&stage->store->installs, &stage->install_link);
    store_install_next(stage->store);
}
