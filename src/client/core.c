/* The heart's frame: opening and closing, the step, timers, the session, errors for people. See
 * core.h for the contract and core_private.h for the files.
 *
 * One step: fire timers → call back → route what is ready → drive topology and scans → send, one
 * transport call a link. Callbacks may submit; what they submit leaves at the end of the same step.
 *
 * Invariants
 *   I1  Nothing calls back outside core_step and core_close.
 *   I2  After a step every operation that isn't done has its timer armed, so that it ends by its
 *       deadline whatever the servers do. Until then a new one stands among the ready.
 *   I3  A write keeps its session number and client time from its first sending to its end,
 *       and lowest <= number < lowest + LIMIT_SESSION_RESULTS while it is unanswered.
 */
#include "client/core.h"

#include <stdio.h>
#include <stdlib.h>

#include "client/core_private.h"

static void *core_arena_alloc(void *arena, size_t size)
{
    return arena_try_alloc(arena, size);
}

static void core_arena_free(void *arena, void *memory)
{
}

/* --- Open and close */

static int parse_endpoint(const char *text, size_t size, struct err *err)
{
    const char *colon = memrchr(text, ':', size);
    if (!colon || colon == text) {
        return err_set(err, ERR_USAGE, "endpoint \"%.*s\" is not HOST:PORT", (int)size, text);
    }
    uint32_t port = 0;
    size_t digits = size - (size_t)(colon + 1 - text);
    for (size_t i = 0; i < digits && i < 6; i++) {
        if (colon[1 + i] < '0' || colon[1 + i] > '9') {
            return err_set(err, ERR_USAGE, "endpoint \"%.*s\" has a malformed port", (int)size,
                           text);
        }
        port = port * 10 + (uint32_t)(colon[1 + i] - '0');
    }
    if (digits == 0 || digits > 5 || port == 0 || port > 65535) {
        return err_set(err, ERR_USAGE, "endpoint \"%.*s\" has no port from 1 to 65535", (int)size,
                       text);
    }
    return 0;
}

int core_parse_endpoints(const char *text, char ***list, size_t *count, struct err *err)
{
    size_t pieces = 1;
    for (const char *at = text; *at; at++) {
        pieces += *at == ',';
    }
    if (pieces > CORE_SEEDS_MAX) {
        return err_set(err, ERR_USAGE, "more than %d endpoints", CORE_SEEDS_MAX);
    }
    char **made = mem_try_alloc(NULL, pieces * sizeof *made + strlen(text) + 1);
    if (!made) {
        return err_set(err, ERR_NO_MEMORY, "out of memory");
    }
    char *copy = (char *)(made + pieces);
    strcpy(copy, text);
    size_t found = 0;
    for (char *at = copy, *next; at; at = next) {
        next = strchr(at, ',');
        if (next) {
            *next++ = '\0';
        }
        while (*at == ' ') {
            at++;
        }
        int status = parse_endpoint(at, strlen(at), err);
        if (status) {
            mem_free(made);
            return status;
        }
        made[found++] = at;
    }
    *list = made;
    *count = found;
    return 0;
}

int core_open(const struct core_options *options, const struct core_transport *transport, void *ctx,
              uint64_t now_us, struct core **out, struct err *err)
{
    char **seeds;
    size_t seed_count;
    int status = core_parse_endpoints(options->endpoints, &seeds, &seed_count, err);
    if (status) {
        return status;
    }
    size_t program_size = strlen(options->program) + 1;
    struct core *core = MEM_TRY_NEW(options->gate, struct core);
    char *program = mem_try_alloc(options->gate, program_size);
    if (!core || !program) {
        mem_free(core);
        mem_free(program);
        mem_free(seeds);
        return err_set(err, ERR_NO_MEMORY, "out of memory");
    }
    memcpy(program, options->program, program_size);
    core->gate = core->arena.gate = options->gate;
    core->transport = transport;
    core->transport_ctx = ctx;
    core->now_us = now_us;
    core->random = options->seed[2] ^ options->seed[3];
    core->replica_bias = core_random(core);
    core->program = program;
    core->timeout_ms = options->timeout_ms;
    core->session.id_high = options->seed[0];
    core->session.id_low = options->seed[1];
    core->session.next = core->session.lowest = 1;
    core->next_link = 1;
    core->next_ask = CORE_FIRST_ASK;
    core->allocator = (ProtobufCAllocator){ core_arena_alloc, core_arena_free, &core->arena };
    list_init(&core->beside);
    if (options->beside) {
        list_append(&options->beside->beside, &core->beside);
    }
    list_init(&core->links);
    list_init(&core->ready);
    list_init(&core->homeless);
    list_init(&core->window);
    list_init(&core->finished);
    list_init(&core->free_calls);
    list_init(&core->free_flights);
    list_init(&core->asks);
    list_init(&core->asks_done);
    list_init(&core->streams);
    bool has_memory = timers_reserve(core, 1); /* topology_timer */
    for (size_t i = 0; i < seed_count && has_memory; i++) {
        struct link *link = link_get(core, seeds[i]);
        has_memory = link != NULL;
        if (link) {
            link->is_seed = true;
        }
    }
    mem_free(seeds);
    if (!has_memory) {
        core_close(core);
        return err_set(err, ERR_NO_MEMORY, "out of memory");
    }
    *out = core;
    return 0;
}

void core_close(struct core *core)
{
    CHECK(list_is_empty(&core->streams));
    call_cancel_all(core);
    ask_fini(core);
    while (!list_is_empty(&core->finished) || core->calls.count) {
        call_callbacks(core);
        call_cancel_all(core); /* what a callback submitted just now */
    }
    question_withdraw(&core->topology_question);
    while (!list_is_empty(&core->links)) {
        link_free(core, container_of(core->links.next, struct link, node));
    }
    list_remove(&core->beside);
    route_fini(core);
    call_fini(core);
    link_fini(core);
    slots_fini(&core->calls);
    arena_fini(&core->arena);
    buf_fini(&core->scratch);
    mem_free(core->timers);
    mem_free(core->program);
    mem_free(core);
}

/* --- The step */

static void core_set_now(struct core *core, uint64_t now_us)
{
    if (now_us > core->now_us) {
        core->now_us = now_us;
    }
}

static void timers_fire(struct core *core)
{
    while (core->timer_count && core->timers[0]->due_us <= core->now_us) {
        struct timer *timer = core->timers[0];
        timer_clear(core, timer);
        timer->fire(core, timer);
    }
}

int core_step(struct core *core, uint64_t now_us)
{
    core_set_now(core, now_us);
    core->steps++;
    timers_fire(core);
    int calls = call_callbacks(core);
    calls += ask_callbacks(core);
    calls += stream_callbacks(core);
    call_route(core);
    stream_drive(core);
    route_drive(core); /* after those that may find that they want a topology */
    link_flush_all(core);
    return calls;
}

static bool link_has_work(const struct core *core)
{
    LIST_FOR(at, &core->links)
    {
        const struct link *link = container_of(at, struct link, node);
        if (link->state == LINK_READY &&
            (!list_is_empty(&link->queue) || !list_is_empty(&link->questions))) {
            return true;
        }
    }
    return false;
}

uint64_t core_due_us(const struct core *core)
{
    if (!list_is_empty(&core->ready) || !list_is_empty(&core->finished) ||
        !list_is_empty(&core->asks_done) || core->streams_dirty || link_has_work(core)) {
        return 0;
    }
    return core->timer_count ? core->timers[0]->due_us : UINT64_MAX;
}

/* --- Events (the rest of their work is link.c's) */

void core_connected(struct core *core, uint64_t number, uint64_t now_us)
{
    core_set_now(core, now_us);
    struct link *link = link_find_number(core, number);
    if (link && link->state == LINK_CONNECTING) {
        link_on_connected(core, link);
    }
}

void core_bytes(struct core *core, uint64_t number, struct span bytes, uint64_t now_us)
{
    core_set_now(core, now_us);
    struct link *link = link_find_number(core, number);
    if (link) {
        core->stats.bytes_received += bytes.size;
        link_on_bytes(core, link, bytes);
    }
}

void core_closed(struct core *core, uint64_t number, const char *reason, uint64_t now_us)
{
    core_set_now(core, now_us);
    struct link *link = link_find_number(core, number);
    if (link) {
        link->number = 0; /* nothing left to close */
        link_fail(core, link, reason);
    }
}

/* --- Timers */

static void timer_place(struct core *core, struct timer *timer, size_t at)
{
    core->timers[at] = timer;
    timer->slot = at + 1;
}

static void timer_sift(struct core *core, struct timer *timer, size_t at)
{
    while (at && core->timers[(at - 1) / 2]->due_us > timer->due_us) {
        timer_place(core, core->timers[(at - 1) / 2], at);
        at = (at - 1) / 2;
    }
    for (;;) {
        size_t child = 2 * at + 1;
        if (child + 1 < core->timer_count &&
            core->timers[child + 1]->due_us < core->timers[child]->due_us) {
            child++;
        }
        if (child >= core->timer_count || core->timers[child]->due_us >= timer->due_us) {
            break;
        }
        timer_place(core, core->timers[child], at);
        at = child;
    }
    timer_place(core, timer, at);
}

bool timers_reserve(struct core *core, size_t count)
{
    size_t needed = core->timer_owners + count;
    size_t capacity = mem_try_grow(core->gate, &core->timers, core->timer_capacity, needed + 1,
                                   sizeof(struct timer *));
    if (!capacity) {
        return false;
    }
    core->timer_capacity = capacity;
    core->timer_owners = needed;
    return true;
}

void timers_release(struct core *core, size_t count)
{
    CHECK(count <= core->timer_owners);
    core->timer_owners -= count;
}

void timer_set(struct core *core, struct timer *timer, uint64_t due_us)
{
    timer->due_us = due_us;
    if (!timer->slot) {
        CHECK(core->timer_count < core->timer_owners);
        timer_place(core, timer, core->timer_count++);
    }
    timer_sift(core, timer, timer->slot - 1);
}

void timer_clear(struct core *core, struct timer *timer)
{
    if (!timer->slot) {
        return;
    }
    size_t at = timer->slot - 1;
    CHECK(core->timers[at] == timer);
    timer->slot = 0;
    struct timer *last = core->timers[--core->timer_count];
    if (last != timer) {
        timer_sift(core, last, at);
    }
}

/* --- Randomness (splitmix64) */

uint64_t core_random(struct core *core)
{
    uint64_t z = core->random += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

uint64_t core_jitter(struct core *core, uint64_t us)
{
    return us / 2 + core_random(core) % (us / 2 + 1);
}

uint64_t core_backoff(struct core *core, uint32_t failures, uint64_t min_us, uint64_t max_us)
{
    uint64_t us = failures < 20 ? min_us << failures : max_us;
    return core_jitter(core, us < max_us ? us : max_us);
}

/* --- The session */

uint64_t session_number(struct session *session)
{
    if (session->next - session->lowest >= LIMIT_SESSION_RESULTS) {
        return 0;
    }
    uint64_t number = session->next++;
    uint32_t bit = number % LIMIT_SESSION_RESULTS;
    session->answered[bit / 8] &= (uint8_t) ~(1u << bit % 8);
    return number;
}

void session_answered(struct core *core, uint64_t number)
{
    struct session *session = &core->session;
    CHECK(number >= session->lowest && number < session->next);
    uint32_t bit = number % LIMIT_SESSION_RESULTS;
    session->answered[bit / 8] |= (uint8_t)(1u << bit % 8);
    uint64_t before = session->lowest;
    while (session->lowest < session->next) {
        bit = session->lowest % LIMIT_SESSION_RESULTS;
        if (!(session->answered[bit / 8] >> bit % 8 & 1)) {
            break;
        }
        session->lowest++;
    }
    if (session->lowest != before) {
        call_wake(core, &core->window, session->lowest - before);
    }
}

/* --- For people */

void core_set_error(struct core *core, int status, const char *detail)
{
    const struct err_info *info = err_info(status);
    if (detail && detail[0]) {
        snprintf(core->last_error, sizeof core->last_error, "%s: %s", info->text, detail);
    } else {
        snprintf(core->last_error, sizeof core->last_error, "%s", info->text);
    }
}

const char *core_last_error(const struct core *core)
{
    return core->last_error;
}

void core_stats(const struct core *core, struct cairn_stats *out)
{
    *out = core->stats;
}

const struct topology *core_topology(const struct core *core)
{
    return core->topology;
}

uint64_t core_primary(const struct core *core, size_t partition)
{
    CHECK(core->topology && partition < core->topology->partition_count);
    int32_t node = core->primaries[partition];
    return node < 0 ? 0 : core->topology->nodes[node].id;
}
