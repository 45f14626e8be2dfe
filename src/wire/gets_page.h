/* Gets that leave together, and answers that leave together: the payloads of VERB_GETS, to and fro. One header and one sum
 * serve all that a client asks a node in one go. Each get is a request of its own, with its own id: it is answered whenever it
 * is ready, beside whichever others are ready then, or alone by a frame of VERB_GET (failures, attributes, larger values).
 *
 * Questions, one after another:
 *   offset size field
 *        0    8 request id
 *        8    2 key size
 *       10    1 consistency (proto/client.proto): LINEARIZABLE or LEASE
 *       11    1 flags (enum gets_page_flags): META_ONLY
 *       12      key
 *
 * Answers, one after another:
 *   offset size field
 *        0    8 request id
 *        8    8 version
 *       16    8 time (HLC)
 *       24    4 size of the key's value
 *       28    4 flags: VALUE, HINT
 *        …   12 group 4, id of the node that leads it 8     only with HINT; without it the answering node leads
 *        …      value                                       only with VALUE
 */
#ifndef WIRE_GETS_PAGE_H
#define WIRE_GETS_PAGE_H

#include "wire/get_message.h"

enum gets_page_flags { GETS_PAGE_META_ONLY = 1, GETS_PAGE_VALUE = 1, GETS_PAGE_HINT = 2 };

enum {
    /* Questions of one frame at most; clients begin another one, nodes refuse a longer one with ERR_LIMIT. */
    GETS_PAGE_QUESTIONS = 256,
    GETS_PAGE_QUESTION_BYTES = 12 + LIMIT_KEY_BYTES, /* at most */
    /* Larger values are answered alone, without a copy where that can be. */
    GETS_PAGE_VALUE_BYTES = 2048,
};

struct gets_page_answer {
    uint64_t request_id;
    struct get_answer get; /* staleness_ms is 0: stale gets are asked alone */
    bool has_value;
    struct span value; /* borrowed; get.size bytes if has_value */
};

/* Appends to a buffer with room for it (GETS_PAGE_QUESTION_BYTES). The key is one that may be. */
void gets_page_ask(struct buf *page, uint64_t request_id, const struct get_question *question);
/* Takes the question at the beginning of *page; the key is borrowed. False when nothing is left, or (and then *page is not empty)
 * when what is there is no question. */
bool gets_page_next_question(struct span *page, uint64_t *request_id, struct get_question *out);

size_t gets_page_answer_size(const struct gets_page_answer *answer);
/* Writes as many bytes. */
void gets_page_answer(uint8_t *at, const struct gets_page_answer *answer);
/* As gets_page_next_question. */
bool gets_page_next_answer(struct span *page, struct gets_page_answer *out);

#endif
