/* Old disk images: see old_image.h. */
#include "sim/old_image.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/check.h"
#include "base/mem.h"

enum { COPY_BYTES = 1 << 16 };

struct old_image {
    struct disk_image *disk;
    char *store; /* NULL: there was none */
};

/* False: there is no such file. */
static bool copy_file(const char *from, const char *to)
{
    int in = open(from, O_RDONLY);
    if (in < 0) {
        return false;
    }
    int out = open(to, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    CHECK(out >= 0);
    uint8_t *bytes = mem_alloc(COPY_BYTES);
    ssize_t got;
    while ((got = read(in, bytes, COPY_BYTES)) > 0) {
        CHECK(write(out, bytes, (size_t)got) == got);
    }
    CHECK(got == 0);
    mem_free(bytes);
    close(in);
    close(out);
    return true;
}

struct old_image *old_image_take(const struct disk *disk, const char *data)
{
    struct old_image *image = MEM_NEW(struct old_image);
    char *store = mem_printf("%s/store/data.mdb", data);
    image->disk = disk_image_take(disk);
    image->store = mem_printf("%s.image", data);
    if (!copy_file(store, image->store)) {
        mem_free(image->store);
        image->store = NULL;
    }
    mem_free(store);
    return image;
}

void old_image_free(struct old_image *image)
{
    if (!image) {
        return;
    }
    disk_image_free(image->disk);
    if (image->store) {
        unlink(image->store);
        mem_free(image->store);
    }
    mem_free(image);
}

void old_image_put(struct old_image *image, struct disk *disk, const char *data)
{
    char *store = mem_printf("%s/store/data.mdb", data),
         *lock = mem_printf("%s/store/lock.mdb", data);
    disk_image_put(disk, image->disk);
    unlink(store);
    unlink(lock);
    if (image->store) {
        CHECK(copy_file(image->store, store));
    }
    old_image_free(image);
    mem_free(store);
    mem_free(lock);
}
