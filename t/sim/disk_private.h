/* What the files of the simulated disk share (disk.c says how it works); for nobody else. */
#ifndef SIM_DISK_PRIVATE_H
#define SIM_DISK_PRIVATE_H

#include <string.h>

#include "base/list.h"
#include "sim/disk.h"

enum { SECTOR_BYTES = 512, CHUNK_SECTORS = 32, CHUNK_BYTES = SECTOR_BYTES * CHUNK_SECTORS };

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
    uint32_t durable_names; /* of the references: those from disk->durable */
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

/* A sector of a write that will turn out to have gone astray. */
struct astray {
    struct inode *inode;   /* no reference: NULL when the inode is gone; NULL: none */
    uint64_t number;       /* of the write */
    uint64_t home, target; /* offsets */
    uint8_t written[SECTOR_BYTES], before[SECTOR_BYTES], target_before[SECTOR_BYTES];
};

struct disk {
    struct random random;
    struct astray astray;
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

static inline bool bytes_are_zero(const uint8_t *data, size_t size)
{
    return data[0] == 0 && memcmp(data, data + 1, size - 1) == 0;
}

/* --- disk_inode.c */

/* NULL is fine. */
void inode_unref(struct disk *disk, struct inode *inode);
/* Writes bytes, or zeroes when data is NULL (which makes no chunk that does not exist). The size is left alone. */
void inode_write(struct inode *inode, uint64_t offset, const uint8_t *data, size_t size);
void inode_read(const struct inode *inode, uint64_t offset, uint8_t *out, size_t size);
/* Everything that is not stuck becomes durable; with `doubt` (a failed sync) each sector only by
 * the toss of a coin, and those that did not make it are stuck. */
void inode_sync(struct disk *disk, struct inode *inode, bool doubt);
/* Each unsynced sector is kept with that probability; `torn`: the one written last is half old, half new. */
void inode_power_loss(struct disk *disk, struct inode *inode, uint32_t keep_percent, bool torn);

/* --- disk_names.c */

/* NULL: there is none. */
struct name *names_find(const struct names *names, const char *path);
void names_remove(struct disk *disk, struct names *names, const char *path);
void names_put(struct disk *disk, struct names *names, const char *path, struct inode *inode);
void names_fini(struct disk *disk, struct names *names);
/* Whether the directories that it stands in are there. */
bool names_is_reachable(const struct names *names, const char *path);
/* Does an operation now, and durably with the next sync of its directory. */
void disk_operate(struct disk *disk, const char *gone, const char *come, struct inode *inode);
void disk_operation_apply(struct disk *disk, struct names *names,
                          const struct operation *operation);
void disk_operation_fini(struct disk *disk, struct operation *operation);

/* --- disk_file.c */

/* Counts one mutation; true when the process dies in it. */
bool disk_is_dying(struct disk *disk);
int disk_fail_dying(struct err *err);

/* --- disk_rot.c */

/* A log segment was written. */
void disk_note_log_write(struct disk *disk, struct inode *inode, uint64_t offset, uint64_t size);
/* Before a write of which one sector lands elsewhere in the file. */
void disk_note_astray(struct disk *disk, struct inode *inode, uint64_t offset, const uint8_t *data,
                      size_t size);
/* A log segment was synced. */
void disk_settle_astray(struct disk *disk, const struct inode *synced);

#endif
