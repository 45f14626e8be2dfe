/* Formats one bounded line and hands it to the sink. Control characters are escaped, so that one
 * event is one line whatever a peer or a file name put into it. A line that is too long ends in
 * "...". */
#include "base/logger.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

enum { LOGGER_LINE_BYTES = 1024 };

static const char *const logger_names[] = { "error", "warn", "info", "debug" };

const char *logger_level_name(enum logger_level level)
{
    return logger_names[level];
}

bool logger_parse_level(const char *text, enum logger_level *level)
{
    for (size_t i = 0; i < sizeof logger_names / sizeof logger_names[0]; i++) {
        if (strcmp(text, logger_names[i]) == 0) {
            *level = (enum logger_level)i;
            return true;
        }
    }
    return false;
}

/* Copies text to the end of line (size bytes used), escaping; returns the new size. Leaves room for
 * "..." and NUL. */
static size_t logger_append(char *line, size_t size, const char *text)
{
    static const char ellipsis[] = "...";
    const size_t limit = LOGGER_LINE_BYTES - sizeof ellipsis;

    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        char escape[5];
        int bytes;
        if (c == '\n') {
            bytes = snprintf(escape, sizeof escape, "\\n");
        } else if (c < 0x20 || c == 0x7f) {
            bytes = snprintf(escape, sizeof escape, "\\x%02x", c);
        } else {
            escape[0] = (char)c;
            bytes = 1;
        }
        if (size + (size_t)bytes > limit) {
            memcpy(line + size, ellipsis, sizeof ellipsis - 1);
            return size + sizeof ellipsis - 1;
        }
        memcpy(line + size, escape, (size_t)bytes);
        size += (size_t)bytes;
    }
    return size;
}

void logger_printf(struct logger *logger, enum logger_level level, const char *format, ...)
{
    char line[LOGGER_LINE_BYTES];
    char text[LOGGER_LINE_BYTES];
    va_list args;

    if (level > logger->level || !logger->write) {
        return;
    }
    int head = logger->node ? snprintf(text, sizeof text, "%s node=%.64s ",
                                       logger_level_name(level), logger->node)
                            : snprintf(text, sizeof text, "%s ", logger_level_name(level));
    va_start(args, format);
    vsnprintf(text + head, sizeof text - (size_t)head, format, args);
    va_end(args);
    line[logger_append(line, 0, text)] = '\0';
    logger->write(logger->ctx, level, line);
}
