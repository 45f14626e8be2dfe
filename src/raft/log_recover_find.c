/* Recovery's look at the folder: which segments there are, which one is the tail, and which ones the log consists of (1 and 2 of
 * log_recover.c). */
#include "raft/log_recover_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"

/* A segment that can't be read in one piece is read in pieces of that many bytes. */
enum { READ_PIECE_BYTES = 4096 };

/* --- Files */

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

int recovery_find_files(struct recovery *recovery)
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

int recovery_load(struct recovery *recovery, const struct found *found)
{
    size_t got = 0;
    bool is_alone = recovery->log->config.is_alone;
    recovery->image = mem_realloc(recovery->image, found->header.bytes + 1);
    int rc = env_file_read(recovery->log->config.env, found->file, 0, recovery->image,
                           found->header.bytes, &got, recovery->err);
    if (rc == 0 && got < found->header.bytes && is_alone) {
        return recovery_damage(recovery, found, (uint32_t)(got / LOG_RECORD_SECTOR),
                               "the file ends early");
    }
    if ((rc == ERR_IO && !is_alone) || (rc == 0 && got < found->header.bytes)) {
        load_pieces(recovery, found);
        rc = 0;
    }
    return rc;
}

/* --- The tail (1) */

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
        return recovery_lose_late(recovery, found, end,
                                  "a batch is incomplete, but a later segment was begun");
    }
    if (newer->has_head && (newer->head.durable_segment != found->header.number ||
                            newer->head.durable_sector != end)) {
        return recovery_lose_late(recovery, found, end,
                                  "the segment does not end where the next one says");
    }
    if (state == LOG_RECORD_TORN) {
        LOG_INFO(recovery->log->config.logger, "event=log_tail_cut segment=%016llx offset=%llu",
                 (unsigned long long)found->header.number,
                 (unsigned long long)end * LOG_RECORD_SECTOR);
    }
    return 0;
}

static int apply_starts(struct recovery *recovery, const struct found *found,
                        const struct log_record_scan *scan)
{
    for (uint32_t i = 0; i < scan->count; i++) {
        const struct log_record *record = &scan->records[i];
        bool is_start = record->kind == LOG_RECORD_START || record->kind == LOG_RECORD_RESET;
        const char *reason = is_start ? recovery_apply_start(recovery, record) : NULL;
        if (reason) {
            return recovery_damage(recovery, found, scan->head.sector, reason);
        }
    }
    return 0;
}

/* What a segment was begun behind must be there, or segments were lost. Holds because spares are
 * made and used in order, and removed from the last to the first. */
int recovery_check_newer(struct recovery *recovery)
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
            return recovery_lose_late(recovery, &recovery->found[i], 0, text);
        }
    }
    return 0;
}

int recovery_find_tail(struct recovery *recovery)
{
    struct newer newer = { 0 };
    for (size_t i = recovery->count; i-- > 0;) {
        struct found *found = &recovery->found[i];
        struct log_record_scan scan;
        enum log_record_found state = LOG_RECORD_END;
        uint32_t batches = 0;
        int rc = recovery_load(recovery, found);
        if (rc < 0) {
            return rc;
        }
        log_record_scan_begin(&scan, recovery->image, found_sectors(found), found->header.number);
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
            rc = recovery_lose_late(recovery, found, scan.bad_sector, scan.reason);
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

/* --- The chain (2) */

int recovery_find_chain(struct recovery *recovery)
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
                return recovery_damage(recovery, found, 0, text);
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
