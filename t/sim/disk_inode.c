/* Contents of the simulated disk's files: chunks, what of them is durable, syncs, and what a power loss leaves (I1, I2 and I4 of
 * disk.c). */
#include "base/mem.h"
#include "sim/disk_private.h"

static const uint8_t zeroes[CHUNK_BYTES];

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

void inode_unref(struct disk *disk, struct inode *inode)
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
    if (disk->astray.inode == inode) {
        disk->astray.inode = NULL;
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

void inode_write(struct inode *inode, uint64_t offset, const uint8_t *data, size_t size)
{
    while (size > 0) {
        size_t index = (size_t)(offset / CHUNK_BYTES), at = (size_t)(offset % CHUNK_BYTES);
        size_t part = CHUNK_BYTES - at < size ? CHUNK_BYTES - at : size;
        bool exists = index < inode->chunk_count && inode->chunks[index];
        bool is_same =
            !exists &&
            (!data || bytes_are_zero(data, part)); /* zeroes over zeroes: preallocation */
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

void inode_read(const struct inode *inode, uint64_t offset, uint8_t *out, size_t size)
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

void inode_sync(struct disk *disk, struct inode *inode, bool doubt)
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

void inode_power_loss(struct disk *disk, struct inode *inode, uint32_t keep_percent, bool torn)
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
