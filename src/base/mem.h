/* Memory: allocation that may fail, allocation that does not return, arenas for a request's lifetime, counted blobs.
 *
 * Which one? What a request, an answer, a message, a connection or a piece of an image asks for may fail (…_try_…): the request is
 * answered with ERR_NO_MEMORY, the connection is closed, the message is dropped, the step is taken again later. The others end the
 * process with a clear text: for a start, and for what is small and must not fail because state would not fit itself any more
 * (a vote that was given and not recorded); the node comes back by replaying its log. */
#ifndef BASE_MEM_H
#define BASE_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"

/* These end the process when the system has no memory left: sizes are bounded before they get here. */
void *mem_alloc(size_t size);
void *mem_zalloc(size_t size);
void *mem_realloc(void *old, size_t size);
void mem_free(void *memory);
void *mem_dup(const void *data, size_t size);
char *mem_strdup(const char *text);
char *mem_printf(const char *format, ...) __attribute__((format(printf, 1, 2)));

#define MEM_NEW(type) ((type *)mem_zalloc(sizeof(type)))

/* A hint: brings all its lines into the processor's cache. */
static inline void mem_prefetch(const void *memory, size_t size)
{
    enum { LINE = 64 };
    const uint8_t *at = memory;
    for (size_t i = 0; i < size; i += LINE) {
        __builtin_prefetch(at + i);
    }
    __builtin_prefetch(at + size - 1);
}

/* What asks for memory, by the way back when there is none. */
enum mem_kind {
    MEM_REQUEST, /* a request: its message, operations, commands, what passing it on takes. Refused or parked */
    MEM_ANSWER,  /* results and answers. Refused; where something was written, the connection is closed */
    MEM_SCAN,    /* a scan's parts, cursors and page. Refused */
    MEM_CONN,    /* a connection, and what it gathers or has half received. Closed */
    MEM_RAFT,    /* Raft messages, out and in. Dropped: Raft repeats */
    MEM_LOG,     /* entries, batches and readings of the log. Put off */
    MEM_STORE,   /* applying and flushing. Put off */
    MEM_IMAGE,   /* images, on both sides. Asked for again */
    MEM_KINDS,
};

/* A gate refuses allocations on purpose, so that the branches behind a refusal can be tried; NULL: only the system refuses. Not
 * for several threads: tests and the simulator have one. */
struct mem_gate {
    uint64_t refuse_in;   /* the n-th attempt from now fails; 0: none */
    uint64_t refuse_more; /* and so many behind it */
    uint64_t attempts, refused;
};
/* One a kind: see env_gate. */
struct mem_gates {
    struct mem_gate of[MEM_KINDS];
};

bool mem_gate_strikes(struct mem_gate *gate);
static inline bool mem_gate_refuses(struct mem_gate *gate)
{
    return gate && mem_gate_strikes(gate);
}

/* NULL when there is no memory. */
void *mem_try_alloc(struct mem_gate *gate, size_t size);
void *mem_try_zalloc(struct mem_gate *gate, size_t size);
/* NULL when there is no memory: `old` is as it was then. */
void *mem_try_realloc(struct mem_gate *gate, void *old, size_t size);
/* Grows an array of `capacity` items to `needed` ones or more. array: where the pointer to it stands, e.g. &list->items, which is set.
 * Returns the new capacity; 0: there is no memory, nothing changed. */
size_t mem_try_grow(struct mem_gate *gate, void *array, size_t capacity, size_t needed, size_t item_bytes);
#define MEM_TRY_NEW(gate, type) ((type *)mem_try_zalloc((gate), sizeof(type)))

/* An arena: many small allocations, freed at once. A zeroed struct is an empty arena. 16-byte aligned. */
struct arena {
    struct arena_chunk *chunks;
    size_t used_bytes;
    struct mem_gate *gate; /* for arena_try_alloc; NULL allowed */
    bool has_refused;      /* arena_try_alloc has failed since the last reset */
    bool is_large;         /* will hold MiB that are searched: set it while the arena is empty */
};
/* NULL when there is no memory. */
void *arena_try_alloc(struct arena *arena, size_t size);
/* The next `count` allocations, of `size` bytes together, will be found. False: there is no memory. For many small ones: one branch
 * instead of one each. */
bool arena_try_reserve(struct arena *arena, size_t size, size_t count);
/* From what was reserved. */
void *arena_take(struct arena *arena, size_t size);
void *arena_alloc(struct arena *arena, size_t size);
/* Frees all but the newest chunk, which is kept for reuse. */
void arena_reset(struct arena *arena);
void arena_fini(struct arena *arena);

/* A blob: immutable counted bytes, shared by log cache, overlay and connections. Not atomic: counted on the loop thread
 * only; threads may read bytes of a blob that the loop keeps referenced. */
enum { BLOB_SUM_MIN = 1024 }; /* smaller ones are summed again as quickly as their sums are joined */
struct blob {
    uint32_t references;
    uint32_t size;
    uint32_t crc;   /* CRC32C of the data, if is_summed: who sums them first says so, for all that follow */
    bool is_summed; /* from then on the data stay as they are */
    uint8_t data[];
};
/* A blob of `size` uninitialised bytes with one reference, the caller's. */
struct blob *blob_new(size_t size);
/* NULL when there is no memory. */
struct blob *blob_try_new(struct mem_gate *gate, size_t size);
struct blob *blob_ref(struct blob *blob);
void blob_unref(struct blob *blob); /* NULL allowed */
static inline struct span blob_span(const struct blob *blob)
{
    return (struct span){ blob->data, blob->size };
}

#endif
