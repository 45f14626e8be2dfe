/* Pages of gets and their answers: what was packed is unpacked; what was cut or bent is told, and never read beyond. */
#include "wire/gets_page.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/hash.h"
#include "base/mem.h"

enum { QUESTIONS = 4, ANSWERS = 5 };

static const struct get_question questions[QUESTIONS] = {
    { .key = { (const uint8_t *)"a", 1 } },
    { .key = { (const uint8_t *)"b/c", 3 }, .consistency = 1 },
    { .key = { (const uint8_t *)"d", 1 }, .meta_only = true },
    { .key = { NULL, LIMIT_KEY_BYTES } }, /* filled below */
};

static const struct gets_page_answer answers[ANSWERS] = {
    { 1, { .version = 2, .time = 3, .size = 5 }, true, { (const uint8_t *)"value", 5 } },
    { UINT64_MAX, { .version = UINT64_MAX, .size = 0 }, true, { NULL, 0 } },
    { 7, { .size = LIMIT_VALUE_BYTES }, false, { NULL, 0 } },
    { 8,
      { .size = 1, .has_hint = true, .group = 9, .node_id = UINT64_MAX },
      true,
      { (const uint8_t *)"x", 1 } },
    { 9, { .has_hint = true }, false, { NULL, 0 } },
};

static void pack_questions(struct buf *page)
{
    static const uint8_t longest[LIMIT_KEY_BYTES] = { 1, 2, 3 };
    for (uint64_t i = 0; i < QUESTIONS; i++) {
        struct get_question question = questions[i];
        question.key.data = question.key.data ? question.key.data : longest;
        size_t before = page->size;
        gets_page_ask(page, 100 + i, &question);
        assert_in_range(page->size - before, 1, GETS_PAGE_QUESTION_BYTES);
    }
}

static void pack_answers(struct buf *page)
{
    for (size_t i = 0; i < ANSWERS; i++) {
        gets_page_answer(buf_extend(page, gets_page_answer_size(&answers[i])), &answers[i]);
    }
}

static void what_is_packed_is_unpacked(void **state)
{
    struct buf page = { 0 };
    struct get_question question;
    struct gets_page_answer answer;
    uint64_t id;
    pack_questions(&page);
    struct span rest = buf_span(&page);
    for (uint64_t i = 0; i < QUESTIONS; i++) {
        assert_true(gets_page_next_question(&rest, &id, &question));
        assert_int_equal(id, 100 + i);
        assert_int_equal(question.key.size, questions[i].key.size);
        assert_true(!questions[i].key.data || span_equal(question.key, questions[i].key));
        assert_int_equal(question.consistency, questions[i].consistency);
        assert_int_equal(question.meta_only, questions[i].meta_only);
        assert_int_equal(question.max_staleness_ms, 0);
    }
    assert_false(gets_page_next_question(&rest, &id, &question));
    assert_int_equal(rest.size, 0);
    buf_clear(&page);
    pack_answers(&page);
    rest = buf_span(&page);
    for (size_t i = 0; i < ANSWERS; i++) {
        const struct gets_page_answer *expected = &answers[i];
        assert_true(gets_page_next_answer(&rest, &answer));
        assert_int_equal(answer.request_id, expected->request_id);
        assert_int_equal(answer.get.version, expected->get.version);
        assert_int_equal(answer.get.time, expected->get.time);
        assert_int_equal(answer.get.size, expected->get.size);
        assert_int_equal(answer.get.has_hint, expected->get.has_hint);
        assert_int_equal(answer.get.group, expected->get.group);
        assert_int_equal(answer.get.node_id, expected->get.node_id);
        assert_int_equal(answer.has_value, expected->has_value);
        assert_true(span_equal(answer.value, expected->value));
    }
    assert_false(gets_page_next_answer(&rest, &answer));
    assert_int_equal(rest.size, 0);
    buf_fini(&page);
}

static void drain(struct span bytes)
{
    uint8_t *copy = mem_dup(
        bytes.data, bytes.size); /* of exactly its size: sanitizers see what is read behind it */
    struct get_question question;
    struct gets_page_answer answer;
    uint64_t id;
    struct span rest = span_of(copy, bytes.size);
    while (gets_page_next_question(&rest, &id, &question)) {
        assert_in_range(question.key.size, 1, LIMIT_KEY_BYTES);
        assert_true(question.key.data + question.key.size <= copy + bytes.size);
    }
    rest = span_of(copy, bytes.size);
    while (gets_page_next_answer(&rest, &answer)) {
        assert_true(answer.value.data + answer.value.size <= copy + bytes.size);
        assert_true(!answer.has_value || answer.value.size == answer.get.size);
    }
    mem_free(copy);
}

static void what_is_cut_is_told(void **state)
{
    struct buf page = { 0 };
    struct get_question question;
    struct gets_page_answer answer;
    uint64_t id;
    gets_page_ask(&page, 1, &questions[1]);
    for (size_t size = 1; size < page.size; size++) {
        struct span rest = span_of(page.data, size);
        assert_false(gets_page_next_question(&rest, &id, &question));
        assert_int_equal(rest.size, size);
    }
    buf_clear(&page);
    gets_page_answer(buf_extend(&page, gets_page_answer_size(&answers[3])), &answers[3]);
    for (size_t size = 1; size < page.size; size++) {
        struct span rest = span_of(page.data, size);
        assert_false(gets_page_next_answer(&rest, &answer));
        assert_int_equal(rest.size, size);
    }
    buf_fini(&page);
}

static void what_is_bent_is_never_read_beyond(void **state)
{
    struct buf page = { 0 };
    uint64_t random = 1;
    pack_questions(&page);
    pack_answers(&page);
    for (int round = 0; round < 20000; round++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        size_t at = (random >> 33) % page.size;
        uint8_t before = page.data[at];
        page.data[at] ^= (uint8_t)(1 + (random >> 20) % 255);
        drain(span_of(page.data, page.size - (random >> 11) % 3));
        page.data[at] = before;
    }
    buf_fini(&page);
}

static void fields_that_can_not_be_are_refused(void **state)
{
    static const size_t question_fields[] = { 10, 11 };
    struct buf page = { 0 };
    struct get_question question;
    struct gets_page_answer answer;
    uint64_t id;
    gets_page_ask(&page, 1, &questions[0]);
    for (size_t i = 0; i < 2; i++) {
        page.data[question_fields[i]] = 2;
        struct span rest = buf_span(&page);
        assert_false(gets_page_next_question(&rest, &id, &question));
        page.data[question_fields[i]] = 0;
    }
    put_u16(page.data + 8, 0); /* no key */
    struct span rest = buf_span(&page);
    assert_false(gets_page_next_question(&rest, &id, &question));
    buf_clear(&page);
    gets_page_answer(buf_extend(&page, gets_page_answer_size(&answers[0])), &answers[0]);
    put_u32(page.data + 28, 4);
    rest = buf_span(&page);
    assert_false(gets_page_next_answer(&rest, &answer));
    buf_fini(&page);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_packed_is_unpacked),
        cmocka_unit_test(what_is_cut_is_told),
        cmocka_unit_test(what_is_bent_is_never_read_beyond),
        cmocka_unit_test(fields_that_can_not_be_are_refused),
    };
    return cmocka_run_group_tests_name("gets_page", tests, NULL, NULL);
}
