/* The simulated process: clock, timers, deferred work and jobs on the schedule; files on disk.c,
 * connections on network.c.
 *
 * Jobs: each class is one thread. `work` runs as one event after a drawn delay, whole; `done` is a
 * later event. A process that dies while a log job waits dies in the middle of it half of the time:
 * its file calls are carried out up to a drawn one.
 *
 * Invariants
 *   I1  every event that runs code of the process has owner == env, so that killing and pausing
 *       reach all of them.
 *   I2  a dead process gets no callback but those of env_sim_reap, and its calls change nothing. */
#include "sim/env_sim.h"

#include <stdio.h>
#include <sys/stat.h>

#include "base/check.h"
#include "base/mem.h"

/* What stands in env_timer.impl and is put there by timer_start. */
struct timer_event {
    struct schedule_event event;
};
_Static_assert(sizeof(struct timer_event) <= sizeof(((struct env_timer *)0)->impl), "fits");

enum { DEFERRED_MAX = 1000000 };
/* One job in two hundred takes twenty times as long. On a disk that no fault has made slow that lasts no longer than this: with the
 * shortest logs writes have to wait for a flush that takes seconds (decisions/011), and calls must not where all is well. */
enum { HICCUP_MAX_US = 1000 * 1000 };
static const uint64_t WALL_BEGIN_US = 1750000000ull * 1000000;

static const struct env_ops sim_ops;
static void run_work(struct schedule_event *event);
static void run_done(struct schedule_event *event);

struct env_sim *env_sim_new(struct schedule *schedule, struct network *network, struct disk *disk,
                            uint32_t machine, const char *host, uint64_t seed)
{
    struct env_sim *env = MEM_NEW(struct env_sim);
    env->env.ops = &sim_ops;
    env->schedule = schedule;
    env->network = network;
    env->disk = disk;
    env->machine = machine;
    snprintf(env->host, sizeof env->host, "%s", host);
    env->random = random_stream(seed, 0x1000 + machine);
    env->timing = random_stream(seed, 0x2000 + machine);
    env->is_dead = true;
    env->slow_factor = env->flush_factor = 1;
    env->log_delay_us = 150;
    env->flush_delay_us = 5000;
    env->read_delay_us = 100;
    list_init(&env->deferred);
    list_init(&env->conns);
    list_init(&env->listeners);
    for (int i = 0; i < ENV_JOB_CLASSES; i++) {
        struct env_sim_jobs *jobs = &env->jobs[i];
        list_init(&jobs->waiting);
        list_init(&jobs->finished);
        jobs->work = (struct schedule_event){ .run = run_work, .owner = env };
        jobs->done = (struct schedule_event){ .run = run_done, .owner = env };
    }
    CHECK(machine < NETWORK_MACHINES_MAX && !network->machines[machine]);
    network->machines[machine] = env;
    return env;
}

void env_sim_free(struct env_sim *env)
{
    CHECK(env->is_dead && list_is_empty(&env->conns));
    env->network->machines[env->machine] = NULL;
    mem_free(env);
}

void env_sim_boot(struct env_sim *env)
{
    CHECK(env->is_dead && list_is_empty(&env->conns) && list_is_empty(&env->deferred));
    env->is_dead = env->is_down = false;
    env->paused_until_us = 0;
    env->booted_us = env->schedule->now_us;
    network_process_booted(env->network, env);
}

/* --- Dying */

/* The log's job is cut in the middle of its file calls, a flush (atomic, see the README) happens or
 * does not. */
static void die_in_jobs(struct env_sim *env)
{
    struct list *log = &env->jobs[ENV_JOB_LOG].waiting, *flush = &env->jobs[ENV_JOB_FLUSH].waiting;
    if (!list_is_empty(flush) && random_percent(&env->timing, 50)) {
        struct env_job *job = container_of(list_take_first(flush), struct env_job, link);
        job->work(job);
        list_append(&env->jobs[ENV_JOB_FLUSH].finished, &job->link);
        env->jobs_cut++;
    }
    if (env->disk && !list_is_empty(log) && random_percent(&env->timing, 50)) {
        struct env_job *job = container_of(list_take_first(log), struct env_job, link);
        disk_faults(env->disk)->die_in = (uint32_t)random_between(&env->timing, 1, 4);
        job->work(job);
        list_append(&env->jobs[ENV_JOB_LOG].finished, &job->link);
        env->jobs_cut++;
    }
}

void env_sim_kill(struct env_sim *env, enum env_sim_end end)
{
    CHECK(!env->is_dead);
    die_in_jobs(env);
    env->ambush = NULL;
    env->is_dead = true;
    env->is_down = end == ENV_SIM_POWER_LOSS;
    schedule_remove_owner(env->schedule, env);
    while (list_take_first(&env->deferred) != NULL) {
    }
    network_process_ended(env->network, env, end == ENV_SIM_CRASH);
    if (env->disk && end == ENV_SIM_POWER_LOSS) {
        disk_power_loss(env->disk, env->torn);
    } else if (env->disk) {
        disk_process_ended(env->disk);
    }
}

void env_sim_reap(struct env_sim *env)
{
    CHECK(env->is_dead);
    for (int i = 0; i < ENV_JOB_CLASSES; i++) {
        struct list *link;
        while ((link = list_take_first(&env->jobs[i].finished)) != NULL) {
            struct env_job *job = container_of(link, struct env_job, link);
            job->done(job);
        }
        while ((link = list_take_first(&env->jobs[i].waiting)) != NULL) {
            struct env_job *job = container_of(link, struct env_job, link);
            job->work(job);
            job->done(job);
        }
    }
    network_process_reaped(env->network, env);
}

void env_sim_pause(struct env_sim *env, uint64_t until_us)
{
    env->paused_until_us = until_us;
}

uint64_t env_sim_wakes_us(const struct env_sim *env, uint64_t at_us)
{
    uint64_t grain = env->grain_us;
    return grain > 1 ? (at_us + grain - 1) / grain * grain : at_us;
}

bool env_sim_step(struct schedule *schedule, struct schedule_event *event)
{
    struct env_sim *env = event->owner;
    if (env && env->paused_until_us > schedule->now_us) {
        schedule_add(schedule, event, env->paused_until_us); /* in order: sequences grow */
        return false;
    }
    do {
        schedule_note(schedule, schedule->now_us * 64 + (env ? env->machine + 1 : 0));
        event->run(event);
    } while (env && (event = schedule_next_of(schedule, env)) != NULL);
    if (env) {
        struct list *link;
        for (int i = 0; (link = list_take_first(&env->deferred)) != NULL; i++) {
            struct env_task *task = container_of(link, struct env_task, link);
            CHECK(i < DEFERRED_MAX);
            task->run(task);
        }
    }
    return true;
}

/* --- Clocks and random */

static uint64_t sim_now_us(struct env *base)
{
    struct env_sim *env = env_sim_of(base);
    uint64_t passed = env->schedule->now_us - env->drift_from_us;
    return env->drift_base_us + passed + (uint64_t)((int64_t)passed * env->drift_ppm / 1000000);
}

void env_sim_drift(struct env_sim *env, int64_t ppm)
{
    env->drift_base_us = sim_now_us(&env->env);
    env->drift_from_us = env->schedule->now_us;
    env->drift_ppm = ppm;
}

/* How much time the wall clock has missed by standing still. */
static uint64_t wall_missed_us(struct env_sim *env)
{
    uint64_t now = sim_now_us(&env->env);
    return (now < env->wall_go_us ? now : env->wall_go_us) - env->wall_stop_us;
}

void env_sim_stop_wall(struct env_sim *env, uint64_t for_us)
{
    env->wall_offset_us -= (int64_t)wall_missed_us(env);
    env->wall_stop_us = sim_now_us(&env->env);
    env->wall_go_us = env->wall_stop_us + for_us;
}

static uint64_t sim_wall_us(struct env *base)
{
    struct env_sim *env = env_sim_of(base);
    return WALL_BEGIN_US + sim_now_us(base) + (uint64_t)env->wall_offset_us - wall_missed_us(env);
}

static void sim_random(struct env *base, void *out, size_t size)
{
    uint8_t *at = out;
    while (size > 0) {
        uint64_t value = random_u64(&env_sim_of(base)->random);
        size_t part = size < sizeof value ? size : sizeof value;
        memcpy(at, &value, part);
        at += part;
        size -= part;
    }
}

/* --- Deferred work and timers */

static void sim_defer(struct env *base, struct env_task *task)
{
    if (!list_is_linked(&task->link) && !env_sim_of(base)->is_dead) {
        list_append(&env_sim_of(base)->deferred, &task->link);
    }
}

static void run_timer(struct schedule_event *event)
{
    struct env_timer *timer = container_of((void **)event, struct env_timer, impl[0]);
    timer->due_us = 0;
    timer->fire(timer);
}

static void sim_timer_start(struct env *base, struct env_timer *timer, uint64_t delay_us)
{
    struct env_sim *env = env_sim_of(base);
    if (env->is_dead) {
        return;
    }
    struct timer_event *of = (struct timer_event *)timer->impl;
    of->event.run = run_timer;
    of->event.owner = env;
    timer->due_us = sim_now_us(base) + delay_us;
    uint64_t real_us = delay_us - (uint64_t)((int64_t)delay_us * env->drift_ppm / 1000000);
    uint64_t due_us = env->schedule->now_us + real_us + 1 + random_below(&env->timing, 100);
    schedule_add(env->schedule, &of->event, env_sim_wakes_us(env, due_us));
}

static void sim_timer_stop(struct env *base, struct env_timer *timer)
{
    struct timer_event *of = (struct timer_event *)timer->impl;
    schedule_remove(env_sim_of(base)->schedule, &of->event);
    timer->due_us = 0;
}

/* --- Jobs */

static uint64_t draw_job_delay(struct env_sim *env, int class)
{
    uint64_t typical = class == ENV_JOB_LOG     ? env->log_delay_us
                       : class == ENV_JOB_FLUSH ? env->flush_delay_us
                                                : env->read_delay_us;
    uint64_t delay = random_delay(&env->timing, typical);
    uint64_t factor = env->slow_factor;
    if (class == ENV_JOB_FLUSH && env->flush_factor > factor) {
        factor = env->flush_factor;
    }
    if (random_one_in(&env->timing, 200)) {
        uint64_t most = factor > 1 ? UINT64_MAX : delay > HICCUP_MAX_US ? delay : HICCUP_MAX_US;
        delay = delay * 20 < most ? delay * 20 : most;
    }
    return delay * factor;
}

void env_sim_hang_disk(struct env_sim *env, uint64_t until_us)
{
    env->hangs_until_us = until_us;
}

void env_sim_heal_disk(struct env_sim *env)
{
    env->slow_factor = env->flush_factor = 1;
    env->hangs_until_us = 0;
    for (int i = 0; i < ENV_JOB_CLASSES; i++) {
        if (schedule_is_waiting(&env->jobs[i].work)) {
            schedule_add(env->schedule, &env->jobs[i].work,
                         env->schedule->now_us + draw_job_delay(env, i));
        }
    }
}

static void sim_job_start(struct env *base, enum env_job_class class, struct env_job *job)
{
    struct env_sim *env = env_sim_of(base);
    if (env->is_dead) {
        list_append(&env->jobs[class].waiting, &job->link); /* env_sim_reap ends it */
        return;
    }
    struct env_sim_jobs *jobs = &env->jobs[class];
    list_append(&jobs->waiting, &job->link);
    if (!schedule_is_waiting(&jobs->work)) {
        schedule_add(env->schedule, &jobs->work,
                     env->schedule->now_us + draw_job_delay(env, class));
    }
}

/* The log's job stops at one of its file calls, and the process with it. A flush is atomic: its work is
 * done, and nobody comes to hear of it. */
static void spring_ambush(struct env_sim *env, struct env_job *job)
{
    struct schedule_event *ambush = env->ambush;
    env->ambush = NULL;
    if (env->ambush_class == ENV_JOB_LOG) {
        disk_faults(env->disk)->die_in = (uint32_t)random_between(&env->timing, 1, 4);
    }
    job->work(job);
    list_append(&env->jobs[env->ambush_class].finished, &job->link);
    env->jobs_cut++;
    schedule_add(env->schedule, ambush, env->schedule->now_us);
}

static void run_work(struct schedule_event *event)
{
    struct env_sim_jobs *jobs = container_of(event, struct env_sim_jobs, work);
    struct env_sim *env = event->owner;
    if (env->hangs_until_us > env->schedule->now_us) {
        schedule_add(env->schedule, event, env->hangs_until_us);
        return;
    }
    struct env_job *job = container_of(list_take_first(&jobs->waiting), struct env_job, link);
    if (env->ambush && jobs == &env->jobs[env->ambush_class]) {
        spring_ambush(env, job);
        return;
    }
    job->work(job);
    list_append(&jobs->finished, &job->link);
    uint64_t now = env->schedule->now_us;
    if (!schedule_is_waiting(&jobs->done)) {
        schedule_add(env->schedule, &jobs->done,
                     env_sim_wakes_us(env, now + random_between(&env->timing, 1, 40)));
    }
    if (!list_is_empty(&jobs->waiting)) {
        schedule_add(env->schedule, &jobs->work,
                     now + draw_job_delay(env, (int)(jobs - env->jobs)));
    }
}

static void run_done(struct schedule_event *event)
{
    struct env_sim_jobs *jobs = container_of(event, struct env_sim_jobs, done);
    struct env_sim *env = event->owner;
    struct env_job *job = container_of(list_take_first(&jobs->finished), struct env_job, link);
    if (!list_is_empty(&jobs->finished)) {
        schedule_add(env->schedule, &jobs->done, env->schedule->now_us + 1);
    }
    job->done(job);
}

/* --- Files */

static int fail_dead(struct err *err)
{
    return err_set(err, ERR_IO, "the process is dead");
}

static int sim_file_open(struct env *base, const char *path, int flags, struct env_file **out,
                         struct err *err)
{
    struct env_sim *env = env_sim_of(base);
    return env->is_dead ? fail_dead(err) : disk_file_open(env->disk, path, flags, out, err);
}

static int sim_file_rename(struct env *base, const char *from, const char *to, struct err *err)
{
    struct env_sim *env = env_sim_of(base);
    return env->is_dead ? fail_dead(err) : disk_rename(env->disk, from, to, err);
}

static int sim_file_remove(struct env *base, const char *path, struct err *err)
{
    struct env_sim *env = env_sim_of(base);
    return env->is_dead ? fail_dead(err) : disk_remove(env->disk, path, err);
}

static int sim_dir_make(struct env *base, const char *path, struct err *err)
{
    struct env_sim *env = env_sim_of(base);
    if (env->is_dead) {
        return fail_dead(err);
    }
    if (env->is_real_too) {
        mkdir(path, 0700); /* of the parent the world takes care; a failure shows in LMDB */
    }
    return disk_dir_make(env->disk, path, err);
}

static int sim_dir_sync(struct env *base, const char *path, struct err *err)
{
    struct env_sim *env = env_sim_of(base);
    return env->is_dead ? fail_dead(err) : disk_dir_sync(env->disk, path, err);
}

static int sim_dir_list(struct env *base, const char *path,
                        void (*each)(void *ctx, const char *name), void *ctx, struct err *err)
{
    struct env_sim *env = env_sim_of(base);
    return env->is_dead ? fail_dead(err) : disk_dir_list(env->disk, path, each, ctx, err);
}

static int sim_dir_room(struct env *base, const char *path, uint64_t *out, struct err *err)
{
    struct env_sim *env = env_sim_of(base);
    if (env->is_dead) {
        return fail_dead(err);
    }
    *out = disk_room(env->disk);
    return 0;
}

static int sim_dir_lock(struct env *base, const char *path, struct err *err)
{
    struct env_sim *env = env_sim_of(base);
    return env->is_dead ? fail_dead(err) : disk_dir_lock(env->disk, path, err);
}

/* --- Network */

static int sim_listen(struct env *base, const char *address,
                      void (*on_accept)(void *ctx, struct env_conn *conn), void *ctx,
                      struct env_listener **out, struct err *err)
{
    struct env_sim *env = env_sim_of(base);
    return env->is_dead ? fail_dead(err) : network_listen(env, address, on_accept, ctx, out, err);
}

static int sim_connect(struct env *base, const char *address, const struct env_conn_events *events,
                       void *ctx, struct env_conn **out, struct err *err)
{
    struct env_sim *env = env_sim_of(base);
    return env->is_dead ? fail_dead(err) : network_connect(env, address, events, ctx, out, err);
}

static const struct env_ops sim_ops = {
    .now_us = sim_now_us,
    .wall_us = sim_wall_us,
    .random = sim_random,
    .defer = sim_defer,
    .timer_start = sim_timer_start,
    .timer_stop = sim_timer_stop,
    .job_start = sim_job_start,
    .file_open = sim_file_open,
    .file_read = disk_file_read,
    .file_write = disk_file_write,
    .file_sync = disk_file_sync,
    .file_size = disk_file_size,
    .file_resize = disk_file_resize,
    .file_close = disk_file_close,
    .file_rename = sim_file_rename,
    .file_remove = sim_file_remove,
    .dir_make = sim_dir_make,
    .dir_sync = sim_dir_sync,
    .dir_list = sim_dir_list,
    .dir_room = sim_dir_room,
    .dir_lock = sim_dir_lock,
    .listen = sim_listen,
    .listener_close = network_listener_close,
    .connect = sim_connect,
    .conn_attach = network_attach,
    .conn_write = network_write,
    .conn_pause = network_pause,
    .conn_peer = network_peer,
    .conn_close = network_close,
};
