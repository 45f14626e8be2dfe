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
 * (see "fsyncgate", 2018). */
#include "sim/disk.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/check.h"
#include "base/list.h"
#include "base/mem.h"

enum { SECTOR_BYTES = 512, CHUNK_SECTORS = 32, CHUNK_BYTES = SECTOR_BYTES * CHUNK_SECTORS };

static const uint8_t zeroes[CHUNK_BYTES];

struct chunk {
    uint32_t dirty, stuck; /* a bit a sector */
    uint8_t *data;
    const uint8_t *shadow; /* an own buffer, or `zeroes` */
};

/* A buffer of CHUNK_BYTES that nobody uses. */
struct spare {
    struct spare *next;
};

struct inode {
    uint32_t references;
    struct disk *disk;
    bool is_segment; /* of the log */
    uint64_t size, durable_size;
    struct chunk **chunks;
    size_t chunk_count;
    uint32_t *dirty;
    size_t dirty_count, dirty_capacity;
};

struct name {
    char *path;
    struct inode *inode; /* NULL: a directory */
};

struct names {
    struct name *items;
    size_t count, capacity;
};

/* One directory operation: at most one name goes, at most one comes (a rename does both at once).
 */
struct operation {
    char *gone;
    char *come;
    struct inode *inode; /* of `come`; NULL: a directory */
};

struct env_file {
    struct list link;
    struct disk *disk; /* NULL: its process has ended */
    struct inode *inode;
    bool is_writable;
};

/* One write to a log segment. */
struct recent_write {
    struct inode *inode;   /* no reference: NULL when the inode is gone */
    uint64_t first, count; /* sectors */
};

struct disk {
    struct random random;
    struct recent_write recent[DISK_RECENT_WRITES]; /* a ring */
    uint64_t log_writes;                            /* ever */
    uint64_t capacity_bytes;
    char *outside; /* a real file that takes room as well; NULL: none */
    struct names now, durable;
    struct operation *journal;
    size_t journal_count, journal_capacity;
    struct spare *spares;
    struct list files;
    char *locked[4];
    struct disk_faults faults;
    struct disk_stats stats;
    struct inode *last_inode; /* the sector written last, which a power loss may tear; no reference:
                                 cleared with the inode */
    uint64_t last_sector;
};

static void inode_unref(struct disk *disk, struct inode *inode);
static void names_fini(struct disk *disk, struct names *names);
static void operation_apply(struct disk *disk, struct names *names,
                            const struct operation *operation);
static void operation_fini(struct disk *disk, struct operation *operation);

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
        operation_fini(disk, &disk->journal[i]);
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
        operation_apply(disk, &disk->durable, &disk->journal[i]);
        operation_fini(disk, &disk->journal[i]);
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

/* --- Inodes */

static uint8_t *buffer_take(struct disk *disk)
{
    struct spare *spare = disk->spares;
    if (!spare) {
        return mem_alloc(CHUNK_BYTES);
    }
    disk->spares = spare->next;
    return (uint8_t *)spare;
}

static void buffer_give(struct disk *disk, const uint8_t *buffer)
{
    struct spare *spare = (struct spare *)buffer;
    if (spare && buffer != zeroes) {
        spare->next = disk->spares;
        disk->spares = spare;
    }
}

static void chunk_drop_shadow(struct disk *disk, struct chunk *chunk)
{
    buffer_give(disk, chunk->shadow);
    chunk->shadow = NULL;
}

/* Some of the chunk became durable, so zeroes (I4) are right no more. */
static void chunk_own_shadow(struct disk *disk, struct chunk *chunk)
{
    if (chunk->shadow == zeroes) {
        uint8_t *shadow = buffer_take(disk);
        memset(shadow, 0, CHUNK_BYTES);
        chunk->shadow = shadow;
    }
}

static void inode_unref(struct disk *disk, struct inode *inode)
{
    if (!inode || --inode->references > 0) {
        return;
    }
    for (size_t i = 0; i < inode->chunk_count; i++) {
        if (inode->chunks[i]) {
            chunk_drop_shadow(disk, inode->chunks[i]);
            buffer_give(disk, inode->chunks[i]->data);
            mem_free(inode->chunks[i]);
        }
    }
    if (disk->last_inode == inode) {
        disk->last_inode = NULL;
    }
    for (size_t i = 0; i < DISK_RECENT_WRITES; i++) {
        if (disk->recent[i].inode == inode) {
            disk->recent[i].inode = NULL;
        }
    }
    mem_free(inode->chunks);
    mem_free(inode->dirty);
    mem_free(inode);
}

/* The place of a chunk, which may not exist. */
static struct chunk **inode_slot(struct inode *inode, size_t index)
{
    if (index >= inode->chunk_count) {
        size_t count = index + 1 + index / 2;
        inode->chunks = mem_realloc(inode->chunks, count * sizeof *inode->chunks);
        memset(inode->chunks + inode->chunk_count, 0,
               (count - inode->chunk_count) * sizeof *inode->chunks);
        inode->chunk_count = count;
    }
    return &inode->chunks[index];
}

/* I2 */
static void inode_note_dirty(struct inode *inode, size_t index)
{
    if (inode->dirty_count == inode->dirty_capacity) {
        inode->dirty_capacity = inode->dirty_capacity ? inode->dirty_capacity * 2 : 16;
        inode->dirty = mem_realloc(inode->dirty, inode->dirty_capacity * sizeof *inode->dirty);
    }
    inode->dirty[inode->dirty_count++] = (uint32_t)index;
}

/* The bits of sectors first … last. */
static uint32_t sector_bits(uint32_t first, uint32_t last)
{
    return (uint32_t)((2ull << last) - (1ull << first));
}

/* Saves those of the sectors that are clean, run by run. */
static void chunk_save(struct chunk *chunk, uint8_t *shadow, uint32_t first, uint32_t last)
{
    for (uint32_t sector = first; sector <= last; sector++) {
        uint32_t from = sector;
        while (sector <= last && !(chunk->dirty >> sector & 1)) {
            sector++;
        }
        if (sector > from) {
            size_t at = (size_t)from * SECTOR_BYTES;
            memcpy(shadow + at, chunk->data + at, (size_t)(sector - from) * SECTOR_BYTES);
        }
    }
}

/* The chunk, bytes [at, at + size) of which are about to be written: what they hold is saved. */
static struct chunk *inode_dirty(struct inode *inode, size_t index, size_t at, size_t size)
{
    struct chunk **slot = inode_slot(inode, index), *chunk = *slot;
    uint32_t first = (uint32_t)(at / SECTOR_BYTES),
             last = (uint32_t)((at + size - 1) / SECTOR_BYTES);
    if (!chunk) {
        chunk = *slot = MEM_NEW(struct chunk);
        chunk->data = buffer_take(inode->disk);
        memset(chunk->data, 0, at);
        memset(chunk->data + at + size, 0, CHUNK_BYTES - at - size);
        chunk->shadow = zeroes; /* I4 */
        inode_note_dirty(inode, index);
    } else if (!chunk->shadow && size == CHUNK_BYTES) {
        chunk->shadow = chunk->data;
        chunk->data = buffer_take(inode->disk);
        inode_note_dirty(inode, index);
    } else if (chunk->shadow != zeroes) {
        uint8_t *shadow = (uint8_t *)chunk->shadow;
        if (!shadow) {
            chunk->shadow = shadow = buffer_take(inode->disk);
            inode_note_dirty(inode, index);
        }
        chunk_save(chunk, shadow, first, last);
    }
    chunk->dirty |= sector_bits(first, last);
    chunk->stuck &= ~sector_bits(first, last);
    return chunk;
}

static bool is_zero(const uint8_t *data, size_t size)
{
    return data[0] == 0 && memcmp(data, data + 1, size - 1) == 0;
}

/* Writes bytes, or zeroes when data is NULL (which makes no chunk that does not exist). */
static void inode_write(struct inode *inode, uint64_t offset, const uint8_t *data, size_t size)
{
    while (size > 0) {
        size_t index = (size_t)(offset / CHUNK_BYTES), at = (size_t)(offset % CHUNK_BYTES);
        size_t part = CHUNK_BYTES - at < size ? CHUNK_BYTES - at : size;
        bool exists = index < inode->chunk_count && inode->chunks[index];
        bool is_same =
            !exists && (!data || is_zero(data, part)); /* zeroes over zeroes: preallocation */
        if (!is_same) {
            struct chunk *chunk = inode_dirty(inode, index, at, part);
            if (data) {
                memcpy(chunk->data + at, data, part);
                data += part;
            } else {
                memset(chunk->data + at, 0, part);
            }
        }
        offset += part;
        size -= part;
    }
}

static void inode_read(const struct inode *inode, uint64_t offset, uint8_t *out, size_t size)
{
    while (size > 0) {
        size_t index = (size_t)(offset / CHUNK_BYTES), at = (size_t)(offset % CHUNK_BYTES);
        size_t part = CHUNK_BYTES - at < size ? CHUNK_BYTES - at : size;
        if (index < inode->chunk_count && inode->chunks[index]) {
            memcpy(out, inode->chunks[index]->data + at, part);
        } else {
            memset(out, 0, part);
        }
        out += part;
        offset += part;
        size -= part;
    }
}

/* Everything that is not stuck becomes durable; with `doubt` (a failed sync) each sector only by
 * the toss of a coin, and those that did not make it are stuck. */
static void inode_sync(struct disk *disk, struct inode *inode, bool doubt)
{
    size_t kept = 0;
    for (size_t i = 0; i < inode->dirty_count; i++) {
        struct chunk *chunk = inode->chunks[inode->dirty[i]];
        if (doubt) {
            chunk->stuck |= chunk->dirty & (uint32_t)random_u64(&disk->random);
        }
        chunk->dirty &= chunk->stuck;
        if (chunk->dirty) {
            chunk_own_shadow(disk, chunk);
            inode->dirty[kept++] = inode->dirty[i];
        } else {
            chunk_drop_shadow(disk, chunk);
        }
    }
    inode->dirty_count = kept;
    if (!doubt) {
        inode->durable_size = inode->size;
    }
}

static void inode_lose_sector(struct disk *disk, struct chunk *chunk, uint32_t sector,
                              uint32_t keep)
{
    size_t at = (size_t)sector * SECTOR_BYTES;
    memcpy(chunk->data + at + keep, chunk->shadow + at + keep, SECTOR_BYTES - keep);
}

static void inode_power_loss(struct disk *disk, struct inode *inode, uint32_t keep_percent,
                             bool torn)
{
    for (size_t i = 0; i < inode->dirty_count; i++) {
        struct chunk *chunk = inode->chunks[inode->dirty[i]];
        for (uint32_t sector = 0; sector < CHUNK_SECTORS; sector++) {
            uint64_t number = (uint64_t)inode->dirty[i] * CHUNK_SECTORS + sector;
            if (!(chunk->dirty & 1u << sector)) {
                continue;
            }
            if (torn && inode == disk->last_inode && number == disk->last_sector) {
                inode_lose_sector(
                    disk, chunk, sector,
                    8 * (uint32_t)random_between(&disk->random, 1, SECTOR_BYTES / 8 - 1));
                disk->stats.sectors_torn++;
            } else if ((chunk->stuck & 1u << sector) ||
                       !random_percent(&disk->random, keep_percent)) {
                inode_lose_sector(disk, chunk, sector, 0);
                disk->stats.sectors_lost++;
            } else {
                disk->stats.sectors_kept++;
            }
        }
        chunk->dirty = chunk->stuck = 0;
        chunk_drop_shadow(disk, chunk);
    }
    inode->dirty_count = 0;
    if (inode->size != inode->durable_size && !random_percent(&disk->random, keep_percent)) {
        if (inode->durable_size < inode->size) {
            inode_write(inode, inode->durable_size, NULL, inode->size - inode->durable_size);
        }
        inode->size = inode->durable_size;
    }
    inode_sync(disk, inode, false);
}

/* --- Names */

static struct name *names_find(const struct names *names, const char *path)
{
    for (size_t i = 0; i < names->count; i++) {
        if (strcmp(names->items[i].path, path) == 0) {
            return &names->items[i];
        }
    }
    return NULL;
}

static void names_remove(struct disk *disk, struct names *names, const char *path)
{
    struct name *name = names_find(names, path);
    if (name) {
        mem_free(name->path);
        inode_unref(disk, name->inode);
        *name = names->items[--names->count];
    }
}

static void names_put(struct disk *disk, struct names *names, const char *path, struct inode *inode)
{
    names_remove(disk, names, path);
    if (names->count == names->capacity) {
        names->capacity = names->capacity ? names->capacity * 2 : 16;
        names->items = mem_realloc(names->items, names->capacity * sizeof *names->items);
    }
    if (inode) {
        inode->references++;
    }
    names->items[names->count++] = (struct name){ mem_strdup(path), inode };
}

static void names_fini(struct disk *disk, struct names *names)
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

static void operation_fini(struct disk *disk, struct operation *operation)
{
    mem_free(operation->gone);
    mem_free(operation->come);
    inode_unref(disk, operation->inode);
}

static void operation_apply(struct disk *disk, struct names *names,
                            const struct operation *operation)
{
    if (operation->gone) {
        names_remove(disk, names, operation->gone);
    }
    if (operation->come) {
        names_put(disk, names, operation->come, operation->inode);
    }
}

/* Does an operation now, and durably with the next sync of its directory. */
static void operate(struct disk *disk, const char *gone, const char *come, struct inode *inode)
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
    operation_apply(disk, &disk->now, operation);
}

/* After a power loss a name is reachable only if the directory that it stands in is. */
static bool is_reachable(const struct names *names, const char *path)
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
    return name && !name->inode && is_reachable(names, parent);
}

void disk_power_loss(struct disk *disk, bool torn)
{
    static const uint8_t keep_percents[] = { 0, 0, 10, 50, 90, 100 };
    uint32_t keep = keep_percents[random_below(&disk->random, sizeof keep_percents)];
    disk_process_ended(disk);
    size_t prefix = random_below(&disk->random, disk->journal_count + 1);
    for (size_t i = 0; i < disk->journal_count; i++) {
        if (i < prefix) {
            operation_apply(disk, &disk->durable, &disk->journal[i]);
        } else {
            disk->stats.names_lost++;
        }
        operation_fini(disk, &disk->journal[i]);
    }
    disk->journal_count = 0;
    names_fini(disk, &disk->now);
    for (size_t i = 0; i < disk->durable.count;) {
        if (is_reachable(&disk->durable, disk->durable.items[i].path)) {
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

/* --- Faults */

/* Counts one mutation; true when the process dies in it. */
static bool is_dying(struct disk *disk)
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

static int fail_dying(struct err *err)
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

/* --- Rot */

/* A sector that is durable and in which something stands; NULL: this one is not. */
static uint8_t *find_clean(const struct inode *inode, uint64_t sector)
{
    size_t index = (size_t)(sector / CHUNK_SECTORS);
    uint32_t within = (uint32_t)(sector % CHUNK_SECTORS);
    struct chunk *chunk = index < inode->chunk_count ? inode->chunks[index] : NULL;
    uint8_t *data = chunk ? chunk->data + (size_t)within * SECTOR_BYTES : NULL;
    bool is_clean = data && !(chunk->dirty & 1u << within) && !is_zero(data, SECTOR_BYTES);
    return is_clean ? data : NULL;
}

static void flip_bit(struct disk *disk, uint8_t *sector)
{
    sector[random_below(&disk->random, SECTOR_BYTES)] ^=
        (uint8_t)(1u << random_below(&disk->random, 8));
}

static uint8_t *draw_anywhere(struct disk *disk)
{
    uint8_t *drawn = NULL, *sector;
    uint64_t seen = 0;
    for (size_t i = 0; i < disk->now.count; i++) {
        const struct inode *inode = disk->now.items[i].inode;
        uint64_t sectors = inode && inode->is_segment ? inode->chunk_count * CHUNK_SECTORS : 0;
        for (uint64_t at = 0; at < sectors; at++) {
            sector = find_clean(inode, at);
            if (sector && random_one_in(&disk->random, ++seen)) {
                drawn = sector;
            }
        }
    }
    return drawn;
}

static uint8_t *draw_recent(struct disk *disk)
{
    uint8_t *drawn = NULL, *sector;
    uint64_t seen = 0;
    for (size_t i = 0; i < DISK_RECENT_WRITES; i++) {
        const struct recent_write *write = &disk->recent[i];
        for (uint64_t at = 0; write->inode && at < write->count; at++) {
            sector = find_clean(write->inode, write->first + at);
            if (sector && random_one_in(&disk->random, ++seen)) {
                drawn = sector;
            }
        }
    }
    return drawn;
}

bool disk_flip_log(struct disk *disk, enum disk_rot_place place)
{
    uint8_t *sector = place == DISK_ROT_RECENT ? draw_recent(disk) : draw_anywhere(disk);
    if (sector) {
        flip_bit(disk, sector);
    }
    return sector != NULL;
}

uint64_t disk_log_writes(const struct disk *disk)
{
    return disk->log_writes;
}

uint32_t disk_ruin_log(struct disk *disk, uint64_t since)
{
    enum { FLIPS = 16 }; /* so that no record header in the sector stays whole by luck */
    uint32_t ruined = 0;
    uint64_t kept =
        disk->log_writes > DISK_RECENT_WRITES ? disk->log_writes - DISK_RECENT_WRITES : 0;
    for (uint64_t i = since > kept ? since : kept; i < disk->log_writes; i++) {
        const struct recent_write *write = &disk->recent[i % DISK_RECENT_WRITES];
        for (uint64_t at = 0; write->inode && at < write->count; at++) {
            uint8_t *sector = find_clean(write->inode, write->first + at);
            ruined += sector != NULL;
            for (int flip = 0; sector && flip < FLIPS; flip++) {
                flip_bit(disk, sector);
            }
        }
    }
    return ruined;
}

static void note_log_write(struct disk *disk, struct inode *inode, uint64_t offset, uint64_t size)
{
    disk->recent[disk->log_writes++ % DISK_RECENT_WRITES] = (struct recent_write){
        .inode = inode,
        .first = offset / SECTOR_BYTES,
        .count = (offset + size + SECTOR_BYTES - 1) / SECTOR_BYTES - offset / SECTOR_BYTES,
    };
}

/* Writes all but one sector where it belongs; that one lands elsewhere in the file. */
static void write_misdirected(struct disk *disk, struct inode *inode, uint64_t offset,
                              const uint8_t *data, size_t size)
{
    uint64_t sector = random_below(&disk->random, size / SECTOR_BYTES) * SECTOR_BYTES;
    uint64_t target = random_below(&disk->random, inode->size / SECTOR_BYTES) * SECTOR_BYTES;
    inode_write(inode, offset, data, (size_t)sector);
    inode_write(inode, target, data + sector, SECTOR_BYTES);
    inode_write(inode, offset + sector + SECTOR_BYTES, data + sector + SECTOR_BYTES,
                size - (size_t)sector - SECTOR_BYTES);
    disk->stats.misdirected++;
}

/* --- The file calls */

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
    if (!(flags & ENV_FILE_CREATE) || !is_reachable(&disk->now, path)) {
        return err_set(err, ERR_NOT_FOUND, "%s: no such file or directory", path);
    }
    if (is_dying(disk)) {
        return fail_dying(err);
    }
    struct inode *inode = MEM_NEW(struct inode);
    inode->disk = disk;
    inode->is_segment = strstr(path, "/log/") != NULL && strstr(path, "votes") == NULL;
    operate(disk, NULL, path, inode);
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
        return fail_dying(err);
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
        return fail_dying(err);
    }
    CHECK(file->is_writable);
    struct inode *inode = file->inode;
    uint64_t end = offset + size;
    if (end > inode->size && !has_room(disk, end - inode->size)) {
        return err_set(err, ERR_DISK_FULL, "no space left on device");
    }
    bool dies = is_dying(disk);
    bool fails = is_struck(&disk->faults.fail_write_in);
    size_t part = dies || fails ? cut_write(disk, offset, size) : size;
    if (part > 0) {
        if (offset + part > inode->size) {
            inode->size = offset + part;
        }
        bool is_whole = offset % SECTOR_BYTES == 0 && part % SECTOR_BYTES == 0;
        if (inode->is_segment && is_whole && is_struck(&disk->faults.misdirect_in)) {
            write_misdirected(disk, inode, offset, data, part);
        } else {
            inode_write(inode, offset, data, part);
        }
        if (inode->is_segment) {
            note_log_write(disk, inode, offset, part);
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
    return dies ? fail_dying(err) : 0;
}

int disk_file_sync(struct env_file *file, struct err *err)
{
    struct disk *disk = file->disk;
    if (!disk || disk->faults.dying || is_dying(disk)) {
        return fail_dying(err);
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
    return 0;
}

int disk_file_size(struct env_file *file, uint64_t *out, struct err *err)
{
    if (!file->disk) {
        return fail_dying(err);
    }
    *out = file->inode->size;
    return 0;
}

int disk_file_resize(struct env_file *file, uint64_t size, struct err *err)
{
    struct disk *disk = file->disk;
    if (!disk || disk->faults.dying || is_dying(disk)) {
        return fail_dying(err);
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
    bool has_name = false;
    for (size_t i = 0; disk && !has_name && i < disk->durable.count; i++) {
        has_name = disk->durable.items[i].inode == inode;
    }
    bool is_durable = has_name && offset + size <= inode->durable_size;
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

int disk_rename(struct disk *disk, const char *from, const char *to, struct err *err)
{
    struct name *name = names_find(&disk->now, from);
    if (!name || !is_reachable(&disk->now, to)) {
        return err_set(err, ERR_NOT_FOUND, "%s: no such file or directory", name ? to : from);
    }
    CHECK(name->inode != NULL); /* directories are not renamed by anybody */
    if (is_dying(disk)) {
        return fail_dying(err);
    }
    operate(disk, from, to, name->inode);
    return 0;
}

int disk_remove(struct disk *disk, const char *path, struct err *err)
{
    if (!names_find(&disk->now, path)) {
        return err_set(err, ERR_NOT_FOUND, "%s: no such file or directory", path);
    }
    if (is_dying(disk)) {
        return fail_dying(err);
    }
    operate(disk, path, NULL, NULL);
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
            if (is_dying(disk)) {
                return fail_dying(err);
            }
            operate(disk, NULL, part, NULL);
        }
    }
    return 0;
}

int disk_dir_sync(struct disk *disk, const char *path, struct err *err)
{
    if (!names_find(&disk->now, path)) {
        return err_set(err, ERR_NOT_FOUND, "%s: no such directory", path);
    }
    if (is_dying(disk)) {
        return fail_dying(err);
    }
    if (disk->faults.lies) {
        return 0;
    }
    size_t kept = 0;
    for (size_t i = 0; i < disk->journal_count; i++) {
        struct operation *operation = &disk->journal[i];
        if ((operation->gone && is_child(operation->gone, path)) ||
            (operation->come && is_child(operation->come, path))) {
            operation_apply(disk, &disk->durable, operation);
            operation_fini(disk, operation);
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

/* --- Images of whole disks */

struct disk_image {
    struct image_file {
        char *path;
        bool is_directory, is_segment;
        uint64_t size;
        size_t chunk_count;
        uint8_t **chunks; /* NULL: zeroes */
    } * files;
    size_t count;
};

static void copy_chunks(struct image_file *file, const struct inode *inode)
{
    file->is_segment = inode->is_segment;
    file->size = inode->size;
    file->chunk_count = inode->chunk_count;
    file->chunks = mem_zalloc((inode->chunk_count + 1) * sizeof *file->chunks);
    for (size_t i = 0; i < inode->chunk_count; i++) {
        if (inode->chunks[i]) {
            file->chunks[i] = mem_dup(inode->chunks[i]->data, CHUNK_BYTES);
        }
    }
}

struct disk_image *disk_image_take(const struct disk *disk)
{
    struct disk_image *image = MEM_NEW(struct disk_image);
    image->count = disk->now.count;
    image->files = mem_zalloc((image->count + 1) * sizeof *image->files);
    for (size_t i = 0; i < image->count; i++) {
        const struct name *name = &disk->now.items[i];
        image->files[i].path = mem_strdup(name->path);
        image->files[i].is_directory = name->inode == NULL;
        if (name->inode) {
            copy_chunks(&image->files[i], name->inode);
        }
    }
    return image;
}

void disk_image_free(struct disk_image *image)
{
    for (size_t i = 0; i < image->count; i++) {
        for (size_t j = 0; j < image->files[i].chunk_count; j++) {
            mem_free(image->files[i].chunks[j]);
        }
        mem_free(image->files[i].chunks);
        mem_free(image->files[i].path);
    }
    mem_free(image->files);
    mem_free(image);
}

/* A durable file. */
static struct inode *inode_from_image(struct disk *disk, const struct image_file *file)
{
    struct inode *inode = MEM_NEW(struct inode);
    inode->disk = disk;
    inode->is_segment = file->is_segment;
    inode->size = file->size;
    for (size_t i = 0; i < file->chunk_count; i++) {
        if (file->chunks[i]) {
            inode_write(inode, i * CHUNK_BYTES, file->chunks[i], CHUNK_BYTES);
        }
    }
    inode_sync(disk, inode, false);
    return inode;
}

void disk_image_put(struct disk *disk, const struct disk_image *image)
{
    disk_process_ended(disk);
    for (size_t i = 0; i < disk->journal_count; i++) {
        operation_fini(disk, &disk->journal[i]);
    }
    disk->journal_count = 0;
    names_fini(disk, &disk->now);
    names_fini(disk, &disk->durable);
    for (size_t i = 0; i < image->count; i++) {
        const struct image_file *file = &image->files[i];
        struct inode *inode = file->is_directory ? NULL : inode_from_image(disk, file);
        names_put(disk, &disk->now, file->path, inode);
        names_put(disk, &disk->durable, file->path, inode);
    }
}
