/* What the files of the self-test share; for nobody else. */
#ifndef SIM_SELF_TEST_PRIVATE_H
#define SIM_SELF_TEST_PRIVATE_H

#include <stdbool.h>

struct tally {
    int count, failed;
};

/* A line of TAP. */
void self_test_ok(struct tally *tally, bool passed, const char *name);

/* The parts, each in a file of its name. */
void self_test_disk(struct tally *tally);
void self_test_network(struct tally *tally);
void self_test_linear(struct tally *tally);

#endif
