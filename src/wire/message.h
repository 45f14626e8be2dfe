/* Packs and unpacks the messages of proto/, in the same bytes as protobuf-c does, for the ways on which every request goes: there
 * the library's own functions took more time than all that a request does besides. They stay the reference
 * (t/unit/wire/test_message.c compares), and the judge of everything unusual. */
#ifndef WIRE_MESSAGE_H
#define WIRE_MESSAGE_H

#include <protobuf-c/protobuf-c.h>

#include "base/bytes.h"
#include "base/mem.h"

/* Bytes of the packed message. */
size_t message_size(const ProtobufCMessage *message);
/* Packs into memory for message_size bytes; returns how many were written. Unknown fields that a message brought are left out. */
size_t message_pack(const ProtobufCMessage *message, uint8_t *out);
/* For message_unpack: memory of the arena, which may refuse (arena->has_refused tells). */
ProtobufCAllocator message_allocator(struct arena *arena);
/* NULL: malformed, or the allocator refused. Nothing is freed when it fails, so the allocator must belong to an arena; the message
 * lives as long as that, and borrows nothing from bytes. */
void *message_unpack(const ProtobufCMessageDescriptor *descriptor, ProtobufCAllocator *arena, struct span bytes);

#endif
