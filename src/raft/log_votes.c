/* The votes file. Invariant: of a pair, only the older copy is ever overwritten, and the next write
 * to the pair comes after the sync of this one.
 *
 * Thread: opening on the loop, writing in the log's job. */
#include "raft/log_votes.h"

#include <stdio.h>

#include "base/check.h"
#include "base/mem.h"

enum { PAIRS_AT_FIRST = 128, PAIRS_MAX = 1 << 16 };

static void votes_path(char out[512], const char *directory, const char *suffix)
{
    int size = snprintf(out, 512, "%s/votes%s", directory, suffix);
    CHECK(size > 0 && size < 512);
}

/* Writes a fresh file beside and renames it, so that there never is a half-made one. */
static int votes_make(struct env *env, const char *directory, const struct log_record_owner *owner,
                      struct err *err)
{
    char path[512], temporary[512];
    struct log_record_segment header = { .owner = *owner, .number = 1, .kind = LOG_RECORD_NORMAL };
    size_t size = (1 + 2 * PAIRS_AT_FIRST) * LOG_RECORD_SECTOR;
    struct env_file *file = NULL;

    votes_path(path, directory, "");
    votes_path(temporary, directory, ".new");
    uint8_t *image = mem_zalloc(size);
    log_record_pack_segment(&header, image);
    memcpy(image, "CAIRNVOT", 8);
    int rc = env_file_open(env, temporary, ENV_FILE_WRITE | ENV_FILE_CREATE, &file, err);
    if (rc == 0) {
        rc = env_file_write(env, file, 0, image, size, err);
    }
    if (rc == 0) {
        rc = env_file_sync(env, file, err);
    }
    if (file) {
        env_file_close(env, file);
    }
    if (rc == 0) {
        rc = env_file_rename(env, temporary, path, err);
    }
    if (rc == 0) {
        rc = env_dir_sync(env, directory, err);
    }
    mem_free(image);
    return rc;
}

/* The header's checksum is that of a segment's header, magic excepted. */
static int votes_check(const uint8_t *sector, const struct log_record_owner *owner, struct err *err)
{
    uint8_t copy[LOG_RECORD_SECTOR];
    struct log_record_segment header;
    if (memcmp(sector, "CAIRNVOT", 8) != 0) {
        return err_set(err, ERR_CORRUPT, "wrong magic");
    }
    memcpy(copy, sector, sizeof copy);
    memcpy(copy, "CAIRNLOG", 8);
    int rc = log_record_unpack_segment(copy, &header, err);
    if (rc < 0) {
        return rc;
    }
    if (memcmp(header.owner.cluster_id, owner->cluster_id, 16) != 0 ||
        header.owner.node_id != owner->node_id) {
        return err_set(err, ERR_CLUSTER_MISMATCH,
                       "the votes file belongs to another cluster or node");
    }
    return 0;
}

static void votes_pair(struct log_votes *votes, struct logger *logger, uint32_t pair,
                       const uint8_t *sectors, const struct log_record_owner *owner,
                       void (*each)(void *ctx, const struct log_vote *vote), void *ctx)
{
    struct log_vote found = { .pair = pair };
    bool has = false;
    for (uint32_t copy = 0; copy < 2; copy++) {
        struct log_record_vote vote;
        int rc = log_record_unpack_vote(sectors + (size_t)copy * LOG_RECORD_SECTOR, &vote);
        if (rc == 0 &&
            (memcmp(&vote.owner.cluster_id, owner->cluster_id, 16) != 0 ||
             vote.owner.node_id != owner->node_id || (has && vote.group != found.record.group))) {
            rc = ERR_CORRUPT;
        }
        if (rc == ERR_CORRUPT) {
            LOG_WARN(logger, "event=vote_copy_damaged pair=%u copy=%u", pair, copy);
            votes->is_damaged = true;
        }
        if (rc == 0 && (!has || vote.sequence > found.record.sequence)) {
            found.record = vote;
            found.copy = !copy;
            has = true;
        }
    }
    if (has) {
        each(ctx, &found);
    }
}

static int votes_read(struct log_votes *votes, struct env *env, struct logger *logger,
                      const struct log_record_owner *owner,
                      void (*each)(void *ctx, const struct log_vote *vote), void *ctx,
                      struct err *err)
{
    uint64_t size;
    size_t got = 0;
    int rc = env_file_size(env, votes->file, &size, err);
    if (rc < 0) {
        return rc;
    }
    if (size > (1 + 2ull * PAIRS_MAX) * LOG_RECORD_SECTOR) {
        return err_set(err, ERR_CORRUPT, "too large");
    }
    uint8_t *image = mem_zalloc(size + LOG_RECORD_SECTOR);
    rc = env_file_read(env, votes->file, 0, image, size, &got, err);
    if (rc == 0) {
        rc = votes_check(image, owner, err);
    }
    /* A half-written sector at the end (the file was growing) counts as one: zeroes follow it here.
     */
    size_t sectors = (got + LOG_RECORD_SECTOR - 1) / LOG_RECORD_SECTOR;
    for (uint32_t pair = 0; rc == 0 && 1 + 2 * (size_t)pair < sectors; pair++) {
        const uint8_t *at = image + (1 + 2 * (size_t)pair) * LOG_RECORD_SECTOR;
        bool has_second = 2 + 2 * (size_t)pair < sectors;
        uint8_t both[2 * LOG_RECORD_SECTOR] = { 0 };
        memcpy(both, at, has_second ? sizeof both : LOG_RECORD_SECTOR);
        struct log_record_vote vote;
        if (log_record_unpack_vote(both, &vote) != ERR_NOT_FOUND ||
            log_record_unpack_vote(both + LOG_RECORD_SECTOR, &vote) != ERR_NOT_FOUND) {
            votes->pairs = pair + 1;
        }
        votes_pair(votes, logger, pair, both, owner, each, ctx);
    }
    mem_free(image);
    return rc;
}

int log_votes_open(struct log_votes *votes, struct env *env, struct logger *logger,
                   const char *directory, const struct log_record_owner *owner,
                   void (*each)(void *ctx, const struct log_vote *vote), void *ctx, struct err *err)
{
    char path[512];
    votes_path(path, directory, "");
    *votes = (struct log_votes){ 0 };
    int rc = env_file_open(env, path, ENV_FILE_READ | ENV_FILE_WRITE, &votes->file, err);
    if (rc == 0) {
        rc = votes_read(votes, env, logger, owner, each, ctx, err);
        if (rc != ERR_CORRUPT) {
            return rc;
        }
        LOG_WARN(logger, "event=votes_file_damaged text=\"%s\"", err ? err->text : "");
        env_file_close(env, votes->file);
        *votes = (struct log_votes){ 0 };
    } else if (rc != ERR_NOT_FOUND) {
        return rc;
    }
    votes->is_damaged = true;
    if ((rc = votes_make(env, directory, owner, err)) < 0) {
        return rc;
    }
    return env_file_open(env, path, ENV_FILE_READ | ENV_FILE_WRITE, &votes->file, err);
}

int log_votes_write(struct env *env, struct env_file *file, const struct log_vote *vote,
                    struct err *err)
{
    uint8_t sector[LOG_RECORD_SECTOR];
    log_record_pack_vote(&vote->record, sector);
    return env_file_write(env, file,
                          (1 + 2 * (uint64_t)vote->pair + vote->copy) * LOG_RECORD_SECTOR, sector,
                          sizeof sector, err);
}

int log_votes_erase(struct env *env, struct env_file *file, uint32_t pair, struct err *err)
{
    static const uint8_t zeroes[2 * LOG_RECORD_SECTOR];
    return env_file_write(env, file, (1 + 2 * (uint64_t)pair) * LOG_RECORD_SECTOR, zeroes,
                          sizeof zeroes, err);
}
