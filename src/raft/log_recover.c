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
 * record headers are lost (`recovery_lose`), every group is doubtful: the replica may have lost entries that
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
 * The way through is `recover`, at the end; its steps stand in log_recover_find.c (files, tail and chain: 1, 2),
 * log_recover_replay.c (3), log_recover_finish.c (votes, and the index of each group) and log_recover_rewrite.c (4, 5).
 *
 * Thread: the loop's, before it runs; blocks. */
#include "raft/log_recover_private.h"

#include <string.h>

#include "base/check.h"

/* --- What is wrong with the log */

int recovery_damage(struct recovery *recovery, const struct found *found, uint32_t sector,
                    const char *reason)
{
    return err_set(recovery->err, ERR_CORRUPT, "log damaged: segment %016llx offset %llu: %s",
                   (unsigned long long)found->header.number,
                   (unsigned long long)sector * LOG_RECORD_SECTOR, reason);
}

void recovery_gap(struct recovery *recovery)
{
    struct log *log = recovery->log;
    recovery->is_lost = true;
    for (size_t i = 0; i < log->group_count; i++) {
        log->groups[i]->is_doubtful = true;
        log->groups[i]->trusted_from = UINT64_MAX;
    }
}

int recovery_lose(struct recovery *recovery, const struct found *found, uint32_t sector,
                  const char *reason)
{
    if (recovery->log->config.is_alone) {
        return recovery_damage(recovery, found, sector, reason);
    }
    LOG_WARN(recovery->log->config.logger,
             "event=log_headers_lost segment=%016llx offset=%llu text=\"%s\"",
             (unsigned long long)found->header.number,
             (unsigned long long)sector * LOG_RECORD_SECTOR, reason);
    if (recovery->log->clean_to < found->header.number) {
        recovery->log->clean_to = found->header.number;
    }
    recovery_gap(recovery);
    return 0;
}

int recovery_lose_late(struct recovery *recovery, const struct found *found, uint32_t sector,
                       const char *reason)
{
    if (recovery->log->config.is_alone) {
        return recovery_damage(recovery, found, sector, reason);
    }
    LOG_WARN(recovery->log->config.logger,
             "event=log_headers_lost segment=%016llx offset=%llu text=\"%s\"",
             (unsigned long long)found->header.number,
             (unsigned long long)sector * LOG_RECORD_SECTOR, reason);
    recovery->is_lost_late = true;
    return 0;
}

/* --- The steps */

static int recover(struct recovery *recovery)
{
    int rc = recovery_find_files(recovery);
    if (rc == 0) {
        rc = recovery_find_tail(recovery);
    }
    if (rc == 0) {
        rc = recovery_check_newer(recovery);
    }
    if (rc == 0 && recovery->tail < recovery->count) {
        rc = recovery_find_chain(recovery);
        if (rc == 0) {
            rc = recovery_replay(recovery);
        }
    }
    if (rc == 0 && recovery->is_lost_late) {
        recovery_gap(recovery);
    }
    if (rc == 0 && (rc = recovery_read_votes(recovery)) == 0) {
        recovery_add_expected(recovery);
    }
    if (rc < 0 || (rc = recovery_merge_votes(recovery)) < 0 ||
        (rc = recovery_finish_groups(recovery)) < 0 || (rc = recovery_make_segment(recovery)) < 0 ||
        (rc = recovery_rewrite_last(recovery)) < 0 || (rc = recovery_rewrite_votes(recovery)) < 0) {
        return rc;
    }
    recovery_tell_starts(recovery->log);
    return recovery_remove_files(recovery);
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
