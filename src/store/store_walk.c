/* A walk over a generation's database that believes nothing: LMDB's pages have no checksums.
 *
 * Records carry checksums, so a wrong one shows. What remains is a tree that leads astray: to a
 * page that is another's, or an older one, or past keys. A page says its own number and kind; the
 * walk compares them with where the page lies. Keys must ascend over the whole walk, so no page is
 * met twice, and be as many as LMDB says. The digest tells old records from new ones.
 *
 * After a walk without findings the tree's pages are known to be its own: freeing them frees nobody
 * else's. (The format is LMDB's, mdb.c, "Common header for all page types": number 8, pad 2,
 * flags 2, then lower 2, upper 2, or for values beyond a page the count of pages 4.) */
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

void store_walk_fini(struct store_walk *walk)
{
    buf_fini(&walk->last);
}

/* Is what begins at `at` a page of this kind, and in its place? The first page says where the map
 * begins; if that one is wrong, the others will not agree. */
static bool is_page(struct store_walk *walk, const uint8_t *at, unsigned kind)
{
    uintptr_t begin = (uintptr_t)at - get_u64(at) * walk->page_bytes;
    walk->map = walk->map ? walk->map : begin;
    return walk->map == begin && (get_u16(at + PAGE_FLAGS_AT) & PAGE_KINDS) == kind;
}

static const uint8_t *page_of(const struct store_walk *walk, const void *at)
{
    return (const uint8_t *)((uintptr_t)at & ~(uintptr_t)(walk->page_bytes - 1));
}

/* The key stands in a leaf; a large value in pages of its own, else beside the key. */
static bool are_pages_sound(struct store_walk *walk, MDB_val key, MDB_val value)
{
    const uint8_t *leaf = page_of(walk, key.mv_data), *page = page_of(walk, value.mv_data);
    if (!is_page(walk, leaf, PAGE_LEAF)) {
        return false;
    }
    if (page == leaf) {
        return (const uint8_t *)value.mv_data + value.mv_size <= leaf + walk->page_bytes;
    }
    uint64_t pages = (PAGE_HEADER_BYTES + value.mv_size + walk->page_bytes - 1) / walk->page_bytes;
    return (const uint8_t *)value.mv_data == page + PAGE_HEADER_BYTES &&
           is_page(walk, page, PAGE_OVERFLOW) && get_u32(page + PAGE_COUNT_AT) == pages;
}

static int check_pair(struct store_walk *walk, MDB_val key, MDB_val value, struct err *err)
{
    struct span key_span = span_of_val(key), packed = span_of_val(value);
    if (!are_pages_sound(walk, key, value)) {
        return err_set(err, ERR_CORRUPT, "a page of LMDB is not what it should be");
    }
    if (walk->count > 0 && span_compare(buf_span(&walk->last), key_span) >= 0) {
        return err_set(err, ERR_CORRUPT, "keys are not in order");
    }
    walk->count++;
    if (!walk->is_for_records) {
        return 0;
    }
    struct record record;
    int rc = record_unpack_checked(key_span, packed, &record, NULL, err);
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
    MDB_stat stat;
    int rc = mdb_stat(txn, walk->dbi, &stat);
    rc = rc == 0 ? mdb_cursor_open(txn, walk->dbi, &cursor) : rc;
    if (rc != 0) {
        return store_lmdb_error(err, rc, "walking");
    }
    walk->page_bytes = stat.ms_psize;
    rc = walk_on(walk, cursor, bytes_max, err);
    mdb_cursor_close(cursor);
    return rc == 0 ? check_end(walk, txn, err) : rc;
}
