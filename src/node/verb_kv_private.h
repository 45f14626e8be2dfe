/* What the files of the verbs on keys share (verb_kv.c says how they work); for nobody else. */
#ifndef NODE_VERB_KV_PRIVATE_H
#define NODE_VERB_KV_PRIVATE_H

#include "node/request_private.h"

typedef Cairn__V1__Operation Operation;
typedef Cairn__V1__OperationResult OperationResult;

static inline bool kv_is_multi(const struct request *request)
{
    return request->verb == VERB_MULTI;
}

static inline bool kv_is_read(const struct operation *operation)
{
    return operation->kind == CAIRN__V1__OPERATION__KIND__GET ||
           operation->kind == CAIRN__V1__OPERATION__KIND__GET_META;
}

static inline bool kv_is_weak_read(const struct operation *operation)
{
    return kv_is_read(operation) && operation->consistency != CAIRN__V1__CONSISTENCY__LINEARIZABLE;
}

static inline bool kv_is_stale_read(const struct operation *operation)
{
    return kv_is_read(operation) && operation->consistency == CAIRN__V1__CONSISTENCY__STALE;
}

/* --- verb_kv.c */

/* A refusal says nothing of an earlier forward whose answer was lost. */
void kv_finish(struct operation *operation, int status);
/* It is asked again, a read at the primary this time. */
void kv_ask_again(struct operation *operation);
/* Whether the replica here may answer (or has just rightly answered) this weak read by itself. */
bool kv_may_read_alone(struct operation *operation, const struct partition *partition);
/* From now on it is a linearizable read. */
void kv_bar_weak_way(struct operation *operation);

/* --- verb_kv_take.c */

/* NULL leaves them as they are. */
void kv_unpack_attributes(const Cairn__V1__Attributes *from, struct attributes *to);

/* --- verb_kv_forward.c */

void kv_pack_attributes(const struct attributes *from, Cairn__V1__Attributes *to);
/* As request_link_to; a stale read goes to any replica. */
struct link *kv_choose_link(struct operation *operation, int *status);
/* Sends the new operations that go to `link` on their way, beginning with number `first`. False:
 * there is no memory. */
bool kv_forward_to(struct request *request, struct link *link, size_t first);

/* --- verb_kv_answer.c */

/* Answers when nothing is open any more. May free the request. */
void kv_settle(struct request *request);

#endif
