/* Batches of the log: laid out from what waits, written and synced by a job, then told (I1 to I4 and I6 of log.c). */
#include "raft/log_private.h"

#include "base/check.h"
#include "base/hash.h"

static void batch_done(struct env_job *job);

bool log_pendings_reserve(struct log_pendings *pendings, struct mem_gate *gate, size_t more)
{
    if (pendings->first + pendings->count + more <= pendings->capacity) {
        return true;
    }
    if (pendings->first > pendings->capacity / 2) {
        memmove(pendings->items, pendings->items + pendings->first,
                pendings->count * sizeof *pendings->items);
        pendings->first = 0;
    }
    size_t capacity =
        mem_try_grow(gate, &pendings->items, pendings->capacity,
                     pendings->first + pendings->count + more, sizeof *pendings->items);
    pendings->capacity = capacity ? capacity : pendings->capacity;
    return capacity != 0;
}

/* Entries have their room by log_reserve. For terms, votes and cuts there must be some: the core goes
 * by them already, so without memory the process ends, and the next one by what is durable. */
void log_pending_add(struct log_pendings *pendings, const struct log_pending *record)
{
    bool has_room = log_pendings_reserve(pendings, NULL, 1);
    CHECK(has_room);
    struct log_pending *item = &pendings->items[pendings->first + pendings->count++];
    *item = *record;
    pendings->others += !log_pending_is_entry(record);
    if (item->payload) {
        blob_ref(item->payload);
        pendings->bytes += item->payload->size;
    }
}

struct log_pending log_pending_take(struct log_pendings *pendings)
{
    CHECK(pendings->count > 0);
    struct log_pending record = pendings->items[pendings->first++];
    if (--pendings->count == 0) {
        pendings->first = 0;
    }
    if (record.payload) {
        pendings->bytes -= record.payload->size;
    }
    pendings->others -= !log_pending_is_entry(&record);
    return record;
}

/* How many of the waiting records fit the soft size, at least one if there is any; adds to *bytes
 * and *payload. */
static size_t records_that_fit(const struct log *log, const struct log_pendings *pendings,
                               uint64_t *bytes, uint64_t *payload)
{
    size_t count = 0;
    for (; count < pendings->count; count++) {
        const struct log_pending *record = &pendings->items[pendings->first + count];
        uint64_t size = record->payload ? record->payload->size : 0;
        if (*bytes > 0 && *bytes + size + LOG_RECORD_HEADER > log->batch_bytes) {
            break;
        }
        *bytes += size + LOG_RECORD_HEADER;
        *payload += size;
    }
    return count;
}

/* Room for all that a batch of so many records and sectors needs until it is told. False: there is no
 * memory; nothing has changed, and it is tried again. */
static bool batch_reserve(struct log *log, size_t records, uint32_t sectors)
{
    struct log_batch *batch = &log->batch;
    struct mem_gate *gate = log->gate;
    size_t groups = records < log->group_count ? records : log->group_count;
    size_t capacity =
        mem_try_grow(gate, &batch->records, batch->capacity, records, sizeof *batch->records);
    batch->capacity = capacity ? capacity : batch->capacity;
    size_t votes =
        mem_try_grow(gate, &batch->votes, batch->votes_capacity, groups + 1, sizeof *batch->votes);
    batch->votes_capacity = votes ? votes : batch->votes_capacity;
    size_t told = mem_try_grow(gate, &log->told, log->told_capacity, groups + 1, sizeof *log->told);
    log->told_capacity = told ? told : log->told_capacity;
    buf_clear(&batch->buffer);
    buf_clear(&batch->packer.table);
    bool is_found = capacity && votes && told &&
                    buf_try_reserve(&batch->buffer, gate,
                                    (size_t)sectors * LOG_RECORD_SECTOR + ENV_FILE_DIRECT_ALIGN) &&
                    buf_try_reserve(&batch->packer.table, gate, records * LOG_RECORD_HEADER);
    if (!is_found && !log->is_closing) {
        env_timer_start(log->config.env, &log->memory_retry, LOG_MEMORY_RETRY_US);
    }
    return is_found;
}

static void batch_push(struct log_batch *batch, const struct log_pending *record)
{
    CHECK(batch->count < batch->capacity);
    batch->records[batch->count++] = *record;
}

uint32_t log_checkpoint_records(const struct log *log)
{
    uint32_t count = 2 * (uint32_t)log->group_count;
    for (size_t i = 0; i < log->group_count; i++) {
        count += log->groups[i]->is_suspect;
    }
    return count;
}

/* Start, state and suspicion of every group, at the head of a segment's first batch. They may be
 * newer than what follows in this batch: replay takes the greater start and the newer state. Not so
 * a reset: what stands of the old log is before it (log_reset drops what waited), what follows is
 * new. */
static void batch_push_checkpoint(struct log *log)
{
    for (size_t i = 0; i < log->group_count; i++) {
        struct log_group *group = log->groups[i];
        struct log_pending start = { .group = group,
                                     .kind = group->is_reset ? LOG_RECORD_RESET : LOG_RECORD_START,
                                     .index = group->index.log_start,
                                     .term = group->index.start_term,
                                     .is_silent = true };
        struct log_pending state = { .group = group,
                                     .kind = LOG_RECORD_STATE,
                                     .index = group->term,
                                     .term = group->vote,
                                     .is_silent = true };
        group->is_reset = false;
        struct log_pending suspect = { .group = group,
                                       .kind = LOG_RECORD_SUSPECT,
                                       .is_silent = true };
        batch_push(&log->batch, &start);
        batch_push(&log->batch, &state);
        if (group->is_suspect) {
            batch_push(&log->batch, &suspect);
        }
    }
}

/* The group's newest state goes to the votes file too. */
static void batch_push_vote(struct log *log, const struct log_pending *record)
{
    struct log_batch *batch = &log->batch;
    struct log_group *group = record->group;
    if (!group->has_pair) {
        group->votes = (struct log_vote){ .pair = log->votes.pairs++ };
        group->has_pair = true;
    }
    group->votes.record = (struct log_record_vote){ .owner = log->owner,
                                                    .group = group->number,
                                                    .replica = group->replica,
                                                    .sequence = group->votes.record.sequence + 1,
                                                    .term = record->index,
                                                    .vote = record->term };
    for (size_t i = 0; i < batch->votes_count; i++) {
        if (batch->votes[i].pair == group->votes.pair) {
            batch->votes[i].record = group->votes.record;
            return;
        }
    }
    CHECK(batch->votes_count < batch->votes_capacity); /* one a group */
    batch->votes[batch->votes_count++] = group->votes;
    group->votes.copy = !group->votes.copy;
}

/* The oldest segment that is needed once everything taken into this batch is durable (I4). */
static uint64_t oldest_needed(const struct log *log)
{
    if (log->pending.others > 0) {
        return log->first_segment;
    }
    size_t i = 0;
    while (i + 1 < log->chain_count && log->chain[i]->live_count == 0) {
        i++;
    }
    uint64_t number = log->chain[i]->number;
    return log->replaced_from != 0 && log->replaced_from < number ? log->replaced_from : number;
}

static void batch_lay_out(struct log *log, uint32_t sectors, uint32_t copies, uint64_t payload)
{
    struct log_batch *batch = &log->batch;
    struct log_segment *segment = log_current(log);
    batch->segment = segment;
    batch->head.segment = segment->number;
    batch->head.sector = segment->used;
    batch->head.sectors = sectors;
    batch->head.sequence = log->sequence + 1;
    batch->head.records = (uint32_t)batch->count;
    batch->head.copies = copies;
    batch->head.payload_bytes = (uint32_t)payload;
    batch->head.previous_records = log->previous_records;
    batch->head.previous_crc = log->previous_crc;
    batch->head.first_segment = oldest_needed(log);
    uint32_t at = log_record_payload_at(segment->used, batch->head.records, copies);
    for (size_t i = 0; i < batch->count; i++) {
        batch->records[i].at = at;
        at += batch->records[i].payload ? batch->records[i].payload->size : 0;
    }
}

/* Goes on in the next segment, which is there. */
static void next_segment(struct log *log)
{
    CHECK(log->spare_count > 0);
    struct log_segment *spare = log->spares[0];
    CHECK(log_current(log)->number < spare->number);
    log->spares[0] = log->spares[1];
    log->spare_count--;
    log_segments_push(&log->chain, &log->chain_count, &log->chain_capacity, spare);
}

/* The term is asked too: an empty payload takes no room, and its successor may lie at the same
 * place. */
struct log_slot *log_record_slot(const struct log_pending *record)
{
    const struct log_index *index = &record->group->index;
    if (!log_index_has(index, record->index) ||
        log_index_term(index, record->index) != record->term) {
        return NULL;
    }
    struct log_slot *slot = log_index_at(index, record->index);
    return slot->segment == record->old_segment && slot->at == record->old_at ? slot : NULL;
}

/* An entry that was replaced since must not be written again behind its successor. */
static void moves_drop_stale(struct log *log)
{
    for (size_t left = log->moves.count; left > 0; left--) {
        struct log_pending record = log_pending_take(&log->moves);
        if (log_record_slot(&record)) {
            log_pending_add(&log->moves, &record);
        }
        blob_unref(record.payload);
    }
}

/* What a batch will hold. */
struct plan {
    size_t count, moves; /* of the waiting records */
    bool has_entries;
    uint64_t payload;
    uint32_t copies, sectors;
};

static void plan_measure(struct plan *plan, uint32_t checkpoint)
{
    plan->sectors = log_record_sectors((uint32_t)(plan->count + plan->moves) + checkpoint,
                                       plan->copies, plan->payload);
}

/* The checkpoint of the current segment, if this batch is its first. */
static uint32_t checkpoint_due(const struct log *log)
{
    return log_current(log)->used == 1 ? log_checkpoint_records(log) : 0;
}

/* Whether it fits into the current segment. Where there may be no next one, entries leave a part of it (I6). */
static bool plan_fits(const struct log *log, const struct plan *plan)
{
    uint32_t left = log->segment_sectors - log_current(log)->used;
    bool is_last = log->spare_count == 0 && log->is_spare_refused && log_current(log)->used > 1;
    uint32_t kept = is_last && plan->has_entries ? log->segment_sectors / LOG_OTHERS_PART : 0;
    return plan->sectors + kept <= left;
}

static uint32_t copies_due(const struct log *log)
{
    uint32_t copies = log->previous_records;
    bool is_much = copies > LOG_RECORD_COPIES_MAX ||
                   copies * LOG_RECORD_HEADER > log->batch_bytes / 2 ||
                   log->batch.copies.size != copies * LOG_RECORD_HEADER;
    return is_much ? 0 : copies;
}

static struct plan plan_all(const struct log *log)
{
    struct plan plan = { .copies = copies_due(log) };
    const struct log_pending *waiting = log->pending.items + log->pending.first;
    uint64_t bytes = 0;
    plan.count = records_that_fit(log, &log->pending, &bytes, &plan.payload);
    plan.moves = records_that_fit(log, &log->moves, &bytes, &plan.payload);
    plan.has_entries = plan.moves > 0 || plan.count > log->pending.others;
    for (size_t i = 0; i < plan.count && !plan.has_entries; i++) {
        plan.has_entries = log_pending_is_entry(&waiting[i]);
    }
    plan_measure(&plan, checkpoint_due(log));
    return plan;
}

/* I6. The copies, which are for the case that the batch before gets damaged, only if they have room. */
static struct plan plan_others(const struct log *log)
{
    size_t most = log->batch_bytes / LOG_RECORD_HEADER;
    struct plan plan = { .count = log->pending.others < most ? log->pending.others : most,
                         .copies = copies_due(log) };
    plan_measure(&plan, checkpoint_due(log));
    if (!plan_fits(log, &plan)) {
        plan.copies = 0;
        plan_measure(&plan, checkpoint_due(log));
    }
    return plan;
}

static void batch_take(struct log *log, const struct log_pending *record)
{
    batch_push(&log->batch, record);
    if (record->kind == LOG_RECORD_STATE || record->kind == LOG_RECORD_HEALED) {
        batch_push_vote(log, record);
    } else if (record->kind == LOG_RECORD_RESET) {
        record->group->is_reset = false;
    }
}

/* Takes so many of those that are no entries from among the others. */
static void batch_take_others(struct log *log, size_t count)
{
    struct log_pendings *pending = &log->pending;
    struct log_pending *items = pending->items + pending->first;
    size_t left = 0;
    for (size_t i = 0; i < pending->count; i++) {
        if (count > 0 && !log_pending_is_entry(&items[i])) {
            batch_take(log, &items[i]);
            pending->others--;
            count--;
        } else {
            items[left++] = items[i];
        }
    }
    pending->count = left;
    pending->first = left > 0 ? pending->first : 0;
}

static void batch_fill(struct log *log, const struct plan *plan, bool are_others,
                       uint32_t checkpoint)
{
    log->batch.count = log->batch.votes_count = 0;
    if (checkpoint) {
        batch_push_checkpoint(log);
    }
    if (are_others) {
        batch_take_others(log, plan->count);
    }
    for (size_t i = 0; i < plan->count && !are_others; i++) {
        struct log_pending record = log_pending_take(&log->pending);
        batch_take(log, &record);
    }
    for (size_t i = 0; i < plan->moves; i++) {
        struct log_pending record = log_pending_take(&log->moves);
        batch_push(&log->batch, &record);
    }
    if (log->pending.count == 0) {
        log->replaced_from = 0;
    }
}

bool log_batch_begin(struct log *log)
{
    struct log_batch *batch = &log->batch;
    moves_drop_stale(log);
    struct plan plan = plan_all(log);
    bool is_next = !plan_fits(log, &plan);
    bool are_others = is_next && log->spare_count == 0;
    if (are_others) {
        plan = plan_others(log);
        is_next = false;
    }
    if ((plan.count + plan.moves == 0 && !log->is_flush_wanted) ||
        (are_others && !plan_fits(log, &plan))) {
        return false;
    }
    uint32_t most = (uint32_t)(plan.count + plan.moves + LOG_CHECKPOINT_RECORDS * log->group_count);
    if (!batch_reserve(log, most, log_record_sectors(most, plan.copies, plan.payload))) {
        return false;
    }
    batch->head.durable_segment = log_current(log)->number;
    batch->head.durable_sector = log_current(log)->used;
    if (is_next) {
        CHECK(log_current(log)->used > 1);
        next_segment(log);
    }
    uint32_t checkpoint = checkpoint_due(log);
    plan_measure(&plan, checkpoint);
    CHECK(plan.sectors <= log->segment_sectors - log_current(log)->used);
    batch_fill(log, &plan, are_others, checkpoint);
    log->is_flush_wanted = false;
    batch_lay_out(log, plan.sectors, plan.copies, plan.payload);
    return true;
}

static void batch_pack(struct log_batch *batch)
{
    size_t size = (size_t)batch->head.sectors * LOG_RECORD_SECTOR;
    buf_clear(&batch->buffer);
    batch->bytes = env_direct_align(buf_extend(&batch->buffer, size + ENV_FILE_DIRECT_ALIGN));
    log_record_pack_begin(&batch->packer, &batch->head, batch->bytes);
    for (size_t i = 0; i < batch->count; i++) {
        struct log_pending *record = &batch->records[i];
        struct span payload = record->payload ? blob_span(record->payload) : (struct span){ 0 };
        if (!record->is_bare) {
            record->crc = record->payload && record->payload->is_summed
                              ? record->payload->crc
                              : hash_crc32c(0, payload.data, payload.size);
            record->size = (uint32_t)payload.size;
        }
        struct log_record header = { .kind = record->kind,
                                     .group = record->group->number,
                                     .replica = record->group->replica,
                                     .index = record->index,
                                     .term = record->term,
                                     .length = record->size,
                                     .crc = record->crc,
                                     .is_bare = record->is_bare };
        log_record_pack_add(&batch->packer, &header);
    }
    struct span copies = batch->head.copies ? buf_span(&batch->copies) : (struct span){ 0 };
    log_record_pack_copies(&batch->packer, copies);
    for (size_t i = 0; i < batch->count; i++) {
        if (batch->records[i].payload) {
            log_record_pack_payload(&batch->packer, blob_span(batch->records[i].payload));
        }
    }
    log_record_pack_finish(&batch->packer);
}

void log_batch_work(struct log_batch *batch)
{
    struct log *log = batch->log;
    struct env *env = log->config.env;
    batch_pack(batch);
    uint64_t begun = env_now_us(env);
    int rc =
        env_file_write(env, batch->segment->file, (uint64_t)batch->head.sector * LOG_RECORD_SECTOR,
                       batch->bytes, (size_t)batch->head.sectors * LOG_RECORD_SECTOR, &batch->err);
    if (rc == 0) {
        rc = env_file_sync(env, batch->segment->file, &batch->err);
    }
    for (size_t i = 0; rc == 0 && i < batch->votes_count; i++) {
        rc = log_votes_write(env, log->votes.file, &batch->votes[i], &batch->err);
    }
    if (rc == 0 && batch->votes_count > 0) {
        rc = env_file_sync(env, log->votes.file, &batch->err);
    }
    batch->sync_us = env_now_us(env) - begun;
    batch->status = rc;
}

static void batch_job_work(struct env_job *job)
{
    log_batch_work(container_of(job, struct log_batch, job));
}

static void batch_start(struct log *log)
{
    if (log->is_in_flight || log->is_failed || log->is_closing) {
        return;
    }
    bool is_begun = log_batch_begin(log);
    log_keeper_step(log);
    if (is_begun) {
        log->is_in_flight = true;
        log->begun_us = env_now_us(log->config.env);
        log->batch.job.work = batch_job_work;
        log->batch.job.done = batch_done;
        env_job_start(log->config.env, ENV_JOB_LOG, &log->batch.job);
    }
}

void log_task_run(struct env_task *task)
{
    batch_start(container_of(task, struct log, task));
}

/* An entry's record is durable: its slot, if it still is this entry's, gets the place. */
static void settle_entry(struct log *log, const struct log_pending *record)
{
    struct log_group *group = record->group;
    struct log_slot *slot = log_record_slot(record);
    if (!slot) {
        return; /* replaced or cut meanwhile */
    }
    if (slot->segment) {
        log_live_remove(log, slot);
    }
    slot->segment = log->batch.segment->number;
    slot->at = record->at;
    slot->crc = record->crc;
    slot->is_moved = record->kind == LOG_RECORD_MOVED;
    log_live_add(log, slot);
    if (slot->is_hole && !record->is_bare) {
        slot->is_hole = slot->is_filling = 0;
        group->hole_count--;
        log->stats.holes_filled++;
        group->is_filled = true;
    }
    if (record->kind == LOG_RECORD_ENTRY) {
        group->durable_index = record->index;
        group->is_told = true;
    }
}

static void free_segments(struct log *log, uint64_t first_segment)
{
    size_t gone = 0;
    while (gone + 1 < log->chain_count && log->chain[gone]->number < first_segment) {
        CHECK(log->chain[gone]->live_count == 0);
        log_segments_push(&log->freed, &log->freed_count, &log->freed_capacity, log->chain[gone++]);
    }
    memmove(log->chain, log->chain + gone, (log->chain_count - gone) * sizeof *log->chain);
    log->chain_count -= gone;
}

void log_batch_settle(struct log *log)
{
    struct log_batch *batch = &log->batch;
    batch->segment->used += batch->head.sectors;
    log->sequence = batch->head.sequence;
    log->first_segment = batch->head.first_segment;
    log->previous_records = batch->head.records;
    struct buf table = batch->packer.table;
    batch->packer.table = batch->copies;
    batch->copies = table;
    log->previous_crc = hash_crc32c(0, table.data, table.size);
    for (size_t i = 0; i < batch->count; i++) {
        const struct log_pending *record = &batch->records[i];
        if (record->kind == LOG_RECORD_ENTRY || record->kind == LOG_RECORD_MOVED) {
            settle_entry(log, record);
            log->stats.entries += record->kind == LOG_RECORD_ENTRY;
        } else if (record->kind == LOG_RECORD_HEALED) {
            record->group->is_suspect = false;
            log->stats.healed++;
        } else if (record->kind == LOG_RECORD_SUSPECT) {
            record->group->is_suspect = true; /* an older word of healing may have come between */
        }
    }
    free_segments(log, log->first_segment);
    log->stats.batches++;
    log->stats.bytes += (uint64_t)batch->head.sectors * LOG_RECORD_SECTOR;
    log->stats.syncs_us_total += batch->sync_us;
    if (batch->sync_us > log->stats.sync_us_max) {
        log->stats.sync_us_max = batch->sync_us;
    }
}

static void batch_tell(struct log *log)
{
    const struct log_config *config = &log->config;
    struct log_batch *batch = &log->batch;
    size_t told = 0;
    for (size_t i = 0; i < batch->count; i++) {
        const struct log_pending *record = &batch->records[i];
        if (record->group->is_told) {
            record->group->is_told = false;
            CHECK(told < log->told_capacity); /* one a group */
            log->told[told++] = record->group;
        }
        bool is_state = record->kind == LOG_RECORD_STATE || record->kind == LOG_RECORD_HEALED;
        if (is_state && !record->is_silent && config->on_state_durable) {
            config->on_state_durable(config->ctx, record->group->number, record->index,
                                     record->term);
        }
        if (record->kind == LOG_RECORD_SUSPECT && !record->is_silent && config->on_suspect) {
            config->on_suspect(config->ctx, record->group->number);
        }
        if (record->kind == LOG_RECORD_HEALED && config->on_healed) {
            config->on_healed(config->ctx, record->group->number);
        }
        if (record->group->is_filled) {
            record->group->is_filled = false;
            log_hole_tell(log, record->group);
        }
    }
    for (size_t i = 0; i < told && config->on_durable; i++) {
        const struct log_index *index = &log->told[i]->index;
        uint64_t durable = log->told[i]->durable_index;
        if (durable + 1 >= index->log_start) {
            config->on_durable(config->ctx, log->told[i]->number, durable,
                               log_index_term(index, durable));
        }
    }
    if (config->on_batch) {
        config->on_batch(config->ctx);
    }
}

void log_batch_release(struct log_batch *batch)
{
    for (size_t i = 0; i < batch->count; i++) {
        blob_unref(batch->records[i].payload);
    }
    batch->count = 0;
    if (batch->buffer.capacity > 4 * LIMIT_LOG_BATCH_BYTES) {
        buf_fini(&batch->buffer);
        batch->buffer = (struct buf){ 0 };
    }
}

static void batch_done(struct env_job *job)
{
    struct log_batch *batch = container_of(job, struct log_batch, job);
    struct log *log = batch->log;
    log->is_in_flight = false;
    log->is_telling = true;
    log->latencies_us[log->latency_count++ % LOG_LATENCIES] =
        env_now_us(log->config.env) - log->begun_us;
    if (batch->status < 0 || log->is_failed) {
        log_batch_release(batch);
        log_fail(log, &batch->err);
    } else {
        bool has_moved =
            batch->count > 0 && batch->records[batch->count - 1].kind == LOG_RECORD_MOVED;
        log_batch_settle(log);
        if (!log->is_closing) {
            batch_tell(log);
        }
        log_batch_release(batch);
        log_cache_evict(log, log->config.cache_bytes);
        log_move_step(log);
        /* What was moved frees the oldest segment only with a batch that says so; it may not wait
         * for one by chance. */
        log->is_flush_wanted = has_moved && log->chain_count > 1 && log->chain[0]->live_count == 0;
        if (log->pending.count > 0 || log->moves.count > 0 || log->is_flush_wanted) {
            log_schedule(log);
        }
        log_keeper_step(log);
    }
    log->is_telling = false;
    log_close_step(log);
}

void log_pendings_fini(struct log_pendings *pendings)
{
    while (pendings->count > 0) {
        blob_unref(log_pending_take(pendings).payload);
    }
    mem_free(pendings->items);
}

void log_batch_fini(struct log_batch *batch)
{
    log_batch_release(batch);
    mem_free(batch->records);
    mem_free(batch->votes);
    buf_fini(&batch->buffer);
    buf_fini(&batch->copies);
    buf_fini(&batch->packer.table);
}
