/* A log on a fake disk, and a model that knows what was appended to it and what it has promised: what
 * is told durable is there after any crash. The tests append, cut and reset through the model;
 * check_recovered compares what a freshly opened log holds. Segments are small (64 KiB), so that
 * recycling and moving happen all the time. */
#ifndef LOG_SCRIPT_H
#define LOG_SCRIPT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "fake_env.h"
#include "raft/log.h"
#include "raft/log_record.h"

enum { GROUPS = 4, ENTRIES = 4096, SEGMENT = 64 << 10 };
enum { ROUNDS = 100 }; /* fewer need not meet everything that the random tests are for */

/* --- The model: what was appended and what was promised */

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

static inline void on_line(void *ctx, enum logger_level level, const char *line)
{
    struct world *world = ctx;
    snprintf(world->last_line, sizeof world->last_line, "%s", line);
    if (getenv("LOG_LINES")) {
        print_message("# %s\n", line);
    }
}

static inline void on_durable(void *ctx, uint32_t group, uint64_t index, uint64_t term)
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

static inline void on_state_durable(void *ctx, uint32_t group, uint64_t term, uint64_t vote)
{
    struct world *world = ctx;
    world->told_after_failure += world->failures > 0;
    world->groups[group].term_durable = term;
    world->groups[group].vote_durable = vote;
    world->state_tells++;
}

static inline void on_batch(void *ctx)
{
    ((struct world *)ctx)->batches++;
}

static inline void on_hole(void *ctx, uint32_t group)
{
    ((struct world *)ctx)->hole_tells++;
}

static inline void on_healed(void *ctx, uint32_t group)
{
    ((struct world *)ctx)->healed_tells++;
}

static inline void on_failure(void *ctx, const struct err *err)
{
    struct world *world = ctx;
    world->failures++;
    snprintf(world->failure, sizeof world->failure, "%s", err->text);
}

static inline int world_open(struct world *world, struct err *err)
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

static inline struct world *world_new(uint64_t seed)
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

static inline void world_start(struct world *world)
{
    struct err err;
    int rc = world_open(world, &err);
    if (rc < 0) {
        print_error("open: %s\n", err.text);
    }
    assert_int_equal(rc, 0);
}

static inline void world_free(struct world *world)
{
    if (world->log) {
        log_close(world->log);
        fake_run(world->fake);
    }
    fake_free(world->fake);
    free(world);
}

/* A payload that can be told from all others by (group, index, term). */
static inline struct blob *payload_of(uint32_t group, uint64_t index, uint64_t term)
{
    uint64_t hash = (group * 1000003 + index) * 1000003 + term;
    size_t size = hash % 23 == 0 ? 2000 + hash % 9000 : hash % 17 == 0 ? 0 : 20 + hash % 400;
    struct blob *blob = blob_new(size);
    for (size_t i = 0; i < size; i++) {
        blob->data[i] = (uint8_t)((hash + i) * 2654435761u >> 13);
    }
    return blob;
}

static inline void check_payload(uint32_t group, uint64_t index, uint64_t term,
                                 const struct blob *blob)
{
    struct blob *expected = payload_of(group, index, term);
    assert_non_null(blob);
    assert_int_equal(blob->size, expected->size);
    assert_memory_equal(blob->data, expected->data, blob->size);
    blob_unref(expected);
}

static inline void append(struct world *world, uint32_t group, uint64_t first, uint32_t count,
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

static inline void append_state(struct world *world, uint32_t group, uint64_t term, uint64_t vote)
{
    world->groups[group].term = term;
    world->groups[group].vote = vote;
    log_append_state(world->log, group, term, vote);
}

static inline void cut(struct world *world, uint32_t group, uint64_t start)
{
    struct model_group *model = &world->groups[group];
    if (start > model->start) {
        log_cut(world->log, group, start, model->terms[start - 1]);
        model->start = start;
    }
}

static inline void reset(struct world *world, uint32_t group, uint64_t start, uint64_t term)
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
static inline void undo_reset(struct world *world, uint32_t group)
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

static inline uint64_t run_term(const struct raft_start *start, uint64_t index)
{
    uint64_t term = 0;
    for (size_t i = 0; i < start->run_count && start->runs[i].first <= index; i++) {
        term = start->runs[i].term;
    }
    return term;
}

static inline const struct log_group_start *find_start(struct world *world, uint32_t group)
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
static inline void check_recovered(struct world *world, uint32_t group)
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

static inline void check_all_recovered(struct world *world)
{
    for (uint32_t group = 1; group <= GROUPS; group++) {
        check_recovered(world, group);
    }
}

static inline void add_groups(struct world *world)
{
    for (uint32_t group = 1; group <= GROUPS; group++) {
        log_group_add(world->log, group, group * 10, 1, 0);
    }
}

static inline void reopen(struct world *world)
{
    log_close(world->log);
    fake_run(world->fake);
    world_start(world);
}

/* The process dies: its log's memory goes, nothing more is written. */
static inline void kill_process(struct world *world)
{
    fake_kill(world->fake);
    log_abandon(world->log);
    world->log = NULL;
}

static inline struct env_file *newest_segment(struct world *world, char name[64])
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

static inline void random_step(struct world *world)
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

#endif
