/* Damage of a log that peers can heal: each lost payload is a hole, each group that may have lost
 * record headers is suspect, and nothing else is. LOG_DAMAGE_SEED=n runs one
 * seed, LOG_DAMAGE_SEEDS=n so many. */
#include "log_script.h"

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

/* With all groups, and a log that is open. */
static struct world *new_running(void)
{
    struct world *world = world_new(15);
    world_start(world);
    add_groups(world);
    return world;
}

/* Not one batch can be read any more, in one segment or in several, with the segments' own headers
 * or without, or the only one looks torn: that is no empty log. Every group is suspect, durably,
 * and its vote is not forgotten. A log that nobody could heal is refused. */
static void test_all_headers_lost(void **state)
{
    for (int what = 0; what < 5; what++) {
        struct world *world = new_running();
        struct fake_env *fake = world->fake;
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

/* The power fails in the middle of a vote's sector, wherever that is torn, and the log has rotted besides. The vote on its way was not promised
 * yet, the one before was: it is not forgotten, and the node starts. */
static void test_torn_vote_beside_lost_headers(void **state)
{
    for (size_t torn = 8; torn < LOG_RECORD_SECTOR; torn += 8) {
        struct world *world = new_running();
        struct fake_env *fake = world->fake;
        append_state(world, 1, 5, 10);
        fake_run(fake);
        append_state(world, 1, 6, 30);
        fake_run(fake);
        struct env_file *votes = fake_find(fake, "data/log/votes");
        uint8_t before[LOG_RECORD_SECTOR];
        struct log_record_vote vote;
        size_t at = LOG_RECORD_SECTOR; /* of the pair that has term 6, the older copy */
        while (log_record_unpack_vote(votes->cached + at, &vote) != 0 || vote.group != 1 ||
               vote.term == 6) {
            at += LOG_RECORD_SECTOR;
        }
        memcpy(before, votes->cached + at, sizeof before);
        append_state(world, 1, 7, 20);
        fake_run(fake);
        kill_process(world);
        fake_settle(fake);
        assert_memory_not_equal(before, votes->cached + at, sizeof before);
        memcpy(votes->cached + at + torn, before + torn, sizeof before - torn);
        for (size_t i = 0; i < fake->names.count; i++) {
            const struct fake_name *item = &fake->names.items[i];
            if (strstr(item->path, ".log")) {
                memset(item->file->cached + 512, 0x55,
                       512 * (used_sectors(item->file, item->path) - 1));
            }
        }
        world_start(world);
        assert_true(find_start(world, 1)->raft.is_suspect);
        uint64_t term = find_start(world, 1)->raft.term;
        assert_true(term == 6 || term == 7);
        assert_int_equal(find_start(world, 1)->raft.vote, term == 6 ? 30 : 20);
        kill_process(world);
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
        cmocka_unit_test(test_all_headers_lost),
        cmocka_unit_test(test_torn_vote_beside_lost_headers),
        cmocka_unit_test(test_damage_is_told_exactly),
    };
    return cmocka_run_group_tests_name("log_heal", tests, NULL, NULL);
}
