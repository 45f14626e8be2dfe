/* A caller: see caller.h. What sockets.c is in production. */
#include "sim/caller.h"

#include <stdio.h>

#include "base/check.h"
#include "base/mem.h"
#include "client/core_private.h"

enum { BROKEN_SOON_US = 100 };

struct caller_link {
    struct list link;
    struct caller *caller;
    uint64_t number;
    struct env_conn *conn;
    struct buf waiting, sending; /* `sending` is the env's until on_written */
    bool is_open, is_sending;
    struct env_timer broken; /* the connection could not even be begun */
};

uint64_t caller_now_us(struct caller *caller)
{
    return env_now_us(&caller->env->env);
}

void caller_wake(struct caller *caller)
{
    env_defer(&caller->env->env, &caller->step);
}

static struct caller_link *find_link(const struct caller *caller, uint64_t number)
{
    LIST_FOR(at, &caller->links)
    {
        struct caller_link *link = container_of(at, struct caller_link, link);
        if (link->number == number) {
            return link;
        }
    }
    return NULL;
}

static void free_link(struct caller_link *link)
{
    list_remove(&link->link);
    env_timer_stop(&link->caller->env->env, &link->broken);
    buf_fini(&link->waiting);
    buf_fini(&link->sending);
    mem_free(link);
}

static void send_waiting(struct caller_link *link)
{
    if (!link->is_open || link->is_sending || link->waiting.size == 0) {
        return;
    }
    struct buf empty = link->sending;
    buf_clear(&empty);
    link->sending = link->waiting;
    link->waiting = empty;
    struct span part = buf_span(&link->sending);
    link->is_sending = env_conn_write(&link->caller->env->env, link->conn, &part, 1) == 0;
}

static void on_open(void *ctx, struct env_conn *conn)
{
    struct caller_link *link = ctx;
    link->is_open = true;
    core_connected(link->caller->core, link->number, caller_now_us(link->caller));
    caller_wake(link->caller);
}

static void on_data(void *ctx, struct env_conn *conn, struct span data)
{
    struct caller_link *link = ctx;
    core_bytes(link->caller->core, link->number, data, caller_now_us(link->caller));
    caller_wake(link->caller);
}

static void on_written(void *ctx, struct env_conn *conn)
{
    struct caller_link *link = ctx;
    link->is_sending = false;
    send_waiting(link);
}

static void on_close(void *ctx, struct env_conn *conn, int status)
{
    struct caller_link *link = ctx;
    struct caller *caller = link->caller;
    if (link->number != 0 && caller->core) {
        core_closed(caller->core, link->number, err_info(status ? status : ERR_CLOSED)->text,
                    caller_now_us(caller));
        caller_wake(caller);
    }
    free_link(link);
}

static const struct env_conn_events link_events = { on_open, on_data, on_written, on_close };

static void on_broken(struct env_timer *timer)
{
    on_close(container_of(timer, struct caller_link, broken), NULL, ERR_CONNECT);
}

static void transport_connect(void *ctx, uint64_t number, const char *address)
{
    struct caller *caller = ctx;
    struct caller_link *link = MEM_NEW(struct caller_link);
    link->caller = caller;
    link->number = number;
    link->broken.fire = on_broken;
    list_append(&caller->links, &link->link);
    struct err err;
    if (env_connect(&caller->env->env, address, &link_events, link, &link->conn, &err) != 0) {
        env_timer_start(&caller->env->env, &link->broken, BROKEN_SOON_US);
    }
}

static void transport_send(void *ctx, uint64_t number, const struct span *parts, size_t count)
{
    struct caller_link *link = find_link(ctx, number);
    if (!link) {
        return;
    }
    for (size_t i = 0; i < count; i++) {
        buf_append_span(&link->waiting, parts[i]);
    }
    send_waiting(link);
}

static void transport_close(void *ctx, uint64_t number)
{
    struct caller_link *link = find_link(ctx, number);
    if (!link) {
        return;
    }
    link->number = 0;
    if (link->conn) {
        env_conn_close(&link->caller->env->env, link->conn); /* on_close frees it */
    } else {
        free_link(link);
    }
}

static const struct core_transport transport = { transport_connect, transport_send,
                                                 transport_close };

static void caller_step(struct env_task *task)
{
    struct caller *caller = container_of(task, struct caller, step);
    uint64_t now = caller_now_us(caller);
    core_step(caller->core, now);
    uint64_t due = core_due_us(caller->core);
    if (due == UINT64_MAX) {
        env_timer_stop(&caller->env->env, &caller->due);
    } else {
        env_timer_start(&caller->env->env, &caller->due, due > now ? due - now : 0);
    }
}

static void caller_due(struct env_timer *timer)
{
    caller_wake(container_of(timer, struct caller, due));
}

/* --- Life */

void caller_init(struct caller *caller, const struct caller_config *config)
{
    char host[32];
    snprintf(host, sizeof host, "127.0.1.%u", config->machine);
    *caller = (struct caller){ 0 };
    caller->env =
        env_sim_new(config->schedule, config->network, NULL, config->machine, host, config->seed);
    caller->env->drift_ppm = (int64_t)random_below(config->random, 401) - 200;
    caller->env->grain_us = config->grain_us;
    env_sim_boot(caller->env);
    list_init(&caller->links);
    caller->step.run = caller_step;
    caller->due.fire = caller_due;
    struct core_options options = { .endpoints = config->endpoints,
                                    .program = "sim",
                                    .timeout_ms = config->timeout_ms,
                                    .gate = config->gate };
    for (int i = 0; i < 4; i++) {
        options.seed[i] = random_u64(config->random);
    }
    struct err err;
    int status =
        core_open(&options, &transport, caller, caller_now_us(caller), &caller->core, &err);
    CHECK(status == 0);
}

size_t caller_open_requests(const struct caller *caller)
{
    size_t count = 0;
    LIST_FOR(at, &caller->core->links)
    {
        const struct link *link = container_of(at, struct link, node);
        const struct caller_link *below = find_link(caller, link->number);
        bool is_alive = below && below->conn && network_is_alive(below->conn);
        count += is_alive ? link->flights.count : 0;
    }
    return count;
}

bool caller_is_connected(const struct caller *caller)
{
    bool is_connected = false;
    LIST_FOR(at, &caller->core->links)
    {
        is_connected |= container_of(at, struct link, node)->state == LINK_READY;
    }
    return is_connected;
}

void caller_break_links(struct caller *caller)
{
    LIST_FOR_SAFE(at, &caller->links)
    {
        struct caller_link *link = container_of(at, struct caller_link, link);
        if (link->is_open && link->number != 0) {
            core_closed(caller->core, link->number, "broken on purpose", caller_now_us(caller));
            link->number = 0;
            env_conn_close(&caller->env->env, link->conn); /* on_close frees it */
        }
    }
    caller_wake(caller);
}

void caller_kill(struct caller *caller)
{
    struct core *core = caller->core;
    caller->core = NULL; /* callbacks see that it ends */
    core_close(core);
    env_sim_kill(caller->env, ENV_SIM_CRASH);
    while (!list_is_empty(&caller->links)) {
        free_link(container_of(caller->links.next, struct caller_link, link));
    }
    env_sim_reap(caller->env);
}

void caller_fini(struct caller *caller)
{
    env_sim_free(caller->env);
}
