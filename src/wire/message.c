/* See message.h. Driven by protobuf-c's own descriptors, in one pass, for what our messages consist of:
 * fields numbered from 1 without gaps, singular ones without presence, repeated messages and numbers.
 * A message that holds anything else (an unknown field, a nested message in two parts, a wrong wire
 * type, rubbish) is given to protobuf-c as a whole, whose word counts. */
#include "wire/message.h"

#include "base/check.h"
#include "wire/varint.h"

enum { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5, VARINT_BYTES_MAX = 10 };

typedef ProtobufCFieldDescriptor Field;

/* --- Sizes */

static size_t varint_size(uint64_t value)
{
    return (size_t)((63 - __builtin_clzll(value | 1)) * 9 + 73) / 64;
}

static size_t tag_size(const Field *field)
{
    return field->id < 16 ? 1 : varint_size((uint64_t)field->id << 3);
}

static uint32_t zigzag(int32_t value)
{
    return (uint32_t)value << 1 ^ (uint32_t)(value >> 31);
}

/* The number in a member that is sent as a varint. */
static inline uint64_t varint_of(ProtobufCType type, const void *member)
{
    switch (type) {
    case PROTOBUF_C_TYPE_UINT32:
        return *(const uint32_t *)member;
    case PROTOBUF_C_TYPE_UINT64:
        return *(const uint64_t *)member;
    case PROTOBUF_C_TYPE_BOOL:
        return *(const protobuf_c_boolean *)member != 0;
    case PROTOBUF_C_TYPE_ENUM:
        return (uint64_t)(int64_t) * (const int32_t *)member;
    case PROTOBUF_C_TYPE_SINT32:
        return zigzag(*(const int32_t *)member);
    default:
        CHECK(!"a type that none of our messages has");
    }
}

static size_t bytes_size(const Field *field, size_t size)
{
    return tag_size(field) + varint_size(size) + size;
}

/* Of one element of a repeated field, or of a singular one that is not empty. */
static size_t repeated_size(const Field *field, size_t count, const void *array)
{
    size_t size = 0;
    if (field->type == PROTOBUF_C_TYPE_MESSAGE) {
        for (size_t i = 0; i < count; i++) {
            size += bytes_size(field, message_size(((ProtobufCMessage *const *)array)[i]));
        }
        return size;
    }
    CHECK(field->type == PROTOBUF_C_TYPE_UINT32 && (field->flags & PROTOBUF_C_FIELD_FLAG_PACKED));
    for (size_t i = 0; i < count; i++) {
        size += varint_size(((const uint32_t *)array)[i]);
    }
    return bytes_size(field, size);
}

static size_t singular_size(const Field *field, const void *member)
{
    switch (field->type) {
    case PROTOBUF_C_TYPE_FIXED64:
        return *(const uint64_t *)member ? tag_size(field) + 8 : 0;
    case PROTOBUF_C_TYPE_STRING: {
        const char *text = *(char *const *)member;
        return text && text[0] ? bytes_size(field, strlen(text)) : 0;
    }
    case PROTOBUF_C_TYPE_BYTES: {
        const ProtobufCBinaryData *bytes = member;
        return bytes->len ? bytes_size(field, bytes->len) : 0;
    }
    case PROTOBUF_C_TYPE_MESSAGE: {
        const ProtobufCMessage *message = *(ProtobufCMessage *const *)member;
        return message ? bytes_size(field, message_size(message)) : 0;
    }
    default: {
        uint64_t value = varint_of(field->type, member);
        return value ? tag_size(field) + varint_size(value) : 0;
    }
    }
}

size_t message_size(const ProtobufCMessage *message)
{
    const ProtobufCMessageDescriptor *descriptor = message->descriptor;
    const uint8_t *base = (const uint8_t *)message;
    size_t size = 0;
    for (unsigned i = 0; i < descriptor->n_fields; i++) {
        const Field *field = &descriptor->fields[i];
        if (field->label != PROTOBUF_C_LABEL_REPEATED) {
            size += singular_size(field, base + field->offset);
            continue;
        }
        size_t count = *(const size_t *)(base + field->quantifier_offset);
        if (count) {
            size += repeated_size(field, count, *(void *const *)(base + field->offset));
        }
    }
    return size;
}

/* --- Packing */

static uint8_t *put_tag(uint8_t *out, const Field *field, unsigned wire)
{
    return put_varint(out, (uint64_t)field->id << 3 | wire);
}

static uint8_t *put_bytes(uint8_t *out, const Field *field, const void *data, size_t size)
{
    out = put_varint(put_tag(out, field, WIRE_BYTES), size);
    memcpy(out, data, size);
    return out + size;
}

/* Most are short: the length is taken for one byte, and put right if it is more. */
static uint8_t *put_message(uint8_t *out, const Field *field, const ProtobufCMessage *message)
{
    uint8_t *at = put_tag(out, field, WIRE_BYTES);
    size_t size = message_pack(message, at + 1);
    size_t length = varint_size(size);
    if (length > 1) {
        memmove(at + length, at + 1, size);
    }
    return put_varint(at, size) + size;
}

static uint8_t *put_repeated(uint8_t *out, const Field *field, size_t count, const void *array)
{
    if (field->type == PROTOBUF_C_TYPE_MESSAGE) {
        for (size_t i = 0; i < count; i++) {
            out = put_message(out, field, ((ProtobufCMessage *const *)array)[i]);
        }
        return out;
    }
    size_t size = 0;
    for (size_t i = 0; i < count; i++) {
        size += varint_size(((const uint32_t *)array)[i]);
    }
    out = put_varint(put_tag(out, field, WIRE_BYTES), size);
    for (size_t i = 0; i < count; i++) {
        out = put_varint(out, ((const uint32_t *)array)[i]);
    }
    return out;
}

static uint8_t *put_singular(uint8_t *out, const Field *field, const void *member)
{
    switch (field->type) {
    case PROTOBUF_C_TYPE_FIXED64: {
        uint64_t value = *(const uint64_t *)member;
        if (value) {
            out = put_tag(out, field, WIRE_64);
            put_u64(out, value);
            out += 8;
        }
        return out;
    }
    case PROTOBUF_C_TYPE_STRING: {
        const char *text = *(char *const *)member;
        return text && text[0] ? put_bytes(out, field, text, strlen(text)) : out;
    }
    case PROTOBUF_C_TYPE_BYTES: {
        const ProtobufCBinaryData *bytes = member;
        return bytes->len ? put_bytes(out, field, bytes->data, bytes->len) : out;
    }
    case PROTOBUF_C_TYPE_MESSAGE: {
        const ProtobufCMessage *message = *(ProtobufCMessage *const *)member;
        return message ? put_message(out, field, message) : out;
    }
    default: {
        uint64_t value = varint_of(field->type, member);
        return value ? put_varint(put_tag(out, field, WIRE_VARINT), value) : out;
    }
    }
}

size_t message_pack(const ProtobufCMessage *message, uint8_t *out)
{
    const ProtobufCMessageDescriptor *descriptor = message->descriptor;
    const uint8_t *base = (const uint8_t *)message;
    uint8_t *at = out;
    for (unsigned i = 0; i < descriptor->n_fields; i++) {
        const Field *field = &descriptor->fields[i];
        if (field->label != PROTOBUF_C_LABEL_REPEATED) {
            at = put_singular(at, field, base + field->offset);
            continue;
        }
        size_t count = *(const size_t *)(base + field->quantifier_offset);
        if (count) {
            at = put_repeated(at, field, count, *(void *const *)(base + field->offset));
        }
    }
    return (size_t)(at - out);
}

/* --- Unpacking. All helpers return false for what protobuf-c is to judge. */

struct input {
    const uint8_t *at, *end;
};

static bool take_varint(struct input *in, uint64_t *value)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < VARINT_BYTES_MAX && in->at < in->end; i++) {
        uint8_t byte = *in->at++;
        sum |= (uint64_t)(byte & 0x7f) << 7 * i;
        if (byte < 0x80) {
            *value = sum;
            return true;
        }
    }
    return false;
}

static bool take_bytes(struct input *in, struct input *out)
{
    uint64_t size;
    if (!take_varint(in, &size) || size > (uint64_t)(in->end - in->at)) {
        return false;
    }
    *out = (struct input){ in->at, in->at + size };
    in->at += size;
    return true;
}

static bool skip(struct input *in, unsigned wire)
{
    uint64_t value;
    struct input bytes;
    size_t fixed = wire == WIRE_64 ? 8 : 4;
    switch (wire) {
    case WIRE_VARINT:
        return take_varint(in, &value);
    case WIRE_BYTES:
        return take_bytes(in, &bytes);
    case WIRE_64:
    case WIRE_32:
        in->at += (size_t)(in->end - in->at) >= fixed ? fixed : 0;
        return true; /* too short a rest is found by whoever reads on */
    default:
        return false;
    }
}

static size_t count_varints(struct input in)
{
    size_t count = 0;
    for (; in.at < in.end; in.at++) {
        count += *in.at < 0x80;
    }
    return count;
}

/* How many elements the field has from here to the message's end; 0: not to be read here. */
static size_t count_elements(const Field *field, struct input in)
{
    uint64_t tag;
    size_t count = 0;
    while (in.at < in.end && take_varint(&in, &tag)) {
        struct input bytes;
        if (tag != ((uint64_t)field->id << 3 | WIRE_BYTES)) {
            if (!skip(&in, tag & 7)) {
                return 0;
            }
        } else if (!take_bytes(&in, &bytes)) {
            return 0;
        } else {
            count += field->type == PROTOBUF_C_TYPE_MESSAGE ? 1 : count_varints(bytes);
        }
    }
    return count;
}

static void *unpack(const ProtobufCMessageDescriptor *descriptor, ProtobufCAllocator *arena,
                    struct input in);

/* from: where the field's first tag begins. */
static bool take_repeated(const Field *field, uint8_t *base, ProtobufCAllocator *arena,
                          struct input *in, struct input from)
{
    size_t *count = (size_t *)(base + field->quantifier_offset);
    void **array = (void **)(base + field->offset);
    bool is_message = field->type == PROTOBUF_C_TYPE_MESSAGE;
    struct input bytes;
    if (!is_message && field->type != PROTOBUF_C_TYPE_UINT32) {
        return false;
    }
    if (!*array) {
        size_t all = count_elements(field, from);
        *array = all ? arena->alloc(arena->allocator_data,
                                    all * (is_message ? sizeof(void *) : sizeof(uint32_t)))
                     : NULL;
    }
    if (!*array || !take_bytes(in, &bytes)) {
        return false;
    }
    if (is_message) {
        void *message = unpack(field->descriptor, arena, bytes);
        ((void **)*array)[(*count)++] = message;
        return message != NULL;
    }
    while (bytes.at < bytes.end) {
        uint64_t value;
        if (!take_varint(&bytes, &value)) {
            return false;
        }
        ((uint32_t *)*array)[(*count)++] = (uint32_t)value;
    }
    return true;
}

static bool take_number(ProtobufCType type, void *member, struct input *in)
{
    uint64_t value;
    if (!take_varint(in, &value)) {
        return false;
    }
    switch (type) {
    case PROTOBUF_C_TYPE_UINT32:
        *(uint32_t *)member = (uint32_t)value;
        return true;
    case PROTOBUF_C_TYPE_UINT64:
        *(uint64_t *)member = value;
        return true;
    case PROTOBUF_C_TYPE_BOOL:
        *(protobuf_c_boolean *)member = value != 0;
        return true;
    case PROTOBUF_C_TYPE_ENUM:
        *(int32_t *)member = (int32_t)(uint32_t)value;
        return true;
    case PROTOBUF_C_TYPE_SINT32:
        *(int32_t *)member = (int32_t)((uint32_t)value >> 1 ^ -((uint32_t)value & 1));
        return true;
    default:
        return false;
    }
}

static bool take_copy(const Field *field, void *member, ProtobufCAllocator *arena,
                      struct input bytes)
{
    size_t size = (size_t)(bytes.end - bytes.at), end = field->type == PROTOBUF_C_TYPE_STRING;
    uint8_t *copy = NULL;
    if (size + end) {
        copy = arena->alloc(arena->allocator_data, size + end);
        if (!copy) {
            return false;
        }
        memcpy(copy, bytes.at, size);
    }
    if (end) {
        copy[size] = '\0';
        *(char **)member = (char *)copy;
    } else {
        *(ProtobufCBinaryData *)member = (ProtobufCBinaryData){ size, copy };
    }
    return true;
}

static bool take_singular(const Field *field, void *member, ProtobufCAllocator *arena,
                          struct input *in, unsigned wire)
{
    struct input bytes;
    if (wire == WIRE_VARINT) {
        return take_number(field->type, member, in);
    }
    if (wire == WIRE_64) {
        if (field->type != PROTOBUF_C_TYPE_FIXED64 || in->end - in->at < 8) {
            return false;
        }
        *(uint64_t *)member = get_u64(in->at);
        in->at += 8;
        return true;
    }
    if (wire != WIRE_BYTES || !take_bytes(in, &bytes)) {
        return false;
    }
    if (field->type == PROTOBUF_C_TYPE_MESSAGE) {
        void **message = member;
        if (*message) {
            return false; /* in two parts, to be merged */
        }
        *message = unpack(field->descriptor, arena, bytes);
        return *message != NULL;
    }
    return (field->type == PROTOBUF_C_TYPE_BYTES || field->type == PROTOBUF_C_TYPE_STRING) &&
           take_copy(field, member, arena, bytes);
}

/* NULL: not to be read here, or no memory. */
static void *unpack(const ProtobufCMessageDescriptor *descriptor, ProtobufCAllocator *arena,
                    struct input in)
{
    ProtobufCMessage *message = arena->alloc(arena->allocator_data, descriptor->sizeof_message);
    if (!message) {
        return NULL;
    }
    descriptor->message_init(message);
    uint8_t *base = (uint8_t *)message;
    while (in.at < in.end) {
        struct input from = in;
        uint64_t tag;
        if (!take_varint(&in, &tag) || (tag >> 3) - 1 >= descriptor->n_fields) {
            return NULL;
        }
        const Field *field = &descriptor->fields[(tag >> 3) - 1];
        unsigned wire = tag & 7;
        if (field->id != tag >> 3) {
            return NULL;
        }
        bool is_good = field->label == PROTOBUF_C_LABEL_REPEATED
                           ? wire == WIRE_BYTES && take_repeated(field, base, arena, &in, from)
                           : field->label == PROTOBUF_C_LABEL_NONE &&
                                 take_singular(field, base + field->offset, arena, &in, wire);
        if (!is_good) {
            return NULL;
        }
    }
    return message;
}

void *message_unpack(const ProtobufCMessageDescriptor *descriptor, ProtobufCAllocator *arena,
                     struct span bytes)
{
    CHECK(arena);
    void *message =
        unpack(descriptor, arena, (struct input){ bytes.data, bytes.data + bytes.size });
    return message ? message : protobuf_c_message_unpack(descriptor, arena, bytes.size, bytes.data);
}

static void *allocator_alloc(void *data, size_t size)
{
    return arena_try_alloc(data, size);
}

static void allocator_free(void *data, void *memory)
{
}

ProtobufCAllocator message_allocator(struct arena *arena)
{
    return (ProtobufCAllocator){ allocator_alloc, allocator_free, arena };
}
