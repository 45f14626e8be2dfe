/* Names on the simulated disk: the two tables, the journal between them, and the calls on directories (disk.c says how they hang
 * together). */
#include <stdlib.h>

#include "base/check.h"
#include "base/mem.h"
#include "sim/disk_private.h"

/* --- Tables and journal */

struct name *names_find(const struct names *names, const char *path)
{
    for (size_t i = 0; i < names->count; i++) {
        if (strcmp(names->items[i].path, path) == 0) {
            return &names->items[i];
        }
    }
    return NULL;
}

void names_remove(struct disk *disk, struct names *names, const char *path)
{
    struct name *name = names_find(names, path);
    if (name) {
        mem_free(name->path);
        if (name->inode && names == &disk->durable) {
            name->inode->durable_names--;
        }
        inode_unref(disk, name->inode);
        *name = names->items[--names->count];
    }
}

void names_put(struct disk *disk, struct names *names, const char *path, struct inode *inode)
{
    names_remove(disk, names, path);
    if (names->count == names->capacity) {
        names->capacity = names->capacity ? names->capacity * 2 : 16;
        names->items = mem_realloc(names->items, names->capacity * sizeof *names->items);
    }
    if (inode) {
        inode->references++;
        inode->durable_names += names == &disk->durable;
    }
    names->items[names->count++] = (struct name){ mem_strdup(path), inode };
}

void names_fini(struct disk *disk, struct names *names)
{
    while (names->count > 0) {
        names_remove(disk, names, names->items[names->count - 1].path);
    }
    mem_free(names->items);
    *names = (struct names){ 0 };
}

static size_t parent_length(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? (size_t)(slash - path) : 0;
}

static bool is_child(const char *path, const char *directory)
{
    size_t size = strlen(directory);
    return parent_length(path) == size && strncmp(path, directory, size) == 0;
}

void disk_operation_fini(struct disk *disk, struct operation *operation)
{
    mem_free(operation->gone);
    mem_free(operation->come);
    inode_unref(disk, operation->inode);
}

void disk_operation_apply(struct disk *disk, struct names *names, const struct operation *operation)
{
    if (operation->gone) {
        names_remove(disk, names, operation->gone);
    }
    if (operation->come) {
        names_put(disk, names, operation->come, operation->inode);
    }
}

void disk_operate(struct disk *disk, const char *gone, const char *come, struct inode *inode)
{
    if (disk->journal_count == disk->journal_capacity) {
        disk->journal_capacity = disk->journal_capacity ? disk->journal_capacity * 2 : 16;
        disk->journal = mem_realloc(disk->journal, disk->journal_capacity * sizeof *disk->journal);
    }
    struct operation *operation = &disk->journal[disk->journal_count++];
    *operation =
        (struct operation){ gone ? mem_strdup(gone) : NULL, come ? mem_strdup(come) : NULL, inode };
    if (inode) {
        inode->references++;
    }
    disk_operation_apply(disk, &disk->now, operation);
}

/* After a power loss a name is reachable only if the directory that it stands in is. */
bool names_is_reachable(const struct names *names, const char *path)
{
    char parent[512];
    size_t size = parent_length(path);
    if (size == 0) {
        return true;
    }
    CHECK(size < sizeof parent);
    memcpy(parent, path, size);
    parent[size] = 0;
    const struct name *name = names_find(names, parent);
    return name && !name->inode && names_is_reachable(names, parent);
}

/* --- The calls */

int disk_rename(struct disk *disk, const char *from, const char *to, struct err *err)
{
    struct name *name = names_find(&disk->now, from);
    if (!name || !names_is_reachable(&disk->now, to)) {
        return err_set(err, ERR_NOT_FOUND, "%s: no such file or directory", name ? to : from);
    }
    CHECK(name->inode != NULL); /* directories are not renamed by anybody */
    if (disk_is_dying(disk)) {
        return disk_fail_dying(err);
    }
    disk_operate(disk, from, to, name->inode);
    return 0;
}

int disk_remove(struct disk *disk, const char *path, struct err *err)
{
    if (!names_find(&disk->now, path)) {
        return err_set(err, ERR_NOT_FOUND, "%s: no such file or directory", path);
    }
    if (disk_is_dying(disk)) {
        return disk_fail_dying(err);
    }
    disk_operate(disk, path, NULL, NULL);
    return 0;
}

int disk_dir_make(struct disk *disk, const char *path, struct err *err)
{
    char part[512];
    if (strlen(path) >= sizeof part) {
        return err_set(err, ERR_IO, "%s: file name too long", path);
    }
    for (size_t i = 1; i <= strlen(path); i++) {
        if (path[i] != '/' && path[i] != 0) {
            continue;
        }
        memcpy(part, path, i);
        part[i] = 0;
        struct name *name = names_find(&disk->now, part);
        if (name && name->inode) {
            return err_set(err, ERR_IO, "%s: is a file", part);
        }
        if (!name) {
            if (disk_is_dying(disk)) {
                return disk_fail_dying(err);
            }
            disk_operate(disk, NULL, part, NULL);
        }
    }
    return 0;
}

int disk_dir_sync(struct disk *disk, const char *path, struct err *err)
{
    if (!names_find(&disk->now, path)) {
        return err_set(err, ERR_NOT_FOUND, "%s: no such directory", path);
    }
    if (disk_is_dying(disk)) {
        return disk_fail_dying(err);
    }
    if (disk->faults.lies) {
        return 0;
    }
    size_t kept = 0;
    for (size_t i = 0; i < disk->journal_count; i++) {
        struct operation *operation = &disk->journal[i];
        if ((operation->gone && is_child(operation->gone, path)) ||
            (operation->come && is_child(operation->come, path))) {
            disk_operation_apply(disk, &disk->durable, operation);
            disk_operation_fini(disk, operation);
        } else {
            disk->journal[kept++] = *operation;
        }
    }
    disk->journal_count = kept;
    return 0;
}

static int compare_paths(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

int disk_dir_list(struct disk *disk, const char *path, void (*each)(void *ctx, const char *name),
                  void *ctx, struct err *err)
{
    const struct name *directory = names_find(&disk->now, path);
    if (!directory || directory->inode) {
        return err_set(err, ERR_NOT_FOUND, "%s: no such directory", path);
    }
    char **paths = mem_alloc((disk->now.count + 1) * sizeof *paths);
    size_t count = 0;
    for (size_t i = 0; i < disk->now.count; i++) {
        if (is_child(disk->now.items[i].path, path)) {
            paths[count++] = mem_strdup(disk->now.items[i].path); /* `each` may remove it */
        }
    }
    qsort(paths, count, sizeof *paths, compare_paths);
    for (size_t i = 0; i < count; i++) {
        each(ctx, strrchr(paths[i], '/') + 1);
        mem_free(paths[i]);
    }
    mem_free(paths);
    return 0;
}

int disk_dir_lock(struct disk *disk, const char *path, struct err *err)
{
    size_t slots = sizeof disk->locked / sizeof disk->locked[0];
    for (size_t i = 0; i < slots; i++) {
        if (disk->locked[i] && strcmp(disk->locked[i], path) == 0) {
            return err_set(err, ERR_BUSY, "%s: locked by another process", path);
        }
    }
    for (size_t i = 0; i < slots; i++) {
        if (!disk->locked[i]) {
            disk->locked[i] = mem_strdup(path);
            return 0;
        }
    }
    return err_set(err, ERR_IO, "too many locked directories");
}
