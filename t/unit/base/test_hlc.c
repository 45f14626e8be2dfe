/* Hybrid logical time: strictly increasing whatever the wall clock does, and readable as
 * microseconds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/hlc.h"

static void follows_the_clock_when_it_moves(void **state)
{
    (void)state;
    uint64_t first = hlc_next(0, 1700000000000000);
    assert_int_equal(hlc_to_us(first), 1700000000000000);
    uint64_t second = hlc_next(first, 1700000000000001);
    assert_int_equal(hlc_to_us(second), 1700000000000001);
    assert_true(second > first);
}

static void counts_when_the_clock_stands_or_jumps_back(void **state)
{
    (void)state;
    uint64_t time = hlc_next(0, 1000);
    for (int i = 0; i < 10000; i++) {
        uint64_t next = hlc_next(time, i % 2 ? 1000 : 5);
        assert_int_equal(next, time + 1);
        time = next;
    }
    /* 10,000 in one microsecond have borrowed two more. */
    assert_int_equal(hlc_to_us(time), 1002);
    assert_int_equal(hlc_to_us(hlc_next(time, 1003)), 1003);
}

static void holds_the_year_2112(void **state)
{
    (void)state;
    uint64_t us = (1ull << 52) - 1;
    assert_int_equal(hlc_to_us(hlc_from_us(us)), us);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(follows_the_clock_when_it_moves),
        cmocka_unit_test(counts_when_the_clock_stands_or_jumps_back),
        cmocka_unit_test(holds_the_year_2112),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
