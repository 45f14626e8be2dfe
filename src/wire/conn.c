/* Frames over a byte stream.
 *
 * Out: frames are packed into a gathering batch: a buffer, and between stretches of it references
 * to large blobs. At the end of the turn the batch becomes the flying one and is given to the env
 * in a single write; what is sent meanwhile gathers in the other batch, and follows when the env
 * says that it is done.
 *
 * In: frames are parsed where the env read them. Only an incomplete rest is copied, into a buffer
 * that is made as large as the frame will be, so a large frame is copied once and a small one not
 * at all.
 *
 *   I1  At most one write is in flight (is_writing); its bytes and blobs stay in `flying` until
 *       on_written or on_close.
 *   I2  `in` holds either less than one frame, or, while has_backlog, frames that wait because
 *       reading was paused.
 *   I3  After is_closing was set nothing is queued and no frame is told; on_close is told exactly
 *       once, then the conn is freed.
 *   I4  out_bytes is what gathers plus what flies.
 *   I5  conn->parts has room for all parts of either batch, so that a flush needs no memory.
 *
 *   connecting → open → closing → (on_close) freed          raw_open; conn_close, conn_fail; raw_close */
#include "wire/conn.h"

#include <stdio.h>

#include "base/check.h"
#include "base/hash.h"

enum {
    CONN_REFERENCE_BYTES =
        4 << 10, /* smaller pieces are cheaper to copy than to carry as a part of their own */
    CONN_KEEP_BYTES = 256 << 10, /* a larger buffer is given back when it has become empty */
};

/* In a batch: a blob's bytes that go out when the buffer was sent up to bytes_end. */
struct reference {
    size_t bytes_end;
    struct span span;
    struct blob *blob;
};

struct batch {
    struct buf bytes;
    struct reference *references;
    size_t count, capacity;
    size_t size; /* of bytes and references together */
};

struct conn {
    struct env *env;
    struct env_conn *raw;
    const struct conn_events *events;
    void *ctx;
    struct batch gathering, flying;
    bool
        has_open; /* a frame at open_at in gathering.bytes, its end, is not finished: conn_extend */
    size_t open_at;
    struct span *parts; /* scratch for env_conn_write */
    size_t parts_capacity;
    size_t out_bytes;
    struct env_task flush;
    struct buf in;
    struct env_task resume; /* works off the backlog */
    bool is_open, is_writing, is_paused, has_backlog, is_closing;
    int status; /* why we closed; 0 */
    char reason[sizeof((struct err *)0)->text];
};

/* --- Batches */

static void batch_clear(struct batch *batch)
{
    for (size_t i = 0; i < batch->count; i++) {
        blob_unref(batch->references[i].blob);
    }
    batch->count = 0;
    batch->size = 0;
    buf_clear(&batch->bytes);
    if (batch->bytes.capacity > CONN_KEEP_BYTES) {
        buf_fini(&batch->bytes);
    }
}

static void batch_fini(struct batch *batch)
{
    batch_clear(batch);
    buf_fini(&batch->bytes);
    mem_free(batch->references);
}

/* conn_reserve made room for it. */
static void batch_refer(struct batch *batch, struct span span, struct blob *blob)
{
    CHECK(span.data >= blob->data && span.data + span.size <= blob->data + blob->size);
    CHECK(batch->count < batch->capacity);
    batch->references[batch->count++] =
        (struct reference){ batch->bytes.size, span, blob_ref(blob) };
    batch->size += span.size;
}

/* The batch as parts for one write, in conn->parts; returns their count. */
static size_t batch_parts(const struct batch *batch, struct conn *conn)
{
    size_t count = 0, done = 0;

    CHECK(2 * batch->count + 1 <= conn->parts_capacity);
    for (size_t i = 0; i < batch->count; i++) {
        const struct reference *reference = &batch->references[i];
        if (reference->bytes_end > done) {
            conn->parts[count++] = span_of(batch->bytes.data + done, reference->bytes_end - done);
            done = reference->bytes_end;
        }
        conn->parts[count++] = reference->span;
    }
    if (batch->bytes.size > done) {
        conn->parts[count++] = span_of(batch->bytes.data + done, batch->bytes.size - done);
    }
    return count;
}

/* --- Out */

static void conn_finish_open(struct conn *conn)
{
    if (conn->has_open) {
        conn->has_open = false;
        frame_pack_close(&conn->gathering.bytes, conn->open_at);
    }
}

static void conn_flush(struct conn *conn)
{
    if (!conn->is_open || conn->is_writing || !conn->gathering.size) {
        return;
    }
    conn_finish_open(conn);
    struct batch empty = conn->flying;
    conn->flying = conn->gathering;
    conn->gathering = empty;
    conn->is_writing = true;
    /* A failure is followed by raw_close, which tells it. */
    size_t count = batch_parts(&conn->flying, conn);
    env_conn_write(conn->env, conn->raw, conn->parts, count);
}

static void flush_run(struct env_task *task)
{
    struct conn *conn = container_of(task, struct conn, flush);

    if (!conn->is_closing) {
        conn_flush(conn);
    }
}

static void raw_written(void *ctx, struct env_conn *raw)
{
    struct conn *conn = ctx;

    CHECK(conn->is_writing && conn->out_bytes >= conn->flying.size);
    conn->is_writing = false;
    conn->out_bytes -= conn->flying.size;
    batch_clear(&conn->flying);
    if (conn->gathering.size) {
        env_defer(conn->env, &conn->flush);
    }
}

static bool is_referred(const struct conn_piece *piece)
{
    return piece->blob && piece->bytes.size >= CONN_REFERENCE_BYTES;
}

/* Room for a frame in the gathering batch: bytes that are copied, references, and the parts of the write that will take them (I5).
 * False: there is no memory. */
static bool conn_reserve(struct conn *conn, size_t bytes, size_t references)
{
    struct mem_gate *gate = env_gate(conn->env, MEM_CONN);
    struct batch *batch = &conn->gathering;
    size_t count = batch->count + references;

    if (!buf_try_reserve(&batch->bytes, gate, bytes)) {
        return false;
    }
    if (count > batch->capacity) {
        size_t capacity = mem_try_grow(gate, &batch->references, batch->capacity, count,
                                       sizeof *batch->references);
        if (!capacity) {
            return false;
        }
        batch->capacity = capacity;
    }
    if (2 * count + 1 > conn->parts_capacity) {
        size_t capacity = mem_try_grow(gate, &conn->parts, conn->parts_capacity, 2 * count + 1,
                                       sizeof *conn->parts);
        if (!capacity) {
            return false;
        }
        conn->parts_capacity = capacity;
    }
    return true;
}

/* Goes on with the sum over a piece. Nothing of a summed blob is read for it. */
static uint32_t sum_piece(uint32_t crc, const struct conn_piece *piece)
{
    const struct blob *blob = piece->blob;
    bool is_known = blob && blob->is_summed && piece->bytes.size == blob->size;
    return is_known ? hash_crc32c_join(crc, blob->crc, blob->size)
                    : hash_crc32c(crc, piece->bytes.data, piece->bytes.size);
}

bool conn_try_send_pieces(struct conn *conn, const struct frame *frame,
                          const struct conn_piece *pieces, size_t count)
{
    struct batch *batch = &conn->gathering;
    size_t before = batch->size, bytes_before = batch->bytes.size, referred_bytes = 0;
    size_t payload_bytes = 0, referred = 0, at;

    if (conn->is_closing) {
        return true;
    }
    for (size_t i = 0; i < count; i++) {
        CHECK(!__builtin_add_overflow(payload_bytes, pieces[i].bytes.size, &payload_bytes));
        if (is_referred(&pieces[i])) {
            referred_bytes += pieces[i].bytes.size;
            referred++;
        }
    }
    if (!conn_reserve(conn,
                      FRAME_HEADER_BYTES + frame->message.size + payload_bytes - referred_bytes,
                      referred)) {
        return false;
    }
    conn_finish_open(conn);
    uint32_t crc = frame_pack_begin(frame, payload_bytes, &batch->bytes, &at);
    for (size_t i = 0; i < count; i++) {
        struct span bytes = pieces[i].bytes;
        crc = sum_piece(crc, &pieces[i]);
        if (is_referred(&pieces[i])) {
            batch_refer(batch, bytes, pieces[i].blob);
        } else {
            buf_append_span(&batch->bytes, bytes);
        }
    }
    frame_pack_finish(&batch->bytes, at, crc);
    batch->size = before + (batch->bytes.size - bytes_before) + referred_bytes;
    conn->out_bytes += batch->size - before;
    env_defer(conn->env, &conn->flush);
    return true;
}

/* Closes because of what the peer sent, or for want of memory. */
static void conn_fail(struct conn *conn, int status, const char *reason)
{
    if (!conn->is_closing) {
        conn->status = status;
        snprintf(conn->reason, sizeof conn->reason, "%s", reason);
        conn_close(conn);
    }
}

void conn_send_pieces(struct conn *conn, const struct frame *frame, const struct conn_piece *pieces,
                      size_t count)
{
    if (!conn_try_send_pieces(conn, frame, pieces, count)) {
        conn_fail(conn, ERR_NO_MEMORY, "no memory for what was to be sent");
    }
}

void conn_send(struct conn *conn, const struct frame *frame, struct blob *payload_blob)
{
    struct conn_piece piece = { frame->payload, payload_blob };

    conn_send_pieces(conn, frame, &piece, 1);
}

uint8_t *conn_extend(struct conn *conn, const struct frame *head, size_t size)
{
    struct batch *batch = &conn->gathering;
    size_t before = batch->bytes.size;

    CHECK(size <= CONN_OPEN_BYTES / 2);
    bool has_room = conn->has_open && before - conn->open_at + size <= CONN_OPEN_BYTES;
    if (conn->is_closing || (!has_room && !head)) {
        return NULL;
    }
    if (!conn_reserve(conn, FRAME_HEADER_BYTES + size, 0)) {
        conn_fail(conn, ERR_NO_MEMORY, "no memory for what was to be sent");
        return NULL;
    }
    if (!has_room) {
        CHECK(head->message.size == 0 && head->payload.size == 0);
        conn_finish_open(conn);
        frame_pack_begin(head, 0, &batch->bytes, &conn->open_at);
        conn->has_open = true;
        env_defer(conn->env, &conn->flush);
    }
    uint8_t *room = buf_extend(&batch->bytes, size);
    batch->size += batch->bytes.size - before;
    conn->out_bytes += batch->bytes.size - before;
    return room;
}

size_t conn_out_bytes(const struct conn *conn)
{
    return conn->out_bytes;
}

/* --- In */

/* Room in `in`; without memory the connection closes. */
static bool in_reserve(struct conn *conn, size_t more)
{
    if (buf_try_reserve(&conn->in, env_gate(conn->env, MEM_CONN), more)) {
        return true;
    }
    conn_fail(conn, ERR_NO_MEMORY, "no memory for what it sends");
    return false;
}

/* Tells the frames at the beginning of data, until the data ends in the middle of one, or reading
 * is paused, or the connection closes. Returns how many bytes are done with; *need as frame_parse
 * says. */
static size_t conn_tell(struct conn *conn, struct span data, size_t *need)
{
    size_t done = 0;

    *need = FRAME_HEADER_BYTES;
    while (done < data.size && !conn->is_paused && !conn->is_closing) {
        struct frame frame;
        struct err err;
        int64_t size = frame_parse(span_of(data.data + done, data.size - done), &frame, need, &err);
        if (size < 0) {
            conn_fail(conn, (int)size, err.text);
            break;
        }
        if (size == 0) {
            break;
        }
        done += (size_t)size;
        if (conn->events->on_frame) {
            conn->events->on_frame(conn->ctx, conn, &frame);
        }
    }
    return done;
}

static void in_clear(struct conn *conn)
{
    buf_clear(&conn->in);
    if (conn->in.capacity > CONN_KEEP_BYTES) {
        buf_fini(&conn->in);
    }
}

/* Completes the frame whose beginning is in `in`, and tells it; takes what it needs from data and
 * returns how much that was. */
static size_t in_complete(struct conn *conn, struct span data)
{
    size_t taken = 0;
    size_t need;

    conn_tell(conn, buf_span(&conn->in),
              &need); /* tells nothing (I2), but says how much is needed */
    while (taken < data.size && conn->in.size && !conn->is_closing) {
        size_t more =
            need - conn->in.size < data.size - taken ? need - conn->in.size : data.size - taken;
        if (!in_reserve(conn, need - conn->in.size)) {
            break;
        }
        buf_append(&conn->in, data.data + taken, more);
        taken += more;
        if (conn->in.size == need && conn_tell(conn, buf_span(&conn->in), &need)) {
            in_clear(conn);
        }
    }
    return taken;
}

/* Keeps what can't be told yet. While paused that may be whole frames: they wait for the resume
 * task. */
static void in_keep(struct conn *conn, struct span rest, size_t need)
{
    if (rest.size && !conn->is_closing && in_reserve(conn, need > rest.size ? need : rest.size)) {
        buf_append_span(&conn->in, rest);
        conn->has_backlog = conn->is_paused;
    }
}

static void raw_data(void *ctx, struct env_conn *raw, struct span data)
{
    struct conn *conn = ctx;
    size_t need = FRAME_HEADER_BYTES;

    if (conn->is_closing) {
        return;
    }
    if (conn->has_backlog || conn->is_paused) { /* resumed, but the task has not run yet */
        if (in_reserve(conn, data.size)) {
            buf_append_span(&conn->in, data);
            conn->has_backlog = true;
        }
        return;
    }
    size_t done = conn->in.size ? in_complete(conn, data) : 0;
    struct span rest = span_of(data.data + done, data.size - done);
    if (rest.size && !conn->in.size && !conn->is_closing) {
        done = conn_tell(conn, rest, &need);
        in_keep(conn, span_of(rest.data + done, rest.size - done), need);
    }
}

static void resume_run(struct env_task *task)
{
    struct conn *conn = container_of(task, struct conn, resume);
    size_t need;

    if (conn->is_paused || conn->is_closing || !conn->has_backlog) {
        return;
    }
    conn->has_backlog = false;
    size_t done = conn_tell(conn, buf_span(&conn->in), &need);
    buf_consume(&conn->in, done);
    conn->has_backlog = conn->is_paused && conn->in.size;
    if (!conn->in.size) {
        in_clear(conn);
    }
}

void conn_pause(struct conn *conn, bool paused)
{
    if (conn->is_closing || conn->is_paused == paused) {
        return;
    }
    conn->is_paused = paused;
    env_conn_pause(conn->env, conn->raw, paused);
    if (!paused && conn->has_backlog) {
        env_defer(conn->env, &conn->resume);
    }
}

/* --- Life */

static void raw_open(void *ctx, struct env_conn *raw)
{
    struct conn *conn = ctx;

    conn->is_open = true;
    if (conn->events->on_open) {
        conn->events->on_open(conn->ctx, conn);
    }
    if (!conn->is_closing && conn->gathering.size) {
        env_defer(conn->env, &conn->flush);
    }
}

static void conn_free(struct conn *conn)
{
    list_remove(&conn->flush.link);
    list_remove(&conn->resume.link);
    batch_fini(&conn->gathering);
    batch_fini(&conn->flying);
    mem_free(conn->parts);
    buf_fini(&conn->in);
    mem_free(conn);
}

static void raw_close(void *ctx, struct env_conn *raw, int status)
{
    struct conn *conn = ctx;
    const char *reason = conn->reason;

    if (conn->is_closing) { /* our doing */
        status = conn->status;
        reason = conn->reason[0] ? conn->reason : "closed here";
    } else if (status == 0 && conn->in.size) {
        status = ERR_CLOSED;
        reason = "closed by the peer in the middle of a frame";
    } else {
        reason = status ? err_info(status)->text : "closed by the peer";
    }
    conn->is_closing = true;
    if (conn->events->on_close) {
        conn->events->on_close(conn->ctx, conn, status, reason);
    }
    conn_free(conn);
}

static const struct env_conn_events raw_events = { raw_open, raw_data, raw_written, raw_close };

static struct conn *conn_new(struct env *env, const struct conn_events *events, void *ctx)
{
    struct conn *conn = MEM_TRY_NEW(env_gate(env, MEM_CONN), struct conn);

    if (!conn) {
        return NULL;
    }
    conn->env = env;
    conn->events = events;
    conn->ctx = ctx;
    conn->flush.run = flush_run;
    conn->resume.run = resume_run;
    return conn;
}

struct conn *conn_accept(struct env *env, struct env_conn *raw, const struct conn_events *events,
                         void *ctx)
{
    struct conn *conn = conn_new(env, events, ctx);

    if (!conn) {
        return NULL;
    }
    conn->raw = raw;
    conn->is_open = true;
    env_conn_attach(env, raw, &raw_events, conn);
    return conn;
}

int conn_connect(struct env *env, const char *address, const struct conn_events *events, void *ctx,
                 struct conn **out, struct err *err)
{
    struct conn *conn = conn_new(env, events, ctx);

    if (!conn) {
        return err_set(err, ERR_NO_MEMORY, "no memory for a connection");
    }
    int status = env_connect(env, address, &raw_events, conn, &conn->raw, err);
    if (status) {
        conn_free(conn);
        return status;
    }
    *out = conn;
    return 0;
}

void conn_attach(struct conn *conn, const struct conn_events *events, void *ctx)
{
    conn->events = events;
    conn->ctx = ctx;
}

const char *conn_peer(const struct conn *conn)
{
    return env_conn_peer(conn->env, conn->raw);
}

void conn_close(struct conn *conn)
{
    if (conn->is_closing) {
        return;
    }
    conn_flush(conn); /* e.g. the answer that says why */
    conn->is_closing = true;
    env_conn_close(conn->env, conn->raw);
}
