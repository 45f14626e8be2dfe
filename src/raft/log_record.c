/* The log's format on disk. The formats stand in log_record.h; here are the rules that tell a torn
 * tail from damage.
 *
 * The writer has one batch in flight: batch n + 1 is written only after batch n was synced. Hence:
 *
 * I1  A head of a later batch, intact or not, proves the batches before it durable: whatever is
 *     wrong there is damage.
 * I2  In the last batch a sector is new (this generation's tags), old (an older tag, zeroes, or one
 *     of each: the write did not reach it, or reached half of it), or bad. Only old sectors excuse
 *     what is missing; a bad one beside them is damage.
 * I3  What the last batch's new sectors hold by themselves must be right: a header or payload that
 *     lies in new sectors only and fails its checksum is damage, though other sectors are old.
 * I4  In a batch that is proven, or has no old sectors, checksums alone decide: a payload that
 * fails is a hole; a record header that fails is taken from the next batch's copy, or is lost. I5
 * A lost head is made up for when exactly one batch is missing before the next sound head (the
 *     sequence numbers tell) and that one repeats its headers.
 *
 * A bad sector at the very end may be rot in bytes nobody wrote in this generation. It can't be
 * told from a damaged batch, so it is damage too: never the other way round.
 *
 * Thread: any. */
#include "raft/log_record.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/check.h"
#include "base/hash.h"
#include "base/mem.h"

enum { TAG_BYTES = 8, KIND_HEAD = 1, KIND_BODY = 2 };
static const uint32_t BARE = 1u << 31;
enum {
    MAGIC_BATCH = 0x31544243,  /* "CBT1" */
    MAGIC_VOTE = 0x32545643,   /* "CVT2" */
    MAGIC_VOTE_1 = 0x31545643, /* "CVT1" */
};
enum { VOTE_HALF = LOG_RECORD_SECTOR / 2 };
static const char MAGIC_SEGMENT[8] = { 'C', 'A', 'I', 'R', 'N', 'L', 'O', 'G' };

/* --- Files' own sectors. */

static uint32_t crc_around(const uint8_t *bytes, size_t size, size_t crc_at)
{
    static const uint8_t zero[4];
    uint32_t crc = hash_crc32c(0, bytes, crc_at);
    crc = hash_crc32c(crc, zero, 4);
    return hash_crc32c(crc, bytes + crc_at + 4, size - crc_at - 4);
}

static uint32_t sector_crc(const uint8_t *sector, size_t crc_at)
{
    return crc_around(sector, LOG_RECORD_SECTOR, crc_at);
}

void log_record_pack_segment(const struct log_record_segment *segment,
                             uint8_t out[LOG_RECORD_SECTOR])
{
    memset(out, 0, LOG_RECORD_SECTOR);
    memcpy(out, MAGIC_SEGMENT, 8);
    put_u32(out + 8, LOG_RECORD_FORMAT);
    memcpy(out + 16, segment->owner.cluster_id, 16);
    put_u64(out + 32, segment->owner.node_id);
    put_u64(out + 40, segment->number);
    put_u64(out + 48, segment->previous);
    put_u64(out + 56, segment->bytes);
    put_u32(out + 64, segment->kind);
    put_u32(out + 12, sector_crc(out, 12));
}

int log_record_unpack_segment(const uint8_t in[LOG_RECORD_SECTOR], struct log_record_segment *out,
                              struct err *err)
{
    if (memcmp(in, MAGIC_SEGMENT, 8) != 0) {
        return err_set(err, ERR_CORRUPT, "offset 0: not a log segment (wrong magic)");
    }
    if (get_u32(in + 12) != sector_crc(in, 12)) {
        return err_set(err, ERR_CORRUPT, "offset 0: the segment header fails its checksum");
    }
    if (get_u32(in + 8) != LOG_RECORD_FORMAT) {
        return err_set(err, ERR_FORMAT, "log format %u, this build knows %d", get_u32(in + 8),
                       LOG_RECORD_FORMAT);
    }
    struct log_record_segment segment = {
        .owner.node_id = get_u64(in + 32),
        .number = get_u64(in + 40),
        .previous = get_u64(in + 48),
        .bytes = get_u64(in + 56),
        .kind = get_u32(in + 64),
    };
    memcpy(segment.owner.cluster_id, in + 16, 16);
    if (segment.kind != LOG_RECORD_NORMAL && segment.kind != LOG_RECORD_RECOVERY) {
        return err_set(err, ERR_CORRUPT, "offset 0: unknown kind of segment %u", segment.kind);
    }
    *out = segment;
    return 0;
}

void log_record_pack_vote(const struct log_record_vote *vote, uint8_t out[LOG_RECORD_SECTOR])
{
    memset(out, 0, LOG_RECORD_SECTOR);
    put_u32(out, MAGIC_VOTE);
    put_u32(out + 8, vote->group);
    put_u64(out + 16, vote->replica);
    put_u64(out + 24, vote->sequence);
    put_u64(out + 32, vote->term);
    put_u64(out + 40, vote->vote);
    memcpy(out + 48, vote->owner.cluster_id, 16);
    put_u64(out + 64, vote->owner.node_id);
    put_u32(out + 4, crc_around(out, VOTE_HALF, 4));
    memcpy(out + VOTE_HALF, out, VOTE_HALF);
}

static bool is_zero(const uint8_t *bytes, size_t size)
{
    return size == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, size - 1) == 0);
}

static bool is_vote(const uint8_t *half)
{
    return get_u32(half) == MAGIC_VOTE && get_u32(half + 4) == crc_around(half, VOTE_HALF, 4);
}

/* Both halves are written together, so a second half of zeroes says that no write here came to its end: there was none, or it was
 * torn, and brought the magic at least, for no tear is smaller than 8 bytes. */
static bool is_never_written(const uint8_t *sector)
{
    return is_zero(sector + VOTE_HALF, VOTE_HALF) &&
           (get_u32(sector) == MAGIC_VOTE || is_zero(sector, VOTE_HALF));
}

int log_record_unpack_vote(const uint8_t in[LOG_RECORD_SECTOR], struct log_record_vote *out)
{
    bool is_single = get_u32(in) == MAGIC_VOTE_1 && get_u32(in + 4) == sector_crc(in, 4);
    if (!is_single && !is_vote(in)) {
        if (is_never_written(in)) {
            return ERR_NOT_FOUND;
        }
        in += VOTE_HALF;
        if (!is_vote(in)) {
            return ERR_CORRUPT;
        }
    }
    out->group = get_u32(in + 8);
    out->replica = get_u64(in + 16);
    out->sequence = get_u64(in + 24);
    out->term = get_u64(in + 32);
    out->vote = get_u64(in + 40);
    memcpy(out->owner.cluster_id, in + 48, 16);
    out->owner.node_id = get_u64(in + 64);
    return 0;
}

/* --- Sectors. */

static uint64_t tag_of(uint32_t segment, uint32_t sector, uint32_t kind, bool is_back)
{
    uint8_t bytes[16];
    put_u64(bytes, segment);
    put_u32(bytes + 8, sector);
    put_u32(bytes + 12, kind | (is_back ? 256 : 0));
    return (uint64_t)hash_crc32c(0, bytes, sizeof bytes) << 32 | segment;
}

static uint32_t seed_of(uint64_t segment, uint32_t sector)
{
    uint8_t bytes[12];
    put_u64(bytes, segment);
    put_u32(bytes + 8, sector);
    return hash_crc32c(0, bytes, sizeof bytes);
}

enum tag_state { TAG_HEAD, TAG_BODY, TAG_OLD, TAG_ZERO, TAG_BAD };

static enum tag_state tag_state(uint64_t tag, uint64_t segment, uint32_t sector, bool is_back)
{
    if (tag == 0) {
        return TAG_ZERO;
    }
    uint32_t generation = (uint32_t)tag;
    bool is_head = tag == tag_of(generation, sector, KIND_HEAD, is_back);
    if (!is_head && tag != tag_of(generation, sector, KIND_BODY, is_back)) {
        return TAG_BAD;
    }
    if (generation < segment) {
        return TAG_OLD;
    }
    if (generation > segment) {
        return TAG_BAD; /* numbers only grow: a misdirected write */
    }
    return is_head ? TAG_HEAD : TAG_BODY;
}

enum log_record_sector log_record_sector_of(const uint8_t *sector, uint64_t segment, uint32_t index)
{
    enum tag_state front = tag_state(get_u64(sector), segment, index, false);
    enum tag_state back =
        tag_state(get_u64(sector + LOG_RECORD_SECTOR - TAG_BYTES), segment, index, true);
    if (front == TAG_BAD || back == TAG_BAD) {
        return LOG_RECORD_SECTOR_BAD;
    }
    if (front == TAG_ZERO && back == TAG_ZERO) {
        return is_zero(sector, LOG_RECORD_SECTOR) ? LOG_RECORD_SECTOR_OLD : LOG_RECORD_SECTOR_BAD;
    }
    if (front == TAG_OLD || front == TAG_ZERO || back == TAG_OLD || back == TAG_ZERO) {
        return LOG_RECORD_SECTOR_OLD;
    }
    if (front != back) {
        return LOG_RECORD_SECTOR_BAD;
    }
    return front == TAG_HEAD ? LOG_RECORD_SECTOR_HEAD : LOG_RECORD_SECTOR_BODY;
}

/* Where a content position stands in an image that begins with first_sector. */
static size_t raw_of(uint32_t at, uint32_t first_sector)
{
    return (size_t)(at / LOG_RECORD_CONTENT - first_sector) * LOG_RECORD_SECTOR + TAG_BYTES +
           at % LOG_RECORD_CONTENT;
}

static uint32_t run_of(uint32_t at, uint32_t size)
{
    uint32_t left = LOG_RECORD_CONTENT - at % LOG_RECORD_CONTENT;
    return size < left ? size : left;
}

void log_record_copy(const uint8_t *image, uint32_t first_sector, uint32_t at, uint32_t size,
                     uint8_t *out)
{
    while (size > 0) {
        uint32_t run = run_of(at, size);
        memcpy(out, image + raw_of(at, first_sector), run);
        out += run;
        at += run;
        size -= run;
    }
}

static uint32_t content_crc(const uint8_t *image, uint32_t at, uint32_t size)
{
    uint32_t crc = 0;
    while (size > 0) {
        uint32_t run = run_of(at, size);
        crc = hash_crc32c(crc, image + raw_of(at, 0), run);
        at += run;
        size -= run;
    }
    return crc;
}

/* --- Writing. */

static uint64_t content_bytes(uint32_t records, uint32_t copies, uint64_t payload_bytes)
{
    return LOG_RECORD_HEAD + ((uint64_t)records + copies) * LOG_RECORD_HEADER + payload_bytes;
}

uint32_t log_record_sectors(uint32_t records, uint32_t copies, uint64_t payload_bytes)
{
    uint64_t sectors = (content_bytes(records, copies, payload_bytes) + LOG_RECORD_CONTENT - 1) /
                       LOG_RECORD_CONTENT;
    return sectors > UINT32_MAX ? UINT32_MAX : (uint32_t)sectors;
}

uint32_t log_record_payload_at(uint32_t sector, uint32_t records, uint32_t copies)
{
    return sector * LOG_RECORD_CONTENT + (uint32_t)content_bytes(records, copies, 0);
}

void log_record_pack_begin(struct log_record_packer *packer, const struct log_record_head *head,
                           uint8_t *buffer)
{
    CHECK(head->segment > 0 && head->segment < UINT32_MAX);
    CHECK(head->sectors == log_record_sectors(head->records, head->copies, head->payload_bytes));
    packer->head = *head;
    packer->buffer = buffer;
    packer->seed = packer->table_crc = seed_of(head->segment, head->sector);
    packer->added = 0;
    packer->at = head->sector * LOG_RECORD_CONTENT + LOG_RECORD_HEAD;
    buf_clear(&packer->table);
}

static void pack_bytes(struct log_record_packer *packer, const uint8_t *data, uint32_t size)
{
    while (size > 0) {
        uint32_t run = run_of(packer->at, size);
        memcpy(packer->buffer + raw_of(packer->at, packer->head.sector), data, run);
        data += run;
        packer->at += run;
        size -= run;
    }
}

void log_record_pack_add(struct log_record_packer *packer, const struct log_record *record)
{
    CHECK(packer->added++ < packer->head.records);
    CHECK(record->length <= LOG_RECORD_PAYLOAD_MAX);
    uint8_t *out = buf_extend(&packer->table, LOG_RECORD_HEADER);
    put_u32(out + 4, record->group);
    put_u64(out + 8, record->replica);
    put_u64(out + 16, record->index);
    put_u64(out + 24, record->term);
    put_u32(out + 32, record->length | (uint32_t)record->kind << 24 | (record->is_bare ? BARE : 0));
    put_u32(out + 36, record->crc);
    put_u32(out, hash_crc32c(packer->seed, out + 4, LOG_RECORD_HEADER - 4));
}

void log_record_pack_copies(struct log_record_packer *packer, struct span copies)
{
    CHECK(packer->added == packer->head.records);
    CHECK(copies.size == (size_t)packer->head.copies * LOG_RECORD_HEADER);
    packer->table_crc = hash_crc32c(packer->table_crc, packer->table.data, packer->table.size);
    packer->table_crc = hash_crc32c(packer->table_crc, copies.data, copies.size);
    pack_bytes(packer, packer->table.data, (uint32_t)packer->table.size);
    pack_bytes(packer, copies.data, (uint32_t)copies.size);
}

void log_record_pack_payload(struct log_record_packer *packer, struct span payload)
{
    pack_bytes(packer, payload.data, (uint32_t)payload.size);
}

static void pack_head(const struct log_record_packer *packer, uint8_t *out)
{
    const struct log_record_head *head = &packer->head;
    memset(out, 0, LOG_RECORD_HEAD);
    put_u32(out, MAGIC_BATCH);
    put_u64(out + 8, head->segment);
    put_u32(out + 16, head->sector);
    put_u32(out + 20, head->sectors);
    put_u64(out + 24, head->sequence);
    put_u32(out + 32, head->records);
    put_u32(out + 36, head->copies);
    put_u32(out + 40, packer->table_crc);
    put_u32(out + 44, head->payload_bytes);
    put_u64(out + 48, head->durable_segment);
    put_u32(out + 56, head->durable_sector);
    put_u32(out + 60, head->previous_crc);
    put_u64(out + 64, head->first_segment);
    put_u32(out + 72, head->previous_records);
    put_u32(out + 4, hash_crc32c(packer->seed, out + 8, LOG_RECORD_HEAD - 8));
}

void log_record_pack_finish(struct log_record_packer *packer)
{
    const struct log_record_head *head = &packer->head;
    uint32_t end = (head->sector + head->sectors) * LOG_RECORD_CONTENT;
    CHECK(packer->at ==
          head->sector * LOG_RECORD_CONTENT +
              (uint32_t)content_bytes(head->records, head->copies, head->payload_bytes));
    CHECK(end - packer->at < LOG_RECORD_CONTENT);
    if (packer->at < end) {
        memset(packer->buffer + raw_of(packer->at, head->sector), 0, end - packer->at);
    }
    pack_head(packer, packer->buffer + TAG_BYTES);
    for (uint32_t i = 0; i < head->sectors; i++) {
        uint8_t *sector = packer->buffer + (size_t)i * LOG_RECORD_SECTOR;
        uint32_t kind = i == 0 ? KIND_HEAD : KIND_BODY;
        put_u64(sector, tag_of((uint32_t)head->segment, head->sector + i, kind, false));
        put_u64(sector + LOG_RECORD_SECTOR - TAG_BYTES,
                tag_of((uint32_t)head->segment, head->sector + i, kind, true));
    }
}

/* --- Reading. */

int log_record_unpack_head(const uint8_t *sector, uint64_t segment, uint32_t index,
                           struct log_record_head *out)
{
    const uint8_t *in = sector + TAG_BYTES;
    if (log_record_sector_of(sector, segment, index) != LOG_RECORD_SECTOR_HEAD ||
        get_u32(in) != MAGIC_BATCH ||
        get_u32(in + 4) != hash_crc32c(seed_of(segment, index), in + 8, LOG_RECORD_HEAD - 8)) {
        return ERR_CORRUPT;
    }
    *out = (struct log_record_head){
        .segment = get_u64(in + 8),
        .sector = get_u32(in + 16),
        .sectors = get_u32(in + 20),
        .sequence = get_u64(in + 24),
        .records = get_u32(in + 32),
        .copies = get_u32(in + 36),
        .table_crc = get_u32(in + 40),
        .payload_bytes = get_u32(in + 44),
        .durable_segment = get_u64(in + 48),
        .durable_sector = get_u32(in + 56),
        .previous_crc = get_u32(in + 60),
        .first_segment = get_u64(in + 64),
        .previous_records = get_u32(in + 72),
    };
    return 0;
}

/* Notes the first thing that is wrong; the walk may go on. */
static void hurt(struct log_record_scan *scan, uint32_t sector, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void hurt(struct log_record_scan *scan, uint32_t sector, const char *format, ...)
{
    va_list args;
    if (scan->is_hurt) {
        return;
    }
    va_start(args, format);
    vsnprintf(scan->reason, sizeof scan->reason, format, args);
    va_end(args);
    scan->bad_sector = sector;
    scan->is_hurt = true;
}

void log_record_scan_begin(struct log_record_scan *scan, const uint8_t *image, uint32_t sectors,
                           uint64_t segment)
{
    *scan = (struct log_record_scan){
        .image = image, .segment = segment, .sectors = sectors, .next = 1
    };
}

void log_record_scan_end(struct log_record_scan *scan)
{
    buf_fini(&scan->table);
    mem_free(scan->records);
}

static enum log_record_sector sector_state(const struct log_record_scan *scan, uint32_t sector)
{
    return log_record_sector_of(scan->image + (size_t)sector * LOG_RECORD_SECTOR, scan->segment,
                                sector);
}

/* The last sector of this generation at or behind `from`; 0 = none. *head becomes the first that
 * begins a batch, 0 = none. */
static uint32_t last_new_sector(const struct log_record_scan *scan, uint32_t from, uint32_t *head)
{
    uint32_t last = 0;
    *head = 0;
    for (uint32_t i = from; i < scan->sectors; i++) {
        enum log_record_sector state = sector_state(scan, i);
        if (state == LOG_RECORD_SECTOR_HEAD && *head == 0) {
            *head = i;
        }
        if (state == LOG_RECORD_SECTOR_HEAD || state == LOG_RECORD_SECTOR_BODY) {
            last = i;
        }
    }
    return last;
}

/* A head that is intact and fits its place. */
static bool head_at(const struct log_record_scan *scan, uint32_t sector,
                    struct log_record_head *head)
{
    const uint8_t *at = scan->image + (size_t)sector * LOG_RECORD_SECTOR;
    return log_record_unpack_head(at, scan->segment, sector, head) == 0 &&
           head->segment == scan->segment && head->sector == sector && head->sectors >= 1 &&
           head->sectors <= scan->sectors - sector && head->copies <= LOG_RECORD_COPIES_MAX &&
           head->records <= scan->sectors * (LOG_RECORD_SECTOR / LOG_RECORD_HEADER) &&
           head->sectors == log_record_sectors(head->records, head->copies, head->payload_bytes) &&
           head->first_segment <= head->segment && head->first_segment > 0;
}

static void unpack_record(const uint8_t *in, struct log_record *out)
{
    uint32_t length = get_u32(in + 32);
    out->kind = (uint8_t)(length >> 24 & 0x7f);
    out->group = get_u32(in + 4);
    out->replica = get_u64(in + 8);
    out->index = get_u64(in + 16);
    out->term = get_u64(in + 24);
    out->length = length & LOG_RECORD_PAYLOAD_MAX;
    out->crc = get_u32(in + 36);
    out->is_bare = length & BARE;
    out->at = 0;
    out->is_hole = out->is_bare;
}

/* Unpacks a header of the batch that begins at (segment, sector); false if it is damaged. */
static bool record_is_sound(const uint8_t *in, uint32_t seed, struct log_record *out)
{
    unpack_record(in, out);
    return get_u32(in) == hash_crc32c(seed, in + 4, LOG_RECORD_HEADER - 4) && out->kind != 0 &&
           out->kind <= LOG_RECORD_KIND_MAX;
}

/* Bytes of the record's payload in the batch. */
static uint32_t stored_bytes(const struct log_record *record)
{
    return record->is_bare ? 0 : record->length;
}

bool log_record_copies(const uint8_t *image, const struct log_record_head *head, struct buf *out)
{
    uint32_t size = head->copies * LOG_RECORD_HEADER;
    if (head->copies == 0 || head->copies != head->previous_records) {
        return false;
    }
    buf_clear(out);
    log_record_copy(image, 0,
                    head->sector * LOG_RECORD_CONTENT + LOG_RECORD_HEAD +
                        head->records * LOG_RECORD_HEADER,
                    size, buf_extend(out, size));
    return hash_crc32c(0, out->data, size) == head->previous_crc;
}

static struct log_record *records_reserve(struct log_record_scan *scan, uint32_t count)
{
    if (scan->capacity < count) {
        scan->capacity = count;
        scan->records = mem_realloc(scan->records, count * sizeof *scan->records);
    }
    return scan->records;
}

/* --- Behind a batch. */

/* The next sound batch: in the image, or the one behind it. */
struct ahead {
    uint32_t sector;
    uint64_t sequence;
    bool is_here;
    struct log_record_head head; /* if it is in the image */
};

static bool find_ahead(const struct log_record_scan *scan, uint32_t from, struct ahead *ahead)
{
    uint32_t end = scan->proven && scan->proven < scan->sectors ? scan->proven + 1 : scan->sectors;
    for (uint32_t i = from; i < end; i++) {
        if (sector_state(scan, i) == LOG_RECORD_SECTOR_HEAD && head_at(scan, i, &ahead->head) &&
            ahead->head.sequence > scan->sequence) {
            ahead->sector = i;
            ahead->sequence = ahead->head.sequence;
            ahead->is_here = true;
            return true;
        }
    }
    if (scan->proven > 0 && scan->proven >= from && scan->behind &&
        scan->behind->sequence > scan->sequence) {
        *ahead = (struct ahead){ .sector = scan->proven, .sequence = scan->behind->sequence };
        return true;
    }
    return false;
}

/* What it repeats of the batch before it. */
static bool ahead_copies(const struct log_record_scan *scan, const struct ahead *ahead,
                         struct buf *out)
{
    if (ahead->is_here) {
        return log_record_copies(scan->image, &ahead->head, out);
    }
    if (scan->behind->has_copies) {
        buf_clear(out);
        buf_append_span(out, buf_span(&scan->behind->copies));
    }
    return scan->behind->has_copies;
}

/* --- A batch whose head is there. */

static bool payload_is_sound(const struct log_record_scan *scan, const struct log_record *record,
                             uint32_t at, uint32_t end)
{
    return record->length <= end - at &&
           content_crc(scan->image, at, record->length) == record->crc;
}

/* Payloads are found from the front up to the first unknown header, from the back down to the last
 * one. Unknown ones have kind 0. */
static void find_payloads(struct log_record_scan *scan, uint32_t count, uint32_t from, uint32_t end)
{
    uint32_t at = from, i = 0;
    for (; i < count && scan->records[i].kind != 0 && stored_bytes(&scan->records[i]) <= end - at;
         i++) {
        scan->records[i].at = at;
        at += stored_bytes(&scan->records[i]);
    }
    for (uint32_t back = end, k = count; k > i && scan->records[k - 1].kind != 0 &&
                                         stored_bytes(&scan->records[k - 1]) <= back - at;
         k--) {
        back -= stored_bytes(&scan->records[k - 1]);
        scan->records[k - 1].at = back;
    }
    for (uint32_t k = 0; k < count; k++) {
        struct log_record *record = &scan->records[k];
        if (record->kind == 0 || record->is_bare) {
            continue;
        }
        record->is_hole = record->at == 0 || !payload_is_sound(scan, record, record->at, end);
        if (record->is_hole) {
            hurt(scan, (record->at ? record->at : from) / LOG_RECORD_CONTENT,
                 "the payload of group %u index %llu fails its checksum", record->group,
                 (unsigned long long)record->index);
        }
    }
}

/* The batch behind this one repeats its headers: fills in those that are unknown. */
static uint32_t fill_from_copies(struct log_record_scan *scan, const struct log_record_head *head,
                                 uint32_t seed, uint32_t unknown)
{
    struct buf copies = { 0 };
    struct ahead ahead;
    uint32_t end = head->sector + head->sectors;
    scan->next = end;
    if (find_ahead(scan, end, &ahead) && ahead.sector == end &&
        ahead.sequence == head->sequence + 1 && ahead_copies(scan, &ahead, &copies) &&
        copies.size == (size_t)head->records * LOG_RECORD_HEADER) {
        for (uint32_t i = 0; i < head->records; i++) {
            struct log_record *record = &scan->records[i];
            const uint8_t *in = copies.data + (size_t)i * LOG_RECORD_HEADER;
            if (record->kind == 0 && record_is_sound(in, seed, record)) {
                unknown--;
            } else if (record->kind == 0 || unknown == 0) {
                break;
            }
        }
    }
    buf_fini(&copies);
    return unknown;
}

/* Leaves out those that are unknown. */
static void records_compact(struct log_record_scan *scan, uint32_t count)
{
    scan->count = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (scan->records[i].kind != 0) {
            scan->records[scan->count++] = scan->records[i];
        }
    }
}

/* I4 */
static enum log_record_found scan_whole(struct log_record_scan *scan,
                                        const struct log_record_head *head)
{
    uint32_t seed = seed_of(head->segment, head->sector);
    uint32_t table_at = head->sector * LOG_RECORD_CONTENT + LOG_RECORD_HEAD;
    uint32_t table_bytes = (head->records + head->copies) * LOG_RECORD_HEADER;
    uint32_t unknown = 0;
    buf_clear(&scan->table);
    log_record_copy(scan->image, 0, table_at, table_bytes, buf_extend(&scan->table, table_bytes));
    if (hash_crc32c(seed, scan->table.data, table_bytes) != head->table_crc) {
        hurt(scan, head->sector, "the record headers fail their checksum");
    }
    records_reserve(scan, head->records);
    for (uint32_t i = 0; i < head->records; i++) {
        const uint8_t *in = scan->table.data + (size_t)i * LOG_RECORD_HEADER;
        if (!record_is_sound(in, seed, &scan->records[i])) {
            scan->records[i].kind = 0;
            unknown++;
        }
    }
    if (unknown > 0) {
        unknown = fill_from_copies(scan, head, seed, unknown);
    }
    uint32_t at = log_record_payload_at(head->sector, head->records, head->copies);
    find_payloads(scan, head->records, at, at + head->payload_bytes);
    records_compact(scan, head->records);
    scan->head = *head;
    scan->has_head = true;
    scan->next = head->sector + head->sectors;
    scan->sequence = head->sequence;
    scan->batch_records = head->records;
    return unknown > 0 ? LOG_RECORD_LOST : LOG_RECORD_BATCH;
}

/* All of the content positions' sectors are new. */
static bool range_is_new(const struct log_record_scan *scan, uint32_t at, uint32_t size)
{
    if (size == 0) {
        return true;
    }
    for (uint32_t i = at / LOG_RECORD_CONTENT; i <= (at + size - 1) / LOG_RECORD_CONTENT; i++) {
        if (sector_state(scan, i) == LOG_RECORD_SECTOR_OLD) {
            return false;
        }
    }
    return true;
}

/* The last batch, sectors of which are old: what the new ones hold must be right (I3). */
static enum log_record_found scan_torn(struct log_record_scan *scan,
                                       const struct log_record_head *head)
{
    uint32_t seed = seed_of(head->segment, head->sector);
    uint32_t table_at = head->sector * LOG_RECORD_CONTENT + LOG_RECORD_HEAD;
    uint32_t table_bytes = (head->records + head->copies) * LOG_RECORD_HEADER;
    buf_clear(&scan->table);
    log_record_copy(scan->image, 0, table_at, table_bytes, buf_extend(&scan->table, table_bytes));
    if (range_is_new(scan, table_at, table_bytes) &&
        hash_crc32c(seed, scan->table.data, table_bytes) != head->table_crc) {
        hurt(scan, head->sector, "the record headers fail their checksum");
        return LOG_RECORD_DAMAGED;
    }
    uint32_t at = log_record_payload_at(head->sector, head->records, head->copies);
    uint32_t end = at + head->payload_bytes;
    for (uint32_t i = 0; i < head->records; i++) {
        uint32_t header_at = table_at + i * LOG_RECORD_HEADER;
        struct log_record record;
        if (!range_is_new(scan, header_at, LOG_RECORD_HEADER)) {
            break; /* what follows can't be placed */
        }
        if (!record_is_sound(scan->table.data + (size_t)i * LOG_RECORD_HEADER, seed, &record) ||
            stored_bytes(&record) > end - at) {
            hurt(scan, header_at / LOG_RECORD_CONTENT, "the header of record %u is damaged", i);
            return LOG_RECORD_DAMAGED;
        }
        if (range_is_new(scan, at, stored_bytes(&record)) && !record.is_bare &&
            !payload_is_sound(scan, &record, at, end)) {
            hurt(scan, at / LOG_RECORD_CONTENT,
                 "the payload of group %u index %llu fails its checksum", record.group,
                 (unsigned long long)record.index);
            return LOG_RECORD_DAMAGED;
        }
        at += stored_bytes(&record);
    }
    scan->head = *head;
    scan->has_head = true;
    return LOG_RECORD_TORN;
}

static enum log_record_found scan_batch(struct log_record_scan *scan,
                                        const struct log_record_head *head)
{
    uint32_t end = head->sector + head->sectors, old = 0, bad = 0, later;
    for (uint32_t i = head->sector + 1; i < end; i++) {
        enum log_record_sector state = sector_state(scan, i);
        if (state == LOG_RECORD_SECTOR_OLD) {
            old = old ? old : i;
        } else if (state != LOG_RECORD_SECTOR_BODY) {
            bad = bad ? bad : i;
        }
    }
    if (old != 0 && end > scan->proven && last_new_sector(scan, end, &later) == 0) {
        if (bad == 0) {
            return scan_torn(scan, head);
        }
        hurt(scan, bad, "a sector of the last batch is damaged");
        return LOG_RECORD_DAMAGED;
    }
    if (bad != 0) {
        hurt(scan, bad, "a sector inside a batch is damaged");
    } else if (old != 0) {
        hurt(scan, old, "a sector holds old bytes, but a later batch follows");
    }
    return scan_whole(scan, head);
}

/* --- A batch whose head is not there. */

/* Unpacks copied headers of the batch that began at scan->next; false if they are another's. */
static bool take_copies(struct log_record_scan *scan, struct span headers, bool is_seed_known)
{
    uint32_t seed = seed_of(scan->segment, scan->next);
    uint32_t count = (uint32_t)(headers.size / LOG_RECORD_HEADER);
    records_reserve(scan, count);
    scan->count = 0;
    for (uint32_t i = 0; i < count; i++) {
        struct log_record *record = &scan->records[i];
        bool is_sound = record_is_sound(headers.data + (size_t)i * LOG_RECORD_HEADER, seed, record);
        if ((is_seed_known && !is_sound) || record->kind == 0 ||
            record->kind > LOG_RECORD_KIND_MAX) {
            return false;
        }
        record->is_hole = record->length > 0;
    }
    scan->count = count;
    return true;
}

/* Its payloads stand behind its own headers and the copies of the batch before, which are there or
 * not: the place under which more payloads are right is the true one. */
static void place_payloads(struct log_record_scan *scan, uint32_t end)
{
    const uint32_t copies[] = { scan->batch_records, 0 };
    uint64_t payload = 0;
    uint32_t best = 0, most = 0;
    for (uint32_t i = 0; i < scan->count; i++) {
        payload += stored_bytes(&scan->records[i]);
    }
    for (int k = 0; k < 2; k++) {
        if (log_record_sectors(scan->count, copies[k], payload) != end - scan->next) {
            continue;
        }
        uint32_t at = log_record_payload_at(scan->next, scan->count, copies[k]), right = 1;
        uint32_t first = at, stop = at + (uint32_t)payload;
        for (uint32_t i = 0; i < scan->count; i++) {
            right += payload_is_sound(scan, &scan->records[i], at, stop);
            at += stored_bytes(&scan->records[i]);
        }
        if (right > most) {
            best = first;
            most = right;
        }
    }
    if (best != 0) {
        find_payloads(scan, scan->count, best, best + (uint32_t)payload);
    }
}

/* I5 */
static enum log_record_found scan_gap(struct log_record_scan *scan, const struct ahead *ahead)
{
    struct buf copies = { 0 };
    bool has_copies = ahead_copies(scan, ahead, &copies);
    bool is_one =
        scan->sequence != 0 && ahead->sequence == scan->sequence + 2 && ahead->sector > scan->next;
    bool is_whole = is_one && has_copies && take_copies(scan, buf_span(&copies), true);
    hurt(scan, scan->next, "a batch is damaged or missing, a later one begins at offset %llu",
         (unsigned long long)ahead->sector * LOG_RECORD_SECTOR);
    if (is_whole) {
        place_payloads(scan, ahead->sector);
        scan->batch_records = scan->count;
    } else {
        if (has_copies && ahead->sequence > scan->sequence + 1) {
            take_copies(scan, buf_span(&copies), false);
        }
        scan->batch_records = has_copies ? (uint32_t)(copies.size / LOG_RECORD_HEADER) : 0;
    }
    scan->next = ahead->sector;
    scan->sequence = ahead->sequence - 1;
    buf_fini(&copies);
    return is_whole ? LOG_RECORD_BATCH : LOG_RECORD_LOST;
}

/* The sector where a batch would begin holds old bytes, and no sound batch follows: the end, or a
 * batch whose head was not written. */
static enum log_record_found scan_old(struct log_record_scan *scan)
{
    uint32_t later;
    uint32_t last = last_new_sector(scan, scan->next, &later);
    if (later != 0 || scan->next < scan->proven) {
        hurt(scan, scan->next, "a batch that was durable is missing");
        return LOG_RECORD_DAMAGED;
    }
    /* Without the head nobody knows the batch's end: the sector behind the last new one may be its
     * last. */
    for (uint32_t i = scan->next; last != 0 && i <= last + 1 && i < scan->sectors; i++) {
        if (sector_state(scan, i) == LOG_RECORD_SECTOR_BAD) {
            hurt(scan, i, "a sector of the last batch is damaged");
            return LOG_RECORD_DAMAGED;
        }
    }
    return last == 0 ? LOG_RECORD_END : LOG_RECORD_TORN;
}

static enum log_record_found scan_end(struct log_record_scan *scan)
{
    switch (sector_state(scan, scan->next)) {
    case LOG_RECORD_SECTOR_OLD:
        return scan_old(scan);
    case LOG_RECORD_SECTOR_BAD:
        hurt(scan, scan->next, "the sector is neither of this segment nor what was there before");
        break;
    case LOG_RECORD_SECTOR_BODY:
        hurt(scan, scan->next, "a batch should begin here");
        break;
    case LOG_RECORD_SECTOR_HEAD:
        hurt(scan, scan->next, "the head of a batch fails its checksum or contradicts its place");
        break;
    }
    return LOG_RECORD_DAMAGED;
}

enum log_record_found log_record_scan_next(struct log_record_scan *scan)
{
    struct log_record_head head;
    struct ahead ahead = { 0 };
    scan->has_head = scan->is_hurt = false;
    scan->count = 0;
    if (scan->next >= scan->sectors) {
        return LOG_RECORD_END;
    }
    if (head_at(scan, scan->next, &head) &&
        (scan->sequence == 0 || head.sequence == scan->sequence + 1)) {
        return scan_batch(scan, &head);
    }
    if (find_ahead(scan, scan->next, &ahead)) {
        return scan_gap(scan, &ahead);
    }
    return scan_end(scan);
}

const char *log_record_kind_name(uint8_t kind)
{
    static const char *const names[] = { "?",     "entry",   "state",  "start", "moved",
                                         "reset", "suspect", "healed", "ended" };
    return names[kind <= LOG_RECORD_KIND_MAX ? kind : 0];
}
