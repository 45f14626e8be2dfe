/* Recovery when all is replayed: the votes file has its say, and each group's index is finished and judged (D2, D3 and D5 of
 * log_recover.c). */
#include "raft/log_recover_private.h"

#include <stdlib.h>

/* --- Votes */

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
int recovery_read_votes(struct recovery *recovery)
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
    return recovery_lose(recovery, &recovery->found[recovery->count - 1], 1,
                         "there are votes but not one batch");
}

int recovery_merge_votes(struct recovery *recovery)
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
        const char *reason = recovery_apply_state(group, vote->record.term, vote->record.vote);
        if (reason) {
            rc = err_set(recovery->err, ERR_CORRUPT, "log damaged: votes file: group %u: %s",
                         group->number, reason);
        }
    }
    return rc;
}

/* --- The groups */

void recovery_add_expected(struct recovery *recovery)
{
    struct log *log = recovery->log;
    for (size_t i = 0; recovery->is_lost && i < log->config.expected_count; i++) {
        const struct log_expected *expected = &log->config.expected[i];
        if (!log_group_find(log, expected->group)) {
            log_group_new(log, expected->group, expected->replica, 1, 0)->is_doubtful = true;
        }
    }
}

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

int recovery_finish_groups(struct recovery *recovery)
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

void recovery_tell_starts(struct log *log)
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
