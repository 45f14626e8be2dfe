/* What clocks can prove to one replica of one group: that it may answer reads alone (a lease), and how far behind it is.
 *
 * Every clock here is a replica's own monotonic one, in ms; a time of one replica is only ever compared with times of the same
 * replica. Two of them travel with each append and its answer: `stamp`, the sender's clock at sending, and `echo`, the newest stamp
 * of the receiver that the sender can vouch for.
 *
 * Lease. A follower that follows an append promises to vote for nobody else for an election timeout T from then on, by its own
 * clock; its answer echoes the append's stamp. Let c be the newest time such that a majority (the leader itself counted with now)
 * followed appends sent at c or later. Each promise was made after c, so nobody else can be elected before c + T, and until then
 * the leader's commit index covers everything that anybody acknowledged. The leader uses LEASE_PERCENT of T: a follower's clock
 * may run 1.25 times as fast as the leader's before a promise ends too soon. A clock that stands still while others go on (a
 * machine suspended as a whole) is outside of what a lease can bear.
 *
 * Staleness. The leader hears a follower's stamp f at its own time l. Once c > l, a majority followed an append that was sent
 * after f: so no other leader had acknowledged anything before f, and what this one acknowledged before f is within its commit
 * index. From then on its appends echo f. A follower that has applied the commit index of such an append holds everything that was
 * acknowledged before its time f. No bound on clock rates is needed for that.
 *
 * Invariants
 *   L1  A lease rests on appends alone, followed in this term, and on beats, which stand for appends (raft.c, I20).
 *   L2  Once the order to take over was sent, there is no lease any more in this term: votes by order pass by the promise, and
 *       neither the order nor such a vote can be called back.
 *   L3  A promise outlives the term in which it was made. A replica that starts has forgotten its promises, so it acts as if it had
 *       made one just then.
 *   L4  Echoes are believed only within [start, now] of the receiver's clock. */
#ifndef RAFT_LEASE_H
#define RAFT_LEASE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/limits.h"

enum { LEASE_PERCENT = 80 }; /* of the election timeout */

/* A leader's knowledge of one follower. Times 0: none. */
struct lease_peer {
    uint64_t followed_ms; /* own clock: it followed an append sent then */
    /* Its stamps that a majority has not confirmed yet, oldest first: the one that is next to be vouched for, and the newest. What
     * comes between is passed over, so that a confirmation that takes long still ends. */
    struct {
        uint64_t stamp_ms; /* its clock */
        uint64_t heard_ms; /* own clock */
    } waiting[2];
    int waiting_count;
    uint64_t vouched_ms; /* its clock: what appends echo to it */
};

struct lease {
    uint64_t started_ms;
    uint64_t promise_until_ms; /* no vote for another before, but by order */
    uint64_t append_ms;        /* the leader's clock: newest stamp followed in this term */
    /* What leaders said and is not applied yet: everything acknowledged before stamp_ms is within commit. As `waiting` above. */
    struct lease_claim {
        uint64_t stamp_ms, commit;
    } claims[2];
    int claim_count;
    uint64_t applied;  /* as told last */
    uint64_t fresh_ms; /* own clock: everything acknowledged before is applied here; 0: not known */
    bool was_ordered;  /* L2 */
    struct lease_peer peers[LIMIT_REPLICAS];
};

/* made_promises: it may have voted or followed before it started (L3). */
void lease_init(struct lease *lease, uint64_t now_ms, uint64_t timeout_ms, bool made_promises);
/* Another term, or leadership begins: what was known of this term is void. The promise and the claims stay. */
void lease_enter_term(struct lease *lease);
/* A follower accepted the sender as its leader. */
void lease_promise(struct lease *lease, uint64_t now_ms, uint64_t timeout_ms);
/* A follower followed an append. */
void lease_heard_append(struct lease *lease, uint64_t stamp, uint64_t echo, uint64_t commit, uint64_t now_ms);
/* The leader heard the answer of the follower at `peer` to an append of this term. */
void lease_heard_reply(struct lease *lease, int peer, uint64_t stamp, uint64_t echo, uint64_t now_ms);
/* The connection to it broke: what comes next may be of another process, with another clock. */
void lease_peer_reset(struct lease *lease, int peer);
/* The time c of the head comment: `count` replicas, this one at `self`; 0: none. */
uint64_t lease_confirmed(const struct lease *lease, int count, int self, uint64_t now_ms);
/* What two of three values reach: with three replicas every majority comes down to it. */
static inline uint64_t lease_median(uint64_t a, uint64_t b, uint64_t c)
{
    uint64_t least = a < b ? a : b, most = a < b ? b : a, bounded = most < c ? most : c;
    return least > bounded ? least : bounded;
}
/* Vouches for what c confirms. */
void lease_vouch(struct lease *lease, int count, uint64_t confirmed_ms);
/* The store has applied to here. It may be less than before, when an image took the store's place: then nothing is known any more. */
void lease_applied(struct lease *lease, uint64_t applied);

#endif
