/* Makes a replica forget a record, so that nobody but its peers can tell: for tests of damage, on the store of a node that is down.
 *
 *   forget STORE KEY
 *
 * The record is removed in one transaction, and the replica's meta record (key count, digest) says what is left, as if the entry that
 * made it had never been applied. Exit 0: done; 1: no replica holds the key, or LMDB said no (which is printed). */
#include <lmdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store/store_private.h"

static void check(int rc, const char *what)
{
    if (rc != 0) {
        fprintf(stderr, "%s: %s\n", what, mdb_strerror(rc));
        exit(1);
    }
}

static void forget(MDB_txn *txn, MDB_dbi dbi, const struct store_name *name, MDB_val key)
{
    MDB_dbi meta_dbi;
    MDB_val value;
    struct store_meta meta;
    struct err err = { 0 };
    check(mdb_dbi_open(txn, "meta", 0, &meta_dbi), "meta");
    if (store_meta_read(txn, meta_dbi, name->group, name->replica, &meta, &err) != 0) {
        fprintf(stderr, "meta record: %s\n", err.text);
        exit(1);
    }
    check(mdb_get(txn, dbi, &key, &value), "the record");
    meta.keys--;
    meta.digest -= store_record_digest(span_of_val(key), span_of_val(value));
    check(mdb_del(txn, dbi, &key, NULL), "removing it");
    check(store_meta_write(txn, meta_dbi, name->group, name->replica, &meta), "writing meta");
}

/* Looks for the key in every replica's database. */
static int find_and_forget(MDB_txn *txn, MDB_val key)
{
    MDB_dbi names, dbi;
    MDB_cursor *cursor;
    MDB_val name, value;
    int found = 0;
    check(mdb_dbi_open(txn, NULL, 0, &names), "databases");
    check(mdb_cursor_open(txn, names, &cursor), "databases");
    while (!found && mdb_cursor_get(cursor, &name, &value, MDB_NEXT) == 0) {
        char text[STORE_NAME_BYTES] = "";
        struct store_name of;
        unsigned long long replica;
        memcpy(text, name.mv_data, name.mv_size < sizeof text ? name.mv_size : sizeof text - 1);
        if (sscanf(text, "r%u.%llx.%u", &of.group, &replica, &of.generation) != 3) {
            continue;
        }
        of.replica = replica;
        check(mdb_dbi_open(txn, text, 0, &dbi), text);
        if (mdb_get(txn, dbi, &key, &value) == 0) {
            forget(txn, dbi, &of, key);
            found = 1;
        }
    }
    mdb_cursor_close(cursor);
    return found;
}

int main(int argc, char **argv)
{
    MDB_env *env;
    MDB_txn *txn;
    if (argc != 3) {
        fprintf(stderr, "usage: forget STORE KEY\n");
        return 1;
    }
    check(mdb_env_create(&env), "LMDB");
    check(mdb_env_set_maxdbs(env, 8192), "LMDB");
    check(mdb_env_open(env, argv[1], 0, 0600), argv[1]);
    check(mdb_txn_begin(env, NULL, 0, &txn), "LMDB");
    if (!find_and_forget(txn, (MDB_val){ strlen(argv[2]), argv[2] })) {
        fprintf(stderr, "no replica here holds it\n");
        return 1;
    }
    check(mdb_txn_commit(txn), "LMDB");
    mdb_env_close(env);
    return 0;
}
