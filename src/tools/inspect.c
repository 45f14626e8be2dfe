/* Prints what a log's files hold: a line per file, batch and record, and how the scan ended. It
 * says of one file what that file says; whether a torn batch or a gap is damage of the log is
 * recovery's to judge, which sees all of them.
 *
 * Thread: one; blocks. */
#include "tools/inspect.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/mem.h"
#include "raft/log_record.h"

enum { FILE_BYTES_MAX = 1 << 30 };

static void print_owner(const struct log_record_owner *owner)
{
    printf(" cluster=");
    for (int i = 0; i < 16; i++) {
        printf("%02x", owner->cluster_id[i]);
    }
    printf(" node=%llu", (unsigned long long)owner->node_id);
}

static void print_record(const struct log_record *record)
{
    printf("    %-5s group=%u replica=%llu ", log_record_kind_name(record->kind), record->group,
           (unsigned long long)record->replica);
    if (record->kind == LOG_RECORD_STATE || record->kind == LOG_RECORD_HEALED) {
        printf("term=%llu vote=%llu\n", (unsigned long long)record->index,
               (unsigned long long)record->term);
    } else if (record->kind == LOG_RECORD_START || record->kind == LOG_RECORD_RESET) {
        printf("log_start=%llu start_term=%llu\n", (unsigned long long)record->index,
               (unsigned long long)record->term);
    } else if (record->kind == LOG_RECORD_SUSPECT) {
        printf("\n");
    } else if (record->kind == LOG_RECORD_ENDED) {
        printf("end=%llu term=%llu\n", (unsigned long long)record->index,
               (unsigned long long)record->term);
    } else {
        printf("index=%llu term=%llu bytes=%u crc=%08x%s\n", (unsigned long long)record->index,
               (unsigned long long)record->term, record->length, record->crc,
               record->is_bare   ? " bare"
               : record->is_hole ? " damaged"
                                 : "");
    }
}

static void print_found(const struct log_record_scan *scan, enum log_record_found found)
{
    const struct log_record_head *head = &scan->head;
    if (scan->is_hurt) {
        printf("  damaged offset=%llu: %s\n",
               (unsigned long long)scan->bad_sector * LOG_RECORD_SECTOR, scan->reason);
    }
    if (scan->has_head) {
        printf("  batch offset=%llu sequence=%llu sectors=%u records=%u copies=%u "
               "durable=%016llx:%llu first=%016llx\n",
               (unsigned long long)head->sector * LOG_RECORD_SECTOR,
               (unsigned long long)head->sequence, head->sectors, head->records, head->copies,
               (unsigned long long)head->durable_segment,
               (unsigned long long)head->durable_sector * LOG_RECORD_SECTOR,
               (unsigned long long)head->first_segment);
    } else {
        printf("  batch sequence=%llu, its head is damaged; record headers from the next one's "
               "copy: %u\n",
               (unsigned long long)scan->sequence, scan->count);
    }
    if (found == LOG_RECORD_LOST) {
        printf("  lost: record headers that no copy restores\n");
    }
    for (uint32_t i = 0; i < scan->count; i++) {
        print_record(&scan->records[i]);
    }
}

/* Damage is shown and passed over as far as a sound batch follows. */
static int print_segment(const char *path, struct span image)
{
    struct log_record_segment segment;
    struct log_record_scan scan;
    enum log_record_found found;
    struct err err;
    bool is_damaged = false;
    int rc = log_record_unpack_segment(image.data, &segment, &err);
    if (rc < 0) {
        fprintf(stderr, "cairn: %s: %s (%s)\n", path, err.text, err_info(rc)->name);
        return 1;
    }
    printf("%s: segment=%016llx previous=%016llx kind=%s", path, (unsigned long long)segment.number,
           (unsigned long long)segment.previous,
           segment.kind == LOG_RECORD_RECOVERY ? "recovery" : "normal");
    print_owner(&segment.owner);
    printf("\n");
    log_record_scan_begin(&scan, image.data, (uint32_t)(image.size / LOG_RECORD_SECTOR),
                          segment.number);
    while ((found = log_record_scan_next(&scan)) == LOG_RECORD_BATCH || found == LOG_RECORD_LOST) {
        print_found(&scan, found);
        is_damaged |= scan.is_hurt;
    }
    unsigned long long at = (unsigned long long)scan.next * LOG_RECORD_SECTOR;
    if (found == LOG_RECORD_DAMAGED) {
        printf("  damaged offset=%llu: %s\n",
               (unsigned long long)scan.bad_sector * LOG_RECORD_SECTOR, scan.reason);
        is_damaged = true;
    } else {
        printf("  %s offset=%llu\n", found == LOG_RECORD_TORN ? "torn" : "end", at);
    }
    log_record_scan_end(&scan);
    return is_damaged;
}

static int print_votes(const char *path, struct span image)
{
    int damaged = 0;
    printf("%s: votes\n", path);
    for (size_t sector = 1; sector < image.size / LOG_RECORD_SECTOR; sector++) {
        struct log_record_vote vote;
        int rc = log_record_unpack_vote(image.data + sector * LOG_RECORD_SECTOR, &vote);
        if (rc == 0) {
            printf("  pair=%zu copy=%zu group=%u replica=%llu sequence=%llu term=%llu vote=%llu\n",
                   (sector - 1) / 2, (sector - 1) % 2, vote.group, (unsigned long long)vote.replica,
                   (unsigned long long)vote.sequence, (unsigned long long)vote.term,
                   (unsigned long long)vote.vote);
        } else if (rc == ERR_CORRUPT) {
            printf("  pair=%zu copy=%zu damaged\n", (sector - 1) / 2, (sector - 1) % 2);
            damaged = 1;
        }
    }
    return damaged;
}

static int inspect_file(const char *path, size_t size)
{
    int status = 1;
    FILE *file = fopen(path, "rb");
    uint8_t *bytes = mem_zalloc(size + LOG_RECORD_SECTOR);
    if (!file || fread(bytes, 1, size, file) < size) {
        fprintf(stderr, "cairn: %s: %s (ERR_IO)\n", path, file ? "it ends early" : strerror(errno));
    } else if (size >= LOG_RECORD_SECTOR && memcmp(bytes, "CAIRNVOT", 8) == 0) {
        status = print_votes(path, span_of(bytes, size));
    } else if (size >= LOG_RECORD_SECTOR && memcmp(bytes, "CAIRNLOG", 8) == 0) {
        status = print_segment(path, span_of(bytes, size));
    } else {
        fprintf(stderr, "cairn: %s: neither a log segment nor a votes file (ERR_FORMAT)\n", path);
    }
    if (file) {
        fclose(file);
    }
    mem_free(bytes);
    return status;
}

static int compare_names(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static int is_log_file(const struct dirent *entry)
{
    const char *dot = strrchr(entry->d_name, '.');
    return strcmp(entry->d_name, "votes") == 0 || (dot && strcmp(dot, ".log") == 0);
}

static int inspect_path(const char *path);

static int inspect_folder(const char *path)
{
    struct dirent **entries;
    int status = 0, count = scandir(path, &entries, is_log_file, compare_names);
    if (count <= 0) {
        fprintf(stderr, "cairn: %s: no log segments there (ERR_NOT_FOUND)\n", path);
        return 1;
    }
    for (int i = 0; i < count; i++) {
        char *inner = mem_printf("%s/%s", path, entries[i]->d_name);
        status |= inspect_path(inner);
        mem_free(inner);
        free(entries[i]);
    }
    free(entries);
    return status;
}

static int inspect_path(const char *path)
{
    struct stat found;
    if (stat(path, &found) < 0) {
        fprintf(stderr, "cairn: %s: %s (ERR_IO)\n", path, strerror(errno));
        return 1;
    }
    if (S_ISDIR(found.st_mode)) {
        return inspect_folder(path);
    }
    if (!S_ISREG(found.st_mode) || found.st_size > FILE_BYTES_MAX) {
        fprintf(stderr, "cairn: %s: not a log segment (ERR_FORMAT)\n", path);
        return 1;
    }
    return inspect_file(path, (size_t)found.st_size);
}

int inspect_main(int argc, char **argv)
{
    int status = 0;
    if (argc < 2) {
        fprintf(stderr, "cairn: inspect needs a file: cairn inspect FILE… (ERR_USAGE)\n");
        return 2;
    }
    for (int i = 1; i < argc; i++) {
        status |= inspect_path(argv[i]);
    }
    return status;
}
