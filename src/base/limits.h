/* Every bound of Cairn in one place, with its reason and what happens when it is reached. */
#ifndef BASE_LIMITS_H
#define BASE_LIMITS_H

enum {
    /* Keys: LMDB's default limit. Longer: ERR_KEY_TOO_LONG. */
    LIMIT_KEY_BYTES = 511,
    /* A value travels and is logged as one piece until chunks exist. Larger: ERR_VALUE_TOO_LARGE. */
    LIMIT_VALUE_BYTES = 8 << 20,
    /* One frame: a value, its key and message, or a full page of a scan. Larger: ERR_FRAME_TOO_LARGE, connection closed. */
    LIMIT_FRAME_BYTES = LIMIT_VALUE_BYTES + (1 << 20),
    /* The protobuf part of a frame. */
    LIMIT_MESSAGE_BYTES = 1 << 20,
    /* Operations in one multi-get or multi-put frame; the client library splits larger ones. Larger: ERR_LIMIT. */
    LIMIT_MULTI_OPERATIONS = 1024,
    /* Soft end of a scan page; one entry may exceed it. */
    LIMIT_SCAN_PAGE_BYTES = 1 << 20,
    LIMIT_SCAN_PAGE_ENTRIES = 4096,
    /* Requests unanswered on one client connection; more: reading pauses. */
    LIMIT_CONN_REQUESTS = 4096,
    /* Values of the requests unanswered on one client connection; more: reading pauses. */
    LIMIT_CONN_REQUEST_BYTES = 64 << 20,
    /* Bytes waiting to be sent on one connection. From a quarter on clients are not read; a value or page beyond it is not sent, but
     * ERR_BUSY (its request was read before); Raft messages are dropped (Raft repeats). */
    LIMIT_CONN_OUT_BYTES = 64 << 20,
    /* How often a request may be forwarded from node to node. More: ERR_NOT_PRIMARY. */
    LIMIT_HOPS = 2,
    /* Nodes of a cluster, replicas of a group, partitions. */
    LIMIT_NODES = 64,
    LIMIT_REPLICAS = 9,
    LIMIT_PARTITIONS_MIN = 16,
    LIMIT_PARTITIONS_MAX = 4096,
    /* The name of a node or of a cluster: it stands in every line of a log and in tables. Longer: refused at the start. */
    LIMIT_NAME_BYTES = 63,
    /* A session's remembered results per group. A client may have that many writes unanswered. More: ERR_BUSY. */
    LIMIT_SESSION_RESULTS = 1024,
    /* Sessions per group. More: ERR_BUSY until the oldest is ten minutes old. */
    LIMIT_SESSIONS = 65536,
    /* Raft: bytes and messages in flight to one follower of one group, and bytes of one append message. */
    LIMIT_RAFT_INFLIGHT_BYTES = 16 << 20,
    LIMIT_RAFT_INFLIGHT_MESSAGES = 64,
    LIMIT_RAFT_APPEND_BYTES = 256 << 10,
    LIMIT_RAFT_APPEND_ENTRIES = 4096,
    /* Messages of one group that wait until the term and vote they promise are durable. More: dropped (Raft repeats). */
    LIMIT_RAFT_HELD_MESSAGES = 32,
    /* One log entry: a value with its command's head. */
    LIMIT_ENTRY_BYTES = LIMIT_VALUE_BYTES + (4 << 10),
    /* Images that a node receives at a time: each has a stage in the store and a piece in memory. More wait. */
    LIMIT_IMAGES_RECEIVED = 4,
    /* The log: segment size, soft size of a batch (one entry may exceed it). */
    LIMIT_LOG_SEGMENT_BYTES = 32 << 20,
    LIMIT_LOG_BATCH_BYTES = 1 << 20,
    /* The log, in percent of its budget (--log-bytes, at least ten segments), see docs/decisions/011. At the first ordinary writes are
     * slowed and a replica takes only trifles of other primaries' entries; at the second ordinary writes get ERR_BUSY, at the third
     * deletes too. The first lies so high that a log which is flushed in time never meets it, and one flush's writes apart from the last. */
    LIMIT_LOG_SLOW_PERCENT = 200,
    LIMIT_LOG_REFUSE_PERCENT = 250,
    LIMIT_LOG_HARD_PERCENT = 300,
    /* A trifle: payload of an append that a replica takes though its log waits for a flush, one each heartbeat. No-ops, deletes. */
    LIMIT_RAFT_TRIFLE_BYTES = 4 << 10,
    /* Images that are read at the same time: each pins old pages of LMDB. More: ERR_BUSY. */
    LIMIT_STORE_IMAGES = 4,
    /* Images that are received at the same time: each is one more LMDB database, and a chunk in memory. More: ERR_BUSY. */
    LIMIT_STORE_STAGES = 8,
    /* Damaged stores that are kept beside the one in use. More: the node refuses to start, the disk needs a look. */
    LIMIT_STORE_ASIDE = 3,
    /* A configuration file. Larger: refused. */
    LIMIT_CONFIG_BYTES = 64 << 10,
    /* Nodes in one process (--in-process). */
    LIMIT_PROCESS_NODES = 9,
};

_Static_assert(LIMIT_ENTRY_BYTES * 2 < LIMIT_LOG_SEGMENT_BYTES, "a batch of one entry fits a segment");
_Static_assert(LIMIT_FRAME_BYTES > LIMIT_ENTRY_BYTES, "an entry fits a frame");

#endif
