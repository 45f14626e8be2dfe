/* Digests at marks: one store flushes whenever it likes, another ends a flush at every mark; what the first says of a mark that it
 * passed must be what the second holds there. Random puts, deletes, setattrs and marks over few keys, so that most are written
 * before and after a mark in one generation; the first store freezes, flushes, finds no room and is opened anew at random points. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/hash.h"

#include "../model_seeds.h"
#include "store_fixture.h"

enum { SEEDS = 30, STEPS = 1500, KEYS = 12 };

struct story {
    struct fixture free, exact; /* flushes when it likes; at marks */
    uint64_t random;
    struct blob *log[STEPS + 1]; /* by index, from 1 */
    uint64_t digests[STEPS + 1]; /* of `exact`, at marks */
    uint64_t seen;               /* mark that was compared last */
    unsigned compared, replaced;
    bool is_freezing;
};

static uint64_t any(struct story *story, uint64_t below)
{
    return hash_u64(story->random++) % below;
}

static struct command draw_command(struct story *story, char *key)
{
    static const char *const values[] = { "", "v", "a longer value" };
    uint64_t kind = any(story, 20);
    snprintf(key, 8, "k%u", (unsigned)any(story, KEYS));
    struct command command = { .key = span_of_string(key) };
    if (kind == 0) {
        return (struct command){ .type = COMMAND_MARK };
    }
    if (kind < 5) {
        command.type = COMMAND_DELETE;
        return command;
    }
    command.type = kind < 8 ? COMMAND_SETATTR : COMMAND_PUT;
    if (command.type == COMMAND_PUT) {
        command.value = span_of_string(values[any(story, 3)]);
    }
    if (command.type == COMMAND_SETATTR || any(story, 4) == 0) {
        command.attributes = (struct attributes){ .mask = ATTRIBUTE_MODE | ATTRIBUTE_EXPIRES,
                                                  .mode = (uint32_t)any(story, 0777),
                                                  .expires_at_us = 1 + any(story, 1000) };
    }
    return command;
}

static void apply(struct fixture *fixture, uint64_t index, struct blob *blob)
{
    struct store_result result;
    assert_int_equal(store_apply(fixture->replica, index, blob, &result, NULL), 0);
}

/* What the store says of the newest mark that it has flushed. */
static void compare(struct story *story)
{
    uint64_t digest, index = store_replica_mark(story->free.replica, &digest);
    assert_true(index <= store_replica_flushed(story->free.replica));
    if (index != story->seen && index != 0) {
        assert_int_equal(story->log[index]->data[0], COMMAND_MARK);
        assert_int_equal(digest, story->digests[index]);
        story->compared++;
        story->replaced += store_replica_flushed(story->free.replica) > index;
    }
    story->seen = index;
}

static void end_flush(struct story *story)
{
    if (story->is_freezing) {
        store_flush_start(story->free.store);
        fake_env_settle(&story->free.env);
        store_turn_end(story->free.store);
        story->is_freezing = false;
        compare(story);
    }
}

static void begin_flush(struct story *story)
{
    store_turn_end(story->free.store);
    store_freeze(story->free.store);
    story->is_freezing = true;
}

/* What was not flushed is applied again. */
static void reopen(struct story *story, uint64_t last)
{
    fixture_close(&story->free);
    fixture_open(&story->free);
    story->is_freezing = false;
    story->seen = 0;
    compare(story); /* none is known */
    for (uint64_t i = store_replica_applied(story->free.replica) + 1; i <= last; i++) {
        apply(&story->free, i, story->log[i]);
    }
}

static void run(uint64_t seed)
{
    struct story *story = calloc(1, sizeof *story);
    story->random = seed << 32;
    fixture_init(&story->free);
    fixture_init(&story->exact);
    fixture_open(&story->free);
    fixture_open(&story->exact);
    for (uint64_t index = 1; index <= STEPS; index++) {
        char key[8];
        struct command command = draw_command(story, key);
        command.time = ++story->exact.time;
        story->log[index] = command_pack(&command);
        apply(&story->free, index, story->log[index]);
        apply(&story->exact, index, story->log[index]);
        if (command.type == COMMAND_MARK) {
            fixture_flush(&story->exact);
            story->digests[index] = store_replica_digest(story->exact.replica);
        }
        if (any(story, 30) == 0) {
            story->is_freezing ? end_flush(story) : begin_flush(story);
        }
        if (any(story, 200) == 0) {
            reopen(story, index);
        }
    }
    assert_true(story->compared >= 5 && story->replaced >= 1);
    fixture_fini(&story->free);
    fixture_fini(&story->exact);
    for (uint64_t index = 1; index <= STEPS; index++) {
        blob_unref(story->log[index]);
    }
    free(story);
}

static void flushes_tell_what_was_there_at_the_mark(void **state)
{
    for (uint64_t seed = 1, last = model_seeds(SEEDS); seed <= last; seed++) {
        printf("# seed %u\n", (unsigned)seed);
        run(seed);
    }
}

static void a_mark_changes_nothing(void **state)
{
    struct fixture fixture;
    uint64_t digest;
    fixture_init(&fixture);
    fixture_open(&fixture);
    fixture_put(&fixture, "a", "1");
    fixture_flush(&fixture);
    uint64_t before = store_replica_digest(fixture.replica);
    assert_int_equal(store_replica_mark(fixture.replica, &digest), 0);
    struct store_result result = fixture_apply(&fixture, (struct command){ .type = COMMAND_MARK });
    assert_int_equal(result.status, 0);
    assert_int_equal(store_active_marks(fixture.store), 1);
    assert_true(store_active_operations(fixture.store) > 0); /* so that a node at rest flushes it */
    fixture_put(&fixture, "a", "2");
    fixture_apply(&fixture, (struct command){ .type = COMMAND_MARK }); /* the first counts */
    fixture_flush(&fixture);
    assert_int_equal(store_replica_mark(fixture.replica, &digest), 2);
    assert_int_equal(digest, before);
    assert_int_not_equal(store_replica_digest(fixture.replica), before);
    assert_int_equal(store_active_marks(fixture.store), 0);
    assert_int_equal(store_replica_keys(fixture.replica), 1);
    fixture_fini(&fixture);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_mark_changes_nothing),
        cmocka_unit_test(flushes_tell_what_was_there_at_the_mark),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
