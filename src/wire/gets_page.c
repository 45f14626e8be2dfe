/* Packing and unpacking of gets that travel together; the layout stands in gets_page.h. */
#include "wire/gets_page.h"

#include "base/check.h"

enum {
    QUESTION_BYTES = 12,
    ANSWER_BYTES = 32,
    HINT_BYTES = 12,
    CONSISTENCY_MAX = 1, /* linearizable, by lease */
};

void gets_page_ask(struct buf *page, uint64_t request_id, const struct get_question *question)
{
    CHECK(question->key.size > 0 && question->key.size <= LIMIT_KEY_BYTES);
    CHECK(question->consistency <= CONSISTENCY_MAX && question->max_staleness_ms == 0);
    uint8_t *at = buf_extend(page, QUESTION_BYTES + question->key.size);
    put_u64(at, request_id);
    put_u16(at + 8, (uint16_t)question->key.size);
    at[10] = (uint8_t)question->consistency;
    at[11] = question->meta_only ? GETS_PAGE_META_ONLY : 0;
    memcpy(at + QUESTION_BYTES, question->key.data, question->key.size);
}

bool gets_page_next_question(struct span *page, uint64_t *request_id, struct get_question *out)
{
    const uint8_t *at = page->data;
    if (page->size < QUESTION_BYTES || at[10] > CONSISTENCY_MAX || at[11] & ~GETS_PAGE_META_ONLY) {
        return false;
    }
    size_t key_size = get_u16(at + 8), size = QUESTION_BYTES + key_size;
    if (key_size == 0 || key_size > LIMIT_KEY_BYTES || size > page->size) {
        return false;
    }
    *request_id = get_u64(at);
    *out = (struct get_question){ .key = span_of(at + QUESTION_BYTES, key_size),
                                  .consistency = at[10],
                                  .meta_only = at[11] != 0 };
    *page = span_of(at + size, page->size - size);
    return true;
}

size_t gets_page_answer_size(const struct gets_page_answer *answer)
{
    return ANSWER_BYTES + (answer->get.has_hint ? HINT_BYTES : 0) +
           (answer->has_value ? answer->value.size : 0);
}

void gets_page_answer(uint8_t *at, const struct gets_page_answer *answer)
{
    CHECK(answer->get.size <= UINT32_MAX && answer->get.staleness_ms == 0);
    CHECK(!answer->has_value || answer->value.size == answer->get.size);
    put_u64(at, answer->request_id);
    put_u64(at + 8, answer->get.version);
    put_u64(at + 16, answer->get.time);
    put_u32(at + 24, (uint32_t)answer->get.size);
    put_u32(at + 28, (answer->has_value ? GETS_PAGE_VALUE : 0u) |
                         (answer->get.has_hint ? GETS_PAGE_HINT : 0u));
    at += ANSWER_BYTES;
    if (answer->get.has_hint) {
        put_u32(at, answer->get.group);
        put_u64(at + 4, answer->get.node_id);
        at += HINT_BYTES;
    }
    if (answer->has_value && answer->value.size > 0) {
        memcpy(at, answer->value.data, answer->value.size);
    }
}

bool gets_page_next_answer(struct span *page, struct gets_page_answer *out)
{
    const uint8_t *at = page->data;
    if (page->size < ANSWER_BYTES || get_u32(at + 28) & ~(GETS_PAGE_VALUE | GETS_PAGE_HINT)) {
        return false;
    }
    bool has_hint = get_u32(at + 28) & GETS_PAGE_HINT,
         has_value = get_u32(at + 28) & GETS_PAGE_VALUE;
    uint64_t value_size = get_u32(at + 24), head = ANSWER_BYTES + (has_hint ? HINT_BYTES : 0);
    uint64_t size = head + (has_value ? value_size : 0);
    if (size > page->size) {
        return false;
    }
    *out = (struct gets_page_answer){
        .request_id = get_u64(at),
        .get = { .version = get_u64(at + 8),
                 .time = get_u64(at + 16),
                 .size = value_size,
                 .has_hint = has_hint,
                 .group = has_hint ? get_u32(at + ANSWER_BYTES) : 0,
                 .node_id = has_hint ? get_u64(at + ANSWER_BYTES + 4) : 0 },
        .has_value = has_value,
        .value = span_of(at + head, has_value ? value_size : 0),
    };
    *page = span_of(at + size, page->size - size);
    return true;
}
