/* The kernel's operations on attributes: getattr, setattr, extended attributes.
 *
 * A file with changes that the cluster doesn't have yet is described from here; everything else by
 * the cluster, each time. A directory's attributes stand in its marker.
 */
#include "op.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* --- Attributes */

static void getattr_directory(struct op *op, int error)
{
    struct resolve *found = &op->source;
    bool is_there = found->kind == RESOLVE_DIRECTORY || op->inode->is_virtual;
    if (error != 0 || !is_there) {
        op_fail(op, error != 0 ? error : ENOENT);
        return;
    }
    const struct cairn_meta *marker = found->has_marker ? &found->marker_meta : NULL;
    mount_note_fresh(op->inode, marker, FRESH_LONG_US);
    op_reply_attr(op, op->inode, marker);
}

static void getattr_file(struct op *op, struct cairn_result *result)
{
    struct inode *inode = op->inode;
    struct data *data = inode->data;
    if (result->status != 0) {
        op_fail(op, data_errno(result->status));
        return;
    }
    struct cairn_meta meta = result->meta;
    if (data != NULL && mount_changed_data(inode) != NULL) {
        if (!data->has_meta) {
            data->meta = meta;
            data->has_meta = true;
        }
        meta = mount_data_meta(data);
    } else if (data != NULL) {
        data_note_version(data, meta.version);
    }
    op_reply_attr(op, inode, &meta);
}

/* Answers from open data where it knows better than the cluster. */
static bool getattr_local(struct op *op)
{
    struct data *data = mount_changed_data(op->inode);
    if (data != NULL && (data->has_meta || data->is_created || data->is_local)) {
        struct cairn_meta meta = mount_data_meta(data);
        op_reply_attr(op, op->inode, &meta);
        return true;
    }
    if (data == NULL && op->inode->is_detached) {
        op_fail(op, ESTALE);
        return true;
    }
    return false;
}

/* What the inode's path means; false after the operation failed. */
static bool op_inode_target(struct op *op)
{
    struct resolve *resolve = &op->source;
    resolve->path.size = op->inode->path_size;
    memcpy(resolve->path.text, op->inode->path, op->inode->path_size);
    int status = mapping_path_to_key(&op->mount->mapping, resolve->path.text, resolve->path.size,
                                     &resolve->target);
    if (status != 0) {
        op_fail(op, -status);
    }
    return status == 0;
}

static void getattr_ask(struct op *op)
{
    if (op->inode->is_directory) {
        op->source.expects_directory = true;
        op_resolve(op, &op->source, getattr_directory);
        return;
    }
    struct cairn_request ask = {
        .verb = CAIRN_GET_META,
        .key = op->source.target.key,
        .key_size = op->source.target.key_size,
    };
    op_request(op, &ask, getattr_file);
}

void ops_getattr(fuse_req_t request, fuse_ino_t number, struct fuse_file_info *file)
{
    struct inode *inode = mount_inode(request, number);
    if (inode == NULL) {
        return;
    }
    struct op *op = op_new(request);
    op->inode = inode_ref(inode);
    if (getattr_local(op)) {
        return;
    }
    if (mount_is_fresh(inode)) {
        op_reply_attr(op, inode, mount_fresh_meta(inode));
        return;
    }
    if (op_inode_target(op)) {
        getattr_ask(op);
    }
}

/* --- Setting attributes */

static void setattr_reply(struct op *op)
{
    op->inode->fresh_until_us = 0;
    if (!getattr_local(op)) {
        getattr_ask(op);
    }
}

static void setattr_done(struct op *op, struct cairn_result *result)
{
    if (result->status != 0) {
        op_fail(op, result->status == CAIRN_EXISTS ? EPERM : data_errno(result->status));
        return;
    }
    setattr_reply(op);
}

static void setattr_committed(struct op *op, int error)
{
    if (error != 0) {
        op_fail(op, error);
        return;
    }
    setattr_reply(op);
}

/* A directory's attributes stand in its marker, which is made if there is none. Without a key to
 * hold them (the root of everything, a piece, a foreign key in the marker's place) they can't be
 * set: EPERM. */
static void setattr_directory(struct op *op, int error)
{
    struct resolve *found = &op->source;
    struct mapping_target target = found->target;
    size_t key_size = mapping_directory_prefix(&target);
    if (error != 0 || found->kind != RESOLVE_DIRECTORY) {
        op_fail(op, error != 0 ? error : ENOENT);
        return;
    }
    if (key_size == 0 || key_size > CAIRN_KEY_BYTES_MAX || target.kind == MAPPING_PIECE) {
        op_fail(op, EPERM);
        return;
    }
    struct cairn_request set = {
        .verb = found->has_marker ? CAIRN_SETATTR : CAIRN_PUT,
        .key = target.key,
        .key_size = key_size,
        .condition = found->has_marker ? CAIRN_IF_PRESENT : CAIRN_IF_ABSENT,
        .attributes = op->attributes,
    };
    set.attributes.mask |= CAIRN_ATTR_FLAGS;
    set.attributes.flags = CAIRN_FLAG_DIRECTORY;
    op_request(op, &set, setattr_done);
}

static void setattr_file(struct op *op)
{
    struct data *data = op->inode->data;
    if (data != NULL && (data->is_loaded || mount_changed_data(op->inode) != NULL)) {
        bool was_dirty = data_is_dirty(data);
        data_set_attributes(data, &op->attributes);
        if (was_dirty || data->is_local) {
            setattr_reply(op);
            return;
        }
        op->data = op->data != NULL ? op->data : data_ref(data);
        op_commit(op, data, setattr_committed);
        return;
    }
    struct cairn_request set = {
        .verb = CAIRN_SETATTR,
        .key = op->source.target.key,
        .key_size = op->source.target.key_size,
        .condition = CAIRN_IF_PRESENT,
        .attributes = op->attributes,
    };
    op_request(op, &set, setattr_done);
}

/* The bytes have their new size. Without an open handle nobody else would commit them. */
static void setattr_resized(struct op *op)
{
    if (op->attributes.mask != 0) {
        data_set_attributes(op->data, &op->attributes);
    }
    if (op->flags & FUSE_SET_ATTR_SIZE && op->file.fh == 0 && !op->data->is_local) {
        op_commit(op, op->data, setattr_committed);
        return;
    }
    setattr_reply(op);
}

static void setattr_loaded(struct op *op, int error)
{
    if (error == 0) {
        error = data_truncate(op->data, op->size, clock_wall_us());
    }
    if (error != 0) {
        op_fail(op, error);
        return;
    }
    setattr_resized(op);
}

static void setattr_size(struct op *op)
{
    op->data =
        data_open(&op->mount->pool, op->inode, op->source.target.key, op->source.target.key_size);
    if (op->size > 0) {
        op_load(op, op->data, setattr_loaded);
        return;
    }
    data_replace(op->data, clock_wall_us());
    setattr_resized(op);
}

static struct cairn_attributes attributes_of(const struct stat *stat, int to_set)
{
    struct cairn_attributes attributes = { 0 };
    if (to_set & FUSE_SET_ATTR_MODE) {
        attributes.mask |= CAIRN_ATTR_MODE;
        attributes.mode = stat->st_mode & 07777;
    }
    if (to_set & FUSE_SET_ATTR_UID) {
        attributes.mask |= CAIRN_ATTR_UID;
        attributes.uid = stat->st_uid;
    }
    if (to_set & FUSE_SET_ATTR_GID) {
        attributes.mask |= CAIRN_ATTR_GID;
        attributes.gid = stat->st_gid;
    }
    if (to_set & (FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_MTIME_NOW)) {
        /* 0 stands for "when the record changed", which is now, by the cluster's clock. 1970 itself
         * is shown a microsecond late, and what was before as 1970. */
        int64_t us = (int64_t)stat->st_mtim.tv_sec * 1000000 + stat->st_mtim.tv_nsec / 1000;
        attributes.mask |= CAIRN_ATTR_MTIME;
        attributes.mtime_us = to_set & FUSE_SET_ATTR_MTIME_NOW ? 0 : us < 1 ? 1 : (uint64_t)us;
    }
    return attributes;
}

void ops_setattr(fuse_req_t request, fuse_ino_t number, struct stat *stat, int to_set,
                 struct fuse_file_info *file)
{
    struct inode *inode = mount_inode(request, number);
    if (inode == NULL) {
        return;
    }
    struct op *op = op_new(request);
    op->inode = inode_ref(inode);
    op->attributes = attributes_of(stat, to_set);
    op->flags = (unsigned)to_set;
    op->size = (size_t)stat->st_size;
    if (file != NULL) {
        op->file = *file;
    }
    if (!op_inode_target(op)) {
        return;
    }
    if (to_set & FUSE_SET_ATTR_SIZE) {
        if (stat->st_size < 0 || stat->st_size > CAIRN_VALUE_BYTES_MAX) {
            op_fail(op, EFBIG);
            return;
        }
        setattr_size(op);
    } else if (op->attributes.mask == 0) {
        /* Times of access aren't kept. */
        setattr_reply(op);
    } else if (inode->is_directory) {
        op_resolve(op, &op->source, setattr_directory);
    } else {
        setattr_file(op);
    }
}

/* --- Extended attributes */

static void getxattr_answered(struct op *op, struct cairn_result *result)
{
    char text[32];
    const struct cairn_meta *meta = &result->meta;
    bool has_expiry =
        (meta->attributes.mask & CAIRN_ATTR_EXPIRES) && meta->attributes.expires_at_us;
    uint64_t number = strcmp(op->name, "version") == 0 ? meta->version
                      : strcmp(op->name, "size") == 0  ? meta->size
                                                       : meta->attributes.expires_at_us;
    if (result->status != 0) {
        op_fail(op, data_errno(result->status));
        return;
    }
    if (strcmp(op->name, "expires") == 0 && !has_expiry) {
        op_fail(op, ENODATA);
        return;
    }
    size_t size = (size_t)snprintf(text, sizeof text, "%llu", (unsigned long long)number);
    if (op->size == 0) {
        fuse_reply_xattr(op->request, size);
    } else if (op->size < size) {
        fuse_reply_err(op->request, ERANGE);
    } else {
        fuse_reply_buf(op->request, text, size);
    }
    op_free(op);
}

static void listxattr_answered(struct op *op, struct cairn_result *result)
{
    static const char names[] = "user.cairn.version\0user.cairn.size\0user.cairn.expires";
    const struct cairn_attributes *a = &result->meta.attributes;
    bool has_expiry = (a->mask & CAIRN_ATTR_EXPIRES) && a->expires_at_us != 0;
    size_t size = has_expiry ? sizeof names : sizeof names - sizeof "user.cairn.expires";
    if (result->status != 0) {
        op_fail(op, data_errno(result->status));
        return;
    }
    if (op->size == 0) {
        fuse_reply_xattr(op->request, size);
    } else if (op->size < size) {
        fuse_reply_err(op->request, ERANGE);
    } else {
        fuse_reply_buf(op->request, names, size);
    }
    op_free(op);
}

static void xattr_start(fuse_req_t request, struct inode *inode, const char *name, size_t size,
                        op_answer answer)
{
    struct op *op = op_new(request);
    op->inode = inode_ref(inode);
    op->size = size;
    snprintf(op->name, sizeof op->name, "%s", name);
    if (inode->is_detached) {
        op_fail(op, ENODATA);
    } else if (op_inode_target(op)) {
        struct cairn_request ask = {
            .verb = CAIRN_GET_META,
            .key = op->source.target.key,
            .key_size = op->source.target.key_size,
        };
        op_request(op, &ask, answer);
    }
}

void ops_getxattr(fuse_req_t request, fuse_ino_t number, const char *name, size_t size)
{
    static const char ours[] = "user.cairn.";
    struct inode *inode = mount_inode(request, number);
    if (inode == NULL) {
        return;
    }
    bool is_ours = strncmp(name, ours, sizeof ours - 1) == 0;
    const char *rest = is_ours ? name + sizeof ours - 1 : "";
    bool is_known =
        strcmp(rest, "version") == 0 || strcmp(rest, "size") == 0 || strcmp(rest, "expires") == 0;
    if (is_known && !inode->is_directory) {
        xattr_start(request, inode, rest, size, getxattr_answered);
    } else {
        fuse_reply_err(request, strncmp(name, "user.", 5) == 0 ? ENODATA : EOPNOTSUPP);
    }
}

void ops_listxattr(fuse_req_t request, fuse_ino_t number, size_t size)
{
    struct inode *inode = mount_inode(request, number);
    if (inode == NULL) {
        return;
    }
    if (!inode->is_directory) {
        xattr_start(request, inode, "", size, listxattr_answered);
    } else if (size == 0) {
        fuse_reply_xattr(request, 0);
    } else {
        fuse_reply_buf(request, NULL, 0);
    }
}

void ops_setxattr(fuse_req_t request, fuse_ino_t number, const char *name, const char *value,
                  size_t size, int flags)
{
    fuse_reply_err(request, EOPNOTSUPP);
}

void ops_removexattr(fuse_req_t request, fuse_ino_t number, const char *name)
{
    fuse_reply_err(request, EOPNOTSUPP);
}
