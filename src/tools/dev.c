/* Local clusters. A cluster is a folder; what runs is found by pid files in it, so every command
 * finds what another one started.
 *
 *   DIR/state       "name = value" lines: nodes, port-base, in-process, pg-temp. Its presence makes
 *                   DIR a cluster's folder
 *   DIR/data/nK     the nodes' data
 *   DIR/log/        their output
 *   DIR/run/        pid files
 *   DIR/env         for `. DIR/env`: CAIRN_ENDPOINTS, PATH, PGHOST, PGPORT, PGUSER, PGDATABASE
 *   DIR/mnt         the mount
 *   DIR/pg          link to the PostgreSQL socket's folder
 *   DIR/postgres    its files
 *   DIR/lock        held while a command changes something
 *
 * Ports are chosen when the folder is new: the nodes' addresses are part of the cluster from then
 * on.
 *
 * `up` starts what does not run and leaves the rest alone. A node counts as up when it says so
 * itself (READY=1: every group that it holds has a primary), and the cluster when a linearizable
 * read has come back through the client library. */
#include "tools/dev.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "base/limits.h"
#include "base/mem.h"
#include "client/cairn.h"
#include "tools/dev_pg.h"
#include "tools/dev_process.h"

enum {
    DEV_NODES = 3,
    DEV_PORT_BASE = 7401,
    DEV_READY_MS = 60000,
    DEV_STOP_MS = 40000, /* a daemon gives itself 30 s */
    DEV_MOUNT_MS = 15000,
    DEV_PORT_TRIES = 200,
};

struct dev {
    char *dir; /* absolute */
    char *bin; /* the folder of this program */
    unsigned nodes, port_base;
    bool in_process;
    char *pg_temp;
    bool exists; /* DIR/state was there */
    int lock;
};

/* What the command line says. */
struct dev_options {
    const char *command, *dir, *argument;
    unsigned nodes, port_base; /* 0: not given */
    bool mount, pg, in_process, help;
};

/* --- Paths */

static char *dev_path(const struct dev *dev, const char *name)
{
    return mem_printf("%s/%s", dev->dir, name);
}

static char *node_pid_path(const struct dev *dev, unsigned number)
{
    return dev->in_process ? dev_path(dev, "run/nodes.pid")
                           : mem_printf("%s/run/n%u.pid", dev->dir, number);
}

static char *node_log_path(const struct dev *dev, unsigned number)
{
    return dev->in_process ? dev_path(dev, "log/nodes.log")
                           : mem_printf("%s/log/n%u.log", dev->dir, number);
}

/* Processes that host nodes: one for all, or one each. */
static unsigned process_count(const struct dev *dev)
{
    return dev->in_process ? 1 : dev->nodes;
}

static char *dev_endpoints(const struct dev *dev)
{
    struct buf out = { 0 };

    for (unsigned i = 0; i < dev->nodes; i++) {
        buf_printf(&out, "%s127.0.0.1:%u", i ? "," : "", dev->port_base + i);
    }
    buf_append(&out, "", 1);
    return (char *)out.data;
}

static char *dev_bootstrap(const struct dev *dev)
{
    struct buf out = { 0 };

    for (unsigned i = 0; i < dev->nodes; i++) {
        buf_printf(&out, "%sn%u=127.0.0.1:%u", i ? "," : "", i + 1, dev->port_base + i);
    }
    buf_append(&out, "", 1);
    return (char *)out.data;
}

/* --- State */

static void state_line(struct dev *dev, char *line)
{
    char *value = strstr(line, " = ");

    line[strcspn(line, "\n")] = '\0';
    if (!value) {
        return;
    }
    *value = '\0';
    value += 3;
    if (strcmp(line, "nodes") == 0) {
        dev->nodes = (unsigned)strtoul(value, NULL, 10);
    } else if (strcmp(line, "port-base") == 0) {
        dev->port_base = (unsigned)strtoul(value, NULL, 10);
    } else if (strcmp(line, "in-process") == 0) {
        dev->in_process = strcmp(value, "yes") == 0;
    } else if (strcmp(line, "pg-temp") == 0 && *value) {
        mem_free(dev->pg_temp);
        dev->pg_temp = mem_strdup(value);
    }
}

static int state_read(struct dev *dev, struct err *err)
{
    char *path = dev_path(dev, "state");
    FILE *file = fopen(path, "re");
    char line[512];

    dev->exists = file != NULL;
    while (file && fgets(line, sizeof line, file)) {
        state_line(dev, line);
    }
    if (file) {
        fclose(file);
    }
    mem_free(path);
    if (dev->exists && (dev->nodes < 1 || dev->nodes > LIMIT_PROCESS_NODES || dev->port_base < 1 ||
                        dev->port_base > 65535 - LIMIT_PROCESS_NODES)) {
        return err_set(err, ERR_FORMAT, "%.200s/state is not understood", dev->dir);
    }
    return 0;
}

static int file_replace(const char *path, const struct buf *text, struct err *err)
{
    char *temporary = mem_printf("%s.new", path);
    FILE *file = fopen(temporary, "we");
    int status = 0;

    if (!file || fwrite(text->data, 1, text->size, file) != text->size || fflush(file) != 0 ||
        rename(temporary, path) < 0) {
        status = err_set(err, ERR_IO, "write %.200s: %s", path, strerror(errno));
    }
    if (file) {
        fclose(file);
    }
    mem_free(temporary);
    return status;
}

static int state_write(const struct dev *dev, struct err *err)
{
    struct buf text = { 0 };
    char *path = dev_path(dev, "state");

    buf_printf(&text, "nodes = %u\nport-base = %u\nin-process = %s\npg-temp = %s\n", dev->nodes,
               dev->port_base, dev->in_process ? "yes" : "no", dev->pg_temp ? dev->pg_temp : "");
    int status = file_replace(path, &text, err);
    buf_fini(&text);
    mem_free(path);
    return status;
}

/* 'text' for a shell, whatever is in it. */
static void buf_quote(struct buf *out, const char *text)
{
    buf_append(out, "'", 1);
    for (; *text; text++) {
        if (*text == '\'') {
            buf_printf(out, "'\\''");
        } else {
            buf_append(out, text, 1);
        }
    }
    buf_append(out, "'", 1);
}

/* The PostgreSQL lines stand there as soon as there is a server, running or not. */
static int env_write(const struct dev *dev, struct err *err)
{
    struct buf text = { 0 };
    char *path = dev_path(dev, "env");
    char *endpoints = dev_endpoints(dev);

    buf_printf(&text,
               "# Made by `cairn dev up`; read it with `. FILE`.\nexport CAIRN_ENDPOINTS='%s'\n",
               endpoints);
    buf_printf(&text, "case \":$PATH:\" in *:");
    buf_quote(&text, dev->bin);
    buf_printf(&text, ":*) ;; *) export PATH=");
    buf_quote(&text, dev->bin);
    buf_printf(&text, ":\"$PATH\" ;; esac\n");
    if (dev->pg_temp) {
        buf_printf(&text, "export PGHOST='%s' PGPORT=5432 PGUSER='%s' PGDATABASE=postgres\n",
                   dev->pg_temp, dev_pg_user());
    }
    int status = file_replace(path, &text, err);
    mem_free(path);
    mem_free(endpoints);
    buf_fini(&text);
    return status;
}

/* --- The folder */

static int dir_make(const char *path, mode_t mode, struct err *err)
{
    if (mkdir(path, mode) < 0 && errno != EEXIST) {
        return err_set(err, ERR_IO, "make %.200s: %s", path, strerror(errno));
    }
    return 0;
}

static int dev_make_folders(const struct dev *dev, struct err *err)
{
    static const char *const names[] = { "data", "log", "run" };
    int status = 0;

    for (size_t i = 0; !status && i < sizeof names / sizeof names[0]; i++) {
        char *path = dev_path(dev, names[i]);
        status = dir_make(path, i ? 0755 : 0700, err);
        mem_free(path);
    }
    return status;
}

/* Opens DIR, made when `make`, and takes its lock. */
static int dev_open(struct dev *dev, const char *dir, bool make, struct err *err)
{
    char path[PATH_MAX];
    int status = 0;

    dev->lock = -1;
    /* 0755: a PostgreSQL server of another user has its files below; what must be private is so by
     * itself. */
    if (make && (status = dir_make(dir, 0755, err))) {
        return status;
    }
    if (!realpath(dir, path)) {
        return err_set(err, ERR_NOT_FOUND, "%.200s: %s; `cairn dev up` makes a cluster", dir,
                       strerror(errno));
    }
    dev->dir = mem_strdup(path);
    ssize_t size = readlink("/proc/self/exe", path, sizeof path - 1);
    if (size < 0) {
        return err_set(err, ERR_IO, "/proc/self/exe: %s", strerror(errno));
    }
    path[size] = '\0';
    *strrchr(path, '/') = '\0';
    dev->bin = mem_strdup(path);
    status = state_read(dev, err);
    if (!status && !make && !dev->exists) {
        status = err_set(err, ERR_NOT_FOUND,
                         "there is no cluster in %.200s; `cairn dev up` makes one", dev->dir);
    }
    return status;
}

static int dev_take_lock(struct dev *dev, struct err *err)
{
    char *path = dev_path(dev, "lock");
    int status = 0;

    dev->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (dev->lock < 0 || flock(dev->lock, LOCK_EX) < 0) {
        status = err_set(err, ERR_IO, "lock %.200s: %s", path, strerror(errno));
    }
    mem_free(path);
    return status;
}

static void dev_fini(struct dev *dev)
{
    if (dev->lock >= 0) {
        close(dev->lock);
    }
    mem_free(dev->dir);
    mem_free(dev->bin);
    mem_free(dev->pg_temp);
}

/* --- Ports */

static bool port_is_free(unsigned port)
{
    struct sockaddr_in address = { .sin_family = AF_INET,
                                   .sin_port = htons((uint16_t)port),
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int on = 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool is_free = fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0 &&
                   bind(fd, (struct sockaddr *)&address, sizeof address) == 0 && listen(fd, 1) == 0;

    if (fd >= 0) {
        close(fd);
    }
    return is_free;
}

static bool ports_are_free(unsigned base, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        if (!port_is_free(base + i)) {
            return false;
        }
    }
    return true;
}

/* For a new cluster: the first free range from the wanted base on, in steps of ten. */
static int choose_ports(struct dev *dev, struct err *err)
{
    unsigned wanted = dev->port_base;

    for (unsigned try = 0; try < DEV_PORT_TRIES && dev->port_base + dev->nodes <= 65536;
         try++, dev->port_base += 10) {
        if (ports_are_free(dev->port_base, dev->nodes)) {
            if (dev->port_base != wanted) {
                printf("ports from %u are taken; using %u to %u\n", wanted, dev->port_base,
                       dev->port_base + dev->nodes - 1);
            }
            return 0;
        }
    }
    return err_set(err, ERR_IO, "no %u free ports in a row from %u on", dev->nodes, wanted);
}

/* --- Nodes */

static int node_start_process(const struct dev *dev, unsigned number, const char *notify,
                              struct err *err)
{
    char *program = mem_printf("%s/cairnd", dev->bin);
    char *name = mem_printf("n%u", number);
    char *data =
        dev->in_process ? dev_path(dev, "data") : mem_printf("%s/data/n%u", dev->dir, number);
    char *listen = mem_printf("127.0.0.1:%u", dev->port_base + number - 1);
    char *bootstrap = dev_bootstrap(dev);
    char *count = mem_printf("%u", dev->nodes);
    char *base = mem_printf("%u", dev->port_base);
    char *socket = mem_printf("NOTIFY_SOCKET=%s", notify);
    char *pid_path = node_pid_path(dev, number);
    char *log_path = node_log_path(dev, number);
    char *one[] = { program,    "--name", name,          "--data",  data,
                    "--listen", listen,   "--bootstrap", bootstrap, NULL };
    char *all[] = { program, "--in-process", count, "--data", data, "--port-base", base, NULL };
    /* Tuning by CAIRN_… passes through; what says who the node is comes from here alone. */
    char *environment[] = {
        socket,       "CAIRN_CONFIG",    "CAIRN_STANDALONE", "CAIRN_ADVERTISE", "CAIRN_IN_PROCESS",
        "CAIRN_NAME", "CAIRN_BOOTSTRAP", "CAIRN_LISTEN",     "CAIRN_DATA",      "CAIRN_PORT_BASE",
        NULL
    };
    struct process_spec spec = { .pid_path = pid_path,
                                 .log_path = log_path,
                                 .argv = dev->in_process ? all : one,
                                 .environment = environment };
    pid_t pid;
    int status = process_start(&spec, &pid, err);

    char *owned[] = { program, name, data,   listen,   bootstrap,
                      count,   base, socket, pid_path, log_path };
    for (size_t i = 0; i < sizeof owned / sizeof owned[0]; i++) {
        mem_free(owned[i]);
    }
    return status;
}

/* The last lines of a log, for an error. */
static void print_log_end(const char *path)
{
    char text[2048];
    FILE *file = fopen(path, "re");

    if (!file) {
        return;
    }
    if (fseek(file, -(long)(sizeof text - 1), SEEK_END) != 0) {
        rewind(file);
    }
    size_t size = fread(text, 1, sizeof text - 1, file);
    text[size] = '\0';
    fclose(file);
    char *from = text + size;
    for (int lines = 0; from > text && lines < 6; from--) {
        lines += from[-1] == '\n';
    }
    fprintf(stderr, "--- the end of %s:\n%s---\n", path, from[0] == '\n' ? from + 1 : from);
}

/* Starts the processes from..to that don't run, and waits until all that it started are ready. */
static int nodes_start(const struct dev *dev, unsigned from, unsigned to, struct err *err)
{
    char notify[64];
    char *pid_paths[LIMIT_PROCESS_NODES];
    unsigned numbers[LIMIT_PROCESS_NODES];
    bool is_ready[LIMIT_PROCESS_NODES] = { false };
    unsigned count = 0;
    int fd = process_notify_open(notify, err);
    int status = fd < 0 ? fd : 0;

    for (unsigned number = from; !status && number <= to; number++) {
        char *path = node_pid_path(dev, number);
        if (process_is_running(path)) {
            mem_free(path);
            continue;
        }
        numbers[count] = number;
        pid_paths[count++] = path;
        status = node_start_process(dev, number, notify, err);
    }
    if (!status && count) {
        long long deadline = process_now_ms() + DEV_READY_MS;
        status =
            process_notify_wait(fd, (const char *const *)pid_paths, count, is_ready, deadline, err);
    }
    for (unsigned i = 0; i < count; i++) {
        if (status && !is_ready[i]) {
            char *log = node_log_path(dev, numbers[i]);
            print_log_end(log);
            mem_free(log);
        }
        mem_free(pid_paths[i]);
    }
    if (fd >= 0) {
        close(fd);
    }
    return status;
}

/* A read through the client library: what a user would see. */
static int cluster_check(const struct dev *dev, struct err *err)
{
    char *endpoints = dev_endpoints(dev);
    struct cairn_options options = { .endpoints = endpoints,
                                     .program = "cairn dev",
                                     .timeout_ms = 20000 };
    struct cairn_request request = { .verb = CAIRN_GET, .key = "dev", .key_size = 3 };
    struct cairn_result result = { 0 };
    struct cairn *cairn;
    int status = cairn_open(&options, &cairn, err->text);

    if (!status) {
        status = cairn_call(cairn, &request, &result);
        if (status == CAIRN_NOT_FOUND) {
            status = 0;
        }
        if (status) {
            err_set(err, status, "the cluster does not answer: %.200s", cairn_last_error(cairn));
        }
        cairn_result_free(&result);
        cairn_close(cairn);
    }
    err->code = status;
    mem_free(endpoints);
    return status;
}

/* All nodes at once, so that they stop at once. */
static void nodes_stop(const struct dev *dev)
{
    for (unsigned number = 1; number <= process_count(dev); number++) {
        char *path = node_pid_path(dev, number);
        process_signal(path, SIGTERM);
        process_signal(path, SIGCONT);
        mem_free(path);
    }
    for (unsigned number = 1; number <= process_count(dev); number++) {
        char *path = node_pid_path(dev, number);
        if (!process_wait_end(path, DEV_STOP_MS)) {
            fprintf(stderr, "n%u does not stop; it is killed (its log is durable)\n", number);
            process_signal(path, SIGKILL);
            process_wait_end(path, 5000);
        }
        mem_free(path);
    }
}

/* --- The mount */

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

/* Asked of /proc, never of the mount itself: that one may hang. */
static bool mount_is_present(const char *path)
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

    while (!mount_is_present(path)) {
        if (!process_is_running(pid_path)) {
            print_log_end(log_path);
            return err_set(err, ERR_FAILED, "cairn-fuse ended; see %.200s", log_path);
        }
        if (process_now_ms() > deadline) {
            return err_set(err, ERR_TIMEOUT, "%.200s was not mounted in time", path);
        }
        process_sleep_ms(20);
    }
    return 0;
}

static int mount_up(const struct dev *dev, struct err *err)
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

    if (process_is_running(pid_path) && mount_is_present(path)) {
        goto out;
    }
    if (mount_is_present(path)) { /* left by a mount that was killed */
        unmount(dev, path);
    }
    status = dir_make(path, 0755, err);
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

static void mount_down(const struct dev *dev)
{
    char *path = dev_path(dev, "mnt");
    char *pid_path = dev_path(dev, "run/mount.pid");

    if (mount_is_present(path)) {
        unmount(dev, path);
    }
    if (!process_wait_end(pid_path, 5000)) {
        process_stop(pid_path, SIGTERM, 5000);
    }
    mem_free(path);
    mem_free(pid_path);
}

/* --- PostgreSQL */

static struct dev_pg pg_of(struct dev *dev, const char *extension, const char *program,
                           const char *endpoints)
{
    return (struct dev_pg){ .dir = dev->dir,
                            .extension = extension,
                            .program = program,
                            .endpoints = endpoints,
                            .temp = dev->pg_temp };
}

static int pg_up(struct dev *dev, struct err *err)
{
    char *program = mem_printf("%s/cairn", dev->bin);
    char *beside = mem_printf("%s/../pgext", dev->bin); /* a build folder */
    char *library = mem_printf("%s/cairn_fdw.so", beside);
    char *endpoints = dev_endpoints(dev);
    struct dev_pg pg = pg_of(dev, access(library, R_OK) == 0 ? beside : NULL, program, endpoints);
    int status = dev_pg_up(&pg, err);

    dev->pg_temp = pg.temp;
    /* Remembered also after a failure: `destroy` removes the folder. */
    struct err ignored;
    state_write(dev, &ignored);
    env_write(dev, &ignored);
    mem_free(program);
    mem_free(beside);
    mem_free(library);
    mem_free(endpoints);
    return status;
}

/* --- Commands */

static void print_process(const char *name, const char *where, const char *pid_path)
{
    pid_t pid;
    int fd = process_open(pid_path, &pid);

    if (fd >= 0) {
        printf("  %-9s %-34s %s  pid %ld\n", name, where,
               process_is_paused(pid) ? "paused " : "running", (long)pid);
        close(fd);
    } else {
        printf("  %-9s %-34s stopped\n", name, where);
    }
}

static int dev_status(struct dev *dev, const struct dev_options *options, struct err *err)
{
    char *mount = dev_path(dev, "mnt");
    char *mount_pid = dev_path(dev, "run/mount.pid");
    char *pg = dev_path(dev, "pg");
    char *pg_pid = dev_path(dev, "run/postgres.pid");

    printf("cluster in %s%s\n", dev->dir, dev->in_process ? ", all nodes in one process" : "");
    for (unsigned number = 1; number <= dev->nodes; number++) {
        char name[16], where[32];
        char *pid_path = node_pid_path(dev, number);
        snprintf(name, sizeof name, "n%u", number);
        snprintf(where, sizeof where, "127.0.0.1:%u", dev->port_base + number - 1);
        print_process(name, where, pid_path);
        mem_free(pid_path);
    }
    if (mount_is_present(mount) || process_is_running(mount_pid)) {
        print_process("mount", mount, mount_pid);
    }
    if (dev->pg_temp) {
        print_process("postgres", pg, pg_pid);
    }
    mem_free(mount);
    mem_free(mount_pid);
    mem_free(pg);
    mem_free(pg_pid);
    return 0;
}

/* Options against what the folder's cluster is. */
static int up_settle(struct dev *dev, const struct dev_options *options, struct err *err)
{
    if (!dev->exists) {
        dev->nodes = options->nodes ? options->nodes : DEV_NODES;
        dev->port_base = options->port_base ? options->port_base : DEV_PORT_BASE;
        dev->in_process = options->in_process;
        return choose_ports(dev, err);
    }
    if (options->nodes && options->nodes != dev->nodes) {
        return err_set(
            err, ERR_USAGE,
            "the cluster in %.150s has %u nodes; `cairn dev destroy` first to make another",
            dev->dir, dev->nodes);
    }
    if (options->port_base && options->port_base != dev->port_base) {
        printf("the cluster exists with ports from %u; --port-base is for new ones\n",
               dev->port_base);
    }
    if (options->in_process != dev->in_process) {
        bool is_running = false;
        for (unsigned number = 1; number <= process_count(dev); number++) {
            char *path = node_pid_path(dev, number);
            is_running |= process_is_running(path);
            mem_free(path);
        }
        if (is_running && options->in_process) {
            return err_set(err, ERR_USAGE,
                           "the nodes run in processes of their own; `cairn dev down` first");
        }
        if (!is_running) {
            dev->in_process = options->in_process;
        }
    }
    for (unsigned number = 1; number <= dev->nodes; number++) {
        char *path = node_pid_path(dev, number);
        bool is_taken = !process_is_running(path) && !port_is_free(dev->port_base + number - 1);
        mem_free(path);
        if (is_taken) {
            return err_set(err, ERR_IO,
                           "port %u is taken by another program, and the addresses of an existing "
                           "cluster can't move; end that "
                           "program, or `cairn dev destroy`",
                           dev->port_base + number - 1);
        }
    }
    return 0;
}

static int dev_up(struct dev *dev, const struct dev_options *options, struct err *err)
{
    int status = up_settle(dev, options, err);

    if (!status) {
        status = dev_make_folders(dev, err);
    }
    if (!status) {
        status = state_write(dev, err);
    }
    if (!status) {
        status = env_write(dev, err);
    }
    if (!status) {
        printf("starting %u node%s on 127.0.0.1:%u…\n", dev->nodes, dev->nodes > 1 ? "s" : "",
               dev->port_base);
        fflush(stdout);
        status = nodes_start(dev, 1, process_count(dev), err);
    }
    if (!status) {
        status = cluster_check(dev, err);
    }
    if (!status && options->mount) {
        status = mount_up(dev, err);
    }
    if (!status && options->pg) {
        printf("starting PostgreSQL…\n");
        fflush(stdout);
        status = pg_up(dev, err);
    }
    if (!status) {
        status = dev_status(dev, options, err);
        printf("go on with:  . %s/env\n", options->dir);
    }
    return status;
}

static int dev_down(struct dev *dev, const struct dev_options *options, struct err *err)
{
    struct dev_pg pg = pg_of(dev, NULL, NULL, NULL);

    dev_pg_down(&pg);
    mount_down(dev);
    nodes_stop(dev);
    printf("stopped; the data stays in %s\n", dev->dir);
    return 0;
}

static int dev_destroy(struct dev *dev, const struct dev_options *options, struct err *err)
{
    static const char *const trees[] = { "data", "log", "run" };
    static const char *const files[] = { "env", "state", "lock" };
    struct dev_pg pg = pg_of(dev, NULL, NULL, NULL);
    char *mount = dev_path(dev, "mnt");
    int status = 0;

    dev_pg_destroy(&pg);
    mount_down(dev);
    nodes_stop(dev);
    if (mount_is_present(mount)) {
        status = err_set(err, ERR_IO, "%.200s is still mounted; nothing more is removed", mount);
        goto out;
    }
    rmdir(mount); /* never a tree: what lies below is the cluster's */
    for (size_t i = 0; i < sizeof trees / sizeof trees[0]; i++) {
        char *path = dev_path(dev, trees[i]);
        if (!dev_remove_tree(path)) {
            status = err_set(err, ERR_IO, "%.200s could not be removed", path);
        }
        mem_free(path);
    }
    for (size_t i = 0; !status && i < sizeof files / sizeof files[0]; i++) {
        char *path = dev_path(dev, files[i]);
        unlink(path);
        mem_free(path);
    }
    if (!status) {
        rmdir(dev->dir); /* stays when somebody keeps files of his own in it */
        printf("removed the cluster in %s\n", dev->dir);
    }
out:
    mem_free(mount);
    return status;
}

/* The node that an argument names: "2" or "n2". */
static int node_argument(const struct dev *dev, const struct dev_options *options, unsigned *number,
                         struct err *err)
{
    const char *text = options->argument ? options->argument : "";
    char *end;
    unsigned long value = strtoul(text + (*text == 'n'), &end, 10);

    if (!isdigit((unsigned char)text[*text == 'n']) || *end || value < 1 || value > dev->nodes) {
        return err_set(err, ERR_USAGE, "dev %s: '%.40s' is not one of the nodes n1 to n%u",
                       options->command, text, dev->nodes);
    }
    if (dev->in_process) {
        return err_set(err, ERR_UNSUPPORTED, "dev %s: the nodes share one process (--in-process)",
                       options->command);
    }
    *number = (unsigned)value;
    return 0;
}

static int dev_start(struct dev *dev, const struct dev_options *options, struct err *err)
{
    unsigned number;
    int status = node_argument(dev, options, &number, err);

    if (!status) {
        status = nodes_start(dev, number, number, err);
    }
    if (!status) {
        printf("n%u runs\n", number);
    }
    return status;
}

static int node_signal(struct dev *dev, const struct dev_options *options, int signal_number,
                       const char *done, struct err *err)
{
    unsigned number;
    int status = node_argument(dev, options, &number, err);

    if (status) {
        return status;
    }
    char *path = node_pid_path(dev, number);
    if (!process_signal(path, signal_number)) {
        status = err_set(err, ERR_NOT_FOUND, "n%u does not run", number);
    } else if (signal_number == SIGKILL && !process_wait_end(path, 10000)) {
        status = err_set(err, ERR_TIMEOUT, "n%u was killed and still exists", number);
    } else {
        printf("n%u %s\n", number, done);
    }
    mem_free(path);
    return status;
}

static int dev_kill(struct dev *dev, const struct dev_options *options, struct err *err)
{
    return node_signal(dev, options, SIGKILL, "was killed", err);
}

static int dev_pause(struct dev *dev, const struct dev_options *options, struct err *err)
{
    return node_signal(dev, options, SIGSTOP, "is paused", err);
}

static int dev_resume(struct dev *dev, const struct dev_options *options, struct err *err)
{
    return node_signal(dev, options, SIGCONT, "goes on", err);
}

static const struct command {
    const char *name;
    int (*run)(struct dev *dev, const struct dev_options *options, struct err *err);
    bool takes_node, makes_folder, locks;
    const char *help;
} commands[] = {
    { "up", dev_up, false, true, true,
      "starts what does not run: [--nodes 3] [--mount] [--pg] [--port-base 7401] [--in-process]" },
    { "down", dev_down, false, false, true, "stops everything; the data stays" },
    { "status", dev_status, false, false, false, "says what runs" },
    { "destroy", dev_destroy, false, false, true, "stops everything and removes it, the data too" },
    { "kill", dev_kill, true, false, true, "NODE: kills a node, as a crash would (SIGKILL)" },
    { "start", dev_start, true, false, true,
      "NODE: starts a node again and waits until it is ready" },
    { "pause", dev_pause, true, false, true, "NODE: stops its process for a while (SIGSTOP)" },
    { "resume", dev_resume, true, false, true, "NODE: lets it go on" },
};

static void print_help(void)
{
    printf("cairn dev COMMAND [--dir .cairn] …: local clusters for development\n\n");
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
        printf("  %-8s %s\n", commands[i].name, commands[i].help);
    }
    printf("\n--mount mounts the cluster on DIR/mnt, --pg starts a private PostgreSQL with the "
           "tables (DIR/pg is its socket's folder).\n"
           "`. DIR/env` sets CAIRN_ENDPOINTS, PATH and, with --pg, PGHOST, PGPORT, PGUSER, "
           "PGDATABASE.\n");
}

/* --- The command line */

/* The number of an option, in a range. */
static int parse_number(const char *name, const char *text, unsigned min, unsigned max,
                        unsigned *out, struct err *err)
{
    char *end;
    unsigned long value = strtoul(text, &end, 10);

    if (!isdigit((unsigned char)*text) || *end || value < min || value > max) {
        return err_set(err, ERR_USAGE, "dev: --%s: '%.40s' is not a number from %u to %u", name,
                       text, min, max);
    }
    *out = (unsigned)value;
    return 0;
}

/* True when argv[*i] is --name; *value is what follows it or its '='. */
static bool option_value(int argc, char **argv, int *i, const char *name, const char **value)
{
    const char *text = argv[*i] + 2;
    size_t size = strlen(name);

    if (strncmp(argv[*i], "--", 2) != 0 || strncmp(text, name, size) != 0 ||
        (text[size] && text[size] != '=')) {
        return false;
    }
    *value = text[size] == '=' ? text + size + 1 : *i + 1 < argc ? argv[++*i] : NULL;
    return true;
}

static int parse_option(int argc, char **argv, int *i, struct dev_options *out, struct err *err)
{
    const char *text = argv[*i];
    const char *value = NULL;

    if (strcmp(text, "--mount") == 0) {
        out->mount = true;
    } else if (strcmp(text, "--pg") == 0) {
        out->pg = true;
    } else if (strcmp(text, "--in-process") == 0) {
        out->in_process = true;
    } else if (strcmp(text, "--help") == 0 || strcmp(text, "-h") == 0) {
        out->help = true;
    } else if (option_value(argc, argv, i, "dir", &value)) {
        if (!value || !*value) {
            return err_set(err, ERR_USAGE, "dev: --dir needs a value");
        }
        out->dir = value;
    } else if (option_value(argc, argv, i, "nodes", &value)) {
        return parse_number("nodes", value ? value : "", 1, LIMIT_PROCESS_NODES, &out->nodes, err);
    } else if (option_value(argc, argv, i, "port-base", &value)) {
        return parse_number("port-base", value ? value : "", 1, 65000, &out->port_base, err);
    } else {
        return err_set(err, ERR_USAGE, "dev: no such option: %.60s; see cairn dev --help", text);
    }
    return 0;
}

static int parse_options(int argc, char **argv, struct dev_options *out, struct err *err)
{
    *out = (struct dev_options){ .dir = ".cairn" };
    for (int i = 1; i < argc; i++) {
        int status = 0;
        if (argv[i][0] == '-') {
            status = parse_option(argc, argv, &i, out, err);
        } else if (!out->command) {
            out->command = argv[i];
        } else if (!out->argument) {
            out->argument = argv[i];
        } else {
            status = err_set(err, ERR_USAGE, "dev: too many arguments: %.60s", argv[i]);
        }
        if (status) {
            return status;
        }
    }
    return 0;
}

static int find_command(const struct dev_options *options, const struct command **out,
                        struct err *err)
{
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
        const struct command *command = &commands[i];
        if (!options->command || strcmp(command->name, options->command) != 0) {
            continue;
        }
        if (command->takes_node != (options->argument != NULL)) {
            return err_set(err, ERR_USAGE, "dev %s: %s", command->name,
                           command->takes_node ? "which node? e.g. n1" : "takes no argument");
        }
        if (!command->makes_folder && (options->nodes || options->port_base || options->mount ||
                                       options->pg || options->in_process)) {
            return err_set(err, ERR_USAGE, "dev %s: of the options it knows --dir only",
                           command->name);
        }
        *out = command;
        return 0;
    }
    return err_set(err, ERR_USAGE, "dev: %s%.40s; see cairn dev --help",
                   options->command ? "no such command: " : "which command?",
                   options->command ? options->command : "");
}

static int dev_run(const struct dev_options *options, struct err *err)
{
    const struct command *command = NULL;
    struct dev dev = { .lock = -1 };
    int status = find_command(options, &command, err);

    if (status) {
        return status;
    }
    status = dev_open(&dev, options->dir, command->makes_folder, err);
    if (!status && command->locks) {
        status = dev_take_lock(&dev, err);
        if (!status) { /* what another command changed while we waited */
            status = state_read(&dev, err);
        }
    }
    if (!status) {
        status = command->run(&dev, options, err);
    }
    dev_fini(&dev);
    return status;
}

int dev_main(int argc, char **argv)
{
    struct dev_options options;
    struct err err = { 0 };
    int status = parse_options(argc, argv, &options, &err);

    if (!status && options.help) {
        print_help();
        return 0;
    }
    if (!status) {
        status = dev_run(&options, &err);
    }
    if (status) {
        fflush(stdout);
        fprintf(stderr, "cairn: %s (%s)\n", err.text, err_info(status)->name);
        return err_info(status)->exit_code;
    }
    return 0;
}
