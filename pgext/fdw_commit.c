/* fdw_commit.c: sends a transaction's writes before the local commit, and forgets them at a
 * rollback.
 *
 *   deferred triggers -> XACT_EVENT_PRE_COMMIT: check, send -> local commit record
 *
 * "Committed in PostgreSQL" so implies "committed in Cairn". The reverse fails only in the window
 * after PRE_COMMIT: a later callback or the server's end may still abort the local transaction.
 *
 * A commit of one key is one conditional write, atomic. A commit of several keys has no transaction
 * of the cluster under it yet: all conditions are read first, so that conflicts and duplicates show
 * while nothing is written; then the writes are sent, each with its own condition. What another
 * client changes between the two, or a cluster that fails, can leave a part applied: the error then
 * says how many writes were. A NOTICE says so once per session. */
#include "cairn_fdw.h"

#include "access/relation.h"
#include "access/table.h"
#include "access/xact.h"
#include "miscadmin.h"
#include "utils/memutils.h"

enum { CHUNK_WRITES = 1024, CHUNK_BYTES = 8 << 20 };

/* Told once per session that several keys are not one transaction. */
static bool is_notice_given;

/* The chunk on its way; its results hold the library's memory and are freed by the context's
 * callback. */
struct chunk {
    struct cairn_request *requests;
    struct cairn_result *results;
    struct write_key **keys;
    size_t count, bytes;
    MemoryContextCallback callback;
};

static void commit_connection(struct connection *connection, void *arg);
static void check_conditions(struct connection *connection, struct chunk *chunk);
static void send_writes(struct connection *connection, struct chunk *chunk);
static void send_chunk(struct connection *connection, struct chunk *chunk, size_t applied,
                       size_t total);
static void refuse_duplicate(struct connection *connection, const struct write_key *key,
                             const char *detail) pg_attribute_noreturn();
static void refuse_conflict(const struct write_key *key, uint64 actual, const char *partly)
    pg_attribute_noreturn();

static void subtransaction_abort(struct connection *connection, void *arg)
{
    if (connection->buffer != NULL) {
        write_buffer_subtransaction_abort(connection->buffer, *(int *)arg);
    }
}

static void subtransaction_commit(struct connection *connection, void *arg)
{
    if (connection->buffer != NULL) {
        write_buffer_subtransaction_commit(connection->buffer, *(int *)arg);
    }
}

static void on_subtransaction(SubXactEvent event, SubTransactionId id, SubTransactionId parent,
                              void *arg)
{
    int level = GetCurrentTransactionNestLevel();

    if (event == SUBXACT_EVENT_ABORT_SUB) {
        connection_each(subtransaction_abort, &level);
    } else if (event == SUBXACT_EVENT_COMMIT_SUB) {
        connection_each(subtransaction_commit, &level);
    }
}

static void refuse_prepare(struct connection *connection, void *arg)
{
    if (connection->buffer != NULL && write_buffer_count(connection->buffer) > 0) {
        ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                        errmsg("cannot PREPARE a transaction that has written to server \"%s\"",
                               connection->server_name)));
    }
}

static void on_transaction(XactEvent event, void *arg)
{
    switch (event) {
    case XACT_EVENT_PRE_COMMIT:
        connection_each(commit_connection, NULL);
        break;
    case XACT_EVENT_PRE_PREPARE:
        connection_each(refuse_prepare, NULL);
        break;
    case XACT_EVENT_COMMIT:
    case XACT_EVENT_ABORT:
    case XACT_EVENT_PREPARE:
        connection_transaction_end();
        break;
    default: /* parallel workers never hold writes */
        break;
    }
}

void commit_init(void)
{
    RegisterXactCallback(on_transaction, NULL);
    RegisterSubXactCallback(on_subtransaction, NULL);
}

static void chunk_clear(void *arg)
{
    struct chunk *chunk = arg;

    for (size_t i = 0; i < chunk->count; i++) {
        cairn_result_free(&chunk->results[i]);
    }
    chunk->count = 0;
    chunk->bytes = 0;
}

static void commit_connection(struct connection *connection, void *arg)
{
    MemoryContext context, old;
    struct chunk *chunk;

    if (connection->buffer == NULL || write_buffer_count(connection->buffer) == 0) {
        return;
    }
    context =
        AllocSetContextCreate(CurrentMemoryContext, "cairn_fdw commit", ALLOCSET_DEFAULT_SIZES);
    old = MemoryContextSwitchTo(context);
    chunk = palloc0(sizeof *chunk);
    chunk->requests = palloc0(sizeof *chunk->requests * CHUNK_WRITES);
    chunk->results = palloc0(sizeof *chunk->results * CHUNK_WRITES);
    chunk->keys = palloc0(sizeof *chunk->keys * CHUNK_WRITES);
    chunk->callback = (MemoryContextCallback){ .func = chunk_clear, .arg = chunk };
    MemoryContextRegisterResetCallback(context, &chunk->callback);
    if (write_buffer_count(connection->buffer) > 1) {
        if (!is_notice_given) {
            ereport(NOTICE, (errmsg("a transaction over several keys of server \"%s\" is not "
                                    "applied atomically yet",
                                    connection->server_name),
                             errdetail("Its conditions are checked first; then its writes go "
                                       "partition by partition.")));
            is_notice_given = true;
        }
        check_conditions(connection, chunk);
    }
    send_writes(connection, chunk);
    MemoryContextSwitchTo(old);
    MemoryContextDelete(context);
}

/* A row made and removed in one transaction leaves nothing to send. */
static bool key_is_sent(const struct write_key *key)
{
    return key->newest != NULL &&
           (key->newest->kind == WRITE_PUT || write_oldest(key)->condition != CAIRN_IF_ABSENT);
}

static struct cairn_request *chunk_add(struct connection *connection, struct chunk *chunk,
                                       struct write_key *key)
{
    struct cairn_request *request = &chunk->requests[chunk->count];

    chunk->keys[chunk->count++] = key;
    chunk->bytes += key->size + key->newest->value_size;
    *request = (struct cairn_request){
        .key = key->bytes,
        .key_size = key->size,
        .timeout_ms = connection->options.commit_timeout_ms,
    };
    return request;
}

static void check_chunk(struct connection *connection, struct chunk *chunk)
{
    connection_call_many(connection, chunk->requests, chunk->count, chunk->results, false);
    for (size_t i = 0; i < chunk->count; i++) {
        const struct write *oldest = write_oldest(chunk->keys[i]);
        const struct cairn_result *result = &chunk->results[i];
        uint64 actual = result->status == 0 ? result->meta.version : 0;

        if (oldest->condition == CAIRN_IF_ABSENT && actual != 0) {
            refuse_duplicate(connection, chunk->keys[i], NULL);
        }
        if (oldest->condition == CAIRN_IF_VERSION && actual != oldest->version) {
            refuse_conflict(chunk->keys[i], actual, NULL);
        }
    }
    chunk_clear(chunk);
}

static void check_conditions(struct connection *connection, struct chunk *chunk)
{
    for (struct write_key *key = write_buffer_first(connection->buffer); key != NULL;
         key = key->next[0]) {
        if (!key_is_sent(key)) {
            continue;
        }
        chunk_add(connection, chunk, key)->verb = CAIRN_GET_META;
        if (chunk->count == CHUNK_WRITES) {
            check_chunk(connection, chunk);
        }
    }
    if (chunk->count > 0) {
        check_chunk(connection, chunk);
    }
}

static void send_writes(struct connection *connection, struct chunk *chunk)
{
    size_t applied = 0, total = 0;

    for (struct write_key *key = write_buffer_first(connection->buffer); key != NULL;
         key = key->next[0]) {
        total += key_is_sent(key);
    }
    for (struct write_key *key = write_buffer_first(connection->buffer); key != NULL;
         key = key->next[0]) {
        struct cairn_request *request;

        if (!key_is_sent(key)) {
            continue;
        }
        request = chunk_add(connection, chunk, key);
        request->verb = key->newest->kind == WRITE_PUT ? CAIRN_PUT : CAIRN_DELETE;
        request->value = key->newest->kind == WRITE_PUT ? key->newest->value : NULL;
        request->value_size = key->newest->kind == WRITE_PUT ? key->newest->value_size : 0;
        request->condition = write_oldest(key)->condition;
        request->version = write_oldest(key)->version;
        if (chunk->count == CHUNK_WRITES || chunk->bytes >= CHUNK_BYTES) {
            applied += chunk->count;
            send_chunk(connection, chunk, applied - chunk->count, total);
        }
    }
    if (chunk->count > 0) {
        send_chunk(connection, chunk, applied, total);
    }
}

/* Sends; on any failure counts what was applied, then raises the first one. */
static void send_chunk(struct connection *connection, struct chunk *chunk, size_t applied,
                       size_t total)
{
    int call_status, status = 0;
    size_t unknown = 0, failed_at = 0;
    struct write_key *key;
    char *detail = NULL;
    uint64 actual;

    call_status =
        connection_call_many(connection, chunk->requests, chunk->count, chunk->results, true);
    for (size_t i = 0; i < chunk->count; i++) {
        int one = chunk->results[i].status;

        applied += one == 0;
        unknown += one == CAIRN_UNKNOWN_OUTCOME || one == CAIRN_CANCELLED;
        if (one != 0 &&
            (status == 0 || (status == CAIRN_CONDITION_FAILED && one == CAIRN_UNKNOWN_OUTCOME))) {
            status = one;
            failed_at = i;
        }
    }
    if (status == 0 && (call_status == 0 || applied == total)) {
        connection_rethrow(connection, NULL);
    }
    if (status == 0) {
        status = call_status;
    }
    if (status == 0) {
        chunk_clear(chunk);
        return;
    }
    if (total > 1 && (applied > 0 || unknown > 0)) {
        detail = psprintf("%zu of %zu writes were applied and stay, %zu may have been.", applied,
                          total, unknown);
    } else if (unknown > 0) {
        detail = psprintf("Key %s: it may have been applied.",
                          key_quote(chunk->keys[failed_at]->bytes, chunk->keys[failed_at]->size));
    } else if (total > 1) {
        detail = psprintf("None of %zu writes was applied.", total);
    }
    key = chunk->keys[failed_at];
    actual = chunk->results[failed_at].meta.version;
    if (connection->pending == NULL &&
        (status == CAIRN_EXISTS ||
         (status == CAIRN_CONDITION_FAILED && write_oldest(key)->condition == CAIRN_IF_ABSENT))) {
        refuse_duplicate(connection, key, total > 1 ? detail : NULL);
    }
    if (connection->pending == NULL &&
        (status == CAIRN_CONDITION_FAILED || status == CAIRN_NOT_FOUND)) {
        refuse_conflict(key, actual, total > 1 ? detail : NULL);
    }
    connection_raise(connection, status, detail);
}

static void refuse_duplicate(struct connection *connection, const struct write_key *key,
                             const char *partly)
{
    Oid relid = write_oldest(key)->relid;
    Relation relation = try_relation_open(relid, AccessShareLock);
    char *detail = key_quote(key->bytes, key->size);
    const char *name = "?";

    if (relation != NULL) {
        struct table *table = table_describe(relation);

        name = table->name;
        detail = row_key_detail(table, key->bytes, key->size);
        relation_close(relation, AccessShareLock);
    }
    ereport(ERROR, (errcode(ERRCODE_UNIQUE_VIOLATION),
                    errmsg("duplicate key value in foreign table \"%s\"", name),
                    errdetail("Key %s already exists.%s%s", detail, partly != NULL ? " " : "",
                              partly != NULL ? partly : "")));
}

static void refuse_conflict(const struct write_key *key, uint64 actual, const char *partly)
{
    const struct write *oldest = write_oldest(key);
    char *quoted = key_quote(key->bytes, key->size);
    char *now =
        actual != 0 ? psprintf("has version " UINT64_FORMAT " now", actual) : pstrdup("is gone");

    ereport(ERROR, (errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
                    errmsg("could not serialize access due to concurrent update"),
                    errdetail("Key %s had version " UINT64_FORMAT " when it was read and %s.%s%s",
                              quoted, (uint64)oldest->version, now, partly != NULL ? " " : "",
                              partly != NULL ? partly : ""),
                    errhint("The transaction might succeed if retried.")));
}
