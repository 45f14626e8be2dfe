/* Raft between nodes: see peers.h for the format. */
#include "raft/peers.h"

#include "base/check.h"

/* A frame's entries: bounded by what the frame limit allows, and what peer_receive allocates for.
 */
enum {
    PEER_FRAME_MESSAGES_MAX = LIMIT_FRAME_BYTES / PEER_ROUND_BYTES,
    PEER_KEEP_BYTES = 256 << 10, /* of each scratch array */
    /* In one frame: of each group one, as its leader's or the answer, and room for a second frame's answers. */
    PEER_BEATS_MAX = 2 * (LIMIT_PARTITIONS_MAX + 1),
};

static void peer_clear(struct peer *peer)
{
    for (size_t i = 0; i < peer->entry_count; i++) {
        blob_unref(peer->entries[i].payload);
    }
    peer->entry_count = 0;
    peer->message_count = 0;
    peer->beat_count = 0;
    buf_clear(&peer->asks);
    buf_clear(&peer->tells);
    peer->is_urgent = false;
}

void peer_fini(struct peer *peer)
{
    peer_clear(peer);
    mem_free(peer->messages);
    mem_free(peer->entries);
    mem_free(peer->beats);
    buf_fini(&peer->asks);
    buf_fini(&peer->tells);
    buf_fini(&peer->head);
    mem_free(peer->pieces);
    mem_free(peer->received);
    mem_free(peer->payloads);
    *peer = (struct peer){ .gate = peer->gate };
}

static void peer_reset(struct peer *peer, struct conn *conn)
{
    peer_clear(peer);
    peer->conn = conn;
    peer->round_done = peer->round_sent;
    peer->round_to_answer = 0;
    peer->round_opened = false;
    peer->changes = 0;
    peer->disk = (struct peer_disk){ 0 };
}

void peer_up(struct peer *peer, struct conn *conn)
{
    peer_reset(peer, conn);
}

void peer_down(struct peer *peer)
{
    peer_reset(peer, NULL);
}

/* Room for one more message with its entries. False: there is no memory. */
static bool peer_reserve(struct peer *peer, size_t entries)
{
    size_t capacity = mem_try_grow(peer->gate, &peer->messages, peer->message_capacity,
                                   peer->message_count + 1, sizeof *peer->messages);
    if (!capacity) {
        return false;
    }
    peer->message_capacity = capacity;
    if (peer->entry_count + entries <= peer->entry_capacity) {
        return true;
    }
    capacity = mem_try_grow(peer->gate, &peer->entries, peer->entry_capacity,
                            peer->entry_count + entries, sizeof *peer->entries);
    peer->entry_capacity = capacity ? capacity : peer->entry_capacity;
    return capacity != 0;
}

void peer_send(struct peer *peer, const struct raft_message *message, const uint64_t *terms,
               struct blob *const *payloads)
{
    if (!peer->conn || conn_out_bytes(peer->conn) > LIMIT_CONN_OUT_BYTES ||
        !peer_reserve(peer, message->count)) {
        return; /* Raft repeats what gets lost */
    }
    peer->messages[peer->message_count++] = *message;
    peer->is_urgent |= message->type != RAFT_APPEND || message->count == 0;
    for (uint32_t i = 0; i < message->count; i++) {
        peer->entries[peer->entry_count++] = (struct peer_entry){ terms[i], blob_ref(payloads[i]) };
    }
}

void peer_beat(struct peer *peer, const struct peer_beat *beat, uint64_t stamp)
{
    if (!peer->conn || conn_out_bytes(peer->conn) > LIMIT_CONN_OUT_BYTES ||
        peer->beat_count == PEER_BEATS_MAX) {
        return;
    }
    if (peer->beat_count == peer->beat_capacity) {
        size_t capacity = mem_try_grow(peer->gate, &peer->beats, peer->beat_capacity,
                                       peer->beat_count + 1, sizeof *peer->beats);
        if (!capacity) {
            return;
        }
        peer->beat_capacity = capacity;
    }
    peer->beat_stamp = peer->beat_count > 0 && peer->beat_stamp < stamp ? peer->beat_stamp : stamp;
    peer->beats[peer->beat_count++] = *beat;
    peer->is_urgent = true;
}

bool peer_round_is_free(const struct peer *peer)
{
    return peer->conn && peer->round_sent == peer->round_done;
}

void peer_round_open(struct peer *peer)
{
    CHECK(peer_round_is_free(peer));
    peer->round_sent++;
    peer->round_opened = true;
}

void peer_round_give_up(struct peer *peer)
{
    peer->round_done = peer->round_sent;
}

void peer_ask(struct peer *peer, uint32_t group, uint64_t replica, uint64_t term)
{
    if (buf_try_reserve(&peer->asks, peer->gate, PEER_ASK_BYTES)) {
        uint8_t *at = buf_extend(&peer->asks, PEER_ASK_BYTES);
        put_u32(at, group);
        put_u32(at + 4, 0);
        put_u64(at + 8, replica);
        put_u64(at + 16, term);
    }
}

void peer_tell(struct peer *peer, uint32_t group, uint64_t commit)
{
    if (peer->round_to_answer != 0 && /* else the connection broke meanwhile */
        buf_try_reserve(&peer->tells, peer->gate, PEER_TELL_BYTES)) {
        uint8_t *at = buf_extend(&peer->tells, PEER_TELL_BYTES);
        put_u32(at, group);
        put_u32(at + 4, 0);
        put_u64(at + 8, commit);
    }
}

static bool is_of_round(uint8_t type)
{
    return type == RAFT_READ || type == RAFT_READ_REPLY;
}

static size_t message_bytes(uint8_t type)
{
    return is_of_round(type) ? PEER_ROUND_BYTES : PEER_MESSAGE_BYTES;
}

static uint8_t *pack_round(uint8_t *at, const struct raft_message *message)
{
    at[0] = message->type;
    at[1] = message->granted;
    put_u16(at + 2, 0);
    put_u32(at + 4, message->group);
    put_u64(at + 8, message->from);
    put_u64(at + 16, message->to);
    put_u64(at + 24, message->term);
    put_u64(at + 32, message->sequence);
    put_u64(at + 40, message->index);
    return at + PEER_ROUND_BYTES;
}

static uint8_t *pack_message(uint8_t *at, const struct raft_message *message)
{
    if (is_of_round(message->type)) {
        return pack_round(at, message);
    }
    at[0] = message->type;
    at[1] = message->granted;
    at[2] = message->transfer;
    at[3] = message->needs_image;
    put_u32(at + 4, message->group);
    put_u64(at + 8, message->from);
    put_u64(at + 16, message->to);
    put_u64(at + 24, message->term);
    put_u64(at + 32, message->index);
    put_u64(at + 40, message->log_term);
    put_u64(at + 48, message->commit);
    put_u64(at + 56, message->hint);
    put_u64(at + 64, message->flushed);
    put_u64(at + 72, message->sequence);
    put_u32(at + 80, message->count);
    put_u64(at + 84, message->stamp);
    put_u64(at + 92, message->echo);
    put_u64(at + 100, message->digest);
    put_u64(at + 108, message->episode);
    at[116] = message->is_full;
    memset(at + 117, 0, PEER_MESSAGE_BYTES - 117);
    return at + PEER_MESSAGE_BYTES;
}

static uint8_t *pack_beats(uint8_t *at, const struct peer *peer)
{
    for (size_t i = 0; i < peer->beat_count; i++, at += PEER_BEAT_BYTES) {
        const struct peer_beat *beat = &peer->beats[i];
        put_u32(at, beat->group);
        put_u32(at + 4, beat->kind);
        put_u64(at + 8, beat->term);
        put_u64(at + 16, beat->echo);
    }
    return at;
}

static void unpack_message(const uint8_t *at, struct raft_message *message)
{
    if (is_of_round(at[0])) {
        *message = (struct raft_message){ .type = at[0],
                                          .granted = at[1] != 0,
                                          .group = get_u32(at + 4),
                                          .from = get_u64(at + 8),
                                          .to = get_u64(at + 16),
                                          .term = get_u64(at + 24),
                                          .sequence = get_u64(at + 32),
                                          .index = get_u64(at + 40) };
        return;
    }
    *message = (struct raft_message){
        .type = at[0],
        .granted = at[1] != 0,
        .transfer = at[2] != 0,
        .needs_image = at[3] != 0,
        .group = get_u32(at + 4),
        .from = get_u64(at + 8),
        .to = get_u64(at + 16),
        .term = get_u64(at + 24),
        .index = get_u64(at + 32),
        .log_term = get_u64(at + 40),
        .commit = get_u64(at + 48),
        .hint = get_u64(at + 56),
        .flushed = get_u64(at + 64),
        .sequence = get_u64(at + 72),
        .count = get_u32(at + 80),
        .stamp = get_u64(at + 84),
        .echo = get_u64(at + 92),
        .digest = get_u64(at + 100),
        .episode = get_u64(at + 108),
        .is_full = at[116] != 0,
    };
}

/* NULL: there is no memory. */
static struct conn_piece *peer_pieces(struct peer *peer, size_t count)
{
    if (count > peer->pieces_capacity) {
        size_t capacity = mem_try_grow(peer->gate, &peer->pieces, peer->pieces_capacity, count,
                                       sizeof *peer->pieces);
        if (!capacity) {
            return NULL;
        }
        peer->pieces_capacity = capacity;
    }
    return peer->pieces;
}

/* What a large frame needed is not kept for small ones. */
static void scratch_shrink(struct peer *peer)
{
    if (peer->head.capacity > PEER_KEEP_BYTES) {
        buf_fini(&peer->head);
    }
    if (peer->pieces_capacity * sizeof *peer->pieces > PEER_KEEP_BYTES) {
        mem_free(peer->pieces);
        peer->pieces = NULL;
        peer->pieces_capacity = 0;
    }
    if (peer->received_capacity * sizeof *peer->payloads > PEER_KEEP_BYTES) {
        mem_free(peer->received);
        mem_free(peer->payloads);
        peer->received = NULL;
        peer->payloads = NULL;
        peer->received_capacity = 0;
    }
}

static uint8_t *put_span(uint8_t *at, struct span bytes)
{
    if (bytes.size > 0) {
        memcpy(at, bytes.data, bytes.size);
    }
    return at + bytes.size;
}

/* Packs messages [first, last), records_bytes packed, with their entries [entry_first, entry_last)
 * and sends them as one frame. False: there is no memory. */
static bool pack_and_send(struct peer *peer, size_t first, size_t last, size_t records_bytes,
                          size_t entry_first, size_t entry_last, uint64_t epoch, uint64_t time)
{
    size_t count = last - first, entry_count = entry_last - entry_first;
    struct span asks = peer->round_opened ? buf_span(&peer->asks) : (struct span){ 0 };
    struct span tells = peer->round_to_answer ? buf_span(&peer->tells) : (struct span){ 0 };
    size_t head_bytes = PEER_HEAD_BYTES + peer->beat_count * PEER_BEAT_BYTES + asks.size +
                        tells.size + records_bytes + entry_count * PEER_ENTRY_BYTES;
    struct conn_piece *pieces = peer_pieces(peer, entry_count + 1);
    buf_clear(&peer->head);
    if (!pieces || !buf_try_reserve(&peer->head, peer->gate, head_bytes)) {
        return false;
    }
    uint8_t *head = buf_extend(&peer->head, head_bytes);
    put_u64(head, peer->round_opened ? peer->round_sent : 0);
    put_u64(head + 8, peer->round_to_answer);
    put_u32(head + 16, (uint32_t)count);
    put_u32(head + 20, (uint32_t)entry_count);
    put_u64(head + 24, peer->own_changes);
    put_u32(head + 32, peer->own_disk.log_us);
    put_u32(head + 36, peer->own_disk.is_slow);
    put_u32(head + 40, peer->own_disk.flush_us);
    put_u32(head + 44, (uint32_t)peer->beat_count);
    put_u64(head + 48, peer->beat_stamp);
    put_u32(head + 56, (uint32_t)(asks.size / PEER_ASK_BYTES));
    put_u32(head + 60, (uint32_t)(tells.size / PEER_TELL_BYTES));
    uint8_t *at = pack_beats(head + PEER_HEAD_BYTES, peer);
    at = put_span(put_span(at, asks), tells);
    peer->beat_count = 0; /* they go with the first part */
    for (size_t i = first; i < last; i++) {
        at = pack_message(at, &peer->messages[i]);
    }
    pieces[0] = (struct conn_piece){ span_of(head, head_bytes), NULL };
    for (size_t i = 0; i < entry_count; i++, at += PEER_ENTRY_BYTES) {
        const struct peer_entry *entry = &peer->entries[entry_first + i];
        put_u64(at, entry->term);
        put_u32(at + 8, entry->payload->size);
        put_u32(at + 12, 0);
        pieces[i + 1] = (struct conn_piece){ blob_span(entry->payload), entry->payload };
    }
    struct frame frame = { .type = FRAME_RAFT, .epoch = epoch, .time = time };
    return conn_try_send_pieces(peer->conn, &frame, pieces, entry_count + 1);
}

/* A frame that finds no memory is lost, as any may be; so is the round that it asks or answers. */
static void send_part(struct peer *peer, size_t first, size_t last, size_t records_bytes,
                      size_t entry_first, size_t entry_last, uint64_t epoch, uint64_t time)
{
    if (pack_and_send(peer, first, last, records_bytes, entry_first, entry_last, epoch, time)) {
        peer->frames_sent++;
        peer->messages_sent += last - first;
    }
    peer->round_opened = false;
    peer->round_to_answer = 0;
}

bool peer_may_wait(const struct peer *peer)
{
    return peer->message_count > 0 && !peer->is_urgent && !peer->round_opened &&
           peer->round_to_answer == 0;
}

void peer_flush(struct peer *peer, uint64_t epoch, uint64_t time, uint64_t changes)
{
    if (!peer->conn || (peer->message_count == 0 && peer->beat_count == 0 &&
                        peer->round_to_answer == 0 && !peer->round_opened)) {
        return;
    }
    /* One frame normally; more when a turn gathered more than a frame may hold. Reads are confirmed
     * by the frame that opened the round only if their messages are in it, so the round's number
     * travels in the last one. */
    peer->own_changes = changes;
    bool round_opened = peer->round_opened;
    uint64_t round_to_answer = peer->round_to_answer;
    size_t first = 0, entry_first = 0, entry_at = 0, bytes = 0, records_bytes = 0;
    for (size_t i = 0; i < peer->message_count; i++) {
        size_t record_bytes = message_bytes(peer->messages[i].type), more = record_bytes;
        for (uint32_t j = 0; j < peer->messages[i].count; j++) {
            more += PEER_ENTRY_BYTES + peer->entries[entry_at + j].payload->size;
        }
        if (i > first && bytes + more > LIMIT_FRAME_BYTES / 2) {
            peer->round_opened = false;
            peer->round_to_answer = 0;
            send_part(peer, first, i, records_bytes, entry_first, entry_at, epoch, time);
            peer->round_opened = round_opened;
            peer->round_to_answer = round_to_answer;
            first = i;
            entry_first = entry_at;
            bytes = records_bytes = 0;
        }
        bytes += more;
        records_bytes += record_bytes;
        entry_at += peer->messages[i].count;
    }
    send_part(peer, first, peer->message_count, records_bytes, entry_first, entry_at, epoch, time);
    scratch_shrink(peer);
    peer_clear(peer);
}

/* Reads the entry heads and finds the payloads; false when the sizes do not add up. */
static bool parse_entries(struct span payload, size_t heads_at, uint32_t entry_count,
                          struct raft_entry *entries, struct span *payloads)
{
    const uint8_t *head = payload.data + heads_at;
    size_t at = heads_at + (size_t)entry_count * PEER_ENTRY_BYTES;
    for (uint32_t i = 0; i < entry_count; i++, head += PEER_ENTRY_BYTES) {
        uint32_t size = get_u32(head + 8);
        if (size > LIMIT_ENTRY_BYTES || size > payload.size - at) {
            return false;
        }
        entries[i] = (struct raft_entry){ get_u64(head), size };
        payloads[i] = span_of(payload.data + at, size);
        at += size;
    }
    return at == payload.size;
}

/* Entry counts of the messages must add up to the frame's; unknown types are refused. Where the
 * messages end, 0: refused. */
static size_t check_messages(struct span payload, size_t at, uint32_t message_count,
                             uint32_t entry_count)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < message_count; i++) {
        uint8_t type = at < payload.size ? payload.data[at] : 0;
        size_t bytes = message_bytes(type);
        if (type == 0 || type >= RAFT_MESSAGE_MAX || bytes > payload.size - at) {
            return 0;
        }
        sum += is_of_round(type) ? 0 : get_u32(payload.data + at + 80);
        at += bytes;
    }
    return sum == entry_count ? at : 0;
}

/* False: there is no memory. */
static bool receive_room(struct peer *peer, size_t count)
{
    if (count <= peer->received_capacity) {
        return !mem_gate_refuses(peer->gate);
    }
    mem_free(peer->received);
    mem_free(peer->payloads);
    peer->received = mem_try_alloc(peer->gate, 2 * count * sizeof *peer->received);
    peer->payloads = mem_try_alloc(peer->gate, 2 * count * sizeof *peer->payloads);
    bool has_room = peer->received && peer->payloads;
    peer->received_capacity = has_room ? 2 * count : 0;
    return has_room;
}

/* False: not what a peer sends. */
static bool check_beats(struct span payload, uint32_t count)
{
    const uint8_t *at = payload.data + PEER_HEAD_BYTES;
    if (count > PEER_BEATS_MAX || count * PEER_BEAT_BYTES > payload.size - PEER_HEAD_BYTES) {
        return false;
    }
    bool is_sound = true;
    for (uint32_t i = 0; i < count; i++, at += PEER_BEAT_BYTES) {
        uint32_t kind = get_u32(at + 4);
        is_sound &= kind >= PEER_BEAT && kind <= PEER_BEAT_REFUSED;
    }
    return is_sound;
}

/* The counts of a frame's head, and where its parts begin. */
struct parts {
    uint32_t beats, asks, tells, messages, entries;
    size_t asks_at, tells_at, messages_at, entries_at;
};

/* False: malformed. */
static bool find_parts(struct span payload, struct parts *out)
{
    if (payload.size < PEER_HEAD_BYTES) {
        return false;
    }
    *out = (struct parts){ .messages = get_u32(payload.data + 16),
                           .entries = get_u32(payload.data + 20),
                           .beats = get_u32(payload.data + 44),
                           .asks = get_u32(payload.data + 56),
                           .tells = get_u32(payload.data + 60) };
    if (out->messages > PEER_FRAME_MESSAGES_MAX || !check_beats(payload, out->beats) ||
        out->entries > LIMIT_FRAME_BYTES / PEER_ENTRY_BYTES ||
        out->asks > LIMIT_FRAME_BYTES / PEER_ASK_BYTES ||
        out->tells > LIMIT_FRAME_BYTES / PEER_TELL_BYTES) {
        return false;
    }
    out->asks_at = PEER_HEAD_BYTES + (size_t)out->beats * PEER_BEAT_BYTES;
    out->tells_at = out->asks_at + (size_t)out->asks * PEER_ASK_BYTES;
    out->messages_at = out->tells_at + (size_t)out->tells * PEER_TELL_BYTES;
    if (out->messages_at > payload.size) {
        return false;
    }
    out->entries_at = check_messages(payload, out->messages_at, out->messages, out->entries);
    return out->entries_at != 0 &&
           out->entries_at + (size_t)out->entries * PEER_ENTRY_BYTES <= payload.size;
}

static void hear_beats(struct span payload, const struct parts *parts,
                       const struct peer_events *events, void *ctx)
{
    const uint8_t *at = payload.data + PEER_HEAD_BYTES;
    uint64_t stamp = get_u64(payload.data + 48);
    for (uint32_t i = 0; i < parts->beats; i++, at += PEER_BEAT_BYTES) {
        struct peer_beat beat = { .group = get_u32(at),
                                  .kind = (enum peer_beat_kind)get_u32(at + 4),
                                  .term = get_u64(at + 8),
                                  .echo = get_u64(at + 16) };
        if (i + 1 < parts->beats) {
            events->ahead_of_beat(ctx, get_u32(at + PEER_BEAT_BYTES));
        }
        events->beat(ctx, &beat, stamp);
    }
}

static void hear_messages(const struct peer *peer, struct span payload, const struct parts *parts,
                          const struct peer_events *events, void *ctx)
{
    const uint8_t *at = payload.data + parts->messages_at;
    size_t entry_at = 0;
    for (uint32_t i = 0; i < parts->messages; i++) {
        struct peer_message message = { .entries = peer->received + entry_at,
                                        .payloads = peer->payloads + entry_at };
        unpack_message(at, &message.message);
        entry_at += message.message.count;
        at += message_bytes(at[0]);
        if (i + 1 < parts->messages) {
            events->ahead(ctx, get_u32(at + 4));
        }
        events->message(ctx, &message);
    }
}

static void hear_asks(struct span payload, const struct parts *parts,
                      const struct peer_events *events, void *ctx)
{
    const uint8_t *at = payload.data + parts->asks_at;
    for (uint32_t i = 0; i < parts->asks; i++, at += PEER_ASK_BYTES) {
        events->asked(ctx, get_u32(at), get_u64(at + 8), get_u64(at + 16));
    }
}

static void hear_tells(struct span payload, const struct parts *parts,
                       const struct peer_events *events, void *ctx)
{
    const uint8_t *at = payload.data + parts->tells_at;
    for (uint32_t i = 0; i < parts->tells; i++, at += PEER_TELL_BYTES) {
        events->told(ctx, get_u32(at), get_u64(at + 8));
    }
}

int peer_receive(struct peer *peer, struct span payload, const struct peer_events *events,
                 void *ctx, bool *round_answered)
{
    struct parts parts;
    *round_answered = false;
    if (!find_parts(payload, &parts)) {
        return ERR_PROTOCOL;
    }
    if (!receive_room(peer, (size_t)parts.entries + 1)) {
        return ERR_NO_MEMORY;
    }
    if (!parse_entries(payload, parts.entries_at, parts.entries, peer->received, peer->payloads)) {
        return ERR_PROTOCOL;
    }
    uint64_t round = get_u64(payload.data), answered = get_u64(payload.data + 8);
    if ((parts.asks > 0 && round == 0) || (parts.tells > 0 && answered == 0)) {
        return ERR_PROTOCOL;
    }
    peer->changes = get_u64(payload.data + 24);
    if (round != 0) {
        peer->round_to_answer = round;
        buf_clear(&peer->tells); /* those of an earlier round, if that was never answered */
    }
    peer->disk = (struct peer_disk){ .log_us = get_u32(payload.data + 32),
                                     .flush_us = get_u32(payload.data + 40),
                                     .is_slow = get_u32(payload.data + 36) != 0 };
    hear_beats(payload, &parts, events, ctx);
    hear_messages(peer, payload, &parts, events, ctx);
    hear_asks(payload, &parts, events, ctx);
    if (answered != 0 && answered == peer->round_sent && peer->round_done != answered) {
        hear_tells(payload, &parts, events, ctx);
        peer->round_done = answered;
        *round_answered = true;
    }
    scratch_shrink(peer);
    return 0;
}
