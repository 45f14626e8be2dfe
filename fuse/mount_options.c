/* Reading the command line. mount(8) calls `mount.cairn SOURCE MOUNTPOINT [-sfnv] [-N namespace]
 * [-o options] [-t type]`; the options of fstab that concern only mount(8) and systemd (auto,
 * nofail, _netdev, x-…) arrive here too and are dropped; those of the kernel are handed on;
 * anything else is an error rather than silently ignored. */
#include "mount_options.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char mount_options_usage[] =
    "usage: cairn-fuse [-f] [-d] [-o OPTIONS] [SOURCE] MOUNTPOINT\n"
    "\n"
    "Mounts the keys of a Cairn cluster as files. SOURCE is HOST:PORT[,HOST:PORT…][/PREFIX]; "
    "without it\n"
    "CAIRN_ENDPOINTS, else 127.0.0.1:7400.\n"
    "\n"
    "  -f               stay in the foreground\n"
    "  -d               like -f, and show what the kernel asks\n"
    "  -o timeout=5s    longest wait for the cluster; then EIO\n"
    "  -o allow_other   serve other users too (default: the mounting user only)\n"
    "  -o uid=N,gid=N   owner of keys that name none (default: the mounting user)\n"
    "  -o umask=OCTAL   permissions of keys that name none: 0666 and 0777 without these (default: "
    "022)\n"
    "  -o ro,nosuid,…   what mount(8) knows\n"
    "  -h, -V           this text; the version\n"
    "\n"
    "Exit codes: 0 mounted; 1 failed; 2 wrong option; 5 the cluster can't be reached.\n";

static bool fail(char *error, const char *format, ...) __attribute__((format(printf, 2, 3)));

static bool fail(char *error, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error, MOUNT_OPTIONS_ERROR_MAX, format, arguments);
    va_end(arguments);
    return false;
}

/* --- SOURCE */

static bool check_endpoints(const char *endpoints, char *error)
{
    const char *at = endpoints;
    for (;;) {
        size_t size = strcspn(at, ",");
        const char *colon = memrchr(at, ':', size);
        char *end;
        long port = colon != NULL ? strtol(colon + 1, &end, 10) : 0;
        if (colon == NULL || colon == at || end != at + size || port < 1 || port > 65535) {
            return fail(error, "SOURCE: \"%.*s\" is not HOST:PORT", (int)size, at);
        }
        if (at[size] == 0) {
            return true;
        }
        at += size + 1;
    }
}

static bool parse_source(const char *source, struct mount_options *out, char *error)
{
    size_t endpoints_size = strcspn(source, "/");
    const char *prefix = source + endpoints_size;
    size_t size = strlen(prefix);
    if (strlen(source) >= sizeof out->source) {
        return fail(error, "SOURCE is too long");
    }
    strcpy(out->source, source);
    memcpy(out->endpoints, source, endpoints_size);
    out->endpoints[endpoints_size] = 0;
    if (size > 1) {
        prefix++;
        size -= prefix[size - 2] == '/' ? 2 : 1;
        /* One byte for the slash, one at least for a name. */
        if (size > CAIRN_KEY_BYTES_MAX - 2) {
            return fail(error, "SOURCE: the prefix is longer than a key may be");
        }
        memcpy(out->mapping.prefix, prefix, size);
        out->mapping.prefix[size] = '/';
        out->mapping.prefix_size = size + 1;
    }
    return check_endpoints(out->endpoints, error);
}

/* --- -o */

static bool parse_number(const char *text, int base, unsigned long max, unsigned long *out)
{
    char *end;
    errno = 0;
    unsigned long value = strtoul(text, &end, base);
    if (*text < '0' || *text > '9' || *end != 0 || errno != 0 || value > max) {
        return false;
    }
    *out = value;
    return true;
}

/* "5s", "500ms", "2m", "5" (seconds): 1 ms to a day. */
static bool parse_duration(const char *text, uint32_t *out_ms)
{
    static const struct {
        const char *unit;
        unsigned long ms;
    } units[] = { { "", 1000 }, { "s", 1000 }, { "ms", 1 }, { "m", 60000 }, { "h", 3600000 } };
    char *end;
    if (*text < '0' || *text > '9') {
        return false;
    }
    errno = 0;
    unsigned long value = strtoul(text, &end, 10);
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        if (strcmp(end, units[i].unit) == 0 && errno == 0 && value > 0 &&
            value <= 86400000 / units[i].ms) {
            *out_ms = (uint32_t)(value * units[i].ms);
            return true;
        }
    }
    return false;
}

static bool is_among(const char *name, const char *const *names)
{
    for (; *names != NULL; names++) {
        if (strcmp(name, *names) == 0) {
            return true;
        }
    }
    return false;
}

/* What concerns mount(8), systemd or nobody. */
static bool is_ignored(const char *name)
{
    static const char *const ignored[] = {
        "rw",         "auto",       "noauto",      "defaults",
        "user",       "nouser",     "users",       "nousers",
        "owner",      "group",      "_netdev",     "nofail",
        "relatime",   "norelatime", "strictatime", "lazytime",
        "mand",       "nomand",     "nolazytime",  "diratime",
        "nodiratime", "iversion",   "noiversion",  "loud",
        "silent",     "async",      "atime",       "default_permissions",
        "exec",       "intr",       "nonempty",    NULL,
    };
    return is_among(name, ignored) || strncmp(name, "x-", 2) == 0 || strncmp(name, "X-", 2) == 0 ||
           strncmp(name, "comment=", 8) == 0 || strncmp(name, "helper=", 7) == 0 ||
           strncmp(name, "uhelper=", 8) == 0;
}

static bool hand_on(const char *option, struct mount_options *out, char *error)
{
    size_t used = strlen(out->kernel), size = strlen(option);
    if (used + size + 2 > sizeof out->kernel) {
        return fail(error, "too many options");
    }
    out->kernel[used] = ',';
    memcpy(out->kernel + used + 1, option, size + 1);
    return true;
}

static bool parse_option(const char *option, struct mount_options *out, char *error)
{
    static const char *const kernel[] = {
        "ro",   "nosuid",  "suid",    "nodev",       "dev",        "noexec",
        "sync", "dirsync", "noatime", "allow_other", "allow_root", NULL,
    };
    unsigned long number = 0;
    if (strncmp(option, "timeout=", 8) == 0) {
        return parse_duration(option + 8, &out->timeout_ms) ||
               fail(error, "timeout=%s: not a time like 5s or 500ms", option + 8);
    }
    if (strncmp(option, "uid=", 4) == 0 || strncmp(option, "gid=", 4) == 0) {
        bool is_uid = option[0] == 'u';
        if (!parse_number(option + 4, 10, UINT32_MAX - 1, &number)) {
            return fail(error, "%s: not a number", option);
        }
        *(is_uid ? &out->has_uid : &out->has_gid) = true;
        *(is_uid ? &out->uid : &out->gid) = (uid_t)number;
        return true;
    }
    if (strncmp(option, "umask=", 6) == 0) {
        if (!parse_number(option + 6, 8, 0777, &number)) {
            return fail(error, "%s: not an octal number up to 777", option);
        }
        out->has_umask = true;
        out->umask = (mode_t)number;
        return true;
    }
    if (is_among(option, kernel)) {
        return hand_on(option, out, error);
    }
    return is_ignored(option) || fail(error, "unknown option -o %s", option);
}

static bool parse_options(const char *options, struct mount_options *out, char *error)
{
    char option[MOUNT_OPTIONS_TEXT_MAX];
    for (const char *at = options; *at != 0;) {
        size_t size = strcspn(at, ",");
        if (size >= sizeof option) {
            return fail(error, "an option is too long");
        }
        memcpy(option, at, size);
        option[size] = 0;
        if (size > 0 && !parse_option(option, out, error)) {
            return false;
        }
        at += size + (at[size] == ',' ? 1 : 0);
    }
    return true;
}

/* --- All */

static bool is_helper(const char *program)
{
    const char *slash = strrchr(program, '/');
    return strncmp(slash != NULL ? slash + 1 : program, "mount.", 6) == 0;
}

/* Flags without a value, in one word; false for another one. */
static bool parse_flags(const char *word, bool is_mount_helper, struct mount_options *out)
{
    for (const char *flag = word + 1; *flag != 0; flag++) {
        switch (*flag) {
        case 'f':
            *(is_mount_helper ? &out->is_fake : &out->is_foreground) = true;
            break;
        case 'd':
            out->is_debug = out->is_foreground = true;
            break;
        case 'h':
            out->is_help = true;
            break;
        case 'V':
            out->is_version = true;
            break;
        case 's': /* sloppy */
        case 'n': /* no mtab */
        case 'v': /* verbose */
            if (!is_mount_helper) {
                return false;
            }
            break;
        default:
            return false;
        }
    }
    return true;
}

bool mount_options_parse(int argc, char *const *argv, struct mount_options *out, char *error)
{
    bool is_mount_helper = argc > 0 && is_helper(argv[0]), is_end = false;
    const char *words[2] = { NULL, NULL };
    int word_count = 0;
    *out = (struct mount_options){ .timeout_ms = 5000 };
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i];
        bool takes_value =
            !is_end &&
            (strncmp(word, "-o", 2) == 0 ||
             (is_mount_helper && (strncmp(word, "-t", 2) == 0 || strncmp(word, "-N", 2) == 0)));
        if (is_end || word[0] != '-' || word[1] == 0) {
            if (word_count == 2) {
                return fail(error, "one SOURCE and one MOUNTPOINT, not \"%s\" too", word);
            }
            words[word_count++] = word;
        } else if (takes_value) {
            const char *value = word[2] != 0 ? word + 2 : i + 1 < argc ? argv[++i] : NULL;
            if (value == NULL) {
                return fail(error, "%s needs a value", word);
            }
            if (word[1] == 'o' && !parse_options(value, out, error)) {
                return false;
            }
        } else if (strcmp(word, "--") == 0) {
            is_end = true;
        } else if (strcmp(word, "--help") == 0) {
            out->is_help = true;
        } else if (strcmp(word, "--version") == 0) {
            out->is_version = true;
        } else if (word[1] == '-' || !parse_flags(word, is_mount_helper, out)) {
            return fail(error, "unknown option %s", word);
        }
    }
    if (out->is_help || out->is_version) {
        return true;
    }
    if (word_count == 0) {
        return fail(error, "MOUNTPOINT is missing");
    }
    out->mountpoint = words[word_count - 1];
    return word_count == 1 || parse_source(words[0], out, error);
}
