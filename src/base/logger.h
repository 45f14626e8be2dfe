/* The leveled text log: one line an event, key=value. Where lines go is the env's business (stderr, or the simulator). */
#ifndef BASE_LOGGER_H
#define BASE_LOGGER_H

#include <stdbool.h>
#include <stdint.h>

enum logger_level { LOGGER_ERROR, LOGGER_WARN, LOGGER_INFO, LOGGER_DEBUG };

/* A sink and a threshold; each node has one. Not shared between loop threads. */
struct logger {
    enum logger_level level;
    /* Gets one line without the line feed; level first. */
    void (*write)(void *ctx, enum logger_level level, const char *line);
    void *ctx;
    const char *node; /* printed as node=…; NULL prints none; borrowed */
};

void logger_printf(struct logger *logger, enum logger_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* "error" … "debug" to a level; false when it is none of them. */
bool logger_parse_level(const char *text, enum logger_level *level);
const char *logger_level_name(enum logger_level level);

#define LOG_ERROR(logger, ...) logger_printf(logger, LOGGER_ERROR, __VA_ARGS__)
#define LOG_WARN(logger, ...) logger_printf(logger, LOGGER_WARN, __VA_ARGS__)
#define LOG_INFO(logger, ...) logger_printf(logger, LOGGER_INFO, __VA_ARGS__)
#define LOG_DEBUG(logger, ...) \
    do { \
        if ((logger)->level >= LOGGER_DEBUG) { \
            logger_printf(logger, LOGGER_DEBUG, __VA_ARGS__); \
        } \
    } while (0)

#endif
