/* See slots.h. Free slots are a list, the last used first: it is still at hand.
 *
 * I1  An entry with a value is not in the free list; every other one is, and its id is the one that it will have next. */
#include "base/slots.h"

#include "base/check.h"
#include "base/mem.h"

enum { SLOTS_CAPACITY_MIN = 16, SLOT_BITS = 24 };

_Static_assert(SLOTS_MAX == 1 << SLOT_BITS, "a slot's number fits its bits");

struct slots_entry {
    uint64_t id;
    void *value;        /* NULL: free */
    uint32_t next_free; /* as first_free */
};

static void slots_add_free(struct slots *slots, struct slots_entry *entry)
{
    entry->id += SLOTS_MAX; /* the bits of the slot stay */
    entry->next_free = slots->first_free;
    slots->first_free = (uint32_t)(entry - slots->entries) + 1;
}

static bool slots_grow(struct slots *slots, struct mem_gate *gate)
{
    size_t before = slots->capacity, capacity = before ? before * 2 : SLOTS_CAPACITY_MIN;
    if (capacity > SLOTS_MAX) {
        return false;
    }
    struct slots_entry *entries = mem_try_zalloc(gate, capacity * sizeof *entries);
    if (!entries) {
        return false;
    }
    if (before) {
        memcpy(entries, slots->entries, before * sizeof *entries);
    }
    mem_free(slots->entries);
    slots->entries = entries;
    slots->capacity = capacity;
    for (size_t at = capacity; at > before; at--) {
        entries[at - 1].id = at - 1;
        slots_add_free(slots, &entries[at - 1]);
    }
    return true;
}

bool slots_try_reserve(struct slots *slots, struct mem_gate *gate)
{
    return slots->first_free ? !mem_gate_refuses(gate) : slots_grow(slots, gate);
}

uint64_t slots_put(struct slots *slots, void *value)
{
    CHECK(value && slots->first_free);
    struct slots_entry *entry = &slots->entries[slots->first_free - 1];
    CHECK(!entry->value);
    slots->first_free = entry->next_free;
    entry->value = value;
    slots->count++;
    return entry->id;
}

/* NULL: the id names nothing. */
static struct slots_entry *slots_entry_of(const struct slots *slots, uint64_t id)
{
    size_t at = id & (SLOTS_MAX - 1);
    struct slots_entry *entry = at < slots->capacity ? &slots->entries[at] : NULL;
    return entry && entry->id == id && entry->value ? entry : NULL;
}

void *slots_find(const struct slots *slots, uint64_t id)
{
    struct slots_entry *entry = slots_entry_of(slots, id);
    return entry ? entry->value : NULL;
}

void *slots_take(struct slots *slots, uint64_t id)
{
    struct slots_entry *entry = slots_entry_of(slots, id);
    if (!entry) {
        return NULL;
    }
    void *value = entry->value;
    entry->value = NULL;
    slots->count--;
    slots_add_free(slots, entry);
    return value;
}

void *slots_next(const struct slots *slots, size_t *position)
{
    while (*position < slots->capacity) {
        void *value = slots->entries[(*position)++].value;
        if (value) {
            return value;
        }
    }
    return NULL;
}

void slots_fini(struct slots *slots)
{
    mem_free(slots->entries);
    *slots = (struct slots){ 0 };
}
