/* See rot.h. The record is found by two draws: a replica's database (store/store_private.h names
 * them "r…"), then a place in it. */
#include "sim/rot.h"

#include <lmdb.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/mem.h"

enum { MAP_BYTES = 64 << 20, DATABASES_MAX = 256, NAME_BYTES = 128 };

static bool is_replica(const MDB_val *name)
{
    return name->mv_size > 1 && name->mv_size < NAME_BYTES &&
           ((const char *)name->mv_data)[0] == 'r';
}

/* Draws a database that holds records; false: there is none. */
static bool draw_database(MDB_txn *txn, struct random *random, MDB_dbi *out)
{
    MDB_dbi all, found;
    MDB_cursor *cursor;
    MDB_val key, value;
    uint64_t seen = 0;
    CHECK(mdb_dbi_open(txn, NULL, 0, &all) == 0 && mdb_cursor_open(txn, all, &cursor) == 0);
    while (mdb_cursor_get(cursor, &key, &value, MDB_NEXT) == 0) {
        char name[NAME_BYTES] = "";
        MDB_stat stat;
        if (!is_replica(&key)) {
            continue;
        }
        memcpy(name, key.mv_data, key.mv_size);
        if (mdb_dbi_open(txn, name, 0, &found) == 0 && mdb_stat(txn, found, &stat) == 0 &&
            stat.ms_entries > 0 && random_one_in(random, ++seen)) {
            *out = found;
        }
    }
    mdb_cursor_close(cursor);
    return seen > 0;
}

static void flip_in(MDB_txn *txn, MDB_dbi dbi, struct random *random)
{
    MDB_stat stat;
    MDB_cursor *cursor;
    MDB_val key, value;
    CHECK(mdb_stat(txn, dbi, &stat) == 0 && mdb_cursor_open(txn, dbi, &cursor) == 0);
    for (uint64_t left = random_below(random, stat.ms_entries) + 1; left > 0; left--) {
        CHECK(mdb_cursor_get(cursor, &key, &value, MDB_NEXT) == 0);
    }
    uint8_t *copy = mem_dup(value.mv_data, value.mv_size);
    copy[random_below(random, value.mv_size)] ^= (uint8_t)(1u << random_below(random, 8));
    value.mv_data = copy;
    CHECK(mdb_cursor_put(cursor, &key, &value, MDB_CURRENT) == 0);
    mem_free(copy);
    mdb_cursor_close(cursor);
}

bool rot_flip_record(const char *path, struct random *random)
{
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi dbi;
    bool is_flipped = false;
    CHECK(mdb_env_create(&env) == 0);
    mdb_env_set_maxdbs(env, DATABASES_MAX);
    mdb_env_set_mapsize(env, MAP_BYTES);
    if (mdb_env_open(env, path, MDB_NOSYNC, 0600) == 0 && mdb_txn_begin(env, NULL, 0, &txn) == 0) {
        if (draw_database(txn, random, &dbi)) {
            flip_in(txn, dbi, random);
            is_flipped = true;
        }
        CHECK(mdb_txn_commit(txn) == 0);
    }
    mdb_env_close(env);
    return is_flipped;
}
