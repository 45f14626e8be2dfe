/* cairn_fdw.h: what the files of the foreign data wrapper share.
 *
 *   option.c        options of servers, tables, columns; the validator; a table's description
 * (struct table) segment.c       key columns <-> bytes of a key document.c      a row's columns <->
 * one JSON object row.c           entries of the store -> slots, slots -> keys and values
 *   pushdown.c      which clauses become keys or ranges (planner), and which keys and ranges those
 * are (executor) connection.c    one handle per server and user; waiting on the latch; errors
 *   write_buffer.c  the transaction's writes, by key, with visibility by command and subtransaction
 *   fdw_commit.c    sends the buffer before the local commit
 *   fdw_plan.c, fdw_scan.c, fdw_modify.c   the planner's and executor's callbacks
 *
 * No longjmp ever crosses a frame of the client library: its wait hook catches errors and they are
 * thrown again after the library has returned. Memory follows PostgreSQL's contexts; what the
 * library allocates is freed by context callbacks.
 */
#ifndef CAIRN_FDW_H
#define CAIRN_FDW_H

#include "postgres.h"

#include "access/tupdesc.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "foreign/fdwapi.h"
#include "lib/stringinfo.h"
#include "nodes/execnodes.h"
#include "nodes/pathnodes.h"
#include "utils/rel.h"

#include "client/cairn.h"

/* --- option.c */

enum table_format { FORMAT_RAW, FORMAT_JSON };

enum column_role {
    ROLE_NONE, /* dropped */
    ROLE_KEY,
    ROLE_VALUE,       /* raw: the value */
    ROLE_FIELD,       /* json: a member of the object */
    ROLE_VERSION,     /* the four below can only be read */
    ROLE_MODIFIED_AT, /* when the version was written */
    ROLE_EXPIRES_AT,
    ROLE_SIZE,
};

struct column {
    enum column_role role;
    const char *name;
    const char *field; /* ROLE_FIELD: the member's name */
    int field_size;
    int key_number; /* ROLE_KEY: index into table.key_attnums */
    Oid type;       /* base type of a domain for keys and values */
    Oid declared;   /* the type as declared */
    int32 typmod;
    Oid collation;
    void *state; /* document.c: cached conversion functions */
};

/* What a foreign table means: made anew per plan and per execution, in the caller's memory context.
 */
struct table {
    Oid relid, server_id;
    const char *name;
    char *prefix;
    int prefix_size;
    enum table_format format;
    bool updatable;
    int fetch_size; /* 0: the library's choice */
    int column_count;
    struct column *columns; /* by attnum - 1 */
    int key_count;
    AttrNumber *key_attnums; /* in order */
    AttrNumber value_attnum; /* raw: 0 = none */
};

struct server_options {
    char *endpoints;
    int timeout_ms, commit_timeout_ms;
    int fetch_size;
    bool updatable;
    bool keep_connections;
    bool isolation_downgrade;
    int64 write_bytes_max;
};

/* Raises HV0xx when the table's columns and options do not fit together. */
extern struct table *table_describe(Relation relation);
extern void server_options_get(Oid server_id, struct server_options *out);

static inline struct column *table_column(const struct table *table, AttrNumber attnum)
{
    return &table->columns[attnum - 1];
}

/* --- segment.c */

/* Can values of this type stand in a key of this format? */
extern bool segment_type_is_supported(enum table_format format, Oid type);
/* Is `type` one whose values may be compared with a key column of type `column_type` by their
 * segments? */
extern bool segment_types_match(Oid column_type, Oid type);
/* Appends the bytes for one key column's value. */
extern void segment_append(StringInfo out, enum table_format format, Oid type, Datum value);
/* The whole key: prefix, and the columns' segments joined by '/'. values in order of the key
 * columns. */
extern void key_append(StringInfo out, const struct table *table, const Datum *values,
                       const Oid *types, int count);
/* Reads the key's columns. False: the key is not a row of this table (it has another number of
 * segments). Raises 22P02 or 22021 for segments that cannot be the column's. */
extern bool key_decode(const struct table *table, const char *key, int size, Datum *values);
/* A key for people: quoted, bytes outside printable ASCII and valid text as \xNN. palloc'd. */
extern char *key_quote(const char *key, int size);
/* The smallest byte string above all that begin with prefix; size 0: there is none. In place;
 * returns the size. */
extern int prefix_successor(char *prefix, int size);

/* --- document.c */

/* Fills values and isnull of the ROLE_FIELD columns in `wanted` (NULL: all) from a JSON object.
 * Raises 22P02 if it is none. */
extern void document_decode(const struct table *table, const char *text, int size,
                            const bool *wanted, Datum *values, bool *isnull);
/* The object for a row. `previous` (NULL: none): its members that are no columns stay, and the
 * order of all. */
extern char *document_encode(const struct table *table, TupleDesc desc, const Datum *values,
                             const bool *isnull, const char *previous, int previous_size,
                             int *size);

/* --- row.c */

/* One row as it stands in the store or in the transaction's buffer. */
struct stored_row {
    const char *key;
    int key_size;
    const char *value;
    int value_size;
    const struct cairn_meta *meta; /* NULL: an own write, not yet committed */
    uint64_t size;
};

/* Fills the slot (virtual). False: the key is not a row of this table. Only columns in `wanted` (by
 * attnum - 1) are converted. */
extern bool row_store(const struct table *table, const struct stored_row *row, const bool *wanted,
                      TupleTableSlot *slot);
/* The key of a slot's row; raises 23502 for NULLs, 54000 when too long, 22023 when empty. */
extern void row_key(const struct table *table, TupleTableSlot *slot, StringInfo out);
/* The value of a slot's row. `previous`: what was stored before (NULL: nothing). */
extern char *row_value(const struct table *table, TupleTableSlot *slot, const char *previous,
                       int previous_size, int *size);
/* "(id)=(42)", for messages about duplicates. */
extern char *row_key_detail(const struct table *table, const char *key, int size);
extern void row_check_text(const char *bytes, int size, const char *what, const char *key,
                           int key_size);

/* --- connection.c */

struct write_buffer;

/* A session with one cluster, for one server and one local user; lives as long as the backend. */
struct connection {
    struct connection_key {
        Oid server_id, user_id;
    } id; /* hash key, must be first */
    struct cairn *handle;
    struct WaitEventSet *waits;
    struct server_options options; /* strings in TopMemoryContext */
    char *server_name;
    uint32 server_hash, mapping_hash;
    bool is_stale;      /* options changed: reopened when nothing uses it */
    int scans;          /* open walks and other uses of the handle */
    int depth;          /* frames of the library on the stack */
    ErrorData *pending; /* error caught in the wait hook, thrown when the library has returned */
    MemoryContext pending_context;
    struct write_buffer *buffer; /* NULL: nothing written in this transaction */
    uint64 round_trips;          /* blocking calls made, for EXPLAIN */
};

extern void connection_init(void);
extern struct connection *connection_get(Oid server_id, Oid user_id);
/* Visits every open connection. */
extern void connection_each(void (*visit)(struct connection *connection, void *arg), void *arg);
extern void connection_transaction_end(void);

/* The library's calls, with waiting, interrupts and errors. Return the status; errors other than
 * answers (NOT_FOUND, EXISTS, CONDITION_FAILED) are raised unless `quiet`. */
extern int connection_call(struct connection *connection, struct cairn_request *request,
                           struct cairn_result *result);
extern int connection_call_many(struct connection *connection, struct cairn_request *requests,
                                size_t count, struct cairn_result *results, bool quiet);
extern struct cairn_scan *connection_scan_open(struct connection *connection,
                                               const struct cairn_scan_options *options);
extern int connection_scan_next(struct connection *connection, struct cairn_scan *scan,
                                struct cairn_entry *entry);
/* Harmless while the process exits inside the library. */
extern void connection_scan_close(struct connection *connection, struct cairn_scan *scan);
/* Throws what the wait hook caught, if anything; `detail` (NULL allowed) is added to it. */
extern void connection_rethrow(struct connection *connection, const char *detail);
extern void connection_raise(struct connection *connection, int status, const char *detail)
    pg_attribute_noreturn();
extern int connection_sqlstate(int status);

/* --- write_buffer.c */

enum write_kind { WRITE_PUT, WRITE_DELETE };

/* One write. Newest first by key (older), and newest first over all (below), which is the stack
 * that subtransactions cut. */
struct write {
    enum write_kind kind;
    bool is_insert; /* made a row that was not there before */
    CommandId cid;
    int level; /* nesting of subtransactions */
    char *value;
    int value_size;
    enum cairn_condition
        condition; /* what must hold in the store; only the oldest write of a key counts */
    uint64_t version;
    Oid relid; /* of the table that wrote it, for messages */
    struct write *older, *below;
    struct write_key *key;
};

struct write_key {
    struct write *newest; /* NULL: all were rolled back */
    struct write_key *previous;
    int height, size;
    char *bytes;
    struct write_key *next[FLEXIBLE_ARRAY_MEMBER];
};

extern struct write_buffer *write_buffer_get(struct connection *connection);
extern struct write_key *write_buffer_find(struct write_buffer *buffer, const char *key, int size);
extern struct write_key *write_buffer_first_at_least(struct write_buffer *buffer, const char *key,
                                                     int size);
extern struct write_key *write_buffer_last_below(struct write_buffer *buffer, const char *key,
                                                 int size); /* size 0: the last of all */
extern struct write_key *write_buffer_first(struct write_buffer *buffer);
extern size_t write_buffer_count(const struct write_buffer *buffer); /* keys with writes */
extern uint64 write_buffer_bytes(const struct write_buffer *buffer);

/* Appends one write; copies key and value. Raises 54000 beyond the server's write_bytes_max. */
struct write_request {
    enum write_kind kind;
    const char *key;
    int key_size;
    const char *value;
    int value_size;
    CommandId cid;
    bool is_insert;
    enum cairn_condition condition;
    uint64_t version;
    Oid relid;
};
extern void write_buffer_add(struct connection *connection, const struct write_request *request);
/* The newest write to the key that a snapshot with this command id may see; NULL: none. */
extern struct write *write_visible(const struct write_key *key, CommandId curcid);
extern struct write *write_oldest(const struct write_key *key);
extern void write_buffer_subtransaction_abort(struct write_buffer *buffer, int level);
extern void write_buffer_subtransaction_commit(struct write_buffer *buffer, int level);

/* --- fdw_commit.c */

extern void commit_init(void);

/* --- pushdown.c */

enum clause_kind {
    CLAUSE_EQ,
    CLAUSE_ANY,
    CLAUSE_LT,
    CLAUSE_LE,
    CLAUSE_GE,
    CLAUSE_GT,
    CLAUSE_PREFIX,
    CLAUSE_LIKE
};

/* A clause that narrows the keys: "key column `key_number` kind argument". */
struct key_clause {
    enum clause_kind kind;
    int key_number;
    Expr *argument;
    RestrictInfo *rinfo;
    bool is_exact; /* the keys or range say all that the clause says */
};

enum strategy { STRATEGY_POINT, STRATEGY_MULTI, STRATEGY_PREFIX, STRATEGY_RANGE, STRATEGY_FULL };

/* The chosen way: which clauses are used. */
struct access {
    enum strategy strategy;
    List *clauses;   /* struct key_clause *, those that are used */
    double rows_any; /* STRATEGY_MULTI: number of keys expected */
};

extern void pushdown_choose(PlannerInfo *root, RelOptInfo *rel, const struct table *table,
                            List *rinfos, struct access *out);
extern bool pushdown_column_is_ordered(const struct table *table);
extern bool pushdown_match_key(const struct table *table, Index relid, Node *node, int *key_number);

/* Keys or a range at execution. */
struct key_range {
    bool is_empty;
    StringInfoData from, to; /* to.len 0: open end */
};
struct key_list {
    int count, capacity;
    struct key_item {
        char *bytes;
        int size;
    } * items; /* ascending, no duplicates */
};

/* One used clause with its argument's present value. */
struct key_argument {
    enum clause_kind kind;
    int key_number;
    Oid type;
    Datum value;
    bool is_null;
};
extern void pushdown_range(const struct table *table, const struct key_argument *arguments,
                           int count, struct key_range *out);
extern void pushdown_keys(const struct table *table, const struct key_argument *arguments,
                          int count, struct key_list *out);
/* from <= key < to */
extern bool key_range_contains(const struct key_range *range, const char *key, int size);
extern int key_compare(const char *a, int a_size, const char *b, int b_size);
extern const char *strategy_name(enum strategy strategy);

/* --- fdw_plan.c, fdw_scan.c, fdw_modify.c */

/* Items of a scan's fdw_private. */
enum scan_private {
    SCAN_STRATEGY,
    SCAN_KINDS,
    SCAN_KEY_NUMBERS,
    SCAN_WANTED,
    SCAN_REVERSE,
    SCAN_LIMIT,
    SCAN_NEEDS_HANDLE,
    SCAN_PRIVATE_COUNT
};

extern void plan_init(FdwRoutine *routine);
extern void scan_init(FdwRoutine *routine);
extern void modify_init(FdwRoutine *routine);

/* What a scan of the target table read, for the UPDATE or DELETE above it: rows carry a handle (in
 * ctid) to it. */
struct read_row {
    char *key;
    int key_size;
    uint64_t version;
    char *value; /* kept for UPDATE: members and values that the table does not declare */
    int value_size;
};
extern void read_set_add(EState *estate, const struct stored_row *row, bool keep_value,
                         ItemPointer handle);
extern struct read_row *read_set_get(EState *estate, ItemPointer handle);

/* Raises 0A000 for isolation levels that reads cannot give. */
extern void isolation_check(struct connection *connection);

#endif
