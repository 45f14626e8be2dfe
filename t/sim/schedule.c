/* Virtual time.
 *
 * A heap in one array, four children each; an event knows its place, so that it can be moved or
 * taken out in O(log n). What a move costs is telling the event, which lies anywhere: four children
 * make half as many moves as two.
 *
 * Invariants
 *   I1  heap[i] <= heap[4i+1] … heap[4i+4] by (at_us, sequence); sequences are unique, so the order
 *       of events is total and does not depend on how the heap came about.
 *   I2  heap[i].event->slot == i + 1. */
#include "sim/schedule.h"

#include "base/check.h"
#include "base/mem.h"

enum { CHILDREN = 4 };

void schedule_init(struct schedule *schedule, uint64_t start_us)
{
    *schedule = (struct schedule){ .now_us = start_us, .capacity = 256 };
    schedule->heap = mem_alloc(schedule->capacity * sizeof *schedule->heap);
}

void schedule_fini(struct schedule *schedule)
{
    mem_free(schedule->heap);
    schedule->heap = NULL;
}

static bool is_before(const struct schedule_entry *a, const struct schedule_entry *b)
{
    return a->at_us != b->at_us ? a->at_us < b->at_us : a->sequence < b->sequence;
}

static void put(struct schedule *schedule, uint32_t at, struct schedule_entry entry)
{
    schedule->heap[at] = entry;
    entry.event->slot = at + 1;
}

static void sift_up(struct schedule *schedule, uint32_t at, struct schedule_entry entry)
{
    while (at > 0) {
        uint32_t parent = (at - 1) / CHILDREN;
        if (!is_before(&entry, &schedule->heap[parent])) {
            break;
        }
        put(schedule, at, schedule->heap[parent]);
        at = parent;
    }
    put(schedule, at, entry);
}

static void sift_down(struct schedule *schedule, uint32_t at, struct schedule_entry entry)
{
    for (;;) {
        uint32_t child = CHILDREN * at + 1;
        if (child >= schedule->count) {
            break;
        }
        uint32_t end = child + CHILDREN < schedule->count ? child + CHILDREN : schedule->count;
        for (uint32_t other = child + 1; other < end; other++) {
            if (is_before(&schedule->heap[other], &schedule->heap[child])) {
                child = other;
            }
        }
        if (!is_before(&schedule->heap[child], &entry)) {
            break;
        }
        put(schedule, at, schedule->heap[child]);
        at = child;
    }
    put(schedule, at, entry);
}

void schedule_add(struct schedule *schedule, struct schedule_event *event, uint64_t at_us)
{
    CHECK(event->run != NULL);
    schedule_remove(schedule, event);
    if (schedule->count == schedule->capacity) {
        schedule->capacity *= 2;
        schedule->heap = mem_realloc(schedule->heap, schedule->capacity * sizeof *schedule->heap);
    }
    uint64_t at = at_us > schedule->now_us ? at_us : schedule->now_us;
    struct schedule_entry entry = { at, ++schedule->sequence, event };
    sift_up(schedule, schedule->count++, entry);
}

void schedule_remove(struct schedule *schedule, struct schedule_event *event)
{
    if (event->slot == 0) {
        return;
    }
    uint32_t at = event->slot - 1;
    CHECK(at < schedule->count && schedule->heap[at].event == event);
    event->slot = 0;
    struct schedule_entry last = schedule->heap[--schedule->count];
    if (at == schedule->count) {
        return;
    }
    if (at > 0 && is_before(&last, &schedule->heap[(at - 1) / CHILDREN])) {
        sift_up(schedule, at, last);
    } else {
        sift_down(schedule, at, last);
    }
}

void schedule_remove_owner(struct schedule *schedule, const struct env_sim *owner)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < schedule->count; i++) {
        struct schedule_entry entry = schedule->heap[i];
        if (entry.event->owner == owner) {
            entry.event->slot = 0;
        } else {
            put(schedule, kept++, entry);
        }
    }
    schedule->count = kept;
    for (uint32_t i = kept; i-- > 0;) {
        sift_down(schedule, i, schedule->heap[i]);
    }
}

struct schedule_event *schedule_next(struct schedule *schedule, uint64_t until_us)
{
    if (schedule->count == 0 || schedule->heap[0].at_us > until_us) {
        if (until_us > schedule->now_us) {
            schedule->now_us = until_us;
        }
        return NULL;
    }
    struct schedule_event *event = schedule->heap[0].event;
    CHECK(schedule->heap[0].at_us >= schedule->now_us);
    schedule->now_us = schedule->heap[0].at_us;
    schedule_remove(schedule, event);
    schedule->steps++;
    return event;
}

struct schedule_event *schedule_next_of(struct schedule *schedule, const struct env_sim *owner)
{
    if (schedule->count == 0 || schedule->heap[0].at_us > schedule->now_us ||
        schedule->heap[0].event->owner != owner) {
        return NULL;
    }
    return schedule_next(schedule, schedule->now_us);
}
