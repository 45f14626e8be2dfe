/* Read rounds: one question to a peer confirms the reads of all groups that wait (docs/ARCHITECTURE.md, the way of a get).
 * Groups whose peer has confirmed before only ride on it: the answer's count of changes says whether that still holds (raft.c,
 * I18). */
#include "node/node_private.h"

void node_rounds_want(void *ctx, struct partition *partition)
{
    struct node *node = ctx;
    uint32_t group = partition_group(partition);
    if (!node->reads_wanted[group]) {
        node->reads_wanted[group] = true;
        node->wanted[node->wanted_count++] = group;
    }
    if (!node->is_in_turn) { /* its end asks */
        node_wake(node);
    }
}

/* Whether a round is on its way that is not overdue yet. */
static bool round_is_in_flight(const struct node *node, const struct link *link, uint64_t now_us)
{
    return link->peer.conn && !peer_round_is_free(&link->peer) &&
           now_us - link->round_asked_us < READ_ROUND_PATIENCE_US;
}

/* Those whose reads are confirmed meanwhile, or are not to be confirmed here any more. */
static void forget_wanted(struct node *node)
{
    size_t kept = 0;
    for (size_t i = 0; i < node->wanted_count; i++) {
        uint32_t group = node->wanted[i];
        struct partition *partition = node->partitions[group];
        const struct raft *raft = partition_raft(partition);
        if (raft->role == RAFT_LEADER && raft->read_confirmed < raft->read_sequence) {
            node->wanted[kept++] = group;
        } else {
            node->reads_wanted[group] = false;
        }
    }
    node->wanted_count = kept;
}

/* Groups that ride need no message of their own. */
static void gather_round(struct node *node, struct link *link)
{
    link->ride_count = 0;
    link->ride_changes = link->peer.changes;
    for (size_t i = 0; i < node->wanted_count; i++) {
        struct partition *partition = node->partitions[node->wanted[i]];
        struct partition_ride *ride = &link->rides[link->ride_count];
        if (partition_read_ride(partition, link->node_id, link->ride_changes, ride)) {
            link->ride_count++;
        } else {
            partition_read_round(partition, link->node_id);
        }
    }
}

/* Asks a read round for the groups whose reads wait: each group asks only as many peers as make a
 * majority, and the peers take turns. While a round is in flight nothing new is asked: what arrives
 * meanwhile shares the next one. A peer that is slow to answer holds up nobody for long: after a
 * while the others are asked. */
void node_rounds_ask(struct node *node)
{
    if (node->wanted_count == 0) {
        return;
    }
    uint64_t now_us = env_now_us(node->env);
    for (size_t i = 0; i < node->link_count; i++) {
        if (round_is_in_flight(node, &node->links[i], now_us)) {
            return;
        }
    }
    forget_wanted(node);
    for (size_t i = 0; i < node->link_count; i++) {
        struct link *link = &node->links[(node->next_asked + i) % node->link_count];
        if (link->peer.conn && now_us - link->round_asked_us >= READ_ROUND_LOST_US) {
            peer_round_give_up(&link->peer);
        }
        if (!peer_round_is_free(&link->peer)) {
            continue;
        }
        size_t before = link->peer.message_count;
        gather_round(node, link);
        if (link->peer.message_count > before || link->ride_count > 0) {
            peer_round_open(&link->peer);
            link->round_asked_us = now_us;
            node->counters.read_rounds++;
        }
    }
    node->next_asked++;
}

/* The answer to a round: the replicas there still confirm what they confirmed, unless that node has
 * counted a change. */
void node_rounds_end(struct node *node, struct link *link)
{
    bool is_confirmed = link->peer.changes == link->ride_changes;
    size_t count = link->ride_count;
    link->ride_count = 0;
    for (size_t i = 0; i < count; i++) {
        struct partition *partition = node->partitions[link->rides[i].group];
        partition_read_ridden(partition, &link->rides[i], is_confirmed);
        node_observe_turn(node, partition);
    }
}
