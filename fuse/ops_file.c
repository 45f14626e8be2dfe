/* The kernel's operations on open files.
 *
 * open   O_TRUNC: an empty buffer that rests on nothing. Otherwise the value is read, or found to
 * be still the newest. create With O_EXCL the empty value is stored at once, if absent: that is
 * what makes lock files work. Without, nothing is stored before the first flush, so that nobody
 * sees an empty file where a full one is meant; until then the file exists in this mount only.
 * flush  (every close of a descriptor) and fsync commit; they answer when a majority has it
 * durable.
 */
#include "op.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DESCRIPTORS_MAX = 256 }; /* looked at for a second one on the same file */

/* --- Open */

static bool is_writable(const struct fuse_file_info *file)
{
    return (file->flags & O_ACCMODE) != O_RDONLY;
}

/* Makes the handle; it takes over the operation's reference to the data. */
static void make_handle(struct op *op)
{
    struct handle *handle = calloc(1, sizeof *handle);
    if (handle == NULL) {
        abort();
    }
    handle->data = op->data;
    handle->is_append = (op->file.flags & O_APPEND) != 0;
    op->data = NULL;
    op->file.fh = (uintptr_t)handle;
    op->file.keep_cache = 0;
    /* The kernel places appended bytes by its own idea of the size, so they must not get into its
     * pages. */
    op->file.direct_io = handle->is_append;
    op->file.noflush = !is_writable(&op->file);
}

static void free_handle(struct handle *handle)
{
    data_close(handle->data);
    free(handle);
}

static void open_reply(struct op *op)
{
    make_handle(op);
    struct handle *handle = (struct handle *)(uintptr_t)op->file.fh;
    if (fuse_reply_open(op->request, &op->file) != 0) {
        free_handle(handle);
    }
    op_free(op);
}

static void open_refreshed(struct op *op, int error)
{
    if (error != 0) {
        /* The kernel answers ESTALE by looking up again: that must not be answered from memory. */
        op->inode->fresh_until_us = 0;
        op_fail(op, error);
        return;
    }
    /* An older size would cut what is read now. */
    if (op->data->has_meta) {
        mount_note_fresh(op->inode, &op->data->meta, FRESH_SHORT_US);
    } else {
        op->inode->fresh_until_us = 0;
    }
    open_reply(op);
}

/* A truncated file's record is known from the lookup before, if that is not long ago. */
static void replace(struct op *op, struct data *data)
{
    if (!data->has_meta && mount_is_fresh(op->inode)) {
        data->meta = op->inode->fresh_meta;
        data->has_meta = true;
    }
    data_replace(data, clock_wall_us());
}

void ops_open(fuse_req_t request, fuse_ino_t number, struct fuse_file_info *file)
{
    struct mount *mount = mount_of(request);
    struct mapping_target target;
    struct inode *inode = mount_inode(request, number);
    if (inode == NULL) {
        return;
    }
    int status = mapping_path_to_key(&mount->mapping, inode->path, inode->path_size, &target);
    if (status != 0 || (inode->is_detached && inode->data == NULL)) {
        fuse_reply_err(request, status != 0 ? -status : ESTALE);
        return;
    }
    struct op *op = op_new(request);
    op->inode = inode_ref(inode);
    op->file = *file;
    op->data = data_open(&mount->pool, inode, target.key, target.key_size);
    if ((file->flags & O_TRUNC) && is_writable(file)) {
        replace(op, op->data);
        open_reply(op);
    } else {
        op_refresh(op, op->data, open_refreshed);
    }
}

/* --- Create */

static struct inode *create_inode(struct op *op)
{
    const struct mapping_path *path = &op->source.path;
    struct inode *inode = inode_at_path(&op->mount->inodes, path->text, path->size, false);
    op->inode = inode_ref(inode);
    inode->fresh_until_us = 0;
    op->data =
        data_open(&op->mount->pool, inode, op->source.target.key, op->source.target.key_size);
    return inode;
}

static void create_reply(struct op *op)
{
    struct inode *inode = op->inode;
    struct cairn_meta meta = mount_data_meta(op->data);
    struct fuse_entry_param entry = { .ino = inode->number, .generation = 1 };
    mount_stat(op->mount, inode, &meta, &entry.attr);
    make_handle(op);
    struct handle *handle = (struct handle *)(uintptr_t)op->file.fh;
    inode->lookups++;
    if (fuse_reply_create(op->request, &entry, &op->file) != 0) {
        inode_forget(&op->mount->inodes, inode, 1);
        free_handle(handle);
    }
    op_free(op);
}

/* The empty value stands in the cluster: what is written from here on rests on it. */
static void take_created(struct data *data, const struct cairn_result *result,
                         const struct cairn_attributes *attributes)
{
    data->is_loaded = data->has_meta = true;
    data->size = data->base_size = 0;
    data->change = DATA_CLEAN;
    data->base_version = result->meta.version;
    data->meta = (struct cairn_meta){
        .version = result->meta.version,
        .time_us = result->meta.time_us,
        .attributes = *attributes,
    };
}

static void exclusive_put(struct op *op, enum cairn_condition condition, uint64_t version);

/* In the place of a hidden marker ("a/", shown as "a/%E") a file can be created: the key loses its
 * flag. */
static void exclusive_marker(struct op *op, struct cairn_result *result)
{
    if (result->status == 0 && key_is_marker(&result->meta)) {
        op->attempts++;
        exclusive_put(op, CAIRN_IF_VERSION, result->meta.version);
        return;
    }
    op_fail(op, result->status == 0 ? EEXIST : data_errno(result->status));
}

static void exclusive_done(struct op *op, struct cairn_result *result)
{
    const struct mapping_target *target = &op->source.target;
    if (result->status == CAIRN_EXISTS && target->key[target->key_size - 1] == '/' &&
        op->attempts == 0) {
        struct cairn_request ask = {
            .verb = CAIRN_GET_META,
            .key = target->key,
            .key_size = target->key_size,
        };
        op_request(op, &ask, exclusive_marker);
        return;
    }
    if (result->status != 0) {
        op_fail(op, result->status == CAIRN_CONDITION_FAILED ? EEXIST : data_errno(result->status));
        return;
    }
    struct inode *inode = create_inode(op);
    take_created(op->data, result, &op->attributes);
    if (op->flags & O_CREAT) {
        create_reply(op);
    } else {
        struct cairn_meta meta = mount_data_meta(op->data);
        op_reply_entry(op, inode, &meta);
    }
}

static void exclusive_put(struct op *op, enum cairn_condition condition, uint64_t version)
{
    struct cairn_request put = {
        .verb = CAIRN_PUT,
        .key = op->source.target.key,
        .key_size = op->source.target.key_size,
        .condition = condition,
        .version = version,
        .attributes = op->attributes,
    };
    op_request(op, &put, exclusive_done);
}

/* What a new file's record says; false after the operation failed. */
static bool create_prepare(struct op *op, fuse_ino_t parent, const char *name, mode_t mode)
{
    if (!op_path(op, &op->source, parent, name, true)) {
        return false;
    }
    const struct mapping_target *target = &op->source.target;
    if (target->kind != MAPPING_PLAIN || target->key_size == 0) {
        op_fail(op, EINVAL);
        return false;
    }
    op->attributes = mount_owner(op->request, mode);
    if (target->key[target->key_size - 1] == '/') {
        op->attributes.mask |= CAIRN_ATTR_FLAGS;
    }
    return true;
}

void ops_create(fuse_req_t request, fuse_ino_t parent, const char *name, mode_t mode,
                struct fuse_file_info *file)
{
    struct op *op = op_new(request);
    op->file = *file;
    op->flags = O_CREAT;
    if (!create_prepare(op, parent, name, mode)) {
        return;
    }
    struct inode *created = mount_created(op->mount, &op->source.path);
    if ((file->flags & O_EXCL) && created != NULL) {
        op_fail(op, EEXIST);
        return;
    }
    if (file->flags & O_EXCL) {
        exclusive_put(op, CAIRN_IF_ABSENT, 0);
        return;
    }
    create_inode(op);
    if (created == NULL) {
        struct data *data = op->data;
        data->is_created = true;
        data->is_local = false;
        data->has_meta = false;
        data_replace(data, clock_wall_us());
        data_set_attributes(data, &op->attributes);
    } else if (file->flags & O_TRUNC) {
        data_replace(op->data, clock_wall_us());
    }
    create_reply(op);
}

void ops_mknod(fuse_req_t request, fuse_ino_t parent, const char *name, mode_t mode, dev_t device)
{
    if (!S_ISREG(mode)) {
        fuse_reply_err(request, EPERM);
        return;
    }
    struct op *op = op_new(request);
    if (create_prepare(op, parent, name, mode)) {
        exclusive_put(op, CAIRN_IF_ABSENT, 0);
    }
}

/* --- Read and write */

static struct data *data_of(const struct fuse_file_info *file)
{
    return ((const struct handle *)(uintptr_t)file->fh)->data;
}

static void reply_bytes(fuse_req_t request, const struct data *data, size_t size, off_t offset)
{
    size_t from = offset < 0 || (uint64_t)offset > data->size ? data->size : (size_t)offset;
    size_t count = data->size - from < size ? data->size - from : size;
    fuse_reply_buf(request, (const char *)data->bytes + from, count);
}

static void read_loaded(struct op *op, int error)
{
    if (error != 0) {
        op_fail(op, error);
        return;
    }
    reply_bytes(op->request, op->data, op->size, op->offset);
    op_free(op);
}

void ops_read(fuse_req_t request, fuse_ino_t number, size_t size, off_t offset,
              struct fuse_file_info *file)
{
    struct data *data = data_of(file);
    if (data->is_loaded) {
        reply_bytes(request, data, size, offset);
        return;
    }
    struct op *op = op_new(request);
    op->data = data_ref(data);
    op->size = size;
    op->offset = offset;
    op_load(op, data, read_loaded);
}

static int write_bytes(struct data *data, bool is_append, const void *bytes, size_t size,
                       off_t offset)
{
    uint64_t now_us = clock_wall_us();
    data->inode->fresh_until_us = 0;
    if (offset < 0) {
        return EINVAL;
    }
    return is_append ? data_append(data, bytes, size, now_us)
                     : data_write(data, (size_t)offset, bytes, size, now_us);
}

static void write_loaded(struct op *op, int error)
{
    if (error == 0) {
        error = write_bytes(op->data, op->file.flags & O_APPEND, op->bytes, op->size, op->offset);
    }
    if (error != 0) {
        op_fail(op, error);
        return;
    }
    fuse_reply_write(op->request, op->size);
    op_free(op);
}

void ops_write(fuse_req_t request, fuse_ino_t number, const char *bytes, size_t size, off_t offset,
               struct fuse_file_info *file)
{
    const struct handle *handle = (const struct handle *)(uintptr_t)file->fh;
    struct data *data = handle->data;
    if (data->is_loaded) {
        int error = write_bytes(data, handle->is_append, bytes, size, offset);
        if (error != 0) {
            fuse_reply_err(request, error);
        } else {
            fuse_reply_write(request, size);
        }
        return;
    }
    struct op *op = op_new(request);
    op->data = data_ref(data);
    op->file.flags = handle->is_append ? O_APPEND : 0;
    op->offset = offset;
    op->size = size;
    op->bytes = malloc(size + 1);
    if (op->bytes == NULL) {
        op_fail(op, ENOMEM);
        return;
    }
    memcpy(op->bytes, bytes, size);
    op_load(op, data, write_loaded);
}

/* --- Commit */

/* True when this descriptor's file description refers to the node. */
static bool descriptor_is_of(const char *folder, const char *name, uint64_t shown_number)
{
    char path[320], line[128];
    bool is_same = false;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        return false;
    }
    while (!is_same && fgets(line, sizeof line, file) != NULL) {
        unsigned long long number;
        is_same = sscanf(line, "ino:\t%llu", &number) == 1 && number == shown_number;
    }
    fclose(file);
    return is_same;
}

/* A shell's `echo x >file` opens the file, makes a copy of the descriptor and closes the first,
 * before anything is written. A commit there would show everybody an empty file. So it is left to
 * the flush of the copy, if there is one: the closing process still has a descriptor on the same
 * file. (The one being closed is no longer in its table.) When that can't be found out, commit. */
static bool is_open_elsewhere(pid_t process, uint64_t shown_number)
{
    char folder[64];
    bool is_found = false;
    if (process <= 0) {
        return false;
    }
    snprintf(folder, sizeof folder, "/proc/%ld/fdinfo", (long)process);
    DIR *listing = opendir(folder);
    if (listing == NULL) {
        return false;
    }
    const struct dirent *entry;
    for (int i = 0; !is_found && i < DESCRIPTORS_MAX && (entry = readdir(listing)) != NULL; i++) {
        is_found = entry->d_name[0] != '.' && descriptor_is_of(folder, entry->d_name, shown_number);
    }
    closedir(listing);
    return is_found;
}

static void committed(struct op *op, int error)
{
    op_fail(op, error);
}

static void commit(fuse_req_t request, struct data *data)
{
    bool is_clean =
        !data_is_dirty(data) && data->state != DATA_COMMITTING && data->state != DATA_RECONCILING;
    data->inode->fresh_until_us = 0;
    if (is_clean || data->is_local) {
        fuse_reply_err(request, 0);
        return;
    }
    struct op *op = op_new(request);
    op->data = data_ref(data);
    op_commit(op, data, committed);
}

void ops_flush(fuse_req_t request, fuse_ino_t number, struct fuse_file_info *file)
{
    struct data *data = data_of(file);
    bool is_untouched = data->change == DATA_REPLACED && data->size == 0;
    if (is_untouched && !data->is_local &&
        is_open_elsewhere(fuse_req_ctx(request)->pid, data->inode->shown_number)) {
        fuse_reply_err(request, 0);
        return;
    }
    commit(request, data);
}

void ops_fsync(fuse_req_t request, fuse_ino_t number, int only_data, struct fuse_file_info *file)
{
    commit(request, data_of(file));
}

/* What is dirty here came after the last flush (a mapping's pages) or failed to be committed by it;
 * nobody waits for it. */
void ops_release(fuse_req_t request, fuse_ino_t number, struct fuse_file_info *file)
{
    struct handle *handle = (struct handle *)(uintptr_t)file->fh;
    struct data *data = handle->data;
    if (data->references == 1 && data_is_dirty(data) && !data->is_local && !data->is_conflicted) {
        mount_commit_in_background(mount_of(request), data);
    }
    free_handle(handle);
    fuse_reply_err(request, 0);
}
