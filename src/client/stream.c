/* Scans: an ordered walk over all partitions, merged as it streams in.
 *
 * A scan has sources; each stands for some groups and the range that is still to be read of them,
 * and asks one node for pages, the node that is believed to lead those groups (any node would
 * answer, by forwarding). The merge takes the least key (the greatest in reverse) over all sources
 * and so needs an entry, or the end, of every source. A source asks for its next page when the
 * present one is half used, and once pages have grown to their full size (so that the caller
 * seems to want all) as soon as it has the present one: the nodes work while he does. When a page fails, the source's groups are dealt out anew by the
 * primaries known by then: each part goes on where the source stood.
 *
 * Invariants
 *   M1  Every group belongs to one source, and a source's entries lie in [from, to) of its last
 *       request, in strict order: so the merged keys are in strict order too. Servers that break
 *       this are refused.
 *   M2  At most two pages a source are held; pages get smaller when there are many sources
 *       (STREAM_BYTES). A page may lie in a buffer of up to twice its size.
 *   M3  An entry that was handed out stays until the next call on the scan: its page is only
 *       retired.
 *   M4  Every page without entries moves the source's range: a scan ends. */
#include <stdio.h>
#include <stdlib.h>

#include "base/hlc.h"
#include "base/merge.h"
#include "client/core_private.h"
#include "wire/scan_page.h"

enum {
    STREAM_BYTES = 16 << 20, /* of pages held by one scan, about */
    STREAM_PAGE_BYTES_MIN = 64 << 10,
    STREAM_PAGE_ENTRIES_FIRST = 256,
};

struct page {
    struct list node;            /* in scan->retired */
    uint8_t *memory;             /* holds the entries */
    struct span rest;            /* behind the head */
    struct scan_page_entry head; /* the next entry, unless it is used up */
    size_t at, count;            /* number of the next entry, of all */
};

struct source {
    struct list node; /* in scan->sources */
    struct core_scan *scan;
    struct question question;
    struct timer timer; /* while a page is missing: retry_us or the deadline */
    uint32_t *groups;
    size_t group_count;
    struct buf from, to; /* what was not asked for yet; empty: open */
    bool is_done;        /* nothing is left to ask for */
    bool is_paused;
    uint32_t retries, page_entries;
    uint64_t avoid, retry_us, deadline_us; /* deadline_us 0: no page is being asked for */
    struct page *current, *next;
};

struct core_scan {
    struct list node; /* in core->streams */
    struct core *core;
    struct buf from, to;
    struct span last; /* the key that was handed out last: in a page that is still there, or in */
    struct buf last_kept;
    bool is_reverse, keys_only, meta_only, is_built, has_last;
    enum cairn_consistency consistency;
    uint64_t max_staleness_ms, staleness_ms;
    uint64_t limit, handed_out;
    uint64_t timeout_us;
    uint32_t page_entries;
    uint64_t signature; /* of the partitions that the sources were built for */
    int status;
    struct timer timer; /* waiting for a topology */
    struct list sources, retired;
    size_t source_count;
    bool is_merging;        /* every source is in the merge, with its head, or has ended */
    bool wants_page;        /* the source that gave an entry last would ask for its next page */
    struct merge merge;     /* of */
    struct source **merged; /* all sources */
    void *merge_room;
    size_t merge_capacity;
    void (*done)(void *arg, int status);
    void *arg;
    uint64_t called_step;
};

static void source_timer_fired(struct core *core, struct timer *timer);
static void source_send(struct core *core, struct question *question, uint64_t request_id);
static int source_answered(struct core *core, struct question *question, const struct frame *frame);
static void source_failed(struct core *core, struct source *source, int status);

/* --- Pages */

static void page_free(struct page *page)
{
    if (page) {
        mem_free(page->memory);
        mem_free(page);
    }
}

static void page_retire(struct core_scan *scan, struct page *page)
{
    if (page) {
        list_append(&scan->retired, &page->node);
    }
}

static bool page_is_used_up(const struct page *page)
{
    return page->at == page->count;
}

/* Moves on to the next entry; the page was checked when it came. */
static void page_advance(struct page *page)
{
    page->at++;
    bool has_next = scan_page_next(&page->rest, &page->head);
    CHECK(has_next == (page->at < page->count));
}

static struct span page_key(const struct page *page)
{
    return page->head.key;
}

/* --- Key ranges */

static void range_set(struct buf *buf, struct span key)
{
    buf_clear(buf);
    buf_append_span(buf, key);
}

/* Makes *key the least string above all that begin with it; false: there is none. */
static bool range_after_prefix(struct buf *key)
{
    while (key->size && key->data[key->size - 1] == 0xff) {
        key->size--;
    }
    if (key->size == 0) {
        return false;
    }
    key->data[key->size - 1]++;
    return true;
}

/* Makes *key the least possible key above it; false: there is none. */
static bool range_after_key(struct buf *key)
{
    if (key->size < LIMIT_KEY_BYTES) {
        buf_append(key, "", 1);
        return true;
    }
    return range_after_prefix(key); /* no longer keys exist, so nothing begins with this one */
}

static bool range_is_empty(const struct buf *from, const struct buf *to)
{
    return to->size && span_compare(buf_span(from), buf_span(to)) >= 0;
}

/* The source goes on behind this key. */
static void source_continue(struct source *source, struct span key)
{
    if (source->scan->is_reverse) {
        range_set(&source->to, key);
        source->is_done = source->is_done || range_is_empty(&source->from, &source->to);
        return;
    }
    range_set(&source->from, key);
    if (!range_after_key(&source->from) || range_is_empty(&source->from, &source->to)) {
        source->is_done = true;
    }
}

/* --- Sources */

/* Room for any bound that range_set and range_after_… make of it. */
static bool range_reserve(struct core *core, struct buf *buf)
{
    return buf_try_reserve(buf, core->gate, LIMIT_KEY_BYTES + 2);
}

/* NULL: there is no memory. */
static struct source *source_new(struct core_scan *scan, struct span from, struct span to)
{
    struct core *core = scan->core;
    struct source *source = MEM_TRY_NEW(core->gate, struct source);
    if (!source) {
        return NULL;
    }
    source->groups =
        mem_try_alloc(core->gate, core->topology->partition_count * sizeof *source->groups);
    if (!source->groups || !range_reserve(core, &source->from) ||
        !range_reserve(core, &source->to) || !timers_reserve(core, 1)) {
        buf_fini(&source->from);
        buf_fini(&source->to);
        mem_free(source->groups);
        mem_free(source);
        return NULL;
    }
    source->scan = scan;
    source->question.send = source_send;
    source->question.answered = source_answered;
    source->timer.fire = source_timer_fired;
    source->page_entries = scan->page_entries;
    range_set(&source->from, from);
    range_set(&source->to, to);
    list_append(&scan->sources, &source->node);
    scan->source_count++;
    scan->is_merging = false;
    scan->core->streams_dirty = true;
    return source;
}

static void source_free(struct core_scan *scan, struct source *source)
{
    question_withdraw(&source->question);
    timer_clear(scan->core, &source->timer);
    timers_release(scan->core, 1);
    page_retire(scan, source->current);
    page_free(source->next);
    buf_fini(&source->from);
    buf_fini(&source->to);
    list_remove(&source->node);
    scan->source_count--;
    scan->is_merging = false;
    mem_free(source->groups);
    mem_free(source);
}

/* The node to ask for a group: the one that leads it, or for stale scans the handle's replica. */
static size_t scan_home(const struct core_scan *scan, uint32_t group)
{
    size_t partition = route_find_group(scan->core, group);
    return scan->consistency == CAIRN_STALE ? route_preferred_replica(scan->core, partition)
                                            : route_preferred(scan->core, partition);
}

static void scan_fail(struct core_scan *scan, int status)
{
    if (!scan->status) {
        scan->status = status;
        scan->core->streams_dirty = true;
        core_set_error(scan->core, status, scan->core->trouble);
    }
}

static void scan_starve(struct core_scan *scan)
{
    snprintf(scan->core->trouble, sizeof scan->core->trouble, "no memory for a scan");
    scan_fail(scan, ERR_NO_MEMORY);
}

/* Deals groups out to one new source a node, all with this range. Without memory the scan fails. */
static void sources_deal(struct core_scan *scan, const uint32_t *groups, size_t count,
                         struct span from, struct span to)
{
    struct core *core = scan->core;
    struct source **by_node =
        mem_try_zalloc(core->gate, core->topology->node_count * sizeof *by_node);
    if (!by_node) {
        scan_starve(scan);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        size_t node = scan_home(scan, groups[i]);
        if (!by_node[node]) {
            by_node[node] = source_new(scan, from, to);
        }
        if (!by_node[node]) {
            scan_starve(scan);
            break;
        }
        by_node[node]->groups[by_node[node]->group_count++] = groups[i];
    }
    mem_free(by_node);
}

static uint64_t topology_signature(const struct topology *topology)
{
    uint64_t signature = topology->partition_count;
    for (size_t i = 1; i < topology->partition_count; i++) {
        signature = signature * 0x100000001b3u ^ topology->partitions[i].group;
    }
    return signature;
}

/* Begins, or begins again behind the last key after the partitions changed. */
static void scan_build(struct core_scan *scan)
{
    struct core *core = scan->core;
    while (!list_is_empty(&scan->sources)) {
        source_free(scan, container_of(scan->sources.next, struct source, node));
    }
    timer_clear(core, &scan->timer);
    scan->is_built = true;
    scan->signature = topology_signature(core->topology);
    struct buf from = { 0 };
    size_t count = core->topology->partition_count - 1;
    uint32_t *groups = mem_try_alloc(core->gate, count * sizeof *groups);
    if (!groups || !range_reserve(core, &from)) {
        mem_free(groups);
        scan_starve(scan);
        return;
    }
    range_set(&from, buf_span(&scan->from));
    struct span to = buf_span(&scan->to);
    bool is_over = range_is_empty(&scan->from, &scan->to);
    if (scan->has_last && scan->is_reverse) {
        to = scan->last;
    } else if (scan->has_last) {
        range_set(&from, scan->last);
        is_over = is_over || !range_after_key(&from);
    }
    if (!is_over) {
        for (size_t i = 0; i < count; i++) {
            groups[i] = core->topology->partitions[i + 1].group;
        }
        sources_deal(scan, groups, count, buf_span(&from), to);
    }
    mem_free(groups);
    buf_fini(&from);
}

/* --- Asking for a page */

static bool source_wants_page(const struct source *source)
{
    if (source->is_done || source->next || source->question.link || source->is_paused) {
        return false;
    }
    const struct page *page = source->current;
    return !page || page->at * 2 >= page->count || source->page_entries == LIMIT_SCAN_PAGE_ENTRIES;
}

static void source_ask(struct core *core, struct source *source)
{
    if (!source->deadline_us) {
        source->deadline_us = core->now_us + source->scan->timeout_us;
        source->retries = 0;
    }
    size_t partition = route_find_group(core, source->groups[0]);
    struct link *link = source->scan->consistency == CAIRN_STALE
                            ? route_choose_replica(core, partition, source->avoid)
                            : route_choose(core, partition, source->avoid);
    source->avoid = 0;
    if (!link) {
        source_failed(core, source, core->was_reached ? ERR_UNAVAILABLE : ERR_CONNECT);
        return;
    }
    uint64_t third = source->scan->timeout_us / 3;
    source->retry_us = core->now_us + (third > CORE_HEDGE_US ? third : CORE_HEDGE_US);
    timer_set(core, &source->timer,
              source->retry_us < source->deadline_us ? source->retry_us : source->deadline_us);
    question_ask(core, &source->question, link);
}

static uint32_t source_page_entries(const struct source *source)
{
    const struct core_scan *scan = source->scan;
    uint64_t left = scan->limit ? scan->limit - scan->handed_out : UINT64_MAX;
    return left < source->page_entries ? (uint32_t)(left ? left : 1) : source->page_entries;
}

static void source_send(struct core *core, struct question *question, uint64_t request_id)
{
    struct source *source = container_of(question, struct source, question);
    const struct core_scan *scan = source->scan;
    size_t page_bytes = STREAM_BYTES / 2 / scan->source_count;
    page_bytes = page_bytes < STREAM_PAGE_BYTES_MIN   ? STREAM_PAGE_BYTES_MIN
                 : page_bytes > LIMIT_SCAN_PAGE_BYTES ? LIMIT_SCAN_PAGE_BYTES
                                                      : page_bytes;
    Cairn__V1__ScanRequest request = CAIRN__V1__SCAN_REQUEST__INIT;
    request.from = (ProtobufCBinaryData){ source->from.size, source->from.data };
    request.to = (ProtobufCBinaryData){ source->to.size, source->to.data };
    request.reverse = scan->is_reverse;
    request.limit = source_page_entries(source);
    request.page_bytes = (uint32_t)page_bytes;
    request.keys_only = scan->keys_only;
    request.meta_only = scan->meta_only;
    request.consistency = (Cairn__V1__Consistency)scan->consistency;
    request.max_staleness_ms = scan->max_staleness_ms;
    request.groups = source->groups;
    request.n_groups = source->group_count;
    uint64_t left_ms =
        source->deadline_us > core->now_us ? (source->deadline_us - core->now_us) / 1000 : 0;
    struct frame frame = { .type = FRAME_REQUEST,
                           .verb = VERB_SCAN,
                           .request_id = request_id,
                           .deadline_ms = left_ms ? (uint32_t)left_ms : 1 };
    link_send_frame(core, question->link, &frame, &request.base, NULL, 0);
}

/* --- Reading a page */

/* In strict order and within the bounds, and each entry with what was asked for. *count: entries;
 * *last: the last one's key. */
static int page_check(const struct source *source, struct span page, size_t *count,
                      struct span *last)
{
    const struct core_scan *scan = source->scan;
    uint8_t wanted = scan->keys_only   ? 0
                     : scan->meta_only ? SCAN_PAGE_META
                                       : SCAN_PAGE_META | SCAN_PAGE_VALUE;
    struct scan_page_entry entry;
    struct span first = { 0 };
    *count = 0;
    for (; scan_page_next(&page, &entry); ++*count) {
        int order = *count ? span_compare(*last, entry.key) : 0;
        if ((entry.flags & ~SCAN_PAGE_ATTRIBUTES) != wanted ||
            (*count && (scan->is_reverse ? order <= 0 : order >= 0))) {
            return ERR_PROTOCOL;
        }
        first = *count ? first : entry.key;
        *last = entry.key;
    }
    struct span low = scan->is_reverse ? *last : first, high = scan->is_reverse ? first : *last;
    bool is_within = span_compare(low, buf_span(&source->from)) >= 0 &&
                     (!source->to.size || span_compare(high, buf_span(&source->to)) < 0);
    return page.size == 0 && (*count == 0 || is_within) ? 0 : ERR_PROTOCOL;
}

/* An empty page with more to come: the range begins at `resume`. */
static int source_resume(struct source *source, struct span resume)
{
    bool is_reverse = source->scan->is_reverse;
    bool moves = is_reverse ? resume.size && (!source->to.size ||
                                              span_compare(resume, buf_span(&source->to)) < 0)
                            : span_compare(resume, buf_span(&source->from)) > 0;
    if (!moves || resume.size > LIMIT_KEY_BYTES + 1) {
        return ERR_PROTOCOL;
    }
    range_set(is_reverse ? &source->to : &source->from, resume);
    source->is_done = range_is_empty(&source->from, &source->to);
    return 0;
}

/* NULL: there is no memory. */
static struct page *page_new(struct core *core, struct span bytes, size_t count)
{
    struct page *page = MEM_TRY_NEW(core->gate, struct page);
    uint8_t *memory = page ? core_take_payload(core, bytes, &page->rest) : NULL;
    if (!memory) {
        mem_free(page);
        return NULL;
    }
    page->memory = memory;
    page->count = count;
    bool has_entry = scan_page_next(&page->rest, &page->head);
    CHECK(has_entry);
    return page;
}

static int source_take_page(struct core *core, struct source *source, const struct frame *frame)
{
    struct arena arena = { .gate = core->gate };
    ProtobufCAllocator allocator = { core->allocator.alloc, core->allocator.free, &arena };
    Cairn__V1__ScanResponse *response =
        message_unpack(&cairn__v1__scan_response__descriptor, &allocator, frame->message);
    size_t count = 0;
    struct span last = { 0 };
    int status = response ? page_check(source, frame->payload, &count, &last) : ERR_PROTOCOL;
    bool has_more = frame->flags & FRAME_MORE;
    struct page *page = status == 0 && count ? page_new(core, frame->payload, count) : NULL;
    if ((!response && arena.has_refused) || (status == 0 && count && !page)) {
        status = ERR_NO_MEMORY; /* nothing was taken: the page is asked for again */
    }
    if (status == 0) {
        for (size_t i = 0; i < response->n_hints; i++) {
            route_learn(core, response->hints[i]);
        }
        if (response->staleness_ms > source->scan->staleness_ms) {
            source->scan->staleness_ms = response->staleness_ms;
        }
        if (count) {
            source_continue(source, last);
        } else if (has_more) {
            status = source_resume(source, span_of(response->resume.data, response->resume.len));
        }
        source->is_done = source->is_done || !has_more;
    }
    if (page) { /* a status other than 0 would be of a page without entries */
        CHECK(status == 0);
        *(source->current ? &source->next : &source->current) = page;
    }
    arena_fini(&arena);
    return status;
}

static int source_answered(struct core *core, struct question *question, const struct frame *frame)
{
    struct source *source = container_of(question, struct source, question);
    if (!frame) {
        source_failed(core, source, ERR_CLOSED);
        return 0;
    }
    core->streams_dirty = true;
    if (frame->status) {
        exchange_error_info(core, NULL, frame);
        if (exchange_is_retryable(frame->status)) {
            source_failed(core, source, frame->status);
        } else {
            timer_clear(core, &source->timer);
            scan_fail(source->scan, frame->status);
        }
        return 0;
    }
    int status = source_take_page(core, source, frame);
    if (status) {
        return status;
    }
    timer_clear(core, &source->timer);
    source->deadline_us = 0;
    uint32_t grown = source->page_entries * 2;
    source->page_entries = grown < LIMIT_SCAN_PAGE_ENTRIES ? grown : LIMIT_SCAN_PAGE_ENTRIES;
    return 0;
}

/* --- Failures */

/* Groups whose primary is elsewhere by now get sources of their own; the first group's node keeps
 * this one. */
static void source_split(struct core *core, struct source *source)
{
    size_t home = scan_home(source->scan, source->groups[0]);
    uint32_t *others = mem_try_alloc(core->gate, source->group_count * sizeof *others);
    if (!others) {
        return; /* asked in the old way, or the next time */
    }
    size_t other_count = 0, kept = 0;
    for (size_t i = 0; i < source->group_count; i++) {
        if (scan_home(source->scan, source->groups[i]) == home) {
            source->groups[kept++] = source->groups[i];
        } else {
            others[other_count++] = source->groups[i];
        }
    }
    source->group_count = kept;
    if (other_count) {
        sources_deal(source->scan, others, other_count, buf_span(&source->from),
                     buf_span(&source->to));
    }
    mem_free(others);
}

static void source_failed(struct core *core, struct source *source, int status)
{
    if (core->now_us >= source->deadline_us) {
        bool was_reached = core->was_reached;
        scan_fail(source->scan, !was_reached         ? ERR_CONNECT
                                : status == ERR_BUSY ? status
                                                     : ERR_UNAVAILABLE);
        return;
    }
    core->stats.retries++;
    source_split(core, source);
    source->is_paused = true;
    source->retry_us = core->now_us + 1 +
                       core_backoff(core, source->retries, CORE_RETRY_MIN_US, CORE_RETRY_MAX_US);
    source->retries++;
    timer_set(core, &source->timer,
              source->retry_us < source->deadline_us ? source->retry_us : source->deadline_us);
    route_want_topology(core, NULL);
}

static void source_timer_fired(struct core *core, struct timer *timer)
{
    struct source *source = container_of(timer, struct source, timer);
    core->streams_dirty = true;
    if (core->now_us >= source->deadline_us) {
        bool was_asked = source->question.link;
        question_withdraw(&source->question);
        scan_fail(source->scan, !core->was_reached ? ERR_CONNECT
                                : was_asked        ? ERR_TIMEOUT
                                                   : ERR_UNAVAILABLE);
        return;
    }
    source->is_paused = false;
    if (source->question.link) { /* no answer for a while: another node is asked */
        source->avoid = source->question.link->node_id;
        question_withdraw(&source->question);
        core->stats.retries++;
    }
}

static void scan_timer_fired(struct core *core, struct timer *timer)
{
    struct core_scan *scan = container_of(timer, struct core_scan, timer);
    scan_fail(scan, core->was_reached ? ERR_UNAVAILABLE : ERR_CONNECT);
}

/* --- Driving */

void stream_topology_came(struct core *core)
{
    core->streams_dirty = true;
}

static void scan_drive(struct core *core, struct core_scan *scan)
{
    if (scan->status || (scan->limit && scan->handed_out == scan->limit)) {
        return;
    }
    if (!core->topology) {
        core->topology_wanted = true;
        if (!scan->timer.slot) {
            timer_set(core, &scan->timer, core->now_us + scan->timeout_us);
        }
        return;
    }
    if (!scan->is_built || scan->signature != topology_signature(core->topology)) {
        scan_build(scan);
    }
    if (scan->status) {
        return;
    }
    LIST_FOR(at, &scan->sources)
    { /* sources that failing makes are appended, and asked in the same walk */
        struct source *source = container_of(at, struct source, node);
        if (source_wants_page(source)) {
            source_ask(core, source);
        }
    }
}

/* Whether core_scan_try has something to say. */
static bool scan_is_ready(const struct core_scan *scan)
{
    if (scan->status || (scan->limit && scan->handed_out == scan->limit)) {
        return true;
    }
    if (!scan->is_built) {
        return false;
    }
    LIST_FOR(at, &scan->sources)
    {
        const struct source *source = container_of(at, struct source, node);
        bool has_entry = (source->current && !page_is_used_up(source->current)) || source->next;
        if (!has_entry && !source->is_done) {
            return false;
        }
    }
    return true;
}

void stream_drive(struct core *core)
{
    if (!core->streams_dirty) {
        return;
    }
    core->streams_dirty = false;
    LIST_FOR(at, &core->streams)
    {
        struct core_scan *scan = container_of(at, struct core_scan, node);
        scan_drive(core, scan);
        if (scan->done && scan_is_ready(scan)) { /* nothing to ask for, or fetched again in its
                                                    callback: the next step calls back */
            core->streams_dirty = true;
        }
    }
}

static struct core_scan *stream_find_ready(struct core *core)
{
    LIST_FOR(at, &core->streams)
    {
        struct core_scan *scan = container_of(at, struct core_scan, node);
        if (scan->done && scan->called_step != core->steps && scan_is_ready(scan)) {
            return scan;
        }
    }
    return NULL;
}

int stream_callbacks(struct core *core)
{
    int calls = 0;
    struct core_scan *scan;
    while ((scan = stream_find_ready(
                core))) { /* once a scan and step; the callback may close any scan */
        void (*done)(void *, int) = scan->done;
        scan->done = NULL;
        scan->called_step = core->steps;
        done(scan->arg, scan->status);
        calls++;
    }
    return calls;
}

/* --- The caller's side */

static int scan_set_range(struct core_scan *scan, const struct cairn_scan_options *options)
{
    struct span from = span_of(options->from, options->from_size);
    struct span to = span_of(options->to, options->to_size);
    struct span prefix = span_of(options->prefix, options->prefix_size);
    if (from.size > LIMIT_KEY_BYTES + 1 || to.size > LIMIT_KEY_BYTES + 1 ||
        prefix.size > LIMIT_KEY_BYTES) {
        return ERR_KEY_TOO_LONG;
    }
    range_set(&scan->from, span_compare(from, prefix) > 0 ? from : prefix);
    range_set(&scan->to, to);
    uint8_t room[LIMIT_KEY_BYTES];
    struct buf end = { room, 0, sizeof room }; /* on the stack: it only shrinks */
    buf_append_span(&end, prefix);
    if (range_after_prefix(&end) && (to.size == 0 || span_compare(buf_span(&end), to) < 0)) {
        range_set(&scan->to, buf_span(&end));
    }
    return 0;
}

int core_scan_open(struct core *core, const struct cairn_scan_options *options, uint64_t now_us,
                   struct core_scan **out)
{
    if ((unsigned)options->consistency > CAIRN_STALE ||
        (options->max_staleness_ms && options->consistency != CAIRN_STALE) ||
        (options->from_size && !options->from) || (options->to_size && !options->to) ||
        (options->prefix_size && !options->prefix)) {
        return ERR_USAGE;
    }
    if (now_us > core->now_us) {
        core->now_us = now_us;
    }
    struct core_scan *scan = MEM_TRY_NEW(core->gate, struct core_scan);
    bool has_memory = scan && range_reserve(core, &scan->from) && range_reserve(core, &scan->to) &&
                      range_reserve(core, &scan->last_kept);
    int status = has_memory ? scan_set_range(scan, options) : ERR_NO_MEMORY;
    if (status == 0 && !timers_reserve(core, 1)) {
        status = ERR_NO_MEMORY;
    }
    if (status) {
        if (scan) {
            buf_fini(&scan->from);
            buf_fini(&scan->to);
            buf_fini(&scan->last_kept);
        }
        mem_free(scan);
        return status;
    }
    scan->core = core;
    scan->is_reverse = options->reverse;
    scan->keys_only = options->keys_only;
    scan->meta_only = options->meta_only;
    scan->consistency = options->consistency;
    scan->max_staleness_ms = options->max_staleness_ms;
    scan->limit = options->limit;
    scan->timeout_us =
        (uint64_t)(options->timeout_ms ? options->timeout_ms : core->timeout_ms) * 1000;
    scan->page_entries = options->page_entries ? options->page_entries : STREAM_PAGE_ENTRIES_FIRST;
    if (scan->page_entries > LIMIT_SCAN_PAGE_ENTRIES) {
        scan->page_entries = LIMIT_SCAN_PAGE_ENTRIES;
    }
    scan->timer.fire = scan_timer_fired;
    list_init(&scan->sources);
    list_init(&scan->retired);
    list_append(&core->streams, &scan->node);
    core->streams_dirty = true;
    core->stats.requests++;
    *out = scan;
    return 0;
}

static void scan_free_retired(struct core_scan *scan)
{
    if (!list_is_empty(&scan->retired) && scan->last.data != scan->last_kept.data) {
        range_set(&scan->last_kept, scan->last);
        scan->last = buf_span(&scan->last_kept);
    }
    struct list *node;
    while ((node = list_take_first(&scan->retired))) {
        page_free(container_of(node, struct page, node));
    }
}

/* Whether the source has an entry; what is used up makes place for the next page. */
static bool source_has_entry(struct core_scan *scan, struct source *source)
{
    if (source->current && page_is_used_up(source->current)) {
        page_retire(scan, source->current);
        source->current = source->next;
        source->next = NULL;
    }
    return source->current;
}

/* Room for the merge of as many sources as there are now. */
static bool merge_reserve(struct core_scan *scan)
{
    struct mem_gate *gate = scan->core->gate;
    size_t count = scan->source_count + 1;
    if (count <= scan->merge_capacity) {
        return true;
    }
    struct source **merged = mem_try_realloc(gate, scan->merged, count * sizeof *merged);
    scan->merged = merged ? merged : scan->merged;
    void *room = merged ? mem_try_alloc(gate, merge_room(count)) : NULL;
    if (!room) {
        return false;
    }
    mem_free(scan->merge_room);
    scan->merge_room = room;
    scan->merge_capacity = count;
    return true;
}

/* Every source has an entry or has ended. False: there is no memory. */
static bool merge_sources(struct core_scan *scan)
{
    if (!merge_reserve(scan)) {
        return false;
    }
    uint32_t count = 0;
    merge_init(&scan->merge, scan->merge_room, scan->source_count + 1, scan->is_reverse);
    LIST_FOR(at, &scan->sources)
    {
        struct source *source = container_of(at, struct source, node);
        if (source_has_entry(scan, source)) {
            merge_enter(&scan->merge, count, page_key(source->current));
            scan->merged[count++] = source;
        }
    }
    merge_begin(&scan->merge);
    scan->is_merging = true;
    return true;
}

/* Its entry was handed out. */
static void merge_move_on(struct core_scan *scan, struct source *source)
{
    if (source_has_entry(scan, source)) {
        merge_next(&scan->merge, page_key(source->current));
    } else if (source->is_done) {
        merge_end(&scan->merge);
    } else {
        scan->is_merging = false;
    }
}

static void entry_meta(const struct scan_page_entry *from, struct cairn_meta *to)
{
    to->version = from->version;
    to->time_us = hlc_to_us(from->time);
    to->size = from->size;
    if (from->flags & SCAN_PAGE_ATTRIBUTES) {
        to->attributes.mask = from->attributes.mask;
        to->attributes.mode = from->attributes.mode;
        to->attributes.uid = from->attributes.uid;
        to->attributes.gid = from->attributes.gid;
        to->attributes.mtime_us = from->attributes.mtime_us;
        to->attributes.flags = from->attributes.flags;
        to->attributes.expires_at_us = from->attributes.expires_at_us;
    }
}

static void scan_hand_out(struct core_scan *scan, struct page *page, struct cairn_entry *entry)
{
    const struct scan_page_entry *from = &page->head;
    memset(entry, 0, sizeof *entry);
    entry->key = from->key.data;
    entry->key_size = from->key.size;
    entry_meta(from, &entry->meta);
    if (from->flags & SCAN_PAGE_VALUE) {
        entry->value = from->value.data;
        entry->value_size = from->value.size;
    }
    scan->last = from->key;
    scan->has_last = true;
    scan->handed_out++;
    page_advance(page);
}

int core_scan_try(struct core_scan *scan, struct cairn_entry *entry)
{
    if (scan->status) {
        return scan->status;
    }
    if (scan->limit && scan->handed_out == scan->limit) {
        return 0;
    }
    scan_free_retired(scan);
    if (!scan->is_merging && !scan_is_ready(scan)) {
        scan->core->streams_dirty = true;
        return ERR_BUSY;
    }
    if (!scan->is_merging && !merge_sources(scan)) {
        scan_starve(scan);
        return scan->status;
    }
    uint32_t first = merge_first(&scan->merge);
    if (first == MERGE_NONE) {
        return 0;
    }
    struct source *source = scan->merged[first];
    scan_hand_out(scan, source->current, entry);
    merge_move_on(scan, source);
    scan->wants_page = source_wants_page(source);
    scan->core->streams_dirty = scan->core->streams_dirty || scan->wants_page;
    return 1;
}

bool core_scan_wants_page(const struct core_scan *scan)
{
    return scan->wants_page;
}

int core_scan_fetch(struct core_scan *scan, void (*done)(void *arg, int status), void *arg,
                    uint64_t now_us)
{
    if (scan->done) {
        return ERR_USAGE;
    }
    if (now_us > scan->core->now_us) {
        scan->core->now_us = now_us;
    }
    scan->done = done;
    scan->arg = arg;
    scan->core->streams_dirty = true;
    return 0;
}

uint64_t core_scan_staleness_ms(const struct core_scan *scan)
{
    return scan->staleness_ms;
}

void core_scan_fail(struct core_scan *scan, int status)
{
    scan->done = NULL;
    scan->status = scan->status ? scan->status : status;
}

void core_scan_close(struct core_scan *scan)
{
    while (!list_is_empty(&scan->sources)) {
        source_free(scan, container_of(scan->sources.next, struct source, node));
    }
    scan_free_retired(scan);
    timer_clear(scan->core, &scan->timer);
    timers_release(scan->core, 1);
    buf_fini(&scan->from);
    buf_fini(&scan->to);
    buf_fini(&scan->last_kept);
    list_remove(&scan->node);
    mem_free(scan->merged);
    mem_free(scan->merge_room);
    mem_free(scan);
}
