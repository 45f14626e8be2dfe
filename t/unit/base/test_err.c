/* The table of errors is sound as a whole, unknown codes have an answer, texts are bounded; and the
 * log's lines. */
#include "base/err.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/check.h"
#include "base/logger.h"

static const int codes[] = {
#define ERROR(name, number, retry, http, errno_, sqlstate, exit, text) name,
#include "tbl/errors.def"
#undef ERROR
};
enum { CODES = sizeof codes / sizeof codes[0] };

static void every_line_of_the_table_is_sound(void **state)
{
    for (size_t i = 0; i < CODES; i++) {
        const struct err_info *info = err_info(codes[i]);
        assert_int_equal(info->code, codes[i]);
        assert_true(strncmp(info->name, "ERR_", 4) == 0);
        assert_true(strlen(info->text) > 0);
        assert_int_equal(strlen(info->sqlstate), 5);
        assert_in_range(info->http_status, 400, 599);
        assert_in_range(info->exit_code, 1, 6);
        assert_true(info->errno_value > 0);
        assert_int_equal(info->exit_code == 6, info->code == ERR_UNKNOWN_OUTCOME);
        for (size_t k = 0; k < i; k++) {
            assert_int_not_equal(codes[k], codes[i]);
        }
    }
    assert_int_equal(err_info(ERR_NOT_FOUND)->exit_code, 3);
    assert_int_equal(err_info(ERR_NOT_FOUND)->errno_value, ENOENT);
    assert_int_equal(err_info(ERR_BUSY)->retry, ERR_RETRY_SAFE);
    assert_int_equal(err_info(ERR_UNKNOWN_OUTCOME)->retry, ERR_RETRY_UNKNOWN);
    assert_int_equal(err_info(ERR_CORRUPT)->retry, ERR_RETRY_NEVER);
}

static void numbers_outside_the_table_are_internal_errors(void **state)
{
    static const int strange[] = { 0, 1, 23, -19, -86, -1000000, INT_MIN, INT_MAX };

    for (size_t i = 0; i < sizeof strange / sizeof strange[0]; i++) {
        assert_int_equal(err_info(strange[i])->code, ERR_INTERNAL);
    }
}

static void texts_are_filled_and_bounded(void **state)
{
    struct err err = { 0 };
    char wide[400];

    assert_int_equal(err_set(&err, ERR_IO, "read %s: %d", "f", 5), ERR_IO);
    assert_int_equal(err.code, ERR_IO);
    assert_string_equal(err.text, "read f: 5");
    assert_int_equal(err_prefix(&err, "segment %d", 3), ERR_IO);
    assert_string_equal(err.text, "segment 3: read f: 5");
    assert_int_equal(err_set(NULL, ERR_IO, "lost"), ERR_IO);
    assert_true(err_prefix(NULL, "lost") < 0);

    memset(wide, 'w', sizeof wide - 1);
    wide[sizeof wide - 1] = '\0';
    err_set(&err, ERR_IO, "%s", wide);
    assert_int_equal(strlen(err.text), sizeof err.text - 1);
    err_prefix(&err, "p");
    assert_int_equal(strlen(err.text), sizeof err.text - 1);
    assert_memory_equal(err.text, "p: www", 6);
    err_prefix(&err, "%s", wide);
    assert_int_equal(strlen(err.text), sizeof err.text - 1);
}

struct lines {
    char last[2048];
    int count;
};

static void keep_line(void *ctx, enum logger_level level, const char *line)
{
    struct lines *lines = ctx;

    assert_true(strlen(line) < sizeof lines->last);
    strcpy(lines->last, line);
    lines->count++;
}

static void log_lines_are_single_bounded_and_escaped(void **state)
{
    struct lines lines = { 0 };
    struct logger logger = {
        .level = LOGGER_INFO, .write = keep_line, .ctx = &lines, .node = "n1"
    };
    char wide[3000];

    LOG_INFO(&logger, "a=%d", 1);
    assert_string_equal(lines.last, "info node=n1 a=1");
    LOG_ERROR(&logger, "text=%s", "two\nlines\x1b[31m\t\x7f");
    assert_string_equal(lines.last, "error node=n1 text=two\\nlines\\x1b[31m\\x09\\x7f");
    assert_int_equal(lines.count, 2);
    LOG_DEBUG(&logger, "not shown");
    logger_printf(&logger, LOGGER_DEBUG, "not shown");
    assert_int_equal(lines.count, 2);
    logger.level = LOGGER_DEBUG;
    logger.node = NULL;
    LOG_DEBUG(&logger, "shown");
    assert_string_equal(lines.last, "debug shown");

    memset(wide, 'w', sizeof wide - 1);
    wide[sizeof wide - 1] = '\0';
    LOG_WARN(&logger, "%s", wide);
    assert_int_equal(strlen(lines.last), 1023);
    assert_string_equal(lines.last + 1020, "...");
    memset(wide, '\n', sizeof wide - 1);
    LOG_WARN(&logger, "%s", wide);
    assert_in_range(strlen(lines.last), 1000, 1023);
    assert_null(strchr(lines.last, '\n'));
}

static void levels_have_names(void **state)
{
    enum logger_level level;

    for (int i = LOGGER_ERROR; i <= LOGGER_DEBUG; i++) {
        assert_true(logger_parse_level(logger_level_name((enum logger_level)i), &level));
        assert_int_equal(level, i);
    }
    assert_false(logger_parse_level("verbose", &level));
    assert_false(logger_parse_level("", &level));
}

/* A child fails a check; its stderr must tell where, and it must die by SIGABRT. */
static void a_failed_check_reports_and_aborts(void **state)
{
    int ends[2];
    char report[4096];
    size_t size = 0;
    ssize_t got;
    int status;

    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        signal(SIGABRT, SIG_DFL);
        dup2(ends[1], STDERR_FILENO);
        close(ends[0]);
        close(ends[1]);
        CHECK(2 + 2 == 5);
        _exit(0);
    }
    close(ends[1]);
    while (size < sizeof report - 1 &&
           (got = read(ends[0], report + size, sizeof report - 1 - size)) > 0) {
        size += (size_t)got;
    }
    report[size] = '\0';
    close(ends[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    assert_non_null(strstr(report, "check failed: 2 + 2 == 5"));
    assert_non_null(strstr(report, "test_err.c"));
    assert_non_null(strstr(report, "backtrace"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_line_of_the_table_is_sound),
        cmocka_unit_test(numbers_outside_the_table_are_internal_errors),
        cmocka_unit_test(texts_are_filled_and_bounded),
        cmocka_unit_test(log_lines_are_single_bounded_and_escaped),
        cmocka_unit_test(levels_have_names),
        cmocka_unit_test(a_failed_check_reports_and_aborts),
    };
    return cmocka_run_group_tests_name("err", tests, NULL, NULL);
}
