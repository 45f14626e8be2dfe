/* cairn.h: the client library of Cairn, a replicated key-value store.
 *
 * One handle is one session with a cluster: it finds the nodes, keeps the topology, routes every key to its primary, repeats what
 * may be repeated, and never applies a write twice. Handles are independent; there is no global state, no thread, no signal. A
 * handle is used by one thread at a time.
 *
 * Two faces over one heart:
 *
 *   blocking      cairn_call, cairn_call_many, cairn_scan_next: return when the answer is there. While they wait they call the
 *                 handle's wait hook (poll(2) by default), which a host may replace (PostgreSQL waits on its latch there).
 *   event-driven  cairn_submit, cairn_submit_many, cairn_scan_fetch: return at once; the callback comes from a later
 *                 cairn_step. The host waits for cairn_fd to become readable or for cairn_timeout_ms to pass, then calls
 *                 cairn_step.
 *
 * Every function returns 0 (or a count) or a negative error code; cairn_error_name and cairn_error_text explain codes. The codes
 * are those of tbl/errors.def, listed below as CAIRN_….
 */
#ifndef CAIRN_H
#define CAIRN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct cairn;
struct cairn_scan;

/* The codes that callers tell apart; others exist (cairn_error_name). */
enum {
    CAIRN_FAILED = -1,
    CAIRN_CORRUPT = -5,
    CAIRN_USAGE = -7,
    CAIRN_UNSUPPORTED = -8,
    CAIRN_KEY_EMPTY = -20,
    CAIRN_KEY_TOO_LONG = -21,
    CAIRN_VALUE_TOO_LARGE = -22,
    CAIRN_NOT_FOUND = -23,
    CAIRN_EXISTS = -24,
    CAIRN_CONDITION_FAILED = -25,
    CAIRN_LIMIT = -26,
    CAIRN_UNAVAILABLE = -40,
    CAIRN_TIMEOUT = -41,
    CAIRN_BUSY = -42,
    CAIRN_CANCELLED = -46,
    CAIRN_UNKNOWN_OUTCOME = -47,
    CAIRN_CONNECT = -48,
    CAIRN_DISK_FULL = -60,
    CAIRN_STORE_FULL = -61,
};

enum { CAIRN_KEY_BYTES_MAX = 511, CAIRN_VALUE_BYTES_MAX = 8 << 20 };

/* What the error table says of a code; static. */
struct cairn_error_info {
    const char *name;     /* "ERR_NOT_FOUND" */
    const char *text;
    const char *sqlstate; /* five characters */
    int errno_value;
    int exit_code;
    bool is_retryable;    /* nothing was applied; the same request may succeed later */
};
const struct cairn_error_info *cairn_error(int code);

/* --- Handles */

struct cairn_options {
    const char *endpoints;       /* "H:P[,H:P…]"; NULL: 127.0.0.1:7400 */
    const char *program;         /* name told to the servers; NULL: "client" */
    uint32_t timeout_ms;         /* longest wait without progress of one request, 0: 5000 */
    /* Waits until fd is readable or timeout_ms passed (-1: no limit). 0: look again; negative: give up waiting: the blocking call
     * cancels its request and returns that code (use CAIRN_CANCELLED). NULL: poll(2). Must not longjmp. */
    int (*wait)(void *ctx, int fd, int timeout_ms);
    void *wait_ctx;
    /* Another open handle of the same thread, NULL: none. Both then share one descriptor: cairn_fd is the same, and each step or
     * wait on one serves all that share. For hosts with many handles: an event costs fewer system calls. */
    struct cairn *beside;
};

/* Makes a handle; does not connect yet and so does not fail for an absent cluster. CAIRN_USAGE: malformed endpoints, with a text in
 * error_text (at least 256 bytes, NULL allowed). The options are copied. */
int cairn_open(const struct cairn_options *options, struct cairn **out, char *error_text);
/* Closes connections and frees. Requests in flight end with CAIRN_CANCELLED, their callbacks are called. */
void cairn_close(struct cairn *cairn);
/* Text of the last failure on this handle, with details; "" if none. Valid until the next call on the handle. */
const char *cairn_last_error(const struct cairn *cairn);

/* --- Records */

/* Attributes; only those named in mask. The same bits as in the protocol. */
enum {
    CAIRN_ATTR_MODE = 1,
    CAIRN_ATTR_UID = 2,
    CAIRN_ATTR_GID = 4,
    CAIRN_ATTR_MTIME = 8,
    CAIRN_ATTR_FLAGS = 16,
    CAIRN_ATTR_EXPIRES = 32,
};
enum { CAIRN_FLAG_DIRECTORY = 1 };

struct cairn_attributes {
    uint32_t mask;
    uint32_t mode, uid, gid, flags;
    uint64_t mtime_us;      /* since 1970 */
    uint64_t expires_at_us;
};

struct cairn_meta {
    uint64_t version;       /* number of the key's last change; grows, never repeats; comparable within one key */
    uint64_t time_us;       /* when that was, wall clock of the primary */
    uint64_t size;          /* bytes of the value */
    struct cairn_attributes attributes;
};

/* --- Requests: one key each */

enum cairn_verb { CAIRN_GET, CAIRN_GET_META, CAIRN_PUT, CAIRN_DELETE, CAIRN_SETATTR };
enum cairn_condition { CAIRN_ALWAYS, CAIRN_IF_ABSENT, CAIRN_IF_VERSION, CAIRN_IF_PRESENT };
/* What a read may miss (docs/CONSISTENCY.md):
 *   LINEARIZABLE  nothing that was answered before it began; rests on no clock. Costs the primary a round to a majority
 *   LEASE         the same, as long as the nodes' monotonic clocks run within 20 % of each other's rate and none of them stands
 *                 still; the primary answers alone while its lease lasts, else as LINEARIZABLE
 *   STALE         any replica answers alone, with what was committed; the result tells how much may be missing. Two reads may be
 *                 answered by different replicas, and the later one may see less */
enum cairn_consistency { CAIRN_LINEARIZABLE, CAIRN_LEASE, CAIRN_STALE };
/* When a write is answered: a majority has it durably; or every replica that can be reached has. */
enum cairn_ack { CAIRN_ACK_MAJORITY, CAIRN_ACK_ALL };
#define CAIRN_STALENESS_UNKNOWN UINT64_MAX

/* One operation. A zeroed struct with verb and key is a plain one. Keys and values are bytes and are copied by the call. */
struct cairn_request {
    enum cairn_verb verb;
    const void *key;
    size_t key_size;
    const void *value;                  /* PUT */
    size_t value_size;
    enum cairn_condition condition;     /* PUT, DELETE, SETATTR */
    uint64_t version;                   /* with CAIRN_IF_VERSION */
    struct cairn_attributes attributes; /* PUT, SETATTR: those in mask are set, others stay as they are */
    enum cairn_consistency consistency; /* GET, GET_META */
    uint32_t timeout_ms;                /* 0: the handle's */
    uint64_t max_staleness_ms;          /* with CAIRN_STALE: a replica that may miss more than what was acknowledged so lately
                                           asks the primary instead; 0: any */
    /* PUT, DELETE, SETATTR. With CAIRN_ACK_ALL, CAIRN_UNKNOWN_OUTCOME may also mean: applied by a majority, and in the time
     * given not every replica within reach confirmed. */
    enum cairn_ack ack;
};

struct cairn_result {
    int status;             /* 0, CAIRN_NOT_FOUND, CAIRN_EXISTS, … */
    const void *value;      /* GET; never NULL when status is 0; ownership: see the call */
    size_t value_size;
    struct cairn_meta meta; /* GET, GET_META: all of it. PUT, SETATTR: version and time. On CAIRN_EXISTS and
                               CAIRN_CONDITION_FAILED: version is the present one, 0 = absent */
    bool existed;           /* DELETE: there was something; a DELETE of nothing is status 0, existed false */
    uint64_t staleness_ms;  /* CAIRN_STALE, also with CAIRN_NOT_FOUND: nothing that was acknowledged longer than this before the
                               call is missing; 0: nothing at all; CAIRN_STALENESS_UNKNOWN */
};

/* Blocking. Returns result->status. result->value belongs to the result: call cairn_result_free. On failure see cairn_last_error. */
int cairn_call(struct cairn *cairn, const struct cairn_request *request, struct cairn_result *result);
/* Blocking; many operations, pipelined and batched by primary; not atomic; results[i] answers requests[i]. Returns 0 when every
 * operation was answered (statuses 0, CAIRN_NOT_FOUND and failed conditions included), else the first other status. Free every result. */
int cairn_call_many(struct cairn *cairn, const struct cairn_request *requests, size_t count, struct cairn_result *results);
/* Frees a result's value and zeroes it; harmless on a zeroed one. */
void cairn_result_free(struct cairn_result *result);
/* Takes the value out of a result: the caller frees it with free(3). */
void *cairn_result_take_value(struct cairn_result *result);

/* --- Event-driven */

/* The answer; the result's value is borrowed for the call (cairn_result_take_value keeps it). Never called inside cairn_submit. The
 * callback may submit; it must not close the handle. */
typedef void (*cairn_done)(void *arg, struct cairn_result *result);
/* 0, or what is wrong with the request at once (CAIRN_KEY_EMPTY, CAIRN_KEY_TOO_LONG, CAIRN_VALUE_TOO_LARGE, CAIRN_USAGE): then no
 * callback comes. *id (NULL allowed) names the request for cairn_cancel. */
int cairn_submit(struct cairn *cairn, const struct cairn_request *request, cairn_done done, void *arg, uint64_t *id);
typedef void (*cairn_done_many)(void *arg, struct cairn_result *results, size_t count);
int cairn_submit_many(struct cairn *cairn, const struct cairn_request *requests, size_t count, cairn_done_many done, void *arg,
                      uint64_t *id);
/* Ends a request early: its callback comes from the next cairn_step with CAIRN_CANCELLED. A write may or may not be applied. */
void cairn_cancel(struct cairn *cairn, uint64_t id);

/* Becomes readable when cairn_step has work. Stays the same for the handle's life. */
int cairn_fd(const struct cairn *cairn);
/* How long the host may wait at most, ms; -1: until cairn_fd is readable. Ask again after every call on the handle. */
int cairn_timeout_ms(struct cairn *cairn);
/* Does what can be done without waiting: sends, receives, calls back. Returns the number of callbacks made. */
int cairn_step(struct cairn *cairn);
/* As cairn_step, but waits first, at most so many µs, until there is something to do: for threads that wait for nothing else. */
int cairn_run(struct cairn *cairn, uint64_t wait_us);

/* --- Scans: ordered walks over all partitions, merged as they stream in; each page is linearizable per partition */

struct cairn_scan_options {
    const void *from, *to;   /* [from, to); size 0: open end */
    size_t from_size, to_size;
    const void *prefix;      /* instead of from and to, or within them: only keys that begin so */
    size_t prefix_size;
    bool reverse;
    uint64_t limit;          /* entries in all; 0: no limit */
    uint32_t page_entries;   /* hint for one page; 0: the library's choice, growing */
    bool keys_only;
    bool meta_only;
    enum cairn_consistency consistency; /* of each page */
    uint32_t timeout_ms;
    uint64_t max_staleness_ms; /* as in cairn_request */
};

struct cairn_entry {
    const void *key;
    size_t key_size;
    const void *value;       /* NULL with keys_only and meta_only */
    size_t value_size;
    struct cairn_meta meta;  /* zeroed with keys_only */
};

int cairn_scan_open(struct cairn *cairn, const struct cairn_scan_options *options, struct cairn_scan **out);
/* Blocking: 1 and *entry (borrowed until the next call on the scan), 0 at the end, or an error; after an error the scan is over. */
int cairn_scan_next(struct cairn_scan *scan, struct cairn_entry *entry);
/* Event-driven: cairn_scan_try is cairn_scan_next without waiting; it returns CAIRN_BUSY when it needs a page. cairn_scan_fetch asks
 * for what is needed and calls back once when cairn_scan_try will not return CAIRN_BUSY (status 0) or the scan failed. */
int cairn_scan_try(struct cairn_scan *scan, struct cairn_entry *entry);
int cairn_scan_fetch(struct cairn_scan *scan, void (*done)(void *arg, int status), void *arg);
/* The greatest staleness of the pages read so far, as in cairn_result. */
uint64_t cairn_scan_staleness_ms(const struct cairn_scan *scan);
/* Ends it at any time, also while a fetch is under way (its callback is not called). Must come before cairn_close. */
void cairn_scan_close(struct cairn_scan *scan);

/* --- Cluster */

/* The topology and status of the cluster as text for people and tools, JSON; free(3) it. `node`: "H:P" or name to ask that node,
 * NULL: the cluster as a whole (every node is asked, absent ones are named as such). Blocking. */
int cairn_status_json(struct cairn *cairn, const char *node, char **out);

struct cairn_stats {
    uint64_t requests, frames_sent, retries, redirects, bytes_sent, bytes_received, reconnects, topology_updates;
};
void cairn_stats(const struct cairn *cairn, struct cairn_stats *out);

/* The node (name) that is believed to be the key's primary, "" if unknown; valid until the next call. Blocking (fetches the topology). */
const char *cairn_locate(struct cairn *cairn, const void *key, size_t key_size);

#ifdef __cplusplus
}
#endif

#endif
