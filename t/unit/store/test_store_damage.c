/* Damage in LMDB: what is found damages one replica, the others go on; an image makes it whole; a
 * store that is damaged as a whole is moved aside. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <lmdb.h>

#include "base/limits.h"

#include "store_fixture.h"

struct story {
    struct fixture from, to; /* `to` is the one that suffers */
    struct store_replica *other;
    unsigned told;
    int status;
};

static void open_both(struct story *story)
{
    fixture_open(&story->to);
    assert_int_equal(store_replica_open(story->to.store, 2, 0xdef, 0, 0, 0, &story->other, NULL),
                     0);
}

static int setup(void **state)
{
    struct story *story = calloc(1, sizeof *story);
    fixture_init(&story->from);
    fixture_init(&story->to);
    fixture_open(&story->from);
    open_both(story);
    *state = story;
    return 0;
}

static int teardown(void **state)
{
    struct story *story = *state;
    fixture_fini(&story->from);
    fixture_fini(&story->to);
    free(story);
    return 0;
}

static void put_other(struct story *story, const char *key, const char *value)
{
    struct store_replica *own = story->to.replica;
    story->to.replica = story->other;
    fixture_put(&story->to, key, value);
    story->to.replica = own;
}

static void expect(struct fixture *fixture, struct store_replica *replica, const char *key,
                   const char *value)
{
    struct record record;
    struct err err;
    assert_int_equal(store_get(replica, span_of_string(key), &record, &err), 0);
    assert_int_equal(record.value.size, strlen(value));
    assert_memory_equal(record.value.data, value, strlen(value));
    store_turn_end(fixture->store);
}

/* The same commands for both; flushed here, closed. */
static void fill(struct story *story)
{
    for (int i = 0; i < 2; i++) {
        struct fixture *fixture = i ? &story->to : &story->from;
        fixture_put(fixture, "good", "a fine value");
        fixture_put(fixture, "victim", "a value to be damaged");
        fixture_apply(fixture, (struct command){ .type = COMMAND_PUT,
                                                 .key = span_of_string("written-by-a-session"),
                                                 .session = { 1, 2 },
                                                 .number = 1,
                                                 .lowest = 1 });
    }
    put_other(story, "neighbour", "next door");
    fixture_flush(&story->from);
    fixture_flush(&story->to);
    fixture_close(&story->to);
}

static void on_done(void *ctx, int status, const struct err *err)
{
    (void)err;
    struct story *story = ctx;
    story->told++;
    story->status = status;
}

/* The healthy one's image makes it whole. */
static void repair(struct story *story)
{
    struct store_image *image;
    struct store_stage *stage;
    assert_int_equal(store_image_open(story->from.replica, &image, NULL), 0);
    assert_int_equal(store_stage_open(story->to.replica, store_image_index(image), 1, &stage, NULL),
                     0);
    while (!store_stage_is_complete(stage)) {
        struct buf buf = { 0 };
        assert_int_equal(store_image_read(image, store_stage_position(stage), 50, &buf, NULL), 0);
        struct blob *chunk = blob_new(buf.size);
        memcpy(chunk->data, buf.data, buf.size);
        buf_fini(&buf);
        store_stage_write(stage, chunk, on_done, story);
        blob_unref(chunk);
        fake_env_settle(&story->to.env);
        assert_int_equal(story->status, 0);
    }
    store_stage_install(stage, on_done, story);
    fake_env_settle(&story->to.env);
    store_turn_end(story->to.store);
    assert_int_equal(story->status, 0);
    store_image_close(image);
}

static void expect_whole(struct story *story)
{
    for (int i = 0; i < 2; i++) {
        assert_false(store_replica_is_damaged(story->to.replica) ||
                     store_replica_is_stopped(story->to.replica));
        expect(&story->to, story->to.replica, "good", "a fine value");
        expect(&story->to, story->to.replica, "victim", "a value to be damaged");
        assert_int_equal(store_replica_flushed(story->to.replica), 3);
        assert_int_equal(store_replica_digest(story->to.replica),
                         store_replica_digest(story->from.replica));
        fixture_close(&story->to);
        open_both(story);
    }
    story->to.time = story->from.time;
    fixture_put(&story->to, "more", "to come");
    fixture_flush(&story->to);
    expect(&story->to, story->to.replica, "more", "to come");
}

/* Stopped: nothing is applied, read or flushed; the neighbour doesn't notice. */
static void expect_stopped(struct story *story)
{
    struct record record;
    struct err err;
    assert_true(store_replica_is_stopped(story->to.replica) &&
                store_replica_is_damaged(story->to.replica));
    assert_int_equal(store_get(story->to.replica, span_of_string("good"), &record, &err),
                     ERR_CORRUPT);
    struct store_cursor *cursor;
    assert_int_equal(store_cursor_open(story->to.replica, span_of(NULL, 0), span_of(NULL, 0), false,
                                       &cursor, &err),
                     ERR_CORRUPT);
    struct store_image *image;
    assert_int_equal(store_image_open(story->to.replica, &image, &err), ERR_CORRUPT);
    uint64_t applied = store_replica_applied(story->to.replica),
             flushed = store_replica_flushed(story->to.replica);
    struct store_result result;
    assert_int_equal(store_apply(story->to.replica, applied + 1, NULL, &result, &err), ERR_CORRUPT);
    assert_int_equal(store_replica_applied(story->to.replica), applied);
    store_replica_keys(story->to.replica);
    put_other(story, "still", "well");
    uint64_t other = store_replica_applied(story->other);
    unsigned failed = story->to.failed;
    fixture_flush(&story->to);
    assert_int_equal(story->to.failed, failed);
    assert_int_equal(store_replica_flushed(story->other), other);
    assert_int_equal(store_replica_flushed(story->to.replica), flushed);
    expect(&story->to, story->other, "neighbour", "next door");
    expect(&story->to, story->other, "still", "well");
}

static void expect_told(struct story *story, unsigned count)
{
    fake_env_turn(&story->to.env);
    assert_int_equal(story->to.damaged, count);
}

static int apply(struct story *story, struct command command)
{
    command.time = story->to.time + 1;
    struct blob *blob = command_pack(&command);
    struct store_result result;
    struct err err;
    int rc = store_apply(story->to.replica, store_replica_applied(story->to.replica) + 1, blob,
                         &result, &err);
    blob_unref(blob);
    return rc;
}

/* --- Stories */

static void a_reader_finds_damage(void **state)
{
    struct story *story = *state;
    fill(story);
    assert_true(fixture_damage(&story->to, "a value to be damaged") > 0);
    open_both(story);
    struct record record;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(store_get(story->to.replica, span_of_string("victim"), &record, NULL),
                         ERR_CORRUPT);
    }
    assert_int_equal(story->to.damaged, 0); /* never within the call */
    expect_told(story, 1);
    assert_true(store_replica_is_damaged(story->to.replica) &&
                !store_replica_is_stopped(story->to.replica));
    assert_false(store_replica_is_damaged(story->other));
    expect(&story->to, story->to.replica, "good", "a fine value");
    fixture_put(&story->to, "victim", "overwritten");
    fixture_flush(&story->to);
    assert_int_equal(store_replica_flushed(story->to.replica), 4);
    repair(story);
    expect_told(story, 1);
    expect_whole(story);
}

static void apply_meets_damage(void **state)
{
    struct story *story = *state;
    fill(story);
    assert_true(fixture_damage(&story->to, "a value to be damaged") > 0);
    open_both(story);
    fixture_put(&story->to, "good", "newer, lost with the replica, and in the log");
    assert_int_equal(
        apply(story, (struct command){ .type = COMMAND_DELETE, .key = span_of_string("victim") }),
        ERR_CORRUPT);
    expect_told(story, 1);
    expect_stopped(story);
    expect_told(story, 1);
    fixture_close(&story->to); /* a restart meets it again */
    open_both(story);
    assert_false(store_replica_is_damaged(story->to.replica));
    assert_int_equal(
        apply(story, (struct command){ .type = COMMAND_DELETE, .key = span_of_string("victim") }),
        ERR_CORRUPT);
    expect_told(story, 2);
    repair(story);
    expect_whole(story);
}

/* It stops while its content is frozen and waits for the log: the flush goes on without it. */
static void it_stops_before_a_flush(void **state)
{
    struct story *story = *state;
    fill(story);
    assert_true(fixture_damage(&story->to, "a value to be damaged") > 0);
    open_both(story);
    fixture_put(&story->to, "good", "newer");
    put_other(story, "neighbour", "next door");
    store_freeze(story->to.store);
    assert_int_equal(store_replica_frozen(story->to.replica), 4);
    assert_int_equal(
        apply(story, (struct command){ .type = COMMAND_DELETE, .key = span_of_string("victim") }),
        ERR_CORRUPT);
    assert_int_equal(store_replica_frozen(story->to.replica), 3);
    store_flush_start(story->to.store);
    fake_env_settle(&story->to.env);
    assert_int_equal(store_replica_flushed(story->to.replica), 3);
    assert_int_equal(store_replica_flushed(story->other), 2);
    expect_stopped(story);
    repair(story);
    expect_whole(story);
}

/* Takes LMDB's own view of the file and deletes the first key of a database from a given one on. */
static void delete_one(struct fixture *fixture, const char *database, const void *from, size_t size)
{
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi dbi;
    MDB_cursor *cursor;
    assert_int_equal(mdb_env_create(&env), 0);
    mdb_env_set_maxdbs(env, 8);
    assert_int_equal(mdb_env_open(env, fixture->config.directory, 0, 0600), 0);
    assert_int_equal(mdb_txn_begin(env, NULL, 0, &txn), 0);
    assert_int_equal(mdb_dbi_open(txn, database, 0, &dbi), 0);
    assert_int_equal(mdb_cursor_open(txn, dbi, &cursor), 0);
    MDB_val key = { size, (void *)from }, value;
    assert_int_equal(mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE), 0);
    assert_int_equal(mdb_cursor_del(cursor, 0), 0);
    mdb_cursor_close(cursor);
    assert_int_equal(mdb_txn_commit(txn), 0);
    mdb_env_close(env);
}

static void opens_stopped(struct story *story)
{
    open_both(story);
    expect_told(story, 1);
    assert_true(store_replica_is_stopped(story->to.replica));
    expect_stopped(story);
    repair(story);
    expect_whole(story);
}

static void a_key_is_missing(void **state)
{
    struct story *story = *state;
    fill(story);
    delete_one(&story->to, "r1.0000000000000abc.0", "good", 4);
    opens_stopped(story);
}

static void a_session_is_missing(void **state)
{
    struct story *story = *state;
    fill(story);
    delete_one(&story->to, "sessions", "\0\0\0\1", 4);
    opens_stopped(story);
}

static void the_meta_record_is_damaged(void **state)
{
    struct story *story = *state;
    fill(story);
    char path[128];
    snprintf(path, sizeof path, "%s/data.mdb", story->to.config.directory);
    int fd = open(path, O_RDWR);
    static char data[1 << 20];
    ssize_t size = pread(fd, data, sizeof data, 0);
    char *at = data, key[13] = { 'r', 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0x0a, (char)0xbc };
    unsigned count = 0;
    while ((at = memmem(at, (size_t)(data + size - at), key, sizeof key)) != NULL) {
        at += sizeof key;
        at[8] ^= 1; /* the applied index */
        count++;
    }
    assert_true(count > 0);
    assert_int_equal(pwrite(fd, data, (size_t)size, 0), size);
    close(fd);
    opens_stopped(story);
}

/* Makes every page that holds the text something that LMDB doesn't know. */
static void spoil_pages(struct fixture *fixture, const void *text, size_t text_size)
{
    char path[128];
    snprintf(path, sizeof path, "%s/data.mdb", fixture->config.directory);
    int fd = open(path, O_RDWR);
    static char data[4 << 20];
    ssize_t size = pread(fd, data, sizeof data, 0);
    char *at = data;
    while ((at = memmem(at, (size_t)(data + size - at), text, text_size)) != NULL) {
        memset(data + (at - data) / 4096 * 4096 + 10, 0, 2); /* its flags */
        at++;
    }
    assert_int_equal(pwrite(fd, data, (size_t)size, 0), size);
    close(fd);
}

static void lmdb_cannot_read_a_replica(void **state)
{
    struct story *story = *state;
    fill(story);
    spoil_pages(&story->to, "a value to be damaged", 21);
    open_both(story);
    struct record record;
    assert_int_equal(store_get(story->to.replica, span_of_string("good"), &record, NULL),
                     ERR_CORRUPT);
    expect_told(story, 1);
    expect_stopped(story);
    repair(story);
    expect_whole(story);
}

static void lmdb_cannot_write_a_replica(void **state)
{
    struct story *story = *state;
    fill(story);
    spoil_pages(&story->to, "a value to be damaged", 21);
    open_both(story);
    fixture_put(&story->to, "good", "blindly");
    put_other(story, "neighbour", "next door");
    fixture_flush(&story->to);
    assert_int_equal(story->to.failed, 0);
    assert_int_equal(story->to.flushed, 2);
    assert_int_equal(store_replica_flushed(story->other), 2);
    expect_told(story, 1);
    expect_stopped(story);
    repair(story);
    expect_whole(story);
}

/* Sessions of all replicas stand in one database: without it, none can be flushed. */
static void what_all_need_is_damaged(void **state)
{
    struct story *story = *state;
    fill(story);
    open_both(story);
    char id[16] = { 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2 };
    spoil_pages(&story->to, id, sizeof id);
    fixture_apply(&story->to, (struct command){ .type = COMMAND_PUT,
                                                .key = span_of_string("k"),
                                                .session = { 1, 3 },
                                                .number = 1,
                                                .lowest = 1 });
    store_freeze(story->to.store);
    store_flush_start(story->to.store);
    fake_env_settle(&story->to.env);
    assert_int_equal(story->to.failed, 1);
    assert_int_equal(story->to.failure, ERR_CORRUPT);
    fixture_close(&story->to);
    struct store *store;
    struct err err;
    assert_int_equal(store_open(&story->to.config, &store, &err), ERR_CORRUPT);

    /* The node begins anew. */
    char *aside;
    assert_int_equal(store_set_aside(&story->to.env.env, story->to.config.directory, &aside, &err),
                     0);
    open_both(story);
    assert_false(store_replica_is_damaged(story->to.replica));
    assert_int_equal(store_replica_applied(story->to.replica), 0);
    repair(story);
    put_other(story, "neighbour", "next door");
    expect_whole(story);
    fake_remove_directory(strdup(aside));
    mem_free(aside);
}

static void stores_aside_are_bounded(void **state)
{
    struct story *story = *state;
    char *asides[LIMIT_STORE_ASIDE], *more;
    struct err err;
    struct store *store;
    for (int i = 0; i < LIMIT_STORE_ASIDE; i++) {
        fixture_close(&story->to);
        assert_true(fixture_damage(&story->to, "CAIRNSTO") > 0);
        assert_int_equal(store_open(&story->to.config, &store, &err), ERR_CORRUPT);
        assert_int_equal(
            store_set_aside(&story->to.env.env, story->to.config.directory, &asides[i], &err), 0);
        open_both(story);
    }
    assert_int_equal(store_set_aside(&story->to.env.env, story->to.config.directory, &more, &err),
                     ERR_CORRUPT);
    for (int i = 0; i < LIMIT_STORE_ASIDE; i++) {
        fake_remove_directory(strdup(asides[i]));
        mem_free(asides[i]);
    }
}

/* A damaged replica must not spread. */
static void damage_is_not_sent(void **state)
{
    struct story *story = *state;
    fill(story);
    assert_true(fixture_damage(&story->to, "a value to be damaged") > 0);
    open_both(story);
    struct store_image *image;
    struct buf buf = { 0 };
    struct err err;
    assert_int_equal(store_image_open(story->to.replica, &image, NULL), 0);
    assert_int_equal(store_image_read(image, span_of(NULL, 0), 1 << 20, &buf, &err), ERR_CORRUPT);
    assert_int_equal(buf.size, 0);
    buf_fini(&buf);
    store_image_close(image);
    expect_told(story, 1);
    assert_int_equal(store_image_open(story->to.replica, &image, NULL), ERR_CORRUPT);
    repair(story);
    expect_whole(story);
}

/* Opens, scrubs, and expects what the scrub says of the replica. */
static void scrub_finds(struct story *story, int status)
{
    open_both(story);
    assert_int_equal(fixture_scrub(&story->to, 10), status);
    expect_told(story, status != 0);
    assert_true(store_replica_is_damaged(story->to.replica) == (status != 0));
    if (status != 0) {
        repair(story);
        assert_int_equal(fixture_scrub(&story->to, 10), 0);
        expect_whole(story);
    }
}

static void a_scrub_finds_nothing(void **state)
{
    struct story *story = *state;
    fill(story);
    scrub_finds(story, 0);
    struct store_scrub *scrub, *second;
    assert_int_equal(store_scrub_open(story->to.replica, &scrub, NULL), 0);
    assert_int_equal(store_scrub_index(scrub), 3);
    assert_int_equal(store_scrub_open(story->other, &second, NULL), ERR_BUSY);
    /* Closed in the middle: nobody is told. */
    int status = 7;
    store_scrub_step(scrub, 1, fixture_on_scrubbed, &status);
    store_scrub_close(scrub);
    fake_env_settle(&story->to.env);
    assert_int_equal(status, 7);
    /* The store closes with a step queued. */
    assert_int_equal(store_scrub_open(story->other, &scrub, NULL), 0);
    store_scrub_step(scrub, 1, fixture_on_scrubbed, &status);
}

static void a_scrub_finds_a_changed_value(void **state)
{
    struct story *story = *state;
    fill(story);
    assert_true(fixture_damage(&story->to, "a value to be damaged") > 0);
    scrub_finds(story, ERR_CORRUPT);
}

static void a_scrub_finds_a_changed_key(void **state)
{
    struct story *story = *state;
    fill(story);
    assert_true(fixture_damage(&story->to, "victim") > 0);
    scrub_finds(story, ERR_CORRUPT);
}

/* Changes a byte of the session's value, wherever it stands. */
static void spoil_sessions(struct fixture *fixture)
{
    char id[16] = { 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2 }, path[128];
    snprintf(path, sizeof path, "%s/data.mdb", fixture->config.directory);
    int fd = open(path, O_RDWR);
    static char data[4 << 20];
    ssize_t size = pread(fd, data, sizeof data, 0);
    char *at = data;
    while ((at = memmem(at, (size_t)(data + size - at), id, sizeof id)) != NULL) {
        at += sizeof id;
        at[16] ^= 1; /* in its value */
    }
    assert_int_equal(pwrite(fd, data, (size_t)size, 0), size);
    close(fd);
}

static void a_scrub_finds_a_damaged_session(void **state)
{
    struct story *story = *state;
    fill(story);
    open_both(story);
    spoil_sessions(&story->to);
    assert_int_equal(fixture_scrub(&story->to, 10), ERR_CORRUPT);
    expect_told(story, 1);
}

static void a_damaged_session_is_not_sent(void **state)
{
    struct story *story = *state;
    fill(story);
    open_both(story);
    spoil_sessions(&story->to);
    struct store_image *image;
    struct buf buf = { 0 };
    struct err err;
    assert_int_equal(store_image_open(story->to.replica, &image, NULL), 0);
    assert_int_equal(store_image_read(image, span_of(NULL, 0), 1 << 20, &buf, &err), ERR_CORRUPT);
    buf_fini(&buf);
    store_image_close(image);
    expect_told(story, 1);
    repair(story);
    expect_whole(story);
}

/* A page that an older state left: everything in it is right by itself. */
static void a_scrub_finds_an_old_page(void **state)
{
    struct story *story = *state;
    fill(story);
    open_both(story);
    char path[128];
    snprintf(path, sizeof path, "%s/data.mdb", story->to.config.directory);
    fixture_put(&story->to, "good", "an old value");
    fixture_flush(&story->to);
    static char before[4 << 20], after[4 << 20];
    int fd = open(path, O_RDWR);
    assert_true(pread(fd, before, sizeof before, 0) > 0);
    fixture_put(&story->to, "good", "a new value!");
    fixture_flush(&story->to);
    fixture_close(&story->to);
    ssize_t size = pread(fd, after, sizeof after, 0);
    char *old = memmem(before, (size_t)size, "an old value", 12), *new = after;
    assert_non_null(old);
    old = before + (old - before) / 4096 * 4096;
    while ((new = memmem(new, (size_t)(after + size - new), "a new value!", 12)) != NULL) {
        char *page = after + (new - after) / 4096 * 4096;
        memcpy(page + 8, old + 8, 4096 - 8); /* under its own number: a write that was lost */
        new ++;
    }
    assert_int_equal(pwrite(fd, after, (size_t)size, 0), size);
    close(fd);
    open_both(story);
    expect(&story->to, story->to.replica, "good", "an old value"); /* alas: no read can see that */
    assert_int_equal(fixture_scrub(&story->to, 10), ERR_CORRUPT);
    expect_told(story, 1);
}

#define STORY(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        STORY(a_reader_finds_damage),
        STORY(apply_meets_damage),
        STORY(it_stops_before_a_flush),
        STORY(a_key_is_missing),
        STORY(a_session_is_missing),
        STORY(the_meta_record_is_damaged),
        STORY(lmdb_cannot_read_a_replica),
        STORY(lmdb_cannot_write_a_replica),
        STORY(what_all_need_is_damaged),
        STORY(stores_aside_are_bounded),
        STORY(damage_is_not_sent),
        STORY(a_scrub_finds_nothing),
        STORY(a_scrub_finds_a_changed_value),
        STORY(a_scrub_finds_a_changed_key),
        STORY(a_scrub_finds_a_damaged_session),
        STORY(a_damaged_session_is_not_sent),
        STORY(a_scrub_finds_an_old_page),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
