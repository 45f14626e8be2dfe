/* Starting, finding and ending background processes; see the header for how a reused pid is told
 * apart. */
#include "tools/dev_process.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/check.h"

long long process_now_ms(void)
{
    struct timespec now;

    CHECK(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
    return (long long)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void process_sleep_ms(int ms)
{
    struct timespec pause = { ms / 1000, (long)(ms % 1000) * 1000000 };

    while (nanosleep(&pause, &pause) < 0 && errno == EINTR) {
    }
}

/* --- /proc */

/* State letter and start time of a process; false when there is none. The name in parentheses may
 * hold anything: the last ')' ends it. */
static bool process_stat(pid_t pid, char *state, unsigned long long *start)
{
    char path[64], text[1024];
    bool ok = false;

    snprintf(path, sizeof path, "/proc/%ld/stat", (long)pid);
    FILE *file = fopen(path, "re");
    if (!file) {
        return false;
    }
    size_t size = fread(text, 1, sizeof text - 1, file);
    text[size] = '\0';
    fclose(file);
    const char *at = strrchr(text, ')');
    if (at && at[1] == ' ') {
        *state = at[2];
        at += 3;
        for (int field = 3; field < 21 && at;
             field++) { /* start time is field 22, the state is field 3 */
            at = strchr(at + 1, ' ');
        }
        ok = at && sscanf(at, " %llu", start) == 1;
    }
    return ok;
}

bool process_is_paused(pid_t pid)
{
    char state;
    unsigned long long start;

    return process_stat(pid, &state, &start) && (state == 'T' || state == 't');
}

/* --- Pid files */

int process_open(const char *pid_path, pid_t *pid)
{
    FILE *file = fopen(pid_path, "re");
    long number;
    unsigned long long start, now;
    char state;

    if (!file) {
        return -1;
    }
    int fields = fscanf(file, "%ld %llu", &number, &start);
    fclose(file);
    if (fields != 2 || number <= 1) {
        return -1;
    }
    int fd = (int)syscall(SYS_pidfd_open, (pid_t)number, 0);
    if (fd < 0) {
        return -1;
    }
    /* The descriptor stands for whoever has the pid now; its start time says whether that is ours.
     */
    if (!process_stat((pid_t)number, &state, &now) || now != start || state == 'Z' ||
        state == 'X') {
        close(fd);
        return -1;
    }
    if (pid) {
        *pid = (pid_t)number;
    }
    return fd;
}

bool process_is_running(const char *pid_path)
{
    int fd = process_open(pid_path, NULL);

    if (fd >= 0) {
        close(fd);
    }
    return fd >= 0;
}

bool process_signal(const char *pid_path, int signal_number)
{
    int fd = process_open(pid_path, NULL);
    bool ok = fd >= 0 && syscall(SYS_pidfd_send_signal, fd, signal_number, NULL, 0) == 0;

    if (fd >= 0) {
        close(fd);
    }
    return ok;
}

bool process_wait_end(const char *pid_path, int timeout_ms)
{
    long long deadline = process_now_ms() + timeout_ms;
    int fd = process_open(pid_path, NULL);

    while (fd >= 0) {
        struct pollfd wait = { .fd = fd, .events = POLLIN };
        long long left = deadline - process_now_ms();
        if (left < 0) {
            close(fd);
            return false;
        }
        if (poll(&wait, 1, (int)left) > 0) {
            break;
        }
    }
    if (fd >= 0) {
        close(fd);
    }
    unlink(pid_path);
    return true;
}

bool process_stop(const char *pid_path, int signal_number, int timeout_ms)
{
    if (!process_signal(pid_path, signal_number)) {
        unlink(pid_path);
        return false;
    }
    process_signal(pid_path, SIGCONT); /* a paused one would not see it */
    if (!process_wait_end(pid_path, timeout_ms)) {
        process_signal(pid_path, SIGKILL);
        process_wait_end(pid_path, 5000);
    }
    return true;
}

/* --- Starting: the child reports failures before exec through a pipe that exec closes. */

static _Noreturn void child_fail(int report, const char *what)
{
    char text[200];
    int size = snprintf(text, sizeof text, "%s: %s", what, strerror(errno));

    if (write(report, text, (size_t)size) < 0) {
        _exit(126);
    }
    _exit(127);
}

static void child_write_pid(const char *path, int report)
{
    char state, text[64];
    unsigned long long start;
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

    if (fd < 0 || !process_stat(getpid(), &state, &start)) {
        child_fail(report, path);
    }
    int size = snprintf(text, sizeof text, "%ld %llu\n", (long)getpid(), start);
    if (write(fd, text, (size_t)size) != size) {
        child_fail(report, path);
    }
    close(fd);
}

static void child_become(const char *user, int report)
{
    struct passwd *entry = getpwnam(user);

    if (!entry) {
        errno = ENOENT;
        child_fail(report, user);
    }
    if (initgroups(user, entry->pw_gid) < 0 || setgid(entry->pw_gid) < 0 ||
        setuid(entry->pw_uid) < 0) {
        child_fail(report, user);
    }
    setenv("HOME", entry->pw_dir, 1);
}

static void child_set_environment(char *const *environment)
{
    for (; environment && *environment; environment++) {
        if (strchr(*environment, '=')) {
            putenv(*environment);
        } else {
            unsetenv(*environment);
        }
    }
}

static _Noreturn void child_main(const struct process_spec *spec, int report, bool is_background)
{
    int null = open("/dev/null", O_RDONLY);
    int log = open(spec->log_path, O_WRONLY | O_CREAT | O_APPEND, 0644);

    if (null < 0 || log < 0) {
        child_fail(report, spec->log_path);
    }
    if (is_background) {
        setsid();
        child_write_pid(spec->pid_path, report);
    }
    dup2(null, STDIN_FILENO);
    dup2(log, STDOUT_FILENO);
    dup2(log, STDERR_FILENO);
    if (report != 3) {
        dup2(report, 3);
        report = 3;
    }
    fcntl(report, F_SETFD, FD_CLOEXEC);
    syscall(SYS_close_range, 4u, ~0u,
            0u); /* what the caller happened to have open is nothing for a daemon */
    signal(SIGPIPE, SIG_DFL);
    if (spec->user) {
        child_become(spec->user, report);
    }
    if (chdir(spec->directory ? spec->directory : "/") < 0) {
        child_fail(report, spec->directory ? spec->directory : "/");
    }
    child_set_environment(spec->environment);
    execv(spec->argv[0], spec->argv);
    child_fail(report, spec->argv[0]);
}

static int process_fork(const struct process_spec *spec, bool is_background, pid_t *out,
                        struct err *err)
{
    int ends[2];
    char text[256];

    if (pipe2(ends, O_CLOEXEC) < 0) {
        return err_set(err, ERR_IO, "pipe: %s", strerror(errno));
    }
    fflush(NULL);
    pid_t pid = fork();
    if (pid < 0) {
        close(ends[0]);
        close(ends[1]);
        return err_set(err, ERR_IO, "fork: %s", strerror(errno));
    }
    if (pid == 0) {
        child_main(spec, ends[1], is_background);
    }
    close(ends[1]);
    ssize_t size;
    do {
        size = read(ends[0], text, sizeof text - 1);
    } while (size < 0 && errno == EINTR);
    close(ends[0]);
    if (size > 0) {
        text[size] = '\0';
        waitpid(pid, NULL, 0);
        if (is_background) {
            unlink(spec->pid_path);
        }
        return err_set(err, ERR_IO, "start %.100s: %.120s", spec->argv[0], text);
    }
    *out = pid;
    return 0;
}

int process_start(const struct process_spec *spec, pid_t *pid, struct err *err)
{
    return process_fork(spec, true, pid, err);
}

int process_run(const struct process_spec *spec, struct err *err)
{
    pid_t pid;
    int wait_status;
    int status = process_fork(spec, false, &pid, err);

    if (status) {
        return status;
    }
    while (waitpid(pid, &wait_status, 0) < 0 && errno == EINTR) {
    }
    if (!WIFEXITED(wait_status) || WEXITSTATUS(wait_status) != 0) {
        return err_set(err, ERR_FAILED, "%.100s failed; see %.100s", spec->argv[0], spec->log_path);
    }
    return 0;
}

/* --- Readiness */

int process_notify_open(char name[64], struct err *err)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    socklen_t size = sizeof address;
    int on = 1;
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    /* Binding the bare family gives a free name in the abstract namespace: unix(7), autobind. */
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof on) < 0 ||
        bind(fd, (struct sockaddr *)&address, sizeof address.sun_family) < 0 ||
        getsockname(fd, (struct sockaddr *)&address, &size) < 0) {
        int error = errno;
        if (fd >= 0) {
            close(fd);
        }
        return err_set(err, ERR_IO, "notification socket: %s", strerror(error));
    }
    snprintf(name, 64, "@%.*s", (int)(size - offsetof(struct sockaddr_un, sun_path) - 1),
             address.sun_path + 1);
    return fd;
}

/* One datagram; the sender's pid when it says READY=1, else 0. */
static pid_t notify_take(int fd)
{
    char text[256], control[CMSG_SPACE(sizeof(struct ucred))];
    struct iovec part = { text, sizeof text - 1 };
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control
    };
    ssize_t size = recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

    if (size < 0) {
        return 0;
    }
    text[size] = '\0';
    for (struct cmsghdr *part_of = CMSG_FIRSTHDR(&message); part_of;
         part_of = CMSG_NXTHDR(&message, part_of)) {
        if (part_of->cmsg_level == SOL_SOCKET && part_of->cmsg_type == SCM_CREDENTIALS &&
            strstr(text, "READY=1")) {
            struct ucred sender;
            memcpy(&sender, CMSG_DATA(part_of), sizeof sender);
            return sender.pid;
        }
    }
    return 0;
}

int process_notify_wait(int fd, const char *const *pid_paths, unsigned count, bool *is_ready,
                        long long deadline_ms, struct err *err)
{
    for (;;) {
        unsigned waiting = 0;
        struct pollfd wait = { .fd = fd, .events = POLLIN };
        for (unsigned i = 0; i < count; i++) {
            if (!is_ready[i] && !process_is_running(pid_paths[i])) {
                return err_set(err, ERR_FAILED, "%s: the process ended", pid_paths[i]);
            }
            waiting += !is_ready[i];
        }
        if (!waiting) {
            return 0;
        }
        if (process_now_ms() > deadline_ms) {
            return err_set(err, ERR_TIMEOUT, "%u of %u are not ready", waiting, count);
        }
        if (poll(&wait, 1, 100) > 0) {
            pid_t sender = notify_take(fd);
            for (unsigned i = 0; sender && i < count; i++) {
                pid_t pid = 0;
                int pidfd = process_open(pid_paths[i], &pid);
                is_ready[i] |= pidfd >= 0 && pid == sender;
                if (pidfd >= 0) {
                    close(pidfd);
                }
            }
        }
    }
}
