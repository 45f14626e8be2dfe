/* Lists of unique elements that grow by read and compare-and-set, as in Elle (Kingsbury, Alvaro
 * 2020): what anybody read of a list tells the order of all its appends.
 *
 *   A1  of any two states of a list that were seen, one is a prefix of the other
 *   A2  a read shows at least what was acknowledged or read before it began
 *   A3  an element whose append was refused, or was certainly not applied, is never seen
 *   A4  an acknowledged element stands where the append's read left off */
#include <stdio.h>

#include "base/mem.h"
#include "sim/workload_module.h"

enum { LISTS_MAX = 4, ELEMENTS_MAX = 200, NAME_BYTES = 40 };

enum element_state { ELEMENT_ASKED, ELEMENT_DONE, ELEMENT_REFUSED };

struct list_key {
    uint64_t elements[ELEMENTS_MAX + 1]; /* the longest state known */
    uint32_t count;
    uint32_t floor; /* states shorter than this are stale by now */
};

struct append_part {
    uint32_t count;
    struct list_key *lists; /* all that were begun */
    uint32_t begun;
    uint32_t current[LISTS_MAX]; /* the ones that grow */
    uint8_t *states;             /* by element */
    uint64_t next_element, capacity;
    uint32_t next_final;
};

struct append_session {
    uint32_t list;
    char name[NAME_BYTES];
    uint32_t read_count, floor;
    uint64_t version, element;
    bool must_repeat;
};

static struct list_key *list_of(struct session *session)
{
    return &((struct append_part *)session->part->own)
                ->lists[((struct append_session *)session->own)->list];
}

static uint32_t begin_list(struct append_part *own)
{
    own->lists = mem_realloc(own->lists, (own->begun + 1) * sizeof *own->lists);
    own->lists[own->begun] = (struct list_key){ .count = 0 };
    return own->begun++;
}

static uint64_t new_element(struct append_part *own)
{
    if (own->next_element == own->capacity) {
        own->capacity = own->capacity ? own->capacity * 2 : 1024;
        own->states = mem_realloc(own->states, own->capacity);
    }
    own->states[own->next_element] = ELEMENT_ASKED;
    return own->next_element++;
}

/* --- What is known of a list */

/* A1: `elements` was seen; learns from it. */
static void learn(struct session *session, const uint8_t *elements, uint32_t count)
{
    struct append_session *own = session->own;
    struct list_key *list = list_of(session);
    for (uint32_t i = 0; i < count; i++) {
        uint64_t element = get_u64(elements + (size_t)i * 8);
        if (i == list->count) {
            list->elements[list->count++] = element;
        } else if (list->elements[i] != element) {
            part_fail(session->part, "%s: element %u is %lu now and was %lu before", own->name, i,
                      element, list->elements[i]);
            return;
        }
    }
}

static void raise_floor(struct list_key *list, uint32_t count)
{
    list->floor = count > list->floor ? count : list->floor;
}

/* A4 */
static void learn_acknowledged(struct session *session)
{
    struct append_session *own = session->own;
    struct list_key *list = list_of(session);
    if (own->read_count == list->count) {
        list->elements[list->count++] = own->element;
    } else if (list->elements[own->read_count] != own->element) {
        part_fail(session->part, "%s: %lu was acknowledged as element %u, which is %lu", own->name,
                  own->element, own->read_count, list->elements[own->read_count]);
    }
    raise_floor(list, own->read_count + 1);
}

/* --- Calls */

static void hear_append(struct session *session, const struct cairn_result *result, size_t count)
{
    struct append_session *own = session->own;
    struct append_part *part = session->part->own;
    switch (session_outcome(CAIRN_PUT, result->status)) {
    case LINEAR_OK:
        part->states[own->element] = ELEMENT_DONE;
        if (result->meta.version <= own->version) {
            part_fail(session->part, "%s: version %lu after %lu", own->name, result->meta.version,
                      own->version);
        }
        learn_acknowledged(session);
        return;
    case LINEAR_UNKNOWN:
        return;
    default:
        part->states[own->element] = ELEMENT_REFUSED;
    }
}

/* A2; false: the read failed, or what it shows is no list. */
static bool take_read(struct session *session, const struct cairn_result *result,
                      struct value *value)
{
    struct append_session *own = session->own;
    enum linear_outcome outcome = session_outcome(CAIRN_GET, result->status);
    own->must_repeat = outcome == LINEAR_NOTHING;
    *value = (struct value){ 0 };
    if (outcome == LINEAR_NOTHING) {
        return false;
    }
    if (outcome == LINEAR_OK &&
        (!value_read(span_of_string(own->name), span_of(result->value, result->value_size),
                     value) ||
         value->content.size % 8 != 0 || value->content.size / 8 > ELEMENTS_MAX)) {
        part_fail(session->part, "%s: %zu bytes are no list ever written", own->name,
                  result->value_size);
        return false;
    }
    own->read_count = (uint32_t)(value->content.size / 8);
    own->version = outcome == LINEAR_OK ? result->meta.version : 0;
    learn(session, value->content.data, own->read_count);
    if (own->read_count < own->floor) {
        part_fail(session->part, "%s: shows %u elements, there were %u before", own->name,
                  own->read_count, own->floor);
    }
    raise_floor(list_of(session), own->read_count);
    return true;
}

static void hear_read(struct session *session, const struct cairn_result *result, size_t count)
{
    struct append_session *own = session->own;
    struct append_part *part = session->part->own;
    struct value value;
    if (!take_read(session, result, &value)) {
        return;
    }
    if (own->read_count >= ELEMENTS_MAX) {
        for (uint32_t i = 0; i < part->count; i++) {
            part->current[i] = part->current[i] == own->list ? begin_list(part) : part->current[i];
        }
        return;
    }
    own->element = new_element(part);
    uint8_t content[(ELEMENTS_MAX + 1) * 8];
    if (value.content.size > 0) {
        memcpy(content, value.content.data, value.content.size);
    }
    put_u64(content + value.content.size, own->element);
    struct buf bytes = { 0 };
    struct value grown = { .writer = session->writer,
                           .number = own->element,
                           .content = span_of(content, value.content.size + 8) };
    value_make(&bytes, span_of_string(own->name), &grown, 0);
    struct cairn_request request = { .verb = CAIRN_PUT,
                                     .key = own->name,
                                     .key_size = strlen(own->name),
                                     .value = bytes.data,
                                     .value_size = bytes.size,
                                     .condition = own->version ? CAIRN_IF_VERSION : CAIRN_IF_ABSENT,
                                     .version = own->version };
    session_call(session, &request, 1, hear_append);
    buf_fini(&bytes);
}

static void ask_read(struct session *session, uint32_t number,
                     void (*heard)(struct session *session, const struct cairn_result *results,
                                   size_t count))
{
    struct append_session *own = session->own;
    own->list = number;
    own->floor = list_of(session)->floor;
    snprintf(own->name, NAME_BYTES, "append/%u", number);
    struct cairn_request request = { .verb = CAIRN_GET,
                                     .key = own->name,
                                     .key_size = strlen(own->name) };
    session_call(session, &request, 1, heard);
}

static void append_ask(struct session *session)
{
    struct append_part *own = session->part->own;
    ask_read(session, own->current[random_below(&session->part->random, own->count)], hear_read);
}

/* --- The end */

static void hear_final(struct session *session, const struct cairn_result *result, size_t count)
{
    struct value value;
    take_read(session, result, &value);
}

static bool append_ask_final(struct session *session)
{
    struct append_session *own = session->own;
    struct append_part *part = session->part->own;
    if (!own->must_repeat && part->next_final >= part->begun) {
        return false;
    }
    ask_read(session, own->must_repeat ? own->list : part->next_final++, hear_final);
    return true;
}

/* A3, and that no element stands in two places. (That acknowledged ones are there, A2 and A4 say.)
 */
static void append_judge(struct part *part)
{
    struct append_part *own = part->own;
    uint8_t *seen = mem_zalloc(own->next_element + 1);
    for (uint32_t i = 0; i < own->begun; i++) {
        for (uint32_t j = 0; j < own->lists[i].count; j++) {
            uint64_t element = own->lists[i].elements[j];
            if (element >= own->next_element || own->states[element] == ELEMENT_REFUSED) {
                part_fail(part, "append/%u: shows %lu, which was refused or never tried", i,
                          element);
            } else if (seen[element]++) {
                part_fail(part, "append/%u: %lu was appended twice", i, element);
            }
        }
    }
    mem_free(seen);
}

static void append_begin(struct part *part)
{
    struct append_part *own = part->own;
    own->count = (uint32_t)random_between(&part->random, 1, LISTS_MAX);
    for (uint32_t i = 0; i < own->count; i++) {
        own->current[i] = begin_list(own);
    }
}

static void append_fini(struct part *part)
{
    struct append_part *own = part->own;
    mem_free(own->lists);
    mem_free(own->states);
}

const struct workload_module workload_append = { .name = "append",
                                                 .part_bytes = sizeof(struct append_part),
                                                 .session_bytes = sizeof(struct append_session),
                                                 .pace = 1,
                                                 .begin = append_begin,
                                                 .ask = append_ask,
                                                 .ask_final = append_ask_final,
                                                 .judge = append_judge,
                                                 .fini = append_fini };
