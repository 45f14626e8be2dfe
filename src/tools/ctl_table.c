/* The commands of `cairn`, as rows; help is made from them. A row without a function is a command
 * whose issue is still to come: it is refused by name, never silently ignored. */
#include <stdio.h>
#include <string.h>

#include "tools/ctl.h"
#include "tools/dev.h"
#include "tools/inspect.h"

static int ctl_dev(struct ctl *ctl)
{
    return dev_main(ctl->argc, ctl->argv);
}

static int ctl_inspect(struct ctl *ctl)
{
    if (ctl->argc > 1 && (strcmp(ctl->argv[1], "--help") == 0 || strcmp(ctl->argv[1], "-h") == 0)) {
        ctl_print_help(ctl->command);
        return 0;
    }
    return inspect_main(ctl->argc, ctl->argv);
}

const struct ctl_option ctl_globals[] = {
    { "endpoints", 0, "H:P[,H:P…]",
      "nodes to begin with; else CAIRN_ENDPOINTS, else .cairn/env of this or a parent "
      "folder, else 127.0.0.1:7400" },
    { "timeout", 0, "DURATION", "longest wait without progress (5s); ms, s, m or h" },
    { "consistency", 0, "LEVEL", "of reads: linearizable (default), lease or stale" },
    { "max-staleness", 0, "DURATION",
      "with --consistency stale: may miss no more than what was acknowledged so lately" },
    { "ack", 0, "HOW", "of writes: majority (default), or all replicas within reach" },
    { "output", 'o', "FORMAT", "table, json, jsonl or raw" },
    { "user", 0, "NAME", "not available yet" },
    { "tls-ca", 0, "FILE", "not available yet" },
    { "tls-cert", 0, "FILE", "not available yet" },
    { "tls-key", 0, "FILE", "not available yet" },
    { "help", 'h', NULL, "help on the command" },
    { 0 },
};

#define CONDITIONS                                                                                 \
    { "if-absent", 0, NULL, "only if there is no such key (else exit 4)" },                        \
    {                                                                                              \
        "if-version", 0, "N", "only if this is the key's version (else exit 4)"                    \
    }

const struct ctl_command ctl_commands[] = {
    { "put",
      "KEY [VALUE|-]",
      "stores a value and prints its version",
      1,
      2,
      ctl_put,
      false,
      { CONDITIONS,
        { "ttl", 0, "DURATION", "not available yet" },
        { "fence", 0, "N", "not available yet" } },
      "Without VALUE, or with -, the value is read from stdin. A value that begins with a dash "
      "goes behind --." },
    { "get",
      "KEY",
      "writes the value's bytes, nothing added",
      1,
      1,
      ctl_get,
      false,
      { { "version", 0, NULL, "print the version instead" },
        { "meta", 0, NULL, "print everything about the record but its value" } },
      "With -o json: one object with key, value, version and the rest. Bytes that are no UTF-8 "
      "stand in key_b64 and value_b64." },
    { "del",
      "KEY…",
      "deletes keys and prints how many there were",
      0,
      -1,
      ctl_del,
      false,
      { { "if-version", 0, "N", "only if this is the key's version (else exit 4)" },
        { "prefix", 0, "PREFIX", "all keys that begin so" },
        { "yes", 0, NULL, "with an empty prefix: yes, everything" } },
      NULL },
    { "mget",
      "KEY…",
      "reads many keys at once",
      1,
      -1,
      ctl_mget,
      false,
      { { 0 } },
      "Prints a line KEY<TAB>VALUE for each key that exists, escaped as by scan; with -o jsonl an "
      "object for every key. Exit 3 when "
      "any is absent. Each key has its own result: not a snapshot." },
    { "mput",
      "",
      "stores many keys, read from stdin",
      0,
      0,
      ctl_mput,
      false,
      { { "format", 0, "FORMAT",
          "tsv (default): lines KEY<TAB>VALUE, escaped as scan prints them; jsonl: objects as scan "
          "-o jsonl prints "
          "them" } },
      "Prints how many were stored. Not atomic: each key is stored or not by itself." },
    { "ls",
      "[PREFIX]",
      "lists keys in byte order",
      0,
      1,
      ctl_ls,
      false,
      { { "long", 'l', NULL, "with version, size and time" },
        { "recursive", 'R', NULL,
          "all keys; otherwise what lies behind the next / is folded to one line" },
        { "null", '0', NULL, "end each key with a NUL byte rather than a line feed" },
        { "reverse", 0, NULL, "from the end" },
        { "limit", 0, "N", "at most N lines" } },
      NULL },
    { "scan",
      "[PREFIX]",
      "lists keys and values in byte order",
      0,
      1,
      ctl_scan,
      false,
      { { "from", 0, "KEY", "begin at this key (included)" },
        { "to", 0, "KEY", "end at this key (not included)" },
        { "reverse", 0, NULL, "from the end" },
        { "limit", 0, "N", "at most N keys" },
        { "keys-only", 0, NULL, "no values" } },
      "Lines KEY<TAB>VALUE; tab, line feed, backslash and bytes that are no printable UTF-8 are "
      "written as \\t, \\n, \\\\ and \\xHH "
      "(not with -o raw)." },
    { "status",
      "[NODE]",
      "the cluster, or one node by name or H:P",
      0,
      1,
      ctl_status,
      false,
      { { 0 } },
      NULL },
    { "locate",
      "KEY",
      "prints the node that is believed to be the key's primary",
      1,
      1,
      ctl_locate,
      false,
      { { 0 } },
      NULL },
    { "node list", "", "lists the nodes", 0, 0, ctl_node_list, false, { { 0 } }, NULL },
    { "node drain", "NODE", "", 0, -1, NULL, true, { { 0 } }, NULL },
    { "node remove", "NODE", "", 0, -1, NULL, true, { { 0 } }, NULL },
    { "partition list",
      "",
      "lists the partitions, their replicas and primaries",
      0,
      0,
      ctl_partition_list,
      false,
      { { 0 } },
      NULL },
    { "partition move", "", "", 0, -1, NULL, true, { { 0 } }, NULL },
    { "topology show", "", "prints the topology", 0, 0, ctl_topology_show, false, { { 0 } }, NULL },
    { "topology plan", "", "", 0, -1, NULL, true, { { 0 } }, NULL },
    { "topology apply", "", "", 0, -1, NULL, true, { { 0 } }, NULL },
    { "topology pause", "", "", 0, -1, NULL, true, { { 0 } }, NULL },
    { "topology undo", "", "", 0, -1, NULL, true, { { 0 } }, NULL },
    { "mount",
      "[-f] [-o OPTIONS] [SOURCE] MOUNTPOINT",
      "mounts the keys as files (cairn-fuse)",
      0,
      -1,
      ctl_mount,
      true,
      { { 0 } },
      "SOURCE is H:P[,H:P…][/PREFIX]; without it, the endpoints of this command." },
    { "umount",
      "MOUNTPOINT",
      "unmounts (fusermount3 -u)",
      1,
      1,
      ctl_umount,
      false,
      { { 0 } },
      NULL },
    { "sql setup",
      "POSTGRES-URL",
      "makes the extension, the server and the table kv in a database",
      1,
      1,
      ctl_sql_setup,
      false,
      { { 0 } },
      "URL as of libpq: postgresql://user@host/db or \"dbname=… host=…\"; an empty one takes "
      "PGHOST, PGDATABASE and so on. May be "
      "repeated: the server's endpoints are brought up to date." },
    { "dev",
      "up|down|status|destroy|kill|start|pause|resume …",
      "runs a local cluster for development; see cairn dev --help",
      0,
      -1,
      ctl_dev,
      true,
      { { 0 } },
      NULL },
    { "inspect",
      "FILE…",
      "prints a log's segments and votes; FILE: one of them, or the log's folder",
      0,
      -1,
      ctl_inspect,
      true,
      { { 0 } },
      NULL },
    { "bench",
      "",
      "puts load on the cluster and prints one line of JSON",
      0,
      0,
      ctl_bench,
      false,
      { { "clients", 0, "N", "logical clients (64)" },
        { "handles", 0, "N", "sessions that the clients share (as many as clients)" },
        { "threads", 0, "N", "threads that drive them (1)" },
        { "pipeline", 0, "N", "requests in flight of one client (1)" },
        { "rate", 0, "N",
          "open loop: so many requests a second; latency counts from the intended start" },
        { "duration", 0, "DURATION", "measured time (10s)" },
        { "warmup", 0, "DURATION", "time before that (1s)" },
        { "keys", 0, "N", "size of the key space (100000)" },
        { "distribution", 0, "NAME", "uniform (default), zipfian, sequential, latest" },
        { "value-size", 0, "BYTES", "(256)" },
        { "read-share", 0, "SHARE", "part of reads, 0 to 1 (0)" },
        { "prefix", 0, "PREFIX", "of the keys (bench/)" },
        { "preload", 0, NULL, "store every key first" },
        { "seed", 0, "N", "of the random choices (1)" } },
      NULL },
    { "cas", "KEY EXPECTED NEW", "", 0, -1, NULL, true, { { 0 } }, NULL },
    { "incr", "KEY [BY]", "", 0, -1, NULL, true, { { 0 } }, NULL },
    { "txn", "[FILE]", "", 0, -1, NULL, true, { { 0 } }, NULL },
    { "ttl", "KEY", "", 0, -1, NULL, true, { { 0 } }, NULL },
    { "watch", "PREFIX", "", 0, -1, NULL, true, { { 0 } }, NULL },
    { "sync", "PREFIX DIR", "", 0, -1, NULL, true, { { 0 } }, NULL },
    { "lock", "NAME -- CMD…", "", 0, -1, NULL, true, { { 0 } }, NULL },
    { "backup", "DIR", "", 0, -1, NULL, true, { { 0 } }, NULL },
    { "verify", "DIR", "", 0, -1, NULL, true, { { 0 } }, NULL },
    { "restore", "DIR", "", 0, -1, NULL, true, { { 0 } }, NULL },
    { "import", "FILE", "", 0, -1, NULL, true, { { 0 } }, NULL },
    { "export", "FILE", "", 0, -1, NULL, true, { { 0 } }, NULL },
    { "debug", "", "", 0, -1, NULL, true, { { 0 } }, NULL },
    { "completion", "bash", "", 0, -1, NULL, true, { { 0 } }, NULL },
    { "help", "[COMMAND]", "explains a command", 0, 2, ctl_help, false, { { 0 } }, NULL },
    { "version", "", "prints the version", 0, 0, ctl_version, false, { { 0 } }, NULL },
    { 0 },
};

const struct ctl_command *ctl_find_command(const char *name)
{
    for (const struct ctl_command *row = ctl_commands; row->name; row++) {
        if (strcmp(row->name, name) == 0) {
            return row;
        }
    }
    return NULL;
}

/* The bytes that a text fills so many columns with: a character may have several bytes. */
static int padded(const char *text, int columns)
{
    for (; *text; text++) {
        columns += (*text & 0xc0) == 0x80;
    }
    return columns;
}

static void print_options(const struct ctl_option *options, size_t count)
{
    for (size_t i = 0; i < count && options[i].name; i++) {
        char head[64];
        char letter[8] = "";
        if (options[i].letter) {
            snprintf(letter, sizeof letter, "-%c, ", options[i].letter);
        }
        snprintf(head, sizeof head, "%s--%s%s%s", letter, options[i].name,
                 options[i].argument ? " " : "", options[i].argument ? options[i].argument : "");
        printf("  %-*s %s\n", padded(head, 26), head, options[i].help);
    }
}

void ctl_print_help(const struct ctl_command *command)
{
    bool has_options = command->options[0].name;
    printf("usage: cairn [GLOBAL OPTIONS] %s%s%s%s\n", command->name,
           has_options ? " [OPTIONS]" : "", command->arguments[0] ? " " : "", command->arguments);
    if (!command->run) {
        printf("\nNot available yet.\n");
        return;
    }
    printf("\n%s.\n", command->summary);
    if (command->details) {
        printf("\n%s\n", command->details);
    }
    if (has_options) {
        printf("\noptions:\n");
        print_options(command->options, CTL_OPTIONS_MAX);
    }
    printf("\nglobal options:\n");
    print_options(ctl_globals, SIZE_MAX);
}

void ctl_print_overview(void)
{
    printf("usage: cairn [GLOBAL OPTIONS] COMMAND [OPTIONS] [ARGUMENTS]\n\n"
           "The command line of Cairn, a replicated key-value store.\n\ncommands:\n");
    for (const struct ctl_command *row = ctl_commands; row->name; row++) {
        if (row->run) {
            printf("  %-16s %s\n", row->name, row->summary);
        }
    }
    printf("\nnot available yet:");
    const char *comma = "";
    for (const struct ctl_command *row = ctl_commands; row->name; row++) {
        if (!row->run) {
            printf("%s %s", comma, row->name);
            comma = ",";
        }
    }
    printf("\n\nglobal options:\n");
    print_options(ctl_globals, SIZE_MAX);
    printf("\nexit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 condition failed, 5 "
           "unavailable (nothing was applied),\n"
           "6 outcome unknown. `cairn help COMMAND` says more.\n");
}
