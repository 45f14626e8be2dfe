/* The store on the production env, with full syncs: flushes on their own thread while the loop
 * applies and reads; then everything is found again after a reopening. Run it under SAN=thread too.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/check.h"
#include "base/hash.h"
#include "base/hlc.h"
#include "env/env_uv.h"
#include "store/store.h"

/* What is frozen is too much for one transaction, not for two. */
enum { REPLICAS = 4, KEYS = 5000, TURNS = 300, TURN_COMMANDS = 200, FREEZE_OPERATIONS = 16000 };

struct load {
    struct env *env;
    struct logger logger;
    struct store_config config;
    struct store *store;
    struct store_replica *replicas[REPLICAS];
    uint64_t versions[REPLICAS][KEYS]; /* 0: absent */
    uint64_t time, random;
    struct env_timer turn;
    unsigned turns, flushes;
};

static void on_line(void *ctx, enum logger_level level, const char *line)
{
    print_error("%s\n", line);
}

static void on_failure(void *ctx, const struct err *err)
{
    print_error("%s\n", err->text);
    CHECK(!"a flush failed");
}

static void on_flushed(void *ctx)
{
    ((struct load *)ctx)->flushes++;
}

static struct span key_of(char *room, uint64_t number)
{
    return span_of(room, (size_t)snprintf(room, 32, "some/key/%06llu", (unsigned long long)number));
}

static void apply_one(struct load *load)
{
    uint64_t random = hash_u64(++load->random), replica = random % REPLICAS,
             number = (random >> 8) % KEYS;
    static uint8_t value[512];
    char room[32];
    struct command command = { .type = (random >> 32) % 8 ? COMMAND_PUT : COMMAND_DELETE,
                               .time = ++load->time,
                               .session = { 1, random >> 60 },
                               .number = load->random,
                               .lowest = load->random > 100 ? load->random - 100 : 1,
                               .key = key_of(room, number) };
    if (command.type == COMMAND_PUT) {
        put_u64(value, number);
        command.value = span_of(value, 8 + (random >> 40) % 500);
    }
    struct blob *blob = command_pack(&command);
    struct store_result result;
    uint64_t index = store_replica_applied(load->replicas[replica]) + 1;
    assert_int_equal(store_apply(load->replicas[replica], index, blob, &result, NULL), 0);
    assert_int_equal(result.status, 0);
    blob_unref(blob);
    load->versions[replica][number] = command.type == COMMAND_PUT ? index : 0;
}

static void check_one(struct load *load, uint64_t replica, uint64_t number)
{
    char room[32];
    struct record record;
    int rc = store_get(load->replicas[replica], key_of(room, number), &record, NULL);
    uint64_t version = load->versions[replica][number];
    assert_int_equal(rc, version ? 0 : ERR_NOT_FOUND);
    assert_true(!version || (record.version == version && get_u64(record.value.data) == number));
}

static void on_turn(struct env_timer *timer)
{
    struct load *load = container_of(timer, struct load, turn);
    if (load->turns == TURNS && !store_is_flushing(load->store)) {
        if (store_active_operations(load->store) == 0) {
            env_uv_stop(load->env);
            return;
        }
        store_freeze(load->store); /* all of the rest */
        store_flush_start(load->store);
    } else if (load->turns < TURNS) {
        load->turns++;
        for (int i = 0; i < TURN_COMMANDS; i++) {
            apply_one(load);
            uint64_t random = hash_u64(load->random ^ 0xabc);
            check_one(load, random % REPLICAS, (random >> 8) % KEYS);
        }
        if (store_active_operations(load->store) >= FREEZE_OPERATIONS &&
            !store_is_flushing(load->store)) {
            store_freeze(load->store);
            store_flush_start(load->store);
        }
    }
    store_turn_end(load->store);
    env_timer_start(load->env, &load->turn, 100);
}

static void open_all(struct load *load)
{
    assert_int_equal(store_open(&load->config, &load->store, NULL), 0);
    for (uint32_t i = 0; i < REPLICAS; i++) {
        assert_int_equal(
            store_replica_open(load->store, i + 1, 100 + i, 0, 0, 0, &load->replicas[i], NULL), 0);
    }
}

static void flushes_run_beside_the_loop(void **state)
{
    char directory[] = "/tmp/cairn-store-uv-XXXXXX", path[64];
    assert_non_null(mkdtemp(directory));
    struct load *load = calloc(1, sizeof *load);
    assert_int_equal(env_uv_new(&load->env, NULL), 0);
    load->logger = (struct logger){ .level = LOGGER_WARN, .write = on_line };
    load->config = (struct store_config){ .env = load->env,
                                          .logger = &load->logger,
                                          .directory = directory,
                                          .map_bytes = 1 << 30,
                                          .databases_max = 16,
                                          .on_failure = on_failure,
                                          .on_flushed = on_flushed,
                                          .ctx = load };
    load->time = hlc_from_us(1700000000000000);
    open_all(load);
    load->turn.fire = on_turn;
    env_timer_start(load->env, &load->turn, 1);
    env_uv_run(load->env);
    assert_true(load->flushes >= 2);
    uint64_t applied[REPLICAS];
    for (int i = 0; i < REPLICAS; i++) {
        applied[i] = store_replica_applied(load->replicas[i]);
        assert_int_equal(store_replica_flushed(load->replicas[i]), applied[i]);
    }
    store_close(load->store);
    open_all(load);
    for (uint64_t i = 0; i < REPLICAS; i++) {
        assert_int_equal(store_replica_applied(load->replicas[i]), applied[i]);
        for (uint64_t number = 0; number < KEYS; number++) {
            check_one(load, i, number);
        }
    }
    store_close(load->store);
    env_uv_join(load->env);
    env_uv_free(load->env);
    free(load);
    snprintf(path, sizeof path, "%s/data.mdb", directory);
    unlink(path);
    snprintf(path, sizeof path, "%s/lock.mdb", directory);
    unlink(path);
    rmdir(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(flushes_run_beside_the_loop) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
