/* The public face: cairn.h over the heart (core.h) and the sockets. The blocking calls are the
 * event-driven ones and a loop: step, done?, wait. Callbacks of other requests on the same handle
 * may come meanwhile. */
#include "client/cairn.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/mem.h"
#include "client/core.h"
#include "client/sockets.h"
#include "client/status.h"

enum { TIMEOUT_DEFAULT_MS = 5000 };

_Static_assert((int)CAIRN_KEY_BYTES_MAX == (int)LIMIT_KEY_BYTES &&
                   (int)CAIRN_VALUE_BYTES_MAX == (int)LIMIT_VALUE_BYTES,
               "the header tells the limits");
_Static_assert((int)CAIRN_NOT_FOUND == (int)ERR_NOT_FOUND &&
                   (int)CAIRN_UNKNOWN_OUTCOME == (int)ERR_UNKNOWN_OUTCOME &&
                   (int)CAIRN_CONNECT == (int)ERR_CONNECT &&
                   (int)CAIRN_STORE_FULL == (int)ERR_STORE_FULL &&
                   (int)CAIRN_LIMIT == (int)ERR_LIMIT && (int)CAIRN_CANCELLED == (int)ERR_CANCELLED,
               "the header's codes are the table's");

struct cairn {
    struct core *core;
    struct sockets *sockets;
    int (*wait)(void *ctx, int fd, int timeout_ms);
    void *wait_ctx;
    uint32_t timeout_ms;
    char located[256];
};

struct cairn_scan {
    struct cairn *cairn;
    struct core_scan *scan;
};

const struct cairn_error_info *cairn_error(int code)
{
#define ERROR(name, number, retry, http, errno_, sqlstate, exit, text)                             \
    static const struct cairn_error_info info_##name = {                                           \
        #name, text, sqlstate, errno_, exit, ERR_RETRY_##retry == ERR_RETRY_SAFE                   \
    };
#include "tbl/errors.def"
#undef ERROR
    static const struct cairn_error_info info_none = { "OK", "done", "00000", 0, 0, false };
    switch (code) {
    case 0:
        return &info_none;
#define ERROR(name, number, retry, http, errno_, sqlstate, exit, text)                             \
    case name:                                                                                     \
        return &info_##name;
#include "tbl/errors.def"
#undef ERROR
    default:
        return &info_ERR_INTERNAL;
    }
}

/* --- Handles */

static int open_parts(struct cairn *cairn, const struct cairn_options *options, struct err *err)
{
    struct core_options core_options = {
        .endpoints = options && options->endpoints && options->endpoints[0] ? options->endpoints
                                                                            : "127.0.0.1:7400",
        .program = options && options->program ? options->program : "client",
        .timeout_ms = cairn->timeout_ms,
        .beside = options && options->beside ? options->beside->core : NULL,
    };
    int status = sockets_random(core_options.seed, sizeof core_options.seed, err);
    if (status == 0) {
        struct cairn *beside = options ? options->beside : NULL;
        status = sockets_open(beside ? beside->sockets : NULL, &cairn->sockets, err);
    }
    if (status == 0) {
        status = core_open(&core_options, &sockets_transport, cairn->sockets, sockets_now_us(),
                           &cairn->core, err);
    }
    if (status == 0) {
        sockets_attach(cairn->sockets, cairn->core);
    }
    return status;
}

int cairn_open(const struct cairn_options *options, struct cairn **out, char *error_text)
{
    struct err err = { 0 };
    struct cairn *cairn = MEM_TRY_NEW(NULL, struct cairn);
    if (!cairn) {
        if (error_text) {
            snprintf(error_text, sizeof err.text, "out of memory");
        }
        return ERR_NO_MEMORY;
    }
    cairn->timeout_ms = options && options->timeout_ms ? options->timeout_ms : TIMEOUT_DEFAULT_MS;
    cairn->wait = options ? options->wait : NULL;
    cairn->wait_ctx = options ? options->wait_ctx : NULL;
    int status = open_parts(cairn, options, &err);
    if (status) {
        if (error_text) {
            snprintf(error_text, sizeof err.text, "%s", err.text);
        }
        if (cairn->sockets) {
            sockets_close(cairn->sockets);
        }
        mem_free(cairn);
        return status;
    }
    *out = cairn;
    return 0;
}

void cairn_close(struct cairn *cairn)
{
    core_close(cairn->core);
    sockets_close(cairn->sockets);
    mem_free(cairn);
}

const char *cairn_last_error(const struct cairn *cairn)
{
    return core_last_error(cairn->core);
}

void cairn_stats(const struct cairn *cairn, struct cairn_stats *out)
{
    core_stats(cairn->core, out);
}

/* --- Event-driven */

int cairn_submit(struct cairn *cairn, const struct cairn_request *request, cairn_done done,
                 void *arg, uint64_t *id)
{
    sockets_touch(cairn->sockets);
    return core_submit(cairn->core, request, done, arg, sockets_now_us(), id);
}

int cairn_submit_many(struct cairn *cairn, const struct cairn_request *requests, size_t count,
                      cairn_done_many done, void *arg, uint64_t *id)
{
    sockets_touch(cairn->sockets);
    return core_submit_many(cairn->core, requests, count, done, arg, sockets_now_us(), id);
}

void cairn_cancel(struct cairn *cairn, uint64_t id)
{
    sockets_touch(cairn->sockets);
    core_cancel(cairn->core, id);
}

int cairn_fd(const struct cairn *cairn)
{
    return sockets_fd(cairn->sockets);
}

/* How long may be waited at most; -1: no limit. */
static int64_t timeout_us(struct cairn *cairn)
{
    uint64_t due = sockets_due_us(cairn->sockets);
    if (due == UINT64_MAX) {
        return -1;
    }
    uint64_t now = due ? sockets_now_us() : 0;
    return due > now ? (int64_t)(due - now) : 0;
}

int cairn_timeout_ms(struct cairn *cairn)
{
    int64_t us = timeout_us(cairn);
    int64_t ms = us < 0 ? -1 : (us + 999) / 1000;
    return ms < INT32_MAX ? (int)ms : INT32_MAX;
}

int cairn_step(struct cairn *cairn)
{
    sockets_poll(cairn->sockets, 0);
    sockets_touch(cairn->sockets);
    return sockets_step(cairn->sockets);
}

/* What was submitted goes out before the wait. */
int cairn_run(struct cairn *cairn, uint64_t wait_us)
{
    int calls = timeout_us(cairn) == 0 ? sockets_step(cairn->sockets) : 0;
    int64_t most = timeout_us(cairn);
    int64_t wait = calls ? 0 : most < 0 || wait_us < (uint64_t)most ? (int64_t)wait_us : most;
    sockets_poll(cairn->sockets, wait);
    return calls + sockets_step(cairn->sockets);
}

/* --- Blocking */

/* One turn of a blocking call: sends, waits, receives. 0, or the wait hook's word to give up. */
static int cairn_turn(struct cairn *cairn, const bool *is_done)
{
    sockets_touch(cairn->sockets);
    sockets_step(cairn->sockets);
    if (*is_done) {
        return 0;
    }
    int timeout_ms = cairn_timeout_ms(cairn);
    if (!cairn->wait) {
        sockets_poll(cairn->sockets, timeout_ms < 0 ? -1 : (int64_t)timeout_ms * 1000);
        return 0;
    }
    int status =
        timeout_ms == 0 ? 0 : cairn->wait(cairn->wait_ctx, sockets_fd(cairn->sockets), timeout_ms);
    if (status == 0) {
        sockets_poll(cairn->sockets, 0);
    }
    return status < 0 ? status : 0;
}

/* Until *is_done; else the hook's word, after the request was forgotten. */
static int cairn_wait_for(struct cairn *cairn, const bool *is_done, uint64_t id)
{
    while (!*is_done) {
        int status = cairn_turn(cairn, is_done);
        if (status) {
            core_abandon(cairn->core, id);
            return status;
        }
    }
    return 0;
}

struct waiting {
    bool is_done;
    struct cairn_result *results;
    int status;
    char *text;
};

static void waiting_done(void *arg, struct cairn_result *results, size_t count)
{
    struct waiting *waiting = arg;
    waiting->is_done = true;
    memcpy(waiting->results, results, count * sizeof *results);
    memset(results, 0, count * sizeof *results); /* the values are ours now */
}

static void waiting_done_one(void *arg, struct cairn_result *result)
{
    waiting_done(arg, result, 1);
}

int cairn_call(struct cairn *cairn, const struct cairn_request *request,
               struct cairn_result *result)
{
    struct waiting waiting = { .results = result };
    uint64_t id;
    memset(result, 0, sizeof *result);
    int status = cairn_submit(cairn, request, waiting_done_one, &waiting, &id);
    if (status == 0) {
        status = cairn_wait_for(cairn, &waiting.is_done, id);
    }
    if (status) {
        result->status = status;
    }
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
    struct waiting waiting = { .results = results };
    uint64_t id;
    memset(results, 0, count * sizeof *results);
    int status = cairn_submit_many(cairn, requests, count, waiting_done, &waiting, &id);
    if (status == 0) {
        status = cairn_wait_for(cairn, &waiting.is_done, id);
    }
    for (size_t i = 0; i < count; i++) {
        if (status && !waiting.is_done) {
            results[i].status = status;
        } else if (status == 0 && !is_answer(results[i].status)) {
            status = results[i].status;
        }
    }
    return status;
}

void cairn_result_free(struct cairn_result *result)
{
    free((void *)(uintptr_t)result->value);
    memset(result, 0, sizeof *result);
}

void *cairn_result_take_value(struct cairn_result *result)
{
    void *value = (void *)(uintptr_t)result->value;
    result->value = NULL;
    result->value_size = 0;
    return value;
}

/* --- Scans */

int cairn_scan_open(struct cairn *cairn, const struct cairn_scan_options *options,
                    struct cairn_scan **out)
{
    struct core_scan *scan;
    int status = core_scan_open(cairn->core, options, sockets_now_us(), &scan);
    if (status) {
        return status;
    }
    *out = MEM_TRY_NEW(NULL, struct cairn_scan);
    if (!*out) {
        core_scan_close(scan);
        return ERR_NO_MEMORY;
    }
    (*out)->cairn = cairn;
    (*out)->scan = scan;
    return 0;
}

int cairn_scan_try(struct cairn_scan *scan, struct cairn_entry *entry)
{
    sockets_touch(scan->cairn->sockets); /* it may want a page now */
    return core_scan_try(scan->scan, entry);
}

int cairn_scan_fetch(struct cairn_scan *scan, void (*done)(void *arg, int status), void *arg)
{
    sockets_touch(scan->cairn->sockets);
    return core_scan_fetch(scan->scan, done, arg, sockets_now_us());
}

static void scan_fetched(void *arg, int status)
{
    *(bool *)arg = true;
}

int cairn_scan_next(struct cairn_scan *scan, struct cairn_entry *entry)
{
    struct cairn *cairn = scan->cairn;
    for (;;) {
        int status = core_scan_try(scan->scan, entry);
        if (status == 1 && core_scan_wants_page(scan->scan)) {
            cairn_step(cairn); /* the nodes work on it while the caller does on what he has */
        }
        if (status != CAIRN_BUSY) {
            return status;
        }
        bool is_done = false;
        status = cairn_scan_fetch(scan, scan_fetched, &is_done);
        if (status) {
            return status; /* an event-driven fetch is under way: one face at a time */
        }
        while (!is_done) {
            status = cairn_turn(cairn, &is_done);
            if (status) {
                core_scan_fail(scan->scan, status);
                return status;
            }
        }
    }
}

uint64_t cairn_scan_staleness_ms(const struct cairn_scan *scan)
{
    return core_scan_staleness_ms(scan->scan);
}

void cairn_scan_close(struct cairn_scan *scan)
{
    core_scan_close(scan->scan);
    mem_free(scan);
}

/* --- Cluster */

static void topology_done(void *arg, int status, const struct frame *frame)
{
    struct waiting *waiting = arg;
    waiting->is_done = true;
    waiting->status = status;
}

static int cairn_need_topology(struct cairn *cairn)
{
    if (core_topology(cairn->core)) {
        return 0;
    }
    struct waiting waiting = { 0 };
    uint64_t id;
    int status = core_want_topology(cairn->core, topology_done, &waiting, 0, sockets_now_us(), &id);
    if (status == 0) {
        status = cairn_wait_for(cairn, &waiting.is_done, id);
    }
    return status ? status : waiting.status;
}

const char *cairn_locate(struct cairn *cairn, const void *key, size_t key_size)
{
    cairn->located[0] = '\0';
    if (key_size == 0 || key_size > LIMIT_KEY_BYTES || cairn_need_topology(cairn)) {
        return cairn->located;
    }
    const struct topology *topology = core_topology(cairn->core);
    uint64_t id = core_primary(cairn->core, topology_locate(topology, span_of(key, key_size)));
    const struct topology_node *node = id ? topology_find_node(topology, id) : NULL;
    if (node) {
        snprintf(cairn->located, sizeof cairn->located, "%s", node->name);
    }
    return cairn->located;
}

static void status_done(void *arg, int status, const struct frame *frame)
{
    struct waiting *waiting = arg;
    waiting->is_done = true;
    waiting->status = status;
    if (frame) {
        struct buf out = { 0 };
        waiting->status = status_node_json(frame->message, &out);
        waiting->text = (char *)out.data;
    }
}

/* Asks one node; *out is its JSON object, without an end mark problem: it is a C string of its own.
 */
static int status_ask(struct cairn *cairn, const char *node, char **out)
{
    struct waiting waiting = { 0 };
    uint64_t id;
    int status =
        core_ask(cairn->core, node, VERB_STATUS, status_done, &waiting, 0, sockets_now_us(), &id);
    if (status == 0) {
        status = cairn_wait_for(cairn, &waiting.is_done, id);
    }
    if (status == 0) {
        status = waiting.status;
        *out = waiting.text;
    }
    return status;
}

/* All nodes are asked at once; those that don't answer are named with their error. */
static int status_ask_all(struct cairn *cairn, struct buf *out)
{
    size_t count = core_topology(cairn->core)->node_count;
    struct waiting *waiting = mem_zalloc(count * sizeof *waiting);
    uint64_t *ids = mem_zalloc(count * sizeof *ids);
    struct topology *topology =
        topology_ref((struct topology *)(uintptr_t)core_topology(cairn->core));
    for (size_t i = 0; i < count; i++) {
        const char *name = topology->nodes[i].name;
        waiting[i].status = core_ask(cairn->core, name, VERB_STATUS, status_done, &waiting[i], 0,
                                     sockets_now_us(), &ids[i]);
        waiting[i].is_done = waiting[i].status != 0;
    }
    int status = 0;
    for (size_t i = 0; i < count; i++) {
        if (status == 0) {
            status = cairn_wait_for(cairn, &waiting[i].is_done, ids[i]);
        } else {
            core_abandon(cairn->core, ids[i]);
        }
    }
    if (status == 0) {
        buf_printf(out, ",\"nodes\":[");
        for (size_t i = 0; i < count; i++) {
            buf_printf(out, "%s", i ? "," : "");
            if (waiting[i].status) {
                status_absent_json(&topology->nodes[i], waiting[i].status, out);
            } else {
                buf_printf(out, "%s", waiting[i].text);
            }
        }
        buf_printf(out, "]");
    }
    for (size_t i = 0; i < count; i++) {
        free(waiting[i].text);
    }
    topology_unref(topology);
    mem_free(ids);
    mem_free(waiting);
    return status;
}

int cairn_status_json(struct cairn *cairn, const char *node, char **out)
{
    if (node) {
        /* A name needs the topology; an address does not. */
        int needed = strchr(node, ':') ? 0 : cairn_need_topology(cairn);
        return needed ? needed : status_ask(cairn, node, out);
    }
    int status = cairn_need_topology(cairn);
    if (status) {
        return status;
    }
    struct buf text = { 0 };
    status_topology_json(cairn->core, &text);
    status = status_ask_all(cairn, &text);
    if (status) {
        buf_fini(&text);
        return status;
    }
    buf_append(&text, "}", 2);
    *out = (char *)text.data;
    return 0;
}
