/* Shows that what the others remember binds a replica whose disk was put back to an earlier state:
 * acknowledgements, votes, terms, its own reign; and that a disk which lost nothing is told
 * nothing. */
#include "raft_script.h"

/* What a restart finds. */
struct image {
    uint64_t term, vote, start, start_term, last, flushed;
    struct world_entry entries[WORLD_LOG];
};

static struct image *image_take(struct world *w, int id)
{
    const struct world_node *node = &w->nodes[id];
    struct image *image = calloc(1, sizeof *image);
    image->term = node->disk_term;
    image->vote = node->disk_vote;
    image->start = node->disk_start;
    image->start_term = node->disk_start_term;
    image->last = node->disk_last;
    image->flushed = node->disk_flushed;
    memcpy(image->entries, node->disk, sizeof image->entries);
    return image;
}

/* The replica dies and comes back on that disk; freed. */
static void image_put(struct world *w, int id, struct image *image)
{
    struct world_node *node = &w->nodes[id];
    world_crash(w, id);
    node->disk_term = image->term;
    node->disk_vote = image->vote;
    node->disk_start = image->start;
    node->disk_start_term = image->start_term;
    node->disk_last = image->last;
    node->disk_flushed = image->flushed;
    memcpy(node->disk, image->entries, sizeof image->entries);
    free(image);
    world_node_start(w, id);
}

static struct raft_memory recall(struct world *w, int from, int about)
{
    struct raft_memory memory;
    raft_recall(world_raft(w, from), (uint64_t)about, &memory);
    return memory;
}

/* `from` tells replica `to` what it remembers of it. */
static bool remind(struct world *w, int from, int to)
{
    struct raft_memory memory = recall(w, from, to);
    bool has_lost = raft_remind(world_raft(w, to), (uint64_t)from, &memory);
    world_log_effects(&w->nodes[to], NULL);
    world_turn(w, to);
    return has_lost;
}

/* The connection between them is new, and `to` is another process. */
static void reconnect(struct world *w, int leader, int to)
{
    raft_peer_reset(world_raft(w, leader), (uint64_t)to);
    raft_peer_restarted(world_raft(w, leader), (uint64_t)to);
    world_turn(w, leader);
}

/* Replica 1 leads; 2 acknowledged five entries that 3 lacks. The image is of before. */
static struct world *world_with_a_laggard(struct image **before)
{
    struct world *w = world_new(3);
    world_elect(w, 1);
    world_run(w, 2 * WORLD_HEARTBEAT_MS);
    *before = image_take(w, 2);
    world_isolate(w, 3, true);
    world_propose(w, 1, 5);
    world_run(w, 2 * WORLD_HEARTBEAT_MS);
    assert_int_equal(world_raft(w, 1)->commit, 6);
    world_isolate(w, 3, false);
    return w;
}

static void an_acknowledged_entry_outlives_the_disk(void **state)
{
    struct image *before;
    struct world *w = world_with_a_laggard(&before);
    image_put(w, 2, before);
    assert_int_equal(world_raft(w, 2)->last_index, 1);
    assert_true(remind(w, 1, 2));
    assert_false(remind(w, 3, 2));
    assert_true(raft_is_short(world_raft(w, 2)));
    /* It neither campaigns nor votes for who lacks the entries. */
    world_isolate(w, 1, true);
    world_run(w, 10 * WORLD_T_MS);
    assert_int_equal(world_raft(w, 2)->role, RAFT_FOLLOWER);
    assert_int_not_equal(world_raft(w, 3)->role, RAFT_LEADER);
    /* From who has them it gets them back, and is one like the others again. */
    world_isolate(w, 1, false);
    reconnect(w, 1, 2);
    world_run(w, 10 * WORLD_T_MS);
    assert_false(raft_is_short(world_raft(w, 2)));
    for (int id = 1; id <= 3; id++) {
        assert_true(world_raft(w, id)->commit >= 6);
    }
    world_free(w);
}

/* Without that, the same story loses five entries: the test would see it. */
static void forgetting_loses_them(void **state)
{
    struct image *before;
    struct world *w = world_with_a_laggard(&before);
    image_put(w, 2, before);
    world_isolate(w, 1, true);
    world_run(w, 10 * WORLD_T_MS);
    int leader = world_raft(w, 2)->role == RAFT_LEADER ? 2 : 3;
    assert_int_equal(world_raft(w, leader)->role, RAFT_LEADER);
    assert_true(world_raft(w, leader)->noop_index <= 6);
    world_free(w);
}

/* The leader of the same term doesn't take the old acknowledgement for one of the new process. */
static void a_leader_counts_nothing_of_an_earlier_process(void **state)
{
    struct image *before;
    struct world *w = world_with_a_laggard(&before);
    assert_int_equal(world_raft(w, 1)->progress[1].match, 6);
    image_put(w, 2, before);
    remind(w, 1, 2);
    reconnect(w, 1, 2);
    assert_int_equal(world_raft(w, 1)->progress[1].match, 0);
    world_settle(w); /* the probe is refused, the place is searched, the entries are sent */
    world_run(w, 2 * WORLD_HEARTBEAT_MS);
    assert_int_equal(world_raft(w, 1)->progress[1].match, 6);
    assert_int_equal(world_raft(w, 2)->durable_index, 6);
    world_free(w);
}

static void a_vote_outlives_the_disk(void **state)
{
    struct world *w = world_new(3);
    struct image *before = image_take(w, 2);
    world_isolate(w, 3, true);
    world_elect(w, 1);
    uint64_t term = world_raft(w, 1)->term;
    assert_int_equal(recall(w, 1, 2).vote_term, term);
    image_put(w, 2, before);
    assert_int_equal(world_raft(w, 2)->term, 0);
    assert_true(remind(w, 1, 2));
    assert_int_equal(world_raft(w, 2)->term, term);
    w->nodes[2].now_ms += 2 * WORLD_T_MS; /* nothing but the vote keeps it from voting */
    struct raft_message ask = { .type = RAFT_VOTE,
                                .group = 7,
                                .from = 3,
                                .to = 2,
                                .term = term,
                                .index = 100,
                                .log_term = term };
    raft_clock(world_raft(w, 2), w->nodes[2].now_ms);
    world_isolate(w, 3, false);
    world_say(w, ask, NULL);
    assert_int_equal(w->nodes[2].disk_term, term);
    assert_int_not_equal(w->nodes[2].disk_vote, 3);
    assert_false(world_look(w, 2, 3, RAFT_VOTE_REPLY).granted);
    world_free(w);
}

/* A leader forgets that it led: it doesn't vote in that term, and knows what may be committed. */
static void a_reign_outlives_the_disk(void **state)
{
    struct world *w = world_new(3);
    struct image *before = image_take(w, 1);
    world_isolate(w, 3, true);
    world_elect(w, 1);
    world_propose(w, 1, 5);
    world_run(w, 2 * WORLD_HEARTBEAT_MS);
    uint64_t term = world_raft(w, 1)->term;
    image_put(w, 1, before);
    assert_true(remind(w, 2, 1));
    assert_int_equal(world_raft(w, 1)->term, term);
    assert_int_equal(world_raft(w, 1)->vote, 1);
    assert_int_equal(world_raft(w, 1)->role, RAFT_FOLLOWER);
    assert_int_equal(world_raft(w, 1)->owed_index, 6);
    assert_true(raft_is_short(world_raft(w, 1)));
    world_isolate(w, 3, false);
    world_run(w, 10 * WORLD_T_MS);
    assert_false(raft_is_short(world_raft(w, 1)));
    assert_true(world_raft(w, 1)->commit >= 6);
    world_free(w);
}

/* Followers may be ahead of their leader's disk: a leader that dies so has lost nothing. */
static void a_leader_whose_disk_was_not_done_has_forgotten_nothing(void **state)
{
    struct world *w = world_new(3);
    world_elect(w, 1);
    world_run(w, 2 * WORLD_HEARTBEAT_MS);
    w->nodes[1].manual_disk = true;
    world_propose(w, 1, 5);
    world_settle(w);
    assert_int_equal(world_raft(w, 2)->durable_index, 6);
    world_restart(w, 1);
    w->nodes[1].manual_disk = false;
    assert_int_equal(world_raft(w, 1)->last_index, 1);
    assert_false(remind(w, 2, 1));
    assert_false(remind(w, 3, 1));
    assert_true(
        raft_is_short(world_raft(w, 1))); /* for all that it knows it may have counted them */
    world_run(w, 10 * WORLD_T_MS);
    assert_false(raft_is_short(world_raft(w, 1)));
    world_free(w);
}

static void an_honest_restart_is_told_nothing(void **state)
{
    struct world *w = world_new(3);
    world_elect(w, 1);
    world_propose(w, 1, 5);
    world_run(w, 2 * WORLD_HEARTBEAT_MS);
    world_elect(w, 2);
    world_run(w, 2 * WORLD_HEARTBEAT_MS);
    for (int id = 1; id <= 3; id++) {
        world_restart(w, id);
        for (int other = 1; other <= 3; other++) {
            assert_true(other == id || !remind(w, other, id));
        }
        assert_false(raft_is_short(world_raft(w, id)));
    }
    world_run(w, 10 * WORLD_T_MS);
    assert_true(world_raft(w, 1)->commit >= 7);
    world_free(w);
}

/* What was replaced by a later leader is not owed: the disk's term is newer than the word. */
static void what_a_later_leader_replaced_is_not_owed(void **state)
{
    struct world *w = world_new(3);
    world_elect(w, 1);
    world_run(w, 2 * WORLD_HEARTBEAT_MS);
    world_isolate(w, 2, true);
    world_isolate(w, 3, true);
    world_propose(w, 1, 3); /* nobody has them; 1 is as good as gone */
    struct raft_memory told = recall(w, 1, 2);
    told.index = 4;
    told.log_term = told.ack_term;
    world_isolate(w, 1, true);
    world_isolate(w, 2, false);
    world_isolate(w, 3, false);
    world_isolate(w, 1, true);
    world_elect(w, 3);
    world_run(w, 2 * WORLD_HEARTBEAT_MS);
    world_restart(w, 2);
    assert_true(world_raft(w, 2)->term > told.ack_term);
    assert_false(raft_remind(world_raft(w, 2), 1, &told));
    assert_false(raft_is_short(world_raft(w, 2)));
    world_free(w);
}

/* The same, but the later leader came only after the process had begun, and before it was told. */
static void what_was_replaced_since_the_start_is_no_loss(void **state)
{
    struct world *w = world_new(3);
    world_elect(w, 1);
    world_run(w, 2 * WORLD_HEARTBEAT_MS);
    world_isolate(w, 2, true);
    world_isolate(w, 3, true);
    world_propose(w, 1, 3);
    struct raft_memory told = recall(w, 1, 2);
    told.index = 4;
    told.log_term = told.ack_term;
    world_isolate(w, 1, true);
    world_restart(w, 2);
    assert_int_equal(world_raft(w, 2)->term, told.ack_term);
    world_isolate(w, 2, false);
    world_isolate(w, 3, false);
    world_elect(w, 3);
    world_run(w, 2 * WORLD_HEARTBEAT_MS);
    assert_true(world_raft(w, 2)->last_index < told.index);
    assert_int_equal(world_raft(w, 2)->durable_index, world_raft(w, 3)->last_index);
    assert_false(raft_remind(world_raft(w, 2), 1, &told));
    assert_false(raft_is_short(world_raft(w, 2)));
    world_free(w);
}

/* A disk older than any memory: suspect, until everybody was heard and the leader has made it
 * whole. */
static void an_old_disk_counts_for_nothing_until_all_were_heard(void **state)
{
    struct image *before;
    struct world *w = world_with_a_laggard(&before);
    w->nodes[2].is_to_hear = true;
    world_run(w, 4 * WORLD_HEARTBEAT_MS); /* 3 catches up */
    image_put(w, 2, before);
    remind(w, 1, 2);
    raft_suspect(world_raft(w, 2));
    world_log_effects(&w->nodes[2], NULL);
    w->nodes[2].disk_is_suspect = true;
    assert_int_equal(world_raft(w, 2)->term, world_raft(w, 1)->term);
    assert_int_not_equal(world_raft(w, 2)->vote, 0);
    reconnect(w, 1, 2);
    world_run(w, 10 * WORLD_T_MS);
    assert_int_equal(world_raft(w, 2)->durable_index, world_raft(w, 1)->last_index);
    assert_true(world_raft(w, 2)->is_suspect);
    assert_int_equal(w->nodes[2].heals, 0);
    remind(w, 3, 2);
    world_run(w, 4 * WORLD_HEARTBEAT_MS);
    assert_false(world_raft(w, 2)->is_suspect);
    assert_int_equal(w->nodes[2].heals, 1);
    world_free(w);
}

/* It may have voted in any term that somebody has entered: a leader of an older one can't heal it. */
static void a_suspect_follows_no_leader_of_an_older_term(void **state)
{
    struct image *before;
    struct world *w = world_with_a_laggard(&before);
    w->nodes[2].is_to_hear = true;
    image_put(w, 2, before);
    raft_suspect(world_raft(w, 2));
    struct raft_memory told = { .now = world_raft(w, 1)->term + 3 };
    raft_remind(world_raft(w, 2), 3, &told);
    world_log_effects(&w->nodes[2], NULL);
    world_turn(w, 2);
    assert_int_equal(w->nodes[2].disk_term, told.now);
    assert_int_equal(w->nodes[2].disk_vote, 2);
    world_free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_acknowledged_entry_outlives_the_disk),
        cmocka_unit_test(forgetting_loses_them),
        cmocka_unit_test(a_leader_counts_nothing_of_an_earlier_process),
        cmocka_unit_test(a_vote_outlives_the_disk),
        cmocka_unit_test(a_reign_outlives_the_disk),
        cmocka_unit_test(a_leader_whose_disk_was_not_done_has_forgotten_nothing),
        cmocka_unit_test(an_honest_restart_is_told_nothing),
        cmocka_unit_test(what_a_later_leader_replaced_is_not_owed),
        cmocka_unit_test(what_was_replaced_since_the_start_is_no_loss),
        cmocka_unit_test(an_old_disk_counts_for_nothing_until_all_were_heard),
        cmocka_unit_test(a_suspect_follows_no_leader_of_an_older_term),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
