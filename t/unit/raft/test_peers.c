/* What may wait for a later turn's frame (peer_may_wait), beats, and the questions and answers of rounds, on a connection whose other
 * side is the test: it keeps what is written last and closes when asked. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "raft/peers.h"

/* The connection's owner as env knows it. */
static struct wire {
    const struct env_conn_events *events;
    void *ctx;
    uint8_t written[1024]; /* the last of it */
    size_t size;
    struct env_task *task; /* deferred last */
} wire;

static void wire_defer(struct env *env, struct env_task *task)
{
    wire.task = task;
}

static void wire_attach(struct env_conn *raw, const struct env_conn_events *events, void *ctx)
{
    wire = (struct wire){ .events = events, .ctx = ctx };
}

static int wire_write(struct env_conn *raw, const struct span *parts, size_t count)
{
    wire.size = 0;
    for (size_t i = 0; i < count; i++) {
        assert_true(wire.size + parts[i].size <= sizeof wire.written);
        memcpy(wire.written + wire.size, parts[i].data, parts[i].size);
        wire.size += parts[i].size;
    }
    return 0;
}

static void wire_close(struct env_conn *raw)
{
}

static const struct env_ops wire_ops = {
    .defer = wire_defer,
    .conn_attach = wire_attach,
    .conn_write = wire_write,
    .conn_close = wire_close,
};

static struct env wire_env = { .ops = &wire_ops };
static const struct conn_events no_events;

static void open_peer(struct peer *peer)
{
    *peer = (struct peer){ 0 };
    peer_up(peer, conn_accept(&wire_env, NULL, &no_events, NULL));
}

static void close_peer(struct peer *peer)
{
    conn_close(peer->conn);
    wire.events->on_close(wire.ctx, NULL, 0);
    peer_down(peer);
    peer_fini(peer);
}

static void send(struct peer *peer, uint8_t type, uint32_t count)
{
    struct raft_message message = { .type = type, .group = 1, .from = 1, .to = 2, .count = count };
    struct blob *payload = blob_new(16);
    memset(payload->data, 7, payload->size);
    uint64_t term = 3;
    peer_send(peer, &message, &term, &payload);
    blob_unref(payload);
}

static void flush(struct peer *peer)
{
    uint64_t before = peer->frames_sent;
    peer_flush(peer, 1, 1, 1);
    assert_int_equal(peer->frames_sent, before + 1);
    assert_false(peer_may_wait(peer)); /* nothing is left that could */
}

static void entries_may_wait_until_something_urgent_joins_them(void **state)
{
    struct peer peer;
    open_peer(&peer);
    assert_false(peer_may_wait(&peer));
    send(&peer, RAFT_APPEND, 1);
    send(&peer, RAFT_APPEND, 1);
    assert_true(peer_may_wait(&peer));
    send(&peer, RAFT_APPEND_REPLY, 0);
    assert_false(peer_may_wait(&peer));
    flush(&peer);
    assert_int_equal(peer.messages_sent, 3);
    send(&peer, RAFT_APPEND, 1); /* what was urgent has left */
    assert_true(peer_may_wait(&peer));
    flush(&peer);
    close_peer(&peer);
}

static void heartbeats_and_rounds_do_not_wait(void **state)
{
    struct peer peer;
    open_peer(&peer);
    send(&peer, RAFT_APPEND, 0);
    assert_false(peer_may_wait(&peer));
    flush(&peer);
    send(&peer, RAFT_APPEND, 1);
    peer_round_open(&peer);
    assert_false(peer_may_wait(&peer));
    flush(&peer);
    send(&peer, RAFT_APPEND, 1);
    peer.round_to_answer = 5;
    assert_false(peer_may_wait(&peer));
    flush(&peer);
    close_peer(&peer);
}

static void what_waited_is_lost_with_the_connection(void **state)
{
    struct peer peer;
    open_peer(&peer);
    send(&peer, RAFT_VOTE, 0);
    close_peer(&peer);
    open_peer(&peer);
    send(&peer, RAFT_APPEND, 1);
    assert_true(peer_may_wait(&peer)); /* the vote's hurry is not the next connection's */
    flush(&peer);
    close_peer(&peer);
}

static struct heard {
    struct peer_beat beats[4];
    uint64_t stamps[4];
    size_t beat_count, message_count, ahead_count;
    uint32_t asked, told;
    uint64_t asked_sum, told_sum;
} heard;

static void hear_beat(void *ctx, const struct peer_beat *beat, uint64_t stamp)
{
    assert_int_equal(heard.message_count, 0); /* they come first */
    heard.stamps[heard.beat_count] = stamp;
    heard.beats[heard.beat_count++] = *beat;
}

static void hear_message(void *ctx, const struct peer_message *message)
{
    assert_int_equal(message->message.type, RAFT_APPEND);
    heard.message_count++;
}

static void hear_ahead(void *ctx, uint32_t group)
{
    heard.ahead_count++;
}

static void hear_asked(void *ctx, uint32_t group, uint64_t replica, uint64_t term)
{
    heard.asked++;
    heard.asked_sum += group + replica * 100 + term * 10000;
}

static void hear_told(void *ctx, uint32_t group, uint64_t commit)
{
    heard.told++;
    heard.told_sum += group + commit * 100;
}

static const struct peer_events events = { .beat = hear_beat,
                                           .message = hear_message,
                                           .ahead_of_beat = hear_ahead,
                                           .ahead = hear_ahead,
                                           .asked = hear_asked,
                                           .told = hear_told };

static int receive(struct peer *peer, struct span payload)
{
    bool answered;
    heard = (struct heard){ 0 };
    return peer_receive(peer, payload, &events, NULL, &answered);
}

static void beats_share_a_frame_and_its_least_stamp(void **state)
{
    static const struct peer_beat beats[] = { { 7, PEER_BEAT, 3, 111 },
                                              { 8, PEER_BEAT_FOLLOWED, 4, 222 },
                                              { 4096, PEER_BEAT_REFUSED, 5, 333 } };
    static const uint64_t stamps[] = { 1005, 1000, 1010 };
    struct peer peer;
    open_peer(&peer);
    for (size_t i = 0; i < 3; i++) {
        peer_beat(&peer, &beats[i], stamps[i]);
    }
    assert_false(peer_may_wait(&peer));
    send(&peer, RAFT_APPEND, 0);
    assert_false(peer_may_wait(&peer)); /* beats make a frame urgent */
    flush(&peer);
    wire.task->run(wire.task);
    size_t size = PEER_HEAD_BYTES + 3 * PEER_BEAT_BYTES + PEER_MESSAGE_BYTES;
    assert_true(wire.size >= size);
    uint8_t *payload = wire.written + wire.size - size;
    assert_int_equal(receive(&peer, span_of(payload, size)), 0);
    assert_int_equal(heard.beat_count, 3);
    assert_int_equal(heard.message_count, 1);
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(heard.stamps[i], 1000);
        assert_int_equal(heard.beats[i].group, beats[i].group);
        assert_int_equal(heard.beats[i].kind, beats[i].kind);
        assert_int_equal(heard.beats[i].term, beats[i].term);
        assert_int_equal(heard.beats[i].echo, beats[i].echo);
    }
    /* Malformed: nothing is called. */
    assert_int_equal(receive(&peer, span_of(payload, PEER_HEAD_BYTES + 2 * PEER_BEAT_BYTES)),
                     ERR_PROTOCOL);
    payload[PEER_HEAD_BYTES + 4] = PEER_BEAT_REFUSED + 1;
    assert_int_equal(receive(&peer, span_of(payload, size)), ERR_PROTOCOL);
    payload[PEER_HEAD_BYTES + 4] = PEER_BEAT;
    memset(payload + 44, 0xff, 4);
    assert_int_equal(receive(&peer, span_of(payload, size)), ERR_PROTOCOL);
    assert_int_equal(heard.beat_count, 0);
    close_peer(&peer);
}

/* The payload of the frame that the peer sends now, until the next. */
static struct span sent(struct peer *peer)
{
    struct frame frame;
    size_t need;
    struct err err;
    flush(peer);
    wire.task->run(wire.task);
    wire.events->on_written(wire.ctx, NULL);
    assert_true(frame_parse(span_of(wire.written, wire.size), &frame, &need, &err) > 0);
    return frame.payload;
}

static void followers_are_answered_with_the_round_that_asked(void **state)
{
    struct peer asker, teller;
    bool is_answered;
    open_peer(&asker);
    heard = (struct heard){ 0 };
    peer_round_open(&asker);
    peer_ask(&asker, 5, 77, 3);
    peer_ask(&asker, 6, 78, 4);
    struct span question = sent(&asker);
    struct buf kept = { 0 };
    buf_append_span(&kept, question);
    close_peer(&asker);

    open_peer(&teller);
    assert_int_equal(peer_receive(&teller, buf_span(&kept), &events, NULL, &is_answered), 0);
    assert_false(is_answered);
    assert_int_equal(heard.asked, 2);
    assert_int_equal(heard.asked_sum, 5 + 7700 + 30000 + 6 + 7800 + 40000);
    peer_tell(&teller, 5, 9);
    peer_tell(&teller, 6, 0);
    buf_clear(&kept);
    buf_append_span(&kept, sent(&teller));
    close_peer(&teller);

    open_peer(&asker);
    peer_round_open(&asker); /* the same number as above: peers count from 1 */
    assert_int_equal(peer_receive(&asker, buf_span(&kept), &events, NULL, &is_answered), 0);
    assert_true(is_answered);
    assert_int_equal(heard.told, 2);
    assert_int_equal(heard.told_sum, 5 + 900 + 6);
    assert_int_equal(peer_receive(&asker, buf_span(&kept), &events, NULL, &is_answered), 0);
    assert_false(is_answered);
    assert_int_equal(heard.told, 2); /* that round is over */
    close_peer(&asker);
    buf_fini(&kept);
}

static void words_that_belong_to_no_round_are_refused(void **state)
{
    struct peer peer;
    bool is_answered;
    open_peer(&peer);
    uint8_t frame[PEER_HEAD_BYTES + PEER_ASK_BYTES] = { 0 };
    put_u32(frame + 56, 1);
    assert_int_equal(peer_receive(&peer, span_of(frame, sizeof frame), &events, NULL, &is_answered),
                     ERR_PROTOCOL);
    put_u64(frame, 1); /* a round's */
    assert_int_equal(peer_receive(&peer, span_of(frame, sizeof frame), &events, NULL, &is_answered),
                     0);
    put_u32(frame + 56, 2); /* more than there are */
    assert_int_equal(peer_receive(&peer, span_of(frame, sizeof frame), &events, NULL, &is_answered),
                     ERR_PROTOCOL);
    put_u32(frame + 56, UINT32_MAX);
    assert_int_equal(peer_receive(&peer, span_of(frame, sizeof frame), &events, NULL, &is_answered),
                     ERR_PROTOCOL);
    close_peer(&peer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(entries_may_wait_until_something_urgent_joins_them),
        cmocka_unit_test(heartbeats_and_rounds_do_not_wait),
        cmocka_unit_test(what_waited_is_lost_with_the_connection),
        cmocka_unit_test(beats_share_a_frame_and_its_least_stamp),
        cmocka_unit_test(followers_are_answered_with_the_round_that_asked),
        cmocka_unit_test(words_that_belong_to_no_round_are_refused),
    };
    return cmocka_run_group_tests_name("peers", tests, NULL, NULL);
}
