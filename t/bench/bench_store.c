/* What applying, flushing and reading cost: 256-byte values over KEYS random keys in PARTITIONS
 * replicas, on a real folder with full syncs. Not a test. After `make`:
 *
 *   gcc -D_GNU_SOURCE -O2 -Isrc -It/unit/store t/bench/bench_store.c build/lib/libstore.a
 *   build/lib/libbase.a -llmdb -lxxhash \
 *       -o /tmp/bench_store && /tmp/bench_store DIRECTORY [KEYS 1000000] [PARTITIONS 128] [BATCH
 *       400000] [ROUNDS 5]
 *
 * Prints µs per operation. CPU time of apply and flush are measured apart: the job runs on this
 * thread. */
#include <time.h>

#include "base/hash.h"
#include "base/hlc.h"
#include "store/store.h"

#include "fake_env.h"

enum { REPLICAS_MAX = 4096, VALUE_BYTES = 256, TURN = 256, SESSIONS = 64 };

struct bench {
    struct fake_env env;
    struct store *store;
    struct store_replica *replicas[REPLICAS_MAX];
    uint64_t keys, partitions, batch, time, random;
};

static double seconds(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static struct span make_key(char *room, uint64_t number)
{
    return span_of(room, (size_t)snprintf(room, 32, "user/%012llu", (unsigned long long)number));
}

static struct store_replica *owner(struct bench *bench, struct span key)
{
    return bench->replicas[hash_key(1, key) % bench->partitions];
}

struct entry {
    struct store_replica *replica;
    struct blob *blob;
};

/* Packs the entries of a turn: they reach apply warm, as they do when the log has just had them in
 * its hands. */
static void make_entries(struct bench *bench, struct entry *entries, bool is_loading,
                         uint64_t first, uint64_t count)
{
    static uint8_t value[VALUE_BYTES];
    for (uint64_t i = 0; i < count; i++) {
        char room[32];
        uint64_t order = first + i,
                 number = is_loading ? order : hash_u64(++bench->random) % bench->keys;
        put_u64(value, number);
        struct command command = { .type = COMMAND_PUT,
                                   .time = ++bench->time,
                                   .session = { 1, order % SESSIONS },
                                   .number = order / SESSIONS + 1,
                                   .lowest = order / SESSIONS,
                                   .key = make_key(room, number),
                                   .value = span_of(value, sizeof value) };
        entries[i] = (struct entry){ owner(bench, command.key), command_pack(&command) };
    }
}

static double apply_turn(struct bench *bench, const struct entry *entries, uint64_t count)
{
    double begin = seconds(CLOCK_PROCESS_CPUTIME_ID);
    for (uint64_t i = 0; i < count; i++) {
        struct store_result result;
        struct store_replica *replica = entries[i].replica;
        CHECK(store_apply(replica, store_replica_applied(replica) + 1, entries[i].blob, &result,
                          NULL) == 0);
        CHECK(result.status == 0);
        blob_unref(entries[i].blob);
    }
    store_turn_end(bench->store);
    return seconds(CLOCK_PROCESS_CPUTIME_ID) - begin;
}

static double apply_all(struct bench *bench, bool is_loading, uint64_t first, uint64_t count)
{
    double sum = 0;
    for (uint64_t done = 0; done < count; done += TURN) {
        struct entry entries[TURN];
        uint64_t size = count - done < TURN ? count - done : TURN;
        make_entries(bench, entries, is_loading, first + done, size);
        sum += apply_turn(bench, entries, size);
    }
    return sum;
}

static void flush_all(struct bench *bench, double *cpu, double *wall, double *release)
{
    double begin_wall = seconds(CLOCK_MONOTONIC), begin_cpu = seconds(CLOCK_PROCESS_CPUTIME_ID);
    store_freeze(bench->store);
    store_flush_start(bench->store);
    CHECK(fake_env_work(&bench->env));
    *cpu = seconds(CLOCK_PROCESS_CPUTIME_ID) - begin_cpu;
    *wall = seconds(CLOCK_MONOTONIC) - begin_wall;
    begin_cpu = seconds(CLOCK_PROCESS_CPUTIME_ID);
    CHECK(fake_env_finish(&bench->env));
    store_turn_end(bench->store);
    for (int i = 0; i < 1000; i++) {
        fake_env_pass(&bench->env, 10);
    }
    *release = seconds(CLOCK_PROCESS_CPUTIME_ID) - begin_cpu;
}

static double get_all(struct bench *bench, uint64_t count)
{
    double begin = seconds(CLOCK_PROCESS_CPUTIME_ID);
    for (uint64_t i = 0; i < count; i++) {
        char room[32];
        struct span key = make_key(room, hash_u64(++bench->random) % bench->keys);
        struct record record;
        CHECK(store_get(owner(bench, key), key, &record, NULL) == 0);
        if (i % TURN == TURN - 1) {
            store_turn_end(bench->store);
        }
    }
    store_turn_end(bench->store);
    return seconds(CLOCK_PROCESS_CPUTIME_ID) - begin;
}

static double scan_all(struct bench *bench, uint64_t *count)
{
    double begin = seconds(CLOCK_PROCESS_CPUTIME_ID);
    *count = 0;
    for (uint64_t i = 0; i < bench->partitions; i++) {
        struct store_cursor *cursor;
        struct span key;
        struct record record;
        CHECK(store_cursor_open(bench->replicas[i], span_of(NULL, 0), span_of(NULL, 0), false,
                                &cursor, NULL) == 0);
        while (store_cursor_next(cursor, &key, &record, NULL) == 1) {
            (*count)++;
        }
        store_cursor_close(cursor);
    }
    store_turn_end(bench->store);
    return seconds(CLOCK_PROCESS_CPUTIME_ID) - begin;
}

static void round_of(struct bench *bench, const char *name, bool is_loading, uint64_t first,
                     uint64_t count)
{
    double apply = apply_all(bench, is_loading, first, count), cpu, wall, release;
    uint64_t bytes = store_active_bytes(bench->store);
    flush_all(bench, &cpu, &wall, &release);
    printf("%-7s %7llu ops: apply %.2f us/op, overlay %llu bytes/op, flush cpu %.2f wall %.2f "
           "us/op, release %.2f us/op\n",
           name, (unsigned long long)count, apply * 1e6 / (double)count,
           (unsigned long long)(bytes / count), cpu * 1e6 / (double)count,
           wall * 1e6 / (double)count, release * 1e6 / (double)count);
}

static uint64_t argument(int argc, char **argv, int index, uint64_t otherwise)
{
    return argc > index ? strtoull(argv[index], NULL, 10) : otherwise;
}

static void stop(void *ctx, const struct err *err)
{
    (void)ctx;
    fprintf(stderr, "flush failed: %s\n", err->text);
    exit(1);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: bench_store DIRECTORY [KEYS] [PARTITIONS] [BATCH] [ROUNDS]\n");
        return 2;
    }
    static struct bench bench;
    bench.keys = argument(argc, argv, 2, 1000000);
    bench.partitions = argument(argc, argv, 3, 128);
    bench.batch = argument(argc, argv, 4, 400000);
    CHECK(bench.partitions <= REPLICAS_MAX);
    bench.time = hlc_from_us(1700000000000000);
    fake_env_init(&bench.env);
    struct logger logger = { .level = LOGGER_WARN, .write = fake_log };
    struct store_config config = { .env = &bench.env.env,
                                   .logger = &logger,
                                   .directory = argv[1],
                                   .overlay_bytes_max = 4ull << 30,
                                   .on_failure = stop };
    struct err err = { 0 };
    if (store_open(&config, &bench.store, &err) != 0) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    for (uint64_t i = 0; i < bench.partitions; i++) {
        CHECK(store_replica_open(bench.store, (uint32_t)i + 1, 1, 1, 0, 0, &bench.replicas[i],
                                 &err) == 0);
        uint64_t time = store_replica_time(bench.replicas[i]);
        bench.time = time > bench.time ? time : bench.time;
    }
    for (uint64_t first = 0; first < bench.keys; first += bench.batch) {
        uint64_t left = bench.keys - first;
        round_of(&bench, "load", true, first, left < bench.batch ? left : bench.batch);
    }
    for (uint64_t i = 0, rounds = argument(argc, argv, 5, 5); i < rounds; i++) {
        round_of(&bench, "update", false, bench.keys + i * bench.batch, bench.batch);
    }
    uint64_t count;
    double get = get_all(&bench, 1000000), scan = scan_all(&bench, &count);
    printf("get %.2f us, scan %.3f us per entry (%llu), used %llu MB\n", get,
           scan * 1e6 / (double)count, (unsigned long long)count,
           (unsigned long long)(store_stats(bench.store)->used_bytes >> 20));
    store_close(bench.store);
    return 0;
}
