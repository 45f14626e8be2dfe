/* A pool of items of one size.
 *
 * Chunks are a few pages, aligned to their size, so that an item's address says which one it is of. Free items of a chunk are chained
 * through their first bytes; what was never taken is behind `fresh`. A chunk without items goes back at once.
 *
 *   I1  The chunks with room stand before those without. */
#include "base/pool.h"

#include <stdlib.h>

#include "base/check.h"

enum {
    CHUNK_ALIGN = 16 << 10,
    /* malloc's own head of the next chunk has its place below that one's address. */
    CHUNK_BYTES = CHUNK_ALIGN - 64,
    ITEM_ALIGN = 16,
};

struct free_item {
    struct free_item *next;
};

struct chunk {
    struct list link;
    struct free_item *free;
    uint32_t used;  /* items that are taken */
    uint32_t fresh; /* offset of what was never taken */
    _Alignas(ITEM_ALIGN) uint8_t items[];
};
_Static_assert(sizeof(struct chunk) + 8 * POOL_ITEM_BYTES_MAX <= CHUNK_BYTES, "little is wasted");

void pool_init(struct pool *pool, size_t item_bytes)
{
    CHECK(item_bytes > 0 && item_bytes <= POOL_ITEM_BYTES_MAX);
    pool->item_bytes = (item_bytes + ITEM_ALIGN - 1) / ITEM_ALIGN * ITEM_ALIGN;
    list_init(&pool->chunks);
    pool->chunk_count = 0;
}

void pool_fini(struct pool *pool)
{
    struct list *link;
    while ((link = list_take_first(&pool->chunks)) != NULL) {
        mem_free(container_of(link, struct chunk, link));
    }
    pool->chunk_count = 0;
}

static bool has_room(const struct pool *pool, const struct chunk *chunk)
{
    return chunk->free || chunk->fresh + pool->item_bytes <= CHUNK_BYTES;
}

/* A chunk with room; NULL when there is no memory. */
static struct chunk *find_room(struct pool *pool)
{
    if (!list_is_empty(&pool->chunks)) {
        struct chunk *first = container_of(pool->chunks.next, struct chunk, link);
        if (has_room(pool, first)) {
            return first;
        }
    }
    void *memory;
    if (posix_memalign(&memory, CHUNK_ALIGN, CHUNK_BYTES) != 0) {
        return NULL;
    }
    struct chunk *chunk = memory;
    *chunk = (struct chunk){ .fresh = sizeof *chunk };
    list_prepend(&pool->chunks, &chunk->link);
    pool->chunk_count++;
    return chunk;
}

void *pool_try_take(struct pool *pool, struct mem_gate *gate)
{
    struct chunk *chunk = mem_gate_refuses(gate) ? NULL : find_room(pool);
    if (!chunk) {
        return NULL;
    }
    void *item = chunk->free;
    if (item) {
        chunk->free = chunk->free->next;
    } else {
        item = (uint8_t *)chunk + chunk->fresh;
        chunk->fresh += (uint32_t)pool->item_bytes;
    }
    chunk->used++;
    if (!has_room(pool, chunk)) { /* I1 */
        list_remove(&chunk->link);
        list_append(&pool->chunks, &chunk->link);
    }
    return item;
}

void pool_give(struct pool *pool, void *item)
{
    struct chunk *chunk = (struct chunk *)((uintptr_t)item & ~(uintptr_t)(CHUNK_ALIGN - 1));
    struct free_item *freed = item;
    CHECK(chunk->used > 0);
    chunk->used--;
    if (chunk->used == 0 || !has_room(pool, chunk)) {
        list_remove(&chunk->link);
    }
    if (chunk->used == 0) {
        mem_free(chunk);
        pool->chunk_count--;
        return;
    }
    freed->next = chunk->free;
    chunk->free = freed;
    if (!list_is_linked(&chunk->link)) {
        list_prepend(&pool->chunks, &chunk->link); /* I1 */
    }
}
