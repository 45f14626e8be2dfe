/* The calls on files of the simulated disk, and the faults that strike them: they fail, or the process dies in them. */
#include "base/check.h"
#include "base/mem.h"
#include "sim/disk_private.h"

/* --- Faults */

bool disk_is_dying(struct disk *disk)
{
    struct disk_faults *faults = &disk->faults;
    if (!faults->dying && faults->die_in > 0 && --faults->die_in == 0) {
        faults->dying = true;
    }
    return faults->dying;
}

static bool is_struck(uint32_t *countdown)
{
    return *countdown > 0 && --*countdown == 0;
}

int disk_fail_dying(struct err *err)
{
    return err_set(err, ERR_IO, "the process is dying");
}

static bool has_room(struct disk *disk, uint64_t more)
{
    if (more <= disk_room(disk)) {
        return true;
    }
    disk->stats.refused_full++;
    return false;
}

/* --- The calls */

static int open_inode(struct disk *disk, const char *path, int flags, struct inode **out,
                      struct err *err)
{
    struct name *name = names_find(&disk->now, path);
    if (name) {
        if (flags & ENV_FILE_EXCLUSIVE) {
            return err_set(err, ERR_EXISTS, "%s: exists", path);
        }
        if (!name->inode) {
            return err_set(err, ERR_IO, "%s: is a directory", path);
        }
        *out = name->inode;
        return 0;
    }
    if (!(flags & ENV_FILE_CREATE) || !names_is_reachable(&disk->now, path)) {
        return err_set(err, ERR_NOT_FOUND, "%s: no such file or directory", path);
    }
    if (disk_is_dying(disk)) {
        return disk_fail_dying(err);
    }
    struct inode *inode = MEM_NEW(struct inode);
    inode->disk = disk;
    inode->is_segment = strstr(path, "/log/") != NULL && strstr(path, "votes") == NULL;
    disk_operate(disk, NULL, path, inode);
    *out = inode;
    return 0;
}

int disk_file_open(struct disk *disk, const char *path, int flags, struct env_file **out,
                   struct err *err)
{
    struct inode *inode = NULL;
    int status = open_inode(disk, path, flags, &inode, err);
    if (status) {
        return status;
    }
    struct env_file *file = MEM_NEW(struct env_file);
    file->disk = disk;
    file->inode = inode;
    file->is_writable = (flags & ENV_FILE_WRITE) != 0;
    inode->references++;
    list_append(&disk->files, &file->link);
    *out = file;
    return 0;
}

int disk_file_read(struct env_file *file, uint64_t offset, void *out, size_t size, size_t *got,
                   struct err *err)
{
    if (!file->disk || file->disk->faults.dying) {
        return disk_fail_dying(err);
    }
    uint64_t left = offset < file->inode->size ? file->inode->size - offset : 0;
    size_t part = size < left ? size : (size_t)left;
    inode_read(file->inode, offset, out, part);
    *got = part;
    return 0;
}

/* How much of a write that is cut off happens: it ends with a sector (systems copy by pages). */
static size_t cut_write(struct disk *disk, uint64_t offset, size_t size)
{
    uint64_t end = (offset + random_below(&disk->random, size + 1)) / SECTOR_BYTES * SECTOR_BYTES;
    return end > offset ? (size_t)(end - offset) : 0;
}

int disk_file_write(struct env_file *file, uint64_t offset, const void *data, size_t size,
                    struct err *err)
{
    struct disk *disk = file->disk;
    if (!disk || disk->faults.dying) {
        return disk_fail_dying(err);
    }
    CHECK(file->is_writable);
    struct inode *inode = file->inode;
    uint64_t end = offset + size;
    if (end > inode->size && !has_room(disk, end - inode->size)) {
        return err_set(err, ERR_DISK_FULL, "no space left on device");
    }
    bool dies = disk_is_dying(disk);
    bool fails = is_struck(&disk->faults.fail_write_in);
    size_t part = dies || fails ? cut_write(disk, offset, size) : size;
    if (part > 0) {
        if (offset + part > inode->size) {
            inode->size = offset + part;
        }
        bool is_whole = offset % SECTOR_BYTES == 0 && part % SECTOR_BYTES == 0;
        if (inode->is_segment && is_whole && is_struck(&disk->faults.misdirect_in)) {
            disk_note_astray(disk, inode, offset, data, part);
        }
        inode_write(inode, offset, data, part);
        if (inode->is_segment) {
            disk_note_log_write(disk, inode, offset, part);
        }
        disk->last_inode = inode;
        disk->last_sector = (offset + part - 1) / SECTOR_BYTES;
    }
    disk->stats.writes++;
    disk->stats.bytes += part;
    if (fails) {
        disk->stats.writes_failed++;
        return err_set(err, ERR_IO, "write: input/output error");
    }
    return dies ? disk_fail_dying(err) : 0;
}

int disk_file_sync(struct env_file *file, struct err *err)
{
    struct disk *disk = file->disk;
    if (!disk || disk->faults.dying || disk_is_dying(disk)) {
        return disk_fail_dying(err);
    }
    disk->stats.syncs++;
    if (disk->faults.lies) {
        return 0;
    }
    bool fails = is_struck(&disk->faults.fail_sync_in);
    inode_sync(disk, file->inode, fails);
    if (fails) {
        disk->stats.syncs_failed++;
        return err_set(err, ERR_IO, "fdatasync: input/output error");
    }
    disk_settle_astray(disk, file->inode);
    return 0;
}

int disk_file_size(struct env_file *file, uint64_t *out, struct err *err)
{
    if (!file->disk) {
        return disk_fail_dying(err);
    }
    *out = file->inode->size;
    return 0;
}

int disk_file_resize(struct env_file *file, uint64_t size, struct err *err)
{
    struct disk *disk = file->disk;
    if (!disk || disk->faults.dying || disk_is_dying(disk)) {
        return disk_fail_dying(err);
    }
    struct inode *inode = file->inode;
    if (size > inode->size && !has_room(disk, size - inode->size)) {
        return err_set(err, ERR_DISK_FULL, "no space left on device");
    }
    if (size < inode->size) {
        inode_write(inode, size, NULL, (size_t)(inode->size - size));
    }
    inode->size = size;
    return 0;
}

bool disk_file_is_durable(const struct env_file *file, uint64_t offset, uint64_t size)
{
    const struct inode *inode = file->inode;
    const struct disk *disk = file->disk;
    bool is_durable = disk && inode->durable_names > 0 && offset + size <= inode->durable_size;
    for (uint64_t at = offset / SECTOR_BYTES; is_durable && at * SECTOR_BYTES < offset + size;
         at++) {
        const struct chunk *chunk =
            at / CHUNK_SECTORS < inode->chunk_count ? inode->chunks[at / CHUNK_SECTORS] : NULL;
        is_durable = !chunk || !(chunk->dirty >> at % CHUNK_SECTORS & 1);
    }
    return is_durable;
}

void disk_file_close(struct env_file *file)
{
    if (file->disk) {
        list_remove(&file->link);
        inode_unref(file->disk, file->inode);
    }
    mem_free(file);
}
