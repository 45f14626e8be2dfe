/* The nodes that the kernel knows, by number and by path. */
#ifndef FUSE_INODE_H
#define FUSE_INODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "client/cairn.h"

struct data;

enum { INODE_ROOT = 1 };

struct inode {
    uint64_t number;       /* the kernel's node id; never used again while mounted */
    uint64_t shown_number; /* st_ino: hash of the path at birth, so that it is the same after a
                              remount */
    uint64_t lookups;      /* what the kernel will forget */
    uint32_t references;   /* of operations, open files, virtual directories */
    bool is_directory;
    bool is_detached;  /* deleted or replaced: found by number only */
    bool is_virtual;   /* a directory for pieces that no key lies below yet; holds one reference */
    struct data *data; /* while open, or while a change is under way; not a reference */
    /* What a lookup or a listing has just read, good until fresh_until_us (monotonic). */
    bool has_fresh_meta;
    bool is_listed; /* fresh from a listing: may answer one lookup */
    uint64_t fresh_until_us;
    struct cairn_meta fresh_meta;
    size_t path_size;
    char *path; /* ends in NUL; "" is the root */
    struct inode *next_by_number, *next_by_path, *next_by_shown;
};

struct inode_table {
    struct inode **by_number, **by_path, **by_shown;
    size_t bucket_count; /* a power of two */
    size_t count;
    uint64_t last_number;
};

/* Makes a table with the root in it. */
void inode_table_init(struct inode_table *table);
void inode_table_fini(struct inode_table *table);

struct inode *inode_find(struct inode_table *table, uint64_t number);
struct inode *inode_find_path(struct inode_table *table, const char *path, size_t path_size,
                              bool is_directory);
/* Finds or makes; a new one has neither lookups nor references: give it one before anything else
 * happens. */
struct inode *inode_at_path(struct inode_table *table, const char *path, size_t path_size,
                            bool is_directory);
/* What st_ino is or would be. */
uint64_t inode_shown_number(struct inode_table *table, const char *path, size_t path_size,
                            bool is_directory);

struct inode *inode_ref(struct inode *inode);
void inode_unref(struct inode_table *table, struct inode *inode);
void inode_forget(struct inode_table *table, struct inode *inode, uint64_t lookups);

/* The path is free for another node. */
void inode_detach(struct inode_table *table, struct inode *inode);
/* Gives a node another path; what was there is detached. */
void inode_move(struct inode_table *table, struct inode *inode, const char *path, size_t path_size);

#endif
