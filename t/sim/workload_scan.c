/* Scans of every kind against a long keyspace that grows at one end and shrinks at the other: each
 * session inserts keys of its own in order and deletes the oldest; every session scans the keys of
 * one owner or of all: forward, in reverse, with limits, parts of the range, keys only, pages of
 * few entries over all nodes.
 *
 *   K1  a scan shows every key of its range whose insertion was acknowledged before it began and
 *       whose deletion nobody asked for before it ended (up to where its limit ended it)
 *   K2  it shows no key that was never inserted, certainly not inserted, or whose deletion was
 *       acknowledged before it began
 *   (that keys come in strict order and once, workload.c checks) */
#include "base/mem.h"
#include "sim/workload_module.h"

enum {
    WINDOW_MAX = 600,   /* keys of a session */
    WINDOWS_MAX = 2400, /* of all: a scan of them costs as much as hundreds of other calls */
    PAGES_MAX = 12,     /* of a scan, about */
    SCAN_COST = 15,     /* in operations, on average */
    LARGE_TOTAL = 80,
    LARGE_BYTES = 300000
};

/* One key's life; places in the real order, 0: not yet. */
struct item {
    uint64_t insert_call, insert_done;
    uint64_t delete_call, delete_done;
    bool is_void;    /* certainly not inserted */
    bool is_unknown; /* perhaps inserted, perhaps later */
};

struct scan_part {
    struct owner {
        struct item *items;
        uint32_t count, capacity;
        uint32_t oldest; /* those below are deleted, or it was tried */
    } owners[WORKLOAD_SESSIONS_MAX];
    uint32_t window, scan_percent;
    uint32_t value_bytes, large_bytes; /* of one at most; large ones end pages early */
    uint32_t large_percent;
    uint32_t next_final;
};

/* Where a key stands: owner, number. Names sort as these do. */
typedef uint64_t position;

struct scan_session {
    uint32_t item; /* of the write under way */
    /* the scan under way: [from, to) in positions */
    position from, to, last;
    uint64_t begin;
    uint32_t shown, limit;
    bool is_reverse, has_values;
    uint8_t *seen[WORKLOAD_SESSIONS_MAX]; /* by owner; items from seen_from on */
    uint32_t seen_from[WORKLOAD_SESSIONS_MAX], seen_count[WORKLOAD_SESSIONS_MAX];
    bool must_repeat;
    uint32_t final_owner;
};

static position make_position(uint32_t owner, uint32_t number)
{
    return (position)owner << 32 | number;
}

/* By hand, since every key that a scan shows passes here. */
static const char PREFIX[] = "scan/";
enum { PREFIX_BYTES = 5, OWNER_DIGITS = 3, NUMBER_DIGITS = 8 };
enum { KEY_BYTES = PREFIX_BYTES + OWNER_DIGITS + 1 + NUMBER_DIGITS };

static void put_digits(char *out, size_t count, uint32_t number)
{
    while (count-- > 0) {
        out[count] = (char)('0' + number % 10);
        number /= 10;
    }
}

static bool get_digits(const uint8_t *in, size_t count, uint32_t *number)
{
    *number = 0;
    for (size_t i = 0; i < count; i++) {
        if (in[i] < '0' || in[i] > '9') {
            return false;
        }
        *number = *number * 10 + (uint32_t)(in[i] - '0');
    }
    return true;
}

static size_t name_key(position at, char name[KEY_BYTES])
{
    memcpy(name, PREFIX, PREFIX_BYTES);
    put_digits(name + PREFIX_BYTES, OWNER_DIGITS, (uint32_t)(at >> 32));
    name[PREFIX_BYTES + OWNER_DIGITS] = '/';
    put_digits(name + KEY_BYTES - NUMBER_DIGITS, NUMBER_DIGITS, (uint32_t)at);
    return KEY_BYTES;
}

/* False: no key of this workload. */
static bool parse_key(struct span key, position *out)
{
    uint32_t owner, number;
    if (key.size != KEY_BYTES || memcmp(key.data, PREFIX, PREFIX_BYTES) != 0 ||
        key.data[PREFIX_BYTES + OWNER_DIGITS] != '/' ||
        !get_digits(key.data + PREFIX_BYTES, OWNER_DIGITS, &owner) ||
        !get_digits(key.data + KEY_BYTES - NUMBER_DIGITS, NUMBER_DIGITS, &number)) {
        return false;
    }
    *out = make_position(owner, number);
    return true;
}

/* --- Writing */

static struct owner *owner_of(struct session *session)
{
    return &((struct scan_part *)session->part->own)->owners[session->number];
}

static void hear_insert(struct session *session, const struct cairn_result *result, size_t count)
{
    struct item *item = &owner_of(session)->items[((struct scan_session *)session->own)->item];
    switch (session_outcome(CAIRN_PUT, result->status)) {
    case LINEAR_OK:
        item->insert_done = session_place(session);
        return;
    case LINEAR_UNKNOWN:
        item->is_unknown = true;
        return;
    default:
        item->is_void = true;
    }
}

static void ask_insert(struct session *session)
{
    struct owner *owner = owner_of(session);
    struct scan_session *own = session->own;
    if (owner->count == owner->capacity) {
        owner->capacity = owner->capacity ? owner->capacity * 2 : 256;
        owner->items = mem_realloc(owner->items, owner->capacity * sizeof *owner->items);
    }
    own->item = owner->count++;
    owner->items[own->item] = (struct item){ .insert_call = session_place(session) };
    char name[KEY_BYTES];
    size_t size = name_key(make_position(session->number, own->item), name);
    struct buf bytes = { 0 };
    struct value value = { .writer = session->writer, .number = own->item };
    struct scan_part *part = session->part->own;
    bool is_large = random_percent(&session->part->random, part->large_percent);
    value_make(
        &bytes, span_of(name, size), &value,
        random_below(&session->part->random, is_large ? part->large_bytes : part->value_bytes));
    struct cairn_request request = { .verb = CAIRN_PUT,
                                     .key = name,
                                     .key_size = size,
                                     .value = bytes.data,
                                     .value_size = bytes.size };
    session_call(session, &request, 1, hear_insert);
    buf_fini(&bytes);
}

static void hear_delete(struct session *session, const struct cairn_result *result, size_t count)
{
    struct scan_session *own = session->own;
    struct item *item = &owner_of(session)->items[own->item];
    if (session_outcome(CAIRN_DELETE, result->status) != LINEAR_OK) {
        return; /* it may be there or not; nobody tries again */
    }
    item->delete_done = session_place(session);
    bool was_there = item->insert_done != 0;
    if (!item->is_unknown && result->existed != was_there) {
        part_fail(session->part, "delete of scan/%03u/%08u says that it was %s", session->number,
                  own->item, result->existed ? "there" : "absent");
    }
}

static void ask_delete(struct session *session)
{
    struct owner *owner = owner_of(session);
    struct scan_session *own = session->own;
    own->item = owner->oldest++;
    owner->items[own->item].delete_call = session_place(session);
    char name[KEY_BYTES];
    struct cairn_request request = {
        .verb = CAIRN_DELETE,
        .key = name,
        .key_size = name_key(make_position(session->number, own->item), name),
    };
    session_call(session, &request, 1, hear_delete);
}

/* --- Scanning */

/* K2 */
static void check_shown(struct session *session, position at, struct span key)
{
    struct scan_part *part = session->part->own;
    struct scan_session *own = session->own;
    uint32_t number = (uint32_t)at, owner_number = (uint32_t)(at >> 32);
    const struct owner *owner = &part->owners[owner_number];
    const struct item *item = number < owner->count ? &owner->items[number] : NULL;
    const char *what = NULL;
    if (!item || item->is_void) {
        what = "which was never inserted";
    } else if (item->delete_done != 0 && item->delete_done < own->begin && !item->is_unknown) {
        what = "which was deleted before";
    } else if (at < own->from || at >= own->to) {
        what = "which is outside of its range";
    }
    if (what) {
        part_fail(session->part, "a scan shows %.*s, %s", (int)key.size, (const char *)key.data,
                  what);
        return;
    }
    if (number >= own->seen_from[owner_number] &&
        number - own->seen_from[owner_number] < own->seen_count[owner_number]) {
        own->seen[owner_number][number - own->seen_from[owner_number]] = 1;
    }
}

static void scanned(struct session *session, const struct cairn_entry *entry)
{
    struct scan_session *own = session->own;
    struct span key = span_of(entry->key, entry->key_size);
    struct value value;
    position at;
    if (!parse_key(key, &at) || (at >> 32) >= session->part->session_count) {
        part_fail(session->part, "a scan shows %.*s", (int)key.size, (const char *)key.data);
        return;
    }
    if (own->has_values && (!value_read(key, span_of(entry->value, entry->value_size), &value) ||
                            value.number != (uint32_t)at)) {
        part_fail(session->part, "a scan shows %zu bytes of %.*s that were never written",
                  entry->value_size, (int)key.size, (const char *)key.data);
    }
    own->last = at;
    own->shown++;
    check_shown(session, at, key);
}

/* Did the scan get as far as this key? */
static bool is_covered(const struct scan_session *own, position at)
{
    if (at < own->from || at >= own->to) {
        return false;
    }
    if (own->limit == 0 || own->shown < own->limit) {
        return true;
    }
    return own->is_reverse ? at >= own->last : at <= own->last;
}

/* K1 */
static void check_missing(struct session *session, uint32_t owner_number)
{
    struct scan_part *part = session->part->own;
    struct scan_session *own = session->own;
    const struct owner *owner = &part->owners[owner_number];
    for (uint32_t i = 0; i < own->seen_count[owner_number]; i++) {
        uint32_t number = own->seen_from[owner_number] + i;
        const struct item *item = &owner->items[number];
        bool must_show = item->insert_done != 0 && item->insert_done < own->begin &&
                         item->delete_call == 0 &&
                         is_covered(own, make_position(owner_number, number));
        if (must_show && !own->seen[owner_number][i]) {
            part_fail(session->part, "a scan misses scan/%03u/%08u, inserted before it began",
                      owner_number, number);
            return;
        }
    }
}

static void ended(struct session *session, int status)
{
    struct scan_session *own = session->own;
    own->must_repeat = status != 0;
    for (uint32_t i = 0; i < session->part->session_count && status == 0; i++) {
        check_missing(session, i);
    }
}

/* Remembers which keys there are now: only those can be missed. */
static void begin_seen(struct session *session)
{
    struct scan_part *part = session->part->own;
    struct scan_session *own = session->own;
    for (uint32_t i = 0; i < session->part->session_count; i++) {
        const struct owner *owner = &part->owners[i];
        own->seen_from[i] = owner->oldest;
        own->seen_count[i] = owner->count - owner->oldest;
        own->seen[i] = mem_realloc(own->seen[i], own->seen_count[i] + 1);
        memset(own->seen[i], 0, own->seen_count[i] + 1);
    }
    own->begin = session_place(session);
    own->shown = 0;
}

static void ask_range(struct session *session, struct cairn_scan_options *options)
{
    struct scan_session *own = session->own;
    char from[KEY_BYTES], to[KEY_BYTES];
    options->from = from;
    options->from_size = name_key(own->from, from);
    options->to = to;
    options->to_size = name_key(own->to, to);
    own->is_reverse = options->reverse;
    own->limit = (uint32_t)options->limit;
    own->has_values = !options->keys_only && !options->meta_only;
    begin_seen(session);
    session_scan(session, options, scanned, ended);
}

static void ask_scan(struct session *session)
{
    struct scan_part *part = session->part->own;
    struct scan_session *own = session->own;
    struct random *random = &session->part->random;
    uint32_t of = (uint32_t)random_below(random, session->part->session_count);
    const struct owner *owner = &part->owners[of];
    own->from = make_position(of, 0);
    own->to = make_position(of + 1, 0);
    uint32_t live = owner->count - owner->oldest;
    uint32_t page_least = 1 + live / PAGES_MAX;
    if (random_percent(random, 20)) {
        own->from = 0;
        own->to = make_position(session->part->session_count, 0);
        page_least += live * session->part->session_count / PAGES_MAX;
    } else if (random_percent(random, 40)) {
        own->from += owner->oldest + random_below(random, live + 1);
        own->to = own->from + random_below(random, live + 1) + 1;
    }
    struct cairn_scan_options options = { .reverse = random_percent(random, 40),
                                          .keys_only = random_percent(random, 20),
                                          .meta_only = random_percent(random, 10) };
    options.limit = random_percent(random, 40) ? random_between(random, 1, part->window) : 0;
    options.page_entries = random_percent(random, 60)
                               ? (uint32_t)random_between(random, page_least, page_least + 60)
                               : 0;
    ask_range(session, &options);
}

static void scan_ask(struct session *session)
{
    struct scan_part *part = session->part->own;
    const struct owner *owner = owner_of(session);
    uint32_t live = owner->count - owner->oldest;
    if (random_percent(&session->part->random, part->scan_percent)) {
        ask_scan(session);
    } else if (live > 0 && (live > part->window || random_percent(&session->part->random, 20))) {
        ask_delete(session);
    } else {
        ask_insert(session);
    }
}

static bool scan_ask_final(struct session *session)
{
    struct scan_part *part = session->part->own;
    struct scan_session *own = session->own;
    if (!own->must_repeat && part->next_final >= session->part->session_count) {
        return false;
    }
    own->final_owner = own->must_repeat ? own->final_owner : part->next_final++;
    own->from = make_position(own->final_owner, 0);
    own->to = make_position(own->final_owner + 1, 0);
    struct cairn_scan_options options = { .reverse = false };
    ask_range(session, &options);
    return true;
}

static void scan_begin(struct part *part)
{
    struct scan_part *own = part->own;
    uint32_t most = WINDOWS_MAX / part->session_count; /* mostly some dozen */
    most = (uint32_t)random_between(&part->random, 20, most < WINDOW_MAX ? most : WINDOW_MAX);
    own->window = (uint32_t)random_between(&part->random, 20, most);
    own->scan_percent = (uint32_t)random_between(&part->random, 2, 8);
    part->cost = 100 + own->scan_percent * SCAN_COST;
    own->value_bytes = 80;
    /* A node's page ends by its bytes, before a large value; others' go on, and small ones still
     * find room behind it. */
    if (part->workload->config.scans_large) {
        own->large_percent = (uint32_t)random_between(&part->random, 20, 100);
        own->large_bytes = LARGE_BYTES;
        own->window = LARGE_TOTAL * 100 / own->large_percent / part->session_count + 1;
        own->scan_percent = 40;
    }
}

static void scan_judge(struct part *part)
{
}

static void scan_fini(struct part *part)
{
    struct scan_part *own = part->own;
    for (uint32_t i = 0; i < WORKLOAD_SESSIONS_MAX; i++) {
        mem_free(own->owners[i].items);
    }
    for (uint32_t i = 0; i < part->workload->config.sessions; i++) {
        struct session *session = &part->workload->sessions[i];
        struct scan_session *asking = session->own;
        for (uint32_t j = 0; session->part == part && j < WORKLOAD_SESSIONS_MAX; j++) {
            mem_free(asking->seen[j]);
        }
    }
}

const struct workload_module workload_scan = { .name = "scan",
                                               .part_bytes = sizeof(struct scan_part),
                                               .session_bytes = sizeof(struct scan_session),
                                               .pace = 1,
                                               .begin = scan_begin,
                                               .ask = scan_ask,
                                               .ask_final = scan_ask_final,
                                               .judge = scan_judge,
                                               .fini = scan_fini };
