/* Keys as paths and paths as keys, one to one for keys of arbitrary bytes. Pure functions.
 *
 * A path is what the kernel walks, relative to the mountpoint: names joined by '/', no leading
 * slash; "" is the mountpoint itself. The rules stand at the head of mapping.c. */
#ifndef FUSE_MAPPING_H
#define FUSE_MAPPING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "client/cairn.h"

enum {
    MAPPING_NAME_MAX = 255,
    /* Three shown bytes for every byte of a key, "%+/" for every piece, "/%V": below 2048. */
    MAPPING_PATH_MAX = 2048,
};

/* What is shown: the keys that begin with prefix (empty, or ending in '/'), without it. */
struct mapping {
    uint8_t prefix[CAIRN_KEY_BYTES_MAX];
    size_t prefix_size;
};

struct mapping_path {
    size_t size;
    char text[MAPPING_PATH_MAX];
};

enum mapping_kind {
    MAPPING_ROOT,  /* the mountpoint; key is the prefix */
    MAPPING_PLAIN, /* the name of key, as a file; as a directory it holds the keys that begin with
                    * key and '/'. The key may be empty ("%E" in the mountpoint): then there is no
                    * such file, but maybe such a directory */
    MAPPING_VALUE, /* "…/%V": the value of key, which has keys below it */
    MAPPING_PIECE, /* "…%+": a directory that stands for the beginning of a long component; key is
                      that beginning */
};

/* What a path means. The key includes the prefix; there is room for one '/' behind it. */
struct mapping_target {
    enum mapping_kind kind;
    size_t key_size;
    uint8_t key[CAIRN_KEY_BYTES_MAX + 1];
};

/* The path of a key. has_below: other keys begin with this key and '/', so that its value is shown
 * as "%V". False: the key is not shown at all (not below the prefix, empty, too long). */
bool mapping_key_to_path(const struct mapping *mapping, const void *key, size_t key_size,
                         bool has_below, struct mapping_path *out);

/* What a path means: 0, -ENOENT when it isn't the canonical form of any key or directory (create
 * says EINVAL then), -ENAMETOOLONG when a name or the key is too long. Whether a MAPPING_VALUE's
 * key has others below it, only the store knows. */
int mapping_path_to_key(const struct mapping *mapping, const char *path, size_t path_size,
                        struct mapping_target *out);

/* Appends a name to a directory's path; -ENAMETOOLONG, or -ENOENT for a name that can't be one. */
int mapping_join(const char *directory, size_t directory_size, const char *name,
                 struct mapping_path *out);

/* The size of the path's parent directory ("" for a name in the mountpoint). */
size_t mapping_parent_size(const char *path, size_t path_size);

/* The prefix of all keys that a directory can hold, in target->key with the '/' it may need;
 * returns its size. Up to CAIRN_KEY_BYTES_MAX + 1: then it can hold none. Not for MAPPING_VALUE. */
size_t mapping_directory_prefix(struct mapping_target *target);

/* How a key appears in the listing of a directory. */
struct mapping_entry {
    size_t name_size;
    char name[MAPPING_NAME_MAX + 1]; /* ends in NUL */
    bool is_directory;               /* there is more behind the name */
    bool is_piece;
    size_t
        covered; /* so many bytes of the key stand for directory and name, without a '/' behind */
};

/* False: the key doesn't appear in this directory. */
bool mapping_entry_of(const struct mapping *mapping, const char *directory, size_t directory_size,
                      const void *key, size_t key_size, struct mapping_entry *out);

#endif
