/* The request: one frame's question, from its arrival to its answer. Clients' connections (server/) and other nodes (forwarded
 * requests) enter here. */
#ifndef NODE_REQUEST_H
#define NODE_REQUEST_H

#include "base/list.h"
#include "wire/conn.h"

struct node;

/* Who asks. Embedded by the owner of a connection. */
struct request_origin {
    struct list requests;
    size_t count, bytes; /* unanswered, and their values */
    /* The answer; payload pieces as conn_send_pieces takes them, valid during the call. */
    void (*respond)(struct request_origin *origin, const struct frame *frame, const struct conn_piece *pieces, size_t count);
    /* Room in an answer that others share, see conn_extend. NULL: gets that came together are answered one by one. */
    uint8_t *(*extend)(struct request_origin *origin, const struct frame *head, size_t size);
    /* How many bytes of values an answer may have now, so that who does not read costs bounded memory. */
    size_t (*room)(struct request_origin *origin);
    /* There is no memory for the answer of a request that may have changed something: closes the connection, so that the asker
     * knows that it knows nothing. */
    void (*abandon)(struct request_origin *origin);
};

void request_origin_init(struct request_origin *origin,
                         void (*respond)(struct request_origin *origin, const struct frame *frame,
                                         const struct conn_piece *pieces, size_t count),
                         size_t (*room)(struct request_origin *origin),
                         void (*abandon)(struct request_origin *origin));
/* Takes on a FRAME_REQUEST. Its answer comes by origin->respond, later or within the call (errors that are found at once). */
void request_start(struct node *node, struct request_origin *origin, const struct frame *frame);
/* The asker is gone: nothing of its requests is answered any more. Writes that were begun go on. */
void request_origin_gone(struct request_origin *origin);

#endif
