/* The verb scan: one page of keys in order, merged from all asked partitions. Partitions that are
 * led here are read here; the others' pages are asked of the nodes that lead them, all at once, and
 * merged in.
 *
 *   each part (partition): NEW → READING → READABLE, or NEW → FORWARDED → FETCHED;
 *                          back to NEW and parked when no primary is known
 *   all parts settled → merge → answer
 *
 * Parts of a scan by lease or of a stale one are readable at once where the replica here may answer
 * alone; as with single keys, that is judged again after the read, and who had not the right is
 * read the linearizable way.
 *
 * A fetched page that ends before its partitions do also ends the merged page: nothing behind its
 * last key is known. */
#include "base/check.h"
#include "base/merge.h"
#include "node/request_private.h"
#include "wire/scan_page.h"

enum { PAGE_BYTES_FIRST = 4000 }; /* it grows */

enum part_state { PART_NEW, PART_READING, PART_READABLE, PART_FORWARDED, PART_FETCHED };

struct scan_part {
    struct request *request;
    uint32_t group;
    enum part_state state;
    struct partition *partition;
    struct partition_read read;
    bool is_alone;        /* READABLE without leave of others: to be judged after the read */
    bool is_linearizable; /* the weaker way is barred, or was not asked for */
};

/* One stream of the merge: a cursor here, or a page from elsewhere. */
struct scan_source {
    struct store_cursor *cursor;
    bool keys_only;         /* a cursor: record is not filled in */
    const uint32_t *groups; /* a page's partitions */
    size_t group_count;
    Cairn__V1__ScanResponse *response;
    struct span page, rest; /* all of it, and what is behind the head */
    bool page_has_more;
    /* The head: what comes next. */
    struct span key;
    struct record record;         /* a cursor's */
    struct scan_page_entry entry; /* a page's */
};

struct scan {
    Cairn__V1__ScanRequest *asked;
    struct scan_part *parts;
    size_t part_count, unfinished;
    struct scan_source **pages; /* answers from elsewhere */
    size_t page_count;
    uint64_t staleness_ms; /* of the parts read here */
};

static void scan_settle(struct request *request);

/* --- Beginning */

static bool add_part(struct request *request, uint32_t group)
{
    struct scan *scan = request->scan;
    if (group == 0 || !topology_find_group(request->node->topology, group)) {
        return false;
    }
    scan->parts[scan->part_count++] = (struct scan_part){
        .request = request,
        .group = group,
        .is_linearizable = scan->asked->consistency == CAIRN__V1__CONSISTENCY__LINEARIZABLE,
    };
    return true;
}

/* 0, ERR_WRONG_PARTITION, ERR_NO_MEMORY. */
static int add_parts(struct request *request)
{
    struct scan *scan = request->scan;
    const struct topology *topology = request->node->topology;
    size_t asked = scan->asked->n_groups;
    size_t room = asked ? asked : topology->partition_count;
    if (asked > LIMIT_PARTITIONS_MAX) {
        return ERR_WRONG_PARTITION;
    }
    scan->parts = request_try_alloc(request, room * sizeof *scan->parts);
    scan->pages = request_try_alloc(request, room * sizeof *scan->pages);
    if (!scan->parts || !scan->pages) {
        return ERR_NO_MEMORY;
    }
    for (size_t i = 0; i < asked; i++) {
        if (!add_part(request, scan->asked->groups[i])) {
            return ERR_WRONG_PARTITION;
        }
    }
    for (size_t i = 1; asked == 0 && i < topology->partition_count; i++) {
        add_part(request, topology->partitions[i].group);
    }
    scan->unfinished = scan->part_count;
    return 0;
}

void scan_start(struct request *request, const struct frame *frame)
{
    request_set_kind(request, MEM_SCAN);
    Cairn__V1__ScanRequest *asked =
        message_unpack(&cairn__v1__scan_request__descriptor, &request->allocator, frame->message);
    if (!asked) {
        request_fail_unpack(request);
        return;
    }
    if (asked->consistency > CAIRN__V1__CONSISTENCY__STALE) {
        request_fail(request, ERR_BAD_REQUEST, "unknown consistency");
        return;
    }
    if (asked->from.len > LIMIT_KEY_BYTES + 1 || asked->to.len > LIMIT_KEY_BYTES + 1) {
        request_fail(request, ERR_KEY_TOO_LONG, "a bound of the scan is too long");
        return;
    }
    request->scan = request_try_alloc(request, sizeof *request->scan);
    if (!request->scan) {
        request_fail(request, ERR_NO_MEMORY, NULL);
        return;
    }
    request->scan->asked = asked;
    int status = add_parts(request);
    if (status != 0) {
        request_fail(request, status, status == ERR_WRONG_PARTITION ? "no such partition" : NULL);
        return;
    }
    request->node->counters.scans++;
    scan_dispatch(request);
}

/* --- Parts */

static void on_part_read(struct partition_read *read, int status)
{
    struct scan_part *part = container_of(read, struct scan_part, read);
    struct request *request = part->request;
    part->partition = NULL;
    if (status == ERR_NOT_PRIMARY) {
        part->state = PART_NEW;
        request_park(request);
        return;
    }
    if (status != 0) {
        part->state = PART_NEW;
        request_fail(request, status, NULL);
        return;
    }
    part->state = PART_READABLE;
    request->scan->unfinished--;
    scan_settle(request);
}

static bool is_stale_part(const struct scan_part *part)
{
    return !part->is_linearizable &&
           part->request->scan->asked->consistency == CAIRN__V1__CONSISTENCY__STALE;
}

/* Whether the replica here may answer (or has just rightly answered) for the part by itself. */
static bool may_read_alone(const struct scan_part *part, const struct partition *partition)
{
    struct scan *scan = part->request->scan;
    if (!is_stale_part(part)) {
        return partition_has_lease(partition);
    }
    uint64_t staleness_ms = partition_staleness_ms(partition);
    uint64_t most_ms = scan->asked->max_staleness_ms;
    if (!partition_is_readable(partition) || (most_ms != 0 && staleness_ms > most_ms)) {
        return false;
    }
    scan->staleness_ms = staleness_ms > scan->staleness_ms ? staleness_ms : scan->staleness_ms;
    return true;
}

/* As request_link_to; a stale part goes to any replica. */
static struct link *choose_link(const struct scan_part *part, int *status)
{
    struct link *link =
        is_stale_part(part) ? request_link_to_replica(part->request, part->group) : NULL;
    *status = 0;
    return link ? link : request_link_to(part->request, part->group, status);
}

/* The parts that a forward asked for take another state. */
static void set_parts(struct request *request, const struct scan_source *source,
                      enum part_state state)
{
    for (size_t i = 0; i < source->group_count; i++) {
        for (size_t j = 0; j < request->scan->part_count; j++) {
            struct scan_part *part = &request->scan->parts[j];
            if (part->group == source->groups[i] && part->state == PART_FORWARDED) {
                part->is_linearizable =
                    part->is_linearizable || (state == PART_NEW && is_stale_part(part));
                part->state = state;
                request->scan->unfinished -= state == PART_FETCHED;
            }
        }
    }
}

/* Asks `link` for a page of all new parts that it should answer, beginning with part number
 * `first`, and as this is. False: there is no memory, they stay new. */
static bool forward_parts(struct request *request, struct link *link, size_t first)
{
    struct scan *scan = request->scan;
    Cairn__V1__ScanRequest message = *scan->asked;
    message.groups = request_try_alloc(request, scan->part_count * sizeof *message.groups);
    message.n_groups = 0;
    struct scan_source *source = request_try_alloc(request, sizeof *source);
    if (!message.groups || !source) {
        return false;
    }
    bool is_linearizable = scan->parts[first].is_linearizable;
    if (is_linearizable) {
        message.consistency = CAIRN__V1__CONSISTENCY__LINEARIZABLE;
    }
    for (size_t i = first; i < scan->part_count; i++) {
        struct scan_part *part = &scan->parts[i];
        int status;
        if (part->state == PART_NEW && part->is_linearizable == is_linearizable &&
            choose_link(part, &status) == link) {
            message.groups[message.n_groups++] = part->group;
            part->state = PART_FORWARDED;
        }
    }
    source->groups = message.groups;
    source->group_count = message.n_groups;
    struct forward *forward = request_forward(request, link, VERB_SCAN, &message.base, NULL, 0);
    if (forward) {
        forward->source = source;
    } else {
        set_parts(request, source, PART_NEW);
    }
    return forward != NULL;
}

/* Begins what the replicas here can do. */
static void dispatch_here(struct request *request)
{
    struct scan *scan = request->scan;
    for (size_t i = 0; i < scan->part_count; i++) {
        struct scan_part *part = &scan->parts[i];
        struct partition *partition = node_find_partition(request->node, part->group);
        if (part->state != PART_NEW || !partition) {
            continue;
        }
        if (!part->is_linearizable && may_read_alone(part, partition)) {
            part->is_alone = true;
            part->state = PART_READABLE;
            scan->unfinished--;
            continue;
        }
        part->is_linearizable = part->is_linearizable || is_stale_part(part);
        if (partition_is_primary(partition)) {
            part->state = PART_READING;
            part->partition = partition;
            part->read = (struct partition_read){ .done = on_part_read };
            partition_read(partition, &part->read);
        }
    }
}

void scan_dispatch(struct request *request)
{
    struct scan *scan = request->scan;
    bool must_park = false;
    dispatch_here(request);
    for (size_t i = 0; i < scan->part_count; i++) {
        struct scan_part *part = &scan->parts[i];
        if (part->state != PART_NEW) {
            continue;
        }
        int status;
        struct link *link = choose_link(part, &status);
        if (status != 0) {
            request_fail(request, status, NULL);
            return;
        }
        must_park = must_park || !link;
        if (link && !forward_parts(request, link, i)) {
            must_park = true; /* what is still new gets another try */
            break;
        }
    }
    if (must_park) {
        request_park(request);
    }
    scan_settle(request);
}

/* What each entry of a page must have. */
static uint8_t wanted_flags(const Cairn__V1__ScanRequest *asked)
{
    return asked->keys_only   ? 0
           : asked->meta_only ? SCAN_PAGE_META
                              : SCAN_PAGE_META | SCAN_PAGE_VALUE;
}

/* False: malformed, or there is no memory for it (request->arena.has_refused). */
static bool take_page(struct request *request, struct scan_source *source,
                      const struct frame *frame)
{
    request_set_kind(request, MEM_SCAN);
    source->response =
        message_unpack(&cairn__v1__scan_response__descriptor, &request->allocator, frame->message);
    if (!source->response) {
        return false;
    }
    struct span rest = frame->payload;
    struct scan_page_entry entry;
    uint8_t wanted = wanted_flags(request->scan->asked);
    while (scan_page_next(&rest, &entry)) {
        if ((entry.flags & ~SCAN_PAGE_ATTRIBUTES) != wanted) {
            return false;
        }
    }
    source->page_has_more = frame->flags & FRAME_MORE;
    if (rest.size != 0 || (source->page_has_more && frame->payload.size == 0)) {
        return false;
    }
    uint8_t *page = arena_try_alloc(&request->arena, frame->payload.size);
    if (!page) {
        return false;
    }
    if (frame->payload.size > 0) {
        memcpy(page, frame->payload.data, frame->payload.size);
    }
    source->page = source->rest = span_of(page, frame->payload.size);
    return true;
}

void scan_forward_answered(struct forward *forward, const struct frame *frame)
{
    struct request *request = forward->request;
    struct scan_source *source = forward->source;
    if (frame->status == ERR_NOT_PRIMARY || frame->status == ERR_UNAVAILABLE ||
        frame->status == ERR_SHUTDOWN || frame->status == ERR_WRONG_PARTITION) {
        scan_forward_lost(forward);
    } else if (frame->status != 0) {
        request_fail(request, frame->status, NULL);
    } else if (!take_page(request, source, frame)) {
        request_fail(request, request->arena.has_refused ? ERR_NO_MEMORY : ERR_PROTOCOL, NULL);
    } else {
        struct scan *scan = request->scan;
        uint64_t staleness_ms = source->response->staleness_ms;
        scan->staleness_ms = staleness_ms > scan->staleness_ms ? staleness_ms : scan->staleness_ms;
        scan->pages[scan->page_count++] = source;
        set_parts(request, source, PART_FETCHED);
        scan_settle(request);
    }
}

void scan_forward_lost(struct forward *forward)
{
    struct request *request = forward->request;
    set_parts(request, forward->source, PART_NEW);
    request_park(request);
}

void scan_drop(struct request *request)
{
    for (size_t i = 0; request->scan && i < request->scan->part_count; i++) {
        struct scan_part *part = &request->scan->parts[i];
        if (part->state == PART_READING) {
            partition_read_forget(part->partition, &part->read);
        }
    }
    request->scan = NULL;
}

/* --- The merge */

/* The merge may have to be made once more. */
static void rewind_pages(struct scan *scan)
{
    for (size_t i = 0; i < scan->page_count; i++) {
        scan->pages[i]->rest = scan->pages[i]->page;
    }
}

/* Sets the head to what comes next. 1, 0 at the end, or an error. */
static int advance(struct scan_source *source, struct err *err)
{
    if (source->cursor) {
        return store_cursor_next(source->cursor, &source->key,
                                 source->keys_only ? NULL : &source->record, err);
    }
    bool has_entry = scan_page_next(&source->rest, &source->entry);
    source->key = source->entry.key;
    return has_entry;
}

/* The sources, and the order among them. */
struct merging {
    struct scan_source **sources;
    size_t count;
    void *room; /* the merge's */
    struct merge merge;
};

/* NULL: there is no memory. */
static struct merging *merging_new(struct request *request)
{
    size_t most = request->scan->part_count + request->scan->page_count + 1;
    struct merging *merging = request_try_alloc(request, sizeof *merging);
    void *room = merging ? request_try_alloc(request, merge_room(most)) : NULL;
    struct scan_source **sources = room ? request_try_alloc(request, most * sizeof *sources) : NULL;
    if (!sources) {
        return NULL;
    }
    merging->sources = sources;
    merging->room = room;
    return merging;
}

/* 1 (it is one of them then), 0: it has no entry, or an error. */
static int add_source(struct merging *merging, struct scan_source *source, struct err *err)
{
    int status = advance(source, err);
    if (status == 1) {
        merging->sources[merging->count++] = source;
    }
    return status;
}

static int open_cursor(struct request *request, struct merging *merging, struct store_replica *from,
                       struct err *err)
{
    const Cairn__V1__ScanRequest *asked = request->scan->asked;
    struct scan_source *source = request_try_alloc(request, sizeof *source);
    int status = source ? store_cursor_open(from, span_of(asked->from.data, asked->from.len),
                                            span_of(asked->to.data, asked->to.len), asked->reverse,
                                            &source->cursor, err)
                        : err_set(err, ERR_NO_MEMORY, "no memory for a scan");
    if (status < 0) {
        return status;
    }
    source->keys_only = asked->keys_only;
    if (asked->keys_only) {
        store_cursor_keys_only(source->cursor);
    }
    status = add_source(merging, source, err);
    if (status <= 0) {
        store_cursor_close(source->cursor);
    }
    return status < 0 ? status : 0;
}

static int open_sources(struct request *request, struct merging *merging, struct err *err)
{
    struct scan *scan = request->scan;
    for (size_t i = 0; i < scan->part_count; i++) {
        if (scan->parts[i].state == PART_READABLE) {
            struct partition *partition = node_find_partition(request->node, scan->parts[i].group);
            int status = open_cursor(request, merging, partition_store(partition), err);
            if (status < 0) {
                return status;
            }
        }
    }
    for (size_t i = 0; i < scan->page_count; i++) {
        add_source(merging, scan->pages[i], err);
    }
    size_t count = merging->count > 0 ? merging->count : 1;
    merge_init(&merging->merge, merging->room, count, scan->asked->reverse);
    for (size_t i = 0; i < merging->count; i++) {
        merge_enter(&merging->merge, (uint32_t)i, merging->sources[i]->key);
    }
    merge_begin(&merging->merge);
    return 0;
}

/* With more than the key; the attributes are set if the flags say so. */
static void make_entry(const struct scan_source *source, uint8_t wanted,
                       struct scan_page_entry *entry)
{
    if (!source->cursor) {
        *entry = source->entry;
        return;
    }
    const struct record *record = &source->record;
    const struct attributes *attributes = &record->attributes;
    entry->flags = wanted;
    entry->key = source->key;
    entry->version = record->version;
    entry->time = record->time;
    entry->size = record->value.size;
    entry->value = record->value;
    if (attributes->mask != 0) {
        entry->flags |= SCAN_PAGE_ATTRIBUTES;
        entry->attributes.mask = attributes->mask;
        entry->attributes.mode = attributes->mode;
        entry->attributes.uid = attributes->uid;
        entry->attributes.gid = attributes->gid;
        entry->attributes.flags = attributes->flags;
        entry->attributes.mtime_us = attributes->mtime_us;
        entry->attributes.expires_at_us = attributes->expires_at_us;
    }
}

/* A page that is being filled. */
struct filling {
    struct buf *page;
    struct mem_gate *gate;
    size_t begin, bytes_max; /* bytes before the first entry; where the page should end */
    size_t count, limit;     /* entries: now, at most */
    uint8_t wanted;
};

static void filling_init(struct filling *filling, struct request *request, struct buf *page)
{
    const Cairn__V1__ScanRequest *asked = request->scan->asked;
    size_t limit = asked->limit, bytes = asked->page_bytes;
    *filling = (struct filling){
        .page = page,
        .gate = env_gate(request->node->env, MEM_SCAN),
        .begin = page->size,
        .limit = limit && limit < LIMIT_SCAN_PAGE_ENTRIES ? limit : LIMIT_SCAN_PAGE_ENTRIES,
        .bytes_max =
            page->size + (bytes && bytes < LIMIT_SCAN_PAGE_BYTES ? bytes : LIMIT_SCAN_PAGE_BYTES),
        .wanted = wanted_flags(asked),
    };
}

/* Room for an entry and, by what those before it took, for all that may follow: so a page is moved
 * once as it grows, not at each doubling. */
static bool filling_reserve(struct filling *filling, size_t size)
{
    struct buf *page = filling->page;
    if (page->capacity - page->size >= size) {
        return true;
    }
    size_t follow = filling->count > 0 ? (page->size - filling->begin) / filling->count *
                                             (filling->limit - filling->count)
                                       : 0;
    size_t left = filling->bytes_max > page->size ? filling->bytes_max - page->size : 0;
    follow = follow < left ? follow : left;
    return buf_try_reserve(page, filling->gate, follow > size ? follow : size);
}

/* Adds the head of the source. 1; 0: the page is full; ERR_NO_MEMORY. */
static int filling_add(struct filling *filling, const struct scan_source *source, struct err *err)
{
    struct scan_page_entry entry;
    bool is_bare = filling->wanted == 0;
    if (!is_bare) {
        make_entry(source, filling->wanted, &entry);
    }
    size_t size = is_bare ? scan_page_key_size(source->key) : scan_page_entry_size(&entry);
    if (filling->count == filling->limit ||
        (filling->count > 0 && filling->page->size + size > filling->bytes_max)) {
        return 0;
    }
    if (!filling_reserve(filling, size)) {
        return err_set(err, ERR_NO_MEMORY, "no memory for a scan's page");
    }
    if (is_bare) {
        scan_page_add_key(filling->page, source->key);
    } else {
        scan_page_add(filling->page, &entry);
    }
    filling->count++;
    return 1;
}

/* Adds to the page from the merge. 1: more is left; 0: all; or an error. */
static int fill_page(struct request *request, struct merging *merging, struct buf *page,
                     struct err *err)
{
    struct filling filling;
    uint32_t at;
    filling_init(&filling, request, page);
    while ((at = merge_first(&merging->merge)) != MERGE_NONE) {
        struct scan_source *first = merging->sources[at];
        int status = filling_add(&filling, first, err);
        if (status != 1) {
            return status == 0 ? 1 : status;
        }
        status = advance(first, err);
        if (status < 0) {
            return status;
        }
        if (status == 1) {
            merge_next(&merging->merge, first->key);
        } else if (first->page_has_more) {
            return 1;
        } else {
            merge_end(&merging->merge);
        }
    }
    return 0;
}

static void close_sources(struct merging *merging)
{
    for (size_t i = 0; i < merging->count; i++) {
        store_cursor_close(merging->sources[i]->cursor);
    }
}

/* After the read: see may_read_alone. False: some parts are read anew. */
static bool judge_alone(struct request *request)
{
    struct scan *scan = request->scan;
    for (size_t i = 0; i < scan->part_count; i++) {
        struct scan_part *part = &scan->parts[i];
        if (part->is_alone &&
            !may_read_alone(part, node_find_partition(request->node, part->group))) {
            part->is_alone = false;
            part->is_linearizable = true;
            part->state = PART_NEW;
            scan->unfinished++;
        }
    }
    return scan->unfinished == 0;
}

/* The merge met damage. True: others have what was met, so those parts are asked of them. The
 * replicas are given up in this turn (store.h, on_damaged). */
static bool give_up_damaged(struct request *request, int status)
{
    struct scan *scan = request->scan;
    for (size_t i = 0; i < scan->part_count && (status == ERR_CORRUPT || status == ERR_FORMAT);
         i++) {
        struct scan_part *part = &scan->parts[i];
        struct partition *partition = node_find_partition(request->node, part->group);
        if (part->state == PART_READABLE && partition_topology(partition)->replica_count > 1 &&
            store_replica_is_damaged(partition_store(partition))) {
            part->is_alone = false;
            part->is_linearizable = true;
            part->state = PART_NEW;
            scan->unfinished++;
        }
    }
    return scan->unfinished > 0;
}

/* All parts are there: merges and answers. Frees the request then. */
static void scan_settle(struct request *request)
{
    struct scan *scan = request->scan;
    if (scan->unfinished > 0) {
        return;
    }
    if (request_room(request) < LIMIT_SCAN_PAGE_BYTES + LIMIT_FRAME_BYTES) {
        request_fail(request, ERR_BUSY, NULL); /* the asker does not read */
        return;
    }
    struct merging *merging = merging_new(request);
    if (!merging) {
        request_fail(request, ERR_NO_MEMORY, NULL);
        return;
    }
    Cairn__V1__ScanResponse response = CAIRN__V1__SCAN_RESPONSE__INIT;
    struct buf payload = { 0 };
    struct err err;
    int status = open_sources(request, merging, &err);
    if (status == 0 &&
        !buf_begin_blob(&payload, env_gate(request->node->env, MEM_SCAN), PAGE_BYTES_FIRST)) {
        status = err_set(&err, ERR_NO_MEMORY, "no memory for a scan's page");
    }
    if (status == 0) {
        status = fill_page(request, merging, &payload, &err);
    }
    close_sources(merging);
    if (status < 0) {
        LOG_ERROR(request->node->logger, "scan failed: %s (%s)", err.text, err_info(status)->name);
    }
    if (status < 0 ? give_up_damaged(request, status) : !judge_alone(request)) {
        buf_fini(&payload);
        rewind_pages(scan);
        request_park(request);
        return;
    }
    response.staleness_ms = scan->staleness_ms;
    if (status < 0) {
        request_fail(request, status, err.text);
    } else {
        struct blob *page = buf_take_blob(&payload);
        struct conn_piece piece = { blob_span(page), page };
        request_answer(request, 0, status == 1 ? FRAME_MORE : 0, &response.base, &piece, 1);
        blob_unref(page);
    }
    buf_fini(&payload);
}
