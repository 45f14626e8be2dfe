/* Inside of requests: shared by request.c (life, routing, forwarding), verb_kv*.c, verb_scan.c and verb_admin.c. */
#ifndef NODE_REQUEST_PRIVATE_H
#define NODE_REQUEST_PRIVATE_H

#include "node/node_private.h"
#include "wire/get_message.h"
#include "wire/message.h"

enum operation_state {
    OPERATION_NEW,       /* to be dispatched; also while parked: no primary is known right now */
    OPERATION_WRITING,   /* in a partition here */
    OPERATION_READING,   /* waits for a partition's leave to read */
    OPERATION_READABLE,  /* leave was given; read when the whole request is answered */
    OPERATION_FORWARDED, /* another node was asked */
    OPERATION_DONE,
};

/* One key's part of a request. */
struct operation {
    struct request *request;
    Cairn__V1__Operation__Kind kind;
    enum operation_state state;
    uint32_t group;
    uint64_t tried_node;      /* the link it was forwarded to last, 0 = none */
    bool maybe_applied;       /* an earlier try may have been applied; the session keeps a retry from doing it twice */
    bool has_session;
    bool ack_all;
    bool is_led_only;         /* a read that a follower could not serve: goes to the primary */
    bool is_alone;            /* a read that asks nobody: judged again after it, see kv_settle */
    bool was_read_here;
    Cairn__V1__Consistency consistency; /* of a read; becomes linearizable when the weaker way is barred */
    uint64_t max_staleness_ms;          /* 0: any */
    struct span key;          /* the request's arena */
    struct blob *command;     /* writes */
    struct partition *partition;
    /* The result. */
    int status;
    struct store_result result;
    bool has_record;
    uint64_t staleness_ms;    /* stale gets */
    const char *text;         /* more for people than the status says; NULL: nothing */
    /* What follows is written before it is read, and need not be cleared. */
    struct partition_write write; /* while WRITING */
    struct partition_read read;   /* while READING */
    struct record record;         /* if has_record: gets, what another node answered (arena), or is read at the end */
};

/* A question passed on to another node. */
struct forward {
    struct request *request; /* NULL: nobody waits any more */
    struct link *link;
    struct list link_in_request;
    uint64_t id;
    struct operation **operations; /* of a multi; NULL: a scan's part */
    size_t count;
    struct scan_source *source;
};

struct request {
    struct list link;        /* node->requests, or the free list */
    struct list origin_link;
    struct list parked_link;
    struct node *node;
    struct request_origin *origin; /* NULL: gone */
    uint64_t id, trace_id;
    size_t value_bytes; /* that came with it */
    uint16_t verb, flags;
    uint8_t hops;
    bool is_gathered; /* a get that came with others: its answer may leave with others */
    uint64_t deadline_us;
    uint64_t newest_time; /* of its results: the answer tells it, or a later one */
    struct arena arena;
    ProtobufCAllocator allocator;
    struct operation *operations;
    size_t operation_count, unfinished;
    struct list forwards;
    struct scan *scan;
    bool may_have_written; /* a write was proposed or passed on */
    bool is_finished;
    struct operation single; /* room for the common case, */
    uint8_t small_key[64];   /* and for its key */
};

/* Bytes of a request that are cleared when it is used again. */
#define REQUEST_CLEARED_BYTES \
    (offsetof(struct request, single) + offsetof(struct operation, write))

/* request.c */
void request_fail(struct request *request, int status, const char *text);
/* Its message could not be unpacked: it is malformed, or there is no memory for it. */
void request_fail_unpack(struct request *request);
/* As request_origin's. */
size_t request_room(const struct request *request);
/* There is no memory for its answer: it fails with ERR_NO_MEMORY or, if it may have written something, its connection closes. */
void request_starve(struct request *request);
/* Sends the answer and frees the request. message may be NULL. */
void request_answer(struct request *request, int status, uint16_t flags, const ProtobufCMessage *message,
                    const struct conn_piece *pieces, size_t count);
/* The same for a message that is packed already. */
void request_answer_packed(struct request *request, int status, uint16_t flags, struct span message,
                           const struct conn_piece *pieces, size_t count);
/* Answers a get that found something, beside others if it came with others. */
void request_answer_get(struct request *request, const struct get_answer *answer, struct span value, bool has_value);
/* A link to a node that has a replica of the group; NULL: none now, or the request may not go further. */
struct link *request_link_to_replica(struct request *request, uint32_t group);
/* The partition's primary is not here: link to it, or NULL with *status: 0 = none known now (park), else the failure. */
struct link *request_link_to(struct request *request, uint32_t group, int *status);
void request_park(struct request *request);
/* NULL: there is no memory, nothing was sent. */
struct forward *request_forward(struct request *request, struct link *link, uint16_t verb, const ProtobufCMessage *message,
                                const struct conn_piece *pieces, size_t count);
/* What its memory is for from now on. */
void request_set_kind(struct request *request, enum mem_kind kind);
/* Zeroed memory that lives as long as the request; NULL when there is none. */
void *request_try_alloc(struct request *request, size_t size);
/* Many pieces: request_reserve finds room for `count` pieces of `size` bytes together (false: there is none), request_take gives it
 * out, zeroed. */
bool request_reserve(struct request *request, size_t size, size_t count);
void *request_take(struct request *request, size_t size);
void request_make_hint(struct request *request, uint32_t group, Cairn__V1__Hint *hint);

/* verb_kv*.c */
void kv_start(struct request *request, const struct frame *frame);
/* The same for a get that is unpacked already. */
void kv_start_get(struct request *request, const struct get_question *get);
void kv_dispatch(struct request *request);
void kv_forward_answered(struct forward *forward, const struct frame *frame);
/* Its link broke before an answer came. */
void kv_forward_lost(struct forward *forward);
void kv_expire(struct request *request);
void kv_drop(struct request *request);

/* verb_scan.c */
void scan_start(struct request *request, const struct frame *frame);
void scan_dispatch(struct request *request);
void scan_forward_answered(struct forward *forward, const struct frame *frame);
void scan_forward_lost(struct forward *forward);
void scan_drop(struct request *request);

/* verb_admin.c */
void admin_topology(struct request *request, const struct frame *frame);
void admin_status(struct request *request, const struct frame *frame);

#endif
