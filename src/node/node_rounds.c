/* Read rounds: one question to a peer confirms the reads of all groups that wait (docs/ARCHITECTURE.md, the way of a get).
 *
 * What a question may stand for, of each group whose reads wait:
 *   led here     the peer's replica confirms: by a message of its own, or it only rides on the question, if it has confirmed
 *                before: the answer's count of changes says whether that still holds (raft.c, I18)
 *   led there    the follower here asks for the commit index (raft.c, I22)
 *
 * Peers that are asked at the same time end their rounds together: gets that came in one frame, of groups led here and there, can leave
 * in one then. Who answers late is not waited for any more, until it has answered in time again. */
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
static bool round_is_in_flight(const struct link *link, uint64_t now_us)
{
    return link->peer.conn && !peer_round_is_free(&link->peer) &&
           now_us - link->round_asked_us < READ_ROUND_PATIENCE_US;
}

/* --- Ends */

static void settle_rides(struct node *node, struct link *link)
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

/* Whoever asked and was told nothing was refused. */
static void settle_asks(struct node *node, struct link *link)
{
    size_t tell_count = link->tell_count, ask_count = link->ask_count;
    link->tell_count = link->ask_count = 0;
    for (size_t i = 0; i < tell_count; i++) {
        struct partition *partition = node_find_partition(node, link->tells[i].group);
        if (partition) {
            partition_follow_answered(partition, link->node_id, link->tells[i].commit);
            node_observe_turn(node, partition);
        }
    }
    for (size_t i = 0; i < ask_count; i++) {
        partition_follow_answered(node->partitions[link->asks[i]], link->node_id, 0);
    }
}

static void settle_answered(struct node *node)
{
    env_timer_stop(node->env, &node->rounds_hold);
    for (size_t i = 0; i < node->link_count; i++) {
        struct link *link = &node->links[i];
        if (link->is_answered) {
            link->is_answered = false;
            settle_rides(node, link);
            settle_asks(node, link);
        }
    }
}

void node_rounds_told(void *ctx, uint32_t group, uint64_t commit)
{
    struct link *link = ctx;
    if (link->tell_count < link->node->partition_count) { /* no sound peer tells more */
        link->tells[link->tell_count++] = (struct link_tell){ group, commit };
    }
}

void node_rounds_end(struct node *node, struct link *link)
{
    uint64_t now_us = env_now_us(node->env);
    link->is_answered = true;
    link->is_late = now_us - link->round_asked_us >= READ_ROUND_PATIENCE_US;
    for (size_t i = 0; i < node->link_count; i++) {
        if (!node->links[i].is_late && round_is_in_flight(&node->links[i], now_us)) {
            if (node->rounds_hold.due_us == 0) {
                env_timer_start(node->env, &node->rounds_hold, READ_ROUND_PATIENCE_US);
            }
            return;
        }
    }
    settle_answered(node);
}

static void stop_waiting(struct env_timer *timer)
{
    struct node *node = container_of(timer, struct node, rounds_hold);
    for (size_t i = 0; i < node->link_count; i++) {
        struct link *link = &node->links[i];
        link->is_late = link->is_late || (link->peer.conn && !peer_round_is_free(&link->peer));
    }
    settle_answered(node);
    node_wake(node);
}

void node_rounds_lost(struct node *node, struct link *link)
{
    link->is_answered = link->is_late = false;
    link->ride_count = link->tell_count = 0;
    settle_asks(node, link);
}

void node_rounds_arm(struct node *node)
{
    node->rounds_hold.fire = stop_waiting;
}

void node_rounds_stop(struct node *node)
{
    env_timer_stop(node->env, &node->rounds_hold);
}

/* --- Questions */

/* Those whose reads are confirmed meanwhile, or are not to be confirmed here any more. */
static void forget_wanted(struct node *node)
{
    size_t kept = 0;
    for (size_t i = 0; i < node->wanted_count; i++) {
        uint32_t group = node->wanted[i];
        struct partition *partition = node->partitions[group];
        const struct raft *raft = partition_raft(partition);
        bool is_unconfirmed =
            raft->role == RAFT_LEADER && raft->read_confirmed < raft->read_sequence;
        if (is_unconfirmed || partition_wants_follow(partition)) {
            node->wanted[kept++] = group;
        } else {
            node->reads_wanted[group] = false;
        }
    }
    node->wanted_count = kept;
}

static void gather_ask(struct link *link, struct partition *partition)
{
    uint64_t replica, term;
    if (partition_follow_ask(partition, link->node_id, &replica, &term)) {
        link->asks[link->ask_count++] = partition_group(partition);
        peer_ask(&link->peer, partition_group(partition), replica, term);
    }
}

/* True: there is something to ask. */
static bool gather_round(struct node *node, struct link *link)
{
    size_t before = link->peer.message_count;
    link->ride_count = link->ask_count = link->tell_count = 0;
    link->ride_changes = link->peer.changes;
    for (size_t i = 0; i < node->wanted_count; i++) {
        struct partition *partition = node->partitions[node->wanted[i]];
        struct partition_ride *ride = &link->rides[link->ride_count];
        if (partition_wants_follow(partition)) {
            gather_ask(link, partition);
        } else if (partition_read_ride(partition, link->node_id, link->ride_changes, ride)) {
            link->ride_count++;
        } else {
            partition_read_round(partition, link->node_id);
        }
    }
    return link->peer.message_count > before || link->ride_count + link->ask_count > 0;
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
        if (round_is_in_flight(&node->links[i], now_us)) {
            return;
        }
    }
    settle_answered(node);
    forget_wanted(node);
    for (size_t i = 0; i < node->link_count; i++) {
        struct link *link = &node->links[(node->next_asked + i) % node->link_count];
        if (link->peer.conn && now_us - link->round_asked_us >= READ_ROUND_LOST_US) {
            peer_round_give_up(&link->peer);
            node_rounds_lost(node, link);
        }
        if (peer_round_is_free(&link->peer) && gather_round(node, link)) {
            peer_round_open(&link->peer);
            link->round_asked_us = now_us;
            node->counters.read_rounds++;
        }
    }
    node->next_asked++;
}
