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
 * read has come back through the client library.
 *
 * Here: the commands and their command line. dev_folder.c has the folder and its files, dev_nodes.c the
 * nodes' processes, dev_mount.c the mount, dev_pg.c PostgreSQL. */
#include "tools/dev.h"

#include <ctype.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/limits.h"
#include "base/mem.h"
#include "tools/dev_pg.h"
#include "tools/dev_private.h"
#include "tools/dev_process.h"

enum { DEV_NODES = 3, DEV_PORT_BASE = 7401 };

/* What the command line says. */
struct dev_options {
    const char *command, *dir, *argument;
    unsigned nodes, port_base; /* 0: not given */
    bool mount, pg, in_process, help;
};

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
    dev_state_write(dev, &ignored);
    dev_env_write(dev, &ignored);
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
        char *pid_path = dev_node_pid_path(dev, number);
        snprintf(name, sizeof name, "n%u", number);
        snprintf(where, sizeof where, "127.0.0.1:%u", dev->port_base + number - 1);
        print_process(name, where, pid_path);
        mem_free(pid_path);
    }
    if (dev_mount_is_present(mount) || process_is_running(mount_pid)) {
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
        return dev_choose_ports(dev, err);
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
        for (unsigned number = 1; number <= dev_process_count(dev); number++) {
            char *path = dev_node_pid_path(dev, number);
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
        char *path = dev_node_pid_path(dev, number);
        bool is_taken = !process_is_running(path) && !dev_port_is_free(dev->port_base + number - 1);
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
        status = dev_state_write(dev, err);
    }
    if (!status) {
        status = dev_env_write(dev, err);
    }
    if (!status) {
        printf("starting %u node%s on 127.0.0.1:%u…\n", dev->nodes, dev->nodes > 1 ? "s" : "",
               dev->port_base);
        fflush(stdout);
        status = dev_nodes_start(dev, 1, dev_process_count(dev), err);
    }
    if (!status) {
        status = dev_cluster_check(dev, err);
    }
    if (!status && options->mount) {
        status = dev_mount_up(dev, err);
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
    dev_mount_down(dev);
    dev_nodes_stop(dev);
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
    dev_mount_down(dev);
    dev_nodes_stop(dev);
    if (dev_mount_is_present(mount)) {
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
        status = dev_nodes_start(dev, number, number, err);
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
    char *path = dev_node_pid_path(dev, number);
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
            status = dev_state_read(&dev, err);
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
