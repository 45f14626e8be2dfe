/* See get_message.h. Fields are taken in the order in which packers write them, each at most once; anything else
 * is refused. */
#include "wire/get_message.h"

#include "base/check.h"
#include "wire/varint.h"

/* Tags: field number << 3 | wire type. */
enum {
    VARINT = 0,
    EIGHT_BYTES = 1,
    BYTES = 2,
    QUESTION_KEY = 1 << 3 | BYTES,
    QUESTION_CONSISTENCY = 2 << 3 | VARINT,
    QUESTION_META_ONLY = 3 << 3 | VARINT,
    QUESTION_STALENESS = 4 << 3 | VARINT,
    ANSWER_META = 1 << 3 | BYTES,
    ANSWER_HINT = 3 << 3 | BYTES,
    ANSWER_STALENESS = 4 << 3 | VARINT,
    META_VERSION = 1 << 3 | VARINT,
    META_TIME = 2 << 3 | EIGHT_BYTES,
    META_SIZE = 3 << 3 | VARINT,
    HINT_GROUP = 1 << 3 | VARINT,
    HINT_NODE = 2 << 3 | EIGHT_BYTES,
    VARINT_BYTES = 10,
    ONE_BYTE = 0x80, /* a varint below takes one */
};

/* --- Packing */

/* A field of its default value is left out. */
static inline uint8_t *put_field(uint8_t *out, uint8_t tag, uint64_t value)
{
    if (value == 0) {
        return out;
    }
    *out = tag;
    return put_varint(out + 1, value);
}

static inline uint8_t *put_eight(uint8_t *out, uint8_t tag, uint64_t value)
{
    if (value == 0) {
        return out;
    }
    *out = tag;
    put_u64(out + 1, value);
    return out + 1 + sizeof value;
}

size_t get_question_pack(const struct get_question *question, uint8_t out[GET_QUESTION_BYTES])
{
    uint8_t *at = out;
    CHECK(question->key.size <= LIMIT_KEY_BYTES);
    if (question->key.size > 0) {
        *at = QUESTION_KEY;
        at = put_varint(at + 1, question->key.size);
        memcpy(at, question->key.data, question->key.size);
        at += question->key.size;
    }
    at = put_field(at, QUESTION_CONSISTENCY, question->consistency);
    at = put_field(at, QUESTION_META_ONLY, question->meta_only);
    at = put_field(at, QUESTION_STALENESS, question->max_staleness_ms);
    return (size_t)(at - out);
}

/* The messages within are shorter than what takes more than a byte for the length. */
_Static_assert(3 * (1 + VARINT_BYTES) < ONE_BYTE, "a meta's length is one byte");
_Static_assert(3 * (1 + VARINT_BYTES) + 2 * (1 + VARINT_BYTES) + 2 * 2 + 1 + VARINT_BYTES <=
                   GET_ANSWER_BYTES,
               "an answer fits");

size_t get_answer_pack(const struct get_answer *answer, uint8_t out[GET_ANSWER_BYTES])
{
    uint8_t *meta = out;
    meta[0] = ANSWER_META;
    uint8_t *at = put_field(meta + 2, META_VERSION, answer->version);
    at = put_eight(at, META_TIME, answer->time);
    at = put_field(at, META_SIZE, answer->size);
    meta[1] = (uint8_t)(at - meta - 2);
    if (answer->has_hint) {
        uint8_t *hint = at;
        hint[0] = ANSWER_HINT;
        at = put_field(hint + 2, HINT_GROUP, answer->group);
        at = put_eight(at, HINT_NODE, answer->node_id);
        hint[1] = (uint8_t)(at - hint - 2);
    }
    at = put_field(at, ANSWER_STALENESS, answer->staleness_ms);
    return (size_t)(at - out);
}

/* --- Unpacking */

struct input {
    const uint8_t *at, *end;
    bool bad;
};

static inline bool next_is(struct input *in, uint8_t tag)
{
    bool is = in->at < in->end && *in->at == tag;
    in->at += is;
    return is;
}

static inline uint64_t take_varint(struct input *in)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < VARINT_BYTES && in->at < in->end; i++) {
        uint8_t byte = *in->at++;
        sum |= (uint64_t)(byte & (ONE_BYTE - 1)) << 7 * i;
        if (byte < ONE_BYTE) {
            return sum;
        }
    }
    in->bad = true;
    return 0;
}

/* 0 if it is not there. */
static inline uint64_t take_field(struct input *in, uint8_t tag)
{
    return next_is(in, tag) ? take_varint(in) : 0;
}

static inline uint64_t take_eight(struct input *in, uint8_t tag)
{
    if (!next_is(in, tag)) {
        return 0;
    }
    if (in->end - in->at < (ptrdiff_t)sizeof(uint64_t)) {
        in->bad = true;
        return 0;
    }
    in->at += sizeof(uint64_t);
    return get_u64(in->at - sizeof(uint64_t));
}

static inline struct span take_bytes(struct input *in)
{
    uint64_t size = take_varint(in);
    if (in->bad || size > (uint64_t)(in->end - in->at)) {
        in->bad = true;
        return span_of(in->at, 0);
    }
    in->at += size;
    return span_of(in->at - size, size);
}

static bool is_done(const struct input *in)
{
    return !in->bad && in->at == in->end;
}

bool get_question_unpack(struct span bytes, struct get_question *out)
{
    struct input in = { bytes.data, bytes.data + bytes.size, false };
    struct get_question question = { 0 };
    if (next_is(&in, QUESTION_KEY)) {
        question.key = take_bytes(&in);
    }
    uint64_t consistency = take_field(&in, QUESTION_CONSISTENCY);
    question.consistency = (uint32_t)consistency;
    question.meta_only = take_field(&in, QUESTION_META_ONLY) != 0;
    question.max_staleness_ms = take_field(&in, QUESTION_STALENESS);
    if (!is_done(&in) || consistency > INT32_MAX) {
        return false;
    }
    *out = question;
    return true;
}

static bool take_hint(struct input *in, struct get_answer *out)
{
    struct span inner = take_bytes(in);
    struct input hint = { inner.data, inner.data + inner.size, in->bad };
    uint64_t group = take_field(&hint, HINT_GROUP);
    out->group = (uint32_t)group;
    out->node_id = take_eight(&hint, HINT_NODE);
    return is_done(&hint) && group <= UINT32_MAX;
}

bool get_answer_unpack(struct span bytes, struct get_answer *out)
{
    struct input in = { bytes.data, bytes.data + bytes.size, false };
    if (!next_is(&in, ANSWER_META)) {
        return false;
    }
    struct span inner = take_bytes(&in);
    struct input meta = { inner.data, inner.data + inner.size, in.bad };
    struct get_answer answer = { .version = take_field(&meta, META_VERSION) };
    answer.time = take_eight(&meta, META_TIME);
    answer.size = take_field(&meta, META_SIZE);
    answer.has_hint = next_is(&in, ANSWER_HINT);
    if (answer.has_hint && !take_hint(&in, &answer)) {
        return false;
    }
    answer.staleness_ms = take_field(&in, ANSWER_STALENESS);
    if (!is_done(&meta) || !is_done(&in)) {
        return false;
    }
    *out = answer;
    return true;
}
