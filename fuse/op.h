/* One operation of the kernel: its life, its waits, its answers; and what the files of operations
 * share. */
#ifndef FUSE_OP_H
#define FUSE_OP_H

#define FUSE_USE_VERSION 314
#include <fuse_lowlevel.h>

#include "dir.h"
#include "ops.h"
#include "resolve.h"

enum {
    /* How long what was just read answers further questions: see ops.c. */
    FRESH_SHORT_US = 10 * 1000,
    FRESH_LONG_US = 100 * 1000,
};

enum op_wait {
    OP_WAITS_NOT,
    OP_WAITS_RESOLVE,
    OP_WAITS_PROBE,
    OP_WAITS_REQUEST,
    OP_WAITS_DATA,
    OP_WAITS_DIR
};

typedef void (*op_step)(struct op *op, int error);
typedef void (*op_answer)(struct op *op, struct cairn_result *result);

/* One request of the kernel, from its arrival to its answer; at any time it waits for one thing and
 * knows its next step. */
struct op {
    struct mount *mount;
    fuse_req_t request;
    struct op *next, **link;
    bool is_interrupted;
    enum op_wait wait;
    op_step step;
    op_answer answer;
    uint64_t request_id;
    struct resolve *resolving;
    struct probe probe;
    struct dir *dir;

    struct inode *inode;          /* a reference */
    struct data *data, *replaced; /* references */
    struct data *awaited;         /* one of the two */
    bool made_local;
    struct resolve source, target;
    /* Of the operation at hand. */
    struct fuse_file_info file;
    struct cairn_attributes attributes;
    struct mapping_path parent; /* the directory that must not vanish */
    uint8_t parent_key[CAIRN_KEY_BYTES_MAX + 1];
    size_t parent_key_size;
    op_step after_parent;
    bool becomes_marker; /* the key to delete is to be its directory's marker */
    uint64_t version;
    unsigned attempts, flags;
    size_t size;
    off_t offset;
    uint8_t *bytes;
    bool is_plus;
    char name[64];
};

/* An open file. */
struct handle {
    struct data *data;
    bool is_append;
};

/* Makes a request's operation; it lives until it is answered. */
struct op *op_new(fuse_req_t request);
void op_free(struct op *op);
/* Both answer and free. */
void op_fail(struct op *op, int error);
void op_reply_attr(struct op *op, struct inode *inode, const struct cairn_meta *meta);
/* Counts a lookup. */
void op_reply_entry(struct op *op, struct inode *inode, const struct cairn_meta *meta);

/* Each waits for one thing, then takes the step. */
void op_resolve(struct op *op, struct resolve *resolve, op_step step);
void op_probe(struct op *op, const void *prefix, size_t prefix_size, size_t wanted, op_step step);
void op_request(struct op *op, const struct cairn_request *request, op_answer answer);
void op_load(struct op *op, struct data *data, op_step step);
void op_refresh(struct op *op, struct data *data, op_step step);
void op_commit(struct op *op, struct data *data, op_step step);
void op_seek(struct op *op, struct dir *dir, uint64_t offset, op_step step);

/* The path of a name in a directory, and what it means; else the operation has failed and false
 * comes back. is_new: a name that is no key's is EINVAL rather than ENOENT, and so is one that
 * can't be made. */
bool op_path(struct op *op, struct resolve *resolve, fuse_ino_t parent, const char *name,
             bool is_new);

struct mount *mount_of(fuse_req_t request);
/* The inode, or NULL after the request was answered with ESTALE. */
struct inode *mount_inode(fuse_req_t request, fuse_ino_t number);
uint64_t clock_wall_us(void);
/* meta NULL: a record that says nothing. */
void mount_stat(const struct mount *mount, const struct inode *inode, const struct cairn_meta *meta,
                struct stat *out);
/* The file's data when it differs from what the cluster knows; else NULL. */
struct data *mount_changed_data(const struct inode *inode);
/* What the cluster would say after a commit. */
struct cairn_meta mount_data_meta(const struct data *data);
/* A file that this mount has created and not committed yet. */
struct inode *mount_created(struct mount *mount, const struct mapping_path *path);
void mount_set_virtual(struct mount *mount, struct inode *inode, bool is_virtual);
/* Remembers what was just read of a node. */
void mount_note_fresh(struct inode *inode, const struct cairn_meta *meta, uint64_t for_us);
/* NULL when the record says nothing. */
const struct cairn_meta *mount_fresh_meta(const struct inode *inode);
bool mount_is_fresh(const struct inode *inode);
struct cairn_attributes mount_owner(fuse_req_t request, mode_t mode);
bool key_is_marker(const struct cairn_meta *meta);

/* Commits a file that nobody has open any more, or that is to be left behind; a failure is logged.
 */
void mount_commit_in_background(struct mount *mount, struct data *data);

/* ops_attr.c */
void ops_getattr(fuse_req_t request, fuse_ino_t number, struct fuse_file_info *file);
void ops_setattr(fuse_req_t request, fuse_ino_t number, struct stat *stat, int to_set,
                 struct fuse_file_info *file);
void ops_getxattr(fuse_req_t request, fuse_ino_t number, const char *name, size_t size);
void ops_listxattr(fuse_req_t request, fuse_ino_t number, size_t size);
void ops_setxattr(fuse_req_t request, fuse_ino_t number, const char *name, const char *value,
                  size_t size, int flags);
void ops_removexattr(fuse_req_t request, fuse_ino_t number, const char *name);

/* ops_dir.c */
void ops_opendir(fuse_req_t request, fuse_ino_t number, struct fuse_file_info *file);
void ops_releasedir(fuse_req_t request, fuse_ino_t number, struct fuse_file_info *file);
void ops_fsyncdir(fuse_req_t request, fuse_ino_t number, int only_data,
                  struct fuse_file_info *file);
void ops_readdir(fuse_req_t request, fuse_ino_t number, size_t size, off_t offset,
                 struct fuse_file_info *file);
void ops_readdirplus(fuse_req_t request, fuse_ino_t number, size_t size, off_t offset,
                     struct fuse_file_info *file);

/* ops_file.c */
void ops_open(fuse_req_t request, fuse_ino_t number, struct fuse_file_info *file);
void ops_create(fuse_req_t request, fuse_ino_t parent, const char *name, mode_t mode,
                struct fuse_file_info *file);
void ops_mknod(fuse_req_t request, fuse_ino_t parent, const char *name, mode_t mode, dev_t device);
void ops_read(fuse_req_t request, fuse_ino_t number, size_t size, off_t offset,
              struct fuse_file_info *file);
void ops_write(fuse_req_t request, fuse_ino_t number, const char *bytes, size_t size, off_t offset,
               struct fuse_file_info *file);
void ops_flush(fuse_req_t request, fuse_ino_t number, struct fuse_file_info *file);
void ops_fsync(fuse_req_t request, fuse_ino_t number, int only_data, struct fuse_file_info *file);
void ops_release(fuse_req_t request, fuse_ino_t number, struct fuse_file_info *file);

/* ops_name.c */
void ops_unlink(fuse_req_t request, fuse_ino_t parent, const char *name);
void ops_mkdir(fuse_req_t request, fuse_ino_t parent, const char *name, mode_t mode);
void ops_rmdir(fuse_req_t request, fuse_ino_t parent, const char *name);
void ops_rename(fuse_req_t request, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
                const char *new_name, unsigned flags);

#endif
