/* What LMDB shows is not believed: its pages have no checksums.
 *
 * Records carry checksums, so a wrong one shows. What remains is a tree that leads astray: to a
 * page that is another's, or past keys. A page says its own number and kind; every value that is
 * read is asked whether it lies in a page that is where it says it is, and ends within it.
 *
 * A walk looks at a whole database: keys must ascend all the way, so that no page is met twice, and
 * be as many as LMDB says. The digest tells records that are right by themselves but not the
 * newest. After a walk without findings the tree's pages are known to be its own: freeing them
 * frees nobody else's.
 *
 * (The format is LMDB's, mdb.c, "Common header for all page types": number 8, pad 2, flags 2, then
 * lower 2, upper 2, or for values beyond a page the count of pages 4. LMDB itself trusts what is
 * inside a page, so a page of rubbish may bring it down: docs/decisions/004-images.md.) */
#include "store/store_private.h"

#include "base/check.h"

enum {
    PAGE_HEADER_BYTES = 16,
    PAGE_FLAGS_AT = 10,
    PAGE_COUNT_AT = 12,
    PAGE_KINDS = 0x27, /* branch, leaf, overflow, dup-sort's leaf */
    PAGE_LEAF = 2,
    PAGE_OVERFLOW = 4,
};

static const uint8_t *page_of(const struct store_map *map, const void *at)
{
    return (const uint8_t *)((uintptr_t)at & ~(uintptr_t)(map->page_bytes - 1));
}

static unsigned page_kind(const uint8_t *page)
{
    return get_u16(page + PAGE_FLAGS_AT) & PAGE_KINDS;
}

int store_map_find(struct store_map *map, MDB_env *env, MDB_txn *txn, MDB_dbi dbi, MDB_val key)
{
    MDB_stat stat;
    MDB_val value;
    int rc = mdb_env_stat(env, &stat);
    rc = rc == 0 ? mdb_get(txn, dbi, &key, &value) : rc;
    if (rc != 0) {
        return rc;
    }
    *map = (struct store_map){ .env = env, .page_bytes = stat.ms_psize };
    const uint8_t *page = page_of(map, value.mv_data);
    map->begin = (uintptr_t)page - get_u64(page) * map->page_bytes;
    return page_kind(page) == PAGE_LEAF ? 0 : MDB_CORRUPTED;
}

static bool map_is_sound(const struct store_map *map, MDB_val part)
{
    MDB_envinfo info;
    mdb_env_info(map->env, &info);
    const uint8_t *at = part.mv_data, *page = page_of(map, at);
    uintptr_t end = map->begin + (info.me_last_pgno + 1) * map->page_bytes;
    if ((uintptr_t)page < map->begin || (uintptr_t)at >= end ||
        part.mv_size > end - (uintptr_t)at ||
        get_u64(page) != ((uintptr_t)page - map->begin) / map->page_bytes) {
        return false;
    }
    uint64_t pages = (PAGE_HEADER_BYTES + part.mv_size + map->page_bytes - 1) / map->page_bytes;
    return page_kind(page) == PAGE_LEAF
               ? at + part.mv_size <= page + map->page_bytes
               : page_kind(page) == PAGE_OVERFLOW && at == page + PAGE_HEADER_BYTES &&
                     get_u32(page + PAGE_COUNT_AT) == pages;
}

int store_map_check(const struct store_map *map, MDB_val part, struct err *err)
{
    return map_is_sound(map, part)
               ? 0
               : err_set(err, ERR_CORRUPT, "a page of LMDB is not what it should be");
}

void store_leaf_prefetch(struct store_leaf *leaf, const struct store_map *map, MDB_val key)
{
    enum { LINE = 64, LOWER_AT = 12, NODES_MAX = 128, NODE_HEAD_BYTES = 8 };
    const uint8_t *page = page_of(map, key.mv_data);
    if (page == leaf->fetched ||
        page != page_of(map, (const uint8_t *)key.mv_data - NODE_HEAD_BYTES)) {
        return; /* of a page LMDB has read at least the head of the key's node */
    }
    leaf->fetched = page;
    size_t used = get_u16(page + LOWER_AT);
    size_t end = used < map->page_bytes ? used : map->page_bytes;
    if (leaf->is_for_values) {
        for (size_t at = end; at < map->page_bytes; at += LINE) {
            __builtin_prefetch(page + at);
        }
        return;
    }
    end = end < PAGE_HEADER_BYTES + 2 * NODES_MAX ? end : PAGE_HEADER_BYTES + 2 * NODES_MAX;
    for (size_t at = PAGE_HEADER_BYTES; at + 2 <= end; at += 2) {
        __builtin_prefetch(page + (get_u16(page + at) & (map->page_bytes - 1)));
    }
}

int store_leaf_check(struct store_leaf *leaf, const struct store_map *map, MDB_val key,
                     MDB_val value, struct err *err)
{
    const uint8_t *page = page_of(map, key.mv_data), *end = page + map->page_bytes;
    const uint8_t *behind = (const uint8_t *)key.mv_data + key.mv_size;
    if (page == leaf->sound && behind <= end && value.mv_data == behind &&
        value.mv_size <= (size_t)(end - behind)) {
        return 0;
    }
    int rc = store_map_check(map, key, err);
    rc = rc == 0 ? store_map_check(map, value, err) : rc;
    leaf->sound = rc == 0 && page_kind(page) == PAGE_LEAF ? page : NULL;
    return rc;
}

void store_walk_fini(struct store_walk *walk)
{
    buf_fini(&walk->last);
}

static int check_pair(struct store_walk *walk, MDB_val key, MDB_val value, struct err *err)
{
    struct span key_span = span_of_val(key), packed = span_of_val(value);
    int rc = store_map_check(walk->map, key, err);
    rc = rc == 0 ? store_map_check(walk->map, value, err) : rc;
    if (rc != 0) {
        return rc;
    }
    if (walk->count > 0 && span_compare(buf_span(&walk->last), key_span) >= 0) {
        return err_set(err, ERR_CORRUPT, "keys are not in order");
    }
    walk->count++;
    if (!walk->is_for_records) {
        return 0;
    }
    struct record record;
    rc = record_unpack_checked(key_span, packed, &record, NULL, err);
    walk->digest += rc == 0 ? store_record_digest(key_span, packed) : 0;
    return rc;
}

static int check_end(const struct store_walk *walk, MDB_txn *txn, struct err *err)
{
    MDB_stat stat;
    int rc = mdb_stat(txn, walk->dbi, &stat);
    if (rc != 0) {
        return store_lmdb_error(err, rc, "walking");
    }
    return stat.ms_entries == walk->count
               ? 0
               : err_set(err, ERR_CORRUPT, "%llu keys, and there should be %llu",
                         (unsigned long long)walk->count, (unsigned long long)stat.ms_entries);
}

/* Walks with an open cursor; the last key says where to go on, in another transaction if need be.
 */
static int walk_on(struct store_walk *walk, MDB_cursor *cursor, size_t bytes_max, struct err *err)
{
    MDB_val key = val_of(buf_span(&walk->last)), value;
    bool is_first = walk->count == 0;
    size_t bytes = 0;
    int rc = mdb_cursor_get(cursor, &key, &value, is_first ? MDB_FIRST : MDB_SET_RANGE);
    if (rc == 0 && !is_first && span_equal(span_of_val(key), buf_span(&walk->last))) {
        rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
    }
    while (rc == 0) {
        int code = check_pair(walk, key, value, err);
        if (code != 0) {
            return code;
        }
        buf_clear(&walk->last);
        buf_append(&walk->last, key.mv_data, key.mv_size);
        bytes += key.mv_size + value.mv_size;
        if (bytes >= bytes_max) {
            return 1;
        }
        rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
    }
    return rc == MDB_NOTFOUND ? 0 : store_lmdb_error(err, rc, "walking");
}

int store_walk_step(struct store_walk *walk, MDB_txn *txn, size_t bytes_max, struct err *err)
{
    MDB_cursor *cursor;
    int rc = mdb_cursor_open(txn, walk->dbi, &cursor);
    if (rc != 0) {
        return store_lmdb_error(err, rc, "walking");
    }
    rc = walk_on(walk, cursor, bytes_max, err);
    mdb_cursor_close(cursor);
    return rc == 0 ? check_end(walk, txn, err) : rc;
}
