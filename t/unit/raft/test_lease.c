/* Shows when a leader may answer reads alone and when not, and how a replica learns how far behind
 * it is: the arithmetic of raft/lease.h, and stories of the whole core, every clock moved by hand.
 * Row 24 of the regression list: a lease rests on appends that were followed (not on other
 * messages), ends at a transfer, survives no follower's restart, and the promises behind it outlive
 * terms. In each story that breaks one of these, another replica could lead and acknowledge while
 * the old leader still answers. */
#include "raft_script.h"

enum { LEASE_MS = WORLD_T_MS * LEASE_PERCENT / 100 };

/* All clocks go on, nobody does anything. */
static void pass_time(struct world *w, uint64_t ms)
{
    for (int id = 1; id <= w->count; id++) {
        w->nodes[id].now_ms += ms;
    }
}

static int lease_of(struct world *w, int id)
{
    return raft_lease(world_raft(w, id), w->nodes[id].now_ms);
}

/* One heartbeat round of the leader with everybody; all clocks stand. */
static void heartbeat(struct world *w, int leader)
{
    world_tick(w, leader, WORLD_HEARTBEAT_MS);
    for (int id = 1; id <= w->count; id++) {
        w->nodes[id].now_ms += id == leader ? 0 : WORLD_HEARTBEAT_MS;
    }
    world_settle(w);
}

/* Replica 1 leads, everything is settled, and the lease is fresh. */
static struct world *led_world(int count)
{
    struct world *w = world_new(count);
    world_elect(w, 1);
    heartbeat(w, 1);
    assert_int_equal(lease_of(w, 1), 0);
    return w;
}

static struct raft_message vote_of(struct world *w, int from, int to, uint64_t term)
{
    struct raft *raft = world_raft(w, 1);
    return (struct raft_message){ .type = RAFT_VOTE,
                                  .from = (uint64_t)from,
                                  .to = (uint64_t)to,
                                  .term = term,
                                  .index = raft->last_index,
                                  .log_term = raft_term_at(raft, raft->last_index) };
}

/* --- The arithmetic */

static void confirmed_is_the_majoritys_newest(void **state)
{
    struct lease lease;
    lease_init(&lease, 1000, 100, false);
    assert_int_equal(lease.promise_until_ms, 0);
    assert_int_equal(lease_confirmed(&lease, 1, 0, 1005), 1005);
    assert_int_equal(lease_confirmed(&lease, 3, 0, 1005), 0);
    lease_heard_reply(&lease, 1, 7, 1003, 1005);
    assert_int_equal(lease_confirmed(&lease, 3, 0, 1005), 1003);
    assert_int_equal(lease_confirmed(&lease, 4, 0, 1005), 0); /* half is not a majority */
    lease_heard_reply(&lease, 2, 7, 1001, 1005);
    assert_int_equal(lease_confirmed(&lease, 3, 0, 1005), 1003);
    assert_int_equal(lease_confirmed(&lease, 5, 0, 1005), 1001);
    lease_heard_reply(&lease, 1, 8, 1002, 1006); /* late */
    assert_int_equal(lease_confirmed(&lease, 3, 0, 1006), 1003);
    lease_heard_reply(&lease, 1, 9, 2000, 1006); /* nobody can echo what was not sent yet */
    assert_int_equal(lease_confirmed(&lease, 3, 0, 1006), 1003);
    lease_enter_term(&lease);
    assert_int_equal(lease_confirmed(&lease, 3, 0, 1006), 0);
}

static void stamps_are_vouched_for_when_a_later_time_is_confirmed(void **state)
{
    struct lease lease;
    lease_init(&lease, 1000, 100, false);
    lease_heard_reply(&lease, 1, 501, 0, 1010);
    lease_vouch(&lease, 3, 1010); /* the same ms: which came first? */
    assert_int_equal(lease.peers[1].vouched_ms, 0);
    lease_heard_reply(&lease, 1, 502, 0, 1020);
    lease_heard_reply(&lease, 1, 503, 0, 1030); /* takes the place of 502 */
    lease_vouch(&lease, 3, 1011);
    assert_int_equal(lease.peers[1].vouched_ms, 501);
    lease_vouch(&lease, 3, 1030);
    assert_int_equal(lease.peers[1].vouched_ms, 501);
    lease_heard_reply(&lease, 1, 504, 0,
                      1040); /* 503 keeps its place, or answers that never stop would starve it */
    lease_vouch(&lease, 3, 1031);
    assert_int_equal(lease.peers[1].vouched_ms, 503);
    lease_vouch(&lease, 3, 2000);
    assert_int_equal(lease.peers[1].vouched_ms, 504);
    lease_peer_reset(&lease, 1); /* the next process there has another clock */
    assert_int_equal(lease.peers[1].vouched_ms, 0);
    assert_int_equal(lease.peers[1].waiting_count, 0);
}

static void claims_count_when_applied(void **state)
{
    struct lease lease;
    lease_init(&lease, 1000, 100, false);
    lease_heard_append(&lease, 1, 1005, 10, 1100);
    lease_heard_append(&lease, 2, 1010, 20, 1100);
    lease_heard_append(&lease, 3, 1015, 30, 1100); /* takes the place of the second */
    lease_heard_append(&lease, 3, 1015, 31, 1100); /* nothing new */
    assert_int_equal(lease.fresh_ms, 0);
    lease_applied(&lease, 9);
    assert_int_equal(lease.fresh_ms, 0);
    lease_applied(&lease, 29);
    assert_int_equal(lease.fresh_ms, 1005);
    lease_applied(&lease, 30);
    assert_int_equal(lease.fresh_ms, 1015);
    lease_applied(&lease, 29); /* an older image */
    assert_int_equal(lease.fresh_ms, 0);
    lease_heard_append(&lease, 4, 1020, 29, 1100);
    lease_applied(&lease, 29);
    assert_int_equal(lease.fresh_ms, 1020);
    lease_heard_append(&lease, 4, 999, 1, 1100);  /* of an earlier process */
    lease_heard_append(&lease, 4, 1101, 1, 1100); /* not reached yet */
    lease_heard_append(&lease, 4, 0, 1, 1100);
    assert_int_equal(lease.claim_count, 0);
}

/* --- Leases */

static void a_lease_lasts_a_part_of_the_timeout_from_the_sending(void **state)
{
    struct world *w = world_new(3);
    world_elect(w, 1);
    world_tick(w, 1, WORLD_HEARTBEAT_MS); /* the append leaves now */
    uint64_t sent = w->nodes[1].now_ms;
    w->nodes[1].now_ms += 15; /* and its answer comes later */
    world_settle(w);
    struct raft *leader = world_raft(w, 1);
    assert_int_equal(raft_lease(leader, sent + LEASE_MS - 1), 0);
    assert_int_equal(raft_lease(leader, sent + LEASE_MS), ERR_UNAVAILABLE);
    uint64_t sequence, index;
    assert_int_equal(raft_read(leader, &sequence, &index), 0); /* the other way is open */
    assert_int_equal(lease_of(w, 2), ERR_NOT_PRIMARY);
    world_free(w);
}

/* A process that slept looks at its clock after the read: no tick, no message has told it anything.
 */
static void a_leader_that_slept_finds_no_lease(void **state)
{
    struct world *w = led_world(3);
    w->nodes[1].now_ms += 10 * WORLD_T_MS;
    assert_int_equal(lease_of(w, 1), ERR_UNAVAILABLE);
    world_free(w);
}

static void a_majority_must_follow(void **state)
{
    struct world *w = led_world(5);
    for (int id = 3; id <= 5; id++) {
        world_isolate(w, id, true);
    }
    int held_ms = 0;
    for (; lease_of(w, 1) == 0; held_ms += WORLD_HEARTBEAT_MS) {
        assert_true(held_ms <= LEASE_MS);
        heartbeat(w, 1);
    }
    assert_int_equal(world_raft(w, 1)->role, RAFT_LEADER); /* check-quorum comes later */
    world_isolate(w, 3, false);
    raft_peer_reset(world_raft(w, 1), 3); /* a probe goes at once */
    world_turn(w, 1);
    world_settle(w);
    assert_int_equal(lease_of(w, 1), 0);
    world_free(w);
}

static void only_appends_count(void **state)
{
    struct world *w = led_world(3);
    struct raft *leader = world_raft(w, 1);
    pass_time(w, LEASE_MS + 1);
    uint64_t sequence, index;
    assert_int_equal(raft_read(leader, &sequence, &index), 0);
    assert_true(raft_read_send(leader, 2));
    world_turn(w, 1);
    world_drop(w, 1, 0, RAFT_APPEND);
    world_pass(w, 1, 2, RAFT_READ);
    world_pass(w, 2, 1, RAFT_READ_REPLY);
    assert_true(leader->read_confirmed >= sequence);
    assert_int_equal(lease_of(w, 1), ERR_UNAVAILABLE);
    world_free(w);
}

/* An answer to an append of long ago renews nothing, however late it comes. */
static void a_late_answer_renews_nothing(void **state)
{
    struct world *w = led_world(3);
    world_tick(w, 1, WORLD_HEARTBEAT_MS);
    struct world_packet append = world_take(w, 1, 2, RAFT_APPEND);
    world_drop(w, 0, 0, 0);
    pass_time(w, LEASE_MS);
    world_deliver(w, append);
    world_pass(w, 2, 1, RAFT_APPEND_REPLY);
    assert_int_equal(lease_of(w, 1), ERR_UNAVAILABLE);
    world_free(w);
}

static void no_lease_before_the_noop_is_committed(void **state)
{
    struct world *w = world_new(3);
    world_time_out(w, 1);
    world_pass(w, 1, 2, RAFT_PRE_VOTE);
    world_pass(w, 2, 1, RAFT_PRE_VOTE_REPLY);
    world_pass(w, 1, 2, RAFT_VOTE);
    world_pass(w, 2, 1, RAFT_VOTE_REPLY);
    world_pass(w, 1, 2, RAFT_APPEND); /* a probe: followed */
    world_pass(w, 2, 1, RAFT_APPEND_REPLY);
    assert_true(world_raft(w, 1)->lease.peers[1].followed_ms != 0);
    assert_int_equal(lease_of(w, 1), ERR_UNAVAILABLE);
    world_pass(w, 1, 2, RAFT_APPEND);
    world_pass(w, 2, 1, RAFT_APPEND_REPLY);
    assert_int_equal(lease_of(w, 1), 0);
    world_free(w);
}

static void a_lease_ends_with_leadership_and_starts_anew(void **state)
{
    struct world *w = led_world(3);
    raft_step_down(world_raft(w, 1));
    assert_int_equal(lease_of(w, 1), ERR_NOT_PRIMARY);
    world_tick(w, 1, 0);
    world_elect(w, 2);
    assert_int_equal(lease_of(w, 2), 0);
    assert_int_equal(lease_of(w, 1), ERR_NOT_PRIMARY);
    world_free(w);
}

/* A transfer ends it at once, and for the rest of the term once the order left: the transferee's
 * campaign asks for votes that pass by every promise, and may reach the others at any time. */
static void a_transfer_ends_the_lease(void **state)
{
    struct world *w = led_world(3);
    assert_int_equal(raft_transfer(world_raft(w, 1), 2), 0);
    assert_int_equal(lease_of(w, 1), ERR_UNAVAILABLE);
    world_turn(w, 1);
    struct world_packet order = world_take(w, 1, 2, RAFT_TRANSFER);
    for (int i = 0; i < 2 * WORLD_T_MS / WORLD_HEARTBEAT_MS; i++) {
        heartbeat(w, 1);
        world_drop(w, 1, 2, RAFT_TRANSFER);
        if (world_raft(w, 1)->role != RAFT_LEADER) {
            break;
        }
        assert_int_equal(lease_of(w, 1), ERR_UNAVAILABLE);
    }
    /* The late order is obeyed at once, though everybody just heard replica 1. */
    if (world_raft(w, 1)->role == RAFT_LEADER) {
        world_isolate(w, 1, true);
        world_deliver(w, order);
        world_settle(w);
        assert_int_equal(world_raft(w, 2)->role, RAFT_LEADER);
        assert_int_equal(lease_of(w, 1), ERR_UNAVAILABLE);
    } else {
        free(order.entries);
    }
    world_free(w);
}

/* A transfer that could not even be ordered leaves no trace: the lease comes back when it is given
 * up. */
static void a_transfer_that_was_not_ordered_only_interrupts(void **state)
{
    struct world *w = led_world(3);
    w->nodes[2].manual_disk = true;
    world_propose(w, 1, 1);
    world_settle(w); /* replica 2 lags: its disk is busy */
    assert_int_equal(raft_transfer(world_raft(w, 1), 2), 0);
    heartbeat(w, 1);
    assert_int_equal(lease_of(w, 1), ERR_UNAVAILABLE);
    for (int i = 0; i <= WORLD_T_MS / WORLD_HEARTBEAT_MS; i++) {
        heartbeat(w, 1);
    }
    assert_int_equal(world_raft(w, 1)->transfer_to, 0);
    assert_int_equal(lease_of(w, 1), 0);
    world_free(w);
}

/* --- Promises */

static void a_promise_lasts_from_the_moment_of_following(void **state)
{
    struct world *w = led_world(3);
    uint64_t term = world_raft(w, 1)->term;
    /* Replica 2 slept; when it wakes a heartbeat comes before its first tick. */
    world_tick(w, 1, WORLD_HEARTBEAT_MS);
    w->nodes[2].now_ms += 5 * WORLD_T_MS;
    world_pass(w, 1, 2, RAFT_APPEND);
    w->nodes[2].now_ms += WORLD_T_MS - 1;
    world_say(w, vote_of(w, 3, 2, term + 1), NULL);
    assert_int_equal(world_raft(w, 2)->term, term);
    w->nodes[2].now_ms += 1;
    world_drop(w, 2, 0, 0);
    world_say(w, vote_of(w, 3, 2, term + 1), NULL);
    assert_true(world_look(w, 2, 3, RAFT_VOTE_REPLY).granted);
    world_free(w);
}

/* Somebody tells replica 2 of a newer term right after it followed an append. The leader holds a
 * lease by that, so replica 2 must not help to elect another one in the newer term yet. */
static void a_promise_outlives_its_term(void **state)
{
    struct world *w = led_world(3);
    uint64_t term = world_raft(w, 1)->term;
    struct raft_message refusal = {
        .type = RAFT_PRE_VOTE_REPLY, .from = 3, .to = 2, .term = term + 3
    };
    world_say(w, refusal, NULL);
    assert_int_equal(world_raft(w, 2)->term, term + 3);
    assert_int_equal(world_raft(w, 2)->leader, 0);
    struct raft_message ask = vote_of(w, 3, 2, term + 4);
    ask.type = RAFT_PRE_VOTE;
    world_say(w, ask, NULL);
    assert_int_equal(world_count(w, 2, 3, RAFT_PRE_VOTE_REPLY), 0);
    world_say(w, vote_of(w, 3, 2, term + 4), NULL);
    assert_int_equal(world_raft(w, 2)->term, term + 3);
    world_say(w, vote_of(w, 3, 2, term + 3), NULL); /* in its very term */
    assert_false(world_look(w, 2, 3, RAFT_VOTE_REPLY).granted);
    assert_int_equal(lease_of(w, 1), 0); /* that is why */
    world_tick(w, 2, WORLD_T_MS - 1);
    world_drop(w, 2, 0, 0);
    world_say(w, vote_of(w, 3, 2, term + 3), NULL);
    assert_false(world_look(w, 2, 3, RAFT_VOTE_REPLY).granted);
    w->nodes[2].now_ms += 1;
    world_say(w, vote_of(w, 3, 2, term + 3), NULL);
    assert_true(world_look(w, 2, 3, RAFT_VOTE_REPLY).granted);
    world_free(w);
}

static void a_restarted_follower_waits(void **state)
{
    struct world *w = led_world(3);
    uint64_t term = world_raft(w, 1)->term;
    world_restart(w, 2);
    world_say(w, vote_of(w, 3, 2, term + 1), NULL);
    assert_int_equal(world_raft(w, 2)->term, term);
    assert_int_equal(lease_of(w, 1), 0);
    struct raft_message ordered = vote_of(w, 3, 2, term + 1);
    ordered.transfer = true; /* an order stands above promises: its leader gave up the lease */
    world_say(w, ordered, NULL);
    assert_true(world_look(w, 2, 3, RAFT_VOTE_REPLY).granted);
    world_restart(w, 2);
    w->nodes[2].now_ms += WORLD_T_MS;
    world_say(w, vote_of(w, 3, 2, term + 2), NULL);
    assert_true(world_look(w, 2, 3, RAFT_VOTE_REPLY).granted);
    world_free(w);
}

/* --- Staleness */

static void replicas_learn_how_fresh_they_are(void **state)
{
    struct world *w = led_world(3);
    struct raft *follower = world_raft(w, 2);
    raft_applied(follower, follower->commit);
    assert_int_equal(follower->lease.fresh_ms, 0); /* one round is not enough */
    for (int i = 0; i < 3; i++) {
        heartbeat(w, 1);
    }
    raft_applied(follower, follower->commit);
    uint64_t behind = w->nodes[2].now_ms - follower->lease.fresh_ms;
    assert_in_range(behind, 1, 3 * WORLD_HEARTBEAT_MS);
    /* What it has not applied yet makes it no fresher. */
    uint64_t before = follower->lease.fresh_ms, applied = follower->commit;
    world_propose(w, 1, 1);
    world_settle(w);
    for (int i = 0; i < 4; i++) {
        heartbeat(w, 1);
        raft_applied(follower, applied);
    }
    assert_true(follower->lease.fresh_ms <= before + 2 * WORLD_HEARTBEAT_MS);
    raft_applied(follower, follower->commit);
    assert_true(follower->lease.fresh_ms > before + 2 * WORLD_HEARTBEAT_MS);
    world_free(w);
}

/* Replica 1 is cut off with replica 4 on its side, but does not know it yet; the others elect. What
 * replica 1 tells replica 4 must not make it believe that it is up to date. */
static void a_deposed_leader_vouches_for_nothing(void **state)
{
    struct world *w = led_world(5);
    for (int i = 0; i < 3; i++) {
        heartbeat(w, 1);
    }
    for (int one = 1; one <= 4; one += 3) {
        for (int other = 1; other <= 5; other++) {
            bool is_together = other == 1 || other == 4;
            w->blocked[one][other] = w->blocked[other][one] = !is_together;
        }
    }
    uint64_t leader_cut_at = w->nodes[1].now_ms, cut_at = w->nodes[4].now_ms;
    for (int i = 0; i < WORLD_T_MS / WORLD_HEARTBEAT_MS - 1; i++) {
        heartbeat(w, 1);
        raft_applied(world_raft(w, 4), world_raft(w, 4)->commit);
    }
    assert_int_equal(world_raft(w, 1)->role, RAFT_LEADER);
    assert_true(world_raft(w, 4)->lease.fresh_ms <= cut_at);
    raft_applied(world_raft(w, 1), world_raft(w, 1)->commit);
    assert_true(world_raft(w, 1)->lease.fresh_ms <= leader_cut_at);
    world_free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(confirmed_is_the_majoritys_newest),
        cmocka_unit_test(stamps_are_vouched_for_when_a_later_time_is_confirmed),
        cmocka_unit_test(claims_count_when_applied),
        cmocka_unit_test(a_lease_lasts_a_part_of_the_timeout_from_the_sending),
        cmocka_unit_test(a_leader_that_slept_finds_no_lease),
        cmocka_unit_test(a_majority_must_follow),
        cmocka_unit_test(only_appends_count),
        cmocka_unit_test(a_late_answer_renews_nothing),
        cmocka_unit_test(no_lease_before_the_noop_is_committed),
        cmocka_unit_test(a_lease_ends_with_leadership_and_starts_anew),
        cmocka_unit_test(a_transfer_ends_the_lease),
        cmocka_unit_test(a_transfer_that_was_not_ordered_only_interrupts),
        cmocka_unit_test(a_promise_lasts_from_the_moment_of_following),
        cmocka_unit_test(a_promise_outlives_its_term),
        cmocka_unit_test(a_restarted_follower_waits),
        cmocka_unit_test(replicas_learn_how_fresh_they_are),
        cmocka_unit_test(a_deposed_leader_vouches_for_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
