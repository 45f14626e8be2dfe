/* Opening a node and freeing it: its configuration, its cluster's store, log and partitions, in this order. */
#include "base/check.h"
#include "node/node_private.h"

/* --- The cluster is known */

static const struct log_group_start *find_start(const struct node *node, uint32_t group)
{
    for (size_t i = 0; i < log_group_count(node->log); i++) {
        if (log_group_at(node->log, i)->group == group) {
            return log_group_at(node->log, i);
        }
    }
    return NULL;
}

static int open_partitions(struct node *node, struct err *err)
{
    node->host = (struct partition_host){
        .env = node->env,
        .logger = node->logger,
        .log = node->log,
        .store = node->store,
        .reserve = node->reserve,
        .budget = &node->budget,
        .scratch = node->scratch,
        .hash_seed = node->topology->hash_seed,
        .feature_level = node->topology->feature_level,
        .election_timeout_ms = node->config.election_timeout_ms,
        .heartbeat_ms = node->config.heartbeat_ms,
        .hlc = &node->hlc,
        .changes = &node->changes,
        .now_ms = &node->now_ms,
        .cut_level = &node->cut_level,
        .is_tight = &node->is_tight,
        .quiet_until_ms = node->quiet_until_ms,
    };
    node_hear_partitions(node, &node->host);
    for (size_t i = 0; i < node->topology->partition_count; i++) {
        const struct topology_partition *group = &node->topology->partitions[i];
        bool is_here = false;
        for (int j = 0; j < group->replica_count; j++) {
            is_here = is_here || group->replicas[j].node_id == node->id;
        }
        if (!is_here) {
            continue;
        }
        int status = partition_open(&node->host, group, node->id, find_start(node, group->group),
                                    &node->partitions[group->group], err);
        if (status != 0) {
            return status;
        }
        uint64_t time = store_replica_time(partition_store(node->partitions[group->group]));
        node->hlc = time > node->hlc ? time : node->hlc;
    }
    return 0;
}

/* The replicas that are to be here; is_alone: one of them has no other that could help it. */
static size_t list_expected(const struct node *node, struct log_expected *out, bool *is_alone)
{
    size_t count = 0;
    *is_alone = false;
    for (size_t i = 0; i < node->topology->partition_count; i++) {
        const struct topology_partition *group = &node->topology->partitions[i];
        for (int j = 0; j < group->replica_count; j++) {
            if (group->replicas[j].node_id == node->id) {
                out[count++] = (struct log_expected){ group->group, group->replicas[j].id };
                *is_alone = *is_alone || group->replica_count == 1;
            }
        }
    }
    return count;
}

static int open_log(struct node *node, struct err *err)
{
    bool is_alone;
    struct log_expected *expected =
        mem_zalloc((node->topology->partition_count + 1) * sizeof *expected);
    char *directory = mem_printf("%s/log", node->config.data);
    struct log_config config = {
        .env = node->env,
        .logger = node->logger,
        .directory = directory,
        .node_id = node->id,
        .cache_bytes = node->config.log_cache_bytes,
        .segment_bytes = node->config.log_segment_bytes,
        .expected = expected,
        .expected_count = list_expected(node, expected, &is_alone),
        .is_alone = is_alone,
    };
    node_hear_log(node, &config);
    memcpy(config.cluster_id, node->topology->cluster_id, 16);
    int status = log_open(&config, &node->log, err);
    mem_free(expected);
    mem_free(directory);
    return status;
}

static void note_segment(void *ctx, const char *name)
{
    size_t size = strlen(name);
    *(bool *)ctx |= size > 4 && strcmp(name + size - 4, ".log") == 0;
}

static bool has_log(struct node *node)
{
    bool has = false;
    struct err err;
    char *directory = mem_printf("%s/log", node->config.data);
    env_dir_list(node->env, directory, note_segment, &has, &err);
    mem_free(directory);
    return has;
}

/* LMDB is damaged as a whole. The log remembers what this node has promised, so it may go on with
 * an empty store: each replica comes back from its log, if that reaches down to the first entry,
 * else by an image from its peers. Not so a replica without peers: it refuses, and the node stays
 * down. */
static int begin_store_anew(struct node *node, const struct store_config *config, struct err *err)
{
    char *aside;
    LOG_ERROR(node->logger, "store: %s; begins anew, to be repaired by the other replicas",
              err->text);
    int status = store_set_aside(node->env, config->directory, &aside, err);
    if (status == 0) {
        LOG_WARN(node->logger, "store: the damaged one was moved to %s", aside);
        mem_free(aside);
        status = store_open(config, &node->store, err);
    }
    return status;
}

/* LMDB zeroes some 50 bytes for each as a read transaction begins, 200 KB with the store's own limit. A group has
 * its replica's database, and for a while those that images have replaced. 0: the store's own. */
static uint32_t databases_max(const struct node *node)
{
    uint32_t count = 4 * (uint32_t)node->topology->partition_count;
    return count < LIMIT_PARTITIONS_MAX ? count + LIMIT_STORE_STAGES + 16 : 0;
}

static int open_store(struct node *node, struct err *err)
{
    char *directory = mem_printf("%s/store", node->config.data);
    struct store_config config = {
        .env = node->env,
        .logger = node->logger,
        .directory = directory,
        .node_id = node->id,
        .map_bytes = node->config.map_bytes,
        .overlay_bytes_max = node->config.overlay_bytes,
        .flush_transaction_bytes = node->config.flush_transaction_bytes,
        .databases_max = databases_max(node),
        .no_sync = node->config.store_no_sync,
    };
    node_hear_store(node, &config);
    memcpy(config.cluster_id, node->topology->cluster_id, 16);
    int status = store_open(&config, &node->store, err);
    if (status == ERR_CORRUPT && has_log(node) && node->topology->partitions[0].replica_count > 1) {
        status = begin_store_anew(node, &config, err);
    }
    mem_free(directory);
    return status;
}

int node_open_cluster(struct node *node, struct err *err)
{
    uint32_t highest = 0;
    for (size_t i = 0; i < node->topology->partition_count; i++) {
        uint32_t group = node->topology->partitions[i].group;
        highest = group > highest ? group : highest;
    }
    node->partition_count = highest + 1;
    node->partitions = mem_zalloc(node->partition_count * sizeof *node->partitions);
    node->quiet_until_ms = mem_zalloc(node->partition_count * sizeof *node->quiet_until_ms);
    node->leads = mem_zalloc(node->partition_count * sizeof *node->leads);
    node->awake = mem_zalloc(2 * node->partition_count * sizeof *node->awake);
    node->reads_wanted = mem_zalloc(node->partition_count * sizeof *node->reads_wanted);
    node->wanted = mem_zalloc(node->partition_count * sizeof *node->wanted);
    node->leaders = mem_zalloc(node->partition_count * sizeof *node->leaders);
    for (size_t i = 0; i < node->link_count; i++) {
        struct link *link = &node->links[i];
        link->rides = mem_zalloc(node->partition_count * sizeof *link->rides);
        link->asks = mem_zalloc(node->partition_count * sizeof *link->asks);
        link->tells = mem_zalloc(node->partition_count * sizeof *link->tells);
    }
    node->scratch = MEM_NEW(struct partition_scratch);
    node->images = images_new(node);
    node->scrub = scrub_new(node);
    struct reserve_config reserve = {
        .env = node->env,
        .logger = node->logger,
        .directory = node->config.data,
        .bytes = node->config.reserve_bytes,
        .segment_bytes = node_log_segment_bytes(node),
    };
    node->reserve = reserve_open(&reserve);
    /* The store first: a wrong one is refused before the log is recovered, which writes. */
    int status = open_store(node, err);
    if (status == 0) {
        status = open_log(node, err);
    }
    if (status == 0) {
        node_look_at_budget(node);
        status = open_partitions(node, err);
    }
    recall_sleep(node->recall);
    return status;
}

/* --- The process starts */

static void copy_config(struct node *node, const struct node_config *config)
{
    node->config = *config;
    struct node_config *own = &node->config;
    own->name = mem_strdup(config->name ? config->name : "n1");
    own->data = mem_strdup(config->data);
    own->listen = mem_strdup(config->listen ? config->listen : "127.0.0.1:7400");
    own->advertise = mem_strdup(config->advertise ? config->advertise : own->listen);
    own->cluster_name = mem_strdup(config->cluster_name ? config->cluster_name : "cairn");
    own->bootstrap = config->bootstrap ? mem_strdup(config->bootstrap)
                                       : mem_printf("%s=%s", own->name, own->advertise);
    own->partitions = config->partitions ? config->partitions : 128;
    own->replicas = config->replicas ? config->replicas : 3;
    own->election_timeout_ms = config->election_timeout_ms ? config->election_timeout_ms : 600;
    own->heartbeat_ms = config->heartbeat_ms ? config->heartbeat_ms : 100;
    own->flush_bytes = config->flush_bytes ? config->flush_bytes : 256 << 20;
    own->flush_idle_ms = config->flush_idle_ms ? config->flush_idle_ms : 2000;
    own->image_chunk_bytes = config->image_chunk_bytes ? config->image_chunk_bytes : 512 << 10;
    own->scrub_interval_ms =
        config->scrub_interval_ms ? config->scrub_interval_ms : 24 * 3600 * 1000;
    own->image_bytes_per_second =
        config->image_bytes_per_second ? config->image_bytes_per_second : 64 << 20;
    own->log_bytes = config->log_bytes ? config->log_bytes : 512 << 20;
}

static void free_config(struct node *node)
{
    const char *strings[] = { node->config.name,      node->config.data,
                              node->config.listen,    node->config.advertise,
                              node->config.bootstrap, node->config.cluster_name };
    for (size_t i = 0; i < sizeof strings / sizeof *strings; i++) {
        mem_free((void *)strings[i]);
    }
}

int node_start(struct env *env, struct logger *logger, const struct node_config *config,
               struct node **out, struct err *err)
{
    CHECK(config->data);
    struct node *node = MEM_NEW(struct node);
    node->env = env;
    node->logger = logger;
    copy_config(node, config);
    node_arm(node);
    list_init(&node->requests);
    list_init(&node->parked);
    list_init(&node->free_requests);
    node->boot_id = env_random_u64(env);
    node->changes = (node->boot_id >> 2) + 1; /* no other process's */
    node->next_forward_id = 1;
    node->started_us = node->last_write_us = env_now_us(env);
    node->hlc = hlc_from_us(env_wall_us(env));
    int status = env_dir_make(env, node->config.data, err);
    if (status == 0) {
        status = env_dir_lock(env, node->config.data, err);
    }
    if (status == 0) {
        status = membership_start(node, err);
    }
    if (status != 0) {
        node->is_stopped = true;
        node_abandon(node);
        return status;
    }
    env_timer_start(env, &node->tick, NODE_TICK_US);
    *out = node;
    return 0;
}

static void no_frame(void *ctx, struct conn *conn, const struct frame *frame)
{
}

static void no_close(void *ctx, struct conn *conn, int status, const char *reason)
{
}

static const struct conn_events no_events = { NULL, no_frame, no_close };

void node_abandon(struct node *node)
{
    node->is_stopped = true;
    env_timer_stop(node->env, &node->tick);
    node_rounds_stop(node);
    for (size_t i = 0; i < node->link_count; i++) {
        struct link *link = &node->links[i];
        if (link->conn) {
            conn_attach(link->conn, &no_events, NULL);
            conn_close(link->conn);
        }
        link->conn = NULL;
        peer_down(&link->peer);
    }
    request_drop_all(node);
    if (node->log) {
        log_close(node->log);
    }
    for (size_t i = 0; i < node->partition_count; i++) {
        if (node->partitions[i]) {
            partition_close(node->partitions[i]);
        }
    }
    images_free(node->images);
    scrub_free(node->scrub);
    if (node->store) {
        store_close(node->store);
    }
    if (node->reserve) {
        reserve_close(node->reserve);
    }
    membership_fini(node);
    recall_free(node->recall);
    list_remove(&node->turn.link);
    topology_unref(node->topology);
    buf_fini(&node->topology_packed);
    mem_free(node->partitions);
    mem_free(node->quiet_until_ms);
    mem_free(node->leads);
    mem_free(node->awake);
    mem_free(node->reads_wanted);
    mem_free(node->wanted);
    mem_free(node->leaders);
    mem_free(node->scratch);
    free_config(node);
    mem_free(node);
}
