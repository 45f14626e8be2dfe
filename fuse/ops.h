/* The mount: what it is made of, and the kernel's operations on it. */
#ifndef FUSE_OPS_H
#define FUSE_OPS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "client/cairn.h"
#include "data.h"
#include "inode.h"
#include "mapping.h"

struct fuse_lowlevel_ops;
struct op;

/* One mount. Everything happens on one thread. */
struct mount {
    struct cairn *cairn;
    struct mapping mapping;
    struct inode_table inodes;
    struct data_pool pool;
    /* Shown for records that don't say. */
    uid_t uid;
    gid_t gid;
    mode_t file_mode, directory_mode;
    uint64_t started_us;
    /* Operations not answered yet. */
    struct op *ops;
    bool has_interrupts;
    unsigned virtual_count;
    /* Commits of files whose last handle is closed. */
    unsigned background_count;
};

/* Begins with a handle (borrowed) and a mapping; the other settings are the caller's to fill after
 * it. */
void mount_init(struct mount *mount, struct cairn *cairn, const struct mapping *mapping);

/* Handlers for fuse_session_new, with a struct mount as user data. */
extern const struct fuse_lowlevel_ops mount_operations;

/* Ends what was interrupted since the last call. Call it after every message of the kernel. */
void mount_handle_interrupts(struct mount *mount);
/* Starts to commit everything that isn't; true when something is still under way. */
bool mount_commit_all(struct mount *mount);

#endif
