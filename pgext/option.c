/* option.c: the options of servers, tables and columns, and what a foreign table means by them.
 *
 * The validator refuses unknown options with the list of those that are valid for the object, and
 * the nearest one. What only the columns together can tell (a key is missing, a type does not fit)
 * is checked when the table is first used: a validator does not see a table's columns. */
#include "cairn_fdw.h"

#include "access/htup_details.h"
#include "access/reloptions.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_foreign_data_wrapper.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_foreign_table.h"
#include "catalog/pg_type.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "foreign/foreign.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/varlena.h"

enum {
    TIMEOUT_MS_DEFAULT = 5000,
    COMMIT_TIMEOUT_MS_DEFAULT = 10000,
    TIMEOUT_MS_MAX = 3600 * 1000,
    FETCH_SIZE_MAX = 4096
};
enum { WRITE_BYTES_MAX_DEFAULT = 256 << 20 };

struct option_name {
    const char *name;
    Oid catalog;
};

static const struct option_name option_names[] = {
    { "endpoints", ForeignServerRelationId },
    { "timeout", ForeignServerRelationId },
    { "command_timeout", ForeignServerRelationId },
    { "commit_timeout", ForeignServerRelationId },
    { "fetch_size", ForeignServerRelationId },
    { "updatable", ForeignServerRelationId },
    { "keep_connections", ForeignServerRelationId },
    { "isolation", ForeignServerRelationId },
    { "write_bytes_max", ForeignServerRelationId },
    { "prefix", ForeignTableRelationId },
    { "format", ForeignTableRelationId },
    { "updatable", ForeignTableRelationId },
    { "fetch_size", ForeignTableRelationId },
    { "role", AttributeRelationId },
    { "key", AttributeRelationId },
    { "field", AttributeRelationId },
};

static const struct {
    const char *name;
    enum column_role role;
} role_names[] = {
    { "key", ROLE_KEY },
    { "value", ROLE_VALUE },
    { "field", ROLE_FIELD },
    { "version", ROLE_VERSION },
    { "modified_at", ROLE_MODIFIED_AT },
    { "expires_at", ROLE_EXPIRES_AT },
    { "size", ROLE_SIZE },
};

PG_FUNCTION_INFO_V1(cairn_fdw_validator);

static void validate_value(DefElem *option);
static void refuse_name(const char *name, Oid catalog) pg_attribute_noreturn();
static int parse_timeout(const char *name, const char *value);
static int parse_bounded(const char *name, const char *value, int max);
static int64 parse_bytes(const char *name, const char *value);
static bool parse_isolation(const char *value);
static enum table_format parse_format(const char *value);
static enum column_role parse_role(const char *value);
static void describe_column(struct table *table, Form_pg_attribute attribute, int *key_orders);
static void describe_keys(struct table *table, const int *key_orders);
static void check_column_type(const struct table *table, const struct column *column);
static void check_fields(const struct table *table);

Datum cairn_fdw_validator(PG_FUNCTION_ARGS)
{
    List *options = untransformRelOptions(PG_GETARG_DATUM(0));
    Oid catalog = PG_GETARG_OID(1);
    ListCell *cell;

    foreach (cell, options) {
        DefElem *option = lfirst_node(DefElem, cell);
        bool is_known = false;

        for (size_t i = 0; i < lengthof(option_names); i++) {
            is_known |= option_names[i].catalog == catalog &&
                        strcmp(option_names[i].name, option->defname) == 0;
        }
        if (!is_known) {
            refuse_name(option->defname, catalog);
        }
        validate_value(option);
    }
    PG_RETURN_VOID();
}

static void refuse_name(const char *name, Oid catalog)
{
    StringInfoData valid;
    const char *nearest = NULL;
    int nearest_distance = 4; /* farther ones are no typing errors */

    initStringInfo(&valid);
    for (size_t i = 0; i < lengthof(option_names); i++) {
        const char *candidate = option_names[i].name;
        int distance;

        if (option_names[i].catalog != catalog) {
            continue;
        }
        appendStringInfo(&valid, "%s%s", valid.len > 0 ? ", " : "", candidate);
        if (strlen(name) > 200) {
            continue; /* the distance function's limit is 255 */
        }
        distance = varstr_levenshtein_less_equal(name, strlen(name), candidate, strlen(candidate),
                                                 1, 1, 1, nearest_distance, true);
        if (distance < nearest_distance) {
            nearest_distance = distance;
            nearest = candidate;
        }
    }
    ereport(ERROR, (errcode(ERRCODE_FDW_INVALID_OPTION_NAME), errmsg("invalid option \"%s\"", name),
                    nearest != NULL
                        ? errhint("Perhaps you meant \"%s\". Valid options in this context are: %s",
                                  nearest, valid.data)
                    : valid.len > 0 ? errhint("Valid options in this context are: %s", valid.data)
                                    : errhint("There are no valid options in this context.")));
}

static void validate_value(DefElem *option)
{
    const char *name = option->defname, *value = defGetString(option);

    if (strcmp(name, "endpoints") == 0) {
        struct cairn_options options = { .endpoints = value, .program = "cairn_fdw" };
        struct cairn *handle;
        char text[256] = "";

        if (cairn_open(&options, &handle, text) < 0) {
            ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                            errmsg("invalid value for option \"endpoints\": \"%s\"", value),
                            text[0] ? errdetail("%s", text) : 0,
                            errhint("Write HOST:PORT, several separated by commas.")));
        }
        cairn_close(handle);
    } else if (strcmp(name, "timeout") == 0 || strcmp(name, "command_timeout") == 0 ||
               strcmp(name, "commit_timeout") == 0) {
        parse_timeout(name, value);
    } else if (strcmp(name, "fetch_size") == 0) {
        parse_bounded(name, value, FETCH_SIZE_MAX);
    } else if (strcmp(name, "write_bytes_max") == 0) {
        parse_bytes(name, value);
    } else if (strcmp(name, "updatable") == 0 || strcmp(name, "keep_connections") == 0) {
        (void)defGetBoolean(option);
    } else if (strcmp(name, "isolation") == 0) {
        parse_isolation(value);
    } else if (strcmp(name, "format") == 0) {
        parse_format(value);
    } else if (strcmp(name, "role") == 0) {
        parse_role(value);
    } else if (strcmp(name, "key") == 0) {
        parse_bounded(name, value, 32);
    } else if (strcmp(name, "field") == 0 && value[0] == '\0') {
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("option \"field\" must not be empty")));
    } else if (strcmp(name, "prefix") == 0 && strlen(value) >= CAIRN_KEY_BYTES_MAX) {
        ereport(ERROR,
                (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                 errmsg("option \"prefix\" is longer than %d bytes", CAIRN_KEY_BYTES_MAX - 1)));
    }
}

static int parse_timeout(const char *name, const char *value)
{
    const char *hint = NULL;
    int ms;

    if (!parse_int(value, &ms, GUC_UNIT_MS, &hint) || ms < 1 || ms > TIMEOUT_MS_MAX) {
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("invalid value for option \"%s\": \"%s\"", name, value),
                        errhint("A time from 1ms to 1h with its unit, such as '500ms' or '5s'; a "
                                "bare number is in milliseconds.")));
    }
    return ms;
}

static int parse_bounded(const char *name, const char *value, int max)
{
    int number;

    if (!parse_int(value, &number, 0, NULL) || number < 1 || number > max) {
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("invalid value for option \"%s\": \"%s\"", name, value),
                        errhint("A whole number from 1 to %d.", max)));
    }
    return number;
}

static int64 parse_bytes(const char *name, const char *value)
{
    int kilobytes;

    if (!parse_int(value, &kilobytes, GUC_UNIT_KB, NULL) || kilobytes < 64) {
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("invalid value for option \"%s\": \"%s\"", name, value),
                        errhint("At least '64kB', with a unit, such as '256MB'.")));
    }
    return (int64)kilobytes * 1024;
}

static bool parse_isolation(const char *value)
{
    if (strcmp(value, "strict") != 0 && strcmp(value, "downgrade") != 0) {
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("invalid value for option \"isolation\": \"%s\"", value),
                        errhint("Valid values are \"strict\" and \"downgrade\".")));
    }
    return value[0] == 'd';
}

static enum table_format parse_format(const char *value)
{
    if (strcmp(value, "raw") != 0 && strcmp(value, "json") != 0) {
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("invalid value for option \"format\": \"%s\"", value),
                        errhint("Valid values are \"raw\" and \"json\".")));
    }
    return value[0] == 'j' ? FORMAT_JSON : FORMAT_RAW;
}

static enum column_role parse_role(const char *value)
{
    for (size_t i = 0; i < lengthof(role_names); i++) {
        if (strcmp(role_names[i].name, value) == 0) {
            return role_names[i].role;
        }
    }
    ereport(
        ERROR,
        (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
         errmsg("invalid value for option \"role\": \"%s\"", value),
         errhint("Valid values are key, value, field, version, modified_at, expires_at, size.")));
}

void server_options_get(Oid server_id, struct server_options *out)
{
    ForeignServer *server = GetForeignServer(server_id);
    ListCell *cell;

    *out = (struct server_options){
        .timeout_ms = TIMEOUT_MS_DEFAULT,
        .commit_timeout_ms = COMMIT_TIMEOUT_MS_DEFAULT,
        .updatable = true,
        .keep_connections = true,
        .write_bytes_max = WRITE_BYTES_MAX_DEFAULT,
    };
    foreach (cell, server->options) {
        DefElem *option = lfirst_node(DefElem, cell);
        const char *name = option->defname;

        if (strcmp(name, "endpoints") == 0) {
            out->endpoints = pstrdup(defGetString(option));
        } else if (strcmp(name, "timeout") == 0 || strcmp(name, "command_timeout") == 0) {
            out->timeout_ms = parse_timeout(name, defGetString(option));
        } else if (strcmp(name, "commit_timeout") == 0) {
            out->commit_timeout_ms = parse_timeout(name, defGetString(option));
        } else if (strcmp(name, "fetch_size") == 0) {
            out->fetch_size = parse_bounded(name, defGetString(option), FETCH_SIZE_MAX);
        } else if (strcmp(name, "updatable") == 0) {
            out->updatable = defGetBoolean(option);
        } else if (strcmp(name, "keep_connections") == 0) {
            out->keep_connections = defGetBoolean(option);
        } else if (strcmp(name, "isolation") == 0) {
            out->isolation_downgrade = parse_isolation(defGetString(option));
        } else if (strcmp(name, "write_bytes_max") == 0) {
            out->write_bytes_max = parse_bytes(name, defGetString(option));
        }
    }
}

struct table *table_describe(Relation relation)
{
    ForeignTable *foreign = GetForeignTable(RelationGetRelid(relation));
    TupleDesc desc = RelationGetDescr(relation);
    struct table *table = palloc0(sizeof *table);
    struct server_options server;
    int *key_orders = palloc0(sizeof *key_orders * (desc->natts + 1));
    ListCell *cell;

    server_options_get(foreign->serverid, &server);
    table->relid = RelationGetRelid(relation);
    table->server_id = foreign->serverid;
    table->name = pstrdup(RelationGetRelationName(relation));
    table->prefix = "";
    table->updatable = server.updatable;
    table->fetch_size = server.fetch_size;
    foreach (cell, foreign->options) {
        DefElem *option = lfirst_node(DefElem, cell);

        if (strcmp(option->defname, "prefix") == 0) {
            table->prefix = pstrdup(defGetString(option));
        } else if (strcmp(option->defname, "format") == 0) {
            table->format = parse_format(defGetString(option));
        } else if (strcmp(option->defname, "updatable") == 0) {
            table->updatable = defGetBoolean(option);
        } else if (strcmp(option->defname, "fetch_size") == 0) {
            table->fetch_size = parse_bounded("fetch_size", defGetString(option), FETCH_SIZE_MAX);
        }
    }
    table->prefix_size = strlen(table->prefix);
    table->column_count = desc->natts;
    table->columns = palloc0(sizeof *table->columns * (desc->natts + 1));
    for (int i = 0; i < desc->natts; i++) {
        if (!TupleDescAttr(desc, i)->attisdropped) {
            describe_column(table, TupleDescAttr(desc, i), key_orders);
        }
    }
    describe_keys(table, key_orders);
    check_fields(table);
    pfree(key_orders);
    return table;
}

/* A role given by option wins; the raw format also knows columns by their names. */
static void describe_column(struct table *table, Form_pg_attribute attribute, int *key_orders)
{
    struct column *column = table_column(table, attribute->attnum);
    List *options = GetForeignColumnOptions(table->relid, attribute->attnum);
    bool has_role = false;
    ListCell *cell;

    column->name = pstrdup(NameStr(attribute->attname));
    column->field = column->name;
    column->declared = attribute->atttypid;
    column->typmod = attribute->atttypmod;
    column->type = getBaseTypeAndTypmod(attribute->atttypid, &column->typmod);
    column->collation = attribute->attcollation;
    column->role = ROLE_FIELD;
    foreach (cell, options) {
        DefElem *option = lfirst_node(DefElem, cell);

        if (strcmp(option->defname, "role") == 0) {
            column->role = parse_role(defGetString(option));
            has_role = true;
        } else if (strcmp(option->defname, "key") == 0) {
            column->role = ROLE_KEY;
            key_orders[attribute->attnum - 1] = parse_bounded("key", defGetString(option), 32);
            has_role = true;
        } else {
            column->field = pstrdup(defGetString(option));
        }
    }
    if (!has_role && table->format == FORMAT_RAW) {
        for (size_t i = 0; i < lengthof(role_names); i++) {
            if (strcmp(role_names[i].name, column->name) == 0) {
                column->role = role_names[i].role;
                has_role = role_names[i].role != ROLE_FIELD;
            }
        }
        if (!has_role) {
            ereport(ERROR, (errcode(ERRCODE_FDW_INVALID_COLUMN_NAME),
                            errmsg("column \"%s\" of foreign table \"%s\" has no meaning",
                                   column->name, table->name),
                            errhint("Name it key, value, version, modified_at, expires_at or size, "
                                    "give it the option \"role\", or give the "
                                    "table the option format 'json'.")));
        }
    }
    if ((column->role == ROLE_VALUE && table->format == FORMAT_JSON) ||
        (column->role == ROLE_FIELD && table->format == FORMAT_RAW)) {
        ereport(
            ERROR,
            (errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
             errmsg("role \"%s\" of column \"%s\" does not fit format '%s' of foreign table \"%s\"",
                    column->role == ROLE_VALUE ? "value" : "field", column->name,
                    table->format == FORMAT_JSON ? "json" : "raw", table->name)));
    }
    if (column->role == ROLE_VALUE) {
        if (table->value_attnum != 0) {
            ereport(ERROR, (errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
                            errmsg("foreign table \"%s\" has two value columns", table->name)));
        }
        table->value_attnum = attribute->attnum;
    }
    column->field_size = strlen(column->field);
    check_column_type(table, column);
}

static void check_column_type(const struct table *table, const struct column *column)
{
    bool fits = true;
    const char *expected = "";

    switch (column->role) {
    case ROLE_KEY:
        fits = segment_type_is_supported(table->format, column->type);
        expected = table->format == FORMAT_RAW ? "text or bytea"
                                               : "text, smallint, integer, bigint, boolean, uuid, "
                                                 "date, timestamp with time zone or bytea";
        break;
    case ROLE_VALUE:
        fits = column->type == TEXTOID || column->type == VARCHAROID || column->type == BYTEAOID ||
               column->type == JSONBOID || column->type == JSONOID;
        expected = "text, bytea, json or jsonb";
        break;
    case ROLE_VERSION:
        fits = column->type == INT8OID;
        expected = "bigint";
        break;
    case ROLE_MODIFIED_AT:
    case ROLE_EXPIRES_AT:
        fits = column->type == TIMESTAMPTZOID;
        expected = "timestamp with time zone";
        break;
    case ROLE_SIZE:
        fits = column->type == INT4OID || column->type == INT8OID;
        expected = "integer or bigint";
        break;
    case ROLE_NONE:
    case ROLE_FIELD:
        break;
    }
    if (!fits) {
        ereport(
            ERROR,
            (errcode(ERRCODE_FDW_INVALID_DATA_TYPE),
             errmsg(
                 "column \"%s\" of foreign table \"%s\" has type %s, which its role does not allow",
                 column->name, table->name, format_type_be(column->declared)),
             errhint("Use %s.", expected)));
    }
}

/* The key columns in the order of their option, else in the order of the columns. */
static void describe_keys(struct table *table, const int *key_orders)
{
    table->key_attnums = palloc0(sizeof *table->key_attnums * (table->column_count + 1));
    for (int i = 0; i < table->column_count; i++) {
        int at = table->key_count;

        if (table->columns[i].role != ROLE_KEY) {
            continue;
        }
        while (at > 0 && key_orders[table->key_attnums[at - 1] - 1] > key_orders[i]) {
            table->key_attnums[at] = table->key_attnums[at - 1];
            at--;
        }
        if (at > 0 && key_orders[i] != 0 &&
            key_orders[table->key_attnums[at - 1] - 1] == key_orders[i]) {
            ereport(ERROR, (errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
                            errmsg("two columns of foreign table \"%s\" have the option key '%d'",
                                   table->name, key_orders[i])));
        }
        table->key_attnums[at] = i + 1;
        table->key_count++;
    }
    for (int i = 0; i < table->key_count; i++) {
        table_column(table, table->key_attnums[i])->key_number = i;
    }
    if (table->key_count == 0) {
        ereport(ERROR,
                (errcode(ERRCODE_FDW_INVALID_COLUMN_NAME),
                 errmsg("foreign table \"%s\" has no key column", table->name),
                 table->format == FORMAT_RAW
                     ? errhint("Name one column \"key\" or give it the option role 'key'.")
                     : errhint("Give the key's columns the options key '1', key '2', and so on.")));
    }
    if (table->format == FORMAT_RAW && table->key_count > 1) {
        ereport(ERROR, (errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
                        errmsg("foreign table \"%s\" has several key columns", table->name),
                        errhint("Several key columns need the option format 'json'.")));
    }
}

/* Two columns must not be the same member. */
static void check_fields(const struct table *table)
{
    for (int i = 0; i < table->column_count; i++) {
        for (int k = 0; k < i; k++) {
            if (table->columns[i].role == ROLE_FIELD && table->columns[k].role == ROLE_FIELD &&
                strcmp(table->columns[i].field, table->columns[k].field) == 0) {
                ereport(ERROR, (errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
                                errmsg("columns \"%s\" and \"%s\" of foreign table \"%s\" are both "
                                       "the member \"%s\"",
                                       table->columns[k].name, table->columns[i].name, table->name,
                                       table->columns[i].field)));
            }
        }
    }
}
