/* Fuzz target: opening a log whose segment holds any bytes, and the scan alone. Recovery must
 * neither crash nor read out of bounds, and what it accepts it must accept again after a restart.
 * Build: make fuzz.
 *
 * The first byte chooses: even, the input is the segment as it is; odd, it describes batches of any
 * records, which get right checksums and tags, and then bytes to overwrite, so that the fuzzer
 * comes behind the checksums. */
#include <stdlib.h>

#include "../unit/raft/fake_env.h"
#include "base/hash.h"
#include "raft/log.h"
#include "raft/log_record.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { SEGMENT = 64 << 10, SECTORS = SEGMENT / LOG_RECORD_SECTOR };

static void fuzz_line(void *ctx, enum logger_level level, const char *line)
{
}

static void fuzz_batch(struct reader *reader, struct log_record_head *head, uint8_t *image)
{
    struct log_record_packer packer = { 0 };
    struct log_record records[16] = { 0 };
    static const uint8_t payload[1024];
    uint32_t count = reader_u8(reader) % 16;
    head->records = count;
    head->payload_bytes = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint8_t shape = reader_u8(reader);
        records[i].kind = shape % 6;
        records[i].group = reader_u8(reader) % 4;
        records[i].replica = shape & 128 ? reader_u64(reader) : 1;
        records[i].index = shape & 64 ? reader_u64(reader) : reader_u8(reader);
        records[i].term = shape & 32 ? reader_u64(reader) : reader_u8(reader);
        records[i].length = shape & 16 ? reader_u16(reader) % sizeof payload : 0;
        records[i].crc = hash_crc32c(0, payload, records[i].length);
        head->payload_bytes += records[i].length;
    }
    head->sectors = log_record_sectors(count, 0, head->payload_bytes);
    if (head->sector + head->sectors > SECTORS) {
        return;
    }
    log_record_pack_begin(&packer, head, image + (size_t)head->sector * LOG_RECORD_SECTOR);
    for (uint32_t i = 0; i < count; i++) {
        log_record_pack_add(&packer, &records[i]);
    }
    log_record_pack_copies(&packer, (struct span){ 0 });
    for (uint32_t i = 0; i < count; i++) {
        log_record_pack_payload(&packer, span_of(payload, records[i].length));
    }
    log_record_pack_finish(&packer);
    buf_fini(&packer.table);
    head->sector += head->sectors;
    head->sequence++;
}

static void fuzz_image(struct reader *reader, uint8_t *image)
{
    uint8_t choice = reader_u8(reader);
    if (choice % 2 == 0) {
        size_t left =
            reader->left < SEGMENT - LOG_RECORD_SECTOR ? reader->left : SEGMENT - LOG_RECORD_SECTOR;
        if (left) {
            memcpy(image + LOG_RECORD_SECTOR, reader->at, left);
        }
        return;
    }
    struct log_record_head head = { .segment = 1,
                                    .sector = 1,
                                    .sequence = 1,
                                    .durable_segment = 1,
                                    .durable_sector = 1,
                                    .first_segment = 1 };
    for (uint32_t batches = choice / 2 % 8; batches > 0 && !reader->bad; batches--) {
        fuzz_batch(reader, &head, image);
    }
    while (!reader->bad) {
        uint16_t at = reader_u16(reader);
        image[at] = reader_u8(reader);
    }
}

static int fuzz_open(struct fake_env *fake)
{
    struct logger logger = { .level = LOGGER_ERROR, .write = fuzz_line };
    struct log_config config = { .env = &fake->env,
                                 .logger = &logger,
                                 .directory = "log",
                                 .node_id = 1,
                                 .segment_bytes = SEGMENT };
    struct log *log;
    struct err err;
    int rc = log_open(&config, &log, &err);
    if (rc == 0) {
        for (size_t i = 0; i < log_group_count(log); i++) {
            const struct log_group_start *start = log_group_at(log, i);
            struct blob *payloads[16];
            uint32_t count;
            if (start->raft.last_index >= start->raft.log_start) {
                CHECK(log_read_now(log, start->group, start->raft.log_start, 16, 1 << 16, payloads,
                                   &count, &err) == 0);
                while (count > 0) {
                    blob_unref(payloads[--count]);
                }
            }
        }
        log_close(log);
        fake_run(fake);
    }
    return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fake_env *fake = fake_new(1);
    struct reader reader = reader_of(span_of(data, size));
    struct log_record_segment header = {
        .owner.node_id = 1, .number = 1, .bytes = SEGMENT, .kind = LOG_RECORD_NORMAL
    };
    struct env_file *file;
    struct err err;
    size_t got;
    uint8_t *image = mem_zalloc(SEGMENT);

    fuzz_image(&reader, image);
    if (image[0] == 0) {
        log_record_pack_segment(&header, image);
    }
    CHECK(env_file_open(&fake->env, "log/0000000000000001.log", ENV_FILE_WRITE | ENV_FILE_CREATE,
                        &file, &err) == 0);
    CHECK(env_file_write(&fake->env, file, 0, image, SEGMENT, &err) == 0);
    CHECK(env_file_read(&fake->env, file, 0, image, SEGMENT, &got, &err) == 0 && got == SEGMENT);
    if (fuzz_open(fake) == 0) {
        CHECK(fuzz_open(fake) == 0);
    }
    mem_free(image);
    fake_free(fake);
    return 0;
}
