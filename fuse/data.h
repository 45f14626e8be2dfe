/* The bytes of open files: one buffer for each file, shared by all its handles, written to the
 * cluster as one value. */
#ifndef FUSE_DATA_H
#define FUSE_DATA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "client/cairn.h"
#include "inode.h"

/* How the bytes differ from the value that was read; greater is harder to reconcile with another
 * client's change. */
enum data_change {
    DATA_CLEAN,
    DATA_APPENDED, /* only bytes behind base_size are new: may be put behind whatever is there by
                      now */
    DATA_CHANGED,  /* rests on what was read */
    DATA_REPLACED, /* began with truncation to nothing: rests on nothing */
};

enum { DATA_UNKNOWN_MAX = 4 }; /* a later one takes the last one's place */

enum data_state { DATA_IDLE, DATA_LOADING, DATA_CHECKING, DATA_COMMITTING, DATA_RECONCILING };

/* All open files of a mount. */
struct data_pool {
    struct cairn *cairn;
    struct inode_table *inodes;
    struct data *all;
    size_t bytes_total, bytes_max; /* more: clean ones are dropped, then writes get ENOSPC */
};

struct data_waiter;

struct data {
    struct data_pool *pool;
    struct data *next, **link;
    struct inode *inode; /* a reference */
    size_t key_size;
    uint8_t key[CAIRN_KEY_BYTES_MAX];
    uint32_t references; /* of handles and operations */

    uint8_t *bytes;
    size_t size, capacity;
    bool is_loaded;     /* bytes and size mean something */
    bool is_local;      /* deleted or replaced: nothing is read or written any more */
    bool is_created;    /* stands in no cluster yet */
    bool is_conflicted; /* another client's change met ours: ESTALE until replaced or closed */
    enum data_change change;
    uint64_t change_count; /* of all changes, to tell those that came during a commit */
    uint64_t base_version; /* of the value that was read or written last */
    size_t base_size;
    bool has_meta;
    struct cairn_meta meta; /* as last read or written */
    uint64_t changed_us; /* when the bytes changed last, wall clock; 0: not since they were read */
    struct cairn_attributes attributes; /* to be set by the next commit */

    enum data_state state;
    uint64_t request_id;
    struct data_waiter *first, **last;
    /* The commit under way. */
    enum data_change sent_change;
    struct cairn_attributes sent_attributes;
    uint64_t sent_count;
    size_t sent_size;
    /* Puts since the last known outcome that may or may not have been applied. */
    struct {
        uint64_t count;
        size_t size;
    } unknown[DATA_UNKNOWN_MAX];
    unsigned unknown_count;
    unsigned attempts;
};

/* error: 0 or an errno. May be called before the function that got it returns. */
typedef void (*data_done)(void *arg, int error);

/* The inode's data, made if it isn't open yet; one reference is the caller's. */
struct data *data_open(struct data_pool *pool, struct inode *inode, const void *key,
                       size_t key_size);
struct data *data_ref(struct data *data);
/* Gives a reference back. With the last one what was not committed is lost, so commit before. */
void data_close(struct data *data);

/* Calls back when the value is there. ESTALE: the key is gone. */
void data_load(struct data *data, data_done done, void *arg);
/* The same, and asks whether the value is still the newest. */
void data_refresh(struct data *data, data_done done, void *arg);
/* Calls back when a majority has the changes durable. ESTALE: another client's change met ours and
 * they can't be joined. */
void data_commit(struct data *data, data_done done, void *arg);
/* Gives up waiting: the callback with this arg comes with EINTR, now or soon. A commit may or may
 * not have been applied. */
void data_cancel(struct data *data, void *arg);

/* All of these need loaded data (data_replace makes it so). 0 or an errno. */
int data_write(struct data *data, size_t offset, const void *bytes, size_t size, uint64_t now_us);
int data_append(struct data *data, const void *bytes, size_t size, uint64_t now_us);
int data_truncate(struct data *data, size_t size, uint64_t now_us);
void data_replace(struct data *data, uint64_t now_us);
/* Attributes that go with the next commit. */
void data_set_attributes(struct data *data, const struct cairn_attributes *attributes);
/* From now on only this mount knows the bytes; they must be loaded, or will be empty. */
void data_make_local(struct data *data);
/* Another version is known to exist: what isn't changed here is read again. */
void data_note_version(struct data *data, uint64_t version);
static inline bool data_is_dirty(const struct data *data)
{
    return data->change != DATA_CLEAN || data->attributes.mask != 0;
}

/* Sets in `to` what `from` names. */
void data_merge_attributes(struct cairn_attributes *to, const struct cairn_attributes *from);

/* The errno of a code of cairn.h. */
int data_errno(int code);

#endif
