/* A caller: one client process of the simulation. It owns a client core and is its driver: links of the core become connections of a
 * simulated env. */
#ifndef SIM_CALLER_H
#define SIM_CALLER_H

#include "client/core.h"
#include "sim/env_sim.h"

struct caller {
    struct env_sim *env;
    struct core *core;
    struct list links;
    struct env_task step;
    struct env_timer due;
};

struct caller_config {
    struct schedule *schedule;
    struct network *network;
    struct random *random; /* the core's seed and the clock's drift come from it */
    uint32_t machine;      /* of the network */
    uint32_t grain_us;     /* of the process' loop, see env_sim.h */
    uint64_t seed;
    const char *endpoints;
    uint32_t timeout_ms;
    struct mem_gate *gate; /* the core's; NULL: none */
};

void caller_init(struct caller *caller, const struct caller_config *config);
/* The client's clock. */
uint64_t caller_now_us(struct caller *caller);
/* To be called after each submission: the core's next step is run at the end of this event. */
void caller_wake(struct caller *caller);
/* Frames that its links have carried and that are not answered, though they can be: the node still has the connection. One that
 * lost its power took it along, of which an idle client hears late, and then it has nothing more to ask. */
size_t caller_open_requests(const struct caller *caller);
/* Whether a node has greeted it. */
bool caller_is_connected(const struct caller *caller);
/* All its connections break, with whatever is under way on them. */
void caller_break_links(struct caller *caller);
/* The process ends; requests under way are answered with ERR_CANCELLED in this call. Scans must be closed. */
void caller_kill(struct caller *caller);
/* After network_fini. */
void caller_fini(struct caller *caller);

#endif
