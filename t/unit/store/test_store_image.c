/* Images: a sender's replica becomes a receiver's, whatever happens on the way. Stories first, then
 * a model: random content, random sizes of chunks, chunks that are damaged, repeated or stale,
 * stages that are given up, processes that end at any point; after each the receiver holds exactly
 * what it held before, or exactly what the sender held at the image's index. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/hash.h"
#include "base/limits.h"

#include "store_fixture.h"

struct pair {
    struct fixture from, to;
    struct store_image *image;
    struct store_stage *stage;
    unsigned told; /* done() calls */
    int status;
    uint64_t random;
};

static uint64_t any(struct pair *pair, uint64_t below)
{
    return hash_u64(++pair->random) % below;
}

static int setup(void **state)
{
    struct pair *pair = calloc(1, sizeof *pair);
    fixture_init(&pair->from);
    fixture_init(&pair->to);
    fixture_open(&pair->from);
    fixture_open(&pair->to);
    *state = pair;
    return 0;
}

static int teardown(void **state)
{
    struct pair *pair = *state;
    store_image_close(pair->image);
    fixture_fini(&pair->from);
    fixture_fini(&pair->to);
    free(pair);
    return 0;
}

static void on_done(void *ctx, int status, const struct err *err)
{
    struct pair *pair = ctx;
    assert_true((status == 0) == (err == NULL));
    assert_true(!err || err->code == status);
    pair->told++;
    pair->status = status;
}

static struct blob *read_chunk(struct pair *pair, struct span position, size_t bytes_max)
{
    struct buf buf = { 0 };
    struct err err;
    assert_int_equal(store_image_read(pair->image, position, bytes_max, &buf, &err), 0);
    struct blob *blob = blob_new(buf.size);
    memcpy(blob->data, buf.data, buf.size);
    buf_fini(&buf);
    return blob;
}

static int write_chunk(struct pair *pair, struct blob *chunk)
{
    unsigned told = pair->told;
    store_stage_write(pair->stage, chunk, on_done, pair);
    blob_unref(chunk);
    fake_env_settle(&pair->to.env);
    assert_int_equal(pair->told, told + 1);
    return pair->status;
}

static void begin(struct pair *pair)
{
    assert_int_equal(store_image_open(pair->from.replica, &pair->image, NULL), 0);
    assert_int_equal(
        store_stage_open(pair->to.replica, store_image_index(pair->image), 5, &pair->stage, NULL),
        0);
}

static void transfer(struct pair *pair, size_t bytes_max)
{
    while (!store_stage_is_complete(pair->stage)) {
        assert_int_equal(
            write_chunk(pair, read_chunk(pair, store_stage_position(pair->stage), bytes_max)), 0);
    }
}

static int install(struct pair *pair)
{
    unsigned told = pair->told;
    store_stage_install(pair->stage, on_done, pair);
    fake_env_settle(&pair->to.env);
    store_turn_end(pair->to.store);
    fake_env_settle(&pair->to.env);
    assert_int_equal(pair->told, told + 1);
    return pair->status;
}

static void end(struct pair *pair)
{
    store_image_close(pair->image);
    pair->image = NULL;
    pair->stage = NULL;
}

/* A hash over all that a replica shows of its content. */
static uint64_t content(struct fixture *fixture, uint64_t *keys)
{
    struct store_cursor *cursor;
    struct span key;
    struct record record;
    uint64_t hash = 1;
    *keys = 0;
    assert_int_equal(store_cursor_open(fixture->replica, span_of(NULL, 0), span_of(NULL, 0), false,
                                       &cursor, NULL),
                     0);
    while (store_cursor_next(cursor, &key, &record, NULL) == 1) {
        hash = hash_u64(hash ^ hash_bytes(key.data, key.size));
        hash = hash_u64(hash ^ hash_bytes(record.value.data, record.value.size));
        hash = hash_u64(hash ^ record.version ^ hash_u64(record.time));
        hash = hash_u64(hash ^ record.attributes.mask ^ hash_u64(record.attributes.mode + 1));
        ++*keys;
    }
    store_cursor_close(cursor);
    store_turn_end(fixture->store);
    return hash;
}

struct state {
    uint64_t applied, time, content, keys, image_index;
};

static struct state state_of(struct fixture *fixture)
{
    struct state state = { .applied = store_replica_applied(fixture->replica),
                           .time = store_replica_time(fixture->replica),
                           .image_index = store_replica_image_index(fixture->replica) };
    state.content = content(fixture, &state.keys);
    assert_int_equal(store_replica_keys(fixture->replica), state.keys);
    store_turn_end(fixture->store);
    return state;
}

static bool is_same(const struct state *a, const struct state *b)
{
    return a->applied == b->applied && a->time == b->time && a->content == b->content &&
           a->keys == b->keys;
}

/* --- Stories */

static void a_replica_becomes_the_senders(void **state)
{
    struct pair *pair = *state;
    fixture_put(&pair->from, "a", "1");
    fixture_put(&pair->from, "b", "");
    fixture_apply(&pair->from,
                  (struct command){ .type = COMMAND_PUT,
                                    .key = span_of_string("c"),
                                    .value = span_of_string("3"),
                                    .session = { 7, 8 },
                                    .number = 1,
                                    .lowest = 1,
                                    .attributes = { .mask = ATTRIBUTE_MODE, .mode = 0640 } });
    fixture_flush(&pair->from);
    struct state sent = state_of(&pair->from);
    fixture_put(&pair->from, "d", "not in the image: not flushed when it was taken");
    fixture_put(&pair->to, "a", "old");
    fixture_put(&pair->to, "z", "goes");

    begin(pair);
    fixture_flush(&pair->from); /* the image stays what it was */
    assert_int_equal(store_image_index(pair->image), sent.applied);
    transfer(pair, 1 << 20);
    assert_int_equal(install(pair), 0);
    end(pair);
    struct state got = state_of(&pair->to);
    assert_true(is_same(&got, &sent));
    assert_int_equal(store_replica_flushed(pair->to.replica), sent.applied);
    assert_int_equal(store_replica_image_index(pair->to.replica), sent.applied);
    assert_int_equal(store_replica_image_term(pair->to.replica), 5);

    /* The session knows what it was answered, and attributes are inherited. */
    pair->to.time = pair->from.time;
    struct store_result result =
        fixture_apply(&pair->to, (struct command){ .type = COMMAND_PUT,
                                                   .key = span_of_string("c"),
                                                   .session = { 7, 8 },
                                                   .number = 1,
                                                   .lowest = 1 });
    assert_true(result.repeated);
    assert_int_equal(result.version, 3);
    fixture_put(&pair->to, "c", "4");
    struct record record;
    assert_int_equal(store_get(pair->to.replica, span_of_string("c"), &record, NULL), 0);
    assert_int_equal(record.attributes.mode, 0640);

    /* All of it is durable. */
    store_turn_end(pair->to.store);
    fixture_reopen(&pair->to);
    got = state_of(&pair->to);
    assert_true(is_same(&got, &sent));
    assert_int_equal(store_replica_image_term(pair->to.replica), 5);
}

static void an_older_image_takes_a_replica_back(void **state)
{
    struct pair *pair = *state;
    fixture_put(&pair->from, "a", "1");
    fixture_flush(&pair->from);
    struct state sent = state_of(&pair->from);
    begin(pair);
    for (int i = 0; i < 10; i++) {
        fixture_put(&pair->to, "a", "newer");
        if (i == 4) {
            fixture_flush(&pair->to);
        }
    }
    transfer(pair, 1);
    assert_int_equal(install(pair), 0);
    end(pair);
    struct state got = state_of(&pair->to);
    assert_true(is_same(&got, &sent));
    pair->to.time = pair->from.time;
    fixture_put(&pair->to, "b", "goes on");
    fixture_flush(&pair->to);
    fixture_reopen(&pair->to);
    assert_int_equal(store_replica_applied(pair->to.replica), sent.applied + 1);
    assert_int_equal(store_replica_keys(pair->to.replica), 2);
}

/* The swap waits for a flush and for what was lent, and nobody starts a flush meanwhile. */
static void a_swap_takes_its_turn(void **state)
{
    struct pair *pair = *state;
    fixture_put(&pair->from, "a", "new");
    fixture_flush(&pair->from);
    begin(pair);
    transfer(pair, 100);
    fixture_put(&pair->to, "a", "old");
    store_freeze(pair->to.store);
    unsigned told = pair->told;
    store_stage_install(pair->stage, on_done, pair);
    assert_false(fake_env_work(&pair->to.env));
    store_flush_start(pair->to.store);
    assert_true(fake_env_work(&pair->to.env) && fake_env_finish(&pair->to.env));
    assert_true(store_is_flushing(pair->to.store));

    struct record record;
    assert_int_equal(store_get(pair->to.replica, span_of_string("a"), &record, NULL), 0);
    assert_true(fake_env_work(&pair->to.env) && fake_env_finish(&pair->to.env));
    assert_int_equal(pair->told, told);
    assert_memory_equal(record.value.data, "old", 3);
    struct record again;
    assert_int_equal(store_get(pair->to.replica, span_of_string("a"), &again, NULL), 0);
    assert_memory_equal(again.value.data, "old", 3);
    store_turn_end(pair->to.store);
    assert_int_equal(pair->told, told + 1);
    assert_false(store_is_flushing(pair->to.store));
    assert_int_equal(store_get(pair->to.replica, span_of_string("a"), &record, NULL), 0);
    assert_memory_equal(record.value.data, "new", 3);
    store_turn_end(pair->to.store);
    end(pair);
}

/* A complete stage for a replica of group 2 on either side; the pair's own is put aside. */
static struct store_stage *stage_another(struct pair *pair)
{
    struct pair other = *pair;
    struct fixture *sides[] = { &pair->from, &pair->to };
    struct store_replica **opened[] = { &other.from.replica, &other.to.replica };
    for (int i = 0; i < 2; i++) {
        assert_int_equal(store_replica_open(sides[i]->store, 2, 0xdef, 0, 0, 0, opened[i], NULL),
                         0);
    }
    struct store_replica *own = pair->from.replica;
    pair->from.replica = other.from.replica;
    fixture_put(&pair->from, "b", "new");
    fixture_flush(&pair->from);
    pair->from.replica = own;
    assert_int_equal(store_image_open(other.from.replica, &pair->image, NULL), 0);
    assert_int_equal(
        store_stage_open(other.to.replica, store_image_index(pair->image), 5, &pair->stage, NULL),
        0);
    transfer(pair, 100);
    struct store_stage *stage = pair->stage;
    end(pair);
    return stage;
}

/* Swaps that follow each other keep no flush off: the one that is due goes before those that wait, and behind it comes a swap, though the
 * next flush may be due already. */
static void flushes_and_swaps_take_turns(void **state)
{
    struct pair *pair = *state;
    struct store *store = pair->to.store;
    struct store_stage *second = stage_another(pair);
    fixture_put(&pair->from, "a", "new");
    fixture_flush(&pair->from);
    begin(pair);
    transfer(pair, 100);
    unsigned told = pair->told;
    store_prefer_flush(store, false);
    store_stage_install(pair->stage, on_done, pair);
    store_stage_install(second, on_done, pair);
    store_prefer_flush(store, true);
    assert_true(fake_env_work(&pair->to.env) && fake_env_finish(&pair->to.env));
    store_turn_end(store);
    fake_env_settle(&pair->to.env); /* what the first has replaced is removed; the second waits */
    assert_int_equal(pair->told, told + 1);
    assert_false(store_is_flushing(store));

    pair->to.time = pair->from.time;
    fixture_put(&pair->to, "c", "more");
    assert_true(store_freeze(store));
    store_prefer_flush(store, true); /* the next is due already */
    assert_true(store_flush_start(store));
    assert_true(fake_env_work(&pair->to.env) && fake_env_finish(&pair->to.env));
    store_turn_end(store);
    assert_true(store_is_flushing(store));
    assert_true(fake_env_work(&pair->to.env) && fake_env_finish(&pair->to.env));
    store_turn_end(store);
    assert_int_equal(pair->told, told + 2);
    end(pair);
}

/* What was due may be so no longer: swaps go on. */
static void a_swap_goes_on_when_no_flush_is_due(void **state)
{
    struct pair *pair = *state;
    fixture_put(&pair->from, "a", "new");
    fixture_flush(&pair->from);
    begin(pair);
    transfer(pair, 100);
    store_prefer_flush(pair->to.store, true);
    store_stage_install(pair->stage, on_done, pair);
    assert_false(fake_env_work(&pair->to.env));
    store_prefer_flush(pair->to.store, false);
    assert_true(fake_env_work(&pair->to.env) && fake_env_finish(&pair->to.env));
    store_turn_end(pair->to.store);
    assert_int_equal(pair->status, 0);
    end(pair);
}

/* --- Room (I10) */

enum { LARGE_BYTES = 100000 };

static void put_large(struct fixture *fixture, unsigned number)
{
    static char text[LARGE_BYTES];
    char key[8];
    memset(text, 'x', sizeof text - 1);
    snprintf(key, sizeof key, "%03u", number);
    fixture_put(fixture, key, text);
}

/* The sender holds `count` large values; the receiver has such a map and quota (0: nine tenths), and holds nothing. */
static void fill_sender(struct pair *pair, uint64_t map_bytes, uint64_t quota_bytes, unsigned count)
{
    struct fixture *to = &pair->to;
    fixture_close(to);
    fake_remove_directory((char *)to->config.directory);
    to->config.directory = fake_make_directory();
    to->config.map_bytes = map_bytes;
    to->config.quota_bytes = quota_bytes;
    fixture_open(to);
    for (unsigned i = 0; i < count; i++) {
        put_large(&pair->from, i);
    }
    fixture_flush(&pair->from);
}

/* Writes pieces until one is refused, or the image is complete. */
static int transfer_some(struct pair *pair, unsigned pieces)
{
    int status = 0;
    for (; pieces > 0 && status == 0 && !store_stage_is_complete(pair->stage); pieces--) {
        status = write_chunk(pair, read_chunk(pair, store_stage_position(pair->stage), 1));
    }
    return status;
}

/* Users write until they are refused, and flush on the way; each flush has room. Returns how much they wrote; *refused says how. */
static unsigned write_until_refused(struct fixture *to, unsigned from, int *refused)
{
    unsigned count = 0;
    while ((*refused = store_admit(to->store, LARGE_BYTES)) == 0) {
        assert_true(count < 300);
        put_large(to, from + count++);
        if (count % 4 == 0) {
            fixture_flush(to);
            assert_false(store_is_flushing(to->store));
        }
    }
    fixture_flush(to);
    assert_false(store_is_flushing(to->store));
    return count;
}

/* Pieces are refused before they take what flushes need; users' writes don't mind them. */
static void a_stage_leaves_room_for_flushes(void **state)
{
    struct pair *pair = *state;
    struct store *store;
    int refused;
    fill_sender(pair, 4 << 20, 0, 60);
    store = pair->to.store;
    begin(pair);
    assert_int_equal(transfer_some(pair, 100), ERR_STORE_FULL);
    assert_false(store_stage_is_complete(pair->stage));
    assert_int_equal(store_crowd(store), STORE_CROWD_SOME);
    assert_in_range(store_used_bytes(store), 3300 << 10, 3890 << 10);
    assert_int_equal(store_admit(store, LARGE_BYTES), 0);
    fixture_put(&pair->to, "a", "small");
    fixture_flush(&pair->to); /* there is room for it nevertheless */
    assert_false(store_is_flushing(store));
    assert_int_equal(store_replica_flushed(pair->to.replica), 1);
    assert_int_equal(transfer_some(pair, 1),
                     ERR_STORE_FULL); /* it may be asked for again, with the same answer */
    store_stage_abort(pair->stage);
    fake_env_settle(&pair->to.env);
    assert_int_equal(store_crowd(store), STORE_CROWD_NONE);
    assert_true(store_used_bytes(store) < 200 << 10);
    unsigned count = write_until_refused(&pair->to, 0, &refused);
    assert_int_equal(refused, ERR_STORE_FULL);
    assert_in_range(count, 30, 36);
    end(pair);
}

/* A read of before keeps no page from being used again: nobody flushes here, so nothing else would end it. */
static void reads_keep_nothing_from_stages(void **state)
{
    enum { SMALL = 400 }; /* a piece each, of some six pages: twice what the map has */
    struct pair *pair = *state;
    struct record record;
    struct err err;
    char key[16];
    fill_sender(pair, 4 << 20, 0, 0);
    for (int i = 0; i < SMALL; i++) {
        snprintf(key, sizeof key, "k%06d", i);
        fixture_put(&pair->from, key, "small");
    }
    fixture_flush(&pair->from);
    fixture_put(&pair->to, "a", "small");
    fixture_flush(&pair->to);
    assert_int_equal(store_get(pair->to.replica, span_of_string("a"), &record, &err), 0);
    store_turn_end(pair->to.store);
    begin(pair);
    while (!store_stage_is_complete(pair->stage)) {
        store_turn_end(pair->to.store);
        assert_int_equal(transfer_some(pair, 1), 0);
    }
    assert_int_equal(install(pair), 0);
    end(pair);
}

/* Users' writes drive a stage out: they are told to wait for its removal only where they are quicker than that, and never that the
 * store is full before they have filled it themselves. */
static void users_writes_go_before_a_stage(void **state)
{
    struct pair *pair = *state;
    struct store *store;
    int refused;
    fill_sender(pair, 4 << 20, 0, 60);
    store = pair->to.store;
    begin(pair);
    assert_int_equal(transfer_some(pair, 15), 0);
    assert_int_equal(store_crowd(store), STORE_CROWD_NONE);
    unsigned count = write_until_refused(&pair->to, 0, &refused);
    assert_int_equal(refused, ERR_BUSY);
    assert_int_equal(store_crowd(store), STORE_CROWD_SOME);
    assert_in_range(count, 18, 24);
    store_stage_abort(pair->stage);
    fake_env_settle(&pair->to.env);
    assert_int_equal(store_crowd(store), STORE_CROWD_NONE);
    count += write_until_refused(&pair->to, count, &refused);
    assert_int_equal(refused, ERR_STORE_FULL);
    assert_in_range(count, 30, 36);
    assert_int_equal(store_replica_flushed(pair->to.replica), count);
    end(pair);
}

/* A store that is full for its users still takes an image, if there is room for it beyond their quota: else one that came back
 * late into a full cluster could never become whole. Then what the image replaced goes, and is nobody's meanwhile. */
static void a_full_store_takes_an_image(void **state)
{
    struct pair *pair = *state;
    struct fixture *to = &pair->to;
    int refused;
    fill_sender(pair, 32 << 20, 24 << 20, 10);
    pair->from.time += 1000;
    write_until_refused(to, 0, &refused);
    assert_int_equal(refused, ERR_STORE_FULL);
    begin(pair);
    assert_int_equal(transfer_some(pair, 100), 0);
    assert_true(store_stage_is_complete(pair->stage));
    assert_int_equal(store_crowd(to->store), STORE_CROWD_NONE);
    assert_int_equal(store_admit(to->store, LARGE_BYTES), ERR_STORE_FULL);
    assert_int_equal(install(pair), 0);
    assert_int_equal(store_admit(to->store, LARGE_BYTES), 0);
    assert_in_range(store_used_bytes(to->store), 1000 << 10, 1300 << 10);
    uint64_t keys;
    content(to, &keys);
    assert_int_equal(keys, 10);
    end(pair);
}

/* Two of which one finds room after the other was given up. */
static void a_stage_goes_on_when_another_is_given_up(void **state)
{
    struct pair *pair = *state;
    fill_sender(pair, 4 << 20, 0, 20);
    struct store_replica *second;
    assert_int_equal(store_replica_open(pair->to.store, 2, 0xdef, 0, 0, 0, &second, NULL), 0);
    struct store_stage *first;
    begin(pair);
    first = pair->stage;
    assert_int_equal(transfer_some(pair, 19), 0);
    struct store_image *image = pair->image, *other;
    struct store_replica *from = pair->from.replica, *from_second;
    assert_int_equal(store_replica_open(pair->from.store, 2, 0xdef, 0, 0, 0, &from_second, NULL),
                     0);
    pair->from.replica = from_second;
    for (unsigned i = 0; i < 40; i++) {
        put_large(&pair->from, i);
    }
    fixture_flush(&pair->from);
    pair->from.replica = from;
    assert_int_equal(store_image_open(from_second, &other, NULL), 0);
    assert_int_equal(store_stage_open(second, store_image_index(other), 5, &pair->stage, NULL), 0);
    pair->image = other;
    assert_int_equal(transfer_some(pair, 100), ERR_STORE_FULL);
    struct store_stage *crowding = pair->stage;
    pair->stage = first;
    pair->image = image;
    assert_int_equal(transfer_some(pair, 100), ERR_STORE_FULL);
    assert_int_equal(store_crowd(pair->to.store), STORE_CROWD_SOME);
    store_stage_abort(crowding);
    assert_int_equal(store_crowd(pair->to.store), STORE_CROWD_NONE); /* room is on its way */
    fake_env_settle(&pair->to.env);
    assert_int_equal(transfer_some(pair, 100), 0);
    assert_int_equal(install(pair), 0);
    store_image_close(other);
    end(pair);
}

/* Where the map ends before the quota nothing is refused in time: then a flush waits for the stage's room, and gets it. */
static void a_flush_waits_for_a_stage(struct pair *pair, unsigned pieces)
{
    struct fixture *to = &pair->to;
    fill_sender(pair, 2560 << 10, 64 << 20, 16);
    begin(pair);
    assert_int_equal(transfer_some(pair, pieces), 0);
    unsigned told = pair->told;
    for (unsigned i = 0; i < 12; i++) {
        put_large(to, i);
    }
    store_turn_end(to->store);
    assert_true(store_freeze(to->store) && store_flush_start(to->store));
    if (store_stage_is_complete(pair->stage)) {
        store_stage_install(pair->stage, on_done,
                            pair); /* waits for the flush, as that does for its room */
    }
    assert_true(fake_env_work(&to->env) && fake_env_finish(&to->env));
    assert_true(store_is_flushing(to->store));
    assert_int_equal(store_crowd(to->store), STORE_CROWD_ALL);
    assert_int_equal(store_admit(to->store, 1), 0);
    store_stage_abort(pair->stage);
    fake_env_settle(&to->env);
    for (int i = 0; i < 3 && store_is_flushing(to->store); i++) {
        fake_env_pass(&to->env, 100000);
        fake_env_settle(&to->env);
        store_turn_end(to->store);
    }
    assert_false(store_is_flushing(to->store));
    assert_int_equal(store_replica_flushed(to->replica), 12);
    assert_int_equal(store_crowd(to->store), STORE_CROWD_NONE);
    assert_int_equal(pair->told, told);
    end(pair);
}

static void a_flush_waits_for_an_incomplete_stage(void **state)
{
    a_flush_waits_for_a_stage(*state, 15);
}

static void a_flush_waits_for_a_complete_stage(void **state)
{
    a_flush_waits_for_a_stage(*state, 100);
}

/* Neighbours in the same overlay and the same flush are not touched. */
static void other_replicas_are_left_alone(void **state)
{
    struct pair *pair = *state;
    struct store_replica *own = pair->to.replica, *other;
    assert_int_equal(store_replica_open(pair->to.store, 2, 0xdef, 0, 0, 0, &other, NULL), 0);
    pair->to.replica = other;
    fixture_put(&pair->to, "a", "the other's");
    pair->to.replica = own;
    fixture_put(&pair->to, "a", "old");
    fixture_put(&pair->from, "a", "new");
    fixture_flush(&pair->from);
    begin(pair);
    transfer(pair, 100);
    assert_int_equal(install(pair), 0);
    end(pair);
    fixture_flush(&pair->to);
    struct record record;
    assert_int_equal(store_get(other, span_of_string("a"), &record, NULL), 0);
    assert_int_equal(record.value.size, 11);
    assert_int_equal(store_get(own, span_of_string("a"), &record, NULL), 0);
    assert_memory_equal(record.value.data, "new", 3);
    store_turn_end(pair->to.store);
}

static void nothing_flushed_is_no_image(void **state)
{
    struct pair *pair = *state;
    fixture_put(&pair->from, "a", "1");
    assert_int_equal(store_image_open(pair->from.replica, &pair->image, NULL), ERR_NOT_FOUND);
    pair->image = NULL;
}

static void open_images_and_stages_are_bounded(void **state)
{
    struct pair *pair = *state;
    fixture_put(&pair->from, "a", "1");
    fixture_flush(&pair->from);
    struct store_image *images[LIMIT_STORE_IMAGES];
    for (int i = 0; i < LIMIT_STORE_IMAGES; i++) {
        assert_int_equal(store_image_open(pair->from.replica, &images[i], NULL), 0);
    }
    struct store_image *image;
    assert_int_equal(store_image_open(pair->from.replica, &image, NULL), ERR_BUSY);
    store_image_close(images[0]);
    assert_int_equal(store_image_open(pair->from.replica, &images[0], NULL), 0);
    for (int i = 0; i < LIMIT_STORE_IMAGES; i++) {
        store_image_close(images[i]);
    }
    struct store_stage *stage;
    assert_int_equal(store_stage_open(pair->to.replica, 9, 1, &pair->stage, NULL), 0);
    assert_int_equal(store_stage_open(pair->to.replica, 9, 1, &stage, NULL), ERR_BUSY);
    store_stage_abort(pair->stage);
    assert_int_equal(store_stage_open(pair->to.replica, 9, 1, &pair->stage, NULL), 0);
}

static void positions_from_outside_are_checked(void **state)
{
    struct pair *pair = *state;
    fixture_put(&pair->from, "a", "1");
    fixture_flush(&pair->from);
    assert_int_equal(store_image_open(pair->from.replica, &pair->image, NULL), 0);
    uint8_t bytes[600] = { 0 };
    struct buf buf = { 0 };
    buf_append(&buf, "x", 1);
    assert_int_equal(store_image_read(pair->image, span_of(bytes, 1), 100, &buf, NULL),
                     ERR_BAD_REQUEST);
    bytes[0] = 1;
    assert_int_equal(store_image_read(pair->image, span_of(bytes, 513), 100, &buf, NULL),
                     ERR_BAD_REQUEST);
    bytes[0] = 2;
    assert_int_equal(store_image_read(pair->image, span_of(bytes, 16), 100, &buf, NULL),
                     ERR_BAD_REQUEST);
    assert_int_equal(buf.size, 1);
    assert_int_equal(store_image_read(pair->image, span_of(bytes, 17), 100, &buf, NULL), 0);
    buf_fini(&buf);
}

/* The store ends before those who use it. */
static void an_image_outlives_its_store(void **state)
{
    struct pair *pair = *state;
    fixture_put(&pair->from, "a", "1");
    fixture_flush(&pair->from);
    assert_int_equal(store_image_open(pair->from.replica, &pair->image, NULL), 0);
    fixture_close(&pair->from);
    struct buf buf = { 0 };
    assert_int_equal(store_image_read(pair->image, span_of(NULL, 0), 100, &buf, NULL), ERR_CLOSED);
    buf_fini(&buf);
    store_image_close(pair->image);
    pair->image = NULL;
    fixture_open(&pair->from);
}

static void fix_checksum(struct blob *chunk)
{
    uint32_t crc = hash_crc32c(0, chunk->data, 12);
    put_u32(chunk->data + 12, hash_crc32c(crc, chunk->data + 16, chunk->size - 16));
}

/* A sender that says what is not so: the replica stays what it was. */
static void totals_must_match(void **state)
{
    struct pair *pair = *state;
    fixture_put(&pair->from, "a", "1");
    fixture_flush(&pair->from);
    fixture_put(&pair->to, "b", "2");
    struct state old = state_of(&pair->to);
    for (size_t back = 40; back > 8; back -= 8) {
        begin(pair);
        struct blob *chunk = read_chunk(pair, span_of(NULL, 0), 1 << 20);
        chunk->data[chunk->size - back] ^=
            back != 24; /* not the time: nothing to compare it with */
        fix_checksum(chunk);
        assert_int_equal(write_chunk(pair, chunk), 0);
        if (back != 24) {
            assert_int_equal(install(pair), ERR_CORRUPT);
            struct state now = state_of(&pair->to);
            assert_true(is_same(&now, &old));
        } else {
            store_stage_abort(pair->stage);
        }
        end(pair);
    }
    begin(pair);
    transfer(pair, 1);
    assert_int_equal(install(pair), 0);
    end(pair);
}

/* A peer may send anything. */
static void chunks_are_checked(void **state)
{
    struct pair *pair = *state;
    fixture_put(&pair->from, "b", "1");
    fixture_put(&pair->from, "c", "2");
    fixture_flush(&pair->from);
    begin(pair);
    struct blob *good = read_chunk(pair, span_of(NULL, 0), 1 << 20);
    for (size_t i = 0; i < good->size; i++) {
        struct blob *bad = blob_new(good->size);
        memcpy(bad->data, good->data, good->size);
        bad->data[i] ^= 1 + i % 255;
        assert_int_equal(write_chunk(pair, bad), ERR_CORRUPT);
        struct blob *cut = blob_new(i);
        memcpy(cut->data, good->data, i);
        assert_int_equal(write_chunk(pair, cut), ERR_CORRUPT);
        /* With a right checksum: whatever it means now, it's no crash, and what gets in is seen at
         * the end. */
        bad = blob_new(good->size);
        memcpy(bad->data, good->data, good->size);
        bad->data[i] ^= 1 + i % 255;
        fix_checksum(bad);
        if (write_chunk(pair, bad) == 0) {
            store_stage_abort(pair->stage);
            fake_env_settle(&pair->to.env);
            assert_int_equal(store_stage_open(pair->to.replica, store_image_index(pair->image), 5,
                                              &pair->stage, NULL),
                             0);
        }
    }
    assert_int_equal(write_chunk(pair, good), 0);
    assert_int_equal(install(pair), 0);
    end(pair);
    uint64_t keys;
    assert_int_equal(content(&pair->to, &keys), content(&pair->from, &keys));
}

static void keys_of_another_partition_are_refused(void **state)
{
    struct pair *pair = *state;
    fixture_put(&pair->from, "b", "1");
    fixture_flush(&pair->from);
    uint64_t prefix = ~hash_key(0, span_of_string("b"));
    assert_int_equal(store_image_open(pair->from.replica, &pair->image, NULL), 0);
    fixture_close(&pair->to);
    assert_int_equal(store_open(&pair->to.config, &pair->to.store, NULL), 0);
    assert_int_equal(store_replica_open(pair->to.store, 1, 0xabc, 0, prefix >> 60 << 60, 4,
                                        &pair->to.replica, NULL),
                     0);
    assert_int_equal(store_stage_open(pair->to.replica, 1, 5, &pair->stage, NULL), 0);
    assert_int_equal(write_chunk(pair, read_chunk(pair, span_of(NULL, 0), 100)), ERR_CORRUPT);
    store_stage_abort(pair->stage);
}

/* What was replaced or given up is gone in the end: the room is there again. */
static void rubbish_is_removed(void **state)
{
    struct pair *pair = *state;
    char key[16], value[1000];
    memset(value, 'v', sizeof value);
    for (unsigned i = 0; i < 3000; i++) {
        snprintf(key, sizeof key, "key-%u", i);
        fixture_apply(&pair->from, (struct command){ .type = COMMAND_PUT,
                                                     .key = span_of_string(key),
                                                     .value = span_of(value, sizeof value),
                                                     .session = { i, 1 },
                                                     .number = 1,
                                                     .lowest = 1 });
    }
    fixture_flush(&pair->from);
    uint64_t used = store_stats(pair->from.store)->used_bytes;
    for (unsigned round = 0; round < 12; round++) {
        begin(pair);
        if (round % 3 == 1) {
            assert_int_equal(write_chunk(pair, read_chunk(pair, span_of(NULL, 0), 1 << 20)), 0);
            store_stage_abort(pair->stage);
        } else {
            transfer(pair, 100000);
            if (round % 3 == 0) {
                assert_int_equal(install(pair), 0);
            } else {
                fixture_reopen(&pair->to); /* forgotten by a process that ended */
            }
        }
        end(pair);
        fake_env_settle(&pair->to.env);
    }
    assert_true(store_stats(pair->to.store)->used_bytes < used + used / 4);
}

/* --- The model */

static void change(struct pair *pair, struct fixture *fixture, unsigned commands)
{
    for (unsigned i = 0; i < commands; i++) {
        char key[32], value[200];
        snprintf(key, sizeof key, "k%llu", (unsigned long long)any(pair, 60));
        memset(value, (int)('a' + any(pair, 26)), sizeof value);
        struct command command = { .type = any(pair, 4) == 0 ? COMMAND_DELETE : COMMAND_PUT,
                                   .key = span_of_string(key) };
        if (command.type == COMMAND_PUT) {
            command.value = span_of(value, any(pair, any(pair, 2) ? 10 : sizeof value));
        }
        if (any(pair, 3) == 0) {
            command.session = (struct session_id){ any(pair, 30), 0 };
            command.number = command.lowest = 1000 + store_replica_applied(fixture->replica);
        }
        if (any(pair, 20) == 0) {
            command.attributes =
                (struct attributes){ .mask = ATTRIBUTE_MODE, .mode = (uint32_t)any(pair, 512) };
            command.type = COMMAND_PUT;
        }
        fixture_apply(fixture, command);
    }
    if (any(pair, 2)) {
        fixture_flush(fixture);
    }
}

/* Something goes wrong with a chunk on the way. */
static void disturb(struct pair *pair)
{
    struct span position = store_stage_position(pair->stage);
    struct blob *chunk = read_chunk(pair, position, 1 + any(pair, 3000));
    if (any(pair, 2)) {
        chunk->data[any(pair, chunk->size)] ^= 1u << any(pair, 8);
        assert_int_equal(write_chunk(pair, chunk), ERR_CORRUPT);
        return;
    }
    /* The same chunk twice. */
    struct blob *twice = blob_ref(chunk);
    assert_int_equal(write_chunk(pair, chunk), 0);
    if (store_stage_is_complete(pair->stage)) {
        blob_unref(twice);
    } else {
        assert_int_equal(write_chunk(pair, twice), ERR_BAD_REQUEST);
    }
}

/* The receiver's process ends, perhaps in the middle of a job, or with one that is done but not
 * told. */
static void end_process(struct pair *pair)
{
    switch (any(pair, 3)) {
    case 0:
        fake_env_work(&pair->to.env);
        break;
    case 1:
        fake_env_work(&pair->to.env);
        fake_env_finish(&pair->to.env);
        break;
    default:
        break;
    }
    fixture_reopen(&pair->to);
    pair->stage = NULL;
}

/* One transfer with all that may happen to it. The receiver's state before is durable: a process
 * that ends loses none of it. */
static void model_round(struct pair *pair)
{
    change(pair, &pair->from, 1 + (unsigned)any(pair, 100));
    fixture_flush(&pair->from);
    struct state sent = state_of(&pair->from);
    pair->to.time = store_replica_time(pair->to.replica) + 1000;
    change(pair, &pair->to, 1 + (unsigned)any(pair, 50));
    fixture_flush(&pair->to);
    struct state old = state_of(&pair->to);
    begin(pair);
    change(pair, &pair->from, (unsigned)any(pair, 50));
    while (pair->stage && !store_stage_is_complete(pair->stage)) {
        uint64_t what = any(pair, 40);
        if (what < 4) {
            disturb(pair);
        } else if (what == 4) {
            store_stage_abort(pair->stage);
            pair->stage = NULL;
        } else if (what == 5) {
            struct blob *chunk = read_chunk(pair, store_stage_position(pair->stage), 1000);
            store_stage_write(pair->stage, chunk, on_done, pair);
            blob_unref(chunk);
            end_process(pair);
        } else if (what == 6) {
            struct blob *chunk = read_chunk(pair, store_stage_position(pair->stage), 1000);
            unsigned told = pair->told;
            store_stage_write(pair->stage, chunk, on_done, pair);
            blob_unref(chunk);
            store_stage_abort(pair->stage);
            fake_env_settle(&pair->to.env);
            assert_int_equal(pair->told, told);
            pair->stage = NULL;
        } else {
            size_t bytes_max = 1 + any(pair, any(pair, 2) ? 100 : 5000);
            assert_int_equal(
                write_chunk(pair, read_chunk(pair, store_stage_position(pair->stage), bytes_max)),
                0);
        }
    }
    bool is_certain = true;
    if (pair->stage && any(pair, 3) == 0) {
        store_stage_install(pair->stage, on_done, pair);
        end_process(pair);
        is_certain = false;
    } else if (pair->stage) {
        assert_int_equal(install(pair), 0);
    }
    struct state now = state_of(&pair->to);
    bool is_new = is_same(&now, &sent);
    assert_true(is_new || ((!is_certain || !pair->stage) && is_same(&now, &old)));
    assert_true(!is_new || store_replica_digest(pair->to.replica) != 0 || now.keys == 0);
    /* The digest that flushes have kept is that of a scan. */
    assert_int_equal(fixture_scrub(&pair->to, 1 + any(pair, 3000)), 0);
    assert_int_equal(fixture_scrub(&pair->from, 1 + any(pair, 3000)), 0);
    assert_int_equal(now.image_index, is_new ? sent.applied : old.image_index);
    end(pair);
    if (any(pair, 3) == 0) {
        fixture_reopen(&pair->to);
        struct state again = state_of(&pair->to);
        assert_true(is_same(&again, &now));
    }
}

static void whatever_happens_it_is_old_or_new(void **state)
{
    struct pair *pair = *state;
    for (uint64_t round = 0; round < 120; round++) {
        pair->random = round * 1000003;
        model_round(pair);
    }
}

#define STORY(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        STORY(a_replica_becomes_the_senders),
        STORY(an_older_image_takes_a_replica_back),
        STORY(a_swap_takes_its_turn),
        STORY(flushes_and_swaps_take_turns),
        STORY(a_swap_goes_on_when_no_flush_is_due),
        STORY(a_stage_leaves_room_for_flushes),
        STORY(reads_keep_nothing_from_stages),
        STORY(users_writes_go_before_a_stage),
        STORY(a_full_store_takes_an_image),
        STORY(a_stage_goes_on_when_another_is_given_up),
        STORY(a_flush_waits_for_an_incomplete_stage),
        STORY(a_flush_waits_for_a_complete_stage),
        STORY(other_replicas_are_left_alone),
        STORY(nothing_flushed_is_no_image),
        STORY(open_images_and_stages_are_bounded),
        STORY(positions_from_outside_are_checked),
        STORY(an_image_outlives_its_store),
        STORY(totals_must_match),
        STORY(chunks_are_checked),
        STORY(keys_of_another_partition_are_refused),
        STORY(rubbish_is_removed),
        STORY(whatever_happens_it_is_old_or_new),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
