/* Tests of the simulated network and of the env over it: an echo over a bad network; timers, deferred work and jobs. */
#include "base/mem.h"
#include "sim/env_sim.h"
#include "sim/self_test_private.h"

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
    self_test_ok(tally, whole && whole_other,
                 "network: all bytes come back in order, cut as they are");
    self_test_ok(tally, first == again && first != other,
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
    self_test_ok(tally, was_clogged && echo_is_whole(echo),
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
    self_test_ok(tally, echo->server_closes == 1 && echo->closes == 0,
                 "network: who waits too long gives up; the other side hears nothing");
    network_block(&echo->network, 0, 1, false);
    echo_run(echo, 200000000);
    self_test_ok(tally, echo->closes == 1, "network: after healing the other side hears of it");
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
    self_test_ok(tally, echo->closes == 1 && echo->server_closes == 0,
                 "network: a crashed process closes its streams, without a word to itself");
    env_connect(&echo->client->env, "s:7", &client_events, echo, &echo->conn, NULL);
    echo_run(echo, 32000000);
    self_test_ok(tally, echo->closes == 2 && echo->status == ERR_CONNECT,
                 "network: nobody listens: refused");
    env_sim_boot(echo->server);
    env_listen(&echo->server->env, "s:7", echo_accept, echo, &echo->listener, NULL);
    buf_clear(&echo->received);
    echo->is_writing = false;
    buf_clear(&echo->back);
    env_connect(&echo->client->env, "s:7", &client_events, echo, &echo->conn, NULL);
    echo_run(echo, 60000000);
    self_test_ok(tally, echo->opens == 2 && echo_is_whole(echo),
                 "network: a restarted process serves again");
    bool was_alive = network_is_alive(echo->conn);
    env_sim_kill(echo->server, ENV_SIM_POWER_LOSS);
    env_sim_reap(echo->server);
    echo_run(echo, 100000000);
    self_test_ok(tally, echo->closes == 2,
                 "network: an idle peer of a machine without power hears nothing");
    env_sim_boot(echo->server);
    self_test_ok(tally, was_alive && !network_is_alive(echo->conn),
                 "network: its stream is not alive, also when that machine has restarted");
    struct span part = span_of("x", 1);
    env_conn_write(&echo->client->env, echo->conn, &part, 1);
    echo_run(echo, 101000000);
    self_test_ok(tally, echo->closes == 3 && echo->status == ERR_CLOSED,
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
    self_test_ok(
        tally, !early && strcmp(echo->order, "tud") == 0 && env_now_us(&echo->client->env) >= due,
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
    self_test_ok(tally, nothing_yet && in_order,
                 "env: jobs of one class run in order, each done after its work");
    memset(echo->order, 0, sizeof echo->order);
    env_timer_start(&echo->client->env, &echo->timer, 1000);
    env_sim_pause(echo->client, 5000000);
    echo_run(echo, 4000000);
    bool waited = echo->order[0] == 0;
    echo_run(echo, 5000000);
    self_test_ok(tally, waited && echo->order[0] == 't',
                 "env: a paused process does nothing until it goes on");
    memset(echo->order, 0, sizeof echo->order);
    env_timer_start(&echo->client->env, &echo->timer, 1000);
    env_sim_kill(echo->client, ENV_SIM_CRASH);
    echo_run(echo, 6000000);
    env_sim_reap(echo->client);
    self_test_ok(tally, echo->order[0] == 0, "env: a dead process's timers do not fire");
    echo_free(echo);
}

void self_test_network(struct tally *tally)
{
    test_network_stream(tally);
    test_network_clog(tally);
    test_network_patience(tally);
    test_network_ends(tally);
    test_env(tally);
}
