/* See rot.h. The record is found by two draws: a replica's database (store/store_private.h names
 * them "r…"), then a place in it. LMDB shows its bytes in its map; one of them is changed in the
 * file, and the map, which is shared, shows that at once, as a disk's next read would. */
#include "sim/rot.h"

#include <fcntl.h>
#include <lmdb.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/check.h"
#include "base/mem.h"
#include "store/store_private.h"

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

static MDB_val draw_record(MDB_txn *txn, MDB_dbi dbi, struct random *random)
{
    MDB_stat stat;
    MDB_cursor *cursor;
    MDB_val key, value;
    CHECK(mdb_stat(txn, dbi, &stat) == 0 && mdb_cursor_open(txn, dbi, &cursor) == 0);
    for (uint64_t left = random_below(random, stat.ms_entries) + 1; left > 0; left--) {
        CHECK(mdb_cursor_get(cursor, &key, &value, MDB_NEXT) == 0);
    }
    mdb_cursor_close(cursor);
    return value;
}

/* Where in the file those bytes lie: each of LMDB's pages begins with its number. */
static uint64_t find_offset(MDB_env *env, const void *data)
{
    MDB_stat stat;
    CHECK(mdb_env_stat(env, &stat) == 0);
    const uint8_t *at = data, *page = at - (uintptr_t)at % stat.ms_psize;
    return get_u64(page) * stat.ms_psize + (uint64_t)(at - page);
}

static void flip_byte(const char *path, uint64_t offset, uint8_t byte)
{
    char *file = mem_printf("%s/data.mdb", path);
    int fd = open(file, O_RDWR);
    uint8_t before;
    CHECK(fd >= 0 && pread(fd, &before, 1, (off_t)offset) == 1 && before != byte);
    CHECK(pwrite(fd, &byte, 1, (off_t)offset) == 1);
    close(fd);
    mem_free(file);
}

static bool flip_record(MDB_env *env, const char *path, struct random *random)
{
    MDB_txn *txn;
    MDB_dbi dbi;
    CHECK(mdb_txn_begin(env, NULL, MDB_RDONLY, &txn) == 0);
    bool is_found = draw_database(txn, random, &dbi);
    if (is_found) {
        MDB_val value = draw_record(txn, dbi, random);
        size_t at = random_below(random, value.mv_size);
        flip_byte(path, find_offset(env, value.mv_data) + at,
                  ((const uint8_t *)value.mv_data)[at] ^ (uint8_t)(1u << random_below(random, 8)));
    }
    mdb_txn_abort(txn);
    return is_found;
}

bool rot_flip_record(const struct store *store, const char *path, struct random *random)
{
    return flip_record(store->env, path, random);
}

bool rot_flip_closed_record(const char *path, struct random *random)
{
    MDB_env *env;
    CHECK(mdb_env_create(&env) == 0);
    mdb_env_set_maxdbs(env, DATABASES_MAX);
    mdb_env_set_mapsize(env, MAP_BYTES);
    bool is_flipped =
        mdb_env_open(env, path, MDB_NOSYNC, 0600) == 0 && flip_record(env, path, random);
    mdb_env_close(env);
    return is_flipped;
}
