/* One group's entries in the log: where each lies, its payload if it is in memory, and the terms as
 * runs.
 *
 * 24 bytes an entry in a ring that grows; entries log_start … last_index. During recovery an entry
 * may lack a place (segment and serial are 0) until a later record gives it one. Memory only;
 * loop thread. */
#ifndef RAFT_LOG_INDEX_H
#define RAFT_LOG_INDEX_H

#include "base/mem.h"
#include "raft/log_segment.h"
#include "raft/raft.h"

struct log_slot {
    uint32_t segment; /* 0: not durable yet, then `at` is the serial number of its pending record */
    uint32_t at;
    uint32_t size : 28;
    uint32_t is_moved : 1;   /* its place is not in order of its neighbours' */
    uint32_t is_hole : 1;    /* its payload is damaged on disk; the place is that of its header */
    uint32_t is_filling : 1; /* a peer gave the payload back, a record of it waits or is written */
    uint32_t crc;
    union {
        struct blob *blob; /* NULL: not in memory */
        uint64_t term;     /* during recovery only */
    };
};

struct log_index {
    uint64_t log_start, start_term, last_index;
    struct log_slot *slots;
    uint32_t capacity, head; /* a power of two, or 0; position of log_start */
    struct raft_run *runs;
    uint32_t run_count, run_capacity;
};

/* Empty, behind (log_start - 1, start_term). */
void log_index_init(struct log_index *index, uint64_t log_start, uint64_t start_term);
/* Blobs must have been dropped before. */
void log_index_fini(struct log_index *index);
static inline bool log_index_has(const struct log_index *index, uint64_t i)
{
    return i >= index->log_start && i <= index->last_index;
}
/* The entry must be there; valid until the next push. */
static inline struct log_slot *log_index_at(const struct log_index *index, uint64_t i)
{
    return &index->slots[(index->head + (uint32_t)(i - index->log_start)) & (index->capacity - 1)];
}
/* Room for `count` more entries in `runs` runs of one term each: pushing them needs no memory then. False: there is none. */
bool log_index_reserve(struct log_index *index, struct mem_gate *gate, uint32_t count, uint32_t runs);
/* Adds a zeroed slot at last_index + 1. */
struct log_slot *log_index_push(struct log_index *index);
/* Notes the term of the entry just pushed. */
void log_index_push_term(struct log_index *index, uint64_t term);
/* Term at an index in log_start - 1 … last_index, 0 outside. */
uint64_t log_index_term(const struct log_index *index, uint64_t i);
/* Drops the entries from `first` on, or those before log_start; places and blobs are the caller's
 * business before. */
void log_index_truncate(struct log_index *index, uint64_t first);
void log_index_cut(struct log_index *index, uint64_t log_start, uint64_t start_term);
/* Keeps no more room than the entries need; without memory for that, it stays as it is. */
void log_index_trim(struct log_index *index);

#endif
