/* The frame: what travels between clients and nodes, and between nodes. A fixed header, a protobuf message, and raw
 * payload bytes, so that values never pass through the encoder.
 *
 *   offset size field
 *        0    4 magic "CRN1"
 *        4    1 version (FRAME_VERSION)
 *        5    1 type (enum frame_type)
 *        6    2 verb (tbl/verbs.def; 0 where none applies)
 *        8    2 flags (enum frame_flags)
 *       10    1 hops: how often forwarded
 *       11    1 zero
 *       12    4 status: 0 or ERR_…, in responses
 *       16    4 message size, bytes of protobuf
 *       20    4 payload size, bytes
 *       24    8 request id: chosen by the asking side, repeated in the response
 *       32    4 deadline: ms left when sent, 0 = none
 *       36    4 CRC32C of message and payload
 *       40    8 trace id, 0 = none
 *       48    8 epoch of the topology that the sender holds, 0 = none
 *       56    8 time: newest cluster time (HLC) that the sender knows, 0 = none
 *       64    4 zero (room for the principal's size of a forwarded request)
 *       68    4 CRC32C of bytes 0–67
 *       72      message, then payload
 */
#ifndef WIRE_FRAME_H
#define WIRE_FRAME_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/err.h"

enum { FRAME_HEADER_BYTES = 72, FRAME_VERSION = 1 };

enum frame_type {
    FRAME_HELLO = 1,    /* first frame of the side that connected; message Hello */
    FRAME_HELLO_OK = 2, /* its answer; message Hello; status != 0: refused, then closed */
    FRAME_REQUEST = 3,
    FRAME_RESPONSE = 4,
    FRAME_RAFT = 5, /* node to node: fixed Raft records in the payload, see raft/peers.h */
    FRAME_TYPE_MAX = 5,
};

/* The verbs by name, from the table. */
enum frame_verb {
#define VERB(name, number, request, response, text) VERB_##name = number,
#include "tbl/verbs.def"
#undef VERB
};

enum frame_flags {
    FRAME_NO_FORWARD = 1, /* answer ERR_NOT_PRIMARY rather than forward */
    FRAME_MORE = 2,       /* response: further entries exist (scan) */
};

struct frame {
    uint8_t type;
    uint8_t hops;
    uint16_t verb;
    uint16_t flags;
    int32_t status;
    uint64_t request_id;
    uint32_t deadline_ms;
    uint64_t trace_id;
    uint64_t epoch;
    uint64_t time;
    struct span message; /* borrowed */
    struct span payload; /* borrowed */
};

/* Writes header and message of a frame to the end of *out; the caller sends message_size + payload right behind, i.e. the
 * payload's bytes (frame->payload) are checksummed here but not copied. */
void frame_pack_head(const struct frame *frame, struct buf *out);

/* The same for a payload in several pieces: begin writes header and message (frame->payload is ignored), the caller continues
 * the returned checksum over the pieces with hash_crc32c, finish fills the checksums in. *at is the frame's position in *out. */
uint32_t frame_pack_begin(const struct frame *frame, size_t payload_bytes, struct buf *out, size_t *at);
void frame_pack_finish(struct buf *out, size_t at, uint32_t crc);
/* In place of finish, for a payload that was appended to *out behind the frame that began at `at`, and ends with it: its size is
 * not known when the frame begins (payload_bytes 0). It must keep to LIMIT_FRAME_BYTES. */
void frame_pack_close(struct buf *out, size_t at);

/* Reads the frame at the beginning of bytes.
 *   > 0: the frame's whole size in bytes; *frame borrows from bytes
 *     0: incomplete; *need is the total size known so far (at least FRAME_HEADER_BYTES)
 *   < 0: ERR_PROTOCOL, ERR_FRAME_TOO_LARGE, ERR_CHECKSUM, ERR_PROTOCOL_VERSION: the stream can't go on
 * A header is judged as soon as it is complete: an oversized length is refused before its bytes are waited for. */
int64_t frame_parse(struct span bytes, struct frame *frame, size_t *need, struct err *err);

#endif
