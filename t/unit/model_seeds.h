/* How many seeds a random model takes: as many as usual, or at most MODEL_SEEDS of the environment, where each costs
 * fifty times as much (make valgrind). */
#ifndef UNIT_MODEL_SEEDS_H
#define UNIT_MODEL_SEEDS_H

#include <stdint.h>
#include <stdlib.h>

static inline uint64_t model_seeds(uint64_t usual)
{
    const char *text = getenv("MODEL_SEEDS");
    uint64_t most = text ? strtoull(text, NULL, 10) : 0;
    return most > 0 && most < usual ? most : usual;
}

#endif
