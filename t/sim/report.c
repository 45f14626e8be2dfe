/* See report.h. */
#include "sim/report.h"

#include <stdio.h>

void report_begin(struct report *report)
{
    clock_gettime(CLOCK_MONOTONIC, &report->begin);
}

static void add_three(struct report_three *three, const struct world_report *run,
                      double cpu_seconds)
{
    three->virtual_us += run->virtual_us;
    three->calls += run->calls;
    three->cpu_seconds += cpu_seconds;
}

void report_add(struct report *report, const struct world_report *run, double cpu_seconds)
{
    if (run->nodes == 3) {
        add_three(&report->three, run, cpu_seconds);
    }
    report->failed += run->violations > 0;
    report->violations += run->violations;
    report->undecided += run->undecided;
    report->virtual_us += run->virtual_us;
    report->shortest_us = report->shortest_us == 0 || run->virtual_us < report->shortest_us
                              ? run->virtual_us
                              : report->shortest_us;
    report->steps += run->steps;
    for (int i = 0; i < FAULT_COUNT; i++) {
        report->faults[i] += run->faults[i];
        for (int j = 0; j < WORKLOAD_COUNT; j++) {
            report->cells[i][j].runs += run->cells[i][j] > 0;
            report->cells[i][j].failed += run->cells[i][j] > 0 && run->violations > 0;
        }
    }
    for (int i = 0; i < MEM_KINDS; i++) {
        report->starved[i] += run->starved[i];
    }
    report->calls += run->calls;
    report->ok += run->ok;
    report->refused += run->refused;
    report->unknown += run->unknown;
    report->nothing += run->nothing;
    report->elections += run->elections;
    report->committed += run->committed;
    report->images += run->images;
    report->log_percent_max = run->log_percent_max > report->log_percent_max
                                  ? run->log_percent_max
                                  : report->log_percent_max;
    report->flushes_hung += run->flushes_hung;
    report->boots += run->boots;
    report->jobs_cut += run->jobs_cut;
    report->sectors_lost += run->sectors_lost;
    report->sectors_torn += run->sectors_torn;
    report->names_lost += run->names_lost;
    if (run->recovery_us > report->recovery_us_max) {
        report->recovery_us_max = run->recovery_us;
    }
    if (run->writable_us > report->writable_us_max) {
        report->writable_us_max = run->writable_us;
    }
}

void report_add_repeated(struct report *report, const struct world_report *run)
{
    report->checked_twice++;
    report->repeated_us += run->virtual_us;
    report->repeated_calls += run->calls;
}

double report_seconds(const struct report *report)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - report->begin.tv_sec) +
           (double)(now.tv_nsec - report->begin.tv_nsec) / 1e9;
}

static double seconds_of(struct timeval time)
{
    return (double)time.tv_sec + (double)time.tv_usec / 1e6;
}

double report_seconds_of(const struct rusage *usage)
{
    return seconds_of(usage->ru_utime) + seconds_of(usage->ru_stime);
}

double report_cpu_seconds(void)
{
    struct rusage usage;
    getrusage(RUSAGE_CHILDREN, &usage);
    return report_seconds_of(&usage);
}

/* A cell is the number of runs; "5!2" says that two of five failed. */
static void print_cells(const struct report *report)
{
    uint32_t visited = 0, failing = 0;
    printf(
        "\nruns in which the fault struck while an operation of the workload was in flight\n%-20s"
        "%10s",
        "fault", "times");
    for (int j = 0; j < WORKLOAD_COUNT; j++) {
        printf("%10s", workload_name((enum workload_kind)j));
    }
    for (int i = 0; i < FAULT_COUNT; i++) {
        printf("\n%-20s%10lu", world_fault_name((enum world_fault)i), report->faults[i]);
        for (int j = 0; j < WORKLOAD_COUNT; j++) {
            const struct report_cell *cell = &report->cells[i][j];
            char text[48];
            snprintf(text, sizeof text, cell->failed ? "%lu!%lu" : "%lu", cell->runs, cell->failed);
            printf("%10s", text);
            visited += cell->runs > 0;
            failing += cell->failed > 0;
        }
    }
    printf("\n%u of %d cells visited, %u of them in runs that failed\n\n", visited,
           FAULT_COUNT * WORKLOAD_COUNT, failing);
}

/* Repeated runs took time, so what they simulated counts here. */
static void print_speed(const struct report *report)
{
    double seconds = report_seconds(report), cpu_seconds = report_cpu_seconds();
    double simulated = (double)(report->virtual_us + report->repeated_us) / 1e6;
    double calls = (double)(report->calls + report->repeated_calls);
    seconds = seconds > 0 ? seconds : 1e-6;
    printf("%lu seeds in %.1f s: %.1f simulated seconds per second, %.0f events/s\n", report->runs,
           seconds, simulated / seconds, (double)report->steps / seconds);
    if (simulated == 0 || cpu_seconds == 0) {
        return; /* the only run ended in a panic: it told nothing */
    }
    printf("per second of processor time: %.1f simulated seconds, %.0f operations "
           "(%.0f per simulated second)\n",
           simulated / cpu_seconds, calls / cpu_seconds, calls / simulated);
    double three = (double)report->three.virtual_us / 1e6;
    if (three > 0 && report->three.cpu_seconds > 0) {
        printf("of that with three nodes: %.1f simulated seconds (%.0f operations per simulated "
               "second)\n",
               three / report->three.cpu_seconds, (double)report->three.calls / three);
    }
}

static void print_refused(const struct report *report)
{
    static const char *const names[MEM_KINDS] = {
        [MEM_REQUEST] = "requests", [MEM_ANSWER] = "answers",     [MEM_SCAN] = "scans",
        [MEM_CONN] = "connections", [MEM_RAFT] = "Raft messages", [MEM_LOG] = "the log",
        [MEM_STORE] = "the store",  [MEM_IMAGE] = "images",
    };
    printf("memory refused to");
    for (int i = 0; i < MEM_KINDS; i++) {
        printf("%s %s %lu", i ? "," : "", names[i], report->starved[i]);
    }
    printf("\n");
}

void report_print(const struct report *report)
{
    double simulated = (double)report->virtual_us / 1e6;
    print_cells(report);
    printf("disks: %lu jobs cut in the middle, %lu sectors lost, %lu torn, %lu directory "
           "operations lost\n",
           report->jobs_cut, report->sectors_lost, report->sectors_torn, report->names_lost);
    print_refused(report);
    printf("cluster: %lu starts, %lu elections, %lu entries committed, %lu images installed, "
           "longest log %lu %% of its budget, handed over for %lu hung flushes, "
           "slowest recovery %.1f s, of that %.1f s after all nodes were up\n",
           report->boots, report->elections, report->committed, report->images,
           report->log_percent_max, report->flushes_hung, (double)report->recovery_us_max / 1e6,
           (double)report->writable_us_max / 1e6);
    printf("clients: %lu operations (%.0f per simulated second): %lu ok, %lu refused by condition, "
           "%lu unknown, %lu not applied; "
           "%lu histories undecided\n",
           report->calls, simulated > 0 ? (double)report->calls / simulated : 0, report->ok,
           report->refused, report->unknown, report->nothing, report->undecided);
    printf("simulated: %.0f seconds, the shortest run %.1f\n", simulated,
           (double)report->shortest_us / 1e6);
    printf("determinism: %lu runs repeated, trace hashes compared\n", report->checked_twice);
    print_speed(report);
    printf("violations: %lu\n", report->violations);
}
