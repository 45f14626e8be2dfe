/* pushdown.c: which clauses of a query become keys or a range of keys, and which keys and range
 * those are.
 *
 * At planning, every clause of the form "key column OP expression" that the bytes of a key can
 * answer is a candidate; the expression may be anything that does not depend on this table and is
 * not volatile: constants, parameters of prepared statements, results of subplans, columns of other
 * tables (parameterised paths). Its value is only needed at execution, so a generic plan is as good
 * as a custom one. From the candidates, in this order:
 *
 *   every key column has = (or one has IN / = ANY)   Point Get, Multi Get: single keys, in key order, each once
 *   json: leading key columns have =                 Prefix Scan of what they begin
 *   raw: LIKE 'x%', starts_with, ^@, <, <=, >=, >    Prefix Scan or Range Scan, all of them together
 *   none                                             Full Scan of the table's prefix
 *
 * I1: a clause is left out of the local filter only if the keys or range say exactly what it says.
 *     (LIKE stays.)
 * I2: equality is bytewise, so it needs a deterministic collation; order is bytewise, so ranges
 *     need COLLATE "C", bytea, or the operators of text_pattern_ops. Segments of the json format do
 *     not sort as their columns do: no ranges there. */
#include "cairn_fdw.h"

#include "access/stratnum.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_opfamily.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "optimizer/optimizer.h"
#include "optimizer/restrictinfo.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/pg_locale.h"
#include "utils/selfuncs.h"
#include "utils/typcache.h"

static bool classify(PlannerInfo *root, RelOptInfo *rel, const struct table *table,
                     RestrictInfo *rinfo, struct key_clause *out);
static bool classify_operator(const struct table *table, Oid opno, Oid collation, Oid argument_type,
                              struct key_clause *out);
static bool argument_is_usable(PlannerInfo *root, RelOptInfo *rel, Node *argument);
static bool choose_keys(const struct table *table, List *candidates, struct access *out);
static void choose_range(const struct table *table, List *candidates, struct access *out);

static Node *strip_relabel(Node *node)
{
    while (node != NULL && IsA(node, RelabelType)) {
        node = (Node *)((RelabelType *)node)->arg;
    }
    return node;
}

bool pushdown_match_key(const struct table *table, Index relid, Node *node, int *key_number)
{
    Var *var = (Var *)strip_relabel(node);

    if (var == NULL || !IsA(var, Var) || var->varno != (int)relid || var->varlevelsup != 0 ||
        var->varattno <= 0) {
        return false;
    }
    if (table_column(table, var->varattno)->role != ROLE_KEY) {
        return false;
    }
    *key_number = table_column(table, var->varattno)->key_number;
    return true;
}

static bool argument_is_usable(PlannerInfo *root, RelOptInfo *rel, Node *argument)
{
    return !bms_is_member(rel->relid, pull_varnos(root, argument)) &&
           !contain_volatile_functions(argument) && !contain_subplans(argument);
}

static bool collation_is_bytewise(Oid collation)
{
    return !OidIsValid(collation) || lc_collate_is_c(collation);
}

static bool collation_is_deterministic(Oid collation)
{
    return !OidIsValid(collation) || get_collation_isdeterministic(collation);
}

static bool classify(PlannerInfo *root, RelOptInfo *rel, const struct table *table,
                     RestrictInfo *rinfo, struct key_clause *out)
{
    Node *clause = (Node *)rinfo->clause;

    *out = (struct key_clause){ .rinfo = rinfo };
    if (rinfo->pseudoconstant || !restriction_is_securely_promotable(rinfo, rel)) {
        return false;
    }
    if (IsA(clause, OpExpr) && list_length(((OpExpr *)clause)->args) == 2) {
        OpExpr *op = (OpExpr *)clause;
        Node *left = linitial(op->args), *right = lsecond(op->args);
        Oid opno = op->opno;

        if (!pushdown_match_key(table, rel->relid, left, &out->key_number)) {
            Node *swap = left;

            opno = get_commutator(opno);
            left = right;
            right = swap;
            if (!OidIsValid(opno) ||
                !pushdown_match_key(table, rel->relid, left, &out->key_number)) {
                return false;
            }
        }
        out->argument = (Expr *)right;
        return argument_is_usable(root, rel, right) &&
               classify_operator(table, opno, op->inputcollid, exprType(right), out);
    }
    if (IsA(clause, ScalarArrayOpExpr) && ((ScalarArrayOpExpr *)clause)->useOr) {
        ScalarArrayOpExpr *op = (ScalarArrayOpExpr *)clause;
        Node *array = lsecond(op->args);

        if (!pushdown_match_key(table, rel->relid, linitial(op->args), &out->key_number) ||
            !argument_is_usable(root, rel, array) ||
            !classify_operator(table, op->opno, op->inputcollid,
                               get_base_element_type(exprType(array)), out) ||
            out->kind != CLAUSE_EQ) {
            return false;
        }
        out->kind = CLAUSE_ANY;
        out->argument = (Expr *)array;
        return true;
    }
    if (IsA(clause, FuncExpr) && ((FuncExpr *)clause)->funcid == F_STARTS_WITH) {
        FuncExpr *function = (FuncExpr *)clause;

        out->kind = CLAUSE_PREFIX;
        out->is_exact = true;
        out->argument = lsecond(function->args);
        return table->format == FORMAT_RAW && collation_is_deterministic(function->inputcollid) &&
               pushdown_match_key(table, rel->relid, linitial(function->args), &out->key_number) &&
               argument_is_usable(root, rel, (Node *)out->argument);
    }
    return false;
}

static bool classify_operator(const struct table *table, Oid opno, Oid collation, Oid argument_type,
                              struct key_clause *out)
{
    static const enum clause_kind kinds[] = {
        [BTLessStrategyNumber] = CLAUSE_LT,    [BTLessEqualStrategyNumber] = CLAUSE_LE,
        [BTEqualStrategyNumber] = CLAUSE_EQ,   [BTGreaterEqualStrategyNumber] = CLAUSE_GE,
        [BTGreaterStrategyNumber] = CLAUSE_GT,
    };
    Oid type = table_column(table, table->key_attnums[out->key_number])->type;
    Oid type_class = type == VARCHAROID ? TEXTOID : type;
    TypeCacheEntry *entry = lookup_type_cache(type_class, TYPECACHE_BTREE_OPFAMILY);
    RegProcedure function = get_opcode(opno);
    int strategy;

    out->is_exact = true;
    if (!OidIsValid(argument_type) || !segment_types_match(type, getBaseType(argument_type))) {
        return false;
    }
    strategy = get_op_opfamily_strategy(opno, entry->btree_opf);
    if (strategy == BTEqualStrategyNumber) {
        out->kind = CLAUSE_EQ;
        return collation_is_deterministic(collation);
    }
    if (table->format != FORMAT_RAW) {
        return false;
    }
    if (strategy != 0) {
        out->kind = kinds[strategy];
        return collation_is_bytewise(collation);
    }
    if (function == F_TEXTLIKE || function == F_BYTEALIKE) {
        out->kind = CLAUSE_LIKE;
        out->is_exact = false;
        return collation_is_deterministic(collation);
    }
    if (function == F_STARTS_WITH) {
        out->kind = CLAUSE_PREFIX;
        return collation_is_deterministic(collation);
    }
    strategy = get_op_opfamily_strategy(opno, TEXT_PATTERN_BTREE_FAM_OID);
    if (strategy != 0) {
        out->kind = kinds[strategy];
        return true;
    }
    return false;
}

void pushdown_choose(PlannerInfo *root, RelOptInfo *rel, const struct table *table, List *rinfos,
                     struct access *out)
{
    List *candidates = NIL;
    ListCell *cell;

    *out = (struct access){ .strategy = STRATEGY_FULL };
    foreach (cell, rinfos) {
        struct key_clause *clause = palloc(sizeof *clause);

        if (classify(root, rel, table, lfirst_node(RestrictInfo, cell), clause)) {
            candidates = lappend(candidates, clause);
        }
    }
    if (!choose_keys(table, candidates, out)) {
        choose_range(table, candidates, out);
    }
}

static struct key_clause *find_clause(List *candidates, enum clause_kind kind, int key_number)
{
    ListCell *cell;

    foreach (cell, candidates) {
        struct key_clause *clause = lfirst(cell);

        if (clause->kind == kind && clause->key_number == key_number) {
            return clause;
        }
    }
    return NULL;
}

/* Single keys: an equality for every key column, where one may be an array. */
static bool choose_keys(const struct table *table, List *candidates, struct access *out)
{
    List *clauses = NIL;
    bool has_array = false;

    for (int i = 0; i < table->key_count; i++) {
        struct key_clause *clause = find_clause(candidates, CLAUSE_EQ, i);

        if (clause == NULL && !has_array) {
            clause = find_clause(candidates, CLAUSE_ANY, i);
            has_array = clause != NULL;
            if (has_array) {
                out->rows_any = estimate_array_length((Node *)clause->argument);
            }
        }
        if (clause == NULL) {
            return false;
        }
        clauses = lappend(clauses, clause);
    }
    out->strategy = has_array ? STRATEGY_MULTI : STRATEGY_POINT;
    out->clauses = clauses;
    return true;
}

static void choose_range(const struct table *table, List *candidates, struct access *out)
{
    bool has_prefix = false;
    ListCell *cell;

    if (table->format == FORMAT_JSON) {
        for (int i = 0; i < table->key_count; i++) {
            struct key_clause *clause = find_clause(candidates, CLAUSE_EQ, i);

            if (clause == NULL) {
                break;
            }
            out->clauses = lappend(out->clauses, clause);
            out->strategy = STRATEGY_PREFIX;
        }
        return;
    }
    foreach (cell, candidates) {
        struct key_clause *clause = lfirst(cell);

        if (clause->kind != CLAUSE_ANY) {
            out->clauses = lappend(out->clauses, clause);
            has_prefix |= clause->kind == CLAUSE_PREFIX || clause->kind == CLAUSE_LIKE;
        }
    }
    if (out->clauses != NIL) {
        out->strategy = has_prefix ? STRATEGY_PREFIX : STRATEGY_RANGE;
    }
}

bool pushdown_column_is_ordered(const struct table *table)
{
    return table->format == FORMAT_RAW;
}

const char *strategy_name(enum strategy strategy)
{
    static const char *const names[] = { "Point Get", "Multi Get", "Prefix Scan", "Range Scan",
                                         "Full Scan" };

    return names[strategy];
}

/* --- Execution */

int key_compare(const char *a, int a_size, const char *b, int b_size)
{
    int order = memcmp(a, b, Min(a_size, b_size));

    return order != 0 ? order : (a_size > b_size) - (a_size < b_size);
}

bool key_range_contains(const struct key_range *range, const char *key, int size)
{
    return !range->is_empty && key_compare(range->from.data, range->from.len, key, size) <= 0 &&
           (range->to.len == 0 || key_compare(key, size, range->to.data, range->to.len) < 0);
}

static void raise_from(struct key_range *range, StringInfo from)
{
    if (key_compare(from->data, from->len, range->from.data, range->from.len) > 0) {
        resetStringInfo(&range->from);
        appendBinaryStringInfo(&range->from, from->data, from->len);
    }
}

/* An empty bound is no bound. */
static void lower_to(struct key_range *range, StringInfo to)
{
    if (to->len > 0 &&
        (range->to.len == 0 || key_compare(to->data, to->len, range->to.data, range->to.len) < 0)) {
        resetStringInfo(&range->to);
        appendBinaryStringInfo(&range->to, to->data, to->len);
    }
}

static void narrow_to_prefix(struct key_range *range, StringInfo prefix)
{
    raise_from(range, prefix);
    prefix->len = prefix_successor(prefix->data, prefix->len);
    lower_to(range, prefix);
}

/* The fixed beginning of a LIKE pattern; *is_whole: the pattern is nothing else. Without wildcards
 * the key itself. */
static void like_prefix(StringInfo out, const char *pattern, int size, bool *is_whole)
{
    *is_whole = true;
    for (int i = 0; i < size; i++) {
        if (pattern[i] == '%' || pattern[i] == '_') {
            *is_whole = false;
            return;
        }
        if (pattern[i] == '\\' && i + 1 < size) {
            i++;
        }
        appendStringInfoChar(out, pattern[i]);
    }
}

static void apply_raw(const struct table *table, const struct key_argument *argument,
                      struct key_range *range)
{
    StringInfoData bound;

    initStringInfo(&bound);
    appendBinaryStringInfo(&bound, table->prefix, table->prefix_size);
    if (argument->kind == CLAUSE_LIKE) {
        struct varlena *pattern = PG_DETOAST_DATUM_PACKED(argument->value);
        bool is_whole;

        like_prefix(&bound, VARDATA_ANY(pattern), VARSIZE_ANY_EXHDR(pattern), &is_whole);
        if (!is_whole) {
            narrow_to_prefix(range, &bound);
            return;
        }
    } else {
        segment_append(&bound, table->format, argument->type, argument->value);
    }
    switch (argument->kind) {
    case CLAUSE_PREFIX:
        narrow_to_prefix(range, &bound);
        break;
    case CLAUSE_GE:
        raise_from(range, &bound);
        break;
    case CLAUSE_LT:
        if (bound.len == 0) {
            range->is_empty = true; /* nothing is less than the empty string */
        }
        lower_to(range, &bound);
        break;
    case CLAUSE_GT:
        appendStringInfoChar(&bound, '\0');
        raise_from(range, &bound);
        break;
    case CLAUSE_LE:
        appendStringInfoChar(&bound, '\0');
        lower_to(range, &bound);
        break;
    default: /* equality, LIKE without wildcards: from the key to just above it */
        raise_from(range, &bound);
        appendStringInfoChar(&bound, '\0');
        lower_to(range, &bound);
    }
}

void pushdown_range(const struct table *table, const struct key_argument *arguments, int count,
                    struct key_range *out)
{
    StringInfoData begin;

    out->is_empty = false;
    initStringInfo(&out->from);
    initStringInfo(&out->to);
    initStringInfo(&begin);
    appendBinaryStringInfo(&begin, table->prefix, table->prefix_size);
    for (int i = 0; i < count && table->format == FORMAT_JSON; i++) {
        if (!arguments[i].is_null) {
            segment_append(&begin, table->format, arguments[i].type, arguments[i].value);
            appendStringInfoChar(&begin, '/');
        }
    }
    narrow_to_prefix(out, &begin);
    for (int i = 0; i < count; i++) {
        if (arguments[i].is_null) {
            out->is_empty = true; /* all operators are strict */
        } else if (table->format == FORMAT_RAW) {
            apply_raw(table, &arguments[i], out);
        }
    }
    if (out->to.len > 0 &&
        key_compare(out->from.data, out->from.len, out->to.data, out->to.len) >= 0) {
        out->is_empty = true;
    }
}

static int item_compare(const void *a, const void *b)
{
    const struct key_item *left = a, *right = b;

    return key_compare(left->bytes, left->size, right->bytes, right->size);
}

/* Keys that cannot exist (empty, too long) are left out: nothing is stored under them. */
static void list_add(struct key_list *list, const struct table *table, const Datum *values,
                     const Oid *types)
{
    StringInfoData key;

    initStringInfo(&key);
    key_append(&key, table, values, types, table->key_count);
    if (key.len == 0 || key.len > CAIRN_KEY_BYTES_MAX) {
        pfree(key.data);
        return;
    }
    if (list->count == list->capacity) {
        list->capacity = Max(list->capacity * 2, 16);
        list->items = list->items == NULL
                          ? palloc(sizeof *list->items * list->capacity)
                          : repalloc_huge(list->items, sizeof *list->items * list->capacity);
    }
    list->items[list->count++] = (struct key_item){ key.data, key.len };
}

void pushdown_keys(const struct table *table, const struct key_argument *arguments, int count,
                   struct key_list *out)
{
    Datum *values = palloc(sizeof *values * table->key_count), *elements = NULL;
    Oid *types = palloc(sizeof *types * table->key_count);
    bool *nulls = NULL;
    int array_at = -1, element_count = 1, kept = 0;

    *out = (struct key_list){ 0 };
    for (int i = 0; i < count; i++) {
        if (arguments[i].is_null) {
            return;
        }
        values[arguments[i].key_number] = arguments[i].value;
        types[arguments[i].key_number] = arguments[i].type;
        if (arguments[i].kind == CLAUSE_ANY) {
            ArrayType *array = DatumGetArrayTypeP(arguments[i].value);
            int16 length;
            bool by_value;
            char align;

            array_at = arguments[i].key_number;
            get_typlenbyvalalign(ARR_ELEMTYPE(array), &length, &by_value, &align);
            types[array_at] = getBaseType(ARR_ELEMTYPE(array));
            deconstruct_array(array, ARR_ELEMTYPE(array), length, by_value, align, &elements,
                              &nulls, &element_count);
        }
    }
    for (int i = 0; i < element_count; i++) {
        if (array_at >= 0) {
            if (nulls[i]) {
                continue;
            }
            values[array_at] = elements[i];
        }
        list_add(out, table, values, types);
    }
    if (out->count > 1) {
        qsort(out->items, out->count, sizeof *out->items, item_compare);
        for (int i = 0; i < out->count; i++) {
            if (kept == 0 || item_compare(&out->items[kept - 1], &out->items[i]) != 0) {
                out->items[kept++] = out->items[i];
            }
        }
        out->count = kept;
    }
}
