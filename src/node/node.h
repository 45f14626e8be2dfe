/* The node: one running member of a cluster. Owns the log, the store, the groups and the connections; everything hangs off
 * struct node, so that one process can host many. All work happens on its env's loop thread.
 *
 *   node_start → (forms or finds its cluster, elects, serves) → node_stop → on_stopped
 *   node_abandon at any time: frees everything at once as if the process had died; nothing more is written.
 *
 * A node does not listen: server/server.h opens the door and starts the node behind it. That is what daemon and simulator use. */
#ifndef NODE_NODE_H
#define NODE_NODE_H

#include "base/err.h"
#include "base/logger.h"
#include "env/env.h"

struct node;

/* All strings are borrowed until node_start returns, then copied. Zero and NULL mean the default named in tbl/params.def. */
struct node_config {
    const char *name;          /* n1; required unless standalone */
    const char *data;          /* folder; required */
    const char *listen;        /* 127.0.0.1:7400 */
    const char *advertise;     /* what others connect to; listen's address by default */
    const char *bootstrap;     /* "n1=HOST:PORT,n2=…": the first nodes */
    bool standalone;           /* a cluster of one */
    bool insecure;             /* may listen elsewhere than on loopback */
    const char *cluster_name;
    uint32_t partitions, replicas;
    uint32_t election_timeout_ms, heartbeat_ms;
    uint64_t flush_bytes;      /* overlay bytes that start a flush */
    uint64_t flush_transaction_bytes; /* see store.h; 0: its default; smaller for tests and the simulator */
    uint64_t flush_idle_ms;    /* flush what is there when nothing was written for so long */
    uint64_t log_bytes;        /* live log bytes that start a flush */
    uint64_t log_segment_bytes; /* 0: LIMIT_LOG_SEGMENT_BYTES; smaller for tests and the simulator */
    uint64_t overlay_bytes;    /* admission ends here */
    uint64_t map_bytes;        /* LMDB's map */
    uint64_t image_bytes_per_second; /* read for replicas that need an image, over all of them */
    uint64_t reserve_bytes;    /* kept on the disk for when it is full, see reserve.h */
    uint64_t log_cache_bytes;        /* payloads that the log keeps in memory; 0: log.h's default; smaller for tests and the simulator */
    uint32_t image_chunk_bytes;      /* a piece of an image; 0: 512 KiB; smaller for tests and the simulator */
    uint64_t scrub_interval_ms;      /* in which the stores of all replicas here are read and checked once */
    bool store_no_sync;        /* the simulator only */
    /* Every applied entry, for the simulator's checkers; NULL in production. */
    void (*observe)(void *ctx, uint32_t group, uint64_t index, uint64_t term, struct span payload);
    /* With observe: an image took the place of all entries up to index. */
    void (*observe_image)(void *ctx, uint32_t group, uint64_t index, uint64_t term);
    /* With observe: a replica takes its turn, as it does after everything that happened to its core. */
    void (*observe_turn)(void *ctx, uint32_t group);
    /* The node stopped: after node_stop (status 0), or by itself because it can't go on (a failed disk, another cluster's data): the
     * process ends with a failure. The node is still to be freed with node_abandon, not inside this call. */
    void (*on_stopped)(void *ctx, int status, const char *text);
    void *ctx;
};

int node_start(struct env *env, struct logger *logger, const struct node_config *config, struct node **out, struct err *err);
/* Hands its primaries over, makes the log durable, stops. on_stopped follows within a few seconds. */
void node_stop(struct node *node);
void node_abandon(struct node *node);
/* A FRAME_HELLO with a node id arrived on a connection that the server accepted. True: the connection is the node's now; false: it
 * was answered with a refusal, or is to be closed. */
struct conn;
struct frame;
bool node_accept_peer(struct node *node, struct conn *conn, const struct frame *frame);
/* What a client's hello is answered with: cluster id (16 bytes, NULL until the cluster is formed), node id, boot id, time. */
const uint8_t *node_cluster_id(const struct node *node);
uint64_t node_id(const struct node *node);
uint64_t node_boot_id(const struct node *node);
const char *node_name(const struct node *node);
uint64_t node_epoch(const struct node *node);
uint64_t node_time(const struct node *node);
/* The server tells how many clients are connected, and of frames that it refused. */
void node_count_client(struct node *node, int change);
void node_count_refused(struct node *node);
/* State as an object tree, for SIGUSR1 and tests. */
void node_dump(const struct node *node, struct buf *out);
/* Whether it knows its cluster and every group it holds has a leader: for sd_notify and tests. */
bool node_is_ready(const struct node *node);

#endif
