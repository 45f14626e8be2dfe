/* floor: what this machine can do at all, so that a figure can be held against it. Prints one line of JSON.
 *
 *   floor DIR [SECONDS]
 *
 * fdatasync_us: writing 4 KiB over blocks written before, then fdatasync; alone and with three writers on three files. loopback_us: a round
 * trip of 64 bytes between two threads over TCP. lmdb_*: CPU µs of a put of 256 bytes under a random one of a million keys, without sync,
 * in transactions of 1,000 and 10,000, and of a get. */
#include <errno.h>
#include <fcntl.h>
#include <lmdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common.h"
#include "tools/histogram.h"

enum { FILE_BYTES = 32 << 20, BLOCK = 4096, PING_BYTES = 64, PINGS = 20000, KEYS = 1000000, VALUE = 256 };

static double seconds_wanted = 2;

static void die(const char *what)
{
    fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* --- The disk */

struct writer {
    pthread_t thread;
    char path[4096];
    struct histogram histogram;
};

static void *write_main(void *ctx)
{
    struct writer *writer = ctx;
    static uint8_t zeroes[1 << 20];
    uint8_t block[BLOCK];
    memset(block, 7, sizeof block);
    int fd = open(writer->path, O_RDWR | O_CREAT, 0600);
    if (fd < 0) {
        die(writer->path);
    }
    for (off_t at = 0; at < FILE_BYTES; at += (off_t)sizeof zeroes) {
        if (pwrite(fd, zeroes, sizeof zeroes, at) != (ssize_t)sizeof zeroes) {
            die("write");
        }
    }
    fdatasync(fd);
    uint64_t end = clock_ns(CLOCK_MONOTONIC) + (uint64_t)(seconds_wanted * 1e9);
    for (off_t at = 0;; at = (at + BLOCK) % FILE_BYTES) {
        uint64_t begin = clock_ns(CLOCK_MONOTONIC);
        if (begin > end) {
            break;
        }
        if (pwrite(fd, block, BLOCK, at) != BLOCK || fdatasync(fd) != 0) {
            die("sync");
        }
        histogram_add(&writer->histogram, (clock_ns(CLOCK_MONOTONIC) - begin) / 1000);
    }
    close(fd);
    unlink(writer->path);
    return NULL;
}

static uint64_t sync_us(const char *directory, int writers)
{
    struct writer *all = calloc((size_t)writers, sizeof *all);
    for (int i = 0; i < writers; i++) {
        snprintf(all[i].path, sizeof all[i].path, "%s/floor.%d", directory, i);
        pthread_create(&all[i].thread, NULL, write_main, &all[i]);
    }
    for (int i = 0; i < writers; i++) {
        pthread_join(all[i].thread, NULL);
        if (i > 0) {
            histogram_merge(&all[0].histogram, &all[i].histogram);
        }
    }
    uint64_t us = histogram_quantile(&all[0].histogram, 0.5);
    free(all);
    return us;
}

/* --- Loopback */

static void whole(int fd, uint8_t *data, int is_write)
{
    for (size_t done = 0; done < PING_BYTES;) {
        ssize_t moved = is_write ? write(fd, data + done, PING_BYTES - done) : read(fd, data + done, PING_BYTES - done);
        if (moved <= 0) {
            die("loopback");
        }
        done += (size_t)moved;
    }
}

static void *echo_main(void *ctx)
{
    uint8_t data[PING_BYTES];
    int listener = *(int *)ctx, on = 1, fd = accept(listener, NULL, NULL);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    for (int i = 0; i < PINGS; i++) {
        whole(fd, data, 0);
        whole(fd, data, 1);
    }
    close(fd);
    return NULL;
}

static double loopback_us(void)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t size = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0), fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    if (bind(listener, (struct sockaddr *)&address, size) != 0 || listen(listener, 1) != 0 ||
        getsockname(listener, (struct sockaddr *)&address, &size) != 0) {
        die("listen");
    }
    pthread_t thread;
    pthread_create(&thread, NULL, echo_main, &listener);
    if (connect(fd, (struct sockaddr *)&address, size) != 0) {
        die("connect");
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct histogram histogram = { 0 };
    uint8_t data[PING_BYTES] = { 0 };
    for (int i = 0; i < PINGS; i++) {
        uint64_t begin = clock_ns(CLOCK_MONOTONIC);
        whole(fd, data, 1);
        whole(fd, data, 0);
        histogram_add(&histogram, clock_ns(CLOCK_MONOTONIC) - begin);
    }
    pthread_join(thread, NULL);
    close(fd);
    close(listener);
    return (double)histogram_quantile(&histogram, 0.5) / 1000;
}

/* --- LMDB */

static void lmdb_check(int rc)
{
    if (rc != 0) {
        fprintf(stderr, "floor: lmdb: %s\n", mdb_strerror(rc));
        exit(1);
    }
}

static int compare_keys(const void *a, const void *b)
{
    return memcmp(a, b, 16);
}

/* One transaction of `batch` sorted puts, as Cairn's flush does them. */
static void lmdb_batch(MDB_env *env, MDB_dbi dbi, char (*keys)[16], size_t batch)
{
    static uint8_t value[VALUE];
    MDB_txn *txn;
    MDB_cursor *cursor;
    qsort(keys, batch, 16, compare_keys);
    lmdb_check(mdb_txn_begin(env, NULL, 0, &txn));
    lmdb_check(mdb_cursor_open(txn, dbi, &cursor));
    for (size_t i = 0; i < batch; i++) {
        MDB_val key = { 16, keys[i] }, data = { VALUE, NULL };
        lmdb_check(mdb_cursor_put(cursor, &key, &data, MDB_RESERVE));
        memcpy(data.mv_data, value, VALUE);
    }
    mdb_cursor_close(cursor);
    lmdb_check(mdb_txn_commit(txn));
}

static double lmdb_put_us(MDB_env *env, MDB_dbi dbi, size_t batch, uint64_t *random)
{
    char (*keys)[16] = calloc(batch, 16);
    uint64_t spent = 0, puts = 0, end = clock_ns(CLOCK_MONOTONIC) + (uint64_t)(seconds_wanted * 1e9);
    while (clock_ns(CLOCK_MONOTONIC) < end) {
        for (size_t i = 0; i < batch; i++) {
            char text[24];
            snprintf(text, sizeof text, "bench/%010u", (unsigned)(next_random(random) % KEYS));
            memcpy(keys[i], text, 16);
        }
        uint64_t begin = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
        lmdb_batch(env, dbi, keys, batch);
        spent += clock_ns(CLOCK_PROCESS_CPUTIME_ID) - begin;
        puts += batch;
    }
    free(keys);
    return (double)spent / (double)puts / 1000;
}

static double lmdb_get_us(MDB_env *env, MDB_dbi dbi, uint64_t *random)
{
    enum { GETS = 500000 };
    MDB_txn *txn;
    lmdb_check(mdb_txn_begin(env, NULL, MDB_RDONLY, &txn));
    uint64_t begin = clock_ns(CLOCK_PROCESS_CPUTIME_ID), sum = 0;
    for (int i = 0; i < GETS; i++) {
        char text[24];
        snprintf(text, sizeof text, "bench/%010u", (unsigned)(next_random(random) % KEYS));
        MDB_val key = { 16, text }, data;
        lmdb_check(mdb_get(txn, dbi, &key, &data));
        sum += *(uint8_t *)data.mv_data;
    }
    double us = (double)(clock_ns(CLOCK_PROCESS_CPUTIME_ID) - begin) / GETS / 1000 + (double)(sum & 0);
    mdb_txn_abort(txn);
    return us;
}

static void lmdb_floor(const char *directory, double out[3])
{
    char path[4096], file[4200];
    snprintf(path, sizeof path, "%s/floor.lmdb", directory);
    mkdir(path, 0700);
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi dbi;
    lmdb_check(mdb_env_create(&env));
    lmdb_check(mdb_env_set_mapsize(env, 8ull << 30));
    lmdb_check(mdb_env_open(env, path, MDB_NOSYNC, 0600));
    lmdb_check(mdb_txn_begin(env, NULL, 0, &txn));
    lmdb_check(mdb_dbi_open(txn, NULL, 0, &dbi));
    lmdb_check(mdb_txn_commit(txn));
    char (*keys)[16] = calloc(100000, 16);
    for (unsigned first = 0; first < KEYS; first += 100000) {
        for (unsigned i = 0; i < 100000; i++) {
            char text[24];
            snprintf(text, sizeof text, "bench/%010u", first + i);
            memcpy(keys[i], text, 16);
        }
        lmdb_batch(env, dbi, keys, 100000);
    }
    free(keys);
    uint64_t random = 1;
    out[0] = lmdb_put_us(env, dbi, 1000, &random);
    out[1] = lmdb_put_us(env, dbi, 10000, &random);
    out[2] = lmdb_get_us(env, dbi, &random);
    mdb_env_close(env);
    const char *names[] = { "data.mdb", "lock.mdb" };
    for (int i = 0; i < 2; i++) {
        snprintf(file, sizeof file, "%s/%s", path, names[i]);
        unlink(file);
    }
    rmdir(path);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: floor DIR [SECONDS]\n");
        return 2;
    }
    if (argc > 2) {
        seconds_wanted = strtod(argv[2], NULL);
    }
    double lmdb[3];
    uint64_t alone = sync_us(argv[1], 1), three = sync_us(argv[1], 3);
    double loopback = loopback_us();
    lmdb_floor(argv[1], lmdb);
    printf("{\"fdatasync_us\":%llu,\"fdatasync_three_us\":%llu,\"loopback_us\":%.1f,\"lmdb_put_1k_us\":%.2f,\"lmdb_put_10k_us\":%.2f,"
           "\"lmdb_get_us\":%.2f}\n",
           (unsigned long long)alone, (unsigned long long)three, loopback, lmdb[0], lmdb[1], lmdb[2]);
    return 0;
}
