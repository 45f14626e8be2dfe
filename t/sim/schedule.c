/* Virtual time.
 *
 * A heap in one array, four children each; an event knows its place, so that it can be moved or
 * taken out in O(log n). What a move costs is telling the event, which lies anywhere: four children
 * make half as many moves as two.
 *
 * What happens next is taken out at the root, and mostly makes something else happen soon: so the
 * root stays empty until the next event is added, which sinks from there a little, or taken out.
 *
 * Invariants
 *   I1  heap[i] <= heap[4i+1] … heap[4i+4] by (at_us, sequence); sequences are unique, so the order
 *       of events is total and does not depend on how the heap came about. A root that is empty
 *       is before everything.
 *   I2  heap[i].event->slot == i + 1, but at an empty root. */
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

/* As one number of both, without a branch: which of two events comes first, nobody can guess. */
static inline bool is_before(const struct schedule_entry *a, const struct schedule_entry *b)
{
    return ((unsigned __int128)a->at_us << 64 | a->sequence) <
           ((unsigned __int128)b->at_us << 64 | b->sequence);
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

static inline uint32_t first_of(const struct schedule_entry *heap, uint32_t a, uint32_t b)
{
    return is_before(&heap[b], &heap[a]) ? b : a;
}

/* The child that comes first; the first of them exists. */
static uint32_t first_child(const struct schedule *schedule, uint32_t first)
{
    if (first + CHILDREN <= schedule->count) {
        return first_of(schedule->heap, first_of(schedule->heap, first, first + 1),
                        first_of(schedule->heap, first + 2, first + 3));
    }
    uint32_t child = first;
    for (uint32_t other = first + 1; other < schedule->count; other++) {
        child = first_of(schedule->heap, child, other);
    }
    return child;
}

static void sift_down(struct schedule *schedule, uint32_t at, struct schedule_entry entry)
{
    for (;;) {
        uint32_t child = CHILDREN * at + 1;
        if (child >= schedule->count) {
            break;
        }
        child = first_child(schedule, child);
        if (!is_before(&schedule->heap[child], &entry)) {
            break;
        }
        put(schedule, at, schedule->heap[child]);
        at = child;
    }
    put(schedule, at, entry);
}

/* The last entry takes the empty root's place. */
static void fill_root(struct schedule *schedule)
{
    if (schedule->is_root_empty) {
        schedule->is_root_empty = false;
        if (--schedule->count > 0) {
            sift_down(schedule, 0, schedule->heap[schedule->count]);
        }
    }
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
    if (schedule->is_root_empty) {
        schedule->is_root_empty = false;
        sift_down(schedule, 0, entry);
    } else {
        sift_up(schedule, schedule->count++, entry);
    }
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
    fill_root(schedule);
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
    fill_root(schedule);
    if (schedule->count == 0 || schedule->heap[0].at_us > until_us) {
        if (until_us > schedule->now_us) {
            schedule->now_us = until_us;
        }
        return NULL;
    }
    struct schedule_event *event = schedule->heap[0].event;
    CHECK(schedule->heap[0].at_us >= schedule->now_us);
    schedule->now_us = schedule->heap[0].at_us;
    event->slot = 0;
    schedule->is_root_empty = true;
    schedule->steps++;
    return event;
}

struct schedule_event *schedule_next_of(struct schedule *schedule, const struct env_sim *owner)
{
    fill_root(schedule);
    if (schedule->count == 0 || schedule->heap[0].at_us > schedule->now_us ||
        schedule->heap[0].event->owner != owner) {
        return NULL;
    }
    return schedule_next(schedule, schedule->now_us);
}
