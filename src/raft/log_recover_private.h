/* What the files of recovery share (log_recover.c says how it works); for nobody else. */
#ifndef RAFT_LOG_RECOVER_PRIVATE_H
#define RAFT_LOG_RECOVER_PRIVATE_H

#include "raft/log_private.h"

/* A file NUMBER.log. */
struct found {
    struct log_record_segment header;
    struct env_file *file;
    bool is_in_chain;
    bool is_gap_before; /* in the chain; a segment between is missing */
};

struct recovery {
    struct log *log;
    struct err *err;
    struct found *found; /* by number */
    size_t count, capacity;
    uint64_t *spares; /* numbers of .spare files */
    size_t spare_count, spare_capacity;
    uint64_t number_max;
    uint8_t *image;
    size_t tail; /* position in found; count = the log is empty */
    size_t *chain;
    size_t chain_count;
    uint64_t sequence;            /* of the last batch replayed */
    struct log_record_head last;  /* the tail's last batch */
    struct log_pendings unproven; /* its entries */
    struct log_vote *votes;
    size_t vote_count, vote_capacity;
    uint64_t missing;
    bool is_lost;      /* record headers were lost, here or there */
    bool is_ended;     /* the last batch had ENDED records */
    bool is_lost_late; /* behind everything that is replayed, be it nothing */
};

static inline uint32_t found_sectors(const struct found *found)
{
    return (uint32_t)(found->header.bytes / LOG_RECORD_SECTOR);
}

/* --- log_recover.c: what is wrong with the log */

/* That can't be recovered from: ERR_CORRUPT. */
int recovery_damage(struct recovery *recovery, const struct found *found, uint32_t sector,
                    const char *reason);
/* Behind this point of the replay nothing is certain (D1). */
void recovery_gap(struct recovery *recovery);
/* Damage that costs record headers: an error only if nobody could give back what is lost. */
int recovery_lose(struct recovery *recovery, const struct found *found, uint32_t sector,
                  const char *reason);
/* The same behind all that will be replayed, where no later recovery looks. */
int recovery_lose_late(struct recovery *recovery, const struct found *found, uint32_t sector,
                       const char *reason);

/* --- log_recover_find.c */

/* Lists the folder and opens all segments. */
int recovery_find_files(struct recovery *recovery);
/* The segment as a whole into recovery->image. */
int recovery_load(struct recovery *recovery, const struct found *found);
/* Sets tail and last; makes the tail's groups known. */
int recovery_find_tail(struct recovery *recovery);
/* What a segment was begun behind must be there, or segments were lost. */
int recovery_check_newer(struct recovery *recovery);
int recovery_find_chain(struct recovery *recovery);

/* --- log_recover_replay.c */

/* Makes the record's group known, or cuts it. NULL, or what is wrong with the record. */
const char *recovery_apply_start(struct recovery *recovery, const struct log_record *record);
/* The newer of two states; one term has one vote. NULL, or what is wrong. */
const char *recovery_apply_state(struct log_group *group, uint64_t term, uint64_t vote);
int recovery_replay(struct recovery *recovery);

/* --- log_recover_finish.c */

int recovery_read_votes(struct recovery *recovery);
/* D3: groups of which no record is left. */
void recovery_add_expected(struct recovery *recovery);
int recovery_merge_votes(struct recovery *recovery);
int recovery_finish_groups(struct recovery *recovery);
/* What log_group_at tells of each group. */
void recovery_tell_starts(struct log *log);

/* --- log_recover_rewrite.c */

/* The fresh segment that all that follows is written to. */
int recovery_make_segment(struct recovery *recovery);
int recovery_rewrite_last(struct recovery *recovery);
/* Every group's state into the copy that is older, all synced. */
int recovery_rewrite_votes(struct recovery *recovery);
int recovery_remove_files(struct recovery *recovery);

#endif
