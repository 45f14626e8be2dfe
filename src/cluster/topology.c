/* The topology: see topology.h. Unpacking validates everything that lookups rely on, so that they
 * need no checks:
 *
 *   I1  partitions[0] is the control group (group 0, bits 0); the others are ordered by prefix and
 *       cover the hash space exactly.
 *   I2  Every replica names a known node, no partition has two replicas on one node, replica ids
 *       are unique and below next_replica_id.
 *   I3  A topology is never changed once others can see it; it is counted (loop thread only). */
#include "cluster/topology.h"

#include "base/check.h"
#include "base/hash.h"
#include "base/mem.h"
#include "proto/control.pb-c.h"

enum { HASH_BITS = 64 };

static void topology_free(struct topology *topology)
{
    for (size_t i = 0; i < topology->node_count; i++) {
        mem_free(topology->nodes[i].name);
        mem_free(topology->nodes[i].address);
        mem_free(topology->nodes[i].host);
        mem_free(topology->nodes[i].zone);
    }
    mem_free(topology->nodes);
    mem_free(topology->partitions);
    mem_free(topology->cluster_name);
    mem_free(topology);
}

struct topology *topology_ref(struct topology *topology)
{
    topology->references++;
    return topology;
}

void topology_unref(struct topology *topology)
{
    if (topology) {
        CHECK(topology->references > 0);
        if (--topology->references == 0) {
            topology_free(topology);
        }
    }
}

static int unpack_nodes(const Cairn__Control__Topology *message, struct topology *topology,
                        struct err *err)
{
    if (message->n_nodes == 0 || message->n_nodes > LIMIT_NODES) {
        return err_set(err, ERR_CORRUPT, "topology: %zu nodes", message->n_nodes);
    }
    topology->nodes = mem_zalloc(message->n_nodes * sizeof *topology->nodes);
    for (size_t i = 0; i < message->n_nodes; i++) {
        const Cairn__Control__Node *from = message->nodes[i];
        struct topology_node *node = &topology->nodes[i];
        if (from->id == 0 || topology_find_node(topology, from->id) ||
            topology_find_name(topology, from->name)) {
            return err_set(err, ERR_CORRUPT, "topology: node %s twice or without id", from->name);
        }
        node->id = from->id;
        node->name = mem_strdup(from->name);
        node->address = mem_strdup(from->address);
        node->host = mem_strdup(from->host);
        node->zone = mem_strdup(from->zone);
        node->weight = from->weight;
        topology->node_count++;
    }
    return 0;
}

static int unpack_replicas(const Cairn__Control__Partition *from, const struct topology *topology,
                           struct topology_partition *partition, struct err *err)
{
    if (from->n_replicas == 0 || from->n_replicas > LIMIT_REPLICAS) {
        return err_set(err, ERR_CORRUPT, "topology: group %u has %zu replicas", from->group,
                       from->n_replicas);
    }
    for (size_t i = 0; i < from->n_replicas; i++) {
        const Cairn__Control__Replica *replica = from->replicas[i];
        if (replica->id == 0 || replica->id >= topology->next_replica_id ||
            !topology_find_node(topology, replica->node_id)) {
            return err_set(err, ERR_CORRUPT, "topology: group %u has a bad replica", from->group);
        }
        for (int j = 0; j < partition->replica_count; j++) {
            if (partition->replicas[j].node_id == replica->node_id) {
                return err_set(err, ERR_CORRUPT, "topology: group %u is twice on one node",
                               from->group);
            }
        }
        partition->replicas[partition->replica_count++] =
            (struct topology_replica){ replica->id, replica->node_id };
    }
    return 0;
}

static int unpack_partitions(const Cairn__Control__Topology *message, struct topology *topology,
                             struct err *err)
{
    if (message->n_partitions < 2 || message->n_partitions > LIMIT_PARTITIONS_MAX + 1) {
        return err_set(err, ERR_CORRUPT, "topology: %zu partitions", message->n_partitions);
    }
    topology->partitions = mem_zalloc(message->n_partitions * sizeof *topology->partitions);
    uint64_t expected = 0;
    for (size_t i = 0; i < message->n_partitions; i++) {
        const Cairn__Control__Partition *from = message->partitions[i];
        struct topology_partition *partition = &topology->partitions[i];
        partition->group = from->group;
        partition->prefix = from->prefix;
        partition->bits = from->bits;
        int status = unpack_replicas(from, topology, partition, err);
        if (status != 0) {
            return status;
        }
        topology->partition_count++;
        if (i == 0) {
            if (from->group != 0 || from->bits != 0) {
                return err_set(err, ERR_CORRUPT, "topology: the control group is missing");
            }
            continue;
        }
        bool is_last = i == message->n_partitions - 1;
        if (from->group == 0 || from->bits > 20 || from->prefix != expected ||
            (i > 1 && expected == 0)) {
            return err_set(err, ERR_CORRUPT,
                           "topology: partitions leave a gap or overlap at group %u", from->group);
        }
        expected = from->bits == 0 ? 0 : from->prefix + (1ULL << (HASH_BITS - from->bits));
        if (is_last != (expected == 0)) {
            return err_set(err, ERR_CORRUPT, "topology: partitions do not cover the hash space");
        }
    }
    return 0;
}

int topology_unpack(struct span packed, struct topology **out, struct err *err)
{
    Cairn__Control__Topology *message =
        cairn__control__topology__unpack(NULL, packed.size, packed.data);
    if (!message || message->cluster_id.len != 16) {
        if (message) {
            cairn__control__topology__free_unpacked(message, NULL);
        }
        return err_set(err, ERR_CORRUPT, "topology: malformed message");
    }
    struct topology *topology = MEM_NEW(struct topology);
    topology->references = 1;
    topology->epoch = message->epoch;
    memcpy(topology->cluster_id, message->cluster_id.data, 16);
    topology->cluster_name = mem_strdup(message->cluster_name);
    topology->hash_seed = message->hash_seed;
    topology->replicas = message->replicas;
    topology->feature_level = message->feature_level;
    topology->next_replica_id = message->next_replica_id;
    int status = unpack_nodes(message, topology, err);
    if (status == 0) {
        status = unpack_partitions(message, topology, err);
    }
    cairn__control__topology__free_unpacked(message, NULL);
    if (status != 0) {
        topology_free(topology);
        return status;
    }
    *out = topology;
    return 0;
}

static void pack_nodes(const struct topology *topology, Cairn__Control__Topology *message,
                       struct arena *arena)
{
    message->n_nodes = topology->node_count;
    message->nodes = arena_alloc(arena, topology->node_count * sizeof *message->nodes);
    for (size_t i = 0; i < topology->node_count; i++) {
        const struct topology_node *node = &topology->nodes[i];
        Cairn__Control__Node *to = arena_alloc(arena, sizeof *to);
        cairn__control__node__init(to);
        to->id = node->id;
        to->name = node->name;
        to->address = node->address;
        to->host = node->host;
        to->zone = node->zone;
        to->weight = node->weight;
        message->nodes[i] = to;
    }
}

static Cairn__Control__Partition *pack_partition(const struct topology_partition *partition,
                                                 struct arena *arena)
{
    Cairn__Control__Partition *to = arena_alloc(arena, sizeof *to);
    cairn__control__partition__init(to);
    to->group = partition->group;
    to->prefix = partition->prefix;
    to->bits = partition->bits;
    to->n_replicas = (size_t)partition->replica_count;
    to->replicas = arena_alloc(arena, to->n_replicas * sizeof *to->replicas);
    for (size_t i = 0; i < to->n_replicas; i++) {
        to->replicas[i] = arena_alloc(arena, sizeof *to->replicas[i]);
        cairn__control__replica__init(to->replicas[i]);
        to->replicas[i]->id = partition->replicas[i].id;
        to->replicas[i]->node_id = partition->replicas[i].node_id;
    }
    return to;
}

void topology_pack(const struct topology *topology, struct buf *out)
{
    struct arena arena = { 0 };
    Cairn__Control__Topology message = CAIRN__CONTROL__TOPOLOGY__INIT;
    message.epoch = topology->epoch;
    message.cluster_id = (ProtobufCBinaryData){ 16, (uint8_t *)topology->cluster_id };
    message.cluster_name = topology->cluster_name;
    message.hash_seed = topology->hash_seed;
    message.next_replica_id = topology->next_replica_id;
    message.replicas = topology->replicas;
    message.feature_level = topology->feature_level;
    pack_nodes(topology, &message, &arena);
    message.n_partitions = topology->partition_count;
    message.partitions =
        arena_alloc(&arena, topology->partition_count * sizeof *message.partitions);
    for (size_t i = 0; i < topology->partition_count; i++) {
        message.partitions[i] = pack_partition(&topology->partitions[i], &arena);
    }
    size_t size = cairn__control__topology__get_packed_size(&message);
    cairn__control__topology__pack(&message, buf_extend(out, size));
    arena_fini(&arena);
}

size_t topology_locate(const struct topology *topology, struct span key)
{
    uint64_t hash = hash_key(topology->hash_seed, key);
    size_t low = 1, high = topology->partition_count - 1;
    /* The first guess is right as long as all partitions are of one size. */
    size_t middle = low + (size_t)((unsigned __int128)hash * high >> 64);
    if (topology->partitions[middle].prefix <= hash &&
        (middle == high || hash < topology->partitions[middle + 1].prefix)) {
        return middle;
    }
    while (low < high) {
        middle = (low + high + 1) / 2;
        if (topology->partitions[middle].prefix <= hash) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    return low;
}

const struct topology_partition *topology_find_group(const struct topology *topology,
                                                     uint32_t group)
{
    /* Groups are numbered in order at bootstrap; splits may break that later. */
    if (group < topology->partition_count && topology->partitions[group].group == group) {
        return &topology->partitions[group];
    }
    for (size_t i = 0; i < topology->partition_count; i++) {
        if (topology->partitions[i].group == group) {
            return &topology->partitions[i];
        }
    }
    return NULL;
}

const struct topology_node *topology_find_node(const struct topology *topology, uint64_t node_id)
{
    for (size_t i = 0; i < topology->node_count; i++) {
        if (topology->nodes[i].id == node_id) {
            return &topology->nodes[i];
        }
    }
    return NULL;
}

const struct topology_node *topology_find_name(const struct topology *topology, const char *name)
{
    for (size_t i = 0; i < topology->node_count; i++) {
        if (strcmp(topology->nodes[i].name, name) == 0) {
            return &topology->nodes[i];
        }
    }
    return NULL;
}
