/* Compares attributes field by field: the struct has padding. Include behind <cmocka.h>. */
#ifndef T_UNIT_STORE_ATTRIBUTES_EQUAL_H
#define T_UNIT_STORE_ATTRIBUTES_EQUAL_H

#include "store/record.h"

static inline void assert_attributes_equal(const struct attributes *a, const struct attributes *b)
{
    assert_int_equal(a->mask, b->mask);
    assert_int_equal(a->mode, b->mode);
    assert_int_equal(a->uid, b->uid);
    assert_int_equal(a->gid, b->gid);
    assert_int_equal(a->flags, b->flags);
    assert_int_equal(a->mtime_us, b->mtime_us);
    assert_int_equal(a->expires_at_us, b->expires_at_us);
}

#endif
