/* Allocation helpers, arenas of small and large pieces, and the life of a blob. */
#include "base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static void copies_are_equal_and_apart(void **state)
{
    char text[] = "hello";
    char *copy = mem_strdup(text);

    text[0] = 'j';
    assert_string_equal(copy, "hello");
    mem_free(copy);
    copy = mem_printf("%s/%d", "n", 7);
    assert_string_equal(copy, "n/7");
    mem_free(copy);
    copy = mem_dup(NULL, 0);
    assert_non_null(copy);
    mem_free(copy);
    uint64_t *zero = MEM_NEW(uint64_t);
    assert_true(*zero == 0);
    mem_free(zero);
    mem_free(NULL);
}

static void keep_pieces_apart(struct arena arena)
{
    enum { PIECES = 2000 };
    uint8_t *pieces[PIECES];
    size_t sizes[PIECES];
    size_t sum = 0;

    for (size_t i = 0; i < PIECES; i++) {
        sizes[i] = i % 97 == 0 ? 70000 : i % 13 == 0 ? 5000 : i % 40;
        pieces[i] = arena_alloc(&arena, sizes[i]);
        assert_int_equal((uintptr_t)pieces[i] % 16, 0);
        memset(pieces[i], (int)(i & 0xff), sizes[i]);
        sum += sizes[i];
    }
    for (size_t i = 0; i < PIECES; i++) {
        for (size_t at = 0; at < sizes[i]; at += 7) {
            assert_int_equal(pieces[i][at], i & 0xff);
        }
    }
    assert_true(arena.used_bytes >= sum);
    arena_fini(&arena);
    assert_null(arena.chunks);
}

static void an_arena_keeps_every_piece_apart(void **state)
{
    keep_pieces_apart((struct arena){ 0 });
}

static void so_does_one_for_much(void **state)
{
    keep_pieces_apart((struct arena){ .is_large = true });

    struct arena arena = { .is_large = true };
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 5000; i++) { /* 20 MB, many huge pages */
            memset(arena_alloc(&arena, 4000), i & 0xff, 4000);
        }
        arena_reset(&arena);
        assert_null(arena.chunks); /* MiB are not kept */
        assert_true(arena.is_large);
    }
    arena_fini(&arena);
}

static void a_reset_arena_starts_anew(void **state)
{
    struct arena arena = { 0 };

    for (int round = 0; round < 100; round++) {
        for (int i = 0; i < 100; i++) {
            memcpy(arena_alloc(&arena, 10), "0123456789", 10);
        }
        arena_alloc(&arena, 200000);
        arena_reset(&arena);
        assert_int_equal(arena.used_bytes, 0);
        assert_non_null(arena.chunks); /* kept for reuse */
    }
    arena_fini(&arena);
    arena_alloc(&arena, 1 << 20); /* the first and only chunk is a large one: it is not kept */
    arena_reset(&arena);
    assert_null(arena.chunks);
    arena_reset(&arena);
    arena_fini(&arena);
}

static void a_blob_lives_until_the_last_reference_goes(void **state)
{
    struct blob *blob = blob_new(5);

    memcpy(blob->data, "bytes", 5);
    assert_ptr_equal(blob_ref(blob), blob);
    blob_unref(blob);
    assert_true(span_equal(blob_span(blob), span_of_string("bytes")));
    assert_int_equal(blob->references, 1);
    blob_unref(blob);
    blob_unref(NULL);
    blob = blob_new(0);
    assert_int_equal(blob_span(blob).size, 0);
    blob_unref(blob);
}

/* The n-th attempt fails, once; what must not fail is never refused, and counts for nothing. */
static void a_gate_refuses_the_nth_attempt_only(void **state)
{
    struct mem_gate gate = { .refuse_in = 3 };
    struct arena arena = { .gate = &gate };

    assert_non_null(arena_try_alloc(&arena, 100));
    assert_non_null(arena_alloc(&arena, 100));
    struct blob *blob = blob_try_new(&gate, 10);
    assert_non_null(blob);
    assert_null(arena_try_alloc(&arena, 100));
    assert_true(arena.has_refused);
    assert_int_equal(gate.refused, 1);
    assert_non_null(arena_try_alloc(&arena, 100));
    arena_reset(&arena);
    assert_false(arena.has_refused);
    gate.refuse_in = 1;
    assert_null(blob_try_new(&gate, 10));
    assert_int_equal(gate.refused, 2);
    gate.refuse_in = 1;
    assert_null(mem_try_alloc(&gate, 10));
    assert_non_null(arena_alloc(&arena, 100));
    blob_unref(blob);
    arena_fini(&arena);
}

static void a_gate_goes_on_refusing_for_a_while(void **state)
{
    struct mem_gate gate = { .refuse_in = 2, .refuse_more = 2 };
    bool is_given[6];

    (void)state;
    for (size_t i = 0; i < 6; i++) {
        void *memory = mem_try_zalloc(&gate, 8);
        is_given[i] = memory != NULL;
        mem_free(memory);
    }
    const bool expected[6] = { true, false, false, false, true, true };
    assert_memory_equal(is_given, expected, sizeof expected);
    assert_int_equal(gate.refused, 3);
    assert_int_equal(gate.attempts, 6);
}

static void what_is_refused_stays_as_it_was(void **state)
{
    struct mem_gate gate = { 0 };
    struct buf buf = { 0 };
    uint32_t *array = NULL;

    (void)state;
    size_t capacity = mem_try_grow(&gate, &array, 0, 10, sizeof *array);
    assert_true(capacity >= 10);
    array[9] = 99;
    gate.refuse_in = 1;
    assert_int_equal(mem_try_grow(&gate, &array, capacity, 10 * capacity, sizeof *array), 0);
    assert_int_equal(array[9], 99);
    assert_int_equal(mem_try_grow(&gate, &array, capacity, capacity, sizeof *array), capacity);
    capacity = mem_try_grow(&gate, &array, capacity, 10 * capacity, sizeof *array);
    assert_true(capacity >= 100 && array[9] == 99);
    mem_free(array);

    buf_append(&buf, "abc", 3);
    gate.refuse_in = 1;
    assert_false(buf_try_reserve(&buf, &gate, 1 << 20));
    assert_true(span_equal(buf_span(&buf), span_of_string("abc")));
    assert_true(buf_try_reserve(&buf, &gate, 1 << 20));
    const uint8_t *before = buf.data;
    for (int i = 0; i < 1 << 20; i++) {
        buf_append(&buf, "d", 1);
    }
    assert_ptr_equal(buf.data, before); /* no more memory was needed */
    buf_fini(&buf);
}

/* Whatever stands in the arena, what was reserved is there, in as many pieces. */
static void an_arena_gives_what_it_reserved(void **state)
{
    struct mem_gate gate = { 0 };
    struct arena arena = { .gate = &gate };

    (void)state;
    gate.refuse_in = 1;
    assert_false(arena_try_reserve(&arena, 100, 1));
    assert_true(arena.has_refused);
    for (size_t size = 1; size < 300000; size = size * 3 + 1) {
        assert_true(arena_try_reserve(&arena, 7 * size, 7));
        gate.refuse_in = 1; /* nobody asks */
        for (int i = 0; i < 7; i++) {
            memset(arena_take(&arena, size), i, size);
        }
        assert_int_equal(gate.refuse_in, 1);
        gate.refuse_in = 0;
        assert_non_null(arena_try_alloc(&arena, 5));
    }
    arena_fini(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(copies_are_equal_and_apart),
        cmocka_unit_test(an_arena_keeps_every_piece_apart),
        cmocka_unit_test(so_does_one_for_much),
        cmocka_unit_test(a_reset_arena_starts_anew),
        cmocka_unit_test(a_gate_refuses_the_nth_attempt_only),
        cmocka_unit_test(a_gate_goes_on_refusing_for_a_while),
        cmocka_unit_test(what_is_refused_stays_as_it_was),
        cmocka_unit_test(an_arena_gives_what_it_reserved),
        cmocka_unit_test(a_blob_lives_until_the_last_reference_goes),
    };
    return cmocka_run_group_tests_name("mem", tests, NULL, NULL);
}
