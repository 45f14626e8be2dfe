/* What the files of the client's heart share; nobody else includes it but the simulated clients (t/sim/caller.c).
 *
 *   core.c     open, close, step, timers, the session, errors for people
 *   link.c     one link a node: connecting, hello, frames in and out, what waits for which answer
 *   route.c    topology, primaries, which link a key goes to
 *   call.c     the life of an operation: submitted, routed, repeated, finished
 *   exchange.c operations to frames, frames to results
 *   stream.c   scans
 *   ask.c      questions to one node
 *
 * Who points to whom: a call owns its operations; an operation that was sent is named by up to
 * OPERATION_FLIGHTS flights, which the links own; both sides are unhooked together (call.c). A
 * question (topology, status, a page of a scan) is embedded in its owner and named by at most one
 * link queue or flight. */
#ifndef CLIENT_CORE_PRIVATE_H
#define CLIENT_CORE_PRIVATE_H

#include "base/check.h"
#include "base/list.h"
#include "base/mem.h"
#include "base/slots.h"
#include "client/core.h"
#include "proto/client.pb-c.h"
#include "wire/frame.h"
#include "wire/message.h"

enum {
    CORE_SEEDS_MAX = LIMIT_NODES,
    CORE_HELLO_TIMEOUT_US = 1000 * 1000, /* connecting and hello together */
    CORE_LINK_BACKOFF_MIN_US = 20 * 1000,
    CORE_LINK_BACKOFF_MAX_US = 1000 * 1000,
    /* A link that owes answers and says nothing for so long is given up. */
    CORE_SILENCE_US = 3000 * 1000,
    CORE_RETRY_MIN_US = 5 * 1000,
    CORE_RETRY_MAX_US = 200 * 1000,
    /* A link that doesn't come up, or says nothing, so long: another node is asked too. Longer than what
     * a loaded node takes for an answer, shorter than an election. Not for larger values. */
    CORE_HEDGE_US = 300 * 1000,
    CORE_HEDGE_BYTES_MAX = 64 << 10,
    CORE_REDIRECTS_AT_ONCE = 3, /* follow hints without waiting so often in a row */
    /* A write's client time must be recent: entries far past it are refused as unknown. After
     * so long without a word from the cluster, a new write first asks for the time. */
    CORE_TIME_AGE_US = 60 * 1000 * 1000,
    CORE_TOPOLOGY_TIMEOUT_US = 1000 * 1000,
    CORE_TOPOLOGY_PAUSE_US = 50 * 1000, /* between two fetches */
    /* Payload of one MULTI frame; one operation may exceed it. */
    CORE_MULTI_BYTES = 1 << 20,
    /* Values up to that are copied beside their head; larger are sent from where they are. */
    CORE_COPY_BYTES = 2048,
    OPERATION_FLIGHTS = 3,
    /* Calls of one operation and flights of one are used again, up to so many of each. */
    CORE_KEPT_MAX = 64,
    /* Key and value of a call that is kept. */
    CALL_SMALL_BYTES = 512,
};

/* Questions are cancelled by ids like calls', which are those of their slots: far below. */
#define CORE_FIRST_ASK (1ull << 63)

/* --- Timers: a binary heap, soonest first */

struct timer {
    uint64_t due_us;
    size_t slot; /* position in the heap plus 1; 0: not armed */
    void (*fire)(struct core *core, struct timer *timer);
};
/* Who owns timers says so, so that setting one needs no memory. False: there is none. */
bool timers_reserve(struct core *core, size_t count);
void timers_release(struct core *core, size_t count);
void timer_set(struct core *core, struct timer *timer, uint64_t due_us);
void timer_clear(struct core *core, struct timer *timer);

/* --- Links */

enum link_state { LINK_IDLE, LINK_CONNECTING, LINK_HELLO, LINK_READY, LINK_BACKOFF };

/* A piece of what a link will send: bytes of link->out (bytes NULL), or of an operation's value. */
struct link_part {
    const uint8_t *bytes;
    size_t offset, size;
};

struct link {
    struct list node; /* in core->links */
    char *address;
    uint64_t node_id; /* 0 until the hello was answered or the topology told */
    bool is_seed;     /* named by the endpoints: stays when the topology doesn't know it */
    bool is_member;   /* of the topology */
    enum link_state state;
    uint64_t number; /* the transport's name of the present connection */
    uint32_t failures;
    uint64_t heard_us;  /* when bytes last arrived or the first unanswered frame was sent */
    struct timer timer; /* CONNECTING, HELLO: give up; BACKOFF: may be tried again */
    struct buf in;      /* the beginning of a frame */
    struct buf out;     /* heads and small values that wait for the step's end */
    struct link_part *parts;
    size_t part_count, part_capacity;
    bool is_starved;        /* there was no memory for what was to be sent: its flush fails it */
    struct slots flights;   /* by request id */
    struct list sent;       /* the same, in order */
    struct list queue;      /* operations to send when READY */
    struct list questions;  /* questions likewise */
};

struct question;

/* One frame that waits for its answer. */
struct flight {
    struct list node; /* in link->sent */
    struct link *link;
    uint64_t id;
    uint16_t verb;
    struct question *question; /* or operations */
    uint32_t count;
    struct operation *operations[]; /* NULL where the operation no longer waits */
};

/* A request that goes to one chosen link as soon as that is ready. */
struct question {
    struct list node; /* in link->questions until sent */
    struct flight *flight;
    struct link *link; /* asked, NULL when idle */
    /* Writes the frame with link_send_frame. */
    void (*send)(struct core *core, struct question *question, uint64_t request_id);
    /* The answer; NULL: the link was lost. The question is idle again when this is called. A
     * negative return: the frame is malformed; the question is then called again with NULL. */
    int (*answered)(struct core *core, struct question *question, const struct frame *frame);
};

/* Finds the link with this address, or makes one. */
void link_on_connected(struct core *core, struct link *link);
void link_on_bytes(struct core *core, struct link *link, struct span bytes);
/* NULL: there is no memory. */
struct link *link_get(struct core *core, const char *address);
struct link *link_find_number(struct core *core, uint64_t number);
void link_free(struct core *core, struct link *link);
void link_connect(struct core *core, struct link *link);
/* Closes; everything that waits is told; then backoff. */
void link_fail(struct core *core, struct link *link, const char *reason);
/* May be used or connected now. */
bool link_is_usable(const struct link *link);
/* Has been coming up, or owing answers in silence, for so long that another is the better choice: a
 * machine that stands still accepts connections and says nothing. */
bool link_is_doubtful(const struct core *core, const struct link *link);
/* Queues a frame: head, message and small payload are copied; a large payload must stay where it is
 * until the step ends. */
void link_send_frame(struct core *core, struct link *link, const struct frame *frame,
                     const ProtobufCMessage *message, const struct span *payloads,
                     size_t payload_count);
/* The same with a message that is packed already; its payload, if any, is copied. */
void link_send_packed(struct core *core, struct link *link, const struct frame *frame);
/* NULL: there is no memory, and the link is starved. */
struct flight *link_add_flight(struct core *core, struct link *link, uint16_t verb, uint32_t count);
void link_fini(struct core *core);
void link_flush_all(struct core *core);
void question_ask(struct core *core, struct question *question, struct link *link);
void question_withdraw(struct question *question);

/* --- Operations */

enum operation_state {
    OPERATION_READY,
    OPERATION_HOMELESS,
    OPERATION_WINDOW,
    OPERATION_QUEUED,
    OPERATION_SENT,
    OPERATION_PAUSED,
    OPERATION_DONE
};

struct operation {
    struct list node; /* core->ready, homeless or window, or link->queue, by state */
    struct call *call;
    enum operation_state state;
    uint8_t verb, condition, flight_count, redirects;
    bool is_write;
    /* QUEUED, SENT: the last attempt went to the node that is believed to lead its partition. */
    bool is_at_preferred;
    /* A write that was sent and whose answer can't come any more. */
    bool may_have_happened;
    /* Its answer didn't fit beside others: not to be put into a MULTI again. */
    bool is_alone;
    uint8_t consistency, ack;
    uint64_t max_staleness_ms;
    uint16_t retries;
    int last_status; /* of the last attempt */
    struct span key, value;
    uint64_t version;
    struct cairn_attributes attributes;
    uint64_t number, client_time; /* session; number 0: not yet routed; client_time 0: not yet sent */
    uint64_t avoid;               /* node that failed last time; 0: none */
    uint64_t asked, routed_us;    /* QUEUED, SENT: the node of the last attempt, and its time */
    uint64_t timeout_us;
    uint64_t retry_us;  /* PAUSED: ready again then; QUEUED and SENT: another node is asked then */
    struct timer timer; /* min(retry_us, deadline) */
    struct {
        struct flight *flight;
        uint32_t slot;
    } flights[OPERATION_FLIGHTS];
};

/* What the caller submitted at once. One allocation, the bytes of keys and values behind. */
struct call {
    struct list node; /* core->finished once done */
    uint64_t id;
    bool is_small; /* of CALL_SMALL_BYTES, from core->free_calls or to go there */
    cairn_done_many done_many;
    cairn_done done_one;
    void *arg;
    size_t count, left;
    uint64_t progress_us; /* submitted, or the last answer */
    struct cairn_result *results;
    struct operation operations[];
};

/* A linearizable get that was submitted alone, as most are. */
static inline bool operation_is_get(const struct operation *operation)
{
    return !operation->is_write && operation->call->count == 1 &&
           operation->consistency == CAIRN_LINEARIZABLE;
}

void call_cancel_all(struct core *core);
void call_fini(struct core *core);
int call_callbacks(struct core *core);
/* Sends every READY operation on its way: onto a link's queue, or to wait for what is missing. */
void call_route(struct core *core);
/* Makes the first operations of a list of waiting ones ready. */
void call_wake(struct core *core, struct list *list, uint64_t count_max);
/* An attempt ended without success and may be made again. */
void operation_retry(struct core *core, struct operation *operation, int status, bool at_once);
void operation_finish(struct core *core, struct operation *operation, int status);
void operation_unhook(struct operation *operation, struct flight *flight);
void operation_hook(struct operation *operation, struct flight *flight, uint32_t slot);

/* exchange.c */
struct gets_page_answer;
/* One of the answers that came together. The flight is a get's, or nobody's any more. ERR_PROTOCOL: it does not fit. */
int exchange_got(struct core *core, struct flight *flight, const struct gets_page_answer *answer);
void exchange_send_queue(struct core *core, struct link *link);
/* An answer for operations. ERR_PROTOCOL: malformed; ERR_NO_MEMORY. */
int exchange_answered(struct core *core, struct flight *flight, const struct frame *frame);
void exchange_lost(struct core *core, struct flight *flight);
/* Unpacks the ErrorInfo of a refused frame (in the core's arena; NULL: malformed): its hint is
 * learned, its text becomes core->trouble. */
Cairn__V1__ErrorInfo *exchange_error_info(struct core *core, const struct link *link,
                                          const struct frame *frame);
/* May the same request succeed later or elsewhere? */
bool exchange_is_retryable(int status);

/* --- Routing */

void route_fini(struct core *core);
/* Asks for the topology when that is wanted and possible. */
void route_drive(struct core *core);
void route_want_topology(struct core *core, struct link *from);
void route_learn(struct core *core, const Cairn__V1__Hint *hint);
void route_learn_primary(struct core *core, uint32_t group, uint64_t node_id);
/* The link for a key of this partition, not that of node `avoid` unless there is no other; NULL:
 * none usable now. */
struct link *route_choose(struct core *core, size_t partition, uint64_t avoid);
/* As route_choose, for reads that any replica answers: each handle begins with another replica, and
 * stays with it. */
struct link *route_choose_replica(struct core *core, size_t partition, uint64_t avoid);
/* The link to this handle's home, the node that its gathered gets go to; NULL: no replica there, or the link isn't well. */
struct link *route_choose_home(struct core *core, size_t partition);
/* Index into topology->nodes of the replica that a handle's stale reads go to first. */
size_t route_preferred_replica(const struct core *core, size_t partition);
/* Index into topology->nodes of the node to ask for a partition first. */
size_t route_preferred(const struct core *core, size_t partition);
struct link *route_node_link(struct core *core, size_t node_index);
/* Index into topology->partitions, or 0. */
size_t route_find_group(const struct core *core, uint32_t group);

/* --- Questions to a node, see core_ask */

struct ask;
void ask_fini(struct core *core);
void ask_cancel(struct core *core, uint64_t id, bool with_callback);
void ask_topology_came(struct core *core);
int ask_callbacks(struct core *core);

/* --- Scans */
int stream_callbacks(struct core *core);
void stream_topology_came(struct core *core);
void stream_drive(struct core *core);

/* --- The whole */

/* A write's number is unanswered from the moment it is given until its operation is finished. */
struct session {
    uint64_t id_high, id_low;
    uint64_t next, lowest; /* lowest <= every unanswered number < next <= lowest + window */
    uint8_t
        answered[LIMIT_SESSION_RESULTS / 8]; /* bit number % window, for lowest <= number < next */
};

struct core {
    const struct core_transport *transport;
    void *transport_ctx;
    uint64_t now_us;
    uint64_t random;
    uint64_t replica_bias; /* see route_choose_replica */
    char *program;
    uint32_t timeout_ms;

    struct list links;
    uint64_t next_link, next_ask;
    bool was_reached; /* some node answered a hello once */

    uint8_t cluster_id[16];
    bool has_cluster;
    uint64_t time;    /* newest cluster time seen */
    uint64_t time_us; /* when a node last told one */
    struct topology *topology;
    struct list beside;       /* ring of the cores that share copies of topologies */
    struct link **node_links; /* parallel to topology->nodes */
    int32_t *primaries;       /* parallel to topology->partitions: index of a node, -1 unknown */
    bool has_strays;          /* links that are neither seeds nor members any more */
    bool topology_wanted;
    uint64_t topology_from; /* number of the link that holds a newer one; 0: any */
    uint64_t topology_after_us;
    uint32_t topology_failures;
    struct question topology_question;
    struct timer topology_timer;

    struct session session;
    struct slots calls; /* by id */
    struct list ready, homeless, window, finished;
    size_t open_gets; /* submitted and not finished: see operation_is_get */
    struct list free_calls, free_flights;
    size_t free_call_count, free_flight_count;
    struct list asks, asks_done;
    struct list streams;
    bool streams_dirty; /* a scan may want a page or have something to say */
    uint64_t steps;

    struct timer **timers;
    size_t timer_count, timer_owners, timer_capacity;
    struct mem_gate *gate;

    struct arena arena; /* one frame's messages */
    /* Holds the frame that is being handled; who wants to keep its payload may take the buffer, if the
     * payload reaches to its end (core_take_payload). NULL: the frame lies elsewhere. */
    struct buf *whole;
    struct buf scratch;
    ProtobufCAllocator allocator; /* of arena */
    char trouble[256];            /* what went wrong last on any link */
    char last_error[256];
    struct cairn_stats stats;
};

uint64_t core_random(struct core *core);
/* The payload of the frame that is being handled, for longer than that: without a copy where the frame
 * came in pieces, as large ones do. Sets *out to where it is; returns the memory that holds it, the
 * caller's to mem_free; NULL: there is none. */
uint8_t *core_take_payload(struct core *core, struct span payload, struct span *out);
/* half to whole of `us`, at random */
uint64_t core_jitter(struct core *core, uint64_t us);
void core_set_error(struct core *core, int status, const char *detail);
/* min << failures, at most max, with jitter */
uint64_t core_backoff(struct core *core, uint32_t failures, uint64_t min_us, uint64_t max_us);
/* 0: the window is full */
uint64_t session_number(struct session *session);
void session_answered(struct core *core, uint64_t number);

#endif
