/* The log on the production env and a real folder: 64 writers append entries of 300 bytes, each its
 * next one as soon as its last is durable, through several segments; then the log is opened again
 * and must hold them all. Prints appends/s (a figure, not a bound). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "env/env_uv.h"
#include "raft/log.h"

enum { WRITERS = 64, ENTRY_BYTES = 300 };

struct bench {
    struct env *env;
    struct log *log;
    uint64_t next[WRITERS + 1], durable[WRITERS + 1];
    uint64_t total, wanted;
    struct env_timer deadline;
    bool is_late;
};

static void on_line(void *ctx, enum logger_level level, const char *line)
{
    if (level <= LOGGER_WARN) {
        print_error("%s\n", line);
    }
}

static void bench_append(struct bench *bench, uint32_t group)
{
    struct blob *payload = blob_new(ENTRY_BYTES);
    uint64_t term = 1, index = ++bench->next[group];
    memset(payload->data, (int)(group + index), ENTRY_BYTES);
    log_append(bench->log, group, index, &term, &payload, 1);
    blob_unref(payload);
}

static void on_durable(void *ctx, uint32_t group, uint64_t index, uint64_t term)
{
    struct bench *bench = ctx;
    bench->total += index - bench->durable[group];
    bench->durable[group] = index;
    if (bench->total < bench->wanted) {
        bench_append(bench, group);
    }
}

static void on_batch(void *ctx)
{
    struct bench *bench = ctx;
    if (bench->total >= bench->wanted && !log_is_busy(bench->log)) {
        env_uv_stop(bench->env);
    }
}

static void on_failure(void *ctx, const struct err *err)
{
    struct bench *bench = ctx;
    print_error("%s\n", err->text);
    bench->is_late = true;
    env_uv_stop(bench->env);
}

static void on_deadline(struct env_timer *timer)
{
    struct bench *bench = container_of(timer, struct bench, deadline);
    bench->is_late = true;
    env_uv_stop(bench->env);
}

static void bench_open(struct bench *bench, const char *directory)
{
    static struct logger logger = { .level = LOGGER_INFO, .write = on_line };
    struct log_config config = { .env = bench->env,
                                 .logger = &logger,
                                 .directory = directory,
                                 .node_id = 1,
                                 .segment_bytes = 4 << 20,
                                 .on_durable = on_durable,
                                 .on_batch = on_batch,
                                 .on_failure = on_failure,
                                 .ctx = bench };
    struct err err;
    int rc = log_open(&config, &bench->log, &err);
    if (rc < 0) {
        print_error("%s\n", err.text);
    }
    assert_int_equal(rc, 0);
}

static void env_open(struct bench *bench)
{
    struct err err;
    assert_int_equal(env_uv_new(&bench->env, &err), 0);
    bench->deadline = (struct env_timer){ .fire = on_deadline };
    env_timer_start(bench->env, &bench->deadline, 60000000);
}

/* Ends log and env; the loop turns until the log's jobs are done. */
static void stop_soon(struct env_timer *timer)
{
    struct bench *bench = container_of(timer, struct bench, deadline);
    env_uv_stop(bench->env);
}

static void bench_close(struct bench *bench)
{
    log_close(bench->log);
    env_timer_stop(bench->env, &bench->deadline);
    bench->deadline.fire = stop_soon;
    env_timer_start(bench->env, &bench->deadline, 300000);
    env_uv_run(bench->env);
    env_uv_free(bench->env);
}

static void check_group(struct bench *bench, const struct log_group_start *start)
{
    uint64_t index = start->raft.log_start;
    assert_int_equal(start->raft.last_index, bench->durable[start->group]);
    while (index <= start->raft.last_index) {
        struct blob *payloads[512];
        uint32_t count;
        struct err err;
        assert_int_equal(
            log_read_now(bench->log, start->group, index, 512, 1 << 20, payloads, &count, &err), 0);
        for (uint32_t i = 0; i < count; i++, index++) {
            assert_int_equal(payloads[i]->size, ENTRY_BYTES);
            assert_int_equal(payloads[i]->data[ENTRY_BYTES - 1], (uint8_t)(start->group + index));
            blob_unref(payloads[i]);
        }
    }
}

static void test_many_writers(void **state)
{
    const char *wanted = getenv("LOG_APPENDS"), *folder = getenv("LOG_FOLDER");
    struct bench *bench = calloc(1, sizeof *bench);
    char directory[] = "/tmp/cairn-log-XXXXXX", command[128];
    assert_non_null(mkdtemp(directory));
    if (folder) {
        rmdir(directory);
    }
    const char *where = folder ? folder : directory;
    bench->wanted = wanted ? strtoull(wanted, NULL, 10) : 50000;
    env_open(bench);
    bench_open(bench, where);
    for (uint32_t group = 1; group <= WRITERS; group++) {
        log_group_add(bench->log, group, group, 1, 0);
        bench_append(bench, group);
    }
    uint64_t begun = env_now_us(bench->env);
    env_uv_run(bench->env);
    uint64_t took = env_now_us(bench->env) - begun;
    assert_false(bench->is_late);
    const struct log_stats *stats = log_stats(bench->log);
    print_message("# %llu appends in %llu ms: %llu/s, %llu batches, %llu us a write and sync, "
                  "longest %llu us\n",
                  (unsigned long long)bench->total, (unsigned long long)took / 1000,
                  (unsigned long long)(bench->total * 1000000 / took),
                  (unsigned long long)stats->batches,
                  (unsigned long long)(stats->syncs_us_total / stats->batches),
                  (unsigned long long)stats->sync_us_max);
    bench_close(bench);
    env_open(bench);
    bench_open(bench, where);
    assert_int_equal(log_group_count(bench->log), WRITERS);
    for (size_t i = 0; i < WRITERS; i++) {
        check_group(bench, log_group_at(bench->log, i));
    }
    bench_close(bench);
    if (folder) {
        free(bench);
        return; /* kept for looking at it */
    }
    snprintf(command, sizeof command, "rm -r %s", where);
    assert_int_equal(system(command), 0);
    free(bench);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_many_writers) };
    return cmocka_run_group_tests_name("log_uv", tests, NULL, NULL);
}
