/* Spans, growing buffers, bounded readers.
 *
 * I1  size <= capacity; data is NULL exactly when capacity is 0.
 * I2  Sizes never wrap: an addition that would is our own bug (inputs are bounded before they get
 * here), so it panics. */
#include "base/bytes.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/check.h"
#include "base/mem.h"

enum { BUF_CAPACITY_MIN = 64, BLOB_HEAD_BYTES = offsetof(struct blob, data) };

int span_compare(struct span a, struct span b)
{
    size_t common = a.size < b.size ? a.size : b.size;
    int order = common ? memcmp(a.data, b.data, common) : 0;

    return order ? order : (a.size > b.size) - (a.size < b.size);
}

bool span_equal(struct span a, struct span b)
{
    return a.size == b.size && (a.size == 0 || memcmp(a.data, b.data, a.size) == 0);
}

bool span_has_prefix(struct span whole, struct span prefix)
{
    return prefix.size <= whole.size &&
           (prefix.size == 0 || memcmp(whole.data, prefix.data, prefix.size) == 0);
}

void buf_fini(struct buf *buf)
{
    mem_free(buf->data);
    *buf = (struct buf){ 0 };
}

void buf_clear(struct buf *buf)
{
    buf->size = 0;
}

static size_t buf_capacity_for(const struct buf *buf, size_t needed)
{
    size_t capacity = buf->capacity < BUF_CAPACITY_MIN ? BUF_CAPACITY_MIN : buf->capacity;

    while (capacity < needed) {
        CHECK(capacity <= SIZE_MAX / 2);
        capacity *= 2;
    }
    return capacity;
}

static void buf_grow(struct buf *buf, size_t needed)
{
    size_t capacity = buf_capacity_for(buf, needed);

    buf->data = mem_realloc(buf->data, capacity);
    buf->capacity = capacity;
}

uint8_t *buf_reserve(struct buf *buf, size_t more)
{
    size_t needed;

    CHECK(!__builtin_add_overflow(buf->size, more, &needed));
    if (needed > buf->capacity || !buf->data) {
        buf_grow(buf, needed);
    }
    return buf->data + buf->size;
}

bool buf_try_reserve(struct buf *buf, struct mem_gate *gate, size_t more)
{
    size_t needed;

    CHECK(!__builtin_add_overflow(buf->size, more, &needed));
    if (needed <= buf->capacity && buf->data) {
        return !mem_gate_refuses(gate);
    }
    size_t capacity = buf_capacity_for(buf, needed);
    uint8_t *data = mem_try_realloc(gate, buf->data, capacity);
    if (!data) {
        return false;
    }
    buf->data = data;
    buf->capacity = capacity;
    return true;
}

void buf_commit(struct buf *buf, size_t more)
{
    CHECK(more <= buf->capacity - buf->size);
    buf->size += more;
}

uint8_t *buf_extend(struct buf *buf, size_t more)
{
    uint8_t *at = buf_reserve(buf, more);

    buf->size += more;
    return at;
}

void buf_append(struct buf *buf, const void *data, size_t size)
{
    if (size) {
        memcpy(buf_extend(buf, size), data, size);
    }
}

void buf_append_span(struct buf *buf, struct span span)
{
    buf_append(buf, span.data, span.size);
}

void buf_printf(struct buf *buf, const char *format, ...)
{
    va_list args, again;

    va_start(args, format);
    va_copy(again, args);
    uint8_t *at = buf_reserve(buf, BUF_CAPACITY_MIN);
    size_t room = buf->capacity - buf->size;
    int size = vsnprintf((char *)at, room, format, args);
    va_end(args);
    CHECK(size >= 0);
    if ((size_t)size >= room) {
        at = buf_reserve(buf, (size_t)size + 1); /* vsnprintf wants room for its NUL */
        vsnprintf((char *)at, (size_t)size + 1, format, again);
    }
    va_end(again);
    buf->size += (size_t)size;
}

void buf_consume(struct buf *buf, size_t count)
{
    CHECK(count <= buf->size);
    buf->size -= count;
    if (buf->size && count) {
        memmove(buf->data, buf->data + count, buf->size);
    }
}

bool buf_begin_blob(struct buf *buf, struct mem_gate *gate, size_t more)
{
    CHECK(buf->size == 0);
    if (!buf_try_reserve(buf, gate, BLOB_HEAD_BYTES + more)) {
        return false;
    }
    buf_commit(buf, BLOB_HEAD_BYTES);
    return true;
}

struct blob *buf_take_blob(struct buf *buf)
{
    size_t size = buf->size - BLOB_HEAD_BYTES;

    CHECK(buf->size >= BLOB_HEAD_BYTES && buf->capacity >= sizeof(struct blob) &&
          size <= UINT32_MAX);
    struct blob *blob = (struct blob *)buf->data;
    blob->references = 1; /* field by field: the data begin within what sizeof counts */
    blob->size = (uint32_t)size;
    blob->crc = 0;
    blob->is_summed = false;
    *buf = (struct buf){ 0 };
    return blob;
}

/* The next `size` bytes; NULL, and bad for good, when there are fewer. */
static const uint8_t *reader_take(struct reader *reader, size_t size)
{
    const uint8_t *at = reader->at;

    if (reader->bad || size > reader->left) {
        reader->bad = true;
        return NULL;
    }
    if (size) { /* NULL + 0 is undefined in C11 */
        reader->at += size;
        reader->left -= size;
    }
    return at;
}

uint8_t reader_u8(struct reader *reader)
{
    const uint8_t *at = reader_take(reader, 1);
    return at ? *at : 0;
}

uint16_t reader_u16(struct reader *reader)
{
    const uint8_t *at = reader_take(reader, 2);
    return at ? get_u16(at) : 0;
}

uint32_t reader_u32(struct reader *reader)
{
    const uint8_t *at = reader_take(reader, 4);
    return at ? get_u32(at) : 0;
}

uint64_t reader_u64(struct reader *reader)
{
    const uint8_t *at = reader_take(reader, 8);
    return at ? get_u64(at) : 0;
}

struct span reader_span(struct reader *reader, size_t size)
{
    const uint8_t *at = reader_take(reader, size);
    return reader->bad ? (struct span){ NULL, 0 } : (struct span){ at, size };
}
