/* Tests of the linearizability checker: histories known to be good or bad, and generated ones that are good. */
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"
#include "sim/linear.h"
#include "sim/random.h"
#include "sim/self_test_private.h"

#define PUT(c, r, v, ver)                                                                          \
    {                                                                                              \
        .kind = LINEAR_PUT, .outcome = LINEAR_OK, .value = v, .version = ver, .call = c,           \
        .reply = r                                                                                 \
    }
#define PUT_UNKNOWN(c, v)                                                                          \
    {                                                                                              \
        .kind = LINEAR_PUT, .outcome = LINEAR_UNKNOWN, .value = v, .call = c,                      \
        .reply = LINEAR_NEVER                                                                      \
    }
#define GET(c, r, v, ver)                                                                          \
    {                                                                                              \
        .kind = LINEAR_GET, .outcome = LINEAR_OK, .value = v, .version = ver, .call = c,           \
        .reply = r                                                                                 \
    }
#define GET_ABSENT(c, r)                                                                           \
    {                                                                                              \
        .kind = LINEAR_GET, .outcome = LINEAR_ABSENT, .call = c, .reply = r                        \
    }
#define DEL(c, r, was)                                                                             \
    {                                                                                              \
        .kind = LINEAR_DELETE, .outcome = LINEAR_OK, .existed = was, .call = c, .reply = r         \
    }
#define DEL_UNKNOWN(c)                                                                             \
    {                                                                                              \
        .kind = LINEAR_DELETE, .outcome = LINEAR_UNKNOWN, .call = c, .reply = LINEAR_NEVER         \
    }
#define CAS(c, r, v, ver, if_)                                                                     \
    {                                                                                              \
        .kind = LINEAR_PUT, .condition = LINEAR_IF_VERSION, .condition_version = if_,              \
        .outcome = LINEAR_OK, .value = v, .version = ver, .call = c, .reply = r                    \
    }
#define CAS_REFUSED(c, r, v, present, if_)                                                         \
    {                                                                                              \
        .kind = LINEAR_PUT, .condition = LINEAR_IF_VERSION, .condition_version = if_,              \
        .outcome = LINEAR_REFUSED, .value = v, .version = present, .call = c, .reply = r           \
    }
#define NEW(c, r, v, ver)                                                                          \
    {                                                                                              \
        .kind = LINEAR_PUT, .condition = LINEAR_IF_ABSENT, .outcome = LINEAR_OK, .value = v,       \
        .version = ver, .call = c, .reply = r                                                      \
    }
#define CAS_UNKNOWN(c, v, if_)                                                                     \
    {                                                                                              \
        .kind = LINEAR_PUT, .condition = LINEAR_IF_VERSION, .condition_version = if_,              \
        .outcome = LINEAR_UNKNOWN, .value = v, .call = c, .reply = LINEAR_NEVER                    \
    }
#define NEW_UNKNOWN(c, v)                                                                          \
    {                                                                                              \
        .kind = LINEAR_PUT, .condition = LINEAR_IF_ABSENT, .outcome = LINEAR_UNKNOWN, .value = v,  \
        .call = c, .reply = LINEAR_NEVER                                                           \
    }
#define THERE_UNKNOWN(c, v)                                                                        \
    {                                                                                              \
        .kind = LINEAR_PUT, .condition = LINEAR_IF_PRESENT, .outcome = LINEAR_UNKNOWN, .value = v, \
        .call = c, .reply = LINEAR_NEVER                                                           \
    }
#define THERE(c, r, v, ver)                                                                        \
    {                                                                                              \
        .kind = LINEAR_PUT, .condition = LINEAR_IF_PRESENT, .outcome = LINEAR_OK, .value = v,      \
        .version = ver, .call = c, .reply = r                                                      \
    }
#define THERE_REFUSED(c, r, v)                                                                     \
    {                                                                                              \
        .kind = LINEAR_PUT, .condition = LINEAR_IF_PRESENT, .outcome = LINEAR_REFUSED, .value = v, \
        .call = c, .reply = r                                                                      \
    }
#define DEL_IF(c, r, ver)                                                                          \
    {                                                                                              \
        .kind = LINEAR_DELETE, .condition = LINEAR_IF_VERSION, .condition_version = ver,           \
        .outcome = LINEAR_OK, .existed = true, .version = ver, .call = c, .reply = r               \
    }
#define DEL_IF_UNKNOWN(c, if_)                                                                     \
    {                                                                                              \
        .kind = LINEAR_DELETE, .condition = LINEAR_IF_VERSION, .condition_version = if_,           \
        .outcome = LINEAR_UNKNOWN, .call = c, .reply = LINEAR_NEVER                                \
    }
#define DEL_IF_REFUSED(c, r, if_, present)                                                         \
    {                                                                                              \
        .kind = LINEAR_DELETE, .condition = LINEAR_IF_VERSION, .condition_version = if_,           \
        .outcome = LINEAR_REFUSED, .version = present, .call = c, .reply = r                       \
    }
#define NEW_REFUSED(c, r, v, present)                                                              \
    {                                                                                              \
        .kind = LINEAR_PUT, .condition = LINEAR_IF_ABSENT, .outcome = LINEAR_REFUSED, .value = v,  \
        .version = present, .call = c, .reply = r                                                  \
    }

struct story {
    const char *name;
    enum linear_verdict verdict;
    struct linear_op ops[8];
};

static const struct story stories[] = {
    { "nothing was written, nothing is read", LINEAR_YES, { GET_ABSENT(1, 2) } },
    { "a read sees what was written", LINEAR_YES, { PUT(1, 2, 1, 5), GET(3, 4, 1, 5) } },
    { "a read of what nobody wrote", LINEAR_NO, { PUT(1, 2, 1, 5), GET(3, 4, 9, 5) } },
    { "a lost write", LINEAR_NO, { PUT(1, 2, 1, 5), GET_ABSENT(3, 4) } },
    { "a stale read", LINEAR_NO, { PUT(1, 2, 1, 5), PUT(3, 4, 2, 6), GET(5, 6, 1, 5) } },
    { "a read beside a write may see either",
      LINEAR_YES,
      { PUT(1, 2, 1, 5), PUT(3, 8, 2, 6), GET(4, 5, 1, 5), GET(6, 7, 2, 6) } },
    { "but not first the new, then the old",
      LINEAR_NO,
      { PUT(1, 2, 1, 5), PUT(3, 8, 2, 6), GET(4, 5, 2, 6), GET(6, 7, 1, 5) } },
    { "concurrent writes in either order",
      LINEAR_YES,
      { PUT(1, 4, 1, 6), PUT(2, 3, 2, 5), GET(5, 6, 1, 6) } },
    { "versions name the order", LINEAR_NO, { PUT(1, 4, 1, 6), PUT(2, 3, 2, 5), GET(5, 6, 2, 5) } },
    { "a version that goes back", LINEAR_NO, { PUT(1, 2, 1, 6), PUT(3, 4, 2, 5) } },
    { "a version given twice", LINEAR_NO, { PUT(1, 2, 1, 6), DEL(3, 4, true), PUT(5, 6, 2, 6) } },
    { "a read with a wrong version", LINEAR_NO, { PUT(1, 2, 1, 5), GET(3, 4, 1, 6) } },
    { "an unknown write that was never applied",
      LINEAR_YES,
      { PUT(1, 2, 1, 5), PUT_UNKNOWN(3, 2), GET(4, 5, 1, 5), GET(6, 7, 1, 5) } },
    { "an unknown write that was applied late",
      LINEAR_YES,
      { PUT(1, 2, 1, 5), PUT_UNKNOWN(3, 2), GET(4, 5, 1, 5), GET(6, 7, 2, 6) } },
    { "an unknown write that came and went",
      LINEAR_NO,
      { PUT(1, 2, 1, 5), PUT_UNKNOWN(3, 2), GET(4, 5, 2, 6), GET(6, 7, 1, 5) } },
    { "an unknown write seen before it was asked",
      LINEAR_NO,
      { GET(1, 2, 2, 5), PUT_UNKNOWN(3, 2) } },
    { "an unknown write applied twice",
      LINEAR_NO,
      { PUT_UNKNOWN(1, 1), GET(2, 3, 1, 5), PUT(4, 5, 2, 6), GET(6, 7, 1, 7) } },
    { "an unknown delete explains absence",
      LINEAR_YES,
      { PUT(1, 2, 1, 5), DEL_UNKNOWN(3), GET(4, 5, 1, 5), GET_ABSENT(6, 7) } },
    { "a deleted key comes back by itself",
      LINEAR_NO,
      { PUT(1, 2, 1, 5), DEL(3, 4, true), GET(5, 6, 1, 5) } },
    { "deleted and made anew",
      LINEAR_YES,
      { PUT(1, 2, 1, 5), DEL(3, 4, true), NEW(5, 6, 2, 7), GET(7, 8, 2, 7) } },
    { "a delete that found nothing where something was",
      LINEAR_NO,
      { PUT(1, 2, 1, 5), DEL(3, 4, false) } },
    { "compare-and-set in turn",
      LINEAR_YES,
      { PUT(1, 2, 1, 5), CAS(3, 4, 2, 6, 5), CAS_REFUSED(5, 6, 3, 6, 5), GET(7, 8, 2, 6) } },
    { "two compare-and-sets on one version",
      LINEAR_NO,
      { PUT(1, 2, 1, 5), CAS(3, 6, 2, 6, 5), CAS(4, 5, 3, 7, 5) } },
    { "a compare-and-set refused for no reason",
      LINEAR_NO,
      { PUT(1, 2, 1, 5), CAS_REFUSED(3, 4, 2, 5, 5) } },
    { "refused because it was absent",
      LINEAR_YES,
      { PUT(1, 2, 1, 5), DEL(3, 4, true), CAS_REFUSED(5, 6, 2, 0, 5) } },
    { "refused as absent though it was there",
      LINEAR_NO,
      { PUT(1, 2, 1, 5), PUT(3, 4, 2, 6), CAS_REFUSED(5, 6, 3, 0, 5) } },
    { "created twice", LINEAR_NO, { NEW(1, 4, 1, 5), NEW(2, 3, 2, 6) } },
    { "created once, refused once", LINEAR_YES, { NEW(1, 4, 1, 5), NEW_REFUSED(2, 3, 2, 5) } },
    { "refused as existing before anything existed",
      LINEAR_NO,
      { NEW_REFUSED(1, 2, 2, 5), NEW(3, 4, 1, 5) } },
    { "an unread unknown write explains a refusal by its version",
      LINEAR_YES,
      { PUT_UNKNOWN(1, 1), NEW_REFUSED(2, 3, 2, 5) } },
    { "and nothing else does", LINEAR_NO, { PUT(1, 2, 1, 5), NEW_REFUSED(3, 4, 2, 6) } },
    { "a lost update: a compare-and-set that another one overlooked",
      LINEAR_NO,
      { PUT(1, 2, 1, 5), CAS(3, 4, 2, 6, 5), CAS(5, 6, 3, 7, 5), GET(7, 8, 3, 7) } },
    { "a compare-and-set applied twice, around another write",
      LINEAR_NO,
      { PUT(1, 2, 1, 5), CAS(3, 4, 2, 6, 5), PUT(5, 6, 3, 7), GET(7, 8, 2, 8) } },
    { "a put applied twice, around a delete",
      LINEAR_NO,
      { PUT(1, 2, 1, 5), DEL(3, 4, true), GET_ABSENT(5, 6), GET(7, 8, 1, 7) } },
    { "a deleted key comes back with its old version behind a new one",
      LINEAR_NO,
      { PUT(1, 2, 1, 5), DEL(3, 4, true), NEW(5, 6, 2, 7), GET(7, 8, 1, 5) } },
    { "recreated with a version below the deleted one",
      LINEAR_NO,
      { PUT(1, 2, 1, 9), DEL(3, 4, true), NEW(5, 6, 2, 7) } },
    { "recreated with the version of what an unknown delete took",
      LINEAR_NO,
      { PUT(1, 2, 1, 5), DEL_UNKNOWN(3), GET_ABSENT(4, 5), NEW(6, 7, 2, 5) } },
    { "versions seen by reads go back",
      LINEAR_NO,
      { PUT_UNKNOWN(1, 1), PUT_UNKNOWN(2, 2), GET(3, 4, 1, 6), GET(5, 6, 2, 5) } },
    { "an unknown write was seen, so it happened: it does not vanish",
      LINEAR_NO,
      { PUT(1, 2, 1, 5), PUT_UNKNOWN(3, 2), GET(4, 5, 2, 6), GET_ABSENT(6, 7) } },
    { "an unknown compare-and-set whose condition no longer held is seen",
      LINEAR_NO,
      { PUT(1, 2, 1, 5), PUT(3, 4, 2, 6), CAS_UNKNOWN(5, 3, 5), GET(6, 7, 3, 7) } },
    { "an unknown compare-and-set before the write that followed it",
      LINEAR_YES,
      { PUT(1, 2, 1, 5), CAS_UNKNOWN(3, 3, 5), PUT(4, 5, 2, 7), GET(6, 7, 2, 7) } },
    { "an unknown creation beside a known one",
      LINEAR_YES,
      { NEW_UNKNOWN(1, 1), NEW(2, 3, 2, 5), GET(4, 5, 2, 5) } },
    { "two creations, one unknown but seen, without a delete between",
      LINEAR_NO,
      { NEW_UNKNOWN(1, 1), GET(2, 3, 1, 4), NEW(4, 5, 2, 5) } },
    { "a write on what is there", LINEAR_YES, { PUT(1, 2, 1, 5), THERE(3, 4, 2, 6) } },
    { "a write on what is not there", LINEAR_NO, { THERE(1, 2, 1, 5) } },
    { "an unread unknown write let it be there",
      LINEAR_YES,
      { PUT_UNKNOWN(1, 1), THERE(2, 3, 2, 6) } },
    { "an unread unknown write let an unknown one happen that was read",
      LINEAR_YES,
      { PUT_UNKNOWN(1, 1), THERE_UNKNOWN(2, 2), GET(3, 4, 2, 6) } },
    { "nothing let an unknown one happen that was read",
      LINEAR_NO,
      { THERE_UNKNOWN(1, 2), GET(3, 4, 2, 6) } },
    { "refused as absent",
      LINEAR_YES,
      { PUT(1, 2, 1, 5), DEL(3, 4, true), THERE_REFUSED(5, 6, 2) } },
    { "refused as absent while it was there",
      LINEAR_NO,
      { PUT(1, 2, 1, 5), THERE_REFUSED(3, 4, 2) } },
    { "an unknown delete behind an unknown conditional one",
      LINEAR_YES,
      { PUT(1, 2, 1, 5), DEL_IF_UNKNOWN(3, 4), DEL_UNKNOWN(5), GET_ABSENT(6, 7) } },
    { "an unknown conditional delete whose condition did not hold",
      LINEAR_NO,
      { PUT(1, 2, 1, 5), DEL_IF_UNKNOWN(3, 4), GET_ABSENT(6, 7) } },
    { "a delete of the right version",
      LINEAR_YES,
      { PUT(1, 2, 1, 5), DEL_IF(3, 4, 5), GET_ABSENT(5, 6) } },
    { "a delete of an overwritten version",
      LINEAR_NO,
      { PUT(1, 2, 1, 5), PUT(3, 4, 2, 6), DEL_IF(5, 6, 5) } },
    { "a delete refused for another version",
      LINEAR_YES,
      { PUT(1, 2, 1, 5), DEL_IF_REFUSED(3, 4, 4, 5), GET(5, 6, 1, 5) } },
    { "a delete refused, and yet done",
      LINEAR_NO,
      { PUT(1, 2, 1, 5), DEL_IF_REFUSED(3, 4, 4, 5), GET_ABSENT(5, 6) } },
    { "calls and replies at one time overlap", LINEAR_YES, { PUT(1, 5, 1, 5), GET_ABSENT(5, 6) } },
};

static void test_stories(struct tally *tally)
{
    for (size_t i = 0; i < sizeof stories / sizeof *stories; i++) {
        const struct story *story = &stories[i];
        size_t count = 0;
        while (count < 8 && story->ops[count].call != 0) {
            count++;
        }
        char name[160];
        snprintf(name, sizeof name, "linear: %s: %s", story->verdict == LINEAR_YES ? "good" : "bad",
                 story->name);
        self_test_ok(tally, linear_check(story->ops, count, 0, NULL) == story->verdict, name);
    }
}

/* Makes a history as a correct register would, with overlaps and unknown outcomes; it must be found
 * good. Then one read is falsified; it must be found bad. */
static size_t make_history(struct random *random, struct linear_op *ops, size_t count)
{
    enum { SPREAD = 8 };
    uint64_t value = 0, version = 0, next = 0;
    for (size_t i = 0; i < count; i++) {
        struct linear_op *op = &ops[i];
        uint64_t at = (i + SPREAD) * 1000 + 500;
        *op = (struct linear_op){ .outcome = LINEAR_OK };
        op->call = at - random_below(random, SPREAD / 2 * 1000) - 1;
        op->reply = at + random_below(random, SPREAD / 2 * 1000) + 1;
        op->call = op->call * 4096 + i;
        op->reply = op->reply * 4096 + i;
        switch (random_below(random, 6)) {
        case 0:
        case 1:
            op->kind = LINEAR_PUT;
            op->value = ++next;
            value = op->value;
            version = op->version = i + 1;
            break;
        case 2:
            op->kind = LINEAR_DELETE;
            op->existed = value != 0;
            op->version = version;
            value = version = 0;
            break;
        default:
            op->kind = LINEAR_GET;
            op->value = value;
            op->version = version;
            op->outcome = value ? LINEAR_OK : LINEAR_ABSENT;
        }
        if (op->kind != LINEAR_GET && random_one_in(random, 10)) {
            op->outcome = LINEAR_UNKNOWN;
            op->version = 0;
            op->reply = LINEAR_NEVER;
        }
    }
    return count;
}

static void test_generated(struct tally *tally)
{
    enum { COUNT = 400, ROUNDS = 100 };
    struct linear_op *ops = mem_alloc(COUNT * sizeof *ops);
    int good = 0, bad = 0, tried = 0;
    for (uint64_t seed = 0; seed < ROUNDS; seed++) {
        struct random random = random_stream(seed, 77);
        make_history(&random, ops, COUNT);
        good += linear_check(ops, COUNT, 0, NULL) == LINEAR_YES;
        /* a read now sees a value that was overwritten by known writes long before */
        for (size_t i = COUNT / 2; i < COUNT; i++) {
            if (ops[i].kind == LINEAR_GET && ops[i].outcome == LINEAR_OK) {
                for (size_t j = 0; j < COUNT / 4; j++) {
                    if (ops[j].kind == LINEAR_PUT && ops[j].outcome == LINEAR_OK) {
                        ops[i].value = ops[j].value;
                        ops[i].version = ops[j].version;
                        break;
                    }
                }
                break;
            }
        }
        tried++;
        bad += linear_check(ops, COUNT, 0, NULL) == LINEAR_NO;
    }
    self_test_ok(tally, good == ROUNDS,
                 "linear: 100 generated histories of 400 operations are good");
    self_test_ok(tally, bad == tried, "linear: with one stale read each they are bad");
    mem_free(ops);
}

/* What a correct register answers to an operation that takes effect now. */
static void apply_op(struct linear_op *op, uint64_t *value, uint64_t *version, uint64_t next)
{
    bool holds =
        op->condition == LINEAR_ALWAYS || (op->condition == LINEAR_IF_ABSENT && *value == 0) ||
        (op->condition == LINEAR_IF_PRESENT && *value != 0) ||
        (op->condition == LINEAR_IF_VERSION && *value != 0 && *version == op->condition_version);
    op->outcome = LINEAR_OK;
    if (op->kind == LINEAR_GET) {
        op->value = *value;
        op->outcome = *value ? LINEAR_OK : LINEAR_ABSENT;
        op->version = *version;
    } else if (!holds) {
        op->outcome = LINEAR_REFUSED;
        op->version = *version;
    } else if (op->kind == LINEAR_PUT) {
        *value = op->value;
        *version = op->version = next;
    } else {
        op->existed = *value != 0;
        op->version = *version;
        *value = *version = 0;
    }
}

/* All kinds and conditions, overlaps, and many unknown outcomes of which half happened. */
static void make_conditional_history(struct random *random, struct linear_op *ops, size_t count)
{
    enum { SPREAD = 10 };
    uint64_t value = 0, version = 0, seen = 0;
    for (size_t i = 0; i < count; i++) {
        struct linear_op *op = &ops[i];
        uint64_t at = (i + SPREAD) * 1000;
        *op = (struct linear_op){ .kind = (uint8_t)random_below(random, 3), .client = (uint32_t)i };
        op->call = at - random_below(random, SPREAD * 500);
        op->reply = at + random_below(random, SPREAD * 500);
        op->value = op->kind == LINEAR_PUT ? i + 1 : 0;
        if (op->kind != LINEAR_GET && random_percent(random, 60)) {
            op->condition = (uint8_t)random_between(random, LINEAR_IF_ABSENT, LINEAR_IF_PRESENT);
            op->condition_version = random_percent(random, 70) ? version : seen;
            op->condition_version += op->condition_version == 0;
        }
        bool is_unknown = op->kind != LINEAR_GET && random_percent(random, 10);
        if (!is_unknown || random_percent(random, 50)) {
            apply_op(op, &value, &version, i + 1);
            seen = random_percent(random, 20) ? version : seen;
        }
        if (is_unknown) {
            op->outcome = LINEAR_UNKNOWN;
            op->version = 0;
            op->existed = false;
            op->reply = LINEAR_NEVER;
        }
    }
}

static void test_generated_conditions(struct tally *tally)
{
    enum { COUNT = 1000, ROUNDS = 100, STEPS_MAX = 20 * COUNT };
    struct linear_op *ops = mem_alloc(COUNT * sizeof *ops);
    int good = 0, undecided = 0;
    for (uint64_t seed = 0; seed < ROUNDS; seed++) {
        struct random random = random_stream(seed, 78);
        make_conditional_history(&random, ops, COUNT);
        enum linear_verdict verdict = linear_check(ops, COUNT, STEPS_MAX, NULL);
        good += verdict == LINEAR_YES;
        undecided += verdict == LINEAR_UNDECIDED;
    }
    printf("# %d good, %d undecided\n", good, undecided);
    self_test_ok(tally, good == ROUNDS,
                 "linear: 100 generated histories with conditions and many unknown are good, soon");
    mem_free(ops);
}

void self_test_linear(struct tally *tally)
{
    test_stories(tally);
    test_generated(tally);
    test_generated_conditions(tally);
}
