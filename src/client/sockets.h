/* The client's sockets: the production driver of the heart (core.h). Non-blocking TCP in one epoll
 * set, whose descriptor is cairn_fd; a timerfd in the same set makes it readable when a timer of
 * the heart is due. Linux. */
#ifndef CLIENT_SOCKETS_H
#define CLIENT_SOCKETS_H

#include "client/core.h"

struct sockets;

extern const struct core_transport sockets_transport; /* its ctx is the struct sockets */

/* ERR_IO with a text when the system gives no descriptors. */
int sockets_open(struct sockets **out, struct err *err);
void sockets_close(struct sockets *sockets);
int sockets_fd(const struct sockets *sockets);
/* Feeds what has arrived to the core. timeout_ms: waits so long for the first event; 0: does not
 * wait; -1: no limit. */
void sockets_poll(struct sockets *sockets, struct core *core, int timeout_ms);
/* Makes the descriptor readable at due_us (0: at once; UINT64_MAX: leaves it as it is). It may wake
 * too early, never too late. */
void sockets_wake_at(struct sockets *sockets, uint64_t due_us);
/* Something is to be told to the core although the descriptor is not readable. */
bool sockets_have_news(const struct sockets *sockets);
uint64_t sockets_now_us(void);
/* Fills with random bytes of the system. */
int sockets_random(void *out, size_t size, struct err *err);

#endif
