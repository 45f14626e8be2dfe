/* The framed protocol's door: listens, greets clients, passes their requests to the node and the
 * node's answers back; hands connections of other nodes over to the node.
 *
 * A client's connection: CONNECTED → (HELLO) → GREETED → requests. Reading pauses while too many
 * requests, or too much of their values, are unanswered, or too many bytes wait to be sent; and
 * what was asked before gets no values beyond a limit (request_origin.room). So a client that only
 * asks costs bounded memory. */
#include "base/check.h"
#include "base/limits.h"
#include "base/mem.h"
#include "node/request.h"
#include "proto/client.pb-c.h"
#include "server/server.h"
#include "wire/conn.h"
#include "wire/message.h"

enum {
    CLIENTS_MAX = 10000,
    PROTOCOL_MIN = 1,
    PROTOCOL_MAX = 1,
    PAUSED_OUT_BYTES = LIMIT_CONN_OUT_BYTES / 4
};

struct server {
    struct env *env;
    struct logger *logger;
    struct node *node;
    struct env_listener *listener;
    struct list clients;
    size_t client_count;
};

struct client {
    struct list link;
    struct server *server;
    struct conn *conn;
    struct request_origin origin;
    bool is_greeted, is_paused;
};

static void consider_pause(struct client *client)
{
    bool is_full = client->origin.count >= LIMIT_CONN_REQUESTS ||
                   client->origin.bytes > LIMIT_CONN_REQUEST_BYTES ||
                   conn_out_bytes(client->conn) > PAUSED_OUT_BYTES;
    if (is_full != client->is_paused) {
        client->is_paused = is_full;
        conn_pause(client->conn, is_full);
    }
}

static void client_respond(struct request_origin *origin, const struct frame *frame,
                           const struct conn_piece *pieces, size_t count)
{
    struct client *client = container_of(origin, struct client, origin);
    conn_send_pieces(client->conn, frame, pieces, count);
    if (client->is_paused) {
        consider_pause(client);
    }
}

static uint8_t *client_extend(struct request_origin *origin, const struct frame *head, size_t size)
{
    struct client *client = container_of(origin, struct client, origin);
    uint8_t *room = conn_extend(client->conn, head, size);
    if (client->is_paused) {
        consider_pause(client);
    }
    return room;
}

static size_t client_room(struct request_origin *origin)
{
    return conn_room(container_of(origin, struct client, origin)->conn);
}

static void client_abandon(struct request_origin *origin)
{
    conn_close(container_of(origin, struct client, origin)->conn);
}

static void client_free(struct client *client)
{
    request_origin_gone(&client->origin);
    list_remove(&client->link);
    client->server->client_count--;
    mem_free(client);
}

static void send_error(struct client *client, const struct frame *asked, uint8_t type, int status,
                       const char *text)
{
    Cairn__V1__ErrorInfo info = CAIRN__V1__ERROR_INFO__INIT;
    info.text = (char *)text;
    uint8_t packed[512];
    CHECK(cairn__v1__error_info__get_packed_size(&info) <= sizeof packed);
    struct frame frame = {
        .type = type,
        .verb = asked->verb,
        .status = status,
        .request_id = asked->request_id,
        .message = span_of(packed, cairn__v1__error_info__pack(&info, packed)),
    };
    conn_send(client->conn, &frame, NULL);
}

static void refuse(struct client *client, const struct frame *frame, int status, const char *text)
{
    LOG_WARN(client->server->logger, "client=%s refused: %s (%s)", conn_peer(client->conn), text,
             err_info(status)->name);
    node_count_refused(client->server->node);
    send_error(client, frame, FRAME_RESPONSE, status, text);
}

static void answer_hello(struct client *client, const struct frame *frame)
{
    struct node *node = client->server->node;
    Cairn__V1__Hello hello = CAIRN__V1__HELLO__INIT;
    hello.protocol_min = PROTOCOL_MIN;
    hello.protocol_max = PROTOCOL_MAX;
    hello.node_id = node_id(node);
    hello.boot_id = node_boot_id(node);
    hello.name = (char *)node_name(node);
    hello.epoch = node_epoch(node);
    hello.time = node_time(node);
    if (node_cluster_id(node)) {
        hello.cluster_id = (ProtobufCBinaryData){ 16, (uint8_t *)node_cluster_id(node) };
    }
    struct buf packed = { 0 };
    size_t size = cairn__v1__hello__get_packed_size(&hello);
    if (!buf_try_reserve(&packed, env_gate(client->server->env, MEM_CONN), size)) {
        conn_close(client->conn);
        return;
    }
    cairn__v1__hello__pack(&hello, buf_extend(&packed, size));
    struct frame answer = {
        .type = FRAME_HELLO_OK,
        .request_id = frame->request_id,
        .epoch = node_epoch(node),
        .time = node_time(node),
        .message = buf_span(&packed),
    };
    conn_send(client->conn, &answer, NULL);
    buf_fini(&packed);
}

/* 0, or why this hello is refused. */
static int judge_hello(struct client *client, const Cairn__V1__Hello *hello)
{
    const uint8_t *cluster_id = node_cluster_id(client->server->node);
    if (hello->protocol_min > PROTOCOL_MAX || hello->protocol_max < PROTOCOL_MIN) {
        return ERR_PROTOCOL_VERSION;
    }
    if (hello->cluster_id.len != 0 && (!cluster_id || hello->cluster_id.len != 16 ||
                                       memcmp(hello->cluster_id.data, cluster_id, 16) != 0)) {
        return ERR_CLUSTER_MISMATCH;
    }
    return 0;
}

static void on_hello(struct client *client, const struct frame *frame)
{
    struct arena arena = { .gate = env_gate(client->server->env, MEM_CONN) };
    ProtobufCAllocator allocator = message_allocator(&arena);
    Cairn__V1__Hello *hello =
        message_unpack(&cairn__v1__hello__descriptor, &allocator, frame->message);
    bool is_node = hello && hello->node_id != 0, has_memory = !arena.has_refused;
    int status = !hello ? ERR_PROTOCOL : is_node ? 0 : judge_hello(client, hello);
    arena_fini(&arena);
    if (!has_memory) {
        conn_close(client->conn);
        return;
    }
    if (status == ERR_PROTOCOL) {
        refuse(client, frame, ERR_PROTOCOL, "malformed hello");
        conn_close(client->conn);
        return;
    }
    if (is_node) {
        /* The node takes the connection over, or has answered why not. */
        if (node_accept_peer(client->server->node, client->conn, frame)) {
            client_free(client);
        } else {
            client->is_greeted = false;
        }
    } else if (status != 0) {
        LOG_WARN(client->server->logger, "client=%s refused: %s", conn_peer(client->conn),
                 err_info(status)->name);
        send_error(client, frame, FRAME_HELLO_OK, status, err_info(status)->text);
    } else {
        if (!client->is_greeted) {
            node_count_client(client->server->node, 1);
        }
        client->is_greeted = true;
        answer_hello(client, frame);
    }
}

static void client_on_frame(void *ctx, struct conn *conn, const struct frame *frame)
{
    struct client *client = ctx;
    if (frame->type == FRAME_HELLO) {
        on_hello(client, frame);
    } else if (frame->type != FRAME_REQUEST || !client->is_greeted) {
        refuse(client, frame, ERR_PROTOCOL,
               client->is_greeted ? "unexpected frame" : "hello must come first");
        if (frame->type != FRAME_REQUEST) {
            conn_close(conn);
        }
    } else {
        request_start(client->server->node, &client->origin, frame);
        consider_pause(client);
    }
}

static void client_on_close(void *ctx, struct conn *conn, int status, const char *reason)
{
    struct client *client = ctx;
    struct server *server = client->server;
    if (status != 0 && status != ERR_CLOSED) {
        LOG_WARN(server->logger, "client=%s closed: %s (%s)", conn_peer(conn), reason ? reason : "",
                 err_info(status)->name);
        node_count_refused(server->node);
    }
    if (client->is_greeted) {
        node_count_client(server->node, -1);
    }
    client_free(client);
}

static const struct conn_events client_events = { NULL, client_on_frame, client_on_close };

static void on_accept(void *ctx, struct env_conn *raw)
{
    struct server *server = ctx;
    if (server->client_count >= CLIENTS_MAX) {
        LOG_WARN(server->logger, "too many connections: %d", CLIENTS_MAX);
        env_conn_close(server->env, raw);
        return;
    }
    struct client *client = MEM_TRY_NEW(env_gate(server->env, MEM_CONN), struct client);
    struct conn *conn = client ? conn_accept(server->env, raw, &client_events, client) : NULL;
    if (!conn) {
        LOG_WARN(server->logger, "no memory for a connection");
        mem_free(client);
        env_conn_close(server->env, raw);
        return;
    }
    client->server = server;
    request_origin_init(&client->origin, client_respond, client_room, client_abandon);
    client->origin.extend = client_extend;
    list_append(&server->clients, &client->link);
    server->client_count++;
    client->conn = conn;
}

int server_start(struct env *env, struct logger *logger, const struct node_config *config,
                 struct server **out, struct err *err)
{
    struct server *server = MEM_NEW(struct server);
    server->env = env;
    server->logger = logger;
    list_init(&server->clients);
    int status = node_start(env, logger, config, &server->node, err);
    if (status == 0) {
        status = env_listen(env, config->listen ? config->listen : "127.0.0.1:7400", on_accept,
                            server, &server->listener, err);
        if (status != 0) {
            node_abandon(server->node);
        }
    }
    if (status != 0) {
        mem_free(server);
        return status;
    }
    *out = server;
    return 0;
}

void server_stop(struct server *server)
{
    node_stop(server->node);
}

static void no_frame(void *ctx, struct conn *conn, const struct frame *frame)
{
}

static void no_close(void *ctx, struct conn *conn, int status, const char *reason)
{
}

static const struct conn_events no_events = { NULL, no_frame, no_close };

void server_abandon(struct server *server)
{
    env_listener_close(server->env, server->listener);
    LIST_FOR_SAFE(link, &server->clients)
    {
        struct client *client = container_of(link, struct client, link);
        conn_attach(client->conn, &no_events, NULL);
        conn_close(client->conn);
        client_free(client);
    }
    node_abandon(server->node);
    mem_free(server);
}

struct node *server_node(struct server *server)
{
    return server->node;
}
