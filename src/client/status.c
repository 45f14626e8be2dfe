/* See status.h. Bytes that are no UTF-8 don't occur in what is printed here but for damaged names:
 * they show as U+FFFD. */
#include "client/status.h"

#include <stdio.h>

#include "base/hlc.h"
#include "proto/client.pb-c.h"

static size_t utf8_size(const unsigned char *at)
{
    size_t more = at[0] < 0x80                    ? 0
                  : at[0] >= 0xc2 && at[0] < 0xe0 ? 1
                  : at[0] >= 0xe0 && at[0] < 0xf0 ? 2
                  : at[0] >= 0xf0 && at[0] < 0xf5 ? 3
                                                  : 9;
    for (size_t i = 1; i <= more && more < 9; i++) {
        if ((at[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    return more < 9 ? more + 1 : 0;
}

static void json_string(struct buf *out, const char *text)
{
    buf_append(out, "\"", 1);
    for (const unsigned char *at = (const unsigned char *)text; *at;) {
        size_t size = utf8_size(at);
        if (*at == '"' || *at == '\\') {
            buf_printf(out, "\\%c", *at);
        } else if (*at < 0x20) {
            buf_printf(out, "\\u%04x", *at);
        } else if (size == 0) {
            buf_printf(out, "\\ufffd");
        } else {
            buf_append(out, at, size);
        }
        at += size ? size : 1;
    }
    buf_append(out, "\"", 1);
}

static void json_hex(struct buf *out, const uint8_t *bytes, size_t size)
{
    buf_append(out, "\"", 1);
    for (size_t i = 0; i < size; i++) {
        buf_printf(out, "%02x", bytes[i]);
    }
    buf_append(out, "\"", 1);
}

int status_node_json(struct span message, struct buf *out)
{
    Cairn__V1__StatusResponse *status =
        cairn__v1__status_response__unpack(NULL, message.size, message.data);
    if (!status) {
        return ERR_PROTOCOL;
    }
    buf_printf(out, "{\"name\":");
    json_string(out, status->name);
    /* Ids are 64 bits wide; as numbers many readers would round them. */
    buf_printf(out,
               ",\"node_id\":\"%016llx\",\"cluster_name\":", (unsigned long long)status->node_id);
    json_string(out, status->cluster_name);
    buf_printf(out, ",\"cluster_id\":");
    json_hex(out, status->cluster_id.data, status->cluster_id.len);
    buf_printf(out, ",\"version\":");
    json_string(out, status->version);
    buf_printf(out, ",\"epoch\":%llu,\"uptime_ms\":%llu,\"time_us\":%llu,\"counters\":{",
               (unsigned long long)status->epoch, (unsigned long long)status->uptime_ms,
               (unsigned long long)hlc_to_us(status->time));
    for (size_t i = 0; i < status->n_counters; i++) {
        buf_printf(out, "%s", i ? "," : "");
        json_string(out, status->counters[i]->name);
        buf_printf(out, ":%llu", (unsigned long long)status->counters[i]->value);
    }
    buf_printf(out, "},\"groups\":[");
    for (size_t i = 0; i < status->n_groups; i++) {
        const Cairn__V1__GroupStatus *group = status->groups[i];
        buf_printf(out, "%s{\"group\":%u,\"role\":", i ? "," : "", group->group);
        json_string(out, group->role);
        buf_printf(
            out,
            ",\"term\":%llu,\"last_index\":%llu,\"durable_index\":%llu,\"commit_index\":%"
            "llu,\"applied_index\":%llu,"
            "\"flushed_index\":%llu,\"log_start\":%llu,\"leader_node_id\":\"%016llx\","
            "\"keys\":%llu,\"damaged\":%s}",
            (unsigned long long)group->term, (unsigned long long)group->last_index,
            (unsigned long long)group->durable_index, (unsigned long long)group->commit_index,
            (unsigned long long)group->applied_index, (unsigned long long)group->flushed_index,
            (unsigned long long)group->log_start, (unsigned long long)group->leader_node_id,
            (unsigned long long)group->keys, group->damaged ? "true" : "false");
    }
    buf_append(out, "]}", 3);
    cairn__v1__status_response__free_unpacked(status, NULL);
    return 0;
}

void status_absent_json(const struct topology_node *node, int status, struct buf *out)
{
    buf_printf(out, "{\"name\":");
    json_string(out, node->name);
    buf_printf(out, ",\"node_id\":\"%016llx\",\"address\":", (unsigned long long)node->id);
    json_string(out, node->address);
    buf_printf(out, ",\"error\":\"%s\"}", err_info(status)->name);
}

static void json_partition(const struct core *core, size_t index, struct buf *out)
{
    const struct topology *topology = core_topology(core);
    const struct topology_partition *partition = &topology->partitions[index];
    const struct topology_node *primary = topology_find_node(topology, core_primary(core, index));
    buf_printf(out,
               "%s{\"group\":%u,\"prefix\":\"%016llx\",\"bits\":%u,\"primary\":", index ? "," : "",
               partition->group, (unsigned long long)partition->prefix, partition->bits);
    if (primary) {
        json_string(out, primary->name);
    } else {
        buf_printf(out, "null");
    }
    buf_printf(out, ",\"replicas\":[");
    for (int i = 0; i < partition->replica_count; i++) {
        const struct topology_node *node =
            topology_find_node(topology, partition->replicas[i].node_id);
        buf_printf(out, "%s{\"id\":%llu,\"node\":", i ? "," : "",
                   (unsigned long long)partition->replicas[i].id);
        json_string(out, node ? node->name : "");
        buf_printf(out, "}");
    }
    buf_printf(out, "]}");
}

void status_topology_json(const struct core *core, struct buf *out)
{
    const struct topology *topology = core_topology(core);
    buf_printf(out, "{\"cluster_name\":");
    json_string(out, topology->cluster_name);
    buf_printf(out, ",\"cluster_id\":");
    json_hex(out, topology->cluster_id, sizeof topology->cluster_id);
    buf_printf(out, ",\"epoch\":%llu,\"replicas\":%u,\"feature_level\":%u,\"members\":[",
               (unsigned long long)topology->epoch, topology->replicas, topology->feature_level);
    for (size_t i = 0; i < topology->node_count; i++) {
        const struct topology_node *node = &topology->nodes[i];
        buf_printf(out, "%s{\"name\":", i ? "," : "");
        json_string(out, node->name);
        buf_printf(out, ",\"node_id\":\"%016llx\",\"address\":", (unsigned long long)node->id);
        json_string(out, node->address);
        buf_printf(out, ",\"host\":");
        json_string(out, node->host);
        buf_printf(out, ",\"zone\":");
        json_string(out, node->zone);
        buf_printf(out, ",\"weight\":%u}", node->weight);
    }
    buf_printf(out, "],\"partitions\":[");
    for (size_t i = 0; i < topology->partition_count; i++) {
        json_partition(core, i, out);
    }
    buf_printf(out, "]");
}
