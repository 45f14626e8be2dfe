/* Latency histogram: 128 buckets for every power of two, so that every value is kept to better than
 * 1 %; any 64-bit value fits. Plain counters: add two by adding them. */
#ifndef TOOLS_HISTOGRAM_H
#define TOOLS_HISTOGRAM_H

#include <stdint.h>

enum {
    HISTOGRAM_STEP_BITS = 7,
    HISTOGRAM_BUCKETS = (64 - HISTOGRAM_STEP_BITS + 1) << HISTOGRAM_STEP_BITS
};

struct histogram {
    uint64_t count, max;
    double sum;
    uint64_t buckets[HISTOGRAM_BUCKETS];
};

void histogram_add(struct histogram *histogram, uint64_t value);
void histogram_merge(struct histogram *into, const struct histogram *from);
/* The value below or at which this share (0 to 1) of all values lie; 0 when there are none. At most
 * max. */
uint64_t histogram_quantile(const struct histogram *histogram, double share);

#endif
