/* Memory: allocation that does not return NULL, arenas for a request's lifetime, counted blobs. */
#ifndef BASE_MEM_H
#define BASE_MEM_H

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

/* An arena: many small allocations, freed at once. A zeroed struct is an empty arena. 16-byte aligned. */
struct arena {
    struct arena_chunk *chunks;
    size_t used_bytes;
};
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
struct blob *blob_ref(struct blob *blob);
void blob_unref(struct blob *blob); /* NULL allowed */
static inline struct span blob_span(const struct blob *blob)
{
    return (struct span){ blob->data, blob->size };
}

#endif
