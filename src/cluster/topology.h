/* The topology: immutable picture of nodes, partitions, replicas and preferred primaries, with an epoch. Shared by nodes and
 * clients. No I/O, no clock. The packed form is control.proto Topology. */
#ifndef CLUSTER_TOPOLOGY_H
#define CLUSTER_TOPOLOGY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/limits.h"

struct topology_node {
    uint64_t id;
    char *name, *address, *host, *zone;
    uint32_t weight;
};

struct topology_replica {
    uint64_t id, node_id;
};

struct topology_partition {
    uint32_t group;
    uint64_t prefix; /* leading bits of the hash, left-aligned */
    uint32_t bits;
    struct topology_replica replicas[LIMIT_REPLICAS]; /* the first one's node is preferred as primary */
    int replica_count;
};

struct topology {
    uint32_t references;
    uint64_t epoch;
    uint8_t cluster_id[16];
    char *cluster_name;
    uint64_t hash_seed;
    uint32_t replicas;
    uint32_t feature_level;
    uint64_t next_replica_id;
    struct topology_node *nodes;
    size_t node_count;
    struct topology_partition *partitions; /* [0] is the control group; the others by prefix, covering the hash space */
    size_t partition_count;
};

/* Unpacks and validates (prefixes cover the space without overlap, replicas name known nodes, bounds). One reference. */
int topology_unpack(struct span packed, struct topology **out, struct err *err);
void topology_pack(const struct topology *topology, struct buf *out);
struct topology *topology_ref(struct topology *topology);
void topology_unref(struct topology *topology); /* NULL allowed */

/* The partition that a key belongs to: index into partitions (>= 1). Binary search over prefixes; exact table when all have equal bits. */
size_t topology_locate(const struct topology *topology, struct span key);
const struct topology_partition *topology_find_group(const struct topology *topology, uint32_t group);
const struct topology_node *topology_find_node(const struct topology *topology, uint64_t node_id);
const struct topology_node *topology_find_name(const struct topology *topology, const char *name);

#endif
