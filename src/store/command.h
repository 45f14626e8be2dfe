/* The command: what stands in the Raft log and every replica applies. An entry's payload is one packed command; an empty payload
 * is an election's no-op.
 *
 *   offset size field
 *        0    1 type (enum command_type)
 *        1    1 format version (COMMAND_VERSION)
 *        2    2 feature level of the cluster when it was proposed
 *        4    2 flags: which optional parts follow (enum command_flags)
 *        6    2 key size
 *        8    4 value size
 *       12    4 CRC32C of key and value (a record's checksum continues from it)
 *       16    8 time (HLC), set by the proposing primary
 *       24   16 session id          \
 *       40    8 number              |  only with COMMAND_HAS_SESSION
 *       48    8 lowest              |
 *       56    8 client time         /
 *        …    1 condition, 7 zero, 8 version       only with COMMAND_HAS_CONDITION
 *        …   40 attributes                         only with COMMAND_HAS_ATTRIBUTES:
 *               mask 4, mode 4, uid 4, gid 4, flags 4, zero 4, mtime 8, expiry 8; what the mask does not name is zero
 *        …      key, value
 *
 * A put, delete or setattr has a key; only a put has a value; a delete has no attributes, a setattr has some; a fence and a mark
 * have nothing but their time.
 */
#ifndef STORE_COMMAND_H
#define STORE_COMMAND_H

#include "base/bytes.h"
#include "base/err.h"
#include "base/mem.h"
#include "store/record.h"

enum { COMMAND_VERSION = 1 };

enum command_type {
    COMMAND_PUT = 1,
    COMMAND_DELETE = 2,
    COMMAND_SETATTR = 3,
    COMMAND_FENCE = 4, /* changes nothing; carries a time */
    COMMAND_MARK = 5,  /* changes nothing; replicas compare what they held there, see store_replica_mark */
};

enum command_flags { COMMAND_HAS_SESSION = 1, COMMAND_HAS_CONDITION = 2, COMMAND_HAS_ATTRIBUTES = 4 };

enum condition_kind { CONDITION_NONE, CONDITION_ABSENT, CONDITION_VERSION, CONDITION_PRESENT };

struct session_id {
    uint64_t high, low;
};

struct command {
    uint8_t type;
    uint16_t feature_level;
    uint64_t time;
    /* number 0: no session */
    struct session_id session;
    uint64_t number, lowest, client_time;
    uint8_t condition; /* enum condition_kind */
    uint64_t condition_version;
    struct attributes attributes; /* mask 0: none */
    struct span key, value;       /* borrowed */
    uint32_t checksum;            /* CRC32C of key and value; set by command_unpack, command_pack computes its own */
};

/* Packs into a fresh blob (one reference, the caller's). Checks nothing but CHECKs sizes. */
struct blob *command_pack(const struct command *command);
/* The same; NULL when there is no memory, or the gate (NULL allowed) refuses. */
struct blob *command_try_pack(const struct command *command, struct mem_gate *gate);
/* Unpacks; key and value borrow from bytes. ERR_CORRUPT for anything that command_pack could not have written, ERR_FORMAT for a
 * version or type that this build does not know. */
int command_unpack(struct span bytes, struct command *command, struct err *err);
/* The same of a blob. If its bytes are summed, key and value are not read: they are verified by that sum. */
int command_unpack_blob(const struct blob *blob, struct command *command, struct err *err);
/* Session (zeroes: none) and key of a packed command, of which nothing is verified: for hints. False: it has no key. */
bool command_peek(const struct blob *packed, struct session_id *session, struct span *key);
/* Overwrites the time of a packed command (the primary sets it when it proposes), and notes the sum of a large one. */
void command_set_time(struct blob *packed, uint64_t time);

#endif
