/* Small files of a node (identity, topology): magic, format, size, checksum, content; replaced
 * atomically, so that a crash leaves the old or the new one.
 *
 *   offset size field
 *        0    4 magic (says which file it is)
 *        4    4 format number
 *        8    4 content size
 *       12    4 CRC32C of bytes 0–11 and the content
 *       16      content */
#include "base/hash.h"
#include "node/node_private.h"

enum { FILES_FORMAT = 1, FILES_HEAD_BYTES = 16, FILES_CONTENT_MAX = 4 << 20 };

static uint32_t files_checksum(const uint8_t *head, struct span content)
{
    return hash_crc32c(hash_crc32c(0, head, 12), content.data, content.size);
}

static int write_whole(struct env *env, const char *path, struct span bytes, struct err *err)
{
    struct env_file *file;
    int status = env_file_open(env, path, ENV_FILE_WRITE | ENV_FILE_CREATE, &file, err);
    if (status != 0) {
        return status;
    }
    status = env_file_resize(env, file, 0, err);
    if (status == 0) {
        status = env_file_write(env, file, 0, bytes.data, bytes.size, err);
    }
    if (status == 0) {
        status = env_file_sync(env, file, err);
    }
    env_file_close(env, file);
    return status;
}

int files_save(struct env *env, const char *directory, const char *name, uint32_t magic,
               struct span content, struct err *err)
{
    struct buf bytes = { 0 };
    uint8_t *head = buf_extend(&bytes, FILES_HEAD_BYTES);
    put_u32(head, magic);
    put_u32(head + 4, FILES_FORMAT);
    put_u32(head + 8, (uint32_t)content.size);
    put_u32(head + 12, files_checksum(head, content));
    buf_append_span(&bytes, content);
    char *path = mem_printf("%s/%s", directory, name),
         *fresh = mem_printf("%s/%s.new", directory, name);
    int status = write_whole(env, fresh, buf_span(&bytes), err);
    if (status == 0) {
        status = env_file_rename(env, fresh, path, err);
    }
    if (status == 0) {
        status = env_dir_sync(env, directory, err);
    }
    mem_free(path);
    mem_free(fresh);
    buf_fini(&bytes);
    return status;
}

static int check_file(struct span bytes, const char *path, uint32_t magic, struct err *err)
{
    if (bytes.size < FILES_HEAD_BYTES || get_u32(bytes.data) != magic) {
        return err_set(err, ERR_CORRUPT, "%s: not such a file", path);
    }
    if (get_u32(bytes.data + 4) != FILES_FORMAT) {
        return err_set(err, ERR_FORMAT, "%s: format %u, this build knows %d", path,
                       get_u32(bytes.data + 4), FILES_FORMAT);
    }
    struct span content = span_of(bytes.data + FILES_HEAD_BYTES, bytes.size - FILES_HEAD_BYTES);
    if (get_u32(bytes.data + 8) != content.size ||
        get_u32(bytes.data + 12) != files_checksum(bytes.data, content)) {
        return err_set(err, ERR_CORRUPT, "%s: checksum does not match", path);
    }
    return 0;
}

int files_load(struct env *env, const char *directory, const char *name, uint32_t magic,
               struct buf *out, struct err *err)
{
    char *path = mem_printf("%s/%s", directory, name);
    struct env_file *file;
    uint64_t size;
    size_t got;
    int status = env_file_open(env, path, ENV_FILE_READ, &file, err);
    if (status != 0) {
        mem_free(path);
        return status;
    }
    buf_clear(out);
    status = env_file_size(env, file, &size, err);
    if (status == 0 && size > FILES_CONTENT_MAX + FILES_HEAD_BYTES) {
        status = err_set(err, ERR_CORRUPT, "%s: too large", path);
    }
    if (status == 0) {
        status = env_file_read(env, file, 0, buf_reserve(out, size + 1), size, &got, err);
    }
    if (status == 0) {
        buf_commit(out, got);
        status = check_file(buf_span(out), path, magic, err);
    }
    if (status == 0) {
        buf_consume(out, FILES_HEAD_BYTES);
    }
    env_file_close(env, file);
    mem_free(path);
    return status;
}
