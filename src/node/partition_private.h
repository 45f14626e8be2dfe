/* What the files of the partition share (partition.c says how it works); for nobody else. */
#ifndef NODE_PARTITION_PRIVATE_H
#define NODE_PARTITION_PRIVATE_H

#include <stddef.h>

#include "node/partition.h"

/* A read of the log for a laggard. */
struct partition_fetch {
    struct partition *partition;
    uint64_t to;
    bool is_active;
};

/* What every event looks at stands together; the large and the seldom used is behind. */
struct partition {
    const struct partition_host *host; /* the node's, shared by all its partitions */
    struct store_replica *store;
    uint64_t applied, dropped; /* see drop_payloads */
    uint64_t last_time; /* newest time proposed here */
    uint64_t self_node_id, self;
    uint64_t prefer_tried_ms; /* the last try to hand over, 0: none */
    bool is_awake;            /* host.wake was called for this turn */
    bool is_closing;
    bool apply_is_reading;
    bool is_starved;    /* there was no memory to apply: at the next tick */
    bool is_installing; /* I5 */
    bool has_holes;     /* perhaps: ask the log */
    bool is_damaged;    /* the store of this replica is */
    bool failed;
    bool is_held;         /* I8 */
    uint64_t unapplied;   /* bytes proposed in this reign, not applied; part of budget->unapplied */
    struct list queued;   /* writes not proposed yet */
    struct list inflight; /* writes by index */
    struct list acking;   /* applied, by index; replicas within reach lack them */
    struct list early;    /* reads that wait for the no-op */
    struct list reads;    /* reads by sequence */
    struct follows {
        /* The sequence of a read counts the ticks that it has waited. */
        struct list waiting; /* reads here that the leader is still to be asked for */
        struct list asked;   /* of `node_id` in `term`: what the answer says holds for all of these */
        struct list granted; /* their index is still to be applied */
        uint64_t node_id, term;
    } follows; /* raft.c, I22 */
    struct list done_writes, done_reads; /* to be told at the end of the turn */
    struct partition_stats stats;
    struct topology_partition group;
    struct raft raft;
    struct partition_fetch fetches[LIMIT_REPLICAS];
    struct partition_write mark; /* the last one proposed, linked while it waits */
    uint64_t mark_since;         /* commit index at the last partition_mark */
};

/* --- partition.c */

/* The node must stop. */
void partition_fail(struct partition *partition, const struct err *err);
/* Those who waited for entries that are now replaced can't be told here any more (I2). */
void partition_drop_replaced(struct partition *partition, uint64_t first);
/* Hands leadership over, as partition_resign does; the caller settles. */
int partition_begin_resigning(struct partition *partition);
/* After every event but a proposal (I1). is_append: a message with entries was stepped. */
void partition_settle_after(struct partition *partition, bool is_append);

/* --- partition_open.c */

/* The replica on that node, NULL: none. */
const struct topology_replica *partition_replica_of(const struct topology_partition *group,
                                                    uint64_t node_id);

/* --- partition_serve.c */

/* Takes it from its list; it is told at the end of the turn. */
void partition_finish_write(struct partition *partition, struct partition_write *write, int status);
/* All of a list. */
void partition_finish_all_writes(struct partition *partition, struct list *list, int status);
/* The same. */
void partition_finish_all_reads(struct partition *partition, struct list *list, int status);
/* Tells those who were finished. */
void partition_tell_done(struct partition *partition);
/* After a question whether a leader still leads, or the answer to one. Where many read, that is nearly
 * all that a group hears, and a turn looks at everything that it may have to do: so the answer
 * leaves, or who waited is told, at once (I7). False: there is more to do. */
bool partition_settle_round(struct partition *partition);
/* Bytes of the own proposals, all the node's (budget.c, B2). */
void partition_count_unapplied(struct partition *partition, uint64_t added, uint64_t applied);
/* Proposes what waits, as much as one turn and the budget take. */
void partition_propose_queued(struct partition *partition);
/* Writes that wait for every replica within reach. When leadership is lost, nobody here can tell
 * any more what the others hold. */
void partition_settle_acks(struct partition *partition);
/* Answers the reads that are confirmed; refuses those that never will be. */
void partition_settle_reads(struct partition *partition);
/* Reads at a follower: those whose index is applied by now are done, those that have waited too long, or can't be asked for any
 * more, go elsewhere. */
void partition_settle_follows(struct partition *partition);
/* A tick has passed. */
void partition_tick_follows(struct partition *partition);
/* Any is waiting for something. */
bool partition_is_following(const struct partition *partition);
/* Reads that no round has confirmed yet. */
void partition_want_round(struct partition *partition);

/* --- partition_apply.c */

/* Applies what is committed and at hand, and answers who waits for it. */
void partition_apply_committed(struct partition *partition);
/* What the core knows of a replica, NULL: no member. */
const struct raft_progress *partition_find_progress(const struct raft *raft, uint64_t replica);

/* --- partition_send.c */

/* Hands out.messages to the host. `fetched`: payloads just read from disk, from index fetched_first on, NULL: none. */
void partition_send_messages(struct partition *partition, struct blob **fetched,
                             uint64_t fetched_first, uint32_t fetched_count);
/* Peers lack payloads. What can't be read now is asked for again. */
void partition_start_fills(struct partition *partition);
/* Followers lack entries that are on disk only. */
void partition_start_fetches(struct partition *partition);

/* It is to have a turn. */
static inline void partition_wake(struct partition *partition)
{
    if (!partition->is_awake && !partition->is_closing) {
        partition->is_awake = true;
        partition->host->wake(partition->host->ctx, partition);
    }
}

/* A digest as the core takes it: there 0 says that none is known, and an empty store's is 0. */
static inline uint64_t partition_told(uint64_t digest)
{
    return digest ? digest : 1;
}

static inline void partition_drop_payload(struct partition_write *write)
{
    blob_unref(write->payload);
    write->payload = NULL;
}

/* Before an event whose time counts, outside turns and frames: ticks may be rare. */
static inline void partition_tell_time(struct partition *partition)
{
    raft_clock(&partition->raft, env_now_us(partition->host->env) / 1000);
}

/* After every event but a proposal or an append (I1). */
static inline void partition_settle(struct partition *partition)
{
    partition_settle_after(partition, false);
}

/* NULL: none of its replicas is on that node. */
static inline const struct topology_replica *partition_replica_on(const struct partition *partition,
                                                                  uint64_t node_id)
{
    return partition_replica_of(&partition->group, node_id);
}

#endif
