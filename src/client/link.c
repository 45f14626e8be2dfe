/* Links: one connection a node, opened when first needed and kept.
 *
 *   IDLE ──link_connect──▶ CONNECTING ──link_on_connected──▶ HELLO ──hello_answered──▶ READY
 *     ▲                        │                               │                        │
 *     └──link_timer_fired── BACKOFF ◀────────── link_fail ─────┴────────────────────────┘
 *
 * What waits for a link stands in its queue (operations) or among its questions until READY; then
 * the end of the step packs it into frames, all of which leave in one transport call. link_fail
 * tells every waiter and every sender: they go elsewhere.
 *
 * Invariants
 *   I1  Every flight stands in exactly one link's table and list; it leaves both before its
 *       owner is told.
 *   I2  A link that is not READY has no flights and nothing in `out`. */
#include <stdio.h>

#include "client/core_private.h"
#include "wire/gets_page.h"

enum { LINK_BUF_KEEP_BYTES = 256 << 10 };

static void flight_free(struct core *core, struct flight *flight);
static void link_flush(struct core *core, struct link *link);

static void link_timer_fired(struct core *core, struct timer *timer)
{
    struct link *link = container_of(timer, struct link, timer);
    if (link->state == LINK_BACKOFF) {
        link->state = LINK_IDLE;
        if (!list_is_empty(&link->queue) || !list_is_empty(&link->questions)) {
            link_connect(core, link);
        }
        return;
    }
    CHECK(link->state == LINK_CONNECTING || link->state == LINK_HELLO);
    link_fail(core, link,
              link->state == LINK_HELLO ? "no answer to the hello" : "connecting takes too long");
}

struct link *link_get(struct core *core, const char *address)
{
    LIST_FOR(at, &core->links)
    {
        struct link *link = container_of(at, struct link, node);
        if (strcmp(link->address, address) == 0) {
            return link;
        }
    }
    size_t size = strlen(address) + 1;
    struct link *link = MEM_TRY_NEW(core->gate, struct link);
    char *copy = mem_try_alloc(core->gate, size);
    if (!link || !copy || !timers_reserve(core, 1)) {
        mem_free(link);
        mem_free(copy);
        return NULL;
    }
    memcpy(copy, address, size);
    link->address = copy;
    link->timer.fire = link_timer_fired;
    list_init(&link->sent);
    list_init(&link->queue);
    list_init(&link->questions);
    list_append(&core->links, &link->node);
    return link;
}

struct link *link_find_number(struct core *core, uint64_t number)
{
    LIST_FOR(at, &core->links)
    {
        struct link *link = container_of(at, struct link, node);
        if (link->number == number && number) {
            return link;
        }
    }
    return NULL;
}

void link_free(struct core *core, struct link *link)
{
    if (link->state != LINK_IDLE && link->state != LINK_BACKOFF) {
        link_fail(core, link, "closing");
    }
    CHECK(list_is_empty(&link->queue) && list_is_empty(&link->questions) &&
          list_is_empty(&link->sent));
    timer_clear(core, &link->timer);
    timers_release(core, 1);
    list_remove(&link->node);
    slots_fini(&link->flights);
    buf_fini(&link->in);
    buf_fini(&link->out);
    mem_free(link->parts);
    mem_free(link->address);
    mem_free(link);
}

bool link_is_usable(const struct link *link)
{
    return link->state != LINK_BACKOFF;
}

bool link_is_doubtful(const struct core *core, const struct link *link)
{
    if (link->state == LINK_CONNECTING || link->state == LINK_HELLO) {
        return core->now_us + CORE_HELLO_TIMEOUT_US >= link->timer.due_us + CORE_HEDGE_US;
    }
    return link->state == LINK_READY && !list_is_empty(&link->sent) &&
           core->now_us >= link->heard_us + CORE_HEDGE_US;
}

/* --- Coming up */

void link_connect(struct core *core, struct link *link)
{
    if (link->state != LINK_IDLE) {
        return;
    }
    link->state = LINK_CONNECTING;
    link->number = core->next_link++;
    timer_set(core, &link->timer, core->now_us + CORE_HELLO_TIMEOUT_US);
    core->transport->connect(core->transport_ctx, link->number, link->address);
}

void link_on_connected(struct core *core, struct link *link)
{
    link->state = LINK_HELLO;
    Cairn__V1__Hello hello = CAIRN__V1__HELLO__INIT;
    hello.protocol_min = hello.protocol_max = FRAME_VERSION;
    hello.name = core->program;
    hello.epoch = core->topology ? core->topology->epoch : 0;
    hello.time = core->time;
    if (core->has_cluster) {
        hello.cluster_id = (ProtobufCBinaryData){ sizeof core->cluster_id, core->cluster_id };
    }
    struct frame frame = { .type = FRAME_HELLO, .request_id = link->number };
    link_send_frame(core, link, &frame, &hello.base, NULL, 0);
    link_flush(core, link);
}

/* 0, or why this link is of no use. */
static int hello_judge(struct core *core, struct link *link, const struct frame *frame,
                       struct err *err)
{
    if (frame->type == FRAME_HELLO_OK && frame->status) {
        return err_set(err, ERR_CONNECT, "refused: %s", err_info(frame->status)->text);
    }
    Cairn__V1__Hello *hello =
        message_unpack(&cairn__v1__hello__descriptor, &core->allocator, frame->message);
    if (frame->type != FRAME_HELLO_OK || !hello) {
        return err_set(err, ERR_PROTOCOL, "malformed answer to the hello");
    }
    if (hello->cluster_id.len && hello->cluster_id.len != sizeof core->cluster_id) {
        return err_set(err, ERR_PROTOCOL, "malformed cluster id");
    }
    if (hello->protocol_min > FRAME_VERSION ||
        (hello->protocol_max && hello->protocol_max < FRAME_VERSION)) {
        return err_set(err, ERR_PROTOCOL_VERSION, "no common protocol version");
    }
    if (core->has_cluster && hello->cluster_id.len &&
        memcmp(core->cluster_id, hello->cluster_id.data, sizeof core->cluster_id) != 0) {
        return err_set(err, ERR_CLUSTER_MISMATCH, "belongs to another cluster");
    }
    link->node_id = hello->node_id;
    if (hello->time > core->time) {
        core->time = hello->time;
    }
    return 0;
}

static void hello_answered(struct core *core, struct link *link, const struct frame *frame)
{
    struct err err;
    if (hello_judge(core, link, frame, &err)) {
        link->failures += 4; /* it will say the same again soon */
        link_fail(core, link, err.text);
        return;
    }
    link->state = LINK_READY;
    link->failures = 0;
    timer_clear(core, &link->timer);
    core->was_reached = true;
}

/* --- Going down */

static void flight_lost(struct core *core, struct flight *flight)
{
    struct question *question = flight->question;
    if (question) {
        question->flight = NULL;
        question->link = NULL;
        question->answered(core, question, NULL);
    } else if (flight->count) {
        exchange_lost(core, flight);
    }
    flight_free(core, flight);
}

static void link_forget_bytes(struct link *link)
{
    buf_clear(&link->out);
    link->part_count = 0;
    link->is_starved = false;
    buf_fini(&link->in);
    memset(&link->in, 0, sizeof link->in);
}

void link_fail(struct core *core, struct link *link, const char *reason)
{
    CHECK(link->state != LINK_BACKOFF);
    snprintf(core->trouble, sizeof core->trouble, "%s: %s", link->address, reason);
    if (link->number) {
        core->transport->close(core->transport_ctx, link->number);
        link->number = 0;
    }
    bool was_ready = link->state == LINK_READY;
    int status = link->is_starved    ? ERR_NO_MEMORY
                 : core->was_reached ? ERR_UNAVAILABLE
                                     : ERR_CONNECT;
    link->state = LINK_BACKOFF;
    link_forget_bytes(link);
    timer_set(core, &link->timer,
              core->now_us + core_backoff(core, link->failures, CORE_LINK_BACKOFF_MIN_US,
                                          CORE_LINK_BACKOFF_MAX_US));
    link->failures++;
    if (was_ready) {
        core->stats.reconnects++;
        route_want_topology(core, NULL); /* whoever is reached next knows the new primaries */
    }
    struct list *node;
    while ((node = list_take_first(&link->sent))) {
        struct flight *flight = container_of(node, struct flight, node);
        slots_take(&link->flights, flight->id);
        flight_lost(core, flight);
    }
    while ((node = list_take_first(&link->questions))) {
        struct question *question = container_of(node, struct question, node);
        question->link = NULL;
        question->answered(core, question, NULL);
    }
    while (!list_is_empty(&link->queue)) {
        struct operation *operation = container_of(link->queue.next, struct operation, node);
        operation->avoid = link->node_id;
        operation_retry(core, operation, status, true);
    }
}

/* --- Frames in */

static int flight_answered(struct core *core, struct flight *flight, const struct frame *frame)
{
    struct question *question = flight->question;
    if (question) {
        question->flight = NULL;
        question->link = NULL;
        int status = question->answered(core, question, frame);
        if (status) {
            question->answered(core, question, NULL);
        }
        return status;
    }
    if (!flight->count) {
        return 0; /* a withdrawn question */
    }
    int status = exchange_answered(core, flight, frame);
    if (status) {
        exchange_lost(core, flight);
    }
    return status;
}

/* Answers that came together. The page is read to its end before anything of it is used. */
static int link_on_gets(struct core *core, struct link *link, const struct frame *frame)
{
    struct gets_page_answer answer;
    struct span page = frame->payload;
    if (frame->status) { /* the whole frame of gets was refused, which no flight stands for */
        return frame->status;
    }
    while (gets_page_next_answer(&page, &answer)) {
    }
    int status = page.size || frame->message.size ? ERR_PROTOCOL : 0;
    for (page = frame->payload; status == 0 && gets_page_next_answer(&page, &answer);) {
        struct flight *flight = slots_take(&link->flights, answer.request_id);
        if (!flight) {
            return ERR_PROTOCOL;
        }
        list_remove(&flight->node);
        status = exchange_got(core, flight, &answer);
        if (status) {
            flight_lost(core, flight);
        } else {
            flight_free(core, flight);
        }
    }
    return status;
}

/* 0, or the link can't go on. */
static int link_on_frame(struct core *core, struct link *link, const struct frame *frame)
{
    link->heard_us = core->now_us;
    if (frame->time) {
        core->time = frame->time > core->time ? frame->time : core->time;
        core->time_us = core->now_us;
    }
    if (link->state == LINK_HELLO) {
        hello_answered(core, link, frame);
        return 0;
    }
    if (frame->type != FRAME_RESPONSE) {
        return ERR_PROTOCOL;
    }
    if (core->topology && frame->epoch > core->topology->epoch) {
        route_want_topology(core, link);
    }
    if (frame->verb == VERB_GETS) {
        return link_on_gets(core, link, frame);
    }
    struct flight *flight = slots_take(&link->flights, frame->request_id);
    if (!flight) {
        return ERR_PROTOCOL; /* no request of ours: a flight stays until its answer, also when
                                nobody waits for it */
    }
    list_remove(&flight->node);
    int status = flight_answered(core, flight, frame);
    flight_free(core, flight);
    return status;
}

/* Handles the whole frames at the beginning of bytes; returns how many bytes they were, or -1 when
 * the link failed. */
static ssize_t link_take_frames(struct core *core, struct link *link, struct span bytes,
                                size_t *need)
{
    size_t done = 0;
    uint64_t number = link->number;
    for (;;) {
        struct frame frame;
        struct err err = { 0 };
        int64_t size =
            frame_parse(span_of(bytes.data + done, bytes.size - done), &frame, need, &err);
        if (size == 0) {
            return (ssize_t)done;
        }
        int status = size < 0 ? (int)size : link_on_frame(core, link, &frame);
        status = status && core->arena.has_refused ? ERR_NO_MEMORY : status;
        arena_reset(&core->arena);
        if (status && link->number == number) {
            link_fail(core, link, size < 0 ? err.text : err_info(status)->text);
        }
        if (link->number != number) {
            return -1;
        }
        done += (size_t)size;
    }
}

/* Room for what arrives; without memory the link fails. */
static bool link_in_reserve(struct core *core, struct link *link, size_t more)
{
    if (!buf_try_reserve(&link->in, core->gate, more)) {
        link_fail(core, link, "no memory for an answer");
        return false;
    }
    return true;
}

uint8_t *core_take_payload(struct core *core, struct span payload, struct span *out)
{
    struct buf *whole = core->whole;
    if (whole && whole->data && payload.data >= whole->data &&
        payload.data + payload.size == whole->data + whole->size) {
        uint8_t *memory = whole->data;
        *whole = (struct buf){ 0 };
        *out = payload;
        return memory;
    }
    uint8_t *copy = mem_try_alloc(core->gate, payload.size);
    if (copy) {
        memcpy(copy, payload.data, payload.size);
        *out = span_of(copy, payload.size);
    }
    return copy;
}

/* Frames are read where they arrived; only the beginning of one that isn't complete is kept, in
 * link->in. */
void link_on_bytes(struct core *core, struct link *link, struct span bytes)
{
    size_t need = FRAME_HEADER_BYTES;
    while (link->in.size && bytes.size) { /* at most twice: the header's end, then the frame's */
        struct frame probe;
        int64_t known = frame_parse(buf_span(&link->in), &probe, &need, NULL);
        size_t missing = known == 0 && need > link->in.size ? need - link->in.size : 1;
        size_t more = missing < bytes.size ? missing : bytes.size;
        if (!link_in_reserve(core, link, missing)) {
            return;
        }
        buf_append(&link->in, bytes.data, more);
        bytes = span_of(bytes.data + more, bytes.size - more);
        struct buf whole = link->in; /* link_fail clears link->in: the frame must outlive that */
        memset(&link->in, 0, sizeof link->in);
        core->whole = &whole;
        ssize_t taken = link_take_frames(core, link, buf_span(&whole), &need);
        core->whole = NULL;
        if (taken < 0) {
            buf_fini(&whole);
            return;
        }
        if (whole.data) { /* else its only frame's payload was taken */
            buf_consume(&whole, (size_t)taken);
        }
        if (whole.size == 0 && whole.capacity > LINK_BUF_KEEP_BYTES) {
            buf_fini(&whole);
            memset(&whole, 0, sizeof whole);
        }
        buf_fini(&link->in);
        link->in = whole;
    }
    if (!bytes.size) {
        return;
    }
    ssize_t taken = link_take_frames(core, link, bytes, &need);
    if (taken >= 0 && (size_t)taken < bytes.size && link_in_reserve(core, link, need)) {
        buf_append(&link->in, bytes.data + taken, bytes.size - (size_t)taken);
    }
}

/* --- Frames out */

/* Room for a frame. Without memory the link is starved: nothing more is packed, and its flush fails
 * it. */
static bool link_out_reserve(struct core *core, struct link *link, size_t bytes)
{
    enum { PARTS = 2 };
    size_t capacity = link->is_starved
                          ? 0
                          : mem_try_grow(core->gate, &link->parts, link->part_capacity,
                                         link->part_count + PARTS, sizeof *link->parts);
    link->part_capacity = capacity ? capacity : link->part_capacity;
    if (!capacity || !buf_try_reserve(&link->out, core->gate, bytes)) {
        link->is_starved = true;
    }
    return !link->is_starved;
}

static void link_add_part(struct link *link, const void *bytes, size_t offset, size_t size)
{
    CHECK(link->part_count < link->part_capacity);
    link->parts[link->part_count++] = (struct link_part){ bytes, offset, size };
}

/* link->out grew from `before`: extends the last part when that is where it ended. */
static void link_note_out(struct link *link, size_t before)
{
    struct link_part *last = link->part_count ? &link->parts[link->part_count - 1] : NULL;
    if (last && !last->bytes) {
        last->size += link->out.size - before;
    } else {
        link_add_part(link, NULL, before, link->out.size - before);
    }
}

static void link_send_whole(struct core *core, struct link *link, struct frame *frame,
                            bool is_copied)
{
    size_t before = link->out.size;
    if (!link_out_reserve(core, link,
                          FRAME_HEADER_BYTES + frame->message.size +
                              (is_copied ? frame->payload.size : 0))) {
        return;
    }
    frame->epoch = core->topology ? core->topology->epoch : 0;
    frame->time = core->time;
    frame_pack_head(frame, &link->out);
    if (is_copied) {
        buf_append_span(&link->out, frame->payload);
    }
    link_note_out(link, before);
    if (!is_copied) {
        link_add_part(link, frame->payload.data, 0, frame->payload.size);
    }
    core->stats.frames_sent++;
}

void link_send_frame(struct core *core, struct link *link, const struct frame *frame,
                     const ProtobufCMessage *message, const struct span *payloads,
                     size_t payload_count)
{
    buf_clear(&core->scratch);
    size_t packed_size = message_size(message);
    size_t payload_size = 0;
    for (size_t i = 0; i < payload_count; i++) {
        payload_size += payloads[i].size;
    }
    bool is_copied = payload_count > 1 || payload_size <= CORE_COPY_BYTES;
    CHECK(packed_size <= LIMIT_MESSAGE_BYTES && packed_size + payload_size <= LIMIT_FRAME_BYTES);
    size_t scratch_size = packed_size + (payload_count > 1 ? payload_size : 0);
    if (!buf_try_reserve(&core->scratch, core->gate, scratch_size)) {
        link->is_starved = true;
        return;
    }
    message_pack(message, buf_extend(&core->scratch, packed_size));
    struct frame whole = *frame;
    whole.message = span_of(NULL, packed_size);
    whole.payload = payload_count == 1 ? payloads[0] : span_of(NULL, 0);
    if (payload_count > 1) {
        for (size_t i = 0; i < payload_count; i++) {
            buf_append_span(&core->scratch, payloads[i]);
        }
        whole.payload = span_of(core->scratch.data + packed_size, payload_size);
    }
    whole.message.data = core->scratch.data;
    link_send_whole(core, link, &whole, is_copied);
}

void link_send_packed(struct core *core, struct link *link, const struct frame *frame)
{
    struct frame whole = *frame;
    link_send_whole(core, link, &whole, true);
}

static struct flight *flight_new(struct core *core, uint32_t count)
{
    struct list *kept = count <= 1 ? list_take_first(&core->free_flights) : NULL;
    size_t size = sizeof(struct flight) + (count > 0 ? count : 1) * sizeof(struct operation *);
    struct flight *flight =
        kept ? container_of(kept, struct flight, node) : mem_try_alloc(core->gate, size);
    core->free_flight_count -= kept != NULL;
    return flight ? memset(flight, 0, size) : NULL;
}

static void flight_free(struct core *core, struct flight *flight)
{
    if (flight->count <= 1 && core->free_flight_count < CORE_KEPT_MAX) {
        list_prepend(&core->free_flights, &flight->node);
        core->free_flight_count++;
    } else {
        mem_free(flight);
    }
}

void link_fini(struct core *core)
{
    struct list *node;
    while ((node = list_take_first(&core->free_flights))) {
        mem_free(container_of(node, struct flight, node));
    }
}

struct flight *link_add_flight(struct core *core, struct link *link, uint16_t verb, uint32_t count)
{
    CHECK(link->state == LINK_READY);
    bool has_room = !link->is_starved && slots_try_reserve(&link->flights, core->gate);
    struct flight *flight = has_room ? flight_new(core, count) : NULL;
    if (!flight) {
        link->is_starved = true;
        return NULL;
    }
    flight->link = link;
    flight->id = slots_put(&link->flights, flight);
    flight->verb = verb;
    flight->count = count;
    if (list_is_empty(&link->sent)) {
        link->heard_us = core->now_us;
    }
    list_append(&link->sent, &flight->node);
    return flight;
}

static void link_send_questions(struct core *core, struct link *link)
{
    struct list *node;
    while ((node = list_take_first(&link->questions))) {
        struct question *question = container_of(node, struct question, node);
        struct flight *flight = link_add_flight(core, link, 0, 0);
        if (!flight) {
            list_prepend(&link->questions, node);
            return;
        }
        flight->question = question;
        question->flight = flight;
        question->send(core, question, flight->id);
    }
}

/* Hands everything that was packed to the transport, in one call. */
static void link_flush(struct core *core, struct link *link)
{
    if (!link->part_count && !link->is_starved) {
        return;
    }
    struct span *spans = arena_try_alloc(&core->arena, link->part_count * sizeof *spans);
    if (!spans || link->is_starved) {
        link->is_starved = true;
        link_fail(core, link, "no memory for what was to be sent");
        return;
    }
    for (size_t i = 0; i < link->part_count; i++) {
        const struct link_part *part = &link->parts[i];
        spans[i] = span_of(part->bytes ? part->bytes : link->out.data + part->offset, part->size);
        core->stats.bytes_sent += part->size;
    }
    core->transport->send(core->transport_ctx, link->number, spans, link->part_count);
    link->part_count = 0;
    if (link->out.capacity > LINK_BUF_KEEP_BYTES) {
        buf_fini(&link->out);
        memset(&link->out, 0, sizeof link->out);
    }
    buf_clear(&link->out);
}

/* A READY link that owes answers but says nothing is as good as lost. */
static bool link_is_dumb(const struct core *core, const struct link *link)
{
    return link->state == LINK_READY && !list_is_empty(&link->sent) &&
           core->now_us - link->heard_us > CORE_SILENCE_US;
}

void link_flush_all(struct core *core)
{
    LIST_FOR(at, &core->links)
    {
        struct link *link = container_of(at, struct link, node);
        if (link_is_dumb(core, link)) {
            link_fail(core, link, "no answer");
        }
        if (link->state != LINK_READY) {
            continue;
        }
        link_send_questions(core, link);
        exchange_send_queue(core, link);
        link_flush(core, link);
        arena_reset(&core->arena);
    }
}

/* --- Questions */

void question_ask(struct core *core, struct question *question, struct link *link)
{
    CHECK(!question->link && !question->flight && link_is_usable(link));
    question->link = link;
    list_append(&link->questions, &question->node);
    link_connect(core, link);
}

void question_withdraw(struct question *question)
{
    if (question->flight) {
        question->flight->question = NULL;
        question->flight = NULL;
    } else if (question->link) {
        list_remove(&question->node);
    }
    question->link = NULL;
}
