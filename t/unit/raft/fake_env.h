/* A small env for the log's tests: files in memory that tell what was synced from what only the
 * page cache has, jobs and deferred tasks stepped by hand, and a fault at the n-th file call. No
 * network.
 *
 * fake_power_loss: of every sector written since its file's last sync, the generator decides
 * whether the new bytes stay, the old ones do, or the sector is torn (at a multiple of 8 bytes);
 * names not yet synced stay up to some point in their order. */
#ifndef T_FAKE_ENV_H
#define T_FAKE_ENV_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/list.h"
#include "base/mem.h"
#include "env/env.h"

enum { FAKE_SECTOR = 512, FAKE_FILES = 4096, FAKE_NAMES = 256 };

struct env_file {
    struct fake_env *env;
    uint8_t *cached, *durable;
    size_t size, durable_size, capacity;
    uint8_t *dirty; /* one per sector */
};

struct fake_name {
    char path[56];
    struct env_file *file;
};

struct fake_names {
    struct fake_name items[FAKE_NAMES];
    size_t count;
};

enum fake_fault { FAKE_NONE, FAKE_FAIL_SYNC, FAKE_FAIL_WRITE, FAKE_FULL, FAKE_CRASH };

struct fake_env {
    struct env env;
    struct list tasks, jobs[ENV_JOB_CLASSES];
    struct env_timer *timers[16];
    uint64_t now_us;
    uint64_t random;
    struct env_file *files[FAKE_FILES];
    size_t file_count;
    struct fake_names names;       /* as the page cache has them */
    struct fake_names history[64]; /* [0]: durable; then after each change since */
    size_t history_count;
    /* Fault: the fault_at-th changing file call from now on (1 = the next) and, for FULL and CRASH,
     * all later ones. */
    enum fake_fault fault;
    uint64_t fault_at;
    uint64_t calls; /* changing file calls */
    uint64_t syncs, writes;
    size_t space_left; /* bytes that files may still grow by */
    bool skip_syncs;   /* a build without fdatasync: what must be caught */
};

static inline uint64_t fake_random(struct fake_env *fake)
{
    fake->random += 0x9e3779b97f4a7c15u;
    uint64_t z = fake->random;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static inline uint64_t fake_below(struct fake_env *fake, uint64_t bound)
{
    return fake_random(fake) % bound;
}

static inline struct fake_env *fake_of(struct env *env)
{
    return (struct fake_env *)env;
}

/* 0, or the error that this call must answer with. */
static inline int fake_call(struct fake_env *fake, enum fake_fault which, struct err *err)
{
    fake->calls++;
    if (fake->fault == FAKE_NONE || fake->calls < fake->fault_at) {
        return 0;
    }
    if (fake->fault == FAKE_CRASH) {
        return err_set(err, ERR_IO, "the machine is gone");
    }
    if (fake->fault == FAKE_FULL && which == FAKE_FAIL_WRITE) {
        return err_set(err, ERR_DISK_FULL, "no space left");
    }
    if (fake->fault == which) {
        fake->fault = FAKE_NONE;
        return err_set(err, ERR_IO, "injected");
    }
    return 0;
}

static inline struct env_file *fake_find(struct fake_env *fake, const char *path)
{
    for (size_t i = 0; i < fake->names.count; i++) {
        if (strcmp(fake->names.items[i].path, path) == 0) {
            return fake->names.items[i].file;
        }
    }
    return NULL;
}

static inline void fake_names_changed(struct fake_env *fake)
{
    CHECK(fake->history_count < 64);
    fake->history[fake->history_count++] = fake->names;
}

static inline void fake_grow(struct env_file *file, size_t size)
{
    if (size > file->capacity) {
        size_t capacity = file->capacity ? file->capacity : 4096;
        while (capacity < size) {
            capacity *= 2;
        }
        file->cached = realloc(file->cached, capacity);
        file->durable = realloc(file->durable, capacity);
        file->dirty = realloc(file->dirty, capacity / FAKE_SECTOR);
        memset(file->cached + file->capacity, 0, capacity - file->capacity);
        memset(file->durable + file->capacity, 0, capacity - file->capacity);
        memset(file->dirty + file->capacity / FAKE_SECTOR, 0,
               (capacity - file->capacity) / FAKE_SECTOR);
        file->capacity = capacity;
    }
    if (size > file->size) {
        file->size = size;
    }
}

static inline uint64_t fake_now_us(struct env *env)
{
    return fake_of(env)->now_us += 10;
}
static inline uint64_t fake_wall_us(struct env *env)
{
    return fake_of(env)->now_us;
}
static inline void fake_random_bytes(struct env *env, void *out, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        ((uint8_t *)out)[i] = (uint8_t)fake_random(fake_of(env));
    }
}
static inline void fake_defer(struct env *env, struct env_task *task)
{
    if (!list_is_linked(&task->link)) {
        list_append(&fake_of(env)->tasks, &task->link);
    }
}
static inline void fake_timer_stop(struct env *env, struct env_timer *timer)
{
    for (int i = 0; i < 16; i++) {
        if (fake_of(env)->timers[i] == timer) {
            fake_of(env)->timers[i] = NULL;
        }
    }
    timer->due_us = 0;
}
static inline void fake_timer_start(struct env *env, struct env_timer *timer, uint64_t delay_us)
{
    fake_timer_stop(env, timer);
    timer->due_us = fake_of(env)->now_us + delay_us;
    for (int i = 0; i < 16; i++) {
        if (!fake_of(env)->timers[i]) {
            fake_of(env)->timers[i] = timer;
            return;
        }
    }
    CHECK(false);
}
static inline void fake_job_start(struct env *env, enum env_job_class class, struct env_job *job)
{
    list_append(&fake_of(env)->jobs[class], &job->link);
}

static inline int fake_open(struct env *env, const char *path, int flags, struct env_file **out,
                            struct err *err)
{
    struct fake_env *fake = fake_of(env);
    struct env_file *file = fake_find(fake, path);
    if (!file && !(flags & ENV_FILE_CREATE)) {
        return err_set(err, ERR_NOT_FOUND, "%s: not there", path);
    }
    if (!file) {
        int rc = fake_call(fake, FAKE_FAIL_WRITE, err);
        if (rc < 0) {
            return rc;
        }
        CHECK(fake->file_count < FAKE_FILES && fake->names.count < FAKE_NAMES);
        file = calloc(1, sizeof *file);
        file->env = fake;
        fake->files[fake->file_count++] = file;
        snprintf(fake->names.items[fake->names.count].path, sizeof fake->names.items[0].path, "%s",
                 path);
        fake->names.items[fake->names.count++].file = file;
        fake_names_changed(fake);
    }
    *out = file;
    return 0;
}
static inline int fake_read(struct env_file *file, uint64_t offset, void *out, size_t size,
                            size_t *got, struct err *err)
{
    *got = offset >= file->size ? 0 : file->size - offset < size ? file->size - offset : size;
    if (*got) {
        memcpy(out, file->cached + offset, *got);
    }
    return 0;
}
static inline int fake_write(struct env_file *file, uint64_t offset, const void *data, size_t size,
                             struct err *err)
{
    struct fake_env *fake = file->env;
    /* The crash may come in the middle: then some of it is in the cache. */
    bool is_crashing = fake->fault == FAKE_CRASH && fake->calls + 1 == fake->fault_at;
    int rc = fake_call(fake, FAKE_FAIL_WRITE, err);
    if (rc < 0 && !is_crashing) {
        return rc;
    }
    if (offset + size > file->size) {
        size_t more = offset + size - file->size;
        if (more > fake->space_left) {
            return err_set(err, ERR_DISK_FULL, "no space left");
        }
        fake->space_left -= more;
    }
    fake_grow(file, offset + size);
    memcpy(file->cached + offset, data, size);
    for (size_t i = offset / FAKE_SECTOR; size && i <= (offset + size - 1) / FAKE_SECTOR; i++) {
        file->dirty[i] = 1;
    }
    fake->writes++;
    return rc;
}
static inline void fake_make_durable(struct env_file *file)
{
    if (file->size) {
        memcpy(file->durable, file->cached, file->size);
        memset(file->dirty, 0, file->capacity / FAKE_SECTOR);
    }
    file->durable_size = file->size;
}
static inline int fake_sync(struct env_file *file, struct err *err)
{
    int rc = fake_call(file->env, FAKE_FAIL_SYNC, err);
    file->env->syncs++;
    if (rc == 0 && !file->env->skip_syncs) {
        fake_make_durable(file);
    }
    return rc;
}
static inline int fake_size(struct env_file *file, uint64_t *out, struct err *err)
{
    *out = file->size;
    return 0;
}
static inline int fake_resize(struct env_file *file, uint64_t size, struct err *err)
{
    CHECK(size >= file->size); /* the log never cuts */
    fake_grow(file, size);
    return 0;
}
static inline void fake_close(struct env_file *file)
{
}
static inline void fake_unname(struct fake_env *fake, const char *path)
{
    for (size_t i = 0; i < fake->names.count; i++) {
        if (strcmp(fake->names.items[i].path, path) == 0) {
            fake->names.items[i] = fake->names.items[--fake->names.count];
            return;
        }
    }
}
static inline int fake_rename(struct env *env, const char *from, const char *to, struct err *err)
{
    struct fake_env *fake = fake_of(env);
    int rc = fake_call(fake, FAKE_NONE, err);
    struct env_file *file = fake_find(fake, from);
    if (rc < 0 || !file) {
        return rc < 0 ? rc : err_set(err, ERR_NOT_FOUND, "%s: not there", from);
    }
    fake_unname(fake, to);
    fake_unname(fake, from);
    snprintf(fake->names.items[fake->names.count].path, sizeof fake->names.items[0].path, "%s", to);
    fake->names.items[fake->names.count++].file = file;
    fake_names_changed(fake);
    return 0;
}
static inline int fake_remove(struct env *env, const char *path, struct err *err)
{
    struct fake_env *fake = fake_of(env);
    int rc = fake_call(fake, FAKE_NONE, err);
    struct env_file *file = fake_find(fake, path);
    if (rc < 0 || !file) {
        return rc < 0 ? rc : err_set(err, ERR_NOT_FOUND, "%s: not there", path);
    }
    fake->space_left += file->size;
    fake_unname(fake, path);
    fake_names_changed(fake);
    return 0;
}
static inline int fake_dir_make(struct env *env, const char *path, struct err *err)
{
    return 0;
}
static inline int fake_dir_sync(struct env *env, const char *path, struct err *err)
{
    struct fake_env *fake = fake_of(env);
    int rc = fake_call(fake, FAKE_FAIL_SYNC, err);
    if (rc == 0) {
        fake->history[0] = fake->names;
        fake->history_count = 1;
    }
    return rc;
}
static inline int fake_compare(const void *a, const void *b)
{
    return strcmp(((const struct fake_name *)a)->path, ((const struct fake_name *)b)->path);
}
static inline int fake_dir_list(struct env *env, const char *path,
                                void (*each)(void *ctx, const char *name), void *ctx,
                                struct err *err)
{
    struct fake_env *fake = fake_of(env);
    size_t prefix = strlen(path);
    qsort(fake->names.items, fake->names.count, sizeof fake->names.items[0], fake_compare);
    for (size_t i = 0; i < fake->names.count; i++) {
        const char *name = fake->names.items[i].path;
        if (strncmp(name, path, prefix) == 0 && name[prefix] == '/') {
            each(ctx, name + prefix + 1);
        }
    }
    return 0;
}
static inline int fake_dir_lock(struct env *env, const char *path, struct err *err)
{
    return 0;
}

static const struct env_ops fake_ops = {
    .now_us = fake_now_us,
    .wall_us = fake_wall_us,
    .random = fake_random_bytes,
    .defer = fake_defer,
    .timer_start = fake_timer_start,
    .timer_stop = fake_timer_stop,
    .job_start = fake_job_start,
    .file_open = fake_open,
    .file_read = fake_read,
    .file_write = fake_write,
    .file_sync = fake_sync,
    .file_size = fake_size,
    .file_resize = fake_resize,
    .file_close = fake_close,
    .file_rename = fake_rename,
    .file_remove = fake_remove,
    .dir_make = fake_dir_make,
    .dir_sync = fake_dir_sync,
    .dir_list = fake_dir_list,
    .dir_lock = fake_dir_lock,
};

static inline struct fake_env *fake_new(uint64_t seed)
{
    struct fake_env *fake = calloc(1, sizeof *fake);
    fake->env.ops = &fake_ops;
    fake->random = seed;
    fake->now_us = 1;
    fake->history_count = 1;
    fake->space_left = (size_t)1 << 40;
    list_init(&fake->tasks);
    for (int i = 0; i < ENV_JOB_CLASSES; i++) {
        list_init(&fake->jobs[i]);
    }
    return fake;
}

static inline void fake_free(struct fake_env *fake)
{
    for (size_t i = 0; i < fake->file_count; i++) {
        free(fake->files[i]->cached);
        free(fake->files[i]->durable);
        free(fake->files[i]->dirty);
        free(fake->files[i]);
    }
    free(fake);
}

static inline void fake_run_tasks(struct fake_env *fake)
{
    struct list *link;
    while ((link = list_take_first(&fake->tasks))) {
        struct env_task *task = container_of(link, struct env_task, link);
        task->run(task);
    }
}

/* One job of the class, whole: work, done, the rest of the turn. False when there is none. */
static inline bool fake_run_job(struct fake_env *fake, enum env_job_class class)
{
    struct list *link = list_take_first(&fake->jobs[class]);
    if (!link) {
        return false;
    }
    struct env_job *job = container_of(link, struct env_job, link);
    job->work(job);
    job->done(job);
    fake_run_tasks(fake);
    return true;
}

static inline void fake_fire_timers(struct fake_env *fake)
{
    for (int i = 0; i < 16; i++) {
        struct env_timer *timer = fake->timers[i];
        if (timer) {
            fake_timer_stop(&fake->env, timer);
            timer->fire(timer);
        }
    }
    fake_run_tasks(fake);
}

/* Runs until nothing waits but timers. */
static inline void fake_run(struct fake_env *fake)
{
    fake_run_tasks(fake);
    for (int rounds = 0; rounds < 100000; rounds++) {
        bool ran = false;
        for (int class = 0; class < ENV_JOB_CLASSES; class ++) {
            ran |= fake_run_job(fake, class);
        }
        if (!ran) {
            return;
        }
    }
    CHECK(false);
}

/* The process is gone: nothing that was started ends. The page cache stays. */
static inline void fake_kill(struct fake_env *fake)
{
    list_init(&fake->tasks);
    for (int i = 0; i < ENV_JOB_CLASSES; i++) {
        list_init(&fake->jobs[i]);
    }
    memset(fake->timers, 0, sizeof fake->timers);
    fake->fault = FAKE_NONE;
}

static inline void fake_lose_sector(struct fake_env *fake, struct env_file *file, size_t sector)
{
    uint8_t *cached = file->cached + sector * FAKE_SECTOR,
            *durable = file->durable + sector * FAKE_SECTOR;
    switch (fake_below(fake, 4)) {
    case 0: /* lost */
        break;
    case 1: { /* torn */
        size_t cut = fake_below(fake, FAKE_SECTOR / 8 + 1) * 8;
        if (fake_below(fake, 2)) {
            memcpy(durable, cached, cut);
        } else {
            memcpy(durable + cut, cached + cut, FAKE_SECTOR - cut);
        }
        break;
    }
    default: /* kept */
        memcpy(durable, cached, FAKE_SECTOR);
    }
}

/* mode 0: any subset of the unsynced sectors; 1: all kept; 2: all lost; 3: a prefix. */
static inline void fake_power_loss(struct fake_env *fake, int mode)
{
    fake_kill(fake);
    for (size_t i = 0; i < fake->file_count; i++) {
        struct env_file *file = fake->files[i];
        size_t sectors = (file->size + FAKE_SECTOR - 1) / FAKE_SECTOR, dirty = 0;
        for (size_t k = 0; k < sectors; k++) {
            dirty += file->dirty[k];
        }
        size_t left = mode == 3 ? fake_below(fake, dirty + 1) : 0;
        for (size_t k = 0; k < sectors; k++) {
            if (file->dirty[k] && mode == 0) {
                fake_lose_sector(fake, file, k);
            } else if (file->dirty[k] && (mode == 1 || left > 0)) {
                memcpy(file->durable + k * FAKE_SECTOR, file->cached + k * FAKE_SECTOR,
                       FAKE_SECTOR);
                left -= left > 0;
            }
            file->dirty[k] = 0;
        }
        if (file->size) {
            memcpy(file->cached, file->durable, file->size);
        }
        file->durable_size = file->size;
    }
    size_t kept = mode == 2   ? 0
                  : mode == 1 ? fake->history_count - 1
                              : fake_below(fake, fake->history_count);
    fake->names = fake->history[kept];
    fake->history[0] = fake->names;
    fake->history_count = 1;
}

/* What a disk holds, to come back to. */
struct fake_image {
    struct fake_names names;
    uint8_t *bytes[FAKE_FILES];
    size_t count;
};
static inline void fake_settle(struct fake_env *fake);
static inline struct fake_image *fake_save(struct fake_env *fake)
{
    struct fake_image *image = calloc(1, sizeof *image);
    image->names = fake->names;
    for (image->count = 0; image->count < fake->file_count; image->count++) {
        struct env_file *file = fake->files[image->count];
        image->bytes[image->count] = malloc(file->size + 1);
        if (file->size) {
            memcpy(image->bytes[image->count], file->cached, file->size);
        }
    }
    return image;
}
/* Files must not have changed their size. */
static inline void fake_restore(struct fake_env *fake, const struct fake_image *image)
{
    fake->names = image->names;
    for (size_t i = 0; i < image->count; i++) {
        if (fake->files[i]->size) {
            memcpy(fake->files[i]->cached, image->bytes[i], fake->files[i]->size);
        }
    }
    fake_settle(fake);
}
static inline void fake_image_free(struct fake_image *image)
{
    for (size_t i = 0; i < image->count; i++) {
        free(image->bytes[i]);
    }
    free(image);
}

/* All bytes as they are count as durable; before flipping some by hand. */
static inline void fake_settle(struct fake_env *fake)
{
    for (size_t i = 0; i < fake->file_count; i++) {
        fake_make_durable(fake->files[i]);
    }
    fake->history[0] = fake->names;
    fake->history_count = 1;
}

#endif
