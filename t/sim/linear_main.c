/* linear: is what clients of a cluster saw linearizable? The simulator's checker for histories of
 * real processes.
 *
 *   linear [--steps N] FILE…        ("-": standard input; several files are one history)
 *
 * A history is text, one operation a line, nine fields between blanks, in any order of lines; empty
 * lines and lines that begin with # are skipped:
 *
 *   client kind key condition value version call reply outcome
 *
 *   client     who asked, for people
 *   kind       put, get, delete
 *   key        any word; every key begins absent
 *   condition  -  none;  absent;  present;  =N  the version must be N      (put, delete)
 *   value      put: what was to be written, a word that no other put of this key writes;
 *              get with ok: what was read; else -
 *   version    as answered: put ok: the new one; get ok: the one read; delete ok: the one deleted;
 *              refused: the present one, 0 = absent; - not told
 *   call       when the request left, an integer below 2^61, from one clock that all clients share
 *              (CLOCK_MONOTONIC, ns)
 *   reply      when the answer was there, the same clock; - none came
 *   outcome    ok       put: written; get: found; delete: there was something
 *              absent   get: not found; delete: there was nothing
 *              refused  the condition did not hold
 *              unknown  may have happened or not (timeouts, ERR_UNKNOWN_OUTCOME, the client died
 *                       waiting)
 *              nothing  certainly not applied, or a read that failed
 *
 * Example: a read that no order explains.
 *
 *   c1 put    users/42 -  a 7 100 200 ok
 *   c2 put    users/42 =7 b 9 210 300 ok
 *   c1 get    users/42 -  a 7 310 350 ok
 *
 * Prints one paragraph for each key that is not linearizable (the place, and the operations around
 * it), and last a line that begins with "linearizable", "not linearizable" or "undecided". Exit 0:
 * linearizable; 1: not; 2: usage or malformed input; 3: some key's search took more than --steps
 * steps (two million by default) and none is known to be bad. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/hashtab.h"
#include "base/mem.h"
#include "sim/linear.h"

enum { FIELDS = 9, LINES_AROUND = 12, EXIT_BAD = 1, EXIT_USAGE = 2, EXIT_UNDECIDED = 3 };

/* Words as numbers from 1 on. */
struct words {
    struct hashtab by_hash; /* hash → struct word, chained */
    uint64_t count;
};

struct word {
    struct word *next;
    uint64_t number;
    char *text;
};

struct key {
    char *name;
    struct words values;
    struct linear_op *ops;
    char **lines; /* as read, with file and number */
    size_t count, capacity;
};

struct input {
    struct words names;
    struct key *keys;
    size_t count, capacity, operations;
    const char *file;
    unsigned long line;
};

/* --- Words */

static uint64_t word_number(struct words *words, const char *text)
{
    uint64_t hash = hash_bytes(text, strlen(text));
    struct word *first = hashtab_find(&words->by_hash, hash);
    for (struct word *word = first; word; word = word->next) {
        if (strcmp(word->text, text) == 0) {
            return word->number;
        }
    }
    struct word *word = MEM_NEW(struct word);
    *word = (struct word){ first, ++words->count, mem_strdup(text) };
    hashtab_put(&words->by_hash, hash, word);
    return word->number;
}

static void words_fini(struct words *words)
{
    size_t position = 0;
    uint64_t hash;
    struct word *word;
    while ((word = hashtab_next(&words->by_hash, &position, &hash)) != NULL) {
        while (word) {
            struct word *next = word->next;
            mem_free(word->text);
            mem_free(word);
            word = next;
        }
    }
    hashtab_fini(&words->by_hash);
}

static struct key *find_key(struct input *input, const char *name)
{
    uint64_t number = word_number(&input->names, name);
    if (number > input->count) {
        if (input->count == input->capacity) {
            input->capacity = input->capacity ? input->capacity * 2 : 64;
            input->keys = mem_realloc(input->keys, input->capacity * sizeof *input->keys);
        }
        input->keys[input->count++] = (struct key){ .name = mem_strdup(name) };
    }
    return &input->keys[number - 1];
}

/* --- Reading */

static bool complain(const struct input *input, const char *what)
{
    fprintf(stderr, "%s:%lu: %s\n", input->file, input->line, what);
    return false;
}

static bool is_none(const char *field)
{
    return strcmp(field, "-") == 0;
}

static bool parse_number(const char *text, uint64_t *out)
{
    char *end;
    errno = 0;
    *out = strtoull(text, &end, 10);
    return errno == 0 && *text >= '0' && *text <= '9' && *end == 0 && *out < (uint64_t)1 << 61;
}

static int find_name(const char *const *names, const char *name)
{
    for (int i = 0; names[i]; i++) {
        if (strcmp(names[i], name) == 0) {
            return i;
        }
    }
    return -1;
}

static bool parse_condition(const char *field, struct linear_op *op)
{
    if (*field == '=') {
        op->condition = LINEAR_IF_VERSION;
        return parse_number(field + 1, &op->condition_version);
    }
    op->condition = strcmp(field, "absent") == 0    ? LINEAR_IF_ABSENT
                    : strcmp(field, "present") == 0 ? LINEAR_IF_PRESENT
                                                    : LINEAR_ALWAYS;
    return op->condition != LINEAR_ALWAYS || is_none(field);
}

static bool parse_outcome(const char *field, struct linear_op *op)
{
    static const char *const names[] = { "ok", "absent", "refused", "unknown", "nothing", NULL };
    static const uint8_t outcomes[] = { LINEAR_OK, LINEAR_ABSENT, LINEAR_REFUSED, LINEAR_UNKNOWN,
                                        LINEAR_NOTHING };
    int found = find_name(names, field);
    if (found < 0) {
        return false;
    }
    op->outcome = outcomes[found];
    if (op->kind == LINEAR_DELETE && op->outcome == LINEAR_OK) {
        op->existed = true;
    } else if (op->kind == LINEAR_DELETE && op->outcome == LINEAR_ABSENT) {
        op->outcome = LINEAR_OK;
    }
    return true;
}

/* What one field alone can't tell. */
static bool check_op(const struct input *input, const struct linear_op *op)
{
    if (op->kind == LINEAR_GET && op->condition != LINEAR_ALWAYS) {
        return complain(input, "a get has no condition");
    }
    if (op->outcome == LINEAR_REFUSED && op->condition == LINEAR_ALWAYS) {
        return complain(input, "refused without a condition");
    }
    if (op->kind == LINEAR_PUT && op->outcome == LINEAR_ABSENT) {
        return complain(input, "a put does not end in absent");
    }
    if (op->value == 0 &&
        (op->kind == LINEAR_PUT || (op->kind == LINEAR_GET && op->outcome == LINEAR_OK))) {
        return complain(input, "the value is missing");
    }
    bool is_answered = op->outcome != LINEAR_UNKNOWN && op->outcome != LINEAR_NOTHING;
    if (is_answered && op->reply == LINEAR_NEVER) {
        return complain(input, "an answer without its time");
    }
    return op->reply >= op->call || complain(input, "the reply came before the call");
}

static bool parse_op(struct input *input, char **fields, struct linear_op *op, struct key **key)
{
    static const char *const kinds[] = { "put", "get", "delete", NULL };
    int kind = find_name(kinds, fields[1]);
    if (kind < 0) {
        return complain(input, "kind is none of put, get, delete");
    }
    op->kind = (uint8_t)kind;
    if (!parse_condition(fields[3], op)) {
        return complain(input, "condition is none of -, absent, present, =N");
    }
    if (!is_none(fields[5]) && !parse_number(fields[5], &op->version)) {
        return complain(input, "version is no number");
    }
    op->reply = LINEAR_NEVER;
    if (!parse_number(fields[6], &op->call) ||
        (!is_none(fields[7]) && !parse_number(fields[7], &op->reply))) {
        return complain(input, "call or reply is no number below 2^61");
    }
    if (!parse_outcome(fields[8], op)) {
        return complain(input, "outcome is none of ok, absent, refused, unknown, nothing");
    }
    *key = find_key(input, fields[2]);
    op->value = is_none(fields[4]) ? 0 : word_number(&(*key)->values, fields[4]);
    return check_op(input, op);
}

static void add_op(struct input *input, struct key *key, const struct linear_op *op,
                   const char *line)
{
    if (key->count == key->capacity) {
        key->capacity = key->capacity ? key->capacity * 2 : 64;
        key->ops = mem_realloc(key->ops, key->capacity * sizeof *key->ops);
        key->lines = mem_realloc(key->lines, key->capacity * sizeof *key->lines);
    }
    key->ops[key->count] = *op;
    if (op->outcome == LINEAR_UNKNOWN) {
        key->ops[key->count].reply =
            LINEAR_NEVER; /* it may still happen after the client gave up */
    }
    key->lines[key->count++] = mem_printf("%s:%lu: %s", input->file, input->line, line);
    input->operations++;
}

static bool read_line(struct input *input, char *line)
{
    char *fields[FIELDS], *rest = NULL;
    size_t count = 0;
    line[strcspn(line, "\r\n")] = 0;
    if (line[0] == '#' || line[strspn(line, " \t")] == 0) {
        return true;
    }
    char *copy = mem_strdup(line);
    for (char *field = strtok_r(copy, " \t", &rest); field; field = strtok_r(NULL, " \t", &rest)) {
        if (count < FIELDS) {
            fields[count] = field;
        }
        count++;
    }
    struct linear_op op = { 0 };
    struct key *key = NULL;
    bool is_fine = count == FIELDS ? parse_op(input, fields, &op, &key)
                                   : complain(input, "a line has nine fields");
    if (is_fine) {
        add_op(input, key, &op, line);
    }
    mem_free(copy);
    return is_fine;
}

static bool read_file(struct input *input, const char *path)
{
    FILE *file = strcmp(path, "-") == 0 ? stdin : fopen(path, "r");
    if (!file) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        return false;
    }
    char *line = NULL;
    size_t capacity = 0;
    bool is_fine = true;
    input->file = path;
    input->line = 0;
    while (is_fine && getline(&line, &capacity, file) >= 0) {
        input->line++;
        is_fine = read_line(input, line);
    }
    if (ferror(file)) {
        fprintf(stderr, "%s: cannot be read\n", path);
        is_fine = false;
    }
    free(line);
    if (file != stdin) {
        fclose(file);
    }
    return is_fine;
}

/* The checker tells writes apart by their values. */
static bool are_values_unique(const struct key *key)
{
    struct hashtab seen = { 0 };
    bool unique = true;
    for (size_t i = 0; i < key->count && unique; i++) {
        if (key->ops[i].kind == LINEAR_PUT) {
            const char *earlier = hashtab_put(&seen, key->ops[i].value, key->lines[i]);
            unique = !earlier;
            if (earlier) {
                fprintf(stderr, "two puts write the same value:\n  %s\n  %s\n", earlier,
                        key->lines[i]);
            }
        }
    }
    hashtab_fini(&seen);
    return unique;
}

/* --- Judging */

struct shown {
    const struct linear_op *op;
    const char *line;
};

static int compare_shown(const void *a, const void *b)
{
    uint64_t left = ((const struct shown *)a)->op->call,
             right = ((const struct shown *)b)->op->call;
    return left < right ? -1 : left > right;
}

/* The place is a reply: the operations that were called last before it, and the next ones. */
static void tell_place(const struct key *key, uint64_t stuck)
{
    struct shown *shown = mem_alloc(key->count * sizeof *shown);
    size_t at = 0;
    for (size_t i = 0; i < key->count; i++) {
        shown[i] = (struct shown){ &key->ops[i], key->lines[i] };
    }
    qsort(shown, key->count, sizeof *shown, compare_shown);
    while (at < key->count && shown[at].op->call <= stuck) {
        at++;
    }
    printf("key %s: %zu operations, no order explains the answer at %lu\n", key->name, key->count,
           stuck);
    for (size_t i = at > LINES_AROUND ? at - LINES_AROUND : 0; i < key->count && i < at + 3; i++) {
        printf("%s %s\n", shown[i].op->reply == stuck ? "=>" : "  ", shown[i].line);
    }
    mem_free(shown);
}

static int judge(const struct input *input, uint64_t steps_max)
{
    size_t bad = 0, undecided = 0;
    for (size_t i = 0; i < input->count; i++) {
        const struct key *key = &input->keys[i];
        uint64_t stuck = 0;
        enum linear_verdict verdict = linear_check(key->ops, key->count, steps_max, &stuck);
        if (verdict == LINEAR_NO) {
            bad++;
            tell_place(key, stuck);
        } else if (verdict == LINEAR_UNDECIDED) {
            undecided++;
            printf("key %s: %zu operations, undecided\n", key->name, key->count);
        }
    }
    if (bad > 0) {
        printf("not linearizable: %zu of %zu keys\n", bad, input->count);
    } else if (undecided > 0) {
        printf("undecided: %zu of %zu keys\n", undecided, input->count);
    } else {
        printf("linearizable: %zu keys, %zu operations\n", input->count, input->operations);
    }
    return bad > 0 ? EXIT_BAD : undecided > 0 ? EXIT_UNDECIDED : 0;
}

static void input_fini(struct input *input)
{
    for (size_t i = 0; i < input->count; i++) {
        struct key *key = &input->keys[i];
        for (size_t j = 0; j < key->count; j++) {
            mem_free(key->lines[j]);
        }
        words_fini(&key->values);
        mem_free(key->name);
        mem_free(key->ops);
        mem_free(key->lines);
    }
    words_fini(&input->names);
    mem_free(input->keys);
}

int main(int argc, char **argv)
{
    static const struct option options[] = { { "steps", required_argument, NULL, 's' },
                                             { NULL, 0, NULL, 0 } };
    uint64_t steps_max = 0;
    int option, status = 0;
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (option != 's' || !parse_number(optarg, &steps_max)) {
            status = EXIT_USAGE;
        }
    }
    if (status != 0 || optind == argc) {
        fprintf(stderr, "usage: linear [--steps N] FILE... (the format stands in linear_main.c)\n");
        return EXIT_USAGE;
    }
    struct input input = { 0 };
    for (int i = optind; i < argc && status == 0; i++) {
        status = read_file(&input, argv[i]) ? 0 : EXIT_USAGE;
    }
    for (size_t i = 0; i < input.count && status == 0; i++) {
        status = are_values_unique(&input.keys[i]) ? 0 : EXIT_USAGE;
    }
    if (status == 0) {
        status = judge(&input, steps_max);
    }
    input_fini(&input);
    return status;
}
