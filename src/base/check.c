/* The panic report: what did not hold, where, and the call stack, written straight to stderr
 * without allocating, because the heap may be what is broken. abort() then leaves a core. */
#include "base/check.h"

#include <execinfo.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { CHECK_FRAMES_MAX = 64 };

_Noreturn void check_failed(const char *expression, const char *file, int line,
                            const char *function)
{
    void *frames[CHECK_FRAMES_MAX];

    dprintf(STDERR_FILENO, "PANIC: check failed: %s\n  at %s:%d in %s, pid %ld\n  backtrace:\n",
            expression, file, line, function, (long)getpid());
    int count = backtrace(frames, CHECK_FRAMES_MAX);
    backtrace_symbols_fd(frames, count, STDERR_FILENO);
    abort();
}
