/* Two nodes for the tests of images.c: each has a real store with some groups, on the store's fake env, so that disks work when the test
 * says so. Partitions, reserve, scrub and the connection are fakes with the functions that images.c calls; the test sets what they answer
 * and looks at what they were told. What is sent lies in the connection until deliver(). */
#ifndef T_UNIT_NODE_IMAGES_FIXTURE_H
#define T_UNIT_NODE_IMAGES_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/limits.h"
#include "node/node_private.h"
#include "proto/peer.pb-c.h"
#include "wire/message.h"

#include "../store/store_fixture.h"

enum { GROUPS = 6, FROM_NODE = 1, TO_NODE = 2, REPLICA = 100, TERM = 5, HEARTBEAT_US = 100 * 1000, SECOND_US = 1000 * 1000 };

/* --- Fakes */

struct partition {
    uint32_t group;
    struct store_replica *store;
    struct raft raft; /* nobody looks into it */
    bool needs_no_image;
    /* The primary's: */
    int offer_status; /* what the core answers to an offer */
    uint64_t offered_to, offered_id, offered_index; /* offered_id 0: none */
    unsigned withdrawn;
    /* The follower's: */
    bool may_not_install, is_installing;
    uint64_t installed_index, installed_term;
    unsigned failed;
};

struct reserve {
    bool is_tight, is_spent;
};

struct scrub {
    uint32_t hurried; /* group */
};

struct conn {
    struct mail {
        struct frame frame;
        struct buf message, payload;
    } mails[32];
    size_t count;
};

struct side {
    struct fixture store;
    struct node node;
    struct topology topology;
    struct reserve reserve;
    struct scrub scrub;
    struct link link; /* to the other side */
    struct conn conn;
    struct partition partitions[GROUPS + 1];
    struct partition *by_group[GROUPS + 1];
    struct mem_gates gates;
    struct images *images;
    unsigned observed;
};

uint32_t partition_group(const struct partition *partition)
{
    return partition->group;
}

struct store_replica *partition_store(struct partition *partition)
{
    return partition->store;
}

const struct raft *partition_raft(const struct partition *partition)
{
    return &partition->raft;
}

bool raft_needs_no_image(const struct raft *raft)
{
    return container_of(raft, struct partition, raft)->needs_no_image;
}

uint64_t partition_node_of(const struct partition *partition, uint64_t replica)
{
    return replica - REPLICA;
}

int partition_image_offer(struct partition *partition, uint64_t to, uint64_t index, uint64_t id)
{
    assert_int_equal(partition->offered_id, 0);
    if (partition->offer_status == 0) {
        partition->offered_to = to;
        partition->offered_id = id;
        partition->offered_index = index;
    }
    return partition->offer_status;
}

void partition_image_withdraw(struct partition *partition, uint64_t to)
{
    assert_int_equal(to, partition->offered_to);
    partition->offered_id = 0;
    partition->withdrawn++;
}

bool partition_image_is_offered(const struct partition *partition, uint64_t to, uint64_t id)
{
    return partition->offered_id == id && partition->offered_to == to;
}

bool partition_image_begin(struct partition *partition, uint64_t index, uint64_t term)
{
    assert_false(partition->is_installing);
    partition->is_installing = !partition->may_not_install;
    return partition->is_installing;
}

void partition_image_installed(struct partition *partition, uint64_t index, uint64_t term)
{
    assert_true(partition->is_installing);
    partition->is_installing = false;
    partition->installed_index = index;
    partition->installed_term = term;
}

void partition_image_failed(struct partition *partition)
{
    assert_true(partition->is_installing);
    partition->is_installing = false;
    partition->failed++;
}

bool reserve_is_tight(const struct reserve *reserve)
{
    return reserve->is_tight;
}

bool reserve_is_spent(const struct reserve *reserve)
{
    return reserve->is_spent;
}

bool scrub_give_way(struct scrub *scrub, uint64_t before_us)
{
    return false;
}

void scrub_hurry(struct scrub *scrub, uint32_t group)
{
    scrub->hurried = group;
}

struct link *membership_find(struct node *node, uint64_t node_id)
{
    struct side *side = container_of(node, struct side, node);
    return side->link.node_id == node_id ? &side->link : NULL;
}

uint64_t node_time(const struct node *node)
{
    return 1;
}

static inline void post(struct conn *conn, const struct frame *frame, struct span payload)
{
    assert_true(conn->count < sizeof conn->mails / sizeof conn->mails[0]);
    struct mail *mail = &conn->mails[conn->count++];
    *mail = (struct mail){ .frame = *frame };
    buf_append_span(&mail->message, frame->message);
    buf_append_span(&mail->payload, payload);
    mail->frame.message = buf_span(&mail->message);
    mail->frame.payload = buf_span(&mail->payload);
}

void conn_send(struct conn *conn, const struct frame *frame, struct blob *payload_blob)
{
    assert_null(payload_blob);
    post(conn, frame, frame->payload);
}

bool conn_try_send_pieces(struct conn *conn, const struct frame *frame, const struct conn_piece *pieces, size_t count)
{
    assert_int_equal(count, 1);
    post(conn, frame, pieces[0].bytes);
    return true;
}

/* --- A node */

static inline void on_observe_image(void *ctx, uint32_t group, uint64_t index, uint64_t term)
{
    ((struct side *)ctx)->observed++;
}

static inline void side_open_store(struct side *side, uint64_t map_bytes)
{
    struct fixture *store = &side->store;
    struct err err;
    store->config.map_bytes = map_bytes;
    assert_int_equal(store_open(&store->config, &store->store, &err), 0);
    side->node.store = store->store;
    for (uint32_t group = 1; group <= GROUPS; group++) {
        struct partition *partition = &side->partitions[group];
        assert_int_equal(store_replica_open(store->store, group, 0xabc, 0, 0, 0, &partition->store, &err), 0);
    }
}

static inline void side_init(struct side *side, uint64_t other_node, uint64_t map_bytes)
{
    *side = (struct side){ 0 };
    fixture_init(&side->store);
    side->store.logger.level = LOGGER_ERROR;
    side->store.env.env.gates = &side->gates;
    for (uint32_t group = 1; group <= GROUPS; group++) {
        side->partitions[group].group = group;
        side->by_group[group] = &side->partitions[group];
    }
    side->node = (struct node){ .env = &side->store.env.env,
                                .logger = &side->store.logger,
                                .config = { .image_bytes_per_second = 64 << 20,
                                            .image_chunk_bytes = 512 << 10,
                                            .observe_image = on_observe_image,
                                            .ctx = side },
                                .topology = &side->topology,
                                .partitions = side->by_group,
                                .partition_count = GROUPS + 1,
                                .reserve = &side->reserve,
                                .scrub = &side->scrub,
                                .next_forward_id = 1 };
    side->link = (struct link){ .node = &side->node, .node_id = other_node, .conn = &side->conn, .peer.conn = &side->conn };
    side_open_store(side, map_bytes);
    side->images = images_new(&side->node);
}

/* All that its disk has to do is done. */
static inline void side_work(struct side *side)
{
    fake_env_settle(&side->store.env);
    fake_env_turn(&side->store.env);
    store_turn_end(side->store.store);
    fake_env_settle(&side->store.env);
}

static inline void side_forget_mails(struct side *side)
{
    for (size_t i = 0; i < side->conn.count; i++) {
        buf_fini(&side->conn.mails[i].message);
        buf_fini(&side->conn.mails[i].payload);
    }
    side->conn.count = 0;
}

static inline void side_fini(struct side *side)
{
    images_free(side->images);
    side_forget_mails(side);
    fixture_fini(&side->store);
}

/* Time passes with its ticks, for less than a heartbeat at a time. */
static inline void side_pass(struct side *side, uint64_t us)
{
    uint64_t end_us = side->store.env.now_us + us;
    while (side->store.env.now_us < end_us) {
        uint64_t left_us = end_us - side->store.env.now_us;
        fake_env_pass(&side->store.env, left_us < HEARTBEAT_US ? left_us : HEARTBEAT_US);
        images_tick(side->images);
    }
}

static inline void side_put(struct side *side, uint32_t group, const char *key, const char *value)
{
    side->store.replica = side->partitions[group].store;
    fixture_put(&side->store, key, value);
}

static inline void side_want_from(struct side *side, uint32_t group, uint64_t floor)
{
    struct raft_image_want want = { .to = REPLICA + TO_NODE, .floor = floor };
    images_want(side->images, &side->partitions[group], &want);
}

/* The follower's replica of the group needs an image: said with a heartbeat. */
static inline void side_want(struct side *side, uint32_t group)
{
    side_want_from(side, group, 1);
}

static inline bool side_is_offering(const struct side *side, uint32_t group)
{
    return side->partitions[group].offered_id != 0;
}

/* What the image offer of the other side is to this one. */
static inline void side_hear_offer(struct side *side, const struct partition *offering)
{
    struct raft_image image = { REPLICA + FROM_NODE, offering->offered_id, offering->offered_index, TERM };
    images_offered(side->images, &side->partitions[offering->group], &image);
}

/* --- What was sent */

/* The question, borrowed from the arena. */
static inline const Cairn__V1__ImageRequest *mail_question(const struct mail *mail, struct arena *arena)
{
    ProtobufCAllocator allocator = message_allocator(arena);
    assert_int_equal(mail->frame.type, FRAME_REQUEST);
    assert_int_equal(mail->frame.verb, VERB_IMAGE);
    const Cairn__V1__ImageRequest *asked = message_unpack(&cairn__v1__image_request__descriptor, &allocator, mail->frame.message);
    assert_non_null(asked);
    return asked;
}

/* The only mail that lies there. */
static inline const struct mail *only_mail(const struct side *side)
{
    assert_int_equal(side->conn.count, 1);
    return &side->conn.mails[0];
}

/* A question as the follower puts it, not by way of any connection. */
static inline void side_hear_question(struct side *side, const Cairn__V1__ImageRequest *asked, uint64_t request_id)
{
    uint8_t packed[1200];
    assert_true(cairn__v1__image_request__get_packed_size(asked) <= sizeof packed);
    size_t size = cairn__v1__image_request__pack(asked, packed);
    struct frame frame = { .type = FRAME_REQUEST, .verb = VERB_IMAGE, .request_id = request_id, .message = span_of(packed, size) };
    images_question(side->images, &side->link, &frame);
}

#endif
