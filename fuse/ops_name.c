/* The kernel's operations on names: unlink, mkdir, rmdir, rename.
 *
 * A directory exists because keys lie below it, or because it has a marker (its key with '/'
 * behind, flagged). What takes the last key away from below a directory first leaves a marker
 * there, so that the directory stays; a crash between the two leaves a marker too many, which is
 * harmless.
 *
 * rename writes the destination and then deletes the source if it is still what was read: a crash
 * between leaves both, never neither. A source that was changed meanwhile is read again.
 */
#include "op.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    RENAME_ATTEMPTS_MAX = 16, /* of a source that keeps changing; then EBUSY */
    VIRTUAL_MAX = 1024,       /* directories for pieces without keys; more: ENOSPC */
};

/* --- The directory that must not vanish */

static void parent_marked(struct op *op, struct cairn_result *result)
{
    /* EXISTS: another key took the place, so the directory exists too. */
    bool is_there = result->status == 0 || result->status == CAIRN_EXISTS;
    op->after_parent(op, is_there ? 0 : data_errno(result->status));
}

/* The keys below the parent, at most two: is there another one than that which goes? */
static void parent_probed(struct op *op, int error)
{
    const struct mapping_target *target = &op->source.target;
    size_t key_size = target->key_size;
    uint8_t key[CAIRN_KEY_BYTES_MAX + 1];
    if (error != 0) {
        op->after_parent(op, error);
        return;
    }
    memcpy(key, target->key, key_size);
    if (op->source.kind == RESOLVE_DIRECTORY) {
        key[key_size++] = '/';
    }
    for (size_t i = 0; i < op->probe.count; i++) {
        if (op->probe.entries[i].key_size != key_size ||
            memcmp(op->probe.entries[i].key, key, key_size) != 0) {
            op->after_parent(op, 0);
            return;
        }
    }
    if (op->parent_key_size == key_size && memcmp(op->parent_key, key, key_size) == 0) {
        op->becomes_marker = true;
        op->after_parent(op, 0);
        return;
    }
    struct cairn_request put = {
        .verb = CAIRN_PUT,
        .key = op->parent_key,
        .key_size = op->parent_key_size,
        .condition = CAIRN_IF_ABSENT,
        .attributes = { .mask = CAIRN_ATTR_FLAGS, .flags = CAIRN_FLAG_DIRECTORY },
    };
    op_request(op, &put, parent_marked);
}

/* Most directories have a marker, and one key is asked for quicker than all partitions. */
static void parent_asked(struct op *op, struct cairn_result *result)
{
    if (result->status == 0 && key_is_marker(&result->meta)) {
        op->after_parent(op, 0);
    } else if (result->status == 0 || result->status == CAIRN_NOT_FOUND) {
        op_probe(op, op->parent_key, op->parent_key_size, PROBE_ENTRIES, parent_probed);
    } else {
        op->after_parent(op, data_errno(result->status));
    }
}

/* Before the key of op->source goes: sees to it that the nearest directory above it, other than the
 * root, keeps a key. Directories of pieces can't have markers; this mount remembers them. */
static void keep_parent(struct op *op, op_step after)
{
    const struct mapping_path *path = &op->source.path;
    struct mapping_target target;
    size_t size = path->size;
    op->after_parent = after;
    op->becomes_marker = false;
    do {
        size = mapping_parent_size(path->text, size);
        if (mapping_path_to_key(&op->mount->mapping, path->text, size, &target) != 0) {
            after(op, ENOENT);
            return;
        }
    } while (target.kind == MAPPING_PIECE);
    if (target.kind == MAPPING_ROOT) {
        after(op, 0);
        return;
    }
    op->parent_key_size = mapping_directory_prefix(&target);
    memcpy(op->parent_key, target.key, op->parent_key_size);
    struct cairn_request ask = {
        .verb = CAIRN_GET_META,
        .key = op->parent_key,
        .key_size = op->parent_key_size,
    };
    op_request(op, &ask, parent_asked);
}

/* After a name went: its parent, if it stands for a piece, stays as an empty directory. */
static void keep_piece(struct op *op)
{
    const struct mapping_path *path = &op->source.path;
    struct mapping_target target;
    size_t size = mapping_parent_size(path->text, path->size);
    if (mapping_path_to_key(&op->mount->mapping, path->text, size, &target) == 0 &&
        target.kind == MAPPING_PIECE && op->mount->virtual_count < VIRTUAL_MAX) {
        struct inode *inode = inode_at_path(&op->mount->inodes, path->text, size, true);
        mount_set_virtual(op->mount, inode, true);
    }
}

/* Deletes the key of op->source, or turns it into its directory's marker. */
static void delete_source(struct op *op, enum cairn_condition condition, uint64_t version,
                          op_answer answer)
{
    const struct mapping_target *target = &op->source.target;
    struct cairn_request go = {
        .verb = CAIRN_DELETE,
        .key = target->key,
        .key_size = target->key_size,
        .condition = condition,
        .version = version,
    };
    if (op->becomes_marker) {
        go.verb = CAIRN_PUT;
        go.attributes.mask = CAIRN_ATTR_FLAGS | CAIRN_ATTR_MODE;
        go.attributes.flags = CAIRN_FLAG_DIRECTORY;
        go.attributes.mode = op->mount->directory_mode;
    }
    op_request(op, &go, answer);
}

/* --- Unlink */

static void unlink_undo(struct op *op, int error)
{
    if (op->made_local) {
        op->data->is_local = false;
    }
    op_fail(op, error);
}

static void unlink_gone(struct op *op)
{
    const struct mapping_path *path = &op->source.path;
    struct inode *inode = inode_find_path(&op->mount->inodes, path->text, path->size, false);
    if (inode != NULL) {
        inode_detach(&op->mount->inodes, inode);
    }
    keep_piece(op);
    op_fail(op, 0);
}

static void unlink_deleted(struct op *op, struct cairn_result *result)
{
    bool is_missing = result->status == 0 && !op->becomes_marker && !result->existed;
    if (result->status != 0) {
        unlink_undo(op, data_errno(result->status));
        return;
    }
    if (is_missing && !op->made_local) {
        op_fail(op, ENOENT);
        return;
    }
    unlink_gone(op);
}

static void unlink_delete(struct op *op, int error)
{
    if (error != 0) {
        unlink_undo(op, error);
        return;
    }
    delete_source(op, CAIRN_ALWAYS, 0, unlink_deleted);
}

/* The open file's bytes are here, or can't be had any more; it goes on without the key. */
static void unlink_loaded(struct op *op, int error)
{
    if (error != 0 && error != ESTALE) {
        op_fail(op, error);
        return;
    }
    if (!op->data->is_local) {
        data_make_local(op->data);
        op->made_local = true;
    }
    if (op->data->is_created) {
        unlink_gone(op);
        return;
    }
    keep_parent(op, unlink_delete);
}

void ops_unlink(fuse_req_t request, fuse_ino_t parent, const char *name)
{
    struct op *op = op_new(request);
    if (!op_path(op, &op->source, parent, name, false)) {
        return;
    }
    if (op->source.target.kind == MAPPING_PIECE || op->source.target.key_size == 0) {
        op_fail(op, EISDIR);
        return;
    }
    const struct mapping_path *path = &op->source.path;
    struct inode *inode = inode_find_path(&op->mount->inodes, path->text, path->size, false);
    op->source.kind = RESOLVE_FILE;
    if (inode != NULL) {
        inode->fresh_until_us = 0;
    }
    if (inode != NULL && inode->data != NULL) {
        op->data = data_ref(inode->data);
        op_load(op, op->data, unlink_loaded);
    } else {
        keep_parent(op, unlink_delete);
    }
}

/* --- Directories */

static void mkdir_reply(struct op *op, const struct cairn_meta *meta)
{
    const struct mapping_path *path = &op->source.path;
    struct inode *inode = inode_at_path(&op->mount->inodes, path->text, path->size, true);
    op->inode = inode_ref(inode);
    inode->fresh_until_us = 0;
    if (op->source.target.kind == MAPPING_PIECE) {
        mount_set_virtual(op->mount, inode, true);
    }
    op_reply_entry(op, inode, meta);
}

static void mkdir_made(struct op *op, struct cairn_result *result)
{
    if (result->status != 0) {
        op_fail(op, data_errno(result->status));
        return;
    }
    struct cairn_meta meta = result->meta;
    meta.attributes = op->attributes;
    mkdir_reply(op, &meta);
}

static void mkdir_resolved(struct op *op, int error)
{
    struct mapping_target target = op->source.target;
    if (error != 0 || op->source.kind != RESOLVE_NONE) {
        op_fail(op, error != 0 ? error : EEXIST);
        return;
    }
    size_t key_size = mapping_directory_prefix(&target);
    if (target.kind == MAPPING_PIECE) {
        if (op->mount->virtual_count >= VIRTUAL_MAX) {
            op_fail(op, ENOSPC);
        } else {
            mkdir_reply(op, NULL);
        }
        return;
    }
    if (key_size > CAIRN_KEY_BYTES_MAX) {
        op_fail(op, ENAMETOOLONG);
        return;
    }
    struct cairn_request put = {
        .verb = CAIRN_PUT,
        .key = target.key,
        .key_size = key_size,
        .condition = CAIRN_IF_ABSENT,
        .attributes = op->attributes,
    };
    op_request(op, &put, mkdir_made);
}

void ops_mkdir(fuse_req_t request, fuse_ino_t parent, const char *name, mode_t mode)
{
    struct op *op = op_new(request);
    if (!op_path(op, &op->source, parent, name, true)) {
        return;
    }
    const struct mapping_path *path = &op->source.path;
    const struct inode *virtual = inode_find_path(&op->mount->inodes, path->text, path->size, true);
    if (op->source.target.kind == MAPPING_VALUE) {
        op_fail(op, EINVAL);
        return;
    }
    if (mount_created(op->mount, path) != NULL || (virtual != NULL && virtual->is_virtual)) {
        op_fail(op, EEXIST);
        return;
    }
    op->attributes = mount_owner(request, mode);
    op->attributes.mask |= CAIRN_ATTR_FLAGS;
    op->attributes.flags = CAIRN_FLAG_DIRECTORY;
    op_resolve(op, &op->source, mkdir_resolved);
}

static void rmdir_gone(struct op *op)
{
    const struct mapping_path *path = &op->source.path;
    struct inode *inode = inode_find_path(&op->mount->inodes, path->text, path->size, true);
    if (inode != NULL) {
        inode_ref(inode);
        mount_set_virtual(op->mount, inode, false);
        inode_detach(&op->mount->inodes, inode);
        inode_unref(&op->mount->inodes, inode);
    }
    op_fail(op, 0);
}

static void rmdir_deleted(struct op *op, struct cairn_result *result)
{
    if (result->status != 0) {
        op_fail(op, result->status == CAIRN_CONDITION_FAILED ? EBUSY : data_errno(result->status));
        return;
    }
    keep_piece(op);
    rmdir_gone(op);
}

static void rmdir_delete(struct op *op, int error)
{
    struct mapping_target target = op->source.target;
    if (error != 0) {
        op_fail(op, error);
        return;
    }
    struct cairn_request go = {
        .verb = CAIRN_DELETE,
        .key = target.key,
        .key_size = mapping_directory_prefix(&target),
        .condition = CAIRN_IF_VERSION,
        .version = op->source.marker_meta.version,
    };
    op_request(op, &go, rmdir_deleted);
}

/* A file being created below counts: its directory must not go. */
static bool has_created_below(const struct mount *mount, const struct mapping_path *path)
{
    for (const struct data *data = mount->pool.all; data != NULL; data = data->next) {
        const struct inode *inode = data->inode;
        if (data->is_created && !data->is_local && inode->path_size > path->size &&
            inode->path[path->size] == '/' && memcmp(inode->path, path->text, path->size) == 0) {
            return true;
        }
    }
    return false;
}

static void rmdir_resolved(struct op *op, int error)
{
    const struct resolve *found = &op->source;
    const struct mapping_path *path = &found->path;
    const struct inode *inode = inode_find_path(&op->mount->inodes, path->text, path->size, true);
    bool is_virtual = inode != NULL && inode->is_virtual;
    if (error != 0) {
        op_fail(op, error);
    } else if (has_created_below(op->mount, path) || found->has_more ||
               (found->has_value && found->has_below)) {
        op_fail(op, ENOTEMPTY);
    } else if (found->kind == RESOLVE_FILE) {
        op_fail(op, ENOTDIR);
    } else if (found->kind == RESOLVE_NONE && !is_virtual) {
        op_fail(op, ENOENT);
    } else if (!found->has_marker) {
        rmdir_gone(op);
    } else {
        keep_parent(op, rmdir_delete);
    }
}

void ops_rmdir(fuse_req_t request, fuse_ino_t parent, const char *name)
{
    struct op *op = op_new(request);
    if (op_path(op, &op->source, parent, name, false)) {
        op_resolve(op, &op->source, rmdir_resolved);
    }
}

/* --- Rename */

static struct inode *rename_find(struct op *op, const struct resolve *resolve, bool is_directory)
{
    return inode_find_path(&op->mount->inodes, resolve->path.text, resolve->path.size,
                           is_directory);
}

/* The destination's node is cut off, the source's node takes its path. An open source belongs to
 * the new key from now on. */
static void rename_finished(struct op *op, bool is_directory)
{
    struct inode *inode = rename_find(op, &op->source, is_directory);
    struct inode *there = rename_find(op, &op->target, is_directory);
    if (there != NULL && there != inode) {
        inode_detach(&op->mount->inodes, there);
    }
    if (inode != NULL) {
        inode->fresh_until_us = 0;
        inode_move(&op->mount->inodes, inode, op->target.path.text, op->target.path.size);
    }
    if (inode != NULL && inode->data != NULL) {
        struct data *data = inode->data;
        data->key_size = op->target.target.key_size;
        memcpy(data->key, op->target.target.key, data->key_size);
        if (data->base_version == op->version) {
            data->base_version = op->target.value_meta.version;
            data->meta = op->target.value_meta;
        } else {
            data_note_version(data, 0);
        }
    }
    keep_piece(op);
    op_fail(op, 0);
}

static void rename_fail(struct op *op, int error)
{
    if (op->made_local) {
        op->replaced->is_local = false;
    }
    op_fail(op, error);
}

static void rename_read(struct op *op);

static void rename_deleted(struct op *op, struct cairn_result *result)
{
    if (result->status == CAIRN_CONDITION_FAILED && result->meta.version != 0) {
        rename_read(op);
        return;
    }
    /* A source that is gone is what was wanted. */
    bool is_gone = result->status == 0 || result->status == CAIRN_CONDITION_FAILED ||
                   result->status == CAIRN_NOT_FOUND;
    if (!is_gone) {
        op_fail(op, data_errno(result->status));
        return;
    }
    rename_finished(op, false);
}

static void rename_delete(struct op *op, int error)
{
    if (error != 0) {
        op_fail(op, error);
        return;
    }
    delete_source(op, CAIRN_IF_VERSION, op->version, rename_deleted);
}

static void rename_put_done(struct op *op, struct cairn_result *result)
{
    if (result->status != 0) {
        rename_fail(op,
                    result->status == CAIRN_CONDITION_FAILED ? EEXIST : data_errno(result->status));
        return;
    }
    op->target.value_meta.version = result->meta.version;
    op->target.value_meta.time_us = result->meta.time_us;
    /* From here on the destination is what the source was, whatever happens; a second attempt
     * overwrites it. */
    op->flags &= ~(unsigned)RENAME_NOREPLACE;
    op->made_local = false;
    keep_parent(op, rename_delete);
}

/* The destination's record is to say what the source's says. What it can't take back (the
 * destination has a mode, the source none) is set to what the source is shown with. */
static struct cairn_attributes rename_attributes(const struct op *op,
                                                 const struct cairn_meta *source)
{
    struct cairn_attributes attributes = source->attributes;
    const struct cairn_attributes *there = &op->target.value_meta.attributes;
    uint32_t missing = op->target.has_value ? there->mask & ~attributes.mask : 0;
    struct cairn_attributes defaults = {
        .mask = missing,
        .mode = op->mount->file_mode,
        .uid = op->mount->uid,
        .gid = op->mount->gid,
    };
    data_merge_attributes(&attributes, &defaults);
    attributes.mask |= CAIRN_ATTR_FLAGS;
    attributes.flags = 0;
    return attributes;
}

static void rename_source_read(struct op *op, struct cairn_result *result)
{
    if (result->status != 0) {
        rename_fail(op, data_errno(result->status));
        return;
    }
    op->version = result->meta.version;
    struct cairn_request put = {
        .verb = CAIRN_PUT,
        .key = op->target.target.key,
        .key_size = op->target.target.key_size,
        .value = result->value,
        .value_size = result->value_size,
        .condition = op->flags & RENAME_NOREPLACE ? CAIRN_IF_ABSENT : CAIRN_ALWAYS,
        .attributes = rename_attributes(op, &result->meta),
    };
    op->target.value_meta = (struct cairn_meta){
        .size = result->value_size,
        .attributes = put.attributes,
    };
    op->target.has_value = true;
    op_request(op, &put, rename_put_done);
}

static void rename_read(struct op *op)
{
    struct cairn_request get = {
        .verb = CAIRN_GET,
        .key = op->source.target.key,
        .key_size = op->source.target.key_size,
    };
    if (++op->attempts > RENAME_ATTEMPTS_MAX) {
        rename_fail(op, EBUSY);
        return;
    }
    op_request(op, &get, rename_source_read);
}

/* An open destination keeps its bytes for those who have it open. */
static void rename_target_loaded(struct op *op, int error)
{
    if (error != 0 && error != ESTALE) {
        op_fail(op, error);
        return;
    }
    if (!op->replaced->is_local) {
        data_make_local(op->replaced);
        op->made_local = true;
    }
    rename_read(op);
}

/* Directories move only when they are empty; for others EXDEV makes mv(1) copy. */
static void rename_directory_deleted(struct op *op, struct cairn_result *result)
{
    if (result->status != 0) {
        op_fail(op, data_errno(result->status));
        return;
    }
    rename_finished(op, true);
}

static void rename_directory_delete(struct op *op, int error)
{
    struct mapping_target source = op->source.target;
    if (error != 0) {
        op_fail(op, error);
        return;
    }
    struct cairn_request go = {
        .verb = CAIRN_DELETE,
        .key = source.key,
        .key_size = mapping_directory_prefix(&source),
        .condition = CAIRN_IF_VERSION,
        .version = op->source.marker_meta.version,
    };
    op_request(op, &go, rename_directory_deleted);
}

static void rename_directory_made(struct op *op, struct cairn_result *result)
{
    if (result->status != 0 && result->status != CAIRN_EXISTS) {
        op_fail(op, data_errno(result->status));
        return;
    }
    keep_parent(op, rename_directory_delete);
}

static void rename_directory(struct op *op)
{
    const struct resolve *source = &op->source, *target = &op->target;
    struct mapping_target marker = target->target;
    size_t key_size = mapping_directory_prefix(&marker);
    bool is_simple = source->has_marker && !source->has_more && !source->has_value &&
                     !has_created_below(op->mount, &source->path) &&
                     source->target.kind == MAPPING_PLAIN && marker.kind == MAPPING_PLAIN;
    if (target->kind == RESOLVE_FILE) {
        op_fail(op, ENOTDIR);
        return;
    }
    if (target->kind == RESOLVE_DIRECTORY && (target->has_more || target->has_value)) {
        op_fail(op, ENOTEMPTY);
        return;
    }
    if (target->kind == RESOLVE_DIRECTORY && (op->flags & RENAME_NOREPLACE)) {
        op_fail(op, EEXIST);
        return;
    }
    if (!is_simple || key_size > CAIRN_KEY_BYTES_MAX) {
        op_fail(op, key_size > CAIRN_KEY_BYTES_MAX ? ENAMETOOLONG : EXDEV);
        return;
    }
    struct cairn_request put = {
        .verb = CAIRN_PUT,
        .key = marker.key,
        .key_size = key_size,
        .condition = CAIRN_IF_ABSENT,
        .attributes = source->marker_meta.attributes,
    };
    op_request(op, &put, rename_directory_made);
}

static void rename_file(struct op *op)
{
    if (op->target.kind == RESOLVE_DIRECTORY) {
        op_fail(op, EISDIR);
        return;
    }
    if (op->target.target.kind == MAPPING_VALUE && op->target.kind == RESOLVE_NONE) {
        op_fail(op, EINVAL);
        return;
    }
    bool is_there =
        op->target.kind == RESOLVE_FILE || mount_created(op->mount, &op->target.path) != NULL;
    if (is_there && (op->flags & RENAME_NOREPLACE)) {
        op_fail(op, EEXIST);
        return;
    }
    struct inode *there = rename_find(op, &op->target, false);
    if (there != NULL && there->data != NULL) {
        op->replaced = data_ref(there->data);
        op_load(op, op->replaced, rename_target_loaded);
        return;
    }
    rename_read(op);
}

static void rename_target_resolved(struct op *op, int error)
{
    if (error != 0) {
        op_fail(op, error);
    } else if (op->source.kind == RESOLVE_DIRECTORY) {
        rename_directory(op);
    } else {
        rename_file(op);
    }
}

static void rename_source_resolved(struct op *op, int error)
{
    if (error != 0 || op->source.kind == RESOLVE_NONE) {
        op_fail(op, error != 0 ? error : ENOENT);
        return;
    }
    op_resolve(op, &op->target, rename_target_resolved);
}

/* What was written to the source is in the cluster. */
static void rename_committed(struct op *op, int error)
{
    if (error != 0) {
        op_fail(op, error);
        return;
    }
    op_resolve(op, &op->source, rename_source_resolved);
}

void ops_rename(fuse_req_t request, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
                const char *new_name, unsigned flags)
{
    struct op *op = op_new(request);
    op->flags = flags;
    if (flags & ~(unsigned)RENAME_NOREPLACE) {
        op_fail(op, EINVAL);
        return;
    }
    if (!op_path(op, &op->source, parent, name, false) ||
        !op_path(op, &op->target, new_parent, new_name, true)) {
        return;
    }
    const struct mapping_target *target = &op->target.target;
    if (target->kind == MAPPING_PIECE || target->key_size == 0) {
        op_fail(op, op->source.target.kind == MAPPING_PIECE ? EXDEV : EINVAL);
        return;
    }
    if (op->source.path.size == op->target.path.size &&
        memcmp(op->source.path.text, op->target.path.text, op->source.path.size) == 0) {
        op_fail(op, 0);
        return;
    }
    struct inode *inode = rename_find(op, &op->source, false);
    if (inode != NULL && inode->data != NULL) {
        op->data = data_ref(inode->data);
        op_commit(op, op->data, rename_committed);
    } else {
        op_resolve(op, &op->source, rename_source_resolved);
    }
}
