/* `cairn`: reads the command line, finds the endpoints, runs the command.
 *
 * Options may stand anywhere before `--`; global ones and the command's are told apart by name.
 * Everything that the program has lives in struct ctl of main: no globals. */
#include "tools/ctl.h"

#include "base/version.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GLOBALS_MAX = 16 };

/* --- Errors */

static int print_error(int code, const char *format, va_list args)
{
    fflush(stdout);
    fprintf(stderr, "cairn: ");
    vfprintf(stderr, format, args);
    fprintf(stderr, " (%s)\n", cairn_error(code)->name);
    return cairn_error(code)->exit_code;
}

int ctl_fail(int code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int exit_code = print_error(code, format, args);
    va_end(args);
    return exit_code;
}

int ctl_fail_last(struct ctl *ctl, int code)
{
    const char *text = cairn_last_error(ctl->cairn);
    const char *plain = cairn_error(code)->text;
    bool is_about_it = strncmp(text, plain, strlen(plain)) == 0;
    return ctl_fail(code, "%s", is_about_it ? text : plain);
}

int ctl_fail_key(struct ctl *ctl, int code, const void *key, size_t key_size)
{
    bool is_about_key =
        code == CAIRN_NOT_FOUND || code == CAIRN_EXISTS || code == CAIRN_CONDITION_FAILED;
    if (!is_about_key) {
        return ctl_fail_last(ctl, code);
    }
    return ctl_fail(code, "%s: %.*s", cairn_error(code)->text, (int)(key_size < 80 ? key_size : 80),
                    (const char *)key);
}

int ctl_usage(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    print_error(CAIRN_USAGE, format, args);
    va_end(args);
    return CTL_USAGE_EXIT;
}

/* --- Values of options */

bool ctl_parse_u64(const char *what, const char *text, uint64_t *out)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno || *end || end == text || text[0] < '0' || text[0] > '9') {
        ctl_usage("%s: \"%s\" is not a number", what, text);
        return false;
    }
    *out = value;
    return true;
}

bool ctl_parse_duration_ms(const char *what, const char *text, uint64_t *out)
{
    static const struct {
        const char *unit;
        double ms;
    } units[] = { { "ms", 1 }, { "s", 1000 }, { "", 1000 }, { "m", 60000 }, { "h", 3600000 } };
    char *end;
    double value = strtod(text, &end);
    for (size_t i = 0; i < sizeof units / sizeof units[0] && end != text; i++) {
        if (strcmp(end, units[i].unit) == 0 && value >= 0 && value * units[i].ms < 1e9) {
            *out = (uint64_t)(value * units[i].ms);
            return true;
        }
    }
    ctl_usage("%s: \"%s\" is not a duration such as 500ms, 5s or 2m", what, text);
    return false;
}

const char *ctl_option(const struct ctl *ctl, const char *name)
{
    for (size_t i = 0; i < CTL_OPTIONS_MAX && ctl->command->options[i].name; i++) {
        if (strcmp(ctl->command->options[i].name, name) == 0) {
            return ctl->values[i];
        }
    }
    abort(); /* a misspelt name in a command of ours */
}

bool ctl_flag(const struct ctl *ctl, const char *name)
{
    return ctl_option(ctl, name) != NULL;
}

void ctl_apply_consistency(const struct ctl *ctl, struct cairn_request *request)
{
    if (request->verb == CAIRN_GET || request->verb == CAIRN_GET_META) {
        request->consistency = ctl->consistency;
        request->max_staleness_ms = ctl->max_staleness_ms;
    } else {
        request->ack = ctl->ack;
    }
}

void ctl_apply_scan_consistency(const struct ctl *ctl, struct cairn_scan_options *options)
{
    options->consistency = ctl->consistency;
    options->max_staleness_ms = ctl->max_staleness_ms;
}

struct cairn *ctl_open(struct ctl *ctl)
{
    if (!ctl->cairn) {
        char text[256];
        struct cairn_options options = { .endpoints = ctl->endpoints,
                                         .program = "cairn",
                                         .timeout_ms = ctl->timeout_ms };
        int status = cairn_open(&options, &ctl->cairn, text);
        if (status) {
            exit(ctl_fail(status, "%s", text));
        }
    }
    return ctl->cairn;
}

/* --- The command line */

struct parse {
    char **in;
    int left;
    const char *globals[GLOBALS_MAX];
    bool is_ended;                  /* behind -- */
    char rest[CTL_OPTIONS_MAX + 2]; /* of a bundle such as -lR */
};

static int find_option(const struct ctl_option *options, size_t count, const char *name,
                       size_t size, char letter)
{
    for (size_t i = 0; options && i < count && options[i].name; i++) {
        bool is_name =
            name && strlen(options[i].name) == size && strncmp(options[i].name, name, size) == 0;
        if (is_name || (letter && options[i].letter == letter)) {
            return (int)i;
        }
    }
    return -1;
}

/* Reads the option at the front. 0 or an exit code. */
static int parse_option(struct parse *parse, struct ctl *ctl)
{
    const char *word = *parse->in++;
    parse->left--;
    bool is_long = word[1] == '-';
    const char *name = is_long ? word + 2 : NULL;
    size_t size = is_long ? strcspn(name, "=") : 0;
    const char *value =
        is_long ? (name[size] ? name + size + 1 : NULL) : (word[2] ? word + 2 : NULL);
    char letter = is_long ? 0 : word[1];

    const struct ctl_option *own = ctl->command ? ctl->command->options : NULL;
    int index = find_option(own, CTL_OPTIONS_MAX, name, size, letter);
    const struct ctl_option *option = index >= 0 ? &own[index] : NULL;
    const char **slot = index >= 0 ? &ctl->values[index] : NULL;
    if (!option && (index = find_option(ctl_globals, GLOBALS_MAX, name, size, letter)) >= 0) {
        option = &ctl_globals[index];
        slot = &parse->globals[index];
    }
    if (!option) {
        return ctl_usage("unknown option %s; `cairn help%s%s` lists them, and -- stands before an "
                         "argument with a dash",
                         word, ctl->command ? " " : "", ctl->command ? ctl->command->name : "");
    }
    if (!option->argument) {
        if (is_long && value) {
            return ctl_usage("--%s takes no value", option->name);
        }
        *slot = "";
        if (value) { /* -lR: the rest of the bundle */
            if (strlen(value) > CTL_OPTIONS_MAX) {
                return ctl_usage("unknown option %s", word);
            }
            memmove(parse->rest + 1, value, strlen(value) + 1);
            parse->rest[0] = '-';
            *--parse->in = parse->rest;
            parse->left++;
        }
        return 0;
    }
    if (!value) {
        if (!parse->left) {
            return ctl_usage("--%s needs a value: %s", option->name, option->argument);
        }
        value = *parse->in++;
        parse->left--;
    }
    *slot = value;
    return 0;
}

/* Reads the command's one or two words. */
static int parse_command(struct parse *parse, struct ctl *ctl)
{
    const char *word = *parse->in;
    char pair[64];
    const struct ctl_command *found = ctl_find_command(word);
    int words = 1;
    if (!found && parse->left > 1) {
        snprintf(pair, sizeof pair, "%s %s", word, parse->in[1]);
        found = ctl_find_command(pair);
        words = 2;
    }
    if (!found) {
        return ctl_usage("unknown command \"%s\"; `cairn help` lists them", word);
    }
    ctl->command = found;
    if (found->is_raw) {
        ctl->argv = parse->in + (words - 1);
        ctl->argc = parse->left - (words - 1);
        parse->left = 0;
    } else {
        parse->in += words;
        parse->left -= words;
    }
    return 0;
}

static int parse_all(struct parse *parse, struct ctl *ctl, char **arguments)
{
    while (parse->left) {
        const char *word = *parse->in;
        int exit_code = 0;
        if (!parse->is_ended && strcmp(word, "--") == 0) {
            parse->is_ended = true;
            parse->in++;
            parse->left--;
        } else if (!parse->is_ended && word[0] == '-' && word[1]) {
            exit_code = parse_option(parse, ctl);
        } else if (!ctl->command) {
            exit_code = parse_command(parse, ctl);
        } else {
            arguments[ctl->argc++] = *parse->in++;
            parse->left--;
        }
        if (exit_code) {
            return exit_code;
        }
    }
    return 0;
}

static const char *global(const struct parse *parse, const char *name)
{
    return parse->globals[find_option(ctl_globals, GLOBALS_MAX, name, strlen(name), 0)];
}

static int apply_output(struct ctl *ctl, const char *text)
{
    static const char *const names[] = {
        [CTL_TABLE] = "table", [CTL_JSON] = "json", [CTL_JSONL] = "jsonl", [CTL_RAW] = "raw"
    };
    for (int i = CTL_TABLE; text && i <= CTL_RAW; i++) {
        if (strcmp(text, names[i]) == 0) {
            ctl->output = (enum ctl_output)i;
            return 0;
        }
    }
    return text ? ctl_usage("--output: \"%s\" is none of table, json, jsonl, raw", text) : 0;
}

static int refuse_later(const char *what)
{
    return ctl_fail(CAIRN_UNSUPPORTED, "%s is not available yet", what);
}

static int apply_consistency(struct ctl *ctl, const char *text, const char *bound)
{
    static const char *const names[] = {
        [CAIRN_LINEARIZABLE] = "linearizable", [CAIRN_LEASE] = "lease", [CAIRN_STALE] = "stale"
    };
    int found = text ? -1 : CAIRN_LINEARIZABLE;
    for (int i = CAIRN_LINEARIZABLE; text && i <= CAIRN_STALE; i++) {
        found = strcmp(text, names[i]) == 0 ? i : found;
    }
    if (found < 0) {
        return ctl_usage("--consistency: \"%s\" is none of linearizable, lease, stale", text);
    }
    ctl->consistency = (enum cairn_consistency)found;
    if (bound && found != CAIRN_STALE) {
        return ctl_usage("--max-staleness goes with --consistency stale");
    }
    if (bound && !ctl_parse_duration_ms("--max-staleness", bound, &ctl->max_staleness_ms)) {
        return CTL_USAGE_EXIT;
    }
    if (bound && ctl->max_staleness_ms == 0) {
        return ctl_usage(
            "--max-staleness must be at least 1ms; --consistency lease misses nothing");
    }
    return 0;
}

static int apply_ack(struct ctl *ctl, const char *text)
{
    bool is_all = text && strcmp(text, "all") == 0;
    if (text && !is_all && strcmp(text, "majority") != 0) {
        return ctl_usage("--ack: \"%s\" is none of majority, all", text);
    }
    ctl->ack = is_all ? CAIRN_ACK_ALL : CAIRN_ACK_MAJORITY;
    return 0;
}

static int apply_globals(struct ctl *ctl, const struct parse *parse)
{
    static const char *const later[] = { "user", "tls-ca", "tls-cert", "tls-key" };
    const char *timeout = global(parse, "timeout");
    uint64_t timeout_ms = 5000;
    if (timeout && !ctl_parse_duration_ms("--timeout", timeout, &timeout_ms)) {
        return CTL_USAGE_EXIT;
    }
    if (timeout_ms == 0) {
        return ctl_usage("--timeout must be longer than nothing");
    }
    ctl->timeout_ms = (uint32_t)timeout_ms;
    int exit_code =
        apply_consistency(ctl, global(parse, "consistency"), global(parse, "max-staleness"));
    exit_code = exit_code ? exit_code : apply_ack(ctl, global(parse, "ack"));
    if (exit_code) {
        return exit_code;
    }
    for (size_t i = 0; i < sizeof later / sizeof later[0]; i++) {
        if (global(parse, later[i])) {
            char what[40];
            snprintf(what, sizeof what, "--%s", later[i]);
            return refuse_later(what);
        }
    }
    return apply_output(ctl, global(parse, "output"));
}

static int check_count(const struct ctl *ctl)
{
    const struct ctl_command *command = ctl->command;
    if (ctl->argc < command->arguments_min) {
        return ctl_usage("%s needs more arguments: cairn %s %s", command->name, command->name,
                         command->arguments);
    }
    if (command->arguments_max >= 0 && ctl->argc > command->arguments_max) {
        return ctl_usage("%s takes fewer arguments: cairn %s %s", command->name, command->name,
                         command->arguments);
    }
    return 0;
}

int ctl_help(struct ctl *ctl)
{
    if (ctl->argc == 0) {
        ctl_print_overview();
        return 0;
    }
    char name[128];
    snprintf(name, sizeof name, "%s%s%s", ctl->argv[0], ctl->argc > 1 ? " " : "",
             ctl->argc > 1 ? ctl->argv[1] : "");
    const struct ctl_command *command = ctl_find_command(name);
    if (command) {
        ctl_print_help(command);
        return 0;
    }
    bool is_family = false;
    size_t size = strlen(name);
    for (const struct ctl_command *row = ctl_commands; row->name; row++) { /* `cairn help node` */
        if (strncmp(row->name, name, size) == 0 && row->name[size] == ' ') {
            printf("%s", is_family ? "\n" : "");
            ctl_print_help(row);
            is_family = true;
        }
    }
    return is_family ? 0 : ctl_usage("unknown command \"%s\"; `cairn help` lists them", name);
}

int ctl_version(struct ctl *ctl)
{
    printf("cairn %s\n", CAIRN_VERSION);
    return 0;
}

static int run(struct ctl *ctl, const struct parse *parse)
{
    bool wants_help = global(parse, "help");
    if (!ctl->command) {
        ctl_print_overview();
        return wants_help ? 0 : CTL_USAGE_EXIT;
    }
    if (wants_help) {
        ctl_print_help(ctl->command);
        return 0;
    }
    int exit_code = apply_globals(ctl, parse);
    if (exit_code) {
        return exit_code;
    }
    if (!ctl->command->run) {
        return refuse_later(ctl->command->name);
    }
    exit_code = check_count(ctl);
    if (exit_code) {
        return exit_code;
    }
    ctl->endpoints = ctl_find_endpoints(global(parse, "endpoints"));
    return ctl->command->run(ctl);
}

int main(int argc, char **argv)
{
    struct ctl ctl = { 0 };
    struct parse parse = { .in = argv + 1, .left = argc - 1 };
    char **arguments = calloc((size_t)argc + 1, sizeof *arguments);
    if (!arguments) {
        return ctl_fail(-3, "out of memory");
    }
    signal(SIGPIPE, SIG_DFL); /* `cairn ls | head` ends quietly */
    ctl.argv = arguments;
    int exit_code = parse_all(&parse, &ctl, arguments);
    if (exit_code == 0) {
        exit_code = run(&ctl, &parse);
    }
    if (ctl.cairn) {
        cairn_close(ctl.cairn);
    }
    free((void *)(uintptr_t)ctl.endpoints);
    free(arguments);
    return ctl_finish_output(exit_code);
}
