/* Two questions at once: does the key exist (its record's meta), and do keys exist below it (a scan
 * of one or two entries)? A directory's marker is the first key below it, so the scan brings the
 * directory's own attributes along.
 *
 * For what was a directory lately the marker's own key is asked for first: if it is there, nothing
 * else has to be asked.
 *
 * A path is a directory if anything lies below it, else a file if the key exists. A key that ends
 * in '/' and carries the directory flag is a marker and no file. */
#include "resolve.h"

#include <errno.h>
#include <string.h>

#include "data.h"

/* --- Probe */

static void probe_finish(struct probe *probe, int error)
{
    if (probe->scan != NULL) {
        cairn_scan_close(probe->scan);
        probe->scan = NULL;
    }
    probe->done(probe->arg, error);
}

static bool probe_wants(const struct probe *probe, const struct cairn_entry *entry)
{
    struct mapping_entry name;
    return probe->mapping == NULL ||
           mapping_entry_of(probe->mapping, probe->directory, probe->directory_size, entry->key,
                            entry->key_size, &name);
}

static void probe_fetched(void *arg, int status);

static void probe_read(struct probe *probe)
{
    struct cairn_entry entry;
    int status;
    while (probe->count < probe->wanted && (status = cairn_scan_try(probe->scan, &entry)) != 0) {
        if (status == CAIRN_BUSY) {
            status = cairn_scan_fetch(probe->scan, probe_fetched, probe);
            if (status == 0) {
                return;
            }
        }
        if (status < 0) {
            probe_finish(probe, data_errno(status));
            return;
        }
        if (entry.key_size <= CAIRN_KEY_BYTES_MAX && probe_wants(probe, &entry)) {
            probe->entries[probe->count].key_size = entry.key_size;
            memcpy(probe->entries[probe->count].key, entry.key, entry.key_size);
            probe->entries[probe->count++].meta = entry.meta;
        }
    }
    probe_finish(probe, 0);
}

static void probe_fetched(void *arg, int status)
{
    struct probe *probe = arg;
    if (status != 0) {
        probe_finish(probe, data_errno(status));
    } else {
        probe_read(probe);
    }
}

void probe_start(struct probe *probe, struct cairn *cairn, const void *prefix, size_t prefix_size,
                 size_t wanted, void (*done)(void *arg, int error), void *arg)
{
    bool is_filtered = probe->mapping != NULL;
    struct cairn_scan_options options = {
        .prefix = prefix,
        .prefix_size = prefix_size,
        .limit = is_filtered ? 0 : wanted,
        .page_entries = is_filtered ? 0 : (uint32_t)wanted,
        .meta_only = true,
    };
    probe->cairn = cairn;
    probe->wanted = wanted;
    probe->count = 0;
    probe->done = done;
    probe->arg = arg;
    probe->scan = NULL;
    int status = cairn_scan_open(cairn, &options, &probe->scan);
    if (status != 0) {
        probe_finish(probe, data_errno(status));
        return;
    }
    probe_read(probe);
}

void probe_cancel(struct probe *probe)
{
    if (probe->scan != NULL) {
        probe_finish(probe, EINTR);
    }
}

/* --- Resolve */

static void resolve_answered(struct resolve *resolve, int error)
{
    if (resolve->error == 0) {
        resolve->error = error;
    }
    if (--resolve->waiting > 0) {
        return;
    }
    const struct mapping_target *target = &resolve->target;
    if (target->kind == MAPPING_ROOT) {
        resolve->kind = RESOLVE_DIRECTORY;
    } else if (target->kind == MAPPING_VALUE) {
        resolve->kind = resolve->has_value && resolve->has_below ? RESOLVE_FILE : RESOLVE_NONE;
    } else if (resolve->has_below) {
        resolve->kind = RESOLVE_DIRECTORY;
    } else if (resolve->has_value) {
        resolve->kind = RESOLVE_FILE;
    }
    resolve->done(resolve, resolve->error);
}

static bool is_flagged(const struct cairn_meta *meta)
{
    return (meta->attributes.mask & CAIRN_ATTR_FLAGS) &&
           (meta->attributes.flags & CAIRN_FLAG_DIRECTORY);
}

static bool is_marker(const void *key, size_t key_size, const struct cairn_meta *meta)
{
    return key_size > 0 && ((const uint8_t *)key)[key_size - 1] == '/' && is_flagged(meta);
}

static void value_answered(void *arg, struct cairn_result *result)
{
    struct resolve *resolve = arg;
    resolve->request_id = 0;
    bool is_answer = result->status == 0 || result->status == CAIRN_NOT_FOUND;
    if (result->status == 0) {
        bool is_directory = is_marker(resolve->target.key, resolve->target.key_size, &result->meta);
        if (resolve->target.kind == MAPPING_ROOT) {
            resolve->has_marker = is_directory;
            resolve->marker_meta = result->meta;
        } else {
            resolve->has_value = !is_directory;
            resolve->value_meta = result->meta;
        }
    }
    resolve_answered(resolve, is_answer ? 0 : data_errno(result->status));
}

static void below_answered(void *arg, int error)
{
    struct resolve *resolve = arg;
    const struct probe *probe = &resolve->probe;
    if (error == 0 && probe->count > 0) {
        resolve->has_below = true;
        bool is_first_own = resolve->target.kind == MAPPING_PLAIN &&
                            probe->entries[0].key_size == resolve->target.key_size + 1;
        resolve->has_marker =
            is_first_own &&
            is_marker(probe->entries[0].key, probe->entries[0].key_size, &probe->entries[0].meta);
        resolve->marker_meta = probe->entries[0].meta;
        resolve->has_more = probe->count > (resolve->has_marker ? 1 : 0);
    }
    resolve_answered(resolve, error);
}

static void ask_value(struct resolve *resolve)
{
    struct cairn_request request = {
        .verb = CAIRN_GET_META,
        .key = resolve->target.key,
        .key_size = resolve->target.key_size,
    };
    if (request.key_size == 0 || resolve->target.kind == MAPPING_PIECE) {
        resolve_answered(resolve, 0);
        return;
    }
    int status =
        cairn_submit(resolve->cairn, &request, value_answered, resolve, &resolve->request_id);
    if (status != 0) {
        resolve_answered(resolve, data_errno(status));
    }
}

static void ask_below(struct resolve *resolve)
{
    struct mapping_target below = resolve->target;
    if (below.kind == MAPPING_ROOT) {
        resolve_answered(resolve, 0);
        return;
    }
    if (below.kind == MAPPING_VALUE) {
        below.kind = MAPPING_PLAIN;
    }
    size_t prefix_size = mapping_directory_prefix(&below);
    if (prefix_size > CAIRN_KEY_BYTES_MAX) {
        resolve_answered(resolve, 0);
        return;
    }
    resolve->probe.mapping = below.kind == MAPPING_PIECE ? resolve->mapping : NULL;
    resolve->probe.directory = resolve->path.text;
    resolve->probe.directory_size = resolve->path.size;
    probe_start(&resolve->probe, resolve->cairn, below.key, prefix_size, PROBE_ENTRIES,
                below_answered, resolve);
}

static void ask_both(struct resolve *resolve)
{
    resolve->waiting = 2;
    ask_value(resolve);
    ask_below(resolve);
}

static void marker_answered(void *arg, struct cairn_result *result)
{
    struct resolve *resolve = arg;
    resolve->request_id = 0;
    if (result->status == CAIRN_NOT_FOUND || (result->status == 0 && !is_flagged(&result->meta))) {
        ask_both(resolve);
        return;
    }
    if (result->status == 0) {
        resolve->kind = RESOLVE_DIRECTORY;
        resolve->has_below = resolve->has_marker = true;
        resolve->marker_meta = result->meta;
    }
    resolve->done(resolve, data_errno(result->status));
}

static void ask_marker(struct resolve *resolve)
{
    struct mapping_target below = resolve->target;
    struct cairn_request request = {
        .verb = CAIRN_GET_META,
        .key = below.key,
        .key_size = mapping_directory_prefix(&below),
    };
    int status = CAIRN_KEY_TOO_LONG;
    if (below.kind == MAPPING_PLAIN) {
        status =
            cairn_submit(resolve->cairn, &request, marker_answered, resolve, &resolve->request_id);
    }
    if (status != 0) {
        ask_both(resolve);
    }
}

void resolve_start(struct resolve *resolve, struct cairn *cairn, const struct mapping *mapping,
                   void (*done)(struct resolve *resolve, int error), void *arg)
{
    resolve->cairn = cairn;
    resolve->mapping = mapping;
    resolve->kind = RESOLVE_NONE;
    resolve->has_value = resolve->has_below = resolve->has_more = resolve->has_marker = false;
    resolve->request_id = 0;
    resolve->probe.scan = NULL;
    resolve->error = 0;
    resolve->done = done;
    resolve->arg = arg;
    int status =
        mapping_path_to_key(mapping, resolve->path.text, resolve->path.size, &resolve->target);
    if (status != 0) {
        done(resolve, -status);
        return;
    }
    if (resolve->expects_directory) {
        ask_marker(resolve);
    } else {
        ask_both(resolve);
    }
}

void resolve_cancel(struct resolve *resolve)
{
    if (resolve->request_id != 0) {
        cairn_cancel(resolve->cairn, resolve->request_id);
    }
    /* Last: it may end the whole. */
    probe_cancel(&resolve->probe);
}
