/* Ordered keys in an arena, one structure per replica and generation.
 *
 * A node is one allocation: entry, links to its neighbours, key. The nodes of an overlay form a
 * doubly linked list in key order; above it stands an index of two levels: leaves of up to
 * LEAF_NODES node pointers, and a directory of the leaves. Both are `struct run`: a sorted array of
 * nodes with, beside it, eight bytes of each key from where the run's keys begin to differ (the
 * digest). Keys in one replica tend to share long beginnings, so a search compares digests, in a
 * few cache lines, and looks at a node only when digests are equal. A skip list here cost some 25
 * cache misses a search among 3,000 keys, most of the time of applying a put; this costs about six.
 *
 * Nodes are never removed, only marked deleted, and never move, so cursors hold plain pointers. An
 * overwrite replaces the entry in place.
 *
 * Invariants
 *   I1  Keys ascend strictly along the list and along every run; the directory's nodes are the
 *       leaves' first ones.
 *   I2  All keys of a run begin with its prefix: the prefix is at most what its first and last key
 *       share.
 *   I3  A node's attributes and its room for a value, once allocated, are its own for ever and reused
 *       by later overwrites: the arena grows with keys, not with operations. */
#include "store/overlay.h"

#include "base/check.h"
#include "base/limits.h"

enum {
    LEAF_NODES = 64,
    DIRECTORY_LEAVES_MIN = 8,
    /* Longer common beginnings are compared as far as this: the run's head stays within a cache
     * line or so. */
    PREFIX_BYTES_MAX = 48,
    /* A half of a split leaf gets a longer prefix only if it gains this many bytes: new digests
     * mean looking at every node. */
    PREFIX_GAIN_MIN = 4,
};

struct overlay_node {
    struct overlay_entry entry;
    struct attributes *attributes_room; /* I3 */
    struct overlay_node *next, *previous;
    uint16_t key_size, room; /* bytes of the room for a value, which stands behind the key */
    uint8_t key[];
};

struct run {
    uint32_t count;
    uint16_t prefix_size;
    uint8_t prefix[PREFIX_BYTES_MAX];
    uint64_t *digests;
    struct overlay_node **nodes;
};

struct leaf {
    struct run run;
    uint64_t digests[LEAF_NODES];
    struct overlay_node *nodes[LEAF_NODES];
};

struct overlay {
    struct generation *generation;
    struct overlay *next; /* in the generation */
    struct overlay_node *first, *last;
    size_t blobs; /* nodes that hold one */
    struct run directory;
    struct leaf **leaves;
    uint32_t leaves_capacity;
};

/* From what overlay_reserve found. */
static void *generation_take(struct generation *generation, size_t size)
{
    generation->bytes += size;
    return arena_take(&generation->arena, size);
}

struct generation *generation_new(struct mem_gate *gate)
{
    struct generation *generation = MEM_TRY_NEW(gate, struct generation);
    if (!generation) {
        return NULL;
    }
    generation->arena.gate = gate;
    generation->overlays_end = &generation->overlays;
    generation->arena.is_large = true;
    return generation;
}

bool generation_release(struct generation *generation, size_t limit)
{
    while (generation->overlays) {
        struct overlay *overlay = generation->overlays;
        struct overlay_node *node =
            generation->release_at ? generation->release_at : overlay->first;
        for (; node && overlay->blobs > 0 && limit > 0; limit--) {
            overlay->blobs -= node->entry.blob != NULL;
            blob_unref(node->entry.blob);
            node = node->next;
        }
        node = overlay->blobs > 0 ? node : NULL;
        generation->release_at = node;
        if (node) {
            return false;
        }
        generation->overlays = overlay->next;
    }
    arena_fini(&generation->arena);
    mem_free(generation);
    return true;
}

void generation_free(struct generation *generation)
{
    if (generation) {
        bool is_done = generation_release(generation, SIZE_MAX);
        CHECK(is_done);
    }
}

struct overlay *overlay_new(struct generation *generation)
{
    if (!arena_try_reserve(&generation->arena, sizeof(struct overlay), 1)) {
        return NULL;
    }
    struct overlay *overlay = generation_take(generation, sizeof *overlay);
    *overlay = (struct overlay){ .generation = generation };
    *generation->overlays_end = overlay;
    generation->overlays_end = &overlay->next;
    return overlay;
}

/* --- Runs */

static int compare_key(const struct overlay_node *node, struct span key)
{
    size_t size = node->key_size < key.size ? node->key_size : key.size;
    int order = memcmp(node->key, key.data, size);
    return order != 0 ? order : (node->key_size > key.size) - (node->key_size < key.size);
}

/* Eight bytes of the key from `offset`, so that they compare as numbers; zeroes behind the end.
 * Different digests order as their keys do: where a shorter key is padded, it is a prefix of the
 * other one or differs earlier. */
static uint64_t digest_of(struct span key, size_t offset)
{
    uint64_t bytes = 0;
    size_t size = key.size - offset;
    if (size >= 8) {
        memcpy(&bytes, key.data + offset, 8);
    } else {
        memcpy(&bytes, key.data + offset, size);
    }
    return __builtin_bswap64(bytes);
}

/* Where the key stands against all keys of the run: < 0 below, > 0 above, 0: it shares the
 * prefix. */
static int compare_prefix(const struct run *run, struct span key)
{
    size_t size = key.size < run->prefix_size ? key.size : run->prefix_size;
    int order = memcmp(key.data, run->prefix, size);
    return order != 0 ? order : -(key.size < run->prefix_size);
}

/* How many of the run's digests are below this one. Which way it goes nobody can foresee, so there are no branches. */
static uint32_t digests_below(const struct run *run, uint64_t digest)
{
    const uint64_t *base = run->digests;
    uint32_t left = run->count;
    while (left > 1) {
        uint32_t half = left / 2;
        base += half & -(uint32_t)(base[half - 1] < digest);
        left -= half;
    }
    return (uint32_t)(base - run->digests) + (left == 1 && *base < digest);
}

/* How many of the run's keys are below the key; *equal is the node with that very key, if it is
 * there. */
static uint32_t run_search(const struct run *run, struct span key, struct overlay_node **equal)
{
    int side = compare_prefix(run, key);
    if (side != 0) {
        return side < 0 ? 0 : run->count;
    }
    uint64_t digest = digest_of(key, run->prefix_size);
    uint32_t low = digests_below(run, digest), high = low;
    high += low < run->count && run->digests[low] == digest;
    if (high > low && high < run->count && run->digests[high] == digest) {
        high = digest == UINT64_MAX ? run->count : digests_below(run, digest + 1);
    }
    while (low < high) { /* those with the same digest, mostly one, are compared as keys */
        uint32_t middle = low + (high - low) / 2;
        int order = compare_key(run->nodes[middle], key);
        if (order == 0) {
            *equal = run->nodes[middle];
            return middle;
        }
        if (order < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static size_t common_size(const struct overlay_node *a, const struct overlay_node *b)
{
    size_t size = a->key_size < b->key_size ? a->key_size : b->key_size, at = 0;
    size = size < PREFIX_BYTES_MAX ? size : PREFIX_BYTES_MAX;
    while (at < size && a->key[at] == b->key[at]) {
        at++;
    }
    return at;
}

static void run_set_prefix(struct run *run, size_t size)
{
    run->prefix_size = (uint16_t)size;
    memcpy(run->prefix, run->nodes[0]->key, size);
    for (uint32_t i = 0; i < run->count; i++) {
        run->digests[i] = digest_of(overlay_key(run->nodes[i]), size);
    }
}

/* Sets the node at `slot`, which is new there: keeps I2, and the slot's digest. */
static void run_set(struct run *run, uint32_t slot, struct overlay_node *node)
{
    run->nodes[slot] = node;
    if (slot == 0 || slot == run->count - 1) { /* the run may have widened */
        size_t size = common_size(run->nodes[0], run->nodes[run->count - 1]);
        if (size < run->prefix_size || run->count == 1) {
            run_set_prefix(run, size);
            return;
        }
    }
    run->digests[slot] = digest_of(overlay_key(node), run->prefix_size);
}

static void run_insert(struct run *run, uint32_t slot, struct overlay_node *node)
{
    size_t above = run->count - slot;
    memmove(&run->digests[slot + 1], &run->digests[slot], above * sizeof run->digests[0]);
    memmove(&run->nodes[slot + 1], &run->nodes[slot], above * sizeof run->nodes[0]);
    run->count++;
    run_set(run, slot, node);
}

/* --- Leaves */

static struct leaf *leaf_new(struct overlay *overlay)
{
    struct leaf *leaf = generation_take(overlay->generation, sizeof *leaf);
    leaf->run = (struct run){ .digests = leaf->digests, .nodes = leaf->nodes };
    return leaf;
}

static uint32_t directory_grown(const struct overlay *overlay)
{
    return overlay->leaves_capacity ? overlay->leaves_capacity * 2 : DIRECTORY_LEAVES_MIN;
}

/* Twice the room for the directory; the old arrays stay in the arena. */
static void directory_grow(struct overlay *overlay)
{
    struct generation *generation = overlay->generation;
    struct run *directory = &overlay->directory;
    uint32_t capacity = directory_grown(overlay), count = directory->count;
    uint64_t *digests = generation_take(generation, capacity * sizeof *digests);
    struct overlay_node **nodes = generation_take(generation, capacity * sizeof *nodes);
    struct leaf **leaves = generation_take(generation, capacity * sizeof *leaves);
    if (count > 0) {
        memcpy(digests, directory->digests, count * sizeof *digests);
        memcpy(nodes, directory->nodes, count * sizeof *nodes);
        memcpy(leaves, overlay->leaves, count * sizeof *leaves);
    }
    directory->digests = digests;
    directory->nodes = nodes;
    overlay->leaves = leaves;
    overlay->leaves_capacity = capacity;
}

/* Adds a leaf, whose first node is known, at position `at`. */
static void directory_insert(struct overlay *overlay, uint32_t at, struct leaf *leaf,
                             struct overlay_node *first)
{
    if (overlay->directory.count == overlay->leaves_capacity) {
        directory_grow(overlay);
    }
    memmove(&overlay->leaves[at + 1], &overlay->leaves[at],
            (overlay->directory.count - at) * sizeof overlay->leaves[0]);
    overlay->leaves[at] = leaf;
    run_insert(&overlay->directory, at, first);
}

static void leaf_refine_prefix(struct leaf *leaf)
{
    size_t size = common_size(leaf->nodes[0], leaf->nodes[leaf->run.count - 1]);
    if (size >= leaf->run.prefix_size + (size_t)PREFIX_GAIN_MIN) {
        run_set_prefix(&leaf->run, size);
    }
}

/* Moves the upper half of the full leaf at `at` into a new one behind it. */
static void leaf_split(struct overlay *overlay, uint32_t at)
{
    struct leaf *low = overlay->leaves[at], *high = leaf_new(overlay);
    uint32_t half = LEAF_NODES / 2;
    high->run.prefix_size = low->run.prefix_size;
    memcpy(high->run.prefix, low->run.prefix, low->run.prefix_size);
    memcpy(high->digests, &low->digests[half], (LEAF_NODES - half) * sizeof low->digests[0]);
    memcpy(high->nodes, &low->nodes[half], (LEAF_NODES - half) * sizeof low->nodes[0]);
    high->run.count = LEAF_NODES - half;
    low->run.count = half;
    leaf_refine_prefix(low);
    leaf_refine_prefix(high);
    directory_insert(overlay, at + 1, high, high->nodes[0]);
}

/* --- Searching and adding */

/* All of it at once: a search and the insertion behind it would wait for one cache line after the
 * other. */
static void prefetch_leaf(const struct leaf *leaf)
{
    mem_prefetch(leaf, sizeof *leaf);
}

static void seek(const struct overlay *overlay, struct span key, bool is_to_insert,
                 struct overlay_place *place)
{
    *place = (struct overlay_place){ 0 };
    if (overlay->directory.count == 0) {
        return;
    }
    uint32_t above = run_search(&overlay->directory, key, &place->node);
    if (place->node) {
        place->leaf = above; /* its first */
        return;
    }
    place->leaf = above > 0 ? above - 1 : 0;
    const struct leaf *leaf = overlay->leaves[place->leaf];
    if (is_to_insert) {
        prefetch_leaf(leaf);
    }
    place->slot = run_search(&leaf->run, key, &place->node);
}

const void *overlay_prefetch_leaf(const struct overlay *overlay, struct span key)
{
    if (!overlay || overlay->directory.count == 0) {
        return NULL;
    }
    struct overlay_node *first = NULL;
    uint32_t above = run_search(&overlay->directory, key, &first);
    const struct leaf *leaf = overlay->leaves[first || above == 0 ? above : above - 1];
    prefetch_leaf(leaf);
    return leaf;
}

void overlay_prefetch_nodes(const void *of, struct span key)
{
    const struct leaf *leaf = of;
    if (!leaf || compare_prefix(&leaf->run, key) != 0) {
        return;
    }
    uint32_t slot = digests_below(&leaf->run, digest_of(key, leaf->run.prefix_size));
    if (slot > 0) {
        __builtin_prefetch(leaf->nodes[slot - 1]);
    }
    if (slot < leaf->run.count) {
        __builtin_prefetch(leaf->nodes[slot]);
    }
}

void overlay_seek(const struct overlay *overlay, struct span key, struct overlay_place *place)
{
    seek(overlay, key, true, place);
}

/* The last node below the place; NULL: none. */
static struct overlay_node *place_previous(const struct overlay *overlay,
                                           const struct overlay_place *place)
{
    if (place->slot > 0) {
        return overlay->leaves[place->leaf]->nodes[place->slot - 1];
    }
    return place->leaf > 0 ? overlay->leaves[place->leaf]->nodes[0]->previous : NULL;
}

static void link_node(struct overlay *overlay, struct overlay_node *node,
                      struct overlay_node *previous)
{
    node->previous = previous;
    node->next = previous ? previous->next : overlay->first;
    *(previous ? &previous->next : &overlay->first) = node;
    *(node->next ? &node->next->previous : &overlay->last) = node;
}

/* Makes room at the place, which moves if its leaf is split. Keys that only ascend leave full
 * leaves behind. */
static void make_room(struct overlay *overlay, struct overlay_place *place,
                      struct overlay_node *node)
{
    if (overlay->leaves[place->leaf]->run.count < LEAF_NODES) {
        return;
    }
    if (place->slot == LEAF_NODES && place->leaf == overlay->directory.count - 1) {
        directory_insert(overlay, ++place->leaf, leaf_new(overlay), node);
        place->slot = 0;
        return;
    }
    leaf_split(overlay, place->leaf);
    uint32_t half = overlay->leaves[place->leaf]->run.count;
    if (place->slot > half) {
        place->leaf++;
        place->slot -= half;
    }
}

/* What a new node gets for a value of this size. */
static size_t room_for(size_t value_size)
{
    return value_size <= OVERLAY_VALUE_MAX ? value_size : 0;
}

bool overlay_reserve(struct overlay *overlay, const struct overlay_place *place, struct span key,
                     size_t value_size)
{
    enum { PIECES = 6 }; /* node, attributes, leaf, the directory's three arrays */
    size_t bytes =
        sizeof(struct overlay_node) + key.size + room_for(value_size) + sizeof(struct attributes);
    bool is_new = place->node == NULL;
    if (is_new &&
        (overlay->directory.count == 0 || overlay->leaves[place->leaf]->run.count == LEAF_NODES)) {
        bytes += sizeof(struct leaf);
        if (overlay->directory.count == overlay->leaves_capacity) {
            bytes += directory_grown(overlay) *
                     (sizeof(uint64_t) + sizeof(struct overlay_node *) + sizeof(struct leaf *));
        }
    }
    return arena_try_reserve(&overlay->generation->arena, bytes, PIECES);
}

struct overlay_node *overlay_insert(struct overlay *overlay, const struct overlay_place *where,
                                    struct span key, size_t value_size)
{
    CHECK(where->node == NULL && key.size > 0 && key.size <= LIMIT_KEY_BYTES);
    struct overlay_place place = *where;
    size_t room = room_for(value_size);
    struct overlay_node *node =
        generation_take(overlay->generation, sizeof *node + key.size + room);
    memset(node, 0, sizeof *node);
    node->key_size = (uint16_t)key.size;
    node->room = (uint16_t)room;
    memcpy(node->key, key.data, key.size);
    link_node(overlay, node, place_previous(overlay, &place));
    if (overlay->directory.count == 0) {
        directory_insert(overlay, 0, leaf_new(overlay), node);
    } else {
        make_room(overlay, &place, node);
    }
    run_insert(&overlay->leaves[place.leaf]->run, place.slot, node);
    if (place.slot == 0) {
        run_set(&overlay->directory, place.leaf, node);
    }
    return node;
}

static size_t blob_bytes(const struct blob *blob)
{
    return blob ? sizeof *blob + blob->size : 0;
}

uint64_t overlay_padding(size_t value_size)
{
    enum { PAGE = 4096, HEAD = 80, SMALL = 1280 };
    return value_size < SMALL ? value_size / 2 : PAGE - 1 - (value_size + HEAD - 1) % PAGE;
}

struct blob *overlay_set(struct overlay *overlay, struct overlay_node *node,
                         const struct overlay_entry *entry, const struct attributes *attributes)
{
    CHECK(entry->blob != NULL || entry->value.size <= node->room);
    struct generation *generation = overlay->generation;
    struct blob *old = node->entry.blob;
    overlay->blobs += entry->blob != NULL;
    overlay->blobs -= old != NULL;
    generation->bytes += blob_bytes(entry->blob);
    generation->bytes -= blob_bytes(old);
    generation->padding += overlay_padding(entry->value.size);
    generation->padding -= overlay_padding(node->entry.value.size);
    node->entry = *entry;
    if (!entry->blob && entry->value.size > 0) {
        uint8_t *room = node->key + node->key_size;
        if (entry->value.data != room) { /* else only its attributes change */
            memcpy(room, entry->value.data, entry->value.size);
        }
        node->entry.value.data = room;
    }
    node->entry.attributes = NULL;
    if (attributes->mask != 0) {
        if (!node->attributes_room) {
            node->attributes_room = generation_take(generation, sizeof *attributes);
        }
        *node->attributes_room = *attributes;
        node->entry.attributes = node->attributes_room;
    }
    return old;
}

/* --- Reading */

const struct overlay_node *overlay_find(const struct overlay *overlay, struct span key)
{
    struct overlay_place place = { 0 };
    if (overlay) {
        seek(overlay, key, false, &place);
    }
    return place.node;
}

const struct overlay_node *overlay_first(const struct overlay *overlay)
{
    return overlay ? overlay->first : NULL;
}

const struct overlay_node *overlay_last(const struct overlay *overlay)
{
    return overlay ? overlay->last : NULL;
}

const struct overlay_node *overlay_before(const struct overlay *overlay, struct span key)
{
    if (!overlay) {
        return NULL;
    }
    struct overlay_place place;
    seek(overlay, key, false, &place);
    return place_previous(overlay, &place);
}

const struct overlay_node *overlay_at_or_after(const struct overlay *overlay, struct span key)
{
    const struct overlay_node *before = overlay_before(overlay, key);
    return before ? before->next : overlay_first(overlay);
}

const struct overlay_node *overlay_next(const struct overlay_node *node)
{
    return node->next;
}

const struct overlay_node *overlay_previous(const struct overlay_node *node)
{
    return node->previous;
}

size_t overlay_room(const struct overlay_node *node)
{
    return node->room;
}

struct span overlay_key(const struct overlay_node *node)
{
    return span_of(node->key, node->key_size);
}

const struct overlay_entry *overlay_entry(const struct overlay_node *node)
{
    return &node->entry;
}

void overlay_record(const struct overlay_node *node, struct record *out)
{
    const struct overlay_entry *entry = &node->entry;
    CHECK(!entry->is_deleted);
    *out = (struct record){ .version = entry->version, .time = entry->time, .value = entry->value };
    if (entry->attributes) {
        out->attributes = *entry->attributes;
    }
}
