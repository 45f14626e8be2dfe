/* How an operation runs, and what the mount keeps.
 *
 * A handler never waits. What it needs from the cluster it asks for and returns; the answer calls
 * the next step, and the last step answers the kernel. An operation waits for one thing at a time
 * (op.wait), so that an interrupt knows what to end.
 *
 * An interrupt is only noted while libfuse delivers it, and acted on afterwards: ending a wait may
 * answer the operation, which must not happen inside libfuse's own bookkeeping of it.
 */
#include "op.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>
#include <time.h>

enum { DIRTY_BYTES_MAX = 256 << 20 };

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

static uint64_t clock_now_us(void)
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
    inode->is_listed = false;
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

const struct cairn_meta *mount_fresh_meta(const struct inode *inode)
{
    return inode->has_fresh_meta ? &inode->fresh_meta : NULL;
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
