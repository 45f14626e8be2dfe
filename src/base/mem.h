/* Memory: allocation that does not return NULL, arenas for a request's lifetime, counted blobs. */
#ifndef BASE_MEM_H
#define BASE_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"

/* These panic when the system has no memory left: sizes are bounded before they get here. */
void *mem_alloc(size_t size);
void *mem_zalloc(size_t size);
void *mem_realloc(void *old, size_t size);
void mem_free(void *memory);
void *mem_dup(const void *data, size_t size);
char *mem_strdup(const char *text);
char *mem_printf(const char *format, ...) __attribute__((format(printf, 1, 2)));

#define MEM_NEW(type) ((type *)mem_zalloc(sizeof(type)))

/* What a request's size drives may fail: these return NULL when the system refuses, and the request is answered with
 * ERR_NO_MEMORY. What replication stands on (Raft, log, apply) uses the others.
 *
 * A gate refuses an allocation on purpose, so that the branches behind a refusal can be tried; NULL: only the system refuses. */
struct mem_gate {
    uint64_t refuse_in; /* the n-th attempt from now fails, once; 0: none */
    uint64_t refused;
};
void *mem_try_alloc(struct mem_gate *gate, size_t size);

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
void *arena_alloc(struct arena *arena, size_t size);
void *arena_dup(struct arena *arena, const void *data, size_t size);
/* Frees all but the newest chunk, which is kept for reuse. */
void arena_reset(struct arena *arena);
void arena_fini(struct arena *arena);

/* A blob: immutable counted bytes, shared by log cache, overlay and connections. Not atomic: counted on the loop thread
 * only; threads may read bytes of a blob that the loop keeps referenced. */
struct blob {
    uint32_t references;
    uint32_t size;
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
