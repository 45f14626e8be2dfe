/* Pages of LMDB that are not what was written. Each attempt spoils some pages of a copy and lets a
 * child process open, scrub, read, walk and write: it must end, and never take a wrong value for a
 * right one. A child that LMDB itself brings down is counted: see docs/decisions/004-images.md.
 * `test_store_pages SEED [ATTEMPTS]` runs from another place. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <sys/wait.h>

#include "base/hash.h"

#include "store_fixture.h"

enum { KEYS = 4000, PAGE = 4096, FILE_MAX = 16 << 20, CHILD_SECONDS = 120 };

enum outcome { FINE, FOUND, REFUSED, WRONG, CRASHED, HUNG, OUTCOMES };
static const char *const outcome_names[] = { "not touched", "found",           "refused",
                                             "WRONG",       "crashed in LMDB", "HUNG" };

struct world {
    struct fixture fixture;
    uint8_t *file, *old; /* the data file, and what it was before the last flushes */
    size_t size, old_size;
    uint64_t random;
};

static uint64_t any(struct world *world, uint64_t below)
{
    return hash_u64(++world->random) % below;
}

static size_t make_value(unsigned i, char *out)
{
    size_t size = i % 50 == 0 ? 9000 : i % 7 * 30;
    memset(out, 'a' + i % 26, size);
    snprintf(out, 16, "%u", i);
    return size < 16 ? strlen(out) : size;
}

static void put(struct fixture *fixture, unsigned i, unsigned round)
{
    char key[32], value[10000];
    snprintf(key, sizeof key, "key-%u", i);
    size_t size = make_value(i * 3 + round, value);
    fixture_apply(fixture, (struct command){ .type = COMMAND_PUT,
                                             .key = span_of_string(key),
                                             .value = span_of(value, size),
                                             .session = { i % 100, 0 },
                                             .number = 1 + fixture->time,
                                             .lowest = 1 + fixture->time });
}

static size_t slurp(struct fixture *fixture, uint8_t *out)
{
    char path[128];
    snprintf(path, sizeof path, "%s/data.mdb", fixture->config.directory);
    int fd = open(path, O_RDONLY);
    ssize_t size = pread(fd, out, FILE_MAX, 0);
    assert_true(size > 0 && size < FILE_MAX);
    close(fd);
    return (size_t)size;
}

static void spill(struct fixture *fixture, const uint8_t *data, size_t size)
{
    char path[128];
    snprintf(path, sizeof path, "%s/data.mdb", fixture->config.directory);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    assert_int_equal(pwrite(fd, data, size, 0), size);
    close(fd);
}

/* Round 2 overwrote every key of round 1, and the last flush some of these. */
static unsigned round_of(unsigned i)
{
    return i % 3 == 0 ? 2 : 1;
}

static void build(struct world *world)
{
    struct fixture *fixture = &world->fixture;
    fixture_init(fixture);
    fixture_open(fixture);
    for (unsigned i = 0; i < KEYS; i++) {
        put(fixture, i, 1);
    }
    fixture_flush(fixture);
    world->file = malloc(FILE_MAX);
    world->old = malloc(FILE_MAX);
    world->old_size = slurp(fixture, world->old);
    for (unsigned i = 0; i < KEYS; i += 3) {
        put(fixture, i, 2);
    }
    fixture_flush(fixture);
    fixture_close(fixture);
    world->size = slurp(fixture, world->file);
}

/* What a disk may do to a page. */
static void spoil(struct world *world, uint8_t *data)
{
    uint64_t pages = world->size / PAGE, at = any(world, pages) * PAGE, count;
    switch (any(world, 6)) {
    case 0: /* rot */
        for (count = 1 + any(world, 3); count > 0; count--) {
            data[at + any(world, PAGE)] ^= (uint8_t)(1u << any(world, 8));
        }
        break;
    case 1: /* rot in the header and the offsets of nodes */
        data[at + any(world, 64)] = (uint8_t)any(world, 256);
        break;
    case 2: /* never written */
        memset(data + at, 0, PAGE);
        break;
    case 3: /* rubbish */
        for (unsigned i = 0; i < PAGE; i += 8) {
            put_u64(data + at + i, hash_u64(++world->random));
        }
        break;
    case 4: /* written to the wrong place */
        memcpy(data + at, world->file + any(world, pages) * PAGE, PAGE);
        break;
    default: /* a write that was lost */
        if (at + PAGE <= world->old_size) {
            memcpy(data + at, world->old + at, PAGE);
        }
        break;
    }
}

/* --- The child */

static int get_all(struct fixture *fixture, unsigned *missing, unsigned *stale)
{
    for (unsigned i = 0; i < KEYS; i++) {
        char key[32], value[10000];
        snprintf(key, sizeof key, "key-%u", i);
        struct record record;
        struct err err;
        int rc = store_get(fixture->replica, span_of_string(key), &record, &err);
        if (rc == ERR_NOT_FOUND) {
            ++*missing;
        } else if (rc == 0) {
            bool is_known = false;
            for (unsigned round = 1; round <= round_of(i); round++) {
                size_t size = make_value(i * 3 + round, value);
                bool is_it =
                    record.value.size == size && memcmp(record.value.data, value, size) == 0;
                is_known |= is_it;
                *stale += is_it && round < round_of(i);
            }
            if (!is_known) {
                return WRONG;
            }
        }
    }
    store_turn_end(fixture->store);
    return FINE;
}

static void walk_all(struct fixture *fixture)
{
    for (int reverse = 0; reverse < 2; reverse++) {
        struct store_cursor *cursor;
        struct span key;
        struct record record;
        if (store_cursor_open(fixture->replica, span_of(NULL, 0), span_of(NULL, 0), reverse,
                              &cursor, NULL) == 0) {
            for (unsigned i = 0;
                 i < 2 * KEYS && store_cursor_next(cursor, &key, &record, NULL) == 1; i++) {
            }
            store_cursor_close(cursor);
        }
    }
    store_turn_end(fixture->store);
}

static enum outcome live(struct world *world)
{
    struct fixture *fixture = &world->fixture;
    struct err err;
    if (store_open(&fixture->config, &fixture->store, &err) != 0 ||
        store_replica_open(fixture->store, 1, 0xabc, 0, 0, 0, &fixture->replica, &err) != 0) {
        return REFUSED;
    }
    int scrubbed =
        store_replica_is_stopped(fixture->replica) ? ERR_CORRUPT : fixture_scrub(fixture, 100000);
    unsigned missing = 0, stale = 0;
    enum outcome outcome = get_all(fixture, &missing, &stale);
    walk_all(fixture);
    if (outcome == WRONG || (scrubbed == 0 && (missing > 0 || stale > 0))) {
        return WRONG;
    }
    for (unsigned i = 0; i < KEYS && !store_replica_is_stopped(fixture->replica); i += 5) {
        put(fixture, i, 3);
    }
    fixture_flush(fixture);
    if (fixture->failed > 0) {
        return REFUSED;
    }
    return scrubbed == 0 && !store_replica_is_damaged(fixture->replica) ? FINE : FOUND;
}

static enum outcome attempt(struct world *world)
{
    uint8_t *data = malloc(world->size);
    memcpy(data, world->file, world->size);
    for (uint64_t count = 1 + any(world, 4); count > 0; count--) {
        spoil(world, data);
    }
    spill(&world->fixture, data, world->size);
    free(data);
    char condemned[128];
    snprintf(condemned, sizeof condemned, "%s/condemned", world->fixture.config.directory);
    unlink(condemned); /* by the attempt before */
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        const int signals[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT };
        for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++) {
            signal(signals[i], SIG_DFL); /* cmocka's handlers would go on in the parent's place */
        }
        alarm(CHILD_SECONDS);
        fclose(stderr); /* LMDB's last words */
        fclose(stdout);
        world->fixture.logger.level = -1;
        _exit((int)live(world));
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    if (WIFSIGNALED(status)) {
        return WTERMSIG(status) == SIGALRM ? HUNG : CRASHED;
    }
    int code = WEXITSTATUS(status); /* a sanitizer's or valgrind's own, perhaps */
    return code < OUTCOMES ? (enum outcome)code : CRASHED;
}

static uint64_t first_seed = 1, attempts = 80;

static void spoiled_pages_are_never_taken_for_good(void **state)
{
    (void)state;
    struct world world = { 0 };
    unsigned counts[OUTCOMES] = { 0 };
    build(&world);
    for (uint64_t i = 0; i < attempts; i++) {
        world.random = hash_u64(first_seed + i);
        enum outcome outcome = attempt(&world);
        counts[outcome]++;
        if (outcome >= WRONG) {
            printf("# seed %llu: %s\n", (unsigned long long)(first_seed + i),
                   outcome_names[outcome]);
        }
    }
    for (unsigned i = 0; i < OUTCOMES; i++) {
        printf("# %s: %u\n", outcome_names[i], counts[i]);
    }
    assert_int_equal(counts[WRONG] + counts[HUNG], 0);
    assert_true(counts[FOUND] > 0 && counts[FINE] > 0);
    fixture_fini(&world.fixture);
    free(world.file);
    free(world.old);
}

int main(int argc, char **argv)
{
    first_seed = argc > 1 ? strtoull(argv[1], NULL, 0) : first_seed;
    attempts = argc > 2 ? strtoull(argv[2], NULL, 0) : attempts;
    const struct CMUnitTest tests[] = { cmocka_unit_test(spoiled_pages_are_never_taken_for_good) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
