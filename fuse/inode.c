/* The table of nodes.
 *
 * A node is one path as one kind: a path that was a file and has become a directory (because
 * another client stored a key below it) is another node, since the kernel doesn't let a node change
 * its kind. A node lives as long as the kernel may name it (lookups) or something here uses it
 * (references); its number is never given again, so generations aren't needed.
 *
 * Invariants:
 *   I1  every node is in by_number and by_shown; it is in by_path unless detached.
 *   I2  no two living nodes show the same number, though a rename may leave one with the hash of
 *       another's path.
 *   I3  the root is never freed, detached or moved.
 */
#include "inode.h"

#include <stdlib.h>
#include <string.h>

enum { BUCKETS_MIN = 256 };

static void *must(void *memory)
{
    if (memory == NULL) {
        abort();
    }
    return memory;
}

/* Mixes all bits of a number into all bits (the finaliser of splitmix64). */
static uint64_t mix(uint64_t value)
{
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9;
    value = (value ^ (value >> 27)) * 0x94d049bb133111eb;
    return value ^ (value >> 31);
}

static uint64_t hash_path(const char *path, size_t path_size, bool is_directory)
{
    uint64_t hash = is_directory ? 0x84222325cbf29ce4 : 0xcbf29ce484222325;
    for (size_t i = 0; i < path_size; i++) {
        hash = (hash ^ (uint8_t)path[i]) * 0x100000001b3;
    }
    return mix(hash);
}

static struct inode **number_bucket(struct inode_table *table, uint64_t number)
{
    return &table->by_number[mix(number) & (table->bucket_count - 1)];
}

static struct inode **path_bucket(struct inode_table *table, const struct inode *inode)
{
    uint64_t hash = hash_path(inode->path, inode->path_size, inode->is_directory);
    return &table->by_path[hash & (table->bucket_count - 1)];
}

static struct inode **shown_bucket(struct inode_table *table, uint64_t shown_number)
{
    return &table->by_shown[mix(shown_number) & (table->bucket_count - 1)];
}

static void link_path(struct inode_table *table, struct inode *inode)
{
    struct inode **bucket = path_bucket(table, inode);
    inode->next_by_path = *bucket;
    *bucket = inode;
}

static void link_all(struct inode_table *table, struct inode *inode)
{
    struct inode **bucket = number_bucket(table, inode->number);
    inode->next_by_number = *bucket;
    *bucket = inode;
    bucket = shown_bucket(table, inode->shown_number);
    inode->next_by_shown = *bucket;
    *bucket = inode;
    if (!inode->is_detached) {
        link_path(table, inode);
    }
}

static void unlink_path(struct inode_table *table, struct inode *inode)
{
    struct inode **at = path_bucket(table, inode);
    while (*at != inode) {
        at = &(*at)->next_by_path;
    }
    *at = inode->next_by_path;
}

static void unlink_all(struct inode_table *table, struct inode *inode)
{
    struct inode **at = number_bucket(table, inode->number);
    while (*at != inode) {
        at = &(*at)->next_by_number;
    }
    *at = inode->next_by_number;
    at = shown_bucket(table, inode->shown_number);
    while (*at != inode) {
        at = &(*at)->next_by_shown;
    }
    *at = inode->next_by_shown;
    if (!inode->is_detached) {
        unlink_path(table, inode);
    }
}

static void allocate_buckets(struct inode_table *table, size_t count)
{
    table->bucket_count = count;
    table->by_number = must(calloc(count, sizeof(struct inode *)));
    table->by_path = must(calloc(count, sizeof(struct inode *)));
    table->by_shown = must(calloc(count, sizeof(struct inode *)));
}

static void grow(struct inode_table *table)
{
    struct inode_table old = *table;
    allocate_buckets(table, old.bucket_count * 2);
    for (size_t i = 0; i < old.bucket_count; i++) {
        for (struct inode *inode = old.by_number[i], *next; inode != NULL; inode = next) {
            next = inode->next_by_number;
            link_all(table, inode);
        }
    }
    free(old.by_number);
    free(old.by_path);
    free(old.by_shown);
}

void inode_table_init(struct inode_table *table)
{
    *table = (struct inode_table){ 0 };
    allocate_buckets(table, BUCKETS_MIN);
    inode_ref(inode_at_path(table, "", 0, true));
}

static void inode_free(struct inode_table *table, struct inode *inode)
{
    unlink_all(table, inode);
    table->count--;
    free(inode->path);
    free(inode);
}

void inode_table_fini(struct inode_table *table)
{
    for (size_t i = 0; i < table->bucket_count; i++) {
        while (table->by_number[i] != NULL) {
            inode_free(table, table->by_number[i]);
        }
    }
    free(table->by_number);
    free(table->by_path);
    free(table->by_shown);
    *table = (struct inode_table){ 0 };
}

struct inode *inode_find(struct inode_table *table, uint64_t number)
{
    struct inode *inode = *number_bucket(table, number);
    while (inode != NULL && inode->number != number) {
        inode = inode->next_by_number;
    }
    return inode;
}

struct inode *inode_find_path(struct inode_table *table, const char *path, size_t path_size,
                              bool is_directory)
{
    uint64_t hash = hash_path(path, path_size, is_directory);
    struct inode *inode = table->by_path[hash & (table->bucket_count - 1)];
    while (inode != NULL && (inode->is_directory != is_directory || inode->path_size != path_size ||
                             memcmp(inode->path, path, path_size) != 0)) {
        inode = inode->next_by_path;
    }
    return inode;
}

static bool is_shown(struct inode_table *table, uint64_t shown_number)
{
    struct inode *inode = *shown_bucket(table, shown_number);
    while (inode != NULL && inode->shown_number != shown_number) {
        inode = inode->next_by_shown;
    }
    return inode != NULL;
}

uint64_t inode_shown_number(struct inode_table *table, const char *path, size_t path_size,
                            bool is_directory)
{
    struct inode *inode = inode_find_path(table, path, path_size, is_directory);
    if (inode != NULL) {
        return inode->shown_number;
    }
    if (path_size == 0) {
        return INODE_ROOT;
    }
    uint64_t number = hash_path(path, path_size, is_directory);
    /* 0 and 1 mean something to others; UINT32_MAX is libfuse's "unknown". */
    while (number <= INODE_ROOT || number == UINT32_MAX || is_shown(table, number)) {
        number = mix(number + 1);
    }
    return number;
}

struct inode *inode_at_path(struct inode_table *table, const char *path, size_t path_size,
                            bool is_directory)
{
    struct inode *inode = inode_find_path(table, path, path_size, is_directory);
    if (inode != NULL) {
        return inode;
    }
    if (table->count >= table->bucket_count) {
        grow(table);
    }
    inode = must(calloc(1, sizeof *inode));
    inode->shown_number = inode_shown_number(table, path, path_size, is_directory);
    inode->number = ++table->last_number;
    inode->is_directory = is_directory;
    inode->path_size = path_size;
    inode->path = must(strndup(path, path_size));
    table->count++;
    link_all(table, inode);
    return inode;
}

struct inode *inode_ref(struct inode *inode)
{
    inode->references++;
    return inode;
}

static void free_if_unused(struct inode_table *table, struct inode *inode)
{
    if (inode->references == 0 && inode->lookups == 0) {
        inode_free(table, inode);
    }
}

void inode_unref(struct inode_table *table, struct inode *inode)
{
    if (inode != NULL) {
        inode->references--;
        free_if_unused(table, inode);
    }
}

void inode_forget(struct inode_table *table, struct inode *inode, uint64_t lookups)
{
    inode->lookups -= lookups < inode->lookups ? lookups : inode->lookups;
    free_if_unused(table, inode);
}

void inode_detach(struct inode_table *table, struct inode *inode)
{
    if (!inode->is_detached) {
        unlink_path(table, inode);
        inode->is_detached = true;
    }
}

void inode_move(struct inode_table *table, struct inode *inode, const char *path, size_t path_size)
{
    struct inode *there = inode_find_path(table, path, path_size, inode->is_directory);
    if (there == inode) {
        return;
    }
    if (there != NULL) {
        inode_detach(table, there);
    }
    if (!inode->is_detached) {
        unlink_path(table, inode);
    }
    inode->is_detached = false;
    free(inode->path);
    inode->path = must(strndup(path, path_size));
    inode->path_size = path_size;
    link_path(table, inode);
}
