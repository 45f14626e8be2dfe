/* Fuzz target: frame_parse and pages of gets on any bytes, in memory of exactly their size, so that the sanitizer
 * sees any read behind them. What it accepts must pack to the same bytes again, and must be found
 * incomplete when its last byte is missing. Build: make fuzz. */
#include <stdlib.h>

#include "base/check.h"
#include "base/hash.h"
#include "base/limits.h"
#include "base/mem.h"
#include "wire/frame.h"
#include "wire/gets_page.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fuzz_accepted(struct span bytes, const struct frame *frame)
{
    struct frame again;
    struct buf buf = { 0 };
    size_t need;

    frame_pack_head(frame, &buf);
    buf_append_span(&buf, frame->payload);
    CHECK(span_equal(buf_span(&buf), bytes));
    CHECK(frame_parse(span_of(bytes.data, bytes.size - 1), &again, &need, NULL) == 0 &&
          need == bytes.size);
    buf_fini(&buf);
}

static void fuzz_once(const uint8_t *data, size_t size)
{
    uint8_t *copy = mem_dup(data, size);
    struct frame frame;
    struct err err;
    size_t need = 0;
    int64_t result = frame_parse(span_of(copy, size), &frame, &need, &err);

    if (result > 0) {
        CHECK((size_t)result <= size && need == (size_t)result);
        fuzz_accepted(span_of(copy, (size_t)result), &frame);
    } else if (result == 0) {
        CHECK(need > size && need <= LIMIT_FRAME_BYTES);
    } else {
        CHECK(err.code == result && err.text[0]);
    }
    mem_free(copy);
}

/* Pages are the same when what was taken from them is packed again. */
static void fuzz_pages(const uint8_t *data, size_t size)
{
    uint8_t *copy = mem_dup(data, size);
    struct span rest = span_of(copy, size);
    struct get_question question;
    struct gets_page_answer answer;
    struct buf again = { 0 };
    uint64_t id;

    while (gets_page_next_question(&rest, &id, &question)) {
        gets_page_ask(&again, id, &question);
    }
    CHECK(again.size + rest.size == size &&
          memcmp(again.data ? again.data : copy, copy, again.size) == 0);
    buf_clear(&again);
    rest = span_of(copy, size);
    while (gets_page_next_answer(&rest, &answer)) {
        gets_page_answer(buf_extend(&again, gets_page_answer_size(&answer)), &answer);
    }
    CHECK(again.size + rest.size == size &&
          memcmp(again.data ? again.data : copy, copy, again.size) == 0);
    buf_fini(&again);
    mem_free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_once(data, size);
    fuzz_pages(data, size);
    if (size >=
        FRAME_HEADER_BYTES) { /* right checksums, which no fuzzer guesses, let it come deeper */
        uint8_t *copy = mem_dup(data, size);
        memcpy(copy, "CRN1\x01", 5);
        put_u32(copy + 36, hash_crc32c(0, copy + FRAME_HEADER_BYTES, size - FRAME_HEADER_BYTES));
        put_u32(copy + 68, hash_crc32c(0, copy, 68));
        fuzz_once(copy, size);
        mem_free(copy);
    }
    return 0;
}
