/* Routing: the topology, who is believed to be each partition's primary, and which link a key goes
 * to.
 *
 * The first topology comes from any endpoint; a newer one is asked for when a frame shows a greater
 * epoch, when a node says that a key isn't its partition's, and after a link was lost (for the new
 * primaries). One fetch at a time; a failed one is repeated with backoff at another node. Primaries
 * are hints: every response may correct them, and a wrong one costs a forward, since any node
 * answers any request.
 *
 * Invariants
 *   R1  node_links and primaries are as long as the topology's nodes and partitions, and
 *       primaries holds indexes of nodes.
 *   R2  The epoch of the held topology never decreases; its cluster never changes. */
#include <stdio.h>

#include "client/core_private.h"

/* Of more replicas, one that isn't primary can't answer linearizable reads by its primary's word alone: it would pass them on. */
enum { FOLLOWED_REPLICAS = 3 };

static void links_sweep(struct core *core);
static void topology_send(struct core *core, struct question *question, uint64_t request_id);
static int topology_answered(struct core *core, struct question *question,
                             const struct frame *frame);

void route_fini(struct core *core)
{
    topology_unref(core->topology);
    mem_free(core->node_links);
    mem_free(core->primaries);
}

/* --- Fetching */

void route_want_topology(struct core *core, struct link *from)
{
    core->topology_wanted = true;
    core->topology_from = from ? from->number : 0;
}

static void topology_timer_fired(struct core *core, struct timer *timer)
{
    if (core->topology_question.link) { /* no answer: another node is asked */
        question_withdraw(&core->topology_question);
        core->topology_failures++;
    }
    /* otherwise the pause is over; route_drive comes in the same step */
}

/* A READY link: the one that announced a newer topology, else one at random. */
static struct link *topology_ready_link(struct core *core)
{
    struct link *found = NULL;
    uint64_t count = 0;
    LIST_FOR(at, &core->links)
    {
        struct link *link = container_of(at, struct link, node);
        if (link->state != LINK_READY) {
            continue;
        }
        if (link->number == core->topology_from) {
            return link;
        }
        if (core_random(core) % ++count == 0) {
            found = link;
        }
    }
    return found;
}

static bool is_coming_up(const struct core *core, const struct link *link)
{
    return (link->state == LINK_CONNECTING || link->state == LINK_HELLO) &&
           !link_is_doubtful(core, link);
}

/* Connects the next endpoint or node in turn, unless one is on its way. False: all of them failed
 * just now. */
static bool topology_connect_next(struct core *core)
{
    struct link *idle = NULL;
    LIST_FOR(at, &core->links)
    {
        struct link *link = container_of(at, struct link, node);
        if (is_coming_up(core, link)) {
            return true;
        }
        if (link->state == LINK_IDLE && !idle) {
            idle = link;
        }
    }
    if (!idle) {
        return false;
    }
    list_remove(&idle->node); /* to the end: the next failure tries another */
    list_append(&core->links, &idle->node);
    link_connect(core, idle);
    return true;
}

void route_drive(struct core *core)
{
    struct question *question = &core->topology_question;
    links_sweep(core);
    if (!core->topology_wanted || question->link || core->now_us < core->topology_after_us) {
        return;
    }
    struct link *link = topology_ready_link(core);
    if (!link || core->topology_failures) {
        topology_connect_next(core);
    }
    if (!link) { /* a link's event or timer brings us back, or this */
        if (!core->topology_timer.slot) {
            core->topology_timer.fire = topology_timer_fired;
            timer_set(core, &core->topology_timer, core->now_us + CORE_HEDGE_US);
        }
        return;
    }
    question->send = topology_send;
    question->answered = topology_answered;
    question_ask(core, question, link);
    core->topology_timer.fire = topology_timer_fired;
    timer_set(core, &core->topology_timer, core->now_us + CORE_TOPOLOGY_TIMEOUT_US);
}

static void topology_send(struct core *core, struct question *question, uint64_t request_id)
{
    Cairn__V1__TopologyRequest request = CAIRN__V1__TOPOLOGY_REQUEST__INIT;
    request.epoch = core->topology ? core->topology->epoch : 0;
    struct frame frame = { .type = FRAME_REQUEST,
                           .verb = VERB_TOPOLOGY,
                           .request_id = request_id,
                           .deadline_ms = CORE_TOPOLOGY_TIMEOUT_US / 1000 };
    struct link *link = question->link;
    link_send_frame(core, link, &frame, &request.base, NULL, 0);
}

static void topology_pause(struct core *core, uint64_t us)
{
    core->topology_after_us = core->now_us + us;
    timer_set(core, &core->topology_timer, core->topology_after_us);
}

static void topology_failed(struct core *core)
{
    core->topology_from = 0;
    topology_pause(core, core_backoff(core, core->topology_failures, CORE_LINK_BACKOFF_MIN_US,
                                      CORE_LINK_BACKOFF_MAX_US));
    core->topology_failures++;
}

/* --- Adopting */

static struct link *adopt_find_link(struct core *core, const struct topology_node *node)
{
    LIST_FOR(at, &core->links)
    {
        struct link *link = container_of(at, struct link, node);
        if (link->node_id == node->id && link->state == LINK_READY) {
            return link; /* perhaps an endpoint by another name of the same node */
        }
    }
    return link_get(core, node->address);
}

/* The links to the topology's nodes, by index. NULL: there is no memory. */
static struct link **find_links(struct core *core, const struct topology *topology)
{
    struct link **links = mem_try_zalloc(core->gate, topology->node_count * sizeof *links);
    for (size_t i = 0; links && i < topology->node_count; i++) {
        links[i] = adopt_find_link(core, &topology->nodes[i]);
        if (!links[i]) {
            mem_free(links);
            links = NULL;
        }
    }
    core->has_strays = true;
    return links;
}

static void adopt_links(struct core *core, const struct topology *topology, struct link **links)
{
    LIST_FOR(at, &core->links)
    {
        container_of(at, struct link, node)->is_member = false;
    }
    mem_free(core->node_links);
    core->node_links = links;
    for (size_t i = 0; i < topology->node_count; i++) {
        links[i]->is_member = true;
        links[i]->node_id = topology->nodes[i].id;
    }
}

/* Links to nodes that left. Not while adopting: the answer that is being read may have come over
 * one of them. */
static void links_sweep(struct core *core)
{
    if (!core->has_strays) {
        return;
    }
    core->has_strays = false;
    LIST_FOR_SAFE(at, &core->links)
    {
        struct link *link = container_of(at, struct link, node);
        if (!link->is_member && !link->is_seed) {
            link_free(core, link);
        }
    }
}

/* The primaries known so far, by the new topology's indexes. NULL: there is no memory. */
static int32_t *adopt_primaries(const struct core *core, const struct topology *topology)
{
    int32_t *primaries = mem_try_alloc(core->gate, topology->partition_count * sizeof *primaries);
    for (size_t i = 0; primaries && i < topology->partition_count; i++) {
        primaries[i] = -1;
        size_t before = core->topology ? route_find_group(core, topology->partitions[i].group) : 0;
        int32_t node = before ? core->primaries[before] : -1;
        const struct topology_node *kept =
            node < 0 ? NULL : topology_find_node(topology, core->topology->nodes[node].id);
        if (kept) {
            primaries[i] = (int32_t)(kept - topology->nodes);
        }
    }
    return primaries;
}

/* The copy that a core beside holds of the same topology (an epoch of a cluster has but one), or
 * this one. */
static struct topology *topology_share(struct core *core, struct topology *topology)
{
    LIST_FOR(at, &core->beside)
    {
        struct topology *other = container_of(at, struct core, beside)->topology;
        if (other && other->epoch == topology->epoch &&
            memcmp(other->cluster_id, topology->cluster_id, sizeof other->cluster_id) == 0) {
            topology_unref(topology);
            return topology_ref(other);
        }
    }
    return topology;
}

/* False: there is no memory; all is as it was, but that the topology is given back. */
static bool topology_adopt(struct core *core, struct topology *topology)
{
    topology = topology_share(core, topology);
    int32_t *primaries = adopt_primaries(core, topology);
    struct link **links = primaries ? find_links(core, topology) : NULL;
    if (!links) {
        mem_free(primaries);
        topology_unref(topology);
        return false;
    }
    mem_free(core->primaries);
    core->primaries = primaries;
    struct topology *before = core->topology;
    core->topology = topology;
    memcpy(core->cluster_id, topology->cluster_id, sizeof core->cluster_id);
    core->has_cluster = true;
    core->stats.topology_updates++;
    adopt_links(core, topology, links);
    topology_unref(before);
    ask_topology_came(core);
    stream_topology_came(core);
    return true;
}

/* 0: the answer was used; ERR_PROTOCOL: malformed; others: of no use now. */
static int topology_use(struct core *core, const struct frame *frame)
{
    if (frame->status) {
        exchange_error_info(core, NULL, frame);
        return ERR_UNAVAILABLE;
    }
    Cairn__V1__TopologyResponse *response = cairn__v1__topology_response__unpack(
        &core->allocator, frame->message.size, frame->message.data);
    if (!response) {
        return ERR_PROTOCOL;
    }
    if (response->topology.len) {
        struct topology *topology;
        struct err err = { 0 };
        if (topology_unpack(span_of(response->topology.data, response->topology.len), &topology,
                            &err)) {
            snprintf(core->trouble, sizeof core->trouble, "%s", err.text);
            return ERR_PROTOCOL;
        }
        bool is_other =
            core->has_cluster && memcmp(topology->cluster_id, core->cluster_id, 16) != 0;
        bool is_newer = !core->topology || topology->epoch > core->topology->epoch;
        if (is_other || !is_newer) {
            topology_unref(topology);
        } else if (!topology_adopt(core, topology)) {
            snprintf(core->trouble, sizeof core->trouble, "no memory for the topology");
            return ERR_NO_MEMORY;
        }
        if (is_other) {
            return ERR_PROTOCOL;
        }
    }
    for (size_t i = 0; i < response->n_hints; i++) {
        route_learn(core, response->hints[i]);
    }
    return core->topology ? 0 : ERR_UNAVAILABLE;
}

static int topology_answered(struct core *core, struct question *question,
                             const struct frame *frame)
{
    int status = frame ? topology_use(core, frame) : ERR_UNAVAILABLE;
    if (status == ERR_PROTOCOL) {
        return status; /* asked again with NULL, below */
    }
    if (status) {
        topology_failed(core);
        return 0;
    }
    core->topology_wanted = false;
    core->time_us = core->now_us;
    call_wake(core, &core->homeless, UINT64_MAX);
    core->topology_failures = 0;
    core->topology_from = 0;
    topology_pause(core, CORE_TOPOLOGY_PAUSE_US);
    return 0;
}

/* --- Primaries */

size_t route_find_group(const struct core *core, uint32_t group)
{
    const struct topology *topology = core->topology;
    if (!topology || group == 0) {
        return 0;
    }
    if (group < topology->partition_count && topology->partitions[group].group == group) {
        return group; /* as long as nothing was split */
    }
    const struct topology_partition *partition = topology_find_group(topology, group);
    return partition ? (size_t)(partition - topology->partitions) : 0;
}

void route_learn(struct core *core, const Cairn__V1__Hint *hint)
{
    if (hint) {
        route_learn_primary(core, hint->group, hint->node_id);
    }
}

void route_learn_primary(struct core *core, uint32_t group, uint64_t node_id)
{
    size_t partition = core->topology ? route_find_group(core, group) : 0;
    if (!partition || node_id == 0) {
        return;
    }
    int32_t known = core->primaries[partition], found = -1;
    if (known >= 0 && core->topology->nodes[known].id == node_id) {
        return; /* as nearly always */
    }
    for (size_t i = 0; i < core->topology->node_count; i++) {
        if (core->topology->nodes[i].id == node_id) {
            found = (int32_t)i;
            break;
        }
    }
    if (found >= 0 && core->primaries[partition] != found) {
        core->stats.redirects += core->primaries[partition] >= 0;
        core->primaries[partition] = found;
    }
}

size_t route_preferred(const struct core *core, size_t partition)
{
    if (core->primaries[partition] >= 0) {
        return (size_t)core->primaries[partition];
    }
    uint64_t node_id = core->topology->partitions[partition].replicas[0].node_id;
    const struct topology_node *node = topology_find_node(core->topology, node_id);
    return node ? (size_t)(node - core->topology->nodes) : 0;
}

struct link *route_node_link(struct core *core, size_t node_index)
{
    return core->node_links[node_index];
}

/* The node of the partition's `number`-th replica in the order of this handle. */
static size_t replica_node(const struct core *core, size_t partition, size_t number)
{
    const struct topology_partition *of = &core->topology->partitions[partition];
    size_t at = (core->replica_bias + number) % (size_t)of->replica_count;
    const struct topology_node *node = topology_find_node(core->topology, of->replicas[at].node_id);
    return node ? (size_t)(node - core->topology->nodes) : 0;
}

size_t route_preferred_replica(const struct core *core, size_t partition)
{
    return replica_node(core, partition, 0);
}

struct link *route_choose_replica(struct core *core, size_t partition, uint64_t avoid)
{
    size_t count = (size_t)core->topology->partitions[partition].replica_count;
    for (size_t i = 0; i < count; i++) {
        struct link *link = core->node_links[replica_node(core, partition, i)];
        if (link_is_usable(link) && (avoid == 0 || link->node_id != avoid)) {
            return link;
        }
    }
    return route_choose(core, partition, avoid);
}

struct link *route_choose_home(struct core *core, size_t partition)
{
    const struct topology *topology = core->topology;
    const struct topology_partition *of = &topology->partitions[partition];
    size_t home = core->replica_bias % topology->node_count;
    struct link *link = core->node_links[home];
    bool has_replica = false;
    if (of->replica_count > FOLLOWED_REPLICAS) {
        return NULL;
    }
    for (int i = 0; i < of->replica_count; i++) {
        has_replica = has_replica || of->replicas[i].node_id == topology->nodes[home].id;
    }
    bool is_well = link_is_usable(link) && !link_is_doubtful(core, link);
    return has_replica && is_well && link->failures == 0 ? link : NULL;
}

struct link *route_choose(struct core *core, size_t partition, uint64_t avoid)
{
    struct link *preferred = core->node_links[route_preferred(core, partition)];
    if (link_is_usable(preferred) && !link_is_doubtful(core, preferred) &&
        (preferred->node_id != avoid || avoid == 0)) {
        return preferred;
    }
    size_t count = core->topology->node_count;
    size_t start = core_random(core) % count;
    struct link *last = link_is_usable(preferred) ? preferred : NULL;
    struct link *doubtful = NULL, *coming = NULL;
    for (size_t i = 0; i < count; i++) {
        struct link *link = core->node_links[(start + i) % count];
        if (!link_is_usable(link) || link->node_id == avoid) {
            continue;
        }
        if (link_is_doubtful(core, link)) {
            doubtful = link;
        } else if (link->state == LINK_READY) {
            return link;
        } else {
            coming = link;
        }
    }
    return coming ? coming : doubtful ? doubtful : last;
}
