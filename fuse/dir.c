/* Listing a directory: an ordered scan of the keys below it, folded into names.
 *
 * All keys "d/sub/…" make one name "sub". They stand together, so what is left of them is skipped:
 * within the page at hand key by key, and when the page ends inside "d/sub/", by a new scan from
 * its successor ("d/sub0", '0' follows '/'). A directory with millions of keys below one
 * subdirectory costs two pages.
 *
 * A key "d/a" is a file unless "d/a/…" exists, and keys like "d/a-b" may stand between the two ('-'
 * < '/'). So a file's name is held back while keys that begin with it and sort below "d/a/" go by.
 * What is held back are prefixes of each other: a stack of at most CAIRN_KEY_BYTES_MAX. Pieces of
 * long names stand on the same stack, marked as given, so that each is named once although other
 * names may stand between its keys.
 *
 * The kernel reads a directory by offsets and may come back to one that it has been given: entries
 * are kept in a window that moves forward. An older offset (seekdir) is found by scanning again
 * from a checkpoint: a key, remembered every so many entries, when the stack was empty. Insertions
 * and deletions elsewhere don't move what follows a checkpoint.
 *
 * Invariants:
 *   I1  entries[0 … count) have the offsets first_offset … first_offset + count.
 *   I2  every key at or before `passed` has been folded into entries, the stack or the collapsed
 *       directory.
 */
#include "dir.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "data.h"

enum {
    WINDOW_KEPT = 1024, /* entries kept before the one that is asked for */
    WINDOW_MAX = 4096,  /* dropping begins above this */
    CHECKPOINT_GAP = 4096,
    READ_AHEAD = 512,  /* entries folded behind the one asked for, when their keys are at hand */
    LOCALS_MAX = 1024, /* names of files being created; more are not shown */
};

struct held {
    size_t covered; /* bytes of the current key that stand for directory and name */
    bool is_piece;  /* already given */
    struct dir_entry entry;
};

struct checkpoint {
    uint64_t offset;
    size_t key_size, collapsed_size;
    uint8_t key[CAIRN_KEY_BYTES_MAX];
};

struct dir {
    struct cairn *cairn;
    const struct mapping *mapping;
    struct mapping_target target;
    size_t prefix_size; /* of target.key: what all keys below begin with */
    size_t path_size;
    char *path;

    struct cairn_scan *scan;
    uint64_t request_id; /* for the value of the directory's own key */
    bool is_value_asked, is_end;
    bool has_value;
    struct cairn_meta value_meta;

    struct dir_entry *entries;
    size_t count, capacity;
    uint64_t first_offset;

    struct held *stack;
    size_t stack_count, stack_capacity;
    size_t collapsed_size; /* keys that begin with these bytes of `passed` are skipped; 0: none */
    size_t passed_size;
    uint8_t passed[CAIRN_KEY_BYTES_MAX + 1];

    struct checkpoint *checkpoints;
    size_t checkpoint_count, checkpoint_capacity;

    char *locals[LOCALS_MAX];
    size_t local_count;

    uint64_t sought;
    void (*done)(void *arg, int error);
    void *arg;
};

static void *must(void *memory)
{
    if (memory == NULL) {
        abort();
    }
    return memory;
}

struct dir *dir_open(struct cairn *cairn, const struct mapping *mapping, const char *path,
                     size_t path_size, const struct mapping_target *target)
{
    struct dir *dir = must(calloc(1, sizeof *dir));
    dir->cairn = cairn;
    dir->mapping = mapping;
    dir->target = *target;
    dir->prefix_size = mapping_directory_prefix(&dir->target);
    dir->path = must(strndup(path, path_size));
    dir->path_size = path_size;
    return dir;
}

static void close_scan(struct dir *dir)
{
    if (dir->scan != NULL) {
        cairn_scan_close(dir->scan);
        dir->scan = NULL;
    }
}

static void drop_entries(struct dir *dir)
{
    for (size_t i = 0; i < dir->count; i++) {
        free(dir->entries[i].name);
    }
    dir->count = 0;
    for (size_t i = 0; i < dir->stack_count; i++) {
        free(dir->stack[i].entry.name);
    }
    dir->stack_count = 0;
}

static void value_answered(void *arg, struct cairn_result *result);

void dir_close(struct dir *dir)
{
    if (dir == NULL) {
        return;
    }
    close_scan(dir);
    dir->done = NULL;
    drop_entries(dir);
    if (dir->request_id != 0) {
        /* The callback frees it. */
        cairn_cancel(dir->cairn, dir->request_id);
        dir->is_end = true;
        return;
    }
    for (size_t i = 0; i < dir->local_count; i++) {
        free(dir->locals[i]);
    }
    free(dir->entries);
    free(dir->stack);
    free(dir->checkpoints);
    free(dir->path);
    free(dir);
}

void dir_add_local(struct dir *dir, const char *name)
{
    if (dir->local_count < LOCALS_MAX) {
        dir->locals[dir->local_count++] = must(strdup(name));
    }
}

int dir_peek(const struct dir *dir, uint64_t offset, const struct dir_entry **entry)
{
    if (offset >= dir->first_offset && offset - dir->first_offset < dir->count) {
        *entry = &dir->entries[offset - dir->first_offset];
        return 1;
    }
    return offset >= dir->first_offset && dir->is_end ? 0 : -EAGAIN;
}

/* --- Entries */

static bool is_local(const struct dir *dir, const char *name)
{
    for (size_t i = 0; i < dir->local_count; i++) {
        if (strcmp(dir->locals[i], name) == 0) {
            return true;
        }
    }
    return false;
}

/* Forgets entries that the reader has passed. */
static void slide_window(struct dir *dir)
{
    if (dir->count < WINDOW_MAX || dir->sought < dir->first_offset + WINDOW_KEPT) {
        return;
    }
    size_t drop = (size_t)(dir->sought - dir->first_offset) - WINDOW_KEPT;
    drop = drop < dir->count ? drop : dir->count;
    for (size_t i = 0; i < drop; i++) {
        free(dir->entries[i].name);
    }
    memmove(dir->entries, dir->entries + drop, (dir->count - drop) * sizeof *dir->entries);
    dir->count -= drop;
    dir->first_offset += drop;
}

/* Takes the name. */
static void give(struct dir *dir, struct dir_entry entry)
{
    slide_window(dir);
    if (dir->count == dir->capacity) {
        dir->capacity = dir->capacity * 2 + 64;
        dir->entries = must(realloc(dir->entries, dir->capacity * sizeof *dir->entries));
    }
    dir->entries[dir->count++] = entry;
}

static struct dir_entry make_entry(const char *name, bool is_directory,
                                   const struct cairn_meta *meta)
{
    struct dir_entry entry = { .name = must(strdup(name)), .is_directory = is_directory };
    if (meta != NULL) {
        entry.has_meta = true;
        entry.meta = *meta;
    }
    return entry;
}

static void give_first_entries(struct dir *dir)
{
    for (size_t i = 0; i < dir->local_count; i++) {
        give(dir, make_entry(dir->locals[i], false, NULL));
    }
    if (dir->has_value) {
        give(dir, make_entry("%V", false, &dir->value_meta));
    }
}

static void push(struct dir *dir, struct held held)
{
    if (dir->stack_count == dir->stack_capacity) {
        dir->stack_capacity = dir->stack_capacity * 2 + 8;
        dir->stack = must(realloc(dir->stack, dir->stack_capacity * sizeof *dir->stack));
    }
    dir->stack[dir->stack_count++] = held;
}

static void pop(struct dir *dir, bool is_given)
{
    struct held *top = &dir->stack[--dir->stack_count];
    if (is_given && !top->is_piece && !is_local(dir, top->entry.name)) {
        give(dir, top->entry);
    } else {
        free(top->entry.name);
    }
}

/* Gives the files on the stack that nothing can follow any more now that `key` has come. */
static void pop_passed(struct dir *dir, const uint8_t *key, size_t key_size)
{
    while (dir->stack_count > 0) {
        const struct held *top = &dir->stack[dir->stack_count - 1];
        bool is_inside = key_size > top->covered && memcmp(key, dir->passed, top->covered) == 0;
        if (is_inside && (top->is_piece || key[top->covered] <= '/')) {
            return;
        }
        pop(dir, true);
    }
}

static bool is_piece_given(const struct dir *dir, const char *name)
{
    for (size_t i = 0; i < dir->stack_count; i++) {
        if (dir->stack[i].is_piece && strcmp(dir->stack[i].entry.name, name) == 0) {
            return true;
        }
    }
    return false;
}

static void maybe_checkpoint(struct dir *dir, size_t collapsed_size)
{
    uint64_t offset = dir->first_offset + dir->count;
    uint64_t last =
        dir->checkpoint_count > 0 ? dir->checkpoints[dir->checkpoint_count - 1].offset : 0;
    if (dir->stack_count > 0 || offset < last + CHECKPOINT_GAP) {
        return;
    }
    if (dir->checkpoint_count == dir->checkpoint_capacity) {
        dir->checkpoint_capacity = dir->checkpoint_capacity * 2 + 4;
        dir->checkpoints =
            must(realloc(dir->checkpoints, dir->checkpoint_capacity * sizeof *dir->checkpoints));
    }
    struct checkpoint *checkpoint = &dir->checkpoints[dir->checkpoint_count++];
    checkpoint->offset = offset;
    checkpoint->key_size = dir->passed_size;
    checkpoint->collapsed_size = collapsed_size;
    memcpy(checkpoint->key, dir->passed, dir->passed_size);
}

static bool is_flagged(const struct cairn_meta *meta)
{
    return (meta->attributes.mask & CAIRN_ATTR_FLAGS) &&
           (meta->attributes.flags & CAIRN_FLAG_DIRECTORY);
}

static void fold_directory(struct dir *dir, const struct cairn_entry *scanned,
                           const struct mapping_entry *name)
{
    const uint8_t *key = scanned->key;
    if (name->is_piece) {
        if (!is_piece_given(dir, name->name)) {
            give(dir, make_entry(name->name, true, NULL));
            push(dir, (struct held){ .covered = name->covered,
                                     .is_piece = true,
                                     .entry.name = must(strdup(name->name)) });
        }
        return;
    }
    if (dir->stack_count > 0 && !dir->stack[dir->stack_count - 1].is_piece &&
        dir->stack[dir->stack_count - 1].covered == name->covered) {
        pop(dir, false);
    }
    bool has_marker = scanned->key_size == name->covered + 1 && is_flagged(&scanned->meta);
    give(dir, make_entry(name->name, true, has_marker ? &scanned->meta : NULL));
    dir->collapsed_size = name->covered + (key[name->covered] == '/' ? 1 : 0);
}

static void fold(struct dir *dir, const struct cairn_entry *scanned)
{
    struct mapping_entry name;
    const uint8_t *key = scanned->key;
    size_t key_size = scanned->key_size, collapsed_size;
    if (key_size > CAIRN_KEY_BYTES_MAX) {
        return;
    }
    if (dir->collapsed_size > 0 && key_size >= dir->collapsed_size &&
        memcmp(key, dir->passed, dir->collapsed_size) == 0) {
        goto out;
    }
    collapsed_size = dir->collapsed_size;
    dir->collapsed_size = 0;
    pop_passed(dir, key, key_size);
    maybe_checkpoint(dir, collapsed_size);
    if ((key_size == dir->prefix_size && is_flagged(&scanned->meta)) ||
        !mapping_entry_of(dir->mapping, dir->path, dir->path_size, key, key_size, &name)) {
        goto out;
    }
    if (name.is_directory) {
        fold_directory(dir, scanned, &name);
    } else {
        push(dir, (struct held){ .covered = key_size,
                                 .entry = make_entry(name.name, false, &scanned->meta) });
    }
out:
    memcpy(dir->passed, key, key_size);
    dir->passed_size = key_size;
}

/* --- Reading on */

static void finish(struct dir *dir, int error)
{
    void (*done)(void *arg, int error_) = dir->done;
    if (error != 0) {
        close_scan(dir);
    }
    dir->done = NULL;
    if (done != NULL) {
        done(dir->arg, error);
    }
}

/* A scan that goes on behind what has passed: behind the collapsed directory, or behind the last
 * key. */
static int open_scan(struct dir *dir)
{
    uint8_t from[CAIRN_KEY_BYTES_MAX + 1];
    size_t from_size = dir->passed_size;
    memcpy(from, dir->passed, dir->passed_size);
    if (dir->collapsed_size > 0) {
        from_size = dir->collapsed_size;
        from[from_size - 1]++;
    } else if (from_size > 0) {
        from[from_size++] = 0;
    }
    if (from_size > CAIRN_KEY_BYTES_MAX) {
        /* No key lies between; the last byte can go up by one unless it is the greatest. */
        from_size = CAIRN_KEY_BYTES_MAX;
        while (from_size > 0 && ++from[from_size - 1] == 0) {
            from_size--;
        }
    }
    struct cairn_scan_options options = {
        .from = from,
        .from_size = from_size,
        .prefix = dir->target.key,
        .prefix_size = dir->prefix_size,
        .meta_only = true,
    };
    close_scan(dir);
    return cairn_scan_open(dir->cairn, &options, &dir->scan);
}

static void read_on(struct dir *dir);

static void fetched(void *arg, int status)
{
    if (status != 0) {
        finish(arg, data_errno(status));
    } else {
        read_on(arg);
    }
}

static void scan_ended(struct dir *dir)
{
    while (dir->stack_count > 0) {
        pop(dir, true);
    }
    dir->is_end = true;
}

/* The page is used up. One that ended inside a collapsed directory is followed by a scan behind it.
 */
static int next_page(struct dir *dir)
{
    int status = 0;
    if (dir->collapsed_size > 0) {
        status = open_scan(dir);
        dir->collapsed_size = 0;
    }
    return status == 0 ? cairn_scan_fetch(dir->scan, fetched, dir) : status;
}

/* Folds what is at hand until the sought entry and some behind it are there; asks for more only for
 * the sought one. */
static void read_on(struct dir *dir)
{
    const struct dir_entry *entry;
    struct cairn_entry scanned;
    while (!dir->is_end && dir->first_offset + dir->count < dir->sought + READ_AHEAD) {
        bool is_there = dir_peek(dir, dir->sought, &entry) == 1;
        int status = dir->scan == NULL ? open_scan(dir) : 0;
        status = status == 0 ? cairn_scan_try(dir->scan, &scanned) : status;
        if (status == 1) {
            fold(dir, &scanned);
        } else if (status == 0) {
            scan_ended(dir);
        } else if (status == CAIRN_BUSY && is_there) {
            break;
        } else if (status == CAIRN_BUSY && (status = next_page(dir)) == 0) {
            return;
        } else {
            finish(dir, data_errno(status));
            return;
        }
    }
    finish(dir, 0);
}

static void value_answered(void *arg, struct cairn_result *result)
{
    struct dir *dir = arg;
    dir->request_id = 0;
    if (dir->done == NULL) {
        if (dir->is_end) {
            dir_close(dir);
        }
        return;
    }
    if (result->status != 0 && result->status != CAIRN_NOT_FOUND) {
        finish(dir, data_errno(result->status));
        return;
    }
    dir->is_value_asked = true;
    bool is_marker = dir->prefix_size > 1 && dir->target.key[dir->prefix_size - 2] == '/' &&
                     is_flagged(&result->meta);
    dir->has_value = result->status == 0 && !is_marker;
    dir->value_meta = result->meta;
    give_first_entries(dir);
    read_on(dir);
}

/* From the beginning: first whether the directory's own key has a value. */
static void begin(struct dir *dir)
{
    bool may_have_value = dir->target.kind == MAPPING_PLAIN && dir->target.key_size > 0;
    struct cairn_request request = {
        .verb = CAIRN_GET_META,
        .key = dir->target.key,
        .key_size = dir->target.key_size,
    };
    dir->has_value = false;
    if (may_have_value) {
        int status = cairn_submit(dir->cairn, &request, value_answered, dir, &dir->request_id);
        if (status != 0) {
            finish(dir, data_errno(status));
        }
        return;
    }
    give_first_entries(dir);
    read_on(dir);
}

static void restart(struct dir *dir)
{
    close_scan(dir);
    drop_entries(dir);
    dir->is_end = false;
    dir->collapsed_size = dir->passed_size = 0;
    size_t i = dir->sought > 0 ? dir->checkpoint_count : 0;
    while (i > 0 && dir->checkpoints[i - 1].offset > dir->sought) {
        i--;
    }
    dir->checkpoint_count = i;
    if (i == 0) {
        dir->first_offset = 0;
        begin(dir);
        return;
    }
    const struct checkpoint *checkpoint = &dir->checkpoints[i - 1];
    dir->first_offset = checkpoint->offset;
    dir->passed_size = checkpoint->key_size;
    dir->collapsed_size = checkpoint->collapsed_size;
    memcpy(dir->passed, checkpoint->key, checkpoint->key_size);
    read_on(dir);
}

void dir_seek(struct dir *dir, uint64_t offset, void (*done)(void *arg, int error), void *arg)
{
    bool is_fresh = dir->scan == NULL && !dir->is_end && dir->count == 0;
    dir->sought = offset;
    dir->done = done;
    dir->arg = arg;
    if (offset == 0 || offset < dir->first_offset || is_fresh) {
        restart(dir);
    } else {
        read_on(dir);
    }
}

void dir_cancel(struct dir *dir)
{
    if (dir->done == NULL) {
        return;
    }
    if (dir->request_id != 0) {
        cairn_cancel(dir->cairn, dir->request_id);
        return;
    }
    finish(dir, EINTR);
}
