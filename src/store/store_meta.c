/* A replica's meta record: what LMDB holds of it; and the names that follow from it.
 *
 *   offset size field
 *        0    4 format (STORE_FORMAT)
 *        4    4 CRC32C of the key and all that follows
 *        8    8 applied: index of the last entry that is in LMDB
 *       16    8 time (HLC) of it
 *       24    8 keys
 *       32    8 sessions
 *       40    8 digest
 *       48    8 index, 56: 8 term of the image that was installed last; 0: none
 *       64    4 generation of data and sessions
 *       68    4 zero
 *       72    8 flags (1: has had attributes)
 *
 * The digest is a sum, so that it doesn't depend on the order, and a flush can keep it: it takes
 * away what it overwrites and adds what it writes. */
#include "store/store_private.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/hash.h"

enum {
    META_HAS_ATTRIBUTES = 1,
    RECORD_CHECKSUM_AT = 4, /* in a packed record: record.c */
    RECORD_VERSION_AT = 8,
};

struct store_name store_replica_name(const struct store_replica *replica)
{
    return (struct store_name){ .group = replica->group,
                                .replica = replica->id,
                                .generation = replica->generation };
}

void store_name_database(const struct store_name *name, char *out)
{
    snprintf(out, STORE_NAME_BYTES, "r%u.%016llx.%u", name->group,
             (unsigned long long)name->replica, name->generation);
}

bool store_name_parse(struct span text, const struct store_name *of, uint32_t *generation)
{
    char prefix[STORE_NAME_BYTES], number[16];
    int size =
        snprintf(prefix, sizeof prefix, "r%u.%016llx.", of->group, (unsigned long long)of->replica);
    if (!span_has_prefix(text, span_of(prefix, (size_t)size)) ||
        text.size - (size_t)size >= sizeof number || text.size == (size_t)size) {
        return false;
    }
    memcpy(number, text.data + size, text.size - (size_t)size);
    number[text.size - (size_t)size] = 0;
    char *end;
    *generation = (uint32_t)strtoul(number, &end, 10);
    return *end == 0;
}

static void put_u32_sorted(uint8_t *at, uint32_t value)
{
    put_u32(at, __builtin_bswap32(value));
}

static void put_u64_sorted(uint8_t *at, uint64_t value)
{
    put_u64(at, __builtin_bswap64(value));
}

void store_name_sessions(const struct store_name *name, uint8_t *out)
{
    put_u32_sorted(out, name->group);
    put_u64_sorted(out + 4, name->replica);
    put_u32_sorted(out + 12, name->generation);
}

static void pack_key(uint32_t group, uint64_t replica, uint8_t *out)
{
    out[0] = 'r';
    put_u32_sorted(out + 1, group);
    put_u64_sorted(out + 5, replica);
}

static uint32_t checksum(const uint8_t *key, const uint8_t *value)
{
    return hash_crc32c(hash_crc32c(0, key, META_KEY_BYTES), value + 8, META_VALUE_BYTES - 8);
}

int store_meta_read(MDB_txn *txn, MDB_dbi dbi, uint32_t group, uint64_t replica,
                    struct store_meta *out, struct err *err)
{
    uint8_t packed[META_KEY_BYTES];
    pack_key(group, replica, packed);
    MDB_val key = val_of(span_of(packed, sizeof packed)), value;
    int rc = mdb_get(txn, dbi, &key, &value);
    if (rc != 0) {
        return rc == MDB_NOTFOUND ? ERR_NOT_FOUND
                                  : store_lmdb_error(err, rc, "reading a replica's state");
    }
    const uint8_t *at = value.mv_data;
    if (value.mv_size < META_VALUE_BYTES || get_u32(at + 4) != checksum(packed, at)) {
        return err_set(err, ERR_CORRUPT, "replica's state: checksum does not match");
    }
    if (get_u32(at) != STORE_FORMAT) {
        return err_set(err, ERR_FORMAT, "replica's state: unknown format");
    }
    *out = (struct store_meta){ .applied = get_u64(at + 8),
                                .time = get_u64(at + 16),
                                .keys = get_u64(at + 24),
                                .sessions = get_u64(at + 32),
                                .digest = get_u64(at + 40),
                                .image_index = get_u64(at + 48),
                                .image_term = get_u64(at + 56),
                                .generation = get_u32(at + 64),
                                .has_attributes = get_u64(at + 72) & META_HAS_ATTRIBUTES };
    return 0;
}

int store_meta_write(MDB_txn *txn, MDB_dbi dbi, uint32_t group, uint64_t replica,
                     const struct store_meta *meta)
{
    uint8_t packed[META_KEY_BYTES], at[META_VALUE_BYTES] = { 0 };
    pack_key(group, replica, packed);
    put_u32(at, STORE_FORMAT);
    put_u64(at + 8, meta->applied);
    put_u64(at + 16, meta->time);
    put_u64(at + 24, meta->keys);
    put_u64(at + 32, meta->sessions);
    put_u64(at + 40, meta->digest);
    put_u64(at + 48, meta->image_index);
    put_u64(at + 56, meta->image_term);
    put_u32(at + 64, meta->generation);
    put_u64(at + 72, meta->has_attributes ? META_HAS_ATTRIBUTES : 0);
    put_u32(at + 4, checksum(packed, at));
    MDB_val key = val_of(span_of(packed, sizeof packed)), value = val_of(span_of(at, sizeof at));
    return mdb_put(txn, dbi, &key, &value, 0);
}

uint64_t store_record_digest(struct span key, struct span packed)
{
    CHECK(packed.size >= RECORD_BYTES_MIN);
    uint64_t version = get_u64(packed.data + RECORD_VERSION_AT);
    return hash_key(hash_u64(version) ^ get_u32(packed.data + RECORD_CHECKSUM_AT), key);
}

uint64_t store_entry_digest(const struct overlay_node *node)
{
    const struct overlay_entry *entry = overlay_entry(node);
    if (entry->is_deleted) {
        return 0;
    }
    struct record record;
    overlay_record(node, &record);
    record.value = (struct span){ 0 }; /* entry->checksum covers it */
    uint8_t head[RECORD_HEAD_BYTES_MAX];
    record_pack(&record, entry->checksum, head);
    return store_record_digest(overlay_key(node), span_of(head, record_packed_size(&record)));
}
