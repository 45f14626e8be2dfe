/* When the node flushes, and what bounds its log: looked at by every tick.
 *
 * Flushing: the overlay is frozen when it is large, when the log is long, or when nothing was
 * written for a while; the flush begins when the log is durable to where the frozen generation
 * reaches; when it is done, every group tells its peers, and the log is cut below what all hold.
 * How much the log may hold meanwhile, budget.h says; how far it is cut without the peers, cut_level_of. */
#include "node/node_private.h"

enum {
    /* The log keeps files for reuse while the disk has room for so many logs more. */
    LOG_KEEP_ROOM = 4,
    /* See mark_wants_flush. */
    MARK_FLUSHES = 16,
    /* What a load has left behind, in the log's memory, in requests kept for reuse and in the allocator,
     * is given back when so many bytes went through the overlay and nothing was written since they were
     * flushed, for so long. */
    TRIM_BYTES = 2 << 20,
    TRIM_AFTER_US = 1000 * 1000,
    /* See pace_flush. */
    FLUSH_BYTES_PER_US = 24,
    FLUSH_IN_PART = 2,
};

/* --- Flushes */

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

void node_flush_continue(struct node *node)
{
    if (node->flush_is_waiting && log_covers_frozen(node)) {
        node->flush_is_waiting = !store_flush_start(node->store);
        node->flush_began_us = node->flush_is_waiting ? 0 : env_now_us(node->env);
        node->flush_pauses_us = store_flush_paused_us(node->store);
    }
}

/* How long the flush under way has been at work. Its pauses are our own choice (pace_flush), and say nothing of the disk. */
static uint64_t flush_age_us(const struct node *node)
{
    uint64_t paused_us = store_flush_paused_us(node->store) - node->flush_pauses_us;
    return env_now_us(node->env) - node->flush_began_us - paused_us;
}

void node_flush_ended(struct node *node)
{
    node->flushed_us = env_now_us(node->env);
    node->flush_took_us = flush_age_us(node);
    node->flush_began_us = 0;
}

uint64_t node_flush_us(const struct node *node)
{
    uint64_t age_us = node->flush_began_us ? flush_age_us(node) : 0;
    return age_us > node->flush_took_us ? age_us : node->flush_took_us;
}

bool node_flush_is_felt(const struct node *node)
{
    return node->flush_began_us != 0 && node_log_is_full(node);
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

/* Flushes as quick as they can be come in bursts, and as all nodes get about the same, all nodes' at a time: hundreds of MB
 * of scattered pages, behind which the logs' syncs waited for up to 0.7 s. So a flush is spread. It goes on at a gentle rate, or so
 * quickly that it ends when the generation that fills meanwhile is half full: then a disk that becomes slower leaves as much time
 * again before anybody has to wait for it. Where its end is waited for, it doesn't pause: `is_urgent`. */
static void pace_flush(struct node *node, bool is_urgent)
{
    uint64_t active = store_active_bytes(node->store);
    uint64_t frozen = store_unflushed_bytes(node->store) - active;
    uint64_t by_time = (env_now_us(node->env) - node->flush_began_us) * FLUSH_BYTES_PER_US;
    uint64_t filled_percent = active / (node->config.flush_bytes / 100 + 1);
    uint64_t by_fill = frozen / 100 * FLUSH_IN_PART * filled_percent;
    uint64_t pace = by_time > by_fill ? by_time : by_fill;
    store_flush_pace(node->store, is_urgent ? UINT64_MAX : pace);
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
    node_flush_continue(node);
}

static void consider_flush(struct node *node)
{
    node_flush_continue(node); /* there may have been no memory when the log was ready */
    bool is_due = !node->flush_is_waiting && is_flush_due(node);
    store_prefer_flush(node->store, is_due);
    if (is_due && !store_is_flushing(node->store)) {
        begin_flush(node);
        is_due = false; /* it was this one */
    }
    if (node->flush_began_us != 0) {
        bool is_long = log_live_bytes(node->log) >= node_log_budget(node);
        pace_flush(node, is_due || is_long || node->is_tight);
    }
}

static void consider_trim(struct node *node)
{
    if (node->untrimmed_bytes >= TRIM_BYTES && !store_is_flushing(node->store) &&
        store_active_operations(node->store) == 0 &&
        env_now_us(node->env) - node->flushed_us >= TRIM_AFTER_US) {
        node->untrimmed_bytes = 0;
        log_trim(node->log);
        request_trim(node);
        env_memory_trim(node->env);
    }
}

/* --- The log's room */

uint64_t node_log_segment_bytes(const struct node *node)
{
    uint64_t bytes = node->config.log_segment_bytes;
    return bytes ? bytes : LIMIT_LOG_SEGMENT_BYTES;
}

uint64_t node_log_budget(const struct node *node)
{
    uint64_t least = log_live_bytes_least(node->log);
    return node->config.log_bytes > least ? node->config.log_bytes : least;
}

bool node_log_is_full(const struct node *node)
{
    return log_load_bytes(node->log) >= node_log_budget(node) / 100 * LIMIT_LOG_SLOW_PERCENT;
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

void node_look_at_budget(struct node *node)
{
    struct budget_view view = {
        .load = log_load_bytes(node->log),
        .budget = node_log_budget(node),
        .node_count = node->topology->node_count,
        .may_shrink = node->flush_is_waiting || store_is_flushing(node->store) ||
                      store_active_operations(node->store) > 0,
        .room = log_room(node->log),
        .segment_bytes = node_log_segment_bytes(node),
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

void node_flush_tick(struct node *node)
{
    tick_reserve(node);
    consider_flush(node);
    consider_cut(node);
    consider_trim(node);
}
