/* Allocation that fails, or ends the process; arenas, counted blobs.
 *
 * An arena is a list of chunks, newest first; small requests are cut from the newest one. A request
 * larger than ARENA_CHUNK_MAX gets a chunk of its own behind the newest, so that it neither wastes
 * the newest one's rest nor stays when the arena is reset.
 *
 * The chunks of an arena for much (`is_large`) grow to the size of a huge page and lie on one where
 * the kernel has one free: a search through tens of MiB of small pages misses the TLB at almost
 * every step, and each of them is faulted in.
 *
 * I1  Every address from an arena is a multiple of 16.
 * I2  A blob's count is at least 1 while anybody may look at it. */
#include "base/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/check.h"

enum {
    ARENA_ALIGN = 16,
    ARENA_CHUNK_MIN = 4 << 10,
    ARENA_CHUNK_MAX = 64 << 10,
    HUGE_PAGE = 2 << 20,
};

struct arena_chunk {
    struct arena_chunk *next;
    size_t used, capacity;
    _Alignas(ARENA_ALIGN) uint8_t data[];
};
_Static_assert(sizeof(struct arena_chunk) % ARENA_ALIGN == 0, "data begins aligned");

/* Without memory for what must not fail. */
static void *must_have(void *memory, size_t size)
{
    if (!memory) {
        dprintf(STDERR_FILENO, "PANIC: out of memory: no %zu bytes for what can't do without\n",
                size);
    }
    CHECK(memory != NULL);
    return memory;
}

void *mem_alloc(size_t size)
{
    return must_have(malloc(size ? size : 1), size);
}

bool mem_gate_strikes(struct mem_gate *gate)
{
    gate->attempts++;
    if (gate->refuse_in == 0 || --gate->refuse_in > 0) {
        return false;
    }
    if (gate->refuse_more > 0) {
        gate->refuse_more--;
        gate->refuse_in = 1;
    }
    gate->refused++;
    return true;
}

void *mem_try_alloc(struct mem_gate *gate, size_t size)
{
    return mem_gate_refuses(gate) ? NULL : malloc(size ? size : 1);
}

void *mem_try_zalloc(struct mem_gate *gate, size_t size)
{
    return mem_gate_refuses(gate) ? NULL : calloc(1, size ? size : 1);
}

void *mem_try_realloc(struct mem_gate *gate, void *old, size_t size)
{
    return mem_gate_refuses(gate) ? NULL : realloc(old, size ? size : 1);
}

size_t mem_try_grow(struct mem_gate *gate, void *array, size_t capacity, size_t needed,
                    size_t item_bytes)
{
    enum { BYTES_MIN = 256 };
    void *items;

    if (needed <= capacity) {
        return mem_gate_refuses(gate) ? 0 : capacity;
    }
    CHECK(needed <= SIZE_MAX / 4 / item_bytes);
    size_t least = BYTES_MIN / item_bytes + 1;
    capacity = 2 * capacity > needed ? 2 * capacity : needed;
    capacity = capacity > least ? capacity : least;
    memcpy(&items, array, sizeof items);
    items = mem_try_realloc(gate, items, capacity * item_bytes);
    if (!items) {
        return 0;
    }
    memcpy(array, &items, sizeof items);
    return capacity;
}

void *mem_zalloc(size_t size)
{
    return must_have(calloc(1, size ? size : 1), size);
}

void *mem_realloc(void *old, size_t size)
{
    return must_have(realloc(old, size ? size : 1), size);
}

void mem_free(void *memory)
{
    free(memory);
}

void *mem_dup(const void *data, size_t size)
{
    void *copy = mem_alloc(size);

    if (size) {
        memcpy(copy, data, size);
    }
    return copy;
}

char *mem_strdup(const char *text)
{
    return mem_dup(text, strlen(text) + 1);
}

char *mem_printf(const char *format, ...)
{
    va_list args, again;

    va_start(args, format);
    va_copy(again, args);
    int size = vsnprintf(NULL, 0, format, args);
    va_end(args);
    CHECK(size >= 0);
    char *text = mem_alloc((size_t)size + 1);
    vsnprintf(text, (size_t)size + 1, format, again);
    va_end(again);
    return text;
}

/* HUGE_PAGE bytes at a multiple of it. NULL when there is no memory. */
static void *huge_page_map(void)
{
    uint8_t *mapped = mmap(NULL, 2 * (size_t)HUGE_PAGE, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (mapped == MAP_FAILED) {
        return NULL;
    }
    size_t before = -(uintptr_t)mapped & (HUGE_PAGE - 1);
    if (before > 0) {
        (void)munmap(mapped, before);
    }
    (void)munmap(mapped + before + HUGE_PAGE, HUGE_PAGE - before);
    (void)madvise(mapped + before, HUGE_PAGE, MADV_HUGEPAGE); /* a wish; small pages do as well */
    return mapped + before;
}

/* NULL when there is no memory. */
static struct arena_chunk *arena_chunk_new(size_t capacity)
{
    size_t size = sizeof(struct arena_chunk) + capacity;
    struct arena_chunk *chunk = size == HUGE_PAGE ? huge_page_map() : mem_try_alloc(NULL, size);

    if (!chunk) {
        return NULL;
    }
    chunk->next = NULL;
    chunk->used = 0;
    chunk->capacity = capacity;
    return chunk;
}

/* A new newest chunk with room for `size`. NULL when there is no memory. */
static struct arena_chunk *arena_chunk_add(struct arena *arena, size_t size)
{
    struct arena_chunk *newest = arena->chunks;
    size_t most = arena->is_large ? HUGE_PAGE - sizeof(struct arena_chunk) : ARENA_CHUNK_MAX;
    size_t capacity = newest ? newest->capacity * 2 : ARENA_CHUNK_MIN;
    capacity = capacity > most ? most : capacity;
    struct arena_chunk *chunk = arena_chunk_new(capacity < size ? size : capacity);
    if (chunk) {
        chunk->next = newest;
        arena->chunks = chunk;
    }
    return chunk;
}

/* A chunk with room for `size`: the newest one where possible, else a new one. NULL when there is
 * no memory. */
static struct arena_chunk *arena_chunk_for(struct arena *arena, size_t size)
{
    struct arena_chunk *newest = arena->chunks;

    if (newest && size <= newest->capacity - newest->used) {
        return newest;
    }
    if (newest && size > ARENA_CHUNK_MAX / 2) {
        struct arena_chunk *own = arena_chunk_new(size);
        if (!own) {
            return NULL;
        }
        own->next = newest->next;
        newest->next = own;
        return own;
    }
    return arena_chunk_add(arena, size);
}

static size_t arena_round(size_t size)
{
    CHECK(size <= SIZE_MAX / 4);
    return (size + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN;
}

bool arena_try_reserve(struct arena *arena, size_t size, size_t count)
{
    const struct arena_chunk *newest = arena->chunks;

    size = arena_round(size) + count * ARENA_ALIGN;
    bool is_refused = mem_gate_refuses(arena->gate);
    if (!is_refused && newest && size <= newest->capacity - newest->used) {
        return true;
    }
    /* The newest one, however large it must be: what is allocated next is cut from that. */
    if (is_refused || !arena_chunk_add(arena, size)) {
        arena->has_refused = true;
        return false;
    }
    return true;
}

void *arena_try_alloc(struct arena *arena, size_t size)
{
    size = arena_round(size);
    struct arena_chunk *chunk = mem_gate_refuses(arena->gate) ? NULL : arena_chunk_for(arena, size);
    if (!chunk) {
        arena->has_refused = true;
        return NULL;
    }
    void *memory = chunk->data + chunk->used;
    chunk->used += size;
    arena->used_bytes += size;
    return memory;
}

void *arena_take(struct arena *arena, size_t size)
{
    struct arena_chunk *newest = arena->chunks;

    size = arena_round(size);
    CHECK(newest && size <= newest->capacity - newest->used);
    void *memory = newest->data + newest->used;
    newest->used += size;
    arena->used_bytes += size;
    return memory;
}

void *arena_alloc(struct arena *arena, size_t size)
{
    struct mem_gate *gate = arena->gate;

    arena->gate = NULL; /* what must not fail is not refused on purpose */
    void *memory = arena_try_alloc(arena, size);
    arena->gate = gate;
    return must_have(memory, size);
}

static void arena_chunk_free(struct arena_chunk *chunk)
{
    if (sizeof *chunk + chunk->capacity == HUGE_PAGE) {
        (void)munmap(chunk, HUGE_PAGE);
    } else {
        mem_free(chunk);
    }
}

static void arena_free_list(struct arena_chunk *chunk)
{
    while (chunk) {
        struct arena_chunk *next = chunk->next;
        arena_chunk_free(chunk);
        chunk = next;
    }
}

void arena_reset(struct arena *arena)
{
    struct arena_chunk *newest = arena->chunks;

    arena->used_bytes = 0;
    arena->has_refused = false;
    if (!newest) {
        return;
    }
    if (newest->capacity >
        ARENA_CHUNK_MAX) { /* made for one large request, or one of many: don't sit on it */
        arena_free_list(newest);
        arena->chunks = NULL;
        return;
    }
    arena_free_list(newest->next);
    newest->next = NULL;
    newest->used = 0;
}

void arena_fini(struct arena *arena)
{
    arena_free_list(arena->chunks);
    *arena = (struct arena){ 0 };
}

struct blob *blob_try_new(struct mem_gate *gate, size_t size)
{
    CHECK(size <= UINT32_MAX);
    struct blob *blob = mem_try_alloc(gate, sizeof *blob + size);
    if (blob) {
        blob->references = 1;
        blob->size = (uint32_t)size;
        blob->is_summed = false;
    }
    return blob;
}

struct blob *blob_new(size_t size)
{
    return must_have(blob_try_new(NULL, size), size);
}

struct blob *blob_ref(struct blob *blob)
{
    CHECK(blob->references > 0 && blob->references < UINT32_MAX);
    blob->references++;
    return blob;
}

void blob_unref(struct blob *blob)
{
    if (!blob) {
        return;
    }
    CHECK(blob->references > 0);
    if (--blob->references == 0) {
        mem_free(blob);
    }
}
