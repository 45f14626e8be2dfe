/* What the core knows of the log: where it begins and ends, and the term of each entry, kept as runs (I10 of raft.c); how far it
 * may be cut (I1, I9). */
#include "raft/raft_private.h"

#include <stddef.h>
#include <string.h>

#include "base/check.h"
#include "base/mem.h"

/* The run that holds index; index must be in [log_start, last_index]. */
static size_t runs_find(const struct raft *raft, uint64_t index)
{
    const struct raft_private *p = raft->private;
    size_t low = 0, high = p->run_count;
    CHECK(high > 0 && index >= p->runs[0].first);
    if (index >= p->runs[high - 1].first) {
        return high - 1;
    }
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (p->runs[middle].first <= index) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

uint64_t raft_term_at(const struct raft *raft, uint64_t index)
{
    if (index + 1 == raft->log_start) {
        return raft->start_term;
    }
    if (index < raft->log_start || index > raft->last_index) {
        return 0;
    }
    return raft->private->runs[runs_find(raft, index)].term;
}

void raft_runs_push(struct raft *raft, uint64_t term)
{
    struct raft_private *p = raft->private;
    raft->last_index++;
    if (p->run_count > 0 && p->runs[p->run_count - 1].term == term) {
        return;
    }
    if (p->run_count == p->run_capacity) {
        p->run_capacity = p->run_capacity ? p->run_capacity * 2 : 8;
        p->runs = mem_realloc(p->runs, p->run_capacity * sizeof(*p->runs));
    }
    p->runs[p->run_count++] = (struct raft_run){ .first = raft->last_index, .term = term };
}

void raft_runs_truncate(struct raft *raft, uint64_t first)
{
    struct raft_private *p = raft->private;
    CHECK(first > raft->commit && first >= raft->log_start);
    while (p->run_count > 0 && p->runs[p->run_count - 1].first >= first) {
        p->run_count--;
    }
    raft->last_index = first - 1;
    raft->durable_index = min_u64(raft->durable_index, first - 1);
}

uint64_t raft_runs_search(const struct raft *raft, uint64_t index, uint64_t term)
{
    while (index >= raft->log_start && raft_term_at(raft, index) > term) {
        index = raft->private->runs[runs_find(raft, index)].first - 1;
    }
    return index;
}

void raft_log_cut(struct raft *raft, uint64_t log_start)
{
    struct raft_private *p = raft->private;
    CHECK(log_start >= raft->log_start);
    CHECK(log_start - 1 <= raft->commit && log_start - 1 <= raft->durable_index); /* I1 */
    if (log_start == raft->log_start) {
        return;
    }
    raft->start_term = raft_term_at(raft, log_start - 1);
    size_t gone = log_start > raft->last_index ? p->run_count : runs_find(raft, log_start);
    p->run_count -= gone;
    memmove(p->runs, p->runs + gone, p->run_count * sizeof(*p->runs));
    if (p->run_count > 0) {
        p->runs[0].first = log_start;
    }
    raft->log_start = log_start;
    for (int i = 0; raft->role == RAFT_LEADER && i < raft->config.replica_count; i++) {
        struct raft_progress *peer = &raft->progress[i];
        if (i != p->self && peer->state == RAFT_IMAGING) {
            peer->next = max_u64(peer->next, log_start);
        } else if (i != p->self && peer->next < log_start) {
            raft_probe_from(raft, peer, log_start);
        }
        if (peer->image_id != 0 && peer->image_index + 1 < log_start) {
            raft_image_over(peer); /* the log could not follow it */
        }
    }
}

/* What the replica still needs of the log, given that there is little room. */
static uint64_t cut_below_peer(const struct raft *raft, const struct raft_progress *peer,
                               enum raft_cut level)
{
    if (peer->state == RAFT_IMAGING) {
        bool is_pinned = peer->image_id != 0 && level < RAFT_CUT_ALL;
        return is_pinned ? peer->image_index : UINT64_MAX;
    }
    bool is_spared = level == RAFT_CUT_HEARD && raft_is_heard_lately(raft, peer->heard_ms);
    return is_spared ? peer->match : UINT64_MAX;
}

uint64_t raft_held_index(const struct raft *raft)
{
    uint64_t index = raft->durable_index;
    for (int i = 0; raft->role == RAFT_LEADER && i < raft->config.replica_count; i++) {
        if (i != raft->private->self) {
            index = min_u64(index, raft->progress[i].match);
        }
    }
    return index;
}

uint64_t raft_cut_at(const struct raft *raft, enum raft_cut level)
{
    uint64_t cut = raft->flushed;
    if (level == RAFT_CUT_SPARING || raft->needs_image) { /* a damaged store holds nothing */
        cut = min_u64(cut, raft->cut);
    }
    for (int i = 0; raft->role == RAFT_LEADER && i < raft->config.replica_count; i++) {
        if (i != raft->private->self) {
            cut = min_u64(cut, cut_below_peer(raft, &raft->progress[i], level));
        }
    }
    return cut;
}

void raft_runs_empty(struct raft *raft, uint64_t index, uint64_t term)
{
    CHECK(index > raft->commit && raft->role != RAFT_LEADER && !raft->out.append);
    raft->private->run_count = 0;
    raft->log_start = index + 1;
    raft->start_term = term;
    raft->last_index = raft->durable_index = index;
    raft->private->verified = min_u64(raft->private->verified, index);
}

void raft_init_log(struct raft *raft, const struct raft_start *start)
{
    struct raft_private *p = raft->private;
    CHECK(start->log_start > 0 && start->last_index + 1 >= start->log_start);
    CHECK(start->commit <= start->last_index);
    CHECK((start->run_count == 0) == (start->last_index + 1 == start->log_start));
    raft->log_start = start->log_start;
    raft->start_term = start->start_term;
    raft->last_index = raft->durable_index = start->last_index;
    raft->commit = max_u64(start->commit, start->log_start - 1);
    p->run_count = p->run_capacity = start->run_count;
    if (start->run_count == 0) {
        return;
    }
    p->runs = mem_alloc(start->run_count * sizeof(*p->runs));
    for (size_t i = 0; i < start->run_count; i++) {
        const struct raft_run *run = &start->runs[i];
        uint64_t after = i == 0 ? start->log_start : start->runs[i - 1].first + 1;
        CHECK(i == 0 ? run->first == after : run->first >= after);
        CHECK(run->first <= start->last_index && run->term <= start->term);
        p->runs[i] = *run;
    }
}
