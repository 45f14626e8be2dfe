/* Virtual time: a heap of events ordered by (time, sequence). Events are embedded in what they belong to, so that scheduling
 * allocates nothing. */
#ifndef SIM_SCHEDULE_H
#define SIM_SCHEDULE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/hash.h"

struct env_sim;

/* Embed it; zeroed is idle. */
struct schedule_event {
    void (*run)(struct schedule_event *event);
    struct env_sim *owner; /* the process it happens in; NULL: the world */
    uint32_t slot;         /* place in the heap + 1; 0: idle */
};

struct schedule {
    uint64_t now_us;
    uint64_t sequence;
    uint64_t steps;
    uint64_t hash; /* of everything that happened: equal for equal seeds */
    struct schedule_entry {
        uint64_t at_us, sequence;
        struct schedule_event *event;
    } *heap;
    uint32_t count, capacity;
    bool is_root_empty; /* heap[0] counts, and is none */
};

void schedule_init(struct schedule *schedule, uint64_t start_us);
void schedule_fini(struct schedule *schedule);
/* (Re)schedules. A time in the past means now, after what is already due. */
void schedule_add(struct schedule *schedule, struct schedule_event *event, uint64_t at_us);
/* Takes it out; idle ones are fine. */
void schedule_remove(struct schedule *schedule, struct schedule_event *event);
/* Takes out all events of one process. */
void schedule_remove_owner(struct schedule *schedule, const struct env_sim *owner);
/* Takes out the next event and moves the time to it; NULL when there is none or it is later than `until_us` (then the time moves
 * to until_us). */
struct schedule_event *schedule_next(struct schedule *schedule, uint64_t until_us);

/* The next event if it is due now and belongs to that process; else NULL. */
struct schedule_event *schedule_next_of(struct schedule *schedule, const struct env_sim *owner);

static inline bool schedule_is_waiting(const struct schedule_event *event) { return event->slot != 0; }

/* Mixes something that happened into the trace hash. */
static inline void schedule_note(struct schedule *schedule, uint64_t what)
{
    schedule->hash = hash_u64(schedule->hash ^ what) + what;
}

#endif
