/* Sessions: what a client's writes were answered, so that a retry never applies twice. One
 * table per replica; replicated state: every decision depends on the entries alone. */
#ifndef STORE_SESSION_H
#define STORE_SESSION_H

#include "base/bytes.h"
#include "base/err.h"
#include "base/hashtab.h"
#include "base/list.h"
#include "base/pool.h"
#include "store/command.h"

/* How much later than its client's time an entry may stand in the log; later ones are refused
 * (ERR_LATE). */
#define SESSION_RETRY_US (5ull * 60 * 1000 * 1000)
/* How long a session is kept after its last write, in log time. Twice the above, so that no retry
 * outlives its session. */
#define SESSION_KEEP_US (2 * SESSION_RETRY_US)
/* How far ahead of its entry a client's time is believed, for how long to keep its session. */
#define SESSION_AHEAD_US (24ull * 3600 * 1000 * 1000)

struct session_result {
    uint64_t number;
    uint64_t version;
    uint64_t time;
    int32_t status;
    bool existed;
};

struct session;

/* A zeroed struct is no table: session_table_init. */
struct session_table {
    struct pool pool;       /* of sessions */
    struct hashtab by_id;   /* hash of the id to a chain of sessions */
    struct session *recent; /* found last, or NULL: session_record asks for the one just admitted */
    struct list by_use;   /* oldest first */
    uint64_t oldest_time; /* no session was used last before this; so most entries need not look */
    struct list dirty;    /* changed since session_table_pack */
    struct buf removed;   /* ids (16 bytes each) forgotten since then */
    size_t count;
    struct session *spare;  /* made by session_reserve for a session that is new */
    struct mem_gate *gate;  /* the owner's to set, NULL as a rule */
};

void session_table_init(struct session_table *table);
void session_table_fini(struct session_table *table);

/* Forgets the sessions whose last write is older than SESSION_KEEP_US at this log time. Costs only
 * what it forgets. False: there is no memory to note that; some are left, call it again. */
bool session_table_expire(struct session_table *table, uint64_t time);
/* Room for what session_record adds for this command (number != 0). False: there is no memory. */
bool session_reserve(struct session_table *table, const struct command *command);

/* May the command (number != 0) be applied?
 *   0                    yes; then session_record with what it gave
 *   1                    it was applied already: *known is its result
 *   ERR_UNKNOWN_OUTCOME  it may have been applied, and nobody knows any more: don't
 *   ERR_LATE             the same, because it stands too long after its client's time: don't. An only
 *                        attempt may be repeated with a newer time, for nothing was applied
 *   ERR_BUSY             too many sessions, or too many unanswered writes in this one: don't, the
 *                        client may try again
 * Results below the command's lowest unanswered number are dropped. */
int session_admit(struct session_table *table, const struct command *command,
                  struct session_result *known);
/* Remembers the result of an admitted command; needs no memory after session_reserve. */
void session_record(struct session_table *table, const struct command *command,
                    const struct session_result *result);

/* Hints, one after another: fetch what finding the session begins with; the session (NULL: there is none); what it points to and the
 * other calls will touch. */
void session_prefetch_place(const struct session_table *table, struct session_id id);
const struct session *session_prefetch(const struct session_table *table, struct session_id id);
void session_prefetch_around(const struct session *session);

/* How many bytes session_table_pack appends. */
size_t session_table_pack_bytes(const struct session_table *table);
/* Appends all changes since the last call to *changes (read them with session_change_next) and
 * starts anew. */
void session_table_pack(struct session_table *table, struct buf *changes);

/* Of all sessions with all that they remember, in whatever order: equal on replicas that applied
 * the same. Costs a walk over them. */
uint64_t session_table_digest(const struct session_table *table);

enum { SESSION_ID_BYTES = 16 };
/* One change: id is the packed session id (16 bytes, big-endian, so that it sorts); an empty value
 * means removed. */
struct session_change {
    struct span id, value;
};
/* False at the end. */
bool session_change_next(struct reader *reader, struct session_change *change);

/* Puts a stored session back; in any order. ERR_CORRUPT, ERR_FORMAT, ERR_NO_MEMORY. Afterwards
 * session_table_load_end sorts by use. */
int session_table_load(struct session_table *table, struct span id, struct span value,
                       struct err *err);
void session_table_load_end(struct session_table *table);

/* Would session_table_load take it? 0, ERR_CORRUPT, ERR_FORMAT. */
int session_check(struct span id, struct span value, struct err *err);

#endif
