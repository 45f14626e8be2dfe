/* The kernel's operations: the table, looking up, and what fits nowhere else.
 *
 * Every attribute and every name is asked for afresh: the kernel is given zero timeouts. Two
 * moments are bridged, because otherwise one stat(2) would cost two round trips, and `ls -l` one
 * for each name: what a lookup has read of a file answers the getattr that follows it within 10 ms;
 * what a listing has read of it answers one lookup within 100 ms; what is known of a directory is
 * good for 100 ms. open() always asks, and what it hears counts from then on.
 *
 * Thread: one. Locks: none.
 */
#include "op.h"

#include <errno.h>

/* --- Looking up */

/* Answers from what is known here: a file being created, or what has just been listed. */
static bool lookup_known(struct op *op)
{
    const struct mapping_path *path = &op->source.path;
    struct inode *inode = mount_created(op->mount, path);
    if (inode != NULL) {
        struct cairn_meta meta = mount_data_meta(inode->data);
        op_reply_entry(op, inode, &meta);
        return true;
    }
    for (int is_directory = 0; is_directory < 2; is_directory++) {
        inode = inode_find_path(&op->mount->inodes, path->text, path->size, is_directory);
        if (inode == NULL || !mount_is_fresh(inode) || mount_changed_data(inode) != NULL) {
            continue;
        }
        if (is_directory || inode->is_listed) {
            /* Once: who looks again wants to know what is there now. */
            inode->is_listed = false;
            op_reply_entry(op, inode, mount_fresh_meta(inode));
            return true;
        }
    }
    return false;
}

static void lookup_resolved(struct op *op, int error)
{
    struct resolve *found = &op->source;
    const struct mapping_path *path = &found->path;
    bool is_directory = found->kind == RESOLVE_DIRECTORY;
    struct inode *virtual = inode_find_path(&op->mount->inodes, path->text, path->size, true);
    if (error == 0 && found->kind == RESOLVE_NONE && virtual != NULL && virtual->is_virtual) {
        op_reply_entry(op, virtual, NULL);
        return;
    }
    if (error != 0 || found->kind == RESOLVE_NONE) {
        op_fail(op, error != 0 ? error : ENOENT);
        return;
    }
    struct inode *inode = inode_at_path(&op->mount->inodes, path->text, path->size, is_directory);
    op->inode = inode_ref(inode);
    if (is_directory) {
        const struct cairn_meta *marker = found->has_marker ? &found->marker_meta : NULL;
        mount_set_virtual(op->mount, inode, false);
        mount_note_fresh(inode, marker, FRESH_LONG_US);
        op_reply_entry(op, inode, marker);
        return;
    }
    struct data *data = mount_changed_data(inode);
    struct cairn_meta meta = data != NULL ? mount_data_meta(data) : found->value_meta;
    mount_note_fresh(inode, &found->value_meta, FRESH_SHORT_US);
    if (inode->data != NULL) {
        data_note_version(inode->data, found->value_meta.version);
    }
    op_reply_entry(op, inode, &meta);
}

static void ops_lookup(fuse_req_t request, fuse_ino_t parent, const char *name)
{
    struct op *op = op_new(request);
    if (op_path(op, &op->source, parent, name, false) && !lookup_known(op)) {
        const struct mapping_path *path = &op->source.path;
        op->source.expects_directory =
            inode_find_path(&op->mount->inodes, path->text, path->size, true) != NULL;
        op_resolve(op, &op->source, lookup_resolved);
    }
}

static void ops_forget(fuse_req_t request, fuse_ino_t number, uint64_t lookups)
{
    struct mount *mount = mount_of(request);
    struct inode *inode = inode_find(&mount->inodes, number);
    if (inode != NULL) {
        inode_forget(&mount->inodes, inode, lookups);
    }
    fuse_reply_none(request);
}

static void ops_forget_multi(fuse_req_t request, size_t count, struct fuse_forget_data *forgets)
{
    struct mount *mount = mount_of(request);
    for (size_t i = 0; i < count; i++) {
        struct inode *inode = inode_find(&mount->inodes, forgets[i].ino);
        if (inode != NULL) {
            inode_forget(&mount->inodes, inode, forgets[i].nlookup);
        }
    }
    fuse_reply_none(request);
}

/* --- The rest */

/* The cluster doesn't say how much room it has; programs that ask before they write are told of
 * plenty. */
static void ops_statfs(fuse_req_t request, fuse_ino_t number)
{
    struct statvfs statvfs = {
        .f_bsize = 4096,
        .f_frsize = 4096,
        .f_blocks = (fsblkcnt_t)1 << 28,
        .f_bfree = (fsblkcnt_t)1 << 28,
        .f_bavail = (fsblkcnt_t)1 << 28,
        .f_namemax = MAPPING_NAME_MAX,
    };
    fuse_reply_statfs(request, &statvfs);
}

static void ops_symlink(fuse_req_t request, const char *link, fuse_ino_t parent, const char *name)
{
    fuse_reply_err(request, EPERM);
}

static void ops_link(fuse_req_t request, fuse_ino_t number, fuse_ino_t parent, const char *name)
{
    fuse_reply_err(request, EPERM);
}

static void ops_init(void *arg, struct fuse_conn_info *connection)
{
    /* Kernel write-back shows values that others changed cut at their old size. Pages are dropped
     * at open, so the kernel needn't ask for attributes at every read either. Its guess when a
     * listing had better bring attributes along overlooks names that it knows already. */
    connection->want &=
        ~(unsigned)(FUSE_CAP_WRITEBACK_CACHE | FUSE_CAP_AUTO_INVAL_DATA |
                    FUSE_CAP_READDIRPLUS_AUTO | FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE |
                    FUSE_CAP_SPLICE_MOVE | FUSE_CAP_POSIX_LOCKS | FUSE_CAP_FLOCK_LOCKS);
    connection->want |= connection->capable & (FUSE_CAP_ATOMIC_O_TRUNC | FUSE_CAP_READDIRPLUS |
                                               FUSE_CAP_ASYNC_READ | FUSE_CAP_PARALLEL_DIROPS);
    connection->max_write = 1 << 20;
    connection->time_gran = 1000;
}

const struct fuse_lowlevel_ops mount_operations = {
    .init = ops_init,
    .lookup = ops_lookup,
    .forget = ops_forget,
    .forget_multi = ops_forget_multi,
    .getattr = ops_getattr,
    .setattr = ops_setattr,
    .getxattr = ops_getxattr,
    .listxattr = ops_listxattr,
    .setxattr = ops_setxattr,
    .removexattr = ops_removexattr,
    .opendir = ops_opendir,
    .readdir = ops_readdir,
    .readdirplus = ops_readdirplus,
    .releasedir = ops_releasedir,
    .fsyncdir = ops_fsyncdir,
    .statfs = ops_statfs,
    .symlink = ops_symlink,
    .link = ops_link,
    .open = ops_open,
    .create = ops_create,
    .mknod = ops_mknod,
    .read = ops_read,
    .write = ops_write,
    .flush = ops_flush,
    .fsync = ops_fsync,
    .release = ops_release,
    .unlink = ops_unlink,
    .mkdir = ops_mkdir,
    .rmdir = ops_rmdir,
    .rename = ops_rename,
};
