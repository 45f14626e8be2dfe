/* fdw_plan.c: the planner's callbacks.
 *
 * Costs count round trips first: one costs as much as REQUEST_COST, about that many sequential
 * pages; an entry that comes with it is cheap. Raw tables give their rows in key order whatever the
 * strategy, so paths carry pathkeys when the query can use them; ORDER BY key, LIMIT, min(key) and
 * merge joins then need nothing more. */
#include "cairn_fdw.h"

#include "access/table.h"
#include "access/sysattr.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "optimizer/pathnode.h"
#include "optimizer/paths.h"
#include "optimizer/planmain.h"
#include "optimizer/restrictinfo.h"
#include "utils/pg_locale.h"
#include "utils/typcache.h"

#define REQUEST_COST 25.0
#define ENTRY_COST 0.03
/* Without ANALYZE: large enough that lookups by key win over walks, as they should when in doubt.
 */
#define TUPLES_DEFAULT 100000.0

struct plan_info {
    struct table *table;
    struct access access;
};

/* One way to read the table. */
struct path_cost {
    double rows, startup, total;
};

static void get_size(PlannerInfo *root, RelOptInfo *rel, Oid relid)
{
    struct plan_info *info = palloc0(sizeof *info);
    Relation relation = table_open(relid, NoLock);

    info->table = table_describe(relation);
    table_close(relation, NoLock);
    rel->fdw_private = info;
    if (rel->tuples <= 0) {
        rel->tuples = TUPLES_DEFAULT;
    }
    pushdown_choose(root, rel, info->table, rel->baserestrictinfo, &info->access);
    set_baserel_size_estimates(root, rel);
    if (info->access.strategy == STRATEGY_POINT) {
        rel->rows = 1;
    } else if (info->access.strategy == STRATEGY_MULTI) {
        rel->rows = clamp_row_est(Min(info->access.rows_any, rel->tuples));
    }
}

/* The entries that the strategy reads, and what reading them costs. */
static struct path_cost cost_of(PlannerInfo *root, RelOptInfo *rel, const struct access *access,
                                double rows)
{
    struct path_cost cost = { .rows = rows, .startup = REQUEST_COST };
    double entries = rel->tuples;
    List *used = NIL;
    ListCell *cell;

    if (access->strategy == STRATEGY_POINT) {
        entries = 1;
    } else if (access->strategy == STRATEGY_MULTI) {
        entries = access->rows_any;
    } else {
        foreach (cell, access->clauses) {
            used = lappend(used, ((struct key_clause *)lfirst(cell))->rinfo);
        }
        entries = clamp_row_est(entries *
                                clauselist_selectivity(root, used, rel->relid, JOIN_INNER, NULL));
    }
    cost.total = cost.startup + entries * (ENTRY_COST + cpu_tuple_cost) +
                 rel->baserestrictcost.startup + entries * rel->baserestrictcost.per_tuple;
    return cost;
}

/* The query's order by key, if it has one: ascending or descending. */
static List *key_pathkeys(PlannerInfo *root, RelOptInfo *rel, const struct table *table,
                          bool reverse)
{
    AttrNumber attnum = table->key_attnums[0];
    const struct column *column = table_column(table, attnum);
    Oid type = column->type == VARCHAROID ? TEXTOID : column->type;
    TypeCacheEntry *entry = lookup_type_cache(type, TYPECACHE_LT_OPR | TYPECACHE_GT_OPR);
    Expr *expression =
        (Expr *)makeVar(rel->relid, attnum, column->declared, column->typmod, column->collation, 0);

    if (!pushdown_column_is_ordered(table)) {
        return NIL;
    }
    if (type == TEXTOID && !lc_collate_is_c(column->collation)) {
        /* ORDER BY key COLLATE "C" is ordered all the same. */
        expression = (Expr *)applyRelabelType((Node *)expression, column->declared, column->typmod,
                                              C_COLLATION_OID, COERCE_IMPLICIT_CAST, -1, true);
    }
    return build_expression_pathkey(root, expression, NULL, reverse ? entry->gt_opr : entry->lt_opr,
                                    rel->relids, false);
}

static void add_paths(PlannerInfo *root, RelOptInfo *rel, const struct plan_info *info,
                      const struct access *access, Relids outer, double rows)
{
    struct path_cost cost = cost_of(root, rel, access, rows);

    add_path(rel,
             (Path *)create_foreignscan_path(root, rel, NULL, cost.rows, cost.startup, cost.total,
                                             NIL, outer, NULL, list_make1(makeInteger(0))));
    for (int reverse = 0; reverse <= 1; reverse++) {
        List *pathkeys = key_pathkeys(root, rel, info->table, reverse);

        if (pathkeys != NIL && has_useful_pathkeys(root, rel)) {
            add_path(rel, (Path *)create_foreignscan_path(root, rel, NULL, cost.rows, cost.startup,
                                                          cost.total, pathkeys, outer, NULL,
                                                          list_make1(makeInteger(reverse))));
        }
    }
}

static bool member_is_key(PlannerInfo *root, RelOptInfo *rel, EquivalenceClass *ec,
                          EquivalenceMember *em, void *arg)
{
    int key_number;

    return pushdown_match_key(arg, rel->relid, (Node *)em->em_expr, &key_number);
}

/* The sets of other tables whose columns could be compared with the key. */
static List *interesting_outers(PlannerInfo *root, RelOptInfo *rel, struct table *table)
{
    List *clauses = list_copy(rel->joininfo), *outers = NIL;
    ListCell *cell, *seen;

    if (rel->has_eclass_joins) {
        clauses =
            list_concat(clauses, generate_implied_equalities_for_column(
                                     root, rel, member_is_key, table, rel->lateral_referencers));
    }
    foreach (cell, clauses) {
        RestrictInfo *rinfo = lfirst_node(RestrictInfo, cell);
        Relids outer;
        bool is_new = true;

        if (!join_clause_is_movable_to(rinfo, rel)) {
            continue;
        }
        outer = bms_del_member(bms_union(rinfo->clause_relids, rel->lateral_relids), rel->relid);
        if (bms_is_empty(outer)) {
            continue;
        }
        foreach (seen, outers) {
            is_new &= !bms_equal(lfirst(seen), outer);
        }
        if (is_new) {
            outers = lappend(outers, outer);
        }
    }
    return outers;
}

static void get_paths(PlannerInfo *root, RelOptInfo *rel, Oid relid)
{
    struct plan_info *info = rel->fdw_private;
    ListCell *cell;

    add_paths(root, rel, info, &info->access, rel->lateral_relids, rel->rows);
    foreach (cell, interesting_outers(root, rel, info->table)) {
        ParamPathInfo *param = get_baserel_parampathinfo(root, rel, lfirst(cell));
        struct access access;
        double rows;

        pushdown_choose(root, rel, info->table,
                        list_concat_copy(rel->baserestrictinfo, param->ppi_clauses), &access);
        if (access.strategy >= info->access.strategy &&
            list_length(access.clauses) <= list_length(info->access.clauses)) {
            continue; /* the other table's columns don't narrow the keys */
        }
        rows = access.strategy == STRATEGY_POINT   ? 1
               : access.strategy == STRATEGY_MULTI ? Min(param->ppi_rows, access.rows_any)
                                                   : param->ppi_rows;
        param->ppi_rows = clamp_row_est(Min(param->ppi_rows, rows));
        add_paths(root, rel, info, &access, lfirst(cell), param->ppi_rows);
    }
}

/* Columns that the query looks at, as attnums; *has_ctid: the row's identity too. */
static List *wanted_columns(RelOptInfo *rel, const struct table *table, List *local_quals,
                            bool *has_ctid)
{
    Bitmapset *used = NULL;
    List *wanted = NIL;

    pull_varattnos((Node *)rel->reltarget->exprs, rel->relid, &used);
    pull_varattnos((Node *)local_quals, rel->relid, &used);
    for (int i = 1; i <= table->column_count; i++) {
        if (bms_is_member(0 - FirstLowInvalidHeapAttributeNumber, used) ||
            bms_is_member(i - FirstLowInvalidHeapAttributeNumber, used)) {
            wanted = lappend_int(wanted, i);
        }
    }
    *has_ctid =
        bms_is_member(SelfItemPointerAttributeNumber - FirstLowInvalidHeapAttributeNumber, used);
    return wanted;
}

static ForeignScan *get_plan(PlannerInfo *root, RelOptInfo *rel, Oid relid, ForeignPath *path,
                             List *tlist, List *scan_clauses, Plan *outer_plan)
{
    struct plan_info *info = rel->fdw_private;
    List *expressions = NIL, *kinds = NIL, *key_numbers = NIL, *exact = NIL, *local = NIL, *private,
         *wanted;
    bool is_alone = bms_membership(root->all_baserels) == BMS_SINGLETON, has_ctid;
    struct access access;
    ListCell *cell;
    int handle;

    pushdown_choose(root, rel, info->table, scan_clauses, &access);
    foreach (cell, access.clauses) {
        struct key_clause *clause = lfirst(cell);

        expressions = lappend(expressions, clause->argument);
        kinds = lappend_int(kinds, clause->kind);
        key_numbers = lappend_int(key_numbers, clause->key_number);
        if (clause->is_exact) {
            exact = lappend(exact, clause->rinfo);
        }
    }
    foreach (cell, scan_clauses) {
        if (!list_member_ptr(exact, lfirst(cell))) {
            local = lappend(local, lfirst(cell));
        }
    }
    local = extract_actual_clauses(local, false);
    wanted = wanted_columns(rel, info->table, local, &has_ctid);
    handle = !has_ctid ? 0 : root->parse->commandType == CMD_UPDATE ? 2 : 1;
    private = list_make4(makeInteger(access.strategy), kinds, key_numbers, wanted);
    private = lappend(private, linitial(path->fdw_private));
    private =
        lappend(private, makeInteger(is_alone && root->limit_tuples > 0 && root->limit_tuples < 4096
                                         ? (int)root->limit_tuples
                                         : 0));
    private = lappend(private, makeInteger(handle));
    return make_foreignscan(tlist, local, rel->relid, expressions, private, NIL,
                            extract_actual_clauses(exact, false), outer_plan);
}

/* FOR UPDATE and FOR SHARE would promise a lock. */
static RowMarkType row_mark_type(RangeTblEntry *rte, LockClauseStrength strength)
{
    if (strength != LCS_NONE) {
        ereport(ERROR,
                (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                 errmsg("foreign table \"%s\" cannot lock rows", rte->eref->aliasname),
                 errhint("UPDATE and DELETE check at commit that the row is as it was read.")));
    }
    return ROW_MARK_COPY;
}

void plan_init(FdwRoutine *routine)
{
    routine->GetForeignRelSize = get_size;
    routine->GetForeignPaths = get_paths;
    routine->GetForeignPlan = get_plan;
    routine->GetForeignRowMarkType = row_mark_type;
}
