/* Membership: who this node is, how its cluster began, and the connections to the others.
 *
 * Forming a cluster. Every first node is started with the same list of nodes (--bootstrap). A node
 * without a genesis may not vote: it could have been a member that lost its disk, and what it once
 * acknowledged would be forgotten. So the node whose name comes first, the founder, waits until it
 * has heard every listed node, each without a genesis; then it makes the genesis (cluster id, hash
 * seed, each node's random id), makes it durable and gives it to all in its greeting. A node takes
 * a genesis only if its own id stands in it, and passes it on to others that lack it. A node whose
 * id is not in the genesis has lost its data: it says so and stops.
 *
 * The topology of epoch 1 follows from the genesis by arithmetic alone, the same on every node;
 * later ones are carried by the control group (key "topology") and kept in a file by every node.
 *
 * Greeting. The node whose name comes first dials. Both sides say hello; a hello may be repeated on
 * a standing connection when there is news (the genesis). */
#include <ctype.h>

#include "base/check.h"
#include "cluster/placement.h"
#include "node/node_private.h"
#include "wire/message.h"

enum {
    MAGIC_IDENTITY = 0x49524e43, /* "CNRI" */
    MAGIC_TOPOLOGY = 0x54524e43, /* "CNRT" */
    PROTOCOL_MIN = 1,
    PROTOCOL_MAX = 1,
    UNREACHABLE_LOG_US = 10 * 1000 * 1000,
};

static bool is_formed(const struct node *node)
{
    return node->genesis != NULL;
}

struct link *membership_find(struct node *node, uint64_t node_id)
{
    for (size_t i = 0; i < node->link_count; i++) {
        if (node->links[i].node_id == node_id) {
            return &node->links[i];
        }
    }
    return NULL;
}

static struct link *find_by_name(struct node *node, const char *name)
{
    for (size_t i = 0; i < node->link_count; i++) {
        if (strcmp(node->links[i].name, name) == 0) {
            return &node->links[i];
        }
    }
    return NULL;
}

/* --- The bootstrap list */

struct listed {
    char *name, *address;
};

static bool is_good_name(const char *name)
{
    size_t size = strlen(name);
    for (size_t i = 0; i < size; i++) {
        if (!isalnum((unsigned char)name[i]) && !strchr("-_.", name[i])) {
            return false;
        }
    }
    return size > 0 && size <= LIMIT_NAME_BYTES;
}

static int insert_listed(struct listed *list, size_t *count, char *item, struct err *err)
{
    char *equals = strchr(item, '=');
    if (!equals || !strchr(equals, ':')) {
        return err_set(err, ERR_USAGE, "--bootstrap: '%s' is not NAME=HOST:PORT", item);
    }
    *equals = 0;
    if (!is_good_name(item)) {
        return err_set(
            err, ERR_USAGE,
            "--bootstrap: '%.80s' is not a node's name (letters, digits, - _ ., at most %d)", item,
            LIMIT_NAME_BYTES);
    }
    if (*count == LIMIT_NODES) {
        return err_set(err, ERR_USAGE, "--bootstrap: more than %d nodes", LIMIT_NODES);
    }
    size_t at = *count;
    for (; at > 0 && strcmp(list[at - 1].name, item) >= 0; at--) {
        if (strcmp(list[at - 1].name, item) == 0) {
            return err_set(err, ERR_USAGE, "--bootstrap: %s stands there twice", item);
        }
        list[at] = list[at - 1];
    }
    list[at] = (struct listed){ item, equals + 1 };
    (*count)++;
    return 0;
}

/* Parses the configured list into links (all but this node) and the canonical text, by name. */
static int parse_bootstrap(struct node *node, struct err *err)
{
    struct listed list[LIMIT_NODES];
    size_t count = 0;
    char *text = mem_strdup(node->config.bootstrap), *rest = text, *item;
    int status = 0;
    while (status == 0 && (item = strsep(&rest, ","))) {
        if (*item) {
            status = insert_listed(list, &count, item, err);
        }
    }
    struct buf canonical = { 0 };
    bool found = false;
    node->links = mem_zalloc((count + 1) * sizeof *node->links);
    for (size_t i = 0; status == 0 && i < count; i++) {
        buf_printf(&canonical, "%s%s=%s", i ? "," : "", list[i].name, list[i].address);
        if (strcmp(list[i].name, node->config.name) == 0) {
            found = true;
            continue;
        }
        struct link *link = &node->links[node->link_count++];
        link->name = mem_strdup(list[i].name);
        link->address = mem_strdup(list[i].address);
    }
    if (status == 0 && !found) {
        status =
            err_set(err, ERR_USAGE, "--bootstrap does not name this node (%s)", node->config.name);
    }
    buf_append(&canonical, "", 1);
    node->bootstrap = (char *)canonical.data;
    mem_free(text);
    return status;
}

/* --- Files */

static int save_identity(struct node *node, struct err *err)
{
    struct buf content = { 0 };
    put_u64(buf_extend(&content, 8), node->id);
    buf_append_span(&content, buf_span(&node->genesis_packed));
    int status = files_save(node->env, node->config.data, "identity", MAGIC_IDENTITY,
                            buf_span(&content), err);
    buf_fini(&content);
    return status;
}

static int take_genesis(struct node *node, struct span packed, struct err *err)
{
    Cairn__Control__Genesis *genesis =
        cairn__control__genesis__unpack(NULL, packed.size, packed.data);
    if (!genesis || genesis->cluster_id.len != 16 || genesis->n_nodes == 0 ||
        genesis->n_nodes > LIMIT_NODES) {
        if (genesis) {
            cairn__control__genesis__free_unpacked(genesis, NULL);
        }
        return err_set(err, ERR_CORRUPT, "malformed genesis");
    }
    for (size_t i = 0; i < genesis->n_nodes; i++) {
        if (genesis->nodes[i]->id == node->id &&
            strcmp(genesis->nodes[i]->name, node->config.name) == 0) {
            node->genesis = genesis;
            buf_clear(&node->genesis_packed);
            buf_append_span(&node->genesis_packed, packed);
            return 0;
        }
    }
    int status = err_set(err, ERR_CLUSTER_MISMATCH,
                         "cluster '%s' was formed with another node of the name %s: this node's "
                         "data is not the one that belongs "
                         "to it (restore its data folder)",
                         genesis->cluster_name, node->config.name);
    cairn__control__genesis__free_unpacked(genesis, NULL);
    return status;
}

/* Whether a node was in a cluster here: the topology is first written when it has its identity. */
static bool has_topology(struct node *node)
{
    struct buf content = { 0 };
    int status =
        files_load(node->env, node->config.data, "topology", MAGIC_TOPOLOGY, &content, NULL);
    buf_fini(&content);
    return status != ERR_NOT_FOUND;
}

static int load_identity(struct node *node, struct err *err)
{
    struct buf content = { 0 };
    int status =
        files_load(node->env, node->config.data, "identity", MAGIC_IDENTITY, &content, err);
    if (status == ERR_NOT_FOUND && has_topology(node)) {
        status = err_set(err, ERR_CORRUPT,
                         "%s holds a node's data, but its file identity is missing (restore it)",
                         node->config.data);
    } else if (status == ERR_NOT_FOUND) {
        do {
            node->id = env_random_u64(node->env);
        } while (node->id == 0);
        status = save_identity(node, err);
    } else if (status == 0 && content.size < 8) {
        status = err_set(err, ERR_CORRUPT, "%s/identity: too short", node->config.data);
    } else if (status == 0) {
        node->id = get_u64(content.data);
        if (content.size > 8) {
            status = take_genesis(node, span_of(content.data + 8, content.size - 8), err);
            if (status != 0) {
                err_prefix(err, "%s", node->config.data);
            }
        }
    }
    buf_fini(&content);
    return status;
}

static int load_topology(struct node *node, struct err *err)
{
    struct buf content = { 0 };
    int status =
        files_load(node->env, node->config.data, "topology", MAGIC_TOPOLOGY, &content, err);
    if (status == 0) {
        node_take_topology(node, buf_span(&content), false);
    }
    buf_fini(&content);
    return status == ERR_NOT_FOUND ? 0 : status;
}

/* Outlives its node: an abandoned node leaves it alone. */
struct save {
    struct env_job job;
    struct node *node;
    struct env *env;
    char *directory;
    struct buf content;
    struct err err;
    int status;
};

static void save_topology_work(struct env_job *job)
{
    struct save *save = container_of(job, struct save, job);
    save->status = files_save(save->env, save->directory, "topology", MAGIC_TOPOLOGY,
                              buf_span(&save->content), &save->err);
}

static void save_topology_done(struct env_job *job)
{
    struct save *save = container_of(job, struct save, job);
    struct node *node = save->node;
    if (node) {
        node->saving = NULL;
        if (save->status == ERR_DISK_FULL) { /* the control group has it; a start takes it there */
            LOG_WARN(node->logger, "topology not saved: %s", save->err.text);
        } else if (save->status != 0) {
            node_fail(node, &save->err);
        } else if (node->save_again) {
            membership_save_topology(node);
        }
    }
    buf_fini(&save->content);
    mem_free(save->directory);
    mem_free(save);
}

void membership_save_topology(struct node *node)
{
    if (node->saving) {
        node->save_again = true;
        return;
    }
    node->save_again = false;
    struct save *save = MEM_NEW(struct save);
    node->saving = save;
    save->node = node;
    save->env = node->env;
    save->directory = mem_strdup(node->config.data);
    save->job.work = save_topology_work;
    save->job.done = save_topology_done;
    buf_append_span(&save->content, buf_span(&node->topology_packed));
    env_job_start(node->env, ENV_JOB_READ, &save->job);
}

/* --- The genesis */

/* The topology of epoch 1: arithmetic on the genesis, equal on every node. */
static int derive_topology(struct node *node, struct err *err)
{
    const Cairn__Control__Genesis *genesis = node->genesis;
    struct topology topology = {
        .epoch = 1,
        .cluster_name = genesis->cluster_name,
        .hash_seed = genesis->hash_seed,
        .replicas = genesis->replicas,
        .feature_level = 1,
        .next_replica_id = 1,
        .node_count = genesis->n_nodes,
    };
    memcpy(topology.cluster_id, genesis->cluster_id.data, 16);
    topology.nodes = mem_zalloc(genesis->n_nodes * sizeof *topology.nodes);
    for (size_t i = 0; i < genesis->n_nodes; i++) {
        const Cairn__Control__Node *from = genesis->nodes[i];
        topology.nodes[i] = (struct topology_node){ from->id,   from->name, from->address,
                                                    from->host, from->zone, from->weight };
    }
    int status = placement_make(&topology, genesis->partitions, err);
    if (status == 0) {
        struct buf packed = { 0 };
        topology_pack(&topology, &packed);
        if (!node_take_topology(node, buf_span(&packed), true) && !node->topology) {
            status = err_set(err, ERR_CORRUPT, "the genesis gives no valid topology");
        }
        buf_fini(&packed);
    }
    mem_free(topology.nodes);
    mem_free(topology.partitions);
    return status;
}

/* The genesis is here: everything else opens. */
static int enter_cluster(struct node *node, struct err *err)
{
    int status = load_topology(node, err);
    if (status == 0 && !node->topology) {
        status = derive_topology(node, err);
    }
    for (size_t i = 0; status == 0 && i < node->link_count; i++) {
        struct link *link = &node->links[i];
        const struct topology_node *other = topology_find_name(node->topology, link->name);
        if (!other) {
            status = err_set(err, ERR_CLUSTER_MISMATCH,
                             "--bootstrap names %s, which is not in the cluster", link->name);
        } else {
            link->node_id = other->id;
        }
    }
    return status == 0 ? node_open_cluster(node, err) : status;
}

static void make_genesis_node(struct arena *arena, const char *name, const char *address,
                              uint64_t id, Cairn__Control__Genesis *genesis)
{
    Cairn__Control__Node *node = arena_alloc(arena, sizeof *node);
    cairn__control__node__init(node);
    node->id = id;
    node->name = (char *)name;
    node->address = (char *)address;
    node->weight = 1;
    genesis->nodes[genesis->n_nodes++] = node;
}

static const char *own_address(const struct node *node)
{
    return node->config.advertise ? node->config.advertise : node->config.listen;
}

static int make_genesis(struct node *node, struct err *err)
{
    struct arena arena = { 0 };
    uint8_t cluster_id[16];
    env_random(node->env, cluster_id, sizeof cluster_id);
    Cairn__Control__Genesis genesis = CAIRN__CONTROL__GENESIS__INIT;
    genesis.cluster_id = (ProtobufCBinaryData){ sizeof cluster_id, cluster_id };
    genesis.cluster_name = (char *)node->config.cluster_name;
    genesis.hash_seed = env_random_u64(node->env);
    genesis.partitions = node->config.partitions;
    genesis.replicas = node->config.replicas;
    genesis.bootstrap = node->bootstrap;
    genesis.nodes = arena_alloc(&arena, (node->link_count + 1) * sizeof *genesis.nodes);
    bool own_done = false;
    for (size_t i = 0; i <= node->link_count;
         i++) { /* links are by name: the own one goes where it belongs */
        bool own_is_next = !own_done && (i == node->link_count ||
                                         strcmp(node->config.name, node->links[i].name) < 0);
        if (own_is_next) {
            make_genesis_node(&arena, node->config.name, own_address(node), node->id, &genesis);
            own_done = true;
        }
        if (i < node->link_count) {
            make_genesis_node(&arena, node->links[i].name, node->links[i].address,
                              node->links[i].node_id, &genesis);
        }
    }
    struct buf packed = { 0 };
    size_t size = cairn__control__genesis__get_packed_size(&genesis);
    cairn__control__genesis__pack(&genesis, buf_extend(&packed, size));
    int status = take_genesis(node, buf_span(&packed), err);
    buf_fini(&packed);
    arena_fini(&arena);
    return status;
}

static void send_hello(struct node *node, struct link *link, struct conn *conn, uint8_t type,
                       int status, uint64_t request_id);

/* Saved first: a genesis that others have seen must survive our crash. Forming happens once in a
 * cluster's life, so the loop may wait for the disk here. */
static void adopt_genesis(struct node *node)
{
    struct err err;
    int status = save_identity(node, &err);
    if (status == 0) {
        status = enter_cluster(node, &err);
    }
    if (status != 0) {
        node_fail(node, &err);
        return;
    }
    LOG_INFO(node->logger, "cluster formed name=%s nodes=%zu partitions=%zu",
             node->topology->cluster_name, node->topology->node_count,
             node->topology->partition_count - 1);
    for (size_t i = 0; i < node->link_count; i++) {
        struct link *link = &node->links[i];
        if (link->conn && link->is_introduced) {
            send_hello(node, link, link->conn, FRAME_HELLO, 0, 0);
            node_link_up(node, link);
        }
    }
}

/* The founder has heard everybody. */
static void try_to_found(struct node *node)
{
    for (size_t i = 0; i < node->link_count; i++) {
        if (!node->links[i].is_introduced || strcmp(node->links[i].name, node->config.name) < 0) {
            return;
        }
    }
    struct err err;
    if (make_genesis(node, &err) != 0) {
        node_fail(node, &err);
        return;
    }
    adopt_genesis(node);
}

/* --- Greeting */

/* link: who hears it; NULL: somebody who is refused. */
static void send_hello(struct node *node, struct link *link, struct conn *conn, uint8_t type,
                       int status, uint64_t request_id)
{
    struct recall_told told = { 0 };
    Cairn__V1__Hello hello = CAIRN__V1__HELLO__INIT;
    hello.protocol_min = PROTOCOL_MIN;
    hello.protocol_max = PROTOCOL_MAX;
    hello.boot_id = node->boot_id;
    hello.node_id = node->id;
    hello.name = (char *)node->config.name;
    hello.bootstrap = node->bootstrap;
    hello.time = node->hlc;
    if (is_formed(node)) {
        hello.cluster_id = node->genesis->cluster_id;
        hello.genesis =
            (ProtobufCBinaryData){ node->genesis_packed.size, node->genesis_packed.data };
        hello.epoch = node->topology ? node->topology->epoch : 0;
    }
    if (link && node->log) {
        link->is_told = true;
        recall_tell(node->recall, link->node_id, &told);
        hello.starts = (ProtobufCBinaryData){ told.starts.size, told.starts.data };
        hello.known_start = told.known_start;
        hello.known_boot_id = told.known_boot_id;
        hello.memory = (ProtobufCBinaryData){ told.memory.size, told.memory.data };
        hello.hears = (ProtobufCBinaryData){ told.hears.size, told.hears.data };
    }
    struct buf message = { 0 };
    size_t size = cairn__v1__hello__get_packed_size(&hello);
    if (buf_try_reserve(&message, env_gate(node->env, MEM_CONN), size)) {
        cairn__v1__hello__pack(&hello, buf_extend(&message, size));
        struct frame frame = { .type = type,
                               .status = status,
                               .request_id = request_id,
                               .message = buf_span(&message),
                               .time = node->hlc };
        conn_send(conn, &frame, NULL);
        buf_fini(&message);
    } else {
        conn_close(conn); /* it is dialled again */
    }
    recall_told_fini(&told);
}

void membership_greet_again(struct node *node)
{
    for (size_t i = 0; i < node->link_count; i++) {
        struct link *link = &node->links[i];
        if (link->conn && link->is_introduced) {
            send_hello(node, link, link->conn, FRAME_HELLO, 0, 0);
        }
    }
}

static int judge_cluster(struct node *node, struct link *link, const Cairn__V1__Hello *hello,
                         struct err *err)
{
    if (hello->cluster_id.len == 16 &&
        memcmp(hello->cluster_id.data, node->genesis->cluster_id.data, 16) != 0) {
        return err_set(err, ERR_CLUSTER_MISMATCH, "%s belongs to another cluster", hello->name);
    }
    if (link->node_id != hello->node_id) {
        return err_set(
            err, ERR_CLUSTER_MISMATCH,
            "%s has another node id than the member of this name: its data was lost or replaced",
            hello->name);
    }
    return 0;
}

/* What another node says of itself. 0: welcome (link is set to it). */
static int hear_hello(struct node *node, struct link *link, const Cairn__V1__Hello *hello,
                      struct err *err)
{
    if (hello->protocol_min > PROTOCOL_MAX || hello->protocol_max < PROTOCOL_MIN) {
        return err_set(err, ERR_PROTOCOL_VERSION, "%s speaks protocol %u to %u", hello->name,
                       hello->protocol_min, hello->protocol_max);
    }
    if (is_formed(node)) {
        return judge_cluster(node, link, hello, err);
    }
    if (hello->genesis.len > 0) {
        int status = take_genesis(node, span_of(hello->genesis.data, hello->genesis.len), err);
        if (status == ERR_CLUSTER_MISMATCH) {
            node_fail(node, err);
        }
        return status;
    }
    if (strcmp(hello->bootstrap, node->bootstrap) != 0) {
        return err_set(err, ERR_CLUSTER_MISMATCH,
                       "%s was started with another --bootstrap list: '%s' there, '%s' here",
                       hello->name, hello->bootstrap, node->bootstrap);
    }
    link->node_id = hello->node_id;
    return 0;
}

/* Before the first Raft message of this connection is heard. A node that is not in the cluster yet
 * remembers nothing. False: malformed, and closed. */
static bool hear_recall(struct node *node, struct link *link, const Cairn__V1__Hello *hello)
{
    if (!node->log || hello->genesis.len == 0) {
        return true;
    }
    struct recall_told told = {
        .starts = { .data = hello->starts.data, .size = hello->starts.len },
        .memory = { .data = hello->memory.data, .size = hello->memory.len },
        .known_start = hello->known_start,
        .known_boot_id = hello->known_boot_id,
        .hears = { .data = hello->hears.data, .size = hello->hears.len },
    };
    if (!recall_hear(node->recall, link, &told, hello->boot_id)) {
        LOG_WARN(node->logger, "peer=%s sent a malformed greeting", link->name);
        node->counters.frames_refused++;
        conn_close(link->conn);
        return false;
    }
    return true;
}

/* After a welcome hello: go on to form the cluster, or open the way to the peer. */
static void settle_hello(struct node *node, struct link *link, bool was_formed,
                         const Cairn__V1__Hello *hello)
{
    link->is_introduced = true;
    link->greet_us = 0;
    env_timer_stop(node->env, &link->retry);
    node_hear_time(node, hello->time);
    if (!is_formed(node)) {
        try_to_found(node);
    } else if (!was_formed) {
        adopt_genesis(node);
        hear_recall(node, link, hello);
    } else if (hear_recall(node, link, hello)) {
        /* The peer lacks the genesis; or the hello here left before this node had it, and told nothing. */
        if ((hello->genesis.len == 0 && link->dials) || !link->is_told) {
            send_hello(node, link, link->conn, FRAME_HELLO, 0, 0);
        }
        if (!link->peer.conn) {
            node_link_up(node, link);
        }
    }
}

static void link_refuse(struct link *link, const struct err *err)
{
    uint64_t now_us = env_now_us(link->node->env);
    if (link->last_error_us == 0 || now_us - link->last_error_us > UNREACHABLE_LOG_US) {
        LOG_WARN(link->node->logger, "peer=%s refused: %s (%s)", link->name, err->text,
                 err_info(err->code)->name);
        link->last_error_us = now_us;
    }
    conn_close(link->conn);
}

/* In the arena. NULL: malformed, or there is no memory for it. */
static Cairn__V1__Hello *unpack_hello(struct node *node, const struct frame *frame,
                                      struct arena *arena)
{
    *arena = (struct arena){ .gate = env_gate(node->env, MEM_CONN) };
    ProtobufCAllocator allocator = message_allocator(arena);
    return message_unpack(&cairn__v1__hello__descriptor, &allocator, frame->message);
}

static void link_on_hello(struct link *link, const struct frame *frame)
{
    struct node *node = link->node;
    struct arena arena;
    Cairn__V1__Hello *hello = unpack_hello(node, frame, &arena);
    struct err err;
    bool was_formed = is_formed(node);
    if (arena.has_refused) {
        err_set(&err, ERR_NO_MEMORY, "no memory for its greeting");
        link_refuse(link, &err);
    } else if (!hello || strcmp(hello->name, link->name) != 0) {
        err_set(&err, ERR_PROTOCOL, "the node at %s is not %s", link->address, link->name);
        link_refuse(link, &err);
    } else if (hear_hello(node, link, hello, &err) != 0) {
        link_refuse(link, &err);
    } else if (frame->status != 0 && is_formed(node)) {
        err_set(&err, frame->status, "it does not accept this node");
        link_refuse(link, &err);
    } else {
        settle_hello(node, link, was_formed, hello);
    }
    arena_fini(&arena);
}

static void link_on_open(void *ctx, struct conn *conn)
{
    struct link *link = ctx;
    send_hello(link->node, link, conn, FRAME_HELLO, 0, 0);
}

static void link_on_frame(void *ctx, struct conn *conn, const struct frame *frame)
{
    struct link *link = ctx;
    struct node *node = link->node;
    node_hear_time(node, frame->time);
    switch (frame->type) {
    case FRAME_HELLO:
    case FRAME_HELLO_OK:
        link_on_hello(link, frame);
        break;
    case FRAME_RAFT:
        if (link->peer.conn) {
            node_raft_frame(node, link, frame);
        }
        break;
    case FRAME_REQUEST:
        if (link->peer.conn && frame->verb == VERB_IMAGE) {
            images_question(node->images, link, frame);
        } else if (link->peer.conn) {
            request_start(node, &link->origin, frame);
        }
        break;
    case FRAME_RESPONSE:
        if (link->peer.conn && frame->verb == VERB_IMAGE) {
            images_answer(node->images, link, frame);
        } else {
            request_forward_answered(link, frame);
        }
        break;
    default:
        conn_close(conn);
    }
}

static void link_on_close(void *ctx, struct conn *conn, int status, const char *reason)
{
    struct link *link = ctx;
    struct node *node = link->node;
    if (link->conn != conn) {
        return; /* replaced by a newer one */
    }
    bool was_up = link->peer.conn != NULL;
    link->conn = NULL;
    link->is_introduced = link->is_told = false;
    request_origin_gone(&link->origin);
    if (was_up) {
        LOG_INFO(node->logger, "peer=%s connection lost: %s", link->name,
                 reason ? reason : err_info(status)->name);
        node_link_down(node, link);
    }
    if (link->dials && !node->is_stopped) {
        env_timer_start(node->env, &link->retry, LINK_RETRY_US);
    }
}

static const struct conn_events link_events = { link_on_open, link_on_frame, link_on_close };

static void link_dial(struct env_timer *timer)
{
    struct link *link = container_of(timer, struct link, retry);
    struct err err;
    if (link->conn) {
        /* No greeting within greet_us. The kernel would wait for minutes for a machine that lost its power or a route that
         * drops packets; a fresh attempt does as well, and sooner. */
        if (!link->is_introduced) {
            conn_close(link->conn);
        }
        return;
    }
    uint64_t greet_us = link->greet_us ? link->greet_us : LINK_GREET_MIN_US;
    link->greet_us = greet_us < LINK_GREET_MAX_US / 2 ? 2 * greet_us : LINK_GREET_MAX_US;
    int status =
        conn_connect(link->node->env, link->address, &link_events, link, &link->conn, &err);
    if (status != 0) {
        LOG_WARN(link->node->logger, "peer=%s cannot connect: %s", link->name, err.text);
    }
    env_timer_start(link->node->env, &link->retry, status == 0 ? greet_us : LINK_RETRY_US);
}

static void refuse_caller(struct node *node, struct conn *conn, const struct frame *frame,
                          const struct err *err)
{
    LOG_WARN(node->logger, "refused a node's greeting from %s: %s (%s)", conn_peer(conn), err->text,
             err_info(err->code)->name);
    send_hello(node, NULL, conn, FRAME_HELLO_OK, err->code, frame->request_id);
}

bool node_accept_peer(struct node *node, struct conn *conn, const struct frame *frame)
{
    struct arena arena;
    Cairn__V1__Hello *hello = unpack_hello(node, frame, &arena);
    struct link *link = hello ? find_by_name(node, hello->name) : NULL;
    struct err err;
    bool was_formed = is_formed(node), accepted = false;
    if (node->is_stopped) {
        goto out;
    }
    if (arena.has_refused) {
        conn_close(conn); /* it calls again */
    } else if (!link) {
        err_set(&err, ERR_CLUSTER_MISMATCH, "no node of this cluster is called '%s'",
                hello ? hello->name : "?");
        refuse_caller(node, conn, frame, &err);
    } else if (hear_hello(node, link, hello, &err) != 0) {
        refuse_caller(node, conn, frame, &err);
    } else {
        if (link->conn) { /* the caller restarted, or lost the old one before us */
            struct conn *old = link->conn;
            conn_close(old);
            link_on_close(link, old, ERR_CLOSED, "replaced by a new connection");
        }
        link->conn = conn;
        conn_attach(conn, &link_events, link);
        send_hello(node, link, conn, FRAME_HELLO_OK, 0, frame->request_id);
        settle_hello(node, link, was_formed, hello);
        accepted = true;
    }
out:
    arena_fini(&arena);
    return accepted;
}

/* --- Start and end */

static void link_respond(struct request_origin *origin, const struct frame *frame,
                         const struct conn_piece *pieces, size_t count)
{
    struct link *link = container_of(origin, struct link, origin);
    if (link->conn) {
        conn_send_pieces(link->conn, frame, pieces, count);
    }
}

static size_t link_room(struct request_origin *origin)
{
    const struct link *link = container_of(origin, struct link, origin);
    return link->conn ? conn_room(link->conn) : LIMIT_FRAME_BYTES;
}

static void link_abandon(struct request_origin *origin)
{
    struct link *link = container_of(origin, struct link, origin);
    if (link->conn) {
        conn_close(link->conn);
    }
}

int membership_start(struct node *node, struct err *err)
{
    int status = load_identity(node, err);
    if (status == 0) {
        status = parse_bootstrap(node, err);
    }
    if (status == 0) {
        status = recall_open(node, &node->recall, err);
    }
    if (status != 0) {
        return status;
    }
    for (size_t i = 0; i < node->link_count; i++) {
        struct link *link = &node->links[i];
        link->node = node;
        link->dials = strcmp(node->config.name, link->name) < 0;
        link->peer.gate = env_gate(node->env, MEM_RAFT);
        link->retry.fire = link_dial;
        request_origin_init(&link->origin, link_respond, link_room, link_abandon);
    }
    if (is_formed(node)) {
        status = enter_cluster(node, err);
    } else if (node->link_count == 0) {
        status = make_genesis(node, err);
        if (status == 0) {
            status = save_identity(node, err);
        }
        if (status == 0) {
            status = enter_cluster(node, err);
        }
    } else {
        LOG_INFO(node->logger, "waiting for all nodes of --bootstrap to form the cluster");
    }
    if (status == 0) {
        status = recall_begin(node->recall, err);
    }
    for (size_t i = 0; status == 0 && i < node->link_count; i++) {
        if (node->links[i].dials) {
            env_timer_start(node->env, &node->links[i].retry, 0);
        }
    }
    return status;
}

void membership_fini(struct node *node)
{
    if (node->saving) {
        node->saving->node = NULL;
    }
    for (size_t i = 0; i < node->link_count; i++) {
        struct link *link = &node->links[i];
        if (link->retry.fire) {
            env_timer_stop(node->env, &link->retry);
        }
        hashtab_fini(&link->forwards);
        peer_fini(&link->peer);
        mem_free(link->rides);
        mem_free(link->asks);
        mem_free(link->tells);
        mem_free(link->name);
        mem_free(link->address);
    }
    mem_free(node->links);
    mem_free(node->bootstrap);
    if (node->genesis) {
        cairn__control__genesis__free_unpacked(node->genesis, NULL);
    }
    buf_fini(&node->genesis_packed);
}
