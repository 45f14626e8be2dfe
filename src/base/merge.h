/* Merges many sorted sources of keys into one order.
 *
 *     merge_init(&merge, room, count, is_reverse);
 *     merge_enter(&merge, i, key);                  for each source that has a key
 *     merge_begin(&merge);
 *     while ((i = merge_first(&merge)) != MERGE_NONE) {
 *         … merge_key(&merge, i) …
 *         merge_next(&merge, key);  or, at the source's end:  merge_end(&merge);
 *     }
 */
#ifndef BASE_MERGE_H
#define BASE_MERGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"

enum { MERGE_NONE = UINT32_MAX };

struct merge_match;

/* To be seen by merge.c only. */
struct merge {
    struct merge_match *matches;
    struct span *keys;
    uint32_t count;
    bool is_reverse;
};

/* What merge_init needs of memory, aligned as malloc's; for 1 to 2^31 sources. */
size_t merge_room(size_t count);
/* The room is the merge's as long as it is used; there is nothing to free. is_reverse: greatest key first. */
void merge_init(struct merge *merge, void *room, size_t count, bool is_reverse);
/* A source's first key; who doesn't enter has none. Keys have 1 to LIMIT_KEY_BYTES bytes; they are borrowed until merge_next
 * has been given the source's next one. A source's keys come in strict order, else the merge's come in no order, but all come. */
void merge_enter(struct merge *merge, uint32_t source, struct span key);
void merge_begin(struct merge *merge);
/* The source whose key is next; equal keys come one after another. MERGE_NONE: all have ended. */
uint32_t merge_first(const struct merge *merge);
struct span merge_key(const struct merge *merge, uint32_t source);
/* The first source moves on to its next key, or has none. */
void merge_next(struct merge *merge, struct span key);
void merge_end(struct merge *merge);

#endif
