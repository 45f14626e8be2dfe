/* The partition: one replica of one group on this node. Joins Raft core, log and store; admits or refuses writes and reads, applies
 * what is committed, answers those who wait.
 *
 * Life of a write: partition_write queues it → at the end of the turn all queued ones are proposed and logged together →
 * committed → applied → done(). Of a read: partition_read registers it → a read round confirms leadership → applied far enough →
 * done(); the reader then looks into the store. Of a read at a follower: partition_follow registers it → the leader's node is asked for
 * the commit index → applied so far → done().
 *
 * Waiting structs are embedded in the caller's memory, which stays until done() was called or the wait was abandoned. done() is
 * called from partition_turn, partition_message, partition_read_ridden, partition_follow_answered or partition_close, never inside
 * partition_write, partition_read or partition_follow. */
#ifndef NODE_PARTITION_H
#define NODE_PARTITION_H

#include "cluster/topology.h"
#include "node/budget.h"
#include "node/reserve.h"
#include "raft/log.h"
#include "raft/raft.h"
#include "store/store.h"

struct partition;

struct partition_write {
    struct list link; /* in the partition's queue or ring; zeroed: not waiting */
    struct blob *payload; /* a packed command; the partition takes the reference */
    uint64_t index, term; /* once proposed */
    bool ack_all;         /* done() waits until every replica within reach has it durably, too */
    bool is_applied;      /* by a majority; waits for the others */
    struct store_result result; /* then */
    int status;           /* the partition's, until done() */
    /* status 0: *result is the store's answer. ERR_NOT_PRIMARY, ERR_BUSY, ERR_STORE_FULL, ERR_DISK_FULL: nothing was or will be
     * applied. ERR_UNKNOWN_OUTCOME: it was proposed and lost its place, and may still be applied; or (ack_all) it is
     * applied, and leadership was lost before all had it. */
    void (*done)(struct partition_write *write, int status, const struct store_result *result);
};

struct partition_read {
    struct list link;
    uint64_t sequence, index;
    int status; /* the partition's, until done() */
    /* status 0: the store may be read now, in this call or later. ERR_NOT_PRIMARY: ask elsewhere. */
    void (*done)(struct partition_read *read, int status);
};

/* Memory for one call's work, shared by all partitions of a node. */
struct partition_scratch {
    uint64_t terms[LIMIT_RAFT_APPEND_ENTRIES];
    struct blob *blobs[LIMIT_RAFT_APPEND_ENTRIES];
};

/* What a partition needs from its node. */
struct partition_host {
    struct env *env;
    struct logger *logger;
    struct log *log;
    struct store *store;
    struct reserve *reserve;
    struct budget *budget; /* of the log; the partition counts what it takes and proposes */
    uint64_t hash_seed;
    uint32_t feature_level;
    uint32_t election_timeout_ms, heartbeat_ms;
    struct partition_scratch *scratch;
    uint64_t *hlc; /* the node's newest hybrid logical time */
    uint64_t *changes; /* the node's count of changes, see raft_config */
    const uint64_t *now_ms; /* monotonic time: of the frame that partition_message is called for, of the turn */
    const enum raft_cut *cut_level; /* how far logs are to be cut */
    const bool *is_tight; /* the disk is nearly full: nothing is applied that the own log lacks */
    uint64_t *quiet_until_ms; /* by group number: partition_tick would do nothing before */
    /* The partition sent something outside of a turn: it is to leave at the end of this one. */
    void (*spoke)(void *ctx, struct partition *partition);
    /* The partition has work for the end of this turn. Called once until partition_turn. */
    void (*wake)(void *ctx, struct partition *partition);
    /* Sends a Raft message to the node that holds replica message->to; entries as peer_send takes them. */
    void (*send)(void *ctx, uint64_t node_id, const struct raft_message *message, const uint64_t *terms,
                 struct blob *const *payloads);
    /* The same for a beat (raft.h), to a node. */
    void (*beat)(void *ctx, uint64_t node_id, uint32_t group, const struct raft_beat *beat);
    /* Reads wait for a round to be asked: the node calls partition_read_round, or partition_follow_ask, for each of its peers when they
     * are free. */
    void (*read_wanted)(void *ctx, struct partition *partition);
    /* Entries were applied this turn. */
    void (*applied)(void *ctx, struct partition *partition);
    /* Every applied entry, for the simulator's checkers; NULL in production. */
    void (*observe)(void *ctx, uint32_t group, uint64_t index, uint64_t term, struct span payload);
    void (*role_changed)(void *ctx, struct partition *partition);
    /* Primary: a replica needs an image of this one's store, and none is on offer to it. Repeated with every heartbeat. */
    void (*image_wanted)(void *ctx, struct partition *partition, const struct raft_image_want *want);
    /* The primary offers an image that is needed here. Repeated with every heartbeat. */
    void (*image_offered)(void *ctx, struct partition *partition, const struct raft_image *image);
    /* Replicas hold different content at the same index, and there is no majority that says which is right: this one is to be
     * scrubbed soon. */
    void (*undecided)(void *ctx, struct partition *partition);
    /* The node's disk is slow: who leads there is to hand over, and nobody hands over to it. */
    bool (*is_slow)(void *ctx, uint64_t node_id);
    /* Entries cannot be read or applied: the node must stop. */
    void (*failed)(void *ctx, struct partition *partition, const struct err *err);
    void *ctx;
};

struct partition_stats {
    uint64_t proposals, applied, elections, reads, follows, damages, repairs;
};

/* Opens this node's replica of `group` as the topology describes it; start: what the log found, NULL for a new one. The host must live
 * as long as the partition: one serves all of a node, so that it stays in the processor's cache. */
int partition_open(const struct partition_host *host, const struct topology_partition *group, uint64_t self_node_id,
                   const struct log_group_start *start, struct partition **out, struct err *err);
/* Frees at once; waiting ones get done(ERR_SHUTDOWN). */
void partition_close(struct partition *partition);

void partition_write(struct partition *partition, struct partition_write *write);
void partition_read(struct partition *partition, struct partition_read *read);
/* A linearizable read at a follower. May it be tried? */
bool partition_may_follow(const struct partition *partition);
/* If so: as partition_read. ERR_NOT_PRIMARY: not here; not to be tried here again. */
void partition_follow(struct partition *partition, struct partition_read *read);
/* Reads without asking other nodes. To be asked before the read, to choose the way, and again after it: what was read is as good
 * as the later answer says. */

/* The primary, and certainly still the only one: what stands in the store now is what a linearizable read may see. */
bool partition_has_lease(const struct partition *partition);
/* Everything that anybody acknowledged longer ago than this is in the store: ms, rounded up, at most a heartbeat's time or two
 * behind at rest. UINT64_MAX: not known. For any replica. */
uint64_t partition_staleness_ms(const struct partition *partition);
/* The store is fit to be read at all. */
bool partition_is_readable(const struct partition *partition);

/* The waiting one is not interested any more: done() is not called. A proposed write may still be applied. */
void partition_write_forget(struct partition *partition, struct partition_write *write);
void partition_read_forget(struct partition *partition, struct partition_read *read);

/* An event comes soon: fetches into the processor's cache what most events look at. Where many groups take turns, each one's first
 * look at memory would be waited for. */
void partition_prefetch(const struct partition *partition);
/* The same for a beat or the answer to one, which look at little; partition_beat… follows. */
void partition_prefetch_beat(const struct partition *partition);
/* Its turn comes soon. Fetches where the first entry is noted that it will apply; false: there is none. Then tells what it will apply:
 * how many entries, at most `max`, in *out. */
bool partition_prefetch_turn(const struct partition *partition);
size_t partition_look_ahead(const struct partition *partition, struct store_ahead *out, size_t max);

/* Events. */
/* Every 20 ms or so; to be left out as long as quiet_until_ms of its group is in the future. */
void partition_tick(struct partition *partition, uint64_t now_ms);
void partition_message(struct partition *partition, const struct raft_message *message, const struct raft_entry *entries,
                       const struct span *payloads);
/* A beat from a node; true: followed, else refused, and either is to be answered. The answer to one that was sent there. */
bool partition_beat(struct partition *partition, uint64_t node_id, const struct raft_beat *beat);
void partition_beat_answered(struct partition *partition, uint64_t node_id, const struct raft_beat *answer, bool is_followed);
void partition_durable(struct partition *partition, uint64_t index, uint64_t term);
void partition_state_durable(struct partition *partition, uint64_t term, uint64_t vote);
void partition_flushed(struct partition *partition);
/* The log's holes of this group are others than before. */
void partition_hole(struct partition *partition);
/* The record that ends the replica's suspicion is durable. */
void partition_healed(struct partition *partition);
void partition_peer_reset(struct partition *partition, uint64_t node_id);
void partition_peer_restarted(struct partition *partition, uint64_t node_id);
/* Old disks (node/recall.h): another member told what it remembers of this replica; true: it had forgotten a promise. */
bool partition_remind(struct partition *partition, uint64_t replica, const struct raft_memory *told);
/* The disk is older than the node's last start. Not for the only replica of a group. */
void partition_suspect(struct partition *partition);
/* Emits the question of a read round to a node, if reads wait for which no majority has been asked yet. */
void partition_read_round(struct partition *partition, uint64_t node_id);
/* The same without a message of its own, if the replica there has confirmed since that node counted a change (`changes`: its count as
 * heard last): *ride waits for that node's answer to the round, and is given to partition_read_ridden then, or forgotten with the link. */
struct partition_ride {
    uint32_t group;
    uint64_t replica, term, sequence;
};
bool partition_read_ride(struct partition *partition, uint64_t node_id, uint64_t changes, struct partition_ride *ride);
void partition_read_ridden(struct partition *partition, const struct partition_ride *ride, bool is_confirmed);
/* Reads at a follower wait to be asked for. */
bool partition_wants_follow(const struct partition *partition);
/* A question goes to that node now: true, if it leads and reads wait for its word: *replica asks, in *term. */
bool partition_follow_ask(struct partition *partition, uint64_t node_id, uint64_t *replica, uint64_t *term);
/* The word of that node. 0: none came, or it refused. */
void partition_follow_answered(struct partition *partition, uint64_t node_id, uint64_t commit);
/* The other side: what this replica says to the member `replica`; 0: nothing. */
uint64_t partition_grant(struct partition *partition, uint64_t replica, uint64_t term);
/* Cuts its log as far as cut_level allows; a turn does so too. */
void partition_cut_log(struct partition *partition);
/* Primary: proposes a mark if a replica within reach was not compared with this one since the last call. To be called now and then;
 * at rest, and where flushes meet by themselves, nothing is proposed. */
void partition_mark(struct partition *partition);
/* The store says that this replica is damaged: it hands over, serves nothing, and waits for an image, while its log goes on. The only
 * replica of a group goes on as well as it can. */
void partition_damaged(struct partition *partition);
bool partition_is_damaged(const struct partition *partition);
/* An image is being swapped in: nothing is applied and the log stays as it is until that has ended. */
bool partition_is_installing(const struct partition *partition);
/* End of the turn: proposes, sends, applies, answers. */
void partition_turn(struct partition *partition);
/* Hands leadership over, if there is reason to and the other is caught up (returns whether it began): to the preferred replica; from a node
 * whose disk is slow, to the first in the group's list whose isn't. partition_resign: to such a one, else to any. */
bool partition_prefer(struct partition *partition, uint64_t now_ms);
int partition_resign(struct partition *partition);

/* Images (see raft.h; moving them is node/images.c's). Primary: the image `id` of `index` is open for a replica. ERR_NOT_PRIMARY,
 * ERR_BAD_REQUEST: close it. */
int partition_image_offer(struct partition *partition, uint64_t to, uint64_t index, uint64_t id);
void partition_image_withdraw(struct partition *partition, uint64_t to);
/* Whether image `id` is still on offer to the replica; if not, it is to be closed. */
bool partition_image_is_offered(const struct partition *partition, uint64_t to, uint64_t id);
/* Follower: a whole image has arrived. False: not needed any more, or not now. True: nothing is applied until one of the two that
 * follow: the store has swapped, or could not. */
bool partition_image_begin(struct partition *partition, uint64_t index, uint64_t term);
void partition_image_installed(struct partition *partition, uint64_t index, uint64_t term);
void partition_image_failed(struct partition *partition);
/* Node of a replica of this group; 0: none. */
uint64_t partition_node_of(const struct partition *partition, uint64_t replica);

uint32_t partition_group(const struct partition *partition);
const struct raft *partition_raft(const struct partition *partition);
struct store_replica *partition_store(struct partition *partition);
const struct topology_partition *partition_topology(const struct partition *partition);
bool partition_is_primary(const struct partition *partition);
/* Node that leads, 0 = unknown. */
uint64_t partition_leader_node(const struct partition *partition);
uint64_t partition_applied(const struct partition *partition);
const struct partition_stats *partition_stats(const struct partition *partition);

#endif
