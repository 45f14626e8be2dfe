/* Shows that groups of three and five replicas keep Raft's promises under random schedules: packets
 * lost, repeated and reordered, disks that lag, crashes that lose what was not synced (and keep any
 * part of what was on its way), cut links, transfers, logs cut below and above what others need,
 * images, logs without room, stores that are damaged, entries that must be fetched from disk, clocks that drift apart.
 * After every step it checks:
 *
 *   election safety       one leader a term
 *   log matching          equal (index, term) means equal payloads, and equal everything below
 *   leader completeness   a new leader has all that was committed in earlier terms
 *   state machine safety  what was committed once at an index stays, for everybody
 *   durability            what is first seen committed is on a majority's disks
 *   monotony              commit and term never go back while a replica runs, nor the term over a
 * crash cut                   never above what every replica's store has flushed linearizable reads
 * a confirmed read's index covers all that was committed when it was asked
 *
 * and at the end, when the faults stop, that a leader is found and everything converges.
 *
 * Usage: test_raft_model [FIRST_SEED COUNT]. A failure prints seed and step; the same seed gives
 * the same run. */
#include "../model_seeds.h"
#include "raft_script.h"

enum { STEPS = 6000, TERMS = 4096, READS = 256, ENTRIES_MAX = 2500 };

struct model_read {
    int node;
    uint64_t term, sequence, index, committed;
};

struct model {
    struct world *world;
    uint64_t seed, random;
    int step;
    int leader_of[TERMS];
    struct world_entry committed[WORLD_LOG];
    uint64_t committed_term[WORLD_LOG]; /* term of the replica that first showed it */
    uint64_t commit;
    uint64_t checked[LIMIT_REPLICAS + 1]; /* commit index compared so far, per replica */
    uint64_t seen_term[LIMIT_REPLICAS + 1];
    uint64_t led_term[LIMIT_REPLICAS + 1];
    struct model_read reads[READS];
    int read_count;
    uint64_t reads_done, elections, crashes, fetched, cuts, transfers;
    uint64_t installs, kept, healed, damages;
    uint64_t rots, filled, losses, heals, beats, refusals;
};

#define MODEL_CHECK(model, condition)                                                              \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fail_msg("seed %llu step %d: %s", (unsigned long long)(model)->seed, (model)->step,    \
                     #condition);                                                                  \
        }                                                                                          \
    } while (0)

static uint64_t draw(struct model *m, uint64_t below)
{
    uint64_t z = (m->random += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (z ^ (z >> 31)) % below;
}

static int draw_node(struct model *m)
{
    return 1 + (int)draw(m, (uint64_t)m->world->count);
}

static bool same_entry(struct world_entry a, struct world_entry b)
{
    return a.term == b.term && a.value == b.value;
}

/* For who looks into a seed that failed. */
static void tell_all(const struct model *m)
{
    for (int id = 1; id <= m->world->count; id++) {
        const struct world_node *node = &m->world->nodes[id];
        const struct raft *raft = &node->raft;
        print_message("# %d %s term=%lu leader=%lu start=%lu/%lu last=%lu durable=%lu commit=%lu "
                      "flushed=%lu hole=%lu/%lu suspect=%d damaged=%d\n",
                      id, raft_role_name(raft->role), raft->term, raft->leader, raft->log_start,
                      raft->start_term, raft->last_index, raft->durable_index, raft->commit,
                      raft->flushed, raft->hole, raft->unfilled, raft->is_suspect,
                      node->is_damaged);
        for (int i = 0; raft->role == RAFT_LEADER && i < m->world->count; i++) {
            const struct raft_progress *peer = &raft->progress[i];
            print_message("#   %lu state=%d match=%lu next=%lu resume=%lu episode=%d heal=%lu "
                          "flights=%u\n",
                          peer->id, (int)peer->state, peer->match, peer->next, peer->resume,
                          peer->episode != 0, peer->heal_index, peer->inflight_messages);
        }
    }
}

static void check_newly_committed(struct model *m, int id, uint64_t index)
{
    struct world *w = m->world;
    int durable = 0;
    m->committed[index] = w->nodes[id].log[index];
    m->committed_term[index] = w->nodes[id].raft.term;
    m->commit = index;
    for (int other = 1; other <= w->count; other++) {
        const struct world_node *node = &w->nodes[other];
        durable += index < node->disk_start || index <= node->disk_image_index ||
                   ((index <= node->disk_last || node->was_lost) &&
                    same_entry(node->disk[index], m->committed[index])); /* it once was there */
    }
    MODEL_CHECK(m, durable > w->count / 2);
}

static void check_commit(struct model *m, int id)
{
    struct world_node *node = &m->world->nodes[id];
    MODEL_CHECK(m, node->raft.commit >= m->checked[id]);
    MODEL_CHECK(m, node->raft.commit <= node->raft.last_index);
    for (uint64_t i = m->checked[id] + 1; i <= node->raft.commit; i++) {
        if (i > m->commit) {
            check_newly_committed(m, id, i);
        }
        MODEL_CHECK(m, same_entry(node->log[i], m->committed[i]));
    }
    m->checked[id] = node->raft.commit;
}

static void check_leader(struct model *m, int id)
{
    struct world_node *node = &m->world->nodes[id];
    uint64_t term = node->raft.term;
    MODEL_CHECK(m, term < TERMS && term >= m->seen_term[id]);
    m->seen_term[id] = term;
    if (node->raft.role != RAFT_LEADER) {
        return;
    }
    MODEL_CHECK(m, m->leader_of[term] == 0 || m->leader_of[term] == id);
    m->leader_of[term] = id;
    MODEL_CHECK(m, node->disk_term == term && node->disk_vote == (uint64_t)id);
    if (m->led_term[id] == term) {
        return;
    }
    m->led_term[id] = term;
    m->elections++;
    for (uint64_t i = node->raft.log_start; i <= m->commit; i++) {
        if (m->committed_term[i] < term) {
            MODEL_CHECK(m, i <= node->raft.last_index);
            MODEL_CHECK(m, same_entry(node->log[i], m->committed[i]));
        }
    }
}

/* Below both commits check_commit has compared. */
static void check_matching(struct model *m, const struct world_node *a, const struct world_node *b)
{
    uint64_t low = a->raft.commit < b->raft.commit ? a->raft.commit : b->raft.commit;
    low = low < a->raft.log_start - 1 ? a->raft.log_start - 1 : low;
    low = low < b->raft.log_start - 1 ? b->raft.log_start - 1 : low;
    uint64_t at = a->raft.last_index < b->raft.last_index ? a->raft.last_index : b->raft.last_index;
    while (at > low && a->log[at].term != b->log[at].term) {
        at--;
    }
    for (; at > low; at--) {
        MODEL_CHECK(m, same_entry(a->log[at], b->log[at]));
    }
}

static void check_cut(struct model *m, int id)
{
    for (int other = 1; other <= m->world->count; other++) {
        MODEL_CHECK(m, m->world->nodes[id].raft.cut <= m->world->nodes[other].disk_flushed_max);
    }
}

static void check_reads(struct model *m)
{
    for (int i = 0; i < m->read_count;) {
        struct model_read *read = &m->reads[i];
        struct world_node *node = &m->world->nodes[read->node];
        bool leads = node->is_up && node->raft.role == RAFT_LEADER && node->raft.term == read->term;
        if (leads && node->raft.read_confirmed < read->sequence) {
            i++;
            continue;
        }
        if (leads) {
            MODEL_CHECK(m, read->index >= read->committed);
            m->reads_done++;
        }
        *read = m->reads[--m->read_count];
    }
}

static void check_bounds(struct model *m, const struct raft *raft)
{
    for (int i = 0; i < raft->config.replica_count; i++) {
        const struct raft_progress *peer = &raft->progress[i];
        MODEL_CHECK(m, peer->inflight_messages <= raft->config.inflight_messages_max);
        MODEL_CHECK(m, peer->inflight_messages <= 1 ||
                           peer->inflight_bytes <= raft->config.inflight_bytes_max);
        MODEL_CHECK(m, raft->role != RAFT_LEADER || peer->match <= raft->last_index);
    }
}

static void check_all(struct model *m)
{
    struct world *w = m->world;
    for (int id = 1; id <= w->count; id++) {
        struct world_node *node = &w->nodes[id];
        if (!node->is_up) {
            continue;
        }
        MODEL_CHECK(m, !node->saw_diverged);
        check_commit(m, id);
        check_leader(m, id);
        check_cut(m, id);
        check_bounds(m, &node->raft);
        for (int other = id + 1; other <= w->count; other++) {
            if (w->nodes[other].is_up) {
                check_matching(m, node, &w->nodes[other]);
            }
        }
    }
    check_reads(m);
}

/* The events. */

static void turn(struct model *m, int id)
{
    if (m->world->nodes[id].is_up) {
        world_turn(m->world, id);
    }
}

static void do_packet(struct model *m)
{
    struct world *w = m->world;
    if (w->packet_count == 0) {
        return;
    }
    uint64_t window = draw(m, 4) ? 1 : (uint64_t)w->packet_count; /* mostly in order */
    int at = (int)draw(m, window);
    uint64_t fate = draw(m, 100);
    if (fate < 6) {
        free(world_packet_take(w, at).entries);
        return;
    }
    struct world_packet packet = fate < 12
                                     ? world_packet_copy(&w->packets[at]) /* stays: repeated */
                                     : world_packet_take(w, at);
    int to = (int)packet.message.to;
    if (w->nodes[to].is_up) {
        world_step(w, &packet);
        if (draw(m, 3)) {
            turn(m, to); /* else more comes in this turn */
        }
    }
    free(packet.entries);
}

static void do_tick(struct model *m)
{
    for (int id = 1; id <= m->world->count; id++) {
        if (m->world->nodes[id].is_up && draw(m, 10) < 9) {
            world_tick(m->world, id, 5 + draw(m, 10));
        }
    }
}

static void do_disk(struct model *m, int id)
{
    struct world_node *node = &m->world->nodes[id];
    if (node->is_up && node->op_count > 0) {
        for (uint64_t n = 1 + draw(m, (uint64_t)node->op_count); n > 0; n--) {
            world_sync_one(node);
        }
        turn(m, id);
    }
}

static int find_leader(struct model *m)
{
    int from = draw_node(m);
    for (int i = 0; i < m->world->count; i++) {
        int id = 1 + (from + i) % m->world->count;
        if (m->world->nodes[id].is_up && m->world->nodes[id].raft.role == RAFT_LEADER) {
            return id;
        }
    }
    return 0;
}

static void do_propose(struct model *m)
{
    int id = find_leader(m);
    if (!id) {
        return;
    }
    struct raft *raft = &m->world->nodes[id].raft;
    uint32_t count = 1 + (uint32_t)draw(m, 4);
    if (raft->transfer_to || raft->last_index + count > ENTRIES_MAX) {
        return;
    }
    world_propose_quietly(m->world, id, count);
    world_log_effects(&m->world->nodes[id], NULL);
    if (draw(m, 3)) {
        turn(m, id);
    }
}

static void do_read(struct model *m)
{
    int id = find_leader(m);
    if (!id || m->read_count == READS) {
        return;
    }
    struct raft *raft = &m->world->nodes[id].raft;
    struct model_read read = { .node = id, .term = raft->term, .committed = m->commit };
    if (raft_read(raft, &read.sequence, &read.index) == 0) {
        m->reads[m->read_count++] = read;
    }
    for (int to = 1; to <= m->world->count; to++) {
        if (draw(m, 3)) {
            raft_read_send(raft, (uint64_t)to);
        }
    }
    turn(m, id);
}

/* Power loss: of what was on its way to the disk any beginning may have arrived. */
static void do_crash(struct model *m, int id)
{
    struct world_node *node = &m->world->nodes[id];
    if (!node->is_up) {
        return;
    }
    uint64_t kept = draw(m, (uint64_t)node->op_count + 1);
    for (uint64_t i = 0; i < kept; i++) {
        world_op_apply(node, &node->ops[i], node->ops[i].count);
    }
    if ((int)kept < node->op_count && !node->ops[kept].is_state) {
        uint32_t count = node->ops[kept].count; /* 0: no entries, but a reset, a start, a fill */
        world_op_apply(node, &node->ops[kept], (uint32_t)draw(m, count ? count : 1));
    }
    world_crash(m->world, id);
    m->seen_term[id] = node->disk_term;
    m->crashes++;
}

static void do_start(struct model *m, int id)
{
    struct world_node *node = &m->world->nodes[id];
    if (node->is_up) {
        return;
    }
    world_node_start(m->world, id);
    MODEL_CHECK(m, node->disk_term >= node->disk_start_term);
    m->checked[id] = node->raft.commit;
    if (node->raft.commit > m->commit) {
        tell_all(m);
    }
    MODEL_CHECK(m, node->raft.commit <= m->commit);
    for (uint64_t i = node->disk_start; i <= node->raft.commit; i++) {
        MODEL_CHECK(m, same_entry(node->disk[i], m->committed[i]));
    }
}

static void do_store(struct model *m, int id)
{
    struct world_node *node = &m->world->nodes[id];
    if (!node->is_up) {
        return;
    }
    if (draw(m, 2)) {
        world_flush_store(m->world, id);
    } else {
        uint64_t before = node->raft.log_start;
        if (draw(m, 2)) {
            world_cut_log(m->world, id);
        } else { /* over its budget: whoever needs that gets an image */
            enum raft_cut level = (enum raft_cut)draw(m, RAFT_CUT_ALL + 1);
            world_cut_log_at(m->world, id, raft_cut_at(&node->raft, level) + 1);
        }
        m->cuts += node->raft.log_start > before;
    }
}

/* Images on offer, fetched, swapped in, known to the core: each is a step of its own. */
static void do_image(struct model *m, int id)
{
    struct world_node *node = &m->world->nodes[id];
    if (!node->is_up) {
        return;
    }
    if (node->is_installing) {
        world_install_end(m->world, id);
        /* What the image covers is compared no more; what it lets a leader commit is. */
        uint64_t index = node->disk_image_index;
        m->checked[id] = index > m->checked[id] ? index : m->checked[id];
        MODEL_CHECK(m, index <= m->commit);
    } else if (node->image.from != 0) {
        world_install_begin(m->world, id);
    } else {
        world_offer_images(m->world, id);
        if (draw(m, 50) == 0) {
            raft_image_withdraw(&node->raft, draw(m, 6));
        }
    }
}

/* Another replica depends on payloads of its peers. */
static bool has_holes(const struct model *m, int id)
{
    for (int other = 1; other <= m->world->count; other++) {
        const struct world_node *node = &m->world->nodes[other];
        for (uint64_t i = node->disk_flushed + 1; other != id && i <= node->disk_last; i++) {
            if (node->disk_holes[i]) {
                return true;
            }
        }
    }
    return false;
}

/* At most a minority's stores are damaged at a time: else nobody could lead. */
static void do_damage(struct model *m, int id)
{
    int damaged = 0;
    for (int other = 1; other <= m->world->count; other++) {
        damaged += m->world->nodes[other].is_damaged || m->world->nodes[other].disk_is_suspect;
    }
    if (m->world->nodes[id].is_up && !m->world->nodes[id].is_installing &&
        damaged < (m->world->count - 1) / 2 && !has_holes(m, id)) {
        world_damage(m->world, id);
        m->damages++;
    }
}

/* Somebody else holds the payload, who can lead or keep it: a suspect replica's log may be cut. */
static bool has_copy(const struct model *m, int id, uint64_t index)
{
    const struct world_node *node = &m->world->nodes[id];
    for (int other = 1; other <= m->world->count; other++) {
        const struct world_node *peer = &m->world->nodes[other];
        if (other != id && !peer->disk_is_suspect && index >= peer->disk_start &&
            index <= peer->disk_last && same_entry(peer->disk[index], node->disk[index]) &&
            !peer->disk_holes[index]) {
            return true;
        }
    }
    return false;
}

static void do_rot(struct model *m, int id)
{
    struct world_node *node = &m->world->nodes[id];
    uint64_t count = node->disk_last + 1 - node->disk_start;
    if (count == 0 || node->is_damaged || node->is_installing) {
        return;
    }
    uint64_t index = node->disk_last - draw(m, count < 12 ? count : 12);
    if (has_copy(m, id, index)) {
        world_rot(m->world, id, index);
        m->rots++;
    }
}

/* At most a minority at a time, and none while another needs payloads that this one's store may be
 * the only one to have: more is unavailable for good. */
static void do_lose(struct model *m, int id)
{
    struct world_node *node = &m->world->nodes[id];
    int bad = 0;
    for (int other = 1; other <= m->world->count; other++) {
        bad += m->world->nodes[other].is_damaged ||
               (m->world->nodes[other].disk_is_suspect && other != id);
    }
    if (bad + 1 > (m->world->count - 1) / 2 || node->is_installing || node->is_damaged) {
        return;
    }
    if (node->is_up) {
        do_crash(m, id);
    }
    uint64_t count = node->disk_last + 1 - node->disk_start;
    uint64_t last = node->disk_last - draw(m, count < 20 ? count + 1 : 21);
    if (has_holes(m, id)) {
        return;
    }
    world_lose(m->world, id, last);
    m->losses++;
}

static void do_links(struct model *m)
{
    struct world *w = m->world;
    int a = draw_node(m), b = draw_node(m);
    if (a != b && draw(m, 2)) {
        w->blocked[a][b] = !w->blocked[a][b]; /* one way only */
    } else if (draw(m, 2)) {
        memset(w->blocked, 0, sizeof(w->blocked));
    } else {
        world_isolate(w, a, true);
    }
    for (int id = 1; id <= w->count; id++) {
        if (w->nodes[id].is_up && draw(m, 2)) {
            raft_peer_reset(&w->nodes[id].raft, (uint64_t)b);
            turn(m, id);
        }
    }
}

static void do_order(struct model *m)
{
    int id = find_leader(m);
    if (!id) {
        return;
    }
    if (draw(m, 5) == 0) {
        raft_step_down(&m->world->nodes[id].raft);
    } else {
        m->transfers += raft_transfer(&m->world->nodes[id].raft, draw(m, 2) ? 0 : draw(m, 6)) == 0;
    }
    turn(m, id);
}

static void do_memory(struct model *m, int id)
{
    struct world_node *node = &m->world->nodes[id];
    if (!node->is_up) {
        return;
    }
    /* The tail cache always holds what is not durable. */
    node->memory_from = draw(m, 3) ? 0 : draw(m, node->raft.durable_index + 1);
    m->fetched += (uint64_t)node->fetch_count;
    world_fetch(m->world, id, (uint32_t)draw(m, 5));
}

/* Its log has outgrown its budget, or a flush has ended. */
static void do_room(struct model *m, int id)
{
    if (m->world->nodes[id].is_up) {
        raft_take(&m->world->nodes[id].raft, (enum raft_room)draw(m, RAFT_ROOM_NONE + 1));
    }
}

enum { PHASE_STEPS = 500 };

/* All is well and little happens for some time: so groups come to rest, and are shaken from it. */
static bool is_lull(const struct model *m)
{
    return m->world->config.beats && m->step / PHASE_STEPS % 3 == 2;
}

static void begin_lull(struct model *m)
{
    struct world *w = m->world;
    memset(w->blocked, 0, sizeof(w->blocked));
    for (int id = 1; id <= w->count; id++) {
        do_start(m, id);
        raft_take(&w->nodes[id].raft, RAFT_ROOM_ANY);
        world_sync(w, id);
    }
}

static void random_step(struct model *m)
{
    uint64_t choice = draw(m, 1000);
    if (is_lull(m) && m->step % PHASE_STEPS == 0) {
        begin_lull(m);
    }
    if (choice < 520 || (choice >= 790 && is_lull(m) && draw(m, 12) > 0)) {
        do_packet(m);
    } else if (choice < 640) {
        do_tick(m);
    } else if (choice < 790) {
        do_disk(m, draw_node(m));
    } else if (choice < 870) {
        do_propose(m);
    } else if (choice < 900) {
        do_read(m);
    } else if (choice < 920) {
        do_store(m, draw_node(m));
    } else if (choice < 928) {
        do_image(m, draw_node(m));
    } else if (choice < 929) {
        do_damage(m, draw_node(m));
    } else if (choice < 931) {
        do_rot(m, draw_node(m));
    } else if (choice < 932) {
        do_lose(m, draw_node(m));
    } else if (choice < 970) {
        do_memory(m, draw_node(m));
    } else if (choice < 976) {
        do_crash(m, draw_node(m));
    } else if (choice < 988) {
        do_start(m, draw_node(m));
    } else if (choice < 994) {
        do_links(m);
    } else if (choice < 997) {
        do_order(m);
    } else if (choice < 999) {
        do_room(m, draw_node(m));
    } else {
        turn(m, draw_node(m));
    }
}

static bool has_converged(struct model *m, uint64_t index)
{
    for (int id = 1; id <= m->world->count; id++) {
        const struct raft *raft = &m->world->nodes[id].raft;
        if (raft->commit < index || raft->needs_image || raft->is_suspect || raft->hole) {
            return false;
        }
    }
    return true;
}

/* The faults stop: a leader is found, a new entry is committed everywhere, a read is confirmed, all
 * in bounded time. */
static void heal(struct model *m)
{
    struct world *w = m->world;
    memset(w->blocked, 0, sizeof(w->blocked));
    for (int id = 1; id <= w->count; id++) {
        do_start(m, id);
        w->nodes[id].manual_disk = false;
        turn(m, id);
    }
    uint64_t index = 0, proposed_term = 0;
    for (int round = 0; !(index && has_converged(m, index)); round++) {
        if (round == 499) {
            tell_all(m);
        }
        MODEL_CHECK(m, round < 500); /* 5 s of 100 ms timeouts */
        for (int id = 1; id <= w->count; id++) {
            world_tick(w, id, 10);
            world_fetch(w, id, 16);
            world_flush_store(w, id);
            raft_take(&w->nodes[id].raft, RAFT_ROOM_ANY);
            do_image(m, id);
        }
        world_settle(w);
        check_all(m);
        int id = find_leader(m);
        if (id && w->nodes[id].raft.term > proposed_term && !w->nodes[id].raft.transfer_to) {
            index = world_propose(w, id, 1);
            proposed_term = w->nodes[id].raft.term;
        }
    }
    do_read(m);
    int id = find_leader(m);
    for (int to = 1; to <= w->count; to++) {
        raft_read_send(&w->nodes[id].raft, (uint64_t)to);
    }
    turn(m, id);
    world_settle(w);
    check_all(m);
    MODEL_CHECK(m, m->read_count == 0);
}

static void run_seed(struct model *m, uint64_t seed)
{
    static const struct raft_config sizes[] = {
        { .inflight_bytes_max = 1 << 20,
          .inflight_messages_max = 64,
          .append_bytes_max = 64 << 10,
          .append_entries_max = 256 },
        { .inflight_bytes_max = 900,
          .inflight_messages_max = 3,
          .append_bytes_max = 400,
          .append_entries_max = 8 },
        { .inflight_bytes_max = 50, /* below one entry: each goes alone */
          .inflight_messages_max = 2,
          .append_bytes_max = 50,
          .append_entries_max = 1 },
    };
    struct raft_config config = sizes[seed % 3];
    config.seed = seed;
    config.beats = seed % 4 < 2;
    m->seed = seed;
    m->random = seed * 1000003;
    m->world = world_new_with(seed % 2 ? 3 : 5, &config);
    for (int id = 1; id <= m->world->count; id++) {
        m->world->nodes[id].manual_disk = true;
    }
    for (m->step = 0; m->step < STEPS; m->step++) {
        random_step(m);
        check_all(m);
    }
    heal(m);
    for (int id = 1; id <= m->world->count; id++) {
        m->installs += m->world->nodes[id].images_installed;
        m->kept += m->world->nodes[id].images_kept;
        m->healed += m->world->nodes[id].images_healed;
        m->filled += m->world->nodes[id].filled;
        m->heals += m->world->nodes[id].heals;
        m->beats += m->world->nodes[id].beats_followed;
        m->refusals += m->world->nodes[id].beats_refused;
    }
    world_free(m->world);
}

static uint64_t first_seed = 1, seed_count = 300;

static void random_schedules_keep_the_promises(void **state)
{
    uint64_t commits = 0, reads = 0, elections = 0, crashes = 0, fetched = 0, cuts = 0, moves = 0;
    uint64_t installs = 0, kept = 0, healed = 0, rots = 0, filled = 0, losses = 0, heals = 0;
    uint64_t beats = 0, refusals = 0;
    for (uint64_t seed = first_seed; seed < first_seed + seed_count; seed++) {
        struct model *m = calloc(1, sizeof(*m));
        run_seed(m, seed);
        commits += m->commit;
        reads += m->reads_done;
        elections += m->elections;
        crashes += m->crashes;
        fetched += m->fetched;
        cuts += m->cuts;
        moves += m->transfers;
        installs += m->installs;
        kept += m->kept;
        healed += m->healed;
        rots += m->rots;
        filled += m->filled;
        losses += m->losses;
        heals += m->heals;
        beats += m->beats;
        refusals += m->refusals;
        free(m);
    }
    print_message(
        "# per seed: %llu commits, %llu reads, %llu elections, %llu crashes, %llu fetches, "
        "%llu cuts, %llu transfers; in all %llu images, %llu kept the log, %llu healed a store\n",
        (unsigned long long)(commits / seed_count), (unsigned long long)(reads / seed_count),
        (unsigned long long)(elections / seed_count), (unsigned long long)(crashes / seed_count),
        (unsigned long long)(fetched / seed_count), (unsigned long long)(cuts / seed_count),
        (unsigned long long)(moves / seed_count), (unsigned long long)installs,
        (unsigned long long)kept, (unsigned long long)healed);
    print_message("# %llu payloads rotten, %llu filled; %llu replicas lost entries, %llu healed\n",
                  (unsigned long long)rots, (unsigned long long)filled, (unsigned long long)losses,
                  (unsigned long long)heals);
    print_message("# %llu beats followed, %llu refused\n", (unsigned long long)beats,
                  (unsigned long long)refusals);
    /* The schedules do reach what they are for. */
    assert_true(beats > seed_count && refusals > 0);
    assert_true(filled > seed_count / 2 && heals > seed_count / 2);
    assert_true(commits / seed_count > 50);
    assert_true(elections > seed_count && crashes > seed_count && reads > seed_count);
    assert_true(fetched > seed_count / 4 && cuts > seed_count && moves > 0);
    assert_true(installs > seed_count / 2 && kept > 0 && healed > 0);
}

int main(int argc, char **argv)
{
    seed_count = model_seeds(seed_count);
    if (argc == 3) {
        first_seed = strtoull(argv[1], NULL, 10);
        seed_count = strtoull(argv[2], NULL, 10);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_schedules_keep_the_promises),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
