/* Shows that a replica which finds no memory while it applies goes on by itself, though its group is at
 * rest and nobody asks anything of it. The only replica of a group starts on a log whose entries its
 * store lacks, or is written to; each allocation that applying needs is refused in turn. */
#include "partition_fixture.h"

enum {
    ENTRIES = 6,
    ALLOCATIONS_MAX = 200,
};

static const struct topology_partition alone = { .group = GROUP,
                                                 .replicas = { { .id = REPLICA, .node_id = NODE } },
                                                 .replica_count = 1 };

/* The nth allocation of that kind from now on is refused once there is something to apply. */
static void refuse(struct world *world, enum mem_kind kind, uint64_t nth)
{
    world->kind = kind;
    world->nth = nth;
    world->gates.of[kind].refused = 0;
}

/* All is applied, and the group at rest: no tick would ever come. True: something was refused on the way. */
static bool has_gone_on(struct world *world, uint64_t applied)
{
    assert_int_equal(partition_applied(world->partition), applied);
    assert_true(world->quiet_until_ms[GROUP] == UINT64_MAX);
    return world->gates.of[world->kind].refused > 0;
}

/* It elects itself, and reads from the log what it applies. False: there are fewer allocations. */
static bool starts_without(enum mem_kind kind, uint64_t nth)
{
    struct world world;
    world_init(&world, ENTRIES, &alone);
    refuse(&world, kind, nth);
    world_end_turn(&world);
    world_pass(&world, SECOND_US);
    bool was_refused = has_gone_on(&world, ENTRIES + 1);
    struct record record;
    struct err err;
    for (int i = 0; i < ENTRIES; i++) {
        char key[16];
        snprintf(key, sizeof key, "key-%d", i);
        assert_int_equal(
            store_get(partition_store(world.partition), span_of_string(key), &record, &err), 0);
        assert_int_equal(record.version, i + 1);
    }
    store_turn_end(world.store);
    world_fini(&world);
    return was_refused;
}

static void a_start_that_finds_no_memory_for_the_log_goes_on(void **state)
{
    uint64_t nth = 1;
    for (; starts_without(MEM_LOG, nth); nth++) {
        assert_true(nth < ALLOCATIONS_MAX);
    }
    assert_true(nth > ENTRIES + 2); /* what is read, each payload, the array of them */
}

static void a_start_that_finds_no_memory_for_the_store_goes_on(void **state)
{
    uint64_t nth = 1;
    for (; starts_without(MEM_STORE, nth); nth++) {
        assert_true(nth < ALLOCATIONS_MAX);
    }
    assert_true(nth > ENTRIES); /* each entry's, at least */
}

struct waiting {
    struct partition_write write;
    bool is_told;
};

static void on_written(struct partition_write *write, int status, const struct store_result *result)
{
    assert_int_equal(status, 0);
    container_of(write, struct waiting, write)->is_told = true;
}

/* What is applied is still in memory. */
static void a_write_that_finds_no_memory_goes_on(void **state)
{
    struct world world;
    world_init(&world, ENTRIES, &alone);
    world_end_turn(&world);
    world_pass(&world, SECOND_US);
    uint64_t applied = ENTRIES + 1, nth = 1;
    assert_false(has_gone_on(&world, applied));
    for (bool was_refused = true; was_refused; nth++) {
        char key[16];
        snprintf(key, sizeof key, "key-%d", (int)nth % ENTRIES);
        struct waiting waiting = { .write.done = on_written };
        /* A delete needs no reserve. */
        waiting.write.payload = command_pack(&(struct command){ .type = COMMAND_DELETE,
                                                                .session = { 8, nth },
                                                                .number = 1,
                                                                .lowest = 1,
                                                                .key = span_of_string(key) });
        refuse(&world, MEM_STORE, nth);
        partition_write(world.partition, &waiting.write);
        world_end_turn(&world);
        world_pass(&world, 5 * TICK_US);
        was_refused = has_gone_on(&world, ++applied);
        assert_true(waiting.is_told);
        assert_true(nth < ALLOCATIONS_MAX);
    }
    assert_true(nth > 2);
    world_fini(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_start_that_finds_no_memory_for_the_log_goes_on),
        cmocka_unit_test(a_start_that_finds_no_memory_for_the_store_goes_on),
        cmocka_unit_test(a_write_that_finds_no_memory_goes_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
