/* What the files of a run share (world.c says how it goes); for nobody else. */
#ifndef SIM_WORLD_PRIVATE_H
#define SIM_WORLD_PRIVATE_H

#include "base/mem.h"
#include "node/node_private.h"
#include "server/server.h"
#include "sim/checker.h"
#include "sim/env_sim.h"
#include "sim/old_image.h"
#include "sim/workload.h"
#include "sim/world.h"

enum {
    NODES_MAX = 5,
    SECOND_US = 1000 * 1000,
    BEGIN_US = SECOND_US, /* the virtual time at which a run begins */
    RESTART_MAX_US = 4 * SECOND_US,
    DRIFT_PPM_MAX = 100000, /* what decisions/006 allows clocks */
    COMPARE_ROUND_MAX_MS =
        4000, /* replicas are waited for to be compared if a scrub's round is no longer */
    DISK_BYTES = 1 << 30,
};

struct world_node {
    struct world *world;
    uint32_t number; /* from 0 */
    char name[16], address[48], *data;
    struct env_sim *env;
    struct disk *disk;
    struct server *server; /* NULL: not running */
    struct logger logger;
    /* Its log is too long: a group that could be cut there, and since when it is not. */
    uint32_t uncut_group;
    uint64_t uncut_start, uncut_us, log_looked_us;
    bool is_absent; /* for long */
    uint32_t starts;
    struct mem_gates gates;
    /* Countdowns that have struck, as last counted. */
    struct {
        uint64_t refused[MEM_KINDS], writes_failed, syncs_failed, misdirected;
    } struck;
    uint32_t flips_due;     /* in its store, before it starts again */
    uint32_t log_flips_due; /* in its log, soon after it started */
    bool is_stopping;       /* it told that it stopped; to be buried */
    int stop_status;
    char stop_text[256];
    struct schedule_event boot;  /* owner: the world */
    struct schedule_event start; /* owner: the process */
    struct schedule_event bury;
    struct schedule_event ambush; /* it was caught in the middle of writing its log */
    enum env_sim_end ambush_end;
    struct schedule_event relief; /* slow and full disks get well */
    struct schedule_event rot;    /* log_flips_due are */
};

/* What was within reach of a primary when a write was asked that all must acknowledge. */
struct world_ack {
    uint32_t group;
    uint64_t leader, term;
    struct {
        uint64_t node_id, boot_id, until_us;
    } replicas[LIMIT_REPLICAS];
};

struct world {
    const struct world_options *options;
    struct world_report *report;
    struct schedule schedule;
    struct network network;
    struct checker checker;
    struct workload workload;
    struct world_ack acks[WORKLOAD_SESSIONS_MAX]; /* by session */
    struct logger logger;                         /* the world's and the clients' own lines */
    struct random draw;                           /* what the run is like */
    struct random nemesis;
    struct world_node nodes[NODES_MAX];
    uint32_t node_count;
    char bootstrap[256], endpoints[256];
    uint64_t flush_bytes, log_bytes, segment_bytes, log_cache_bytes;
    uint32_t flush_idle_ms, scrub_interval_ms, image_chunk_bytes, image_bytes_per_second;
    uint64_t map_bytes;
    bool has_small_map; /* what images pin may fill it */
    enum world_bias bias;
    uint32_t mix;            /* of workloads */
    uint64_t swaps_until_us; /* images that are swapped in before strike their process */
    bool may_strike[FAULT_COUNT];
    uint64_t starves_every
        [MEM_KINDS]; /* so many allocations per one that fails; 0: none does by itself */
    uint32_t partitions, replicas;
    struct world_node *slow; /* whose disk is, in live_on_a_slow_disk */
    uint64_t slow_batches;   /* of its log: then it has measured that */
    uint32_t victim;         /* the node whose disk may rot: never a majority of a group */
    uint32_t fault_interval_us;
    uint32_t hurry_percent, lease_percent; /* of the calls: see workload.h */
    bool scans_large;
    uint32_t grain_us; /* of every loop, see env_sim.h */
    uint64_t trouble_us;
    struct schedule_event strike, heal_links;
    struct {
        struct world_node *behind; /* lacks what came since */
        uint64_t mark;             /* of the victim's log */
        struct schedule_event end;
    } amnesia;
    /* An old disk image, and what must not happen until its node is whole again (see world_strike_old_image). */
    struct world_old {
        struct old_image *image;    /* NULL: none is kept */
        struct world_node *node;    /* whose */
        uint32_t starts[NODES_MAX]; /* of all, when it was taken */
        bool is_with_all;           /* all fall when it is put back */
        bool has_behind;            /* a node is cut off before; always if all fall */
        struct world_node *behind;  /* that one, from then on: lacks what came just before */
        struct schedule_event put;
        bool is_healing;
    } old;
    struct world_reigns {
        uint32_t group;
        uint64_t until_us; /* 0: not under way */
        uint64_t term;     /* the newest whose leader was seen */
        struct world_node *leader;
        struct schedule_event end; /* of its reign */
    } reigns;
};

/* --- world.c */

/* A promise is broken: the run ends. */
void world_note_violation(void *ctx, const char *text);
/* For the lines of a node, or of the world ("world"). */
struct logger world_make_logger(struct world *world, const char *node);
/* A fault has struck: at once, or, with those that wait for a file call, now. */
void world_note_fault(struct world *world, enum world_fault fault);
/* Runs until `until_us` or, if given, until is_done: true when it is. */
bool world_run_until(struct world *world, uint64_t until_us, bool (*is_done)(struct world *world));

/* --- world_draw.c */

/* Draws the run and makes its cluster. */
void world_init(struct world *world);
/* With its folder. */
void world_fini(struct world *world);

/* --- world_node.c */

/* Its process dies, or its machine does. */
void world_end_process(struct world_node *node, enum env_sim_end end);
/* Its process begins again after the delay. */
void world_boot_later(struct world_node *node, uint64_t delay_us);
/* How long a process is gone: us. */
uint64_t world_draw_restart(struct world *world);
/* Its disk is damaged: told and counted. */
void world_note_rot(struct world_node *node, enum world_fault fault);
/* Something else takes what room there is, but for a little; what the node frees, it may use. */
void world_fill_disk(struct world_node *node);
/* The n-th, not started. */
void world_init_node(struct world *world, uint32_t number);
/* With its process. */
void world_fini_node(struct world_node *node);
/* Ends its process; it begins again by itself. False: there is none. */
bool world_strike_end(struct world_node *node, enum env_sim_end end);
/* The next refusal of a kind at the run's rate. */
void world_arm_gate(struct world *world, struct mem_gate *gate, int kind);
/* Of all kinds. */
void world_arm_gates(struct world *world, struct world_node *node);

/* --- world_faults.c */

/* Any. */
struct world_node *world_draw_node(struct world *world);
/* Links are whole again. */
void world_run_heal_links(struct schedule_event *event);
/* From the other nodes; clients still reach it. */
void world_cut_off(struct world *world, const struct world_node *node);
/* After a step of a node. */
void world_watch_reigns(struct world *world, struct world_node *node);
/* Links are whole again, maybe by a crash of the leader. */
void world_run_reign_end(struct schedule_event *event);
/* After a step of a node. */
void world_watch_swaps(struct world *world, struct world_node *node);
/* What befalls a frame with Raft messages. */
void world_on_frame_fate(void *ctx, enum network_fate fate);
/* By what the run may see. */
void world_begin_frame_faults(struct world *world);
/* Allocations fail from now on, at rates that are drawn. */
void world_begin_starving(struct world *world);
/* Draws a fault and the time of the next. */
void world_run_strike(struct schedule_event *event);
/* Allocations fail no more. */
void world_end_starving(struct world *world);
/* Faults end; what lies down gets up. */
void world_heal(struct world *world);
/* The last blow, in a share of the runs: what was acknowledged must survive that no process and no
 * page cache does. */
void world_strike_last(struct world *world);

/* --- world_disks.c */

/* What was to be forgotten is. */
void world_run_amnesia(struct schedule_event *event);
/* Rot: of one node of a run, and only where others have what it loses. Noted when it happens. */
bool world_strike_rot(struct world *world, enum world_fault fault);
/* No image waits to be put back any more, and none is kept. */
void world_end_old_image(struct world *world);
/* Links and disks are as they should be, and nothing is on its way to change that. */
void world_calm(struct world *world);
/* Takes an image of its disk, to be put back later. False: not noted yet. */
bool world_strike_old_image(struct world *world);
/* An image is put back, or will be. */
void world_run_put(struct schedule_event *event);
/* The node whose disk was put back holds again what it should. */
bool world_is_old_whole(struct world *world);
/* The same, and no image waits to be put back; what would be in its way is healed. */
bool world_is_old_over(struct world *world);

/* --- world_judge.c */

/* A log that is far over its budget holds only what waits for a flush, whatever others need. (How
 * fast flushes are is the disk's business: a follower that catches up can be faster.) */
void world_judge_log(struct world_node *node);
/* Every node runs, is to go on running (one that was told to stop is still there for a while, and
 * starts again), and knows primaries. */
bool world_is_formed(struct world *world);
/* Every partition has taken what the probe writes. */
bool world_is_writable(struct world *world);
/* They have ended, every request answered. */
bool world_are_clients_idle(struct world *world);
/* Every one to some node. */
bool world_are_clients_connected(struct world *world);
/* Nothing is open on any of their connections, though calls may have ended without it. */
bool world_is_answered(struct world *world);
/* Every key, at last. */
bool world_is_all_read(struct world *world);
/* Every replica of every group has applied the same, and no node has anything to flush. */
bool world_has_converged(struct world *world);
/* How long images of all partitions may take: us. */
uint64_t world_images_max_us(const struct world *world);
/* Stores must be equal, in the end. */
void world_compare_stores(struct world *world);
/* The node that leads the group in the newest term, NULL: none. */
struct world_node *world_find_leader(struct world *world, uint32_t group);
/* A write that all must acknowledge was asked, or answered. */
void world_on_ack_all(void *ctx, uint32_t writer, struct span key, uint64_t version);
/* What each replica looks like, for the story's end. */
void world_tell_replicas(struct world *world);
/* Whether every replica holds what it should, and none waits for an image. */
bool world_are_replicas_whole(struct world *world);
/* Some leader can have no majority yet: for suspects and images. */
bool world_has_group_to_wait(const struct world *world);
/* All replicas are, behind what was committed when it was asked (compare_from). */
bool world_are_compared(struct world *world);

#endif
