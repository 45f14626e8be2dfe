/* Verbs on single keys (get, put, delete, setattr) and multi, which is many of them in one frame.
 * All become operations; each goes to its partition here, or with others of its kind to the node
 * that leads it.
 *
 *   NEW → WRITING → DONE                   the partition here leads: proposed, applied
 *   NEW → READING → READABLE → (DONE)      leadership confirmed; read when the whole request is answered
 *   NEW → FORWARDED → DONE                 another node answered
 *   … → NEW                                no primary, or the wrong one: parked, dispatched again
 *
 * A read's value is taken at the very end, for all operations at once: what the store holds then is
 * committed and no older than what was confirmed, and spans borrowed from the store need not
 * outlive the turn.
 *
 * Reads by lease and stale ones need no leave of others (NEW → READABLE at once, is_alone). Whether
 * they had the right to is judged again after the read, with the clock of that moment: a process
 * that slept between finds out there. Who had not, and who is staler than allowed, goes the
 * linearizable way instead. */
#include <stdio.h>

#include "base/check.h"
#include "node/request_private.h"
#include "wire/get_message.h"

typedef Cairn__V1__Operation Operation;
typedef Cairn__V1__OperationResult OperationResult;

static void kv_settle(struct request *request);

static bool is_read(const struct operation *operation)
{
    return operation->kind == CAIRN__V1__OPERATION__KIND__GET ||
           operation->kind == CAIRN__V1__OPERATION__KIND__GET_META;
}

/* A refusal says nothing of an earlier forward whose answer was lost. */
static void finish_operation(struct operation *operation, int status)
{
    CHECK(operation->state != OPERATION_DONE && operation->state != OPERATION_READABLE);
    bool is_answer = status == 0 || status == ERR_NOT_FOUND || status == ERR_EXISTS ||
                     status == ERR_CONDITION_FAILED;
    if (operation->maybe_applied && !is_answer) {
        status = ERR_UNKNOWN_OUTCOME;
    }
    operation->status = status;
    operation->state = status == 0 && is_read(operation) && !operation->has_record
                           ? OPERATION_READABLE
                           : OPERATION_DONE;
    operation->request->unfinished--;
}

/* --- Taking a request apart */

static int judge_key(size_t size)
{
    return size == 0 ? ERR_KEY_EMPTY : size > LIMIT_KEY_BYTES ? ERR_KEY_TOO_LONG : 0;
}

static void convert_attributes(const Cairn__V1__Attributes *from, struct attributes *to)
{
    if (from) {
        *to = (struct attributes){
            .mask = from->mask & (ATTRIBUTE_MODE | ATTRIBUTE_UID | ATTRIBUTE_GID | ATTRIBUTE_MTIME |
                                  ATTRIBUTE_FLAGS | ATTRIBUTE_EXPIRES),
            .mode = from->mode & 07777,
            .uid = from->uid,
            .gid = from->gid,
            .flags = from->flags & RECORD_DIRECTORY,
            .mtime_us = from->mtime_us,
            .expires_at_us = from->expires_at_us,
        };
    }
}

/* False: there is no memory for it. */
static bool make_command(struct operation *operation, const Operation *from, struct span value)
{
    static const uint8_t types[] = {
        [CAIRN__V1__OPERATION__KIND__PUT] = COMMAND_PUT,
        [CAIRN__V1__OPERATION__KIND__DELETE] = COMMAND_DELETE,
        [CAIRN__V1__OPERATION__KIND__SETATTR] = COMMAND_SETATTR,
    };
    struct command command = {
        .type = types[from->kind],
        .feature_level = (uint16_t)operation->request->node->topology->feature_level,
        .condition = (uint8_t)from->condition,
        .condition_version = from->version,
        .key = operation->key,
        .value = value,
    };
    if (from->session) {
        command.session = (struct session_id){ from->session->id_high, from->session->id_low };
        command.number = from->session->number;
        command.lowest = from->session->lowest;
        command.client_time = from->session->client_time;
        operation->has_session = command.number != 0;
    }
    convert_attributes(from->attributes, &command.attributes);
    struct mem_gate *gate = env_gate(operation->request->node->env, MEM_REQUEST);
    operation->command = command_try_pack(&command, gate);
    return operation->command != NULL;
}

static int judge_operation(const Operation *from, struct span value)
{
    if (value.size > LIMIT_VALUE_BYTES) {
        return ERR_VALUE_TOO_LARGE;
    }
    if (from->condition > CAIRN__V1__CONDITION__PRESENT ||
        from->kind > CAIRN__V1__OPERATION__KIND__SETATTR || from->ack > CAIRN__V1__ACK__ALL ||
        (from->session && from->session->number != 0 &&
         from->session->lowest > from->session->number)) {
        return ERR_BAD_REQUEST;
    }
    return 0;
}

/* What every operation has; kind, key and consistency are filled. False: it is bad, or was (status), and done with that error. */
static bool begin_operation(struct request *request, struct operation *operation, int status)
{
    operation->request = request;
    operation->state = OPERATION_NEW;
    int key_status = judge_key(operation->key.size);
    status = key_status != 0 ? key_status : status;
    if (status == 0 && operation->consistency > CAIRN__V1__CONSISTENCY__STALE) {
        status = ERR_BAD_REQUEST;
    }
    if (status != 0) {
        operation->has_record = false;
        finish_operation(operation, status);
        return false;
    }
    const struct topology *topology = request->node->topology;
    operation->group = topology->partitions[topology_locate(topology, operation->key)].group;
    return true;
}

/* Fills one operation; a bad one is done at once with its error. */
static void take_operation(struct request *request, struct operation *operation,
                           const Operation *from, struct span value)
{
    operation->kind = from->kind;
    operation->key = span_of(from->key.data, from->key.len);
    operation->consistency = from->consistency;
    operation->max_staleness_ms = from->max_staleness_ms;
    operation->ack_all = from->ack == CAIRN__V1__ACK__ALL;
    if (begin_operation(request, operation, judge_operation(from, value)) && !is_read(operation) &&
        !make_command(operation, from, value)) {
        finish_operation(operation, ERR_NO_MEMORY);
    }
}

static bool take_multi(struct request *request, const Cairn__V1__MultiRequest *message,
                       struct span payload)
{
    if (message->n_operations == 0 || message->n_operations > LIMIT_MULTI_OPERATIONS) {
        request_fail(request, message->n_operations ? ERR_LIMIT : ERR_BAD_REQUEST,
                     "bad number of operations");
        return false;
    }
    uint64_t sum = 0;
    for (size_t i = 0; i < message->n_operations; i++) {
        sum += message->operations[i]->value_size;
    }
    if (sum != payload.size) {
        request_fail(request, ERR_BAD_REQUEST, "value sizes do not add up to the payload");
        return false;
    }
    size_t size_all = message->n_operations * sizeof *request->operations;
    request->operations = request_try_alloc(request, size_all);
    if (!request->operations) {
        request_fail(request, ERR_NO_MEMORY, NULL);
        return false;
    }
    request->operation_count = request->unfinished = message->n_operations;
    size_t at = 0;
    for (size_t i = 0; i < message->n_operations; i++) {
        size_t size = message->operations[i]->value_size;
        take_operation(request, &request->operations[i], message->operations[i],
                       span_of(payload.data + at, size));
        at += size;
    }
    return true;
}

/* The single verbs, as an operation. False: malformed. */
static bool take_single(struct request *request, const struct frame *frame, Operation *out)
{
    ProtobufCAllocator *allocator = &request->allocator;
    cairn__v1__operation__init(out);
    if (frame->verb == VERB_GET) {
        Cairn__V1__GetRequest *get =
            message_unpack(&cairn__v1__get_request__descriptor, allocator, frame->message);
        if (get) {
            out->kind = get->meta_only ? CAIRN__V1__OPERATION__KIND__GET_META
                                       : CAIRN__V1__OPERATION__KIND__GET;
            out->key = get->key;
            out->consistency = get->consistency;
            out->max_staleness_ms = get->max_staleness_ms;
        }
        return get != NULL;
    }
    if (frame->verb == VERB_PUT) {
        Cairn__V1__PutRequest *put =
            message_unpack(&cairn__v1__put_request__descriptor, allocator, frame->message);
        if (put) {
            out->kind = CAIRN__V1__OPERATION__KIND__PUT;
            out->key = put->key;
            out->condition = put->condition;
            out->version = put->version;
            out->attributes = put->attributes;
            out->session = put->session;
            out->ack = put->ack;
        }
        return put != NULL;
    }
    if (frame->verb == VERB_DELETE) {
        Cairn__V1__DeleteRequest *delete =
            message_unpack(&cairn__v1__delete_request__descriptor, allocator, frame->message);
        if (delete) {
            out->kind = CAIRN__V1__OPERATION__KIND__DELETE;
            out->key = delete->key;
            out->condition = delete->condition;
            out->version = delete->version;
            out->session = delete->session;
            out->ack = delete->ack;
        }
        return delete != NULL;
    }
    Cairn__V1__SetattrRequest *setattr =
        message_unpack(&cairn__v1__setattr_request__descriptor, allocator, frame->message);
    if (setattr) {
        out->kind = CAIRN__V1__OPERATION__KIND__SETATTR;
        out->key = setattr->key;
        out->condition = setattr->condition;
        out->version = setattr->version;
        out->attributes = setattr->attributes;
        out->session = setattr->session;
        out->ack = setattr->ack;
    }
    return setattr != NULL;
}

static bool is_multi(const struct request *request)
{
    return request->verb == VERB_MULTI;
}

/* A get in its usual form, as most requests are. False: there is no memory for its key. */
static bool take_get(struct request *request, const struct get_question *get)
{
    struct operation *operation = &request->single;
    uint8_t *key = get->key.size <= sizeof request->small_key
                       ? request->small_key
                       : arena_try_alloc(&request->arena, get->key.size);
    if (!key) {
        return false;
    }
    if (get->key.size > 0) {
        memcpy(key, get->key.data, get->key.size);
    }
    operation->kind =
        get->meta_only ? CAIRN__V1__OPERATION__KIND__GET_META : CAIRN__V1__OPERATION__KIND__GET;
    operation->key = span_of(key, get->key.size);
    operation->consistency = (Cairn__V1__Consistency)get->consistency;
    operation->max_staleness_ms = get->max_staleness_ms;
    begin_operation(request, operation, 0);
    return true;
}

/* Any single verb. False: malformed, or there is no memory for it. */
static bool take_other(struct request *request, const struct frame *frame)
{
    Operation operation;
    if (!take_single(request, frame, &operation)) {
        return false;
    }
    take_operation(request, &request->single, &operation, frame->payload);
    return true;
}

void kv_start(struct request *request, const struct frame *frame)
{
    if (is_multi(request)) {
        Cairn__V1__MultiRequest *message = message_unpack(&cairn__v1__multi_request__descriptor,
                                                          &request->allocator, frame->message);
        if (!message) {
            request_fail_unpack(request);
            return;
        }
        if (!take_multi(request, message, frame->payload)) {
            return;
        }
    } else {
        struct get_question get;
        bool is_usual = frame->verb == VERB_GET && get_question_unpack(frame->message, &get);
        request->operations = &request->single;
        request->operation_count = request->unfinished = 1;
        if (is_usual ? !take_get(request, &get) : !take_other(request, frame)) {
            request_fail_unpack(request);
            return;
        }
    }
    kv_dispatch(request);
}

/* --- To the partitions */

static void on_write_done(struct partition_write *write, int status,
                          const struct store_result *result)
{
    struct operation *operation = container_of(write, struct operation, write);
    operation->partition = NULL;
    if (status == ERR_NOT_PRIMARY || (status == ERR_UNKNOWN_OUTCOME && operation->has_session)) {
        /* With a session the retry is harmless whatever became of the first try. */
        operation->maybe_applied = operation->maybe_applied || status == ERR_UNKNOWN_OUTCOME;
        operation->state = OPERATION_NEW;
        request_park(operation->request);
        return;
    }
    if (status == 0) {
        operation->result = *result;
        status = result->status;
    }
    finish_operation(operation, status);
    kv_settle(operation->request);
}

static void on_read_done(struct partition_read *read, int status)
{
    struct operation *operation = container_of(read, struct operation, read);
    operation->partition = NULL;
    if (status == ERR_NOT_PRIMARY) {
        operation->state = OPERATION_NEW;
        request_park(operation->request);
        return;
    }
    finish_operation(operation, status);
    kv_settle(operation->request);
}

/* A command that was proposed before may still be on its way somewhere; proposing stamps a new
 * time, so it needs its own copy. False: there is no memory for that. */
static bool own_command(struct operation *operation)
{
    if (operation->command->references > 1) {
        struct mem_gate *gate = env_gate(operation->request->node->env, MEM_REQUEST);
        struct blob *copy = blob_try_new(gate, operation->command->size);
        if (!copy) {
            return false;
        }
        memcpy(copy->data, operation->command->data, copy->size);
        blob_unref(operation->command);
        operation->command = copy;
    }
    return true;
}

static bool is_weak_read(const struct operation *operation)
{
    return is_read(operation) && operation->consistency != CAIRN__V1__CONSISTENCY__LINEARIZABLE;
}

static bool is_stale_read(const struct operation *operation)
{
    return is_read(operation) && operation->consistency == CAIRN__V1__CONSISTENCY__STALE;
}

/* Whether the replica here may answer (or has just rightly answered) this weak read by itself. */
static bool may_read_alone(struct operation *operation, const struct partition *partition)
{
    if (!is_stale_read(operation)) {
        return partition_has_lease(partition);
    }
    operation->staleness_ms = partition_staleness_ms(partition);
    return partition_is_readable(partition) &&
           (operation->max_staleness_ms == 0 ||
            operation->staleness_ms <= operation->max_staleness_ms);
}

static const char *tell_staleness(struct operation *operation)
{
    enum { TEXT_BYTES = 160 };
    char *text = request_try_alloc(operation->request, TEXT_BYTES);
    if (!text) {
        return "the replica asked is too stale, and no primary could be reached";
    }
    if (operation->staleness_ms == UINT64_MAX) {
        snprintf(text, TEXT_BYTES,
                 "how stale the replica asked is, is not known, %lu ms were allowed, and no "
                 "primary could be "
                 "reached",
                 operation->max_staleness_ms);
    } else {
        snprintf(text, TEXT_BYTES,
                 "the replica asked is %lu ms stale, %lu ms were allowed, and no primary could be "
                 "reached",
                 operation->staleness_ms, operation->max_staleness_ms);
    }
    return text;
}

/* From now on it is a linearizable read. */
static void bar_weak_way(struct operation *operation)
{
    if (is_stale_read(operation) && operation->max_staleness_ms != 0) {
        operation->text = tell_staleness(operation);
    }
    operation->consistency = CAIRN__V1__CONSISTENCY__LINEARIZABLE;
    operation->staleness_ms = 0;
    operation->is_alone = false;
}

/* Stays new when there is no memory. */
static void start_here(struct operation *operation, struct partition *partition)
{
    if (is_read(operation)) {
        operation->partition = partition;
        operation->state = OPERATION_READING;
        operation->read = (struct partition_read){ .done = on_read_done };
        partition_read(partition, &operation->read);
    } else if (own_command(operation)) {
        operation->partition = partition;
        operation->request->may_have_written = true;
        operation->state = OPERATION_WRITING;
        operation->write = (struct partition_write){ .payload = blob_ref(operation->command),
                                                     .ack_all = operation->ack_all,
                                                     .done = on_write_done };
        partition_write(partition, &operation->write);
    }
}

/* An operation in protocol form. */
struct remade {
    Operation operation;
    Cairn__V1__Attributes attributes;
    Cairn__V1__Session session;
};

static void pack_attributes(const struct attributes *from, Cairn__V1__Attributes *to)
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
        pack_attributes(&command.attributes, &room->attributes);
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
        request->may_have_written = request->may_have_written || !is_read(marked[i]);
    }
    return true;
}

/* As request_link_to; a stale read goes to any replica. */
static struct link *choose_link(struct operation *operation, int *status)
{
    if (is_stale_read(operation)) {
        struct link *link = request_link_to_replica(operation->request, operation->group);
        if (link) {
            *status = 0;
            return link;
        }
    }
    return request_link_to(operation->request, operation->group, status);
}

/* Sends the new operations that go to `link` on their way, beginning with number `first`. False:
 * there is no memory. */
static bool forward_to(struct request *request, struct link *link, size_t first)
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
        if (operation->state == OPERATION_NEW && choose_link(operation, &status) == link) {
            marked[count++] = operation;
        }
    }
    return forward_marked(request, link, marked, count);
}

/* Begins what the replicas here can do. */
static void dispatch_here(struct request *request)
{
    for (size_t i = 0; i < request->operation_count; i++) {
        struct operation *operation = &request->operations[i];
        struct partition *partition = node_find_partition(request->node, operation->group);
        if (operation->state != OPERATION_NEW || !partition) {
            continue;
        }
        if (is_weak_read(operation) && may_read_alone(operation, partition)) {
            operation->is_alone = true;
            finish_operation(operation, 0);
            continue;
        }
        if (is_stale_read(operation)) {
            bar_weak_way(operation);
        }
        if (partition_is_primary(partition)) {
            start_here(operation, partition);
        }
    }
}

void kv_dispatch(struct request *request)
{
    bool must_park = false;
    dispatch_here(request);
    for (size_t i = 0; i < request->operation_count; i++) {
        struct operation *operation = &request->operations[i];
        if (operation->state != OPERATION_NEW) {
            continue;
        }
        int status;
        struct link *link = choose_link(operation, &status);
        if (status != 0) {
            finish_operation(operation, operation->maybe_applied ? ERR_UNKNOWN_OUTCOME : status);
        } else if (link && !forward_to(request, link, i)) {
            must_park = true; /* what is still new gets another try */
            break;
        } else if (link) {
            continue;
        } else if (operation->text && is_read(operation)) {
            finish_operation(operation,
                             ERR_UNAVAILABLE); /* too stale here: another replica may do better */
        } else {
            must_park = true;
        }
    }
    if (must_park) {
        request_park(request);
    }
    kv_settle(request);
}

/* --- Answers of other nodes */

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
        convert_attributes(from->meta->attributes, &record->attributes);
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

/* It is asked again, a read at the primary this time. */
static void ask_again(struct operation *operation)
{
    if (is_stale_read(operation)) {
        bar_weak_way(operation);
        operation->text = NULL; /* the replica that was asked is not heard */
    }
    operation->state = OPERATION_NEW;
    request_park(operation->request);
}

static void take_result(struct operation *operation, const OperationResult *from, struct span value)
{
    if (is_try_again(from->status)) {
        ask_again(operation);
        return;
    }
    operation->staleness_ms = from->staleness_ms;
    operation->text = from->text[0] ? from->text : NULL;
    operation->result = (struct store_result){ .status = from->status,
                                               .version = from->version,
                                               .time = from->time,
                                               .existed = from->existed };
    bool has_memory =
        from->status != 0 || !is_read(operation) || take_record(operation, from, value);
    finish_operation(operation, has_memory ? from->status : ERR_NO_MEMORY);
}

static void fail_forward(struct forward *forward, int status)
{
    for (size_t i = 0; i < forward->count; i++) {
        struct operation *operation = forward->operations[i];
        if (is_try_again(status)) {
            ask_again(operation);
        } else {
            finish_operation(operation, status);
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
        if (is_read(operation) || operation->has_session) {
            operation->maybe_applied = !is_read(operation);
            ask_again(operation);
        } else {
            finish_operation(operation, ERR_UNKNOWN_OUTCOME);
        }
    }
    kv_settle(request);
}

/* --- The end */

/* The deadline passed: what is not finished becomes unavailable, or unknown if it may have been
 * applied. */
void kv_expire(struct request *request)
{
    for (size_t i = 0; i < request->operation_count; i++) {
        struct operation *operation = &request->operations[i];
        int status = operation->maybe_applied ? ERR_UNKNOWN_OUTCOME : ERR_UNAVAILABLE;
        switch (operation->state) {
        case OPERATION_WRITING:
            if (operation->write.index != 0) {
                status = ERR_UNKNOWN_OUTCOME;
            }
            if (operation->write.is_applied) {
                operation->text =
                    "applied by a majority; not every reachable replica confirmed in time";
            }
            partition_write_forget(operation->partition, &operation->write);
            break;
        case OPERATION_READING:
            partition_read_forget(operation->partition, &operation->read);
            break;
        case OPERATION_FORWARDED:
            status = is_read(operation) ? ERR_UNAVAILABLE : ERR_UNKNOWN_OUTCOME;
            break;
        case OPERATION_NEW:
            break;
        case OPERATION_READABLE:
        case OPERATION_DONE:
            continue;
        }
        finish_operation(operation, status);
    }
    struct list *taken;
    while ((taken = list_take_first(&request->forwards))) {
        container_of(taken, struct forward, link_in_request)->request = NULL;
    }
    kv_settle(request);
}

void kv_drop(struct request *request)
{
    for (size_t i = 0; i < request->operation_count; i++) {
        struct operation *operation = &request->operations[i];
        if (operation->state == OPERATION_WRITING) {
            partition_write_forget(operation->partition, &operation->write);
        } else if (operation->state == OPERATION_READING) {
            partition_read_forget(operation->partition, &operation->read);
        }
        blob_unref(operation->command);
        operation->command = NULL;
    }
    request->operation_count = 0;
}

/* The record here is damaged, and others have it: the replica is given up in this turn (store.h,
 * on_damaged), so it is asked again, of another one. */
static bool is_elsewhere(const struct operation *operation, const struct partition *partition)
{
    return (operation->status == ERR_CORRUPT || operation->status == ERR_FORMAT) &&
           partition_topology(partition)->replica_count > 1;
}

/* Reads what may be read now. */
static void read_record(struct operation *operation)
{
    struct node *node = operation->request->node;
    struct partition *partition = node_find_partition(node, operation->group);
    struct err err;
    operation->status =
        store_get(partition_store(partition), operation->key, &operation->record, &err);
    operation->has_record = operation->status == 0;
    operation->was_read_here = true;
    operation->state = OPERATION_DONE;
    if (operation->status != 0 && operation->status != ERR_NOT_FOUND) {
        LOG_ERROR(node->logger, "part=%u read failed: %s (%s)", operation->group, err.text,
                  err_info(operation->status)->name);
    }
    if (is_elsewhere(operation, partition)) {
        operation->is_alone = operation->was_read_here = false;
        operation->request->unfinished++;
        ask_again(operation);
    }
}

struct meta {
    Cairn__V1__Meta meta;
    Cairn__V1__Attributes attributes;
};

static Cairn__V1__Meta *make_meta(const struct record *record, struct meta *room)
{
    Cairn__V1__Meta *meta = &room->meta;
    cairn__v1__meta__init(meta);
    meta->version = record->version;
    meta->time = record->time;
    meta->size = record->value.size;
    if (record->attributes.mask != 0) {
        pack_attributes(&record->attributes, &room->attributes);
        meta->attributes = &room->attributes;
    }
    return meta;
}

/* The log's time may be far ahead of the clock here, when another node's leapt. Whoever asked must
 * hear it, or its writes would go on to be refused as late. */
static void note_time(struct request *request, const struct operation *operation)
{
    if (operation->result.time > request->newest_time) {
        request->newest_time = operation->result.time;
    }
}

static void count_operation(struct node *node, const struct operation *operation)
{
    if (is_read(operation)) {
        node->counters.gets++;
    } else if (operation->kind == CAIRN__V1__OPERATION__KIND__DELETE) {
        node->counters.deletes++;
    } else {
        node->counters.puts++;
    }
}

/* What is known beyond the status, if that is of the kind that it explains. */
static const char *text_of(const struct operation *operation)
{
    bool fits = operation->status == ERR_UNAVAILABLE || operation->status == ERR_UNKNOWN_OUTCOME;
    return fits ? operation->text : NULL;
}

/* A get that found a record without attributes, as most are. */
static void answer_get(struct request *request)
{
    struct operation *operation = &request->operations[0];
    uint64_t leader = node_leader_of(request->node, operation->group);
    struct get_answer answer = { .version = operation->record.version,
                                 .time = operation->record.time,
                                 .size = operation->record.value.size,
                                 .has_hint = leader != request->node->id,
                                 .group = operation->group,
                                 .node_id = leader,
                                 .staleness_ms = operation->staleness_ms };
    uint8_t packed[GET_ANSWER_BYTES];
    struct span message = span_of(packed, get_answer_pack(&answer, packed));
    struct conn_piece piece = { operation->record.value, NULL };
    bool has_value = operation->kind == CAIRN__V1__OPERATION__KIND__GET;
    request_answer_packed(request, 0, 0, message, &piece, has_value ? 1 : 0);
}

static void answer_single(struct request *request)
{
    struct operation *operation = &request->operations[0];
    int status = operation->status;
    if (status == 0 && is_read(operation) && operation->record.attributes.mask == 0) {
        answer_get(request);
        return;
    }
    Cairn__V1__Hint hint;
    request_make_hint(request, operation->group, &hint);
    bool is_condition = status == ERR_EXISTS || status == ERR_CONDITION_FAILED;
    if (status != 0 && !is_condition) {
        Cairn__V1__ErrorInfo info = CAIRN__V1__ERROR_INFO__INIT;
        info.hint = &hint;
        info.staleness_ms = operation->staleness_ms;
        if (text_of(operation)) {
            info.text = (char *)text_of(operation);
        }
        request_answer(request, status, 0, &info.base, NULL, 0);
        return;
    }
    if (is_read(operation)) {
        Cairn__V1__GetResponse response = CAIRN__V1__GET_RESPONSE__INIT;
        struct meta meta;
        response.meta = make_meta(&operation->record, &meta);
        response.hint = &hint;
        response.staleness_ms = operation->staleness_ms;
        struct conn_piece piece = { operation->record.value, NULL };
        bool has_value = operation->kind == CAIRN__V1__OPERATION__KIND__GET;
        request_answer(request, 0, 0, &response.base, &piece, has_value ? 1 : 0);
        return;
    }
    if (operation->kind == CAIRN__V1__OPERATION__KIND__DELETE) {
        Cairn__V1__DeleteResponse response = CAIRN__V1__DELETE_RESPONSE__INIT;
        response.version = operation->result.version;
        response.existed = operation->result.existed;
        response.hint = &hint;
        request_answer(request, status, 0, &response.base, NULL, 0);
        return;
    }
    Cairn__V1__PutResponse response = CAIRN__V1__PUT_RESPONSE__INIT;
    response.version = operation->result.version;
    response.time = operation->result.time;
    response.hint = &hint;
    request_answer(request, status, 0, &response.base, NULL, 0);
}

/* What an operation of a multi is answered with. */
struct multi_result {
    OperationResult result;
    struct meta meta;
    Cairn__V1__Hint hint;
};

static OperationResult *make_result(const struct operation *operation, struct multi_result *room,
                                    struct conn_piece *piece)
{
    OperationResult *out = &room->result;
    cairn__v1__operation_result__init(out);
    out->status = operation->status;
    out->version = operation->result.version;
    out->time = operation->result.time;
    out->existed = operation->result.existed;
    out->staleness_ms = operation->staleness_ms;
    if (text_of(operation)) {
        out->text = (char *)text_of(operation);
    }
    *piece = (struct conn_piece){ { NULL, 0 }, NULL };
    if (operation->has_record) {
        out->meta = make_meta(&operation->record, &room->meta);
        out->version = operation->record.version;
        out->time = operation->record.time;
        if (operation->kind == CAIRN__V1__OPERATION__KIND__GET) {
            out->value_size = (uint32_t)operation->record.value.size;
            piece->bytes = operation->record.value;
        }
    }
    return out;
}

/* Hints for groups that are led elsewhere, so that the asker learns; a group may be named twice. */
static void make_hints(struct request *request, struct multi_result *rooms,
                       Cairn__V1__MultiResponse *response)
{
    for (size_t i = 0; i < request->operation_count; i++) {
        uint32_t group = request->operations[i].group;
        uint64_t leader = group ? node_leader_of(request->node, group) : 0;
        if (leader != 0 && leader != request->node->id) {
            request_make_hint(request, group, &rooms[i].hint);
            response->hints[response->n_hints++] = &rooms[i].hint;
        }
    }
}

/* Values that do not fit one frame any more are not sent: their operations answer ERR_LIMIT, and
 * the asker gets them one by one. */
static void answer_multi(struct request *request)
{
    Cairn__V1__MultiResponse response = CAIRN__V1__MULTI_RESPONSE__INIT;
    struct multi_result *rooms;
    struct conn_piece *pieces;
    size_t count = request->operation_count, bytes = 0;
    if (!request_reserve(request,
                         count * (sizeof *response.results + sizeof *response.hints +
                                  sizeof *rooms + sizeof *pieces),
                         4)) {
        request_starve(request);
        return;
    }
    response.results = request_take(request, count * sizeof *response.results);
    response.hints = request_take(request, count * sizeof *response.hints);
    rooms = request_take(request, count * sizeof *rooms);
    pieces = request_take(request, count * sizeof *pieces);
    for (size_t i = 0; i < request->operation_count; i++) {
        struct operation *operation = &request->operations[i];
        if (operation->has_record && operation->kind == CAIRN__V1__OPERATION__KIND__GET) {
            if (bytes + operation->record.value.size > LIMIT_VALUE_BYTES) {
                operation->has_record = false;
                operation->status = ERR_LIMIT;
            } else {
                bytes += operation->record.value.size;
            }
        }
        response.results[response.n_results++] = make_result(operation, &rooms[i], &pieces[i]);
    }
    make_hints(request, rooms, &response);
    request_answer(request, 0, 0, &response.base, pieces, count);
}

/* After the read: who read alone must have had the right to. False: some had not and are asked
 * anew; all others are read once more with them. */
static bool judge_alone(struct request *request)
{
    for (size_t i = 0; i < request->operation_count; i++) {
        struct operation *operation = &request->operations[i];
        struct partition *partition = node_find_partition(request->node, operation->group);
        if (operation->is_alone && !may_read_alone(operation, partition)) {
            bar_weak_way(operation);
            operation->has_record = operation->was_read_here = false;
            operation->state = OPERATION_NEW;
            request->unfinished++;
        }
    }
    if (request->unfinished == 0) {
        return true;
    }
    for (size_t i = 0; i < request->operation_count; i++) {
        struct operation *operation = &request->operations[i];
        if (operation->was_read_here) {
            operation->has_record = operation->was_read_here = false;
            operation->state = OPERATION_READABLE;
        }
    }
    request_park(request);
    return false;
}

/* Who asks and does not read gets no more values: they may be asked for again. */
static void drop_excess(struct request *request)
{
    size_t room = request_room(request);
    for (size_t i = 0; i < request->operation_count; i++) {
        struct operation *operation = &request->operations[i];
        if (!operation->has_record || operation->kind != CAIRN__V1__OPERATION__KIND__GET) {
            continue;
        }
        if (operation->record.value.size > room) {
            operation->has_record = false;
            operation->status = ERR_BUSY;
        } else {
            room -= operation->record.value.size;
        }
    }
}

/* Answers when nothing is open any more. May free the request. */
static void kv_settle(struct request *request)
{
    if (request->unfinished > 0) {
        return;
    }
    for (size_t i = 0; i < request->operation_count; i++) {
        if (request->operations[i].state == OPERATION_READABLE) {
            read_record(&request->operations[i]);
        }
    }
    if (!judge_alone(request)) {
        return;
    }
    for (size_t i = 0; i < request->operation_count; i++) {
        count_operation(request->node, &request->operations[i]);
        note_time(request, &request->operations[i]);
    }
    drop_excess(request);
    request_set_kind(request, MEM_ANSWER);
    if (is_multi(request)) {
        answer_multi(request);
    } else {
        answer_single(request);
    }
}
