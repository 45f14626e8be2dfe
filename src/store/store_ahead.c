/* What applying will touch, asked for from memory before. Sessions and overlays of a loaded node are far larger than the processor's
 * caches, and each command needs a chain of places in them that only memory tells one after another. So that is done for several
 * commands side by side, one link of their chains at a time. It believes nothing and changes nothing: store_apply does all again. */
#include "store/store_private.h"

#include "base/check.h"

enum {
    PAYLOAD_BYTES = 384
}; /* of small ones nearly all; larger ones are read by the processor's own foresight */

void store_ahead_begin(struct store_ahead *item, struct store_replica *replica,
                       const struct blob *payload)
{
    *item = (struct store_ahead){ .replica = replica, .payload = payload };
    mem_prefetch(payload, PAYLOAD_BYTES);
}

void store_ahead(struct store_ahead *items, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct store_ahead *item = &items[i];
        if (command_peek(item->payload, &item->session, &item->key)) {
            session_prefetch_place(item->replica->sessions, item->session);
            item->leaf = overlay_prefetch_leaf(item->replica->active, item->key);
            (void)overlay_prefetch_leaf(item->replica->frozen, item->key);
        }
    }
    for (size_t i = 0; i < count; i++) {
        struct store_ahead *item = &items[i];
        if (item->key.size > 0) {
            item->found = session_prefetch(item->replica->sessions, item->session);
            overlay_prefetch_nodes(item->leaf, item->key);
        }
    }
    for (size_t i = 0; i < count; i++) {
        session_prefetch_around(items[i].found);
    }
}
