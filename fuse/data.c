/* The bytes of open files.
 *
 * A value is read whole and written whole: the cluster never holds half of a change, whatever
 * crashes. Between, the bytes live here, shared by all handles of a file in this mount. A commit is
 * one put; its condition depends on how the bytes came about:
 *
 *   replaced   (truncated to nothing first)       no condition: the last writer wins
 *   appended   (only written behind the end)      if the version is the one read; else the new value is read, the tail put
 *                                                 behind it, and the put repeated
 *   changed    (everything else)                  if the version is the one read; else ESTALE
 *
 * Only one request per file is under way. Those who want something stand in a queue (first in,
 * first out); pump() looks whether the first has what it wants, or starts the next request for it.
 *
 *            load                      commit
 *   LOADING <----- IDLE --------> COMMITTING ----> RECONCILING --+ the tail is put behind the new value,
 *      |            ^ ^  refresh       |  ^   condition failed   | or what is there is ours
 *      +------------+ +---- CHECKING   |  +----------------------+
 *                   ^------------------+
 *
 * Invariants:
 *   I1  state is IDLE exactly when no request is under way; then the queue is empty or being
 *       pumped.
 *   I2  what changes during a commit counts against the value being written: it is never marked
 *       clean by that commit.
 *   I3  a put whose outcome is unknown is remembered; a failed condition after it is first compared
 *       with what was sent, so our own put is never taken for another client's.
 */
#include "data.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
    ATTEMPTS_MAX = 64, /* of putting a tail behind a value that keeps changing; then EBUSY */
    CAPACITY_MIN = 4096,
};

enum want { WANT_LOADED, WANT_NEWEST, WANT_COMMITTED };

struct data_waiter {
    struct data_waiter *next;
    enum want want;
    data_done done;
    void *arg;
};

static void *must(void *memory)
{
    if (memory == NULL) {
        abort();
    }
    return memory;
}

int data_errno(int code)
{
    switch (code) {
    case 0:
        return 0;
    case CAIRN_BUSY: /* EAGAIN would promise that poll tells when to come back */
        return EIO;
    default:
        return cairn_error(code)->errno_value;
    }
}

/* --- Memory */

static void drop_bytes(struct data *data)
{
    data->pool->bytes_total -= data->capacity;
    free(data->bytes);
    data->bytes = NULL;
    data->size = data->capacity = 0;
    data->is_loaded = false;
}

static bool is_droppable(const struct data *data)
{
    return data->state == DATA_IDLE && data->is_loaded && !data->is_local && !data->is_created &&
           !data_is_dirty(data) && !data->is_conflicted;
}

/* Makes room in the pool: clean values of other files can be read again. */
static bool pool_has_room(struct data *wanted, size_t more)
{
    struct data_pool *pool = wanted->pool;
    for (struct data *data = pool->all; data != NULL; data = data->next) {
        if (pool->bytes_total + more <= pool->bytes_max) {
            break;
        }
        if (data != wanted && is_droppable(data)) {
            drop_bytes(data);
        }
    }
    return pool->bytes_total + more <= pool->bytes_max;
}

static int reserve(struct data *data, size_t size)
{
    if (size <= data->capacity) {
        return 0;
    }
    if (size > CAIRN_VALUE_BYTES_MAX) {
        return EFBIG;
    }
    size_t capacity = data->capacity < CAPACITY_MIN ? CAPACITY_MIN : data->capacity;
    while (capacity < size) {
        capacity *= 2;
    }
    if (!pool_has_room(data, capacity - data->capacity)) {
        return ENOSPC;
    }
    uint8_t *bytes = realloc(data->bytes, capacity);
    if (bytes == NULL) {
        return ENOMEM;
    }
    data->pool->bytes_total += capacity - data->capacity;
    data->bytes = bytes;
    data->capacity = capacity;
    return 0;
}

/* --- Life */

struct data *data_open(struct data_pool *pool, struct inode *inode, const void *key,
                       size_t key_size)
{
    if (inode->data != NULL) {
        return data_ref(inode->data);
    }
    struct data *data = must(calloc(1, sizeof *data));
    data->pool = pool;
    data->inode = inode_ref(inode);
    data->key_size = key_size;
    memcpy(data->key, key, key_size);
    data->references = 1;
    data->last = &data->first;
    data->next = pool->all;
    data->link = &pool->all;
    if (pool->all != NULL) {
        pool->all->link = &data->next;
    }
    pool->all = data;
    inode->data = data;
    return data;
}

struct data *data_ref(struct data *data)
{
    data->references++;
    return data;
}

void data_close(struct data *data)
{
    if (data == NULL || --data->references > 0) {
        return;
    }
    *data->link = data->next;
    if (data->next != NULL) {
        data->next->link = data->link;
    }
    drop_bytes(data);
    data->inode->data = NULL;
    inode_unref(data->pool->inodes, data->inode);
    free(data);
}

/* --- The queue */

static void pump(struct data *data);

static void enqueue(struct data *data, enum want want, data_done done, void *arg)
{
    struct data_waiter *waiter = must(calloc(1, sizeof *waiter));
    *waiter = (struct data_waiter){ .want = want, .done = done, .arg = arg };
    *data->last = waiter;
    data->last = &waiter->next;
    pump(data);
}

void data_load(struct data *data, data_done done, void *arg)
{
    enqueue(data, WANT_LOADED, done, arg);
}

void data_refresh(struct data *data, data_done done, void *arg)
{
    enqueue(data, WANT_NEWEST, done, arg);
}

void data_commit(struct data *data, data_done done, void *arg)
{
    enqueue(data, WANT_COMMITTED, done, arg);
}

static void finish(struct data *data, struct data_waiter **at, int error)
{
    struct data_waiter *waiter = *at;
    *at = waiter->next;
    if (*at == NULL) {
        data->last = at;
    }
    waiter->done(waiter->arg, error);
    free(waiter);
}

static void finish_first(struct data *data, int error)
{
    if (data->first != NULL) {
        finish(data, &data->first, error);
    }
}

void data_cancel(struct data *data, void *arg)
{
    for (struct data_waiter **at = &data->first; *at != NULL; at = &(*at)->next) {
        if ((*at)->arg != arg) {
            continue;
        }
        if (at == &data->first && data->state != DATA_IDLE) {
            cairn_cancel(data->pool->cairn, data->request_id);
        } else {
            finish(data, at, EINTR);
        }
        return;
    }
}

/* --- Requests */

static void submit(struct data *data, const struct cairn_request *request, enum data_state state,
                   cairn_done done)
{
    struct cairn_request copy = *request;
    copy.key = data->key;
    copy.key_size = data->key_size;
    int status = cairn_submit(data->pool->cairn, &copy, done, data, &data->request_id);
    if (status != 0) {
        finish_first(data, data_errno(status));
        return;
    }
    data->state = state;
    data_ref(data);
}

/* The end of every request: the next one in the queue gets its turn. */
static void end_request(struct data *data)
{
    pump(data);
    data_close(data);
}

static void adopt(struct data *data, struct cairn_result *result)
{
    drop_bytes(data);
    data->size = data->capacity = result->value_size;
    data->bytes = cairn_result_take_value(result);
    data->pool->bytes_total += data->capacity;
    data->is_loaded = true;
    data->meta = result->meta;
    data->has_meta = true;
    data->base_version = result->meta.version;
    data->base_size = data->size;
    data->changed_us = 0;
    data->unknown_count = 0;
}

static void load_done(void *arg, struct cairn_result *result)
{
    struct data *data = arg;
    data->state = DATA_IDLE;
    if (data->is_loaded && (data->change != DATA_CLEAN || data->is_local)) {
        /* Replaced or cut off meanwhile: what was read is of no interest. */
    } else if (result->status == CAIRN_NOT_FOUND) {
        finish_first(data, ESTALE);
    } else if (result->status != 0) {
        finish_first(data, data_errno(result->status));
    } else if (!pool_has_room(data, result->value_size)) {
        finish_first(data, ENOMEM);
    } else {
        adopt(data, result);
        /* What was just read is the newest that this waiter can ask for. */
        finish_first(data, 0);
    }
    end_request(data);
}

static void start_load(struct data *data)
{
    submit(data, &(struct cairn_request){ .verb = CAIRN_GET }, DATA_LOADING, load_done);
}

static void check_done(void *arg, struct cairn_result *result)
{
    struct data *data = arg;
    data->state = DATA_IDLE;
    if (data->change != DATA_CLEAN || data->is_local) {
        finish_first(data, 0);
    } else if (result->status == CAIRN_NOT_FOUND) {
        finish_first(data, ESTALE);
    } else if (result->status != 0) {
        finish_first(data, data_errno(result->status));
    } else if (data->is_loaded && result->meta.version == data->base_version) {
        data->meta = result->meta;
        data->has_meta = true;
        finish_first(data, 0);
    } else {
        start_load(data);
    }
    end_request(data);
}

static void start_check(struct data *data)
{
    submit(data, &(struct cairn_request){ .verb = CAIRN_GET_META }, DATA_CHECKING, check_done);
}

/* --- Commit */

static enum data_change merge_change(enum data_change older, enum data_change newer)
{
    return older > newer ? older : newer;
}

/* A commit failed: its changes stand open again, below those that came since. */
static void restore_sent(struct data *data)
{
    struct cairn_attributes attributes = data->sent_attributes;
    data->change = merge_change(data->sent_change, data->change);
    data_merge_attributes(&attributes, &data->attributes);
    data->attributes = attributes;
    data->sent_change = DATA_CLEAN;
    data->sent_attributes = (struct cairn_attributes){ 0 };
}

static void take_committed(struct data *data, uint64_t version, uint64_t time_us)
{
    data_merge_attributes(&data->meta.attributes, &data->sent_attributes);
    data->meta.version = data->base_version = version;
    data->meta.time_us = time_us;
    data->meta.size = data->base_size = data->sent_size;
    data->sent_change = DATA_CLEAN;
    data->sent_attributes = (struct cairn_attributes){ 0 };
    data->is_created = data->is_conflicted = false;
    data->unknown_count = 0;
    if (data->change == DATA_CLEAN) {
        data->changed_us = 0;
    }
    finish_first(data, 0);
}

static void start_commit(struct data *data);

/* Finds out whether a put of unknown outcome was applied: what is there is what it sent, or begins
 * with it when we only appended. The longest counts. Returns its index, or -1. */
static int find_ours(const struct data *data, const struct cairn_result *result)
{
    for (int i = (int)data->unknown_count - 1; i >= 0; i--) {
        size_t size = data->unknown[i].size;
        bool is_whole = data->unknown[i].count == data->change_count && result->value_size == size;
        if ((is_whole || data->change == DATA_APPENDED) && size <= result->value_size &&
            memcmp(result->value, data->bytes, size) == 0) {
            return i;
        }
    }
    return -1;
}

/* Puts our tail behind the value that another client wrote. */
static int rebase(struct data *data, struct cairn_result *result)
{
    size_t tail_size = data->size - data->base_size;
    if (result->value_size + tail_size > CAIRN_VALUE_BYTES_MAX) {
        return EFBIG;
    }
    int error = reserve(data, result->value_size + tail_size);
    if (error != 0) {
        return error;
    }
    memmove(data->bytes + result->value_size, data->bytes + data->base_size, tail_size);
    memcpy(data->bytes, result->value, result->value_size);
    data->size = result->value_size + tail_size;
    data->base_size = result->value_size;
    data->base_version = result->meta.version;
    data->meta = result->meta;
    data->unknown_count = 0;
    return 0;
}

static void refuse(struct data *data)
{
    data->is_conflicted = true;
    finish_first(data, ESTALE);
}

/* The changes that are found to have been applied are no changes any more; what was appended since
 * is. */
static void take_ours(struct data *data, struct cairn_result *result, size_t size)
{
    if (data->size > size) {
        data->base_size = size;
        data->attributes = (struct cairn_attributes){ 0 };
        return;
    }
    data->change = DATA_CLEAN;
    data->attributes = (struct cairn_attributes){ 0 };
    adopt(data, result);
    data->is_created = data->is_conflicted = false;
}

static void reconcile_done(void *arg, struct cairn_result *result)
{
    struct data *data = arg;
    data->state = DATA_IDLE;
    int error = 0;
    if (result->status == CAIRN_NOT_FOUND) {
        refuse(data);
        end_request(data);
        return;
    }
    if (result->status != 0) {
        finish_first(data, data_errno(result->status));
        end_request(data);
        return;
    }
    int ours = find_ours(data, result);
    if (ours >= 0) {
        take_ours(data, result, data->unknown[ours].size);
    }
    if (data->change == DATA_CLEAN) {
        finish_first(data, 0);
    } else if (data->change != DATA_APPENDED) {
        refuse(data);
    } else if (++data->attempts > ATTEMPTS_MAX) {
        finish_first(data, EBUSY);
    } else if ((error = rebase(data, result)) != 0) {
        finish_first(data, error);
    } else {
        start_commit(data);
    }
    end_request(data);
}

static void note_unknown(struct data *data)
{
    if (data->unknown_count == DATA_UNKNOWN_MAX) {
        data->unknown_count--;
    }
    data->unknown[data->unknown_count].count = data->sent_count;
    data->unknown[data->unknown_count++].size = data->sent_size;
}

static void commit_done(void *arg, struct cairn_result *result)
{
    struct data *data = arg;
    data->state = DATA_IDLE;
    if (result->status == 0) {
        take_committed(data, result->meta.version, result->meta.time_us);
        end_request(data);
        return;
    }
    restore_sent(data);
    if (result->status == CAIRN_CONDITION_FAILED) {
        if (data->change == DATA_APPENDED || data->unknown_count > 0) {
            submit(data, &(struct cairn_request){ .verb = CAIRN_GET }, DATA_RECONCILING,
                   reconcile_done);
        } else {
            refuse(data);
        }
    } else {
        if (result->status == CAIRN_UNKNOWN_OUTCOME || result->status == CAIRN_CANCELLED) {
            note_unknown(data);
        }
        finish_first(data, data_errno(result->status));
    }
    end_request(data);
}

/* The attributes alone, whatever the version is now: another client's change is not taken for read.
 */
static void commit_attributes_anyway_done(void *arg, struct cairn_result *result)
{
    struct data *data = arg;
    data->state = DATA_IDLE;
    if (result->status != 0) {
        restore_sent(data);
    } else {
        data->sent_attributes = (struct cairn_attributes){ 0 };
        data_note_version(data, 0);
    }
    finish_first(data, result->status == CAIRN_NOT_FOUND ? ESTALE : data_errno(result->status));
    end_request(data);
}

static void commit_attributes_done(void *arg, struct cairn_result *result)
{
    struct data *data = arg;
    data->sent_size = data->base_size;
    if (result->status != CAIRN_CONDITION_FAILED) {
        commit_done(arg, result);
        return;
    }
    data->state = DATA_IDLE;
    submit(data,
           &(struct cairn_request){ .verb = CAIRN_SETATTR,
                                    .attributes = data->sent_attributes,
                                    .condition = CAIRN_IF_PRESENT },
           DATA_COMMITTING, commit_attributes_anyway_done);
    end_request(data);
}

/* A set modification time would outlive this change; 0 takes it back, unless a time was asked for.
 */
static void put_times(const struct data *data, struct cairn_attributes *attributes)
{
    bool may_be_set =
        data->has_meta ? data->meta.attributes.mask & CAIRN_ATTR_MTIME : !data->is_created;
    if (may_be_set && !(attributes->mask & CAIRN_ATTR_MTIME)) {
        attributes->mask |= CAIRN_ATTR_MTIME;
        attributes->mtime_us = 0;
    }
}

static void start_commit(struct data *data)
{
    struct cairn_request request = {
        .verb = data->change != DATA_CLEAN ? CAIRN_PUT : CAIRN_SETATTR,
        .attributes = data->attributes,
    };
    if (request.verb == CAIRN_PUT) {
        request.value = data->bytes;
        request.value_size = data->size;
        put_times(data, &request.attributes);
    }
    if (data->change != DATA_REPLACED) {
        request.condition = CAIRN_IF_VERSION;
        request.version = data->base_version;
    }
    data->sent_change = data->change;
    data->sent_attributes = data->attributes;
    data->sent_count = data->change_count;
    data->sent_size = data->size;
    data->change = DATA_CLEAN;
    data->attributes = (struct cairn_attributes){ 0 };
    submit(data, &request, DATA_COMMITTING,
           request.verb == CAIRN_PUT ? commit_done : commit_attributes_done);
    if (data->state != DATA_COMMITTING) {
        restore_sent(data);
    }
}

/* Gives the first in the queue what it wants, or starts what it takes. */
static void pump(struct data *data)
{
    data_ref(data);
    while (data->state == DATA_IDLE && data->first != NULL) {
        enum want want = data->first->want;
        bool is_ours_alone = data->is_local || data->is_created || data->change != DATA_CLEAN;
        if (want == WANT_COMMITTED) {
            if (data->is_local || !data_is_dirty(data)) {
                finish_first(data, 0);
            } else if (data->is_conflicted && data->change != DATA_REPLACED) {
                finish_first(data, ESTALE);
            } else {
                data->attempts = 0;
                start_commit(data);
            }
        } else if (data->is_loaded && (want == WANT_LOADED || is_ours_alone)) {
            finish_first(data, 0);
        } else if (data->is_local) {
            finish_first(data, ESTALE);
        } else if (data->is_loaded) {
            start_check(data);
        } else {
            start_load(data);
        }
    }
    data_close(data);
}

/* --- Changes */

static void changed(struct data *data, enum data_change change, uint64_t now_us)
{
    data->change = merge_change(data->change, change);
    data->changed_us = now_us;
    data->change_count++;
    /* A written file is of now, whatever time was asked for before. */
    data->attributes.mask &= ~(uint32_t)CAIRN_ATTR_MTIME;
}

int data_write(struct data *data, size_t offset, const void *bytes, size_t size, uint64_t now_us)
{
    if (offset > CAIRN_VALUE_BYTES_MAX || size > CAIRN_VALUE_BYTES_MAX - offset) {
        return EFBIG;
    }
    int error = reserve(data, offset + size);
    if (error != 0) {
        return error;
    }
    if (offset > data->size) {
        memset(data->bytes + data->size, 0, offset - data->size);
    }
    if (size > 0) {
        memcpy(data->bytes + offset, bytes, size);
    }
    if (offset + size > data->size) {
        data->size = offset + size;
    }
    changed(data, DATA_CHANGED, now_us);
    return 0;
}

int data_append(struct data *data, const void *bytes, size_t size, uint64_t now_us)
{
    enum data_change before = data->change;
    int error = data_write(data, data->size, bytes, size, now_us);
    if (error == 0) {
        data->change = merge_change(before, DATA_APPENDED);
    }
    return error;
}

int data_truncate(struct data *data, size_t size, uint64_t now_us)
{
    if (size == 0) {
        data_replace(data, now_us);
        return 0;
    }
    if (size > data->size) {
        return data_write(data, size, NULL, 0, now_us);
    }
    data->size = size;
    changed(data, DATA_CHANGED, now_us);
    return 0;
}

void data_replace(struct data *data, uint64_t now_us)
{
    data->size = 0;
    data->is_loaded = true;
    data->is_conflicted = false;
    changed(data, DATA_REPLACED, now_us);
}

void data_merge_attributes(struct cairn_attributes *to, const struct cairn_attributes *from)
{
    to->mask |= from->mask;
    to->mode = from->mask & CAIRN_ATTR_MODE ? from->mode : to->mode;
    to->uid = from->mask & CAIRN_ATTR_UID ? from->uid : to->uid;
    to->gid = from->mask & CAIRN_ATTR_GID ? from->gid : to->gid;
    to->flags = from->mask & CAIRN_ATTR_FLAGS ? from->flags : to->flags;
    to->mtime_us = from->mask & CAIRN_ATTR_MTIME ? from->mtime_us : to->mtime_us;
    to->expires_at_us = from->mask & CAIRN_ATTR_EXPIRES ? from->expires_at_us : to->expires_at_us;
}

void data_set_attributes(struct data *data, const struct cairn_attributes *attributes)
{
    data_merge_attributes(&data->attributes, attributes);
}

void data_make_local(struct data *data)
{
    data->is_local = true;
    if (!data->is_loaded) {
        data->is_loaded = true;
        data->size = 0;
    }
}

void data_note_version(struct data *data, uint64_t version)
{
    if (data->state == DATA_IDLE && is_droppable(data) && version != data->base_version) {
        drop_bytes(data);
    }
}
