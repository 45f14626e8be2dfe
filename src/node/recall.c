/* Recall: see recall.h. Invariants
 *
 *   R1  A start of this node is durable before anybody hears of it, and a start of another node before anything of it counts here.
 *   R2  What others know of this node is taken among its own starts only when the suspicion of every replica is durable. Until
 *       then the others keep what they know, so each further start finds out again. */
#include "node/recall.h"

#include "base/check.h"
#include "node/node_private.h"
#include "node/starts.h"

struct recall {
    struct node *node;
    struct starts starts;
    bool is_asleep;
    uint64_t wakes_us; /* at the latest */
    /* The own disk is older than this start: adopted when no suspicion waits for the disk. */
    struct starts_mark older_than;
    uint32_t suspicions; /* not durable yet */
};

int recall_open(struct node *node, struct recall **out, struct err *err)
{
    struct recall *recall = MEM_NEW(struct recall);
    recall->node = node;
    *out = recall;
    if (node->link_count == 0) {
        return 0; /* nobody remembers */
    }
    return starts_open(&recall->starts, node->env, node->config.data, err);
}

int recall_begin(struct recall *recall, struct err *err)
{
    struct node *node = recall->node;
    if (node->link_count == 0) {
        return 0;
    }
    starts_begin(&recall->starts, node->boot_id);
    int status = starts_save(&recall->starts, err);
    if (status == ERR_DISK_FULL) { /* others will take the disk for an old one, which heals */
        LOG_WARN(node->logger, "starts: not saved: %s", err->text);
        status = 0;
    }
    return status;
}

void recall_free(struct recall *recall)
{
    if (recall) {
        starts_fini(&recall->starts);
        mem_free(recall);
    }
}

/* --- Telling */

static void pack_memory(uint8_t *at, uint32_t group, const struct raft_memory *memory)
{
    const uint64_t fields[] = { memory->now,        memory->term,     memory->vote_term,
                                memory->voted_term, memory->ack_term, memory->index,
                                memory->log_term };
    put_u32(at, group);
    put_u32(at + 4, memory->has_led);
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        put_u64(at + 8 + 8 * i, fields[i]);
    }
}

static uint32_t unpack_memory(const uint8_t *at, struct raft_memory *memory)
{
    *memory = (struct raft_memory){
        .has_led = get_u32(at + 4) != 0,
        .now = get_u64(at + 8),
        .term = get_u64(at + 16),
        .vote_term = get_u64(at + 24),
        .voted_term = get_u64(at + 32),
        .ack_term = get_u64(at + 40),
        .index = get_u64(at + 48),
        .log_term = get_u64(at + 56),
    };
    return get_u32(at);
}

static uint64_t replica_on(const struct partition *partition, uint64_t node_id)
{
    const struct topology_partition *group = partition_topology(partition);
    for (int i = 0; i < group->replica_count; i++) {
        if (group->replicas[i].node_id == node_id) {
            return group->replicas[i].id;
        }
    }
    return 0;
}

static void tell_memory(const struct node *node, uint64_t node_id, struct buf *out)
{
    for (size_t i = 0; i < node->partition_count; i++) {
        const struct partition *partition = node->partitions[i];
        uint64_t replica = partition ? replica_on(partition, node_id) : 0;
        if (replica != 0) {
            struct raft_memory memory;
            raft_recall(partition_raft(partition), replica, &memory);
            pack_memory(buf_extend(out, RECALL_BYTES), partition_group(partition), &memory);
        }
    }
}

void recall_tell(struct recall *recall, uint64_t node_id, struct recall_told *out)
{
    struct node *node = recall->node;
    *out = (struct recall_told){ 0 };
    for (uint32_t i = 0; i < recall->starts.own_count; i++) {
        uint8_t *at = buf_extend(&out->starts, 16);
        put_u64(at, recall->starts.own[i].number);
        put_u64(at + 8, recall->starts.own[i].boot_id);
    }
    struct starts_mark known = starts_of(&recall->starts, node_id);
    out->known_start = known.number;
    out->known_boot_id = known.boot_id;
    tell_memory(node, node_id, &out->memory);
    for (size_t i = 0; i < node->link_count; i++) {
        if (node->links[i].peer.conn) {
            put_u64(buf_extend(&out->hears, 8), node->links[i].node_id);
        }
    }
}

void recall_told_fini(struct recall_told *told)
{
    buf_fini(&told->starts);
    buf_fini(&told->memory);
    buf_fini(&told->hears);
}

/* --- An older disk */

static void adopt(struct recall *recall)
{
    struct node *node = recall->node;
    struct err err;
    starts_adopt(&recall->starts, recall->older_than, node->boot_id);
    recall->older_than = (struct starts_mark){ 0 };
    if (starts_save(&recall->starts, &err) != 0) {
        node_fail(node, &err);
        return;
    }
    membership_greet_again(node);
}

/* R2 */
static void suspect_all(struct recall *recall, struct starts_mark known)
{
    struct node *node = recall->node;
    LOG_ERROR(node->logger,
              "this disk is older than the node's last start (number %lu there, %lu here): its "
              "replicas count for nothing until the others have made them whole",
              known.number, starts_newest(&recall->starts).number);
    node->counters.disks_older++;
    if (known.number > recall->older_than.number) {
        recall->older_than = known;
    }
    for (size_t i = 0; i < node->partition_count; i++) {
        struct partition *partition = node->partitions[i];
        if (partition && partition_topology(partition)->replica_count > 1) {
            recall->suspicions++;
            partition_suspect(partition);
        }
    }
    if (recall->suspicions == 0) {
        adopt(recall);
    }
}

void recall_suspect_durable(struct recall *recall)
{
    recall->suspicions -= recall->suspicions > 0;
    if (recall->suspicions == 0 && recall->older_than.number != 0) {
        adopt(recall);
    }
}

/* --- Hearing */

/* R1 */
static void learn_start(struct recall *recall, const struct link *link,
                        const struct starts_mark *own, size_t count)
{
    struct err err;
    if (count == 0 || starts_are_older(own, count, starts_of(&recall->starts, link->node_id)) ||
        !starts_learn(&recall->starts, link->node_id, own[count - 1])) {
        return;
    }
    int status = starts_save(&recall->starts, &err);
    if (status == ERR_DISK_FULL) { /* it is known as long as this process lives */
        LOG_WARN(recall->node->logger, "starts: not saved: %s", err.text);
    } else if (status != 0) {
        node_fail(recall->node, &err);
    }
}

static void hear_memory(struct node *node, const struct link *link, struct span memory)
{
    uint64_t forgotten = 0;
    for (size_t at = 0; at < memory.size; at += RECALL_BYTES) {
        struct raft_memory told;
        struct partition *partition =
            node_find_partition(node, unpack_memory(memory.data + at, &told));
        uint64_t replica = partition ? replica_on(partition, link->node_id) : 0;
        forgotten += replica != 0 && partition_remind(partition, replica, &told);
    }
    if (forgotten > 0) {
        LOG_ERROR(node->logger,
                  "peer=%s remembers promises of %lu replicas here that the disk knows nothing of; "
                  "they are kept",
                  link->name, forgotten);
        node->counters.promises_recalled += forgotten;
    }
}

bool recall_hear(struct recall *recall, struct link *link, const struct recall_told *told,
                 uint64_t boot_id)
{
    struct starts_mark own[STARTS_KEPT];
    size_t count = told->starts.size / 16;
    if (told->starts.size % 16 != 0 || count > STARTS_KEPT ||
        told->memory.size % RECALL_BYTES != 0 || told->hears.size % 8 != 0 ||
        told->hears.size / 8 > LIMIT_NODES) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        own[i] = (struct starts_mark){ get_u64(told->starts.data + 16 * i),
                                       get_u64(told->starts.data + 16 * i + 8) };
    }
    struct starts_mark known = { told->known_start, told->known_boot_id };
    if (starts_are_older(recall->starts.own, recall->starts.own_count, known)) {
        suspect_all(recall, known);
    }
    if (!link->has_told) { /* what it remembers is of earlier lives: this one has told it nothing yet */
        hear_memory(recall->node, link, buf_span(&told->memory));
    }
    learn_start(recall, link, own, count);
    link->has_restarted |= link->boot_id != boot_id;
    link->boot_id = boot_id;
    link->has_told = true;
    link->hears_count = told->hears.size / 8;
    for (size_t i = 0; i < link->hears_count; i++) {
        link->hears[i] = get_u64(told->hears.data + 8 * i);
    }
    return true;
}

/* --- Sleep */

void recall_sleep(struct recall *recall)
{
    struct node *node = recall->node;
    recall->is_asleep = node->link_count > 0;
    recall->wakes_us = env_now_us(node->env) + (uint64_t)node->config.election_timeout_ms * 1000;
}

bool recall_is_asleep(const struct recall *recall)
{
    return recall->is_asleep;
}

/* Whether a node that has told hears that one. */
static bool is_heard_by_others(const struct node *node, uint64_t node_id)
{
    for (size_t i = 0; i < node->link_count; i++) {
        const struct link *link = &node->links[i];
        for (size_t j = 0; link->has_told && j < link->hears_count; j++) {
            if (link->hears[j] == node_id) {
                return true;
            }
        }
    }
    return false;
}

static bool is_waiting(const struct node *node)
{
    bool has_any = false, is_one_missing = false;
    for (size_t i = 0; i < node->link_count; i++) {
        const struct link *link = &node->links[i];
        has_any |= link->has_told;
        is_one_missing |= !link->has_told && is_heard_by_others(node, link->node_id);
    }
    return !has_any || is_one_missing;
}

void recall_tick(struct recall *recall)
{
    struct node *node = recall->node;
    if (recall->is_asleep && (env_now_us(node->env) >= recall->wakes_us || !is_waiting(node))) {
        recall->is_asleep = false;
        LOG_DEBUG(node->logger, "awake: the others have told what they remember");
    }
}
