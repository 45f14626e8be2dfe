/* document.c: a row's columns as one JSON object, and back.
 *
 * The writer is deterministic: members in the order of the columns, no spaces, NULLs left out,
 * times in UTC, whatever the session's settings are; a newline ends the object, so that the file
 * prints well. On UPDATE the previous object gives the order, and its members that are no columns
 * stay byte for byte: several tables may lie over one prefix.
 *
 * The reader takes any valid JSON object; an absent member and null are both NULL; numbers never
 * pass through floating point. */
#include "cairn_fdw.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "common/jsonapi.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "nodes/makefuncs.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/jsonfuncs.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

/* Conversions of one column, made at first use. */
struct conversion {
    FmgrInfo input, to_json, populate;
    Oid input_param;
    bool is_structure; /* array or composite: members are converted by jsonb_populate_record */
    TupleDesc wrapper; /* one column of this type, for that */
    Datum empty;       /* a row of it */
};

static struct conversion *conversion_of(const struct table *table, struct column *column);
static Datum decode_member(const struct table *table, struct column *column, JsonbValue *member,
                           bool *isnull);
static Datum decode_structure(struct conversion *conversion, JsonbValue *member, bool *isnull);
static char *scalar_text(const JsonbValue *member);
static int enter_modes(const struct table *table);
static void append_value(StringInfo out, const struct table *table, struct column *column,
                         Datum value);
static void append_previous(StringInfo out, const struct table *table, const Datum *values,
                            const bool *isnull, bool *is_written, const char *previous,
                            int previous_size);

void document_decode(const struct table *table, const char *text, int size, const bool *wanted,
                     Datum *values, bool *isnull)
{
    Datum parsed = DirectFunctionCall1(jsonb_in, CStringGetDatum(pnstrdup(text, size)));
    Jsonb *document = DatumGetJsonbP(parsed);

    if (!JB_ROOT_IS_OBJECT(document)) {
        ereport(ERROR, (errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
                        errmsg("the value is not a JSON object")));
    }
    for (int i = 0; i < table->column_count; i++) {
        struct column *column = &table->columns[i];
        JsonbValue found, *member;

        if (column->role != ROLE_FIELD || (wanted != NULL && !wanted[i])) {
            continue;
        }
        member = getKeyJsonValueFromContainer(&document->root, column->field, column->field_size,
                                              &found);
        isnull[i] = true;
        if (member != NULL && member->type != jbvNull) {
            isnull[i] = false;
            values[i] = decode_member(table, column, member, &isnull[i]);
        }
    }
}

static struct conversion *conversion_of(const struct table *table, struct column *column)
{
    struct conversion *conversion = column->state;
    MemoryContext context = GetMemoryChunkContext(table->columns), old;
    Oid input;
    List *args;
    bool null = true;
    Datum nothing = (Datum)0;

    if (conversion != NULL) {
        return conversion;
    }
    old = MemoryContextSwitchTo(context);
    conversion = palloc0(sizeof *conversion);
    getTypeInputInfo(column->declared, &input, &conversion->input_param);
    fmgr_info_cxt(input, &conversion->input, context);
    /* to_json(anyelement) learns its argument's type from the call expression, so it gets one. */
    fmgr_info_cxt(F_TO_JSON, &conversion->to_json, context);
    args = list_make1(makeNullConst(column->declared, -1, InvalidOid));
    fmgr_info_set_expr((Node *)makeFuncExpr(F_TO_JSON, JSONOID, args, InvalidOid, InvalidOid,
                                            COERCE_EXPLICIT_CALL),
                       &conversion->to_json);
    conversion->is_structure =
        type_is_rowtype(column->type) || OidIsValid(get_element_type(column->type));
    if (conversion->is_structure) {
        conversion->wrapper = CreateTemplateTupleDesc(1);
        TupleDescInitEntry(conversion->wrapper, 1, "member", column->declared, column->typmod, 0);
        BlessTupleDesc(conversion->wrapper);
        conversion->empty =
            HeapTupleGetDatum(heap_form_tuple(conversion->wrapper, &nothing, &null));
        fmgr_info_cxt(F_JSONB_POPULATE_RECORD, &conversion->populate, context);
        args = list_make2(makeNullConst(RECORDOID, -1, InvalidOid),
                          makeNullConst(JSONBOID, -1, InvalidOid));
        fmgr_info_set_expr((Node *)makeFuncExpr(F_JSONB_POPULATE_RECORD, RECORDOID, args,
                                                InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL),
                           &conversion->populate);
    }
    MemoryContextSwitchTo(old);
    column->state = conversion;
    return conversion;
}

static Datum decode_member(const struct table *table, struct column *column, JsonbValue *member,
                           bool *isnull)
{
    struct conversion *conversion;
    bool is_scalar = member->type != jbvBinary;

    if (column->declared == TEXTOID && member->type == jbvString) {
        return PointerGetDatum(
            cstring_to_text_with_len(member->val.string.val, member->val.string.len));
    }
    if (column->declared == INT8OID && member->type == jbvNumeric) {
        return DirectFunctionCall1(numeric_int8, NumericGetDatum(member->val.numeric));
    }
    if (column->declared == INT4OID && member->type == jbvNumeric) {
        return DirectFunctionCall1(numeric_int4, NumericGetDatum(member->val.numeric));
    }
    if (column->declared == BOOLOID && member->type == jbvBool) {
        return BoolGetDatum(member->val.boolean);
    }
    if (column->declared == JSONBOID) {
        return JsonbPGetDatum(JsonbValueToJsonb(member));
    }
    conversion = conversion_of(table, column);
    if (conversion->is_structure && !is_scalar) {
        return decode_structure(conversion, member, isnull);
    }
    if (column->type == JSONOID || column->type == JSONBOID || !is_scalar) {
        Jsonb *part = JsonbValueToJsonb(member);
        char *text = JsonbToCString(NULL, &part->root, VARSIZE(part));

        return InputFunctionCall(&conversion->input, text, conversion->input_param, column->typmod);
    }
    return InputFunctionCall(&conversion->input, scalar_text(member), conversion->input_param,
                             column->typmod);
}

static char *scalar_text(const JsonbValue *member)
{
    switch (member->type) {
    case jbvString:
        return pnstrdup(member->val.string.val, member->val.string.len);
    case jbvNumeric:
        return DatumGetCString(
            DirectFunctionCall1(numeric_out, NumericGetDatum(member->val.numeric)));
    case jbvBool:
        return pstrdup(member->val.boolean ? "true" : "false");
    default:
        elog(ERROR, "unexpected kind of JSON value: %d", (int)member->type);
    }
}

/* Arrays and composites: {"member": …} as a row of one column. */
static Datum decode_structure(struct conversion *conversion, JsonbValue *member, bool *isnull)
{
    JsonbParseState *state = NULL;
    JsonbValue name = { .type = jbvString, .val.string = { .val = "member", .len = 6 } };
    HeapTupleData tuple;
    Datum row;

    pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
    pushJsonbValue(&state, WJB_KEY, &name);
    pushJsonbValue(&state, WJB_VALUE, member);
    row = FunctionCall2(
        &conversion->populate, conversion->empty,
        JsonbPGetDatum(JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL))));
    tuple.t_data = DatumGetHeapTupleHeader(row);
    tuple.t_len = HeapTupleHeaderGetDatumLength(tuple.t_data);
    ItemPointerSetInvalid(&tuple.t_self);
    tuple.t_tableOid = InvalidOid;
    return heap_getattr(&tuple, 1, conversion->wrapper, isnull);
}

char *document_encode(const struct table *table, TupleDesc desc, const Datum *values,
                      const bool *isnull, const char *previous, int previous_size, int *size)
{
    bool *is_written = palloc0(sizeof *is_written * (table->column_count + 1));
    int nest_level = enter_modes(table);
    StringInfoData out;

    initStringInfo(&out);
    appendStringInfoChar(&out, '{');
    if (previous != NULL) {
        append_previous(&out, table, values, isnull, is_written, previous, previous_size);
    }
    for (int i = 0; i < table->column_count; i++) {
        struct column *column = &table->columns[i];

        if (column->role != ROLE_FIELD || is_written[i] || isnull[i]) {
            continue;
        }
        if (out.len > 1) {
            appendStringInfoChar(&out, ',');
        }
        escape_json(&out, column->field);
        appendStringInfoChar(&out, ':');
        append_value(&out, table, column, values[i]);
    }
    appendStringInfoString(&out, "}\n");
    if (nest_level > 0) {
        AtEOXact_GUC(true, nest_level);
    }
    pfree(is_written);
    *size = out.len;
    return out.data;
}

/* Settings that output functions look at; only when some column's type may look. 0: nothing to
 * leave. */
static int enter_modes(const struct table *table)
{
    static const char *const modes[][2] = {
        { "datestyle", "ISO" },    { "intervalstyle", "postgres" }, { "timezone", "UTC" },
        { "bytea_output", "hex" }, { "extra_float_digits", "1" },
    };
    bool is_needed = false;
    int nest_level;

    for (int i = 0; i < table->column_count && !is_needed; i++) {
        if (table->columns[i].role == ROLE_FIELD) {
            switch (table->columns[i].type) {
            case TEXTOID:
            case VARCHAROID:
            case BPCHAROID:
            case BOOLOID:
            case INT2OID:
            case INT4OID:
            case INT8OID:
            case NUMERICOID:
            case UUIDOID:
            case JSONOID:
            case JSONBOID:
            case DATEOID:
            case TIMESTAMPOID:
            case TIMESTAMPTZOID:
                break;
            default:
                is_needed = true;
            }
        }
    }
    if (!is_needed) {
        return 0;
    }
    nest_level = NewGUCNestLevel();
    for (size_t i = 0; i < lengthof(modes); i++) {
        (void)set_config_option(modes[i][0], modes[i][1], PGC_USERSET, PGC_S_SESSION,
                                GUC_ACTION_SAVE, true, 0, false);
    }
    return nest_level;
}

static void append_value(StringInfo out, const struct table *table, struct column *column,
                         Datum value)
{
    char buffer[MAXDATELEN + 1];
    const int utc = 0;

    switch (column->declared) {
    case TEXTOID:
    case VARCHAROID:
        escape_json(out, TextDatumGetCString(value));
        break;
    case BOOLOID:
        appendStringInfoString(out, DatumGetBool(value) ? "true" : "false");
        break;
    case INT2OID:
        appendStringInfo(out, "%d", (int)DatumGetInt16(value));
        break;
    case INT4OID:
        appendStringInfo(out, "%d", (int)DatumGetInt32(value));
        break;
    case INT8OID:
        appendStringInfo(out, INT64_FORMAT, DatumGetInt64(value));
        break;
    case TIMESTAMPTZOID:
        if (!TIMESTAMP_NOT_FINITE(DatumGetTimestampTz(value))) {
            escape_json(out, JsonEncodeDateTime(buffer, value, TIMESTAMPTZOID, &utc));
            break;
        }
        /* FALLTHROUGH */
    default: {
        text *json = DatumGetTextPP(FunctionCall1(&conversion_of(table, column)->to_json, value));

        appendBinaryStringInfo(out, VARDATA_ANY(json), VARSIZE_ANY_EXHDR(json));
    }
    }
}

/* Walks the previous object's members in their order. */
struct walk {
    JsonLexContext *lex;
    StringInfo out;
    const struct table *table;
    const Datum *values;
    const bool *isnull;
    bool *is_written;
    const char *member_start;
};

static void walk_field_start(void *arg, char *name, bool isnull)
{
    struct walk *walk = arg;

    if (walk->lex->lex_level == 1) {
        walk->member_start = walk->lex->token_start;
    }
}

static void walk_field_end(void *arg, char *name, bool isnull)
{
    struct walk *walk = arg;
    const struct table *table = walk->table;
    int at;

    if (walk->lex->lex_level != 1) {
        return;
    }
    for (at = 0; at < table->column_count; at++) {
        if (table->columns[at].role == ROLE_FIELD && strcmp(table->columns[at].field, name) == 0) {
            break;
        }
    }
    if (at < table->column_count && (walk->is_written[at] || walk->isnull[at])) {
        walk->is_written[at] = true;
        return;
    }
    if (walk->out->len > 1) {
        appendStringInfoChar(walk->out, ',');
    }
    escape_json(walk->out, name);
    appendStringInfoChar(walk->out, ':');
    if (at < table->column_count) {
        append_value(walk->out, table, &table->columns[at], walk->values[at]);
        walk->is_written[at] = true;
    } else {
        appendBinaryStringInfo(walk->out, walk->member_start,
                               walk->lex->prev_token_terminator - walk->member_start);
    }
}

static void append_previous(StringInfo out, const struct table *table, const Datum *values,
                            const bool *isnull, bool *is_written, const char *previous,
                            int previous_size)
{
    struct walk walk = {
        .out = out, .table = table, .values = values, .isnull = isnull, .is_written = is_written
    };
    JsonSemAction actions = { .semstate = &walk,
                              .object_field_start = walk_field_start,
                              .object_field_end = walk_field_end };

    walk.lex = makeJsonLexContextCstringLen(pnstrdup(previous, previous_size), previous_size,
                                            GetDatabaseEncoding(), true);
    pg_parse_json_or_ereport(walk.lex, &actions);
}
