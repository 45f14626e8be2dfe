/* Digests of what replicas hold. The store's own digest (store_replica_digest) is kept
 * incrementally and is under test itself; these walk over everything. */
#include "sim/replicas.h"

#include "base/hash.h"
#include "node/partition.h"

enum {
    IMAGE_BYTES_MAX = 1 << 30, /* one chunk for all: the simulator's stores are small */
    /* of a chunk (store_image.c): magic, format and checksum are no content */
    CONTENT_AT = 16,
    FLAGS_BYTES = 8, /* at the end: whether attributes were ever seen, which is a hint only */
};

static uint64_t digest_attributes(const struct attributes *attributes)
{
    uint64_t digest = attributes->mask;
    digest = hash_u64(digest ^ attributes->mode ^ (uint64_t)attributes->flags << 32);
    digest = hash_u64(digest ^ attributes->uid ^ (uint64_t)attributes->gid << 32);
    digest = hash_u64(digest ^ attributes->mtime_us);
    return hash_u64(digest ^ attributes->expires_at_us);
}

int replicas_digest_shown(struct partition *partition, uint64_t *out, struct err *err)
{
    struct store_cursor *cursor;
    struct span key;
    struct record record;
    uint64_t digest = 1;
    int status = store_cursor_open(partition_store(partition), span_of(NULL, 0), span_of(NULL, 0),
                                   false, &cursor, err);
    if (status != 0) {
        return status;
    }
    while ((status = store_cursor_next(cursor, &key, &record, err)) == 1) {
        digest = hash_u64(digest ^ hash_bytes(key.data, key.size));
        digest = hash_u64(digest ^ hash_bytes(record.value.data, record.value.size));
        digest = hash_u64(digest ^ record.version);
        digest = hash_u64(digest ^ record.time);
        digest = hash_u64(digest ^ digest_attributes(&record.attributes));
    }
    store_cursor_close(cursor);
    *out = digest;
    return status;
}

int replicas_digest_image(struct partition *partition, uint64_t *out, struct err *err)
{
    struct store_image *image;
    int status = store_image_open(partition_store(partition), &image, err);
    if (status == ERR_NOT_FOUND) {
        *out = 0; /* nothing was ever flushed */
        return 0;
    }
    if (status != 0) {
        return status;
    }
    struct buf chunk = { 0 };
    status = store_image_read(image, span_of(NULL, 0), IMAGE_BYTES_MAX, &chunk, err);
    store_image_close(image);
    if (status == 0) {
        *out = hash_bytes(chunk.data + CONTENT_AT, chunk.size - CONTENT_AT - FLAGS_BYTES);
    }
    buf_fini(&chunk);
    return status;
}

bool replicas_is_flushed(struct partition *partition)
{
    return store_replica_flushed(partition_store(partition)) == partition_applied(partition);
}
