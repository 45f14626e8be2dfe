/* CHECK: an assertion that stays on in production. It is for our own bugs, never for input, disk or network. */
#ifndef BASE_CHECK_H
#define BASE_CHECK_H

/* Prints a panic report to stderr and aborts. */
_Noreturn void check_failed(const char *expression, const char *file, int line, const char *function);

#define CHECK(expression) \
    ((expression) ? (void)0 : check_failed(#expression, __FILE__, __LINE__, __func__))

#endif
