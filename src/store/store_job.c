/* Jobs of the store. What the env was given it always ends, though perhaps only after the store is
 * gone: then `work` does nothing, and the job frees itself.
 *
 *   idle --store_job_start--> queued --work--> running --> ended --done--> idle
 *                               |
 *                               +-- store closed --> idle: work finds nothing to do */
#include "store/store_private.h"

#include "base/check.h"

/* On the job's thread. */
static void run(struct env_job *env_job)
{
    struct store_job *job = container_of(env_job, struct store_job, job);
    int expected = STORE_JOB_QUEUED;
    if (atomic_compare_exchange_strong(&job->state, &expected, STORE_JOB_RUNNING)) {
        job->work(job);
        atomic_store(&job->state, STORE_JOB_ENDED);
    }
}

static void end(struct env_job *env_job)
{
    struct store_job *job = container_of(env_job, struct store_job, job);
    if (!job->store) {
        job->free(job);
        return;
    }
    CHECK(atomic_load(&job->state) == STORE_JOB_ENDED);
    atomic_store(&job->state, STORE_JOB_IDLE);
    list_remove(&job->link);
    job->done(job);
}

void store_job_init(struct store_job *job, struct store *store)
{
    job->job.work = run;
    job->job.done = end;
    job->store = store;
    job->env = store->config.env;
}

void store_job_start(struct store_job *job, enum env_job_class class)
{
    CHECK(!store_job_is_started(job));
    atomic_store(&job->state, STORE_JOB_QUEUED);
    list_append(&job->store->jobs, &job->link);
    env_job_start(job->env, class, &job->job);
}

bool store_job_is_started(const struct store_job *job)
{
    return list_is_linked(&job->link);
}

/* LMDB's own writer lock is what we wait on: what takes long holds it for nearly all of its time,
 * and the rest is bounded to some milliseconds. */
static void wait_for(struct store *store, struct store_job *job)
{
    while (atomic_load(&job->state) != STORE_JOB_ENDED) {
        MDB_txn *txn;
        if (mdb_txn_begin(store->env, NULL, 0, &txn) == 0) {
            mdb_txn_abort(txn);
        }
    }
}

void store_jobs_detach(struct store *store)
{
    struct list *link;
    while ((link = list_take_first(&store->jobs)) != NULL) {
        struct store_job *job = container_of(link, struct store_job, link);
        int expected = STORE_JOB_QUEUED;
        if (!atomic_compare_exchange_strong(&job->state, &expected, STORE_JOB_IDLE)) {
            wait_for(store, job);
        }
        job->store = NULL;
    }
}
