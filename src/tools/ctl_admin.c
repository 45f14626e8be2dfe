/* status, node list, partition list, topology show, locate, mount, umount. The library gives JSON;
 * tables are made from it. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/ctl.h"

/* The cluster's or one node's status as JSON. 0 or an exit code. */
static int load_status(struct ctl *ctl, const char *node, json_t **out)
{
    char *text;
    int status = cairn_status_json(ctl_open(ctl), node, &text);
    if (status) {
        return ctl_fail_last(ctl, status);
    }
    *out = json_loads(text, 0, NULL);
    free(text);
    return *out ? 0 : ctl_fail(-2, "the status is no JSON");
}

static bool is_json(const struct ctl *ctl)
{
    return ctl->output == CTL_JSON || ctl->output == CTL_JSONL;
}

/* An array: whole with -o json, a line an element with -o jsonl. */
static void print_list(const struct ctl *ctl, json_t *list)
{
    size_t i;
    json_t *element;
    if (ctl->output == CTL_JSON) {
        ctl_print_json(list, true);
        return;
    }
    json_array_foreach(list, i, element)
    {
        ctl_print_json(json_incref(element), false);
    }
    json_decref(list);
}

static const char *text_of(const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));
    return text ? text : "-";
}

static long long number_of(const json_t *object, const char *name)
{
    return (long long)json_integer_value(json_object_get(object, name));
}

static json_t *node_status(const json_t *cluster, const char *name)
{
    size_t i;
    json_t *node;
    json_array_foreach(json_object_get(cluster, "nodes"), i, node)
    {
        if (strcmp(text_of(node, "name"), name) == 0) {
            return node;
        }
    }
    return NULL;
}

static int count_primaries(const json_t *cluster, const char *name)
{
    int count = 0;
    size_t i;
    json_t *partition;
    json_array_foreach(json_object_get(cluster, "partitions"), i, partition)
    {
        count += i > 0 && strcmp(text_of(partition, "primary"), name) == 0;
    }
    return count;
}

static int count_led(const json_t *node)
{
    int count = 0;
    size_t i;
    json_t *group;
    json_array_foreach(json_object_get(node, "groups"), i, group)
    {
        count += strcmp(text_of(group, "role"), "leader") == 0 && number_of(group, "group") > 0;
    }
    return count;
}

/* What is wrong with a node now, in words; docs/OPERATIONS.md says what to do. */
static void print_troubles(const json_t *counters)
{
    static const struct {
        const char *counter, *text;
    } troubles[] = {
        { "replicas_suspect", "suspect" },
        { "replicas_in_repair", "in repair" },
        { "disk_full", "disk full" },
        { "store_full", "store full" },
        { "flush_awaited", "waits for a flush" },
        { "disk_slow", "slow log" },
        { "flush_slow", "slow flushes" },
    };
    bool is_first = true;
    for (size_t i = 0; i < sizeof troubles / sizeof *troubles; i++) {
        if (number_of(counters, troubles[i].counter) > 0) {
            printf("%s%s", is_first ? "  " : ", ", troubles[i].text);
            is_first = false;
        }
    }
    printf("%s\n", is_first ? "  -" : "");
}

static void print_nodes(const json_t *cluster)
{
    printf("%-12s %-22s %-12s %-9s %10s %9s %12s  %s\n", "NODE", "ADDRESS", "STATE", "PRIMARIES",
           "UPTIME", "KEYS", "REQUESTS", "TROUBLE");
    size_t i;
    json_t *member;
    json_array_foreach(json_object_get(cluster, "members"), i, member)
    {
        const char *name = text_of(member, "name");
        const json_t *node = node_status(cluster, name);
        const char *error = node ? json_string_value(json_object_get(node, "error")) : "-";
        if (!node || error) {
            printf("%-12s %-22s %-12s %-9d %10s %9s %12s  -\n", name, text_of(member, "address"),
                   "unreachable", count_primaries(cluster, name), "-", "-", "-");
            continue;
        }
        const json_t *counters = json_object_get(node, "counters");
        printf("%-12s %-22s %-12s %-9d %9llds %9lld %12lld", name, text_of(member, "address"), "up",
               count_led(node), number_of(node, "uptime_ms") / 1000,
               number_of(counters, "store_keys"), number_of(counters, "requests"));
        print_troubles(counters);
    }
}

static int count_without_primary(const json_t *cluster)
{
    int count = 0;
    size_t i;
    json_t *partition;
    json_array_foreach(json_object_get(cluster, "partitions"), i, partition)
    {
        count += i > 0 && !json_is_string(json_object_get(partition, "primary"));
    }
    return count;
}

static void print_node_counters(const json_t *node)
{
    printf("node %s of %s, epoch %lld, up %llds\n", text_of(node, "name"),
           text_of(node, "cluster_name"), number_of(node, "epoch"),
           number_of(node, "uptime_ms") / 1000);
    const char *name;
    json_t *value;
    json_object_foreach(json_object_get(node, "counters"), name, value)
    {
        printf("  %-26s %lld\n", name, (long long)json_integer_value(value));
    }
    printf("  %6s %-14s %8s %10s %10s %10s %10s %8s\n", "GROUP", "ROLE", "TERM", "LAST",
           "COMMITTED", "APPLIED", "FLUSHED", "KEYS");
    size_t i;
    json_t *group;
    json_array_foreach(json_object_get(node, "groups"), i, group)
    {
        const char *trouble =
            json_is_true(json_object_get(group, "suspect"))
                ? "  suspect: its disk lost what it promised, it waits for a leader elected "
                  "without it"
            : json_is_true(json_object_get(group, "damaged")) ? "  damaged: waits for an image"
            : number_of(group, "hole") ? "  an entry of its log is damaged: waits for a peer"
                                       : "";
        printf("  %6lld %-14s %8lld %10lld %10lld %10lld %10lld %8lld%s\n",
               number_of(group, "group"), text_of(group, "role"), number_of(group, "term"),
               number_of(group, "last_index"), number_of(group, "commit_index"),
               number_of(group, "applied_index"), number_of(group, "flushed_index"),
               number_of(group, "keys"), trouble);
    }
}

int ctl_status(struct ctl *ctl)
{
    json_t *status;
    const char *node = ctl->argc ? ctl->argv[0] : NULL;
    int exit_code = load_status(ctl, node, &status);
    if (exit_code) {
        return exit_code;
    }
    if (is_json(ctl)) {
        ctl_print_json(status, ctl->output == CTL_JSON);
        return 0;
    }
    if (node) {
        print_node_counters(status);
    } else {
        int without = count_without_primary(status);
        printf("cluster %s (%s), epoch %lld, %zu partitions, %lld replicas each\n",
               text_of(status, "cluster_name"), text_of(status, "cluster_id"),
               number_of(status, "epoch"),
               json_array_size(json_object_get(status, "partitions")) - 1,
               number_of(status, "replicas"));
        print_nodes(status);
        if (without) {
            printf("%d partitions have no known primary\n", without);
        }
    }
    json_decref(status);
    return 0;
}

int ctl_node_list(struct ctl *ctl)
{
    json_t *status;
    int exit_code = load_status(ctl, NULL, &status);
    if (exit_code) {
        return exit_code;
    }
    if (is_json(ctl)) {
        json_t *list = json_array();
        size_t i;
        json_t *member;
        json_array_foreach(json_object_get(status, "members"), i, member)
        {
            json_t *object = json_deep_copy(member);
            const json_t *node = node_status(status, text_of(member, "name"));
            bool is_up = node && !json_object_get(node, "error");
            json_object_set_new(object, "state", json_string(is_up ? "up" : "unreachable"));
            json_array_append_new(list, object);
        }
        print_list(ctl, list);
    } else {
        print_nodes(status);
    }
    json_decref(status);
    return 0;
}

static void print_partitions(const json_t *status)
{
    printf("%6s %-18s %-12s %s\n", "GROUP", "PREFIX", "PRIMARY", "REPLICAS");
    size_t i, j;
    json_t *partition, *replica;
    json_array_foreach(json_object_get(status, "partitions"), i, partition)
    {
        char prefix[40];
        snprintf(prefix, sizeof prefix, "%s/%lld", text_of(partition, "prefix"),
                 number_of(partition, "bits"));
        printf("%6lld %-18s %-12s", number_of(partition, "group"), prefix,
               text_of(partition, "primary"));
        json_array_foreach(json_object_get(partition, "replicas"), j, replica)
        {
            printf(" %s", text_of(replica, "node"));
        }
        putchar('\n');
    }
}

int ctl_partition_list(struct ctl *ctl)
{
    json_t *status;
    int exit_code = load_status(ctl, NULL, &status);
    if (exit_code) {
        return exit_code;
    }
    if (is_json(ctl)) {
        print_list(ctl, json_incref(json_object_get(status, "partitions")));
    } else {
        print_partitions(status);
    }
    json_decref(status);
    return 0;
}

int ctl_topology_show(struct ctl *ctl)
{
    json_t *status;
    int exit_code = load_status(ctl, NULL, &status);
    if (exit_code) {
        return exit_code;
    }
    json_object_del(status, "nodes"); /* their state is no part of the topology */
    if (is_json(ctl)) {
        ctl_print_json(status, ctl->output == CTL_JSON);
        return 0;
    }
    printf("cluster %s (%s), epoch %lld, feature level %lld, %lld replicas\n",
           text_of(status, "cluster_name"), text_of(status, "cluster_id"),
           number_of(status, "epoch"), number_of(status, "feature_level"),
           number_of(status, "replicas"));
    size_t i;
    json_t *member;
    json_array_foreach(json_object_get(status, "members"), i, member)
    {
        printf("node %-10s %-22s host=%s zone=%s weight=%lld\n", text_of(member, "name"),
               text_of(member, "address"), text_of(member, "host"), text_of(member, "zone"),
               number_of(member, "weight"));
    }
    print_partitions(status);
    json_decref(status);
    return 0;
}

int ctl_locate(struct ctl *ctl)
{
    const char *key = ctl->argv[0];
    size_t size = strlen(key);
    if (size == 0 || size > CAIRN_KEY_BYTES_MAX) {
        int code = size ? CAIRN_KEY_TOO_LONG : CAIRN_KEY_EMPTY;
        return ctl_fail(code, "%s", cairn_error(code)->text);
    }
    const char *name = cairn_locate(ctl_open(ctl), key, size);
    if (!name[0]) {
        return ctl_fail_last(ctl, CAIRN_UNAVAILABLE);
    }
    printf("%s\n", name);
    return 0;
}

/* --- The mount is a program of its own */

static int run_program(char **arguments)
{
    fflush(stdout);
    execvp(arguments[0], arguments);
    return ctl_fail(-1, "%s: %s", arguments[0], strerror(errno));
}

/* cairn-fuse beside this program, else the one on the PATH. */
static char *fuse_program(void)
{
    static const char name[] = "cairn-fuse";
    char path[PATH_MAX + sizeof name];
    ssize_t size = readlink("/proc/self/exe", path, PATH_MAX);
    path[size < 0 ? 0 : size] = '\0';
    char *slash = strrchr(path, '/');
    if (slash) {
        strcpy(slash + 1, name);
        if (access(path, X_OK) == 0) {
            return strdup(path);
        }
    }
    return strdup(name);
}

int ctl_mount(struct ctl *ctl)
{
    char **arguments = calloc((size_t)ctl->argc + 3, sizeof *arguments);
    int positionals = 0, last = 0;
    for (int i = 1; arguments && i < ctl->argc; i++) {
        if (strcmp(ctl->argv[i], "--help") == 0 || strcmp(ctl->argv[i], "-h") == 0) {
            ctl_print_help(ctl->command);
            free(arguments);
            return 0;
        }
        if (ctl->argv[i][0] == '-') {
            i += strcmp(ctl->argv[i], "-o") == 0;
        } else {
            positionals++;
            last = i;
        }
    }
    if (!arguments || positionals < 1 || positionals > 2) {
        free(arguments);
        return ctl_usage("mount needs a mount point: cairn mount %s", ctl->command->arguments);
    }
    int count = 0;
    arguments[count++] = fuse_program();
    for (int i = 1; i < ctl->argc; i++) {
        if (positionals == 1 && i == last) {
            arguments[count++] = (char *)(uintptr_t)ctl->endpoints;
        }
        arguments[count++] = ctl->argv[i];
    }
    int exit_code = run_program(arguments);
    free(arguments[0]);
    free(arguments);
    return exit_code;
}

int ctl_umount(struct ctl *ctl)
{
    char *arguments[] = { (char[]){ "fusermount3" }, (char[]){ "-u" }, (char[]){ "--" },
                          ctl->argv[0], NULL };
    return run_program(arguments);
}
