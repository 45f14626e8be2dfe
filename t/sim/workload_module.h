/* What one workload is to the driver (workload.c), and what it may use. */
#ifndef SIM_WORKLOAD_MODULE_H
#define SIM_WORKLOAD_MODULE_H

#include "sim/workload.h"

/* All hooks run in the client's process, one at a time. A session has one call under way at most. */
struct workload_module {
    const char *name;
    size_t part_bytes, session_bytes; /* of part->own and session->own, zeroed */
    uint32_t pace;                    /* from one question to the next, in those of the run */
    /* Draws what this run's instance is like. */
    void (*begin)(struct part *part);
    /* Makes exactly one call. */
    void (*ask)(struct session *session);
    /* Makes one call of the final reads; false: nothing is left for this session. */
    bool (*ask_final)(struct session *session);
    /* Judges what only the whole shows. */
    void (*judge)(struct part *part);
    void (*fini)(struct part *part);
};

/* One workload of a run. */
struct part {
    struct workload *workload;
    const struct workload_module *module;
    enum workload_kind kind;
    struct random random;
    uint32_t session_count;
    uint32_t cost; /* processor time of a call, about, in percent of a single small operation's; set by `begin` where it is not 100 */
    void *own;
};

/* One caller: asks, waits for the answer, thinks until it is time for the next question. */
struct session {
    struct part *part;
    struct caller *caller;
    uint32_t writer; /* unique in the run, from 1 */
    uint32_t number; /* within the part, from 0 */
    struct env_timer think;
    bool is_waiting, is_final_done, is_calm;
    uint64_t asked_us, bound_us;
    size_t count; /* operations of the call */
    enum cairn_verb verbs[32];
    void (*heard)(struct session *session, const struct cairn_result *results, size_t count);
    struct core_scan *scan;
    struct buf scan_last;
    uint64_t scan_left;
    bool scan_is_reverse;
    void (*scanned)(struct session *session, const struct cairn_entry *entry);
    void (*ended)(struct session *session, int status);
    void *own;
};

enum { SESSION_OPERATIONS_MAX = 32 };

/* One call of one or several operations. `heard` is called once; it may make the next call. Everything is copied. */
void session_call(struct session *session, const struct cairn_request *requests, size_t count,
                  void (*heard)(struct session *session, const struct cairn_result *results, size_t count));
/* A scan to its end: `scanned` for each entry, then `ended` (0, or why it failed). That keys come in strict order, within the limit,
 * is checked here. */
void session_scan(struct session *session, const struct cairn_scan_options *options,
                  void (*scanned)(struct session *session, const struct cairn_entry *entry),
                  void (*ended)(struct session *session, int status));
/* The next place in the real order of calls and replies. */
uint64_t session_place(struct session *session);
/* What a status means: LINEAR_OK, _ABSENT, _REFUSED, _UNKNOWN or _NOTHING. */
enum linear_outcome session_outcome(enum cairn_verb verb, int status);

/* See workload->ack_all. */
void workload_tell_ack_all(struct workload *workload, uint32_t writer, struct span key, uint64_t version);

/* "prefix/number", as text, into a buffer of `size` bytes, which it must fit: made for every key of every call. */
void name_numbered(char *out, size_t size, const char *prefix, uint32_t number);

void part_fail(struct part *part, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* --- Values: each tells who wrote it, as which number, and whether it is whole.
 *
 *   offset size
 *        0    4 CRC32C over the key and all that follows
 *        4    4 writer
 *        8    8 number
 *       16    4 content size
 *       20    … content, then filling up to the wanted size */
struct value {
    uint32_t writer;
    uint64_t number;
    struct span content;
};
enum { VALUE_HEAD_BYTES = 20 };
/* Appends a value of at least `size` bytes in all. */
void value_make(struct buf *out, struct span key, const struct value *value, size_t size);
/* False: it was never written so for this key. The content borrows. */
bool value_read(struct span key, struct span bytes, struct value *out);

extern const struct workload_module workload_register, workload_recreate, workload_multi, workload_large, workload_set,
    workload_counter, workload_append, workload_scan, workload_consistency;

#endif
