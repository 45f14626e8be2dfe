/* Packing and unpacking of scan pages; the layout stands in scan_page.h. */
#include "wire/scan_page.h"

#include "base/check.h"
#include "base/limits.h"

enum {
    HEAD_BYTES = 4,
    META_BYTES = 24,
    ATTRIBUTES_BYTES = 40,
    FLAGS_ALL = SCAN_PAGE_META | SCAN_PAGE_ATTRIBUTES | SCAN_PAGE_VALUE,
};

/* Bytes before the key. */
static size_t head_size(uint8_t flags)
{
    return HEAD_BYTES + (flags & SCAN_PAGE_META ? META_BYTES : 0) +
           (flags & SCAN_PAGE_ATTRIBUTES ? ATTRIBUTES_BYTES : 0);
}

static bool flags_are_sound(uint8_t flags)
{
    return (flags & ~FLAGS_ALL) == 0 && (flags == 0 || flags & SCAN_PAGE_META);
}

size_t scan_page_entry_size(const struct scan_page_entry *entry)
{
    return head_size(entry->flags) + entry->key.size +
           (entry->flags & SCAN_PAGE_VALUE ? entry->value.size : 0);
}

static uint8_t *pack_attributes(uint8_t *at, const struct scan_page_entry *entry)
{
    put_u32(at, entry->attributes.mask);
    put_u32(at + 4, entry->attributes.mode);
    put_u32(at + 8, entry->attributes.uid);
    put_u32(at + 12, entry->attributes.gid);
    put_u32(at + 16, entry->attributes.flags);
    put_u32(at + 20, 0);
    put_u64(at + 24, entry->attributes.mtime_us);
    put_u64(at + 32, entry->attributes.expires_at_us);
    return at + ATTRIBUTES_BYTES;
}

void scan_page_add(struct buf *page, const struct scan_page_entry *entry)
{
    CHECK(flags_are_sound(entry->flags));
    CHECK(entry->key.size > 0 && entry->key.size <= LIMIT_KEY_BYTES);
    uint8_t *at = buf_extend(page, scan_page_entry_size(entry));
    put_u16(at, (uint16_t)entry->key.size);
    at[2] = entry->flags;
    at[3] = 0;
    at += HEAD_BYTES;
    if (entry->flags & SCAN_PAGE_META) {
        put_u64(at, entry->version);
        put_u64(at + 8, entry->time);
        put_u64(at + 16, entry->size);
        at += META_BYTES;
    }
    if (entry->flags & SCAN_PAGE_ATTRIBUTES) {
        at = pack_attributes(at, entry);
    }
    memcpy(at, entry->key.data, entry->key.size);
    if (entry->flags & SCAN_PAGE_VALUE && entry->size > 0) {
        CHECK(entry->value.size == entry->size);
        memcpy(at + entry->key.size, entry->value.data, entry->value.size);
    }
}

size_t scan_page_key_size(struct span key)
{
    return HEAD_BYTES + key.size;
}

void scan_page_add_key(struct buf *page, struct span key)
{
    CHECK(key.size > 0 && key.size <= LIMIT_KEY_BYTES);
    uint8_t *at = buf_extend(page, HEAD_BYTES + key.size);
    put_u32(at, (uint32_t)key.size); /* no flags */
    memcpy(at + HEAD_BYTES, key.data, key.size);
}

static void unpack_attributes(const uint8_t *at, struct scan_page_entry *out)
{
    out->attributes.mask = get_u32(at);
    out->attributes.mode = get_u32(at + 4);
    out->attributes.uid = get_u32(at + 8);
    out->attributes.gid = get_u32(at + 12);
    out->attributes.flags = get_u32(at + 16);
    out->attributes.mtime_us = get_u64(at + 24);
    out->attributes.expires_at_us = get_u64(at + 32);
}

bool scan_page_next(struct span *page, struct scan_page_entry *out)
{
    const uint8_t *at = page->data;
    if (page->size < HEAD_BYTES || !flags_are_sound(at[2]) || at[3] != 0) {
        return false;
    }
    size_t key_size = get_u16(at), size = head_size(at[2]) + key_size;
    if (key_size == 0 || key_size > LIMIT_KEY_BYTES || size > page->size) {
        return false;
    }
    *out = (struct scan_page_entry){ .flags = at[2] };
    at += HEAD_BYTES;
    if (out->flags & SCAN_PAGE_META) {
        out->version = get_u64(at);
        out->time = get_u64(at + 8);
        out->size = get_u64(at + 16);
        at += META_BYTES;
    }
    if (out->flags & SCAN_PAGE_ATTRIBUTES) {
        unpack_attributes(at, out);
        at += ATTRIBUTES_BYTES;
    }
    out->key = span_of(at, key_size);
    if (out->flags & SCAN_PAGE_VALUE) {
        if (out->size > page->size - size) {
            return false;
        }
        out->value = span_of(at + key_size, out->size);
        size += out->size;
    }
    *page = span_of(page->data + size, page->size - size);
    return true;
}
