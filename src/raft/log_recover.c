/* Opening the log: finds the end, tells a torn tail from damage, rebuilds the index, and writes
 * again what was not proven durable.
 *
 * 1  The tail segment is the newest that holds a sound batch. Newer ones are spares, or were just
 *    begun: their first batch is torn. A NORMAL segment is begun only after the one before was
 *    durable to its end, so then a torn tail there is damage; a RECOVERY segment may be begun
 *    behind a torn tail. Its START records, a checkpoint of all groups among them, say where each
 *    group's log begins: entries before are passed over.
 *
 * 2  The chain goes from the tail by the headers' `previous` down to the first_segment of the
 *    tail's last batch. A segment that misses there is damage. A damaged header is made up for: the
 *    name has the number, the first batch's durable position the segment before.
 *
 * 3  Each segment of the chain is replayed to the durable position that the next one's first batch
 *    names. All of that is proven: whatever is wrong there, old bytes included, is damage. What
 *    stands behind that position was repeated by a recovery, in the next segment, and is not looked
 *    at but for its copy of the record headers before.
 *
 * 4  In the tail every batch but the last is proven by the one behind it. The last may stand in the
 *    page cache only: its entries go to a fresh RECOVERY segment whose first batch names the
 *    position before it. That is synced, and so are the votes. When it is the only one in its
 *    segment, that segment holds nothing proven and leaves the chain: the fresh one follows the
 *    segment before.
 *
 * 5  Only then unneeded files are removed or left to be recycled.
 *
 * Replay. START makes a group known, or cuts it; STATE: the newer term wins, in one term the vote
 * that was given; ENTRY replaces what is behind; MOVED gives an entry a place; RESET is a START
 * that voids all that was replayed of the group so far. Since old segments go, an ENTRY may arrive
 * before those that precede it: that leaves entries without a place, which later MOVED records
 * give.
 *
 * Damage. A payload that fails its checksum is a hole: the entry stands, by its header. Where
 * record headers are lost (`lose`), every group is doubtful: the replica may have lost entries that
 * it acknowledged. What is behind the gap is replayed as far as it is certain:
 *
 * D1  Behind a gap an entry is taken only if the one before it is there, and either stands behind
 *     the gap too (trusted_from), or has the same term: a term has one leader, whose log only
 *     grows, so if (i, t) and (i + 1, t) ever were entries, the second never stood behind anything
 *     but the first. Otherwise it is passed over, and the log ends before it. What was there before
 *     the gap may be stale then, which is as if the replica had slept: a leader compares it by
 *     (index, term).
 *
 * D2  An entry that is taken by its term, or one below the log's start, shows that the log ended
 *     just there when it was written, and what came later is behind the gap: the group is not
 *     doubtful any more. Votes need no more: the votes file has the newest state, and if that is
 *     damaged too, log_open fails, for a vote may be forgotten: the replica must be replaced.
 *
 * D3  Doubtful groups are suspect when replay ends. The fresh segment says so durably (SUSPECT),
 *     and where each group's log ends (ENDED), before log_open returns; HEALED ends the suspicion.
 *     A group that the node expects to hold and that no record names any more is suspect too, with
 *     an empty log; so are all of them when not one batch is sound.
 *
 * D4  A restart meets the same gap, and suspects again; so what the chain holds up to there is
 *     moved soon (log->clean_to), and the segments go.
 *
 * D5  A vote is written only when its batch is durable. So a log without a batch beside a votes
 *     file with votes has lost all, even if nothing but torn batches is seen.
 *
 * Thread: the loop's, before it runs; blocks. */
#include "raft/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "raft/log_private.h"

/* Entries without a place over all groups; they come from segments whose few entries were moved. */
enum { MISSING_MAX = 1 << 22 };
/* A segment that can't be read in one piece is read in pieces of that many bytes. */
enum { READ_PIECE_BYTES = 4096 };

/* A file NUMBER.log. */
struct found {
    struct log_record_segment header;
    struct env_file *file;
    bool is_in_chain;
    bool is_gap_before; /* in the chain; a segment between is missing */
};

struct recovery {
    struct log *log;
    struct err *err;
    struct found *found; /* by number */
    size_t count, capacity;
    uint64_t *spares; /* numbers of .spare files */
    size_t spare_count, spare_capacity;
    uint64_t number_max;
    uint8_t *image;
    size_t tail; /* position in found; count = the log is empty */
    size_t *chain;
    size_t chain_count;
    uint64_t sequence;            /* of the last batch replayed */
    struct log_record_head last;  /* the tail's last batch */
    struct log_pendings unproven; /* its entries */
    struct log_vote *votes;
    size_t vote_count, vote_capacity;
    uint64_t missing;
    bool is_lost;      /* record headers were lost, here or there */
    bool is_ended;     /* the last batch had ENDED records */
    bool is_lost_late; /* behind everything that is replayed, be it nothing */
};

static int damage(struct recovery *recovery, const struct found *found, uint32_t sector,
                  const char *reason)
{
    return err_set(recovery->err, ERR_CORRUPT, "log damaged: segment %016llx offset %llu: %s",
                   (unsigned long long)found->header.number,
                   (unsigned long long)sector * LOG_RECORD_SECTOR, reason);
}

/* Behind this point of the replay nothing is certain (D1). */
static void gap(struct recovery *recovery)
{
    struct log *log = recovery->log;
    recovery->is_lost = true;
    for (size_t i = 0; i < log->group_count; i++) {
        log->groups[i]->is_doubtful = true;
        log->groups[i]->trusted_from = UINT64_MAX;
    }
}

/* Damage that costs record headers: an error only if nobody could give back what is lost. */
static int lose(struct recovery *recovery, const struct found *found, uint32_t sector,
                const char *reason)
{
    if (recovery->log->config.is_alone) {
        return damage(recovery, found, sector, reason);
    }
    LOG_WARN(recovery->log->config.logger,
             "event=log_headers_lost segment=%016llx offset=%llu text=\"%s\"",
             (unsigned long long)found->header.number,
             (unsigned long long)sector * LOG_RECORD_SECTOR, reason);
    if (recovery->log->clean_to < found->header.number) {
        recovery->log->clean_to = found->header.number;
    }
    gap(recovery);
    return 0;
}

/* The same behind all that will be replayed, where no later recovery looks. */
static int lose_late(struct recovery *recovery, const struct found *found, uint32_t sector,
                     const char *reason)
{
    if (recovery->log->config.is_alone) {
        return damage(recovery, found, sector, reason);
    }
    LOG_WARN(recovery->log->config.logger,
             "event=log_headers_lost segment=%016llx offset=%llu text=\"%s\"",
             (unsigned long long)found->header.number,
             (unsigned long long)sector * LOG_RECORD_SECTOR, reason);
    recovery->is_lost_late = true;
    return 0;
}

/* --- Files. */

static void list_each(void *ctx, const char *name)
{
    struct recovery *recovery = ctx;
    uint64_t number;
    bool is_spare;
    if (!log_segment_parse(name, &number, &is_spare)) {
        return;
    }
    if (number > recovery->number_max) {
        recovery->number_max = number;
    }
    if (is_spare) {
        if (recovery->spare_count == recovery->spare_capacity) {
            recovery->spare_capacity = recovery->spare_capacity ? recovery->spare_capacity * 2 : 4;
            recovery->spares =
                mem_realloc(recovery->spares, recovery->spare_capacity * sizeof *recovery->spares);
        }
        recovery->spares[recovery->spare_count++] = number;
        return;
    }
    if (recovery->count == recovery->capacity) {
        recovery->capacity = recovery->capacity ? recovery->capacity * 2 : 16;
        recovery->found =
            mem_realloc(recovery->found, recovery->capacity * sizeof *recovery->found);
    }
    recovery->found[recovery->count++] = (struct found){ .header.number = number };
}

static int compare_found(const void *a, const void *b)
{
    const struct found *one = a, *other = b;
    return (one->header.number > other->header.number) -
           (one->header.number < other->header.number);
}

/* The segment's own sector is unreadable: what it said is made up from the name, the size and the
 * first batch. Whether it was NORMAL or RECOVERY is unknown (0). */
static int open_headless(struct recovery *recovery, struct found *found)
{
    struct log *log = recovery->log;
    struct log_record_head head;
    uint8_t sector[LOG_RECORD_SECTOR];
    uint64_t number = found->header.number, size;
    char path[512];
    size_t got;
    log_segment_path(path, log->directory, number, "log");
    int rc = env_file_open(log->config.env, path, ENV_FILE_READ | ENV_FILE_WRITE, &found->file,
                           recovery->err);
    if (rc < 0 || (rc = env_file_size(log->config.env, found->file, &size, recovery->err)) < 0) {
        return rc;
    }
    found->header =
        (struct log_record_segment){ .owner = log->owner,
                                     .number = number,
                                     .previous =
                                         found > recovery->found ? found[-1].header.number : 0,
                                     .bytes = size - size % LOG_RECORD_SECTOR };
    rc = env_file_read(log->config.env, found->file, LOG_RECORD_SECTOR, sector, sizeof sector, &got,
                       recovery->err);
    if (rc == 0 && got == sizeof sector && log_record_unpack_head(sector, number, 1, &head) == 0 &&
        head.durable_segment < number) {
        found->header.previous = head.durable_segment;
    }
    LOG_WARN(log->config.logger,
             "event=log_segment_header_damaged segment=%016llx previous=%016llx",
             (unsigned long long)number, (unsigned long long)found->header.previous);
    return 0;
}

static int find_files(struct recovery *recovery)
{
    struct log *log = recovery->log;
    int rc = env_dir_make(log->config.env, log->directory, recovery->err);
    if (rc == 0) {
        rc = env_dir_list(log->config.env, log->directory, list_each, recovery, recovery->err);
    }
    if (recovery->count > 1) {
        qsort(recovery->found, recovery->count, sizeof *recovery->found, compare_found);
    }
    for (size_t i = 0; rc == 0 && i < recovery->count; i++) {
        struct found *found = &recovery->found[i];
        uint64_t number = found->header.number;
        rc = log_segment_open(log->config.env, log->directory, number, &log->owner, &found->header,
                              &found->file, recovery->err);
        if (rc < 0) {
            err_prefix(recovery->err, "log segment %016llx", (unsigned long long)number);
        }
        if ((rc == ERR_CORRUPT || rc == ERR_IO) && !log->config.is_alone) {
            rc = open_headless(recovery, found);
        }
    }
    return rc;
}

static struct found *find_number(struct recovery *recovery, uint64_t number)
{
    struct found key = { .header.number = number };
    return bsearch(&key, recovery->found, recovery->count, sizeof *recovery->found, compare_found);
}

static uint32_t sectors_of(const struct found *found)
{
    return (uint32_t)(found->header.bytes / LOG_RECORD_SECTOR);
}

/* What can't be read becomes bytes that no sector has. */
static void load_pieces(struct recovery *recovery, const struct found *found)
{
    uint64_t bytes = found->header.bytes, bad = 0;
    for (uint64_t at = 0; at < bytes; at += READ_PIECE_BYTES) {
        size_t size = bytes - at < READ_PIECE_BYTES ? (size_t)(bytes - at) : READ_PIECE_BYTES, got;
        struct err err;
        if (env_file_read(recovery->log->config.env, found->file, at, recovery->image + at, size,
                          &got, &err) < 0) {
            got = 0;
        }
        memset(recovery->image + at + got, 0xa5, size - got);
        bad += size - got;
    }
    LOG_WARN(recovery->log->config.logger,
             "event=log_segment_unreadable segment=%016llx bytes=%llu",
             (unsigned long long)found->header.number, (unsigned long long)bad);
}

static int load(struct recovery *recovery, const struct found *found)
{
    size_t got = 0;
    bool is_alone = recovery->log->config.is_alone;
    recovery->image = mem_realloc(recovery->image, found->header.bytes + 1);
    int rc = env_file_read(recovery->log->config.env, found->file, 0, recovery->image,
                           found->header.bytes, &got, recovery->err);
    if (rc == 0 && got < found->header.bytes && is_alone) {
        return damage(recovery, found, (uint32_t)(got / LOG_RECORD_SECTOR), "the file ends early");
    }
    if ((rc == ERR_IO && !is_alone) || (rc == 0 && got < found->header.bytes)) {
        load_pieces(recovery, found);
        rc = 0;
    }
    return rc;
}

/* --- The tail (1). */

/* What a segment newer than the tail says of the tail. */
struct newer {
    bool is_begun; /* a NORMAL one, torn: the tail must be whole … */
    bool has_head;
    struct log_record_head head; /* … and end where this says */
};

static int check_tail(struct recovery *recovery, const struct found *found,
                      const struct newer *newer, enum log_record_found state, uint32_t end)
{
    if (newer->is_begun && state == LOG_RECORD_TORN) {
        return lose_late(recovery, found, end,
                         "a batch is incomplete, but a later segment was begun");
    }
    if (newer->has_head && (newer->head.durable_segment != found->header.number ||
                            newer->head.durable_sector != end)) {
        return lose_late(recovery, found, end, "the segment does not end where the next one says");
    }
    if (state == LOG_RECORD_TORN) {
        LOG_INFO(recovery->log->config.logger, "event=log_tail_cut segment=%016llx offset=%llu",
                 (unsigned long long)found->header.number,
                 (unsigned long long)end * LOG_RECORD_SECTOR);
    }
    return 0;
}

static const char *apply_start(struct recovery *recovery, const struct log_record *record)
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

static int apply_starts(struct recovery *recovery, const struct found *found,
                        const struct log_record_scan *scan)
{
    for (uint32_t i = 0; i < scan->count; i++) {
        const struct log_record *record = &scan->records[i];
        bool is_start = record->kind == LOG_RECORD_START || record->kind == LOG_RECORD_RESET;
        const char *reason = is_start ? apply_start(recovery, record) : NULL;
        if (reason) {
            return damage(recovery, found, scan->head.sector, reason);
        }
    }
    return 0;
}

/* What a segment was begun behind must be there, or segments were lost. Holds because spares are
 * made and used in order, and removed from the last to the first. */
static int check_newer(struct recovery *recovery)
{
    size_t i = recovery->tail == recovery->count ? 0 : recovery->tail + 1;
    for (; i < recovery->count; i++) {
        const struct log_record_segment *header = &recovery->found[i].header;
        /* What a damaged header said is unknown: in doubt it was the number before. */
        uint64_t previous = header->kind == 0 ? header->number - 1 : header->previous;
        if (header->kind != LOG_RECORD_RECOVERY && previous != 0 &&
            !find_number(recovery, previous)) {
            char text[80];
            snprintf(text, sizeof text, "segment %016llx is missing before",
                     (unsigned long long)previous);
            return lose_late(recovery, &recovery->found[i], 0, text);
        }
    }
    return 0;
}

static int find_tail(struct recovery *recovery)
{
    struct newer newer = { 0 };
    for (size_t i = recovery->count; i-- > 0;) {
        struct found *found = &recovery->found[i];
        struct log_record_scan scan;
        enum log_record_found state = LOG_RECORD_END;
        uint32_t batches = 0;
        int rc = load(recovery, found);
        if (rc < 0) {
            return rc;
        }
        log_record_scan_begin(&scan, recovery->image, sectors_of(found), found->header.number);
        while (rc == 0 && ((state = log_record_scan_next(&scan)) == LOG_RECORD_BATCH ||
                           state == LOG_RECORD_LOST)) {
            rc = apply_starts(recovery, found, &scan);
            if (scan.has_head) {
                recovery->last = scan.head;
                batches++;
            }
        }
        if (rc < 0) {
            state = LOG_RECORD_END;
        } else if (batches > 0) {
            /* Damage behind its last batch is told when it is replayed. */
            rc = state == LOG_RECORD_DAMAGED
                     ? 0
                     : check_tail(recovery, found, &newer, state, scan.next);
            recovery->tail = i;
        } else if (state == LOG_RECORD_DAMAGED) {
            rc = lose_late(recovery, found, scan.bad_sector, scan.reason);
        } else if (state == LOG_RECORD_TORN && found->header.kind != LOG_RECORD_RECOVERY) {
            newer.is_begun = true;
            if (scan.has_head) {
                newer.has_head = true;
                newer.head = scan.head;
            }
        }
        log_record_scan_end(&scan);
        if (rc < 0 || batches > 0) {
            return rc;
        }
    }
    recovery->tail = recovery->count;
    return 0;
}

/* --- The chain (2). */

static int find_chain(struct recovery *recovery)
{
    recovery->chain = mem_alloc(recovery->count * sizeof *recovery->chain);
    uint64_t first = recovery->last.first_segment;
    struct found *found = &recovery->found[recovery->tail];
    size_t at = recovery->count; /* filled from the back */
    for (;;) {
        CHECK(at > 0); /* numbers descend: no segment comes twice */
        recovery->chain[--at] = (size_t)(found - recovery->found);
        found->is_in_chain = true;
        if (found->header.number == first) {
            break;
        }
        uint64_t previous = found->header.previous;
        struct found *before = previous >= first ? find_number(recovery, previous) : NULL;
        if (!before) {
            char text[120];
            snprintf(text, sizeof text,
                     "segment %016llx is missing before (needed from %016llx on)",
                     (unsigned long long)previous, (unsigned long long)first);
            if (recovery->log->config.is_alone) {
                return damage(recovery, found, 0, text);
            }
            found->is_gap_before = true;
            before = found;
            while (before > recovery->found && (--before)->header.number > previous) {
            }
            if (before->header.number < first || before->header.number > previous) {
                break;
            }
        }
        found = before;
    }
    recovery->chain_count = recovery->count - at;
    memmove(recovery->chain, recovery->chain + at, recovery->chain_count * sizeof *recovery->chain);
    return 0;
}

/* --- Replay (3). */

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

/* The newer of two states; one term has one vote. */
static const char *apply_state(struct log_group *group, uint64_t term, uint64_t vote)
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
        return apply_start(recovery, record);
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
        return apply_state(group, record->index, record->term);
    }
    return apply_entry(recovery, group, record, segment);
}

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
            gap(recovery); /* others may have stood between */
        }
        const char *reason = apply(recovery, &scan->records[i], (uint32_t)scan->segment);
        if (reason) {
            return damage(recovery, found, scan->next, reason);
        }
    }
    if (is_lost) {
        gap(recovery);
    }
    return 0;
}

static int replay_found(struct recovery *recovery, const struct found *found,
                        const struct log_record_scan *scan, enum log_record_found state,
                        bool is_tail)
{
    int rc = 0;
    if (state == LOG_RECORD_LOST) {
        rc = lose(recovery, found, scan->bad_sector, scan->reason);
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
    uint32_t end = look && look->is_known ? look->end : sectors_of(found);
    int rc = load(recovery, found);
    if (rc < 0) {
        return rc;
    }
    log_record_scan_begin(&scan, recovery->image, sectors_of(found), found->header.number);
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
        rc = lose(recovery, found, scan.is_hurt ? scan.bad_sector : scan.next,
                  scan.is_hurt ? scan.reason : "a batch that was durable is missing");
    }
    recovery->sequence = scan.sequence;
    if (rc == 0) {
        log_chain_add(recovery->log, (uint32_t)found->header.number, found->file, sectors_of(found),
                      scan.next);
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
                   ? damage(recovery, next, 1, "the head of the first batch fails its checksum")
                   : 0;
    }
    if (next->is_gap_before) {
        return 0; /* it speaks of the segment that is missing */
    }
    if (head.durable_segment != found->header.number || head.durable_sector < 1 ||
        head.durable_sector > sectors_of(found)) {
        return lose(recovery, next, 1, "the durable position is not in the segment before");
    }
    look->is_known = true;
    look->end = head.durable_sector;
    look_at_copies(recovery, next, &head, &look->behind);
    return 0;
}

static int replay(struct recovery *recovery)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < recovery->chain_count; i++) {
        struct found *found = &recovery->found[recovery->chain[i]];
        struct found *next =
            i + 1 < recovery->chain_count ? &recovery->found[recovery->chain[i + 1]] : NULL;
        struct look look = { 0 };
        if (found->is_gap_before) {
            rc = lose(recovery, found, 0, "a segment is missing before");
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

/* D3: groups of which no record is left. */
static void add_expected(struct recovery *recovery)
{
    struct log *log = recovery->log;
    for (size_t i = 0; recovery->is_lost && i < log->config.expected_count; i++) {
        const struct log_expected *expected = &log->config.expected[i];
        if (!log_group_find(log, expected->group)) {
            log_group_new(log, expected->group, expected->replica, 1, 0)->is_doubtful = true;
        }
    }
}

/* --- Votes. */

static void vote_each(void *ctx, const struct log_vote *vote)
{
    struct recovery *recovery = ctx;
    if (recovery->vote_count == recovery->vote_capacity) {
        recovery->vote_capacity = recovery->vote_capacity ? recovery->vote_capacity * 2 : 64;
        recovery->votes =
            mem_realloc(recovery->votes, recovery->vote_capacity * sizeof *recovery->votes);
    }
    recovery->votes[recovery->vote_count++] = *vote;
}

/* D5 */
static int read_votes(struct recovery *recovery)
{
    struct log *log = recovery->log;
    int rc = log_votes_open(&log->votes, log->config.env, log->config.logger, log->directory,
                            &log->owner, vote_each, recovery, recovery->err);
    if (rc < 0 || recovery->vote_count == 0 || recovery->tail < recovery->count) {
        return rc;
    }
    if (recovery->count == 0) {
        return err_set(recovery->err, ERR_CORRUPT, "log damaged: there are votes but no segment");
    }
    return lose(recovery, &recovery->found[recovery->count - 1], 1,
                "there are votes but not one batch");
}

static int merge_votes(struct recovery *recovery)
{
    struct log *log = recovery->log;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < recovery->vote_count; i++) {
        const struct log_vote *vote = &recovery->votes[i];
        struct log_group *group = log_group_find(log, vote->record.group);
        if (!group && recovery->is_lost) {
            rc =
                err_set(recovery->err, ERR_CORRUPT,
                        "log damaged: record headers were lost, and the votes file names group %u, "
                        "which this node is not said to hold",
                        vote->record.group);
            break;
        }
        if (!group || group->replica != vote->record.replica || group->has_pair) {
            /* The batch that made the group known was torn: nothing was promised. */
            rc = log_votes_erase(log->config.env, log->votes.file, vote->pair, recovery->err);
            continue;
        }
        group->votes = *vote;
        group->has_pair = true;
        const char *reason = apply_state(group, vote->record.term, vote->record.vote);
        if (reason) {
            rc = err_set(recovery->err, ERR_CORRUPT, "log damaged: votes file: group %u: %s",
                         group->number, reason);
        }
    }
    return rc;
}

/* Every group's state into the copy that is older, all synced: the page cache may show what the
 * disk does not have. */
static int rewrite_votes(struct recovery *recovery)
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

/* --- The index, when all is replayed. */

/* The entry can't be placed: what is from it on is not there. */
static int finish_short(struct recovery *recovery, struct log_group *group, uint64_t i,
                        const char *what)
{
    if (recovery->log->config.is_alone) {
        return err_set(recovery->err, ERR_CORRUPT,
                       "log damaged: group %u: entry %llu of %llu to %llu: %s", group->number,
                       (unsigned long long)i, (unsigned long long)group->index.log_start,
                       (unsigned long long)group->index.last_index, what);
    }
    LOG_WARN(recovery->log->config.logger,
             "event=log_entries_lost group=%u first=%llu last=%llu text=\"%s\"", group->number,
             (unsigned long long)i, (unsigned long long)group->index.last_index, what);
    group->is_doubtful = true;
    return 0;
}

static int finish_hole(struct recovery *recovery, struct log_group *group, uint64_t i,
                       const struct log_slot *slot)
{
    struct log *log = recovery->log;
    if (log->config.is_alone) {
        return err_set(recovery->err, ERR_CORRUPT,
                       "log damaged: segment %016x offset %llu: the payload of group %u index %llu "
                       "fails its checksum",
                       slot->segment,
                       (unsigned long long)(slot->at / LOG_RECORD_CONTENT) * LOG_RECORD_SECTOR,
                       group->number, (unsigned long long)i);
    }
    LOG_WARN(log->config.logger, "event=log_hole group=%u index=%llu term=%llu segment=%016x",
             group->number, (unsigned long long)i, (unsigned long long)slot->term, slot->segment);
    group->hole_count++;
    log->stats.holes++;
    return 0;
}

static int finish_group(struct recovery *recovery, struct log_group *group)
{
    struct log_index *index = &group->index;
    uint64_t last = index->last_index, term = index->start_term;
    int rc = 0;
    for (uint64_t i = index->log_start; i <= last && rc == 0; i++) {
        struct log_slot *slot = log_index_at(index, i);
        if (slot->segment == 0 || slot->term < term) {
            index->last_index = last;
            rc = finish_short(recovery, group, i,
                              slot->segment ? "its term goes back" : "it is missing");
            last = i - 1;
            break;
        }
        term = slot->term;
        if (slot->is_hole) {
            rc = finish_hole(recovery, group, i, slot);
        }
        slot->blob = NULL;
        log_live_add(recovery->log, slot);
        index->last_index = i; /* for push_term: the entry just pushed */
        log_index_push_term(index, term);
    }
    index->last_index = last;
    if (group->term < term) {
        group->term = term; /* entries of a term were accepted in it, and no vote given */
        group->vote = 0;
    }
    group->durable_index = last;
    if (group->is_doubtful) {
        recovery->is_lost = true;
        recovery->log->stats.suspects += !group->is_suspect;
        group->is_suspect = true;
        LOG_WARN(recovery->log->config.logger, "event=replica_suspect group=%u last=%llu",
                 group->number, (unsigned long long)last);
    }
    return rc;
}

static int compare_groups(const void *a, const void *b)
{
    const struct log_group *one = *(struct log_group *const *)a,
                           *other = *(struct log_group *const *)b;
    return (one->number > other->number) - (one->number < other->number);
}

static int finish_groups(struct recovery *recovery)
{
    struct log *log = recovery->log;
    if (log->group_count > 1) {
        qsort(log->groups, log->group_count, sizeof *log->groups, compare_groups);
    }
    for (size_t i = 0; i < log->group_count; i++) {
        int rc = finish_group(recovery, log->groups[i]);
        if (rc < 0) {
            return rc;
        }
    }
    if (recovery->is_lost && log->votes.is_damaged) {
        return err_set(recovery->err, ERR_CORRUPT,
                       "log damaged: record headers were lost, and the votes file is damaged or "
                       "missing too, so a vote may be forgotten: this node's replicas must be "
                       "replaced");
    }
    log->start_count = log->group_count;
    return 0;
}

static void tell_starts(struct log *log)
{
    for (size_t i = 0; i < log->group_count; i++) {
        struct log_group *group = log->groups[i];
        struct log_index *index = &group->index;
        group->is_told = false;
        group->start = (struct log_group_start){ .group = group->number,
                                                 .replica = group->replica,
                                                 .raft = { .term = group->term,
                                                           .vote = group->vote,
                                                           .log_start = index->log_start,
                                                           .start_term = index->start_term,
                                                           .last_index = index->last_index,
                                                           .runs = index->runs,
                                                           .run_count = index->run_count,
                                                           .commit = index->log_start - 1,
                                                           .is_suspect = group->is_suspect } };
    }
}

/* --- The fresh segment (4). */

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

static int make_segment(struct recovery *recovery)
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

static int rewrite_last(struct recovery *recovery)
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
    log_freed_add(log, (uint32_t)found->header.number, found->file, sectors_of(found));
    found->file = NULL;
    return true;
}

/* (5) */
static int remove_files(struct recovery *recovery)
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

/* --- */

static int recover(struct recovery *recovery)
{
    int rc = find_files(recovery);
    if (rc == 0) {
        rc = find_tail(recovery);
    }
    if (rc == 0) {
        rc = check_newer(recovery);
    }
    if (rc == 0 && recovery->tail < recovery->count) {
        rc = find_chain(recovery);
        if (rc == 0) {
            rc = replay(recovery);
        }
    }
    if (rc == 0 && recovery->is_lost_late) {
        gap(recovery);
    }
    if (rc == 0 && (rc = read_votes(recovery)) == 0) {
        add_expected(recovery);
    }
    if (rc < 0 || (rc = merge_votes(recovery)) < 0 || (rc = finish_groups(recovery)) < 0 ||
        (rc = make_segment(recovery)) < 0 || (rc = rewrite_last(recovery)) < 0 ||
        (rc = rewrite_votes(recovery)) < 0) {
        return rc;
    }
    tell_starts(recovery->log);
    return remove_files(recovery);
}

static void recovery_fini(struct recovery *recovery)
{
    for (size_t i = 0; i < recovery->count; i++) {
        if (recovery->found[i].file) {
            env_file_close(recovery->log->config.env, recovery->found[i].file);
        }
    }
    for (size_t i = 0; i < recovery->unproven.count; i++) {
        blob_unref(recovery->unproven.items[recovery->unproven.first + i].payload);
    }
    mem_free(recovery->unproven.items);
    mem_free(recovery->found);
    mem_free(recovery->spares);
    mem_free(recovery->image);
    mem_free(recovery->chain);
    mem_free(recovery->votes);
}

/* Before the index is finished its slots hold terms where blobs will stand. */
static void forget_groups(struct log *log)
{
    for (size_t i = 0; i < log->group_count; i++) {
        struct log_index *index = &log->groups[i]->index;
        for (uint64_t k = index->log_start; k <= index->last_index; k++) {
            log_index_at(index, k)->blob = NULL;
        }
    }
}

static struct log *log_new(const struct log_config *config)
{
    struct log *log = MEM_NEW(struct log);
    log->config = *config;
    if (log->config.segment_bytes == 0) {
        log->config.segment_bytes = LIMIT_LOG_SEGMENT_BYTES;
    }
    if (log->config.cache_bytes == 0) {
        log->config.cache_bytes = 64 << 20;
    }
    uint64_t bytes = log->config.segment_bytes;
    log->directory = mem_strdup(config->directory);
    memcpy(log->owner.cluster_id, config->cluster_id, 16);
    log->owner.node_id = config->node_id;
    log->segment_sectors = (uint32_t)(bytes / LOG_RECORD_SECTOR);
    log->batch_bytes =
        bytes / 4 < LIMIT_LOG_BATCH_BYTES ? (uint32_t)(bytes / 4) : LIMIT_LOG_BATCH_BYTES;
    log->entry_bytes_max =
        bytes / 2 < LIMIT_ENTRY_BYTES ? (uint32_t)(bytes / 2) : LIMIT_ENTRY_BYTES;
    log_arm(log);
    return log;
}

int log_open(const struct log_config *config, struct log **out, struct err *err)
{
    struct err own;
    if (!err) {
        err = &own;
    }
    uint64_t bytes = config->segment_bytes ? config->segment_bytes : LIMIT_LOG_SEGMENT_BYTES;
    if (bytes < LOG_SEGMENT_BYTES_MIN || bytes > 1u << 31 || bytes % LOG_RECORD_SECTOR != 0 ||
        strlen(config->directory) > 400) {
        return err_set(
            err, ERR_USAGE,
            "log: %llu bytes a segment, or the length of the directory's name, are not possible",
            (unsigned long long)bytes);
    }
    struct log *log = log_new(config);
    struct recovery recovery = { .log = log, .err = err };
    int rc = recover(&recovery);
    recovery_fini(&recovery);
    if (rc < 0) {
        if (log->start_count == 0) {
            forget_groups(log);
        }
        log_free(log);
        return rc;
    }
    LOG_INFO(log->config.logger, "event=log_open groups=%zu segments=%zu sequence=%llu",
             log->group_count, log->chain_count, (unsigned long long)log->sequence);
    log->gate = env_gate(config->env, MEM_LOG);
    log_keeper_step(log);
    *out = log;
    return 0;
}
