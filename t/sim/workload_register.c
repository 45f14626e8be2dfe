/* Registers: puts, gets, deletes and conditions on few keys, each key's history judged by linear.c.
 * Four workloads of one kind:
 *
 *   register   everything, some keys hotter than others
 *   recreate   two or three keys that are deleted and made anew most of the time; conditions on
 *              versions of earlier lives
 *   multi      up to 32 operations in one call
 *   large      values of up to some 100 KB, in their own time */
#include <stdio.h>

#include "base/mem.h"
#include "sim/workload_module.h"

enum {
    KEYS_MAX = 64,
    NAME_BYTES = 32,
    SHOWN_BEFORE = 200,
    SHOWN_AFTER = 20,
    STEPS_MAX = 300000, /* of judging one history: another run teaches more than a long search */
};

struct history {
    struct linear_op *ops;
    size_t count, capacity;
};

struct register_part {
    uint32_t keys, value_bytes, operations_max;
    uint32_t read_percent, delete_percent, condition_percent;
    uint64_t next_value;
    uint32_t next_final; /* key whose final read is to come */
    struct history histories[KEYS_MAX];
};

struct register_session {
    struct {
        uint32_t key;
        size_t op; /* its place in the key's history */
    } asked[SESSION_OPERATIONS_MAX];
    uint64_t version[KEYS_MAX], before[KEYS_MAX]; /* last seen, and the one seen before that */
    bool must_repeat;                             /* the final read failed */
};

/* --- Asking */

static void name_key(const struct part *part, uint32_t key, char name[NAME_BYTES])
{
    name_numbered(name, NAME_BYTES, part->module->name, key);
}

static struct linear_op *add_op(struct session *session, size_t slot, uint32_t key)
{
    struct register_part *own = session->part->own;
    struct register_session *asking = session->own;
    struct history *history = &own->histories[key];
    if (history->count == history->capacity) {
        history->capacity = history->capacity ? history->capacity * 2 : 64;
        history->ops = mem_realloc(history->ops, history->capacity * sizeof *history->ops);
    }
    asking->asked[slot].key = key;
    asking->asked[slot].op = history->count;
    struct linear_op *op = &history->ops[history->count++];
    *op = (struct linear_op){ .call = session_place(session),
                              .reply = LINEAR_NEVER,
                              .client = session->writer };
    return op;
}

static void draw_condition(struct session *session, struct linear_op *op, uint32_t key)
{
    struct register_part *own = session->part->own;
    struct register_session *asking = session->own;
    struct random *random = &session->part->random;
    if (!random_percent(random, own->condition_percent)) {
        return;
    }
    uint32_t draw = (uint32_t)random_below(random, 100);
    uint64_t version = draw < 10 ? asking->before[key] : asking->version[key];
    if (draw < 70 && version != 0) {
        op->condition = LINEAR_IF_VERSION;
        op->condition_version = version;
    } else if (draw < 80) {
        op->condition = LINEAR_IF_PRESENT;
    } else if (op->kind == LINEAR_PUT) {
        op->condition = LINEAR_IF_ABSENT;
    }
}

static void draw_op(struct session *session, struct linear_op *op, uint32_t key)
{
    struct register_part *own = session->part->own;
    uint32_t draw = (uint32_t)random_below(&session->part->random, 100);
    if (draw < own->read_percent) {
        op->kind = LINEAR_GET;
        return;
    }
    op->kind = draw < own->read_percent + own->delete_percent ? LINEAR_DELETE : LINEAR_PUT;
    op->value = op->kind == LINEAR_PUT ? ++own->next_value : 0;
    draw_condition(session, op, key);
}

/* Most are small: what large values find hangs on there being some, and bytes are dear (each is
 * copied and summed some twenty times on its way through three nodes). */
static size_t draw_size(struct part *part)
{
    struct register_part *own = part->own;
    uint64_t most = random_below(&part->random, own->value_bytes + 1);
    uint64_t size = random_below(&part->random, most + 1);
    return random_one_in(&part->random, 64) ? size * 8 : size;
}

/* `name` stays the caller's until the request is submitted; so does what is appended to `value`. */
static void make_request(struct session *session, const struct linear_op *op, uint32_t key,
                         char *name, struct buf *value, struct cairn_request *request)
{
    static const enum cairn_verb verbs[] = { CAIRN_PUT, CAIRN_GET, CAIRN_DELETE };
    static const enum cairn_condition conditions[] = { CAIRN_ALWAYS, CAIRN_IF_ABSENT,
                                                       CAIRN_IF_VERSION, CAIRN_IF_PRESENT };
    name_key(session->part, key, name);
    *request = (struct cairn_request){ .verb = verbs[op->kind],
                                       .key = name,
                                       .key_size = strlen(name),
                                       .condition = conditions[op->condition],
                                       .version = op->condition_version };
    if (op->kind == LINEAR_PUT) {
        struct value content = { .writer = session->writer, .number = op->value };
        value_make(value, span_of_string(name), &content, draw_size(session->part));
        request->value = value->data;
        request->value_size = value->size;
    }
}

static void hear(struct session *session, const struct cairn_result *results, size_t count);

static void ask_keys(struct session *session, uint32_t first, uint32_t count, bool is_final)
{
    struct register_part *own = session->part->own;
    struct cairn_request requests[SESSION_OPERATIONS_MAX] = { 0 };
    char names[SESSION_OPERATIONS_MAX][NAME_BYTES];
    struct buf values[SESSION_OPERATIONS_MAX];
    for (uint32_t i = 0; i < count; i++) {
        uint32_t key = (first + i) % own->keys;
        values[i] = (struct buf){ 0 };
        struct linear_op *op = add_op(session, i, key);
        if (is_final) {
            op->kind = LINEAR_GET;
        } else {
            draw_op(session, op, key);
        }
        make_request(session, op, key, names[i], &values[i], &requests[i]);
    }
    session_call(session, requests, count, hear);
    for (uint32_t i = 0; i < count; i++) {
        buf_fini(&values[i]);
    }
}

static void register_ask(struct session *session)
{
    struct register_part *own = session->part->own;
    struct random *random = &session->part->random;
    /* some keys are hotter than others: the smaller of two draws */
    uint32_t key = (uint32_t)random_below(random, own->keys);
    uint32_t second = (uint32_t)random_below(random, own->keys);
    uint32_t count = (uint32_t)random_between(random, 1, own->operations_max);
    ask_keys(session, second < key ? second : key, count < own->keys ? count : own->keys, false);
}

/* --- Hearing */

static const char *const kind_names[] = { "put", "get", "delete" };
static const char *const outcome_names[] = { "pending", "ok",      "absent",
                                             "refused", "unknown", "nothing" };

static void hear_value(struct session *session, struct linear_op *op, uint32_t key,
                       const struct cairn_result *result)
{
    char name[NAME_BYTES];
    struct value value;
    name_key(session->part, key, name);
    if (value_read(span_of_string(name), span_of(result->value, result->value_size), &value)) {
        op->value = value.number;
    } else {
        part_fail(session->part, "key %u: a read of %zu bytes is no value ever written", key,
                  result->value_size);
    }
}

static void hear_one(struct session *session, size_t slot, const struct cairn_result *result)
{
    struct register_part *own = session->part->own;
    struct register_session *asking = session->own;
    uint32_t key = asking->asked[slot].key;
    struct linear_op *op = &own->histories[key].ops[asking->asked[slot].op];
    op->outcome = (uint8_t)session_outcome(session->verbs[slot], result->status);
    if (op->outcome == LINEAR_OK && op->kind == LINEAR_GET) {
        hear_value(session, op, key, result);
    }
    op->existed = op->outcome == LINEAR_OK && result->existed;
    if (op->outcome == LINEAR_OK || op->outcome == LINEAR_REFUSED) {
        op->version = result->meta.version;
        if (op->version != asking->version[key]) {
            asking->before[key] = asking->version[key];
            asking->version[key] = op->version;
        }
    }
    op->reply = op->outcome == LINEAR_UNKNOWN ? LINEAR_NEVER : session_place(session);
    asking->must_repeat = op->outcome == LINEAR_NOTHING;
    LOG_DEBUG(session->part->workload->logger,
              "client=%u %s key=%s/%u if=%u:%lu value=%lu ver=%lu: %s (%s)", op->client,
              kind_names[op->kind], session->part->module->name, key, op->condition,
              op->condition_version, op->value, op->version, outcome_names[op->outcome],
              result->status ? err_info(result->status)->name : "0");
}

static void hear(struct session *session, const struct cairn_result *results, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        hear_one(session, i, &results[i]);
    }
}

static bool register_ask_final(struct session *session)
{
    struct register_part *own = session->part->own;
    struct register_session *asking = session->own;
    uint32_t key = asking->must_repeat ? asking->asked[0].key : own->next_final;
    if (!asking->must_repeat && own->next_final++ >= own->keys) {
        return false;
    }
    ask_keys(session, key, 1, true);
    return true;
}

/* --- Judging */

static void tell_history(const struct history *history, uint64_t around)
{
    for (size_t i = 0; i < history->count; i++) {
        const struct linear_op *op = &history->ops[i];
        bool is_near = (op->call <= around && around <= op->reply && op->reply != LINEAR_NEVER) ||
                       (op->call + SHOWN_BEFORE > around && op->call < around + SHOWN_AFTER);
        if (is_near) {
            fprintf(stderr, "    [%lu, %ld] client=%u %s%s value=%lu ver=%lu if=%lu %s%s\n",
                    op->call, (long)op->reply, op->client, kind_names[op->kind],
                    op->condition ? " (cond)" : "", op->value, op->version, op->condition_version,
                    outcome_names[op->outcome], op->existed ? " existed" : "");
        }
    }
}

static void register_judge(struct part *part)
{
    struct register_part *own = part->own;
    for (uint32_t key = 0; key < own->keys; key++) {
        const struct history *history = &own->histories[key];
        uint64_t stuck = 0;
        enum linear_verdict verdict = linear_check(history->ops, history->count, STEPS_MAX, &stuck);
        part->workload->undecided += verdict == LINEAR_UNDECIDED;
        if (verdict == LINEAR_NO) {
            tell_history(history, stuck);
            part_fail(part, "key %u: its history of %zu operations is not linearizable (near %lu)",
                      key, history->count, stuck);
        }
    }
}

static void register_fini(struct part *part)
{
    struct register_part *own = part->own;
    for (uint32_t key = 0; key < KEYS_MAX; key++) {
        mem_free(own->histories[key].ops);
    }
}

/* --- The four */

static void register_begin(struct part *part)
{
    struct register_part *own = part->own;
    own->keys = (uint32_t)random_between(&part->random, 1, 24);
    own->value_bytes = 200;
    own->operations_max = 1;
    own->read_percent = (uint32_t)random_between(&part->random, 20, 60);
    own->delete_percent = (uint32_t)random_below(&part->random, 15);
    own->condition_percent = (uint32_t)random_below(&part->random, 60);
}

static void recreate_begin(struct part *part)
{
    register_begin(part);
    struct register_part *own = part->own;
    own->keys = (uint32_t)random_between(&part->random, 1, 3);
    own->read_percent = (uint32_t)random_between(&part->random, 10, 40);
    own->delete_percent = (100 - own->read_percent) / 2;
    own->condition_percent = 60;
}

static void multi_begin(struct part *part)
{
    register_begin(part);
    struct register_part *own = part->own;
    own->keys = (uint32_t)random_between(&part->random, 8, KEYS_MAX);
    own->operations_max = (uint32_t)random_between(&part->random, 4, SESSION_OPERATIONS_MAX);
    part->cost =
        40 + 30 * (1 + own->operations_max); /* 60 for each, which share what a call costs */
}

static void large_begin(struct part *part)
{
    register_begin(part);
    struct register_part *own = part->own;
    own->keys = (uint32_t)random_between(&part->random, 1, 6);
    own->value_bytes = (uint32_t)random_between(&part->random, 2000, 40000);
    part->cost = 100 + own->value_bytes / 200;
}

#define REGISTER_MODULE(name_, pace_, begin_)                                                      \
    {                                                                                              \
        .name = name_, .part_bytes = sizeof(struct register_part),                                 \
        .session_bytes = sizeof(struct register_session), .pace = pace_, .begin = begin_,          \
        .ask = register_ask, .ask_final = register_ask_final, .judge = register_judge,             \
        .fini = register_fini                                                                      \
    }

const struct workload_module workload_register = REGISTER_MODULE("register", 1, register_begin);
const struct workload_module workload_recreate = REGISTER_MODULE("recreate", 1, recreate_begin);
const struct workload_module workload_multi = REGISTER_MODULE("multi", 4, multi_begin);
const struct workload_module workload_large = REGISTER_MODULE("large", 4, large_begin);
