/* The production env on a real loop, real files in a temporary folder and real loopback sockets.
 * Every test ends by env_uv_stop from inside; a guard timer fails it when that does not happen. */
#include "env/env_uv.h"

#include <pthread.h>
#include <malloc.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mem.h"

/* A hang only, also under memcheck on a crowded machine. */
enum { GUARD_US = 300 * 1000000 };

/* One env a test, and a log of what happened, as a string. */
struct fixture {
    struct env *env;
    struct env_timer guard;
    struct buf story;
    char dir[64];
};

static void guard_fire(struct env_timer *timer)
{
    fail_msg("the loop was not stopped in time");
}

static int setup(void **state)
{
    struct fixture *fixture = MEM_NEW(struct fixture);
    struct err err;

    assert_int_equal(env_uv_new(&fixture->env, &err), 0);
    fixture->guard.fire = guard_fire;
    env_timer_start(fixture->env, &fixture->guard, GUARD_US);
    strcpy(fixture->dir, "/tmp/test_env_uv.XXXXXX");
    assert_non_null(mkdtemp(fixture->dir));
    *state = fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    char command[128];

    env_timer_stop(fixture->env, &fixture->guard);
    env_uv_free(fixture->env);
    buf_fini(&fixture->story);
    snprintf(command, sizeof command, "rm -rf %s", fixture->dir);
    assert_int_equal(system(command), 0);
    mem_free(fixture);
    return 0;
}

static void assert_story(struct fixture *fixture, const char *expected)
{
    buf_append(&fixture->story, "", 1);
    assert_string_equal((char *)fixture->story.data, expected);
}

/* --- Clocks, tasks, timers */

static void clocks_go_forward(void **state)
{
    struct fixture *fixture = *state;
    uint64_t before = env_now_us(fixture->env);
    uint8_t random[2][32];

    assert_true(before > 0);
    usleep(2000);
    assert_in_range(env_now_us(fixture->env) - before, 2000, 10 * 1000000);
    assert_true(env_wall_us(fixture->env) > 1700000000ull * 1000000);
    env_random(fixture->env, random[0], 32);
    env_random(fixture->env, random[1], 32);
    assert_memory_not_equal(random[0], random[1], 32);
    assert_true(env_random_u64(fixture->env) != env_random_u64(fixture->env));
}

struct story_task {
    struct env_task task;
    struct fixture *fixture;
    const char *name;
    struct story_task *then;
    bool stops;
};

static void story_run(struct env_task *task)
{
    struct story_task *me = container_of(task, struct story_task, task);

    buf_printf(&me->fixture->story, "%s ", me->name);
    if (me->then) {
        env_defer(me->fixture->env, &me->then->task);
    }
    if (me->stops) {
        env_uv_stop(me->fixture->env);
    }
}

static void tasks_run_in_order_until_none_is_left(void **state)
{
    struct fixture *fixture = *state;
    struct story_task c = { { .run = story_run }, fixture, "c", NULL, true };
    struct story_task b = { { .run = story_run }, fixture, "b", NULL, false };
    struct story_task a = { { .run = story_run }, fixture, "a", &c, false };

    env_defer(fixture->env, &a.task);
    env_defer(fixture->env, &b.task);
    env_defer(fixture->env, &a.task); /* waits already */
    env_uv_run(fixture->env);
    assert_story(fixture, "a b c ");
}

struct story_timer {
    struct env_timer timer;
    struct fixture *fixture;
    const char *name;
    uint64_t started_us, delay_us;
    bool stops;
};

static void story_fire(struct env_timer *timer)
{
    struct story_timer *me = container_of(timer, struct story_timer, timer);

    assert_int_equal(timer->due_us, 0);
    assert_true(env_now_us(me->fixture->env) - me->started_us >= me->delay_us); /* never early */
    buf_printf(&me->fixture->story, "%s ", me->name);
    if (me->stops) {
        env_uv_stop(me->fixture->env);
    }
}

static void story_timer_start(struct fixture *fixture, struct story_timer *timer, const char *name,
                              uint64_t delay_us)
{
    timer->fixture = fixture;
    timer->name = name;
    timer->timer.fire = story_fire;
    timer->started_us = env_now_us(fixture->env);
    timer->delay_us = delay_us;
    env_timer_start(fixture->env, &timer->timer, delay_us);
    assert_true(timer->timer.due_us >= timer->started_us + delay_us);
}

static void timers_fire_in_order_and_never_early(void **state)
{
    struct fixture *fixture = *state;
    struct story_timer timers[6] = { 0 };

    story_timer_start(fixture, &timers[0], "400", 400000);
    story_timer_start(fixture, &timers[1], "100", 100000);
    story_timer_start(fixture, &timers[2], "0", 0);
    story_timer_start(fixture, &timers[3], "stopped", 200000);
    story_timer_start(fixture, &timers[4], "restarted", 50000);
    story_timer_start(fixture, &timers[5], "end", 600000);
    timers[5].stops = true;
    env_timer_stop(fixture->env, &timers[3].timer);
    env_timer_stop(fixture->env, &timers[3].timer); /* idle is fine */
    assert_int_equal(timers[3].timer.due_us, 0);
    memset(&timers[3], 0xee, sizeof timers[3]); /* its memory is gone */
    story_timer_start(fixture, &timers[4], "restarted", 500000);
    env_uv_run(fixture->env);
    assert_story(fixture, "0 100 400 restarted end ");
}

/* A timer that starts itself with no delay must not keep the loop from its other work. */
struct eager {
    struct env_timer timer;
    struct env_timer end;
    struct fixture *fixture;
    unsigned fired;
};

static void eager_fire(struct env_timer *timer)
{
    struct eager *eager = container_of(timer, struct eager, timer);

    eager->fired++;
    env_timer_start(eager->fixture->env, timer, 0);
}

static void eager_end(struct env_timer *timer)
{
    struct eager *eager = container_of(timer, struct eager, end);

    env_timer_stop(eager->fixture->env, &eager->timer);
    env_uv_stop(eager->fixture->env);
}

static void a_timer_restarting_itself_leaves_room_for_others(void **state)
{
    struct fixture *fixture = *state;
    struct eager eager = { .timer.fire = eager_fire, .end.fire = eager_end, .fixture = fixture };

    env_timer_start(fixture->env, &eager.timer, 0);
    env_timer_start(fixture->env, &eager.end, 200000);
    env_uv_run(fixture->env);
    assert_true(eager.fired > 1);
}

/* Works in turns of 10 ms: nearly all the time until the loop counts as busy, then hardly until it doesn't. Its jobs tell which
 * policy their thread has: one that started before, one after. */
struct shift {
    struct env_timer timer;
    struct fixture *fixture;
    struct env_job jobs[3];
    int policies[3];
    size_t started, told;
    bool was_busy;
};

static uint64_t thread_cpu_us(void)
{
    struct timespec used;

    assert_int_equal(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used), 0);
    return (uint64_t)used.tv_sec * 1000000 + (uint64_t)used.tv_nsec / 1000;
}

static void shift_job_start(struct shift *shift)
{
    env_job_start(shift->fixture->env, ENV_JOB_LOG, &shift->jobs[shift->started++]);
}

static struct shift *the_shift; /* that a job belongs to */

static void shift_work(struct env_job *job)
{
    the_shift->policies[job - the_shift->jobs] = sched_getscheduler(0);
}

static void shift_job_done(struct env_job *job)
{
    the_shift->told++;
    if (the_shift->told == 3) {
        env_uv_stop(the_shift->fixture->env);
    }
}

static void shift_fire(struct env_timer *timer)
{
    struct shift *shift = container_of(timer, struct shift, timer);
    struct env *env = shift->fixture->env;
    int policy = sched_getscheduler(0);

    if (!shift->was_busy && policy == SCHED_BATCH) {
        shift->was_busy = true;
        shift_job_start(shift);
    } else if (shift->was_busy && policy == SCHED_OTHER) {
        shift_job_start(shift);
        return;
    }
    uint64_t begin_us = env_now_us(env), work_us = shift->was_busy ? 0 : 9000;
    while (env_now_us(env) - begin_us < work_us) {
    }
    env_timer_start(env, timer, 10000 - work_us);
}

static void a_busy_env_interrupts_nobody(void **state)
{
    struct fixture *fixture = *state;
    struct shift shift = { .timer.fire = shift_fire, .fixture = fixture };

    the_shift = &shift;
    for (size_t i = 0; i < 3; i++) {
        shift.jobs[i] = (struct env_job){ .work = shift_work, .done = shift_job_done };
    }
    assert_int_equal(sched_getscheduler(0), SCHED_OTHER);
    shift_job_start(&shift);
    env_timer_start(fixture->env, &shift.timer, 0);
    uint64_t begin_us = env_now_us(fixture->env), begin_cpu_us = thread_cpu_us();
    env_uv_run(fixture->env); /* or the guard ends it */
    uint64_t passed_us = env_now_us(fixture->env) - begin_us;
    if (!shift.was_busy && thread_cpu_us() - begin_cpu_us < passed_us / 4) {
        print_message("# the system left it too little of a processor to be busy\n");
        return;
    }
    assert_int_equal(shift.told, 3);
    assert_int_equal(shift.policies[0], SCHED_OTHER);
    assert_int_equal(shift.policies[1], SCHED_BATCH);
    assert_int_equal(shift.policies[2], SCHED_OTHER);
    assert_int_equal(sched_getscheduler(0), SCHED_OTHER);
}

/* Many timers, started, restarted and stopped at random: each fires once, in order of its due time,
 * or never. */
enum { CROWD = 400 };

struct crowd {
    struct env_timer timers[CROWD];
    uint64_t due_us[CROWD];
    bool expected[CROWD];
    struct fixture *fixture;
    uint64_t last_due_us;
    unsigned left;
};
static struct crowd *crowd_now; /* a test may: it is one thread */

static void crowd_fire(struct env_timer *timer)
{
    size_t at = (size_t)(timer - crowd_now->timers);

    assert_true(crowd_now->expected[at]);
    crowd_now->expected[at] = false;
    assert_true(crowd_now->due_us[at] >= crowd_now->last_due_us);
    crowd_now->last_due_us = crowd_now->due_us[at];
    if (--crowd_now->left == 0) {
        env_uv_stop(crowd_now->fixture->env);
    }
}

static void a_crowd_of_timers_stays_in_order(void **state)
{
    struct crowd crowd = { .fixture = *state };
    struct env *env = crowd.fixture->env;
    uint64_t random = 7;

    crowd_now = &crowd;
    for (int step = 0; step < 5000; step++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        size_t at = random >> 33 & 0xffff;
        at %= CROWD;
        crowd.timers[at].fire = crowd_fire;
        if (random >> 60 < 4) {
            env_timer_stop(env, &crowd.timers[at]);
            crowd.expected[at] = false;
        } else {
            env_timer_start(env, &crowd.timers[at], (random >> 20) % 50000);
            crowd.due_us[at] = crowd.timers[at].due_us;
            crowd.expected[at] = true;
        }
    }
    for (size_t at = 0; at < CROWD; at++) {
        crowd.left += crowd.expected[at];
    }
    assert_true(crowd.left > CROWD / 2);
    env_uv_run(env);
    assert_int_equal(crowd.left, 0);
}

/* --- Jobs, posts, signals */

enum { JOBS = 300 };

struct test_job {
    struct env_job job;
    struct jobs *jobs;
    int number;
    enum env_job_class class;
    bool worked;
};

struct jobs {
    struct fixture *fixture;
    pthread_t loop;
    pthread_t threads[ENV_JOB_CLASSES];
    int worked[ENV_JOB_CLASSES], done[ENV_JOB_CLASSES];
    struct test_job jobs[ENV_JOB_CLASSES][JOBS];
    int left;
};

static void job_work(struct env_job *base)
{
    struct test_job *job = container_of(base, struct test_job, job);
    sigset_t blocked;

    assert_int_equal(job->jobs->worked[job->class]++, job->number);
    if (job->number == 0) {
        job->jobs->threads[job->class] = pthread_self();
    }
    assert_true(pthread_equal(job->jobs->threads[job->class], pthread_self()));
    assert_int_equal(pthread_sigmask(SIG_BLOCK, NULL, &blocked), 0);
    assert_true(sigismember(&blocked, SIGTERM) && sigismember(&blocked, SIGUSR1));
    job->worked = true;
}

static void job_done(struct env_job *base)
{
    struct test_job *job = container_of(base, struct test_job, job);

    assert_true(pthread_equal(job->jobs->loop, pthread_self()));
    assert_true(job->worked);
    assert_int_equal(job->jobs->done[job->class]++, job->number);
    if (--job->jobs->left == 0) {
        env_uv_stop(job->jobs->fixture->env);
    }
}

static void jobs_run_in_order_on_the_thread_of_their_class(void **state)
{
    struct jobs *jobs = MEM_NEW(struct jobs);

    jobs->fixture = *state;
    jobs->loop = pthread_self();
    jobs->left = JOBS * ENV_JOB_CLASSES;
    for (int number = 0; number < JOBS; number++) {
        for (int class = 0; class < ENV_JOB_CLASSES; class ++) {
            struct test_job *job = &jobs->jobs[class][number];
            *job = (struct test_job){
                { .work = job_work, .done = job_done }, jobs, number, class, false
            };
            env_job_start(jobs->fixture->env, class, &job->job);
        }
    }
    env_uv_run(jobs->fixture->env);
    assert_int_equal(jobs->left, 0);
    assert_false(pthread_equal(jobs->threads[0], jobs->threads[1]));
    assert_false(pthread_equal(jobs->threads[0], jobs->loop));
    mem_free(jobs);
}

/* An owner that went away while its job was in flight frees it in `done`: freeing the env must come
 * to that. */
struct orphan {
    struct env_job job;
    struct env *env;
    int *told;
    bool worked, starts_another;
};

static void orphan_work(struct env_job *job)
{
    container_of(job, struct orphan, job)->worked = true;
}

static void orphan_done(struct env_job *job)
{
    struct orphan *orphan = container_of(job, struct orphan, job);

    assert_true(orphan->worked);
    ++*orphan->told;
    if (orphan->starts_another) {
        orphan->starts_another = orphan->worked = false;
        env_job_start(orphan->env, ENV_JOB_FLUSH, job);
    } else {
        mem_free(orphan);
    }
}

static void jobs_left_behind_are_worked_and_told_at_the_end(void **state)
{
    struct fixture *fixture = *state;
    struct err err;
    int told = 0;

    for (int number = 0; number < JOBS; number++) {
        struct orphan *orphan = MEM_NEW(struct orphan);
        *orphan = (struct orphan){ { .work = orphan_work, .done = orphan_done },
                                   fixture->env,
                                   &told,
                                   false,
                                   number % 100 == 0 };
        env_job_start(fixture->env, ENV_JOB_LOG, &orphan->job);
    }
    env_uv_join(fixture->env);
    assert_int_equal(told, 0);
    env_timer_stop(fixture->env, &fixture->guard);
    env_uv_free(fixture->env);
    assert_int_equal(told, JOBS + JOBS / 100);
    assert_int_equal(env_uv_new(&fixture->env, &err), 0);
}

static void post_stop(void *ctx)
{
    struct fixture *fixture = ctx;

    buf_printf(&fixture->story, "posted ");
    env_uv_stop(fixture->env);
}

static void *post_from_elsewhere(void *ctx)
{
    struct fixture *fixture = ctx;

    env_uv_post(fixture->env, post_stop, fixture);
    return NULL;
}

static void another_thread_may_post(void **state)
{
    struct fixture *fixture = *state;
    pthread_t thread;

    assert_int_equal(pthread_create(&thread, NULL, post_from_elsewhere, fixture), 0);
    env_uv_run(fixture->env);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_story(fixture, "posted ");
    env_uv_post(fixture->env, post_stop, fixture); /* never runs; freed with the env */
}

static void on_signal(void *ctx, int number)
{
    struct fixture *fixture = ctx;

    buf_printf(&fixture->story, "%d ", number == SIGUSR1);
    env_uv_stop(fixture->env);
}

static void signals_arrive_on_the_loop(void **state)
{
    struct fixture *fixture = *state;
    struct err err;

    assert_int_equal(env_uv_signal(fixture->env, SIGUSR1, on_signal, fixture, &err), 0);
    assert_int_equal(kill(getpid(), SIGUSR1), 0);
    env_uv_run(fixture->env);
    assert_story(fixture, "1 ");
    assert_int_equal(env_uv_signal(fixture->env, 4711, on_signal, fixture, &err), ERR_IO);
}

/* --- Files */

static void a_file_keeps_what_was_written(void **state)
{
    struct fixture *fixture = *state;
    struct env *env = fixture->env;
    struct env_file *file;
    struct err err;
    char path[128], moved[128], bytes[16];
    uint64_t size;
    size_t got;

    snprintf(path, sizeof path, "%s/a", fixture->dir);
    snprintf(moved, sizeof moved, "%s/b", fixture->dir);
    assert_int_equal(env_file_open(env, path, ENV_FILE_READ, &file, &err), ERR_NOT_FOUND);
    assert_non_null(strstr(err.text, path));
    assert_int_equal(env_file_open(env, path, ENV_FILE_WRITE | ENV_FILE_CREATE | ENV_FILE_EXCLUSIVE,
                                   &file, &err),
                     0);
    assert_int_equal(env_file_write(env, file, 3, "defg", 4, &err), 0);
    assert_int_equal(env_file_write(env, file, 0, "abc", 3, &err), 0);
    assert_int_equal(env_file_sync(env, file, &err), 0);
    assert_int_equal(env_file_size(env, file, &size, &err), 0);
    assert_int_equal(size, 7);
    env_file_close(env, file);
    assert_int_equal(env_file_open(env, path, ENV_FILE_WRITE | ENV_FILE_CREATE | ENV_FILE_EXCLUSIVE,
                                   &file, &err),
                     ERR_EXISTS);
    assert_int_equal(env_file_rename(env, path, moved, &err), 0);
    assert_int_equal(env_file_rename(env, path, moved, &err), ERR_NOT_FOUND);
    assert_int_equal(env_dir_sync(env, fixture->dir, &err), 0);

    assert_int_equal(env_file_open(env, moved, ENV_FILE_READ, &file, &err), 0);
    assert_int_equal(env_file_read(env, file, 2, bytes, 3, &got, &err), 0);
    assert_int_equal(got, 3);
    assert_memory_equal(bytes, "cde", 3);
    assert_int_equal(env_file_read(env, file, 5, bytes, sizeof bytes, &got, &err), 0);
    assert_int_equal(got, 2); /* the end of the file */
    assert_int_equal(env_file_read(env, file, 100, bytes, sizeof bytes, &got, &err), 0);
    assert_int_equal(got, 0);
    assert_int_equal(env_file_write(env, file, 0, "x", 1, &err), ERR_IO); /* opened to read */
    env_file_close(env, file);
    assert_int_equal(env_file_remove(env, moved, &err), 0);
    assert_int_equal(env_file_remove(env, moved, &err), ERR_NOT_FOUND);
}

static void a_file_grows_with_zeroes_and_is_cut(void **state)
{
    struct fixture *fixture = *state;
    struct env *env = fixture->env;
    struct env_file *file;
    struct err err;
    char path[128], bytes[4096], zeroes[4096] = { 0 };
    uint64_t size;
    size_t got;

    snprintf(path, sizeof path, "%s/a", fixture->dir);
    assert_int_equal(env_file_open(env, path, ENV_FILE_WRITE | ENV_FILE_CREATE, &file, &err), 0);
    assert_int_equal(env_file_write(env, file, 0, "abc", 3, &err), 0);
    assert_int_equal(env_file_resize(env, file, 100000, &err), 0);
    assert_int_equal(env_file_size(env, file, &size, &err), 0);
    assert_int_equal(size, 100000);
    assert_int_equal(env_file_read(env, file, 3, bytes, sizeof bytes, &got, &err), 0);
    assert_int_equal(got, sizeof bytes);
    assert_memory_equal(bytes, zeroes, sizeof bytes);
    assert_int_equal(env_file_resize(env, file, 2, &err), 0);
    assert_int_equal(env_file_read(env, file, 0, bytes, sizeof bytes, &got, &err), 0);
    assert_int_equal(got, 2);
    assert_int_equal(env_file_resize(env, file, 1ull << 62, &err) < 0, 1);
    assert_int_equal(env_file_size(env, file, &size, &err), 0);
    assert_int_equal(size, 2); /* a failed growth leaves nothing behind */
    env_file_close(env, file);
}

/* Direct writes, and such as can't be, lie side by side in one file, over old bytes and behind its end. */
static void direct_writes_mix_with_others(void **state)
{
    enum { SIZE = 64 << 10, SECTOR = ENV_FILE_DIRECT_SECTOR };
    struct fixture *fixture = *state;
    struct env *env = fixture->env;
    struct env_file *file;
    struct err err;
    char path[128];
    size_t got;
    uint8_t *memory = mem_alloc(SIZE + ENV_FILE_DIRECT_ALIGN), *aligned = env_direct_align(memory);
    uint8_t *expected = mem_zalloc(SIZE), *found = mem_alloc(SIZE);

    assert_int_equal((uintptr_t)aligned % ENV_FILE_DIRECT_ALIGN, 0);
    assert_in_range(aligned - memory, 0, ENV_FILE_DIRECT_ALIGN - 1);
    snprintf(path, sizeof path, "%s/direct", fixture->dir);
    int flags = ENV_FILE_WRITE | ENV_FILE_CREATE | ENV_FILE_DIRECT;
    assert_int_equal(env_file_open(env, path, flags, &file, &err), 0);
    static const struct {
        size_t offset, size, from; /* in the aligned memory */
    } writes[] = {
        { 0, SIZE, 0 },
        { SECTOR, 3 * SECTOR, 0 },
        { 5 * SECTOR, 100, 0 },
        { 777, 5000, 0 },
        { 8192, 4096, 0 },
        { 8192, SECTOR, 16 },
        { SECTOR, 20 * SECTOR, 0 },
        { SIZE - SECTOR, SECTOR, 0 },
    };
    for (size_t i = 0; i < sizeof writes / sizeof writes[0]; i++) {
        memset(aligned, 'a' + (int)i, SIZE);
        memset(expected + writes[i].offset, 'a' + (int)i, writes[i].size);
        assert_int_equal(env_file_write(env, file, writes[i].offset, aligned + writes[i].from,
                                        writes[i].size, &err),
                         0);
        assert_int_equal(env_file_read(env, file, 0, found, SIZE, &got, &err), 0);
        assert_int_equal(got, SIZE);
        assert_memory_equal(found, expected, SIZE);
    }
    assert_int_equal(env_file_sync(env, file, &err), 0);
    env_file_close(env, file);
    mem_free(memory);
    mem_free(expected);
    mem_free(found);
}

static void a_full_disk_has_its_own_error(void **state)
{
    struct fixture *fixture = *state;
    struct env_file *file;
    struct err err;

    assert_int_equal(env_file_open(fixture->env, "/dev/full", ENV_FILE_WRITE, &file, &err), 0);
    assert_int_equal(env_file_write(fixture->env, file, 0, "x", 1, &err), ERR_DISK_FULL);
    env_file_close(fixture->env, file);
}

static void collect_name(void *ctx, const char *name)
{
    buf_printf(ctx, "%s ", name);
}

static void directories_are_made_listed_and_locked(void **state)
{
    struct fixture *fixture = *state;
    struct env *env = fixture->env;
    struct env *other;
    struct env_file *file;
    struct err err;
    char path[128], name[160];

    snprintf(path, sizeof path, "%s/x/y//z/", fixture->dir);
    assert_int_equal(env_dir_make(env, path, &err), 0);
    assert_int_equal(env_dir_make(env, path, &err), 0);
    static const char *const names[] = { "b", "a", "B", "c" };
    for (size_t i = 0; i < 4; i++) {
        snprintf(name, sizeof name, "%s%s", path, names[i]);
        assert_int_equal(env_file_open(env, name, ENV_FILE_WRITE | ENV_FILE_CREATE, &file, &err),
                         0);
        env_file_close(env, file);
    }
    assert_int_equal(env_dir_list(env, path, collect_name, &fixture->story, &err), 0);
    assert_story(fixture, "B a b c ");
    snprintf(name, sizeof name, "%sa/below-a-file", path);
    assert_int_equal(env_dir_make(env, name, &err), ERR_IO);
    snprintf(name, sizeof name, "%sa", path);
    assert_int_equal(env_dir_make(env, name, &err), ERR_IO);
    assert_int_equal(env_dir_list(env, "/nowhere/at/all", collect_name, NULL, &err), ERR_NOT_FOUND);
    assert_int_equal(env_dir_sync(env, "/nowhere/at/all", &err), ERR_NOT_FOUND);

    assert_int_equal(env_uv_new(&other, &err), 0);
    assert_int_equal(env_dir_lock(other, path, &err), 0);
    assert_int_equal(env_dir_lock(env, path, &err), ERR_BUSY);
    env_uv_free(other);
    assert_int_equal(env_dir_lock(env, path, &err), 0);
    assert_int_equal(env_dir_lock(env, "/nowhere/at/all", &err), ERR_NOT_FOUND);
}

/* --- Network: a server that echoes, and a client that sends more than socket buffers hold. */
enum { ECHO_BYTES = 12 << 20, ECHO_ROUNDS = 3 };

struct end {
    struct net *net;
    struct env_conn *conn;
    struct buf in, out; /* out: being written */
    bool is_writing;
    int closed;
    int status;
};

struct net {
    struct fixture *fixture;
    struct env_listener *listener;
    struct end server, client;
    int rounds;
    int closed;
    bool in_write;
};

static void end_write(struct end *end)
{
    struct span parts[3] = { span_of(end->out.data, end->out.size / 3), { NULL, 0 } };

    parts[2] = span_of(end->out.data + parts[0].size, end->out.size - parts[0].size);
    end->is_writing = true;
    end->net->in_write = true;
    assert_int_equal(env_conn_write(end->net->fixture->env, end->conn, parts, 3), 0);
    end->net->in_write = false;
}

static void server_flush(struct end *end)
{
    struct buf empty = end->out;

    if (!end->is_writing && end->in.size) {
        buf_clear(&empty);
        end->out = end->in;
        end->in = empty;
        end_write(end);
    }
}

static void server_data(void *ctx, struct env_conn *conn, struct span data)
{
    struct end *end = ctx;

    assert_ptr_equal(end->conn, conn);
    buf_append_span(&end->in, data);
    server_flush(end);
}

static void server_written(void *ctx, struct env_conn *conn)
{
    struct end *end = ctx;

    assert_false(end->net->in_write);
    end->is_writing = false;
    server_flush(end);
}

static void end_close(void *ctx, struct env_conn *conn, int status)
{
    struct end *end = ctx;

    end->closed++;
    end->status = status;
    if (++end->net->closed == 2) {
        env_uv_stop(end->net->fixture->env);
    }
}

static const struct env_conn_events server_events = { NULL, server_data, server_written,
                                                      end_close };

static void server_accept(void *ctx, struct env_conn *conn)
{
    struct net *net = ctx;

    assert_memory_equal(env_conn_peer(net->fixture->env, conn), "127.0.0.1:", 10);
    net->server.conn = conn;
    env_conn_attach(net->fixture->env, conn, &server_events, &net->server);
}

static void client_send(struct end *end)
{
    buf_clear(&end->in);
    end_write(end);
}

static void client_open(void *ctx, struct env_conn *conn)
{
    client_send(ctx);
}

static void client_data(void *ctx, struct env_conn *conn, struct span data)
{
    struct end *end = ctx;

    buf_append_span(&end->in, data);
    assert_true(end->in.size <= end->out.size);
    if (end->in.size < end->out.size || end->is_writing) {
        return;
    }
    assert_memory_equal(end->in.data, end->out.data, end->out.size);
    if (++end->net->rounds < ECHO_ROUNDS) {
        client_send(end);
    } else {
        env_conn_close(end->net->fixture->env, conn);
        env_conn_close(end->net->fixture->env, conn); /* twice is fine */
        assert_int_equal(env_conn_write(end->net->fixture->env, conn, NULL, 0), ERR_CLOSED);
    }
}

static void client_written(void *ctx, struct env_conn *conn)
{
    struct end *end = ctx;

    assert_false(end->net->in_write);
    end->is_writing = false;
    client_data(end, conn, (struct span){ NULL, 0 });
}

static const struct env_conn_events client_events = { client_open, client_data, client_written,
                                                      end_close };

static void net_listen(struct net *net, struct fixture *fixture)
{
    struct err err;

    *net = (struct net){ .fixture = fixture };
    net->server.net = net->client.net = net;
    assert_int_equal(
        env_listen(fixture->env, "127.0.0.1:0", server_accept, net, &net->listener, &err), 0);
}

static void net_fini(struct net *net)
{
    env_listener_close(net->fixture->env, net->listener);
    buf_fini(&net->server.in);
    buf_fini(&net->server.out);
    buf_fini(&net->client.in);
    buf_fini(&net->client.out);
}

static void echo_by(void **state, const char *host, size_t size)
{
    struct net net;
    struct err err;
    char address[64];

    net_listen(&net, *state);
    for (size_t i = 0; i < size; i++) {
        *buf_extend(&net.client.out, 1) = (uint8_t)(i * i >> 3);
    }
    snprintf(address, sizeof address, "%s%s", host,
             strrchr(env_uv_listener_address(net.listener), ':'));
    assert_int_equal(
        env_connect(net.fixture->env, address, &client_events, &net.client, &net.client.conn, &err),
        0);
    env_uv_run(net.fixture->env);
    assert_int_equal(net.rounds, ECHO_ROUNDS);
    assert_int_equal(net.client.closed, 1);
    assert_int_equal(net.server.closed, 1);
    assert_int_equal(net.client.status, 0);
    net_fini(&net);
}

static void small_messages_are_echoed(void **state)
{
    echo_by(state, "127.0.0.1", 100);
}

static void large_messages_are_echoed(void **state)
{
    echo_by(state, "127.0.0.1", ECHO_BYTES);
}

/* "localhost" may give ::1 first, where nobody listens: the next address must be tried. */
static void host_names_are_resolved_and_all_addresses_tried(void **state)
{
    echo_by(state, "localhost", 1000);
}

struct lonely {
    struct fixture *fixture;
    int status, closed, opened;
};

static void lonely_open(void *ctx, struct env_conn *conn)
{
    ((struct lonely *)ctx)->opened++;
}

static void lonely_close(void *ctx, struct env_conn *conn, int status)
{
    struct lonely *lonely = ctx;

    lonely->closed++;
    lonely->status = status;
    env_uv_stop(lonely->fixture->env);
}

static const struct env_conn_events lonely_events = { lonely_open, NULL, NULL, lonely_close };

static void refused_connections_are_told_later(void **state)
{
    struct fixture *fixture = *state;
    struct net net;
    struct env_conn *conn;
    struct err err;
    char address[64];
    static const char *const hosts[] = { "127.0.0.1", "localhost" };

    for (size_t i = 0; i < 2; i++) {
        struct lonely lonely = { .fixture = fixture, .status = 1 };
        net_listen(&net, fixture); /* finds a free port, and leaves it */
        snprintf(address, sizeof address, "%s%s", hosts[i],
                 strrchr(env_uv_listener_address(net.listener), ':'));
        net_fini(&net);
        assert_int_equal(env_connect(fixture->env, address, &lonely_events, &lonely, &conn, &err),
                         0);
        assert_int_equal(lonely.closed, 0);
        env_uv_run(fixture->env);
        assert_int_equal(lonely.status, ERR_CONNECT);
        assert_int_equal(lonely.opened, 0);
    }
}

static void a_connection_closed_at_once_never_opens(void **state)
{
    struct fixture *fixture = *state;
    struct env_conn *conn;
    struct err err;
    static const char *const addresses[] = { "127.0.0.1:9", "localhost:9" };

    for (size_t i = 0; i < 2; i++) {
        struct lonely lonely = { .fixture = fixture, .status = 1 };
        assert_int_equal(
            env_connect(fixture->env, addresses[i], &lonely_events, &lonely, &conn, &err), 0);
        env_conn_close(fixture->env, conn);
        assert_int_equal(lonely.closed, 0);
        env_uv_run(fixture->env);
        assert_int_equal(lonely.closed, 1);
        assert_int_equal(lonely.status, 0);
    }
}

static void bad_addresses_are_refused(void **state)
{
    struct fixture *fixture = *state;
    static const char *const bad[] = { "",
                                       "host",
                                       ":1",
                                       "host:",
                                       "host:x",
                                       "host:65536",
                                       "host:99999999999999999999",
                                       "::1:7400",
                                       "[::1]",
                                       "[::1]7400",
                                       "[::1:7400",
                                       "[]:1",
                                       "host:-1",
                                       "host:1 ",
                                       "[::1]x:7400" };
    struct env_conn *conn;
    struct env_listener *listener;
    struct err err;

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(env_connect(fixture->env, bad[i], &lonely_events, NULL, &conn, &err),
                         ERR_USAGE);
        assert_int_equal(env_listen(fixture->env, bad[i], server_accept, NULL, &listener, &err),
                         ERR_USAGE);
    }
}

static void a_taken_address_is_refused(void **state)
{
    struct net net;
    struct env_listener *second;
    struct err err;

    net_listen(&net, *state);
    assert_int_equal(env_listen(net.fixture->env, env_uv_listener_address(net.listener),
                                server_accept, &net, &second, &err),
                     ERR_IO);
    assert_non_null(strstr(err.text, "in use"));
    net_fini(&net);
}

/* Paused: the bytes wait; resumed: they come. */
struct pausing {
    struct net net;
    struct env_timer timer;
    bool resumed;
};

static void pausing_data(void *ctx, struct env_conn *conn, struct span data)
{
    struct pausing *pausing = ctx;

    assert_true(pausing->resumed);
    assert_true(span_equal(data, span_of_string("hello")));
    env_uv_stop(pausing->net.fixture->env);
}

static void pausing_close(void *ctx, struct env_conn *conn, int status)
{
}

static const struct env_conn_events pausing_events = { NULL, pausing_data, NULL, pausing_close };

static void pausing_resume(struct env_timer *timer)
{
    struct pausing *pausing = container_of(timer, struct pausing, timer);

    pausing->resumed = true;
    env_conn_pause(pausing->net.fixture->env, pausing->net.server.conn, false);
}

static void pausing_accept(void *ctx, struct env_conn *conn)
{
    struct pausing *pausing = ctx;

    pausing->net.server.conn = conn;
    env_conn_attach(pausing->net.fixture->env, conn, &pausing_events, pausing);
    env_conn_pause(pausing->net.fixture->env, conn, true);
    pausing->timer.fire = pausing_resume;
    env_timer_start(pausing->net.fixture->env, &pausing->timer, 30000);
}

static void paused_connections_keep_their_bytes(void **state)
{
    struct pausing pausing = { .net.fixture = *state };
    struct err err;

    pausing.net.server.net = pausing.net.client.net = &pausing.net;
    assert_int_equal(env_listen(pausing.net.fixture->env, "127.0.0.1:0", pausing_accept, &pausing,
                                &pausing.net.listener, &err),
                     0);
    buf_append(&pausing.net.client.out, "hello", 5);
    assert_int_equal(env_connect(pausing.net.fixture->env,
                                 env_uv_listener_address(pausing.net.listener), &client_events,
                                 &pausing.net.client, &pausing.net.client.conn, &err),
                     0);
    env_uv_run(pausing.net.fixture->env);
    assert_true(pausing.resumed);
    /* Both ends are still open: freeing the env tells both. */
    env_timer_stop(pausing.net.fixture->env, &pausing.net.fixture->guard);
    env_uv_free(pausing.net.fixture->env);
    assert_int_equal(pausing.net.client.closed, 1);
    assert_int_equal(env_uv_new(&pausing.net.fixture->env, &err), 0);
    buf_fini(&pausing.net.client.out);
}

/* Accepted and not attached: closed, and nobody is told. */
static void ignore_accept(void *ctx, struct env_conn *conn)
{
}

static void nobody_owns_an_unattached_connection(void **state)
{
    struct fixture *fixture = *state;
    struct lonely lonely = { .fixture = fixture, .status = 1 };
    struct env_listener *listener;
    struct env_conn *conn;
    struct err err;

    /* By IPv6 where the machine has it. */
    if (env_listen(fixture->env, "[::1]:0", ignore_accept, NULL, &listener, &err) == 0) {
        assert_memory_equal(env_uv_listener_address(listener), "[::1]:", 6);
    } else {
        assert_int_equal(
            env_listen(fixture->env, "127.0.0.1:0", ignore_accept, NULL, &listener, &err), 0);
    }
    assert_int_equal(env_connect(fixture->env, env_uv_listener_address(listener), &lonely_events,
                                 &lonely, &conn, &err),
                     0);
    env_uv_run(fixture->env);
    assert_int_equal(lonely.opened, 1);
    assert_int_equal(lonely.closed, 1);
}

/* What a helper thread has freed is kept for its next load, until it is asked to give it back. */
struct hoard {
    struct fixture *fixture;
    struct env_job job;
    struct env_timer timer;
    long kept_kib, given_kib;
    int looks;
};

static long anonymous_kib(void)
{
    char line[128];
    long kib = 0;
    FILE *file = fopen("/proc/self/status", "r");

    while (fgets(line, sizeof line, file)) {
        (void)sscanf(line, "RssAnon: %ld", &kib);
    }
    fclose(file);
    return kib;
}

static void hoard_work(struct env_job *job)
{
    enum { PIECES = 10000, PIECE_BYTES = 4096 };
    static uint8_t *pieces[PIECES];

    for (size_t i = 0; i < PIECES; i++) {
        pieces[i] = malloc(PIECE_BYTES);
        memset(pieces[i], 1, PIECE_BYTES);
    }
    for (size_t i = 0; i < PIECES; i++) {
        free(pieces[i]);
    }
}

static void hoard_look(struct env_timer *timer)
{
    struct hoard *hoard = container_of(timer, struct hoard, timer);

    hoard->given_kib = hoard->kept_kib - anonymous_kib();
    if (hoard->given_kib < 20000 && ++hoard->looks < 200) {
        env_timer_start(hoard->fixture->env, timer, 10000);
    } else {
        env_uv_stop(hoard->fixture->env);
    }
}

static void hoard_done(struct env_job *job)
{
    struct hoard *hoard = container_of(job, struct hoard, job);

    hoard->kept_kib = anonymous_kib();
    env_memory_trim(hoard->fixture->env);
    env_memory_trim(hoard->fixture->env); /* while the first is under way, perhaps */
    env_timer_start(hoard->fixture->env, &hoard->timer, 1000);
}

static void memory_of_helper_threads_is_given_back(void **state)
{
    struct hoard hoard = { .fixture = *state,
                           .job = { .work = hoard_work, .done = hoard_done },
                           .timer = { .fire = hoard_look } };
    long before_kib = anonymous_kib();

    env_job_start(hoard.fixture->env, ENV_JOB_FLUSH, &hoard.job);
    env_uv_run(hoard.fixture->env);
    if (mallinfo2().arena > 0) { /* else it is a sanitizer's malloc, or valgrind's */
        assert_true(hoard.kept_kib - before_kib > 30000);
        assert_true(hoard.given_kib >= 20000);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(clocks_go_forward),
        TEST(tasks_run_in_order_until_none_is_left),
        TEST(timers_fire_in_order_and_never_early),
        TEST(a_timer_restarting_itself_leaves_room_for_others),
        TEST(a_busy_env_interrupts_nobody),
        TEST(memory_of_helper_threads_is_given_back),
        TEST(a_crowd_of_timers_stays_in_order),
        TEST(jobs_run_in_order_on_the_thread_of_their_class),
        TEST(jobs_left_behind_are_worked_and_told_at_the_end),
        TEST(another_thread_may_post),
        TEST(signals_arrive_on_the_loop),
        TEST(a_file_keeps_what_was_written),
        TEST(a_file_grows_with_zeroes_and_is_cut),
        TEST(direct_writes_mix_with_others),
        TEST(a_full_disk_has_its_own_error),
        TEST(directories_are_made_listed_and_locked),
        TEST(small_messages_are_echoed),
        TEST(large_messages_are_echoed),
        TEST(host_names_are_resolved_and_all_addresses_tried),
        TEST(refused_connections_are_told_later),
        TEST(a_connection_closed_at_once_never_opens),
        TEST(bad_addresses_are_refused),
        TEST(a_taken_address_is_refused),
        TEST(paused_connections_keep_their_bytes),
        TEST(nobody_owns_an_unattached_connection),
    };
    return cmocka_run_group_tests_name("env_uv", tests, NULL, NULL);
}
