/* segment.c: key columns as bytes of a key, and back.
 *
 * Raw format: the key is the table's prefix and the column's bytes as they are, so byte order is
 * column order (COLLATE "C").
 *
 * Json format: prefix, then one segment per key column, joined by '/'. A segment is
 *   text        UTF-8 as it is, but '%', '/', 0x00-0x1F and 0x7F as %XX; "" is "%"; "." is "%2E",
 * ".." is "%2E%2E" integers    decimal boolean     t or f uuid        canonical, lower case date
 * 2026-11-20 timestamptz 2026-11-20T22:44:41.000000Z, always UTC bytea       hexadecimal, lower
 * case; "" is "%"
 *
 * I1: one to one. A segment that does not encode back to itself ("007", "%41") is no row's: reading
 * it raises 22P02, for else two keys would show as one row. I2: '/' never stands inside a segment,
 * so a key's number of segments is known without decoding it; keys with another number belong to
 * someone else and are skipped. */
#include "cairn_fdw.h"

#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/datetime.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

static void append_escaped(StringInfo out, const char *bytes, int size);
static void append_timestamp(StringInfo out, TimestampTz value);
static bool unescape(StringInfo out, const char *segment, int size);
static bool is_integer_type(Oid type);
static Datum segment_decode(const struct table *table, const struct column *column,
                            const char *segment, int size, const char *key, int key_size);

bool segment_type_is_supported(enum table_format format, Oid type)
{
    switch (type) {
    case TEXTOID:
    case VARCHAROID:
    case BYTEAOID:
        return true;
    case INT2OID:
    case INT4OID:
    case INT8OID:
    case BOOLOID:
    case UUIDOID:
    case DATEOID:
    case TIMESTAMPTZOID:
        return format == FORMAT_JSON;
    default:
        return false;
    }
}

static bool is_integer_type(Oid type)
{
    return type == INT2OID || type == INT4OID || type == INT8OID;
}

bool segment_types_match(Oid column_type, Oid type)
{
    if (is_integer_type(column_type)) {
        return is_integer_type(type);
    }
    if (column_type == TEXTOID || column_type == VARCHAROID) {
        return type == TEXTOID || type == VARCHAROID;
    }
    return column_type == type;
}

void segment_append(StringInfo out, enum table_format format, Oid type, Datum value)
{
    switch (type) {
    case TEXTOID:
    case VARCHAROID:
    case BYTEAOID: {
        struct varlena *bytes = PG_DETOAST_DATUM_PACKED(value);
        const char *data = VARDATA_ANY(bytes);
        int size = VARSIZE_ANY_EXHDR(bytes);

        if (format == FORMAT_RAW) {
            appendBinaryStringInfo(out, data, size);
        } else if (type != BYTEAOID) {
            append_escaped(out, data, size);
        } else if (size == 0) {
            appendStringInfoChar(out, '%');
        } else {
            enlargeStringInfo(out, size * 2 + 1);
            out->len += hex_encode(data, size, out->data + out->len);
            out->data[out->len] = '\0';
        }
        if ((Pointer)bytes != DatumGetPointer(value)) {
            pfree(bytes);
        }
        break;
    }
    case INT2OID:
        appendStringInfo(out, "%d", (int)DatumGetInt16(value));
        break;
    case INT4OID:
        appendStringInfo(out, "%d", (int)DatumGetInt32(value));
        break;
    case INT8OID:
        appendStringInfo(out, INT64_FORMAT, DatumGetInt64(value));
        break;
    case BOOLOID:
        appendStringInfoChar(out, DatumGetBool(value) ? 't' : 'f');
        break;
    case UUIDOID:
        appendStringInfoString(out, DatumGetCString(DirectFunctionCall1(uuid_out, value)));
        break;
    case DATEOID: {
        char text[MAXDATELEN + 1];

        appendStringInfoString(out, JsonEncodeDateTime(text, value, DATEOID, NULL));
        break;
    }
    case TIMESTAMPTZOID:
        append_timestamp(out, DatumGetTimestampTz(value));
        break;
    default:
        elog(ERROR, "type %u in a key", type);
    }
}

static void append_timestamp(StringInfo out, TimestampTz value)
{
    struct pg_tm tm;
    fsec_t fsec;

    if (TIMESTAMP_NOT_FINITE(value) || timestamp2tm(value, NULL, &tm, &fsec, NULL, NULL) != 0 ||
        tm.tm_year < 1 || tm.tm_year > 9999) {
        ereport(ERROR, (errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
                        errmsg("timestamp cannot stand in a key"),
                        errdetail("Keys take the years 1 to 9999.")));
    }
    appendStringInfo(out, "%04d-%02d-%02dT%02d:%02d:%02d.%06dZ", tm.tm_year, tm.tm_mon, tm.tm_mday,
                     tm.tm_hour, tm.tm_min, tm.tm_sec, (int)fsec);
}

static void append_escaped(StringInfo out, const char *bytes, int size)
{
    bool is_dots =
        (size == 1 && bytes[0] == '.') || (size == 2 && bytes[0] == '.' && bytes[1] == '.');

    if (size == 0) {
        appendStringInfoChar(out, '%');
    }
    for (int i = 0; i < size; i++) {
        unsigned char c = bytes[i];

        if (is_dots || c == '%' || c == '/' || c < 0x20 || c == 0x7F) {
            appendStringInfo(out, "%%%02X", c);
        } else {
            appendStringInfoChar(out, c);
        }
    }
}

/* Undoes append_escaped; false for what it cannot have written (what is left is found by encoding
 * again). */
static bool unescape(StringInfo out, const char *segment, int size)
{
    if (size == 1 && segment[0] == '%') {
        return true;
    }
    for (int i = 0; i < size; i++) {
        unsigned value = 0;

        if (segment[i] != '%') {
            appendStringInfoChar(out, segment[i]);
            continue;
        }
        if (i + 2 >= size) {
            return false;
        }
        for (int k = 1; k <= 2; k++) {
            char c = segment[i + k];

            if (!((c >= '0' && c <= '9') || (c >= 'A' && c <= 'F'))) {
                return false;
            }
            value = value * 16 + (c <= '9' ? c - '0' : c - 'A' + 10);
        }
        appendStringInfoChar(out, (char)value);
        i += 2;
    }
    return true;
}

void key_append(StringInfo out, const struct table *table, const Datum *values, const Oid *types,
                int count)
{
    appendBinaryStringInfo(out, table->prefix, table->prefix_size);
    for (int i = 0; i < count; i++) {
        if (i > 0) {
            appendStringInfoChar(out, '/');
        }
        segment_append(out, table->format, types[i], values[i]);
    }
}

bool key_decode(const struct table *table, const char *key, int size, Datum *values)
{
    const char *at = key + table->prefix_size, *end = key + size;
    int slashes = 0;

    if (table->format == FORMAT_RAW) {
        values[0] = segment_decode(table, table_column(table, table->key_attnums[0]), at, end - at,
                                   key, size);
        return true;
    }
    for (const char *p = at; p < end; p++) {
        slashes += *p == '/';
    }
    if (slashes != table->key_count - 1) {
        return false;
    }
    for (int i = 0; i < table->key_count; i++) {
        const char *slash = memchr(at, '/', end - at);
        int segment_size = (slash != NULL ? slash : end) - at;

        values[i] = segment_decode(table, table_column(table, table->key_attnums[i]), at,
                                   segment_size, key, size);
        at += segment_size + 1;
    }
    return true;
}

static void refuse_segment(const struct table *table, const struct column *column, const char *key,
                           int key_size)
{
    ereport(ERROR, (errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
                    errmsg("key %s is no row of foreign table \"%s\"", key_quote(key, key_size),
                           table->name),
                    errdetail("Its part for column \"%s\" is not a %s as this table writes it.",
                              column->name, format_type_be(column->declared)),
                    errhint("Give the table a prefix of its own, or read the key through a table "
                            "whose key column is text.")));
}

/* Reads a whole number without raising. */
static bool parse_integer(const char *text, int64 *out)
{
    char *end;

    errno = 0;
    *out = strtoll(text, &end, 10);
    return errno == 0 && *text != '\0' && *end == '\0';
}

/* Only characters that the type's own form can have: keeps errors of input functions from being the
 * answer. */
static bool looks_like(Oid type, const char *text)
{
    int fields[6], used = 0, size = strlen(text);

    switch (type) {
    case UUIDOID:
        if (size != 36 || strspn(text, "0123456789abcdef-") != 36) {
            return false;
        }
        for (int i = 0; i < 36; i++) {
            if ((text[i] == '-') != (i == 8 || i == 13 || i == 18 || i == 23)) {
                return false;
            }
        }
        return true;
    case DATEOID:
        return strcmp(text, "infinity") == 0 || strcmp(text, "-infinity") == 0 ||
               (sscanf(text, "%d-%2d-%2d%n", &fields[0], &fields[1], &fields[2], &used) == 3 &&
                fields[0] > 0 && fields[1] >= 1 && fields[1] <= 12 && fields[2] >= 1 &&
                fields[2] <= day_tab[isleap(fields[0])][fields[1] - 1] &&
                (text[used] == '\0' || strcmp(text + used, " BC") == 0) &&
                IS_VALID_JULIAN(fields[0], fields[1], fields[2]) &&
                fields[0] < DATE_END_JULIAN / 366);
    default:
        return size == 27 &&
               sscanf(text, "%4d-%2d-%2dT%2d:%2d:%2d.%*6[0-9]Z%n", &fields[0], &fields[1],
                      &fields[2], &fields[3], &fields[4], &fields[5], &used) == 6 &&
               used == 27 && fields[0] > 0 && fields[1] >= 1 && fields[1] <= 12 && fields[2] >= 1 &&
               fields[2] <= day_tab[isleap(fields[0])][fields[1] - 1] && fields[3] < 24 &&
               fields[4] < 60 && fields[5] < 60;
    }
}

static Datum segment_decode(const struct table *table, const struct column *column,
                            const char *segment, int size, const char *key, int key_size)
{
    StringInfoData text, again;
    Datum value = (Datum)0;
    bool is_valid = true;
    int64 number;

    initStringInfo(&text);
    if (table->format == FORMAT_RAW) {
        appendBinaryStringInfo(&text, segment, size);
    } else if (column->type == TEXTOID || column->type == VARCHAROID) {
        is_valid = unescape(&text, segment, size);
    } else {
        appendBinaryStringInfo(&text, segment, size);
        is_valid = strlen(text.data) == (size_t)size;
    }
    if (!is_valid) {
        refuse_segment(table, column, key, key_size);
    }
    switch (column->type) {
    case TEXTOID:
    case VARCHAROID:
        row_check_text(text.data, text.len, "the key", key, key_size);
        value = PointerGetDatum(cstring_to_text_with_len(text.data, text.len));
        break;
    case BYTEAOID:
        if (table->format == FORMAT_JSON) {
            is_valid = (size == 1 && segment[0] == '%') ||
                       (size % 2 == 0 && strspn(text.data, "0123456789abcdef") == (size_t)size);
            if (!is_valid) {
                break;
            }
            text.len = size == 1 ? 0 : (int)hex_decode(segment, size, text.data);
        }
        value =
            PointerGetDatum(cstring_to_text_with_len(text.data, text.len)); /* the same layout */
        break;
    case INT2OID:
        is_valid =
            parse_integer(text.data, &number) && number >= PG_INT16_MIN && number <= PG_INT16_MAX;
        value = is_valid ? Int16GetDatum((int16)number) : value;
        break;
    case INT4OID:
        is_valid =
            parse_integer(text.data, &number) && number >= PG_INT32_MIN && number <= PG_INT32_MAX;
        value = is_valid ? Int32GetDatum((int32)number) : value;
        break;
    case INT8OID:
        is_valid = parse_integer(text.data, &number);
        value = is_valid ? Int64GetDatum(number) : value;
        break;
    case BOOLOID:
        is_valid = size == 1 && (segment[0] == 't' || segment[0] == 'f');
        value = BoolGetDatum(size == 1 && segment[0] == 't');
        break;
    case UUIDOID:
        is_valid = looks_like(UUIDOID, text.data);
        value = is_valid ? DirectFunctionCall1(uuid_in, CStringGetDatum(text.data)) : value;
        break;
    case DATEOID:
        is_valid = looks_like(DATEOID, text.data);
        value = is_valid ? DirectFunctionCall1(date_in, CStringGetDatum(text.data)) : value;
        break;
    case TIMESTAMPTZOID:
        is_valid = looks_like(TIMESTAMPTZOID, text.data);
        value = is_valid ? DirectFunctionCall3(timestamptz_in, CStringGetDatum(text.data),
                                               ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1))
                         : value;
        break;
    default:
        elog(ERROR, "type %u in a key", column->type);
    }
    if (is_valid && table->format == FORMAT_JSON) {
        initStringInfo(&again);
        segment_append(&again, table->format, column->type, value);
        is_valid = again.len == size && memcmp(again.data, segment, size) == 0;
        pfree(again.data);
    }
    if (!is_valid) {
        refuse_segment(table, column, key, key_size);
    }
    pfree(text.data);
    return value;
}

char *key_quote(const char *key, int size)
{
    StringInfoData out;
    bool is_text = pg_verify_mbstr(GetDatabaseEncoding(), key, size, true);

    initStringInfo(&out);
    appendStringInfoChar(&out, '"');
    for (int i = 0; i < size; i++) {
        unsigned char c = key[i];

        if (c < 0x20 || c == 0x7F || (c >= 0x80 && !is_text)) {
            appendStringInfo(&out, "\\x%02x", c);
        } else if (c == '"' || c == '\\') {
            appendStringInfo(&out, "\\%c", c);
        } else {
            appendStringInfoChar(&out, c);
        }
    }
    appendStringInfoChar(&out, '"');
    return out.data;
}

int prefix_successor(char *prefix, int size)
{
    while (size > 0 && (unsigned char)prefix[size - 1] == 0xFF) {
        size--;
    }
    if (size > 0) {
        prefix[size - 1]++;
    }
    return size;
}
