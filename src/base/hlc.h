/* Hybrid logical time: 52 bits of wall-clock microseconds since 1970, then 12 bits of counter.
 * Strictly increasing along a log: the wall clock when it has moved on, else the last time plus one
 * (a burst of more than 4,096 in a microsecond borrows from the next microsecond, which is
 * harmless). Good until the year 2112. */
#ifndef BASE_HLC_H
#define BASE_HLC_H

#include <stdint.h>

enum { HLC_COUNTER_BITS = 12 };

static inline uint64_t hlc_from_us(uint64_t wall_us)
{
    return wall_us << HLC_COUNTER_BITS;
}

static inline uint64_t hlc_to_us(uint64_t time)
{
    return time >> HLC_COUNTER_BITS;
}

/* The next time after `last`, at the wall clock or above. Always > last. */
static inline uint64_t hlc_next(uint64_t last, uint64_t wall_us)
{
    uint64_t now = hlc_from_us(wall_us);
    return now > last ? now : last + 1;
}

#endif
