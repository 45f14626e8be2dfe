/* A store in a scratch folder on the fake env, with one replica and short words for commands. */
#ifndef T_UNIT_STORE_STORE_FIXTURE_H
#define T_UNIT_STORE_STORE_FIXTURE_H

#include "base/hlc.h"
#include "store/store.h"

#include "fake_env.h"

struct fixture {
    struct fake_env env;
    struct logger logger;
    struct store_config config;
    struct store *store;
    struct store_replica *replica;
    uint64_t time; /* of the last command */
    unsigned flushed, failed, damaged;
    int failure;
};

static inline void fixture_on_flushed(void *ctx)
{
    ((struct fixture *)ctx)->flushed++;
}

static inline void fixture_on_failure(void *ctx, const struct err *err)
{
    struct fixture *fixture = ctx;
    fixture->failed++;
    fixture->failure = err->code;
}

static inline void fixture_on_damaged(void *ctx, struct store_replica *replica)
{
    CHECK(store_replica_is_damaged(replica));
    ((struct fixture *)ctx)->damaged++;
}

static inline void fixture_init(struct fixture *fixture)
{
    *fixture = (struct fixture){ .time = hlc_from_us(1700000000000000) };
    fake_env_init(&fixture->env);
    fixture->logger = (struct logger){ .level = LOGGER_WARN, .write = fake_log };
    fixture->config = (struct store_config){ .env = &fixture->env.env,
                                             .logger = &fixture->logger,
                                             .directory = fake_make_directory(),
                                             .cluster_id = { 1, 2, 3 },
                                             .node_id = 7,
                                             .map_bytes = 256 << 20,
                                             .databases_max = 64,
                                             .no_sync = true,
                                             .on_failure = fixture_on_failure,
                                             .on_flushed = fixture_on_flushed,
                                             .on_damaged = fixture_on_damaged,
                                             .ctx = fixture };
}

static inline void fixture_open(struct fixture *fixture)
{
    struct err err = { 0 };
    int rc = store_open(&fixture->config, &fixture->store, &err);
    rc = rc == 0 ? store_replica_open(fixture->store, 1, 0xabc, 0, 0, 0, &fixture->replica, &err)
                 : rc;
    if (rc != 0) {
        printf("# %s\n", err.text);
    }
    CHECK(rc == 0);
}

static inline void fixture_close(struct fixture *fixture)
{
    store_close(fixture->store);
    fixture->store = NULL;
    while (fake_env_work(&fixture->env) || fake_env_finish(&fixture->env)) {
    }
}

static inline void fixture_fini(struct fixture *fixture)
{
    fixture_close(fixture);
    fake_remove_directory((char *)fixture->config.directory);
}

/* Applies a command as the next entry, with a time of its own unless it has one. Returns its
 * status. */
static inline struct store_result fixture_apply(struct fixture *fixture, struct command command)
{
    command.time = command.time ? command.time : ++fixture->time;
    fixture->time = command.time;
    struct blob *blob = command_pack(&command);
    struct store_result result;
    struct err err = { 0 };
    int rc = store_apply(fixture->replica, store_replica_applied(fixture->replica) + 1, blob,
                         &result, &err);
    if (rc != 0) {
        printf("# apply: %s\n", err.text);
        fflush(stdout);
    }
    CHECK(rc == 0);
    blob_unref(blob);
    return result;
}

static inline struct store_result fixture_put(struct fixture *fixture, const char *key,
                                              const char *value)
{
    return fixture_apply(fixture, (struct command){ .type = COMMAND_PUT,
                                                    .key = span_of_string(key),
                                                    .value = span_of_string(value) });
}

static inline struct store_result fixture_delete(struct fixture *fixture, const char *key)
{
    return fixture_apply(fixture,
                         (struct command){ .type = COMMAND_DELETE, .key = span_of_string(key) });
}

static inline void fixture_flush(struct fixture *fixture)
{
    store_turn_end(fixture->store);
    store_freeze(fixture->store);
    store_flush_start(fixture->store);
    fake_env_settle(&fixture->env);
    store_turn_end(fixture->store);
}

/* Changes one byte of every copy of `text` in the data file. */
static inline unsigned fixture_damage(struct fixture *fixture, const char *text)
{
    char path[128];
    snprintf(path, sizeof path, "%s/data.mdb", fixture->config.directory);
    int fd = open(path, O_RDWR);
    off_t size = lseek(fd, 0, SEEK_END);
    char *data = malloc((size_t)size), *at = data;
    CHECK(pread(fd, data, (size_t)size, 0) == size);
    unsigned count = 0;
    while ((at = memmem(at, (size_t)(data + size - at), text, strlen(text))) != NULL) {
        *at ^= 1;
        CHECK(pwrite(fd, at, 1, at - data) == 1);
        count++;
    }
    free(data);
    close(fd);
    return count;
}

static inline void fixture_on_scrubbed(void *ctx, int status, const struct err *err)
{
    (void)err;
    *(int *)ctx = status;
}

/* Scrubs the replica in steps of about so many bytes. */
static inline int fixture_scrub(struct fixture *fixture, size_t bytes_max)
{
    struct store_scrub *scrub;
    struct err err;
    int status = store_scrub_open(fixture->replica, &scrub, &err);
    if (status != 0) {
        return status;
    }
    while (status == 0 && !store_scrub_is_complete(scrub)) {
        store_scrub_step(scrub, bytes_max, fixture_on_scrubbed, &status);
        fake_env_settle(&fixture->env);
    }
    store_scrub_close(scrub);
    return status;
}

static inline void fixture_reopen(struct fixture *fixture)
{
    fixture_close(fixture);
    fixture_open(fixture);
}

#endif
