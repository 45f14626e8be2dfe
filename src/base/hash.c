/* CRC32C in hardware where there is SSE4.2, by a table of nibbles elsewhere; xxh3 from its library,
 * inlined.
 *
 * The processor is asked at each call (a load and a test of a bit that the C runtime filled in at
 * start): no global of ours remembers the answer. */
#include "base/hash.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#if defined(__x86_64__)
#include <nmmintrin.h>
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

    for (; size >= 8; at += 8, size -= 8) {
        crc = _mm_crc32_u64(crc, get_u64(at));
    }
    for (; size; at++, size--) {
        crc = _mm_crc32_u8((uint32_t)crc, *at);
    }
    return ~(uint32_t)crc;
}
#endif

uint32_t hash_crc32c(uint32_t seed, const void *data, size_t size)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("sse4.2")) {
        return crc32c_hardware(seed, data, size);
    }
#endif
    return hash_crc32c_portable(seed, data, size);
}

uint64_t hash_key(uint64_t seed, struct span key)
{
    return XXH3_64bits_withSeed(key.data, key.size, seed);
}

uint64_t hash_bytes(const void *data, size_t size)
{
    return XXH3_64bits(data, size);
}

/* The finaliser of splitmix64 (Steele, Lea, Flood 2014): a bijection in which every input bit
 * reaches every output bit. */
uint64_t hash_u64(uint64_t value)
{
    value += 0x9E3779B97F4A7C15u;
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9u;
    value = (value ^ (value >> 27)) * 0x94D049BB133111EBu;
    return value ^ (value >> 31);
}
