/* The simulator's command: runs seeds, each in a process of its own, and sums up.
 *
 *   sim [--seed N [--trace]] [--seeds N] [--seconds N] [--first N] [--jobs N]
 *       [--cpu SECONDS] [--patience SECONDS] [--bias none|reigns|leaders|images|scans|disks|cutoff|logs]
 *       [--twice] [--trouble SECONDS] [--least SECONDS] [--damage] [--break-sync] [--expect-violation]
 *   sim --self-test
 *
 * --trouble: how long faults strike, virtual, in place of what is drawn; --least: no run is shorter, in
 * all. --seconds is elapsed time, --cpu processor time of all runs, --patience what one run may take of it.
 * --jobs: runs at a time, one a core by default. --twice runs every seed twice and compares the
 * trace hashes; without it the first of each hundred is. Exit 0: as expected; 1: violations (or
 * none where one was expected); 2: usage. */
#include <errno.h>
#include <getopt.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/check.h"
#include "base/mem.h"
#include "sim/report.h"
#include "sim/self_test.h"
#include "sim/world.h"

enum { RUN_SECONDS_MAX = 600, KEEP_BYTES = 1 << 28, HEAP_BYTES = 1 << 27, JOBS_MAX = 64 };

struct arguments {
    struct world_options world;
    uint64_t first, seeds, seconds, jobs;
    uint64_t cpu_seconds, patience_seconds; /* 0: unlimited; RUN_SECONDS_MAX */
    uint64_t twice_every; /* the n-th seed is run twice and its trace hashes compared; 0: none */
    bool has_seed, expects_violation;
};

/* A run in a process of its own; pid 0: free. */
struct job {
    pid_t pid;
    int fd; /* what it writes its report to */
    uint64_t seed;
    bool is_repeated, is_again;
    size_t got;
    double cpu_seconds; /* once it ended */
    struct world_report report;
    uint64_t hash; /* of the first of two runs */
};

struct fleet {
    const struct arguments *arguments;
    struct report report;
    struct job jobs[JOBS_MAX];
    uint64_t begun; /* seeds */
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
    const struct world_options *world = &arguments->world;
    char trouble[40] = "";
    if (world->fault_seconds) {
        snprintf(trouble, sizeof trouble, " --trouble %u", world->fault_seconds);
    }
    char least[40] = "";
    if (world->least_seconds) {
        snprintf(least, sizeof least, " --least %u", world->least_seconds);
    }
    char bias[40] = "";
    if (world->bias != BIAS_DRAWN) {
        snprintf(bias, sizeof bias, " --bias %s", world_bias_name(world->bias));
    }
    bool has_any = world->break_sync || world->damage || trouble[0] || least[0] || bias[0];
    snprintf(out, size, "%s%s%s%s%s%s%s", has_any ? " SIM_FLAGS='" : "",
             world->break_sync ? " --break-sync" : "", world->damage ? " --damage" : "", trouble,
             least, bias, has_any ? "'" : "");
    return out;
}

static void tell_replay(const struct arguments *arguments, uint64_t seed)
{
    char flags[160];
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
    uint64_t seconds = arguments->patience_seconds ? arguments->patience_seconds : RUN_SECONDS_MAX;
    setrlimit(RLIMIT_CPU, &(struct rlimit){ seconds, seconds });
    world_run(&options, report);
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

static void start_process(struct fleet *fleet, struct job *job)
{
    int pipes[2];
    CHECK(pipe(pipes) == 0);
    fflush(stdout);
    job->got = 0;
    job->pid = fork();
    CHECK(job->pid >= 0);
    if (job->pid == 0) {
        close(pipes[0]);
        run_here(fleet->arguments, job->seed, &job->report);
        bool sent =
            write(pipes[1], &job->report, sizeof job->report) == (ssize_t)sizeof job->report;
        close(pipes[1]);
        exit(sent ? 0 : 3); /* not _exit: a leak checker speaks now */
    }
    close(pipes[1]);
    job->fd = pipes[0];
}

static void start_job(struct fleet *fleet, struct job *job)
{
    const struct arguments *arguments = fleet->arguments;
    uint64_t number = fleet->begun++;
    *job = (struct job){ .seed = arguments->first + number };
    job->is_repeated = arguments->twice_every > 0 && number % arguments->twice_every == 0;
    fleet->report.runs++;
    start_process(fleet, job);
}

/* Waits for the process. False: the run ended without a report (a panic, a crash, a hang). */
static bool reap(struct job *job)
{
    int status = 0;
    struct rusage usage = { 0 };
    close(job->fd);
    while (wait4(job->pid, &status, 0, &usage) < 0 && errno == EINTR) {
    }
    job->cpu_seconds = report_seconds_of(&usage);
    bool is_fine = job->got == sizeof job->report && WIFEXITED(status) && WEXITSTATUS(status) == 0;
    if (!is_fine) {
        remove_leftovers(job->pid, job->seed);
    }
    job->pid = 0;
    return is_fine;
}

static void tell_run(const struct world_report *run, uint64_t seed)
{
    printf("seed %lu: hash %016lx, %u nodes, %lu steps, %.1f s simulated, %lu of %lu "
           "operations done, healed after %.1f s\n",
           seed, run->hash, run->nodes, run->steps, (double)run->virtual_us / 1e6,
           run->ok + run->refused, run->calls, (double)run->recovery_us / 1e6);
}

/* The second of two runs of a seed has ended. */
static void compare(struct fleet *fleet, const struct job *job)
{
    report_add_repeated(&fleet->report, &job->report);
    if (job->report.hash != job->hash) {
        fleet->report.violations++;
        printf("seed %lu: VIOLATION not deterministic: trace hash %016lx, then %016lx\n", job->seed,
               job->hash, job->report.hash);
        tell_replay(fleet->arguments, job->seed);
    }
}

static void end_job(struct fleet *fleet, struct job *job)
{
    if (!reap(job)) {
        fleet->report.crashed++;
        fleet->report.violations++;
        printf("seed %lu: PANIC, crash or hang (see above)\n", job->seed);
        tell_replay(fleet->arguments, job->seed);
        return;
    }
    if (job->is_again) {
        compare(fleet, job);
        return;
    }
    report_add(&fleet->report, &job->report, job->cpu_seconds);
    if (job->report.violations > 0) {
        printf("seed %lu: VIOLATION %s\n", job->seed, job->report.violation);
        tell_replay(fleet->arguments, job->seed);
    }
    if (fleet->arguments->has_seed || fleet->arguments->twice_every == 1) {
        tell_run(&job->report, job->seed);
    }
    if (job->is_repeated && job->report.violations == 0) {
        job->is_again = true;
        job->hash = job->report.hash;
        start_process(fleet, job);
    }
}

/* Reads what a run reports; at its end the process is reaped. */
static void hear_job(struct fleet *fleet, struct job *job)
{
    ssize_t part = read(job->fd, (char *)&job->report + job->got, sizeof job->report - job->got);
    if (part > 0) {
        job->got += (size_t)part;
    } else if (part == 0 || errno != EINTR) {
        end_job(fleet, job);
    }
}

/* Waits until at least one run has something to say. */
static void hear_jobs(struct fleet *fleet)
{
    struct pollfd polled[JOBS_MAX];
    struct job *jobs[JOBS_MAX];
    nfds_t count = 0;
    for (int i = 0; i < JOBS_MAX; i++) {
        if (fleet->jobs[i].pid != 0) {
            jobs[count] = &fleet->jobs[i];
            polled[count++] = (struct pollfd){ .fd = fleet->jobs[i].fd, .events = POLLIN };
        }
    }
    if (poll(polled, count, -1) < 0) {
        CHECK(errno == EINTR);
        return;
    }
    for (nfds_t i = 0; i < count; i++) {
        if (polled[i].revents) {
            hear_job(fleet, jobs[i]);
        }
    }
}

static bool goes_on(const struct fleet *fleet)
{
    const struct arguments *arguments = fleet->arguments;
    if (arguments->expects_violation && fleet->report.violations > 0) {
        return false;
    }
    if (arguments->seconds > 0 && report_seconds(&fleet->report) >= (double)arguments->seconds) {
        return false;
    }
    if (arguments->cpu_seconds > 0 && report_cpu_seconds() >= (double)arguments->cpu_seconds) {
        return false;
    }
    return arguments->seeds == 0 || fleet->begun < arguments->seeds;
}

/* Keeps `jobs` processes busy until all seeds have run. */
static void run_fleet(struct fleet *fleet)
{
    for (;;) {
        bool is_running = false;
        for (uint64_t i = 0; i < fleet->arguments->jobs; i++) {
            struct job *job = &fleet->jobs[i];
            if (job->pid == 0 && goes_on(fleet)) {
                start_job(fleet, job);
            }
            is_running |= job->pid != 0;
        }
        if (!is_running) {
            return;
        }
        hear_jobs(fleet);
    }
}

static int usage(void)
{
    fprintf(stderr,
            "usage: sim [--seed N [--trace]] [--seeds N] [--seconds N] [--first N] [--jobs N]\n"
            "           [--cpu SECONDS] [--patience SECONDS] [--bias "
            "none|reigns|leaders|images|scans|disks|cutoff|logs]\n"
            "           [--twice] [--trouble SECONDS] [--least SECONDS] [--damage] [--break-sync] "
            "[--expect-violation]\n"
            "       sim --self-test\n");
    return 2;
}

static bool parse_number(const char *text, uint64_t *out)
{
    char *end;
    errno = 0;
    *out = strtoull(text, &end, 10);
    return errno == 0 && *text >= '0' && *text <= '9' && *end == 0;
}

static bool parse_bias(const char *text, enum world_bias *out)
{
    for (*out = BIAS_NONE; *out < BIAS_COUNT; (*out)++) {
        if (strcmp(text, world_bias_name(*out)) == 0) {
            return true;
        }
    }
    return false;
}

/* 0: run; 1: self test; -1: usage. */
static int parse(int argc, char **argv, struct arguments *arguments)
{
    static const struct option options[] = { { "seed", required_argument, NULL, 's' },
                                             { "seeds", required_argument, NULL, 'n' },
                                             { "seconds", required_argument, NULL, 't' },
                                             { "cpu", required_argument, NULL, 'c' },
                                             { "patience", required_argument, NULL, 'p' },
                                             { "bias", required_argument, NULL, 'i' },
                                             { "first", required_argument, NULL, 'f' },
                                             { "trouble", required_argument, NULL, 'd' },
                                             { "least", required_argument, NULL, 'l' },
                                             { "jobs", required_argument, NULL, 'j' },
                                             { "trace", no_argument, NULL, 'v' },
                                             { "twice", no_argument, NULL, 'w' },
                                             { "damage", no_argument, NULL, 'm' },
                                             { "break-sync", no_argument, NULL, 'b' },
                                             { "expect-violation", no_argument, NULL, 'e' },
                                             { "self-test", no_argument, NULL, 'x' },
                                             { NULL, 0, NULL, 0 } };
    int option, status = 0;
    uint64_t number = 0;
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (optarg && option != 'i' && !parse_number(optarg, &number)) {
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
        case 'c':
            arguments->cpu_seconds = number;
            break;
        case 'p':
            arguments->patience_seconds = number;
            break;
        case 'i':
            if (!parse_bias(optarg, &arguments->world.bias)) {
                return -1;
            }
            break;
        case 'f':
            arguments->first = number;
            break;
        case 'd':
            arguments->world.fault_seconds = (uint32_t)number;
            break;
        case 'l':
            arguments->world.least_seconds = (uint32_t)number;
            break;
        case 'v':
            arguments->world.trace = true;
            break;
        case 'j':
            arguments->jobs = number;
            break;
        case 'w':
            arguments->twice_every = 1;
            break;
        case 'm':
            arguments->world.damage = true;
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

static void fill_in(struct arguments *arguments)
{
    if (arguments->has_seed) {
        arguments->seeds = arguments->jobs = 1;
        arguments->twice_every = arguments->twice_every == 1;
    } else if (arguments->seeds == 0 && arguments->seconds == 0 && arguments->cpu_seconds == 0) {
        arguments->seeds = 100;
    }
    if (arguments->jobs == 0) {
        long cores = sysconf(_SC_NPROCESSORS_ONLN);
        arguments->jobs = cores > 0 ? (uint64_t)cores : 1;
    }
    arguments->jobs = arguments->jobs > JOBS_MAX ? JOBS_MAX : arguments->jobs;
}

/* What a run gave back it asks for again, so nothing goes back to the system. Each event finds other
 * parts of the runs' 50 MB than the one before it, and a tenth of the time was spent on page tables:
 * all of the heap that a run is likely to need stands in one piece of huge pages, where the system
 * has them, untouched until the runs begin. */
static void prepare_heap(void)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), begin = (uintptr_t)sbrk(0) / page * page;
    mallopt(M_MMAP_THRESHOLD, HEAP_BYTES / 4); /* the most that it takes */
    mallopt(M_TRIM_THRESHOLD, KEEP_BYTES);
    mallopt(M_TOP_PAD, HEAP_BYTES);
    mem_free(mem_alloc(1 << 20)); /* the heap grows */
    mallopt(M_TOP_PAD, HEAP_BYTES / 16);
    madvise((void *)begin, (uintptr_t)sbrk(0) - begin, MADV_HUGEPAGE); /* fails if there are none */
}

int main(int argc, char **argv)
{
    struct arguments arguments = { .first = (uint64_t)time(NULL) % 1000000 * 1000,
                                   .world.bias = BIAS_DRAWN,
                                   .twice_every = 100 };
    switch (parse(argc, argv, &arguments)) {
    case 0:
        break;
    case 1:
        return self_test();
    default:
        return usage();
    }
    fill_in(&arguments);
    signal(SIGABRT, on_abort);
    prepare_heap();
    struct fleet *fleet = MEM_NEW(struct fleet);
    struct report *report = &fleet->report;
    fleet->arguments = &arguments;
    report_begin(report);
    printf(arguments.has_seed ? "seed %lu\n" : "first seed %lu\n", arguments.first);
    run_fleet(fleet);
    if (arguments.expects_violation && report->violations > 0) {
        printf("found with %lu seeds\n", report->runs);
    }
    report_print(report);
    bool is_as_expected = (report->violations > 0) == arguments.expects_violation;
    mem_free(fleet);
    return is_as_expected ? 0 : 1;
}
