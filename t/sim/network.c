/* The simulated network.
 *
 * A connection has two ends. What an end writes is copied into its `out` buffer with a mark that
 * says when the bytes will arrive; one event per direction delivers what has arrived, cut into
 * pieces by the dice. A write is done when the bytes not yet delivered fit the window, as with a
 * socket buffer.
 *
 *   end:  NEW (accepted soon) → OPEN → CLOSING (on_close is on its way) → CLOSED
 *         CONNECTING → OPEN | CLOSING
 *
 * Invariants
 *   I1  bytes of one direction are delivered in order, each once; on_close of the receiver comes
 *       after the last.
 *   I2  a blocked direction delivers nothing, neither bytes nor the news of a close.
 *   I3  an end's memory lives until both ends are CLOSED and no process holds them. */
#include "sim/network.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/mem.h"
#include "sim/env_sim.h"
#include "wire/frame.h"

enum {
    MARKS_MAX = 64,
    NOTED_BYTES = 128, /* of each delivery, in the trace hash */
    REFUSED_US = 100,
    PIECE_GAP_US = 20,
    SYN_FIRST_US = 1000 * 1000, /* doubled with each try, as Linux does: 127 s in all */
    SYN_TRIES = 7,
    KEEPALIVE_US = 60 * 1000 * 1000, /* as env_uv_net.c asks for */
    KEEPALIVE_LOST_US = 10 * 1000 * 1000,
    SWAP_MAX_US = 10 * 1000,
    DELAY_MAX_US = 3 * 1000 * 1000,
    FRAME_TYPE_AT = 5, /* wire/frame.h */
    FRAME_MESSAGE_SIZE_AT = 16,
    FRAME_PAYLOAD_SIZE_AT = 20,
};

enum end_state { END_NEW, END_CONNECTING, END_OPEN, END_CLOSING, END_CLOSED };

struct connection;

struct env_conn {
    struct connection *connection;
    struct env_sim *env;
    struct list link; /* in env->conns while the process holds it */
    enum end_state state;
    const struct env_conn_events *events;
    void *ctx;
    char peer_name[64];
    bool is_paused, is_writing;
    bool is_finished; /* this end sends nothing more; the peer shall hear of it */
    bool is_silent;   /* lost its power: the peer shall not hear of it */
    bool is_clogged;  /* a delivery waits for its direction to be unblocked */
    int close_status;
    struct buf out;
    size_t out_at; /* bytes of `out` already delivered */
    uint64_t last_arrival_us;
    struct mark {
        uint64_t at_us;
        size_t end; /* in `out` */
    } marks[MARKS_MAX];
    uint32_t mark_head, mark_count;
    struct schedule_event deliver; /* happens at the other end */
    struct schedule_event news;    /* on_open, on_written, on_close of this end */
    struct schedule_event patience;
    struct schedule_event keepalive;
    struct list held; /* frames that shall arrive later than their successors */
    bool has_written;
    bool is_doubted; /* a keepalive went unanswered */
};

struct connection {
    struct list link;
    struct network *network;
    struct env_conn ends[2];     /* [0] connected, [1] accepted */
    struct schedule_event syn;   /* in the kernels: tries to reach the other machine */
    struct schedule_event knock; /* in the listening process: somebody is there */
    int syn_tries;
    char address[64];
};

/* A frame that is kept back. */
struct held {
    struct list link;
    struct env_conn *end;
    struct schedule_event release;
    struct buf bytes;
};

struct env_listener {
    struct list link;
    struct env_sim *env;
    char address[64];
    void (*on_accept)(void *ctx, struct env_conn *conn);
    void *ctx;
};

static void run_deliver(struct schedule_event *event);
static void run_news(struct schedule_event *event);
static void run_patience(struct schedule_event *event);
static void run_keepalive(struct schedule_event *event);
static void run_syn(struct schedule_event *event);
static void drop_held(struct env_conn *end);
static void run_knock(struct schedule_event *event);
static void end_close(struct env_conn *end, int status, uint64_t delay_us);
static void deliver_soon(struct env_conn *from, uint64_t at_us);

void network_init(struct network *network, struct schedule *schedule, uint64_t seed)
{
    *network = (struct network){ .schedule = schedule };
    network->random = random_stream(seed, 0x4e7);
    network->window_bytes = 256 << 10;
    network->patience_us = 10 * 1000 * 1000;
    network->next_port = 40000;
    list_init(&network->connections);
    for (uint32_t i = 0; i < NETWORK_MACHINES_MAX; i++) {
        for (uint32_t j = 0; j < NETWORK_MACHINES_MAX; j++) {
            network->latency_us[i][j] = 100;
        }
    }
}

static void connection_free(struct connection *connection)
{
    for (int i = 0; i < 2; i++) {
        struct env_conn *end = &connection->ends[i];
        schedule_remove(connection->network->schedule, &end->deliver);
        schedule_remove(connection->network->schedule, &end->news);
        schedule_remove(connection->network->schedule, &end->patience);
        schedule_remove(connection->network->schedule, &end->keepalive);
        drop_held(end);
        list_remove(&end->link);
        buf_fini(&end->out);
    }
    schedule_remove(connection->network->schedule, &connection->syn);
    schedule_remove(connection->network->schedule, &connection->knock);
    list_remove(&connection->link);
    mem_free(connection);
}

void network_fini(struct network *network)
{
    while (!list_is_empty(&network->connections)) {
        connection_free(container_of(network->connections.next, struct connection, link));
    }
}

static struct env_conn *other(struct env_conn *end)
{
    struct connection *connection = end->connection;
    return end == &connection->ends[0] ? &connection->ends[1] : &connection->ends[0];
}

static void try_free(struct connection *connection)
{
    if (connection->ends[0].state == END_CLOSED && connection->ends[1].state == END_CLOSED &&
        !list_is_linked(&connection->ends[0].link) && !list_is_linked(&connection->ends[1].link)) {
        connection_free(connection);
    }
}

static bool is_blocked(const struct env_conn *from, const struct env_conn *to)
{
    return from->connection->network->blocked[from->env->machine][to->env->machine];
}

static uint64_t draw_latency(struct network *network, const struct env_sim *from,
                             const struct env_sim *to)
{
    return random_delay(&network->random, network->latency_us[from->machine][to->machine]);
}

/* --- Listening and connecting */

int network_listen(struct env_sim *env, const char *address,
                   void (*on_accept)(void *ctx, struct env_conn *conn), void *ctx,
                   struct env_listener **out, struct err *err)
{
    struct env_listener *listener = MEM_NEW(struct env_listener);
    listener->env = env;
    snprintf(listener->address, sizeof listener->address, "%s", address);
    char *colon = strrchr(listener->address, ':');
    if (!colon) {
        mem_free(listener);
        return err_set(err, ERR_USAGE, "%s: no port", address);
    }
    if (strcmp(colon, ":0") == 0) {
        snprintf(colon, sizeof listener->address - (size_t)(colon - listener->address), ":%u",
                 env->network->next_port++);
    }
    LIST_FOR(link, &env->listeners)
    {
        if (strcmp(container_of(link, struct env_listener, link)->address, listener->address) ==
            0) {
            mem_free(listener);
            return err_set(err, ERR_IO, "listen on %s: address already in use", address);
        }
    }
    listener->on_accept = on_accept;
    listener->ctx = ctx;
    list_append(&env->listeners, &listener->link);
    *out = listener;
    return 0;
}

void network_listener_close(struct env_listener *listener)
{
    list_remove(&listener->link);
    mem_free(listener);
}

/* The machine with the address's host; NULL: nobody there. */
static struct env_sim *find_machine(struct network *network, const char *address)
{
    const char *colon = strrchr(address, ':');
    size_t size = colon ? (size_t)(colon - address) : 0;
    for (uint32_t i = 0; i < NETWORK_MACHINES_MAX; i++) {
        struct env_sim *env = network->machines[i];
        if (env && strlen(env->host) == size && strncmp(env->host, address, size) == 0) {
            return env;
        }
    }
    return NULL;
}

static struct env_listener *find_listener(struct env_sim *env, const char *address)
{
    LIST_FOR(link, &env->listeners)
    {
        struct env_listener *listener = container_of(link, struct env_listener, link);
        if (strcmp(listener->address, address) == 0) {
            return listener;
        }
    }
    return NULL;
}

static void init_end(struct connection *connection, int side, struct env_sim *env,
                     struct env_sim *peer)
{
    struct env_conn *end = &connection->ends[side];
    end->connection = connection;
    end->env = env;
    list_init(&end->held);
    end->deliver = (struct schedule_event){ .run = run_deliver, .owner = peer };
    end->news = (struct schedule_event){ .run = run_news, .owner = env };
    end->patience = (struct schedule_event){ .run = run_patience, .owner = env };
    end->keepalive = (struct schedule_event){ .run = run_keepalive, .owner = env };
}

int network_connect(struct env_sim *env, const char *address, const struct env_conn_events *events,
                    void *ctx, struct env_conn **out, struct err *err)
{
    struct network *network = env->network;
    struct env_sim *target = find_machine(network, address);
    if (!target) {
        return err_set(err, ERR_CONNECT, "%s: no such host", address);
    }
    struct connection *connection = MEM_NEW(struct connection);
    connection->network = network;
    snprintf(connection->address, sizeof connection->address, "%s", address);
    init_end(connection, 0, env, target);
    init_end(connection, 1, target, env);
    connection->syn.run = run_syn;
    connection->knock = (struct schedule_event){ .run = run_knock, .owner = target };
    list_append(&network->connections, &connection->link);
    struct env_conn *end = &connection->ends[0];
    end->state = END_CONNECTING;
    end->events = events;
    end->ctx = ctx;
    snprintf(end->peer_name, sizeof end->peer_name, "%s", address);
    snprintf(connection->ends[1].peer_name, sizeof end->peer_name, "%s:%u", env->host,
             network->next_port++);
    connection->ends[1].state = END_CLOSED; /* not there yet */
    list_append(&env->conns, &end->link);
    network->stats.connects++;
    schedule_add(network->schedule, &connection->syn,
                 network->schedule->now_us + draw_latency(network, env, target));
    *out = end;
    return 0;
}

/* A SYN arrives at the other machine, or does not: then it is tried again, ever later. */
static void run_syn(struct schedule_event *event)
{
    struct connection *connection = container_of(event, struct connection, syn);
    struct network *network = connection->network;
    struct env_conn *client = &connection->ends[0], *server = &connection->ends[1];
    if (client->state != END_CONNECTING) {
        return;
    }
    bool is_heard =
        !is_blocked(client, server) && !is_blocked(server, client) && !server->env->is_down;
    if (!is_heard && connection->syn_tries == SYN_TRIES - 1) {
        end_close(client, ERR_CONNECT, 0);
    } else if (!is_heard) {
        schedule_add(network->schedule, event,
                     network->schedule->now_us +
                         ((uint64_t)SYN_FIRST_US << connection->syn_tries++));
    } else if (server->env->is_dead) {
        network->stats.refused++;
        end_close(client, ERR_CONNECT, REFUSED_US);
    } else {
        schedule_add(network->schedule, &connection->knock, network->schedule->now_us);
    }
}

/* Happens at the listening process. */
static void run_knock(struct schedule_event *event)
{
    struct connection *connection = container_of(event, struct connection, knock);
    struct network *network = connection->network;
    struct env_conn *client = &connection->ends[0], *server = &connection->ends[1];
    struct env_listener *listener = find_listener(server->env, connection->address);
    uint64_t back_us = draw_latency(network, server->env, client->env);
    if (client->state != END_CONNECTING) {
        return;
    }
    if (!listener) {
        network->stats.refused++;
        end_close(client, ERR_CONNECT, back_us);
        return;
    }
    server->state = END_NEW;
    list_append(&server->env->conns, &server->link);
    schedule_note(network->schedule, 0xacce97);
    listener->on_accept(listener->ctx, server);
    if (server->state == END_NEW) {
        CHECK(server->events != NULL); /* on_accept attaches or closes */
        schedule_add(network->schedule, &server->keepalive,
                     network->schedule->now_us + KEEPALIVE_US);
        server->state = END_OPEN;
    }
    schedule_add(network->schedule, &client->news, network->schedule->now_us + back_us);
}

void network_attach(struct env_conn *conn, const struct env_conn_events *events, void *ctx)
{
    conn->events = events;
    conn->ctx = ctx;
}

const char *network_peer(struct env_conn *conn)
{
    return conn->peer_name;
}

/* --- Bytes */

static size_t waiting_bytes(const struct env_conn *end)
{
    return end->out.size - end->out_at;
}

static void deliver_soon(struct env_conn *from, uint64_t at_us)
{
    if (!schedule_is_waiting(&from->deliver) && !from->is_clogged) {
        schedule_add(from->connection->network->schedule, &from->deliver,
                     env_sim_wakes_us(other(from)->env, at_us));
    }
}

/* What was just put into `out` arrives after the link's latency, but never before what was sent
 * earlier. */
static void add_mark(struct env_conn *end)
{
    struct network *network = end->connection->network;
    uint64_t at = network->schedule->now_us + draw_latency(network, end->env, other(end)->env);
    if (at < end->last_arrival_us) {
        at = end->last_arrival_us;
    }
    end->last_arrival_us = at;
    if (end->mark_count == MARKS_MAX) { /* the newest mark takes it in */
        struct mark *newest = &end->marks[(end->mark_head + end->mark_count - 1) % MARKS_MAX];
        *newest = (struct mark){ at, end->out.size };
        return;
    }
    end->marks[(end->mark_head + end->mark_count++) % MARKS_MAX] =
        (struct mark){ at, end->out.size };
}

static void start_patience(struct env_conn *end)
{
    struct network *network = end->connection->network;
    if (!schedule_is_waiting(&end->patience) && end->state == END_OPEN) {
        schedule_add(network->schedule, &end->patience,
                     network->schedule->now_us +
                         random_delay(&network->random, network->patience_us));
    }
}

/* --- Fates of frames */

static void drop_held(struct env_conn *end)
{
    struct list *link;
    while ((link = list_take_first(&end->held)) != NULL) {
        struct held *held = container_of(link, struct held, link);
        schedule_remove(end->connection->network->schedule, &held->release);
        buf_fini(&held->bytes);
        mem_free(held);
    }
}

static void run_release(struct schedule_event *event)
{
    struct held *held = container_of(event, struct held, release);
    struct env_conn *end = held->end;
    if (end->state == END_OPEN && !end->is_finished) {
        buf_append_span(&end->out, buf_span(&held->bytes));
        add_mark(end);
        deliver_soon(end, end->marks[end->mark_head % MARKS_MAX].at_us);
    }
    list_remove(&held->link);
    buf_fini(&held->bytes);
    mem_free(held);
}

static void hold(struct env_conn *end, struct span frame, uint64_t for_us)
{
    struct held *held = MEM_NEW(struct held);
    held->end = end;
    held->release.run = run_release;
    buf_append_span(&held->bytes, frame);
    list_append(&end->held, &held->link);
    struct schedule *schedule = end->connection->network->schedule;
    schedule_add(schedule, &held->release, schedule->now_us + for_us);
}

static enum network_fate draw_fate(struct network *network, uint8_t frame_type)
{
    uint64_t draw = frame_type == FRAME_RAFT ? random_below(&network->random, 10000) : 10000;
    for (int i = NETWORK_LOSE; i < NETWORK_FATES; i++) {
        if (draw < network->fates_per_10000[i]) {
            return (enum network_fate)i;
        }
        draw -= draw < 10000 ? network->fates_per_10000[i] : 0;
    }
    return NETWORK_PASS;
}

/* Puts one frame behind those that go out; or not, or twice. */
static void meet_fate(struct env_conn *end, struct span frame, struct buf *out)
{
    struct network *network = end->connection->network;
    enum network_fate fate = draw_fate(network, frame.data[FRAME_TYPE_AT]);
    if (fate != NETWORK_PASS) {
        network->on_fate(network->ctx, fate);
    }
    if (fate == NETWORK_PASS || fate == NETWORK_DOUBLE) {
        buf_append_span(out, frame);
    }
    if (fate == NETWORK_DOUBLE) {
        buf_append_span(out, frame);
    } else if (fate == NETWORK_SWAP) {
        hold(end, frame, random_between(&network->random, 100, SWAP_MAX_US));
    } else if (fate == NETWORK_DELAY) {
        hold(end, frame, random_between(&network->random, SWAP_MAX_US, DELAY_MAX_US));
    }
}

static bool has_fates(const struct network *network)
{
    for (int i = NETWORK_LOSE; i < NETWORK_FATES; i++) {
        if (network->fates_per_10000[i] > 0) {
            return true;
        }
    }
    return false;
}

/* What was just written, from `begin` on, is whole frames: a connection of two nodes writes no
 * other way (wire/conn.c). */
static void meet_fates(struct env_conn *end, size_t begin)
{
    if (!has_fates(end->connection->network)) {
        return;
    }
    struct buf out = { 0 };
    struct span left = span_of(end->out.data + begin, end->out.size - begin);
    while (left.size > 0) {
        CHECK(left.size >= FRAME_HEADER_BYTES);
        size_t size = (size_t)FRAME_HEADER_BYTES + get_u32(left.data + FRAME_MESSAGE_SIZE_AT) +
                      get_u32(left.data + FRAME_PAYLOAD_SIZE_AT);
        CHECK(size <= left.size);
        meet_fate(end, span_of(left.data, size), &out);
        left = span_of(left.data + size, left.size - size);
    }
    end->out.size = begin;
    buf_append_span(&end->out, buf_span(&out));
    buf_fini(&out);
}

int network_write(struct env_conn *conn, const struct span *parts, size_t count)
{
    if (conn->state == END_CLOSING || conn->state == END_CLOSED || conn->env->is_dead) {
        return ERR_CLOSED;
    }
    CHECK(!conn->is_writing && conn->state != END_CONNECTING);
    struct network *network = conn->connection->network;
    if (conn->out_at == conn->out.size) {
        buf_clear(&conn->out);
        conn->out_at = 0;
        conn->mark_count = 0;
    } else if (conn->out_at > (1u << 20)) {
        buf_consume(&conn->out, conn->out_at);
        for (uint32_t i = 0; i < conn->mark_count; i++) {
            conn->marks[(conn->mark_head + i) % MARKS_MAX].end -= conn->out_at;
        }
        conn->out_at = 0;
    }
    size_t before = conn->out.size;
    for (size_t i = 0; i < count; i++) {
        buf_append_span(&conn->out, parts[i]);
    }
    if (network->on_fate && conn->env->disk && other(conn)->env->disk) {
        meet_fates(conn, before);
    }
    conn->is_writing = true;
    if (conn->out.size > before) {
        add_mark(conn);
        deliver_soon(conn, conn->marks[conn->mark_head % MARKS_MAX].at_us);
    }
    if (other(conn)->is_silent) {
        start_patience(conn);
    }
    if (waiting_bytes(conn) <= network->window_bytes && !schedule_is_waiting(&conn->news)) {
        conn->has_written = true;
        schedule_add(network->schedule, &conn->news,
                     env_sim_wakes_us(conn->env, network->schedule->now_us + 1));
    }
    return 0;
}

static void written_if_fits(struct env_conn *end)
{
    struct network *network = end->connection->network;
    if (end->is_writing && end->state == END_OPEN && !end->has_written &&
        waiting_bytes(end) <= network->window_bytes && !schedule_is_waiting(&end->news)) {
        end->has_written = true;
        schedule_add(network->schedule, &end->news,
                     env_sim_wakes_us(end->env, network->schedule->now_us + 1));
    }
}

/* How many bytes have arrived by now; removes their marks. */
static size_t arrived_bytes(struct env_conn *from)
{
    uint64_t now = from->connection->network->schedule->now_us;
    size_t end = from->out_at;
    while (from->mark_count > 0) {
        struct mark *mark = &from->marks[from->mark_head % MARKS_MAX];
        if (mark->at_us > now) {
            break;
        }
        end = mark->end;
        from->mark_head = (from->mark_head + 1) % MARKS_MAX;
        from->mark_count--;
    }
    return end - from->out_at;
}

/* Bytes or the end of the stream arrive at the other end. */
static void run_deliver(struct schedule_event *event)
{
    struct env_conn *from = container_of(event, struct env_conn, deliver), *to = other(from);
    struct network *network = from->connection->network;
    struct schedule *schedule = network->schedule;
    if (is_blocked(from, to) || to->is_silent) {
        from->is_clogged = true;
        start_patience(from);
        return;
    }
    if (to->state == END_CLOSED || to->state == END_CLOSING) { /* a reset comes back, if it can */
        from->out_at = from->out.size;
        from->mark_count = 0;
        if (from->state == END_OPEN && !is_blocked(to, from)) {
            end_close(from, ERR_CLOSED, draw_latency(network, to->env, from->env));
        } else if (from->state == END_OPEN) {
            start_patience(from);
        }
        return;
    }
    if (to->is_paused || to->state == END_CONNECTING) { /* network_pause, or the opening, goes on */
        return;
    }
    schedule_remove(schedule, &from->patience);
    size_t ready = arrived_bytes(from);
    size_t piece = ready;
    if (ready > 1 && random_percent(&network->random, network->cut_percent)) {
        piece = (size_t)random_between(&network->random, 1, ready - 1);
        network->stats.cut_pieces++;
        /* the rest comes a moment later, before anything else */
        from->mark_head = (from->mark_head + MARKS_MAX - 1) % MARKS_MAX;
        from->mark_count++;
        from->marks[from->mark_head] =
            (struct mark){ schedule->now_us + PIECE_GAP_US, from->out_at + ready };
    }
    if (piece > 0) {
        struct span data = span_of(from->out.data + from->out_at, piece);
        from->out_at += piece;
        network->stats.deliveries++;
        network->stats.bytes += piece;
        /* the head of a frame holds the checksum of what follows it */
        schedule_note(schedule,
                      piece ^ hash_bytes(data.data, piece < NOTED_BYTES ? piece : NOTED_BYTES));
        written_if_fits(from);
        if (from->mark_count > 0) {
            deliver_soon(from, from->marks[from->mark_head].at_us);
        } else if (from->is_finished) {
            deliver_soon(from, schedule->now_us + PIECE_GAP_US);
        }
        to->events->on_data(to->ctx, to, data);
        return;
    }
    if (from->mark_count > 0) {
        deliver_soon(from, from->marks[from->mark_head].at_us);
    } else if (from->is_finished && to->state == END_OPEN) {
        end_close(to, 0, 0);
    }
}

void network_pause(struct env_conn *conn, bool paused)
{
    conn->is_paused = paused;
    struct env_conn *from = other(conn);
    if (!paused && (waiting_bytes(from) > 0 || from->is_finished) && conn->state == END_OPEN) {
        uint64_t now = conn->connection->network->schedule->now_us;
        deliver_soon(from, from->mark_count > 0 ? from->marks[from->mark_head].at_us : now + 1);
    }
}

/* --- Ends */

/* The end will hear on_close; nothing else any more. */
static void end_close(struct env_conn *end, int status, uint64_t delay_us)
{
    struct schedule *schedule = end->connection->network->schedule;
    if (end->state == END_CLOSING || end->state == END_CLOSED) {
        return;
    }
    end->state = END_CLOSING;
    end->close_status = status;
    schedule_remove(schedule, &end->patience);
    schedule_add(schedule, &end->news, schedule->now_us + delay_us);
}

static void run_news(struct schedule_event *event)
{
    struct env_conn *end = container_of(event, struct env_conn, news);
    if (end->state == END_CONNECTING) {
        end->state = END_OPEN;
        schedule_add(end->connection->network->schedule, &end->keepalive,
                     end->connection->network->schedule->now_us + KEEPALIVE_US);
        end->events->on_open(end->ctx, end);
        if (waiting_bytes(other(end)) > 0 || other(end)->is_finished) {
            deliver_soon(other(end), end->connection->network->schedule->now_us + 1);
        }
        return;
    }
    if (end->state == END_OPEN) {
        if (end->has_written) {
            end->has_written = end->is_writing = false;
            if (end->events->on_written) {
                end->events->on_written(end->ctx, end);
            }
        }
        return;
    }
    if (end->state == END_CLOSING) {
        end->state = END_CLOSED;
        list_remove(&end->link);
        if (!end->is_finished) { /* closed by the other side or by a break: tell what may still be
                                    connected */
            end->is_finished = true;
            deliver_soon(end,
                         end->connection->network->schedule->now_us +
                             draw_latency(end->connection->network, end->env, other(end)->env));
        }
        const struct env_conn_events *events = end->events;
        int status = end->close_status;
        schedule_note(end->connection->network->schedule, 0xc105e);
        if (events) {
            events->on_close(end->ctx, end, status);
        }
        try_free(end->connection);
    }
}

static void run_patience(struct schedule_event *event)
{
    struct env_conn *end = container_of(event, struct env_conn, patience);
    end->connection->network->stats.timeouts++;
    end_close(end, ERR_CLOSED, 0);
}

/* An end that neither sends nor hears anything asks now and then whether the other is still there.
 */
static void run_keepalive(struct schedule_event *event)
{
    struct env_conn *end = container_of(event, struct env_conn, keepalive), *to = other(end);
    struct schedule *schedule = end->connection->network->schedule;
    if (end->state != END_OPEN) {
        return;
    }
    bool is_lost = to->is_silent || is_blocked(end, to) || is_blocked(to, end);
    if (to->state == END_CLOSED && !is_lost) {
        end_close(end, ERR_CLOSED, 0);
    } else if (is_lost && end->is_doubted) {
        end->connection->network->stats.timeouts++;
        end_close(end, ERR_CLOSED, 0);
    } else {
        end->is_doubted = is_lost;
        schedule_add(schedule, event,
                     schedule->now_us + (is_lost ? KEEPALIVE_LOST_US : KEEPALIVE_US));
    }
}

/* The end sends no more: what is under way arrives, or only a part of it (a reset overtakes the
 * rest). */
static void finish(struct env_conn *end)
{
    struct network *network = end->connection->network;
    if (end->is_finished) {
        return;
    }
    end->is_finished = true;
    if (waiting_bytes(end) > 0 && random_percent(&network->random, 50)) {
        end->out.size =
            end->out_at + (size_t)random_below(&network->random, waiting_bytes(end) + 1);
        for (uint32_t i = 0; i < end->mark_count; i++) {
            struct mark *mark = &end->marks[(end->mark_head + i) % MARKS_MAX];
            mark->end = mark->end < end->out.size ? mark->end : end->out.size;
        }
    }
    uint64_t at = network->schedule->now_us + draw_latency(network, end->env, other(end)->env);
    deliver_soon(end, at > end->last_arrival_us ? at : end->last_arrival_us);
}

void network_close(struct env_conn *conn)
{
    if (conn->state == END_CLOSED && conn->env->is_dead) {
        conn->is_writing = false;
        conn->state = END_CLOSING; /* env_sim_reap tells it */
        return;
    }
    if (conn->state == END_CLOSING) { /* was about to hear it anyway */
        return;
    }
    CHECK(conn->state != END_CLOSED);
    finish(conn);
    end_close(conn, 0, 0);
}

bool network_is_alive(const struct env_conn *conn)
{
    const struct env_conn *ends = conn->connection->ends;
    return ends[0].state == END_OPEN && ends[1].state == END_OPEN;
}

/* --- Faults */

void network_block(struct network *network, uint32_t from, uint32_t to, bool blocked)
{
    network->blocked[from][to] = blocked;
    if (blocked) {
        return;
    }
    LIST_FOR(link, &network->connections)
    {
        struct connection *connection = container_of(link, struct connection, link);
        for (int i = 0; i < 2; i++) {
            struct env_conn *end = &connection->ends[i];
            if (end->is_clogged && end->env->machine == from && other(end)->env->machine == to &&
                !other(end)->is_silent) {
                end->is_clogged = false;
                deliver_soon(end, network->schedule->now_us +
                                      draw_latency(network, end->env, other(end)->env));
            }
        }
    }
}

void network_unblock_all(struct network *network)
{
    for (uint32_t i = 0; i < NETWORK_MACHINES_MAX; i++) {
        for (uint32_t j = 0; j < NETWORK_MACHINES_MAX; j++) {
            if (network->blocked[i][j]) {
                network_block(network, i, j, false);
            }
        }
    }
}

bool network_break_one(struct network *network)
{
    size_t count = 0;
    struct connection *chosen = NULL;
    LIST_FOR(link, &network->connections)
    {
        struct connection *connection = container_of(link, struct connection, link);
        if (connection->ends[0].state == END_OPEN && connection->ends[1].state == END_OPEN &&
            random_one_in(&network->random, ++count)) {
            chosen = connection;
        }
    }
    if (!chosen) {
        return false;
    }
    network->stats.breaks++;
    for (int i = 0; i < 2; i++) {
        struct env_conn *end = &chosen->ends[i];
        end->out.size =
            end->out_at + (size_t)random_below(&network->random, waiting_bytes(end) + 1);
        end->mark_count = 0;
        end->is_finished = true;
        schedule_remove(network->schedule, &end->deliver);
        end_close(end, ERR_CLOSED, random_delay(&network->random, 2000));
    }
    return true;
}

static void end_process(struct env_conn *end, bool loud)
{
    struct network *network = end->connection->network;
    struct env_conn *peer = other(end);
    bool was_open = end->state == END_OPEN || end->state == END_NEW || end->state == END_CLOSING;
    if (end->state == END_CONNECTING) {
        schedule_remove(network->schedule, &end->connection->syn);
        schedule_remove(network->schedule, &end->connection->knock);
        end->is_finished = true;
        if (peer->state == END_OPEN) { /* accepted, and the answer was on its way */
            was_open = true;
            end->is_finished = false;
        }
    }
    end->state = END_CLOSED;
    end->is_paused = false;
    if (!was_open) {
        return;
    }
    if (loud) {
        finish(end);
    } else {
        schedule_remove(network->schedule, &end->deliver); /* what was in its buffers is gone */
        end->out.size = end->out_at;
        end->mark_count = 0;
        end->is_silent = end->is_finished = true;
        if (waiting_bytes(peer) > 0) {
            start_patience(peer);
        }
    }
}

void network_process_ended(struct network *network, struct env_sim *env, bool loud)
{
    LIST_FOR(link, &env->conns)
    {
        end_process(container_of(link, struct env_conn, link), loud);
    }
    LIST_FOR(link, &network->connections)
    {
        struct connection *connection = container_of(link, struct connection, link);
        for (int i = 0; i < 2; i++) {
            struct env_conn *from = &connection->ends[i], *to = other(from);
            if (to->env != env || from->env == env) {
                continue;
            }
            if (from->state == END_CONNECTING && (loud || to->state != END_CLOSED)) {
                /* a knock that nobody hears any more, or an accepted connection whose answer is on
                 * its way */
                if (!schedule_is_waiting(&connection->syn)) {
                    end_close(from, ERR_CONNECT,
                              loud ? REFUSED_US : random_delay(&network->random, SYN_FIRST_US));
                }
            } else if (from->state == END_CONNECTING && !schedule_is_waiting(&connection->syn)) {
                schedule_add(network->schedule, &connection->syn,
                             network->schedule->now_us + SYN_FIRST_US);
            } else if (waiting_bytes(from) > 0) {
                deliver_soon(from, network->schedule->now_us +
                                       REFUSED_US); /* the events to it were taken out */
            }
        }
    }
}

void network_process_reaped(struct network *network, struct env_sim *env)
{
    struct list *link;
    while ((link = list_take_first(&env->conns)) != NULL) {
        struct env_conn *end = container_of(link, struct env_conn, link);
        bool was_closed = end->state == END_CLOSING;
        end->state = END_CLOSED;
        if (was_closed && end->events) {
            end->events->on_close(end->ctx, end, ERR_CLOSED);
        }
        try_free(end->connection);
    }
    while ((link = list_take_first(&env->listeners)) != NULL) {
        mem_free(container_of(link, struct env_listener, link));
    }
}

void network_process_booted(struct network *network, struct env_sim *env)
{
    LIST_FOR(link, &network->connections)
    {
        struct connection *connection = container_of(link, struct connection, link);
        for (int i = 0; i < 2; i++) {
            struct env_conn *from = &connection->ends[i], *to = other(from);
            if (to->env == env && to->is_silent) {
                to->is_silent = false;
                if (from->is_clogged) {
                    from->is_clogged = false;
                    deliver_soon(from,
                                 network->schedule->now_us + draw_latency(network, from->env, env));
                }
            }
        }
    }
}
