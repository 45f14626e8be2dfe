/* Cursors: three ordered sources, newest first; the smallest (in reverse the greatest) key wins,
 * the newest source among equals.
 *
 * LMDB is asked for a pair while the one before is still to be delivered: a scan merges many cursors
 * and comes back to this one later, and the processor need not wait for LMDB's pages until then. */
#include "store/store_private.h"

#include "base/check.h"
#include "base/limits.h"

enum { SOURCE_ACTIVE, SOURCE_FROZEN, SOURCE_LMDB, SOURCES };

struct store_cursor {
    struct store_replica *replica;
    bool reverse, keys_only, has_end;
    struct span end;                     /* `to`, in reverse `from`: end_bytes */
    const struct overlay_node *nodes[2]; /* NULL: at the end */
    MDB_cursor *lmdb;
    bool has_lmdb; /* key and data are the source's current pair */
    MDB_val key, data;
    bool is_ahead; /* LMDB's cursor stands on the pair behind it, or at the end: ahead_rc */
    int ahead_rc;
    MDB_val ahead_key, ahead_data;
    struct store_leaf leaf;
    unsigned used; /* bit per source: its current pair was delivered or hidden, move on first */
    uint8_t end_bytes[];
};

/* What LMDB said becomes the current pair. */
static int cursor_judge(struct store_cursor *cursor, int rc, struct err *err)
{
    cursor->has_lmdb = rc == 0;
    if (rc == MDB_NOTFOUND) {
        return 0;
    }
    const struct store_map *map = &cursor->replica->store->map;
    int code = rc == 0 ? store_leaf_check(&cursor->leaf, map, cursor->key, cursor->data, err)
                       : store_lmdb_error(err, rc, "scanning");
    return code == 0 ? 0 : store_read_failed(cursor->replica, code, true, err);
}

static int cursor_fetch(struct store_cursor *cursor, MDB_cursor_op op, struct err *err)
{
    return cursor_judge(cursor, mdb_cursor_get(cursor->lmdb, &cursor->key, &cursor->data, op), err);
}

/* Moves on, and LMDB's cursor one further. */
static int cursor_step(struct store_cursor *cursor, struct err *err)
{
    MDB_cursor_op op = cursor->reverse ? MDB_PREV : MDB_NEXT;
    int rc = cursor->is_ahead ? cursor->ahead_rc
                              : mdb_cursor_get(cursor->lmdb, &cursor->key, &cursor->data, op);
    if (cursor->is_ahead) {
        cursor->key = cursor->ahead_key;
        cursor->data = cursor->ahead_data;
    }
    cursor->is_ahead = rc == 0;
    if (rc == 0) {
        cursor->ahead_rc =
            mdb_cursor_get(cursor->lmdb, &cursor->ahead_key, &cursor->ahead_data, op);
        if (cursor->ahead_rc == 0) {
            store_leaf_prefetch(&cursor->leaf, &cursor->replica->store->map, cursor->ahead_key);
        }
    }
    return cursor_judge(cursor, rc, err);
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
    int rc = store_refuse_stopped(replica, err);
    rc = rc == 0 ? store_reader_begin(store, err) : rc;
    if (rc != 0) {
        return rc;
    }
    struct span end = reverse ? from : to;
    struct store_cursor *cursor =
        mem_try_zalloc(env_gate(store->config.env, MEM_SCAN), sizeof *cursor + end.size);
    if (!cursor) {
        return err_set(err, ERR_NO_MEMORY, "no memory for a scan");
    }
    cursor->replica = replica;
    cursor->reverse = reverse;
    cursor->leaf.is_for_values = true;
    cursor->has_end = end.size > 0;
    if (end.size > 0) {
        memcpy(cursor->end_bytes, end.data, end.size);
    }
    cursor->end = span_of(cursor->end_bytes, end.size);
    rc = mdb_cursor_open(store->reader, replica->dbi, &cursor->lmdb);
    if (rc != 0) {
        mem_free(cursor);
        return store_lmdb_error(err, rc, "beginning a scan");
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
    cursor->leaf.is_for_values = false;
}

void store_cursor_close(struct store_cursor *cursor)
{
    if (!cursor) {
        return;
    }
    CHECK(cursor->replica->store->cursors > 0);
    cursor->replica->store->cursors--;
    mdb_cursor_close(cursor->lmdb);
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
    int rc = cursor->used & 1u << SOURCE_LMDB ? cursor_step(cursor, err) : 0;
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
    if (cursor->has_lmdb && !cursor->nodes[SOURCE_ACTIVE] && !cursor->nodes[SOURCE_FROZEN]) {
        *best = span_of_val(cursor->key); /* nearly always: most is flushed */
        cursor->used = 1u << SOURCE_LMDB;
        return SOURCE_LMDB;
    }
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

static int unpack_unchecked(struct span key, struct span bytes, struct record *record,
                            struct err *err)
{
    if (key.size == 0 || key.size > LIMIT_KEY_BYTES) {
        return err_set(err, ERR_CORRUPT, "a key of %zu bytes", key.size);
    }
    return record ? record_unpack(bytes, record, err) : 0;
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
            rc = cursor->keys_only ? unpack_unchecked(*key, bytes, record, err)
                                   : record_unpack_checked(*key, bytes, record, NULL, err);
            return rc == 0 ? 1 : store_read_failed(cursor->replica, rc, false, err);
        }
        if (!overlay_entry(cursor->nodes[source])->is_deleted) {
            if (record) {
                overlay_record(cursor->nodes[source], record);
            }
            return 1;
        }
    }
}
