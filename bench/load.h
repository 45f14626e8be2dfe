/* The load engine of the peers' generators: what `cairn bench` does for Cairn, for other servers.
 *
 * One thread, epoll. A slot is one request in flight; every client has `pipeline` slots. Closed loop: an answered slot asks again
 * at once. Open loop (rate): requests have intended starts at even distances, and latency counts from there.
 *
 * A driver speaks one protocol over its connections. It is asked to send a slot's request, gathers bytes, and is asked to flush once
 * per turn; when an answer is complete it calls load_done. */
#ifndef BENCH_LOAD_H
#define BENCH_LOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tools/histogram.h"

struct load;

struct slot {
    struct load *load;
    struct connection *connection;
    struct slot *next; /* in a free list, or in the connection's queue of unanswered ones */
    uint64_t start_ns;
    uint64_t key; /* number */
    bool is_read;
};

struct bytes {
    uint8_t *data;
    size_t size, capacity;
};

struct connection {
    struct load *load;
    int fd;
    bool wants_write, is_dirty;
    struct bytes in, out;
    size_t out_sent;
    void *session;             /* the driver's */
    struct slot *first, *last; /* unanswered, oldest first, for drivers that need it */
    size_t unsynced;           /* Redis: writes behind which no WAIT was sent yet */
};

struct driver {
    const char *name;
    int (*open)(struct connection *connection);
    /* Gathers the request of a slot. */
    void (*send)(struct connection *connection, struct slot *slot, const char *key, const uint8_t *value, size_t value_size);
    /* End of the turn: everything gathered goes to `out`. */
    void (*flush)(struct connection *connection);
    /* Bytes stand in `in`; consumes what is complete. -1: the stream makes no sense. */
    int (*receive)(struct connection *connection);
    void (*close)(struct connection *connection);
    bool shares_connections; /* many clients on one connection */
};

extern const struct driver driver_redis, driver_etcd;

void load_done(struct slot *slot, bool is_good);
void bytes_append(struct bytes *bytes, const void *data, size_t size);
void bytes_consume(struct bytes *bytes, size_t size);

#endif
