/* Shows how the Raft core behaves where no other implementation was known to fail: elections,
 * pre-vote, check-quorum, stickiness, transfer, reads, coalescing in a turn, entries fetched from
 * disk, the common cut, restart, and input that makes no sense. */
#include "raft_script.h"

static uint32_t one_size = WORLD_ENTRY_BYTES;

/* Elections. */

static void a_single_replica_elects_itself_when_its_vote_is_durable(void **state)
{
    struct world *w = world_new(1);
    struct raft *raft = world_raft(w, 1);
    w->nodes[1].manual_disk = true;
    world_time_out(w, 1);
    assert_int_equal(raft->role, RAFT_CANDIDATE);
    world_sync_one(&w->nodes[1]);
    assert_int_equal(raft->role, RAFT_LEADER);
    assert_int_equal(raft->term, 1);
    uint64_t sequence, index;
    assert_int_equal(raft_read(raft, &sequence, &index), ERR_UNAVAILABLE);
    world_sync(w, 1);
    assert_int_equal(raft->commit, 1);
    assert_int_equal(raft_read(raft, &sequence, &index), 0);
    assert_int_equal(index, 1);
    assert_true(raft->read_confirmed >= sequence); /* nobody else to ask */
    assert_int_equal(world_propose(w, 1, 2), 2);
    assert_int_equal(raft->commit, 1);
    world_sync(w, 1);
    assert_int_equal(raft->commit, 3);
    assert_int_equal(w->packet_count, 0);
    world_tick(w, 1, 10 * WORLD_T_MS);
    assert_int_equal(raft->role, RAFT_LEADER);
    world_free(w);
}

static void the_story_of_an_election(void **state)
{
    struct world *w = world_new(3);
    world_time_out(w, 1);
    assert_int_equal(world_raft(w, 1)->role, RAFT_PRE_CANDIDATE);
    assert_int_equal(world_raft(w, 1)->term, 0); /* asking costs no term */
    struct raft_message m = world_pass(w, 1, 2, RAFT_PRE_VOTE);
    assert_int_equal(m.term, 1);
    assert_int_equal(world_raft(w, 2)->term, 0);
    m = world_pass(w, 2, 1, RAFT_PRE_VOTE_REPLY);
    assert_true(m.granted);
    assert_int_equal(m.term, 1);
    assert_int_equal(world_raft(w, 1)->role, RAFT_CANDIDATE);
    m = world_pass(w, 1, 2, RAFT_VOTE);
    assert_int_equal(m.term, 1);
    assert_false(m.transfer);
    m = world_pass(w, 2, 1, RAFT_VOTE_REPLY);
    assert_true(m.granted);
    assert_int_equal(world_raft(w, 1)->role, RAFT_LEADER);
    assert_int_equal(world_raft(w, 1)->leader, 1);
    m = world_pass(w, 1, 2, RAFT_APPEND);
    assert_int_equal(m.index, 0);
    assert_int_equal(m.count, 0); /* a probe */
    assert_int_equal(world_raft(w, 2)->leader, 1);
    world_pass(w, 2, 1, RAFT_APPEND_REPLY);
    m = world_pass(w, 1, 2, RAFT_APPEND);
    assert_int_equal(m.count, 1); /* the no-op */
    assert_int_equal(w->nodes[2].disk[1].value, 0);
    assert_int_equal(world_raft(w, 1)->commit, 0);
    world_pass(w, 2, 1, RAFT_APPEND_REPLY);
    assert_int_equal(world_raft(w, 1)->commit, 1);
    assert_int_equal(world_count(w, 1, 2, 0), 0); /* the news waits for company */
    world_tick(w, 1, WORLD_HEARTBEAT_MS);
    m = world_pass(w, 1, 2, RAFT_APPEND);
    assert_int_equal(m.commit, 1);
    assert_int_equal(world_raft(w, 2)->commit, 1);
    world_free(w);
}

static void even_groups_need_more_than_half(void **state)
{
    for (int count = 2; count <= 4; count += 2) {
        struct world *w = world_new(count);
        world_elect(w, 1);
        struct raft *leader = world_raft(w, 1);
        uint64_t commit = leader->commit;
        assert_int_equal(commit, 1);
        uint64_t index = world_propose(w, 1, 1);
        if (count == 4) {
            world_pass(w, 1, 2, RAFT_APPEND);
            world_pass(w, 2, 1, RAFT_APPEND_REPLY);
        }
        assert_int_equal(leader->commit, commit); /* half is not a majority */
        world_pass(w, 1, count, RAFT_APPEND);
        world_pass(w, count, 1, RAFT_APPEND_REPLY);
        assert_int_equal(leader->commit, index);
        world_free(w);
    }
}

static void a_lagging_log_is_refused_and_no_term_is_lost(void **state)
{
    struct world *w = world_new(3);
    const uint64_t longer[] = { 1, 1, 2 };
    world_set_log(w, 1, 2, longer, 2);
    world_set_log(w, 2, 2, longer, 3);
    world_set_log(w, 3, 2, longer, 3);
    for (int round = 0; round < 5; round++) {
        world_tick(w, 1, 2 * WORLD_T_MS);
        world_settle(w);
    }
    assert_int_equal(world_raft(w, 1)->role, RAFT_PRE_CANDIDATE);
    assert_int_equal(world_raft(w, 1)->term, 2);
    assert_int_equal(world_raft(w, 2)->term, 2);
    world_elect(w, 2);
    world_free(w);
}

/* The replica was alone in term 6, so its term is ahead of what others would let it campaign in. */
static void a_pre_candidate_learns_a_newer_term_from_refusals(void **state)
{
    struct world *w = world_new(3);
    world_set_log(w, 2, 6, NULL, 0);
    world_time_out(w, 1);
    world_drop(w, 1, 3, 0);
    world_pass(w, 1, 2, RAFT_PRE_VOTE);
    struct raft_message m = world_pass(w, 2, 1, RAFT_PRE_VOTE_REPLY);
    assert_false(m.granted);
    assert_int_equal(world_raft(w, 1)->term, 6);
    assert_int_equal(world_raft(w, 1)->role, RAFT_FOLLOWER);
    assert_int_equal(w->nodes[1].disk_term, 6);
    world_elect(w, 1);
    assert_int_equal(world_raft(w, 1)->term, 7);
    world_free(w);
}

static void lost_votes_are_asked_for_again(void **state)
{
    struct world *w = world_new(3);
    world_time_out(w, 1);
    world_drop(w, 0, 0, 0);
    world_tick(w, 1, WORLD_HEARTBEAT_MS);
    assert_int_equal(world_count(w, 1, 0, RAFT_PRE_VOTE), 2);
    world_pass(w, 1, 2, RAFT_PRE_VOTE);
    world_drop(w, 1, 0, 0);
    world_pass(w, 2, 1, RAFT_PRE_VOTE_REPLY);
    assert_int_equal(world_raft(w, 1)->role, RAFT_CANDIDATE);
    world_drop(w, 0, 0, 0);
    world_tick(w, 1, WORLD_HEARTBEAT_MS);
    assert_int_equal(world_count(w, 1, 0, RAFT_VOTE), 2);
    world_settle(w);
    assert_int_equal(world_raft(w, 1)->role, RAFT_LEADER);
    world_free(w);
}

static void a_voter_gives_the_candidate_time(void **state)
{
    struct world *w = world_new(3);
    world_tick(w, 2, WORLD_T_MS - 1);
    struct raft_message vote = { .type = RAFT_VOTE, .from = 1, .to = 2, .term = 1 };
    world_say(w, vote, NULL);
    assert_true(world_look(w, 2, 1, RAFT_VOTE_REPLY).granted);
    world_tick(w, 2, WORLD_T_MS - 1);
    assert_int_equal(world_raft(w, 2)->role, RAFT_FOLLOWER);
    world_tick(w, 2, WORLD_T_MS + 1);
    assert_int_equal(world_raft(w, 2)->role, RAFT_PRE_CANDIDATE);
    world_free(w);
}

static void timeouts_differ_and_stay_between_t_and_2t(void **state)
{
    struct world *w = world_new(9);
    int sooner = 0;
    for (int id = 1; id <= 9; id++) {
        world_tick(w, id, WORLD_T_MS - 1);
        assert_int_equal(world_raft(w, id)->role, RAFT_FOLLOWER);
        world_tick(w, id, WORLD_T_MS / 2);
        sooner += world_raft(w, id)->role == RAFT_PRE_CANDIDATE;
        world_tick(w, id, WORLD_T_MS / 2 + 1);
        assert_int_equal(world_raft(w, id)->role, RAFT_PRE_CANDIDATE);
    }
    assert_in_range(sooner, 1, 8);
    world_free(w);
}

/* The followers of a leader that falls silent: none before T, then one after the other. */
static void successors_come_in_the_order_of_the_list(void **state)
{
    struct world *w = world_new(5);
    world_elect(w, 2);
    for (int id = 1; id <= 5; id++) {
        static const int ranks[] = { 0, 0, 0, 1, 2, 3 };
        if (id == 2) {
            continue;
        }
        int own_ms = WORLD_T_MS + ranks[id] * WORLD_T_MS / 4;
        world_tick(w, id, own_ms - 1);
        assert_int_equal(world_raft(w, id)->role, RAFT_FOLLOWER);
        world_tick(w, id, WORLD_T_MS / 8 + 1);
        assert_int_equal(world_raft(w, id)->role, RAFT_PRE_CANDIDATE);
    }
    world_free(w);
}

/* A question that comes while the other is still bound to the leader is asked again soon. */
static void a_successor_asks_again_soon(void **state)
{
    struct world *w = world_new(3);
    world_elect(w, 3);
    world_tick(w, 1, WORLD_T_MS + WORLD_T_MS / 8 + 1);
    world_tick(w, 2, WORLD_T_MS - 1);
    world_pass(w, 1, 2, RAFT_PRE_VOTE);
    assert_int_equal(world_find(w, 2, 1, RAFT_PRE_VOTE_REPLY), -1);
    world_tick(w, 2, 1);
    world_tick(w, 1, WORLD_HEARTBEAT_MS / 4);
    world_pass(w, 1, 2, RAFT_PRE_VOTE);
    assert_true(world_pass(w, 2, 1, RAFT_PRE_VOTE_REPLY).granted);
    assert_int_equal(world_raft(w, 1)->role, RAFT_CANDIDATE);
    world_free(w);
}

/* Stickiness and check-quorum. */

static void who_hears_a_leader_does_not_depose_it(void **state)
{
    struct world *w = world_new(3);
    world_elect(w, 1);
    uint64_t term = world_raft(w, 1)->term;
    struct raft_message ask = {
        .type = RAFT_PRE_VOTE, .from = 3, .to = 2, .term = term + 1, .index = 99, .log_term = term
    };
    world_say(w, ask, NULL);
    ask.to = 1;
    world_say(w, ask, NULL);
    ask.type = RAFT_VOTE;
    ask.term = term + 5;
    world_say(w, ask, NULL);
    ask.to = 2;
    world_say(w, ask, NULL);
    assert_int_equal(w->packet_count, 0);
    assert_int_equal(world_raft(w, 1)->role, RAFT_LEADER);
    assert_int_equal(world_raft(w, 2)->term, term);
    world_tick(w, 2, WORLD_T_MS - 1);
    world_say(w, ask, NULL);
    assert_int_equal(world_raft(w, 2)->term, term);
    world_tick(w, 2, 1); /* T without a word */
    world_drop(w, 0, 0, 0);
    world_say(w, ask, NULL);
    assert_int_equal(world_raft(w, 2)->term, term + 5);
    assert_true(world_look(w, 2, 3, RAFT_VOTE_REPLY).granted);
    world_free(w);
}

static void a_leader_without_a_majority_steps_down(void **state)
{
    struct world *w = world_new(5);
    world_elect(w, 1);
    struct raft *leader = world_raft(w, 1);
    for (int id = 3; id <= 5; id++) {
        world_isolate(w, id, true);
    }
    for (int ms = 0; ms < WORLD_T_MS - WORLD_HEARTBEAT_MS; ms += WORLD_HEARTBEAT_MS) {
        world_tick(w, 1, WORLD_HEARTBEAT_MS);
        world_settle(w);
        assert_int_equal(leader->role, RAFT_LEADER);
    }
    uint64_t index = world_propose(w, 1, 1);
    world_tick(w, 1, WORLD_HEARTBEAT_MS);
    assert_int_equal(leader->role, RAFT_FOLLOWER);
    assert_int_equal(leader->leader, 0);
    assert_true(leader->commit < index);
    uint64_t first;
    assert_int_equal(raft_propose(leader, &one_size, 1, &first), ERR_NOT_PRIMARY);
    world_free(w);
}

/* One that was cut off comes back: it deposed nobody, and follows. */
static void a_returning_replica_disturbs_nobody(void **state)
{
    struct world *w = world_new(3);
    world_elect(w, 1);
    uint64_t term = world_raft(w, 1)->term;
    world_isolate(w, 3, true);
    for (int i = 0; i < 100; i++) {
        for (int id = 1; id <= 3; id++) {
            world_tick(w, id, 10);
        }
        world_settle(w);
    }
    world_propose(w, 1, 3);
    world_settle(w);
    world_isolate(w, 3, false);
    for (int i = 0; i < 10; i++) {
        for (int id = 1; id <= 3; id++) {
            world_tick(w, id, 10);
        }
        world_settle(w);
    }
    assert_int_equal(world_raft(w, 1)->role, RAFT_LEADER);
    assert_int_equal(world_raft(w, 1)->term, term);
    assert_int_equal(world_raft(w, 3)->leader, 1);
    assert_int_equal(world_raft(w, 3)->commit, world_raft(w, 1)->commit);
    world_free(w);
}

/* A replica stands in a higher term that its leader does not know; it must not stay deaf for ever.
 */
static void a_stranded_replica_brings_its_term_to_the_leader(void **state)
{
    struct world *w = world_new(3);
    world_elect(w, 1);
    uint64_t term = world_raft(w, 1)->term;
    world_crash(w, 3);
    w->nodes[3].disk_term = term + 4;
    world_node_start(w, 3);
    world_tick(w, 1, WORLD_HEARTBEAT_MS);
    world_pass(w, 1, 3, RAFT_APPEND);
    world_pass(w, 3, 1, RAFT_APPEND_REPLY);
    assert_int_equal(world_raft(w, 1)->role, RAFT_FOLLOWER);
    assert_int_equal(world_raft(w, 1)->term, term + 4);
    world_free(w);
}

/* Transfer. */

static void the_successor_leads_without_a_pause(void **state)
{
    struct world *w = world_new(3);
    world_elect(w, 1);
    world_propose(w, 1, 3);
    uint64_t term = world_raft(w, 1)->term;
    assert_int_equal(raft_transfer(world_raft(w, 2), 1), ERR_NOT_PRIMARY);
    assert_int_equal(raft_transfer(world_raft(w, 1), 1), ERR_BAD_REQUEST);
    assert_int_equal(raft_transfer(world_raft(w, 1), 77), ERR_BAD_REQUEST);
    assert_int_equal(raft_transfer(world_raft(w, 1), 2), 0);
    world_settle(w);
    assert_int_equal(world_raft(w, 2)->role, RAFT_LEADER);
    assert_int_equal(world_raft(w, 2)->term, term + 1);
    assert_int_equal(world_raft(w, 1)->leader, 2);
    assert_true(w->nodes[1].saw_transfer_done);
    world_free(w);
}

static void the_leader_chooses_the_most_caught_up(void **state)
{
    struct world *w = world_new(3);
    world_elect(w, 1);
    world_isolate(w, 2, true);
    world_propose(w, 1, 3);
    world_settle(w);
    world_isolate(w, 2, false);
    assert_int_equal(raft_transfer(world_raft(w, 1), 0), 0);
    assert_int_equal(world_raft(w, 1)->transfer_to, 3);
    world_turn(w, 1);
    world_settle(w);
    assert_int_equal(world_raft(w, 3)->role, RAFT_LEADER);
    world_free(w);
}

/* Reads. */

static void a_read_rides_only_a_round_sent_after_it(void **state)
{
    struct world *w = world_new(3);
    world_elect(w, 1);
    struct raft *leader = world_raft(w, 1);
    uint64_t first, second, third, index;
    assert_int_equal(raft_read(leader, &first, &index), 0);
    assert_int_equal(raft_read(leader, &second, &index), 0);
    assert_int_equal(first, second); /* both wait for the same round */
    assert_true(leader->out.read_round_wanted);
    assert_true(raft_read_send(leader, 2));
    assert_false(raft_read_send(leader, 2));
    assert_false(raft_read_send(leader, 1));
    assert_int_equal(raft_read(leader, &third, &index), 0);
    assert_true(third > second);
    world_turn(w, 1);
    world_pass(w, 1, 2, RAFT_READ);
    world_pass(w, 2, 1, RAFT_READ_REPLY);
    assert_true(w->nodes[1].saw_reads);
    assert_true(leader->read_confirmed >= second);
    assert_true(leader->read_confirmed < third);
    assert_true(raft_read_send(leader, 3));
    world_turn(w, 1);
    world_settle(w);
    assert_true(leader->read_confirmed >= third);
    assert_false(raft_read_send(leader, 2)); /* nothing waits any more */
    world_free(w);
}

static void reads_need_a_majority_and_survive_loss(void **state)
{
    struct world *w = world_new(5);
    world_elect(w, 1);
    struct raft *leader = world_raft(w, 1);
    uint64_t sequence, index;
    assert_int_equal(raft_read(world_raft(w, 2), &sequence, &index), ERR_NOT_PRIMARY);
    assert_int_equal(raft_read(leader, &sequence, &index), 0);
    for (int id = 2; id <= 5; id++) {
        assert_true(raft_read_send(leader, (uint64_t)id));
    }
    world_turn(w, 1);
    world_drop(w, 1, 3, 0);
    world_drop(w, 1, 4, 0);
    world_drop(w, 1, 5, 0);
    world_settle(w);
    assert_true(leader->read_confirmed < sequence);
    assert_false(raft_read_send(leader, 3));
    w->nodes[1].saw_read_wanted = false;
    world_tick(w, 1, WORLD_HEARTBEAT_MS);
    assert_true(w->nodes[1].saw_read_wanted);
    world_settle(w);
    assert_true(raft_read_send(leader, 3));
    world_turn(w, 1);
    world_settle(w);
    assert_true(leader->read_confirmed >= sequence);
    world_free(w);
}

/* A leader that was deposed without knowing gets no confirmation, and learns why. */
static void a_deposed_leader_confirms_no_read(void **state)
{
    struct world *w = world_new(3);
    world_elect(w, 1);
    struct raft *old = world_raft(w, 1);
    world_isolate(w, 1, true);
    world_elect(w, 2);
    world_propose(w, 2, 1);
    world_settle(w);
    world_isolate(w, 1, false);
    assert_int_equal(old->role, RAFT_LEADER);
    uint64_t sequence, index;
    assert_int_equal(raft_read(old, &sequence, &index), 0);
    assert_true(raft_read_send(old, 2));
    assert_true(raft_read_send(old, 3));
    world_turn(w, 1);
    world_settle(w);
    assert_true(old->read_confirmed < sequence);
    assert_int_equal(old->role, RAFT_FOLLOWER);
    world_free(w);
}

/* I22 */
static void a_follower_reads_by_its_leaders_word(void **state)
{
    struct world *w = world_new(3);
    world_elect(w, 1);
    world_settle(w);
    struct raft *leader = world_raft(w, 1), *follower = world_raft(w, 2);
    assert_false(raft_read_may_follow(leader));
    assert_true(raft_read_may_follow(follower));
    uint64_t term = follower->term, before = follower->commit;
    world_propose(w, 1, 1);
    world_turn(w, 1);
    world_settle(w);
    assert_int_equal(raft_read_grant(leader, 2, term), leader->commit);
    assert_int_equal(raft_read_grant(leader, 2, term + 1), 0);
    assert_int_equal(raft_read_grant(leader, 9, term), 0);   /* no member */
    assert_int_equal(raft_read_grant(follower, 3, term), 0); /* doesn't lead */
    follower->commit = before; /* as if the news had not come with a message yet */
    raft_read_granted(follower, term + 1, leader->commit);
    assert_int_equal(follower->commit,
                     before); /* another term's word says nothing of what is held of this one */
    raft_read_granted(follower, term, leader->commit + 5);
    assert_int_equal(follower->commit, leader->commit); /* no further than was compared */
    raft_effects_clear(follower);
    world_free(w);
}

static void who_was_deposed_gives_no_word(void **state)
{
    struct world *w = world_new(3);
    world_elect(w, 1);
    struct raft *old = world_raft(w, 1);
    world_isolate(w, 1, true);
    world_elect(w, 2);
    world_settle(w);
    assert_int_equal(old->role, RAFT_LEADER);
    assert_true(raft_read_may_follow(world_raft(w, 3)));
    assert_int_equal(raft_read_grant(old, 3, world_raft(w, 3)->term), 0);
    world_free(w);
}

/* One other replica's word is not enough where it takes three for a majority. */
static void of_five_nobody_follows(void **state)
{
    struct world *w = world_new(5);
    world_elect(w, 1);
    world_settle(w);
    assert_false(raft_read_may_follow(world_raft(w, 2)));
    assert_int_equal(raft_read_grant(world_raft(w, 1), 2, world_raft(w, 1)->term), 0);
    world_free(w);
}

/* I18 */
static void a_confirmation_stands_for_later_rounds(void **state)
{
    struct world *w = world_new(3);
    world_elect(w, 1);
    world_settle(w);
    struct raft *leader = world_raft(w, 1);
    uint64_t first, second, third, index, changes = w->nodes[2].changes;
    assert_int_equal(raft_read(leader, &first, &index), 0);
    assert_false(raft_read_ride(leader, 2, changes)); /* it has confirmed nothing yet */
    assert_true(raft_read_send(leader, 2));
    world_turn(w, 1);
    world_settle(w);
    assert_true(leader->read_confirmed >= first);
    assert_int_equal(raft_read(leader, &second, &index), 0);
    assert_false(raft_read_ride(leader, 2, changes + 1)); /* another count than when it did */
    assert_false(raft_read_ride(leader, 3, changes));
    assert_true(raft_read_ride(leader, 2, changes));
    assert_false(raft_read_send(leader, 2)); /* it is being asked */
    assert_int_equal(raft_read(leader, &third, &index), 0);
    assert_true(third > second);
    raft_read_ridden(leader, 2, leader->term, second, true);
    assert_true(leader->read_confirmed >= second);
    assert_true(leader->read_confirmed < third);
    assert_true(raft_read_ride(leader, 2, changes));
    raft_read_ridden(leader, 2, leader->term, third, false);
    assert_true(leader->read_confirmed < third);
    assert_true(raft_read_send(leader, 2)); /* as if it had not been asked */
    world_turn(w, 1);
    world_settle(w);
    assert_true(leader->read_confirmed >= third);
    raft_peer_reset(leader, 2); /* what comes next may be another process */
    assert_int_equal(raft_read(leader, &third, &index), 0);
    assert_false(raft_read_ride(leader, 2, changes));
    world_free(w);
}

/* I18: whatever makes a replica refuse a read round is counted. */
static void a_change_of_allegiance_is_counted(void **state)
{
    struct world *w = world_new(3);
    world_elect(w, 1);
    struct raft *old = world_raft(w, 1);
    uint64_t sequence, index, changes = w->nodes[2].changes, term = old->term;
    assert_int_equal(raft_read(old, &sequence, &index), 0);
    assert_true(raft_read_send(old, 2));
    world_turn(w, 1);
    world_settle(w);
    assert_int_equal(w->nodes[2].changes, changes);
    world_isolate(w, 1, true);
    world_elect(w, 2);
    assert_true(w->nodes[2].changes > changes); /* it leads in another term */
    assert_int_equal(old->role, RAFT_LEADER);
    assert_int_equal(raft_read(old, &sequence, &index), 0);
    assert_true(raft_read_ride(old, 2, changes)); /* the answer will tell the new count */
    raft_read_ridden(old, 2, term, sequence, false);
    assert_false(raft_read_ride(old, 2, w->nodes[2].changes));
    raft_read_ridden(old, 2, term - 1, sequence, true); /* of an earlier leadership */
    assert_true(old->read_confirmed < sequence);
    changes = w->nodes[2].changes;
    raft_suspect(world_raft(w, 2));
    assert_true(w->nodes[2].changes > changes);
    world_free(w);
}

static void replies_to_an_earlier_leadership_confirm_nothing(void **state)
{
    struct world *w = world_new(3);
    world_elect(w, 1);
    world_elect(w, 2);
    world_elect(w, 1);
    struct raft *leader = world_raft(w, 1);
    uint64_t sequence, index;
    assert_int_equal(raft_read(leader, &sequence, &index), 0);
    struct raft_message reply = { .type = RAFT_READ_REPLY,
                                  .granted = true,
                                  .from = 2,
                                  .to = 1,
                                  .term = leader->term - 1,
                                  .sequence = sequence };
    world_say(w, reply, NULL);
    assert_true(leader->read_confirmed < sequence);
    reply.term++;
    reply.sequence = sequence + 1; /* a round that was never asked */
    world_say(w, reply, NULL);
    assert_true(leader->read_confirmed < sequence);
    world_free(w);
}

/* Turns. */

static void a_turn_sends_one_append_and_one_ack(void **state)
{
    struct world *w = world_new(3);
    world_elect(w, 1);
    struct raft *leader = world_raft(w, 1);
    uint64_t first = world_propose_quietly(w, 1, 1);
    for (int i = 0; i < 99; i++) {
        world_propose_quietly(w, 1, 2);
    }
    assert_int_equal(leader->out.append_first, first);
    assert_int_equal(leader->out.append_count, 199);
    assert_int_equal(leader->out.message_count, 0);
    world_log_effects(&w->nodes[1], NULL);
    world_turn(w, 1);
    assert_int_equal(world_count(w, 1, 2, RAFT_APPEND), 1);
    assert_int_equal(world_count(w, 1, 3, RAFT_APPEND), 1);
    world_propose(w, 1, 1);
    world_propose(w, 1, 1);
    /* Three appends arrive in one turn, and the disk does them all: one ack. */
    struct world_packet packet;
    for (int i = 0; i < 3; i++) {
        packet = world_take(w, 1, 2, RAFT_APPEND);
        world_step(w, &packet);
        free(packet.entries);
    }
    world_turn(w, 2);
    assert_int_equal(world_count(w, 2, 1, RAFT_APPEND_REPLY), 1);
    assert_int_equal(world_pass(w, 2, 1, RAFT_APPEND_REPLY).index, leader->last_index);
    assert_int_equal(leader->commit, leader->last_index);
    /* The commit news rides with the next append when there is one. */
    world_drop(w, 1, 2, 0);
    world_propose(w, 1, 1);
    assert_int_equal(world_count(w, 1, 2, RAFT_APPEND), 1);
    struct raft_message m = world_look(w, 1, 2, RAFT_APPEND);
    assert_int_equal(m.commit, leader->commit);
    world_free(w);
}

/* Entries that were ready to leave are not sent any more when the term moves on in the same turn.
 */
static void a_deposed_leader_sends_nothing_of_its_term(void **state)
{
    struct world *w = world_new(3);
    world_elect(w, 1);
    struct raft *leader = world_raft(w, 1);
    world_propose_quietly(w, 1, 1);
    world_log_effects(&w->nodes[1], NULL);
    raft_flush(leader);
    assert_int_equal(leader->out.message_count, 2);
    struct world_packet higher = { .message = { .type = RAFT_APPEND,
                                                .group = 7,
                                                .from = 2,
                                                .to = 1,
                                                .term = leader->term + 1,
                                                .sequence = 1 } };
    world_step(w, &higher);
    assert_int_equal(leader->out.message_count, 0);
    world_turn(w, 1);
    assert_int_equal(world_count(w, 1, 0, RAFT_APPEND), 0);
    world_free(w);
}

/* They leave when the clock passes a multiple of their interval, for all groups of a node at once;
 * where something went in the last quarter before, that stands for one. */
static void heartbeats_go_only_where_nothing_else_went(void **state)
{
    struct world *w = world_new(3);
    const uint64_t quarter = WORLD_HEARTBEAT_MS / 4;
    world_elect(w, 1);
    world_settle(w);
    world_tick(w, 1, 2 * WORLD_HEARTBEAT_MS - w->nodes[1].now_ms % WORLD_HEARTBEAT_MS);
    assert_int_equal(world_count(w, 1, 2, RAFT_APPEND), 1);
    world_settle(w);
    world_tick(w, 1, WORLD_HEARTBEAT_MS - quarter);
    assert_int_equal(w->packet_count, 0);
    world_propose(w, 1, 1);
    world_settle(w);
    world_tick(w, 1, quarter);
    assert_int_equal(w->packet_count, 0);
    world_tick(w, 1, WORLD_HEARTBEAT_MS - quarter - 1);
    world_propose(w, 1, 1);
    world_settle(w);
    world_tick(w, 1, quarter);
    assert_int_equal(w->packet_count, 0);
    world_tick(w, 1, 1);
    assert_int_equal(world_count(w, 1, 0, RAFT_APPEND), 2);
    world_free(w);
}

static void a_lost_append_is_found_by_the_next_heartbeat(void **state)
{
    struct world *w = world_new(3);
    world_elect(w, 1);
    world_propose(w, 1, 5);
    world_drop(w, 1, 0, RAFT_APPEND);
    world_tick(w, 1, WORLD_HEARTBEAT_MS);
    struct raft_message m = world_pass(w, 1, 2, RAFT_APPEND);
    assert_int_equal(m.count, 0);
    assert_false(world_pass(w, 2, 1, RAFT_APPEND_REPLY).granted);
    world_settle(w);
    world_tick(w, 1, WORLD_HEARTBEAT_MS);
    world_settle(w);
    assert_int_equal(world_raft(w, 2)->commit, world_raft(w, 1)->last_index);
    world_free(w);
}

/* A probe's answer that was overtaken by a second refusal must not start the stream at a place
 * nobody verified. */
static void an_old_ack_does_not_pass_for_a_probes_answer(void **state)
{
    struct world *w = world_new(3);
    world_elect(w, 1);
    struct raft *leader = world_raft(w, 1);
    world_propose(w, 1, 5);
    world_settle(w);
    struct raft_progress *peer = &leader->progress[1];
    raft_peer_reset(leader, 2);
    world_turn(w, 1);
    world_drop(w, 1, 2, 0);
    struct raft_message old = { .type = RAFT_APPEND_REPLY,
                                .granted = true,
                                .from = 2,
                                .to = 1,
                                .term = leader->term,
                                .index = peer->match - 2,
                                .sequence = 1 };
    world_say(w, old, NULL);
    assert_int_equal(peer->state, RAFT_PROBE);
    old.index = leader->last_index + 10; /* nonsense */
    old.sequence = peer->sequence;
    world_say(w, old, NULL);
    assert_int_equal(peer->state, RAFT_PROBE);
    assert_true(peer->match <= leader->last_index);
    old.index = peer->match;
    world_say(w, old, NULL);
    assert_int_equal(peer->state, RAFT_STREAM);
    world_free(w);
}

/* I19. Each heartbeat offers it what it might take; nothing else is sent. */
static void a_log_without_room_follows_and_learns_what_is_committed(void **state)
{
    struct world *w = world_new(3);
    world_elect(w, 1);
    struct raft *leader = world_raft(w, 1), *full = world_raft(w, 3);
    world_propose(w, 1, 2);
    w->nodes[3].manual_disk = true;
    world_pass(w, 1, 3, RAFT_APPEND); /* taken, but not known to be committed */
    world_settle(w);
    raft_take(full, RAFT_ROOM_NONE);
    world_sync(w, 3);
    world_propose(w, 1, 50);
    world_settle(w);
    assert_int_equal(leader->commit, 53); /* the others do without it */
    assert_int_equal(full->last_index, 3);
    assert_true(leader->progress[2].is_full);
    for (int i = 0; i < 20; i++) {
        world_propose(w, 1, 1);
        assert_int_equal(world_count(w, 1, 3, RAFT_APPEND), 0);
        world_tick(w, 1, WORLD_HEARTBEAT_MS);
        assert_int_equal(world_count(w, 1, 3, RAFT_APPEND), 1);
        world_tick(w, 3, WORLD_HEARTBEAT_MS);
        world_settle(w);
        assert_int_equal(full->role, RAFT_FOLLOWER);
        assert_int_equal(full->last_index, 3);
    }
    assert_int_equal(full->commit, 3);
    assert_int_equal(leader->role, RAFT_LEADER);
    world_free(w);
}

static void a_log_with_little_room_takes_a_trifle_a_heartbeat(void **state)
{
    struct world *w = world_new(3);
    world_elect(w, 1);
    struct raft *leader = world_raft(w, 1), *full = world_raft(w, 3);
    raft_take(full, RAFT_ROOM_SMALL);
    world_propose(w, 1, 300);
    world_settle(w);
    assert_int_equal(full->last_index, 1);
    uint64_t last = 1;
    for (int i = 0; i < 4; i++) {
        world_tick(w, 1, WORLD_HEARTBEAT_MS);
        world_settle(w);
        assert_true(full->last_index <= last + LIMIT_RAFT_TRIFLE_BYTES / WORLD_ENTRY_BYTES);
        last = full->last_index;
    }
    assert_in_range(last, 41, 161);
    /* The end of a flush is told with the next answer, and all the rest comes at once. */
    world_propose(w, 1, 100);
    raft_take(full, RAFT_ROOM_ANY);
    world_tick(w, 1, WORLD_HEARTBEAT_MS);
    world_settle(w);
    assert_int_equal(full->last_index, leader->last_index);
    assert_false(leader->progress[2].is_full);
    world_free(w);
}

/* Else no election could end while logs are full, and nothing would be known to be committed. */
static void a_no_op_needs_no_room(void **state)
{
    struct world *w = world_new(3);
    world_elect(w, 1);
    world_propose(w, 1, 5);
    world_settle(w);
    for (int id = 1; id <= 3; id++) {
        raft_take(world_raft(w, id), RAFT_ROOM_NONE);
    }
    world_elect(w, 2);
    world_tick(w, 2, WORLD_HEARTBEAT_MS);
    world_settle(w);
    assert_int_equal(world_raft(w, 2)->noop_index, 7);
    assert_int_equal(world_raft(w, 2)->commit, 7);
    world_free(w);
}

/* It is where room is missing that it may take what replaces its own. */
static void what_a_log_without_room_holds_is_replaced(void **state)
{
    struct world *w = world_new(3);
    const uint64_t old[] = { 1, 1, 1, 1 }, new[] = { 1, 2, 2, 2, 2 };
    world_set_log(w, 3, 1, old, 4);
    world_set_log(w, 1, 2, new, 5);
    world_set_log(w, 2, 2, new, 5);
    for (int id = 1; id <= 3; id++) {
        world_restart(w, id);
    }
    raft_take(world_raft(w, 3), RAFT_ROOM_NONE);
    world_elect(w, 1);
    for (int i = 0; i < 4; i++) {
        world_tick(w, 1, WORLD_HEARTBEAT_MS);
        world_settle(w);
    }
    assert_int_equal(world_raft(w, 3)->last_index, 4);
    assert_int_equal(raft_term_at(world_raft(w, 3), 4), 2);
    assert_int_equal(world_raft(w, 3)->commit, 4);
    world_free(w);
}

static void leadership_does_not_go_where_entries_have_no_room(void **state)
{
    struct world *w = world_new(3);
    world_elect(w, 1);
    world_isolate(w, 2, true);
    raft_take(world_raft(w, 3), RAFT_ROOM_NONE);
    world_propose(w, 1, 2);
    world_settle(w);
    for (int i = 0; i < WORLD_T_MS / WORLD_HEARTBEAT_MS; i++) { /* the other is not heard */
        world_tick(w, 1, WORLD_HEARTBEAT_MS);
        world_settle(w);
    }
    assert_int_equal(raft_transfer(world_raft(w, 1), 0), ERR_UNAVAILABLE);
    raft_take(world_raft(w, 3), RAFT_ROOM_ANY);
    world_tick(w, 1, WORLD_HEARTBEAT_MS);
    world_settle(w);
    assert_int_equal(raft_transfer(world_raft(w, 1), 0), 0);
    assert_int_equal(world_raft(w, 1)->transfer_to, 3);
    world_free(w);
}

/* Entries on disk. */

static void a_laggard_is_served_from_disk(void **state)
{
    struct world *w = world_new(3);
    world_elect(w, 1);
    struct raft *leader = world_raft(w, 1);
    world_isolate(w, 3, true);
    uint64_t first = world_propose(w, 1, 20);
    world_settle(w);
    w->nodes[1].memory_from = first + 15;
    world_isolate(w, 3, false);
    raft_peer_reset(leader, 3);
    world_turn(w, 1);
    world_settle(w);
    struct raft_progress *peer = &leader->progress[2];
    assert_int_equal(peer->state, RAFT_FETCHING);
    assert_int_equal(w->nodes[1].fetch_count, 1);
    assert_int_equal(w->nodes[1].fetches[0].first, first);
    world_propose(w, 1, 1); /* no second request meanwhile */
    assert_int_equal(w->nodes[1].fetch_count, 1);
    /* Heartbeats go on, and the entries that are read fit. */
    world_tick(w, 1, WORLD_HEARTBEAT_MS);
    assert_int_equal(world_count(w, 1, 3, RAFT_APPEND), 1);
    world_settle(w);
    world_fetch(w, 1, 10);
    world_settle(w);
    assert_int_equal(peer->match, first + 9);
    assert_int_equal(w->nodes[1].fetches[0].first, first + 10);
    /* The disk fails to read once: tried again, but not at once. */
    world_fetch(w, 1, 0);
    assert_int_equal(w->nodes[1].fetch_count, 0);
    world_tick(w, 1, WORLD_HEARTBEAT_MS);
    assert_int_equal(w->nodes[1].fetch_count, 1);
    world_fetch(w, 1, 5);
    world_settle(w);
    assert_int_equal(peer->match, leader->last_index); /* the rest came from memory */
    assert_false(raft_fetched(leader, 3, first, 3, 300));
    world_free(w);
}

static void who_lacks_what_was_cut_needs_an_image(void **state)
{
    struct world *w = world_new(3);
    const uint64_t log[] = { 1, 1, 1, 1, 1, 1 };
    for (int id = 1; id <= 2; id++) {
        world_set_log(w, id, 1, log, 6);
        w->nodes[id].disk_start = 5;
        w->nodes[id].disk_start_term = 1;
        w->nodes[id].disk_flushed = 4;
        world_restart(w, id);
    }
    world_isolate(w, 3, true);
    world_elect(w, 1);
    world_isolate(w, 3, false);
    world_tick(w, 1, WORLD_HEARTBEAT_MS);
    world_settle(w); /* ends: the refused probe is not repeated at once */
    assert_true(w->nodes[1].saw_image);
    assert_int_equal(world_raft(w, 3)->last_index, 0);
    world_tick(w, 1, WORLD_HEARTBEAT_MS);
    assert_int_equal(world_count(w, 1, 3, RAFT_APPEND), 1);
    world_free(w);
}

/* The cut. */

static void the_cut_is_what_every_store_has_flushed(void **state)
{
    struct world *w = world_new(3);
    world_elect(w, 1);
    world_propose(w, 1, 9);
    world_settle(w);
    world_tick(w, 1, WORLD_HEARTBEAT_MS);
    world_settle(w);
    world_flush_store(w, 1);
    world_flush_store(w, 2);
    for (int i = 0; i < 2; i++) {
        world_tick(w, 1, WORLD_HEARTBEAT_MS);
        world_settle(w);
    }
    assert_int_equal(world_raft(w, 1)->cut, 0);
    world_flush_store(w, 3);
    world_tick(w, 1, WORLD_HEARTBEAT_MS);
    world_settle(w);
    assert_int_equal(world_raft(w, 1)->cut, 10);
    world_propose(w, 1, 2);
    world_settle(w);
    for (int id = 1; id <= 3; id++) {
        assert_int_equal(world_raft(w, id)->cut, 10);
        world_cut_log(w, id);
        assert_int_equal(world_raft(w, id)->log_start, 11);
        assert_int_equal(raft_term_at(world_raft(w, id), 9), 0);
        assert_int_equal(raft_term_at(world_raft(w, id), 10), 1);
    }
    /* A word from elsewhere does not move a follower's cut beyond its own store. */
    struct raft_message m = { .type = RAFT_APPEND,
                              .from = 1,
                              .to = 2,
                              .term = 1,
                              .index = 12,
                              .log_term = 1,
                              .flushed = 12,
                              .sequence = 99 };
    world_say(w, m, NULL);
    assert_int_equal(world_raft(w, 2)->cut, 10);
    world_elect(w, 2);
    world_propose(w, 2, 1);
    world_settle(w);
    world_tick(w, 2, WORLD_HEARTBEAT_MS);
    world_settle(w);
    assert_int_equal(world_raft(w, 1)->commit, world_raft(w, 2)->last_index);
    world_free(w);
}

/* Restart. */

static void a_restart_takes_up_runs_term_and_vote(void **state)
{
    struct world *w = world_new(3);
    const uint64_t log[] = { 1, 1, 3, 3, 3, 4 };
    world_set_log(w, 1, 5, log, 6);
    w->nodes[1].disk_start = 3;
    w->nodes[1].disk_start_term = 1;
    w->nodes[1].disk_vote = 2;
    w->nodes[1].disk_flushed = 4;
    world_restart(w, 1);
    struct raft *raft = world_raft(w, 1);
    assert_int_equal(raft->role, RAFT_FOLLOWER);
    assert_int_equal(raft->term, 5);
    assert_int_equal(raft->vote, 2);
    assert_int_equal(raft->commit, 4);
    assert_int_equal(raft->durable_index, 6);
    assert_int_equal(raft_term_at(raft, 1), 0);
    assert_int_equal(raft_term_at(raft, 2), 1);
    assert_int_equal(raft_term_at(raft, 3), 3);
    assert_int_equal(raft_term_at(raft, 6), 4);
    assert_int_equal(raft_term_at(raft, 7), 0);
    /* The whole log was cut, too. */
    raft_log_cut(raft, 5);
    assert_int_equal(raft_term_at(raft, 4), 3);
    assert_int_equal(raft_term_at(raft, 5), 3);
    struct raft_message append = { .type = RAFT_APPEND,
                                   .from = 2,
                                   .to = 1,
                                   .term = 5,
                                   .index = 6,
                                   .log_term = 4,
                                   .commit = 6,
                                   .sequence = 1 };
    world_say(w, append, NULL);
    raft_log_cut(raft, 7);
    assert_int_equal(raft_term_at(raft, 6), 4);
    assert_int_equal(raft->last_index, 6);
    const struct world_entry entry[] = { { 5, 7005 } };
    append.count = 1;
    world_say(w, append, entry);
    assert_int_equal(raft_term_at(raft, 7), 5);
    world_free(w);
}

/* Below its log's start a follower takes the leader's word: all that is committed. */
static void an_append_that_begins_below_the_log_is_taken(void **state)
{
    struct world *w = world_new(3);
    const uint64_t log[] = { 1, 1, 1, 2 };
    world_set_log(w, 2, 2, log, 4);
    w->nodes[2].disk_start = 4;
    w->nodes[2].disk_start_term = 1;
    w->nodes[2].disk_flushed = 4;
    world_restart(w, 2);
    struct raft_message append = { .type = RAFT_APPEND,
                                   .from = 1,
                                   .to = 2,
                                   .term = 3,
                                   .index = 1,
                                   .log_term = 1,
                                   .count = 4,
                                   .sequence = 1 };
    const struct world_entry entries[] = { { 1, 0 }, { 1, 0 }, { 2, 0 }, { 3, 5003 } };
    world_say(w, append, entries);
    assert_int_equal(world_raft(w, 2)->last_index, 5);
    assert_int_equal(world_look(w, 2, 1, RAFT_APPEND_REPLY).index, 5);
    world_free(w);
}

/* Input that makes no sense. */

static void contradicting_what_is_committed_is_reported_and_refused(void **state)
{
    struct world *w = world_new(3);
    const uint64_t log[] = { 1, 1, 1 };
    world_set_log(w, 2, 1, log, 3);
    w->nodes[2].disk_flushed = 2;
    world_restart(w, 2);
    struct raft_message append = { .type = RAFT_APPEND,
                                   .from = 1,
                                   .to = 2,
                                   .term = 2,
                                   .index = 1,
                                   .log_term = 1,
                                   .count = 1,
                                   .sequence = 1 };
    const struct world_entry other[] = { { 2, 99 } };
    world_say(w, append, other);
    assert_true(w->nodes[2].saw_diverged);
    assert_int_equal(world_count(w, 2, 1, 0), 0);
    assert_int_equal(raft_term_at(world_raft(w, 2), 2), 1);
    w->nodes[2].saw_diverged = false;
    append.index = 2;
    append.log_term = 2;
    append.count = 0;
    world_say(w, append, NULL);
    assert_true(w->nodes[2].saw_diverged);
    assert_int_equal(world_count(w, 2, 1, 0), 0);
    world_free(w);
}

static void malformed_messages_are_ignored(void **state)
{
    struct world *w = world_new(3);
    world_elect(w, 1);
    uint64_t term = world_raft(w, 2)->term;
    const struct world_entry decreasing[] = { { 2, 1 }, { 1, 2 } }, ahead[] = { { 99, 1 } };
    const struct raft_message append = { .type = RAFT_APPEND,
                                         .from = 1,
                                         .to = 2,
                                         .term = 50,
                                         .index = 1,
                                         .log_term = 1,
                                         .sequence = 1 };
    struct raft_message bad[9];
    for (int i = 0; i < 9; i++) {
        bad[i] = append;
    }
    bad[0].type = 0;
    bad[1].type = RAFT_MESSAGE_MAX;
    bad[2].from = 2; /* itself */
    bad[3].from = 8; /* a stranger */
    bad[4].term = 0;
    bad[5].term = UINT64_MAX;
    bad[6].index = UINT64_MAX;
    bad[7].log_term = 51;
    bad[8].type = RAFT_VOTE;
    bad[8].count = 1;
    for (int i = 0; i < 9; i++) {
        world_say(w, bad[i], ahead);
    }
    struct raft_message entries = append;
    entries.count = 2;
    world_say(w, entries, decreasing);
    entries.count = 1;
    world_say(w, entries, ahead);
    entries.group = 7;
    raft_step(world_raft(w, 2), &entries, NULL); /* a count, and nothing behind it */
    entries.group = 8;
    entries.count = 0;
    raft_step(world_raft(w, 2), &entries, NULL);
    world_turn(w, 2);
    assert_int_equal(w->packet_count, 0);
    assert_int_equal(world_raft(w, 2)->term, term);
    assert_int_equal(world_raft(w, 2)->last_index, 1);
    assert_string_equal(raft_message_name(RAFT_TRANSFER), "transfer");
    assert_string_equal(raft_message_name(200), "?");
    assert_string_equal(raft_role_name(RAFT_LEADER), "leader");
    world_free(w);
}

/* Two leaders in one term cannot be; whoever claims it is not believed. */
static void a_second_leader_of_a_term_is_not_followed(void **state)
{
    struct world *w = world_new(3);
    world_elect(w, 1);
    struct raft_message append = {
        .type = RAFT_APPEND, .from = 3, .to = 2, .term = world_raft(w, 1)->term, .sequence = 1
    };
    world_say(w, append, NULL);
    append.to = 1;
    world_say(w, append, NULL);
    assert_int_equal(w->packet_count, 0);
    assert_int_equal(world_raft(w, 2)->leader, 1);
    assert_int_equal(world_raft(w, 1)->role, RAFT_LEADER);
    world_free(w);
}

static void held_messages_are_bounded(void **state)
{
    struct world *w = world_new(3);
    w->nodes[2].manual_disk = true;
    struct raft_message vote = { .type = RAFT_VOTE, .from = 1, .to = 2, .term = 1 };
    for (int i = 0; i < 10 * LIMIT_RAFT_HELD_MESSAGES; i++) {
        world_say(w, vote, NULL);
    }
    world_sync(w, 2);
    assert_int_equal(world_count(w, 2, 1, RAFT_VOTE_REPLY), LIMIT_RAFT_HELD_MESSAGES);
    world_free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_single_replica_elects_itself_when_its_vote_is_durable),
        cmocka_unit_test(the_story_of_an_election),
        cmocka_unit_test(even_groups_need_more_than_half),
        cmocka_unit_test(a_lagging_log_is_refused_and_no_term_is_lost),
        cmocka_unit_test(a_pre_candidate_learns_a_newer_term_from_refusals),
        cmocka_unit_test(lost_votes_are_asked_for_again),
        cmocka_unit_test(a_voter_gives_the_candidate_time),
        cmocka_unit_test(timeouts_differ_and_stay_between_t_and_2t),
        cmocka_unit_test(successors_come_in_the_order_of_the_list),
        cmocka_unit_test(a_successor_asks_again_soon),
        cmocka_unit_test(who_hears_a_leader_does_not_depose_it),
        cmocka_unit_test(a_leader_without_a_majority_steps_down),
        cmocka_unit_test(a_returning_replica_disturbs_nobody),
        cmocka_unit_test(a_stranded_replica_brings_its_term_to_the_leader),
        cmocka_unit_test(the_successor_leads_without_a_pause),
        cmocka_unit_test(the_leader_chooses_the_most_caught_up),
        cmocka_unit_test(a_read_rides_only_a_round_sent_after_it),
        cmocka_unit_test(a_follower_reads_by_its_leaders_word),
        cmocka_unit_test(who_was_deposed_gives_no_word),
        cmocka_unit_test(of_five_nobody_follows),
        cmocka_unit_test(a_confirmation_stands_for_later_rounds),
        cmocka_unit_test(a_change_of_allegiance_is_counted),
        cmocka_unit_test(reads_need_a_majority_and_survive_loss),
        cmocka_unit_test(a_deposed_leader_confirms_no_read),
        cmocka_unit_test(replies_to_an_earlier_leadership_confirm_nothing),
        cmocka_unit_test(a_turn_sends_one_append_and_one_ack),
        cmocka_unit_test(a_deposed_leader_sends_nothing_of_its_term),
        cmocka_unit_test(heartbeats_go_only_where_nothing_else_went),
        cmocka_unit_test(a_lost_append_is_found_by_the_next_heartbeat),
        cmocka_unit_test(an_old_ack_does_not_pass_for_a_probes_answer),
        cmocka_unit_test(a_log_without_room_follows_and_learns_what_is_committed),
        cmocka_unit_test(a_log_with_little_room_takes_a_trifle_a_heartbeat),
        cmocka_unit_test(a_no_op_needs_no_room),
        cmocka_unit_test(what_a_log_without_room_holds_is_replaced),
        cmocka_unit_test(leadership_does_not_go_where_entries_have_no_room),
        cmocka_unit_test(a_laggard_is_served_from_disk),
        cmocka_unit_test(who_lacks_what_was_cut_needs_an_image),
        cmocka_unit_test(the_cut_is_what_every_store_has_flushed),
        cmocka_unit_test(a_restart_takes_up_runs_term_and_vote),
        cmocka_unit_test(an_append_that_begins_below_the_log_is_taken),
        cmocka_unit_test(contradicting_what_is_committed_is_reported_and_refused),
        cmocka_unit_test(malformed_messages_are_ignored),
        cmocka_unit_test(a_second_leader_of_a_term_is_not_followed),
        cmocka_unit_test(held_messages_are_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
