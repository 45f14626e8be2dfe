/* Shows what damage to a replica's log costs and what it doesn't: payloads come back from whoever
 * has them, whatever the role; a replica that lost entries counts for nothing until a leader that
 * was elected without it has made it whole. And how replicas tell whose store holds the wrong thing. */
#include "raft_script.h"

static int leader_of(struct world *w)
{
    for (int id = 1; id <= w->count; id++) {
        if (w->nodes[id].is_up && world_raft(w, id)->role == RAFT_LEADER) {
            return id;
        }
    }
    return 0;
}

/* Three replicas with entries to 9 everywhere, committed everywhere; replica 1 leads. */
static struct world *world_of_nine(void)
{
    struct world *w = world_new(3);
    world_elect(w, 1);
    world_propose(w, 1, 8);
    world_run(w, 2 * WORLD_HEARTBEAT_MS);
    for (int id = 1; id <= 3; id++) {
        assert_int_equal(world_raft(w, id)->commit, 9);
    }
    return w;
}

static void a_restarted_follower_gets_back_what_it_lost(void **state)
{
    struct world *w = world_of_nine();
    world_crash(w, 2);
    world_rot(w, 2, 5);
    world_node_start(w, 2);
    assert_int_equal(world_raft(w, 2)->hole, 5);
    raft_peer_reset(world_raft(w, 1), 2);
    world_turn(w, 1);
    world_pass(w, 1, 2, RAFT_APPEND);
    struct raft_message m = world_pass(w, 2, 1, RAFT_APPEND_REPLY);
    assert_true(m.granted);
    assert_int_equal(m.index, 4); /* nothing from the hole on */
    assert_int_equal(m.hint, 5);
    m = world_pass(w, 1, 2, RAFT_APPEND);
    assert_int_equal(m.index, 4);
    assert_int_equal(world_raft(w, 2)->hole, 0);
    m = world_pass(w, 2, 1, RAFT_APPEND_REPLY);
    assert_int_equal(m.index, 9);
    assert_int_equal(m.hint, 0);
    assert_int_equal(w->nodes[2].filled, 1);
    world_free(w);
}

/* The hole counts only when it is durably filled. */
static void a_hole_found_at_run_time_is_filled_and_counts_when_durable(void **state)
{
    struct world *w = world_of_nine();
    w->nodes[3].manual_disk = true;
    world_rot(w, 3, 7);
    world_look(w, 3, 1, RAFT_APPEND_REPLY);
    world_tick(w, 1, WORLD_HEARTBEAT_MS);
    world_drop(w, 1, 2, 0);
    world_pass(w, 1, 3, RAFT_APPEND);
    world_pass(w, 3, 1, RAFT_APPEND_REPLY);
    world_pass(w, 1, 3, RAFT_APPEND);
    assert_int_equal(world_raft(w, 3)->hole, 7);
    assert_int_equal(world_raft(w, 3)->unfilled, 0);
    world_drop(w, 3, 1, 0);
    world_sync(w, 3);
    assert_int_equal(world_raft(w, 3)->hole, 0);
    assert_int_equal(world_pass(w, 3, 1, RAFT_APPEND_REPLY).index, 9);
    world_free(w);
}

/* No entry is lost whose header survives on a majority and whose payload survives on one replica:
 * entry 5's payload is left on 1 only, entry 6's on 2 only, 7's on 3 only; whoever leads. */
static void one_payload_of_each_entry_suffices(void **state)
{
    for (int first = 1; first <= 3; first++) {
        struct world *w = world_of_nine();
        struct world_entry before[10];
        memcpy(before, w->nodes[1].log, sizeof(before));
        for (int id = 1; id <= 3; id++) {
            world_crash(w, id);
            for (int k = 0; k < 3; k++) {
                if (k + 1 != id) {
                    world_rot(w, id, (uint64_t)(5 + k));
                }
            }
        }
        world_drop(w, 0, 0, 0);
        for (int id = 1; id <= 3; id++) {
            world_node_start(w, id);
        }
        world_elect(w, first);
        world_run(w, 10 * WORLD_T_MS);
        int leader = leader_of(w);
        assert_int_not_equal(leader, 0);
        world_propose(w, leader, 1);
        world_run(w, WORLD_T_MS);
        for (int id = 1; id <= 3; id++) {
            assert_true(world_raft(w, id)->commit >= 11);
            assert_int_equal(world_raft(w, id)->hole, 0);
            for (uint64_t i = 1; i <= 9; i++) {
                assert_true(world_has_payload(&w->nodes[id], i));
                assert_int_equal(w->nodes[id].log[i].value, before[i].value);
            }
        }
        world_free(w);
    }
}

/* A leader asks for the next payload as soon as it has one: many holes take many round trips, not
 * many heartbeats. */
static void a_leader_gets_back_many_payloads_without_waiting(void **state)
{
    struct world *w = world_of_nine();
    for (uint64_t index = 3; index <= 8; index++) {
        world_rot(w, 1, index);
    }
    uint64_t began = w->nodes[1].now_ms;
    world_settle(w);
    assert_int_equal(w->nodes[1].now_ms, began);
    assert_int_equal(w->nodes[1].filled, 6);
    assert_int_equal(world_raft(w, 1)->hole, 0);
    assert_int_equal(world_raft(w, 1)->unfilled, 0);
    world_free(w);
}

/* A leader sends, applies and counts nothing from the hole on; when nobody can help it gives way.
 */
static void a_leader_nobody_can_help_steps_down(void **state)
{
    struct world *w = world_of_nine();
    for (int id = 1; id <= 3; id++) {
        world_crash(w, id);
        world_rot(w, id, 6);
        world_node_start(w, id);
    }
    world_drop(w, 0, 0, 0);
    world_elect(w, 2);
    struct raft *raft = world_raft(w, 2);
    assert_int_equal(raft->role, RAFT_LEADER);
    uint64_t began = w->nodes[2].now_ms;
    while (raft->role == RAFT_LEADER && w->nodes[2].now_ms < began + 10 * WORLD_T_MS) {
        world_run(w, 10);
        assert_true(raft->commit < 10);
    }
    assert_int_equal(raft->role, RAFT_FOLLOWER);
    assert_in_range(w->nodes[2].now_ms - began, WORLD_T_MS, 3 * WORLD_T_MS);
    world_free(w);
}

/* Only a later leader's conflict erases a hole. */
static void a_conflict_erases_a_hole(void **state)
{
    struct world *w = world_of_nine();
    world_isolate(w, 1, true);
    world_propose(w, 1, 2); /* 10, 11: on replica 1 only */
    world_crash(w, 1);
    world_rot(w, 1, 10);
    world_node_start(w, 1);
    assert_int_equal(world_raft(w, 1)->hole, 10);
    world_elect(w, 2);
    world_propose(w, 2, 1);
    world_isolate(w, 1, false);
    world_run(w, 4 * WORLD_HEARTBEAT_MS);
    assert_int_equal(world_raft(w, 1)->hole, 0);
    assert_int_equal(w->nodes[1].filled, 0);
    assert_int_equal(world_raft(w, 1)->commit, world_raft(w, 2)->commit);
    world_free(w);
}

/* --- Suspects. */

static void lose(struct world *w, int id, uint64_t last)
{
    world_crash(w, id);
    world_lose(w, id, last);
    world_drop(w, id, 0, 0);
    world_drop(w, 0, id, 0);
    world_node_start(w, id);
}

static void a_suspect_counts_for_nothing_and_heals(void **state)
{
    struct world *w = world_of_nine();
    lose(w, 2, 4);
    struct raft *suspect = world_raft(w, 2), *leader = world_raft(w, 1);
    assert_true(suspect->is_suspect);
    world_crash(w, 3);
    /* With the third one down nothing is committed: the suspect takes entries and is not counted.
     */
    raft_peer_reset(leader, 2);
    uint64_t index = world_propose(w, 1, 1);
    world_run(w, 2 * WORLD_HEARTBEAT_MS);
    assert_int_equal(suspect->durable_index, index);
    assert_int_equal(leader->commit, 9);
    assert_true(suspect->is_suspect);
    world_run(w, 2 * WORLD_T_MS);
    assert_int_equal(leader->role, RAFT_PRE_CANDIDATE); /* it heard no majority */
    /* Not as a voter either, nor as a candidate. */
    world_run(w, 10 * WORLD_T_MS);
    assert_int_equal(leader_of(w), 0);
    assert_int_equal(suspect->role, RAFT_FOLLOWER);
    /* A leader elected without it makes it whole. */
    world_node_start(w, 3);
    world_run(w, 10 * WORLD_T_MS);
    assert_int_not_equal(leader_of(w), 0);
    assert_int_not_equal(leader_of(w), 2);
    assert_false(suspect->is_suspect);
    assert_false(w->nodes[2].disk_is_suspect);
    assert_int_equal(w->nodes[2].heals, 1);
    assert_true(suspect->commit >= index);
    /* Then it counts: the other may go. */
    world_crash(w, leader_of(w) == 1 ? 3 : 1);
    world_run(w, 10 * WORLD_T_MS);
    assert_int_not_equal(leader_of(w), 0);
    world_free(w);
}

static void a_suspect_confirms_no_read(void **state)
{
    struct world *w = world_of_nine();
    struct raft *leader = world_raft(w, 1);
    uint64_t sequence, index;
    lose(w, 2, 9);
    assert_int_equal(raft_read(leader, &sequence, &index), 0);
    assert_true(raft_read_send(leader, 2)); /* it does not know yet */
    world_turn(w, 1);
    world_pass(w, 1, 2, RAFT_READ);
    assert_int_equal(world_count(w, 2, 1, RAFT_READ_REPLY), 0);
    assert_true(leader->read_confirmed < sequence);
    world_free(w);
}

/* Suspicion outlives restarts; the word that ends one suspicion does not end the next. */
static void a_word_about_an_earlier_suspicion_ends_nothing(void **state)
{
    struct world *w = world_of_nine();
    lose(w, 2, 8);
    raft_peer_reset(world_raft(w, 1), 2);
    struct world_packet healing = { 0 };
    for (int i = 0; i < 40 && healing.message.episode == 0; i++) {
        for (int id = 1; id <= 3; id++) {
            world_tick(w, id, 10);
        }
        while (w->packet_count > 0 && healing.message.episode == 0) {
            struct world_packet packet = world_packet_take(w, 0);
            if (packet.message.type == RAFT_APPEND && packet.message.episode != 0) {
                healing = world_packet_copy(&packet);
            }
            world_deliver(w, packet);
        }
    }
    assert_true(healing.message.episode != 0);
    assert_false(world_raft(w, 2)->is_suspect);
    uint64_t index = world_propose(w, 1, 3);
    world_crash(w, 3);
    world_run(w, WORLD_HEARTBEAT_MS);
    assert_int_equal(world_raft(w, 1)->commit, index + 2); /* with its help */
    lose(w, 2, 9);
    world_deliver(w, healing);
    assert_true(world_raft(w, 2)->is_suspect);
    assert_true(w->nodes[2].disk_is_suspect);
    world_free(w);
}

/* Its log was lost below what its store has applied: it begins behind that. */
static void a_log_lost_below_the_store_begins_behind_it(void **state)
{
    struct world *w = world_of_nine();
    world_flush_store(w, 3);
    lose(w, 3, 2);
    struct raft *raft = world_raft(w, 3);
    assert_int_equal(raft->log_start, 10);
    assert_int_equal(raft->start_term, 0);
    raft_peer_reset(world_raft(w, 1), 3);
    world_propose(w, 1, 2);
    world_run(w, 4 * WORLD_HEARTBEAT_MS);
    assert_int_equal(raft->start_term, 1);
    assert_int_equal(w->nodes[3].disk_start_term, 1);
    assert_int_equal(raft->commit, 11);
    assert_false(raft->is_suspect);
    assert_false(w->nodes[3].saw_image);
    world_free(w);
}

/* I21. The only one up that has what was committed needs an image: it stands in until the other has that, too. */
static void a_damaged_replica_stands_in_for_who_lacks_entries(void **state)
{
    struct world *w = world_of_nine();
    world_isolate(w, 3, true);
    uint64_t index = world_propose(w, 1, 1);
    world_run(w, WORLD_HEARTBEAT_MS);
    assert_int_equal(world_raft(w, 1)->commit, index);
    world_damage(w, 2);
    world_crash(w, 1);
    world_isolate(w, 3, false);
    world_run(w, 2 * WORLD_T_MS);
    assert_int_equal(leader_of(w), 0); /* others go first */
    world_run(w, 8 * WORLD_T_MS);
    assert_int_equal(leader_of(w), 3);
    assert_true(world_raft(w, 3)->commit > index);
    assert_true(world_raft(w, 2)->needs_image);
    world_free(w);
}

/* Nobody can take over: it doesn't stay. */
static void a_stand_in_steps_down_again(void **state)
{
    struct world *w = world_of_nine();
    world_crash(w, 1);
    world_damage(w, 2);
    world_damage(w, 3);
    bool has_led = false, has_stepped_down = false;
    for (int i = 0; i < 200; i++) {
        world_run(w, WORLD_T_MS / 10);
        has_led |= leader_of(w) != 0;
        has_stepped_down |= has_led && leader_of(w) == 0;
    }
    assert_true(has_led && has_stepped_down);
    world_free(w);
}

/* All flush the same index and tell what they hold then. */
static struct world *world_with_digests(uint64_t one, uint64_t two, uint64_t three)
{
    struct world *w = world_new(3);
    const uint64_t digests[] = { one, two, three };
    world_elect(w, 1);
    world_propose(w, 1, 4);
    world_settle(w);
    world_tick(w, 1, WORLD_HEARTBEAT_MS);
    world_settle(w);
    for (int id = 3; id >= 1; id--) { /* the leader last: it looks again when it has its own */
        world_flush_store(w, id);
        assert_int_equal(world_raft(w, id)->flushed, 5);
        raft_digest(world_raft(w, id), digests[id - 1]);
        world_tick(w, 1, WORLD_HEARTBEAT_MS);
        world_settle(w);
    }
    world_tick(w, 1, WORLD_HEARTBEAT_MS);
    world_settle(w);
    return w;
}

static void a_majority_tells_who_holds_the_wrong_thing(void **state)
{
    struct world *w = world_with_digests(7, 7, 9);
    assert_true(w->nodes[3].saw_refuted);
    assert_false(w->nodes[1].saw_refuted || w->nodes[2].saw_refuted || w->nodes[1].saw_undecided);
    assert_true(world_raft(w, 1)->progress[2].is_refuted);
    world_damage(w, 3);
    world_settle(w);
    assert_false(world_raft(w, 1)->progress[2].is_refuted); /* it knows, and is not told again */
    world_free(w);
    w = world_with_digests(9, 7, 7);
    assert_true(w->nodes[1].saw_refuted); /* the leader itself */
    assert_false(w->nodes[2].saw_refuted || w->nodes[3].saw_refuted);
    world_free(w);
    w = world_with_digests(7, 8, 9);
    assert_true(w->nodes[1].saw_undecided);
    assert_false(w->nodes[1].saw_refuted || w->nodes[2].saw_refuted || w->nodes[3].saw_refuted);
    world_free(w);
    w = world_with_digests(7, 7, 7);
    assert_true(world_raft(w, 1)->digests_compared >= 2);
    assert_int_equal(world_raft(w, 1)->digests_differed, 0);
    assert_false(w->nodes[1].saw_undecided);
    world_free(w);
}

/* A group that never rests: each replica's flushes end somewhere else, and all have passed the mark at 3. */
static struct world *world_with_marks(uint64_t one, uint64_t two, uint64_t three)
{
    struct world *w = world_new(3);
    const uint64_t marks[] = { one, two, three };
    world_elect(w, 1);
    world_propose(w, 1, 2);
    world_settle(w);
    for (int id = 3; id >= 1; id--) {
        world_propose(w, 1, 1);
        world_settle(w);
        world_tick(w, 1, WORLD_HEARTBEAT_MS);
        world_settle(w);
        world_flush_store(w, id);
        raft_mark(world_raft(w, id), 3, marks[id - 1]);
        raft_digest(world_raft(w, id), 100 + world_raft(w, id)->flushed);
    }
    for (int i = 0; i < 3; i++) { /* of two answers one tells of the mark */
        world_tick(w, 1, WORLD_HEARTBEAT_MS);
        world_settle(w);
    }
    return w;
}

static void replicas_are_compared_at_marks(void **state)
{
    struct world *w = world_with_marks(7, 7, 7);
    struct raft *leader = world_raft(w, 1);
    assert_int_equal(leader->digests_compared, 2);
    assert_int_equal(leader->digests_differed, 0);
    assert_int_equal(leader->progress[1].compared, 3);
    assert_int_equal(leader->progress[2].compared, 3);
    assert_false(raft_wants_mark(leader, 3));
    assert_true(raft_wants_mark(leader, 4));
    assert_false(raft_wants_mark(world_raft(w, 2), 4)); /* it doesn't lead */
    world_damage(w, 2);
    world_damage(w, 3);
    world_settle(w);
    assert_false(raft_wants_mark(leader, 4)); /* they are being repaired */
    world_free(w);
    w = world_with_marks(7, 7, 9);
    assert_true(w->nodes[3].saw_refuted);
    assert_false(w->nodes[1].saw_refuted || w->nodes[2].saw_refuted || w->nodes[1].saw_undecided);
    world_free(w);
    w = world_with_marks(9, 7, 7);
    assert_true(w->nodes[1].saw_refuted);
    world_free(w);
    w = world_with_marks(7, 8, 9);
    assert_true(w->nodes[1].saw_undecided);
    assert_false(w->nodes[1].saw_refuted || w->nodes[2].saw_refuted || w->nodes[3].saw_refuted);
    world_free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_restarted_follower_gets_back_what_it_lost),
        cmocka_unit_test(a_hole_found_at_run_time_is_filled_and_counts_when_durable),
        cmocka_unit_test(one_payload_of_each_entry_suffices),
        cmocka_unit_test(a_leader_gets_back_many_payloads_without_waiting),
        cmocka_unit_test(a_leader_nobody_can_help_steps_down),
        cmocka_unit_test(a_conflict_erases_a_hole),
        cmocka_unit_test(a_suspect_counts_for_nothing_and_heals),
        cmocka_unit_test(a_suspect_confirms_no_read),
        cmocka_unit_test(a_word_about_an_earlier_suspicion_ends_nothing),
        cmocka_unit_test(a_log_lost_below_the_store_begins_behind_it),
        cmocka_unit_test(a_damaged_replica_stands_in_for_who_lacks_entries),
        cmocka_unit_test(a_stand_in_steps_down_again),
        cmocka_unit_test(a_majority_tells_who_holds_the_wrong_thing),
        cmocka_unit_test(replicas_are_compared_at_marks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
