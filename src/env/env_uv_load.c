/* How the system schedules the threads of the production env: by how busy its loop is (I5 of env_uv.c, docs/decisions/018). */
#include "env/env_uv_private.h"

#include <sched.h>

enum {
    LOOK_MS = 100,
    BUSY_PERCENT = 20,  /* of a processor, from which the loop counts as busy ... */
    QUIET_PERCENT = 10, /* ... until it takes less than this */
};

/* Of the calling thread. */
static bool set_batch(bool is_batch)
{
    struct sched_param none = { 0 };

    return sched_setscheduler(0, is_batch ? SCHED_BATCH : SCHED_OTHER, &none) == 0;
}

static uint64_t thread_cpu_us(void)
{
    return env_uv_clock_us(CLOCK_THREAD_CPUTIME_ID);
}

void env_uv_load_begin(struct env_uv *env)
{
    env->load = (struct load){ .may_batch = sched_getscheduler(0) == SCHED_OTHER,
                               .since_ms = uv_now(&env->loop),
                               .cpu_us = thread_cpu_us() };
}

void env_uv_load_look(struct env_uv *env)
{
    struct load *load = &env->load;
    uint64_t now_ms = uv_now(&env->loop), passed_ms = now_ms - load->since_ms;

    if (!load->may_batch || passed_ms < LOOK_MS) {
        return;
    }
    uint64_t cpu_us = thread_cpu_us();
    uint64_t percent = (cpu_us - load->cpu_us) / (passed_ms * 10);
    bool is_batch = percent >= (load->is_batch ? QUIET_PERCENT : BUSY_PERCENT);
    load->since_ms = now_ms;
    load->cpu_us = cpu_us;
    if (is_batch != load->is_batch) {
        load->may_batch = set_batch(is_batch);
        load->is_batch = is_batch && load->may_batch;
    }
}

void env_uv_load_end(struct env_uv *env)
{
    if (env->load.is_batch) {
        (void)set_batch(false);
    }
    env->load = (struct load){ 0 };
}

void env_uv_load_follow(struct worker *worker, bool is_batch)
{
    if (is_batch != worker->is_batch) {
        worker->is_batch = is_batch;
        (void)set_batch(is_batch);
    }
}
