/* Images between nodes: see images.h.
 *
 * Sending. images_want opens an image of the store as of its last flush and offers it. The index
 * that the follower needs may lie above that (a store to be healed whose log begins later): then a
 * flush is asked for, and the follower's next call finds a newer one. A question is answered by a
 * read job, when the bucket has tokens. An image is closed when the core has it no longer on offer,
 * when nobody asked for a while, or when it is old: it pins pages of LMDB, and of the log what
 * follows it.
 *
 * Receiving: a state per group.
 *
 *   ─offer─▶ IDLE ─ask─▶ ASKED ─answer─▶ WRITING ─durable─▶ ASKED … ─complete─▶ INSTALLING ─swapped─▶ (gone)
 *             ▲            │ lost, late     │ no room
 *             └────────────┴────────────────┘ images_offered goes on from IDLE
 *
 * Another id with the same index and term is the same image, whoever offers it: the stage goes on.
 * Anything else begins anew. An image that is not offered for long is given up.
 *
 * On a full disk (the reserve is spent) neither goes on: the room that is left is for deletes, votes
 * and flushes (decisions/008). An open image pins pages, so that LMDB's file grows with each flush; a
 * stage takes room until it is swapped in. The exceptions: a sender whose group has no majority
 * without the follower, for then nothing is written anyway; and a stage that is complete, whose swap
 * lets the log be cut.
 *
 * Users' writes go before an image where it pins so much of LMDB's map that flushes come to an end of it
 * (store_pinned): the oldest is given up, the scrub too, and begun anew later, for a while one at a time: together they share the
 * rate, so each takes longer and the oldest keeps more. Likewise what is being received, where it takes room
 * that they need, or finds none itself (store_crowd): the newest is given up, so that the others can become whole. None
 * is begun for a while then. One that is complete only goes where a flush waits for its room.
 *
 * Thread: the loop; the reads in jobs, which outlive the node if they must. */
#include "node/images.h"

#include "base/check.h"
#include "node/node_private.h"
#include "wire/message.h"
#include "proto/peer.pb-c.h"

enum {
    /* A follower that asks nothing for so long has lost interest or waits for its turn. */
    IDLE_US = 20 * 1000 * 1000,
    /* Where all places are taken, one that nobody used for so long is given to another: the two
     * sides choose by themselves, and each could wait for what the other has no place for. */
    STALE_US = 1000 * 1000,
    /* The same for one that the follower has asked for: it has a place there, and between two questions, or behind the last one, a
     * piece is written and swapped in, behind those of other groups and a flush. Withdrawn meanwhile, it comes too late: the log is
     * not kept behind it any more. So does the next one, as long as others want its place. */
    BEGUN_US = 5 * 1000 * 1000,
    /* Pages of LMDB that an image pins can't be used again: the file grows with what is written
       meanwhile. */
    AGE_US_MAX = 15 * 60 * 1000 * 1000,
    /* An answer that is so late is asked for again. Longer than the throttle may hold one back. */
    ANSWER_US = 15 * 1000 * 1000,
    /* The bucket holds what may be read in such a time: the largest burst. */
    BURST_US = 100 * 1000,
    /* A swap that could not be made for want of space, or a sender that is damaged, is tried again
       after. */
    RETRY_US = 5 * 1000 * 1000,
    /* Between giving up one that is received for want of room, and the next: so long its removal may take. */
    CROWDED_US = 1000 * 1000,
    /* Then none is begun for so long: all that arrived of it was for nothing. */
    NO_ROOM_US = 30 * 1000 * 1000,
    /* After one that is sent was given up for the pages that it kept, they are sent one by one for so long. */
    ALONE_US = 30 * 1000 * 1000,
};

/* An image that is open here for a follower. */
struct sending {
    struct env_job job;
    struct images *images; /* NULL: the node is gone, the job ends it */
    struct list link;
    uint32_t group;
    uint64_t to, node_id; /* replica, and the node that holds it */
    uint64_t id;
    struct store_image *image;
    uint64_t opened_us, asked_us;
    bool is_reading, is_over;
    bool has_question; /* it waits for tokens or a read in flight */
    uint64_t request_id;
    struct buf position;
    uint32_t chunk_bytes;
    struct buf chunk;
    int status;
    struct err err;
};

struct receiving {
    struct images *images;
    struct list link;
    uint32_t group;
    enum { IDLE, ASKED, WRITING, INSTALLING } state;
    struct raft_image image;
    uint64_t node_id; /* that offers it */
    uint64_t request_id;
    uint64_t begun_us, asked_us, offered_us;
    uint64_t not_before_us;
    uint64_t bytes;
    struct store_stage *stage;
};

struct images {
    struct node *node;
    struct list sendings, receivings;
    size_t receiving_count;
    int64_t tokens; /* bytes that may be read now; below zero: owed */
    uint64_t filled_us;
    uint64_t
        given_up_us; /* when one that was sent was given up for the pages that it kept; 0: never */
    uint64_t yielded_us; /* when one that was received was given up for want of room; 0: never */
};

struct images *images_new(struct node *node)
{
    struct images *images = MEM_NEW(struct images);
    images->node = node;
    images->filled_us = env_now_us(node->env);
    list_init(&images->sendings);
    list_init(&images->receivings);
    return images;
}

static struct mem_gate *image_gate(const struct images *images)
{
    return env_gate(images->node->env, MEM_IMAGE);
}

/* --- Sending */

static void sending_free(struct sending *sending)
{
    CHECK(!sending->is_reading);
    list_remove(&sending->link);
    store_image_close(sending->image);
    buf_fini(&sending->position);
    buf_fini(&sending->chunk);
    mem_free(sending);
}

/* Closes it, now or when its read ends. */
static void sending_end(struct sending *sending)
{
    if (sending->is_reading) {
        sending->is_over = true;
    } else {
        sending_free(sending);
    }
}

static struct sending *find_sending(struct images *images, uint32_t group, uint64_t to)
{
    LIST_FOR(at, &images->sendings)
    {
        struct sending *sending = container_of(at, struct sending, link);
        if (sending->group == group && sending->to == to && !sending->is_over) {
            return sending;
        }
    }
    return NULL;
}

/* Whether nobody seems to want the image, so that its place may go to another. */
static bool is_unused(const struct sending *sending, uint64_t now_us)
{
    bool is_begun = sending->asked_us != sending->opened_us;
    return !sending->is_reading && !sending->has_question &&
           now_us - sending->asked_us > (is_begun ? BEGUN_US : STALE_US);
}

/* Withdraws one image that nobody asks for. */
static void sending_make_room(struct images *images)
{
    uint64_t now_us = env_now_us(images->node->env);
    LIST_FOR(at, &images->sendings)
    {
        struct sending *sending = container_of(at, struct sending, link);
        if (is_unused(sending, now_us)) {
            partition_image_withdraw(node_find_partition(images->node, sending->group),
                                     sending->to);
            sending_free(sending);
            return;
        }
    }
}

static bool is_full(const struct images *images)
{
    return reserve_is_spent(images->node->reserve);
}

/* Whether the store has no room for another stage, as far as known. */
static bool is_crowded(const struct images *images, uint64_t now_us)
{
    return store_crowd(images->node->store) != STORE_CROWD_NONE ||
           (images->yielded_us != 0 && now_us - images->yielded_us < NO_ROOM_US);
}

/* Whether no more than one image may be open here for now, and one is. */
static bool is_taken(const struct images *images)
{
    uint64_t now_us = env_now_us(images->node->env);
    return images->given_up_us != 0 && now_us - images->given_up_us < ALONE_US &&
           !list_is_empty(&images->sendings);
}

/* Whether an image of the group may be open here. */
static bool may_send(const struct images *images, const struct partition *partition)
{
    return store_pinned(images->node->store) != STORE_PINNED_ALL &&
           (!reserve_is_tight(images->node->reserve) ||
            !raft_needs_no_image(partition_raft(partition)));
}

static void sending_give_up(struct sending *sending)
{
    struct node *node = sending->images->node;
    LOG_WARN(node->logger,
             "part=%u image=%lu given up: it keeps pages of the store that writes need",
             sending->group, sending->id);
    node->counters.images_given_up++;
    sending->images->given_up_us = env_now_us(node->env);
    partition_image_withdraw(node_find_partition(node, sending->group), sending->to);
    sending_end(sending);
}

/* Ends who keeps pages that flushes need: the oldest, or all. One that is being read ends with that. */
static void give_way(struct images *images)
{
    struct node *node = images->node;
    enum store_pinned pinned = store_pinned(node->store);
    LIST_FOR_SAFE(at, &images->sendings)
    {
        struct sending *sending = container_of(at, struct sending, link);
        if (pinned == STORE_PINNED_LITTLE || scrub_give_way(node->scrub, sending->opened_us)) {
            return; /* the scrub was older */
        }
        if (!sending->is_over) {
            sending_give_up(sending);
        }
        if (pinned == STORE_PINNED_MUCH) {
            return; /* if one is not enough, the next flush says so */
        }
    }
    if (pinned != STORE_PINNED_LITTLE) {
        scrub_give_way(node->scrub, UINT64_MAX);
    }
}

void images_want(struct images *images, struct partition *partition,
                 const struct raft_image_want *want)
{
    struct node *node = images->node;
    struct sending *old = find_sending(images, partition_group(partition), want->to);
    if (old) { /* the core has it no longer on offer */
        sending_end(old);
        return;
    }
    if (!may_send(images, partition) || is_taken(images)) {
        return; /* it is asked again */
    }
    struct store_image *image;
    struct err err;
    int status = store_image_open(partition_store(partition), &image, &err);
    bool is_too_old = status == 0 && store_image_index(image) < want->floor;
    if (status == ERR_NOT_FOUND || is_too_old) {
        node->flush_is_wanted = true;
    } else if (status == ERR_BUSY) {
        sending_make_room(images);
    }
    if (status != 0 || is_too_old) {
        if (status != 0 && status != ERR_BUSY && status != ERR_NOT_FOUND) {
            LOG_WARN(node->logger, "part=%u no image can be opened: %s", partition_group(partition),
                     err.text);
        }
        store_image_close(status == 0 ? image : NULL);
        return; /* it is asked again */
    }
    struct sending *sending = MEM_TRY_NEW(image_gate(images), struct sending);
    if (!sending) {
        store_image_close(image);
        return; /* it is asked again */
    }
    *sending = (struct sending){ .images = images,
                                 .group = partition_group(partition),
                                 .to = want->to,
                                 .node_id = partition_node_of(partition, want->to),
                                 .id = node->next_forward_id++,
                                 .image = image,
                                 .chunk_bytes = node->config.image_chunk_bytes,
                                 .opened_us = env_now_us(node->env) };
    sending->asked_us = sending->opened_us;
    list_append(&images->sendings, &sending->link);
    if (partition_image_offer(partition, want->to, store_image_index(image), sending->id) != 0) {
        sending_free(sending);
        return;
    }
    node->counters.images_offered++;
    LOG_INFO(node->logger, "part=%u image=%lu index=%lu offered to replica %lu", sending->group,
             sending->id, store_image_index(image), want->to);
}

static void answer(struct node *node, uint64_t node_id, uint64_t request_id, int status,
                   struct span chunk)
{
    struct link *link = membership_find(node, node_id);
    if (!link || !link->peer.conn) {
        return; /* it asks again */
    }
    struct frame frame = { .type = FRAME_RESPONSE,
                           .verb = VERB_IMAGE,
                           .status = status,
                           .request_id = request_id,
                           .epoch = node->topology->epoch,
                           .time = node_time(node),
                           .payload = chunk };
    struct conn_piece piece = { chunk, NULL };
    conn_try_send_pieces(link->conn, &frame, &piece, 1); /* it asks again */
}

static void read_work(struct env_job *job)
{
    struct sending *sending = container_of(job, struct sending, job);
    buf_clear(&sending->chunk);
    sending->status = store_image_read(sending->image, buf_span(&sending->position),
                                       sending->chunk_bytes, &sending->chunk, &sending->err);
}

static void read_done(struct env_job *job)
{
    struct sending *sending = container_of(job, struct sending, job);
    struct images *images = sending->images;
    sending->is_reading = false;
    if (!images) {
        sending_free(sending);
        return;
    }
    struct node *node = images->node;
    images->tokens -= (int64_t)sending->chunk.size;
    node->counters.image_bytes_sent += sending->chunk.size;
    if (sending->status != 0) {
        LOG_WARN(node->logger, "part=%u image=%lu cannot be read: %s", sending->group, sending->id,
                 sending->err.text);
    }
    answer(node, sending->node_id, sending->request_id, sending->status,
           sending->status == 0 ? buf_span(&sending->chunk) : (struct span){ 0 });
    bool may_go_on = sending->status == 0 || sending->status == ERR_BAD_REQUEST ||
                     sending->status == ERR_NO_MEMORY;
    if (sending->is_over || !may_go_on) {
        sending_free(sending);
    }
}

static void read_if_due(struct sending *sending)
{
    struct images *images = sending->images;
    if (sending->has_question && !sending->is_reading && images->tokens > 0) {
        sending->has_question = false;
        sending->is_reading = true;
        sending->job.work = read_work;
        sending->job.done = read_done;
        env_job_start(images->node->env, ENV_JOB_READ, &sending->job);
    }
}

void images_question(struct images *images, struct link *link, const struct frame *frame)
{
    struct node *node = images->node;
    struct arena arena = { .gate = image_gate(images) };
    ProtobufCAllocator allocator = message_allocator(&arena);
    const Cairn__V1__ImageRequest *asked =
        message_unpack(&cairn__v1__image_request__descriptor, &allocator, frame->message);
    int status = arena.has_refused                                     ? ERR_NO_MEMORY
                 : asked && asked->position.len <= LIMIT_KEY_BYTES * 2 ? ERR_NOT_FOUND
                                                                       : ERR_BAD_REQUEST;
    LIST_FOR(at, &images->sendings)
    {
        struct sending *sending = container_of(at, struct sending, link);
        if (status == ERR_NOT_FOUND && sending->id == asked->id && sending->group == asked->group &&
            sending->node_id == link->node_id && !sending->is_over) {
            if (asked->is_refused) {
                LOG_WARN(node->logger, "part=%u image=%lu refused by replica %lu: it is scrubbed",
                         sending->group, sending->id, sending->to);
                scrub_hurry(node->scrub, sending->group);
                partition_image_withdraw(node_find_partition(node, sending->group), sending->to);
                sending_end(sending);
                break;
            }
            /* One piece at a time: while one is read, the asker has given that one up. */
            status = sending->is_reading ? ERR_BUSY : 0;
            buf_clear(&sending->position);
            if (status == 0 &&
                !buf_try_reserve(&sending->position, image_gate(images), asked->position.len)) {
                status = ERR_NO_MEMORY;
            }
            if (status == 0) {
                buf_append(&sending->position, asked->position.data, asked->position.len);
                sending->request_id = frame->request_id;
                sending->has_question = true;
                sending->asked_us = env_now_us(node->env);
                read_if_due(sending);
            }
            break;
        }
    }
    if (status != 0) {
        answer(node, link->node_id, frame->request_id, status, (struct span){ 0 });
    }
    arena_fini(&arena);
}

static void fill_bucket(struct images *images, uint64_t now_us)
{
    uint64_t rate = images->node->config.image_bytes_per_second;
    uint64_t passed_us = now_us - images->filled_us;
    passed_us = passed_us < 1000 * 1000 ? passed_us : 1000 * 1000;
    int64_t full = (int64_t)(rate * BURST_US / 1000000) + 1;
    images->tokens += (int64_t)(rate * passed_us / 1000000);
    images->tokens = images->tokens < full ? images->tokens : full;
    images->filled_us = now_us;
}

static void tick_sending(struct sending *sending, uint64_t now_us)
{
    struct node *node = sending->images->node;
    struct partition *partition = node_find_partition(node, sending->group);
    bool is_offered = partition_image_is_offered(partition, sending->to, sending->id);
    bool is_stale = now_us - sending->asked_us > IDLE_US ||
                    now_us - sending->opened_us > AGE_US_MAX ||
                    !may_send(sending->images, partition);
    if (is_offered && !is_stale) {
        read_if_due(sending);
        return;
    }
    if (sending->is_over) {
        return;
    }
    if (is_offered) {
        LOG_INFO(node->logger, "part=%u image=%lu withdrawn from replica %lu", sending->group,
                 sending->id, sending->to);
        partition_image_withdraw(partition, sending->to);
    }
    sending_end(sending);
}

/* --- Receiving */

static struct receiving *find_receiving(struct images *images, uint32_t group)
{
    LIST_FOR(at, &images->receivings)
    {
        struct receiving *receiving = container_of(at, struct receiving, link);
        if (receiving->group == group) {
            return receiving;
        }
    }
    return NULL;
}

static void receiving_free(struct receiving *receiving)
{
    store_stage_abort(receiving->stage);
    list_remove(&receiving->link);
    receiving->images->receiving_count--;
    mem_free(receiving);
}

/* Not now: goes on with an offer that comes later. */
static void receiving_rest(struct receiving *receiving, uint64_t wait_us)
{
    receiving->state = IDLE;
    receiving->not_before_us = env_now_us(receiving->images->node->env) + wait_us;
}

/* To the node that offers the image; false: there is no link, or no memory. */
static bool send_question(struct receiving *receiving, Cairn__V1__ImageRequest *message)
{
    struct node *node = receiving->images->node;
    struct link *link = membership_find(node, receiving->node_id);
    if (!link || !link->peer.conn) {
        return false;
    }
    message->group = receiving->group;
    message->id = receiving->image.id;
    struct buf packed = { 0 };
    size_t size = cairn__v1__image_request__get_packed_size(message);
    if (!buf_try_reserve(&packed, image_gate(receiving->images), size)) {
        return false;
    }
    cairn__v1__image_request__pack(message, buf_extend(&packed, size));
    receiving->request_id = node->next_forward_id++;
    struct frame frame = { .type = FRAME_REQUEST,
                           .verb = VERB_IMAGE,
                           .request_id = receiving->request_id,
                           .epoch = node->topology->epoch,
                           .time = node->hlc,
                           .message = buf_span(&packed) };
    conn_send(link->conn, &frame, NULL);
    buf_fini(&packed);
    return true;
}

static void on_installed(void *ctx, int status, const struct err *err)
{
    struct receiving *receiving = ctx;
    struct node *node = receiving->images->node;
    struct partition *partition = node_find_partition(node, receiving->group);
    const struct raft_image *image = &receiving->image;
    if (status == 0) {
        receiving->stage = NULL;
        node->counters.images_received++;
        LOG_INFO(node->logger, "part=%u image=%lu index=%lu bytes=%lu ms=%lu installed",
                 receiving->group, image->id, image->index, receiving->bytes,
                 (env_now_us(node->env) - receiving->begun_us) / 1000);
        if (node->config.observe_image) {
            node->config.observe_image(node->config.ctx, receiving->group, image->index,
                                       image->term);
        }
        partition_image_installed(partition, image->index, image->term);
        receiving_free(receiving);
        return;
    }
    LOG_WARN(node->logger, "part=%u image=%lu cannot be installed: %s", receiving->group, image->id,
             err->text);
    partition_image_failed(partition);
    receiving_rest(receiving, RETRY_US);
    if (status == ERR_CORRUPT) { /* the stage is gone */
        Cairn__V1__ImageRequest message = CAIRN__V1__IMAGE_REQUEST__INIT;
        message.is_refused = true;
        send_question(receiving, &message);
        receiving->stage = NULL;
        node->counters.images_refused++;
    }
}

static void install(struct receiving *receiving)
{
    struct partition *partition = node_find_partition(receiving->images->node, receiving->group);
    if (partition_image_begin(partition, receiving->image.index, receiving->image.term)) {
        receiving->state = INSTALLING;
        store_stage_install(receiving->stage, on_installed, receiving);
    } else {
        receiving_rest(receiving, 0); /* not yet, or nobody offers it again */
    }
}

/* Asks for what is missing. */
static void ask(struct receiving *receiving)
{
    struct span position = store_stage_position(receiving->stage);
    Cairn__V1__ImageRequest message = CAIRN__V1__IMAGE_REQUEST__INIT;
    message.position = (ProtobufCBinaryData){ position.size, (uint8_t *)position.data };
    receiving->asked_us = env_now_us(receiving->images->node->env);
    receiving->state = send_question(receiving, &message) ? ASKED : IDLE;
}

static bool is_complete(const struct receiving *receiving)
{
    return receiving->stage && store_stage_is_complete(receiving->stage);
}

static void go_on(struct receiving *receiving)
{
    if (is_complete(receiving)) {
        install(receiving);
    } else if (is_full(receiving->images)) {
        receiving_rest(receiving, 0); /* images_tick ends it */
    } else {
        ask(receiving);
    }
}

static void on_written(void *ctx, int status, const struct err *err)
{
    struct receiving *receiving = ctx;
    if (status == 0) {
        go_on(receiving);
        return;
    }
    LOG_WARN(receiving->images->node->logger, "part=%u image=%lu a piece cannot be written: %s",
             receiving->group, receiving->image.id, err->text);
    receiving_rest(receiving, RETRY_US);
}

/* Takes the offer into an idle state: the stage goes on if it is the same image, whoever offers it.
 */
static bool adopt(struct receiving *receiving, struct partition *partition,
                  const struct raft_image *image)
{
    bool is_same = receiving->image.index == image->index && receiving->image.term == image->term;
    if (receiving->stage && !is_same) {
        store_stage_abort(receiving->stage);
        receiving->stage = NULL;
    }
    receiving->image = *image;
    receiving->node_id = partition_node_of(partition, image->from);
    if (receiving->stage) {
        return true;
    }
    struct err err;
    receiving->bytes = 0;
    receiving->begun_us = env_now_us(receiving->images->node->env);
    int status = store_stage_open(partition_store(partition), image->index, image->term,
                                  &receiving->stage, &err);
    if (status != 0) {
        receiving->stage = NULL;
    }
    return status == 0;
}

/* Gives up one image that isn't offered any more. */
static void receiving_make_room(struct images *images, uint64_t now_us)
{
    LIST_FOR(at, &images->receivings)
    {
        struct receiving *receiving = container_of(at, struct receiving, link);
        if (receiving->state == IDLE && now_us - receiving->offered_us > STALE_US) {
            receiving_free(receiving);
            return;
        }
    }
}

static void receiving_give_up(struct receiving *receiving, uint64_t now_us)
{
    struct images *images = receiving->images;
    struct node *node = images->node;
    LOG_WARN(node->logger,
             "part=%u image=%lu given up with %lu bytes: the store has no room for it",
             receiving->group, receiving->image.id, receiving->bytes);
    node->counters.images_without_room++;
    images->yielded_us = now_us;
    if (receiving->state == INSTALLING) {
        partition_image_failed(node_find_partition(node, receiving->group));
    }
    receiving_free(receiving);
}

/* Gives up what takes room that flushes or users' writes need: all where a flush waits for it, which no swap can overtake (so none
 * of those that are complete is in its swap); else the newest that is not complete, and then looks what the others do with its room. */
static void receiving_give_way(struct images *images, uint64_t now_us)
{
    enum store_crowd crowd = store_crowd(images->node->store);
    struct receiving *newest = NULL;
    LIST_FOR_SAFE(at, &images->receivings)
    {
        struct receiving *receiving = container_of(at, struct receiving, link);
        if (crowd == STORE_CROWD_ALL && receiving->stage) {
            receiving_give_up(receiving, now_us);
        } else if (receiving->stage && !is_complete(receiving)) {
            newest = receiving;
        }
    }
    bool is_soon = images->yielded_us != 0 && now_us - images->yielded_us < CROWDED_US;
    if (newest && !is_soon && crowd == STORE_CROWD_SOME) {
        receiving_give_up(newest, now_us);
    }
}

void images_offered(struct images *images, struct partition *partition,
                    const struct raft_image *image)
{
    struct node *node = images->node;
    uint64_t now_us = env_now_us(node->env);
    struct receiving *receiving = find_receiving(images, partition_group(partition));
    if (!receiving && (is_full(images) || is_crowded(images, now_us))) {
        return; /* the offer comes again */
    }
    if (!receiving) {
        if (images->receiving_count == LIMIT_IMAGES_RECEIVED) {
            receiving_make_room(images, now_us);
        }
        if (images->receiving_count == LIMIT_IMAGES_RECEIVED) {
            return; /* the offer comes again */
        }
        receiving = MEM_TRY_NEW(image_gate(images), struct receiving);
        if (!receiving) {
            return; /* the offer comes again */
        }
        receiving->images = images;
        receiving->group = partition_group(partition);
        list_append(&images->receivings, &receiving->link);
        images->receiving_count++;
    }
    receiving->offered_us = now_us;
    bool is_other = receiving->image.id != image->id || receiving->image.from != image->from;
    if (receiving->state == ASKED && (is_other || now_us - receiving->asked_us > ANSWER_US)) {
        receiving->state = IDLE;
    }
    if (receiving->state != IDLE || now_us < receiving->not_before_us) {
        return;
    }
    if (adopt(receiving, partition, image)) {
        go_on(receiving);
    }
}

void images_answer(struct images *images, struct link *link, const struct frame *frame)
{
    LIST_FOR(at, &images->receivings)
    {
        struct receiving *receiving = container_of(at, struct receiving, link);
        if (receiving->state != ASKED || receiving->request_id != frame->request_id ||
            receiving->node_id != link->node_id) {
            continue;
        }
        if (frame->status != 0 || frame->payload.size == 0) {
            receiving_rest(receiving, frame->status == ERR_NOT_FOUND ? 0 : RETRY_US);
            return;
        }
        struct blob *chunk = blob_try_new(image_gate(images), frame->payload.size);
        if (!chunk) {
            receiving_rest(receiving, RETRY_US); /* then it asks for this piece again */
            return;
        }
        memcpy(chunk->data, frame->payload.data, frame->payload.size);
        receiving->bytes += chunk->size;
        images->node->counters.image_bytes_received += chunk->size;
        receiving->state = WRITING;
        store_stage_write(receiving->stage, chunk, on_written, receiving);
        blob_unref(chunk);
        return;
    }
}

void images_link_lost(struct images *images, struct link *link)
{
    LIST_FOR(at, &images->receivings)
    {
        struct receiving *receiving = container_of(at, struct receiving, link);
        if (receiving->state == ASKED && receiving->node_id == link->node_id) {
            receiving->state = IDLE;
        }
    }
    LIST_FOR(at, &images->sendings)
    {
        struct sending *sending = container_of(at, struct sending, link);
        if (sending->node_id == link->node_id) {
            sending->has_question = false;
        }
    }
}

/* --- */

void images_tick(struct images *images)
{
    uint64_t now_us = env_now_us(images->node->env);
    fill_bucket(images, now_us);
    give_way(images);
    receiving_give_way(images, now_us);
    LIST_FOR_SAFE(at, &images->sendings)
    {
        tick_sending(container_of(at, struct sending, link), now_us);
    }
    LIST_FOR_SAFE(at, &images->receivings)
    {
        struct receiving *receiving = container_of(at, struct receiving, link);
        if (receiving->state == ASKED && now_us - receiving->asked_us > ANSWER_US) {
            receiving->state = IDLE;
        }
        /* It was caught up otherwise, or the primary is gone; or the stage takes room from others. */
        bool is_over = now_us - receiving->offered_us > IDLE_US ||
                       (is_full(images) && !is_complete(receiving));
        if (receiving->state == IDLE && is_over) {
            receiving_free(receiving);
        }
    }
}

void images_free(struct images *images)
{
    if (!images) {
        return;
    }
    LIST_FOR_SAFE(at, &images->sendings)
    {
        struct sending *sending = container_of(at, struct sending, link);
        if (sending->is_reading) {
            list_remove(&sending->link);
            sending->images = NULL; /* read_done frees it */
        } else {
            sending_free(sending);
        }
    }
    while (!list_is_empty(&images->receivings)) {
        receiving_free(container_of(images->receivings.next, struct receiving, link));
    }
    mem_free(images);
}
