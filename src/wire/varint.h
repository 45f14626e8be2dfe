/* Numbers as Protocol Buffers write them: seven bits a byte, the lowest first, the highest bit of a byte says that more follow. */
#ifndef WIRE_VARINT_H
#define WIRE_VARINT_H

#include <stdint.h>

/* Writes 1 to 10 bytes; returns where they end. */
static inline uint8_t *put_varint(uint8_t *out, uint64_t value)
{
    while (value >= 0x80) {
        *out++ = (uint8_t)(value | 0x80);
        value >>= 7;
    }
    *out++ = (uint8_t)value;
    return out;
}

#endif
