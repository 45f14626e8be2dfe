/* A local cluster's mount: cairn-fuse on DIR/mnt. A mount whose process was killed stays behind and hangs whoever asks it, so only
 * /proc is asked. */
#include <ctype.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "base/mem.h"
#include "tools/dev_private.h"
#include "tools/dev_process.h"

enum { DEV_MOUNT_MS = 15000 };

/* Undoes /proc's octal escapes (\040 for a blank), in place. */
static void unescape(char *text)
{
    char *to = text;

    for (const char *from = text; *from; to++) {
        if (from[0] == '\\' && isdigit((unsigned char)from[1]) && isdigit((unsigned char)from[2]) &&
            isdigit((unsigned char)from[3])) {
            *to = (char)((from[1] - '0') * 64 + (from[2] - '0') * 8 + (from[3] - '0'));
            from += 4;
        } else {
            *to = *from++;
        }
    }
    *to = '\0';
}

bool dev_mount_is_present(const char *path)
{
    FILE *file = fopen("/proc/self/mountinfo", "re");
    char *line = NULL;
    size_t capacity = 0;
    bool is_present = false;

    while (file && !is_present && getline(&line, &capacity, file) > 0) {
        char *at = line;
        for (int field = 0; field < 4 && at; field++) { /* the mount point is the fifth field */
            at = strchr(at, ' ');
            at = at ? at + 1 : NULL;
        }
        if (at) {
            at[strcspn(at, " ")] = '\0';
            unescape(at);
            is_present = strcmp(at, path) == 0;
        }
    }
    free(line);
    if (file) {
        fclose(file);
    }
    return is_present;
}

static void unmount(const struct dev *dev, const char *path)
{
    char *log = dev_path(dev, "log/mount.log");
    struct err err;

    if (geteuid() == 0) {
        if (umount2(path, 0) < 0) {
            fprintf(stderr,
                    "%s is in use; it is taken out of sight now and ends with its last user\n",
                    path);
            umount2(path, MNT_DETACH);
        }
    } else {
        char *argv[] = { "/usr/bin/fusermount3", "-u", "-z", (char *)path, NULL };
        struct process_spec spec = { .log_path = log, .argv = argv };
        if (process_run(&spec, &err)) {
            fprintf(stderr, "unmount %s: %s\n", path, err.text);
        }
    }
    mem_free(log);
}

static int mount_wait(const char *path, const char *pid_path, const char *log_path, struct err *err)
{
    long long deadline = process_now_ms() + DEV_MOUNT_MS;

    while (!dev_mount_is_present(path)) {
        if (!process_is_running(pid_path)) {
            dev_print_log_end(log_path);
            return err_set(err, ERR_FAILED, "cairn-fuse ended; see %.200s", log_path);
        }
        if (process_now_ms() > deadline) {
            return err_set(err, ERR_TIMEOUT, "%.200s was not mounted in time", path);
        }
        process_sleep_ms(20);
    }
    return 0;
}

int dev_mount_up(const struct dev *dev, struct err *err)
{
    char *program = mem_printf("%s/cairn-fuse", dev->bin);
    char *path = dev_path(dev, "mnt");
    char *pid_path = dev_path(dev, "run/mount.pid");
    char *log_path = dev_path(dev, "log/mount.log");
    char *endpoints = dev_endpoints(dev);
    char *argv[] = { program, "-f", endpoints, path, NULL };
    struct process_spec spec = { .pid_path = pid_path, .log_path = log_path, .argv = argv };
    pid_t pid;
    int status = 0;

    if (process_is_running(pid_path) && dev_mount_is_present(path)) {
        goto out;
    }
    if (dev_mount_is_present(path)) { /* left by a mount that was killed */
        unmount(dev, path);
    }
    status = dev_dir_make(path, 0755, err);
    if (!status) {
        status = process_start(&spec, &pid, err);
    }
    if (!status) {
        status = mount_wait(path, pid_path, log_path, err);
    }
out:
    mem_free(program);
    mem_free(path);
    mem_free(pid_path);
    mem_free(log_path);
    mem_free(endpoints);
    return status;
}

void dev_mount_down(const struct dev *dev)
{
    char *path = dev_path(dev, "mnt");
    char *pid_path = dev_path(dev, "run/mount.pid");

    if (dev_mount_is_present(path)) {
        unmount(dev, path);
    }
    if (!process_wait_end(pid_path, 5000)) {
        process_stop(pid_path, SIGTERM, 5000);
    }
    mem_free(path);
    mem_free(pid_path);
}
