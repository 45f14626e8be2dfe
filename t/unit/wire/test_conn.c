/* Framed connections over the real env on loopback: order and content with payloads of every size
 * class, streams cut at random, rubbish, pausing, closing inside callbacks, changing owners,
 * accounting of queued bytes. */
#include "wire/conn.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/hash.h"
#include "base/limits.h"
#include "env/env_uv.h"

enum { GUARD_US = 300 * 1000000 }; /* a hang only, also under memcheck on a crowded machine */

/* One server and one client; a test sets what its server does with a frame. */
struct fixture {
    struct env *env;
    struct env_timer guard;
    struct env_listener *listener;
    struct conn *server, *client;
    struct env_conn *raw; /* a client without frames */
    void (*on_frame)(struct fixture *fixture, const struct frame *frame);
    void (*on_answer)(struct fixture *fixture, const struct frame *frame);
    uint64_t told, answered;
    int server_closed, client_closed, raw_closed;
    int server_status, client_status;
    char reason[300];
    struct buf stream; /* what the raw client writes, in random cuts */
    size_t written, writing;
    uint64_t random;
    struct env_timer timer;
    struct blob *blob;
};

static uint64_t next_random(struct fixture *fixture)
{
    return hash_u64(fixture->random++);
}

static void guard_fire(struct env_timer *timer)
{
    fail_msg("the loop was not stopped in time");
}

static void stop_when_closed(struct fixture *fixture)
{
    if (fixture->server_closed && (fixture->client_closed || fixture->raw_closed)) {
        env_uv_stop(fixture->env);
    }
}

static void server_frame(void *ctx, struct conn *conn, const struct frame *frame)
{
    struct fixture *fixture = ctx;

    assert_int_equal(fixture->server_closed, 0);
    fixture->on_frame(fixture, frame);
}

static void server_close(void *ctx, struct conn *conn, int status, const char *reason)
{
    struct fixture *fixture = ctx;

    fixture->server_closed++;
    fixture->server_status = status;
    snprintf(fixture->reason, sizeof fixture->reason, "%s", reason);
    conn_send(conn, &(struct frame){ .type = FRAME_HELLO }, NULL); /* dropped */
    conn_close(conn);                                              /* nothing more */
    stop_when_closed(fixture);
}

static const struct conn_events server_events = { NULL, server_frame, server_close };

static void server_accept(void *ctx, struct env_conn *raw)
{
    struct fixture *fixture = ctx;

    fixture->server = conn_accept(fixture->env, raw, &server_events, fixture);
    assert_memory_equal(conn_peer(fixture->server), "127.0.0.1:", 10);
}

static void client_frame(void *ctx, struct conn *conn, const struct frame *frame)
{
    struct fixture *fixture = ctx;

    fixture->on_answer(fixture, frame);
}

static void client_close(void *ctx, struct conn *conn, int status, const char *reason)
{
    struct fixture *fixture = ctx;

    fixture->client_closed++;
    fixture->client_status = status;
    stop_when_closed(fixture);
}

static const struct conn_events client_events = { NULL, client_frame, client_close };

static int setup(void **state)
{
    struct fixture *fixture = MEM_NEW(struct fixture);
    struct err err;

    assert_int_equal(env_uv_new(&fixture->env, &err), 0);
    fixture->guard.fire = guard_fire;
    env_timer_start(fixture->env, &fixture->guard, GUARD_US);
    assert_int_equal(
        env_listen(fixture->env, "127.0.0.1:0", server_accept, fixture, &fixture->listener, &err),
        0);
    *state = fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;

    env_timer_stop(fixture->env, &fixture->guard);
    env_uv_free(fixture->env);
    buf_fini(&fixture->stream);
    blob_unref(fixture->blob);
    mem_free(fixture);
    return 0;
}

static void client_connect(struct fixture *fixture)
{
    struct err err;

    assert_int_equal(conn_connect(fixture->env, env_uv_listener_address(fixture->listener),
                                  &client_events, fixture, &fixture->client, &err),
                     0);
}

/* Frame number n has a payload that only n and its size can have. */
static void fill(uint8_t *bytes, size_t size, uint64_t number)
{
    for (size_t i = 0; i < size; i++) {
        bytes[i] = (uint8_t)(number * 31 + i * 7 + (i >> 9));
    }
}

static bool is_filled(struct span bytes, uint64_t number)
{
    for (size_t i = 0; i < bytes.size; i++) {
        if (bytes.data[i] != (uint8_t)(number * 31 + i * 7 + (i >> 9))) {
            return false;
        }
    }
    return true;
}

static size_t size_of(uint64_t number)
{
    static const size_t sizes[] = { 0,    1,     100,    4095,    4096,
                                    4097, 70000, 300000, 5 << 20, LIMIT_VALUE_BYTES };

    return sizes[number % (sizeof sizes / sizeof sizes[0])];
}

/* --- Echo of large and small frames, some by blob, some copied, some in pieces */

enum { FRAMES = 200 };

static void echo_frame(struct fixture *fixture, const struct frame *frame)
{
    struct frame answer = { .type = FRAME_RESPONSE,
                            .request_id = frame->request_id,
                            .message = frame->message };

    assert_int_equal(frame->request_id, fixture->told++);
    answer.payload = frame->payload;
    conn_send(fixture->server, &answer, NULL);
}

static void echo_answer(struct fixture *fixture, const struct frame *frame)
{
    assert_int_equal(frame->request_id, fixture->answered);
    assert_true(span_equal(frame->message, span_of_string("meta")));
    assert_int_equal(frame->payload.size, size_of(frame->request_id));
    assert_true(is_filled(frame->payload, frame->request_id));
    if (++fixture->answered == FRAMES) {
        conn_close(fixture->client);
    }
}

static void client_send(struct fixture *fixture, uint64_t number)
{
    struct frame frame = { .type = FRAME_REQUEST,
                           .request_id = number,
                           .message = span_of_string("meta") };
    struct blob *blob = blob_new(size_of(number));
    size_t third = blob->size / 3;

    fill(blob->data, blob->size, number);
    frame.payload = blob_span(blob);
    if (number % 3 == 0) {
        conn_send(fixture->client, &frame, blob);
    } else if (number % 3 == 1) {
        conn_send(fixture->client, &frame, NULL);
    } else {
        struct conn_piece pieces[3] = { { span_of(blob->data, third), blob },
                                        { span_of(blob->data + third, third), NULL },
                                        { span_of(blob->data + 2 * third, blob->size - 2 * third),
                                          blob } };
        conn_send_pieces(fixture->client, &frame, pieces, 3);
    }
    blob_unref(blob); /* the connection keeps what it needs */
}

static void frames_of_every_size_come_back_in_order(void **state)
{
    struct fixture *fixture = *state;
    size_t sum = 0;

    fixture->on_frame = echo_frame;
    fixture->on_answer = echo_answer;
    client_connect(fixture);
    for (uint64_t number = 0; number < FRAMES; number++) { /* before it is open: they wait */
        client_send(fixture, number);
        sum += FRAME_HEADER_BYTES + 4 + size_of(number);
        assert_int_equal(conn_out_bytes(fixture->client), sum);
    }
    env_uv_run(fixture->env);
    assert_int_equal(fixture->told, FRAMES);
    assert_int_equal(fixture->answered, FRAMES);
    assert_int_equal(fixture->client_closed, 1);
    assert_int_equal(fixture->server_closed, 1);
    assert_int_equal(fixture->client_status, 0);
    assert_int_equal(fixture->server_status, 0);
}

/* --- Blobs are released when they were sent, and queued bytes go back to nothing */

static void drained_frame(struct fixture *fixture, const struct frame *frame)
{
    fixture->told++;
    conn_send(fixture->server, &(struct frame){ .type = FRAME_RESPONSE }, NULL);
}

static void drained_answer(struct fixture *fixture, const struct frame *frame)
{
    assert_int_equal(conn_out_bytes(fixture->client), 0);
    assert_int_equal(fixture->blob->references, 1);
    conn_close(fixture->client);
}

static void blobs_are_released_when_sent(void **state)
{
    struct fixture *fixture = *state;

    fixture->on_frame = drained_frame;
    fixture->on_answer = drained_answer;
    client_connect(fixture);
    fixture->blob = blob_new(LIMIT_VALUE_BYTES);
    fill(fixture->blob->data, LIMIT_VALUE_BYTES, 1);
    conn_send(fixture->client,
              &(struct frame){ .type = FRAME_REQUEST, .payload = blob_span(fixture->blob) },
              fixture->blob);
    assert_int_equal(fixture->blob->references, 2);
    env_uv_run(fixture->env);
    assert_int_equal(fixture->told, 1);
}

static void blobs_are_released_when_the_connection_ends(void **state)
{
    struct fixture *fixture = *state;

    client_connect(fixture);
    fixture->blob = blob_new(LIMIT_VALUE_BYTES);
    memset(fixture->blob->data, 0, LIMIT_VALUE_BYTES);
    conn_send(fixture->client,
              &(struct frame){ .type = FRAME_REQUEST, .payload = blob_span(fixture->blob) },
              fixture->blob);
    conn_close(fixture->client);
    fixture->server_closed = 1; /* there is none to wait for */
    env_uv_run(fixture->env);
    assert_int_equal(fixture->client_closed, 1);
    assert_int_equal(fixture->blob->references, 1);
}

/* --- A client that writes a stream of frames in arbitrary cuts */

static void raw_write_next(struct fixture *fixture, struct env_conn *conn)
{
    size_t left = fixture->stream.size - fixture->written;
    uint64_t random = next_random(fixture);
    size_t size = random % 4 == 0   ? random >> 8 & 7
                  : random % 4 == 1 ? random >> 8 & 0x3ff
                                    : random >> 8 & 0xfffff;
    struct span part = span_of(fixture->stream.data + fixture->written, size < left ? size : left);

    fixture->writing = part.size;
    if (left) {
        env_conn_write(fixture->env, conn, &part, 1);
    } else {
        env_conn_close(fixture->env, conn);
    }
}

static void raw_open(void *ctx, struct env_conn *conn)
{
    raw_write_next(ctx, conn);
}

static void raw_data(void *ctx, struct env_conn *conn, struct span data)
{
}

static void raw_written(void *ctx, struct env_conn *conn)
{
    struct fixture *fixture = ctx;

    fixture->written += fixture->writing;
    raw_write_next(fixture, conn);
}

static void raw_close(void *ctx, struct env_conn *conn, int status)
{
    struct fixture *fixture = ctx;

    fixture->raw_closed++;
    stop_when_closed(fixture);
}

static const struct env_conn_events raw_events = { raw_open, raw_data, raw_written, raw_close };

static void raw_connect(struct fixture *fixture)
{
    struct err err;

    assert_int_equal(env_connect(fixture->env, env_uv_listener_address(fixture->listener),
                                 &raw_events, fixture, &fixture->raw, &err),
                     0);
}

static void stream_frame(struct fixture *fixture, uint64_t number)
{
    struct frame frame = { .type = FRAME_REQUEST,
                           .request_id = number,
                           .message = span_of_string("meta") };
    size_t size = number % 50 == 7 ? 400000 : next_random(fixture) % 300;
    uint8_t *bytes = mem_alloc(size);

    fill(bytes, size, number);
    frame.payload = span_of(bytes, size);
    frame_pack_head(&frame, &fixture->stream);
    buf_append_span(&fixture->stream, frame.payload);
    mem_free(bytes);
}

static void counted_frame(struct fixture *fixture, const struct frame *frame)
{
    assert_int_equal(frame->request_id, fixture->told++);
    assert_true(is_filled(frame->payload, frame->request_id));
}

static void any_cut_of_the_stream_gives_the_same_frames(void **state)
{
    struct fixture *fixture = *state;

    fixture->on_frame = counted_frame;
    for (uint64_t number = 0; number < 2000; number++) {
        stream_frame(fixture, number);
    }
    raw_connect(fixture);
    env_uv_run(fixture->env);
    assert_int_equal(fixture->told, 2000);
    assert_int_equal(fixture->server_status, 0);
    assert_string_equal(fixture->reason, "closed by the peer");
}

static void an_end_in_the_middle_of_a_frame_is_told(void **state)
{
    struct fixture *fixture = *state;

    fixture->on_frame = counted_frame;
    for (uint64_t number = 0; number < 10; number++) {
        stream_frame(fixture, number);
    }
    fixture->stream.size--;
    raw_connect(fixture);
    env_uv_run(fixture->env);
    assert_int_equal(fixture->told, 9);
    assert_int_equal(fixture->server_status, ERR_CLOSED);
}

static void rubbish_closes_the_connection_after_the_good_frames(void **state)
{
    struct fixture *fixture = *state;

    fixture->on_frame = counted_frame;
    for (uint64_t number = 0; number < 3; number++) {
        stream_frame(fixture, number);
    }
    buf_append(&fixture->stream, "GET / HTTP/1.1\r\n\r\n", 18);
    raw_connect(fixture);
    env_uv_run(fixture->env);
    assert_int_equal(fixture->told, 3);
    assert_int_equal(fixture->server_status, ERR_PROTOCOL);
    assert_int_equal(fixture->server_closed, 1);
}

/* A large frame whose last byte is wrong: it is found although it arrived in many reads. */
static void damage_in_a_large_frame_closes_the_connection(void **state)
{
    struct fixture *fixture = *state;

    fixture->on_frame = counted_frame;
    stream_frame(fixture, 0);
    fixture->told = 0;
    stream_frame(fixture, 7); /* 400000 bytes */
    fixture->stream.data[fixture->stream.size - 1] ^= 1;
    raw_connect(fixture);
    env_uv_run(fixture->env);
    assert_int_equal(fixture->told, 1);
    assert_int_equal(fixture->server_status, ERR_CHECKSUM);
}

/* --- Pausing in the middle of what was read */

static void pause_end(struct env_timer *timer)
{
    struct fixture *fixture = container_of(timer, struct fixture, timer);

    conn_pause(fixture->server, false);
}

static void pausing_frame(struct fixture *fixture, const struct frame *frame)
{
    assert_int_equal(frame->request_id, fixture->told++);
    assert_true(is_filled(frame->payload, frame->request_id));
    assert_int_equal(fixture->timer.due_us, 0); /* not while paused */
    if (frame->request_id % 100 == 50) {
        conn_pause(fixture->server, true);
        fixture->timer.fire = pause_end;
        env_timer_start(fixture->env, &fixture->timer, next_random(fixture) % 2000);
    } else if (frame->request_id % 100 == 70) {
        conn_pause(fixture->server, true);
        conn_pause(fixture->server, false); /* at once */
    }
}

static void paused_frames_wait_and_none_is_lost(void **state)
{
    struct fixture *fixture = *state;

    fixture->on_frame = pausing_frame;
    for (uint64_t number = 0; number < 2000; number++) {
        stream_frame(fixture, number);
    }
    raw_connect(fixture);
    env_uv_run(fixture->env);
    assert_int_equal(fixture->told, 2000);
}

/* --- Closing and handing over inside callbacks */

static void closing_frame(struct fixture *fixture, const struct frame *frame)
{
    assert_int_equal(fixture->told++, 0);
    conn_send(fixture->server,
              &(struct frame){ .type = FRAME_HELLO_OK, .status = ERR_CLUSTER_MISMATCH }, NULL);
    conn_close(fixture->server);
    conn_close(fixture->server);
    conn_send(fixture->server, &(struct frame){ .type = FRAME_HELLO_OK }, NULL);
}

static void closing_answer(struct fixture *fixture, const struct frame *frame)
{
    assert_int_equal(frame->status, ERR_CLUSTER_MISMATCH);
    fixture->answered++;
}

static void closing_inside_a_frame_still_sends_the_answer(void **state)
{
    struct fixture *fixture = *state;

    fixture->on_frame = closing_frame;
    fixture->on_answer = closing_answer;
    client_connect(fixture);
    conn_send(fixture->client, &(struct frame){ .type = FRAME_HELLO }, NULL);
    conn_send(fixture->client, &(struct frame){ .type = FRAME_HELLO }, NULL); /* never told */
    env_uv_run(fixture->env);
    assert_int_equal(fixture->told, 1);
    assert_int_equal(fixture->answered, 1);
    assert_int_equal(fixture->server_closed, 1);
    assert_int_equal(fixture->client_closed, 1);
}

static void second_owner_frame(void *ctx, struct conn *conn, const struct frame *frame)
{
    struct fixture *fixture = ctx;

    assert_int_equal(frame->request_id, fixture->told++);
    assert_true(frame->request_id >= 5);
}

static const struct conn_events second_owner_events = { NULL, second_owner_frame, server_close };
static const struct conn_events nobody_events = { NULL, NULL, NULL };

static void handing_frame(struct fixture *fixture, const struct frame *frame)
{
    assert_int_equal(frame->request_id, fixture->told++);
    assert_true(frame->request_id < 5);
    if (frame->request_id == 4) {
        conn_attach(fixture->server, &second_owner_events, fixture);
    }
}

static void the_next_frame_goes_to_the_new_owner(void **state)
{
    struct fixture *fixture = *state;

    fixture->on_frame = handing_frame;
    for (uint64_t number = 0; number < 10; number++) {
        stream_frame(fixture, number);
    }
    raw_connect(fixture);
    env_uv_run(fixture->env);
    assert_int_equal(fixture->told, 10);
}

static void leaving_frame(struct fixture *fixture, const struct frame *frame)
{
    fixture->told++;
    conn_attach(fixture->server, &nobody_events, NULL);
    conn_close(fixture->server);
    fixture->server_closed = 1;
    stop_when_closed(fixture);
}

static void an_owner_may_leave(void **state)
{
    struct fixture *fixture = *state;

    fixture->on_frame = leaving_frame;
    for (uint64_t number = 0; number < 10; number++) {
        stream_frame(fixture, number);
    }
    raw_connect(fixture);
    env_uv_run(fixture->env);
    assert_int_equal(fixture->told, 1);
}

static void refused_and_bad_addresses_are_told(void **state)
{
    struct fixture *fixture = *state;
    struct conn *conn;
    struct err err;
    char address[64];

    assert_int_equal(conn_connect(fixture->env, "nowhere", &client_events, fixture, &conn, &err),
                     ERR_USAGE);
    snprintf(address, sizeof address, "%s", env_uv_listener_address(fixture->listener));
    env_listener_close(fixture->env, fixture->listener);
    assert_int_equal(conn_connect(fixture->env, address, &client_events, fixture, &conn, &err), 0);
    conn_send(conn, &(struct frame){ .type = FRAME_HELLO }, NULL);
    fixture->server_closed = 1;
    env_uv_run(fixture->env);
    assert_int_equal(fixture->client_status, ERR_CONNECT);
}

/* --- Frames that stay open to more */

enum { EXTENDED = 3000, EXTENSION_BYTES = 100, EXTENSIONS_EACH = 300 };

/* Frames of EXTENSION_BYTES each, with numbers that go on from frame to frame; those of a verb of their own stand between. */
static void extended_frame(struct fixture *fixture, const struct frame *frame)
{
    assert_true(frame->payload.size + FRAME_HEADER_BYTES <= CONN_OPEN_BYTES);
    assert_int_equal(frame->message.size, 0);
    if (frame->verb == VERB_STATUS) {
        assert_int_equal(frame->request_id, fixture->told);
        return;
    }
    assert_int_equal(frame->payload.size % EXTENSION_BYTES, 0);
    fixture->answered++; /* here: frames */
    for (size_t at = 0; at < frame->payload.size; at += EXTENSION_BYTES) {
        struct span piece = span_of(frame->payload.data + at, EXTENSION_BYTES);
        assert_true(is_filled(piece, fixture->told++));
    }
    if (fixture->told == EXTENDED) {
        conn_close(fixture->server);
    }
}

static void frames_take_more_until_another_is_queued_or_they_are_full(void **state)
{
    struct fixture *fixture = *state;
    struct frame head = { .type = FRAME_REQUEST, .verb = VERB_GETS };
    size_t begun = 0;

    fixture->on_frame = extended_frame;
    client_connect(fixture);
    assert_null(conn_extend(fixture->client, NULL, EXTENSION_BYTES)); /* none is open */
    for (uint64_t number = 0; number < EXTENDED; number++) {
        size_t before = conn_out_bytes(fixture->client);
        uint8_t *room = conn_extend(fixture->client, NULL, EXTENSION_BYTES);
        size_t head_bytes = room ? 0 : FRAME_HEADER_BYTES;
        begun += room == NULL;
        room = room ? room : conn_extend(fixture->client, &head, EXTENSION_BYTES);
        assert_int_equal(conn_out_bytes(fixture->client) - before, EXTENSION_BYTES + head_bytes);
        fill(room, EXTENSION_BYTES, number);
        if (number % EXTENSIONS_EACH == EXTENSIONS_EACH - 1) { /* ends it */
            struct frame other = { .type = FRAME_REQUEST,
                                   .verb = VERB_STATUS,
                                   .request_id = number + 1 };
            conn_send(fixture->client, &other, NULL);
            assert_null(conn_extend(fixture->client, NULL, EXTENSION_BYTES));
        }
    }
    env_uv_run(fixture->env);
    assert_int_equal(fixture->told, EXTENDED);
    assert_int_equal(fixture->answered, begun);
    assert_int_equal(begun, EXTENDED / EXTENSIONS_EACH);
}

static void a_full_frame_takes_no_more(void **state)
{
    struct fixture *fixture = *state;
    struct frame head = { .type = FRAME_REQUEST, .verb = VERB_GETS };

    fixture->on_frame = extended_frame;
    client_connect(fixture);
    for (uint64_t number = 0; number < EXTENDED; number++) {
        uint8_t *room = conn_extend(fixture->client, NULL, EXTENSION_BYTES);
        room = room ? room : conn_extend(fixture->client, &head, EXTENSION_BYTES);
        fill(room, EXTENSION_BYTES, number);
    }
    env_uv_run(fixture->env);
    assert_int_equal(fixture->told, EXTENDED);
    assert_int_equal(fixture->answered, EXTENDED * EXTENSION_BYTES / CONN_OPEN_BYTES + 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(frames_of_every_size_come_back_in_order),
        TEST(blobs_are_released_when_sent),
        TEST(blobs_are_released_when_the_connection_ends),
        TEST(any_cut_of_the_stream_gives_the_same_frames),
        TEST(an_end_in_the_middle_of_a_frame_is_told),
        TEST(rubbish_closes_the_connection_after_the_good_frames),
        TEST(damage_in_a_large_frame_closes_the_connection),
        TEST(paused_frames_wait_and_none_is_lost),
        TEST(closing_inside_a_frame_still_sends_the_answer),
        TEST(the_next_frame_goes_to_the_new_owner),
        TEST(an_owner_may_leave),
        TEST(frames_take_more_until_another_is_queued_or_they_are_full),
        TEST(a_full_frame_takes_no_more),
        TEST(refused_and_bad_addresses_are_told),
    };
    return cmocka_run_group_tests_name("conn", tests, NULL, NULL);
}
