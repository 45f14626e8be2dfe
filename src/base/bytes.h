/* Spans (borrowed bytes), growing buffers, little-endian integers, checked arithmetic. */
#ifndef BASE_BYTES_H
#define BASE_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct mem_gate; /* base/mem.h */

/* Borrowed bytes; valid as long as their owner says. data may be NULL when size is 0. */
struct span {
    const uint8_t *data;
    size_t size;
};

static inline struct span span_of(const void *data, size_t size)
{
    return (struct span){ data, size };
}

static inline struct span span_of_string(const char *text)
{
    return (struct span){ (const uint8_t *)text, strlen(text) };
}

/* memcmp order, shorter first; <0, 0, >0. */
int span_compare(struct span a, struct span b);
bool span_equal(struct span a, struct span b);
bool span_has_prefix(struct span whole, struct span prefix);

/* A growing buffer that owns its bytes. A zeroed struct is an empty buffer. */
struct buf {
    uint8_t *data;
    size_t size;
    size_t capacity;
};

void buf_fini(struct buf *buf);
void buf_clear(struct buf *buf); /* keeps the memory */
/* Makes room for more bytes and returns where they go; size is unchanged until buf_commit. */
uint8_t *buf_reserve(struct buf *buf, size_t more);
void buf_commit(struct buf *buf, size_t more);
/* The same where memory may fail: `more` bytes, appended in whatever pieces, will find room. False: there is no memory, nothing
 * changed. gate: may be NULL. */
bool buf_try_reserve(struct buf *buf, struct mem_gate *gate, size_t more);
/* Reserve and commit in one: the caller fills the returned bytes. */
uint8_t *buf_extend(struct buf *buf, size_t more);
void buf_append(struct buf *buf, const void *data, size_t size);
void buf_append_span(struct buf *buf, struct span span);
void buf_printf(struct buf *buf, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Drops bytes from the front. */
void buf_consume(struct buf *buf, size_t count);
/* An empty buffer that is to become a blob (base/mem.h): leaves room for the blob's head, which counts as the buffer's first bytes, and
 * for `more`. False: there is no memory. */
struct blob;
bool buf_begin_blob(struct buf *buf, struct mem_gate *gate, size_t more);
/* The blob of what was appended since, without a copy; one reference, the caller's. The buffer is empty then, without memory. */
struct blob *buf_take_blob(struct buf *buf);
static inline struct span buf_span(const struct buf *buf)
{
    return (struct span){ buf->data, buf->size };
}

/* Little-endian integers at any alignment. */
static inline void put_u16(void *at, uint16_t v) { memcpy(at, &v, 2); }
static inline void put_u32(void *at, uint32_t v) { memcpy(at, &v, 4); }
static inline void put_u64(void *at, uint64_t v) { memcpy(at, &v, 8); }
static inline uint16_t get_u16(const void *at) { uint16_t v; memcpy(&v, at, 2); return v; }
static inline uint32_t get_u32(const void *at) { uint32_t v; memcpy(&v, at, 4); return v; }
static inline uint64_t get_u64(const void *at) { uint64_t v; memcpy(&v, at, 8); return v; }
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "formats are little-endian; add swaps before porting");

/* A reader over a span: every take checks the rest. Once one failed, all later ones fail too: check `bad` at the end. */
struct reader {
    const uint8_t *at;
    size_t left;
    bool bad;
};
static inline struct reader reader_of(struct span span)
{
    return (struct reader){ span.data, span.size, false };
}
uint8_t reader_u8(struct reader *reader);
uint16_t reader_u16(struct reader *reader);
uint32_t reader_u32(struct reader *reader);
uint64_t reader_u64(struct reader *reader);
struct span reader_span(struct reader *reader, size_t size);

#endif
