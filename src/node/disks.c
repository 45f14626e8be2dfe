/* The nodes' disks compared: see disks.h.
 *
 * The measure is the median over all nodes, the own one included: where most disks are slow, handing over would not help. Two
 * thresholds and two times keep leadership from going to and fro: a disk is slow when it was far behind for SLOW_US, and well when it was
 * not for WELL_US and is near by then. A single stall lasts less, or is not single; it makes nobody slow, nor does it keep anybody from
 * being well: where one comes every few seconds, a node that was slow once would never lead again.
 *
 * Flushes are large and few, so what is far is nearer by factor, and much farther by time. A flush that hangs gets farther by itself. */
#include "node/disks.h"

#include "base/check.h"
#include "base/limits.h"

enum {
    SLOW_US = 1500 * 1000,
    WELL_US = 10 * 1000 * 1000,
    STALL_US = 500 * 1000, /* what is shorter is one, where it is to be well */
};

/* Far: by the factor, and by so much more at least, because what is less nobody feels. Near: by either. */
struct lines {
    uint64_t far_factor, far_us, near_factor, near_us;
};

static const struct lines log_lines = { 10, 6 * 1000, 4, 4 * 1000 };
static const struct lines flush_lines = { 4, 2000 * 1000, 2, 1000 * 1000 };

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

static bool is_far(const struct lines *lines, uint64_t own_us, uint64_t middle_us)
{
    return own_us > middle_us * lines->far_factor && own_us > middle_us + lines->far_us;
}

static bool is_near(const struct lines *lines, uint64_t own_us, uint64_t middle_us)
{
    return own_us < middle_us * lines->near_factor || own_us < middle_us + lines->near_us;
}

/* Whether it looks slow for a moment only, so that it may go on to be well. */
static bool is_stall(struct disks_verdict *verdict, uint64_t now_us, bool looks_slow)
{
    bool is_broken = verdict->is_slow && verdict->since_us != 0 && looks_slow;
    verdict->stall_us = !is_broken ? 0 : verdict->stall_us ? verdict->stall_us : now_us;
    return is_broken && now_us - verdict->stall_us < STALL_US;
}

static bool judge(struct disks_verdict *verdict, uint64_t now_us, bool looks_slow, bool may_be_well)
{
    if (is_stall(verdict, now_us, looks_slow)) {
        return false;
    }
    if (looks_slow == verdict->is_slow) {
        verdict->since_us = 0;
        return false;
    }
    if (verdict->since_us == 0) {
        verdict->since_us = now_us;
    }
    if (now_us - verdict->since_us < (verdict->is_slow ? WELL_US : SLOW_US) ||
        (verdict->is_slow && !may_be_well)) {
        return false;
    }
    verdict->is_slow = !verdict->is_slow;
    verdict->since_us = 0;
    return true;
}

bool disks_look_log(struct disks *disks, uint64_t now_us, uint64_t own_us,
                    const uint64_t *others_us, size_t count)
{
    struct disks_verdict *log = &disks->log;
    log->middle_us = median(own_us, others_us, count);
    return judge(log, now_us, is_far(&log_lines, own_us, log->middle_us),
                 is_near(&log_lines, own_us, log->middle_us));
}

bool disks_look_flush(struct disks *disks, uint64_t now_us, uint64_t own_us, bool is_felt,
                      const uint64_t *others_us, size_t count)
{
    struct disks_verdict *flush = &disks->flush;
    flush->middle_us = median(own_us, others_us, count);
    return judge(flush, now_us, is_felt && is_far(&flush_lines, own_us, flush->middle_us),
                 is_near(&flush_lines, own_us, flush->middle_us));
}

bool disks_is_slow(const struct disks *disks)
{
    return disks->log.is_slow || disks->flush.is_slow;
}
