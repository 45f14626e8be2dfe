/* Damage: what is done when something that LMDB holds isn't what was written.
 *
 *   what                                   becomes
 *   a record's checksum, seen by a reader  replica damaged; readers of that record get ERR_CORRUPT
 *   the same, needed by apply              replica damaged and stopped: the next state isn't known
 *   LMDB fails in a replica's database     replica damaged and stopped
 *   meta record, key count, sessions,      replica opens damaged and stopped
 *     when it is opened
 *   identity, LMDB's file, free list,      the store is condemned: it can't be opened again, the node
 *     session or meta database             moves it aside (store_set_aside) and begins an empty one
 *
 * The others of the store go on in all cases but the last. A stopped replica reads, applies and
 * flushes nothing: its overlay would be lost at the next flush, and what its readers saw then would
 * be older than what they saw before. An image makes it whole. */
#include "store/store_private.h"

#include "base/check.h"
#include "base/logger.h"

/* A file in the store's folder: its being there says that the store is condemned. */
#define MARKER "condemned"

static void tell_damage(struct env_task *task)
{
    struct store *store = container_of(task, struct store, damage_task);
    LIST_FOR(link, &store->replicas)
    {
        struct store_replica *replica = container_of(link, struct store_replica, link);
        if (replica->is_damaged && !replica->is_told) {
            replica->is_told = true;
            store->config.on_damaged(store->config.ctx, replica);
        }
    }
}

void store_damage_init(struct store *store)
{
    store->damage_task.run = tell_damage;
}

void store_damage(struct store_replica *replica, bool is_stopped, const char *text)
{
    struct store *store = replica->store;
    if (!replica->is_damaged || (is_stopped && !replica->is_stopped)) {
        LOG_ERROR(store->logger, "store: replica %s group=%u replica=%llx: %s",
                  is_stopped ? "stopped" : "damaged", replica->group,
                  (unsigned long long)replica->id, text);
    }
    store->stats.damages += !replica->is_damaged;
    replica->is_damaged = true;
    replica->is_stopped |= is_stopped;
    if (is_stopped && !store->flush) {
        replica->frozen_applied = replica->flushed; /* no flush waits for its log */
    }
    if (!replica->is_told && store->config.on_damaged) {
        env_defer(store->config.env, &store->damage_task);
    }
}

void store_replica_mark_damaged(struct store_replica *replica, const char *why)
{
    store_damage(replica, false, why);
}

bool store_replica_is_damaged(const struct store_replica *replica)
{
    return replica->is_damaged;
}

bool store_replica_is_stopped(const struct store_replica *replica)
{
    return replica->is_stopped;
}

int store_refuse_stopped(const struct store_replica *replica, struct err *err)
{
    return replica->is_stopped
               ? err_set(err, ERR_CORRUPT, "the replica is damaged and waits for an image")
               : 0;
}

bool store_is_damage(int code)
{
    return code == ERR_CORRUPT || code == ERR_FORMAT;
}

/* --- The whole store */

void store_condemn(struct store *store, const struct err *why)
{
    struct err err;
    struct env *env = store->config.env;
    char *path = mem_printf("%s/" MARKER, store->config.directory);
    struct env_file *file;
    int rc = env_file_open(env, path, ENV_FILE_WRITE | ENV_FILE_CREATE, &file, &err);
    if (rc == 0) {
        env_file_close(env, file);
        rc = env_dir_sync(env, store->config.directory, &err);
    }
    LOG_ERROR(store->logger, "store: condemned, begins anew at the next start: %s%s%s", why->text,
              rc == 0 ? "" : "; not marked: ", rc == 0 ? "" : err.text);
    mem_free(path);
}

static void find_marker(void *ctx, const char *name)
{
    *(bool *)ctx |= strcmp(name, MARKER) == 0;
}

int store_check_condemned(const struct store_config *config, struct err *err)
{
    bool is_condemned = false;
    int rc = env_dir_list(config->env, config->directory, find_marker, &is_condemned, err);
    if (rc != 0) {
        return rc;
    }
    return is_condemned ? err_set(err, ERR_CORRUPT, "%s: damaged", config->directory) : 0;
}

static void ignore_name(void *ctx, const char *name)
{
    (void)ctx, (void)name;
}

static int sync_parent(struct env *env, const char *directory, struct err *err)
{
    const char *slash = strrchr(directory, '/');
    char *parent =
        slash ? mem_printf("%.*s", (int)(slash - directory), directory) : mem_strdup(".");
    int rc = env_dir_sync(env, *parent ? parent : "/", err);
    mem_free(parent);
    return rc;
}

int store_set_aside(struct env *env, const char *directory, char **out, struct err *err)
{
    for (unsigned i = 1; i <= LIMIT_STORE_ASIDE; i++) {
        char *path = mem_printf("%s.damaged-%u", directory, i);
        struct err missing;
        if (env_dir_list(env, path, ignore_name, NULL, &missing) == ERR_NOT_FOUND) {
            int rc = env_file_rename(env, directory, path, err);
            rc = rc == 0 ? sync_parent(env, directory, err) : rc;
            if (rc == 0) {
                *out = path;
                return 0;
            }
            mem_free(path);
            return rc;
        }
        mem_free(path);
    }
    return err_set(err, ERR_CORRUPT,
                   "%s: damaged, and so were %d before, which still stand beside it: look at the "
                   "disk, then remove them",
                   directory, LIMIT_STORE_ASIDE);
}
