/* Questions to one node (status), and waiting for the first topology.
 *
 *   core_ask → waits for the topology (when the node is named by its name) → asked over its link
 *            → answered → callback
 *
 * A node that can't be reached ends the question at once: who asks one node wants to know just
 * that. */
#include <stdio.h>

#include "client/core_private.h"

struct ask {
    struct list node; /* core->asks, core->asks_done once done */
    uint64_t id;
    char *target; /* NULL: only the topology is wanted */
    uint16_t verb;
    core_asked done;
    void *arg;
    uint64_t deadline_us;
    struct timer timer;
    struct question question;
    bool is_asked;
    int status;
    struct frame frame; /* the answer, its bytes in `bytes` */
    struct buf bytes;
};

static void ask_finish(struct core *core, struct ask *ask, int status)
{
    ask->status = status;
    if (status) {
        core_set_error(core, status, core->trouble);
    }
    timer_clear(core, &ask->timer);
    question_withdraw(&ask->question);
    list_remove(&ask->node);
    list_append(&core->asks_done, &ask->node);
}

static void ask_timer_fired(struct core *core, struct timer *timer)
{
    ask_finish(core, container_of(timer, struct ask, timer),
               core->was_reached ? ERR_TIMEOUT : ERR_CONNECT);
}

static void ask_send(struct core *core, struct question *question, uint64_t request_id)
{
    struct ask *ask = container_of(question, struct ask, question);
    uint64_t left_ms = (ask->deadline_us - core->now_us) / 1000;
    struct frame frame = { .type = FRAME_REQUEST,
                           .verb = ask->verb,
                           .request_id = request_id,
                           .flags = FRAME_NO_FORWARD,
                           .deadline_ms = left_ms ? (uint32_t)left_ms : 1 };
    Cairn__V1__StatusRequest empty =
        CAIRN__V1__STATUS_REQUEST__INIT; /* the only such verb's message, and it is empty */
    link_send_frame(core, question->link, &frame, &empty.base, NULL, 0);
}

static int ask_answered(struct core *core, struct question *question, const struct frame *frame)
{
    struct ask *ask = container_of(question, struct ask, question);
    if (!frame) {
        ask_finish(core, ask, core->was_reached ? ERR_UNAVAILABLE : ERR_CONNECT);
        return 0;
    }
    if (frame->status) {
        exchange_error_info(core, NULL, frame);
        ask_finish(core, ask, frame->status);
        return 0;
    }
    if (!buf_try_reserve(&ask->bytes, core->gate, frame->message.size + frame->payload.size)) {
        snprintf(core->trouble, sizeof core->trouble, "no memory for an answer");
        ask_finish(core, ask, ERR_NO_MEMORY);
        return 0;
    }
    buf_append_span(&ask->bytes, frame->message);
    buf_append_span(&ask->bytes, frame->payload);
    ask->frame = *frame;
    ask->frame.message = span_of(ask->bytes.data, frame->message.size);
    ask->frame.payload = span_of(ask->bytes.data + frame->message.size, frame->payload.size);
    ask_finish(core, ask, 0);
    return 0;
}

/* The node's address by name or as it stands; NULL: not known. */
static const char *ask_address(const struct core *core, const char *target)
{
    const struct topology_node *node =
        core->topology ? topology_find_name(core->topology, target) : NULL;
    if (node) {
        return node->address;
    }
    return strchr(target, ':') ? target : NULL;
}

/* Asks, if it is known whom. */
static void ask_start(struct core *core, struct ask *ask)
{
    if (!ask->target) {
        if (core->topology) {
            ask_finish(core, ask, 0);
        }
        return;
    }
    const char *address = ask_address(core, ask->target);
    if (!address) {
        if (core->topology) {
            snprintf(core->trouble, sizeof core->trouble, "no node is named \"%s\"", ask->target);
            ask_finish(core, ask, ERR_USAGE);
        }
        return;
    }
    struct link *link = link_get(core, address);
    ask->is_asked = true;
    if (!link) {
        snprintf(core->trouble, sizeof core->trouble, "no memory for a connection");
        ask_finish(core, ask, ERR_NO_MEMORY);
    } else if (link_is_usable(link)) {
        question_ask(core, &ask->question, link);
    } else {
        ask_finish(core, ask, ERR_UNAVAILABLE); /* core->trouble says why the link is down */
    }
}

int core_ask(struct core *core, const char *node, uint16_t verb, core_asked done, void *arg,
             uint32_t timeout_ms, uint64_t now_us, uint64_t *id)
{
    if (node && strchr(node, ':') &&
        !(core->topology && topology_find_name(core->topology, node))) {
        char **list;
        size_t count;
        struct err err;
        int status = core_parse_endpoints(node, &list, &count, &err);
        if (status) {
            snprintf(core->last_error, sizeof core->last_error, "%s", err.text);
            return status;
        }
        mem_free(list);
        if (count != 1) {
            return ERR_USAGE;
        }
    }
    if (now_us > core->now_us) {
        core->now_us = now_us;
    }
    size_t node_size = node ? strlen(node) + 1 : 0;
    struct ask *ask = MEM_TRY_NEW(core->gate, struct ask);
    char *target = ask && node ? mem_try_alloc(core->gate, node_size) : NULL;
    if (!ask || (node && !target) || !timers_reserve(core, 1)) {
        mem_free(target);
        mem_free(ask);
        core_set_error(core, ERR_NO_MEMORY, NULL);
        return ERR_NO_MEMORY;
    }
    if (node) {
        memcpy(target, node, node_size);
    }
    ask->id = core->next_ask++;
    ask->target = target;
    ask->verb = verb;
    ask->done = done;
    ask->arg = arg;
    ask->question.send = ask_send;
    ask->question.answered = ask_answered;
    ask->timer.fire = ask_timer_fired;
    ask->deadline_us = core->now_us + (uint64_t)(timeout_ms ? timeout_ms : core->timeout_ms) * 1000;
    list_append(&core->asks, &ask->node);
    timer_set(core, &ask->timer, ask->deadline_us);
    if (id) {
        *id = ask->id;
    }
    if (!core->topology) {
        core->topology_wanted = true;
    }
    ask_start(core, ask);
    return 0;
}

int core_want_topology(struct core *core, core_asked done, void *arg, uint32_t timeout_ms,
                       uint64_t now_us, uint64_t *id)
{
    return core_ask(core, NULL, 0, done, arg, timeout_ms, now_us, id);
}

void ask_topology_came(struct core *core)
{
    LIST_FOR_SAFE(at, &core->asks)
    {
        struct ask *ask = container_of(at, struct ask, node);
        if (!ask->is_asked) {
            ask_start(core, ask);
        }
    }
}

static void ask_free(struct core *core, struct ask *ask)
{
    timers_release(core, 1);
    list_remove(&ask->node);
    buf_fini(&ask->bytes);
    mem_free(ask->target);
    mem_free(ask);
}

static struct ask *ask_find(struct list *list, uint64_t id)
{
    LIST_FOR(at, list)
    {
        struct ask *ask = container_of(at, struct ask, node);
        if (ask->id == id) {
            return ask;
        }
    }
    return NULL;
}

void ask_cancel(struct core *core, uint64_t id, bool with_callback)
{
    struct ask *ask = ask_find(&core->asks, id);
    if (ask) {
        ask_finish(core, ask, ERR_CANCELLED);
    } else {
        ask = ask_find(&core->asks_done, id);
    }
    if (ask && !with_callback) {
        ask->done = NULL;
    }
}

int ask_callbacks(struct core *core)
{
    int calls = 0;
    struct list *node;
    struct list batch;
    list_init(&batch);
    while ((node = list_take_first(&core->asks_done))) {
        list_append(&batch, node);
    }
    while ((node = list_take_first(&batch))) {
        struct ask *ask = container_of(node, struct ask, node);
        if (ask->done) {
            ask->done(ask->arg, ask->status, ask->status ? NULL : &ask->frame);
            calls++;
        }
        ask_free(core, ask);
    }
    return calls;
}

void ask_fini(struct core *core)
{
    LIST_FOR_SAFE(at, &core->asks)
    {
        ask_finish(core, container_of(at, struct ask, node), ERR_CANCELLED);
    }
    ask_callbacks(core);
}
