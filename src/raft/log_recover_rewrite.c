/* Recovery's writing: what was not proven durable goes to a fresh segment, then the votes are written again, then files that nobody
 * needs go (4 and 5 of log_recover.c). */
#include "raft/log_recover_private.h"

#include "base/check.h"

/* --- The fresh segment (4) */

/* A file that nothing needs and that has the right size, the newest (see check_newer); 0 = none.
 * Never one older than the tail: that it is free may be the word of a batch that is not proven. */
static uint64_t reusable(struct recovery *recovery)
{
    for (size_t i = recovery->count;
         i-- > 0 && (i > recovery->tail || recovery->tail == recovery->count);) {
        struct found *found = &recovery->found[i];
        if (!found->is_in_chain && found->file &&
            found->header.bytes == recovery->log->config.segment_bytes) {
            env_file_close(recovery->log->config.env, found->file);
            found->file = NULL;
            found->is_in_chain = true; /* it will not be there to be removed */
            return found->header.number;
        }
    }
    return 0;
}

/* All that the tail segment holds is the batch that will be repeated. */
static bool tail_is_unproven(const struct recovery *recovery)
{
    return recovery->last.sector == 1;
}

int recovery_make_segment(struct recovery *recovery)
{
    struct log *log = recovery->log;
    bool is_empty = recovery->tail == recovery->count;
    const struct found *tail = is_empty ? NULL : &recovery->found[recovery->tail];
    struct log_record_segment header = {
        .owner = log->owner,
        .number = recovery->number_max + 1,
        .previous = is_empty                     ? 0
                    : tail_is_unproven(recovery) ? tail->header.previous
                                                 : tail->header.number,
        .bytes = log->config.segment_bytes,
        .kind = is_empty ? LOG_RECORD_NORMAL : LOG_RECORD_RECOVERY,
    };
    struct env_file *file;
    int rc = log_segment_make(log->config.env, log->directory, &header, reusable(recovery), &file,
                              recovery->err);
    if (rc < 0) {
        err_prefix(recovery->err, "new log segment");
        return rc;
    }
    log_chain_add(log, (uint32_t)header.number, file, log->segment_sectors, 1);
    log->next_number = header.number + 1;
    log->first_segment = log->chain[0]->number;
    return 0;
}

/* D3. That a replica is suspect stands in the checkpoint. */
static void say_ends(struct log *log, bool is_ended)
{
    for (size_t i = 0; i < log->group_count; i++) {
        struct log_group *group = log->groups[i];
        struct log_pending record = { .group = group,
                                      .kind = LOG_RECORD_ENDED,
                                      .index = group->index.last_index + 1,
                                      .term =
                                          log_index_term(&group->index, group->index.last_index) };
        if (is_ended) {
            log_pending_add(&log->pending, &record);
        }
        if (group->is_healed && !group->is_suspect) {
            record = (struct log_pending){
                .group = group, .kind = LOG_RECORD_HEALED, .index = group->term, .term = group->vote
            };
            log_pending_add(&log->pending, &record);
        }
    }
}

/* Those of the last batch's entries that are not replaced or cut by the same batch. */
static void take_last(struct recovery *recovery)
{
    for (size_t i = 0; i < recovery->unproven.count; i++) {
        struct log_pending *record = &recovery->unproven.items[recovery->unproven.first + i];
        if (log_record_slot(record)) {
            log_pending_add(&recovery->log->pending, record);
        }
        blob_unref(record->payload);
    }
    recovery->unproven.count = 0;
}

int recovery_rewrite_last(struct recovery *recovery)
{
    struct log *log = recovery->log;
    struct log_batch *batch = &log->batch;
    uint32_t soft = log->batch_bytes;
    bool is_empty = recovery->tail == recovery->count;
    take_last(recovery);
    say_ends(log, recovery->is_lost || recovery->is_ended);
    if (is_empty && log->pending.count == 0) {
        return 0;
    }
    if (log_record_sectors((uint32_t)log->pending.count + log_checkpoint_records(log), 0,
                           log->pending.bytes) >= log->segment_sectors) {
        return err_set(recovery->err, ERR_USAGE,
                       "log: %llu bytes a segment are too few for what the log holds",
                       (unsigned long long)log->config.segment_bytes);
    }
    log->sequence = is_empty ? 0 : recovery->last.sequence - 1; /* the number of what it repeats */
    log->batch_bytes = UINT32_MAX;                              /* in one piece */
    log->is_flush_wanted = true;
    CHECK(log_batch_begin(log) && log->pending.count == 0);
    log->batch_bytes = soft;
    if (!is_empty) {
        batch->head.durable_segment = recovery->last.segment;
        batch->head.durable_sector = recovery->last.sector;
    }
    if (!is_empty && tail_is_unproven(recovery)) {
        batch->head.durable_segment = recovery->last.durable_segment;
        batch->head.durable_sector = recovery->last.durable_sector;
        if (batch->head.first_segment == recovery->last.segment) {
            batch->head.first_segment = batch->head.segment;
        }
    }
    log_batch_work(batch);
    if (batch->status < 0) {
        return err_set(recovery->err, batch->status, "log: %s", batch->err.text);
    }
    log_batch_settle(log);
    if (!is_empty && tail_is_unproven(recovery)) {
        log_chain_drop(log, (uint32_t)recovery->last.segment);
    }
    for (size_t i = 0; i < batch->count; i++) {
        blob_unref(batch->records[i].payload);
    }
    batch->count = 0;
    return 0;
}

/* Every group's state into the copy that is older, all synced: the page cache may show what the
 * disk does not have. */
int recovery_rewrite_votes(struct recovery *recovery)
{
    struct log *log = recovery->log;
    for (size_t i = 0; i < log->group_count; i++) {
        struct log_group *group = log->groups[i];
        if (group->term == 0) {
            continue;
        }
        if (!group->has_pair) {
            group->votes = (struct log_vote){ .pair = log->votes.pairs++ };
            group->has_pair = true;
        }
        group->votes.record =
            (struct log_record_vote){ .owner = log->owner,
                                      .group = group->number,
                                      .replica = group->replica,
                                      .sequence = group->votes.record.sequence + 1,
                                      .term = group->term,
                                      .vote = group->vote };
        int rc = log_votes_write(log->config.env, log->votes.file, &group->votes, recovery->err);
        if (rc < 0) {
            return rc;
        }
        group->votes.copy = !group->votes.copy;
    }
    return env_file_sync(log->config.env, log->votes.file, recovery->err);
}

/* --- Files (5) */

/* A file whose blocks are worth keeping goes to the freed ones: the keeper will recycle it. Not
 * while the log is empty, when only the order of removal tells a lost segment from a removed one
 * (check_newer). */
static bool keep_file(struct recovery *recovery, struct found *found)
{
    struct log *log = recovery->log;
    if (recovery->tail == recovery->count || log->freed_count >= LOG_SPARES ||
        found->header.bytes != log->config.segment_bytes) {
        return false;
    }
    log_freed_add(log, (uint32_t)found->header.number, found->file, found_sectors(found));
    found->file = NULL;
    return true;
}

/* (5) */
int recovery_remove_files(struct recovery *recovery)
{
    struct log *log = recovery->log;
    char path[512];
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < recovery->spare_count; i++) {
        log_segment_path(path, log->directory, recovery->spares[i], "spare");
        rc = env_file_remove(log->config.env, path, recovery->err);
    }
    for (size_t i = recovery->count; rc == 0 && i-- > 0;) {
        struct found *found = &recovery->found[i];
        if (found->is_in_chain || keep_file(recovery, found)) {
            continue;
        }
        log_segment_path(path, log->directory, found->header.number, "log");
        rc = env_file_remove(log->config.env, path, recovery->err);
        if (rc == 0) {
            rc = env_dir_sync(log->config.env, log->directory, recovery->err);
        }
    }
    return rc;
}
