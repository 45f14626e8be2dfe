/* `cairn bench`: load from many clients, driven event-driven by one or more threads.
 *
 * Closed loop: every client keeps --pipeline requests in flight; latency counts from sending. Open
 * loop (--rate): requests have intended starts at even distances, whether or not the cluster keeps
 * up; one that finds no free client waits in line, and its latency counts from the intended start.
 * So a stall shows in the percentiles as long as it lasted (no coordinated omission).
 *
 * Every thread owns its handles, which share one descriptor, its clients, random state and histograms;
 * nothing is shared between threads until they are joined. What is answered during the warm-up is not counted. */
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "tools/ctl.h"
#include "tools/histogram.h"

enum {
    CLIENTS_MAX = 100000,
    HANDLES_MAX = 10000,
    THREADS_MAX = 64,
    PIPELINE_MAX = 1024,
    ERRORS_MAX = 128, /* codes are below that */
    PRELOAD_BATCH = 2000,
    KEY_DIGITS = 12, /* as many as the largest --keys takes */
};

enum distribution { UNIFORM, ZIPFIAN, SEQUENTIAL, LATEST };

struct bench_options {
    uint64_t clients, handles, threads, pipeline, rate, duration_ms, warmup_ms, keys, value_size,
        seed;
    double read_share;
    enum distribution distribution;
    const char *prefix;
    bool must_preload;
};

/* Zipf's distribution over [0, n) by Gray and others, "Quickly generating billion-record synthetic
 * databases" (1994). */
struct zipf {
    uint64_t n;
    double theta, alpha, zetan, eta;
};

struct worker;

/* One request in flight. */
struct slot {
    struct worker *worker;
    struct cairn *cairn;
    uint64_t start_ns; /* intended */
    bool is_read;
    struct slot *next_free;
};

struct worker {
    const struct bench_options *options;
    struct ctl *ctl;
    pthread_t thread;
    size_t index;
    struct cairn **handles;
    size_t handle_count;
    struct slot *slots, *free;
    size_t slot_count, in_flight;
    uint64_t random, sequence, writes;
    struct zipf zipf;
    uint8_t *value;
    uint64_t begin_ns, measure_ns, end_ns;
    double interval_ns, next_ns; /* open loop */
    struct histogram reads, updates;
    uint64_t bytes, not_found, errors[ERRORS_MAX];
    int status;
    char text[256];
};

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static double next_share(uint64_t *state)
{
    return (double)(next_random(state) >> 11) / (double)(1ull << 53);
}

/* --- Keys */

static void zipf_init(struct zipf *zipf, uint64_t n)
{
    zipf->n = n;
    zipf->theta = 0.99;
    double zeta2 = 1 + pow(0.5, zipf->theta);
    for (uint64_t i = 1; i <= n; i++) {
        zipf->zetan += pow(1.0 / (double)i, zipf->theta);
    }
    zipf->alpha = 1 / (1 - zipf->theta);
    zipf->eta = (1 - pow(2.0 / (double)n, 1 - zipf->theta)) / (1 - zeta2 / zipf->zetan);
}

static uint64_t zipf_next(const struct zipf *zipf, uint64_t *random)
{
    double u = next_share(random), uz = u * zipf->zetan;
    if (uz < 1) {
        return 0;
    }
    if (uz < 1 + pow(0.5, zipf->theta)) {
        return 1 % zipf->n;
    }
    uint64_t rank = (uint64_t)((double)zipf->n * pow(zipf->eta * u - zipf->eta + 1, zipf->alpha));
    return rank < zipf->n ? rank : zipf->n - 1;
}

static uint64_t choose_key(struct worker *worker, bool is_read)
{
    const struct bench_options *options = worker->options;
    switch (options->distribution) {
    case SEQUENTIAL: /* each thread its own stride */
        return (worker->index + worker->sequence++ * options->threads) % options->keys;
    case ZIPFIAN: { /* spread, so that the hot keys are not neighbours */
        uint64_t rank = zipf_next(&worker->zipf, &worker->random);
        return next_random(&rank) % options->keys;
    }
    case LATEST: { /* writes go up; reads prefer what was written last */
        uint64_t newest = worker->index + worker->writes * options->threads;
        if (!is_read) {
            worker->writes++;
            return newest % options->keys;
        }
        uint64_t back = zipf_next(&worker->zipf, &worker->random) * options->threads;
        return (newest + options->keys - back % options->keys) % options->keys;
    }
    default:
        return next_random(&worker->random) % options->keys;
    }
}

static size_t format_key(const struct bench_options *options, uint64_t number,
                         char out[CAIRN_KEY_BYTES_MAX + 1])
{
    size_t size = strlen(options->prefix);
    memcpy(out, options->prefix, size);
    for (size_t at = size + KEY_DIGITS; at > size; number /= 10) {
        out[--at] = (char)('0' + number % 10);
    }
    out[size + KEY_DIGITS] = '\0';
    return size + KEY_DIGITS;
}

/* --- Requests */

static void on_done(void *arg, struct cairn_result *result);

static void slot_submit(struct slot *slot, uint64_t start_ns)
{
    struct worker *worker = slot->worker;
    const struct bench_options *options = worker->options;
    char key[CAIRN_KEY_BYTES_MAX + 1];
    slot->start_ns = start_ns;
    slot->is_read = options->read_share > 0 && next_share(&worker->random) < options->read_share;
    struct cairn_request request = { .verb = slot->is_read ? CAIRN_GET : CAIRN_PUT, .key = key };
    request.key_size = format_key(options, choose_key(worker, slot->is_read), key);
    if (!slot->is_read) {
        uint64_t stamp = next_random(&worker->random); /* no two values are equal */
        memcpy(worker->value, &stamp,
               options->value_size < sizeof stamp ? options->value_size : sizeof stamp);
        request.value = worker->value;
        request.value_size = options->value_size;
    }
    ctl_apply_consistency(worker->ctl, &request);
    worker->in_flight++;
    int status = cairn_submit(slot->cairn, &request, on_done, slot, NULL);
    if (status) {
        worker->in_flight--;
        worker->status = status;
    }
}

static void count_result(struct worker *worker, const struct slot *slot,
                         const struct cairn_result *result, uint64_t now)
{
    if (now < worker->measure_ns || now >= worker->end_ns) {
        return;
    }
    bool is_good = result->status == 0 || result->status == CAIRN_NOT_FOUND;
    if (!is_good) {
        worker->errors[-result->status % ERRORS_MAX]++;
        return;
    }
    worker->not_found += result->status == CAIRN_NOT_FOUND;
    worker->bytes += slot->is_read ? result->value_size : worker->options->value_size;
    histogram_add(slot->is_read ? &worker->reads : &worker->updates, now - slot->start_ns);
}

static void on_done(void *arg, struct cairn_result *result)
{
    struct slot *slot = arg;
    struct worker *worker = slot->worker;
    uint64_t now = now_ns();
    worker->in_flight--;
    count_result(worker, slot, result, now);
    if (now >= worker->end_ns || worker->status) {
        return;
    }
    if (worker->interval_ns == 0) {
        slot_submit(slot, now);
    } else if (worker->next_ns <= (double)now) { /* one is waiting in line */
        uint64_t intended = (uint64_t)worker->next_ns;
        worker->next_ns += worker->interval_ns;
        slot_submit(slot, intended);
    } else {
        slot->next_free = worker->free;
        worker->free = slot;
    }
}

/* Open loop: starts what is due on free clients. */
static void start_due(struct worker *worker, uint64_t now)
{
    while (worker->interval_ns > 0 && worker->free && worker->next_ns <= (double)now &&
           now < worker->end_ns) {
        struct slot *slot = worker->free;
        worker->free = slot->next_free;
        uint64_t intended = (uint64_t)worker->next_ns;
        worker->next_ns += worker->interval_ns;
        slot_submit(slot, intended);
    }
}

/* How long to wait for answers at most: until the next intended start, and 100 ms. */
static uint64_t wait_us(const struct worker *worker, uint64_t now)
{
    double left = 1e8;
    if (worker->interval_ns > 0 && worker->free && now < worker->end_ns) {
        left = worker->next_ns - (double)now;
    }
    return left < 0 ? 0 : left > 1e8 ? 100000 : (uint64_t)left / 1000;
}

static void run_load(struct worker *worker)
{
    uint64_t now = now_ns();
    for (size_t i = 0; i < worker->slot_count; i++) {
        struct slot *slot = &worker->slots[i];
        if (worker->interval_ns == 0) {
            slot_submit(slot, now);
        } else {
            slot->next_free = worker->free;
            worker->free = slot;
        }
    }
    while ((now = now_ns()) < worker->end_ns || worker->in_flight) {
        start_due(worker, now);
        cairn_run(worker->handles[0], wait_us(worker, now));
    }
}

static void *worker_main(void *arg)
{
    run_load(arg);
    return NULL;
}

/* --- Set up */

static int worker_open(struct worker *worker, const struct bench_options *options, struct ctl *ctl,
                       size_t index)
{
    worker->options = options;
    worker->ctl = ctl;
    worker->index = index;
    worker->random = options->seed * 1000003 + index;
    size_t clients =
        options->clients / options->threads + (index < options->clients % options->threads);
    worker->handle_count =
        options->handles / options->threads + (index < options->handles % options->threads);
    worker->slot_count = clients * options->pipeline;
    worker->slots = calloc(worker->slot_count, sizeof *worker->slots);
    worker->handles = calloc(worker->handle_count, sizeof *worker->handles);
    worker->value = malloc(options->value_size + 8);
    if (!worker->slots || !worker->handles || !worker->value) {
        snprintf(worker->text, sizeof worker->text, "no memory for the clients");
        return -3;
    }
    for (size_t i = 0; i < options->value_size; i++) {
        worker->value[i] = (uint8_t)next_random(&worker->random);
    }
    if (options->distribution == ZIPFIAN || options->distribution == LATEST) {
        zipf_init(&worker->zipf, options->keys);
    }
    struct cairn_options handle = { .endpoints = ctl->endpoints,
                                    .program = "cairn-bench",
                                    .timeout_ms = ctl->timeout_ms };
    for (size_t i = 0; i < worker->handle_count; i++) {
        int status = cairn_open(&handle, &worker->handles[i], worker->text);
        if (status) {
            return status;
        }
        handle.beside = worker->handles[0];
    }
    for (size_t i = 0; i < worker->slot_count; i++) {
        worker->slots[i].worker = worker;
        worker->slots[i].cairn = worker->handles[i % worker->handle_count];
    }
    return 0;
}

static void worker_close(struct worker *worker)
{
    for (size_t i = 0; worker->handles && i < worker->handle_count; i++) {
        if (worker->handles[i]) {
            cairn_close(worker->handles[i]);
        }
    }
    free(worker->slots);
    free(worker->handles);
    free(worker->value);
}

/* Stores every key; before the clock starts. */
static int preload(struct ctl *ctl, const struct bench_options *options)
{
    struct cairn_request *requests = calloc(PRELOAD_BATCH, sizeof *requests);
    struct cairn_result *results = calloc(PRELOAD_BATCH, sizeof *results);
    char(*keys)[CAIRN_KEY_BYTES_MAX + 1] = calloc(PRELOAD_BATCH, sizeof *keys);
    uint8_t *value = calloc(1, options->value_size + 1);
    if (!requests || !results || !keys || !value) {
        return ctl_fail(-3, "out of memory");
    }
    uint64_t random = options->seed;
    for (size_t i = 0; i < options->value_size; i++) {
        value[i] = (uint8_t)next_random(&random);
    }
    int status = 0;
    for (uint64_t at = 0; at < options->keys && status == 0;) {
        size_t count = 0;
        for (; count < PRELOAD_BATCH && at < options->keys; count++, at++) {
            requests[count] =
                (struct cairn_request){ .verb = CAIRN_PUT,
                                        .key = keys[count],
                                        .key_size = format_key(options, at, keys[count]),
                                        .value = value,
                                        .value_size = options->value_size };
        }
        status = cairn_call_many(ctl_open(ctl), requests, count, results);
    }
    free(requests);
    free(results);
    free(keys);
    free(value);
    return status ? ctl_fail_last(ctl, status) : 0;
}

/* --- Options */

static bool option_u64(struct ctl *ctl, const char *name, uint64_t least, uint64_t most,
                       uint64_t *value)
{
    const char *text = ctl_option(ctl, name);
    char what[40];
    snprintf(what, sizeof what, "--%s", name);
    if (!text) {
        return true;
    }
    if (!ctl_parse_u64(what, text, value)) {
        return false;
    }
    if (*value < least || *value > most) {
        ctl_usage("%s must be between %llu and %llu", what, (unsigned long long)least,
                  (unsigned long long)most);
        return false;
    }
    return true;
}

static bool option_distribution(struct ctl *ctl, enum distribution *out)
{
    static const char *const names[] = { [UNIFORM] = "uniform",
                                         [ZIPFIAN] = "zipfian",
                                         [SEQUENTIAL] = "sequential",
                                         [LATEST] = "latest" };
    const char *text = ctl_option(ctl, "distribution");
    for (int i = UNIFORM; text && i <= LATEST; i++) {
        if (strcmp(text, names[i]) == 0) {
            *out = (enum distribution)i;
            return true;
        }
    }
    if (text) {
        ctl_usage("--distribution: \"%s\" is none of uniform, zipfian, sequential, latest", text);
    }
    return !text;
}

static bool option_share(struct ctl *ctl, double *out)
{
    const char *text = ctl_option(ctl, "read-share");
    char *end;
    if (!text) {
        return true;
    }
    *out = strtod(text, &end);
    if (*end || end == text || !(*out >= 0 && *out <= 1)) {
        ctl_usage("--read-share: \"%s\" is not a number from 0 to 1", text);
        return false;
    }
    return true;
}

static bool option_duration(struct ctl *ctl, const char *name, uint64_t *out)
{
    const char *text = ctl_option(ctl, name);
    char what[40];
    snprintf(what, sizeof what, "--%s", name);
    return !text || ctl_parse_duration_ms(what, text, out);
}

static bool read_options(struct ctl *ctl, struct bench_options *options)
{
    *options = (struct bench_options){ .clients = 64,
                                       .threads = 1,
                                       .pipeline = 1,
                                       .duration_ms = 10000,
                                       .warmup_ms = 1000,
                                       .keys = 100000,
                                       .value_size = 256,
                                       .seed = 1 };
    options->prefix = ctl_option(ctl, "prefix") ? ctl_option(ctl, "prefix") : "bench/";
    options->must_preload = ctl_flag(ctl, "preload");
    bool is_good = option_u64(ctl, "clients", 1, CLIENTS_MAX, &options->clients) &&
                   option_u64(ctl, "handles", 1, HANDLES_MAX, &options->handles) &&
                   option_u64(ctl, "threads", 1, THREADS_MAX, &options->threads) &&
                   option_u64(ctl, "pipeline", 1, PIPELINE_MAX, &options->pipeline) &&
                   option_u64(ctl, "rate", 1, 100000000, &options->rate) &&
                   option_u64(ctl, "keys", 1, 1000000000000u, &options->keys) &&
                   option_u64(ctl, "value-size", 0, CAIRN_VALUE_BYTES_MAX, &options->value_size) &&
                   option_u64(ctl, "seed", 0, UINT64_MAX, &options->seed) &&
                   option_share(ctl, &options->read_share) &&
                   option_duration(ctl, "duration", &options->duration_ms) &&
                   option_duration(ctl, "warmup", &options->warmup_ms) &&
                   option_distribution(ctl, &options->distribution);
    if (!is_good) {
        return false;
    }
    if (!options->handles) {
        options->handles = options->clients < HANDLES_MAX ? options->clients : HANDLES_MAX;
    }
    options->handles = options->handles < options->clients ? options->handles : options->clients;
    if (options->threads > options->handles) {
        ctl_usage("--threads must not exceed --clients and --handles");
        return false;
    }
    if (strlen(options->prefix) + KEY_DIGITS > CAIRN_KEY_BYTES_MAX) {
        ctl_usage("--prefix is too long");
        return false;
    }
    return true;
}

/* --- The report */

static json_t *report_latency(const struct histogram *histogram)
{
    static const struct {
        const char *name;
        double share;
    } rows[] = { { "p50", 0.5 }, { "p90", 0.9 }, { "p99", 0.99 }, { "p999", 0.999 } };
    json_t *object = json_object();
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        json_object_set_new(object, rows[i].name,
                            json_real((double)histogram_quantile(histogram, rows[i].share) / 1000));
    }
    json_object_set_new(object, "max", json_real((double)histogram->max / 1000));
    json_object_set_new(
        object, "mean",
        json_real(histogram->count ? histogram->sum / (double)histogram->count / 1000 : 0));
    return object;
}

static json_t *report_errors(const uint64_t *errors)
{
    json_t *object = json_object();
    for (int i = 1; i < ERRORS_MAX; i++) {
        if (errors[i]) {
            json_object_set_new(object, cairn_error(-i)->name, json_integer((json_int_t)errors[i]));
        }
    }
    return object;
}

static double cpu_seconds(const struct timeval *time)
{
    return (double)time->tv_sec + (double)time->tv_usec / 1e6;
}

static void report_options(json_t *object, const struct bench_options *options)
{
    static const char *const names[] = { "uniform", "zipfian", "sequential", "latest" };
    json_object_set_new(object, "mode", json_string(options->rate ? "open" : "closed"));
    json_object_set_new(object, "clients", json_integer((json_int_t)options->clients));
    json_object_set_new(object, "handles", json_integer((json_int_t)options->handles));
    json_object_set_new(object, "threads", json_integer((json_int_t)options->threads));
    json_object_set_new(object, "pipeline", json_integer((json_int_t)options->pipeline));
    json_object_set_new(object, "rate", json_integer((json_int_t)options->rate));
    json_object_set_new(object, "keys", json_integer((json_int_t)options->keys));
    json_object_set_new(object, "distribution", json_string(names[options->distribution]));
    json_object_set_new(object, "value_size", json_integer((json_int_t)options->value_size));
    json_object_set_new(object, "read_share", json_real(options->read_share));
}

static void report(const struct bench_options *options, struct worker *workers,
                   const struct rusage *before)
{
    struct worker *sum = &workers[0];
    struct cairn_stats stats = { 0 };
    for (size_t i = 0; i < options->threads; i++) {
        for (size_t j = 0; j < workers[i].handle_count; j++) {
            struct cairn_stats one;
            cairn_stats(workers[i].handles[j], &one);
            stats.retries += one.retries;
            stats.redirects += one.redirects;
            stats.reconnects += one.reconnects;
            stats.frames_sent += one.frames_sent;
        }
        if (i) {
            histogram_merge(&sum->reads, &workers[i].reads);
            histogram_merge(&sum->updates, &workers[i].updates);
            sum->bytes += workers[i].bytes;
            sum->not_found += workers[i].not_found;
            for (int j = 0; j < ERRORS_MAX; j++) {
                sum->errors[j] += workers[i].errors[j];
            }
        }
    }
    struct rusage after;
    getrusage(RUSAGE_SELF, &after);
    double seconds = (double)options->duration_ms / 1000;
    uint64_t reads = sum->reads.count, updates = sum->updates.count;
    json_t *object = json_object();
    report_options(object, options);
    json_object_set_new(object, "duration_s", json_real(seconds));
    json_object_set_new(object, "ops", json_integer((json_int_t)(reads + updates)));
    json_object_set_new(object, "ops_per_s", json_real((double)(reads + updates) / seconds));
    json_object_set_new(object, "puts", json_integer((json_int_t)updates));
    json_object_set_new(object, "gets", json_integer((json_int_t)reads));
    json_object_set_new(object, "not_found", json_integer((json_int_t)sum->not_found));
    json_object_set_new(object, "errors", report_errors(sum->errors));
    json_object_set_new(object, "bytes_per_s", json_real((double)sum->bytes / seconds));
    if (updates) {
        json_object_set_new(object, "put_latency_us", report_latency(&sum->updates));
    }
    if (reads) {
        json_object_set_new(object, "get_latency_us", report_latency(&sum->reads));
    }
    histogram_merge(&sum->updates, &sum->reads);
    json_object_set_new(object, "latency_us", report_latency(&sum->updates));
    json_object_set_new(object, "retries", json_integer((json_int_t)stats.retries));
    json_object_set_new(object, "redirects", json_integer((json_int_t)stats.redirects));
    json_object_set_new(object, "reconnects", json_integer((json_int_t)stats.reconnects));
    json_object_set_new(object, "bench_cpu_user_s",
                        json_real(cpu_seconds(&after.ru_utime) - cpu_seconds(&before->ru_utime)));
    json_object_set_new(object, "bench_cpu_system_s",
                        json_real(cpu_seconds(&after.ru_stime) - cpu_seconds(&before->ru_stime)));
    json_dumpf(object, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
    putchar('\n');
    json_decref(object);
}

static int run_workers(const struct bench_options *options, struct worker *workers)
{
    uint64_t begin = now_ns();
    for (size_t i = 0; i < options->threads; i++) {
        struct worker *worker = &workers[i];
        worker->begin_ns = begin;
        worker->measure_ns = begin + options->warmup_ms * 1000000;
        worker->end_ns = worker->measure_ns + options->duration_ms * 1000000;
        worker->interval_ns =
            options->rate ? 1e9 / (double)options->rate * (double)options->threads : 0;
        worker->next_ns =
            (double)begin + worker->interval_ns * (double)i / (double)options->threads;
    }
    size_t started = 1;
    while (started < options->threads &&
           pthread_create(&workers[started].thread, NULL, worker_main, &workers[started]) == 0) {
        started++;
    }
    run_load(&workers[0]);
    for (size_t i = 1; i < started; i++) {
        pthread_join(workers[i].thread, NULL);
    }
    return started == options->threads
               ? 0
               : ctl_fail(-1, "threads could not be started: %s", strerror(errno));
}

int ctl_bench(struct ctl *ctl)
{
    struct bench_options options;
    if (!read_options(ctl, &options)) {
        return CTL_USAGE_EXIT;
    }
    /* Fails early, with a word, when there is no cluster. */
    struct cairn_request probe = { .verb = CAIRN_GET_META,
                                   .key = options.prefix[0] ? options.prefix : "-" };
    probe.key_size = strlen(probe.key);
    struct cairn_result result;
    int status = cairn_call(ctl_open(ctl), &probe, &result);
    if (status && status != CAIRN_NOT_FOUND) {
        return ctl_fail_last(ctl, status);
    }
    int exit_code = options.must_preload ? preload(ctl, &options) : 0;
    struct worker *workers = calloc(options.threads, sizeof *workers);
    if (!workers) {
        return ctl_fail(-3, "out of memory");
    }
    for (size_t i = 0; i < options.threads && exit_code == 0; i++) {
        status = worker_open(&workers[i], &options, ctl, i);
        exit_code = status ? ctl_fail(status, "%s", workers[i].text) : 0;
    }
    struct rusage before;
    getrusage(RUSAGE_SELF, &before);
    if (exit_code == 0) {
        exit_code = run_workers(&options, workers);
    }
    if (exit_code == 0 && workers[0].status) {
        exit_code = ctl_fail(workers[0].status, "%s", cairn_error(workers[0].status)->text);
    }
    if (exit_code == 0) {
        report(&options, workers, &before);
    }
    for (size_t i = 0; i < options.threads; i++) {
        worker_close(&workers[i]);
    }
    free(workers);
    return exit_code;
}
