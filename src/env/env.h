/* The one door to the outside world: clock, random, timers, threads, files, network.
 *
 * Two implementations: env_uv.c (production: libuv) and t/sim/env_sim.c (virtual time, faults by seed). All other code
 * under src/ but the client's sockets reaches the world only through this header.
 *
 * One env serves one node. All calls and callbacks happen on the env's loop thread, except the file calls, which block
 * and are made inside a job's `work` (or before the loop runs), and env_now_us.
 *
 * A loop turn: the env delivers events (timers, network, job results), then runs what was deferred, in order, until
 * nothing is deferred any more; then it waits again. Callbacks never run inside the call that asked for them.
 */
#ifndef ENV_ENV_H
#define ENV_ENV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/list.h"
#include "base/mem.h"

struct env;
struct env_conn;     /* a byte stream, opaque, the env's memory */
struct env_listener; /* opaque */
struct env_file;     /* opaque */

/* --- Deferred work: runs once at the end of the current loop turn. Embed it; zeroed is idle. */
struct env_task {
    struct list link;
    void (*run)(struct env_task *task);
};

/* --- Timers, one-shot. Embed it; zeroed is idle. */
struct env_timer {
    void (*fire)(struct env_timer *timer);
    uint64_t due_us; /* monotonic; 0 when idle */
    void *impl[6];   /* the env's */
};

/* --- Jobs: `work` on a helper thread, then `done` on the loop. A job sees only what was handed to it and nobody changes.
 * Jobs of one class run one after another, in order, on that class's own thread; classes run beside each other. */
enum env_job_class { ENV_JOB_LOG, ENV_JOB_FLUSH, ENV_JOB_READ, ENV_JOB_CLASSES };
struct env_job {
    struct list link; /* the env's until done */
    void (*work)(struct env_job *job);
    void (*done)(struct env_job *job);
    void *impl[2];
};

/* --- Files. */
enum env_file_flags {
    ENV_FILE_READ = 1,
    ENV_FILE_WRITE = 2, /* read and write */
    ENV_FILE_CREATE = 4,
    ENV_FILE_EXCLUSIVE = 8, /* with CREATE: fail with ERR_EXISTS */
    /* With WRITE: writes whose memory begins at a multiple of ENV_FILE_DIRECT_ALIGN, and whose offset and size are multiples of
     * ENV_FILE_DIRECT_SECTOR, go straight to the disk where the file system can do that. For what is written once, synced at once and
     * seldom read: it saves a copy and the page cache's work, and writes no sectors around. Promises nothing: durable after
     * env_file_sync, as ever. */
    ENV_FILE_DIRECT = 16,
};
enum { ENV_FILE_DIRECT_ALIGN = 4096, ENV_FILE_DIRECT_SECTOR = 512 };

/* --- Network. What a connection tells its owner; on_close comes exactly once and is the last. */
struct env_conn_events {
    /* An outgoing connection stands. */
    void (*on_open)(void *ctx, struct env_conn *conn);
    /* Bytes arrived; valid during the call. */
    void (*on_data)(void *ctx, struct env_conn *conn, struct span data);
    /* The last env_conn_write is done and its memory is the caller's again. */
    void (*on_written)(void *ctx, struct env_conn *conn);
    /* Closed by the peer, by an error or by env_conn_close; status is 0 or ERR_…; conn is gone after the call. */
    void (*on_close)(void *ctx, struct env_conn *conn, int status);
};

struct env_ops {
    uint64_t (*now_us)(struct env *env);
    uint64_t (*wall_us)(struct env *env);
    void (*random)(struct env *env, void *out, size_t size);
    void (*defer)(struct env *env, struct env_task *task);
    void (*timer_start)(struct env *env, struct env_timer *timer, uint64_t delay_us);
    void (*timer_stop)(struct env *env, struct env_timer *timer);
    void (*job_start)(struct env *env, enum env_job_class class, struct env_job *job);
    void (*memory_trim)(struct env *env); /* NULL: there is nothing to give back */

    int (*file_open)(struct env *env, const char *path, int flags, struct env_file **out, struct err *err);
    int (*file_read)(struct env_file *file, uint64_t offset, void *out, size_t size, size_t *got, struct err *err);
    int (*file_write)(struct env_file *file, uint64_t offset, const void *data, size_t size, struct err *err);
    int (*file_sync)(struct env_file *file, struct err *err);
    int (*file_size)(struct env_file *file, uint64_t *out, struct err *err);
    int (*file_resize)(struct env_file *file, uint64_t size, struct err *err);
    void (*file_close)(struct env_file *file);
    int (*file_rename)(struct env *env, const char *from, const char *to, struct err *err);
    int (*file_remove)(struct env *env, const char *path, struct err *err);
    int (*dir_make)(struct env *env, const char *path, struct err *err);
    int (*dir_sync)(struct env *env, const char *path, struct err *err);
    int (*dir_list)(struct env *env, const char *path, void (*each)(void *ctx, const char *name), void *ctx,
                    struct err *err);
    int (*dir_lock)(struct env *env, const char *path, struct err *err);
    int (*dir_room)(struct env *env, const char *path, uint64_t *out, struct err *err); /* NULL: without limits */

    int (*listen)(struct env *env, const char *address, void (*on_accept)(void *ctx, struct env_conn *conn), void *ctx,
                  struct env_listener **out, struct err *err);
    void (*listener_close)(struct env_listener *listener);
    int (*connect)(struct env *env, const char *address, const struct env_conn_events *events, void *ctx,
                   struct env_conn **out, struct err *err);
    void (*conn_attach)(struct env_conn *conn, const struct env_conn_events *events, void *ctx);
    int (*conn_write)(struct env_conn *conn, const struct span *parts, size_t count);
    void (*conn_pause)(struct env_conn *conn, bool paused);
    const char *(*conn_peer)(struct env_conn *conn);
    void (*conn_close)(struct env_conn *conn);
};

/* Implementations embed this as their first member. */
struct env {
    const struct env_ops *ops;
    struct mem_gates *gates; /* NULL, but where allocations are refused on purpose */
};

/* For allocations that may fail, of the process that this env serves. NULL as a rule. */
static inline struct mem_gate *env_gate(struct env *env, enum mem_kind kind)
{
    return env->gates ? &env->gates->of[kind] : NULL;
}

/* Monotonic time in µs; never 0. Any thread. */
static inline uint64_t env_now_us(struct env *env) { return env->ops->now_us(env); }
/* Wall clock in µs since 1970; may jump. Only for the hybrid logical clock and for people. */
static inline uint64_t env_wall_us(struct env *env) { return env->ops->wall_us(env); }
static inline void env_random(struct env *env, void *out, size_t size) { env->ops->random(env, out, size); }
static inline uint64_t env_random_u64(struct env *env)
{
    uint64_t value;
    env->ops->random(env, &value, sizeof value);
    return value;
}
/* Runs task->run at the end of this turn; does nothing when the task is already waiting. */
static inline void env_defer(struct env *env, struct env_task *task) { env->ops->defer(env, task); }
/* (Re)starts a timer whose `fire` is set. Fires once, never inside this call. */
static inline void env_timer_start(struct env *env, struct env_timer *timer, uint64_t delay_us)
{
    env->ops->timer_start(env, timer, delay_us);
}
/* Stops it; it does not fire afterwards. Idle timers are fine. Must be called before its memory goes. */
static inline void env_timer_stop(struct env *env, struct env_timer *timer) { env->ops->timer_stop(env, timer); }
static inline void env_job_start(struct env *env, enum env_job_class class, struct env_job *job)
{
    env->ops->job_start(env, class, job);
}

/* Gives the system back what was freed and the allocator keeps. Blocks, some milliseconds for each 100 MiB: for quiet moments. */
static inline void env_memory_trim(struct env *env)
{
    if (env->ops->memory_trim) {
        env->ops->memory_trim(env);
    }
}

/* Files: block; 0 or ERR_IO, ERR_NOT_FOUND, ERR_EXISTS, ERR_DISK_FULL, with text. Paths as the operating system's. */
static inline int env_file_open(struct env *env, const char *path, int flags, struct env_file **out, struct err *err)
{
    return env->ops->file_open(env, path, flags, out, err);
}
/* Reads up to size bytes; *got is smaller only at the end of the file. */
static inline int env_file_read(struct env *env, struct env_file *file, uint64_t offset, void *out, size_t size,
                                size_t *got, struct err *err)
{
    return env->ops->file_read(file, offset, out, size, got, err);
}
/* The first place at or behind `memory`, within ENV_FILE_DIRECT_ALIGN bytes, where a direct write may begin. */
static inline uint8_t *env_direct_align(uint8_t *memory)
{
    uintptr_t rest = (uintptr_t)memory % ENV_FILE_DIRECT_ALIGN;
    return rest ? memory + (ENV_FILE_DIRECT_ALIGN - rest) : memory;
}
/* Writes all or fails. Not durable before env_file_sync. */
static inline int env_file_write(struct env *env, struct env_file *file, uint64_t offset, const void *data, size_t size,
                                 struct err *err)
{
    return env->ops->file_write(file, offset, data, size, err);
}
/* fdatasync. After a failure nothing is known of the file: the caller stops the node, it never tries again. */
static inline int env_file_sync(struct env *env, struct env_file *file, struct err *err)
{
    return env->ops->file_sync(file, err);
}
static inline int env_file_size(struct env *env, struct env_file *file, uint64_t *out, struct err *err)
{
    return env->ops->file_size(file, out, err);
}
/* Grows (with zeroes, blocks allocated) or cuts. */
static inline int env_file_resize(struct env *env, struct env_file *file, uint64_t size, struct err *err)
{
    return env->ops->file_resize(file, size, err);
}
static inline void env_file_close(struct env *env, struct env_file *file) { env->ops->file_close(file); }
static inline int env_file_rename(struct env *env, const char *from, const char *to, struct err *err)
{
    return env->ops->file_rename(env, from, to, err);
}
static inline int env_file_remove(struct env *env, const char *path, struct err *err)
{
    return env->ops->file_remove(env, path, err);
}
/* Makes a directory and its missing parents, 0700; an existing one is fine. */
static inline int env_dir_make(struct env *env, const char *path, struct err *err)
{
    return env->ops->dir_make(env, path, err);
}
/* Makes creations, renames and removals in the directory durable. */
static inline int env_dir_sync(struct env *env, const char *path, struct err *err)
{
    return env->ops->dir_sync(env, path, err);
}
/* Names in byte order, without "." and "..". */
static inline int env_dir_list(struct env *env, const char *path, void (*each)(void *ctx, const char *name), void *ctx,
                               struct err *err)
{
    return env->ops->dir_list(env, path, each, ctx, err);
}
/* An exclusive lock on a directory, held until the process ends; ERR_BUSY when another process (or env) holds it. */
static inline int env_dir_lock(struct env *env, const char *path, struct err *err)
{
    return env->ops->dir_lock(env, path, err);
}
/* Bytes that may still be written on the file system of a directory. */
static inline int env_dir_room(struct env *env, const char *path, uint64_t *out, struct err *err)
{
    *out = UINT64_MAX;
    return env->ops->dir_room ? env->ops->dir_room(env, path, out, err) : 0;
}

/* Addresses are "HOST:PORT", "[V6]:PORT"; port 0 listens on a free one. */
static inline int env_listen(struct env *env, const char *address, void (*on_accept)(void *ctx, struct env_conn *conn),
                             void *ctx, struct env_listener **out, struct err *err)
{
    return env->ops->listen(env, address, on_accept, ctx, out, err);
}
static inline void env_listener_close(struct env *env, struct env_listener *listener)
{
    env->ops->listener_close(listener);
}
/* Begins to connect: on_open, or on_close with the reason (ERR_CONNECT). Nagle's algorithm is off. */
static inline int env_connect(struct env *env, const char *address, const struct env_conn_events *events, void *ctx,
                              struct env_conn **out, struct err *err)
{
    return env->ops->connect(env, address, events, ctx, out, err);
}
/* Gives an accepted connection its owner; to be called inside on_accept. */
static inline void env_conn_attach(struct env *env, struct env_conn *conn, const struct env_conn_events *events, void *ctx)
{
    env->ops->conn_attach(conn, events, ctx);
}
/* Sends the parts in order. One write at a time: the next only after on_written. The parts' bytes (not the array) must
 * stay until then, or until on_close. 0, or ERR_CLOSED. */
static inline int env_conn_write(struct env *env, struct env_conn *conn, const struct span *parts, size_t count)
{
    return env->ops->conn_write(conn, parts, count);
}
/* Stops or resumes on_data. */
static inline void env_conn_pause(struct env *env, struct env_conn *conn, bool paused)
{
    env->ops->conn_pause(conn, paused);
}
/* "127.0.0.1:45678", for log lines; valid while the connection is. */
static inline const char *env_conn_peer(struct env *env, struct env_conn *conn) { return env->ops->conn_peer(conn); }
/* Closes at once; on_close follows in a later event, no other callback does. */
static inline void env_conn_close(struct env *env, struct env_conn *conn) { env->ops->conn_close(conn); }

#endif
