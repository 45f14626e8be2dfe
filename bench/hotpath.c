/* Drives the hot paths for bench/hotpath, which counts their instructions under callgrind: production code from `server` down and the
 * client library's core, three nodes and CLIENTS callers in one thread over the simulator's env (t/sim/README.md), so that a build
 * always counts the same. No faults, a quick network, one request in flight a client unless a phase says otherwise.
 *
 * Each phase collects only while chosen processes run, and is dumped under its own name with what it did: "put 4000 …". What the
 * simulator itself takes (disk, network, time) is in the dump; bench/hotpath leaves it out by where its functions stand.
 *
 * Not counted: the kernel, env_uv*.c and the client's sockets, which the simulator replaces, and LMDB's waiting for the disk.
 *
 * --train: the same, then what is not counted but is to be quick as well (scans, medium and large values pipelined, deletes). `make release`
 * learns from it where the time goes: one thread and virtual time, so the same sources give the same profile. */
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <valgrind/callgrind.h>

#include "base/check.h"
#include "base/mem.h"
#include "client/core.h"
#include "node/node.h"
#include "server/server.h"
#include "sim/caller.h"
#include "sim/env_sim.h"

enum {
    NODES = 3,
    CLIENTS = NETWORK_MACHINES_MAX - NODES - 1,
    PIPELINE_MAX = 16,
    KEYS = 20000,
    DELETED_MAX = 500,
    SECOND_US = 1000 * 1000,
    FORM_MAX_US = 30 * SECOND_US,
    PHASE_MAX_US = 120 * SECOND_US,
    VALUE_BYTES_MAX = 10240,
    DISK_BYTES = 1 << 30,
    SEGMENT_BYTES = 4 << 20,
    MAP_BYTES = 512 << 20,
    LATENCY_US = 30,
    GRAIN_US = 100, /* what arrives within it shares a turn of a loop, as on a busy machine */
    FLUSH_IDLE_MS = 1000,
    SEED = 1,
};

enum { ALL = -1, NONE = -2 }; /* machines to collect; else the index of the only one */

struct client;

/* One request in flight. */
struct slot {
    struct client *client;
    uint64_t id;
};

struct phase {
    const char *name;
    enum cairn_verb verb;
    enum cairn_consistency consistency;
    uint32_t operations, pipeline, value_bytes;
    int only_primary; /* of that node's partitions only; -1: of all */
    int collect;
};

struct cluster {
    struct schedule schedule;
    struct network network;
    struct cluster_node {
        struct cluster *cluster;
        char name[8], address[32], data[96];
        struct disk *disk;
        struct env_sim *env;
        struct server *server;
        struct schedule_event start;
    } nodes[NODES];
    struct client {
        struct cluster *cluster;
        struct caller caller;
        struct schedule_event begin; /* of a phase */
        struct slot slots[PIPELINE_MAX];
    } clients[CLIENTS];
    char scratch[64], bootstrap[128], endpoints[128];
    struct logger logger;
    struct random random;
    const struct phase *phase;
    uint32_t begun, ended;
    struct core_scan *scan;
    uint64_t scanned;
    int collect;
    uint8_t value[VALUE_BYTES_MAX];
};

static void fail(const char *text)
{
    fprintf(stderr, "hotpath: %s\n", text);
    exit(1);
}

/* --- The cluster */

static void write_line(void *ctx, enum logger_level level, const char *line)
{
    fprintf(stderr, "%s\n", line);
}

static void on_stopped(void *ctx, int status, const char *text)
{
    fail(text);
}

static void run_start(struct schedule_event *event)
{
    struct cluster_node *node = container_of(event, struct cluster_node, start);
    struct cluster *cluster = node->cluster;
    struct node_config config = {
        .name = node->name,
        .data = node->data,
        .listen = node->address,
        .bootstrap = cluster->bootstrap,
        .cluster_name = "hotpath",
        .flush_idle_ms = FLUSH_IDLE_MS,
        .log_segment_bytes = SEGMENT_BYTES,
        .map_bytes = MAP_BYTES,
        .reserve_bytes = SEGMENT_BYTES,
        .store_no_sync = true,
        .on_stopped = on_stopped,
    };
    struct err err = { 0 };
    if (server_start(&node->env->env, &cluster->logger, &config, &node->server, &err) != 0) {
        fail(err.text);
    }
}

static void init_node(struct cluster *cluster, uint32_t i)
{
    struct cluster_node *node = &cluster->nodes[i];
    char host[16];
    node->cluster = cluster;
    snprintf(host, sizeof host, "127.0.0.%u", i + 1);
    snprintf(node->name, sizeof node->name, "n%u", i + 1);
    snprintf(node->address, sizeof node->address, "%s:7400", host);
    snprintf(node->data, sizeof node->data, "%s/%s", cluster->scratch, node->name);
    CHECK(mkdir(node->data, 0700) == 0);
    node->disk = disk_new(SEED, DISK_BYTES);
    disk_prepare(node->disk, node->data);
    node->env = env_sim_new(&cluster->schedule, &cluster->network, node->disk, i, host, SEED);
    node->env->is_real_too = true;
    node->env->grain_us = GRAIN_US;
    env_sim_boot(node->env);
    node->start = (struct schedule_event){ .run = run_start, .owner = node->env };
    schedule_add(&cluster->schedule, &node->start, cluster->schedule.now_us);
}

static void run_begin(struct schedule_event *event);

static void init_client(struct cluster *cluster, uint32_t i)
{
    struct client *client = &cluster->clients[i];
    client->cluster = cluster;
    struct caller_config config = {
        .schedule = &cluster->schedule,
        .network = &cluster->network,
        .random = &cluster->random,
        .machine = NODES + i,
        .grain_us = GRAIN_US,
        .seed = SEED,
        .endpoints = cluster->endpoints,
        .timeout_ms = 10000,
    };
    caller_init(&client->caller, &config);
    client->begin = (struct schedule_event){ .run = run_begin, .owner = client->caller.env };
    for (int j = 0; j < PIPELINE_MAX; j++) {
        client->slots[j].client = client;
    }
}

static void init_cluster(struct cluster *cluster)
{
    cluster->logger = (struct logger){ .level = LOGGER_ERROR, .write = write_line };
    cluster->random = random_stream(SEED, 1);
    cluster->collect = NONE;
    schedule_init(&cluster->schedule, SECOND_US);
    struct network *network = &cluster->network;
    network_init(network, &cluster->schedule, SEED);
    network->window_bytes = 1 << 20;
    network->patience_us = 10 * SECOND_US;
    for (int i = 0; i < NETWORK_MACHINES_MAX * NETWORK_MACHINES_MAX; i++) {
        network->latency_us[i / NETWORK_MACHINES_MAX][i % NETWORK_MACHINES_MAX] = LATENCY_US;
    }
    snprintf(cluster->bootstrap, sizeof cluster->bootstrap,
             "n1=127.0.0.1:7400,n2=127.0.0.2:7400,n3=127.0.0.3:7400");
    snprintf(cluster->endpoints, sizeof cluster->endpoints,
             "127.0.0.1:7400,127.0.0.2:7400,127.0.0.3:7400");
    for (uint32_t i = 0; i < NODES; i++) {
        init_node(cluster, i);
    }
    for (uint32_t i = 0; i < CLIENTS; i++) {
        init_client(cluster, i);
    }
    for (size_t i = 0; i < sizeof cluster->value; i++) {
        cluster->value[i] = (uint8_t)random_u64(&cluster->random);
    }
}

static int remove_one(const char *path, const struct stat *stat_of, int flag, struct FTW *ftw)
{
    return remove(path);
}

static void fini_cluster(struct cluster *cluster)
{
    for (uint32_t i = 0; i < CLIENTS; i++) {
        caller_kill(&cluster->clients[i].caller);
    }
    for (uint32_t i = 0; i < NODES; i++) {
        struct cluster_node *node = &cluster->nodes[i];
        env_sim_kill(node->env, ENV_SIM_CRASH);
        server_abandon(node->server);
        env_sim_reap(node->env);
    }
    network_fini(&cluster->network);
    for (uint32_t i = 0; i < CLIENTS; i++) {
        caller_fini(&cluster->clients[i].caller);
    }
    for (uint32_t i = 0; i < NODES; i++) {
        env_sim_free(cluster->nodes[i].env);
        disk_free(cluster->nodes[i].disk);
    }
    schedule_fini(&cluster->schedule);
    nftw(cluster->scratch, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* --- Time passes */

static bool is_collected(const struct cluster *cluster, const struct env_sim *owner)
{
    return owner && (cluster->collect == ALL || cluster->collect == (int)owner->machine);
}

static bool is_formed(struct cluster *cluster)
{
    for (uint32_t i = 0; i < NODES; i++) {
        if (!cluster->nodes[i].server || !node_is_ready(server_node(cluster->nodes[i].server))) {
            return false;
        }
    }
    return true;
}

static bool is_phase_over(struct cluster *cluster)
{
    return cluster->ended == cluster->phase->operations;
}

/* Until it is done (NULL: until the time has come); false: it is not. */
static bool run_until(struct cluster *cluster, uint64_t for_us,
                      bool (*is_done)(struct cluster *cluster))
{
    struct schedule_event *event;
    uint64_t until_us = cluster->schedule.now_us + for_us;
    while ((event = schedule_next(&cluster->schedule, until_us)) != NULL) {
        bool collects = is_collected(cluster, event->owner);
        if (collects) {
            CALLGRIND_TOGGLE_COLLECT;
        }
        env_sim_step(&cluster->schedule, event);
        if (collects) {
            CALLGRIND_TOGGLE_COLLECT;
        }
        if (is_done && is_done(cluster)) {
            return true;
        }
    }
    return !is_done;
}

/* --- Load */

static bool is_wanted(struct cluster *cluster, const char *key, size_t size)
{
    if (cluster->phase->only_primary < 0) {
        return true;
    }
    struct core *core = cluster->clients[0].caller.core;
    const struct topology *topology = core_topology(core);
    size_t partition = topology_locate(topology, span_of(key, size));
    return core_primary(core, partition) ==
           node_id(server_node(cluster->nodes[cluster->phase->only_primary].server));
}

static void on_done(void *arg, struct cairn_result *result);

static void submit(struct slot *slot)
{
    struct caller *caller = &slot->client->caller;
    struct cluster *cluster = slot->client->cluster;
    const struct phase *phase = cluster->phase;
    char key[32];
    int size;
    do {
        uint64_t number = phase->verb == CAIRN_PUT && phase->operations == KEYS
                              ? cluster->begun
                              : random_below(&cluster->random, KEYS);
        size = snprintf(key, sizeof key, "bench/%012lu", number);
    } while (!is_wanted(cluster, key, (size_t)size));
    cluster->begun++;
    struct cairn_request request = {
        .verb = phase->verb, .key = key, .key_size = (size_t)size, .consistency = phase->consistency
    };
    if (phase->verb == CAIRN_PUT) {
        request.value = cluster->value;
        request.value_size = phase->value_bytes;
    }
    CHECK(core_submit(caller->core, &request, on_done, slot, caller_now_us(caller), &slot->id) ==
          0);
    caller_wake(caller);
}

static void on_done(void *arg, struct cairn_result *result)
{
    struct slot *slot = arg;
    struct cluster *cluster = slot->client->cluster;
    if (result->status == CAIRN_CANCELLED) {
        return; /* at the end */
    }
    bool is_deleted =
        result->status == CAIRN_NOT_FOUND && cluster->phase->verb == CAIRN_DELETE; /* twice */
    if (result->status != 0 && !is_deleted) {
        fail(err_info(result->status)->name);
    }
    cluster->ended++;
    if (cluster->begun < cluster->phase->operations) {
        submit(slot);
    }
}

static void run_begin(struct schedule_event *event)
{
    struct client *client = container_of(event, struct client, begin);
    for (uint32_t i = 0; i < client->cluster->phase->pipeline; i++) {
        submit(&client->slots[i]);
    }
}

static void run_phase(struct cluster *cluster, const struct phase *phase)
{
    cluster->phase = phase;
    cluster->begun = cluster->ended = 0;
    cluster->collect = phase->collect;
    for (uint32_t i = 0; i < CLIENTS; i++) {
        schedule_add(&cluster->schedule, &cluster->clients[i].begin, cluster->schedule.now_us);
    }
    if (!run_until(cluster, PHASE_MAX_US, is_phase_over)) {
        fail("a phase does not end");
    }
    cluster->collect = NONE;
    run_until(cluster, SECOND_US / 10, NULL); /* followers catch up, and are not counted */
}

static void dump(const char *name, uint32_t operations)
{
    char text[64];
    snprintf(text, sizeof text, "%s %u", name, operations);
    CALLGRIND_DUMP_STATS_AT(text);
}

/* --- A scan of all keys by the first client */

static void scan_on(struct client *client);

static void on_page(void *arg, int status)
{
    if (status != 0) {
        fail(err_info(status)->name);
    }
    scan_on(arg);
}

/* Takes what is there and asks for more; the scan is closed at its end. */
static void scan_on(struct client *client)
{
    struct cluster *cluster = client->cluster;
    struct caller *caller = &client->caller;
    struct cairn_entry entry;
    int status;
    while ((status = core_scan_try(cluster->scan, &entry)) == 1) {
        cluster->scanned++;
    }
    if (status == 0) {
        core_scan_close(cluster->scan);
        cluster->scan = NULL;
        return;
    }
    if (status != ERR_BUSY ||
        core_scan_fetch(cluster->scan, on_page, client, caller_now_us(caller)) != 0) {
        fail("a scan fails");
    }
    caller_wake(caller);
}

static bool is_scan_over(struct cluster *cluster)
{
    return !cluster->scan;
}

static void run_scan(struct cluster *cluster, bool keys_only)
{
    struct client *client = &cluster->clients[0];
    struct caller *caller = &client->caller;
    struct cairn_scan_options options = { .keys_only = keys_only };
    cluster->scanned = 0;
    CHECK(core_scan_open(caller->core, &options, caller_now_us(caller), &cluster->scan) == 0);
    scan_on(client);
    if (!run_until(cluster, PHASE_MAX_US, is_scan_over) || cluster->scanned < KEYS - DELETED_MAX) {
        fail("a scan does not end, or lacks keys");
    }
}

/* The nodes alone, for some virtual time: flushing what was written, or at rest. */
static void run_nodes(struct cluster *cluster, const char *name, uint64_t for_us,
                      uint32_t operations)
{
    cluster->collect = ALL;
    run_until(cluster, for_us, NULL);
    cluster->collect = NONE;
    dump(name, operations);
}

static void run_all(struct cluster *cluster)
{
    static const struct phase preload = {
        "preload", CAIRN_PUT, 0, KEYS, PIPELINE_MAX, 256, -1, NONE
    };
    static const struct phase warm = { "warm", CAIRN_PUT, 0, 500, 1, 256, -1, NONE };
    static const struct phase phases[] = {
        { "put", CAIRN_PUT, 0, 1000, 1, 256, -1, ALL },
        { "put-pipelined", CAIRN_PUT, 0, 2000, PIPELINE_MAX, 256, -1, ALL },
        { "get", CAIRN_GET, CAIRN_LINEARIZABLE, 1500, 1, 0, -1, ALL },
        { "get-pipelined", CAIRN_GET, CAIRN_LINEARIZABLE, 3000, PIPELINE_MAX, 0, -1, ALL },
        { "get-lease", CAIRN_GET, CAIRN_LEASE, 1500, 1, 0, -1, ALL },
        { "follow", CAIRN_PUT, 0, 1000, 1, 256, 0, 1 },
    };
    if (!run_until(cluster, FORM_MAX_US, is_formed)) {
        fail("the cluster does not form");
    }
    run_phase(cluster, &preload);
    run_until(cluster, 5 * SECOND_US, NULL); /* flushed; each node leads what it is to lead */
    CALLGRIND_START_INSTRUMENTATION;
    run_phase(cluster, &warm);
    for (size_t i = 0; i < sizeof phases / sizeof *phases; i++) {
        run_phase(cluster, &phases[i]);
        dump(phases[i].name, phases[i].operations);
    }
    run_until(cluster, 2 * SECOND_US, NULL); /* what the phases wrote is flushed */
    run_phase(cluster,
              &(struct phase){ "unflushed", CAIRN_PUT, 0, 2000, PIPELINE_MAX, 256, -1, NONE });
    run_nodes(cluster, "flush", 3 * SECOND_US, 2000);
    run_nodes(cluster, "idle", SECOND_US, 1);
    run_phase(cluster,
              &(struct phase){ "put-10k", CAIRN_PUT, 0, 200, 1, VALUE_BYTES_MAX, -1, ALL });
    dump("put-10k", 200);
    CALLGRIND_STOP_INSTRUMENTATION;
}

/* Less of each than of what is counted, so that puts and gets keep their weight. */
static void run_more(struct cluster *cluster)
{
    static const struct phase phases[] = {
        { "get-meta", CAIRN_GET_META, CAIRN_LEASE, 500, PIPELINE_MAX, 0, -1, NONE },
        { "get-stale", CAIRN_GET, CAIRN_STALE, 500, 1, 0, -1, NONE },
        { "put-1k", CAIRN_PUT, 0, 500, PIPELINE_MAX, 1024, -1, NONE },
        { "put-10k-pipelined", CAIRN_PUT, 0, 500, PIPELINE_MAX, VALUE_BYTES_MAX, -1, NONE },
        { "get-10k-pipelined", CAIRN_GET, CAIRN_LINEARIZABLE, 1000, PIPELINE_MAX, 0, -1, NONE },
        { "delete", CAIRN_DELETE, 0, DELETED_MAX, PIPELINE_MAX, 0, -1, NONE },
    };
    run_scan(cluster, true);
    run_scan(cluster, false);
    for (size_t i = 0; i < sizeof phases / sizeof *phases; i++) {
        run_phase(cluster, &phases[i]);
    }
    run_scan(cluster, false); /* over what is not flushed yet */
    run_until(cluster, 3 * SECOND_US, NULL);
}

int main(int argc, char **argv)
{
    bool trains = argc == 2 && strcmp(argv[1], "--train") == 0;
    if (argc > 1 && !trains) {
        fail("usage: hotpath [--train]");
    }
    struct cluster *cluster = MEM_NEW(struct cluster);
    const char *base = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(cluster->scratch, sizeof cluster->scratch, "%s/cairn-hotpath-XXXXXX", base);
    if (!mkdtemp(cluster->scratch)) {
        fail("no folder for the stores");
    }
    init_cluster(cluster);
    run_all(cluster);
    if (trains) {
        run_more(cluster);
    }
    fini_cluster(cluster);
    mem_free(cluster);
    return 0;
}
