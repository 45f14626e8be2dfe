/* The bench's histogram: quantiles are right to better than one percent over the whole range,
 * merging is adding. */
#include "tools/histogram.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

static struct histogram *new_histogram(void)
{
    return calloc(1, sizeof(struct histogram));
}

static void every_value_is_kept_to_one_percent(void **state)
{
    for (uint64_t value = 0; value < UINT64_MAX / 3; value += value / 1000 + 1) {
        struct histogram *one = new_histogram();
        histogram_add(one, value);
        histogram_add(one, UINT64_MAX); /* so that the answer is not cut at the maximum */
        uint64_t found = histogram_quantile(one, 0.5);
        assert_true(found >= value && found - value <= value / 100);
        free(one);
        if (value > 1000000) {
            value *= 7;
        }
    }
}

static void quantiles_of_a_ramp(void **state)
{
    struct histogram *ramp = new_histogram();
    for (uint64_t i = 1; i <= 100000; i++) {
        histogram_add(ramp, i * 1000);
    }
    static const double shares[] = { 0.01, 0.5, 0.9, 0.99, 0.999 };
    for (size_t i = 0; i < 5; i++) {
        double found = (double)histogram_quantile(ramp, shares[i]) / 1e8;
        assert_true(found >= shares[i] * 0.99 && found <= shares[i] * 1.01);
    }
    assert_int_equal(histogram_quantile(ramp, 1), 100000000);
    assert_int_equal(ramp->max, 100000000);
    free(ramp);
}

static void merging_is_adding(void **state)
{
    struct histogram *all = new_histogram(), *odd = new_histogram(), *even = new_histogram();
    for (uint64_t i = 0; i < 10000; i++) {
        histogram_add(all, i * i);
        histogram_add(i % 2 ? odd : even, i * i);
    }
    histogram_merge(odd, even);
    assert_memory_equal(all->buckets, odd->buckets, sizeof all->buckets);
    assert_int_equal(all->count, odd->count);
    assert_int_equal(all->max, odd->max);
    struct histogram *none = new_histogram();
    assert_int_equal(histogram_quantile(none, 0.5), 0);
    free(all);
    free(odd);
    free(even);
    free(none);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_value_is_kept_to_one_percent),
        cmocka_unit_test(quantiles_of_a_ramp),
        cmocka_unit_test(merging_is_adding),
    };
    return cmocka_run_group_tests_name("histogram", tests, NULL, NULL);
}
