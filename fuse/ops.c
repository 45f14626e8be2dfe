/* The kernel's operations: looking up, attributes, listings; and how an operation runs.
 *
 * A handler never waits. What it needs from the cluster it asks for and returns; the answer calls
 * the next step, and the last step answers the kernel. An operation waits for one thing at a time
 * (op.wait), so that an interrupt knows what to end.
 *
 * Every attribute and every name is asked for afresh: the kernel is given zero timeouts. Two
 * moments are bridged, because otherwise one stat(2) would cost two round trips, and `ls -l` one
 * for each name: what a lookup has read answers the getattr that follows it within 10 ms, and what
 * a listing has read answers lookups within 100 ms.
 *
 * Thread: one. Locks: none.
 */
#include "ops_private.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>
#include <time.h>

enum {
    LOOKUP_FRESH_US = 10 * 1000,
    LISTING_FRESH_US = 100 * 1000,
    DIRTY_BYTES_MAX = 256 << 20,
};

/* --- Small things */

struct mount *mount_of(fuse_req_t request)
{
    return fuse_req_userdata(request);
}

static uint64_t clock_us(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

uint64_t clock_now_us(void)
{
    return clock_us(CLOCK_MONOTONIC);
}

uint64_t clock_wall_us(void)
{
    return clock_us(CLOCK_REALTIME);
}

bool key_is_marker(const struct cairn_meta *meta)
{
    return (meta->attributes.mask & CAIRN_ATTR_FLAGS) &&
           (meta->attributes.flags & CAIRN_FLAG_DIRECTORY);
}

void mount_init(struct mount *mount, struct cairn *cairn, const struct mapping *mapping)
{
    *mount = (struct mount){
        .cairn = cairn,
        .mapping = *mapping,
        .file_mode = 0644,
        .directory_mode = 0755,
        .started_us = clock_wall_us(),
    };
    inode_table_init(&mount->inodes);
    mount->pool.cairn = cairn;
    mount->pool.inodes = &mount->inodes;
    mount->pool.bytes_max = DIRTY_BYTES_MAX;
}

void mount_fini(struct mount *mount)
{
    inode_table_fini(&mount->inodes);
}

struct inode *mount_inode(fuse_req_t request, fuse_ino_t number)
{
    struct inode *inode = inode_find(&mount_of(request)->inodes, number);
    if (inode == NULL) {
        fuse_reply_err(request, ESTALE);
    }
    return inode;
}

void mount_note_fresh(struct inode *inode, const struct cairn_meta *meta, uint64_t for_us)
{
    inode->fresh_until_us = clock_now_us() + for_us;
    inode->has_fresh_meta = meta != NULL;
    if (meta != NULL) {
        inode->fresh_meta = *meta;
    }
}

bool mount_is_fresh(const struct inode *inode)
{
    return inode->fresh_until_us > 0 && clock_now_us() < inode->fresh_until_us &&
           (inode->has_fresh_meta || inode->is_directory);
}

void mount_set_virtual(struct mount *mount, struct inode *inode, bool is_virtual)
{
    if (inode->is_virtual == is_virtual) {
        return;
    }
    inode->is_virtual = is_virtual;
    if (is_virtual) {
        inode_ref(inode);
        mount->virtual_count++;
    } else {
        mount->virtual_count--;
        inode_unref(&mount->inodes, inode);
    }
}

struct cairn_attributes mount_owner(fuse_req_t request, mode_t mode)
{
    const struct fuse_ctx *context = fuse_req_ctx(request);
    return (struct cairn_attributes){
        .mask = CAIRN_ATTR_MODE | CAIRN_ATTR_UID | CAIRN_ATTR_GID,
        .mode = mode & 07777,
        .uid = context->uid,
        .gid = context->gid,
    };
}

/* --- Attributes */

static struct timespec timespec_of(uint64_t us)
{
    return (struct timespec){ .tv_sec = (time_t)(us / 1000000),
                              .tv_nsec = (long)(us % 1000000) * 1000 };
}

void mount_stat(const struct mount *mount, const struct inode *inode, const struct cairn_meta *meta,
                struct stat *out)
{
    static const struct cairn_meta nothing;
    const struct cairn_meta *known = meta != NULL ? meta : &nothing;
    const struct cairn_attributes *a = &known->attributes;
    bool is_directory = inode->is_directory;
    mode_t permissions = is_directory ? mount->directory_mode : mount->file_mode;
    uint64_t changed_us = meta != NULL ? meta->time_us : mount->started_us;
    bool has_time = (a->mask & CAIRN_ATTR_MTIME) && a->mtime_us != 0;
    *out = (struct stat){
        .st_ino = inode->shown_number,
        .st_mode = (is_directory ? S_IFDIR : S_IFREG) |
                   (a->mask & CAIRN_ATTR_MODE ? a->mode & 07777 : permissions),
        .st_nlink = 1,
        .st_uid = a->mask & CAIRN_ATTR_UID ? a->uid : mount->uid,
        .st_gid = a->mask & CAIRN_ATTR_GID ? a->gid : mount->gid,
        .st_size = is_directory ? 0 : (off_t)known->size,
        .st_blksize = 4096,
        .st_blocks = is_directory ? 0 : (blkcnt_t)((known->size + 511) / 512),
        .st_ctim = timespec_of(changed_us),
        .st_mtim = timespec_of(has_time ? a->mtime_us : changed_us),
    };
    out->st_atim = out->st_mtim;
}

struct data *mount_changed_data(const struct inode *inode)
{
    struct data *data = inode->data;
    bool is_changed = data != NULL && (data_is_dirty(data) || data->is_local || data->is_created ||
                                       data->state == DATA_COMMITTING);
    return is_changed ? data : NULL;
}

struct cairn_meta mount_data_meta(const struct data *data)
{
    struct cairn_meta meta = data->meta;
    data_merge_attributes(&meta.attributes, &data->sent_attributes);
    if (data->changed_us != 0) {
        meta.time_us = data->changed_us;
        meta.attributes.mask &= ~(uint32_t)CAIRN_ATTR_MTIME;
    }
    data_merge_attributes(&meta.attributes, &data->attributes);
    if (data->is_loaded) {
        meta.size = data->size;
    }
    return meta;
}

struct inode *mount_created(struct mount *mount, const struct mapping_path *path)
{
    struct inode *inode = inode_find_path(&mount->inodes, path->text, path->size, false);
    bool is_created =
        inode != NULL && inode->data != NULL && inode->data->is_created && !inode->data->is_local;
    return is_created ? inode : NULL;
}

/* --- The life of an operation */

static void op_interrupted(fuse_req_t request, void *arg)
{
    struct op *op = arg;
    op->is_interrupted = true;
    op->mount->has_interrupts = true;
}

struct op *op_new(fuse_req_t request)
{
    struct op *op = calloc(1, sizeof *op);
    if (op == NULL) {
        abort();
    }
    op->mount = mount_of(request);
    op->request = request;
    op->link = &op->mount->ops;
    op->next = op->mount->ops;
    if (op->next != NULL) {
        op->next->link = &op->next;
    }
    op->mount->ops = op;
    fuse_req_interrupt_func(request, op_interrupted, op);
    return op;
}

void op_free(struct op *op)
{
    *op->link = op->next;
    if (op->next != NULL) {
        op->next->link = op->link;
    }
    data_close(op->data);
    data_close(op->replaced);
    inode_unref(&op->mount->inodes, op->inode);
    free(op->bytes);
    free(op);
}

void op_fail(struct op *op, int error)
{
    fuse_reply_err(op->request, error);
    op_free(op);
}

static void op_cancel(struct op *op)
{
    switch (op->wait) {
    case OP_WAITS_NOT:
        return;
    case OP_WAITS_RESOLVE:
        resolve_cancel(op->resolving);
        return;
    case OP_WAITS_PROBE:
        probe_cancel(&op->probe);
        return;
    case OP_WAITS_REQUEST:
        cairn_cancel(op->mount->cairn, op->request_id);
        return;
    case OP_WAITS_DATA:
        data_cancel(op->awaited, op);
        return;
    case OP_WAITS_DIR:
        dir_cancel(op->dir);
        return;
    }
}

void mount_handle_interrupts(struct mount *mount)
{
    while (mount->has_interrupts) {
        mount->has_interrupts = false;
        struct op *op = mount->ops;
        while (op != NULL && !op->is_interrupted) {
            op = op->next;
        }
        if (op != NULL) {
            /* It may be gone afterwards, and others with it: look again from the front. */
            op->is_interrupted = false;
            mount->has_interrupts = true;
            op_cancel(op);
        }
    }
}

static void commit_all_done(void *arg, int error)
{
    struct data *data = arg;
    struct mount *mount = (struct mount *)((char *)data->pool - offsetof(struct mount, pool));
    if (error != 0) {
        syslog(LOG_ERR, "changes lost path=%s error=%s", data->inode->path, strerror(error));
    }
    mount->background_count--;
    data_close(data);
}

void mount_commit_in_background(struct mount *mount, struct data *data)
{
    mount->background_count++;
    data_commit(data_ref(data), commit_all_done, data);
}

bool mount_commit_all(struct mount *mount)
{
    if (mount->background_count > 0) {
        return true;
    }
    for (struct data *data = mount->pool.all, *next; data != NULL; data = next) {
        next = data->next;
        if (data_is_dirty(data) && !data->is_local && !data->is_conflicted) {
            mount_commit_in_background(mount, data);
        }
    }
    return mount->background_count > 0;
}

/* --- Waiting */

static void take_step(struct op *op, int error)
{
    op->wait = OP_WAITS_NOT;
    op->step(op, error);
}

static void op_step_taken(void *arg, int error)
{
    take_step(arg, error);
}

static void op_resolved(struct resolve *resolve, int error)
{
    take_step(resolve->arg, error);
}

void op_resolve(struct op *op, struct resolve *resolve, op_step step)
{
    op->wait = OP_WAITS_RESOLVE;
    op->resolving = resolve;
    op->step = step;
    resolve_start(resolve, op->mount->cairn, &op->mount->mapping, op_resolved, op);
}

void op_probe(struct op *op, const void *prefix, size_t prefix_size, size_t wanted, op_step step)
{
    op->wait = OP_WAITS_PROBE;
    op->step = step;
    op->probe.mapping = NULL;
    probe_start(&op->probe, op->mount->cairn, prefix, prefix_size, wanted, op_step_taken, op);
}

static void op_answered(void *arg, struct cairn_result *result)
{
    struct op *op = arg;
    op->wait = OP_WAITS_NOT;
    op->answer(op, result);
}

void op_request(struct op *op, const struct cairn_request *request, op_answer answer)
{
    op->wait = OP_WAITS_REQUEST;
    op->answer = answer;
    int status = cairn_submit(op->mount->cairn, request, op_answered, op, &op->request_id);
    if (status != 0) {
        op->wait = OP_WAITS_NOT;
        op->answer(op, &(struct cairn_result){ .status = status });
    }
}

void op_load(struct op *op, struct data *data, op_step step)
{
    op->wait = OP_WAITS_DATA;
    op->awaited = data;
    op->step = step;
    data_load(data, op_step_taken, op);
}

void op_refresh(struct op *op, struct data *data, op_step step)
{
    op->wait = OP_WAITS_DATA;
    op->awaited = data;
    op->step = step;
    data_refresh(data, op_step_taken, op);
}

void op_commit(struct op *op, struct data *data, op_step step)
{
    op->wait = OP_WAITS_DATA;
    op->awaited = data;
    op->step = step;
    data_commit(data, op_step_taken, op);
}

void op_seek(struct op *op, struct dir *dir, uint64_t offset, op_step step)
{
    op->wait = OP_WAITS_DIR;
    op->dir = dir;
    op->step = step;
    dir_seek(dir, offset, op_step_taken, op);
}

/* --- Answers */

void op_reply_attr(struct op *op, struct inode *inode, const struct cairn_meta *meta)
{
    struct stat stat;
    mount_stat(op->mount, inode, meta, &stat);
    fuse_reply_attr(op->request, &stat, 0);
    op_free(op);
}

void op_reply_entry(struct op *op, struct inode *inode, const struct cairn_meta *meta)
{
    struct fuse_entry_param entry = { .ino = inode->number, .generation = 1 };
    mount_stat(op->mount, inode, meta, &entry.attr);
    inode->lookups++;
    if (fuse_reply_entry(op->request, &entry) != 0) {
        inode_forget(&op->mount->inodes, inode, 1);
    }
    op_free(op);
}

bool op_path(struct op *op, struct resolve *resolve, fuse_ino_t parent, const char *name,
             bool is_new)
{
    struct inode *directory = inode_find(&op->mount->inodes, parent);
    int status = directory != NULL && !directory->is_detached ? 0 : -ESTALE;
    if (status == 0) {
        status = mapping_join(directory->path, directory->path_size, name, &resolve->path);
    }
    if (status == 0) {
        status = mapping_path_to_key(&op->mount->mapping, resolve->path.text, resolve->path.size,
                                     &resolve->target);
    }
    if (status != 0) {
        op_fail(op, status == -ENOENT && is_new ? EINVAL : -status);
    }
    return status == 0;
}

/* --- Looking up */

static const struct cairn_meta *fresh_meta(const struct inode *inode)
{
    return inode->has_fresh_meta ? &inode->fresh_meta : NULL;
}

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
        if (inode != NULL && mount_is_fresh(inode) && mount_changed_data(inode) == NULL) {
            op_reply_entry(op, inode, fresh_meta(inode));
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
        mount_note_fresh(inode, marker, LOOKUP_FRESH_US);
        op_reply_entry(op, inode, marker);
        return;
    }
    struct data *data = mount_changed_data(inode);
    struct cairn_meta meta = data != NULL ? mount_data_meta(data) : found->value_meta;
    mount_note_fresh(inode, &found->value_meta, LOOKUP_FRESH_US);
    if (inode->data != NULL) {
        data_note_version(inode->data, found->value_meta.version);
    }
    op_reply_entry(op, inode, &meta);
}

static void ops_lookup(fuse_req_t request, fuse_ino_t parent, const char *name)
{
    struct op *op = op_new(request);
    if (op_path(op, &op->source, parent, name, false) && !lookup_known(op)) {
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

/* --- Attributes */

static void getattr_directory(struct op *op, int error)
{
    struct resolve *found = &op->source;
    bool is_there = found->kind == RESOLVE_DIRECTORY || op->inode->is_virtual;
    if (error != 0 || !is_there) {
        op_fail(op, error != 0 ? error : ENOENT);
        return;
    }
    op_reply_attr(op, op->inode, found->has_marker ? &found->marker_meta : NULL);
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

static void ops_getattr(fuse_req_t request, fuse_ino_t number, struct fuse_file_info *file)
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
        op_reply_attr(op, inode, fresh_meta(inode));
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

static void ops_setattr(fuse_req_t request, fuse_ino_t number, struct stat *stat, int to_set,
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

static void ops_getxattr(fuse_req_t request, fuse_ino_t number, const char *name, size_t size)
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

static void ops_listxattr(fuse_req_t request, fuse_ino_t number, size_t size)
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

static void ops_setxattr(fuse_req_t request, fuse_ino_t number, const char *name, const char *value,
                         size_t size, int flags)
{
    fuse_reply_err(request, EOPNOTSUPP);
}

static void ops_removexattr(fuse_req_t request, fuse_ino_t number, const char *name)
{
    fuse_reply_err(request, EOPNOTSUPP);
}

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

static void ops_opendir(fuse_req_t request, fuse_ino_t number, struct fuse_file_info *file)
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

static void ops_releasedir(fuse_req_t request, fuse_ino_t number, struct fuse_file_info *file)
{
    dir_close((struct dir *)(uintptr_t)file->fh);
    fuse_reply_err(request, 0);
}

static void ops_fsyncdir(fuse_req_t request, fuse_ino_t number, int only_data,
                         struct fuse_file_info *file)
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
        mount_note_fresh(inode, meta, LISTING_FRESH_US);
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

static void ops_readdir(fuse_req_t request, fuse_ino_t number, size_t size, off_t offset,
                        struct fuse_file_info *file)
{
    readdir_start(request, number, size, offset, file, false);
}

static void ops_readdirplus(fuse_req_t request, fuse_ino_t number, size_t size, off_t offset,
                            struct fuse_file_info *file)
{
    readdir_start(request, number, size, offset, file, true);
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
     * at open, so the kernel needn't ask for attributes at every read either. */
    connection->want &=
        ~(unsigned)(FUSE_CAP_WRITEBACK_CACHE | FUSE_CAP_AUTO_INVAL_DATA | FUSE_CAP_SPLICE_READ |
                    FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE | FUSE_CAP_POSIX_LOCKS |
                    FUSE_CAP_FLOCK_LOCKS);
    connection->want |= connection->capable & (FUSE_CAP_ATOMIC_O_TRUNC | FUSE_CAP_READDIRPLUS |
                                               FUSE_CAP_READDIRPLUS_AUTO | FUSE_CAP_ASYNC_READ |
                                               FUSE_CAP_PARALLEL_DIROPS);
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
