/* The client's sockets: the production driver of the heart (core.h). Non-blocking TCP in one epoll
 * set, whose descriptor is cairn_fd; a timerfd in the same set makes it readable when a timer of
 * the heart is due. Several handles of one thread may share a set: then an event of any of them costs no more
 * system calls than of one. Linux. */
#ifndef CLIENT_SOCKETS_H
#define CLIENT_SOCKETS_H

#include "client/core.h"

struct sockets;

extern const struct core_transport sockets_transport; /* its ctx is the struct sockets */

/* beside: shares its set with the new one; NULL: a set of its own. ERR_IO with a text when the system gives no
 * descriptors. */
int sockets_open(struct sockets *beside, struct sockets **out, struct err *err);
/* The core whose transport this is; once, before the first poll or step of the set. */
void sockets_attach(struct sockets *sockets, struct core *core);
/* To be closed after its core. */
void sockets_close(struct sockets *sockets);
int sockets_fd(const struct sockets *sockets);
/* Feeds what has arrived to the cores of the set. timeout_us: waits so long for the first event; 0: does not
 * wait; -1: no limit. */
void sockets_poll(struct sockets *sockets, int64_t timeout_us);
/* Its core is to be stepped: something was asked of it. */
void sockets_touch(struct sockets *sockets);
/* Steps the cores of the set that were touched or told something. Returns the number of callbacks made. */
int sockets_step(struct sockets *sockets);
/* When sockets_step is due at the latest, of all cores of the set; 0: at once; UINT64_MAX: nothing is planned. The descriptor
 * becomes readable then. */
uint64_t sockets_due_us(const struct sockets *sockets);
uint64_t sockets_now_us(void);
/* Fills with random bytes of the system. */
int sockets_random(void *out, size_t size, struct err *err);

#endif
