/* Linearizability of one key's history: is there an order of the operations, consistent with their real order, in which a register
 * with versions would have answered so? (Herlihy, Wing 1990; search after Wing, Gong 1993 and Lowe 2017.)
 *
 * The register: absent, or a value with a version. Versions grow with every change and never repeat. Each write writes a value that no
 * other writes. Operations with unknown outcome may have happened at any time after their call, or never. */
#ifndef SIM_LINEAR_H
#define SIM_LINEAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum linear_kind { LINEAR_PUT, LINEAR_GET, LINEAR_DELETE };
enum linear_condition { LINEAR_ALWAYS, LINEAR_IF_ABSENT, LINEAR_IF_VERSION, LINEAR_IF_PRESENT };
enum linear_outcome {
    LINEAR_PENDING, /* not answered yet; counts as unknown */
    LINEAR_OK,      /* GET: found; PUT: written; DELETE: see existed */
    LINEAR_ABSENT,  /* GET: not found */
    LINEAR_REFUSED, /* the condition did not hold; version: the present one, 0 = absent */
    LINEAR_UNKNOWN,
    LINEAR_NOTHING, /* certainly not applied, or a failed read: not part of the history */
};

#define LINEAR_NEVER UINT64_MAX

struct linear_op {
    uint8_t kind, condition, outcome;
    bool existed;               /* DELETE */
    uint32_t client;            /* for people */
    uint64_t condition_version;
    uint64_t value;             /* written or read; not 0 */
    uint64_t version;           /* as answered; 0: not told */
    uint64_t call, reply;       /* places in the real order, below 2^61; equal ones overlap; reply LINEAR_NEVER when not
                                   answered */
};

enum linear_verdict { LINEAR_YES, LINEAR_NO, LINEAR_UNDECIDED };

/* Judges the history of one key that is absent at first. steps_max bounds the search (0: two million). *stuck (NULL allowed) becomes,
 * with LINEAR_NO, the place of the earliest reply up to which there is no order. */
enum linear_verdict linear_check(const struct linear_op *ops, size_t count, uint64_t steps_max, uint64_t *stuck);

#endif
