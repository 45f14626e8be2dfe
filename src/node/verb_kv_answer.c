/* Requests on keys when nothing is open any more: what may be read is read, who read alone is judged, then all is answered at once
 * (verb_kv.c). */
#include "node/verb_kv_private.h"

/* --- Reading */

/* The record here is damaged, and others have it: the replica is given up in this turn (store.h,
 * on_damaged), so it is asked again, of another one. */
static bool is_elsewhere(const struct operation *operation, const struct partition *partition)
{
    return (operation->status == ERR_CORRUPT || operation->status == ERR_FORMAT) &&
           partition_topology(partition)->replica_count > 1;
}

/* What leave was given for is in the store, still: an image that repairs it may be older. */
static bool is_fresh(const struct operation *operation, struct partition *partition)
{
    return operation->is_alone ||
           operation->read.index <= store_replica_applied(partition_store(partition));
}

/* Reads what may be read now. */
static void read_record(struct operation *operation)
{
    struct node *node = operation->request->node;
    struct partition *partition = node_find_partition(node, operation->group);
    struct err err;
    if (!is_fresh(operation, partition)) {
        operation->request->unfinished++;
        kv_ask_again(operation);
        return;
    }
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
        kv_ask_again(operation);
    }
}

/* After the read: who read alone must have had the right to. False: some had not and are asked
 * anew; all others are read once more with them. */
static bool judge_alone(struct request *request)
{
    for (size_t i = 0; i < request->operation_count; i++) {
        struct operation *operation = &request->operations[i];
        struct partition *partition = node_find_partition(request->node, operation->group);
        if (operation->is_alone && !kv_may_read_alone(operation, partition)) {
            kv_bar_weak_way(operation);
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

/* --- Answering */

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
        kv_pack_attributes(&record->attributes, &room->attributes);
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
    if (kv_is_read(operation)) {
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
    bool has_value = operation->kind == CAIRN__V1__OPERATION__KIND__GET;
    request_answer_get(request, &answer, operation->record.value, has_value);
}

static void answer_single(struct request *request)
{
    struct operation *operation = &request->operations[0];
    int status = operation->status;
    if (status == 0 && kv_is_read(operation) && operation->record.attributes.mask == 0) {
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
    if (kv_is_read(operation)) {
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

void kv_settle(struct request *request)
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
    if (kv_is_multi(request)) {
        answer_multi(request);
    } else {
        answer_single(request);
    }
}
