/* etcd: KV/Put and KV/Range (linearizable, its default) as gRPC over cleartext HTTP/2, by nghttp2. Clients share some connections, as
 * etcd's own benchmark does. */
#include <nghttp2/nghttp2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "load.h"

enum { WINDOW_BYTES = 16 << 20 };

struct stream {
    struct slot *slot;
    uint8_t *body; /* the gRPC message with its five-byte head */
    size_t size, sent;
    size_t received;
    bool is_good;
};

static size_t put_varint(uint8_t *at, uint64_t value)
{
    size_t size = 0;
    for (; value >= 0x80; value >>= 7) {
        at[size++] = (uint8_t)(value | 0x80);
    }
    at[size++] = (uint8_t)value;
    return size;
}

static size_t put_field(uint8_t *at, unsigned number, const void *data, size_t size)
{
    size_t used = put_varint(at, number << 3 | 2);
    used += put_varint(at + used, size);
    memcpy(at + used, data, size);
    return used + size;
}

static ssize_t read_body(nghttp2_session *session, int32_t id, uint8_t *out, size_t size, uint32_t *flags,
                         nghttp2_data_source *source, void *ctx)
{
    struct stream *stream = source->ptr;
    size_t left = stream->size - stream->sent;
    size_t part = left < size ? left : size;
    memcpy(out, stream->body + stream->sent, part);
    stream->sent += part;
    if (stream->sent == stream->size) {
        *flags |= NGHTTP2_DATA_FLAG_EOF;
    }
    return (ssize_t)part;
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t name_size,
                     const uint8_t *value, size_t value_size, uint8_t flags, void *ctx)
{
    struct stream *stream = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
    if (stream && name_size == 11 && memcmp(name, "grpc-status", 11) == 0) {
        stream->is_good = value_size == 1 && value[0] == '0';
        if (!stream->is_good) {
            fprintf(stderr, "etcd: grpc-status %.*s\n", (int)value_size, value);
        }
    }
    return 0;
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *data, size_t size, void *ctx)
{
    struct stream *stream = nghttp2_session_get_stream_user_data(session, id);
    if (stream) {
        stream->received += size;
    }
    return 0;
}

static int on_close(nghttp2_session *session, int32_t id, uint32_t code, void *ctx)
{
    struct stream *stream = nghttp2_session_get_stream_user_data(session, id);
    if (!stream) {
        return 0;
    }
    struct slot *slot = stream->slot;
    /* A Range that found nothing is a header of some 30 bytes; one that found the key holds the value too. */
    bool is_good = code == 0 && stream->is_good && (!slot->is_read || stream->received > 64);
    free(stream->body);
    free(stream);
    load_done(slot, is_good);
    return 0;
}

static int etcd_open(struct connection *connection)
{
    nghttp2_session_callbacks *callbacks;
    nghttp2_session *session;
    nghttp2_session_callbacks_new(&callbacks);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_close);
    int rc = nghttp2_session_client_new(&session, callbacks, connection);
    nghttp2_session_callbacks_del(callbacks);
    if (rc != 0) {
        return -1;
    }
    connection->session = session;
    nghttp2_settings_entry settings[] = { { NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, WINDOW_BYTES },
                                          { NGHTTP2_SETTINGS_ENABLE_PUSH, 0 } };
    nghttp2_submit_settings(session, NGHTTP2_FLAG_NONE, settings, 2);
    nghttp2_session_set_local_window_size(session, NGHTTP2_FLAG_NONE, 0, WINDOW_BYTES);
    return 0;
}

#define HEADER(name, value)                                                                                                    \
    {                                                                                                                          \
        (uint8_t *)name, (uint8_t *)value, sizeof name - 1, sizeof value - 1,                                                  \
            NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE                                                       \
    }

static void etcd_send(struct connection *connection, struct slot *slot, const char *key, const uint8_t *value, size_t value_size)
{
    nghttp2_nv headers[] = { HEADER(":method", "POST"),
                             HEADER(":scheme", "http"),
                             HEADER(":path", "/etcdserverpb.KV/Range"),
                             HEADER(":authority", "localhost"),
                             HEADER("content-type", "application/grpc"),
                             HEADER("te", "trailers") };
    if (!slot->is_read) {
        headers[2] = (nghttp2_nv)HEADER(":path", "/etcdserverpb.KV/Put");
    }
    struct stream *stream = calloc(1, sizeof *stream);
    stream->slot = slot;
    stream->body = malloc(strlen(key) + value_size + 64);
    size_t size = put_field(stream->body + 5, 1, key, strlen(key));
    if (!slot->is_read) {
        size += put_field(stream->body + 5 + size, 2, value, value_size);
    }
    stream->body[0] = 0;
    for (int i = 0; i < 4; i++) {
        stream->body[1 + i] = (uint8_t)(size >> (24 - 8 * i));
    }
    stream->size = size + 5;
    nghttp2_data_provider provider = { { .ptr = stream }, read_body };
    if (nghttp2_submit_request(connection->session, NULL, headers, sizeof headers / sizeof *headers, &provider, stream) < 0) {
        fprintf(stderr, "etcd: out of streams\n");
        exit(1);
    }
}

static void etcd_flush(struct connection *connection)
{
    const uint8_t *data;
    ssize_t size;
    while ((size = nghttp2_session_mem_send(connection->session, &data)) > 0) {
        bytes_append(&connection->out, data, (size_t)size);
    }
}

static int etcd_receive(struct connection *connection)
{
    ssize_t used = nghttp2_session_mem_recv(connection->session, connection->in.data, connection->in.size);
    if (used < 0) {
        fprintf(stderr, "etcd: %s\n", nghttp2_strerror((int)used));
        return -1;
    }
    bytes_consume(&connection->in, (size_t)used);
    etcd_flush(connection);
    return 0;
}

static void etcd_close(struct connection *connection)
{
    nghttp2_session_del(connection->session);
}

const struct driver driver_etcd = { "etcd", etcd_open, etcd_send, etcd_flush, etcd_receive, etcd_close, true };
