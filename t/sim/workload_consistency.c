/* Consistency per request: few keys, written (some writes with --ack all) and deleted, read
 * linearizably, by lease and stale.
 *
 *   K1  writes, linearizable reads and lease reads of a key are one linearizable history
 *   K2  a stale read that reports a staleness of s misses nothing that was acknowledged longer than
 *       s before it was asked
 *   K3  it reports no more than was allowed
 *   K4  it shows a value that was written, and that is committed: the version is the one that the
 *       write was answered with, no two values share one, and a write of unknown outcome that a
 *       stale read saw has happened (it takes part in K1 so)
 *   K5  when a write with --ack all is answered, every replica that was within the primary's reach
 *       all the time has it durably: the world looks into their cores (workload->ack_all) */
#include <stdio.h>

#include "base/mem.h"
#include "sim/workload_module.h"

enum { KEYS_MAX = 8, NAME_BYTES = 32, CLOCK_SLACK_US = 2000, CLOCK_SLOW_PERCENT = 11 };

struct stale_read {
    uint64_t asked_us, heard_us, place;
    uint64_t version, value; /* 0: absent */
    uint64_t staleness_ms, bound_ms;
};

/* An acknowledged put, or delete of what existed. With the maxima over all heard until then. */
struct change {
    uint64_t heard_us;
    uint64_t shown;       /* what a read that shows something shows at least */
    uint64_t put_version; /* of the newest put; 0: none */
};

struct key_history {
    struct linear_op *ops; /* in the order of calls, puts therefore of values */
    size_t count, capacity;
    struct change *changes; /* in the order of being heard */
    size_t change_count, change_capacity;
    struct stale_read *reads;
    size_t read_count, read_capacity;
};

struct consistency_part {
    uint32_t keys, write_percent, delete_percent, lease_percent, stale_percent, all_percent;
    uint64_t next_value;
    uint32_t next_final;
    struct key_history histories[KEYS_MAX];
};

struct consistency_session {
    uint32_t key;
    size_t op; /* its place in the key's history; a stale read's: in reads */
    bool is_stale, is_all, must_repeat;
};

static uint64_t true_now_us(const struct session *session)
{
    return session->part->workload->schedule->now_us;
}

static void name_key(uint32_t key, char name[NAME_BYTES])
{
    name_numbered(name, NAME_BYTES, "consistency", key);
}

/* --- Asking */

static struct linear_op *add_op(struct session *session, uint32_t key)
{
    struct consistency_part *own = session->part->own;
    struct consistency_session *asking = session->own;
    struct key_history *history = &own->histories[key];
    if (history->count == history->capacity) {
        history->capacity = history->capacity ? history->capacity * 2 : 64;
        history->ops = mem_realloc(history->ops, history->capacity * sizeof *history->ops);
    }
    asking->op = history->count++;
    struct linear_op *op = &history->ops[asking->op];
    *op = (struct linear_op){ .call = session_place(session),
                              .reply = LINEAR_NEVER,
                              .client = session->writer };
    return op;
}

static void add_read(struct session *session, uint32_t key, uint64_t bound_ms)
{
    struct consistency_part *own = session->part->own;
    struct consistency_session *asking = session->own;
    struct key_history *history = &own->histories[key];
    if (history->read_count == history->read_capacity) {
        history->read_capacity = history->read_capacity ? history->read_capacity * 2 : 64;
        history->reads =
            mem_realloc(history->reads, history->read_capacity * sizeof *history->reads);
    }
    asking->op = history->read_count++;
    history->reads[asking->op] = (struct stale_read){ .asked_us = true_now_us(session),
                                                      .heard_us = UINT64_MAX,
                                                      .bound_ms = bound_ms };
}

static void hear(struct session *session, const struct cairn_result *results, size_t count);

static void ask_stale(struct session *session, struct cairn_request *request, uint32_t key)
{
    static const uint64_t bounds_ms[] = { 0, 1, 100, 300, 1000, 3000 };
    struct consistency_session *asking = session->own;
    asking->is_stale = true;
    request->verb = CAIRN_GET;
    request->consistency = CAIRN_STALE;
    request->max_staleness_ms = bounds_ms[random_below(&session->part->random, 6)];
    add_read(session, key, request->max_staleness_ms);
    session_call(session, request, 1, hear);
}

static void ask_get(struct session *session, struct cairn_request *request, uint32_t key,
                    bool is_lease)
{
    request->verb = CAIRN_GET;
    request->consistency = is_lease ? CAIRN_LEASE : CAIRN_LINEARIZABLE;
    add_op(session, key)->kind = LINEAR_GET;
    session_call(session, request, 1, hear);
}

static void ask_write(struct session *session, struct cairn_request *request, uint32_t key)
{
    struct consistency_part *own = session->part->own;
    struct consistency_session *asking = session->own;
    struct random *random = &session->part->random;
    struct span name = span_of(request->key, request->key_size);
    struct linear_op *op = add_op(session, key);
    struct buf value = { 0 };
    request->verb = CAIRN_DELETE;
    op->kind = LINEAR_DELETE;
    /* In the calm phase every call must succeed, but a replica that is just being made whole by an
     * image holds such a write up for longer than its deadline: rightly so. */
    asking->is_all =
        !session->part->workload->calm_since_us && random_percent(random, own->all_percent);
    request->ack = asking->is_all ? CAIRN_ACK_ALL : CAIRN_ACK_MAJORITY;
    if (!random_percent(random, own->delete_percent)) {
        op->kind = LINEAR_PUT;
        op->value = ++own->next_value;
        struct value content = { .writer = session->writer, .number = op->value };
        value_make(&value, name, &content, 30);
        request->verb = CAIRN_PUT;
        request->value = value.data;
        request->value_size = value.size;
    }
    asking->is_all = asking->is_all && op->kind == LINEAR_PUT;
    if (asking->is_all) {
        workload_tell_ack_all(session->part->workload, session->writer, name, 0);
    }
    session_call(session, request, 1, hear);
    buf_fini(&value);
}

static void ask_key(struct session *session, uint32_t key, bool is_final)
{
    struct consistency_part *own = session->part->own;
    struct consistency_session *asking = session->own;
    char name[NAME_BYTES];
    name_key(key, name);
    struct cairn_request request = { .key = name, .key_size = strlen(name) };
    *asking = (struct consistency_session){ .key = key };
    uint32_t draw = (uint32_t)random_below(&session->part->random, 100);
    if (is_final) {
        ask_get(session, &request, key, false);
    } else if (draw < own->write_percent) {
        ask_write(session, &request, key);
    } else if (random_percent(&session->part->random, own->stale_percent)) {
        ask_stale(session, &request, key);
    } else {
        ask_get(session, &request, key, random_percent(&session->part->random, own->lease_percent));
    }
}

static void consistency_ask(struct session *session)
{
    struct consistency_part *own = session->part->own;
    ask_key(session, (uint32_t)random_below(&session->part->random, own->keys), false);
}

static bool consistency_ask_final(struct session *session)
{
    struct consistency_part *own = session->part->own;
    struct consistency_session *asking = session->own;
    uint32_t key = asking->must_repeat ? asking->key : own->next_final;
    if (!asking->must_repeat && own->next_final++ >= own->keys) {
        return false;
    }
    ask_key(session, key, true);
    return true;
}

/* --- Hearing */

static uint64_t read_number(struct session *session, uint32_t key,
                            const struct cairn_result *result)
{
    char name[NAME_BYTES];
    struct value value;
    name_key(key, name);
    if (!value_read(span_of_string(name), span_of(result->value, result->value_size), &value)) {
        part_fail(session->part, "key %u: a read of %zu bytes is no value ever written", key,
                  result->value_size);
        return 0;
    }
    return value.number;
}

static void hear_stale(struct session *session, const struct cairn_result *result)
{
    struct consistency_part *own = session->part->own;
    struct consistency_session *asking = session->own;
    struct stale_read *read = &own->histories[asking->key].reads[asking->op];
    enum linear_outcome outcome = session_outcome(CAIRN_GET, result->status);
    read->place = session_place(session);
    if (outcome == LINEAR_NOTHING) {
        return; /* heard_us says so */
    }
    read->heard_us = true_now_us(session);
    read->staleness_ms = result->staleness_ms;
    if (outcome == LINEAR_OK) {
        read->version = result->meta.version;
        read->value = read_number(session, asking->key, result);
    }
    if (read->bound_ms != 0 && read->staleness_ms > read->bound_ms) { /* K3 */
        part_fail(session->part, "key %u: a read that may be %lu ms stale is %lu ms stale",
                  asking->key, read->bound_ms, read->staleness_ms);
    }
}

/* What stale reads must show later on. */
static void add_change(struct key_history *history, const struct linear_op *op, uint64_t now_us)
{
    bool is_put = op->kind == LINEAR_PUT;
    if (op->version == 0 || !(is_put || (op->kind == LINEAR_DELETE && op->existed))) {
        return;
    }
    if (history->change_count == history->change_capacity) {
        history->change_capacity = history->change_capacity ? history->change_capacity * 2 : 64;
        history->changes =
            mem_realloc(history->changes, history->change_capacity * sizeof *history->changes);
    }
    struct change *change = &history->changes[history->change_count];
    *change = history->change_count++ ? change[-1] : (struct change){ 0 };
    uint64_t shown = op->version + !is_put;
    change->heard_us = now_us;
    change->shown = shown > change->shown ? shown : change->shown;
    if (is_put && op->version > change->put_version) {
        change->put_version = op->version;
    }
}

static void hear_op(struct session *session, const struct cairn_result *result)
{
    struct consistency_part *own = session->part->own;
    struct consistency_session *asking = session->own;
    struct key_history *history = &own->histories[asking->key];
    struct linear_op *op = &history->ops[asking->op];
    op->outcome = (uint8_t)session_outcome(session->verbs[0], result->status);
    if (op->outcome == LINEAR_OK) {
        op->version = result->meta.version;
        op->existed = result->existed;
        add_change(history, op, true_now_us(session));
        if (op->kind == LINEAR_GET) {
            op->value = read_number(session, asking->key, result);
        }
        if (asking->is_all) {
            char name[NAME_BYTES];
            name_key(asking->key, name);
            workload_tell_ack_all(session->part->workload, session->writer, span_of_string(name),
                                  op->version);
        }
    }
    op->reply = op->outcome == LINEAR_UNKNOWN ? LINEAR_NEVER : session_place(session);
    asking->must_repeat = op->outcome == LINEAR_NOTHING;
}

static void hear(struct session *session, const struct cairn_result *results, size_t count)
{
    static const char *const verb_names[] = { "get", "get-meta", "put", "delete", "setattr" };
    struct consistency_session *asking = session->own;
    if (asking->is_stale) {
        hear_stale(session, results);
    } else {
        hear_op(session, results);
    }
    LOG_DEBUG(session->part->workload->logger,
              "client=%u %s%s%s consistency/%u asked=%lu ver=%lu stale=%ld (%s)", session->writer,
              verb_names[session->verbs[0]], asking->is_stale ? " stale" : "",
              asking->is_all ? " by all" : "", asking->key, session->asked_us,
              results->meta.version, (long)results->staleness_ms,
              results->status ? err_info(results->status)->name : "0");
}

/* --- Judging */

/* The write of the value that was seen, NULL: none such. */
/* What the operations of a key say, so that a read is judged without looking at all of them. */
struct digest {
    struct linear_op **puts; /* in the order of values */
    size_t put_count;
    uint64_t
        *deleted; /* [i]: the newest version that a delete among the first i operations may have
                          removed */
};

static void make_digest(struct digest *digest, const struct key_history *history)
{
    *digest =
        (struct digest){ .puts = mem_alloc((history->count + 1) * sizeof *digest->puts),
                         .deleted = mem_zalloc((history->count + 1) * sizeof *digest->deleted) };
    for (size_t i = 0; i < history->count; i++) {
        struct linear_op *op = &history->ops[i];
        uint64_t deleted = digest->deleted[i];
        if (op->kind == LINEAR_PUT) {
            digest->puts[digest->put_count++] = op;
        } else if (op->kind == LINEAR_DELETE && op->outcome == LINEAR_OK) {
            /* answered with the version that it removed */
            deleted = op->existed && op->version > deleted ? op->version : deleted;
        } else if (op->kind == LINEAR_DELETE && op->outcome != LINEAR_NOTHING) {
            deleted = UINT64_MAX;
        }
        digest->deleted[i + 1] = deleted;
    }
}

static void free_digest(struct digest *digest)
{
    mem_free(digest->puts);
    mem_free(digest->deleted);
}

static struct linear_op *find_put(const struct digest *digest, uint64_t value)
{
    size_t low = 0, high = digest->put_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (digest->puts[middle]->value < value) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    bool is_found = low < digest->put_count && digest->puts[low]->value == value;
    return is_found ? digest->puts[low] : NULL;
}

/* K4 */
static void judge_value(struct part *part, uint32_t key, const struct digest *digest,
                        const struct stale_read *read)
{
    struct linear_op *put = find_put(digest, read->value);
    if (!put || put->outcome == LINEAR_NOTHING || put->call > read->place) {
        part_fail(part, "key %u: a stale read shows value %lu, which was not written", key,
                  read->value);
        return;
    }
    if (put->outcome != LINEAR_OK) { /* so it did happen */
        put->outcome = LINEAR_OK;
        put->version = read->version;
        put->reply = read->place;
    } else if (put->version != read->version) {
        part_fail(part, "key %u: value %lu has version %lu, a stale read shows it with %lu", key,
                  read->value, put->version, read->version);
    }
}

/* Whether the key may have been absent for the read although a put of that version was acknowledged
 * before. */
static bool may_be_deleted(const struct key_history *history, const struct digest *digest,
                           const struct stale_read *read, uint64_t version)
{
    size_t low = 0, high = history->count; /* operations called before the read was heard */
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (history->ops[middle].call < read->place) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return digest->deleted[low] >= version;
}

/* The changes heard before `end_us`; NULL: none. */
static const struct change *changes_until(const struct key_history *history, uint64_t end_us)
{
    size_t low = 0, high = history->change_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (history->changes[middle].heard_us < end_us) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low > 0 ? &history->changes[low - 1] : NULL;
}

/* K2. The newest change decides: what shows that, or may miss it, does so with all before. */
static void judge_age(struct part *part, uint32_t key, const struct key_history *history,
                      const struct digest *digest, const struct stale_read *read)
{
    if (read->staleness_ms > read->asked_us / 1000) {
        return; /* not known, or longer than the run */
    }
    /* by the replica's clock, which may run slow */
    uint64_t most_us =
        read->staleness_ms * 1000 * 100 / (100 - CLOCK_SLOW_PERCENT) + CLOCK_SLACK_US;
    const struct change *change =
        most_us > read->asked_us ? NULL : changes_until(history, read->asked_us - most_us);
    if (!change) {
        return;
    }
    bool is_missing = read->version != 0
                          ? read->version < change->shown
                          : change->put_version != 0 &&
                                !may_be_deleted(history, digest, read, change->put_version);
    if (is_missing) {
        part_fail(part,
                  "key %u: a read asked at %lu us shows version %lu and reports %lu ms, but "
                  "changes up to version %lu were acknowledged by %lu us",
                  key, read->asked_us, read->version, read->staleness_ms, change->shown,
                  change->heard_us);
    }
}

static void consistency_judge(struct part *part)
{
    struct consistency_part *own = part->own;
    for (uint32_t key = 0; key < own->keys; key++) {
        struct key_history *history = &own->histories[key];
        struct digest digest;
        make_digest(&digest, history);
        for (size_t i = 0; i < history->read_count; i++) {
            const struct stale_read *read = &history->reads[i];
            if (read->heard_us == UINT64_MAX) {
                continue;
            }
            if (read->value != 0) {
                judge_value(part, key, &digest, read);
            }
            judge_age(part, key, history, &digest, read);
        }
        free_digest(&digest);
        uint64_t stuck = 0;
        enum linear_verdict verdict = linear_check(history->ops, history->count, 0, &stuck);
        part->workload->undecided += verdict == LINEAR_UNDECIDED;
        if (verdict == LINEAR_NO) { /* K1 */
            part_fail(part, "key %u: its history of %zu operations is not linearizable (near %lu)",
                      key, history->count, stuck);
        }
    }
}

static void consistency_begin(struct part *part)
{
    struct consistency_part *own = part->own;
    own->keys = (uint32_t)random_between(&part->random, 1, KEYS_MAX);
    own->write_percent = (uint32_t)random_between(&part->random, 10, 60);
    own->delete_percent = (uint32_t)random_below(&part->random, 20);
    own->stale_percent = (uint32_t)random_below(&part->random, 101);
    own->lease_percent = (uint32_t)random_between(&part->random, 20, 100);
    own->all_percent = (uint32_t)random_below(&part->random, 60);
}

static void consistency_fini(struct part *part)
{
    struct consistency_part *own = part->own;
    for (uint32_t key = 0; key < KEYS_MAX; key++) {
        mem_free(own->histories[key].ops);
        mem_free(own->histories[key].changes);
        mem_free(own->histories[key].reads);
    }
}

const struct workload_module workload_consistency = {
    .name = "consistency",
    .part_bytes = sizeof(struct consistency_part),
    .session_bytes = sizeof(struct consistency_session),
    .pace = 1,
    .begin = consistency_begin,
    .ask = consistency_ask,
    .ask_final = consistency_ask_final,
    .judge = consistency_judge,
    .fini = consistency_fini,
};
