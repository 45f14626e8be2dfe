/* The linearizability checker.
 *
 * Depth-first search over the next operation to take effect. The list holds calls and replies in
 * real order; what may come next is every call before the first reply in the list. Visited (set of
 * operations taken, state) pairs are not visited again; they are kept as 128-bit hashes (Zobrist),
 * whose collisions are less likely than bit flips.
 *
 * Versions grow with every change, so puts whose versions are known take effect in their order; the
 * search never tries another one. An operation that may come next and changes nothing comes next: in
 * any order that has it later it can be moved here, so nothing else needs to be tried in its place.
 * What was written is there once only: as long as an answer that saw it has no place yet, nothing
 * that ends it is taken.
 *
 * Unknown outcomes would make the search exponential; four observations keep it small:
 *   - an unknown put whose value somebody read did happen, before that read's reply, with the version
 *     that was read: it is treated so;
 *   - an unknown put that nobody read is left out at first. It can explain something only if an
 *     answer speaks of a version that is of no known write, or of a bare presence: then, and only if
 *     there is no order without it, a second search takes it in;
 *   - nobody can tell which of these it was: all of them write the same, and of those with the same
 *     condition the first is taken;
 *   - another unknown operation earns its place only by what comes right after it: if that could
 *     have come without it, the unknown one can be moved behind it (it was a read) or left out (it was
 *     a write). So whatever follows an unknown operation must be impossible without it. */
#include "sim/linear.h"

#include <stdlib.h>

#include "base/check.h"
#include "base/hash.h"
#include "base/hashtab.h"
#include "base/mem.h"

enum { STEPS_MAX_DEFAULT = 2000000 };
static const uint64_t VALUE_UNREAD = UINT64_MAX; /* what unknown puts write that nobody read */
static const uint32_t NO_PUT = UINT32_MAX;

struct state {
    uint64_t value;   /* 0: absent */
    uint64_t version; /* 0: not known (or absent) */
    uint64_t floor;   /* no later change has a version up to here */
};

struct entry {
    struct entry *prev, *next;
    struct entry *reply; /* of a call; NULL: none */
    uint64_t at;
    uint32_t op;
    bool is_call, is_optional;
};

/* Where the search stands: the register, and before an optional operation was taken just now. */
struct place {
    struct state state, without;
    uint32_t put; /* that wrote what is there; or NO_PUT */
    bool is_after_optional;
};

struct frame {
    struct entry *call;
    struct place place;
    bool is_forced; /* it changed nothing: there is no other choice */
};

/* What reads tell of a value. */
struct sight {
    uint64_t reply;   /* the earliest */
    uint64_t version; /* 0: none told it */
};

struct search {
    struct linear_op *ops; /* a copy, with versions learned from reads */
    uint32_t *seen;        /* by operation: the put whose value its answer speaks of; or NO_PUT */
    uint32_t *sights_left; /* by put: how many required operations that saw it are to come */
    uint32_t *puts;        /* those with known versions, in their order */
    size_t put_count, puts_taken;
    struct entry *entries;
    struct entry head;
    struct frame *stack;
    size_t depth, required;
    uint64_t taken_low, taken_high; /* Zobrist hash of the set */
    struct hashtab visited;         /* low half → list of high halves, as chained cells */
    struct arena cells;
};

struct cell {
    struct cell *next;
    uint64_t high;
};

/* --- The register */

/* Was `version` the version of what is there? Learns it when it is not known. */
static bool is_version(struct state *state, uint64_t version)
{
    if (version == 0) {
        return true;
    }
    if (state->value == 0) {
        return false;
    }
    if (state->version != 0) {
        return state->version == version;
    }
    if (version <= state->floor) {
        return false;
    }
    state->version = state->floor = version;
    return true;
}

/* Does what was answered about the condition agree with the state? Learns a version from it. */
static bool check_condition(struct state *state, const struct linear_op *op)
{
    bool is_refused = op->outcome == LINEAR_REFUSED, is_there = state->value != 0;
    switch (op->condition) {
    case LINEAR_IF_ABSENT:
        if (is_there != is_refused) {
            return false;
        }
        break;
    case LINEAR_IF_PRESENT:
        if (is_there == is_refused) {
            return false;
        }
        break;
    case LINEAR_IF_VERSION:
        if (!is_refused) {
            return is_there && is_version(state, op->condition_version);
        }
        if (op->version == op->condition_version) {
            return false; /* refused for want of what was there */
        }
        if (is_there && (op->version == 0 || state->version == op->condition_version)) {
            return false;
        }
        break;
    default:
        return !is_refused;
    }
    return !is_refused || op->version == 0 || is_version(state, op->version);
}

static bool step_put(struct state *state, const struct linear_op *op)
{
    if (!check_condition(state, op)) {
        return false;
    }
    if (op->outcome == LINEAR_REFUSED) {
        return true;
    }
    if (op->version != 0 && op->version <= state->floor) {
        return false;
    }
    state->value = op->value;
    state->version = op->version;
    state->floor = op->version != 0 ? op->version : state->floor;
    return true;
}

static bool step_delete(struct state *state, const struct linear_op *op)
{
    if (!check_condition(state, op)) {
        return false;
    }
    if (op->outcome == LINEAR_REFUSED) {
        return true;
    }
    if (op->outcome == LINEAR_OK) {
        if (op->existed != (state->value != 0)) {
            return false;
        }
        if (op->existed && !is_version(state, op->version)) {
            return false;
        }
    }
    state->value = state->version = 0;
    return true;
}

static bool step(struct state *state, const struct linear_op *op)
{
    switch (op->kind) {
    case LINEAR_PUT:
        return step_put(state, op);
    case LINEAR_DELETE:
        return step_delete(state, op);
    default:
        if (op->outcome == LINEAR_ABSENT) {
            return state->value == 0;
        }
        return state->value == op->value && is_version(state, op->version);
    }
}

/* --- What goes into the search */

static bool is_write(const struct linear_op *op)
{
    return op->kind != LINEAR_GET;
}

static bool is_unknown(const struct linear_op *op)
{
    return op->outcome == LINEAR_UNKNOWN || op->outcome == LINEAR_PENDING;
}

/* value → what reads tell of it; the caller ends both. */
static void gather_sights(const struct linear_op *ops, size_t count, struct hashtab *sights,
                          struct arena *arena)
{
    for (size_t i = 0; i < count; i++) {
        const struct linear_op *op = &ops[i];
        if (op->kind != LINEAR_GET || op->outcome != LINEAR_OK) {
            continue;
        }
        struct sight *sight = hashtab_find(sights, op->value);
        if (!sight) {
            sight = arena_alloc(arena, sizeof *sight);
            *sight = (struct sight){ .reply = LINEAR_NEVER };
            hashtab_put(sights, op->value, sight);
        }
        sight->reply = op->reply < sight->reply ? op->reply : sight->reply;
        sight->version = sight->version ? sight->version : op->version;
    }
}

/* A version that the operation's answer speaks of, other than one that it made or read; 0: none. */
static uint64_t reported_version(const struct linear_op *op)
{
    if ((op->outcome == LINEAR_OK || is_unknown(op)) && op->condition == LINEAR_IF_VERSION) {
        return op->condition_version;
    }
    bool reports = op->outcome == LINEAR_REFUSED ||
                   (op->kind == LINEAR_DELETE && op->outcome == LINEAR_OK && op->existed);
    return reports ? op->version : 0;
}

/* Did the answer tell that something was there, without its version? Without an answer a read of
 * what it put may. */
static bool reports_presence(const struct linear_op *op)
{
    if (is_unknown(op)) {
        return op->condition == LINEAR_IF_PRESENT;
    }
    if (op->outcome == LINEAR_OK) {
        return op->condition == LINEAR_IF_PRESENT ||
               (op->kind == LINEAR_DELETE && op->existed && op->version == 0);
    }
    return op->outcome == LINEAR_REFUSED && op->condition == LINEAR_IF_ABSENT && op->version == 0;
}

/* Is there an answer that needs a write nobody read: a version that is of no known write and no
 * read, or a bare presence? Then an unread unknown put may explain it. */
static bool has_orphan(const struct linear_op *ops, size_t count)
{
    struct hashtab known = { 0 };
    for (size_t i = 0; i < count; i++) {
        if (ops[i].outcome == LINEAR_OK && ops[i].kind != LINEAR_DELETE) {
            hashtab_put(&known, ops[i].version, (void *)&ops[i]);
        }
    }
    bool found = false;
    for (size_t i = 0; i < count && !found; i++) {
        uint64_t version = reported_version(&ops[i]);
        found = reports_presence(&ops[i]) || (version != 0 && !hashtab_find(&known, version));
    }
    hashtab_fini(&known);
    return found;
}

/* --- The search */

static int compare_entries(const struct entry *a, const struct entry *b)
{
    return a->at < b->at ? -1 : a->at > b->at;
}

static void sort_entries(struct entry **list, struct entry **spare, size_t count)
{
    if (count < 2) {
        return;
    }
    size_t half = count / 2;
    sort_entries(list, spare, half);
    sort_entries(list + half, spare, count - half);
    memcpy(spare, list, half * sizeof *list);
    for (size_t i = 0, j = half, k = 0; i < half; k++) {
        list[k] = j < count && compare_entries(list[j], spare[i]) < 0 ? list[j++] : spare[i++];
    }
}

static void link_entries(struct search *search, size_t count)
{
    struct entry **list = mem_alloc((2 * count + 1) * sizeof *list);
    for (size_t i = 0; i < count; i++) {
        list[i] = &search->entries[i];
    }
    sort_entries(list, list + count, count);
    struct entry *last = &search->head;
    for (size_t i = 0; i < count; i++) {
        last->next = list[i];
        list[i]->prev = last;
        last = list[i];
    }
    last->next = NULL;
    mem_free(list);
}

static void unlink_entry(struct entry *entry)
{
    entry->prev->next = entry->next;
    if (entry->next) {
        entry->next->prev = entry->prev;
    }
}

static void relink_entry(struct entry *entry)
{
    entry->prev->next = entry;
    if (entry->next) {
        entry->next->prev = entry;
    }
}

/* A put that takes its place among those with known versions. */
static bool is_ordered(const struct linear_op *op)
{
    return op->kind == LINEAR_PUT && op->version != 0 && op->outcome != LINEAR_REFUSED;
}

static void toggle(struct search *search, uint32_t op)
{
    search->taken_low ^= hash_u64(2 * (uint64_t)op + 0x51ed2701);
    search->taken_high ^= hash_u64(2 * (uint64_t)op + 0x7a3bd9f10);
}

static uint64_t mix_state(const struct state *state)
{
    return hash_u64(state->value + 1) ^ hash_u64(state->version + 0x1234567) * 3 ^
           hash_u64(state->floor + 0xabcdef01) * 5;
}

/* Was the set with this place never visited before? */
static bool is_new(struct search *search, const struct place *place)
{
    uint64_t mix = mix_state(&place->state);
    if (place->is_after_optional) {
        mix = hash_u64(mix ^ mix_state(&place->without) * 7);
    }
    uint64_t low = search->taken_low ^ mix;
    uint64_t high = search->taken_high ^ hash_u64(mix + 0x9876);
    struct cell *first = hashtab_find(&search->visited, low);
    for (struct cell *cell = first; cell; cell = cell->next) {
        if (cell->high == high) {
            return false;
        }
    }
    struct cell *cell = arena_alloc(&search->cells, sizeof *cell);
    *cell = (struct cell){ first, high };
    hashtab_put(&search->visited, low, cell);
    return true;
}

/* The operation comes to stand among those to be taken (1), or does so no more (-1). */
static void count_sight(struct search *search, uint32_t op, int change)
{
    if (search->seen[op] != NO_PUT) {
        search->sights_left[search->seen[op]] += (uint32_t)change;
    }
}

static void take(struct search *search, struct entry *call, const struct place *before,
                 bool is_forced)
{
    search->stack[search->depth++] = (struct frame){ call, *before, is_forced };
    unlink_entry(call);
    if (call->reply) {
        unlink_entry(call->reply);
        search->required--;
        count_sight(search, call->op, -1);
    }
    search->puts_taken += is_ordered(&search->ops[call->op]);
    toggle(search, call->op);
}

static void untake(struct search *search, struct entry *call)
{
    toggle(search, call->op);
    search->puts_taken -= is_ordered(&search->ops[call->op]);
    if (call->reply) {
        relink_entry(call->reply);
        search->required++;
        count_sight(search, call->op, 1);
    }
    relink_entry(call);
}

/* Who wrote what is there, after the operation; false: it ends what another one is still to see. */
static bool move_put(const struct search *search, const struct entry *entry, struct place *next)
{
    const struct linear_op *op = &search->ops[entry->op];
    uint32_t before = next->put;
    if (!is_write(op) || op->outcome == LINEAR_REFUSED) {
        return true;
    }
    next->put = op->kind == LINEAR_PUT ? entry->op : NO_PUT;
    bool is_own = entry->reply && search->seen[entry->op] == before;
    return before == NO_PUT || search->sights_left[before] == is_own;
}

/* Where taking the operation leads; false: it can't be taken here. */
static bool lead(const struct search *search, const struct entry *entry, const struct place *place,
                 struct place *next)
{
    const struct linear_op *op = &search->ops[entry->op];
    if (is_ordered(op) && search->puts[search->puts_taken] != entry->op) {
        return false;
    }
    *next = (struct place){ .state = place->state,
                            .put = place->put,
                            .is_after_optional = entry->is_optional };
    if (entry->is_optional) {
        next->without = place->state;
    }
    if (!step(&next->state, op) || !move_put(search, entry, next)) {
        return false;
    }
    struct state without = place->without;
    return !place->is_after_optional || !step(&without, op);
}

/* Unknown deletes that could be taken here lead to the same place, and so do unknown puts that
 * nobody read. An EXACT one, whose version is there now, is of no use anywhere else, since versions
 * never repeat; a plain one is as good later as now, and as any other plain one. So one of them is
 * tried: an exact one if there is any, else a plain one. Of the puts on a presence, or on an
 * absence, any is as good as another. */
enum choice_class {
    CHOICE_NONE,
    CHOICE_EXACT,
    CHOICE_PLAIN,
    CHOICE_IF_PRESENT,
    CHOICE_IF_ABSENT,
};

static enum choice_class classify(const struct search *search, const struct entry *entry,
                                  const struct state *state)
{
    const struct linear_op *op = &search->ops[entry->op];
    bool is_delete = op->kind == LINEAR_DELETE, is_there = state->value != 0;
    if (!entry->is_optional || (is_delete && !is_there)) {
        return CHOICE_NONE;
    }
    switch (op->condition) {
    case LINEAR_ALWAYS:
        return CHOICE_PLAIN;
    case LINEAR_IF_PRESENT:
        return is_delete ? CHOICE_PLAIN : is_there ? CHOICE_IF_PRESENT : CHOICE_NONE;
    case LINEAR_IF_VERSION:
        return is_there && op->condition_version == state->version ? CHOICE_EXACT : CHOICE_NONE;
    default:
        return is_there ? CHOICE_NONE : CHOICE_IF_ABSENT;
    }
}

/* Is there another unknown operation, to be tried instead of this one? */
static bool is_dispensable(const struct search *search, const struct entry *entry,
                           const struct state *state)
{
    enum choice_class class = classify(search, entry, state);
    if (class == CHOICE_NONE) {
        return false;
    }
    bool is_before = true;
    for (struct entry *other = search->head.next; other && other->is_call; other = other->next) {
        is_before = is_before && other != entry;
        enum choice_class of_other = search->ops[other->op].kind == search->ops[entry->op].kind
                                         ? classify(search, other, state)
                                         : CHOICE_NONE;
        if ((of_other == class && is_before) ||
            (of_other == CHOICE_EXACT && class == CHOICE_PLAIN)) {
            return true;
        }
    }
    return false;
}

static bool is_same_state(const struct state *a, const struct state *b)
{
    return a->value == b->value && a->version == b->version && a->floor == b->floor;
}

/* Takes a required operation that changes nothing; false: none can come next. */
static bool observe(struct search *search, struct place *place)
{
    for (struct entry *entry = search->head.next; entry && entry->is_call; entry = entry->next) {
        struct place next;
        if (!entry->is_optional && lead(search, entry, place, &next) &&
            is_same_state(&next.state, &place->state)) {
            take(search, entry, place, true);
            *place = next;
            return true;
        }
    }
    return false;
}

/* Tries the calls from `entry` on, required ones first (`is_optional` says which turn it is); true
 * when one was taken. */
static bool advance(struct search *search, struct entry *entry, bool is_optional,
                    struct place *place)
{
    for (int turn = is_optional; turn < 2; turn++, entry = search->head.next) {
        for (; entry && entry->is_call; entry = entry->next) {
            struct place next;
            if (entry->is_optional != (turn == 1) || !lead(search, entry, place, &next) ||
                is_dispensable(search, entry, &place->state)) {
                continue;
            }
            toggle(search, entry->op);
            bool fresh = is_new(search, &next);
            toggle(search, entry->op);
            if (fresh) {
                take(search, entry, place, false);
                *place = next;
                return true;
            }
        }
    }
    return false;
}

/* Takes back the last choice; NULL: there was none. */
static struct frame *retreat(struct search *search)
{
    while (search->depth > 0) {
        struct frame *frame = &search->stack[--search->depth];
        untake(search, frame->call);
        if (!frame->is_forced) {
            return frame;
        }
    }
    return NULL;
}

static enum linear_verdict run(struct search *search, uint64_t steps_max)
{
    struct place place = { .put = NO_PUT };
    struct entry *from = search->head.next;
    bool is_optional = false;
    for (uint64_t steps = 0; search->required > 0; steps++) {
        if (steps >= steps_max) {
            return LINEAR_UNDECIDED;
        }
        bool is_first = from == search->head.next && !is_optional;
        if ((is_first && observe(search, &place)) || advance(search, from, is_optional, &place)) {
            from = search->head.next;
            is_optional = false;
            continue;
        }
        struct frame *frame = retreat(search);
        if (!frame) {
            return LINEAR_NO;
        }
        place = frame->place;
        from = frame->call->next;
        is_optional = frame->call->is_optional;
    }
    return LINEAR_YES;
}

/* The place of the operation's reply, LINEAR_NEVER: it need not have happened. An unknown put that was
 * read learns its version. */
static uint64_t find_reply(struct linear_op *op, const struct hashtab *sights)
{
    if (!is_unknown(op)) {
        return op->reply;
    }
    const struct sight *sight = op->kind == LINEAR_PUT ? hashtab_find(sights, op->value) : NULL;
    if (sight) {
        op->version = sight->version;
    }
    return sight ? sight->reply : LINEAR_NEVER;
}

/* with_unread: unknown puts that nobody read take part, too. */
static size_t make_entries(struct search *search, size_t count, bool with_unread)
{
    struct hashtab sights = { 0 };
    struct arena arena = { 0 };
    size_t made = 0;

    gather_sights(search->ops, count, &sights, &arena);
    for (size_t i = 0; i < count; i++) {
        struct linear_op *op = &search->ops[i];
        if (op->outcome == LINEAR_NOTHING || (is_unknown(op) && !is_write(op))) {
            continue;
        }
        uint64_t reply_at = find_reply(op, &sights);
        if (op->kind == LINEAR_PUT && reply_at == LINEAR_NEVER) {
            if (!with_unread) {
                continue;
            }
            op->value = VALUE_UNREAD;
        }
        if (is_ordered(op)) {
            search->puts[search->put_count++] = (uint32_t)i;
        }
        struct entry *call = &search->entries[made++];
        *call = (struct entry){ .at = 4 * op->call,
                                .op = (uint32_t)i,
                                .is_call = true,
                                .is_optional = reply_at == LINEAR_NEVER };
        if (reply_at != LINEAR_NEVER) {
            call->reply = &search->entries[made++];
            /* of equal places calls come first, so that they overlap; an unknown put's reply stands
             * just before that of the read that saw it */
            *call->reply =
                (struct entry){ .at = 4 * reply_at + 2 - is_unknown(op), .op = (uint32_t)i };
            search->required++;
        }
    }
    hashtab_fini(&sights);
    arena_fini(&arena);
    return made;
}

/* Which put an operation's answer speaks of: by its value, or by its version. Unknown operations
 * have no answer. */
static void find_sights(struct search *search, size_t count)
{
    struct hashtab by_value = { 0 }, by_version = { 0 };
    for (size_t i = 0; i < count; i++) {
        struct linear_op *op = &search->ops[i];
        search->seen[i] = NO_PUT;
        search->sights_left[i] = 0;
        if (op->kind == LINEAR_PUT && op->outcome != LINEAR_REFUSED &&
            op->outcome != LINEAR_NOTHING && op->value != VALUE_UNREAD) {
            hashtab_put(&by_value, op->value, op);
            if (op->version != 0) {
                hashtab_put(&by_version, op->version, op);
            }
        }
    }
    for (size_t i = 0; i < count; i++) {
        const struct linear_op *op = &search->ops[i];
        uint64_t version =
            is_unknown(op) || op->outcome == LINEAR_NOTHING ? 0 : reported_version(op);
        const struct linear_op *put = op->kind == LINEAR_GET && op->outcome == LINEAR_OK
                                          ? hashtab_find(&by_value, op->value)
                                      : version != 0 ? hashtab_find(&by_version, version)
                                                     : NULL;
        if (put) {
            search->seen[i] = (uint32_t)(put - search->ops);
            count_sight(search, (uint32_t)i, 1);
        }
    }
    hashtab_fini(&by_value);
    hashtab_fini(&by_version);
}

/* Puts came in the order of their calls, which is nearly that of their versions. */
static void sort_puts(struct search *search)
{
    for (size_t i = 1; i < search->put_count; i++) {
        uint32_t put = search->puts[i];
        size_t at = i;
        for (; at > 0 && search->ops[search->puts[at - 1]].version > search->ops[put].version;
             at--) {
            search->puts[at] = search->puts[at - 1];
        }
        search->puts[at] = put;
    }
}

static enum linear_verdict check(const struct linear_op *ops, size_t count, bool with_unread,
                                 uint64_t steps_max)
{
    struct search search = { .ops = mem_alloc((count + 1) * sizeof *ops) };
    memcpy(search.ops, ops, count * sizeof *ops);
    search.puts = mem_alloc((count + 1) * sizeof *search.puts);
    search.seen = mem_alloc((count + 1) * sizeof *search.seen);
    search.sights_left = mem_alloc((count + 1) * sizeof *search.sights_left);
    search.entries = mem_zalloc((2 * count + 1) * sizeof *search.entries);
    search.stack = mem_alloc((count + 1) * sizeof *search.stack);
    link_entries(&search, make_entries(&search, count, with_unread));
    find_sights(&search, count);
    sort_puts(&search);
    enum linear_verdict verdict = run(&search, steps_max);
    hashtab_fini(&search.visited);
    arena_fini(&search.cells);
    mem_free(search.entries);
    mem_free(search.stack);
    mem_free(search.puts);
    mem_free(search.seen);
    mem_free(search.sights_left);
    mem_free(search.ops);
    return verdict;
}

static enum linear_verdict judge(const struct linear_op *ops, size_t count, uint64_t steps_max)
{
    enum linear_verdict verdict = check(ops, count, false, steps_max);
    return verdict != LINEAR_YES && has_orphan(ops, count) ? check(ops, count, true, steps_max)
                                                           : verdict;
}

/* The history as it was known at `place`: what was not answered by then is pending. */
static enum linear_verdict judge_until(const struct linear_op *ops, size_t count, uint64_t place,
                                       uint64_t steps_max)
{
    struct linear_op *known = mem_alloc((count + 1) * sizeof *ops);
    size_t made = 0;
    for (size_t i = 0; i < count; i++) {
        if (ops[i].call > place) {
            continue;
        }
        known[made] = ops[i];
        if (ops[i].outcome != LINEAR_NOTHING && !is_unknown(&ops[i]) && ops[i].reply > place) {
            known[made].outcome = LINEAR_PENDING;
            known[made].reply = LINEAR_NEVER;
            known[made].version = 0;
        }
        made++;
    }
    enum linear_verdict verdict = judge(known, made, steps_max);
    mem_free(known);
    return verdict;
}

static int compare_places(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

/* The earliest reply up to which the history has no order: one that has an order has one up to each
 * place. What can't be decided counts as having one. */
static uint64_t find_stuck(const struct linear_op *ops, size_t count, uint64_t steps_max)
{
    uint64_t *replies = mem_alloc((count + 1) * sizeof *replies);
    size_t last = 0;
    for (size_t i = 0; i < count; i++) {
        if (ops[i].outcome != LINEAR_NOTHING && !is_unknown(&ops[i])) {
            replies[last++] = ops[i].reply;
        }
    }
    CHECK(last > 0); /* no answer, nothing to explain */
    qsort(replies, last, sizeof *replies, compare_places);
    size_t first = 0;
    for (last--; first < last;) {
        size_t middle = first + (last - first) / 2;
        if (judge_until(ops, count, replies[middle], steps_max) == LINEAR_NO) {
            last = middle;
        } else {
            first = middle + 1;
        }
    }
    uint64_t stuck = replies[first];
    mem_free(replies);
    return stuck;
}

enum linear_verdict linear_check(const struct linear_op *ops, size_t count, uint64_t steps_max,
                                 uint64_t *stuck)
{
    steps_max = steps_max ? steps_max : STEPS_MAX_DEFAULT;
    enum linear_verdict verdict = judge(ops, count, steps_max);
    if (stuck && verdict == LINEAR_NO) {
        *stuck = find_stuck(ops, count, steps_max);
    }
    return verdict;
}
