/* Reading the log: for those who lag behind; what turns out to be damaged (holes), and is filled again; and moving what pins the
 * oldest segment, which is read to be written anew. */
#include "raft/log_private.h"

#include "base/check.h"
#include "base/hash.h"

struct blob *log_peek(struct log *log, uint32_t group_number, uint64_t index)
{
    struct log_group *group = log_group_find(log, group_number);
    CHECK(group);
    return log_index_has(&group->index, index) ? log_index_at(&group->index, index)->blob : NULL;
}

void log_prefetch(const struct log *log, uint32_t group_number, uint64_t index)
{
    const struct log_group *group = log_group_find(log, group_number);
    if (group && log_index_has(&group->index, index)) {
        __builtin_prefetch(log_index_at(&group->index, index));
    }
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

void log_reading_free(struct log_reading *reading)
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
            log_holes_add(log, group, item->index, slot);
            is_new = true;
        }
    }
    if (is_new) {
        log_hole_tell(log, group);
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
    log_reading_free(reading);
    log->is_telling = false;
    log_keeper_step(log);
    log_close_step(log);
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
        log_reading_free(reading);
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
    log_reading_free(reading);
    return rc;
}

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
    if (!blob || !log_append_reserve(log, group, 1, 0)) {
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
    log_cache_add(log, group, index, slot);
    struct log_pending record = { .group = group,
                                  .kind = LOG_RECORD_MOVED,
                                  .index = index,
                                  .term = term,
                                  .payload = slot->blob,
                                  .old_segment = slot->segment,
                                  .old_at = slot->at };
    log_pending_add(&log->pending, &record);
    log_schedule(log);
    return true;
}

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
            log_pendings_reserve(&log->moves, log->gate, 1)) { /* else it stays where it is */
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
        log_schedule(log);
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

void log_move_step(struct log *log)
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
        log_reading_free(reading);
    }
}
