/* Keys as paths and back.
 *
 * 1. A key is split at '/'; n slashes make n + 1 components. Nothing is normalised.
 * 2. A component is shown as it is, except: NUL is "%00", "." is "%2E", ".." is "%2E%2E", an empty
 * component "%E". '%' is "%25" where what follows would read as a token: "00", "25", "2E", or "E",
 * "V", "+" at the end of the component.
 * 3. A component of more than 255 shown bytes is cut into pieces of at most 253, as long as
 * possible and never inside a token; every piece but the last gets "%+" appended and is a
 * directory. A last piece "." or ".." is shown as rule 2 shows it.
 * 4. A key with keys below it is a directory, and its value the file "%V" in there.
 *
 * Invariants:
 *   I1  decoding is a left inverse of encoding: a token is decoded wherever it stands, and encoding
 *       leaves no false one.
 *   I2  a path is accepted only if encoding what it decodes to gives that very path; so the mapping
 *       is one to one.
 *
 * A path that ends in a piece has no key yet, so I2 can't be asked directly. It is asked whether
 * some continuation gives these very pieces: what follows matters only by the size of its first
 * token (1 or 3) and by whether it makes a '%' at the end of the piece read as a token, so a short
 * list of continuations covers all cases.
 */
#include "mapping.h"

#include <errno.h>
#include <string.h>

enum {
    PIECE_MAX = 253,
    KEY_MAX = CAIRN_KEY_BYTES_MAX,
    /* A component with a continuation of piece_may_go_on behind it. */
    RAW_MAX = KEY_MAX + 320,
    SHOWN_MAX = 3 * RAW_MAX + 3 * (RAW_MAX / 80),
};

/* A growing text in fixed memory; what doesn't fit is cut and remembered. */
struct writer {
    char *text;
    size_t size, capacity;
    bool is_full;
};

static void writer_put(struct writer *writer, const void *data, size_t size)
{
    if (writer->capacity - writer->size < size) {
        writer->is_full = true;
        return;
    }
    memcpy(writer->text + writer->size, data, size);
    writer->size += size;
}

/* True when the '%' at raw[0] has to be escaped: what follows reads as a token. */
static bool reads_as_token(const uint8_t *raw, size_t size)
{
    if (size >= 3 &&
        (memcmp(raw, "%00", 3) == 0 || memcmp(raw, "%25", 3) == 0 || memcmp(raw, "%2E", 3) == 0)) {
        return true;
    }
    return size == 2 && (raw[1] == 'E' || raw[1] == 'V' || raw[1] == '+');
}

static bool is_dots(const char *text, size_t size)
{
    return (size == 1 && text[0] == '.') || (size == 2 && text[0] == '.' && text[1] == '.');
}

/* The shown form of one byte: returns its size and sets *token. */
static size_t shown_byte(const uint8_t *raw, size_t size, const char **token)
{
    if (raw[0] == 0) {
        *token = "%00";
        return 3;
    }
    if (raw[0] == '%' && reads_as_token(raw, size)) {
        *token = "%25";
        return 3;
    }
    *token = (const char *)raw;
    return 1;
}

static void put_last_piece(struct writer *writer, const char *text, size_t size)
{
    for (size_t i = 0; i < size && is_dots(text, size); i++) {
        writer_put(writer, "%2E", 3);
    }
    if (!is_dots(text, size)) {
        writer_put(writer, text, size);
    }
}

/* Writes a component's shown form, with its pieces joined by '/'. */
static void put_component(struct writer *writer, const uint8_t *raw, size_t size)
{
    char piece[MAPPING_NAME_MAX];
    size_t piece_size = 0, shown_size = 0;
    const char *token;
    if (size == 0) {
        writer_put(writer, "%E", 2);
        return;
    }
    for (size_t i = 0; i < size; i++) {
        shown_size += shown_byte(raw + i, size - i, &token);
    }
    size_t piece_max = shown_size > MAPPING_NAME_MAX ? PIECE_MAX : MAPPING_NAME_MAX;
    for (size_t i = 0; i < size; i++) {
        size_t token_size = shown_byte(raw + i, size - i, &token);
        if (piece_size + token_size > piece_max) {
            writer_put(writer, piece, piece_size);
            writer_put(writer, "%+/", 3);
            piece_size = 0;
        }
        memcpy(piece + piece_size, token, token_size);
        piece_size += token_size;
    }
    put_last_piece(writer, piece, piece_size);
}

bool mapping_key_to_path(const struct mapping *mapping, const void *key, size_t key_size,
                         bool has_below, struct mapping_path *out)
{
    if (key_size == 0 || key_size > KEY_MAX || key_size < mapping->prefix_size ||
        memcmp(key, mapping->prefix, mapping->prefix_size) != 0) {
        return false;
    }
    struct writer writer = { .text = out->text, .capacity = sizeof out->text };
    const uint8_t *at = (const uint8_t *)key + mapping->prefix_size;
    const uint8_t *end = (const uint8_t *)key + key_size;
    for (;;) {
        const uint8_t *slash = memchr(at, '/', (size_t)(end - at));
        put_component(&writer, at, (size_t)((slash != NULL ? slash : end) - at));
        if (slash == NULL) {
            break;
        }
        writer_put(&writer, "/", 1);
        at = slash + 1;
    }
    if (has_below) {
        writer_put(&writer, "/%V", 3);
    }
    out->size = writer.size;
    return !writer.is_full;
}

/* Decodes shown text (of a name without its "%+") behind raw; returns the new size, capped at
 * RAW_MAX. */
static size_t decode(const char *text, size_t size, uint8_t *raw, size_t raw_size)
{
    for (size_t i = 0; i < size && raw_size < RAW_MAX; i++) {
        uint8_t byte = (uint8_t)text[i];
        if (byte == '%' && size - i >= 3) {
            const char *token = text + i + 1;
            bool is_token = true;
            if (memcmp(token, "00", 2) == 0) {
                byte = 0;
            } else if (memcmp(token, "25", 2) == 0) {
                byte = '%';
            } else if (memcmp(token, "2E", 2) == 0) {
                byte = '.';
            } else {
                is_token = false;
            }
            i += is_token ? 2 : 0;
        }
        raw[raw_size++] = byte;
    }
    return raw_size;
}

/* I2 for one component: shown is its text in the path, pieces included. may_go_on: shown is only
 * the first pieces. */
static bool is_canonical(const uint8_t *raw, size_t raw_size, const char *shown, size_t shown_size,
                         bool may_go_on)
{
    char text[SHOWN_MAX];
    struct writer writer = { .text = text, .capacity = sizeof text };
    put_component(&writer, raw, raw_size);
    if (writer.is_full || writer.size < shown_size || memcmp(text, shown, shown_size) != 0) {
        return false;
    }
    return may_go_on ? writer.size > shown_size && text[shown_size] == '/'
                     : writer.size == shown_size;
}

/* True when some component begins with these pieces; shown ends in "%+/" or "%+". */
static bool piece_may_go_on(const uint8_t *raw, size_t raw_size, const char *shown,
                            size_t shown_size)
{
    static const struct {
        const char *text;
        size_t size, fill;
    } continuations[] = {
        { "a", 1, 300 },  { "\0", 1, 300 }, { "00", 2, 300 }, { "25", 2, 300 },
        { "2E", 2, 300 }, { "0", 1, 300 },  { "5", 1, 300 },  { "E", 1, 300 },
        { "E", 1, 0 },    { "V", 1, 0 },    { "+", 1, 0 },
    };
    uint8_t longer[RAW_MAX];
    memcpy(longer, raw, raw_size);
    for (size_t i = 0; i < sizeof continuations / sizeof *continuations; i++) {
        size_t size = raw_size;
        memcpy(longer + size, continuations[i].text, continuations[i].size);
        size += continuations[i].size;
        memset(longer + size, 'a', continuations[i].fill);
        size += continuations[i].fill;
        if (is_canonical(longer, size, shown, shown_size, true)) {
            return true;
        }
    }
    return false;
}

static bool ends_in_piece(const char *name, size_t size)
{
    return size > 2 && memcmp(name + size - 2, "%+", 2) == 0;
}

static int name_check(const char *name, size_t size)
{
    if (size > MAPPING_NAME_MAX) {
        return -ENAMETOOLONG;
    }
    return size == 0 || is_dots(name, size) || memchr(name, 0, size) != NULL ? -ENOENT : 0;
}

/* The state of reading a path: out->key holds what is complete, raw the component that is being
 * read. */
struct path_reader {
    struct mapping_target *out;
    const char *component; /* where it began in the path */
    uint8_t raw[RAW_MAX];
    size_t raw_size;
};

static int read_piece(struct path_reader *reader, const char *name, size_t size)
{
    reader->raw_size = decode(name, size - 2, reader->raw, reader->raw_size);
    /* A last piece has one byte at least. */
    return reader->out->key_size + reader->raw_size + 1 > KEY_MAX ? -ENAMETOOLONG : 0;
}

static int read_component_end(struct path_reader *reader, const char *name, size_t size)
{
    struct mapping_target *out = reader->out;
    bool is_empty = name == reader->component && size == 2 && memcmp(name, "%E", 2) == 0;
    if (!is_empty) {
        reader->raw_size = decode(name, size, reader->raw, reader->raw_size);
    }
    if (!is_canonical(reader->raw, reader->raw_size, reader->component,
                      (size_t)(name + size - reader->component), false)) {
        return -ENOENT;
    }
    if (out->key_size + reader->raw_size > KEY_MAX) {
        return -ENAMETOOLONG;
    }
    memcpy(out->key + out->key_size, reader->raw, reader->raw_size);
    out->key_size += reader->raw_size;
    reader->raw_size = 0;
    return 0;
}

static int read_name(struct path_reader *reader, const char *name, size_t size, bool is_last)
{
    struct mapping_target *out = reader->out;
    bool is_inside = out->kind == MAPPING_PIECE;
    int status = name_check(name, size);
    if (status != 0) {
        return status;
    }
    if (is_last && out->kind == MAPPING_PLAIN && size == 2 && memcmp(name, "%V", 2) == 0) {
        out->kind = MAPPING_VALUE;
        return 0;
    }
    if (!is_inside) {
        reader->component = name;
        if (out->kind == MAPPING_PLAIN) {
            if (out->key_size == KEY_MAX) {
                return -ENAMETOOLONG;
            }
            out->key[out->key_size++] = '/';
        }
    }
    if (ends_in_piece(name, size)) {
        out->kind = MAPPING_PIECE;
        return read_piece(reader, name, size);
    }
    out->kind = MAPPING_PLAIN;
    return read_component_end(reader, name, size);
}

int mapping_path_to_key(const struct mapping *mapping, const char *path, size_t path_size,
                        struct mapping_target *out)
{
    struct path_reader reader = { .out = out };
    const char *at = path, *end = path + path_size;
    out->kind = MAPPING_ROOT;
    out->key_size = mapping->prefix_size;
    memcpy(out->key, mapping->prefix, mapping->prefix_size);
    if (path_size >= MAPPING_PATH_MAX) {
        return -ENAMETOOLONG;
    }
    while (at <= end && path_size > 0) {
        const char *slash = memchr(at, '/', (size_t)(end - at));
        const char *name_end = slash != NULL ? slash : end;
        int status = read_name(&reader, at, (size_t)(name_end - at), slash == NULL);
        if (status != 0) {
            return status;
        }
        at = name_end + 1;
    }
    if (out->kind == MAPPING_PIECE) {
        if (!piece_may_go_on(reader.raw, reader.raw_size, reader.component,
                             (size_t)(end - reader.component))) {
            return -ENOENT;
        }
        memcpy(out->key + out->key_size, reader.raw, reader.raw_size);
        out->key_size += reader.raw_size;
    }
    return out->kind == MAPPING_VALUE && out->key_size == 0 ? -ENOENT : 0;
}

int mapping_join(const char *directory, size_t directory_size, const char *name,
                 struct mapping_path *out)
{
    size_t name_size = strlen(name);
    int status = name_check(name, name_size);
    if (status != 0) {
        return status;
    }
    struct writer writer = { .text = out->text, .capacity = sizeof out->text - 1 };
    writer_put(&writer, directory, directory_size);
    if (directory_size > 0) {
        writer_put(&writer, "/", 1);
    }
    writer_put(&writer, name, name_size);
    out->size = writer.size;
    return writer.is_full ? -ENAMETOOLONG : 0;
}

size_t mapping_parent_size(const char *path, size_t path_size)
{
    const char *slash = memrchr(path, '/', path_size);
    return slash != NULL ? (size_t)(slash - path) : 0;
}

size_t mapping_directory_prefix(struct mapping_target *target)
{
    if (target->kind == MAPPING_PLAIN) {
        target->key[target->key_size] = '/';
        return target->key_size + 1;
    }
    return target->key_size;
}

bool mapping_entry_of(const struct mapping *mapping, const char *directory, size_t directory_size,
                      const void *key, size_t key_size, struct mapping_entry *out)
{
    struct mapping_path path;
    struct mapping_target target;
    if (!mapping_key_to_path(mapping, key, key_size, false, &path)) {
        return false;
    }
    size_t start = directory_size;
    if (directory_size > 0) {
        if (path.size <= directory_size || memcmp(path.text, directory, directory_size) != 0 ||
            path.text[directory_size] != '/') {
            return false;
        }
        start++;
    }
    const char *name = path.text + start;
    const char *slash = memchr(name, '/', path.size - start);
    out->name_size = slash != NULL ? (size_t)(slash - name) : path.size - start;
    out->is_directory = slash != NULL;
    out->is_piece = slash != NULL && ends_in_piece(name, out->name_size);
    memcpy(out->name, name, out->name_size);
    out->name[out->name_size] = 0;
    out->covered = key_size;
    if (slash != NULL) {
        if (mapping_path_to_key(mapping, path.text, start + out->name_size, &target) != 0) {
            return false;
        }
        out->covered = target.key_size;
    }
    return true;
}
