/* Tests of the simulator itself: schedule, disk, network, env, linearizability checker. Prints TAP. */
#ifndef SIM_SELF_TEST_H
#define SIM_SELF_TEST_H

/* Exit status: 0 when all passed. */
int self_test(void);

#endif
