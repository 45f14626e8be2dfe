/* The table of errors, indexed by number, and texts for people. */
#include "base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

static const struct err_info err_table[] = {
#define ERROR(name_, number, retry_, http, errno_, sqlstate_, exit, text_)                         \
    [number] = { .code = -(number),                                                                \
                 .name = #name_,                                                                   \
                 .text = text_,                                                                    \
                 .retry = ERR_RETRY_##retry_,                                                      \
                 .http_status = http,                                                              \
                 .errno_value = errno_,                                                            \
                 .sqlstate = sqlstate_,                                                            \
                 .exit_code = exit },
#include "tbl/errors.def"
#undef ERROR
};

const struct err_info *err_info(int code)
{
    const size_t count = sizeof err_table / sizeof err_table[0];

    /* Numbers have gaps: a line without a name is none. The comparison is done before negating,
     * since -INT_MIN overflows. */
    if (code < 0 && code > -(int)count && err_table[-code].name) {
        return &err_table[-code];
    }
    return &err_table[-ERR_INTERNAL];
}

int err_set(struct err *err, int code, const char *format, ...)
{
    if (err) {
        va_list args;
        va_start(args, format);
        err->code = code;
        vsnprintf(err->text, sizeof err->text, format, args);
        va_end(args);
    }
    return code;
}

int err_prefix(struct err *err, const char *format, ...)
{
    char old[sizeof err->text];
    va_list args;

    if (!err) {
        return ERR_FAILED;
    }
    memcpy(old, err->text, sizeof old);
    va_start(args, format);
    vsnprintf(err->text, sizeof err->text, format, args);
    va_end(args);
    size_t at = strlen(err->text);
    for (const char *from = ": "; *from && at + 1 < sizeof err->text; from++) {
        err->text[at++] = *from;
    }
    for (const char *from = old; *from && at + 1 < sizeof err->text; from++) {
        err->text[at++] = *from;
    }
    err->text[at] = '\0';
    return err->code;
}
