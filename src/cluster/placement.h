/* Placement: which nodes hold which partition. Weighted rendezvous hashing with bounded loads, made into an explicit map. Pure. */
#ifndef CLUSTER_PLACEMENT_H
#define CLUSTER_PLACEMENT_H

#include "cluster/topology.h"

/* Fills topology->partitions (control group and `partitions` data groups, a power of two) for topology->nodes, replicas and hash_seed:
 * every partition on min(replicas, nodes) different nodes; loads within one partition of each other; first replicas (preferred
 * primaries) spread within one as well. Takes replica ids from next_replica_id. Deterministic. ERR_USAGE for bad counts. */
int placement_make(struct topology *topology, uint32_t partitions, struct err *err);

#endif
