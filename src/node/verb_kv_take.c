/* Requests on keys as they come in: judged, and taken apart into operations (verb_kv.c). A get in its usual form has a short way. */
#include "node/verb_kv_private.h"

static int judge_key(size_t size)
{
    return size == 0 ? ERR_KEY_EMPTY : size > LIMIT_KEY_BYTES ? ERR_KEY_TOO_LONG : 0;
}

void kv_unpack_attributes(const Cairn__V1__Attributes *from, struct attributes *to)
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
    kv_unpack_attributes(from->attributes, &command.attributes);
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
        kv_finish(operation, status);
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
    if (begin_operation(request, operation, judge_operation(from, value)) &&
        !kv_is_read(operation) && !make_command(operation, from, value)) {
        kv_finish(operation, ERR_NO_MEMORY);
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

void kv_start_get(struct request *request, const struct get_question *get)
{
    request->operations = &request->single;
    request->operation_count = request->unfinished = 1;
    if (take_get(request, get)) {
        kv_dispatch(request);
    } else {
        request_fail_unpack(request);
    }
}

void kv_start(struct request *request, const struct frame *frame)
{
    struct get_question get;
    if (kv_is_multi(request)) {
        Cairn__V1__MultiRequest *message = message_unpack(&cairn__v1__multi_request__descriptor,
                                                          &request->allocator, frame->message);
        if (!message) {
            request_fail_unpack(request);
            return;
        }
        if (!take_multi(request, message, frame->payload)) {
            return;
        }
    } else if (frame->verb == VERB_GET && get_question_unpack(frame->message, &get)) {
        kv_start_get(request, &get);
        return;
    } else {
        request->operations = &request->single;
        request->operation_count = request->unfinished = 1;
        if (!take_other(request, frame)) {
            request_fail_unpack(request);
            return;
        }
    }
    kv_dispatch(request);
}
