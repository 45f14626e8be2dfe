/* The reserve: see reserve.h.
 *
 *            made, or no room for it yet
 *   READY ───────── log or store short ─────────▶ SPENT: the file is removed
 *     ▲                                             │
 *     └── nobody short, room for file and segment ──┘ the file is made
 *
 * Invariants
 *
 * I1  One job at a time; it alone touches the file. What it is to do is fixed when it starts.
 *
 * I2  Ordinary writes are refused while SPENT, and while the room beside a log segment is less than
 * twice what is in memory plus what was admitted since the disk was looked at. Twice, because a
 * value just above half a page takes a whole one, and because pages are copied. Admitted bytes
 * count once more for the log, until the next look shows what they took: recycled segments take
 * none.
 *
 * I3  Going from SPENT to READY takes room for as much as was given back, beside a segment: so it
 * can't be spent again before much was freed, and writes don't flap.
 *
 * Room is what the file system says, and what the store's file holds beyond what is in use: deletes
 * make that, so they bring writes back on a disk where nothing else changes. The reserve's own
 * blocks don't count.
 *
 * Does not work where allocated blocks are no promise (copy-on-write and compressing file systems):
 * then a full disk still refuses cleanly, but deletes may be refused too.
 *
 * Thread: the loop; reserve_work in a job. */
#include "node/reserve.h"

#include "base/check.h"
#include "base/err.h"
#include "base/mem.h"

enum {
    LOOK_US = 1000 * 1000,     /* the disk is looked at that often, */
    LOOK_SOON_US = 100 * 1000, /* and so often at most */
    SMALL_PART = 20, /* the reserve takes at most that part of what is free when it is made, */
    SMALLEST = 4,    /* but at least that part of what was asked for */
};

enum reserve_task { RESERVE_LOOK, RESERVE_MAKE, RESERVE_REMOVE };

/* Outlives its reserve if need be. */
struct reserve_job {
    struct env_job job;
    struct reserve *reserve; /* NULL: closed meanwhile */
    struct env *env;
    char *directory, *path, *store_path;
    enum reserve_task what;
    uint64_t bytes;                  /* MAKE */
    uint64_t room, file, store_file; /* found: free, the reserve's size, the store's */
    int status;
    struct err err;
};

struct reserve {
    struct reserve_config config;
    struct reserve_job *job;
    bool is_busy, is_spent;
    uint64_t file;            /* bytes of the reserve, as last seen */
    uint64_t given_back;      /* bytes of it when it was spent */
    uint64_t room;            /* free on the disk, as last seen */
    uint64_t store_file;      /* likewise */
    uint64_t unflushed, used; /* as of the last tick */
    uint64_t looked_us, look_at_us;
    uint64_t admitted;         /* since the tick */
    uint64_t admitted_looked;  /* since the last look began */
    uint64_t admitted_looking; /* of those, before the look under way */
};

static uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* --- The job */

static uint64_t file_bytes(struct env *env, const char *path)
{
    struct env_file *file;
    uint64_t size = 0;
    if (env_file_open(env, path, ENV_FILE_READ, &file, NULL) == 0) {
        if (env_file_size(env, file, &size, NULL) != 0) {
            size = 0;
        }
        env_file_close(env, file);
    }
    return size;
}

static int make_file(struct reserve_job *job)
{
    struct env_file *file;
    int status =
        env_file_open(job->env, job->path, ENV_FILE_WRITE | ENV_FILE_CREATE, &file, &job->err);
    if (status != 0) {
        return status;
    }
    status = env_file_resize(job->env, file, job->bytes, &job->err);
    if (status == 0) {
        status = env_file_sync(job->env, file, &job->err);
    }
    env_file_close(job->env, file);
    return status;
}

static void reserve_do(struct reserve_job *job)
{
    job->status = 0;
    if (job->what == RESERVE_REMOVE) {
        job->status = env_file_remove(job->env, job->path, &job->err);
    } else if (job->what == RESERVE_MAKE) {
        job->status = make_file(job);
    }
    job->file = file_bytes(job->env, job->path);
    job->store_file = file_bytes(job->env, job->store_path);
    if (env_dir_room(job->env, job->directory, &job->room, NULL) != 0) {
        job->room = UINT64_MAX;
    }
}

static void reserve_work(struct env_job *job)
{
    reserve_do(container_of(job, struct reserve_job, job));
}

static void job_free(struct reserve_job *job)
{
    mem_free(job->directory);
    mem_free(job->path);
    mem_free(job->store_path);
    mem_free(job);
}

/* --- What it found */

static void found(struct reserve *reserve, const struct reserve_job *job)
{
    reserve->file = job->file;
    reserve->room = job->room;
    reserve->store_file = job->store_file;
    reserve->looked_us = env_now_us(reserve->config.env);
    reserve->look_at_us = reserve->looked_us + LOOK_US;
    reserve->admitted_looked -= reserve->admitted_looking;
    reserve->admitted_looking = 0;
}

static void reserve_done(struct env_job *at)
{
    struct reserve_job *job = container_of(at, struct reserve_job, job);
    struct reserve *reserve = job->reserve;
    if (!reserve) {
        job_free(job);
        return;
    }
    reserve->is_busy = false;
    found(reserve, job);
    if (job->status != 0 && job->what == RESERVE_MAKE && job->status != ERR_DISK_FULL) {
        LOG_WARN(reserve->config.logger, "event=reserve_not_made text=\"%s\"", job->err.text);
    } else if (job->status == 0 && job->what == RESERVE_MAKE && reserve->is_spent) {
        reserve->is_spent = false;
        LOG_INFO(reserve->config.logger,
                 "event=reserve_made bytes=%lu room=%lu writes are admitted again", reserve->file,
                 reserve->room);
    } else if (job->what == RESERVE_REMOVE) {
        LOG_WARN(reserve->config.logger,
                 "event=reserve_spent room=%lu the disk is full: no room for writes, reads and "
                 "deletes go on",
                 reserve->room);
    }
}

static void start(struct reserve *reserve, enum reserve_task what, uint64_t bytes)
{
    CHECK(!reserve->is_busy); /* I1 */
    reserve->is_busy = true;
    reserve->admitted_looking = reserve->admitted_looked;
    reserve->job->what = what;
    reserve->job->bytes = bytes;
    reserve->job->err = (struct err){ 0 };
    reserve->job->job.work = reserve_work;
    reserve->job->job.done = reserve_done;
    env_job_start(reserve->config.env, ENV_JOB_READ, &reserve->job->job);
}

/* --- Open and close */

struct reserve *reserve_open(const struct reserve_config *config)
{
    struct reserve *reserve = MEM_NEW(struct reserve);
    struct reserve_job *job = MEM_NEW(struct reserve_job);
    reserve->config = *config;
    reserve->job = job;
    job->reserve = reserve;
    job->env = config->env;
    job->directory = mem_strdup(config->directory);
    job->path = mem_printf("%s/reserve", config->directory);
    job->store_path = mem_printf("%s/store/data.mdb", config->directory);
    job->what = RESERVE_LOOK;
    reserve_do(job);
    /* Opening may write what was not proven durable into a fresh segment, and makes spare ones. */
    if (job->file > 0 && job->room < 2 * config->segment_bytes) {
        job->what = RESERVE_REMOVE;
        reserve->given_back = job->file;
        reserve_do(job);
        reserve->is_spent = true;
        LOG_WARN(config->logger, "event=reserve_spent room=%lu the disk is nearly full", job->room);
    }
    found(reserve, job);
    reserve->look_at_us = 0; /* it is made with the first tick */
    return reserve;
}

void reserve_close(struct reserve *reserve)
{
    if (reserve->is_busy) {
        reserve->job->reserve = NULL;
    } else {
        job_free(reserve->job);
    }
    mem_free(reserve);
}

/* --- Asking */

/* Room for ordinary writes; the segment that the log may need is not among it. */
static uint64_t free_room(const struct reserve *reserve)
{
    uint64_t inside = reserve->store_file > reserve->used ? reserve->store_file - reserve->used : 0;
    uint64_t room = reserve->room;
    if (room > UINT64_MAX / 2) {
        return room;
    }
    room += inside - inside / 8; /* some pages come back only two transactions later */
    return room > reserve->config.segment_bytes ? room - reserve->config.segment_bytes : 0;
}

bool reserve_refuses(const struct reserve *reserve, uint64_t bytes)
{
    uint64_t in_memory = reserve->unflushed + reserve->admitted + bytes;
    return reserve->is_spent ||
           free_room(reserve) < 2 * in_memory + reserve->admitted_looked + bytes; /* I2 */
}

int reserve_admit(struct reserve *reserve, uint64_t bytes)
{
    if (reserve_refuses(reserve, bytes)) {
        if (reserve->look_at_us > reserve->looked_us + LOOK_SOON_US) {
            reserve->look_at_us = reserve->looked_us + LOOK_SOON_US;
        }
        return ERR_DISK_FULL;
    }
    reserve->admitted += bytes;
    reserve->admitted_looked += bytes;
    return 0;
}

bool reserve_wants_flush(const struct reserve *reserve)
{
    uint64_t in_memory = reserve->unflushed + reserve->admitted;
    return in_memory > 0 && (reserve->is_spent || free_room(reserve) < 4 * in_memory);
}

uint64_t reserve_room(const struct reserve *reserve)
{
    return reserve->room;
}

bool reserve_is_spent(const struct reserve *reserve)
{
    return reserve->is_spent;
}

bool reserve_is_tight(const struct reserve *reserve)
{
    return reserve->is_spent || reserve->room < reserve->file + 2 * reserve->config.segment_bytes;
}

/* --- Time */

/* What the reserve should hold with so much free: all that is wanted, less on a small disk. */
static uint64_t target(const struct reserve *reserve)
{
    uint64_t bytes = reserve->config.bytes,
             free = reserve->room + min_u64(reserve->file, UINT64_MAX / 2);
    uint64_t part = reserve->room > UINT64_MAX / 2 ? bytes : free / SMALL_PART;
    uint64_t scaled = min_u64(bytes, part);
    if (reserve->is_spent && reserve->given_back > 0) {
        return reserve->given_back; /* I3 */
    }
    return scaled > bytes / SMALLEST ? scaled : bytes / SMALLEST;
}

static bool is_room_for(const struct reserve *reserve, uint64_t bytes)
{
    uint64_t more = bytes - min_u64(bytes, reserve->file);
    return reserve->room > UINT64_MAX / 2 || reserve->room >= more + reserve->config.segment_bytes;
}

void reserve_tick(struct reserve *reserve, uint64_t unflushed, uint64_t store_used, bool is_short)
{
    reserve->unflushed = unflushed;
    reserve->used = store_used;
    reserve->admitted = 0;
    if (reserve->is_busy) {
        return;
    }
    uint64_t wanted = target(reserve);
    bool is_due = env_now_us(reserve->config.env) >= reserve->look_at_us;
    if (is_short && (!reserve->is_spent || reserve->file > 0)) {
        reserve->given_back = reserve->is_spent ? reserve->given_back : reserve->file;
        reserve->is_spent = true;
        start(reserve, RESERVE_REMOVE, 0);
    } else if (is_due && !is_short && is_room_for(reserve, wanted) &&
               (reserve->is_spent || reserve->file < wanted - wanted / 4)) {
        start(reserve, RESERVE_MAKE, wanted);
    } else if (is_due) {
        start(reserve, RESERVE_LOOK, 0);
    }
}

void reserve_flushed(struct reserve *reserve)
{
    /* What was in memory is on the disk now, and not seen there yet. */
    reserve->room -=
        min_u64(reserve->room > UINT64_MAX / 2 ? 0 : reserve->room, reserve->unflushed);
    reserve->look_at_us = reserve->looked_us + LOOK_SOON_US;
}
