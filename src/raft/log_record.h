/* The log's format on disk, as pure code: sectors, batches, record headers, segment headers, votes;
 * and the scan that tells a torn tail from damage. No I/O.
 *
 * Sector. Every 512-byte sector behind a segment's header is framed by two tags, so that each of
 * its halves says which generation (segment number) it belongs to; 496 bytes of content stand
 * between:
 *
 *   offset size field
 *        0    8 tag (front): u32 segment number, u32 CRC32C of (number, sector, kind, front)
 *        8  496 content
 *      504    8 tag (back)
 *
 * The kind says whether a batch begins here, so that no payload can look like a batch. A segment is
 * filled once per generation and never appended to after a restart, so a sector with an older
 * generation's tag (or with zeroes, in a file never used) is one that this generation did not
 * write. Sectors are taken to be written whole or torn at a multiple of 8 bytes.
 *
 * Content position ("at"): sector * 496 + offset in the content; a batch's content runs on over the
 * tags.
 *
 * Batch: head, record headers, the previous batch's record headers, payloads; zeroes to the end of
 * the last sector.
 *
 *   offset size head
 *        0    4 magic "CBT1"
 *        4    4 CRC32C of bytes 8–95, seeded with (segment, sector)
 *        8    8 segment number
 *       16    4 sector where the batch begins
 *       20    4 sectors
 *       24    8 sequence: 1, 2, 3 … over all segments
 *       32    4 record headers
 *       36    4 copied headers of the previous batch: all or none (none at a recovery and above
 *               LOG_RECORD_COPIES_MAX)
 *       40    4 CRC32C of both tables, seeded alike
 *       44    4 payload bytes
 *       48    8 durable position: everything before it was durable when this batch was written:
 *               segment …
 *       56    4 … and sector
 *       60    4 CRC32C of the previous batch's record headers, seeded with 0
 *       64    8 oldest segment that is still needed
 *       72    4 number of the previous batch's record headers
 *       76   20 zero
 *
 *   offset size record header
 *        0    4 CRC32C of bytes 4–39, seeded with the batch's (segment, sector)
 *        4    4 group
 *        8    8 replica
 *       16    8 index      (state, healed: term)
 *       24    8 term       (state, healed: vote)
 *       32    4 length, 24 bits; kind in the top 8, whose highest bit says "bare": the payload of
 *               that length and checksum is lost, the batch holds none of its bytes
 *       36    4 CRC32C of the payload, unseeded: peers compare it
 */
#ifndef RAFT_LOG_RECORD_H
#define RAFT_LOG_RECORD_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/err.h"

enum {
    LOG_RECORD_FORMAT = 1,
    LOG_RECORD_SECTOR = 512,
    LOG_RECORD_CONTENT = 496,
    LOG_RECORD_HEAD = 96,
    LOG_RECORD_HEADER = 40,
    /* More record headers than this are not repeated in the next batch, only their checksum is. */
    LOG_RECORD_COPIES_MAX = 4096,
    LOG_RECORD_PAYLOAD_MAX = (1 << 24) - 1,
};

enum log_record_kind {
    LOG_RECORD_ENTRY = 1, /* replaces the group's entries from its index on */
    LOG_RECORD_STATE = 2, /* term and vote */
    LOG_RECORD_START =
        3, /* the log begins at index; index - 1 has the term. Makes the group known, and cuts it */
    LOG_RECORD_MOVED =
        4, /* an entry written again, so that its old segment can go, or because a peer gave its
              payload back; replaces nothing behind it */
    LOG_RECORD_RESET = 5, /* as START; and whatever stands before it of this group is void, also
                             behind `index` */
    LOG_RECORD_SUSPECT = 6, /* the replica may have lost what it promised */
    LOG_RECORD_HEALED = 7,  /* it holds again what it promised; term and vote as in a state */
    LOG_RECORD_ENDED = 8, /* the log ends before index; the entry before has the term. What damage left
                           of what stood behind is not the replica's log */
    LOG_RECORD_KIND_MAX = 8,
};

struct log_record {
    uint8_t kind;
    uint32_t group;
    uint64_t replica;
    uint64_t index, term;
    uint32_t length;
    uint32_t crc; /* of the payload */
    bool is_bare; /* the batch holds no payload: it was lost before */
    /* Not in the header: */
    uint32_t at;  /* content position of the payload in its segment, follows from the layout */
    bool is_hole; /* found by a scan: the payload is not there (bare), damaged, or its place is
                     unknown */
};

struct log_record_head {
    uint64_t segment;
    uint32_t sector, sectors;
    uint64_t sequence;
    uint32_t records, copies;
    uint32_t table_crc;
    uint32_t payload_bytes;
    uint64_t durable_segment;
    uint32_t durable_sector;
    uint32_t previous_crc, previous_records;
    uint64_t first_segment;
};

/* Who wrote a file: cluster and node. */
struct log_record_owner {
    uint8_t cluster_id[16];
    uint64_t node_id;
};

enum log_record_segment_kind {
    LOG_RECORD_NORMAL =
        1, /* its first batch was written after all of the previous segment was durable */
    LOG_RECORD_RECOVERY =
        2, /* its first batch repeats what a restart found unproven at the previous segment's end */
};

/* A segment file's first sector:
 *
 *   offset size field
 *        0    8 magic "CAIRNLOG"
 *        8    4 format
 *       12    4 CRC32C of the sector with this field zero
 *       16   16 cluster id
 *       32    8 node id
 *       40    8 number
 *       48    8 previous segment's number, 0 = none
 *       56    8 size of the file
 *       64    4 kind
 */
struct log_record_segment {
    struct log_record_owner owner;
    uint64_t number, previous;
    uint64_t bytes;
    uint32_t kind;
};

void log_record_pack_segment(const struct log_record_segment *segment,
                             uint8_t out[LOG_RECORD_SECTOR]);
/* ERR_CORRUPT, ERR_FORMAT. Whose it is, is the caller's to compare. */
int log_record_unpack_segment(const uint8_t in[LOG_RECORD_SECTOR], struct log_record_segment *out,
                              struct err *err);

/* One copy of a group's vote, a sector of the votes file (see log_votes.h). The sector holds it twice, in each half, so that a write
 * that is torn inside of it leaves the one before (second half) or the new one (first half) whole, and is no damage: else a
 * power loss could not be told from a vote that rotted. A half:
 *
 *   offset size field
 *        0    4 magic "CVT2" ("CVT1": the sector holds it once, the checksum is the sector's)
 *        4    4 CRC32C of the half with this field zero
 *        8    4 group
 *       12    4 zero
 *       16    8 replica
 *       24    8 sequence: the higher of a group's two copies is the newer
 *       32    8 term
 *       40    8 vote
 *       48   16 cluster id
 *       64    8 node id
 */
struct log_record_vote {
    struct log_record_owner owner;
    uint32_t group;
    uint64_t replica, sequence, term, vote;
};

void log_record_pack_vote(const struct log_record_vote *vote, uint8_t out[LOG_RECORD_SECTOR]);
/* 0; ERR_NOT_FOUND: never written, or the first write was torn; ERR_CORRUPT: neither half can be read. */
int log_record_unpack_vote(const uint8_t in[LOG_RECORD_SECTOR], struct log_record_vote *out);

/* --- Writing. How many sectors a batch takes. */
uint32_t log_record_sectors(uint32_t records, uint32_t copies, uint64_t payload_bytes);
/* Content position of the first payload. */
uint32_t log_record_payload_at(uint32_t sector, uint32_t records, uint32_t copies);

/* Packs one batch: begin, then one add per record, then the payloads of those that are not bare in
 * the same order, then finish. `buffer` takes head.sectors * 512 bytes. The copied headers are copied by begin. */
struct log_record_packer {
    struct log_record_head head;
    uint8_t *buffer;
    uint32_t seed;
    uint32_t added;
    uint32_t at; /* content position of the next byte */
    uint32_t table_crc;
    struct buf table; /* headers as packed, for the next batch's copy; kept by the caller */
};
void log_record_pack_begin(struct log_record_packer *packer, const struct log_record_head *head,
                           uint8_t *buffer);
void log_record_pack_add(struct log_record_packer *packer, const struct log_record *record);
/* The previous batch's headers, exactly head.copies of them; after the last add. */
void log_record_pack_copies(struct log_record_packer *packer, struct span copies);
void log_record_pack_payload(struct log_record_packer *packer, struct span payload);
/* Writes the head and all tags, zeroes the rest. */
void log_record_pack_finish(struct log_record_packer *packer);

/* --- Reading. What a sector says of itself. */
enum log_record_sector {
    LOG_RECORD_SECTOR_HEAD, /* of this segment; a batch begins here */
    LOG_RECORD_SECTOR_BODY, /* of this segment */
    LOG_RECORD_SECTOR_OLD,  /* holds bytes of an older generation, whole or in part, or was never
                               written */
    LOG_RECORD_SECTOR_BAD,  /* neither: damaged */
};
enum log_record_sector log_record_sector_of(const uint8_t *sector, uint64_t segment,
                                            uint32_t index);

/* Copies content without the tags. `image` holds whole sectors beginning with number first_sector;
 * the caller has checked that at … at + size lies within it. */
void log_record_copy(const uint8_t *image, uint32_t first_sector, uint32_t at, uint32_t size,
                     uint8_t *out);

/* The head of the batch that begins in this sector, if its tags and checksum are right:
 * ERR_CORRUPT. */
int log_record_unpack_head(const uint8_t *sector, uint64_t segment, uint32_t index,
                           struct log_record_head *out);

/* The record headers that a batch repeats of the batch before it, checked. `image` begins with the
 * segment's first sector and holds at least the batch's tables. False: it repeats none, or they are
 * damaged. */
bool log_record_copies(const uint8_t *image, const struct log_record_head *head, struct buf *out);

/* A walk over the batches of one segment image. It goes on behind damage as long as a sound batch
 * follows. */
enum log_record_found {
    LOG_RECORD_BATCH,   /* a batch whose record headers are all known. is_hurt: some of them from the
                           copy, or payloads are holes; see reason, bad_sector */
    LOG_RECORD_LOST,    /* damage has cost record headers that no copy restores: some of one batch, or
                           those of several before the next sound one. The records that are known are
                           shown; others may have stood before, between and behind them */
    LOG_RECORD_END,     /* nothing was written behind the last batch */
    LOG_RECORD_TORN,    /* a batch was begun and its missing sectors still hold old bytes; nothing
                           stands behind it */
    LOG_RECORD_DAMAGED, /* something was written here and nothing sound stands behind: as LOST, and
                           the walk is over */
};
/* The first batch behind the image, if it is in another segment. */
struct log_record_behind {
    uint64_t sequence;
    bool has_copies;
    struct buf copies;
};
struct log_record_scan {
    const uint8_t *image; /* whole segment, header sector included */
    uint64_t segment;
    uint32_t sectors;
    uint32_t next;               /* sector where the next batch begins */
    uint64_t sequence;           /* of the last batch, 0 before the first: then any is taken */
    uint32_t proven;             /* set by the caller: all before this sector was durable; 0 = unknown */
    const struct log_record_behind *behind; /* set by the caller: stands behind `proven`; or NULL */
    struct log_record_head head; /* of the last batch; also of a torn one if has_head */
    bool has_head;
    struct log_record *records; /* what was found */
    uint32_t count, capacity;
    uint32_t batch_records; /* of the last batch, known or not */
    struct buf table;       /* scratch: its record headers and the copies */
    bool is_hurt;
    uint32_t bad_sector;
    char reason[128];
};
void log_record_scan_begin(struct log_record_scan *scan, const uint8_t *image, uint32_t sectors,
                           uint64_t segment);
/* After END, TORN and DAMAGED the walk is over. */
enum log_record_found log_record_scan_next(struct log_record_scan *scan);
void log_record_scan_end(struct log_record_scan *scan);

const char *log_record_kind_name(uint8_t kind);

#endif
