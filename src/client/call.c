/* The life of an operation.
 *
 *             ┌──────────── HOMELESS (no topology yet, or no recent time)
 *             ▼             WINDOW (a write; too many are unanswered)
 *   submit → READY ──route──▶ QUEUED on a link ──exchange──▶ SENT ──answer──▶ DONE → callback
 *             ▲                                               │
 *             ├── PAUSED (backoff) ◀──── refused, link lost ──┤
 *             └────────── no answer for a while: also to another node, the first flight stays
 *
 * How long a while is: CORE_HEDGE_US when the link doesn't come up, or says nothing at all, so that
 * a machine that stands still costs little; else a third of the timeout.
 *
 * What may be repeated: statuses that say that nothing was applied, and everything that was lost,
 * since a write keeps its session number and client time and the servers apply a number once.
 * At the deadline a write that was sent and not answered ends as unknown, never as failed. The same
 * when a later attempt is refused for a reason that says nothing of the earlier one.
 *
 * The deadline: timeout_us after the call's last progress, so that a large batch may take longer
 * than one operation. */
#include <stdlib.h>

#include "client/core_private.h"

static void operation_timer_fired(struct core *core, struct timer *timer);
static void operation_expire(struct core *core, struct operation *operation);

/* --- Submitting */

static int request_check(const struct cairn_request *request)
{
    if (request->key_size == 0 || !request->key) {
        return ERR_KEY_EMPTY;
    }
    if (request->key_size > LIMIT_KEY_BYTES) {
        return ERR_KEY_TOO_LONG;
    }
    if (request->value_size > LIMIT_VALUE_BYTES) {
        return ERR_VALUE_TOO_LARGE;
    }
    bool is_read = request->verb == CAIRN_GET || request->verb == CAIRN_GET_META;
    if ((unsigned)request->verb > CAIRN_SETATTR ||
        (unsigned)request->condition > CAIRN_IF_PRESENT ||
        (unsigned)request->consistency > CAIRN_STALE || (unsigned)request->ack > CAIRN_ACK_ALL ||
        (request->max_staleness_ms && request->consistency != CAIRN_STALE) ||
        (is_read && request->condition != CAIRN_ALWAYS) ||
        (request->value_size && (!request->value || request->verb != CAIRN_PUT)) ||
        request->attributes.mask >= 2 * CAIRN_ATTR_EXPIRES) {
        return ERR_USAGE;
    }
    return 0;
}

static uint8_t *operation_init(struct core *core, struct call *call, struct operation *operation,
                               const struct cairn_request *request, uint8_t *bytes)
{
    operation->call = call;
    operation->verb = (uint8_t)request->verb;
    operation->condition = (uint8_t)request->condition;
    operation->is_write = request->verb != CAIRN_GET && request->verb != CAIRN_GET_META;
    operation->version = request->version;
    operation->consistency =
        (uint8_t)(operation->is_write ? CAIRN_LINEARIZABLE : request->consistency);
    operation->ack = (uint8_t)request->ack;
    operation->max_staleness_ms = request->max_staleness_ms;
    operation->attributes = request->attributes;
    operation->key = span_of(bytes, request->key_size);
    memcpy(bytes, request->key, request->key_size);
    bytes += request->key_size;
    operation->value = span_of(bytes, request->value_size);
    if (request->value_size) {
        memcpy(bytes, request->value, request->value_size);
    }
    uint32_t timeout_ms = request->timeout_ms ? request->timeout_ms : core->timeout_ms;
    operation->timeout_us = (uint64_t)timeout_ms * 1000;
    operation->timer.fire = operation_timer_fired;
    operation->state = OPERATION_READY;
    core->open_gets += operation_is_get(operation);
    list_append(&core->ready, &operation->node); /* the step arms its timer: I2 of core.c */
    return bytes + request->value_size;
}

/* Zeroed but for the bytes of keys and values. NULL: there is no memory. */
static struct call *call_new(struct core *core, size_t count, size_t bytes)
{
    size_t head =
        sizeof(struct call) + count * (sizeof(struct operation) + sizeof(struct cairn_result));
    bool is_small = count == 1 && bytes <= CALL_SMALL_BYTES;
    struct list *kept = is_small ? list_take_first(&core->free_calls) : NULL;
    struct call *call =
        kept ? container_of(kept, struct call, node)
             : mem_try_alloc(core->gate, head + (is_small ? CALL_SMALL_BYTES : bytes));
    core->free_call_count -= kept != NULL;
    if (!call || !timers_reserve(core, count)) {
        mem_free(call);
        return NULL;
    }
    if (!slots_try_reserve(&core->calls, core->gate)) {
        timers_release(core, count);
        mem_free(call);
        return NULL;
    }
    memset(call, 0, head);
    call->is_small = is_small;
    return call;
}

static int call_submit(struct core *core, const struct cairn_request *requests, size_t count,
                       uint64_t now_us, struct call **out)
{
    size_t bytes = 0;
    for (size_t i = 0; i < count; i++) {
        int status = request_check(&requests[i]);
        if (status) {
            core_set_error(core, status, NULL);
            return status;
        }
        bytes += requests[i].key_size + requests[i].value_size;
    }
    if (now_us > core->now_us) {
        core->now_us = now_us;
    }
    struct call *call = call_new(core, count, bytes);
    if (!call) {
        core_set_error(core, ERR_NO_MEMORY, NULL);
        return ERR_NO_MEMORY;
    }
    size_t head = sizeof *call + count * sizeof call->operations[0];
    call->count = call->left = count;
    call->progress_us = core->now_us;
    call->results = (struct cairn_result *)((uint8_t *)call + head);
    uint8_t *at = (uint8_t *)(call->results + count);
    for (size_t i = 0; i < count; i++) {
        at = operation_init(core, call, &call->operations[i], &requests[i], at);
    }
    core->stats.requests += count;
    call->id = slots_put(&core->calls, call);
    if (count == 0) {
        list_append(&core->finished, &call->node);
    }
    *out = call;
    return 0;
}

int core_submit_many(struct core *core, const struct cairn_request *requests, size_t count,
                     cairn_done_many done, void *arg, uint64_t now_us, uint64_t *id)
{
    struct call *call;
    int status = call_submit(core, requests, count, now_us, &call);
    if (status == 0) {
        call->done_many = done;
        call->arg = arg;
        if (id) {
            *id = call->id;
        }
    }
    return status;
}

int core_submit(struct core *core, const struct cairn_request *request, cairn_done done, void *arg,
                uint64_t now_us, uint64_t *id)
{
    struct call *call;
    int status = call_submit(core, request, 1, now_us, &call);
    if (status == 0) {
        call->done_one = done;
        call->arg = arg;
        if (id) {
            *id = call->id;
        }
    }
    return status;
}

/* --- Ending */

static void call_cancel(struct core *core, struct call *call)
{
    for (size_t i = 0; i < call->count; i++) {
        if (call->operations[i].state != OPERATION_DONE) {
            operation_finish(core, &call->operations[i], ERR_CANCELLED);
        }
    }
}

void core_cancel(struct core *core, uint64_t id)
{
    struct call *call = slots_find(&core->calls, id);
    if (call) {
        call_cancel(core, call);
    } else {
        ask_cancel(core, id, true);
    }
}

void core_abandon(struct core *core, uint64_t id)
{
    struct call *call = slots_find(&core->calls, id);
    if (call) {
        call->done_one = NULL;
        call->done_many = NULL;
        call_cancel(core, call);
    } else {
        ask_cancel(core, id, false);
    }
}

void call_cancel_all(struct core *core)
{
    size_t at = 0;
    struct call *call;
    while ((call = slots_next(&core->calls, &at))) {
        call_cancel(core, call);
    }
}

static void call_free(struct core *core, struct call *call)
{
    slots_take(&core->calls, call->id);
    timers_release(core, call->count);
    for (size_t i = 0; i < call->count; i++) {
        free((void *)(uintptr_t)call->results[i].value);
    }
    if (call->is_small && core->free_call_count < CORE_KEPT_MAX) {
        list_prepend(&core->free_calls, &call->node);
        core->free_call_count++;
    } else {
        mem_free(call);
    }
}

void call_fini(struct core *core)
{
    struct list *node;
    while ((node = list_take_first(&core->free_calls))) {
        mem_free(container_of(node, struct call, node));
    }
}

/* Calls back for what had finished when this began: what finishes meanwhile has its turn in the
 * next step. */
int call_callbacks(struct core *core)
{
    struct list batch;
    list_init(&batch);
    struct list *node;
    while ((node = list_take_first(&core->finished))) {
        list_append(&batch, node);
    }
    int calls = 0;
    while ((node = list_take_first(&batch))) {
        struct call *call = container_of(node, struct call, node);
        if (call->done_one) {
            call->done_one(call->arg, call->results);
            calls++;
        } else if (call->done_many) {
            call->done_many(call->arg, call->results, call->count);
            calls++;
        }
        call_free(core, call);
    }
    return calls;
}

static bool status_is_answer(int status)
{
    return status == 0 || status == ERR_NOT_FOUND || status == ERR_EXISTS ||
           status == ERR_CONDITION_FAILED;
}

void operation_finish(struct core *core, struct operation *operation, int status)
{
    CHECK(operation->state != OPERATION_DONE);
    struct call *call = operation->call;
    operation->state = OPERATION_DONE;
    core->open_gets -= operation_is_get(operation);
    list_remove(&operation->node);
    timer_clear(core, &operation->timer);
    while (operation->flight_count) {
        operation_unhook(operation, operation->flights[0].flight);
    }
    if (operation->number) {
        session_answered(core, operation->number);
    }
    call->results[operation - call->operations].status = status;
    if (!status_is_answer(status) && status != ERR_CANCELLED) {
        core_set_error(core, status, core->trouble);
    }
    if (status_is_answer(status)) { /* else the operations of a call would time out one by one */
        call->progress_us = core->now_us;
    }
    CHECK(call->left > 0);
    if (--call->left == 0) {
        list_append(&core->finished, &call->node);
    }
}

/* --- Flights */

void operation_hook(struct operation *operation, struct flight *flight, uint32_t slot)
{
    if (operation->flight_count ==
        OPERATION_FLIGHTS) { /* the oldest answer will not be heard any more */
        operation_unhook(operation, operation->flights[0].flight);
        operation->may_have_happened = operation->is_write;
    }
    flight->operations[slot] = operation;
    operation->flights[operation->flight_count].flight = flight;
    operation->flights[operation->flight_count].slot = slot;
    operation->flight_count++;
}

void operation_unhook(struct operation *operation, struct flight *flight)
{
    for (uint8_t i = 0; i < operation->flight_count; i++) {
        if (operation->flights[i].flight == flight) {
            CHECK(flight->operations[operation->flights[i].slot] == operation);
            flight->operations[operation->flights[i].slot] = NULL;
            memmove(&operation->flights[i], &operation->flights[i + 1],
                    (size_t)(operation->flight_count - i - 1) * sizeof operation->flights[0]);
            operation->flight_count--;
            return;
        }
    }
    CHECK(!"the flight is one of the operation's");
}

/* --- Time */

static uint64_t operation_deadline(const struct operation *operation)
{
    return operation->call->progress_us + operation->timeout_us;
}

static void operation_set_timer(struct core *core, struct operation *operation)
{
    uint64_t deadline = operation_deadline(operation);
    bool has_retry = operation->state == OPERATION_PAUSED || operation->state == OPERATION_QUEUED ||
                     operation->state == OPERATION_SENT;
    uint64_t due = has_retry && operation->retry_us < deadline ? operation->retry_us : deadline;
    timer_set(core, &operation->timer, due);
}

static uint64_t operation_resend_us(const struct operation *operation)
{
    uint64_t third = operation->timeout_us / 3;
    return third > CORE_HEDGE_US ? third : CORE_HEDGE_US;
}

static void operation_make_ready(struct core *core, struct operation *operation)
{
    list_remove(&operation->node);
    operation->state = OPERATION_READY;
    list_append(&core->ready, &operation->node);
    operation_set_timer(core, operation);
}

void call_wake(struct core *core, struct list *list, uint64_t count_max)
{
    struct list *node;
    for (uint64_t i = 0; i < count_max && (node = list_take_first(list)); i++) {
        struct operation *operation = container_of(node, struct operation, node);
        operation->state = OPERATION_READY;
        list_append(&core->ready, node);
    }
}

/* When an operation that waits for an answer asks another node. Of a silent link after
 * CORE_HEDGE_US, then after twice that (the other node may have passed it on to the one that stands
 * still, and know better by then), and no more: beyond, patience, or an overloaded cluster would
 * get its load many times. Not after a failure: when a node has died, silence is an election's, and
 * the other node has parked the request until there is a primary. Not for large values: the link
 * may be silent for nothing else. */
static uint64_t operation_ask_again_us(const struct operation *operation)
{
    uint64_t patient = operation->routed_us + operation_resend_us(operation);
    uint64_t hedged = operation->routed_us + CORE_HEDGE_US;
    if (operation->state == OPERATION_SENT && operation->flight_count > 0) {
        uint8_t flights = operation->flight_count;
        bool may_hedge = flights < OPERATION_FLIGHTS && operation->retries == 0 &&
                         operation->value.size <= CORE_HEDGE_BYTES_MAX;
        const struct link *link = operation->flights[flights - 1].flight->link;
        hedged = may_hedge ? link->heard_us + ((uint64_t)CORE_HEDGE_US << (flights - 1)) : patient;
    }
    return hedged < patient ? hedged : patient;
}

static void operation_timer_fired(struct core *core, struct timer *timer)
{
    struct operation *operation = container_of(timer, struct operation, timer);
    if (core->now_us >= operation_deadline(operation)) {
        operation_expire(core, operation);
        return;
    }
    bool is_waiting = operation->state == OPERATION_SENT || operation->state == OPERATION_QUEUED;
    if (is_waiting) {
        operation->retry_us = operation_ask_again_us(operation); /* the link was heard meanwhile */
    }
    if (operation->state == OPERATION_PAUSED && core->now_us >= operation->retry_us) {
        operation_make_ready(core, operation);
    } else if (is_waiting && core->now_us >= operation->retry_us) {
        operation->avoid = operation->asked;
        operation->last_status = ERR_TIMEOUT;
        core->stats.retries++;
        operation_make_ready(core, operation);
    } else {
        operation_set_timer(core, operation); /* the call made progress meanwhile */
    }
}

/* What to say when time is up. */
static void operation_expire(struct core *core, struct operation *operation)
{
    int last = operation->last_status;
    bool is_open = operation->may_have_happened || (operation->is_write && operation->flight_count);
    if (is_open) {
        last = ERR_UNKNOWN_OUTCOME;
    } else if (!core->was_reached) {
        last = ERR_CONNECT;
    } else if (operation->flight_count || operation->state == OPERATION_WINDOW) {
        last = ERR_TIMEOUT;
    } else if (last != ERR_BUSY && last != ERR_TIMEOUT) {
        last = ERR_UNAVAILABLE;
    }
    operation_finish(core, operation, last);
}

/* --- Routing and repeating */

static void operation_pause(struct core *core, struct operation *operation, uint64_t us)
{
    list_remove(&operation->node);
    operation->state = OPERATION_PAUSED;
    operation->retry_us = core->now_us + us + 1;
    operation_set_timer(core, operation);
}

static void operation_wait(struct core *core, struct operation *operation,
                           enum operation_state state, struct list *list)
{
    operation->state = state;
    list_append(list, &operation->node);
    operation_set_timer(core, operation);
}

/* Whether the cluster must be heard before this operation is sent: where to, or at what time. */
static bool operation_needs_word(const struct core *core, const struct operation *operation)
{
    bool is_new_write = operation->is_write && operation->number == 0;
    return !core->topology || (is_new_write && core->now_us - core->time_us > CORE_TIME_AGE_US);
}

/* Linearizable gets that are under way at the same time go to one node, which answers for every replica that it holds: so they share
 * frames. A lone one, or one that is asked again, goes to the primary. */
static bool may_go_home(const struct core *core, const struct operation *operation)
{
    return core->open_gets > 1 && operation_is_get(operation) && operation->retries == 0 &&
           operation->redirects == 0 && operation->flight_count == 0 && operation->avoid == 0;
}

static struct link *operation_choose(struct core *core, const struct operation *operation,
                                     size_t partition)
{
    if (operation->consistency == CAIRN_STALE) {
        return route_choose_replica(core, partition, operation->avoid);
    }
    struct link *home = may_go_home(core, operation) ? route_choose_home(core, partition) : NULL;
    return home ? home : route_choose(core, partition, operation->avoid);
}

static void operation_route(struct core *core, struct operation *operation)
{
    if (operation_needs_word(core, operation)) {
        operation_wait(core, operation, OPERATION_HOMELESS, &core->homeless);
        core->topology_wanted = true;
        return;
    }
    if (operation->is_write && operation->number == 0) {
        operation->number = session_number(&core->session);
        if (operation->number == 0) {
            operation_wait(core, operation, OPERATION_WINDOW, &core->window);
            return;
        }
    }
    size_t partition = topology_locate(core->topology, operation->key);
    struct link *link = operation_choose(core, operation, partition);
    operation->avoid = 0;
    if (!link) {
        operation->last_status = core->was_reached ? ERR_UNAVAILABLE : ERR_CONNECT;
        core->topology_wanted = true;
        operation_pause(core, operation, core_jitter(core, CORE_LINK_BACKOFF_MIN_US));
        return;
    }
    operation->asked = link->node_id;
    operation->is_at_preferred = link == route_node_link(core, route_preferred(core, partition));
    operation->routed_us = core->now_us;
    operation->retry_us = operation_ask_again_us(operation);
    operation_wait(core, operation, OPERATION_QUEUED, &link->queue);
    link_connect(core, link);
}

void call_route(struct core *core)
{
    struct list *node;
    while (
        (node = list_take_first(&core->ready))) { /* routing makes nothing ready again: it ends */
        operation_route(core, container_of(node, struct operation, node));
    }
}

void operation_retry(struct core *core, struct operation *operation, int status, bool at_once)
{
    operation->last_status = status;
    core->stats.retries++;
    if (core->now_us >= operation_deadline(operation)) {
        operation_expire(core, operation);
        return;
    }
    if (at_once && operation->redirects < CORE_REDIRECTS_AT_ONCE) {
        operation->redirects++;
        operation_make_ready(core, operation);
        return;
    }
    operation->redirects = 0;
    uint32_t retries = operation->retries;
    operation->retries += operation->retries < UINT16_MAX;
    operation_pause(core, operation,
                    core_backoff(core, retries, CORE_RETRY_MIN_US, CORE_RETRY_MAX_US));
}
