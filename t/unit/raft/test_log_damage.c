/* Damage of a log that nobody else has a copy of is told, and torn tails are cut: flipped bits, lost
 * batches and segments, another node's log, votes; and nothing is trusted because the page cache shows it. */
#include "log_script.h"

/* Every sector of the live log in turn gets a flipped bit: ERR_CORRUPT that names segment and
 * offset, or, in bytes that carry nothing, the same content as before. Never a shorter log. */
static void test_flipped_bits_are_reported(void **state)
{
    struct world *world = world_new(10);
    world->is_alone = true;
    world_start(world);
    add_groups(world);
    for (uint64_t i = 1; i < 200; i += 10) {
        append(world, 1 + i / 10 % GROUPS, world->groups[1 + i / 10 % GROUPS].last + 1, 10, 1);
        append_state(world, 1 + i / 10 % GROUPS, i, 0);
        fake_run(world->fake);
    }
    kill_process(world);
    fake_settle(world->fake);
    char name[64];
    struct env_file *file = newest_segment(world, name);
    uint32_t used = 0, damaged = 0;
    for (uint32_t i = 1; i < file->size / 512; i++) {
        uint64_t number = strtoull(name + strlen("data/log/"), NULL, 16);
        if (log_record_sector_of(file->cached + (size_t)i * 512, number, i) !=
            LOG_RECORD_SECTOR_OLD) {
            used = i + 1;
        }
    }
    assert_true(used > 20);
    struct fake_image *image = fake_save(world->fake);
    for (uint32_t sector = 0; sector < used; sector++) {
        size_t bit = (size_t)sector * 4096 + fake_below(world->fake, 4096);
        struct err err = { 0 };
        file->cached[bit / 8] ^= (uint8_t)(1 << bit % 8);
        int rc = world_open(world, &err);
        if (rc < 0) {
            damaged++;
            assert_int_equal(rc, ERR_CORRUPT);
            assert_non_null(strstr(err.text, "segment"));
            assert_non_null(strstr(err.text, "offset"));
            assert_null(world->log);
        } else {
            for (uint32_t group = 1; group <= GROUPS; group++) {
                assert_int_equal(find_start(world, group)->raft.last_index,
                                 world->groups[group].last);
                assert_true(find_start(world, group)->raft.term == world->groups[group].term);
            }
            kill_process(world);
        }
        fake_kill(world->fake);
        fake_restore(world->fake, image);
    }
    assert_true(damaged > used / 2); /* headers that the next batch repeats are no loss */
    fake_image_free(image);
    world_start(world);
    check_all_recovered(world);
    world_free(world);
}

/* A whole batch in the middle put back to old bytes is no torn tail; the last one is. */
static void test_lost_batch_in_the_middle(void **state)
{
    for (int is_last = 0; is_last < 2; is_last++) {
        struct world *world = world_new(11);
        world->is_alone = true;
        world_start(world);
        add_groups(world);
        for (uint64_t i = 1; i < 40; i += 10) {
            append(world, 1, i, 10, 1);
            fake_run(world->fake);
        }
        kill_process(world);
        char name[64];
        struct env_file *file = newest_segment(world, name);
        uint32_t at = 1;
        struct log_record_head head;
        for (int i = 0; i < (is_last ? 3 : 2); i++) {
            assert_int_equal(log_record_unpack_head(file->cached + (size_t)at * 512, 1, at, &head),
                             0);
            at += head.sectors;
        }
        assert_int_equal(log_record_unpack_head(file->cached + (size_t)at * 512, 1, at, &head), 0);
        memset(file->cached + (size_t)at * 512, 0, (size_t)head.sectors * 512);
        struct err err;
        int rc = world_open(world, &err);
        assert_int_equal(rc, is_last ? 0 : ERR_CORRUPT);
        if (is_last) {
            assert_int_equal(find_start(world, 1)->raft.last_index, 30);
        }
        world_free(world);
    }
}

static void test_missing_segment(void **state)
{
    struct world *world = world_new(12);
    world->is_alone = true;
    world_start(world);
    add_groups(world);
    for (uint64_t i = 1; i < 1500; i += 10) {
        append(world, 1, i, 10, 1);
        fake_run(world->fake);
    }
    kill_process(world);
    struct fake_names all = world->fake->names;
    size_t refused = 0;
    char newest[64];
    newest_segment(world, newest);
    for (size_t i = 0; i < all.count; i++) {
        const char *name = all.items[i].path;
        if (!strstr(name, ".log") || strcmp(name, newest) > 0) {
            continue; /* spares may go */
        }
        struct err err;
        world->fake->names = all;
        fake_settle(world->fake);
        fake_unname(world->fake, name);
        assert_int_equal(world_open(world, &err), ERR_CORRUPT);
        assert_non_null(strstr(err.text, "missing"));
        refused++;
    }
    assert_true(refused > 4);
    world->fake->names = all;
    world_start(world);
    check_all_recovered(world);
    world_free(world);
}

static void test_other_owner(void **state)
{
    struct world *world = world_new(13);
    struct log_config config = { .env = &world->fake->env,
                                 .logger = &world->logger,
                                 .directory = "data/log",
                                 .cluster_id = "another cluster",
                                 .node_id = 1,
                                 .segment_bytes = SEGMENT };
    struct err err;
    world_start(world);
    add_groups(world);
    append(world, 1, 1, 5, 1);
    fake_run(world->fake);
    kill_process(world);
    struct log *log = NULL;
    assert_int_equal(log_open(&config, &log, &err), ERR_CLUSTER_MISMATCH);
    assert_null(log);
    config.segment_bytes = 1000;
    assert_int_equal(log_open(&config, &log, &err), ERR_USAGE);
    world_free(world);
}

/* One copy of the votes is enough: the file may be lost or damaged; so may be the state records'
 * batch. */
static void test_votes_survive_in_either_place(void **state)
{
    for (int what = 0; what < 4; what++) {
        struct world *world = world_new(14);
        world_start(world);
        add_groups(world);
        append_state(world, 1, 5, 10);
        fake_run(world->fake);
        append_state(world, 1, 6, 30);
        fake_run(world->fake);
        kill_process(world);
        fake_settle(world->fake);
        struct env_file *votes = fake_find(world->fake, "data/log/votes");
        char name[64];
        struct env_file *segment = newest_segment(world, name);
        struct log_record_head head;
        switch (what) {
        case 0:
            fake_unname(world->fake, "data/log/votes");
            break;
        case 1:
            memset(votes->cached + 512, 0x55, 1024); /* both copies */
            break;
        case 2:
            votes->cached[100] ^= 1; /* the header */
            break;
        default: /* the last batch never reached the log */
            assert_int_equal(log_record_unpack_head(segment->cached + 512, 1, 1, &head), 0);
            memset(segment->cached + (size_t)(1 + head.sectors) * 512, 0, 4096);
        }
        world_start(world);
        assert_int_equal(find_start(world, 1)->raft.term, 6);
        assert_int_equal(find_start(world, 1)->raft.vote, 30);
        kill_process(world);
        fake_power_loss(world->fake, 2);
        world_start(world);
        assert_int_equal(find_start(world, 1)->raft.term, 6);
        assert_int_equal(find_start(world, 1)->raft.vote, 30);
        world_free(world);
    }
}

/* What only the page cache showed is durable once log_open returned. */
static void test_nothing_trusted_at_start(void **state)
{
    for (uint64_t seed = 1; seed <= 40; seed++) {
        struct world *world = world_new(seed);
        world_start(world);
        add_groups(world);
        fake_run(world->fake);
        append_state(world, 1, 3, 10);
        append(world, 1, 1, 8, 3);
        fake_run_tasks(world->fake);
        world->fake->skip_syncs = true; /* the write is in the page cache, then the process dies */
        fake_run_job(world->fake, ENV_JOB_LOG);
        kill_process(world);
        world->fake->skip_syncs = false;
        world_start(world);
        assert_int_equal(find_start(world, 1)->raft.last_index, 8);
        kill_process(world);
        fake_power_loss(world->fake, seed % 4);
        world_start(world);
        assert_int_equal(find_start(world, 1)->raft.last_index, 8);
        assert_int_equal(find_start(world, 1)->raft.vote, 10);
        world_free(world);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_flipped_bits_are_reported),
        cmocka_unit_test(test_lost_batch_in_the_middle),
        cmocka_unit_test(test_missing_segment),
        cmocka_unit_test(test_other_owner),
        cmocka_unit_test(test_votes_survive_in_either_place),
        cmocka_unit_test(test_nothing_trusted_at_start),
    };
    return cmocka_run_group_tests_name("log_damage", tests, NULL, NULL);
}
