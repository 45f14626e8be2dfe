/* Packing and unpacking against protobuf-c, for every message of the client's and the nodes' protocols: messages filled at random
 * come out in the same bytes; what one packs both unpack alike; bytes spoiled at random, cut, or with fields that nobody knows
 * are judged alike and mean the same. Memory is refused at every allocation in turn. */
#include "wire/message.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/mem.h"
#include "proto/client.pb-c.h"
#include "proto/control.pb-c.h"
#include "proto/peer.pb-c.h"

static const ProtobufCMessageDescriptor *const descriptors[] = {
    &cairn__v1__hello__descriptor,
    &cairn__v1__get_request__descriptor,
    &cairn__v1__get_response__descriptor,
    &cairn__v1__put_request__descriptor,
    &cairn__v1__put_response__descriptor,
    &cairn__v1__delete_request__descriptor,
    &cairn__v1__delete_response__descriptor,
    &cairn__v1__setattr_request__descriptor,
    &cairn__v1__multi_request__descriptor,
    &cairn__v1__multi_response__descriptor,
    &cairn__v1__scan_request__descriptor,
    &cairn__v1__scan_response__descriptor,
    &cairn__v1__topology_request__descriptor,
    &cairn__v1__topology_response__descriptor,
    &cairn__v1__status_response__descriptor,
    &cairn__v1__error_info__descriptor,
    &cairn__control__genesis__descriptor,
    &cairn__control__topology__descriptor,
    &cairn__v1__image_request__descriptor,
};

enum { DESCRIPTORS = sizeof descriptors / sizeof *descriptors, PACKED_MAX = 1 << 16 };

struct world {
    struct arena arena;
    ProtobufCAllocator allocator;
    uint64_t random;
    int allocations_left; /* -1: no limit */
};

static void *world_alloc(void *data, size_t size)
{
    struct world *world = data;
    if (world->allocations_left == 0) {
        return NULL;
    }
    world->allocations_left -= world->allocations_left > 0;
    return arena_alloc(&world->arena, size);
}

static void world_free(void *data, void *memory)
{
}

static int set_up(void **state)
{
    struct world *world = MEM_NEW(struct world);
    world->allocator = (ProtobufCAllocator){ world_alloc, world_free, world };
    world->random = 1;
    world->allocations_left = -1;
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

static uint64_t draw(struct world *world, uint64_t below)
{
    uint64_t z = world->random += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (z ^ (z >> 31)) % below;
}

/* Of every length as a varint. */
static uint64_t draw_number(struct world *world)
{
    return draw(world, 4) == 0 ? 0 : draw(world, UINT64_MAX) >> draw(world, 64);
}

static void *fill(struct world *world, const ProtobufCMessageDescriptor *descriptor);

static void fill_member(struct world *world, const ProtobufCFieldDescriptor *field, void *member)
{
    size_t size = draw(world, 3) ? draw(world, 20) : draw(world, 400);
    uint8_t *bytes = arena_alloc(&world->arena, size + 1);
    for (size_t i = 0; i < size; i++) {
        bytes[i] = (uint8_t)(1 + draw(world, 255));
    }
    bytes[size] = 0;
    switch (field->type) {
    case PROTOBUF_C_TYPE_UINT32:
        *(uint32_t *)member = (uint32_t)draw_number(world);
        break;
    case PROTOBUF_C_TYPE_ENUM:
    case PROTOBUF_C_TYPE_SINT32:
        *(int32_t *)member = (int32_t)draw_number(world);
        break;
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
        *(uint64_t *)member = draw_number(world);
        break;
    case PROTOBUF_C_TYPE_BOOL:
        *(protobuf_c_boolean *)member = (protobuf_c_boolean)draw(world, 2);
        break;
    case PROTOBUF_C_TYPE_STRING:
        *(char **)member = (char *)bytes;
        break;
    case PROTOBUF_C_TYPE_BYTES:
        *(ProtobufCBinaryData *)member = (ProtobufCBinaryData){ size, bytes };
        break;
    case PROTOBUF_C_TYPE_MESSAGE:
        *(void **)member = draw(world, 3) ? fill(world, field->descriptor) : NULL;
        break;
    default:
        fail_msg("%s: a type that message.c does not know", field->name);
    }
}

static void *fill(struct world *world, const ProtobufCMessageDescriptor *descriptor)
{
    uint8_t *base = arena_alloc(&world->arena, descriptor->sizeof_message);
    descriptor->message_init((ProtobufCMessage *)base);
    for (unsigned i = 0; i < descriptor->n_fields; i++) {
        const ProtobufCFieldDescriptor *field = &descriptor->fields[i];
        assert_int_equal(field->id,
                         i + 1); /* without gaps: else every message takes the slow way */
        if (field->label != PROTOBUF_C_LABEL_REPEATED) {
            fill_member(world, field, base + field->offset);
            continue;
        }
        size_t count = draw(world, 5), *out = (size_t *)(base + field->quantifier_offset);
        bool is_message = field->type == PROTOBUF_C_TYPE_MESSAGE;
        void *array = arena_alloc(&world->arena, (count + 1) * sizeof(void *));
        for (*out = 0; *out < count; (*out)++) {
            if (is_message) {
                ((void **)array)[*out] = fill(world, field->descriptor);
            } else {
                fill_member(world, field, (uint32_t *)array + *out);
            }
        }
        *(void **)(base + field->offset) = array;
    }
    return base;
}

static size_t pack_both(const ProtobufCMessage *message, uint8_t *out)
{
    static uint8_t expected[PACKED_MAX];
    size_t size = protobuf_c_message_get_packed_size(message);
    assert_true(size <= PACKED_MAX);
    protobuf_c_message_pack(message, expected);
    assert_int_equal(message_size(message), size);
    assert_int_equal(message_pack(message, out), size);
    assert_memory_equal(out, expected, size);
    return size;
}

/* Both unpackers say the same of these bytes. */
static void unpack_both(struct world *world, const ProtobufCMessageDescriptor *descriptor,
                        struct span bytes)
{
    static uint8_t left[PACKED_MAX], right[PACKED_MAX];
    uint8_t *exact = mem_dup(bytes.data, bytes.size);
    ProtobufCMessage *ours =
        message_unpack(descriptor, &world->allocator, span_of(exact, bytes.size));
    mem_free(exact); /* nothing is borrowed */
    ProtobufCMessage *theirs =
        protobuf_c_message_unpack(descriptor, &world->allocator, bytes.size, bytes.data);
    assert_int_equal(ours != NULL, theirs != NULL);
    if (ours) {
        size_t size = protobuf_c_message_pack(ours, left);
        assert_int_equal(protobuf_c_message_pack(theirs, right), size);
        assert_memory_equal(left, right, size);
    }
}

static void the_same_bytes_both_ways(void **state)
{
    struct world *world = *state;
    static uint8_t packed[PACKED_MAX];
    for (int i = 0; i < DESCRIPTORS * 200; i++) {
        ProtobufCMessage *message = fill(world, descriptors[i % DESCRIPTORS]);
        size_t size = pack_both(message, packed);
        unpack_both(world, message->descriptor, span_of(packed, size));
        arena_reset(&world->arena);
    }
}

static void what_is_spoiled_is_judged_alike(void **state)
{
    struct world *world = *state;
    static uint8_t packed[PACKED_MAX];
    for (int i = 0; i < DESCRIPTORS * 1000; i++) {
        const ProtobufCMessageDescriptor *descriptor = descriptors[i % DESCRIPTORS];
        size_t size = pack_both(fill(world, descriptor), packed);
        for (size_t spoiled = draw(world, 4); size && spoiled; spoiled--) {
            size_t at = draw(world, size < 64 || draw(world, 2) ? size : 64);
            packed[at] = (uint8_t)draw(world, 256);
        }
        size -= draw(world, 4) ? 0 : draw(world, size + 1);
        unpack_both(world, descriptor, span_of(packed, size));
        arena_reset(&world->arena);
    }
}

static void unusual_forms_are_protobufs(void **state)
{
    struct world *world = *state;
    static const struct {
        const char *bytes;
        size_t size;
    } cases[] = {
        { "", 0 },
        { "\x7a\x01x", 3 },                        /* a field that nobody knows */
        { "\x0a\x02\x08\x05\x0a\x02\x10\x06", 8 }, /* meta in two parts */
        { "\x20\x05\x20\x07", 4 },                 /* a number twice: the last counts */
        { "\xa0\x00\x05", 3 },                     /* a tag longer than need be */
        { "\x20\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", 11 }, /* ten bytes, too large */
        { "\x20\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 12 },
        { "\x00\x01", 2 },
        { "\x0b\x0c", 2 },
        { "\x21\x01", 2 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        unpack_both(world, &cairn__v1__get_response__descriptor,
                    span_of(cases[i].bytes, cases[i].size));
    }
}

static void no_memory_is_no_message(void **state)
{
    struct world *world = *state;
    static uint8_t packed[PACKED_MAX];
    size_t size = pack_both(fill(world, &cairn__v1__multi_request__descriptor), packed);
    for (int allocations = 0;; allocations++) {
        world->allocations_left = allocations;
        void *message = message_unpack(&cairn__v1__multi_request__descriptor, &world->allocator,
                                       span_of(packed, size));
        bool was_enough = world->allocations_left > 0;
        world->allocations_left = -1;
        if (was_enough) {
            assert_non_null(message);
            return;
        }
        assert_true(allocations < 1000);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_same_bytes_both_ways, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_is_spoiled_is_judged_alike, set_up, tear_down),
        cmocka_unit_test_setup_teardown(unusual_forms_are_protobufs, set_up, tear_down),
        cmocka_unit_test_setup_teardown(no_memory_is_no_message, set_up, tear_down),
    };
    return cmocka_run_group_tests_name("message", tests, NULL, NULL);
}
