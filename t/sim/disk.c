/* The disk of one simulated machine.
 *
 * A file is an inode with its content in 16 KiB chunks (absent ones are zeroes, so preallocating
 * costs nothing). The content is what the page cache shows. The first write to a clean sector saves
 * what the sector held in the chunk's shadow: the shadow is the durable content of unsynced
 * sectors. A sync forgets shadows; a power loss puts them back, sector by sector, by the dice.
 *
 * Runs that write large values spend their time copying, so what need not be copied is not: the
 * shadow of a chunk that did not exist is one page of zeroes for all (I4), and a clean chunk that is
 * overwritten whole becomes its own shadow. Buffers go round in a pool.
 *
 * Names live in two tables: what the running system sees and what is durable; between them stands
 * the journal of directory operations not yet synced. A directory sync carries that directory's
 * operations over; a power loss carries a prefix over.
 *
 * Invariants
 *   I1  a chunk has a shadow exactly when its dirty mask is not 0; stuck is a subset of dirty.
 *   I2  inode->dirty lists every chunk that has a shadow, once.
 *   I3  an inode lives while a table, the journal or a handle refers to it.
 *   I4  a shadow that is `zeroes` belongs to a chunk all of whose durable content is zeroes, so it
 *       is right for every sector; it is never written to.
 *
 * A torn sector is new up to a multiple of 8 bytes and old behind: no device has been seen to do
 * finer.
 *
 * After a failed sync a sector in doubt is `stuck`: the cache shows it as clean, later syncs don't
 * write it, and a power loss takes it away; only writing it anew helps. That is what Linux does
 * (see "fsyncgate", 2018).
 *
 * Here: the disk as a whole, its room and the loss of power. disk_inode.c has contents (I1, I2, I4), disk_names.c
 * names and the journal, disk_file.c the file calls, disk_rot.c what goes wrong in sectors that are durable, disk_image.c copies of
 * whole disks. */
#include <sys/stat.h>

#include "base/check.h"
#include "base/mem.h"
#include "sim/disk_private.h"

struct disk *disk_new(uint64_t seed, uint64_t capacity_bytes)
{
    struct disk *disk = MEM_NEW(struct disk);
    disk->random = random_stream(seed, 0xd15c);
    disk->capacity_bytes = capacity_bytes;
    list_init(&disk->files);
    return disk;
}

void disk_free(struct disk *disk)
{
    if (!disk) {
        return;
    }
    disk_process_ended(disk);
    for (size_t i = 0; i < disk->journal_count; i++) {
        disk_operation_fini(disk, &disk->journal[i]);
    }
    mem_free(disk->journal);
    names_fini(disk, &disk->now);
    names_fini(disk, &disk->durable);
    while (disk->spares) {
        struct spare *spare = disk->spares;
        disk->spares = spare->next;
        mem_free(spare);
    }
    mem_free(disk->outside);
    mem_free(disk);
}

void disk_prepare(struct disk *disk, const char *path)
{
    CHECK(disk_dir_make(disk, path, NULL) == 0);
    for (size_t i = 0; i < disk->journal_count; i++) {
        disk_operation_apply(disk, &disk->durable, &disk->journal[i]);
        disk_operation_fini(disk, &disk->journal[i]);
    }
    disk->journal_count = 0;
}

struct disk_faults *disk_faults(struct disk *disk)
{
    return &disk->faults;
}

const struct disk_stats *disk_stats(const struct disk *disk)
{
    return &disk->stats;
}

void disk_process_ended(struct disk *disk)
{
    struct list *link;
    while ((link = list_take_first(&disk->files)) != NULL) {
        struct env_file *file = container_of(link, struct env_file, link);
        file->disk = NULL;
        inode_unref(disk, file->inode);
        file->inode = NULL;
    }
    for (size_t i = 0; i < sizeof disk->locked / sizeof disk->locked[0]; i++) {
        mem_free(disk->locked[i]);
        disk->locked[i] = NULL;
    }
    disk->faults.die_in = 0;
    disk->faults.dying = false;
    disk->astray.inode = NULL; /* it would have to be told from a torn write */
}

void disk_calm(struct disk *disk)
{
    struct disk_faults *faults = &disk->faults;
    faults->misdirect_in = faults->fail_sync_in = faults->fail_write_in = 0;
    disk->astray.inode = NULL;
}

void disk_power_loss(struct disk *disk, bool torn)
{
    static const uint8_t keep_percents[] = { 0, 0, 10, 50, 90, 100 };
    uint32_t keep = keep_percents[random_below(&disk->random, sizeof keep_percents)];
    disk_process_ended(disk);
    size_t prefix = random_below(&disk->random, disk->journal_count + 1);
    for (size_t i = 0; i < disk->journal_count; i++) {
        if (i < prefix) {
            disk_operation_apply(disk, &disk->durable, &disk->journal[i]);
        } else {
            disk->stats.names_lost++;
        }
        disk_operation_fini(disk, &disk->journal[i]);
    }
    disk->journal_count = 0;
    names_fini(disk, &disk->now);
    for (size_t i = 0; i < disk->durable.count;) {
        if (names_is_reachable(&disk->durable, disk->durable.items[i].path)) {
            i++;
        } else {
            names_remove(disk, &disk->durable, disk->durable.items[i].path);
            i = 0;
        }
    }
    for (size_t i = 0; i < disk->durable.count; i++) {
        struct name *name = &disk->durable.items[i];
        if (name->inode) {
            inode_power_loss(disk, name->inode, keep, torn);
        }
        names_put(disk, &disk->now, name->path, name->inode);
    }
    disk->last_inode = NULL;
}

/* --- Room */

void disk_count_outside(struct disk *disk, const char *path)
{
    mem_free(disk->outside);
    disk->outside = mem_strdup(path);
}

static bool has_name(const struct disk *disk, const struct inode *inode)
{
    for (size_t i = 0; i < disk->now.count; i++) {
        if (disk->now.items[i].inode == inode) {
            return true;
        }
    }
    return false;
}

/* Counted anew each time, as only growing files ask. (The durable names don't count: a file system
 * gives blocks back before the journal is written.) */
uint64_t disk_used(const struct disk *disk)
{
    struct stat outside;
    bool is_outside = disk->outside && stat(disk->outside, &outside) == 0;
    uint64_t used = is_outside ? (uint64_t)outside.st_size : 0;
    for (size_t i = 0; i < disk->now.count; i++) {
        used += disk->now.items[i].inode ? disk->now.items[i].inode->size : 0;
    }
    LIST_FOR(at, &disk->files)
    {
        const struct inode *inode = container_of(at, struct env_file, link)->inode;
        used += has_name(disk, inode) ? 0 : inode->size;
    }
    return used;
}

uint64_t disk_room(const struct disk *disk)
{
    uint64_t used = disk_used(disk);
    return used < disk->capacity_bytes ? disk->capacity_bytes - used : 0;
}

void disk_set_capacity(struct disk *disk, uint64_t bytes)
{
    disk->capacity_bytes = bytes;
}
