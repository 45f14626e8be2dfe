/* Counters: read n, put n + 1 if the version is still the same, again after a conflict or an
 * unknown outcome. And keys with one writer, whose puts have no condition, so that nothing but the
 * library's session keeps a repeated one from being applied twice.
 *
 *   N1  no two increments are acknowledged with the same n
 *   N2  a read shows at least every n that was acknowledged before it began
 *   N3  at the end: acknowledged ≤ n ≤ acknowledged + unknown
 *   N4  a key with one writer shows exactly its last acknowledged write, with the version that was
 *       acknowledged: applied twice, it would have another; and with the mode that was set last */
#include <stdio.h>

#include "base/mem.h"
#include "sim/workload_module.h"

enum { COUNTERS_MAX = 4, NAME_BYTES = 40 };

struct counter {
    uint64_t acknowledged, unknown;
    uint64_t highest;    /* greatest n acknowledged */
    uint8_t *is_counted; /* by n: acknowledged */
    uint64_t capacity;
};

struct counter_part {
    uint32_t count, solo_percent;
    uint32_t next_final;
    struct counter counters[COUNTERS_MAX];
};

struct counter_session {
    uint32_t counter;
    char name[NAME_BYTES];
    uint64_t n, version; /* as read; n + 1 is asked for */
    uint64_t floor;      /* highest at the read's call */
    /* the key of its own: */
    uint32_t life; /* a new key after each unknown outcome, whose end is open */
    uint64_t solo_number, solo_version;
    uint32_t solo_mode, solo_mode_asked;
    bool must_repeat, is_solo_read; /* final reads */
};

static void ask_read(struct session *session,
                     void (*heard)(struct session *session, const struct cairn_result *results,
                                   size_t count))
{
    struct counter_session *own = session->own;
    struct cairn_request request = { .verb = CAIRN_GET,
                                     .key = own->name,
                                     .key_size = strlen(own->name) };
    session_call(session, &request, 1, heard);
}

/* --- A key of its own */

static void hear_solo_write(struct session *session, const struct cairn_result *result,
                            size_t count)
{
    struct counter_session *own = session->own;
    switch (session_outcome(CAIRN_PUT, result->status)) {
    case LINEAR_OK:
        if (result->meta.version <= own->solo_version) {
            part_fail(session->part, "%s: version %lu after %lu", own->name, result->meta.version,
                      own->solo_version);
        }
        own->solo_number += session->verbs[0] == CAIRN_PUT;
        own->solo_version = result->meta.version;
        own->solo_mode = own->solo_mode_asked;
        return;
    case LINEAR_NOTHING:
        return;
    case LINEAR_REFUSED:
        part_fail(session->part, "%s: its only writer is told %s", own->name,
                  err_info(result->status)->name);
        return;
    default:
        own->life++;
        own->solo_number = own->solo_version = own->solo_mode = 0;
    }
}

/* N4 */
static void hear_solo_read(struct session *session, const struct cairn_result *result, size_t count)
{
    struct counter_session *own = session->own;
    struct value value = { 0 };
    enum linear_outcome outcome = session_outcome(CAIRN_GET, result->status);
    own->must_repeat = outcome == LINEAR_NOTHING;
    if (outcome == LINEAR_NOTHING) {
        return;
    }
    uint64_t version = outcome == LINEAR_OK ? result->meta.version : 0;
    if (outcome == LINEAR_OK && !value_read(span_of_string(own->name),
                                            span_of(result->value, result->value_size), &value)) {
        part_fail(session->part, "%s: %zu bytes are no value ever written", own->name,
                  result->value_size);
    } else if (value.number != own->solo_number || version != own->solo_version) {
        part_fail(session->part,
                  "%s: its only writer wrote %lu as version %lu, a read shows %lu as version %lu",
                  own->name, own->solo_number, own->solo_version, value.number, version);
    }
}

static void name_solo(struct session *session)
{
    struct counter_session *own = session->own;
    snprintf(own->name, NAME_BYTES, "solo/%u/%u", session->writer, own->life);
}

static void ask_solo(struct session *session)
{
    struct counter_session *own = session->own;
    name_solo(session);
    if (random_percent(&session->part->random, 30)) {
        ask_read(session, hear_solo_read);
        return;
    }
    struct buf bytes = { 0 };
    struct value value = { .writer = session->writer, .number = own->solo_number + 1 };
    struct cairn_request request = { .verb = CAIRN_SETATTR,
                                     .key = own->name,
                                     .key_size = strlen(own->name) };
    /* a mode that is not named stays as it is */
    bool sets_mode = random_percent(&session->part->random, 40);
    own->solo_mode_asked =
        sets_mode ? (uint32_t)random_below(&session->part->random, 01000) : own->solo_mode;
    request.attributes = (struct cairn_attributes){ .mask = sets_mode ? CAIRN_ATTR_MODE : 0,
                                                    .mode = own->solo_mode_asked };
    if (!sets_mode || own->solo_number == 0 || random_percent(&session->part->random, 30)) {
        request.verb = CAIRN_PUT;
        value_make(&bytes, span_of_string(own->name), &value,
                   random_below(&session->part->random, 100));
        request.value = bytes.data;
        request.value_size = bytes.size;
    }
    session_call(session, &request, 1, hear_solo_write);
    buf_fini(&bytes);
}

/* --- Shared counters */

/* N1 */
static void note_acknowledged(struct session *session, uint64_t n)
{
    struct counter_session *own = session->own;
    struct counter *counter = &((struct counter_part *)session->part->own)->counters[own->counter];
    if (n >= counter->capacity) {
        uint64_t capacity = n * 2 + 64;
        counter->is_counted = mem_realloc(counter->is_counted, capacity);
        memset(counter->is_counted + counter->capacity, 0, capacity - counter->capacity);
        counter->capacity = capacity;
    }
    if (counter->is_counted[n]) {
        part_fail(session->part, "%s: two increments to %lu were acknowledged", own->name, n);
    }
    counter->is_counted[n] = 1;
    counter->acknowledged++;
    counter->highest = n > counter->highest ? n : counter->highest;
}

static void hear_increment(struct session *session, const struct cairn_result *result, size_t count)
{
    struct counter_session *own = session->own;
    struct counter_part *part = session->part->own;
    enum linear_outcome outcome = session_outcome(CAIRN_PUT, result->status);
    if (outcome == LINEAR_OK && result->meta.version <= own->version) {
        part_fail(session->part, "%s: incremented as version %lu from version %lu", own->name,
                  result->meta.version, own->version);
    }
    if (outcome == LINEAR_OK) {
        note_acknowledged(session, own->n + 1);
    }
    part->counters[own->counter].unknown += outcome == LINEAR_UNKNOWN;
}

/* N2; false: the read failed. */
static bool take_read(struct session *session, const struct cairn_result *result)
{
    struct counter_session *own = session->own;
    struct value value = { 0 };
    enum linear_outcome outcome = session_outcome(CAIRN_GET, result->status);
    own->must_repeat = outcome == LINEAR_NOTHING;
    if (outcome == LINEAR_NOTHING) {
        return false;
    }
    if (outcome == LINEAR_OK && !value_read(span_of_string(own->name),
                                            span_of(result->value, result->value_size), &value)) {
        part_fail(session->part, "%s: %zu bytes are no value ever written", own->name,
                  result->value_size);
        return false;
    }
    own->n = value.number;
    own->version = outcome == LINEAR_OK ? result->meta.version : 0;
    if (own->n < own->floor) {
        part_fail(session->part, "%s: shows %lu, but %lu was acknowledged before", own->name,
                  own->n, own->floor);
    }
    return true;
}

static void hear_read(struct session *session, const struct cairn_result *result, size_t count)
{
    struct counter_session *own = session->own;
    if (!take_read(session, result)) {
        return;
    }
    struct buf bytes = { 0 };
    struct value value = { .writer = session->writer, .number = own->n + 1 };
    value_make(&bytes, span_of_string(own->name), &value, 0);
    struct cairn_request request = { .verb = CAIRN_PUT,
                                     .key = own->name,
                                     .key_size = strlen(own->name),
                                     .value = bytes.data,
                                     .value_size = bytes.size,
                                     .condition = own->version ? CAIRN_IF_VERSION : CAIRN_IF_ABSENT,
                                     .version = own->version };
    session_call(session, &request, 1, hear_increment);
    buf_fini(&bytes);
}

static void ask_counter(struct session *session, uint32_t number,
                        void (*heard)(struct session *session, const struct cairn_result *results,
                                      size_t count))
{
    struct counter_session *own = session->own;
    struct counter_part *part = session->part->own;
    own->counter = number;
    own->floor = part->counters[number].highest;
    snprintf(own->name, NAME_BYTES, "counter/%u", number);
    ask_read(session, heard);
}

static void counter_ask(struct session *session)
{
    struct counter_part *part = session->part->own;
    if (random_percent(&session->part->random, part->solo_percent)) {
        ask_solo(session);
    } else {
        ask_counter(session, (uint32_t)random_below(&session->part->random, part->count),
                    hear_read);
    }
}

/* --- The end */

/* N3 */
static void hear_final(struct session *session, const struct cairn_result *result, size_t count)
{
    struct counter_session *own = session->own;
    struct counter_part *part = session->part->own;
    const struct counter *counter = &part->counters[own->counter];
    if (take_read(session, result) &&
        (own->n < counter->acknowledged || own->n > counter->acknowledged + counter->unknown)) {
        part_fail(session->part, "%s: is %lu after %lu acknowledged and %lu unknown increments",
                  own->name, own->n, counter->acknowledged, counter->unknown);
    }
}

static bool counter_ask_final(struct session *session)
{
    struct counter_session *own = session->own;
    struct counter_part *part = session->part->own;
    if (!own->is_solo_read || (own->must_repeat && own->counter == COUNTERS_MAX)) {
        own->is_solo_read = true;
        own->counter = COUNTERS_MAX;
        name_solo(session);
        ask_read(session, hear_solo_read);
        return true;
    }
    if (!own->must_repeat && part->next_final >= part->count) {
        return false;
    }
    ask_counter(session, own->must_repeat ? own->counter : part->next_final++, hear_final);
    return true;
}

static void counter_begin(struct part *part)
{
    struct counter_part *own = part->own;
    own->count = (uint32_t)random_between(&part->random, 1, COUNTERS_MAX);
    own->solo_percent = (uint32_t)random_between(&part->random, 20, 60);
}

static void counter_judge(struct part *part)
{
}

static void counter_fini(struct part *part)
{
    struct counter_part *own = part->own;
    for (uint32_t i = 0; i < COUNTERS_MAX; i++) {
        mem_free(own->counters[i].is_counted);
    }
}

const struct workload_module workload_counter = { .name = "counter",
                                                  .part_bytes = sizeof(struct counter_part),
                                                  .session_bytes = sizeof(struct counter_session),
                                                  .pace = 1,
                                                  .begin = counter_begin,
                                                  .ask = counter_ask,
                                                  .ask_final = counter_ask_final,
                                                  .judge = counter_judge,
                                                  .fini = counter_fini };
