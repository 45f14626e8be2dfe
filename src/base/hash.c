/* CRC32C in hardware where there is SSE4.2, by a table of nibbles elsewhere; xxh3 from its library,
 * inlined.
 *
 * The instruction takes three cycles but one can begin in each: three lanes of a block are summed
 * side by side and joined (Gopal et al., "Fast CRC computation for iSCSI polynomial", 2011). A sum
 * is carried over n bytes of another lane by multiplying it by x^(8n) modulo the polynomial: a
 * carry-less product with the bit-reflected x^(8n - 33), which the instruction then reduces (by
 * x^32; the last x is the product's, whose reflection is one bit short).
 *
 * The processor is asked at each call (a load and a test of a bit that the C runtime filled in at
 * start): no global of ours remembers the answer. */
#include "base/hash.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#if defined(__x86_64__)
#include <nmmintrin.h>
#include <wmmintrin.h>
#endif

/* One step of the reflected Castagnoli polynomial, and four of them: the table of nibbles. */
#define CRC_STEP(c) (((c) >> 1) ^ (0x82F63B78u & (0u - ((c)&1u))))
#define CRC_NIBBLE(c) CRC_STEP(CRC_STEP(CRC_STEP(CRC_STEP((uint32_t)(c)))))

static const uint32_t crc_nibbles[16] = {
    CRC_NIBBLE(0),  CRC_NIBBLE(1),  CRC_NIBBLE(2),  CRC_NIBBLE(3),  CRC_NIBBLE(4),  CRC_NIBBLE(5),
    CRC_NIBBLE(6),  CRC_NIBBLE(7),  CRC_NIBBLE(8),  CRC_NIBBLE(9),  CRC_NIBBLE(10), CRC_NIBBLE(11),
    CRC_NIBBLE(12), CRC_NIBBLE(13), CRC_NIBBLE(14), CRC_NIBBLE(15),
};

uint32_t hash_crc32c_portable(uint32_t seed, const void *data, size_t size)
{
    const uint8_t *at = data;
    uint32_t crc = ~seed;

    for (size_t i = 0; i < size; i++) {
        crc ^= at[i];
        crc = (crc >> 4) ^ crc_nibbles[crc & 15];
        crc = (crc >> 4) ^ crc_nibbles[crc & 15];
    }
    return ~crc;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t crc32c_hardware(uint32_t seed, const void *data,
                                                                  size_t size)
{
    const uint8_t *at = data;
    uint64_t crc = (uint32_t)~seed;

    for (; size >= 32; at += 32, size -= 32) { /* a frame's header is two of these and a rest */
        crc = _mm_crc32_u64(crc, get_u64(at));
        crc = _mm_crc32_u64(crc, get_u64(at + 8));
        crc = _mm_crc32_u64(crc, get_u64(at + 16));
        crc = _mm_crc32_u64(crc, get_u64(at + 24));
    }
    for (; size >= 8; at += 8, size -= 8) {
        crc = _mm_crc32_u64(crc, get_u64(at));
    }
    if (size & 4) {
        crc = _mm_crc32_u32((uint32_t)crc, get_u32(at));
        at += 4;
    }
    if (size & 2) {
        crc = _mm_crc32_u16((uint32_t)crc, get_u16(at));
        at += 2;
    }
    if (size & 1) {
        crc = _mm_crc32_u8((uint32_t)crc, *at);
    }
    return ~(uint32_t)crc;
}

/* The lanes' lengths and what carries a sum over one lane and over two. */
enum { LANE_TINY = 80, LANE_SHORT = 128, LANE_LONG = 1024 };
static const uint32_t TINY_OVER_ONE = 0x39d3b296, TINY_OVER_TWO = 0x878a92a7;
static const uint32_t SHORT_OVER_ONE = 0x0d3b6092, SHORT_OVER_TWO = 0xb9e02b86;
static const uint32_t LONG_OVER_ONE = 0x170076fa, LONG_OVER_TWO = 0xa51b6135;

__attribute__((target("sse4.2,pclmul"))) static inline uint64_t carry_over(uint64_t crc,
                                                                           uint32_t factor)
{
    __m128i product = _mm_clmulepi64_si128(_mm_cvtsi64_si128((int64_t)crc),
                                           _mm_cvtsi64_si128((int64_t)factor), 0);
    return _mm_crc32_u64(0, (uint64_t)_mm_cvtsi128_si64(product));
}

/* Three lanes. */
__attribute__((target("sse4.2,pclmul"))) static inline uint64_t
crc32c_block(uint64_t crc, const uint8_t *at, size_t lane, uint32_t over_one, uint32_t over_two)
{
    uint64_t second = 0, third = 0;

    for (const uint8_t *end = at + lane; at < end; at += 8) {
        crc = _mm_crc32_u64(crc, get_u64(at));
        second = _mm_crc32_u64(second, get_u64(at + lane));
        third = _mm_crc32_u64(third, get_u64(at + 2 * lane));
    }
    return carry_over(crc, over_two) ^ carry_over(second, over_one) ^ third;
}

__attribute__((target("sse4.2,pclmul"))) static uint32_t
crc32c_in_lanes(uint32_t seed, const void *data, size_t size)
{
    const uint8_t *at = data;
    uint64_t crc = (uint32_t)~seed;

    for (; size >= 3 * LANE_LONG; at += 3 * LANE_LONG, size -= 3 * LANE_LONG) {
        crc = crc32c_block(crc, at, LANE_LONG, LONG_OVER_ONE, LONG_OVER_TWO);
    }
    for (; size >= 3 * LANE_SHORT; at += 3 * LANE_SHORT, size -= 3 * LANE_SHORT) {
        crc = crc32c_block(crc, at, LANE_SHORT, SHORT_OVER_ONE, SHORT_OVER_TWO);
    }
    if (size >= 3 * LANE_TINY) { /* a put of 256 bytes is summed a dozen times on its way */
        crc = crc32c_block(crc, at, LANE_TINY, TINY_OVER_ONE, TINY_OVER_TWO);
        at += 3 * LANE_TINY;
        size -= 3 * LANE_TINY;
    }
    return crc32c_hardware(~(uint32_t)crc, at, size);
}
#endif

uint32_t hash_crc32c(uint32_t seed, const void *data, size_t size)
{
#if defined(__x86_64__)
    if (size >= 3 * LANE_TINY && __builtin_cpu_supports("pclmul") &&
        __builtin_cpu_supports("sse4.2")) {
        return crc32c_in_lanes(seed, data, size);
    }
    if (__builtin_cpu_supports("sse4.2")) {
        return crc32c_hardware(seed, data, size);
    }
#endif
    return hash_crc32c_portable(seed, data, size);
}

/* a · b modulo the polynomial, all bit-reflected: the highest bit is x^0. */
static uint32_t crc_multiply(uint32_t a, uint32_t b)
{
    uint32_t product = 0;

    for (; a; a <<= 1) {
        product ^= b & (0u - (a >> 31));
        b = CRC_STEP(b);
    }
    return product;
}

/* The first sum is carried over the second piece; sums begin and end inverted, which cancels out. */
uint32_t hash_crc32c_join_portable(uint32_t first, uint32_t second, size_t second_size)
{
    uint32_t over = 1u << 23; /* x^8: one byte; squared, two; … */

    for (; second_size; second_size >>= 1) {
        first = second_size & 1 ? crc_multiply(over, first) : first;
        over = crc_multiply(over, over);
    }
    return first ^ second;
}

#if defined(__x86_64__)
/* What carries a sum over 2^i bytes, see carry_over: x^(8 · 2^i - 33). */
static const uint32_t crc_over_bytes[] = {
    0xbf818109, 0x780d5a4d, 0x05ec76f1, 0x00000001, 0x493c7d27, 0xba4fc28e, 0x9e4addf8, 0x0d3b6092,
    0xb9e02b86, 0xdd7e3b0c, 0x170076fa, 0xa51b6135, 0x82f89c77, 0x54a86326, 0x1dc403cc, 0x5ae703ab,
    0xc5013a36, 0xac2ac6dd, 0x9b4615a9, 0x688d1c61, 0xf6af14e6, 0xb6ffe386, 0xb717425b, 0x478b0d30,
};

__attribute__((target("sse4.2,pclmul"))) static uint32_t
crc32c_join_hardware(uint32_t first, uint32_t second, size_t second_size)
{
    uint64_t crc = first;

    for (; second_size; second_size &= second_size - 1) {
        crc = carry_over(crc, crc_over_bytes[__builtin_ctzl(second_size)]);
    }
    return (uint32_t)crc ^ second;
}
#endif

uint32_t hash_crc32c_join(uint32_t first, uint32_t second, size_t second_size)
{
#if defined(__x86_64__)
    enum { SIZE_END = sizeof crc_over_bytes / sizeof *crc_over_bytes };
    if (second_size >> SIZE_END == 0 && __builtin_cpu_supports("pclmul") &&
        __builtin_cpu_supports("sse4.2")) {
        return crc32c_join_hardware(first, second, second_size);
    }
#endif
    return hash_crc32c_join_portable(first, second, second_size);
}

uint64_t hash_key(uint64_t seed, struct span key)
{
    return XXH3_64bits_withSeed(key.data, key.size, seed);
}

uint64_t hash_bytes(const void *data, size_t size)
{
    return XXH3_64bits(data, size);
}
