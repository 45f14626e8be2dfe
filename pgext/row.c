/* row.c: what the store holds as rows of a table, and rows as keys and values.
 *
 * Raw format: the value is the column's bytes; text must be valid in the database's encoding, else
 * 22021 names the key. Json format: see document.c. Own writes that are not yet committed have no
 * version and no time: those columns are NULL until the commit. */
#include "cairn_fdw.h"

#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

/* Where a conversion failed, for the error's context. */
struct place {
    const struct table *table;
    const struct stored_row *row;
};

static void store_value(const struct table *table, const struct stored_row *row, const bool *wanted,
                        TupleTableSlot *slot);
static void store_attributes(const struct table *table, const struct stored_row *row,
                             TupleTableSlot *slot);
static Datum time_datum(uint64_t us);

static void place_context(void *arg)
{
    struct place *place = arg;

    errcontext("key %s of foreign table \"%s\"", key_quote(place->row->key, place->row->key_size),
               place->table->name);
}

void row_check_text(const char *bytes, int size, const char *what, const char *key, int key_size)
{
    if (memchr(bytes, '\0', size) != NULL) {
        ereport(ERROR, (errcode(ERRCODE_CHARACTER_NOT_IN_REPERTOIRE),
                        errmsg("%s holds a zero byte, which text cannot", what),
                        errdetail("Key %s.", key_quote(key, key_size)),
                        errhint("Declare the column as bytea.")));
    }
    if (!pg_verify_mbstr(GetDatabaseEncoding(), bytes, size, true)) {
        ereport(ERROR,
                (errcode(ERRCODE_CHARACTER_NOT_IN_REPERTOIRE),
                 errmsg("%s is not valid text in encoding \"%s\"", what, GetDatabaseEncodingName()),
                 errdetail("Key %s.", key_quote(key, key_size)),
                 errhint("Declare the column as bytea.")));
    }
}

bool row_store(const struct table *table, const struct stored_row *row, const bool *wanted,
               TupleTableSlot *slot)
{
    struct place place = { table, row };
    ErrorContextCallback callback = { .previous = error_context_stack,
                                      .callback = place_context,
                                      .arg = &place };
    Datum *keys = palloc0(sizeof *keys * table->key_count);

    ExecClearTuple(slot);
    memset(slot->tts_isnull, true, sizeof *slot->tts_isnull * slot->tts_tupleDescriptor->natts);
    if (!key_decode(table, row->key, row->key_size, keys)) {
        return false;
    }
    for (int i = 0; i < table->key_count; i++) {
        slot->tts_values[table->key_attnums[i] - 1] = keys[i];
        slot->tts_isnull[table->key_attnums[i] - 1] = false;
    }
    store_attributes(table, row, slot);
    if (row->value != NULL) {
        error_context_stack = &callback;
        store_value(table, row, wanted, slot);
        error_context_stack = callback.previous;
    }
    ExecStoreVirtualTuple(slot);
    return true;
}

static void store_value(const struct table *table, const struct stored_row *row, const bool *wanted,
                        TupleTableSlot *slot)
{
    const struct column *column;
    int at;

    if (table->format == FORMAT_JSON) {
        bool has_wanted_field = false;

        for (int i = 0; i < table->column_count; i++) {
            has_wanted_field |=
                table->columns[i].role == ROLE_FIELD && (wanted == NULL || wanted[i]);
        }
        if (has_wanted_field) {
            row_check_text(row->value, row->value_size, "the value", row->key, row->key_size);
            document_decode(table, row->value, row->value_size, wanted, slot->tts_values,
                            slot->tts_isnull);
        }
        return;
    }
    at = table->value_attnum - 1;
    if (at < 0 || (wanted != NULL && !wanted[at])) {
        return;
    }
    column = &table->columns[at];
    if (column->type == BYTEAOID) {
        slot->tts_values[at] = PointerGetDatum(
            cstring_to_text_with_len(row->value, row->value_size)); /* the same layout */
    } else {
        row_check_text(row->value, row->value_size, "the value", row->key, row->key_size);
        if (column->declared == TEXTOID) {
            slot->tts_values[at] =
                PointerGetDatum(cstring_to_text_with_len(row->value, row->value_size));
        } else {
            Oid input, param;

            getTypeInputInfo(column->declared, &input, &param);
            slot->tts_values[at] = OidInputFunctionCall(
                input, pnstrdup(row->value, row->value_size), param, column->typmod);
        }
    }
    slot->tts_isnull[at] = false;
}

static void store_attributes(const struct table *table, const struct stored_row *row,
                             TupleTableSlot *slot)
{
    const struct cairn_meta *meta = row->meta;

    for (int i = 0; i < table->column_count; i++) {
        const struct column *column = &table->columns[i];
        Datum *value = &slot->tts_values[i];
        bool *isnull = &slot->tts_isnull[i];

        switch (column->role) {
        case ROLE_SIZE:
            *value = column->type == INT4OID ? Int32GetDatum((int32)row->size)
                                             : Int64GetDatum((int64)row->size);
            *isnull = false;
            break;
        case ROLE_VERSION:
            *isnull = meta == NULL;
            *value = meta != NULL ? Int64GetDatum((int64)meta->version) : (Datum)0;
            break;
        case ROLE_MODIFIED_AT:
            *isnull = meta == NULL;
            *value = meta != NULL ? time_datum(meta->time_us) : (Datum)0;
            break;
        case ROLE_EXPIRES_AT:
            *isnull = meta == NULL || (meta->attributes.mask & CAIRN_ATTR_EXPIRES) == 0 ||
                      meta->attributes.expires_at_us == 0;
            *value = *isnull ? (Datum)0 : time_datum(meta->attributes.expires_at_us);
            break;
        default:
            break;
        }
    }
}

static Datum time_datum(uint64_t us)
{
    return TimestampTzGetDatum((TimestampTz)us -
                               (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY);
}

void row_key(const struct table *table, TupleTableSlot *slot, StringInfo out)
{
    Datum *values = palloc(sizeof *values * table->key_count);
    Oid *types = palloc(sizeof *types * table->key_count);

    slot_getallattrs(slot);
    for (int i = 0; i < table->key_count; i++) {
        AttrNumber attnum = table->key_attnums[i];

        if (slot->tts_isnull[attnum - 1]) {
            ereport(ERROR, (errcode(ERRCODE_NOT_NULL_VIOLATION),
                            errmsg("null value in key column \"%s\" of foreign table \"%s\"",
                                   table_column(table, attnum)->name, table->name)));
        }
        values[i] = slot->tts_values[attnum - 1];
        types[i] = table_column(table, attnum)->type;
    }
    key_append(out, table, values, types, table->key_count);
    if (out->len == 0) {
        ereport(ERROR,
                (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("the key is empty"),
                 errdetail("A key of foreign table \"%s\" needs at least one byte.", table->name)));
    }
    if (out->len > CAIRN_KEY_BYTES_MAX) {
        ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
                        errmsg("the key is longer than %d bytes", CAIRN_KEY_BYTES_MAX),
                        errdetail("With the table's prefix it has %d bytes.", out->len)));
    }
}

char *row_value(const struct table *table, TupleTableSlot *slot, const char *previous,
                int previous_size, int *size)
{
    int at = table->value_attnum - 1;
    const struct column *column;
    Oid output;
    bool is_varlena;
    char *value;

    slot_getallattrs(slot);
    if (table->format == FORMAT_JSON) {
        value = document_encode(table, slot->tts_tupleDescriptor, slot->tts_values,
                                slot->tts_isnull, previous, previous_size, size);
    } else if (at < 0) { /* a table of keys: values stay, new ones are empty */
        *size = previous != NULL ? previous_size : 0;
        value = palloc(*size + 1);
        memcpy(value, previous != NULL ? previous : "", *size);
    } else if (slot->tts_isnull[at]) {
        ereport(
            ERROR,
            (errcode(ERRCODE_NOT_NULL_VIOLATION),
             errmsg("null value in value column \"%s\" of foreign table \"%s\"",
                    table->columns[at].name, table->name),
             errhint("A key's value can be empty, but it is never null; DELETE removes the key.")));
    } else {
        column = &table->columns[at];
        if (column->type == JSONBOID) {
            getTypeOutputInfo(column->declared, &output, &is_varlena);
            value = OidOutputFunctionCall(output, slot->tts_values[at]);
            *size = strlen(value);
        } else {
            struct varlena *bytes = PG_DETOAST_DATUM_PACKED(slot->tts_values[at]);

            value = VARDATA_ANY(bytes);
            *size = VARSIZE_ANY_EXHDR(bytes);
        }
    }
    if (*size > CAIRN_VALUE_BYTES_MAX) {
        ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
                        errmsg("the value is larger than %d bytes", CAIRN_VALUE_BYTES_MAX),
                        errdetail("It has %d bytes.", *size)));
    }
    return value;
}

char *row_key_detail(const struct table *table, const char *key, int size)
{
    Datum *values = palloc0(sizeof *values * table->key_count);
    StringInfoData names, texts;

    if (!key_decode(table, key, size, values)) {
        return key_quote(key, size);
    }
    initStringInfo(&names);
    initStringInfo(&texts);
    for (int i = 0; i < table->key_count; i++) {
        const struct column *column = table_column(table, table->key_attnums[i]);
        Oid output;
        bool is_varlena;

        getTypeOutputInfo(column->declared, &output, &is_varlena);
        appendStringInfo(&names, "%s%s", i > 0 ? ", " : "", column->name);
        appendStringInfo(&texts, "%s%s", i > 0 ? ", " : "",
                         OidOutputFunctionCall(output, values[i]));
    }
    return psprintf("(%s)=(%s)", names.data, texts.data);
}
