/* Packing and judging frames; the format stands in the header.
 *
 *   I1  Nothing behind `bytes` is read, and nothing of a field is believed before the header's
 *       checksum was found right. Only magic and version are judged before that, since what
 *       follows them depends on them.
 *   I2  A refused header is refused as soon as its 72 bytes are there, rubbish from its first
 *       wrong byte on. */
#include "wire/frame.h"

#include "base/check.h"
#include "base/hash.h"
#include "base/limits.h"

enum {
    AT_VERSION = 4,
    AT_TYPE = 5,
    AT_VERB = 6,
    AT_FLAGS = 8,
    AT_HOPS = 10,
    AT_ZERO = 11,
    AT_STATUS = 12,
    AT_MESSAGE_SIZE = 16,
    AT_PAYLOAD_SIZE = 20,
    AT_REQUEST_ID = 24,
    AT_DEADLINE = 32,
    AT_CONTENT_CRC = 36,
    AT_TRACE_ID = 40,
    AT_EPOCH = 48,
    AT_TIME = 56,
    AT_PRINCIPAL = 64,
    AT_HEADER_CRC = 68,
};

static const uint8_t frame_magic[4] = { 'C', 'R', 'N', '1' };

uint32_t frame_pack_begin(const struct frame *frame, size_t payload_bytes, struct buf *out,
                          size_t *at)
{
    CHECK(frame->type >= 1 && frame->type <= FRAME_TYPE_MAX && frame->status <= 0);
    CHECK(frame->message.size <= LIMIT_MESSAGE_BYTES);
    CHECK(payload_bytes <= LIMIT_FRAME_BYTES - FRAME_HEADER_BYTES - frame->message.size);
    *at = out->size;
    uint8_t *head = buf_extend(out, FRAME_HEADER_BYTES);
    memcpy(head, frame_magic, sizeof frame_magic);
    head[AT_VERSION] = FRAME_VERSION;
    head[AT_TYPE] = frame->type;
    put_u16(head + AT_VERB, frame->verb);
    put_u16(head + AT_FLAGS, frame->flags);
    head[AT_HOPS] = frame->hops;
    head[AT_ZERO] = 0;
    put_u32(head + AT_STATUS, (uint32_t)frame->status);
    put_u32(head + AT_MESSAGE_SIZE, (uint32_t)frame->message.size);
    put_u32(head + AT_PAYLOAD_SIZE, (uint32_t)payload_bytes);
    put_u64(head + AT_REQUEST_ID, frame->request_id);
    put_u32(head + AT_DEADLINE, frame->deadline_ms);
    put_u64(head + AT_TRACE_ID, frame->trace_id);
    put_u64(head + AT_EPOCH, frame->epoch);
    put_u64(head + AT_TIME, frame->time);
    put_u32(head + AT_PRINCIPAL, 0);
    if (frame->message.size == 0) { /* between nodes */
        return 0;
    }
    buf_append_span(out, frame->message);
    return hash_crc32c(0, frame->message.data, frame->message.size);
}

void frame_pack_finish(struct buf *out, size_t at, uint32_t crc)
{
    uint8_t *head = out->data + at;

    CHECK(at + FRAME_HEADER_BYTES <= out->size);
    put_u32(head + AT_CONTENT_CRC, crc);
    put_u32(head + AT_HEADER_CRC, hash_crc32c(0, head, AT_HEADER_CRC));
}

void frame_pack_close(struct buf *out, size_t at)
{
    uint8_t *head = out->data + at;
    size_t content_bytes = out->size - at - FRAME_HEADER_BYTES;
    uint32_t message_bytes = get_u32(head + AT_MESSAGE_SIZE);

    CHECK(at + FRAME_HEADER_BYTES + message_bytes <= out->size &&
          out->size - at <= LIMIT_FRAME_BYTES);
    put_u32(head + AT_PAYLOAD_SIZE, (uint32_t)content_bytes - message_bytes);
    frame_pack_finish(out, at, hash_crc32c(0, head + FRAME_HEADER_BYTES, content_bytes));
}

void frame_pack_head(const struct frame *frame, struct buf *out)
{
    size_t at;
    uint32_t crc = frame_pack_begin(frame, frame->payload.size, out, &at);

    frame_pack_finish(out, at, hash_crc32c(crc, frame->payload.data, frame->payload.size));
}

/* Magic and version, as far as they are there. */
static int frame_judge_start(struct span bytes, struct err *err)
{
    size_t magic_bytes = bytes.size < sizeof frame_magic ? bytes.size : sizeof frame_magic;

    if (magic_bytes && memcmp(bytes.data, frame_magic, magic_bytes) != 0) {
        return err_set(err, ERR_PROTOCOL, "this is not Cairn's protocol");
    }
    if (bytes.size > AT_VERSION && bytes.data[AT_VERSION] != FRAME_VERSION) {
        return err_set(err, ERR_PROTOCOL_VERSION, "frame version %u; known is %u",
                       bytes.data[AT_VERSION], FRAME_VERSION);
    }
    return 0;
}

/* A whole header, magic and version known to be right. */
static int frame_judge_header(const uint8_t *head, struct err *err)
{
    uint64_t message_bytes = get_u32(head + AT_MESSAGE_SIZE);
    uint64_t payload_bytes = get_u32(head + AT_PAYLOAD_SIZE);

    if (get_u32(head + AT_HEADER_CRC) != hash_crc32c(0, head, AT_HEADER_CRC)) {
        return err_set(err, ERR_CHECKSUM, "the checksum of a frame's header does not match");
    }
    if (head[AT_TYPE] < 1 || head[AT_TYPE] > FRAME_TYPE_MAX) {
        return err_set(err, ERR_PROTOCOL, "unknown frame type %u", head[AT_TYPE]);
    }
    if (head[AT_ZERO] || get_u32(head + AT_PRINCIPAL) || (int32_t)get_u32(head + AT_STATUS) > 0) {
        return err_set(err, ERR_PROTOCOL, "a frame's header has a field that can't be");
    }
    if (message_bytes > LIMIT_MESSAGE_BYTES ||
        FRAME_HEADER_BYTES + message_bytes + payload_bytes > LIMIT_FRAME_BYTES) {
        return err_set(err, ERR_FRAME_TOO_LARGE,
                       "a frame with %llu bytes of message and %llu of payload",
                       (unsigned long long)message_bytes, (unsigned long long)payload_bytes);
    }
    return 0;
}

static void frame_read(const uint8_t *head, struct frame *frame)
{
    uint32_t message_bytes = get_u32(head + AT_MESSAGE_SIZE);

    *frame = (struct frame){
        .type = head[AT_TYPE],
        .hops = head[AT_HOPS],
        .verb = get_u16(head + AT_VERB),
        .flags = get_u16(head + AT_FLAGS),
        .status = (int32_t)get_u32(head + AT_STATUS),
        .request_id = get_u64(head + AT_REQUEST_ID),
        .deadline_ms = get_u32(head + AT_DEADLINE),
        .trace_id = get_u64(head + AT_TRACE_ID),
        .epoch = get_u64(head + AT_EPOCH),
        .time = get_u64(head + AT_TIME),
        .message = span_of(head + FRAME_HEADER_BYTES, message_bytes),
        .payload =
            span_of(head + FRAME_HEADER_BYTES + message_bytes, get_u32(head + AT_PAYLOAD_SIZE)),
    };
}

int64_t frame_parse(struct span bytes, struct frame *frame, size_t *need, struct err *err)
{
    const uint8_t *head = bytes.data;
    int status = frame_judge_start(bytes, err);

    if (status) {
        return status;
    }
    *need = FRAME_HEADER_BYTES;
    if (bytes.size < FRAME_HEADER_BYTES) {
        return 0;
    }
    status = frame_judge_header(head, err);
    if (status) {
        return status;
    }
    size_t content_bytes =
        (size_t)get_u32(head + AT_MESSAGE_SIZE) + get_u32(head + AT_PAYLOAD_SIZE);
    *need = FRAME_HEADER_BYTES + content_bytes;
    if (bytes.size < *need) {
        return 0;
    }
    if (get_u32(head + AT_CONTENT_CRC) !=
        hash_crc32c(0, head + FRAME_HEADER_BYTES, content_bytes)) {
        return err_set(err, ERR_CHECKSUM, "the checksum of a frame's content does not match");
    }
    frame_read(head, frame);
    return (int64_t)*need;
}
