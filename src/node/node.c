/* The node: see node.h. This file owns the turn: events mark partitions as awake and reads as
 * waiting; at the end of the turn each awake partition proposes, sends, applies and answers, read
 * rounds are asked, and one frame leaves per peer; but see send_frames.
 *
 * Flushing: the overlay is frozen when it is large, when the log is long, or when nothing was
 * written for a while; the flush begins when the log is durable to where the frozen generation
 * reaches; when it is done, every group tells its peers, and the log is cut below what all hold. */
#include "base/check.h"
#include "node/node_private.h"

enum {
    STOP_TIMEOUT_US = 3 * 1000 * 1000,
    CLOCK_AHEAD_US = 500 * 1000,
    /* The log keeps files for reuse while the disk has room for so many logs more. */
    LOG_KEEP_ROOM = 4,
    /* See mark_wants_flush. */
    MARK_FLUSHES = 16,
    /* What a load has left behind, in the log's cache and in the allocator, is given back when so many
     * bytes went through the overlay and nothing was written since they were flushed, for so long. */
    TRIM_BYTES = 8 << 20,
    TRIM_AFTER_US = 1000 * 1000,
    /* See send_frames. */
    HOLD_RECORDS = 8,
    HOLD_US = 300,
    HOLD_LATENCY_US = 1000,
};

static void node_turn(struct env_task *task);
static void node_tick(struct env_timer *timer);
static void publish_topology(struct node *node);

void node_wake(struct node *node)
{
    env_defer(node->env, &node->turn);
}

/* --- Failure and stopping */

static void node_stopped(struct node *node, int status, const char *text)
{
    if (node->is_stopped) {
        return;
    }
    node->is_stopped = true;
    env_timer_stop(node->env, &node->tick);
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

static void on_disk_failure(void *ctx, const struct err *err)
{
    node_fail(ctx, err);
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

/* --- Log and store tell */

struct partition *node_find_partition(struct node *node, uint32_t group)
{
    return group < node->partition_count ? node->partitions[group] : NULL;
}

static void on_durable(void *ctx, uint32_t group, uint64_t index, uint64_t term)
{
    struct partition *partition = node_find_partition(ctx, group);
    if (partition) {
        partition_durable(partition, index, term);
    }
}

static void on_state_durable(void *ctx, uint32_t group, uint64_t term, uint64_t vote)
{
    struct partition *partition = node_find_partition(ctx, group);
    if (partition) {
        partition_state_durable(partition, term, vote);
    }
}

static void on_hole(void *ctx, uint32_t group)
{
    struct partition *partition = node_find_partition(ctx, group);
    if (partition) {
        partition_hole(partition);
    }
}

static void on_healed(void *ctx, uint32_t group)
{
    struct partition *partition = node_find_partition(ctx, group);
    if (partition) {
        partition_healed(partition);
    }
}

static void on_suspect(void *ctx, uint32_t group)
{
    recall_suspect_durable(((struct node *)ctx)->recall);
}

/* The flusher never runs ahead of the log. */
static bool log_covers_frozen(struct node *node)
{
    for (size_t i = 0; i < node->partition_count; i++) {
        struct partition *partition = node->partitions[i];
        if (partition && partition_raft(partition)->durable_index <
                             store_replica_frozen(partition_store(partition))) {
            return false;
        }
    }
    return true;
}

static void continue_flush(struct node *node)
{
    if (node->flush_is_waiting && log_covers_frozen(node)) {
        node->flush_is_waiting = !store_flush_start(node->store);
    }
}

static void on_batch(void *ctx)
{
    struct node *node = ctx;
    continue_flush(node);
    if (node->held_us != 0) {
        node_wake(node);
    }
}

static void on_flushed(void *ctx)
{
    struct node *node = ctx;
    node->flushed_us = env_now_us(node->env);
    reserve_flushed(node->reserve);
    for (size_t i = 0; i < node->partition_count; i++) {
        if (node->partitions[i]) {
            partition_flushed(node->partitions[i]);
        }
    }
}

static void tick_reserve(struct node *node)
{
    bool is_short =
        log_admit(node->log, 0) == ERR_DISK_FULL || store_admit(node->store, 1) == ERR_DISK_FULL;
    node->is_tight = reserve_is_tight(node->reserve);
    reserve_tick(node->reserve, store_unflushed_bytes(node->store), store_used_bytes(node->store),
                 is_short);
    /* Where there is room, the log keeps its files from flush to flush. */
    uint64_t budget = node_log_budget(node);
    bool is_ample = !is_short && reserve_room(node->reserve) / LOG_KEEP_ROOM >= budget;
    log_keep_bytes(node->log, is_ample ? budget : 0);
}

static void on_damaged(void *ctx, struct store_replica *replica)
{
    struct node *node = ctx;
    for (size_t i = 0; i < node->partition_count; i++) {
        if (node->partitions[i] && partition_store(node->partitions[i]) == replica) {
            partition_damaged(node->partitions[i]);
        }
    }
}

/* Replicas are compared at a mark once all have flushed it: where little is written, that would take
 * long by itself. Several marks share a flush, so there are at most MARK_FLUSHES more in a round of
 * the scrub. */
static bool mark_wants_flush(struct node *node)
{
    uint64_t now_us = env_now_us(node->env);
    uint64_t patience_ms = node->config.scrub_interval_ms / MARK_FLUSHES;
    if (patience_ms < node->config.flush_idle_ms) {
        patience_ms = node->config.flush_idle_ms;
    }
    if (store_active_marks(node->store) == 0) {
        node->marked_us = 0;
    } else if (node->marked_us == 0) {
        node->marked_us = now_us;
    }
    return node->marked_us != 0 && now_us - node->marked_us > patience_ms * 1000;
}

static bool is_flush_due(struct node *node)
{
    bool is_idle = env_now_us(node->env) - node->last_write_us > node->config.flush_idle_ms * 1000;
    return store_active_operations(node->store) > 0 &&
           (store_active_bytes(node->store) >= node->config.flush_bytes || is_idle ||
            node->flush_is_wanted || mark_wants_flush(node) ||
            log_live_bytes(node->log) >= node->config.log_bytes ||
            reserve_wants_flush(node->reserve));
}

static void begin_flush(struct node *node)
{
    uint64_t bytes = store_active_bytes(node->store);
    if (!store_freeze(node->store)) {
        return; /* no memory now: at the next tick */
    }
    node->untrimmed_bytes += bytes;
    node->flush_is_waiting = true;
    node->flush_is_wanted = false;
    node->marked_us = 0;
    continue_flush(node);
}

static void consider_flush(struct node *node)
{
    continue_flush(node); /* there may have been no memory when the log was ready */
    bool is_due = !node->flush_is_waiting && is_flush_due(node);
    store_prefer_flush(node->store, is_due);
    if (is_due && !store_is_flushing(node->store)) {
        begin_flush(node);
    }
}

static void consider_trim(struct node *node)
{
    if (node->untrimmed_bytes >= TRIM_BYTES && !store_is_flushing(node->store) &&
        store_active_operations(node->store) == 0 &&
        env_now_us(node->env) - node->flushed_us >= TRIM_AFTER_US) {
        node->untrimmed_bytes = 0;
        log_cache_drop(node->log);
        env_memory_trim(node->env);
    }
}

static uint64_t log_segment_bytes(const struct node *node)
{
    uint64_t bytes = node->config.log_segment_bytes;
    return bytes ? bytes : LIMIT_LOG_SEGMENT_BYTES;
}

uint64_t node_log_budget(const struct node *node)
{
    uint64_t least = log_live_bytes_least(node->log);
    return node->config.log_bytes > least ? node->config.log_bytes : least;
}

/* A log that outgrows its budget though the store was flushed is pinned by replicas that are dead
 * or far behind. They are spared as long as there is room: an image costs more than entries. Half a
 * budget above it only the own store counts, and half way between the lines where writes are slowed
 * and where they are refused no image on its way either: so an image is given up only where writes
 * go on though they are slowed, and none can hold them up for long. On a full disk there is no room
 * to spare anybody: deletes must go on. */
static enum raft_cut cut_level_of(const struct node *node)
{
    uint64_t live = log_live_bytes(node->log), budget = node_log_budget(node);
    if (reserve_is_spent(node->reserve)) {
        return log_admit_vital(node->log, 0) == ERR_DISK_FULL ? RAFT_CUT_ALL : RAFT_CUT_OWN;
    }
    uint64_t none = budget / 200 * (LIMIT_LOG_SLOW_PERCENT + LIMIT_LOG_REFUSE_PERCENT);
    return live <= budget           ? RAFT_CUT_SPARING
           : live <= budget / 2 * 3 ? RAFT_CUT_HEARD
           : live <= none           ? RAFT_CUT_OWN
                                    : RAFT_CUT_ALL;
}

/* What the log may take until the next look. */
static void look_at_budget(struct node *node)
{
    struct budget_view view = {
        .load = log_load_bytes(node->log),
        .budget = node_log_budget(node),
        .node_count = node->topology->node_count,
        .may_shrink = node->flush_is_waiting || store_is_flushing(node->store) ||
                      store_active_operations(node->store) > 0,
        .room = log_room(node->log),
        .segment_bytes = log_segment_bytes(node),
    };
    bool was_refusing = node->is_refusing;
    budget_look(&node->budget, &view);
    node->is_refusing = budget_admit(&node->budget, false) != 0;
    if (node->is_refusing && !was_refusing) {
        node->counters.log_refusals++;
        LOG_WARN(node->logger,
                 "event=log_refuses log=%lu budget=%lu flushes are slower than writes: these are "
                 "refused until the next has ended",
                 view.load, view.budget);
    }
}

/* Groups at rest have no turns of their own. */
static void consider_cut(struct node *node)
{
    node->cut_level = cut_level_of(node);
    log_tighten(node->log, node->cut_level >= RAFT_CUT_OWN);
    if (node->cut_level == RAFT_CUT_SPARING || node->ticks % NODE_CUT_TICKS != 0) {
        return;
    }
    for (size_t i = 0; i < node->partition_count; i++) {
        if (node->partitions[i]) {
            partition_cut_log(node->partitions[i]);
        }
    }
}

/* What other nodes say of their disks is compared with the own one, and they are told of it. */
static void look_at_disks(struct node *node)
{
    uint64_t others_us[LIMIT_NODES], own_us = log_latency_us(node->log);
    size_t count = 0;
    for (size_t i = 0; i < node->link_count; i++) {
        others_us[count++] = node->links[i].peer.disk.latency_us;
    }
    node->may_hold = own_us != 0 && own_us <= HOLD_LATENCY_US;
    if (disks_look(&node->disks, env_now_us(node->env), own_us, others_us, count)) {
        bool is_slow = node->disks.is_slow;
        LOG_WARN(node->logger, "event=%s log_us=%lu median_us=%lu %s",
                 is_slow ? "disk_slow" : "disk_well", own_us, node->disks.middle_us,
                 is_slow ? "its primaries are handed to other nodes" : "primaries may return");
    }
    for (size_t i = 0; i < node->link_count; i++) {
        node->links[i].peer.own_disk = (struct peer_disk){
            .latency_us = own_us < UINT32_MAX ? (uint32_t)own_us : UINT32_MAX,
            .is_slow = node->disks.is_slow,
        };
    }
}

static bool on_slow_asked(void *ctx, uint64_t node_id)
{
    struct node *node = ctx;
    struct link *link = node_id == node->id ? NULL : membership_find(node, node_id);
    return node_id == node->id ? node->disks.is_slow : link && link->peer.disk.is_slow;
}

/* --- Partitions ask */

static void on_partition_wake(void *ctx, struct partition *partition)
{
    struct node *node = ctx;
    CHECK(node->awake_count < 2 * node->partition_count); /* once in this turn, once for the next */
    node->awake[node->awake_count++] = partition;
    node_wake(node);
}

/* The partition did what a turn may do, in one or without. */
static void observe_turn(struct node *node, const struct partition *partition)
{
    if (node->config.observe_turn) {
        node->config.observe_turn(node->config.ctx, partition_group(partition));
    }
}

static void on_partition_spoke(void *ctx, struct partition *partition)
{
    struct node *node = ctx;
    observe_turn(node, partition);
    node_wake(node);
}

static void on_partition_send(void *ctx, uint64_t node_id, const struct raft_message *message,
                              const uint64_t *terms, struct blob *const *payloads)
{
    struct link *link = membership_find(ctx, node_id);
    if (link) {
        peer_send(&link->peer, message, terms, payloads);
    }
}

static void on_read_wanted(void *ctx, struct partition *partition)
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

static void on_role_changed(void *ctx, struct partition *partition)
{
    struct node *node = ctx;
    uint64_t leader = partition_leader_node(partition);
    node->leads[partition_group(partition)] = partition_is_primary(partition);
    if (leader != 0) {
        node->leaders[partition_group(partition)] = leader;
    }
    if (partition_group(partition) == 0 && partition_is_primary(partition)) {
        publish_topology(node);
    }
}

static void on_image_wanted(void *ctx, struct partition *partition,
                            const struct raft_image_want *want)
{
    images_want(((struct node *)ctx)->images, partition, want);
}

static void on_image_offered(void *ctx, struct partition *partition, const struct raft_image *image)
{
    images_offered(((struct node *)ctx)->images, partition, image);
}

static void on_undecided(void *ctx, struct partition *partition)
{
    scrub_hurry(((struct node *)ctx)->scrub, partition_group(partition));
}

static void on_partition_failed(void *ctx, struct partition *partition, const struct err *err)
{
    node_fail(ctx, err);
}

/* The control group's key "topology" may have changed. */
static void on_applied(void *ctx, struct partition *partition)
{
    struct node *node = ctx;
    node->last_write_us = node->now_ms * 1000;
    if (partition_group(partition) == 0) {
        struct record record;
        struct err err;
        if (store_get(partition_store(partition), span_of_string("topology"), &record, &err) == 0) {
            node_take_topology(node, record.value, true);
        }
    }
}

static void on_observe(void *ctx, uint32_t group, uint64_t index, uint64_t term,
                       struct span payload)
{
    struct node *node = ctx;
    node->config.observe(node->config.ctx, group, index, term, payload);
}

/* --- Topology */

struct publication {
    struct partition_write write;
    struct node *node;
};

static void publish_done(struct partition_write *write, int status,
                         const struct store_result *result)
{
    struct publication *publication = container_of(write, struct publication, write);
    if (status == 0 && result->status == 0) {
        LOG_INFO(publication->node->logger, "topology published epoch=%lu",
                 publication->node->topology->epoch);
    }
    mem_free(publication);
}

/* A new leader of the control group puts the first topology there, unless it is there. */
static void publish_topology(struct node *node)
{
    struct publication *publication = MEM_NEW(struct publication);
    publication->node = node;
    publication->write.done = publish_done;
    struct command command = {
        .type = COMMAND_PUT,
        .feature_level = (uint16_t)node->topology->feature_level,
        .condition = CONDITION_ABSENT,
        .key = span_of_string("topology"),
        .value = buf_span(&node->topology_packed),
    };
    publication->write.payload = command_pack(&command);
    partition_write(node->partitions[0], &publication->write);
}

bool node_take_topology(struct node *node, struct span packed, bool is_to_save)
{
    struct topology *topology;
    struct err err;
    if (topology_unpack(packed, &topology, &err) != 0) {
        LOG_ERROR(node->logger, "refused a topology: %s", err.text);
        return false;
    }
    if ((node->topology && topology->epoch <= node->topology->epoch) ||
        (node->genesis && memcmp(topology->cluster_id, node->genesis->cluster_id.data, 16) != 0)) {
        topology_unref(topology);
        return false;
    }
    topology_unref(node->topology);
    node->topology = topology;
    struct buf copy = { 0 };
    buf_append_span(&copy, packed);
    buf_fini(&node->topology_packed);
    node->topology_packed = copy;
    if (node->log) {
        LOG_INFO(node->logger, "topology epoch=%lu", topology->epoch);
    }
    if (is_to_save) {
        membership_save_topology(node);
    }
    return true;
}

uint64_t node_leader_of(struct node *node, uint32_t group)
{
    struct partition *partition = node_find_partition(node, group);
    if (partition) {
        return partition_leader_node(partition);
    }
    if (group < node->partition_count && node->leaders[group] != 0) {
        return node->leaders[group];
    }
    const struct topology_partition *known = topology_find_group(node->topology, group);
    return known ? known->replicas[0].node_id : 0;
}

void node_hear_time(struct node *node, uint64_t time)
{
    /* A clock that is far ahead must not drag the cluster along. */
    if (time > node->hlc && hlc_to_us(time) <= env_wall_us(node->env) + CLOCK_AHEAD_US) {
        node->hlc = time;
    }
}

/* --- Opening */

static const struct log_group_start *find_start(const struct node *node, uint32_t group)
{
    for (size_t i = 0; i < log_group_count(node->log); i++) {
        if (log_group_at(node->log, i)->group == group) {
            return log_group_at(node->log, i);
        }
    }
    return NULL;
}

static int open_partitions(struct node *node, struct err *err)
{
    struct partition_host host = {
        .env = node->env,
        .logger = node->logger,
        .log = node->log,
        .store = node->store,
        .reserve = node->reserve,
        .budget = &node->budget,
        .scratch = node->scratch,
        .hash_seed = node->topology->hash_seed,
        .feature_level = node->topology->feature_level,
        .election_timeout_ms = node->config.election_timeout_ms,
        .heartbeat_ms = node->config.heartbeat_ms,
        .hlc = &node->hlc,
        .changes = &node->changes,
        .now_ms = &node->now_ms,
        .cut_level = &node->cut_level,
        .is_tight = &node->is_tight,
        .quiet_until_ms = node->quiet_until_ms,
        .spoke = on_partition_spoke,
        .wake = on_partition_wake,
        .send = on_partition_send,
        .read_wanted = on_read_wanted,
        .applied = on_applied,
        .observe = node->config.observe ? on_observe : NULL,
        .role_changed = on_role_changed,
        .image_wanted = on_image_wanted,
        .image_offered = on_image_offered,
        .undecided = on_undecided,
        .is_slow = on_slow_asked,
        .failed = on_partition_failed,
        .ctx = node,
    };
    for (size_t i = 0; i < node->topology->partition_count; i++) {
        const struct topology_partition *group = &node->topology->partitions[i];
        bool is_here = false;
        for (int j = 0; j < group->replica_count; j++) {
            is_here = is_here || group->replicas[j].node_id == node->id;
        }
        if (!is_here) {
            continue;
        }
        int status = partition_open(&host, group, node->id, find_start(node, group->group),
                                    &node->partitions[group->group], err);
        if (status != 0) {
            return status;
        }
        uint64_t time = store_replica_time(partition_store(node->partitions[group->group]));
        node->hlc = time > node->hlc ? time : node->hlc;
    }
    return 0;
}

/* The replicas that are to be here; is_alone: one of them has no other that could help it. */
static size_t list_expected(const struct node *node, struct log_expected *out, bool *is_alone)
{
    size_t count = 0;
    *is_alone = false;
    for (size_t i = 0; i < node->topology->partition_count; i++) {
        const struct topology_partition *group = &node->topology->partitions[i];
        for (int j = 0; j < group->replica_count; j++) {
            if (group->replicas[j].node_id == node->id) {
                out[count++] = (struct log_expected){ group->group, group->replicas[j].id };
                *is_alone = *is_alone || group->replica_count == 1;
            }
        }
    }
    return count;
}

static int open_log(struct node *node, struct err *err)
{
    bool is_alone;
    struct log_expected *expected =
        mem_zalloc((node->topology->partition_count + 1) * sizeof *expected);
    char *directory = mem_printf("%s/log", node->config.data);
    struct log_config config = {
        .env = node->env,
        .logger = node->logger,
        .directory = directory,
        .node_id = node->id,
        .cache_bytes = node->config.log_cache_bytes,
        .segment_bytes = node->config.log_segment_bytes,
        .expected = expected,
        .expected_count = list_expected(node, expected, &is_alone),
        .is_alone = is_alone,
        .on_durable = on_durable,
        .on_state_durable = on_state_durable,
        .on_hole = on_hole,
        .on_suspect = on_suspect,
        .on_healed = on_healed,
        .on_batch = on_batch,
        .on_failure = on_disk_failure,
        .ctx = node,
    };
    memcpy(config.cluster_id, node->topology->cluster_id, 16);
    int status = log_open(&config, &node->log, err);
    mem_free(expected);
    mem_free(directory);
    return status;
}

static void note_segment(void *ctx, const char *name)
{
    size_t size = strlen(name);
    *(bool *)ctx |= size > 4 && strcmp(name + size - 4, ".log") == 0;
}

static bool has_log(struct node *node)
{
    bool has = false;
    struct err err;
    char *directory = mem_printf("%s/log", node->config.data);
    env_dir_list(node->env, directory, note_segment, &has, &err);
    mem_free(directory);
    return has;
}

/* LMDB is damaged as a whole. The log remembers what this node has promised, so it may go on with
 * an empty store: each replica comes back from its log, if that reaches down to the first entry,
 * else by an image from its peers. Not so a replica without peers: it refuses, and the node stays
 * down. */
static int begin_store_anew(struct node *node, const struct store_config *config, struct err *err)
{
    char *aside;
    LOG_ERROR(node->logger, "store: %s; begins anew, to be repaired by the other replicas",
              err->text);
    int status = store_set_aside(node->env, config->directory, &aside, err);
    if (status == 0) {
        LOG_WARN(node->logger, "store: the damaged one was moved to %s", aside);
        mem_free(aside);
        status = store_open(config, &node->store, err);
    }
    return status;
}

/* LMDB zeroes some 50 bytes for each as a read transaction begins, 200 KB with the store's own limit. A group has
 * its replica's database, and for a while those that images have replaced. 0: the store's own. */
static uint32_t databases_max(const struct node *node)
{
    uint32_t count = 4 * (uint32_t)node->topology->partition_count;
    return count < LIMIT_PARTITIONS_MAX ? count + LIMIT_STORE_STAGES + 16 : 0;
}

static int open_store(struct node *node, struct err *err)
{
    char *directory = mem_printf("%s/store", node->config.data);
    struct store_config config = {
        .env = node->env,
        .logger = node->logger,
        .directory = directory,
        .node_id = node->id,
        .map_bytes = node->config.map_bytes,
        .overlay_bytes_max = node->config.overlay_bytes,
        .databases_max = databases_max(node),
        .no_sync = node->config.store_no_sync,
        .on_failure = on_disk_failure,
        .on_flushed = on_flushed,
        .on_damaged = on_damaged,
        .ctx = node,
    };
    memcpy(config.cluster_id, node->topology->cluster_id, 16);
    int status = store_open(&config, &node->store, err);
    if (status == ERR_CORRUPT && has_log(node) && node->topology->partitions[0].replica_count > 1) {
        status = begin_store_anew(node, &config, err);
    }
    mem_free(directory);
    return status;
}

int node_open_cluster(struct node *node, struct err *err)
{
    uint32_t highest = 0;
    for (size_t i = 0; i < node->topology->partition_count; i++) {
        uint32_t group = node->topology->partitions[i].group;
        highest = group > highest ? group : highest;
    }
    node->partition_count = highest + 1;
    node->partitions = mem_zalloc(node->partition_count * sizeof *node->partitions);
    node->quiet_until_ms = mem_zalloc(node->partition_count * sizeof *node->quiet_until_ms);
    node->leads = mem_zalloc(node->partition_count * sizeof *node->leads);
    node->awake = mem_zalloc(2 * node->partition_count * sizeof *node->awake);
    node->reads_wanted = mem_zalloc(node->partition_count * sizeof *node->reads_wanted);
    node->wanted = mem_zalloc(node->partition_count * sizeof *node->wanted);
    node->leaders = mem_zalloc(node->partition_count * sizeof *node->leaders);
    for (size_t i = 0; i < node->link_count; i++) {
        node->links[i].rides = mem_zalloc(node->partition_count * sizeof *node->links[i].rides);
    }
    node->scratch = MEM_NEW(struct partition_scratch);
    node->images = images_new(node);
    node->scrub = scrub_new(node);
    struct reserve_config reserve = {
        .env = node->env,
        .logger = node->logger,
        .directory = node->config.data,
        .bytes = node->config.reserve_bytes,
        .segment_bytes = log_segment_bytes(node),
    };
    node->reserve = reserve_open(&reserve);
    /* The store first: a wrong one is refused before the log is recovered, which writes. */
    int status = open_store(node, err);
    if (status == 0) {
        status = open_log(node, err);
    }
    if (status == 0) {
        look_at_budget(node);
        status = open_partitions(node, err);
    }
    recall_sleep(node->recall);
    return status;
}

static void copy_config(struct node *node, const struct node_config *config)
{
    node->config = *config;
    struct node_config *own = &node->config;
    own->name = mem_strdup(config->name ? config->name : "n1");
    own->data = mem_strdup(config->data);
    own->listen = mem_strdup(config->listen ? config->listen : "127.0.0.1:7400");
    own->advertise = mem_strdup(config->advertise ? config->advertise : own->listen);
    own->cluster_name = mem_strdup(config->cluster_name ? config->cluster_name : "cairn");
    own->bootstrap = config->bootstrap ? mem_strdup(config->bootstrap)
                                       : mem_printf("%s=%s", own->name, own->advertise);
    own->partitions = config->partitions ? config->partitions : 128;
    own->replicas = config->replicas ? config->replicas : 3;
    own->election_timeout_ms = config->election_timeout_ms ? config->election_timeout_ms : 600;
    own->heartbeat_ms = config->heartbeat_ms ? config->heartbeat_ms : 100;
    own->flush_bytes = config->flush_bytes ? config->flush_bytes : 128 << 20;
    own->flush_idle_ms = config->flush_idle_ms ? config->flush_idle_ms : 2000;
    own->image_chunk_bytes = config->image_chunk_bytes ? config->image_chunk_bytes : 512 << 10;
    own->scrub_interval_ms =
        config->scrub_interval_ms ? config->scrub_interval_ms : 24 * 3600 * 1000;
    own->image_bytes_per_second =
        config->image_bytes_per_second ? config->image_bytes_per_second : 64 << 20;
    own->log_bytes = config->log_bytes ? config->log_bytes : 512 << 20;
}

static void free_config(struct node *node)
{
    const char *strings[] = { node->config.name,      node->config.data,
                              node->config.listen,    node->config.advertise,
                              node->config.bootstrap, node->config.cluster_name };
    for (size_t i = 0; i < sizeof strings / sizeof *strings; i++) {
        mem_free((void *)strings[i]);
    }
}

int node_start(struct env *env, struct logger *logger, const struct node_config *config,
               struct node **out, struct err *err)
{
    CHECK(config->data);
    struct node *node = MEM_NEW(struct node);
    node->env = env;
    node->logger = logger;
    copy_config(node, config);
    node->turn.run = node_turn;
    node->tick.fire = node_tick;
    list_init(&node->requests);
    list_init(&node->parked);
    list_init(&node->free_requests);
    node->boot_id = env_random_u64(env);
    node->changes = (node->boot_id >> 2) + 1; /* no other process's */
    node->next_forward_id = 1;
    node->started_us = node->last_write_us = env_now_us(env);
    node->hlc = hlc_from_us(env_wall_us(env));
    int status = env_dir_make(env, node->config.data, err);
    if (status == 0) {
        status = env_dir_lock(env, node->config.data, err);
    }
    if (status == 0) {
        status = membership_start(node, err);
    }
    if (status != 0) {
        node->is_stopped = true;
        node_abandon(node);
        return status;
    }
    env_timer_start(env, &node->tick, NODE_TICK_US);
    *out = node;
    return 0;
}

static void no_frame(void *ctx, struct conn *conn, const struct frame *frame)
{
}

static void no_close(void *ctx, struct conn *conn, int status, const char *reason)
{
}

static const struct conn_events no_events = { NULL, no_frame, no_close };

void node_abandon(struct node *node)
{
    node->is_stopped = true;
    env_timer_stop(node->env, &node->tick);
    for (size_t i = 0; i < node->link_count; i++) {
        struct link *link = &node->links[i];
        if (link->conn) {
            conn_attach(link->conn, &no_events, NULL);
            conn_close(link->conn);
        }
        link->conn = NULL;
        peer_down(&link->peer);
    }
    request_drop_all(node);
    if (node->log) {
        log_close(node->log);
    }
    for (size_t i = 0; i < node->partition_count; i++) {
        if (node->partitions[i]) {
            partition_close(node->partitions[i]);
        }
    }
    images_free(node->images);
    scrub_free(node->scrub);
    if (node->store) {
        store_close(node->store);
    }
    if (node->reserve) {
        reserve_close(node->reserve);
    }
    membership_fini(node);
    recall_free(node->recall);
    list_remove(&node->turn.link);
    topology_unref(node->topology);
    buf_fini(&node->topology_packed);
    mem_free(node->partitions);
    mem_free(node->quiet_until_ms);
    mem_free(node->leads);
    mem_free(node->awake);
    mem_free(node->reads_wanted);
    mem_free(node->wanted);
    mem_free(node->leaders);
    mem_free(node->scratch);
    free_config(node);
    mem_free(node);
}

/* --- Links */

void node_link_up(struct node *node, struct link *link)
{
    if (!node->log) {
        return;
    }
    peer_up(&link->peer, link->conn);
    link->ride_count = 0;
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
    link->ride_count = 0;
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

static void on_raft_message(void *ctx, const struct peer_message *message)
{
    struct node *node = ctx;
    struct partition *partition = node_find_partition(node, message->message.group);
    node->counters.raft_messages_received++;
    if (!partition || recall_is_asleep(node->recall)) {
        return;
    }
    partition_message(partition, &message->message, message->entries, message->payloads);
    if (message->message.type == RAFT_READ || message->message.type == RAFT_READ_REPLY) {
        observe_turn(node, partition);
    }
}

static void on_raft_ahead(void *ctx, uint32_t group)
{
    struct partition *partition = node_find_partition(ctx, group);
    if (partition) {
        partition_prefetch(partition);
    }
}

/* The answer to a round: the replicas there still confirm what they confirmed, unless that node has
 * counted a change. */
static void end_rides(struct node *node, struct link *link)
{
    bool is_confirmed = link->peer.changes == link->ride_changes;
    size_t count = link->ride_count;
    link->ride_count = 0;
    for (size_t i = 0; i < count; i++) {
        struct partition *partition = node->partitions[link->rides[i].group];
        partition_read_ridden(partition, &link->rides[i], is_confirmed);
        observe_turn(node, partition);
    }
}

void node_raft_frame(struct node *node, struct link *link, const struct frame *frame)
{
    bool round_answered;
    node->now_ms = env_now_us(node->env) / 1000;
    int status = peer_receive(&link->peer, frame->payload, on_raft_message, on_raft_ahead, node,
                              &round_answered);
    if (status != 0 && status != ERR_NO_MEMORY) { /* without memory it counts as lost */
        LOG_WARN(node->logger, "peer=%s sent a malformed Raft frame", link->name);
        node->counters.frames_refused++;
        conn_close(link->conn);
        return;
    }
    if (round_answered) {
        end_rides(node, link);
    }
    node_wake(node);
}

/* --- The turn */

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
static void ask_read_rounds(struct node *node)
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

static void run_awake(struct node *node)
{
    /* A partition may wake again while its turn runs; it then runs in the next turn. */
    size_t count = node->awake_count;
    for (size_t i = 0; i < count; i++) {
        observe_turn(node, node->awake[i]);
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
    ask_read_rounds(node);
    send_frames(node, now_us);
    store_turn_end(node->store);
    if (node->awake_count > 0) {
        node_wake(node);
    }
}

/* At every second tick: the core's time is coarse enough, and the heartbeats of all groups share a
 * frame (see raft_lead.c, heartbeat_at). */
static void tick_partitions(struct node *node)
{
    uint64_t now_ms = env_now_us(node->env) / 1000;
    size_t begun = 0;
    if (node->ticks % 2 != 0) {
        return;
    }
    for (size_t i = 0; i < node->partition_count; i++) {
        if (node->quiet_until_ms[i] <= now_ms && node->partitions[i]) {
            partition_tick(node->partitions[i], now_ms);
        }
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
        look_at_budget(node);
        look_at_disks(node);
        recall_tick(node->recall);
        if (!recall_is_asleep(node->recall)) {
            tick_partitions(node);
        }
        images_tick(node->images);
        scrub_tick(node->scrub);
        tick_reserve(node);
        consider_flush(node);
        consider_cut(node);
        consider_trim(node);
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

/* --- Questions */

const uint8_t *node_cluster_id(const struct node *node)
{
    return node->topology ? node->topology->cluster_id : NULL;
}

uint64_t node_id(const struct node *node)
{
    return node->id;
}

uint64_t node_boot_id(const struct node *node)
{
    return node->boot_id;
}

const char *node_name(const struct node *node)
{
    return node->config.name;
}

uint64_t node_epoch(const struct node *node)
{
    return node->topology ? node->topology->epoch : 0;
}

uint64_t node_time(const struct node *node)
{
    /* Not only what was proposed: a client of a cluster at rest would hold an old time, and its
     * next write would look like a retry that comes too late. */
    uint64_t now = hlc_from_us(env_wall_us(node->env));
    return now > node->hlc ? now : node->hlc;
}

void node_count_client(struct node *node, int change)
{
    node->counters.connections += (uint64_t)(int64_t)change;
}

void node_count_refused(struct node *node)
{
    node->counters.frames_refused++;
}

bool node_is_ready(const struct node *node)
{
    if (!node->log) {
        return false;
    }
    for (size_t i = 0; i < node->partition_count; i++) {
        if (node->partitions[i] && partition_leader_node(node->partitions[i]) == 0) {
            return false;
        }
    }
    return true;
}

static void dump_partition(struct partition *partition, struct buf *out)
{
    const struct raft *raft = partition_raft(partition);
    buf_printf(out,
               "  group %u: %s term=%lu leader=%lu log=%lu..%lu durable=%lu commit=%lu applied=%lu "
               "flushed=%lu cut=%lu "
               "reads=%lu/%lu sessions=%016lx\n",
               partition_group(partition), raft_role_name(raft->role), raft->term, raft->leader,
               raft->log_start, raft->last_index, raft->durable_index, raft->commit,
               partition_applied(partition), raft->flushed, raft->cut, raft->read_confirmed,
               raft->read_sequence, store_replica_sessions_digest(partition_store(partition)));
    for (int i = 0; raft->role == RAFT_LEADER && i < raft->config.replica_count; i++) {
        const struct raft_progress *progress = &raft->progress[i];
        buf_printf(out, "    replica %lu: match=%lu next=%lu state=%d inflight=%u/%u flushed=%lu\n",
                   progress->id, progress->match, progress->next, (int)progress->state,
                   progress->inflight_messages, progress->inflight_bytes, progress->flushed);
    }
}

void node_dump(const struct node *node, struct buf *out)
{
    buf_printf(out, "node %s id=%lu hlc=%lu epoch=%lu stopping=%d\n", node->config.name, node->id,
               node->hlc, node_epoch(node), node->is_stopping);
    for (size_t i = 0; i < node->link_count; i++) {
        const struct link *link = &node->links[i];
        buf_printf(out, "  peer %s id=%lu up=%d out=%zu round=%lu/%lu\n", link->name, link->node_id,
                   link->peer.conn != NULL, link->conn ? conn_out_bytes(link->conn) : 0,
                   link->peer.round_done, link->peer.round_sent);
    }
    if (node->store) {
        const struct store_stats *stats = store_stats(node->store);
        buf_printf(out, "  store overlay=%lu used=%lu keys=%lu flushes=%lu\n", stats->overlay_bytes,
                   stats->used_bytes, stats->keys, stats->flushes);
        buf_printf(out, "  log live=%lu batches=%lu\n", log_live_bytes(node->log),
                   log_stats(node->log)->batches);
    }
    for (size_t i = 0; i < node->partition_count; i++) {
        if (node->partitions[i]) {
            dump_partition(node->partitions[i], out);
        }
    }
}
