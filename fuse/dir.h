/* The listing of one open directory: a stream of names made from an ordered scan, in bounded
 * memory. */
#ifndef FUSE_DIR_H
#define FUSE_DIR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "client/cairn.h"
#include "mapping.h"

struct dir;

struct dir_entry {
    char *name;
    bool is_directory;
    bool has_meta; /* a file's record, or a directory's marker */
    struct cairn_meta meta;
};

/* Opens a listing of a path (copied) which has to mean a directory; nothing is asked yet. */
struct dir *dir_open(struct cairn *cairn, const struct mapping *mapping, const char *path,
                     size_t path_size, const struct mapping_target *target);
/* At any time; a callback under way doesn't come any more. */
void dir_close(struct dir *dir);

/* Names that the cluster doesn't know yet (files being created here): shown first. Before the first
 * dir_seek. */
void dir_add_local(struct dir *dir, const char *name);

/* Entries have offsets from 0. Makes the entry at `offset` available: calls back (perhaps before it
 * returns) when dir_peek can answer, or with an errno. Offset 0 always begins anew, so that
 * rewinddir shows what is new. */
void dir_seek(struct dir *dir, uint64_t offset, void (*done)(void *arg, int error), void *arg);
/* The entry at an offset at or behind the one sought: 1 and *entry (borrowed until the next
 * dir_seek), 0 at the end, -EAGAIN: not read yet, seek first. */
int dir_peek(const struct dir *dir, uint64_t offset, const struct dir_entry **entry);
/* Ends waiting: the callback comes at once, with EINTR. */
void dir_cancel(struct dir *dir);

#endif
