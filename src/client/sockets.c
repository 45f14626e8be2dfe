/* See sockets.h.
 *
 * A connection that can't be begun at all (bad name, no descriptor) fails like one that is refused:
 * from the next poll. Host names are resolved with getaddrinfo, which may block; addresses in
 * numbers never do.
 *
 * Invariants
 *   S1  Every socket has its number in `table` from connect until it is closed or the core was
 *       told.
 *   S2  Events are given to the core by number, so that what the core closes meanwhile is simply
 *       not found. */
#include "client/sockets.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "base/check.h"
#include "base/hashtab.h"
#include "base/mem.h"

enum {
    SOCKETS_READ_BYTES = 64 << 10,
    SOCKETS_READS_A_TURN = 16, /* of one socket, so that the others have their turn */
    SOCKETS_EVENTS = 32,
    SOCKETS_PARTS = 64, /* of one writev */
};

struct sock {
    uint64_t number;
    int fd;
    int error; /* why it could not be begun; told by the next poll */
    bool is_connected, wants_out;
    struct buf unsent;
    size_t unsent_at;
};

struct sockets {
    int epoll_fd, timer_fd;
    uint64_t armed_us; /* 0: not armed */
    struct hashtab table;
    uint32_t broken; /* sockets with an error to tell */
    uint8_t bytes[SOCKETS_READ_BYTES];
};

static const uint64_t timer_number = 0; /* links count from 1 */

/* --- Open and close */

int sockets_open(struct sockets **out, struct err *err)
{
    struct sockets *sockets = MEM_NEW(struct sockets);
    sockets->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    sockets->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct epoll_event event = { .events = EPOLLIN, .data.u64 = timer_number };
    if (sockets->epoll_fd < 0 || sockets->timer_fd < 0 ||
        epoll_ctl(sockets->epoll_fd, EPOLL_CTL_ADD, sockets->timer_fd, &event)) {
        int status = err_set(err, ERR_IO, "no descriptor for the client: %s", strerror(errno));
        sockets_close(sockets);
        return status;
    }
    *out = sockets;
    return 0;
}

static void sock_free(struct sockets *sockets, struct sock *sock)
{
    hashtab_take(&sockets->table, sock->number);
    if (sock->fd >= 0) {
        close(sock->fd);
    }
    sockets->broken -= sock->error != 0;
    buf_fini(&sock->unsent);
    mem_free(sock);
}

void sockets_close(struct sockets *sockets)
{
    size_t at = 0;
    struct sock *sock;
    while ((sock = hashtab_next(&sockets->table, &at, NULL))) {
        sock_free(sockets, sock);
    }
    hashtab_fini(&sockets->table);
    if (sockets->timer_fd >= 0) {
        close(sockets->timer_fd);
    }
    if (sockets->epoll_fd >= 0) {
        close(sockets->epoll_fd);
    }
    mem_free(sockets);
}

int sockets_fd(const struct sockets *sockets)
{
    return sockets->epoll_fd;
}

uint64_t sockets_now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

int sockets_random(void *out, size_t size, struct err *err)
{
    CHECK(size <= 256); /* so much comes whole */
    if (getrandom(out, size, 0) != (ssize_t)size) {
        return err_set(err, ERR_IO, "no random bytes: %s", strerror(errno));
    }
    return 0;
}

void sockets_wake_at(struct sockets *sockets, uint64_t due_us)
{
    due_us = due_us ? due_us : 1; /* long ago: at once; 0 would disarm */
    if (due_us == UINT64_MAX || (sockets->armed_us && sockets->armed_us <= due_us)) {
        return;
    }
    struct itimerspec when = { .it_value = { (time_t)(due_us / 1000000),
                                             (long)(due_us % 1000000) * 1000 } };
    if (timerfd_settime(sockets->timer_fd, TFD_TIMER_ABSTIME, &when, NULL) == 0) {
        sockets->armed_us = due_us;
    }
}

/* --- The transport */

/* A connecting socket, or -1 with errno. */
static int sock_connect(const char *address)
{
    char host[256];
    const char *colon = strrchr(address, ':');
    size_t size = (size_t)(colon - address);
    if (size >= 2 && address[0] == '[' && address[size - 1] == ']') { /* [::1]:7400 */
        address++;
        size -= 2;
    }
    if (size >= sizeof host) {
        errno = ENAMETOOLONG;
        return -1;
    }
    memcpy(host, address, size);
    host[size] = '\0';
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM,
                              .ai_flags = AI_NUMERICSERV | AI_ADDRCONFIG };
    struct addrinfo *found;
    if (getaddrinfo(host, colon + 1, &hints, &found)) {
        errno = EHOSTUNREACH;
        return -1;
    }
    int fd = socket(found->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int one = 1;
    if (fd >= 0 && setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) == 0 &&
        connect(fd, found->ai_addr, found->ai_addrlen) && errno != EINPROGRESS) {
        int error = errno;
        close(fd);
        fd = -1;
        errno = error;
    }
    freeaddrinfo(found);
    return fd;
}

static void sock_watch(struct sockets *sockets, struct sock *sock, int operation, bool wants_out)
{
    struct epoll_event event = { .events = EPOLLIN | (wants_out ? EPOLLOUT : 0u),
                                 .data.u64 = sock->number };
    CHECK(epoll_ctl(sockets->epoll_fd, operation, sock->fd, &event) == 0 ||
          operation == EPOLL_CTL_ADD);
    sock->wants_out = wants_out;
}

static void sock_break(struct sockets *sockets, struct sock *sock, int error)
{
    if (!sock->error) {
        sock->error = error;
        sockets->broken++;
    }
}

static void sockets_connect(void *ctx, uint64_t number, const char *address)
{
    struct sockets *sockets = ctx;
    struct sock *sock = MEM_NEW(struct sock);
    sock->number = number;
    hashtab_put(&sockets->table, number, sock);
    sock->fd = sock_connect(address);
    if (sock->fd < 0) {
        sock_break(sockets, sock, errno ? errno : EIO);
        return;
    }
    sock_watch(sockets, sock, EPOLL_CTL_ADD, true);
}

static void sock_keep(struct sock *sock, const struct iovec *parts, size_t count, size_t sent)
{
    for (size_t i = 0; i < count; i++) {
        size_t skip = sent < parts[i].iov_len ? sent : parts[i].iov_len;
        sent -= skip;
        buf_append(&sock->unsent, (uint8_t *)parts[i].iov_base + skip, parts[i].iov_len - skip);
    }
}

/* Sends what goes; the rest is kept. */
static void sock_send(struct sockets *sockets, struct sock *sock, struct iovec *parts, size_t count)
{
    size_t size = 0;
    for (size_t i = 0; i < count; i++) {
        size += parts[i].iov_len;
    }
    ssize_t sent = 0;
    if (!sock->unsent.size) {
        struct msghdr message = { .msg_iov = parts, .msg_iovlen = count };
        sent = sendmsg(sock->fd, &message, MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN && errno != EINTR) {
            sock_break(sockets, sock, errno);
            return;
        }
        sent = sent < 0 ? 0 : sent;
    }
    if ((size_t)sent < size) {
        sock_keep(sock, parts, count, (size_t)sent);
    }
    if (sock->unsent.size && !sock->wants_out) {
        sock_watch(sockets, sock, EPOLL_CTL_MOD, true);
    }
}

static void sockets_send(void *ctx, uint64_t number, const struct span *parts, size_t count)
{
    struct sockets *sockets = ctx;
    struct sock *sock = hashtab_find(&sockets->table, number);
    struct iovec vector[SOCKETS_PARTS];
    size_t filled = 0;
    for (size_t i = 0; i < count && sock && !sock->error; i++) {
        vector[filled].iov_base = (void *)(uintptr_t)parts[i].data;
        vector[filled++].iov_len = parts[i].size;
        if (filled == SOCKETS_PARTS || i + 1 == count) {
            sock_send(sockets, sock, vector, filled);
            filled = 0;
        }
    }
}

static void sockets_drop(void *ctx, uint64_t number)
{
    struct sockets *sockets = ctx;
    struct sock *sock = hashtab_find(&sockets->table, number);
    if (sock) {
        sock_free(sockets, sock);
    }
}

const struct core_transport sockets_transport = { sockets_connect, sockets_send, sockets_drop };

/* --- Events */

static void sock_fail(struct sockets *sockets, struct core *core, struct sock *sock, int error)
{
    uint64_t number = sock->number;
    sock_free(sockets, sock);
    core_closed(core, number, error ? strerror(error) : "closed by the server", sockets_now_us());
}

static void sock_writable(struct sockets *sockets, struct core *core, struct sock *sock)
{
    if (!sock->is_connected) {
        int error = 0;
        socklen_t size = sizeof error;
        getsockopt(sock->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error) {
            sock_fail(sockets, core, sock, error);
            return;
        }
        sock->is_connected = true;
        sock_watch(sockets, sock, EPOLL_CTL_MOD, false);
        core_connected(core, sock->number, sockets_now_us());
        return;
    }
    ssize_t sent = send(sock->fd, sock->unsent.data + sock->unsent_at,
                        sock->unsent.size - sock->unsent_at, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN && errno != EINTR) {
        sock_fail(sockets, core, sock, errno);
        return;
    }
    sock->unsent_at += sent > 0 ? (size_t)sent : 0;
    if (sock->unsent_at == sock->unsent.size) {
        buf_fini(&sock->unsent);
        memset(&sock->unsent, 0, sizeof sock->unsent);
        sock->unsent_at = 0;
        sock_watch(sockets, sock, EPOLL_CTL_MOD, false);
    }
}

static void sock_readable(struct sockets *sockets, struct core *core, uint64_t number)
{
    for (int i = 0; i < SOCKETS_READS_A_TURN; i++) {
        struct sock *sock = hashtab_find(&sockets->table, number);
        if (!sock || sock->error) {
            return; /* the core closed it because of what it read */
        }
        ssize_t got = recv(sock->fd, sockets->bytes, sizeof sockets->bytes, 0);
        if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
            return;
        }
        if (got <= 0) {
            sock_fail(sockets, core, sock, got ? errno : 0);
            return;
        }
        core_bytes(core, number, span_of(sockets->bytes, (size_t)got), sockets_now_us());
        if ((size_t)got < sizeof sockets->bytes) {
            return;
        }
    }
}

static void sockets_tell_broken(struct sockets *sockets, struct core *core)
{
    size_t at = 0;
    struct sock *sock;
    while (sockets->broken && (sock = hashtab_next(&sockets->table, &at, NULL))) {
        if (sock->error) {
            sock_fail(sockets, core, sock, sock->error);
            at = 0; /* the core may have opened others */
        }
    }
}

static void sockets_timer(struct sockets *sockets)
{
    uint64_t ticks;
    if (read(sockets->timer_fd, &ticks, sizeof ticks) > 0) {
        sockets->armed_us = 0;
    }
}

void sockets_poll(struct sockets *sockets, struct core *core, int timeout_ms)
{
    struct epoll_event events[SOCKETS_EVENTS];
    int count =
        epoll_wait(sockets->epoll_fd, events, SOCKETS_EVENTS, sockets->broken ? 0 : timeout_ms);
    for (int i = 0; i < count; i++) {
        uint64_t number = events[i].data.u64;
        if (number == timer_number) {
            sockets_timer(sockets);
            continue;
        }
        struct sock *sock = hashtab_find(&sockets->table, number);
        if (sock && (events[i].events & EPOLLOUT || !sock->is_connected)) {
            sock_writable(sockets, core, sock);
        }
        if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
            sock_readable(sockets, core, number);
        }
    }
    sockets_tell_broken(sockets, core);
}

bool sockets_have_news(const struct sockets *sockets)
{
    return sockets->broken != 0;
}
