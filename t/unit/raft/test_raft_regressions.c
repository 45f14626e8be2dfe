/* Shows that the Raft core does not have the bugs that other C Raft libraries had. Each test is one
 * schedule told as a story: messages in, messages out. The letters and numbers are those of the
 * project's regression list; those of images are in test_raft_image.c.
 *
 *   S1 old terms counted · S2 unverified suffix acknowledged · S3 two votes in one term · S4 commit
 * only at the own last index · S5 answer without a leader · 6 reply of an old term · 7 entries in
 * flight to disk claimed · 12 commit beyond prev + n · 15 failed log write · 16 answer before apply ·
 * 17 transfer on the optimistic index · 18 probe waits · 20 unbounded flight */
#include "raft_script.h"

/* S1, Raft figure 8. Of five replicas two hold index 2 of term 2. Replica 1 leads term 4 and
 * spreads its old index 2 to a third, so a majority holds it; replica 5 holds another index 2, of
 * term 3, and could still win. Index 2 must not count as committed before the no-op of term 4 is on
 * a majority. */
static void s1_leader_does_not_count_entries_of_old_terms(void **state)
{
    struct world *w = world_new(5);
    const uint64_t old[] = { 1, 2 }, other[] = { 1, 3 };
    for (int id = 1; id <= 4; id++) {
        world_set_log(w, id, 3, old, id <= 2 ? 2 : 1);
    }
    world_set_log(w, 5, 3, other, 2);
    world_isolate(w, 5, true);
    world_time_out(w, 1);
    while (world_raft(w, 1)->role != RAFT_LEADER) {
        assert_true(w->packet_count > 0);
        world_deliver(w, world_packet_take(w, 0));
    }
    struct raft *leader = world_raft(w, 1);
    assert_int_equal(leader->term, 4);
    assert_true(raft_is_noop(leader, 3)); /* the no-op is there from the start */
    assert_int_equal(w->nodes[1].disk[3].term, 4);
    world_drop(w, 0, 0, 0);
    /* Index 2 reaches a majority of disks: 1, 2, 3. */
    struct raft_message ack = {
        .type = RAFT_APPEND_REPLY, .granted = true, .from = 2, .to = 1, .term = 4, .index = 2
    };
    world_say(w, ack, NULL);
    ack.from = 3;
    world_say(w, ack, NULL);
    assert_int_equal(leader->progress[2].match, 2);
    assert_int_equal(leader->commit, 0);
    /* The no-op on three disks commits everything below. */
    ack.index = 3;
    world_say(w, ack, NULL);
    assert_int_equal(leader->commit, 0);
    ack.from = 2;
    world_say(w, ack, NULL);
    assert_int_equal(leader->commit, 3);
    world_free(w);
}

/* S1: what happens otherwise, and is still right: the uncommitted old entry is overwritten by
 * replica 5, in every log. */
static void s1_uncommitted_old_entry_may_be_overwritten(void **state)
{
    struct world *w = world_new(3);
    const uint64_t old[] = { 1, 2 }, other[] = { 1, 3 };
    world_set_log(w, 1, 3, old, 2);
    world_set_log(w, 2, 3, old, 2);
    world_set_log(w, 3, 3, other, 2);
    world_elect(w, 3);
    world_tick(w, 3, WORLD_HEARTBEAT_MS);
    world_settle(w);
    const uint64_t now[] = { 1, 3, 4 };
    for (int id = 1; id <= 3; id++) {
        world_assert_log(w, id, now, 3);
        assert_int_equal(w->nodes[id].disk[2].value, 2003);
        assert_int_equal(world_raft(w, id)->commit, 3);
    }
    world_free(w);
}

/* S2. The follower's log is longer than what the leader verified: entries 3 and 4 are another
 * leader's. It acknowledges prev + n. */
static void s2_follower_acks_only_the_verified_prefix(void **state)
{
    struct world *w = world_new(3);
    const uint64_t log[] = { 1, 1, 1, 1 };
    world_set_log(w, 2, 1, log, 4);
    struct raft_message append = { .type = RAFT_APPEND,
                                   .from = 1,
                                   .to = 2,
                                   .term = 2,
                                   .index = 1,
                                   .log_term = 1,
                                   .count = 1,
                                   .sequence = 1,
                                   .commit = 4 };
    const struct world_entry same[] = { { 1, 2001 } };
    world_say(w, append, same);
    struct raft_message reply = world_look(w, 2, 1, RAFT_APPEND_REPLY);
    assert_true(reply.granted);
    assert_int_equal(reply.index, 2);
    assert_int_equal(world_raft(w, 2)->durable_index, 4); /* it has more, and says nothing of it */
    assert_int_equal(world_raft(w, 2)->commit, 2);
    /* The disk's word about the rest does not widen the ack either. */
    raft_entries_durable(world_raft(w, 2), 4, 1);
    world_turn(w, 2);
    assert_int_equal(world_count(w, 2, 1, RAFT_APPEND_REPLY), 0);
    world_free(w);
}

/* S2: verified by the leader of term 2 counts nothing before the leader of term 3. */
static void s2_verification_ends_with_the_term(void **state)
{
    struct world *w = world_new(3);
    const uint64_t log[] = { 1, 1, 1, 1 };
    world_set_log(w, 2, 1, log, 4);
    struct raft_message append = {
        .type = RAFT_APPEND, .from = 1, .to = 2, .term = 2, .index = 4, .log_term = 1, .sequence = 1
    };
    world_say(w, append, NULL);
    assert_int_equal(world_look(w, 2, 1, RAFT_APPEND_REPLY).index, 4);
    append.from = 3;
    append.term = 3;
    append.index = 2;
    world_say(w, append, NULL);
    struct raft_message reply = world_look(w, 2, 3, RAFT_APPEND_REPLY);
    assert_true(reply.granted);
    assert_int_equal(reply.index, 2);
    world_free(w);
}

/* S3. A leader has its vote of the term given away: to itself. Neither by order of transfer nor
 * otherwise is there a second. */
static void s3_leader_grants_no_second_vote_in_its_term(void **state)
{
    struct world *w = world_new(3);
    world_elect(w, 1);
    struct raft *leader = world_raft(w, 1);
    assert_int_equal(raft_transfer(leader, 2), 0);
    struct raft_message vote = { .type = RAFT_VOTE,
                                 .from = 2,
                                 .to = 1,
                                 .term = leader->term,
                                 .index = 50,
                                 .log_term = leader->term,
                                 .transfer = true };
    world_turn(w, 1);
    world_drop(w, 1, 0, 0);
    world_say(w, vote, NULL);
    assert_false(world_look(w, 1, 2, RAFT_VOTE_REPLY).granted);
    assert_int_equal(leader->role, RAFT_LEADER);
    assert_int_equal(leader->vote, 1);
    /* In the next term it has one vote, and only one. */
    vote.term++;
    world_say(w, vote, NULL);
    assert_true(world_look(w, 1, 2, RAFT_VOTE_REPLY).granted);
    vote.from = 3;
    world_say(w, vote, NULL);
    assert_false(world_look(w, 1, 3, RAFT_VOTE_REPLY).granted);
    world_free(w);
}

/* S3: the vote is durable before it leaves, and a crash before that leaves no trace of it. */
static void s3_vote_is_durable_before_it_leaves(void **state)
{
    struct world *w = world_new(3);
    w->nodes[2].manual_disk = true;
    struct raft_message vote = { .type = RAFT_VOTE, .from = 1, .to = 2, .term = 1 };
    world_say(w, vote, NULL);
    assert_int_equal(world_raft(w, 2)->vote, 1);
    assert_int_equal(world_count(w, 2, 0, 0), 0);
    world_restart(w, 2);
    assert_int_equal(world_raft(w, 2)->vote, 0);
    vote.from = 3; /* so it may give it to another: nobody saw the first */
    world_say(w, vote, NULL);
    assert_int_equal(world_count(w, 2, 0, 0), 0);
    world_sync(w, 2);
    assert_true(world_look(w, 2, 3, RAFT_VOTE_REPLY).granted);
    world_restart(w, 2);
    assert_int_equal(world_raft(w, 2)->vote, 3);
    vote.from = 1;
    world_say(w, vote, NULL);
    assert_false(world_look(w, 2, 1, RAFT_VOTE_REPLY).granted);
    world_free(w);
}

/* S3: the word that the term is durable (vote still open) does not let the vote go. */
static void s3_durable_term_is_not_a_durable_vote(void **state)
{
    struct world *w = world_new(3);
    w->nodes[2].manual_disk = true;
    struct raft_message append = { .type = RAFT_APPEND_REPLY, .from = 3, .to = 2, .term = 4 };
    world_say(w, append, NULL); /* learns of term 4 */
    struct raft_message vote = { .type = RAFT_VOTE, .from = 1, .to = 2, .term = 4 };
    world_say(w, vote, NULL);
    assert_int_equal(w->nodes[2].op_count, 2);
    world_sync_one(&w->nodes[2]); /* (4, nobody) */
    world_turn(w, 2);
    assert_int_equal(world_count(w, 2, 0, 0), 0);
    world_sync_one(&w->nodes[2]); /* (4, 1) */
    world_turn(w, 2);
    assert_true(world_look(w, 2, 1, RAFT_VOTE_REPLY).granted);
    world_free(w);
}

/* S4. Under load the leader's last index is always ahead; commit follows the majority, wherever it
 * stands. */
static void s4_commit_follows_the_majority_below_the_last_index(void **state)
{
    struct world *w = world_new(3);
    world_elect(w, 1);
    struct raft *leader = world_raft(w, 1);
    uint64_t before = leader->commit;
    for (int round = 0; round < 10; round++) {
        world_propose(w, 1, 1);
        world_propose(w, 1, 1); /* more arrives before the answer */
        world_drop(w, 1, 3, 0);
        while (world_find(w, 2, 1, RAFT_APPEND_REPLY) < 0) {
            world_pass(w, 1, 2, RAFT_APPEND);
        }
        world_pass(w, 2, 1, RAFT_APPEND_REPLY);
        assert_true(leader->commit > before);
        assert_true(leader->commit < leader->last_index);
        before = leader->commit;
    }
    world_free(w);
}

/* S4, 7: the leader's own disk is one vote among three: without it two others suffice, and it alone
 * is nothing. */
static void s4_leaders_own_disk_is_one_vote(void **state)
{
    struct world *w = world_new(3);
    world_elect(w, 1);
    struct raft *leader = world_raft(w, 1);
    uint64_t commit = leader->commit;
    w->nodes[1].manual_disk = true;
    uint64_t index = world_propose(w, 1, 1);
    world_pass(w, 1, 2, RAFT_APPEND); /* sent although the own disk is not done */
    world_pass(w, 2, 1, RAFT_APPEND_REPLY);
    assert_int_equal(leader->commit, commit);
    world_pass(w, 1, 3, RAFT_APPEND);
    world_pass(w, 3, 1, RAFT_APPEND_REPLY);
    assert_int_equal(leader->commit, index);
    assert_true(leader->durable_index < index);
    world_free(w);
}

/* S5. A message of an old term arrives while no leader is known: the answer goes to who sent it. */
static void s5_answer_goes_to_the_sender(void **state)
{
    struct world *w = world_new(3);
    world_set_log(w, 2, 5, NULL, 0);
    struct raft_message append = {
        .type = RAFT_APPEND, .from = 3, .to = 2, .term = 4, .sequence = 9
    };
    world_say(w, append, NULL);
    struct raft_message reply = world_look(w, 2, 3, RAFT_APPEND_REPLY);
    assert_false(reply.granted);
    assert_int_equal(reply.term, 5);
    struct raft_message read = { .type = RAFT_READ, .from = 1, .to = 2, .term = 3, .sequence = 2 };
    world_say(w, read, NULL);
    reply = world_look(w, 2, 1, RAFT_READ_REPLY);
    assert_false(reply.granted);
    assert_int_equal(world_raft(w, 2)->leader, 0);
    world_free(w);
}

/* 6. An ack waits for the disk; meanwhile the term changes. What was computed under the old term
 * never leaves, neither as it was nor in the clothes of the new term. */
static void r6_reply_of_an_old_term_is_dropped(void **state)
{
    struct world *w = world_new(3);
    w->nodes[2].manual_disk = true;
    struct raft_message append = {
        .type = RAFT_APPEND, .from = 1, .to = 2, .term = 1, .count = 2, .sequence = 1
    };
    const struct world_entry entries[] = { { 1, 11 }, { 1, 12 } };
    world_say(w, append, entries);
    assert_int_equal(world_count(w, 2, 0, 0), 0);
    struct raft_message vote = { .type = RAFT_VOTE,
                                 .from = 3,
                                 .to = 2,
                                 .term = 2,
                                 .index = 9,
                                 .log_term = 1,
                                 .transfer = true };
    world_say(w, vote, NULL);
    world_sync(w, 2); /* the entries of term 1 are durable now, and the vote of term 2 */
    assert_int_equal(world_count(w, 2, 0, RAFT_APPEND_REPLY), 0);
    struct raft_message reply = world_look(w, 2, 3, RAFT_VOTE_REPLY);
    assert_int_equal(reply.term, 2);
    assert_int_equal(world_count(w, 2, 0, 0), 0);
    world_free(w);
}

/* 6: held messages go with their term, also those of an own campaign. */
static void r6_held_campaign_is_dropped_by_a_newer_term(void **state)
{
    struct world *w = world_new(3);
    w->nodes[1].manual_disk = true;
    world_time_out(w, 1);
    world_pass(w, 1, 2, RAFT_PRE_VOTE);
    world_drop(w, 1, 3, 0);
    world_pass(w, 2, 1, RAFT_PRE_VOTE_REPLY);
    assert_int_equal(world_raft(w, 1)->role, RAFT_CANDIDATE);
    assert_int_equal(world_count(w, 1, 0, 0), 0);
    struct raft_message append = {
        .type = RAFT_APPEND, .from = 3, .to = 1, .term = 8, .sequence = 1
    };
    world_say(w, append, NULL);
    world_sync(w, 1);
    assert_int_equal(world_count(w, 1, 0, RAFT_VOTE), 0);
    assert_int_equal(world_look(w, 1, 3, RAFT_APPEND_REPLY).term, 8);
    world_free(w);
}

/* 6: a reply that reaches a leader from an earlier term of its own counts nothing. */
static void r6_leader_ignores_replies_of_older_terms(void **state)
{
    struct world *w = world_new(3);
    world_elect(w, 1);
    world_elect(w, 2);
    world_elect(w, 1);
    struct raft *leader = world_raft(w, 1);
    uint64_t commit = leader->commit, index = world_propose(w, 1, 1);
    world_drop(w, 0, 0, 0);
    struct raft_message ack = { .type = RAFT_APPEND_REPLY,
                                .granted = true,
                                .from = 2,
                                .to = 1,
                                .term = leader->term - 1,
                                .index = index };
    world_say(w, ack, NULL);
    assert_int_equal(leader->commit, commit);
    ack.term++;
    world_say(w, ack, NULL);
    assert_int_equal(leader->commit, index);
    world_free(w);
}

/* 7. The candidate has entries 1 and 2 in memory, its disk only 1: it claims 1. So a voter that has
 * 2 refuses. */
static void r7_candidate_claims_only_durable_entries(void **state)
{
    struct world *w = world_new(3);
    const uint64_t log[] = { 1 };
    world_set_log(w, 1, 1, log, 1);
    world_set_log(w, 2, 1, log, 1);
    struct raft_message append = { .type = RAFT_APPEND,
                                   .from = 3,
                                   .to = 1,
                                   .term = 1,
                                   .index = 1,
                                   .log_term = 1,
                                   .count = 1,
                                   .sequence = 1 };
    const struct world_entry entry[] = { { 1, 2001 } };
    w->nodes[1].manual_disk = true;
    world_say(w, append, entry);
    append.to = 2;
    world_say(w, append, entry);
    world_drop(w, 0, 0, 0);
    assert_int_equal(world_raft(w, 1)->last_index, 2);
    world_time_out(w, 2);
    world_drop(w, 0, 0, 0);
    world_time_out(w, 1);
    struct raft_message ask = world_pass(w, 1, 2, RAFT_PRE_VOTE);
    assert_int_equal(ask.index, 1);
    assert_false(world_look(w, 2, 1, RAFT_PRE_VOTE_REPLY).granted);
    world_free(w);
}

/* 7: the voter counts what it has in memory, the follower acknowledges what it has on disk. */
static void r7_ack_waits_for_the_disk(void **state)
{
    struct world *w = world_new(3);
    world_elect(w, 1);
    struct raft *leader = world_raft(w, 1);
    uint64_t commit = leader->commit;
    world_isolate(w, 3, true);
    w->nodes[2].manual_disk = true;
    uint64_t index = world_propose(w, 1, 3);
    world_pass(w, 1, 2, RAFT_APPEND);
    world_settle(w);
    assert_int_equal(leader->commit, commit);
    world_tick(w, 1, WORLD_HEARTBEAT_MS); /* a heartbeat is answered, with the old index */
    world_pass(w, 1, 2, RAFT_APPEND);
    assert_int_equal(world_pass(w, 2, 1, RAFT_APPEND_REPLY).index, commit);
    assert_int_equal(leader->commit, commit);
    world_sync(w, 2);
    assert_int_equal(world_pass(w, 2, 1, RAFT_APPEND_REPLY).index, index + 2);
    assert_int_equal(leader->commit, index + 2);
    world_free(w);
}

/* 7: late word of a suffix that was replaced meanwhile makes nothing durable. */
static void r7_late_word_of_a_replaced_suffix_is_ignored(void **state)
{
    struct world *w = world_new(3);
    struct raft *raft = world_raft(w, 2);
    w->nodes[2].manual_disk = true;
    struct raft_message append = {
        .type = RAFT_APPEND, .from = 1, .to = 2, .term = 1, .count = 3, .sequence = 1
    };
    const struct world_entry first[] = { { 1, 11 }, { 1, 12 }, { 1, 13 } };
    world_say(w, append, first);
    append.from = 3;
    append.term = 2;
    append.index = 1;
    append.log_term = 1;
    append.count = 1;
    const struct world_entry second[] = { { 2, 22 } };
    world_say(w, append, second);
    assert_int_equal(raft->last_index, 2);
    raft_entries_durable(raft, 3, 1);
    raft_entries_durable(raft, 2, 1);
    assert_int_equal(raft->durable_index, 0);
    raft_entries_durable(raft, 1, 1);
    assert_int_equal(raft->durable_index, 1);
    world_turn(w, 2);
    world_sync(w, 2);
    assert_int_equal(raft->durable_index, 2);
    assert_int_equal(world_look(w, 2, 3, RAFT_APPEND_REPLY).index, 2);
    world_free(w);
}

/* 12. The leader's commit is far ahead, the append verifies little, and a later one carries an
 * older commit. */
static void r12_commit_neither_exceeds_the_verified_nor_goes_back(void **state)
{
    struct world *w = world_new(3);
    const uint64_t log[] = { 1, 1, 1, 1, 1 };
    world_set_log(w, 2, 1, log, 5); /* 3 … 5 may be stale */
    struct raft *raft = world_raft(w, 2);
    struct raft_message append = { .type = RAFT_APPEND,
                                   .from = 1,
                                   .to = 2,
                                   .term = 2,
                                   .index = 2,
                                   .log_term = 1,
                                   .commit = 9,
                                   .sequence = 1 };
    world_say(w, append, NULL);
    assert_int_equal(raft->commit, 2);
    append.index = 4;
    append.commit = 3;
    world_say(w, append, NULL);
    assert_int_equal(raft->commit, 3);
    append.commit = 1; /* overtaken on the way */
    world_say(w, append, NULL);
    assert_int_equal(raft->commit, 3);
    append.index = 1;
    append.commit = 3;
    world_say(w, append, NULL);
    assert_int_equal(raft->commit, 3);
    world_free(w);
}

/* 12: an append that comes twice, or late, does not shorten the log. */
static void r12_a_repeated_append_does_not_truncate(void **state)
{
    struct world *w = world_new(3);
    struct raft *raft = world_raft(w, 2);
    struct raft_message append = {
        .type = RAFT_APPEND, .from = 1, .to = 2, .term = 1, .count = 2, .sequence = 1
    };
    const struct world_entry entries[] = { { 1, 11 }, { 1, 12 }, { 1, 13 } };
    world_say(w, append, entries);
    append.index = 2;
    append.log_term = 1;
    append.count = 1;
    world_say(w, append, entries + 2);
    assert_int_equal(raft->last_index, 3);
    append.index = 0;
    append.log_term = 0;
    append.count = 2;
    world_say(w, append, entries);
    assert_int_equal(raft->last_index, 3);
    assert_int_equal(raft->durable_index, 3);
    /* Overlapping: the first two are known, only the rest goes to the log. */
    const struct world_entry more[] = { { 1, 12 }, { 1, 13 }, { 1, 14 } };
    append.index = 1;
    append.log_term = 1;
    append.count = 3;
    world_say(w, append, more);
    assert_int_equal(raft->last_index, 4);
    assert_int_equal(w->nodes[2].appended_skip, 2);
    assert_int_equal(w->nodes[2].disk[4].value, 14);
    world_free(w);
}

/* 15. The disk fails: nothing becomes durable any more. Then nothing is acknowledged and no vote
 * leaves, whatever arrives; the leader that steps down asks for nothing itself. (That the node
 * stops is the driver's part.) */
static void r15_a_dead_disk_promises_nothing(void **state)
{
    struct world *w = world_new(3);
    world_elect(w, 1);
    struct raft *leader = world_raft(w, 1);
    world_isolate(w, 3, true);
    w->nodes[2].manual_disk = true;
    uint64_t commit = leader->commit;
    world_propose(w, 1, 5);
    for (int i = 0; i < 20; i++) {
        world_tick(w, 1, WORLD_HEARTBEAT_MS);
        world_tick(w, 2, WORLD_HEARTBEAT_MS);
        world_settle(w);
    }
    assert_int_equal(leader->commit, commit);
    struct raft_message vote = { .type = RAFT_VOTE,
                                 .from = 3,
                                 .to = 2,
                                 .term = 50,
                                 .index = 90,
                                 .log_term = 49,
                                 .transfer = true };
    world_say(w, vote, NULL);
    assert_int_equal(world_count(w, 2, 3, 0), 0);
    /* The failed disk is the leader's own: it steps down and stays quiet while the others elect. */
    w->nodes[1].manual_disk = true;
    raft_step_down(leader);
    world_turn(w, 1);
    assert_int_equal(leader->role, RAFT_FOLLOWER);
    uint64_t first;
    assert_int_equal(raft_propose(leader, &(uint32_t){ 1 }, 1, &first), ERR_NOT_PRIMARY);
    world_tick(w, 1, 3 * WORLD_T_MS);
    assert_int_equal(leader->role, RAFT_FOLLOWER);
    assert_int_equal(world_count(w, 1, 0, RAFT_PRE_VOTE), 0);
    world_free(w);
}

/* 16. The effect that an entry is committed comes before anything that could show it: the commit is
 * visible in the same turn in which the last needed ack was stepped, and a read confirmed in a
 * later turn asks for at least that index. */
static void r16_commit_is_told_before_reads_can_show_it(void **state)
{
    struct world *w = world_new(3);
    world_elect(w, 1);
    struct raft *leader = world_raft(w, 1);
    uint64_t index = world_propose(w, 1, 1);
    world_pass(w, 1, 2, RAFT_APPEND);
    struct world_packet ack = world_take(w, 2, 1, RAFT_APPEND_REPLY);
    assert_false(leader->out.commit_advanced);
    world_step(w, &ack);
    assert_true(leader->out.commit_advanced);
    assert_int_equal(leader->commit, index);
    uint64_t sequence, read_index;
    assert_int_equal(raft_read(leader, &sequence, &read_index), 0);
    assert_int_equal(read_index, index);
    assert_false(leader->out.reads_confirmed);
    world_turn(w, 1);
    world_free(w);
}

/* 17. The order to campaign goes out when the successor's disk holds everything, again until it
 * works, and the leader gives up where everybody can see it. */
static void r17_transfer_waits_repeats_and_gives_up(void **state)
{
    struct world *w = world_new(3);
    world_elect(w, 1);
    struct raft *leader = world_raft(w, 1);
    w->nodes[2].manual_disk = true;
    world_propose(w, 1, 4);
    assert_int_equal(raft_transfer(leader, 2), 0);
    assert_int_equal(raft_transfer(leader, 3), ERR_BUSY);
    uint64_t first;
    assert_int_equal(raft_propose(leader, &(uint32_t){ 1 }, 1, &first), ERR_NOT_PRIMARY);
    world_settle(w);
    /* Sent is not held: match lags, so no order yet. */
    assert_int_equal(leader->progress[1].next, leader->last_index + 1);
    assert_true(leader->progress[1].match < leader->last_index);
    world_tick(w, 1, WORLD_HEARTBEAT_MS);
    assert_int_equal(world_count(w, 1, 2, RAFT_TRANSFER), 0);
    world_settle(w);
    world_sync(w, 2);
    world_pass(w, 2, 1, RAFT_APPEND_REPLY);
    assert_int_equal(world_count(w, 1, 2, RAFT_TRANSFER), 1);
    world_drop(w, 1, 2, RAFT_TRANSFER); /* lost */
    world_tick(w, 1, WORLD_HEARTBEAT_MS);
    assert_int_equal(world_count(w, 1, 2, RAFT_TRANSFER), 1);
    world_drop(w, 1, 2, RAFT_TRANSFER);
    assert_false(w->nodes[1].saw_transfer_done);
    for (int i = 0; i < WORLD_T_MS / WORLD_HEARTBEAT_MS; i++) {
        world_tick(w, 1, WORLD_HEARTBEAT_MS);
        world_drop(w, 1, 2, RAFT_TRANSFER);
        world_settle(w);
    }
    assert_true(w->nodes[1].saw_transfer_done);
    assert_int_equal(leader->role, RAFT_LEADER);
    assert_int_equal(leader->transfer_to, 0);
    assert_int_equal(raft_propose(leader, &(uint32_t){ 1 }, 1, &first), 0);
    world_log_effects(&w->nodes[1], NULL);
    world_free(w);
}

/* 18. A probe is refused: the next goes out in the same turn, where the logs can meet, not one step
 * lower and not with the next heartbeat. Leader: terms 1 1 1 4 4 4 5 5, follower: 1 1 1 2 2 2 3 3
 * 3 3. */
static void r18_refused_probe_is_answered_at_once_with_the_hint(void **state)
{
    struct world *w = world_new(3);
    const uint64_t leader_log[] = { 1, 1, 1, 4, 4, 4, 5, 5 };
    const uint64_t follower_log[] = { 1, 1, 1, 2, 2, 2, 3, 3, 3, 3 };
    world_set_log(w, 1, 5, leader_log, 8);
    world_set_log(w, 2, 5, follower_log, 10);
    world_set_log(w, 3, 5, leader_log, 8);
    world_time_out(w, 1);
    world_pass(w, 1, 3, RAFT_PRE_VOTE);
    world_pass(w, 3, 1, RAFT_PRE_VOTE_REPLY);
    world_pass(w, 1, 3, RAFT_VOTE);
    world_drop(w, 1, 2, 0);
    world_pass(w, 3, 1, RAFT_VOTE_REPLY);
    struct raft_message probe = world_pass(w, 1, 2, RAFT_APPEND);
    assert_int_equal(probe.index, 8);
    assert_int_equal(probe.count, 0);
    struct raft_message refusal = world_pass(w, 2, 1, RAFT_APPEND_REPLY);
    assert_false(refusal.granted);
    assert_int_equal(refusal.index, 8);
    assert_int_equal(refusal.hint, 7); /* term 3 <= 5: it cannot know better */
    assert_int_equal(refusal.log_term, 3);
    /* The leader skips its terms above 3 by itself: index 3 is next, without a tick in between. */
    probe = world_pass(w, 1, 2, RAFT_APPEND);
    assert_int_equal(probe.index, 3);
    assert_true(world_pass(w, 2, 1, RAFT_APPEND_REPLY).granted);
    world_settle(w);
    const uint64_t all[] = { 1, 1, 1, 4, 4, 4, 5, 5, 6 };
    world_assert_log(w, 2, all, 9);
    assert_int_equal(world_raft(w, 1)->commit, 9);
    world_free(w);
}

/* 20. A follower that does not answer: what is in flight to it is bounded in bytes and messages, a
 * probe carries nothing, and after each lost connection only the probe goes again. */
static void r20_bytes_in_flight_are_bounded(void **state)
{
    struct raft_config small = { .seed = 1,
                                 .inflight_bytes_max = 1000,
                                 .inflight_messages_max = 4,
                                 .append_bytes_max = 300,
                                 .append_entries_max = 100 };
    struct world *w = world_new_with(3, &small);
    world_elect(w, 1);
    struct raft *leader = world_raft(w, 1);
    world_drop(w, 0, 0, 0);
    for (int i = 0; i < 50; i++) {
        world_propose(w, 1, 10);
        world_tick(w, 1, 1);
    }
    struct raft_progress *slow = &leader->progress[2];
    assert_true(slow->inflight_bytes <= 1000);
    assert_true(slow->inflight_messages <= 4);
    int count = 0, entries = 0;
    for (int at; (at = world_find(w, 1, 3, RAFT_APPEND)) >= 0; count++) {
        struct world_packet packet = world_packet_take(w, at);
        assert_true(packet.message.count * WORLD_ENTRY_BYTES <= 300);
        entries += (int)packet.message.count;
        free(packet.entries);
    }
    assert_true(entries * WORLD_ENTRY_BYTES <= 1000);
    for (int i = 0; i < 10; i++) {
        raft_peer_reset(leader, 3);
        world_turn(w, 1);
        struct raft_message probe = world_look(w, 1, 3, RAFT_APPEND);
        assert_int_equal(probe.count, 0);
        assert_int_equal(world_count(w, 1, 3, RAFT_APPEND), 0);
        assert_int_equal(slow->inflight_bytes, 0);
    }
    /* It comes back: the stream flows through the window, everything arrives. */
    world_tick(w, 1, WORLD_HEARTBEAT_MS);
    world_settle(w);
    assert_int_equal(slow->match, leader->last_index);
    assert_int_equal(slow->inflight_bytes, 0);
    assert_int_equal(slow->inflight_messages, 0);
    world_free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(s1_leader_does_not_count_entries_of_old_terms),
        cmocka_unit_test(s1_uncommitted_old_entry_may_be_overwritten),
        cmocka_unit_test(s2_follower_acks_only_the_verified_prefix),
        cmocka_unit_test(s2_verification_ends_with_the_term),
        cmocka_unit_test(s3_leader_grants_no_second_vote_in_its_term),
        cmocka_unit_test(s3_vote_is_durable_before_it_leaves),
        cmocka_unit_test(s3_durable_term_is_not_a_durable_vote),
        cmocka_unit_test(s4_commit_follows_the_majority_below_the_last_index),
        cmocka_unit_test(s4_leaders_own_disk_is_one_vote),
        cmocka_unit_test(s5_answer_goes_to_the_sender),
        cmocka_unit_test(r6_reply_of_an_old_term_is_dropped),
        cmocka_unit_test(r6_held_campaign_is_dropped_by_a_newer_term),
        cmocka_unit_test(r6_leader_ignores_replies_of_older_terms),
        cmocka_unit_test(r7_candidate_claims_only_durable_entries),
        cmocka_unit_test(r7_ack_waits_for_the_disk),
        cmocka_unit_test(r7_late_word_of_a_replaced_suffix_is_ignored),
        cmocka_unit_test(r12_commit_neither_exceeds_the_verified_nor_goes_back),
        cmocka_unit_test(r12_a_repeated_append_does_not_truncate),
        cmocka_unit_test(r15_a_dead_disk_promises_nothing),
        cmocka_unit_test(r16_commit_is_told_before_reads_can_show_it),
        cmocka_unit_test(r17_transfer_waits_repeats_and_gives_up),
        cmocka_unit_test(r18_refused_probe_is_answered_at_once_with_the_hint),
        cmocka_unit_test(r20_bytes_in_flight_are_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
