/* Operations to frames and frames to results.
 *
 * An operation submitted alone travels as its own verb; operations submitted together travel as
 * MULTI, as many as fit (LIMIT_MULTI_OPERATIONS, CORE_MULTI_BYTES). Each is judged by its own
 * status: finished, or repeated alone. Gets that were submitted alone and leave together share a
 * frame (GETS) and nothing else: each has its flight, and is answered when it is ready.
 *
 * Invariants
 *   E1  An answer is read to its end before anything of it is used: a malformed one changes
 *       nothing. */
#include <stdio.h>

#include "base/hlc.h"
#include "client/core_private.h"
#include "wire/gets_page.h"

/* The count of a MULTI bounds its message: a key, a session, attributes and the tags between. */
_Static_assert((uint64_t)LIMIT_MULTI_OPERATIONS *(LIMIT_KEY_BYTES + 200) < LIMIT_MESSAGE_BYTES,
               "a MULTI's message fits");

enum { ACK_WORD_MS = 200 };

/* --- Sending */

struct packed_write {
    Cairn__V1__Session session;
    Cairn__V1__Attributes attributes;
};

/* The client time is fixed when the write first leaves, not earlier: while it waited for a link the
 * cluster's time may have gone on by more than a retry's age. Nor later, but for what
 * operation_renew says. */
static void pack_write(struct core *core, struct operation *operation, struct packed_write *out)
{
    if (operation->client_time == 0) {
        operation->client_time = core->time;
    }
    Cairn__V1__Session session = CAIRN__V1__SESSION__INIT;
    session.id_high = core->session.id_high;
    session.id_low = core->session.id_low;
    session.number = operation->number;
    session.lowest = core->session.lowest;
    session.client_time = operation->client_time;
    out->session = session;
    Cairn__V1__Attributes attributes = CAIRN__V1__ATTRIBUTES__INIT;
    attributes.mask = operation->attributes.mask;
    attributes.mode = operation->attributes.mode;
    attributes.uid = operation->attributes.uid;
    attributes.gid = operation->attributes.gid;
    attributes.mtime_us = operation->attributes.mtime_us;
    attributes.flags = operation->attributes.flags;
    attributes.expires_at_us = operation->attributes.expires_at_us;
    out->attributes = attributes;
}

/* A write that waits for all replicas is given a little less, so that the word why it did not end
 * comes in time. */
static uint32_t deadline_ms(const struct core *core, const struct operation *operation)
{
    uint64_t deadline = operation->call->progress_us + operation->timeout_us;
    uint64_t left_ms = deadline > core->now_us ? (deadline - core->now_us) / 1000 : 0;
    if (operation->is_write && operation->ack == CAIRN_ACK_ALL) {
        left_ms -= left_ms / 5 < ACK_WORD_MS ? left_ms / 5 : ACK_WORD_MS;
    }
    return left_ms ? (uint32_t)(left_ms < UINT32_MAX ? left_ms : UINT32_MAX) : 1;
}

static ProtobufCBinaryData binary(struct span span)
{
    return (ProtobufCBinaryData){ span.size, (uint8_t *)(uintptr_t)span.data };
}

static void send_read(struct core *core, struct link *link, struct frame *frame,
                      const struct operation *operation)
{
    struct get_question get = { .key = operation->key,
                                .consistency = operation->consistency,
                                .meta_only = operation->verb == CAIRN_GET_META,
                                .max_staleness_ms = operation->max_staleness_ms };
    uint8_t packed[GET_QUESTION_BYTES];
    frame->message = span_of(packed, get_question_pack(&get, packed));
    link_send_packed(core, link, frame);
}

static void send_put(struct core *core, struct link *link, struct frame *frame,
                     const struct operation *operation, struct packed_write *write)
{
    Cairn__V1__PutRequest put = CAIRN__V1__PUT_REQUEST__INIT;
    put.key = binary(operation->key);
    put.condition = (Cairn__V1__Condition)operation->condition;
    put.version = operation->version;
    put.attributes = write->attributes.mask ? &write->attributes : NULL;
    put.session = &write->session;
    put.ack = (Cairn__V1__Ack)operation->ack;
    link_send_frame(core, link, frame, &put.base, &operation->value, 1);
}

static void send_delete(struct core *core, struct link *link, struct frame *frame,
                        const struct operation *operation, struct packed_write *write)
{
    Cairn__V1__DeleteRequest delete = CAIRN__V1__DELETE_REQUEST__INIT;
    delete.key = binary(operation->key);
    delete.condition = (Cairn__V1__Condition)operation->condition;
    delete.version = operation->version;
    delete.session = &write->session;
    delete.ack = (Cairn__V1__Ack)operation->ack;
    link_send_frame(core, link, frame, &delete.base, NULL, 0);
}

static void send_setattr(struct core *core, struct link *link, struct frame *frame,
                         const struct operation *operation, struct packed_write *write)
{
    Cairn__V1__SetattrRequest setattr = CAIRN__V1__SETATTR_REQUEST__INIT;
    setattr.key = binary(operation->key);
    setattr.attributes = &write->attributes;
    setattr.condition = (Cairn__V1__Condition)operation->condition;
    setattr.version = operation->version;
    setattr.session = &write->session;
    setattr.ack = (Cairn__V1__Ack)operation->ack;
    link_send_frame(core, link, frame, &setattr.base, NULL, 0);
}

/* For a link that can't send it now. */
static void exchange_put_back(struct link *link, struct operation *operation)
{
    operation->state = OPERATION_QUEUED;
    list_prepend(&link->queue, &operation->node);
}

static void exchange_send_one(struct core *core, struct link *link, struct operation *operation)
{
    static const uint16_t verbs[] = { [CAIRN_GET] = VERB_GET,
                                      [CAIRN_GET_META] = VERB_GET,
                                      [CAIRN_PUT] = VERB_PUT,
                                      [CAIRN_DELETE] = VERB_DELETE,
                                      [CAIRN_SETATTR] = VERB_SETATTR };
    struct flight *flight = link_add_flight(core, link, verbs[operation->verb], 1);
    if (!flight) {
        exchange_put_back(link, operation);
        return;
    }
    operation_hook(operation, flight, 0);
    struct frame frame = { .type = FRAME_REQUEST,
                           .verb = flight->verb,
                           .request_id = flight->id,
                           .deadline_ms = deadline_ms(core, operation) };
    struct packed_write write;
    if (operation->is_write) {
        pack_write(core, operation, &write);
    }
    switch ((enum cairn_verb)operation->verb) {
    case CAIRN_GET:
    case CAIRN_GET_META:
        send_read(core, link, &frame, operation);
        break;
    case CAIRN_PUT:
        send_put(core, link, &frame, operation, &write);
        break;
    case CAIRN_DELETE:
        send_delete(core, link, &frame, operation, &write);
        break;
    case CAIRN_SETATTR:
        send_setattr(core, link, &frame, operation, &write);
        break;
    }
}

static void pack_operation(struct core *core, struct operation *operation,
                           struct packed_write *write, Cairn__V1__Operation *out)
{
    static const Cairn__V1__Operation__Kind kinds[] = {
        [CAIRN_GET] = CAIRN__V1__OPERATION__KIND__GET,
        [CAIRN_GET_META] = CAIRN__V1__OPERATION__KIND__GET_META,
        [CAIRN_PUT] = CAIRN__V1__OPERATION__KIND__PUT,
        [CAIRN_DELETE] = CAIRN__V1__OPERATION__KIND__DELETE,
        [CAIRN_SETATTR] = CAIRN__V1__OPERATION__KIND__SETATTR
    };
    cairn__v1__operation__init(out);
    out->kind = kinds[operation->verb];
    out->key = binary(operation->key);
    out->value_size = (uint32_t)operation->value.size;
    out->condition = (Cairn__V1__Condition)operation->condition;
    out->version = operation->version;
    out->consistency = (Cairn__V1__Consistency)operation->consistency;
    out->max_staleness_ms = operation->max_staleness_ms;
    if (operation->is_write) {
        out->ack = (Cairn__V1__Ack)operation->ack;
        pack_write(core, operation, write);
        out->session = &write->session;
        out->attributes = write->attributes.mask ? &write->attributes : NULL;
    }
}

/* Sends the first operations of the list as one MULTI. */
static void exchange_send_multi(struct core *core, struct link *link, struct operation **operations,
                                uint32_t count)
{
    Cairn__V1__MultiRequest request = CAIRN__V1__MULTI_REQUEST__INIT;
    struct span *payloads = arena_try_alloc(&core->arena, count * sizeof *payloads);
    Cairn__V1__Operation *packed = arena_try_alloc(&core->arena, count * sizeof *packed);
    struct packed_write *writes = arena_try_alloc(&core->arena, count * sizeof *writes);
    request.operations = arena_try_alloc(&core->arena, count * sizeof *request.operations);
    link->is_starved = link->is_starved || !payloads || !packed || !writes || !request.operations;
    struct flight *flight = link_add_flight(core, link, VERB_MULTI, count);
    if (!flight) {
        while (count > 0) {
            exchange_put_back(link, operations[--count]);
        }
        return;
    }
    request.n_operations = count;
    size_t payload_count = 0;
    uint32_t longest_ms = 1;
    for (uint32_t i = 0; i < count; i++) {
        operation_hook(operations[i], flight, i);
        pack_operation(core, operations[i], &writes[i], &packed[i]);
        request.operations[i] = &packed[i];
        if (operations[i]->value.size) {
            payloads[payload_count++] = operations[i]->value;
        }
        uint32_t left_ms = deadline_ms(core, operations[i]);
        longest_ms = left_ms > longest_ms ? left_ms : longest_ms;
    }
    struct frame frame = { .type = FRAME_REQUEST,
                           .verb = VERB_MULTI,
                           .request_id = flight->id,
                           .deadline_ms = longest_ms };
    link_send_frame(core, link, &frame, &request.base, payloads, payload_count);
}

static bool may_share(const struct operation *operation)
{
    return !operation->is_write && operation->call->count == 1 &&
           operation->consistency != CAIRN_STALE;
}

/* Sends gets in one frame, which has no id of its own. */
static void exchange_send_gets(struct core *core, struct link *link, struct operation **operations,
                               uint32_t count)
{
    if (count == 1) {
        exchange_send_one(core, link, operations[0]);
        return;
    }
    struct frame frame = { .type = FRAME_REQUEST, .verb = VERB_GETS };
    buf_clear(&core->scratch);
    link->is_starved = link->is_starved || !buf_try_reserve(&core->scratch, core->gate,
                                                            count * GETS_PAGE_QUESTION_BYTES);
    for (uint32_t i = 0; i < count; i++) {
        const struct operation *operation = operations[i];
        struct flight *flight = link_add_flight(core, link, VERB_GET, 1);
        if (!flight) { /* the link fails at the step's end, and with it those before */
            while (count > i) {
                exchange_put_back(link, operations[--count]);
            }
            return;
        }
        operation_hook(operations[i], flight, 0);
        struct get_question get = { .key = operation->key,
                                    .consistency = operation->consistency,
                                    .meta_only = operation->verb == CAIRN_GET_META };
        gets_page_ask(&core->scratch, flight->id, &get);
        uint32_t left_ms = deadline_ms(core, operation);
        frame.deadline_ms = left_ms > frame.deadline_ms ? left_ms : frame.deadline_ms;
    }
    frame.payload = buf_span(&core->scratch);
    link_send_packed(core, link, &frame);
}

void exchange_send_queue(struct core *core, struct link *link)
{
    struct operation *batch[LIMIT_MULTI_OPERATIONS], *gets[GETS_PAGE_QUESTIONS];
    uint32_t count = 0, get_count = 0;
    size_t bytes = 0;
    struct list *node;
    while (!link->is_starved && (node = list_take_first(&link->queue))) {
        struct operation *operation = container_of(node, struct operation, node);
        operation->state = OPERATION_SENT;
        if (may_share(operation)) {
            gets[get_count++] = operation;
            if (get_count == GETS_PAGE_QUESTIONS) {
                exchange_send_gets(core, link, gets, get_count);
                get_count = 0;
            }
            continue;
        }
        if (operation->call->count == 1 || operation->is_alone) {
            exchange_send_one(core, link, operation);
            continue;
        }
        if (count == LIMIT_MULTI_OPERATIONS ||
            (count && bytes + operation->value.size > CORE_MULTI_BYTES)) {
            exchange_send_multi(core, link, batch, count);
            count = 0;
            bytes = 0;
        }
        batch[count++] = operation;
        bytes += operation->value.size;
    }
    if (count) {
        exchange_send_multi(core, link, batch, count);
    }
    if (get_count) {
        exchange_send_gets(core, link, gets, get_count);
    }
}

/* --- Reading answers */

/* One operation's answer, whatever frame it came in. */
struct outcome {
    int status;
    uint64_t version, time;
    bool existed;
    const Cairn__V1__Meta *meta; /* NULL: there is none, or a get's, without attributes */
    uint64_t size;               /* of the value, where meta is NULL */
    struct span value;
    uint64_t staleness_ms;
    const char *text; /* NULL: nothing beyond the status */
};

static void take_meta(const Cairn__V1__Meta *from, struct cairn_meta *to)
{
    memset(to, 0, sizeof *to);
    to->version = from->version;
    to->time_us = hlc_to_us(from->time);
    to->size = from->size;
    if (from->attributes) {
        to->attributes.mask = from->attributes->mask;
        to->attributes.mode = from->attributes->mode;
        to->attributes.uid = from->attributes->uid;
        to->attributes.gid = from->attributes->gid;
        to->attributes.mtime_us = from->attributes->mtime_us;
        to->attributes.flags = from->attributes->flags;
        to->attributes.expires_at_us = from->attributes->expires_at_us;
    }
}

Cairn__V1__ErrorInfo *exchange_error_info(struct core *core, const struct link *link,
                                          const struct frame *frame)
{
    Cairn__V1__ErrorInfo *info =
        message_unpack(&cairn__v1__error_info__descriptor, &core->allocator, frame->message);
    const char *text = info && info->text[0] ? info->text : err_info(frame->status)->text;
    snprintf(core->trouble, sizeof core->trouble, "%s%s%s", link ? link->address : "",
             link ? ": " : "", text);
    if (info) {
        route_learn(core, info->hint);
    }
    return info;
}

bool exchange_is_retryable(int status)
{
    return status == ERR_NOT_PRIMARY || status == ERR_WRONG_PARTITION || status == ERR_BUSY ||
           status == ERR_UNAVAILABLE || status == ERR_TIMEOUT || status == ERR_SHUTDOWN ||
           status == ERR_CLOSED || status == ERR_CONNECT || status == ERR_NO_MEMORY ||
           status == ERR_UNKNOWN_OUTCOME || status == ERR_LATE;
}

/* False: there is no memory for the value. */
static bool operation_answer(struct core *core, struct operation *operation,
                             const struct outcome *outcome)
{
    struct cairn_result *result =
        &operation->call->results[operation - operation->call->operations];
    result->existed = outcome->existed;
    result->staleness_ms = outcome->staleness_ms;
    result->meta.version = outcome->version;
    result->meta.time_us = hlc_to_us(outcome->time);
    result->meta.size = outcome->size;
    if (outcome->meta) {
        take_meta(outcome->meta, &result->meta);
    }
    if (operation->verb == CAIRN_GET && outcome->status == 0) {
        void *value = mem_try_alloc(core->gate, outcome->value.size);
        if (!value) {
            return false;
        }
        if (outcome->value.size > 0) {
            memcpy(value, outcome->value.data, outcome->value.size);
        }
        result->value = value;
        result->value_size = outcome->value.size;
    }
    return true;
}

/* A write was refused as too late: the clock of the node that leads had leapt, and what we knew of
 * the cluster's time was from others. That applied nothing, so if nothing else was ever sent of it,
 * or was answered likewise, it gets a new time, by the word that came with the answer. Else the
 * time stays: a later one would say that no earlier attempt can be forgotten yet. But then nobody will
 * ever know more: where this attempt stands in the log no earlier one is remembered, and what comes
 * behind it is late as well. So unless an attempt is still to be answered, the outcome is unknown now;
 * asking on to the deadline would only hold up the session's window. */
static void operation_late(struct core *core, struct operation *operation)
{
    bool is_heard = operation->flight_count == 0; /* whatever was sent */
    if (is_heard && operation->may_have_happened) {
        operation_finish(core, operation, ERR_UNKNOWN_OUTCOME);
        return;
    }
    operation->client_time = is_heard ? 0 : operation->client_time;
    operation_retry(core, operation, ERR_LATE, is_heard);
}

static void operation_refused(struct core *core, struct operation *operation,
                              const struct link *link, int status)
{
    bool at_once = false;
    if (status == ERR_LATE) {
        operation_late(core, operation);
        return;
    }
    if (status == ERR_NOT_PRIMARY) {
        size_t partition = topology_locate(core->topology, operation->key);
        const struct link *hinted = route_node_link(core, route_preferred(core, partition));
        at_once = hinted->node_id != link->node_id && link_is_usable(hinted);
    } else if (status == ERR_WRONG_PARTITION) {
        route_want_topology(core, NULL);
    } else if (status == ERR_UNKNOWN_OUTCOME) {
        operation->may_have_happened = operation->is_write;
    }
    if (status == ERR_SHUTDOWN || (status == ERR_NOT_PRIMARY && !at_once)) {
        operation->avoid = link->node_id;
    }
    operation_retry(core, operation, status, at_once);
}

static void operation_conclude(struct core *core, struct operation *operation,
                               struct flight *flight, const struct outcome *outcome)
{
    operation_unhook(operation, flight);
    int status = outcome->status;
    if (status == 0 || status == ERR_NOT_FOUND || status == ERR_EXISTS ||
        status == ERR_CONDITION_FAILED) {
        bool has_memory = operation_answer(core, operation, outcome);
        operation_finish(core, operation, has_memory ? status : ERR_NO_MEMORY);
    } else if (exchange_is_retryable(status)) {
        operation_refused(core, operation, flight->link, status);
    } else if (flight->verb == VERB_MULTI &&
               (status == ERR_LIMIT || status == ERR_FRAME_TOO_LARGE)) {
        operation->is_alone = true;
        operation_retry(core, operation, status, true);
    } else {
        /* This attempt failed for good; what an earlier one did stays unknown. */
        bool is_open =
            operation->may_have_happened || (operation->is_write && operation->flight_count);
        operation_finish(core, operation, is_open ? ERR_UNKNOWN_OUTCOME : status);
    }
}

/* Whoever answered leads the partition: news only when another was believed to. */
static void learn_asked(struct core *core, const struct operation *operation,
                        const struct link *link)
{
    if (!operation->is_at_preferred || operation->asked != link->node_id) {
        size_t partition = topology_locate(core->topology, operation->key);
        route_learn_primary(core, core->topology->partitions[partition].group, link->node_id);
    }
}

/* The answer to a get, as most are. */
static int take_get(struct core *core, const struct flight *flight, const struct frame *frame,
                    const struct get_answer *answer, struct outcome *out)
{
    const struct operation *operation = flight->operations[0];
    if (operation->verb == CAIRN_GET && answer->size != frame->payload.size) {
        return ERR_PROTOCOL;
    }
    out->version = answer->version;
    out->time = answer->time;
    out->size = answer->size;
    out->staleness_ms = answer->staleness_ms;
    out->value = frame->payload;
    if (answer->has_hint) {
        route_learn_primary(core, answer->group, answer->node_id);
    } else {
        learn_asked(core, operation, flight->link);
    }
    return 0;
}

int exchange_got(struct core *core, struct flight *flight, const struct gets_page_answer *answer)
{
    struct operation *operation = flight->operations[0];
    if (flight->verb != VERB_GET) {
        return ERR_PROTOCOL;
    }
    if (!operation) {
        return 0;
    }
    if (operation->verb == CAIRN_GET && !answer->has_value) {
        return ERR_PROTOCOL;
    }
    /* The frame tells the time at which it was begun; what it says may be younger, and what is written after it must be younger
     * still, wherever. */
    core->time = answer->get.time > core->time ? answer->get.time : core->time;
    struct outcome outcome = { .version = answer->get.version,
                               .time = answer->get.time,
                               .size = answer->get.size,
                               .value = answer->value };
    if (answer->get.has_hint) {
        route_learn_primary(core, answer->get.group, answer->get.node_id);
    } else {
        learn_asked(core, operation, flight->link);
    }
    operation_conclude(core, operation, flight, &outcome);
    return 0;
}

static int read_get(struct core *core, const struct flight *flight, const struct frame *frame,
                    struct outcome *out)
{
    const struct operation *operation = flight->operations[0];
    struct get_answer answer;
    if (get_answer_unpack(frame->message, &answer)) {
        return take_get(core, flight, frame, &answer, out);
    }
    Cairn__V1__GetResponse *get =
        message_unpack(&cairn__v1__get_response__descriptor, &core->allocator, frame->message);
    if (!get || !get->meta) {
        return ERR_PROTOCOL;
    }
    out->meta = get->meta;
    out->staleness_ms = get->staleness_ms;
    out->value = frame->payload;
    if (operation->verb == CAIRN_GET && get->meta->size != frame->payload.size) {
        return ERR_PROTOCOL;
    }
    if (get->hint) {
        route_learn(core, get->hint);
    } else {
        learn_asked(core, operation, flight->link);
    }
    return 0;
}

static int read_put(struct core *core, const struct frame *frame, struct outcome *out)
{
    Cairn__V1__PutResponse *put =
        message_unpack(&cairn__v1__put_response__descriptor, &core->allocator, frame->message);
    if (!put) {
        return ERR_PROTOCOL;
    }
    out->version = put->version;
    out->time = put->time;
    route_learn(core, put->hint);
    return 0;
}

static int read_delete(struct core *core, const struct frame *frame, struct outcome *out)
{
    Cairn__V1__DeleteResponse *delete =
        message_unpack(&cairn__v1__delete_response__descriptor, &core->allocator, frame->message);
    if (!delete) {
        return ERR_PROTOCOL;
    }
    out->version = delete->version;
    out->existed = delete->existed;
    route_learn(core, delete->hint);
    return 0;
}

static int exchange_read_one(struct core *core, struct flight *flight, const struct frame *frame,
                             struct outcome *out)
{
    const struct operation *operation = flight->operations[0];
    bool has_version = frame->status == ERR_EXISTS || frame->status == ERR_CONDITION_FAILED;
    out->status = frame->status;
    if (frame->status == 0 || (has_version && operation->is_write)) {
        int status = !operation->is_write              ? read_get(core, flight, frame, out)
                     : operation->verb == CAIRN_DELETE ? read_delete(core, frame, out)
                                                       : read_put(core, frame, out);
        if (status == 0 || frame->status == 0) {
            return status;
        }
    }
    Cairn__V1__ErrorInfo *info = exchange_error_info(core, flight->link, frame);
    out->version = info ? info->version : 0;
    out->staleness_ms = info ? info->staleness_ms : 0;
    return frame->status > 0 ? ERR_PROTOCOL : 0;
}

static int exchange_read_multi(struct core *core, struct flight *flight, const struct frame *frame,
                               struct outcome *outcomes)
{
    Cairn__V1__MultiResponse *multi =
        message_unpack(&cairn__v1__multi_response__descriptor, &core->allocator, frame->message);
    if (!multi || multi->n_results != flight->count) {
        return ERR_PROTOCOL;
    }
    struct reader payload = reader_of(frame->payload);
    for (uint32_t i = 0; i < flight->count; i++) {
        const Cairn__V1__OperationResult *result = multi->results[i];
        const struct operation *operation = flight->operations[i];
        outcomes[i] = (struct outcome){ .status = result->status,
                                        .version = result->version,
                                        .time = result->time,
                                        .existed = result->existed,
                                        .meta = result->meta,
                                        .staleness_ms = result->staleness_ms,
                                        .text = result->text[0] ? result->text : NULL,
                                        .value = reader_span(&payload, result->value_size) };
        bool lacks_meta = operation && !operation->is_write && result->status == 0 && !result->meta;
        if (result->status > 0 || lacks_meta) {
            return ERR_PROTOCOL;
        }
    }
    if (payload.bad || payload.left) {
        return ERR_PROTOCOL;
    }
    for (size_t i = 0; i < multi->n_hints; i++) {
        route_learn(core, multi->hints[i]);
    }
    return 0;
}

static void exchange_note_trouble(struct core *core, const struct link *link,
                                  const struct outcome *outcome)
{
    int status = outcome->status;
    if (status && status != ERR_NOT_FOUND && status != ERR_EXISTS &&
        status != ERR_CONDITION_FAILED) {
        snprintf(core->trouble, sizeof core->trouble, "%s: %s", link->address,
                 outcome->text ? outcome->text : err_info(status)->text);
    }
}

int exchange_answered(struct core *core, struct flight *flight, const struct frame *frame)
{
    struct outcome one, *outcomes = &one;
    if (flight->count > 1) {
        outcomes = arena_try_alloc(&core->arena, flight->count * sizeof *outcomes);
    }
    if (!outcomes) {
        return ERR_NO_MEMORY;
    }
    memset(outcomes, 0, flight->count * sizeof *outcomes);
    int status = 0;
    if (flight->verb == VERB_MULTI && frame->status == 0) {
        status = exchange_read_multi(core, flight, frame, outcomes);
    } else if (flight->verb == VERB_MULTI) {
        exchange_error_info(core, flight->link, frame);
        for (uint32_t i = 0; i < flight->count; i++) {
            outcomes[i].status = frame->status;
        }
    } else if (flight->operations[0]) {
        status = exchange_read_one(core, flight, frame, outcomes);
    }
    if (status) {
        return status;
    }
    for (uint32_t i = 0; i < flight->count; i++) {
        if (flight->operations[i]) {
            if (flight->verb == VERB_MULTI && frame->status == 0) {
                exchange_note_trouble(core, flight->link, &outcomes[i]);
            }
            operation_conclude(core, flight->operations[i], flight, &outcomes[i]);
        }
    }
    return 0;
}

/* The answer will never come: the link is gone or spoke nonsense. */
void exchange_lost(struct core *core, struct flight *flight)
{
    for (uint32_t i = 0; i < flight->count; i++) {
        struct operation *operation = flight->operations[i];
        if (!operation) {
            continue;
        }
        operation_unhook(operation, flight);
        operation->may_have_happened = operation->is_write;
        operation->avoid = flight->link->node_id;
        if (operation->state == OPERATION_SENT && !operation->flight_count) {
            operation_retry(core, operation, ERR_CLOSED, false);
        }
    }
}
