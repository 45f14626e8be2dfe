/* The nodes' disks compared: see disks.h.
 *
 * The measure is the median over all nodes, the own one included: where most disks are slow, handing over would not help. Two
 * thresholds and two times keep leadership from going to and fro: a disk is slow when it was far behind for SLOW_US, and well when it was
 * not for WELL_US and is near by then. A single stall lasts less, or is not single. */
#include "node/disks.h"

#include "base/check.h"
#include "base/limits.h"

enum {
    FAR_FACTOR = 10,
    FAR_US = 6 * 1000, /* and so much more: what is less, nobody feels */
    NEAR_FACTOR = 4,
    NEAR_US = 4 * 1000,
    SLOW_US = 1500 * 1000,
    WELL_US = 10 * 1000 * 1000,
};

/* Of those that are known; with an even number the lesser of the two in the middle: a node of two may be the slow one, too. */
static uint64_t median(uint64_t own_us, const uint64_t *others_us, size_t count)
{
    uint64_t sorted[LIMIT_NODES + 1];
    size_t known = 0;
    CHECK(count <= LIMIT_NODES);
    for (size_t i = 0; i <= count; i++) {
        uint64_t value = i < count ? others_us[i] : own_us;
        size_t at = known;
        if (value == 0) {
            continue;
        }
        for (; at > 0 && sorted[at - 1] > value; at--) {
            sorted[at] = sorted[at - 1];
        }
        sorted[at] = value;
        known++;
    }
    return known ? sorted[(known - 1) / 2] : 0;
}

bool disks_look(struct disks *disks, uint64_t now_us, uint64_t own_us, const uint64_t *others_us,
                size_t count)
{
    uint64_t middle = median(own_us, others_us, count);
    bool is_far = own_us > middle * FAR_FACTOR && own_us > middle + FAR_US;
    bool is_near = own_us < middle * NEAR_FACTOR || own_us < middle + NEAR_US;
    disks->middle_us = middle;
    if (is_far == disks->is_slow) {
        disks->since_us = 0;
        return false;
    }
    if (disks->since_us == 0) {
        disks->since_us = now_us;
    }
    if (now_us - disks->since_us < (disks->is_slow ? WELL_US : SLOW_US) ||
        (disks->is_slow && !is_near)) {
        return false;
    }
    disks->is_slow = !disks->is_slow;
    disks->since_us = 0;
    return true;
}
