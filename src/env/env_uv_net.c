/* TCP of the production env, by libuv: listening, connecting, reading, writing (I1, I2 of env_uv.c).
 *
 * Writes are tried at once (one writev in the common case, no request object); only what the socket
 * did not take goes through uv_write. on_written is a deferred task in the first case, so it never
 * comes inside env_conn_write. */
#include "env/env_uv_private.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <uv.h>

#include "base/check.h"
#include "base/mem.h"

enum {
    ENV_BACKLOG = 1024,
    ENV_KEEPALIVE_S = 60,
    ENV_USER_TIMEOUT_MS =
        20 * 1000, /* sent and not acknowledged by the other kernel for so long: it is gone */
    ENV_HOST_BYTES = 256,
};

/* Cuts "HOST:PORT" or "[V6]:PORT". */
static int address_cut(const char *address, char host[ENV_HOST_BYTES], const char **port,
                       struct err *err)
{
    bool has_bracket = address[0] == '[';
    const char *colon = strrchr(address, ':');
    const char *from = address + has_bracket;
    const char *to = colon;
    unsigned long number = 0;

    if (has_bracket && colon && colon > from && colon[-1] == ']') {
        to = colon - 1;
    } else if (has_bracket || !colon || memchr(address, ':', (size_t)(colon - address))) {
        return err_set(err, ERR_USAGE, "address %s: must be HOST:PORT or [V6]:PORT", address);
    }
    if (to == from || (size_t)(to - from) >= ENV_HOST_BYTES) {
        return err_set(err, ERR_USAGE, "address %s: the host is empty or too long", address);
    }
    for (const char *at = colon + 1; *at; at++) {
        number = *at >= '0' && *at <= '9' && number < 65536
                     ? number * 10 + (unsigned long)(*at - '0')
                     : 65536;
    }
    if (!colon[1] || number > 65535) {
        return err_set(err, ERR_USAGE, "address %s: the port must be a number up to 65535",
                       address);
    }
    memcpy(host, from, (size_t)(to - from));
    host[to - from] = '\0';
    *port = colon + 1;
    return 0;
}

/* A numeric address; false when host is a name. */
static bool address_parse_numeric(const char *host, const char *port, struct sockaddr_storage *out)
{
    int number = atoi(port);

    return uv_ip4_addr(host, number, (struct sockaddr_in *)out) == 0 ||
           uv_ip6_addr(host, number, (struct sockaddr_in6 *)out) == 0;
}

static void address_format(const struct sockaddr_storage *address, char out[ENV_PEER_BYTES])
{
    char host[INET6_ADDRSTRLEN] = "?";

    if (address->ss_family == AF_INET6) {
        const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)address;
        uv_ip6_name(v6, host, sizeof host);
        snprintf(out, ENV_PEER_BYTES, "[%s]:%u", host, ntohs(v6->sin6_port));
    } else {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)address;
        uv_ip4_name(v4, host, sizeof host);
        snprintf(out, ENV_PEER_BYTES, "%s:%u", host, ntohs(v4->sin_port));
    }
}

static void conn_closed(uv_handle_t *handle);

static void connect_next(struct env_conn *conn);

static struct env_conn *conn_new(struct env_uv *env)
{
    struct env_conn *conn = MEM_NEW(struct env_conn);

    conn->env = env;
    CHECK(uv_tcp_init(&env->loop, &conn->tcp) == 0); /* makes no socket yet, so it can't fail */
    conn->tcp.data = conn;
    list_append(&env->conns, &conn->link);
    return conn;
}

/* Closes the handle; on_close comes from conn_closed, in a later phase of the loop. */
void env_uv_conn_begin_close(struct env_conn *conn, int status)
{
    if (conn->state >= CONN_CLOSING) {
        return;
    }
    conn->state = CONN_CLOSING;
    conn->status = status;
    list_remove(&conn->written.link);
    if (conn->is_resolving) {
        uv_cancel((uv_req_t *)&conn->resolve);
    }
    if (!uv_is_closing(
            (uv_handle_t *)&conn->tcp)) { /* it is when the next address was about to be tried */
        uv_close((uv_handle_t *)&conn->tcp, conn_closed);
    }
}

static void conn_free(struct env_conn *conn)
{
    list_remove(&conn->link);
    uv_freeaddrinfo(conn->addresses);
    mem_free(conn);
}

static void conn_closed(uv_handle_t *handle)
{
    struct env_conn *conn = handle->data;

    if (conn->state == CONN_CONNECTING && conn->is_retrying) {
        conn->is_retrying = false;
        CHECK(uv_tcp_init(&conn->env->loop, &conn->tcp) == 0);
        conn->tcp.data = conn;
        connect_next(conn);
        return;
    }
    CHECK(conn->state == CONN_CLOSING);
    conn->state = CONN_CLOSED;
    if (conn->events) {
        conn->events->on_close(conn->ctx, conn, conn->status);
    }
    if (!conn->is_resolving) { /* otherwise resolve_done frees it */
        conn_free(conn);
    }
}

static void read_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *out)
{
    struct env_conn *conn = handle->data;

    *out = uv_buf_init((char *)conn->env->read_bytes, ENV_READ_BYTES);
}

static void read_done(uv_stream_t *stream, ssize_t got, const uv_buf_t *bytes)
{
    struct env_conn *conn = stream->data;

    if (got < 0) {
        env_uv_conn_begin_close(conn, got == UV_EOF ? 0 : ERR_CLOSED);
    } else if (got > 0 && conn->state == CONN_OPEN) {
        conn->events->on_data(conn->ctx, conn, span_of(bytes->base, (size_t)got));
    }
}

/* Reads when it should and stops when it should not. */
static void conn_read_update(struct env_conn *conn)
{
    if (conn->state != CONN_OPEN || !conn->events) {
        return;
    }
    if (conn->is_paused) {
        uv_read_stop((uv_stream_t *)&conn->tcp);
    } else {
        int status = uv_read_start((uv_stream_t *)&conn->tcp, read_alloc, read_done);
        CHECK(status == 0 || status == UV_EALREADY || status == UV_ENOTCONN);
        if (status == UV_ENOTCONN) { /* the peer was quicker to leave */
            env_uv_conn_begin_close(conn, ERR_CLOSED);
        }
    }
}

static void conn_tune(struct env_conn *conn)
{
    struct sockaddr_storage address;
    int size = sizeof address;

    /* Both can fail only when the peer is gone already, which the first read or write will tell. */
    uv_tcp_nodelay(&conn->tcp, 1);
    uv_tcp_keepalive(&conn->tcp, 1, ENV_KEEPALIVE_S);
    int descriptor, timeout_ms = ENV_USER_TIMEOUT_MS;
    if (uv_fileno((uv_handle_t *)&conn->tcp, &descriptor) == 0) {
        setsockopt(descriptor, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout_ms, sizeof timeout_ms);
    }
    if (uv_tcp_getpeername(&conn->tcp, (struct sockaddr *)&address, &size) == 0) {
        address_format(&address, conn->peer);
    } else if (!conn->peer[0]) {
        snprintf(conn->peer, sizeof conn->peer, "?");
    }
}

static void listener_ready(uv_stream_t *stream, int status)
{
    struct env_listener *listener = stream->data;

    if (status < 0) { /* e.g. no descriptors left: libuv itself sheds the connection, the peer sees
                         it closed */
        return;
    }
    struct env_conn *conn = conn_new(listener->env);
    if (uv_accept(stream, (uv_stream_t *)&conn->tcp) < 0) {
        env_uv_conn_begin_close(conn, ERR_CLOSED);
        return;
    }
    conn->state = CONN_OPEN;
    conn_tune(conn);
    listener->on_accept(listener->ctx, conn);
    if (!conn->events) {
        env_uv_conn_begin_close(conn, 0);
    }
}

static void listener_closed(uv_handle_t *handle)
{
    mem_free(handle->data);
}

void env_uv_listener_close(struct env_listener *listener)
{
    list_remove(&listener->link);
    uv_close((uv_handle_t *)&listener->tcp, listener_closed);
}

/* The address to bind; names are resolved here and now, since listening happens once at start. */
static int listen_resolve(const char *address, struct sockaddr_storage *out, struct err *err)
{
    char host[ENV_HOST_BYTES];
    const char *port;
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV };
    struct addrinfo *found;
    int status = address_cut(address, host, &port, err);

    memset(out, 0, sizeof *out);
    if (status || address_parse_numeric(host, port, out)) {
        return status;
    }
    status = getaddrinfo(host, port, &hints, &found);
    if (status) {
        return err_set(err, ERR_USAGE, "address %s: %s", address, gai_strerror(status));
    }
    memcpy(out, found->ai_addr, found->ai_addrlen);
    freeaddrinfo(found);
    return 0;
}

int env_uv_listen(struct env *base, const char *address,
                  void (*on_accept)(void *ctx, struct env_conn *conn), void *ctx,
                  struct env_listener **out, struct err *err)
{
    struct env_uv *env = env_uv_of(base);
    struct sockaddr_storage to;
    int size = sizeof to;
    int status = listen_resolve(address, &to, err);

    if (status) {
        return status;
    }
    struct env_listener *listener = MEM_NEW(struct env_listener);
    listener->env = env;
    listener->on_accept = on_accept;
    listener->ctx = ctx;
    CHECK(uv_tcp_init(&env->loop, &listener->tcp) == 0);
    listener->tcp.data = listener;
    list_append(&env->listeners, &listener->link);
    /* uv_tcp_bind sets SO_REUSEADDR, and keeps an address in use for uv_listen to tell. */
    status = uv_tcp_bind(&listener->tcp, (struct sockaddr *)&to, 0);
    if (!status) {
        status = uv_listen((uv_stream_t *)&listener->tcp, ENV_BACKLOG, listener_ready);
    }
    if (!status) {
        status = uv_tcp_getsockname(&listener->tcp, (struct sockaddr *)&to, &size);
    }
    if (status) {
        env_uv_listener_close(listener);
        return err_set(err, ERR_IO, "listen on %s: %s", address, uv_strerror(status));
    }
    address_format(&to, listener->address);
    *out = listener;
    return 0;
}

const char *env_uv_listener_address(struct env_listener *listener)
{
    return listener->address;
}

static void connect_failed(struct env_conn *conn)
{
    if (conn->next_address) { /* a used handle can't connect again: close it and go on with a new
                                 one */
        conn->is_retrying = true;
        uv_close((uv_handle_t *)&conn->tcp, conn_closed);
    } else {
        env_uv_conn_begin_close(conn, ERR_CONNECT);
    }
}

static void connect_done(uv_connect_t *request, int status)
{
    struct env_conn *conn = request->data;

    if (conn->state != CONN_CONNECTING) {
        return;
    }
    if (status) {
        connect_failed(conn);
        return;
    }
    conn->state = CONN_OPEN;
    conn_tune(conn);
    conn->events->on_open(conn->ctx, conn);
    conn_read_update(conn); /* does nothing when on_open closed it */
}

static void connect_to(struct env_conn *conn, const struct sockaddr *address)
{
    conn->state = CONN_CONNECTING;
    conn->connect.data = conn;
    if (uv_tcp_connect(&conn->connect, &conn->tcp, address, connect_done) < 0) {
        connect_failed(conn);
    }
}

static void connect_next(struct env_conn *conn)
{
    struct addrinfo *address = conn->next_address;

    conn->next_address = address->ai_next;
    connect_to(conn, address->ai_addr);
}

static void resolve_done(uv_getaddrinfo_t *request, int status, struct addrinfo *addresses)
{
    struct env_conn *conn = request->data;

    conn->is_resolving = false;
    conn->addresses = conn->next_address = addresses;
    if (conn->state == CONN_CLOSED) {
        conn_free(conn);
    } else if (conn->state == CONN_RESOLVING) {
        if (status || !addresses) {
            env_uv_conn_begin_close(conn, ERR_CONNECT);
        } else {
            connect_next(conn);
        }
    }
}

int env_uv_connect(struct env *base, const char *address, const struct env_conn_events *events,
                   void *ctx, struct env_conn **out, struct err *err)
{
    struct env_uv *env = env_uv_of(base);
    char host[ENV_HOST_BYTES];
    const char *port;
    struct sockaddr_storage to;
    int status = address_cut(address, host, &port, err);

    if (status) {
        return status;
    }
    struct env_conn *conn = conn_new(env);
    conn->events = events;
    conn->ctx = ctx;
    snprintf(conn->peer, sizeof conn->peer, "%s", address);
    memset(&to, 0, sizeof to);
    if (address_parse_numeric(host, port, &to)) {
        connect_to(conn, (struct sockaddr *)&to);
    } else {
        struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV };
        conn->state = CONN_RESOLVING;
        conn->resolve.data = conn;
        conn->is_resolving =
            uv_getaddrinfo(&env->loop, &conn->resolve, resolve_done, host, port, &hints) == 0;
        if (!conn->is_resolving) {
            env_uv_conn_begin_close(conn, ERR_CONNECT);
        }
    }
    *out = conn;
    return 0;
}

void env_uv_conn_attach(struct env_conn *conn, const struct env_conn_events *events, void *ctx)
{
    CHECK(conn->state == CONN_OPEN && !conn->events);
    conn->events = events;
    conn->ctx = ctx;
    conn_read_update(conn);
}

static void written_run(struct env_task *task)
{
    struct env_conn *conn = container_of(task, struct env_conn, written);

    CHECK(conn->state == CONN_OPEN); /* env_uv_conn_begin_close takes the task out */
    conn->is_writing = false;
    conn->events->on_written(conn->ctx, conn);
}

static void write_done(uv_write_t *request, int status)
{
    struct env_conn *conn = request->data;

    if (conn->state != CONN_OPEN) {
        return;
    }
    if (status) {
        env_uv_conn_begin_close(conn, ERR_CLOSED);
        return;
    }
    conn->is_writing = false;
    conn->events->on_written(conn->ctx, conn);
}

/* The parts as libuv's buffers, without empty ones, in memory of the env that the next call reuses.
 */
static size_t write_fill(struct env_uv *env, const struct span *parts, size_t count)
{
    size_t filled = 0;

    if (count > env->scratch_capacity) {
        env->scratch = mem_realloc(env->scratch, count * sizeof *env->scratch);
        env->scratch_capacity = count;
    }
    for (size_t i = 0; i < count; i++) {
        if (parts[i].size) { /* the cast drops const: libuv only reads */
            env->scratch[filled++] =
                (uv_buf_t){ .base = (char *)parts[i].data, .len = parts[i].size };
        }
    }
    return filled;
}

/* Drops the first `size` bytes of the buffers; returns how many buffers are done with. */
static size_t write_skip(uv_buf_t *bufs, size_t count, size_t size)
{
    size_t at = 0;

    while (at < count && size >= bufs[at].len) {
        size -= bufs[at++].len;
    }
    if (size) {
        bufs[at].base += size;
        bufs[at].len -= size;
    }
    return at;
}

int env_uv_conn_write(struct env_conn *conn, const struct span *parts, size_t count)
{
    struct env_uv *env = conn->env;
    size_t filled, at = 0;

    if (conn->state >= CONN_CLOSING) {
        return ERR_CLOSED;
    }
    CHECK(conn->state == CONN_OPEN && !conn->is_writing);
    filled = write_fill(env, parts, count);
    conn->is_writing = true;
    if (filled) {
        int status = uv_try_write((uv_stream_t *)&conn->tcp, env->scratch, (unsigned)filled);
        if (status < 0 && status != UV_EAGAIN) {
            env_uv_conn_begin_close(conn, ERR_CLOSED);
            return ERR_CLOSED;
        }
        at = write_skip(env->scratch, filled, status > 0 ? (size_t)status : 0);
    }
    if (at == filled) {
        conn->written.run = written_run;
        env_uv_defer(&env->base, &conn->written);
        return 0;
    }
    conn->write.data = conn;
    if (uv_write(&conn->write, (uv_stream_t *)&conn->tcp, env->scratch + at,
                 (unsigned)(filled - at), write_done) < 0) {
        env_uv_conn_begin_close(conn, ERR_CLOSED);
        return ERR_CLOSED;
    }
    return 0;
}

void env_uv_conn_pause(struct env_conn *conn, bool paused)
{
    if (conn->is_paused != paused) {
        conn->is_paused = paused;
        conn_read_update(conn);
    }
}

const char *env_uv_conn_peer(struct env_conn *conn)
{
    return conn->peer;
}

void env_uv_conn_close(struct env_conn *conn)
{
    env_uv_conn_begin_close(conn, 0);
}
