/* The fault "old disk image": a node's disk as it was at some moment, log and store, put back under it later. */
#ifndef SIM_OLD_IMAGE_H
#define SIM_OLD_IMAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "sim/checker.h"
#include "sim/disk.h"

struct old_image;

/* A copy of the disk and of the store (real files) under the folder `data`, as a process crash would leave them now; the store's copy
 * lies at `data`.image. */
struct old_image *old_image_take(const struct disk *disk, const char *data);
void old_image_free(struct old_image *image);
/* Puts it back, and frees it; no process may be using the disk. */
void old_image_put(struct old_image *image, struct disk *disk, const char *data);

#endif
