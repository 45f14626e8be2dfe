/* A private PostgreSQL 15 for `cairn dev --pg`: the system's programs and libraries, our extension, our data, a socket of our own, and
 * nothing written into the system's folders. */
#ifndef TOOLS_DEV_PG_H
#define TOOLS_DEV_PG_H

#include <stdbool.h>

#include "base/err.h"

struct dev_pg {
    const char *dir;       /* the cluster's folder, absolute */
    const char *extension; /* folder with cairn_fdw.so, .control, .sql; NULL: it is installed in the system */
    const char *program;   /* `cairn` itself, for `sql setup` */
    const char *endpoints;
    char *temp;            /* the short private folder under /tmp, owned; NULL: not made yet. The caller keeps it between runs */
};

/* The user that owns the server and its role: postgres when we are root, else ourselves. */
const char *dev_pg_user(void);
/* Makes what is missing, starts the server unless it runs, makes extension, server and tables. */
int dev_pg_up(struct dev_pg *pg, struct err *err);
/* Stops it; data stays. */
void dev_pg_down(const struct dev_pg *pg);
/* Removes everything, the temporary folder too. */
void dev_pg_destroy(struct dev_pg *pg);

/* Removes a tree; never leaves it by links or mounts. False when something remains. */
bool dev_remove_tree(const char *path);

#endif
