/* Placement and topology: loads and primaries within one of each other, no two copies on one node, every key has its partition, packed
 * form round-trips, damaged forms are refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

#include "base/hash.h"
#include "base/mem.h"
#include "cluster/placement.h"
#include "cluster/topology.h"

static void make_topology(struct topology *topology, size_t nodes, uint32_t partitions, uint32_t replicas)
{
    static char *names[] = { "n01", "n02", "n03", "n04", "n05", "n06", "n07", "n08", "n09", "n10", "n11", "n12", "n13" };
    *topology = (struct topology){
        .epoch = 1, .cluster_name = "test", .hash_seed = 4711, .replicas = replicas, .node_count = nodes
    };
    topology->nodes = mem_zalloc(nodes * sizeof *topology->nodes);
    for (size_t i = 0; i < nodes; i++) {
        topology->nodes[i] =
            (struct topology_node){ hash_u64(i + 1), names[i], "127.0.0.1:1", "", "", 1 };
    }
    struct err err;
    assert_int_equal(placement_make(topology, partitions, &err), 0);
}

static void free_made(struct topology *topology)
{
    mem_free(topology->nodes);
    mem_free(topology->partitions);
}

static void check_balance(size_t nodes, uint32_t partitions, uint32_t replicas)
{
    struct topology topology;
    make_topology(&topology, nodes, partitions, replicas);
    uint32_t loads[LIMIT_NODES] = { 0 }, primaries[LIMIT_NODES] = { 0 };
    assert_int_equal(topology.partition_count, partitions + 1);
    for (size_t i = 1; i < topology.partition_count; i++) {
        const struct topology_partition *partition = &topology.partitions[i];
        assert_int_equal(partition->replica_count, replicas < nodes ? replicas : nodes);
        for (int j = 0; j < partition->replica_count; j++) {
            size_t at = (size_t)(topology_find_node(&topology, partition->replicas[j].node_id) - topology.nodes);
            loads[at]++;
            primaries[at] += j == 0;
            for (int k = 0; k < j; k++) {
                assert_true(partition->replicas[j].node_id != partition->replicas[k].node_id);
            }
        }
    }
    uint32_t least = UINT32_MAX, most = 0, fewest = UINT32_MAX, maximum = 0;
    for (size_t i = 0; i < nodes; i++) {
        least = loads[i] < least ? loads[i] : least;
        most = loads[i] > most ? loads[i] : most;
        fewest = primaries[i] < fewest ? primaries[i] : fewest;
        maximum = primaries[i] > maximum ? primaries[i] : maximum;
    }
    assert_true(most - least <= 1);
    assert_true(maximum - fewest <= 2);
    free_made(&topology);
}

static void test_balance(void **state)
{
    for (size_t nodes = 1; nodes <= 13; nodes++) {
        check_balance(nodes, 16, 3);
        check_balance(nodes, 128, 3);
        check_balance(nodes, 1024, 5);
    }
}

static void test_bad_counts(void **state)
{
    struct topology topology;
    struct err err;
    make_topology(&topology, 3, 16, 3);
    assert_int_equal(placement_make(&topology, 15, &err), ERR_USAGE);
    assert_int_equal(placement_make(&topology, 8, &err), ERR_USAGE);
    assert_int_equal(placement_make(&topology, 8192, &err), ERR_USAGE);
    topology.replicas = 0;
    assert_int_equal(placement_make(&topology, 16, &err), ERR_USAGE);
    topology.replicas = LIMIT_REPLICAS + 1;
    assert_int_equal(placement_make(&topology, 16, &err), ERR_USAGE);
    free_made(&topology);
}

static void test_locate(void **state)
{
    struct topology topology;
    make_topology(&topology, 3, 64, 3);
    for (int i = 0; i < 10000; i++) {
        char key[32];
        int size = snprintf(key, sizeof key, "key/%d", i);
        struct span span = span_of(key, (size_t)size);
        const struct topology_partition *partition = &topology.partitions[topology_locate(&topology, span)];
        assert_true(partition->group > 0);
        assert_true(hash_key(topology.hash_seed, span) >> (64 - partition->bits) == partition->prefix >> (64 - partition->bits));
    }
    free_made(&topology);
}

static void test_pack(void **state)
{
    struct topology made, *read;
    make_topology(&made, 5, 128, 3);
    struct buf packed = { 0 };
    struct err err;
    topology_pack(&made, &packed);
    assert_int_equal(topology_unpack(buf_span(&packed), &read, &err), 0);
    assert_int_equal(read->partition_count, made.partition_count);
    assert_int_equal(read->node_count, 5);
    assert_string_equal(read->nodes[2].name, "n03");
    for (size_t i = 0; i < made.partition_count; i++) {
        assert_int_equal(read->partitions[i].prefix, made.partitions[i].prefix);
        assert_memory_equal(read->partitions[i].replicas, made.partitions[i].replicas,
                            sizeof made.partitions[i].replicas[0] * (size_t)made.partitions[i].replica_count);
    }
    struct buf again = { 0 };
    topology_pack(read, &again);
    assert_true(span_equal(buf_span(&packed), buf_span(&again)));
    buf_fini(&again);
    topology_unref(read);
    /* Damage: never accepted with broken invariants, never a crash. */
    for (size_t cut = 0; cut < packed.size; cut += 7) {
        struct topology *never;
        if (topology_unpack(span_of(packed.data, cut), &never, &err) == 0) {
            fail();
        }
    }
    /* A gap in the hash space. */
    made.partitions[3].prefix += 1ULL << 40;
    buf_clear(&packed);
    topology_pack(&made, &packed);
    assert_int_equal(topology_unpack(buf_span(&packed), &read, &err), ERR_CORRUPT);
    made.partitions[3].prefix -= 1ULL << 40;
    /* Two copies on one node. */
    made.partitions[3].replicas[1].node_id = made.partitions[3].replicas[0].node_id;
    buf_clear(&packed);
    topology_pack(&made, &packed);
    assert_int_equal(topology_unpack(buf_span(&packed), &read, &err), ERR_CORRUPT);
    buf_fini(&packed);
    free_made(&made);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_balance),
        cmocka_unit_test(test_bad_counts),
        cmocka_unit_test(test_locate),
        cmocka_unit_test(test_pack),
    };
    return cmocka_run_group_tests_name("placement", tests, NULL, NULL);
}
