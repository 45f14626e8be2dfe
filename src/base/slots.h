/* Things in use, by an id that is given out with each: found without hashing, in memory that was used just now. For ids that somebody
 * else keeps and sends back, as a peer does with a request's.
 *
 * An id is (how often its slot was used) << 24 | slot, so that the id of a thing that was taken names nothing, also when its slot
 * holds another. It comes again after the slot was used 2^40 times. 0 is never an id. A zeroed struct is empty. */
#ifndef BASE_SLOTS_H
#define BASE_SLOTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mem_gate; /* base/mem.h */

enum { SLOTS_MAX = 1 << 24 }; /* things at a time; more: as if there were no memory */

struct slots {
    struct slots_entry *entries;
    size_t capacity, count;
    uint32_t first_free; /* 1 + its number; 0: all are used */
};

/* The next put will find room. False: there is no memory, nothing changed. gate: may be NULL. */
bool slots_try_reserve(struct slots *slots, struct mem_gate *gate);
/* Takes on a value (not NULL), for which slots_try_reserve found room; returns its id. */
uint64_t slots_put(struct slots *slots, void *value);
/* NULL: the id names nothing. Any number may be asked for. */
void *slots_find(const struct slots *slots, uint64_t id);
/* Removes and returns the value, or NULL. */
void *slots_take(struct slots *slots, uint64_t id);
/* Iterates by slot: *position starts at 0; NULL at the end. The current value may be taken, none may be put meanwhile. */
void *slots_next(const struct slots *slots, size_t *position);
void slots_fini(struct slots *slots);

#endif
