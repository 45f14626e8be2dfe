/* cairn_fdw.c: the entry points of the extension. See README.md for what the wrapper promises and
 * cairn_fdw.h for its parts. */
#include "cairn_fdw.h"

PG_MODULE_MAGIC;

extern PGDLLEXPORT void _PG_init(void);

PG_FUNCTION_INFO_V1(cairn_fdw_handler);

/* Registers callbacks only: preloaded into the postmaster it opens nothing, so that nothing is
 * shared by a fork. */
void _PG_init(void)
{
    connection_init();
    commit_init();
}

Datum cairn_fdw_handler(PG_FUNCTION_ARGS)
{
    FdwRoutine *routine = makeNode(FdwRoutine);

    plan_init(routine);
    scan_init(routine);
    modify_init(routine);
    PG_RETURN_POINTER(routine);
}
