/* Packing and unpacking of commands; the layout stands in command.h.
 *
 * Every replica must read the same command from the same bytes, so unpacking is strict: one meaning
 * has one encoding, and what command_pack could not have written is damage. */
#include "store/command.h"

#include "base/check.h"
#include "base/hash.h"
#include "base/limits.h"

enum {
    COMMAND_TIME_OFFSET = 16,
    COMMAND_HEAD_BYTES = 24,
    COMMAND_SESSION_BYTES = 40,
    COMMAND_CONDITION_BYTES = 16,
    COMMAND_ATTRIBUTES_BYTES = 40,
    COMMAND_FLAGS_ALL = COMMAND_HAS_SESSION | COMMAND_HAS_CONDITION | COMMAND_HAS_ATTRIBUTES,
};

static uint32_t command_flags(const struct command *command)
{
    return (command->number != 0 ? COMMAND_HAS_SESSION : 0) |
           (command->condition != CONDITION_NONE ? COMMAND_HAS_CONDITION : 0) |
           (command->attributes.mask != 0 ? COMMAND_HAS_ATTRIBUTES : 0);
}

static size_t optional_size(uint32_t flags)
{
    return (flags & COMMAND_HAS_SESSION ? COMMAND_SESSION_BYTES : 0) +
           (flags & COMMAND_HAS_CONDITION ? COMMAND_CONDITION_BYTES : 0) +
           (flags & COMMAND_HAS_ATTRIBUTES ? COMMAND_ATTRIBUTES_BYTES : 0);
}

/* Which parts go with which type; the same rule when packing (a bug of ours) and when unpacking
 * (damage). */
static bool command_is_sound(const struct command *command)
{
    if (command->condition > CONDITION_PRESENT) {
        return false;
    }
    if (command->condition != CONDITION_VERSION && command->condition_version != 0) {
        return false;
    }
    if (command->attributes.mask & ~(uint32_t)ATTRIBUTE_ALL) {
        return false;
    }
    bool has_key = command->type != COMMAND_FENCE && command->type != COMMAND_MARK;
    if (has_key && (command->key.size == 0 || command->key.size > LIMIT_KEY_BYTES)) {
        return false;
    }
    switch (command->type) {
    case COMMAND_PUT:
        return command->value.size <= LIMIT_VALUE_BYTES;
    case COMMAND_DELETE:
        return command->value.size == 0 && command->attributes.mask == 0;
    case COMMAND_SETATTR:
        return command->value.size == 0 && command->attributes.mask != 0;
    case COMMAND_FENCE:
    case COMMAND_MARK:
        return command->key.size == 0 && command->value.size == 0 && command_flags(command) == 0;
    default:
        return false;
    }
}

static uint8_t *pack_session(uint8_t *at, const struct command *command)
{
    put_u64(at, command->session.high);
    put_u64(at + 8, command->session.low);
    put_u64(at + 16, command->number);
    put_u64(at + 24, command->lowest);
    put_u64(at + 32, command->client_time);
    return at + COMMAND_SESSION_BYTES;
}

static uint8_t *pack_condition(uint8_t *at, const struct command *command)
{
    memset(at, 0, 8);
    at[0] = command->condition;
    put_u64(at + 8, command->condition_version);
    return at + COMMAND_CONDITION_BYTES;
}

static uint8_t *pack_attributes(uint8_t *at, const struct attributes *attributes)
{
    uint32_t mask = attributes->mask;
    put_u32(at, mask);
    put_u32(at + 4, mask & ATTRIBUTE_MODE ? attributes->mode : 0);
    put_u32(at + 8, mask & ATTRIBUTE_UID ? attributes->uid : 0);
    put_u32(at + 12, mask & ATTRIBUTE_GID ? attributes->gid : 0);
    put_u32(at + 16, mask & ATTRIBUTE_FLAGS ? attributes->flags : 0);
    put_u32(at + 20, 0);
    put_u64(at + 24, mask & ATTRIBUTE_MTIME ? attributes->mtime_us : 0);
    put_u64(at + 32, mask & ATTRIBUTE_EXPIRES ? attributes->expires_at_us : 0);
    return at + COMMAND_ATTRIBUTES_BYTES;
}

static uint8_t *pack_bytes(uint8_t *at, struct span span)
{
    if (span.size > 0) {
        memcpy(at, span.data, span.size);
    }
    return at + span.size;
}

struct blob *command_pack(const struct command *command)
{
    struct blob *blob = command_try_pack(command, NULL);
    CHECK(blob != NULL);
    return blob;
}

struct blob *command_try_pack(const struct command *command, struct mem_gate *gate)
{
    CHECK(command_is_sound(command));
    uint32_t flags = command_flags(command);
    size_t size =
        COMMAND_HEAD_BYTES + optional_size(flags) + command->key.size + command->value.size;
    CHECK(size <= LIMIT_ENTRY_BYTES);
    struct blob *blob = blob_try_new(gate, size);
    if (!blob) {
        return NULL;
    }
    uint8_t *head = blob->data;
    head[0] = command->type;
    head[1] = COMMAND_VERSION;
    put_u16(head + 2, command->feature_level);
    put_u16(head + 4, (uint16_t)flags);
    put_u16(head + 6, (uint16_t)command->key.size);
    put_u32(head + 8, (uint32_t)command->value.size);
    put_u64(head + COMMAND_TIME_OFFSET, command->time);
    uint8_t *at = head + COMMAND_HEAD_BYTES;
    at = flags & COMMAND_HAS_SESSION ? pack_session(at, command) : at;
    at = flags & COMMAND_HAS_CONDITION ? pack_condition(at, command) : at;
    at = flags & COMMAND_HAS_ATTRIBUTES ? pack_attributes(at, &command->attributes) : at;
    uint8_t *content = at;
    at = pack_bytes(pack_bytes(at, command->key), command->value);
    CHECK((size_t)(at - head) == size);
    put_u32(head + 12, hash_crc32c(0, content, (size_t)(at - content)));
    return blob;
}

/* All before key and value. */
static size_t head_size(const uint8_t *head)
{
    return COMMAND_HEAD_BYTES + optional_size(get_u16(head + 4));
}

bool command_peek(const struct blob *packed, struct session_id *session, struct span *key)
{
    const uint8_t *head = packed->data;
    if (packed->size < COMMAND_HEAD_BYTES + COMMAND_SESSION_BYTES) {
        return false;
    }
    size_t key_size = get_u16(head + 6), before = head_size(head);
    if (key_size == 0 || before + key_size > packed->size) {
        return false;
    }
    bool has_session = get_u16(head + 4) & COMMAND_HAS_SESSION;
    const uint8_t *at = head + COMMAND_HEAD_BYTES;
    *session = has_session ? (struct session_id){ get_u64(at), get_u64(at + 8) }
                           : (struct session_id){ 0 };
    *key = span_of(head + before, key_size);
    return true;
}

static uint32_t sum_whole(const uint8_t *head, uint32_t content_checksum, size_t content_size)
{
    return hash_crc32c_join(hash_crc32c(0, head, head_size(head)), content_checksum, content_size);
}

void command_set_time(struct blob *packed, uint64_t time)
{
    uint8_t *head = packed->data;
    CHECK(packed->size >= COMMAND_HEAD_BYTES && packed->size >= head_size(head));
    put_u64(head + COMMAND_TIME_OFFSET, time);
    if (packed->size >= BLOB_SUM_MIN) {
        packed->crc = sum_whole(head, get_u32(head + 12), packed->size - head_size(head));
        packed->is_summed = true;
    }
}

static bool unpack_session(struct reader *reader, struct command *out)
{
    out->session.high = reader_u64(reader);
    out->session.low = reader_u64(reader);
    out->number = reader_u64(reader);
    out->lowest = reader_u64(reader);
    out->client_time = reader_u64(reader);
    return out->number != 0;
}

static bool unpack_condition(struct reader *reader, struct command *out)
{
    uint64_t kind = reader_u64(reader);
    out->condition_version = reader_u64(reader);
    if (kind == CONDITION_NONE || kind > CONDITION_PRESENT) {
        return false; /* also when one of the seven bytes isn't zero */
    }
    out->condition = (uint8_t)kind;
    return true;
}

static bool unpack_attributes(struct reader *reader, struct attributes *out)
{
    out->mask = reader_u32(reader);
    out->mode = reader_u32(reader);
    out->uid = reader_u32(reader);
    out->gid = reader_u32(reader);
    out->flags = reader_u32(reader);
    uint32_t zero = reader_u32(reader);
    out->mtime_us = reader_u64(reader);
    out->expires_at_us = reader_u64(reader);
    uint32_t mask = out->mask;
    return zero == 0 && mask != 0 && (mask & ATTRIBUTE_MODE || out->mode == 0) &&
           (mask & ATTRIBUTE_UID || out->uid == 0) && (mask & ATTRIBUTE_GID || out->gid == 0) &&
           (mask & ATTRIBUTE_FLAGS || out->flags == 0) &&
           (mask & ATTRIBUTE_MTIME || out->mtime_us == 0) &&
           (mask & ATTRIBUTE_EXPIRES || out->expires_at_us == 0);
}

/* whole: the CRC32C of all the bytes, NULL when it isn't known. */
static int unpack(struct span bytes, const uint32_t *whole, struct command *out, struct err *err)
{
    if (bytes.size < COMMAND_HEAD_BYTES) {
        return err_set(err, ERR_CORRUPT, "command of %zu bytes is too short", bytes.size);
    }
    const uint8_t *head = bytes.data;
    if (head[1] != COMMAND_VERSION || head[0] < COMMAND_PUT || head[0] > COMMAND_MARK) {
        return err_set(err, ERR_FORMAT, "command of type %u, format %u", head[0], head[1]);
    }
    uint32_t flags = get_u16(head + 4);
    size_t key_size = get_u16(head + 6), value_size = get_u32(head + 8);
    if (flags & ~(uint32_t)COMMAND_FLAGS_ALL) {
        return err_set(err, ERR_CORRUPT, "command with unknown flags %#x", flags);
    }
    if (bytes.size != COMMAND_HEAD_BYTES + optional_size(flags) + key_size + value_size) {
        return err_set(err, ERR_CORRUPT, "command of %zu bytes: its lengths say otherwise",
                       bytes.size);
    }
    struct command command = { .type = head[0],
                               .feature_level = get_u16(head + 2),
                               .time = get_u64(head + COMMAND_TIME_OFFSET) };
    struct reader reader =
        reader_of(span_of(head + COMMAND_HEAD_BYTES, bytes.size - COMMAND_HEAD_BYTES));
    bool sound = true;
    if (flags & COMMAND_HAS_SESSION) {
        sound = sound && unpack_session(&reader, &command);
    }
    if (flags & COMMAND_HAS_CONDITION) {
        sound = sound && unpack_condition(&reader, &command);
    }
    if (flags & COMMAND_HAS_ATTRIBUTES) {
        sound = sound && unpack_attributes(&reader, &command.attributes);
    }
    const uint8_t *content = reader.at;
    command.key = reader_span(&reader, key_size);
    command.value = reader_span(&reader, value_size);
    command.checksum = get_u32(head + 12);
    if (!sound || reader.bad || reader.left != 0 || !command_is_sound(&command)) {
        return err_set(err, ERR_CORRUPT, "command of type %u is malformed", head[0]);
    }
    bool is_right = whole ? sum_whole(head, command.checksum, key_size + value_size) == *whole
                          : hash_crc32c(0, content, key_size + value_size) == command.checksum;
    if (!is_right) {
        return err_set(err, ERR_CORRUPT, "command of type %u: checksum does not match", head[0]);
    }
    *out = command;
    return 0;
}

int command_unpack(struct span bytes, struct command *out, struct err *err)
{
    return unpack(bytes, NULL, out, err);
}

int command_unpack_blob(const struct blob *blob, struct command *out, struct err *err)
{
    return unpack(blob_span(blob), blob->is_summed ? &blob->crc : NULL, out, err);
}
