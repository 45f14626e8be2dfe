/* The world of one run: a cluster, its clients, and what befalls them, all drawn from one seed. */
#ifndef SIM_WORLD_H
#define SIM_WORLD_H

#include <stdbool.h>
#include <stdint.h>

#include "sim/workload.h"

/* What can befall a cluster. */
enum world_fault {
    FAULT_CRASH,         /* one process dies; the page cache stays */
    FAULT_POWER,         /* one machine loses power */
    FAULT_CRASH_ALL,
    FAULT_POWER_ALL,
    FAULT_ABSENCE,       /* a process is gone for so long that logs are cut behind its back */
    FAULT_RESTART,       /* a node is stopped in order and started again */
    FAULT_PAUSE,         /* a process stands still (SIGSTOP) */
    FAULT_ISOLATE,       /* one machine is cut off from all, or from the other nodes */
    FAULT_SPLIT,         /* two halves */
    FAULT_ONE_WAY,       /* one direction between two nodes is clogged */
    FAULT_BREAK,         /* a connection breaks */
    FAULT_SLOW_DISK,
    FAULT_SLOW_FLUSH,    /* of one node, now and then of all; the logs are as quick as ever */
    FAULT_DISK_FULL,
    FAULT_WRITE_FAILS,
    FAULT_SYNC_FAILS,
    FAULT_CLOCK_JUMP,    /* a wall clock, by up to hours, either way */
    FAULT_CLOCK_STOP,    /* a wall clock stands still for seconds */
    FAULT_CLOCK_DRIFT,   /* both clocks of a node, by up to a tenth */
    FAULT_FLIP_LOG,      /* a bit of a log record, at rest; this and the next two strike one node of a run only */
    FAULT_FLIP_RECORD,   /* a bit of a stored record, while the node is down */
    FAULT_MISDIRECTED,   /* a sector of the log is written elsewhere */
    FAULT_NO_MEMORY,     /* the n-th allocation of a kind from now fails on a node, and maybe some behind it */
    FAULT_FRAME_LOST,    /* a frame with Raft messages between two nodes; TCP would not */
    FAULT_FRAME_DOUBLED,
    FAULT_FRAME_SWAPPED, /* a later one overtakes it */
    FAULT_FRAME_DELAYED, /* many later ones do */
    FAULT_REIGNS,        /* for some seconds, whoever leads some group is cut off soon after it began to (Raft, figure 8) */
    FAULT_SWAP,          /* a process dies between an image's swap into its store and what must follow */
    FAULT_OLD_IMAGE,     /* a node is killed and comes back with its disk as it was some time ago */
    FAULT_HANG,          /* one machine's links and disk hang, the disk for a little longer */
    FAULT_LULL,          /* one machine is cut off, then most clients rest until logs are cut behind its back */
    FAULT_COUNT
};
const char *world_fault_name(enum world_fault fault);

/* What a run is made for: where several things must coincide, a run in which only they happen shows what a thousand mixed ones do not. */
enum world_bias {
    BIAS_NONE,
    BIAS_REIGNS,  /* leaders fall at the wrong moments, and nothing else happens */
    BIAS_LEADERS, /* leaders are cut off, one way or both, paused, restarted; clients in a hurry read from them, by lease too */
    BIAS_IMAGES,  /* short logs, long absences, slow images, crashes at the swap */
    BIAS_SCANS,   /* scans in many pages while leadership moves */
    BIAS_DISKS,   /* disks are put back after changes of leadership that others are to remember */
    BIAS_CUTOFF,  /* leaders are cut off while their disks hang, or before clients rest; clients in a hurry fill their logs */
    BIAS_LOGS,    /* short logs, many writes, slow flushes */
    BIAS_COUNT,
    BIAS_DRAWN = BIAS_COUNT /* as option: each run draws its own */
};
const char *world_bias_name(enum world_bias bias);

struct world_options {
    uint64_t seed;
    bool trace;         /* tell what happens, on stderr */
    bool damage;        /* disks may rot in every run: FAULT_FLIP_LOG and so on */
    enum world_bias bias; /* BIAS_DRAWN: drawn */
    bool break_sync;    /* the disks lie: nothing is durable after a sync; must be found */
    uint32_t fault_seconds; /* virtual; 0: drawn */
    uint32_t least_seconds; /* virtual: the run is no shorter; the calm load lasts until then */
    const char *scratch; /* a folder of its own, on tmpfs */
};

/* Plain data: it travels from a child process through a pipe. */
struct world_report {
    uint64_t hash, steps, virtual_us;
    uint64_t violations, undecided;
    char violation[512];
    uint64_t faults[FAULT_COUNT];
    uint64_t starved[MEM_KINDS]; /* allocations, by kind */
    uint32_t cells[FAULT_COUNT][WORKLOAD_COUNT]; /* how often the fault struck while an operation of the workload was in flight */
    uint64_t calls, ok, refused, unknown, nothing;
    uint64_t elections, committed, images, boots, jobs_cut, sectors_lost, sectors_torn, names_lost;
    uint64_t recovery_us; /* from healing until the last node was up and every partition took writes */
    uint64_t writable_us; /* of that, from the moment when all nodes were up and had found primaries */
    uint64_t log_percent_max; /* of its budget that any log took */
    uint64_t flushes_hung; /* until the log was full, so that primaries were to be handed over */
    uint32_t nodes;
};

void world_run(const struct world_options *options, struct world_report *report);

#endif
