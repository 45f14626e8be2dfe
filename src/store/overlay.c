/* Skip lists in an arena, one per replica and generation.
 *
 * A node is one allocation: entry, links, key. Nodes are never removed, only marked deleted, so cursors hold plain pointers. An
 * overwrite replaces the entry in place. Heights come from a counter through a hash: the structure is the same in every run.
 * A skip list rather than a hash table sorted at the flush, because scans need the order at any time.
 *
 * Invariants
 *   I1  Keys ascend strictly along every level; `previous` mirrors level 0, NULL at the first.
 *   I2  A node's attributes, once allocated, are its own for ever and reused by later overwrites: the arena grows with keys, not
 *       with operations. */
#include "store/overlay.h"

#include "base/check.h"
#include "base/hash.h"
#include "base/limits.h"

struct overlay_node {
    struct overlay_entry entry;
    struct attributes *attributes_room; /* I2 */
    struct overlay_node *previous;
    uint16_t key_size;
    uint8_t height;
    struct overlay_node *next[]; /* height of them, then the key */
};

struct overlay {
    struct generation *generation;
    struct overlay *next; /* in the generation */
    struct overlay_node *last;
    struct overlay_node *head; /* no key, full height */
    unsigned height;           /* of the highest node */
};

static uint8_t *node_key(const struct overlay_node *node)
{
    return (uint8_t *)&node->next[node->height];
}

static struct overlay_node *node_new(struct generation *generation, unsigned height, struct span key)
{
    struct overlay_node *node;
    size_t size = sizeof *node + height * sizeof node->next[0] + key.size;
    node = arena_alloc(&generation->arena, size);
    memset(node, 0, sizeof *node + height * sizeof node->next[0]);
    node->height = (uint8_t)height;
    node->key_size = (uint16_t)key.size;
    if (key.size > 0) {
        memcpy(node_key(node), key.data, key.size);
    }
    generation->bytes += size;
    return node;
}

struct generation *generation_new(void)
{
    struct generation *generation = MEM_NEW(struct generation);
    generation->overlays_end = &generation->overlays;
    return generation;
}

bool generation_release(struct generation *generation, size_t limit)
{
    while (generation->overlays) {
        struct overlay *overlay = generation->overlays;
        struct overlay_node *node = generation->release_at ? generation->release_at : overlay->head->next[0];
        for (; node && limit > 0; limit--) {
            blob_unref(node->entry.blob);
            node = node->next[0];
        }
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
    struct overlay *overlay = arena_alloc(&generation->arena, sizeof *overlay);
    *overlay = (struct overlay){ .generation = generation, .height = 1 };
    overlay->head = node_new(generation, OVERLAY_HEIGHT_MAX, span_of(NULL, 0));
    *generation->overlays_end = overlay;
    generation->overlays_end = &overlay->next;
    return overlay;
}

static int compare_key(const struct overlay_node *node, struct span key)
{
    size_t size = node->key_size < key.size ? node->key_size : key.size;
    int order = memcmp(node_key(node), key.data, size);
    return order != 0 ? order : (node->key_size > key.size) - (node->key_size < key.size);
}

/* The last node below the key on every level into before[] (NULL allowed), and returns that of level 0 (the head if none). */
static struct overlay_node *descend(const struct overlay *overlay, struct span key, struct overlay_node **before,
                                    struct overlay_node **equal)
{
    struct overlay_node *at = overlay->head;
    const struct overlay_node *not_below = NULL; /* compared already, one level up */
    *equal = NULL;
    for (unsigned level = overlay->height; level-- > 0;) {
        struct overlay_node *next;
        while ((next = at->next[level]) != NULL && next != not_below) {
            int order = compare_key(next, key);
            if (order >= 0) {
                not_below = next;
                *equal = order == 0 ? next : *equal;
                break;
            }
            at = next;
        }
        if (before) {
            before[level] = at;
        } else if (*equal) {
            return NULL; /* found, and nobody asks for the way */
        }
    }
    return at;
}

void overlay_seek(const struct overlay *overlay, struct span key, struct overlay_place *place)
{
    descend(overlay, key, place->before, &place->node);
}

/* 1 with probability 3/4, 2 with 3/16, and so on. */
static unsigned next_height(struct generation *generation)
{
    uint64_t bits = hash_u64(++generation->height_counter) | 1ull << (2 * (OVERLAY_HEIGHT_MAX - 1));
    return 1 + (unsigned)__builtin_ctzll(bits) / 2;
}

struct overlay_node *overlay_insert(struct overlay *overlay, const struct overlay_place *place, struct span key)
{
    CHECK(place->node == NULL && key.size > 0 && key.size <= LIMIT_KEY_BYTES);
    struct generation *generation = overlay->generation;
    unsigned height = next_height(generation);
    struct overlay_node *node = node_new(generation, height, key);
    for (unsigned level = 0; level < height; level++) {
        struct overlay_node *before = level < overlay->height ? place->before[level] : overlay->head;
        node->next[level] = before->next[level];
        before->next[level] = node;
    }
    overlay->height = height > overlay->height ? height : overlay->height;
    node->previous = place->before[0] == overlay->head ? NULL : place->before[0];
    if (node->next[0]) {
        node->next[0]->previous = node;
    } else {
        overlay->last = node;
    }
    return node;
}

static size_t blob_bytes(const struct blob *blob)
{
    return blob ? sizeof *blob + blob->size : 0;
}

struct blob *overlay_set(struct overlay *overlay, struct overlay_node *node, const struct overlay_entry *entry,
                         const struct attributes *attributes)
{
    CHECK(entry->blob != NULL || entry->value.size == 0);
    struct generation *generation = overlay->generation;
    struct blob *old = node->entry.blob;
    generation->bytes += blob_bytes(entry->blob);
    generation->bytes -= blob_bytes(old);
    node->entry = *entry;
    node->entry.attributes = NULL;
    if (attributes->mask != 0) {
        if (!node->attributes_room) {
            node->attributes_room = arena_alloc(&generation->arena, sizeof *attributes);
            generation->bytes += sizeof *attributes;
        }
        *node->attributes_room = *attributes;
        node->entry.attributes = node->attributes_room;
    }
    return old;
}

const struct overlay_node *overlay_find(const struct overlay *overlay, struct span key)
{
    struct overlay_node *equal = NULL;
    if (overlay) {
        descend(overlay, key, NULL, &equal);
    }
    return equal;
}

const struct overlay_node *overlay_first(const struct overlay *overlay)
{
    return overlay ? overlay->head->next[0] : NULL;
}

const struct overlay_node *overlay_last(const struct overlay *overlay)
{
    return overlay ? overlay->last : NULL;
}

const struct overlay_node *overlay_at_or_after(const struct overlay *overlay, struct span key)
{
    if (!overlay) {
        return NULL;
    }
    struct overlay_node *before[OVERLAY_HEIGHT_MAX], *equal;
    return descend(overlay, key, before, &equal)->next[0];
}

const struct overlay_node *overlay_before(const struct overlay *overlay, struct span key)
{
    if (!overlay) {
        return NULL;
    }
    struct overlay_node *before[OVERLAY_HEIGHT_MAX], *equal;
    struct overlay_node *node = descend(overlay, key, before, &equal);
    return node == overlay->head ? NULL : node;
}

const struct overlay_node *overlay_next(const struct overlay_node *node)
{
    return node->next[0];
}

const struct overlay_node *overlay_previous(const struct overlay_node *node)
{
    return node->previous;
}

struct span overlay_key(const struct overlay_node *node)
{
    return span_of(node_key(node), node->key_size);
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
