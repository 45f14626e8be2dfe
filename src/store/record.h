/* The record: a key's value with everything that is known of it, as stored in LMDB. The layout stands at the head of record.c:
 * kind, flags, version, time, expiry, mode, owner, times, value id, checksum over key, version and value. */
#ifndef STORE_RECORD_H
#define STORE_RECORD_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/err.h"

enum attribute_mask {
    ATTRIBUTE_MODE = 1,
    ATTRIBUTE_UID = 2,
    ATTRIBUTE_GID = 4,
    ATTRIBUTE_MTIME = 8,
    ATTRIBUTE_FLAGS = 16,
    ATTRIBUTE_EXPIRES = 32,
    ATTRIBUTE_ALL = 63,
};

enum record_flags { RECORD_DIRECTORY = 1 };

/* Attributes; only those named in mask mean something. */
struct attributes {
    uint32_t mask;
    uint32_t mode;
    uint32_t uid, gid;
    uint32_t flags;
    uint64_t mtime_us; /* without ATTRIBUTE_MTIME: hlc_to_us of the record's time */
    uint64_t expires_at_us;
};

/* A record as read. Borrowed as the call that gave it says. */
struct record {
    uint64_t version; /* index of the entry that made it */
    uint64_t time;    /* HLC of that entry */
    struct attributes attributes;
    struct span value;
};

/* CRC32C of key and value: what a command carries, and what a record's checksum continues from. */
uint32_t record_content_checksum(struct span key, struct span value);

/* What record_pack writes before the value, at most. */
enum { RECORD_HEAD_BYTES_MAX = 56 };

/* Bytes that record_pack will write. */
size_t record_packed_size(const struct record *record);
/* Writes the record to `out`, which has record_packed_size bytes. content_checksum is record_content_checksum of key and value:
 * the caller has it already, so the value isn't read twice. */
void record_pack(const struct record *record, uint32_t content_checksum, void *out);

/* Reads a packed record; the value borrows from bytes. Checks the form, not the checksum: for walks that don't deliver values.
 * ERR_CORRUPT, ERR_FORMAT. */
int record_unpack(struct span bytes, struct record *out, struct err *err);
/* The same with the checksum over key, head and value; *content_checksum (NULL allowed) is set for a later record_pack. */
int record_unpack_checked(struct span key, struct span bytes, struct record *out, uint32_t *content_checksum, struct err *err);

/* What a put makes of the attributes: `old` (NULL: the key was absent) keeps mode, owner and flags where `given` does not name
 * them; mtime and expiry are only what is given. An expiry of 0 means none. */
void attributes_for_put(const struct attributes *old, const struct attributes *given, struct attributes *out);
/* What a setattr makes of them: all that `given` does not name stays. A record without mtime keeps showing its old time (old_time,
 * HLC), since the version's time moves on though the value does not. */
void attributes_for_setattr(const struct attributes *old, uint64_t old_time, const struct attributes *given,
                            struct attributes *out);

#endif
