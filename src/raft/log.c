/* The log: one write-ahead log for all groups of a node. Here is what runs while the node runs;
 * opening stands in log_recover.c, the format and what is torn or damaged in log_record.h.
 *
 *   log_append ─► pending ─► log_batch_begin ─► log_batch_work (job: pack, write, sync, votes) ─► batch_done ─► callbacks
 *                    ▲          lays out                one in flight                           places, live counts
 *                    └── gathers while one is in flight
 *
 * Files (log_private.h is what they share)
 *   log.c         groups, appending, cutting, room, the end
 *   log_batch.c   what waits, and the batch in flight
 *   log_cache.c   which places are live, and the payloads in memory
 *   log_keeper.c  segments and their files
 *   log_read.c    reading, holes, moving what pins the oldest segment
 *
 * Segments. chain[0 … n-1] hold the log, the last is written. A segment is fresh (spare) → current
 * → full → free → recycled. Each begins with a checkpoint: start and state of every group, so that
 * only entries tie an old segment to life. It is free when none of its entries is live and a
 * durable batch says so (first_segment in its head); what made the entries dead is in that batch or
 * before. Quiet groups would pin old segments: beyond LOG_CHAIN_MAX, when the oldest is less than a
 * quarter live, its entries are read and written again as MOVED records.
 *
 * Invariants
 *   I1  One batch in flight; the next is laid out only after the sync of the last. So every head's
 *       durable position is the end of the batch before.
 *   I2  An entry's slot names a place only when that place is durable; until then the payload is
 *       in memory.
 *   I3  Nothing is told durable that lies behind a failed write or sync: after one, no job is
 *       started and no callback made but on_failure.
 *   I4  first_segment grows only in a batch behind which no cut waits, and not to where a waiting
 *       entry has replaced another: so the cuts and replacements that freed the segments are durable
 *       with it or before.
 *   I5  A segment leaves the chain only at the front, and its file is touched only when no read
 *       uses it.
 *   I6  What is no entry (cuts, votes) never waits for room behind entries: where these have none and
 *       there is no next segment, a batch takes the others alone, in a part of the segment that
 *       entries leave then. Replay takes the greatest start and the newest state wherever they
 *       stand; among themselves, and before the entries that come later, they keep their order. So a
 *       cut frees what the entries wait for.
 *
 * Thread: loop; log_batch_work, keeper_work and read_work in jobs, on what was handed to them. */
#include "raft/log.h"

#include "base/check.h"
#include "raft/log_private.h"

struct log_group *log_group_find(const struct log *log, uint32_t number)
{
    return number < log->numbered_count ? log->numbered[number]
                                        : hashtab_find(&log->by_number, number);
}

static void group_number(struct log *log, struct log_group *group)
{
    CHECK(!hashtab_put(&log->by_number, group->number, group));
    if (group->number >= LOG_NUMBERED_MAX) {
        return;
    }
    if (group->number >= log->numbered_count) {
        uint32_t count =
            group->number < LOG_NUMBERED_MIN / 2 ? LOG_NUMBERED_MIN : 2 * group->number;
        count = count < LOG_NUMBERED_MAX ? count : LOG_NUMBERED_MAX;
        log->numbered = mem_realloc(log->numbered, count * sizeof *log->numbered);
        memset(log->numbered + log->numbered_count, 0,
               (count - log->numbered_count) * sizeof *log->numbered);
        log->numbered_count = count;
    }
    log->numbered[group->number] = group;
}

struct log_group *log_group_new(struct log *log, uint32_t number, uint64_t replica,
                                uint64_t log_start, uint64_t start_term)
{
    struct log_group *group = MEM_NEW(struct log_group);
    group->number = number;
    group->replica = replica;
    log_index_init(&group->index, log_start, start_term);
    group->durable_index = log_start - 1;
    if (log->group_count == log->group_capacity) {
        log->group_capacity = log->group_capacity ? log->group_capacity * 2 : 64;
        log->groups = mem_realloc(log->groups, log->group_capacity * sizeof *log->groups);
    }
    log->groups[log->group_count++] = group;
    group_number(log, group);
    return group;
}

size_t log_group_count(const struct log *log)
{
    return log->start_count;
}

const struct log_group_start *log_group_at(const struct log *log, size_t i)
{
    CHECK(i < log->start_count);
    return &log->groups[i]->start;
}

/* A batch at the end of this turn, unless one is in flight: then right behind it. */
void log_schedule(struct log *log)
{
    if (!log->is_in_flight && !log->is_failed && !log->is_closing) {
        env_defer(log->config.env, &log->task);
    }
}

static void add_start(struct log *log, struct log_group *group, uint8_t kind)
{
    struct log_pending record = { .group = group,
                                  .kind = kind,
                                  .index = group->index.log_start,
                                  .term = group->index.start_term };
    log_pending_add(&log->pending, &record);
    log_schedule(log);
}

void log_group_add(struct log *log, uint32_t group_number, uint64_t replica, uint64_t start_index,
                   uint64_t start_term)
{
    CHECK(!log_group_find(log, group_number));
    /* The checkpoint of all groups takes at most an eighth of a segment. */
    CHECK((log->group_count + 1) * 3 * LOG_RECORD_HEADER <= log->config.segment_bytes / 8);
    add_start(log, log_group_new(log, group_number, replica, start_index, start_term),
              LOG_RECORD_START);
}

static void replace_from(struct log *log, struct log_group *group, uint64_t first)
{
    for (uint64_t i = first; i <= group->index.last_index; i++) {
        log_drop_slot(log, group, log_index_at(&group->index, i));
    }
    log_index_truncate(&group->index, first);
    if (group->durable_index >= first) {
        group->durable_index = first - 1;
    }
}

bool log_append_reserve(struct log *log, struct log_group *group, uint32_t count, uint32_t runs)
{
    return !mem_gate_refuses(log->gate) && log_pendings_reserve(&log->pending, log->gate, count) &&
           log_index_reserve(&group->index, log->gate, count, runs) &&
           log_cache_reserve(log, log->gate, count);
}

int log_reserve(struct log *log, uint32_t group_number, uint32_t count, uint32_t runs)
{
    struct log_group *group = log_group_find(log, group_number);
    CHECK(group);
    return log_append_reserve(log, group, count, runs) ? 0 : ERR_NO_MEMORY;
}

/* What is replaced stays on disk until its successors are there (I4). */
static void keep_replaced(struct log *log, const struct log_group *group, uint64_t first)
{
    for (uint64_t i = first; i <= group->index.last_index; i++) {
        uint64_t segment = log_index_at(&group->index, i)->segment;
        if (segment != 0 && (log->replaced_from == 0 || segment < log->replaced_from)) {
            log->replaced_from = segment;
        }
    }
}

void log_append(struct log *log, uint32_t group_number, uint64_t first, const uint64_t *terms,
                struct blob *const *payloads, uint32_t count)
{
    struct log_group *group = log_group_find(log, group_number);
    CHECK(group && count > 0);
    CHECK(first >= group->index.log_start && first <= group->index.last_index + 1);
    keep_replaced(log, group, first);
    replace_from(log, group, first);
    for (uint32_t i = 0; i < count; i++) {
        CHECK(payloads[i]->size <= log->entry_bytes_max);
        struct log_slot *slot = log_index_push(&group->index);
        log_index_push_term(&group->index, terms[i]);
        slot->size = payloads[i]->size & LOG_RECORD_PAYLOAD_MAX;
        slot->at = ++log->serial;
        slot->blob = blob_ref(payloads[i]);
        log_cache_add(log, group, first + i, slot);
        struct log_pending record = { .group = group,
                                      .kind = LOG_RECORD_ENTRY,
                                      .index = first + i,
                                      .term = terms[i],
                                      .payload = payloads[i],
                                      .old_at = slot->at };
        log_pending_add(&log->pending, &record);
    }
    log_schedule(log);
}

void log_append_state(struct log *log, uint32_t group_number, uint64_t term, uint64_t vote)
{
    struct log_group *group = log_group_find(log, group_number);
    CHECK(group);
    CHECK(term >= group->term);
    group->term = term;
    group->vote = vote;
    struct log_pending record = {
        .group = group, .kind = LOG_RECORD_STATE, .index = term, .term = vote
    };
    log_pending_add(&log->pending, &record);
    log_schedule(log);
}

void log_append_healed(struct log *log, uint32_t group_number, uint64_t term, uint64_t vote)
{
    struct log_group *group = log_group_find(log, group_number);
    CHECK(group && group->is_suspect && term >= group->term);
    group->term = term;
    group->vote = vote;
    struct log_pending record = {
        .group = group, .kind = LOG_RECORD_HEALED, .index = term, .term = vote
    };
    log_pending_add(&log->pending, &record);
    log_schedule(log);
}

void log_append_suspect(struct log *log, uint32_t group_number)
{
    struct log_group *group = log_group_find(log, group_number);
    CHECK(group);
    log->stats.suspects += !group->is_suspect;
    group->is_suspect = true;
    struct log_pending record = { .group = group, .kind = LOG_RECORD_SUSPECT };
    log_pending_add(&log->pending, &record);
    log_schedule(log);
}

void log_rebase(struct log *log, uint32_t group_number, uint64_t log_start)
{
    struct log_group *group = log_group_find(log, group_number);
    CHECK(group && log_start > group->index.last_index + 1);
    replace_from(log, group, group->index.log_start);
    log_index_cut(&group->index, log_start, 0);
    group->durable_index = log_start - 1;
    log->stats.suspects += !group->is_suspect;
    group->is_suspect = true;
    add_start(log, group, LOG_RECORD_START);
    struct log_pending record = { .group = group, .kind = LOG_RECORD_ENDED, .index = log_start };
    log_pending_add(&log->pending, &record);
    record.kind = LOG_RECORD_SUSPECT;
    record.index = 0;
    log_pending_add(&log->pending, &record);
}

void log_set_start_term(struct log *log, uint32_t group_number, uint64_t start_term)
{
    struct log_group *group = log_group_find(log, group_number);
    CHECK(group && group->index.start_term == 0);
    group->index.start_term = start_term;
    add_start(log, group, LOG_RECORD_START);
}

bool log_is_busy(const struct log *log)
{
    return log->is_in_flight || log->pending.count > 0;
}

size_t log_in_flight(const struct log *log)
{
    return log->is_in_flight ? log->batch.count : 0;
}

void log_hole_tell(struct log *log, const struct log_group *group)
{
    if (log->config.on_hole) {
        log->config.on_hole(log->config.ctx, group->number);
    }
}

void log_fail(struct log *log, const struct err *err)
{
    if (log->is_failed || log->is_closing) {
        return;
    }
    log->is_failed = true;
    LOG_ERROR(log->config.logger, "event=log_failed text=\"%s\"", err->text);
    if (log->config.on_failure) {
        log->config.on_failure(log->config.ctx, err);
    }
}

void log_cut(struct log *log, uint32_t group_number, uint64_t log_start, uint64_t start_term)
{
    struct log_group *group = log_group_find(log, group_number);
    CHECK(group);
    if (log_start <= group->index.log_start) {
        return;
    }
    for (uint64_t i = group->index.log_start; i < log_start && i <= group->index.last_index; i++) {
        log_drop_slot(log, group, log_index_at(&group->index, i));
    }
    log_index_cut(&group->index, log_start, start_term);
    if (group->durable_index + 1 < log_start) {
        group->durable_index = log_start - 1;
    }
    add_start(log, group, LOG_RECORD_START);
}

/* What waits of the group's entries must not be written behind the reset. */
static void pending_drop_entries(struct log *log, const struct log_group *group)
{
    for (size_t left = log->pending.count; left > 0; left--) {
        struct log_pending record = log_pending_take(&log->pending);
        if (record.group != group || !log_pending_is_entry(&record)) {
            log_pending_add(&log->pending, &record);
        }
        blob_unref(record.payload);
    }
}

void log_reset(struct log *log, uint32_t group_number, uint64_t start_index, uint64_t start_term)
{
    struct log_group *group = log_group_find(log, group_number);
    CHECK(group && start_index > group->index.log_start);
    replace_from(log, group, group->index.log_start);
    log_index_cut(&group->index, start_index, start_term);
    group->durable_index = start_index - 1;
    pending_drop_entries(log, group);
    group->is_reset = true;
    add_start(log, group, LOG_RECORD_RESET);
}

void log_keep_bytes(struct log *log, uint64_t bytes)
{
    log->keep_bytes = bytes;
    log_keeper_step(log);
}

uint64_t log_live_bytes(const struct log *log)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < log->chain_count; i++) {
        sum += (uint64_t)log->chain[i]->used * LOG_RECORD_SECTOR;
    }
    return sum;
}

/* What is gathered will take so many sectors: in batches, each with its head and a last sector that is not full; each record's header
 * twice; and in each segment that it begins on the way the segment's head and a checkpoint. */
static uint64_t sectors_gathered(const struct log *log)
{
    uint64_t records = log->pending.count + log->moves.count;
    if (records == 0) {
        return 0;
    }
    uint64_t content = log->pending.bytes + log->moves.bytes + records * 2 * LOG_RECORD_HEADER;
    uint64_t batches = content / log->batch_bytes + 1;
    uint64_t sectors = content / LOG_RECORD_CONTENT + 2 * batches;
    uint64_t segments = sectors / log->segment_sectors;
    return segments == 0
               ? sectors
               : sectors + segments * (1 + log_record_sectors(log_checkpoint_records(log), 0, 0));
}

static uint64_t bytes_on_the_way(const struct log *log)
{
    uint64_t in_flight = log->is_in_flight ? log->batch.head.sectors : 0;
    return (in_flight + sectors_gathered(log)) * LOG_RECORD_SECTOR;
}

uint64_t log_load_bytes(const struct log *log)
{
    return log_live_bytes(log) + bytes_on_the_way(log);
}

void log_tighten(struct log *log, bool is_tight)
{
    log->is_tight = is_tight;
    if (is_tight && !log->is_in_flight) {
        log_move_step(log); /* no batch may come: writes wait for what this frees */
    }
}

uint64_t log_live_bytes_least(const struct log *log)
{
    return (LOG_CHAIN_MAX + 2) * log->config.segment_bytes;
}

static int admit(const struct log *log, size_t bytes, size_t spares_needed)
{
    if (log->is_failed) {
        return ERR_IO;
    }
    if (log->is_spare_refused && log->spare_count < spares_needed) {
        return ERR_DISK_FULL;
    }
    if (log->pending.bytes + bytes > LOG_PENDING_BYTES_MAX) {
        return ERR_BUSY;
    }
    return 0;
}

uint64_t log_room(const struct log *log)
{
    if (!log->is_spare_refused) {
        return UINT64_MAX;
    }
    uint64_t sectors = log->segment_sectors - log_current(log)->used +
                       (uint64_t)log->spare_count * log->segment_sectors;
    uint64_t room = sectors * LOG_RECORD_SECTOR, waits = bytes_on_the_way(log);
    return room > waits ? room - waits : 0;
}

int log_admit(const struct log *log, size_t bytes)
{
    return admit(log, bytes, LOG_SPARES);
}

int log_admit_vital(const struct log *log, size_t bytes)
{
    return admit(log, bytes, 1);
}

uint64_t log_latency_us(const struct log *log)
{
    uint64_t sorted[LOG_LATENCIES];
    size_t count = log->latency_count < LOG_LATENCIES ? log->latency_count : LOG_LATENCIES;
    for (size_t i = 0; i < count; i++) {
        size_t at = i;
        for (; at > 0 && sorted[at - 1] > log->latencies_us[i]; at--) {
            sorted[at] = sorted[at - 1];
        }
        sorted[at] = log->latencies_us[i];
    }
    uint64_t median = count ? sorted[count / 2] : 0;
    uint64_t age = log->is_in_flight ? env_now_us(log->config.env) - log->begun_us : 0;
    return age > median && age > LOG_HANGS_US ? age : median;
}

void log_probe(struct log *log)
{
    if (!log_is_busy(log) && log_admit(log, LOG_RECORD_SECTOR) == 0) {
        log->is_flush_wanted = true;
        log_schedule(log);
    }
}

const struct log_stats *log_stats(const struct log *log)
{
    return &log->stats;
}

static void group_free(struct log *log, struct log_group *group)
{
    for (uint64_t i = group->index.log_start; i <= group->index.last_index; i++) {
        log_cache_drop_slot(log, log_index_at(&group->index, i));
    }
    log_index_fini(&group->index);
    mem_free(group);
}

void log_free(struct log *log)
{
    struct env *env = log->config.env;
    list_remove(&log->task.link);
    env_timer_stop(env, &log->retry);
    env_timer_stop(env, &log->memory_retry);
    LIST_FOR_SAFE(link, &log->readings)
    {
        log_reading_free(container_of(link, struct log_reading, link));
    }
    log_batch_fini(&log->batch);
    log_pendings_fini(&log->pending);
    log_pendings_fini(&log->moves);
    for (size_t i = 0; i < log->group_count; i++) {
        group_free(log, log->groups[i]);
    }
    log_segments_fini(log, log->chain, log->chain_count);
    log_segments_fini(log, log->spares, log->spare_count);
    log_segments_fini(log, log->freed, log->freed_count);
    if (log->votes.file) {
        env_file_close(env, log->votes.file);
    }
    hashtab_fini(&log->by_number);
    mem_free(log->numbered);
    mem_free(log->groups);
    mem_free(log->chain);
    mem_free(log->freed);
    mem_free(log->told);
    mem_free(log->cached);
    mem_free(log->directory);
    mem_free(log);
}

/* Writes what is gathered, here and now. */
static void close_flush(struct log *log)
{
    while (!log->is_failed && log_batch_begin(log)) {
        log_batch_work(&log->batch);
        if (log->batch.status < 0) {
            LOG_ERROR(log->config.logger, "event=log_failed text=\"%s\"", log->batch.err.text);
            log->is_failed = true;
        } else {
            log_batch_settle(log);
        }
        log_batch_release(&log->batch);
    }
}

void log_close_step(struct log *log)
{
    if (!log->is_closing || log->is_in_flight || log->is_telling || log->keeper.is_busy ||
        !list_is_empty(&log->readings)) {
        return;
    }
    close_flush(log);
    log_free(log);
}

void log_close(struct log *log)
{
    log->is_closing = true;
    log->gate = NULL;
    log->is_flush_wanted = false;
    log_close_step(log);
}

void log_abandon(struct log *log)
{
    log_free(log);
}
