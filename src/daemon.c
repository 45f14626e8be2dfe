/* cairnd: hosts one node, or with --in-process several, each with its env on a thread of its own;
 * the first one's is the main thread and also takes signals.
 *
 * Life: options → for each host: env, server_start, loop → ready: READY=1 to the service manager →
 * SIGTERM: server_stop on each, which hands primaries over → every loop ends when its node has
 * stopped → join helper threads, free. A node that stops by itself takes the others with it: a
 * process that is half alive helps nobody.
 *
 * Exit: 0 stopped when asked, 1 a node failed or could not start, 2 wrong option.
 *
 * Threads: a struct host belongs to its own thread; the others reach it through env_uv_post.
 * `daemon` fields belong to the main thread, but `exit_code`, which is atomic. Lines go to stderr
 * with one write each, so they don't mix. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/check.h"
#include "base/limits.h"
#include "base/mem.h"
#include "base/version.h"
#include "env/env_uv.h"
#include "node/config.h"
#include "server/server.h"
#include "wire/frame.h"

enum { READY_POLL_US = 50 * 1000, STOP_DEADLINE_US = 30 * 1000000 };

struct daemon;

/* One node and what it runs on. */
struct host {
    struct daemon *daemon;
    struct env *env;
    struct logger logger;
    struct config config;
    struct server *server;
    pthread_t thread;
    struct env_timer ready_poll;
    struct env_timer stop_deadline;
    bool is_stopped;
};

struct daemon {
    int argc;
    char **argv;
    struct config config; /* as given; with --in-process each host has its own beside it */
    struct host hosts[LIMIT_PROCESS_NODES];
    unsigned count, ready_count;
    bool is_stopping;
    atomic_int exit_code;
};

extern char **environ;

/* --- Text */

static void write_all(const char *text, size_t size)
{
    while (size) {
        ssize_t written = write(STDERR_FILENO, text, size);
        if (written < 0 && errno != EINTR) {
            return; /* nobody listens: there is nowhere to say so */
        }
        if (written > 0) {
            text += written;
            size -= (size_t)written;
        }
    }
}

static void write_line(void *ctx, enum logger_level level, const char *line)
{
    struct host *host = ctx;
    uint64_t now_us = env_wall_us(host->env);
    time_t seconds = (time_t)(now_us / 1000000);
    struct tm tm;
    char text[1200];

    gmtime_r(&seconds, &tm);
    size_t size = strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &tm);
    size += (size_t)snprintf(text + size, sizeof text - size, ".%06uZ %s\n",
                             (unsigned)(now_us % 1000000), line);
    write_all(text, size < sizeof text ? size : sizeof text - 1);
}

/* Tells the service manager (sd_notify(3)'s protocol: a datagram to the socket named in the
 * environment). */
static void notify_manager(const char *text)
{
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un address = { .sun_family = AF_UNIX };

    if (!path || (*path != '/' && *path != '@') || strlen(path) >= sizeof address.sun_path) {
        return;
    }
    size_t size = strlen(path);
    memcpy(address.sun_path, path, size);
    if (*path == '@') { /* the abstract namespace */
        address.sun_path[0] = '\0';
    }
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return;
    }
    sendto(fd, text, strlen(text), MSG_NOSIGNAL, (struct sockaddr *)&address,
           (socklen_t)(offsetof(struct sockaddr_un, sun_path) + size));
    close(fd);
}

/* --- Stopping */

static void host_stop_late(struct env_timer *timer)
{
    struct host *host = container_of(timer, struct host, stop_deadline);

    LOG_ERROR(&host->logger, "did not stop in time; its log is durable, the next start recovers");
    atomic_store(&host->daemon->exit_code, 1);
    env_uv_stop(host->env);
}

/* On the host's thread. */
static void host_stop(void *ctx)
{
    struct host *host = ctx;

    if (host->server && !host->is_stopped && !host->stop_deadline.due_us) {
        host->stop_deadline.fire = host_stop_late;
        env_timer_start(host->env, &host->stop_deadline, STOP_DEADLINE_US);
        server_stop(host->server);
    }
}

/* Any thread. A host whose loop has ended ignores it: its env is freed only after all threads are
 * joined. */
static void daemon_stop_all(struct daemon *daemon)
{
    for (unsigned i = 0; i < daemon->count; i++) {
        env_uv_post(daemon->hosts[i].env, host_stop, &daemon->hosts[i]);
    }
}

static void host_stopped(void *ctx, int status, const char *text)
{
    struct host *host = ctx;

    host->is_stopped = true;
    if (status) {
        LOG_ERROR(&host->logger, "stopped: %s (%s)", text ? text : err_info(status)->text,
                  err_info(status)->name);
        atomic_store(&host->daemon->exit_code, 1);
        daemon_stop_all(host->daemon);
    }
    env_uv_stop(host->env);
}

/* --- Readiness */

/* On the main thread. */
static void daemon_count_ready(void *ctx)
{
    struct daemon *daemon = ctx;

    if (++daemon->ready_count == daemon->count && !daemon->is_stopping) {
        LOG_INFO(&daemon->hosts[0].logger, "ready nodes=%u", daemon->count);
        notify_manager("READY=1");
    }
}

static void host_ready_poll(struct env_timer *timer)
{
    struct host *host = container_of(timer, struct host, ready_poll);

    if (node_is_ready(server_node(host->server))) {
        env_uv_post(host->daemon->hosts[0].env, daemon_count_ready, host->daemon);
    } else {
        env_timer_start(host->env, timer, READY_POLL_US);
    }
}

/* --- A host's thread */

static void host_run(struct host *host)
{
    struct node_config config;
    struct err err = { 0 };

    config_to_node(&host->config, &config);
    config.on_stopped = host_stopped;
    config.ctx = host;
    if (config.insecure) {
        LOG_WARN(
            &host->logger,
            "insecure listen=%s: no encryption and no login; whoever reaches it may do everything",
            config.listen);
    }
    int status = server_start(host->env, &host->logger, &config, &host->server, &err);
    if (status) {
        host->server = NULL;
        host->is_stopped = true;
        LOG_ERROR(&host->logger, "can't start: %s (%s)", err.text, err_info(status)->name);
        atomic_store(&host->daemon->exit_code, status == ERR_USAGE ? 2 : 1);
        daemon_stop_all(host->daemon);
        return;
    }
    host->ready_poll.fire = host_ready_poll;
    env_timer_start(host->env, &host->ready_poll, READY_POLL_US);
    env_uv_run(host->env);
}

static void *host_main(void *ctx)
{
    host_run(ctx);
    return NULL;
}

/* After all threads have ended. */
static void host_fini(struct host *host)
{
    if (!host->env) {
        return;
    }
    env_timer_stop(host->env, &host->ready_poll);
    env_timer_stop(host->env, &host->stop_deadline);
    env_uv_join(host->env);
    if (host->server) {
        server_abandon(host->server);
    }
    env_uv_free(host->env);
    config_fini(&host->config);
}

/* --- Signals, on the main thread */

static void on_terminate(void *ctx, int signal_number)
{
    struct daemon *daemon = ctx;

    if (daemon->is_stopping) {
        LOG_WARN(&daemon->hosts[0].logger, "signal %d again: ending at once", signal_number);
        _exit(1);
    }
    daemon->is_stopping = true;
    LOG_INFO(&daemon->hosts[0].logger, "signal %d: stopping", signal_number);
    notify_manager("STOPPING=1");
    daemon_stop_all(daemon);
}

/* On the host's thread. */
static void host_dump(void *ctx)
{
    struct host *host = ctx;
    struct buf text = { 0 };

    if (host->server && !host->is_stopped) {
        node_dump(server_node(host->server), &text);
        if (text.size && text.data[text.size - 1] != '\n') {
            buf_append(&text, "\n", 1);
        }
        write_all((const char *)text.data, text.size);
    }
    buf_fini(&text);
}

static void on_dump(void *ctx, int signal_number)
{
    struct daemon *daemon = ctx;

    for (unsigned i = 0; i < daemon->count; i++) {
        env_uv_post(daemon->hosts[i].env, host_dump, &daemon->hosts[i]);
    }
}

/* A level on its way to another thread. */
struct level_change {
    struct host *host;
    enum logger_level level;
};

static void host_set_level(void *ctx)
{
    struct level_change *change = ctx;

    change->host->logger.level = change->level;
    mem_free(change);
}

static void on_reload(void *ctx, int signal_number)
{
    struct daemon *daemon = ctx;
    struct logger *logger = &daemon->hosts[0].logger;
    struct config newer;
    enum config_action action;
    struct err err;
    struct buf rest = { 0 };

    if (config_load(daemon->hosts[0].env, daemon->argc, daemon->argv, environ, &newer, &action,
                    &err)) {
        LOG_ERROR(logger, "reload: %s; nothing was changed", err.text);
        return;
    }
    config_reload(&daemon->config, &newer, &rest);
    config_fini(&newer);
    for (unsigned i = 0; i < daemon->count; i++) {
        struct level_change *change = MEM_NEW(struct level_change);
        change->host = &daemon->hosts[i];
        change->level = daemon->config.log_level;
        env_uv_post(change->host->env, host_set_level, change);
    }
    if (rest.size) {
        LOG_WARN(logger, "reload: a restart is needed for %.*s", (int)rest.size, (char *)rest.data);
    }
    LOG_INFO(logger, "reloaded log-level=%s", logger_level_name(daemon->config.log_level));
    buf_fini(&rest);
}

static int daemon_watch_signals(struct daemon *daemon, struct err *err)
{
    struct env *env = daemon->hosts[0].env;
    int status = env_uv_signal(env, SIGTERM, on_terminate, daemon, err);

    if (!status) {
        status = env_uv_signal(env, SIGINT, on_terminate, daemon, err);
    }
    if (!status) {
        status = env_uv_signal(env, SIGUSR1, on_dump, daemon, err);
    }
    if (!status) {
        status = env_uv_signal(env, SIGHUP, on_reload, daemon, err);
    }
    return status;
}

/* --- The process */

static void raise_file_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

/* Makes the envs; hosts[0].env exists already. */
static int daemon_make_hosts(struct daemon *daemon, struct err *err)
{
    const struct config *config = &daemon->config;
    unsigned count = config->in_process ? (unsigned)config->in_process : 1;

    for (unsigned i = 0; i < count; i++) {
        struct host *host = &daemon->hosts[i];
        int status = host->env ? 0 : env_uv_new(&host->env, err);
        if (status) {
            return status;
        }
        daemon->count = i + 1;
        host->daemon = daemon;
        if (config->in_process) {
            config_of_member(config, i + 1, &host->config);
        } else {
            config_copy(config, &host->config);
        }
        host->logger = (struct logger){ config->log_level, write_line, host, host->config.name };
    }
    return 0;
}

static int daemon_run(struct daemon *daemon)
{
    struct err err;
    unsigned started = 1;

    raise_file_limit();
    if (daemon_make_hosts(daemon, &err) || daemon_watch_signals(daemon, &err)) {
        fprintf(stderr, "cairnd: %s\n", err.text);
        return 1;
    }
    LOG_INFO(&daemon->hosts[0].logger, "cairnd version=%s pid=%ld", CAIRN_VERSION, (long)getpid());
    /* Signals are for the main thread's loop. */
    sigset_t all, old;
    sigfillset(&all);
    CHECK(pthread_sigmask(SIG_BLOCK, &all, &old) == 0);
    for (; started < daemon->count; started++) {
        struct host *host = &daemon->hosts[started];
        int error = pthread_create(&host->thread, NULL, host_main, host);
        CHECK(error == 0);
    }
    CHECK(pthread_sigmask(SIG_SETMASK, &old, NULL) == 0);
    host_run(&daemon->hosts[0]);
    for (unsigned i = 1; i < started; i++) {
        CHECK(pthread_join(daemon->hosts[i].thread, NULL) == 0);
    }
    return atomic_load(&daemon->exit_code);
}

static void print_help(void)
{
    struct buf text = { 0 };

    config_print_help(&text);
    fwrite(text.data, 1, text.size, stdout);
    buf_fini(&text);
}

static void print_config(const struct config *config)
{
    struct buf text = { 0 };

    config_print(config, &text);
    fwrite(text.data, 1, text.size, stdout);
    printf("# the options are right\n");
    buf_fini(&text);
}

int main(int argc, char **argv)
{
    struct daemon *daemon = MEM_NEW(struct daemon);
    enum config_action action;
    struct err err;
    int exit_code = 0;

    daemon->argc = argc;
    daemon->argv = argv;
    if (env_uv_new(&daemon->hosts[0].env, &err)) {
        fprintf(stderr, "cairnd: %s\n", err.text);
        mem_free(daemon);
        return 1;
    }
    int status =
        config_load(daemon->hosts[0].env, argc, argv, environ, &daemon->config, &action, &err);
    if (status) {
        fprintf(stderr, "cairnd: %s (%s)\n", err.text, err_info(status)->name);
        exit_code = 2;
    } else if (action == CONFIG_HELP) {
        print_help();
    } else if (action == CONFIG_VERSION) {
        printf("cairnd %s (protocol %d)\n", CAIRN_VERSION, FRAME_VERSION);
    } else if (action == CONFIG_CHECK) {
        print_config(&daemon->config);
    } else {
        exit_code = daemon_run(daemon);
    }
    for (unsigned i = 0; i < LIMIT_PROCESS_NODES; i++) {
        host_fini(&daemon->hosts[i]);
    }
    config_fini(&daemon->config);
    mem_free(daemon);
    return exit_code;
}
