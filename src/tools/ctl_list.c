/* ls and scan. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/ctl.h"

enum {
    FOLD_STEPS_MAX = 512
}; /* keys of a folded directory that are read before the scan jumps over the rest */

struct listing {
    struct ctl *ctl;
    const struct cairn_scan *scan; /* under way */
    bool is_long, has_values, ends_in_nul, has_header;
    json_t *list; /* -o json gathers */
    uint64_t lines, limit;
};

static void print_line(struct listing *listing, const struct cairn_entry *entry, bool is_folder)
{
    enum ctl_output output = listing->ctl->output;
    char end = listing->ends_in_nul ? '\0' : '\n';
    listing->lines++;
    if (output == CTL_JSON || output == CTL_JSONL) {
        json_t *object = json_object();
        ctl_json_bytes(object, is_folder ? "prefix" : "key", entry->key, entry->key_size);
        if (!is_folder && listing->has_values) {
            ctl_json_bytes(object, "value", entry->value, entry->value_size);
        }
        if (!is_folder && (listing->is_long || listing->has_values)) {
            ctl_json_meta(object, &entry->meta);
        }
        ctl_json_staleness(object, listing->ctl, cairn_scan_staleness_ms(listing->scan));
        if (listing->list) {
            json_array_append_new(listing->list, object);
        } else {
            ctl_print_json(object, false);
        }
        return;
    }
    if (listing->is_long) {
        char when[40] = "-", version[24] = "-", size[24] = "-";
        if (!is_folder) {
            ctl_format_time(entry->meta.time_us, when);
            snprintf(version, sizeof version, "%llu", (unsigned long long)entry->meta.version);
            snprintf(size, sizeof size, "%llu", (unsigned long long)entry->meta.size);
        }
        if (!listing->has_header && output == CTL_TABLE) {
            printf("%10s %10s  %-27s  %s\n", "VERSION", "SIZE", "MODIFIED", "KEY");
        }
        listing->has_header = true;
        printf("%10s %10s  %-27s  ", version, size, when);
    }
    bool is_escaped = output == CTL_TABLE || (listing->has_values && output != CTL_RAW);
    (is_escaped ? ctl_print_escaped : ctl_write)(entry->key, entry->key_size);
    if (listing->has_values) {
        putchar('\t');
        (is_escaped ? ctl_print_escaped : ctl_write)(entry->value, entry->value_size);
    }
    putchar(end);
}

static int finish(struct listing *listing, int status)
{
    if (listing->list) {
        ctl_print_json(listing->list, true);
    }
    return status < 0 ? ctl_fail_last(listing->ctl, status) : 0;
}

static bool read_limit(const struct ctl *ctl, uint64_t *limit)
{
    const char *text = ctl_option(ctl, "limit");
    *limit = 0;
    return !text || ctl_parse_u64("--limit", text, limit);
}

/* All entries of the scan. */
static int list_all(struct listing *listing, const struct cairn_scan_options *options)
{
    struct cairn_scan *scan;
    struct cairn_entry entry;
    int status = cairn_scan_open(ctl_open(listing->ctl), options, &scan);
    if (status) {
        return ctl_fail(status, "%s", cairn_error(status)->text);
    }
    listing->scan = scan;
    while ((status = cairn_scan_next(scan, &entry)) == 1) {
        print_line(listing, &entry, false);
    }
    int exit_code = finish(listing, status);
    cairn_scan_close(scan);
    return exit_code;
}

/* --- Folding: keys that go on behind the next slash after the prefix are one line, their common
 * beginning */

/* Size of the folder's name within the key, slash included; 0: a key of this level. */
static size_t folder_size(const struct cairn_entry *entry, size_t prefix_size)
{
    const char *key = entry->key;
    const char *slash = memchr(key + prefix_size, '/', entry->key_size - prefix_size);
    return slash ? (size_t)(slash - key) + 1 : 0;
}

struct fold {
    char folder[CAIRN_KEY_BYTES_MAX + 1]; /* the folder that was printed last */
    size_t size;
    bool must_jump;
    int steps;
};

/* Whether the entry belongs to the folder that was printed last. */
static bool fold_has(struct fold *fold, const struct cairn_entry *entry)
{
    bool is_in = fold->size && entry->key_size >= fold->size &&
                 memcmp(entry->key, fold->folder, fold->size) == 0;
    fold->steps = is_in ? fold->steps + 1 : 0;
    fold->must_jump = fold->steps > FOLD_STEPS_MAX;
    return is_in;
}

/* One scan's worth: up to the end, the limit, or a folder so large that it is better jumped over.
 */
static int fold_scan(struct listing *listing, const struct cairn_scan_options *options,
                     struct fold *fold)
{
    struct cairn_scan *scan;
    struct cairn_entry entry;
    int status = cairn_scan_open(ctl_open(listing->ctl), options, &scan);
    if (status) {
        return status;
    }
    listing->scan = scan;
    while ((!listing->limit || listing->lines < listing->limit) &&
           (status = cairn_scan_next(scan, &entry)) == 1) {
        if (fold_has(fold, &entry)) {
            if (fold->must_jump) {
                break;
            }
            continue;
        }
        size_t size = folder_size(&entry, options->prefix_size);
        fold->size = size;
        if (size) {
            memcpy(fold->folder, entry.key, size);
            entry.key_size = size;
        }
        print_line(listing, &entry, size != 0);
    }
    cairn_scan_close(scan);
    return status;
}

static int list_folded(struct listing *listing, struct cairn_scan_options options)
{
    struct fold fold = { 0 };
    char bound[CAIRN_KEY_BYTES_MAX + 1];
    int status;
    do {
        fold.must_jump = false;
        fold.steps = 0;
        status = fold_scan(listing, &options, &fold);
        if (fold.must_jump) {
            memcpy(bound, fold.folder, fold.size);
            if (options.reverse) { /* all that lies before the folder */
                options.to = bound;
                options.to_size = fold.size;
            } else { /* '0' follows '/': all that lies behind */
                bound[fold.size - 1] = '/' + 1;
                options.from = bound;
                options.from_size = fold.size;
            }
        }
    } while (fold.must_jump && status == 1);
    return finish(listing, status);
}

int ctl_ls(struct ctl *ctl)
{
    const char *prefix = ctl->argc ? ctl->argv[0] : "";
    struct listing listing = { .ctl = ctl,
                               .is_long = ctl_flag(ctl, "long"),
                               .ends_in_nul = ctl_flag(ctl, "null") };
    bool is_recursive = ctl_flag(ctl, "recursive");
    if (!read_limit(ctl, &listing.limit)) {
        return CTL_USAGE_EXIT;
    }
    struct cairn_scan_options options = { .prefix = prefix,
                                          .prefix_size = strlen(prefix),
                                          .reverse = ctl_flag(ctl, "reverse"),
                                          .limit = is_recursive ? listing.limit : 0,
                                          .keys_only = !listing.is_long,
                                          .meta_only = listing.is_long,
                                          .page_entries = listing.limit && listing.limit < 1024
                                                              ? (uint32_t)listing.limit
                                                              : 1024 };
    ctl_apply_scan_consistency(ctl, &options);
    if (ctl->output == CTL_JSON) {
        listing.list = json_array();
    }
    return is_recursive ? list_all(&listing, &options) : list_folded(&listing, options);
}

int ctl_scan(struct ctl *ctl)
{
    const char *prefix = ctl->argc ? ctl->argv[0] : "";
    const char *from = ctl_option(ctl, "from"), *to = ctl_option(ctl, "to");
    struct listing listing = { .ctl = ctl, .has_values = !ctl_flag(ctl, "keys-only") };
    if (!read_limit(ctl, &listing.limit)) {
        return CTL_USAGE_EXIT;
    }
    struct cairn_scan_options options = { .prefix = prefix,
                                          .prefix_size = strlen(prefix),
                                          .from = from,
                                          .from_size = from ? strlen(from) : 0,
                                          .to = to,
                                          .to_size = to ? strlen(to) : 0,
                                          .reverse = ctl_flag(ctl, "reverse"),
                                          .limit = listing.limit,
                                          .keys_only = !listing.has_values };
    ctl_apply_scan_consistency(ctl, &options);
    if (ctl->output == CTL_JSON) {
        listing.list = json_array();
    }
    return list_all(&listing, &options);
}
