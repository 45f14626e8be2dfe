/* The checkers. Incremental: a step costs one comparison per replica unless something changed. */
#include "sim/checker.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/check.h"
#include "base/hash.h"
#include "base/mem.h"
#include "node/node_private.h"

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

void checker_raft(struct checker *checker, uint32_t node, uint32_t number, const struct raft *raft)
{
    struct checker_group *group = group_of(checker, number);
    struct checker_seen *seen = &group->seen[node];
    if (seen->term == raft->term && seen->commit == raft->commit && seen->role == (int)raft->role) {
        return;
    }
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
    }
    if (raft->commit > seen->commit) {
        check_commit(checker, node, number, raft, seen->commit + 1);
    }
    seen->term = raft->term;
    seen->commit = raft->commit;
    seen->role = (int)raft->role;
}

void checker_step(struct checker *checker, uint32_t node, struct node *of)
{
    for (size_t i = 0; i < of->partition_count; i++) {
        if (of->partitions[i]) {
            checker_raft(checker, node, (uint32_t)i, partition_raft(of->partitions[i]));
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
