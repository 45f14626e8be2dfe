/* Copies of whole simulated disks, to be put back later. */
#include "base/mem.h"
#include "sim/disk_private.h"

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
        disk_operation_fini(disk, &disk->journal[i]);
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
