/* What goes wrong on the simulated disk without anybody being told: bits of log segments flip, and writes to them go astray. Only
 * sectors that are durable rot, so that every later read sees it. */
#include "sim/disk_private.h"

/* A sector that is durable and in which something stands; NULL: this one is not. */
static uint8_t *find_clean(const struct inode *inode, uint64_t sector)
{
    size_t index = (size_t)(sector / CHUNK_SECTORS);
    uint32_t within = (uint32_t)(sector % CHUNK_SECTORS);
    struct chunk *chunk = index < inode->chunk_count ? inode->chunks[index] : NULL;
    uint8_t *data = chunk ? chunk->data + (size_t)within * SECTOR_BYTES : NULL;
    bool is_clean = data && !(chunk->dirty & 1u << within) && !bytes_are_zero(data, SECTOR_BYTES);
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

void disk_note_log_write(struct disk *disk, struct inode *inode, uint64_t offset, uint64_t size)
{
    disk->recent[disk->log_writes++ % DISK_RECENT_WRITES] = (struct recent_write){
        .inode = inode,
        .first = offset / SECTOR_BYTES,
        .count = (offset + size + SECTOR_BYTES - 1) / SECTOR_BYTES - offset / SECTOR_BYTES,
    };
}

/* The write succeeds like any; that the sector isn't there shows as soon as a later write to the log is durable. Until then it would be
 * a last batch that vanishes after its sync succeeded, which nobody can tell from a torn one: outside the model. */
void disk_note_astray(struct disk *disk, struct inode *inode, uint64_t offset, const uint8_t *data,
                      size_t size)
{
    struct astray *astray = &disk->astray;
    uint64_t within = random_below(&disk->random, size / SECTOR_BYTES) * SECTOR_BYTES;
    *astray =
        (struct astray){ .inode = inode, .number = disk->log_writes, .home = offset + within };
    astray->target = random_below(&disk->random, inode->size / SECTOR_BYTES) * SECTOR_BYTES;
    memcpy(astray->written, data + within, SECTOR_BYTES);
    inode_read(inode, astray->home, astray->before, SECTOR_BYTES);
    inode_read(inode, astray->target, astray->target_before, SECTOR_BYTES);
}

/* What was written there since is on the disk after it. */
static void turn_out(struct inode *inode, uint64_t offset, const uint8_t *expected,
                     const uint8_t *data)
{
    uint8_t found[SECTOR_BYTES];
    inode_read(inode, offset, found, SECTOR_BYTES);
    if (memcmp(found, expected, SECTOR_BYTES) == 0) {
        inode_write(inode, offset, data, SECTOR_BYTES);
    }
}

void disk_settle_astray(struct disk *disk, const struct inode *synced)
{
    struct astray *astray = &disk->astray;
    const struct recent_write *last = &disk->recent[(disk->log_writes - 1) % DISK_RECENT_WRITES];
    if (!astray->inode || disk->log_writes <= astray->number + 1 || last->inode != synced) {
        return;
    }
    turn_out(astray->inode, astray->target, astray->target_before, astray->written);
    turn_out(astray->inode, astray->home, astray->written, astray->before);
    inode_sync(disk, astray->inode, false);
    astray->inode = NULL;
    disk->stats.misdirected++;
}
