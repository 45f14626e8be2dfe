/* The log: one write-ahead log for all groups of a node. Here is what runs while the node runs;
 * opening stands in log_recover.c, the format and what is torn or damaged in log_record.h.
 *
 *   log_append ─► pending ─► log_batch_begin ─► log_batch_work (job: pack, write, sync, votes) ─►
 * batch_done ─► callbacks ▲            lays out        one in flight places, live counts └──
 * gathers while one is in flight
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
 *   I4  first_segment grows only in a batch that takes all that is pending, so the cuts and
 *       replacements that freed the segments are durable with it or before.
 *   I5  A segment leaves the chain only at the front, and its file is touched only when no read
 *       uses it.
 *
 * Thread: loop; log_batch_work, keeper_work and read_work in jobs, on what was handed to them. */
#include "raft/log.h"

#include <stdlib.h>

#include "base/check.h"
#include "base/hash.h"
#include "raft/log_private.h"

static void batch_done(struct env_job *job);
static void move_step(struct log *log);

/* --- Small containers. */

struct log_group *log_group_find(const struct log *log, uint32_t number)
{
    return number < log->numbered_count ? log->numbered[number]
                                        : hashtab_find(&log->by_number, number);
}

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

static void segments_push(struct log_segment ***list, size_t *count, size_t *capacity,
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
    segments_push(&log->chain, &log->chain_count, &log->chain_capacity, segment);
    return segment;
}

static bool pendings_reserve(struct log_pendings *pendings, struct mem_gate *gate, size_t more)
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
    bool has_room = pendings_reserve(pendings, NULL, 1);
    CHECK(has_room);
    struct log_pending *item = &pendings->items[pendings->first + pendings->count++];
    *item = *record;
    if (item->payload) {
        blob_ref(item->payload);
        pendings->bytes += item->payload->size;
    }
}

static struct log_pending pending_take(struct log_pendings *pendings)
{
    CHECK(pendings->count > 0);
    struct log_pending record = pendings->items[pendings->first++];
    if (--pendings->count == 0) {
        pendings->first = 0;
    }
    if (record.payload) {
        pendings->bytes -= record.payload->size;
    }
    return record;
}

/* --- Places and the cache. */

static uint64_t live_size(const struct log_slot *slot)
{
    return (uint64_t)slot->size + LOG_RECORD_HEADER;
}

static void holes_add(struct log *log, struct log_group *group, uint64_t index,
                      struct log_slot *slot)
{
    CHECK(!slot->is_hole);
    slot->is_hole = 1;
    group->hole_count++;
    if (group->hole_from > index) {
        group->hole_from = index;
    }
    log->stats.holes++;
}

void log_live_add(struct log *log, struct log_slot *slot)
{
    struct log_segment *segment = log_segment_find(log, slot->segment);
    segment->live_count++;
    segment->live_bytes += live_size(slot);
}

static void live_remove(struct log *log, const struct log_slot *slot)
{
    struct log_segment *segment = log_segment_find(log, slot->segment);
    CHECK(segment->live_count > 0 && segment->live_bytes >= live_size(slot));
    segment->live_count--;
    segment->live_bytes -= live_size(slot);
}

static uint64_t blob_cost(const struct blob *blob)
{
    return (uint64_t)blob->size + 64;
}

static void cache_drop(struct log *log, struct log_slot *slot)
{
    if (slot->blob) {
        CHECK(log->cached_bytes >= blob_cost(slot->blob) && log->cached_blobs > 0);
        log->cached_bytes -= blob_cost(slot->blob);
        log->cached_blobs--;
        blob_unref(slot->blob);
        slot->blob = NULL;
    }
}

static struct log_slot *cached_slot(const struct log_cached *cached)
{
    if (!log_index_has(&cached->group->index, cached->index)) {
        return NULL;
    }
    struct log_slot *slot = log_index_at(&cached->group->index, cached->index);
    return slot->blob == cached->payload ? slot : NULL;
}

/* Forgets what names no payload in memory any more (cut or replaced entries). */
static void cache_compact(struct log *log)
{
    size_t mask = log->cached_capacity - 1, kept = 0;
    for (size_t i = 0; i < log->cached_count; i++) {
        struct log_cached *cached = &log->cached[(log->cached_first + i) & mask];
        if (cached_slot(cached)) {
            log->cached[(log->cached_first + kept++) & mask] = *cached;
        }
    }
    log->cached_count = kept;
}

static bool cache_reserve(struct log *log, struct mem_gate *gate, size_t more)
{
    size_t capacity = log->cached_capacity;
    if (log->cached_count + more <= capacity) {
        return true;
    }
    if (log->cached_count > 2 * log->cached_blobs + 1024) {
        cache_compact(log);
    }
    capacity = capacity ? capacity : 1024;
    while (capacity < log->cached_count + more) {
        capacity *= 2;
    }
    if (capacity == log->cached_capacity) {
        return true;
    }
    struct log_cached *ring = mem_try_alloc(gate, capacity * sizeof *ring);
    if (!ring) {
        return false;
    }
    for (size_t i = 0; i < log->cached_count; i++) {
        ring[i] = log->cached[(log->cached_first + i) & (log->cached_capacity - 1)];
    }
    mem_free(log->cached);
    log->cached = ring;
    log->cached_first = 0;
    log->cached_capacity = capacity;
    return true;
}

static void cache_add(struct log *log, struct log_group *group, uint64_t index,
                      struct log_slot *slot)
{
    bool has_room = cache_reserve(log, NULL, 1);
    CHECK(has_room);
    size_t at = (log->cached_first + log->cached_count++) & (log->cached_capacity - 1);
    log->cached[at] = (struct log_cached){ group, index, slot->blob };
    log->cached_blobs++;
    log->cached_bytes += blob_cost(slot->blob);
}

/* Drops the oldest durable payloads until the cache is within the bound. */
static void cache_evict(struct log *log, uint64_t bytes_max)
{
    while (log->cached_count > 0) {
        struct log_cached *cached = &log->cached[log->cached_first];
        struct log_slot *slot = cached_slot(cached);
        if (slot && (log->cached_bytes <= bytes_max || slot->segment == 0)) {
            break;
        }
        if (slot) {
            cache_drop(log, slot);
        }
        log->cached_first = (log->cached_first + 1) & (log->cached_capacity - 1);
        log->cached_count--;
    }
}

void log_cache_drop(struct log *log)
{
    cache_evict(log, 0);
}

/* --- Groups. */

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
static void schedule(struct log *log)
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
    schedule(log);
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

/* --- Appending. */

static void drop_slot(struct log *log, struct log_group *group, struct log_slot *slot)
{
    cache_drop(log, slot);
    group->hole_count -= slot->is_hole;
    if (slot->segment) {
        live_remove(log, slot);
    }
}

static void replace_from(struct log *log, struct log_group *group, uint64_t first)
{
    for (uint64_t i = first; i <= group->index.last_index; i++) {
        drop_slot(log, group, log_index_at(&group->index, i));
    }
    log_index_truncate(&group->index, first);
    if (group->durable_index >= first) {
        group->durable_index = first - 1;
    }
}

/* Waiting records, the group's index, the cache. The cache is asked last: it may be compacted for it. */
static bool append_reserve(struct log *log, struct log_group *group, uint32_t count, uint32_t runs)
{
    return !mem_gate_refuses(log->gate) && pendings_reserve(&log->pending, log->gate, count) &&
           log_index_reserve(&group->index, log->gate, count, runs) &&
           cache_reserve(log, log->gate, count);
}

int log_reserve(struct log *log, uint32_t group_number, uint32_t count, uint32_t runs)
{
    struct log_group *group = log_group_find(log, group_number);
    CHECK(group);
    return append_reserve(log, group, count, runs) ? 0 : ERR_NO_MEMORY;
}

void log_append(struct log *log, uint32_t group_number, uint64_t first, const uint64_t *terms,
                struct blob *const *payloads, uint32_t count)
{
    struct log_group *group = log_group_find(log, group_number);
    CHECK(group && count > 0);
    CHECK(first >= group->index.log_start && first <= group->index.last_index + 1);
    replace_from(log, group, first);
    for (uint32_t i = 0; i < count; i++) {
        CHECK(payloads[i]->size <= log->entry_bytes_max);
        struct log_slot *slot = log_index_push(&group->index);
        log_index_push_term(&group->index, terms[i]);
        slot->size = payloads[i]->size & LOG_RECORD_PAYLOAD_MAX;
        slot->at = ++log->serial;
        slot->blob = blob_ref(payloads[i]);
        cache_add(log, group, first + i, slot);
        struct log_pending record = { .group = group,
                                      .kind = LOG_RECORD_ENTRY,
                                      .index = first + i,
                                      .term = terms[i],
                                      .payload = payloads[i],
                                      .old_at = slot->at };
        log_pending_add(&log->pending, &record);
    }
    schedule(log);
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
    schedule(log);
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
    schedule(log);
}

void log_append_suspect(struct log *log, uint32_t group_number)
{
    struct log_group *group = log_group_find(log, group_number);
    CHECK(group);
    log->stats.suspects += !group->is_suspect;
    group->is_suspect = true;
    struct log_pending record = { .group = group, .kind = LOG_RECORD_SUSPECT };
    log_pending_add(&log->pending, &record);
    schedule(log);
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

/* --- Batches. */

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
    if (log->pending.count > 0) {
        return log->first_segment;
    }
    size_t i = 0;
    while (i + 1 < log->chain_count && log->chain[i]->live_count == 0) {
        i++;
    }
    return log->chain[i]->number;
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

/* Goes on in the next segment: false when none is ready. */
static bool next_segment(struct log *log)
{
    if (log->spare_count == 0) {
        return false;
    }
    struct log_segment *spare = log->spares[0];
    CHECK(log_current(log)->number < spare->number);
    log->spares[0] = log->spares[1];
    log->spare_count--;
    segments_push(&log->chain, &log->chain_count, &log->chain_capacity, spare);
    return true;
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
        struct log_pending record = pending_take(&log->moves);
        if (log_record_slot(&record)) {
            log_pending_add(&log->moves, &record);
        }
        blob_unref(record.payload);
    }
}

bool log_batch_begin(struct log *log)
{
    struct log_batch *batch = &log->batch;
    uint64_t bytes = 0, payload = 0;
    moves_drop_stale(log);
    size_t count = records_that_fit(log, &log->pending, &bytes, &payload);
    size_t moves = records_that_fit(log, &log->moves, &bytes, &payload);
    if (count + moves == 0 && !log->is_flush_wanted) {
        return false;
    }
    uint32_t copies = log->previous_records;
    if (copies > LOG_RECORD_COPIES_MAX || copies * LOG_RECORD_HEADER > log->batch_bytes / 2 ||
        batch->copies.size != copies * LOG_RECORD_HEADER) {
        copies = 0;
    }
    struct log_segment *segment = log_current(log);
    uint32_t most = (uint32_t)(count + moves) + log_checkpoint_records(log);
    if (!batch_reserve(log, most, log_record_sectors(most, copies, payload))) {
        return false;
    }
    uint32_t checkpoint = segment->used == 1 ? log_checkpoint_records(log) : 0;
    uint32_t sectors = log_record_sectors((uint32_t)(count + moves) + checkpoint, copies, payload);
    batch->head.durable_segment = segment->number;
    batch->head.durable_sector = segment->used;
    if (sectors > log->segment_sectors - segment->used) {
        CHECK(segment->used > 1);
        if (!next_segment(log)) {
            return false;
        }
        segment = log_current(log);
        checkpoint = log_checkpoint_records(log);
        sectors = log_record_sectors((uint32_t)(count + moves) + checkpoint, copies, payload);
        CHECK(sectors <= log->segment_sectors - segment->used);
    }
    batch->count = batch->votes_count = 0;
    if (checkpoint) {
        batch_push_checkpoint(log);
    }
    for (size_t i = 0; i < count; i++) {
        struct log_pending record = pending_take(&log->pending);
        batch_push(batch, &record);
        if (record.kind == LOG_RECORD_STATE || record.kind == LOG_RECORD_HEALED) {
            batch_push_vote(log, &record);
        } else if (record.kind == LOG_RECORD_RESET) {
            record.group->is_reset = false;
        }
    }
    for (size_t i = 0; i < moves; i++) {
        struct log_pending record = pending_take(&log->moves);
        batch_push(batch, &record);
    }
    log->is_flush_wanted = false;
    batch_lay_out(log, sectors, copies, payload);
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

static void task_run(struct env_task *task)
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
        live_remove(log, slot);
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
        segments_push(&log->freed, &log->freed_count, &log->freed_capacity, log->chain[gone++]);
    }
    memmove(log->chain, log->chain + gone, (log->chain_count - gone) * sizeof *log->chain);
    log->chain_count -= gone;
}

void log_freed_add(struct log *log, uint32_t number, struct env_file *file, uint32_t sectors)
{
    struct log_segment *segment = MEM_NEW(struct log_segment);
    segment->number = number;
    segment->file = file;
    segment->sectors = sectors;
    segments_push(&log->freed, &log->freed_count, &log->freed_capacity, segment);
}

void log_chain_drop(struct log *log, uint32_t number)
{
    for (size_t i = 0; i < log->chain_count; i++) {
        struct log_segment *segment = log->chain[i];
        if (segment->number == number) {
            CHECK(segment->live_count == 0);
            segments_push(&log->freed, &log->freed_count, &log->freed_capacity, segment);
            memmove(log->chain + i, log->chain + i + 1,
                    (log->chain_count - i - 1) * sizeof *log->chain);
            log->chain_count--;
            return;
        }
    }
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

static void hole_tell(struct log *log, const struct log_group *group)
{
    if (log->config.on_hole) {
        log->config.on_hole(log->config.ctx, group->number);
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
            hole_tell(log, record->group);
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

static void batch_release(struct log_batch *batch)
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

static void log_fail(struct log *log, const struct err *err)
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

static void close_step(struct log *log);

static void batch_done(struct env_job *job)
{
    struct log_batch *batch = container_of(job, struct log_batch, job);
    struct log *log = batch->log;
    log->is_in_flight = false;
    log->is_telling = true;
    log->latencies_us[log->latency_count++ % LOG_LATENCIES] =
        env_now_us(log->config.env) - log->begun_us;
    if (batch->status < 0 || log->is_failed) {
        batch_release(batch);
        log_fail(log, &batch->err);
    } else {
        bool has_moved =
            batch->count > 0 && batch->records[batch->count - 1].kind == LOG_RECORD_MOVED;
        log_batch_settle(log);
        if (!log->is_closing) {
            batch_tell(log);
        }
        batch_release(batch);
        cache_evict(log, log->config.cache_bytes);
        move_step(log);
        /* What was moved frees the oldest segment only with a batch that says so; it may not wait
         * for one by chance. */
        log->is_flush_wanted = has_moved && log->chain_count > 1 && log->chain[0]->live_count == 0;
        if (log->pending.count > 0 || log->moves.count > 0 || log->is_flush_wanted) {
            schedule(log);
        }
        log_keeper_step(log);
    }
    log->is_telling = false;
    close_step(log);
}

/* --- Segment files beside the writer. */

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
    schedule(container_of(timer, struct log, memory_retry));
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
            schedule(log);
        }
    }
    log->is_telling = false;
    log_keeper_step(log);
    close_step(log);
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
    log->task.run = task_run;
    log->retry.fire = retry_fire;
    log->memory_retry.fire = memory_retry_fire;
    log->batch.log = log->keeper.log = log;
    list_init(&log->readings);
}

/* --- Reading. */

struct blob *log_peek(struct log *log, uint32_t group_number, uint64_t index)
{
    struct log_group *group = log_group_find(log, group_number);
    CHECK(group);
    return log_index_has(&group->index, index) ? log_index_at(&group->index, index)->blob : NULL;
}

uint32_t log_in_memory(struct log *log, uint32_t group_number, uint64_t first, uint32_t count_max,
                       uint32_t bytes_max, uint32_t *bytes)
{
    struct log_group *group = log_group_find(log, group_number);
    CHECK(group);
    uint32_t count = 0;
    uint64_t sum = 0;
    while (count < count_max && log_index_has(&group->index, first + count)) {
        const struct log_slot *slot = log_index_at(&group->index, first + count);
        if (!slot->blob || (count > 0 && sum + slot->size > bytes_max)) {
            break;
        }
        sum += slot->size;
        count++;
    }
    *bytes = (uint32_t)sum;
    return count;
}

/* NULL when there is no memory. */
static struct log_reading *reading_new(struct log *log)
{
    struct log_reading *reading = MEM_TRY_NEW(log->gate, struct log_reading);
    if (!reading) {
        return NULL;
    }
    reading->log = log;
    list_append(&log->readings, &reading->link);
    return reading;
}

static void reading_free(struct log_reading *reading)
{
    for (uint32_t i = 0; i < reading->count; i++) {
        if (reading->items[i].segment) {
            reading->items[i].segment->readers--;
        }
        blob_unref(reading->items[i].payload);
    }
    list_remove(&reading->link);
    mem_free(reading->items);
    mem_free(reading);
}

/* False: there is no memory. */
static bool reading_add(struct log_reading *reading, struct log_group *group, uint64_t index)
{
    size_t capacity = mem_try_grow(reading->log->gate, &reading->items, reading->capacity,
                                   reading->count + 1, sizeof *reading->items);
    if (!capacity) {
        return false;
    }
    reading->capacity = (uint32_t)capacity;
    const struct log_slot *slot = log_index_at(&group->index, index);
    struct log_item *item = &reading->items[reading->count++];
    *item = (struct log_item){ .index = index,
                               .term = log_index_term(&group->index, index),
                               .place = { slot->segment, slot->at, slot->size, slot->crc } };
    if (slot->blob) {
        item->payload = blob_ref(slot->blob);
    } else if (slot->is_hole) {
        item->is_hole = true;
    } else {
        CHECK(slot->segment);
        item->segment = log_segment_find(reading->log, slot->segment);
        item->segment->readers++;
    }
    return true;
}

static void reading_collect(struct log_reading *reading, struct log_group *group, uint64_t first,
                            uint32_t count_max, uint32_t bytes_max)
{
    uint64_t sum = 0;
    if (bytes_max > LOG_READ_BYTES_MAX) {
        bytes_max = LOG_READ_BYTES_MAX;
    }
    reading->group = group;
    reading->first = first;
    for (uint32_t i = 0; i < count_max && log_index_has(&group->index, first + i); i++) {
        sum += log_index_at(&group->index, first + i)->size;
        if (i > 0 && sum > bytes_max) {
            break;
        }
        if (!reading_add(reading, group, first + i)) {
            return; /* fewer, then */
        }
    }
}

/* The entry is the same as when the read began (it may have moved). */
static bool item_is_current(const struct log_group *group, const struct log_item *item)
{
    return log_index_has(&group->index, item->index) &&
           log_index_term(&group->index, item->index) == item->term;
}

static void read_work(struct env_job *job)
{
    struct log_reading *reading = container_of(job, struct log_reading, job);
    struct log_segment_window window = { 0 };
    bool is_done = false;
    reading->ready = 0;
    for (uint32_t i = 0; i < reading->count && !is_done; i++) {
        struct log_item *item = &reading->items[i];
        if (item->segment) {
            item->payload = blob_try_new(reading->log->gate, item->place.size);
            if (!item->payload) {
                break;
            }
            item->is_hole = log_segment_read(reading->log->config.env, item->segment->file,
                                             item->segment->sectors, &item->place, &window,
                                             item->payload->data, &reading->err) < 0;
            item->payload->crc = item->place.crc;
            item->payload->is_summed = !item->is_hole;
        }
        reading->ready++;
        is_done = item->is_hole && !reading->goes_on;
    }
    log_segment_window_fini(&window);
}

/* Entries that the reading found damaged, or unreadable, are holes from now on. */
static void reading_note_holes(struct log_reading *reading)
{
    struct log *log = reading->log;
    struct log_group *group = reading->group;
    bool is_new = false;
    for (uint32_t i = 0; i < reading->ready; i++) {
        struct log_item *item = &reading->items[i];
        if (!item->is_hole) {
            continue;
        }
        blob_unref(item->payload);
        item->payload = NULL;
        if (!item->segment || !item_is_current(group, item)) {
            continue;
        }
        struct log_slot *slot = log_index_at(&group->index, item->index);
        if (slot->segment == item->place.segment && slot->at == item->place.at && !slot->blob &&
            !slot->is_hole) {
            LOG_WARN(log->config.logger,
                     "event=log_hole group=%u index=%llu term=%llu segment=%016x text=\"%s\"",
                     group->number, (unsigned long long)item->index, (unsigned long long)item->term,
                     slot->segment, reading->err.text);
            holes_add(log, group, item->index, slot);
            is_new = true;
        }
    }
    if (is_new) {
        hole_tell(log, group);
    }
}

static void read_done(struct env_job *job)
{
    struct log_reading *reading = container_of(job, struct log_reading, job);
    struct log *log = reading->log;
    for (uint32_t i = 0; i < reading->count; i++) {
        if (reading->items[i].segment) {
            log->stats.read_bytes += reading->items[i].place.size;
        }
    }
    log->is_telling = true;
    if (!log->is_closing) {
        reading_note_holes(reading);
    }
    reading->finish(reading);
    reading_free(reading);
    log->is_telling = false;
    log_keeper_step(log);
    close_step(log);
}

static void reading_start(struct log_reading *reading, void (*finish)(struct log_reading *reading))
{
    reading->finish = finish;
    reading->job.work = read_work;
    reading->job.done = read_done;
    env_job_start(reading->log->config.env, ENV_JOB_READ, &reading->job);
}

static void read_finish(struct log_reading *reading)
{
    if (reading->log->is_closing) {
        return;
    }
    if (reading->ready > 0 && reading->items[0].is_hole) {
        reading->done(reading->ctx, ERR_CORRUPT, reading->first, NULL, 0);
        return;
    }
    struct blob **payloads =
        mem_try_alloc(reading->log->gate, (reading->ready + 1) * sizeof *payloads);
    if (!payloads || (reading->ready == 0 && reading->count > 0)) {
        mem_free(payloads);
        reading->done(reading->ctx, ERR_NO_MEMORY, reading->first, NULL, 0);
        return;
    }
    uint32_t count = 0;
    while (count < reading->ready && !reading->items[count].is_hole &&
           item_is_current(reading->group, &reading->items[count])) {
        payloads[count] = reading->items[count].payload;
        reading->items[count++].payload = NULL;
    }
    reading->done(reading->ctx, 0, reading->first, payloads, count);
    mem_free(payloads);
}

int log_read(struct log *log, uint32_t group_number, uint64_t first, uint32_t count_max,
             uint32_t bytes_max,
             void (*done)(void *ctx, int status, uint64_t first, struct blob **payloads,
                          uint32_t count),
             void *ctx)
{
    struct log_group *group = log_group_find(log, group_number);
    CHECK(group && !log->is_closing);
    struct log_reading *reading = reading_new(log);
    if (!reading) {
        return ERR_NO_MEMORY;
    }
    reading->done = done;
    reading->ctx = ctx;
    reading_collect(reading, group, first, count_max, bytes_max);
    if (reading->count == 0 && log_index_has(&group->index, first)) {
        reading_free(reading);
        return ERR_NO_MEMORY;
    }
    reading_start(reading, read_finish);
    return 0;
}

int log_read_now(struct log *log, uint32_t group_number, uint64_t first, uint32_t count_max,
                 uint32_t bytes_max, struct blob **payloads, uint32_t *count_out, struct err *err)
{
    struct log_group *group = log_group_find(log, group_number);
    CHECK(group);
    struct log_reading *reading = reading_new(log);
    if (!reading) {
        return err_set(err, ERR_NO_MEMORY, "group %u: no memory to read the log", group_number);
    }
    reading_collect(reading, group, first, count_max, bytes_max);
    read_work(&reading->job);
    int rc = 0;
    uint32_t count = 0;
    while (count < reading->ready && !reading->items[count].is_hole) {
        count++;
    }
    if (reading->ready == 0 && log_index_has(&group->index, first)) {
        rc = err_set(err, ERR_NO_MEMORY, "group %u: no memory to read the log", group_number);
    } else if (reading->count > 0 && count == 0) {
        rc = err_set(err, ERR_CORRUPT, "group %u: the payload of entry %llu is damaged",
                     group_number, (unsigned long long)first);
    } else if (reading->count == 0) {
        rc = err_set(err, ERR_NOT_FOUND, "group %u: the log does not hold entry %llu", group_number,
                     (unsigned long long)first);
    } else {
        for (uint32_t i = 0; i < count; i++) {
            payloads[i] = reading->items[i].payload;
            reading->items[i].payload = NULL;
        }
        *count_out = count;
    }
    reading_free(reading);
    return rc;
}

/* --- Holes. */

static uint64_t find_hole(const struct log_group *group, uint64_t from, bool is_to_fill)
{
    uint64_t i = group->hole_from > from ? group->hole_from : from;
    i = i < group->index.log_start ? group->index.log_start : i;
    for (; group->hole_count > 0 && i <= group->index.last_index; i++) {
        const struct log_slot *slot = log_index_at(&group->index, i);
        if (slot->is_hole && !(is_to_fill && slot->is_filling)) {
            return i;
        }
    }
    return 0;
}

uint64_t log_first_hole(const struct log *log, uint32_t group_number, uint64_t from)
{
    struct log_group *group = log_group_find(log, group_number);
    CHECK(group);
    uint64_t found = find_hole(group, from, false);
    if (from <= group->hole_from) {
        group->hole_from = found ? found : UINT64_MAX; /* so that nobody walks there again */
    }
    return found;
}

uint64_t log_first_unfilled(const struct log *log, uint32_t group_number, uint64_t from)
{
    const struct log_group *group = log_group_find(log, group_number);
    CHECK(group);
    return find_hole(group, from, true);
}

bool log_fill(struct log *log, uint32_t group_number, uint64_t index, uint64_t term,
              struct span payload)
{
    struct log_group *group = log_group_find(log, group_number);
    CHECK(group);
    if (group->hole_count == 0 || !log_index_has(&group->index, index) ||
        log_index_term(&group->index, index) != term) {
        return false;
    }
    struct log_slot *slot = log_index_at(&group->index, index);
    if (!slot->is_hole || slot->is_filling || slot->size != payload.size ||
        slot->crc != hash_crc32c(0, payload.data, payload.size)) {
        return false;
    }
    struct blob *blob = blob_try_new(log->gate, payload.size);
    if (!blob || !append_reserve(log, group, 1, 0)) {
        blob_unref(blob);
        return false;
    }
    if (payload.size > 0) {
        memcpy(blob->data, payload.data, payload.size);
    }
    slot = log_index_at(&group->index, index);
    slot->blob = blob;
    blob->crc = slot->crc;
    blob->is_summed = true;
    slot->is_filling = 1;
    cache_add(log, group, index, slot);
    struct log_pending record = { .group = group,
                                  .kind = LOG_RECORD_MOVED,
                                  .index = index,
                                  .term = term,
                                  .payload = slot->blob,
                                  .old_segment = slot->segment,
                                  .old_at = slot->at };
    log_pending_add(&log->pending, &record);
    schedule(log);
    return true;
}

/* --- Moving what pins the oldest segment. */

/* Adds the group's entries that lie in the segment. Places ascend with the index but for moved
 * entries. */
static void move_collect(struct log_reading *reading, struct log_group *group, uint32_t segment,
                         uint64_t *bytes)
{
    for (uint64_t i = group->index.log_start;
         i <= group->index.last_index && *bytes < LOG_MOVE_BYTES; i++) {
        const struct log_slot *slot = log_index_at(&group->index, i);
        if (slot->segment == segment) {
            *bytes += slot->size;
            if (!reading_add(reading, group, i)) {
                return; /* the rest the next time */
            }
        } else if (!slot->is_moved) {
            return;
        }
    }
}

static void move_finish(struct log_reading *reading)
{
    struct log *log = reading->log;
    log->moving = NULL;
    uint32_t count = log->is_closing || log->is_failed ? 0 : reading->ready;
    for (uint32_t i = 0; i < count; i++) {
        const struct log_item *item = &reading->items[i];
        if (item_is_current(reading->group, item) &&
            pendings_reserve(&log->moves, log->gate, 1)) { /* else it stays where it is */
            struct log_pending record = { .group = reading->group,
                                          .kind = LOG_RECORD_MOVED,
                                          .index = item->index,
                                          .term = item->term,
                                          .payload = item->payload,
                                          .is_bare = item->is_hole,
                                          .size = item->place.size,
                                          .crc = item->place.crc,
                                          .old_segment = item->place.segment,
                                          .old_at = item->place.at };
            log_pending_add(&log->moves, &record);
        }
    }
    if (log->moves.count > 0) {
        schedule(log);
    }
}

/* Whether much of the log holds nothing that is needed, and can't go before what is older. */
static bool is_mostly_dead(const struct log *log)
{
    size_t dead = 0;
    for (size_t i = 0; i + 1 < log->chain_count; i++) {
        dead += log->chain[i]->live_count == 0;
    }
    return dead * 4 >= log->chain_count;
}

static void move_step(struct log *log)
{
    const struct log_segment *oldest = log->chain[0];
    bool is_damaged = oldest->number <= log->clean_to && log->chain_count > 1;
    if (log->moving || log->moves.count > 0 || log->is_failed || log->is_closing ||
        oldest->live_count == 0) {
        return;
    }
    bool is_worth_it = oldest->live_bytes < log->config.segment_bytes / 4 ||
                       (log->is_tight && is_mostly_dead(log));
    if (!is_damaged && (log->chain_count <= LOG_CHAIN_MAX || !is_worth_it)) {
        return;
    }
    for (size_t i = 0; i < log->group_count; i++) {
        struct log_reading *reading = reading_new(log);
        uint64_t bytes = 0;
        if (!reading) {
            return; /* after the next batch */
        }
        reading->group = log->groups[i];
        reading->goes_on = true;
        move_collect(reading, log->groups[i], oldest->number, &bytes);
        if (reading->count > 0) {
            log->moving = reading;
            reading_start(reading, move_finish);
            return;
        }
        reading_free(reading);
    }
}

/* --- Cutting, room, end. */

void log_cut(struct log *log, uint32_t group_number, uint64_t log_start, uint64_t start_term)
{
    struct log_group *group = log_group_find(log, group_number);
    CHECK(group);
    if (log_start <= group->index.log_start) {
        return;
    }
    for (uint64_t i = group->index.log_start; i < log_start && i <= group->index.last_index; i++) {
        drop_slot(log, group, log_index_at(&group->index, i));
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
        struct log_pending record = pending_take(&log->pending);
        bool is_entry = record.kind == LOG_RECORD_ENTRY || record.kind == LOG_RECORD_MOVED;
        if (record.group != group || !is_entry) {
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

uint64_t log_load_bytes(const struct log *log)
{
    uint64_t in_flight =
        log->is_in_flight ? (uint64_t)log->batch.head.sectors * LOG_RECORD_SECTOR : 0;
    uint64_t headers = (log->pending.count + log->moves.count) * 2 * LOG_RECORD_HEADER;
    return log_live_bytes(log) + in_flight + log->pending.bytes + log->moves.bytes + headers;
}

void log_tighten(struct log *log, bool is_tight)
{
    log->is_tight = is_tight;
    if (is_tight && !log->is_in_flight) {
        move_step(log); /* no batch may come: writes wait for what this frees */
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

const struct log_stats *log_stats(const struct log *log)
{
    return &log->stats;
}

static void pendings_fini(struct log_pendings *pendings)
{
    while (pendings->count > 0) {
        blob_unref(pending_take(pendings).payload);
    }
    mem_free(pendings->items);
}

static void segments_fini(struct log *log, struct log_segment **segments, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        env_file_close(log->config.env, segments[i]->file);
        mem_free(segments[i]);
    }
}

static void batch_fini(struct log_batch *batch)
{
    batch_release(batch);
    mem_free(batch->records);
    mem_free(batch->votes);
    buf_fini(&batch->buffer);
    buf_fini(&batch->copies);
    buf_fini(&batch->packer.table);
}

static void group_free(struct log *log, struct log_group *group)
{
    for (uint64_t i = group->index.log_start; i <= group->index.last_index; i++) {
        cache_drop(log, log_index_at(&group->index, i));
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
        reading_free(container_of(link, struct log_reading, link));
    }
    batch_fini(&log->batch);
    pendings_fini(&log->pending);
    pendings_fini(&log->moves);
    for (size_t i = 0; i < log->group_count; i++) {
        group_free(log, log->groups[i]);
    }
    segments_fini(log, log->chain, log->chain_count);
    segments_fini(log, log->spares, log->spare_count);
    segments_fini(log, log->freed, log->freed_count);
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
        batch_release(&log->batch);
    }
}

static void close_step(struct log *log)
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
    close_step(log);
}

void log_abandon(struct log *log)
{
    log_free(log);
}
