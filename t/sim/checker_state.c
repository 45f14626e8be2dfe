/* The checkers of what lies between the parts: see checker_state.h. */
#include "sim/checker_state.h"

#include "base/hash.h"
#include "node/node_private.h"
#include "raft/log_private.h"

enum {
    TAIL_MAX = 32, /* entries behind the commit index that C21 looks at */
    /* Clocks may run so much faster or slower than true time (decisions/006). */
    DRIFT_PERCENT = 10,
    SLACK_MS = 3, /* times are cut to whole ms */
};

static uint64_t now_ms_of(const struct node *node)
{
    return env_now_us(node->env) / 1000;
}

/* The replica with this id, where it runs; *node is its node's. */
static const struct raft *find_replica(const struct checker *checker, uint32_t number, uint64_t id,
                                       uint32_t *node)
{
    for (uint32_t i = 0; i < CHECKER_NODES_MAX; i++) {
        struct partition *partition =
            checker->nodes[i] ? node_find_partition(checker->nodes[i], number) : NULL;
        if (partition && partition_raft(partition)->config.self == id) {
            *node = i;
            return partition_raft(partition);
        }
    }
    return NULL;
}

/* --- Leases */

static uint64_t lease_ms(const struct raft *raft)
{
    return (uint64_t)raft->config.election_timeout_ms * LEASE_PERCENT / 100;
}

/* C15. Rates are taken for the worst: the leader's clock slow, the follower's fast. */
static void check_promises(struct checker *checker, uint32_t node, uint32_t number,
                           const struct raft *leader)
{
    uint64_t now_ms = now_ms_of(checker->nodes[node]);
    for (int i = 0; i < leader->config.replica_count; i++) {
        uint64_t until_ms = leader->lease.peers[i].followed_ms + lease_ms(leader);
        uint32_t of = 0;
        if (leader->config.replicas[i] == leader->config.self || until_ms <= now_ms) {
            continue;
        }
        const struct raft *peer = find_replica(checker, number, leader->config.replicas[i], &of);
        if (!peer) {
            continue; /* when it starts again it acts as if it had just promised */
        }
        uint64_t peer_ms = now_ms_of(checker->nodes[of]);
        uint64_t promised_ms =
            peer->lease.promise_until_ms > peer_ms ? peer->lease.promise_until_ms - peer_ms : 0;
        if ((promised_ms + SLACK_MS) * (100 - DRIFT_PERCENT) <
            (until_ms - now_ms) * (100 + DRIFT_PERCENT)) {
            checker_fail(checker,
                         "n%u counts on n%u for a lease of group %u for %lu ms more, which has "
                         "promised %lu ms",
                         node + 1, of + 1, number, until_ms - now_ms, promised_ms);
        }
    }
}

/* C16 */
static void check_lease(struct checker *checker, uint32_t node, uint32_t number,
                        const struct raft *raft, uint64_t led)
{
    if (raft->role == RAFT_LEADER && raft->term < led &&
        raft_lease(raft, now_ms_of(checker->nodes[node])) == 0) {
        checker_fail(checker,
                     "n%u holds a lease of group %u in term %lu, and another one leads in term %lu",
                     node + 1, number, raft->term, led);
    }
}

void checker_state_leader(struct checker *checker, uint32_t node, uint32_t number,
                          const struct raft *leader)
{
    struct checker_group *group = &checker->groups[number];
    if (leader->term <= group->led) {
        return;
    }
    group->led = leader->term;
    for (uint32_t i = 0; i < CHECKER_NODES_MAX; i++) {
        struct partition *partition =
            checker->nodes[i] ? node_find_partition(checker->nodes[i], number) : NULL;
        if (partition && i != node) {
            check_lease(checker, i, number, partition_raft(partition), group->led);
        }
    }
}

/* --- Proposals and reads */

/* C17 */
static void check_proposals(struct checker *checker, uint32_t node, uint32_t number,
                            const struct partition *partition, const struct raft *raft)
{
    if (raft->last_index > raft->noop_index && partition_applied(partition) < raft->noop_index &&
        !checker->is_damaged[node]) {
        checker_fail(
            checker, "n%u proposes in group %u (to %lu), and has applied %lu: its no-op is %lu",
            node + 1, number, raft->last_index, partition_applied(partition), raft->noop_index);
    }
}

static bool is_round_sent(const struct raft *raft)
{
    for (int i = 0; i < raft->config.replica_count; i++) {
        if (raft->progress[i].read_sent >= raft->read_sequence) {
            return raft->read_confirmed < raft->read_sequence;
        }
    }
    return false;
}

/* C19: reads came in this step, the round was sent before it and no other has begun. */
static void check_reads(struct checker *checker, uint32_t node, uint32_t number,
                        const struct partition *partition, const struct raft *raft)
{
    struct checker_round *round = &checker->seen[node][number].round;
    uint64_t reads = partition_stats(partition)->reads;
    if (reads == round->reads && raft->read_sequence == round->sequence && !round->is_open) {
        return;
    }
    if (reads != round->reads && round->is_sent && round->term == raft->term &&
        round->sequence == raft->read_sequence && raft->commit >= raft->noop_index &&
        !raft->needs_image) {
        checker_fail(checker, "n%u: a read of group %u joins round %lu, which was sent before",
                     node + 1, number, raft->read_sequence);
    }
    *round = (struct checker_round){ .term = raft->term,
                                     .reads = reads,
                                     .sequence = raft->read_sequence,
                                     .is_sent = is_round_sent(raft) };
    round->is_open = !round->is_sent && raft->read_confirmed < raft->read_sequence;
}

void checker_state_step(struct checker *checker, uint32_t node, uint32_t number,
                        const struct partition *partition)
{
    const struct raft *raft = partition_raft(partition);
    check_proposals(checker, node, number, partition, raft);
    check_reads(checker, node, number, partition, raft);
    check_lease(checker, node, number, raft, checker->groups[number].led);
}

/* --- The log */

/* C21 */
static void check_tail(struct checker *checker, uint32_t node, uint32_t number,
                       const struct partition *partition, const struct log *log)
{
    const struct log_index *index = &log_group_find(log, number)->index;
    uint64_t from = partition_raft(partition)->commit + 1;
    from = from < index->log_start ? index->log_start : from;
    for (uint64_t i = from; i <= index->last_index && i < from + TAIL_MAX; i++) {
        const struct log_slot *slot = log_index_at(index, i);
        if (slot->segment != 0 && slot->blob && !slot->is_hole &&
            hash_crc32c(0, slot->blob->data, slot->blob->size) != slot->crc) {
            checker_fail(checker, "n%u: where the log holds group %u index %lu another entry lies",
                         node + 1, number, i);
            return;
        }
    }
}

void checker_state_node(struct checker *checker, uint32_t node, uint64_t groups)
{
    const struct node *of = checker->nodes[node];
    const struct log *log = of->log;
    if (!log || checker->batches[node] == log->stats.batches || checker->is_damaged[node]) {
        return;
    }
    checker->batches[node] = log->stats.batches;
    if (log->chain_count > 0 && log->chain[0]->number > log->first_segment) { /* C20 */
        checker_fail(checker, "n%u gave segment %lx up, and its log on disk begins with %lx",
                     node + 1, log->chain[0]->number - 1ul, log->first_segment);
    }
    for (uint64_t left = groups; left != 0; left &= left - 1) {
        uint32_t i = (uint32_t)__builtin_ctzll(left);
        const struct partition *partition = i < of->partition_count ? of->partitions[i] : NULL;
        const struct raft *raft = partition ? partition_raft(partition) : NULL;
        if (raft && raft->last_index > raft->commit) {
            check_tail(checker, node, i, partition, log);
        }
    }
}

static uint32_t count_places(const struct log_group *group, uint32_t segment)
{
    uint32_t count = 0;
    for (uint64_t i = group->index.log_start; i <= group->index.last_index; i++) {
        count += log_index_at(&group->index, i)->segment == segment;
    }
    return count;
}

void checker_state_end(struct checker *checker, uint32_t node)
{
    const struct log *log = checker->nodes[node]->log;
    for (size_t i = 0; i < log->chain_count; i++) { /* C26 */
        uint32_t count = 0;
        for (size_t j = 0; j < log->group_count; j++) {
            count += count_places(log->groups[j], log->chain[i]->number);
        }
        if (count != log->chain[i]->live_count) {
            checker_fail(checker, "n%u: segment %x of the log holds %u entries, %u count as live",
                         node + 1, log->chain[i]->number, count, log->chain[i]->live_count);
        }
    }
}

/* --- Followers */

/* C22 */
static void check_match(struct checker *checker, uint32_t node, uint32_t number,
                        const struct raft *leader)
{
    for (int i = 0; i < leader->config.replica_count; i++) {
        uint64_t match = leader->progress[i].match;
        uint32_t of = 0;
        const struct raft *peer = find_replica(checker, number, leader->config.replicas[i], &of);
        if (!peer || peer == leader || peer->term != leader->term || peer->is_suspect ||
            peer->needs_image || checker->is_damaged[of] || checker->is_old[of]) {
            continue;
        }
        if (match > peer->last_index ||
            (match >= peer->log_start && match >= leader->log_start &&
             raft_term_at(peer, match) != raft_term_at(leader, match))) {
            checker_fail(checker,
                         "n%u takes n%u to hold index %lu of group %u; it ends at %lu, and has "
                         "another one there",
                         node + 1, of + 1, match, number, peer->last_index);
        }
        if (leader->progress[i].flushed > peer->flushed && !checker->was_old[of]) {
            checker_fail(checker,
                         "n%u takes n%u to have flushed group %u to index %lu; it has to %lu",
                         node + 1, of + 1, number, leader->progress[i].flushed, peer->flushed);
        }
    }
}

/* C25 */
static void check_compared(struct checker *checker, uint32_t node, uint32_t number,
                           const struct raft *raft)
{
    bool is_any_damaged = false;
    for (uint32_t i = 0; raft->digests_differed > 0 && i < CHECKER_NODES_MAX; i++) {
        is_any_damaged = is_any_damaged || checker->is_damaged[i];
    }
    if (raft->digests_differed > 0 && !is_any_damaged) {
        checker_fail(checker, "n%u finds that replicas of group %u differ, and all disks are sound",
                     node + 1, number);
    }
}

void checker_state_look(struct checker *checker, uint32_t node, uint32_t number,
                        const struct partition *partition)
{
    const struct raft *raft = partition_raft(partition);
    if (raft->role == RAFT_LEADER) {
        check_promises(checker, node, number, raft);
        check_match(checker, node, number, raft);
    }
    check_compared(checker, node, number, raft);
    if (raft->is_suspect && !checker->is_damaged[node] && !checker->is_old[node]) { /* C23 */
        checker_fail(checker, "n%u suspects its replica of group %u, and its disk is sound",
                     node + 1, number);
    }
}
