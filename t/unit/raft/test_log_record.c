/* The log's format: packing and scanning agree; every flipped bit of a batch that another follows
 * is damage; a batch cut off at any set of old sectors is torn; old generations never read as new.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/hash.h"
#include "base/mem.h"
#include "raft/log_record.h"

enum { SECTORS = 64, SEGMENT = 7 };

struct image {
    uint8_t bytes[SECTORS * LOG_RECORD_SECTOR];
    uint32_t next;
    uint64_t sequence;
    struct buf copies;
};

static const char text[] = "the quick brown fox jumps over the lazy dog";

/* Appends a batch with one entry per size. */
static void add_batch(struct image *image, uint64_t segment, const uint32_t *sizes, uint32_t count)
{
    struct log_record_packer packer = { 0 };
    struct log_record_head head = { .segment = segment,
                                    .sector = image->next,
                                    .sequence = ++image->sequence,
                                    .records = count,
                                    .copies = (uint32_t)(image->copies.size / LOG_RECORD_HEADER),
                                    .durable_segment = segment,
                                    .durable_sector = image->next,
                                    .first_segment = 1 };
    uint8_t payload[SECTORS * LOG_RECORD_SECTOR];
    for (size_t i = 0; i < sizeof payload; i++) {
        payload[i] = (uint8_t)(text[i % sizeof text] + i / 256);
    }
    for (uint32_t i = 0; i < count; i++) {
        head.payload_bytes += sizes[i];
    }
    head.sectors = log_record_sectors(count, head.copies, head.payload_bytes);
    assert_true(image->next + head.sectors <= SECTORS);
    log_record_pack_begin(&packer, &head, image->bytes + (size_t)image->next * LOG_RECORD_SECTOR);
    for (uint32_t i = 0; i < count; i++) {
        struct log_record record = { .kind = LOG_RECORD_ENTRY,
                                     .group = 3,
                                     .replica = 0x1122334455667788,
                                     .index = 100 + i,
                                     .term = 9,
                                     .length = sizes[i],
                                     .crc = hash_crc32c(0, payload, sizes[i]) };
        log_record_pack_add(&packer, &record);
    }
    log_record_pack_copies(&packer, buf_span(&image->copies));
    for (uint32_t i = 0; i < count; i++) {
        log_record_pack_payload(&packer, span_of(payload, sizes[i]));
    }
    log_record_pack_finish(&packer);
    image->next += head.sectors;
    buf_fini(&image->copies);
    image->copies = packer.table;
}

static struct image *image_new(void)
{
    struct image *image = MEM_NEW(struct image);
    image->next = 1;
    return image;
}

static void image_free(struct image *image)
{
    buf_fini(&image->copies);
    mem_free(image);
}

/* Scans to the end, or to the first damage; returns how it ended and the number of whole batches.
 */
static enum log_record_found scan_all(const uint8_t *bytes, uint32_t *batches, uint32_t *bad)
{
    struct log_record_scan scan;
    enum log_record_found found;
    *batches = 0;
    log_record_scan_begin(&scan, bytes, SECTORS, SEGMENT);
    while ((found = log_record_scan_next(&scan)) == LOG_RECORD_BATCH && !scan.is_hurt) {
        ++*batches;
    }
    *bad = scan.bad_sector;
    found = scan.is_hurt ? LOG_RECORD_DAMAGED : found;
    log_record_scan_end(&scan);
    return found;
}

static void test_round_trip(void **state)
{
    struct image *image = image_new();
    const uint32_t first[] = { 0, 1, 495, 496, 497, 3000 }, second[] = { 17 };
    add_batch(image, SEGMENT, first, 6);
    add_batch(image, SEGMENT, second, 1);
    struct log_record_scan scan;
    struct log_record record;
    log_record_scan_begin(&scan, image->bytes, SECTORS, SEGMENT);
    assert_int_equal(log_record_scan_next(&scan), LOG_RECORD_BATCH);
    assert_int_equal(scan.head.records, 6);
    for (uint32_t i = 0; i < 6; i++) {
        uint8_t out[3000];
        record = scan.records[i];
        assert_false(record.is_hole);
        assert_int_equal(record.length, first[i]);
        assert_int_equal(record.index, 100 + i);
        assert_int_equal(record.replica, 0x1122334455667788);
        log_record_copy(image->bytes, 0, record.at, record.length, out);
        assert_int_equal(hash_crc32c(0, out, record.length), record.crc);
    }
    assert_int_equal(log_record_scan_next(&scan), LOG_RECORD_BATCH);
    assert_int_equal(scan.head.copies, 6);
    assert_int_equal(scan.sequence, 2);
    assert_int_equal(log_record_scan_next(&scan), LOG_RECORD_END);
    log_record_scan_end(&scan);
    image_free(image);
}

/* Bytes of a sector's padding carry nothing: a flip there is harmless, everywhere else it is
 * damage. */
static void test_every_flipped_bit_is_damage(void **state)
{
    struct image *image = image_new();
    const uint32_t sizes[] = { 700, 20 };
    add_batch(image, SEGMENT, sizes, 2);
    uint32_t end = image->next;
    uint32_t used = LOG_RECORD_HEAD + 2 * LOG_RECORD_HEADER + 720;
    for (int is_last = 1; is_last >= 0; is_last--) {
        if (!is_last) {
            add_batch(image, SEGMENT, sizes, 2);
        }
        for (size_t bit = LOG_RECORD_SECTOR * 8; bit < (size_t)end * LOG_RECORD_SECTOR * 8; bit++) {
            size_t sector = bit / 8 / LOG_RECORD_SECTOR - 1, at = bit / 8 % LOG_RECORD_SECTOR;
            bool is_padding = at >= 8 && at < 504 && sector * LOG_RECORD_CONTENT + at - 8 >= used;
            uint32_t batches, bad;
            image->bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
            enum log_record_found found = scan_all(image->bytes, &batches, &bad);
            image->bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
            if (is_padding) {
                assert_int_equal(found, LOG_RECORD_END);
            } else {
                assert_int_equal(found, LOG_RECORD_DAMAGED);
                assert_int_equal(batches, 0);
                assert_in_range(bad, 1, end - 1);
            }
        }
    }
    image_free(image);
}

/* Every subset of the last batch's sectors missing is a torn tail; of a batch that is followed,
 * damage. `old` holds what was there before: zeroes, or another generation's batches. */
static void check_missing(const struct image *image, const uint8_t *old, uint32_t from,
                          uint32_t end, bool is_last)
{
    uint8_t *bytes = mem_dup(image->bytes, sizeof image->bytes);
    for (uint32_t set = 1; set < 1u << (end - from); set++) {
        for (uint32_t i = from; i < end; i++) {
            const uint8_t *source = set >> (i - from) & 1 ? old : image->bytes;
            memcpy(bytes + (size_t)i * LOG_RECORD_SECTOR, source + (size_t)i * LOG_RECORD_SECTOR,
                   LOG_RECORD_SECTOR);
        }
        uint32_t batches, bad;
        enum log_record_found found = scan_all(bytes, &batches, &bad);
        bool is_all = set == (1u << (end - from)) - 1;
        assert_int_equal(found, !is_last ? LOG_RECORD_DAMAGED
                                : is_all ? LOG_RECORD_END
                                         : LOG_RECORD_TORN);
        assert_int_equal(batches, from == 1 ? 0 : 1);
    }
    mem_free(bytes);
}

static void test_torn_tail_and_missing_batch(void **state)
{
    struct image *old = image_new();
    const uint32_t sizes[] = { 600, 900, 40 };
    for (int i = 0; i < 8; i++) {
        add_batch(old, SEGMENT - 4, sizes, 3);
    }
    for (int is_recycled = 0; is_recycled < 2; is_recycled++) {
        struct image *image = image_new();
        uint8_t zeroes[sizeof image->bytes] = { 0 };
        const uint8_t *before = is_recycled ? old->bytes : zeroes;
        memcpy(image->bytes, before, sizeof image->bytes);
        add_batch(image, SEGMENT, sizes, 1);
        uint32_t from = image->next;
        add_batch(image, SEGMENT, sizes, 3);
        uint32_t end = image->next;
        check_missing(image, before, from, end, true);
        add_batch(image, SEGMENT, sizes, 1);
        check_missing(image, before, from, end, false);
        /* Later head damaged too: still a later batch. */
        image->bytes[(size_t)end * LOG_RECORD_SECTOR + 20] ^= 1;
        check_missing(image, before, from, end, false);
        image_free(image);
    }
    image_free(old);
}

/* A sector torn inside, old and new bytes in either order, is old; with a flipped bit beside it,
 * damage. */
static void test_half_written_sector(void **state)
{
    struct image *image = image_new(), *old = image_new();
    const uint32_t sizes[] = { 2000 };
    for (int i = 0; i < 8; i++) {
        add_batch(old, SEGMENT - 1, sizes, 1);
    }
    memcpy(image->bytes, old->bytes, sizeof image->bytes);
    add_batch(image, SEGMENT, sizes, 1);
    uint32_t batches, bad;
    for (uint32_t sector = 1; sector < image->next; sector++) {
        for (uint32_t cut = 8; cut < LOG_RECORD_SECTOR; cut += 8) {
            for (int is_prefix = 0; is_prefix < 2; is_prefix++) {
                uint8_t *bytes = mem_dup(image->bytes, sizeof image->bytes);
                size_t at = (size_t)sector * LOG_RECORD_SECTOR + (is_prefix ? cut : 0);
                memcpy(bytes + at, old->bytes + at, is_prefix ? LOG_RECORD_SECTOR - cut : cut);
                assert_int_equal(scan_all(bytes, &batches, &bad), LOG_RECORD_TORN);
                /* The last sector is whole and lies behind: damage in its tag is no tear. */
                size_t other =
                    (size_t)(sector == image->next - 1 ? 1 : image->next - 1) * LOG_RECORD_SECTOR;
                bytes[other + 3] ^= 16;
                assert_int_equal(scan_all(bytes, &batches, &bad), LOG_RECORD_DAMAGED);
                mem_free(bytes);
            }
        }
    }
    image_free(image);
    image_free(old);
}

/* What new sectors of a torn batch hold by themselves must be right. */
static void test_damage_beside_a_tear(void **state)
{
    struct image *image = image_new();
    const uint32_t sizes[] = { 1000, 1000, 1000 };
    add_batch(image, SEGMENT, sizes, 3);
    memset(image->bytes + (size_t)(image->next - 1) * LOG_RECORD_SECTOR, 0, LOG_RECORD_SECTOR);
    uint32_t batches, bad;
    assert_int_equal(scan_all(image->bytes, &batches, &bad), LOG_RECORD_TORN);
    image->bytes[2 * LOG_RECORD_SECTOR + 100] ^= 4; /* inside the first payload */
    assert_int_equal(scan_all(image->bytes, &batches, &bad), LOG_RECORD_DAMAGED);
    image->bytes[2 * LOG_RECORD_SECTOR + 100] ^= 4;
    image->bytes[LOG_RECORD_SECTOR + 8 + LOG_RECORD_HEAD + 3] ^= 4; /* a record header */
    assert_int_equal(scan_all(image->bytes, &batches, &bad), LOG_RECORD_DAMAGED);
    image_free(image);
}

/* A payload full of sectors that look like batches begins no batch. */
static void test_payload_that_looks_like_a_batch(void **state)
{
    struct image *inner = image_new(), *image = image_new();
    const uint32_t small[] = { 10 };
    for (int i = 0; i < 10; i++) {
        add_batch(inner, SEGMENT, small, 1);
    }
    struct log_record_packer packer = { 0 };
    struct span payload = span_of(inner->bytes, 12 * LOG_RECORD_SECTOR);
    struct log_record_head head = { .segment = SEGMENT,
                                    .sector = 1,
                                    .sequence = 1,
                                    .records = 1,
                                    .first_segment = 1,
                                    .payload_bytes = (uint32_t)payload.size,
                                    .sectors = log_record_sectors(1, 0, payload.size) };
    struct log_record record = { .kind = LOG_RECORD_ENTRY,
                                 .group = 1,
                                 .index = 1,
                                 .term = 1,
                                 .length = (uint32_t)payload.size,
                                 .crc = hash_crc32c(0, payload.data, payload.size) };
    log_record_pack_begin(&packer, &head, image->bytes + LOG_RECORD_SECTOR);
    log_record_pack_add(&packer, &record);
    log_record_pack_copies(&packer, (struct span){ 0 });
    log_record_pack_payload(&packer, payload);
    log_record_pack_finish(&packer);
    uint32_t batches, bad;
    assert_int_equal(scan_all(image->bytes, &batches, &bad), LOG_RECORD_END);
    assert_int_equal(batches, 1);
    /* The head lost: torn, whatever the payload says. */
    memset(image->bytes + LOG_RECORD_SECTOR, 0, LOG_RECORD_SECTOR);
    assert_int_equal(scan_all(image->bytes, &batches, &bad), LOG_RECORD_TORN);
    buf_fini(&packer.table);
    image_free(inner);
    image_free(image);
}

/* Any one flipped bit leaves the vote; so does what hits one half. */
static void check_vote_survives(const struct log_record_vote *vote)
{
    uint8_t sector[LOG_RECORD_SECTOR];
    struct log_record_vote out;
    log_record_pack_vote(vote, sector);
    for (size_t bit = 0; bit < sizeof sector * 8; bit++) {
        sector[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_int_equal(log_record_unpack_vote(sector, &out), 0);
        assert_int_equal(out.group, vote->group);
        assert_int_equal(out.replica, vote->replica);
        assert_int_equal(out.sequence, vote->sequence);
        assert_int_equal(out.term, vote->term);
        assert_int_equal(out.vote, vote->vote);
        assert_memory_equal(&out.owner, &vote->owner, sizeof out.owner);
        sector[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    for (size_t half = 0; half < sizeof sector; half += sizeof sector / 2) {
        log_record_pack_vote(vote, sector);
        memset(sector + half, 0x55, sizeof sector / 2);
        assert_int_equal(log_record_unpack_vote(sector, &out), 0);
        assert_int_equal(out.term, vote->term);
    }
    log_record_pack_vote(vote, sector);
    sector[9] ^= 1;
    sector[sizeof sector - 1] ^= 1;
    assert_int_equal(log_record_unpack_vote(sector, &out), ERR_CORRUPT);
    memset(sector, 0, sizeof sector / 2);
    assert_int_equal(log_record_unpack_vote(sector, &out), ERR_CORRUPT);
}

/* A write torn anywhere in the sector leaves what stood there before or what was written, whole. */
static void check_torn_vote(const struct log_record_vote *before,
                            const struct log_record_vote *vote)
{
    uint8_t old[LOG_RECORD_SECTOR] = { 0 }, new[LOG_RECORD_SECTOR], sector[LOG_RECORD_SECTOR];
    bool has_old = false, has_new = false;
    if (before) {
        log_record_pack_vote(before, old);
    }
    log_record_pack_vote(vote, new);
    for (size_t torn = 8; torn < sizeof sector; torn += 8) {
        struct log_record_vote out;
        memcpy(sector, new, torn);
        memcpy(sector + torn, old + torn, sizeof sector - torn);
        int rc = log_record_unpack_vote(sector, &out);
        bool is_new = rc == 0 && out.sequence == vote->sequence;
        assert_int_equal(rc, before || is_new ? 0 : ERR_NOT_FOUND);
        assert_true(rc != 0 || (is_new ? out.term == vote->term && out.vote == vote->vote
                                       : out.sequence == before->sequence &&
                                             out.term == before->term && out.vote == before->vote));
        has_new |= is_new;
        has_old |= !is_new;
    }
    assert_true(has_old && has_new);
}

static void test_votes(void **state)
{
    uint8_t sector[LOG_RECORD_SECTOR] = { 0 };
    struct log_record_vote vote = { .owner = { "0123456789abcdef", 5 },
                                    .group = 4,
                                    .replica = 44,
                                    .sequence = 3,
                                    .term = 2,
                                    .vote = 1 },
                           newer = vote, out;
    newer.sequence = 5;
    newer.term = 7;
    newer.vote = 2;
    assert_int_equal(log_record_unpack_vote(sector, &out), ERR_NOT_FOUND);
    check_vote_survives(&vote);
    check_torn_vote(NULL, &vote);
    check_torn_vote(&vote, &newer);
}

/* As written before each sector held it twice. */
static void test_single_vote(void **state)
{
    struct log_record_vote vote = { .group = 4,
                                    .replica = 44,
                                    .sequence = 3,
                                    .term = 2,
                                    .vote = 1 },
                           out;
    uint8_t sector[LOG_RECORD_SECTOR];
    log_record_pack_vote(&vote, sector);
    memset(sector + sizeof sector / 2, 0, sizeof sector / 2);
    memcpy(sector, "CVT1\0\0\0", 8);
    put_u32(sector + 4, hash_crc32c(0, sector, sizeof sector));
    assert_int_equal(log_record_unpack_vote(sector, &out), 0);
    assert_int_equal(out.term, 2);
    sector[300] ^= 1;
    assert_int_equal(log_record_unpack_vote(sector, &out), ERR_CORRUPT);
}

static void test_headers_of_files(void **state)
{
    uint8_t sector[LOG_RECORD_SECTOR];
    struct log_record_segment segment = { .owner = { "0123456789abcdef", 5 },
                                          .number = 9,
                                          .previous = 8,
                                          .bytes = 1 << 20,
                                          .kind = LOG_RECORD_RECOVERY },
                              out;
    struct err err;
    log_record_pack_segment(&segment, sector);
    assert_int_equal(log_record_unpack_segment(sector, &out, &err), 0);
    assert_memory_equal(&out.owner, &segment.owner, sizeof out.owner);
    assert_int_equal(out.number, 9);
    assert_int_equal(out.kind, LOG_RECORD_RECOVERY);
    for (size_t bit = 0; bit < sizeof sector * 8; bit++) {
        sector[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_int_equal(log_record_unpack_segment(sector, &out, &err), ERR_CORRUPT);
        sector[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_every_flipped_bit_is_damage),
        cmocka_unit_test(test_torn_tail_and_missing_batch),
        cmocka_unit_test(test_half_written_sector),
        cmocka_unit_test(test_damage_beside_a_tear),
        cmocka_unit_test(test_payload_that_looks_like_a_batch),
        cmocka_unit_test(test_headers_of_files),
        cmocka_unit_test(test_votes),
        cmocka_unit_test(test_single_vote),
    };
    return cmocka_run_group_tests_name("log_record", tests, NULL, NULL);
}
