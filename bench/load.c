/* load: puts or gets against Redis or etcd; prints one line of JSON, named as `cairn bench` names its figures.
 *
 *   load --driver redis|etcd --endpoints H:P[,H:P…] [--clients N] [--connections N] [--pipeline N] [--read-share 0|1] [--keys N]
 *        [--value-size N] [--duration S] [--warmup S] [--rate N] [--preload]
 *
 * --preload stores every key once and ends. See load.h. */
#include "load.h"

#include <errno.h>
#include <getopt.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "common.h"

enum { EVENTS = 256, IN_BYTES = 1 << 16, PRELOAD_CLIENTS = 64, PRELOAD_PIPELINE = 16 };

struct load {
    const struct driver *driver;
    const char *endpoints;
    size_t clients, connections, pipeline, value_size;
    uint64_t keys, rate;
    double read_share, duration_s, warmup_s;
    bool is_preload;

    int epoll_fd;
    struct connection *connection;
    struct slot *slots, *free;
    size_t slot_count, in_flight;
    uint8_t *value;
    uint64_t random, next_key, measure_ns, end_ns;
    double next_ns, interval_ns; /* open loop */
    bool is_over;
    struct histogram histogram;
    uint64_t errors, answered;
};

static uint64_t now_ns(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}

static void die(const char *what)
{
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(1);
}

void bytes_append(struct bytes *bytes, const void *data, size_t size)
{
    if (bytes->size + size > bytes->capacity) {
        bytes->capacity = (bytes->size + size) * 2;
        bytes->data = realloc(bytes->data, bytes->capacity);
    }
    memcpy(bytes->data + bytes->size, data, size);
    bytes->size += size;
}

void bytes_consume(struct bytes *bytes, size_t size)
{
    bytes->size -= size;
    memmove(bytes->data, bytes->data + size, bytes->size);
}

/* --- Requests */

static void submit(struct slot *slot, uint64_t start_ns)
{
    struct load *load = slot->load;
    char key[32];
    slot->start_ns = start_ns;
    slot->is_read = !load->is_preload && (double)(next_random(&load->random) >> 11) / (double)(1ull << 53) < load->read_share;
    slot->key = load->is_preload ? load->next_key++ : next_random(&load->random) % load->keys;
    snprintf(key, sizeof key, "bench/%012llu", (unsigned long long)slot->key);
    if (!slot->is_read) { /* no two writes are alike */
        uint64_t mark = next_random(&load->random);
        memcpy(load->value, &mark, load->value_size < 8 ? load->value_size : 8);
    }
    load->in_flight++;
    slot->connection->is_dirty = true;
    load->driver->send(slot->connection, slot, key, load->value, load->value_size);
}

static bool has_more(const struct load *load)
{
    return load->is_preload ? load->next_key < load->keys : !load->is_over;
}

void load_done(struct slot *slot, bool is_good)
{
    struct load *load = slot->load;
    uint64_t now = now_ns();
    load->in_flight--;
    load->answered++;
    if (!is_good) {
        load->errors++;
    } else if (now >= load->measure_ns && now < load->end_ns) {
        histogram_add(&load->histogram, (now - slot->start_ns) / 1000);
    }
    load->is_over |= !load->is_preload && now >= load->end_ns;
    if (load->rate == 0 && has_more(load)) {
        submit(slot, now);
    } else {
        slot->next = load->free;
        load->free = slot;
    }
}

/* Open loop: sends what is due; what finds no free slot waits, and its latency counts all the same. */
static void send_due(struct load *load)
{
    double now = (double)now_ns();
    while (load->rate != 0 && load->free && load->next_ns <= now && !load->is_over) {
        struct slot *slot = load->free;
        load->free = slot->next;
        submit(slot, (uint64_t)load->next_ns);
        load->next_ns += load->interval_ns;
    }
    load->is_over |= !load->is_preload && now >= (double)load->end_ns;
}

/* --- Connections */

static int connect_to(const char *endpoint)
{
    char host[256];
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *found;
    const char *colon = strrchr(endpoint, ':');
    if (!colon) {
        errno = EINVAL;
        die(endpoint);
    }
    snprintf(host, sizeof host, "%.*s", (int)(colon - endpoint), endpoint);
    if (getaddrinfo(host, colon + 1, &hints, &found) != 0) {
        die(endpoint);
    }
    int fd = socket(found->ai_family, found->ai_socktype, 0), on = 1;
    if (fd < 0 || connect(fd, found->ai_addr, found->ai_addrlen) < 0) {
        die(endpoint);
    }
    freeaddrinfo(found);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return fd;
}

static void open_connections(struct load *load)
{
    char *copy = strdup(load->endpoints), *endpoints[16];
    size_t count = 0;
    for (char *at = strtok(copy, ","); at && count < 16; at = strtok(NULL, ",")) {
        endpoints[count++] = at;
    }
    if (count == 0) {
        errno = EINVAL;
        die("--endpoints");
    }
    load->epoll_fd = epoll_create1(0);
    load->connection = calloc(load->connections, sizeof *load->connection);
    for (size_t i = 0; i < load->connections; i++) {
        struct connection *connection = &load->connection[i];
        connection->load = load;
        connection->fd = connect_to(endpoints[i % count]);
        struct epoll_event event = { .events = EPOLLIN, .data.ptr = connection };
        epoll_ctl(load->epoll_fd, EPOLL_CTL_ADD, connection->fd, &event);
        if (load->driver->open(connection) != 0) {
            die("opening");
        }
    }
    free(copy);
}

static void write_out(struct connection *connection)
{
    struct bytes *out = &connection->out;
    while (connection->out_sent < out->size) {
        ssize_t sent = send(connection->fd, out->data + connection->out_sent, out->size - connection->out_sent,
                            MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN) {
            break;
        }
        if (sent < 0) {
            die("send");
        }
        connection->out_sent += (size_t)sent;
    }
    bool is_stuck = connection->out_sent < out->size;
    if (!is_stuck) {
        out->size = connection->out_sent = 0;
    }
    if (is_stuck != connection->wants_write) {
        struct epoll_event event = { .events = EPOLLIN | (is_stuck ? EPOLLOUT : 0), .data.ptr = connection };
        epoll_ctl(connection->load->epoll_fd, EPOLL_CTL_MOD, connection->fd, &event);
        connection->wants_write = is_stuck;
    }
}

static void read_in(struct connection *connection)
{
    uint8_t piece[IN_BYTES];
    ssize_t got = recv(connection->fd, piece, sizeof piece, MSG_DONTWAIT);
    if (got == 0 || (got < 0 && errno != EAGAIN)) {
        die("the server closed the connection");
    }
    if (got > 0) {
        bytes_append(&connection->in, piece, (size_t)got);
        if (connection->load->driver->receive(connection) != 0) {
            errno = EPROTO;
            die(connection->load->driver->name);
        }
        connection->is_dirty = true;
    }
}

static void flush_all(struct load *load)
{
    for (size_t i = 0; i < load->connections; i++) {
        struct connection *connection = &load->connection[i];
        if (connection->is_dirty) {
            connection->is_dirty = false;
            load->driver->flush(connection);
            write_out(connection);
        }
    }
}

/* --- A run */

static void make_slots(struct load *load)
{
    load->slot_count = load->clients * load->pipeline;
    load->slots = calloc(load->slot_count, sizeof *load->slots);
    for (size_t i = 0; i < load->slot_count; i++) {
        struct slot *slot = &load->slots[i];
        slot->load = load;
        slot->connection = &load->connection[(i / load->pipeline) % load->connections];
        slot->next = load->free;
        load->free = slot;
    }
}

static void begin(struct load *load)
{
    uint64_t now = now_ns();
    load->measure_ns = now + (uint64_t)(load->warmup_s * 1e9);
    load->end_ns = load->measure_ns + (uint64_t)(load->duration_s * 1e9);
    if (load->rate != 0) {
        load->interval_ns = 1e9 / (double)load->rate;
        load->next_ns = (double)now;
        return;
    }
    while (load->free && has_more(load)) {
        struct slot *slot = load->free;
        load->free = slot->next;
        submit(slot, now);
    }
}

static void run(struct load *load)
{
    begin(load);
    flush_all(load);
    while (load->in_flight > 0 || has_more(load)) {
        struct epoll_event events[EVENTS];
        int wait_ms = load->rate != 0 ? (load->free ? 1 : 100) : 1000;
        if (load->rate != 0 && load->free && load->next_ns - (double)now_ns() < 1e6) {
            wait_ms = 0;
        }
        int count = epoll_wait(load->epoll_fd, events, EVENTS, wait_ms);
        for (int i = 0; i < count; i++) {
            struct connection *connection = events[i].data.ptr;
            if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
                read_in(connection);
            }
            if (events[i].events & EPOLLOUT) {
                write_out(connection);
            }
        }
        send_due(load);
        flush_all(load);
        if (now_ns() > load->end_ns + 20000000000u && !load->is_preload) {
            fprintf(stderr, "load: %zu requests are not answered\n", load->in_flight);
            exit(1);
        }
    }
}

static double seconds_of(const struct timeval *time)
{
    return (double)time->tv_sec + (double)time->tv_usec / 1e6;
}

static void report(const struct load *load)
{
    const struct histogram *histogram = &load->histogram;
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    printf("{\"driver\":\"%s\",\"clients\":%zu,\"pipeline\":%zu,\"value_size\":%zu,\"duration_s\":%g,\"ops\":%llu,\"answered\":%llu,"
           "\"ops_per_s\":%.1f,\"errors\":%llu,\"latency_us\":{\"mean\":%.1f,\"p50\":%llu,\"p99\":%llu,\"p999\":%llu,\"max\":%llu},"
           "\"bench_cpu_s\":%.3f}\n",
           load->driver->name, load->clients, load->pipeline, load->value_size, load->duration_s,
           (unsigned long long)histogram->count, (unsigned long long)load->answered,
           (double)histogram->count / load->duration_s, (unsigned long long)load->errors,
           histogram->count ? histogram->sum / (double)histogram->count : 0,
           (unsigned long long)histogram_quantile(histogram, 0.5), (unsigned long long)histogram_quantile(histogram, 0.99),
           (unsigned long long)histogram_quantile(histogram, 0.999), (unsigned long long)histogram->max,
           seconds_of(&usage.ru_utime) + seconds_of(&usage.ru_stime));
}

static void parse(struct load *load, int argc, char **argv)
{
    enum { DRIVER = 1, ENDPOINTS, CLIENTS, CONNECTIONS, PIPELINE, SHARE, KEYS, SIZE, DURATION, WARMUP, RATE, PRELOAD };
    static const struct option options[] = { { "driver", 1, NULL, DRIVER },       { "endpoints", 1, NULL, ENDPOINTS },
                                             { "clients", 1, NULL, CLIENTS },     { "connections", 1, NULL, CONNECTIONS },
                                             { "pipeline", 1, NULL, PIPELINE },   { "read-share", 1, NULL, SHARE },
                                             { "keys", 1, NULL, KEYS },           { "value-size", 1, NULL, SIZE },
                                             { "duration", 1, NULL, DURATION },   { "warmup", 1, NULL, WARMUP },
                                             { "rate", 1, NULL, RATE },           { "preload", 0, NULL, PRELOAD },
                                             { NULL, 0, NULL, 0 } };
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (option) {
        case DRIVER: load->driver = strcmp(optarg, "etcd") == 0 ? &driver_etcd : &driver_redis; break;
        case ENDPOINTS: load->endpoints = optarg; break;
        case CLIENTS: load->clients = strtoul(optarg, NULL, 10); break;
        case CONNECTIONS: load->connections = strtoul(optarg, NULL, 10); break;
        case PIPELINE: load->pipeline = strtoul(optarg, NULL, 10); break;
        case SHARE: load->read_share = strtod(optarg, NULL); break;
        case KEYS: load->keys = strtoull(optarg, NULL, 10); break;
        case SIZE: load->value_size = strtoul(optarg, NULL, 10); break;
        case DURATION: load->duration_s = strtod(optarg, NULL); break;
        case WARMUP: load->warmup_s = strtod(optarg, NULL); break;
        case RATE: load->rate = strtoull(optarg, NULL, 10); break;
        case PRELOAD: load->is_preload = true; break;
        default: exit(2);
        }
    }
    if (!load->driver || !load->endpoints || load->clients == 0 || load->pipeline == 0 || load->keys == 0) {
        fprintf(stderr, "load: see the head of bench/load.c\n");
        exit(2);
    }
    if (load->is_preload) {
        load->clients = PRELOAD_CLIENTS;
        load->pipeline = PRELOAD_PIPELINE;
    }
    if (!load->driver->shares_connections || load->connections == 0 || load->connections > load->clients) {
        load->connections = load->clients;
    }
}

int main(int argc, char **argv)
{
    struct load load = { .clients = 50, .connections = 16, .pipeline = 1, .keys = 1000000, .value_size = 256, .duration_s = 10,
                         .warmup_s = 1, .random = 1 };
    parse(&load, argc, argv);
    load.value = malloc(load.value_size + 8);
    for (size_t i = 0; i < load.value_size; i++) {
        load.value[i] = (uint8_t)next_random(&load.random);
    }
    open_connections(&load);
    make_slots(&load);
    run(&load);
    report(&load);
    for (size_t i = 0; i < load.connections; i++) {
        load.driver->close(&load.connection[i]);
        close(load.connection[i].fd);
    }
    return load.errors != 0;
}
