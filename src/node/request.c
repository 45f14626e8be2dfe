/* The request: see request.h. Here: its life from arrival to answer, deadlines, parking,
 * forwarding.
 *
 *   request_start → kv_start / scan_start / admin_… → (parked, dispatched again)* → request_answer
 *
 * A request that finds no primary is parked and looked at again every tick until its deadline:
 * elections are over before most deadlines are. What is forwarded waits in the link's table for its
 * answer. Each request has an arena; finished structs are kept for reuse. */
#include "base/check.h"
#include "node/request_private.h"
#include "wire/gets_page.h"

enum {
    REQUEST_TIMEOUT_MS = 10 * 1000, /* when the asker names none */
    REQUEST_TIMEOUT_MS_MAX = 600 * 1000,
    FREE_REQUESTS_MAX = 1024,
    SMALL_ANSWER_BYTES = 512, /* an operation's answer, as a rule */
};

void request_origin_init(struct request_origin *origin,
                         void (*respond)(struct request_origin *origin, const struct frame *frame,
                                         const struct conn_piece *pieces, size_t count),
                         size_t (*room)(struct request_origin *origin),
                         void (*abandon)(struct request_origin *origin))
{
    list_init(&origin->requests);
    origin->count = origin->bytes = 0;
    origin->respond = respond;
    origin->room = room;
    origin->abandon = abandon;
}

/* --- Memory */

void request_set_kind(struct request *request, enum mem_kind kind)
{
    request->arena.gate = env_gate(request->node->env, kind);
    request->arena.has_refused = false;
}

bool request_reserve(struct request *request, size_t size, size_t count)
{
    return arena_try_reserve(&request->arena, size, count);
}

void *request_take(struct request *request, size_t size)
{
    return memset(arena_take(&request->arena, size), 0, size);
}

void *request_try_alloc(struct request *request, size_t size)
{
    void *memory = arena_try_alloc(&request->arena, size);
    return memory ? memset(memory, 0, size) : NULL;
}

/* NULL when there is no memory. */
static struct request *request_new(struct node *node)
{
    struct list *free_one = list_take_first(&node->free_requests);
    struct request *request;
    if (free_one) {
        request = container_of(free_one, struct request, link);
        struct arena arena = request->arena;
        memset(request, 0, REQUEST_CLEARED_BYTES);
        request->arena = arena;
        node->free_request_count--;
    } else {
        request = MEM_TRY_NEW(env_gate(node->env, MEM_REQUEST), struct request);
        if (!request) {
            return NULL;
        }
    }
    request->node = node;
    request_set_kind(request, MEM_REQUEST);
    request->allocator = message_allocator(&request->arena);
    list_init(&request->forwards);
    list_append(&node->requests, &request->link);
    return request;
}

static void request_free(struct request *request)
{
    struct node *node = request->node;
    kv_drop(request);
    scan_drop(request);
    struct list *taken;
    while ((taken = list_take_first(&request->forwards))) {
        container_of(taken, struct forward, link_in_request)->request = NULL;
    }
    list_remove(&request->link);
    list_remove(&request->parked_link);
    if (request->origin) {
        list_remove(&request->origin_link);
        request->origin->count--;
        request->origin->bytes -= request->value_bytes;
    }
    if (node->free_request_count < FREE_REQUESTS_MAX) {
        arena_reset(&request->arena);
        list_prepend(&node->free_requests, &request->link); /* the last used is still at hand */
        node->free_request_count++;
    } else {
        arena_fini(&request->arena);
        mem_free(request);
    }
}

/* --- Answers */

size_t request_room(const struct request *request)
{
    return request->origin ? request->origin->room(request->origin) : LIMIT_FRAME_BYTES;
}

static void count_failure(struct node *node, int status)
{
    if (status != 0 && status != ERR_NOT_FOUND && status != ERR_EXISTS &&
        status != ERR_CONDITION_FAILED) {
        node->counters.requests_failed++;
    }
}

void request_starve(struct request *request)
{
    if (!request->may_have_written) {
        request_fail(request, ERR_NO_MEMORY, NULL);
        return;
    }
    CHECK(!request->is_finished);
    request->is_finished = true;
    count_failure(request->node, ERR_NO_MEMORY);
    if (request->origin) {
        request->origin->abandon(request->origin);
    }
    request_free(request);
}

/* False: there is no memory for it. */
static bool pack_answer(struct request *request, const ProtobufCMessage *message, uint8_t *small,
                        size_t small_size, struct span *out)
{
    size_t size = message_size(message);
    uint8_t *packed = size <= small_size ? small : arena_try_alloc(&request->arena, size);
    if (packed) {
        message_pack(message, packed);
        *out = span_of(packed, size);
    }
    return packed != NULL;
}

void request_answer(struct request *request, int status, uint16_t flags,
                    const ProtobufCMessage *message, const struct conn_piece *pieces, size_t count)
{
    uint8_t small[SMALL_ANSWER_BYTES];
    struct span packed = { 0 };
    CHECK(!request->is_finished);
    bool has_room =
        !message || !request->origin || pack_answer(request, message, small, sizeof small, &packed);
    if (!has_room && status == 0) {
        request_starve(request);
        return;
    } /* a failure is told without its text then */
    request_answer_packed(request, status, flags, packed, pieces, count);
}

/* What every answer's frame has. */
static struct frame answer_head(const struct request *request)
{
    struct node *node = request->node;
    uint64_t time = node_time(node);
    return (struct frame){
        .type = FRAME_RESPONSE,
        .verb = request->verb,
        .request_id = request->id,
        .trace_id = request->trace_id,
        .epoch = node->topology ? node->topology->epoch : 0,
        .time = time > request->newest_time ? time : request->newest_time,
    };
}

/* False: not this one, or not there. What another node told has its time to tell (newest_time), which a frame that is begun
 * can't. */
static bool answer_gathered(struct request *request, const struct gets_page_answer *answer)
{
    struct request_origin *origin = request->origin;
    if (!request->is_gathered || !origin || request->newest_time > 0 ||
        (answer->has_value && answer->value.size > GETS_PAGE_VALUE_BYTES)) {
        return false;
    }
    size_t size = gets_page_answer_size(answer);
    uint8_t *room = origin->extend(origin, NULL, size);
    if (!room) {
        struct frame head = answer_head(request);
        head.verb = VERB_GETS;
        head.request_id = head.trace_id = 0;
        room = origin->extend(origin, &head, size);
    }
    if (room) { /* else the connection closes */
        gets_page_answer(room, answer);
    }
    return true;
}

void request_answer_get(struct request *request, const struct get_answer *get, struct span value,
                        bool has_value)
{
    CHECK(!request->is_finished);
    struct gets_page_answer answer = { request->id, *get, has_value, value };
    if (answer_gathered(request, &answer)) {
        request->is_finished = true;
        request_free(request);
        return;
    }
    uint8_t packed[GET_ANSWER_BYTES];
    struct span message = span_of(packed, get_answer_pack(get, packed));
    struct conn_piece piece = { value, NULL };
    request_answer_packed(request, 0, 0, message, &piece, has_value ? 1 : 0);
}

void request_answer_packed(struct request *request, int status, uint16_t flags, struct span message,
                           const struct conn_piece *pieces, size_t count)
{
    struct node *node = request->node;
    CHECK(!request->is_finished);
    request->is_finished = true;
    count_failure(node, status);
    if (request->origin) {
        struct frame frame = answer_head(request);
        frame.flags = flags;
        frame.status = status;
        frame.message = message;
        request->origin->respond(request->origin, &frame, pieces, count);
    }
    request_free(request);
}

void request_fail(struct request *request, int status, const char *text)
{
    Cairn__V1__ErrorInfo info = CAIRN__V1__ERROR_INFO__INIT;
    info.text = (char *)(text ? text : "");
    request_answer(request, status, 0, &info.base, NULL, 0);
}

void request_fail_unpack(struct request *request)
{
    if (request->arena.has_refused) {
        request_fail(request, ERR_NO_MEMORY, NULL);
    } else {
        request_fail(request, ERR_BAD_REQUEST, "malformed message");
    }
}

void request_make_hint(struct request *request, uint32_t group, Cairn__V1__Hint *hint)
{
    cairn__v1__hint__init(hint);
    hint->group = group;
    hint->node_id = node_leader_of(request->node, group);
}

/* --- Arrival */

static void request_begin(struct request *request, const struct frame *frame)
{
    switch (frame->verb) {
    case VERB_GET:
    case VERB_PUT:
    case VERB_DELETE:
    case VERB_SETATTR:
    case VERB_MULTI:
        kv_start(request, frame);
        break;
    case VERB_SCAN:
        scan_start(request, frame);
        break;
    case VERB_TOPOLOGY:
        admin_topology(request, frame);
        break;
    case VERB_STATUS:
        admin_status(request, frame);
        break;
    default:
        request_fail(request, ERR_UNKNOWN_VERB, NULL);
    }
}

/* There is not even memory for the request. */
static void refuse_frame(struct node *node, struct request_origin *origin,
                         const struct frame *asked)
{
    struct frame frame = {
        .type = FRAME_RESPONSE,
        .verb = asked->verb,
        .status = ERR_NO_MEMORY,
        .request_id = asked->request_id,
        .trace_id = asked->trace_id,
        .time = node_time(node),
    };
    node->counters.requests++;
    count_failure(node, frame.status);
    origin->respond(origin, &frame, NULL, 0);
}

/* The request of a frame. NULL: it is answered already, with why not. */
static struct request *request_admit(struct node *node, struct request_origin *origin,
                                     const struct frame *frame, uint64_t now_us)
{
    struct request *request = request_new(node);
    if (!request) {
        refuse_frame(node, origin, frame);
        return NULL;
    }
    request->origin = origin;
    list_append(&origin->requests, &request->origin_link);
    origin->count++;
    request->value_bytes = frame->payload.size;
    origin->bytes += request->value_bytes;
    request->id = frame->request_id;
    request->trace_id = frame->trace_id;
    request->verb = frame->verb;
    request->flags = frame->flags;
    request->hops = frame->hops;
    uint32_t deadline_ms = frame->deadline_ms ? frame->deadline_ms : REQUEST_TIMEOUT_MS;
    deadline_ms = deadline_ms < REQUEST_TIMEOUT_MS_MAX ? deadline_ms : REQUEST_TIMEOUT_MS_MAX;
    request->deadline_us = now_us + (uint64_t)deadline_ms * 1000;
    node->counters.requests++;
    if (node->is_stopping || node->is_stopped) {
        request_fail(request, ERR_SHUTDOWN, NULL);
    } else if (!node->log && frame->verb != VERB_STATUS) {
        request_fail(request, ERR_UNAVAILABLE, "the cluster is not formed yet");
    } else {
        return request;
    }
    return NULL;
}

/* 0, or what is wrong with a frame of gets. */
static int judge_gets(const struct frame *frame)
{
    struct span page = frame->payload;
    struct get_question question;
    uint64_t id;
    size_t count = 0;
    while (gets_page_next_question(&page, &id, &question)) {
        count++;
    }
    return frame->message.size > 0 || page.size > 0 || count == 0 ? ERR_BAD_REQUEST
           : count > GETS_PAGE_QUESTIONS                          ? ERR_LIMIT
                                                                  : 0;
}

/* Gets that came together: from here on each is a request of its own. */
static void start_gets(struct node *node, struct request_origin *origin, const struct frame *frame,
                       uint64_t now_us)
{
    struct frame one = *frame;
    struct get_question question;
    one.verb = VERB_GET;
    one.payload = span_of(NULL, 0);
    for (struct span page = frame->payload;
         gets_page_next_question(&page, &one.request_id, &question);) {
        struct request *request = request_admit(node, origin, &one, now_us);
        if (request) {
            request->is_gathered = origin->extend != NULL;
            kv_start_get(request, &question);
        }
    }
}

void request_start(struct node *node, struct request_origin *origin, const struct frame *frame)
{
    uint64_t now_us = env_now_us(node->env);
    int status = frame->verb == VERB_GETS ? judge_gets(frame) : 0;
    if (frame->verb == VERB_GETS && status == 0) {
        start_gets(node, origin, frame, now_us);
        return;
    }
    struct request *request = request_admit(node, origin, frame, now_us);
    if (request && status != 0) {
        request_fail(request, status, "malformed gets");
    } else if (request) {
        request_begin(request, frame);
    }
}

void request_origin_gone(struct request_origin *origin)
{
    struct list *node;
    while ((node = list_take_first(&origin->requests))) {
        struct request *request = container_of(node, struct request, origin_link);
        request->origin = NULL;
        origin->count--;
        origin->bytes -= request->value_bytes;
    }
}

/* --- Routing */

static uint32_t left_ms(const struct request *request)
{
    uint64_t now_us = env_now_us(request->node->env);
    return now_us < request->deadline_us ? (uint32_t)((request->deadline_us - now_us + 999) / 1000)
                                         : 1;
}

struct link *request_link_to(struct request *request, uint32_t group, int *status)
{
    struct node *node = request->node;
    *status = 0;
    uint64_t leader = node_leader_of(node, group);
    if ((request->flags & FRAME_NO_FORWARD) || request->hops >= LIMIT_HOPS) {
        *status = ERR_NOT_PRIMARY;
        return NULL;
    }
    struct link *link = leader != 0 && leader != node->id ? membership_find(node, leader) : NULL;
    return link && link->peer.conn ? link : NULL;
}

struct link *request_link_to_replica(struct request *request, uint32_t group)
{
    struct node *node = request->node;
    const struct topology_partition *partition = topology_find_group(node->topology, group);
    if (!partition || (request->flags & FRAME_NO_FORWARD) || request->hops >= LIMIT_HOPS) {
        return NULL;
    }
    for (int i = 0; i < partition->replica_count; i++) {
        /* nodes begin at different ones, so that the load spreads */
        int at = (int)((node->id + (uint64_t)i) % (uint64_t)partition->replica_count);
        uint64_t node_id = partition->replicas[at].node_id;
        struct link *link = node_id != node->id ? membership_find(node, node_id) : NULL;
        if (link && link->peer.conn) {
            return link;
        }
    }
    return NULL;
}

void request_park(struct request *request)
{
    if (!list_is_linked(&request->parked_link)) {
        list_append(&request->node->parked, &request->parked_link);
    }
}

/* --- Forwarding */

struct forward *request_forward(struct request *request, struct link *link, uint16_t verb,
                                const ProtobufCMessage *message, const struct conn_piece *pieces,
                                size_t count)
{
    struct node *node = request->node;
    struct mem_gate *gate = env_gate(node->env, MEM_REQUEST);
    size_t size = message_size(message);
    uint8_t *packed = arena_try_alloc(&request->arena, size);
    struct forward *forward = packed && hashtab_try_reserve(&link->forwards, gate)
                                  ? MEM_TRY_NEW(gate, struct forward)
                                  : NULL;
    if (!forward) {
        return NULL;
    }
    forward->request = request;
    forward->link = link;
    forward->id = node->next_forward_id++;
    list_append(&request->forwards, &forward->link_in_request);
    hashtab_put(&link->forwards, forward->id, forward);
    message_pack(message, packed);
    struct frame frame = {
        .type = FRAME_REQUEST,
        .verb = verb,
        .hops = (uint8_t)(request->hops + 1),
        .request_id = forward->id,
        .deadline_ms = left_ms(request),
        .trace_id = request->trace_id,
        .epoch = node->topology->epoch,
        .time = node->hlc,
        .message = span_of(packed, size),
    };
    conn_send_pieces(link->conn, &frame, pieces, count);
    node->counters.requests_forwarded++;
    return forward;
}

void request_forward_answered(struct link *link, const struct frame *frame)
{
    struct forward *forward = hashtab_take(&link->forwards, frame->request_id);
    if (!forward) {
        return;
    }
    if (forward->request) {
        list_remove(&forward->link_in_request);
        if (forward->operations) {
            kv_forward_answered(forward, frame);
        } else {
            scan_forward_answered(forward, frame);
        }
    }
    mem_free(forward);
}

void request_link_lost(struct link *link)
{
    size_t position = 0;
    uint64_t id;
    struct forward *forward;
    while ((forward = hashtab_next(&link->forwards, &position, &id))) {
        hashtab_take(&link->forwards, id);
        if (forward->request) {
            list_remove(&forward->link_in_request);
            if (forward->operations) {
                kv_forward_lost(forward);
            } else {
                scan_forward_lost(forward);
            }
        }
        mem_free(forward);
    }
}

/* --- Time */

static void request_expire(struct request *request)
{
    if (request->scan) {
        request_fail(request, ERR_UNAVAILABLE,
                     "the deadline passed before every partition had answered");
    } else {
        kv_expire(request);
    }
}

void request_sweep(struct node *node)
{
    struct list again;
    list_init(&again);
    struct list *taken;
    while ((taken = list_take_first(&node->parked))) {
        list_append(&again, taken);
    }
    while ((taken = list_take_first(&again))) {
        struct request *request = container_of(taken, struct request, parked_link);
        if (request->scan) {
            scan_dispatch(request);
        } else {
            kv_dispatch(request);
        }
    }
    if (node->ticks % NODE_SWEEP_TICKS != 0) {
        return;
    }
    uint64_t now_us = env_now_us(node->env);
    LIST_FOR_SAFE(at, &node->requests)
    {
        struct request *request = container_of(at, struct request, link);
        if (now_us >= request->deadline_us) {
            request_expire(request);
        }
    }
}

void request_trim(struct node *node)
{
    struct list *taken;
    while ((taken = list_take_first(&node->free_requests))) {
        struct request *request = container_of(taken, struct request, link);
        arena_fini(&request->arena);
        mem_free(request);
    }
    node->free_request_count = 0;
}

void request_drop_all(struct node *node)
{
    while (!list_is_empty(&node->requests)) {
        struct request *request = container_of(node->requests.next, struct request, link);
        request_free(request);
    }
    request_trim(node);
    for (size_t i = 0; i < node->link_count; i++) {
        size_t position = 0;
        uint64_t id;
        struct forward *forward;
        while ((forward = hashtab_next(&node->links[i].forwards, &position, &id))) {
            mem_free(forward);
        }
    }
}
