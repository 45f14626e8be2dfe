/* Listings against the in-memory cluster: which names a set of keys makes, each once, wherever
 * reading starts again, and how much is read for them. Also the table of nodes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "fake_cairn.h"
#include "../../../fuse/dir.h"
#include "../../../fuse/inode.h"

enum { UNANSWERED = -1, NAMES_MAX = 32768 };

static const struct mapping everything;

struct world {
    struct cairn *cairn;
    struct dir *dir;
    char *names[NAMES_MAX]; /* a directory's ends in '/' */
    size_t count;
};

static int set_up(void **state)
{
    struct world *world = calloc(1, sizeof *world);
    assert_int_equal(cairn_open(&(struct cairn_options){ 0 }, &world->cairn, NULL), 0);
    *state = world;
    return 0;
}

static void forget_names(struct world *world)
{
    for (size_t i = 0; i < world->count; i++) {
        free(world->names[i]);
    }
    world->count = 0;
}

static int tear_down(void **state)
{
    struct world *world = *state;
    forget_names(world);
    dir_close(world->dir);
    cairn_close(world->cairn);
    free(world);
    return 0;
}

static void put_sized(struct world *world, const void *key, size_t size, bool is_marker)
{
    struct cairn_request request = { .verb = CAIRN_PUT, .key = key, .key_size = size };
    struct cairn_result result;
    request.attributes.mask = is_marker ? CAIRN_ATTR_FLAGS : 0;
    request.attributes.flags = CAIRN_FLAG_DIRECTORY;
    assert_int_equal(cairn_call(world->cairn, &request, &result), 0);
}

static void put(struct world *world, const char *key)
{
    put_sized(world, key, strlen(key), false);
}

static void open_dir(struct world *world, const char *path)
{
    struct mapping_target target;
    dir_close(world->dir);
    assert_int_equal(mapping_path_to_key(&everything, path, strlen(path), &target), 0);
    world->dir = dir_open(world->cairn, &everything, path, strlen(path), &target);
}

static void sought(void *arg, int error)
{
    *(int *)arg = error;
}

static int seek(struct world *world, uint64_t offset)
{
    int answer = UNANSWERED;
    dir_seek(world->dir, offset, sought, &answer);
    for (int i = 0; i < 100000 && answer == UNANSWERED; i++) {
        cairn_step(world->cairn);
    }
    assert_int_not_equal(answer, UNANSWERED);
    return answer;
}

/* The name at an offset, NULL at the end; borrowed. */
static const char *name_at(struct world *world, uint64_t offset, bool *is_directory)
{
    const struct dir_entry *entry;
    int status = offset == 0 ? -EAGAIN : dir_peek(world->dir, offset, &entry);
    if (status == -EAGAIN) {
        assert_int_equal(seek(world, offset), 0);
        status = dir_peek(world->dir, offset, &entry);
    }
    assert_true(status == 0 || status == 1);
    *is_directory = status == 1 && entry->is_directory;
    return status == 1 ? entry->name : NULL;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void list(struct world *world)
{
    const char *name;
    bool is_directory;
    forget_names(world);
    for (uint64_t offset = 0; (name = name_at(world, offset, &is_directory)) != NULL; offset++) {
        char text[600];
        assert_true(world->count < NAMES_MAX);
        snprintf(text, sizeof text, "%s%s", name, is_directory ? "/" : "");
        world->names[world->count++] = strdup(text);
    }
    qsort(world->names, world->count, sizeof *world->names, by_name);
}

/* The names of a directory, in byte order, with blanks between. */
static void assert_names(struct world *world, const char *path, const char *expected)
{
    char text[8192] = "";
    open_dir(world, path);
    list(world);
    for (size_t i = 0; i < world->count; i++) {
        strcat(text, i > 0 ? " " : "");
        strcat(text, world->names[i]);
    }
    assert_string_equal(text, expected);
}

static void test_keys_fold_into_names(void **state)
{
    struct world *world = *state;
    assert_names(world, "", "");
    put(world, "users/1"), put(world, "users/2"), put(world, "users/x/y/z"), put(world, "top");
    assert_names(world, "", "top users/");
    assert_names(world, "users", "1 2 x/");
    assert_names(world, "users/x", "y/");
    assert_names(world, "users/x/y", "z");
    assert_names(world, "user", "");
}

static void test_a_name_with_keys_below_is_a_directory_once(void **state)
{
    struct world *world = *state;
    put(world, "a"), put(world, "a-b"), put(world, "a-b-c"), put(world, "a.txt"), put(world, "a/b"),
        put(world, "a0"), put(world, "b");
    put(world, "a-b/x");
    assert_names(world, "", "a-b-c a-b/ a.txt a/ a0 b");
    assert_names(world, "a", "%V b");
    assert_names(world, "a-b", "%V x");
}

static void test_markers_are_hidden_and_foreign_keys_not(void **state)
{
    struct world *world = *state;
    put_sized(world, "d/", 2, true);
    assert_names(world, "", "d/");
    assert_names(world, "d", "");
    put(world, "e/");
    assert_names(world, "", "d/ e/");
    assert_names(world, "e", "%E");
    put(world, "d//x");
    assert_names(world, "d", "%E/");
    assert_names(world, "d/%E", "x");
    put(world, "e//x");
    assert_names(world, "e/%E", "%V x");
    put_sized(world, "d/sub/", 6, true);
    assert_names(world, "d", "%E/ sub/");
}

static void test_awkward_keys(void **state)
{
    struct world *world = *state;
    put(world, "."), put(world, ".."), put(world, "%E"), put(world, "/"), put(world, "100%"),
        put(world, "a b");
    put_sized(world, "n\0l", 3, false);
    assert_names(world, "", "%25E %2E %2E%2E %E/ 100% a b n%00l");
    assert_names(world, "%E", "%E");
}

/* Two pieces whose keys stand between each other's, and a name that is short enough to need none.
 */
static void test_pieces(void **state)
{
    struct world *world = *state;
    char key[512], piece[600], expected[1200];
    memset(key, 'p', sizeof key);
    put_sized(world, key, 300, false);
    put_sized(world, key, 301, false);
    key[253] = 'a';
    put_sized(world, key, 254, false);
    put_sized(world, key, 260, false);
    key[253] = 'z';
    put_sized(world, key, 255, false);
    put_sized(world, key, 400, false);
    memset(piece, 'p', 253);
    strcpy(piece + 253, "%+");
    snprintf(expected, sizeof expected, "%s/ %.253sa %.253szp", piece, piece, piece);
    open_dir(world, "");
    list(world);
    assert_int_equal(world->count, 3);
    assert_names(world, "", expected);
    open_dir(world, piece);
    list(world);
    assert_int_equal(world->count, 4);
}

static void test_a_prefix_mount(void **state)
{
    struct world *world = *state;
    struct mapping mapping = { .prefix = "users/", .prefix_size = 6 };
    struct mapping_target target;
    put(world, "users"), put(world, "users/1"), put(world, "users/2/x"), put(world, "usersx");
    put_sized(world, "users/", 6, true);
    assert_int_equal(mapping_path_to_key(&mapping, "", 0, &target), 0);
    world->dir = dir_open(world->cairn, &mapping, "", 0, &target);
    list(world);
    assert_int_equal(world->count, 2);
    assert_string_equal(world->names[0], "1");
    assert_string_equal(world->names[1], "2/");
}

/* Ten thousand keys below one subdirectory are skipped by seeking, not read. */
static void test_a_big_subdirectory_is_not_walked(void **state)
{
    struct world *world = *state;
    struct fake_cairn_counts counts;
    char key[64];
    for (int i = 0; i < 3000; i++) {
        snprintf(key, sizeof key, "big/%06d", i);
        put(world, key);
        snprintf(key, sizeof key, "huge/%06d", i);
        put(world, key);
    }
    put(world, "a"), put(world, "z");
    assert_names(world, "", "a big/ huge/ z");
    fake_cairn_counts(world->cairn, &counts);
    assert_in_range(counts.scan_entries, 4, 400);
    assert_in_range(counts.scan_pages, 1, 6);
}

static void fill(struct world *world, int count)
{
    char key[64];
    for (int i = 0; i < count; i++) {
        snprintf(key, sizeof key, "d/%06d%s", i, i % 10 == 0 ? "/x" : "");
        put(world, key);
    }
    put(world, "d/zz"); /* nothing else begins with it */
}

static void test_offsets_come_back(void **state)
{
    struct world *world = *state;
    bool is_directory;
    char expected[64];
    fill(world, 12000);
    open_dir(world, "d");
    list(world);
    assert_int_equal(world->count, 12001);
    static const uint64_t offsets[] = { 11999, 1,     5000, 4095, 4096, 4097, 8191,
                                        8192,  12000, 0,    7000, 3,    11000 };
    for (size_t i = 0; i < sizeof offsets / sizeof *offsets; i++) {
        const char *name = name_at(world, offsets[i], &is_directory);
        snprintf(expected, sizeof expected, "%06d", (int)offsets[i]);
        assert_string_equal(name, offsets[i] == 12000 ? "zz" : expected);
    }
    assert_null(name_at(world, 12001, &is_directory));
    assert_null(name_at(world, 20000, &is_directory));
}

/* What is deleted or made while a listing is under way doesn't move what is still to come. */
static void test_changes_behind_the_reader_move_nothing(void **state)
{
    struct world *world = *state;
    bool is_directory;
    char key[64], expected[64];
    fill(world, 3000);
    open_dir(world, "d");
    for (int i = 0; i < 3000; i++) {
        const char *name = name_at(world, (uint64_t)i, &is_directory);
        snprintf(expected, sizeof expected, "%06d", i);
        assert_string_equal(name, expected);
        snprintf(key, sizeof key, "d/%06d%s", i, i % 10 == 0 ? "/x" : "");
        struct cairn_request request = { .verb = CAIRN_DELETE,
                                         .key = key,
                                         .key_size = strlen(key) };
        struct cairn_result result;
        assert_int_equal(cairn_call(world->cairn, &request, &result), 0);
        snprintf(key, sizeof key, "d/!%06d", i);
        put(world, key);
    }
    assert_string_equal(name_at(world, 3000, &is_directory), "zz");
}

static void test_rewinding_shows_what_is_new(void **state)
{
    struct world *world = *state;
    bool is_directory;
    put(world, "d/b");
    open_dir(world, "d");
    list(world);
    put(world, "d/a");
    assert_string_equal(name_at(world, 0, &is_directory), "a");
}

static void test_files_being_created_are_shown_once(void **state)
{
    struct world *world = *state;
    put(world, "d/b");
    open_dir(world, "d");
    dir_add_local(world->dir, "a");
    dir_add_local(world->dir, "b");
    list(world);
    assert_int_equal(world->count, 2);
}

static void test_errors_end_a_listing_and_it_can_go_on(void **state)
{
    struct world *world = *state;
    for (unsigned nth = 0; nth < 4; nth++) {
        fill(world, 100);
        open_dir(world, "d");
        fake_cairn_fail(world->cairn, nth, 1, CAIRN_UNAVAILABLE, false);
        int error = 0;
        bool is_directory;
        const struct dir_entry *entry;
        uint64_t offset = 0;
        for (; error == 0; offset++) {
            if (offset > 0 && dir_peek(world->dir, offset, &entry) == 1) {
                continue;
            }
            error = seek(world, offset);
            if (error == 0 && dir_peek(world->dir, offset, &entry) == 0) {
                break;
            }
        }
        assert_true(error == EIO || nth == 3);
        fake_cairn_fail(world->cairn, 0, 0, 0, false);
        assert_non_null(name_at(world, 50, &is_directory));
        list(world);
        assert_int_equal(world->count, 101);
    }
}

static void test_closing_while_waiting(void **state)
{
    struct world *world = *state;
    int answer = UNANSWERED;
    fill(world, 10);
    open_dir(world, "d");
    dir_seek(world->dir, 0, sought, &answer);
    dir_close(world->dir); /* while its own value is asked for */
    world->dir = NULL;
    cairn_step(world->cairn);
    open_dir(world, "");
    dir_seek(world->dir, 0, sought, &answer);
    dir_cancel(world->dir);
    assert_int_equal(answer, EINTR);
    list(world);
    assert_int_equal(world->count, 1);
}

/* --- The table of nodes */

static void test_nodes(void **state)
{
    struct inode_table table;
    inode_table_init(&table);
    assert_int_equal(inode_find(&table, INODE_ROOT)->path_size, 0);
    for (int i = 0; i < 5000; i++) {
        char path[32];
        int size = snprintf(path, sizeof path, "n%d", i);
        struct inode *inode = inode_at_path(&table, path, (size_t)size, false);
        inode->lookups++;
        assert_ptr_equal(inode_find(&table, inode->number), inode);
        assert_ptr_not_equal(inode_at_path(&table, path, (size_t)size, false), NULL);
        assert_null(inode_find_path(&table, path, (size_t)size, true));
    }
    struct inode *n1 = inode_find_path(&table, "n1", 2, false);
    struct inode *n2 = inode_find_path(&table, "n2", 2, false);
    uint64_t shown = n1->shown_number, number = n1->number;
    inode_move(&table, n1, "n2", 2);
    assert_ptr_equal(inode_find_path(&table, "n2", 2, false), n1);
    assert_true(n2->is_detached);
    assert_null(inode_find_path(&table, "n1", 2, false));
    struct inode *new = inode_at_path(&table, "n1", 2, false);
    new->lookups++;
    assert_int_not_equal(new->shown_number, shown); /* the moved one still shows it */
    inode_forget(&table, n1, 1);
    assert_null(inode_find(&table, number));
    inode_forget(&table, new, 5);
    new = inode_at_path(&table, "n1", 2, false);
    assert_int_equal(new->shown_number, shown);
    assert_true(new->number > number);
    new->lookups++;
    inode_table_fini(&table);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_keys_fold_into_names),
        TEST(test_a_name_with_keys_below_is_a_directory_once),
        TEST(test_markers_are_hidden_and_foreign_keys_not),
        TEST(test_awkward_keys),
        TEST(test_pieces),
        TEST(test_a_prefix_mount),
        TEST(test_a_big_subdirectory_is_not_walked),
        TEST(test_offsets_come_back),
        TEST(test_changes_behind_the_reader_move_nothing),
        TEST(test_rewinding_shows_what_is_new),
        TEST(test_files_being_created_are_shown_once),
        TEST(test_errors_end_a_listing_and_it_can_go_on),
        TEST(test_closing_while_waiting),
        cmocka_unit_test(test_nodes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
