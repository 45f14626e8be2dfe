/* Shows how an image of the store helps a follower that the log can't, heals a store that is damaged, and what it pins of the log.
 * Tests r… show that the core does not have the bugs that other C Raft libraries had, as in test_raft_regressions.c:
 *
 *   8 term changes under an image · 10 uncommitted in an image · 13 a higher term as proof · 14 late word of what an image replaced ·
 * 19 heartbeat restarts the image */
#include "raft_script.h"

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

/* All hold and know seven committed entries, of which 1, the leader, has flushed five. */
static struct world *world_past_its_flush(void)
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
    return w;
}

/* A store is damaged, its log is good: the replica hands over or steps down, votes, appends and
 * acknowledges, doesn't campaign; an image below its commit index heals it and its log stays. */
static void a_damaged_store_is_healed_beside_the_log(void **state)
{
    struct world *w = world_past_its_flush();
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
    struct world *w = world_past_its_flush();
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
    assert_int_equal(raft_held_index(leader), 1); /* 3 may be sent the rest */
    assert_int_equal(raft_held_index(world_raft(w, 2)), 5);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
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
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
