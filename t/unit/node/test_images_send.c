/* Shows how a node that leads gives images to followers: who gets one of the few places and how long it
 * is kept, how fast pieces leave, and what makes it give an image up. The follower is played by the
 * test; store and its jobs are real (images_fixture.h). */
#include "images_fixture.h"

enum { SMALL_MAP = 4 << 20 };

/* All groups have something to send. */
static int setup_in(void **state, uint64_t map_bytes)
{
    struct side *side = malloc(sizeof *side);
    side_init(side, TO_NODE, map_bytes);
    for (uint32_t group = 1; group <= GROUPS; group++) {
        side_put(side, group, "key", "the value that the image brings");
    }
    fixture_flush(&side->store);
    side_pass(side, SECOND_US); /* so that there are tokens */
    *state = side;
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
    side_fini(*state);
    free(*state);
    return 0;
}

/* The follower asks for the first piece of what is on offer to it. */
static void ask(struct side *side, uint32_t group)
{
    Cairn__V1__ImageRequest asked = CAIRN__V1__IMAGE_REQUEST__INIT;
    asked.group = group;
    asked.id = side->partitions[group].offered_id;
    side_hear_question(side, &asked, group);
}

static void want_all(struct side *side)
{
    for (uint32_t group = 1; group <= GROUPS; group++) {
        side_want(side, group);
    }
}

static unsigned count_offers(const struct side *side)
{
    unsigned count = 0;
    for (uint32_t group = 1; group <= GROUPS; group++) {
        count += side_is_offering(side, group);
    }
    return count;
}

static unsigned count_withdrawn(const struct side *side)
{
    unsigned count = 0;
    for (uint32_t group = 1; group <= GROUPS; group++) {
        count += side->partitions[group].withdrawn;
    }
    return count;
}

/* Time passes, and with each heartbeat the groups that found no place at first say so again. */
static void pass_wanting(struct side *side, uint64_t us)
{
    for (uint64_t passed_us = 0; passed_us < us; passed_us += HEARTBEAT_US) {
        side_pass(side, HEARTBEAT_US);
        for (uint32_t group = LIMIT_STORE_IMAGES + 1; group <= GROUPS; group++) {
            if (!side_is_offering(side, group)) {
                side_want(side, group);
            }
        }
    }
}

/* Four have been offered, asked for and read; two more wait. */
static void begin_four(struct side *side)
{
    want_all(side);
    for (uint32_t group = 1; group <= LIMIT_STORE_IMAGES; group++) {
        ask(side, group);
    }
    side_work(side);
    assert_int_equal(side->conn.count, LIMIT_STORE_IMAGES);
    side_forget_mails(side);
}

static int answered_status(struct side *side)
{
    const struct mail *mail = only_mail(side);
    assert_int_equal(mail->frame.type, FRAME_RESPONSE);
    assert_true(mail->frame.status != 0 || mail->frame.payload.size > 0);
    int status = mail->frame.status;
    side_forget_mails(side);
    return status;
}

/* --- Places */

static void four_are_open_and_others_wait(void **state)
{
    struct side *side = *state;
    want_all(side);
    assert_int_equal(count_offers(side), LIMIT_STORE_IMAGES);
    assert_false(side_is_offering(side, 5) || side_is_offering(side, 6));
    assert_int_equal(side->node.counters.images_offered, LIMIT_STORE_IMAGES);
    pass_wanting(side, 900 * 1000);
    assert_int_equal(count_withdrawn(side), 0);
}

static void a_place_that_nobody_has_asked_for_goes_to_another(void **state)
{
    struct side *side = *state;
    want_all(side);
    side_pass(side, 1100 * 1000);
    side_want(side, 5);
    assert_int_equal(count_withdrawn(side), 1); /* one for one */
    assert_int_equal(side->partitions[1].withdrawn, 1);
    assert_false(side_is_offering(side, 5));
    side_want(side, 5);
    assert_true(side_is_offering(side, 5));
    assert_int_equal(count_withdrawn(side), 1);
}

/* Between two questions, or behind the last one, the follower's disk may be slow. */
static void one_that_was_asked_for_keeps_its_place_for_five_seconds(void **state)
{
    struct side *side = *state;
    begin_four(side);
    pass_wanting(side, 4800 * 1000);
    assert_int_equal(count_withdrawn(side), 0);
    assert_int_equal(side->node.counters.images_offered, LIMIT_STORE_IMAGES);
    pass_wanting(side, 400 * 1000);
    assert_true(side_is_offering(side, 5) && side_is_offering(side, 6));
    assert_int_equal(count_withdrawn(side), 2);
}

static void each_question_is_a_sign_of_life(void **state)
{
    struct side *side = *state;
    begin_four(side);
    side_pass(side, 4 * SECOND_US);
    ask(side, 1);
    ask(side, 2);
    side_work(side);
    pass_wanting(side, 4800 * 1000);
    assert_true(side_is_offering(side, 1) && side_is_offering(side, 2));
    assert_int_equal(side->partitions[3].withdrawn, 1);
    assert_int_equal(side->partitions[4].withdrawn, 1);
}

/* Whoever waits for a piece can't ask: neither for tokens nor for the own disk. */
static void a_place_is_kept_while_its_question_waits(void **state)
{
    struct side *side = *state;
    side->node.config.image_bytes_per_second = 1;
    want_all(side);
    for (uint32_t group = 1; group <= LIMIT_STORE_IMAGES; group++) {
        ask(side, group); /* reads at once: there are tokens until one has been read */
    }
    pass_wanting(side, 8 * SECOND_US);
    assert_int_equal(count_withdrawn(side), 0);
    side_work(side);
    assert_int_equal(side->conn.count, LIMIT_STORE_IMAGES);
    side_forget_mails(side);
    for (uint32_t group = 1; group <= LIMIT_STORE_IMAGES; group++) {
        ask(side, group);
    }
    pass_wanting(side, 8 * SECOND_US);
    side_work(side);
    assert_int_equal(side->conn.count, 0);
    assert_int_equal(count_withdrawn(side), 0);
}

/* Other than a question that waits for tokens, one whose connection is gone is none any more. */
static void a_place_is_not_kept_for_a_lost_question(void **state)
{
    struct side *side = *state;
    begin_four(side);
    side->node.config.image_bytes_per_second = 1;
    side_pass(side, SECOND_US);
    for (uint32_t group = 1; group <= LIMIT_STORE_IMAGES; group++) {
        ask(side, group);
        side_work(side); /* the first one's piece takes the last tokens */
    }
    assert_int_equal(side->conn.count, 1);
    images_link_lost(side->images, &side->link);
    pass_wanting(side, 5200 * 1000);
    assert_true(side_is_offering(side, 5) && side_is_offering(side, 6));
    side_work(side);
    assert_int_equal(side->conn.count, 1);
}

/* --- Ends */

static void one_that_nobody_asks_for_ends_by_itself(void **state)
{
    struct side *side = *state;
    side_want(side, 1);
    side_want(side, 2);
    side_pass(side, 15 * SECOND_US);
    ask(side, 2);
    side_work(side);
    side_pass(side, 4900 * 1000);
    assert_true(side_is_offering(side, 1));
    side_pass(side, 200 * 1000);
    assert_false(side_is_offering(side, 1));
    side_pass(side, 14500 * 1000);
    assert_true(side_is_offering(side, 2));
    side_pass(side, 500 * 1000);
    assert_false(side_is_offering(side, 2));
    assert_int_equal(count_withdrawn(side), 2);
}

/* However slowly it goes on: it keeps pages. */
static void one_ends_after_a_quarter_of_an_hour(void **state)
{
    enum { PAUSE_S = 10, END_S = 15 * 60 };
    struct side *side = *state;
    side_want(side, 1);
    for (int second = 0; second < END_S; second += PAUSE_S) {
        assert_true(side_is_offering(side, 1));
        ask(side, 1);
        side_work(side);
        assert_int_equal(answered_status(side), 0);
        side_pass(side, PAUSE_S * SECOND_US);
    }
    assert_false(side_is_offering(side, 1));
}

static void what_the_core_offers_no_more_is_closed(void **state)
{
    struct side *side = *state;
    begin_four(side);
    side->partitions[1].offered_id = 0; /* caught up */
    side_want(side, 5);
    assert_false(side_is_offering(side, 5));
    images_tick(side->images);
    side_want(side, 5);
    assert_true(side_is_offering(side, 5));
    side->partitions[2].offered_id = 0; /* the same, and it needs another one */
    side_want(side, 2);
    assert_false(side_is_offering(side, 2));
    side_want(side, 2);
    assert_true(side_is_offering(side, 2));
    assert_int_equal(count_withdrawn(side), 0);
}

/* Neither the core's refusal nor a lack of memory takes a place. */
static void what_cannot_be_offered_is_closed(void **state)
{
    struct side *side = *state;
    for (uint32_t group = 1; group <= LIMIT_STORE_IMAGES; group++) {
        side->partitions[group].offer_status = ERR_NOT_PRIMARY;
        side_want(side, group);
        side->partitions[group].offer_status = 0;
        for (uint64_t nth = 1; nth <= 2; nth++) { /* the store's allocation, and this module's */
            side->gates.of[MEM_IMAGE].refuse_in = nth;
            side_want(side, GROUPS);
        }
    }
    assert_int_equal(side->gates.of[MEM_IMAGE].refused, 2 * LIMIT_STORE_IMAGES);
    assert_int_equal(count_offers(side), 0);
    assert_int_equal(side->node.counters.images_offered, 0);
    for (uint32_t group = 1; group <= GROUPS; group++) {
        side_want(side, group);
        assert_int_equal(side_is_offering(side, group), group <= LIMIT_STORE_IMAGES);
    }
}

static void a_newer_one_waits_for_a_flush(void **state)
{
    struct side *side = *state;
    side_want_from(side, 1, 2);
    assert_false(side_is_offering(side, 1));
    assert_true(side->node.flush_is_wanted);
    side_put(side, 1, "key", "newer");
    side_want_from(side, 1, 2);
    assert_false(side_is_offering(side, 1));
    fixture_flush(&side->store);
    side_want_from(side, 1, 2);
    assert_int_equal(side->partitions[1].offered_index, 2);
}

static void one_that_is_refused_is_scrubbed(void **state)
{
    struct side *side = *state;
    Cairn__V1__ImageRequest asked = CAIRN__V1__IMAGE_REQUEST__INIT;
    begin_four(side);
    asked.group = 3;
    asked.id = side->partitions[3].offered_id;
    asked.is_refused = true;
    side_hear_question(side, &asked, 9);
    assert_int_equal(side->scrub.hurried, 3);
    assert_int_equal(side->partitions[3].withdrawn, 1);
    side_want(side, 5);
    assert_true(side_is_offering(side, 5));
}

/* It says so and is closed; the store knows that the replica is damaged. */
static void one_that_cannot_be_read_is_closed(void **state)
{
    struct side *side = *state;
    begin_four(side);
    assert_true(fixture_damage(&side->store, "the value that the image brings") >= 1);
    ask(side, 1);
    side_work(side);
    assert_int_equal(answered_status(side), ERR_CORRUPT);
    assert_true(store_replica_is_damaged(side->partitions[1].store));
    side->partitions[1].offered_id = 0;
    side_want(side, 1);
    assert_false(side_is_offering(side, 1));
    side_want(side, 5);
    assert_true(side_is_offering(side, 5));
}

/* On a full disk none is sent, but where the group can't go on without it. */
static void a_full_disk_is_left_to_others(void **state)
{
    struct side *side = *state;
    side->partitions[1].needs_no_image = side->partitions[3].needs_no_image = true;
    side_want(side, 1);
    side_want(side, 2);
    side->reserve.is_tight = true;
    images_tick(side->images);
    assert_int_equal(side->partitions[1].withdrawn, 1);
    assert_true(side_is_offering(side, 2));
    side_want(side, 3);
    assert_false(side_is_offering(side, 3));
    side_want(side, 4);
    assert_true(side_is_offering(side, 4));
    side->reserve.is_tight = false;
    side_want(side, 3);
    assert_true(side_is_offering(side, 3));
}

/* Flushes replace pages that open images keep, until these are half of what is free. */
static void fill_with_pinned_pages(struct side *side)
{
    static char text[100000];
    memset(text, 'x', sizeof text - 1);
    for (int i = 0; i < 40 && store_pinned(side->store.store) == STORE_PINNED_LITTLE; i++) {
        side_put(side, GROUPS, "large", text);
        fixture_flush(&side->store);
    }
    assert_int_equal(store_pinned(side->store.store), STORE_PINNED_MUCH);
}

static void the_oldest_gives_way_to_flushes(void **state)
{
    struct side *side = *state;
    side_want(side, 2);
    side_pass(side, HEARTBEAT_US);
    side_want(side, 1);
    fill_with_pinned_pages(side);
    images_tick(side->images);
    assert_int_equal(side->partitions[2].withdrawn, 1);
    assert_true(side_is_offering(side, 1));
    assert_int_equal(side->node.counters.images_given_up, 1);
    side_want(side, 2);
    assert_false(side_is_offering(side, 2)); /* for a while they go one at a time */
    for (int second = 0; second < 29; second++) {
        ask(side, 1);
        side_work(side);
        side_forget_mails(side);
        side_pass(side, SECOND_US);
        side_want(side, 2);
    }
    assert_true(side_is_offering(side, 1) && !side_is_offering(side, 2));
    side_pass(side, 1100 * 1000);
    side_want(side, 2);
    assert_true(side_is_offering(side, 1) && side_is_offering(side, 2));
}

/* --- Pieces */

static void questions_must_fit_an_image(void **state)
{
    struct side *side = *state;
    Cairn__V1__ImageRequest asked = CAIRN__V1__IMAGE_REQUEST__INIT;
    static uint8_t position[LIMIT_KEY_BYTES * 2 + 1];
    side_want(side, 1);
    asked.group = 1;
    asked.id = side->partitions[1].offered_id + 1;
    side_hear_question(side, &asked, 9);
    assert_int_equal(answered_status(side), ERR_NOT_FOUND);
    asked.id--;
    asked.group = 2;
    side_hear_question(side, &asked, 9);
    assert_int_equal(answered_status(side), ERR_NOT_FOUND);
    asked.group = 1;
    side->link.node_id = TO_NODE + 1; /* it was offered to another node */
    side_hear_question(side, &asked, 9);
    assert_int_equal(answered_status(side), ERR_NOT_FOUND);
    side->link.node_id = TO_NODE;
    asked.position = (ProtobufCBinaryData){ sizeof position, position };
    side_hear_question(side, &asked, 9);
    assert_int_equal(answered_status(side), ERR_BAD_REQUEST);
    asked.position.len = 0;
    side->gates.of[MEM_IMAGE].refuse_in = 1;
    side_hear_question(side, &asked, 9);
    assert_int_equal(answered_status(side), ERR_NO_MEMORY);
    side_hear_question(side, &asked, 9);
    side_hear_question(side, &asked, 10); /* while the first is read */
    assert_int_equal(answered_status(side), ERR_BUSY);
    side_work(side);
    assert_int_equal(only_mail(side)->frame.request_id, 9);
    assert_int_equal(answered_status(side), 0);
    assert_true(side_is_offering(side, 1));
}

static void pieces_leave_no_faster_than_the_rate(void **state)
{
    enum { VALUE = 10000, RATE = 20000, SECONDS = 30 };
    struct side *side = *state;
    static char text[VALUE];
    memset(text, 'x', sizeof text - 1);
    side_put(side, 1, "large", text);
    fixture_flush(&side->store);
    side->node.config.image_bytes_per_second = RATE;
    side_want(side, 1);
    side_pass(side, SECOND_US); /* the bucket holds a tenth of a second's */
    unsigned pieces = 0;
    ask(side, 1);
    for (int i = 0; i < 10 * SECONDS; i++) {
        side_work(side);
        if (side->conn.count > 0) {
            assert_int_equal(answered_status(side), 0);
            pieces++;
            ask(side, 1);
        }
        side_pass(side, HEARTBEAT_US);
    }
    assert_in_range(pieces * VALUE, RATE * (SECONDS - 1), RATE * (SECONDS + 1));
    assert_true(side->node.counters.image_bytes_sent >= pieces * VALUE);
}

/* Its read ends without it. */
static void a_node_ends_while_a_piece_is_read(void **state)
{
    struct side *side = *state;
    side_want(side, 1);
    ask(side, 1);
    assert_true(fake_env_work(&side->store.env));
    images_free(side->images);
    side->images = NULL;
    side_work(side);
    assert_int_equal(side->conn.count, 0);
}

/* The same for an image: it is closed when the read has ended, and says nothing more of itself. */
static void one_that_is_read_ends_later(void **state)
{
    struct side *side = *state;
    begin_four(side);
    ask(side, 1);
    side->partitions[1].offered_id = 0;
    images_tick(side->images);
    side_want(side, 5);
    assert_false(side_is_offering(side, 5));
    side_work(side);
    side_want(side, 5);
    assert_true(side_is_offering(side, 5));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(four_are_open_and_others_wait),
        TEST(a_place_that_nobody_has_asked_for_goes_to_another),
        TEST(one_that_was_asked_for_keeps_its_place_for_five_seconds),
        TEST(each_question_is_a_sign_of_life),
        TEST(a_place_is_kept_while_its_question_waits),
        TEST(a_place_is_not_kept_for_a_lost_question),
        TEST(one_that_nobody_asks_for_ends_by_itself),
        TEST(one_ends_after_a_quarter_of_an_hour),
        TEST(what_the_core_offers_no_more_is_closed),
        TEST(what_cannot_be_offered_is_closed),
        TEST(a_newer_one_waits_for_a_flush),
        TEST(one_that_is_refused_is_scrubbed),
        TEST(one_that_cannot_be_read_is_closed),
        TEST(a_full_disk_is_left_to_others),
        cmocka_unit_test_setup_teardown(the_oldest_gives_way_to_flushes, setup_small, teardown),
        TEST(questions_must_fit_an_image),
        TEST(pieces_leave_no_faster_than_the_rate),
        TEST(a_node_ends_while_a_piece_is_read),
        TEST(one_that_is_read_ends_later),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
