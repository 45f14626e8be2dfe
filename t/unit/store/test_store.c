/* The store's rules, one story each, on the fake env: conditions, attributes, sessions, flush and
 * reopen, full maps, damage. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>

#include "base/hash.h"
#include "base/limits.h"

#include "attributes_equal.h"
#include "store_fixture.h"

static int set_up(void **state)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);
    fixture_init(fixture);
    fixture_open(fixture);
    *state = fixture;
    return 0;
}

static int tear_down(void **state)
{
    fixture_fini(*state);
    free(*state);
    return 0;
}

static int get(struct fixture *fixture, const char *key, struct record *out)
{
    return store_get(fixture->replica, span_of_string(key), out, NULL);
}

static void check_value(struct fixture *fixture, const char *key, const char *value)
{
    struct record record;
    struct err err = { 0 };
    int rc = store_get(fixture->replica, span_of_string(key), &record, &err);
    assert_int_equal(rc, 0);
    assert_true(span_equal(record.value, span_of_string(value)));
}

static struct command conditional(enum command_type type, const char *key,
                                  enum condition_kind condition, uint64_t version)
{
    struct command command = { .type = (uint8_t)type,
                               .key = span_of_string(key),
                               .condition = (uint8_t)condition,
                               .condition_version = version };
    if (type == COMMAND_PUT) {
        command.value = span_of_string("conditional");
    } else if (type == COMMAND_SETATTR) {
        command.attributes = (struct attributes){ .mask = ATTRIBUTE_MODE, .mode = 0700 };
    }
    return command;
}

static void check_result(struct store_result result, int status, uint64_t version)
{
    assert_int_equal(result.status, status);
    assert_int_equal(result.version, version);
    assert_false(result.repeated);
}

/* All conditions against a present key "k" (version `present`) and an absent key "none"; index is
 * the next entry's. */
static void check_conditions(struct fixture *fixture)
{
    struct record record;
    assert_int_equal(get(fixture, "k", &record), 0);
    uint64_t present = record.version, index = store_replica_applied(fixture->replica);
    check_result(fixture_apply(fixture, conditional(COMMAND_PUT, "k", CONDITION_ABSENT, 0)),
                 ERR_EXISTS, present);
    check_result(fixture_apply(fixture, conditional(COMMAND_DELETE, "k", CONDITION_ABSENT, 0)),
                 ERR_EXISTS, present);
    check_result(
        fixture_apply(fixture, conditional(COMMAND_PUT, "k", CONDITION_VERSION, present + 1)),
        ERR_CONDITION_FAILED, present);
    check_result(fixture_apply(fixture, conditional(COMMAND_SETATTR, "k", CONDITION_VERSION, 0)),
                 ERR_CONDITION_FAILED, present);
    check_result(
        fixture_apply(fixture, conditional(COMMAND_DELETE, "k", CONDITION_VERSION, present + 1)),
        ERR_CONDITION_FAILED, present);
    check_result(fixture_apply(fixture, conditional(COMMAND_PUT, "none", CONDITION_VERSION, 1)),
                 ERR_CONDITION_FAILED, 0);
    check_result(fixture_apply(fixture, conditional(COMMAND_DELETE, "none", CONDITION_VERSION, 1)),
                 ERR_CONDITION_FAILED, 0);
    check_result(fixture_apply(fixture, conditional(COMMAND_DELETE, "none", CONDITION_PRESENT, 0)),
                 ERR_NOT_FOUND, 0);
    check_result(fixture_apply(fixture, conditional(COMMAND_PUT, "none", CONDITION_PRESENT, 0)),
                 ERR_NOT_FOUND, 0);
    check_result(fixture_apply(fixture, conditional(COMMAND_SETATTR, "none", CONDITION_NONE, 0)),
                 ERR_NOT_FOUND, 0);
    assert_int_equal(get(fixture, "k", &record), 0);
    assert_int_equal(record.version, present);
    assert_int_equal(get(fixture, "none", &record), ERR_NOT_FOUND);

    index += 10;
    check_result(fixture_delete(fixture, "none"), 0, 0);
    check_result(fixture_apply(fixture, conditional(COMMAND_PUT, "k", CONDITION_VERSION, present)),
                 0, index + 2);
    check_result(fixture_apply(fixture, conditional(COMMAND_PUT, "k", CONDITION_PRESENT, 0)), 0,
                 index + 3);
    check_result(
        fixture_apply(fixture, conditional(COMMAND_SETATTR, "k", CONDITION_VERSION, index + 3)), 0,
        index + 4);
    struct store_result deleted =
        fixture_apply(fixture, conditional(COMMAND_DELETE, "k", CONDITION_VERSION, index + 4));
    check_result(deleted, 0, index + 4);
    assert_true(deleted.existed);
    assert_int_equal(get(fixture, "k", &record), ERR_NOT_FOUND);
    check_result(fixture_apply(fixture, conditional(COMMAND_PUT, "k", CONDITION_ABSENT, 0)), 0,
                 index + 6);
    assert_int_equal(store_replica_keys(fixture->replica), 1);
}

static void conditions_hold_in_every_layer(void **state)
{
    struct fixture *fixture = *state;
    fixture_put(fixture, "k", "v");
    check_conditions(fixture);
    store_turn_end(fixture->store);
    store_freeze(fixture->store);
    check_conditions(fixture); /* k is frozen */
    store_flush_start(fixture->store);
    fake_env_settle(&fixture->env);
    store_turn_end(fixture->store);
    fixture_flush(fixture);
    check_conditions(fixture); /* k is in LMDB */
}

static void puts_keep_some_attributes(void **state)
{
    struct fixture *fixture = *state;
    for (int layer = 0; layer < 2; layer++) {
        struct record record;
        struct command marker = { .type = COMMAND_PUT,
                                  .key = span_of_string("d/"),
                                  .attributes = { .mask = ATTRIBUTE_ALL,
                                                  .mode = 0755,
                                                  .uid = 1,
                                                  .gid = 2,
                                                  .flags = RECORD_DIRECTORY,
                                                  .mtime_us = 3,
                                                  .expires_at_us = 4 } };
        fixture_apply(fixture, marker);
        if (layer == 1) {
            fixture_flush(fixture);
        }
        assert_int_equal(get(fixture, "d/", &record), 0);
        assert_attributes_equal(&record.attributes, &marker.attributes);
        fixture_put(fixture, "d/", "plain");
        assert_int_equal(get(fixture, "d/", &record), 0);
        assert_int_equal(record.attributes.mask,
                         ATTRIBUTE_MODE | ATTRIBUTE_UID | ATTRIBUTE_GID | ATTRIBUTE_FLAGS);
        assert_int_equal(record.attributes.flags, RECORD_DIRECTORY);
        fixture_delete(fixture, "d/");
        fixture_put(fixture, "d/", "afresh");
        assert_int_equal(get(fixture, "d/", &record), 0);
        assert_int_equal(record.attributes.mask, 0);
    }
}

static void setattr_keeps_the_value(void **state)
{
    struct fixture *fixture = *state;
    fixture_put(fixture, "k", "the value");
    fixture_put(fixture, "empty", "");
    uint64_t written_us = hlc_to_us(fixture->time);
    for (int layer = 0; layer < 4; layer++) {
        struct command command = conditional(COMMAND_SETATTR, "k", CONDITION_NONE, 0);
        command.attributes.mode = (uint32_t)layer;
        struct store_result result = fixture_apply(fixture, command);
        assert_int_equal(result.status, 0);
        struct record record;
        assert_int_equal(get(fixture, "k", &record), 0);
        assert_true(span_equal(record.value, span_of_string("the value")));
        assert_int_equal(record.version, result.version);
        assert_int_equal(record.time, fixture->time);
        assert_int_equal(record.attributes.mode, layer);
        assert_int_equal(record.attributes.mtime_us, written_us);
        assert_int_equal(
            fixture_apply(fixture, conditional(COMMAND_SETATTR, "empty", CONDITION_NONE, 0)).status,
            0);
        check_value(fixture, "empty", "");
        if (layer < 2) {
            fixture_flush(fixture);
        } else if (layer == 2) { /* the last finds it frozen */
            store_freeze(fixture->store);
        }
        check_value(fixture, "k", "the value");
    }
    store_flush_start(fixture->store);
    assert_true(fake_env_work(&fixture->env) && fake_env_finish(&fixture->env));
    store_turn_end(fixture->store);
    fixture_flush(fixture);
    fixture_reopen(fixture);
    check_value(fixture, "k", "the value");
}

/* Small values stand in the overlay, in the same place again and again; what one turn has lent, and what doesn't fit, stands elsewhere. */
static void values_of_all_sizes_replace_each_other(void **state)
{
    enum { LARGEST = 3000 };
    struct fixture *fixture = *state;
    static const int sizes[] = {
        0, 10, 5, 10, 11, 0, 1023, 3, 1024, 10, 3000, 9, 1023, 1022, 0, 8
    };
    char text[LARGEST + 1], before[LARGEST + 1] = "";
    for (int lend = 0; lend < 2; lend++) {
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            struct record record;
            bool is_lent = lend && i > 0;
            if (is_lent) {
                assert_int_equal(get(fixture, "k", &record), 0);
            }
            memset(text, 'a' + (int)i, (size_t)sizes[i]);
            text[sizes[i]] = 0;
            fixture_put(fixture, "k", text);
            if (is_lent) {
                assert_true(span_equal(record.value, span_of_string(before)));
            }
            check_value(fixture, "k", text);
            struct command command = conditional(COMMAND_SETATTR, "k", CONDITION_NONE, 0);
            assert_int_equal(fixture_apply(fixture, command).status, 0);
            check_value(fixture, "k", text);
            store_turn_end(fixture->store);
            strcpy(before, text);
        }
        fixture_flush(fixture);
        check_value(fixture, "k", before);
        strcpy(before, "");
    }
}

static void keys_of_other_partitions_are_refused(void **state)
{
    struct fixture *fixture = *state;
    struct span key = span_of_string("some key");
    uint64_t hash = hash_key(99, key);
    struct store_replica *own, *other, *all = fixture->replica;
    assert_int_equal(store_replica_open(fixture->store, 2, 1, 99, hash >> 60 << 60, 4, &own, NULL),
                     0);
    assert_int_equal(
        store_replica_open(fixture->store, 3, 1, 99, ~hash >> 60 << 60, 4, &other, NULL), 0);
    fixture->replica = own;
    assert_int_equal(fixture_put(fixture, "some key", "v").status, 0);
    fixture->replica = other;
    struct command command = { .type = COMMAND_PUT, .key = key, .session = { 1, 1 }, .number = 1 };
    check_result(fixture_apply(fixture, command), ERR_WRONG_PARTITION, 0);
    check_result(fixture_apply(fixture, command), ERR_WRONG_PARTITION, 0); /* not remembered */
    assert_int_equal(store_stats(fixture->store)->sessions, 0);
    assert_int_equal(store_replica_applied(other), 2);
    fixture->replica = all;
}

static struct command in_session(uint64_t number, uint64_t lowest, const char *value)
{
    return (struct command){ .type = COMMAND_PUT,
                             .key = span_of_string("k"),
                             .value = span_of_string(value),
                             .session = { 5, 6 },
                             .number = number,
                             .lowest = lowest };
}

static void a_retry_is_answered_and_not_applied(void **state)
{
    struct fixture *fixture = *state;
    struct store_result first = fixture_apply(fixture, in_session(1, 1, "first"));
    fixture_apply(fixture, in_session(2, 1, "second"));
    for (int i = 0; i < 3; i++) {
        struct store_result again = fixture_apply(fixture, in_session(1, 1, "first"));
        assert_true(again.repeated);
        assert_int_equal(again.status, 0);
        assert_int_equal(again.version, first.version);
        assert_int_equal(again.time, first.time);
        check_value(fixture, "k", "second");
        if (i == 0) {
            fixture_flush(fixture);
        } else {
            fixture_reopen(fixture); /* sessions are stored with the applied index */
            assert_int_equal(store_stats(fixture->store)->sessions, 1);
        }
    }
    struct store_result third = fixture_apply(fixture, in_session(3, 3, "third"));
    check_result(third, 0, store_replica_applied(fixture->replica));
    assert_int_equal(fixture_apply(fixture, in_session(1, 1, "first")).status, ERR_UNKNOWN_OUTCOME);
    check_value(fixture, "k", "third");
}

static void too_late_is_told_and_applies_nothing(void **state)
{
    struct fixture *fixture = *state;
    struct command command = in_session(1, 1, "late");
    command.client_time = fixture->time;
    command.time = fixture->time + hlc_from_us(5ull * 60 * 1000 * 1000) + 1;
    check_result(fixture_apply(fixture, command), ERR_LATE, 0);
    struct record record;
    assert_int_equal(get(fixture, "k", &record), ERR_NOT_FOUND);
    assert_int_equal(store_replica_keys(fixture->replica), 0);
}

static void forgotten_sessions_leave_lmdb(void **state)
{
    struct fixture *fixture = *state;
    fixture_apply(fixture, in_session(1, 1, "v"));
    fixture_flush(fixture);
    fixture->time += hlc_from_us(11ull * 60 * 1000 * 1000);
    fixture_put(fixture, "other", "v");
    assert_int_equal(store_stats(fixture->store)->sessions, 0);
    fixture_flush(fixture);
    fixture_reopen(fixture);
    assert_int_equal(store_stats(fixture->store)->sessions, 0);
}

static void fences_and_no_ops_only_move_on(void **state)
{
    struct fixture *fixture = *state;
    struct store_result result = fixture_apply(fixture, (struct command){ .type = COMMAND_FENCE });
    check_result(result, 0, 1);
    assert_int_equal(store_replica_time(fixture->replica), fixture->time);
    assert_int_equal(store_apply(fixture->replica, 2, NULL, &result, NULL), 0);
    struct blob *empty = blob_new(0);
    assert_int_equal(store_apply(fixture->replica, 3, empty, &result, NULL), 0);
    blob_unref(empty);
    assert_int_equal(store_replica_applied(fixture->replica), 3);
    fixture_flush(fixture);
    fixture_reopen(fixture);
    assert_int_equal(store_replica_applied(fixture->replica), 3);
    assert_int_equal(store_replica_time(fixture->replica), fixture->time);
}

static void damaged_entries_are_refused(void **state)
{
    struct fixture *fixture = *state;
    fixture_put(fixture, "k", "v");
    struct command command = { .type = COMMAND_PUT,
                               .time = fixture->time,
                               .key = span_of_string("k") };
    struct blob *blob = command_pack(&command);
    struct store_result result;
    assert_int_equal(store_apply(fixture->replica, 2, blob, &result, NULL),
                     ERR_CORRUPT); /* time stands still */
    command_set_time(blob, fixture->time + 1);
    blob->is_summed = false; /* it comes from elsewhere */
    blob->data[1] = 99;
    assert_int_equal(store_apply(fixture->replica, 2, blob, &result, NULL), ERR_FORMAT);
    blob->data[1] = COMMAND_VERSION;
    blob->data[24] ^= 1;
    assert_int_equal(store_apply(fixture->replica, 2, blob, &result, NULL), ERR_CORRUPT);
    blob_unref(blob);
    assert_int_equal(store_replica_applied(fixture->replica), 1);
}

static void reopening_finds_what_was_flushed(void **state)
{
    struct fixture *fixture = *state;
    fixture_put(fixture, "a", "1");
    fixture_put(fixture, "b", "2");
    fixture_flush(fixture);
    assert_int_equal(fixture->flushed, 1);
    fixture_put(fixture, "b", "not flushed");
    fixture_delete(fixture, "a");
    assert_int_equal(store_replica_flushed(fixture->replica), 2);
    assert_int_equal(store_replica_applied(fixture->replica), 4);
    fixture_reopen(fixture);
    assert_int_equal(store_replica_applied(fixture->replica), 2);
    assert_int_equal(store_replica_flushed(fixture->replica), 2);
    assert_int_equal(store_replica_keys(fixture->replica), 2);
    check_value(fixture, "a", "1");
    check_value(fixture, "b", "2");
    assert_int_equal(fixture_put(fixture, "c", "3").version, 3);
}

static void closing_lets_go_of_a_flush_in_any_state(void **state)
{
    struct fixture *fixture = *state;
    fixture_put(fixture, "a", "1");
    store_freeze(fixture->store); /* frozen only */
    fixture_reopen(fixture);
    assert_int_equal(store_replica_applied(fixture->replica), 0);
    fixture_put(fixture, "a", "1");
    store_freeze(fixture->store);
    store_flush_start(fixture->store); /* queued: must do nothing later */
    fixture_reopen(fixture);
    assert_int_equal(store_replica_applied(fixture->replica), 0);
    fixture_put(fixture, "a", "1");
    store_freeze(fixture->store);
    store_flush_start(fixture->store);
    assert_true(fake_env_work(&fixture->env)); /* written, its end not delivered */
    fixture_reopen(fixture);
    assert_int_equal(store_replica_applied(fixture->replica), 1);
    assert_int_equal(fixture->flushed, 0);
}

/* What a turn borrowed survives overwrites, deletes, and the end of a flush, until the turn's
 * end. */
static void borrowed_spans_live_until_the_turn_ends(void **state)
{
    struct fixture *fixture = *state;
    struct record active, frozen, flushed;
    fixture_put(fixture, "flushed", "in lmdb");
    fixture_flush(fixture);
    fixture_put(fixture, "frozen", "in the frozen one");
    store_freeze(fixture->store);
    fixture_put(fixture, "active", "in the active one");
    assert_int_equal(get(fixture, "active", &active), 0);
    assert_int_equal(get(fixture, "frozen", &frozen), 0);
    assert_int_equal(get(fixture, "flushed", &flushed), 0);
    fixture_put(fixture, "active", "changed");
    fixture_delete(fixture, "active");
    fixture_put(fixture, "frozen", "changed");
    fixture_put(fixture, "flushed", "changed");
    store_flush_start(fixture->store);
    assert_true(fake_env_work(&fixture->env) && fake_env_finish(&fixture->env));
    assert_true(store_is_flushing(fixture->store)); /* it may not be dropped yet */
    assert_true(span_equal(active.value, span_of_string("in the active one")));
    assert_true(span_equal(frozen.value, span_of_string("in the frozen one")));
    assert_true(span_equal(flushed.value, span_of_string("in lmdb")));
    store_turn_end(fixture->store);
    assert_false(store_is_flushing(fixture->store));
    assert_int_equal(fixture->flushed, 2);
    check_value(fixture, "frozen", "changed");
}

static void boundaries_of_keys_and_values(void **state)
{
    struct fixture *fixture = *state;
    char key[LIMIT_KEY_BYTES + 2] = { 0 };
    memset(key, 0xff, LIMIT_KEY_BYTES);
    struct blob *large = blob_new(LIMIT_VALUE_BYTES);
    memset(large->data, 'x', large->size);
    struct command command = { .type = COMMAND_PUT,
                               .key = span_of(key, LIMIT_KEY_BYTES),
                               .value = blob_span(large) };
    for (int round = 0; round < 2; round++) {
        fixture_apply(fixture, command);
        fixture_put(fixture, "empty", "");
        fixture_put(fixture, "\x01", "one byte");
        for (int layer = 0; layer < 3; layer++) {
            struct record record;
            assert_int_equal(store_get(fixture->replica, command.key, &record, NULL), 0);
            assert_true(span_equal(record.value, command.value));
            check_value(fixture, "empty", "");
            check_value(fixture, "\x01", "one byte");
            layer == 0 ? fixture_flush(fixture) : fixture_reopen(fixture);
        }
    }
    struct record record;
    assert_int_equal(store_get(fixture->replica, span_of(key, LIMIT_KEY_BYTES + 1), &record, NULL),
                     ERR_KEY_TOO_LONG);
    assert_int_equal(store_get(fixture->replica, span_of(key, 0), &record, NULL), ERR_KEY_EMPTY);
    /* Bounds one byte longer than a key: what follows the longest key, and what precedes that. */
    struct store_cursor *cursor;
    struct span found;
    assert_int_equal(store_cursor_open(fixture->replica, span_of(key, LIMIT_KEY_BYTES + 1),
                                       span_of(NULL, 0), false, &cursor, NULL),
                     0);
    assert_int_equal(store_cursor_next(cursor, &found, &record, NULL), 0);
    store_cursor_close(cursor);
    assert_int_equal(store_cursor_open(fixture->replica, span_of(NULL, 0),
                                       span_of(key, LIMIT_KEY_BYTES + 1), true, &cursor, NULL),
                     0);
    assert_int_equal(store_cursor_next(cursor, &found, &record, NULL), 1);
    assert_true(span_equal(found, command.key));
    assert_int_equal(store_cursor_next(cursor, &found, &record, NULL), 1);
    assert_true(span_equal(found, span_of_string("empty")));
    store_cursor_close(cursor);
    blob_unref(large);
}

static void put_large(struct fixture *fixture, unsigned number, size_t size)
{
    char key[16];
    snprintf(key, sizeof key, "k%u", number);
    struct blob *value = blob_new(size);
    memset(value->data, (int)number, value->size);
    fixture_apply(fixture, (struct command){ .type = COMMAND_PUT,
                                             .key = span_of_string(key),
                                             .value = blob_span(value) });
    blob_unref(value);
}

/* The map is smaller than what was applied: nothing is lost, writes are refused with a clear code,
 * deletes go on, and a larger map heals it. */
static void a_full_map_is_refused_and_heals(void **state)
{
    struct fixture *fixture = *state;
    fixture_close(fixture);
    fake_remove_directory((char *)fixture->config.directory);
    fixture->config.directory = fake_make_directory();
    fixture->config.map_bytes = 1 << 20;
    fixture->config.quota_bytes = 64 << 20; /* so that the map is what ends first */
    fixture_open(fixture);
    fixture_put(fixture, "k", "flushed before");
    fixture_flush(fixture);
    assert_int_equal(store_admit(fixture->store, 100), 0);
    for (unsigned i = 0; i < 20; i++) {
        put_large(fixture, i, 100000);
    }
    store_turn_end(fixture->store);
    store_freeze(fixture->store);
    store_flush_start(fixture->store);
    assert_true(fake_env_work(&fixture->env) && fake_env_finish(&fixture->env));
    assert_int_equal(fixture->failed, 0);
    assert_true(store_is_flushing(fixture->store));
    assert_int_equal(store_admit(fixture->store, 1), ERR_STORE_FULL);
    assert_int_equal(store_admit(fixture->store, 0), 0);
    fixture_delete(fixture, "k3");
    check_value(fixture, "k", "flushed before");
    struct record record;
    assert_int_equal(get(fixture, "k19", &record), 0);
    assert_int_equal(record.value.size, 100000);
    assert_int_equal(get(fixture, "k3", &record), ERR_NOT_FOUND);
    store_turn_end(fixture->store);
    fake_env_pass(&fixture->env, 2000000); /* it is tried again, for each replica alone */
    assert_true(fake_env_work(&fixture->env) && fake_env_finish(&fixture->env));
    assert_int_equal(store_admit(fixture->store, 1), ERR_STORE_FULL);
    assert_int_equal(store_replica_flushed(fixture->replica), 1);
    fixture->config.map_bytes = 16 << 20;
    fixture_reopen(fixture);
    assert_int_equal(store_replica_applied(fixture->replica), 1);
    for (unsigned i = 0; i < 20; i++) {
        put_large(fixture, i, 100000);
    }
    fixture_flush(fixture);
    assert_int_equal(store_replica_flushed(fixture->replica), 21);
    assert_int_equal(store_admit(fixture->store, 1), 0);
}

/* Two replicas that don't fit into one transaction's copies, but fit one after the other. */
/* Four replicas, each of which makes a transaction large enough: the flush pauses behind the first. */
static void open_four_and_pause(struct fixture *fixture, struct store_replica **replicas)
{
    fixture_close(fixture);
    fixture->config.flush_transaction_bytes = 1;
    fixture_open(fixture);
    replicas[0] = fixture->replica;
    for (uint32_t i = 0; i < 4; i++) {
        int rc =
            i == 0 ? 0 : store_replica_open(fixture->store, i + 1, i, 0, 0, 0, &replicas[i], NULL);
        assert_int_equal(rc, 0);
        fixture->replica = replicas[i];
        fixture_put(fixture, "k", "value");
    }
    store_freeze(fixture->store);
    store_flush_start(fixture->store);
    store_flush_pace(fixture->store, 1);
    fake_env_settle(&fixture->env);
    store_turn_end(fixture->store);
}

/* As far as it is allowed, one transaction after the other; meanwhile all is read, and may change. */
static void a_flush_keeps_to_its_pace(void **state)
{
    struct fixture *fixture = *state;
    struct store_replica *replicas[4];
    open_four_and_pause(fixture, replicas);
    uint64_t frozen = store_unflushed_bytes(fixture->store) - store_active_bytes(fixture->store);
    for (int i = 0; i < 4; i++) {
        fixture->replica = replicas[i];
        check_value(fixture, "k", "value");
        assert_int_equal(store_replica_flushed(replicas[i]), 0); /* told at the end */
    }
    fixture_put(fixture, "k", "newer");
    for (uint64_t quarters = 1; quarters < 4; quarters++) {
        store_flush_pace(fixture->store, frozen / 4 * quarters); /* written already */
        fake_env_pass(&fixture->env, 1000);
        fake_env_settle(&fixture->env);
        assert_true(store_is_flushing(fixture->store));
        store_flush_pace(fixture->store, frozen / 4 * quarters + 4);
        fake_env_settle(&fixture->env);
        store_turn_end(fixture->store);
    }
    assert_false(store_is_flushing(fixture->store));
    assert_int_equal(fixture->flushed, 1);
    assert_in_range(store_flush_paused_us(fixture->store), 3000, 3500);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(store_replica_flushed(replicas[i]), 1);
    }
    check_value(fixture, "k", "newer");
}

/* What it has written before the process ends stands, whole replicas; the rest comes back from the log. */
static void a_paused_flush_may_end_with_the_process(void **state)
{
    struct fixture *fixture = *state;
    struct store_replica *replicas[4], *second;
    open_four_and_pause(fixture, replicas);
    assert_true(store_is_flushing(fixture->store));
    fixture_reopen(fixture);
    assert_int_equal(store_replica_applied(fixture->replica), 1);
    check_value(fixture, "k", "value");
    assert_int_equal(store_replica_open(fixture->store, 2, 1, 0, 0, 0, &second, NULL), 0);
    assert_int_equal(store_replica_applied(second), 0);
    assert_int_equal(fixture->flushed, 0);
}

/* Nor does it pause where the overlay is so full that writers would have to wait. */
static void a_flush_does_not_pause_where_the_overlay_is_full(void **state)
{
    struct fixture *fixture = *state;
    struct store_replica *replicas[4];
    fixture->config.overlay_bytes_max = 1024;
    open_four_and_pause(fixture, replicas);
    assert_false(store_is_flushing(fixture->store));
    assert_int_equal(fixture->flushed, 1);
}

static void a_tight_map_is_flushed_piecewise(void **state)
{
    struct fixture *fixture = *state;
    fixture_close(fixture);
    fake_remove_directory((char *)fixture->config.directory);
    fixture->config.directory = fake_make_directory();
    fixture->config.map_bytes = 2200 << 10;
    fixture->config.quota_bytes = 64 << 20;
    fixture_open(fixture);
    struct store_replica *replicas[4] = { fixture->replica };
    for (uint32_t i = 1; i < 4; i++) {
        assert_int_equal(store_replica_open(fixture->store, i + 1, i, 0, 0, 0, &replicas[i], NULL),
                         0);
    }
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 4; i++) {
            fixture->replica = replicas[i];
            put_large(fixture, 0, 330 << 10);
        }
        fixture_flush(fixture);
        for (int tries = 0; store_is_flushing(fixture->store) && tries < 10; tries++) {
            assert_int_equal(store_admit(fixture->store, 1), ERR_STORE_FULL);
            fake_env_pass(&fixture->env, 2000000);
            fake_env_settle(&fixture->env);
            store_turn_end(fixture->store);
        }
        assert_false(store_is_flushing(fixture->store));
        for (int i = 0; i < 4; i++) {
            assert_int_equal(store_replica_flushed(replicas[i]), round + 1);
        }
    }
    fixture->replica = replicas[0];
    assert_int_equal(fixture->failed, 0);
}

/* A store with a map of 4 MiB, and an image open of one record; 100 KB are overwritten again and again. */
static struct store_image *image_in_a_small_map(struct fixture *fixture)
{
    struct store_image *image;
    fixture_close(fixture);
    fake_remove_directory((char *)fixture->config.directory);
    fixture->config.directory = fake_make_directory();
    fixture->config.map_bytes = 4 << 20;
    fixture->config.quota_bytes = 0;
    fixture_open(fixture);
    put_large(fixture, 0, 100000);
    fixture_flush(fixture);
    assert_int_equal(store_image_open(fixture->replica, &image, NULL), 0);
    return image;
}

/* What an image keeps is seen while half of the rest is free, and ends with the image, for good. */
static void images_that_pin_much_are_seen_in_time(void **state)
{
    struct fixture *fixture = *state;
    struct store_image *image = image_in_a_small_map(fixture);
    int flushes = 0;
    while (store_pinned(fixture->store) == STORE_PINNED_LITTLE && flushes < 100) {
        put_large(fixture, 0, 100000);
        fixture_flush(fixture);
        assert_false(store_is_flushing(fixture->store));
        flushes++;
    }
    assert_in_range(flushes, 10, 25);
    assert_int_equal(store_pinned(fixture->store), STORE_PINNED_MUCH);
    assert_in_range(store_stats(fixture->store)->pinned_bytes, 1500 << 10, 2500 << 10);
    assert_true(store_used_bytes(fixture->store) < 500 << 10);
    store_image_close(image);
    assert_int_equal(store_pinned(fixture->store), STORE_PINNED_LITTLE);
    for (int i = 0; i < 100; i++) {
        put_large(fixture, 0, 100000);
        fixture_flush(fixture);
        assert_false(store_is_flushing(fixture->store));
        assert_int_equal(store_pinned(fixture->store), STORE_PINNED_LITTLE);
    }
}

/* A flush that has no room because of an image refuses nobody: it goes on once the image is closed. A scrub pins likewise. */
static void a_flush_waits_for_images_and_refuses_nobody(void **state)
{
    struct fixture *fixture = *state;
    struct store_image *image = image_in_a_small_map(fixture);
    struct store_scrub *scrub;
    assert_int_equal(store_scrub_open(fixture->replica, &scrub, NULL), 0);
    for (int i = 0; i < 100 && !store_is_flushing(fixture->store); i++) {
        put_large(fixture, 0, 100000);
        store_turn_end(fixture->store);
        assert_true(store_freeze(fixture->store));
        assert_true(store_flush_start(fixture->store));
        assert_true(fake_env_work(&fixture->env) && fake_env_finish(&fixture->env));
        store_turn_end(fixture->store);
    }
    assert_true(store_is_flushing(fixture->store));
    assert_int_equal(store_pinned(fixture->store), STORE_PINNED_ALL);
    assert_int_equal(store_admit(fixture->store, 1), 0);
    store_image_close(image);
    fake_env_pass(&fixture->env, 200000);
    assert_true(fake_env_work(&fixture->env) && fake_env_finish(&fixture->env));
    assert_int_equal(store_pinned(fixture->store), STORE_PINNED_ALL);
    store_scrub_close(scrub);
    fake_env_pass(&fixture->env, 200000);
    fake_env_settle(&fixture->env);
    store_turn_end(fixture->store);
    assert_false(store_is_flushing(fixture->store));
    assert_int_equal(store_pinned(fixture->store), STORE_PINNED_LITTLE);
    assert_int_equal(fixture->failed, 0);
    struct record record;
    assert_int_equal(get(fixture, "k0", &record), 0);
    assert_int_equal(record.value.size, 100000);
    store_turn_end(fixture->store);
}

static void admission_keeps_to_quota_and_overlay(void **state)
{
    struct fixture *fixture = *state;
    fixture->config.quota_bytes = 4 << 20;
    fixture->config.overlay_bytes_max = 1 << 20;
    fixture_reopen(fixture);
    assert_int_equal(store_admit(fixture->store, (1 << 20) + 1), ERR_BUSY);
    assert_int_equal(store_admit(fixture->store, 4 << 20), ERR_STORE_FULL);
    for (unsigned i = 0; i < 11; i++) {
        put_large(fixture, i, 100000);
    }
    assert_int_equal(store_admit(fixture->store, 1), ERR_BUSY);
    assert_int_equal(store_admit(fixture->store, 0), 0); /* deletes have some reserve */
    for (unsigned i = 11; i < 13; i++) {
        put_large(fixture, i, 100000);
    }
    assert_int_equal(store_admit(fixture->store, 0), ERR_BUSY);
    fixture_flush(fixture);
    assert_int_equal(store_admit(fixture->store, 1), 0);
    assert_true(store_stats(fixture->store)->used_bytes > 1300000);
    for (unsigned i = 0; i < 24; i++) {
        put_large(fixture, 100 + i, 100000);
        if (i % 8 == 7) {
            fixture_flush(fixture);
        }
    }
    assert_int_equal(store_admit(fixture->store, 1 << 20), ERR_STORE_FULL);
    assert_int_equal(store_admit(fixture->store, 0), 0);
    for (unsigned i = 0; i < 24; i++) {
        char key[16];
        snprintf(key, sizeof key, "k%u", 100 + i);
        assert_true(fixture_delete(fixture, key).existed);
    }
    fixture_flush(fixture);
    fixture_flush(fixture);
    assert_int_equal(store_admit(fixture->store, 1 << 20), 0); /* the freed pages count as room */
}

static void damaged_records_are_never_delivered(void **state)
{
    struct fixture *fixture = *state;
    fixture_put(fixture, "good", "a fine value");
    fixture_put(fixture, "victim", "a value to be damaged");
    fixture_flush(fixture);
    fixture_close(fixture);
    assert_true(fixture_damage(fixture, "a value to be damaged") > 0);
    fixture_open(fixture);
    struct record record;
    struct err err;
    assert_int_equal(store_get(fixture->replica, span_of_string("victim"), &record, &err),
                     ERR_CORRUPT);
    check_value(fixture, "good", "a fine value");
    assert_int_equal(store_stats(fixture->store)->checksum_failures, 1);
    struct store_cursor *cursor;
    struct span key;
    assert_int_equal(store_cursor_open(fixture->replica, span_of(NULL, 0), span_of(NULL, 0), false,
                                       &cursor, NULL),
                     0);
    assert_int_equal(store_cursor_next(cursor, &key, &record, NULL), 1);
    assert_int_equal(store_cursor_next(cursor, &key, &record, &err), ERR_CORRUPT);
    assert_int_equal(store_cursor_next(cursor, &key, &record, NULL),
                     0); /* a caller may go on behind it */
    store_cursor_close(cursor);
    assert_int_equal(store_cursor_open(fixture->replica, span_of(NULL, 0), span_of(NULL, 0), false,
                                       &cursor, NULL),
                     0);
    store_cursor_keys_only(cursor);
    assert_int_equal(store_cursor_next(cursor, &key, &record, NULL), 1);
    assert_int_equal(store_cursor_next(cursor, &key, &record, NULL), 1); /* keys are fine */
    store_cursor_close(cursor);
    fixture_put(fixture, "victim", "overwritten"); /* takes nothing from the old record */
    check_value(fixture, "victim", "overwritten");
}

static void another_clusters_store_is_refused(void **state)
{
    struct fixture *fixture = *state;
    fixture_close(fixture);
    struct store_config config = fixture->config;
    struct store *store;
    struct err err;
    config.cluster_id[0] ^= 1;
    assert_int_equal(store_open(&config, &store, &err), ERR_CLUSTER_MISMATCH);
    config = fixture->config;
    config.node_id++;
    assert_int_equal(store_open(&config, &store, &err), ERR_CLUSTER_MISMATCH);
    assert_true(fixture_damage(fixture, "CAIRNSTO") > 0); /* its first letter */
    assert_int_equal(store_open(&fixture->config, &store, &err), ERR_CORRUPT);
    fake_remove_directory((char *)fixture->config.directory);
    fixture->config.directory = fake_make_directory();
    fixture_open(fixture);
}

static void an_unknown_format_is_refused(void **state)
{
    struct fixture *fixture = *state;
    fixture_close(fixture);
    char path[128];
    snprintf(path, sizeof path, "%s/data.mdb", fixture->config.directory);
    int fd = open(path, O_RDWR);
    static char data[1 << 20];
    ssize_t size = pread(fd, data, sizeof data, 0);
    char *at = data;
    while ((at = memmem(at, (size_t)(data + size - at), "CAIRNSTO", 8)) != NULL) {
        at[8] = 99;
        at += 8;
    }
    assert_int_equal(pwrite(fd, data, (size_t)size, 0), size);
    close(fd);
    struct store *store;
    assert_int_equal(store_open(&fixture->config, &store, NULL), ERR_FORMAT);
    fake_remove_directory((char *)fixture->config.directory);
    fixture->config.directory = fake_make_directory();
    fixture_open(fixture);
}

static void a_directory_that_cannot_be_made_is_an_error(void **state)
{
    struct fixture *fixture = *state;
    struct store_config config = fixture->config;
    config.directory = "/dev/null/store";
    struct store *store;
    struct err err;
    assert_int_equal(store_open(&config, &store, &err), ERR_IO);
}

/* Plain puts don't look whether their keys exist; the count is right all the same when few wait,
 * and after a flush in any case. */
static void keys_are_counted_without_looking(void **state)
{
    struct fixture *fixture = *state;
    char key[16];
    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < 3000 * (round + 1); i++) {
            snprintf(key, sizeof key, "k%u", i);
            fixture_put(fixture, key, "v");
            if (i % 10 == 9) {
                fixture_delete(fixture, key);
            }
        }
        if (round == 0) {
            assert_int_equal(store_replica_keys(fixture->replica), 2700);
        }
        fixture_flush(fixture);
        assert_int_equal(store_replica_keys(fixture->replica), 2700 * (round + 1));
        fixture_put(fixture, "k1", "again");
        fixture_put(fixture, "new", "v");
        fixture_put(fixture, "fleeting", "v");
        fixture_delete(fixture, "fleeting");
        assert_int_equal(store_replica_keys(fixture->replica), 2700 * (round + 1) + 1);
        assert_true(fixture_delete(fixture, "new").existed);
        fixture_flush(fixture);
        fixture_reopen(fixture);
        assert_int_equal(store_replica_keys(fixture->replica), 2700 * (round + 1));
    }
}

/* Attributes are inherited by a plain put also after a reopening, when nothing in memory says that
 * there are any. */
static void attributes_below_are_not_forgotten(void **state)
{
    struct fixture *fixture = *state;
    struct command command = { .type = COMMAND_PUT,
                               .key = span_of_string("f"),
                               .attributes = { .mask = ATTRIBUTE_MODE, .mode = 0600 } };
    fixture_apply(fixture, command);
    fixture_flush(fixture);
    fixture_reopen(fixture);
    fixture_put(fixture, "f", "content");
    struct record record;
    assert_int_equal(get(fixture, "f", &record), 0);
    assert_int_equal(record.attributes.mode, 0600);
}

static void stats_count(void **state)
{
    struct fixture *fixture = *state;
    fixture_put(fixture, "a", "1");
    fixture_put(fixture, "a", "2");
    fixture_put(fixture, "b", "2");
    struct record record;
    get(fixture, "a", &record);
    assert_int_equal(store_active_operations(fixture->store), 3);
    assert_true(store_active_bytes(fixture->store) > 0);
    fixture_flush(fixture);
    const struct store_stats *stats = store_stats(fixture->store);
    assert_int_equal(stats->applied, 3);
    assert_int_equal(stats->gets, 1);
    assert_int_equal(stats->keys, 2);
    assert_int_equal(stats->flushes, 1);
    assert_int_equal(stats->flushed_operations, 3);
    assert_int_equal(stats->overlay_bytes, 0);
    assert_int_equal(store_active_operations(fixture->store), 0);
}

int main(void)
{
#define STORY(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        STORY(conditions_hold_in_every_layer),
        STORY(puts_keep_some_attributes),
        STORY(setattr_keeps_the_value),
        STORY(keys_of_other_partitions_are_refused),
        STORY(a_retry_is_answered_and_not_applied),
        STORY(too_late_is_told_and_applies_nothing),
        STORY(forgotten_sessions_leave_lmdb),
        STORY(fences_and_no_ops_only_move_on),
        STORY(damaged_entries_are_refused),
        STORY(reopening_finds_what_was_flushed),
        STORY(closing_lets_go_of_a_flush_in_any_state),
        STORY(values_of_all_sizes_replace_each_other),
        STORY(borrowed_spans_live_until_the_turn_ends),
        STORY(boundaries_of_keys_and_values),
        STORY(a_full_map_is_refused_and_heals),
        STORY(a_flush_keeps_to_its_pace),
        STORY(a_paused_flush_may_end_with_the_process),
        STORY(a_flush_does_not_pause_where_the_overlay_is_full),
        STORY(a_tight_map_is_flushed_piecewise),
        STORY(images_that_pin_much_are_seen_in_time),
        STORY(a_flush_waits_for_images_and_refuses_nobody),
        STORY(admission_keeps_to_quota_and_overlay),
        STORY(damaged_records_are_never_delivered),
        STORY(another_clusters_store_is_refused),
        STORY(an_unknown_format_is_refused),
        STORY(a_directory_that_cannot_be_made_is_an_error),
        STORY(keys_are_counted_without_looking),
        STORY(attributes_below_are_not_forgotten),
        STORY(stats_count),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
