/* The checkers. A step looks at the replicas that took a turn in it, as everything that happens to one
 * leads to; each comparison is cheap unless something changed. Lest a change without a turn go
 * unseen, every so many steps look at all. */
#include "sim/checker.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/check.h"
#include "base/hash.h"
#include "base/mem.h"
#include "node/node_private.h"
#include "node/request_private.h"
#include "raft/log_private.h"
#include "sim/checker_state.h"
#include "sim/disk.h"

enum {
    BOUNDS_EVERY = 31, /* steps: in each, one group or so of a node */
    SWEEP_EVERY = 23,  /* steps: in each, all groups of a node */
    GROUPS_MAX = 64,   /* bits of checker->touched */
    /* A leader is deaf for an election timeout and a tick at most; the rest is for being looked at
       rarely. */
    DEAF_MAX_US = 1000 * 1000,
    LATE_MAX_US = 5 * 1000 * 1000,
    OVERLAY_SLACK_BYTES = 16 << 20, /* what was admitted before the limit was reached */
};

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
    for (uint32_t i = 0; i < CHECKER_NODES_MAX; i++) {
        mem_free(checker->seen[i]);
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

/* As many zeroed elements more as `count` exceeds `known`. */
static void *grow(void *old, uint32_t known, uint32_t count, size_t size)
{
    uint8_t *array = mem_realloc(old, count * size);
    memset(array + known * size, 0, (count - known) * size);
    return array;
}

static void know_more_groups(struct checker *checker, uint32_t count)
{
    uint32_t known = checker->group_count;
    CHECK(count <= GROUPS_MAX);
    checker->groups = grow(checker->groups, known, count, sizeof *checker->groups);
    for (uint32_t i = 0; i < CHECKER_NODES_MAX; i++) {
        checker->seen[i] = grow(checker->seen[i], known, count, sizeof *checker->seen[i]);
    }
    checker->group_count = count;
}

static inline void know_groups(struct checker *checker, uint32_t count)
{
    if (count > checker->group_count) {
        know_more_groups(checker, count);
    }
}

static struct checker_group *group_of(struct checker *checker, uint32_t group)
{
    know_groups(checker, group + 1);
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

void checker_damaged(struct checker *checker, uint32_t node)
{
    checker->is_damaged[node] = true;
}

void checker_node_began(struct checker *checker, uint32_t node)
{
    for (uint32_t i = 0; i < checker->group_count; i++) {
        checker->seen[node][i] = (struct checker_seen){ 0 };
    }
    checker->opened[node] = 0;
}

void checker_turn(struct checker *checker, uint32_t node, uint32_t group)
{
    CHECK(group < GROUPS_MAX);
    checker->touched[node] |= 1ull << group;
}

void checker_old_began(struct checker *checker, uint32_t node)
{
    checker->is_old[node] = checker->was_old[node] = checker->may_recall[node] = true;
    for (uint32_t i = 0; i < checker->group_count; i++) {
        checker->groups[i].committed_before = checker->groups[i].committed;
    }
}

bool checker_old_is_whole(const struct checker *checker, uint32_t node)
{
    struct node *of = checker->nodes[node];
    if (!of || !of->log || recall_is_asleep(of->recall)) {
        return false;
    }
    for (uint32_t i = 0; i < checker->group_count; i++) {
        struct partition *partition = node_find_partition(of, i);
        const struct raft *raft = partition ? partition_raft(partition) : NULL;
        if (raft && (raft->is_suspect || raft_is_short(raft) ||
                     raft->durable_index < checker->groups[i].committed_before)) {
            return false;
        }
    }
    return true;
}

static struct checker_vote *vote_of(struct checker_group *group, uint64_t replica)
{
    struct checker_vote *vote = group->votes;
    while (vote->replica != 0 && vote->replica != replica) {
        vote++;
        CHECK(vote < group->votes + CHECKER_NODES_MAX);
    }
    return vote;
}

/* C12: what was promised to this leader. */
static void note_votes(struct checker_group *group, const struct raft *raft)
{
    for (int i = 0; i < raft->config.replica_count; i++) {
        struct checker_vote *vote = vote_of(group, raft->config.replicas[i]);
        if ((raft->votes >> i & 1) && raft->term > vote->term) {
            *vote = (struct checker_vote){ .replica = raft->config.replicas[i],
                                           .term = raft->term,
                                           .vote = raft->config.self };
        }
    }
}

/* The log holds the vote, and no record of it is on its way only now. */
static bool has_vote(const struct log *log, uint32_t number, uint64_t term, uint64_t vote)
{
    const struct log_group *group = log_group_find(log, number);
    bool is_held = group->term == term && group->vote == vote;
    size_t in_flight = log->is_in_flight ? log->batch.count : 0;
    for (size_t i = 0; is_held && i < log->pending.count + in_flight; i++) {
        const struct log_pending *record =
            i < in_flight ? &log->batch.records[i]
                          : &log->pending.items[log->pending.first + i - in_flight];
        is_held = record->group != group || record->kind != LOG_RECORD_STATE || record->is_silent ||
                  record->index != term || record->term != vote;
    }
    return is_held;
}

/* C12: as a replica comes to lead, those of its voters that still are where they were. */
static void check_votes(struct checker *checker, uint32_t number, const struct raft *leader)
{
    for (uint32_t i = 0; i < CHECKER_NODES_MAX; i++) {
        struct partition *partition =
            checker->nodes[i] ? node_find_partition(checker->nodes[i], number) : NULL;
        const struct raft *raft = partition ? partition_raft(partition) : NULL;
        for (int j = 0; raft && j < leader->config.replica_count; j++) {
            if ((leader->votes >> j & 1) && leader->config.replicas[j] == raft->config.self &&
                raft->term == leader->term && !checker->is_old[i] &&
                !has_vote(checker->nodes[i]->log, number, leader->term, leader->config.self)) {
                checker_fail(checker,
                             "the vote that n%u gave to %lu in term %lu of group %u was counted "
                             "before it was on disk",
                             i + 1, leader->config.self, leader->term, number);
            }
        }
    }
}

static void check_vote(struct checker *checker, uint32_t node, uint32_t number,
                       const struct raft *raft)
{
    const struct checker_vote *vote = vote_of(group_of(checker, number), raft->config.self);
    bool is_held =
        raft->vote == vote->vote || (vote->may_be_spent && raft->vote == raft->config.self);
    if (raft->term < vote->term || (raft->term == vote->term && !is_held)) {
        checker_fail(checker,
                     "n%u gave its vote of group %u in term %lu to %lu, and now holds one in term "
                     "%lu for %lu",
                     node + 1, number, vote->term, vote->vote, raft->term, raft->vote);
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
    note_votes(group, raft);
    check_votes(checker, number, raft);
    /* What was committed in later terms, be it an older entry, is no business of a leader of an
     * earlier one, who may hear of its votes only now. */
    for (uint64_t index = group->committed; index >= raft->log_start && index > 0; index--) {
        uint64_t term = entry_of(group, index)->term;
        if (term == 0 || entry_of(group, index)->committed_in > raft->term) {
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
        if (entry->term == 0) {
            checker->committed++;
            entry->committed_in = raft->term;
        }
        entry->term = term;
    }
    group->committed = raft->commit > group->committed ? raft->commit : group->committed;
}

/* Has this node's disk the entry? Of one that does not run only the index is known. */
static bool has_durable(const struct checker *checker, uint32_t node, uint32_t number,
                        uint64_t index, uint64_t term)
{
    if (checker->is_old[node] && checker->groups[number].kept[node].durable >= index) {
        return true; /* its promises outlive what the disk has lost */
    }
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

/* The process died between an image's swap into the store and the reset of the log, which its start
 * made up for: rightly, if the log held another entry at the image's index. What is known of that log
 * is the term of its last entry. A log that ends in the term of the image's last entry, or in one
 * whose leader had that entry committed before it, and is longer than the image, holds the entry. */
static bool is_replaced_by_image(const struct checker *checker, uint32_t node, uint32_t number,
                                 const struct raft *raft)
{
    const struct checker_group *group = &checker->groups[number];
    const struct checker_kept *kept = &group->kept[node];
    uint64_t index = store_replica_image_index(
        partition_store(node_find_partition(checker->nodes[node], number)));
    if (index == 0 || index >= group->count || kept->durable <= index ||
        raft->log_start != index + 1 || raft->last_index != index) {
        return false;
    }
    const struct checker_entry *entry = &group->entries[index];
    return kept->durable_term != entry->term && kept->durable_term < entry->committed_in;
}

/* C9: the first look at a replica after its process began. */
static void check_kept(struct checker *checker, uint32_t node, uint32_t number,
                       const struct raft *raft)
{
    const struct checker_kept *kept = &group_of(checker, number)->kept[node];
    if (checker->is_damaged[node] || checker->is_old[node]) {
        return;
    }
    if (raft->term < kept->led) {
        checker_fail(checker, "n%u led group %u in term %lu and begins again in term %lu", node + 1,
                     number, kept->led, raft->term);
    }
    bool is_short = kept->durable > raft->last_index ||
                    (kept->durable >= raft->log_start &&
                     raft_term_at(raft, kept->durable) != kept->durable_term);
    if (is_short && !is_replaced_by_image(checker, node, number, raft)) {
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

static bool is_unchanged(const struct checker_seen *seen, const struct raft *raft)
{
    return seen->term == raft->term && seen->commit == raft->commit &&
           seen->role == (int)raft->role && seen->durable == raft->durable_index;
}

static bool is_seen(const struct checker_seen *seen)
{
    return seen->term != 0 || seen->commit != 0 || seen->durable != 0;
}

/* What it held at last: an append that replaces entries makes no turn until it is durable, and the
 * log's job may end with the process. Replicas never looked at stay for the next start to judge. */
void checker_node_ended(struct checker *checker, uint32_t node)
{
    struct node *of = checker->is_old[node] ? NULL : checker->nodes[node];
    for (uint32_t i = 0; of && i < checker->group_count; i++) {
        struct partition *partition = node_find_partition(of, i);
        if (partition && is_seen(&checker->seen[node][i])) {
            keep(&checker->groups[i].kept[node], partition_raft(partition));
        }
    }
    checker->nodes[node] = NULL;
    checker->may_recall[node] = checker->is_old[node];
}

/* C1 to C4, C7 to C9 for one replica's core. */
static void check_raft(struct checker *checker, uint32_t node, uint32_t number,
                       const struct raft *raft)
{
    know_groups(checker, number + 1);
    struct checker_group *group = &checker->groups[number];
    struct checker_seen *seen = &checker->seen[node][number];
    if (is_unchanged(seen, raft)) {
        return;
    }
    if (!is_seen(seen)) {
        check_kept(checker, node, number, raft);
    }
    if (!checker->is_old[node]) {
        keep(&group->kept[node], raft);
        check_vote(checker, node, number, raft);
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
        checker_state_leader(checker, node, number, raft);
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

void checker_old_ended(struct checker *checker, uint32_t node)
{
    checker->is_old[node] = false;
    for (uint32_t i = 0; i < checker->group_count; i++) {
        struct partition *partition = node_find_partition(checker->nodes[node], i);
        struct checker_group *group = &checker->groups[i];
        if (!partition) {
            continue;
        }
        const struct raft *raft = partition_raft(partition);
        struct checker_vote *vote = vote_of(group, raft->config.self);
        if (raft->term < vote->term || raft->term < group->kept[node].led) {
            checker_fail(checker,
                         "n%u voted in term %lu and led in term %lu of group %u; now it is whole "
                         "again, and in term %lu",
                         node + 1, vote->term, group->kept[node].led, i, raft->term);
        }
        /* A vote whose receiver is forgotten is held as one that nobody got. In a later term that isn't seen: a crash may bring it
         * back, for the later one may not be on disk. */
        vote->may_be_spent = true;
        check_vote(checker, node, i, raft);
        if (raft->term == vote->term) {
            vote->vote = raft->vote;
            vote->may_be_spent = false;
        }
        keep(&group->kept[node], raft);
    }
}

/* C24 */
static void check_recall(struct checker *checker, uint32_t node, const struct node *of)
{
    if (of->counters.disks_older + of->counters.promises_recalled > 0 &&
        !checker->may_recall[node] && !checker->is_damaged[node]) {
        checker_fail(checker, "n%u says that its disk was put back, and it was not", node + 1);
    }
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

/* C11, for entries that became durable in this step, or all when the process has just begun. Those
 * that an image brought are in the store, and perhaps in no log. */
static void check_disk(struct checker *checker, uint32_t node, uint32_t number,
                       const struct raft *raft, const struct log *log, uint64_t image_index)
{
    const struct checker_seen *seen = &checker->seen[node][number];
    const struct log_index *index = &log_group_find(log, number)->index;
    uint64_t from = raft->durable_index < seen->durable ? raft->durable_index : seen->durable + 1;
    if (checker->is_damaged[node]) {
        return;
    }
    from = from > image_index ? from : image_index + 1;
    for (uint64_t i = from > index->log_start ? from : index->log_start;
         i <= raft->durable_index && i <= index->last_index; i++) {
        const struct log_slot *slot = log_index_at(index, i);
        uint64_t first = slot->at / LOG_RECORD_CONTENT,
                 end = (slot->at + slot->size + LOG_RECORD_CONTENT - 1) / LOG_RECORD_CONTENT;
        bool is_held =
            slot->segment != 0 &&
            (slot->size == 0 /* no sector is its own */ ||
             disk_file_is_durable(log_segment_find(log, slot->segment)->file,
                                  first * LOG_RECORD_SECTOR, (end - first) * LOG_RECORD_SECTOR)) &&
            (!slot->blob || hash_crc32c(0, slot->blob->data, slot->blob->size) == slot->crc);
        if (!is_held) {
            checker_fail(checker,
                         "n%u holds group %u index %lu for durable, and its disk does not (segment "
                         "%x, sectors %lu to %lu)",
                         node + 1, number, i, slot->segment, first, end - 1);
            return;
        }
    }
}

/* C11: the core must not know better than the log. */
static void check_told(struct checker *checker, uint32_t node, uint32_t number,
                       const struct raft *raft, const struct log *log, uint64_t image_index)
{
    const struct log_group *group = log_group_find(log, number);
    if (raft->durable_index > group->durable_index && raft->durable_index > image_index) {
        checker_fail(checker, "n%u holds group %u for durable to %lu, its log only to %lu",
                     node + 1, number, raft->durable_index, group->durable_index);
    }
}

static bool is_deaf(const struct raft *raft, uint64_t now_us)
{
    int heard = 1;
    for (int i = 0; i < raft->config.replica_count; i++) {
        const struct raft_progress *peer = &raft->progress[i];
        heard += peer->id != raft->config.self &&
                 now_us / 1000 < peer->heard_ms + 2ull * raft->config.election_timeout_ms;
    }
    return heard <= raft->config.replica_count / 2;
}

/* C14. A process that wakes from a pause has not swept yet. */
static void check_queues(struct checker *checker, uint32_t node, const struct node *of,
                         uint64_t now_us)
{
    for (size_t i = 0; i < of->link_count; i++) {
        size_t waiting = of->links[i].conn ? conn_out_bytes(of->links[i].conn) : 0;
        if (waiting > LIMIT_CONN_OUT_BYTES + LIMIT_FRAME_BYTES) {
            checker_fail(checker, "n%u has %zu bytes waiting for %s", node + 1, waiting,
                         of->links[i].name);
        }
    }
    LIST_FOR(at, &of->requests)
    {
        const struct request *request = container_of(at, struct request, link);
        if (now_us > request->deadline_us + LATE_MAX_US) {
            checker_fail(checker,
                         "n%u has a request of verb %u unanswered %lu ms past its deadline",
                         node + 1, request->verb, (now_us - request->deadline_us) / 1000);
            return;
        }
    }
    if (of->store) {
        uint64_t overlay = store_unflushed_bytes(of->store);
        if (overlay > of->config.overlay_bytes + OVERLAY_SLACK_BYTES) {
            checker_fail(checker, "n%u holds %lu bytes in its overlay, its limit is %lu", node + 1,
                         overlay, of->config.overlay_bytes);
        }
    }
}

void checker_look(struct checker *checker, uint32_t node, uint64_t now_us)
{
    struct node *of = checker->nodes[node];
    if (of) {
        check_queues(checker, node, of, now_us);
        check_recall(checker, node, of);
    }
    for (size_t i = 0; of && i < of->partition_count; i++) {
        const struct raft *raft = of->partitions[i] ? partition_raft(of->partitions[i]) : NULL;
        struct checker_seen *seen = &checker->seen[node][i];
        if (!raft || raft->role != RAFT_LEADER || !is_deaf(raft, now_us)) {
            seen->deaf_since_us = 0;
        } else if (seen->deaf_since_us == 0) {
            seen->deaf_since_us = now_us;
        } else if (now_us - seen->deaf_since_us > DEAF_MAX_US) {
            checker_fail(checker, "n%u leads group %zu and has heard no majority for long",
                         node + 1, i);
        }
    }
}

/* C10, the log's part of C11 and what else is looked at now and then, of the groups whose turn it
 * is. */
static void check_in_turn(struct checker *checker, uint32_t node, const struct node *of)
{
    for (size_t i = checker->steps % BOUNDS_EVERY; i < of->partition_count; i += BOUNDS_EVERY) {
        if (of->partitions[i]) {
            const struct raft *raft = partition_raft(of->partitions[i]);
            check_bounds(checker, node, (uint32_t)i, raft);
            check_told(checker, node, (uint32_t)i, raft, of->log,
                       store_replica_image_index(partition_store(of->partitions[i])));
            checker_state_look(checker, node, (uint32_t)i, of->partitions[i]);
        }
    }
}

static void check_replica(struct checker *checker, uint32_t node, uint32_t number,
                          const struct node *of)
{
    struct partition *partition = of->partitions[number];
    const struct raft *raft = partition_raft(partition);
    const struct checker_seen *seen = &checker->seen[node][number];
    if (!is_unchanged(seen, raft)) {
        if (raft->durable_index != seen->durable) {
            check_disk(checker, node, number, raft, of->log,
                       store_replica_image_index(partition_store(partition)));
        }
        check_raft(checker, node, number, raft);
    }
    if (raft->role == RAFT_LEADER) {
        checker_state_step(checker, node, number, partition);
    }
}

void checker_step(struct checker *checker, uint32_t node, struct node *of)
{
    checker->nodes[node] = of;
    checker->steps++;
    know_groups(checker, (uint32_t)of->partition_count);
    bool is_sweep = checker->steps % SWEEP_EVERY == 0 ||
                    checker->opened[node] != of->partition_count; /* C9: as it begins */
    uint64_t left = is_sweep ? UINT64_MAX : checker->touched[node];
    checker->opened[node] = of->partition_count;
    checker->touched[node] = 0;
    checker_state_node(checker, node, left);
    while (left != 0 && (size_t)__builtin_ctzll(left) < of->partition_count) {
        uint32_t number = (uint32_t)__builtin_ctzll(left);
        left &= left - 1;
        if (of->partitions[number]) {
            check_replica(checker, node, number, of);
        }
    }
    check_in_turn(checker, node, of);
}

/* C5, C6 */
void checker_applied(struct checker *checker, uint32_t node, uint32_t number, uint64_t index,
                     uint64_t term, struct span payload)
{
    struct checker_group *group = group_of(checker, number);
    struct checker_entry *entry = entry_of(group, index);
    struct checker_seen *seen = &checker->seen[node][number];
    uint64_t hash = hash_bytes(payload.data, payload.size) | 1;
    struct partition *partition =
        checker->nodes[node] ? node_find_partition(checker->nodes[node], number) : NULL;
    if (partition && partition_is_installing(partition)) { /* C18 */
        checker_fail(checker, "n%u applies group %u index %lu while it installs an image", node + 1,
                     number, index);
    }
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

/* C3: an image holds committed entries only. What is applied next is the entry behind it. */
void checker_image(struct checker *checker, uint32_t node, uint32_t number, uint64_t index,
                   uint64_t term)
{
    struct checker_group *group = group_of(checker, number);
    struct checker_entry *entry = entry_of(group, index);
    if (index > group->committed || (entry->term != 0 && entry->term != term)) {
        checker_fail(checker,
                     "n%u installs an image of group %u index %lu term %lu, committed are %lu "
                     "entries, there of term %lu",
                     node + 1, number, index, term, group->committed, entry->term);
    }
    checker->seen[node][number].applied = index;
    checker->images++;
}
