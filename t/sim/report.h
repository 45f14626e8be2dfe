/* What many runs came to: sums, and the table of faults × workloads. */
#ifndef SIM_REPORT_H
#define SIM_REPORT_H

#include <sys/resource.h>
#include <time.h>

#include "sim/world.h"

/* A zeroed struct is empty; report_begin notes the time. */
struct report {
    struct timespec begin;
    uint64_t runs, failed, crashed, violations, undecided, virtual_us, shortest_us, steps, checked_twice;
    uint64_t repeated_us, repeated_calls; /* of the second runs, which count for the speed alone */
    uint64_t faults[FAULT_COUNT], starved[MEM_KINDS];
    struct report_cell {
        uint64_t runs, failed; /* in which the fault struck while an operation of the workload was in flight */
    } cells[FAULT_COUNT][WORKLOAD_COUNT];
    uint64_t calls, ok, refused, unknown, nothing, elections, committed, images, log_percent_max, flushes_hung, boots, jobs_cut, sectors_lost, sectors_torn, names_lost;
    uint64_t recovery_us_max, writable_us_max;
    struct report_three { /* of the runs with three nodes alone */
        uint64_t virtual_us, calls;
        double cpu_seconds;
    } three;
};

void report_begin(struct report *report);
/* One run that came to its end, with this much processor time. */
void report_add(struct report *report, const struct world_report *run, double cpu_seconds);
/* The second run of a seed. */
void report_add_repeated(struct report *report, const struct world_report *run);
double report_seconds(const struct report *report);
/* User's and system's. */
double report_seconds_of(const struct rusage *usage);
/* Processor time of all runs so far, which a machine that is shared does not distort as much. */
double report_cpu_seconds(void);
/* Prints everything on stdout; the number of violations is the last line. */
void report_print(const struct report *report);

#endif
