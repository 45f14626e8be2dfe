/* The log on a fake disk: what is told durable is there after any crash; torn tails are cut;
 * damage, failed syncs and full disks are told. The heart is test_crashes: random work, a crash at
 * any file call, any subset of the unsynced sectors kept, and a model that knows what was promised.
 * Segments are small (64 KiB), so that recycling and moving happen all the time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "fake_env.h"
#include "base/hash.h"
#include "raft/log.h"
#include "raft/log_record.h"

enum { GROUPS = 4, ENTRIES = 4096, SEGMENT = 64 << 10 };
enum { ROUNDS = 100 }; /* fewer need not meet everything that the random tests are for */

/* --- The model: what was appended and what was promised. */

struct model_group {
    uint64_t start, last, durable;
    uint64_t terms[ENTRIES]; /* by index */
    uint64_t pairs[ENTRIES]; /* (term before mod 8, term mod 8) that ever stood there, as bits */
    uint64_t ever[ENTRIES];  /* all terms (mod 64, as bits) that stood there since the last durable
                                word */
    uint64_t term, vote;     /* as appended */
    uint64_t term_durable, vote_durable;
    uint64_t cut_durable_max; /* greatest start ever asked for */
};

struct world {
    struct fake_env *fake;
    struct log *log;
    struct logger logger;
    struct model_group groups[GROUPS + 1];
    struct model_group before[GROUPS + 1]; /* as it was before a reset … */
    bool is_reset[GROUPS + 1];             /* … that nothing proves durable yet */
    int resets, resets_undone;
    int failures, batches, told_after_failure;
    char failure[256];
    char last_line[512];
    uint64_t segment_bytes, cache_bytes;
    uint64_t state_tells;
    bool is_alone;
    struct log_expected expected[GROUPS];
    int hole_tells, healed_tells;
};

static void on_line(void *ctx, enum logger_level level, const char *line)
{
    struct world *world = ctx;
    snprintf(world->last_line, sizeof world->last_line, "%s", line);
    if (getenv("LOG_LINES")) {
        print_message("# %s\n", line);
    }
}

static void on_durable(void *ctx, uint32_t group, uint64_t index, uint64_t term)
{
    struct world *world = ctx;
    struct model_group *model = &world->groups[group];
    world->told_after_failure += world->failures > 0;
    assert_true(index <= model->last);
    if (index >= model->start) {
        assert_int_equal(model->terms[index], term);
    }
    if (index > model->durable) {
        model->durable = index;
    }
    if (index >= model->start) {
        world->is_reset[group] = false;
    }
}

static void on_state_durable(void *ctx, uint32_t group, uint64_t term, uint64_t vote)
{
    struct world *world = ctx;
    world->told_after_failure += world->failures > 0;
    world->groups[group].term_durable = term;
    world->groups[group].vote_durable = vote;
    world->state_tells++;
}

static void on_batch(void *ctx)
{
    ((struct world *)ctx)->batches++;
}

static void on_hole(void *ctx, uint32_t group)
{
    ((struct world *)ctx)->hole_tells++;
}

static void on_healed(void *ctx, uint32_t group)
{
    ((struct world *)ctx)->healed_tells++;
}

static void on_failure(void *ctx, const struct err *err)
{
    struct world *world = ctx;
    world->failures++;
    snprintf(world->failure, sizeof world->failure, "%s", err->text);
}

static int world_open(struct world *world, struct err *err)
{
    struct log_config config = { .env = &world->fake->env,
                                 .logger = &world->logger,
                                 .directory = "data/log",
                                 .cluster_id = "fifteen letters",
                                 .node_id = 1,
                                 .segment_bytes = world->segment_bytes,
                                 .cache_bytes = world->cache_bytes,
                                 .on_durable = on_durable,
                                 .on_state_durable = on_state_durable,
                                 .on_batch = on_batch,
                                 .on_hole = on_hole,
                                 .on_healed = on_healed,
                                 .on_failure = on_failure,
                                 .expected = world->expected,
                                 .expected_count = GROUPS,
                                 .is_alone = world->is_alone,
                                 .ctx = world };
    world->log = NULL;
    world->failures = world->told_after_failure = 0;
    return log_open(&config, &world->log, err);
}

static struct world *world_new(uint64_t seed)
{
    struct world *world = calloc(1, sizeof *world);
    world->fake = fake_new(seed);
    world->logger = (struct logger){ .level = LOGGER_INFO, .write = on_line, .ctx = world };
    world->segment_bytes = SEGMENT;
    world->cache_bytes = 20000;
    for (int i = 0; i <= GROUPS; i++) {
        world->groups[i].start = 1;
    }
    for (uint32_t i = 0; i < GROUPS; i++) {
        world->expected[i] = (struct log_expected){ i + 1, (i + 1) * 10 };
    }
    return world;
}

static void world_start(struct world *world)
{
    struct err err;
    int rc = world_open(world, &err);
    if (rc < 0) {
        print_error("open: %s\n", err.text);
    }
    assert_int_equal(rc, 0);
}

static void world_free(struct world *world)
{
    if (world->log) {
        log_close(world->log);
        fake_run(world->fake);
    }
    fake_free(world->fake);
    free(world);
}

/* A payload that can be told from all others by (group, index, term). */
static struct blob *payload_of(uint32_t group, uint64_t index, uint64_t term)
{
    uint64_t hash = (group * 1000003 + index) * 1000003 + term;
    size_t size = hash % 23 == 0 ? 2000 + hash % 9000 : hash % 17 == 0 ? 0 : 20 + hash % 400;
    struct blob *blob = blob_new(size);
    for (size_t i = 0; i < size; i++) {
        blob->data[i] = (uint8_t)((hash + i) * 2654435761u >> 13);
    }
    return blob;
}

static void check_payload(uint32_t group, uint64_t index, uint64_t term, const struct blob *blob)
{
    struct blob *expected = payload_of(group, index, term);
    assert_non_null(blob);
    assert_int_equal(blob->size, expected->size);
    assert_memory_equal(blob->data, expected->data, blob->size);
    blob_unref(expected);
}

static void append(struct world *world, uint32_t group, uint64_t first, uint32_t count,
                   uint64_t term)
{
    struct model_group *model = &world->groups[group];
    struct blob *payloads[64];
    uint64_t terms[64];
    assert_true(count <= 64 && first + count < ENTRIES);
    for (uint32_t i = 0; i < count; i++) {
        terms[i] = term;
        payloads[i] = payload_of(group, first + i, term);
        model->terms[first + i] = term;
        model->ever[first + i] |= 1ull << term % 64;
        model->pairs[first + i] |= 1ull << (model->terms[first + i - 1] % 8 * 8 + term % 8);
    }
    model->last = first + count - 1;
    if (model->durable >= first) {
        model->durable = first - 1;
    }
    log_append(world->log, group, first, terms, payloads, count);
    for (uint32_t i = 0; i < count; i++) {
        blob_unref(payloads[i]);
    }
}

static void append_state(struct world *world, uint32_t group, uint64_t term, uint64_t vote)
{
    world->groups[group].term = term;
    world->groups[group].vote = vote;
    log_append_state(world->log, group, term, vote);
}

static void cut(struct world *world, uint32_t group, uint64_t start)
{
    struct model_group *model = &world->groups[group];
    if (start > model->start) {
        log_cut(world->log, group, start, model->terms[start - 1]);
        model->start = start;
    }
}

static void reset(struct world *world, uint32_t group, uint64_t start, uint64_t term)
{
    struct model_group *model = &world->groups[group];
    world->before[group] = *model;
    world->is_reset[group] = true;
    world->resets++;
    log_reset(world->log, group, start, term);
    memset(model->ever, 0, sizeof model->ever);
    model->start = start;
    model->last = model->durable = start - 1;
    model->terms[start - 1] = term;
}

/* A reset that was not durable: the old log is there, whole. */
static void undo_reset(struct world *world, uint32_t group)
{
    struct model_group now = world->groups[group], *model = &world->groups[group];
    *model = world->before[group];
    model->term = now.term;
    model->vote = now.vote;
    model->term_durable = now.term_durable;
    model->vote_durable = now.vote_durable;
    for (uint64_t i = 0; i < ENTRIES; i++) {
        model->pairs[i] |= now.pairs[i];
    }
    world->resets_undone++;
}

static uint64_t run_term(const struct raft_start *start, uint64_t index)
{
    uint64_t term = 0;
    for (size_t i = 0; i < start->run_count && start->runs[i].first <= index; i++) {
        term = start->runs[i].term;
    }
    return term;
}

static const struct log_group_start *find_start(struct world *world, uint32_t group)
{
    for (size_t i = 0; i < log_group_count(world->log); i++) {
        if (log_group_at(world->log, i)->group == group) {
            return log_group_at(world->log, i);
        }
    }
    return NULL;
}

/* Compares what a freshly opened log holds with what was promised, and makes it the model's truth.
 */
static void check_recovered(struct world *world, uint32_t group)
{
    struct model_group *model = &world->groups[group];
    const struct log_group_start *start = find_start(world, group);
    if (world->is_reset[group] && (!start || start->raft.log_start < model->start)) {
        undo_reset(world, group);
    }
    world->is_reset[group] = false;
    bool is_promised = model->durable > 0 || model->term_durable > 0;
    if (!start) {
        assert_false(is_promised);
        *model = (struct model_group){ .start = 1 };
        log_group_add(world->log, group, group * 10, 1, 0);
        return;
    }
    const struct raft_start *raft = &start->raft;
    assert_int_equal(start->replica, group * 10);
    assert_false(raft->is_suspect); /* a crash is no damage */
    assert_int_equal(log_first_hole(world->log, group, 0), 0);
    assert_true(raft->log_start <= model->start);
    if (raft->log_start == model->start) {
        assert_int_equal(raft->start_term, model->terms[model->start - 1]);
    }
    assert_true(raft->last_index >= model->durable);
    assert_true(raft->last_index <= ENTRIES);
    assert_true(raft->term >= model->term_durable);
    if (raft->term == model->term_durable && model->vote_durable) {
        assert_int_equal(raft->vote, model->vote_durable);
    }
    for (uint64_t i = raft->log_start; i <= raft->last_index;) {
        struct blob *payloads[64];
        uint32_t count;
        struct err err;
        assert_int_equal(log_read_now(world->log, group, i, 64, 1 << 20, payloads, &count, &err),
                         0);
        assert_true(count >= 1);
        for (uint32_t k = 0; k < count; k++, i++) {
            uint64_t term = run_term(raft, i);
            if (i >= model->start) {
                bool is_new = term == model->terms[i] && i <= model->last;
                assert_true(is_new || (i > model->durable && model->ever[i] >> term % 64 & 1));
            }
            check_payload(group, i, term, payloads[k]);
            blob_unref(payloads[k]);
            model->terms[i] = term;
        }
    }
    for (uint64_t i = 0; i < ENTRIES; i++) {
        model->ever[i] =
            i >= raft->log_start && i <= raft->last_index ? 1ull << model->terms[i] % 64 : 0;
    }
    model->start = raft->log_start;
    model->terms[raft->log_start - 1] = raft->start_term;
    model->last = model->durable = raft->last_index;
    model->term = model->term_durable = raft->term;
    model->vote = model->vote_durable = raft->vote;
}

static void check_all_recovered(struct world *world)
{
    for (uint32_t group = 1; group <= GROUPS; group++) {
        check_recovered(world, group);
    }
}

static void add_groups(struct world *world)
{
    for (uint32_t group = 1; group <= GROUPS; group++) {
        log_group_add(world->log, group, group * 10, 1, 0);
    }
}

static void reopen(struct world *world)
{
    log_close(world->log);
    fake_run(world->fake);
    world_start(world);
}

/* The process dies: its log's memory goes, nothing more is written. */
static void kill_process(struct world *world)
{
    fake_kill(world->fake);
    log_abandon(world->log);
    world->log = NULL;
}

/* --- Plain behaviour. */

static void test_append_and_restart(void **state)
{
    struct world *world = world_new(1);
    world_start(world);
    assert_int_equal(log_group_count(world->log), 0);
    add_groups(world);
    append_state(world, 1, 1, 10);
    append(world, 1, 1, 3, 1);
    append(world, 2, 1, 1, 1);
    assert_int_equal(world->groups[1].durable, 0);
    assert_true(log_is_busy(world->log));
    fake_run(world->fake);
    assert_false(log_is_busy(world->log));
    assert_int_equal(world->groups[1].durable, 3);
    assert_int_equal(world->groups[1].vote_durable, 10);
    assert_int_equal(world->batches, 1);
    assert_int_equal(log_stats(world->log)->entries, 4);
    check_payload(1, 2, 1, log_peek(world->log, 1, 2));
    assert_null(log_peek(world->log, 1, 4));
    uint32_t bytes;
    assert_int_equal(log_in_memory(world->log, 1, 1, 10, 1 << 20, &bytes), 3);
    assert_int_equal(log_in_memory(world->log, 1, 4, 10, 1 << 20, &bytes), 0);
    for (int i = 0; i < 5; i++) {
        reopen(world);
        check_all_recovered(world);
    }
    assert_int_equal(find_start(world, 1)->raft.last_index, 3);
    world_free(world);
}

static void test_one_batch_in_flight_next_gathers(void **state)
{
    struct world *world = world_new(2);
    world_start(world);
    add_groups(world);
    append(world, 1, 1, 1, 1);
    fake_run_tasks(world->fake);
    append(world, 1, 2, 1, 1);
    append(world, 2, 1, 1, 1);
    fake_run_tasks(world->fake);
    assert_true(fake_run_job(world->fake, ENV_JOB_LOG));
    assert_int_equal(world->groups[1].durable, 1);
    assert_true(fake_run_job(world->fake, ENV_JOB_LOG));
    assert_int_equal(world->groups[1].durable, 2);
    assert_int_equal(world->groups[2].durable, 1);
    assert_false(fake_run_job(world->fake, ENV_JOB_LOG));
    assert_int_equal(world->batches, 2);
    world_free(world);
}

/* A suffix is replaced while its own batch is in flight: that batch's word is for the rest only. */
static void test_replace_in_flight(void **state)
{
    struct world *world = world_new(3);
    world_start(world);
    add_groups(world);
    append(world, 1, 1, 5, 1);
    fake_run_tasks(world->fake);
    append(world, 1, 3, 1, 2);
    assert_true(fake_run_job(world->fake, ENV_JOB_LOG));
    assert_int_equal(world->groups[1].durable, 2);
    assert_null(log_peek(world->log, 1, 4));
    fake_run(world->fake);
    assert_int_equal(world->groups[1].durable, 3);
    reopen(world);
    check_all_recovered(world);
    assert_int_equal(find_start(world, 1)->raft.last_index, 3);
    assert_int_equal(find_start(world, 1)->raft.run_count, 2);
    world_free(world);
}

struct read_result {
    int calls, status;
    uint32_t count;
    struct blob *payloads[64];
};

static void on_read(void *ctx, int status, uint64_t first, struct blob **payloads, uint32_t count)
{
    struct read_result *result = ctx;
    result->calls++;
    result->status = status;
    result->count = count;
    for (uint32_t i = 0; i < count; i++) {
        result->payloads[i] = payloads[i];
    }
}

static void test_read_from_disk(void **state)
{
    struct world *world = world_new(4);
    world->cache_bytes = 1;
    world_start(world);
    add_groups(world);
    append(world, 1, 1, 40, 1);
    assert_non_null(log_peek(world->log, 1, 40)); /* not durable: stays */
    fake_run(world->fake);
    assert_null(log_peek(world->log, 1, 40));
    struct read_result result = { 0 };
    log_read(world->log, 1, 1, 64, 1 << 20, on_read, &result);
    assert_int_equal(result.calls, 0);
    fake_run(world->fake);
    assert_int_equal(result.calls, 1);
    assert_int_equal(result.count, 40);
    for (uint32_t i = 0; i < result.count; i++) {
        check_payload(1, 1 + i, 1, result.payloads[i]);
        blob_unref(result.payloads[i]);
    }
    /* Entries replaced while the read runs are not returned. */
    log_read(world->log, 1, 10, 30, 1 << 20, on_read, &result);
    append(world, 1, 15, 1, 2);
    fake_run(world->fake);
    assert_int_equal(result.calls, 2);
    assert_int_equal(result.count, 5);
    for (uint32_t i = 0; i < result.count; i++) {
        blob_unref(result.payloads[i]);
    }
    log_read(world->log, 1, 100, 3, 1 << 20, on_read, &result);
    fake_run(world->fake);
    assert_int_equal(result.count, 0);
    assert_int_equal(result.status, 0);
    world_free(world);
}

/* Logs are cut as they grow: the number of files stays bounded, and files are reused. */
static void test_cut_and_recycle(void **state)
{
    struct world *world = world_new(5);
    world_start(world);
    add_groups(world);
    for (uint64_t i = 1; i < 3000; i += 10) {
        append(world, 1, i, 10, 1);
        fake_run(world->fake);
        if (i > 50) {
            cut(world, 1, i - 50);
        }
        assert_int_equal(log_admit(world->log, 1000), 0);
    }
    fake_run(world->fake);
    assert_true(log_stats(world->log)->recycled > 5);
    assert_true(log_stats(world->log)->segments <= 7);
    assert_true(world->fake->names.count <= 8);
    reopen(world);
    check_all_recovered(world);
    world_free(world);
}

/* What is freed at once is kept for reuse as long as it may be, and given back when it may not. */
static void test_freed_files_are_kept(void **state)
{
    struct world *world = world_new(15);
    world_start(world);
    add_groups(world);
    log_keep_bytes(world->log, 12 * SEGMENT);
    for (int round = 0; round < 3; round++) {
        uint64_t first = (uint64_t)round * 1000 + 1;
        for (uint64_t i = first; i < first + 1000; i += 10) {
            append(world, 1, i, 10, 1);
            fake_run(world->fake);
        }
        cut(world, 1, first + 999);
        fake_run(world->fake);
        assert_in_range(log_stats(world->log)->segments, 8, 13);
    }
    assert_true(log_stats(world->log)->recycled > 15);
    log_keep_bytes(world->log, 0);
    fake_run(world->fake);
    assert_true(log_stats(world->log)->segments <= 6);
    reopen(world);
    check_all_recovered(world);
    world_free(world);
}

/* A quiet group's few entries do not pin old segments: they are written again. */
static void test_quiet_groups_are_moved(void **state)
{
    struct world *world = world_new(6);
    world->cache_bytes = 1;
    world_start(world);
    add_groups(world);
    append_state(world, 2, 7, 20);
    append(world, 2, 1, 20, 3);
    append(world, 3, 1, 2, 1);
    for (uint64_t i = 1; i < 4000; i += 10) {
        append(world, 1, i, 10, 1);
        fake_run(world->fake);
        if (i > 50) {
            cut(world, 1, i - 50);
        }
        if (i == 2001) {
            append(world, 2, 15, 3, 4);
        }
    }
    fake_run(world->fake);
    assert_true(log_stats(world->log)->segments <= 14);
    reopen(world);
    check_all_recovered(world);
    assert_int_equal(find_start(world, 2)->raft.last_index, 17);
    assert_int_equal(find_start(world, 2)->raft.vote, 20);
    assert_int_equal(find_start(world, 3)->raft.last_index, 2);
    world_free(world);
}

/* A group that holds much and is not cut pins what lies behind it, dead or not; where there is little
 * room it is written again all the same. */
static uint64_t segments_behind_a_pin(bool is_tight)
{
    struct world *world = world_new(16);
    world->cache_bytes = 1;
    world_start(world);
    add_groups(world);
    log_keep_bytes(world->log, 0);
    for (uint64_t i = 1; i < 1000; i += 10) {
        append(world, 2, i, 10, 3);
        fake_run(world->fake);
    }
    log_tighten(world->log, is_tight);
    for (uint64_t i = 1; i < 4000; i += 10) {
        append(world, 1, i, 10, 1);
        fake_run(world->fake);
        if (i > 50) {
            cut(world, 1, i - 50);
        }
    }
    fake_run(world->fake);
    uint64_t segments = log_stats(world->log)->segments;
    reopen(world);
    check_all_recovered(world);
    assert_int_equal(find_start(world, 2)->raft.last_index, 1000);
    world_free(world);
    return segments;
}

static void test_what_pins_much_is_moved_when_tight(void **state)
{
    uint64_t loose = segments_behind_a_pin(false), tight = segments_behind_a_pin(true);
    assert_true(tight <= 30 && tight + 15 < loose);
}

/* Batches that take so many µs each. */
static void sync_slowly(struct world *world, int count, uint64_t us)
{
    for (int i = 0; i < count; i++) {
        append(world, 1, world->groups[1].last + 1, 1, 1);
        fake_run_tasks(world->fake);
        world->fake->now_us += us;
        assert_true(fake_run_job(world->fake, ENV_JOB_LOG));
    }
}

/* Some slow batches say nothing, most do; one that hangs counts before it is done. */
static void test_latency_is_the_typical_one(void **state)
{
    struct world *world = world_new(17);
    world_start(world);
    add_groups(world);
    fake_run(world->fake);
    sync_slowly(world, 9, 500);
    assert_in_range(log_latency_us(world->log), 500, 999);
    sync_slowly(world, 4, 50000);
    assert_in_range(log_latency_us(world->log), 500, 999);
    sync_slowly(world, 1, 50000);
    assert_in_range(log_latency_us(world->log), 50000, 50999);
    sync_slowly(world, 9, 500);
    append(world, 1, world->groups[1].last + 1, 1, 1);
    fake_run_tasks(world->fake);
    world->fake->now_us += 100000;
    assert_in_range(log_latency_us(world->log), 500, 999);
    world->fake->now_us += 200000;
    assert_in_range(log_latency_us(world->log), 300000, 300999);
    fake_run(world->fake);
    world_free(world);
}

/* Cut far behind its end. */
static void test_cut_beyond_the_end(void **state)
{
    struct world *world = world_new(7);
    world_start(world);
    add_groups(world);
    append(world, 1, 1, 5, 1);
    fake_run(world->fake);
    log_cut(world->log, 1, 1000, 8);
    struct model_group *model = &world->groups[1];
    model->start = 1000;
    model->last = model->durable = 999;
    model->terms[999] = 8;
    append(world, 1, 1000, 2, 9);
    fake_run(world->fake);
    reopen(world);
    check_all_recovered(world);
    assert_int_equal(find_start(world, 1)->raft.log_start, 1000);
    assert_int_equal(find_start(world, 1)->raft.start_term, 8);
    assert_int_equal(find_start(world, 1)->raft.last_index, 1001);
    world_free(world);
}

/* The log is replaced by an image while entries of it wait and are in flight: nothing of them comes
 * back, neither by a late word nor by a restart, and also not when segments were changed between.
 */
static void test_reset(void **state)
{
    struct world *world = world_new(8);
    world_start(world);
    add_groups(world);
    append(world, 1, 1, 40, 1);
    append(world, 2, 1, 3, 1);
    fake_run(world->fake);
    append(world, 1, 41, 10, 2);
    fake_run_tasks(world->fake); /* in flight */
    append(world, 1, 51, 10, 2); /* waits */
    append_state(world, 1, 5, 10);
    reset(world, 1, 31, 3);
    assert_null(log_peek(world->log, 1, 41));
    fake_run(world->fake);
    assert_int_equal(world->groups[1].durable, 30);
    append(world, 1, 31, 20, 3);
    fake_run(world->fake);
    for (int i = 0; i < 3; i++) {
        reopen(world);
        check_all_recovered(world);
        assert_int_equal(find_start(world, 1)->raft.log_start, 31);
        assert_int_equal(find_start(world, 1)->raft.start_term, 3);
        assert_int_equal(find_start(world, 1)->raft.last_index, 50);
        assert_int_equal(find_start(world, 1)->raft.vote, 10);
    }
    /* The last batch holds the reset only: what a restart repeats must say it too. */
    reset(world, 1, 41, 4);
    fake_run(world->fake);
    for (int i = 0; i < 3; i++) {
        reopen(world);
        check_all_recovered(world);
        assert_int_equal(find_start(world, 1)->raft.last_index, 40);
        assert_int_equal(world->resets_undone, 0);
    }
    world_free(world);
}

/* --- Failures. */

/* Fails the n-th sync or write, for every n: on_failure once, and nothing is told afterwards. */
static void test_failed_sync_stops(void **state)
{
    int failed = 0;
    for (uint64_t n = 1; n < 60; n++) {
        struct world *world = world_new(n);
        world_start(world);
        fake_run(world->fake);
        add_groups(world);
        world->fake->fault = n % 2 ? FAKE_FAIL_SYNC : FAKE_FAIL_WRITE;
        world->fake->fault_at = world->fake->calls + n;
        for (uint64_t i = 1; i < 400; i += 10) {
            append(world, 1, i, 10, 1);
            append_state(world, 2, i, 20);
            fake_run(world->fake);
        }
        if (world->fake->fault == FAKE_NONE) {
            failed++;
            assert_int_equal(world->failures, 1);
            assert_string_equal(world->failure, "injected");
            assert_int_equal(log_admit(world->log, 1), ERR_IO);
        }
        assert_int_equal(world->told_after_failure, 0);
        kill_process(world);
        fake_power_loss(world->fake, 0);
        world_start(world);
        check_all_recovered(world);
        world_free(world);
    }
    assert_true(failed > 20);
}

static void test_disk_full(void **state)
{
    struct world *world = world_new(9);
    world->fake->space_left = 6 * SEGMENT + (1 << 20);
    world_start(world);
    add_groups(world);
    uint64_t i = 1;
    for (; i < 3500 && log_admit(world->log, 4000) == 0; i += 10) {
        append(world, 1, i, 10, 1);
        fake_run(world->fake);
        if (i == 1) {
            world->fake->space_left = 3 * SEGMENT;
        }
    }
    assert_true(i < 3500);
    assert_int_equal(log_admit(world->log, 1), ERR_DISK_FULL);
    assert_int_equal(world->failures, 0);
    /* Votes and cuts still go; the cut makes room. */
    append_state(world, 2, 5, 20);
    fake_run(world->fake);
    assert_int_equal(world->groups[2].term_durable, 5);
    cut(world, 1, i - 5);
    fake_run(world->fake);
    append_state(world, 2, 6, 20);
    fake_run(world->fake);
    fake_fire_timers(world->fake);
    fake_run(world->fake);
    assert_int_equal(log_admit(world->log, 1), 0);
    reopen(world);
    check_all_recovered(world);
    world_free(world);
}

/* Appends, so many at a time, until entries wait for which the disk has no room. */
static void fill_log(struct world *world, uint32_t group, uint32_t count)
{
    while (!log_is_busy(world->log)) {
        append(world, group, world->groups[group].last + 1, count, 1);
        fake_run(world->fake);
    }
}

/* A disk that has room for so many segments. */
static struct world *world_on_a_small_disk(uint64_t seed, size_t segments)
{
    struct world *world = world_new(seed);
    world->fake->space_left = segments * SEGMENT + (1 << 16);
    world_start(world);
    add_groups(world);
    fake_run(world->fake);
    return world;
}

/* Entries wait for room. Votes and cuts that come behind them don't, and the cut makes the room. */
static void test_cuts_pass_entries_without_room(void **state)
{
    for (uint64_t seed = 20; seed < 40; seed++) {
        struct world *world = world_on_a_small_disk(seed, 4);
        fill_log(world, 1 + seed % 2, seed % 4 < 2 ? 10 : 1);
        assert_true(log_room(world->log) < SEGMENT);
        struct model_group *model = &world->groups[1 + seed % 2];
        uint64_t durable = model->durable;
        assert_true(durable > 100 && durable < model->last);
        for (uint64_t term = 5; term < 8; term++) {
            append_state(world, 3, term, 30);
            fake_run(world->fake);
            assert_int_equal(world->groups[3].term_durable, term);
        }
        assert_int_equal(model->durable, durable);
        cut(world, 1 + seed % 2, durable);
        fake_run(world->fake);
        assert_false(log_is_busy(world->log));
        assert_int_equal(model->durable, model->last);
        kill_process(world);
        fake_power_loss(world->fake, 0);
        world->fake->space_left += 4 * SEGMENT;
        world_start(world);
        check_all_recovered(world);
        world_free(world);
    }
}

/* The same with a suffix that is replaced by what waits: what is replaced stays on disk until then, or the log would have a gap. */
static void test_what_is_replaced_stays_until_room_is_there(void **state)
{
    struct world *world = world_on_a_small_disk(41, 4);
    fill_log(world, 1, 10);
    struct model_group *model = &world->groups[1];
    uint64_t durable = model->durable;
    append(world, 1, durable / 2, 20, 2);
    cut(world, 1, durable / 2);
    fake_run_tasks(world->fake);
    assert_true(fake_run_job(world->fake, ENV_JOB_LOG)); /* the cut, alone */
    assert_true(log_is_busy(world->log));
    kill_process(world);
    fake_power_loss(world->fake, 0);
    world->fake->space_left += 4 * SEGMENT;
    world_start(world);
    check_all_recovered(world);
    assert_int_equal(find_start(world, 1)->raft.log_start, durable / 2);
    world_free(world);
}

/* Appends, replacements, votes and cuts at random on a disk that is full most of the time, with power losses between. */
static void test_crashes_on_a_full_disk(void **state)
{
    uint64_t waited = 0, freed = 0;
    for (uint64_t seed = 1; seed <= 150; seed++) {
        struct world *world = world_on_a_small_disk(seed * 7919, 3 + seed % 4);
        for (int step = 0; step < 150; step++) {
            uint64_t draw = hash_u64(seed * 1000 + (uint64_t)step);
            uint32_t group = 1 + draw / 16 % GROUPS;
            struct model_group *model = &world->groups[group];
            uint64_t some = draw / 256 % 40, durable = model->durable;
            bool was_busy = log_is_busy(world->log);
            if (draw % 16 < 6 && model->last + 40 < ENTRIES) {
                append(world, group, model->last + 1, 1 + (uint32_t)some, model->term + 1);
            } else if (draw % 16 < 8 && model->last > model->start + 45) {
                append(world, group, model->last - some, 1, model->term + 1);
            } else if (draw % 16 < 11) {
                append_state(world, group, model->term + 1, 10);
                fake_run(world->fake);
            } else if (draw % 16 < 14 && durable > model->start) {
                cut(world, group, model->start + (durable - model->start) * some / 40);
                fake_run(world->fake);
                freed += was_busy && !log_is_busy(world->log);
            } else if (draw % 16 == 14) {
                fake_run(world->fake);
            } else if (draw / 4096 % 4 == 0) {
                kill_process(world);
                fake_power_loss(world->fake, 0);
                world->fake->space_left += 2 * SEGMENT;
                world_start(world);
                check_all_recovered(world);
            }
            waited += was_busy;
        }
        world_free(world);
    }
    assert_true(waited > 1000 && freed > 100);
}

static struct env_file *newest_segment(struct world *world, char name[64])
{
    struct env_file *file = NULL;
    name[0] = 0;
    for (size_t i = 0; i < world->fake->names.count; i++) {
        const struct fake_name *item = &world->fake->names.items[i];
        struct log_record_head head;
        uint64_t number = strtoull(item->path + strlen("data/log/"), NULL, 16);
        if (strstr(item->path, ".log") && item->file->size > 1024 && strcmp(item->path, name) > 0 &&
            log_record_unpack_head(item->file->cached + 512, number, 1, &head) == 0) {
            file = item->file;
            snprintf(name, 64, "%s", item->path);
        }
    }
    assert_non_null(file);
    return file;
}

/* Every sector of the live log in turn gets a flipped bit: ERR_CORRUPT that names segment and
 * offset, or, in bytes that carry nothing, the same content as before. Never a shorter log. */
static void test_flipped_bits_are_reported(void **state)
{
    struct world *world = world_new(10);
    world->is_alone = true;
    world_start(world);
    add_groups(world);
    for (uint64_t i = 1; i < 200; i += 10) {
        append(world, 1 + i / 10 % GROUPS, world->groups[1 + i / 10 % GROUPS].last + 1, 10, 1);
        append_state(world, 1 + i / 10 % GROUPS, i, 0);
        fake_run(world->fake);
    }
    kill_process(world);
    fake_settle(world->fake);
    char name[64];
    struct env_file *file = newest_segment(world, name);
    uint32_t used = 0, damaged = 0;
    for (uint32_t i = 1; i < file->size / 512; i++) {
        uint64_t number = strtoull(name + strlen("data/log/"), NULL, 16);
        if (log_record_sector_of(file->cached + (size_t)i * 512, number, i) !=
            LOG_RECORD_SECTOR_OLD) {
            used = i + 1;
        }
    }
    assert_true(used > 20);
    struct fake_image *image = fake_save(world->fake);
    for (uint32_t sector = 0; sector < used; sector++) {
        size_t bit = (size_t)sector * 4096 + fake_below(world->fake, 4096);
        struct err err = { 0 };
        file->cached[bit / 8] ^= (uint8_t)(1 << bit % 8);
        int rc = world_open(world, &err);
        if (rc < 0) {
            damaged++;
            assert_int_equal(rc, ERR_CORRUPT);
            assert_non_null(strstr(err.text, "segment"));
            assert_non_null(strstr(err.text, "offset"));
            assert_null(world->log);
        } else {
            for (uint32_t group = 1; group <= GROUPS; group++) {
                assert_int_equal(find_start(world, group)->raft.last_index,
                                 world->groups[group].last);
                assert_true(find_start(world, group)->raft.term == world->groups[group].term);
            }
            kill_process(world);
        }
        fake_kill(world->fake);
        fake_restore(world->fake, image);
    }
    assert_true(damaged > used / 2); /* headers that the next batch repeats are no loss */
    fake_image_free(image);
    world_start(world);
    check_all_recovered(world);
    world_free(world);
}

/* A whole batch in the middle put back to old bytes is no torn tail; the last one is. */
static void test_lost_batch_in_the_middle(void **state)
{
    for (int is_last = 0; is_last < 2; is_last++) {
        struct world *world = world_new(11);
        world->is_alone = true;
        world_start(world);
        add_groups(world);
        for (uint64_t i = 1; i < 40; i += 10) {
            append(world, 1, i, 10, 1);
            fake_run(world->fake);
        }
        kill_process(world);
        char name[64];
        struct env_file *file = newest_segment(world, name);
        uint32_t at = 1;
        struct log_record_head head;
        for (int i = 0; i < (is_last ? 3 : 2); i++) {
            assert_int_equal(log_record_unpack_head(file->cached + (size_t)at * 512, 1, at, &head),
                             0);
            at += head.sectors;
        }
        assert_int_equal(log_record_unpack_head(file->cached + (size_t)at * 512, 1, at, &head), 0);
        memset(file->cached + (size_t)at * 512, 0, (size_t)head.sectors * 512);
        struct err err;
        int rc = world_open(world, &err);
        assert_int_equal(rc, is_last ? 0 : ERR_CORRUPT);
        if (is_last) {
            assert_int_equal(find_start(world, 1)->raft.last_index, 30);
        }
        world_free(world);
    }
}

static void test_missing_segment(void **state)
{
    struct world *world = world_new(12);
    world->is_alone = true;
    world_start(world);
    add_groups(world);
    for (uint64_t i = 1; i < 1500; i += 10) {
        append(world, 1, i, 10, 1);
        fake_run(world->fake);
    }
    kill_process(world);
    struct fake_names all = world->fake->names;
    size_t refused = 0;
    char newest[64];
    newest_segment(world, newest);
    for (size_t i = 0; i < all.count; i++) {
        const char *name = all.items[i].path;
        if (!strstr(name, ".log") || strcmp(name, newest) > 0) {
            continue; /* spares may go */
        }
        struct err err;
        world->fake->names = all;
        fake_settle(world->fake);
        fake_unname(world->fake, name);
        assert_int_equal(world_open(world, &err), ERR_CORRUPT);
        assert_non_null(strstr(err.text, "missing"));
        refused++;
    }
    assert_true(refused > 4);
    world->fake->names = all;
    world_start(world);
    check_all_recovered(world);
    world_free(world);
}

static void test_other_owner(void **state)
{
    struct world *world = world_new(13);
    struct log_config config = { .env = &world->fake->env,
                                 .logger = &world->logger,
                                 .directory = "data/log",
                                 .cluster_id = "another cluster",
                                 .node_id = 1,
                                 .segment_bytes = SEGMENT };
    struct err err;
    world_start(world);
    add_groups(world);
    append(world, 1, 1, 5, 1);
    fake_run(world->fake);
    kill_process(world);
    struct log *log = NULL;
    assert_int_equal(log_open(&config, &log, &err), ERR_CLUSTER_MISMATCH);
    assert_null(log);
    config.segment_bytes = 1000;
    assert_int_equal(log_open(&config, &log, &err), ERR_USAGE);
    world_free(world);
}

/* One copy of the votes is enough: the file may be lost or damaged; so may be the state records'
 * batch. */
static void test_votes_survive_in_either_place(void **state)
{
    for (int what = 0; what < 4; what++) {
        struct world *world = world_new(14);
        world_start(world);
        add_groups(world);
        append_state(world, 1, 5, 10);
        fake_run(world->fake);
        append_state(world, 1, 6, 30);
        fake_run(world->fake);
        kill_process(world);
        fake_settle(world->fake);
        struct env_file *votes = fake_find(world->fake, "data/log/votes");
        char name[64];
        struct env_file *segment = newest_segment(world, name);
        struct log_record_head head;
        switch (what) {
        case 0:
            fake_unname(world->fake, "data/log/votes");
            break;
        case 1:
            memset(votes->cached + 512, 0x55, 1024); /* both copies */
            break;
        case 2:
            votes->cached[100] ^= 1; /* the header */
            break;
        default: /* the last batch never reached the log */
            assert_int_equal(log_record_unpack_head(segment->cached + 512, 1, 1, &head), 0);
            memset(segment->cached + (size_t)(1 + head.sectors) * 512, 0, 4096);
        }
        world_start(world);
        assert_int_equal(find_start(world, 1)->raft.term, 6);
        assert_int_equal(find_start(world, 1)->raft.vote, 30);
        kill_process(world);
        fake_power_loss(world->fake, 2);
        world_start(world);
        assert_int_equal(find_start(world, 1)->raft.term, 6);
        assert_int_equal(find_start(world, 1)->raft.vote, 30);
        world_free(world);
    }
}

/* What only the page cache showed is durable once log_open returned. */
static void test_nothing_trusted_at_start(void **state)
{
    for (uint64_t seed = 1; seed <= 40; seed++) {
        struct world *world = world_new(seed);
        world_start(world);
        add_groups(world);
        fake_run(world->fake);
        append_state(world, 1, 3, 10);
        append(world, 1, 1, 8, 3);
        fake_run_tasks(world->fake);
        world->fake->skip_syncs = true; /* the write is in the page cache, then the process dies */
        fake_run_job(world->fake, ENV_JOB_LOG);
        kill_process(world);
        world->fake->skip_syncs = false;
        world_start(world);
        assert_int_equal(find_start(world, 1)->raft.last_index, 8);
        kill_process(world);
        fake_power_loss(world->fake, seed % 4);
        world_start(world);
        assert_int_equal(find_start(world, 1)->raft.last_index, 8);
        assert_int_equal(find_start(world, 1)->raft.vote, 10);
        world_free(world);
    }
}

/* --- Crashes at random. */

static void random_step(struct world *world)
{
    struct fake_env *fake = world->fake;
    uint32_t group = 1 + (uint32_t)fake_below(fake, fake_below(fake, 4) ? 2 : GROUPS);
    struct model_group *model = &world->groups[group];
    if (fake_below(fake, 60) == 0 && !world->is_reset[group] && model->last + 120 < ENTRIES) {
        uint64_t base = model->terms[model->start - 1], last = model->terms[model->last];
        reset(world, group, model->start + 1 + fake_below(fake, model->last - model->start + 40),
              1 + base + fake_below(fake, last - base + 1));
        return;
    }
    switch (fake_below(fake, 16)) {
    case 0:
        append_state(world, group, model->term + 1 + fake_below(fake, 3),
                     10 * (1 + fake_below(fake, 3)));
        break;
    case 1: /* replace a suffix in a new term */
        if (model->last > model->start) {
            uint64_t first =
                model->last -
                fake_below(fake,
                           (model->last - model->start < 20 ? model->last - model->start : 20) + 1);
            uint64_t term = model->terms[model->last] + 1;
            append(world, group, first, 1 + (uint32_t)fake_below(fake, 10), term);
        }
        break;
    case 2:
        if (model->durable > model->start && group != 3) {
            cut(world, group, model->start + fake_below(fake, model->durable - model->start + 2));
        }
        break;
    case 3:
    case 4:
    case 5:
    case 6:
        fake_run_tasks(fake);
        fake_run_job(fake, ENV_JOB_LOG);
        break;
    case 7:
        fake_run_tasks(fake);
        fake_run_job(fake, ENV_JOB_READ);
        break;
    default:
        if (model->last + 80 < ENTRIES) {
            uint64_t term = model->terms[model->last] ? model->terms[model->last] : 1;
            append(world, group, model->last + 1, 1 + (uint32_t)fake_below(fake, 30), term);
        }
    }
}

/* Opens, with a crash at some file call now and then, until it succeeds. */
static void open_with_crashes(struct world *world)
{
    struct fake_env *fake = world->fake;
    for (int attempt = 0; fake_below(fake, 3) == 0 && attempt < 5; attempt++) {
        struct err err;
        fake->fault = FAKE_CRASH;
        fake->fault_at = fake->calls + 1 + fake_below(fake, 25);
        int rc = world_open(world, &err);
        if (rc < 0) {
            if (rc != ERR_IO) {
                print_error("open: %s\n", err.text);
            }
            assert_int_equal(rc, ERR_IO);
        } else {
            log_abandon(world->log);
        }
        if (fake_below(fake, 2)) {
            fake_power_loss(fake, (int)fake_below(fake, 4));
        } else {
            fake_kill(fake);
        }
    }
    world_start(world);
}

static int resets, resets_undone; /* by all runs */

static bool crash_run(uint64_t seed, bool skip_syncs)
{
    struct world *world = world_new(seed);
    struct fake_env *fake = world->fake;
    bool is_caught = false;
    world->cache_bytes = 1 + fake_below(fake, 3) * 10000;
    world_start(world);
    add_groups(world);
    fake->skip_syncs = skip_syncs;
    for (int life = 0; life < 12 && !is_caught; life++) {
        if (fake_below(fake, 3)) {
            fake->fault = FAKE_CRASH;
            fake->fault_at = fake->calls + 1 + fake_below(fake, 120);
        }
        for (int i = 0; i < 400 && world->failures == 0; i++) {
            random_step(world);
        }
        kill_process(world);
        if (fake_below(fake, 4)) {
            fake_power_loss(fake, (int)fake_below(fake, 4));
        }
        if (skip_syncs) {
            struct err err;
            uint64_t promised = world->groups[1].durable + world->groups[2].durable;
            if (world_open(world, &err) < 0) {
                is_caught = true;
                break;
            }
            const struct log_group_start *one = find_start(world, 1), *two = find_start(world, 2);
            is_caught =
                (one ? one->raft.last_index : 0) + (two ? two->raft.last_index : 0) < promised;
            break;
        }
        open_with_crashes(world);
        check_all_recovered(world);
        /* Make room: the model's arrays are finite. */
        for (uint32_t group = 1; group <= GROUPS; group++) {
            if (world->groups[group].last > ENTRIES / 2) {
                life = 12;
            }
        }
    }
    resets += world->resets;
    resets_undone += world->resets_undone;
    world_free(world);
    return is_caught;
}

static void test_crashes(void **state)
{
    const char *seeds = getenv("LOG_SEEDS");
    uint64_t first = 1, count = seeds ? strtoull(seeds, NULL, 10) : 2 * ROUNDS;
    const char *only = getenv("LOG_SEED");
    if (only) {
        first = strtoull(only, NULL, 10);
        count = 1;
    }
    for (uint64_t seed = first; seed < first + count; seed++) {
        if (seeds || only) {
            print_message("seed %llu\n", (unsigned long long)seed);
        }
        crash_run(seed, false);
    }
    print_message("# %d resets, %d undone by a crash\n", resets, resets_undone);
    assert_true(count < ROUNDS || (resets > 100 && resets_undone > 10));
}

/* The same with syncs that do nothing must fail, or the test above shows nothing. */
static void test_missing_sync_is_caught(void **state)
{
    int caught = 0;
    for (uint64_t seed = 1; seed <= 40; seed++) {
        caught += crash_run(seed, true);
    }
    assert_true(caught > 10);
}

/* --- Damage that peers can heal. */

static void damage_sector(struct fake_env *fake, struct env_file *file, uint64_t sector)
{
    uint8_t *at = file->cached + sector * 512;
    switch (fake_below(fake, 4)) {
    case 0:
        for (int i = 0; i < 512; i++) {
            at[i] = (uint8_t)fake_below(fake, 256);
        }
        break;
    case 1: /* a misdirected write; zeroes in the last batch would be a torn tail */
        memcpy(at, file->cached + fake_below(fake, file->size / 512) * 512, 512);
        at[300] |= 1;
        break;
    default:
        at[fake_below(fake, 512)] ^= (uint8_t)(1 << fake_below(fake, 8));
    }
}

static uint64_t used_sectors(const struct env_file *file, const char *name)
{
    uint64_t number = strtoull(name + strlen("data/log/"), NULL, 16), used = 1;
    for (uint32_t i = 1; i < file->size / 512; i++) {
        if (log_record_sector_of(file->cached + (size_t)i * 512, number, i) !=
            LOG_RECORD_SECTOR_OLD) {
            used = i + 1;
        }
    }
    return used;
}

/* That the newest file of all is gone nobody can know. */
static bool has_newer(const struct fake_env *fake, const char *path)
{
    bool has = false;
    for (size_t i = 0; i < fake->names.count; i++) {
        const char *other = fake->names.items[i].path;
        has |= strstr(other, ".log") && strcmp(other, path) > 0;
    }
    return has;
}

/* Not one batch can be read any more, in one segment or in several, with the segments' own headers
 * or without, or the only one looks torn: that is no empty log. Every group is suspect, durably,
 * and its vote is not forgotten. A log that nobody could heal is refused. */
static void test_all_headers_lost(void **state)
{
    for (int what = 0; what < 5; what++) {
        struct world *world = world_new(15);
        struct fake_env *fake = world->fake;
        world_start(world);
        add_groups(world);
        append_state(world, 1, 6, 30);
        fake_run(fake);
        for (uint64_t i = 1; what % 2 && i < 500; i += 10) {
            append(world, 2, i, 10, 1);
            fake_run(fake);
        }
        kill_process(world);
        fake_settle(fake);
        for (size_t i = 0; i < fake->names.count; i++) {
            const struct fake_name *item = &fake->names.items[i];
            bool is_log = strstr(item->path, ".log") != NULL;
            uint64_t used = is_log ? used_sectors(item->file, item->path) : 0;
            for (uint64_t sector = what == 2 || what == 3 ? 0 : 1; used > 1 && sector < used;
                 sector++) {
                memset(item->file->cached + sector * 512, what == 4 ? 0 : 0x55, 512);
            }
        }
        struct err err;
        world->is_alone = true;
        assert_int_equal(world_open(world, &err), ERR_CORRUPT);
        world->is_alone = false;
        for (int start = 0; start < 3; start++) {
            world_start(world);
            for (uint32_t group = 1; group <= GROUPS; group++) {
                assert_non_null(find_start(world, group));
                assert_true(find_start(world, group)->raft.is_suspect);
            }
            assert_int_equal(find_start(world, 1)->raft.term, 6);
            assert_int_equal(find_start(world, 1)->raft.vote, 30);
            kill_process(world);
            fake_power_loss(fake, start);
        }
        world_free(world);
    }
}

/* The header of another segment is written over this one's: valid, but not its own. */
static bool misdirect_header(struct fake_env *fake, struct env_file *file)
{
    const struct fake_name *other = &fake->names.items[fake_below(fake, fake->names.count)];
    if (other->file == file || !strstr(other->path, ".log")) {
        return false;
    }
    memcpy(file->cached, other->file->cached, 512);
    return true;
}

/* Some sectors of some segments, or a whole segment, get damaged; says what, for a failure's text.
 */
static void damage_some(struct world *world, char *what)
{
    struct fake_env *fake = world->fake;
    size_t count = 1 + fake_below(fake, fake_below(fake, 3) ? 1 : 4);
    for (size_t i = 0; i < count;) {
        const struct fake_name *item = &fake->names.items[fake_below(fake, fake->names.count)];
        if (!strstr(item->path, ".log")) {
            continue;
        }
        uint64_t used = used_sectors(item->file, item->path);
        uint64_t sector = fake_below(fake, 20) ? fake_below(fake, used) : 0;
        if (fake_below(fake, 40) == 0 && has_newer(fake, item->path)) {
            what += sprintf(what, " -%s", item->path);
            fake_unname(fake, item->path);
            return;
        }
        what += sprintf(what, " %s:%llu", item->path, (unsigned long long)sector);
        if (sector != 0 || fake_below(fake, 2) || !misdirect_header(fake, item->file)) {
            damage_sector(fake, item->file, sector);
        }
        i++;
    }
}

/* Whatever was damaged: a payload is the one that was written or a hole; a group that is not
 * suspect has every durable entry, by its header; a suspect one has a log that once stood there.
 * Fills the holes. */
static void check_damaged(struct world *world, uint32_t group, uint64_t *holes, uint64_t *suspects)
{
    struct model_group *model = &world->groups[group];
    const struct log_group_start *start = find_start(world, group);
    assert_non_null(start);
    const struct raft_start *raft = &start->raft;
    if (world->is_reset[group] && raft->log_start < model->start && !raft->is_suspect) {
        undo_reset(world, group);
    }
    world->is_reset[group] = false;
    *suspects += raft->is_suspect;
    if (!raft->is_suspect) {
        assert_true(raft->last_index >= model->durable);
        assert_true(raft->log_start <= model->start);
    }
    assert_true(raft->term >= model->term_durable);
    if (raft->term == model->term_durable && model->vote_durable) {
        assert_int_equal(raft->vote, model->vote_durable);
    }
    uint64_t before = raft->start_term;
    for (uint64_t i = raft->log_start; i <= raft->last_index; i++) {
        struct blob *payload;
        uint32_t count;
        struct err err;
        uint64_t term = run_term(raft, i);
        assert_true(model->pairs[i] >> (before % 8 * 8 + term % 8) & 1);
        if (!raft->is_suspect && i <= model->durable && i >= model->start) {
            assert_int_equal(term, model->terms[i]);
        }
        before = term;
        int rc = log_read_now(world->log, group, i, 1, 1 << 20, &payload, &count, &err);
        if (rc == 0) {
            check_payload(group, i, term, payload);
            blob_unref(payload);
            assert_int_not_equal(log_first_hole(world->log, group, i), i);
        } else {
            assert_int_equal(rc, ERR_CORRUPT);
            ++*holes;
            assert_int_equal(log_first_unfilled(world->log, group, i), i);
            struct blob *wrong = payload_of(group, i, term + 1),
                        *right = payload_of(group, i, term);
            assert_false(log_fill(world->log, group, i, term, blob_span(wrong)) && wrong->size > 0);
            assert_true(log_fill(world->log, group, i, term, blob_span(right)) || right->size == 0);
            assert_false(log_fill(world->log, group, i, term, blob_span(right)));
            assert_int_not_equal(log_first_unfilled(world->log, group, i), i);
            blob_unref(wrong);
            blob_unref(right);
        }
    }
}

static void damage_run(uint64_t seed, uint64_t *holes, uint64_t *suspects, uint64_t *harmless)
{
    struct world *world = world_new(seed);
    struct fake_env *fake = world->fake;
    char what[1024] = { 0 };
    struct err err;
    world_start(world);
    add_groups(world);
    for (uint64_t i = 0, steps = 20 + fake_below(fake, 400); i < steps; i++) {
        random_step(world);
    }
    if (fake_below(fake, 2)) {
        reopen(world); /* the newest segment is a recovery's */
        check_all_recovered(world);
        for (int i = 0; i < 30; i++) {
            random_step(world);
        }
    }
    kill_process(world);
    fake_settle(fake);
    damage_some(world, what);
    if (getenv("LOG_LINES")) {
        print_message("# damaged%s\n", what);
    }
    int rc = world_open(world, &err);
    if (rc < 0) {
        print_error("seed %llu:%s: %s\n", (unsigned long long)seed, what, err.text);
    }
    assert_int_equal(rc, 0);
    uint64_t before = *holes + *suspects;
    bool was_suspect[GROUPS + 1] = { 0 };
    for (uint32_t group = 1; group <= GROUPS; group++) {
        if (!find_start(world, group)) { /* it never was durable */
            if (world->is_reset[group]) {
                undo_reset(world, group);
            }
            assert_int_equal(world->groups[group].durable, 0);
            log_group_add(world->log, group, group * 10, 1, 0);
            continue;
        }
        check_damaged(world, group, holes, suspects);
        was_suspect[group] = find_start(world, group)->raft.is_suspect;
    }
    *harmless += *holes + *suspects == before;
    fake_run(fake);
    /* Suspicion outlives a restart, what was filled stays filled. */
    uint64_t again = 0, ignored = 0;
    kill_process(world);
    fake_power_loss(fake, 2);
    world_start(world);
    for (uint32_t group = 1; group <= GROUPS; group++) {
        if (find_start(world, group)) {
            check_damaged(world, group, &again, &ignored);
            assert_true(!was_suspect[group] || find_start(world, group)->raft.is_suspect);
        }
    }
    assert_int_equal(again, 0);
    /* Healed, and the damaged segments emptied: nothing of it is left. */
    for (uint32_t group = 1; group <= GROUPS; group++) {
        const struct log_group_start *start = find_start(world, group);
        if (start && start->raft.is_suspect) {
            log_append_healed(world->log, group, start->raft.term + 1, 20);
        }
    }
    for (int i = 0; i < 400; i++) {
        log_append_state(world->log, 1, find_start(world, 1)->raft.term + 2 + (uint64_t)i, 0);
        fake_run(fake);
    }
    kill_process(world);
    world_start(world);
    for (uint32_t group = 1; group <= GROUPS; group++) {
        assert_false(find_start(world, group)->raft.is_suspect);
        assert_int_equal(log_first_hole(world->log, group, 0), 0);
    }
    world_free(world);
}

static void test_damage_is_told_exactly(void **state)
{
    const char *seeds = getenv("LOG_DAMAGE_SEEDS"), *only = getenv("LOG_DAMAGE_SEED");
    uint64_t first = 1, count = seeds ? strtoull(seeds, NULL, 10) : ROUNDS;
    uint64_t holes = 0, suspects = 0, harmless = 0;
    if (only) {
        first = strtoull(only, NULL, 10);
        count = 1;
    }
    for (uint64_t seed = first; seed < first + count; seed++) {
        if (seeds || only) {
            print_message("seed %llu\n", (unsigned long long)seed);
        }
        damage_run(seed, &holes, &suspects, &harmless);
    }
    print_message("# %llu holes, %llu suspect groups, %llu of %llu runs without either\n",
                  (unsigned long long)holes, (unsigned long long)suspects,
                  (unsigned long long)harmless, (unsigned long long)count);
    assert_true(count < ROUNDS ||
                (holes > count / 4 && suspects > count / 20 && harmless > count / 20));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_append_and_restart),
        cmocka_unit_test(test_one_batch_in_flight_next_gathers),
        cmocka_unit_test(test_replace_in_flight),
        cmocka_unit_test(test_read_from_disk),
        cmocka_unit_test(test_cut_and_recycle),
        cmocka_unit_test(test_freed_files_are_kept),
        cmocka_unit_test(test_quiet_groups_are_moved),
        cmocka_unit_test(test_what_pins_much_is_moved_when_tight),
        cmocka_unit_test(test_latency_is_the_typical_one),
        cmocka_unit_test(test_cut_beyond_the_end),
        cmocka_unit_test(test_reset),
        cmocka_unit_test(test_failed_sync_stops),
        cmocka_unit_test(test_disk_full),
        cmocka_unit_test(test_cuts_pass_entries_without_room),
        cmocka_unit_test(test_what_is_replaced_stays_until_room_is_there),
        cmocka_unit_test(test_crashes_on_a_full_disk),
        cmocka_unit_test(test_flipped_bits_are_reported),
        cmocka_unit_test(test_lost_batch_in_the_middle),
        cmocka_unit_test(test_missing_segment),
        cmocka_unit_test(test_other_owner),
        cmocka_unit_test(test_votes_survive_in_either_place),
        cmocka_unit_test(test_nothing_trusted_at_start),
        cmocka_unit_test(test_crashes),
        cmocka_unit_test(test_all_headers_lost),
        cmocka_unit_test(test_damage_is_told_exactly),
        cmocka_unit_test(test_missing_sync_is_caught),
    };
    return cmocka_run_group_tests_name("log", tests, NULL, NULL);
}
