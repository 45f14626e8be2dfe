/* The overlay against a sorted array: finds, both directions, overwrites, and that blobs and bytes
 * are accounted for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/hash.h"
#include "store/overlay.h"

enum { KEYS = 3000 };

/* Even numbers are keys, so that odd ones lie between them. */
static struct span key_of(char *room, size_t number)
{
    snprintf(room, 16, "k%08zu", number * 2);
    return span_of_string(room);
}

static struct blob *text_blob(const char *text)
{
    struct blob *blob = blob_new(strlen(text));
    memcpy(blob->data, text, blob->size);
    return blob;
}

static struct overlay_node *put(struct overlay *overlay, struct span key, uint64_t version,
                                struct blob *blob)
{
    struct overlay_place place;
    overlay_seek(overlay, key, &place);
    assert_true(overlay_reserve(overlay, &place, key, 0));
    struct overlay_node *node = place.node ? place.node : overlay_insert(overlay, &place, key, 0);
    struct overlay_entry entry = { .blob = blob, .version = version };
    entry.value = blob ? blob_span(blob) : entry.value;
    struct attributes none = { 0 };
    blob_unref(overlay_set(overlay, node, &entry, &none));
    return node;
}

static void keys_stand_in_order_both_ways(void **state)
{
    (void)state;
    struct generation *generation = generation_new(NULL);
    struct overlay *overlay = overlay_new(generation);
    char room[16];
    for (size_t i = 0; i < KEYS; i++) { /* 7919 and 3000 have no common factor: every key once */
        put(overlay, key_of(room, i * 7919 % KEYS), i, NULL);
    }
    size_t count = 0;
    for (const struct overlay_node *node = overlay_first(overlay); node;
         node = overlay_next(node)) {
        assert_true(span_equal(overlay_key(node), key_of(room, count++)));
    }
    assert_int_equal(count, KEYS);
    for (const struct overlay_node *node = overlay_last(overlay); node;
         node = overlay_previous(node)) {
        assert_true(span_equal(overlay_key(node), key_of(room, --count)));
    }
    assert_int_equal(count, 0);
    generation_free(generation);
}

/* Keys that share long or short beginnings, contain zeroes, end inside one another, and come in
 * ascending, descending and mixed order: every search is compared with a search through all of
 * them. */
struct plain_key {
    uint8_t bytes[80];
    size_t size;
};

static int compare_plain(const void *a, const void *b)
{
    const struct plain_key *left = a, *right = b;
    return span_compare(span_of(left->bytes, left->size), span_of(right->bytes, right->size));
}

static struct plain_key any_key(uint64_t seed, uint64_t shape)
{
    struct plain_key key = { .size = 1 + hash_u64(seed) % 12 };
    size_t shared = shape == 0 ? 0 : shape == 1 ? 8 * (hash_u64(seed + 1) % 3) : 60;
    memset(key.bytes, 'p', shared);
    for (size_t i = 0; i < key.size; i++) {
        key.bytes[shared + i] = (uint8_t)(hash_u64(seed + 2 + i) % (i % 3 == 0 ? 3 : 256));
    }
    key.size += shared;
    return key;
}

static void check_searches(const struct overlay *overlay, const struct plain_key *sorted,
                           size_t count, struct span key)
{
    size_t below = 0;
    while (below < count &&
           span_compare(span_of(sorted[below].bytes, sorted[below].size), key) < 0) {
        below++;
    }
    const struct overlay_node *before = overlay_before(overlay, key),
                              *after = overlay_at_or_after(overlay, key);
    assert_int_equal(before != NULL, below > 0);
    assert_int_equal(after != NULL, below < count);
    assert_true(!before || span_equal(overlay_key(before),
                                      span_of(sorted[below - 1].bytes, sorted[below - 1].size)));
    assert_true(!after ||
                span_equal(overlay_key(after), span_of(sorted[below].bytes, sorted[below].size)));
    bool is_there = after && span_equal(overlay_key(after), key);
    assert_ptr_equal(overlay_find(overlay, key), is_there ? after : NULL);
}

static void any_keys_are_found(void **state)
{
    (void)state;
    enum { COUNT = 700 };
    static struct plain_key keys[COUNT], sorted[COUNT];
    for (uint64_t round = 0; round < 18; round++) {
        uint64_t shape = round % 3, order = round / 3 % 3;
        for (size_t i = 0; i < COUNT; i++) {
            keys[i] = any_key((round * COUNT + i) * 100, shape);
        }
        if (order < 2) {
            qsort(keys, COUNT, sizeof keys[0], compare_plain);
        }
        struct generation *generation = generation_new(NULL);
        struct overlay *overlay = overlay_new(generation);
        size_t count = 0;
        for (size_t i = 0; i < COUNT; i++) {
            const struct plain_key *key = &keys[order == 0 ? i : COUNT - 1 - i];
            bool is_new = overlay_find(overlay, span_of(key->bytes, key->size)) == NULL;
            put(overlay, span_of(key->bytes, key->size), i, NULL);
            sorted[count] = *key;
            count += is_new;
        }
        qsort(sorted, count, sizeof sorted[0], compare_plain);
        for (size_t i = 0; i < COUNT; i++) {
            struct plain_key other = any_key((round * COUNT + i) * 100 + 50, i % 3);
            check_searches(overlay, sorted, count, span_of(other.bytes, other.size));
            check_searches(overlay, sorted, count, span_of(keys[i].bytes, keys[i].size));
            check_searches(overlay, sorted, count, span_of(keys[i].bytes, keys[i].size - 1));
        }
        generation_free(generation);
    }
}

static void seeks_find_the_neighbours(void **state)
{
    (void)state;
    struct generation *generation = generation_new(NULL);
    struct overlay *overlay = overlay_new(generation);
    char room[16], between[16];
    assert_null(overlay_first(overlay));
    assert_null(overlay_at_or_after(overlay, span_of_string("a")));
    assert_null(overlay_before(overlay, span_of_string("z")));
    for (size_t i = KEYS; i-- > 0;) {
        put(overlay, key_of(room, i), i, NULL);
    }
    for (size_t i = 0; i < KEYS; i++) {
        const struct overlay_node *node = overlay_find(overlay, key_of(room, i));
        assert_non_null(node);
        assert_int_equal(overlay_entry(node)->version, i);
        assert_ptr_equal(overlay_at_or_after(overlay, key_of(room, i)), node);
        assert_ptr_equal(overlay_before(overlay, key_of(room, i)), overlay_previous(node));
        snprintf(between, sizeof between, "k%08zu", i * 2 + 1);
        assert_null(overlay_find(overlay, span_of_string(between)));
        assert_ptr_equal(overlay_before(overlay, span_of_string(between)), node);
        assert_ptr_equal(overlay_at_or_after(overlay, span_of_string(between)), overlay_next(node));
    }
    assert_null(overlay_find(NULL, span_of_string("k")));
    assert_null(overlay_first(NULL));
    generation_free(generation);
}

static void overwrites_give_back_the_old_blob(void **state)
{
    (void)state;
    struct generation *generation = generation_new(NULL);
    struct overlay *overlay = overlay_new(generation);
    struct blob *old = text_blob("old"), *fresh = text_blob("fresh and longer");
    blob_ref(old);
    struct overlay_node *node = put(overlay, span_of_string("k"), 1, old);
    uint64_t bytes = generation->bytes;
    assert_ptr_equal(put(overlay, span_of_string("k"), 2, blob_ref(fresh)), node);
    assert_int_equal(old->references, 1);
    assert_int_equal(generation->bytes, bytes + fresh->size - old->size);
    struct record record;
    overlay_record(node, &record);
    assert_int_equal(record.version, 2);
    assert_true(span_equal(record.value, span_of_string("fresh and longer")));
    generation_free(generation);
    assert_int_equal(fresh->references, 1);
    blob_unref(old);
    blob_unref(fresh);
}

/* Puts a value that the overlay is to hold itself, through a buffer that changes behind it. */
static struct overlay_node *put_held(struct overlay *overlay, struct span key, struct span value)
{
    struct overlay_place place;
    overlay_seek(overlay, key, &place);
    assert_true(overlay_reserve(overlay, &place, key, value.size));
    struct overlay_node *node =
        place.node ? place.node : overlay_insert(overlay, &place, key, value.size);
    uint8_t *copy = malloc(value.size + 1);
    memcpy(copy, value.data, value.size);
    struct overlay_entry entry = { .value = span_of(copy, value.size), .version = 1 };
    struct attributes none = { 0 };
    blob_unref(overlay_set(overlay, node, &entry, &none));
    memset(copy, '-', value.size);
    free(copy);
    return node;
}

static void check_record(const struct overlay_node *node, struct span value)
{
    struct record record;
    overlay_record(node, &record);
    assert_true(span_equal(record.value, value));
}

static void small_values_are_held_beside_their_keys(void **state)
{
    (void)state;
    struct generation *generation = generation_new(NULL);
    struct overlay *overlay = overlay_new(generation);
    struct span key = span_of_string("key");
    struct overlay_node *node = put_held(overlay, key, span_of_string("some value"));
    assert_int_equal(overlay_room(node), 10);
    check_record(node, span_of_string("some value"));
    uint64_t bytes = generation->bytes;
    assert_ptr_equal(put_held(overlay, key, span_of_string("other")), node);
    check_record(node, span_of_string("other"));
    assert_int_equal(overlay_room(node), 10);
    assert_int_equal(generation->bytes, bytes); /* an overwrite takes nothing */
    assert_true(span_equal(overlay_key(node), key));
    /* A blob in its place, and back. */
    struct blob *blob = text_blob("longer than there is room");
    assert_ptr_equal(put(overlay, key, 2, blob_ref(blob)), node);
    check_record(node, span_of_string("longer than there is room"));
    put_held(overlay, key, span_of_string(""));
    assert_int_equal(blob->references, 1);
    check_record(node, span_of_string(""));
    put_held(overlay, key, span_of_string("0123456789"));
    check_record(node, span_of_string("0123456789"));
    /* Only its attributes change: the value is what it was. */
    struct overlay_entry entry = *overlay_entry(node);
    struct attributes mode = { .mask = ATTRIBUTE_MODE, .mode = 0600 };
    assert_null(overlay_set(overlay, node, &entry, &mode));
    check_record(node, span_of_string("0123456789"));
    /* Large ones get no room. */
    uint8_t large[OVERLAY_VALUE_MAX + 1] = { 1 };
    node = put_held(overlay, span_of_string("l"), span_of(large, OVERLAY_VALUE_MAX));
    assert_int_equal(overlay_room(node), OVERLAY_VALUE_MAX);
    check_record(node, span_of(large, OVERLAY_VALUE_MAX));
    struct overlay_place place;
    overlay_seek(overlay, span_of_string("m"), &place);
    assert_true(overlay_reserve(overlay, &place, span_of_string("m"), sizeof large));
    node = overlay_insert(overlay, &place, span_of_string("m"), sizeof large);
    assert_int_equal(overlay_room(node), 0);
    assert_true(generation_release(generation, 0)); /* without blobs there is nothing to walk */
    blob_unref(blob);
}

static void attributes_are_kept_per_key(void **state)
{
    (void)state;
    struct generation *generation = generation_new(NULL);
    struct overlay *overlay = overlay_new(generation);
    struct overlay_node *node = put(overlay, span_of_string("k"), 1, NULL);
    struct overlay_entry entry = { .version = 2 };
    struct attributes mode = { .mask = ATTRIBUTE_MODE, .mode = 0600 }, none = { 0 };
    struct record record;
    overlay_set(overlay, node, &entry, &mode);
    overlay_record(node, &record);
    assert_int_equal(record.attributes.mode, 0600);
    uint64_t bytes = generation->bytes;
    overlay_set(overlay, node, &entry, &none);
    overlay_record(node, &record);
    assert_int_equal(record.attributes.mask, 0);
    overlay_set(overlay, node, &entry, &mode); /* the room is used again */
    assert_int_equal(generation->bytes, bytes);
    generation_free(generation);
}

static void a_generation_is_released_in_steps(void **state)
{
    (void)state;
    struct generation *generation = generation_new(NULL);
    struct blob *blob = text_blob("shared");
    char room[16];
    for (size_t replica = 0; replica < 3; replica++) {
        struct overlay *overlay = overlay_new(generation);
        for (size_t i = 0; i < 100; i++) {
            put(overlay, key_of(room, i), i, blob_ref(blob));
        }
    }
    assert_int_equal(blob->references, 301);
    assert_false(generation_release(generation, 150));
    assert_int_equal(blob->references, 151);
    assert_false(generation_release(generation, 149));
    assert_true(generation_release(generation, 1000));
    assert_int_equal(blob->references, 1);
    blob_unref(blob);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_stand_in_order_both_ways),
        cmocka_unit_test(any_keys_are_found),
        cmocka_unit_test(seeks_find_the_neighbours),
        cmocka_unit_test(overwrites_give_back_the_old_blob),
        cmocka_unit_test(small_values_are_held_beside_their_keys),
        cmocka_unit_test(attributes_are_kept_per_key),
        cmocka_unit_test(a_generation_is_released_in_steps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
