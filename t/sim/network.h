/* The simulated network: byte streams between processes, as TCP makes them. Inside a stream nothing is lost, doubled or reordered;
 * what a network can do to TCP is done: latency, arbitrary cutting into pieces, clogging, breaking at any byte, silence.
 *
 * A frame with Raft messages between two nodes may have a fate of its own, at rates that are 0 unless set: the bytes stay whole frames, but
 * one is lost, doubled, overtaken by the next, or delayed past many.
 *
 * Faults: a blocked direction (from machine, to machine) clogs: bytes stay where they are, and go on when it is unblocked, unless
 * one side lost patience first. A process that ends closes its streams, a machine that loses power says nothing. */
#ifndef SIM_NETWORK_H
#define SIM_NETWORK_H

#include "base/list.h"
#include "env/env.h"
#include "sim/random.h"
#include "sim/schedule.h"

enum { NETWORK_MACHINES_MAX = 24 };

struct env_sim;

struct network_stats {
    uint64_t connects, refused, deliveries, bytes, cut_pieces, breaks, timeouts;
};

enum network_fate { NETWORK_PASS, NETWORK_LOSE, NETWORK_DOUBLE, NETWORK_SWAP, NETWORK_DELAY, NETWORK_FATES };

struct network {
    struct schedule *schedule;
    struct random random;
    struct env_sim *machines[NETWORK_MACHINES_MAX];
    bool blocked[NETWORK_MACHINES_MAX][NETWORK_MACHINES_MAX]; /* [from][to]; set by network_block */
    uint32_t latency_us[NETWORK_MACHINES_MAX][NETWORK_MACHINES_MAX]; /* typical */
    uint32_t window_bytes;  /* what a socket takes before a write waits */
    uint32_t patience_us;   /* how long unacknowledged bytes wait before a stream breaks */
    uint32_t cut_percent;   /* pieces that are cut */
    struct list connections;
    uint32_t fates_per_10000[NETWORK_FATES]; /* of Raft's frames between nodes; [NETWORK_PASS] is the rest */
    void (*on_fate)(void *ctx, enum network_fate fate); /* called for all but NETWORK_PASS */
    void *ctx;
    struct network_stats stats;
    uint32_t next_port;
};

void network_init(struct network *network, struct schedule *schedule, uint64_t seed);
/* Frees what is left; all processes must have ended. */
void network_fini(struct network *network);
void network_block(struct network *network, uint32_t from, uint32_t to, bool blocked);
void network_unblock_all(struct network *network);
/* Breaks one open stream, drawn; false when there is none. */
bool network_break_one(struct network *network);
/* The process is gone; loud: its machine's kernel closes the streams; else the peers hear nothing. No callback comes. */
void network_process_ended(struct network *network, struct env_sim *env, bool loud);
/* Tells the ends that the dead process closed itself (it frees what belongs to them), forgets the others, closes its listeners. */
void network_process_reaped(struct network *network, struct env_sim *env);
/* The machine answers again: streams that its power loss left open are reset when something is sent on them. */
void network_process_booted(struct network *network, struct env_sim *env);

/* The network calls of env.h. */
int network_listen(struct env_sim *env, const char *address, void (*on_accept)(void *ctx, struct env_conn *conn), void *ctx,
                   struct env_listener **out, struct err *err);
void network_listener_close(struct env_listener *listener);
int network_connect(struct env_sim *env, const char *address, const struct env_conn_events *events, void *ctx,
                    struct env_conn **out, struct err *err);
void network_attach(struct env_conn *conn, const struct env_conn_events *events, void *ctx);
int network_write(struct env_conn *conn, const struct span *parts, size_t count);
void network_pause(struct env_conn *conn, bool paused);
const char *network_peer(struct env_conn *conn);
void network_close(struct env_conn *conn);

/* Whether both processes have the stream open: what one has sent the other can answer. A machine that lost its power took its end with
 * it, and this end may not have heard of that. */
bool network_is_alive(const struct env_conn *conn);

#endif
