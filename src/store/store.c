/* The state machines of a node: LMDB behind the overlay.
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
#include "store/store.h"

#include <errno.h>
#include <lmdb.h>
#include <stdatomic.h>
#include <stdio.h>

#include "base/check.h"
#include "base/hash.h"
#include "base/limits.h"
#include "store/overlay.h"
#include "store/session.h"

enum {
    STORE_FORMAT = 1,
    IDENTITY_BYTES = 40,
    META_KEY_BYTES = 13,
    META_VALUE_BYTES = 40,
    META_HAS_ATTRIBUTES = 1,
    SESSION_KEY_PREFIX_BYTES = 12,
    /* How long a flush waits for room before it is tried again. */
    FLUSH_RETRY_US = 1000 * 1000,
    /* With more operations unflushed, the number of keys is estimated rather than looked up. */
    COUNT_OPERATIONS_MAX = 4096,
    /* Entries of a dropped generation that are freed in one go: some 0.3 ms. */
    RELEASE_ENTRIES = 4096,
};
#define STORE_MAGIC "CAIRNSTO"
#define MAP_BYTES_DEFAULT (64ull << 30)
#define OVERLAY_BYTES_DEFAULT (512ull << 20)

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

/* --- LMDB's errors */

static int lmdb_error(struct err *err, int rc, const char *what)
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

static MDB_val val_of(struct span span)
{
    return (MDB_val){ span.size, (void *)span.data };
}

static struct span span_of_val(MDB_val val)
{
    return span_of(val.mv_data, val.mv_size);
}

/* --- Opening */

static void put_u32_sorted(uint8_t *at, uint32_t value)
{
    put_u32(at, __builtin_bswap32(value));
}

static void put_u64_sorted(uint8_t *at, uint64_t value)
{
    put_u64(at, __builtin_bswap64(value));
}

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
    MDB_val key = val_of(span_of_string("identity")), value;
    int rc = mdb_get(txn, store->meta, &key, &value);
    if (rc == 0) {
        return check_identity(&store->config, span_of_val(value), err);
    }
    if (rc != MDB_NOTFOUND) {
        return lmdb_error(err, rc, "reading the identity");
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
    return rc == 0 ? 0 : lmdb_error(err, rc, "writing the identity");
}

static int open_databases(struct store *store, struct err *err)
{
    MDB_txn *txn;
    int rc = mdb_txn_begin(store->env, NULL, 0, &txn);
    if (rc != 0) {
        return lmdb_error(err, rc, "opening the store");
    }
    rc = mdb_dbi_open(txn, "meta", MDB_CREATE, &store->meta);
    rc = rc == 0 ? mdb_dbi_open(txn, "sessions", MDB_CREATE, &store->sessions) : rc;
    if (rc != 0) {
        mdb_txn_abort(txn);
        return lmdb_error(err, rc, "opening the store's databases");
    }
    rc = identify(store, txn, err);
    if (rc != 0) {
        mdb_txn_abort(txn);
        return rc;
    }
    rc = mdb_txn_commit(txn);
    return rc == 0 ? 0 : lmdb_error(err, rc, "opening the store");
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
        return lmdb_error(err, rc, config->directory);
    }
    return env_dir_sync(config->env, config->directory, err);
}

/* Pages in use, in bytes: all that were ever used less those on the free list. Any thread. */
static int measure_used(MDB_env *env, uint64_t *used_bytes)
{
    MDB_txn *txn;
    int rc = mdb_txn_begin(env, NULL, MDB_RDONLY, &txn);
    if (rc != 0) {
        return rc;
    }
    MDB_envinfo info;
    MDB_stat stat;
    mdb_env_info(env, &info);
    mdb_env_stat(env, &stat);
    uint64_t pages = info.me_last_pgno + 1, free_pages = 0;
    MDB_cursor *cursor;
    /* Database 0 is the free list; a record begins with the count of its pages. */
    rc = mdb_cursor_open(txn, 0, &cursor);
    if (rc == 0) {
        MDB_val key, value;
        while ((rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) == 0) {
            free_pages += get_u64(value.mv_data);
        }
        mdb_cursor_close(cursor);
    }
    mdb_txn_abort(txn);
    if (rc == MDB_NOTFOUND) {
        *used_bytes = (pages - (free_pages < pages ? free_pages : pages)) * stat.ms_psize;
        return 0;
    }
    return rc;
}
_Static_assert(sizeof(size_t) == 8, "a free-list record's count is a size_t");

static void release_more(struct env_timer *timer);
static void flush_again(struct env_timer *timer);

static void set_defaults(struct store_config *config)
{
    config->map_bytes = config->map_bytes ? config->map_bytes : MAP_BYTES_DEFAULT;
    config->quota_bytes = config->quota_bytes ? config->quota_bytes : config->map_bytes / 10 * 9;
    config->overlay_bytes_max =
        config->overlay_bytes_max ? config->overlay_bytes_max : OVERLAY_BYTES_DEFAULT;
    config->databases_max =
        config->databases_max ? config->databases_max : LIMIT_PARTITIONS_MAX + 16;
}

int store_open(const struct store_config *config, struct store **out, struct err *err)
{
    struct store *store = MEM_NEW(struct store);
    store->config = *config;
    set_defaults(&store->config);
    store->config.directory = mem_strdup(config->directory);
    store->logger = config->logger;
    list_init(&store->replicas);
    store->active = generation_new();
    store->blind_seen = store->blind_new = 1;
    store->release_timer.fire = release_more;
    store->retry_timer.fire = flush_again;
    store->stats.quota_bytes = store->config.quota_bytes;
    int rc = env_dir_make(config->env, config->directory, err);
    rc = rc == 0 ? open_environment(store, err) : rc;
    rc = rc == 0 ? open_databases(store, err) : rc;
    if (rc == 0) {
        rc = measure_used(store->env, &store->stats.used_bytes);
        rc = rc == 0 ? 0 : lmdb_error(err, rc, "measuring the store");
    }
    if (rc != 0) {
        store_close(store);
        return rc;
    }
    *out = store;
    return 0;
}

/* --- Opening a replica */

static void pack_meta_key(const struct store_replica *replica, uint8_t *out)
{
    out[0] = 'r';
    put_u32_sorted(out + 1, replica->group);
    put_u64_sorted(out + 5, replica->id);
}

static uint32_t meta_checksum(const uint8_t *key, const uint8_t *value)
{
    return hash_crc32c(hash_crc32c(0, key, META_KEY_BYTES), value + 8, META_VALUE_BYTES - 8);
}

static int load_meta(struct store_replica *replica, MDB_txn *txn, struct err *err)
{
    uint8_t packed[META_KEY_BYTES];
    pack_meta_key(replica, packed);
    MDB_val key = val_of(span_of(packed, sizeof packed)), value;
    int rc = mdb_get(txn, replica->store->meta, &key, &value);
    if (rc != 0 && rc != MDB_NOTFOUND) {
        return lmdb_error(err, rc, "reading a replica's state");
    }
    if (rc == 0) {
        const uint8_t *at = value.mv_data;
        if (value.mv_size < 4 || get_u32(at) != STORE_FORMAT) {
            return err_set(err, ERR_FORMAT, "replica's state: unknown format");
        }
        if (value.mv_size != META_VALUE_BYTES || get_u32(at + 4) != meta_checksum(packed, at)) {
            return err_set(err, ERR_CORRUPT, "replica's state: checksum does not match");
        }
        replica->applied = replica->flushed = get_u64(at + 8);
        replica->time = get_u64(at + 16);
        replica->keys = (int64_t)get_u64(at + 24);
        replica->has_attributes = get_u64(at + 32) & META_HAS_ATTRIBUTES;
    }
    MDB_stat stat;
    rc = mdb_stat(txn, replica->dbi, &stat);
    if (rc != 0) {
        return lmdb_error(err, rc, "reading a replica's size");
    }
    if ((int64_t)stat.ms_entries != replica->keys) { /* I3 */
        return err_set(err, ERR_CORRUPT, "replica holds %llu keys, and should hold %lld",
                       (unsigned long long)stat.ms_entries, (long long)replica->keys);
    }
    return 0;
}

static void pack_session_prefix(uint32_t group, uint64_t replica, uint8_t *out)
{
    put_u32_sorted(out, group);
    put_u64_sorted(out + 4, replica);
}

static int load_sessions(struct store_replica *replica, MDB_txn *txn, struct err *err)
{
    uint8_t packed[SESSION_KEY_PREFIX_BYTES];
    pack_session_prefix(replica->group, replica->id, packed);
    struct span prefix = span_of(packed, sizeof packed);
    MDB_cursor *cursor;
    int rc = mdb_cursor_open(txn, replica->store->sessions, &cursor);
    if (rc != 0) {
        return lmdb_error(err, rc, "reading sessions");
    }
    MDB_val key = val_of(prefix), value;
    int loaded = 0;
    for (rc = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
         rc == 0 && loaded == 0 && span_has_prefix(span_of_val(key), prefix);
         rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) {
        struct span id = span_of((uint8_t *)key.mv_data + prefix.size, key.mv_size - prefix.size);
        loaded = session_table_load(&replica->sessions, id, span_of_val(value), err);
    }
    mdb_cursor_close(cursor);
    if (rc != 0 && rc != MDB_NOTFOUND) {
        return lmdb_error(err, rc, "reading sessions");
    }
    session_table_load_end(&replica->sessions);
    return loaded;
}

/* Opens the replica's database in a write transaction: LMDB allows making it only there. Nothing is
 * written when it exists. */
static int load_replica(struct store_replica *replica, struct err *err)
{
    char name[32];
    snprintf(name, sizeof name, "r%u.%016llx", replica->group, (unsigned long long)replica->id);
    MDB_txn *txn;
    int rc = mdb_txn_begin(replica->store->env, NULL, 0, &txn);
    if (rc != 0) {
        return lmdb_error(err, rc, "opening a replica");
    }
    rc = mdb_dbi_open(txn, name, MDB_CREATE, &replica->dbi);
    rc = rc == 0 ? 0 : lmdb_error(err, rc, "opening a replica's database");
    rc = rc == 0 ? load_meta(replica, txn, err) : rc;
    rc = rc == 0 ? load_sessions(replica, txn, err) : rc;
    if (rc != 0) {
        mdb_txn_abort(txn);
        return rc;
    }
    rc = mdb_txn_commit(txn);
    return rc == 0 ? 0 : lmdb_error(err, rc, "opening a replica");
}

static void reader_reset(struct store *store)
{
    CHECK(store->cursors == 0);
    if (store->is_reading) {
        mdb_txn_reset(store->reader);
        store->is_reading = false;
    }
}

static void free_replica(struct store_replica *replica)
{
    list_remove(&replica->link);
    session_table_fini(&replica->sessions);
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
    session_table_init(&replica->sessions);
    int rc = load_replica(replica, err);
    if (rc != 0) {
        free_replica(replica);
        return err_prefix(err, "group %u replica %llx", group, (unsigned long long)id), rc;
    }
    reader_reset(store); /* an older read transaction does not know the new database */
    list_append(&store->replicas, &replica->link);
    *out = replica;
    return 0;
}

uint64_t store_replica_applied(const struct store_replica *replica)
{
    return replica->applied;
}

uint64_t store_replica_flushed(const struct store_replica *replica)
{
    return replica->flushed;
}

uint64_t store_replica_time(const struct store_replica *replica)
{
    return replica->time;
}

uint64_t store_replica_frozen(const struct store_replica *replica)
{
    return replica->frozen_applied;
}

/* --- Reading LMDB */

static int reader_begin(struct store *store, struct err *err)
{
    if (store->is_reading) {
        return 0;
    }
    int rc = store->reader ? mdb_txn_renew(store->reader)
                           : mdb_txn_begin(store->env, NULL, MDB_RDONLY, &store->reader);
    if (rc != 0) {
        return lmdb_error(err, rc, "beginning to read");
    }
    store->is_reading = true;
    return 0;
}

/* The packed record as flushed: 0, ERR_NOT_FOUND (without text), ERR_IO, ERR_CORRUPT. */
static int find_flushed(struct store_replica *replica, struct span key, struct span *bytes,
                        struct err *err)
{
    struct store *store = replica->store;
    int rc = reader_begin(store, err);
    if (rc != 0) {
        return rc;
    }
    MDB_val key_val = val_of(key), value;
    rc = mdb_get(store->reader, replica->dbi, &key_val, &value);
    if (rc == MDB_NOTFOUND) {
        return ERR_NOT_FOUND;
    }
    if (rc != 0) {
        return lmdb_error(err, rc, "reading a key");
    }
    *bytes = span_of_val(value);
    return 0;
}

static int report_damage(struct store_replica *replica, int rc, struct err *err)
{
    struct store *store = replica->store;
    store->stats.checksum_failures++;
    LOG_ERROR(store->logger, "store: damaged record group=%u replica=%llx: %s", replica->group,
              (unsigned long long)replica->id, err ? err->text : err_info(rc)->text);
    return rc;
}

int store_get(struct store_replica *replica, struct span key, struct record *out, struct err *err)
{
    struct store *store = replica->store;
    store->stats.gets++;
    if (key.size == 0 || key.size > LIMIT_KEY_BYTES) {
        int code = key.size == 0 ? ERR_KEY_EMPTY : ERR_KEY_TOO_LONG;
        return err_set(err, code, "%s", err_info(code)->text);
    }
    const struct overlay_node *node = overlay_find(replica->active, key);
    node = node ? node : overlay_find(replica->frozen, key);
    if (node) {
        if (overlay_entry(node)->is_deleted) {
            return err_set(err, ERR_NOT_FOUND, "no such key");
        }
        store->has_lent = true;
        overlay_record(node, out);
        return 0;
    }
    struct span bytes;
    int rc = find_flushed(replica, key, &bytes, err);
    if (rc != 0) {
        return rc == ERR_NOT_FOUND ? err_set(err, rc, "no such key") : rc;
    }
    store->has_lent = true;
    rc = record_unpack_checked(key, bytes, out, NULL, err);
    return rc == 0 ? 0 : report_damage(replica, rc, err);
}

/* How many of the active generation's blind entries are new keys. Nothing is frozen. */
static int count_new(struct store_replica *replica, int64_t *count)
{
    *count = 0;
    for (const struct overlay_node *node = overlay_first(replica->active); node;
         node = overlay_next(node)) {
        struct span bytes;
        int rc = overlay_entry(node)->is_blind
                     ? find_flushed(replica, overlay_key(node), &bytes, NULL)
                     : 0;
        if (rc != 0 && rc != ERR_NOT_FOUND) {
            return rc;
        }
        *count += rc == ERR_NOT_FOUND;
    }
    return 0;
}

uint64_t store_replica_keys(const struct store_replica *replica)
{
    struct store *store = replica->store;
    uint64_t blind = replica->blind + replica->frozen_blind;
    int64_t count = 0;
    bool is_counted = blind == 0;
    if (!is_counted && !store->frozen && store->active->operations <= COUNT_OPERATIONS_MAX) {
        is_counted = count_new((struct store_replica *)replica, &count) ==
                     0; /* begins to read, changes nothing */
    }
    if (!is_counted) {
        count = (int64_t)(blind * store->blind_new / store->blind_seen);
    }
    return replica->keys + count > 0 ? (uint64_t)(replica->keys + count) : 0;
}

/* --- Applying */

/* What is there before a command. */
struct present {
    bool exists;
    bool
        is_blind; /* nobody looked into LMDB: `exists` is unknown, and nothing below matters (I5) */
    uint64_t version, time; /* 0 when absent */
    struct attributes attributes;
    const struct overlay_entry *entry; /* when it stands in an overlay */
    struct span value;
    uint32_t
        checksum; /* of key and value; only when `entry`, or when the command needs the value */
};

static void present_from_node(const struct overlay_node *node, struct present *out)
{
    const struct overlay_entry *entry = overlay_entry(node);
    if (entry->is_deleted) {
        return;
    }
    *out = (struct present){ .exists = true,
                             .version = entry->version,
                             .time = entry->time,
                             .entry = entry,
                             .value = entry->value,
                             .checksum = entry->checksum };
    if (entry->attributes) {
        out->attributes = *entry->attributes;
    }
}

/* A plain put over a record without attributes takes nothing from it: its checksum is left alone.
 * All else is verified, because what is taken from a damaged record would make this replica differ
 * from the others. */
static int present_from_lmdb(struct store_replica *replica, const struct command *command,
                             struct present *out, struct err *err)
{
    struct span bytes;
    int rc = find_flushed(replica, command->key, &bytes, err);
    if (rc != 0) {
        return rc == ERR_NOT_FOUND ? 0 : rc;
    }
    struct record record;
    rc = record_unpack(bytes, &record, err);
    if (rc == 0 && (command->type != COMMAND_PUT || command->condition != CONDITION_NONE ||
                    record.attributes.mask != 0)) {
        rc = record_unpack_checked(command->key, bytes, &record, &out->checksum, err);
    }
    if (rc != 0) {
        return report_damage(replica, rc, err);
    }
    out->exists = true;
    out->version = record.version;
    out->time = record.time;
    out->attributes = record.attributes;
    out->value = record.value;
    return 0;
}

static int find_present(struct store_replica *replica, const struct command *command,
                        struct overlay_place *place, struct present *out, struct err *err)
{
    *out = (struct present){ 0 };
    overlay_seek(replica->active, command->key, place);
    const struct overlay_node *node =
        place->node ? place->node : overlay_find(replica->frozen, command->key);
    if (node) {
        present_from_node(node, out);
        return 0;
    }
    if (command->type == COMMAND_PUT && command->condition == CONDITION_NONE &&
        !replica->has_attributes) {
        out->is_blind = true;
        return 0;
    }
    return present_from_lmdb(replica, command, out, err);
}

static int check_condition(const struct command *command, const struct present *present)
{
    switch (command->condition) {
    case CONDITION_ABSENT:
        return present->exists ? ERR_EXISTS : 0;
    case CONDITION_PRESENT:
        return present->exists ? 0 : ERR_NOT_FOUND;
    case CONDITION_VERSION:
        return present->exists && present->version == command->condition_version
                   ? 0
                   : ERR_CONDITION_FAILED;
    default:
        return 0;
    }
}

/* Drops a blob that an overwrite replaced: at once, unless somebody may have borrowed from it
 * (I4). */
static void retire(struct store *store, struct blob *blob)
{
    if (!blob || !store->has_lent) {
        blob_unref(blob);
        return;
    }
    if (store->retired_count == store->retired_capacity) {
        store->retired_capacity = store->retired_capacity ? store->retired_capacity * 2 : 64;
        store->retired =
            mem_realloc(store->retired, store->retired_capacity * sizeof store->retired[0]);
    }
    store->retired[store->retired_count++] = blob;
}

static void set_entry(struct store_replica *replica, const struct overlay_place *place,
                      const struct command *command, const struct overlay_entry *entry,
                      const struct attributes *attributes)
{
    struct overlay_node *node =
        place->node ? place->node : overlay_insert(replica->active, place, command->key);
    struct overlay_entry set = *entry;
    set.is_blind |= overlay_entry(node)->is_blind; /* of the first put */
    retire(replica->store, overlay_set(replica->active, node, &set, attributes));
    replica->has_attributes |= attributes->mask != 0;
}

static void apply_put(struct store_replica *replica, uint64_t index, const struct command *command,
                      struct blob *payload, const struct overlay_place *place,
                      const struct present *present)
{
    struct attributes attributes = { 0 };
    if (command->attributes.mask != 0 || present->attributes.mask != 0) {
        attributes_for_put(present->exists ? &present->attributes : NULL, &command->attributes,
                           &attributes);
    }
    struct overlay_entry entry = { .blob = command->value.size > 0 ? blob_ref(payload) : NULL,
                                   .value = command->value,
                                   .version = index,
                                   .time = command->time,
                                   .checksum = command->checksum,
                                   .is_blind = present->is_blind };
    set_entry(replica, place, command, &entry, &attributes);
    replica->keys += !present->exists && !present->is_blind;
    replica->blind += present->is_blind;
}

static void apply_setattr(struct store_replica *replica, uint64_t index,
                          const struct command *command, const struct overlay_place *place,
                          const struct present *present)
{
    struct overlay_entry entry = { .version = index,
                                   .time = command->time,
                                   .checksum = present->checksum };
    if (present->value.size > 0 && present->entry) {
        entry.blob = blob_ref(present->entry->blob);
        entry.value = present->value;
    } else if (present->value.size > 0) {
        entry.blob = blob_new(present->value.size);
        memcpy(entry.blob->data, present->value.data, present->value.size);
        entry.value = blob_span(entry.blob);
    }
    struct attributes attributes;
    attributes_for_setattr(&present->attributes, present->time, &command->attributes, &attributes);
    set_entry(replica, place, command, &entry, &attributes);
}

static void apply_delete(struct store_replica *replica, uint64_t index,
                         const struct command *command, const struct overlay_place *place)
{
    struct overlay_entry entry = { .version = index, .time = command->time, .is_deleted = true };
    struct attributes none = { 0 };
    set_entry(replica, place, command, &entry, &none);
    replica->keys--;
}

static bool owns_key(const struct store_replica *replica, struct span key)
{
    return replica->bits == 0 ||
           (hash_key(replica->hash_seed, key) ^ replica->prefix) >> (64 - replica->bits) == 0;
}

/* The command itself, without its session. Changes nothing unless result->status is 0. */
static int apply_command(struct store_replica *replica, uint64_t index,
                         const struct command *command, struct blob *payload,
                         struct store_result *result, struct err *err)
{
    if (command->type == COMMAND_FENCE) {
        return 0;
    }
    if (!owns_key(replica, command->key)) {
        result->status = ERR_WRONG_PARTITION;
        result->version = 0;
        return 0;
    }
    if (!replica->active) {
        replica->active = overlay_new(replica->store->active);
    }
    struct overlay_place place;
    struct present present;
    int rc = find_present(replica, command, &place, &present, err);
    if (rc != 0) {
        return rc;
    }
    result->existed = command->type == COMMAND_DELETE &&
                      present.exists; /* else it would depend on the flushes: I5 */
    result->status = check_condition(command, &present);
    if (result->status == 0 && command->type == COMMAND_SETATTR && !present.exists) {
        result->status = ERR_NOT_FOUND;
    }
    if (result->status != 0) {
        result->version = present.version;
        return 0;
    }
    switch (command->type) {
    case COMMAND_PUT:
        apply_put(replica, index, command, payload, &place, &present);
        break;
    case COMMAND_SETATTR:
        apply_setattr(replica, index, command, &place, &present);
        break;
    default:
        result->version = present.version;
        if (present.exists) {
            apply_delete(replica, index, command, &place);
        }
        break;
    }
    return 0;
}

/* Has the command's session anything to say? True: *result is the answer, nothing is to be
 * applied. */
static bool answer_from_session(struct store_replica *replica, const struct command *command,
                                struct store_result *result)
{
    struct session_result known;
    int verdict = session_admit(&replica->sessions, command, &known);
    if (verdict == 0) {
        return false;
    }
    if (verdict < 0) {
        *result = (struct store_result){ .status = verdict, .time = command->time };
        return true;
    }
    *result = (struct store_result){ .status = known.status,
                                     .version = known.version,
                                     .time = known.time,
                                     .existed = known.existed,
                                     .repeated = true };
    return true;
}

/* A command that reached the wrong partition is not remembered: the client sends the same number to
 * the right one. */
static void remember(struct store_replica *replica, const struct command *command,
                     const struct store_result *result)
{
    if (command->number == 0 || result->status == ERR_WRONG_PARTITION) {
        return;
    }
    struct session_result session_result = { .number = command->number,
                                             .version = result->version,
                                             .time = result->time,
                                             .status = result->status,
                                             .existed = result->existed };
    session_record(&replica->sessions, command, &session_result);
}

int store_apply(struct store_replica *replica, uint64_t index, struct blob *payload,
                struct store_result *result, struct err *err)
{
    CHECK(index > replica->applied && (replica->applied == 0 || index == replica->applied + 1));
    struct store_result answer = { .version = index, .time = replica->time };
    if (!payload || payload->size == 0) {
        replica->applied = index;
        *result = answer;
        return 0;
    }
    struct command command;
    int rc = command_unpack(blob_span(payload), &command, err);
    if (rc != 0) {
        return rc;
    }
    if (command.time <= replica->time) {
        return err_set(err, ERR_CORRUPT, "entry %llu: its time is not above its predecessor's",
                       (unsigned long long)index);
    }
    answer.time = command.time;
    session_table_expire(&replica->sessions, command.time);
    if (command.number == 0 || !answer_from_session(replica, &command, &answer)) {
        rc = apply_command(replica, index, &command, payload, &answer, err);
        if (rc != 0) {
            return rc;
        }
        remember(replica, &command, &answer);
    }
    replica->applied = index;
    replica->time = command.time;
    replica->store->active->operations++;
    replica->store->stats.applied++;
    *result = answer;
    return 0;
}

static uint64_t overlay_bytes(const struct store *store)
{
    return store->active->bytes + (store->frozen ? store->frozen->bytes : 0);
}

int store_admit(const struct store *store, size_t bytes)
{
    uint64_t overlay = overlay_bytes(store), overlay_max = store->config.overlay_bytes_max;
    if (bytes == 0) {
        return overlay > overlay_max + overlay_max / 8 ? ERR_BUSY : 0;
    }
    if (store->full != 0) {
        return store->full;
    }
    uint64_t padding = store->active->padding + (store->frozen ? store->frozen->padding : 0);
    if (store->stats.used_bytes + overlay + padding + bytes + overlay_padding(bytes) >
        store->config.quota_bytes) {
        return ERR_STORE_FULL;
    }
    return overlay + bytes > overlay_max ? ERR_BUSY : 0;
}

/* --- Cursors: three ordered sources, newest first; the smallest (in reverse the greatest) key
 * wins, the newest source among equals */

enum { SOURCE_ACTIVE, SOURCE_FROZEN, SOURCE_LMDB, SOURCES };

struct store_cursor {
    struct store_replica *replica;
    bool reverse, keys_only, has_end;
    struct span end;                     /* own copy: `to`, in reverse `from` */
    const struct overlay_node *nodes[2]; /* NULL: at the end */
    MDB_cursor *lmdb;
    bool has_lmdb; /* key and data are the source's current pair */
    MDB_val key, data;
    unsigned used; /* bit per source: its current pair was delivered or hidden, move on first */
};

static int cursor_fetch(struct store_cursor *cursor, MDB_cursor_op op, struct err *err)
{
    int rc = mdb_cursor_get(cursor->lmdb, &cursor->key, &cursor->data, op);
    cursor->has_lmdb = rc == 0;
    return rc == 0 || rc == MDB_NOTFOUND ? 0 : lmdb_error(err, rc, "scanning");
}

/* Puts LMDB's cursor on the first key >= at; none: has_lmdb is false. A bound may be a byte longer
 * than any key can be. */
static int cursor_fetch_at(struct store_cursor *cursor, struct span at, struct err *err)
{
    cursor->key = val_of(span_of(at.data, at.size < LIMIT_KEY_BYTES ? at.size : LIMIT_KEY_BYTES));
    int rc = cursor_fetch(cursor, MDB_SET_RANGE, err);
    while (rc == 0 && cursor->has_lmdb && span_compare(span_of_val(cursor->key), at) < 0) {
        rc = cursor_fetch(cursor, MDB_NEXT, err);
    }
    return rc;
}

static int cursor_begin_forward(struct store_cursor *cursor, struct span from, struct err *err)
{
    const struct overlay *active = cursor->replica->active, *frozen = cursor->replica->frozen;
    if (from.size == 0) {
        cursor->nodes[SOURCE_ACTIVE] = overlay_first(active);
        cursor->nodes[SOURCE_FROZEN] = overlay_first(frozen);
        return cursor_fetch(cursor, MDB_FIRST, err);
    }
    cursor->nodes[SOURCE_ACTIVE] = overlay_at_or_after(active, from);
    cursor->nodes[SOURCE_FROZEN] = overlay_at_or_after(frozen, from);
    return cursor_fetch_at(cursor, from, err);
}

static int cursor_begin_reverse(struct store_cursor *cursor, struct span to, struct err *err)
{
    const struct overlay *active = cursor->replica->active, *frozen = cursor->replica->frozen;
    if (to.size == 0) {
        cursor->nodes[SOURCE_ACTIVE] = overlay_last(active);
        cursor->nodes[SOURCE_FROZEN] = overlay_last(frozen);
        return cursor_fetch(cursor, MDB_LAST, err);
    }
    cursor->nodes[SOURCE_ACTIVE] = overlay_before(active, to);
    cursor->nodes[SOURCE_FROZEN] = overlay_before(frozen, to);
    int rc = cursor_fetch_at(cursor, to, err);
    return rc == 0 ? cursor_fetch(cursor, cursor->has_lmdb ? MDB_PREV : MDB_LAST, err) : rc;
}

int store_cursor_open(struct store_replica *replica, struct span from, struct span to, bool reverse,
                      struct store_cursor **out, struct err *err)
{
    struct store *store = replica->store;
    store->stats.scans++;
    int rc = reader_begin(store, err);
    if (rc != 0) {
        return rc;
    }
    struct store_cursor *cursor = MEM_NEW(struct store_cursor);
    cursor->replica = replica;
    cursor->reverse = reverse;
    struct span end = reverse ? from : to;
    cursor->has_end = end.size > 0;
    cursor->end = span_of(mem_dup(end.data, end.size), end.size);
    rc = mdb_cursor_open(store->reader, replica->dbi, &cursor->lmdb);
    if (rc != 0) {
        mem_free((void *)cursor->end.data);
        mem_free(cursor);
        return lmdb_error(err, rc, "beginning a scan");
    }
    store->cursors++;
    store->has_lent = true;
    rc = reverse ? cursor_begin_reverse(cursor, to, err) : cursor_begin_forward(cursor, from, err);
    if (rc != 0) {
        store_cursor_close(cursor);
        return rc;
    }
    *out = cursor;
    return 0;
}

void store_cursor_keys_only(struct store_cursor *cursor)
{
    cursor->keys_only = true;
}

void store_cursor_close(struct store_cursor *cursor)
{
    if (!cursor) {
        return;
    }
    CHECK(cursor->replica->store->cursors > 0);
    cursor->replica->store->cursors--;
    mdb_cursor_close(cursor->lmdb);
    mem_free((void *)cursor->end.data);
    mem_free(cursor);
}

static int cursor_advance(struct store_cursor *cursor, struct err *err)
{
    for (unsigned source = 0; source < SOURCE_LMDB; source++) {
        if (cursor->used & 1u << source) {
            const struct overlay_node *node = cursor->nodes[source];
            cursor->nodes[source] = cursor->reverse ? overlay_previous(node) : overlay_next(node);
        }
    }
    int rc = cursor->used & 1u << SOURCE_LMDB
                 ? cursor_fetch(cursor, cursor->reverse ? MDB_PREV : MDB_NEXT, err)
                 : 0;
    cursor->used = 0;
    return rc;
}

static bool cursor_source_key(const struct store_cursor *cursor, unsigned source, struct span *key)
{
    if (source == SOURCE_LMDB) {
        *key = span_of_val(cursor->key);
        return cursor->has_lmdb;
    }
    if (!cursor->nodes[source]) {
        return false;
    }
    *key = overlay_key(cursor->nodes[source]);
    return true;
}

/* The source whose key is next, SOURCES at the end; marks all sources that stand on that key as
 * used. */
static unsigned cursor_choose(struct store_cursor *cursor, struct span *best)
{
    unsigned chosen = SOURCES;
    for (unsigned source = 0; source < SOURCES; source++) {
        struct span key;
        if (!cursor_source_key(cursor, source, &key)) {
            continue;
        }
        int order = chosen == SOURCES ? -1 : span_compare(key, *best);
        order = cursor->reverse && chosen != SOURCES ? -order : order;
        if (order < 0) {
            chosen = source;
            *best = key;
            cursor->used = 0;
        }
        cursor->used |= order <= 0 ? 1u << source : 0;
    }
    return chosen;
}

static bool cursor_is_beyond(const struct store_cursor *cursor, struct span key)
{
    if (!cursor->has_end) {
        return false;
    }
    int order = span_compare(key, cursor->end);
    return cursor->reverse ? order < 0 : order >= 0;
}

int store_cursor_next(struct store_cursor *cursor, struct span *key, struct record *record,
                      struct err *err)
{
    for (;;) {
        int rc = cursor_advance(cursor, err);
        if (rc != 0) {
            return rc;
        }
        unsigned source = cursor_choose(cursor, key);
        if (source == SOURCES || cursor_is_beyond(cursor, *key)) {
            cursor->used = 0; /* stays at the end */
            return 0;
        }
        if (source == SOURCE_LMDB) {
            struct span bytes = span_of_val(cursor->data);
            rc = cursor->keys_only ? record_unpack(bytes, record, err)
                                   : record_unpack_checked(*key, bytes, record, NULL, err);
            return rc == 0 ? 1 : report_damage(cursor->replica, rc, err);
        }
        if (!overlay_entry(cursor->nodes[source])->is_deleted) {
            overlay_record(cursor->nodes[source], record);
            return 1;
        }
    }
}

/* --- Flushing */

enum flush_state { FLUSH_IDLE, FLUSH_QUEUED, FLUSH_RUNNING, FLUSH_ENDED, FLUSH_CANCELLED };

struct flush_item {
    struct store_replica *owner; /* for the loop, not for the job */
    MDB_dbi dbi;
    uint32_t group;
    uint64_t replica;
    const struct overlay *overlay; /* NULL: no keys changed */
    struct span sessions;          /* packed changes */
    uint8_t meta_key[META_KEY_BYTES];
    uint8_t meta_value[META_VALUE_BYTES]; /* keys and checksum are filled in by the job */
    uint64_t keys;                        /* result: all keys of the replica */
    bool is_written;                      /* in a transaction of its own, by an earlier try */
};

/* What the job gets; immutable for the loop while it runs. */
struct flush {
    struct env_job job;
    atomic_int state;
    struct store *store; /* the loop's; NULL when the store was closed meanwhile */
    struct env *env;     /* for its monotonic clock */
    MDB_env *lmdb;
    MDB_dbi meta, sessions;
    struct flush_item *items;
    size_t count;
    bool is_piecewise; /* one transaction per replica */
    uint64_t bytes;    /* what it has to write, about */
    /* Results. */
    int status;
    struct err err;
    uint64_t used_bytes, duration_us;
};

static int write_overlay(MDB_txn *txn, const struct flush_item *item)
{
    MDB_cursor *cursor;
    int rc = mdb_cursor_open(txn, item->dbi, &cursor);
    if (rc != 0) {
        return rc;
    }
    for (const struct overlay_node *node = overlay_first(item->overlay); node && rc == 0;
         node = overlay_next(node)) {
        MDB_val key = val_of(overlay_key(node)), value;
        if (overlay_entry(node)->is_deleted) {
            rc = mdb_cursor_get(cursor, &key, &value, MDB_SET);
            rc = rc == 0 ? mdb_cursor_del(cursor, 0) : rc;
            rc = rc == MDB_NOTFOUND ? 0 : rc; /* made and deleted within the generation */
            continue;
        }
        struct record record;
        overlay_record(node, &record);
        value = (MDB_val){ record_packed_size(&record), NULL };
        rc = mdb_cursor_put(cursor, &key, &value, MDB_RESERVE);
        if (rc == 0) {
            record_pack(&record, overlay_entry(node)->checksum, value.mv_data);
        }
    }
    mdb_cursor_close(cursor);
    return rc;
}

static int write_sessions(MDB_txn *txn, MDB_dbi sessions, const struct flush_item *item)
{
    uint8_t packed[SESSION_KEY_PREFIX_BYTES + SESSION_ID_BYTES];
    pack_session_prefix(item->group, item->replica, packed);
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
    int rc = item->overlay ? write_overlay(txn, item) : 0;
    rc = rc == 0 ? write_sessions(txn, flush->sessions, item) : rc;
    MDB_stat stat;
    rc = rc == 0 ? mdb_stat(txn, item->dbi, &stat) : rc;
    if (rc != 0) {
        return rc;
    }
    item->keys = stat.ms_entries;
    put_u64(item->meta_value + 24, item->keys);
    put_u32(item->meta_value + 4, meta_checksum(item->meta_key, item->meta_value));
    MDB_val key = val_of(span_of(item->meta_key, META_KEY_BYTES));
    MDB_val value = val_of(span_of(item->meta_value, META_VALUE_BYTES));
    return mdb_put(txn, flush->meta, &key, &value, 0);
}

/* Writes items [first, end) in one transaction. */
static int write_items(struct flush *flush, size_t first, size_t end)
{
    MDB_txn *txn;
    int rc = mdb_txn_begin(flush->lmdb, NULL, 0, &txn);
    if (rc != 0) {
        return rc;
    }
    for (size_t i = first; i < end && rc == 0; i++) {
        rc = write_item(flush, txn, &flush->items[i]);
    }
    if (rc != 0) {
        mdb_txn_abort(txn);
        return rc;
    }
    rc = mdb_txn_commit(txn);
    for (size_t i = first; i < end && rc == 0; i++) {
        flush->items[i].is_written = true;
    }
    return rc;
}

static bool is_out_of_room(int code)
{
    return code == ERR_STORE_FULL || code == ERR_DISK_FULL;
}

/* Gives every replica its own transaction: what one needs to copy, the next can use again. Goes on
 * behind a replica for which there is no room. */
static int write_piecewise(struct flush *flush)
{
    int first_code = 0;
    for (size_t i = 0; i < flush->count; i++) {
        struct err err;
        int rc = flush->items[i].is_written ? 0 : write_items(flush, i, i + 1);
        if (rc == 0) {
            continue;
        }
        int code = lmdb_error(&err, rc, "flushing a replica");
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

static int write_all(struct flush *flush)
{
    if (flush->is_piecewise) {
        return write_piecewise(flush);
    }
    int rc = flush->count > 0 ? write_items(flush, 0, flush->count) : 0;
    return rc == 0 ? 0 : lmdb_error(&flush->err, rc, "flushing");
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
        env_dir_room(flush->env, path, &room, NULL) != 0 || room >= 2 * flush->bytes + BESIDES) {
        return flush->status;
    }
    return err_set(&flush->err, ERR_DISK_FULL, "flushing: a write was cut short");
}

/* On the flush thread. */
static void flush_work(struct env_job *job)
{
    struct flush *flush = container_of(job, struct flush, job);
    int expected = FLUSH_QUEUED;
    if (!atomic_compare_exchange_strong(&flush->state, &expected, FLUSH_RUNNING)) {
        return; /* the store was closed */
    }
    uint64_t begin_us = env_now_us(flush->env);
    flush->status = write_all(flush);
    flush->status = explain_failure(flush);
    int rc = measure_used(flush->lmdb, &flush->used_bytes);
    if (rc != 0 && flush->status == 0) {
        flush->status = lmdb_error(&flush->err, rc, "measuring the store");
    }
    flush->duration_us = env_now_us(flush->env) - begin_us;
    atomic_store(&flush->state, FLUSH_ENDED);
}

static void free_flush(struct flush *flush)
{
    if (flush) {
        mem_free(flush->items);
        mem_free(flush);
    }
}

static void release_more(struct env_timer *timer)
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

/* The flush has counted: blind entries are no riddle any more (I5). */
static void settle_keys(struct store *store)
{
    uint64_t seen = 0, new = 0;
    for (size_t i = 0; i < store->flush->count; i++) {
        const struct flush_item *item = &store->flush->items[i];
        struct store_replica *replica = item->owner;
        int64_t found = (int64_t)item->keys - replica->frozen_keys;
        /* LMDB held what the meta record says when it was opened (I3), and we counted since. */
        CHECK(found >= 0 && (uint64_t)found <= replica->frozen_blind);
        replica->keys += found;
        seen += replica->frozen_blind;
        new += (uint64_t)found;
        replica->frozen_blind = 0;
    }
    if (seen > 0) {
        store->blind_seen = seen;
        store->blind_new = new;
    }
}

/* The frozen generation is in LMDB: drops it when nobody can miss it (I2). */
static void drop_frozen(struct store *store)
{
    reader_reset(store);
    settle_keys(store);
    LIST_FOR(link, &store->replicas)
    {
        struct store_replica *replica = container_of(link, struct store_replica, link);
        replica->frozen = NULL;
        replica->flushed = replica->frozen_applied;
        buf_fini(&replica->frozen_sessions);
    }
    release_generation(store, store->frozen);
    store->frozen = NULL;
    store->is_committed = false;
    free_flush(store->flush);
    store->flush = NULL;
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
    if (store->full != 0) {
        LOG_INFO(store->logger, "store: there is room again");
        store->full = 0;
    }
    store->is_committed = true;
    if (!store->has_lent) {
        drop_frozen(store);
    }
}

static void flush_failed(struct store *store)
{
    struct flush *flush = store->flush;
    if (!is_out_of_room(flush->status)) {
        LOG_ERROR(store->logger, "store: flush failed: %s", flush->err.text);
        store->config.on_failure(store->config.ctx, &flush->err);
        return;
    }
    if (store->full == 0) {
        LOG_WARN(store->logger, "store: no room for a flush, writes are refused: %s",
                 flush->err.text);
    }
    store->full = flush->status;
    flush->is_piecewise = true;
    env_timer_start(store->config.env, &store->retry_timer, FLUSH_RETRY_US);
}

static void flush_done(struct env_job *job)
{
    struct flush *flush = container_of(job, struct flush, job);
    struct store *store = flush->store;
    if (!store) {
        free_flush(flush);
        return;
    }
    CHECK(store->flush == flush && atomic_load(&flush->state) == FLUSH_ENDED);
    atomic_store(&flush->state, FLUSH_IDLE);
    store->stats.used_bytes = flush->used_bytes ? flush->used_bytes : store->stats.used_bytes;
    if (flush->status == 0) {
        flush_succeeded(store);
    } else {
        flush_failed(store);
    }
}

static void flush_queue(struct flush *flush)
{
    flush->status = 0;
    flush->err = (struct err){ 0 };
    atomic_store(&flush->state, FLUSH_QUEUED);
    env_job_start(flush->env, ENV_JOB_FLUSH, &flush->job);
}

static void flush_again(struct env_timer *timer)
{
    struct store *store = container_of(timer, struct store, retry_timer);
    flush_queue(store->flush);
}

void store_freeze(struct store *store)
{
    CHECK(store->frozen == NULL && store->flush == NULL); /* I1 */
    store->frozen = store->active;
    store->active = generation_new();
    LIST_FOR(link, &store->replicas)
    {
        struct store_replica *replica = container_of(link, struct store_replica, link);
        replica->frozen = replica->active;
        replica->active = NULL;
        replica->frozen_applied = replica->applied;
        replica->frozen_time = replica->time;
        replica->frozen_keys = replica->keys;
        replica->frozen_blind = replica->blind;
        replica->frozen_has_attributes = replica->has_attributes;
        replica->blind = 0;
        session_table_pack(&replica->sessions, &replica->frozen_sessions);
    }
}

static void make_item(struct store_replica *replica, struct flush_item *item)
{
    item->owner = replica;
    item->dbi = replica->dbi;
    item->group = replica->group;
    item->replica = replica->id;
    item->overlay = replica->frozen;
    item->sessions = buf_span(&replica->frozen_sessions);
    pack_meta_key(replica, item->meta_key);
    put_u32(item->meta_value, STORE_FORMAT);
    put_u64(item->meta_value + 8, replica->frozen_applied);
    put_u64(item->meta_value + 16, replica->frozen_time);
    put_u64(item->meta_value + 32, replica->frozen_has_attributes ? META_HAS_ATTRIBUTES : 0);
}

void store_flush_start(struct store *store)
{
    CHECK(store->frozen != NULL && store->flush == NULL);
    struct flush *flush = MEM_NEW(struct flush);
    flush->job.work = flush_work;
    flush->job.done = flush_done;
    flush->store = store;
    flush->env = store->config.env;
    flush->lmdb = store->env;
    flush->meta = store->meta;
    flush->sessions = store->sessions;
    flush->bytes = store->frozen->bytes;
    size_t count = 0;
    LIST_FOR(link, &store->replicas)
    {
        count++;
    }
    flush->items = mem_zalloc(count * sizeof flush->items[0]);
    LIST_FOR(link, &store->replicas)
    {
        struct store_replica *replica = container_of(link, struct store_replica, link);
        if (replica->frozen_applied > replica->flushed) {
            make_item(replica, &flush->items[flush->count++]);
        }
    }
    store->flush = flush;
    flush_queue(flush);
}

/* --- Turns, numbers, the end */

/* While no flush is on its way the read transaction may stay: it pins nothing as long as nobody
 * commits, and a renewed one has to find every replica's root again (0.2 µs each). */
void store_turn_end(struct store *store)
{
    CHECK(store->cursors == 0);
    if (store->flush) {
        reader_reset(store);
    }
    store->has_lent = false;
    for (size_t i = 0; i < store->retired_count; i++) {
        blob_unref(store->retired[i]);
    }
    store->retired_count = 0;
    if (store->is_committed) {
        drop_frozen(store);
    }
}

uint64_t store_active_bytes(const struct store *store)
{
    return store->active->bytes;
}

uint64_t store_active_operations(const struct store *store)
{
    return store->active->operations;
}

bool store_is_flushing(const struct store *store)
{
    return store->frozen != NULL;
}

const struct store_stats *store_stats(struct store *store)
{
    store->stats.keys = store->stats.sessions = 0;
    LIST_FOR(link, &store->replicas)
    {
        const struct store_replica *replica = container_of(link, struct store_replica, link);
        store->stats.keys += store_replica_keys(replica);
        store->stats.sessions += replica->sessions.count;
    }
    store->stats.overlay_bytes = overlay_bytes(store);
    return &store->stats;
}

/* Lets go of the flush: what hasn't begun never will, what is being written is waited for. LMDB's
 * own writer lock is what we wait on: it is held for nearly all of the job. */
static void flush_detach(struct store *store)
{
    struct flush *flush = store->flush;
    if (!flush) {
        return;
    }
    store->flush = NULL;
    flush->store = NULL;
    if (atomic_load(&flush->state) == FLUSH_IDLE) {
        free_flush(flush);
        return;
    }
    int expected = FLUSH_QUEUED;
    if (atomic_compare_exchange_strong(&flush->state, &expected, FLUSH_CANCELLED)) {
        return; /* flush_done frees it */
    }
    while (atomic_load(&flush->state) != FLUSH_ENDED) {
        MDB_txn *txn;
        if (mdb_txn_begin(store->env, NULL, 0, &txn) == 0) {
            mdb_txn_abort(txn);
        }
    }
}

void store_close(struct store *store)
{
    if (!store) {
        return;
    }
    CHECK(store->cursors == 0);
    env_timer_stop(store->config.env, &store->retry_timer);
    env_timer_stop(store->config.env, &store->release_timer);
    flush_detach(store);
    if (store->reader) {
        mdb_txn_abort(store->reader);
    }
    for (size_t i = 0; i < store->retired_count; i++) {
        blob_unref(store->retired[i]);
    }
    mem_free(store->retired);
    while (!list_is_empty(&store->replicas)) {
        free_replica(container_of(store->replicas.next, struct store_replica, link));
    }
    generation_free(store->active);
    generation_free(store->frozen);
    generation_free(store->released);
    if (store->env) {
        mdb_env_close(store->env);
    }
    mem_free((void *)store->config.directory);
    mem_free(store);
}
