/* A local cluster's nodes: their processes are started and awaited, asked through the client library, and stopped. */
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include "base/limits.h"
#include "base/mem.h"
#include "client/cairn.h"
#include "tools/dev_private.h"
#include "tools/dev_process.h"

enum {
    DEV_READY_MS = 60000,
    DEV_STOP_MS = 40000, /* a daemon gives itself 30 s */
};

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
    char *pid_path = dev_node_pid_path(dev, number);
    char *log_path = dev_node_log_path(dev, number);
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

void dev_print_log_end(const char *path)
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

int dev_nodes_start(const struct dev *dev, unsigned from, unsigned to, struct err *err)
{
    char notify[64];
    char *pid_paths[LIMIT_PROCESS_NODES];
    unsigned numbers[LIMIT_PROCESS_NODES];
    bool is_ready[LIMIT_PROCESS_NODES] = { false };
    unsigned count = 0;
    int fd = process_notify_open(notify, err);
    int status = fd < 0 ? fd : 0;

    for (unsigned number = from; !status && number <= to; number++) {
        char *path = dev_node_pid_path(dev, number);
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
            char *log = dev_node_log_path(dev, numbers[i]);
            dev_print_log_end(log);
            mem_free(log);
        }
        mem_free(pid_paths[i]);
    }
    if (fd >= 0) {
        close(fd);
    }
    return status;
}

int dev_cluster_check(const struct dev *dev, struct err *err)
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
void dev_nodes_stop(const struct dev *dev)
{
    for (unsigned number = 1; number <= dev_process_count(dev); number++) {
        char *path = dev_node_pid_path(dev, number);
        process_signal(path, SIGTERM);
        process_signal(path, SIGCONT);
        mem_free(path);
    }
    for (unsigned number = 1; number <= dev_process_count(dev); number++) {
        char *path = dev_node_pid_path(dev, number);
        if (!process_wait_end(path, DEV_STOP_MS)) {
            fprintf(stderr, "n%u does not stop; it is killed (its log is durable)\n", number);
            process_signal(path, SIGKILL);
            process_wait_end(path, 5000);
        }
        mem_free(path);
    }
}
