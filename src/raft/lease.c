/* Leases and staleness: see lease.h, which has the reasoning. Pure arithmetic on times. */
#include "raft/lease.h"

#include <string.h>

void lease_init(struct lease *lease, uint64_t now_ms, uint64_t timeout_ms, bool made_promises)
{
    *lease = (struct lease){ .started_ms = now_ms };
    if (made_promises) {
        lease_promise(lease, now_ms, timeout_ms); /* L3 */
    }
}

void lease_enter_term(struct lease *lease)
{
    lease->append_ms = 0;
    lease->was_ordered = false;
    memset(lease->peers, 0, sizeof lease->peers);
}

void lease_promise(struct lease *lease, uint64_t now_ms, uint64_t timeout_ms)
{
    if (lease->promise_until_ms < now_ms + timeout_ms) {
        lease->promise_until_ms = now_ms + timeout_ms;
    }
}

void lease_heard_append(struct lease *lease, uint64_t stamp, uint64_t echo, uint64_t commit,
                        uint64_t now_ms)
{
    if (stamp > lease->append_ms) {
        lease->append_ms = stamp;
    }
    if (echo == 0 || echo < lease->started_ms || echo > now_ms) {
        return; /* L4 */
    }
    int count = lease->claim_count;
    if (count > 0 && lease->claims[count - 1].stamp_ms >= echo) {
        return; /* nothing new */
    }
    int at = count < 2 ? count : 1;
    lease->claims[at] = (struct lease_claim){ echo, commit };
    lease->claim_count = at + 1;
}

void lease_heard_reply(struct lease *lease, int peer, uint64_t stamp, uint64_t echo,
                       uint64_t now_ms)
{
    struct lease_peer *of = &lease->peers[peer];
    if (echo > of->followed_ms && echo <= now_ms) {
        of->followed_ms = echo;
    }
    if (stamp != 0) {
        int at = of->waiting_count < 2 ? of->waiting_count : 1;
        of->waiting[at].stamp_ms = stamp;
        of->waiting[at].heard_ms = now_ms;
        of->waiting_count = at + 1;
    }
}

void lease_peer_reset(struct lease *lease, int peer)
{
    lease->peers[peer].waiting_count = 0;
    lease->peers[peer].vouched_ms = 0;
}

uint64_t lease_confirmed(const struct lease *lease, int count, int self, uint64_t now_ms)
{
    if (count == 3) { /* nearly all groups, at nearly every event */
        int one = self == 0, other = self == 2 ? 1 : 2;
        return lease_median(now_ms, lease->peers[one].followed_ms, lease->peers[other].followed_ms);
    }
    uint64_t sorted[LIMIT_REPLICAS]; /* newest first */
    for (int i = 0; i < count; i++) {
        uint64_t value = i == self ? now_ms : lease->peers[i].followed_ms;
        int at = i;
        for (; at > 0 && sorted[at - 1] < value; at--) {
            sorted[at] = sorted[at - 1];
        }
        sorted[at] = value;
    }
    return sorted[count / 2];
}

void lease_vouch(struct lease *lease, int count, uint64_t confirmed_ms)
{
    for (int i = 0; i < count; i++) {
        struct lease_peer *of = &lease->peers[i];
        /* Strictly later: within one ms nothing tells what came first. */
        while (of->waiting_count > 0 && of->waiting[0].heard_ms < confirmed_ms) {
            of->vouched_ms = of->waiting[0].stamp_ms;
            of->waiting[0] = of->waiting[1];
            of->waiting_count--;
        }
    }
}

void lease_applied(struct lease *lease, uint64_t applied)
{
    if (applied < lease->applied) {
        lease->fresh_ms = 0;
    }
    lease->applied = applied;
    while (lease->claim_count > 0 && lease->claims[0].commit <= applied) {
        if (lease->claims[0].stamp_ms > lease->fresh_ms) {
            lease->fresh_ms = lease->claims[0].stamp_ms;
        }
        lease->claims[0] = lease->claims[1];
        lease->claim_count--;
    }
}
