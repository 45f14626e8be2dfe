/* Topology and status as JSON text. */
#ifndef CLIENT_STATUS_H
#define CLIENT_STATUS_H

#include "client/core.h"
#include "wire/frame.h"

/* A node's StatusResponse as one JSON object, NUL-terminated (the NUL is counted). ERR_PROTOCOL:
 * malformed. */
int status_node_json(struct span message, struct buf *out);
/* A node that did not answer. */
void status_absent_json(const struct topology_node *node, int status, struct buf *out);
/* Opens an object with the cluster's and the topology's members; the caller goes on with ",…" and
 * closes it. */
void status_topology_json(const struct core *core, struct buf *out);

#endif
