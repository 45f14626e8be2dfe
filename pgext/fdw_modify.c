/* fdw_modify.c: INSERT, UPDATE, DELETE and COPY: every change becomes a write in the transaction's
 * buffer (write_buffer.c).
 *
 *   row -> constraints -> key, value -> buffer            (no round trip)
 *   end of the statement: inserted keys are looked up, many at once, if a later error would come
 *                         too late (in a transaction block)
 *   commit -> fdw_commit.c
 *
 * UPDATE and DELETE know their row by a handle in its ctid, into the statement's read set: key,
 * version and, for UPDATE, what was stored. So the version that is checked at commit is that of the
 * very row that the plan worked on, whatever shape the plan has.
 *
 * I1: constraints hold: core does not check CHECK and NOT NULL of foreign tables, so it is done
 *     here.
 * I2: a command changes a row once, as with local tables: a second match is skipped; a row that the
 *     command itself made under the key of a row that it still has to change is a duplicate.
 */
#include "cairn_fdw.h"

#include "access/sysattr.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/explain.h"
#include "executor/executor.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "optimizer/appendinfo.h"
#include "optimizer/inherit.h"
#include "optimizer/optimizer.h"
#include "optimizer/pathnode.h"
#include "parser/parsetree.h"
#include "utils/memutils.h"

enum { PENDING_MAX = 1024 };

struct modify_state {
    struct table *table;
    struct connection *connection;
    CommandId cid;
    AttrNumber ctid_attnum, row_attnum; /* junk columns of the plan */
    bool checks_at_once; /* duplicates are errors of this statement, not of the commit */
    MemoryContext row_context, pending_context;
    MemoryContextCallback callback;
    struct cairn_request *pending; /* inserted keys, not yet looked up */
    struct cairn_result *results;
    int pending_count;
    bool has_results;
};

/* --- Planning */

static void add_targets(PlannerInfo *root, Index rtindex, RangeTblEntry *rte, Relation relation)
{
    Var *var = makeVar(rtindex, SelfItemPointerAttributeNumber, TIDOID, -1, InvalidOid, 0);

    add_row_identity_var(root, var, rtindex, "ctid");
    if (root->parse->returningList != NIL) { /* DELETE … RETURNING; UPDATE has it anyway */
        var = makeVar(rtindex, InvalidAttrNumber, RECORDOID, -1, InvalidOid, 0);
        add_row_identity_var(root, var, rtindex, "wholerow");
    }
}

static void refuse_on_conflict(OnConflictAction action, const char *name)
{
    if (action != ONCONFLICT_NONE) {
        ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                        errmsg("INSERT with ON CONFLICT is not supported for foreign table \"%s\"",
                               name)));
    }
}

static void refuse_attribute(const struct table *table, const struct column *column)
{
    if (column->role == ROLE_EXPIRES_AT) {
        ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                        errmsg("column \"%s\" of foreign table \"%s\" cannot be set yet",
                               column->name, table->name),
                        errdetail("Expiry of keys is not supported yet.")));
    }
    ereport(ERROR, (errcode(ERRCODE_GENERATED_ALWAYS),
                    errmsg("column \"%s\" of foreign table \"%s\" can only be read", column->name,
                           table->name),
                    errdetail("The cluster sets it when the row is written.")));
}

static bool is_attribute(const struct column *column)
{
    return column->role == ROLE_VERSION || column->role == ROLE_MODIFIED_AT ||
           column->role == ROLE_EXPIRES_AT || column->role == ROLE_SIZE;
}

static List *plan_modify(PlannerInfo *root, ModifyTable *plan, Index result_relation,
                         int subplan_index)
{
    RangeTblEntry *rte = planner_rt_fetch(result_relation, root);
    Relation relation = RelationIdGetRelation(rte->relid);
    struct table *table = table_describe(relation);

    refuse_on_conflict(plan->onConflictAction, table->name);
    if (plan->operation == CMD_UPDATE) {
        Bitmapset *updated = get_rel_all_updated_cols(root, find_base_rel(root, result_relation));

        for (int i = 0; i < table->column_count; i++) {
            if (is_attribute(&table->columns[i]) &&
                bms_is_member(i + 1 - FirstLowInvalidHeapAttributeNumber, updated)) {
                refuse_attribute(table, &table->columns[i]);
            }
        }
    }
    RelationClose(relation);
    return NIL;
}

static int is_updatable(Relation relation)
{
    return table_describe(relation)->updatable
               ? (1 << CMD_INSERT) | (1 << CMD_UPDATE) | (1 << CMD_DELETE)
               : 0;
}

/* --- Begin and end */

static void free_results(void *arg)
{
    struct modify_state *state = arg;

    for (int i = 0; state->has_results && i < state->pending_count; i++) {
        cairn_result_free(&state->results[i]);
    }
    state->has_results = false;
}

static struct modify_state *begin(EState *estate, ResultRelInfo *target, CommandId cid, Oid user_id)
{
    MemoryContext old = MemoryContextSwitchTo(estate->es_query_cxt);
    struct modify_state *state = palloc0(sizeof *state);

    state->table = table_describe(target->ri_RelationDesc);
    if (XactReadOnly) {
        ereport(ERROR, (errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
                        errmsg("cannot write foreign table \"%s\" in a read-only transaction",
                               state->table->name)));
    }
    state->connection = connection_get(state->table->server_id, user_id);
    write_buffer_get(state->connection); /* from here on the handle must stay */
    state->cid = cid;
    state->checks_at_once = IsTransactionBlock() || GetCurrentTransactionNestLevel() > 1;
    state->row_context = AllocSetContextCreate(estate->es_query_cxt, "cairn_fdw written row",
                                               ALLOCSET_DEFAULT_SIZES);
    state->pending_context = AllocSetContextCreate(estate->es_query_cxt, "cairn_fdw inserted keys",
                                                   ALLOCSET_DEFAULT_SIZES);
    state->callback = (MemoryContextCallback){ .func = free_results, .arg = state };
    MemoryContextRegisterResetCallback(estate->es_query_cxt, &state->callback);
    target->ri_FdwState = state;
    MemoryContextSwitchTo(old);
    return state;
}

static Oid user_of(EState *estate, ResultRelInfo *target)
{
    Index index = target->ri_RangeTableIndex;
    RangeTblEntry *rte;

    if (index == 0 && target->ri_RootResultRelInfo !=
                          NULL) { /* a routed partition: as whom the root is written */
        index = target->ri_RootResultRelInfo->ri_RangeTableIndex;
    }
    rte = index > 0 ? exec_rt_fetch(index, estate) : NULL;
    return rte != NULL && OidIsValid(rte->checkAsUser) ? rte->checkAsUser : GetUserId();
}

static void begin_modify(ModifyTableState *mtstate, ResultRelInfo *target, List *private,
                         int subplan_index, int eflags)
{
    EState *estate = mtstate->ps.state;
    struct modify_state *state;
    Plan *subplan = outerPlanState(mtstate)->plan;

    if (eflags & EXEC_FLAG_EXPLAIN_ONLY) {
        return;
    }
    state = begin(estate, target, estate->es_output_cid, user_of(estate, target));
    if (mtstate->operation != CMD_INSERT) {
        state->ctid_attnum = ExecFindJunkAttributeInTlist(subplan->targetlist, "ctid");
        state->row_attnum = ExecFindJunkAttributeInTlist(subplan->targetlist, "wholerow");
        if (!AttributeNumberIsValid(state->ctid_attnum)) {
            elog(ERROR, "could not find junk ctid column");
        }
    }
}

/* COPY, and rows routed to a partition. */
static void begin_insert(ModifyTableState *mtstate, ResultRelInfo *target)
{
    EState *estate = mtstate->ps.state;
    ModifyTable *plan = castNode(ModifyTable, mtstate->ps.plan);

    if (plan != NULL) {
        refuse_on_conflict(plan->onConflictAction,
                           RelationGetRelationName(target->ri_RelationDesc));
    }
    if (target->ri_FdwState == NULL) {
        begin(estate, target, plan != NULL ? estate->es_output_cid : GetCurrentCommandId(true),
              user_of(estate, target));
    }
}

/* Looks the inserted keys up: 23505 for one that is there. */
static void check_pending(struct modify_state *state)
{
    int asked = 0;

    for (int i = 0; i < state->pending_count; i++) {
        struct write_key *key = write_buffer_find(state->connection->buffer, state->pending[i].key,
                                                  state->pending[i].key_size);

        if (key != NULL && key->newest != NULL && write_oldest(key)->condition == CAIRN_IF_ABSENT) {
            state->pending[asked++] = state->pending[i];
        }
    }
    state->pending_count = asked;
    if (asked == 0) {
        return;
    }
    memset(state->results, 0, sizeof *state->results * asked);
    state->has_results = true;
    connection_call_many(state->connection, state->pending, asked, state->results, false);
    for (int i = 0; i < asked; i++) {
        if (state->results[i].status == 0) {
            ereport(ERROR,
                    (errcode(ERRCODE_UNIQUE_VIOLATION),
                     errmsg("duplicate key value in foreign table \"%s\"", state->table->name),
                     errdetail("Key %s already exists.",
                               row_key_detail(state->table, state->pending[i].key,
                                              state->pending[i].key_size))));
        }
    }
    free_results(state);
    state->pending_count = 0;
    MemoryContextReset(state->pending_context);
    state->pending = NULL;
}

static void end_modify(EState *estate, ResultRelInfo *target)
{
    struct modify_state *state = target->ri_FdwState;

    if (state != NULL && state->pending_count > 0) {
        check_pending(state);
    }
}

static void add_pending(struct modify_state *state, const char *key, int size)
{
    MemoryContext old;
    char *copy;

    if (!state->checks_at_once) {
        return;
    }
    old = MemoryContextSwitchTo(state->pending_context);
    if (state->pending == NULL) {
        state->pending = palloc(sizeof *state->pending * PENDING_MAX);
        state->results = palloc0(sizeof *state->results * PENDING_MAX);
    }
    copy = memcpy(palloc(size), key, size);
    state->pending[state->pending_count++] =
        (struct cairn_request){ .verb = CAIRN_GET_META, .key = copy, .key_size = size };
    MemoryContextSwitchTo(old);
    if (state->pending_count == PENDING_MAX) {
        check_pending(state);
    }
}

/* --- Rows */

static void check_constraints(EState *estate, ResultRelInfo *target, TupleTableSlot *slot,
                              bool is_update)
{
    Relation relation = target->ri_RelationDesc;

    if (relation->rd_att->constr != NULL) {
        ExecConstraints(target, slot, estate);
    }
    /* Inserted rows of a partitioned table were routed here; updated ones would have to leave,
     * which core does not do for us. */
    if (relation->rd_rel->relispartition && (is_update || target->ri_RootResultRelInfo == NULL)) {
        ExecPartitionCheck(target, slot, estate, true);
    }
}

static void raise_duplicate(struct modify_state *state, const char *key, int size)
{
    ereport(ERROR, (errcode(ERRCODE_UNIQUE_VIOLATION),
                    errmsg("duplicate key value in foreign table \"%s\"", state->table->name),
                    errdetail("Key %s already exists.", row_key_detail(state->table, key, size))));
}

/* The columns that the cluster sets are not known before the commit. */
static void forget_attributes(const struct table *table, TupleTableSlot *slot, int value_size)
{
    for (int i = 0; i < table->column_count; i++) {
        const struct column *column = &table->columns[i];

        if (column->role == ROLE_SIZE) {
            slot->tts_values[i] = column->type == INT4OID ? Int32GetDatum(value_size)
                                                          : Int64GetDatum((int64)value_size);
            slot->tts_isnull[i] = false;
        } else if (is_attribute(column)) {
            slot->tts_isnull[i] = true;
        }
    }
}

/* A row under a key that must have none. */
static void add_insert(struct modify_state *state, const char *key, int key_size, const char *value,
                       int value_size)
{
    struct write_key *own = write_buffer_find(write_buffer_get(state->connection), key, key_size);
    struct write_request request = {
        .kind = WRITE_PUT,
        .key = key,
        .key_size = key_size,
        .value = value,
        .value_size = value_size,
        .cid = state->cid,
        .is_insert = true,
        .condition = CAIRN_IF_ABSENT,
        .relid = state->table->relid,
    };

    if (own != NULL && own->newest != NULL) {
        if (own->newest->kind == WRITE_PUT) {
            raise_duplicate(state, key, key_size);
        }
        write_buffer_add(state->connection, &request);
        return;
    }
    write_buffer_add(state->connection, &request);
    add_pending(state, key, key_size);
}

static TupleTableSlot *exec_insert(EState *estate, ResultRelInfo *target, TupleTableSlot *slot,
                                   TupleTableSlot *plan_slot)
{
    struct modify_state *state = target->ri_FdwState;
    MemoryContext old;
    StringInfoData key;
    char *value;
    int size;

    check_constraints(estate, target, slot, false);
    slot_getallattrs(slot);
    for (int i = 0; i < state->table->column_count; i++) {
        if (is_attribute(&state->table->columns[i]) && !slot->tts_isnull[i]) {
            refuse_attribute(state->table, &state->table->columns[i]);
        }
    }
    MemoryContextReset(state->row_context);
    old = MemoryContextSwitchTo(state->row_context);
    initStringInfo(&key);
    row_key(state->table, slot, &key);
    value = row_value(state->table, slot, NULL, 0, &size);
    add_insert(state, key.data, key.len, value, size);
    MemoryContextSwitchTo(old);
    forget_attributes(state->table, slot, size);
    return slot;
}

static struct read_row *row_of(EState *estate, struct modify_state *state,
                               TupleTableSlot *plan_slot)
{
    bool isnull;
    Datum handle = ExecGetJunkAttribute(plan_slot, state->ctid_attnum, &isnull);

    if (isnull) {
        elog(ERROR, "ctid is NULL");
    }
    return read_set_get(estate, (ItemPointer)DatumGetPointer(handle));
}

/* May this command still change the row? False: it has already done so (I2). */
static bool row_is_unchanged(struct modify_state *state, const struct read_row *row)
{
    struct write_key *own =
        write_buffer_find(write_buffer_get(state->connection), row->key, row->key_size);
    const struct write *newest = own != NULL ? own->newest : NULL;

    if (newest == NULL || newest->cid < state->cid) {
        return true;
    }
    if (newest->cid > state->cid) {
        ereport(ERROR, (errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
                        errmsg("row to be changed was already modified by an operation triggered "
                               "by the current command"),
                        errdetail("Key %s.", key_quote(row->key, row->key_size))));
    }
    if (newest->is_insert) {
        raise_duplicate(state, row->key, row->key_size);
    }
    return false;
}

static TupleTableSlot *exec_update(EState *estate, ResultRelInfo *target, TupleTableSlot *slot,
                                   TupleTableSlot *plan_slot)
{
    struct modify_state *state = target->ri_FdwState;
    struct read_row *row = row_of(estate, state, plan_slot);
    struct write_request request = {
        .kind = WRITE_PUT,
        .key = row->key,
        .key_size = row->key_size,
        .cid = state->cid,
        .condition = CAIRN_IF_VERSION,
        .version = row->version,
        .relid = state->table->relid,
    };
    MemoryContext old;
    StringInfoData key;
    char *value;
    int size;

    check_constraints(estate, target, slot, true);
    if (!row_is_unchanged(state, row)) {
        return NULL;
    }
    MemoryContextReset(state->row_context);
    old = MemoryContextSwitchTo(state->row_context);
    initStringInfo(&key);
    row_key(state->table, slot, &key);
    value = row_value(state->table, slot, row->value, row->value_size, &size);
    if (key_compare(key.data, key.len, row->key, row->key_size) == 0) {
        request.value = value;
        request.value_size = size;
        write_buffer_add(state->connection, &request);
    } else {
        request.kind = WRITE_DELETE;
        write_buffer_add(state->connection, &request);
        add_insert(state, key.data, key.len, value, size);
    }
    MemoryContextSwitchTo(old);
    forget_attributes(state->table, slot, size);
    return slot;
}

static TupleTableSlot *exec_delete(EState *estate, ResultRelInfo *target, TupleTableSlot *slot,
                                   TupleTableSlot *plan_slot)
{
    struct modify_state *state = target->ri_FdwState;
    struct read_row *row = row_of(estate, state, plan_slot);
    struct write_request request = {
        .kind = WRITE_DELETE,
        .key = row->key,
        .key_size = row->key_size,
        .cid = state->cid,
        .condition = CAIRN_IF_VERSION,
        .version = row->version,
        .relid = state->table->relid,
    };

    if (!row_is_unchanged(state, row)) {
        return NULL;
    }
    write_buffer_add(state->connection, &request);
    if (AttributeNumberIsValid(state->row_attnum)) { /* for RETURNING */
        bool isnull;
        Datum datum = ExecGetJunkAttribute(plan_slot, state->row_attnum, &isnull);

        if (!isnull) {
            HeapTupleData tuple = { 0 };

            tuple.t_data = DatumGetHeapTupleHeader(datum);
            tuple.t_len = HeapTupleHeaderGetDatumLength(tuple.t_data);
            ItemPointerSetInvalid(&tuple.t_self);
            ExecForceStoreHeapTuple(&tuple, slot, false);
            ExecMaterializeSlot(slot);
        }
    }
    return slot;
}

static void explain_modify(ModifyTableState *mtstate, ResultRelInfo *target, List *private,
                           int subplan_index, ExplainState *es)
{
    struct modify_state *state = target->ri_FdwState;

    ExplainPropertyText("Cairn Writes", "buffered until commit", es);
    if (es->analyze && state != NULL) {
        ExplainPropertyUInteger("Buffered Keys", NULL,
                                write_buffer_count(write_buffer_get(state->connection)), es);
        ExplainPropertyUInteger("Buffered Bytes", NULL,
                                write_buffer_bytes(write_buffer_get(state->connection)), es);
    }
}

void modify_init(FdwRoutine *routine)
{
    routine->AddForeignUpdateTargets = add_targets;
    routine->PlanForeignModify = plan_modify;
    routine->BeginForeignModify = begin_modify;
    routine->ExecForeignInsert = exec_insert;
    routine->ExecForeignUpdate = exec_update;
    routine->ExecForeignDelete = exec_delete;
    routine->EndForeignModify = end_modify;
    routine->BeginForeignInsert = begin_insert;
    routine->EndForeignInsert = end_modify;
    routine->IsForeignRelUpdatable = is_updatable;
    routine->ExplainForeignModify = explain_modify;
}
