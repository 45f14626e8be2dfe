/* Images: sending what LMDB holds of a replica.
 *
 * An image is a read transaction of LMDB. I3 says that such a transaction sees the replica exactly
 * as it was after the entry that its meta record names, sessions included, so there is nothing to
 * bring together. The overlay isn't part of it: the log is cut only below what was flushed, so it
 * still holds every entry that the overlay stands for, and follows the image. (An image that
 * contained the overlay would have to pin generations, or copy them.)
 *
 * A position says what comes next: nothing yet (empty), a record (1, key), a session (2, session id
 * or nothing). It is all the state that a transfer has.
 *
 * A chunk (little-endian):
 *
 *   offset size field
 *        0    8 magic "CAIRNIMG"
 *        8    4 format (1)
 *       12    4 CRC32C of all else
 *       16    8 index of the image
 *       24    4 group
 *       28    4 flags (1: the last)
 *       32    2 size of its position, 34: 2 size of the next one's, 36: 4 items
 *       40    … position
 *        …    … items: kind 2 (1 record, 2 session), key size 2, value size 4, key, value
 *        …    … next position
 *        …   40 the last only: keys 8, sessions 8, time 8, digest 8, flags 8 (1: had attributes)
 *
 * Records come in the order of their keys, then sessions in the order of their ids. The position is
 * echoed, so that a chunk that was sent twice, or late, is not taken for the one asked for. */
#include "store/store_private.h"

#include "base/check.h"
#include "base/hash.h"

enum {
    CHUNK_FORMAT = 1,
    CHUNK_HEAD_BYTES = 40,
    CHUNK_CHECKSUM_AT = 12,
    CHUNK_TOTALS_BYTES = 40,
    CHUNK_ITEM_BYTES = 8,
    CHUNK_IS_LAST = 1,
    CHUNK_HAS_ATTRIBUTES = 1,
};
#define CHUNK_MAGIC "CAIRNIMG"

enum image_state { IMAGE_IDLE, IMAGE_READING, IMAGE_CLOSED };

struct store_image {
    struct list link;              /* in store->images */
    struct store_replica *replica; /* NULL when the store was closed meanwhile */
    atomic_int state;
    struct store_name name;
    MDB_txn *txn;
    MDB_dbi data, sessions;
    const struct store_map *map;
    struct store_meta meta;
    struct mem_gate *gate; /* for a piece */
    bool is_damaged;       /* a read found that */
};

int store_snapshot(struct store_replica *replica, MDB_txn **out, struct store_meta *meta,
                   struct err *err)
{
    struct store *store = replica->store;
    MDB_txn *txn;
    int rc = mdb_txn_begin(store->env, NULL, MDB_RDONLY, &txn);
    if (rc != 0) {
        return store_lmdb_error(err, rc, "beginning to read");
    }
    rc = store_meta_read(txn, store->meta, replica->group, replica->id, meta, err);
    if (rc == ERR_NOT_FOUND) {
        err_set(err, rc, "nothing of the replica was flushed yet");
    } else if (rc == 0 && meta->generation != replica->generation) {
        rc = err_set(err, ERR_BUSY, "the replica is being replaced by an image");
    } else if (store_is_damage(rc)) {
        store_damage(replica, true, err ? err->text : "meta record");
    }
    if (rc != 0) {
        mdb_txn_abort(txn);
        return rc;
    }
    *out = txn;
    return 0;
}

int store_image_open(struct store_replica *replica, struct store_image **out, struct err *err)
{
    struct store *store = replica->store;
    if (replica->is_damaged) {
        return err_set(err, ERR_CORRUPT, "the replica is damaged");
    }
    size_t count = 0;
    LIST_FOR(link, &store->images)
    {
        count++;
    }
    if (count >= LIMIT_STORE_IMAGES) {
        return err_set(err, ERR_BUSY, "%zu images are open", count);
    }
    MDB_txn *txn;
    struct store_meta meta;
    int rc = store_snapshot(replica, &txn, &meta, err);
    if (rc != 0) {
        return rc;
    }
    struct store_image *image =
        MEM_TRY_NEW(env_gate(store->config.env, MEM_IMAGE), struct store_image);
    if (!image) {
        mdb_txn_abort(txn);
        return err_set(err, ERR_NO_MEMORY, "no memory for an image");
    }
    image->gate = env_gate(store->config.env, MEM_IMAGE);
    image->replica = replica;
    image->name = store_replica_name(replica);
    image->txn = txn;
    image->data = replica->dbi;
    image->sessions = store->sessions;
    image->map = &store->map;
    image->meta = meta;
    list_append(&store->images, &image->link);
    *out = image;
    return 0;
}

uint64_t store_image_index(const struct store_image *image)
{
    return image->meta.applied;
}

void store_image_close(struct store_image *image)
{
    if (!image) {
        return;
    }
    CHECK(atomic_load(&image->state) != IMAGE_READING);
    if (image->replica) {
        struct store *store = image->replica->store;
        if (image->is_damaged) {
            store_damage(image->replica, false, "found while an image was read");
        }
        list_remove(&image->link);
        mdb_txn_abort(image->txn);
        store_unpinned(store);
    }
    mem_free(image);
}

void store_images_detach(struct store *store)
{
    struct list *link;
    while ((link = list_take_first(&store->images)) != NULL) {
        struct store_image *image = container_of(link, struct store_image, link);
        int expected = IMAGE_IDLE;
        while (!atomic_compare_exchange_weak(&image->state, &expected, IMAGE_CLOSED)) {
            expected = IMAGE_IDLE; /* one chunk is being read: a matter of milliseconds */
        }
        mdb_txn_abort(image->txn);
        image->replica = NULL;
    }
}

uint64_t store_image_pinned_from(const struct store *store)
{
    uint64_t from = UINT64_MAX;
    LIST_FOR(link, &store->images)
    {
        const struct store_image *image = container_of(link, struct store_image, link);
        uint64_t number = mdb_txn_id(image->txn);
        from = number < from ? number : from;
    }
    return from;
}

bool store_image_uses(const struct store *store, const struct store_name *name)
{
    LIST_FOR(link, &store->images)
    {
        const struct store_image *image = container_of(link, struct store_image, link);
        if (store_name_equal(&image->name, name)) {
            return true;
        }
    }
    return false;
}

/* --- Packing a chunk */

/* A chunk in the making. */
struct packing {
    const struct store_image *image;
    struct buf *out;
    size_t begin, bytes_max;
    uint32_t items;
    uint8_t next[1 + LIMIT_KEY_BYTES];
    size_t next_size; /* 0: that was all */
};

static bool is_full(const struct packing *packing)
{
    return packing->items > 0 && packing->out->size - packing->begin >= packing->bytes_max;
}

static void set_next(struct packing *packing, enum store_chunk_kind kind, struct span key)
{
    packing->next[0] = (uint8_t)kind;
    memcpy(packing->next + 1, key.data, key.size);
    packing->next_size = 1 + key.size;
}

static int room_for(const struct packing *packing, size_t bytes, struct err *err)
{
    return buf_try_reserve(packing->out, packing->image->gate, bytes)
               ? 0
               : err_set(err, ERR_NO_MEMORY, "no memory for a piece of an image");
}

static int add_item(struct packing *packing, enum store_chunk_kind kind, struct span key,
                    struct span value, struct err *err)
{
    size_t size = CHUNK_ITEM_BYTES + key.size + value.size;
    int rc = room_for(packing, size, err);
    if (rc != 0) {
        return rc;
    }
    uint8_t *at = buf_extend(packing->out, size);
    put_u16(at, (uint16_t)kind);
    put_u16(at + 2, (uint16_t)key.size);
    put_u32(at + 4, (uint32_t)value.size);
    memcpy(at + CHUNK_ITEM_BYTES, key.data, key.size);
    memcpy(at + CHUNK_ITEM_BYTES + key.size, value.data, value.size);
    packing->items++;
    return 0;
}

/* Takes records from `from` on until the chunk is full: then next is set. */
static int pack_records(struct packing *packing, struct span from, struct err *err)
{
    MDB_cursor *cursor;
    int rc = mdb_cursor_open(packing->image->txn, packing->image->data, &cursor);
    if (rc != 0) {
        return store_lmdb_error(err, rc, "reading an image");
    }
    MDB_val key = val_of(from), value;
    int code = 0;
    for (rc = mdb_cursor_get(cursor, &key, &value, from.size > 0 ? MDB_SET_RANGE : MDB_FIRST);
         rc == 0 && code == 0; rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) {
        if (is_full(packing)) {
            set_next(packing, STORE_CHUNK_RECORD, span_of_val(key));
            break;
        }
        struct record record;
        code = store_map_check(packing->image->map, key, err);
        code = code == 0 ? store_map_check(packing->image->map, value, err) : code;
        code = code != 0 ? code
                         : record_unpack_checked(span_of_val(key), span_of_val(value), &record,
                                                 NULL, err);
        if (code == 0) {
            code = add_item(packing, STORE_CHUNK_RECORD, span_of_val(key), span_of_val(value), err);
        }
    }
    mdb_cursor_close(cursor);
    if (code != 0) {
        return code;
    }
    return rc == 0 || rc == MDB_NOTFOUND ? 0 : store_lmdb_error(err, rc, "reading an image");
}

static int pack_sessions(struct packing *packing, struct span from, struct err *err)
{
    uint8_t packed[SESSION_KEY_BYTES];
    store_name_sessions(&packing->image->name, packed);
    struct span prefix = span_of(packed, SESSION_KEY_PREFIX_BYTES);
    memcpy(packed + SESSION_KEY_PREFIX_BYTES, from.data, from.size);
    MDB_cursor *cursor;
    int rc = mdb_cursor_open(packing->image->txn, packing->image->sessions, &cursor);
    if (rc != 0) {
        return store_lmdb_error(err, rc, "reading an image's sessions");
    }
    MDB_val key = val_of(span_of(packed, SESSION_KEY_PREFIX_BYTES + from.size)), value;
    int code = 0;
    for (rc = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
         rc == 0 && key.mv_size == SESSION_KEY_BYTES && span_has_prefix(span_of_val(key), prefix);
         rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) {
        struct span id =
            span_of((uint8_t *)key.mv_data + SESSION_KEY_PREFIX_BYTES, SESSION_ID_BYTES);
        if (is_full(packing)) {
            set_next(packing, STORE_CHUNK_SESSION, id);
            break;
        }
        code = session_check(id, span_of_val(value), err);
        code =
            code == 0 ? add_item(packing, STORE_CHUNK_SESSION, id, span_of_val(value), err) : code;
        if (code != 0) {
            break;
        }
    }
    mdb_cursor_close(cursor);
    if (code != 0) {
        return code;
    }
    return rc == 0 || rc == MDB_NOTFOUND ? 0
                                         : store_lmdb_error(err, rc, "reading an image's sessions");
}

static int pack_items(struct packing *packing, struct span position, struct err *err)
{
    uint8_t kind = position.size > 0 ? position.data[0] : STORE_CHUNK_RECORD;
    struct span from = position.size > 0 ? span_of(position.data + 1, position.size - 1) : position;
    if (kind == STORE_CHUNK_RECORD && from.size <= LIMIT_KEY_BYTES) {
        int rc = pack_records(packing, from, err);
        if (rc != 0 || packing->next_size > 0) {
            return rc;
        }
        from = span_of("", 0);
    } else if (kind != STORE_CHUNK_SESSION || (from.size != 0 && from.size != SESSION_ID_BYTES)) {
        return err_set(err, ERR_BAD_REQUEST, "an image has no such position");
    }
    return pack_sessions(packing, from, err);
}

static void pack_totals(struct buf *out, const struct store_meta *meta)
{
    uint8_t *at = buf_extend(out, CHUNK_TOTALS_BYTES);
    put_u64(at, meta->keys);
    put_u64(at + 8, meta->sessions);
    put_u64(at + 16, meta->time);
    put_u64(at + 24, meta->digest);
    put_u64(at + 32, meta->has_attributes ? CHUNK_HAS_ATTRIBUTES : 0);
}

static uint32_t chunk_checksum(const uint8_t *chunk, size_t size)
{
    uint32_t crc = hash_crc32c(0, chunk, CHUNK_CHECKSUM_AT);
    return hash_crc32c(crc, chunk + CHUNK_CHECKSUM_AT + 4, size - CHUNK_CHECKSUM_AT - 4);
}

static void pack_head(const struct packing *packing, struct span position)
{
    struct buf *out = packing->out;
    uint8_t *at = out->data + packing->begin;
    memcpy(at, CHUNK_MAGIC, 8);
    put_u32(at + 8, CHUNK_FORMAT);
    put_u64(at + 16, packing->image->meta.applied);
    put_u32(at + 24, packing->image->name.group);
    put_u32(at + 28, packing->next_size == 0 ? CHUNK_IS_LAST : 0);
    put_u16(at + 32, (uint16_t)position.size);
    put_u16(at + 34, (uint16_t)packing->next_size);
    put_u32(at + 36, packing->items);
    put_u32(at + CHUNK_CHECKSUM_AT, chunk_checksum(at, out->size - packing->begin));
}

static int read_chunk(const struct store_image *image, struct span position, size_t bytes_max,
                      struct buf *out, struct err *err)
{
    struct packing packing = {
        .image = image, .out = out, .begin = out->size, .bytes_max = bytes_max
    };
    int rc = room_for(&packing, CHUNK_HEAD_BYTES + position.size, err);
    if (rc != 0) {
        return rc;
    }
    buf_extend(out, CHUNK_HEAD_BYTES);
    buf_append_span(out, position);
    rc = pack_items(&packing, position, err);
    rc = rc == 0 ? room_for(&packing, packing.next_size + CHUNK_TOTALS_BYTES, err) : rc;
    if (rc != 0) {
        out->size = packing.begin;
        return rc;
    }
    buf_append(out, packing.next, packing.next_size);
    if (packing.next_size == 0) {
        pack_totals(out, &image->meta);
    }
    pack_head(&packing, position);
    return 0;
}

int store_image_read(struct store_image *image, struct span position, size_t bytes_max,
                     struct buf *out, struct err *err)
{
    int expected = IMAGE_IDLE;
    if (!atomic_compare_exchange_strong(&image->state, &expected, IMAGE_READING)) {
        CHECK(expected == IMAGE_CLOSED); /* one read at a time */
        return err_set(err, ERR_CLOSED, "the store was closed");
    }
    int rc = read_chunk(image, position, bytes_max, out, err);
    image->is_damaged |= rc == ERR_CORRUPT || rc == ERR_FORMAT;
    atomic_store(&image->state, IMAGE_IDLE);
    return rc;
}

/* --- Unpacking */

static int malformed(struct err *err)
{
    return err_set(err, ERR_CORRUPT, "malformed chunk of an image");
}

static void unpack_totals(const uint8_t *at, struct store_totals *out)
{
    *out = (struct store_totals){ .keys = get_u64(at),
                                  .sessions = get_u64(at + 8),
                                  .time = get_u64(at + 16),
                                  .digest = get_u64(at + 24),
                                  .has_attributes = get_u64(at + 32) & CHUNK_HAS_ATTRIBUTES };
}

int store_chunk_unpack(struct span bytes, struct store_chunk *out, struct err *err)
{
    const uint8_t *at = bytes.data;
    if (bytes.size < CHUNK_HEAD_BYTES || memcmp(at, CHUNK_MAGIC, 8) != 0) {
        return malformed(err);
    }
    if (get_u32(at + CHUNK_CHECKSUM_AT) != chunk_checksum(at, bytes.size)) {
        return err_set(err, ERR_CORRUPT, "chunk of an image: checksum does not match");
    }
    if (get_u32(at + 8) != CHUNK_FORMAT) {
        return err_set(err, ERR_FORMAT, "chunk of an image of format %u", get_u32(at + 8));
    }
    struct store_chunk chunk = { .index = get_u64(at + 16),
                                 .group = get_u32(at + 24),
                                 .is_last = get_u32(at + 28) & CHUNK_IS_LAST,
                                 .items = get_u32(at + 36) };
    size_t position_size = get_u16(at + 32), next_size = get_u16(at + 34);
    size_t tail_size = next_size + (chunk.is_last ? CHUNK_TOTALS_BYTES : 0);
    if (bytes.size < CHUNK_HEAD_BYTES + position_size + tail_size ||
        chunk.is_last != (next_size == 0) || next_size > 1 + LIMIT_KEY_BYTES) {
        return malformed(err);
    }
    const uint8_t *tail = at + bytes.size - tail_size, *items = at + CHUNK_HEAD_BYTES;
    chunk.position = span_of(items, position_size);
    items += position_size;
    chunk.reader = reader_of(span_of(items, (size_t)(tail - items)));
    chunk.next = span_of(tail, next_size);
    if (chunk.is_last) {
        unpack_totals(tail, &chunk.totals);
    }
    *out = chunk;
    return 0;
}

int store_chunk_next(struct store_chunk *chunk, struct span *key, struct span *value)
{
    if (chunk->items == 0) {
        return chunk->reader.left == 0 ? 0 : ERR_CORRUPT;
    }
    chunk->items--;
    uint16_t kind = reader_u16(&chunk->reader), key_size = reader_u16(&chunk->reader);
    uint32_t value_size = reader_u32(&chunk->reader);
    *key = reader_span(&chunk->reader, key_size);
    *value = reader_span(&chunk->reader, value_size);
    bool is_known = kind == STORE_CHUNK_RECORD ? key_size > 0 && key_size <= LIMIT_KEY_BYTES
                                               : key_size == SESSION_ID_BYTES;
    if (chunk->reader.bad || kind < STORE_CHUNK_RECORD || kind > STORE_CHUNK_SESSION || !is_known) {
        return ERR_CORRUPT;
    }
    return kind;
}
