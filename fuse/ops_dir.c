/* The kernel's operations on open directories.
 *
 * Listings bring attributes along (readdirplus): they come from the records that the scan has read,
 * and answer the lookups that follow for a short time.
 */
#include "op.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* --- Listings */

/* Files being created below the directory are shown although the cluster doesn't know them. */
static void add_created(struct mount *mount, struct dir *dir, const struct inode *directory)
{
    for (const struct data *data = mount->pool.all; data != NULL; data = data->next) {
        const struct inode *inode = data->inode;
        size_t parent_size = mapping_parent_size(inode->path, inode->path_size);
        if (data->is_created && !data->is_local && parent_size == directory->path_size &&
            memcmp(inode->path, directory->path, parent_size) == 0) {
            dir_add_local(dir, inode->path + parent_size + (parent_size > 0 ? 1 : 0));
        }
    }
}

void ops_opendir(fuse_req_t request, fuse_ino_t number, struct fuse_file_info *file)
{
    struct mount *mount = mount_of(request);
    struct mapping_target target;
    struct inode *inode = mount_inode(request, number);
    if (inode == NULL) {
        return;
    }
    int status = mapping_path_to_key(&mount->mapping, inode->path, inode->path_size, &target);
    if (status != 0 || inode->is_detached) {
        fuse_reply_err(request, inode->is_detached ? ENOENT : -status);
        return;
    }
    struct dir *dir =
        dir_open(mount->cairn, &mount->mapping, inode->path, inode->path_size, &target);
    add_created(mount, dir, inode);
    file->fh = (uintptr_t)dir;
    file->cache_readdir = 0;
    if (fuse_reply_open(request, file) != 0) {
        dir_close(dir);
    }
}

void ops_releasedir(fuse_req_t request, fuse_ino_t number, struct fuse_file_info *file)
{
    dir_close((struct dir *)(uintptr_t)file->fh);
    fuse_reply_err(request, 0);
}

void ops_fsyncdir(fuse_req_t request, fuse_ino_t number, int only_data, struct fuse_file_info *file)
{
    fuse_reply_err(request, 0);
}

/* Where a listing is written. */
struct listing {
    struct op *op;
    char *at;
    size_t left;
};

/* "." and ".." carry a type and a number, no attributes and no lookup. */
static bool list_dots(struct listing *listing, const char *name, off_t next)
{
    struct op *op = listing->op;
    struct fuse_entry_param entry = { .attr = { .st_mode = S_IFDIR } };
    size_t parent_size = name[1] == 0 ? op->inode->path_size
                                      : mapping_parent_size(op->inode->path, op->inode->path_size);
    entry.attr.st_ino = inode_shown_number(&op->mount->inodes, op->inode->path, parent_size, true);
    size_t size =
        op->is_plus
            ? fuse_add_direntry_plus(op->request, listing->at, listing->left, name, &entry, next)
            : fuse_add_direntry(op->request, listing->at, listing->left, name, &entry.attr, next);
    if (size > listing->left) {
        return false;
    }
    listing->at += size;
    listing->left -= size;
    return true;
}

static bool list_plain(struct listing *listing, const struct mapping_path *path,
                       const struct dir_entry *entry, off_t next)
{
    struct op *op = listing->op;
    struct stat stat = {
        .st_ino =
            inode_shown_number(&op->mount->inodes, path->text, path->size, entry->is_directory),
        .st_mode = entry->is_directory ? S_IFDIR : S_IFREG,
    };
    size_t size =
        fuse_add_direntry(op->request, listing->at, listing->left, entry->name, &stat, next);
    if (size > listing->left) {
        return false;
    }
    listing->at += size;
    listing->left -= size;
    return true;
}

/* With attributes: counts a lookup for what fits. */
static bool list_plus(struct listing *listing, const struct mapping_path *path,
                      const struct dir_entry *entry, off_t next)
{
    struct op *op = listing->op;
    if (fuse_add_direntry_plus(op->request, NULL, 0, entry->name, NULL, 0) > listing->left) {
        return false;
    }
    struct inode *inode =
        inode_at_path(&op->mount->inodes, path->text, path->size, entry->is_directory);
    struct data *data = mount_changed_data(inode);
    const struct cairn_meta *meta = entry->has_meta ? &entry->meta : NULL;
    struct cairn_meta changed;
    inode->lookups++;
    if (data != NULL) {
        changed = mount_data_meta(data);
        meta = &changed;
    } else {
        mount_note_fresh(inode, meta, FRESH_LONG_US);
        inode->is_listed = true;
    }
    struct fuse_entry_param param = { .ino = inode->number, .generation = 1 };
    mount_stat(op->mount, inode, meta, &param.attr);
    size_t size =
        fuse_add_direntry_plus(op->request, listing->at, listing->left, entry->name, &param, next);
    listing->at += size;
    listing->left -= size;
    return true;
}

static bool list_entry(struct listing *listing, const struct dir_entry *entry, off_t next)
{
    const struct inode *directory = listing->op->inode;
    struct mapping_path path;
    if (mapping_join(directory->path, directory->path_size, entry->name, &path) != 0) {
        return true;
    }
    return listing->op->is_plus ? list_plus(listing, &path, entry, next)
                                : list_plain(listing, &path, entry, next);
}

/* The kernel's offset of an entry is that of its successor: "." is 1, ".." 2, the directory's own
 * entries follow. */
static void readdir_ready(struct op *op, int error)
{
    if (error != 0) {
        op_fail(op, error);
        return;
    }
    const struct dir_entry *entry;
    struct listing listing = { .op = op, .at = (char *)op->bytes, .left = op->size };
    off_t offset = op->offset;
    bool fits = true;
    for (; fits && offset < 2; offset += fits ? 1 : 0) {
        fits = list_dots(&listing, offset == 0 ? "." : "..", offset + 1);
    }
    while (fits && dir_peek(op->dir, (uint64_t)offset - 2, &entry) == 1) {
        fits = list_entry(&listing, entry, offset + 1);
        offset++;
    }
    fuse_reply_buf(op->request, (char *)op->bytes, op->size - listing.left);
    op_free(op);
}

static void readdir_start(fuse_req_t request, fuse_ino_t number, size_t size, off_t offset,
                          struct fuse_file_info *file, bool is_plus)
{
    const struct dir_entry *entry;
    struct inode *inode = mount_inode(request, number);
    if (inode == NULL) {
        return;
    }
    struct op *op = op_new(request);
    op->inode = inode_ref(inode);
    op->size = size;
    op->offset = offset < 0 ? 0 : offset;
    op->is_plus = is_plus;
    op->dir = (struct dir *)(uintptr_t)file->fh;
    op->bytes = malloc(size);
    if (op->bytes == NULL) {
        op_fail(op, ENOMEM);
        return;
    }
    uint64_t sought = op->offset < 2 ? 0 : (uint64_t)op->offset - 2;
    if (op->offset == 0 || dir_peek(op->dir, sought, &entry) == -EAGAIN) {
        op_seek(op, op->dir, sought, readdir_ready);
    } else {
        readdir_ready(op, 0);
    }
}

void ops_readdir(fuse_req_t request, fuse_ino_t number, size_t size, off_t offset,
                 struct fuse_file_info *file)
{
    readdir_start(request, number, size, offset, file, false);
}

void ops_readdirplus(fuse_req_t request, fuse_ino_t number, size_t size, off_t offset,
                     struct fuse_file_info *file)
{
    readdir_start(request, number, size, offset, file, true);
}
