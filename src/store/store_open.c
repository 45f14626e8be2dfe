/* Opening: LMDB's environment, the store's identity, replicas and their sessions. The formats stand
 * at the head of store_private.h. */
#include "store/store_private.h"

#include <errno.h>
#include <stdio.h>

#include "base/check.h"
#include "base/hash.h"
#include "base/limits.h"

enum { IDENTITY_BYTES = 40 };
#define STORE_MAGIC "CAIRNSTO"
#define MAP_BYTES_DEFAULT (64ull << 30)
#define OVERLAY_BYTES_DEFAULT (768ull << 20)
/* A transaction of a flush ends behind the replica with which it has dirtied so many bytes, about. LMDB
 * holds them all in memory, and never gives single pages back. The next transaction but one can
 * take the pages that this one replaced, while they are still warm in the page cache: so the
 * file stays small, too. Less would cost: with 8 MiB flushing took 28 % more instructions. */
#define FLUSH_TRANSACTION_BYTES_DEFAULT (32ull << 20)

int store_lmdb_error(struct err *err, int rc, const char *what)
{
    int code = ERR_IO;
    switch (rc) {
    case MDB_MAP_FULL:
    case MDB_TXN_FULL:
    case MDB_DBS_FULL:
        code = ERR_STORE_FULL;
        break;
    case ENOSPC:
    case EDQUOT:
        code = ERR_DISK_FULL;
        break;
    case MDB_CORRUPTED:
    case MDB_PAGE_NOTFOUND:
    case MDB_INVALID:
    case MDB_CURSOR_FULL: /* the tree is deeper than any can be */
    case MDB_PAGE_FULL:
        code = ERR_CORRUPT;
        break;
    case MDB_VERSION_MISMATCH:
    case MDB_INCOMPATIBLE:
        code = ERR_FORMAT;
        break;
    case ENOMEM:
        code = ERR_NO_MEMORY;
        break;
    default:
        break;
    }
    return err_set(err, code, "%s: %s", what, mdb_strerror(rc));
}

/* --- Opening */

static void pack_identity(const struct store_config *config, uint8_t *out)
{
    memcpy(out, STORE_MAGIC, 8);
    put_u32(out + 8, STORE_FORMAT);
    memcpy(out + 16, config->cluster_id, 16);
    put_u64(out + 32, config->node_id);
    put_u32(out + 12, hash_crc32c(0, out + 16, IDENTITY_BYTES - 16));
}

static int check_identity(const struct store_config *config, struct span stored, struct err *err)
{
    uint8_t expected[IDENTITY_BYTES];
    pack_identity(config, expected);
    if (stored.size < 12 || memcmp(stored.data, STORE_MAGIC, 8) != 0) {
        return err_set(err, ERR_CORRUPT, "%s: not a store of Cairn", config->directory);
    }
    if (get_u32(stored.data + 8) != STORE_FORMAT) {
        return err_set(err, ERR_FORMAT, "%s: store of format %u, this build knows %u",
                       config->directory, get_u32(stored.data + 8), STORE_FORMAT);
    }
    if (stored.size != IDENTITY_BYTES ||
        get_u32(stored.data + 12) != hash_crc32c(0, stored.data + 16, IDENTITY_BYTES - 16)) {
        return err_set(err, ERR_CORRUPT, "%s: the store's identity is damaged", config->directory);
    }
    if (memcmp(stored.data + 16, config->cluster_id, 16) != 0) {
        return err_set(err, ERR_CLUSTER_MISMATCH, "%s: the store belongs to another cluster",
                       config->directory);
    }
    if (get_u64(stored.data + 32) != config->node_id) {
        return err_set(err, ERR_CLUSTER_MISMATCH, "%s: the store belongs to node %llu",
                       config->directory, (unsigned long long)get_u64(stored.data + 32));
    }
    return 0;
}

/* Compares the identity, or writes it into an empty store. */
static int identify(struct store *store, MDB_txn *txn, struct err *err)
{
    MDB_val key = val_of(span_of_string(STORE_IDENTITY_KEY)), value;
    int rc = mdb_get(txn, store->meta, &key, &value);
    if (rc == 0) {
        return check_identity(&store->config, span_of_val(value), err);
    }
    if (rc != MDB_NOTFOUND) {
        return store_lmdb_error(err, rc, "reading the identity");
    }
    MDB_stat stat;
    mdb_stat(txn, store->meta, &stat);
    if (stat.ms_entries != 0) {
        return err_set(err, ERR_CORRUPT, "%s: the store has lost its identity",
                       store->config.directory);
    }
    uint8_t packed[IDENTITY_BYTES];
    pack_identity(&store->config, packed);
    value = val_of(span_of(packed, sizeof packed));
    rc = mdb_put(txn, store->meta, &key, &value, 0);
    return rc == 0 ? 0 : store_lmdb_error(err, rc, "writing the identity");
}

static int open_databases(struct store *store, struct err *err)
{
    MDB_txn *txn;
    int rc = mdb_txn_begin(store->env, NULL, 0, &txn);
    if (rc != 0) {
        return store_lmdb_error(err, rc, "opening the store");
    }
    rc = mdb_dbi_open(txn, "meta", MDB_CREATE, &store->meta);
    rc = rc == 0 ? mdb_dbi_open(txn, "sessions", MDB_CREATE, &store->sessions) : rc;
    if (rc != 0) {
        mdb_txn_abort(txn);
        return store_lmdb_error(err, rc, "opening the store's databases");
    }
    rc = identify(store, txn, err);
    if (rc != 0) {
        mdb_txn_abort(txn);
        return rc;
    }
    rc = mdb_txn_commit(txn);
    return rc == 0 ? 0 : store_lmdb_error(err, rc, "opening the store");
}

/* The identity was found, so its page is what it should be. */
static int find_map(struct store *store, struct err *err)
{
    MDB_txn *txn;
    int rc = mdb_txn_begin(store->env, NULL, MDB_RDONLY, &txn);
    if (rc == 0) {
        rc = store_map_find(&store->map, store->env, txn, store->meta,
                            val_of(span_of_string(STORE_IDENTITY_KEY)));
        mdb_txn_abort(txn);
    }
    return rc == 0 ? 0 : store_lmdb_error(err, rc, "opening the store");
}

static int open_environment(struct store *store, struct err *err)
{
    const struct store_config *config = &store->config;
    int rc = mdb_env_create(&store->env);
    CHECK(rc == 0);
    rc = mdb_env_set_mapsize(store->env, config->map_bytes);
    rc = rc == 0 ? mdb_env_set_maxdbs(store->env, config->databases_max) : rc;
    unsigned flags = MDB_NOTLS | MDB_NORDAHEAD | (config->no_sync ? MDB_NOSYNC : 0);
    rc = rc == 0 ? mdb_env_open(store->env, config->directory, flags, 0600) : rc;
    if (rc != 0) {
        return store_lmdb_error(err, rc, config->directory);
    }
    return env_dir_sync(config->env, config->directory, err);
}

/* Any thread. */
int store_measure_used(MDB_txn *measurer, uint64_t pinned_from, uint64_t *used_bytes,
                       uint64_t *pinned_bytes)
{
    int rc = mdb_txn_renew(measurer);
    if (rc != 0) {
        return rc;
    }
    MDB_envinfo info;
    MDB_stat stat;
    mdb_env_info(mdb_txn_env(measurer), &info);
    mdb_env_stat(mdb_txn_env(measurer), &stat);
    uint64_t pages = info.me_last_pgno + 1, free_pages = 0, pinned_pages = 0;
    MDB_cursor *cursor;
    /* Database 0 is the free list; a record bears the number of the transaction that freed its pages, and begins with their count.
     * LMDB uses again what was freed before the oldest state that is still read. */
    rc = mdb_cursor_open(measurer, 0, &cursor);
    if (rc == 0) {
        MDB_val key, value;
        while ((rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) == 0) {
            uint64_t count = get_u64(value.mv_data);
            free_pages += count;
            pinned_pages += get_u64(key.mv_data) >= pinned_from ? count : 0;
        }
        mdb_cursor_close(cursor);
    }
    mdb_txn_reset(measurer);
    if (rc == MDB_NOTFOUND) {
        *used_bytes = (pages - (free_pages < pages ? free_pages : pages)) * stat.ms_psize;
        *pinned_bytes = pinned_pages * stat.ms_psize;
        return 0;
    }
    return rc;
}

void store_pass_transaction(MDB_env *env, MDB_dbi meta)
{
    MDB_txn *txn;
    MDB_val key = val_of(span_of_string(STORE_IDENTITY_KEY)), value;
    uint8_t identity[IDENTITY_BYTES]; /* a copy, for what LMDB lends goes with the first put */
    if (mdb_txn_begin(env, NULL, 0, &txn) != 0) {
        return;
    }
    int rc = mdb_get(txn, meta, &key, &value);
    if (rc == 0 && value.mv_size == sizeof identity) {
        memcpy(identity, value.mv_data, value.mv_size);
        value.mv_data = identity;
        rc = mdb_put(txn, meta, &key, &value, 0);
    }
    if (rc == 0) {
        (void)mdb_txn_commit(txn);
    } else {
        mdb_txn_abort(txn);
    }
}

uint64_t store_measure_database(MDB_txn *measurer, MDB_dbi dbi)
{
    MDB_stat stat;
    if (mdb_txn_renew(measurer) != 0) {
        return 0;
    }
    int rc = mdb_stat(measurer, dbi, &stat);
    mdb_txn_reset(measurer);
    return rc != 0 ? 0
                   : (stat.ms_branch_pages + stat.ms_leaf_pages + stat.ms_overflow_pages) *
                         stat.ms_psize;
}

_Static_assert(sizeof(size_t) == 8, "a free-list record's count is a size_t");

static void set_defaults(struct store_config *config)
{
    config->map_bytes = config->map_bytes ? config->map_bytes : MAP_BYTES_DEFAULT;
    config->quota_bytes = config->quota_bytes ? config->quota_bytes : config->map_bytes / 10 * 9;
    config->overlay_bytes_max =
        config->overlay_bytes_max ? config->overlay_bytes_max : OVERLAY_BYTES_DEFAULT;
    config->flush_transaction_bytes = config->flush_transaction_bytes
                                          ? config->flush_transaction_bytes
                                          : FLUSH_TRANSACTION_BYTES_DEFAULT;
    config->databases_max = config->databases_max ? config->databases_max
                                                  : LIMIT_PARTITIONS_MAX + LIMIT_STORE_STAGES + 16;
}

int store_open(const struct store_config *config, struct store **out, struct err *err)
{
    struct store *store = MEM_NEW(struct store);
    store->config = *config;
    set_defaults(&store->config);
    store->config.directory = mem_strdup(config->directory);
    store->logger = config->logger;
    struct list *lists[] = { &store->replicas, &store->jobs,     &store->images,
                             &store->stages,   &store->installs, &store->removals };
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) {
        list_init(lists[i]);
    }
    store->active = generation_new(NULL);
    CHECK(store->active);
    store->active->arena.gate = env_gate(config->env, MEM_STORE);
    store->blind_seen = store->blind_new = 1;
    store_damage_init(store);
    store->release_timer.fire = store_release_more;
    store->retry_timer.fire = store_flush_again;
    store->remove_timer.fire = store_remove_again;
    store->stats.quota_bytes = store->config.quota_bytes;
    int rc = env_dir_make(config->env, config->directory, err);
    rc = rc == 0 ? store_check_condemned(config, err) : rc;
    rc = rc == 0 ? open_environment(store, err) : rc;
    rc = rc == 0 ? open_databases(store, err) : rc;
    rc = rc == 0 ? find_map(store, err) : rc;
    if (rc == 0) {
        rc = mdb_txn_begin(store->env, NULL, MDB_RDONLY, &store->measurer);
        if (rc == 0) {
            mdb_txn_reset(store->measurer);
            rc = store_measure_used(store->measurer, UINT64_MAX, &store->stats.used_bytes,
                                    &store->stats.pinned_bytes);
        }
        rc = rc == 0 ? 0 : store_lmdb_error(err, rc, "measuring the store");
    }
    if (rc != 0) {
        store_close(store);
        return rc;
    }
    *out = store;
    return 0;
}

/* --- Opening a replica */

static int load_meta(struct store_replica *replica, MDB_txn *txn, struct err *err)
{
    struct store_meta meta = { 0 };
    int rc = store_meta_read(txn, replica->store->meta, replica->group, replica->id, &meta, err);
    if (rc != 0 && rc != ERR_NOT_FOUND) {
        return rc;
    }
    replica->applied = replica->flushed = meta.applied;
    replica->time = meta.time;
    replica->keys = (int64_t)meta.keys;
    replica->sessions_packed = meta.sessions;
    replica->digest = meta.digest;
    replica->image_index = meta.image_index;
    replica->image_term = meta.image_term;
    replica->has_attributes = meta.has_attributes;
    replica->generation = replica->generation_last = meta.generation;
    return 0;
}

/* LMDB makes a database, and its handle, only in a write transaction. */
static int open_data(struct store_replica *replica, MDB_txn *txn, struct err *err)
{
    char text[STORE_NAME_BYTES];
    struct store_name name = store_replica_name(replica);
    store_name_database(&name, text);
    int rc = mdb_dbi_open(txn, text, MDB_CREATE, &replica->dbi);
    MDB_stat stat;
    rc = rc == 0 ? mdb_stat(txn, replica->dbi, &stat) : rc;
    if (rc != 0) {
        return store_lmdb_error(err, rc, "opening a replica's database");
    }
    if ((int64_t)stat.ms_entries != replica->keys) { /* I3 */
        return err_set(err, ERR_CORRUPT, "replica holds %llu keys, and should hold %lld",
                       (unsigned long long)stat.ms_entries, (long long)replica->keys);
    }
    return 0;
}

int store_load_sessions(MDB_txn *txn, MDB_dbi sessions, const struct store_name *name,
                        struct session_table *table, struct err *err)
{
    uint8_t packed[SESSION_KEY_PREFIX_BYTES];
    store_name_sessions(name, packed);
    struct span prefix = span_of(packed, sizeof packed);
    MDB_cursor *cursor;
    int rc = mdb_cursor_open(txn, sessions, &cursor);
    if (rc != 0) {
        return store_lmdb_error(err, rc, "reading sessions");
    }
    MDB_val key = val_of(prefix), value;
    int loaded = 0;
    for (rc = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
         rc == 0 && loaded == 0 && span_has_prefix(span_of_val(key), prefix);
         rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) {
        struct span id = span_of((uint8_t *)key.mv_data + prefix.size, key.mv_size - prefix.size);
        loaded = session_table_load(table, id, span_of_val(value), err);
    }
    mdb_cursor_close(cursor);
    if (rc != 0 && rc != MDB_NOTFOUND) {
        return store_lmdb_error(err, rc, "reading sessions");
    }
    session_table_load_end(table);
    return loaded;
}

static int load_sessions(struct store_replica *replica, MDB_txn *txn, struct err *err)
{
    struct store_name name = store_replica_name(replica);
    int rc = store_load_sessions(txn, replica->store->sessions, &name, replica->sessions, err);
    if (rc == 0 && replica->sessions->count != replica->sessions_packed) {
        return err_set(err, ERR_CORRUPT, "replica holds %zu sessions, and should hold %llu",
                       replica->sessions->count, (unsigned long long)replica->sessions_packed);
    }
    return rc;
}

/* Queues a generation for removal unless it is the replica's own. */
static void found_generation(struct store_replica *replica, uint32_t generation)
{
    struct store_name name = store_replica_name(replica);
    name.generation = generation;
    if (generation != replica->generation && !replica->is_damaged) {
        store_remove(replica->store, &name, 0);
    }
    if (generation > replica->generation_last) {
        replica->generation_last = generation;
    }
}

/* Other generations' databases: their names stand in LMDB's main database. */
static int find_leftover_data(struct store_replica *replica, MDB_txn *txn)
{
    struct store_name name = store_replica_name(replica);
    char text[STORE_NAME_BYTES];
    int size =
        snprintf(text, sizeof text, "r%u.%016llx.", name.group, (unsigned long long)name.replica);
    MDB_dbi main_dbi;
    MDB_cursor *cursor;
    int rc = mdb_dbi_open(txn, NULL, 0, &main_dbi);
    rc = rc == 0 ? mdb_cursor_open(txn, main_dbi, &cursor) : rc;
    if (rc != 0) {
        return rc;
    }
    MDB_val key = { (size_t)size, text }, value;
    uint32_t generation;
    for (rc = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
         rc == 0 && store_name_parse(span_of_val(key), &name, &generation);
         rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) {
        found_generation(replica, generation);
    }
    mdb_cursor_close(cursor);
    return rc == MDB_NOTFOUND ? 0 : rc;
}

/* Other generations' sessions, of which no data may be left. */
static int find_leftover_sessions(struct store_replica *replica, MDB_txn *txn)
{
    struct store_name name = store_replica_name(replica);
    uint8_t own[SESSION_KEY_PREFIX_BYTES], at[SESSION_KEY_PREFIX_BYTES];
    store_name_sessions(&name, own);
    MDB_cursor *cursor;
    int rc = mdb_cursor_open(txn, replica->store->sessions, &cursor);
    if (rc != 0) {
        return rc;
    }
    /* From generation to generation. */
    for (uint64_t generation = 0; generation <= UINT32_MAX; generation++) {
        name.generation = (uint32_t)generation;
        store_name_sessions(&name, at);
        MDB_val key = val_of(span_of(at, sizeof at)), value;
        rc = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
        if (rc != 0 || key.mv_size != SESSION_KEY_BYTES ||
            memcmp(key.mv_data, own, SESSION_KEY_PREFIX_BYTES - 4) != 0) {
            break;
        }
        generation =
            __builtin_bswap32(get_u32((uint8_t *)key.mv_data + SESSION_KEY_PREFIX_BYTES - 4));
        found_generation(replica, (uint32_t)generation);
    }
    mdb_cursor_close(cursor);
    return rc == MDB_NOTFOUND ? 0 : rc;
}

static int find_leftovers(struct store_replica *replica, MDB_txn *txn, struct err *err)
{
    int rc = find_leftover_data(replica, txn);
    rc = rc == 0 ? find_leftover_sessions(replica, txn) : rc;
    return rc == 0 ? 0 : store_lmdb_error(err, rc, "looking for leftovers");
}

/* LMDB's transaction, and what is done within. */
static int in_transaction(struct store_replica *replica, struct err *err,
                          int (*load)(struct store_replica *replica, MDB_txn *txn, struct err *err))
{
    MDB_txn *txn;
    int rc = mdb_txn_begin(replica->store->env, NULL, 0, &txn);
    if (rc != 0) {
        return store_lmdb_error(err, rc, "opening a replica");
    }
    rc = load(replica, txn, err);
    if (rc != 0) {
        mdb_txn_abort(txn);
        return rc;
    }
    rc = mdb_txn_commit(txn);
    return rc == 0 ? 0 : store_lmdb_error(err, rc, "opening a replica");
}

static int load(struct store_replica *replica, MDB_txn *txn, struct err *err)
{
    int rc = load_meta(replica, txn, err);
    rc = rc == 0 ? open_data(replica, txn, err) : rc;
    rc = rc == 0 ? load_sessions(replica, txn, err) : rc;
    return rc == 0 ? find_leftovers(replica, txn, err) : rc;
}

/* A replica that can't be loaded is there all the same, stopped: it has no database (its own may be
 * what is damaged; LMDB isn't asked for it again), and waits for an image. What is found of other
 * generations only says which numbers not to use: if the meta record is unreadable, nobody knows
 * which one was the replica's own, and somebody may want to look. It is removed when the replica
 * is opened after an image was installed. */
static int load_replica(struct store_replica *replica, struct err *err)
{
    struct err why = { 0 };
    int rc = in_transaction(replica, &why, load);
    if (rc == 0) {
        return 0;
    }
    if (rc != ERR_CORRUPT) {
        return err_set(err, rc, "%s", why.text);
    }
    replica->dbi = 0;
    store_damage(replica, true, why.text);
    rc = in_transaction(replica, &why, find_leftovers);
    return rc == ERR_CORRUPT ? 0 : rc;
}

void store_replica_free(struct store_replica *replica)
{
    list_remove(&replica->link);
    session_table_fini(replica->sessions);
    mem_free(replica->sessions);
    buf_fini(&replica->frozen_sessions);
    mem_free(replica);
}

int store_replica_open(struct store *store, uint32_t group, uint64_t id, uint64_t hash_seed,
                       uint64_t prefix, uint32_t bits, struct store_replica **out, struct err *err)
{
    CHECK(bits <= 64);
    LIST_FOR(link, &store->replicas)
    {
        struct store_replica *other = container_of(link, struct store_replica, link);
        CHECK(other->group != group || other->id != id);
    }
    struct store_replica *replica = MEM_NEW(struct store_replica);
    replica->store = store;
    replica->group = group;
    replica->id = id;
    replica->hash_seed = hash_seed;
    replica->prefix = prefix;
    replica->bits = bits;
    replica->sessions = MEM_NEW(struct session_table);
    session_table_init(replica->sessions);
    int rc = load_replica(replica, err);
    if (rc != 0) {
        store_replica_free(replica);
        return err_prefix(err, "group %u replica %llx", group, (unsigned long long)id), rc;
    }
    replica->sessions->gate = env_gate(store->config.env, MEM_STORE);
    store_reader_reset(store); /* an older read transaction does not know the new database */
    list_append(&store->replicas, &replica->link);
    store_remove_next(store);
    *out = replica;
    return 0;
}
