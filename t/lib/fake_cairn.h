/* Knobs of the fake client library (fake_cairn.c): faults, delays and counters for unit tests. */
#ifndef FAKE_CAIRN_H
#define FAKE_CAIRN_H

#include "client/cairn.h"

/* A second handle on the same keys, as if another client spoke to the same cluster. Close it with cairn_close. */
struct cairn *fake_cairn_share(struct cairn *cairn);

/* After `skip` further operations the next `count` ones fail with `code`. applied: they take effect all the same (the lost
 * answer of CAIRN_UNKNOWN_OUTCOME). A page of a scan counts as one operation. */
void fake_cairn_fail(struct cairn *cairn, unsigned skip, unsigned count, int code, bool applied);

/* Every event-driven operation on this handle is answered this much later; one that would pass its timeout ends with
 * CAIRN_TIMEOUT instead. Blocking calls don't wait, but time out in the same case. */
void fake_cairn_delay_ms(struct cairn *cairn, unsigned delay_ms);

/* Calls back before every operation of this handle, just before it is applied: tests put another client's change there. */
void fake_cairn_hook(struct cairn *cairn, void (*hook)(void *ctx, const struct cairn_request *request), void *ctx);

struct fake_cairn_counts {
    uint64_t gets, get_metas, puts, deletes, setattrs, scan_pages, scan_entries;
};
void fake_cairn_counts(const struct cairn *cairn, struct fake_cairn_counts *out);

/* The number of keys, and of requests not yet answered on this handle. */
size_t fake_cairn_keys(const struct cairn *cairn);
size_t fake_cairn_pending(const struct cairn *cairn);

#endif
