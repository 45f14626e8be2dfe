/* The simulator's command: runs seeds, each in a process of its own, and sums up.
 *
 *   sim [--seed N [--trace]] [--seeds N] [--seconds N] [--first N] [--twice]
 *       [--trouble SECONDS] [--break-sync] [--expect-violation] | --self-test
 *
 * The seed is printed before its run. Exit 0: as expected; 1: violations (or none where one was
 * expected); 2: usage. */
#include <errno.h>
#include <getopt.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/check.h"
#include "sim/self_test.h"
#include "sim/world.h"

enum { RUN_SECONDS_MAX = 300, KEEP_BYTES = 1 << 28 };

struct totals {
    uint64_t runs, failed, crashed, violations, undecided, virtual_us, steps;
    uint64_t faults[FAULT_COUNT];
    uint64_t calls, ok, refused, unknown, nothing, elections, committed, images, boots, jobs_cut,
        sectors_lost, sectors_torn, names_lost;
    uint64_t recovery_us_max, writable_us_max;
    struct timespec begin;
};

struct arguments {
    struct world_options world;
    uint64_t first, seeds, seconds;
    bool has_seed, is_twice, expects_violation;
};

/* The one global: what a panic must still say. */
static uint64_t panic_seed;

static void on_abort(int signal_number)
{
    static const char text[] = "panic with seed ";
    char digits[24];
    size_t at = sizeof digits;
    digits[--at] = '\n';
    uint64_t left = panic_seed;
    do {
        digits[--at] = (char)('0' + left % 10);
        left /= 10;
    } while (left > 0);
    if (write(STDERR_FILENO, text, sizeof text - 1) < 0 ||
        write(STDERR_FILENO, digits + at, sizeof digits - at) < 0) {
        /* nothing is left to tell it to */
    }
    signal(signal_number, SIG_DFL);
}

static const char *replay_flags(const struct arguments *arguments, char *out, size_t size)
{
    snprintf(out, size, "%s", arguments->world.break_sync ? " SIM_FLAGS=--break-sync" : "");
    return out;
}

static void tell_replay(const struct arguments *arguments, uint64_t seed)
{
    char flags[64];
    printf("  replay: make sim SEED=%lu TRACE=1%s\n", seed,
           replay_flags(arguments, flags, sizeof flags));
    fflush(stdout);
}

static void run_here(const struct arguments *arguments, uint64_t seed, struct world_report *report)
{
    char scratch[96];
    const char *base = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(scratch, sizeof scratch, "%s/cairn-sim-%d-%lu", base, (int)getpid(), seed);
    struct world_options options = arguments->world;
    options.seed = seed;
    options.scratch = scratch;
    panic_seed = seed;
    alarm(RUN_SECONDS_MAX);
    world_run(&options, report);
    alarm(0);
}

static void remove_leftovers(pid_t child, uint64_t seed)
{
    char command[160];
    snprintf(command, sizeof command, "rm -rf /dev/shm/cairn-sim-%d-%lu /tmp/cairn-sim-%d-%lu",
             (int)child, seed, (int)child, seed);
    if (system(command) != 0) {
        fprintf(stderr, "could not remove the scratch folder of seed %lu\n", seed);
    }
}

/* False: the run ended without a report (a panic, a crash, a hang). */
static bool run_child(const struct arguments *arguments, uint64_t seed, struct world_report *report)
{
    int pipes[2];
    CHECK(pipe(pipes) == 0);
    fflush(stdout);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        close(pipes[0]);
        run_here(arguments, seed, report);
        bool sent = write(pipes[1], report, sizeof *report) == (ssize_t)sizeof *report;
        close(pipes[1]);
        exit(sent ? 0 : 3); /* not _exit: a leak checker speaks now */
    }
    close(pipes[1]);
    size_t got = 0;
    while (got < sizeof *report) {
        ssize_t part = read(pipes[0], (char *)report + got, sizeof *report - got);
        if (part <= 0 && !(part < 0 && errno == EINTR)) {
            break;
        }
        got += part > 0 ? (size_t)part : 0;
    }
    close(pipes[0]);
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    bool is_fine = got == sizeof *report && WIFEXITED(status) && WEXITSTATUS(status) == 0;
    if (!is_fine) {
        remove_leftovers(child, seed);
    }
    return is_fine;
}

static void add(struct totals *totals, const struct world_report *report)
{
    totals->failed += report->violations > 0;
    totals->violations += report->violations;
    totals->undecided += report->undecided;
    totals->virtual_us += report->virtual_us;
    totals->steps += report->steps;
    for (int i = 0; i < FAULT_COUNT; i++) {
        totals->faults[i] += report->faults[i];
    }
    totals->calls += report->calls;
    totals->ok += report->ok;
    totals->refused += report->refused;
    totals->unknown += report->unknown;
    totals->nothing += report->nothing;
    totals->elections += report->elections;
    totals->images += report->images;
    totals->committed += report->committed;
    totals->boots += report->boots;
    totals->jobs_cut += report->jobs_cut;
    totals->sectors_lost += report->sectors_lost;
    totals->sectors_torn += report->sectors_torn;
    totals->names_lost += report->names_lost;
    if (report->recovery_us > totals->recovery_us_max) {
        totals->recovery_us_max = report->recovery_us;
    }
    if (report->writable_us > totals->writable_us_max) {
        totals->writable_us_max = report->writable_us;
    }
}

static void run_seed(const struct arguments *arguments, uint64_t seed, struct totals *totals)
{
    struct world_report report = { 0 }, again = { 0 };
    totals->runs++;
    if (!run_child(arguments, seed, &report)) {
        totals->crashed++;
        totals->violations++;
        printf("seed %lu: PANIC, crash or hang (see above)\n", seed);
        tell_replay(arguments, seed);
        return;
    }
    add(totals, &report);
    if (report.undecided > 0) {
        printf("seed %lu: %lu histories undecided\n", seed, report.undecided);
    }
    if (report.violations > 0) {
        printf("seed %lu: VIOLATION %s\n", seed, report.violation);
        tell_replay(arguments, seed);
    }
    if (arguments->is_twice && (!run_child(arguments, seed, &again) || again.hash != report.hash)) {
        totals->violations++;
        printf("seed %lu: VIOLATION not deterministic: trace hash %016lx, then %016lx\n", seed,
               report.hash, again.hash);
        tell_replay(arguments, seed);
    }
    if (arguments->has_seed || arguments->is_twice) {
        printf("seed %lu: hash %016lx, %u nodes, %lu steps, %.1f s simulated, %lu of %lu "
               "operations done, healed after %.1f s\n",
               seed, report.hash, report.nodes, report.steps, (double)report.virtual_us / 1e6,
               report.ok + report.refused, report.calls, (double)report.recovery_us / 1e6);
    }
}

static double seconds_since(const struct timespec *begin)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - begin->tv_sec) + (double)(now.tv_nsec - begin->tv_nsec) / 1e9;
}

static void tell_totals(const struct totals *totals)
{
    double seconds = seconds_since(&totals->begin), simulated = (double)totals->virtual_us / 1e6;
    printf("faults injected:");
    for (int i = 0; i < FAULT_COUNT; i++) {
        printf("%s %s %lu", i ? "," : "", world_fault_name((enum world_fault)i), totals->faults[i]);
    }
    printf("\ndisks: %lu jobs cut in the middle, %lu sectors lost, %lu torn, %lu directory "
           "operations lost\n",
           totals->jobs_cut, totals->sectors_lost, totals->sectors_torn, totals->names_lost);
    printf("cluster: %lu starts, %lu elections, %lu entries committed, images installed %lu, "
           "slowest recovery %.1f s, "
           "of that %.1f s after all nodes were up\n",
           totals->boots, totals->elections, totals->committed, totals->images,
           (double)totals->recovery_us_max / 1e6, (double)totals->writable_us_max / 1e6);
    printf("clients: %lu operations (%.0f per simulated second): %lu ok, %lu refused by condition, "
           "%lu unknown, %lu not applied; "
           "%lu histories undecided\n",
           totals->calls, simulated > 0 ? (double)totals->calls / simulated : 0, totals->ok,
           totals->refused, totals->unknown, totals->nothing, totals->undecided);
    printf("%lu seeds in %.1f s: %.2f seeds/s, %.0f simulated seconds per second, %.0f events/s\n",
           totals->runs, seconds, (double)totals->runs / seconds, simulated / seconds,
           (double)totals->steps / seconds);
    printf("violations: %lu\n", totals->violations);
}

static int usage(void)
{
    fprintf(stderr,
            "usage: sim [--seed N [--trace]] [--seeds N] [--seconds N] [--first N] [--twice]\n"
            "           [--trouble SECONDS] [--break-sync] [--expect-violation] | --self-test\n");
    return 2;
}

static bool parse_number(const char *text, uint64_t *out)
{
    char *end;
    errno = 0;
    *out = strtoull(text, &end, 10);
    return errno == 0 && *text >= '0' && *text <= '9' && *end == 0;
}

/* 0: run; 1: self test; -1: usage. */
static int parse(int argc, char **argv, struct arguments *arguments)
{
    static const struct option options[] = { { "seed", required_argument, NULL, 's' },
                                             { "seeds", required_argument, NULL, 'n' },
                                             { "seconds", required_argument, NULL, 't' },
                                             { "first", required_argument, NULL, 'f' },
                                             { "trouble", required_argument, NULL, 'd' },
                                             { "trace", no_argument, NULL, 'v' },
                                             { "twice", no_argument, NULL, 'w' },
                                             { "break-sync", no_argument, NULL, 'b' },
                                             { "expect-violation", no_argument, NULL, 'e' },
                                             { "self-test", no_argument, NULL, 'x' },
                                             { NULL, 0, NULL, 0 } };
    int option, status = 0;
    uint64_t number = 0;
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (optarg && !parse_number(optarg, &number)) {
            return -1;
        }
        switch (option) {
        case 's':
            arguments->first = number;
            arguments->has_seed = true;
            break;
        case 'n':
            arguments->seeds = number;
            break;
        case 't':
            arguments->seconds = number;
            break;
        case 'f':
            arguments->first = number;
            break;
        case 'd':
            arguments->world.fault_seconds = (uint32_t)number;
            break;
        case 'v':
            arguments->world.trace = true;
            break;
        case 'w':
            arguments->is_twice = true;
            break;
        case 'b':
            arguments->world.break_sync = true;
            break;
        case 'e':
            arguments->expects_violation = true;
            break;
        case 'x':
            status = 1;
            break;
        default:
            return -1;
        }
    }
    return optind == argc ? status : -1;
}

static bool goes_on(const struct arguments *arguments, const struct totals *totals)
{
    if (arguments->expects_violation && totals->violations > 0) {
        return false;
    }
    if (arguments->has_seed) {
        return totals->runs == 0;
    }
    if (arguments->seconds > 0 && seconds_since(&totals->begin) >= (double)arguments->seconds) {
        return false;
    }
    return arguments->seconds > 0 ? arguments->seeds == 0 || totals->runs < arguments->seeds
                                  : totals->runs < (arguments->seeds ? arguments->seeds : 100);
}

int main(int argc, char **argv)
{
    struct arguments arguments = { .first = (uint64_t)time(NULL) % 1000000 * 1000 };
    switch (parse(argc, argv, &arguments)) {
    case 0:
        break;
    case 1:
        return self_test();
    default:
        return usage();
    }
    signal(SIGABRT, on_abort);
    mallopt(M_TRIM_THRESHOLD, KEEP_BYTES); /* a run is short: what it gave back it asks for again */
    mallopt(M_MMAP_THRESHOLD, KEEP_BYTES);
    struct totals totals = { 0 };
    clock_gettime(CLOCK_MONOTONIC, &totals.begin);
    printf(arguments.has_seed ? "seed %lu\n" : "first seed %lu\n", arguments.first);
    while (goes_on(&arguments, &totals)) {
        run_seed(&arguments, arguments.first + totals.runs, &totals);
    }
    if (arguments.expects_violation && totals.violations > 0) {
        printf("found with %lu seeds\n", totals.runs);
    }
    tell_totals(&totals);
    return (totals.violations > 0) == arguments.expects_violation ? 0 : 1;
}
