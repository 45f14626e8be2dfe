/* Get messages by hand against wire/message.h: random ones come out in the same bytes, and what one packs the other unpacks alike.
 * Whatever is spoiled, cut or unusual is either refused or means what the reference says, and nothing is read behind the end. */
#include "wire/get_message.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/mem.h"
#include "proto/client.pb-c.h"
#include "wire/message.h"

enum { ROUNDS = 20000 };

struct world {
    struct arena arena;
    ProtobufCAllocator allocator;
    uint64_t random;
};

static void *world_alloc(void *data, size_t size)
{
    return arena_alloc(data, size);
}

static void world_free(void *data, void *memory)
{
}

static int set_up(void **state)
{
    struct world *world = MEM_NEW(struct world);
    world->allocator = (ProtobufCAllocator){ world_alloc, world_free, &world->arena };
    world->random = 1;
    *state = world;
    return 0;
}

static int tear_down(void **state)
{
    struct world *world = *state;
    arena_fini(&world->arena);
    mem_free(world);
    return 0;
}

static uint64_t draw(struct world *world)
{
    uint64_t z = world->random += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Of every length as a varint, often 0. */
static uint64_t draw_number(struct world *world)
{
    return draw(world) % 3 == 0 ? 0 : draw(world) >> draw(world) % 64;
}

static struct get_question draw_question(struct world *world, uint8_t key[LIMIT_KEY_BYTES])
{
    size_t size = draw(world) % 4 ? draw(world) % 30 : draw(world) % (LIMIT_KEY_BYTES + 1);
    for (size_t i = 0; i < size; i++) {
        key[i] = (uint8_t)draw(world);
    }
    return (struct get_question){ .key = span_of(key, size),
                                  .consistency = (uint32_t)(draw(world) % 3),
                                  .meta_only = draw(world) % 2,
                                  .max_staleness_ms = draw_number(world) };
}

static Cairn__V1__GetRequest question_message(const struct get_question *question)
{
    Cairn__V1__GetRequest message = CAIRN__V1__GET_REQUEST__INIT;
    message.key =
        (ProtobufCBinaryData){ question->key.size, (uint8_t *)(uintptr_t)question->key.data };
    message.consistency = (Cairn__V1__Consistency)question->consistency;
    message.meta_only = question->meta_only;
    message.max_staleness_ms = question->max_staleness_ms;
    return message;
}

static void check_question(const struct get_question *found, const Cairn__V1__GetRequest *expected)
{
    assert_true(span_equal(found->key, span_of(expected->key.data, expected->key.len)));
    assert_int_equal(found->consistency, expected->consistency);
    assert_int_equal(found->meta_only, expected->meta_only);
    assert_int_equal(found->max_staleness_ms, expected->max_staleness_ms);
}

static void questions_are_packed_as_by_the_reference(void **state)
{
    struct world *world = *state;
    uint8_t key[LIMIT_KEY_BYTES], own[GET_QUESTION_BYTES], other[GET_QUESTION_BYTES];
    for (int i = 0; i < ROUNDS; i++) {
        struct get_question question = draw_question(world, key), found;
        Cairn__V1__GetRequest message = question_message(&question);
        size_t size = get_question_pack(&question, own);
        assert_int_equal(size, message_size(&message.base));
        message_pack(&message.base, other);
        assert_memory_equal(own, other, size);
        assert_true(get_question_unpack(span_of(own, size), &found));
        check_question(&found, &message);
    }
}

struct answer_message {
    Cairn__V1__GetResponse response;
    Cairn__V1__Meta meta;
    Cairn__V1__Hint hint;
};

static struct get_answer draw_answer(struct world *world)
{
    bool has_hint = draw(world) % 2;
    return (struct get_answer){ .version = draw_number(world),
                                .time = draw_number(world),
                                .size = draw_number(world),
                                .has_hint = has_hint,
                                .group = has_hint ? (uint32_t)draw_number(world) : 0,
                                .node_id = has_hint ? draw_number(world) : 0,
                                .staleness_ms = draw_number(world) };
}

static void fill_answer(struct answer_message *out, const struct get_answer *answer)
{
    cairn__v1__get_response__init(&out->response);
    cairn__v1__meta__init(&out->meta);
    cairn__v1__hint__init(&out->hint);
    out->meta.version = answer->version;
    out->meta.time = answer->time;
    out->meta.size = answer->size;
    out->hint.group = answer->group;
    out->hint.node_id = answer->node_id;
    out->response.meta = &out->meta;
    out->response.hint = answer->has_hint ? &out->hint : NULL;
    out->response.staleness_ms = answer->staleness_ms;
}

static void check_answer(const struct get_answer *found, const Cairn__V1__GetResponse *expected)
{
    assert_non_null(expected->meta);
    assert_null(expected->meta->attributes);
    assert_int_equal(expected->value.len, 0);
    assert_int_equal(found->version, expected->meta->version);
    assert_int_equal(found->time, expected->meta->time);
    assert_int_equal(found->size, expected->meta->size);
    assert_int_equal(found->has_hint, expected->hint != NULL);
    assert_int_equal(found->group, expected->hint ? expected->hint->group : 0);
    assert_int_equal(found->node_id, expected->hint ? expected->hint->node_id : 0);
    assert_int_equal(found->staleness_ms, expected->staleness_ms);
}

static void answers_are_packed_as_by_the_reference(void **state)
{
    struct world *world = *state;
    uint8_t own[GET_ANSWER_BYTES], other[GET_ANSWER_BYTES];
    for (int i = 0; i < ROUNDS; i++) {
        struct get_answer answer = draw_answer(world), found;
        struct answer_message message;
        fill_answer(&message, &answer);
        size_t size = get_answer_pack(&answer, own);
        assert_int_equal(size, message_size(&message.response.base));
        message_pack(&message.response.base, other);
        assert_memory_equal(own, other, size);
        assert_true(get_answer_unpack(span_of(own, size), &found));
        check_answer(&found, &message.response);
    }
}

static void attributes_and_lacks_are_left_to_the_reference(void **state)
{
    struct get_answer answer = { .version = 1 }, found;
    struct answer_message message;
    uint8_t packed[GET_ANSWER_BYTES];
    Cairn__V1__Attributes attributes = CAIRN__V1__ATTRIBUTES__INIT;
    fill_answer(&message, &answer);
    attributes.mask = 1;
    message.meta.attributes = &attributes;
    assert_false(
        get_answer_unpack(span_of(packed, message_pack(&message.response.base, packed)), &found));
    fill_answer(&message, &answer);
    message.response.meta = NULL;
    assert_false(
        get_answer_unpack(span_of(packed, message_pack(&message.response.base, packed)), &found));
}

/* A copy in memory of its own size, some of it spoiled or cut off. */
static uint8_t *spoil(struct world *world, const uint8_t *packed, size_t *size)
{
    *size = draw(world) % 2 ? *size : draw(world) % (*size + 1);
    uint8_t *copy = mem_dup(packed, *size);
    for (uint64_t i = draw(world) % 3; i > 0 && *size > 0; i--) {
        copy[draw(world) % *size] = (uint8_t)draw(world);
    }
    return copy;
}

static void what_is_spoiled_means_what_the_reference_says(void **state)
{
    struct world *world = *state;
    uint8_t key[LIMIT_KEY_BYTES], packed[GET_QUESTION_BYTES];
    for (int i = 0; i < ROUNDS; i++) {
        struct get_question question = draw_question(world, key), found;
        size_t size = get_question_pack(&question, packed);
        uint8_t *copy = spoil(world, packed, &size);
        if (get_question_unpack(span_of(copy, size), &found)) {
            Cairn__V1__GetRequest *message = message_unpack(&cairn__v1__get_request__descriptor,
                                                            &world->allocator, span_of(copy, size));
            assert_non_null(message);
            check_question(&found, message);
        }
        mem_free(copy);
        struct get_answer answer = draw_answer(world), answered;
        size = get_answer_pack(&answer, packed);
        copy = spoil(world, packed, &size);
        if (get_answer_unpack(span_of(copy, size), &answered)) {
            Cairn__V1__GetResponse *message = message_unpack(
                &cairn__v1__get_response__descriptor, &world->allocator, span_of(copy, size));
            assert_non_null(message);
            check_answer(&answered, message);
        }
        mem_free(copy);
        arena_reset(&world->arena);
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(questions_are_packed_as_by_the_reference, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(answers_are_packed_as_by_the_reference, set_up, tear_down),
        cmocka_unit_test(attributes_and_lacks_are_left_to_the_reference),
        cmocka_unit_test_setup_teardown(what_is_spoiled_means_what_the_reference_says, set_up,
                                        tear_down),
    };
    return cmocka_run_group_tests_name("wire/get_message", tests, NULL, NULL);
}
