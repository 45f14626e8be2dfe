/* The cluster's topology as this node knows it, and who leads what. A newer one comes with greetings and by the control group's log. */
#include "node/node_private.h"

struct publication {
    struct partition_write write;
    struct node *node;
};

static void publish_done(struct partition_write *write, int status,
                         const struct store_result *result)
{
    struct publication *publication = container_of(write, struct publication, write);
    if (status == 0 && result->status == 0) {
        LOG_INFO(publication->node->logger, "topology published epoch=%lu",
                 publication->node->topology->epoch);
    }
    mem_free(publication);
}

/* A new leader of the control group puts the first topology there, unless it is there. */
void node_publish_topology(struct node *node)
{
    struct publication *publication = MEM_NEW(struct publication);
    publication->node = node;
    publication->write.done = publish_done;
    struct command command = {
        .type = COMMAND_PUT,
        .feature_level = (uint16_t)node->topology->feature_level,
        .condition = CONDITION_ABSENT,
        .key = span_of_string("topology"),
        .value = buf_span(&node->topology_packed),
    };
    publication->write.payload = command_pack(&command);
    partition_write(node->partitions[0], &publication->write);
}

bool node_take_topology(struct node *node, struct span packed, bool is_to_save)
{
    struct topology *topology;
    struct err err;
    if (topology_unpack(packed, &topology, &err) != 0) {
        LOG_ERROR(node->logger, "refused a topology: %s", err.text);
        return false;
    }
    if ((node->topology && topology->epoch <= node->topology->epoch) ||
        (node->genesis && memcmp(topology->cluster_id, node->genesis->cluster_id.data, 16) != 0)) {
        topology_unref(topology);
        return false;
    }
    topology_unref(node->topology);
    node->topology = topology;
    struct buf copy = { 0 };
    buf_append_span(&copy, packed);
    buf_fini(&node->topology_packed);
    node->topology_packed = copy;
    if (node->log) {
        LOG_INFO(node->logger, "topology epoch=%lu", topology->epoch);
    }
    if (is_to_save) {
        membership_save_topology(node);
    }
    return true;
}

uint64_t node_leader_of(struct node *node, uint32_t group)
{
    struct partition *partition = node_find_partition(node, group);
    if (partition) {
        return partition_leader_node(partition);
    }
    if (group < node->partition_count && node->leaders[group] != 0) {
        return node->leaders[group];
    }
    const struct topology_partition *known = topology_find_group(node->topology, group);
    return known ? known->replicas[0].node_id : 0;
}
