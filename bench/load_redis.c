/* Redis: GET; SET followed by WAIT 1, so that a replica has received the write before it counts. All SETs that a connection sends in one
 * turn share one WAIT behind them: the cheapest honest way for a pipeline. With one request in flight it is one WAIT a SET. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "load.h"

enum { WAIT_TIMEOUT_MS = 5000 };

static int redis_open(struct connection *connection)
{
    return 0;
}

static void redis_queue(struct connection *connection, struct slot *slot)
{
    slot->next = NULL;
    if (connection->last) {
        connection->last->next = slot;
    } else {
        connection->first = slot;
    }
    connection->last = slot;
}

static void redis_send(struct connection *connection, struct slot *slot, const char *key, const uint8_t *value, size_t value_size)
{
    char head[128];
    size_t key_size = strlen(key);
    redis_queue(connection, slot);
    if (slot->is_read) {
        int size = snprintf(head, sizeof head, "*2\r\n$3\r\nGET\r\n$%zu\r\n%s\r\n", key_size, key);
        bytes_append(&connection->out, head, (size_t)size);
        return;
    }
    int size = snprintf(head, sizeof head, "*3\r\n$3\r\nSET\r\n$%zu\r\n%s\r\n$%zu\r\n", key_size, key, value_size);
    bytes_append(&connection->out, head, (size_t)size);
    bytes_append(&connection->out, value, value_size);
    bytes_append(&connection->out, "\r\n", 2);
    connection->unsynced++;
}

static void redis_flush(struct connection *connection)
{
    if (connection->unsynced > 0) {
        char text[64];
        int size = snprintf(text, sizeof text, "*3\r\n$4\r\nWAIT\r\n$1\r\n1\r\n$4\r\n%d\r\n", WAIT_TIMEOUT_MS);
        bytes_append(&connection->out, text, (size_t)size);
        connection->unsynced = 0;
    }
}

/* Size of the first whole reply, 0 = incomplete, SIZE_MAX = nonsense. *is_good: neither an error nor a nil. */
static size_t reply_size(const uint8_t *at, size_t size, bool *is_good)
{
    const uint8_t *end = memchr(at, '\n', size);
    if (!end) {
        return 0;
    }
    size_t line = (size_t)(end - at) + 1;
    *is_good = at[0] != '-';
    if (at[0] == '+' || at[0] == '-' || at[0] == ':') {
        return line;
    }
    if (at[0] != '$') {
        return SIZE_MAX;
    }
    long length = strtol((const char *)at + 1, NULL, 10);
    if (length < 0) {
        *is_good = false;
        return line;
    }
    size_t whole = line + (size_t)length + 2;
    return whole <= size ? whole : 0;
}

static void redis_take(struct connection *connection, bool is_good)
{
    struct slot *slot = connection->first;
    connection->first = slot->next;
    if (!slot->next) {
        connection->last = NULL;
    }
    load_done(slot, is_good);
}

/* Replies of SETs are passed over (an error there shows in no WAIT, so it is remembered); the WAIT's reply answers all writes
 * before it. */
static int redis_receive(struct connection *connection)
{
    size_t at = 0;
    for (;;) {
        bool is_good;
        size_t size = at < connection->in.size ? reply_size(connection->in.data + at, connection->in.size - at, &is_good) : 0;
        if (size == SIZE_MAX || (size > 0 && !connection->first)) {
            return -1;
        }
        if (size == 0) {
            break;
        }
        const uint8_t *reply = connection->in.data + at;
        at += size;
        if (reply[0] == '$' || (reply[0] == '-' && connection->first->is_read)) {
            redis_take(connection, is_good);
        } else if (reply[0] == ':') {
            /* Redis answers in order, so every write queued until the next WAIT of ours is this one's: as many as SET replies came. */
            bool is_replicated = strtol((const char *)reply + 1, NULL, 10) >= 1;
            for (size_t i = (size_t)(uintptr_t)connection->session; i > 0; i--) {
                redis_take(connection, is_replicated);
            }
            connection->session = NULL;
        } else if (reply[0] == '+') {
            connection->session = (void *)((uintptr_t)connection->session + 1);
        } else {
            fprintf(stderr, "redis: %.*s", (int)size, reply);
            return -1;
        }
    }
    bytes_consume(&connection->in, at);
    return 0;
}

static void redis_close(struct connection *connection)
{
}

const struct driver driver_redis = { "redis", redis_open, redis_send, redis_flush, redis_receive, redis_close, false };
