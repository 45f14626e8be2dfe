/* The reserve: room on the disk that is kept for the day when there is none, and who may still write then.
 *
 * A file of allocated blocks, `reserve` in the data folder. When the log can't make a segment or the store can't flush
 * for want of room, the file is removed: deletes, votes, cuts and flushes go on in the blocks that it held, ordinary
 * writes are refused with ERR_DISK_FULL. When there is room again the file is made anew, and then writes are admitted again.
 *
 * Before that day comes, ordinary writes are refused as soon as what was admitted could not be flushed any more: so a disk that
 * this node alone fills doesn't cost the reserve. */
#ifndef NODE_RESERVE_H
#define NODE_RESERVE_H

#include "base/logger.h"
#include "env/env.h"

struct reserve;

struct reserve_config {
    struct env *env;
    struct logger *logger;
    const char *directory;  /* the node's data folder */
    uint64_t bytes;         /* wanted; a small disk gets a quarter of it; 0: no reserve */
    uint64_t segment_bytes; /* what the log grows by: kept free beside the reserve */
};

/* Before log and store are opened: gives the reserve back at once if they could not be opened without it. Blocks. Never
 * fails: a disk that tells nothing is taken to have room. */
struct reserve *reserve_open(const struct reserve_config *config);
/* Frees it; the file stays. A job under way ends by itself. */
void reserve_close(struct reserve *reserve);

/* From the node's tick. unflushed: bytes in memory that are still to be flushed; store_used: bytes in use in the store's file (what
 * the file has beyond is room too); is_short: log or store were refused room. */
void reserve_tick(struct reserve *reserve, uint64_t unflushed, uint64_t store_used, bool is_short);
/* A flush ended: the disk is looked at again soon. */
void reserve_flushed(struct reserve *reserve);
/* May an ordinary write of so many bytes be admitted? 0 or ERR_DISK_FULL. What is admitted counts until the disk was looked at. */
int reserve_admit(struct reserve *reserve, uint64_t bytes);
/* Whether it would be refused; counts nothing. */
bool reserve_refuses(const struct reserve *reserve, uint64_t bytes);
/* A flush would help: room is short, and what is in memory is a good part of what the disk could still take. */
bool reserve_wants_flush(const struct reserve *reserve);
/* Free bytes on the disk, as last seen; UINT64_MAX where nobody knows a limit. */
uint64_t reserve_room(const struct reserve *reserve);
/* The reserve was given back and is not made again yet. */
bool reserve_is_spent(const struct reserve *reserve);
/* Spent, or the room beside it is less than the reserve and two log segments: what only grows the files can wait. */
bool reserve_is_tight(const struct reserve *reserve);

#endif
