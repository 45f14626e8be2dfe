/* Shows that the Raft core does not have the bugs that other C Raft libraries had. Each test is one
 * schedule told as a story: messages in, messages out. The letters and numbers are those of the
 * project's regression list.
 *
 *   S1 old terms counted · S2 unverified suffix acknowledged · S3 two votes in one term · S4 commit
 * only at the own last index · S5 answer without a leader · 6 reply of an old term · 7 entries in
 * flight to disk claimed · 8 term changes under an image · 10 uncommitted in an image · 12 commit
 * beyond prev + n · 15 failed log write · 16 answer before apply · 17 transfer on the optimistic
 * index · 18 probe waits · 13 a higher term as proof · 14 late word of what an image replaced · 19
 * heartbeat restarts the image · 20 unbounded flight */
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

/* --- Images: 8, 10, 13, 14, 19 --- */

/* Replica 1 leads and has cut its log behind index 6; replica 3, whose log holds `terms`, was away.
 * It is told so, and replica 1's driver is asked for an image. */
static struct world *world_with_laggard(const uint64_t *terms, uint64_t last)
{
    struct world *w = world_new(3);
    const uint64_t log[] = { 1, 1, 2, 2, 2, 2 };
    world_set_log(w, 1, 2, log, 6);
    world_set_log(w, 2, 2, log, 6);
    world_set_log(w, 3, 2, terms, last);
    world_isolate(w, 3, true);
    world_elect(w, 1);
    world_propose(w, 1, 3);
    world_settle(w);
    world_flush_store(w, 1);
    assert_int_equal(w->nodes[1].disk_flushed, 10);
    world_cut_log_at(w, 1, 7);
    world_isolate(w, 3, false);
    raft_peer_reset(world_raft(w, 1), 3);
    world_tick(w, 1, WORLD_HEARTBEAT_MS);
    world_settle(w);
    assert_int_equal(world_raft(w, 1)->progress[2].state, RAFT_IMAGING);
    assert_int_equal(w->nodes[1].want_count, 1);
    assert_int_equal(w->nodes[1].wants[0].to, 3);
    return w;
}

/* 8. The term changes while the image is being installed: the swap is done in the store, the core
 * hears of it two terms later, under another leader. What an image holds is committed, so it is
 * part of that leader's log too; log and state agree. */
static void r8_term_changes_while_an_image_is_installed(void **state)
{
    const uint64_t log[] = { 1, 1 };
    struct world *w = world_with_laggard(log, 2);
    world_offer_images(w, 1);
    world_pass(w, 1, 3, RAFT_IMAGE);
    assert_int_equal(w->nodes[3].image.index, 10);
    assert_true(world_install_begin(w, 3));
    world_drop(w, 0, 0, 0);
    world_flush_store(w, 2);
    world_cut_log_at(w, 2, 7);
    world_elect(w, 2);
    world_elect(w, 1);
    world_elect(w, 2);
    assert_int_equal(world_raft(w, 3)->last_index, 2);
    assert_int_equal(world_raft(w, 3)->leader, 2);
    uint64_t term = world_raft(w, 3)->term;
    world_install_end(w, 3);
    assert_int_equal(world_raft(w, 3)->log_start, 11);
    assert_int_equal(world_raft(w, 3)->start_term, 3);
    assert_int_equal(world_raft(w, 3)->commit, 10);
    assert_int_equal(world_raft(w, 3)->flushed, 10);
    assert_int_equal(world_raft(w, 3)->term, term);
    /* The new leader goes on behind it. */
    struct raft_message ack = world_pass(w, 3, 2, RAFT_APPEND_REPLY);
    assert_true(ack.granted && ack.index == 10 && ack.term == term);
    uint64_t last = world_propose(w, 2, 1);
    world_tick(w, 2, WORLD_HEARTBEAT_MS);
    world_settle(w);
    assert_int_equal(world_raft(w, 3)->last_index, last);
    world_free(w);
}

/* 8: restartable. The store has swapped, the process dies before log or core know: the log that
 * comes up begins behind the image, and nothing that it acknowledged is missing. */
static void r8_a_crash_between_swap_and_log_is_mended_at_start(void **state)
{
    const uint64_t other[] = { 1, 1, 1, 1 };
    struct world *w = world_with_laggard(other, 4);
    world_offer_images(w, 1);
    world_pass(w, 1, 3, RAFT_IMAGE);
    assert_true(world_install_begin(w, 3));
    world_restart(w, 3);
    assert_int_equal(world_raft(w, 3)->log_start, 11);
    assert_int_equal(world_raft(w, 3)->last_index, 10);
    assert_int_equal(world_raft(w, 3)->commit, 10);
    world_tick(w, 1, WORLD_HEARTBEAT_MS);
    world_settle(w);
    assert_int_equal(world_raft(w, 1)->progress[2].match, 10);
    world_free(w);
}

/* 8: an offer made under a term that is over is not taken. */
static void r8_an_offer_of_an_old_term_is_refused(void **state)
{
    const uint64_t log[] = { 1, 1 };
    struct world *w = world_with_laggard(log, 2);
    world_offer_images(w, 1);
    struct world_packet offer = world_take(w, 1, 3, RAFT_IMAGE);
    world_elect(w, 2);
    world_settle(w);
    uint64_t term = world_raft(w, 3)->term;
    world_deliver(w, offer);
    struct raft_message reply = world_look(w, 3, 1, RAFT_IMAGE_REPLY);
    assert_false(reply.granted);
    assert_int_equal(reply.term, term);
    assert_int_equal(w->nodes[3].image.from, 0);
    world_free(w);
}

/* 10. What is not committed gets into no image: neither entries nor, one day, a membership. */
static void r10_an_image_holds_only_what_is_committed(void **state)
{
    const uint64_t log[] = { 1, 1 };
    struct world *w = world_with_laggard(log, 2);
    struct raft *leader = world_raft(w, 1);
    world_isolate(w, 2, true);
    uint64_t open = world_propose(w, 1, 1);
    assert_int_equal(leader->commit, open - 1);
    assert_int_equal(raft_image_offer(leader, 3, open, 7), ERR_BAD_REQUEST);
    assert_int_equal(raft_image_offer(leader, 3, 5, 7), ERR_BAD_REQUEST); /* the log can't follow */
    assert_int_equal(raft_image_offer(leader, 2, 10, 7), ERR_BAD_REQUEST); /* doesn't want any */
    assert_int_equal(raft_image_offer(world_raft(w, 2), 3, 10, 7), ERR_NOT_PRIMARY);
    assert_int_equal(raft_image_offer(leader, 3, open - 1, 7), 0);
    world_free(w);
}

/* 13. The follower's log reaches beyond the image's index and its last term is the leader's own
 * predecessor's, higher than the image's: none of that says that it holds (index, term). */
static void r13_a_higher_local_term_is_no_proof(void **state)
{
    struct world *w = world_new(3);
    const uint64_t log[] = { 1, 1, 1, 1, 1, 1 }, other[] = { 1, 1, 2, 2, 2, 2, 2, 2 };
    world_set_log(w, 1, 3, log, 6);
    world_set_log(w, 3, 3, other, 8); /* uncommitted leftovers of a deposed leader of term 2 */
    struct raft_message offer = { .type = RAFT_IMAGE,
                                  .from = 1,
                                  .to = 3,
                                  .term = 4,
                                  .index = 6,
                                  .log_term = 1,
                                  .commit = 6,
                                  .sequence = 1 };
    world_say(w, offer, NULL);
    assert_false(world_look(w, 3, 1, RAFT_IMAGE_REPLY).granted);
    assert_int_equal(world_count(w, 3, 1, RAFT_APPEND_REPLY), 0); /* and acknowledges nothing */
    assert_int_equal(world_raft(w, 3)->commit, 0);
    assert_true(world_install_begin(w, 3));
    world_install_end(w, 3);
    assert_int_equal(world_raft(w, 3)->log_start, 7);
    assert_int_equal(world_raft(w, 3)->last_index, 6); /* the conflicting suffix is gone */
    world_free(w);
}

/* 13: equal term at the index: it has all that, nothing is fetched, and the suffix stays. */
static void r13_the_same_entry_makes_the_image_needless(void **state)
{
    struct world *w = world_new(3);
    const uint64_t log[] = { 1, 1, 1, 1, 1, 1, 1 };
    world_set_log(w, 3, 3, log, 7);
    struct raft_message offer = { .type = RAFT_IMAGE,
                                  .from = 1,
                                  .to = 3,
                                  .term = 4,
                                  .index = 6,
                                  .log_term = 1,
                                  .commit = 6,
                                  .sequence = 1 };
    world_say(w, offer, NULL);
    struct raft_message reply = world_look(w, 3, 1, RAFT_IMAGE_REPLY);
    assert_true(reply.granted);
    assert_int_equal(reply.hint, 6);
    assert_int_equal(world_look(w, 3, 1, RAFT_APPEND_REPLY).index, 6);
    assert_int_equal(w->nodes[3].image.from, 0);
    assert_int_equal(world_raft(w, 3)->commit, 6);
    assert_int_equal(world_raft(w, 3)->last_index, 7);
    world_free(w);
}

/* 14. Entries of the old log are still on their way to the disk when the image replaces it, and
 * some of the same (index, term) come again: the old writes' word counts for nothing. */
static void r14_late_word_of_the_log_before_the_image_is_ignored(void **state)
{
    const uint64_t log[] = { 1, 1 };
    struct world *w = world_with_laggard(log, 2);
    w->nodes[3].manual_disk = true;
    world_offer_images(w, 1);
    world_pass(w, 1, 3, RAFT_IMAGE);
    assert_true(world_install_begin(w, 3));
    world_install_end(w, 3);
    struct raft *raft = world_raft(w, 3);
    raft_entries_durable(raft, 2, 1);  /* below */
    raft_entries_durable(raft, 11, 3); /* of a suffix that is no more */
    assert_int_equal(raft->durable_index, 10);
    world_settle(w);
    world_propose(w, 1, 1);
    world_settle(w);
    assert_int_equal(raft->last_index, 11);
    assert_int_equal(raft->durable_index, 10);
    assert_int_equal(world_raft(w, 1)->progress[2].match, 10);
    world_sync(w, 3);
    world_settle(w);
    assert_int_equal(world_raft(w, 1)->progress[2].match, 11);
    world_free(w);
}

/* A full disk sends no image while a majority goes on without the one that waits for it. */
static void an_image_can_wait_while_a_majority_has_the_log(void **state)
{
    const uint64_t log[] = { 1, 1 };
    struct world *w = world_with_laggard(log, 2);
    assert_true(raft_needs_no_image(world_raft(w, 1)));
    world_isolate(w, 2, true);
    for (int i = 0; i < 6; i++) { /* longer than the leader counts it as within reach */
        world_tick(w, 1, WORLD_HEARTBEAT_MS);
        world_settle(w);
    }
    assert_false(raft_needs_no_image(world_raft(w, 1)));
    world_free(w);
}

/* 19. While the image is under way heartbeats repeat the offer under the same id; neither they, nor
 * answers, nor a broken link, nor another cut log begin it anew. */
static void r19_heartbeats_do_not_restart_the_image(void **state)
{
    const uint64_t log[] = { 1, 1 };
    struct world *w = world_with_laggard(log, 2);
    struct raft_progress *peer = &world_raft(w, 1)->progress[2];
    world_offer_images(w, 1);
    uint64_t id = peer->image_id;
    assert_true(id != 0);
    for (int i = 0; i < 20; i++) {
        world_tick(w, 1, WORLD_HEARTBEAT_MS);
        world_tick(w, 3, WORLD_HEARTBEAT_MS);
        struct raft_message offer = world_pass(w, 1, 3, RAFT_IMAGE);
        assert_int_equal(offer.sequence, id);
        assert_int_equal(offer.index, 10);
        world_drop(w, 1, 3, RAFT_APPEND);
        if (i == 5) {
            raft_peer_reset(world_raft(w, 1), 3);
        } else if (i == 10) {
            world_cut_log_at(w, 1, 9);
        }
        world_settle(w);
        assert_int_equal(peer->image_id, id);
        assert_int_equal(peer->state, RAFT_IMAGING);
        assert_int_equal(w->nodes[1].want_count, 0);
        assert_int_equal(world_raft(w, 3)->role, RAFT_FOLLOWER); /* it is its heartbeat */
    }
    assert_true(world_install_begin(w, 3));
    world_install_end(w, 3);
    world_settle(w);
    assert_int_equal(peer->match, 10);
    assert_int_equal(peer->image_id, 0);
    world_free(w);
}

/* 19: an image whose follower fell silent is given up, and offered anew when it is back. */
static void r19_a_silent_follower_costs_no_image(void **state)
{
    const uint64_t log[] = { 1, 1 };
    struct world *w = world_with_laggard(log, 2);
    struct raft_progress *peer = &world_raft(w, 1)->progress[2];
    world_offer_images(w, 1);
    world_isolate(w, 3, true);
    for (int i = 0; i < 60; i++) {
        world_tick(w, 1, WORLD_HEARTBEAT_MS);
        world_settle(w);
    }
    assert_int_equal(peer->image_id, 0);
    assert_int_equal(w->nodes[1].want_count, 0);
    world_isolate(w, 3, false);
    for (int i = 0; i < 3; i++) {
        world_tick(w, 1, WORLD_HEARTBEAT_MS);
        world_settle(w);
    }
    assert_int_equal(w->nodes[1].want_count, 1);
    world_free(w);
}

/* A store is damaged, its log is good: the replica hands over or steps down, votes, appends and
 * acknowledges, doesn't campaign; an image below its commit index heals it and its log stays. */
static void a_damaged_store_is_healed_beside_the_log(void **state)
{
    struct world *w = world_new(3);
    world_elect(w, 1);
    world_propose(w, 1, 4);
    world_settle(w);
    world_flush_store(w, 1);
    world_propose(w, 1, 2);
    world_settle(w);
    world_tick(w, 1, WORLD_HEARTBEAT_MS);
    world_settle(w);
    struct raft *raft = world_raft(w, 3);
    assert_int_equal(raft->commit, 7);
    world_damage(w, 3);
    assert_true(world_look(w, 3, 1, RAFT_APPEND_REPLY).needs_image);
    world_time_out(w, 3);
    assert_int_equal(raft->role, RAFT_FOLLOWER); /* no campaign */
    assert_int_equal(world_count(w, 3, 0, RAFT_PRE_VOTE), 0);
    world_propose(w, 1, 1);
    world_tick(w, 1, WORLD_HEARTBEAT_MS);
    world_settle(w);
    struct raft_progress *peer = &world_raft(w, 1)->progress[2];
    assert_int_equal(peer->match, 8); /* its log counts */
    assert_true(peer->is_damaged);
    assert_int_equal(raft_transfer(world_raft(w, 1), 0), 0);
    assert_int_equal(world_raft(w, 1)->transfer_to, 2); /* it is no successor */
    for (int i = 0; i < 6; i++) {                       /* which ends without effect */
        world_tick(w, 1, WORLD_HEARTBEAT_MS);
        world_drop(w, 1, 2, RAFT_TRANSFER);
        world_settle(w);
    }
    world_offer_images(w, 1);
    assert_int_equal(peer->image_index, 5);
    world_settle(w);
    assert_true(world_install_begin(w, 3));
    world_install_end(w, 3);
    world_settle(w);
    assert_int_equal(raft->log_start, 1);
    assert_int_equal(raft->commit, 8);
    assert_int_equal(raft->flushed, 5);
    assert_false(raft->needs_image || peer->is_damaged);
    assert_int_equal(peer->image_id, 0);
    world_free(w);
}

/* Its log was cut above the image's index: it asks for a newer one. */
static void a_damaged_store_refuses_an_image_below_its_log(void **state)
{
    struct world *w = world_new(3);
    world_elect(w, 1);
    world_propose(w, 1, 4);
    world_settle(w);
    world_flush_store(w, 1);
    world_propose(w, 1, 2);
    world_settle(w);
    world_tick(w, 1, WORLD_HEARTBEAT_MS);
    world_settle(w);
    world_flush_store(w, 3);
    world_cut_log_at(w, 3, 8);
    world_damage(w, 3);
    world_settle(w);
    world_offer_images(w, 1);
    world_tick(w, 1, WORLD_HEARTBEAT_MS);
    world_settle(w);
    world_offer_images(w, 1);
    world_settle(w);
    assert_int_equal(w->nodes[3].image.from, 0);
    struct raft_progress *peer = &world_raft(w, 1)->progress[2];
    assert_int_equal(peer->image_floor, 7);
    assert_int_equal(peer->image_id, 0);
    world_flush_store(w, 1);
    for (int i = 0; i < 2; i++) {
        world_tick(w, 1, WORLD_HEARTBEAT_MS);
        world_settle(w);
        world_offer_images(w, 1);
    }
    world_settle(w);
    assert_int_equal(w->nodes[3].image.index, 7);
    assert_true(world_install_begin(w, 3));
    world_install_end(w, 3);
    assert_int_equal(world_raft(w, 3)->log_start, 8);
    world_free(w);
}

/* What pins a log: dead replicas only while there is room, then those that are being served, then
 * an image on its way; in the end the own store alone decides. */
static void the_log_is_cut_as_far_as_there_is_need(void **state)
{
    struct world *w = world_new(3);
    world_elect(w, 1);
    world_isolate(w, 3, true);
    world_propose(w, 1, 4);
    world_settle(w);
    world_tick(w, 1, WORLD_HEARTBEAT_MS);
    world_settle(w);
    struct raft *leader = world_raft(w, 1);
    world_flush_store(w, 1);
    assert_int_equal(leader->flushed, 5);
    assert_int_equal(raft_cut_at(leader, RAFT_CUT_SPARING), 0);
    assert_int_equal(raft_cut_at(leader, RAFT_CUT_HEARD), 1); /* 3 was heard lately */
    assert_int_equal(raft_cut_at(leader, RAFT_CUT_OWN), 5);
    for (int i = 0; i < 6; i++) {
        world_tick(w, 1, WORLD_HEARTBEAT_MS);
        world_tick(w, 2, WORLD_HEARTBEAT_MS);
        world_settle(w);
    }
    assert_int_equal(raft_cut_at(leader, RAFT_CUT_SPARING), 0);
    assert_int_equal(raft_cut_at(leader, RAFT_CUT_HEARD), 5);
    assert_int_equal(raft_cut_at(world_raft(w, 2), RAFT_CUT_ALL), 0); /* it has flushed nothing */
    /* It comes back; while its image is on the way, the log behind that stays. */
    world_cut_log_at(w, 1, 6);
    world_isolate(w, 3, false);
    raft_peer_reset(leader, 3);
    world_tick(w, 1, WORLD_HEARTBEAT_MS);
    world_settle(w);
    world_offer_images(w, 1);
    world_propose(w, 1, 3);
    world_settle(w);
    world_flush_store(w, 1);
    assert_int_equal(leader->flushed, 8);
    assert_int_equal(leader->progress[2].image_index, 5);
    assert_int_equal(raft_cut_at(leader, RAFT_CUT_OWN), 5);
    assert_int_equal(raft_cut_at(leader, RAFT_CUT_ALL), 8);
    world_cut_log_at(w, 1, 9);
    assert_int_equal(leader->progress[2].image_id, 0); /* given up: the log can't follow it */
    /* A store that needs an image vouches for nothing. */
    world_damage(w, 2);
    assert_int_equal(raft_cut_at(world_raft(w, 2), RAFT_CUT_ALL), 0);
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
        cmocka_unit_test(r8_term_changes_while_an_image_is_installed),
        cmocka_unit_test(r8_a_crash_between_swap_and_log_is_mended_at_start),
        cmocka_unit_test(r8_an_offer_of_an_old_term_is_refused),
        cmocka_unit_test(r10_an_image_holds_only_what_is_committed),
        cmocka_unit_test(r13_a_higher_local_term_is_no_proof),
        cmocka_unit_test(r13_the_same_entry_makes_the_image_needless),
        cmocka_unit_test(r14_late_word_of_the_log_before_the_image_is_ignored),
        cmocka_unit_test(an_image_can_wait_while_a_majority_has_the_log),
        cmocka_unit_test(r19_heartbeats_do_not_restart_the_image),
        cmocka_unit_test(r19_a_silent_follower_costs_no_image),
        cmocka_unit_test(a_damaged_store_is_healed_beside_the_log),
        cmocka_unit_test(a_damaged_store_refuses_an_image_below_its_log),
        cmocka_unit_test(the_log_is_cut_as_far_as_there_is_need),
        cmocka_unit_test(a_majority_tells_who_holds_the_wrong_thing),
        cmocka_unit_test(replicas_are_compared_at_marks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
