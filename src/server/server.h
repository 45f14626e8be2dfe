/* The server: a node with its doors open. It listens, greets, and passes requests to the node; what daemon and simulator start.
 *
 *   server_start → … → server_stop → on_stopped of the config → server_abandon (frees)
 *   server_abandon at any time: as if the process had died. */
#ifndef SERVER_SERVER_H
#define SERVER_SERVER_H

#include "node/node.h"

struct server;

int server_start(struct env *env, struct logger *logger, const struct node_config *config, struct server **out, struct err *err);
void server_stop(struct server *server);
void server_abandon(struct server *server);
struct node *server_node(struct server *server);

#endif
