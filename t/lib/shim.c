/* Preloaded into a cairnd (LD_PRELOAD): lets a test move its wall clock and slow its disk at run time, without privileges. The file named by
 * CAIRN_SHIM holds int64s that the test writes and that are read at every call; those that are missing are 0:
 *
 *   offset of CLOCK_REALTIME, µs      what clock_gettime and gettimeofday add; the monotonic clock is left alone, as in life
 *   delay before fdatasync, fsync and msync, µs
 *   delay before pwrite, pwrite64, pwritev and writev to regular files, µs
 *   not 0: fdatasync, fsync and msync of the store hang until it is 0; LMDB's file, that is, and its map
 *
 * The delays model a device with long latencies (a full write cache, a neighbour's load): each call of each thread waits by itself.
 * They do not model a limited bandwidth, nor reads from a slow device. */
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

struct shim {
    volatile int64_t clock_us, sync_us, write_us, store_hangs;
};

static struct shim *shim;

static __attribute__((constructor)) void shim_open(void)
{
    const char *path = getenv("CAIRN_SHIM");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *memory = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *shim, PROT_READ, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED) {
        abort(); /* a test that thinks it has faults must not go on without */
    }
    shim = memory;
    close(fd);
}

static void wait_us(int64_t us)
{
    struct timespec left = { .tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000 };
    while (us > 0 && nanosleep(&left, &left) != 0) {
    }
}

static int is_file(int fd)
{
    struct stat info;
    return fstat(fd, &info) == 0 && S_ISREG(info.st_mode);
}

static void hang(void)
{
    while (shim->store_hangs != 0) {
        wait_us(10000);
    }
}

static int is_store(int fd)
{
    char link[32], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    path[size > 0 ? size : 0] = 0;
    const char *name = strrchr(path, '/');
    return name && strcmp(name, "/data.mdb") == 0;
}

static void before_sync(int fd)
{
    wait_us(shim->sync_us);
    if (shim->store_hangs != 0 && is_store(fd)) {
        hang();
    }
}

/* The next definition of the function that asks. */
#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

int clock_gettime(clockid_t id, struct timespec *out)
{
    static __typeof__(&clock_gettime) next;
    next = next ? next : NEXT(clock_gettime);
    int status = next(id, out);
    if (status == 0 && shim && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) {
        int64_t ns = (int64_t)out->tv_sec * 1000000000 + out->tv_nsec + shim->clock_us * 1000;
        out->tv_sec = ns / 1000000000;
        out->tv_nsec = ns % 1000000000;
    }
    return status;
}

int gettimeofday(struct timeval *restrict out, void *restrict zone)
{
    struct timespec now;
    int status = clock_gettime(CLOCK_REALTIME, &now);
    *out = (struct timeval){ now.tv_sec, now.tv_nsec / 1000 };
    return status;
}

int fdatasync(int fd)
{
    before_sync(fd);
    return NEXT(fdatasync)(fd);
}

int fsync(int fd)
{
    before_sync(fd);
    return NEXT(fsync)(fd);
}

int msync(void *memory, size_t size, int flags)
{
    wait_us(shim->sync_us);
    hang();
    return NEXT(msync)(memory, size, flags);
}

ssize_t pwrite(int fd, const void *bytes, size_t size, off_t offset)
{
    wait_us(shim->write_us);
    return NEXT(pwrite)(fd, bytes, size, offset);
}

ssize_t pwrite64(int fd, const void *bytes, size_t size, off64_t offset)
{
    wait_us(shim->write_us);
    return NEXT(pwrite64)(fd, bytes, size, offset);
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset)
{
    wait_us(shim->write_us);
    return NEXT(pwritev)(fd, parts, count, offset);
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    wait_us(shim->write_us > 0 && is_file(fd) ? shim->write_us : 0);
    return NEXT(writev)(fd, parts, count);
}
