/* The checkers. Incremental: a step costs one comparison per replica unless something changed. */
#include "sim/checker.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/check.h"
#include "base/hash.h"
#include "base/mem.h"
#include "node/node_private.h"

enum { BOUNDS_EVERY = 31 }; /* steps: in each, one group or so of a node */

void checker_init(struct checker *checker, void (*violated)(void *ctx, const char *text), void *ctx)
{
    *checker = (struct checker){ .violated = violated, .ctx = ctx };
}

void checker_fini(struct checker *checker)
{
    for (uint32_t i = 0; i < checker->group_count; i++) {
        mem_free(checker->groups[i].entries);
        hashtab_fini(&checker->groups[i].leaders);
    }
    mem_free(checker->groups);
}

void checker_fail(struct checker *checker, const char *format, ...)
{
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (checker->violations++ == 0) {
        checker->violated(checker->ctx, text);
    }
}

static struct checker_group *group_of(struct checker *checker, uint32_t group)
{
    if (group >= checker->group_count) {
        checker->groups = mem_realloc(checker->groups, (group + 1) * sizeof *checker->groups);
        memset(checker->groups + checker->group_count, 0,
               (group + 1 - checker->group_count) * sizeof *checker->groups);
        checker->group_count = group + 1;
    }
    return &checker->groups[group];
}

static struct checker_entry *entry_of(struct checker_group *group, uint64_t index)
{
    if (index >= group->capacity) {
        uint64_t capacity = index * 2 + 64;
        group->entries = mem_realloc(group->entries, capacity * sizeof *group->entries);
        memset(group->entries + group->capacity, 0,
               (capacity - group->capacity) * sizeof *group->entries);
        group->capacity = capacity;
    }
    if (index >= group->count) {
        group->count = index + 1;
    }
    return &group->entries[index];
}

void checker_node_began(struct checker *checker, uint32_t node)
{
    for (uint32_t i = 0; i < checker->group_count; i++) {
        checker->groups[i].seen[node] = (struct checker_seen){ 0 };
    }
}

void checker_node_ended(struct checker *checker, uint32_t node)
{
    checker->nodes[node] = NULL;
}

void checker_node_damaged(struct checker *checker, uint32_t node)
{
    for (uint32_t i = 0; i < checker->group_count; i++) {
        checker->groups[i].kept[node] = (struct checker_kept){ 0 };
    }
}

/* C1, C4 */
static void check_leader(struct checker *checker, uint32_t node, uint32_t number,
                         const struct raft *raft)
{
    struct checker_group *group = group_of(checker, number);
    void *is = (void *)(uintptr_t)(node + 1);
    void *was = hashtab_put(&group->leaders, raft->term, is);
    if (was && was != is) {
        checker_fail(checker, "two leaders: group %u term %lu: n%lu and n%u", number, raft->term,
                     (unsigned long)(uintptr_t)was, node + 1);
    }
    checker->elections += !was;
    /* Entries committed in later terms are no business of a leader of an earlier one. */
    for (uint64_t index = group->committed; index >= raft->log_start && index > 0; index--) {
        uint64_t term = entry_of(group, index)->term;
        if (term == 0 || term > raft->term) {
            continue;
        }
        if (raft_term_at(raft, index) != term) {
            checker_fail(
                checker,
                "leader n%u of group %u term %lu lacks committed entry %lu (term %lu, it has %lu)",
                node + 1, number, raft->term, index, term, raft_term_at(raft, index));
        }
        break; /* with log matching one is enough */
    }
}

/* C3 */
static void check_commit(struct checker *checker, uint32_t node, uint32_t number,
                         const struct raft *raft, uint64_t from)
{
    struct checker_group *group = group_of(checker, number);
    for (uint64_t index = from; index <= raft->commit; index++) {
        uint64_t term = raft_term_at(raft, index);
        struct checker_entry *entry = entry_of(group, index);
        if (index < raft->log_start) {
            continue; /* cut: it was applied everywhere */
        }
        if (term == 0) {
            checker_fail(checker, "n%u commits group %u index %lu beyond its log (last %lu)",
                         node + 1, number, index, raft->last_index);
            return;
        }
        if (entry->term != 0 && entry->term != term) {
            checker_fail(checker,
                         "n%u commits group %u index %lu with term %lu, others with term %lu",
                         node + 1, number, index, term, entry->term);
        }
        checker->committed += entry->term == 0;
        entry->term = term;
    }
    group->committed = raft->commit > group->committed ? raft->commit : group->committed;
}

/* Has this node's disk the entry? Of one that does not run only the index is known. */
static bool has_durable(const struct checker *checker, uint32_t node, uint32_t number,
                        uint64_t index, uint64_t term)
{
    struct partition *partition =
        checker->nodes[node] ? node_find_partition(checker->nodes[node], number) : NULL;
    if (!partition) {
        return checker->groups[number].kept[node].durable >= index;
    }
    const struct raft *raft = partition_raft(partition);
    return raft->durable_index >= index &&
           (index < raft->log_start || raft_term_at(raft, index) == term);
}

/* C7, C8 */
static void check_leader_commit(struct checker *checker, uint32_t node, uint32_t number,
                                const struct raft *raft)
{
    uint64_t term = raft_term_at(raft, raft->commit);
    if (term != raft->term) {
        checker_fail(checker, "leader n%u of group %u commits %lu of term %lu in term %lu",
                     node + 1, number, raft->commit, term, raft->term);
    }
    int count = 0;
    for (uint32_t i = 0; i < CHECKER_NODES_MAX; i++) {
        count += has_durable(checker, i, number, raft->commit, term);
    }
    if (count * 2 <= raft->config.replica_count) {
        checker_fail(checker, "n%u commits group %u index %lu, durable on %d of %d replicas",
                     node + 1, number, raft->commit, count, raft->config.replica_count);
    }
}

/* C9: the first look at a replica after its process began. */
static void check_kept(struct checker *checker, uint32_t node, uint32_t number,
                       const struct raft *raft)
{
    const struct checker_kept *kept = &group_of(checker, number)->kept[node];
    if (raft->term < kept->led) {
        checker_fail(checker, "n%u led group %u in term %lu and begins again in term %lu", node + 1,
                     number, kept->led, raft->term);
    }
    if (kept->durable > raft->last_index ||
        (kept->durable >= raft->log_start &&
         raft_term_at(raft, kept->durable) != kept->durable_term)) {
        checker_fail(checker,
                     "n%u said that group %u is durable to index %lu of term %lu; it begins again "
                     "with %lu..%lu, there of term %lu",
                     node + 1, number, kept->durable, kept->durable_term, raft->log_start,
                     raft->last_index, raft_term_at(raft, kept->durable));
    }
}

static void keep(struct checker_kept *kept, const struct raft *raft)
{
    kept->durable = raft->durable_index;
    kept->durable_term = raft_term_at(raft, raft->durable_index);
    kept->led = raft->role == RAFT_LEADER ? raft->term : kept->led;
}

/* C1 to C4, C7 to C9 for one replica's core. */
static void check_raft(struct checker *checker, uint32_t node, uint32_t number,
                       const struct raft *raft)
{
    struct checker_group *group = group_of(checker, number);
    struct checker_seen *seen = &group->seen[node];
    if (seen->term == raft->term && seen->commit == raft->commit && seen->role == (int)raft->role &&
        seen->durable == raft->durable_index) {
        return;
    }
    if (seen->term == 0 && seen->commit == 0 && seen->durable == 0) {
        check_kept(checker, node, number, raft);
    }
    keep(&group->kept[node], raft);
    if (raft->commit < seen->commit) {
        checker_fail(checker, "commit of group %u on n%u went back from %lu to %lu", number,
                     node + 1, seen->commit, raft->commit);
    }
    if (raft->term < seen->term) {
        checker_fail(checker, "term of group %u on n%u went back from %lu to %lu", number, node + 1,
                     seen->term, raft->term);
    }
    if (raft->role == RAFT_LEADER && (seen->role != RAFT_LEADER || seen->term != raft->term)) {
        check_leader(checker, node, number, raft);
    } else if (raft->role == RAFT_LEADER && raft->commit > seen->commit) {
        check_leader_commit(checker, node, number, raft);
    }
    if (raft->commit > seen->commit) {
        check_commit(checker, node, number, raft, seen->commit + 1);
    }
    seen->term = raft->term;
    seen->commit = raft->commit;
    seen->role = (int)raft->role;
    seen->durable = raft->durable_index;
}

/* C10 */
static void check_bounds(struct checker *checker, uint32_t node, uint32_t number,
                         const struct raft *raft)
{
    for (int i = 0; raft->role == RAFT_LEADER && i < raft->config.replica_count; i++) {
        const struct raft_progress *progress = &raft->progress[i];
        if (progress->inflight_bytes > LIMIT_RAFT_INFLIGHT_BYTES + LIMIT_ENTRY_BYTES ||
            progress->inflight_messages > LIMIT_RAFT_INFLIGHT_MESSAGES) {
            checker_fail(checker, "n%u has %u bytes in %u messages in flight to one of group %u",
                         node + 1, progress->inflight_bytes, progress->inflight_messages, number);
        }
    }
}

void checker_step(struct checker *checker, uint32_t node, struct node *of)
{
    checker->nodes[node] = of;
    checker->steps++;
    for (size_t i = 0; i < of->partition_count; i++) {
        if (of->partitions[i]) {
            const struct raft *raft = partition_raft(of->partitions[i]);
            check_raft(checker, node, (uint32_t)i, raft);
            if ((checker->steps + i) % BOUNDS_EVERY == 0) {
                check_bounds(checker, node, (uint32_t)i, raft);
            }
        }
    }
}

/* C5, C6 */
void checker_applied(struct checker *checker, uint32_t node, uint32_t number, uint64_t index,
                     uint64_t term, struct span payload)
{
    struct checker_group *group = group_of(checker, number);
    struct checker_entry *entry = entry_of(group, index);
    struct checker_seen *seen = &group->seen[node];
    uint64_t hash = hash_bytes(payload.data, payload.size) | 1;
    if (entry->hash != 0 && entry->hash != hash) {
        checker_fail(checker, "n%u applies another payload at group %u index %lu than others did",
                     node + 1, number, index);
    }
    if (entry->term != 0 && term != 0 && entry->term != term) {
        checker_fail(checker, "n%u applies group %u index %lu of term %lu, committed was term %lu",
                     node + 1, number, index, term, entry->term);
    }
    if (seen->applied != 0 && index != seen->applied + 1) {
        checker_fail(checker, "n%u applies group %u index %lu after %lu", node + 1, number, index,
                     seen->applied);
    }
    checker->applied += entry->hash == 0;
    entry->hash = hash;
    seen->applied = index;
}
