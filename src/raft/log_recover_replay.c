/* Recovery's replay: applies the records of the chain to the groups, segment by segment, and judges what is certain behind damage
 * (3, D1 and D2 of log_recover.c). */
#include "raft/log_recover_private.h"

#include <string.h>

/* Entries without a place over all groups; they come from segments whose few entries were moved. */
enum { MISSING_MAX = 1 << 22 };

/* --- One record */

const char *recovery_apply_start(struct recovery *recovery, const struct log_record *record)
{
    struct log *log = recovery->log;
    struct log_group *group = log_group_find(log, record->group);
    if (record->index == 0) {
        return "a group's log begins at index 0";
    }
    if (!group) {
        group = log_group_new(log, record->group, record->replica, record->index, record->term);
        group->is_doubtful = recovery->is_lost;
        group->trusted_from = recovery->is_lost ? UINT64_MAX : 0;
        return NULL;
    }
    struct log_index *index = &group->index;
    uint64_t before = record->index - 1;
    if (group->replica != record->replica) {
        return "a record of an unknown group or replica";
    }
    if (record->index > index->log_start) {
        if (group->trusted_from != 0 && before >= index->log_start && before <= index->last_index &&
            log_index_at(index, before)->term != record->term) {
            log_index_truncate(index, before); /* from before the gap, and stale */
        }
        log_index_cut(index, record->index, record->term);
    } else if (record->index == index->log_start && index->start_term == 0) {
        index->start_term = record->term; /* it was unknown, see log_rebase */
    }
    return NULL;
}

static const char *push_missing(struct recovery *recovery, struct log_group *group, uint64_t to)
{
    uint64_t missing = to - group->index.last_index - 1;
    if (to < group->index.last_index || missing > MISSING_MAX - recovery->missing) {
        return "an entry's index is impossible";
    }
    recovery->missing += missing;
    while (group->index.last_index + 1 < to) {
        log_index_push(&group->index);
    }
    return NULL;
}

static void set_place(struct log_slot *slot, const struct log_record *record, uint32_t segment)
{
    slot->segment = segment;
    slot->at = record->at;
    slot->size = record->length & LOG_RECORD_PAYLOAD_MAX;
    slot->crc = record->crc;
    slot->is_moved = record->kind == LOG_RECORD_MOVED;
    slot->is_hole = record->is_hole;
    slot->term = record->term;
}

/* D1 */
static bool is_certain(const struct log_group *group, uint64_t i, uint64_t term)
{
    const struct log_index *index = &group->index;
    if (i == 1 || group->trusted_from == 0 || i > group->trusted_from) {
        return i == 1 || group->trusted_from == 0 || i <= index->last_index + 1;
    }
    if (i == index->log_start) {
        return term == index->start_term;
    }
    return i <= index->last_index + 1 && log_index_at(index, i - 1)->segment != 0 &&
           log_index_at(index, i - 1)->term == term;
}

static const char *apply_moved(struct recovery *recovery, struct log_group *group,
                               const struct log_record *record, uint32_t segment)
{
    struct log_index *index = &group->index;
    const char *reason = NULL;
    if (record->index <= index->last_index) {
        struct log_slot *slot = log_index_at(index, record->index);
        if (slot->segment == 0 || slot->term == record->term) {
            set_place(slot, record, segment);
        } else if (group->trusted_from == 0) {
            reason = "a moved entry has another term than the entry";
        } else {
            log_index_truncate(index, record->index); /* from before the gap, and stale */
        }
    } else if (group->trusted_from == 0) {
        reason = push_missing(recovery, group, record->index);
        if (!reason) {
            set_place(log_index_push(index), record, segment);
        }
    }
    return reason;
}

static const char *apply_entry(struct recovery *recovery, struct log_group *group,
                               const struct log_record *record, uint32_t segment)
{
    struct log_index *index = &group->index;
    const char *reason = NULL;
    if (record->index < index->log_start) { /* cut meanwhile */
        if (record->kind == LOG_RECORD_ENTRY) {
            log_index_truncate(index, index->log_start); /* what it replaced goes all the same */
            group->trusted_from = 0;
            group->is_doubtful = false; /* D2 */
        }
        return NULL;
    }
    if (record->kind == LOG_RECORD_MOVED) {
        return apply_moved(recovery, group, record, segment);
    }
    if (!is_certain(group, record->index, record->term)) {
        group->is_doubtful = true;
        group->trusted_from = UINT64_MAX;
        if (record->index <= index->last_index) {
            log_index_truncate(index, record->index);
        }
        return NULL;
    }
    if (record->index <= group->trusted_from) {
        group->trusted_from = record->index;
        group->is_doubtful = false; /* D2 */
    }
    if (record->index <= index->last_index) {
        log_index_truncate(index, record->index);
    } else {
        reason = push_missing(recovery, group, record->index);
    }
    if (!reason) {
        set_place(log_index_push(index), record, segment);
    }
    return reason;
}

/* What is behind stood there before the damage, and was passed over by the recovery that says so.
 */
static void apply_end(struct log_group *group, const struct log_record *record)
{
    struct log_index *index = &group->index;
    if (record->index <= index->log_start) {
        log_index_truncate(index, index->log_start);
        group->trusted_from = 0;
    } else if (record->index <= index->last_index + 1 &&
               (log_index_at(index, record->index - 1)->segment == 0 ||
                log_index_at(index, record->index - 1)->term == record->term)) {
        log_index_truncate(index, record->index);
        group->trusted_from = 0;
    }
}

const char *recovery_apply_state(struct log_group *group, uint64_t term, uint64_t vote)
{
    if (term == group->term && vote != 0 && group->vote != 0 && vote != group->vote) {
        return "two votes in one term";
    }
    if (term > group->term || (term == group->term && group->vote == 0)) {
        group->term = term;
        group->vote = vote;
    }
    return NULL;
}

static const char *apply(struct recovery *recovery, const struct log_record *record,
                         uint32_t segment)
{
    if (record->kind == LOG_RECORD_START || record->kind == LOG_RECORD_RESET) {
        struct log_group *known = log_group_find(recovery->log, record->group);
        if (record->kind == LOG_RECORD_RESET && known) {
            log_index_truncate(&known->index, known->index.log_start);
            known->trusted_from = 0;
        }
        return recovery_apply_start(recovery, record);
    }
    struct log_group *group = log_group_find(recovery->log, record->group);
    if (!group && recovery->is_lost) {
        return NULL; /* its START was lost */
    }
    if (!group || group->replica != record->replica) {
        return "a record of an unknown group or replica";
    }
    if (record->kind == LOG_RECORD_SUSPECT) {
        group->is_suspect = true;
        return NULL;
    }
    if (record->kind == LOG_RECORD_ENDED) {
        apply_end(group, record);
        return NULL;
    }
    if (record->kind == LOG_RECORD_STATE || record->kind == LOG_RECORD_HEALED) {
        group->is_suspect = group->is_suspect && record->kind != LOG_RECORD_HEALED;
        return recovery_apply_state(group, record->index, record->term);
    }
    return apply_entry(recovery, group, record, segment);
}

/* --- Batches and segments */

/* Keeps the entries of the tail's last batch, and notes what else it said that no checkpoint says:
 * they will be written again (4). */
static void keep_last(struct recovery *recovery, const struct log_record_scan *scan)
{
    for (uint32_t i = 0; i < scan->count; i++) {
        const struct log_record *record = &scan->records[i];
        struct log_group *group = log_group_find(recovery->log, record->group);
        recovery->is_ended |= record->kind == LOG_RECORD_ENDED;
        if (group && record->kind == LOG_RECORD_HEALED) {
            group->is_healed = true;
        } else if (group && record->kind == LOG_RECORD_RESET) {
            group->is_reset = true; /* the batch that repeats this one says so too */
        }
        if ((record->kind != LOG_RECORD_ENTRY && record->kind != LOG_RECORD_MOVED) || !group) {
            continue;
        }
        struct log_pending pending = { .group = group,
                                       .kind = record->kind,
                                       .index = record->index,
                                       .term = record->term,
                                       .is_bare = record->is_hole,
                                       .size = record->length,
                                       .crc = record->crc,
                                       .old_segment = (uint32_t)scan->segment,
                                       .old_at = record->at };
        if (!record->is_hole) {
            pending.payload = blob_new(record->length);
            log_record_copy(scan->image, 0, record->at, record->length, pending.payload->data);
        }
        log_pending_add(&recovery->unproven, &pending);
        blob_unref(pending.payload);
    }
}

static int replay_batch(struct recovery *recovery, const struct found *found,
                        const struct log_record_scan *scan, bool is_lost)
{
    for (uint32_t i = 0; i < scan->count; i++) {
        if (is_lost) {
            recovery_gap(recovery); /* others may have stood between */
        }
        const char *reason = apply(recovery, &scan->records[i], (uint32_t)scan->segment);
        if (reason) {
            return recovery_damage(recovery, found, scan->next, reason);
        }
    }
    if (is_lost) {
        recovery_gap(recovery);
    }
    return 0;
}

static int replay_found(struct recovery *recovery, const struct found *found,
                        const struct log_record_scan *scan, enum log_record_found state,
                        bool is_tail)
{
    int rc = 0;
    if (state == LOG_RECORD_LOST) {
        rc = recovery_lose(recovery, found, scan->bad_sector, scan->reason);
    } else if (scan->is_hurt) {
        LOG_WARN(recovery->log->config.logger,
                 "event=log_batch_damaged segment=%016llx offset=%llu text=\"%s\"",
                 (unsigned long long)scan->segment,
                 (unsigned long long)scan->bad_sector * LOG_RECORD_SECTOR, scan->reason);
    }
    if (rc == 0) {
        rc = replay_batch(recovery, found, scan, state == LOG_RECORD_LOST);
    }
    if (rc == 0 && is_tail && scan->has_head && scan->head.sector == recovery->last.sector) {
        keep_last(recovery, scan);
    }
    return rc;
}

/* What the segment behind says of this one. */
struct look {
    bool is_known;  /* its first batch's head is there */
    bool is_normal; /* it was begun when this one was durable to its end */
    uint32_t end;   /* up to where this one is proven */
    struct log_record_behind behind;
};

/* Replays the segment; look: NULL = it is the tail. */
static int replay_segment(struct recovery *recovery, struct found *found, const struct look *look)
{
    struct log_record_scan scan;
    enum log_record_found state = LOG_RECORD_END;
    uint32_t end = look && look->is_known ? look->end : found_sectors(found);
    int rc = recovery_load(recovery, found);
    if (rc < 0) {
        return rc;
    }
    log_record_scan_begin(&scan, recovery->image, found_sectors(found), found->header.number);
    scan.sequence = recovery->sequence;
    if (look && look->is_known) {
        scan.proven = end;
        scan.behind = &look->behind;
    }
    while (
        rc == 0 && scan.next < end &&
        ((state = log_record_scan_next(&scan)) == LOG_RECORD_BATCH || state == LOG_RECORD_LOST)) {
        rc = replay_found(recovery, found, &scan, state, look == NULL);
    }
    bool is_incomplete = state == LOG_RECORD_DAMAGED ||
                         (look && look->is_known && scan.next != end) ||
                         (look && !look->is_known && look->is_normal && state == LOG_RECORD_TORN);
    if (rc == 0 && is_incomplete) {
        rc = recovery_lose(recovery, found, scan.is_hurt ? scan.bad_sector : scan.next,
                           scan.is_hurt ? scan.reason : "a batch that was durable is missing");
    }
    recovery->sequence = scan.sequence;
    if (rc == 0) {
        log_chain_add(recovery->log, (uint32_t)found->header.number, found->file,
                      found_sectors(found), scan.next);
        found->file = NULL;
    }
    log_record_scan_end(&scan);
    return rc;
}

/* What its first batch repeats of the last one here. */
static void look_at_copies(struct recovery *recovery, const struct found *next,
                           const struct log_record_head *head, struct log_record_behind *behind)
{
    size_t got,
        size = LOG_RECORD_SECTOR * (1 + (size_t)log_record_sectors(head->records, head->copies, 0));
    uint8_t *image = mem_zalloc(size);
    struct err err;
    behind->sequence = head->sequence;
    behind->has_copies =
        head->copies > 0 && head->copies <= LOG_RECORD_COPIES_MAX && size <= next->header.bytes &&
        env_file_read(recovery->log->config.env, next->file, 0, image, size, &got, &err) == 0 &&
        got == size && log_record_copies(image, head, &behind->copies);
    mem_free(image);
}

static int look_behind(struct recovery *recovery, const struct found *found,
                       const struct found *next, struct look *look)
{
    uint8_t sector[LOG_RECORD_SECTOR];
    struct log_record_head head;
    struct err err;
    size_t got = 0;
    look->is_normal = next->header.kind != LOG_RECORD_RECOVERY;
    int rc = env_file_read(recovery->log->config.env, next->file, LOG_RECORD_SECTOR, sector,
                           sizeof sector, &got, &err);
    if (rc < 0 || got < sizeof sector ||
        log_record_unpack_head(sector, next->header.number, 1, &head) < 0 ||
        head.records > next->header.bytes / LOG_RECORD_HEADER) {
        return recovery->log->config.is_alone
                   ? recovery_damage(recovery, next, 1,
                                     "the head of the first batch fails its checksum")
                   : 0;
    }
    if (next->is_gap_before) {
        return 0; /* it speaks of the segment that is missing */
    }
    if (head.durable_segment != found->header.number || head.durable_sector < 1 ||
        head.durable_sector > found_sectors(found)) {
        return recovery_lose(recovery, next, 1,
                             "the durable position is not in the segment before");
    }
    look->is_known = true;
    look->end = head.durable_sector;
    look_at_copies(recovery, next, &head, &look->behind);
    return 0;
}

int recovery_replay(struct recovery *recovery)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < recovery->chain_count; i++) {
        struct found *found = &recovery->found[recovery->chain[i]];
        struct found *next =
            i + 1 < recovery->chain_count ? &recovery->found[recovery->chain[i + 1]] : NULL;
        struct look look = { 0 };
        if (found->is_gap_before) {
            rc = recovery_lose(recovery, found, 0, "a segment is missing before");
            recovery->sequence = 0;
        }
        if (rc == 0 && next) {
            rc = look_behind(recovery, found, next, &look);
        }
        if (rc == 0) {
            rc = replay_segment(recovery, found, next ? &look : NULL);
        }
        /* A recovery's first batch repeats the one that stands last here: when that was taken for
         * want of a proven end, the sequence goes back by one. */
        if (next && !look.is_known && next->header.kind == LOG_RECORD_RECOVERY &&
            recovery->sequence > 0) {
            recovery->sequence--;
        }
        buf_fini(&look.behind.copies);
    }
    return rc;
}
