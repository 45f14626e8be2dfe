/* See histogram.h. Values below 256 have a bucket each; above, the seven bits behind the leading
 * one choose the bucket. */
#include "tools/histogram.h"

static uint32_t bucket_of(uint64_t value)
{
    const uint32_t steps = 1u << HISTOGRAM_STEP_BITS;
    if (value < 2 * steps) {
        return (uint32_t)value;
    }
    uint32_t shift = 63u - HISTOGRAM_STEP_BITS - (uint32_t)__builtin_clzll(value);
    return (shift + 1) * steps + (uint32_t)(value >> shift) - steps;
}

/* The greatest value of a bucket. */
static uint64_t bucket_top(uint32_t bucket)
{
    const uint32_t steps = 1u << HISTOGRAM_STEP_BITS;
    if (bucket < 2 * steps) {
        return bucket;
    }
    uint32_t shift = bucket / steps - 1;
    uint64_t low = (uint64_t)(bucket % steps + steps) << shift;
    return low + (((uint64_t)1 << shift) - 1);
}

void histogram_add(struct histogram *histogram, uint64_t value)
{
    histogram->buckets[bucket_of(value)]++;
    histogram->count++;
    histogram->sum += (double)value;
    histogram->max = value > histogram->max ? value : histogram->max;
}

void histogram_merge(struct histogram *into, const struct histogram *from)
{
    for (uint32_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
        into->buckets[i] += from->buckets[i];
    }
    into->count += from->count;
    into->sum += from->sum;
    into->max = from->max > into->max ? from->max : into->max;
}

uint64_t histogram_quantile(const struct histogram *histogram, double share)
{
    uint64_t wanted = (uint64_t)(share * (double)histogram->count + 0.5);
    wanted = wanted ? wanted : 1;
    uint64_t seen = 0;
    for (uint32_t i = 0; i < HISTOGRAM_BUCKETS && histogram->count; i++) {
        seen += histogram->buckets[i];
        if (seen >= wanted) {
            uint64_t top = bucket_top(i);
            return top < histogram->max ? top : histogram->max;
        }
    }
    return histogram->max;
}
