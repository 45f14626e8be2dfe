/* A scan's page: the payload of the answer to a scan. Entries one after another, without a message for each: a page has
 * thousands.
 *
 *   offset size field
 *        0    2 key size
 *        2    1 flags (enum scan_page_flags)
 *        3    1 zero
 *        …    8 version, 8 time (HLC), 8 value size           only with SCAN_PAGE_META
 *        …   40 attributes                                    only with SCAN_PAGE_ATTRIBUTES:
 *               mask 4, mode 4, uid 4, gid 4, flags 4, zero 4, mtime 8, expiry 8
 *        …      key
 *        …      value                                         only with SCAN_PAGE_VALUE
 *
 * Attributes and value come with META only. */
#ifndef WIRE_SCAN_PAGE_H
#define WIRE_SCAN_PAGE_H

#include <stdbool.h>

#include "base/bytes.h"

enum scan_page_flags { SCAN_PAGE_META = 1, SCAN_PAGE_ATTRIBUTES = 2, SCAN_PAGE_VALUE = 4 };

struct scan_page_entry {
    uint8_t flags;
    struct span key;               /* borrowed, as is the value */
    uint64_t version, time, size;  /* with META; size is the value's, whether or not it is here */
    struct {
        uint32_t mask, mode, uid, gid, flags;
        uint64_t mtime_us, expires_at_us;
    } attributes;                  /* zero without ATTRIBUTES */
    struct span value;             /* empty without VALUE */
};

/* Bytes that the entry takes in a page. */
size_t scan_page_entry_size(const struct scan_page_entry *entry);
/* Appends it. With VALUE, size must be the value's (CHECK). */
void scan_page_add(struct buf *page, const struct scan_page_entry *entry);
/* The same for an entry that is nothing but its key: its bytes, and to append it. */
size_t scan_page_key_size(struct span key);
void scan_page_add_key(struct buf *page, struct span key);
/* Takes the entry at the beginning of *page: false when nothing is left, or (and then *page is not empty) when what is there is
 * no entry. Keys are of 1 to LIMIT_KEY_BYTES bytes. */
bool scan_page_next(struct span *page, struct scan_page_entry *out);

#endif
