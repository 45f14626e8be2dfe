/* Starts: see starts.h. Invariant: of the two slots, only the older one is ever overwritten. */
#include "node/starts.h"

#include <string.h>

#include "base/bytes.h"
#include "base/check.h"
#include "base/hash.h"
#include "base/mem.h"

enum {
    MAGIC_STARTS = 0x53524e43, /* "CNRS" */
    HEAD_BYTES = 24,
    OWN_BYTES = 16,
    PEER_BYTES = 24,
};

_Static_assert(HEAD_BYTES + STARTS_KEPT * OWN_BYTES + LIMIT_NODES * PEER_BYTES <= STARTS_SLOT_BYTES,
               "all marks fit a slot");

static size_t used_bytes(uint32_t own_count, uint32_t peer_count)
{
    return HEAD_BYTES + own_count * OWN_BYTES + peer_count * PEER_BYTES;
}

static struct starts_mark get_mark(const uint8_t *at)
{
    return (struct starts_mark){ get_u64(at), get_u64(at + 8) };
}

static void put_mark(uint8_t *at, struct starts_mark mark)
{
    put_u64(at, mark.number);
    put_u64(at + 8, mark.boot_id);
}

static bool is_slot_sound(const uint8_t *slot)
{
    uint32_t own_count = get_u32(slot + 16), peer_count = get_u32(slot + 20);
    return get_u32(slot) == MAGIC_STARTS && own_count <= STARTS_KEPT && peer_count <= LIMIT_NODES &&
           get_u32(slot + 4) == hash_crc32c(0, slot + 8, used_bytes(own_count, peer_count) - 8);
}

static void unpack_slot(struct starts *starts, const uint8_t *slot)
{
    starts->sequence = get_u64(slot + 8);
    starts->own_count = get_u32(slot + 16);
    starts->peer_count = get_u32(slot + 20);
    const uint8_t *at = slot + HEAD_BYTES;
    for (uint32_t i = 0; i < starts->own_count; i++, at += OWN_BYTES) {
        starts->own[i] = get_mark(at);
    }
    for (uint32_t i = 0; i < starts->peer_count; i++, at += PEER_BYTES) {
        starts->peers[i] = (struct starts_peer){ get_u64(at), get_mark(at + 8) };
    }
}

static void pack_slot(const struct starts *starts, uint8_t *slot)
{
    put_u32(slot, MAGIC_STARTS);
    put_u64(slot + 8, starts->sequence);
    put_u32(slot + 16, starts->own_count);
    put_u32(slot + 20, starts->peer_count);
    uint8_t *at = slot + HEAD_BYTES;
    for (uint32_t i = 0; i < starts->own_count; i++, at += OWN_BYTES) {
        put_mark(at, starts->own[i]);
    }
    for (uint32_t i = 0; i < starts->peer_count; i++, at += PEER_BYTES) {
        put_u64(at, starts->peers[i].node_id);
        put_mark(at + 8, starts->peers[i].mark);
    }
    put_u32(slot + 4, hash_crc32c(0, slot + 8, (size_t)(at - slot) - 8));
}

int starts_open(struct starts *starts, struct env *env, const char *directory, struct err *err)
{
    *starts = (struct starts){ .env = env };
    starts->directory = mem_strdup(directory);
    starts->path = mem_printf("%s/starts", directory);
    struct env_file *file;
    int status = env_file_open(env, starts->path, ENV_FILE_READ, &file, err);
    if (status != 0) {
        return status == ERR_NOT_FOUND ? 0 : status;
    }
    uint8_t *slots = mem_zalloc(2 * STARTS_SLOT_BYTES);
    size_t got;
    status = env_file_read(env, file, 0, slots, 2 * STARTS_SLOT_BYTES, &got, err);
    for (size_t i = 0; status == 0 && i < 2; i++) {
        const uint8_t *slot = slots + i * STARTS_SLOT_BYTES;
        if (is_slot_sound(slot) && get_u64(slot + 8) > starts->sequence) {
            unpack_slot(starts, slot);
        }
    }
    env_file_close(env, file);
    mem_free(slots);
    return status;
}

void starts_fini(struct starts *starts)
{
    mem_free(starts->path);
    mem_free(starts->directory);
    *starts = (struct starts){ 0 };
}

/* The file, with room for both slots. */
static int open_file(struct starts *starts, struct env_file **out, struct err *err)
{
    int status = env_file_open(starts->env, starts->path, ENV_FILE_READ | ENV_FILE_WRITE, out, err);
    if (status != ERR_NOT_FOUND) {
        return status;
    }
    status = env_file_open(starts->env, starts->path,
                           ENV_FILE_READ | ENV_FILE_WRITE | ENV_FILE_CREATE, out, err);
    if (status != 0) {
        return status;
    }
    status = env_file_resize(starts->env, *out, 2 * STARTS_SLOT_BYTES, err);
    if (status == 0) {
        status = env_dir_sync(starts->env, starts->directory, err);
    }
    if (status != 0) {
        env_file_close(starts->env, *out);
    }
    return status;
}

int starts_save(struct starts *starts, struct err *err)
{
    struct env_file *file;
    int status = open_file(starts, &file, err);
    if (status != 0) {
        return status;
    }
    uint8_t *slot = mem_zalloc(STARTS_SLOT_BYTES);
    starts->sequence++;
    pack_slot(starts, slot);
    status = env_file_write(starts->env, file, starts->sequence % 2 * STARTS_SLOT_BYTES, slot,
                            STARTS_SLOT_BYTES, err);
    if (status == 0) {
        status = env_file_sync(starts->env, file, err);
    }
    mem_free(slot);
    env_file_close(starts->env, file);
    return status;
}

static void push_own(struct starts *starts, struct starts_mark mark)
{
    if (starts->own_count == STARTS_KEPT) {
        memmove(starts->own, starts->own + 1, (STARTS_KEPT - 1) * sizeof *starts->own);
        starts->own_count--;
    }
    starts->own[starts->own_count++] = mark;
}

void starts_begin(struct starts *starts, uint64_t boot_id)
{
    push_own(starts, (struct starts_mark){ starts_newest(starts).number + 1, boot_id });
}

void starts_adopt(struct starts *starts, struct starts_mark known, uint64_t boot_id)
{
    uint64_t newest = starts_newest(starts).number;
    push_own(starts, known); /* what this disk called by that number stays: others may know that */
    uint64_t behind = newest > known.number ? newest : known.number;
    push_own(starts, (struct starts_mark){ behind + 1, boot_id });
}

struct starts_mark starts_newest(const struct starts *starts)
{
    return starts->own_count > 0 ? starts->own[starts->own_count - 1] : (struct starts_mark){ 0 };
}

struct starts_mark starts_of(const struct starts *starts, uint64_t node_id)
{
    for (uint32_t i = 0; i < starts->peer_count; i++) {
        if (starts->peers[i].node_id == node_id) {
            return starts->peers[i].mark;
        }
    }
    return (struct starts_mark){ 0 };
}

bool starts_learn(struct starts *starts, uint64_t node_id, struct starts_mark mark)
{
    uint32_t at = 0;
    while (at < starts->peer_count && starts->peers[at].node_id != node_id) {
        at++;
    }
    if (at == LIMIT_NODES) {
        return false; /* no cluster has that many */
    }
    if (at == starts->peer_count) {
        starts->peers[starts->peer_count++] = (struct starts_peer){ .node_id = node_id };
    }
    bool is_new = starts->peers[at].mark.number != mark.number ||
                  starts->peers[at].mark.boot_id != mark.boot_id;
    starts->peers[at].mark = mark;
    return is_new;
}

bool starts_are_older(const struct starts_mark *own, size_t count, struct starts_mark known)
{
    if (known.number == 0) {
        return false;
    }
    if (count == 0 || own[count - 1].number < known.number) {
        return true;
    }
    for (size_t i = 0; i < count; i++) {
        if (own[i].number == known.number && own[i].boot_id == known.boot_id) {
            return false;
        }
    }
    return known.number >= own[0].number; /* else it may be one that is not kept any more */
}
