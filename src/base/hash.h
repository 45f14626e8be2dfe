/* Hashes and checksums: xxh3 for placement and content, hardware CRC32C for frames and log records. */
#ifndef BASE_HASH_H
#define BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"

/* CRC32C (Castagnoli), continuing from `seed` (0 to begin). Detects SSE4.2 at run time, table otherwise. */
uint32_t hash_crc32c(uint32_t seed, const void *data, size_t size);
/* The sum of two pieces behind each other, from each one's own and the second's size: some 50 instructions, whatever the size. */
uint32_t hash_crc32c_join(uint32_t first, uint32_t second, size_t second_size);
/* The same without special instructions; public so that tests can hold one against the other. */
uint32_t hash_crc32c_portable(uint32_t seed, const void *data, size_t size);
uint32_t hash_crc32c_join_portable(uint32_t first, uint32_t second, size_t second_size);
/* xxh3, 64 bits, seeded: the hash that places keys; the cluster's seed makes it unpredictable from outside. */
uint64_t hash_key(uint64_t seed, struct span key);
/* xxh3, 64 bits, unseeded. */
uint64_t hash_bytes(const void *data, size_t size);
/* A cheap mix of one integer (hash tables, rendezvous scores): the finaliser of splitmix64 (Steele, Lea, Flood 2014), a bijection
 * in which every input bit reaches every output bit. */
static inline uint64_t hash_u64(uint64_t value)
{
    value += 0x9E3779B97F4A7C15u;
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9u;
    value = (value ^ (value >> 27)) * 0x94D049BB133111EBu;
    return value ^ (value >> 31);
}

#endif
