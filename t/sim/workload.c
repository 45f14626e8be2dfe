/* The driver of the workloads: see workload.h. Sessions and their calls, the phases of a run, what
 * holds for every call whatever its workload:
 *
 *   W1  a call is answered by its deadline and a little
 *   W2  no answer is one that nothing here explains (damage, malformed, …)
 *   W3  when all is well again (calm), calls succeed, and soon
 *   W4  a scan's keys come in strict order, once each, within its limit
 *   W5  a node answers every request, unless it loses the connection: the library would ask again, and
 *       nobody would miss the answer */
#include "sim/workload.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/check.h"
#include "base/hash.h"
#include "base/mem.h"
#include "cluster/topology.h"
#include "sim/workload_module.h"

enum {
    ANSWER_SLACK_US = 1000 * 1000, /* W1 */
    CALM_US = 3 * 1000 * 1000,     /* W3: one election and a retry */
    SCAN_PAGES_TYPICAL = 20,       /* each page has a deadline of its own */
    REST_US = 50 * 1000,           /* how often one who rests looks whether the lull is over */
    THINK_LEAST_US = 500,          /* of one whose answer came when its next question was due */
};

static const struct workload_module *const modules[WORKLOAD_COUNT] = {
    [WORKLOAD_REGISTER] = &workload_register,
    [WORKLOAD_RECREATE] = &workload_recreate,
    [WORKLOAD_MULTI] = &workload_multi,
    [WORKLOAD_LARGE] = &workload_large,
    [WORKLOAD_SET] = &workload_set,
    [WORKLOAD_COUNTER] = &workload_counter,
    [WORKLOAD_APPEND] = &workload_append,
    [WORKLOAD_SCAN] = &workload_scan,
    [WORKLOAD_CONSISTENCY] = &workload_consistency,
};

const char *workload_name(enum workload_kind kind)
{
    return modules[kind]->name;
}

void part_fail(struct part *part, const char *format, ...)
{
    char text[400];
    va_list arguments;
    int at = snprintf(text, sizeof text, "%s: ", part->module->name);
    va_start(arguments, format);
    vsnprintf(text + at, sizeof text - (size_t)at, format, arguments);
    va_end(arguments);
    part->workload->violated(part->workload->ctx, text);
}

/* --- Values */

/* A pattern that repeats after 256 bytes: copied, since values are large and many. */
static void fill(uint8_t *out, size_t size, uint8_t first)
{
    size_t made = size < 256 ? size : 256;
    for (size_t i = 0; i < made; i++) {
        out[i] = (uint8_t)(first + i * 7);
    }
    while (made < size) {
        size_t part = size - made < made ? size - made : made;
        memcpy(out + made, out, part);
        made += part;
    }
}

void value_make(struct buf *out, struct span key, const struct value *value, size_t size)
{
    size_t least = VALUE_HEAD_BYTES + value->content.size;
    size = size > least ? size : least;
    uint8_t *at = buf_extend(out, size);
    put_u32(at + 4, value->writer);
    put_u64(at + 8, value->number);
    put_u32(at + 16, (uint32_t)value->content.size);
    if (value->content.size > 0) {
        memcpy(at + VALUE_HEAD_BYTES, value->content.data, value->content.size);
    }
    fill(at + least, size - least, (uint8_t)(value->number * 131));
    put_u32(at, hash_crc32c(hash_crc32c(0, key.data, key.size), at + 4, size - 4));
}

bool value_read(struct span key, struct span bytes, struct value *out)
{
    if (bytes.size < VALUE_HEAD_BYTES) {
        return false;
    }
    size_t size = get_u32(bytes.data + 16);
    if (size > bytes.size - VALUE_HEAD_BYTES ||
        get_u32(bytes.data) !=
            hash_crc32c(hash_crc32c(0, key.data, key.size), bytes.data + 4, bytes.size - 4)) {
        return false;
    }
    *out = (struct value){ .writer = get_u32(bytes.data + 4),
                           .number = get_u64(bytes.data + 8),
                           .content = span_of(bytes.data + VALUE_HEAD_BYTES, size) };
    return true;
}

void name_numbered(char *out, size_t size, const char *prefix, uint32_t number)
{
    char digits[10];
    size_t prefix_size = strlen(prefix), at = sizeof digits;
    do {
        digits[--at] = (char)('0' + number % 10);
        number /= 10;
    } while (number > 0);
    size_t digit_count = sizeof digits - at;
    CHECK(prefix_size + 1 + digit_count < size);
    memcpy(out, prefix, prefix_size);
    out[prefix_size] = '/';
    memcpy(out + prefix_size + 1, digits + at, digit_count);
    out[prefix_size + 1 + digit_count] = 0;
}

/* --- Calls */

uint64_t session_place(struct session *session)
{
    return ++session->part->workload->place;
}

enum linear_outcome session_outcome(enum cairn_verb verb, int status)
{
    bool is_read = verb == CAIRN_GET || verb == CAIRN_GET_META;
    switch (status) {
    case 0:
        return LINEAR_OK;
    case CAIRN_NOT_FOUND:
        return is_read ? LINEAR_ABSENT : LINEAR_REFUSED; /* if present, and it is not */
    case CAIRN_EXISTS:
    case CAIRN_CONDITION_FAILED:
        return LINEAR_REFUSED;
    default:
        return is_read || err_info(status)->retry == ERR_RETRY_SAFE ? LINEAR_NOTHING
                                                                    : LINEAR_UNKNOWN;
    }
}

/* The call that is under way: it began in calm, and no trouble has begun since. */
static bool must_succeed(const struct session *session)
{
    return session->is_calm && !session->part->workload->is_troubled;
}

static void begin_call(struct session *session, uint64_t bound_us)
{
    struct workload *workload = session->part->workload;
    CHECK(!session->is_waiting);
    session->is_waiting = true;
    session->is_calm = workload->calm_since_us != 0 && !workload->is_troubled;
    session->asked_us = caller_now_us(session->caller);
    session->bound_us = bound_us + ANSWER_SLACK_US;
    workload->in_flight[session->part->kind]++;
}

/* Breaks connections now and then, so that the library has to send again what may have arrived. */
static void submitted(struct session *session)
{
    struct workload *workload = session->part->workload;
    caller_wake(session->caller);
    if (!workload->is_ending && !workload->calm_since_us &&
        random_below(&workload->random, 1000) < workload->config.break_per_mille) {
        caller_break_links(session->caller);
    }
}

/* A question follows the one before it, not its answer: so how many are asked hangs little on how
 * quick the cluster is, and a run with a quick one costs no more than others. */
static uint64_t draw_pause_us(struct session *session)
{
    struct workload *workload = session->part->workload;
    uint64_t pace_us = (uint64_t)workload->pace_us * session->part->module->pace;
    uint64_t took_us = caller_now_us(session->caller) - session->asked_us;
    uint64_t pause_us = random_delay(&session->part->random, pace_us);
    pause_us = pause_us > took_us + THINK_LEAST_US
                   ? pause_us - took_us
                   : random_delay(&session->part->random, THINK_LEAST_US);
    uint32_t burst_us = workload->config.burst_us;
    if (burst_us > 0) { /* to the nearest; a whole burst later rather than never */
        uint64_t now_us = workload->schedule->now_us;
        uint64_t due_us = (now_us + pause_us + burst_us / 2) / burst_us * burst_us;
        pause_us = due_us > now_us ? due_us - now_us : due_us + burst_us - now_us;
    }
    return pause_us;
}

static void think(struct session *session)
{
    struct workload *workload = session->part->workload;
    if (session->is_waiting) {
        return; /* it went on by itself */
    }
    uint64_t pause_us = draw_pause_us(session);
    if (!workload->is_ending || workload->is_final) {
        env_timer_start(&session->caller->env->env, &session->think,
                        workload->is_final ? 1000 : pause_us);
    }
}

/* W1, W3 */
static void end_call(struct session *session, const char *what)
{
    struct workload *workload = session->part->workload;
    uint64_t took_us = caller_now_us(session->caller) - session->asked_us;
    session->is_waiting = false;
    workload->in_flight[session->part->kind]--;
    if (took_us > workload->stats.longest_us) {
        workload->stats.longest_us = took_us;
    }
    if (took_us > session->bound_us) {
        part_fail(session->part, "%s answered after %lu ms, its deadline was %lu ms", what,
                  took_us / 1000, (session->bound_us - ANSWER_SLACK_US) / 1000);
    }
    if (must_succeed(session) && took_us > CALM_US) {
        part_fail(session->part, "%s took %lu ms though all is well", what, took_us / 1000);
    }
}

/* W2, W3 */
static void judge_status(struct session *session, enum cairn_verb verb, int status)
{
    struct workload *workload = session->part->workload;
    const struct err_info *info = err_info(status);
    enum linear_outcome outcome = session_outcome(verb, status);
    workload->stats.ok += outcome == LINEAR_OK;
    workload->stats.absent += outcome == LINEAR_ABSENT;
    workload->stats.refused += outcome == LINEAR_REFUSED;
    workload->stats.unknown += outcome == LINEAR_UNKNOWN;
    workload->stats.nothing += outcome == LINEAR_NOTHING;
    bool is_answer = outcome == LINEAR_OK || outcome == LINEAR_ABSENT || outcome == LINEAR_REFUSED;
    if (!is_answer && info->retry == ERR_RETRY_NEVER) {
        part_fail(session->part, "answered with %s, which nothing here explains", info->name);
    } else if (!is_answer && must_succeed(session) && status != ERR_CANCELLED) {
        part_fail(session->part, "client=%u: answered with %s though all is well", session->writer,
                  info->name);
    }
}

static void on_answers(void *arg, struct cairn_result *results, size_t count)
{
    struct session *session = arg;
    struct workload *workload = session->part->workload;
    if (!session->caller->core) {
        return; /* the world ends */
    }
    end_call(session, "a call");
    CHECK(count == session->count);
    for (size_t i = 0; i < count; i++) {
        judge_status(session, session->verbs[i], results[i].status);
        schedule_note(workload->schedule,
                      results[i].meta.version * 64 + (uint64_t)-results[i].status);
    }
    session->heard(session, results, count);
    think(session);
}

static void on_answer(void *arg, struct cairn_result *result)
{
    on_answers(arg, result, 1);
}

void workload_tell_ack_all(struct workload *workload, uint32_t writer, struct span key,
                           uint64_t version)
{
    if (workload->ack_all) {
        workload->ack_all(workload->ctx, writer, key, version);
    }
}

/* A lease read promises what a linearizable one does, so the histories of every workload judge it.
 */
static void draw_leases(struct session *session, struct cairn_request *requests, size_t count)
{
    struct workload *workload = session->part->workload;
    for (size_t i = 0; i < count; i++) {
        bool is_get = requests[i].verb == CAIRN_GET || requests[i].verb == CAIRN_GET_META;
        if (is_get && requests[i].consistency == CAIRN_LINEARIZABLE && !workload->is_final &&
            random_below(&workload->random, 100) < workload->config.lease_percent) {
            requests[i].consistency = CAIRN_LEASE;
        }
    }
}

/* Who gives up before it is settled what became of its call asks least of the others: so what it was told
 * must be true. */
static void draw_hurry(struct session *session, struct cairn_request *requests, size_t count)
{
    struct workload *workload = session->part->workload;
    if (workload->is_final || workload->calm_since_us ||
        random_below(&workload->random, 100) >= workload->config.hurry_percent) {
        return;
    }
    uint32_t timeout_ms = (uint32_t)random_between(&workload->random, 50, 1000);
    for (size_t i = 0; i < count; i++) {
        requests[i].timeout_ms = timeout_ms;
    }
}

static void on_company(void *arg, struct cairn_result *result)
{
}

/* A get that another one of the same key accompanies is sent as if many were. */
static void draw_company(struct session *session, const struct cairn_request *requests,
                         size_t count)
{
    struct workload *workload = session->part->workload;
    if (count == 1 && requests->verb == CAIRN_GET && requests->consistency == CAIRN_LINEARIZABLE &&
        !workload->is_final &&
        random_below(&workload->random, 100) < workload->config.company_percent) {
        int status = core_submit(session->caller->core, requests, on_company, NULL,
                                 caller_now_us(session->caller), NULL);
        CHECK(status == 0);
    }
}

void session_call(struct session *session, const struct cairn_request *asked, size_t count,
                  void (*heard)(struct session *session, const struct cairn_result *results,
                                size_t count))
{
    struct workload *workload = session->part->workload;
    CHECK(count > 0 && count <= SESSION_OPERATIONS_MAX);
    struct cairn_request requests[SESSION_OPERATIONS_MAX];
    memcpy(requests, asked, count * sizeof *requests);
    draw_leases(session, requests, count);
    draw_hurry(session, requests, count);
    draw_company(session, requests, count);
    /* the deadline of many counts from the last progress */
    begin_call(session, (uint64_t)workload->config.timeout_ms * 1000 * count);
    session->heard = heard;
    session->count = count;
    for (size_t i = 0; i < count; i++) {
        session->verbs[i] = requests[i].verb;
    }
    workload->stats.calls += count;
    uint64_t now_us = caller_now_us(session->caller);
    struct core *core = session->caller->core;
    int status = count == 1
                     ? core_submit(core, requests, on_answer, session, now_us, NULL)
                     : core_submit_many(core, requests, count, on_answers, session, now_us, NULL);
    CHECK(status == 0);
    submitted(session);
}

/* --- Scans */

/* W4 */
static void check_entry(struct session *session, const struct cairn_entry *entry)
{
    struct span key = span_of(entry->key, entry->key_size), last = buf_span(&session->scan_last);
    int order = span_compare(last, key);
    if (last.size > 0 && (session->scan_is_reverse ? order <= 0 : order >= 0)) {
        part_fail(session->part, "a scan shows %.*s after %.*s", (int)key.size,
                  (const char *)key.data, (int)last.size, (const char *)last.data);
    }
    if (session->scan_left-- == 0) {
        part_fail(session->part, "a scan shows more than its limit");
    }
    buf_clear(&session->scan_last);
    buf_append_span(&session->scan_last, key);
}

static void end_scan(struct session *session, int status)
{
    struct workload *workload = session->part->workload;
    core_scan_close(session->scan);
    session->scan = NULL;
    end_call(session, "a scan");
    judge_status(session, CAIRN_GET, status);
    schedule_note(workload->schedule, session->scan_left * 64 + (uint64_t)-status);
    session->ended(session, status);
    think(session);
}

static void on_page(void *arg, int status);

static void read_on(struct session *session)
{
    struct cairn_entry entry;
    int status;
    while ((status = core_scan_try(session->scan, &entry)) == 1) {
        session->part->workload->stats.entries++;
        check_entry(session, &entry);
        session->scanned(session, &entry);
    }
    if (status != ERR_BUSY) {
        end_scan(session, status);
        return;
    }
    status = core_scan_fetch(session->scan, on_page, session, caller_now_us(session->caller));
    CHECK(status == 0);
    submitted(session);
}

static void on_page(void *arg, int status)
{
    struct session *session = arg;
    if (session->caller->core && session->scan) {
        read_on(session);
    }
}

void session_scan(struct session *session, const struct cairn_scan_options *options,
                  void (*scanned)(struct session *session, const struct cairn_entry *entry),
                  void (*ended)(struct session *session, int status))
{
    struct workload *workload = session->part->workload;
    begin_call(session, (uint64_t)workload->config.timeout_ms * 1000 * SCAN_PAGES_TYPICAL);
    session->scanned = scanned;
    session->ended = ended;
    session->scan_left = options->limit ? options->limit : UINT64_MAX;
    session->scan_is_reverse = options->reverse;
    buf_clear(&session->scan_last);
    workload->stats.calls++;
    workload->stats.scans++;
    int status = core_scan_open(session->caller->core, options, caller_now_us(session->caller),
                                &session->scan);
    CHECK(status == 0);
    status = core_scan_fetch(session->scan, on_page, session, caller_now_us(session->caller));
    CHECK(status == 0);
    submitted(session);
}

static bool has_to_rest(const struct session *session)
{
    const struct workload *workload = session->part->workload;
    const struct workload_lull *lull = &workload->lull;
    uint64_t now_us = workload->schedule->now_us;
    return session->part->kind != lull->goes_on && lull->from_us <= now_us &&
           now_us < lull->until_us && !workload->is_ending;
}

static void on_think(struct env_timer *timer)
{
    struct session *session = container_of(timer, struct session, think);
    struct workload *workload = session->part->workload;
    const struct workload_module *module = session->part->module;
    if (has_to_rest(session)) {
        env_timer_start(&session->caller->env->env, timer,
                        random_delay(&session->part->random, REST_US));
        return;
    }
    if (workload->is_final) {
        if (!session->is_final_done && !module->ask_final(session)) {
            session->is_final_done = true;
            workload->final_left--;
        }
    } else if (!workload->is_ending) {
        module->ask(session);
    }
}

/* --- Probes: one write to every partition */

static void send_probe(struct workload_probe_key *key);

static void on_probe(void *arg, struct cairn_result *result)
{
    struct workload_probe_key *key = arg;
    if (result->status == 0) {
        key->workload->probe.left--;
    } else if (key->workload->callers[0].core) {
        send_probe(key);
    }
}

static void send_probe(struct workload_probe_key *key)
{
    struct caller *caller = &key->workload->callers[0];
    struct cairn_request request = { .verb = key->verb,
                                     .key = key->name,
                                     .key_size = strlen(key->name) };
    int status = core_submit(caller->core, &request, on_probe, key, caller_now_us(caller), NULL);
    CHECK(status == 0);
    caller_wake(caller);
}

void workload_probe_again(struct workload *workload, enum cairn_verb verb)
{
    CHECK(workload->probe.left == 0);
    for (uint32_t at = 1; at < WORKLOAD_PARTITIONS_MAX; at++) {
        struct workload_probe_key *key = &workload->probe.keys[at];
        if (key->workload) {
            key->verb = verb;
            workload->probe.left++;
            send_probe(key);
        }
    }
}

static void on_topology(void *arg, int status, const struct frame *frame)
{
    struct workload *workload = arg;
    struct caller *caller = &workload->callers[0];
    if (!caller->core) {
        return;
    }
    const struct topology *topology = core_topology(caller->core);
    if (!topology) {
        workload_probe(workload);
        return;
    }
    struct workload_probe_key *keys = workload->probe.keys;
    CHECK(topology->partition_count <= WORKLOAD_PARTITIONS_MAX);
    workload->probe.left = (uint32_t)topology->partition_count - 1; /* 0 is the control group's */
    uint32_t covered = 0;
    for (uint32_t i = 0; covered < workload->probe.left; i++) {
        char name[32];
        int size = snprintf(name, sizeof name, "probe/%u", i);
        size_t at = topology_locate(topology, span_of(name, (size_t)size));
        if (!keys[at].workload) {
            keys[at].workload = workload;
            keys[at].verb = CAIRN_PUT;
            memcpy(keys[at].name, name, sizeof name);
            covered++;
        }
    }
    for (size_t at = 1; at <= covered; at++) {
        send_probe(&keys[at]);
    }
}

void workload_probe(struct workload *workload)
{
    struct caller *caller = &workload->callers[0];
    workload->probe = (struct workload_probe){ .left = 1 };
    int status = core_want_topology(caller->core, on_topology, workload,
                                    workload->config.timeout_ms, caller_now_us(caller), NULL);
    CHECK(status == 0);
    caller_wake(caller);
}

/* --- Life */

static struct session *init_session(struct workload *workload, struct part *part, uint32_t at)
{
    struct session *session = &workload->sessions[at];
    session->part = part;
    session->caller = &workload->callers[at % workload->config.clients];
    session->writer = at + 1;
    session->number = part->session_count++;
    session->think.fire = on_think;
    session->own = mem_zalloc(part->module->session_bytes + 1);
    return session;
}

static void init_part(struct workload *workload, enum workload_kind kind)
{
    struct part *part = MEM_NEW(struct part);
    part->workload = workload;
    part->module = modules[kind];
    part->kind = kind;
    part->cost = 100;
    part->random = random_stream(workload->config.seed, 0x4000 + (uint64_t)kind);
    part->own = mem_zalloc(part->module->part_bytes);
    workload->parts[kind] = part;
}

/* At the pace 1 a session asks each pace_us. What all ask costs as much as the rate in single operations would: so
 * processor time goes to all mixes alike, and not most of it to scans. */
static void set_pace(struct workload *workload)
{
    const struct workload_config *config = &workload->config;
    uint64_t asked = 0; /* in 1,000,000 times pace_us, in operations */
    for (uint32_t i = 0; i < config->sessions; i++) {
        const struct part *part = workload->sessions[i].part;
        asked += 10000 * part->cost / part->module->pace;
    }
    workload->pace_us = (uint32_t)(asked / config->rate);
}

void workload_init(struct workload *workload, const struct workload_config *config,
                   struct schedule *schedule, struct network *network, uint32_t first_machine,
                   struct logger *logger, void (*violated)(void *ctx, const char *text), void *ctx)
{
    CHECK(config->clients <= WORKLOAD_CLIENTS_MAX && config->sessions <= WORKLOAD_SESSIONS_MAX);
    CHECK(config->rate > 0 && config->mix != 0 && config->mix < 1u << WORKLOAD_COUNT);
    *workload = (struct workload){ .config = *config, .schedule = schedule, .logger = logger };
    workload->random = random_stream(config->seed, 0x3017);
    workload->violated = violated;
    workload->ctx = ctx;
    for (uint32_t i = 0; i < config->clients; i++) {
        caller_init(&workload->callers[i],
                    &(struct caller_config){ .schedule = schedule,
                                             .network = network,
                                             .random = &workload->random,
                                             .machine = first_machine + i,
                                             .grain_us = config->grain_us,
                                             .seed = config->seed,
                                             .endpoints = config->endpoints,
                                             .timeout_ms = config->timeout_ms });
    }
    workload->sessions = mem_zalloc(config->sessions * sizeof *workload->sessions);
    for (int kind = 0; kind < WORKLOAD_COUNT; kind++) {
        if (config->mix >> kind & 1) {
            init_part(workload, (enum workload_kind)kind);
        }
    }
    /* in turn, so that every part has one */
    for (uint32_t i = 0, kind = 0; i < config->sessions; kind = (kind + 1) % WORKLOAD_COUNT) {
        if (workload->parts[kind]) {
            init_session(workload, workload->parts[kind], i++);
        }
    }
    for (int kind = 0; kind < WORKLOAD_COUNT; kind++) {
        struct part *part = workload->parts[kind];
        if (part) {
            CHECK(part->session_count > 0);
            part->module->begin(part);
        }
    }
    set_pace(workload);
}

void workload_kill(struct workload *workload)
{
    workload->is_ending = true;
    workload->is_final = false;
    for (uint32_t i = 0; i < workload->config.sessions; i++) {
        if (workload->sessions[i].scan) {
            core_scan_close(workload->sessions[i].scan);
            workload->sessions[i].scan = NULL;
        }
    }
    for (uint32_t i = 0; i < workload->config.clients; i++) {
        caller_kill(&workload->callers[i]);
    }
}

void workload_fini(struct workload *workload)
{
    for (uint32_t i = 0; i < workload->config.clients; i++) {
        caller_fini(&workload->callers[i]);
    }
    for (int kind = 0; kind < WORKLOAD_COUNT; kind++) {
        struct part *part = workload->parts[kind];
        if (part) {
            part->module->fini(part);
            mem_free(part->own);
            mem_free(part);
        }
    }
    for (uint32_t i = 0; i < workload->config.sessions; i++) {
        buf_fini(&workload->sessions[i].scan_last);
        mem_free(workload->sessions[i].own);
    }
    mem_free(workload->sessions);
}

static void start_all(struct workload *workload, uint64_t spread_us)
{
    for (uint32_t i = 0; i < workload->config.sessions; i++) {
        struct session *session = &workload->sessions[i];
        env_timer_start(&session->caller->env->env, &session->think,
                        random_below(&workload->random, spread_us));
    }
}

void workload_begin(struct workload *workload)
{
    start_all(workload, workload->pace_us + 1000);
}

void workload_lull(struct workload *workload, uint64_t from_us, uint64_t until_us)
{
    enum workload_kind kind;
    do {
        kind = (enum workload_kind)random_below(&workload->random, WORKLOAD_COUNT);
    } while (!workload->parts[kind]);
    workload->lull = (struct workload_lull){ from_us, until_us, kind };
    LOG_INFO(workload->logger, "clients: a lull, only %s goes on", workload_name(kind));
}

void workload_end_lull(struct workload *workload)
{
    workload->lull.until_us = 0;
}

void workload_expect_calm(struct workload *workload)
{
    workload->calm_since_us = workload->schedule->now_us;
}

bool workload_end(struct workload *workload)
{
    workload->is_ending = true;
    for (uint32_t i = 0; i < workload->config.sessions; i++) {
        if (workload->sessions[i].is_waiting) {
            return false;
        }
    }
    return true;
}

bool workload_is_connected(const struct workload *workload)
{
    bool is_connected = true;
    for (uint32_t i = 0; i < workload->config.clients; i++) {
        is_connected &= caller_is_connected(&workload->callers[i]);
    }
    return is_connected;
}

/* W5 */
bool workload_is_answered(const struct workload *workload)
{
    for (uint32_t i = 0; i < workload->config.clients; i++) {
        if (caller_open_requests(&workload->callers[i]) > 0) {
            return false;
        }
    }
    return true;
}

void workload_read_all(struct workload *workload)
{
    workload->is_final = true;
    workload->final_left = workload->config.sessions;
    start_all(workload, 1000);
}

uint32_t workload_judge(struct workload *workload)
{
    for (int kind = 0; kind < WORKLOAD_COUNT; kind++) {
        struct part *part = workload->parts[kind];
        if (part) {
            part->module->judge(part);
        }
    }
    return workload->undecided;
}
