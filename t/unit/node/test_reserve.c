/* Shows when the reserve is made, given back and made again, and who may write meanwhile: on a fake
 * disk whose free room the test sets. Jobs run when the test says so. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "node/reserve.h"

#define MB (1ull << 20)
enum { SEGMENT_MB = 32, RESERVE_MB = 64 };

struct disk {
    struct env env;
    uint64_t now_us, room, reserve, store;
    bool has_reserve, is_broken;
    struct env_job *job;
    struct logger logger;
};

/* Either file; the reserve is the one whose path ends so. */
struct env_file {
    struct disk *disk;
    uint64_t *size;
};

static uint64_t disk_now(struct env *env)
{
    return ((struct disk *)env)->now_us;
}

static int disk_open(struct env *env, const char *path, int flags, struct env_file **out,
                     struct err *err)
{
    struct disk *disk = (struct disk *)env;
    bool is_reserve = strcmp(path, "data/reserve") == 0;
    assert_true(is_reserve || strcmp(path, "data/store/data.mdb") == 0);
    if (is_reserve && !disk->has_reserve && !(flags & ENV_FILE_CREATE)) {
        return ERR_NOT_FOUND;
    }
    disk->has_reserve |= is_reserve;
    *out = MEM_NEW(struct env_file);
    **out = (struct env_file){ disk, is_reserve ? &disk->reserve : &disk->store };
    return 0;
}

static int disk_size(struct env_file *file, uint64_t *out, struct err *err)
{
    *out = *file->size;
    return 0;
}

static int disk_resize(struct env_file *file, uint64_t size, struct err *err)
{
    uint64_t more = size - *file->size;
    if (more > file->disk->room) {
        return err_set(err, ERR_DISK_FULL, "full");
    }
    file->disk->room -= more;
    *file->size = size;
    return 0;
}

static int disk_sync(struct env_file *file, struct err *err)
{
    return 0;
}

static void disk_close(struct env_file *file)
{
    mem_free(file);
}

static int disk_remove(struct env *env, const char *path, struct err *err)
{
    struct disk *disk = (struct disk *)env;
    if (!disk->has_reserve) {
        return ERR_NOT_FOUND;
    }
    disk->room += disk->reserve;
    disk->reserve = 0;
    disk->has_reserve = false;
    return 0;
}

static int disk_room(struct env *env, const char *path, uint64_t *out, struct err *err)
{
    struct disk *disk = (struct disk *)env;
    *out = disk->room;
    return disk->is_broken ? ERR_IO : 0;
}

static void disk_job(struct env *env, enum env_job_class class, struct env_job *job)
{
    struct disk *disk = (struct disk *)env;
    assert_null(disk->job);
    disk->job = job;
}

static const struct env_ops ops = {
    .now_us = disk_now,
    .file_open = disk_open,
    .file_size = disk_size,
    .file_resize = disk_resize,
    .file_sync = disk_sync,
    .file_close = disk_close,
    .file_remove = disk_remove,
    .dir_room = disk_room,
    .job_start = disk_job,
};

static void quiet(void *ctx, enum logger_level level, const char *line)
{
}

static struct reserve *open_on(struct disk *disk)
{
    disk->env.ops = &ops;
    disk->logger.write = quiet;
    struct reserve_config config = { .env = &disk->env,
                                     .logger = &disk->logger,
                                     .directory = "data",
                                     .bytes = RESERVE_MB * MB,
                                     .segment_bytes = SEGMENT_MB * MB };
    return reserve_open(&config);
}

/* A second passes; what the tick starts is done. */
static void tick(struct disk *disk, struct reserve *reserve, uint64_t unflushed, uint64_t used,
                 bool is_short)
{
    disk->now_us += 1000000;
    reserve_tick(reserve, unflushed, used, is_short);
    if (disk->job) {
        struct env_job *job = disk->job;
        disk->job = NULL;
        job->work(job);
        job->done(job);
    }
}

static void it_is_made_and_given_back_and_made_again(void **state)
{
    struct disk disk = { .now_us = 1, .room = 10000 * MB };
    struct reserve *reserve = open_on(&disk);
    assert_int_equal(reserve_admit(reserve, 1000), 0); /* before it is made, too */
    tick(&disk, reserve, 0, 0, false);
    assert_int_equal(disk.reserve, RESERVE_MB * MB);

    disk.room = 0;
    tick(&disk, reserve, MB, 0, true);
    assert_true(reserve_is_spent(reserve));
    assert_true(reserve_is_tight(reserve));
    assert_int_equal(disk.room, RESERVE_MB * MB);
    assert_int_equal(reserve_admit(reserve, 1), ERR_DISK_FULL);
    assert_true(reserve_wants_flush(reserve));

    /* Nobody is short any more, but writes come back only with room for as much as before. */
    disk.room = (RESERVE_MB + SEGMENT_MB) * MB - 1;
    tick(&disk, reserve, 0, 0, false);
    tick(&disk, reserve, 0, 0, false);
    assert_true(reserve_is_spent(reserve));
    assert_false(disk.has_reserve);
    disk.room++;
    tick(&disk, reserve, 0, 0, false); /* sees it */
    tick(&disk, reserve, 0, 0, false); /* makes it */
    assert_false(reserve_is_spent(reserve));
    assert_int_equal(disk.reserve, RESERVE_MB * MB);
    assert_int_equal(reserve_admit(reserve, 1), ERR_DISK_FULL); /* the log's next segment */
    assert_true(reserve_is_tight(reserve));                     /* for longer: for what can wait */
    disk.room = (RESERVE_MB + 2 * SEGMENT_MB) * MB - 1;
    tick(&disk, reserve, 0, 0, false);
    assert_true(reserve_is_tight(reserve));
    disk.room = 2000 * MB;
    tick(&disk, reserve, 0, 0, false);
    assert_false(reserve_is_tight(reserve));
    assert_int_equal(reserve_admit(reserve, 1), 0);
    reserve_close(reserve);
}

static void a_small_disk_has_a_small_reserve_that_grows(void **state)
{
    struct disk disk = { .now_us = 1, .room = 48 * MB - 1 };
    struct reserve *reserve = open_on(&disk);
    tick(&disk, reserve, 0, 0, false);
    assert_false(disk.has_reserve); /* a quarter and a segment don't fit */
    disk.room++;
    tick(&disk, reserve, 0, 0, false);
    tick(&disk, reserve, 0, 0, false);
    assert_int_equal(disk.reserve, RESERVE_MB / 4 * MB);
    disk.room = 5000 * MB;
    tick(&disk, reserve, 0, 0, false);
    tick(&disk, reserve, 0, 0, false);
    assert_int_equal(disk.reserve, RESERVE_MB * MB);
    reserve_close(reserve);
}

static void writes_are_refused_while_what_was_admitted_can_be_flushed(void **state)
{
    struct disk disk = { .now_us = 1, .room = (SEGMENT_MB + 90 + RESERVE_MB / 4) * MB };
    struct reserve *reserve = open_on(&disk);
    tick(&disk, reserve, 0, 0, false);
    tick(&disk, reserve, 0, 0, false);
    uint64_t admitted = 0;
    while (reserve_admit(reserve, MB) == 0) {
        admitted += MB;
    }
    assert_int_equal(admitted, 30 * MB); /* twice in the store, once in the log */
    assert_true(reserve_wants_flush(reserve));
    assert_false(reserve_is_spent(reserve));
    tick(&disk, reserve, admitted, 0, false); /* in memory now, and the log took nothing */
    assert_int_equal(reserve_admit(reserve, 10 * MB), 0);
    assert_int_equal(reserve_admit(reserve, 10 * MB), ERR_DISK_FULL);

    /* Flushed: the disk has it now, which the next look shows; before that, it is counted as taken.
     */
    reserve_flushed(reserve);
    disk.room -= 60 * MB;
    reserve_tick(reserve, 0, 0, false);
    assert_int_equal(reserve_admit(reserve, 40 * MB), ERR_DISK_FULL);
    assert_null(disk.job); /* not before a tenth of a second passed */
    tick(&disk, reserve, 0, 0, false);
    assert_int_equal(reserve_admit(reserve, 8 * MB), 0);
    assert_int_equal(reserve_admit(reserve, 8 * MB), ERR_DISK_FULL);
    reserve_close(reserve);
}

static void what_deletes_free_in_the_store_is_room(void **state)
{
    struct disk disk = { .now_us = 1, .room = 1000 * MB, .store = 800 * MB };
    struct reserve *reserve = open_on(&disk);
    tick(&disk, reserve, 0, 800 * MB, false);
    disk.room = SEGMENT_MB * MB;
    tick(&disk, reserve, 0, 800 * MB, false);
    assert_int_equal(reserve_admit(reserve, 1000), ERR_DISK_FULL);
    tick(&disk, reserve, 0, 700 * MB, false);
    assert_int_equal(reserve_admit(reserve, 1000), 0);
    reserve_close(reserve);
}

static void a_full_disk_at_start(void **state)
{
    struct disk disk = { .now_us = 1, .room = 0, .has_reserve = true, .reserve = RESERVE_MB * MB };
    struct reserve *reserve = open_on(&disk);
    assert_true(reserve_is_spent(reserve)); /* the log can be opened with it */
    assert_int_equal(disk.room, RESERVE_MB * MB);
    reserve_close(reserve);
}

static void a_disk_that_tells_nothing_has_room(void **state)
{
    struct disk disk = { .now_us = 1, .room = 100 * MB, .is_broken = true };
    struct reserve *reserve = open_on(&disk);
    tick(&disk, reserve, 1000 * MB, 0, false);
    assert_int_equal(disk.reserve, RESERVE_MB * MB);
    assert_int_equal(reserve_admit(reserve, 1000 * MB), 0);
    tick(&disk, reserve, 0, 0, true); /* until something fails */
    assert_int_equal(reserve_admit(reserve, 1), ERR_DISK_FULL);
    tick(&disk, reserve, 0, 0, false);
    assert_int_equal(reserve_admit(reserve, 1), 0);
    reserve_close(reserve);
}

static void closing_leaves_a_job_alone(void **state)
{
    struct disk disk = { .now_us = 1, .room = 10000 * MB };
    struct reserve *reserve = open_on(&disk);
    disk.now_us += 1000000;
    reserve_tick(reserve, 0, 0, false);
    reserve_close(reserve);
    assert_non_null(disk.job);
    disk.job->work(disk.job);
    disk.job->done(disk.job);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_is_made_and_given_back_and_made_again),
        cmocka_unit_test(a_small_disk_has_a_small_reserve_that_grows),
        cmocka_unit_test(writes_are_refused_while_what_was_admitted_can_be_flushed),
        cmocka_unit_test(what_deletes_free_in_the_store_is_room),
        cmocka_unit_test(a_full_disk_at_start),
        cmocka_unit_test(a_disk_that_tells_nothing_has_room),
        cmocka_unit_test(closing_leaves_a_job_alone),
    };
    return cmocka_run_group_tests_name("reserve", tests, NULL, NULL);
}
