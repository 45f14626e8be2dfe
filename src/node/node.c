/* The node: see node.h. It is several files: node_open.c opens and frees it, node_events.c hears log, store and partitions,
 * node_rounds.c confirms reads, node_flush.c flushes and bounds the log, node_topology.c knows the cluster, node_state.c answers
 * questions; membership.c forms the cluster and holds its links, request.c and verb_*.c serve what is asked over them.
 *
 * This file owns the turn: events mark partitions as awake and reads as waiting; at the end of the turn each awake partition
 * proposes, sends, applies and answers, read rounds are asked, and one frame leaves per peer; but see send_frames. And the tick,
 * which does what no event asks for. Also here: how a node ends, and what its links carry. */
#include "base/check.h"
#include "node/node_private.h"

enum {
    STOP_TIMEOUT_US = 3 * 1000 * 1000,
    /* See send_frames. */
    HOLD_RECORDS = 8,
    HOLD_US = 300,
    HOLD_LATENCY_US = 1000,
    /* See look_ahead: what the cache has room for. */
    AHEAD_TURNS = 6,
    AHEAD_ENTRIES = 8,
    /* Logs are measured so often at least: while one of them counts as slow; while a verdict is being formed. */
    PROBE_US = 500 * 1000,
    PROBE_SOON_US = 150 * 1000,
};

/* --- Failure and stopping */

static void node_stopped(struct node *node, int status, const char *text)
{
    if (node->is_stopped) {
        return;
    }
    node->is_stopped = true;
    env_timer_stop(node->env, &node->tick);
    node_rounds_stop(node);
    if (node->config.on_stopped) {
        node->config.on_stopped(node->config.ctx, status, text);
    }
}

void node_fail(struct node *node, const struct err *err)
{
    if (!node->has_failed) {
        node->has_failed = true;
        LOG_ERROR(node->logger, "stopping: %s (%s)", err->text, err_info(err->code)->name);
        node_stopped(node, err->code, err->text);
    }
}

static bool leads_anything(const struct node *node)
{
    for (size_t i = 0; i < node->partition_count; i++) {
        if (node->partitions[i] && partition_is_primary(node->partitions[i]) &&
            partition_topology(node->partitions[i])->replica_count > 1) {
            return true;
        }
    }
    return false;
}

/* Called from the tick while stopping: hand over, then wait for the log. */
static void continue_stop(struct node *node)
{
    bool is_late = env_now_us(node->env) > node->stop_deadline_us;
    if (node->log && !is_late && leads_anything(node)) {
        for (size_t i = 0; i < node->partition_count; i++) {
            if (node->partitions[i] && partition_is_primary(node->partitions[i])) {
                partition_resign(node->partitions[i]);
            }
        }
        return;
    }
    if (node->log && !is_late && (log_is_busy(node->log) || !list_is_empty(&node->requests))) {
        return;
    }
    LOG_INFO(node->logger, "stopped");
    node_stopped(node, 0, "stopped");
}

void node_stop(struct node *node)
{
    if (!node->is_stopping) {
        LOG_INFO(node->logger, "stopping: handing primaries over");
        node->is_stopping = true;
        node->stop_deadline_us = env_now_us(node->env) + STOP_TIMEOUT_US;
    }
}

/* --- Links */

void node_link_up(struct node *node, struct link *link)
{
    if (!node->log) {
        return;
    }
    peer_up(&link->peer, link->conn);
    node_rounds_lost(node, link);
    link->last_error_us = 0;
    LOG_INFO(node->logger, "peer=%s up", link->name);
    for (size_t i = 0; i < node->partition_count; i++) {
        if (node->partitions[i]) {
            partition_peer_reset(node->partitions[i], link->node_id);
        }
        if (node->partitions[i] && link->has_restarted) {
            partition_peer_restarted(node->partitions[i], link->node_id);
        }
    }
    link->has_restarted = false;
    node_wake(node);
}

void node_link_down(struct node *node, struct link *link)
{
    peer_down(&link->peer);
    node_rounds_lost(node, link);
    request_link_lost(link);
    if (node->images) {
        images_link_lost(node->images, link);
    }
    for (size_t i = 0; i < node->partition_count; i++) {
        if (node->partitions[i]) {
            partition_peer_reset(node->partitions[i], link->node_id);
        }
    }
    node_wake(node);
}

/* What a group says or hears so leaves no work behind, so it needs no turn. */
static void on_raft_beat(void *ctx, const struct peer_beat *beat, uint64_t stamp)
{
    struct link *link = ctx;
    struct node *node = link->node;
    struct partition *partition = node_find_partition(node, beat->group);
    node->counters.raft_beats_received++;
    if (!partition || recall_is_asleep(node->recall)) {
        return;
    }
    struct raft_beat heard = { .term = beat->term, .stamp = stamp, .echo = beat->echo };
    if (beat->kind == PEER_BEAT) {
        bool is_followed = partition_beat(partition, link->node_id, &heard);
        struct peer_beat answer = { .group = beat->group,
                                    .kind = is_followed ? PEER_BEAT_FOLLOWED : PEER_BEAT_REFUSED,
                                    .term = beat->term,
                                    .echo = stamp };
        peer_beat(&link->peer, &answer, node->now_ms);
    } else {
        partition_beat_answered(partition, link->node_id, &heard, beat->kind == PEER_BEAT_FOLLOWED);
    }
    node_observe_turn(node, partition);
}

static void on_raft_message(void *ctx, const struct peer_message *message)
{
    struct node *node = ((struct link *)ctx)->node;
    struct partition *partition = node_find_partition(node, message->message.group);
    node->counters.raft_messages_received++;
    if (!partition || recall_is_asleep(node->recall)) {
        return;
    }
    partition_message(partition, &message->message, message->entries, message->payloads);
    if (message->message.type == RAFT_READ || message->message.type == RAFT_READ_REPLY) {
        node_observe_turn(node, partition);
    }
}

static void on_raft_ahead_of_beat(void *ctx, uint32_t group)
{
    struct partition *partition = node_find_partition(((struct link *)ctx)->node, group);
    if (partition) {
        partition_prefetch_beat(partition);
    }
}

static void on_raft_ahead(void *ctx, uint32_t group)
{
    struct partition *partition = node_find_partition(((struct link *)ctx)->node, group);
    if (partition) {
        partition_prefetch(partition);
    }
}

/* A follower there reads, and asks how far its leader here has committed. */
static void on_raft_asked(void *ctx, uint32_t group, uint64_t replica, uint64_t term)
{
    struct link *link = ctx;
    struct partition *partition = node_find_partition(link->node, group);
    uint64_t commit = partition ? partition_grant(partition, replica, term) : 0;
    peer_tell(&link->peer, group, commit);
}

static const struct peer_events raft_events = { .beat = on_raft_beat,
                                                .ahead_of_beat = on_raft_ahead_of_beat,
                                                .message = on_raft_message,
                                                .ahead = on_raft_ahead,
                                                .asked = on_raft_asked,
                                                .told = node_rounds_told };

void node_raft_frame(struct node *node, struct link *link, const struct frame *frame)
{
    bool round_answered;
    node->now_ms = env_now_us(node->env) / 1000;
    int status = peer_receive(&link->peer, frame->payload, &raft_events, link, &round_answered);
    if (status != 0 && status != ERR_NO_MEMORY) { /* without memory it counts as lost */
        LOG_WARN(node->logger, "peer=%s sent a malformed Raft frame", link->name);
        node->counters.frames_refused++;
        conn_close(link->conn);
        return;
    }
    if (round_answered) {
        node_rounds_end(node, link);
    }
    node_wake(node);
}

/* --- The turn */

/* Fetches what the next turns will touch, for several of them side by side. */
static void look_ahead(struct partition *const *awake, size_t count)
{
    const struct partition *applying[AHEAD_TURNS];
    struct store_ahead items[AHEAD_ENTRIES];
    size_t kept = 0, found = 0;
    for (size_t i = 0; i < count; i++) {
        if (partition_prefetch_turn(awake[i])) {
            applying[kept++] = awake[i];
        }
    }
    for (size_t i = 0; i < kept; i++) {
        found += partition_look_ahead(applying[i], items + found, AHEAD_ENTRIES - found);
    }
    if (found > 1) { /* one alone would only wait here instead */
        store_ahead(items, found);
    }
}

static void run_awake(struct node *node)
{
    /* A partition may wake again while its turn runs; it then runs in the next turn. */
    size_t count = node->awake_count;
    for (size_t i = 0; i < count; i++) {
        if (i % AHEAD_TURNS == 0 && count > 1) {
            look_ahead(&node->awake[i], count - i < AHEAD_TURNS ? count - i : AHEAD_TURNS);
        }
        node_observe_turn(node, node->awake[i]);
        partition_turn(node->awake[i]);
        if (node->is_stopped) {
            return;
        }
    }
    node->awake_count -= count;
    memmove(node->awake, node->awake + count, node->awake_count * sizeof *node->awake);
}

/* One frame per peer. While the own log writes a batch of many records, entries wait for its end: they
 * can't be in a batch here before, and gathered they cost each node a frame, a turn and a sync for
 * many turns of this one. Not so under little load, nor for longer than a sync takes on a sound disk:
 * then the others' disks are quicker than this one, and a majority of them suffices. Nor at all where
 * the disk is known to be slow: if no other event comes, only the next tick ends the wait. */
static void send_frames(struct node *node, uint64_t now_us)
{
    uint64_t held_us = node->held_us ? node->held_us : now_us;
    bool may_hold =
        node->may_hold && log_in_flight(node->log) >= HOLD_RECORDS && now_us - held_us < HOLD_US;
    node->held_us = 0;
    for (size_t i = 0; i < node->link_count; i++) {
        struct peer *peer = &node->links[i].peer;
        if (may_hold && peer_may_wait(peer)) {
            node->held_us = held_us;
        } else {
            peer_flush(peer, node->topology->epoch, node->hlc, node->changes);
        }
    }
}

static void node_turn(struct env_task *task)
{
    struct node *node = container_of(task, struct node, turn);
    if (node->is_stopped || !node->log) {
        return;
    }
    node->counters.turns++;
    uint64_t now_us = env_now_us(node->env);
    node->now_ms = now_us / 1000;
    node->is_in_turn = true;
    run_awake(node);
    node->is_in_turn = false;
    if (node->is_stopped) {
        return;
    }
    node_rounds_ask(node);
    send_frames(node, now_us);
    store_turn_end(node->store);
    if (node->awake_count > 0) {
        node_wake(node);
    }
}

/* --- The tick */

static void tell_verdict(struct node *node, const char *measure,
                         const struct disks_verdict *verdict, uint64_t own_us)
{
    LOG_WARN(node->logger, "event=%s_%s own_us=%lu median_us=%lu %s", measure,
             verdict->is_slow ? "slow" : "well", own_us, verdict->middle_us,
             verdict->is_slow ? "its primaries are handed to other nodes" : "primaries may return");
}

static uint32_t u32_at_most(uint64_t value)
{
    return value < UINT32_MAX ? (uint32_t)value : UINT32_MAX;
}

static uint64_t probe_pause_us(const struct node *node)
{
    const struct disks_verdict *log = &node->disks.log;
    bool is_one_slow = log->is_slow;
    for (size_t i = 0; i < node->link_count; i++) {
        is_one_slow = is_one_slow || node->links[i].peer.disk.is_slow;
    }
    return log->since_us != 0 ? PROBE_SOON_US : is_one_slow ? PROBE_US : UINT64_MAX;
}

/* Without writes nothing is measured. A log that was slow once, perhaps only for want of processor time, would stay so, or be compared
 * with what the others took in better times: so they measure, too. */
static void probe_disk(struct node *node, uint64_t now_us)
{
    bool is_due = now_us - node->probed_us >= probe_pause_us(node);
    if (is_due && !node_log_is_full(node)) { /* else there is no room for what nobody asked for */
        node->probed_us = now_us;
        log_probe(node->log);
    }
}

/* What other nodes say of their disks is compared with the own one, and they are told of it. */
static void look_at_disks(struct node *node)
{
    uint64_t logs_us[LIMIT_NODES], flushes_us[LIMIT_NODES];
    uint64_t log_us = log_latency_us(node->log), flush_us = node_flush_us(node);
    uint64_t now_us = env_now_us(node->env);
    for (size_t i = 0; i < node->link_count; i++) {
        logs_us[i] = node->links[i].peer.disk.log_us;
        flushes_us[i] = node->links[i].peer.disk.flush_us;
    }
    node->may_hold = log_us != 0 && log_us <= HOLD_LATENCY_US;
    if (disks_look_log(&node->disks, now_us, log_us, logs_us, node->link_count)) {
        tell_verdict(node, "disk", &node->disks.log, log_us);
    }
    probe_disk(node, now_us);
    if (disks_look_flush(&node->disks, now_us, flush_us, node_flush_is_felt(node), flushes_us,
                         node->link_count)) {
        tell_verdict(node, "flush", &node->disks.flush, flush_us);
    }
    for (size_t i = 0; i < node->link_count; i++) {
        node->links[i].peer.own_disk = (struct peer_disk){
            .log_us = u32_at_most(log_us),
            .flush_us = u32_at_most(flush_us),
            .is_slow = disks_is_slow(&node->disks),
        };
    }
}

/* At every second tick: the core's time is coarse enough, and the heartbeats of all groups share a
 * frame (see raft_lead.c, raft_note_sent). */
static void tick_partitions(struct node *node)
{
    uint64_t now_ms = env_now_us(node->env) / 1000;
    size_t begun = 0;
    if (node->ticks % 2 != 0) {
        return;
    }
    struct partition *due = NULL; /* has its tick when the next one is on its way to the cache */
    for (size_t i = 0; i < node->partition_count; i++) {
        if (node->quiet_until_ms[i] <= now_ms && node->partitions[i]) {
            partition_prefetch_beat(node->partitions[i]);
            if (due) {
                partition_tick(due, now_ms);
            }
            due = node->partitions[i];
        }
    }
    if (due) {
        partition_tick(due, now_ms);
    }
    bool may_prefer = node->ticks % NODE_PREFER_TICKS == 0 && !node->is_stopping;
    for (size_t i = 0; may_prefer && i < node->partition_count; i++) {
        if (node->leads[i] && begun < NODE_PREFER_AT_ONCE) {
            begun += partition_prefer(node->partitions[i], now_ms);
        }
    }
}

static void node_tick(struct env_timer *timer)
{
    struct node *node = container_of(timer, struct node, tick);
    node->ticks++;
    env_timer_start(node->env, &node->tick, NODE_TICK_US);
    if (node->log) {
        node_look_at_budget(node);
        look_at_disks(node);
        recall_tick(node->recall);
        if (!recall_is_asleep(node->recall)) {
            tick_partitions(node);
        }
        images_tick(node->images);
        scrub_tick(node->scrub);
        node_flush_tick(node);
        if (node->held_us != 0) {
            node_wake(node);
        }
    }
    if (node->ticks % NODE_SWEEP_TICKS == 0 || !list_is_empty(&node->parked)) {
        request_sweep(node);
    }
    if (node->is_stopping) {
        continue_stop(node);
    }
}

void node_arm(struct node *node)
{
    node->turn.run = node_turn;
    node->tick.fire = node_tick;
    node_rounds_arm(node);
}
