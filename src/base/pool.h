/* A pool: items of one size that live long, in pages that hold nothing else.
 *
 * For what comes one by one between many allocations that go soon, such as a session that begins with one of thousands of writes: from
 * malloc each would keep the page that it shares with them from going back to the system. Costs less than malloc besides: no head, and
 * no search. Not for several threads at a time. */
#ifndef BASE_POOL_H
#define BASE_POOL_H

#include "base/list.h"
#include "base/mem.h"

enum { POOL_ITEM_BYTES_MAX = 1024 };

struct pool {
    size_t item_bytes;
    struct list chunks; /* all of them, those with room first */
    size_t chunk_count;
};

/* item_bytes: 1 to POOL_ITEM_BYTES_MAX; items are aligned to 16 bytes. */
void pool_init(struct pool *pool, size_t item_bytes);
/* Frees all that was not given back, too. */
void pool_fini(struct pool *pool);
/* An uninitialised item. NULL when there is no memory. */
void *pool_try_take(struct pool *pool, struct mem_gate *gate);
void pool_give(struct pool *pool, void *item);

#endif
