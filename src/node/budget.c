/* The log's budget: see budget.h.
 *
 * In parts of the budget:
 *
 *   1    a replica whose store is damaged takes only trifles: it flushes nothing, so all that it takes stays, until its image is there
 *   2    any replica takes only trifles of other primaries; ordinary writes here slow down. First the others' entries, because a majority
 *        can do without this node, while its own writes have nobody else
 *   2.5  ordinary writes are refused with ERR_BUSY
 *   3    deletes too, and replicas take no-ops only
 *
 * Invariants
 *
 * B1  Who is refused waits for something that comes: the end of a flush. Where a flush would write nothing, waiting helps nobody: then
 *     entries are taken, slowly. What can't be flushed is what isn't known to be committed. After a restart that may be all; otherwise it
 *     is little (B2).
 *
 * B2  What the primaries of a node have proposed and not applied is bounded, so that all nodes' together are half a budget: no set of
 *     logs can be full of entries that all wait for each other's room.
 *
 * B3  No-ops are always taken (raft.c): a new term commits, so that what stands below is known to be committed and can be flushed.
 *
 * B4  On a full disk the log's last segment is for what makes room: a replica takes entries of other primaries only as long as half a
 *     segment is left behind them, then trifles (a delete) to a quarter, then no-ops. So one large entry, before which all else
 *     of its group would wait, still goes, but what nobody can flush yet, as no majority holds it, does not use up all
 *     logs. A primary's own writes are refused by log_admit.
 *
 * B5  What is admitted between two looks is at most what was left at the first, and one write more. */
#include "node/budget.h"

#include "base/err.h"
#include "base/limits.h"

enum {
    /* At 2 budgets a look grants that part of what is left to 2.5: the nearer, the less. With a look each 10 ms it would take a third of a
     * second to use up two thirds of it: much less than a flush, so that writers feel a slope and no wall. */
    SLOWING = 32,
    /* Below 2, so much of it that one turn can't go beyond. */
    FREELY = 2,
    /* B1: a look grants that part of a budget where nothing can be flushed, beyond 3 budgets a smaller one: what is needed before
     * anything can be flushed is mostly little, and this has no end but the need. */
    STUCK = 8,
    STUCK_BEYOND = 64,
    /* B4: of the log's last segments, in parts of one. */
    ENTRIES_LEAVE = 2,
    TRIFLES_LEAVE = 4,
    /* B2: a node's primaries may have that part of the budget unapplied, in large clusters less. */
    UNAPPLIED = 8,
};

static int64_t left_to(uint64_t percent, const struct budget_view *view)
{
    return (int64_t)(view->budget / 100 * percent) - (int64_t)view->load;
}

static int64_t min_i64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t max_i64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* What the log's files still take but such a part of a segment (B4). */
static int64_t room_but(const struct budget_view *view, uint64_t part)
{
    uint64_t kept = view->segment_bytes / part;
    return view->room > INT64_MAX ? INT64_MAX : (int64_t)view->room - (int64_t)kept;
}

void budget_look(struct budget *budget, const struct budget_view *view)
{
    uint64_t parts = 2 * view->node_count > UNAPPLIED ? 2 * view->node_count : UNAPPLIED;
    int64_t stuck = min_i64((int64_t)(view->budget / STUCK), left_to(LIMIT_LOG_HARD_PERCENT, view));
    stuck = max_i64(stuck, (int64_t)(view->budget / STUCK_BEYOND));
    int64_t entries = left_to(LIMIT_LOG_SLOW_PERCENT, view);
    entries = view->may_shrink ? entries : max_i64(entries, stuck);
    budget->entries = min_i64(entries, room_but(view, ENTRIES_LEAVE));
    budget->trifles = min_i64(left_to(LIMIT_LOG_HARD_PERCENT, view), room_but(view, TRIFLES_LEAVE));
    budget->sick = left_to(100, view);
    budget->ordinary = left_to(LIMIT_LOG_REFUSE_PERCENT, view);
    budget->vital = left_to(LIMIT_LOG_HARD_PERCENT, view);
    int64_t pace =
        budget->ordinary / (left_to(LIMIT_LOG_SLOW_PERCENT, view) > 0 ? FREELY : SLOWING);
    pace = min_i64(pace, (int64_t)(view->budget / parts) - (int64_t)budget->unapplied);
    /* The last write may have been larger than what was left. */
    budget->pace = budget->pace < 0 && pace > 0 ? budget->pace + pace : pace;
}

int budget_admit(const struct budget *budget, bool is_vital)
{
    return (is_vital ? budget->vital : budget->ordinary) > 0 ? 0 : ERR_BUSY;
}

bool budget_propose(struct budget *budget, size_t bytes, bool is_vital)
{
    if (!is_vital && budget->pace <= 0) {
        return false;
    }
    int64_t cost = (int64_t)bytes + BUDGET_ENTRY_BYTES;
    budget->pace -= is_vital ? 0 : cost;
    budget->ordinary -= cost;
    budget->vital -= cost;
    budget->trifles -= cost;
    return true;
}

void budget_took(struct budget *budget, uint64_t bytes, size_t count)
{
    int64_t cost = (int64_t)(bytes + count * BUDGET_ENTRY_BYTES);
    budget->entries -= cost;
    budget->sick -= cost;
    budget->vital -= cost;
    budget->trifles -= cost;
}

enum raft_room budget_room(const struct budget *budget, bool is_damaged)
{
    bool is_any = budget->entries > 0 && (!is_damaged || budget->sick > 0);
    return is_any ? RAFT_ROOM_ANY : budget->trifles > 0 ? RAFT_ROOM_SMALL : RAFT_ROOM_NONE;
}
