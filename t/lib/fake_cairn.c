/* An in-memory implementation of client/cairn.h: a test double for the unit tests of fuse/ and
 * pgext/.
 *
 * Keys stand in one sorted array; versions come from one counter, which is stricter than the real
 * thing (they are comparable over keys) but never weaker. Several handles may share one store
 * (fake_cairn_share). Every operation is atomic and linearizable. The event-driven face queues a
 * copy of the request and applies it in cairn_step, in the order of submission, once its delay has
 * passed; an eventfd is readable while something is due at once. Expired keys are absent.
 *
 * It is meant for one thread and small numbers of keys: inserting is O(n).
 */
#include "fake_cairn.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

enum { PAGE_ENTRIES = 64 };

struct item {
    unsigned char *key, *value;
    size_t key_size, value_size;
    struct cairn_meta meta;
};

struct store {
    struct item *items;
    size_t count, capacity;
    uint64_t version;
    unsigned references;
};

/* Something to call back later: a request, many, or a page of a scan. */
struct pending {
    struct pending *next;
    uint64_t id, due_us;
    bool is_cancelled, is_timed_out;
    struct cairn_request *requests;
    size_t count;
    cairn_done done;
    cairn_done_many done_many;
    struct cairn_scan *scan;
    void (*scan_done)(void *arg, int status);
    void *arg;
};

struct cairn {
    struct store *store;
    struct pending *first, **last;
    uint64_t next_id;
    int event_fd;
    uint32_t timeout_ms;
    unsigned delay_ms;
    unsigned fail_skip, fail_count;
    int fail_code;
    bool fail_applied;
    void (*hook)(void *ctx, const struct cairn_request *request);
    void *hook_ctx;
    struct fake_cairn_counts counts;
    char last_error[128];
};

struct cairn_scan {
    struct cairn *cairn;
    struct cairn_scan_options options;
    unsigned char *from, *to, *prefix;
    struct item *page;
    size_t page_count, page_at;
    uint64_t given;
    unsigned char *resume; /* the last key given or fetched */
    size_t resume_size;
    bool has_resume, is_end;
    int status;
    struct pending *fetch;
};

/* --- Errors */

static const struct {
    int code;
    struct cairn_error_info info;
} error_table[] = {
#define NEVER false
#define SAFE true
#define UNKNOWN false
#define ERROR(name, number, retry, http, errno_, sqlstate, exit_, text_)                           \
    { -(number), { #name, text_, sqlstate, errno_, exit_, retry } },
#include "tbl/errors.def"
#undef ERROR
};

const struct cairn_error_info *cairn_error(int code)
{
    for (size_t i = 0; i < sizeof error_table / sizeof *error_table; i++) {
        if (error_table[i].code == code) {
            return &error_table[i].info;
        }
    }
    return cairn_error(-2);
}

/* --- Memory and order */

static void *must(void *memory)
{
    if (memory == NULL) {
        abort();
    }
    return memory;
}

/* A copy that is never NULL, so that empty values are told from absent ones. */
static void *copy(const void *data, size_t size)
{
    unsigned char *to = must(malloc(size + 1));
    if (size > 0) {
        memcpy(to, data, size);
    }
    to[size] = 0;
    return to;
}

static int compare(const void *a, size_t a_size, const void *b, size_t b_size)
{
    size_t shorter = a_size < b_size ? a_size : b_size;
    int order = shorter > 0 ? memcmp(a, b, shorter) : 0;
    return order != 0 ? order : (a_size > b_size) - (a_size < b_size);
}

static uint64_t now_us(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

/* Index of the first item whose key is not below key. */
static size_t lower_bound(const struct store *store, const void *key, size_t size)
{
    size_t low = 0, high = store->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (compare(store->items[middle].key, store->items[middle].key_size, key, size) < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static bool is_expired(const struct item *item)
{
    const struct cairn_attributes *a = &item->meta.attributes;
    return (a->mask & CAIRN_ATTR_EXPIRES) && a->expires_at_us != 0 &&
           a->expires_at_us <= now_us(CLOCK_REALTIME);
}

static void item_fini(struct item *item)
{
    free(item->key);
    free(item->value);
}

static void store_remove(struct store *store, size_t index)
{
    item_fini(&store->items[index]);
    memmove(&store->items[index], &store->items[index + 1],
            (store->count - index - 1) * sizeof *store->items);
    store->count--;
}

static struct item *store_find(struct store *store, const void *key, size_t size)
{
    size_t at = lower_bound(store, key, size);
    if (at == store->count ||
        compare(store->items[at].key, store->items[at].key_size, key, size) != 0) {
        return NULL;
    }
    if (is_expired(&store->items[at])) {
        store_remove(store, at);
        return NULL;
    }
    return &store->items[at];
}

static struct item *store_insert(struct store *store, const void *key, size_t size)
{
    size_t at = lower_bound(store, key, size);
    if (store->count == store->capacity) {
        store->capacity = store->capacity * 2 + 16;
        store->items = must(realloc(store->items, store->capacity * sizeof *store->items));
    }
    memmove(&store->items[at + 1], &store->items[at], (store->count - at) * sizeof *store->items);
    store->count++;
    store->items[at] =
        (struct item){ .key = copy(key, size), .key_size = size, .value = copy("", 0) };
    return &store->items[at];
}

static void store_unref(struct store *store)
{
    if (--store->references > 0) {
        return;
    }
    while (store->count > 0) {
        store_remove(store, store->count - 1);
    }
    free(store->items);
    free(store);
}

/* --- Applying */

static int check_request(const struct cairn_request *request)
{
    if (request->key_size == 0) {
        return CAIRN_KEY_EMPTY;
    }
    if (request->key_size > CAIRN_KEY_BYTES_MAX) {
        return CAIRN_KEY_TOO_LONG;
    }
    if (request->value_size > CAIRN_VALUE_BYTES_MAX) {
        return CAIRN_VALUE_TOO_LARGE;
    }
    if (request->consistency != CAIRN_LINEARIZABLE) {
        return CAIRN_UNSUPPORTED;
    }
    return 0;
}

/* True when this operation is to fail; counts down. */
static bool take_failure(struct cairn *cairn)
{
    if (cairn->fail_count == 0) {
        return false;
    }
    if (cairn->fail_skip > 0) {
        cairn->fail_skip--;
        return false;
    }
    cairn->fail_count--;
    return true;
}

static void set_attributes(struct cairn_attributes *to, const struct cairn_attributes *from)
{
    to->mask |= from->mask;
    if (from->mask & CAIRN_ATTR_MODE) {
        to->mode = from->mode;
    }
    if (from->mask & CAIRN_ATTR_UID) {
        to->uid = from->uid;
    }
    if (from->mask & CAIRN_ATTR_GID) {
        to->gid = from->gid;
    }
    if (from->mask & CAIRN_ATTR_MTIME) {
        to->mtime_us = from->mtime_us;
    }
    if (from->mask & CAIRN_ATTR_FLAGS) {
        to->flags = from->flags;
    }
    if (from->mask & CAIRN_ATTR_EXPIRES) {
        to->expires_at_us = from->expires_at_us;
    }
}

static int check_condition(const struct cairn_request *request, const struct item *item,
                           struct cairn_result *result)
{
    result->meta.version = item != NULL ? item->meta.version : 0;
    switch (request->condition) {
    case CAIRN_ALWAYS:
        return 0;
    case CAIRN_IF_ABSENT:
        return item == NULL ? 0 : CAIRN_EXISTS;
    case CAIRN_IF_VERSION:
        return item != NULL && item->meta.version == request->version ? 0 : CAIRN_CONDITION_FAILED;
    case CAIRN_IF_PRESENT:
        return item != NULL ? 0 : CAIRN_NOT_FOUND;
    }
    return CAIRN_USAGE;
}

static void touch(struct store *store, struct item *item, struct cairn_result *result)
{
    item->meta.version = ++store->version;
    item->meta.time_us = now_us(CLOCK_REALTIME);
    item->meta.size = item->value_size;
    result->meta.version = item->meta.version;
    result->meta.time_us = item->meta.time_us;
}

static void apply_put(struct store *store, struct item *item, const struct cairn_request *request,
                      struct cairn_result *result)
{
    if (item == NULL) {
        item = store_insert(store, request->key, request->key_size);
    }
    free(item->value);
    item->value = copy(request->value, request->value_size);
    item->value_size = request->value_size;
    set_attributes(&item->meta.attributes, &request->attributes);
    touch(store, item, result);
}

static void apply_verb(struct cairn *cairn, const struct cairn_request *request,
                       struct cairn_result *result)
{
    struct store *store = cairn->store;
    struct item *item = store_find(store, request->key, request->key_size);
    bool is_read = request->verb == CAIRN_GET || request->verb == CAIRN_GET_META;
    if (!is_read && (result->status = check_condition(request, item, result)) != 0) {
        return;
    }
    switch (request->verb) {
    case CAIRN_GET:
    case CAIRN_GET_META:
        if (item == NULL) {
            result->status = CAIRN_NOT_FOUND;
            return;
        }
        result->meta = item->meta;
        if (request->verb == CAIRN_GET) {
            result->value = copy(item->value, item->value_size);
            result->value_size = item->value_size;
        }
        return;
    case CAIRN_PUT:
        apply_put(store, item, request, result);
        return;
    case CAIRN_DELETE:
        result->existed = item != NULL;
        if (item != NULL) {
            store->version++;
            store_remove(store, (size_t)(item - store->items));
        }
        return;
    case CAIRN_SETATTR:
        if (item == NULL) {
            result->status = CAIRN_NOT_FOUND;
            return;
        }
        set_attributes(&item->meta.attributes, &request->attributes);
        touch(store, item, result);
        return;
    }
    result->status = CAIRN_USAGE;
}

static void count_verb(struct cairn *cairn, enum cairn_verb verb)
{
    uint64_t *counters[] = {
        [CAIRN_GET] = &cairn->counts.gets,         [CAIRN_GET_META] = &cairn->counts.get_metas,
        [CAIRN_PUT] = &cairn->counts.puts,         [CAIRN_DELETE] = &cairn->counts.deletes,
        [CAIRN_SETATTR] = &cairn->counts.setattrs,
    };
    ++*counters[verb];
}

static void apply(struct cairn *cairn, const struct cairn_request *request,
                  struct cairn_result *result)
{
    *result = (struct cairn_result){ 0 };
    result->status = check_request(request);
    if (result->status != 0) {
        return;
    }
    count_verb(cairn, request->verb);
    if (cairn->hook != NULL) {
        cairn->hook(cairn->hook_ctx, request);
    }
    bool fails = take_failure(cairn);
    if (!fails || cairn->fail_applied) {
        apply_verb(cairn, request, result);
    }
    if (fails) {
        cairn_result_free(result);
        result->status = cairn->fail_code;
    }
    if (result->status != 0) {
        snprintf(cairn->last_error, sizeof cairn->last_error, "%s",
                 cairn_error(result->status)->text);
    }
}

/* --- Handles */

int cairn_open(const struct cairn_options *options, struct cairn **out, char *error_text)
{
    if (options->endpoints != NULL && strchr(options->endpoints, ':') == NULL) {
        if (error_text != NULL) {
            snprintf(error_text, 256, "endpoint without a port: %s", options->endpoints);
        }
        return CAIRN_USAGE;
    }
    struct cairn *cairn = must(calloc(1, sizeof *cairn));
    cairn->store = must(calloc(1, sizeof *cairn->store));
    cairn->store->references = 1;
    cairn->last = &cairn->first;
    cairn->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    cairn->timeout_ms = options->timeout_ms != 0 ? options->timeout_ms : 5000;
    *out = cairn;
    return 0;
}

struct cairn *fake_cairn_share(struct cairn *cairn)
{
    struct cairn *other = NULL;
    cairn_open(&(struct cairn_options){ .timeout_ms = cairn->timeout_ms }, &other, NULL);
    store_unref(other->store);
    other->store = cairn->store;
    other->store->references++;
    return other;
}

static void pending_free(struct pending *pending)
{
    for (size_t i = 0; i < pending->count; i++) {
        free((void *)pending->requests[i].key);
        free((void *)pending->requests[i].value);
    }
    free(pending->requests);
    free(pending);
}

static struct pending *pending_take_first(struct cairn *cairn)
{
    struct pending *pending = cairn->first;
    cairn->first = pending->next;
    if (cairn->first == NULL) {
        cairn->last = &cairn->first;
    }
    return pending;
}

static void pending_finish(struct cairn *cairn, struct pending *pending);

void cairn_close(struct cairn *cairn)
{
    if (cairn == NULL) {
        return;
    }
    while (cairn->first != NULL) {
        struct pending *pending = pending_take_first(cairn);
        pending->is_cancelled = true;
        pending_finish(cairn, pending);
    }
    store_unref(cairn->store);
    close(cairn->event_fd);
    free(cairn);
}

const char *cairn_last_error(const struct cairn *cairn)
{
    return cairn->last_error;
}

/* --- Blocking face */

static bool would_time_out(const struct cairn *cairn, uint32_t timeout_ms)
{
    return cairn->delay_ms > (timeout_ms != 0 ? timeout_ms : cairn->timeout_ms);
}

int cairn_call(struct cairn *cairn, const struct cairn_request *request,
               struct cairn_result *result)
{
    if (would_time_out(cairn, request->timeout_ms)) {
        *result = (struct cairn_result){ .status = CAIRN_TIMEOUT };
        return CAIRN_TIMEOUT;
    }
    apply(cairn, request, result);
    return result->status;
}

static bool is_answer(int status)
{
    return status == 0 || status == CAIRN_NOT_FOUND || status == CAIRN_EXISTS ||
           status == CAIRN_CONDITION_FAILED;
}

int cairn_call_many(struct cairn *cairn, const struct cairn_request *requests, size_t count,
                    struct cairn_result *results)
{
    int status = 0;
    for (size_t i = 0; i < count; i++) {
        int one = cairn_call(cairn, &requests[i], &results[i]);
        if (status == 0 && !is_answer(one)) {
            status = one;
        }
    }
    return status;
}

void cairn_result_free(struct cairn_result *result)
{
    free((void *)result->value);
    *result = (struct cairn_result){ 0 };
}

void *cairn_result_take_value(struct cairn_result *result)
{
    void *value = (void *)result->value;
    result->value = NULL;
    result->value_size = 0;
    return value;
}

/* --- Event-driven face */

static void ring(struct cairn *cairn)
{
    uint64_t one = 1;
    if (write(cairn->event_fd, &one, sizeof one) < 0 && errno != EAGAIN) {
        abort();
    }
}

static struct pending *enqueue(struct cairn *cairn, uint32_t timeout_ms, void *arg)
{
    struct pending *pending = must(calloc(1, sizeof *pending));
    uint32_t limit_ms = timeout_ms != 0 ? timeout_ms : cairn->timeout_ms;
    pending->is_timed_out = cairn->delay_ms > limit_ms;
    uint64_t wait_ms = pending->is_timed_out ? limit_ms : cairn->delay_ms;
    pending->due_us = now_us(CLOCK_MONOTONIC) + wait_ms * 1000;
    pending->id = ++cairn->next_id;
    pending->arg = arg;
    *cairn->last = pending;
    cairn->last = &pending->next;
    if (wait_ms == 0) {
        ring(cairn);
    }
    return pending;
}

static void pending_copy(struct pending *pending, const struct cairn_request *requests,
                         size_t count)
{
    pending->requests = must(calloc(count + 1, sizeof *requests));
    pending->count = count;
    for (size_t i = 0; i < count; i++) {
        pending->requests[i] = requests[i];
        pending->requests[i].key = copy(requests[i].key, requests[i].key_size);
        pending->requests[i].value = copy(requests[i].value, requests[i].value_size);
    }
}

int cairn_submit(struct cairn *cairn, const struct cairn_request *request, cairn_done done,
                 void *arg, uint64_t *id)
{
    int wrong = check_request(request);
    if (wrong != 0) {
        return wrong;
    }
    struct pending *pending = enqueue(cairn, request->timeout_ms, arg);
    pending_copy(pending, request, 1);
    pending->done = done;
    if (id != NULL) {
        *id = pending->id;
    }
    return 0;
}

int cairn_submit_many(struct cairn *cairn, const struct cairn_request *requests, size_t count,
                      cairn_done_many done, void *arg, uint64_t *id)
{
    for (size_t i = 0; i < count; i++) {
        int wrong = check_request(&requests[i]);
        if (wrong != 0) {
            return wrong;
        }
    }
    struct pending *pending = enqueue(cairn, count > 0 ? requests[0].timeout_ms : 0, arg);
    pending_copy(pending, requests, count);
    pending->done_many = done;
    if (id != NULL) {
        *id = pending->id;
    }
    return 0;
}

void cairn_cancel(struct cairn *cairn, uint64_t id)
{
    for (struct pending *pending = cairn->first; pending != NULL; pending = pending->next) {
        if (pending->id == id) {
            pending->is_cancelled = true;
            pending->due_us = 0;
            ring(cairn);
        }
    }
}

int cairn_fd(const struct cairn *cairn)
{
    return cairn->event_fd;
}

int cairn_timeout_ms(struct cairn *cairn)
{
    uint64_t now = now_us(CLOCK_MONOTONIC), soonest = UINT64_MAX;
    for (struct pending *pending = cairn->first; pending != NULL; pending = pending->next) {
        soonest = pending->due_us < soonest ? pending->due_us : soonest;
    }
    if (soonest == UINT64_MAX) {
        return -1;
    }
    return soonest <= now ? 0 : (int)((soonest - now + 999) / 1000);
}

static void scan_fill(struct cairn_scan *scan);

static void pending_finish_requests(struct cairn *cairn, struct pending *pending)
{
    struct cairn_result *results = must(calloc(pending->count + 1, sizeof *results));
    for (size_t i = 0; i < pending->count; i++) {
        if (pending->is_cancelled || pending->is_timed_out) {
            results[i].status = pending->is_cancelled ? CAIRN_CANCELLED : CAIRN_TIMEOUT;
        } else {
            apply(cairn, &pending->requests[i], &results[i]);
        }
    }
    if (pending->done_many != NULL) {
        pending->done_many(pending->arg, results, pending->count);
    } else {
        pending->done(pending->arg, &results[0]);
    }
    for (size_t i = 0; i < pending->count; i++) {
        cairn_result_free(&results[i]);
    }
    free(results);
}

static void pending_finish(struct cairn *cairn, struct pending *pending)
{
    if (pending->scan_done != NULL && pending->scan != NULL) {
        struct cairn_scan *scan = pending->scan;
        scan->fetch = NULL;
        if (pending->is_cancelled || pending->is_timed_out) {
            scan->status = pending->is_cancelled ? CAIRN_CANCELLED : CAIRN_TIMEOUT;
        } else {
            scan_fill(scan);
        }
        pending->scan_done(pending->arg, scan->status);
    } else if (pending->scan_done == NULL) {
        pending_finish_requests(cairn, pending);
    }
    pending_free(pending);
}

/* What is due goes first into a list of its own, so that what callbacks submit waits for the next
 * step. */
int cairn_step(struct cairn *cairn)
{
    uint64_t drained, now = now_us(CLOCK_MONOTONIC);
    if (read(cairn->event_fd, &drained, sizeof drained) < 0 && errno != EAGAIN) {
        abort();
    }
    struct pending *due = NULL, **due_last = &due;
    for (struct pending **at = &cairn->first; *at != NULL;) {
        struct pending *pending = *at;
        if (pending->due_us > now) {
            at = &pending->next;
            continue;
        }
        *at = pending->next;
        pending->next = NULL;
        *due_last = pending;
        due_last = &pending->next;
    }
    cairn->last = &cairn->first;
    while (*cairn->last != NULL) {
        cairn->last = &(*cairn->last)->next;
    }
    int count = 0;
    while (due != NULL) {
        struct pending *pending = due;
        due = pending->next;
        pending_finish(cairn, pending);
        count++;
    }
    return count;
}

/* --- Scans */

int cairn_scan_open(struct cairn *cairn, const struct cairn_scan_options *options,
                    struct cairn_scan **out)
{
    if (options->consistency != CAIRN_LINEARIZABLE) {
        return CAIRN_UNSUPPORTED;
    }
    struct cairn_scan *scan = must(calloc(1, sizeof *scan));
    scan->cairn = cairn;
    scan->options = *options;
    scan->from = copy(options->from, options->from_size);
    scan->to = copy(options->to, options->to_size);
    scan->prefix = copy(options->prefix, options->prefix_size);
    *out = scan;
    return 0;
}

static bool scan_wants(const struct cairn_scan *scan, const struct item *item)
{
    const struct cairn_scan_options *o = &scan->options;
    if (item->key_size < o->prefix_size || memcmp(item->key, scan->prefix, o->prefix_size) != 0) {
        return false;
    }
    if (compare(item->key, item->key_size, scan->from, o->from_size) < 0) {
        return false;
    }
    if (o->to_size > 0 && compare(item->key, item->key_size, scan->to, o->to_size) >= 0) {
        return false;
    }
    if (scan->has_resume) {
        int order = compare(item->key, item->key_size, scan->resume, scan->resume_size);
        return o->reverse ? order < 0 : order > 0;
    }
    return true;
}

static void scan_drop_page(struct cairn_scan *scan)
{
    for (size_t i = 0; i < scan->page_count; i++) {
        item_fini(&scan->page[i]);
    }
    free(scan->page);
    scan->page = NULL;
    scan->page_count = scan->page_at = 0;
}

static void scan_take(struct cairn_scan *scan, const struct item *item)
{
    struct item *to = &scan->page[scan->page_count++];
    *to = *item;
    to->key = copy(item->key, item->key_size);
    to->value = copy(item->value, item->value_size);
    free(scan->resume);
    scan->resume = copy(item->key, item->key_size);
    scan->resume_size = item->key_size;
    scan->has_resume = true;
    scan->cairn->counts.scan_entries++;
}

/* Reads the next page. A page that isn't full is the last one. */
static void scan_fill(struct cairn_scan *scan)
{
    const struct store *store = scan->cairn->store;
    if (scan->page_at < scan->page_count || scan->is_end) {
        return;
    }
    scan_drop_page(scan);
    scan->cairn->counts.scan_pages++;
    if (take_failure(scan->cairn)) {
        scan->status = scan->cairn->fail_code;
        return;
    }
    size_t size = scan->options.page_entries != 0 ? scan->options.page_entries : PAGE_ENTRIES;
    scan->page = must(calloc(size, sizeof *scan->page));
    for (size_t i = 0; i < store->count && scan->page_count < size; i++) {
        const struct item *item = &store->items[scan->options.reverse ? store->count - 1 - i : i];
        if (scan_wants(scan, item) && !is_expired(item)) {
            scan_take(scan, item);
        }
    }
    scan->is_end = scan->page_count < size;
}

int cairn_scan_try(struct cairn_scan *scan, struct cairn_entry *entry)
{
    const struct cairn_scan_options *o = &scan->options;
    if (scan->status != 0) {
        return scan->status;
    }
    if (o->limit != 0 && scan->given == o->limit) {
        return 0;
    }
    if (scan->page_at == scan->page_count) {
        return scan->is_end ? 0 : CAIRN_BUSY;
    }
    const struct item *item = &scan->page[scan->page_at++];
    scan->given++;
    *entry = (struct cairn_entry){ .key = item->key, .key_size = item->key_size };
    if (!o->keys_only) {
        entry->meta = item->meta;
    }
    if (!o->keys_only && !o->meta_only) {
        entry->value = item->value;
        entry->value_size = item->value_size;
    }
    return 1;
}

int cairn_scan_next(struct cairn_scan *scan, struct cairn_entry *entry)
{
    int status;
    while ((status = cairn_scan_try(scan, entry)) == CAIRN_BUSY) {
        if (would_time_out(scan->cairn, scan->options.timeout_ms)) {
            scan->status = CAIRN_TIMEOUT;
        } else {
            scan_fill(scan);
        }
    }
    return status;
}

int cairn_scan_fetch(struct cairn_scan *scan, void (*done)(void *arg, int status), void *arg)
{
    if (scan->fetch != NULL) {
        return CAIRN_USAGE;
    }
    scan->fetch = enqueue(scan->cairn, scan->options.timeout_ms, arg);
    scan->fetch->scan = scan;
    scan->fetch->scan_done = done;
    return 0;
}

void cairn_scan_close(struct cairn_scan *scan)
{
    if (scan->fetch != NULL) {
        scan->fetch->scan = NULL;
    }
    scan_drop_page(scan);
    free(scan->resume);
    free(scan->from);
    free(scan->to);
    free(scan->prefix);
    free(scan);
}

/* --- Cluster */

int cairn_status_json(struct cairn *cairn, const char *node, char **out)
{
    (void)node;
    *out = must(malloc(64));
    snprintf(*out, 64, "{\"fake\":true,\"keys\":%zu}", cairn->store->count);
    return 0;
}

void cairn_stats(const struct cairn *cairn, struct cairn_stats *out)
{
    const struct fake_cairn_counts *c = &cairn->counts;
    *out = (struct cairn_stats){ .requests = c->gets + c->get_metas + c->puts + c->deletes +
                                             c->setattrs + c->scan_pages };
}

const char *cairn_locate(struct cairn *cairn, const void *key, size_t key_size)
{
    (void)cairn;
    (void)key;
    (void)key_size;
    return "fake";
}

/* --- Knobs */

void fake_cairn_fail(struct cairn *cairn, unsigned skip, unsigned count, int code, bool applied)
{
    cairn->fail_skip = skip;
    cairn->fail_count = count;
    cairn->fail_code = code;
    cairn->fail_applied = applied;
}

void fake_cairn_delay_ms(struct cairn *cairn, unsigned delay_ms)
{
    cairn->delay_ms = delay_ms;
}

void fake_cairn_hook(struct cairn *cairn,
                     void (*hook)(void *ctx, const struct cairn_request *request), void *ctx)
{
    cairn->hook = hook;
    cairn->hook_ctx = ctx;
}

void fake_cairn_counts(const struct cairn *cairn, struct fake_cairn_counts *out)
{
    *out = cairn->counts;
}

size_t fake_cairn_keys(const struct cairn *cairn)
{
    return cairn->store->count;
}

size_t fake_cairn_pending(const struct cairn *cairn)
{
    size_t count = 0;
    for (const struct pending *pending = cairn->first; pending != NULL; pending = pending->next) {
        count++;
    }
    return count;
}
