/* What stands behind a path just now: asks the cluster for the key and for keys below it. */
#ifndef FUSE_RESOLVE_H
#define FUSE_RESOLVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "client/cairn.h"
#include "mapping.h"

enum { PROBE_ENTRIES = 2 };

/* A look at the first keys that begin with a prefix. */
struct probe {
    struct cairn *cairn;
    struct cairn_scan *scan;
    const struct mapping
        *mapping; /* NULL: every key counts; else those that appear in `directory` */
    const char *directory;
    size_t directory_size;
    size_t wanted, count;
    struct {
        size_t key_size;
        uint8_t key[CAIRN_KEY_BYTES_MAX];
        struct cairn_meta meta;
    } entries[PROBE_ENTRIES];
    void (*done)(void *arg, int error);
    void *arg;
};

/* Finds up to `wanted` keys. done may be called before it returns; error is an errno. */
void probe_start(struct probe *probe, struct cairn *cairn, const void *prefix, size_t prefix_size,
                 size_t wanted, void (*done)(void *arg, int error), void *arg);
/* Ends it: done comes at once, with EINTR. Nothing happens when it isn't running. */
void probe_cancel(struct probe *probe);

enum resolve_kind { RESOLVE_NONE, RESOLVE_FILE, RESOLVE_DIRECTORY };

struct resolve {
    struct cairn *cairn;
    const struct mapping *mapping;
    struct mapping_path path;
    struct mapping_target target;
    /* It was a directory lately, and has_more and has_value are of no interest: its marker, if it
     * has one, is looked for first, since one key costs much less than a scan of all partitions. */
    bool expects_directory;
    /* The answer. */
    enum resolve_kind kind;
    bool has_value; /* the key itself stands there, and isn't a directory's marker */
    struct cairn_meta value_meta;
    bool has_below; /* there are keys below it */
    bool has_more;  /* besides the directory's marker */
    bool has_marker;
    struct cairn_meta marker_meta;
    /* Private. */
    struct probe probe;
    uint64_t request_id;
    unsigned waiting;
    int error;
    void (*done)(struct resolve *resolve, int error);
    void *arg;
};

/* Reads resolve->path, fills the rest. error: 0 (also for RESOLVE_NONE), ENOENT for a path that is
 * no key's, ENAMETOOLONG, EIO, EINTR. done may be called before it returns. */
void resolve_start(struct resolve *resolve, struct cairn *cairn, const struct mapping *mapping,
                   void (*done)(struct resolve *resolve, int error), void *arg);
void resolve_cancel(struct resolve *resolve);

#endif
