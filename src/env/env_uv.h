/* The production env: libuv, one loop per env, one helper thread per job class. */
#ifndef ENV_ENV_UV_H
#define ENV_ENV_UV_H

#include "env/env.h"

/* Makes an env with a loop of its own. Ignores SIGPIPE for the whole process. */
int env_uv_new(struct env **out, struct err *err);
/* Waits until the helper threads have done the work of all jobs that they were given, and ends them; `done` comes from env_uv_free.
 * To be called after env_uv_run returned and before the memory goes that a job's `work` refers to. */
void env_uv_join(struct env *env);
/* Releases everything, directory locks too; joins first where env_uv_join was not called. Jobs that were not told yet are told now
 * (one that they start is worked and told here as well): who abandoned a job in flight frees it there. Connections that are still open,
 * or whose close is still to be told, get their on_close. Tasks, timers and posted calls do not run any more. Only after
 * env_uv_run returned. */
void env_uv_free(struct env *env);
/* Runs the loop on the calling thread until env_uv_stop. */
void env_uv_run(struct env *env);
/* Ends env_uv_run after the current turn. Loop thread only. */
void env_uv_stop(struct env *env);
/* Runs fn(ctx) on the loop thread soon; the only call that any thread may make. */
void env_uv_post(struct env *env, void (*fn)(void *ctx), void *ctx);
/* Calls on_signal on the loop thread whenever the process gets the signal. Up to 8 signals per env. */
int env_uv_signal(struct env *env, int signal_number, void (*on_signal)(void *ctx, int signal_number), void *ctx,
                  struct err *err);
/* The port that a listener got ("127.0.0.1:41234"), valid while it is open. */
const char *env_uv_listener_address(struct env_listener *listener);

#endif
