/* Tests of the simulator itself: what finds bugs in others must not have these. TAP on stdout. Here: the schedule;
 * self_test_disk.c, self_test_network.c (and the env over both) and self_test_linear.c have the rest, memory_test.c a whole cluster. */
#include "sim/self_test.h"

#include <stdio.h>

#include "base/list.h"
#include "base/mem.h"
#include "sim/memory_test.h"
#include "sim/random.h"
#include "sim/schedule.h"
#include "sim/self_test_private.h"

void self_test_ok(struct tally *tally, bool passed, const char *name)
{
    tally->count++;
    tally->failed += !passed;
    printf("%sok %d - %s\n", passed ? "" : "not ", tally->count, name);
}

/* --- Schedule */

struct noted {
    struct schedule_event event;
    uint64_t at, order;
};

static void nothing(struct schedule_event *event)
{
}

static void test_schedule(struct tally *tally)
{
    enum { COUNT = 2000 };
    struct schedule schedule;
    struct random random = random_stream(1, 1);
    struct noted *events = mem_zalloc(COUNT * sizeof *events);
    schedule_init(&schedule, 1);
    for (uint64_t i = 0; i < COUNT; i++) {
        events[i].event.run = nothing;
        events[i].at = random_below(&random, 100);
        events[i].order = i;
        schedule_add(&schedule, &events[i].event, events[i].at);
    }
    for (uint64_t i = 0; i < COUNT; i += 3) {
        schedule_remove(&schedule, &events[i].event);
    }
    bool ordered = true;
    uint64_t last_at = 0, last_order = 0, seen = 0;
    struct schedule_event *event;
    while ((event = schedule_next(&schedule, 1000)) != NULL) {
        struct noted *noted = container_of(event, struct noted, event);
        uint64_t at = noted->at ? noted->at : 1;
        ordered = ordered && noted->order % 3 != 0 &&
                  (at > last_at || (at == last_at && noted->order > last_order));
        last_at = at;
        last_order = noted->order;
        seen++;
    }
    self_test_ok(tally, ordered && seen == COUNT - (COUNT + 2) / 3,
                 "schedule: events come by time, then by the order of asking; removed ones do not");
    self_test_ok(tally, schedule.now_us == 1000, "schedule: time moves on to the limit");
    schedule_fini(&schedule);
    mem_free(events);
}

/* --- All */

static void tell(void *ctx, bool passed, const char *name)
{
    self_test_ok(ctx, passed, name);
}

int self_test(void)
{
    struct tally tally = { 0 };
    test_schedule(&tally);
    self_test_disk(&tally);
    self_test_network(&tally);
    self_test_linear(&tally);
    memory_test(tell, &tally);
    printf("1..%d\n", tally.count);
    return tally.failed > 0;
}
