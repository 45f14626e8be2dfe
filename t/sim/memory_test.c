/* The n-th allocation fails: a cluster of three nodes in one process, one client, no other trouble.
 *
 * For each verb and each kind of memory: the n-th allocation of that kind fails on every node, for n = 1, 2, … until the request is
 * answered before any has failed. However it was answered, the cluster must show what that answer says: with success the effect, with
 * ERR_NO_MEMORY nothing of it. Then the same with every allocation of all kinds failing for a while. At the end all is there.
 * Last a node that lacks what the others have cut from their logs is made whole while pieces of images find no memory.
 *
 * And bounds: a client that asks and does not read must not fill the memory either. */
#include "sim/memory_test.h"

#include <ftw.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/check.h"
#include "node/node_private.h"
#include "server/server.h"
#include "sim/caller.h"
#include "wire/message.h"

enum {
    NODES = 3,
    CALLER = NODES,
    CLIENT = MEM_KINDS, /* one more kind: what the client library asks for */
    KINDS,
    SECOND_US = 1000 * 1000,
    ATTEMPTS_MAX = 400, /* more allocations of a kind than any request's time sees */
    KEYS = 40,
    LARGE_BYTES = 200 << 10,
    MULTI = 24,
    STORM = 50, /* refusals in a row, of each kind */
    FILL_KEYS = 1600,
    FILL_BYTES = 8 << 10,
    IMAGE_STRIDE = 200, /* so that a piece gets through now and then */
};

struct cluster {
    struct schedule schedule;
    struct network network;
    struct random random;
    char directory[96], bootstrap[256];
    struct test_node {
        char name[16], host[32], address[48], *data;
        struct env_sim *env;
        struct disk *disk;
        struct server *server;
        struct logger logger;
        struct mem_gates gates;
        bool has_stopped;
    } nodes[NODES];
    struct caller caller;
    struct mem_gate client_gate;
    struct schedule_event poke; /* lets the client look at what was submitted */
    /* The request at hand. */
    bool is_answered;
    int status;
    size_t entries;
    struct buf value;
    uint8_t *large;
    struct cairn_meta meta;
    int statuses[MULTI];
    uint64_t refused[KINDS];
    /* What the keys must show. */
    uint64_t counter, was_put, was_put_large, was_set, were_put[MULTI];
};

/* --- The cluster */

static void quiet(void *ctx, enum logger_level level, const char *text)
{
}

static void on_stopped(void *ctx, int status, const char *text)
{
    ((struct test_node *)ctx)->has_stopped = true;
    printf("# a node stopped: %s\n", text);
}

static void make_node(struct cluster *cluster, uint32_t number)
{
    struct test_node *node = &cluster->nodes[number];
    node->data = mem_printf("%s/%s", cluster->directory, node->name);
    node->disk = disk_new(number + 1, 1ull << 40);
    disk_prepare(node->disk, node->data);
    CHECK(mkdir(node->data, 0700) == 0);
    node->env =
        env_sim_new(&cluster->schedule, &cluster->network, node->disk, number, node->host, 7);
    node->env->env.gates = &node->gates;
    node->env->is_real_too = true;
    node->logger = (struct logger){ .level = LOGGER_ERROR, .write = quiet };
}

static void boot_node(struct cluster *cluster, uint32_t number)
{
    struct test_node *node = &cluster->nodes[number];
    env_sim_boot(node->env);
    struct node_config config = {
        .name = node->name,
        .data = node->data,
        .listen = node->address,
        .bootstrap = cluster->bootstrap,
        .insecure = true,
        .cluster_name = "memory",
        .partitions = 16,
        .replicas = NODES,
        .flush_bytes = 64 << 10,
        .overlay_bytes = 64 << 20,
        .flush_idle_ms = 200,
        .log_bytes = 1 << 20,
        .log_segment_bytes = 512 << 10,
        .log_cache_bytes = 64 << 10,
        .map_bytes = 256 << 20,
        .scrub_interval_ms = 60000,
        .image_chunk_bytes = 4 << 10,
        .image_bytes_per_second = 64 << 20,
        .store_no_sync = true,
        .on_stopped = on_stopped,
        .ctx = node,
    };
    struct err err = { 0 };
    int status = server_start(&node->env->env, &node->logger, &config, &node->server, &err);
    CHECK(status == 0);
}

static void run_for(struct cluster *cluster, uint64_t us)
{
    uint64_t until_us = cluster->schedule.now_us + us;
    struct schedule_event *event;
    while ((event = schedule_next(&cluster->schedule, until_us)) != NULL) {
        env_sim_step(&cluster->schedule, event);
    }
}

static void do_nothing(struct schedule_event *event)
{
}

static void cluster_begin(struct cluster *cluster)
{
    char endpoints[256] = "", *bootstrap = cluster->bootstrap;
    snprintf(cluster->directory, sizeof cluster->directory, "%s/cairn-memory-%d",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp", (int)getpid());
    CHECK(mkdir(cluster->directory, 0700) == 0);
    schedule_init(&cluster->schedule, SECOND_US);
    network_init(&cluster->network, &cluster->schedule, 7);
    cluster->network.cut_percent = 20;
    cluster->network.window_bytes = 256 << 10;
    cluster->random = random_stream(7, 1);
    for (uint32_t i = 0; i <= NODES; i++) {
        for (uint32_t j = 0; j <= NODES; j++) {
            cluster->network.latency_us[i][j] = 100;
        }
    }
    for (uint32_t i = 0; i < NODES; i++) {
        struct test_node *node = &cluster->nodes[i];
        snprintf(node->name, sizeof node->name, "n%u", i + 1);
        snprintf(node->host, sizeof node->host, "127.0.0.%u", i + 1);
        snprintf(node->address, sizeof node->address, "%s:7400", node->host);
        size_t used = strlen(bootstrap);
        snprintf(bootstrap + used, sizeof cluster->bootstrap - used, "%s%s=%s", i ? "," : "",
                 node->name, node->address);
        used = strlen(endpoints);
        snprintf(endpoints + used, sizeof endpoints - used, "%s%s", i ? "," : "", node->address);
    }
    for (uint32_t i = 0; i < NODES; i++) {
        make_node(cluster, i);
        boot_node(cluster, i);
    }
    struct caller_config config = { .schedule = &cluster->schedule,
                                    .network = &cluster->network,
                                    .random = &cluster->random,
                                    .machine = CALLER,
                                    .seed = 7,
                                    .endpoints = endpoints,
                                    .timeout_ms = 5000,
                                    .gate = &cluster->client_gate };
    caller_init(&cluster->caller, &config);
    cluster->poke = (struct schedule_event){ .run = do_nothing, .owner = cluster->caller.env };
    cluster->large = mem_alloc(LARGE_BYTES);
    memset(cluster->large, 'L', LARGE_BYTES);
    run_for(cluster, 5 * SECOND_US);
}

static int remove_one(const char *path, const struct stat *stat, int type, struct FTW *ftw)
{
    return remove(path);
}

static void cluster_end(struct cluster *cluster)
{
    caller_kill(&cluster->caller);
    for (uint32_t i = 0; i < NODES; i++) {
        struct test_node *node = &cluster->nodes[i];
        env_sim_kill(node->env, ENV_SIM_CRASH);
        server_abandon(node->server);
        env_sim_reap(node->env);
    }
    network_fini(&cluster->network);
    caller_fini(&cluster->caller);
    for (uint32_t i = 0; i < NODES; i++) {
        env_sim_free(cluster->nodes[i].env);
        disk_free(cluster->nodes[i].disk);
        mem_free(cluster->nodes[i].data);
    }
    schedule_fini(&cluster->schedule);
    buf_fini(&cluster->value);
    mem_free(cluster->large);
    nftw(cluster->directory, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* --- Gates */

/* The n-th gate of a kind; NULL: there is none more. */
static struct mem_gate *gate_of(struct cluster *cluster, int kind, uint32_t n)
{
    if (kind == CLIENT) {
        return n == 0 ? &cluster->client_gate : NULL;
    }
    return n < NODES ? &cluster->nodes[n].gates.of[kind] : NULL;
}

static void arm(struct cluster *cluster, int kind, uint64_t n, uint64_t more)
{
    struct mem_gate *gate;
    for (uint32_t i = 0; (gate = gate_of(cluster, kind, i)) != NULL; i++) {
        gate->refuse_in = n;
        gate->refuse_more = more;
    }
}

/* Returns what was refused since the last call, and notes it. */
static uint64_t disarm(struct cluster *cluster, int kind)
{
    uint64_t refused = 0;
    struct mem_gate *gate;
    arm(cluster, kind, 0, 0);
    for (uint32_t i = 0; (gate = gate_of(cluster, kind, i)) != NULL; i++) {
        refused += gate->refused;
        gate->refused = 0;
    }
    cluster->refused[kind] += refused;
    return refused;
}

/* --- Requests. Each waits for its answer, and returns its status. */

static void on_done(void *arg, struct cairn_result *result)
{
    struct cluster *cluster = arg;
    cluster->is_answered = true;
    cluster->status = result->status;
    cluster->meta = result->meta;
    buf_clear(&cluster->value);
    if (result->status == 0 && result->value) {
        buf_append(&cluster->value, result->value, result->value_size);
    }
}

static int wait_for(struct cluster *cluster)
{
    uint64_t until_us = cluster->schedule.now_us + 20 * SECOND_US;
    caller_wake(&cluster->caller);
    schedule_add(&cluster->schedule, &cluster->poke, cluster->schedule.now_us);
    while (!cluster->is_answered) {
        struct schedule_event *event = schedule_next(&cluster->schedule, until_us);
        CHECK(event); /* every request is answered in time */
        env_sim_step(&cluster->schedule, event);
    }
    return cluster->status;
}

static int ask(struct cluster *cluster, const struct cairn_request *request)
{
    cluster->is_answered = false;
    int status = core_submit(cluster->caller.core, request, on_done, cluster,
                             caller_now_us(&cluster->caller), NULL);
    return status ? status : wait_for(cluster);
}

static struct cairn_request request_of(enum cairn_verb verb, const char *key)
{
    return (struct cairn_request){ .verb = verb, .key = key, .key_size = strlen(key) };
}

static int put(struct cluster *cluster, const char *key, const void *value, size_t size)
{
    struct cairn_request request = request_of(CAIRN_PUT, key);
    request.value = value;
    request.value_size = size;
    return ask(cluster, &request);
}

/* Whether the key has this value; size 0: is not there. */
static bool has(struct cluster *cluster, const char *key, const void *value, size_t size)
{
    struct cairn_request request = request_of(CAIRN_GET, key);
    int status = ask(cluster, &request);
    return size == 0 ? status == CAIRN_NOT_FOUND
                     : status == 0 && span_equal(buf_span(&cluster->value), span_of(value, size));
}

/* --- The verbs. ask() runs while allocations fail; look() says whether what is there is what the answer says. */

struct verb {
    const char *name;
    void (*prepare)(struct cluster *cluster); /* NULL: nothing */
    int (*ask)(struct cluster *cluster);
    bool (*look)(struct cluster *cluster, int status);
};

static size_t number_of(char *out, uint64_t number)
{
    return (size_t)snprintf(out, 32, "%lu", number);
}

static int ask_put(struct cluster *cluster)
{
    char value[32];
    return put(cluster, "put", value, number_of(value, ++cluster->counter));
}

static bool look_put(struct cluster *cluster, int status)
{
    char value[32];
    cluster->was_put = status == 0 ? cluster->counter : cluster->was_put;
    return has(cluster, "put", value, cluster->was_put ? number_of(value, cluster->was_put) : 0);
}

static int ask_put_large(struct cluster *cluster)
{
    put_u64(cluster->large, ++cluster->counter);
    return put(cluster, "large", cluster->large, LARGE_BYTES);
}

static bool look_put_large(struct cluster *cluster, int status)
{
    cluster->was_put_large = status == 0 ? cluster->counter : cluster->was_put_large;
    put_u64(cluster->large, cluster->was_put_large);
    return has(cluster, "large", cluster->large, cluster->was_put_large ? LARGE_BYTES : 0);
}

static int ask_get(struct cluster *cluster)
{
    struct cairn_request request = request_of(CAIRN_GET, "fixed");
    return ask(cluster, &request);
}

static bool look_get(struct cluster *cluster, int status)
{
    return status != 0 || span_equal(buf_span(&cluster->value), span_of_string("as it was"));
}

static int ask_get_large(struct cluster *cluster)
{
    struct cairn_request request = request_of(CAIRN_GET, "large fixed");
    return ask(cluster, &request);
}

static bool look_get_large(struct cluster *cluster, int status)
{
    return status != 0 || cluster->value.size == LARGE_BYTES;
}

static void prepare_delete(struct cluster *cluster)
{
    CHECK(put(cluster, "goes", "x", 1) == 0);
}

static int ask_delete(struct cluster *cluster)
{
    struct cairn_request request = request_of(CAIRN_DELETE, "goes");
    return ask(cluster, &request);
}

static bool look_delete(struct cluster *cluster, int status)
{
    return has(cluster, "goes", "x", status == 0 ? 0 : 1);
}

static int ask_setattr(struct cluster *cluster)
{
    struct cairn_request request = request_of(CAIRN_SETATTR, "large fixed");
    request.attributes =
        (struct cairn_attributes){ .mask = CAIRN_ATTR_UID, .uid = (uint32_t)++cluster->counter };
    return ask(cluster, &request);
}

static bool look_setattr(struct cluster *cluster, int status)
{
    struct cairn_request request = request_of(CAIRN_GET_META, "large fixed");
    cluster->was_set = status == 0 ? cluster->counter : cluster->was_set;
    return ask(cluster, &request) == 0 && cluster->meta.attributes.uid == cluster->was_set;
}

static void on_multi(void *arg, struct cairn_result *results, size_t count)
{
    struct cluster *cluster = arg;
    cluster->is_answered = true;
    cluster->status = 0;
    for (size_t i = 0; i < count; i++) {
        int status = results[i].status == CAIRN_NOT_FOUND ? 0 : results[i].status;
        cluster->statuses[i] = status;
        cluster->status = cluster->status ? cluster->status : status;
    }
}

/* Puts and gets in turn. */
static int ask_multi(struct cluster *cluster)
{
    struct cairn_request requests[MULTI];
    char keys[MULTI][16], value[32];
    size_t size = number_of(value, ++cluster->counter);
    for (size_t i = 0; i < MULTI; i++) {
        snprintf(keys[i], sizeof keys[i], "multi %02zu", i);
        requests[i] = request_of(i % 2 ? CAIRN_GET : CAIRN_PUT, keys[i]);
        requests[i].value = value;
        requests[i].value_size = i % 2 ? 0 : size;
    }
    cluster->is_answered = false;
    int status = core_submit_many(cluster->caller.core, requests, MULTI, on_multi, cluster,
                                  caller_now_us(&cluster->caller), NULL);
    for (size_t i = 0; i < MULTI; i++) {
        cluster->statuses[i] = status; /* unless it is on its way */
    }
    return status ? status : wait_for(cluster);
}

static bool look_multi(struct cluster *cluster, int status)
{
    int statuses[MULTI];
    memcpy(statuses, cluster->statuses, sizeof statuses);
    bool is_right = true;
    for (size_t i = 0; i < MULTI; i += 2) {
        char key[16], value[32];
        uint64_t *was = &cluster->were_put[i];
        *was = statuses[i] == 0 ? cluster->counter : *was;
        snprintf(key, sizeof key, "multi %02zu", i);
        is_right = is_right && has(cluster, key, value, *was ? number_of(value, *was) : 0);
    }
    return is_right;
}

static void on_fetched(void *arg, int status)
{
    struct cluster *cluster = arg;
    cluster->is_answered = true;
    cluster->status = status;
}

static int ask_scan(struct cluster *cluster)
{
    struct cairn_scan_options options = { .prefix = "key ", .prefix_size = 4, .page_entries = 7 };
    struct core_scan *scan;
    struct cairn_entry entry;
    int status =
        core_scan_open(cluster->caller.core, &options, caller_now_us(&cluster->caller), &scan);
    cluster->entries = 0;
    if (status != 0) {
        return status;
    }
    while ((status = core_scan_try(scan, &entry)) != 0) {
        cluster->entries += status == 1;
        if (status == 1) {
            continue;
        }
        if (status != CAIRN_BUSY) {
            break;
        }
        cluster->is_answered = false;
        status = core_scan_fetch(scan, on_fetched, cluster, caller_now_us(&cluster->caller));
        status = status ? status : wait_for(cluster);
        if (status != 0) {
            break;
        }
    }
    core_scan_close(scan);
    return status;
}

static bool look_scan(struct cluster *cluster, int status)
{
    return status != 0 || cluster->entries == KEYS;
}

static void on_asked(void *arg, int status, const struct frame *frame)
{
    struct cluster *cluster = arg;
    cluster->is_answered = true;
    cluster->status = status;
}

static int ask_verb(struct cluster *cluster, uint16_t verb)
{
    cluster->is_answered = false;
    int status = core_ask(cluster->caller.core, "n2", verb, on_asked, cluster, 5000,
                          caller_now_us(&cluster->caller), NULL);
    return status ? status : wait_for(cluster);
}

static int ask_status(struct cluster *cluster)
{
    return ask_verb(cluster, VERB_STATUS);
}

static int ask_topology(struct cluster *cluster)
{
    return ask_verb(cluster, VERB_TOPOLOGY);
}

/* One node is asked, by one connection: when that broke, nobody else answers. */
static void prepare_ask(struct cluster *cluster)
{
    for (int i = 0; i < 20 && ask_status(cluster) != 0; i++) {
        run_for(cluster, SECOND_US / 2);
    }
}

static bool look_nowhere(struct cluster *cluster, int status)
{
    return true;
}

static const struct verb verbs[] = {
    { "put", NULL, ask_put, look_put },
    { "put, large", NULL, ask_put_large, look_put_large },
    { "get", NULL, ask_get, look_get },
    { "get, large", NULL, ask_get_large, look_get_large },
    { "delete", prepare_delete, ask_delete, look_delete },
    { "setattr", NULL, ask_setattr, look_setattr },
    { "multi", NULL, ask_multi, look_multi },
    { "scan", NULL, ask_scan, look_scan },
    { "status", prepare_ask, ask_status, look_nowhere },
    { "topology", prepare_ask, ask_topology, look_nowhere },
};
enum { VERBS = sizeof verbs / sizeof *verbs };

static const char *const kinds[KINDS] = {
    [CLIENT] = "client", [MEM_REQUEST] = "request", [MEM_ANSWER] = "answer",
    [MEM_SCAN] = "scan", [MEM_CONN] = "connection", [MEM_RAFT] = "raft",
    [MEM_LOG] = "log",   [MEM_STORE] = "store",     [MEM_IMAGE] = "image",
};

/* --- Stories */

static bool is_fair(const struct verb *verb, int status)
{
    bool has_one_way = verb->look == look_nowhere;
    return status == 0 || status == ERR_NO_MEMORY || (has_one_way && status == ERR_UNAVAILABLE);
}

/* n = 1, 2, … until nothing failed before the answer came. */
static bool nth_fails(struct cluster *cluster, const struct verb *verb, int kind)
{
    uint64_t n = 0, refused;
    bool is_right = true;
    do {
        if (verb->prepare) {
            verb->prepare(cluster);
        }
        arm(cluster, kind, ++n, 0);
        int status = verb->ask(cluster);
        refused = disarm(cluster, kind);
        bool is_good = is_fair(verb, status) && verb->look(cluster, status);
        if (!is_good) {
            printf("# %s: allocation %lu of kind %s failed: status %s\n", verb->name, n,
                   kinds[kind], err_info(status)->name);
        }
        is_right = is_right && is_good && (refused > 0 || status == 0);
    } while (refused > 0 && n < ATTEMPTS_MAX && is_right);
    return is_right && refused == 0;
}

/* Nodes may lose each other for longer than a request has. Right after it all goes on. */
static bool storm(struct cluster *cluster, const struct verb *verb)
{
    if (verb->prepare) {
        verb->prepare(cluster);
    }
    for (int kind = 0; kind < KINDS; kind++) {
        arm(cluster, kind, 1, STORM);
    }
    int status = verb->ask(cluster);
    for (int kind = 0; kind < KINDS; kind++) {
        disarm(cluster, kind);
    }
    bool is_good = !is_fair(verb, status) || verb->look(cluster, status);
    is_good = is_good && (is_fair(verb, status) || status == ERR_UNAVAILABLE ||
                          status == ERR_TIMEOUT || status == ERR_UNKNOWN_OUTCOME);
    run_for(cluster, 3 * SECOND_US);
    if (verb->prepare) {
        verb->prepare(cluster);
    }
    int after = verb->ask(cluster);
    is_good = is_good && after == 0 && verb->look(cluster, after);
    if (!is_good) {
        printf("# %s: in a storm: %s, then %s\n", verb->name, err_info(status)->text,
               err_info(after)->text);
    }
    return is_good;
}

static bool fill(struct cluster *cluster)
{
    bool is_filled = true;
    for (int i = 0; i < FILL_KEYS; i++) {
        char key[16];
        snprintf(key, sizeof key, "fill %03d", i);
        is_filled = is_filled && put(cluster, key, cluster->large, FILL_BYTES) == 0;
    }
    return is_filled;
}

/* All partitions of the third node have applied what those of the first have. */
static bool is_level(struct cluster *cluster)
{
    const struct node *first = server_node(cluster->nodes[0].server);
    const struct node *last = server_node(cluster->nodes[NODES - 1].server);
    for (size_t i = 0; i < first->partition_count; i++) {
        if (!last->partitions || !last->partitions[i] ||
            partition_is_damaged(last->partitions[i]) ||
            partition_applied(last->partitions[i]) != partition_applied(first->partitions[i])) {
            return false;
        }
    }
    return true;
}

/* Every few milliseconds an allocation for an image fails, sooner or later after the last. */
static bool heals_by_images(struct cluster *cluster)
{
    struct test_node *last = &cluster->nodes[NODES - 1];
    env_sim_kill(last->env, ENV_SIM_CRASH);
    server_abandon(last->server);
    env_sim_reap(last->env);
    run_for(cluster, 2 * SECOND_US);
    bool is_filled = fill(cluster);
    run_for(cluster, 2 * SECOND_US);
    boot_node(cluster, NODES - 1);
    for (uint64_t round = 0; round < 1200 && !is_level(cluster); round++) {
        arm(cluster, MEM_IMAGE, 1 + round * 7 % IMAGE_STRIDE, 0);
        run_for(cluster, SECOND_US / 10);
        disarm(cluster, MEM_IMAGE);
    }
    return is_filled && is_level(cluster) &&
           server_node(last->server)->counters.images_received > 0;
}

/* --- Who asks and does not read */

struct greedy {
    struct env *env;
    struct env_conn *conn; /* NULL: closed */
    struct buf sending;
};

static void greedy_open(void *ctx, struct env_conn *conn)
{
    struct greedy *greedy = ctx;
    struct span part = buf_span(&greedy->sending);
    env_conn_pause(greedy->env, conn, true);
    env_conn_write(greedy->env, conn, &part, 1);
}

static void greedy_data(void *ctx, struct env_conn *conn, struct span data)
{
}

static void greedy_written(void *ctx, struct env_conn *conn)
{
}

static void greedy_close(void *ctx, struct env_conn *conn, int status)
{
    ((struct greedy *)ctx)->conn = NULL;
}

static const struct env_conn_events greedy_events = { greedy_open, greedy_data, greedy_written,
                                                      greedy_close };

static void greedy_add(struct greedy *greedy, uint8_t type, uint16_t verb,
                       const ProtobufCMessage *message, struct span payload)
{
    uint8_t packed[256];
    struct frame frame = { .type = type, .verb = verb, .request_id = 1, .payload = payload };
    CHECK(message_size(message) <= sizeof packed);
    frame.message = span_of(packed, message_pack(message, packed));
    frame_pack_head(&frame, &greedy->sending);
    buf_append_span(&greedy->sending, payload);
}

static void greedy_begin(struct cluster *cluster, struct greedy *greedy)
{
    Cairn__V1__Hello hello = CAIRN__V1__HELLO__INIT;
    hello.protocol_min = hello.protocol_max = 1;
    *greedy = (struct greedy){ .env = &cluster->caller.env->env };
    greedy_add(greedy, FRAME_HELLO, 0, &hello.base, (struct span){ 0 });
}

static size_t memory_used(void)
{
    struct mallinfo2 info = mallinfo2();
    return info.uordblks + info.hblkhd;
}

/* Sends all that was added, reads nothing, and goes. Returns by how many MiB the process grew at
 * most. */
static size_t greedy_run(struct cluster *cluster, struct greedy *greedy)
{
    struct err err;
    size_t before = memory_used(), most = before;
    int status = env_connect(greedy->env, cluster->nodes[0].address, &greedy_events, greedy,
                             &greedy->conn, &err);
    CHECK(status == 0);
    for (int i = 0; i < 300; i++) {
        run_for(cluster, SECOND_US / 100);
        size_t used = memory_used();
        most = used > most ? used : most;
    }
    if (greedy->conn) {
        env_conn_close(greedy->env, greedy->conn);
    }
    run_for(cluster, SECOND_US);
    CHECK(!greedy->conn);
    buf_fini(&greedy->sending);
    printf("# the process grew by %zu MiB\n", (most - before) >> 20);
    return (most - before) >> 20;
}

/* The queue to the client, and the one between the nodes where the values come from another. Each is
 * a buffer that doubles, and while it grows the old one is there too. Without limits: thousands. */
enum { GREEDY_MIB = 2 * 3 * (LIMIT_CONN_OUT_BYTES >> 20) + 40 };

static bool bounds_answers(struct cluster *cluster)
{
    enum { GETS = 4000 };
    struct greedy greedy;
    Cairn__V1__GetRequest get = CAIRN__V1__GET_REQUEST__INIT;
    get.key = (ProtobufCBinaryData){ 11, (uint8_t *)"large fixed" };
    greedy_begin(cluster, &greedy);
    for (int i = 0; i < GETS; i++) {
        greedy_add(&greedy, FRAME_REQUEST, VERB_GET, &get.base, (struct span){ 0 });
    }
    return greedy_run(cluster, &greedy) < GREEDY_MIB;
}

static bool bounds_scans(struct cluster *cluster)
{
    enum { SCANS = 2000 };
    struct greedy greedy;
    Cairn__V1__ScanRequest scan = CAIRN__V1__SCAN_REQUEST__INIT;
    greedy_begin(cluster, &greedy);
    for (int i = 0; i < SCANS; i++) {
        greedy_add(&greedy, FRAME_REQUEST, VERB_SCAN, &scan.base, (struct span){ 0 });
    }
    return greedy_run(cluster, &greedy) < GREEDY_MIB;
}

static bool nobody_stopped(const struct cluster *cluster)
{
    bool has_stopped = false;
    for (int i = 0; i < NODES; i++) {
        has_stopped = has_stopped || cluster->nodes[i].has_stopped;
    }
    return !has_stopped;
}

void memory_test(void (*ok)(void *ctx, bool passed, const char *name), void *ctx)
{
    struct cluster *cluster = MEM_NEW(struct cluster);
    char text[100];
    cluster_begin(cluster);
    bool is_begun = put(cluster, "fixed", "as it was", 9) == 0 &&
                    put(cluster, "large fixed", cluster->large, LARGE_BYTES) == 0;
    for (int i = 0; i < KEYS; i++) {
        char key[16];
        snprintf(key, sizeof key, "key %02d", i);
        is_begun = is_begun && put(cluster, key, key, strlen(key)) == 0;
    }
    ok(ctx, is_begun, "memory: a cluster takes writes");
    for (size_t i = 0; i < VERBS; i++) {
        bool is_right = true;
        for (int kind = 0; kind < KINDS && is_right; kind++) {
            is_right = nth_fails(cluster, &verbs[i], kind);
        }
        snprintf(text, sizeof text, "memory: %s, whatever allocation fails", verbs[i].name);
        ok(ctx, is_right, text);
    }
    bool is_right = true;
    for (size_t i = 0; i < 5 * VERBS; i++) {
        is_right = storm(cluster, &verbs[i % VERBS]) && is_right;
        run_for(cluster, SECOND_US / 10);
    }
    ok(ctx, is_right, "memory: each verb while all allocations fail for a while");
    ok(ctx, heals_by_images(cluster),
       "memory: images arrive though their pieces find none at times");
    ok(ctx,
       look_get(cluster, ask_get(cluster)) && ask_scan(cluster) == 0 && cluster->entries == KEYS &&
           nobody_stopped(cluster),
       "memory: then all is there, and no node has stopped");
    ok(ctx, bounds_answers(cluster),
       "memory: who asks for values and does not read them costs little");
    ok(ctx, bounds_scans(cluster), "memory: nor who scans");
    ok(ctx, ask_scan(cluster) == 0 && cluster->entries == KEYS && nobody_stopped(cluster),
       "memory: and all is still there");
    bool is_each = true;
    for (int kind = 0; kind < KINDS; kind++) {
        printf("# kind %s: %lu refused\n", kinds[kind], cluster->refused[kind]);
        is_each = is_each && cluster->refused[kind] > 0;
    }
    ok(ctx, is_each, "memory: every kind was refused");
    cluster_end(cluster);
    mem_free(cluster);
}
