/* What may wait for a later turn's frame (peer_may_wait), on a connection whose other side is the test: it counts what is
 * written and closes when asked. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "raft/peers.h"

/* The connection's owner as env knows it. */
static struct wire {
    const struct env_conn_events *events;
    void *ctx;
} wire;

static void wire_defer(struct env *env, struct env_task *task)
{
}

static void wire_attach(struct env_conn *raw, const struct env_conn_events *events, void *ctx)
{
    wire = (struct wire){ events, ctx };
}

static int wire_write(struct env_conn *raw, const struct span *parts, size_t count)
{
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(entries_may_wait_until_something_urgent_joins_them),
        cmocka_unit_test(heartbeats_and_rounds_do_not_wait),
        cmocka_unit_test(what_waited_is_lost_with_the_connection),
    };
    return cmocka_run_group_tests_name("peers", tests, NULL, NULL);
}
