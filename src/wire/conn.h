/* A framed connection over env: cuts incoming bytes into frames, gathers outgoing frames into one write per loop turn.
 * Small payloads are copied into the gathering buffer; large blobs travel by reference.
 *
 * Life cycle: conn_accept or conn_connect → (on_open) → on_frame… → on_close, exactly once and the last; the struct conn is
 * freed by the module after on_close returned. conn_close may be called at any time, also inside callbacks. */
#ifndef WIRE_CONN_H
#define WIRE_CONN_H

#include "base/limits.h"
#include "base/logger.h"
#include "base/mem.h"
#include "env/env.h"
#include "wire/frame.h"

struct conn;

struct conn_events {
    void (*on_open)(void *ctx, struct conn *conn); /* outgoing ones only */
    /* One whole frame, valid during the call. */
    void (*on_frame)(void *ctx, struct conn *conn, const struct frame *frame);
    /* status: 0, or ERR_PROTOCOL and the like when the peer sent rubbish, or ERR_CLOSED, ERR_CONNECT. */
    void (*on_close)(void *ctx, struct conn *conn, int status, const char *reason);
};

/* NULL: there is no memory for it, and raw is still the caller's. */
struct conn *conn_accept(struct env *env, struct env_conn *raw, const struct conn_events *events, void *ctx);
int conn_connect(struct env *env, const char *address, const struct conn_events *events, void *ctx, struct conn **out,
                 struct err *err);

/* Hands the connection to another owner: later events go there. Allowed inside callbacks; a frame that follows in the same read
 * already goes to the new owner. */
void conn_attach(struct conn *conn, const struct conn_events *events, void *ctx);

/* Where there is no memory for what is to be sent, or for a frame that is half received, the connection closes with ERR_NO_MEMORY:
 * nothing is left out of a stream, and who waits for an answer learns that none comes. */

/* Queues a frame; goes out at the end of the turn. frame->payload is copied unless payload_blob is given, in which case
 * frame->payload must lie within that blob, and the blob is referenced until it is sent. Silently dropped when closing. */
void conn_send(struct conn *conn, const struct frame *frame, struct blob *payload_blob);
/* Like conn_send for a payload in several pieces (frame->payload is ignored), e.g. many log entries: pieces within a
 * non-NULL blob of at least 4 KiB are sent by reference, others are copied. */
struct conn_piece {
    struct span bytes;
    struct blob *blob;
};
void conn_send_pieces(struct conn *conn, const struct frame *frame, const struct conn_piece *pieces, size_t count);
/* The same for what is repeated anyway. False: there is no memory, nothing was queued, and the connection stays. */
bool conn_try_send_pieces(struct conn *conn, const struct frame *frame, const struct conn_piece *pieces, size_t count);
/* For answers of which many leave together: a frame that stays open to more payload until another frame is queued or the turn ends.
 * Returns room for `size` bytes at the end of its payload, to be filled at once; head, without message and payload, begins one where
 * none is open. NULL: none is open (head NULL) or the open one is full; or, with a head, the connection closes, for want of memory
 * for one. `size` is at most half of CONN_OPEN_BYTES. */
enum { CONN_OPEN_BYTES = 64 << 10 }; /* of such a frame at most */
uint8_t *conn_extend(struct conn *conn, const struct frame *head, size_t size);
/* Bytes queued and not yet taken by the operating system. */
size_t conn_out_bytes(const struct conn *conn);
/* How many bytes may be queued yet before that comes to LIMIT_CONN_OUT_BYTES. */
static inline size_t conn_room(const struct conn *conn)
{
    size_t queued = conn_out_bytes(conn);
    return queued < LIMIT_CONN_OUT_BYTES ? LIMIT_CONN_OUT_BYTES - queued : 0;
}
/* Stops or resumes on_frame, at once: frames that were read already wait too. */
void conn_pause(struct conn *conn, bool paused);
const char *conn_peer(const struct conn *conn);
/* Gives what is queued to the operating system as far as it takes it now, then closes; on_close follows later, nothing else does.
 * Members of struct conn_events may be NULL: an owner that goes away attaches such and closes. */
void conn_close(struct conn *conn);

#endif
