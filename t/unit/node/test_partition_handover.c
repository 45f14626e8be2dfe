/* Shows to whom a primary hands over, and when it does: one whose store is damaged, whose disk is slow, that is told to resign, and one
 * that only stands in for the preferred one (docs/decisions/012-slow-disks.md). The tested replica is one of three; the two others are
 * played: they vote for it, acknowledge what they have, and say what is wrong with them. Which disks are slow the test says. */
#include "partition_fixture.h"

enum {
    ENTRIES = 100,
    LAST = ENTRIES + 1, /* the no-op of the election behind them */
    CAUGHT_UP = 64,     /* entries behind which a successor may be */
    OTHERS = 2,
    NODES = NODE + OTHERS,
    PREFERRED = 2,                        /* as a rule: the group's list is 2, 1, 3 */
    ANSWERS_US = 3 * HEARTBEAT_MS * 1000, /* each has said what there is to say */
    MAILS_MAX = 64,
};

struct mail {
    uint64_t node_id;
    bool is_beat;
    struct raft_message message;
    struct raft_beat beat;
};

struct group {
    struct world world;
    bool is_slow[NODES + 1];
    struct peer {
        uint64_t verified;    /* its log is the primary's to here */
        uint64_t durable_max; /* of that it has no more on its disk */
        bool is_silent, is_damaged, is_full;
        bool is_ordered; /* to campaign */
        bool has_vote;   /* the tested replica's */
    } peers[NODES + 1];
    struct mail mails[MAILS_MAX];
    size_t mail_count;
};

/* Why another replica is not fit to lead. Of a damaged one the log counts all the same. */
enum trouble { SLOW, UNHEARD, FULL, IMAGED, DAMAGED };

static uint64_t replica_on(uint64_t node_id)
{
    return REPLICA + node_id - NODE;
}

/* The third one. */
static uint64_t other_than(uint64_t node_id)
{
    return 2 + NODES - node_id;
}

static bool is_slow(void *ctx, uint64_t node_id)
{
    struct group *group = container_of((struct world *)ctx, struct group, world);
    return group->is_slow[node_id];
}

static struct mail *mail_new(void *ctx, uint64_t node_id)
{
    struct group *group = container_of((struct world *)ctx, struct group, world);
    assert_true(group->mail_count < MAILS_MAX && node_id > NODE && node_id <= NODES);
    return &group->mails[group->mail_count++];
}

static void on_send(void *ctx, uint64_t node_id, const struct raft_message *message,
                    const uint64_t *terms, struct blob *const *payloads)
{
    *mail_new(ctx, node_id) = (struct mail){ .node_id = node_id, .message = *message };
}

static void on_beat(void *ctx, uint64_t node_id, uint32_t number, const struct raft_beat *beat)
{
    *mail_new(ctx, node_id) = (struct mail){ .node_id = node_id, .is_beat = true, .beat = *beat };
}

static void on_image_wanted(void *ctx, struct partition *partition,
                            const struct raft_image_want *want)
{
}

static struct raft_message answer_to(const struct raft_message *message, uint8_t type)
{
    return (struct raft_message){ .type = type,
                                  .group = GROUP,
                                  .from = message->to,
                                  .to = message->from,
                                  .term = message->term,
                                  .stamp = message->stamp,
                                  .sequence = message->sequence };
}

static void tell(struct group *group, const struct raft_message *message)
{
    partition_message(group->world.partition, message, NULL, NULL);
}

static void answer_append(struct group *group, struct peer *peer, const struct raft_message *append)
{
    struct raft_message reply = answer_to(append, RAFT_APPEND_REPLY);
    reply.needs_image = peer->is_damaged;
    reply.is_full = peer->is_full;
    reply.granted = append->index <= peer->verified;
    if (reply.granted) {
        uint64_t end = append->index + append->count;
        peer->verified = end > peer->verified ? end : peer->verified;
        reply.index = peer->verified < peer->durable_max ? peer->verified : peer->durable_max;
        reply.log_term = raft_term_at(partition_raft(group->world.partition), reply.index);
    } else {
        reply.index = append->index;
        reply.hint = peer->verified;
    }
    tell(group, &reply);
}

static void answer(struct group *group, struct peer *peer, const struct raft_message *message)
{
    struct raft_message reply;
    switch (message->type) {
    case RAFT_PRE_VOTE:
    case RAFT_VOTE:
        reply =
            answer_to(message, message->type == RAFT_VOTE ? RAFT_VOTE_REPLY : RAFT_PRE_VOTE_REPLY);
        reply.granted = true;
        tell(group, &reply);
        break;
    case RAFT_APPEND:
        answer_append(group, peer, message);
        break;
    case RAFT_TRANSFER:
        peer->is_ordered = true;
        break;
    case RAFT_VOTE_REPLY:
        peer->has_vote = message->granted;
        break;
    case RAFT_APPEND_REPLY: /* it leads */
        break;
    default:
        fail_msg("%s was not expected", raft_message_name(message->type));
    }
}

static bool hear(struct world *world)
{
    struct group *group = container_of(world, struct group, world);
    bool was_any = group->mail_count > 0;
    for (size_t i = 0; i < group->mail_count; i++) { /* answers may be answered */
        const struct mail mail = group->mails[i];
        struct peer *peer = &group->peers[mail.node_id];
        if (mail.is_beat && !peer->is_silent) {
            /* Refused, so that an append follows, and its answer says how the peer is. */
            struct raft_beat refusal = { .term = mail.beat.term };
            partition_beat_answered(world->partition, mail.node_id, &refusal, false);
        } else if (!peer->is_silent) {
            answer(group, peer, &mail.message);
        }
    }
    group->mail_count = 0;
    return was_any;
}

/* Three replicas, on nodes 1 to 3, of whom the one on node `first` is preferred. The others' logs are whole. */
static void group_init(struct group *group, uint64_t first)
{
    struct topology_partition list = { .group = GROUP, .replica_count = NODES };
    *group = (struct group){ .mail_count = 0 };
    list.replicas[0] = (struct topology_replica){ .id = replica_on(first), .node_id = first };
    for (uint64_t node_id = NODE, at = 1; node_id <= NODES; node_id++) {
        group->peers[node_id].verified = ENTRIES;
        group->peers[node_id].durable_max = UINT64_MAX;
        if (node_id != first) {
            list.replicas[at++] =
                (struct topology_replica){ .id = replica_on(node_id), .node_id = node_id };
        }
    }
    world_init(&group->world, ENTRIES, &list);
    group->world.host.send = on_send;
    group->world.host.beat = on_beat;
    group->world.host.is_slow = is_slow;
    group->world.host.image_wanted = on_image_wanted;
    group->world.hear = hear;
}

static void group_fini(struct group *group)
{
    world_fini(&group->world);
}

static void pass(struct group *group, uint64_t us)
{
    world_pass(&group->world, us);
}

static const struct raft *core(const struct group *group)
{
    return partition_raft(group->world.partition);
}

/* The tested replica leads, as of this tick. */
static void elect(struct group *group)
{
    world_end_turn(&group->world);
    for (int ms = 0; !partition_is_primary(group->world.partition); ms += TICK_US / 1000) {
        assert_true(ms < 3 * ELECTION_MS);
        pass(group, TICK_US);
    }
    assert_int_equal(core(group)->noop_index, LAST);
}

/* It leads, and its log does not reach back to what the one on that node lacks. */
static void elect_imaging(struct group *group, uint64_t node_id)
{
    struct world *world = &group->world;
    group->peers[node_id] = (struct peer){ .durable_max = UINT64_MAX, .is_silent = true };
    elect(group);
    store_freeze(world->store);
    assert_true(store_flush_start(world->store));
    world_end_turn(world);
    world->cut_level = RAFT_CUT_OWN;
    partition_cut_log(world->partition);
    world_end_turn(world);
    assert_int_equal(core(group)->log_start, LAST + 1);
    group->peers[node_id].is_silent = false;
    pass(group, ANSWERS_US);
    assert_int_equal(partition_find_progress(core(group), replica_on(node_id))->state,
                     RAFT_IMAGING);
}

/* Led by the tested replica, with that trouble on one node. */
static void group_init_with(struct group *group, enum trouble trouble, uint64_t node_id)
{
    struct peer *peer = &group->peers[node_id];
    group_init(group, PREFERRED);
    if (trouble == IMAGED) {
        elect_imaging(group, node_id);
    } else {
        elect(group);
    }
    group->is_slow[node_id] = trouble == SLOW;
    peer->is_silent = trouble == UNHEARD;
    peer->is_full = trouble == FULL;
    peer->is_damaged = trouble == DAMAGED;
    pass(group, ELECTION_MS * 1000 + ANSWERS_US);
}

static void end_trouble(struct group *group, uint64_t node_id)
{
    group->is_slow[node_id] = false;
    group->peers[node_id] = (struct peer){ .verified = LAST, .durable_max = UINT64_MAX };
    pass(group, ANSWERS_US);
}

/* The one on that node has that many entries fewer than the primary on its disk. */
static void fall_behind(struct group *group, uint64_t node_id, uint64_t entries)
{
    group->peers[node_id].durable_max = LAST - entries;
}

static bool prefer(struct group *group)
{
    bool began = partition_prefer(group->world.partition, group->world.now_ms);
    world_end_turn(&group->world);
    return began;
}

/* Node of the replica that is to lead; 0: none is. */
static uint64_t successor(const struct group *group)
{
    return partition_node_of(group->world.partition, core(group)->transfer_to);
}

/* It campaigns by the primary's order, and leads. */
static void take_over(struct group *group, uint64_t node_id)
{
    struct partition *partition = group->world.partition;
    uint64_t term = core(group)->term + 1;
    struct raft_message message = { .type = RAFT_VOTE,
                                    .transfer = true,
                                    .group = GROUP,
                                    .from = replica_on(node_id),
                                    .to = REPLICA,
                                    .term = term,
                                    .index = LAST,
                                    .log_term = core(group)->term };
    assert_true(group->peers[node_id].is_ordered);
    tell(group, &message);
    world_end_turn(&group->world);
    assert_true(group->peers[node_id].has_vote);
    message = (struct raft_message){ .type = RAFT_APPEND,
                                     .group = GROUP,
                                     .from = replica_on(node_id),
                                     .to = REPLICA,
                                     .term = term,
                                     .index = LAST,
                                     .log_term = message.log_term,
                                     .commit = LAST };
    tell(group, &message);
    world_end_turn(&group->world);
    assert_int_equal(partition_leader_node(partition), node_id);
}

static void a_damaged_primary_hands_over_to_the_one_that_is_not_slow(void **state)
{
    for (uint64_t slow = 2; slow <= NODES; slow++) {
        uint64_t sound = other_than(slow);
        struct group group;
        group_init(&group, PREFERRED);
        fall_behind(&group, sound, 10);
        elect(&group);
        group.is_slow[slow] = true;

        partition_damaged(group.world.partition);
        world_end_turn(&group.world);
        assert_int_equal(successor(&group), sound);
        assert_false(group.peers[sound].is_ordered); /* it lacks the newest still */
        group.peers[sound].durable_max = UINT64_MAX;
        pass(&group, ANSWERS_US);
        assert_false(group.peers[slow].is_ordered);
        take_over(&group, sound);
        assert_false(partition_is_primary(group.world.partition));
        assert_true(core(&group)->needs_image);
        group_fini(&group);
    }
}

static void a_damaged_primary_hands_over_to_the_newest_log_where_all_are_slow(void **state)
{
    for (uint64_t newest = 2; newest <= NODES; newest++) {
        uint64_t older = other_than(newest);
        struct group group;
        group_init(&group, PREFERRED);
        fall_behind(&group, older, 10);
        elect(&group);
        group.is_slow[2] = group.is_slow[3] = true;

        partition_damaged(group.world.partition);
        world_end_turn(&group.world);
        take_over(&group, newest);
        group_fini(&group);
    }
}

static void a_damaged_primary_hands_over_to_a_slow_one_where_the_other_is_worse(void **state)
{
    const enum trouble worse[] = { UNHEARD, IMAGED, DAMAGED };
    for (size_t i = 0; i < sizeof worse / sizeof worse[0]; i++) {
        for (uint64_t other = 2; other <= NODES; other++) {
            uint64_t slow = other_than(other);
            struct group group;
            group_init_with(&group, worse[i], other);
            group.is_slow[slow] = true;

            partition_damaged(group.world.partition);
            world_end_turn(&group.world);
            take_over(&group, slow);
            group_fini(&group);
        }
    }
}

static void a_damaged_primary_steps_down_where_nobody_can_take_over(void **state)
{
    const enum trouble troubles[] = { UNHEARD, IMAGED, DAMAGED };
    for (size_t i = 0; i < sizeof troubles / sizeof troubles[0]; i++) {
        for (uint64_t node_id = 2; node_id <= NODES; node_id++) {
            struct group group;
            group_init_with(&group, troubles[i], node_id);
            group.peers[other_than(node_id)].is_damaged = true;
            pass(&group, ANSWERS_US);
            assert_true(partition_is_primary(group.world.partition));

            partition_damaged(group.world.partition);
            world_end_turn(&group.world);
            assert_false(partition_is_primary(group.world.partition));
            assert_false(group.peers[2].is_ordered || group.peers[3].is_ordered);
            assert_true(core(&group)->needs_image);
            group_fini(&group);
        }
    }
}

/* Its log goes on, so the slow primary's is not needed. */
static void a_slow_primary_hands_over_to_the_whole_one_though_the_other_is_damaged(void **state)
{
    for (uint64_t damaged = 2; damaged <= NODES; damaged++) {
        uint64_t whole = other_than(damaged);
        struct group group;
        group_init_with(&group, DAMAGED, damaged);
        assert_true(partition_find_progress(core(&group), replica_on(damaged))->is_damaged);
        group.is_slow[NODE] = true;
        assert_true(prefer(&group));
        assert_false(group.peers[damaged].is_ordered);
        take_over(&group, whole);
        group_fini(&group);
    }
}

static void a_slow_primary_does_not_hand_over_to_a_damaged_one(void **state)
{
    for (uint64_t damaged = 2; damaged <= NODES; damaged++) {
        uint64_t whole = other_than(damaged);
        struct group group;
        group_init(&group, PREFERRED);
        fall_behind(&group, whole, CAUGHT_UP + 1);
        group.peers[damaged].is_damaged = true;
        elect(&group);
        group.is_slow[NODE] = true;
        assert_false(prefer(&group));
        assert_int_equal(successor(&group), 0);

        fall_behind(&group, whole, CAUGHT_UP);
        pass(&group, ANSWERS_US);
        assert_true(prefer(&group));
        assert_int_equal(successor(&group), whole);
        group_fini(&group);
    }
}

/* A majority of three besides the primary are both others: each one's trouble is reason to stay. */
static void a_slow_primary_stays_where_its_log_is_needed(void **state)
{
    const enum trouble troubles[] = { SLOW, UNHEARD, FULL, IMAGED };
    for (size_t i = 0; i < sizeof troubles / sizeof troubles[0]; i++) {
        for (uint64_t node_id = 2; node_id <= NODES; node_id++) {
            struct group group;
            group_init_with(&group, troubles[i], node_id);
            group.is_slow[NODE] = true;
            assert_false(prefer(&group));
            assert_int_equal(successor(&group), 0);

            end_trouble(&group, node_id);
            assert_true(prefer(&group));
            assert_int_equal(successor(&group), PREFERRED);
            group_fini(&group);
        }
    }
}

static void a_primary_that_is_well_gives_way_to_the_preferred_one(void **state)
{
    for (uint64_t behind = 0; behind <= CAUGHT_UP; behind += CAUGHT_UP) {
        struct group group;
        group_init(&group, PREFERRED);
        fall_behind(&group, PREFERRED, behind);
        elect(&group);
        assert_true(prefer(&group));
        assert_int_equal(successor(&group), PREFERRED);
        fall_behind(&group, PREFERRED, 0);
        pass(&group, ANSWERS_US);
        take_over(&group, PREFERRED);
        group_fini(&group);
    }
}

/* Here nobody's log is counted: what the third one's is like does not matter. */
static void a_primary_that_is_well_gives_way_though_the_third_one_is_not(void **state)
{
    for (enum trouble trouble = SLOW; trouble <= DAMAGED; trouble++) {
        struct group group;
        group_init_with(&group, trouble, 3);
        assert_true(prefer(&group));
        assert_int_equal(successor(&group), PREFERRED);
        group_fini(&group);
    }
}

static void a_primary_that_is_well_gives_way_to_no_other(void **state)
{
    struct group group;
    for (enum trouble trouble = SLOW; trouble <= DAMAGED; trouble++) {
        group_init_with(&group, trouble, PREFERRED);
        assert_false(prefer(&group));
        end_trouble(&group, PREFERRED);
        assert_true(prefer(&group));
        group_fini(&group);
    }
    group_init(&group, PREFERRED);
    fall_behind(&group, PREFERRED, CAUGHT_UP + 1);
    elect(&group);
    assert_false(prefer(&group));
    group_fini(&group);

    group_init(&group, NODE); /* it is the preferred one itself */
    elect(&group);
    assert_false(prefer(&group));
    group_fini(&group);
}

static void nobody_gives_way_before_its_own_election_is_applied(void **state)
{
    struct group group;
    group_init(&group, PREFERRED);
    fall_behind(&group, 2, 1);
    fall_behind(&group, 3, 1);
    elect(&group);
    assert_false(prefer(&group));
    fall_behind(&group, 3, 0);
    pass(&group, ANSWERS_US);
    assert_int_equal(partition_applied(group.world.partition), LAST);
    assert_true(prefer(&group));
    group_fini(&group);
}

/* How long it takes until a primary tries again whose order was not obeyed. */
static uint64_t ms_until_next_try(struct group *group)
{
    uint64_t began_ms = group->world.now_ms;
    assert_true(prefer(group));
    do {
        assert_true(group->world.now_ms < began_ms + 20 * ELECTION_MS);
        pass(group, TICK_US);
        assert_true(partition_is_primary(group->world.partition));
    } while (!prefer(group));
    return group->world.now_ms - began_ms;
}

static void a_try_in_vain_is_repeated_sooner_by_a_slow_primary(void **state)
{
    struct group group;
    group_init(&group, PREFERRED);
    elect(&group);
    assert_in_range(ms_until_next_try(&group), 10 * ELECTION_MS, 11 * ELECTION_MS);
    group_fini(&group);

    group_init(&group, PREFERRED);
    elect(&group);
    group.is_slow[NODE] = true;
    assert_in_range(ms_until_next_try(&group), 2 * ELECTION_MS, 3 * ELECTION_MS);
    group_fini(&group);
}

static void who_resigns_prefers_a_sound_one(void **state)
{
    for (enum trouble trouble = SLOW; trouble <= DAMAGED; trouble++) {
        for (uint64_t node_id = 2; node_id <= NODES; node_id++) {
            uint64_t sound = other_than(node_id);
            struct group group;
            group_init_with(&group, trouble, node_id);
            assert_int_equal(partition_resign(group.world.partition), 0);
            world_end_turn(&group.world);
            assert_int_equal(partition_resign(group.world.partition), ERR_BUSY);
            take_over(&group, sound);
            assert_int_equal(partition_resign(group.world.partition), ERR_NOT_PRIMARY);
            group_fini(&group);
        }
    }
}

static void who_resigns_prefers_a_sound_one_to_a_newer_log(void **state)
{
    for (uint64_t slow = 2; slow <= NODES; slow++) {
        uint64_t sound = other_than(slow);
        for (uint64_t behind = CAUGHT_UP; behind <= CAUGHT_UP + 1; behind++) {
            struct group group;
            group_init(&group, PREFERRED);
            fall_behind(&group, sound, behind);
            elect(&group);
            group.is_slow[slow] = true;
            assert_int_equal(partition_resign(group.world.partition), 0);
            world_end_turn(&group.world);
            assert_int_equal(successor(&group), behind <= CAUGHT_UP ? sound : slow);
            group_fini(&group);
        }
    }
}

static void who_resigns_takes_whom_it_can(void **state)
{
    struct group group;
    for (uint64_t newest = 2; newest <= NODES; newest++) {
        group_init(&group, PREFERRED);
        fall_behind(&group, other_than(newest), 10);
        elect(&group);
        group.is_slow[2] = group.is_slow[3] = true;
        assert_int_equal(partition_resign(group.world.partition), 0);
        world_end_turn(&group.world);
        take_over(&group, newest);
        group_fini(&group);
    }
    group_init_with(&group, UNHEARD, 2);
    group.peers[3].is_damaged = true;
    pass(&group, ANSWERS_US);
    assert_int_equal(partition_resign(group.world.partition), ERR_UNAVAILABLE);
    world_end_turn(&group.world);
    assert_true(partition_is_primary(group.world.partition));
    group_fini(&group);
}

/* Which has never led, and knows nothing of the others. */
static void a_follower_has_nothing_to_hand_over(void **state)
{
    struct group group;
    group_init(&group, PREFERRED);
    world_end_turn(&group.world);
    assert_false(prefer(&group));
    assert_int_equal(partition_resign(group.world.partition), ERR_NOT_PRIMARY);
    partition_damaged(group.world.partition);
    world_end_turn(&group.world);
    assert_true(core(&group)->needs_image);
    assert_false(partition_is_primary(group.world.partition));
    group_fini(&group);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_damaged_primary_hands_over_to_the_one_that_is_not_slow),
        cmocka_unit_test(a_damaged_primary_hands_over_to_the_newest_log_where_all_are_slow),
        cmocka_unit_test(a_damaged_primary_hands_over_to_a_slow_one_where_the_other_is_worse),
        cmocka_unit_test(a_damaged_primary_steps_down_where_nobody_can_take_over),
        cmocka_unit_test(a_slow_primary_hands_over_to_the_whole_one_though_the_other_is_damaged),
        cmocka_unit_test(a_slow_primary_does_not_hand_over_to_a_damaged_one),
        cmocka_unit_test(a_slow_primary_stays_where_its_log_is_needed),
        cmocka_unit_test(a_primary_that_is_well_gives_way_to_the_preferred_one),
        cmocka_unit_test(a_primary_that_is_well_gives_way_though_the_third_one_is_not),
        cmocka_unit_test(a_primary_that_is_well_gives_way_to_no_other),
        cmocka_unit_test(nobody_gives_way_before_its_own_election_is_applied),
        cmocka_unit_test(a_try_in_vain_is_repeated_sooner_by_a_slow_primary),
        cmocka_unit_test(who_resigns_prefers_a_sound_one),
        cmocka_unit_test(who_resigns_prefers_a_sound_one_to_a_newer_log),
        cmocka_unit_test(who_resigns_takes_whom_it_can),
        cmocka_unit_test(a_follower_has_nothing_to_hand_over),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
