/* The disk of one simulated machine: what the page cache shows, and what would be left after a power loss.
 *
 * Outlives the process: a crash keeps the page cache (disk_process_ended), a power loss keeps what was synced and a random part of
 * the rest (disk_power_loss). */
#ifndef SIM_DISK_H
#define SIM_DISK_H

#include "base/err.h"
#include "env/env.h"
#include "sim/random.h"

struct disk;

enum { DISK_RECENT_WRITES = 256 };

/* Faults; all zero: a good disk. The caller sets and clears them at any time. */
struct disk_faults {
    uint32_t fail_write_in; /* the n-th file_write from now fails with ERR_IO, once; 0: none */
    uint32_t fail_sync_in;  /* the n-th sync likewise; what was to become durable stays in doubt */
    uint32_t die_in;        /* the n-th write, sync, resize, rename, … from now and all later ones do nothing and fail: the process is
                               dying in the middle of a job */
    bool dying;             /* die_in has struck */
    uint32_t misdirect_in;  /* of the n-th write to a log segment from now a sector goes elsewhere in the file */
    bool lies;              /* --break-sync: a sync makes nothing durable and says it did */
};

struct disk_stats {
    uint64_t writes, syncs, bytes, sectors_lost, sectors_torn, sectors_kept, names_lost, writes_failed, syncs_failed, refused_full, misdirected;
};

struct disk *disk_new(uint64_t seed, uint64_t capacity_bytes);
void disk_free(struct disk *disk);
/* Makes a directory and its parents, durably: what was there before the machine began. */
void disk_prepare(struct disk *disk, const char *path);
/* Another file's bytes count as used, too: LMDB's, which lies on the real disk. */
void disk_count_outside(struct disk *disk, const char *path);
/* Bytes of the files that have a name or are open; what is removed or cut off makes room at once. */
uint64_t disk_used(const struct disk *disk);
uint64_t disk_room(const struct disk *disk);
/* The disk becomes smaller or larger; below what is used, files can be overwritten and removed only. */
void disk_set_capacity(struct disk *disk, uint64_t bytes);
struct disk_faults *disk_faults(struct disk *disk);
/* Nothing that was to go wrong with coming writes and syncs does any more, nor does a write turn out to have gone astray. */
void disk_calm(struct disk *disk);
const struct disk_stats *disk_stats(const struct disk *disk);

/* The process is gone: its locks and the faults of dying end, its handles fail from now on; the page cache stays. */
void disk_process_ended(struct disk *disk);
/* Each unsynced sector is kept or lost; with `torn` the one written last is half old, half new; of the unsynced directory operations a prefix is kept, as
 * journaling file systems do. Ends the process too. */
void disk_power_loss(struct disk *disk, bool torn);
/* Rot in log segments, in sectors that are clean, so that every later read sees it. */
enum disk_rot_place {
    DISK_ROT_ANYWHERE, /* that something was ever written to */
    DISK_ROT_RECENT,   /* what the last writes left: what is likely to be read again */
};
/* Flips one bit; false: there is no such sector. */
bool disk_flip_log(struct disk *disk, enum disk_rot_place place);
/* How often log segments were written, as a mark for disk_ruin_log. */
uint64_t disk_log_writes(const struct disk *disk);
/* Spoils every sector written since that mark (of the last DISK_RECENT_WRITES writes); returns how many. */
uint32_t disk_ruin_log(struct disk *disk, uint64_t since);
/* The file calls of env.h. */
int disk_file_open(struct disk *disk, const char *path, int flags, struct env_file **out, struct err *err);
int disk_file_read(struct env_file *file, uint64_t offset, void *out, size_t size, size_t *got, struct err *err);
int disk_file_write(struct env_file *file, uint64_t offset, const void *data, size_t size, struct err *err);
int disk_file_sync(struct env_file *file, struct err *err);
int disk_file_size(struct env_file *file, uint64_t *out, struct err *err);
int disk_file_resize(struct env_file *file, uint64_t size, struct err *err);
void disk_file_close(struct env_file *file);
/* For checkers: a power loss now leaves these bytes, and a name of the file. */
bool disk_file_is_durable(const struct env_file *file, uint64_t offset, uint64_t size);
int disk_rename(struct disk *disk, const char *from, const char *to, struct err *err);
int disk_remove(struct disk *disk, const char *path, struct err *err);
int disk_dir_make(struct disk *disk, const char *path, struct err *err);
int disk_dir_sync(struct disk *disk, const char *path, struct err *err);
int disk_dir_list(struct disk *disk, const char *path, void (*each)(void *ctx, const char *name), void *ctx, struct err *err);
int disk_dir_lock(struct disk *disk, const char *path, struct err *err);

/* A copy of everything as the running system sees it. */
struct disk_image;
struct disk_image *disk_image_take(const struct disk *disk);
void disk_image_free(struct disk_image *image);
/* The disk holds what the image holds, all of it durable; ends the process. The image stays the caller's. */
void disk_image_put(struct disk *disk, const struct disk_image *image);

#endif
