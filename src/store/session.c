/* Sessions of one replica.
 *
 * A session is found by the hash of its id, and stands in a list ordered by its last use: expiry
 * looks at the list's head only. Its results are an array sorted by number; results arrive nearly
 * in order and leave at the front, so both ends are cheap. A few stand in the session, more in memory of
 * their own until the session is packed. Sessions are a pool's, for they come one by one between writes and stay
 * for minutes: of what a load has taken nearly all goes back to the system.
 *
 * Invariants
 *   I1  Every result's number is >= the session's lowest.
 *   I2  by_use is ordered by last_time.
 *   I3  A number is answered 0 by session_admit at most once while the session lives, and a session
 *       is forgotten only when any retry of its numbers is too late by SESSION_RETRY_US. Its last
 *       use is therefore the later of the entry's time and the client's: a client may have its time
 *       from a node whose clock is far ahead of the primary's, and the log's time may leap there
 *       under the next primary. (By at most SESSION_AHEAD_US, so that a made-up time does not hold
 *       a place for ever.)
 *
 * A packed session (little-endian):
 *
 *   offset size field
 *        0    1 format (1)
 *        1    3 zero
 *        4    4 CRC32C of id and all that follows
 *        8    8 last use (HLC)
 *       16    8 lowest
 *       24    … results: number 8, version 8, time 8, status 4, existed 1, zero 3 */
#include "store/session.h"

#include <stdlib.h>

#include "base/check.h"
#include "base/hash.h"
#include "base/hlc.h"
#include "base/limits.h"
#include "base/mem.h"

enum {
    SESSION_FORMAT = 1,
    SESSION_HEAD_BYTES = 24,
    SESSION_RESULT_BYTES = 32,
    /* What a client with one write under way leaves has its place in the session itself: no other allocation, no other cache line. */
    RESULTS_INLINE = 2,
};

struct session {
    struct session_id id;
    struct session *next_in_chain; /* same hash, another id */
    struct list by_use;
    struct list dirty; /* linked while changed */
    uint64_t last_time;
    uint64_t lowest;
    struct session_result *results; /* own or allocated; results[first … first + count) are alive */
    uint32_t first, count, capacity;
    struct session_result own[RESULTS_INLINE];
};

void session_table_init(struct session_table *table)
{
    *table = (struct session_table){ 0 };
    pool_init(&table->pool, sizeof(struct session));
    list_init(&table->by_use);
    list_init(&table->dirty);
}

static uint64_t hash_id(struct session_id id)
{
    return hash_u64(id.high ^ hash_u64(id.low));
}

static bool id_equal(struct session_id a, struct session_id b)
{
    return a.high == b.high && a.low == b.low;
}

void session_prefetch_place(const struct session_table *table, struct session_id id)
{
    hashtab_prefetch(&table->by_id, hash_id(id));
}

const struct session *session_prefetch(const struct session_table *table, struct session_id id)
{
    const struct session *session = hashtab_find(&table->by_id, hash_id(id));
    if (session) {
        mem_prefetch(session, sizeof *session);
    }
    return session;
}

void session_prefetch_around(const struct session *session)
{
    if (session) {
        __builtin_prefetch(session->by_use.prev);
        __builtin_prefetch(session->by_use.next);
        mem_prefetch(session->results + session->first + session->count,
                     sizeof session->results[0]);
    }
}

static struct session *find(struct session_table *table, struct session_id id)
{
    if (table->recent && id_equal(table->recent->id, id)) {
        return table->recent;
    }
    struct session *session = hashtab_find(&table->by_id, hash_id(id));
    while (session && !id_equal(session->id, id)) {
        session = session->next_in_chain;
    }
    session_prefetch_around(session);
    table->recent = session;
    return session;
}

static void free_results(struct session *session)
{
    if (session->results != session->own) {
        mem_free(session->results);
    }
}

/* Room for one more result behind the last, moving the live ones to the front when half of the
 * array is free. False: there is no memory. */
static bool reserve_result(struct session *session, struct mem_gate *gate)
{
    if (session->first + session->count < session->capacity) {
        return !mem_gate_refuses(gate);
    }
    if (session->first > session->count) {
        memmove(session->results, session->results + session->first,
                session->count * sizeof session->results[0]);
        session->first = 0;
        return true;
    }
    size_t capacity = session->capacity * 2;
    bool is_own = session->results == session->own;
    struct session_result *results =
        mem_try_realloc(gate, is_own ? NULL : session->results, capacity * sizeof *results);
    if (!results) {
        return false;
    }
    if (is_own) {
        memcpy(results, session->own, sizeof session->own);
    }
    session->results = results;
    session->capacity = (uint32_t)capacity;
    return true;
}

/* A spare session with room for a result, and for it in the table. False: there is no memory. */
static bool reserve_session(struct session_table *table)
{
    if (!table->spare) {
        table->spare = pool_try_take(&table->pool, table->gate);
        if (table->spare) {
            *table->spare = (struct session){ .capacity = RESULTS_INLINE };
            table->spare->results = table->spare->own;
        }
    }
    return table->spare && hashtab_try_reserve(&table->by_id, table->gate);
}

/* reserve_session made it. */
static struct session *add(struct session_table *table, struct session_id id)
{
    struct session *session = table->spare;
    table->spare = NULL;
    session->id = id;
    session->next_in_chain = hashtab_put(&table->by_id, hash_id(id), session);
    list_append(&table->by_use, &session->by_use);
    table->oldest_time = 0; /* its time is not known here */
    table->count++;
    return session;
}

bool session_reserve(struct session_table *table, const struct command *command)
{
    struct session *session = find(table, command->session);
    return session ? reserve_result(session, table->gate) : reserve_session(table);
}

void session_table_fini(struct session_table *table)
{
    struct list *link;
    while ((link = list_take_first(&table->by_use)) != NULL) {
        free_results(container_of(link, struct session, by_use));
    }
    pool_fini(&table->pool);
    hashtab_fini(&table->by_id);
    buf_fini(&table->removed);
}

static void mark_dirty(struct session_table *table, struct session *session)
{
    if (!list_is_linked(&session->dirty)) {
        list_append(&table->dirty, &session->dirty);
    }
}

static void unchain(struct session_table *table, struct session *session)
{
    uint64_t hash = hash_id(session->id);
    struct session *head = hashtab_take(&table->by_id, hash);
    CHECK(head != NULL);
    struct session **at = &head;
    while (*at != session) {
        at = &(*at)->next_in_chain;
        CHECK(*at != NULL);
    }
    *at = session->next_in_chain;
    if (head) {
        hashtab_put(&table->by_id, hash, head);
    }
}

static void pack_id(struct session_id id, uint8_t *out)
{
    put_u64(out, __builtin_bswap64(id.high));
    put_u64(out + 8, __builtin_bswap64(id.low));
}

/* False: there is no memory to note it. */
static bool forget(struct session_table *table, struct session *session)
{
    if (!buf_try_reserve(&table->removed, table->gate, SESSION_ID_BYTES)) {
        return false;
    }
    pack_id(session->id, buf_extend(&table->removed, SESSION_ID_BYTES));
    unchain(table, session);
    list_remove(&session->by_use);
    list_remove(&session->dirty);
    table->count--;
    table->recent = NULL;
    free_results(session);
    pool_give(&table->pool, session);
    return true;
}

static bool is_kept(uint64_t last_time, uint64_t time)
{
    return time <= last_time || time - last_time < hlc_from_us(SESSION_KEEP_US);
}

bool session_table_expire(struct session_table *table, uint64_t time)
{
    if (is_kept(table->oldest_time, time)) {
        return true;
    }
    while (!list_is_empty(&table->by_use)) {
        struct session *oldest = container_of(table->by_use.next, struct session, by_use);
        if (is_kept(oldest->last_time, time)) {
            table->oldest_time = oldest->last_time; /* I2 */
            return true;
        }
        if (!forget(table, oldest)) {
            return false;
        }
    }
    return true;
}

/* Position of the first result whose number is >= number. New numbers belong at the end nearly
 * always: look there first. */
static uint32_t position_of(const struct session *session, uint64_t number)
{
    uint32_t at = session->count;
    while (at > 0 && session->results[session->first + at - 1].number >= number) {
        at--;
    }
    return at;
}

static struct session_result *find_result(const struct session *session, uint64_t number)
{
    uint32_t at = position_of(session, number);
    if (at == session->count) {
        return NULL;
    }
    struct session_result *result = &session->results[session->first + at];
    return result->number == number ? result : NULL;
}

static void trim(struct session_table *table, struct session *session, uint64_t lowest)
{
    if (lowest <= session->lowest) {
        return;
    }
    session->lowest = lowest;
    while (session->count > 0 && session->results[session->first].number < lowest) {
        session->first++;
        session->count--;
    }
    if (session->count == 0) {
        session->first = 0;
    }
    mark_dirty(table, session);
}

static bool is_late(const struct command *command)
{
    return command->client_time != 0 && command->time > command->client_time &&
           command->time - command->client_time > hlc_from_us(SESSION_RETRY_US);
}

int session_admit(struct session_table *table, const struct command *command,
                  struct session_result *known)
{
    CHECK(command->number != 0);
    struct session *session = find(table, command->session);
    struct session_result *result = session ? find_result(session, command->number) : NULL;
    if (result) {
        *known = *result;
        return 1;
    }
    if (command->number < command->lowest || (session && command->number < session->lowest)) {
        return ERR_UNKNOWN_OUTCOME;
    }
    if (is_late(command)) {
        return ERR_LATE;
    }
    if (!session) {
        return table->count >= LIMIT_SESSIONS ? ERR_BUSY : 0;
    }
    trim(table, session, command->lowest);
    return session->count >= LIMIT_SESSION_RESULTS ? ERR_BUSY : 0;
}

/* reserve_result made room. */
static void insert_result(struct session *session, const struct session_result *result)
{
    uint32_t at = position_of(session, result->number);
    CHECK(session->first + session->count < session->capacity);
    struct session_result *place = &session->results[session->first + at];
    memmove(place + 1, place, (session->count - at) * sizeof *place);
    *place = *result;
    session->count++;
}

/* I3 */
static uint64_t last_use(const struct command *command)
{
    uint64_t latest = command->time + hlc_from_us(SESSION_AHEAD_US);
    uint64_t client_time = command->client_time < latest ? command->client_time : latest;
    return command->time > client_time ? command->time : client_time;
}

/* Puts the session where I2 wants it: at the end, nearly always. */
static void use(struct session_table *table, struct session *session, uint64_t time)
{
    session->last_time = time > session->last_time ? time : session->last_time;
    list_remove(&session->by_use);
    struct list *after = table->by_use.prev;
    while (after != &table->by_use &&
           container_of(after, struct session, by_use)->last_time > session->last_time) {
        after = after->prev;
    }
    list_append(after->next, &session->by_use);
}

void session_record(struct session_table *table, const struct command *command,
                    const struct session_result *result)
{
    struct session *session = find(table, command->session);
    if (!session) {
        CHECK(table->count < LIMIT_SESSIONS);
        session = add(table, command->session);
        session->lowest = command->lowest;
    }
    CHECK(result->number == command->number && result->number >= session->lowest); /* I1 */
    CHECK(session->count < LIMIT_SESSION_RESULTS);
    insert_result(session, result);
    use(table, session, last_use(command));
    mark_dirty(table, session);
}

static size_t packed_bytes(const struct session *session)
{
    return SESSION_HEAD_BYTES + (size_t)session->count * SESSION_RESULT_BYTES;
}

/* A change in the buffer: id 16, value size 4, value. */
static void pack_session(const struct session *session, struct buf *changes)
{
    size_t size = packed_bytes(session);
    uint8_t *at = buf_extend(changes, SESSION_ID_BYTES + 4 + size);
    pack_id(session->id, at);
    put_u32(at + SESSION_ID_BYTES, (uint32_t)size);
    uint8_t *value = at + SESSION_ID_BYTES + 4;
    put_u32(value, SESSION_FORMAT);
    put_u64(value + 8, session->last_time);
    put_u64(value + 16, session->lowest);
    for (uint32_t i = 0; i < session->count; i++) {
        const struct session_result *result = &session->results[session->first + i];
        uint8_t *out = value + SESSION_HEAD_BYTES + (size_t)i * SESSION_RESULT_BYTES;
        put_u64(out, result->number);
        put_u64(out + 8, result->version);
        put_u64(out + 16, result->time);
        put_u32(out + 24, (uint32_t)result->status);
        put_u32(out + 28, result->existed);
    }
    uint32_t crc = hash_crc32c(hash_crc32c(0, at, SESSION_ID_BYTES), value + 8, size - 8);
    put_u32(value + 4, crc);
}

/* Results that fit into the session again stand there: what a burst left behind would keep a page each from the system. */
static void shrink_results(struct session *session)
{
    if (session->results == session->own || session->count > RESULTS_INLINE) {
        return;
    }
    struct session_result *results = session->results;
    memcpy(session->own, results + session->first, session->count * sizeof *results);
    session->results = session->own;
    session->capacity = RESULTS_INLINE;
    session->first = 0;
    mem_free(results);
}

uint64_t session_table_digest(const struct session_table *table)
{
    struct buf packed = { 0 };
    uint64_t digest = 0;
    LIST_FOR(link, &table->by_use)
    {
        buf_clear(&packed);
        pack_session(container_of(link, struct session, by_use), &packed);
        digest += hash_bytes(packed.data, packed.size);
    }
    buf_fini(&packed);
    return digest;
}

size_t session_table_pack_bytes(const struct session_table *table)
{
    enum { CHANGE_BYTES = SESSION_ID_BYTES + 4 };
    size_t bytes = table->removed.size / SESSION_ID_BYTES * CHANGE_BYTES;
    LIST_FOR(link, &table->dirty)
    {
        bytes += CHANGE_BYTES + packed_bytes(container_of(link, struct session, dirty));
    }
    return bytes;
}

void session_table_pack(struct session_table *table, struct buf *changes)
{
    /* Removals first: a forgotten session may have come back since. */
    for (size_t i = 0; i < table->removed.size; i += SESSION_ID_BYTES) {
        uint8_t *at = buf_extend(changes, SESSION_ID_BYTES + 4);
        memcpy(at, table->removed.data + i, SESSION_ID_BYTES);
        put_u32(at + SESSION_ID_BYTES, 0);
    }
    buf_clear(&table->removed);
    struct list *link;
    while ((link = list_take_first(&table->dirty)) != NULL) {
        struct session *session = container_of(link, struct session, dirty);
        pack_session(session, changes);
        shrink_results(session);
    }
}

bool session_change_next(struct reader *reader, struct session_change *change)
{
    if (reader->left == 0) {
        return false;
    }
    change->id = reader_span(reader, SESSION_ID_BYTES);
    change->value = reader_span(reader, reader_u32(reader));
    CHECK(!reader->bad); /* session_table_pack wrote it, in this process */
    return true;
}

static int load_results(struct session *session, struct reader *reader, struct mem_gate *gate)
{
    while (reader->left > 0) {
        struct session_result result = { .number = reader_u64(reader),
                                         .version = reader_u64(reader),
                                         .time = reader_u64(reader),
                                         .status = (int32_t)reader_u32(reader) };
        result.existed = reader_u32(reader) != 0;
        bool is_ascending =
            session->count == 0 ||
            session->results[session->first + session->count - 1].number < result.number;
        if (reader->bad || !is_ascending || result.number < session->lowest ||
            session->count == LIMIT_SESSION_RESULTS) {
            return ERR_CORRUPT;
        }
        if (!reserve_result(session, gate)) {
            return ERR_NO_MEMORY;
        }
        insert_result(session, &result);
    }
    return 0;
}

int session_table_load(struct session_table *table, struct span id, struct span value,
                       struct err *err)
{
    if (id.size != SESSION_ID_BYTES || value.size < SESSION_HEAD_BYTES) {
        return err_set(err, ERR_CORRUPT, "stored session is too short");
    }
    if (get_u32(value.data) != SESSION_FORMAT) {
        return err_set(err, ERR_FORMAT, "stored session of format %u", get_u32(value.data));
    }
    if (get_u32(value.data + 4) !=
        hash_crc32c(hash_crc32c(0, id.data, id.size), value.data + 8, value.size - 8)) {
        return err_set(err, ERR_CORRUPT, "stored session: checksum does not match");
    }
    struct session_id session_id = { __builtin_bswap64(get_u64(id.data)),
                                     __builtin_bswap64(get_u64(id.data + 8)) };
    if (find(table, session_id) || table->count == LIMIT_SESSIONS) {
        return err_set(err, ERR_CORRUPT, "stored session: too many, or twice");
    }
    if (!reserve_session(table)) {
        return err_set(err, ERR_NO_MEMORY, "no memory for a stored session");
    }
    struct session *session = add(table, session_id);
    struct reader reader = reader_of(span_of(value.data + 8, value.size - 8));
    session->last_time = reader_u64(&reader);
    session->lowest = reader_u64(&reader);
    int rc = load_results(session, &reader, table->gate);
    if (rc != 0) {
        return err_set(err, rc,
                       rc == ERR_NO_MEMORY ? "no memory for a stored session"
                                           : "stored session: malformed results");
    }
    return 0;
}

static int compare_last_time(const void *a, const void *b)
{
    const struct session *const *left = a, *const *right = b;
    return ((*left)->last_time > (*right)->last_time) - ((*left)->last_time < (*right)->last_time);
}

void session_table_load_end(struct session_table *table)
{
    if (table->count == 0) {
        return;
    }
    struct session **sorted = mem_alloc(table->count * sizeof *sorted);
    size_t count = 0;
    struct list *link;
    while ((link = list_take_first(&table->by_use)) != NULL) {
        sorted[count++] = container_of(link, struct session, by_use);
    }
    CHECK(count == table->count);
    qsort(sorted, count, sizeof sorted[0], compare_last_time);
    for (size_t i = 0; i < count; i++) {
        list_append(&table->by_use, &sorted[i]->by_use);
    }
    mem_free(sorted);
}

int session_check(struct span id, struct span value, struct err *err)
{
    struct session_table table;
    session_table_init(&table);
    int rc = session_table_load(&table, id, value, err);
    session_table_fini(&table);
    return rc;
}
