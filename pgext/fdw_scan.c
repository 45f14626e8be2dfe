/* fdw_scan.c: reads rows, merged with the transaction's own writes.
 *
 *   begin -> (first row) arguments are evaluated -> single keys, in chunks of one request each
 *                                                -> or one walk over a range, merged with the write buffer by key
 *
 * rescan forgets the arguments; end closes. An error skips end: a callback of the query's memory
 * context closes then.
 *
 * I1: a key shows once: own writes hide what is stored under the same key, visible by command id
 *     (write_visible).
 * I2: rows come in key order, descending if the plan says so.
 * I3: an error of the store is raised; it is never the end of the rows. */
#include "cairn_fdw.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/explain.h"
#include "foreign/foreign.h"
#include "lib/ilist.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/ruleutils.h"
#include "utils/snapmgr.h"

enum { CHUNK_KEYS_MIN = 64, CHUNK_KEYS_MAX = 1024, CHUNK_BYTES = 4 << 20 };

struct scan_state {
    struct table *table;
    struct connection *connection; /* NULL: only explained */
    enum strategy strategy;
    bool is_reverse;
    int limit_hint;
    int handle; /* 0: none, 1: rows are deleted, 2: rows are updated */
    bool *wanted;
    bool needs_value;
    int argument_count;
    struct key_argument *arguments;
    List *expressions; /* ExprState * */
    MemoryContext run_context, row_context;
    MemoryContextCallback callback;
    bool is_counted; /* in connection->scans */

    /* One run, from first row to rescan. */
    bool is_started;
    CommandId curcid;
    struct key_range range;
    struct key_list keys;

    /* Single keys: a chunk of them, answered by own writes or results. */
    int next_key, chunk_at, chunk_count, chunk_capacity, chunk_size;
    struct cairn_request *requests;
    struct cairn_result *results;
    struct write **chunk_writes;
    int *chunk_result; /* index into results, -1: own write */
    int result_count;

    /* A range: the heads of both streams. */
    struct cairn_scan *scan;
    struct cairn_entry entry;
    bool has_entry, is_scan_over;
    struct write_key *own;

    /* For EXPLAIN ANALYZE. */
    uint64 runs, round_trips, keys_read, own_rows;
};

/* --- What UPDATE and DELETE will need: see read_set_add */

struct read_set {
    dlist_node node;
    EState *estate;
    MemoryContext context;
    MemoryContextCallback callback;
    struct read_row *rows;
    int64 count, capacity;
};

/* The read sets of running statements; few, and each is gone with its statement's memory. */
static dlist_head read_sets = DLIST_STATIC_INIT(read_sets);

enum { HANDLES_PER_BLOCK = 60000 };

static void read_set_unlink(void *arg)
{
    dlist_delete(&((struct read_set *)arg)->node);
}

static struct read_set *read_set_of(EState *estate, bool make)
{
    dlist_iter walk;
    struct read_set *set;

    dlist_foreach(walk, &read_sets)
    {
        set = dlist_container(struct read_set, node, walk.cur);
        if (set->estate == estate) {
            return set;
        }
    }
    if (!make) {
        elog(ERROR, "a row to be modified was read by no scan of this statement");
    }
    set = MemoryContextAllocZero(estate->es_query_cxt, sizeof *set);
    set->estate = estate;
    set->context =
        AllocSetContextCreate(estate->es_query_cxt, "cairn_fdw rows read", ALLOCSET_DEFAULT_SIZES);
    set->callback = (MemoryContextCallback){ .func = read_set_unlink, .arg = set };
    dlist_push_head(&read_sets, &set->node);
    MemoryContextRegisterResetCallback(estate->es_query_cxt, &set->callback);
    return set;
}

void read_set_add(EState *estate, const struct stored_row *row, bool keep_value, ItemPointer handle)
{
    struct read_set *set = read_set_of(estate, true);
    struct read_row *read;
    MemoryContext old = MemoryContextSwitchTo(set->context);

    if (set->count == set->capacity) {
        set->capacity = Max(set->capacity * 2, 64);
        set->rows = set->rows == NULL
                        ? MemoryContextAllocHuge(set->context, sizeof *set->rows * set->capacity)
                        : repalloc_huge(set->rows, sizeof *set->rows * set->capacity);
    }
    ItemPointerSet(handle, (BlockNumber)(set->count / HANDLES_PER_BLOCK),
                   (OffsetNumber)(set->count % HANDLES_PER_BLOCK + 1));
    read = &set->rows[set->count++];
    *read = (struct read_row){ .key_size = row->key_size,
                               .version = row->meta != NULL ? row->meta->version : 0 };
    read->key = palloc(row->key_size + 1);
    memcpy(read->key, row->key, row->key_size);
    if (keep_value && row->value != NULL) {
        read->value = MemoryContextAllocHuge(set->context, row->value_size + 1);
        memcpy(read->value, row->value, row->value_size);
        read->value_size = row->value_size;
    }
    MemoryContextSwitchTo(old);
}

struct read_row *read_set_get(EState *estate, ItemPointer handle)
{
    struct read_set *set = read_set_of(estate, false);
    int64 at = (int64)ItemPointerGetBlockNumberNoCheck(handle) * HANDLES_PER_BLOCK +
               ItemPointerGetOffsetNumberNoCheck(handle) - 1;

    if (at < 0 || at >= set->count) {
        elog(ERROR, "a row to be modified was not read by this statement");
    }
    return &set->rows[at];
}

/* --- Begin and end */

void isolation_check(struct connection *connection)
{
    if (IsolationUsesXactSnapshot() && !connection->options.isolation_downgrade) {
        ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                        errmsg("server \"%s\" cannot be read with isolation level %s",
                               connection->server_name,
                               IsolationIsSerializable() ? "SERIALIZABLE" : "REPEATABLE READ"),
                        errdetail("Its rows are not read from one snapshot per transaction yet."),
                        errhint("Use READ COMMITTED, or set the server's option isolation to "
                                "'downgrade' to read the newest rows at any level.")));
    }
}

static void close_run(struct scan_state *state)
{
    for (int i = 0; i < state->result_count; i++) {
        cairn_result_free(&state->results[i]);
    }
    state->result_count = 0;
    if (state->scan != NULL) {
        struct cairn_scan *scan = state->scan;

        state->scan = NULL;
        connection_scan_close(state->connection, scan);
    }
}

static void close_scan(void *arg)
{
    struct scan_state *state = arg;

    if (state->is_counted) {
        state->is_counted = false;
        close_run(state);
        state->connection->scans--;
    }
}

static bool has_exec_param(Node *node, void *context)
{
    if (node == NULL) {
        return false;
    }
    if (IsA(node, Param) && ((Param *)node)->paramkind == PARAM_EXEC) {
        return true;
    }
    return expression_tree_walker(node, has_exec_param, context);
}

static void read_plan(struct scan_state *state, ForeignScan *plan)
{
    List *kinds = list_nth(plan->fdw_private, SCAN_KINDS),
         *key_numbers = list_nth(plan->fdw_private, SCAN_KEY_NUMBERS);
    ListCell *cell;
    int i = 0;

    state->strategy = intVal(list_nth(plan->fdw_private, SCAN_STRATEGY));
    state->is_reverse = intVal(list_nth(plan->fdw_private, SCAN_REVERSE)) != 0;
    state->limit_hint = intVal(list_nth(plan->fdw_private, SCAN_LIMIT));
    state->handle = intVal(list_nth(plan->fdw_private, SCAN_NEEDS_HANDLE));
    state->wanted = palloc0(sizeof(bool) * (state->table->column_count + 1));
    state->needs_value = state->handle == 2;
    foreach (cell, (List *)list_nth(plan->fdw_private, SCAN_WANTED)) {
        enum column_role role = table_column(state->table, lfirst_int(cell))->role;

        state->wanted[lfirst_int(cell) - 1] = true;
        state->needs_value |= role == ROLE_VALUE || role == ROLE_FIELD;
    }
    state->argument_count = list_length(plan->fdw_exprs);
    state->arguments = palloc0(sizeof *state->arguments * (state->argument_count + 1));
    foreach (cell, plan->fdw_exprs) {
        state->arguments[i].kind = list_nth_int(kinds, i);
        state->arguments[i].key_number = list_nth_int(key_numbers, i);
        state->arguments[i].type = getBaseType(exprType(lfirst(cell)));
        i++;
    }
}

static void begin_scan(ForeignScanState *node, int eflags)
{
    ForeignScan *plan = (ForeignScan *)node->ss.ps.plan;
    EState *estate = node->ss.ps.state;
    struct scan_state *state = palloc0(sizeof *state);
    RangeTblEntry *rte = exec_rt_fetch(plan->scan.scanrelid, estate);

    node->fdw_state = state;
    state->table = table_describe(node->ss.ss_currentRelation);
    read_plan(state, plan);
    state->expressions = ExecInitExprList(plan->fdw_exprs, &node->ss.ps);
    state->run_context =
        AllocSetContextCreate(estate->es_query_cxt, "cairn_fdw run", ALLOCSET_DEFAULT_SIZES);
    state->row_context =
        AllocSetContextCreate(estate->es_query_cxt, "cairn_fdw row", ALLOCSET_DEFAULT_SIZES);
    if (eflags & EXEC_FLAG_EXPLAIN_ONLY) {
        return;
    }
    state->connection = connection_get(
        state->table->server_id, OidIsValid(rte->checkAsUser) ? rte->checkAsUser : GetUserId());
    isolation_check(state->connection);
    state->connection->scans++;
    state->is_counted = true;
    state->callback = (MemoryContextCallback){ .func = close_scan, .arg = state };
    MemoryContextRegisterResetCallback(estate->es_query_cxt, &state->callback);
}

static void end_scan(ForeignScanState *node)
{
    if (node->fdw_state != NULL) {
        close_scan(node->fdw_state);
    }
}

static void rescan(ForeignScanState *node)
{
    struct scan_state *state = node->fdw_state;

    close_run(state);
    state->is_started = false;
}

/* --- Starting a run */

/* Arguments, then keys or range, all in the run's memory. */
static void evaluate(ForeignScanState *node)
{
    struct scan_state *state = node->fdw_state;
    ExprContext *context = node->ss.ps.ps_ExprContext;
    MemoryContext old;
    ListCell *cell;
    int i = 0;

    MemoryContextReset(state->run_context);
    old = MemoryContextSwitchTo(state->run_context);
    foreach (cell, state->expressions) {
        struct key_argument *argument = &state->arguments[i++];

        argument->value = ExecEvalExpr((ExprState *)lfirst(cell), context, &argument->is_null);
    }
    if (state->strategy == STRATEGY_POINT || state->strategy == STRATEGY_MULTI) {
        pushdown_keys(state->table, state->arguments, state->argument_count, &state->keys);
    } else {
        pushdown_range(state->table, state->arguments, state->argument_count, &state->range);
    }
    MemoryContextSwitchTo(old);
}

/* Where own writes begin in the range, in the direction of the scan. */
static struct write_key *first_own(struct scan_state *state)
{
    struct write_buffer *buffer = state->connection->buffer;

    if (buffer == NULL) {
        return NULL;
    }
    return state->is_reverse
               ? write_buffer_last_below(buffer, state->range.to.data, state->range.to.len)
               : write_buffer_first_at_least(buffer, state->range.from.data, state->range.from.len);
}

static void open_range(struct scan_state *state)
{
    struct cairn_scan_options options = {
        .from = state->range.from.data,
        .from_size = Min(state->range.from.len, CAIRN_KEY_BYTES_MAX),
        .to = state->range.to.data,
        .to_size = state->range.to.len,
        .reverse = state->is_reverse,
        .page_entries = state->limit_hint > 0 ? state->limit_hint : state->table->fetch_size,
        .meta_only = !state->needs_value, /* not keys only: directories are told by their record */
    };

    if (options.to_size >
        CAIRN_KEY_BYTES_MAX) { /* a wider bound; each key is compared with the real one */
        char *bound = MemoryContextAlloc(state->run_context, CAIRN_KEY_BYTES_MAX);

        memcpy(bound, state->range.to.data, CAIRN_KEY_BYTES_MAX);
        options.to_size = prefix_successor(bound, CAIRN_KEY_BYTES_MAX);
        options.to = bound;
    }
    state->scan = connection_scan_open(state->connection, &options);
}

static void start_run(ForeignScanState *node)
{
    struct scan_state *state = node->fdw_state;

    evaluate(node);
    state->is_started = true;
    state->runs++;
    state->curcid = node->ss.ps.state->es_snapshot->curcid;
    state->next_key = 0;
    state->chunk_at = state->chunk_count = 0;
    state->chunk_size =
        state->limit_hint > 0 ? Min(state->limit_hint, CHUNK_KEYS_MAX) : CHUNK_KEYS_MIN;
    state->has_entry = false;
    state->is_scan_over = true;
    state->own = NULL;
    if (state->strategy != STRATEGY_POINT && state->strategy != STRATEGY_MULTI &&
        !state->range.is_empty) {
        state->is_scan_over = false;
        state->own = first_own(state);
        open_range(state);
    }
}

/* --- Single keys */

static void reserve_chunk(struct scan_state *state, MemoryContext context, int count)
{
    MemoryContext old;

    if (count <= state->chunk_capacity) {
        return;
    }
    old = MemoryContextSwitchTo(context);
    state->requests = palloc0(sizeof *state->requests * count);
    state->results = palloc0(sizeof *state->results * count);
    state->chunk_writes = palloc0(sizeof *state->chunk_writes * count);
    state->chunk_result = palloc0(sizeof *state->chunk_result * count);
    state->chunk_capacity = count;
    MemoryContextSwitchTo(old);
}

static struct key_item *nth_key(struct scan_state *state, int n)
{
    return &state->keys.items[state->is_reverse ? state->keys.count - 1 - n : n];
}

/* Asks for the next keys at once; those with own writes are not asked for. */
static void fetch_chunk(ForeignScanState *node)
{
    struct scan_state *state = node->fdw_state;
    int count = Min(state->chunk_size, state->keys.count - state->next_key), asked = 0;
    size_t bytes = 0;

    close_run(state);
    reserve_chunk(state, node->ss.ps.state->es_query_cxt, count);
    for (int i = 0; i < count; i++) {
        struct key_item *item = nth_key(state, state->next_key + i);
        struct write_key *own =
            state->connection->buffer != NULL
                ? write_buffer_find(state->connection->buffer, item->bytes, item->size)
                : NULL;

        state->chunk_writes[i] = own != NULL ? write_visible(own, state->curcid) : NULL;
        state->chunk_result[i] = -1;
        if (state->chunk_writes[i] == NULL) {
            state->requests[asked] = (struct cairn_request){
                .verb = state->needs_value ? CAIRN_GET : CAIRN_GET_META,
                .key = item->bytes,
                .key_size = item->size,
            };
            state->chunk_result[i] = asked++;
        }
    }
    memset(state->results, 0, sizeof *state->results * count);
    state->result_count = asked;
    if (asked == 1) {
        connection_call(state->connection, &state->requests[0], &state->results[0]);
    } else if (asked > 1) {
        connection_call_many(state->connection, state->requests, asked, state->results, false);
    }
    state->round_trips += asked > 0;
    state->keys_read += asked;
    for (int i = 0; i < asked; i++) {
        bytes += state->results[i].value_size;
    }
    state->chunk_at = 0;
    state->chunk_count = count;
    if (bytes < CHUNK_BYTES / 4) {
        state->chunk_size = Min(state->chunk_size * 4, CHUNK_KEYS_MAX);
    }
}

/* The next row, or false. What it points to lives until the next call. */
static bool next_by_key(ForeignScanState *node, struct stored_row *row)
{
    struct scan_state *state = node->fdw_state;

    for (;;) {
        struct key_item *item;
        int at = state->chunk_at;

        if (at == state->chunk_count) {
            state->next_key += state->chunk_count;
            state->chunk_count = 0;
            if (state->next_key >= state->keys.count) {
                return false;
            }
            fetch_chunk(node);
            continue;
        }
        state->chunk_at++;
        item = nth_key(state, state->next_key + at);
        *row = (struct stored_row){ .key = item->bytes, .key_size = item->size };
        if (state->chunk_writes[at] != NULL) {
            if (state->chunk_writes[at]->kind == WRITE_DELETE) {
                continue;
            }
            row->value = state->chunk_writes[at]->value;
            row->value_size = row->size = state->chunk_writes[at]->value_size;
            state->own_rows++;
            return true;
        } else {
            struct cairn_result *result = &state->results[state->chunk_result[at]];

            if (result->status == CAIRN_NOT_FOUND ||
                (result->meta.attributes.flags & CAIRN_FLAG_DIRECTORY) != 0) {
                continue;
            }
            if (result->status != 0) {
                connection_raise(state->connection, result->status, NULL);
            }
            row->value = result->value;
            row->value_size = result->value_size;
            row->size = result->meta.size;
            row->meta = &result->meta;
            return true;
        }
    }
}

/* --- Ranges */

static void advance_own(struct scan_state *state)
{
    state->own = state->is_reverse ? state->own->previous : state->own->next[0];
}

/* Moves to the next own key that has something to say and is in the range. */
static struct write *peek_own(struct scan_state *state)
{
    while (state->own != NULL) {
        struct write *write = write_visible(state->own, state->curcid);

        if (!key_range_contains(&state->range, state->own->bytes, state->own->size)) {
            state->own = NULL;
            break;
        }
        if (write != NULL) {
            return write;
        }
        advance_own(state);
    }
    return NULL;
}

static void peek_entry(struct scan_state *state)
{
    while (!state->has_entry && !state->is_scan_over) {
        uint64 before = state->connection->round_trips;

        if (connection_scan_next(state->connection, state->scan, &state->entry) == 0) {
            state->is_scan_over = true;
        } else {
            state->keys_read++;
            state->has_entry =
                (state->entry.meta.attributes.flags & CAIRN_FLAG_DIRECTORY) == 0 &&
                key_range_contains(&state->range, state->entry.key, state->entry.key_size);
        }
        state->round_trips += state->connection->round_trips - before;
    }
}

static bool next_in_range(struct scan_state *state, struct stored_row *row)
{
    for (;;) {
        struct write *own = peek_own(state);
        int order = 0; /* negative: own first */

        peek_entry(state);
        if (own == NULL && !state->has_entry) {
            return false;
        }
        if (own == NULL) {
            order = 1;
        } else if (!state->has_entry) {
            order = -1;
        } else {
            order = key_compare(state->own->bytes, state->own->size, state->entry.key,
                                state->entry.key_size);
            order = state->is_reverse ? -order : order;
        }
        if (order > 0) {
            state->has_entry = false; /* borrowed until the next call */
            *row = (struct stored_row){ .key = state->entry.key,
                                        .key_size = state->entry.key_size,
                                        .value = state->entry.value,
                                        .value_size = state->entry.value_size,
                                        .size = state->entry.meta.size,
                                        .meta = &state->entry.meta };
            return true;
        }
        if (order == 0) {
            state->has_entry = false;
        }
        *row = (struct stored_row){ .key = state->own->bytes,
                                    .key_size = state->own->size,
                                    .value = own->value,
                                    .value_size = own->value_size,
                                    .size = own->value_size };
        advance_own(state);
        if (own->kind == WRITE_PUT) {
            state->own_rows++;
            return true;
        }
    }
}

/* --- Rows */

static TupleTableSlot *iterate(ForeignScanState *node)
{
    struct scan_state *state = node->fdw_state;
    TupleTableSlot *slot = node->ss.ss_ScanTupleSlot;
    bool is_by_key = state->strategy == STRATEGY_POINT || state->strategy == STRATEGY_MULTI;
    MemoryContext old;
    struct stored_row row;
    ItemPointerData handle;

    if (!state->is_started) {
        start_run(node);
    }
    ExecClearTuple(slot);
    while (is_by_key ? next_by_key(node, &row) : next_in_range(state, &row)) {
        bool is_row;

        CHECK_FOR_INTERRUPTS();
        MemoryContextReset(state->row_context);
        old = MemoryContextSwitchTo(state->row_context);
        is_row = row_store(state->table, &row, state->wanted, slot);
        MemoryContextSwitchTo(old);
        if (!is_row) {
            continue;
        }
        if (state->handle != 0) {
            read_set_add(node->ss.ps.state, &row, state->handle == 2, &handle);
            slot->tts_tid = handle;
        }
        return slot;
    }
    return slot;
}

/* --- EXPLAIN */

static void explain_filter(ForeignScanState *node, ExplainState *es)
{
    ForeignScan *plan = (ForeignScan *)node->ss.ps.plan;
    bool use_prefix = list_length(es->rtable) > 1 || es->verbose;
    List *context;

    if (plan->fdw_recheck_quals != NIL) {
        context = set_deparse_context_plan(es->deparse_cxt, (Plan *)plan, NIL);
        ExplainPropertyText("Remote Filter",
                            deparse_expression((Node *)make_ands_explicit(plan->fdw_recheck_quals),
                                               context, use_prefix, false),
                            es);
    }
}

static void explain_keys(struct scan_state *state, ExplainState *es, bool is_known)
{
    StringInfoData text;

    initStringInfo(&text);
    if (state->strategy == STRATEGY_POINT || state->strategy == STRATEGY_MULTI) {
        appendStringInfoString(&text, strategy_name(state->strategy));
        if (state->strategy == STRATEGY_MULTI && is_known) {
            appendStringInfo(&text, " (%d)", state->keys.count);
        }
        ExplainPropertyText("Cairn Strategy", text.data, es);
        resetStringInfo(&text);
        for (int i = 0; is_known && i < Min(state->keys.count, 3); i++) {
            appendStringInfo(&text, "%s%s", i > 0 ? ", " : "",
                             key_quote(state->keys.items[i].bytes, state->keys.items[i].size));
        }
        if (state->keys.count > 3) {
            appendStringInfoString(&text, ", ...");
        }
        ExplainPropertyText("Keys",
                            !is_known                ? "set by parameters"
                            : state->keys.count == 0 ? "none"
                                                     : text.data,
                            es);
        return;
    }
    ExplainPropertyText("Cairn Strategy", strategy_name(state->strategy), es);
    if (!is_known) {
        appendStringInfoString(&text, "set by parameters");
    } else if (state->range.is_empty) {
        appendStringInfoString(&text, "none");
    } else {
        appendStringInfo(
            &text, "[%s, %s)", key_quote(state->range.from.data, state->range.from.len),
            state->range.to.len > 0 ? key_quote(state->range.to.data, state->range.to.len) : "");
    }
    ExplainPropertyText("Key Range", text.data, es);
}

static void explain_scan(ForeignScanState *node, ExplainState *es)
{
    struct scan_state *state = node->fdw_state;
    ForeignScan *plan = (ForeignScan *)node->ss.ps.plan;
    bool is_fixed = !has_exec_param((Node *)plan->fdw_exprs, NULL);
    bool is_known = state->is_started && (is_fixed || state->runs == 1);

    if (!is_known && is_fixed) {
        evaluate(node);
        is_known = true;
    }
    explain_keys(state, es, is_known);
    if (state->is_reverse) {
        ExplainPropertyText("Key Order", "descending", es);
    }
    explain_filter(node, es);
    if (state->limit_hint > 0 && state->strategy > STRATEGY_MULTI) {
        ExplainPropertyInteger("Page Size", NULL, state->limit_hint, es);
    }
    if (es->analyze && state->connection != NULL) {
        ExplainPropertyUInteger("Round Trips", NULL, state->round_trips, es);
        ExplainPropertyUInteger("Keys Read", NULL, state->keys_read, es);
        if (state->own_rows > 0) {
            ExplainPropertyUInteger("Own Writes Read", NULL, state->own_rows, es);
        }
    }
}

void scan_init(FdwRoutine *routine)
{
    routine->BeginForeignScan = begin_scan;
    routine->IterateForeignScan = iterate;
    routine->ReScanForeignScan = rescan;
    routine->EndForeignScan = end_scan;
    routine->ExplainForeignScan = explain_scan;
}
