/* write_buffer.c: the writes of a transaction, before they are sent.
 *
 * A skip list of keys in byte order, because scans merge with it in both directions. Every key has
 * its writes, newest first. All writes also form one stack, newest on top, which a subtransaction's
 * rollback cuts.
 *
 * I1: a write is seen by snapshots whose command id is greater than its own: a command never sees
 * its own writes, later ones do. I2: levels on the stack never grow downwards, so a rollback to
 * level n is: pop while level >= n. I3: write_keys are never freed or moved before the transaction
 * ends (scans hold pointers to them); one whose writes were all rolled back stays, empty. I4: only
 * the oldest write of a key carries the condition on what is stored; the later ones build on it.
 *
 * Memory: a child of TopTransactionContext; it is gone with the transaction. */
#include "cairn_fdw.h"

#include "access/xact.h"
#include "common/hashfn.h"
#include "utils/memutils.h"

enum { HEIGHT_MAX = 20 };

struct write_buffer {
    MemoryContext context;
    struct write_key *head; /* no key: before the first */
    struct write_key *tail; /* NULL: empty */
    struct write *top;
    int height;
    size_t count; /* keys that have writes */
    uint64 bytes;
    uint32 seed;
};

static struct write_key *key_new(struct write_buffer *buffer, int height, const char *bytes,
                                 int size)
{
    struct write_key *key = MemoryContextAllocZero(
        buffer->context, offsetof(struct write_key, next) + sizeof(struct write_key *) * height);

    key->height = height;
    key->size = size;
    key->bytes = MemoryContextAlloc(buffer->context, size + 1);
    if (size > 0) {
        memcpy(key->bytes, bytes, size);
    }
    return key;
}

struct write_buffer *write_buffer_get(struct connection *connection)
{
    struct write_buffer *buffer = connection->buffer;
    MemoryContext context;

    if (buffer == NULL) {
        context = AllocSetContextCreate(TopTransactionContext, "cairn_fdw writes",
                                        ALLOCSET_DEFAULT_SIZES);
        buffer = MemoryContextAllocZero(context, sizeof *buffer);
        buffer->context = context;
        buffer->head = key_new(buffer, HEIGHT_MAX, NULL, 0);
        buffer->height = 1;
        buffer->seed = 1;
        connection->buffer = buffer;
    }
    return buffer;
}

/* The last key below `key` on every level. */
static void find_path(struct write_buffer *buffer, const char *key, int size,
                      struct write_key **path)
{
    struct write_key *at = buffer->head;

    for (int level = HEIGHT_MAX - 1; level >= 0; level--) {
        while (level < buffer->height && at->next[level] != NULL &&
               key_compare(at->next[level]->bytes, at->next[level]->size, key, size) < 0) {
            at = at->next[level];
        }
        path[level] = level < buffer->height ? at : buffer->head;
    }
}

struct write_key *write_buffer_first_at_least(struct write_buffer *buffer, const char *key,
                                              int size)
{
    struct write_key *path[HEIGHT_MAX];

    find_path(buffer, key, size, path);
    return path[0]->next[0];
}

struct write_key *write_buffer_last_below(struct write_buffer *buffer, const char *key, int size)
{
    struct write_key *path[HEIGHT_MAX];

    if (size == 0) {
        return buffer->tail;
    }
    find_path(buffer, key, size, path);
    return path[0] == buffer->head ? NULL : path[0];
}

struct write_key *write_buffer_first(struct write_buffer *buffer)
{
    return buffer->head->next[0];
}

struct write_key *write_buffer_find(struct write_buffer *buffer, const char *key, int size)
{
    struct write_key *found = write_buffer_first_at_least(buffer, key, size);

    return found != NULL && key_compare(found->bytes, found->size, key, size) == 0 ? found : NULL;
}

static struct write_key *insert_key(struct write_buffer *buffer, const char *bytes, int size)
{
    struct write_key *path[HEIGHT_MAX], *key;
    int height = 1;

    find_path(buffer, bytes, size, path);
    buffer->seed = murmurhash32(buffer->seed);
    for (uint32 bits = buffer->seed; (bits & 3) == 0 && height < HEIGHT_MAX; bits >>= 2) {
        height++;
    }
    buffer->height = Max(buffer->height, height);
    key = key_new(buffer, height, bytes, size);
    for (int level = 0; level < height; level++) {
        key->next[level] = path[level]->next[level];
        path[level]->next[level] = key;
    }
    key->previous = path[0] == buffer->head ? NULL : path[0];
    if (key->next[0] != NULL) {
        key->next[0]->previous = key;
    } else {
        buffer->tail = key;
    }
    return key;
}

size_t write_buffer_count(const struct write_buffer *buffer)
{
    return buffer->count;
}

uint64 write_buffer_bytes(const struct write_buffer *buffer)
{
    return buffer->bytes;
}

static size_t write_cost(const struct write *write)
{
    return sizeof *write + sizeof *write->key + write->key->size + write->value_size;
}

void write_buffer_add(struct connection *connection, const struct write_request *request)
{
    struct write_buffer *buffer = write_buffer_get(connection);
    struct write_key *key = write_buffer_find(buffer, request->key, request->key_size);
    struct write *write;

    if (buffer->bytes + request->key_size + request->value_size + sizeof *write + sizeof *key >
        (uint64)connection->options.write_bytes_max) {
        ereport(ERROR,
                (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
                 errmsg("the transaction writes more than server \"%s\" allows",
                        connection->server_name),
                 errdetail("The option write_bytes_max is " INT64_FORMAT " bytes.",
                           connection->options.write_bytes_max),
                 errhint("Commit more often, or raise the server's option write_bytes_max.")));
    }
    if (key == NULL) {
        key = insert_key(buffer, request->key, request->key_size);
    }
    write = MemoryContextAllocZero(buffer->context, sizeof *write);
    write->kind = request->kind;
    write->is_insert = request->is_insert;
    write->cid = request->cid;
    write->level = GetCurrentTransactionNestLevel();
    write->relid = request->relid;
    write->condition = request->condition;
    write->version = request->version;
    write->value_size = request->value_size;
    write->value = MemoryContextAllocHuge(buffer->context, request->value_size + 1);
    if (request->value_size > 0) {
        memcpy(write->value, request->value, request->value_size);
    }
    write->key = key;
    write->older = key->newest;
    write->below = buffer->top;
    buffer->count += key->newest == NULL;
    key->newest = write;
    buffer->top = write;
    buffer->bytes += write_cost(write);
}

struct write *write_visible(const struct write_key *key, CommandId curcid)
{
    struct write *write = key->newest;

    while (write != NULL && write->cid >= curcid) {
        write = write->older;
    }
    return write;
}

struct write *write_oldest(const struct write_key *key)
{
    struct write *write = key->newest;

    while (write != NULL && write->older != NULL) {
        write = write->older;
    }
    return write;
}

void write_buffer_subtransaction_abort(struct write_buffer *buffer, int level)
{
    while (buffer->top != NULL && buffer->top->level >= level) {
        struct write *write = buffer->top;

        Assert(write->key->newest == write);
        buffer->bytes -= write_cost(write);
        buffer->top = write->below;
        write->key->newest = write->older;
        buffer->count -= write->older == NULL;
        pfree(write->value);
        pfree(write);
    }
}

void write_buffer_subtransaction_commit(struct write_buffer *buffer, int level)
{
    for (struct write *write = buffer->top; write != NULL && write->level >= level;
         write = write->below) {
        write->level = level - 1;
    }
}
