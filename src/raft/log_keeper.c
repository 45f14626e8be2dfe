/* The log's segments: the chain, and the files that the keeper makes, recycles and removes beside the writer (I5 of log.c). */
#include "raft/log_private.h"

#include "base/check.h"

struct log_segment *log_segment_find(const struct log *log, uint32_t number)
{
    size_t low = 0, high = log->chain_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (log->chain[middle]->number < number) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    CHECK(low < log->chain_count && log->chain[low]->number == number);
    return log->chain[low];
}

void log_segments_push(struct log_segment ***list, size_t *count, size_t *capacity,
                       struct log_segment *segment)
{
    if (*count == *capacity) {
        *capacity = *capacity ? *capacity * 2 : 8;
        *list = mem_realloc(*list, *capacity * sizeof **list);
    }
    (*list)[(*count)++] = segment;
}

struct log_segment *log_chain_add(struct log *log, uint32_t number, struct env_file *file,
                                  uint32_t sectors, uint32_t used)
{
    CHECK(log->chain_count == 0 || log_current(log)->number < number);
    struct log_segment *segment = MEM_NEW(struct log_segment);
    segment->number = number;
    segment->file = file;
    segment->sectors = sectors;
    segment->used = used;
    log_segments_push(&log->chain, &log->chain_count, &log->chain_capacity, segment);
    return segment;
}

void log_freed_add(struct log *log, uint32_t number, struct env_file *file, uint32_t sectors)
{
    struct log_segment *segment = MEM_NEW(struct log_segment);
    segment->number = number;
    segment->file = file;
    segment->sectors = sectors;
    log_segments_push(&log->freed, &log->freed_count, &log->freed_capacity, segment);
}

void log_chain_drop(struct log *log, uint32_t number)
{
    for (size_t i = 0; i < log->chain_count; i++) {
        struct log_segment *segment = log->chain[i];
        if (segment->number == number) {
            CHECK(segment->live_count == 0);
            log_segments_push(&log->freed, &log->freed_count, &log->freed_capacity, segment);
            memmove(log->chain + i, log->chain + i + 1,
                    (log->chain_count - i - 1) * sizeof *log->chain);
            log->chain_count--;
            return;
        }
    }
}

static void keeper_work(struct env_job *job)
{
    struct log_keeper *keeper = container_of(job, struct log_keeper, job);
    struct env *env = keeper->log->config.env;
    const char *directory = keeper->log->directory;
    keeper->status = 0;
    if (keeper->remove) {
        char path[512];
        log_segment_path(path, directory, keeper->remove, "log");
        keeper->status = env_file_remove(env, path, &keeper->err);
        if (keeper->status == 0) {
            keeper->status = env_dir_sync(env, directory, &keeper->err);
        }
    } else {
        keeper->status = log_segment_make(env, directory, &keeper->header, keeper->reuse,
                                          &keeper->file, &keeper->err);
    }
}

static void retry_fire(struct env_timer *timer)
{
    struct log *log = container_of(timer, struct log, retry);
    log->is_retry_due = true;
    log_keeper_step(log);
}

static void memory_retry_fire(struct env_timer *timer)
{
    log_schedule(container_of(timer, struct log, memory_retry));
}

static void keeper_done(struct env_job *job)
{
    struct log_keeper *keeper = container_of(job, struct log_keeper, job);
    struct log *log = keeper->log;
    keeper->is_busy = false;
    log->is_telling = true;
    if (keeper->status == ERR_DISK_FULL) {
        LOG_WARN(log->config.logger, "event=log_segment_refused text=\"%s\"", keeper->err.text);
        log->is_spare_refused = true;
        if (!log->is_closing) {
            env_timer_start(log->config.env, &log->retry, LOG_SPARE_RETRY_US);
        }
    } else if (keeper->status < 0) {
        log_fail(log, &keeper->err);
    } else if (!keeper->remove) {
        struct log_segment *spare = MEM_NEW(struct log_segment);
        spare->number = (uint32_t)keeper->header.number;
        spare->file = keeper->file;
        spare->sectors = log->segment_sectors;
        spare->used = 1;
        log->spares[log->spare_count++] = spare;
        log->next_number++;
        log->stats.recycled += keeper->reuse != 0;
        log->is_spare_refused = false;
        if (log->pending.count > 0) {
            log_schedule(log);
        }
    }
    log->is_telling = false;
    log_keeper_step(log);
    log_close_step(log);
}

/* A freed segment that no read uses (and that has the right size, if it shall be reused) leaves the
 * list; 0 = none. */
static uint32_t freed_take(struct log *log, bool is_to_reuse)
{
    for (size_t i = 0; i < log->freed_count; i++) {
        struct log_segment *segment = log->freed[i];
        if (segment->readers == 0 && (!is_to_reuse || segment->sectors == log->segment_sectors)) {
            uint32_t number = segment->number;
            env_file_close(log->config.env, segment->file);
            mem_free(segment);
            log->freed[i] = log->freed[--log->freed_count];
            return number;
        }
    }
    return 0;
}

static void keeper_start(struct log *log, uint64_t reuse, uint64_t remove)
{
    struct log_keeper *keeper = &log->keeper;
    uint32_t last =
        log->spare_count ? log->spares[log->spare_count - 1]->number : log_current(log)->number;
    keeper->header = (struct log_record_segment){ .owner = log->owner,
                                                  .number = log->next_number,
                                                  .previous = last,
                                                  .bytes = log->config.segment_bytes,
                                                  .kind = LOG_RECORD_NORMAL };
    keeper->reuse = reuse;
    keeper->remove = remove;
    keeper->is_busy = true;
    keeper->job.work = keeper_work;
    keeper->job.done = keeper_done;
    env_job_start(log->config.env, ENV_JOB_READ, &keeper->job);
}

void log_keeper_step(struct log *log)
{
    log->stats.segments = log->chain_count + log->spare_count + log->freed_count;
    if (log->keeper.is_busy || log->is_failed || log->is_closing) {
        return;
    }
    if (log->spare_count < LOG_SPARES) {
        uint32_t reuse = freed_take(log, true);
        if (reuse != 0 || !log->is_spare_refused || log->is_retry_due) {
            log->is_retry_due = false;
            keeper_start(log, reuse, 0);
        }
    } else if (log->freed_count > LOG_FREED_MAX &&
               log->stats.segments * log->config.segment_bytes > log->keep_bytes) {
        uint32_t remove = freed_take(log, false);
        if (remove != 0) {
            keeper_start(log, 0, remove);
        }
    }
}

void log_arm(struct log *log)
{
    log->task.run = log_task_run;
    log->retry.fire = retry_fire;
    log->memory_retry.fire = memory_retry_fire;
    log->batch.log = log->keeper.log = log;
    list_init(&log->readings);
}

void log_segments_fini(struct log *log, struct log_segment **segments, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        env_file_close(log->config.env, segments[i]->file);
        mem_free(segments[i]);
    }
}
