/* Open addressing with linear probing. A removed pair leaves a tombstone unless the next slot is
 * free, in which case it and the tombstones before it become free at once: queues that put and take
 * the same few keys keep a clean table.
 *
 * I1  count + tombstones <= 3/4 capacity, so every probe ends at a free slot.
 * I2  Taking never moves a pair, so it is allowed while iterating. */
#include "base/hashtab.h"

#include "base/check.h"
#include "base/hash.h"
#include "base/mem.h"

enum { HASHTAB_CAPACITY_MIN = 16 };

struct hashtab_slot {
    uint64_t key;
    void *value; /* NULL: free; TOMBSTONE: was taken */
};

static const char hashtab_tombstone;
#define TOMBSTONE ((void *)&hashtab_tombstone)

static bool slot_is_used(const struct hashtab_slot *slot)
{
    return slot->value && slot->value != TOMBSTONE;
}

/* The slot that holds the key, or NULL. */
static struct hashtab_slot *hashtab_slot_find(const struct hashtab *table, uint64_t key)
{
    if (!table->count) {
        return NULL;
    }
    size_t mask = table->capacity - 1;
    for (size_t at = hash_u64(key) & mask;; at = (at + 1) & mask) {
        struct hashtab_slot *slot = &table->slots[at];
        if (!slot->value) {
            return NULL;
        }
        if (slot->key == key && slot->value != TOMBSTONE) {
            return slot;
        }
    }
}

/* The slot that holds the key, or the first of its probe that may be filled. */
static struct hashtab_slot *hashtab_slot_probe(struct hashtab *table, uint64_t key)
{
    struct hashtab_slot *tombstone = NULL;
    size_t mask = table->capacity - 1;

    for (size_t at = hash_u64(key) & mask;; at = (at + 1) & mask) {
        struct hashtab_slot *slot = &table->slots[at];
        if (!slot->value) {
            return tombstone ? tombstone : slot;
        }
        if (slot->value == TOMBSTONE) {
            tombstone = tombstone ? tombstone : slot;
        } else if (slot->key == key) {
            return slot;
        }
    }
}

/* The first slot of the key's probe that may be filled; the key is known to be absent. */
static struct hashtab_slot *hashtab_slot_free(const struct hashtab *table, uint64_t key)
{
    size_t mask = table->capacity - 1;
    size_t at = hash_u64(key) & mask;

    while (slot_is_used(&table->slots[at])) {
        at = (at + 1) & mask;
    }
    return &table->slots[at];
}

/* Rebuilds without tombstones, larger when pairs rather than tombstones fill the table. False:
 * there is no memory. */
static bool hashtab_rebuild(struct hashtab *table, struct mem_gate *gate)
{
    struct hashtab old = *table;
    size_t capacity = old.capacity < HASHTAB_CAPACITY_MIN ? HASHTAB_CAPACITY_MIN : old.capacity;

    if (old.count * 2 >= old.capacity) {
        capacity = old.capacity ? old.capacity * 2 : capacity;
    }
    struct hashtab_slot *slots = mem_try_zalloc(gate, capacity * sizeof *slots);
    if (!slots) {
        return false;
    }
    table->slots = slots;
    table->capacity = capacity;
    table->tombstones = 0;
    for (size_t at = 0; at < old.capacity; at++) {
        if (slot_is_used(&old.slots[at])) {
            *hashtab_slot_free(table, old.slots[at].key) = old.slots[at];
        }
    }
    mem_free(old.slots);
    return true;
}

static bool hashtab_is_full(const struct hashtab *table)
{
    return (table->count + table->tombstones + 1) * 4 > table->capacity * 3;
}

bool hashtab_try_reserve(struct hashtab *table, struct mem_gate *gate)
{
    return hashtab_is_full(table) ? hashtab_rebuild(table, gate) : !mem_gate_refuses(gate);
}

void *hashtab_put(struct hashtab *table, uint64_t key, void *value)
{
    CHECK(value != NULL);
    struct hashtab_slot *slot = table->capacity ? hashtab_slot_probe(table, key) : NULL;
    if (slot && slot_is_used(slot)) {
        void *earlier = slot->value;
        slot->value = value;
        return earlier;
    }
    if (hashtab_is_full(table)) {
        bool is_rebuilt = hashtab_rebuild(table, NULL);
        CHECK(is_rebuilt);
        slot = hashtab_slot_probe(table, key);
    }
    table->tombstones -= slot->value == TOMBSTONE;
    *slot = (struct hashtab_slot){ key, value };
    table->count++;
    return NULL;
}

void *hashtab_find(const struct hashtab *table, uint64_t key)
{
    const struct hashtab_slot *slot = hashtab_slot_find(table, key);

    return slot ? slot->value : NULL;
}

void hashtab_prefetch(const struct hashtab *table, uint64_t key)
{
    if (table->capacity) {
        __builtin_prefetch(&table->slots[hash_u64(key) & (table->capacity - 1)]);
    }
}

void *hashtab_take(struct hashtab *table, uint64_t key)
{
    struct hashtab_slot *slot = hashtab_slot_find(table, key);

    if (!slot) {
        return NULL;
    }
    void *value = slot->value;
    size_t mask = table->capacity - 1;
    size_t at = (size_t)(slot - table->slots);
    slot->value = TOMBSTONE;
    table->tombstones++;
    table->count--;
    if (!table->slots[(at + 1) & mask].value) {
        for (; table->slots[at].value == TOMBSTONE; at = (at - 1) & mask) {
            table->slots[at].value = NULL;
            table->tombstones--;
        }
    }
    return value;
}

void *hashtab_next(const struct hashtab *table, size_t *position, uint64_t *key)
{
    while (*position < table->capacity) {
        const struct hashtab_slot *slot = &table->slots[(*position)++];
        if (slot_is_used(slot)) {
            if (key) {
                *key = slot->key;
            }
            return slot->value;
        }
    }
    return NULL;
}

void hashtab_fini(struct hashtab *table)
{
    mem_free(table->slots);
    *table = (struct hashtab){ 0 };
}
