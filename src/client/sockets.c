/* See sockets.h.
 *
 * What handles share (epoll set, timer, read buffer) is struct sockets_set; a set ends with its last
 * handle. Its hash table finds a socket by the number that its events bear.
 *
 * A connection that can't be begun at all (bad name, no descriptor) fails like one that is refused:
 * from the next poll. Host names are resolved with getaddrinfo, which may block; addresses in
 * numbers never do.
 *
 * Invariants
 *   S1  Every socket stands in its handle's list, and with its event number in the set's table, from
 *       connect until it is closed or the core was told.
 *   S2  Events are looked up by number and given to the core by the link's, so that what a core
 *       closes meanwhile is simply not found.
 *   S3  A handle whose core was told or given something, and not stepped since, is touched; for the
 *       timers of all others the set's timer is armed. */
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
#include "base/list.h"
#include "base/mem.h"

enum {
    SOCKETS_READ_BYTES = 64 << 10,
    SOCKETS_READS_A_TURN = 16, /* of one socket, so that the others have their turn */
    /* All sockets of one handle in one turn: what their answers make room for leaves in one write a node. */
    SOCKETS_EVENTS = 1024,
    SOCKETS_PARTS = 64, /* of one writev */
};

struct sock {
    struct list node; /* in sockets->socks */
    struct sockets *sockets;
    uint64_t event, number; /* in the set; of the core's link */
    int fd;
    int error; /* why it could not be begun; told by the next poll */
    bool is_connected, wants_out;
    struct buf unsent;
    size_t unsent_at;
};

struct sockets_set {
    int epoll_fd, timer_fd;
    uint64_t armed_us;    /* 0: not armed */
    struct hashtab table; /* by event number */
    uint64_t next_event;
    struct list members, touched;
    uint32_t broken; /* sockets with an error to tell */
    uint8_t bytes[SOCKETS_READ_BYTES];
};

struct sockets {
    struct sockets_set *set;
    struct list in_set, in_touched;
    struct core *core;
    struct list socks; /* few: one a node */
};

static const uint64_t timer_number = 0; /* events count from 1 */

/* --- Open and close */

static void set_free(struct sockets_set *set)
{
    hashtab_fini(&set->table);
    if (set->timer_fd >= 0) {
        close(set->timer_fd);
    }
    if (set->epoll_fd >= 0) {
        close(set->epoll_fd);
    }
    mem_free(set);
}

static int set_new(struct sockets_set **out, struct err *err)
{
    struct sockets_set *set = MEM_TRY_NEW(NULL, struct sockets_set);
    if (!set) {
        return err_set(err, ERR_NO_MEMORY, "out of memory");
    }
    list_init(&set->members);
    list_init(&set->touched);
    set->next_event = 1;
    set->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    set->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct epoll_event event = { .events = EPOLLIN, .data.u64 = timer_number };
    if (set->epoll_fd < 0 || set->timer_fd < 0 ||
        epoll_ctl(set->epoll_fd, EPOLL_CTL_ADD, set->timer_fd, &event)) {
        int status = err_set(err, ERR_IO, "no descriptor for the client: %s", strerror(errno));
        set_free(set);
        return status;
    }
    *out = set;
    return 0;
}

int sockets_open(struct sockets *beside, struct sockets **out, struct err *err)
{
    struct sockets_set *set = beside ? beside->set : NULL;
    int status = set ? 0 : set_new(&set, err);
    if (status) {
        return status;
    }
    struct sockets *sockets = MEM_TRY_NEW(NULL, struct sockets);
    if (!sockets) {
        if (!beside) {
            set_free(set);
        }
        return err_set(err, ERR_NO_MEMORY, "out of memory");
    }
    sockets->set = set;
    list_init(&sockets->socks);
    list_append(&set->members, &sockets->in_set);
    *out = sockets;
    return 0;
}

void sockets_attach(struct sockets *sockets, struct core *core)
{
    sockets->core = core;
}

static void sock_free(struct sock *sock)
{
    struct sockets_set *set = sock->sockets->set;
    list_remove(&sock->node);
    hashtab_take(&set->table, sock->event);
    if (sock->fd >= 0) {
        close(sock->fd);
    }
    set->broken -= sock->error != 0;
    buf_fini(&sock->unsent);
    mem_free(sock);
}

void sockets_close(struct sockets *sockets)
{
    struct list *node;
    while ((node = list_take_first(&sockets->socks))) {
        sock_free(container_of(node, struct sock, node));
    }
    list_remove(&sockets->in_set);
    list_remove(&sockets->in_touched);
    if (list_is_empty(&sockets->set->members)) {
        set_free(sockets->set);
    }
    mem_free(sockets);
}

static struct sock *sock_find(const struct sockets *sockets, uint64_t number)
{
    LIST_FOR(node, &sockets->socks)
    {
        struct sock *sock = container_of(node, struct sock, node);
        if (sock->number == number) {
            return sock;
        }
    }
    return NULL;
}

void sockets_touch(struct sockets *sockets)
{
    if (!list_is_linked(&sockets->in_touched)) {
        list_append(&sockets->set->touched, &sockets->in_touched);
    }
}

int sockets_fd(const struct sockets *sockets)
{
    return sockets->set->epoll_fd;
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

static void sock_watch(struct sock *sock, int operation, bool wants_out)
{
    struct epoll_event event = { .events = EPOLLIN | (wants_out ? EPOLLOUT : 0u),
                                 .data.u64 = sock->event };
    CHECK(epoll_ctl(sock->sockets->set->epoll_fd, operation, sock->fd, &event) == 0 ||
          operation == EPOLL_CTL_ADD);
    sock->wants_out = wants_out;
}

static void sock_break(struct sock *sock, int error)
{
    if (!sock->error) {
        sock->error = error;
        sock->sockets->set->broken++;
    }
}

static void sockets_connect(void *ctx, uint64_t number, const char *address)
{
    struct sockets *sockets = ctx;
    struct sock *sock =
        hashtab_try_reserve(&sockets->set->table, NULL) ? MEM_TRY_NEW(NULL, struct sock) : NULL;
    if (!sock) {
        return; /* the core waits so long for a connection, and then tries another */
    }
    sock->sockets = sockets;
    sock->number = number;
    sock->event = sockets->set->next_event++;
    list_append(&sockets->socks, &sock->node);
    hashtab_put(&sockets->set->table, sock->event, sock);
    sock->fd = sock_connect(address);
    if (sock->fd < 0) {
        sock_break(sock, errno ? errno : EIO);
        return;
    }
    sock_watch(sock, EPOLL_CTL_ADD, true);
}

static void sock_keep(struct sock *sock, const struct iovec *parts, size_t count, size_t sent,
                      size_t rest)
{
    if (!buf_try_reserve(&sock->unsent, NULL, rest)) {
        sock_break(sock, ENOMEM);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        size_t skip = sent < parts[i].iov_len ? sent : parts[i].iov_len;
        sent -= skip;
        buf_append(&sock->unsent, (uint8_t *)parts[i].iov_base + skip, parts[i].iov_len - skip);
    }
}

/* Sends what goes; the rest is kept. */
static void sock_send(struct sock *sock, struct iovec *parts, size_t count)
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
            sock_break(sock, errno);
            return;
        }
        sent = sent < 0 ? 0 : sent;
    }
    if ((size_t)sent < size) {
        sock_keep(sock, parts, count, (size_t)sent, size - (size_t)sent);
    }
    if (sock->unsent.size && !sock->wants_out) {
        sock_watch(sock, EPOLL_CTL_MOD, true);
    }
}

static void sockets_send(void *ctx, uint64_t number, const struct span *parts, size_t count)
{
    struct sock *sock = sock_find(ctx, number);
    struct iovec vector[SOCKETS_PARTS];
    size_t filled = 0;
    for (size_t i = 0; i < count && sock && !sock->error; i++) {
        vector[filled].iov_base = (void *)(uintptr_t)parts[i].data;
        vector[filled++].iov_len = parts[i].size;
        if (filled == SOCKETS_PARTS || i + 1 == count) {
            sock_send(sock, vector, filled);
            filled = 0;
        }
    }
}

static void sockets_drop(void *ctx, uint64_t number)
{
    struct sock *sock = sock_find(ctx, number);
    if (sock) {
        sock_free(sock);
    }
}

const struct core_transport sockets_transport = { sockets_connect, sockets_send, sockets_drop };

/* --- Events */

static void sock_fail(struct sock *sock, int error)
{
    struct sockets *sockets = sock->sockets;
    uint64_t number = sock->number;
    sock_free(sock);
    core_closed(sockets->core, number, error ? strerror(error) : "closed by the server",
                sockets_now_us());
}

static void sock_writable(struct sock *sock)
{
    if (!sock->is_connected) {
        int error = 0;
        socklen_t size = sizeof error;
        getsockopt(sock->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error) {
            sock_fail(sock, error);
            return;
        }
        sock->is_connected = true;
        sock_watch(sock, EPOLL_CTL_MOD, false);
        core_connected(sock->sockets->core, sock->number, sockets_now_us());
        return;
    }
    ssize_t sent = send(sock->fd, sock->unsent.data + sock->unsent_at,
                        sock->unsent.size - sock->unsent_at, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN && errno != EINTR) {
        sock_fail(sock, errno);
        return;
    }
    sock->unsent_at += sent > 0 ? (size_t)sent : 0;
    if (sock->unsent_at == sock->unsent.size) {
        buf_fini(&sock->unsent);
        memset(&sock->unsent, 0, sizeof sock->unsent);
        sock->unsent_at = 0;
        sock_watch(sock, EPOLL_CTL_MOD, false);
    }
}

static void sock_readable(struct sockets_set *set, uint64_t event, uint64_t now_us)
{
    for (int i = 0; i < SOCKETS_READS_A_TURN; i++) {
        struct sock *sock = hashtab_find(&set->table, event);
        if (!sock || sock->error) {
            return; /* the core closed it because of what it read */
        }
        ssize_t got = recv(sock->fd, set->bytes, sizeof set->bytes, 0);
        if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
            return;
        }
        if (got <= 0) {
            sock_fail(sock, got ? errno : 0);
            return;
        }
        core_bytes(sock->sockets->core, sock->number, span_of(set->bytes, (size_t)got), now_us);
        if ((size_t)got < sizeof set->bytes) {
            return;
        }
    }
}

static void set_tell_broken(struct sockets_set *set)
{
    size_t at = 0;
    struct sock *sock;
    while (set->broken && (sock = hashtab_next(&set->table, &at, NULL))) {
        if (sock->error) {
            sockets_touch(sock->sockets);
            sock_fail(sock, sock->error);
            at = 0; /* the core may have opened others */
        }
    }
}

/* Whose time has come is not known: all are looked at. */
static void set_timer_fired(struct sockets_set *set)
{
    uint64_t ticks;
    if (read(set->timer_fd, &ticks, sizeof ticks) > 0) {
        set->armed_us = 0;
        LIST_FOR(node, &set->members)
        {
            sockets_touch(container_of(node, struct sockets, in_set));
        }
    }
}

/* Whole milliseconds go the older way, which tools that run programs know, too. */
static int set_wait(struct sockets_set *set, struct epoll_event *events, int64_t timeout_us)
{
    if (set->broken) {
        timeout_us = 0;
    }
    if (timeout_us < 0 || timeout_us % 1000 == 0) {
        int64_t ms = timeout_us < 0 ? -1 : timeout_us / 1000;
        return epoll_wait(set->epoll_fd, events, SOCKETS_EVENTS,
                          ms < INT32_MAX ? (int)ms : INT32_MAX);
    }
    struct timespec most = { timeout_us / 1000000, timeout_us % 1000000 * 1000 };
    return epoll_pwait2(set->epoll_fd, events, SOCKETS_EVENTS, &most, NULL);
}

void sockets_poll(struct sockets *sockets, int64_t timeout_us)
{
    struct sockets_set *set = sockets->set;
    struct epoll_event events[SOCKETS_EVENTS];
    int count = set_wait(set, events, timeout_us);
    uint64_t now_us = sockets_now_us();
    for (int i = 0; i < count; i++) {
        uint64_t event = events[i].data.u64;
        struct sock *sock = hashtab_find(&set->table, event);
        if (event == timer_number) {
            set_timer_fired(set);
        } else if (sock) {
            sockets_touch(sock->sockets);
            if (events[i].events & EPOLLOUT || !sock->is_connected) {
                sock_writable(sock);
            }
            if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
                sock_readable(set, event, now_us);
            }
        }
    }
    set_tell_broken(set);
}

static void sockets_wake_at(struct sockets *sockets, uint64_t due_us)
{
    struct sockets_set *set = sockets->set;
    due_us = due_us ? due_us : 1; /* long ago: at once; 0 would disarm */
    if (due_us == UINT64_MAX || (set->armed_us && set->armed_us <= due_us)) {
        return;
    }
    struct itimerspec when = { .it_value = { (time_t)(due_us / 1000000),
                                             (long)(due_us % 1000000) * 1000 } };
    if (timerfd_settime(set->timer_fd, TFD_TIMER_ABSTIME, &when, NULL) == 0) {
        set->armed_us = due_us;
    }
}

/* Those that are touched meanwhile wait for the next call. */
int sockets_step(struct sockets *sockets)
{
    struct sockets_set *set = sockets->set;
    uint64_t now_us = sockets_now_us();
    int calls = 0;
    struct list batch, *node;
    list_init(&batch);
    while ((node = list_take_first(&set->touched))) {
        list_append(&batch, node);
    }
    while ((node = list_take_first(&batch))) {
        struct sockets *member = container_of(node, struct sockets, in_touched);
        calls += core_step(member->core, now_us);
        uint64_t due_us = core_due_us(member->core);
        if (due_us == 0) {
            sockets_touch(member);
        } else {
            sockets_wake_at(member, due_us);
        }
    }
    return calls;
}

uint64_t sockets_due_us(const struct sockets *sockets)
{
    const struct sockets_set *set = sockets->set;
    bool has_work = set->broken || !list_is_empty(&set->touched);
    return has_work ? 0 : set->armed_us ? set->armed_us : UINT64_MAX;
}
