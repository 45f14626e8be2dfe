/* Errors: negative ERR_… codes from tbl/errors.def, and a text for people in the caller's buffer. */
#ifndef BASE_ERR_H
#define BASE_ERR_H

#include <stdbool.h>

enum {
#define ERROR(name, number, retry, http, errno_, sqlstate, exit, text) name = -(number),
#include "tbl/errors.def"
#undef ERROR
};

enum err_retry { ERR_RETRY_NEVER, ERR_RETRY_SAFE, ERR_RETRY_UNKNOWN };

/* What the table says of one code. */
struct err_info {
    int code;
    const char *name; /* "ERR_NOT_FOUND" */
    const char *text;
    enum err_retry retry;
    int http_status;
    int errno_value;
    const char *sqlstate; /* five characters */
    int exit_code;
};

/* The table's line for a code; that of ERR_INTERNAL for a number that is not in the table. Never NULL. */
const struct err_info *err_info(int code);

/* A failure with its text, in the caller's memory. */
struct err {
    int code;
    char text[256];
};

/* Fills *err (NULL allowed) and returns code, so that callers can write `return err_set(err, ERR_IO, …)`. */
int err_set(struct err *err, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Puts "prefix: " before the text that is already there; returns err->code. */
int err_prefix(struct err *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
