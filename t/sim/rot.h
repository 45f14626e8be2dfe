/* Bit rot in the store: LMDB goes round env, so what it wrote is damaged from outside, in its file. */
#ifndef SIM_ROT_H
#define SIM_ROT_H

#include "sim/random.h"
#include "store/store.h"

/* Flips one bit of one stored record, drawn, under a running node: it sees it the next time that it reads the record. `path`: the
 * store's folder. False: it holds none. */
bool rot_flip_record(const struct store *store, const char *path, struct random *random);
/* The same in a store that nobody has open. */
bool rot_flip_closed_record(const char *path, struct random *random);

#endif
