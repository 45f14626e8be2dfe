/* The heart under random faults: links break before and after the server applied, answers get lost,
 * nodes refuse, die and come back, primaries move. Whatever happens: every request is answered
 * exactly once, an acknowledged write was applied exactly once, a write that failed plainly was not
 * applied, and every read of a key sees a value that it had. One seed, one run. */
#include "../model_seeds.h"
#include "fake_cluster.h"

enum { KEYS = 40, REQUESTS = 600, IN_FLIGHT = 24 };

struct model_call {
    struct model *model;
    bool is_open;
    int key;
    enum cairn_verb verb;
    uint64_t sequence; /* of the write's value */
};

struct model {
    struct fake *fake;
    struct model_call calls[IN_FLIGHT];
    int started, answered, unknown, acknowledged;
    bool all_done;
    uint64_t applied_before;
    /* Sequences that were written under each key and whose fate is known. */
    bool is_refused[REQUESTS + 1];
    int seen_writes[REQUESTS + 1];
};

static int faults(struct fake *fake, int node, const struct frame *frame)
{
    if (frame->verb == VERB_TOPOLOGY) {
        return fake_random(fake) % 10 ? FAKE_SERVE : ERR_UNAVAILABLE;
    }
    if (frame->type == FRAME_HELLO) {
        return fake_random(fake) % 20 ? FAKE_SERVE : FAKE_CLOSE;
    }
    switch (fake_random(fake) % 40) {
    case 0:
        return FAKE_DROP;
    case 1:
        return FAKE_CLOSE;
    case 2:
    case 3:
        return FAKE_SERVE_AND_CLOSE;
    case 4:
        return FAKE_GARBAGE;
    case 5:
        return ERR_BUSY;
    case 6:
        return ERR_SHUTDOWN;
    default:
        return FAKE_SERVE;
    }
}

static void submit(struct model *model, struct model_call *call);

static void answered(void *arg, struct cairn_result *result)
{
    struct model_call *call = arg;
    struct model *model = call->model;
    assert_true(call->is_open);
    call->is_open = false;
    model->answered++;
    bool is_plain_failure = result->status == CAIRN_UNAVAILABLE || result->status == CAIRN_BUSY ||
                            result->status == CAIRN_TIMEOUT || result->status == CAIRN_CONNECT;
    assert_true(result->status == 0 || result->status == CAIRN_NOT_FOUND ||
                result->status == CAIRN_UNKNOWN_OUTCOME || is_plain_failure);
    if (call->verb == CAIRN_PUT) {
        model->acknowledged += result->status == 0;
        model->unknown += result->status == CAIRN_UNKNOWN_OUTCOME;
        model->is_refused[call->sequence] = is_plain_failure;
        assert_int_not_equal(result->status, CAIRN_NOT_FOUND);
    } else if (result->status == 0) {
        int key;
        unsigned sequence;
        assert_int_equal(sscanf(result->value, "%d:%u.", &key, &sequence),
                         2); /* an earlier value of this very key */
        assert_int_equal(key, call->key);
        assert_false(model->is_refused[sequence]);
    }
    if (model->started < REQUESTS) {
        submit(model, call);
    } else {
        model->all_done = model->answered == model->started;
    }
}

static void submit(struct model *model, struct model_call *call)
{
    struct fake *fake = model->fake;
    char key[32], value[64];
    call->is_open = true;
    call->key = (int)(fake_random(fake) % KEYS);
    call->verb = fake_random(fake) % 3 ? CAIRN_PUT : CAIRN_GET;
    call->sequence = (uint64_t)++model->started;
    snprintf(key, sizeof key, "key%d", call->key);
    int size = snprintf(value, sizeof value, "%d:%u.", call->key, (unsigned)call->sequence);
    struct cairn_request request = {
        .verb = call->verb, .key = key, .key_size = strlen(key), .timeout_ms = 3000
    };
    if (call->verb == CAIRN_PUT) {
        request.value = value;
        request.value_size = (size_t)size + 1;
    }
    assert_int_equal(core_submit(fake->core, &request, answered, call, fake->now_us, NULL), 0);
}

/* Now and then a node dies or comes back, and primaries move. */
static void disturb(struct fake *fake)
{
    if (fake_random(fake) % 200 == 0) {
        int node = (int)(fake_random(fake) % FAKE_NODES);
        if (fake->is_down[node]) {
            fake->is_down[node] = false;
        } else {
            fake_kill(fake, node);
        }
    }
    if (fake_random(fake) % 100 == 0) {
        fake->leaders[1 + fake_random(fake) % FAKE_PARTITIONS] =
            (int)(fake_random(fake) % (FAKE_NODES + 1)) - 1;
    }
}

static void run_seed(uint64_t seed)
{
    struct fake *fake = fake_new();
    struct model model = { .fake = fake };
    fake->random = seed * 1000000;
    fake->forwards = seed % 2;
    fake->chunk = seed % 3 == 0 ? 100 : 0;
    fake->rule = faults;
    fake->gets_alone = true;
    for (int i = 0; i < IN_FLIGHT; i++) {
        model.calls[i].model = &model;
        submit(&model, &model.calls[i]);
    }
    uint64_t turns = 0;
    do {
        core_step(fake->core, fake->now_us);
        disturb(fake);
        assert_true(turns++ < 2000000); /* no spinning */
    } while (!model.all_done && fake_advance(fake, UINT64_MAX - 1));
    assert_true(model.all_done);
    assert_int_equal(model.answered, REQUESTS);
    /* The fake applies a number once; so every acknowledged write is one application, and what was
     * applied beyond that ended as unknown. */
    assert_in_range(fake->applied, model.acknowledged, model.acknowledged + model.unknown);
    for (size_t i = 0; i < fake->write_count;
         i++) { /* a number belongs to one key, and keeps its client time */
        for (size_t j = i + 1; j < fake->write_count && j < i + 200; j++) {
            if (fake->writes[i].number == fake->writes[j].number) {
                assert_string_equal(fake->writes[i].key, fake->writes[j].key);
                assert_int_equal(fake->writes[i].client_time, fake->writes[j].client_time);
            }
        }
    }
    fake_free(fake);
}

static void many_seeds(void **state)
{
    for (uint64_t seed = 1, last = model_seeds(60); seed <= last; seed++) {
        run_seed(seed);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(many_seeds) };
    return cmocka_run_group_tests_name("client core model", tests, NULL, NULL);
}
