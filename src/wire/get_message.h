/* GetRequest and GetResponse (proto/client.proto) by hand: the same bytes as message_pack's, for the two messages of which there
 * are more than of all others. What they consist of as a rule is packed and unpacked here; all else is left to wire/message.h,
 * which stays the reference (t/unit/wire/test_get_message.c compares). */
#ifndef WIRE_GET_MESSAGE_H
#define WIRE_GET_MESSAGE_H

#include "base/bytes.h"
#include "base/limits.h"

/* A GetRequest. */
struct get_question {
    struct span key;
    uint32_t consistency; /* Cairn__V1__Consistency */
    bool meta_only;
    uint64_t max_staleness_ms;
};

/* A GetResponse without attributes. */
struct get_answer {
    uint64_t version, time, size; /* of its meta */
    bool has_hint;
    uint32_t group;               /* of its hint */
    uint64_t node_id;
    uint64_t staleness_ms;
};

enum {
    GET_QUESTION_BYTES = LIMIT_KEY_BYTES + 32, /* at most */
    GET_ANSWER_BYTES = 80,
};

/* Returns how many bytes were written. The key is one that may be: LIMIT_KEY_BYTES. */
size_t get_question_pack(const struct get_question *question, uint8_t out[GET_QUESTION_BYTES]);
/* The key is borrowed from bytes. False: something else than what is packed here, message_unpack is to judge. */
bool get_question_unpack(struct span bytes, struct get_question *out);
size_t get_answer_pack(const struct get_answer *answer, uint8_t out[GET_ANSWER_BYTES]);
bool get_answer_unpack(struct span bytes, struct get_answer *out);

#endif
