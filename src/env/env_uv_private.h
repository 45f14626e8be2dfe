/* What the files of the production env share (env_uv.c says how it works); for nobody else. */
#ifndef ENV_ENV_UV_PRIVATE_H
#define ENV_ENV_UV_PRIVATE_H

#include <netdb.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <time.h>
#include <uv.h>

#include "env/env_uv.h"

enum {
    ENV_READ_BYTES = 256 << 10, /* one read buffer per env: the bytes are consumed inside on_data */
    ENV_SIGNALS = 8,
    ENV_PEER_BYTES = 64,
};

struct env_uv;

/* One job class: a queue and the thread that works it. A semaphore rather than a condition: behind a
 * wait for one, glibc takes the mutex as if others waited for it, and its unlock is a system call. */
struct worker {
    struct env_uv *env;
    uv_thread_t thread;
    uv_mutex_t mutex;
    uv_sem_t posted;     /* one for each job, and one for the end */
    struct list jobs;    /* under mutex */
    bool is_to_be_batch; /* as the loop was when the last job came; under mutex */
    bool is_batch;       /* the thread has SCHED_BATCH; its own */
    bool is_running;     /* the thread exists; loop thread only */
    const char *name;
};

/* How busy the loop is, and how the system schedules it for that (I5). */
struct load {
    bool may_batch;    /* its policy was the usual one, so that it may be changed */
    bool is_batch;     /* it has SCHED_BATCH */
    uint64_t since_ms; /* of the loop, when it was looked at last */
    uint64_t cpu_us;   /* what the loop's thread had taken of a processor then */
};

struct timer_entry {
    uint64_t due_us;
    uint64_t order;
    struct env_timer *timer;
};

struct signal_watch {
    uv_signal_t handle;
    void (*on_signal)(void *ctx, int signal_number);
    void *ctx;
};

/* A directory that is locked until the env goes. */
struct dir_lock {
    struct list link;
    int fd;
};

struct env_uv {
    struct env base;
    uv_loop_t loop;
    uv_prepare_t prepare;
    uv_check_t check;
    uv_poll_t wake;
    int wake_fd;
    uv_timer_t clock;
    uint64_t clock_ms; /* what the clock is armed for, loop time; 0: not armed */

    struct list tasks;
    struct timer_entry *timers;
    size_t timers_count, timers_capacity;
    uint64_t timers_order;

    struct worker workers[ENV_JOB_CLASSES];
    struct env_job trim;   /* see memory_trim */
    size_t trim_class;     /* whose thread trims its arena; ENV_JOB_CLASSES: none does */
    uv_mutex_t mutex;      /* guards the next three */
    struct list jobs_done; /* worked, to be told */
    struct list posts;
    bool is_waiting; /* the loop waits, or will before it looks at them again: wake it */
    bool is_joined;

    struct list conns, listeners, locks;
    uv_buf_t *scratch; /* a write's parts as libuv wants them */
    size_t scratch_capacity;
    struct signal_watch signals[ENV_SIGNALS];
    size_t signals_count;
    uint8_t *read_bytes;
    struct load load;
};

struct env_listener {
    struct list link;
    struct env_uv *env;
    uv_tcp_t tcp;
    void (*on_accept)(void *ctx, struct env_conn *conn);
    void *ctx;
    char address[ENV_PEER_BYTES];
};

/*   resolving ──► connecting ──► open ──► closing ──► closed    resolve_done, connect_next, connect_done, env_uv_conn_begin_close,
 *   accepted ─────────────────────↗                             conn_closed; listener_ready
 *
 * While connecting, a handle that failed is closed and made anew for the next address of the name (is_retrying). */
enum conn_state { CONN_RESOLVING, CONN_CONNECTING, CONN_OPEN, CONN_CLOSING, CONN_CLOSED };

struct env_conn {
    struct list link;
    struct env_uv *env;
    uv_tcp_t tcp;
    uv_connect_t connect;
    uv_write_t write;
    uv_getaddrinfo_t resolve;
    struct addrinfo *addresses, *next_address; /* of a host name */
    const struct env_conn_events *events;      /* NULL: not attached */
    void *ctx;
    struct env_task written; /* tells on_written after a write that went out at once */
    enum conn_state state;
    bool is_resolving, is_retrying, is_paused, is_writing;
    int status; /* for on_close */
    char peer[ENV_PEER_BYTES];
};

/* --- env_uv.c */

/* As env.h says. */
void env_uv_defer(struct env *env, struct env_task *task);
/* What the system's clock shows. */
uint64_t env_uv_clock_us(clockid_t clock);

/* --- env_uv_load.c: how the threads are scheduled; loop thread but the last */

/* Begins to look at how busy the loop is; looks, once in a while; ends it, with the usual policy. */
void env_uv_load_begin(struct env_uv *env);
void env_uv_load_look(struct env_uv *env);
void env_uv_load_end(struct env_uv *env);
/* Gives the calling worker the policy that its last job came with. */
void env_uv_load_follow(struct worker *worker, bool is_batch);

/* --- env_uv_files.c: files and folders, as env.h says */

int env_uv_file_open(struct env *env, const char *path, int flags, struct env_file **out,
                     struct err *err);
int env_uv_file_read(struct env_file *file, uint64_t offset, void *out, size_t size, size_t *got,
                     struct err *err);
/* All of it, or it fails. */
int env_uv_file_write(struct env_file *file, uint64_t offset, const void *data, size_t size,
                      struct err *err);
/* A failure is final. */
int env_uv_file_sync(struct env_file *file, struct err *err);
int env_uv_file_size(struct env_file *file, uint64_t *out, struct err *err);
int env_uv_file_resize(struct env_file *file, uint64_t size, struct err *err);
void env_uv_file_close(struct env_file *file);
int env_uv_file_rename(struct env *env, const char *from, const char *to, struct err *err);
int env_uv_file_remove(struct env *env, const char *path, struct err *err);
int env_uv_dir_make(struct env *env, const char *path, struct err *err);
int env_uv_dir_sync(struct env *env, const char *path, struct err *err);
int env_uv_dir_room(struct env *env, const char *path, uint64_t *out, struct err *err);
int env_uv_dir_list(struct env *env, const char *path, void (*each)(void *ctx, const char *name),
                    void *ctx, struct err *err);
int env_uv_dir_lock(struct env *env, const char *path, struct err *err);

/* --- env_uv_net.c: TCP, as env.h says */

/* Closes it; on_close comes with the status. */
void env_uv_conn_begin_close(struct env_conn *conn, int status);
void env_uv_listener_close(struct env_listener *listener);
int env_uv_listen(struct env *base, const char *address,
                  void (*on_accept)(void *ctx, struct env_conn *conn), void *ctx,
                  struct env_listener **out, struct err *err);
int env_uv_connect(struct env *base, const char *address, const struct env_conn_events *events,
                   void *ctx, struct env_conn **out, struct err *err);
void env_uv_conn_attach(struct env_conn *conn, const struct env_conn_events *events, void *ctx);
int env_uv_conn_write(struct env_conn *conn, const struct span *parts, size_t count);
void env_uv_conn_pause(struct env_conn *conn, bool paused);
const char *env_uv_conn_peer(struct env_conn *conn);
void env_uv_conn_close(struct env_conn *conn);

static inline struct env_uv *env_uv_of(struct env *env)
{
    return (struct env_uv *)env;
}

#endif
