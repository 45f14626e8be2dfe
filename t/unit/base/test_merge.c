/* Merges of sources that were drawn come out as sorting all their keys does: forward and in reverse, with keys that begin alike, that
 * end in zeroes, that are equal, with sources that end early or have nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/hash.h"
#include "base/limits.h"
#include "base/mem.h"
#include "base/merge.h"

enum { SOURCES_MAX = 70, KEYS_MAX = 40, ROUNDS = 3000 };

struct source {
    struct span keys[KEYS_MAX];
    size_t count, at;
};

static uint64_t draw(uint64_t *state, uint64_t below)
{
    return hash_u64(++*state) % below;
}

/* How long common beginnings are, and of which bytes. */
struct manner {
    uint8_t common[LIMIT_KEY_BYTES];
    size_t common_bytes, bytes_max, letters;
};

static struct manner draw_manner(uint64_t *state)
{
    static const size_t longest[] = { 3, 9, 20, LIMIT_KEY_BYTES };
    struct manner manner = { .bytes_max = longest[draw(state, 4)], .letters = 1 + draw(state, 5) };
    manner.common_bytes = draw(state, manner.bytes_max);
    for (size_t i = 0; i < manner.common_bytes; i++) {
        manner.common[i] = (uint8_t)draw(state, 3);
    }
    return manner;
}

static struct span draw_key(uint64_t *state, const struct manner *manner)
{
    static const uint8_t letters[] = { 0, 0xff, 1, 'a', 'b' };
    size_t size = 1 + draw(state, manner->bytes_max);
    uint8_t *key = mem_alloc(size); /* not a byte more: reading behind it shows under sanitizers */
    for (size_t i = 0; i < size; i++) {
        key[i] =
            i < manner->common_bytes ? manner->common[i] : letters[draw(state, manner->letters)];
    }
    return span_of(key, size);
}

static int compare(const void *a, const void *b)
{
    return span_compare(*(const struct span *)a, *(const struct span *)b);
}

static int compare_reverse(const void *a, const void *b)
{
    return compare(b, a);
}

/* Keys in strict order; all of them go into *all, too. */
static void draw_source(uint64_t *state, const struct manner *manner, bool is_reverse,
                        struct source *source, struct span *all, size_t *all_count)
{
    size_t drawn = draw(state, KEYS_MAX + 1);
    *source = (struct source){ 0 };
    struct span keys[KEYS_MAX];
    for (size_t i = 0; i < drawn; i++) {
        keys[i] = draw_key(state, manner);
    }
    qsort(keys, drawn, sizeof keys[0], is_reverse ? compare_reverse : compare);
    for (size_t i = 0; i < drawn; i++) {
        if (i > 0 && span_equal(keys[i], source->keys[source->count - 1])) {
            mem_free((void *)keys[i].data);
        } else {
            source->keys[source->count++] = all[(*all_count)++] = keys[i];
        }
    }
}

static void check_round(uint64_t seed)
{
    uint64_t state = seed << 20;
    static struct source sources[SOURCES_MAX];
    static struct span all[SOURCES_MAX * KEYS_MAX];
    size_t count = 1 + draw(&state, SOURCES_MAX), all_count = 0;
    bool is_reverse = draw(&state, 2);
    struct manner manner = draw_manner(&state);
    struct merge merge;
    void *room = mem_alloc(merge_room(count));
    merge_init(&merge, room, count, is_reverse);
    for (uint32_t i = 0; i < count; i++) {
        draw_source(&state, &manner, is_reverse, &sources[i], all, &all_count);
        if (sources[i].count > 0) {
            merge_enter(&merge, i, sources[i].keys[0]);
        }
    }
    qsort(all, all_count, sizeof all[0], is_reverse ? compare_reverse : compare);
    merge_begin(&merge);
    for (size_t i = 0; i < all_count; i++) {
        uint32_t first = merge_first(&merge);
        assert_in_range(first, 0, count - 1);
        struct source *source = &sources[first];
        assert_true(span_equal(source->keys[source->at], merge_key(&merge, first)));
        assert_true(span_equal(source->keys[source->at], all[i]));
        if (++source->at < source->count) {
            merge_next(&merge, source->keys[source->at]);
        } else {
            merge_end(&merge);
        }
    }
    assert_int_equal(merge_first(&merge), MERGE_NONE);
    for (size_t i = 0; i < all_count; i++) {
        mem_free((void *)all[i].data);
    }
    mem_free(room);
}

static void merges_as_sorting_does(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < ROUNDS; seed++) {
        check_round(seed);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(merges_as_sorting_does) };
    return cmocka_run_group_tests_name("merge", tests, NULL, NULL);
}
