/* Tests of the simulated disk: what syncs and power losses leave, by sectors and by names, and the faults. */
#include "base/mem.h"
#include "sim/disk.h"
#include "sim/self_test_private.h"

static void fill(struct disk *disk, const char *path, char byte, size_t size, bool sync)
{
    struct env_file *file;
    char *data = mem_alloc(size);
    memset(data, byte, size);
    if (disk_file_open(disk, path, ENV_FILE_WRITE | ENV_FILE_CREATE, &file, NULL) == 0) {
        disk_file_write(file, 0, data, size, NULL);
        if (sync) {
            disk_file_sync(file, NULL);
        }
        disk_file_close(file);
    }
    mem_free(data);
}

/* Counts sectors that are all `byte`; -1: the file is not there. */
static int count_sectors(struct disk *disk, const char *path, char byte)
{
    struct env_file *file;
    if (disk_file_open(disk, path, ENV_FILE_READ, &file, NULL) != 0) {
        return -1;
    }
    uint64_t size = 0;
    disk_file_size(file, &size, NULL);
    int found = 0;
    for (uint64_t at = 0; at + 512 <= size; at += 512) {
        char sector[512];
        size_t got = 0;
        disk_file_read(file, at, sector, 512, &got, NULL);
        bool same = got == 512;
        for (size_t i = 0; i < 512; i++) {
            same = same && sector[i] == byte;
        }
        found += same;
    }
    disk_file_close(file);
    return found;
}

static void test_disk_durability(struct tally *tally)
{
    enum { SECTORS = 100 };
    int kept_synced = 0, lost = 0, kept = 0, mixed = 0, crash_kept = 0, name_lost = 0;
    for (uint64_t seed = 0; seed < 60; seed++) {
        struct disk *disk = disk_new(seed, 1 << 30);
        disk_prepare(disk, "/d");
        fill(disk, "/d/a", 'o', SECTORS * 512, true);
        disk_dir_sync(disk, "/d", NULL);
        fill(disk, "/d/a", 'n', SECTORS * 512, false);
        disk_process_ended(disk);
        crash_kept += count_sectors(disk, "/d/a", 'n') == SECTORS;
        fill(disk, "/d/unsynced", 'x', 512, true);
        disk_power_loss(disk, false);
        int new = count_sectors(disk, "/d/a", 'n'), old = count_sectors(disk, "/d/a", 'o');
        kept_synced += new + old == SECTORS;
        lost += old == SECTORS;
        kept += new == SECTORS;
        mixed += new > 0 && old > 0;
        name_lost += count_sectors(disk, "/d/unsynced", 'x') == -1;
        disk_free(disk);
    }
    self_test_ok(tally, crash_kept == 60, "disk: a crash of the process keeps the page cache");
    self_test_ok(tally, kept_synced == 60,
                 "disk: after a power loss each sector holds the old or the new");
    self_test_ok(tally, lost > 0 && kept > 0 && mixed > 0,
                 "disk: unsynced sectors are all lost, all kept, or some of each");
    self_test_ok(tally, name_lost > 10 && name_lost < 60,
                 "disk: a name that was not synced may be gone");
}

static void test_disk_synced(struct tally *tally)
{
    int kept = 0, torn = 0, lied = 0;
    for (uint64_t seed = 0; seed < 60; seed++) {
        struct disk *disk = disk_new(seed, 1 << 30);
        disk_prepare(disk, "/d");
        fill(disk, "/d/a", 'o', 40000, true);
        disk_dir_sync(disk, "/d", NULL);
        fill(disk, "/d/a", 'n', 40000 / 512 * 512, true);
        fill(disk, "/d/a", 'm', 512, false);
        disk_power_loss(disk, true);
        torn +=
            count_sectors(disk, "/d/a", 'n') + count_sectors(disk, "/d/a", 'm') == 40000 / 512 - 1;
        kept += count_sectors(disk, "/d/a", 'n') >= 40000 / 512 - 1;
        disk_faults(disk)->lies = true;
        fill(disk, "/d/a", 'l', 40000, true);
        disk_power_loss(disk, false);
        lied += count_sectors(disk, "/d/a", 'l') < 40000 / 512;
        disk_free(disk);
    }
    self_test_ok(tally, kept == 60, "disk: what was synced survives a power loss");
    self_test_ok(tally, torn == 60, "disk: the sector written last is torn");
    self_test_ok(tally, lied > 20, "disk: with --break-sync a synced write is lost");
}

static void test_disk_rename(struct tally *tally)
{
    int old = 0, new = 0, other = 0;
    for (uint64_t seed = 0; seed < 60; seed++) {
        struct disk *disk = disk_new(seed, 1 << 30);
        disk_prepare(disk, "/d");
        fill(disk, "/d/a", 'o', 512, true);
        disk_dir_sync(disk, "/d", NULL);
        fill(disk, "/d/a.new", 'n', 512, true);
        disk_rename(disk, "/d/a.new", "/d/a", NULL);
        disk_power_loss(disk, false);
        bool is_old = count_sectors(disk, "/d/a", 'o') == 1,
             is_new = count_sectors(disk, "/d/a", 'n') == 1;
        old += is_old;
        new += is_new;
        other += !is_old && !is_new;
        disk_free(disk);
    }
    self_test_ok(tally, old > 0 && new > 0 && other == 0,
                 "disk: a rename happened or not, and never loses both");
}

static void test_disk_faults(struct tally *tally)
{
    struct disk *disk = disk_new(7, 4096);
    struct env_file *file;
    char bytes[1024] = { 'a' };
    disk_prepare(disk, "/d");
    disk_file_open(disk, "/d/a", ENV_FILE_WRITE | ENV_FILE_CREATE, &file, NULL);
    disk_faults(disk)->fail_write_in = 2;
    bool fine = disk_file_write(file, 0, bytes, 1024, NULL) == 0;
    fine = fine && disk_file_write(file, 0, bytes, 1024, NULL) == ERR_IO;
    fine = fine && disk_file_write(file, 0, bytes, 1024, NULL) == 0;
    self_test_ok(tally, fine, "disk: the n-th write fails, once");
    self_test_ok(tally,
                 disk_file_resize(file, 8192, NULL) == ERR_DISK_FULL &&
                     disk_file_resize(file, 4096, NULL) == 0,
                 "disk: it has a size");
    self_test_ok(tally,
                 disk_room(disk) == 0 &&
                     disk_file_write(file, 4096, bytes, 1, NULL) == ERR_DISK_FULL &&
                     disk_file_write(file, 0, bytes, 1024, NULL) == 0,
                 "disk: a full one refuses new room and takes overwrites");
    struct env_file *other;
    disk_file_resize(file, 3072, NULL);
    disk_file_open(disk, "/d/b", ENV_FILE_WRITE | ENV_FILE_CREATE, &other, NULL);
    fine = disk_file_write(other, 0, bytes, 1024, NULL) == 0 && disk_room(disk) == 0;
    disk_remove(disk, "/d/b", NULL);
    fine = fine && disk_room(disk) == 0;
    disk_file_close(other);
    self_test_ok(tally, fine && disk_room(disk) == 1024,
                 "disk: a file that is cut off makes room, a removed one when nobody has it open");
    disk_faults(disk)->die_in = 2;
    fine = disk_file_sync(file, NULL) == 0 && disk_file_write(file, 0, bytes, 1024, NULL) == ERR_IO;
    fine = fine && disk_file_sync(file, NULL) == ERR_IO;
    self_test_ok(tally, fine, "disk: a dying process does nothing after its last call");
    disk_process_ended(disk);
    disk_file_close(file);
    self_test_ok(
        tally, disk_dir_lock(disk, "/d", NULL) == 0 && disk_dir_lock(disk, "/d", NULL) == ERR_BUSY,
        "disk: a directory is locked once");
    disk_process_ended(disk);
    self_test_ok(tally, disk_dir_lock(disk, "/d", NULL) == 0,
                 "disk: the lock ends with the process");
    disk_free(disk);
}

/* After a failed sync, a later good sync must not save what the failed one dropped. */
static void test_disk_failed_sync(struct tally *tally)
{
    int lost = 0;
    for (uint64_t seed = 0; seed < 40; seed++) {
        struct disk *disk = disk_new(seed, 1 << 30);
        struct env_file *file;
        char bytes[8 * 512];
        memset(bytes, 'n', sizeof bytes);
        disk_prepare(disk, "/d");
        fill(disk, "/d/a", 'o', sizeof bytes, true);
        disk_dir_sync(disk, "/d", NULL);
        disk_file_open(disk, "/d/a", ENV_FILE_WRITE, &file, NULL);
        disk_file_write(file, 0, bytes, sizeof bytes, NULL);
        disk_faults(disk)->fail_sync_in = 1;
        disk_file_sync(file, NULL);
        disk_file_sync(file, NULL);
        disk_file_close(file);
        disk_power_loss(disk, false);
        lost += count_sectors(disk, "/d/a", 'o') > 0;
        disk_free(disk);
    }
    self_test_ok(tally, lost > 20, "disk: a sync after a failed sync proves nothing");
}

/* What a failed sync did save of a new file is what a later, lost write falls back to. */
static void test_disk_half_sync(struct tally *tally)
{
    int saved = 0, whole = 0;
    for (uint64_t seed = 0; seed < 40; seed++) {
        struct disk *disk = disk_new(seed, 1 << 30);
        disk_prepare(disk, "/d");
        fill(disk, "/d/a", 0, 8 * 512, true);
        disk_dir_sync(disk, "/d", NULL);
        disk_faults(disk)->fail_sync_in = 1;
        fill(disk, "/d/a", 'n', 8 * 512, true);
        fill(disk, "/d/a", 'm', 8 * 512, false);
        disk_power_loss(disk, false);
        int zero = count_sectors(disk, "/d/a", 0), of_first = count_sectors(disk, "/d/a", 'n');
        int of_second = count_sectors(disk, "/d/a", 'm');
        saved += of_first > 0;
        whole += zero + of_first + of_second == 8;
        disk_free(disk);
    }
    self_test_ok(tally, saved > 10 && whole == 40,
                 "disk: what a failed sync saved lies under what comes later");
}

/* A sector that goes astray is missed as soon as a later write is durable, not before, and not if the process has ended before
 * or the disk has got calm. */
static void test_disk_astray(struct tally *tally)
{
    enum { SECTORS = 32, FIRST = 4 };
    int kept = 0, missed = 0, elsewhere = 0, forgiven = 0;
    for (uint64_t seed = 0; seed < 80; seed++) {
        bool ends = seed % 4 == 1, calms = seed % 4 == 3;
        struct disk *disk = disk_new(seed, 1 << 30);
        struct env_file *file;
        char bytes[FIRST * 512];
        disk_prepare(disk, "/d/log");
        fill(disk, "/d/log/a", 'o', SECTORS * 512, true);
        disk_dir_sync(disk, "/d/log", NULL);
        memset(bytes, 'n', sizeof bytes);
        disk_faults(disk)->misdirect_in = 1;
        disk_file_open(disk, "/d/log/a", ENV_FILE_WRITE, &file, NULL);
        disk_file_write(file, 0, bytes, sizeof bytes, NULL);
        disk_file_sync(file, NULL);
        kept += count_sectors(disk, "/d/log/a", 'n') == FIRST;
        if (ends) {
            disk_file_close(file);
            disk_process_ended(disk);
            disk_file_open(disk, "/d/log/a", ENV_FILE_WRITE, &file, NULL);
        } else if (calms) {
            disk_calm(disk);
        }
        memset(bytes, 'm', sizeof bytes);
        disk_file_write(file, sizeof bytes, bytes, sizeof bytes, NULL);
        kept += disk_stats(disk)->misdirected == 0;
        disk_file_sync(file, NULL);
        disk_file_close(file);
        disk_power_loss(disk, false);
        int left = count_sectors(disk, "/d/log/a", 'n'), old = count_sectors(disk, "/d/log/a", 'o');
        int later = count_sectors(disk, "/d/log/a", 'm');
        forgiven += (ends || calms) && left == FIRST && later == FIRST &&
                    disk_stats(disk)->misdirected == 0;
        missed += seed % 2 == 0 && later == FIRST && disk_stats(disk)->misdirected == 1 &&
                  left + old + later == SECTORS;
        elsewhere += seed % 2 == 0 && left == FIRST && old == SECTORS - 2 * FIRST;
        disk_free(disk);
    }
    self_test_ok(tally,
                 kept == 160 && missed == 40 && forgiven == 40 && elsewhere > 20 && elsewhere < 40,
                 "disk: a sector astray is missed when a later write is durable");
}

void self_test_disk(struct tally *tally)
{
    test_disk_durability(tally);
    test_disk_synced(tally);
    test_disk_rename(tally);
    test_disk_faults(tally);
    test_disk_failed_sync(tally);
    test_disk_half_sync(tally);
    test_disk_astray(tally);
}
