/* A writer for tests of faults: writes keys with many requests in flight through cairn.h and prints a line for every answer, so that
 * a test knows exactly what was acknowledged.
 *
 *   writer ENDPOINTS PREFIX COUNT CONCURRENCY [TIMEOUT_MS]
 *
 * Key number i is PREFIX%08d, its value "value of KEY". Prints "ok KEY VERSION" for an acknowledged write, "unknown KEY" for one
 * whose outcome is not known, "failed KEY ERR_NAME" for one that was not applied; at the end "gap MS" with the longest time
 * between two acknowledgements. Exit 0 when every key was answered. */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "client/cairn.h"

struct slot {
    struct writer *writer;
    char key[256], value[300];
};

struct writer {
    struct cairn *cairn;
    const char *prefix;
    long next, count, answered;
    double last_ok, gap;
};

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void submit_next(struct slot *slot);

static void on_done(void *arg, struct cairn_result *result)
{
    struct slot *slot = arg;
    struct writer *writer = slot->writer;
    writer->answered++;
    if (result->status == 0) {
        double now = now_s();
        writer->gap = now - writer->last_ok > writer->gap ? now - writer->last_ok : writer->gap;
        writer->last_ok = now;
        printf("ok %s %lu\n", slot->key, (unsigned long)result->meta.version);
    } else if (result->status == CAIRN_UNKNOWN_OUTCOME) {
        printf("unknown %s\n", slot->key);
    } else {
        printf("failed %s %s\n", slot->key, cairn_error(result->status)->name);
    }
    submit_next(slot);
}

static void submit_next(struct slot *slot)
{
    struct writer *writer = slot->writer;
    if (writer->next == writer->count) {
        return;
    }
    snprintf(slot->key, sizeof slot->key, "%s%08ld", writer->prefix, writer->next++);
    snprintf(slot->value, sizeof slot->value, "value of %s", slot->key);
    struct cairn_request request = {
        .verb = CAIRN_PUT,
        .key = slot->key,
        .key_size = strlen(slot->key),
        .value = slot->value,
        .value_size = strlen(slot->value),
    };
    int status = cairn_submit(writer->cairn, &request, on_done, slot, NULL);
    if (status != 0) {
        fprintf(stderr, "submit: %s\n", cairn_error(status)->name);
        exit(1);
    }
}

int main(int argc, char **argv)
{
    if (argc < 5) {
        fprintf(stderr, "usage: writer ENDPOINTS PREFIX COUNT CONCURRENCY [TIMEOUT_MS]\n");
        return 2;
    }
    struct cairn_options options = {
        .endpoints = argv[1], .program = "writer", .timeout_ms = argc > 5 ? (uint32_t)atoi(argv[5]) : 10000
    };
    struct writer writer = { .prefix = argv[2], .count = atol(argv[3]), .last_ok = now_s() };
    long concurrency = atol(argv[4]);
    char text[256];
    if (cairn_open(&options, &writer.cairn, text) != 0) {
        fprintf(stderr, "%s\n", text);
        return 1;
    }
    struct slot *slots = calloc((size_t)concurrency, sizeof *slots);
    for (long i = 0; i < concurrency; i++) {
        slots[i].writer = &writer;
        submit_next(&slots[i]);
    }
    while (writer.answered < writer.count) {
        struct pollfd poll_fd = { cairn_fd(writer.cairn), POLLIN, 0 };
        poll(&poll_fd, 1, cairn_timeout_ms(writer.cairn));
        cairn_step(writer.cairn);
    }
    printf("gap %.0f\n", writer.gap * 1000);
    cairn_close(writer.cairn);
    free(slots);
    return 0;
}
