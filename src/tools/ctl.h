/* The command line `cairn`: what its command families share. One command is one row of a table
 * (ctl_table.c): its name, arguments, options and the function that does it; parsing, help and
 * refusals are made from the rows. */
#ifndef TOOLS_CTL_H
#define TOOLS_CTL_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "client/cairn.h"

enum ctl_output { CTL_DEFAULT, CTL_TABLE, CTL_JSON, CTL_JSONL, CTL_RAW };

enum { CTL_OPTIONS_MAX = 24, CTL_USAGE_EXIT = 2 };

struct ctl_option {
    const char *name;     /* without dashes */
    char letter;          /* 0: none */
    const char *argument; /* name of its argument; NULL: a flag */
    const char *help;
};

struct ctl;

struct ctl_command {
    const char *name;      /* "put", or "node list" */
    const char *arguments; /* as shown: "KEY [VALUE|-]" */
    const char *summary;
    int arguments_min, arguments_max; /* -1: any number */
    /* Does it and returns the exit code. NULL: not available yet. */
    int (*run)(struct ctl *ctl);
    bool is_raw; /* takes all that follows unread: argv[0] is the command's word */
    struct ctl_option options[CTL_OPTIONS_MAX];
    const char *details; /* for help; NULL: none */
};

struct ctl {
    const struct ctl_command *command;
    const char
        *values[CTL_OPTIONS_MAX]; /* by index of the command's options; flags: "" when given */
    int argc;
    char **argv; /* the command's arguments */

    const char *endpoints; /* as resolved; owned */
    uint32_t timeout_ms;
    enum cairn_consistency consistency; /* of reads */
    uint64_t max_staleness_ms;          /* 0: any */
    enum cairn_ack ack;                 /* of writes */
    enum ctl_output output;
    struct cairn *cairn; /* opened at first use */
};

extern const struct ctl_command ctl_commands[];
extern const struct ctl_option ctl_globals[];
/* The row of this name, NULL: unknown. */
const struct ctl_command *ctl_find_command(const char *name);
void ctl_print_help(const struct ctl_command *command);
void ctl_print_overview(void);

/* The option's value, NULL when it was not given. The name must be one of the command's. */
const char *ctl_option(const struct ctl *ctl, const char *name);
bool ctl_flag(const struct ctl *ctl, const char *name);
/* Numbers and durations from text; false with a message on stderr. */
bool ctl_parse_u64(const char *what, const char *text, uint64_t *out);
bool ctl_parse_duration_ms(const char *what, const char *text, uint64_t *out);

/* Puts --consistency, --max-staleness and --ack into a request or a scan. */
void ctl_apply_consistency(const struct ctl *ctl, struct cairn_request *request);
void ctl_apply_scan_consistency(const struct ctl *ctl, struct cairn_scan_options *options);

/* The handle. Exits with 2 when the endpoints are malformed. */
struct cairn *ctl_open(struct ctl *ctl);

/* --- Errors: "cairn: text (ERR_NAME)" on stderr; all return the exit code of the error */
int ctl_fail(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The handle's last error. */
int ctl_fail_last(struct ctl *ctl, int code);
/* An error that concerns one key. */
int ctl_fail_key(struct ctl *ctl, int code, const void *key, size_t key_size);
int ctl_usage(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* --- Endpoints: ctl_env.c */

/* From the option, CAIRN_ENDPOINTS, .cairn/env of this or a parent folder, or the default; to be
 * freed. */
char *ctl_find_endpoints(const char *option);

/* --- Output: ctl_out.c */

/* Sets object[name], or object[name_b64] when the bytes are no UTF-8. */
void ctl_json_bytes(json_t *object, const char *name, const void *data, size_t size);
/* version, size, modified and the attributes that are set. */
void ctl_json_meta(json_t *object, const struct cairn_meta *meta);
/* "staleness_ms" where reads are stale: null while nobody knows. */
void ctl_json_staleness(json_t *object, const struct ctl *ctl, uint64_t staleness_ms);
/* Prints and releases; with a line feed. */
void ctl_print_json(json_t *value, bool is_pretty);
/* The bytes with backslash escapes for tab, line feed, carriage return, backslash and what is no
 * printable UTF-8. */
void ctl_print_escaped(const void *data, size_t size);
/* Undoes that in place; returns the size, or -1 when an escape is malformed. */
long ctl_unescape(char *text, size_t size);
/* 2026-01-31T12:34:56.789012Z */
void ctl_format_time(uint64_t time_us, char out[40]);
/* Writes all bytes to stdout. */
void ctl_write(const void *data, size_t size);
/* A record as aligned lines. */
void ctl_print_meta_table(const void *key, size_t key_size, const struct cairn_meta *meta);
/* Flushes stdout: what could not be written is an error. Exit code: `exit` or 1. */
int ctl_finish_output(int exit_code);

/* --- Commands */
int ctl_put(struct ctl *ctl);
int ctl_get(struct ctl *ctl);
int ctl_del(struct ctl *ctl);
int ctl_mget(struct ctl *ctl);
int ctl_mput(struct ctl *ctl);
int ctl_ls(struct ctl *ctl);
int ctl_scan(struct ctl *ctl);
int ctl_status(struct ctl *ctl);
int ctl_node_list(struct ctl *ctl);
int ctl_partition_list(struct ctl *ctl);
int ctl_topology_show(struct ctl *ctl);
int ctl_locate(struct ctl *ctl);
int ctl_mount(struct ctl *ctl);
int ctl_umount(struct ctl *ctl);
int ctl_sql_setup(struct ctl *ctl);
int ctl_bench(struct ctl *ctl);
int ctl_help(struct ctl *ctl);
int ctl_version(struct ctl *ctl);

#endif
