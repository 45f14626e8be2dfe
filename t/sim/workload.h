/* The workload: virtual clients that speak to the cluster through the client library's core, and write down what they asked and
 * what they were told. */
#ifndef SIM_WORKLOAD_H
#define SIM_WORKLOAD_H

#include "base/logger.h"
#include "client/core.h"
#include "sim/env_sim.h"
#include "sim/linear.h"

enum { WORKLOAD_KEYS_MAX = 64, WORKLOAD_CLIENTS_MAX = 8, WORKLOAD_SESSIONS_MAX = 8 };

struct history {
    struct linear_op *ops;
    size_t count, capacity;
};

struct workload;
struct client;

/* One caller: asks, waits for the answer, thinks, asks again. */
struct session {
    struct client *client;
    struct env_timer think;
    uint32_t key;        /* of what is asked */
    size_t op;           /* its place in the key's history */
    bool is_waiting;
    uint64_t version[WORKLOAD_KEYS_MAX]; /* last seen, for compare-and-set */
};

struct client {
    struct workload *workload;
    struct env_sim *env;
    struct core *core;
    struct list links;
    struct env_task step;
    struct env_timer due;
    struct session sessions[WORKLOAD_SESSIONS_MAX];
};

struct workload_config {
    uint64_t seed;
    const char *endpoints;
    uint32_t clients, sessions, keys;
    uint32_t think_us;     /* typical */
    uint32_t value_bytes;  /* typical */
    uint32_t timeout_ms;
    uint32_t read_percent, delete_percent, condition_percent;
};

struct workload {
    struct workload_config config;
    struct schedule *schedule;
    struct random random;
    struct logger *logger;
    struct client clients[WORKLOAD_CLIENTS_MAX];
    struct history histories[WORKLOAD_KEYS_MAX];
    uint64_t place;      /* in the real order of calls and replies */
    uint64_t next_value;
    bool is_ending;      /* no new requests */
    uint32_t final_left; /* keys whose final read is still to come */
    void (*violated)(void *ctx, const char *text);
    void *ctx;
    struct workload_stats {
        uint64_t calls, ok, refused, absent, unknown, nothing;
        uint64_t longest_us;
    } stats;
};

/* The clients are machines first_machine … of the network. */
void workload_init(struct workload *workload, const struct workload_config *config, struct schedule *schedule, struct network *network,
                   uint32_t first_machine, struct logger *logger, void (*violated)(void *ctx, const char *text), void *ctx);
/* The clients' processes end. */
void workload_kill(struct workload *workload);
/* After network_fini. */
void workload_fini(struct workload *workload);
void workload_begin(struct workload *workload);
/* No new requests; true when none is unanswered. */
bool workload_end(struct workload *workload);
/* Reads every key once, until it is answered; workload->final_left counts down to 0. After workload_end. */
void workload_read_all(struct workload *workload);
/* Judges all histories; returns how many keys were undecided. */
uint32_t workload_judge(struct workload *workload);
void workload_print_history(const struct workload *workload, uint32_t key, uint64_t around);

#endif
