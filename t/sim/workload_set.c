/* A set: many clients add distinct elements (a put if absent of a key of its own), scans read the
 * set while it grows. Sets of bounded size, one after the other.
 *
 *   E1  a scan shows every element that was acknowledged, or shown by another scan, before it began
 *   E2  it shows none that was never tried or certainly not added
 *   E3  an element is added once: nobody is told that his own, first tried now, exists already */
#include <stdio.h>

#include "base/mem.h"
#include "sim/workload_module.h"

enum {
    SET_ELEMENTS = 256,
    SCAN_COST = 15, /* in operations */
    NAME_BYTES = 40,
    SCRAMBLE = 0x5bd1,   /* odd: a permutation of the numbers, so that they come in no order */
    UNSCRAMBLE = 0xdd31, /* its inverse */
    MASK = 0xffff,
};
_Static_assert((SCRAMBLE * UNSCRAMBLE & MASK) == 1, "inverse");

enum element_state { ELEMENT_NONE, ELEMENT_ASKED, ELEMENT_UNKNOWN, ELEMENT_THERE };

struct element {
    uint8_t state;
    uint64_t since; /* place from which on every scan must show it; 0: none */
};

struct set {
    struct element elements[SET_ELEMENTS];
};

struct set_part {
    struct set **sets;
    uint32_t set_count, added; /* of the newest set */
    uint32_t scan_percent;
    uint32_t next_final;
};

struct set_session {
    uint32_t set, element;
    uint64_t scan_begin;
    uint8_t seen[SET_ELEMENTS];
    bool is_keys_only, must_repeat;
};

static struct element *element_of(struct session *session, uint32_t number)
{
    struct set_part *part = session->part->own;
    struct set_session *own = session->own;
    return &part->sets[own->set]->elements[number];
}

static void begin_set(struct set_part *own)
{
    own->sets = mem_realloc(own->sets, (own->set_count + 1) * sizeof *own->sets);
    own->sets[own->set_count++] = MEM_NEW(struct set);
    own->added = 0;
}

/* --- Adding */

static void put_digits(char *out, size_t count, uint32_t number, uint32_t base)
{
    while (count-- > 0) {
        out[count] = "0123456789abcdef"[number % base];
        number /= base;
    }
}

/* "set/%04u/%04x", by hand, since every element that a scan shows passes here. */
static void name_element(uint32_t set, uint32_t number, char name[NAME_BYTES])
{
    memcpy(name, "set/0000/0000", 14);
    put_digits(name + 4, 4, set, 10);
    put_digits(name + 9, 4, number * SCRAMBLE & MASK, 16);
}

static void hear_add(struct session *session, const struct cairn_result *result, size_t count)
{
    struct set_session *own = session->own;
    struct element *element = element_of(session, own->element);
    bool is_first = element->state == ELEMENT_ASKED;
    switch (session_outcome(CAIRN_PUT, result->status)) {
    case LINEAR_REFUSED:
        if (is_first) {
            part_fail(session->part, "set/%u: element %u exists, but it was not tried before",
                      own->set, own->element);
        }
        /* fallthrough */
    case LINEAR_OK:
        element->state = ELEMENT_THERE;
        element->since = element->since ? element->since : session_place(session);
        return;
    case LINEAR_UNKNOWN:
        element->state = ELEMENT_UNKNOWN;
        return;
    default:
        if (is_first && element->since != 0) {
            part_fail(session->part, "set/%u: element %u was not added, and yet a scan showed it",
                      own->set, own->element);
        }
        element->state = is_first ? ELEMENT_NONE : element->state;
    }
}

/* One whose outcome is unknown, to be tried once more; else SET_ELEMENTS. */
static uint32_t find_unknown(struct session *session)
{
    uint32_t at = (uint32_t)random_below(&session->part->random, SET_ELEMENTS);
    return element_of(session, at)->state == ELEMENT_UNKNOWN ? at : SET_ELEMENTS;
}

static void ask_add(struct session *session)
{
    struct set_part *part = session->part->own;
    struct set_session *own = session->own;
    own->set = part->set_count - 1;
    own->element = find_unknown(session);
    if (own->element == SET_ELEMENTS) {
        own->element = part->added++;
        element_of(session, own->element)->state = ELEMENT_ASKED;
    }
    char name[NAME_BYTES];
    name_element(own->set, own->element, name);
    struct buf bytes = { 0 };
    struct value value = { .writer = session->writer, .number = own->element };
    value_make(&bytes, span_of_string(name), &value, 0);
    struct cairn_request request = { .verb = CAIRN_PUT,
                                     .key = name,
                                     .key_size = strlen(name),
                                     .value = bytes.data,
                                     .value_size = bytes.size,
                                     .condition = CAIRN_IF_ABSENT };
    session_call(session, &request, 1, hear_add);
    buf_fini(&bytes);
    if (part->added == SET_ELEMENTS) {
        begin_set(part);
    }
}

/* --- Scanning */

/* The number of the element that a key seems to name, SET_ELEMENTS: none; the caller compares the
 * whole name. */
static uint32_t element_number(const struct cairn_entry *entry)
{
    uint32_t scrambled = 0;
    for (size_t i = entry->key_size - (entry->key_size < 4 ? entry->key_size : 4);
         i < entry->key_size; i++) {
        uint8_t c = ((const uint8_t *)entry->key)[i];
        scrambled = scrambled * 16 + (uint32_t)(c >= 'a' ? c - 'a' + 10 : c - '0');
    }
    uint32_t number = scrambled * UNSCRAMBLE & MASK;
    return number < SET_ELEMENTS ? number : SET_ELEMENTS;
}

/* E2 */
static void scanned(struct session *session, const struct cairn_entry *entry)
{
    struct set_session *own = session->own;
    struct value value = { 0 };
    struct span key = span_of(entry->key, entry->key_size);
    bool is_whole =
        !own->is_keys_only && value_read(key, span_of(entry->value, entry->value_size), &value);
    uint32_t number = is_whole            ? (uint32_t)value.number
                      : own->is_keys_only ? element_number(entry)
                                          : SET_ELEMENTS;
    char name[NAME_BYTES] = "";
    if (number < SET_ELEMENTS) {
        name_element(own->set, number, name);
    }
    if (!span_equal(key, span_of_string(name))) {
        part_fail(session->part, "a scan of set/%04u shows %.*s, which is no element", own->set,
                  (int)key.size, (const char *)key.data);
        return;
    }
    if (element_of(session, number)->state == ELEMENT_NONE) {
        part_fail(session->part, "a scan shows %s, which was never added", name);
    }
    own->seen[number] = 1;
}

/* E1 */
static void scan_ended(struct session *session, int status)
{
    struct set_session *own = session->own;
    own->must_repeat = status != 0;
    if (status != 0) {
        return;
    }
    uint64_t end = session_place(session);
    for (uint32_t i = 0; i < SET_ELEMENTS; i++) {
        struct element *element = element_of(session, i);
        if (!own->seen[i] && element->since != 0 && element->since < own->scan_begin) {
            char name[NAME_BYTES];
            name_element(own->set, i, name);
            part_fail(session->part, "a scan misses %s (element %u), which was there before", name,
                      i);
            return;
        }
        if (own->seen[i] && element->since == 0) {
            element->since = end;
        }
    }
}

static void ask_scan(struct session *session, uint32_t set)
{
    struct random *random = &session->part->random;
    struct set_session *own = session->own;
    own->set = set;
    own->scan_begin = session_place(session);
    own->is_keys_only = random_percent(random, 20);
    memset(own->seen, 0, sizeof own->seen);
    char prefix[NAME_BYTES];
    struct cairn_scan_options options = { .prefix = prefix,
                                          .prefix_size = (size_t)snprintf(prefix, sizeof prefix,
                                                                          "set/%04u/", set),
                                          .reverse = random_percent(random, 30),
                                          .keys_only = own->is_keys_only };
    options.page_entries =
        random_percent(random, 50) ? (uint32_t)random_between(random, 16, 80) : 0;
    session_scan(session, &options, scanned, scan_ended);
}

static bool is_enough(const struct part *part)
{
    const struct set_part *own = part->own;
    return own->set_count * SET_ELEMENTS > part->workload->config.elements_max;
}

static void set_ask(struct session *session)
{
    struct set_part *own = session->part->own;
    if (!random_percent(&session->part->random, own->scan_percent) && !is_enough(session->part)) {
        ask_add(session);
        return;
    }
    bool is_newest = random_percent(&session->part->random, 70);
    ask_scan(session, is_newest ? own->set_count - 1
                                : (uint32_t)random_below(&session->part->random, own->set_count));
}

static bool set_ask_final(struct session *session)
{
    struct set_part *part = session->part->own;
    struct set_session *own = session->own;
    if (!own->must_repeat && part->next_final >= part->set_count) {
        return false;
    }
    ask_scan(session, own->must_repeat ? own->set : part->next_final++);
    return true;
}

static void set_begin(struct part *part)
{
    struct set_part *own = part->own;
    own->scan_percent = (uint32_t)random_between(&part->random, 2, 8);
    part->cost = 100 + own->scan_percent * SCAN_COST;
    begin_set(own);
}

static void set_judge(struct part *part)
{
}

static void set_fini(struct part *part)
{
    struct set_part *own = part->own;
    for (uint32_t i = 0; i < own->set_count; i++) {
        mem_free(own->sets[i]);
    }
    mem_free(own->sets);
}

const struct workload_module workload_set = { .name = "set",
                                              .part_bytes = sizeof(struct set_part),
                                              .session_bytes = sizeof(struct set_session),
                                              .pace = 1,
                                              .begin = set_begin,
                                              .ask = set_ask,
                                              .ask_final = set_ask_final,
                                              .judge = set_judge,
                                              .fini = set_fini };
