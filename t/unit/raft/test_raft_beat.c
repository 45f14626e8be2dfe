/* Shows what the heartbeats of a group at rest shrink to (raft_beat.c, I20 of raft.c): when a beat takes the place of an append, that it
 * does what the append did for elections, leases and staleness, that whoever has something to say refuses it, and that beats and
 * answers of other terms do nothing. */
#include "raft_script.h"

enum {
    LEASE_MS = WORLD_T_MS * LEASE_PERCENT / 100,
    BEATS = 40, /* more than between two whole heartbeats */
};

/* A heartbeat's time passes for everybody, and nothing is delivered. */
static void let_beat(struct world *w, int leader)
{
    for (int id = 1; id <= w->count; id++) {
        if (id != leader && w->nodes[id].is_up) {
            world_tick(w, id, WORLD_HEARTBEAT_MS);
        }
    }
    world_tick(w, leader, WORLD_HEARTBEAT_MS);
}

static bool beats_only(struct world *w, int leader)
{
    return world_count(w, leader, 0, RAFT_APPEND) == 0 &&
           world_count(w, leader, 0, WORLD_BEAT) == w->count - 1;
}

/* Until the leader's next heartbeats are beats, which are under way then. */
static void come_to_rest(struct world *w, int leader)
{
    let_beat(w, leader);
    for (int i = 0; !beats_only(w, leader); i++) {
        assert_true(i < BEATS);
        world_settle(w);
        let_beat(w, leader);
    }
}

/* Replica 1 leads, and all are at rest; beats to everybody are under way. */
static struct world *resting_world(int count)
{
    struct raft_config config = { .seed = 1, .beats = true };
    struct world *w = world_new_with(count, &config);
    world_elect(w, 1);
    come_to_rest(w, 1);
    return w;
}

/* Three that have written something and are at rest again, nothing under way. */
static struct world *world_that_wrote(void)
{
    struct world *w = resting_world(3);
    world_settle(w);
    world_propose(w, 1, 3);
    world_settle(w);
    come_to_rest(w, 1);
    world_settle(w);
    return w;
}

static uint64_t term_of(struct world *w)
{
    return world_raft(w, 1)->term;
}

static int lease_of(struct world *w, int id)
{
    return raft_lease(world_raft(w, id), w->nodes[id].now_ms);
}

/* Nobody campaigns, the lease lasts, what replicas hold is two or three heartbeats old. */
static void a_group_at_rest_lives_on_beats(void **state)
{
    struct world *w = resting_world(5);
    uint64_t term = term_of(w);
    int whole = 0;
    for (int i = 0; i < 20 * BEATS; i++) {
        whole += world_count(w, 1, 0, RAFT_APPEND);
        world_settle(w);
        assert_int_equal(lease_of(w, 1), 0);
        for (int id = 1; id <= w->count; id++) {
            struct raft *raft = world_raft(w, id);
            raft_applied(raft, raft->commit);
            assert_true(raft->lease.fresh_ms + 3 * WORLD_HEARTBEAT_MS >= w->nodes[id].now_ms);
            assert_int_equal(raft->leader, 1);
        }
        let_beat(w, 1);
    }
    assert_int_equal(term_of(w), term);
    assert_true(whole > 0 && whole < 20 * BEATS * 4 / 10); /* a whole one now and then */
    assert_int_equal(w->nodes[2].beats_refused, 0);
    world_free(w);
}

static void news_goes_by_appends_until_all_is_told(void **state)
{
    struct world *w = resting_world(3);
    world_settle(w);
    uint64_t index = world_propose(w, 1, 1);
    assert_int_equal(world_count(w, 1, 0, WORLD_BEAT), 0);
    assert_int_equal(world_count(w, 1, 0, RAFT_APPEND), 2);
    world_settle(w);
    assert_int_equal(world_raft(w, 1)->commit, index);
    assert_true(world_raft(w, 2)->commit < index);
    let_beat(w, 1); /* a beat would not tell of the commit */
    assert_int_equal(world_count(w, 1, 0, WORLD_BEAT), 0);
    world_settle(w);
    assert_int_equal(world_raft(w, 2)->commit, index);
    come_to_rest(w, 1);
    world_free(w);
}

/* An entry that one follower lacks: only the other's heartbeats are beats. Nor while an append is unanswered. */
static void only_who_has_acknowledged_all_hears_beats(void **state)
{
    struct world *w = resting_world(3);
    world_settle(w);
    world_propose(w, 1, 1);
    world_drop(w, 1, 3, 0);
    world_settle(w);
    for (int i = 0; i < 4; i++) {
        let_beat(w, 1);
        assert_int_equal(world_count(w, 1, 3, WORLD_BEAT), 0);
        world_drop(w, 1, 3, 0);
        world_settle(w);
    }
    assert_true(world_raft(w, 1)->progress[1].is_settled);
    world_settle(w);
    come_to_rest(w, 1); /* what was lost is sent again */
    world_free(w);
}

static void who_flushed_refuses_and_is_heard(void **state)
{
    struct world *w = world_that_wrote();
    for (int id = 1; id <= 3; id++) {
        world_flush_store(w, id);
    }
    uint64_t commit = world_raft(w, 1)->commit;
    assert_true(world_raft(w, 1)->cut < commit);
    let_beat(w, 1);
    assert_int_equal(world_count(w, 1, 2, WORLD_BEAT), 1);
    world_pass(w, 1, 2, WORLD_BEAT);
    assert_false(world_pass(w, 2, 1, WORLD_BEAT_ANSWER).granted);
    assert_int_equal(world_count(w, 1, 2, RAFT_APPEND), 1); /* at once */
    world_settle(w);
    assert_int_equal(world_raft(w, 1)->cut, commit);
    let_beat(w, 1); /* the cut is news */
    assert_int_equal(world_count(w, 1, 2, WORLD_BEAT), 0);
    world_settle(w);
    assert_int_equal(world_raft(w, 2)->cut, commit);
    come_to_rest(w, 1);
    world_free(w);
}

/* An image took away the mark that was told, and there is no other yet. */
static void who_got_an_image_comes_to_rest(void **state)
{
    struct world *w = world_that_wrote();
    struct raft *raft = world_raft(w, 2);
    world_flush_store(w, 2);
    raft_mark(raft, raft->flushed, 4711);
    come_to_rest(w, 1);
    world_settle(w);
    assert_true(raft_image_installed(raft, raft->commit, raft_term_at(raft, raft->commit)));
    world_log_effects(&w->nodes[2], NULL);
    come_to_rest(w, 1);
    world_settle(w);
    come_to_rest(w, 1);
    uint64_t refused = w->nodes[2].beats_refused;
    for (int i = 0; i < BEATS; i++) {
        world_settle(w);
        let_beat(w, 1);
    }
    assert_int_equal(w->nodes[2].beats_refused, refused);
    world_free(w);
}

/* A follower that is in no state to be counted on says so. */
static void who_is_damaged_or_suspect_refuses(void **state)
{
    for (int way = 0; way < 4; way++) {
        struct world *w = resting_world(3);
        struct raft *raft = world_raft(w, 2);
        if (way == 0) {
            raft_need_image(raft);
        } else if (way == 1) {
            raft_suspect(raft);
        } else if (way == 2) {
            raft_holes(raft, raft->last_index, raft->last_index);
        } else {
            raft_take(raft, RAFT_ROOM_NONE);
        }
        world_log_effects(&w->nodes[2], NULL);
        struct world_packet beat = world_take(w, 1, 2, WORLD_BEAT);
        uint64_t promised = raft->lease.promise_until_ms;
        world_deliver(w, beat);
        assert_int_equal(w->nodes[2].beats_refused, 1);
        assert_int_equal(raft->lease.promise_until_ms, promised);
        world_free(w);
    }
}

static void another_term_refuses_and_the_leader_learns_it(void **state)
{
    struct world *w = resting_world(3);
    uint64_t term = term_of(w);
    struct raft_message refusal = {
        .type = RAFT_PRE_VOTE_REPLY, .from = 3, .to = 2, .term = term + 3
    };
    world_say(w, refusal, NULL);
    assert_int_equal(world_raft(w, 2)->term, term + 3);
    world_pass(w, 1, 2, WORLD_BEAT);
    assert_int_equal(world_raft(w, 2)->leader, 0);
    assert_false(world_pass(w, 2, 1, WORLD_BEAT_ANSWER).granted);
    world_pass(w, 1, 2, RAFT_APPEND);
    world_pass(w, 2, 1, RAFT_APPEND_REPLY);
    assert_int_equal(world_raft(w, 1)->role, RAFT_FOLLOWER);
    world_free(w);
}

/* A beat and an answer were under way for long: meanwhile the same replica was elected anew. */
static void late_ones_of_an_earlier_term_do_nothing(void **state)
{
    struct world *w = resting_world(3);
    struct world_packet beat = world_take(w, 1, 2, WORLD_BEAT);
    struct world_packet other = world_take(w, 1, 3, WORLD_BEAT);
    world_deliver(w, other);
    struct world_packet answer = world_take(w, 3, 1, WORLD_BEAT_ANSWER);
    world_drop(w, 0, 0, 0);
    raft_step_down(world_raft(w, 1));
    world_tick(w, 1, 0);
    world_elect(w, 2);
    world_elect(w, 1);
    come_to_rest(w, 1);
    world_drop(w, 0, 0, 0);
    struct raft *leader = world_raft(w, 1);
    for (int id = 1; id <= 3; id++) {
        w->nodes[id].now_ms += LEASE_MS;
    }
    uint64_t heard = leader->progress[2].heard_ms;
    uint64_t promised = world_raft(w, 2)->lease.promise_until_ms;
    world_deliver(w, beat);
    assert_int_equal(w->nodes[2].beats_refused, 1);
    assert_int_equal(world_raft(w, 2)->lease.promise_until_ms, promised);
    assert_true(answer.message.granted);
    world_deliver(w, answer);
    assert_int_equal(leader->progress[2].heard_ms, heard);
    assert_int_equal(lease_of(w, 1), ERR_UNAVAILABLE);
    world_free(w);
}

/* Of this term, but late: it counts from when it was made. */
static void a_late_answer_renews_no_lease(void **state)
{
    struct world *w = resting_world(3);
    struct world_packet beat = world_take(w, 1, 2, WORLD_BEAT);
    uint64_t sent = w->nodes[1].now_ms;
    world_drop(w, 0, 0, 0);
    w->nodes[1].now_ms += LEASE_MS - 1;
    w->nodes[2].now_ms += LEASE_MS - 1;
    world_deliver(w, beat);
    assert_true(world_pass(w, 2, 1, WORLD_BEAT_ANSWER).granted);
    assert_int_equal(raft_lease(world_raft(w, 1), sent + LEASE_MS - 1), 0);
    assert_int_equal(raft_lease(world_raft(w, 1), sent + LEASE_MS), ERR_UNAVAILABLE);
    world_free(w);
}

static void beats_that_get_lost_are_missed(void **state)
{
    struct world *w = resting_world(3);
    uint64_t term = term_of(w);
    for (int ms = 0; ms <= 2 * WORLD_T_MS; ms += WORLD_HEARTBEAT_MS) {
        world_drop(w, 1, 0, 0);
        let_beat(w, 1);
        world_drop(w, 0, 1, 0);
        for (int at; (at = world_find(w, 2, 3, 0)) >= 0 || (at = world_find(w, 3, 2, 0)) >= 0;) {
            world_deliver(w, world_packet_take(w, at));
        }
    }
    assert_int_not_equal(world_raft(w, 1)->role, RAFT_LEADER);
    assert_true(world_raft(w, 2)->term > term);
    assert_true(world_raft(w, 2)->role == RAFT_LEADER || world_raft(w, 3)->role == RAFT_LEADER);
    world_free(w);
}

static void handing_over_is_no_rest(void **state)
{
    struct world *w = resting_world(3);
    w->nodes[2].manual_disk = true;
    world_settle(w);
    world_propose(w, 1, 1);
    world_settle(w);
    assert_int_equal(raft_transfer(world_raft(w, 1), 2), 0);
    let_beat(w, 1);
    assert_int_equal(world_count(w, 1, 0, WORLD_BEAT), 0);
    w->nodes[2].manual_disk = false;
    world_sync(w, 2);
    world_settle(w);
    assert_int_equal(world_raft(w, 2)->role, RAFT_LEADER);
    come_to_rest(w, 2);
    world_free(w);
}

/* What was acknowledged on a connection that broke says nothing of who answers now. */
static void a_new_connection_begins_with_appends(void **state)
{
    struct world *w = resting_world(3);
    struct world_packet beat = world_take(w, 1, 2, WORLD_BEAT);
    world_deliver(w, beat);
    raft_peer_reset(world_raft(w, 1), 2);
    world_pass(w, 2, 1, WORLD_BEAT_ANSWER);
    let_beat(w, 1);
    assert_int_equal(world_count(w, 1, 2, WORLD_BEAT), 0);
    assert_true(world_count(w, 1, 2, RAFT_APPEND) > 0);
    world_settle(w);
    come_to_rest(w, 1);
    world_free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_group_at_rest_lives_on_beats),
        cmocka_unit_test(news_goes_by_appends_until_all_is_told),
        cmocka_unit_test(only_who_has_acknowledged_all_hears_beats),
        cmocka_unit_test(who_flushed_refuses_and_is_heard),
        cmocka_unit_test(who_got_an_image_comes_to_rest),
        cmocka_unit_test(who_is_damaged_or_suspect_refuses),
        cmocka_unit_test(another_term_refuses_and_the_leader_learns_it),
        cmocka_unit_test(late_ones_of_an_earlier_term_do_nothing),
        cmocka_unit_test(a_late_answer_renews_no_lease),
        cmocka_unit_test(beats_that_get_lost_are_missed),
        cmocka_unit_test(handing_over_is_no_rest),
        cmocka_unit_test(a_new_connection_begins_with_appends),
    };
    return cmocka_run_group_tests_name("raft_beat", tests, NULL, NULL);
}
