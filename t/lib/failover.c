/* Measures one failover: kills a node and tells how long its partitions had no primary.
 *
 *   failover ENDPOINTS NODE PID KEYS
 *
 * 1  Finds those of KEYS keys (thousands: many a partition) whose primary is NODE.
 * 2  Writes to some of them for a while, so that the node dies at work.
 * 3  Sends SIGKILL to PID, and right after it one put for each of those keys. The time from the
 * signal to the acknowledgement of the last of them is the time that the slowest partition was
 * without a primary, as a client with open connections sees it.
 *
 * Prints "keys N first_ms A last_ms B retries R" and exits 0; 1 when the node leads none of the
 * keys or a put is not acknowledged in a minute. The test owns the process: this program only
 * signals it. */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "client/cairn.h"

enum { TIMEOUT_MS = 60000, LOAD_MS = 150, LOAD_PUTS = 8, IN_FLIGHT_MAX = 1000 };

struct probe {
    struct cairn *cairn;
    char (*keys)[32];
    long key_count, submitted, answered, failed;
    long load_left; /* puts of the load that are not answered */
    double load_end, killed_at, first, last;
};

static double now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1000 + (double)now.tv_nsec / 1e6;
}

static void put(struct probe *probe, const char *key, cairn_done done)
{
    struct cairn_request request = {
        .verb = CAIRN_PUT, .key = key, .key_size = strlen(key), .value = "x", .value_size = 1
    };
    int status = cairn_submit(probe->cairn, &request, done, probe, NULL);
    if (status != 0) {
        fprintf(stderr, "submit: %s\n", cairn_error(status)->name);
        exit(1);
    }
}

static void load_done(void *arg, struct cairn_result *result)
{
    struct probe *probe = arg;
    probe->load_left--;
    if (now_ms() < probe->load_end) {
        probe->load_left++;
        put(probe, probe->keys[(size_t)rand() % (size_t)probe->key_count], load_done);
    }
}

static void probe_submit_next(struct probe *probe);

static void probe_done(void *arg, struct cairn_result *result)
{
    struct probe *probe = arg;
    probe->last = now_ms() - probe->killed_at;
    probe->first = probe->answered++ == 0 ? probe->last : probe->first;
    if (result->status != 0) {
        fprintf(stderr, "put: %s\n", cairn_error(result->status)->name);
        probe->failed++;
    }
    probe_submit_next(probe);
}

static void probe_submit_next(struct probe *probe)
{
    if (probe->submitted < probe->key_count) {
        put(probe, probe->keys[probe->submitted++], probe_done);
    }
}

static void turn(struct probe *probe)
{
    struct pollfd poll_fd = { cairn_fd(probe->cairn), POLLIN, 0 };
    poll(&poll_fd, 1, cairn_timeout_ms(probe->cairn));
    cairn_step(probe->cairn);
}

static void find_keys(struct probe *probe, const char *node, long count)
{
    probe->keys = calloc((size_t)count, sizeof *probe->keys);
    for (long i = 0; i < count; i++) {
        char *key = probe->keys[probe->key_count];
        int size = snprintf(key, sizeof probe->keys[0], "failover/%ld", i);
        probe->key_count += strcmp(cairn_locate(probe->cairn, key, (size_t)size), node) == 0;
    }
}

int main(int argc, char **argv)
{
    if (argc != 5) {
        fprintf(stderr, "usage: failover ENDPOINTS NODE PID KEYS\n");
        return 2;
    }
    struct cairn_options options = { .endpoints = argv[1],
                                     .program = "failover",
                                     .timeout_ms = TIMEOUT_MS };
    struct probe probe = { 0 };
    char text[256];
    if (cairn_open(&options, &probe.cairn, text) != 0) {
        fprintf(stderr, "%s\n", text);
        return 1;
    }
    find_keys(&probe, argv[2], atol(argv[4]));
    if (probe.key_count < LOAD_PUTS) {
        fprintf(stderr, "%s leads only %ld of the keys\n", argv[2], probe.key_count);
        return 1;
    }
    probe.load_end = now_ms() + LOAD_MS;
    for (probe.load_left = 0; probe.load_left < LOAD_PUTS; probe.load_left++) {
        put(&probe, probe.keys[probe.load_left], load_done);
    }
    while (now_ms() < probe.load_end) {
        turn(&probe);
    }
    probe.killed_at = now_ms();
    if (kill((pid_t)atol(argv[3]), SIGKILL) != 0) {
        perror("kill");
        return 1;
    }
    for (long i = 0; i < IN_FLIGHT_MAX - LOAD_PUTS; i++) {
        probe_submit_next(&probe);
    }
    while (probe.answered < probe.key_count || probe.load_left > 0) {
        turn(&probe);
    }
    struct cairn_stats stats;
    cairn_stats(probe.cairn, &stats);
    printf("keys %ld first_ms %.0f last_ms %.0f retries %lu\n", probe.key_count, probe.first,
           probe.last, (unsigned long)stats.retries);
    cairn_close(probe.cairn);
    free(probe.keys);
    return probe.failed != 0;
}
