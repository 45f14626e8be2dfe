/* Sessions: a number is admitted once; what is forgotten is never new again; packing and loading
 * lose nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <malloc.h>

#include <cmocka.h>

#include "base/hlc.h"
#include "base/limits.h"
#include "store/session.h"

static const uint64_t start_us = 1700000000000000;

static struct command numbered(uint64_t session, uint64_t number, uint64_t lowest,
                               uint64_t after_us)
{
    return (struct command){ .type = COMMAND_PUT,
                             .time = hlc_from_us(start_us + after_us),
                             .session = { session, ~session },
                             .number = number,
                             .lowest = lowest,
                             .client_time = hlc_from_us(start_us) };
}

static void record(struct session_table *table, const struct command *command, int status)
{
    struct session_result result = { .number = command->number,
                                     .version = command->number * 10,
                                     .time = command->time,
                                     .status = status,
                                     .existed = true };
    assert_true(session_reserve(table, command));
    session_record(table, command, &result);
}

static int admit(struct session_table *table, const struct command *command)
{
    struct session_result known;
    return session_admit(table, command, &known);
}

static void write_at(struct session_table *table, uint64_t session, uint64_t number,
                     uint64_t lowest, uint64_t after_us)
{
    struct command command = numbered(session, number, lowest, after_us);
    assert_int_equal(admit(table, &command), 0);
    record(table, &command, 0);
}

static void a_retry_gets_the_first_answer(void **state)
{
    (void)state;
    struct session_table table;
    session_table_init(&table);
    struct command first = numbered(1, 5, 5, 1), retry = numbered(1, 5, 5, 2);
    assert_int_equal(admit(&table, &first), 0);
    record(&table, &first, ERR_EXISTS);
    struct session_result known;
    assert_int_equal(session_admit(&table, &retry, &known), 1);
    assert_int_equal(known.status, ERR_EXISTS);
    assert_int_equal(known.version, 50);
    assert_int_equal(known.time, first.time);
    assert_true(known.existed);
    struct command other = numbered(2, 5, 5, 3); /* another session's 5 is another write */
    assert_int_equal(admit(&table, &other), 0);
    session_table_fini(&table);
}

static void numbers_may_come_in_any_order(void **state)
{
    (void)state;
    static const uint64_t order[] = { 7, 3, 9, 4, 8, 5, 6 };
    struct session_table table;
    session_table_init(&table);
    for (size_t i = 0; i < 7; i++) {
        write_at(&table, 1, order[i], 3, i + 1);
    }
    for (uint64_t number = 3; number <= 9; number++) {
        struct session_result known;
        struct command retry = numbered(1, number, 3, 100);
        assert_int_equal(session_admit(&table, &retry, &known), 1);
        assert_int_equal(known.number, number);
    }
    session_table_fini(&table);
}

static void answered_numbers_are_never_new_again(void **state)
{
    (void)state;
    struct session_table table;
    session_table_init(&table);
    write_at(&table, 1, 1, 1, 1);
    write_at(&table, 1, 2, 1, 2);
    write_at(&table, 1, 5, 3, 3);
    struct command late = numbered(1, 2, 1, 4), skipped = numbered(1, 4, 1, 5),
                   wrong = numbered(3, 4, 5, 6);
    assert_int_equal(admit(&table, &late), ERR_UNKNOWN_OUTCOME);
    assert_int_equal(admit(&table, &skipped), 0); /* above lowest: not yet applied */
    assert_int_equal(admit(&table, &wrong), ERR_UNKNOWN_OUTCOME);
    session_table_fini(&table);
}

static void an_entry_long_past_its_client_is_late(void **state)
{
    (void)state;
    struct session_table table;
    session_table_init(&table);
    struct command edge = numbered(1, 1, 1, SESSION_RETRY_US),
                   late = numbered(1, 1, 1, SESSION_RETRY_US + 1);
    assert_int_equal(admit(&table, &edge), 0);
    assert_int_equal(admit(&table, &late), ERR_LATE);
    late.client_time = 0; /* says nothing */
    assert_int_equal(admit(&table, &late), 0);
    record(&table, &edge, 0);
    late.client_time = edge.client_time; /* late, but its result is known */
    assert_int_equal(admit(&table, &late), 1);
    session_table_fini(&table);
}

static void a_window_of_unanswered_writes_is_bounded(void **state)
{
    (void)state;
    struct session_table table;
    session_table_init(&table);
    for (uint64_t number = 1; number <= LIMIT_SESSION_RESULTS; number++) {
        write_at(&table, 1, number, 1, number);
    }
    uint64_t next = LIMIT_SESSION_RESULTS + 1;
    struct command more = numbered(1, next, 1, next), trimming = numbered(1, next, 2, next + 1);
    assert_int_equal(admit(&table, &more), ERR_BUSY);
    assert_int_equal(admit(&table, &trimming), 0);
    record(&table, &trimming, 0);
    struct command retry = numbered(1, 2, 2, next + 2);
    assert_int_equal(admit(&table, &retry), 1);
    session_table_fini(&table);
}

/* Many at a time, few of them unanswered in the end: packing gives back what only the many needed, and loses none of the few. */
static void what_a_burst_needed_goes_when_it_is_packed(void **state)
{
    (void)state;
    enum { SESSIONS = 100, BURST = 64 };
    struct session_table table;
    struct buf changes = { 0 };
    session_table_init(&table);
    for (uint64_t session = 1; session <= SESSIONS; session++) {
        for (uint64_t number = 1; number <= BURST; number++) {
            write_at(&table, session, number, 1, number);
        }
        write_at(&table, session, BURST + 1, BURST, BURST + 1); /* unanswered: the last two */
    }
    uint64_t digest = session_table_digest(&table);
    size_t before = mallinfo2().uordblks;
    buf_reserve(&changes, session_table_pack_bytes(&table));
    size_t packed = mallinfo2().uordblks - before;
    session_table_pack(&table, &changes);
    if (before > 0) { /* the sanitizers' malloc doesn't count */
        assert_true(mallinfo2().uordblks <= before + packed - (size_t)SESSIONS * BURST * 16);
    }
    assert_int_equal(session_table_digest(&table), digest);
    for (uint64_t session = 1; session <= SESSIONS; session++) {
        struct session_result known;
        for (uint64_t number = BURST; number <= BURST + 1; number++) {
            struct command retry = numbered(session, number, BURST, 100);
            assert_int_equal(session_admit(&table, &retry, &known), 1);
            assert_int_equal(known.number, number);
        }
        for (uint64_t number = BURST + 2; number <= 2 * BURST; number++) {
            write_at(&table, session, number, BURST, 100);
        }
    }
    buf_fini(&changes);
    session_table_fini(&table);
}

static void long_use_keeps_the_window_small(void **state)
{
    (void)state;
    struct session_table table;
    session_table_init(&table);
    for (uint64_t number = 1; number <= 5000; number++) {
        write_at(&table, 1, number, number > 16 ? number - 16 : 1, number);
        if (number > 16) {
            struct command retry = numbered(1, number - 16, 1, number);
            assert_int_equal(admit(&table, &retry), 1);
        }
    }
    struct buf changes = { 0 };
    session_table_pack(&table, &changes);
    assert_int_equal(changes.size, 16 + 4 + 24 + 17 * 32);
    buf_fini(&changes);
    session_table_fini(&table);
}

static void idle_sessions_go_after_ten_minutes(void **state)
{
    (void)state;
    struct session_table table;
    session_table_init(&table);
    write_at(&table, 1, 1, 1, 0);
    write_at(&table, 2, 1, 1, 1);
    write_at(&table, 1, 2, 1, 2); /* used again: now the younger one */
    session_table_expire(&table, hlc_from_us(start_us + 1 + SESSION_KEEP_US) - 1);
    assert_int_equal(table.count, 2);
    session_table_expire(&table, hlc_from_us(start_us + 1 + SESSION_KEEP_US));
    assert_int_equal(table.count, 1);
    struct command retry = numbered(1, 1, 1, 3);
    assert_int_equal(admit(&table, &retry), 1);
    session_table_expire(&table, hlc_from_us(start_us + 2 + SESSION_KEEP_US));
    assert_int_equal(table.count, 0);
    session_table_fini(&table);
}

/* The client heard its time from a node whose clock is ahead; the next primary's log time leaps
 * there. */
static void a_client_ahead_of_the_log_keeps_its_session(void **state)
{
    (void)state;
    const uint64_t ahead_us = 79ull * 60 * 1000 * 1000;
    struct session_table table;
    session_table_init(&table);
    struct command ahead = numbered(1, 1, 1, 1);
    ahead.client_time = hlc_from_us(start_us + ahead_us);
    assert_int_equal(admit(&table, &ahead), 0);
    record(&table, &ahead, 0);
    write_at(&table, 2, 1, 1, 2); /* used later, and forgotten earlier */
    struct command retry = ahead;
    retry.time = hlc_from_us(start_us + ahead_us + SESSION_RETRY_US);
    session_table_expire(&table, retry.time);
    assert_int_equal(table.count, 1);
    struct session_result known;
    assert_int_equal(session_admit(&table, &retry, &known), 1);
    session_table_expire(&table, hlc_from_us(start_us + ahead_us + SESSION_KEEP_US));
    assert_int_equal(table.count, 0);
    retry.time = hlc_from_us(start_us + ahead_us + SESSION_KEEP_US);
    assert_int_equal(admit(&table, &retry), ERR_LATE);
    session_table_fini(&table);
}

static void a_made_up_time_holds_no_place_for_ever(void **state)
{
    (void)state;
    struct session_table table;
    session_table_init(&table);
    struct command bogus = numbered(1, 1, 1, 1);
    bogus.client_time = UINT64_MAX;
    assert_int_equal(admit(&table, &bogus), 0);
    record(&table, &bogus, 0);
    session_table_expire(&table, hlc_from_us(start_us + 1 + SESSION_AHEAD_US + SESSION_KEEP_US));
    assert_int_equal(table.count, 0);
    session_table_fini(&table);
}

static void the_number_of_sessions_is_bounded(void **state)
{
    (void)state;
    struct session_table table;
    session_table_init(&table);
    for (uint64_t session = 0; session < LIMIT_SESSIONS; session++) {
        write_at(&table, session, 1, 1, session);
    }
    struct command more = numbered(LIMIT_SESSIONS, 1, 1, LIMIT_SESSIONS),
                   known = numbered(7, 2, 1, LIMIT_SESSIONS);
    assert_int_equal(admit(&table, &more), ERR_BUSY);
    assert_int_equal(admit(&table, &known), 0);
    session_table_expire(&table, hlc_from_us(start_us + SESSION_KEEP_US)); /* session 0 */
    assert_int_equal(table.count, LIMIT_SESSIONS - 1);
    assert_int_equal(admit(&table, &more), 0);
    session_table_fini(&table);
}

static void load_all(struct session_table *table, struct span changes, size_t expected)
{
    session_table_init(table);
    struct reader reader = reader_of(changes);
    struct session_change change;
    size_t count = 0;
    while (session_change_next(&reader, &change)) {
        assert_int_equal(session_table_load(table, change.id, change.value, NULL), 0);
        count++;
    }
    session_table_load_end(table);
    assert_int_equal(count, expected);
}

static void packed_sessions_come_back(void **state)
{
    (void)state;
    struct session_table table;
    session_table_init(&table);
    write_at(&table, 3, 1, 1, 1);
    write_at(&table, 1, 1, 1, 2);
    write_at(&table, 2, 8, 4, 3);
    write_at(&table, 2, 9, 4, 4);
    struct buf changes = { 0 };
    session_table_pack(&table, &changes);
    struct session_table loaded;
    load_all(&loaded, buf_span(&changes), 3);
    struct session_result known;
    struct command retry = numbered(2, 8, 4, 5), answered = numbered(2, 3, 1, 5);
    assert_int_equal(session_admit(&loaded, &retry, &known), 1);
    assert_int_equal(known.version, 80);
    assert_true(known.existed);
    assert_int_equal(admit(&loaded, &answered), ERR_UNKNOWN_OUTCOME);
    assert_true(session_table_digest(&loaded) == session_table_digest(&table));
    /* The order of use is there again: 3 was used first. */
    session_table_expire(&loaded, hlc_from_us(start_us + 1 + SESSION_KEEP_US));
    assert_int_equal(loaded.count, 2);
    assert_true(session_table_digest(&loaded) != session_table_digest(&table));
    struct command gone = numbered(3, 1, 1, 5);
    assert_int_equal(admit(&loaded, &gone), 0);
    session_table_fini(&loaded);
    buf_fini(&changes);
    session_table_fini(&table);
}

static void only_changes_are_packed_removals_first(void **state)
{
    (void)state;
    struct session_table table;
    session_table_init(&table);
    struct buf changes = { 0 };
    write_at(&table, 1, 1, 1, 0);
    session_table_pack(&table, &changes);
    buf_clear(&changes);
    session_table_pack(&table, &changes);
    assert_int_equal(changes.size, 0);
    session_table_expire(&table, hlc_from_us(start_us + SESSION_KEEP_US));
    struct command back = numbered(1, 2, 2, SESSION_KEEP_US + 1);
    back.client_time = back.time;
    assert_int_equal(admit(&table, &back), 0);
    record(&table, &back, 0);
    session_table_pack(&table, &changes);
    struct reader reader = reader_of(buf_span(&changes));
    struct session_change removed, changed, end;
    assert_true(session_change_next(&reader, &removed));
    assert_true(session_change_next(&reader, &changed));
    assert_false(session_change_next(&reader, &end));
    assert_int_equal(removed.value.size, 0);
    assert_int_equal(changed.value.size, 24 + 32);
    assert_true(span_equal(removed.id, changed.id));
    buf_fini(&changes);
    session_table_fini(&table);
}

static void damaged_sessions_are_refused(void **state)
{
    (void)state;
    struct session_table table;
    session_table_init(&table);
    write_at(&table, 1, 1, 1, 0);
    struct buf changes = { 0 };
    session_table_pack(&table, &changes);
    struct reader reader = reader_of(buf_span(&changes));
    struct session_change change;
    assert_true(session_change_next(&reader, &change));
    for (size_t bit = 0; bit < 8 * change.value.size; bit++) {
        uint8_t *byte = (uint8_t *)change.value.data + bit / 8;
        *byte ^= (uint8_t)(1 << bit % 8);
        struct session_table loaded;
        session_table_init(&loaded);
        int rc = session_table_load(&loaded, change.id, change.value, NULL);
        assert_true(rc == ERR_CORRUPT || rc == ERR_FORMAT);
        session_table_fini(&loaded);
        *byte ^= (uint8_t)(1 << bit % 8);
    }
    assert_int_equal(session_table_load(&table, change.id, change.value, NULL),
                     ERR_CORRUPT); /* twice */
    buf_fini(&changes);
    session_table_fini(&table);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_retry_gets_the_first_answer),
        cmocka_unit_test(numbers_may_come_in_any_order),
        cmocka_unit_test(answered_numbers_are_never_new_again),
        cmocka_unit_test(an_entry_long_past_its_client_is_late),
        cmocka_unit_test(a_window_of_unanswered_writes_is_bounded),
        cmocka_unit_test(what_a_burst_needed_goes_when_it_is_packed),
        cmocka_unit_test(long_use_keeps_the_window_small),
        cmocka_unit_test(idle_sessions_go_after_ten_minutes),
        cmocka_unit_test(a_client_ahead_of_the_log_keeps_its_session),
        cmocka_unit_test(a_made_up_time_holds_no_place_for_ever),
        cmocka_unit_test(the_number_of_sessions_is_bounded),
        cmocka_unit_test(packed_sessions_come_back),
        cmocka_unit_test(only_changes_are_packed_removals_first),
        cmocka_unit_test(damaged_sessions_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
