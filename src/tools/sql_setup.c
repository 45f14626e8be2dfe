/* `cairn sql setup URL`: the extension, the server and the table kv in one database, in one
 * transaction. What exists is kept; only the server's endpoints are brought up to date. */
#include <libpq-fe.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/ctl.h"

static int fail_sql(PGconn *connection, const char *what)
{
    const char *text = PQerrorMessage(connection);
    return ctl_fail(CAIRN_FAILED, "%s: %.*s", what, (int)strcspn(text, "\n"), text);
}

static int run_sql(PGconn *connection, const char *statement)
{
    PGresult *result = PQexec(connection, statement);
    bool is_good = PQresultStatus(result) == PGRES_COMMAND_OK;
    PQclear(result);
    return is_good ? 0 : fail_sql(connection, "PostgreSQL");
}

/* Number of rows of a query that only asks whether something exists; -1 after a message. */
static int count_rows(PGconn *connection, const char *query)
{
    PGresult *result = PQexec(connection, query);
    int rows = PQresultStatus(result) == PGRES_TUPLES_OK ? PQntuples(result) : -1;
    PQclear(result);
    if (rows < 0) {
        fail_sql(connection, "PostgreSQL");
    }
    return rows;
}

static int setup_extension(PGconn *connection)
{
    int rows = count_rows(connection, "SELECT 1 FROM pg_extension WHERE extname = 'cairn_fdw'");
    if (rows < 0) {
        return 1;
    }
    if (rows) {
        printf("extension cairn_fdw: is there\n");
        return 0;
    }
    int exit_code = run_sql(connection, "CREATE EXTENSION IF NOT EXISTS cairn_fdw");
    if (exit_code == 0) {
        printf("extension cairn_fdw: created\n");
    }
    return exit_code;
}

static int setup_server(PGconn *connection, const char *endpoints)
{
    int rows = count_rows(connection, "SELECT 1 FROM pg_foreign_server WHERE srvname = 'cairn'");
    int has_option =
        count_rows(connection, "SELECT 1 FROM pg_foreign_server, pg_options_to_table(srvoptions) "
                               "WHERE srvname = 'cairn' AND option_name = 'endpoints'");
    char *literal = PQescapeLiteral(connection, endpoints, strlen(endpoints));
    if (rows < 0 || has_option < 0 || !literal) {
        PQfreemem(literal);
        return 1;
    }
    size_t size = strlen(literal) + 128;
    char *statement = malloc(size);
    if (!statement) {
        PQfreemem(literal);
        return ctl_fail(-3, "out of memory");
    }
    snprintf(statement, size,
             rows ? "ALTER SERVER cairn OPTIONS (%s endpoints %s)"
                  : "CREATE SERVER cairn FOREIGN DATA WRAPPER cairn_fdw OPTIONS (%s endpoints %s)",
             has_option ? "SET"
             : rows     ? "ADD"
                        : "",
             literal);
    int exit_code = run_sql(connection, statement);
    if (exit_code == 0) {
        printf("server cairn: %s, endpoints %s\n", rows ? "updated" : "created", endpoints);
    }
    free(statement);
    PQfreemem(literal);
    return exit_code;
}

static int setup_table(PGconn *connection)
{
    int rows = count_rows(connection, "SELECT 1 FROM pg_class WHERE oid = to_regclass('kv')");
    if (rows < 0) {
        return 1;
    }
    if (rows) {
        printf("table kv: is there, left as it is\n");
        return 0;
    }
    int exit_code = run_sql(
        connection,
        "CREATE FOREIGN TABLE kv (key text COLLATE \"C\" NOT NULL, value text, version bigint, "
        "modified_at timestamptz, expires_at timestamptz) SERVER cairn");
    if (exit_code == 0) {
        printf("table kv: created\n");
    }
    return exit_code;
}

int ctl_sql_setup(struct ctl *ctl)
{
    PGconn *connection = PQconnectdb(ctl->argv[0]);
    if (PQstatus(connection) != CONNECTION_OK) {
        int exit_code = fail_sql(connection, "connecting to PostgreSQL");
        PQfinish(connection);
        return exit_code;
    }
    int exit_code = run_sql(connection, "BEGIN");
    if (exit_code == 0) {
        exit_code = setup_extension(connection);
    }
    if (exit_code == 0) {
        exit_code = setup_server(connection, ctl->endpoints);
    }
    if (exit_code == 0) {
        exit_code = setup_table(connection);
    }
    if (exit_code == 0) {
        exit_code = run_sql(connection, "COMMIT");
    }
    PQfinish(connection);
    return exit_code;
}
