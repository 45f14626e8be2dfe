/* Shows how a node counts its starts, that its file survives crashes and torn writes, and which
 * disks count as older than the last start. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../raft/fake_env.h"

#include "node/starts.h"

static struct starts open_starts(struct fake_env *fake)
{
    struct starts starts;
    struct err err;
    assert_int_equal(starts_open(&starts, &fake->env, "data", &err), 0);
    return starts;
}

/* Begins a start as a node does. */
static struct starts begin(struct fake_env *fake, uint64_t boot_id)
{
    struct err err;
    struct starts starts = open_starts(fake);
    starts_begin(&starts, boot_id);
    assert_int_equal(starts_save(&starts, &err), 0);
    return starts;
}

static bool is_older(const struct starts *starts, uint64_t number, uint64_t boot_id)
{
    return starts_are_older(starts->own, starts->own_count,
                            (struct starts_mark){ number, boot_id });
}

static struct fake_env *new_disk(void)
{
    struct fake_env *fake = fake_new(1);
    struct err err;
    assert_int_equal(env_dir_make(&fake->env, "data", &err), 0);
    return fake;
}

static void starts_are_numbered_and_kept(void **state)
{
    struct fake_env *fake = new_disk();
    struct starts starts = { 0 };
    for (uint64_t i = 1; i <= STARTS_KEPT + 5; i++) {
        starts = begin(fake, 1000 + i);
        assert_int_equal(starts_newest(&starts).number, i);
        assert_int_equal(starts_newest(&starts).boot_id, 1000 + i);
        starts_fini(&starts);
    }
    starts = open_starts(fake);
    assert_int_equal(starts.own_count, STARTS_KEPT);
    assert_int_equal(starts.own[0].number, 6);
    starts_fini(&starts);
    fake_free(fake);
}

static void others_are_remembered(void **state)
{
    struct fake_env *fake = new_disk();
    struct err err;
    struct starts starts = begin(fake, 1);
    assert_int_equal(starts_of(&starts, 7).number, 0);
    for (uint64_t id = 1; id <= LIMIT_NODES; id++) {
        assert_true(starts_learn(&starts, id, (struct starts_mark){ id + 3, id + 4 }));
    }
    assert_false(starts_learn(&starts, 7, (struct starts_mark){ 10, 11 }));
    assert_true(starts_learn(&starts, 7, (struct starts_mark){ 11, 99 }));
    assert_false(starts_learn(&starts, LIMIT_NODES + 1, (struct starts_mark){ 1, 1 }));
    assert_int_equal(starts_save(&starts, &err), 0);
    starts_fini(&starts);
    starts = open_starts(fake);
    assert_int_equal(starts_of(&starts, 7).number, 11);
    assert_int_equal(starts_of(&starts, 7).boot_id, 99);
    assert_int_equal(starts_of(&starts, LIMIT_NODES).number, LIMIT_NODES + 3);
    starts_fini(&starts);
    fake_free(fake);
}

/* The newer slot is spoiled: the older one counts. Both: nothing is known. */
static void a_spoiled_slot_costs_what_it_held(void **state)
{
    struct fake_env *fake = new_disk();
    struct err err;
    struct starts starts;
    for (uint64_t i = 1; i <= 3; i++) {
        starts = begin(fake, i);
        starts_fini(&starts);
    }
    struct env_file *file;
    assert_int_equal(env_file_open(&fake->env, "data/starts", ENV_FILE_WRITE, &file, &err), 0);
    assert_int_equal(env_file_write(&fake->env, file, 3 % 2 * STARTS_SLOT_BYTES + 30, "x", 1, &err),
                     0);
    starts = open_starts(fake);
    assert_int_equal(starts_newest(&starts).number, 2);
    starts_fini(&starts);
    assert_int_equal(env_file_write(&fake->env, file, 0, "xxxx", 4, &err), 0);
    starts = open_starts(fake);
    assert_int_equal(starts.own_count, 0);
    assert_true(is_older(&starts, 3, 3));
    starts_fini(&starts);
    env_file_close(&fake->env, file);
    fake_free(fake);
}

static void a_disk_is_older_than_a_start_that_it_does_not_know(void **state)
{
    struct fake_env *fake = new_disk();
    struct starts starts;
    for (uint64_t i = 1; i <= 5; i++) {
        starts = begin(fake, 10 * i);
        if (i < 5) {
            starts_fini(&starts);
        }
    }
    assert_false(is_older(&starts, 0, 0)); /* nobody has heard of it */
    assert_false(is_older(&starts, 5, 50));
    assert_false(is_older(&starts, 2, 20));
    assert_true(is_older(&starts, 6, 60));
    assert_true(is_older(&starts, 5, 51)); /* the same number, used twice */
    assert_true(is_older(&starts, 3, 31)); /* and three starts later it still shows */
    starts_fini(&starts);
    fake_free(fake);
}

/* Once adopted, neither start is unknown any more: not the forgotten one, and not the one that had
 * its number. */
static void adopting_ends_it(void **state)
{
    struct fake_env *fake = new_disk();
    struct err err;
    struct starts starts = begin(fake, 10);
    assert_true(is_older(&starts, 1, 11));
    starts_adopt(&starts, (struct starts_mark){ 1, 11 }, 10);
    assert_int_equal(starts_save(&starts, &err), 0);
    starts_fini(&starts);
    starts = open_starts(fake);
    assert_int_equal(starts_newest(&starts).number, 2);
    assert_false(is_older(&starts, 1, 11));
    assert_false(is_older(&starts, 1, 10));
    assert_false(is_older(&starts, 2, 10));
    starts_adopt(&starts, (struct starts_mark){ 9, 90 }, 10);
    assert_int_equal(starts_newest(&starts).number, 10);
    assert_false(is_older(&starts, 9, 90));
    assert_true(is_older(&starts, 8, 80));
    starts_fini(&starts);
    fake_free(fake);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(starts_are_numbered_and_kept),
        cmocka_unit_test(others_are_remembered),
        cmocka_unit_test(a_spoiled_slot_costs_what_it_held),
        cmocka_unit_test(a_disk_is_older_than_a_start_that_it_does_not_know),
        cmocka_unit_test(adopting_ends_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
