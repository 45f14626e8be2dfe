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
 * Files: this one has the loop, timers, jobs and the env's own life; env_uv_files.c, env_uv_net.c and env_uv_load.c
 * what their names say; env_uv_private.h what they share.
 *
 *   I1  No callback of an owner runs inside a call that the owner makes.
 *   I2  After on_close a connection gets no callback; on_close comes exactly once, for accepted
 *       ones only when attached.
 *   I3  A timer is in the heap exactly when its impl[0] is not NULL: it is then 1 + its position.
 *   I4  The jobs of one class are worked, and told done, in the order in which they were started.
 *   I5  While the loop is busy, it and the helper threads that work for it have SCHED_BATCH: woken, they don't interrupt what runs
 *       (docs/decisions/018). A loop that is idle mostly is in a hurry: it has the usual policy.
 *
 * Threads: everything on the loop's thread but `work` of jobs, file calls, clocks, and env_uv_post.
 * Helper threads block all signals. */
#include "env/env_uv.h"

#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>
#include <uv.h>

#include "base/check.h"
#include "base/mem.h"
#include "env/env_uv_private.h"

struct post {
    struct list link;
    void (*fn)(void *ctx);
    void *ctx;
};

static uint64_t now_us(struct env *env)
{
    uint64_t now = uv_hrtime() / 1000;

    return now ? now : 1;
}

uint64_t env_uv_clock_us(clockid_t clock)
{
    struct timespec now;

    CHECK(clock_gettime(clock, &now) == 0);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static uint64_t wall_us(struct env *env)
{
    return env_uv_clock_us(CLOCK_REALTIME);
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

void env_uv_defer(struct env *env, struct env_task *task)
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
    bool is_batch = worker->is_to_be_batch;
    uv_mutex_unlock(&worker->mutex);
    env_uv_load_follow(worker, is_batch);
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
    worker->is_to_be_batch = env->load.is_batch;
    uv_mutex_unlock(&worker->mutex);
    uv_sem_post(&worker->posted);
}

/* malloc gives the free end of its memory back to the system by itself, to ask for it again with the next load: each page then costs a
 * fault. So it keeps that; memory_trim gives it back. Large pieces come from there, too, not each by a mapping of its own. */
static void memory_keep(void)
{
    enum { KEPT_BYTES = 256 << 20, PIECE_BYTES_MAX = 32 << 20 };

    (void)mallopt(M_TRIM_THRESHOLD, KEPT_BYTES);
    (void)mallopt(M_MMAP_THRESHOLD, PIECE_BYTES_MAX);
}

/* Each thread has an arena of its own. malloc_trim leaves their ends alone: who frees something large there looks at them. */
static void trim_work(struct env_job *job)
{
    enum { LARGE = 128 << 10 };

    (void)mallopt(M_TRIM_THRESHOLD, LARGE);
    uint8_t *volatile large = malloc(LARGE);
    free(large);
    memory_keep();
}

/* One thread after another: the threshold is the process's. */
static void trim_next(struct env_uv *env)
{
    while (env->trim_class < ENV_JOB_CLASSES && !env->workers[env->trim_class].is_running) {
        env->trim_class++;
    }
    if (env->trim_class < ENV_JOB_CLASSES) {
        job_start(&env->base, (enum env_job_class)env->trim_class, &env->trim);
    }
}

static void trim_done(struct env_job *job)
{
    struct env_uv *env = container_of(job, struct env_uv, trim);

    env->trim_class++;
    trim_next(env);
}

static void memory_trim(struct env *base)
{
    struct env_uv *env = env_uv_of(base);

    malloc_trim(0);
    if (env->trim_class == ENV_JOB_CLASSES) { /* else it is under way */
        env->trim_class = 0;
        trim_next(env);
    }
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
    env_uv_load_look(handle->data);
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

static const struct env_ops env_uv_ops = {
    .now_us = now_us,
    .wall_us = wall_us,
    .random = random_bytes,
    .defer = env_uv_defer,
    .timer_start = timer_start,
    .timer_stop = timer_stop,
    .job_start = job_start,
    .memory_trim = memory_trim,
    .file_open = env_uv_file_open,
    .file_read = env_uv_file_read,
    .file_write = env_uv_file_write,
    .file_sync = env_uv_file_sync,
    .file_size = env_uv_file_size,
    .file_resize = env_uv_file_resize,
    .file_close = env_uv_file_close,
    .file_rename = env_uv_file_rename,
    .file_remove = env_uv_file_remove,
    .dir_make = env_uv_dir_make,
    .dir_sync = env_uv_dir_sync,
    .dir_list = env_uv_dir_list,
    .dir_lock = env_uv_dir_lock,
    .dir_room = env_uv_dir_room,
    .listen = env_uv_listen,
    .listener_close = env_uv_listener_close,
    .connect = env_uv_connect,
    .conn_attach = env_uv_conn_attach,
    .conn_write = env_uv_conn_write,
    .conn_pause = env_uv_conn_pause,
    .conn_peer = env_uv_conn_peer,
    .conn_close = env_uv_conn_close,
};

static void env_uv_init_workers(struct env_uv *env)
{
    static const char *const names[ENV_JOB_CLASSES] = { "cairn-log", "cairn-flush", "cairn-read" };

    env->trim = (struct env_job){ .work = trim_work, .done = trim_done };
    env->trim_class = ENV_JOB_CLASSES;
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
    memory_keep();
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

    env_uv_load_begin(env);
    uv_run(&env->loop, UV_RUN_DEFAULT);
    tasks_run(env); /* what the last closed handles deferred: the turn ends here */
    env_uv_load_end(env);
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
        env_uv_conn_begin_close(container_of(link, struct env_conn, link), ERR_CLOSED);
    }
    LIST_FOR_SAFE(link, &env->listeners)
    {
        env_uv_listener_close(container_of(link, struct env_listener, link));
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
