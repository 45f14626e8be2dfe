/* A cluster of nothing but memory and virtual time, spoken to through the core's transport: three
 * nodes over one store that deduplicates sessions, each doing what a node does unless a test's rule
 * says otherwise. */
#ifndef T_CLIENT_FAKE_CLUSTER_H
#define T_CLIENT_FAKE_CLUSTER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/check.h"
#include "base/hash.h"
#include "base/hashtab.h"
#include "base/hlc.h"
#include "base/mem.h"
#include "client/core.h"
#include "cluster/placement.h"
#include "proto/client.pb-c.h"
#include "wire/frame.h"
#include "wire/gets_page.h"
#include "wire/scan_page.h"

#pragma GCC diagnostic ignored "-Wunused-function"

enum {
    FAKE_NODES = 3,
    FAKE_LINKS = 4096,
    FAKE_PARTITIONS = 16,
    FAKE_KEYS = 20000,
    FAKE_LATENCY_US = 1000
};

/* What a node does with a request: the rule of a test decides. A negative value: answers that
 * status. */
enum fake_action { FAKE_SERVE, FAKE_DROP, FAKE_CLOSE, FAKE_SERVE_AND_CLOSE, FAKE_GARBAGE };

struct fake;
typedef int (*fake_rule)(struct fake *fake, int node, const struct frame *frame);

struct fake_write {
    uint64_t session, number, lowest, client_time;
    char key[512];
};

struct fake_key {
    char key[512];
    size_t key_size, value_size;
    uint8_t *value;
    uint64_t version;
};

struct fake_event {
    uint64_t at_us, order;
    int kind; /* 0 connected, 1 refused, 2 bytes, 3 closed */
    uint64_t link;
    struct buf bytes;
};

struct fake_link {
    int node; /* -1: unknown address */
    bool is_open;
    struct buf in;
};

struct fake {
    struct core *core;
    uint64_t now_us, random, order;
    struct topology *topology;
    int leaders[FAKE_PARTITIONS + 1]; /* by group: node or -1 */
    bool is_down[FAKE_NODES], forwards, tells_hints;
    uint64_t time;
    uint8_t cluster_ids[FAKE_NODES][16];
    size_t chunk; /* bytes are delivered in pieces of this size; 0: whole */
    fake_rule rule;
    int rule_state;
    struct fake_link links[FAKE_LINKS];
    struct fake_event *events;
    size_t event_count, event_capacity;
    struct fake_key *keys; /* sorted */
    size_t key_count;
    uint64_t next_version;
    struct hashtab sessions; /* number to version of what was applied (one session) */
    struct fake_write *writes;
    size_t write_count;
    int asked[FAKE_NODES], frames[256], applied;
    uint32_t gets_count_max; /* of gets in one frame */
    bool refuses_pages;      /* a refusal is of a whole frame of gets, as of one that is malformed */
    bool gets_alone;         /* some of them are answered by frames of their own */
    uint32_t multi_count_max, scan_bytes;
    uint64_t scan_staleness_ms; /* of the next pages */
    size_t multi_bytes_max;
    int (*operation_rule)(struct fake *fake, struct span key);
    void (*on_operation)(struct fake *fake, struct span key, bool is_write);
};

static uint64_t fake_random(struct fake *fake)
{
    return hash_u64(fake->random++);
}

/* --- Events */

static struct fake_event *fake_schedule(struct fake *fake, uint64_t delay_us, int kind,
                                        uint64_t link)
{
    if (fake->event_count == fake->event_capacity) {
        fake->event_capacity = fake->event_capacity ? fake->event_capacity * 2 : 64;
        fake->events = mem_realloc(fake->events, fake->event_capacity * sizeof *fake->events);
    }
    struct fake_event *event = &fake->events[fake->event_count++];
    *event = (struct fake_event){ fake->now_us + delay_us, fake->order++, kind, link, { 0 } };
    return event;
}

static void fake_connect(void *ctx, uint64_t link, const char *address)
{
    struct fake *fake = ctx;
    assert_true(link < FAKE_LINKS);
    int node = -1;
    for (int i = 0; i < FAKE_NODES; i++) {
        if (strcmp(address, fake->topology->nodes[i].address) == 0) {
            node = i;
        }
    }
    bool is_up = node >= 0 && !fake->is_down[node];
    fake->links[link] = (struct fake_link){ node, is_up, { 0 } };
    fake_schedule(fake, FAKE_LATENCY_US, is_up ? 0 : 1, link);
}

static void fake_close(void *ctx, uint64_t link)
{
    ((struct fake *)ctx)->links[link].is_open = false;
}

static void fake_hang_up(struct fake *fake, uint64_t link)
{
    fake->links[link].is_open = false;
    fake_schedule(fake, FAKE_LATENCY_US, 3, link);
}

/* The node's process dies: its connections break. */
static void fake_kill(struct fake *fake, int node)
{
    fake->is_down[node] = true;
    for (uint64_t i = 0; i < FAKE_LINKS; i++) {
        if (fake->links[i].is_open && fake->links[i].node == node) {
            fake_hang_up(fake, i);
        }
    }
}

/* --- The store */

static struct fake_key *fake_find(struct fake *fake, struct span key, size_t *at)
{
    size_t low = 0, high = fake->key_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        struct fake_key *entry = &fake->keys[middle];
        int order = span_compare(span_of(entry->key, entry->key_size), key);
        if (order == 0) {
            *at = middle;
            return entry;
        }
        if (order < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    *at = low;
    return NULL;
}

static uint64_t fake_store(struct fake *fake, struct span key, struct span value)
{
    size_t at;
    struct fake_key *entry = fake_find(fake, key, &at);
    if (!entry) {
        assert_true(fake->key_count < FAKE_KEYS);
        memmove(&fake->keys[at + 1], &fake->keys[at], (fake->key_count - at) * sizeof *fake->keys);
        fake->key_count++;
        entry = &fake->keys[at];
        *entry = (struct fake_key){ .key_size = key.size };
        memcpy(entry->key, key.data, key.size);
    }
    mem_free(entry->value);
    entry->value = mem_dup(value.data, value.size);
    entry->value_size = value.size;
    entry->version = ++fake->next_version;
    return entry->version;
}

static bool fake_remove(struct fake *fake, struct span key)
{
    size_t at;
    struct fake_key *entry = fake_find(fake, key, &at);
    if (!entry) {
        return false;
    }
    mem_free(entry->value);
    memmove(entry, entry + 1, (fake->key_count - at - 1) * sizeof *entry);
    fake->key_count--;
    return true;
}

/* --- Serving */

/* message: NULL: none */
static void fake_answer(struct fake *fake, uint64_t link, const struct frame *request, int status,
                        uint16_t flags, const ProtobufCMessage *message, struct span payload)
{
    size_t size = message ? protobuf_c_message_get_packed_size(message) : 0;
    uint8_t *packed = mem_alloc(size + 1);
    if (message) {
        protobuf_c_message_pack(message, packed);
    }
    struct frame frame = { .type = FRAME_RESPONSE,
                           .verb = request->verb,
                           .request_id = request->request_id,
                           .status = status,
                           .flags = flags,
                           .epoch = fake->topology->epoch,
                           .time = ++fake->time,
                           .message = span_of(packed, size),
                           .payload = payload };
    if (request->type == FRAME_HELLO) {
        frame.type = FRAME_HELLO_OK;
    }
    struct buf out = { 0 };
    frame_pack_head(&frame, &out);
    buf_append_span(&out, payload);
    mem_free(packed);
    size_t chunk = fake->chunk ? fake->chunk : out.size;
    for (size_t at = 0; at < out.size; at += chunk) {
        size_t piece = out.size - at < chunk ? out.size - at : chunk;
        buf_append(&fake_schedule(fake, FAKE_LATENCY_US, 2, link)->bytes, out.data + at, piece);
    }
    buf_fini(&out);
}

static void fake_refuse(struct fake *fake, uint64_t link, const struct frame *request, int status,
                        uint32_t group)
{
    Cairn__V1__ErrorInfo info = CAIRN__V1__ERROR_INFO__INIT;
    Cairn__V1__Hint hint = CAIRN__V1__HINT__INIT;
    hint.group = group;
    hint.node_id =
        group && fake->leaders[group] >= 0 ? fake->topology->nodes[fake->leaders[group]].id : 0;
    info.text = (char *)"refused by the fake";
    info.hint = group ? &hint : NULL;
    fake_answer(fake, link, request, status, 0, &info.base, span_of(NULL, 0));
}

static uint32_t fake_group(const struct fake *fake, struct span key)
{
    return fake->topology->partitions[topology_locate(fake->topology, key)].group;
}

static void fake_hello(struct fake *fake, uint64_t link, int node, const struct frame *request)
{
    Cairn__V1__Hello hello = CAIRN__V1__HELLO__INIT;
    hello.protocol_min = hello.protocol_max = FRAME_VERSION;
    hello.cluster_id = (ProtobufCBinaryData){ 16, fake->cluster_ids[node] };
    hello.node_id = fake->topology->nodes[node].id;
    hello.time = fake->time;
    fake_answer(fake, link, request, 0, 0, &hello.base, span_of(NULL, 0));
}

static void fake_topology(struct fake *fake, uint64_t link, const struct frame *request)
{
    Cairn__V1__TopologyResponse response = CAIRN__V1__TOPOLOGY_RESPONSE__INIT;
    Cairn__V1__TopologyRequest *asked =
        cairn__v1__topology_request__unpack(NULL, request->message.size, request->message.data);
    struct buf packed = { 0 };
    Cairn__V1__Hint hints[FAKE_PARTITIONS], *pointers[FAKE_PARTITIONS];
    if (asked->epoch != fake->topology->epoch) {
        topology_pack(fake->topology, &packed);
    }
    for (uint32_t i = 0; i < FAKE_PARTITIONS; i++) {
        cairn__v1__hint__init(&hints[i]);
        hints[i].group = i + 1;
        hints[i].node_id =
            fake->leaders[i + 1] >= 0 ? fake->topology->nodes[fake->leaders[i + 1]].id : 0;
        pointers[i] = &hints[i];
    }
    response.topology = (ProtobufCBinaryData){ packed.size, packed.data };
    response.hints = pointers;
    response.n_hints = fake->tells_hints ? FAKE_PARTITIONS : 0;
    fake_answer(fake, link, request, 0, 0, &response.base, span_of(NULL, 0));
    cairn__v1__topology_request__free_unpacked(asked, NULL);
    buf_fini(&packed);
}

/* One operation as every door says it. */
struct fake_operation {
    int kind; /* Cairn__V1__Operation__Kind */
    struct span key, value;
    int condition;
    uint64_t version;
    const Cairn__V1__Session *session;
};

struct fake_outcome {
    int status;
    uint64_t version;
    bool existed;
    const struct fake_key *record;
};

static void fake_note_write(struct fake *fake, const struct fake_operation *operation)
{
    const Cairn__V1__Session *session = operation->session;
    assert_non_null(session);
    assert_true(session->number >= session->lowest);
    assert_true(session->number < session->lowest + LIMIT_SESSION_RESULTS);
    fake->writes = mem_realloc(fake->writes, (fake->write_count + 1) * sizeof *fake->writes);
    struct fake_write *write = &fake->writes[fake->write_count++];
    *write = (struct fake_write){ session->id_high ^ session->id_low, session->number,
                                  session->lowest, session->client_time, "" };
    memcpy(write->key, operation->key.data, operation->key.size);
    write->key[operation->key.size] = '\0';
}

static void fake_apply(struct fake *fake, const struct fake_operation *operation,
                       struct fake_outcome *out)
{
    size_t at;
    struct fake_key *found = fake_find(fake, operation->key, &at);
    uint64_t before =
        (uint64_t)(uintptr_t)hashtab_find(&fake->sessions, operation->session->number);
    if (before) { /* applied earlier: the same answer */
        out->version = before;
        out->existed = true;
        return;
    }
    if (operation->condition == CAIRN__V1__CONDITION__ABSENT && found) {
        *out = (struct fake_outcome){ ERR_EXISTS, found->version, false, NULL };
        return;
    }
    if (operation->condition == CAIRN__V1__CONDITION__VERSION &&
        (!found || found->version != operation->version)) {
        *out =
            (struct fake_outcome){ ERR_CONDITION_FAILED, found ? found->version : 0, false, NULL };
        return;
    }
    fake->applied++;
    if (operation->kind == CAIRN__V1__OPERATION__KIND__DELETE) {
        out->existed = fake_remove(fake, operation->key);
        out->version = ++fake->next_version;
    } else {
        out->version = fake_store(fake, operation->key, operation->value);
    }
    hashtab_put(&fake->sessions, operation->session->number, (void *)(uintptr_t)out->version);
}

static void fake_operate(struct fake *fake, int node, const struct fake_operation *operation,
                         struct fake_outcome *out)
{
    memset(out, 0, sizeof *out);
    bool is_read = operation->kind == CAIRN__V1__OPERATION__KIND__GET ||
                   operation->kind == CAIRN__V1__OPERATION__KIND__GET_META;
    if (fake->on_operation) {
        fake->on_operation(fake, operation->key, !is_read);
    }
    if (!is_read) {
        fake_note_write(fake, operation);
    }
    int leader = fake->leaders[fake_group(fake, operation->key)];
    out->status = fake->operation_rule ? fake->operation_rule(fake, operation->key) : 0;
    if (out->status == 0 && leader != node && (leader < 0 || !fake->forwards)) {
        out->status = leader < 0 ? ERR_UNAVAILABLE : ERR_NOT_PRIMARY;
    }
    if (out->status) {
        return;
    }
    size_t at;
    if (is_read) {
        out->record = fake_find(fake, operation->key, &at);
        out->status = out->record ? 0 : ERR_NOT_FOUND;
    } else {
        fake_apply(fake, operation, out);
    }
}

static void fake_meta(const struct fake_key *record, Cairn__V1__Meta *meta)
{
    cairn__v1__meta__init(meta);
    meta->version = record->version;
    meta->size = record->value_size;
    meta->time = hlc_from_us(1000000 + record->version);
}

static void fake_answer_single(struct fake *fake, uint64_t link, int node,
                               const struct frame *request, const struct fake_operation *operation)
{
    struct fake_outcome outcome;
    uint32_t group = fake_group(fake, operation->key);
    fake_operate(fake, node, operation, &outcome);
    Cairn__V1__Hint hint = CAIRN__V1__HINT__INIT;
    hint.group = group;
    hint.node_id = fake->leaders[group] >= 0 ? fake->topology->nodes[fake->leaders[group]].id : 0;
    bool is_condition = outcome.status == ERR_EXISTS || outcome.status == ERR_CONDITION_FAILED;
    if (outcome.status && !is_condition) {
        fake_refuse(fake, link, request, outcome.status, group);
    } else if (request->verb == VERB_GET) {
        Cairn__V1__GetResponse get = CAIRN__V1__GET_RESPONSE__INIT;
        Cairn__V1__Meta meta;
        fake_meta(outcome.record, &meta);
        get.meta = &meta;
        get.hint = fake->leaders[group] == node ? NULL : &hint; /* as nodes do */
        bool has_value = operation->kind == CAIRN__V1__OPERATION__KIND__GET;
        fake_answer(fake, link, request, 0, 0, &get.base,
                    span_of(outcome.record->value, has_value ? outcome.record->value_size : 0));
    } else if (request->verb == VERB_DELETE) {
        Cairn__V1__DeleteResponse delete = CAIRN__V1__DELETE_RESPONSE__INIT;
        delete.version = outcome.version;
        delete.existed = outcome.existed;
        delete.hint = &hint;
        fake_answer(fake, link, request, outcome.status, 0, &delete.base, span_of(NULL, 0));
    } else {
        Cairn__V1__PutResponse put = CAIRN__V1__PUT_RESPONSE__INIT;
        put.version = outcome.version;
        put.hint = &hint;
        fake_answer(fake, link, request, outcome.status, 0, &put.base, span_of(NULL, 0));
    }
}

static struct span fake_bytes(ProtobufCBinaryData data)
{
    return span_of(data.data, data.len);
}

static void fake_single(struct fake *fake, uint64_t link, int node, const struct frame *request)
{
    struct span m = request->message;
    struct fake_operation operation = { .value = request->payload };
    if (request->verb == VERB_GET) {
        Cairn__V1__GetRequest *get = cairn__v1__get_request__unpack(NULL, m.size, m.data);
        operation.kind =
            get->meta_only ? CAIRN__V1__OPERATION__KIND__GET_META : CAIRN__V1__OPERATION__KIND__GET;
        operation.key = fake_bytes(get->key);
        fake_answer_single(fake, link, node, request, &operation);
        cairn__v1__get_request__free_unpacked(get, NULL);
    } else if (request->verb == VERB_PUT) {
        Cairn__V1__PutRequest *put = cairn__v1__put_request__unpack(NULL, m.size, m.data);
        operation = (struct fake_operation){ CAIRN__V1__OPERATION__KIND__PUT,
                                             fake_bytes(put->key),
                                             request->payload,
                                             (int)put->condition,
                                             put->version,
                                             put->session };
        fake_answer_single(fake, link, node, request, &operation);
        cairn__v1__put_request__free_unpacked(put, NULL);
    } else {
        Cairn__V1__DeleteRequest *delete = cairn__v1__delete_request__unpack(NULL, m.size, m.data);
        operation = (struct fake_operation){ CAIRN__V1__OPERATION__KIND__DELETE,
                                             fake_bytes(delete->key),
                                             span_of(NULL, 0),
                                             (int)delete->condition,
                                             delete->version,
                                             delete->session };
        fake_answer_single(fake, link, node, request, &operation);
        cairn__v1__delete_request__free_unpacked(delete, NULL);
    }
}

/* As nodes do: what is found is answered together, by followers too; failures one by one. */
static void fake_gets(struct fake *fake, uint64_t link, int node, const struct frame *request)
{
    struct span page = request->payload;
    struct get_question question;
    struct frame one = *request;
    struct buf payload = { 0 };
    uint32_t count = 0;
    one.verb = VERB_GET;
    while (gets_page_next_question(&page, &one.request_id, &question)) {
        struct fake_operation operation = { .kind = question.meta_only
                                                        ? CAIRN__V1__OPERATION__KIND__GET_META
                                                        : CAIRN__V1__OPERATION__KIND__GET,
                                            .key = question.key };
        uint32_t group = fake_group(fake, question.key);
        int leader = fake->leaders[group];
        count++;
        if (fake->operation_rule || leader < 0 || (fake->gets_alone && count % 3 == 0)) {
            fake_answer_single(fake, link, leader < 0 ? node : leader, &one, &operation);
            continue;
        }
        struct fake_outcome outcome;
        Cairn__V1__Meta meta;
        fake_operate(fake, leader, &operation, &outcome);
        if (outcome.status) {
            fake_refuse(fake, link, &one, outcome.status, group);
            continue;
        }
        fake_meta(outcome.record, &meta);
        struct gets_page_answer answer = {
            .request_id = one.request_id,
            .get = { .version = meta.version,
                     .time = meta.time,
                     .size = meta.size,
                     .has_hint = leader != node,
                     .group = group,
                     .node_id = fake->topology->nodes[leader].id },
            .has_value = !question.meta_only,
            .value = span_of(outcome.record->value, outcome.record->value_size)
        };
        uint8_t *room = buf_extend(&payload, gets_page_answer_size(&answer));
        gets_page_answer(room, &answer);
    }
    assert_int_equal(page.size, 0);
    assert_in_range(count, 2, GETS_PAGE_QUESTIONS);
    fake->gets_count_max = count > fake->gets_count_max ? count : fake->gets_count_max;
    if (payload.size) {
        fake_answer(fake, link, request, 0, 0, NULL, buf_span(&payload));
    }
    buf_fini(&payload);
}

static void fake_multi(struct fake *fake, uint64_t link, int node, const struct frame *request)
{
    Cairn__V1__MultiRequest *multi =
        cairn__v1__multi_request__unpack(NULL, request->message.size, request->message.data);
    size_t count = multi->n_operations, at = 0;
    assert_true(count >= 1 && count <= LIMIT_MULTI_OPERATIONS);
    fake->multi_count_max = count > fake->multi_count_max ? (uint32_t)count : fake->multi_count_max;
    fake->multi_bytes_max = request->payload.size > fake->multi_bytes_max ? request->payload.size
                                                                          : fake->multi_bytes_max;
    Cairn__V1__MultiResponse response = CAIRN__V1__MULTI_RESPONSE__INIT;
    Cairn__V1__OperationResult *results = mem_zalloc(count * sizeof *results);
    Cairn__V1__Meta *metas = mem_zalloc(count * sizeof *metas);
    Cairn__V1__Hint *hints = mem_zalloc(count * sizeof *hints);
    response.results = mem_zalloc(count * sizeof *response.results);
    response.hints = mem_zalloc(count * sizeof *response.hints);
    struct buf payload = { 0 };
    for (size_t i = 0; i < count; i++) {
        const Cairn__V1__Operation *asked = multi->operations[i];
        struct fake_operation operation = { (int)asked->kind,
                                            fake_bytes(asked->key),
                                            span_of(request->payload.data + at, asked->value_size),
                                            (int)asked->condition,
                                            asked->version,
                                            asked->session };
        at += asked->value_size;
        struct fake_outcome outcome;
        fake_operate(fake, node, &operation, &outcome);
        cairn__v1__operation_result__init(&results[i]);
        results[i].status = outcome.status;
        results[i].version = outcome.version;
        results[i].existed = outcome.existed;
        if (outcome.record) {
            fake_meta(outcome.record, &metas[i]);
            results[i].meta = &metas[i];
            if (asked->kind == CAIRN__V1__OPERATION__KIND__GET) {
                results[i].value_size = (uint32_t)outcome.record->value_size;
                buf_append(&payload, outcome.record->value, outcome.record->value_size);
            }
        }
        response.results[response.n_results++] = &results[i];
        uint32_t group = fake_group(fake, operation.key);
        if (fake->leaders[group] >= 0) {
            cairn__v1__hint__init(&hints[i]);
            hints[i].group = group;
            hints[i].node_id = fake->topology->nodes[fake->leaders[group]].id;
            response.hints[response.n_hints++] = &hints[i];
        }
    }
    assert_int_equal(at, request->payload.size);
    fake_answer(fake, link, request, 0, 0, &response.base, buf_span(&payload));
    mem_free(results);
    mem_free(metas);
    mem_free(hints);
    mem_free(response.results);
    mem_free(response.hints);
    buf_fini(&payload);
    cairn__v1__multi_request__free_unpacked(multi, NULL);
}

static bool fake_is_asked(const Cairn__V1__ScanRequest *scan, uint32_t group)
{
    for (size_t i = 0; i < scan->n_groups; i++) {
        if (scan->groups[i] == group) {
            return true;
        }
    }
    return scan->n_groups == 0;
}

static void fake_scan(struct fake *fake, uint64_t link, const struct frame *request)
{
    Cairn__V1__ScanRequest *scan =
        cairn__v1__scan_request__unpack(NULL, request->message.size, request->message.data);
    for (size_t i = 0; i < scan->n_groups; i++) {
        if (fake->leaders[scan->groups[i]] < 0) {
            fake_refuse(fake, link, request, ERR_UNAVAILABLE, 0);
            cairn__v1__scan_request__free_unpacked(scan, NULL);
            return;
        }
    }
    size_t limit = scan->limit ? scan->limit : LIMIT_SCAN_PAGE_ENTRIES;
    fake->scan_bytes = scan->page_bytes > fake->scan_bytes ? scan->page_bytes : fake->scan_bytes;
    Cairn__V1__ScanResponse response = CAIRN__V1__SCAN_RESPONSE__INIT;
    response.staleness_ms = fake->scan_staleness_ms;
    size_t count = 0;
    struct buf payload = { 0 };
    bool has_more = false;
    for (size_t i = 0; i < fake->key_count; i++) {
        struct fake_key *found = &fake->keys[scan->reverse ? fake->key_count - 1 - i : i];
        struct span key = span_of(found->key, found->key_size);
        if (!fake_is_asked(scan, fake_group(fake, key)) ||
            span_compare(key, fake_bytes(scan->from)) < 0 ||
            (scan->to.len && span_compare(key, fake_bytes(scan->to)) >= 0)) {
            continue;
        }
        if (count++ == limit) {
            has_more = true;
            break;
        }
        struct scan_page_entry entry = { .key = key };
        if (!scan->keys_only) {
            Cairn__V1__Meta meta;
            fake_meta(found, &meta);
            entry.flags = SCAN_PAGE_META | (scan->meta_only ? 0 : SCAN_PAGE_VALUE);
            entry.version = meta.version;
            entry.time = meta.time;
            entry.size = meta.size;
            entry.value = span_of(found->value, found->value_size);
        }
        scan_page_add(&payload, &entry);
    }
    fake_answer(fake, link, request, 0, has_more ? FRAME_MORE : 0, &response.base,
                buf_span(&payload));
    buf_fini(&payload);
    cairn__v1__scan_request__free_unpacked(scan, NULL);
}

static void fake_serve(struct fake *fake, uint64_t link, int node, const struct frame *frame)
{
    if (frame->type == FRAME_HELLO) {
        fake_hello(fake, link, node, frame);
    } else if (frame->verb == VERB_TOPOLOGY) {
        fake_topology(fake, link, frame);
    } else if (frame->verb == VERB_MULTI) {
        fake_multi(fake, link, node, frame);
    } else if (frame->verb == VERB_GETS) {
        fake_gets(fake, link, node, frame);
    } else if (frame->verb == VERB_SCAN) {
        fake_scan(fake, link, frame);
    } else if (frame->verb == VERB_STATUS) {
        Cairn__V1__StatusResponse status = CAIRN__V1__STATUS_RESPONSE__INIT;
        status.name = fake->topology->nodes[node].name;
        fake_answer(fake, link, frame, 0, 0, &status.base, span_of(NULL, 0));
    } else {
        fake_single(fake, link, node, frame);
    }
}

static void fake_on_frame(struct fake *fake, uint64_t link, const struct frame *frame)
{
    int node = fake->links[link].node;
    assert_true(frame->type == FRAME_HELLO || frame->type == FRAME_REQUEST);
    fake->frames[frame->verb]++;
    fake->asked[node] += frame->type == FRAME_REQUEST && frame->verb != VERB_TOPOLOGY;
    int action = fake->rule ? fake->rule(fake, node, frame) : FAKE_SERVE;
    if (action == FAKE_SERVE || action == FAKE_SERVE_AND_CLOSE) {
        size_t before = fake->event_count;
        fake_serve(fake, link, node, frame);
        if (action == FAKE_SERVE_AND_CLOSE) { /* applied, and the answer is lost */
            while (fake->event_count > before) {
                buf_fini(&fake->events[--fake->event_count].bytes);
            }
            fake_hang_up(fake, link);
        }
    } else if (action == FAKE_CLOSE) {
        fake_hang_up(fake, link);
    } else if (action == FAKE_GARBAGE) {
        buf_append(&fake_schedule(fake, FAKE_LATENCY_US, 2, link)->bytes,
                   "HTTP/1.1 400 Bad Request\r\n\r\n", 28);
    } else if (action < 0 && frame->verb == VERB_GETS && !fake->refuses_pages) {
        struct frame one = *frame;
        struct span page = frame->payload;
        struct get_question question;
        one.verb = VERB_GET;
        while (gets_page_next_question(&page, &one.request_id, &question)) {
            fake_refuse(fake, link, &one, action, 0);
        }
    } else if (action < 0) {
        fake_refuse(fake, link, frame, action, 0);
    }
}

static void fake_send(void *ctx, uint64_t link, const struct span *parts, size_t count)
{
    struct fake *fake = ctx;
    struct fake_link *from = &fake->links[link];
    assert_true(from->is_open || from->node >= 0);
    for (size_t i = 0; i < count; i++) {
        buf_append_span(&from->in, parts[i]);
    }
    while (from->is_open) {
        struct frame frame;
        size_t need;
        int64_t size = frame_parse(buf_span(&from->in), &frame, &need, NULL);
        assert_true(size >= 0); /* what the client sends is well formed */
        if (size == 0) {
            break;
        }
        fake_on_frame(fake, link, &frame);
        buf_consume(&from->in, (size_t)size);
    }
}

static const struct core_transport fake_transport = { fake_connect, fake_send, fake_close };

/* --- Running */

static struct topology *fake_make_topology(void)
{
    struct topology *topology = MEM_NEW(struct topology);
    topology->references = 1;
    topology->epoch = 1;
    memset(topology->cluster_id, 7, 16);
    topology->cluster_name = mem_strdup("fake");
    topology->hash_seed = 42;
    topology->replicas = 3;
    topology->next_replica_id = 1;
    topology->node_count = FAKE_NODES;
    topology->nodes = mem_zalloc(FAKE_NODES * sizeof *topology->nodes);
    for (int i = 0; i < FAKE_NODES; i++) {
        topology->nodes[i] = (struct topology_node){ .id = 100 + (uint64_t)i,
                                                     .name = mem_printf("n%d", i + 1),
                                                     .address = mem_printf("10.0.0.%d:7400", i + 1),
                                                     .host = mem_strdup(""),
                                                     .zone = mem_strdup(""),
                                                     .weight = 1 };
    }
    struct err err;
    assert_int_equal(placement_make(topology, FAKE_PARTITIONS, &err), 0);
    return topology;
}

static struct fake *fake_new_with(const char *endpoints, uint32_t timeout_ms, struct core *beside)
{
    struct fake *fake = MEM_NEW(struct fake);
    fake->topology = fake_make_topology();
    fake->now_us = 1000;
    fake->random = 1;
    fake->time = hlc_from_us(1700000000000000);
    fake->tells_hints = true;
    fake->keys = mem_zalloc((FAKE_KEYS + 1) * sizeof *fake->keys);
    for (int i = 0; i < FAKE_NODES; i++) {
        memcpy(fake->cluster_ids[i], fake->topology->cluster_id, 16);
    }
    for (uint32_t i = 1; i <= FAKE_PARTITIONS; i++) {
        uint64_t preferred = topology_find_group(fake->topology, i)->replicas[0].node_id;
        fake->leaders[i] = (int)(preferred - 100);
    }
    struct core_options options = {
        .endpoints = endpoints, .program = "test", .timeout_ms = timeout_ms, .seed = { 1, 2, 3, 4 }, .beside = beside
    };
    struct err err;
    assert_int_equal(core_open(&options, &fake_transport, fake, fake->now_us, &fake->core, &err),
                     0);
    return fake;
}

static struct fake *fake_new_beside(struct core *beside)
{
    return fake_new_with("10.0.0.1:7400,10.0.0.2:7400,10.0.0.3:7400", 5000, beside);
}

static struct fake *fake_new(void)
{
    return fake_new_beside(NULL);
}

static void fake_free(struct fake *fake)
{
    if (fake->core) {
        core_close(fake->core);
    }
    for (size_t i = 0; i < fake->event_count; i++) {
        buf_fini(&fake->events[i].bytes);
    }
    for (size_t i = 0; i < FAKE_LINKS; i++) {
        buf_fini(&fake->links[i].in);
    }
    for (size_t i = 0; i < fake->key_count; i++) {
        mem_free(fake->keys[i].value);
    }
    hashtab_fini(&fake->sessions);
    topology_unref(fake->topology);
    mem_free(fake->events);
    mem_free(fake->keys);
    mem_free(fake->writes);
    mem_free(fake);
}

static size_t fake_next_event(const struct fake *fake)
{
    size_t best = SIZE_MAX;
    for (size_t i = 0; i < fake->event_count; i++) {
        const struct fake_event *event = &fake->events[i];
        if (best == SIZE_MAX || event->at_us < fake->events[best].at_us ||
            (event->at_us == fake->events[best].at_us && event->order < fake->events[best].order)) {
            best = i;
        }
    }
    return best;
}

static void fake_deliver(struct fake *fake, size_t at)
{
    struct fake_event event = fake->events[at];
    fake->events[at] = fake->events[--fake->event_count];
    if (event.kind == 0) {
        core_connected(fake->core, event.link, fake->now_us);
    } else if (event.kind == 2) {
        /* In two pieces at times, each in memory of its own size: a sanitizer sees what reads behind. */
        size_t first = event.bytes.size % 3 ? event.bytes.size : event.bytes.size / 2;
        for (size_t done = 0, piece; done < event.bytes.size && fake->links[event.link].is_open;
             done += piece) {
            piece = done == 0 ? first : event.bytes.size - done;
            uint8_t *copy = mem_dup(event.bytes.data + done, piece);
            core_bytes(fake->core, event.link, span_of(copy, piece), fake->now_us);
            mem_free(copy);
        }
    } else {
        core_closed(fake->core, event.link,
                    event.kind == 1 ? "connection refused" : "connection reset", fake->now_us);
    }
    buf_fini(&event.bytes);
}

/* One event or timer; false when nothing happens before `until_us`. */
static bool fake_advance(struct fake *fake, uint64_t until_us)
{
    uint64_t due = core_due_us(fake->core);
    size_t next = fake_next_event(fake);
    uint64_t at = next == SIZE_MAX ? UINT64_MAX : fake->events[next].at_us;
    uint64_t soonest = due < at ? due : at;
    if (soonest > until_us) {
        fake->now_us = until_us;
        return false;
    }
    if (soonest > fake->now_us) {
        fake->now_us = soonest;
    }
    if (at <= fake->now_us) {
        fake_deliver(fake, next);
    }
    return true;
}

/* Until *flag, at most so long; then the ms that it took. */
static uint64_t fake_run(struct fake *fake, const bool *flag, uint64_t most_ms)
{
    uint64_t begin = fake->now_us;
    do {
        core_step(fake->core, fake->now_us);
    } while (!*flag && fake_advance(fake, begin + most_ms * 1000));
    return (fake->now_us - begin) / 1000;
}

/* --- Calls, as blocking ones */

struct fake_call {
    bool is_done;
    struct cairn_result result;
    int calls;
    uint64_t id;
};

static void fake_done(void *arg, struct cairn_result *result)
{
    struct fake_call *call = arg;
    call->is_done = true;
    call->calls++;
    call->result = *result;
    result->value = NULL; /* taken */
}

static struct cairn_request fake_request(enum cairn_verb verb, const char *key, const char *value)
{
    return (struct cairn_request){ .verb = verb,
                                   .key = key,
                                   .key_size = strlen(key),
                                   .value = value,
                                   .value_size = value ? strlen(value) : 0 };
}

static void fake_submit(struct fake *fake, const struct cairn_request *request,
                        struct fake_call *call)
{
    memset(call, 0, sizeof *call);
    assert_int_equal(core_submit(fake->core, request, fake_done, call, fake->now_us, &call->id),
                     0);
}

static int fake_call(struct fake *fake, const struct cairn_request *request,
                     struct cairn_result *result)
{
    struct fake_call call;
    fake_submit(fake, request, &call);
    fake_run(fake, &call.is_done, 60000);
    assert_true(call.is_done);
    assert_int_equal(call.calls, 1);
    int status = call.result.status;
    if (result) {
        *result = call.result;
    } else {
        cairn_result_free(&call.result);
    }
    return status;
}

static int fake_put(struct fake *fake, const char *key, const char *value)
{
    struct cairn_request request = fake_request(CAIRN_PUT, key, value);
    struct cairn_result result;
    int status = fake_call(fake, &request, &result);
    cairn_result_free(&result);
    return status;
}

#endif
