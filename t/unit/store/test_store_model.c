/* The store against a plain model: random commands, reads and scans in both directions, with
 * freezes, flushes and reopenings at random points. After a reopening, entries are applied again
 * from the log and must give the same results. Prints the seed when it fails; `test_store_model
 * SEED [STEPS]` runs one seed again. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/hash.h"
#include "base/limits.h"

#include "../model_seeds.h"
#include "store_fixture.h"

enum { KEYS = 120, SEEDS = 25, STEPS = 4000 };

struct model_key {
    uint8_t bytes[LIMIT_KEY_BYTES];
    size_t size;
    bool exists;
    uint64_t version, time;
    struct attributes attributes;
    uint8_t *value;
    size_t value_size;
};

struct logged {
    struct blob *blob;
    struct store_result result;
};

struct model {
    struct fixture fixture;
    uint64_t random;
    struct model_key keys[KEYS]; /* in key order */
    uint64_t live;
    struct logged *log; /* entry i + 1 */
    size_t log_count;
    uint64_t next_number, lowest;
    bool started;        /* the flush */
    bool has_attributes; /* commands may carry them: without, plain puts don't look below */
};

static uint64_t any(struct model *model, uint64_t below)
{
    model->random++;
    return hash_u64(model->random) % below;
}

static int compare_keys(const void *a, const void *b)
{
    const struct model_key *left = a, *right = b;
    return span_compare(span_of(left->bytes, left->size), span_of(right->bytes, right->size));
}

static struct span key_span(const struct model_key *key)
{
    return span_of(key->bytes, key->size);
}

/* Keys that share long prefixes, differ in length, hold any byte, and reach the limit. */
static void make_keys(struct model *model)
{
    for (size_t i = 0; i < KEYS; i++) {
        struct model_key *key = &model->keys[i];
        key->size = i % 17 == 0 ? LIMIT_KEY_BYTES : 2 + any(model, 12);
        memset(key->bytes, any(model, 3) ? 'a' : 0xff, key->size);
        key->bytes[key->size - 1] = (uint8_t)i; /* every key another end */
        key->bytes[any(model, key->size - 1)] = (uint8_t)any(model, 256);
    }
    qsort(model->keys, KEYS, sizeof model->keys[0], compare_keys);
    for (size_t i = 1; i < KEYS; i++) {
        assert_true(compare_keys(&model->keys[i - 1], &model->keys[i]) < 0);
    }
}

static void expect_record(const struct model_key *key, const struct record *record, bool has_value)
{
    assert_true(key->exists);
    assert_int_equal(record->version, key->version);
    assert_int_equal(record->time, key->time);
    assert_int_equal(record->attributes.mask, key->attributes.mask);
    assert_int_equal(record->attributes.mode, key->attributes.mode);
    assert_int_equal(record->attributes.uid, key->attributes.uid);
    assert_int_equal(record->attributes.flags, key->attributes.flags);
    assert_int_equal(record->attributes.mtime_us, key->attributes.mtime_us);
    assert_int_equal(record->attributes.expires_at_us, key->attributes.expires_at_us);
    assert_int_equal(record->value.size, key->value_size);
    assert_true(!has_value || span_equal(record->value, span_of(key->value, key->value_size)));
}

/* --- What a command should do, written down a second time */

static void model_put(struct model_key *key, uint64_t index, const struct command *command)
{
    struct attributes old = key->exists ? key->attributes : (struct attributes){ 0 }, new = { 0 };
    const struct attributes *given = &command->attributes;
    new.mask = (old.mask & (ATTRIBUTE_MODE | ATTRIBUTE_UID | ATTRIBUTE_FLAGS)) | given->mask;
    new.mode = given->mask &ATTRIBUTE_MODE ? given->mode : old.mode;
    new.uid = given->mask &ATTRIBUTE_UID ? given->uid : old.uid;
    new.flags = given->mask &ATTRIBUTE_FLAGS ? given->flags : old.flags;
    new.mtime_us = given->mask &ATTRIBUTE_MTIME ? given->mtime_us : 0;
    new.expires_at_us = given->mask &ATTRIBUTE_EXPIRES ? given->expires_at_us : 0;
    key->exists = true;
    key->attributes = new;
    key->version = index;
    key->time = command->time;
    free(key->value);
    key->value = malloc(command->value.size + 1);
    memcpy(key->value, command->value.data, command->value.size);
    key->value_size = command->value.size;
}

static void model_setattr(struct model_key *key, uint64_t index, const struct command *command)
{
    const struct attributes *given = &command->attributes;
    struct attributes *own = &key->attributes;
    if (!((given->mask | own->mask) & ATTRIBUTE_MTIME)) {
        own->mtime_us = hlc_to_us(key->time);
    }
    own->mask |= given->mask | ATTRIBUTE_MTIME;
    own->mode = given->mask & ATTRIBUTE_MODE ? given->mode : own->mode;
    own->uid = given->mask & ATTRIBUTE_UID ? given->uid : own->uid;
    own->flags = given->mask & ATTRIBUTE_FLAGS ? given->flags : own->flags;
    own->mtime_us = given->mask & ATTRIBUTE_MTIME ? given->mtime_us : own->mtime_us;
    own->expires_at_us =
        given->mask & ATTRIBUTE_EXPIRES ? given->expires_at_us : own->expires_at_us;
    key->version = index;
    key->time = command->time;
}

static struct store_result model_apply(struct model *model, struct model_key *key, uint64_t index,
                                       const struct command *command)
{
    bool existed = command->type == COMMAND_DELETE && key->exists;
    struct store_result result = { .version = index, .time = command->time, .existed = existed };
    uint64_t present = key->exists ? key->version : 0;
    if (command->condition == CONDITION_ABSENT && key->exists) {
        result.status = ERR_EXISTS;
    } else if (command->condition == CONDITION_PRESENT && !key->exists) {
        result.status = ERR_NOT_FOUND;
    } else if (command->condition == CONDITION_VERSION &&
               (!key->exists || command->condition_version != present)) {
        result.status = ERR_CONDITION_FAILED;
    } else if (command->type == COMMAND_SETATTR && !key->exists) {
        result.status = ERR_NOT_FOUND;
    }
    if (result.status != 0) {
        result.version = present;
        return result;
    }
    switch (command->type) {
    case COMMAND_PUT:
        model->live += !key->exists;
        model_put(key, index, command);
        break;
    case COMMAND_SETATTR:
        model_setattr(key, index, command);
        break;
    default:
        result.version = present;
        model->live -= key->exists;
        key->exists = false;
        key->attributes = (struct attributes){ 0 };
        break;
    }
    return result;
}

/* --- Steps */

static struct attributes any_attributes(struct model *model)
{
    struct attributes attributes = { .mask = (uint32_t)any(model, 64) & ~(uint32_t)ATTRIBUTE_GID };
    attributes.mask |= ATTRIBUTE_UID;
    attributes.mode = attributes.mask & ATTRIBUTE_MODE ? (uint32_t)any(model, 512) : 0;
    attributes.uid = (uint32_t)any(model, 1000);
    attributes.flags = attributes.mask & ATTRIBUTE_FLAGS ? (uint32_t)any(model, 2) : 0;
    attributes.mtime_us = attributes.mask & ATTRIBUTE_MTIME ? any(model, 1000) : 0;
    attributes.expires_at_us = attributes.mask & ATTRIBUTE_EXPIRES ? 1 + any(model, 1000) : 0;
    return attributes;
}

static void expect_same(const struct store_result *a, const struct store_result *b)
{
    assert_int_equal(a->status, b->status);
    assert_int_equal(a->version, b->version);
    assert_int_equal(a->time, b->time);
    assert_int_equal(a->existed, b->existed);
    assert_int_equal(a->repeated, b->repeated);
}

static struct store_result apply_blob(struct model *model, struct blob *blob)
{
    struct store_result result;
    struct store_replica *replica = model->fixture.replica;
    assert_int_equal(store_apply(replica, store_replica_applied(replica) + 1, blob, &result, NULL),
                     0);
    return result;
}

static void log_entry(struct model *model, struct blob *blob, const struct store_result *result)
{
    model->log = realloc(model->log, (model->log_count + 1) * sizeof model->log[0]);
    model->log[model->log_count++] = (struct logged){ blob, *result };
}

static void step_command(struct model *model)
{
    static uint8_t bytes[40000];
    struct model_key *key = &model->keys[any(model, KEYS)];
    struct command command = { .time = ++model->fixture.time, .key = key_span(key) };
    uint64_t kind = any(model, 10);
    command.type = kind < 6 || (kind >= 8 && !model->has_attributes) ? COMMAND_PUT
                   : kind < 8                                        ? COMMAND_DELETE
                                                                     : COMMAND_SETATTR;
    if (command.type == COMMAND_SETATTR ||
        (command.type == COMMAND_PUT && any(model, 3) == 0 && model->has_attributes)) {
        command.attributes = any_attributes(model);
    }
    if (command.type == COMMAND_PUT) {
        command.value =
            span_of(bytes, any(model, 30) == 0 ? any(model, sizeof bytes) : any(model, 400));
        memset(bytes, (int)any(model, 256), command.value.size);
    }
    if (any(model, 3) == 0) {
        command.condition = (uint8_t)(1 + any(model, 3));
        bool is_right = any(model, 2);
        command.condition_version =
            command.condition == CONDITION_VERSION ? key->version + !is_right : 0;
    }
    if (any(model, 2)) {
        command.session = (struct session_id){ 11, 22 };
        command.number = model->next_number++;
        command.lowest = model->lowest;
    }
    struct blob *blob = command_pack(&command);
    struct store_result expected = model_apply(model, key, model->log_count + 1, &command);
    struct store_result result = apply_blob(model, blob);
    expect_same(&result, &expected);
    log_entry(model, blob, &result);
}

/* An earlier numbered command again, under a new time: answered as the first time, or unknown when
 * its number was answered. */
static void step_retry(struct model *model)
{
    if (model->log_count == 0) {
        return;
    }
    const struct logged *first = &model->log[any(model, model->log_count)];
    struct command command;
    if (first->blob->size == 0 || command_unpack(blob_span(first->blob), &command, NULL) != 0 ||
        command.number == 0) {
        return;
    }
    command.time = ++model->fixture.time;
    command.lowest = model->lowest < command.number ? model->lowest : command.number;
    struct blob *blob = command_pack(&command);
    struct store_result result = apply_blob(model, blob);
    if (result.status == ERR_UNKNOWN_OUTCOME) {
        assert_true(command.number < model->lowest);
    } else if (first->result.repeated || first->result.status == ERR_UNKNOWN_OUTCOME) {
        assert_true(result.repeated);
    } else {
        struct store_result expected = first->result;
        expected.repeated = true;
        expect_same(&result, &expected);
    }
    log_entry(model, blob, &result);
}

static void step_no_op(struct model *model)
{
    struct blob *blob = blob_new(0);
    struct store_result result = apply_blob(model, blob);
    assert_int_equal(result.version, model->log_count + 1);
    log_entry(model, blob, &result);
}

static void step_get(struct model *model)
{
    const struct model_key *key = &model->keys[any(model, KEYS)];
    struct record record;
    int rc = store_get(model->fixture.replica, key_span(key), &record, NULL);
    assert_int_equal(rc, key->exists ? 0 : ERR_NOT_FOUND);
    if (rc == 0) {
        expect_record(key, &record, true);
    }
}

/* A bound is a key, a key with a byte more or less, or none. */
static struct span any_bound(struct model *model, uint8_t *room)
{
    const struct model_key *key = &model->keys[any(model, KEYS)];
    memcpy(room, key->bytes, key->size);
    room[key->size] = (uint8_t)any(model, 2);
    switch (any(model, 4)) {
    case 0:
        return span_of(NULL, 0);
    case 1:
        return span_of(room, key->size - 1);
    case 2:
        return span_of(room, key->size + 1);
    default:
        return span_of(room, key->size);
    }
}

static void step_scan(struct model *model)
{
    uint8_t from_room[LIMIT_KEY_BYTES + 1], to_room[LIMIT_KEY_BYTES + 1];
    struct span from = any_bound(model, from_room), to = any_bound(model, to_room);
    bool reverse = any(model, 2), keys_only = any(model, 2);
    uint64_t limit = any(model, 4) == 0 ? 3 : KEYS;
    struct store_cursor *cursor;
    assert_int_equal(store_cursor_open(model->fixture.replica, from, to, reverse, &cursor, NULL),
                     0);
    if (keys_only) {
        store_cursor_keys_only(cursor);
    }
    for (size_t i = 0; i < KEYS && limit > 0; i++) {
        const struct model_key *key = &model->keys[reverse ? KEYS - 1 - i : i];
        bool is_within = (from.size == 0 || span_compare(key_span(key), from) >= 0) &&
                         (to.size == 0 || span_compare(key_span(key), to) < 0);
        if (!key->exists || !is_within) {
            continue;
        }
        struct span found;
        struct record record;
        assert_int_equal(store_cursor_next(cursor, &found, &record, NULL), 1);
        assert_true(span_equal(found, key_span(key)));
        expect_record(key, &record, !keys_only);
        limit--;
    }
    if (limit > 0) {
        struct span found;
        struct record record;
        assert_int_equal(store_cursor_next(cursor, &found, &record, NULL), 0);
        assert_int_equal(store_cursor_next(cursor, &found, &record, NULL), 0);
    }
    store_cursor_close(cursor);
}

/* Moves the flush on by one of its steps. */
static void step_flush(struct model *model)
{
    struct fixture *fixture = &model->fixture;
    if (!store_is_flushing(fixture->store)) {
        store_freeze(fixture->store);
        assert_int_equal(store_replica_frozen(fixture->replica), model->log_count);
        model->started = false;
    } else if (!model->started) {
        store_flush_start(fixture->store);
        model->started = true;
    } else if (!fake_env_work(&fixture->env) && !fake_env_finish(&fixture->env)) {
        store_turn_end(fixture->store);
    }
}

static void step_reopen(struct model *model)
{
    struct fixture *fixture = &model->fixture;
    uint64_t flushed = store_replica_flushed(fixture->replica);
    fixture_reopen(fixture);
    assert_true(store_replica_applied(fixture->replica) >= flushed);
    for (size_t i = store_replica_applied(fixture->replica); i < model->log_count; i++) {
        struct store_result again = apply_blob(model, model->log[i].blob);
        expect_same(&again, &model->log[i].result);
    }
}

static void step(struct model *model)
{
    uint64_t kind = any(model, 1000);
    if (kind < 600) {
        step_command(model);
    } else if (kind < 630) {
        step_retry(model);
    } else if (kind < 640) {
        step_no_op(model);
    } else if (kind < 800) {
        step_get(model);
    } else if (kind < 830) {
        step_scan(model);
    } else if (kind < 910) {
        store_turn_end(model->fixture.store);
    } else if (kind < 980) {
        step_flush(model);
    } else if (kind < 990) {
        fake_env_pass(&model->fixture.env, 100); /* frees dropped generations */
    } else if (kind < 996) {
        model->lowest += any(model, model->next_number - model->lowest + 1);
    } else if (kind < 999) {
        step_reopen(model);
    }
    /* The client keeps its window. */
    if (model->next_number - model->lowest > 500) {
        model->lowest = model->next_number - 250;
    }
    if (!store_is_flushing(model->fixture.store) && any(model, 8) == 0) {
        assert_int_equal(store_replica_keys(model->fixture.replica), model->live);
    }
    assert_int_equal(store_replica_applied(model->fixture.replica), model->log_count);
}

static void run_seed(uint64_t seed, unsigned steps)
{
    struct model *model = calloc(1, sizeof *model);
    model->random = seed << 32;
    model->next_number = model->lowest = 1;
    printf("# seed %llu\n", (unsigned long long)seed);
    fflush(stdout);
    make_keys(model);
    fixture_init(&model->fixture);
    fixture_open(&model->fixture);
    for (unsigned i = 0; i < steps; i++) {
        model->has_attributes = seed % 2 == 0 || i > steps / 2;
        step(model);
    }
    step_reopen(model);
    for (int i = 0; i < 8; i++) {
        step_flush(model);
    }
    step_reopen(model);
    for (size_t i = 0; i < KEYS; i++) {
        step_get(model);
        step_scan(model);
    }
    assert_int_equal(model->fixture.failed, 0);
    fixture_fini(&model->fixture);
    for (size_t i = 0; i < model->log_count; i++) {
        assert_int_equal(model->log[i].blob->references, 1); /* the store let go of all */
        blob_unref(model->log[i].blob);
    }
    for (size_t i = 0; i < KEYS; i++) {
        free(model->keys[i].value);
    }
    free(model->log);
    free(model);
}

static void store_behaves_like_the_model(void **state)
{
    (void)state;
    for (uint64_t seed = 1, last = model_seeds(SEEDS); seed <= last; seed++) {
        run_seed(seed, STEPS);
    }
}

int main(int argc, char **argv)
{
    if (argc > 1) {
        run_seed(strtoull(argv[1], NULL, 10),
                 argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : STEPS);
        return 0;
    }
    const struct CMUnitTest tests[] = { cmocka_unit_test(store_behaves_like_the_model) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
