/* Seeded pseudo-random numbers: xoshiro256**, one stream per purpose, so that drawing more for one thing does not shift all others.
 * Source: Blackman, Vigna, "Scrambled linear pseudorandom number generators", 2019. */
#ifndef SIM_RANDOM_H
#define SIM_RANDOM_H

#include <stdbool.h>
#include <stdint.h>

struct random {
    uint64_t s[4];
};

static inline uint64_t random_splitmix(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* A stream of its own for each (seed, purpose). */
static inline struct random random_stream(uint64_t seed, uint64_t purpose)
{
    uint64_t state = seed ^ (purpose * 0xd1342543de82ef95u + 0x2545f4914f6cdd1du);
    struct random random;
    for (int i = 0; i < 4; i++) {
        random.s[i] = random_splitmix(&state);
    }
    return random;
}

static inline uint64_t random_u64(struct random *random)
{
    uint64_t *s = random->s;
    uint64_t x = s[1] * 5;
    uint64_t result = ((x << 7) | (x >> 57)) * 9;
    uint64_t t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = (s[3] << 45) | (s[3] >> 19);
    return result;
}

/* Uniform in [0, bound); 0 for bound 0. */
static inline uint64_t random_below(struct random *random, uint64_t bound)
{
    return (uint64_t)(((unsigned __int128)random_u64(random) * bound) >> 64);
}

/* Uniform in [low, high]. */
static inline uint64_t random_between(struct random *random, uint64_t low, uint64_t high)
{
    return low + random_below(random, high - low + 1);
}

/* True in `percent` of a hundred. */
static inline bool random_percent(struct random *random, uint32_t percent)
{
    return random_below(random, 100) < percent;
}

static inline bool random_one_in(struct random *random, uint64_t n)
{
    return random_below(random, n) == 0;
}

/* A delay around `typical` with a tail that halves with each further `typical`: what disks and networks do. */
static inline uint64_t random_delay(struct random *random, uint64_t typical)
{
    uint64_t tail = (uint64_t)__builtin_ctzll(random_u64(random) | (1ull << 20));
    return typical / 2 + random_below(random, typical / 2 + 1) * (tail + 1);
}

#endif
