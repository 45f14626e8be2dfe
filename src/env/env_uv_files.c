/* Files and folders of the production env, by POSIX calls. Any thread. */
#include "env/env_uv_private.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/mem.h"

struct env_file {
    int fd;
    int direct_fd; /* the same file, opened for direct writes; -1: it isn't */
    char *path;
};

/* Turns an errno into a code, with a text that names what was tried. */
static int file_failed(struct err *err, int error, const char *verb, const char *path)
{
    char text[128];
    int code = ERR_IO;

    if (error == ENOSPC || error == EDQUOT) {
        code = ERR_DISK_FULL;
    } else if (error == ENOENT) {
        code = ERR_NOT_FOUND;
    } else if (error == EEXIST) {
        code = ERR_EXISTS;
    }
    return err_set(err, code, "%s %s: %s", verb, path, strerror_r(error, text, sizeof text));
}

static int open_patiently(const char *path, int mode)
{
    int fd;

    do {
        fd = open(path, mode | O_CLOEXEC, 0600);
    } while (fd < 0 && errno == EINTR);
    return fd;
}

int env_uv_file_open(struct env *env, const char *path, int flags, struct env_file **out,
                     struct err *err)
{
    int mode = flags & ENV_FILE_WRITE ? O_RDWR : O_RDONLY;

    mode |= flags & ENV_FILE_CREATE ? O_CREAT : 0;
    mode |= flags & ENV_FILE_EXCLUSIVE ? O_EXCL : 0;
    int fd = open_patiently(path, mode);
    if (fd < 0) {
        return file_failed(err, errno, "open", path);
    }
    struct env_file *file = MEM_NEW(struct env_file);
    file->fd = fd;
    file->direct_fd = flags & ENV_FILE_DIRECT ? open_patiently(path, O_WRONLY | O_DIRECT) : -1;
    file->path = mem_strdup(path);
    *out = file;
    return 0;
}

int env_uv_file_read(struct env_file *file, uint64_t offset, void *out, size_t size, size_t *got,
                     struct err *err)
{
    size_t sum = 0;

    while (sum < size) {
        ssize_t now = pread(file->fd, (uint8_t *)out + sum, size - sum, (off_t)(offset + sum));
        if (now < 0 && errno == EINTR) {
            continue;
        }
        if (now < 0) {
            return file_failed(err, errno, "read", file->path);
        }
        if (now == 0) {
            break;
        }
        sum += (size_t)now;
    }
    *got = sum;
    return 0;
}

static int fd_for_write(const struct env_file *file, uint64_t offset, const void *data, size_t size)
{
    bool is_aligned = (uintptr_t)data % ENV_FILE_DIRECT_ALIGN == 0 &&
                      offset % ENV_FILE_DIRECT_SECTOR == 0 && size % ENV_FILE_DIRECT_SECTOR == 0;
    return is_aligned && file->direct_fd >= 0 ? file->direct_fd : file->fd;
}

/* A device with larger sectors refuses a direct write with EINVAL: then it goes the other way. So
 * does the rest of a write that was cut short. */
int env_uv_file_write(struct env_file *file, uint64_t offset, const void *data, size_t size,
                      struct err *err)
{
    int fd = fd_for_write(file, offset, data, size);
    size_t sum = 0;

    while (sum < size) {
        ssize_t now = pwrite(fd, (const uint8_t *)data + sum, size - sum, (off_t)(offset + sum));
        if (now < 0 && errno == EINTR) {
            continue;
        }
        if (now < (ssize_t)(size - sum) && fd != file->fd && (now >= 0 || errno == EINVAL)) {
            fd = file->fd;
            sum += now > 0 ? (size_t)now : 0;
            continue;
        }
        if (now <= 0) {
            return file_failed(err, now < 0 ? errno : EIO, "write", file->path);
        }
        sum += (size_t)now;
    }
    return 0;
}

/* EINTR is no failure of the device: nothing was lost, and fdatasync waits again for the same
 * pages. Any other error is final. */
int env_uv_file_sync(struct env_file *file, struct err *err)
{
    int status;

    do {
        status = fdatasync(file->fd);
    } while (status < 0 && errno == EINTR);
    return status < 0 ? file_failed(err, errno, "fdatasync", file->path) : 0;
}

int env_uv_file_size(struct env_file *file, uint64_t *out, struct err *err)
{
    struct stat stat;

    if (fstat(file->fd, &stat) < 0) {
        return file_failed(err, errno, "stat", file->path);
    }
    *out = (uint64_t)stat.st_size;
    return 0;
}

static int file_cut(struct env_file *file, uint64_t size)
{
    int status;

    do {
        status = ftruncate(file->fd, (off_t)size);
    } while (status < 0 && errno == EINTR);
    return status < 0 ? errno : 0;
}

int env_uv_file_resize(struct env_file *file, uint64_t size, struct err *err)
{
    uint64_t old;
    int error;
    int status = env_uv_file_size(file, &old, err);

    if (status) {
        return status;
    }
    if (size <= old) {
        error = file_cut(file, size);
    } else {
        do {
            error = posix_fallocate(file->fd, (off_t)old, (off_t)(size - old));
        } while (error == EINTR);
        if (error) {
            file_cut(file,
                     old); /* gives back what was allocated; the first error is the one to tell */
        }
    }
    return error ? file_failed(err, error, "resize", file->path) : 0;
}

void env_uv_file_close(struct env_file *file)
{
    close(file->fd);
    if (file->direct_fd >= 0) {
        close(file->direct_fd);
    }
    mem_free(file->path);
    mem_free(file);
}

int env_uv_file_rename(struct env *env, const char *from, const char *to, struct err *err)
{
    return rename(from, to) < 0 ? file_failed(err, errno, "rename", from) : 0;
}

int env_uv_file_remove(struct env *env, const char *path, struct err *err)
{
    return unlink(path) < 0 ? file_failed(err, errno, "remove", path) : 0;
}

int env_uv_dir_make(struct env *env, const char *path, struct err *err)
{
    char *copy = mem_strdup(path);
    int status = 0;
    struct stat stat_of;

    for (char *at = copy + 1; !status && *copy; at++) {
        char ends = *at;
        if (ends != '/' && ends != '\0') {
            continue;
        }
        *at = '\0';
        if (mkdir(copy, 0700) < 0 && errno != EEXIST) {
            status = file_failed(err, errno, "make directory", copy);
        }
        *at = ends;
        if (ends == '\0') {
            break;
        }
    }
    if (!status && (stat(path, &stat_of) < 0 || !S_ISDIR(stat_of.st_mode))) {
        status = err_set(err, ERR_IO, "make directory %s: something else has that name", path);
    }
    mem_free(copy);
    return status;
}

int env_uv_dir_sync(struct env *env, const char *path, struct err *err)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int status = 0;

    if (fd < 0) {
        return file_failed(err, errno, "open directory", path);
    }
    do {
        status = fsync(fd);
    } while (status < 0 && errno == EINTR);
    if (status < 0) {
        status = file_failed(err, errno, "fsync directory", path);
    }
    close(fd);
    return status;
}

int env_uv_dir_room(struct env *env, const char *path, uint64_t *out, struct err *err)
{
    struct statvfs room;

    if (statvfs(path, &room) < 0) {
        return file_failed(err, errno, "statvfs", path);
    }
    *out = (uint64_t)room.f_bavail * room.f_frsize;
    return 0;
}

static int name_compare(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

int env_uv_dir_list(struct env *env, const char *path, void (*each)(void *ctx, const char *name),
                    void *ctx, struct err *err)
{
    DIR *dir = opendir(path);
    struct dirent *entry;
    char **names = NULL;
    size_t count = 0, capacity = 0;
    int status = 0;

    if (!dir) {
        return file_failed(err, errno, "open directory", path);
    }
    while ((errno = 0, entry = readdir(dir))) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) {
            continue;
        }
        if (count == capacity) {
            capacity = capacity ? capacity * 2 : 32;
            names = mem_realloc(names, capacity * sizeof *names);
        }
        names[count++] = mem_strdup(entry->d_name);
    }
    if (errno) {
        status = file_failed(err, errno, "read directory", path);
    } else if (count) {
        qsort(names, count, sizeof *names, name_compare);
    }
    for (size_t i = 0; i < count; i++) {
        if (!status) {
            each(ctx, names[i]);
        }
        mem_free(names[i]);
    }
    mem_free(names);
    closedir(dir);
    return status;
}

int env_uv_dir_lock(struct env *env, const char *path, struct err *err)
{
    char *name = mem_printf("%s/lock", path);
    int fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    int status = 0;

    if (fd < 0) {
        status = file_failed(err, errno, "open", name);
        goto out;
    }
    if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        status = errno == EWOULDBLOCK
                     ? err_set(err, ERR_BUSY, "%s is in use by another process", path)
                     : file_failed(err, errno, "lock", name);
        close(fd);
        goto out;
    }
    struct dir_lock *lock = MEM_NEW(struct dir_lock);
    lock->fd = fd;
    list_append(&env_uv_of(env)->locks, &lock->link);
out:
    mem_free(name);
    return status;
}
