/* The votes file: the second copy of each group's term and vote (the first is in the log).
 *
 *   sector 0          magic "CAIRNVOT", format, CRC32C, cluster id, node id (laid out as a
 * segment's header, number 1) sector 1 + 2p     pair p, copy 0 (struct log_record_vote) sector 2 +
 * 2p     pair p, copy 1
 *
 * A group owns a pair and writes its copies in turn, each a sector of its own, that holds the vote twice: a torn write never
 * costs both, and leaves nothing that looks damaged. All calls block. */
#ifndef RAFT_LOG_VOTES_H
#define RAFT_LOG_VOTES_H

#include "base/logger.h"
#include "env/env.h"
#include "raft/log_record.h"

/* What one pair holds. */
struct log_vote {
    uint32_t pair;
    uint32_t copy; /* where to write next: not the newer one */
    struct log_record_vote record;
};

struct log_votes {
    struct env_file *file;
    uint32_t pairs;  /* in use */
    bool is_damaged; /* something in the file was unreadable, or it was missing: a vote may be gone */
};

/* Opens the file, or makes it; calls `each` with the newer copy of every pair that has one. A
 * damaged header or pair is logged and left behind: the log has the other copy.
 * ERR_CLUSTER_MISMATCH, ERR_IO. */
int log_votes_open(struct log_votes *votes, struct env *env, struct logger *logger,
                   const char *directory, const struct log_record_owner *owner,
                   void (*each)(void *ctx, const struct log_vote *vote), void *ctx,
                   struct err *err);
/* Writes a copy; durable after env_file_sync(votes->file). Counts neither sequence nor copy on. */
int log_votes_write(struct env *env, struct env_file *file, const struct log_vote *vote,
                    struct err *err);
/* Forgets what a pair holds. */
int log_votes_erase(struct env *env, struct env_file *file, uint32_t pair, struct err *err);

#endif
