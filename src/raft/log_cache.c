/* Where the log's entries are: what lives in each segment, and the payloads that are kept in memory besides (I2 of log.c). */
#include "raft/log_private.h"

#include "base/check.h"

static uint64_t live_size(const struct log_slot *slot)
{
    return (uint64_t)slot->size + LOG_RECORD_HEADER;
}

void log_holes_add(struct log *log, struct log_group *group, uint64_t index, struct log_slot *slot)
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

void log_live_remove(struct log *log, const struct log_slot *slot)
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

void log_cache_drop_slot(struct log *log, struct log_slot *slot)
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

bool log_cache_reserve(struct log *log, struct mem_gate *gate, size_t more)
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

void log_cache_add(struct log *log, struct log_group *group, uint64_t index, struct log_slot *slot)
{
    bool has_room = log_cache_reserve(log, NULL, 1);
    CHECK(has_room);
    size_t at = (log->cached_first + log->cached_count++) & (log->cached_capacity - 1);
    log->cached[at] = (struct log_cached){ group, index, slot->blob };
    log->cached_blobs++;
    log->cached_bytes += blob_cost(slot->blob);
}

void log_cache_evict(struct log *log, uint64_t bytes_max)
{
    while (log->cached_count > 0) {
        struct log_cached *cached = &log->cached[log->cached_first];
        struct log_slot *slot = cached_slot(cached);
        if (slot && (log->cached_bytes <= bytes_max || slot->segment == 0)) {
            break;
        }
        if (slot) {
            log_cache_drop_slot(log, slot);
        }
        log->cached_first = (log->cached_first + 1) & (log->cached_capacity - 1);
        log->cached_count--;
    }
}

void log_drop_payloads(struct log *log, uint32_t group_number, uint64_t first, uint64_t last)
{
    struct log_group *group = log_group_find(log, group_number);
    CHECK(group);
    const struct log_index *index = &group->index;
    uint64_t end = last < index->last_index ? last : index->last_index;
    for (uint64_t i = first > index->log_start ? first : index->log_start; i <= end; i++) {
        struct log_slot *slot = log_index_at(index, i);
        if (slot->segment != 0) {
            log_cache_drop_slot(log, slot);
        }
    }
}

void log_trim(struct log *log)
{
    log_cache_evict(log, 0);
    if (log->cached_count == 0) {
        mem_free(log->cached);
        log->cached = NULL;
        log->cached_first = log->cached_capacity = 0;
    }
    for (size_t i = 0; i < log->group_count; i++) {
        log_index_trim(&log->groups[i]->index);
    }
}

void log_drop_slot(struct log *log, struct log_group *group, struct log_slot *slot)
{
    log_cache_drop_slot(log, slot);
    group->hole_count -= slot->is_hole;
    if (slot->segment) {
        log_live_remove(log, slot);
    }
}
