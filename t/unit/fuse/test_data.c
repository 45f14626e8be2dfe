/* Open files against the in-memory cluster: what a commit makes of the changes of two writers, and
 * what errors leave behind. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "fake_cairn.h"
#include "../../../fuse/data.h"

enum { UNANSWERED = -1 };

struct world {
    struct cairn *cairn, *other;
    struct inode_table inodes;
    struct data_pool pool;
    struct data *data;
};

static int set_up(void **state)
{
    struct world *world = calloc(1, sizeof *world);
    assert_int_equal(cairn_open(&(struct cairn_options){ .timeout_ms = 100 }, &world->cairn, NULL),
                     0);
    world->other = fake_cairn_share(world->cairn);
    inode_table_init(&world->inodes);
    world->pool = (struct data_pool){ .cairn = world->cairn,
                                      .inodes = &world->inodes,
                                      .bytes_max = 16 << 20 };
    *state = world;
    return 0;
}

static int tear_down(void **state)
{
    struct world *world = *state;
    data_close(world->data);
    cairn_close(world->cairn);
    cairn_close(world->other);
    assert_int_equal(world->pool.bytes_total, 0);
    inode_table_fini(&world->inodes);
    free(world);
    return 0;
}

/* --- Doing things */

static void answered(void *arg, int error)
{
    assert_int_equal(*(int *)arg, UNANSWERED);
    *(int *)arg = error;
}

static void settle(struct world *world, const int *answer)
{
    for (int i = 0; i < 1000 && *answer == UNANSWERED; i++) {
        struct pollfd fd = { .fd = cairn_fd(world->cairn), .events = POLLIN };
        poll(&fd, 1, cairn_timeout_ms(world->cairn));
        cairn_step(world->cairn);
    }
    assert_int_not_equal(*answer, UNANSWERED);
}

static struct data *open_key(struct world *world, const char *key)
{
    struct inode *inode = inode_at_path(&world->inodes, key, strlen(key), false);
    world->data = data_open(&world->pool, inode, key, strlen(key));
    return world->data;
}

static int refresh(struct world *world)
{
    int answer = UNANSWERED;
    data_refresh(world->data, answered, &answer);
    settle(world, &answer);
    return answer;
}

static int commit(struct world *world)
{
    int answer = UNANSWERED;
    data_commit(world->data, answered, &answer);
    settle(world, &answer);
    return answer;
}

static uint64_t put(struct cairn *cairn, const char *key, const char *value)
{
    struct cairn_request request = { .verb = CAIRN_PUT,
                                     .key = key,
                                     .key_size = strlen(key),
                                     .value = value,
                                     .value_size = strlen(value) };
    struct cairn_result result;
    assert_int_equal(cairn_call(cairn, &request, &result), 0);
    return result.meta.version;
}

static void delete (struct cairn *cairn, const char *key)
{
    struct cairn_request request = { .verb = CAIRN_DELETE, .key = key, .key_size = strlen(key) };
    struct cairn_result result;
    assert_int_equal(cairn_call(cairn, &request, &result), 0);
}

static void assert_stored(struct world *world, const char *key, const char *value)
{
    struct cairn_request request = { .verb = CAIRN_GET, .key = key, .key_size = strlen(key) };
    struct cairn_result result;
    int status = cairn_call(world->other, &request, &result);
    if (value == NULL) {
        assert_int_equal(status, CAIRN_NOT_FOUND);
        return;
    }
    assert_int_equal(status, 0);
    assert_int_equal(result.value_size, strlen(value));
    assert_memory_equal(result.value, value, strlen(value));
    cairn_result_free(&result);
}

static void assert_bytes(const struct data *data, const char *text)
{
    assert_true(data->is_loaded);
    assert_int_equal(data->size, strlen(text));
    assert_memory_equal(data->bytes, text, strlen(text));
}

static int write_text(struct world *world, size_t offset, const char *text)
{
    return data_write(world->data, offset, text, strlen(text), 1);
}

static int append_text(struct world *world, const char *text)
{
    return data_append(world->data, text, strlen(text), 1);
}

/* --- One writer */

static void test_a_value_is_read_once_and_checked_later(void **state)
{
    struct world *world = *state;
    struct fake_cairn_counts counts;
    put(world->other, "k", "one");
    open_key(world, "k");
    assert_int_equal(refresh(world), 0);
    assert_bytes(world->data, "one");
    assert_int_equal(refresh(world), 0);
    fake_cairn_counts(world->cairn, &counts);
    assert_int_equal(counts.gets, 1);
    assert_int_equal(counts.get_metas, 1);
    put(world->other, "k", "two!");
    assert_int_equal(refresh(world), 0);
    assert_bytes(world->data, "two!");
}

static void test_a_missing_key_is_stale(void **state)
{
    struct world *world = *state;
    open_key(world, "k");
    assert_int_equal(refresh(world), ESTALE);
}

static void test_a_replaced_file_is_one_put(void **state)
{
    struct world *world = *state;
    struct fake_cairn_counts counts;
    put(world->other, "k", "old");
    open_key(world, "k");
    data_replace(world->data, 1);
    assert_int_equal(write_text(world, 0, "new "), 0);
    assert_int_equal(write_text(world, 4, "value"), 0);
    assert_stored(world, "k", "old");
    assert_int_equal(commit(world), 0);
    assert_stored(world, "k", "new value");
    assert_int_equal(commit(world), 0);
    fake_cairn_counts(world->cairn, &counts);
    assert_int_equal(counts.puts, 1);
    assert_int_equal(counts.gets, 0);
}

static void test_holes_are_zero(void **state)
{
    struct world *world = *state;
    open_key(world, "k");
    data_replace(world->data, 1);
    assert_int_equal(write_text(world, 4, "x"), 0);
    assert_memory_equal(world->data->bytes, "\0\0\0\0x", 5);
    assert_int_equal(data_truncate(world->data, 2, 1), 0);
    assert_int_equal(data_truncate(world->data, 5, 1), 0);
    assert_memory_equal(world->data->bytes, "\0\0\0\0\0", 5);
    world->data->change = DATA_CLEAN;
}

static void test_a_file_has_a_greatest_size(void **state)
{
    struct world *world = *state;
    open_key(world, "k");
    data_replace(world->data, 1);
    assert_int_equal(write_text(world, CAIRN_VALUE_BYTES_MAX - 1, "x"), 0);
    assert_int_equal(append_text(world, "y"), EFBIG);
    assert_int_equal(write_text(world, SIZE_MAX - 1, "xyz"), EFBIG);
    assert_int_equal(data_truncate(world->data, CAIRN_VALUE_BYTES_MAX + 1, 1), EFBIG);
    assert_int_equal(world->data->size, CAIRN_VALUE_BYTES_MAX);
    assert_int_equal(commit(world), 0);
}

static void test_all_files_share_a_bound(void **state)
{
    struct world *world = *state;
    put(world->other, "clean", "clean");
    world->pool.bytes_max = 8192;
    open_key(world, "clean");
    struct data *clean = world->data;
    assert_int_equal(refresh(world), 0);
    open_key(world, "k");
    data_replace(world->data, 1);
    assert_int_equal(write_text(world, 8000, "x"), 0);
    assert_false(clean->is_loaded); /* dropped for it */
    assert_int_equal(write_text(world, 9000, "x"), ENOSPC);
    assert_int_equal(commit(world), 0);
    data_close(clean);
}

/* --- Two writers */

static void test_appends_of_two_writers_both_stay(void **state)
{
    struct world *world = *state;
    put(world->other, "log", "1\n");
    open_key(world, "log");
    assert_int_equal(refresh(world), 0);
    assert_int_equal(append_text(world, "mine\n"), 0);
    put(world->other, "log", "1\ntheirs, longer\n");
    assert_int_equal(commit(world), 0);
    assert_stored(world, "log", "1\ntheirs, longer\nmine\n");
    assert_int_equal(append_text(world, "again\n"), 0);
    put(world->other, "log", "");
    assert_int_equal(commit(world), 0);
    assert_stored(world, "log", "again\n");
}

static void append_theirs(void *ctx, const struct cairn_request *request)
{
    struct world *world = ctx;
    static const char value[] = "1\ntheirs\n";
    if (request->verb == CAIRN_PUT) {
        fake_cairn_hook(world->cairn, NULL, NULL);
        put(world->other, "log", value);
    }
}

static void test_an_append_that_loses_the_race_is_repeated(void **state)
{
    struct world *world = *state;
    put(world->other, "log", "1\n");
    open_key(world, "log");
    assert_int_equal(refresh(world), 0);
    assert_int_equal(append_text(world, "mine\n"), 0);
    fake_cairn_hook(world->cairn, append_theirs, world);
    assert_int_equal(commit(world), 0);
    assert_stored(world, "log", "1\ntheirs\nmine\n");
}

static void test_a_changed_file_that_another_changed_is_stale(void **state)
{
    struct world *world = *state;
    put(world->other, "k", "abcdef");
    open_key(world, "k");
    assert_int_equal(refresh(world), 0);
    assert_int_equal(write_text(world, 2, "XX"), 0);
    put(world->other, "k", "theirs");
    assert_int_equal(commit(world), ESTALE);
    assert_stored(world, "k", "theirs");
    assert_int_equal(commit(world), ESTALE);
    data_replace(world->data, 1); /* starting anew is allowed */
    assert_int_equal(write_text(world, 0, "mine"), 0);
    assert_int_equal(commit(world), 0);
    assert_stored(world, "k", "mine");
}

static void test_a_deleted_file_does_not_come_back(void **state)
{
    struct world *world = *state;
    put(world->other, "k", "abc");
    open_key(world, "k");
    assert_int_equal(refresh(world), 0);
    assert_int_equal(append_text(world, "d"), 0);
    delete (world->other, "k");
    assert_int_equal(commit(world), ESTALE);
    assert_stored(world, "k", NULL);
}

static void test_writes_during_a_commit_stay_dirty(void **state)
{
    struct world *world = *state;
    int answer = UNANSWERED;
    open_key(world, "k");
    data_replace(world->data, 1);
    assert_int_equal(write_text(world, 0, "one"), 0);
    data_commit(world->data, answered, &answer);
    assert_int_equal(write_text(world, 3, " two"), 0);
    settle(world, &answer);
    assert_int_equal(answer, 0);
    assert_stored(world, "k", "one");
    assert_true(data_is_dirty(world->data));
    assert_int_equal(commit(world), 0);
    assert_stored(world, "k", "one two");
}

/* --- Errors */

static void test_a_failed_commit_can_be_repeated(void **state)
{
    struct world *world = *state;
    put(world->other, "k", "abc");
    open_key(world, "k");
    assert_int_equal(refresh(world), 0);
    assert_int_equal(write_text(world, 0, "X"), 0);
    fake_cairn_fail(world->cairn, 0, 1, CAIRN_UNAVAILABLE, false);
    assert_int_equal(commit(world), EIO);
    assert_true(data_is_dirty(world->data));
    assert_int_equal(commit(world), 0);
    assert_stored(world, "k", "Xbc");
}

/* The put was applied, its answer lost: the next commit finds its own value and doesn't take it for
 * another's. */
static void test_an_unknown_outcome_is_found_out(void **state)
{
    struct world *world = *state;
    put(world->other, "k", "abc");
    open_key(world, "k");
    assert_int_equal(refresh(world), 0);
    assert_int_equal(write_text(world, 0, "X"), 0);
    fake_cairn_fail(world->cairn, 0, 1, CAIRN_UNKNOWN_OUTCOME, true);
    assert_int_equal(commit(world), EIO);
    assert_int_equal(commit(world), 0);
    assert_false(data_is_dirty(world->data));
    assert_stored(world, "k", "Xbc");
    assert_int_equal(write_text(world, 1, "Y"), 0);
    assert_int_equal(commit(world), 0);
    assert_stored(world, "k", "XYc");
}

static void test_an_unknown_append_is_not_doubled(void **state)
{
    struct world *world = *state;
    put(world->other, "log", "1\n");
    open_key(world, "log");
    assert_int_equal(refresh(world), 0);
    assert_int_equal(append_text(world, "mine\n"), 0);
    fake_cairn_fail(world->cairn, 0, 1, CAIRN_UNKNOWN_OUTCOME, true);
    assert_int_equal(commit(world), EIO);
    assert_int_equal(append_text(world, "more\n"), 0);
    put(world->other, "log", "1\nmine\ntheirs\n");
    assert_int_equal(commit(world), 0);
    assert_stored(world, "log", "1\nmine\ntheirs\nmore\n");
}

static void test_several_unknown_appends_are_not_doubled(void **state)
{
    struct world *world = *state;
    put(world->other, "log", "1\n");
    open_key(world, "log");
    assert_int_equal(refresh(world), 0);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(append_text(world, "mine\n"), 0);
        fake_cairn_fail(world->cairn, 0, 1, CAIRN_UNKNOWN_OUTCOME, i == 0);
        assert_int_equal(commit(world), EIO);
    }
    assert_int_equal(commit(world), 0);
    assert_stored(world, "log", "1\nmine\nmine\nmine\n");
}

static void test_an_unknown_outcome_overtaken_is_stale(void **state)
{
    struct world *world = *state;
    put(world->other, "k", "abc");
    open_key(world, "k");
    assert_int_equal(refresh(world), 0);
    assert_int_equal(write_text(world, 0, "X"), 0);
    fake_cairn_fail(world->cairn, 0, 1, CAIRN_UNKNOWN_OUTCOME, true);
    assert_int_equal(commit(world), EIO);
    put(world->other, "k", "theirs");
    assert_int_equal(commit(world), ESTALE);
}

static void test_a_silent_cluster_ends_in_an_error(void **state)
{
    struct world *world = *state;
    put(world->other, "k", "abc");
    open_key(world, "k");
    fake_cairn_delay_ms(world->cairn, 10000);
    assert_int_equal(refresh(world), EIO);
    fake_cairn_delay_ms(world->cairn, 0);
    assert_int_equal(refresh(world), 0);
}

static void test_waiting_can_be_given_up(void **state)
{
    struct world *world = *state;
    int first = UNANSWERED, second = UNANSWERED;
    put(world->other, "k", "abc");
    open_key(world, "k");
    fake_cairn_delay_ms(world->cairn, 50);
    data_load(world->data, answered, &first);
    data_load(world->data, answered, &second);
    data_cancel(world->data, &second);
    assert_int_equal(second, EINTR);
    data_cancel(world->data, &first);
    settle(world, &first);
    assert_int_equal(first, EINTR);
}

/* --- Attributes, creation, deletion */

static void test_attributes_go_with_the_bytes(void **state)
{
    struct world *world = *state;
    struct fake_cairn_counts counts;
    open_key(world, "k");
    world->data->is_created = true;
    data_replace(world->data, 1);
    data_set_attributes(world->data,
                        &(struct cairn_attributes){ .mask = CAIRN_ATTR_MODE, .mode = 0600 });
    assert_int_equal(write_text(world, 0, "x"), 0);
    data_set_attributes(world->data,
                        &(struct cairn_attributes){ .mask = CAIRN_ATTR_MTIME, .mtime_us = 7 });
    assert_int_equal(commit(world), 0);
    fake_cairn_counts(world->cairn, &counts);
    assert_int_equal(counts.puts + counts.setattrs, 1);
    assert_int_equal(world->data->meta.attributes.mode, 0600);
    assert_int_equal(world->data->meta.attributes.mtime_us, 7);
    assert_false(world->data->is_created);
}

static void test_attributes_alone_keep_the_version_known(void **state)
{
    struct world *world = *state;
    put(world->other, "k", "abc");
    open_key(world, "k");
    assert_int_equal(refresh(world), 0);
    data_set_attributes(world->data,
                        &(struct cairn_attributes){ .mask = CAIRN_ATTR_MODE, .mode = 0600 });
    assert_int_equal(commit(world), 0);
    assert_int_equal(write_text(world, 0, "X"), 0);
    assert_int_equal(commit(world), 0);
    assert_stored(world, "k", "Xbc");
}

/* Setting attributes must not make another client's value look read. */
static void test_attributes_after_anothers_change(void **state)
{
    struct world *world = *state;
    put(world->other, "k", "abc");
    open_key(world, "k");
    assert_int_equal(refresh(world), 0);
    put(world->other, "k", "theirs");
    data_set_attributes(world->data,
                        &(struct cairn_attributes){ .mask = CAIRN_ATTR_MODE, .mode = 0600 });
    assert_int_equal(commit(world), 0);
    assert_false(world->data->is_loaded);
    assert_int_equal(refresh(world), 0);
    assert_bytes(world->data, "theirs");
}

/* A set time is of the bytes that were there: the next change takes it back. */
static void test_a_change_takes_back_a_set_time(void **state)
{
    struct world *world = *state;
    put(world->other, "k", "abc");
    open_key(world, "k");
    assert_int_equal(refresh(world), 0);
    data_set_attributes(world->data,
                        &(struct cairn_attributes){ .mask = CAIRN_ATTR_MTIME, .mtime_us = 7 });
    assert_int_equal(commit(world), 0);
    assert_int_equal(world->data->meta.attributes.mtime_us, 7);
    assert_int_equal(write_text(world, 0, "X"), 0);
    assert_int_equal(commit(world), 0);
    assert_int_equal(refresh(world), 0);
    assert_int_equal(world->data->meta.attributes.mtime_us, 0);
}

static void test_a_local_file_is_never_stored(void **state)
{
    struct world *world = *state;
    put(world->other, "k", "abc");
    open_key(world, "k");
    assert_int_equal(refresh(world), 0);
    data_make_local(world->data);
    delete (world->other, "k");
    assert_int_equal(write_text(world, 0, "X"), 0);
    assert_int_equal(commit(world), 0);
    assert_bytes(world->data, "Xbc");
    assert_stored(world, "k", NULL);
    assert_int_equal(refresh(world), 0);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_a_value_is_read_once_and_checked_later),
        TEST(test_a_missing_key_is_stale),
        TEST(test_a_replaced_file_is_one_put),
        TEST(test_holes_are_zero),
        TEST(test_a_file_has_a_greatest_size),
        TEST(test_all_files_share_a_bound),
        TEST(test_appends_of_two_writers_both_stay),
        TEST(test_an_append_that_loses_the_race_is_repeated),
        TEST(test_a_changed_file_that_another_changed_is_stale),
        TEST(test_a_deleted_file_does_not_come_back),
        TEST(test_writes_during_a_commit_stay_dirty),
        TEST(test_a_failed_commit_can_be_repeated),
        TEST(test_an_unknown_outcome_is_found_out),
        TEST(test_an_unknown_append_is_not_doubled),
        TEST(test_several_unknown_appends_are_not_doubled),
        TEST(test_an_unknown_outcome_overtaken_is_stale),
        TEST(test_a_silent_cluster_ends_in_an_error),
        TEST(test_waiting_can_be_given_up),
        TEST(test_attributes_go_with_the_bytes),
        TEST(test_attributes_alone_keep_the_version_known),
        TEST(test_attributes_after_anothers_change),
        TEST(test_a_change_takes_back_a_set_time),
        TEST(test_a_local_file_is_never_stored),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
