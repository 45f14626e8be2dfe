/* Options, read in four rounds that each overwrite the one before: table, file, environment,
 * command line. Every round ends in config_set, so that a value is judged in the same way wherever
 * it comes from, and the error names where that was. What must hold between options is judged once,
 * at the end.
 *
 * File: one `name = value` a line; `#` begins a comment at a line's beginning or after a blank; a
 * value in double quotes is taken as it stands between them. A name may stand once.
 *
 * I1  texts[i] is never NULL after config_init, and holds what fields and sources say. */
#include "node/config.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/limits.h"
#include "base/mem.h"

enum config_kind { KIND_TEXT, KIND_FLAG, KIND_NUMBER, KIND_BYTES, KIND_MS, KIND_LEVEL };
enum config_when { WHEN_START, WHEN_LIVE };

struct param {
    const char *name;
    enum config_kind kind;
    enum config_when when;
    const char *default_text;
    uint64_t min, max;
    size_t offset;
    const char *argument, *help;
};

static const struct param params[CONFIG_PARAMS] = {
#define PARAM(field_, name_, kind_, default_, min_, max_, when_, argument_, help_)                 \
    {                                                                                              \
        name_,                                                                                     \
        KIND_##kind_,                                                                              \
        WHEN_##when_,                                                                              \
        default_,                                                                                  \
        min_,                                                                                      \
        max_,                                                                                      \
        offsetof(struct config, field_),                                                           \
        argument_,                                                                                 \
        help_                                                                                      \
    },
#include "tbl/params.def"
};

static const struct {
    const char *name, *what;
} params_later[] = {
#define PARAM_LATER(name_, what_) { name_, what_ },
#include "tbl/params.def"
};

/* Options of the command line alone. */
static const char *const command_options[] = { "help", "version", "check-config", "config" };

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static const char *source_name(enum config_source source)
{
    static const char *const names[] = { "default", "file", "environment", "command line" };

    return names[source];
}

/* --- Names */

/* Levenshtein's distance; names are short. */
static size_t name_distance(const char *a, const char *b)
{
    enum { NAME_MAX_BYTES = 64 };
    size_t row[NAME_MAX_BYTES + 1];
    size_t size = strlen(b);

    if (size > NAME_MAX_BYTES) {
        return SIZE_MAX;
    }
    for (size_t i = 0; i <= size; i++) {
        row[i] = i;
    }
    for (size_t k = 1; *a; a++, k++) {
        size_t diagonal = row[0];
        row[0] = k;
        for (size_t i = 1; i <= size; i++) {
            size_t change = diagonal + (*a != b[i - 1]);
            size_t shift = 1 + (row[i] < row[i - 1] ? row[i] : row[i - 1]);
            diagonal = row[i];
            row[i] = change < shift ? change : shift;
        }
    }
    return row[size];
}

static void nearer(const char *name, const char *candidate, const char **best,
                   size_t *best_distance)
{
    /* Whoever types the beginning of a name means it. */
    bool is_prefix = strlen(name) >= 3 && strncmp(candidate, name, strlen(name)) == 0;
    size_t distance = is_prefix ? 1 : name_distance(name, candidate);

    if (distance < *best_distance) {
        *best = candidate;
        *best_distance = distance;
    }
}

/* The known name that is most like this one; NULL when none is like it. */
static const char *name_nearest(const char *name)
{
    const char *best = NULL;
    size_t distance = strlen(name) / 3 + 2;

    for (size_t i = 0; i < CONFIG_PARAMS; i++) {
        nearer(name, params[i].name, &best, &distance);
    }
    for (size_t i = 0; i < COUNT(command_options); i++) {
        nearer(name, command_options[i], &best, &distance);
    }
    return best;
}

/* Index of the option, or ERR_UNSUPPORTED, ERR_USAGE. `where` goes before the text: "--", "FILE:3:
 * ". */
static int name_find(const char *name, const char *where, struct err *err)
{
    for (int i = 0; i < CONFIG_PARAMS; i++) {
        if (strcmp(params[i].name, name) == 0) {
            return i;
        }
    }
    for (size_t i = 0; i < COUNT(params_later); i++) {
        if (strcmp(params_later[i].name, name) == 0) {
            return err_set(err, ERR_UNSUPPORTED, "%s%s: %s is not supported yet", where, name,
                           params_later[i].what);
        }
    }
    const char *nearest = name_nearest(name);
    if (nearest) {
        return err_set(err, ERR_USAGE, "%s%.60s: no such option; did you mean %s?", where, name,
                       nearest);
    }
    return err_set(err, ERR_USAGE, "%s%.60s: no such option; see cairnd --help", where, name);
}

/* "election-timeout-ms" to "CAIRN_ELECTION_TIMEOUT_MS". */
static void name_to_environment(const char *name, char out[80])
{
    size_t at = (size_t)snprintf(out, 80, "CAIRN_");

    for (; *name && at < 79; name++) {
        out[at++] = *name == '-' ? '_' : (char)toupper((unsigned char)*name);
    }
    out[at] = '\0';
}

/* --- Values */

/* Digits and a unit. False: no number, or it does not fit 64 bits. */
static bool parse_quantity(const char *text, enum config_kind kind, uint64_t *out)
{
    static const struct {
        enum config_kind kind;
        const char *unit;
        uint64_t factor;
    } units[] = {
        { KIND_BYTES, "K", 1 << 10 },   { KIND_BYTES, "M", 1 << 20 },
        { KIND_BYTES, "G", 1 << 30 },   { KIND_BYTES, "KiB", 1 << 10 },
        { KIND_BYTES, "MiB", 1 << 20 }, { KIND_BYTES, "GiB", 1 << 30 },
        { KIND_BYTES, "B", 1 },         { KIND_MS, "ms", 1 },
        { KIND_MS, "s", 1000 },         { KIND_MS, "m", 60000 },
        { KIND_MS, "h", 3600000 },
    };
    uint64_t value = 0;

    if (!isdigit((unsigned char)*text)) {
        return false;
    }
    for (; isdigit((unsigned char)*text); text++) {
        if (__builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, (uint64_t)(*text - '0'), &value)) {
            return false;
        }
    }
    if (*text == '\0') {
        *out = value;
        return true;
    }
    for (size_t i = 0; i < COUNT(units); i++) {
        if (units[i].kind == kind && strcmp(units[i].unit, text) == 0) {
            return !__builtin_mul_overflow(value, units[i].factor, out);
        }
    }
    return false;
}

static bool parse_flag(const char *text, bool *out)
{
    static const char *const yes[] = { "yes", "true", "on", "1" };
    static const char *const no[] = { "no", "false", "off", "0" };

    for (size_t i = 0; i < COUNT(yes); i++) {
        if (strcmp(text, yes[i]) == 0 || strcmp(text, no[i]) == 0) {
            *out = strcmp(text, yes[i]) == 0;
            return true;
        }
    }
    return false;
}

static int quantity_refused(const struct param *param, const char *text, const char *where,
                            struct err *err)
{
    const char *units = param->kind == KIND_BYTES ? ", with K, M, G, KiB, MiB or GiB"
                        : param->kind == KIND_MS  ? ", with ms, s, m or h"
                                                  : "";

    return err_set(err, ERR_USAGE, "%s%s: '%.40s' is not a number from %llu to %llu%s", where,
                   param->name, text, (unsigned long long)param->min,
                   (unsigned long long)param->max, units);
}

/* Judges the text and writes the field; the text stays the caller's until it is accepted, then it
 * is kept. */
static int config_set(struct config *config, int index, const char *text, enum config_source source,
                      const char *where, struct err *err)
{
    const struct param *param = &params[index];
    void *field = (char *)config + param->offset;
    bool flag;
    uint64_t number;

    switch (param->kind) {
    case KIND_TEXT:
        if (strlen(text) > param->max || (!*text && source != CONFIG_DEFAULT)) {
            return err_set(err, ERR_USAGE, "%s%s: must be 1 to %llu bytes", where, param->name,
                           (unsigned long long)param->max);
        }
        break;
    case KIND_FLAG:
        if (!parse_flag(text, &flag)) {
            return err_set(err, ERR_USAGE, "%s%s: '%.40s' is neither yes nor no", where,
                           param->name, text);
        }
        *(bool *)field = flag;
        break;
    case KIND_LEVEL:
        if (!logger_parse_level(text, field)) {
            return err_set(err, ERR_USAGE, "%s%s: '%.40s' is not error, warn, info or debug", where,
                           param->name, text);
        }
        break;
    case KIND_NUMBER:
    case KIND_BYTES:
    case KIND_MS:
        if (!parse_quantity(text, param->kind, &number) || number < param->min ||
            number > param->max) {
            return quantity_refused(param, text, where, err);
        }
        *(uint64_t *)field = number;
        break;
    }
    char *copy = mem_strdup(text);
    mem_free(config->texts[index]);
    config->texts[index] = copy;
    config->sources[index] = source;
    if (param->kind == KIND_TEXT) {
        *(const char **)field = *copy ? copy : NULL;
    }
    return 0;
}

static void config_init(struct config *config)
{
    *config = (struct config){ 0 };
    for (int i = 0; i < CONFIG_PARAMS; i++) {
        CHECK(config_set(config, i, params[i].default_text, CONFIG_DEFAULT, "", NULL) == 0);
    }
}

void config_fini(struct config *config)
{
    for (int i = 0; i < CONFIG_PARAMS; i++) {
        mem_free(config->texts[i]);
    }
    *config = (struct config){ 0 };
}

/* --- The file */

/* Cuts blanks off both ends, in place. */
static char *trim(char *text)
{
    char *end = text + strlen(text);

    while (end > text && isspace((unsigned char)end[-1])) {
        *--end = '\0';
    }
    while (isspace((unsigned char)*text)) {
        text++;
    }
    return text;
}

/* Ends a line where its comment begins, if it does. */
static void cut_comment(char *line)
{
    bool is_quoted = false;

    for (char *at = line; *at; at++) {
        is_quoted ^= *at == '"';
        if (*at == '#' && !is_quoted && (at == line || isspace((unsigned char)at[-1]))) {
            *at = '\0';
            return;
        }
    }
}

static int file_line(struct config *config, char *line, const char *where, struct err *err)
{
    cut_comment(line);
    char *name = trim(line);
    char *equals = strchr(name, '=');

    if (!*name) {
        return 0;
    }
    if (!equals) {
        return err_set(err, ERR_USAGE, "%smust be `name = value`", where);
    }
    *equals = '\0';
    name = trim(name);
    char *value = trim(equals + 1);
    size_t size = strlen(value);
    if (*value == '"') {
        if (size < 2 || value[size - 1] != '"') {
            return err_set(err, ERR_USAGE, "%s%.60s: the quoted value has no end", where, name);
        }
        value[size - 1] = '\0';
        value++;
    }
    int index = name_find(name, where, err);
    if (index < 0) {
        return index;
    }
    if (config->sources[index] == CONFIG_FILE) {
        return err_set(err, ERR_USAGE, "%s%s: stands in the file twice", where, name);
    }
    return config_set(config, index, value, CONFIG_FILE, where, err);
}

static int file_text(struct config *config, const char *path, char *text, struct err *err)
{
    char where[128];
    unsigned number = 1;
    char *end;

    for (char *line = text; line; line = end, number++) {
        end = strchr(line, '\n');
        if (end) {
            *end++ = '\0';
        }
        snprintf(where, sizeof where, "%.100s:%u: ", path, number);
        int status = file_line(config, line, where, err);
        if (status) {
            return status;
        }
    }
    return 0;
}

static int file_load(struct env *env, struct config *config, const char *path, struct err *err)
{
    struct env_file *file;
    char *text = NULL;
    size_t size;
    int status = env_file_open(env, path, ENV_FILE_READ, &file, err);

    if (status) {
        return err_prefix(err, "--config");
    }
    text = mem_alloc(LIMIT_CONFIG_BYTES + 1);
    status = env_file_read(env, file, 0, text, LIMIT_CONFIG_BYTES + 1, &size, err);
    if (status) {
        goto out;
    }
    if (size > LIMIT_CONFIG_BYTES || memchr(text, '\0', size)) {
        status = err_set(err, ERR_USAGE, "--config %s: larger than %u bytes, or not text", path,
                         LIMIT_CONFIG_BYTES);
        goto out;
    }
    text[size] = '\0';
    status = file_text(config, path, text, err);
out:
    mem_free(text);
    env_file_close(env, file);
    return status;
}

/* --- The environment */

static const char *environment_find(char *const *environment, const char *name)
{
    size_t size = strlen(name);

    for (; environment && *environment; environment++) {
        if (strncmp(*environment, name, size) == 0 && (*environment)[size] == '=') {
            return *environment + size + 1;
        }
    }
    return NULL;
}

/* An empty variable counts as absent: that is how scripts and unit files take one away. */
static int environment_load(struct config *config, char *const *environment, struct err *err)
{
    char name[80], where[100];
    const char *text;

    for (int i = 0; i < CONFIG_PARAMS; i++) {
        name_to_environment(params[i].name, name);
        text = environment_find(environment, name);
        if (text && *text) {
            snprintf(where, sizeof where, "environment %s: ", name);
            int status = config_set(config, i, text, CONFIG_ENVIRONMENT, where, err);
            if (status) {
                return status;
            }
        }
    }
    for (size_t i = 0; i < COUNT(params_later); i++) {
        name_to_environment(params_later[i].name, name);
        text = environment_find(environment, name);
        if (text && *text) {
            return err_set(err, ERR_UNSUPPORTED, "environment %s: %s is not supported yet", name,
                           params_later[i].what);
        }
    }
    return 0;
}

/* --- The command line */

/* One option of the command line, cut into name and value (NULL: none behind '='). */
struct argument {
    char name[64];
    const char *value;
};

static int argument_cut(const char *text, struct argument *out, struct err *err)
{
    const char *name = strncmp(text, "--", 2) == 0 ? text + 2 : NULL;
    size_t size = name ? strcspn(name, "=") : 0;

    if (strcmp(text, "-h") == 0) {
        name = "help";
        size = 4;
    }
    if (!size || size >= sizeof out->name) {
        return err_set(err, ERR_USAGE, "'%.60s' is not an option; see cairnd --help", text);
    }
    memcpy(out->name, name, size);
    out->name[size] = '\0';
    out->value = name[size] == '=' ? name + size + 1 : NULL;
    return 0;
}

/* True when the option is one of the command line alone and takes no value. */
static bool argument_is_action(const struct argument *argument, enum config_action *action)
{
    static const enum config_action actions[] = { CONFIG_HELP, CONFIG_VERSION, CONFIG_CHECK };

    for (size_t i = 0; i < COUNT(actions); i++) {
        if (strcmp(argument->name, command_options[i]) == 0) {
            *action = actions[i];
            return true;
        }
    }
    return false;
}

/* Walks the command line. config NULL: looks only for actions and the file, accepting everything.
 */
static int command_line_load(struct config *config, int argc, char *const *argv,
                             enum config_action *action, const char **file, struct err *err)
{
    for (int i = 1; i < argc; i++) {
        struct argument argument;
        int status = argument_cut(argv[i], &argument, err);
        if (status) {
            return status;
        }
        if (argument_is_action(&argument, action)) {
            if (*action == CONFIG_HELP || *action == CONFIG_VERSION) {
                return 0;
            }
            continue;
        }
        bool is_file = strcmp(argument.name, "config") == 0;
        int index = is_file ? 0 : name_find(argument.name, "--", err);
        if (index < 0) {
            return index;
        }
        if (!is_file && params[index].kind == KIND_FLAG) {
            argument.value = argument.value ? argument.value : "yes";
        } else if (!argument.value && ++i >= argc) {
            return err_set(err, ERR_USAGE, "--%s: needs a value", argument.name);
        } else if (!argument.value) {
            argument.value = argv[i];
        }
        if (is_file) {
            *file = argument.value;
        } else if (config && (status = config_set(config, index, argument.value,
                                                  CONFIG_COMMAND_LINE, "--", err))) {
            return status;
        }
    }
    return 0;
}

/* --- What must hold between options */

static bool address_is_loopback(const char *address)
{
    return strncmp(address, "127.", 4) == 0 || strncmp(address, "localhost:", 10) == 0 ||
           strncmp(address, "[::1]:", 6) == 0;
}

/* "HOST:PORT" or "[V6]:PORT"; env judges the host, this finds what is plainly no address. */
static bool address_is_plausible(const char *address)
{
    const char *colon = strrchr(address, ':');
    char *end;

    if (!colon || colon == address || !isdigit((unsigned char)colon[1])) {
        return false;
    }
    unsigned long port = strtoul(colon + 1, &end, 10);
    if (*end || port > 65535) {
        return false;
    }
    if (*address == '[') {
        return colon[-1] == ']' && colon - address > 2;
    }
    return strcspn(address, ":") == (size_t)(colon - address);
}

/* The address of the node `name` in "n1=H:P,n2=…"; NULL when it is not there. *size is the
 * address's. */
static const char *bootstrap_find(const char *bootstrap, const char *name, size_t *size)
{
    size_t name_size = strlen(name);

    for (const char *at = bootstrap; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL) {
        if (strncmp(at, name, name_size) == 0 && at[name_size] == '=') {
            *size = strcspn(at + name_size + 1, ",");
            return at + name_size + 1;
        }
    }
    return NULL;
}

static int bootstrap_check(struct config *config, struct err *err)
{
    char address[300];
    size_t size, count = 0;

    for (const char *at = config->bootstrap; at;
         at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL, count++) {
        size = strcspn(at, ",");
        size_t name_size = strcspn(at, "=,");
        if (name_size == 0 || name_size >= size || size - name_size > sizeof address) {
            return err_set(err, ERR_USAGE, "--bootstrap: '%.*s' is not NAME=HOST:PORT",
                           (int)(size < 80 ? size : 80), at);
        }
        if (name_size > LIMIT_NAME_BYTES) {
            return err_set(err, ERR_USAGE, "--bootstrap: '%.80s': a name has %d bytes at most", at,
                           LIMIT_NAME_BYTES);
        }
        snprintf(address, sizeof address, "%.*s", (int)(size - name_size - 1), at + name_size + 1);
        if (!address_is_plausible(address)) {
            return err_set(err, ERR_USAGE, "--bootstrap: '%.80s' is not HOST:PORT", address);
        }
    }
    if (count > LIMIT_NODES) {
        return err_set(err, ERR_USAGE, "--bootstrap: %zu nodes; at most %d", count, LIMIT_NODES);
    }
    const char *own = bootstrap_find(config->bootstrap, config->name, &size);
    if (!own) {
        return err_set(err, ERR_USAGE, "--bootstrap does not list this node, %s", config->name);
    }
    if (!config->advertise) { /* the others were told where this node is */
        snprintf(address, sizeof address, "%.*s", (int)size, own);
        return config_set(config, CONFIG_advertise, address, CONFIG_DEFAULT, "", err);
    }
    return 0;
}

static int check_addresses(const struct config *config, struct err *err)
{
    if (!address_is_plausible(config->listen)) {
        return err_set(err, ERR_USAGE, "--listen: '%.80s' is not HOST:PORT", config->listen);
    }
    if (config->advertise && !address_is_plausible(config->advertise)) {
        return err_set(err, ERR_USAGE, "--advertise: '%.80s' is not HOST:PORT", config->advertise);
    }
    if (!config->insecure && !address_is_loopback(config->listen)) {
        return err_set(err, ERR_USAGE,
                       "--listen %.80s is not a loopback address: there is neither encryption nor "
                       "a login yet; "
                       "--insecure allows it",
                       config->listen);
    }
    return 0;
}

/* How the node comes to its cluster: exactly one of three ways. */
static int check_cluster(struct config *config, struct err *err)
{
    if (config->in_process) {
        if (config->bootstrap || config->standalone || config->name || config->advertise ||
            config->sources[CONFIG_listen] != CONFIG_DEFAULT) {
            return err_set(
                err, ERR_USAGE,
                "--in-process chooses --name, --listen, --advertise and --bootstrap itself");
        }
        return 0;
    }
    if (config->standalone && config->bootstrap) {
        return err_set(err, ERR_USAGE, "--standalone and --bootstrap exclude each other");
    }
    if (!config->standalone && !config->bootstrap) {
        return err_set(err, ERR_USAGE,
                       "one of --bootstrap, --standalone or --in-process is needed");
    }
    if (!config->name && config->bootstrap) {
        return err_set(err, ERR_USAGE, "--name is needed with --bootstrap");
    }
    if (!config->name) {
        CHECK(config_set(config, CONFIG_name, "n1", CONFIG_DEFAULT, "", err) == 0);
    }
    for (const char *at = config->name; *at; at++) {
        if (!isalnum((unsigned char)*at) && !strchr("-_.", *at)) {
            return err_set(err, ERR_USAGE,
                           "--name: '%.60s' must be letters, digits, '-', '_' and '.'",
                           config->name);
        }
    }
    return config->bootstrap ? bootstrap_check(config, err) : 0;
}

static int config_check(struct config *config, struct err *err)
{
    int status = check_cluster(config, err);

    if (!status) {
        status = check_addresses(config, err);
    }
    if (status) {
        return status;
    }
    if (!config->data) {
        return err_set(err, ERR_USAGE, "--data is needed: the folder of this node's data");
    }
    if (config->partitions & (config->partitions - 1)) {
        return err_set(err, ERR_USAGE, "--partitions: %llu is not a power of two",
                       (unsigned long long)config->partitions);
    }
    if (config->heartbeat_ms * 3 > config->election_timeout_ms) {
        return err_set(err, ERR_USAGE,
                       "--election-timeout-ms must be at least three times --heartbeat-ms");
    }
    if (config->flush_bytes > config->overlay_bytes) {
        return err_set(err, ERR_USAGE, "--flush-bytes must not be larger than --overlay-bytes");
    }
    return 0;
}

int config_load(struct env *env, int argc, char *const *argv, char *const *environment,
                struct config *out, enum config_action *action, struct err *err)
{
    struct config config;
    enum config_action wanted = CONFIG_RUN;
    const char *file = environment_find(environment, "CAIRN_CONFIG");
    int status = command_line_load(NULL, argc, argv, &wanted, &file, err);

    if (status) {
        return status;
    }
    config_init(&config);
    if (wanted != CONFIG_HELP && wanted != CONFIG_VERSION) {
        if (file && *file) {
            status = file_load(env, &config, file, err);
        }
        if (!status) {
            status = environment_load(&config, environment, err);
        }
        if (!status) {
            status = command_line_load(&config, argc, argv, &wanted, &file, err);
        }
        if (!status) {
            status = config_check(&config, err);
        }
    }
    if (status) {
        config_fini(&config);
        return status;
    }
    *out = config;
    *action = wanted;
    return 0;
}

/* --- Uses */

void config_to_node(const struct config *config, struct node_config *out)
{
    *out = (struct node_config){
        .name = config->name,
        .data = config->data,
        .listen = config->listen,
        .advertise = config->advertise ? config->advertise : config->listen,
        .bootstrap = config->bootstrap,
        .standalone = config->standalone,
        .insecure = config->insecure,
        .cluster_name = config->cluster_name,
        .partitions = (uint32_t)config->partitions,
        .replicas = (uint32_t)config->replicas,
        .election_timeout_ms = (uint32_t)config->election_timeout_ms,
        .heartbeat_ms = (uint32_t)config->heartbeat_ms,
        .flush_bytes = config->flush_bytes,
        .flush_idle_ms = config->flush_idle_ms,
        .log_bytes = config->log_bytes,
        .overlay_bytes = config->overlay_bytes,
        .map_bytes = config->map_bytes,
        .image_bytes_per_second = config->image_bytes_per_second,
        .scrub_interval_ms = config->scrub_interval_ms,
        .reserve_bytes = config->reserve_bytes,
    };
}

void config_copy(const struct config *config, struct config *out)
{
    config_init(out);
    for (int i = 0; i < CONFIG_PARAMS; i++) {
        /* An empty text is only ever the default. */
        enum config_source source = *config->texts[i] ? config->sources[i] : CONFIG_DEFAULT;
        CHECK(config_set(out, i, config->texts[i], source, "", NULL) == 0);
    }
}

void config_of_member(const struct config *config, unsigned number, struct config *out)
{
    struct buf bootstrap = { 0 };
    char name[16], listen[32];
    char *data = mem_printf("%s/n%u", config->data, number);

    config_copy(config, out);
    for (unsigned i = 1; i <= config->in_process; i++) {
        buf_printf(&bootstrap, "%sn%u=127.0.0.1:%u", i > 1 ? "," : "", i,
                   (unsigned)config->port_base + i - 1);
    }
    buf_append(&bootstrap, "", 1);
    snprintf(name, sizeof name, "n%u", number);
    snprintf(listen, sizeof listen, "127.0.0.1:%u", (unsigned)config->port_base + number - 1);
    CHECK(config_set(out, CONFIG_name, name, CONFIG_DEFAULT, "", NULL) == 0);
    CHECK(config_set(out, CONFIG_listen, listen, CONFIG_DEFAULT, "", NULL) == 0);
    CHECK(config_set(out, CONFIG_data, data, config->sources[CONFIG_data], "", NULL) == 0);
    CHECK(config_set(out, CONFIG_bootstrap, (char *)bootstrap.data, CONFIG_DEFAULT, "", NULL) == 0);
    buf_fini(&bootstrap);
    mem_free(data);
}

void config_reload(struct config *config, const struct config *newer, struct buf *rest)
{
    for (int i = 0; i < CONFIG_PARAMS; i++) {
        if (strcmp(config->texts[i], newer->texts[i]) == 0) {
            continue;
        }
        if (params[i].when == WHEN_LIVE) {
            CHECK(config_set(config, i, newer->texts[i], newer->sources[i], "", NULL) == 0);
        } else {
            buf_printf(rest, "%s%s", rest->size ? ", " : "", params[i].name);
        }
    }
}

/* The bytes that a text fills so many columns with: a character may have several bytes. */
static int padded(const char *text, int columns)
{
    for (; *text; text++) {
        columns += (*text & 0xc0) == 0x80;
    }
    return columns;
}

void config_print_help(struct buf *out)
{
    enum { COLUMNS = 30 }; /* as wide as the longest */
    char option[96], name[80];

    buf_printf(out, "cairnd: one node of a Cairn cluster\n\n"
                    "  cairnd --name n1 --data DIR --listen HOST:PORT --bootstrap "
                    "n1=HOST:PORT,n2=HOST:PORT,n3=HOST:PORT\n"
                    "  cairnd --standalone --data DIR\n\n"
                    "Every option may also stand in the environment, or in a file as `name = "
                    "value`; the command line wins over the\n"
                    "environment, and that over the file.\n\n");
    for (int i = 0; i < CONFIG_PARAMS; i++) {
        const struct param *param = &params[i];
        snprintf(option, sizeof option, "--%s%s%s", param->name, *param->argument ? " " : "",
                 param->argument);
        name_to_environment(param->name, name);
        buf_printf(out, "  %-*s %s\n  %-*s [%s%s%s%s]\n", padded(option, COLUMNS), option,
                   param->help, COLUMNS, "", name, *param->default_text ? "; default " : "",
                   param->default_text, param->when == WHEN_LIVE ? "; reloaded by SIGHUP" : "");
    }
    buf_printf(out,
               "\n  %-*s read options from FILE [CAIRN_CONFIG]\n  %-*s check the options, print "
               "them, exit\n"
               "  %-*s print the version, exit\n  %-*s print this, exit\n",
               COLUMNS, "--config FILE", COLUMNS, "--check-config", COLUMNS, "--version", COLUMNS,
               "--help, -h");
    buf_printf(
        out,
        "\nSIGTERM and SIGINT stop in order, SIGHUP reloads, SIGUSR1 prints the node's state.\n"
        "Exit: 0 stopped when asked, 1 failed, 2 wrong option.\n");
}

void config_print(const struct config *config, struct buf *out)
{
    for (int i = 0; i < CONFIG_PARAMS; i++) {
        const char *text = config->texts[i];
        bool needs_quotes = strpbrk(text, "# \t") != NULL;
        if (*text) {
            buf_printf(out, "%s = %s%s%s  # %s\n", params[i].name, needs_quotes ? "\"" : "", text,
                       needs_quotes ? "\"" : "", source_name(config->sources[i]));
        }
    }
}
