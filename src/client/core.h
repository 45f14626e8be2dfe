/* The client's heart, without I/O: routing, retries, sessions, batching, topology and scans as one
 * state machine. It owns no socket, clock or source of random numbers; a driver (sockets.c, the
 * simulator, a unit test) feeds it events and carries out what it asks for through struct
 * core_transport.
 *
 *   core_open → { core_submit…  |  core_connected, core_bytes, core_closed }* → core_step → … →
 * core_close
 *
 * Driver's loop: give it what arrived, call core_step, wait until something arrives or core_due_us.
 * Every call that takes now_us moves the core's clock: monotonic µs from any origin, never
 * backwards. Nothing calls back but core_step and core_close; the transport may be used inside
 * every call but core_open. One thread at a time. */
#ifndef CLIENT_CORE_H
#define CLIENT_CORE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/err.h"
#include "client/cairn.h"
#include "cluster/topology.h"

struct core;

/* What the core asks of its driver. `link` names one connection attempt; numbers are never used
 * again, so events that come late for a closed one are ignored. */
struct core_transport {
    /* Begins to connect to "HOST:PORT". core_connected or core_closed follow later, never inside
     * this call. */
    void (*connect)(void *ctx, uint64_t link, const char *address);
    /* Sends the parts in order, all of them: what can't go at once the driver copies and sends
     * later. The parts are borrowed for the call. A failure shows as core_closed later. */
    void (*send)(void *ctx, uint64_t link, const struct span *parts, size_t count);
    /* Closes at once; no core_closed follows. */
    void (*close)(void *ctx, uint64_t link);
};

struct core_options {
    const char *endpoints; /* "H:P[,H:P…]" */
    const char *program;   /* name told to the servers */
    uint32_t timeout_ms;   /* longest wait without progress of one request */
    uint64_t seed[4];      /* random: the session's id and the jitter */
    struct mem_gate *gate; /* NULL as a rule (base/mem.h) */
    /* Another core of the same thread, NULL: none. They hold one copy of a topology, so that many
     * find partitions in memory that is at hand. Either may be closed first. */
    struct core *beside;
};

/* Everything is copied. ERR_USAGE: malformed endpoints. ERR_NO_MEMORY.
 *
 * Without memory a submission is refused with ERR_NO_MEMORY. What is found to be missing later
 * breaks the connection, as if it had been lost: the request goes on from there, and has its
 * deadline. A value that finds no room ends its request with ERR_NO_MEMORY. */
int core_open(const struct core_options *options, const struct core_transport *transport, void *ctx,
              uint64_t now_us, struct core **out, struct err *err);
/* Ends every request with ERR_CANCELLED (called back here), closes the links, frees. Scans must be
 * closed before. */
void core_close(struct core *core);

/* --- Events */

void core_connected(struct core *core, uint64_t link, uint64_t now_us);
/* Bytes that arrived; borrowed for the call. */
void core_bytes(struct core *core, uint64_t link, struct span bytes, uint64_t now_us);
/* The connection could not be made or is gone. The reason is for people. */
void core_closed(struct core *core, uint64_t link, const char *reason, uint64_t now_us);
/* Timers, callbacks, routing, sending. Returns the number of callbacks made. */
int core_step(struct core *core, uint64_t now_us);
/* When core_step must be called at the latest, in the clock of now_us; 0: at once; UINT64_MAX:
 * nothing is planned. */
uint64_t core_due_us(const struct core *core);

/* --- Requests */

/* As cairn_submit and cairn_submit_many; `done` comes from a later core_step. The requests are
 * copied. */
int core_submit(struct core *core, const struct cairn_request *request, cairn_done done, void *arg,
                uint64_t now_us, uint64_t *id);
int core_submit_many(struct core *core, const struct cairn_request *requests, size_t count,
                     cairn_done_many done, void *arg, uint64_t now_us, uint64_t *id);
/* Ends it early: callback with ERR_CANCELLED from the next core_step. Unknown ids are ignored. */
void core_cancel(struct core *core, uint64_t id);
/* As core_cancel, without a callback. */
void core_abandon(struct core *core, uint64_t id);

/* Asks one node for a verb without key (STATUS). `node`: its name in the topology or "H:P". The
 * answer is borrowed for the callback; frame is NULL when status is not 0. */
struct frame;
typedef void (*core_asked)(void *arg, int status, const struct frame *frame);
int core_ask(struct core *core, const char *node, uint16_t verb, core_asked done, void *arg,
             uint32_t timeout_ms, uint64_t now_us, uint64_t *id);
/* Calls back (status 0) once a topology is held, or with why not. */
int core_want_topology(struct core *core, core_asked done, void *arg, uint32_t timeout_ms,
                       uint64_t now_us, uint64_t *id);
/* The topology that is held now, NULL before the first. Borrowed until the next event. */
const struct topology *core_topology(const struct core *core);
/* Node believed to be the primary of the partition at this index of topology->partitions; 0:
 * unknown. */
uint64_t core_primary(const struct core *core, size_t partition);

/* --- Scans; see cairn.h */

struct core_scan;
int core_scan_open(struct core *core, const struct cairn_scan_options *options, uint64_t now_us,
                   struct core_scan **out);
/* 1 and *entry, 0 at the end, ERR_BUSY when a page is missing, or why the scan failed. */
int core_scan_try(struct core_scan *scan, struct cairn_entry *entry);
/* After core_scan_try gave an entry: the next step has a page to ask for. */
bool core_scan_wants_page(const struct core_scan *scan);
/* Calls back once, from a later core_step, when core_scan_try has something to say. ERR_USAGE: a
 * fetch is under way. */
int core_scan_fetch(struct core_scan *scan, void (*done)(void *arg, int status), void *arg,
                    uint64_t now_us);
uint64_t core_scan_staleness_ms(const struct core_scan *scan);
/* Ends it with this status; a fetch under way is forgotten. */
void core_scan_fail(struct core_scan *scan, int status);
void core_scan_close(struct core_scan *scan);

/* --- For people */

const char *core_last_error(const struct core *core);
void core_stats(const struct core *core, struct cairn_stats *out);

/* Splits "H:P[,H:P…]" and checks each piece (host not empty, port 1 to 65535); *list is one
 * allocation, freed with mem_free. */
int core_parse_endpoints(const char *text, char ***list, size_t *count, struct err *err);

#endif
