/* Hash table from 64-bit integers to pointers; open addressing, grows at 3/4. Iteration is in insertion-independent but
 * deterministic order (by slot), so the simulator may use it. A zeroed struct is an empty table. */
#ifndef BASE_HASHTAB_H
#define BASE_HASHTAB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mem_gate; /* base/mem.h */

struct hashtab {
    struct hashtab_slot *slots;
    size_t capacity; /* power of two, or 0 */
    size_t count;
    size_t tombstones;
};
/* Keys are any 64-bit values; values are non-NULL. Put replaces and returns the earlier value, or NULL. */
void *hashtab_put(struct hashtab *table, uint64_t key, void *value);
/* The next put will find room. False: there is no memory, nothing changed. gate: may be NULL. */
bool hashtab_try_reserve(struct hashtab *table, struct mem_gate *gate);
void *hashtab_find(const struct hashtab *table, uint64_t key);
/* A hint: fetches the place where hashtab_find will look first. */
void hashtab_prefetch(const struct hashtab *table, uint64_t key);
/* Removes and returns the value, or NULL. */
void *hashtab_take(struct hashtab *table, uint64_t key);
/* Iterates: *position starts at 0; returns NULL at the end. The current pair may be taken, none may be put meanwhile. */
void *hashtab_next(const struct hashtab *table, size_t *position, uint64_t *key);
void hashtab_fini(struct hashtab *table);

#endif
