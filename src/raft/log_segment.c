/* Segment files. Making one, each step durable before the next, so that a crash in between leaves
 * only a .spare:
 *
 *   new       create N.spare → write zeroes → header → sync → rename to N.log → sync the directory
 *   recycled  rename M.log to N.spare → sync the directory → header → sync → rename to N.log → sync
 *             the directory
 *
 * Overwriting blocks that hold written bytes syncs fastest (no allocation, no extent conversion in
 * the file system's journal).
 *
 * Thread: any, one at a time per segment. */
#include "raft/log_segment.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/hash.h"
#include "base/mem.h"

enum {
    ZERO_BYTES = 1 << 20,
    WINDOW_BYTES = 64 << 10,
    /* Batches are written once and hardly ever read: past the page cache. */
    SEGMENT_FILE = ENV_FILE_READ | ENV_FILE_WRITE | ENV_FILE_DIRECT,
};

void log_segment_path(char out[512], const char *directory, uint64_t number, const char *suffix)
{
    int size = snprintf(out, 512, "%s/%016llx.%s", directory, (unsigned long long)number, suffix);
    CHECK(size > 0 && size < 512);
}

bool log_segment_parse(const char *name, uint64_t *number, bool *is_spare)
{
    if (strlen(name) < 18 || name[16] != '.' || strspn(name, "0123456789abcdef") != 16) {
        return false;
    }
    if (strcmp(name + 17, "log") != 0 && strcmp(name + 17, "spare") != 0) {
        return false;
    }
    *is_spare = name[17] == 's';
    *number = strtoull(name, NULL, 16);
    return *number > 0 && *number < UINT32_MAX;
}

static int write_zeroes(struct env *env, struct env_file *file, uint64_t bytes, struct err *err)
{
    uint64_t most = bytes < ZERO_BYTES ? bytes : ZERO_BYTES;
    uint8_t *memory = mem_zalloc((size_t)most + ENV_FILE_DIRECT_ALIGN);
    const uint8_t *zeroes = env_direct_align(memory);
    int rc = 0;
    for (uint64_t at = 0; rc == 0 && at < bytes; at += ZERO_BYTES) {
        uint64_t size = bytes - at < ZERO_BYTES ? bytes - at : ZERO_BYTES;
        rc = env_file_write(env, file, at, zeroes, size, err);
    }
    mem_free(memory);
    return rc;
}

static int make_spare(struct env *env, const char *directory, const char *spare, uint64_t reuse,
                      uint64_t bytes, struct env_file **file, struct err *err)
{
    if (reuse == 0) {
        int rc = env_file_open(env, spare, SEGMENT_FILE | ENV_FILE_CREATE, file, err);
        return rc < 0 ? rc : write_zeroes(env, *file, bytes, err);
    }
    char old[512];
    log_segment_path(old, directory, reuse, "log");
    int rc = env_file_rename(env, old, spare, err);
    if (rc == 0) {
        rc = env_dir_sync(env, directory, err);
    }
    return rc < 0 ? rc : env_file_open(env, spare, SEGMENT_FILE, file, err);
}

int log_segment_make(struct env *env, const char *directory,
                     const struct log_record_segment *header, uint64_t reuse, struct env_file **out,
                     struct err *err)
{
    CHECK(header->number > reuse);
    char spare[512], final[512];
    uint8_t sector[LOG_RECORD_SECTOR];
    struct env_file *file = NULL;
    struct err ignored;

    log_segment_path(spare, directory, header->number, "spare");
    log_segment_path(final, directory, header->number, "log");
    log_record_pack_segment(header, sector);
    int rc = make_spare(env, directory, spare, reuse, header->bytes, &file, err);
    if (rc < 0 || (rc = env_file_write(env, file, 0, sector, sizeof sector, err)) < 0 ||
        (rc = env_file_sync(env, file, err)) < 0 ||
        (rc = env_file_rename(env, spare, final, err)) < 0) {
        goto fail;
    }
    if ((rc = env_dir_sync(env, directory, err)) < 0) {
        env_file_remove(env, final, &ignored);
        goto fail;
    }
    *out = file;
    return 0;
fail:
    if (file) {
        env_file_close(env, file);
    }
    env_file_remove(env, spare, &ignored);
    return rc;
}

int log_segment_open(struct env *env, const char *directory, uint64_t number,
                     const struct log_record_owner *owner, struct log_record_segment *out_header,
                     struct env_file **out, struct err *err)
{
    char path[512];
    uint8_t sector[LOG_RECORD_SECTOR];
    size_t got;
    uint64_t size;
    struct env_file *file;
    struct log_record_segment read, *header = &read; /* it may be another segment's */

    log_segment_path(path, directory, number, "log");
    int rc = env_file_open(env, path, ENV_FILE_READ | ENV_FILE_WRITE, &file, err);
    if (rc < 0) {
        return rc;
    }
    if ((rc = env_file_read(env, file, 0, sector, sizeof sector, &got, err)) < 0 ||
        (rc = env_file_size(env, file, &size, err)) < 0) {
        goto fail;
    }
    if (got < sizeof sector) {
        rc = err_set(err, ERR_CORRUPT, "offset 0: the segment header is missing");
        goto fail;
    }
    if ((rc = log_record_unpack_segment(sector, header, err)) < 0) {
        goto fail;
    }
    if (memcmp(&header->owner.cluster_id, owner->cluster_id, 16) != 0 ||
        header->owner.node_id != owner->node_id) {
        rc = err_set(err, ERR_CLUSTER_MISMATCH,
                     "the segment belongs to another cluster or node (node id %llu)",
                     (unsigned long long)header->owner.node_id);
        goto fail;
    }
    if (header->number != number || header->previous >= number || header->bytes != size ||
        size % LOG_RECORD_SECTOR != 0 ||
        size / LOG_RECORD_SECTOR * LOG_RECORD_CONTENT > UINT32_MAX) {
        rc = err_set(
            err, ERR_CORRUPT,
            "offset 0: the segment header contradicts its file (number %llu, %llu bytes of %llu)",
            (unsigned long long)header->number, (unsigned long long)size,
            (unsigned long long)header->bytes);
        goto fail;
    }
    *out_header = read;
    *out = file;
    return 0;
fail:
    env_file_close(env, file);
    return rc;
}

/* Makes the window hold sectors first … end - 1, and some more for the next payload. */
static int window_fill(struct env *env, struct env_file *file, uint32_t segment_sectors,
                       uint32_t segment, uint32_t first, uint32_t end,
                       struct log_segment_window *window, struct err *err)
{
    if (window->segment == segment && first >= window->sector &&
        end <= window->sector + window->sectors) {
        return 0;
    }
    uint32_t ahead = first + WINDOW_BYTES / LOG_RECORD_SECTOR;
    if (ahead > segment_sectors) {
        ahead = segment_sectors;
    }
    if (end < ahead) {
        end = ahead;
    }
    size_t got, size = (size_t)(end - first) * LOG_RECORD_SECTOR;
    window->segment = 0;
    buf_clear(&window->raw);
    uint8_t *raw = buf_extend(&window->raw, size);
    int rc = env_file_read(env, file, (uint64_t)first * LOG_RECORD_SECTOR, raw, size, &got, err);
    if (rc < 0) {
        return rc;
    }
    if (got < size) {
        return err_set(err, ERR_CORRUPT, "segment %016x ends early", segment);
    }
    window->segment = segment;
    window->sector = first;
    window->sectors = end - first;
    return 0;
}

int log_segment_read(struct env *env, struct env_file *file, uint32_t segment_sectors,
                     const struct log_place *place, struct log_segment_window *window, uint8_t *out,
                     struct err *err)
{
    if (place->size == 0) {
        return 0;
    }
    uint32_t first = place->at / LOG_RECORD_CONTENT,
             end = (place->at + place->size - 1) / LOG_RECORD_CONTENT + 1;
    int rc = window_fill(env, file, segment_sectors, place->segment, first, end, window, err);
    if (rc < 0) {
        return rc;
    }
    log_record_copy(window->raw.data, window->sector, place->at, place->size, out);
    if (hash_crc32c(0, out, place->size) != place->crc) {
        return err_set(err, ERR_CORRUPT,
                       "segment %016x offset %llu: a payload of %u bytes fails its checksum",
                       place->segment, (unsigned long long)first * LOG_RECORD_SECTOR, place->size);
    }
    return 0;
}

void log_segment_window_fini(struct log_segment_window *window)
{
    buf_fini(&window->raw);
}
