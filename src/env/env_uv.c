/* The production env: libuv for the loop and the network, POSIX calls for files, one thread per job
 * class.
 *
 * How a turn goes. libuv's turn is: timers → prepare → wait → network and async → check → closed
 * handles. Deferred tasks are run in `prepare` and in `check`, each time until none is left: so
 * what a network event deferred runs after the last network event of that turn, what a timer or a
 * closed handle deferred runs before the loop waits, and the loop never waits while a task does.
 *
 * What threads have to tell is heard in `check` and in `prepare`, before the tasks: so the log's word
 * that a batch is durable shares a turn with what the network brought. They wake the loop only when it
 * waits or is about to (is_waiting): a busy one looks by itself, which saves both sides a system call.
 *
 * Timers are a binary heap of our own, ordered by (due, start order), under a single uv timer that
 * is armed for the earliest. A node restarts timers far more often than they fire: moving an entry
 * in an array costs no allocation and no call of libuv. The uv timer is left armed when the
 * earliest timer is stopped; firing for nothing is cheaper than arming again.
 *
 * Writes are tried at once (one writev in the common case, no request object); only what the socket
 * did not take goes through uv_write. on_written is a deferred task in the first case, so it never
 * comes inside env_conn_write.
 *
 *   I1  No callback of an owner runs inside a call that the owner makes.
 *   I2  After on_close a connection gets no callback; on_close comes exactly once, for accepted
 *       ones only when attached.
 *   I3  A timer is in the heap exactly when its impl[0] is not NULL: it is then 1 + its position.
 *   I4  The jobs of one class are worked, and told done, in the order in which they were started.
 *
 * Threads: everything on the loop's thread but `work` of jobs, file calls, clocks, and env_uv_post.
 * Helper threads block all signals. */
#include "env/env_uv.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>
#include <uv.h>

#include "base/check.h"
#include "base/mem.h"

enum {
    ENV_READ_BYTES = 256 << 10, /* one read buffer per env: the bytes are consumed inside on_data */
    ENV_BACKLOG = 1024,
    ENV_KEEPALIVE_S = 60,
    ENV_USER_TIMEOUT_MS =
        20 * 1000, /* sent and not acknowledged by the other kernel for so long: it is gone */
    ENV_SIGNALS = 8,
    ENV_HOST_BYTES = 256,
    ENV_PEER_BYTES = 64,
};

struct env_uv;

/* One job class: a queue and the thread that works it. A semaphore rather than a condition: behind a
 * wait for one, glibc takes the mutex as if others waited for it, and its unlock is a system call. */
struct worker {
    struct env_uv *env;
    uv_thread_t thread;
    uv_mutex_t mutex;
    uv_sem_t posted;  /* one for each job, and one for the end */
    struct list jobs; /* under mutex */
    bool is_running;  /* the thread exists; loop thread only */
    const char *name;
};

struct timer_entry {
    uint64_t due_us;
    uint64_t order;
    struct env_timer *timer;
};

struct post {
    struct list link;
    void (*fn)(void *ctx);
    void *ctx;
};

struct signal_watch {
    uv_signal_t handle;
    void (*on_signal)(void *ctx, int signal_number);
    void *ctx;
};

/* A directory that is locked until the env goes. */
struct dir_lock {
    struct list link;
    int fd;
};

struct env_uv {
    struct env base;
    uv_loop_t loop;
    uv_prepare_t prepare;
    uv_check_t check;
    uv_poll_t wake;
    int wake_fd;
    uv_timer_t clock;
    uint64_t clock_ms; /* what the clock is armed for, loop time; 0: not armed */

    struct list tasks;
    struct timer_entry *timers;
    size_t timers_count, timers_capacity;
    uint64_t timers_order;

    struct worker workers[ENV_JOB_CLASSES];
    uv_mutex_t mutex;      /* guards the next three */
    struct list jobs_done; /* worked, to be told */
    struct list posts;
    bool
        is_waiting; /* the loop waits, or will before it looks at the lists again; who finds it set wakes it */
    bool is_joined;

    struct list conns, listeners, locks;
    uv_buf_t *scratch; /* a write's parts as libuv wants them */
    size_t scratch_capacity;
    struct signal_watch signals[ENV_SIGNALS];
    size_t signals_count;
    uint8_t *read_bytes;
};

struct env_file {
    int fd;
    int direct_fd; /* the same file, opened for direct writes; -1: it isn't */
    char *path;
};

struct env_listener {
    struct list link;
    struct env_uv *env;
    uv_tcp_t tcp;
    void (*on_accept)(void *ctx, struct env_conn *conn);
    void *ctx;
    char address[ENV_PEER_BYTES];
};

/*   resolving → connecting → open → closing → closed        resolve_done, connect_next,
 * connect_done, conn_begin_close, closed accepted ────────────↗ listener_ready While connecting, a
 * handle that failed is closed and made anew for the next address of the name (is_retrying). */
enum conn_state { CONN_RESOLVING, CONN_CONNECTING, CONN_OPEN, CONN_CLOSING, CONN_CLOSED };

struct env_conn {
    struct list link;
    struct env_uv *env;
    uv_tcp_t tcp;
    uv_connect_t connect;
    uv_write_t write;
    uv_getaddrinfo_t resolve;
    struct addrinfo *addresses, *next_address; /* of a host name */
    const struct env_conn_events *events;      /* NULL: not attached */
    void *ctx;
    struct env_task written; /* tells on_written after a write that went out at once */
    enum conn_state state;
    bool is_resolving, is_retrying, is_paused, is_writing;
    int status; /* for on_close */
    char peer[ENV_PEER_BYTES];
};

static struct env_uv *env_uv_of(struct env *env)
{
    return (struct env_uv *)env;
}

/* --- Clocks and random */

static uint64_t now_us(struct env *env)
{
    uint64_t now = uv_hrtime() / 1000;

    return now ? now : 1;
}

static uint64_t wall_us(struct env *env)
{
    struct timespec now;

    CHECK(clock_gettime(CLOCK_REALTIME, &now) == 0);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static void random_bytes(struct env *env, void *out, size_t size)
{
    uint8_t *at = out;

    while (size) {
        ssize_t got = getrandom(at, size, 0);
        CHECK(got > 0 ||
              errno ==
                  EINTR); /* with flags 0 and good memory there is no other failure: getrandom(2) */
        if (got > 0) {
            at += got;
            size -= (size_t)got;
        }
    }
}

/* --- Memory */

static void memory_trim(struct env *env)
{
    malloc_trim(0);
}

/* --- Deferred tasks */

static void defer(struct env *env, struct env_task *task)
{
    if (!list_is_linked(&task->link)) {
        list_append(&env_uv_of(env)->tasks, &task->link);
    }
}

static void tasks_run(struct env_uv *env)
{
    struct list *link;

    while ((link = list_take_first(&env->tasks))) {
        struct env_task *task = container_of(link, struct env_task, link);
        task->run(task);
    }
}

/* --- Timers */

static bool timer_is_before(const struct timer_entry *a, const struct timer_entry *b)
{
    return a->due_us != b->due_us ? a->due_us < b->due_us : a->order < b->order;
}

static void timer_place(struct env_uv *env, size_t at, struct timer_entry entry)
{
    env->timers[at] = entry;
    entry.timer->impl[0] = (void *)(at + 1);
}

/* Puts the entry where it belongs, beginning at a position that is free. */
static void timer_sift(struct env_uv *env, size_t at, struct timer_entry entry)
{
    while (at && timer_is_before(&entry, &env->timers[(at - 1) / 2])) {
        timer_place(env, at, env->timers[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    for (size_t child; (child = 2 * at + 1) < env->timers_count; at = child) {
        if (child + 1 < env->timers_count &&
            timer_is_before(&env->timers[child + 1], &env->timers[child])) {
            child++;
        }
        if (!timer_is_before(&env->timers[child], &entry)) {
            break;
        }
        timer_place(env, at, env->timers[child]);
    }
    timer_place(env, at, entry);
}

static void clock_fired(uv_timer_t *handle);

/* Arms the one uv timer for the earliest of ours. uv_timer_start counts from the loop's cached
 * time, so the absolute time is exact however old that cache is. */
static void clock_arm(struct env_uv *env)
{
    if (!env->timers_count ||
        uv_is_closing((uv_handle_t *)&env->clock)) { /* closing: an on_close in env_uv_free */
        return;
    }
    uint64_t due_ms = (env->timers[0].due_us + 999) / 1000;
    if (env->clock_ms && env->clock_ms <= due_ms) {
        return;
    }
    uint64_t loop_ms = uv_now(&env->loop);
    CHECK(uv_timer_start(&env->clock, clock_fired, due_ms > loop_ms ? due_ms - loop_ms : 0, 0) ==
          0);
    env->clock_ms = due_ms;
}

static void timer_remove(struct env_uv *env, struct env_timer *timer)
{
    size_t at = (size_t)timer->impl[0] - 1;

    CHECK(at < env->timers_count && env->timers[at].timer == timer);
    timer->impl[0] = NULL;
    timer->due_us = 0;
    struct timer_entry last = env->timers[--env->timers_count];
    if (at < env->timers_count) {
        timer_sift(env, at, last);
    }
}

static void timer_start(struct env *base, struct env_timer *timer, uint64_t delay_us)
{
    struct env_uv *env = env_uv_of(base);
    uint64_t now = now_us(base);

    CHECK(timer->fire != NULL);
    timer->due_us = delay_us > UINT64_MAX / 2 - now ? UINT64_MAX / 2 : now + delay_us;
    struct timer_entry entry = { timer->due_us, ++env->timers_order, timer };
    size_t at = (size_t)timer->impl[0];
    if (at) {
        CHECK(at - 1 < env->timers_count && env->timers[at - 1].timer == timer);
        timer_sift(env, at - 1, entry);
    } else {
        if (env->timers_count == env->timers_capacity) {
            env->timers_capacity = env->timers_capacity ? env->timers_capacity * 2 : 64;
            env->timers = mem_realloc(env->timers, env->timers_capacity * sizeof *env->timers);
        }
        timer_sift(env, env->timers_count++, entry);
    }
    clock_arm(env);
}

static void timer_stop(struct env *base, struct env_timer *timer)
{
    if (timer->impl[0]) {
        timer_remove(env_uv_of(base), timer);
    }
}

/* Fires what is due. Timers started meanwhile wait for the next turn, so that one restarting itself
 * can't hold the loop. */
static void clock_fired(uv_timer_t *handle)
{
    struct env_uv *env = handle->data;
    uint64_t now = now_us(&env->base);
    uint64_t order = env->timers_order;

    env->clock_ms = 0;
    while (env->timers_count && env->timers[0].due_us <= now && env->timers[0].order <= order) {
        struct env_timer *timer = env->timers[0].timer;
        timer_remove(env, timer);
        timer->fire(timer);
    }
    clock_arm(env);
}

/* --- Jobs */

/* Puts something into a list that the loop looks at, and wakes it if need be. Any thread. */
static void tell_loop(struct env_uv *env, struct list *told, struct list *link)
{
    uv_mutex_lock(&env->mutex);
    list_append(told, link);
    bool is_waiting = env->is_waiting;
    env->is_waiting = false; /* one wakes it for all */
    uv_mutex_unlock(&env->mutex);
    if (is_waiting) {
        uint64_t one = 1;
        ssize_t written = write(env->wake_fd, &one, sizeof one);
        CHECK(written == sizeof one);
    }
}

static struct env_job *worker_take(struct worker *worker)
{
    uv_sem_wait(&worker->posted);
    uv_mutex_lock(&worker->mutex);
    struct list *link = list_take_first(&worker->jobs);
    uv_mutex_unlock(&worker->mutex);
    return link ? container_of(link, struct env_job, link) : NULL;
}

static void worker_main(void *arg)
{
    struct worker *worker = arg;
    struct env_job *job;

    pthread_setname_np(pthread_self(), worker->name);
    while ((job = worker_take(worker))) {
        job->work(job);
        tell_loop(worker->env, &worker->env->jobs_done, &job->link);
    }
}

static void worker_start(struct worker *worker)
{
    sigset_t all, old;

    sigfillset(&all);
    CHECK(pthread_sigmask(SIG_BLOCK, &all, &old) == 0);
    CHECK(uv_thread_create(&worker->thread, worker_main, worker) == 0);
    CHECK(pthread_sigmask(SIG_SETMASK, &old, NULL) == 0);
    worker->is_running = true;
}

static void job_start(struct env *base, enum env_job_class class, struct env_job *job)
{
    struct env_uv *env = env_uv_of(base);
    struct worker *worker = &env->workers[class];

    CHECK(class < ENV_JOB_CLASSES);
    if (!worker->is_running && !env->is_joined) { /* joined: jobs_finish takes it */
        worker_start(worker);
    }
    uv_mutex_lock(&worker->mutex);
    list_append(&worker->jobs, &job->link);
    uv_mutex_unlock(&worker->mutex);
    uv_sem_post(&worker->posted);
}

/* Moves a whole list; `from` is empty afterwards. */
static void list_move(struct list *to, struct list *from)
{
    struct list *link;

    list_init(to);
    if (list_is_empty(from)) {
        return;
    }
    link = from->next;
    to->next = link;
    to->prev = from->prev;
    link->prev = to;
    to->prev->next = to;
    list_init(from);
}

/* Tells what threads have done; is_to_wait: the loop waits next. */
static void hear_threads(struct env_uv *env, bool is_to_wait)
{
    struct list jobs, posts, *link;

    uv_mutex_lock(&env->mutex);
    env->is_waiting = is_to_wait;
    list_move(&jobs, &env->jobs_done);
    list_move(&posts, &env->posts);
    uv_mutex_unlock(&env->mutex);
    while ((link = list_take_first(&jobs))) {
        struct env_job *job = container_of(link, struct env_job, link);
        job->done(job);
    }
    while ((link = list_take_first(&posts))) {
        struct post *post = container_of(link, struct post, link);
        post->fn(post->ctx);
        mem_free(post);
    }
}

static void prepare_turn(uv_prepare_t *handle)
{
    tasks_run(handle->data);
    hear_threads(handle->data, true);
    tasks_run(handle->data);
}

static void check_turn(uv_check_t *handle)
{
    hear_threads(handle->data, false);
    tasks_run(handle->data);
}

/* Only ends the wait: `check` looks what there is. */
static void wake_fired(uv_poll_t *handle, int status, int events)
{
    struct env_uv *env = handle->data;
    uint64_t count;

    ssize_t got = read(env->wake_fd, &count, sizeof count);
    CHECK(got == sizeof count || errno == EAGAIN || errno == EINTR);
}

void env_uv_post(struct env *base, void (*fn)(void *ctx), void *ctx)
{
    struct env_uv *env = env_uv_of(base);
    struct post *post = MEM_NEW(struct post);

    post->fn = fn;
    post->ctx = ctx;
    tell_loop(env, &env->posts, &post->link);
}

/* --- Files */

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

static int file_open(struct env *env, const char *path, int flags, struct env_file **out,
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

static int file_read(struct env_file *file, uint64_t offset, void *out, size_t size, size_t *got,
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
static int file_write(struct env_file *file, uint64_t offset, const void *data, size_t size,
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
static int file_sync(struct env_file *file, struct err *err)
{
    int status;

    do {
        status = fdatasync(file->fd);
    } while (status < 0 && errno == EINTR);
    return status < 0 ? file_failed(err, errno, "fdatasync", file->path) : 0;
}

static int file_size(struct env_file *file, uint64_t *out, struct err *err)
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

static int file_resize(struct env_file *file, uint64_t size, struct err *err)
{
    uint64_t old;
    int error;
    int status = file_size(file, &old, err);

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

static void file_close(struct env_file *file)
{
    close(file->fd);
    if (file->direct_fd >= 0) {
        close(file->direct_fd);
    }
    mem_free(file->path);
    mem_free(file);
}

static int file_rename(struct env *env, const char *from, const char *to, struct err *err)
{
    return rename(from, to) < 0 ? file_failed(err, errno, "rename", from) : 0;
}

static int file_remove(struct env *env, const char *path, struct err *err)
{
    return unlink(path) < 0 ? file_failed(err, errno, "remove", path) : 0;
}

static int dir_make(struct env *env, const char *path, struct err *err)
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

static int dir_sync(struct env *env, const char *path, struct err *err)
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

static int dir_room(struct env *env, const char *path, uint64_t *out, struct err *err)
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

static int dir_list(struct env *env, const char *path, void (*each)(void *ctx, const char *name),
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

static int dir_lock(struct env *env, const char *path, struct err *err)
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

/* --- Addresses */

/* Cuts "HOST:PORT" or "[V6]:PORT". */
static int address_cut(const char *address, char host[ENV_HOST_BYTES], const char **port,
                       struct err *err)
{
    bool has_bracket = address[0] == '[';
    const char *colon = strrchr(address, ':');
    const char *from = address + has_bracket;
    const char *to = colon;
    unsigned long number = 0;

    if (has_bracket && colon && colon > from && colon[-1] == ']') {
        to = colon - 1;
    } else if (has_bracket || !colon || memchr(address, ':', (size_t)(colon - address))) {
        return err_set(err, ERR_USAGE, "address %s: must be HOST:PORT or [V6]:PORT", address);
    }
    if (to == from || (size_t)(to - from) >= ENV_HOST_BYTES) {
        return err_set(err, ERR_USAGE, "address %s: the host is empty or too long", address);
    }
    for (const char *at = colon + 1; *at; at++) {
        number = *at >= '0' && *at <= '9' && number < 65536
                     ? number * 10 + (unsigned long)(*at - '0')
                     : 65536;
    }
    if (!colon[1] || number > 65535) {
        return err_set(err, ERR_USAGE, "address %s: the port must be a number up to 65535",
                       address);
    }
    memcpy(host, from, (size_t)(to - from));
    host[to - from] = '\0';
    *port = colon + 1;
    return 0;
}

/* A numeric address; false when host is a name. */
static bool address_parse_numeric(const char *host, const char *port, struct sockaddr_storage *out)
{
    int number = atoi(port);

    return uv_ip4_addr(host, number, (struct sockaddr_in *)out) == 0 ||
           uv_ip6_addr(host, number, (struct sockaddr_in6 *)out) == 0;
}

static void address_format(const struct sockaddr_storage *address, char out[ENV_PEER_BYTES])
{
    char host[INET6_ADDRSTRLEN] = "?";

    if (address->ss_family == AF_INET6) {
        const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)address;
        uv_ip6_name(v6, host, sizeof host);
        snprintf(out, ENV_PEER_BYTES, "[%s]:%u", host, ntohs(v6->sin6_port));
    } else {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)address;
        uv_ip4_name(v4, host, sizeof host);
        snprintf(out, ENV_PEER_BYTES, "%s:%u", host, ntohs(v4->sin_port));
    }
}

/* --- Connections */

static void conn_closed(uv_handle_t *handle);
static void connect_next(struct env_conn *conn);

static struct env_conn *conn_new(struct env_uv *env)
{
    struct env_conn *conn = MEM_NEW(struct env_conn);

    conn->env = env;
    CHECK(uv_tcp_init(&env->loop, &conn->tcp) == 0); /* makes no socket yet, so it can't fail */
    conn->tcp.data = conn;
    list_append(&env->conns, &conn->link);
    return conn;
}

/* Closes the handle; on_close comes from conn_closed, in a later phase of the loop. */
static void conn_begin_close(struct env_conn *conn, int status)
{
    if (conn->state >= CONN_CLOSING) {
        return;
    }
    conn->state = CONN_CLOSING;
    conn->status = status;
    list_remove(&conn->written.link);
    if (conn->is_resolving) {
        uv_cancel((uv_req_t *)&conn->resolve);
    }
    if (!uv_is_closing(
            (uv_handle_t *)&conn->tcp)) { /* it is when the next address was about to be tried */
        uv_close((uv_handle_t *)&conn->tcp, conn_closed);
    }
}

static void conn_free(struct env_conn *conn)
{
    list_remove(&conn->link);
    uv_freeaddrinfo(conn->addresses);
    mem_free(conn);
}

static void conn_closed(uv_handle_t *handle)
{
    struct env_conn *conn = handle->data;

    if (conn->state == CONN_CONNECTING && conn->is_retrying) {
        conn->is_retrying = false;
        CHECK(uv_tcp_init(&conn->env->loop, &conn->tcp) == 0);
        conn->tcp.data = conn;
        connect_next(conn);
        return;
    }
    CHECK(conn->state == CONN_CLOSING);
    conn->state = CONN_CLOSED;
    if (conn->events) {
        conn->events->on_close(conn->ctx, conn, conn->status);
    }
    if (!conn->is_resolving) { /* otherwise resolve_done frees it */
        conn_free(conn);
    }
}

static void read_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *out)
{
    struct env_conn *conn = handle->data;

    *out = uv_buf_init((char *)conn->env->read_bytes, ENV_READ_BYTES);
}

static void read_done(uv_stream_t *stream, ssize_t got, const uv_buf_t *bytes)
{
    struct env_conn *conn = stream->data;

    if (got < 0) {
        conn_begin_close(conn, got == UV_EOF ? 0 : ERR_CLOSED);
    } else if (got > 0 && conn->state == CONN_OPEN) {
        conn->events->on_data(conn->ctx, conn, span_of(bytes->base, (size_t)got));
    }
}

/* Reads when it should and stops when it should not. */
static void conn_read_update(struct env_conn *conn)
{
    if (conn->state != CONN_OPEN || !conn->events) {
        return;
    }
    if (conn->is_paused) {
        uv_read_stop((uv_stream_t *)&conn->tcp);
    } else {
        int status = uv_read_start((uv_stream_t *)&conn->tcp, read_alloc, read_done);
        CHECK(status == 0 || status == UV_EALREADY || status == UV_ENOTCONN);
        if (status == UV_ENOTCONN) { /* the peer was quicker to leave */
            conn_begin_close(conn, ERR_CLOSED);
        }
    }
}

static void conn_tune(struct env_conn *conn)
{
    struct sockaddr_storage address;
    int size = sizeof address;

    /* Both can fail only when the peer is gone already, which the first read or write will tell. */
    uv_tcp_nodelay(&conn->tcp, 1);
    uv_tcp_keepalive(&conn->tcp, 1, ENV_KEEPALIVE_S);
    int descriptor, timeout_ms = ENV_USER_TIMEOUT_MS;
    if (uv_fileno((uv_handle_t *)&conn->tcp, &descriptor) == 0) {
        setsockopt(descriptor, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout_ms, sizeof timeout_ms);
    }
    if (uv_tcp_getpeername(&conn->tcp, (struct sockaddr *)&address, &size) == 0) {
        address_format(&address, conn->peer);
    } else if (!conn->peer[0]) {
        snprintf(conn->peer, sizeof conn->peer, "?");
    }
}

/* --- Listening */

static void listener_ready(uv_stream_t *stream, int status)
{
    struct env_listener *listener = stream->data;

    if (status < 0) { /* e.g. no descriptors left: libuv itself sheds the connection, the peer sees
                         it closed */
        return;
    }
    struct env_conn *conn = conn_new(listener->env);
    if (uv_accept(stream, (uv_stream_t *)&conn->tcp) < 0) {
        conn_begin_close(conn, ERR_CLOSED);
        return;
    }
    conn->state = CONN_OPEN;
    conn_tune(conn);
    listener->on_accept(listener->ctx, conn);
    if (!conn->events) {
        conn_begin_close(conn, 0);
    }
}

static void listener_closed(uv_handle_t *handle)
{
    mem_free(handle->data);
}

static void listener_close(struct env_listener *listener)
{
    list_remove(&listener->link);
    uv_close((uv_handle_t *)&listener->tcp, listener_closed);
}

/* The address to bind; names are resolved here and now, since listening happens once at start. */
static int listen_resolve(const char *address, struct sockaddr_storage *out, struct err *err)
{
    char host[ENV_HOST_BYTES];
    const char *port;
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV };
    struct addrinfo *found;
    int status = address_cut(address, host, &port, err);

    memset(out, 0, sizeof *out);
    if (status || address_parse_numeric(host, port, out)) {
        return status;
    }
    status = getaddrinfo(host, port, &hints, &found);
    if (status) {
        return err_set(err, ERR_USAGE, "address %s: %s", address, gai_strerror(status));
    }
    memcpy(out, found->ai_addr, found->ai_addrlen);
    freeaddrinfo(found);
    return 0;
}

static int env_uv_listen(struct env *base, const char *address,
                         void (*on_accept)(void *ctx, struct env_conn *conn), void *ctx,
                         struct env_listener **out, struct err *err)
{
    struct env_uv *env = env_uv_of(base);
    struct sockaddr_storage to;
    int size = sizeof to;
    int status = listen_resolve(address, &to, err);

    if (status) {
        return status;
    }
    struct env_listener *listener = MEM_NEW(struct env_listener);
    listener->env = env;
    listener->on_accept = on_accept;
    listener->ctx = ctx;
    CHECK(uv_tcp_init(&env->loop, &listener->tcp) == 0);
    listener->tcp.data = listener;
    list_append(&env->listeners, &listener->link);
    /* uv_tcp_bind sets SO_REUSEADDR, and keeps an address in use for uv_listen to tell. */
    status = uv_tcp_bind(&listener->tcp, (struct sockaddr *)&to, 0);
    if (!status) {
        status = uv_listen((uv_stream_t *)&listener->tcp, ENV_BACKLOG, listener_ready);
    }
    if (!status) {
        status = uv_tcp_getsockname(&listener->tcp, (struct sockaddr *)&to, &size);
    }
    if (status) {
        listener_close(listener);
        return err_set(err, ERR_IO, "listen on %s: %s", address, uv_strerror(status));
    }
    address_format(&to, listener->address);
    *out = listener;
    return 0;
}

const char *env_uv_listener_address(struct env_listener *listener)
{
    return listener->address;
}

/* --- Connecting */

static void connect_failed(struct env_conn *conn)
{
    if (conn->next_address) { /* a used handle can't connect again: close it and go on with a new
                                 one */
        conn->is_retrying = true;
        uv_close((uv_handle_t *)&conn->tcp, conn_closed);
    } else {
        conn_begin_close(conn, ERR_CONNECT);
    }
}

static void connect_done(uv_connect_t *request, int status)
{
    struct env_conn *conn = request->data;

    if (conn->state != CONN_CONNECTING) {
        return;
    }
    if (status) {
        connect_failed(conn);
        return;
    }
    conn->state = CONN_OPEN;
    conn_tune(conn);
    conn->events->on_open(conn->ctx, conn);
    conn_read_update(conn); /* does nothing when on_open closed it */
}

static void connect_to(struct env_conn *conn, const struct sockaddr *address)
{
    conn->state = CONN_CONNECTING;
    conn->connect.data = conn;
    if (uv_tcp_connect(&conn->connect, &conn->tcp, address, connect_done) < 0) {
        connect_failed(conn);
    }
}

static void connect_next(struct env_conn *conn)
{
    struct addrinfo *address = conn->next_address;

    conn->next_address = address->ai_next;
    connect_to(conn, address->ai_addr);
}

static void resolve_done(uv_getaddrinfo_t *request, int status, struct addrinfo *addresses)
{
    struct env_conn *conn = request->data;

    conn->is_resolving = false;
    conn->addresses = conn->next_address = addresses;
    if (conn->state == CONN_CLOSED) {
        conn_free(conn);
    } else if (conn->state == CONN_RESOLVING) {
        if (status || !addresses) {
            conn_begin_close(conn, ERR_CONNECT);
        } else {
            connect_next(conn);
        }
    }
}

static int env_uv_connect(struct env *base, const char *address,
                          const struct env_conn_events *events, void *ctx, struct env_conn **out,
                          struct err *err)
{
    struct env_uv *env = env_uv_of(base);
    char host[ENV_HOST_BYTES];
    const char *port;
    struct sockaddr_storage to;
    int status = address_cut(address, host, &port, err);

    if (status) {
        return status;
    }
    struct env_conn *conn = conn_new(env);
    conn->events = events;
    conn->ctx = ctx;
    snprintf(conn->peer, sizeof conn->peer, "%s", address);
    memset(&to, 0, sizeof to);
    if (address_parse_numeric(host, port, &to)) {
        connect_to(conn, (struct sockaddr *)&to);
    } else {
        struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV };
        conn->state = CONN_RESOLVING;
        conn->resolve.data = conn;
        conn->is_resolving =
            uv_getaddrinfo(&env->loop, &conn->resolve, resolve_done, host, port, &hints) == 0;
        if (!conn->is_resolving) {
            conn_begin_close(conn, ERR_CONNECT);
        }
    }
    *out = conn;
    return 0;
}

static void conn_attach(struct env_conn *conn, const struct env_conn_events *events, void *ctx)
{
    CHECK(conn->state == CONN_OPEN && !conn->events);
    conn->events = events;
    conn->ctx = ctx;
    conn_read_update(conn);
}

/* --- Writing */

static void written_run(struct env_task *task)
{
    struct env_conn *conn = container_of(task, struct env_conn, written);

    CHECK(conn->state == CONN_OPEN); /* conn_begin_close takes the task out */
    conn->is_writing = false;
    conn->events->on_written(conn->ctx, conn);
}

static void write_done(uv_write_t *request, int status)
{
    struct env_conn *conn = request->data;

    if (conn->state != CONN_OPEN) {
        return;
    }
    if (status) {
        conn_begin_close(conn, ERR_CLOSED);
        return;
    }
    conn->is_writing = false;
    conn->events->on_written(conn->ctx, conn);
}

/* The parts as libuv's buffers, without empty ones, in memory of the env that the next call reuses.
 */
static size_t write_fill(struct env_uv *env, const struct span *parts, size_t count)
{
    size_t filled = 0;

    if (count > env->scratch_capacity) {
        env->scratch = mem_realloc(env->scratch, count * sizeof *env->scratch);
        env->scratch_capacity = count;
    }
    for (size_t i = 0; i < count; i++) {
        if (parts[i].size) { /* the cast drops const: libuv only reads */
            env->scratch[filled++] =
                (uv_buf_t){ .base = (char *)parts[i].data, .len = parts[i].size };
        }
    }
    return filled;
}

/* Drops the first `size` bytes of the buffers; returns how many buffers are done with. */
static size_t write_skip(uv_buf_t *bufs, size_t count, size_t size)
{
    size_t at = 0;

    while (at < count && size >= bufs[at].len) {
        size -= bufs[at++].len;
    }
    if (size) {
        bufs[at].base += size;
        bufs[at].len -= size;
    }
    return at;
}

static int conn_write(struct env_conn *conn, const struct span *parts, size_t count)
{
    struct env_uv *env = conn->env;
    size_t filled, at = 0;

    if (conn->state >= CONN_CLOSING) {
        return ERR_CLOSED;
    }
    CHECK(conn->state == CONN_OPEN && !conn->is_writing);
    filled = write_fill(env, parts, count);
    conn->is_writing = true;
    if (filled) {
        int status = uv_try_write((uv_stream_t *)&conn->tcp, env->scratch, (unsigned)filled);
        if (status < 0 && status != UV_EAGAIN) {
            conn_begin_close(conn, ERR_CLOSED);
            return ERR_CLOSED;
        }
        at = write_skip(env->scratch, filled, status > 0 ? (size_t)status : 0);
    }
    if (at == filled) {
        conn->written.run = written_run;
        defer(&env->base, &conn->written);
        return 0;
    }
    conn->write.data = conn;
    if (uv_write(&conn->write, (uv_stream_t *)&conn->tcp, env->scratch + at,
                 (unsigned)(filled - at), write_done) < 0) {
        conn_begin_close(conn, ERR_CLOSED);
        return ERR_CLOSED;
    }
    return 0;
}

static void conn_pause(struct env_conn *conn, bool paused)
{
    if (conn->is_paused != paused) {
        conn->is_paused = paused;
        conn_read_update(conn);
    }
}

static const char *conn_peer(struct env_conn *conn)
{
    return conn->peer;
}

static void conn_close(struct env_conn *conn)
{
    conn_begin_close(conn, 0);
}

/* --- The env's own life */

static const struct env_ops env_uv_ops = {
    .now_us = now_us,
    .wall_us = wall_us,
    .random = random_bytes,
    .defer = defer,
    .timer_start = timer_start,
    .timer_stop = timer_stop,
    .job_start = job_start,
    .memory_trim = memory_trim,
    .file_open = file_open,
    .file_read = file_read,
    .file_write = file_write,
    .file_sync = file_sync,
    .file_size = file_size,
    .file_resize = file_resize,
    .file_close = file_close,
    .file_rename = file_rename,
    .file_remove = file_remove,
    .dir_make = dir_make,
    .dir_sync = dir_sync,
    .dir_list = dir_list,
    .dir_lock = dir_lock,
    .dir_room = dir_room,
    .listen = env_uv_listen,
    .listener_close = listener_close,
    .connect = env_uv_connect,
    .conn_attach = conn_attach,
    .conn_write = conn_write,
    .conn_pause = conn_pause,
    .conn_peer = conn_peer,
    .conn_close = conn_close,
};

static void env_uv_init_workers(struct env_uv *env)
{
    static const char *const names[ENV_JOB_CLASSES] = { "cairn-log", "cairn-flush", "cairn-read" };

    for (size_t i = 0; i < ENV_JOB_CLASSES; i++) {
        struct worker *worker = &env->workers[i];
        worker->env = env;
        worker->name = names[i];
        list_init(&worker->jobs);
        CHECK(uv_mutex_init(&worker->mutex) == 0);
        CHECK(uv_sem_init(&worker->posted, 0) == 0);
    }
}

/* An eventfd of our own rather than a uv_async_t: in libuv 1.44 the woken loop spins until the sender has
 * come back from its system call, which on few cores is that which it interrupted. */
static int wake_open(struct env_uv *env)
{
    int status;

    env->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (env->wake_fd < 0) {
        return uv_translate_sys_error(errno);
    }
    if ((status = uv_poll_init(&env->loop, &env->wake, env->wake_fd))) {
        close(env->wake_fd);
        return status;
    }
    CHECK(uv_poll_start(&env->wake, UV_READABLE, wake_fired) == 0);
    return 0;
}

int env_uv_new(struct env **out, struct err *err)
{
    struct env_uv *env = MEM_NEW(struct env_uv);
    int status = uv_loop_init(&env->loop);

    if (!status && (status = wake_open(env))) {
        uv_loop_close(&env->loop);
    }
    if (status) {
        mem_free(env);
        return err_set(err, ERR_IO, "make an event loop: %s", uv_strerror(status));
    }
    signal(SIGPIPE, SIG_IGN); /* libuv writes with writev: a peer that left would end the process */
    env->base.ops = &env_uv_ops;
    CHECK(uv_prepare_init(&env->loop, &env->prepare) == 0 &&
          uv_prepare_start(&env->prepare, prepare_turn) == 0);
    CHECK(uv_check_init(&env->loop, &env->check) == 0 &&
          uv_check_start(&env->check, check_turn) == 0);
    CHECK(uv_timer_init(&env->loop, &env->clock) == 0);
    env->wake.data = env->prepare.data = env->check.data = env->clock.data = env;
    list_init(&env->tasks);
    list_init(&env->jobs_done);
    list_init(&env->posts);
    list_init(&env->conns);
    list_init(&env->listeners);
    list_init(&env->locks);
    CHECK(uv_mutex_init(&env->mutex) == 0);
    env_uv_init_workers(env);
    env->read_bytes = mem_alloc(ENV_READ_BYTES);
    *out = &env->base;
    return 0;
}

void env_uv_run(struct env *base)
{
    struct env_uv *env = env_uv_of(base);

    uv_run(&env->loop, UV_RUN_DEFAULT);
    tasks_run(env); /* what the last closed handles deferred: the turn ends here */
}

void env_uv_stop(struct env *base)
{
    uv_stop(&env_uv_of(base)->loop);
}

static void signal_fired(uv_signal_t *handle, int signal_number)
{
    struct signal_watch *watch = handle->data;

    watch->on_signal(watch->ctx, signal_number);
}

int env_uv_signal(struct env *base, int signal_number,
                  void (*on_signal)(void *ctx, int signal_number), void *ctx, struct err *err)
{
    struct env_uv *env = env_uv_of(base);

    CHECK(env->signals_count < ENV_SIGNALS);
    struct signal_watch *watch = &env->signals[env->signals_count];
    int status = uv_signal_init(&env->loop, &watch->handle);
    if (status) {
        return err_set(err, ERR_IO, "watch signal %d: %s", signal_number, uv_strerror(status));
    }
    env->signals_count++; /* from here on the handle must be closed */
    watch->handle.data = watch;
    watch->on_signal = on_signal;
    watch->ctx = ctx;
    status = uv_signal_start(&watch->handle, signal_fired, signal_number);
    return status ? err_set(err, ERR_IO, "watch signal %d: %s", signal_number, uv_strerror(status))
                  : 0;
}

void env_uv_join(struct env *base)
{
    struct env_uv *env = env_uv_of(base);

    env->is_joined = true;
    for (size_t i = 0; i < ENV_JOB_CLASSES; i++) {
        struct worker *worker = &env->workers[i];
        if (!worker->is_running) {
            continue;
        }
        uv_sem_post(&worker->posted);
        CHECK(uv_thread_join(&worker->thread) == 0);
        worker->is_running = false;
    }
}

static void env_uv_close_handles(struct env_uv *env)
{
    LIST_FOR_SAFE(link, &env->conns)
    {
        conn_begin_close(container_of(link, struct env_conn, link), ERR_CLOSED);
    }
    LIST_FOR_SAFE(link, &env->listeners)
    {
        listener_close(container_of(link, struct env_listener, link));
    }
    for (size_t i = 0; i < env->signals_count; i++) {
        uv_close((uv_handle_t *)&env->signals[i].handle, NULL);
    }
    uv_close((uv_handle_t *)&env->prepare, NULL);
    uv_close((uv_handle_t *)&env->check, NULL);
    uv_close((uv_handle_t *)&env->wake, NULL);
    uv_close((uv_handle_t *)&env->clock, NULL);
    uv_run(&env->loop, UV_RUN_DEFAULT);
    CHECK(list_is_empty(&env->conns));
    CHECK(uv_loop_close(&env->loop) == 0);
    close(env->wake_fd);
}

/* Tells what was worked, and works and tells what that starts. The helper threads have ended. */
static void jobs_finish(struct env_uv *env)
{
    struct list *link;
    bool found;

    do {
        found = false;
        while ((link = list_take_first(&env->jobs_done))) {
            struct env_job *job = container_of(link, struct env_job, link);
            job->done(job);
            found = true;
        }
        for (size_t i = 0; i < ENV_JOB_CLASSES; i++) {
            while ((link = list_take_first(&env->workers[i].jobs))) {
                struct env_job *job = container_of(link, struct env_job, link);
                job->work(job);
                list_append(&env->jobs_done, &job->link);
                found = true;
            }
        }
    } while (found);
}

void env_uv_free(struct env *base)
{
    struct env_uv *env = env_uv_of(base);
    struct list *link;

    env_uv_join(base);
    jobs_finish(env);
    env_uv_close_handles(env);
    jobs_finish(env); /* what an on_close started */
    while ((link = list_take_first(&env->posts))) {
        mem_free(container_of(link, struct post, link));
    }
    while ((link = list_take_first(&env->locks))) {
        struct dir_lock *lock = container_of(link, struct dir_lock, link);
        close(lock->fd);
        mem_free(lock);
    }
    for (size_t i = 0; i < ENV_JOB_CLASSES; i++) {
        uv_mutex_destroy(&env->workers[i].mutex);
        uv_sem_destroy(&env->workers[i].posted);
    }
    uv_mutex_destroy(&env->mutex);
    mem_free(env->timers);
    mem_free(env->scratch);
    mem_free(env->read_bytes);
    mem_free(env);
}
