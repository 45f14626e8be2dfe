/* put, get, del, mget, mput. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/ctl.h"

enum {
    BATCH_OPERATIONS = 4096,   /* of mput, mget and del --prefix, sent at once */
    BATCH_BYTES = 16 << 20,    /* of values, likewise */
    LINE_BYTES_MAX = 64 << 20, /* one line of mput: a value with escapes */
};

/* --- put */

/* All of stdin; NULL with a message. One byte over the limit is enough to be refused. */
static char *read_stdin(size_t *size)
{
    size_t capacity = 1 << 16, filled = 0;
    char *bytes = malloc(capacity);
    while (bytes && filled <= CAIRN_VALUE_BYTES_MAX) {
        if (filled == capacity) {
            char *larger = realloc(bytes, capacity *= 2);
            if (!larger) {
                break;
            }
            bytes = larger;
        }
        size_t got = fread(bytes + filled, 1, capacity - filled, stdin);
        filled += got;
        if (got == 0) {
            if (ferror(stdin)) {
                ctl_fail(-4, "reading stdin: %s", strerror(errno));
                free(bytes);
                return NULL;
            }
            *size = filled;
            return bytes;
        }
    }
    *size = filled;
    return bytes;
}

/* Options --if-absent and --if-version into the request. 0 or an exit code. */
static int apply_condition(const struct ctl *ctl, bool has_absent, struct cairn_request *request)
{
    const char *version = ctl_option(ctl, "if-version");
    if (has_absent && ctl_flag(ctl, "if-absent")) {
        request->condition = CAIRN_IF_ABSENT;
        if (version) {
            return ctl_usage("--if-absent and --if-version exclude each other");
        }
    }
    if (version) {
        request->condition = CAIRN_IF_VERSION;
        if (!ctl_parse_u64("--if-version", version, &request->version)) {
            return CTL_USAGE_EXIT;
        }
    }
    return 0;
}

static void print_version(const struct ctl *ctl, const struct cairn_request *request,
                          uint64_t version)
{
    if (ctl->output == CTL_JSON || ctl->output == CTL_JSONL) {
        json_t *object = json_object();
        ctl_json_bytes(object, "key", request->key, request->key_size);
        json_object_set_new(object, "version", json_integer((json_int_t)version));
        ctl_print_json(object, ctl->output == CTL_JSON);
    } else {
        printf("%llu\n", (unsigned long long)version);
    }
}

int ctl_put(struct ctl *ctl)
{
    if (ctl_option(ctl, "ttl") || ctl_option(ctl, "fence")) {
        return ctl_fail(CAIRN_UNSUPPORTED, "--ttl and --fence are not available yet");
    }
    struct cairn_request request = { .verb = CAIRN_PUT,
                                     .key = ctl->argv[0],
                                     .key_size = strlen(ctl->argv[0]) };
    int exit_code = apply_condition(ctl, true, &request);
    if (exit_code) {
        return exit_code;
    }
    char *input = NULL;
    if (ctl->argc == 2 && strcmp(ctl->argv[1], "-") != 0) {
        request.value = ctl->argv[1];
        request.value_size = strlen(ctl->argv[1]);
    } else {
        input = read_stdin(&request.value_size);
        if (!input) {
            return 1;
        }
        request.value = input;
    }
    ctl_apply_consistency(ctl, &request);
    struct cairn_result result;
    int status = cairn_call(ctl_open(ctl), &request, &result);
    if (status == 0) {
        print_version(ctl, &request, result.meta.version);
    } else {
        exit_code = ctl_fail_key(ctl, status, request.key, request.key_size);
    }
    cairn_result_free(&result);
    free(input);
    return exit_code;
}

/* --- get */

static void print_record_json(const struct ctl *ctl, const struct cairn_request *request,
                              const struct cairn_result *result)
{
    json_t *object = json_object();
    ctl_json_bytes(object, "key", request->key, request->key_size);
    if (request->verb == CAIRN_GET) {
        ctl_json_bytes(object, "value", result->value, result->value_size);
    }
    ctl_json_meta(object, &result->meta);
    ctl_json_staleness(object, ctl, result->staleness_ms);
    ctl_print_json(object, ctl->output == CTL_JSON);
}

static void print_staleness(const struct ctl *ctl, const struct cairn_result *result)
{
    if (ctl->consistency != CAIRN_STALE) {
        return;
    }
    if (result->staleness_ms == CAIRN_STALENESS_UNKNOWN) {
        printf("%-12s unknown\n", "staleness");
    } else {
        printf("%-12s %llu ms\n", "staleness", (unsigned long long)result->staleness_ms);
    }
}

int ctl_get(struct ctl *ctl)
{
    bool wants_version = ctl_flag(ctl, "version"), wants_meta = ctl_flag(ctl, "meta");
    struct cairn_request request = { .verb =
                                         wants_version || wants_meta ? CAIRN_GET_META : CAIRN_GET,
                                     .key = ctl->argv[0],
                                     .key_size = strlen(ctl->argv[0]) };
    ctl_apply_consistency(ctl, &request);
    struct cairn_result result;
    int status = cairn_call(ctl_open(ctl), &request, &result);
    if (status) {
        return ctl_fail_key(ctl, status, request.key, request.key_size);
    }
    bool is_json = ctl->output == CTL_JSON || ctl->output == CTL_JSONL;
    if (wants_version && !is_json) {
        printf("%llu\n", (unsigned long long)result.meta.version);
    } else if (is_json) {
        print_record_json(ctl, &request, &result);
    } else if (wants_meta) {
        ctl_print_meta_table(request.key, request.key_size, &result.meta);
        print_staleness(ctl, &result);
    } else {
        ctl_write(result.value, result.value_size);
    }
    cairn_result_free(&result);
    return 0;
}

/* --- Batches */

/* Requests that gather until they are sent together. Keys and values are copies. */
struct batch {
    struct cairn_request *requests;
    struct cairn_result *results;
    size_t count, bytes;
};

static void batch_init(struct batch *batch)
{
    *batch = (struct batch){ calloc(BATCH_OPERATIONS, sizeof *batch->requests),
                             calloc(BATCH_OPERATIONS, sizeof *batch->results), 0, 0 };
    if (!batch->requests || !batch->results) {
        exit(ctl_fail(-3, "out of memory"));
    }
}

static void batch_clear(struct batch *batch)
{
    for (size_t i = 0; i < batch->count; i++) {
        free((void *)(uintptr_t)batch->requests[i].key);
        free((void *)(uintptr_t)batch->requests[i].value);
        cairn_result_free(&batch->results[i]);
    }
    batch->count = batch->bytes = 0;
}

static void batch_fini(struct batch *batch)
{
    batch_clear(batch);
    free(batch->requests);
    free(batch->results);
}

static void *copy_bytes(const void *data, size_t size)
{
    void *copy = malloc(size + 1);
    if (!copy) {
        exit(ctl_fail(-3, "out of memory"));
    }
    return memcpy(copy, data, size);
}

static bool batch_is_full(const struct batch *batch)
{
    return batch->count == BATCH_OPERATIONS || batch->bytes >= BATCH_BYTES;
}

static void batch_add(struct batch *batch, enum cairn_verb verb, const void *key, size_t key_size,
                      const void *value, size_t value_size)
{
    batch->requests[batch->count++] =
        (struct cairn_request){ .verb = verb,
                                .key = copy_bytes(key, key_size),
                                .key_size = key_size,
                                .value = value_size ? copy_bytes(value, value_size) : NULL,
                                .value_size = value_size };
    batch->bytes += key_size + value_size;
}

/* Sends them. 0, or an exit code after a message about the first that failed. *done counts statuses
 * 0 (deletes: that existed). */
static int batch_send(struct ctl *ctl, struct batch *batch, uint64_t *done)
{
    int exit_code = 0;
    for (size_t i = 0; i < batch->count; i++) {
        ctl_apply_consistency(ctl, &batch->requests[i]);
    }
    int status = batch->count
                     ? cairn_call_many(ctl_open(ctl), batch->requests, batch->count, batch->results)
                     : 0;
    if (status && batch->results[0].status == 0 && batch->count == 1) {
        return ctl_fail_last(ctl, status); /* the call as a whole was refused */
    }
    for (size_t i = 0; i < batch->count; i++) {
        const struct cairn_result *result = &batch->results[i];
        bool is_absent = batch->requests[i].verb == CAIRN_GET && result->status == CAIRN_NOT_FOUND;
        if (result->status == 0) {
            *done += batch->requests[i].verb != CAIRN_DELETE || result->existed;
        } else if (exit_code == 0 && !is_absent) {
            exit_code = ctl_fail_key(ctl, result->status, batch->requests[i].key,
                                     batch->requests[i].key_size);
        }
    }
    return exit_code ? exit_code : status ? ctl_fail_last(ctl, status) : 0;
}

static int check_key(const void *key, size_t size)
{
    int code = size == 0 ? CAIRN_KEY_EMPTY : size > CAIRN_KEY_BYTES_MAX ? CAIRN_KEY_TOO_LONG : 0;
    return code ? ctl_fail(code, "%s", cairn_error(code)->text) : 0;
}

/* --- del */

static int print_count(const struct ctl *ctl, const char *name, uint64_t count, int exit_code)
{
    if (ctl->output == CTL_JSON || ctl->output == CTL_JSONL) {
        ctl_print_json(json_pack("{s:I}", name, (json_int_t)count), false);
    } else {
        printf("%llu\n", (unsigned long long)count);
    }
    return exit_code;
}

static int delete_prefix(struct ctl *ctl, const char *prefix)
{
    struct cairn_scan_options options = {
        .prefix = prefix, .prefix_size = strlen(prefix), .keys_only = true, .page_entries = 1024
    };
    struct cairn_scan *scan;
    struct cairn_entry entry;
    struct batch batch;
    uint64_t count = 0;
    int exit_code = 0;
    int status = cairn_scan_open(ctl_open(ctl), &options, &scan);
    if (status) {
        return ctl_fail(status, "%s", cairn_error(status)->text);
    }
    batch_init(&batch);
    while (exit_code == 0 && (status = cairn_scan_next(scan, &entry)) == 1) {
        batch_add(&batch, CAIRN_DELETE, entry.key, entry.key_size, NULL, 0);
        if (batch_is_full(&batch)) {
            exit_code = batch_send(ctl, &batch, &count);
            batch_clear(&batch);
        }
    }
    if (exit_code == 0) {
        exit_code = status < 0 ? ctl_fail_last(ctl, status) : batch_send(ctl, &batch, &count);
    }
    batch_fini(&batch);
    cairn_scan_close(scan);
    return print_count(ctl, "deleted", count, exit_code);
}

int ctl_del(struct ctl *ctl)
{
    const char *prefix = ctl_option(ctl, "prefix");
    if (prefix) {
        if (ctl->argc || ctl_option(ctl, "if-version")) {
            return ctl_usage("--prefix goes with neither keys nor --if-version");
        }
        if (!prefix[0] && !ctl_flag(ctl, "yes")) {
            return ctl_usage("an empty prefix means every key of the cluster: say --yes");
        }
        return delete_prefix(ctl, prefix);
    }
    if (ctl->argc == 0) {
        return ctl_usage("del needs keys, or --prefix");
    }
    struct batch batch;
    batch_init(&batch);
    uint64_t count = 0;
    int exit_code = 0;
    for (int i = 0; i < ctl->argc && exit_code == 0; i++) {
        exit_code = check_key(ctl->argv[i], strlen(ctl->argv[i]));
    }
    for (int i = 0; i < ctl->argc && exit_code == 0; i++) {
        batch_add(&batch, CAIRN_DELETE, ctl->argv[i], strlen(ctl->argv[i]), NULL, 0);
        exit_code = apply_condition(ctl, false, &batch.requests[batch.count - 1]);
        if (exit_code == 0 && (batch_is_full(&batch) || i + 1 == ctl->argc)) {
            exit_code = batch_send(ctl, &batch, &count);
            batch_clear(&batch);
        }
    }
    batch_fini(&batch);
    return exit_code ? exit_code : print_count(ctl, "deleted", count, 0);
}

/* --- mget */

static void print_found(const struct ctl *ctl, const struct cairn_request *request,
                        const struct cairn_result *result, json_t *list)
{
    if (ctl->output != CTL_JSON && ctl->output != CTL_JSONL) {
        if (result->status == 0) {
            ctl_print_escaped(request->key, request->key_size);
            putchar('\t');
            ctl_print_escaped(result->value, result->value_size);
            putchar('\n');
        }
        return;
    }
    json_t *object = json_object();
    ctl_json_bytes(object, "key", request->key, request->key_size);
    if (result->status == 0) {
        ctl_json_bytes(object, "value", result->value, result->value_size);
        ctl_json_meta(object, &result->meta);
    } else {
        json_object_set_new(object, "error", json_string(cairn_error(result->status)->name));
    }
    if (list) {
        json_array_append_new(list, object);
    } else {
        ctl_print_json(object, false);
    }
}

int ctl_mget(struct ctl *ctl)
{
    struct batch batch;
    batch_init(&batch);
    json_t *list = ctl->output == CTL_JSON ? json_array() : NULL;
    uint64_t found = 0;
    int exit_code = 0;
    for (int i = 0; i < ctl->argc && exit_code == 0; i++) {
        exit_code = check_key(ctl->argv[i], strlen(ctl->argv[i]));
    }
    for (int i = 0; i < ctl->argc && exit_code == 0; i++) {
        batch_add(&batch, CAIRN_GET, ctl->argv[i], strlen(ctl->argv[i]), NULL, 0);
        if (batch.count == 64 || i + 1 == ctl->argc) { /* few at once: the values may be large */
            exit_code = batch_send(ctl, &batch, &found);
            for (size_t j = 0; j < batch.count; j++) {
                const struct cairn_result *result = &batch.results[j];
                if (result->status || result->meta.version) { /* else the call was refused */
                    print_found(ctl, &batch.requests[j], result, list);
                }
            }
            batch_clear(&batch);
        }
    }
    if (list) {
        ctl_print_json(list, true);
    }
    batch_fini(&batch);
    return exit_code                      ? exit_code
           : found == (uint64_t)ctl->argc ? 0
                                          : cairn_error(CAIRN_NOT_FOUND)->exit_code;
}

/* --- mput */

/* Decodes in place; -1: malformed. */
static long unbase64(char *text)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint32_t bits = 0, count = 0;
    long out = 0;
    for (const char *at = text; *at && *at != '='; at++) {
        const char *found = strchr(digits, *at);
        if (!found) {
            return -1;
        }
        bits = bits << 6 | (uint32_t)(found - digits);
        count += 6;
        if (count >= 8) {
            count -= 8;
            text[out++] = (char)(bits >> count);
        }
    }
    return out;
}

/* Member `name` or name_b64 of the object; to be freed. NULL: absent or malformed. */
static char *json_bytes(const json_t *object, const char *name, size_t *size)
{
    char long_name[16];
    const json_t *plain = json_object_get(object, name);
    if (json_is_string(plain)) {
        *size = json_string_length(plain);
        return copy_bytes(json_string_value(plain), *size);
    }
    snprintf(long_name, sizeof long_name, "%s_b64", name);
    const json_t *encoded = json_object_get(object, long_name);
    if (!json_is_string(encoded)) {
        return NULL;
    }
    char *text = strdup(json_string_value(encoded));
    long decoded = text ? unbase64(text) : -1;
    if (decoded < 0) {
        free(text);
        return NULL;
    }
    *size = (size_t)decoded;
    return text;
}

static bool add_json_line(struct batch *batch, const char *line, size_t size)
{
    json_t *object = json_loadb(line, size, JSON_ALLOW_NUL, NULL);
    size_t key_size = 0, value_size = 0;
    char *key = json_is_object(object) ? json_bytes(object, "key", &key_size) : NULL;
    char *value = key ? json_bytes(object, "value", &value_size) : NULL;
    if (value) {
        batch_add(batch, CAIRN_PUT, key, key_size, value, value_size);
    }
    free(key);
    free(value);
    json_decref(object);
    return value != NULL;
}

static bool add_tsv_line(struct batch *batch, char *line, size_t size)
{
    char *tab = memchr(line, '\t', size);
    if (!tab) {
        return false;
    }
    long key_size = ctl_unescape(line, (size_t)(tab - line));
    long value_size = ctl_unescape(tab + 1, size - (size_t)(tab + 1 - line));
    if (key_size < 0 || value_size < 0) {
        return false;
    }
    batch_add(batch, CAIRN_PUT, line, (size_t)key_size, tab + 1, (size_t)value_size);
    return true;
}

static int add_line(struct batch *batch, bool is_json, char *line, size_t size, uint64_t number)
{
    if (size && line[size - 1] == '\n') {
        size--;
    }
    if (size > LINE_BYTES_MAX ||
        !(is_json ? add_json_line(batch, line, size) : add_tsv_line(batch, line, size))) {
        return ctl_usage("line %llu is not %s", (unsigned long long)number,
                         is_json ? "an object with key and value" : "KEY<TAB>VALUE");
    }
    const struct cairn_request *request = &batch->requests[batch->count - 1];
    int code = request->key_size == 0                        ? CAIRN_KEY_EMPTY
               : request->key_size > CAIRN_KEY_BYTES_MAX     ? CAIRN_KEY_TOO_LONG
               : request->value_size > CAIRN_VALUE_BYTES_MAX ? CAIRN_VALUE_TOO_LARGE
                                                             : 0;
    return code ? ctl_fail(code, "line %llu: %s", (unsigned long long)number,
                           cairn_error(code)->text)
                : 0;
}

int ctl_mput(struct ctl *ctl)
{
    const char *format = ctl_option(ctl, "format");
    bool is_json = format && strcmp(format, "jsonl") == 0;
    if (format && !is_json && strcmp(format, "tsv") != 0) {
        return ctl_usage("--format: \"%s\" is neither tsv nor jsonl", format);
    }
    struct batch batch;
    batch_init(&batch);
    char *line = NULL;
    size_t capacity = 0;
    ssize_t size;
    uint64_t number = 0, stored = 0;
    int exit_code = 0;
    while (exit_code == 0 && (size = getline(&line, &capacity, stdin)) >= 0) {
        exit_code = add_line(&batch, is_json, line, (size_t)size, ++number);
        if (exit_code == 0 && batch_is_full(&batch)) {
            exit_code = batch_send(ctl, &batch, &stored);
            batch_clear(&batch);
        }
    }
    if (exit_code == 0) {
        exit_code = batch_send(ctl, &batch, &stored);
    }
    free(line);
    batch_fini(&batch);
    return print_count(ctl, "stored", stored, exit_code);
}
