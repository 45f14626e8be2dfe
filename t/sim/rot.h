/* Bit rot in the store: LMDB goes round env, so its records are damaged from outside, through LMDB itself. */
#ifndef SIM_ROT_H
#define SIM_ROT_H

#include "sim/random.h"

/* Flips one bit of one stored record, drawn, in the store at `path`; nobody may have it open. False: it holds none. */
bool rot_flip_record(const char *path, struct random *random);

#endif
