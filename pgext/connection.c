/* connection.c: one handle of the client library per server and local user, for the life of the
 * backend.
 *
 * The library waits through wait_hook: on its descriptor and on the backend's latch, so that
 * interrupts are seen at once. Errors that arise there (a cancel, a statement timeout, a terminated
 * backend) must not jump across the library: they are caught, the library gives up its request and
 * returns, and connection_rethrow throws them. While `depth` is not 0 the library is on the stack;
 * if the process exits from there, cleaning up must leave the handle alone.
 *
 * A handle reconnects by itself; it is only replaced when options change, and then not while scans
 * or unsent writes depend on it. */
#include "cairn_fdw.h"

#include "foreign/foreign.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

/* A backend's own state: PostgreSQL backends are processes of one thread. */
static HTAB *connections;

static void connection_reset(struct connection *connection);
static void connection_start(struct connection *connection);
static int wait_hook(void *arg, int fd, int timeout_ms);

static void invalidate(Datum arg, int cache_id, uint32 hash_value)
{
    HASH_SEQ_STATUS walk;
    struct connection *connection;

    if (connections == NULL) {
        return;
    }
    hash_seq_init(&walk, connections);
    while ((connection = hash_seq_search(&walk)) != NULL) {
        if (hash_value == 0 ||
            (cache_id == FOREIGNSERVEROID && connection->server_hash == hash_value) ||
            (cache_id == USERMAPPINGOID && connection->mapping_hash == hash_value)) {
            connection->is_stale = true;
        }
    }
}

void connection_init(void)
{
    CacheRegisterSyscacheCallback(FOREIGNSERVEROID, invalidate, (Datum)0);
    CacheRegisterSyscacheCallback(USERMAPPINGOID, invalidate, (Datum)0);
}

struct connection *connection_get(Oid server_id, Oid user_id)
{
    struct connection_key key;
    struct connection *connection;
    bool is_found;

    memset(&key, 0, sizeof key);
    key.server_id = server_id;
    key.user_id = user_id;
    if (connections == NULL) {
        HASHCTL control = { .keysize = sizeof key, .entrysize = sizeof(struct connection) };

        connections = hash_create("cairn_fdw connections", 8, &control, HASH_ELEM | HASH_BLOBS);
    }
    connection = hash_search(connections, &key, HASH_ENTER, &is_found);
    if (!is_found) {
        memset((char *)connection + sizeof key, 0, sizeof *connection - sizeof key);
    }
    if (connection->handle != NULL && connection->is_stale && connection->scans == 0 &&
        connection->buffer == NULL) {
        connection_reset(connection);
    }
    if (connection->handle == NULL) {
        connection_start(connection);
    }
    return connection;
}

static void connection_reset(struct connection *connection)
{
    if (connection->waits != NULL) {
        FreeWaitEventSet(connection->waits);
        connection->waits = NULL;
    }
    if (connection->handle != NULL) {
        cairn_close(connection->handle);
        connection->handle = NULL;
    }
}

static void connection_start(struct connection *connection)
{
    ForeignServer *server = GetForeignServer(connection->id.server_id);
    struct cairn_options options = { .program = "cairn_fdw",
                                     .wait = wait_hook,
                                     .wait_ctx = connection };
    char problem[256] = "";
    int status;

    server_options_get(server->serverid, &connection->options);
    options.endpoints = connection->options.endpoints;
    options.timeout_ms = connection->options.timeout_ms;
    if (connection->pending_context == NULL) {
        connection->pending_context = AllocSetContextCreate(
            TopMemoryContext, "cairn_fdw pending error", ALLOCSET_SMALL_SIZES);
    }
    if (connection->server_name != NULL) {
        pfree(connection->server_name);
    }
    connection->server_name = MemoryContextStrdup(TopMemoryContext, server->servername);
    connection->server_hash =
        GetSysCacheHashValue1(FOREIGNSERVEROID, ObjectIdGetDatum(server->serverid));
    connection->mapping_hash = 0;
    connection->is_stale = false;
    status = cairn_open(&options, &connection->handle, problem);
    if (status < 0) {
        connection->handle = NULL;
        ereport(ERROR, (errcode(connection_sqlstate(status)),
                        errmsg("server \"%s\": %s", server->servername, cairn_error(status)->text),
                        problem[0] ? errdetail("%s", problem) : 0));
    }
    connection->options.endpoints = NULL; /* in a shorter-lived context; the library has its copy */
}

void connection_each(void (*visit)(struct connection *connection, void *arg), void *arg)
{
    HASH_SEQ_STATUS walk;
    struct connection *connection;

    if (connections == NULL) {
        return;
    }
    hash_seq_init(&walk, connections);
    while ((connection = hash_seq_search(&walk)) != NULL) {
        visit(connection, arg);
    }
}

static void end_one(struct connection *connection, void *arg)
{
    connection->buffer = NULL;
    if (!connection->options.keep_connections && connection->scans == 0 && connection->depth == 0) {
        connection_reset(connection);
    }
}

void connection_transaction_end(void)
{
    connection_each(end_one, NULL);
}

/* --- Waiting */

static void wait_once(struct connection *connection, int fd, int timeout_ms)
{
    WaitEvent event;

    if (connection->waits == NULL) {
        connection->waits = CreateWaitEventSet(TopMemoryContext, 3);
        AddWaitEventToSet(connection->waits, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
        AddWaitEventToSet(connection->waits, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
        AddWaitEventToSet(connection->waits, WL_SOCKET_READABLE, fd, NULL, NULL);
    }
    if (WaitEventSetWait(connection->waits, timeout_ms, &event, 1, PG_WAIT_EXTENSION) == 1 &&
        event.events == WL_LATCH_SET) {
        ResetLatch(MyLatch);
    }
    CHECK_FOR_INTERRUPTS();
}

static int wait_hook(void *arg, int fd, int timeout_ms)
{
    struct connection *connection = arg;
    MemoryContext context = CurrentMemoryContext;
    volatile int status = 0;

    PG_TRY();
    {
        wait_once(connection, fd, timeout_ms);
    }
    PG_CATCH();
    {
        MemoryContextSwitchTo(connection->pending_context);
        connection->pending = CopyErrorData();
        FlushErrorState();
        status = CAIRN_CANCELLED;
    }
    PG_END_TRY();
    MemoryContextSwitchTo(context);
    return status;
}

void connection_rethrow(struct connection *connection, const char *detail)
{
    ErrorData *pending = connection->pending;

    if (pending == NULL) {
        return;
    }
    connection->pending = NULL;
    if (detail != NULL) {
        pending->detail = MemoryContextStrdup(connection->pending_context, detail);
    }
    /* Throwing copies it; the originals are freed at the next error, there is at most one. */
    ReThrowError(pending);
}

int connection_sqlstate(int status)
{
    const char *state = cairn_error(status)->sqlstate;

    return MAKE_SQLSTATE(state[0], state[1], state[2], state[3], state[4]);
}

void connection_raise(struct connection *connection, int status, const char *detail)
{
    const struct cairn_error_info *info = cairn_error(status);
    char *last = pstrdup(cairn_last_error(connection->handle));
    bool is_unreachable =
        status == CAIRN_CONNECT || status == CAIRN_UNAVAILABLE || status == CAIRN_TIMEOUT;

    connection_rethrow(connection, detail);
    ereport(ERROR, (errcode(connection_sqlstate(status)),
                    errmsg("server \"%s\": %s", connection->server_name, info->text),
                    detail != NULL ? errdetail("%s", detail)
                    : last[0]      ? errdetail("%s (%s)", last, info->name)
                                   : errdetail("%s", info->name),
                    is_unreachable ? errhint("Check that the cluster runs and that the server's "
                                             "option endpoints names its nodes.")
                                   : 0));
}

/* --- Calls */

static void library_enter(struct connection *connection)
{
    CHECK_FOR_INTERRUPTS();
    if (connection->pending == NULL) {
        MemoryContextReset(connection->pending_context);
    }
    connection->depth++;
    connection->round_trips++;
}

static void library_leave(struct connection *connection)
{
    connection->depth--;
}

static bool is_answer(int status)
{
    return status >= 0 || status == CAIRN_NOT_FOUND || status == CAIRN_EXISTS ||
           status == CAIRN_CONDITION_FAILED;
}

int connection_call(struct connection *connection, struct cairn_request *request,
                    struct cairn_result *result)
{
    int status;

    library_enter(connection);
    status = cairn_call(connection->handle, request, result);
    library_leave(connection);
    if (!is_answer(status)) {
        connection_raise(connection, status, NULL);
    }
    return status;
}

int connection_call_many(struct connection *connection, struct cairn_request *requests,
                         size_t count, struct cairn_result *results, bool quiet)
{
    int status;

    library_enter(connection);
    status = cairn_call_many(connection->handle, requests, count, results);
    library_leave(connection);
    if (!quiet && !is_answer(status)) {
        connection_raise(connection, status, NULL);
    }
    return status;
}

struct cairn_scan *connection_scan_open(struct connection *connection,
                                        const struct cairn_scan_options *options)
{
    struct cairn_scan *scan = NULL;
    int status;

    library_enter(connection);
    status = cairn_scan_open(connection->handle, options, &scan);
    library_leave(connection);
    connection->round_trips--; /* opening asks nothing */
    if (status < 0) {
        connection_raise(connection, status, NULL);
    }
    return scan;
}

int connection_scan_next(struct connection *connection, struct cairn_scan *scan,
                         struct cairn_entry *entry)
{
    int status = cairn_scan_try(scan, entry);

    if (status == CAIRN_BUSY) {
        library_enter(connection);
        status = cairn_scan_next(scan, entry);
        library_leave(connection);
    }
    if (status < 0) {
        connection_raise(connection, status, NULL);
    }
    return status;
}

void connection_scan_close(struct connection *connection, struct cairn_scan *scan)
{
    if (connection->depth == 0) {
        cairn_scan_close(scan);
    }
}
