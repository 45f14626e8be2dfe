/* Placement: see placement.h.
 *
 * Each partition scores every node by a hash of (seed, partition, node); the best scores win
 * (rendezvous hashing), but a node whose load has reached the bound is passed over (bounded loads).
 * Three passes over ever looser bounds keep loads within one: a node takes at most floor(copies /
 * nodes), and then, for what is left, one more. Preferred primaries are chosen among a partition's
 * replicas in the same way: least primaries so far, score breaks ties.
 *
 * Source: Thaler and Ravishankar 1998 (rendezvous); Mirrokni, Thorup, Zadimoghaddam 2018 (bounded
 * loads). Weights and zones come with membership changes. */
#include "cluster/placement.h"

#include "base/check.h"
#include "base/hash.h"
#include "base/mem.h"

/* Replicas of the control group: survives two failures in larger clusters. Its load is not counted.
 */
enum { CONTROL_COPIES = 5 };

struct candidate {
    size_t node;
    uint64_t score;
};

static uint64_t placement_score(const struct topology *topology, uint32_t group, size_t node)
{
    return hash_u64(hash_u64(topology->hash_seed ^ group) ^ topology->nodes[node].id);
}

/* Nodes by falling score for one group. */
static void rank_nodes(const struct topology *topology, uint32_t group, struct candidate *out)
{
    for (size_t i = 0; i < topology->node_count; i++) {
        struct candidate candidate = { i, placement_score(topology, group, i) };
        size_t at = i;
        while (at > 0 && out[at - 1].score < candidate.score) {
            out[at] = out[at - 1];
            at--;
        }
        out[at] = candidate;
    }
}

static bool holds_node(const struct topology_partition *partition, uint64_t node_id)
{
    for (int i = 0; i < partition->replica_count; i++) {
        if (partition->replicas[i].node_id == node_id) {
            return true;
        }
    }
    return false;
}

/* The best node that does not hold the partition yet, among those of least load: loads stay within
 * one of each other. */
static size_t choose_node(const struct topology *topology,
                          const struct topology_partition *partition,
                          const struct candidate *ranked, const uint32_t *loads)
{
    size_t best = SIZE_MAX;
    for (size_t i = 0; i < topology->node_count; i++) {
        size_t node = ranked[i].node;
        if (!holds_node(partition, topology->nodes[node].id) &&
            (best == SIZE_MAX || loads[node] < loads[best])) {
            best = node;
        }
    }
    CHECK(best != SIZE_MAX);
    return best;
}

static void place_partition(struct topology *topology, struct topology_partition *partition,
                            uint32_t copies, uint32_t *loads)
{
    struct candidate ranked[LIMIT_NODES];
    rank_nodes(topology, partition->group, ranked);
    partition->replica_count = 0;
    for (uint32_t i = 0; i < copies; i++) {
        size_t node = choose_node(topology, partition, ranked, loads);
        loads[node]++;
        partition->replicas[partition->replica_count++] =
            (struct topology_replica){ topology->next_replica_id++, topology->nodes[node].id };
    }
}

static size_t node_position(const struct topology *topology, uint64_t node_id)
{
    return (size_t)(topology_find_node(topology, node_id) - topology->nodes);
}

/* Puts the replica whose node has the fewest primaries first. */
static void prefer_primary(const struct topology *topology, struct topology_partition *partition,
                           uint32_t *primaries)
{
    int best = 0;
    for (int i = 1; i < partition->replica_count; i++) {
        if (primaries[node_position(topology, partition->replicas[i].node_id)] <
            primaries[node_position(topology, partition->replicas[best].node_id)]) {
            best = i;
        }
    }
    struct topology_replica first = partition->replicas[best];
    partition->replicas[best] = partition->replicas[0];
    partition->replicas[0] = first;
    primaries[node_position(topology, first.node_id)]++;
}

int placement_make(struct topology *topology, uint32_t partitions, struct err *err)
{
    if (partitions < LIMIT_PARTITIONS_MIN || partitions > LIMIT_PARTITIONS_MAX ||
        (partitions & (partitions - 1)) != 0) {
        return err_set(err, ERR_USAGE, "partitions must be a power of two from %d to %d, not %u",
                       LIMIT_PARTITIONS_MIN, LIMIT_PARTITIONS_MAX, partitions);
    }
    if (topology->replicas < 1 || topology->replicas > LIMIT_REPLICAS) {
        return err_set(err, ERR_USAGE, "replicas must be from 1 to %d, not %u", LIMIT_REPLICAS,
                       topology->replicas);
    }
    CHECK(topology->node_count > 0 && topology->node_count <= LIMIT_NODES);
    uint32_t nodes = (uint32_t)topology->node_count;
    uint32_t copies = topology->replicas < nodes ? topology->replicas : nodes;
    uint32_t bits = (uint32_t)__builtin_ctz(partitions);
    uint32_t loads[LIMIT_NODES] = { 0 }, primaries[LIMIT_NODES] = { 0 };

    mem_free(topology->partitions);
    topology->partitions = mem_zalloc((partitions + 1) * sizeof *topology->partitions);
    topology->partition_count = partitions + 1;
    if (topology->next_replica_id == 0) {
        topology->next_replica_id = 1;
    }
    for (uint32_t group = 0; group <= partitions; group++) {
        struct topology_partition *partition = &topology->partitions[group];
        partition->group = group;
        if (group == 0) {
            uint32_t control_loads[LIMIT_NODES] = { 0 };
            place_partition(topology, partition, nodes < CONTROL_COPIES ? nodes : CONTROL_COPIES,
                            control_loads);
            continue;
        }
        partition->bits = bits;
        partition->prefix = (uint64_t)(group - 1) << (64 - bits);
        place_partition(topology, partition, copies, loads);
        prefer_primary(topology, partition, primaries);
    }
    return 0;
}
