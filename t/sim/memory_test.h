/* A cluster that runs out of memory at every allocation in turn. */
#ifndef SIM_MEMORY_TEST_H
#define SIM_MEMORY_TEST_H

#include <stdbool.h>

/* Calls ok() for each thing shown. */
void memory_test(void (*ok)(void *ctx, bool passed, const char *name), void *ctx);

#endif
