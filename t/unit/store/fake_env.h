/* A tiny env for the store's tests: virtual time, jobs and timers that run when the test says so,
 * on the test's own thread. */
#ifndef T_UNIT_STORE_FAKE_ENV_H
#define T_UNIT_STORE_FAKE_ENV_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/check.h"
#include "base/logger.h"
#include "env/env.h"

struct fake_env {
    struct env env;
    uint64_t now_us;
    struct list jobs;     /* started, not worked */
    struct list finished; /* worked, done not called */
    struct list deferred;
    struct env_timer *timers[8];
};

static inline uint64_t fake_now_us(struct env *env)
{
    return ++((struct fake_env *)env)->now_us;
}

static inline void fake_timer_stop(struct env *env, struct env_timer *timer)
{
    struct fake_env *fake = (struct fake_env *)env;
    for (int i = 0; i < 8; i++) {
        if (fake->timers[i] == timer) {
            fake->timers[i] = NULL;
        }
    }
    timer->due_us = 0;
}

static inline void fake_timer_start(struct env *env, struct env_timer *timer, uint64_t delay_us)
{
    struct fake_env *fake = (struct fake_env *)env;
    fake_timer_stop(env, timer);
    for (int i = 0; i < 8; i++) {
        if (!fake->timers[i]) {
            fake->timers[i] = timer;
            timer->due_us = fake->now_us + delay_us + 1;
            return;
        }
    }
    CHECK(!"too many timers");
}

static inline void fake_job_start(struct env *env, enum env_job_class class, struct env_job *job)
{
    CHECK(class == ENV_JOB_FLUSH || class == ENV_JOB_READ);
    list_append(&((struct fake_env *)env)->jobs, &job->link);
}

static inline int fake_dir_make(struct env *env, const char *path, struct err *err)
{
    (void)env;
    return mkdir(path, 0700) == 0 || errno == EEXIST ? 0 : err_set(err, ERR_IO, "mkdir %s", path);
}

static inline int fake_dir_sync(struct env *env, const char *path, struct err *err)
{
    (void)env, (void)path, (void)err;
    return 0;
}

static inline int fake_dir_list(struct env *env, const char *path,
                                void (*each)(void *ctx, const char *name), void *ctx,
                                struct err *err)
{
    (void)env;
    DIR *dir = opendir(path);
    if (!dir) {
        return err_set(err, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "opendir %s", path);
    }
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        if (entry->d_name[0] != '.') {
            each(ctx, entry->d_name);
        }
    }
    closedir(dir);
    return 0;
}

static inline int fake_file_open(struct env *env, const char *path, int flags,
                                 struct env_file **out, struct err *err)
{
    (void)env, (void)flags;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    *out = (struct env_file *)(intptr_t)fd;
    return fd > 0 ? 0 : err_set(err, ERR_IO, "open %s", path);
}

static inline void fake_file_close(struct env_file *file)
{
    close((int)(intptr_t)file);
}

static inline int fake_file_rename(struct env *env, const char *from, const char *to,
                                   struct err *err)
{
    (void)env;
    return rename(from, to) == 0 ? 0 : err_set(err, ERR_IO, "rename %s", from);
}

static inline void fake_defer(struct env *env, struct env_task *task)
{
    if (!list_is_linked(&task->link)) {
        list_append(&((struct fake_env *)env)->deferred, &task->link);
    }
}

static inline void fake_env_init(struct fake_env *fake)
{
    static const struct env_ops ops = { .now_us = fake_now_us,
                                        .wall_us = fake_now_us,
                                        .timer_start = fake_timer_start,
                                        .timer_stop = fake_timer_stop,
                                        .job_start = fake_job_start,
                                        .defer = fake_defer,
                                        .file_open = fake_file_open,
                                        .file_close = fake_file_close,
                                        .file_rename = fake_file_rename,
                                        .dir_make = fake_dir_make,
                                        .dir_list = fake_dir_list,
                                        .dir_sync = fake_dir_sync };
    *fake = (struct fake_env){ .env.ops = &ops, .now_us = 1000 };
    list_init(&fake->jobs);
    list_init(&fake->finished);
    list_init(&fake->deferred);
}

/* Does the oldest started job's work; its end is still to come. False: there is none. */
static inline bool fake_env_work(struct fake_env *fake)
{
    struct list *link = list_take_first(&fake->jobs);
    if (!link) {
        return false;
    }
    struct env_job *job = container_of(link, struct env_job, link);
    job->work(job);
    list_append(&fake->finished, &job->link);
    return true;
}

/* Delivers the oldest job's end. */
static inline bool fake_env_finish(struct fake_env *fake)
{
    struct list *link = list_take_first(&fake->finished);
    if (!link) {
        return false;
    }
    struct env_job *job = container_of(link, struct env_job, link);
    job->done(job);
    return true;
}

/* Runs what was deferred. */
static inline void fake_env_turn(struct fake_env *fake)
{
    struct list *link;
    while ((link = list_take_first(&fake->deferred)) != NULL) {
        struct env_task *task = container_of(link, struct env_task, link);
        task->run(task);
    }
}

/* Lets time pass and fires what is due. */
static inline void fake_env_pass(struct fake_env *fake, uint64_t us)
{
    fake->now_us += us;
    for (int i = 0; i < 8; i++) {
        struct env_timer *timer = fake->timers[i];
        if (timer && timer->due_us <= fake->now_us) {
            fake->timers[i] = NULL;
            timer->due_us = 0;
            timer->fire(timer);
        }
    }
}

/* All jobs, and the timers that are due soon after them. */
static inline void fake_env_settle(struct fake_env *fake)
{
    while (fake_env_work(fake) || fake_env_finish(fake)) {
    }
    fake_env_pass(fake, 10);
}

static inline void fake_log(void *ctx, enum logger_level level, const char *line)
{
    (void)ctx, (void)level;
    printf("# %s\n", line);
}

/* A fresh folder under /tmp; the caller removes it with fake_remove_directory. */
static inline char *fake_make_directory(void)
{
    char template[] = "/tmp/cairn-store-XXXXXX";
    CHECK(mkdtemp(template) != NULL);
    return strdup(template);
}

static inline void fake_remove_directory(char *path)
{
    char name[128];
    snprintf(name, sizeof name, "%s/data.mdb", path);
    unlink(name);
    snprintf(name, sizeof name, "%s/lock.mdb", path);
    unlink(name);
    snprintf(name, sizeof name, "%s/condemned", path);
    unlink(name);
    rmdir(path);
    free(path);
}

#endif
