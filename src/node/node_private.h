/* What the files of node/ share: struct node and the calls between them. For node/ only. */
#ifndef NODE_NODE_PRIVATE_H
#define NODE_NODE_PRIVATE_H

#include "base/hashtab.h"
#include "base/hlc.h"
#include "base/mem.h"
#include "base/version.h"
#include "cluster/topology.h"
#include "node/budget.h"
#include "node/disks.h"
#include "node/images.h"
#include "node/node.h"
#include "node/partition.h"
#include "node/recall.h"
#include "node/request.h"
#include "node/scrub.h"
#include "node/reserve.h"
#include "proto/client.pb-c.h"
#include "proto/control.pb-c.h"
#include "raft/log.h"
#include "raft/peers.h"
#include "store/store.h"
#include "wire/conn.h"

enum {
    NODE_TICK_US = 10 * 1000,
    NODE_SWEEP_TICKS = 5,        /* deadlines and parked requests: every fifth tick */
    NODE_CUT_TICKS = 10,         /* logs of groups at rest, when there is little room: every tenth tick */
    NODE_PREFER_TICKS = 20,      /* preferred primaries: every twentieth tick */
    NODE_PREFER_AT_ONCE = 16,    /* transfers begun per look */
    LINK_RETRY_US = 100 * 1000,
    READ_ROUND_PATIENCE_US = 5 * 1000, /* so long a round waits for those asked at the same time, and the next for it */
    READ_ROUND_LOST_US = 1000 * 1000, /* then a round is taken for lost, and the peer is asked anew */
    /* From dialling to the other side's greeting: twice as long with each attempt in vain. A machine that lost its power answers nothing,
     * and when it is back it waits for an election timeout at most for what others remember of it (decisions/009). */
    LINK_GREET_MIN_US = 200 * 1000,
    LINK_GREET_MAX_US = 2 * 1000 * 1000,
};

struct node_counters {
#define METRIC(name, kind, text) uint64_t name;
#include "tbl/metrics.def"
#undef METRIC
};

/* The way to another node of the cluster. The node whose name comes first dials. */
struct link {
    struct node *node;
    char *name, *address;
    uint64_t node_id;      /* 0: not known yet */
    struct peer peer;      /* peer.conn is set only after the greeting */
    struct conn *conn;     /* from dialling or accepting on, greeting included */
    bool dials;            /* we dial */
    bool is_introduced;    /* its hello was heard on this connection */
    bool is_told;          /* what this node remembers was told on it */
    uint64_t boot_id;      /* as heard last */
    bool has_restarted;    /* since the link was last up */
    /* What it remembers of this node was heard since this node's start, and whom it was connected to then. */
    bool has_told;
    uint64_t hears[LIMIT_NODES];
    size_t hears_count;
    struct env_timer retry;
    uint64_t greet_us;     /* how long the next attempt waits for a greeting; 0: LINK_GREET_MIN_US */
    struct request_origin origin; /* requests that it forwards to us */
    struct hashtab forwards;      /* request id → struct forward that waits for its answer */
    uint64_t round_asked_us;      /* when the read round in flight was asked */
    /* Groups that ride on it, and the count of changes that they go by. */
    struct partition_ride *rides; /* room for all groups, once the cluster is open */
    size_t ride_count;
    uint64_t ride_changes;
    /* Groups whose followers here ask for the commit index by it, and what was told; room for all groups, likewise. */
    uint32_t *asks;
    struct link_tell {
        uint32_t group;
        uint64_t commit;
    } *tells;
    size_t ask_count, tell_count;
    bool is_answered; /* the round is, and waits for others (node_rounds.c) */
    bool is_late;     /* the last round was not answered in READ_ROUND_PATIENCE_US: nobody waits for the next */
    uint64_t last_error_us;       /* so that an unreachable peer is logged now and then, not always */
};

struct node {
    struct env *env;
    struct logger *logger;
    struct node_config config; /* its strings are owned */
    uint64_t id, boot_id;
    uint64_t started_us;
    uint64_t hlc;
    uint64_t now_ms; /* monotonic time of the frame or turn at hand */
    uint64_t changes; /* of what replicas here follow: raft_config */

    /* membership.c */
    char *bootstrap;           /* canonical list */
    struct buf genesis_packed; /* empty until the cluster is formed */
    Cairn__Control__Genesis *genesis;
    struct save *saving; /* the topology is being written */
    bool save_again;

    struct recall *recall;
    struct topology *topology;
    struct buf topology_packed;
    struct link *links;
    size_t link_count;

    /* open once the cluster is formed */
    struct reserve *reserve;
    struct log *log;
    struct store *store;
    struct partition **partitions; /* by group number; NULL: no replica here */
    size_t partition_count;
    /* Dense arrays, by group number, of what is walked often: no tick before; is led here, as of the last turn. */
    uint64_t *quiet_until_ms;
    bool *leads;
    struct partition_scratch *scratch;
    struct partition_host host;    /* what the partitions see of the node */
    uint64_t *leaders;             /* by group number: node id last heard to lead, 0 = unknown */

    struct env_task turn;
    bool is_in_turn; /* partitions' turns run */
    bool may_hold;    /* the log's disk is quick; see send_frames */
    uint64_t held_us; /* since when frames with entries wait for the log, 0: none does; see send_frames */
    struct partition **awake;
    size_t awake_count;
    bool *reads_wanted;            /* by group number */
    uint32_t *wanted;              /* groups with reads that wait for a round */
    size_t wanted_count;
    size_t next_asked; /* peer that the next read round begins with */
    struct env_timer rounds_hold;  /* the answered rounds wait no longer for the others */
    struct env_timer tick;
    uint64_t ticks;

    struct list requests;          /* all unanswered, struct request */
    struct list parked;            /* struct request with parked operations */
    struct list free_requests;
    size_t free_request_count;
    uint64_t next_forward_id;

    uint64_t last_write_us;        /* for the idle flush */
    bool flush_is_waiting;         /* frozen, waits for the log */
    bool flush_is_wanted;          /* by an image that must be newer */
    uint64_t marked_us;            /* since when the active generation holds a mark, 0: it holds none */
    uint64_t flush_began_us;       /* when the flush under way did; 0: none is */
    uint64_t flush_pauses_us;      /* store_flush_paused_us at that time */
    uint64_t flush_took_us;        /* the last one, without its pauses; 0: there was none */
    uint64_t flushed_us;           /* when the last flush ended */
    uint64_t untrimmed_bytes;      /* that went through the overlay since memory was last given back */
    struct images *images;
    struct scrub *scrub;
    enum raft_cut cut_level;
    struct budget budget;
    struct disks disks;
    uint64_t probed_us; /* see look_at_disks */
    bool is_refusing; /* ordinary writes, for the log's sake */
    bool is_tight; /* see partition.h */

    bool is_stopping, is_stopped, has_failed;
    uint64_t stop_deadline_us;
    struct node_counters counters;
};

static inline void node_wake(struct node *node)
{
    env_defer(node->env, &node->turn);
}

static inline struct partition *node_find_partition(struct node *node, uint32_t group)
{
    return group < node->partition_count ? node->partitions[group] : NULL;
}

/* The partition did what a turn may do, in one or without. */
static inline void node_observe_turn(struct node *node, const struct partition *partition)
{
    if (node->config.observe_turn) {
        node->config.observe_turn(node->config.ctx, partition_group(partition));
    }
}

/* node.c */

void node_fail(struct node *node, const struct err *err);
void node_raft_frame(struct node *node, struct link *link, const struct frame *frame);
void node_link_up(struct node *node, struct link *link);
void node_link_down(struct node *node, struct link *link);
/* Sets the callbacks of turn and tick. */
void node_arm(struct node *node);

/* node_open.c */

/* The cluster is known: opens log, store and the groups that have a replica here. */
int node_open_cluster(struct node *node, struct err *err);

/* node_events.c: set the callbacks. */

void node_hear_log(struct node *node, struct log_config *config);
void node_hear_store(struct node *node, struct store_config *config);
void node_hear_partitions(struct node *node, struct partition_host *host);

/* node_flush.c */

/* Begins the flush of what is frozen, once the log is durable to there. */
void node_flush_continue(struct node *node);
/* The store tells that the flush under way has ended. */
void node_flush_ended(struct node *node);
/* What a flush takes here: the last one, or the one under way if that takes longer already; µs, 0: not known. */
uint64_t node_flush_us(const struct node *node);
/* Whether writes are slowed because the log waits for the flush under way. */
bool node_flush_is_felt(const struct node *node);
/* Flushes, cuts and gives memory back where it is time to. */
void node_flush_tick(struct node *node);
/* What the log may take until the next look. */
void node_look_at_budget(struct node *node);
/* What the log may take before others' needs count less; it is never let grow beyond three times that (node/budget.h). */
uint64_t node_log_budget(const struct node *node);
/* The log holds so much that writes are slowed. */
bool node_log_is_full(const struct node *node);
uint64_t node_log_segment_bytes(const struct node *node);

/* node_rounds.c */

/* Reads of the partition wait for a round; ctx: the node. */
void node_rounds_want(void *ctx, struct partition *partition);
/* At the end of the turn. */
void node_rounds_ask(struct node *node);
/* The peer told to where the leader there has committed, in answer to the round; ctx: its link. */
void node_rounds_told(void *ctx, uint32_t group, uint64_t commit);
/* The peer answered. */
void node_rounds_end(struct node *node, struct link *link);
/* No answer will come: the connection is another one, or none. */
void node_rounds_lost(struct node *node, struct link *link);
/* Sets the callbacks; ends them. */
void node_rounds_arm(struct node *node);
void node_rounds_stop(struct node *node);

/* node_topology.c */

/* Takes a topology of a newer epoch; false when it is not newer or malformed. */
bool node_take_topology(struct node *node, struct span packed, bool is_to_save);
/* The control group is led here from now on. */
void node_publish_topology(struct node *node);
/* Node id that leads a group as far as is known here, 0 = unknown. */
uint64_t node_leader_of(struct node *node, uint32_t group);

/* node_state.c */

/* The time that another node has reached. */
void node_hear_time(struct node *node, uint64_t time);

/* membership.c */
int membership_start(struct node *node, struct err *err);
void membership_fini(struct node *node);
struct link *membership_find(struct node *node, uint64_t node_id);
/* Says hello once more to all that are connected: there is news. */
void membership_greet_again(struct node *node);
/* Saves the topology to its file, by a job. */
void membership_save_topology(struct node *node);

/* files.c: small files with magic, format and checksum, replaced atomically. Block. */
int files_save(struct env *env, const char *directory, const char *name, uint32_t magic, struct span content, struct err *err);
/* ERR_NOT_FOUND, ERR_CORRUPT, ERR_FORMAT. */
int files_load(struct env *env, const char *directory, const char *name, uint32_t magic, struct buf *out, struct err *err);

/* request.c */
void request_sweep(struct node *node);
void request_forward_answered(struct link *link, const struct frame *frame);
void request_link_lost(struct link *link);
/* Gives back the memory of requests that are kept for reuse. */
void request_trim(struct node *node);
void request_drop_all(struct node *node);

#endif
