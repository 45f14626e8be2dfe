/* A small world for tests of the Raft core: replicas in one process, a network of packets that the
 * test delivers, drops, repeats or reorders, and for each replica a disk on which things become
 * durable when the test says so.
 *
 * Replicas are numbered from 1, and that is their id. Each step of the world is a loop turn of one
 * replica: an event, the log's effects right after it, then (world_turn) raft_flush and the
 * messages. By default disks finish at the end of each turn; with `manual_disk` they finish by
 * world_sync. Nothing is delivered but by the test. */
#ifndef RAFT_SCRIPT_H
#define RAFT_SCRIPT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/err.h"
#include "base/mem.h"
#include "raft/raft.h"

enum {
    WORLD_LOG = 4096,     /* indexes per replica */
    WORLD_OPS = 4096,     /* unfinished disk writes per replica */
    WORLD_PACKETS = 8192, /* in the network */
    WORLD_T_MS = 100,
    WORLD_HEARTBEAT_MS = 20,
    WORLD_ENTRY_BYTES = 100,
};

/* An entry with its payload. No-ops have the value 0. */
struct world_entry {
    uint64_t term, value;
};

struct world_op {
    bool is_state;
    bool is_heal;  /* a state too */
    bool is_fill;  /* of the entry `first` of `term` */
    bool is_start; /* the term before `first` was learned */
    bool is_reset; /* the log begins anew behind `first`, of `term` */
    uint64_t term, vote;
    uint64_t first;
    uint32_t count;
    struct world_entry *entries;
};

struct world_packet {
    struct raft_message message;
    struct world_entry *entries;
};

struct world_node {
    struct raft raft;
    struct world *world;
    bool is_up;
    bool manual_disk;
    uint64_t now_ms;
    uint64_t changes;     /* see raft_config */
    uint64_t memory_from; /* entries below are not in memory */
    struct world_entry log[WORLD_LOG];
    /* Flags of all turns since the test cleared them. */
    bool saw_refuted, saw_undecided;
    bool saw_commit, saw_reads, saw_transfer_done, saw_image, saw_diverged, saw_read_wanted;
    uint32_t appended_skip; /* of the last append effect */
    struct raft_fetch fetches[LIMIT_REPLICAS];
    int fetch_count;
    /* Disk: what survives a crash, and what is on its way there. */
    uint64_t disk_term, disk_vote;
    uint64_t disk_start, disk_start_term, disk_last, disk_flushed;
    struct world_entry disk[WORLD_LOG];
    struct world_op ops[WORLD_OPS];
    int op_count;
    /* Images. The store that was fetched last, and what the disk holds of it. */
    struct raft_image_want wants[LIMIT_REPLICAS];
    int want_count;
    struct raft_image image; /* on offer to this replica; from 0: none */
    bool is_installing;      /* the store has swapped `image` in, the core doesn't know yet */
    bool is_damaged;         /* the store on disk is */
    uint64_t disk_image_index, disk_image_term, disk_flushed_max;
    uint64_t images_installed, images_kept, images_healed;
    /* Damage to the log: payloads that are gone (log[] and disk[] still have them, for the test to
     * compare), as the log knows it and as the disk has it; replicas that lost entries. */
    bool holes[WORLD_LOG], filling[WORLD_LOG], disk_holes[WORLD_LOG];
    bool disk_is_suspect, was_lost;
    bool is_to_hear; /* as in raft_start */
    uint64_t filled, heals, starts;
    uint64_t beats_followed, beats_refused;
};

struct world {
    int count;
    struct raft_config config; /* what all have in common */
    struct world_node *nodes;  /* [1 … count] */
    struct world_packet packets[WORLD_PACKETS];
    int packet_count;
    bool blocked[LIMIT_REPLICAS + 1][LIMIT_REPLICAS + 1]; /* [from][to]: packets vanish */
    uint64_t next_value;
    uint64_t next_image;
};

static inline bool world_has_payload(const struct world_node *node, uint64_t index)
{
    return !node->holes[index] || node->filling[index];
}

static inline uint32_t world_in_memory(void *ctx, uint64_t first, uint32_t count_max,
                                       uint32_t bytes_max, uint32_t *bytes)
{
    struct world_node *node = ctx;
    if (first < node->memory_from || count_max == 0) {
        return 0;
    }
    uint32_t count = bytes_max / WORLD_ENTRY_BYTES;
    count = count == 0 ? 1 : count > count_max ? count_max : count;
    for (uint32_t i = 0; i < count; i++) {
        if (!world_has_payload(node, first + i)) {
            count = i;
        }
    }
    *bytes = count * WORLD_ENTRY_BYTES;
    return count;
}

/* --- Disk --- */

static inline struct world_op *world_op_new(struct world_node *node)
{
    assert_true(node->op_count < WORLD_OPS);
    struct world_op *op = &node->ops[node->op_count++];
    *op = (struct world_op){ 0 };
    return op;
}

/* Puts an operation's first `count` entries on the disk. */
static inline void world_op_apply(struct world_node *node, const struct world_op *op,
                                  uint32_t count)
{
    if (op->is_state) {
        node->disk_term = op->term;
        node->disk_vote = op->vote;
        node->disk_is_suspect = node->disk_is_suspect && !op->is_heal;
        return;
    }
    if (op->is_fill) {
        if (node->disk[op->first].term == op->term) {
            node->disk_holes[op->first] = false;
        }
        return;
    }
    if (op->is_start) {
        if (node->disk_start == op->first) {
            node->disk_start_term = op->term;
        }
        return;
    }
    if (op->is_reset) {
        node->disk_start = op->first + 1;
        node->disk_start_term = op->term;
        node->disk_last = op->first;
        return;
    }
    for (uint32_t i = 0; i < count; i++) {
        node->disk[op->first + i] = op->entries[i];
        node->disk_holes[op->first + i] = false;
        node->disk_last = op->first + i;
    }
}

static inline void world_ops_drop(struct world_node *node)
{
    for (int i = 0; i < node->op_count; i++) {
        free(node->ops[i].entries);
    }
    node->op_count = 0;
}

/* As the driver does after each event. */
static inline void world_tell_holes(struct world_node *node)
{
    struct raft *raft = &node->raft;
    uint64_t hole = 0, unfilled = 0;
    for (uint64_t i = raft->last_index; i >= raft->log_start; i--) {
        bool counts = i > raft->flushed;
        hole = node->holes[i] && counts ? i : hole;
        bool is_asked = counts || raft->role == RAFT_LEADER;
        unfilled = node->holes[i] && !node->filling[i] && is_asked ? i : unfilled;
    }
    raft_holes(raft, hole, unfilled);
}

/* Payloads that fill holes, whatever else becomes of the message. */
static inline void world_fill(struct world_node *node, const struct world_packet *packet)
{
    for (uint32_t i = 0; packet && i < packet->message.count; i++) {
        uint64_t index = packet->message.index + 1 + i;
        bool is_there = index >= node->raft.log_start && index <= node->raft.last_index;
        if (is_there && node->holes[index] && !node->filling[index] &&
            node->log[index].term == packet->entries[i].term) {
            assert_int_equal(node->log[index].value, packet->entries[i].value);
            struct world_op *op = world_op_new(node);
            op->is_fill = node->filling[index] = true;
            op->first = index;
            op->term = packet->entries[i].term;
            node->filled++;
        }
    }
}

/* Carries out persist_state and append, heal and start_learned. */
static inline void world_log_effects(struct world_node *node, const struct world_packet *packet)
{
    struct raft *raft = &node->raft;
    if (raft->out.persist_state) {
        struct world_op *op = world_op_new(node);
        op->is_state = true;
        op->term = raft->term;
        op->vote = raft->vote;
    }
    if (raft->out.append) {
        struct world_op *op = world_op_new(node);
        op->first = raft->out.append_first;
        op->count = raft->out.append_count;
        op->entries = calloc(op->count, sizeof(*op->entries));
        node->appended_skip = raft->out.append_skip;
        for (uint32_t i = 0; i < op->count; i++) {
            uint64_t index = op->first + i;
            assert_true(index < WORLD_LOG);
            if (raft->role == RAFT_LEADER) {
                op->entries[i].term = raft->term;
                op->entries[i].value = raft_is_noop(raft, index) ? 0 : ++node->world->next_value;
            } else {
                assert_non_null(packet);
                op->entries[i] = packet->entries[raft->out.append_skip + i];
                assert_int_equal(packet->message.index + 1 + raft->out.append_skip + i, index);
            }
            assert_int_equal(op->entries[i].term, raft_term_at(raft, index));
            node->log[index] = op->entries[i];
            node->holes[index] = node->filling[index] = false;
        }
    }
    if (raft->out.heal) {
        raft->out.heal = false;
        struct world_op *op = world_op_new(node);
        op->is_state = op->is_heal = true;
        op->term = raft->term;
        op->vote = raft->vote;
    }
    if (raft->out.start_learned) {
        raft->out.start_learned = false;
        struct world_op *op = world_op_new(node);
        op->is_start = true;
        op->first = raft->log_start;
        op->term = raft->start_term;
    }
    raft_effects_clear_log(raft);
    world_fill(node, packet);
    world_tell_holes(node);
}

/* Finishes the oldest write and tells the core. As the log must, it does not report what a later
 * write replaces. */
static inline void world_sync_one(struct world_node *node)
{
    assert_true(node->op_count > 0);
    struct world_op op = node->ops[0];
    node->op_count--;
    memmove(&node->ops[0], &node->ops[1], (size_t)node->op_count * sizeof(node->ops[0]));
    world_op_apply(node, &op, op.count);
    if (op.is_state) {
        raft_state_durable(&node->raft, op.term, op.vote);
        if (op.is_heal) {
            raft_healed(&node->raft);
            node->heals++;
        }
    } else if (op.is_fill) {
        bool is_same =
            op.first <= node->raft.last_index && raft_term_at(&node->raft, op.first) == op.term;
        if (is_same && node->filling[op.first]) {
            node->holes[op.first] = node->filling[op.first] = false;
        }
    } else if (op.is_start) {
    } else if (!op.is_reset) {
        uint64_t index = op.first + op.count - 1;
        for (int i = 0; i < node->op_count; i++) {
            if (node->ops[i].is_reset) {
                index = 0;
            } else if (node->ops[i].count > 0 && node->ops[i].first <= index) {
                index = node->ops[i].first - 1;
            }
        }
        if (index >= op.first) {
            raft_entries_durable(&node->raft, index, op.entries[index - op.first].term);
        }
    }
    free(op.entries);
    world_log_effects(node, NULL);
}

/* --- Turns --- */

static inline void world_emit(struct world_node *node, const struct raft_message *message)
{
    struct world *world = node->world;
    if (world->blocked[message->from][message->to] || world->packet_count == WORLD_PACKETS) {
        return;
    }
    struct world_packet *packet = &world->packets[world->packet_count++];
    packet->message = *message;
    packet->entries = message->count ? calloc(message->count, sizeof(*packet->entries)) : NULL;
    for (uint32_t i = 0; i < message->count; i++) {
        assert_true(world_has_payload(node, message->index + 1 + i));
        packet->entries[i] = node->log[message->index + 1 + i];
    }
}

/* Beats and their answers travel as packets of their own: term, stamp and echo count, and `granted`. */
enum { WORLD_BEAT = 200, WORLD_BEAT_ANSWER };

static inline void world_emit_beat(struct world_node *node, int type, uint64_t to,
                                   const struct raft_beat *beat, bool granted)
{
    world_emit(node, &(struct raft_message){ .type = (uint8_t)type,
                                             .granted = granted,
                                             .from = node->raft.config.self,
                                             .to = to,
                                             .term = beat->term,
                                             .stamp = beat->stamp,
                                             .echo = beat->echo });
}

static inline void world_beats(struct world_node *node)
{
    struct raft_beat beat;
    uint64_t to;
    while (raft_beat_next(&node->raft, &to, &beat)) {
        world_emit_beat(node, WORLD_BEAT, to, &beat, false);
    }
}

static inline void world_step_beat(struct world_node *node, const struct raft_message *m)
{
    struct raft_beat beat = { m->term, m->stamp, m->echo };
    if (m->type == WORLD_BEAT) {
        bool follows = raft_beat_hear(&node->raft, m->from, &beat);
        struct raft_beat answer = { m->term, node->now_ms, m->stamp };
        node->beats_followed += follows;
        node->beats_refused += !follows;
        world_emit_beat(node, WORLD_BEAT_ANSWER, m->from, &answer, follows);
    } else {
        raft_beat_answered(&node->raft, m->from, &beat, m->granted);
    }
}

static inline void world_cut_log_at(struct world *world, int id, uint64_t start);

/* The end of a turn: flush, messages, flags. */
static inline void world_turn(struct world *world, int id)
{
    struct world_node *node = &world->nodes[id];
    struct raft_effects *out = &node->raft.out;
    while (!node->manual_disk && node->op_count > 0) {
        world_sync_one(node);
    }
    raft_flush(&node->raft);
    assert_false(out->append || out->persist_state || out->heal);
    for (int i = 0; i < out->fill_count; i++) {
        if (world_has_payload(node, out->fills[i].index)) {
            raft_fill_send(&node->raft, out->fills[i].to, out->fills[i].index);
        }
    }
    for (size_t i = 0; i < out->message_count; i++) {
        world_emit(node, &out->messages[i]);
    }
    for (int i = 0; i < out->fetch_count; i++) {
        int at = 0;
        while (at < node->fetch_count && node->fetches[at].to != out->fetches[i].to) {
            at++; /* a newer one for the same follower replaces the older */
        }
        node->fetches[at] = out->fetches[i];
        node->fetch_count += at == node->fetch_count;
    }
    node->want_count = out->image_count ? out->image_count : node->want_count;
    uint64_t cut_wanted = out->cut_wanted;
    memcpy(node->wants, out->images, (size_t)out->image_count * sizeof(*node->wants));
    if (out->image_offered && !node->is_installing) {
        node->image = out->image;
    }
    node->saw_refuted |= out->digest_refuted;
    node->saw_undecided |= out->digest_undecided;
    node->saw_commit |= out->commit_advanced;
    node->saw_reads |= out->reads_confirmed;
    node->saw_read_wanted |= out->read_round_wanted;
    node->saw_transfer_done |= out->transfer_done;
    node->saw_image |= out->image_count > 0;
    node->saw_diverged |= out->diverged;
    raft_effects_clear(&node->raft);
    if (cut_wanted) {
        world_cut_log_at(world, id, cut_wanted + 1);
    }
}

/* Everything written so far becomes durable. */
static inline void world_sync(struct world *world, int id)
{
    while (world->nodes[id].op_count > 0) {
        world_sync_one(&world->nodes[id]);
    }
    world_turn(world, id);
}

static inline void world_tick(struct world *world, int id, uint64_t ms)
{
    struct world_node *node = &world->nodes[id];
    node->now_ms += ms;
    raft_tick(&node->raft, node->now_ms);
    world_beats(node);
    world_log_effects(node, NULL);
    world_turn(world, id);
}

/* --- Network --- */

static inline struct world_packet world_packet_take(struct world *world, int at)
{
    struct world_packet packet = world->packets[at];
    world->packet_count--;
    memmove(&world->packets[at], &world->packets[at + 1],
            (size_t)(world->packet_count - at) * sizeof(packet));
    return packet;
}

static inline struct world_packet world_packet_copy(const struct world_packet *packet)
{
    struct world_packet copy = { .message = packet->message };
    size_t bytes = packet->message.count * sizeof(*packet->entries);
    if (packet->message.count) {
        copy.entries = malloc(bytes);
        memcpy(copy.entries, packet->entries, bytes);
    }
    return copy;
}

/* Steps a packet without ending the turn. The packet stays the caller's. */
static inline void world_step(struct world *world, const struct world_packet *packet)
{
    struct world_node *node = &world->nodes[packet->message.to];
    uint32_t count = packet->message.count;
    struct raft_entry *entries = count ? calloc(count, sizeof(*entries)) : NULL;
    for (uint32_t i = 0; i < count; i++) {
        entries[i] = (struct raft_entry){ packet->entries[i].term,
                                          packet->entries[i].value ? WORLD_ENTRY_BYTES : 0 };
    }
    raft_clock(&node->raft, node->now_ms);
    if (packet->message.type == WORLD_BEAT || packet->message.type == WORLD_BEAT_ANSWER) {
        world_step_beat(node, &packet->message);
        return;
    }
    raft_step(&node->raft, &packet->message, entries);
    world_log_effects(node, packet);
    free(entries);
}

/* Delivers the packet and ends the turn; the packet is used up. */
static inline void world_deliver(struct world *world, struct world_packet packet)
{
    if (world->nodes[packet.message.to].is_up) {
        world_step(world, &packet);
        world_turn(world, (int)packet.message.to);
    }
    free(packet.entries);
}

/* Finds a packet by sender, receiver and type (0: any of each); -1 when there is none. */
static inline int world_find(const struct world *world, int from, int to, int type)
{
    for (int i = 0; i < world->packet_count; i++) {
        const struct raft_message *m = &world->packets[i].message;
        if ((!from || m->from == (uint64_t)from) && (!to || m->to == (uint64_t)to) &&
            (!type || m->type == type)) {
            return i;
        }
    }
    return -1;
}

static inline int world_count(const struct world *world, int from, int to, int type)
{
    int count = 0;
    for (int i = 0; i < world->packet_count; i++) {
        const struct raft_message *m = &world->packets[i].message;
        count += (!from || m->from == (uint64_t)from) && (!to || m->to == (uint64_t)to) &&
                 (!type || m->type == type);
    }
    return count;
}

/* Takes a packet that must be there. */
static inline struct world_packet world_take(struct world *world, int from, int to, int type)
{
    int at = world_find(world, from, to, type);
    if (at < 0) {
        fail_msg("no %s from %d to %d", raft_message_name((uint8_t)type), from, to);
    }
    return world_packet_take(world, at);
}

/* Takes one and looks at its message only: it is lost. */
static inline struct raft_message world_look(struct world *world, int from, int to, int type)
{
    struct world_packet packet = world_take(world, from, to, type);
    free(packet.entries);
    return packet.message;
}

/* Takes one, looks at its message, delivers it. */
static inline struct raft_message world_pass(struct world *world, int from, int to, int type)
{
    struct world_packet packet = world_take(world, from, to, type);
    struct raft_message message = packet.message;
    world_deliver(world, packet);
    return message;
}

/* Forgets what matches. */
static inline void world_drop(struct world *world, int from, int to, int type)
{
    for (int at; (at = world_find(world, from, to, type)) >= 0;) {
        free(world_packet_take(world, at).entries);
    }
}

/* Delivers in order until nothing is under way. */
static inline void world_settle(struct world *world)
{
    for (int i = 0; world->packet_count > 0; i++) {
        assert_true(i < 100000);
        world_deliver(world, world_packet_take(world, 0));
    }
}

/* A message made by the test, as if `from` had sent it. */
static inline void world_say(struct world *world, struct raft_message message,
                             const struct world_entry *entries)
{
    struct world_packet packet = { message, (struct world_entry *)entries };
    packet.message.group = world->config.group;
    world_deliver(world, world_packet_copy(&packet));
}

static inline void world_isolate(struct world *world, int id, bool isolated)
{
    for (int other = 1; other <= world->count; other++) {
        world->blocked[id][other] = world->blocked[other][id] = isolated && other != id;
    }
    if (isolated) {
        world_drop(world, id, 0, 0);
        world_drop(world, 0, id, 0);
    }
}

/* --- Life --- */

/* An image was swapped in, and the log does not know: it is not the log of that store. */
static inline void world_recover_image(struct world_node *node)
{
    uint64_t index = node->disk_image_index;
    bool is_known = index <= node->disk_last && index + 1 >= node->disk_start;
    uint64_t term = !is_known                       ? 0
                    : index + 1 == node->disk_start ? node->disk_start_term
                                                    : node->disk[index].term;
    if (index + 1 >= node->disk_start && term != node->disk_image_term) {
        node->disk_start = index + 1;
        node->disk_start_term = node->disk_image_term;
        node->disk_last = index;
    }
}

static inline void world_node_start(struct world *world, int id)
{
    struct world_node *node = &world->nodes[id];
    struct raft_run runs[WORLD_LOG];
    world_recover_image(node);
    struct raft_start start = { .term = node->disk_term,
                                .vote = node->disk_vote,
                                .log_start = node->disk_start,
                                .start_term = node->disk_start_term,
                                .last_index = node->disk_last,
                                .runs = runs,
                                .commit = node->is_damaged ? 0 : node->disk_flushed,
                                .is_suspect = node->disk_is_suspect,
                                .is_to_hear = node->is_to_hear };
    memcpy(node->holes, node->disk_holes, sizeof(node->holes));
    memset(node->filling, 0, sizeof(node->filling));
    for (uint64_t i = node->disk_start; i <= node->disk_last; i++) {
        node->log[i] = node->disk[i];
        if (i == node->disk_start || node->disk[i].term != node->disk[i - 1].term) {
            runs[start.run_count++] = (struct raft_run){ i, node->disk[i].term };
        }
    }
    struct raft_config config = world->config;
    config.self = (uint64_t)id;
    config.seed += (uint64_t)id * 7919 + node->starts++ * 104729;
    config.changes = &node->changes;
    config.ctx = node;
    raft_init(&node->raft, &config, &start, node->now_ms);
    if (node->is_damaged) {
        raft_need_image(&node->raft);
    } else {
        raft_flushed(&node->raft, node->disk_flushed);
    }
    world_tell_holes(node);
    node->memory_from = 0;
    node->fetch_count = 0;
    node->want_count = 0;
    node->image = (struct raft_image){ 0 };
    node->is_installing = false;
    node->is_up = true;
}

/* Loses what is not durable. */
static inline void world_crash(struct world *world, int id)
{
    struct world_node *node = &world->nodes[id];
    world_ops_drop(node);
    raft_fini(&node->raft);
    node->is_up = false;
}

static inline void world_restart(struct world *world, int id)
{
    world_crash(world, id);
    world_node_start(world, id);
}

static inline struct world *world_new_with(int count, const struct raft_config *changes)
{
    struct world *world = calloc(1, sizeof(*world));
    world->count = count;
    world->nodes = calloc((size_t)count + 1, sizeof(*world->nodes));
    world->config = (struct raft_config){ .group = 7,
                                          .replica_count = count,
                                          .election_timeout_ms = WORLD_T_MS,
                                          .heartbeat_ms = WORLD_HEARTBEAT_MS,
                                          .seed = changes ? changes->seed : 1,
                                          .beats = changes && changes->beats,
                                          .inflight_bytes_max = 1 << 20,
                                          .inflight_messages_max = 16,
                                          .append_bytes_max = 64 << 10,
                                          .append_entries_max = 256,
                                          .entries_in_memory = world_in_memory };
    if (changes && changes->inflight_bytes_max) {
        world->config.inflight_bytes_max = changes->inflight_bytes_max;
        world->config.inflight_messages_max = changes->inflight_messages_max;
        world->config.append_bytes_max = changes->append_bytes_max;
        world->config.append_entries_max = changes->append_entries_max;
    }
    for (int id = 1; id <= count; id++) {
        world->config.replicas[id - 1] = (uint64_t)id;
    }
    for (int id = 1; id <= count; id++) {
        world->nodes[id].world = world;
        world->nodes[id].disk_start = 1;
        world->nodes[id].now_ms = 1000;
        world->nodes[id].changes = (uint64_t)id * 1000;
        world_node_start(world, id);
    }
    return world;
}

static inline struct world *world_new(int count)
{
    return world_new_with(count, NULL);
}

static inline void world_free(struct world *world)
{
    world_drop(world, 0, 0, 0);
    for (int id = 1; id <= world->count; id++) {
        if (world->nodes[id].is_up) {
            world_crash(world, id);
        }
    }
    free(world->nodes);
    free(world);
}

/* Restarts a replica as if its log on disk held these terms from index 1 on. */
static inline void world_set_log(struct world *world, int id, uint64_t term, const uint64_t *terms,
                                 uint64_t last)
{
    struct world_node *node = &world->nodes[id];
    world_crash(world, id);
    node->disk_term = term;
    node->disk_vote = 0;
    for (uint64_t i = 1; i <= last; i++) {
        node->disk[i] = (struct world_entry){ terms[i - 1], i * 1000 + terms[i - 1] };
    }
    node->disk_last = last;
    world_node_start(world, id);
    node->now_ms += WORLD_T_MS; /* long enough ago for it to vote */
    raft_clock(&node->raft, node->now_ms);
}

/* --- Steps of a story --- */

static inline struct raft *world_raft(struct world *world, int id)
{
    return &world->nodes[id].raft;
}

/* The replica hears nothing for two timeouts. */
static inline void world_time_out(struct world *world, int id)
{
    world_tick(world, id, 2 * WORLD_T_MS);
}

/* Makes it the leader: all others time out hearing nobody, then it alone campaigns. */
static inline void world_elect(struct world *world, int id)
{
    for (int other = 1; other <= world->count; other++) {
        if (other != id && world->nodes[other].is_up &&
            world_raft(world, other)->role == RAFT_FOLLOWER) {
            /* Its leader is silent long enough for it to vote. */
            world->nodes[other].now_ms += WORLD_T_MS;
            raft_tick(world_raft(world, other), world->nodes[other].now_ms);
            world_beats(&world->nodes[other]);
            world_log_effects(&world->nodes[other], NULL);
            world_turn(world, other);
            world_drop(world, other, 0, RAFT_PRE_VOTE);
        }
    }
    world_time_out(world, id);
    world_settle(world);
    assert_int_equal(world_raft(world, id)->role, RAFT_LEADER);
}

/* Proposes without ending the turn; the index of the first. */
static inline uint64_t world_propose_quietly(struct world *world, int id, uint32_t count)
{
    struct world_node *node = &world->nodes[id];
    uint32_t sizes[512];
    assert_true(count <= 512);
    for (uint32_t i = 0; i < count; i++) {
        sizes[i] = WORLD_ENTRY_BYTES;
    }
    uint64_t first = 0;
    assert_int_equal(raft_propose(&node->raft, sizes, count, &first), 0);
    return first;
}

static inline uint64_t world_propose(struct world *world, int id, uint32_t count)
{
    uint64_t first = world_propose_quietly(world, id, count);
    world_log_effects(&world->nodes[id], NULL);
    world_turn(world, id);
    return first;
}

/* The store has flushed what is committed and durable. */
static inline void world_flush_store(struct world *world, int id)
{
    struct world_node *node = &world->nodes[id];
    if (node->is_damaged || node->is_installing) {
        return;
    }
    uint64_t index =
        node->raft.commit < node->raft.durable_index ? node->raft.commit : node->raft.durable_index;
    for (uint64_t i = node->raft.flushed + 1; i <= index; i++) {
        if (!world_has_payload(node, i)) {
            index = i - 1; /* it can't be applied */
        }
    }
    raft_flushed(&node->raft, index);
    world_tell_holes(node);
    node->disk_flushed = node->raft.flushed;
    if (node->disk_flushed > node->disk_flushed_max) {
        node->disk_flushed_max = node->disk_flushed;
    }
}

/* Cuts the log at `start`, which the own store covers. */
static inline void world_cut_log_at(struct world *world, int id, uint64_t start)
{
    struct world_node *node = &world->nodes[id];
    if (start > node->raft.log_start && start <= node->disk_flushed + 1 && !node->is_damaged &&
        !node->is_installing) {
        node->disk_start_term = raft_term_at(&node->raft, start - 1);
        node->disk_start = start;
        raft_log_cut(&node->raft, start);
    }
}

/* Cuts the log where every replica has flushed. */
static inline void world_cut_log(struct world *world, int id)
{
    world_cut_log_at(world, id, world->nodes[id].raft.cut + 1);
}

/* The driver opens an image for each follower that wants one. */
static inline void world_offer_images(struct world *world, int id)
{
    struct world_node *node = &world->nodes[id];
    for (int i = 0; i < node->want_count; i++) {
        raft_image_offer(&node->raft, node->wants[i].to, node->disk_flushed, ++world->next_image);
    }
    node->want_count = 0;
    world_turn(world, id);
}

/* The image on offer has arrived whole: the store swaps it in durably. False: it is not wanted. */
static inline bool world_install_begin(struct world *world, int id)
{
    struct world_node *node = &world->nodes[id];
    struct raft_image *image = &node->image;
    if (image->from == 0 || node->is_installing) {
        return false;
    }
    if (!raft_image_may_install(&node->raft, image->index, image->term)) {
        image->from = 0;
        return false;
    }
    node->is_installing = true;
    node->is_damaged = false;
    node->disk_flushed = node->disk_image_index = image->index;
    node->disk_image_term = image->term;
    if (node->disk_flushed > node->disk_flushed_max) {
        node->disk_flushed_max = node->disk_flushed;
    }
    return true;
}

/* The core and the log learn of it. */
static inline void world_install_end(struct world *world, int id)
{
    struct world_node *node = &world->nodes[id];
    assert_true(node->is_installing);
    node->is_installing = false;
    node->images_healed += node->raft.needs_image;
    node->images_installed++;
    if (raft_image_installed(&node->raft, node->image.index, node->image.term)) {
        node->images_kept++;
    } else {
        struct world_op *op = world_op_new(node);
        op->is_reset = true;
        op->first = node->image.index;
        op->term = node->image.term;
    }
    node->image.from = 0;
    world_log_effects(node, NULL);
    world_turn(world, id);
}

/* The store turns out to be damaged. A leader steps down. */
static inline void world_damage(struct world *world, int id)
{
    struct world_node *node = &world->nodes[id];
    node->is_damaged = true;
    raft_need_image(&node->raft);
    if (node->raft.role == RAFT_LEADER) {
        raft_step_down(&node->raft);
    }
    world_log_effects(node, NULL);
    world_turn(world, id);
}

/* The reads from disk that were asked for are done. `count` each; 0: they failed. */
static inline void world_fetch(struct world *world, int id, uint32_t count)
{
    struct world_node *node = &world->nodes[id];
    int pending = node->fetch_count;
    struct raft_fetch fetches[LIMIT_REPLICAS];
    memcpy(fetches, node->fetches, sizeof(fetches));
    node->fetch_count = 0;
    for (int i = 0; i < pending; i++) {
        uint64_t left = node->raft.last_index + 1 - fetches[i].first;
        uint32_t n = left < count ? (uint32_t)left : count;
        for (uint32_t k = 0; k < n; k++) {
            if (!world_has_payload(node, fetches[i].first + k)) {
                n = k;
            }
        }
        size_t before = node->raft.out.message_count;
        bool sent =
            raft_fetched(&node->raft, fetches[i].to, fetches[i].first, n, n * WORLD_ENTRY_BYTES);
        if (sent) {
            struct raft_message *m = &node->raft.out.messages[before];
            assert_int_equal(node->raft.out.message_count, before + 1);
            assert_int_equal(m->index + 1, fetches[i].first);
            assert_int_equal(m->count, n);
        }
    }
    world_turn(world, id);
}

/* --- Damage to the log --- */

/* The payload of an entry that is durable is gone. */
static inline void world_rot(struct world *world, int id, uint64_t index)
{
    struct world_node *node = &world->nodes[id];
    node->disk_holes[index] = true;
    if (node->is_up && node->raft.durable_index >= index && index >= node->raft.log_start &&
        node->log[index].term == node->disk[index].term && !node->holes[index]) {
        node->holes[index] = true;
        node->filling[index] = false;
        world_tell_holes(node);
        world_turn(world, id);
    }
}

/* Time passes for all, everything is delivered. */
static inline void world_run(struct world *world, uint64_t ms)
{
    for (uint64_t at = 0; at < ms; at += 10) {
        for (int id = 1; id <= world->count; id++) {
            if (world->nodes[id].is_up) {
                world_tick(world, id, 10);
                world_fetch(world, id, 16);
            }
        }
        world_settle(world);
    }
}

/* A replica that is down lost the record headers behind `last`. */
static inline void world_lose(struct world *world, int id, uint64_t last)
{
    struct world_node *node = &world->nodes[id];
    assert_false(node->is_up);
    node->was_lost = node->disk_is_suspect = true;
    node->disk_last = last < node->disk_last ? last : node->disk_last;
    if (node->disk_last < node->disk_flushed) { /* see log_rebase */
        node->disk_last = node->disk_flushed;
        node->disk_start = node->disk_flushed + 1;
        node->disk_start_term = 0;
    }
}

static inline void world_assert_log(struct world *world, int id, const uint64_t *terms,
                                    uint64_t last)
{
    struct raft *raft = world_raft(world, id);
    assert_int_equal(raft->last_index, last);
    for (uint64_t i = 1; i <= last; i++) {
        assert_int_equal(raft_term_at(raft, i), terms[i - 1]);
    }
}

#endif
