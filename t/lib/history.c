/* Clients whose history can be judged: several handles, each with one operation at a time on a few
 * keys they share, and every operation written down as t/sim/linear_main.c reads it
 * (build/t/linear).
 *
 *   history ENDPOINTS PREFIX CLIENTS KEYS TIMEOUT_MS SEED FILE
 *
 * Client number i begins with endpoint number i, so that each node, also one that is cut off or
 * stands still, has clients that go through it first. Puts (plain, if absent, if a version seen
 * before), deletes (plain and conditional) and reads are drawn from SEED; between two operations a
 * client rests 0 to 4 ms, so that the checker's work stays bounded. The keys PREFIXn must be absent
 * at first.
 *
 * Runs until SIGTERM; then what is in flight is waited for (bounded by TIMEOUT_MS), and it prints
 * "operations N ok N unknown N failed N gap_ms N": gap_ms is the longest time between two
 * acknowledged writes of anybody. Exit 0. */
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "client/cairn.h"

enum { CLIENTS_MAX = 64, KEYS_MAX = 64, REST_NS_MAX = 4000000 };

enum kind { GET, PUT, DELETE };
static const char *const kind_names[] = { "get", "put", "delete" };

struct client {
    struct history *history;
    struct cairn *cairn;
    int number;
    bool is_asking;
    uint64_t rest_until;
    uint64_t versions[KEYS_MAX]; /* seen last by this client; 0: none */
    /* The operation in flight. */
    enum kind kind;
    int key;
    enum cairn_condition condition;
    uint64_t version, call;
    char value[40];
};

struct history {
    const char *prefix;
    int client_count, key_count;
    uint64_t random, written;
    FILE *file;
    struct client clients[CLIENTS_MAX];
    unsigned long operations, ok, unknown, failed;
    uint64_t last_write, gap;
};

static volatile sig_atomic_t is_stopping;

static void on_term(int signal)
{
    is_stopping = 1;
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* splitmix64, below n */
static uint64_t draw(struct history *history, uint64_t n)
{
    uint64_t z = (history->random += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (z ^ (z >> 31)) % n;
}

static bool is_failed_condition(int status)
{
    return status == CAIRN_EXISTS || status == CAIRN_CONDITION_FAILED;
}

static const char *outcome_of(const struct client *client, const struct cairn_result *result)
{
    if (client->kind != GET && is_failed_condition(result->status)) {
        return "refused";
    }
    if (result->status == CAIRN_NOT_FOUND) {
        /* A conditional delete of nothing: the condition did not hold. */
        return client->kind == GET                 ? "absent"
               : client->condition != CAIRN_ALWAYS ? "refused"
                                                   : "absent";
    }
    if (result->status == 0) {
        return client->kind == DELETE && !result->existed ? "absent" : "ok";
    }
    bool is_open = result->status == CAIRN_UNKNOWN_OUTCOME || result->status == CAIRN_CANCELLED;
    return client->kind != GET && is_open ? "unknown" : "nothing";
}

static void write_line(struct client *client, const struct cairn_result *result,
                       const char *outcome, uint64_t reply)
{
    char condition[32] = "-", version[32] = "-", value[64] = "-";
    if (client->condition == CAIRN_IF_VERSION) {
        snprintf(condition, sizeof condition, "=%lu", (unsigned long)client->version);
    } else if (client->condition != CAIRN_ALWAYS) {
        snprintf(condition, sizeof condition, "%s",
                 client->condition == CAIRN_IF_ABSENT ? "absent" : "present");
    }
    bool is_ok = strcmp(outcome, "ok") == 0;
    if (is_ok || strcmp(outcome, "refused") == 0) {
        snprintf(version, sizeof version, "%lu", (unsigned long)result->meta.version);
    }
    if (client->kind == PUT) {
        snprintf(value, sizeof value, "%s", client->value);
    } else if (client->kind == GET && is_ok) {
        snprintf(value, sizeof value, "%.*s", (int)result->value_size, (const char *)result->value);
    }
    fprintf(client->history->file, "c%d %s %s%d %s %s %s %lu %lu %s\n", client->number,
            kind_names[client->kind], client->history->prefix, client->key, condition, value,
            version, (unsigned long)client->call, (unsigned long)reply, outcome);
}

static void note_write(struct history *history, uint64_t now)
{
    if (history->last_write && now - history->last_write > history->gap) {
        history->gap = now - history->last_write;
    }
    history->last_write = now;
}

static void on_done(void *arg, struct cairn_result *result)
{
    struct client *client = arg;
    struct history *history = client->history;
    uint64_t now = now_ns();
    const char *outcome = outcome_of(client, result);
    write_line(client, result, outcome, now);
    history->operations++;
    history->ok += strcmp(outcome, "ok") == 0;
    history->unknown += strcmp(outcome, "unknown") == 0;
    history->failed += strcmp(outcome, "nothing") == 0;
    if (client->kind == PUT && result->status == 0) {
        note_write(history, now);
    }
    if (result->status == 0 || is_failed_condition(result->status)) {
        client->versions[client->key] = result->meta.version;
    }
    client->is_asking = false;
    client->rest_until = now + draw(history, REST_NS_MAX);
}

static void choose(struct client *client)
{
    struct history *history = client->history;
    client->key = (int)draw(history, (uint64_t)history->key_count);
    client->version = client->versions[client->key];
    client->condition = CAIRN_ALWAYS;
    uint64_t dice = draw(history, 100);
    client->kind = dice < 45 ? GET : dice < 88 ? PUT : DELETE;
    if (dice >= 70 && dice < 80 && client->version) {
        client->condition = CAIRN_IF_VERSION;
    } else if (dice >= 80 && dice < 88) {
        client->condition = CAIRN_IF_ABSENT;
    } else if (dice >= 96 && client->version) {
        client->condition = CAIRN_IF_VERSION;
    }
    if (client->condition != CAIRN_IF_VERSION) {
        client->version = 0;
    }
}

static void ask(struct client *client)
{
    struct history *history = client->history;
    char key[128];
    choose(client);
    struct cairn_request request = { .condition = client->condition, .version = client->version };
    static const enum cairn_verb verbs[] = { CAIRN_GET, CAIRN_PUT, CAIRN_DELETE };
    request.verb = verbs[client->kind];
    request.key = key;
    request.key_size = (size_t)snprintf(key, sizeof key, "%s%d", history->prefix, client->key);
    if (client->kind == PUT) {
        int size = snprintf(client->value, sizeof client->value, "v%lu",
                            (unsigned long)++history->written);
        request.value = client->value;
        request.value_size = (size_t)size;
    }
    client->call = now_ns();
    int status = cairn_submit(client->cairn, &request, on_done, client, NULL);
    if (status != 0) {
        fprintf(stderr, "submit: %s\n", cairn_error(status)->name);
        exit(1);
    }
    client->is_asking = true;
}

/* Whether anybody still waits for an answer. */
static bool turn(struct history *history)
{
    struct pollfd fds[CLIENTS_MAX];
    int timeout_ms = 100;
    bool is_asking = false;
    for (int i = 0; i < history->client_count; i++) {
        struct client *client = &history->clients[i];
        uint64_t now = now_ns();
        if (!client->is_asking && !is_stopping && now >= client->rest_until) {
            ask(client);
        }
        is_asking |= client->is_asking;
        int rest_ms = client->is_asking || is_stopping
                          ? timeout_ms
                          : (int)((client->rest_until - now) / 1000000 + 1);
        int own_ms = cairn_timeout_ms(client->cairn);
        timeout_ms = rest_ms < timeout_ms ? rest_ms : timeout_ms;
        timeout_ms = own_ms >= 0 && own_ms < timeout_ms ? own_ms : timeout_ms;
        fds[i] = (struct pollfd){ .fd = cairn_fd(client->cairn), .events = POLLIN };
    }
    poll(fds, (nfds_t)history->client_count, timeout_ms);
    for (int i = 0; i < history->client_count; i++) {
        cairn_step(history->clients[i].cairn);
    }
    return is_asking;
}

/* The list, beginning with number `first` of its endpoints. */
static char *rotated(const char *endpoints, int first)
{
    char *list = strdup(endpoints);
    for (int i = 0; i < first; i++) {
        char *comma = strchr(list, ',');
        if (comma) {
            char *next;
            *comma = '\0';
            if (asprintf(&next, "%s,%s", comma + 1, list) < 0) {
                abort();
            }
            free(list);
            list = next;
        }
    }
    return list;
}

static void open_clients(struct history *history, const char *endpoints, uint32_t timeout_ms)
{
    for (int i = 0; i < history->client_count; i++) {
        struct client *client = &history->clients[i];
        char *list = rotated(endpoints, i), text[256];
        struct cairn_options options = { .endpoints = list,
                                         .program = "history",
                                         .timeout_ms = timeout_ms };
        client->history = history;
        client->number = i;
        if (cairn_open(&options, &client->cairn, text) != 0) {
            fprintf(stderr, "%s\n", text);
            exit(1);
        }
        free(list);
    }
}

int main(int argc, char **argv)
{
    static struct history history;
    if (argc != 8) {
        fprintf(stderr, "usage: history ENDPOINTS PREFIX CLIENTS KEYS TIMEOUT_MS SEED FILE\n");
        return 2;
    }
    history.prefix = argv[2];
    history.client_count = atoi(argv[3]);
    history.key_count = atoi(argv[4]);
    history.random = strtoull(argv[6], NULL, 10);
    history.file = fopen(argv[7], "w");
    if (!history.file || history.client_count < 1 || history.client_count > CLIENTS_MAX ||
        history.key_count < 1 || history.key_count > KEYS_MAX) {
        fprintf(stderr, "1 to %d clients, 1 to %d keys, a file that can be written\n", CLIENTS_MAX,
                KEYS_MAX);
        return 2;
    }
    setvbuf(history.file, NULL, _IOLBF, 0); /* a test counts the lines while it runs */
    struct sigaction action = { .sa_handler = on_term };
    sigaction(SIGTERM, &action, NULL);
    open_clients(&history, argv[1], (uint32_t)atoi(argv[5]));
    while (turn(&history) || !is_stopping) {
    }
    note_write(&history, now_ns());
    printf("operations %lu ok %lu unknown %lu failed %lu gap_ms %lu\n", history.operations,
           history.ok, history.unknown, history.failed, (unsigned long)(history.gap / 1000000));
    for (int i = 0; i < history.client_count; i++) {
        cairn_close(history.clients[i].cairn);
    }
    fclose(history.file);
    return 0;
}
