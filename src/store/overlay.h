/* The overlay: what was applied and isn't in LMDB yet. A generation is one arena with an ordered
 * structure per replica (struct overlay); the store has an active one, and a frozen one while it is
 * being flushed.
 *
 * A frozen generation doesn't change: the flush job walks it on its own thread. Blobs are counted
 * on the loop thread only. */
#ifndef STORE_OVERLAY_H
#define STORE_OVERLAY_H

#include <stdbool.h>

#include "base/mem.h"
#include "store/record.h"

/* Values up to this size are copied into the arena beside their keys. A log entry's blob then lives for some milliseconds instead of
 * as long as the generation: memory that is still in the processor's cache when it is used again, and no allocation a key. */
enum { OVERLAY_VALUE_MAX = BLOB_SUM_MIN - 1 };

/* What a key became in this generation. */
struct overlay_entry {
    struct blob *blob; /* holds the value; NULL: the node does, or it is empty or deleted */
    struct span value;
    uint64_t version, time;
    struct attributes *attributes; /* in the arena; NULL: none */
    uint32_t checksum;             /* of key and value: record_content_checksum */
    bool is_deleted;               /* a tombstone: hides what is below */
    bool is_blind; /* the key's first put in this generation did not look whether it exists below */
    bool is_past_mark; /* the key was changed before the generation's mark too, and this is later */
};

struct overlay;
struct overlay_node;

struct generation {
    struct arena arena;
    struct overlay *overlays; /* all of them, in order of making */
    struct overlay **overlays_end;
    uint64_t bytes;                  /* nodes, and the blobs that they hold */
    uint64_t padding;                /* what LMDB will take beyond `bytes`, see overlay_padding */
    uint64_t operations;             /* commands applied: overwrites count too */
    uint64_t marks;                  /* of them */
    struct overlay_node *release_at; /* generation_release's place */
};

/* What a value takes in LMDB beyond its size, about: large ones fill whole pages of their own, and
 * pages of small ones are seldom full. */
uint64_t overlay_padding(size_t value_size);

/* NULL: there is no memory. gate: for what it will hold, NULL as a rule. */
struct generation *generation_new(struct mem_gate *gate);
/* Drops up to `limit` entries' blobs; when none is left, frees the generation and returns true.
 * Freeing a large generation at once would stall the loop. The generation must not be used
 * otherwise any more. */
bool generation_release(struct generation *generation, size_t limit);
void generation_free(struct generation *generation); /* all at once; NULL allowed */

/* An empty overlay in the generation's arena; lives as long as the generation. NULL: there is no memory. */
struct overlay *overlay_new(struct generation *generation);

/* Where a key stands or would stand. Good until the next overlay_insert. */
struct overlay_place {
    struct overlay_node *node; /* the key's own, or NULL */
    uint32_t leaf, slot;
};
void overlay_seek(const struct overlay *overlay, struct span key, struct overlay_place *place);
/* Room for what overlay_insert (where the place has no node) and overlay_set will add at the place. False: there is no memory. */
bool overlay_reserve(struct overlay *overlay, const struct overlay_place *place, struct span key,
                     size_t value_size);
/* Adds a key that overlay_seek did not find; its entry is zeroed, the caller fills it with
 * overlay_set. The key is copied. The node gets room for a value of that size if it is at most OVERLAY_VALUE_MAX. */
struct overlay_node *overlay_insert(struct overlay *overlay, const struct overlay_place *place,
                                    struct span key, size_t value_size);
/* The largest value that the node can hold itself. */
size_t overlay_room(const struct overlay_node *node);
/* Replaces a node's entry; takes the reference to entry->blob; attributes (mask 0: none) are
 * copied, as is a value without a blob, into the node, where nobody may be reading the one before. Returns the blob that the entry held before (the caller drops it when nobody reads it any
 * more), or NULL. */
struct blob *overlay_set(struct overlay *overlay, struct overlay_node *node,
                         const struct overlay_entry *entry, const struct attributes *attributes);

/* Hints: the leaf in which a key will be searched, fetched; then the key's neighbours in it. NULL: nothing is there. */
const void *overlay_prefetch_leaf(const struct overlay *overlay, struct span key);
void overlay_prefetch_nodes(const void *leaf, struct span key);

/* Reading. Nodes stay where they are as long as the generation lives. NULL: no such node. An
 * overlay may be NULL: empty. */
const struct overlay_node *overlay_find(const struct overlay *overlay, struct span key);
const struct overlay_node *overlay_first(const struct overlay *overlay);
const struct overlay_node *overlay_last(const struct overlay *overlay);
const struct overlay_node *overlay_at_or_after(const struct overlay *overlay, struct span key);
const struct overlay_node *overlay_before(const struct overlay *overlay, struct span key);
const struct overlay_node *overlay_next(const struct overlay_node *node);
const struct overlay_node *overlay_previous(const struct overlay_node *node);
struct span overlay_key(const struct overlay_node *node);
const struct overlay_entry *overlay_entry(const struct overlay_node *node);
void overlay_record(const struct overlay_node *node, struct record *out);

#endif
