/* Tests of the simulator itself: what finds bugs in others must not have these. TAP on stdout. */
#include "sim/self_test.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"
#include "sim/env_sim.h"
#include "sim/linear.h"
#include "sim/memory_test.h"

struct tally {
    int count, failed;
};

static void ok(struct tally *tally, bool passed, const char *name)
{
    tally->count++;
    tally->failed += !passed;
    printf("%sok %d - %s\n", passed ? "" : "not ", tally->count, name);
}

/* --- Schedule */

struct noted {
    struct schedule_event event;
    uint64_t at, order;
};

static void nothing(struct schedule_event *event)
{
}

static void test_schedule(struct tally *tally)
{
    enum { COUNT = 2000 };
    struct schedule schedule;
    struct random random = random_stream(1, 1);
    struct noted *events = mem_zalloc(COUNT * sizeof *events);
    schedule_init(&schedule, 1);
    for (uint64_t i = 0; i < COUNT; i++) {
        events[i].event.run = nothing;
        events[i].at = random_below(&random, 100);
        events[i].order = i;
        schedule_add(&schedule, &events[i].event, events[i].at);
    }
    for (uint64_t i = 0; i < COUNT; i += 3) {
        schedule_remove(&schedule, &events[i].event);
    }
    bool ordered = true;
    uint64_t last_at = 0, last_order = 0, seen = 0;
    struct schedule_event *event;
    while ((event = schedule_next(&schedule, 1000)) != NULL) {
        struct noted *noted = container_of(event, struct noted, event);
        uint64_t at = noted->at ? noted->at : 1;
        ordered = ordered && noted->order % 3 != 0 &&
                  (at > last_at || (at == last_at && noted->order > last_order));
        last_at = at;
        last_order = noted->order;
        seen++;
    }
    ok(tally, ordered && seen == COUNT - (COUNT + 2) / 3,
       "schedule: events come by time, then by the order of asking; removed ones do not");
    ok(tally, schedule.now_us == 1000, "schedule: time moves on to the limit");
    schedule_fini(&schedule);
    mem_free(events);
}

/* --- Disk */

static void fill(struct disk *disk, const char *path, char byte, size_t size, bool sync)
{
    struct env_file *file;
    char *data = mem_alloc(size);
    memset(data, byte, size);
    if (disk_file_open(disk, path, ENV_FILE_WRITE | ENV_FILE_CREATE, &file, NULL) == 0) {
        disk_file_write(file, 0, data, size, NULL);
        if (sync) {
            disk_file_sync(file, NULL);
        }
        disk_file_close(file);
    }
    mem_free(data);
}

/* Counts sectors that are all `byte`; -1: the file is not there. */
static int count_sectors(struct disk *disk, const char *path, char byte)
{
    struct env_file *file;
    if (disk_file_open(disk, path, ENV_FILE_READ, &file, NULL) != 0) {
        return -1;
    }
    uint64_t size = 0;
    disk_file_size(file, &size, NULL);
    int found = 0;
    for (uint64_t at = 0; at + 512 <= size; at += 512) {
        char sector[512];
        size_t got = 0;
        disk_file_read(file, at, sector, 512, &got, NULL);
        bool same = got == 512;
        for (size_t i = 0; i < 512; i++) {
            same = same && sector[i] == byte;
        }
        found += same;
    }
    disk_file_close(file);
    return found;
}

static void test_disk_durability(struct tally *tally)
{
    enum { SECTORS = 100 };
    int kept_synced = 0, lost = 0, kept = 0, mixed = 0, crash_kept = 0, name_lost = 0;
    for (uint64_t seed = 0; seed < 60; seed++) {
        struct disk *disk = disk_new(seed, 1 << 30);
        disk_prepare(disk, "/d");
        fill(disk, "/d/a", 'o', SECTORS * 512, true);
        disk_dir_sync(disk, "/d", NULL);
        fill(disk, "/d/a", 'n', SECTORS * 512, false);
        disk_process_ended(disk);
        crash_kept += count_sectors(disk, "/d/a", 'n') == SECTORS;
        fill(disk, "/d/unsynced", 'x', 512, true);
        disk_power_loss(disk, false);
        int new = count_sectors(disk, "/d/a", 'n'), old = count_sectors(disk, "/d/a", 'o');
        kept_synced += new + old == SECTORS;
        lost += old == SECTORS;
        kept += new == SECTORS;
        mixed += new > 0 && old > 0;
        name_lost += count_sectors(disk, "/d/unsynced", 'x') == -1;
        disk_free(disk);
    }
    ok(tally, crash_kept == 60, "disk: a crash of the process keeps the page cache");
    ok(tally, kept_synced == 60, "disk: after a power loss each sector holds the old or the new");
    ok(tally, lost > 0 && kept > 0 && mixed > 0,
       "disk: unsynced sectors are all lost, all kept, or some of each");
    ok(tally, name_lost > 10 && name_lost < 60, "disk: a name that was not synced may be gone");
}

static void test_disk_synced(struct tally *tally)
{
    int kept = 0, torn = 0, lied = 0;
    for (uint64_t seed = 0; seed < 60; seed++) {
        struct disk *disk = disk_new(seed, 1 << 30);
        disk_prepare(disk, "/d");
        fill(disk, "/d/a", 'o', 40000, true);
        disk_dir_sync(disk, "/d", NULL);
        fill(disk, "/d/a", 'n', 40000 / 512 * 512, true);
        fill(disk, "/d/a", 'm', 512, false);
        disk_power_loss(disk, true);
        torn +=
            count_sectors(disk, "/d/a", 'n') + count_sectors(disk, "/d/a", 'm') == 40000 / 512 - 1;
        kept += count_sectors(disk, "/d/a", 'n') >= 40000 / 512 - 1;
        disk_faults(disk)->lies = true;
        fill(disk, "/d/a", 'l', 40000, true);
        disk_power_loss(disk, false);
        lied += count_sectors(disk, "/d/a", 'l') < 40000 / 512;
        disk_free(disk);
    }
    ok(tally, kept == 60, "disk: what was synced survives a power loss");
    ok(tally, torn == 60, "disk: the sector written last is torn");
    ok(tally, lied > 20, "disk: with --break-sync a synced write is lost");
}

static void test_disk_rename(struct tally *tally)
{
    int old = 0, new = 0, other = 0;
    for (uint64_t seed = 0; seed < 60; seed++) {
        struct disk *disk = disk_new(seed, 1 << 30);
        disk_prepare(disk, "/d");
        fill(disk, "/d/a", 'o', 512, true);
        disk_dir_sync(disk, "/d", NULL);
        fill(disk, "/d/a.new", 'n', 512, true);
        disk_rename(disk, "/d/a.new", "/d/a", NULL);
        disk_power_loss(disk, false);
        bool is_old = count_sectors(disk, "/d/a", 'o') == 1,
             is_new = count_sectors(disk, "/d/a", 'n') == 1;
        old += is_old;
        new += is_new;
        other += !is_old && !is_new;
        disk_free(disk);
    }
    ok(tally, old > 0 && new > 0 && other == 0,
       "disk: a rename happened or not, and never loses both");
}

static void test_disk_faults(struct tally *tally)
{
    struct disk *disk = disk_new(7, 4096);
    struct env_file *file;
    char bytes[1024] = { 'a' };
    disk_prepare(disk, "/d");
    disk_file_open(disk, "/d/a", ENV_FILE_WRITE | ENV_FILE_CREATE, &file, NULL);
    disk_faults(disk)->fail_write_in = 2;
    bool fine = disk_file_write(file, 0, bytes, 1024, NULL) == 0;
    fine = fine && disk_file_write(file, 0, bytes, 1024, NULL) == ERR_IO;
    fine = fine && disk_file_write(file, 0, bytes, 1024, NULL) == 0;
    ok(tally, fine, "disk: the n-th write fails, once");
    ok(tally,
       disk_file_resize(file, 8192, NULL) == ERR_DISK_FULL &&
           disk_file_resize(file, 4096, NULL) == 0,
       "disk: it has a size");
    ok(tally,
       disk_room(disk) == 0 && disk_file_write(file, 4096, bytes, 1, NULL) == ERR_DISK_FULL &&
           disk_file_write(file, 0, bytes, 1024, NULL) == 0,
       "disk: a full one refuses new room and takes overwrites");
    struct env_file *other;
    disk_file_resize(file, 3072, NULL);
    disk_file_open(disk, "/d/b", ENV_FILE_WRITE | ENV_FILE_CREATE, &other, NULL);
    fine = disk_file_write(other, 0, bytes, 1024, NULL) == 0 && disk_room(disk) == 0;
    disk_remove(disk, "/d/b", NULL);
    fine = fine && disk_room(disk) == 0;
    disk_file_close(other);
    ok(tally, fine && disk_room(disk) == 1024,
       "disk: a file that is cut off makes room, a removed one when nobody has it open");
    disk_faults(disk)->die_in = 2;
    fine = disk_file_sync(file, NULL) == 0 && disk_file_write(file, 0, bytes, 1024, NULL) == ERR_IO;
    fine = fine && disk_file_sync(file, NULL) == ERR_IO;
    ok(tally, fine, "disk: a dying process does nothing after its last call");
    disk_process_ended(disk);
    disk_file_close(file);
    ok(tally, disk_dir_lock(disk, "/d", NULL) == 0 && disk_dir_lock(disk, "/d", NULL) == ERR_BUSY,
       "disk: a directory is locked once");
    disk_process_ended(disk);
    ok(tally, disk_dir_lock(disk, "/d", NULL) == 0, "disk: the lock ends with the process");
    disk_free(disk);
}

/* After a failed sync, a later good sync must not save what the failed one dropped. */
static void test_disk_failed_sync(struct tally *tally)
{
    int lost = 0;
    for (uint64_t seed = 0; seed < 40; seed++) {
        struct disk *disk = disk_new(seed, 1 << 30);
        struct env_file *file;
        char bytes[8 * 512];
        memset(bytes, 'n', sizeof bytes);
        disk_prepare(disk, "/d");
        fill(disk, "/d/a", 'o', sizeof bytes, true);
        disk_dir_sync(disk, "/d", NULL);
        disk_file_open(disk, "/d/a", ENV_FILE_WRITE, &file, NULL);
        disk_file_write(file, 0, bytes, sizeof bytes, NULL);
        disk_faults(disk)->fail_sync_in = 1;
        disk_file_sync(file, NULL);
        disk_file_sync(file, NULL);
        disk_file_close(file);
        disk_power_loss(disk, false);
        lost += count_sectors(disk, "/d/a", 'o') > 0;
        disk_free(disk);
    }
    ok(tally, lost > 20, "disk: a sync after a failed sync proves nothing");
}

/* What a failed sync did save of a new file is what a later, lost write falls back to. */
static void test_disk_half_sync(struct tally *tally)
{
    int saved = 0, whole = 0;
    for (uint64_t seed = 0; seed < 40; seed++) {
        struct disk *disk = disk_new(seed, 1 << 30);
        disk_prepare(disk, "/d");
        fill(disk, "/d/a", 0, 8 * 512, true);
        disk_dir_sync(disk, "/d", NULL);
        disk_faults(disk)->fail_sync_in = 1;
        fill(disk, "/d/a", 'n', 8 * 512, true);
        fill(disk, "/d/a", 'm', 8 * 512, false);
        disk_power_loss(disk, false);
        int zero = count_sectors(disk, "/d/a", 0), of_first = count_sectors(disk, "/d/a", 'n');
        int of_second = count_sectors(disk, "/d/a", 'm');
        saved += of_first > 0;
        whole += zero + of_first + of_second == 8;
        disk_free(disk);
    }
    ok(tally, saved > 10 && whole == 40,
       "disk: what a failed sync saved lies under what comes later");
}

/* --- Network and env: an echo over a bad network */

enum { ECHO_BYTES = 200000 };

struct echo {
    struct schedule schedule;
    struct network network;
    struct env_sim *server, *client;
    struct env_conn *conn, *accepted;
    struct env_listener *listener;
    struct buf sent, received, back, writing;
    int opens, closes, server_closes, status;
    bool is_writing;
    struct env_timer timer;
    struct env_task task;
    struct env_job jobs[5];
    char order[64];
};

static void note(struct echo *echo, char what)
{
    size_t size = strlen(echo->order);
    if (size + 1 < sizeof echo->order) {
        echo->order[size] = what;
    }
}

static void echo_open(void *ctx, struct env_conn *conn)
{
    struct echo *echo = ctx;
    echo->opens++;
    struct span part = buf_span(&echo->sent);
    env_conn_write(&echo->client->env, conn, &part, 1);
}

static void echo_client_data(void *ctx, struct env_conn *conn, struct span data)
{
    buf_append_span(&((struct echo *)ctx)->received, data);
}

static void echo_client_written(void *ctx, struct env_conn *conn)
{
}

static void echo_client_close(void *ctx, struct env_conn *conn, int status)
{
    struct echo *echo = ctx;
    echo->closes++;
    echo->status = status;
    echo->conn = NULL;
}

static void echo_send_back(struct echo *echo)
{
    if (!echo->is_writing && echo->back.size > 0) {
        buf_clear(&echo->writing);
        buf_append_span(&echo->writing, buf_span(&echo->back));
        buf_clear(&echo->back);
        struct span part = buf_span(&echo->writing);
        echo->is_writing = env_conn_write(&echo->server->env, echo->accepted, &part, 1) == 0;
    }
}

static void echo_server_data(void *ctx, struct env_conn *conn, struct span data)
{
    struct echo *echo = ctx;
    buf_append_span(&echo->back, data);
    echo_send_back(echo);
}

static void echo_server_written(void *ctx, struct env_conn *conn)
{
    struct echo *echo = ctx;
    echo->is_writing = false;
    echo_send_back(echo);
}

static void echo_server_close(void *ctx, struct env_conn *conn, int status)
{
    struct echo *echo = ctx;
    echo->server_closes++;
    echo->accepted = NULL;
}

static const struct env_conn_events client_events = { echo_open, echo_client_data,
                                                      echo_client_written, echo_client_close };
static const struct env_conn_events server_events = { NULL, echo_server_data, echo_server_written,
                                                      echo_server_close };

static void echo_accept(void *ctx, struct env_conn *conn)
{
    struct echo *echo = ctx;
    echo->accepted = conn;
    env_conn_attach(&echo->server->env, conn, &server_events, echo);
}

static struct echo *echo_new(uint64_t seed)
{
    struct echo *echo = MEM_NEW(struct echo);
    schedule_init(&echo->schedule, 1000000);
    network_init(&echo->network, &echo->schedule, seed);
    echo->network.cut_percent = 50;
    echo->network.window_bytes = 1000;
    echo->server = env_sim_new(&echo->schedule, &echo->network, NULL, 0, "s", seed);
    echo->client = env_sim_new(&echo->schedule, &echo->network, NULL, 1, "c", seed);
    env_sim_boot(echo->server);
    env_sim_boot(echo->client);
    echo->network.latency_us[0][1] = echo->network.latency_us[1][0] = 10000;
    env_listen(&echo->server->env, "s:7", echo_accept, echo, &echo->listener, NULL);
    struct random random = random_stream(seed, 9);
    for (size_t i = 0; i < ECHO_BYTES / 8; i++) {
        put_u64(buf_extend(&echo->sent, 8), random_u64(&random));
    }
    return echo;
}

static void echo_run(struct echo *echo, uint64_t until_us)
{
    struct schedule_event *event;
    while ((event = schedule_next(&echo->schedule, until_us)) != NULL) {
        env_sim_step(&echo->schedule, event);
    }
}

static uint64_t echo_free(struct echo *echo)
{
    uint64_t hash = echo->schedule.hash;
    struct env_sim *both[] = { echo->server, echo->client };
    for (int i = 0; i < 2; i++) {
        if (!both[i]->is_dead) {
            env_sim_kill(both[i], ENV_SIM_CRASH);
        }
        env_sim_reap(both[i]);
    }
    network_fini(&echo->network);
    env_sim_free(echo->server);
    env_sim_free(echo->client);
    schedule_fini(&echo->schedule);
    buf_fini(&echo->sent);
    buf_fini(&echo->received);
    buf_fini(&echo->back);
    buf_fini(&echo->writing);
    mem_free(echo);
    return hash;
}

static bool echo_is_whole(const struct echo *echo)
{
    return span_equal(buf_span(&echo->sent), buf_span(&echo->received));
}

static uint64_t echo_once(uint64_t seed, bool *whole)
{
    struct echo *echo = echo_new(seed);
    env_connect(&echo->client->env, "s:7", &client_events, echo, &echo->conn, NULL);
    echo_run(echo, 60000000);
    *whole = echo->opens == 1 && echo_is_whole(echo);
    return echo_free(echo);
}

static void test_network_stream(struct tally *tally)
{
    bool whole, whole_again, whole_other;
    uint64_t first = echo_once(1, &whole), again = echo_once(1, &whole_again),
             other = echo_once(2, &whole_other);
    ok(tally, whole && whole_other, "network: all bytes come back in order, cut as they are");
    ok(tally, first == again && first != other,
       "network: the same seed gives the same trace, another one another");
}

static void test_network_clog(struct tally *tally)
{
    struct echo *echo = echo_new(3);
    echo->network.patience_us = 1000000000;
    env_connect(&echo->client->env, "s:7", &client_events, echo, &echo->conn, NULL);
    echo_run(echo, 1025000); /* the connection stands, the bytes are under way */
    network_block(&echo->network, 0, 1, true);
    echo_run(echo, 5000000);
    size_t clogged = echo->received.size;
    bool was_clogged = clogged < ECHO_BYTES;
    echo_run(echo, 20000000);
    was_clogged = was_clogged && echo->received.size == clogged;
    network_block(&echo->network, 0, 1, false);
    echo_run(echo, 60000000);
    ok(tally, was_clogged && echo_is_whole(echo),
       "network: a blocked direction clogs, and goes on without loss");
    echo_free(echo);
}

static void test_network_patience(struct tally *tally)
{
    struct echo *echo = echo_new(4);
    echo->network.patience_us = 2000000;
    env_connect(&echo->client->env, "s:7", &client_events, echo, &echo->conn, NULL);
    echo_run(echo, 1025000); /* the connection stands, the bytes are under way */
    network_block(&echo->network, 0, 1, true);
    echo_run(echo, 50000000);
    ok(tally, echo->server_closes == 1 && echo->closes == 0,
       "network: who waits too long gives up; the other side hears nothing");
    network_block(&echo->network, 0, 1, false);
    echo_run(echo, 200000000);
    ok(tally, echo->closes == 1, "network: after healing the other side hears of it");
    echo_free(echo);
}

static void test_network_ends(struct tally *tally)
{
    struct echo *echo = echo_new(5);
    env_connect(&echo->client->env, "s:7", &client_events, echo, &echo->conn, NULL);
    echo_run(echo, 30000000);
    env_sim_kill(echo->server, ENV_SIM_CRASH);
    env_sim_reap(echo->server);
    echo_run(echo, 31000000);
    ok(tally, echo->closes == 1 && echo->server_closes == 0,
       "network: a crashed process closes its streams, without a word to itself");
    env_connect(&echo->client->env, "s:7", &client_events, echo, &echo->conn, NULL);
    echo_run(echo, 32000000);
    ok(tally, echo->closes == 2 && echo->status == ERR_CONNECT, "network: nobody listens: refused");
    env_sim_boot(echo->server);
    env_listen(&echo->server->env, "s:7", echo_accept, echo, &echo->listener, NULL);
    buf_clear(&echo->received);
    echo->is_writing = false;
    buf_clear(&echo->back);
    env_connect(&echo->client->env, "s:7", &client_events, echo, &echo->conn, NULL);
    echo_run(echo, 60000000);
    ok(tally, echo->opens == 2 && echo_is_whole(echo), "network: a restarted process serves again");
    env_sim_kill(echo->server, ENV_SIM_POWER_LOSS);
    env_sim_reap(echo->server);
    echo_run(echo, 100000000);
    ok(tally, echo->closes == 2, "network: an idle peer of a machine without power hears nothing");
    env_sim_boot(echo->server);
    struct span part = span_of("x", 1);
    env_conn_write(&echo->client->env, echo->conn, &part, 1);
    echo_run(echo, 101000000);
    ok(tally, echo->closes == 3 && echo->status == ERR_CLOSED,
       "network: it is reset when it sends to the machine after its restart");
    echo_free(echo);
}

/* --- Env: timers, deferred work, jobs */

static void on_fire(struct env_timer *timer)
{
    struct echo *echo = container_of(timer, struct echo, timer);
    note(echo, 't');
    env_defer(&echo->client->env, &echo->task);
    env_defer(&echo->client->env, &echo->task);
    note(echo, 'u');
}

static void on_task(struct env_task *task)
{
    note(container_of(task, struct echo, task), 'd');
}

static void on_work(struct env_job *job)
{
    struct echo *echo = job->impl[0];
    note(echo, (char)('0' + (job - echo->jobs)));
}

static void on_job_done(struct env_job *job)
{
    struct echo *echo = job->impl[0];
    note(echo, (char)('A' + (job - echo->jobs)));
}

static void test_env(struct tally *tally)
{
    struct echo *echo = echo_new(6);
    echo->timer.fire = on_fire;
    echo->task.run = on_task;
    env_timer_start(&echo->client->env, &echo->timer, 5000);
    env_timer_start(&echo->client->env, &echo->timer, 90000);
    uint64_t due = echo->timer.due_us;
    echo_run(echo, 1080000);
    bool early = echo->order[0] != 0;
    echo_run(echo, 1100000);
    ok(tally, !early && strcmp(echo->order, "tud") == 0 && env_now_us(&echo->client->env) >= due,
       "env: a restarted timer fires once, when due; deferred work runs once, after the event");
    memset(echo->order, 0, sizeof echo->order);
    for (int i = 0; i < 5; i++) {
        echo->jobs[i] = (struct env_job){ .work = on_work, .done = on_job_done, .impl = { echo } };
        env_job_start(&echo->client->env, ENV_JOB_LOG, &echo->jobs[i]);
    }
    bool nothing_yet = echo->order[0] == 0;
    echo_run(echo, 2000000);
    const char *order = echo->order;
    bool in_order = strlen(order) == 10;
    for (char i = 0; i < 5 && in_order; i++) {
        in_order = strchr(order, '0' + i) < strchr(order, 'A' + i) &&
                   (i == 0 || (strchr(order, '0' + i - 1) < strchr(order, '0' + i) &&
                               strchr(order, 'A' + i - 1) < strchr(order, 'A' + i)));
    }
    ok(tally, nothing_yet && in_order,
       "env: jobs of one class run in order, each done after its work");
    memset(echo->order, 0, sizeof echo->order);
    env_timer_start(&echo->client->env, &echo->timer, 1000);
    env_sim_pause(echo->client, 5000000);
    echo_run(echo, 4000000);
    bool waited = echo->order[0] == 0;
    echo_run(echo, 5000000);
    ok(tally, waited && echo->order[0] == 't',
       "env: a paused process does nothing until it goes on");
    memset(echo->order, 0, sizeof echo->order);
    env_timer_start(&echo->client->env, &echo->timer, 1000);
    env_sim_kill(echo->client, ENV_SIM_CRASH);
    echo_run(echo, 6000000);
    env_sim_reap(echo->client);
    ok(tally, echo->order[0] == 0, "env: a dead process's timers do not fire");
    echo_free(echo);
}

/* --- Linearizability: histories known to be good or bad */

#define PUT(c, r, v, ver)                                                                          \
    {                                                                                              \
        .kind = LINEAR_PUT, .outcome = LINEAR_OK, .value = v, .version = ver, .call = c,           \
        .reply = r                                                                                 \
    }
#define PUT_UNKNOWN(c, v)                                                                          \
    {                                                                                              \
        .kind = LINEAR_PUT, .outcome = LINEAR_UNKNOWN, .value = v, .call = c,                      \
        .reply = LINEAR_NEVER                                                                      \
    }
#define GET(c, r, v, ver)                                                                          \
    {                                                                                              \
        .kind = LINEAR_GET, .outcome = LINEAR_OK, .value = v, .version = ver, .call = c,           \
        .reply = r                                                                                 \
    }
#define GET_ABSENT(c, r)                                                                           \
    {                                                                                              \
        .kind = LINEAR_GET, .outcome = LINEAR_ABSENT, .call = c, .reply = r                        \
    }
#define DEL(c, r, was)                                                                             \
    {                                                                                              \
        .kind = LINEAR_DELETE, .outcome = LINEAR_OK, .existed = was, .call = c, .reply = r         \
    }
#define DEL_UNKNOWN(c)                                                                             \
    {                                                                                              \
        .kind = LINEAR_DELETE, .outcome = LINEAR_UNKNOWN, .call = c, .reply = LINEAR_NEVER         \
    }
#define CAS(c, r, v, ver, if_)                                                                     \
    {                                                                                              \
        .kind = LINEAR_PUT, .condition = LINEAR_IF_VERSION, .condition_version = if_,              \
        .outcome = LINEAR_OK, .value = v, .version = ver, .call = c, .reply = r                    \
    }
#define CAS_REFUSED(c, r, v, present, if_)                                                         \
    {                                                                                              \
        .kind = LINEAR_PUT, .condition = LINEAR_IF_VERSION, .condition_version = if_,              \
        .outcome = LINEAR_REFUSED, .value = v, .version = present, .call = c, .reply = r           \
    }
#define NEW(c, r, v, ver)                                                                          \
    {                                                                                              \
        .kind = LINEAR_PUT, .condition = LINEAR_IF_ABSENT, .outcome = LINEAR_OK, .value = v,       \
        .version = ver, .call = c, .reply = r                                                      \
    }
#define CAS_UNKNOWN(c, v, if_)                                                                     \
    {                                                                                              \
        .kind = LINEAR_PUT, .condition = LINEAR_IF_VERSION, .condition_version = if_,              \
        .outcome = LINEAR_UNKNOWN, .value = v, .call = c, .reply = LINEAR_NEVER                    \
    }
#define NEW_UNKNOWN(c, v)                                                                          \
    {                                                                                              \
        .kind = LINEAR_PUT, .condition = LINEAR_IF_ABSENT, .outcome = LINEAR_UNKNOWN, .value = v,  \
        .call = c, .reply = LINEAR_NEVER                                                           \
    }
#define THERE_UNKNOWN(c, v)                                                                        \
    {                                                                                              \
        .kind = LINEAR_PUT, .condition = LINEAR_IF_PRESENT, .outcome = LINEAR_UNKNOWN, .value = v, \
        .call = c, .reply = LINEAR_NEVER                                                           \
    }
#define THERE(c, r, v, ver)                                                                        \
    {                                                                                              \
        .kind = LINEAR_PUT, .condition = LINEAR_IF_PRESENT, .outcome = LINEAR_OK, .value = v,      \
        .version = ver, .call = c, .reply = r                                                      \
    }
#define THERE_REFUSED(c, r, v)                                                                     \
    {                                                                                              \
        .kind = LINEAR_PUT, .condition = LINEAR_IF_PRESENT, .outcome = LINEAR_REFUSED, .value = v, \
        .call = c, .reply = r                                                                      \
    }
#define DEL_IF(c, r, ver)                                                                          \
    {                                                                                              \
        .kind = LINEAR_DELETE, .condition = LINEAR_IF_VERSION, .condition_version = ver,           \
        .outcome = LINEAR_OK, .existed = true, .version = ver, .call = c, .reply = r               \
    }
#define DEL_IF_UNKNOWN(c, if_)                                                                     \
    {                                                                                              \
        .kind = LINEAR_DELETE, .condition = LINEAR_IF_VERSION, .condition_version = if_,           \
        .outcome = LINEAR_UNKNOWN, .call = c, .reply = LINEAR_NEVER                                \
    }
#define DEL_IF_REFUSED(c, r, if_, present)                                                         \
    {                                                                                              \
        .kind = LINEAR_DELETE, .condition = LINEAR_IF_VERSION, .condition_version = if_,           \
        .outcome = LINEAR_REFUSED, .version = present, .call = c, .reply = r                       \
    }
#define NEW_REFUSED(c, r, v, present)                                                              \
    {                                                                                              \
        .kind = LINEAR_PUT, .condition = LINEAR_IF_ABSENT, .outcome = LINEAR_REFUSED, .value = v,  \
        .version = present, .call = c, .reply = r                                                  \
    }

struct story {
    const char *name;
    enum linear_verdict verdict;
    struct linear_op ops[8];
};

static const struct story stories[] = {
    { "nothing was written, nothing is read", LINEAR_YES, { GET_ABSENT(1, 2) } },
    { "a read sees what was written", LINEAR_YES, { PUT(1, 2, 1, 5), GET(3, 4, 1, 5) } },
    { "a read of what nobody wrote", LINEAR_NO, { PUT(1, 2, 1, 5), GET(3, 4, 9, 5) } },
    { "a lost write", LINEAR_NO, { PUT(1, 2, 1, 5), GET_ABSENT(3, 4) } },
    { "a stale read", LINEAR_NO, { PUT(1, 2, 1, 5), PUT(3, 4, 2, 6), GET(5, 6, 1, 5) } },
    { "a read beside a write may see either",
      LINEAR_YES,
      { PUT(1, 2, 1, 5), PUT(3, 8, 2, 6), GET(4, 5, 1, 5), GET(6, 7, 2, 6) } },
    { "but not first the new, then the old",
      LINEAR_NO,
      { PUT(1, 2, 1, 5), PUT(3, 8, 2, 6), GET(4, 5, 2, 6), GET(6, 7, 1, 5) } },
    { "concurrent writes in either order",
      LINEAR_YES,
      { PUT(1, 4, 1, 6), PUT(2, 3, 2, 5), GET(5, 6, 1, 6) } },
    { "versions name the order", LINEAR_NO, { PUT(1, 4, 1, 6), PUT(2, 3, 2, 5), GET(5, 6, 2, 5) } },
    { "a version that goes back", LINEAR_NO, { PUT(1, 2, 1, 6), PUT(3, 4, 2, 5) } },
    { "a version given twice", LINEAR_NO, { PUT(1, 2, 1, 6), DEL(3, 4, true), PUT(5, 6, 2, 6) } },
    { "a read with a wrong version", LINEAR_NO, { PUT(1, 2, 1, 5), GET(3, 4, 1, 6) } },
    { "an unknown write that was never applied",
      LINEAR_YES,
      { PUT(1, 2, 1, 5), PUT_UNKNOWN(3, 2), GET(4, 5, 1, 5), GET(6, 7, 1, 5) } },
    { "an unknown write that was applied late",
      LINEAR_YES,
      { PUT(1, 2, 1, 5), PUT_UNKNOWN(3, 2), GET(4, 5, 1, 5), GET(6, 7, 2, 6) } },
    { "an unknown write that came and went",
      LINEAR_NO,
      { PUT(1, 2, 1, 5), PUT_UNKNOWN(3, 2), GET(4, 5, 2, 6), GET(6, 7, 1, 5) } },
    { "an unknown write seen before it was asked",
      LINEAR_NO,
      { GET(1, 2, 2, 5), PUT_UNKNOWN(3, 2) } },
    { "an unknown write applied twice",
      LINEAR_NO,
      { PUT_UNKNOWN(1, 1), GET(2, 3, 1, 5), PUT(4, 5, 2, 6), GET(6, 7, 1, 7) } },
    { "an unknown delete explains absence",
      LINEAR_YES,
      { PUT(1, 2, 1, 5), DEL_UNKNOWN(3), GET(4, 5, 1, 5), GET_ABSENT(6, 7) } },
    { "a deleted key comes back by itself",
      LINEAR_NO,
      { PUT(1, 2, 1, 5), DEL(3, 4, true), GET(5, 6, 1, 5) } },
    { "deleted and made anew",
      LINEAR_YES,
      { PUT(1, 2, 1, 5), DEL(3, 4, true), NEW(5, 6, 2, 7), GET(7, 8, 2, 7) } },
    { "a delete that found nothing where something was",
      LINEAR_NO,
      { PUT(1, 2, 1, 5), DEL(3, 4, false) } },
    { "compare-and-set in turn",
      LINEAR_YES,
      { PUT(1, 2, 1, 5), CAS(3, 4, 2, 6, 5), CAS_REFUSED(5, 6, 3, 6, 5), GET(7, 8, 2, 6) } },
    { "two compare-and-sets on one version",
      LINEAR_NO,
      { PUT(1, 2, 1, 5), CAS(3, 6, 2, 6, 5), CAS(4, 5, 3, 7, 5) } },
    { "a compare-and-set refused for no reason",
      LINEAR_NO,
      { PUT(1, 2, 1, 5), CAS_REFUSED(3, 4, 2, 5, 5) } },
    { "refused because it was absent",
      LINEAR_YES,
      { PUT(1, 2, 1, 5), DEL(3, 4, true), CAS_REFUSED(5, 6, 2, 0, 5) } },
    { "refused as absent though it was there",
      LINEAR_NO,
      { PUT(1, 2, 1, 5), PUT(3, 4, 2, 6), CAS_REFUSED(5, 6, 3, 0, 5) } },
    { "created twice", LINEAR_NO, { NEW(1, 4, 1, 5), NEW(2, 3, 2, 6) } },
    { "created once, refused once", LINEAR_YES, { NEW(1, 4, 1, 5), NEW_REFUSED(2, 3, 2, 5) } },
    { "refused as existing before anything existed",
      LINEAR_NO,
      { NEW_REFUSED(1, 2, 2, 5), NEW(3, 4, 1, 5) } },
    { "an unread unknown write explains a refusal by its version",
      LINEAR_YES,
      { PUT_UNKNOWN(1, 1), NEW_REFUSED(2, 3, 2, 5) } },
    { "and nothing else does", LINEAR_NO, { PUT(1, 2, 1, 5), NEW_REFUSED(3, 4, 2, 6) } },
    { "a lost update: a compare-and-set that another one overlooked",
      LINEAR_NO,
      { PUT(1, 2, 1, 5), CAS(3, 4, 2, 6, 5), CAS(5, 6, 3, 7, 5), GET(7, 8, 3, 7) } },
    { "a compare-and-set applied twice, around another write",
      LINEAR_NO,
      { PUT(1, 2, 1, 5), CAS(3, 4, 2, 6, 5), PUT(5, 6, 3, 7), GET(7, 8, 2, 8) } },
    { "a put applied twice, around a delete",
      LINEAR_NO,
      { PUT(1, 2, 1, 5), DEL(3, 4, true), GET_ABSENT(5, 6), GET(7, 8, 1, 7) } },
    { "a deleted key comes back with its old version behind a new one",
      LINEAR_NO,
      { PUT(1, 2, 1, 5), DEL(3, 4, true), NEW(5, 6, 2, 7), GET(7, 8, 1, 5) } },
    { "recreated with a version below the deleted one",
      LINEAR_NO,
      { PUT(1, 2, 1, 9), DEL(3, 4, true), NEW(5, 6, 2, 7) } },
    { "recreated with the version of what an unknown delete took",
      LINEAR_NO,
      { PUT(1, 2, 1, 5), DEL_UNKNOWN(3), GET_ABSENT(4, 5), NEW(6, 7, 2, 5) } },
    { "versions seen by reads go back",
      LINEAR_NO,
      { PUT_UNKNOWN(1, 1), PUT_UNKNOWN(2, 2), GET(3, 4, 1, 6), GET(5, 6, 2, 5) } },
    { "an unknown write was seen, so it happened: it does not vanish",
      LINEAR_NO,
      { PUT(1, 2, 1, 5), PUT_UNKNOWN(3, 2), GET(4, 5, 2, 6), GET_ABSENT(6, 7) } },
    { "an unknown compare-and-set whose condition no longer held is seen",
      LINEAR_NO,
      { PUT(1, 2, 1, 5), PUT(3, 4, 2, 6), CAS_UNKNOWN(5, 3, 5), GET(6, 7, 3, 7) } },
    { "an unknown compare-and-set before the write that followed it",
      LINEAR_YES,
      { PUT(1, 2, 1, 5), CAS_UNKNOWN(3, 3, 5), PUT(4, 5, 2, 7), GET(6, 7, 2, 7) } },
    { "an unknown creation beside a known one",
      LINEAR_YES,
      { NEW_UNKNOWN(1, 1), NEW(2, 3, 2, 5), GET(4, 5, 2, 5) } },
    { "two creations, one unknown but seen, without a delete between",
      LINEAR_NO,
      { NEW_UNKNOWN(1, 1), GET(2, 3, 1, 4), NEW(4, 5, 2, 5) } },
    { "a write on what is there", LINEAR_YES, { PUT(1, 2, 1, 5), THERE(3, 4, 2, 6) } },
    { "a write on what is not there", LINEAR_NO, { THERE(1, 2, 1, 5) } },
    { "an unread unknown write let it be there",
      LINEAR_YES,
      { PUT_UNKNOWN(1, 1), THERE(2, 3, 2, 6) } },
    { "an unread unknown write let an unknown one happen that was read",
      LINEAR_YES,
      { PUT_UNKNOWN(1, 1), THERE_UNKNOWN(2, 2), GET(3, 4, 2, 6) } },
    { "nothing let an unknown one happen that was read",
      LINEAR_NO,
      { THERE_UNKNOWN(1, 2), GET(3, 4, 2, 6) } },
    { "refused as absent",
      LINEAR_YES,
      { PUT(1, 2, 1, 5), DEL(3, 4, true), THERE_REFUSED(5, 6, 2) } },
    { "refused as absent while it was there",
      LINEAR_NO,
      { PUT(1, 2, 1, 5), THERE_REFUSED(3, 4, 2) } },
    { "an unknown delete behind an unknown conditional one",
      LINEAR_YES,
      { PUT(1, 2, 1, 5), DEL_IF_UNKNOWN(3, 4), DEL_UNKNOWN(5), GET_ABSENT(6, 7) } },
    { "an unknown conditional delete whose condition did not hold",
      LINEAR_NO,
      { PUT(1, 2, 1, 5), DEL_IF_UNKNOWN(3, 4), GET_ABSENT(6, 7) } },
    { "a delete of the right version",
      LINEAR_YES,
      { PUT(1, 2, 1, 5), DEL_IF(3, 4, 5), GET_ABSENT(5, 6) } },
    { "a delete of an overwritten version",
      LINEAR_NO,
      { PUT(1, 2, 1, 5), PUT(3, 4, 2, 6), DEL_IF(5, 6, 5) } },
    { "a delete refused for another version",
      LINEAR_YES,
      { PUT(1, 2, 1, 5), DEL_IF_REFUSED(3, 4, 4, 5), GET(5, 6, 1, 5) } },
    { "a delete refused, and yet done",
      LINEAR_NO,
      { PUT(1, 2, 1, 5), DEL_IF_REFUSED(3, 4, 4, 5), GET_ABSENT(5, 6) } },
    { "calls and replies at one time overlap", LINEAR_YES, { PUT(1, 5, 1, 5), GET_ABSENT(5, 6) } },
};

static void test_stories(struct tally *tally)
{
    for (size_t i = 0; i < sizeof stories / sizeof *stories; i++) {
        const struct story *story = &stories[i];
        size_t count = 0;
        while (count < 8 && story->ops[count].call != 0) {
            count++;
        }
        char name[160];
        snprintf(name, sizeof name, "linear: %s: %s", story->verdict == LINEAR_YES ? "good" : "bad",
                 story->name);
        ok(tally, linear_check(story->ops, count, 0, NULL) == story->verdict, name);
    }
}

/* Makes a history as a correct register would, with overlaps and unknown outcomes; it must be found
 * good. Then one read is falsified; it must be found bad. */
static size_t make_history(struct random *random, struct linear_op *ops, size_t count)
{
    enum { SPREAD = 8 };
    uint64_t value = 0, version = 0, next = 0;
    for (size_t i = 0; i < count; i++) {
        struct linear_op *op = &ops[i];
        uint64_t at = (i + SPREAD) * 1000 + 500;
        *op = (struct linear_op){ .outcome = LINEAR_OK };
        op->call = at - random_below(random, SPREAD / 2 * 1000) - 1;
        op->reply = at + random_below(random, SPREAD / 2 * 1000) + 1;
        op->call = op->call * 4096 + i;
        op->reply = op->reply * 4096 + i;
        switch (random_below(random, 6)) {
        case 0:
        case 1:
            op->kind = LINEAR_PUT;
            op->value = ++next;
            value = op->value;
            version = op->version = i + 1;
            break;
        case 2:
            op->kind = LINEAR_DELETE;
            op->existed = value != 0;
            op->version = version;
            value = version = 0;
            break;
        default:
            op->kind = LINEAR_GET;
            op->value = value;
            op->version = version;
            op->outcome = value ? LINEAR_OK : LINEAR_ABSENT;
        }
        if (op->kind != LINEAR_GET && random_one_in(random, 10)) {
            op->outcome = LINEAR_UNKNOWN;
            op->version = 0;
            op->reply = LINEAR_NEVER;
        }
    }
    return count;
}

static void test_generated(struct tally *tally)
{
    enum { COUNT = 400, ROUNDS = 100 };
    struct linear_op *ops = mem_alloc(COUNT * sizeof *ops);
    int good = 0, bad = 0, tried = 0;
    for (uint64_t seed = 0; seed < ROUNDS; seed++) {
        struct random random = random_stream(seed, 77);
        make_history(&random, ops, COUNT);
        good += linear_check(ops, COUNT, 0, NULL) == LINEAR_YES;
        /* a read now sees a value that was overwritten by known writes long before */
        for (size_t i = COUNT / 2; i < COUNT; i++) {
            if (ops[i].kind == LINEAR_GET && ops[i].outcome == LINEAR_OK) {
                for (size_t j = 0; j < COUNT / 4; j++) {
                    if (ops[j].kind == LINEAR_PUT && ops[j].outcome == LINEAR_OK) {
                        ops[i].value = ops[j].value;
                        ops[i].version = ops[j].version;
                        break;
                    }
                }
                break;
            }
        }
        tried++;
        bad += linear_check(ops, COUNT, 0, NULL) == LINEAR_NO;
    }
    ok(tally, good == ROUNDS, "linear: 100 generated histories of 400 operations are good");
    ok(tally, bad == tried, "linear: with one stale read each they are bad");
    mem_free(ops);
}

/* What a correct register answers to an operation that takes effect now. */
static void apply_op(struct linear_op *op, uint64_t *value, uint64_t *version, uint64_t next)
{
    bool holds =
        op->condition == LINEAR_ALWAYS || (op->condition == LINEAR_IF_ABSENT && *value == 0) ||
        (op->condition == LINEAR_IF_PRESENT && *value != 0) ||
        (op->condition == LINEAR_IF_VERSION && *value != 0 && *version == op->condition_version);
    op->outcome = LINEAR_OK;
    if (op->kind == LINEAR_GET) {
        op->value = *value;
        op->outcome = *value ? LINEAR_OK : LINEAR_ABSENT;
        op->version = *version;
    } else if (!holds) {
        op->outcome = LINEAR_REFUSED;
        op->version = *version;
    } else if (op->kind == LINEAR_PUT) {
        *value = op->value;
        *version = op->version = next;
    } else {
        op->existed = *value != 0;
        op->version = *version;
        *value = *version = 0;
    }
}

/* All kinds and conditions, overlaps, and many unknown outcomes of which half happened. */
static void make_conditional_history(struct random *random, struct linear_op *ops, size_t count)
{
    enum { SPREAD = 10 };
    uint64_t value = 0, version = 0, seen = 0;
    for (size_t i = 0; i < count; i++) {
        struct linear_op *op = &ops[i];
        uint64_t at = (i + SPREAD) * 1000;
        *op = (struct linear_op){ .kind = (uint8_t)random_below(random, 3), .client = (uint32_t)i };
        op->call = at - random_below(random, SPREAD * 500);
        op->reply = at + random_below(random, SPREAD * 500);
        op->value = op->kind == LINEAR_PUT ? i + 1 : 0;
        if (op->kind != LINEAR_GET && random_percent(random, 60)) {
            op->condition = (uint8_t)random_between(random, LINEAR_IF_ABSENT, LINEAR_IF_PRESENT);
            op->condition_version = random_percent(random, 70) ? version : seen;
            op->condition_version += op->condition_version == 0;
        }
        bool is_unknown = op->kind != LINEAR_GET && random_percent(random, 10);
        if (!is_unknown || random_percent(random, 50)) {
            apply_op(op, &value, &version, i + 1);
            seen = random_percent(random, 20) ? version : seen;
        }
        if (is_unknown) {
            op->outcome = LINEAR_UNKNOWN;
            op->version = 0;
            op->existed = false;
            op->reply = LINEAR_NEVER;
        }
    }
}

static void test_generated_conditions(struct tally *tally)
{
    enum { COUNT = 1000, ROUNDS = 100, STEPS_MAX = 20 * COUNT };
    struct linear_op *ops = mem_alloc(COUNT * sizeof *ops);
    int good = 0, undecided = 0;
    for (uint64_t seed = 0; seed < ROUNDS; seed++) {
        struct random random = random_stream(seed, 78);
        make_conditional_history(&random, ops, COUNT);
        enum linear_verdict verdict = linear_check(ops, COUNT, STEPS_MAX, NULL);
        good += verdict == LINEAR_YES;
        undecided += verdict == LINEAR_UNDECIDED;
    }
    printf("# %d good, %d undecided\n", good, undecided);
    ok(tally, good == ROUNDS,
       "linear: 100 generated histories with conditions and many unknown are good, soon");
    mem_free(ops);
}

static void tell(void *ctx, bool passed, const char *name)
{
    ok(ctx, passed, name);
}

int self_test(void)
{
    struct tally tally = { 0 };
    test_schedule(&tally);
    test_disk_durability(&tally);
    test_disk_synced(&tally);
    test_disk_rename(&tally);
    test_disk_faults(&tally);
    test_disk_failed_sync(&tally);
    test_disk_half_sync(&tally);
    test_network_stream(&tally);
    test_network_clog(&tally);
    test_network_patience(&tally);
    test_network_ends(&tally);
    test_env(&tally);
    test_stories(&tally);
    test_generated(&tally);
    test_generated_conditions(&tally);
    memory_test(tell, &tally);
    printf("1..%d\n", tally.count);
    return tally.failed > 0;
}
