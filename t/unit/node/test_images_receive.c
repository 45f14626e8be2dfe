/* Shows how a replica that needs an image gets it: piece by piece, from where it stands, whatever becomes
 * of connection, disk and memory meanwhile; how many are received at a time, and what makes a node give
 * one up. Both nodes run images.c over real stores, whose disks work when the test says so
 * (images_fixture.h). */
#include "images_fixture.h"

#include "base/hash.h"

enum { KEYS = 8, SMALL_MAP = 4 << 20 };

struct pair {
    struct side from, to;
};

/* Each group of the sender holds KEYS records, each a piece. */
static int setup_in(void **state, uint64_t map_bytes)
{
    struct pair *pair = malloc(sizeof *pair);
    char key[16], value[64];
    side_init(&pair->from, TO_NODE, 256 << 20);
    side_init(&pair->to, FROM_NODE, map_bytes);
    for (uint32_t group = 1; group <= GROUPS; group++) {
        for (int i = 0; i < KEYS; i++) {
            snprintf(key, sizeof key, "key-%d", i);
            snprintf(value, sizeof value, "value %d of group %u", i, group);
            side_put(&pair->from, group, key, value);
        }
    }
    fixture_flush(&pair->from.store);
    pair->from.node.config.image_chunk_bytes = 1;
    side_pass(&pair->from, SECOND_US);
    *state = pair;
    return 0;
}

static int setup(void **state)
{
    return setup_in(state, 256 << 20);
}

static int setup_small(void **state)
{
    return setup_in(state, SMALL_MAP);
}

static int teardown(void **state)
{
    struct pair *pair = *state;
    side_fini(&pair->from);
    side_fini(&pair->to);
    free(pair);
    return 0;
}

/* --- What travels */

static void deliver_one(struct side *to, const struct mail *mail)
{
    if (mail->frame.type == FRAME_REQUEST) {
        images_question(to->images, &to->link, &mail->frame);
    } else {
        images_answer(to->images, &to->link, &mail->frame);
    }
}

static bool deliver(struct side *from, struct side *to)
{
    struct conn conn = from->conn;
    from->conn.count = 0;
    for (size_t i = 0; i < conn.count; i++) {
        deliver_one(to, &conn.mails[i]);
        buf_fini(&conn.mails[i].message);
        buf_fini(&conn.mails[i].payload);
    }
    return conn.count > 0;
}

/* A question goes there, is answered, and the piece is written; the next question lies there. False: there was none. */
static bool step(struct pair *pair)
{
    bool has_moved = deliver(&pair->to, &pair->from);
    side_work(&pair->from);
    deliver(&pair->from, &pair->to);
    side_work(&pair->to);
    return has_moved;
}

static void run(struct pair *pair)
{
    while (step(pair)) {
    }
}

static void pass(struct pair *pair, uint64_t us)
{
    side_pass(&pair->from, us);
    side_pass(&pair->to, us);
}

static void offer(struct pair *pair, uint32_t group)
{
    struct partition *partition = &pair->from.partitions[group];
    if (!side_is_offering(&pair->from, group)) {
        side_want(&pair->from, group);
    }
    assert_true(side_is_offering(&pair->from, group));
    side_hear_offer(&pair->to, partition);
}

static void cut_link(struct pair *pair)
{
    pair->to.link.peer.conn = NULL;
    side_forget_mails(&pair->to);
    images_link_lost(pair->to.images, &pair->to.link);
    images_link_lost(pair->from.images, &pair->from.link);
}

static void mend_link(struct pair *pair)
{
    pair->to.link.peer.conn = &pair->to.conn;
}

/* What is asked for: the group, and how far its stage has come. */
static uint32_t asked_group(const struct side *to)
{
    struct arena arena = { 0 };
    uint32_t group = mail_question(only_mail(to), &arena)->group;
    arena_fini(&arena);
    return group;
}

static size_t asked_position(const struct side *to, char *out)
{
    struct arena arena = { 0 };
    const Cairn__V1__ImageRequest *asked = mail_question(only_mail(to), &arena);
    size_t size = asked->position.len;
    snprintf(out, 64, "%.*s", size > 0 ? (int)size - 1 : 0,
             size > 0 ? (const char *)asked->position.data + 1 : "");
    arena_fini(&arena);
    return size;
}

static void assert_asks(const struct side *to, const char *key)
{
    char position[64];
    asked_position(to, position);
    assert_string_equal(position, key);
}

/* Whether something of an image for the group is kept. */
static bool has_stage(struct side *to, uint32_t group)
{
    struct store_stage *stage;
    int status = store_stage_open(to->partitions[group].store, 1, TERM, &stage, NULL);
    if (status == 0) {
        store_stage_abort(stage);
        side_work(to);
    }
    return status != 0;
}

static void assert_whole(struct pair *pair, uint32_t group)
{
    struct partition *partition = &pair->to.partitions[group];
    struct record record;
    struct err err;
    char key[16], value[64];
    assert_int_equal(partition->installed_index, pair->from.partitions[group].offered_index);
    assert_int_equal(partition->installed_term, TERM);
    for (int i = 0; i < KEYS; i++) {
        snprintf(key, sizeof key, "key-%d", i);
        snprintf(value, sizeof value, "value %d of group %u", i, group);
        assert_int_equal(store_get(partition->store, span_of_string(key), &record, &err), 0);
        assert_int_equal(record.value.size, strlen(value));
        assert_memory_equal(record.value.data, value, strlen(value));
    }
    store_turn_end(pair->to.store.store);
}

/* The group's image has so many pieces, and these are there. */
static void receive_some(struct pair *pair, uint32_t group, int pieces)
{
    offer(pair, group);
    for (int i = 0; i < pieces; i++) {
        assert_true(step(pair));
    }
    assert_int_equal(pair->to.conn.count, 1);
}

/* --- The way of one */

static void it_comes_piece_by_piece(void **state)
{
    struct pair *pair = *state;
    int pieces = 0;
    offer(pair, 1);
    for (; step(pair); pieces++) {
        assert_true(pair->to.conn.count <= 1);
        if (pair->to.observed == 0) {
            offer(pair, 1); /* with each heartbeat, and it changes nothing */
        }
    }
    assert_int_equal(pieces, KEYS);
    assert_whole(pair, 1);
    assert_int_equal(pair->to.observed, 1);
    assert_int_equal(pair->to.node.counters.images_received, 1);
    assert_int_equal(pair->to.node.counters.image_bytes_received,
                     pair->from.node.counters.image_bytes_sent);
}

static void a_lost_connection_costs_one_piece(void **state)
{
    struct pair *pair = *state;
    receive_some(pair, 1, 3);
    cut_link(pair);
    offer(pair, 1);
    assert_int_equal(pair->to.conn.count, 0);
    mend_link(pair);
    assert_int_equal(pair->to.conn.count, 0);
    offer(pair, 1);
    assert_asks(&pair->to, "key-3");
    run(pair);
    assert_whole(pair, 1);
}

/* And one that comes after all is not taken for the answer to the second question. */
static void a_late_answer_is_asked_for_again(void **state)
{
    struct pair *pair = *state;
    receive_some(pair, 1, 3);
    deliver(&pair->to, &pair->from);
    side_work(&pair->from);
    for (int i = 0; i < 148; i++) {
        pass(pair, HEARTBEAT_US);
        offer(pair, 1);
    }
    assert_int_equal(pair->to.conn.count, 0);
    pass(pair, 400 * 1000);
    offer(pair, 1);
    assert_asks(&pair->to, "key-3");
    deliver(&pair->from, &pair->to);
    side_work(&pair->to);
    assert_asks(&pair->to, "key-3");
    run(pair);
    assert_whole(pair, 1);
}

/* What the sender says: it is asked again after five seconds, and at once where it only has no such image any more. */
static void a_refusal_is_taken_for_what_it_is(void **state)
{
    static const struct {
        int status;
        uint64_t wait_us;
    } refusals[] = { { ERR_BUSY, 5 * SECOND_US }, { ERR_NOT_FOUND, 0 }, { 0, 5 * SECOND_US } };
    struct pair *pair = *state;
    receive_some(pair, 1, 3);
    for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; i++) {
        struct frame answer = { .type = FRAME_RESPONSE,
                                .verb = VERB_IMAGE,
                                .status = refusals[i].status, /* 0: with nothing in it */
                                .request_id = only_mail(&pair->to)->frame.request_id };
        side_forget_mails(&pair->to);
        images_answer(pair->to.images, &pair->to.link, &answer);
        for (uint64_t us = HEARTBEAT_US; us < refusals[i].wait_us; us += HEARTBEAT_US) {
            offer(pair, 1);
            assert_int_equal(pair->to.conn.count, 0);
            pass(pair, HEARTBEAT_US);
        }
        pass(pair, refusals[i].wait_us ? 2 * HEARTBEAT_US : 0);
        offer(pair, 1);
        assert_asks(&pair->to, "key-3");
    }
    run(pair);
    assert_whole(pair, 1);
}

static void a_damaged_piece_is_asked_for_again(void **state)
{
    struct pair *pair = *state;
    receive_some(pair, 1, 3);
    deliver(&pair->to, &pair->from);
    side_work(&pair->from);
    assert_int_equal(pair->from.conn.count, 1);
    pair->from.conn.mails[0].payload.data[50] ^= 1;
    deliver(&pair->from, &pair->to);
    side_work(&pair->to);
    offer(pair, 1);
    assert_int_equal(pair->to.conn.count, 0);
    pass(pair, 5200 * 1000);
    offer(pair, 1);
    assert_asks(&pair->to, "key-3");
    run(pair);
    assert_whole(pair, 1);
}

static void without_memory_it_is_put_off(void **state)
{
    struct pair *pair = *state;
    struct mem_gate *gate = &pair->to.gates.of[MEM_IMAGE];
    gate->refuse_in = 1; /* for what is to be received */
    offer(pair, 1);
    assert_int_equal(pair->to.conn.count, 0);
    receive_some(pair, 1, 3);
    gate->refuse_in = 1; /* for the piece */
    assert_true(step(pair));
    offer(pair, 1);
    assert_int_equal(pair->to.conn.count, 0);
    pass(pair, 5200 * 1000);
    gate->refuse_in = 1; /* for the question */
    offer(pair, 1);
    assert_int_equal(pair->to.conn.count, 0);
    offer(pair, 1);
    assert_asks(&pair->to, "key-3");
    assert_int_equal(gate->refused, 3);
    run(pair);
    assert_whole(pair, 1);
}

/* The same index and term is the same image under any id; else it begins anew. */
static void another_image_begins_anew(void **state)
{
    struct pair *pair = *state;
    receive_some(pair, 1, 3);
    side_forget_mails(&pair->to);
    pair->from.partitions[1].offered_id = 0; /* closes it, and another is opened */
    side_want(&pair->from, 1);
    offer(pair, 1);
    assert_asks(&pair->to, "key-3");
    side_put(&pair->from, 1, "key-9", "one more");
    fixture_flush(&pair->from.store);
    side_forget_mails(&pair->to);
    pair->from.partitions[1].offered_id = 0;
    side_want(&pair->from, 1);
    offer(pair, 1);
    assert_asks(&pair->to, "");
    run(pair);
    assert_whole(pair, 1);
    assert_int_equal(pair->to.partitions[1].installed_index, KEYS + 1);
}

/* It is swapped in when the core lets it, with the next offer. */
static void a_complete_one_waits_until_it_may_be_installed(void **state)
{
    struct pair *pair = *state;
    struct partition *partition = &pair->to.partitions[1];
    partition->may_not_install = true;
    offer(pair, 1);
    run(pair);
    assert_int_equal(partition->installed_index, 0);
    offer(pair, 1);
    assert_int_equal(pair->to.conn.count, 0);
    partition->may_not_install = false;
    offer(pair, 1);
    side_work(&pair->to);
    assert_whole(pair, 1);
}

static void fix_checksum(struct buf *chunk)
{
    uint32_t crc = hash_crc32c(0, chunk->data, 12);
    put_u32(chunk->data + 12, hash_crc32c(crc, chunk->data + 16, chunk->size - 16));
}

/* Whole, and not what the sender says that it is: the sender hears of it, and five seconds later it begins anew. */
static void a_wrong_one_is_refused(void **state)
{
    struct pair *pair = *state;
    struct partition *partition = &pair->to.partitions[1];
    struct arena arena = { 0 };
    receive_some(pair, 1, KEYS - 1);
    deliver(&pair->to, &pair->from);
    side_work(&pair->from);
    struct buf *last = &pair->from.conn.mails[0].payload;
    last->data[last->size - 40] ^= 1; /* the number of keys */
    fix_checksum(last);
    deliver(&pair->from, &pair->to);
    side_work(&pair->to);
    assert_true(mail_question(only_mail(&pair->to), &arena)->is_refused);
    arena_fini(&arena);
    assert_int_equal(partition->failed, 1);
    assert_false(partition->is_installing);
    assert_int_equal(pair->to.node.counters.images_refused, 1);
    run(pair);
    assert_int_equal(pair->from.scrub.hurried, 1);
    assert_false(side_is_offering(&pair->from, 1));
    offer(pair, 1);
    assert_int_equal(pair->to.conn.count, 0);
    pass(pair, 5200 * 1000);
    offer(pair, 1);
    assert_asks(&pair->to, "");
    run(pair);
    assert_whole(pair, 1);
}

/* --- Places */

static void four_are_received_at_a_time(void **state)
{
    struct pair *pair = *state;
    for (uint32_t group = 1; group <= LIMIT_IMAGES_RECEIVED; group++) {
        offer(pair, group);
    }
    assert_int_equal(pair->to.conn.count, LIMIT_IMAGES_RECEIVED);
    pair->from.partitions[1].offered_id = 0; /* makes room at the sender only */
    images_tick(pair->from.images);
    offer(pair, 5);
    assert_int_equal(pair->to.conn.count, LIMIT_IMAGES_RECEIVED);
    run(pair);
    assert_whole(pair, 2);
    offer(pair, 5);
    assert_int_equal(asked_group(&pair->to), 5);
}

/* For a second at least; those that are on offer stay. */
static void a_place_goes_to_another_when_nothing_is_offered_for_it(void **state)
{
    struct pair *pair = *state;
    for (uint32_t group = 1; group <= LIMIT_IMAGES_RECEIVED; group++) {
        offer(pair, group);
    }
    pair->from.partitions[2].offered_id = 0;
    images_tick(pair->from.images);
    side_want(&pair->from, 5);
    cut_link(pair);
    for (int i = 0; i < 12; i++) {
        offer(pair, 1);
        offer(pair, 3);
        offer(pair, 4);
        offer(pair, 5);
        assert_true(i > 8 || has_stage(&pair->to, 2));
        pass(pair, HEARTBEAT_US);
    }
    mend_link(pair);
    offer(pair, 5);
    assert_int_equal(asked_group(&pair->to), 5);
    assert_false(has_stage(&pair->to, 2));
    assert_true(has_stage(&pair->to, 1) && has_stage(&pair->to, 3) && has_stage(&pair->to, 4));
}

static void one_that_nobody_offers_ends(void **state)
{
    struct pair *pair = *state;
    receive_some(pair, 1, 3);
    pass(pair, 19 * SECOND_US);
    assert_true(has_stage(&pair->to, 1));
    pass(pair, 1100 * 1000);
    assert_false(has_stage(&pair->to, 1));
    side_forget_mails(&pair->to);
    receive_some(pair, 1, 0);
    assert_asks(&pair->to, "");
}

/* More groups need images than there are places, and the follower's disk takes four seconds for what is one piece each: every
 * image that it has begun is still on offer when it is done, none is begun twice, and all get theirs. */
static void a_slow_disk_loses_no_place(void **state)
{
    struct pair *pair = *state;
    pair->from.node.config.image_chunk_bytes = 512 << 10;
    for (int i = 0; i < 100; i++) {
        for (uint32_t group = 1; group <= GROUPS; group++) {
            struct partition *from = &pair->from.partitions[group];
            if (pair->to.partitions[group].installed_index != 0) {
                from->offered_id = 0; /* the core hears that it caught up */
            } else if (from->offered_id == 0) {
                side_want(&pair->from, group);
            } else {
                side_hear_offer(&pair->to, from);
            }
        }
        deliver(&pair->to, &pair->from);
        side_work(&pair->from);
        deliver(&pair->from, &pair->to);
        if (i % 40 == 39) {
            side_work(&pair->to);
        }
        pass(pair, HEARTBEAT_US);
    }
    for (uint32_t group = 1; group <= GROUPS; group++) {
        assert_int_equal(pair->from.partitions[group].withdrawn, 0);
        assert_int_equal(pair->to.partitions[group].installed_index, KEYS);
    }
    assert_int_equal(pair->from.node.counters.images_offered, GROUPS);
}

/* --- Room */

static void a_full_disk_keeps_only_what_is_complete(void **state)
{
    struct pair *pair = *state;
    pair->to.partitions[1].may_not_install = true;
    offer(pair, 1);
    run(pair);
    receive_some(pair, 2, 3);
    pair->to.reserve.is_spent = true;
    step(pair); /* asks no more */
    assert_int_equal(pair->to.conn.count, 0);
    pass(pair, HEARTBEAT_US);
    assert_false(has_stage(&pair->to, 2));
    offer(pair, 2);
    assert_false(has_stage(&pair->to, 2));
    pair->to.partitions[1].may_not_install = false;
    offer(pair, 1);
    side_work(&pair->to);
    assert_whole(pair, 1);
    pair->to.reserve.is_spent = false;
    offer(pair, 2);
    run(pair);
    assert_whole(pair, 2);
}

/* The sender holds 6 MB more, in pieces of 100 KB. */
static void make_large(struct pair *pair, uint32_t group)
{
    static char text[100000];
    char key[16];
    memset(text, 'x', sizeof text - 1);
    for (int i = 0; i < 60; i++) {
        snprintf(key, sizeof key, "large-%d", i);
        side_put(&pair->from, group, key, text);
    }
    fixture_flush(&pair->from.store);
}

/* The newest is given up and none begun for half a minute, while the other one becomes whole. */
static void one_for_which_there_is_no_room_is_given_up(void **state)
{
    struct pair *pair = *state;
    make_large(pair, 2);
    receive_some(pair, 1, 3);
    cut_link(pair);
    mend_link(pair);
    offer(pair, 2);
    run(pair);
    assert_int_equal(store_crowd(pair->to.store.store), STORE_CROWD_SOME);
    pass(pair, HEARTBEAT_US);
    side_work(&pair->to);
    assert_int_equal(pair->to.node.counters.images_without_room, 1);
    assert_false(has_stage(&pair->to, 2));
    offer(pair, 1);
    assert_asks(&pair->to, "key-3");
    run(pair);
    assert_whole(pair, 1);
    assert_int_equal(store_crowd(pair->to.store.store), STORE_CROWD_NONE);
    for (int second = 0; second < 29; second++) {
        offer(pair, 3);
        assert_int_equal(pair->to.conn.count, 0);
        pass(pair, SECOND_US);
    }
    pass(pair, 1200 * 1000);
    offer(pair, 3);
    run(pair);
    assert_whole(pair, 3);
}

/* Where the swap finds no room it is tried again, without one more question. */
static void a_swap_is_tried_again(void **state)
{
    struct pair *pair = *state;
    struct partition *partition = &pair->to.partitions[1];
    receive_some(pair, 1, KEYS - 1);
    deliver(&pair->to, &pair->from);
    side_work(&pair->from);
    deliver(&pair->from, &pair->to);
    while (!partition->is_installing) {
        assert_true(fake_env_work(&pair->to.store.env) && fake_env_finish(&pair->to.store.env));
    }
    pair->to.gates.of[MEM_STORE].refuse_in = 1;
    pair->to.gates.of[MEM_IMAGE].refuse_in = 1;
    pair->to.gates.of[MEM_STORE].refuse_more = pair->to.gates.of[MEM_IMAGE].refuse_more = 1000;
    side_work(&pair->to);
    assert_int_equal(partition->failed, 1);
    assert_int_equal(partition->installed_index, 0);
    memset(&pair->to.gates, 0, sizeof pair->to.gates);
    offer(pair, 1);
    side_work(&pair->to);
    assert_int_equal(partition->installed_index, 0);
    pass(pair, 5200 * 1000);
    offer(pair, 1);
    assert_int_equal(pair->to.conn.count, 0);
    side_work(&pair->to);
    assert_whole(pair, 1);
    assert_int_equal(pair->to.node.counters.images_refused, 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(it_comes_piece_by_piece),
        TEST(a_lost_connection_costs_one_piece),
        TEST(a_late_answer_is_asked_for_again),
        TEST(a_refusal_is_taken_for_what_it_is),
        TEST(a_damaged_piece_is_asked_for_again),
        TEST(without_memory_it_is_put_off),
        TEST(another_image_begins_anew),
        TEST(a_complete_one_waits_until_it_may_be_installed),
        TEST(a_wrong_one_is_refused),
        TEST(four_are_received_at_a_time),
        TEST(a_place_goes_to_another_when_nothing_is_offered_for_it),
        TEST(one_that_nobody_offers_ends),
        TEST(a_slow_disk_loses_no_place),
        TEST(a_full_disk_keeps_only_what_is_complete),
        cmocka_unit_test_setup_teardown(one_for_which_there_is_no_room_is_given_up, setup_small,
                                        teardown),
        TEST(a_swap_is_tried_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
