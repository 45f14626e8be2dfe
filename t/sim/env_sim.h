/* The second implementation of env.h: one simulated process on one simulated machine.
 *
 *   env_sim_new → env_sim_boot → … → env_sim_kill (a crash: from here on nothing reaches disk or network, no callback comes)
 *               → the owner frees its things (node_abandon) → env_sim_reap → env_sim_boot again, or env_sim_free
 *
 * Callbacks come from schedule steps only; env_sim_step runs what was deferred. */
#ifndef SIM_ENV_SIM_H
#define SIM_ENV_SIM_H

#include "env/env.h"
#include "sim/disk.h"
#include "sim/network.h"
#include "sim/random.h"
#include "sim/schedule.h"

enum env_sim_end {
    ENV_SIM_CRASH,      /* the process dies: the page cache stays, peers hear of it */
    ENV_SIM_POWER_LOSS, /* the machine dies: unsynced data is at stake, peers hear nothing */
};

struct env_sim_jobs {
    struct list waiting, finished;
    struct schedule_event work, done;
    uint64_t last_done_us;
};

struct env_sim {
    struct env env;
    struct schedule *schedule;
    struct network *network;
    struct disk *disk; /* NULL: a client without files */
    uint32_t machine;  /* index in network->machines */
    char host[32];
    struct random random; /* for env_random */
    struct random timing;
    bool is_dead;      /* before the first boot, and between kill and boot */
    bool is_down;      /* dead by power loss: the machine does not answer either */
    bool is_real_too;  /* directories are made on the real disk as well: LMDB lies beside the simulated files */
    bool torn;         /* a power loss may tear a sector */
    uint64_t paused_until_us;
    uint64_t booted_us;
    uint32_t grain_us;      /* the loop wakes at multiples of it only: what has come until then shares a turn; 0: at any time */
    int64_t drift_ppm;      /* of both clocks, since the schedule stood at drift_from_us and this clock at drift_base_us */
    uint64_t drift_from_us, drift_base_us;
    int64_t wall_offset_us; /* of the wall clock; a jump changes it */
    uint64_t wall_stop_us, wall_go_us; /* by the monotonic clock: between them the wall clock stands still; behind them it lags */
    uint32_t slow_factor;   /* of the disk; 1: as it should be */
    uint64_t hangs_until_us; /* the disk: jobs that have not begun wait until then */
    uint32_t log_delay_us, flush_delay_us, read_delay_us; /* typical */
    uint32_t flush_factor; /* of flush_delay_us, where greater than slow_factor */
    struct list deferred;
    struct env_sim_jobs jobs[ENV_JOB_CLASSES];
    struct list conns, listeners;
    /* The process dies in its next job of a class, in the middle (log) or right behind its work (others); this event is to kill it
     * then. */
    struct schedule_event *ambush;
    enum env_job_class ambush_class;
    uint64_t jobs_cut; /* jobs in the middle of which the process died */
};

struct env_sim *env_sim_new(struct schedule *schedule, struct network *network, struct disk *disk, uint32_t machine, const char *host,
                            uint64_t seed);
/* After it was killed and reaped, and after network_fini: others may hold streams to it until then. */
void env_sim_free(struct env_sim *env);
/* The process starts. */
void env_sim_boot(struct env_sim *env);
/* Ends the process at once. Jobs that wait may be carried out, wholly or up to the middle of their file calls, as the dice say; `done`
 * comes for none. */
void env_sim_kill(struct env_sim *env, enum env_sim_end end);
/* After the owner has freed its things: connections that it closed and jobs that it left get their last callback, so that they
 * can free themselves. Files fail for those jobs. */
void env_sim_reap(struct env_sim *env);
/* The disk does nothing until a time: what was asked of it, and is asked meanwhile, waits. */
void env_sim_hang_disk(struct env_sim *env, uint64_t until_us);
/* The disk is as it should be again: what waits for a slow one, or one that hangs, goes on soon. */
void env_sim_heal_disk(struct env_sim *env);
/* Stops the process (SIGSTOP) until a time: its events wait. */
void env_sim_pause(struct env_sim *env, uint64_t until_us);
/* From now on both clocks drift so. */
void env_sim_drift(struct env_sim *env, int64_t ppm);
/* The wall clock stands still for a while, and goes on from there. */
void env_sim_stop_wall(struct env_sim *env, uint64_t for_us);
/* When the process' loop gets to see what happens at a time. */
uint64_t env_sim_wakes_us(const struct env_sim *env, uint64_t at_us);
/* Runs one event that schedule_next gave, those of the same process that are due too, and what they deferred: one turn of a loop. False: its process is paused, it was put off. */
bool env_sim_step(struct schedule *schedule, struct schedule_event *event);

static inline struct env_sim *env_sim_of(struct env *env) { return (struct env_sim *)env; }

#endif
