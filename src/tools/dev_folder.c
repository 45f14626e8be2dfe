/* A local cluster's folder: what is where in it, the files that describe the cluster, its lock, and the choice of ports (dev.c has the
 * list of files). */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/limits.h"
#include "base/mem.h"
#include "tools/dev_pg.h"
#include "tools/dev_private.h"

enum { DEV_PORT_TRIES = 200 };

/* --- Paths */

char *dev_path(const struct dev *dev, const char *name)
{
    return mem_printf("%s/%s", dev->dir, name);
}

char *dev_node_pid_path(const struct dev *dev, unsigned number)
{
    return dev->in_process ? dev_path(dev, "run/nodes.pid")
                           : mem_printf("%s/run/n%u.pid", dev->dir, number);
}

char *dev_node_log_path(const struct dev *dev, unsigned number)
{
    return dev->in_process ? dev_path(dev, "log/nodes.log")
                           : mem_printf("%s/log/n%u.log", dev->dir, number);
}

unsigned dev_process_count(const struct dev *dev)
{
    return dev->in_process ? 1 : dev->nodes;
}

char *dev_endpoints(const struct dev *dev)
{
    struct buf out = { 0 };

    for (unsigned i = 0; i < dev->nodes; i++) {
        buf_printf(&out, "%s127.0.0.1:%u", i ? "," : "", dev->port_base + i);
    }
    buf_append(&out, "", 1);
    return (char *)out.data;
}

char *dev_bootstrap(const struct dev *dev)
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

int dev_state_read(struct dev *dev, struct err *err)
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

int dev_state_write(const struct dev *dev, struct err *err)
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
int dev_env_write(const struct dev *dev, struct err *err)
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

int dev_dir_make(const char *path, mode_t mode, struct err *err)
{
    if (mkdir(path, mode) < 0 && errno != EEXIST) {
        return err_set(err, ERR_IO, "make %.200s: %s", path, strerror(errno));
    }
    return 0;
}

int dev_make_folders(const struct dev *dev, struct err *err)
{
    static const char *const names[] = { "data", "log", "run" };
    int status = 0;

    for (size_t i = 0; !status && i < sizeof names / sizeof names[0]; i++) {
        char *path = dev_path(dev, names[i]);
        status = dev_dir_make(path, i ? 0755 : 0700, err);
        mem_free(path);
    }
    return status;
}

/* Opens DIR, made when `make`, and takes its lock. */
int dev_open(struct dev *dev, const char *dir, bool make, struct err *err)
{
    char path[PATH_MAX];
    int status = 0;

    dev->lock = -1;
    /* 0755: a PostgreSQL server of another user has its files below; what must be private is so by
     * itself. */
    if (make && (status = dev_dir_make(dir, 0755, err))) {
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
    status = dev_state_read(dev, err);
    if (!status && !make && !dev->exists) {
        status = err_set(err, ERR_NOT_FOUND,
                         "there is no cluster in %.200s; `cairn dev up` makes one", dev->dir);
    }
    return status;
}

int dev_take_lock(struct dev *dev, struct err *err)
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

void dev_fini(struct dev *dev)
{
    if (dev->lock >= 0) {
        close(dev->lock);
    }
    mem_free(dev->dir);
    mem_free(dev->bin);
    mem_free(dev->pg_temp);
}

/* --- Ports */

bool dev_port_is_free(unsigned port)
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
        if (!dev_port_is_free(base + i)) {
            return false;
        }
    }
    return true;
}

/* For a new cluster: the first free range from the wanted base on, in steps of ten. */
int dev_choose_ports(struct dev *dev, struct err *err)
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
