/* One group's entries in the log. Invariants:
 *
 *   I1  Slot of entry i is slots[(head + i - log_start) mod capacity]; last_index - log_start + 1
 *       <= capacity.
 *   I2  Runs are in order of `first`, the first run begins at or before log_start (when there are
 *       entries), terms grow. */
#include "raft/log_index.h"

#include "base/check.h"

enum { CAPACITY_MIN = 16 };

void log_index_init(struct log_index *index, uint64_t log_start, uint64_t start_term)
{
    CHECK(log_start >= 1);
    *index = (struct log_index){ .log_start = log_start,
                                 .start_term = start_term,
                                 .last_index = log_start - 1 };
}

void log_index_fini(struct log_index *index)
{
    mem_free(index->slots);
    mem_free(index->runs);
}

/* False: there is no memory. */
static bool ring_resize(struct log_index *index, struct mem_gate *gate, uint32_t capacity)
{
    struct log_slot *slots = mem_try_alloc(gate, (size_t)capacity * sizeof *slots);
    if (!slots) {
        return false;
    }
    uint64_t count = index->last_index - index->log_start + 1;
    CHECK(count <= capacity);
    for (uint64_t i = 0; i < count; i++) {
        slots[i] = *log_index_at(index, index->log_start + i);
    }
    mem_free(index->slots);
    index->slots = slots;
    index->capacity = capacity;
    index->head = 0;
    return true;
}

static bool ring_reserve(struct log_index *index, struct mem_gate *gate, uint32_t more)
{
    uint64_t needed = index->last_index - index->log_start + 1 + more;
    uint32_t capacity = index->capacity ? index->capacity : CAPACITY_MIN;
    CHECK(needed <= 1u << 30);
    while (capacity < needed) {
        capacity *= 2;
    }
    return capacity == index->capacity || ring_resize(index, gate, capacity);
}

static bool runs_reserve(struct log_index *index, struct mem_gate *gate, uint32_t more)
{
    if (index->run_count + more <= index->run_capacity) {
        return true;
    }
    size_t capacity = mem_try_grow(gate, &index->runs, index->run_capacity, index->run_count + more,
                                   sizeof *index->runs);
    index->run_capacity = capacity ? (uint32_t)capacity : index->run_capacity;
    return capacity != 0;
}

bool log_index_reserve(struct log_index *index, struct mem_gate *gate, uint32_t count,
                       uint32_t runs)
{
    return ring_reserve(index, gate, count) && runs_reserve(index, gate, runs);
}

struct log_slot *log_index_push(struct log_index *index)
{
    bool has_room = ring_reserve(index, NULL, 1);
    CHECK(has_room);
    index->last_index++;
    struct log_slot *slot = log_index_at(index, index->last_index);
    *slot = (struct log_slot){ 0 };
    return slot;
}

void log_index_push_term(struct log_index *index, uint64_t term)
{
    uint64_t last = index->run_count ? index->runs[index->run_count - 1].term : index->start_term;
    CHECK(term >= last);
    if (index->run_count && term == last) {
        return;
    }
    bool has_room = runs_reserve(index, NULL, 1);
    CHECK(has_room);
    index->runs[index->run_count++] = (struct raft_run){ index->last_index, term };
}

uint64_t log_index_term(const struct log_index *index, uint64_t i)
{
    if (i + 1 == index->log_start) {
        return index->start_term;
    }
    if (!log_index_has(index, i)) {
        return 0;
    }
    uint32_t low = 0, high = index->run_count; /* runs[low].first <= i < runs[high].first */
    CHECK(high > 0 && index->runs[0].first <= i);
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (index->runs[middle].first <= i) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return index->runs[low].term;
}

/* Gives back memory that a shrunken log no longer needs. */
static void ring_shrink(struct log_index *index)
{
    uint64_t count = index->last_index - index->log_start + 1;
    if (index->capacity > 1024 && count < index->capacity / 8) {
        ring_resize(index, NULL, index->capacity / 4); /* or later */
    }
}

void log_index_trim(struct log_index *index)
{
    uint64_t count = index->last_index - index->log_start + 1;
    uint32_t capacity = CAPACITY_MIN;
    while (capacity < count) {
        capacity *= 2;
    }
    if (capacity < index->capacity) {
        ring_resize(index, NULL, capacity);
    }
}

void log_index_truncate(struct log_index *index, uint64_t first)
{
    CHECK(first >= index->log_start && first <= index->last_index + 1);
    index->last_index = first - 1;
    while (index->run_count && index->runs[index->run_count - 1].first >= first) {
        index->run_count--;
    }
}

void log_index_cut(struct log_index *index, uint64_t log_start, uint64_t start_term)
{
    CHECK(log_start >= index->log_start);
    if (log_start > index->last_index + 1) {
        index->last_index = log_start - 1;
    }
    if (index->capacity) {
        index->head =
            (index->head + (uint32_t)(log_start - index->log_start)) & (index->capacity - 1);
    }
    index->log_start = log_start;
    index->start_term = start_term;
    uint32_t gone = 0;
    while (gone < index->run_count &&
           (gone + 1 < index->run_count ? index->runs[gone + 1].first : index->last_index + 1) <=
               log_start) {
        gone++;
    }
    if (gone > 0) {
        memmove(index->runs, index->runs + gone, (index->run_count - gone) * sizeof *index->runs);
    }
    index->run_count -= gone;
    if (index->run_count && index->runs[0].first < log_start) {
        index->runs[0].first = log_start;
    }
    ring_shrink(index);
}
