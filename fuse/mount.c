/* cairn-fuse: mounts a cluster's keys as files.
 *
 * One thread, one loop: it waits for the kernel's messages, for the client library and for signals.
 * The process that was started leaves only when the mount stands (or with the exit code that says
 * why it doesn't); a child serves it.
 */
#define FUSE_USE_VERSION 314
#include <fuse_lowlevel.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#include "mount_options.h"
#include "ops.h"

enum {
    EXIT_FAILED = 1,
    EXIT_USAGE = 2,
    MESSAGES_PER_TURN = 32, /* of the kernel, before the cluster has its turn */
};

struct daemon {
    struct mount_options options;
    struct mount mount;
    struct fuse_session *session;
    struct fuse_buf buf;
    int signal_fd,
        parent_fd; /* parent_fd: tells the waiting parent the exit code; -1: nobody waits */
    bool is_ending;
    uint64_t end_us; /* when it stops waiting for commits */
};

static uint64_t now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

/* --- Starting */

static const char *endpoints_of(const struct mount_options *options)
{
    const char *environment = getenv("CAIRN_ENDPOINTS");
    if (options->endpoints[0] != 0) {
        return options->endpoints;
    }
    return environment != NULL && environment[0] != 0 ? environment : NULL;
}

/* One linearizable read: a mount that can't be served is not made. Returns 0 or the exit code. */
static int connect_cluster(struct daemon *daemon, struct cairn **out)
{
    char text[256] = "";
    struct cairn_options options = {
        .endpoints = endpoints_of(&daemon->options),
        .program = "cairn-fuse",
        .timeout_ms = daemon->options.timeout_ms,
    };
    const char *shown = options.endpoints != NULL ? options.endpoints : "127.0.0.1:7400";
    int status = cairn_open(&options, out, text);
    if (status != 0) {
        fprintf(stderr, "cairn-fuse: %s (%s)\n", text, cairn_error(status)->name);
        return cairn_error(status)->exit_code;
    }
    const struct mapping *mapping = &daemon->options.mapping;
    struct cairn_request request = {
        .verb = CAIRN_GET_META,
        .key = mapping->prefix_size > 0 ? (const void *)mapping->prefix : "/",
        .key_size = mapping->prefix_size > 0 ? mapping->prefix_size : 1,
    };
    struct cairn_result result = { 0 };
    status = cairn_call(*out, &request, &result);
    cairn_result_free(&result);
    if (status != 0 && status != CAIRN_NOT_FOUND) {
        fprintf(stderr, "cairn-fuse: %s: %s (%s)\n", shown, cairn_error(status)->text,
                cairn_error(status)->name);
        cairn_close(*out);
        return cairn_error(status)->exit_code;
    }
    return 0;
}

static void append_escaped(char *to, size_t capacity, const char *text)
{
    size_t used = strlen(to);
    for (; *text != 0 && used + 3 < capacity; text++) {
        if (*text == ',' || *text == '\\') {
            to[used++] = '\\';
        }
        to[used++] = *text;
    }
    to[used] = 0;
}

static bool open_session(struct daemon *daemon)
{
    const struct mount_options *options = &daemon->options;
    char text[3 * MOUNT_OPTIONS_TEXT_MAX] = "default_permissions,subtype=cairn,fsname=";
    append_escaped(text, sizeof text - MOUNT_OPTIONS_TEXT_MAX,
                   options->source[0] != 0 ? options->source : "cairn");
    strcat(text, options->kernel);
    char *argv[] = { "cairn-fuse", "-o", text, "-d", NULL };
    struct fuse_args arguments = FUSE_ARGS_INIT(options->is_debug ? 4 : 3, argv);
    daemon->session =
        fuse_session_new(&arguments, &mount_operations, sizeof mount_operations, &daemon->mount);
    fuse_opt_free_args(&arguments);
    return daemon->session != NULL;
}

/* SIGTERM and SIGINT end the mount; they are read as messages. */
static int open_signals(void)
{
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGHUP);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    signal(SIGPIPE, SIG_IGN);
    return signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC);
}

static void set_defaults(struct mount *mount, const struct mount_options *options)
{
    mount->uid = options->has_uid ? options->uid : getuid();
    mount->gid = options->has_gid ? options->gid : getgid();
    if (options->has_umask) {
        mount->file_mode = 0666 & ~options->umask;
        mount->directory_mode = 0777 & ~options->umask;
    }
}

/* Returns 0 when the mount stands, else the exit code. */
static int start(struct daemon *daemon)
{
    struct stat stat_buf;
    struct cairn *cairn = NULL;
    if (stat(daemon->options.mountpoint, &stat_buf) != 0 || !S_ISDIR(stat_buf.st_mode)) {
        fprintf(stderr, "cairn-fuse: %s: %s\n", daemon->options.mountpoint,
                errno != 0 ? strerror(errno) : "not a directory");
        return EXIT_FAILED;
    }
    int code = connect_cluster(daemon, &cairn);
    if (code != 0) {
        return code;
    }
    mount_init(&daemon->mount, cairn, &daemon->options.mapping);
    set_defaults(&daemon->mount, &daemon->options);
    daemon->signal_fd = open_signals();
    if (!open_session(daemon) ||
        fuse_session_mount(daemon->session, daemon->options.mountpoint) != 0) {
        fprintf(stderr, "cairn-fuse: cannot mount on %s\n", daemon->options.mountpoint);
        return EXIT_FAILED;
    }
    int fd = fuse_session_fd(daemon->session);
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    return 0;
}

/* --- The loop */

/* False when the kernel has let go of the mount. */
static bool serve_kernel(struct daemon *daemon)
{
    for (int i = 0; i < MESSAGES_PER_TURN; i++) {
        int size = fuse_session_receive_buf(daemon->session, &daemon->buf);
        if (size == -EAGAIN || size == -EINTR) {
            return true;
        }
        if (size <= 0) {
            return false;
        }
        fuse_session_process_buf(daemon->session, &daemon->buf);
        mount_handle_interrupts(&daemon->mount);
        if (fuse_session_exited(daemon->session)) {
            return false;
        }
    }
    return true;
}

static void take_signals(struct daemon *daemon)
{
    struct signalfd_siginfo info;
    while (read(daemon->signal_fd, &info, sizeof info) == (ssize_t)sizeof info) {
        if (info.ssi_signo != SIGHUP && !daemon->is_ending) {
            daemon->is_ending = true;
            daemon->end_us = now_us() + (uint64_t)daemon->options.timeout_ms * 1000;
        }
    }
}

/* After a signal: waits, as long as a request may take, for what was written and not closed yet. */
static bool may_end(struct daemon *daemon)
{
    return daemon->is_ending && (!mount_commit_all(&daemon->mount) || now_us() >= daemon->end_us);
}

static void loop(struct daemon *daemon)
{
    struct cairn *cairn = daemon->mount.cairn;
    bool is_mounted = true;
    while (is_mounted && !may_end(daemon)) {
        struct pollfd fds[] = {
            { .fd = fuse_session_fd(daemon->session), .events = POLLIN },
            { .fd = cairn_fd(cairn), .events = POLLIN },
            { .fd = daemon->signal_fd, .events = POLLIN },
        };
        int timeout_ms = cairn_timeout_ms(cairn);
        if (daemon->is_ending && (timeout_ms < 0 || timeout_ms > 100)) {
            timeout_ms = 100;
        }
        if (poll(fds, 3, timeout_ms) < 0 && errno != EINTR) {
            syslog(LOG_ERR, "poll failed error=%s", strerror(errno));
            return;
        }
        if (fds[0].revents != 0) {
            is_mounted = serve_kernel(daemon);
        }
        cairn_step(cairn);
        if (fds[2].revents != 0) {
            take_signals(daemon);
        }
    }
    /* Unmounted by others: commits of closed files may still be under way. */
    uint64_t end_us = now_us() + (uint64_t)daemon->options.timeout_ms * 1000;
    while (!is_mounted && mount_commit_all(&daemon->mount) && now_us() < end_us) {
        struct pollfd fd = { .fd = cairn_fd(cairn), .events = POLLIN };
        int timeout_ms = cairn_timeout_ms(cairn);
        poll(&fd, 1, timeout_ms < 0 || timeout_ms > 100 ? 100 : timeout_ms);
        cairn_step(cairn);
    }
}

/* --- The process */

static void report(struct daemon *daemon, int code)
{
    unsigned char byte = (unsigned char)code;
    if (daemon->parent_fd >= 0) {
        if (write(daemon->parent_fd, &byte, 1) != 1) {
            syslog(LOG_WARNING, "the starting process is gone");
        }
        close(daemon->parent_fd);
        daemon->parent_fd = -1;
    }
}

/* In the child: no terminal, no folder kept busy, nothing printed any more. */
static void detach(void)
{
    int null = open("/dev/null", O_RDWR);
    if (chdir("/") != 0) {
        syslog(LOG_WARNING, "chdir failed error=%s", strerror(errno));
    }
    for (int fd = 0; fd < 3 && null >= 0; fd++) {
        dup2(null, fd);
    }
    if (null > 2) {
        close(null);
    }
}

static int serve(struct daemon *daemon)
{
    int code = start(daemon);
    bool is_background = daemon->parent_fd >= 0;
    if (code == 0) {
        openlog("cairn-fuse", LOG_PID | (is_background ? 0 : LOG_PERROR), LOG_DAEMON);
        if (is_background) {
            detach();
        }
    }
    report(daemon, code);
    if (code != 0) {
        return code;
    }
    loop(daemon);
    fuse_session_unmount(daemon->session);
    return 0;
}

/* The parent leaves with the child's code, and only when the mount stands. */
static int await_child(int fd, pid_t child)
{
    unsigned char code = EXIT_FAILED;
    ssize_t got;
    do {
        got = read(fd, &code, 1);
    } while (got < 0 && errno == EINTR);
    if (got != 1) {
        fprintf(stderr, "cairn-fuse: the serving process %ld ended early\n", (long)child);
    }
    return code;
}

static int run_background(struct daemon *daemon)
{
    int fds[2];
    if (pipe2(fds, O_CLOEXEC) != 0) {
        perror("cairn-fuse: pipe");
        return EXIT_FAILED;
    }
    pid_t child = fork();
    if (child < 0) {
        perror("cairn-fuse: fork");
        return EXIT_FAILED;
    }
    if (child > 0) {
        close(fds[1]);
        return await_child(fds[0], child);
    }
    close(fds[0]);
    setsid();
    daemon->parent_fd = fds[1];
    return serve(daemon);
}

int main(int argc, char **argv)
{
    char error[MOUNT_OPTIONS_ERROR_MAX];
    struct daemon daemon = { .parent_fd = -1 };
    if (!mount_options_parse(argc, argv, &daemon.options, error)) {
        fprintf(stderr, "cairn-fuse: %s\n%s", error, mount_options_usage);
        return EXIT_USAGE;
    }
    if (daemon.options.is_help) {
        fputs(mount_options_usage, stdout);
        return 0;
    }
    if (daemon.options.is_version) {
        printf("cairn-fuse 0.1 (libfuse %s)\n", fuse_pkgversion());
        return 0;
    }
    if (daemon.options.is_fake) {
        return 0;
    }
    /* exit, so that what still hangs off the daemon counts as reachable: the kernel may hold
     * requests that nobody will answer. */
    exit(daemon.options.is_foreground ? serve(&daemon) : run_background(&daemon));
}
