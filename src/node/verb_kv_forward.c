/* Operations that other nodes do: sent to them, many in one multi, and their answers taken over (verb_kv.c). */
#include "base/check.h"
#include "node/verb_kv_private.h"

/* --- Sent */

/* An operation in protocol form. */
struct remade {
    Operation operation;
    Cairn__V1__Attributes attributes;
    Cairn__V1__Session session;
};

void kv_pack_attributes(const struct attributes *from, Cairn__V1__Attributes *to)
{
    cairn__v1__attributes__init(to);
    to->mask = from->mask;
    to->mode = from->mode;
    to->uid = from->uid;
    to->gid = from->gid;
    to->mtime_us = from->mtime_us;
    to->flags = from->flags;
    to->expires_at_us = from->expires_at_us;
}

/* Writes an operation back into protocol form; its value is the payload piece. */
static Operation *remake_operation(const struct operation *operation, struct remade *room,
                                   struct conn_piece *piece)
{
    Operation *out = &room->operation;
    cairn__v1__operation__init(out);
    out->kind = operation->kind;
    out->key = (ProtobufCBinaryData){ operation->key.size, (uint8_t *)operation->key.data };
    out->consistency = operation->consistency;
    out->max_staleness_ms = operation->max_staleness_ms;
    out->ack = operation->ack_all ? CAIRN__V1__ACK__ALL : CAIRN__V1__ACK__MAJORITY;
    *piece = (struct conn_piece){ { NULL, 0 }, NULL };
    if (!operation->command) {
        return out;
    }
    struct command command;
    struct err err;
    int status = command_unpack(blob_span(operation->command), &command, &err);
    CHECK(status == 0);
    out->condition = (Cairn__V1__Condition)command.condition;
    out->version = command.condition_version;
    out->value_size = (uint32_t)command.value.size;
    *piece = (struct conn_piece){ command.value, operation->command };
    if (command.attributes.mask != 0) {
        kv_pack_attributes(&command.attributes, &room->attributes);
        out->attributes = &room->attributes;
    }
    if (command.number != 0) {
        out->session = &room->session;
        cairn__v1__session__init(out->session);
        out->session->id_high = command.session.high;
        out->session->id_low = command.session.low;
        out->session->number = command.number;
        out->session->lowest = command.lowest;
        out->session->client_time = command.client_time;
    }
    return out;
}

/* Sends all operations that are marked for the link as one multi. False: there is no memory, they
 * stay new. */
static bool forward_marked(struct request *request, struct link *link, struct operation **marked,
                           size_t count)
{
    Cairn__V1__MultiRequest message = CAIRN__V1__MULTI_REQUEST__INIT;
    struct remade *remade;
    struct conn_piece *pieces;
    if (!request_reserve(
            request, count * (sizeof *message.operations + sizeof *remade + sizeof *pieces), 3)) {
        return false;
    }
    message.n_operations = count;
    message.operations = request_take(request, count * sizeof *message.operations);
    remade = request_take(request, count * sizeof *remade);
    pieces = request_take(request, count * sizeof *pieces);
    for (size_t i = 0; i < count; i++) {
        message.operations[i] = remake_operation(marked[i], &remade[i], &pieces[i]);
    }
    struct forward *forward =
        request_forward(request, link, VERB_MULTI, &message.base, pieces, count);
    if (!forward) {
        return false;
    }
    forward->operations = marked;
    forward->count = count;
    for (size_t i = 0; i < count; i++) {
        marked[i]->state = OPERATION_FORWARDED;
        request->may_have_written = request->may_have_written || !kv_is_read(marked[i]);
    }
    return true;
}

struct link *kv_choose_link(struct operation *operation, int *status)
{
    if (kv_is_stale_read(operation)) {
        struct link *link = request_link_to_replica(operation->request, operation->group);
        if (link) {
            *status = 0;
            return link;
        }
    }
    return request_link_to(operation->request, operation->group, status);
}

bool kv_forward_to(struct request *request, struct link *link, size_t first)
{
    struct operation **marked =
        request_try_alloc(request, (request->operation_count - first) * sizeof *marked);
    size_t count = 0;
    if (!marked) {
        return false;
    }
    for (size_t i = first; i < request->operation_count; i++) {
        struct operation *operation = &request->operations[i];
        int status;
        if (operation->state == OPERATION_NEW && kv_choose_link(operation, &status) == link) {
            marked[count++] = operation;
        }
    }
    return forward_marked(request, link, marked, count);
}

/* --- Answered */

static bool is_try_again(int status)
{
    return status == ERR_NOT_PRIMARY || status == ERR_UNAVAILABLE ||
           status == ERR_WRONG_PARTITION || status == ERR_SHUTDOWN;
}

static void note_hints(struct node *node, Cairn__V1__Hint **hints, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (hints[i]->group < node->partition_count && hints[i]->node_id != 0) {
            node->leaders[hints[i]->group] = hints[i]->node_id;
        }
    }
}

/* False: there is no memory for the value. */
static bool take_record(struct operation *operation, const OperationResult *from, struct span value)
{
    struct record *record = &operation->record;
    *record = (struct record){ .version = from->version, .time = from->time };
    if (from->meta) {
        kv_unpack_attributes(from->meta->attributes, &record->attributes);
        record->version = from->meta->version;
        record->time = from->meta->time;
    }
    uint8_t *copy = arena_try_alloc(&operation->request->arena, value.size);
    if (!copy) {
        return false;
    }
    if (value.size > 0) {
        memcpy(copy, value.data, value.size);
    }
    record->value = span_of(copy, value.size);
    if (operation->kind == CAIRN__V1__OPERATION__KIND__GET_META && from->meta) {
        record->value.size = from->meta->size; /* only the size is of interest, see kv_make_meta */
    }
    operation->has_record = true;
    return true;
}

static void take_result(struct operation *operation, const OperationResult *from, struct span value)
{
    if (is_try_again(from->status)) {
        kv_ask_again(operation);
        return;
    }
    operation->staleness_ms = from->staleness_ms;
    operation->text = from->text[0] ? from->text : NULL;
    operation->result = (struct store_result){ .status = from->status,
                                               .version = from->version,
                                               .time = from->time,
                                               .existed = from->existed };
    bool has_memory =
        from->status != 0 || !kv_is_read(operation) || take_record(operation, from, value);
    kv_finish(operation, has_memory ? from->status : ERR_NO_MEMORY);
}

static void fail_forward(struct forward *forward, int status)
{
    for (size_t i = 0; i < forward->count; i++) {
        struct operation *operation = forward->operations[i];
        if (is_try_again(status)) {
            kv_ask_again(operation);
        } else {
            kv_finish(operation, status);
        }
    }
}

/* 0, ERR_PROTOCOL or ERR_NO_MEMORY. */
static int take_results(struct forward *forward, const struct frame *frame)
{
    struct request *request = forward->request;
    request_set_kind(request, MEM_ANSWER);
    Cairn__V1__MultiResponse *message =
        message_unpack(&cairn__v1__multi_response__descriptor, &request->allocator, frame->message);
    if (!message || message->n_results != forward->count) {
        return request->arena.has_refused ? ERR_NO_MEMORY : ERR_PROTOCOL;
    }
    uint64_t sum = 0;
    for (size_t i = 0; i < message->n_results; i++) {
        sum += message->results[i]->value_size;
    }
    if (sum != frame->payload.size) {
        return ERR_PROTOCOL;
    }
    note_hints(request->node, message->hints, message->n_hints);
    size_t at = 0;
    for (size_t i = 0; i < message->n_results; i++) {
        size_t size = message->results[i]->value_size;
        take_result(forward->operations[i], message->results[i],
                    span_of(frame->payload.data + at, size));
        at += size;
    }
    return 0;
}

void kv_forward_answered(struct forward *forward, const struct frame *frame)
{
    struct request *request = forward->request;
    int status = frame->status;
    if (status == 0) {
        status = take_results(forward, frame);
        if (status == ERR_NO_MEMORY) { /* as if it had not come */
            kv_forward_lost(forward);
            return;
        }
    }
    if (status != 0) {
        fail_forward(forward, status);
    }
    kv_settle(request);
}

/* Reads, and writes that a session protects, are asked again; other writes may or may not have been
 * applied. */
void kv_forward_lost(struct forward *forward)
{
    struct request *request = forward->request;
    for (size_t i = 0; i < forward->count; i++) {
        struct operation *operation = forward->operations[i];
        if (kv_is_read(operation) || operation->has_session) {
            operation->maybe_applied = !kv_is_read(operation);
            kv_ask_again(operation);
        } else {
            kv_finish(operation, ERR_UNKNOWN_OUTCOME);
        }
    }
    kv_settle(request);
}
