/* The workload: see workload.h. The driver of the client core stands here too: what sockets.c is in
 * production.
 *
 * Each written value is unique: 8 bytes of number, the key's number, and a filling made from the
 * number, so that a read tells which write it saw and that it saw it whole. */
#include "sim/workload.h"

#include <stdio.h>

#include "base/check.h"
#include "base/hash.h"
#include "base/mem.h"

enum { VALUE_HEAD_BYTES = 12, BROKEN_SOON_US = 100 };

/* --- The driver: links of the core over connections of the env */

struct client_link {
    struct list link;
    struct client *client;
    uint64_t number;
    struct env_conn *conn;
    struct buf waiting, sending; /* `sending` is the env's until on_written */
    bool is_open, is_sending;
    struct env_timer broken; /* the connection could not even be begun */
};

static uint64_t client_now_us(struct client *client)
{
    return env_now_us(&client->env->env);
}

static void client_wake(struct client *client)
{
    env_defer(&client->env->env, &client->step);
}

static struct client_link *find_link(struct client *client, uint64_t number)
{
    LIST_FOR(at, &client->links)
    {
        struct client_link *link = container_of(at, struct client_link, link);
        if (link->number == number) {
            return link;
        }
    }
    return NULL;
}

static void free_link(struct client_link *link)
{
    list_remove(&link->link);
    env_timer_stop(&link->client->env->env, &link->broken);
    buf_fini(&link->waiting);
    buf_fini(&link->sending);
    mem_free(link);
}

static void send_waiting(struct client_link *link)
{
    if (!link->is_open || link->is_sending || link->waiting.size == 0) {
        return;
    }
    struct buf empty = link->sending;
    buf_clear(&empty);
    link->sending = link->waiting;
    link->waiting = empty;
    struct span part = buf_span(&link->sending);
    link->is_sending = env_conn_write(&link->client->env->env, link->conn, &part, 1) == 0;
}

static void on_open(void *ctx, struct env_conn *conn)
{
    struct client_link *link = ctx;
    link->is_open = true;
    core_connected(link->client->core, link->number, client_now_us(link->client));
    client_wake(link->client);
}

static void on_data(void *ctx, struct env_conn *conn, struct span data)
{
    struct client_link *link = ctx;
    core_bytes(link->client->core, link->number, data, client_now_us(link->client));
    client_wake(link->client);
}

static void on_written(void *ctx, struct env_conn *conn)
{
    struct client_link *link = ctx;
    link->is_sending = false;
    send_waiting(link);
}

static void on_close(void *ctx, struct env_conn *conn, int status)
{
    struct client_link *link = ctx;
    struct client *client = link->client;
    if (link->number != 0 && client->core) {
        core_closed(client->core, link->number, err_info(status ? status : ERR_CLOSED)->text,
                    client_now_us(client));
        client_wake(client);
    }
    free_link(link);
}

static const struct env_conn_events link_events = { on_open, on_data, on_written, on_close };

static void on_broken(struct env_timer *timer)
{
    on_close(container_of(timer, struct client_link, broken), NULL, ERR_CONNECT);
}

static void transport_connect(void *ctx, uint64_t number, const char *address)
{
    struct client *client = ctx;
    struct client_link *link = MEM_NEW(struct client_link);
    link->client = client;
    link->number = number;
    link->broken.fire = on_broken;
    list_append(&client->links, &link->link);
    struct err err;
    if (env_connect(&client->env->env, address, &link_events, link, &link->conn, &err) != 0) {
        env_timer_start(&client->env->env, &link->broken, BROKEN_SOON_US);
    }
}

static void transport_send(void *ctx, uint64_t number, const struct span *parts, size_t count)
{
    struct client_link *link = find_link(ctx, number);
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
    struct client_link *link = find_link(ctx, number);
    if (!link) {
        return;
    }
    link->number = 0;
    if (link->conn) {
        env_conn_close(&link->client->env->env, link->conn); /* on_close frees it */
    } else {
        free_link(link);
    }
}

static const struct core_transport transport = { transport_connect, transport_send,
                                                 transport_close };

static void client_step(struct env_task *task)
{
    struct client *client = container_of(task, struct client, step);
    uint64_t now = client_now_us(client);
    core_step(client->core, now);
    uint64_t due = core_due_us(client->core);
    if (due == UINT64_MAX) {
        env_timer_stop(&client->env->env, &client->due);
    } else {
        env_timer_start(&client->env->env, &client->due, due > now ? due - now : 0);
    }
}

static void client_due(struct env_timer *timer)
{
    client_wake(container_of(timer, struct client, due));
}

/* --- Histories */

static struct linear_op *add_op(struct workload *workload, struct session *session, uint32_t key)
{
    struct history *history = &workload->histories[key];
    if (history->count == history->capacity) {
        history->capacity = history->capacity ? history->capacity * 2 : 64;
        history->ops = mem_realloc(history->ops, history->capacity * sizeof *history->ops);
    }
    session->key = key;
    session->op = history->count++;
    session->is_waiting = true;
    struct linear_op *op = &history->ops[session->op];
    *op = (struct linear_op){ .call = ++workload->place, .reply = LINEAR_NEVER };
    op->client = (uint32_t)(session->client - workload->clients) * 10 +
                 (uint32_t)(session - session->client->sessions);
    workload->stats.calls++;
    return op;
}

/* --- Values */

static size_t value_size(const struct workload *workload, uint64_t number)
{
    uint64_t draw = hash_u64(number);
    size_t typical = workload->config.value_bytes;
    return VALUE_HEAD_BYTES + draw % (typical + 1) * (draw >> 60 == 0 ? 16 : 1);
}

static uint8_t filling(uint64_t number, size_t i)
{
    return (uint8_t)(number * 131 + i * 7);
}

static void make_value(const struct workload *workload, uint64_t number, uint32_t key,
                       struct buf *out)
{
    size_t size = value_size(workload, number);
    uint8_t *at = buf_extend(out, size);
    put_u64(at, number);
    put_u32(at + 8, key);
    for (size_t i = VALUE_HEAD_BYTES; i < size; i++) {
        at[i] = filling(number, i);
    }
}

/* The number of a value that was read; 0: it was never written so. */
static uint64_t read_value(const struct workload *workload, uint32_t key, struct span value)
{
    if (value.size < VALUE_HEAD_BYTES) {
        return 0;
    }
    uint64_t number = get_u64(value.data);
    if (number == 0 || number > workload->next_value || get_u32(value.data + 8) != key ||
        value.size != value_size(workload, number)) {
        return 0;
    }
    for (size_t i = VALUE_HEAD_BYTES; i < value.size; i++) {
        if (value.data[i] != filling(number, i)) {
            return 0;
        }
    }
    return number;
}

/* --- Asking and hearing */

static void hear_result(struct workload *workload, struct session *session, struct linear_op *op,
                        const struct cairn_result *result)
{
    char text[200];
    op->version = result->meta.version;
    switch (result->status) {
    case 0:
        op->outcome = LINEAR_OK;
        workload->stats.ok++;
        if (op->kind == LINEAR_GET) {
            op->value =
                read_value(workload, session->key, span_of(result->value, result->value_size));
            if (op->value == 0) {
                snprintf(text, sizeof text, "key %u: a read of %zu bytes is no value ever written",
                         session->key, result->value_size);
                workload->violated(workload->ctx, text);
            }
        } else if (op->kind == LINEAR_DELETE) {
            op->existed = result->existed;
        }
        session->version[session->key] = op->version;
        return;
    case CAIRN_NOT_FOUND:
        op->outcome = op->kind == LINEAR_GET ? LINEAR_ABSENT : LINEAR_UNKNOWN;
        op->version = 0;
        workload->stats.absent++;
        return;
    case CAIRN_EXISTS:
    case CAIRN_CONDITION_FAILED:
        op->outcome = LINEAR_REFUSED;
        session->version[session->key] = op->version;
        workload->stats.refused++;
        return;
    default:
        break;
    }
    op->version = 0;
    const struct err_info *info = err_info(result->status);
    op->outcome =
        op->kind == LINEAR_GET || info->retry == ERR_RETRY_SAFE ? LINEAR_NOTHING : LINEAR_UNKNOWN;
    workload->stats.nothing += op->outcome == LINEAR_NOTHING;
    workload->stats.unknown += op->outcome == LINEAR_UNKNOWN;
    if (info->retry == ERR_RETRY_NEVER) {
        snprintf(text, sizeof text, "key %u: answered with %s, which nothing here explains",
                 session->key, info->name);
        workload->violated(workload->ctx, text);
    }
}

static const char *const kind_names[] = { "put", "get", "delete" };
static const char *const outcome_names[] = { "pending", "ok",      "absent",
                                             "refused", "unknown", "nothing" };

static void on_answer(void *arg, struct cairn_result *result)
{
    struct session *session = arg;
    struct workload *workload = session->client->workload;
    struct linear_op *op = &workload->histories[session->key].ops[session->op];
    session->is_waiting = false;
    hear_result(workload, session, op, result);
    op->reply = op->outcome == LINEAR_UNKNOWN ? LINEAR_NEVER : ++workload->place;
    schedule_note(workload->schedule, op->version * 8 + op->outcome);
    LOG_DEBUG(workload->logger, "client=%u %s key=%u value=%lu ver=%lu: %s (%s)", op->client,
              kind_names[op->kind], session->key, op->value, op->version,
              outcome_names[op->outcome], result->status ? err_info(result->status)->name : "0");
    if (workload->is_ending) {
        if (workload->final_left > 0 && op->outcome == LINEAR_NOTHING) {
            env_timer_start(&session->client->env->env, &session->think, 0); /* once more */
        } else if (workload->final_left > 0) {
            workload->final_left--;
        }
        return;
    }
    env_timer_start(&session->client->env->env, &session->think,
                    random_delay(&workload->random, workload->config.think_us));
}

static void submit(struct session *session, const struct linear_op *op,
                   struct cairn_request *request, struct span value)
{
    struct client *client = session->client;
    char name[32];
    request->key = name;
    request->key_size = (size_t)snprintf(name, sizeof name, "key/%u", session->key);
    request->value = value.data;
    request->value_size = value.size;
    LOG_DEBUG(client->workload->logger, "client=%u asks %s key=%u value=%lu", op->client,
              kind_names[op->kind], session->key, op->value);
    int status =
        core_submit(client->core, request, on_answer, session, client_now_us(client), NULL);
    CHECK(status == 0);
    client_wake(client);
}

static void ask_put(struct session *session, uint32_t key)
{
    struct workload *workload = session->client->workload;
    struct cairn_request request = { .verb = CAIRN_PUT };
    struct linear_op *op = add_op(workload, session, key);
    op->kind = LINEAR_PUT;
    op->value = ++workload->next_value;
    if (random_percent(&workload->random, workload->config.condition_percent)) {
        if (session->version[key] != 0 && random_percent(&workload->random, 80)) {
            op->condition = LINEAR_IF_VERSION;
            op->condition_version = request.version = session->version[key];
            request.condition = CAIRN_IF_VERSION;
        } else {
            op->condition = LINEAR_IF_ABSENT;
            request.condition = CAIRN_IF_ABSENT;
        }
    }
    struct buf value = { 0 };
    make_value(workload, op->value, key, &value);
    submit(session, op, &request, buf_span(&value));
    buf_fini(&value);
}

static void ask_simple(struct session *session, uint32_t key, enum linear_kind kind)
{
    struct cairn_request request = { .verb = kind == LINEAR_GET ? CAIRN_GET : CAIRN_DELETE };
    struct linear_op *op = add_op(session->client->workload, session, key);
    op->kind = (uint8_t)kind;
    submit(session, op, &request, span_of(NULL, 0));
}

static void session_ask(struct session *session)
{
    struct workload *workload = session->client->workload;
    const struct workload_config *config = &workload->config;
    /* some keys are hotter than others: the smaller of two draws */
    uint32_t key = (uint32_t)random_below(&workload->random, config->keys);
    uint32_t second = (uint32_t)random_below(&workload->random, config->keys);
    key = second < key ? second : key;
    uint32_t draw = (uint32_t)random_below(&workload->random, 100);
    if (draw < config->read_percent) {
        ask_simple(session, key, LINEAR_GET);
    } else if (draw < config->read_percent + config->delete_percent) {
        ask_simple(session, key, LINEAR_DELETE);
    } else {
        ask_put(session, key);
    }
}

static void session_read_final(struct session *session)
{
    ask_simple(session, session->key, LINEAR_GET);
}

static void on_think(struct env_timer *timer)
{
    struct session *session = container_of(timer, struct session, think);
    struct workload *workload = session->client->workload;
    if (!workload->is_ending) {
        session_ask(session);
    } else if (workload->final_left > 0) {
        session_read_final(session);
    }
}

/* --- Life */

static void init_client(struct workload *workload, struct client *client, struct network *network,
                        uint32_t machine)
{
    char host[32];
    snprintf(host, sizeof host, "127.0.1.%u", machine);
    client->workload = workload;
    client->env =
        env_sim_new(workload->schedule, network, NULL, machine, host, workload->config.seed);
    client->env->drift_ppm = (int64_t)random_below(&workload->random, 401) - 200;
    env_sim_boot(client->env);
    list_init(&client->links);
    client->step.run = client_step;
    client->due.fire = client_due;
    struct core_options options = { .endpoints = workload->config.endpoints,
                                    .program = "sim",
                                    .timeout_ms = workload->config.timeout_ms };
    for (int i = 0; i < 4; i++) {
        options.seed[i] = random_u64(&workload->random);
    }
    struct err err;
    int status =
        core_open(&options, &transport, client, client_now_us(client), &client->core, &err);
    CHECK(status == 0);
    for (uint32_t i = 0; i < workload->config.sessions; i++) {
        client->sessions[i].client = client;
        client->sessions[i].think.fire = on_think;
    }
}

void workload_init(struct workload *workload, const struct workload_config *config,
                   struct schedule *schedule, struct network *network, uint32_t first_machine,
                   struct logger *logger, void (*violated)(void *ctx, const char *text), void *ctx)
{
    CHECK(config->clients <= WORKLOAD_CLIENTS_MAX && config->sessions <= WORKLOAD_SESSIONS_MAX &&
          config->keys <= WORKLOAD_KEYS_MAX);
    *workload = (struct workload){ .config = *config, .schedule = schedule, .logger = logger };
    workload->random = random_stream(config->seed, 0x3017);
    workload->violated = violated;
    workload->ctx = ctx;
    for (uint32_t i = 0; i < config->clients; i++) {
        init_client(workload, &workload->clients[i], network, first_machine + i);
    }
}

void workload_kill(struct workload *workload)
{
    workload->is_ending = true;
    workload->final_left = 0;
    for (uint32_t i = 0; i < workload->config.clients; i++) {
        struct client *client = &workload->clients[i];
        struct core *core = client->core;
        core_close(core);
        client->core = NULL;
        env_sim_kill(client->env, ENV_SIM_CRASH);
        while (!list_is_empty(&client->links)) {
            free_link(container_of(client->links.next, struct client_link, link));
        }
        env_sim_reap(client->env);
    }
}

void workload_fini(struct workload *workload)
{
    for (uint32_t i = 0; i < workload->config.clients; i++) {
        env_sim_free(workload->clients[i].env);
    }
    for (uint32_t i = 0; i < WORKLOAD_KEYS_MAX; i++) {
        mem_free(workload->histories[i].ops);
    }
}

void workload_begin(struct workload *workload)
{
    for (uint32_t i = 0; i < workload->config.clients; i++) {
        for (uint32_t j = 0; j < workload->config.sessions; j++) {
            struct client *client = &workload->clients[i];
            env_timer_start(&client->env->env, &client->sessions[j].think,
                            random_below(&workload->random, workload->config.think_us + 1000));
        }
    }
}

bool workload_end(struct workload *workload)
{
    workload->is_ending = true;
    for (uint32_t i = 0; i < workload->config.clients; i++) {
        for (uint32_t j = 0; j < workload->config.sessions; j++) {
            if (workload->clients[i].sessions[j].is_waiting) {
                return false;
            }
        }
    }
    return true;
}

void workload_read_all(struct workload *workload)
{
    /* One session a key; more keys than sessions are read by further sessions of the same clients.
     */
    workload->final_left = 0;
    uint32_t all = workload->config.clients * WORKLOAD_SESSIONS_MAX;
    for (uint32_t key = 0; key < workload->config.keys && key < all; key++) {
        struct client *client = &workload->clients[key % workload->config.clients];
        struct session *session = &client->sessions[key / workload->config.clients];
        session->client = client;
        session->key = key;
        session->think.fire = on_think;
        workload->final_left++;
        env_timer_start(&client->env->env, &session->think, 0);
    }
}

uint32_t workload_judge(struct workload *workload)
{
    uint32_t undecided = 0;
    for (uint32_t key = 0; key < workload->config.keys; key++) {
        const struct history *history = &workload->histories[key];
        uint64_t stuck = 0;
        enum linear_verdict verdict = linear_check(history->ops, history->count, 0, &stuck);
        undecided += verdict == LINEAR_UNDECIDED;
        if (verdict == LINEAR_NO) {
            char text[200];
            snprintf(text, sizeof text,
                     "key %u: its history of %zu operations is not linearizable (near %lu)", key,
                     history->count, stuck);
            workload_print_history(workload, key, stuck);
            workload->violated(workload->ctx, text);
        }
    }
    return undecided;
}

void workload_print_history(const struct workload *workload, uint32_t key, uint64_t around)
{
    const struct history *history = &workload->histories[key];
    for (size_t i = 0; i < history->count; i++) {
        const struct linear_op *op = &history->ops[i];
        bool is_near = (op->call <= around && around <= op->reply) ||
                       (op->call + 200 > around && op->call < around + 20);
        if (is_near) {
            fprintf(stderr, "    [%lu, %ld] client=%u %s%s value=%lu ver=%lu if=%lu %s%s\n",
                    op->call, (long)op->reply, op->client, kind_names[op->kind],
                    op->condition ? " (cond)" : "", op->value, op->version, op->condition_version,
                    outcome_names[op->outcome], op->existed ? " existed" : "");
        }
    }
}
