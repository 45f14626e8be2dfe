/* The record's bytes in LMDB.
 *
 *   offset size field
 *        0    1 kind (1: the value stands inline, its value id is 0 and not stored; others are
 *               reserved for values in chunks)
 *        1    1 format version (RECORD_FORMAT)
 *        2    1 attribute mask: which of the optional fields follow
 *        3    1 zero
 *        4    4 checksum: CRC32C over key, value, then this head without the checksum
 *        8    8 version
 *       16    8 time (HLC)
 *       24    … mode 4, uid 4, gid 4, flags 4, mtime 8, expiry 8: each only if the mask names it
 *        …      value, to the end
 *
 * Most records have no attributes, and one head is written per key and flush: hence the optional
 * fields. The checksum begins with key and value, because a command brings that part ready-made:
 * packing a record doesn't read its value for it. */
#include "store/record.h"

#include "base/check.h"
#include "base/hash.h"
#include "base/hlc.h"

enum {
    RECORD_KIND_INLINE = 1,
    RECORD_FORMAT = 1,
    RECORD_CHECKSUM_OFFSET = 4,
    RECORD_HEAD_BYTES = 24,
};

uint32_t record_content_checksum(struct span key, struct span value)
{
    return hash_crc32c(hash_crc32c(0, key.data, key.size), value.data, value.size);
}

/* head, four times 4, twice 8 */
_Static_assert(RECORD_HEAD_BYTES_MAX == RECORD_HEAD_BYTES + 16 + 16, "all attributes");

static size_t head_size(uint32_t mask)
{
    return RECORD_HEAD_BYTES +
           4 * (size_t)__builtin_popcount(
                   mask & (ATTRIBUTE_MODE | ATTRIBUTE_UID | ATTRIBUTE_GID | ATTRIBUTE_FLAGS)) +
           8 * (size_t)__builtin_popcount(mask & (ATTRIBUTE_MTIME | ATTRIBUTE_EXPIRES));
}

static uint32_t head_checksum(uint32_t content_checksum, const uint8_t *head, size_t size)
{
    uint32_t crc = hash_crc32c(content_checksum, head, RECORD_CHECKSUM_OFFSET);
    return hash_crc32c(crc, head + RECORD_CHECKSUM_OFFSET + 4, size - RECORD_CHECKSUM_OFFSET - 4);
}

size_t record_packed_size(const struct record *record)
{
    return head_size(record->attributes.mask) + record->value.size;
}

static uint8_t *pack_u32_if(uint8_t *at, bool present, uint32_t value)
{
    if (!present) {
        return at;
    }
    put_u32(at, value);
    return at + 4;
}

static uint8_t *pack_u64_if(uint8_t *at, bool present, uint64_t value)
{
    if (!present) {
        return at;
    }
    put_u64(at, value);
    return at + 8;
}

void record_pack(const struct record *record, uint32_t content_checksum, void *out)
{
    const struct attributes *attributes = &record->attributes;
    uint32_t mask = attributes->mask;
    CHECK((mask & ~(uint32_t)ATTRIBUTE_ALL) == 0);
    uint8_t *head = out;
    head[0] = RECORD_KIND_INLINE;
    head[1] = RECORD_FORMAT;
    head[2] = (uint8_t)mask;
    head[3] = 0;
    put_u64(head + 8, record->version);
    put_u64(head + 16, record->time);
    uint8_t *at = head + RECORD_HEAD_BYTES;
    at = pack_u32_if(at, mask & ATTRIBUTE_MODE, attributes->mode);
    at = pack_u32_if(at, mask & ATTRIBUTE_UID, attributes->uid);
    at = pack_u32_if(at, mask & ATTRIBUTE_GID, attributes->gid);
    at = pack_u32_if(at, mask & ATTRIBUTE_FLAGS, attributes->flags);
    at = pack_u64_if(at, mask & ATTRIBUTE_MTIME, attributes->mtime_us);
    at = pack_u64_if(at, mask & ATTRIBUTE_EXPIRES, attributes->expires_at_us);
    put_u32(head + RECORD_CHECKSUM_OFFSET,
            head_checksum(content_checksum, head, (size_t)(at - head)));
    if (record->value.size > 0) {
        memcpy(at, record->value.data, record->value.size);
    }
}

static void unpack_attributes(struct reader *reader, struct attributes *out)
{
    uint32_t mask = out->mask;
    out->mode = mask & ATTRIBUTE_MODE ? reader_u32(reader) : 0;
    out->uid = mask & ATTRIBUTE_UID ? reader_u32(reader) : 0;
    out->gid = mask & ATTRIBUTE_GID ? reader_u32(reader) : 0;
    out->flags = mask & ATTRIBUTE_FLAGS ? reader_u32(reader) : 0;
    out->mtime_us = mask & ATTRIBUTE_MTIME ? reader_u64(reader) : 0;
    out->expires_at_us = mask & ATTRIBUTE_EXPIRES ? reader_u64(reader) : 0;
}

int record_unpack(struct span bytes, struct record *out, struct err *err)
{
    if (bytes.size < RECORD_HEAD_BYTES) {
        return err_set(err, ERR_CORRUPT, "record of %zu bytes is too short", bytes.size);
    }
    const uint8_t *head = bytes.data;
    if (head[1] != RECORD_FORMAT || head[0] != RECORD_KIND_INLINE) {
        return err_set(err, ERR_FORMAT, "record of kind %u, format %u", head[0], head[1]);
    }
    uint32_t mask = head[2];
    if ((mask & ~(uint32_t)ATTRIBUTE_ALL) != 0 || head[3] != 0 || bytes.size < head_size(mask)) {
        return err_set(err, ERR_CORRUPT, "record with a malformed head");
    }
    size_t size = head_size(mask);
    *out = (struct record){ .version = get_u64(head + 8),
                            .time = get_u64(head + 16),
                            .attributes.mask = mask,
                            .value = span_of(bytes.data + size, bytes.size - size) };
    if (mask != 0) {
        struct reader reader =
            reader_of(span_of(head + RECORD_HEAD_BYTES, size - RECORD_HEAD_BYTES));
        unpack_attributes(&reader, &out->attributes);
        CHECK(!reader.bad && reader.left == 0); /* head_size counts the same fields */
    }
    return 0;
}

int record_unpack_checked(struct span key, struct span bytes, struct record *out,
                          uint32_t *content_checksum, struct err *err)
{
    struct record record;
    int rc = record_unpack(bytes, &record, err);
    if (rc != 0) {
        return rc;
    }
    uint32_t content = record_content_checksum(key, record.value);
    uint32_t expected = head_checksum(content, bytes.data, head_size(record.attributes.mask));
    if (get_u32(bytes.data + RECORD_CHECKSUM_OFFSET) != expected) {
        return err_set(err, ERR_CORRUPT, "record checksum does not match (version %llu, %zu bytes)",
                       (unsigned long long)record.version, record.value.size);
    }
    *out = record;
    if (content_checksum) {
        *content_checksum = content;
    }
    return 0;
}

/* Copies the fields of `from` that `mask` names. */
static void attributes_take(struct attributes *to, const struct attributes *from, uint32_t mask)
{
    mask &= from->mask;
    to->mask |= mask;
    to->mode = mask & ATTRIBUTE_MODE ? from->mode : to->mode;
    to->uid = mask & ATTRIBUTE_UID ? from->uid : to->uid;
    to->gid = mask & ATTRIBUTE_GID ? from->gid : to->gid;
    to->flags = mask & ATTRIBUTE_FLAGS ? from->flags : to->flags;
    to->mtime_us = mask & ATTRIBUTE_MTIME ? from->mtime_us : to->mtime_us;
    to->expires_at_us = mask & ATTRIBUTE_EXPIRES ? from->expires_at_us : to->expires_at_us;
    if (to->expires_at_us == 0) {
        to->mask &= ~(uint32_t)ATTRIBUTE_EXPIRES;
    }
}

void attributes_for_put(const struct attributes *old, const struct attributes *given,
                        struct attributes *out)
{
    struct attributes result = { 0 };
    if (old) {
        attributes_take(&result, old,
                        ATTRIBUTE_MODE | ATTRIBUTE_UID | ATTRIBUTE_GID | ATTRIBUTE_FLAGS);
    }
    attributes_take(&result, given, ATTRIBUTE_ALL);
    *out = result;
}

void attributes_for_setattr(const struct attributes *old, uint64_t old_time,
                            const struct attributes *given, struct attributes *out)
{
    struct attributes result = { .mask = ATTRIBUTE_MTIME, .mtime_us = hlc_to_us(old_time) };
    attributes_take(&result, old, ATTRIBUTE_ALL);
    attributes_take(&result, given, ATTRIBUTE_ALL);
    *out = result;
}
