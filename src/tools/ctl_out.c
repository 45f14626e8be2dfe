/* Output of `cairn`: JSON, escapes, tables, times. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tools/ctl.h"

static char *base64(const uint8_t *data, size_t size)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char *text = malloc((size + 2) / 3 * 4 + 1);
    char *at = text;
    for (size_t i = 0; text && i < size; i += 3) {
        uint32_t bits = (uint32_t)data[i] << 16 | (i + 1 < size ? (uint32_t)data[i + 1] << 8 : 0) |
                        (i + 2 < size ? data[i + 2] : 0);
        *at++ = digits[bits >> 18];
        *at++ = digits[bits >> 12 & 63];
        *at++ = i + 1 < size ? digits[bits >> 6 & 63] : '=';
        *at++ = i + 2 < size ? digits[bits & 63] : '=';
    }
    if (text) {
        *at = '\0';
    }
    return text;
}

void ctl_json_bytes(json_t *object, const char *name, const void *data, size_t size)
{
    json_t *text = json_stringn(data ? data : "", size);
    if (text) {
        json_object_set_new(object, name, text);
        return;
    }
    char long_name[64];
    snprintf(long_name, sizeof long_name, "%s_b64", name);
    char *encoded = base64(data, size);
    json_object_set_new(object, long_name, json_string(encoded));
    free(encoded);
}

void ctl_format_time(uint64_t time_us, char out[40])
{
    time_t seconds = (time_t)(time_us / 1000000);
    struct tm parts;
    gmtime_r(&seconds, &parts);
    char day[24];
    strftime(day, sizeof day, "%Y-%m-%dT%H:%M:%S", &parts);
    snprintf(out, 40, "%s.%06uZ", day, (unsigned)(time_us % 1000000));
}

void ctl_json_meta(json_t *object, const struct cairn_meta *meta)
{
    char when[40];
    const struct cairn_attributes *attributes = &meta->attributes;
    json_object_set_new(object, "version", json_integer((json_int_t)meta->version));
    json_object_set_new(object, "size", json_integer((json_int_t)meta->size));
    ctl_format_time(meta->time_us, when);
    json_object_set_new(object, "modified_at", json_string(when));
    if (attributes->mask & CAIRN_ATTR_MODE) {
        char mode[16];
        snprintf(mode, sizeof mode, "%04o", attributes->mode);
        json_object_set_new(object, "mode", json_string(mode));
    }
    if (attributes->mask & CAIRN_ATTR_UID) {
        json_object_set_new(object, "uid", json_integer(attributes->uid));
    }
    if (attributes->mask & CAIRN_ATTR_GID) {
        json_object_set_new(object, "gid", json_integer(attributes->gid));
    }
    if (attributes->mask & CAIRN_ATTR_MTIME) {
        ctl_format_time(attributes->mtime_us, when);
        json_object_set_new(object, "mtime", json_string(when));
    }
    if (attributes->mask & CAIRN_ATTR_EXPIRES) {
        ctl_format_time(attributes->expires_at_us, when);
        json_object_set_new(object, "expires_at", json_string(when));
    }
    if (attributes->mask & CAIRN_ATTR_FLAGS && attributes->flags & CAIRN_FLAG_DIRECTORY) {
        json_object_set_new(object, "directory", json_true());
    }
}

void ctl_json_staleness(json_t *object, const struct ctl *ctl, uint64_t staleness_ms)
{
    if (ctl->consistency == CAIRN_STALE) {
        bool is_known = staleness_ms != CAIRN_STALENESS_UNKNOWN;
        json_object_set_new(object, "staleness_ms",
                            is_known ? json_integer((json_int_t)staleness_ms) : json_null());
    }
}

void ctl_print_json(json_t *value, bool is_pretty)
{
    json_dumpf(value, stdout, JSON_ENCODE_ANY | (is_pretty ? JSON_INDENT(2) : JSON_COMPACT));
    putchar('\n');
    json_decref(value);
}

void ctl_write(const void *data, size_t size)
{
    if (size) {
        fwrite(data, 1, size, stdout);
    }
}

/* Bytes of the UTF-8 character at the front that may be printed as it is; 0: to be escaped. */
static size_t printable_size(const uint8_t *at, size_t left)
{
    if (at[0] < 0x20 || at[0] == 0x7f || at[0] == '\\') {
        return 0;
    }
    size_t size = at[0] < 0x80                    ? 1
                  : at[0] >= 0xc2 && at[0] < 0xe0 ? 2
                  : at[0] >= 0xe0 && at[0] < 0xf0 ? 3
                  : at[0] >= 0xf0 && at[0] < 0xf5 ? 4
                                                  : 0;
    if (size == 0 || size > left) {
        return 0;
    }
    for (size_t i = 1; i < size; i++) {
        if ((at[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    bool is_control = at[0] == 0xc2 && at[1] < 0xa0; /* U+0080 to U+009F */
    return size > 1 && is_control ? 0 : size;
}

void ctl_print_escaped(const void *data, size_t size)
{
    const uint8_t *at = data;
    const uint8_t *end = at + size;
    while (at < end) {
        size_t plain = printable_size(at, (size_t)(end - at));
        if (plain) {
            fwrite(at, 1, plain, stdout);
            at += plain;
            continue;
        }
        switch (*at) {
        case '\t':
            fputs("\\t", stdout);
            break;
        case '\n':
            fputs("\\n", stdout);
            break;
        case '\r':
            fputs("\\r", stdout);
            break;
        case '\\':
            fputs("\\\\", stdout);
            break;
        default:
            printf("\\x%02x", *at);
        }
        at++;
    }
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

long ctl_unescape(char *text, size_t size)
{
    size_t out = 0;
    for (size_t i = 0; i < size; i++) {
        if (text[i] != '\\') {
            text[out++] = text[i];
            continue;
        }
        if (++i == size) {
            return -1;
        }
        static const char letters[] = "tnr\\", bytes[] = "\t\n\r\\";
        const char *found = strchr(letters, text[i]);
        if (found && text[i]) {
            text[out++] = bytes[found - letters];
        } else if (text[i] == 'x' && i + 2 < size && hex_digit(text[i + 1]) >= 0 &&
                   hex_digit(text[i + 2]) >= 0) {
            text[out++] = (char)(hex_digit(text[i + 1]) * 16 + hex_digit(text[i + 2]));
            i += 2;
        } else {
            return -1;
        }
    }
    return (long)out;
}

static void print_row(const char *name, const char *value)
{
    printf("%-12s %s\n", name, value);
}

void ctl_print_meta_table(const void *key, size_t key_size, const struct cairn_meta *meta)
{
    json_t *object = json_object();
    ctl_json_meta(object, meta);
    printf("%-12s ", "key");
    ctl_print_escaped(key, key_size);
    putchar('\n');
    const char *name;
    json_t *value;
    json_object_foreach(object, name, value)
    {
        char number[32];
        if (json_is_integer(value)) {
            snprintf(number, sizeof number, "%lld", (long long)json_integer_value(value));
        }
        print_row(name, json_is_string(value)    ? json_string_value(value)
                        : json_is_integer(value) ? number
                                                 : "yes");
    }
    json_decref(object);
}

int ctl_finish_output(int exit_code)
{
    if ((fflush(stdout) || ferror(stdout)) && exit_code == 0) {
        return ctl_fail(-4, "writing to stdout: %s", strerror(errno));
    }
    return exit_code;
}
