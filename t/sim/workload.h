/* The workloads: virtual clients that speak to the cluster through the client library's core, write down what they asked and what
 * they were told, and judge it. A run draws a mix of them; each is a module behind the interface of workload_module.h.
 *
 *   workload_init → workload_begin (sessions ask, think, ask again) → workload_end (no new requests) → workload_read_all (the final
 *   reads) → workload_judge → workload_kill → workload_fini */
#ifndef SIM_WORKLOAD_H
#define SIM_WORKLOAD_H

#include "base/logger.h"
#include "sim/caller.h"
#include "sim/linear.h"

enum { WORKLOAD_CLIENTS_MAX = 8, WORKLOAD_SESSIONS_MAX = 64, WORKLOAD_PARTITIONS_MAX = 65 /* and the control group */ };

enum workload_kind {
    WORKLOAD_REGISTER, /* put, get, delete, conditions on few keys; linearizable? */
    WORKLOAD_RECREATE, /* the same, mostly deletes and creations: versions grow, nothing rises from the dead */
    WORKLOAD_MULTI,    /* the same, many operations in a frame */
    WORKLOAD_LARGE,    /* the same, values of up to some 100 KB */
    WORKLOAD_SET,      /* distinct elements; scans show each that was acknowledged */
    WORKLOAD_COUNTER,  /* increments by compare-and-set; keys with one writer */
    WORKLOAD_APPEND,   /* lists that grow by compare-and-set */
    WORKLOAD_CONSISTENCY, /* lease and stale reads, writes that all replicas acknowledge */
    WORKLOAD_SCAN,     /* scans of every kind against inserts and deletes in order */
    WORKLOAD_COUNT
};
const char *workload_name(enum workload_kind kind);

struct workload_config {
    uint64_t seed;
    const char *endpoints;
    uint32_t mix;          /* bit set of enum workload_kind; not empty */
    uint32_t clients;      /* processes */
    uint32_t sessions;     /* callers in all; at least one a workload of the mix */
    uint32_t rate;         /* operations that all sessions ask in a second, while none waits for long; dear ones count as several */
    uint32_t grain_us;     /* of the callers' loops, see env_sim.h */
    uint32_t burst_us;     /* questions are asked at multiples of it only, many at a time; 0: at any time */
    uint32_t timeout_ms;
    uint32_t hurry_percent; /* of the calls: with a deadline so short that an election outlasts it */
    uint32_t elements_max;  /* of WORKLOAD_SET: what a small map has room for */
    bool scans_large;       /* WORKLOAD_SCAN has few and large values */
    uint32_t lease_percent; /* of the gets, whatever their workload: by lease */
    uint32_t company_percent; /* of the linearizable gets: not alone under way, so that they go to one node of all (call.c) */
    uint32_t break_per_mille; /* of the calls: the client's connections break right after it */
};

struct workload_stats {
    uint64_t calls, ok, refused, absent, unknown, nothing, scans, entries;
    uint64_t longest_us;
};

struct session;
struct part;

struct workload {
    struct workload_config config;
    struct schedule *schedule;
    struct logger *logger;
    struct random random;
    struct caller callers[WORKLOAD_CLIENTS_MAX];
    struct part *parts[WORKLOAD_COUNT]; /* NULL: not in the mix */
    struct session *sessions;
    uint32_t pace_us;    /* typical, from one question to the next of a session whose module has the pace 1 */
    uint64_t place;      /* in the real order of calls and replies */
    bool is_ending;      /* no new requests */
    bool is_final;       /* the final reads */
    uint32_t final_left; /* sessions whose final reads go on */
    uint32_t in_flight[WORKLOAD_COUNT]; /* calls unanswered now */
    struct workload_lull {
        uint64_t from_us, until_us;  /* 0: none */
        enum workload_kind goes_on; /* the sessions of all others rest */
    } lull;
    uint64_t calm_since_us; /* from then on every call must succeed, and soon; 0: trouble is allowed */
    bool is_troubled;       /* ... but for those that are under way now: a fault has begun that nobody can know of yet */
    uint32_t undecided;
    struct workload_probe {
        uint32_t left; /* partitions that were not written to yet; 1 until they are known */
        struct workload_probe_key {
            struct workload *workload;
            char name[32];
            enum cairn_verb verb;
        } keys[WORKLOAD_PARTITIONS_MAX];
    } probe;
    void (*violated)(void *ctx, const char *text);
    /* A put that every replica within reach must acknowledge is asked now (version 0), or was answered with this version; `writer` is
     * the session. NULL: nobody wants to know. */
    void (*ack_all)(void *ctx, uint32_t writer, struct span key, uint64_t version);
    void *ctx;
    struct workload_stats stats;
};

/* The clients are machines first_machine … of the network. */
void workload_init(struct workload *workload, const struct workload_config *config, struct schedule *schedule, struct network *network,
                   uint32_t first_machine, struct logger *logger, void (*violated)(void *ctx, const char *text), void *ctx);
/* The clients' processes end. */
void workload_kill(struct workload *workload);
/* After network_fini. */
void workload_fini(struct workload *workload);
void workload_begin(struct workload *workload);
/* Writes one key of every partition; workload->probe.left counts down to 0. */
void workload_probe(struct workload *workload);
/* The same keys once more, after workload_probe counted down: written or deleted, until it succeeds. */
void workload_probe_again(struct workload *workload, enum cairn_verb verb);
/* Between these times the sessions of all workloads but one, drawn, rest once they have their answers. */
void workload_lull(struct workload *workload, uint64_t from_us, uint64_t until_us);
/* Those that rest go on. */
void workload_end_lull(struct workload *workload);
/* From now on all is well: a call that does not end with a definite answer, or not soon, is a violation. */
void workload_expect_calm(struct workload *workload);
/* No new requests; true when none is unanswered. */
bool workload_end(struct workload *workload);
/* True when no request is open that any client's connection has carried; after workload_end. */
bool workload_is_answered(const struct workload *workload);
/* Every client has reached a node. */
bool workload_is_connected(const struct workload *workload);
/* Reads back everything once; workload->final_left counts down to 0. After workload_end. */
void workload_read_all(struct workload *workload);
/* Judges all histories; returns how many keys were undecided. */
uint32_t workload_judge(struct workload *workload);

#endif
