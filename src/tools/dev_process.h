/* Background processes that outlive the command that starts them: started with a pid file, found and signalled by it later.
 *
 * A pid file holds "PID START", START being the process's start time from /proc. Signals go through a pidfd that was opened before the start
 * time was compared: a pid that was given to another process meanwhile is never signalled. */
#ifndef TOOLS_DEV_PROCESS_H
#define TOOLS_DEV_PROCESS_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/err.h"

struct process_spec {
    const char *pid_path;    /* written before the program runs */
    const char *log_path;    /* standard output and error are appended there */
    char *const *argv;       /* argv[0] is the program's path */
    char *const *environment; /* "NAME=value" set, "NAME" unset, on top of ours; NULL-terminated; NULL: none */
    const char *user;        /* run as this user (we are root); NULL: as we are */
    const char *directory;   /* working directory; NULL: "/" */
};

/* Starts it in a session of its own. ERR_IO with the reason when the program can't be run. */
int process_start(const struct process_spec *spec, pid_t *pid, struct err *err);
/* Runs a program to its end with output to log_path (pid_path is not used); ERR_FAILED when its exit code is not 0. */
int process_run(const struct process_spec *spec, struct err *err);

/* A pidfd of the process in the pid file, to be closed; -1 when it does not run (any more). *pid NULL allowed. */
int process_open(const char *pid_path, pid_t *pid);
bool process_is_running(const char *pid_path);
bool process_is_paused(pid_t pid);
/* False when it does not run. */
bool process_signal(const char *pid_path, int signal_number);
/* Waits for its end; false when it still runs after timeout_ms. Removes the pid file at the end. */
bool process_wait_end(const char *pid_path, int timeout_ms);
/* Signals, waits, and after timeout_ms kills. False when it did not run. */
bool process_stop(const char *pid_path, int signal_number, int timeout_ms);

/* A datagram socket in the abstract namespace that daemons report to (sd_notify's protocol). `name` goes into NOTIFY_SOCKET. */
int process_notify_open(char name[64], struct err *err);
/* Waits until the process said READY=1. ERR_FAILED when it ended first, ERR_TIMEOUT. The clock is the caller's: deadline from process_now_ms. */
int process_notify_wait(int fd, const char *const *pid_paths, unsigned count, bool *is_ready, long long deadline_ms, struct err *err);
long long process_now_ms(void);
void process_sleep_ms(int ms);

#endif
