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
};

enum record_flags { RECORD_DIRECTORY = 1 };

/* Attributes; only those named in mask mean something. */
struct attributes {
    uint32_t mask;
    uint32_t mode;
    uint32_t uid, gid;
    uint32_t flags;
    uint64_t mtime_us;
    uint64_t expires_at_us;
};

/* A record as read. Borrowed as the call that gave it says. */
struct record {
    uint64_t version; /* index of the entry that made it */
    uint64_t time;    /* HLC of that entry */
    struct attributes attributes;
    struct span value;
};

#endif
