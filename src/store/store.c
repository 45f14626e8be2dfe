/* The state machines of a node: applying, reading single keys, admission, turns. How the store
 * works as a whole, with its invariants, stands at the head of store_private.h. */
#include "store/store.h"

#include "base/check.h"
#include "base/hash.h"
#include "base/limits.h"
#include "store/store_private.h"

/* With more operations unflushed, the number of keys is estimated rather than looked up. */
enum { COUNT_OPERATIONS_MAX = 4096 };

uint64_t store_replica_applied(const struct store_replica *replica)
{
    return replica->applied;
}

uint64_t store_replica_sessions_digest(const struct store_replica *replica)
{
    return session_table_digest(replica->sessions);
}

uint64_t store_replica_flushed(const struct store_replica *replica)
{
    return replica->flushed;
}

uint64_t store_replica_time(const struct store_replica *replica)
{
    return replica->time;
}

uint64_t store_replica_digest(const struct store_replica *replica)
{
    return replica->digest;
}

uint64_t store_replica_mark(const struct store_replica *replica, uint64_t *digest)
{
    *digest = replica->mark_digest;
    return replica->mark_index;
}

uint64_t store_replica_image_index(const struct store_replica *replica)
{
    return replica->image_index;
}

uint64_t store_replica_image_term(const struct store_replica *replica)
{
    return replica->image_term;
}

uint64_t store_replica_frozen(const struct store_replica *replica)
{
    return replica->frozen_applied;
}

/* --- Reading LMDB */

void store_reader_reset(struct store *store)
{
    CHECK(store->cursors == 0);
    if (store->is_reading) {
        mdb_txn_reset(store->reader);
        store->is_reading = false;
    }
}

int store_reader_begin(struct store *store, struct err *err)
{
    if (store->is_reading) {
        return 0;
    }
    int rc = store->reader ? mdb_txn_renew(store->reader)
                           : mdb_txn_begin(store->env, NULL, MDB_RDONLY, &store->reader);
    if (rc != 0) {
        return store_lmdb_error(err, rc, "beginning to read");
    }
    store->is_reading = true;
    return 0;
}

/* The packed record as flushed: 0, ERR_NOT_FOUND (without text), ERR_IO, ERR_CORRUPT. */
static int find_flushed(struct store_replica *replica, struct span key, struct span *bytes,
                        struct err *err)
{
    struct store *store = replica->store;
    struct err own;
    err = err ? err : &own;
    int rc = store_refuse_stopped(replica, err);
    rc = rc == 0 ? store_reader_begin(store, err) : rc;
    if (rc != 0) {
        return rc;
    }
    MDB_val key_val = val_of(key), value;
    rc = mdb_get(store->reader, replica->dbi, &key_val, &value);
    if (rc == MDB_NOTFOUND) {
        return ERR_NOT_FOUND;
    }
    if (rc != 0) {
        return store_read_failed(replica, store_lmdb_error(err, rc, "reading a key"), true, err);
    }
    rc = store_map_check(&store->map, value, err);
    if (rc != 0) {
        return store_read_failed(replica, rc, true, err);
    }
    *bytes = span_of_val(value);
    return 0;
}

int store_read_failed(struct store_replica *replica, int rc, bool is_stopped, struct err *err)
{
    if (store_is_damage(rc)) {
        replica->store->stats.checksum_failures++;
        store_damage(replica, is_stopped, err ? err->text : err_info(rc)->text);
    }
    return rc;
}

int store_get(struct store_replica *replica, struct span key, struct record *out, struct err *err)
{
    struct store *store = replica->store;
    store->stats.gets++;
    if (key.size == 0 || key.size > LIMIT_KEY_BYTES) {
        int code = key.size == 0 ? ERR_KEY_EMPTY : ERR_KEY_TOO_LONG;
        return err_set(err, code, "%s", err_info(code)->text);
    }
    int rc = store_refuse_stopped(replica, err);
    if (rc != 0) {
        return rc;
    }
    const struct overlay_node *node = overlay_find(replica->active, key);
    node = node ? node : overlay_find(replica->frozen, key);
    if (node) {
        if (overlay_entry(node)->is_deleted) {
            return err_set(err, ERR_NOT_FOUND, "no such key");
        }
        store->has_lent = true;
        overlay_record(node, out);
        return 0;
    }
    struct span bytes;
    rc = find_flushed(replica, key, &bytes, err);
    if (rc != 0) {
        return rc == ERR_NOT_FOUND ? err_set(err, rc, "no such key") : rc;
    }
    store->has_lent = true;
    rc = record_unpack_checked(key, bytes, out, NULL, err);
    return rc == 0 ? 0 : store_read_failed(replica, rc, false, err);
}

/* How many of the active generation's blind entries are new keys. Nothing is frozen. */
static int count_new(struct store_replica *replica, int64_t *count)
{
    *count = 0;
    for (const struct overlay_node *node = overlay_first(replica->active); node;
         node = overlay_next(node)) {
        struct span bytes;
        int rc = overlay_entry(node)->is_blind
                     ? find_flushed(replica, overlay_key(node), &bytes, NULL)
                     : 0;
        if (rc != 0 && rc != ERR_NOT_FOUND) {
            return rc;
        }
        *count += rc == ERR_NOT_FOUND;
    }
    return 0;
}

uint64_t store_replica_keys(const struct store_replica *replica)
{
    struct store *store = replica->store;
    uint64_t blind = replica->blind + replica->frozen_blind;
    int64_t count = 0;
    bool is_counted = blind == 0;
    if (!is_counted && !store->frozen && store->active->operations <= COUNT_OPERATIONS_MAX) {
        is_counted = count_new((struct store_replica *)replica, &count) ==
                     0; /* begins to read, changes nothing */
    }
    if (!is_counted) {
        count = (int64_t)(blind * store->blind_new / store->blind_seen);
    }
    return replica->keys + count > 0 ? (uint64_t)(replica->keys + count) : 0;
}

/* --- Applying */

/* What is there before a command. */
struct present {
    bool exists;
    bool
        is_blind; /* nobody looked into LMDB: `exists` is unknown, and nothing below matters (I5) */
    uint64_t version, time; /* 0 when absent */
    struct attributes attributes;
    const struct overlay_entry *entry; /* when it stands in an overlay */
    struct span value;
    uint32_t
        checksum; /* of key and value; only when `entry`, or when the command needs the value */
};

static void present_from_node(const struct overlay_node *node, struct present *out)
{
    const struct overlay_entry *entry = overlay_entry(node);
    if (entry->is_deleted) {
        return;
    }
    *out = (struct present){ .exists = true,
                             .version = entry->version,
                             .time = entry->time,
                             .entry = entry,
                             .value = entry->value,
                             .checksum = entry->checksum };
    if (entry->attributes) {
        out->attributes = *entry->attributes;
    }
}

/* A plain put over a record without attributes takes nothing from it: its checksum is left alone.
 * All else is verified, because what is taken from a damaged record would make this replica differ
 * from the others. */
static int present_from_lmdb(struct store_replica *replica, const struct command *command,
                             struct present *out, struct err *err)
{
    struct span bytes;
    int rc = find_flushed(replica, command->key, &bytes, err);
    if (rc != 0) {
        return rc == ERR_NOT_FOUND ? 0 : rc;
    }
    struct record record;
    rc = record_unpack(bytes, &record, err);
    if (rc == 0 && (command->type != COMMAND_PUT || command->condition != CONDITION_NONE ||
                    record.attributes.mask != 0)) {
        rc = record_unpack_checked(command->key, bytes, &record, &out->checksum, err);
    }
    if (rc != 0) {
        return store_read_failed(replica, rc, true, err);
    }
    out->exists = true;
    out->version = record.version;
    out->time = record.time;
    out->attributes = record.attributes;
    out->value = record.value;
    return 0;
}

static int find_present(struct store_replica *replica, const struct command *command,
                        struct overlay_place *place, struct present *out, struct err *err)
{
    *out = (struct present){ 0 };
    overlay_seek(replica->active, command->key, place);
    const struct overlay_node *node =
        place->node ? place->node : overlay_find(replica->frozen, command->key);
    if (node) {
        present_from_node(node, out);
        return 0;
    }
    if (command->type == COMMAND_PUT && command->condition == CONDITION_NONE &&
        !replica->has_attributes) {
        out->is_blind = true;
        return 0;
    }
    return present_from_lmdb(replica, command, out, err);
}

static int check_condition(const struct command *command, const struct present *present)
{
    switch (command->condition) {
    case CONDITION_ABSENT:
        return present->exists ? ERR_EXISTS : 0;
    case CONDITION_PRESENT:
        return present->exists ? 0 : ERR_NOT_FOUND;
    case CONDITION_VERSION:
        return present->exists && present->version == command->condition_version
                   ? 0
                   : ERR_CONDITION_FAILED;
    default:
        return 0;
    }
}

/* Drops a blob that an overwrite replaced: at once, unless somebody may have borrowed from it
 * (I4). */
static void retire(struct store *store, struct blob *blob)
{
    if (!blob || !store->has_lent) {
        blob_unref(blob);
        return;
    }
    CHECK(store->retired_count < store->retired_capacity);
    store->retired[store->retired_count++] = blob;
}

/* The node's entry is about to be replaced. True: the key was changed before the generation's mark (see struct store_mark). */
static bool leave_mark(struct store_replica *replica, const struct overlay_node *node)
{
    const struct overlay_entry *entry = overlay_entry(node);
    if (replica->mark.index == 0 || entry->version > replica->mark.index) {
        return entry->is_past_mark;
    }
    replica->mark.replaced += store_entry_digest(node);
    return true;
}

/* May the overlay hold a value of this size itself, at this place? Not in place of one that somebody may have borrowed (I4). */
static bool is_held_there(const struct store *store, const struct overlay_place *place, size_t size)
{
    if (!place->node || size == 0) {
        return size <= OVERLAY_VALUE_MAX;
    }
    return size <= overlay_room(place->node) && !store->has_lent;
}

/* Room for all that set_entry adds. False: there is no memory; nothing has changed. */
static bool reserve_entry(struct store_replica *replica, const struct overlay_place *place,
                          struct span key, size_t value_size)
{
    struct store *store = replica->store;
    struct mem_gate *gate = env_gate(store->config.env, MEM_STORE);
    size_t capacity = mem_try_grow(gate, &store->retired, store->retired_capacity,
                                   store->retired_count + 1, sizeof store->retired[0]);
    store->retired_capacity = capacity ? capacity : store->retired_capacity;
    return capacity != 0 && overlay_reserve(replica->active, place, key, value_size);
}

static void set_entry(struct store_replica *replica, const struct overlay_place *place,
                      const struct command *command, const struct overlay_entry *entry,
                      const struct attributes *attributes)
{
    struct overlay_node *node =
        place->node ? place->node
                    : overlay_insert(replica->active, place, command->key, entry->value.size);
    struct overlay_entry set = *entry;
    set.is_blind |= overlay_entry(node)->is_blind; /* of the first put */
    set.is_past_mark = place->node && leave_mark(replica, node);
    retire(replica->store, overlay_set(replica->active, node, &set, attributes));
    replica->has_attributes |= attributes->mask != 0;
}

static void apply_put(struct store_replica *replica, uint64_t index, const struct command *command,
                      struct blob *payload, const struct overlay_place *place,
                      const struct present *present)
{
    struct attributes attributes = { 0 };
    if (command->attributes.mask != 0 || present->attributes.mask != 0) {
        attributes_for_put(present->exists ? &present->attributes : NULL, &command->attributes,
                           &attributes);
    }
    bool is_held = is_held_there(replica->store, place, command->value.size);
    struct overlay_entry entry = { .blob = is_held ? NULL : blob_ref(payload),
                                   .value = command->value,
                                   .version = index,
                                   .time = command->time,
                                   .checksum = command->checksum,
                                   .is_blind = present->is_blind };
    set_entry(replica, place, command, &entry, &attributes);
    replica->keys += !present->exists && !present->is_blind;
    replica->blind += present->is_blind;
}

/* False: there is no memory for the value. */
static bool apply_setattr(struct store_replica *replica, uint64_t index,
                          const struct command *command, const struct overlay_place *place,
                          const struct present *present)
{
    struct overlay_entry entry = { .value = present->value,
                                   .version = index,
                                   .time = command->time,
                                   .checksum = present->checksum };
    bool stays = place->node && present->entry == overlay_entry(place->node);
    if (present->entry && present->entry->blob) {
        entry.blob = blob_ref(present->entry->blob);
    } else if (!stays && !is_held_there(replica->store, place, present->value.size)) {
        entry.blob =
            blob_try_new(env_gate(replica->store->config.env, MEM_STORE), present->value.size);
        if (!entry.blob) {
            return false;
        }
        memcpy(entry.blob->data, present->value.data, present->value.size);
        entry.value = blob_span(entry.blob);
    }
    struct attributes attributes;
    attributes_for_setattr(&present->attributes, present->time, &command->attributes, &attributes);
    set_entry(replica, place, command, &entry, &attributes);
    return true;
}

static void apply_delete(struct store_replica *replica, uint64_t index,
                         const struct command *command, const struct overlay_place *place)
{
    struct overlay_entry entry = { .version = index, .time = command->time, .is_deleted = true };
    struct attributes none = { 0 };
    set_entry(replica, place, command, &entry, &none);
    replica->keys--;
}

static bool owns_key(const struct store_replica *replica, struct span key)
{
    return replica->bits == 0 ||
           (hash_key(replica->hash_seed, key) ^ replica->prefix) >> (64 - replica->bits) == 0;
}

static int refuse_starved(struct err *err)
{
    return err_set(err, ERR_NO_MEMORY, "no memory to apply an entry");
}

/* The command itself, without its session. Changes nothing unless it returns 0 with result->status 0. */
static int apply_command(struct store_replica *replica, uint64_t index,
                         const struct command *command, struct blob *payload,
                         struct store_result *result, struct err *err)
{
    if (command->type == COMMAND_FENCE) {
        return 0;
    }
    if (command->type == COMMAND_MARK) {
        replica->mark.index = replica->mark.index ? replica->mark.index : index;
        replica->store->active->marks++;
        return 0;
    }
    if (!owns_key(replica, command->key)) {
        result->status = ERR_WRONG_PARTITION;
        result->version = 0;
        return 0;
    }
    if (!replica->active) {
        replica->active = overlay_new(replica->store->active);
    }
    if (!replica->active) {
        return refuse_starved(err);
    }
    struct overlay_place place;
    struct present present;
    int rc = find_present(replica, command, &place, &present, err);
    if (rc != 0) {
        return rc;
    }
    size_t value_size = command->type == COMMAND_SETATTR ? present.value.size : command->value.size;
    if (!reserve_entry(replica, &place, command->key, value_size)) {
        return refuse_starved(err);
    }
    result->existed = command->type == COMMAND_DELETE &&
                      present.exists; /* else it would depend on the flushes: I5 */
    result->status = check_condition(command, &present);
    if (result->status == 0 && command->type == COMMAND_SETATTR && !present.exists) {
        result->status = ERR_NOT_FOUND;
    }
    if (result->status != 0) {
        result->version = present.version;
        return 0;
    }
    switch (command->type) {
    case COMMAND_PUT:
        apply_put(replica, index, command, payload, &place, &present);
        break;
    case COMMAND_SETATTR:
        return apply_setattr(replica, index, command, &place, &present) ? 0 : refuse_starved(err);
    default:
        result->version = present.version;
        if (present.exists) {
            apply_delete(replica, index, command, &place);
        }
        break;
    }
    return 0;
}

/* Has the command's session anything to say? True: *result is the answer, nothing is to be
 * applied. */
static bool answer_from_session(struct store_replica *replica, const struct command *command,
                                struct store_result *result)
{
    struct session_result known;
    int verdict = session_admit(replica->sessions, command, &known);
    if (verdict == 0) {
        return false;
    }
    if (verdict < 0) {
        *result = (struct store_result){ .status = verdict, .time = command->time };
        return true;
    }
    *result = (struct store_result){ .status = known.status,
                                     .version = known.version,
                                     .time = known.time,
                                     .existed = known.existed,
                                     .repeated = true };
    return true;
}

/* A command that reached the wrong partition is not remembered: the client sends the same number to
 * the right one. */
static void remember(struct store_replica *replica, const struct command *command,
                     const struct store_result *result)
{
    if (command->number == 0 || result->status == ERR_WRONG_PARTITION) {
        return;
    }
    struct session_result session_result = { .number = command->number,
                                             .version = result->version,
                                             .time = result->time,
                                             .status = result->status,
                                             .existed = result->existed };
    session_record(replica->sessions, command, &session_result);
}

int store_apply(struct store_replica *replica, uint64_t index, struct blob *payload,
                struct store_result *result, struct err *err)
{
    CHECK(index > replica->applied && (replica->applied == 0 || index == replica->applied + 1));
    struct store_result answer = { .version = index, .time = replica->time };
    if (replica->is_stopped) {
        return store_refuse_stopped(replica, err);
    }
    if (!payload || payload->size == 0) {
        replica->applied = index;
        *result = answer;
        return 0;
    }
    struct command command;
    int rc = command_unpack_blob(payload, &command, err);
    if (rc != 0) {
        return rc;
    }
    if (command.time <= replica->time) {
        return err_set(err, ERR_CORRUPT, "entry %llu: its time is not above its predecessor's",
                       (unsigned long long)index);
    }
    answer.time = command.time;
    if (!session_table_expire(replica->sessions, command.time) ||
        (command.number != 0 && !session_reserve(replica->sessions, &command))) {
        return refuse_starved(err);
    }
    if (command.number == 0 || !answer_from_session(replica, &command, &answer)) {
        rc = apply_command(replica, index, &command, payload, &answer, err);
        if (rc != 0) {
            return rc;
        }
        remember(replica, &command, &answer);
    }
    replica->applied = index;
    replica->time = command.time;
    replica->store->active->operations++;
    replica->store->stats.applied++;
    *result = answer;
    return 0;
}

static uint64_t overlay_bytes(const struct store *store)
{
    return store->active->bytes + (store->frozen ? store->frozen->bytes : 0);
}

int store_admit(const struct store *store, size_t bytes)
{
    uint64_t overlay = overlay_bytes(store), overlay_max = store->config.overlay_bytes_max;
    if (bytes == 0) {
        return overlay > overlay_max + overlay_max / 8 ? ERR_BUSY : 0;
    }
    if (store->full != 0) {
        return store->full;
    }
    struct store_lines lines = store_lines(store);
    uint64_t total = store_total_bytes(store) + bytes + overlay_padding(bytes);
    uint64_t not_users = store->due_bytes + store->staged_bytes;
    if (total - (not_users < total ? not_users : total) > lines.quota) {
        return ERR_STORE_FULL;
    }
    return total > lines.brim || overlay + bytes > overlay_max ? ERR_BUSY : 0;
}

struct store_lines store_lines(const struct store *store)
{
    uint64_t quota = store->config.quota_bytes, map = store->config.map_bytes;
    uint64_t beyond = map > quota ? map - quota : 0;
    return (struct store_lines){ .quota = quota,
                                 .stages = quota + beyond / 4,
                                 .brim = quota + beyond / 2 };
}

uint64_t store_total_bytes(const struct store *store)
{
    uint64_t padding = store->active->padding + (store->frozen ? store->frozen->padding : 0);
    return store->stats.used_bytes + store->due_bytes + overlay_bytes(store) + padding;
}

/* --- Turns, numbers, the end */

/* Whether LMDB may hear of a commit before the next turn's end. */
static bool may_commit(const struct store *store)
{
    return store->flush || store->is_installing || !list_is_empty(&store->stages) ||
           !list_is_empty(&store->removals);
}

/* While nothing is to be written the read transaction may stay: it pins nothing as long as nobody
 * commits, and a renewed one has to find every replica's root again (0.2 µs each). */
void store_turn_end(struct store *store)
{
    CHECK(store->cursors == 0);
    if (may_commit(store)) {
        store_reader_reset(store);
    }
    store->has_lent = false;
    for (size_t i = 0; i < store->retired_count; i++) {
        blob_unref(store->retired[i]);
    }
    store->retired_count = 0;
    if (store->is_committed) {
        store_flush_drop(store);
    }
    if (store->is_swapped) {
        store_install_end(store);
    }
}

uint64_t store_active_bytes(const struct store *store)
{
    return store->active->bytes;
}

uint64_t store_active_operations(const struct store *store)
{
    return store->active->operations;
}

uint64_t store_active_marks(const struct store *store)
{
    return store->active->marks;
}

bool store_is_flushing(const struct store *store)
{
    return store->frozen != NULL || store->is_installing; /* I8 */
}

uint64_t store_unflushed_bytes(const struct store *store)
{
    return overlay_bytes(store);
}

uint64_t store_pinned_from(const struct store *store)
{
    uint64_t images = store_image_pinned_from(store), scrub = store_scrub_pinned_from(store);
    return images < scrub ? images : scrub;
}

/* What others pin is known from the next flush on. */
void store_unpinned(struct store *store)
{
    store->stats.pinned_bytes = 0;
    store_remove_next(store);
}

enum store_pinned store_pinned(const struct store *store)
{
    uint64_t used = store->stats.used_bytes, map = store->config.map_bytes;
    uint64_t left = map > used ? map - used : 0;
    return store->is_pinned_full                  ? STORE_PINNED_ALL
           : store->stats.pinned_bytes > left / 2 ? STORE_PINNED_MUCH
                                                  : STORE_PINNED_LITTLE;
}

uint64_t store_used_bytes(const struct store *store)
{
    return store->stats.used_bytes;
}

const struct store_stats *store_stats(struct store *store)
{
    store->stats.keys = store->stats.sessions = 0;
    LIST_FOR(link, &store->replicas)
    {
        const struct store_replica *replica = container_of(link, struct store_replica, link);
        store->stats.keys += store_replica_keys(replica);
        store->stats.sessions += replica->sessions->count;
    }
    store->stats.overlay_bytes = overlay_bytes(store);
    return &store->stats;
}

void store_close(struct store *store)
{
    if (!store) {
        return;
    }
    CHECK(store->cursors == 0);
    env_timer_stop(store->config.env, &store->retry_timer);
    env_timer_stop(store->config.env, &store->release_timer);
    env_timer_stop(store->config.env, &store->remove_timer);
    list_remove(&store->damage_task.link);
    store_jobs_detach(store);
    store_images_detach(store);
    store_scrub_detach(store);
    store_stages_free(store);
    store_removals_free(store);
    store_flush_close(store);
    if (store->reader) {
        mdb_txn_abort(store->reader);
    }
    if (store->measurer) {
        mdb_txn_abort(store->measurer);
    }
    for (size_t i = 0; i < store->retired_count; i++) {
        blob_unref(store->retired[i]);
    }
    mem_free(store->retired);
    while (!list_is_empty(&store->replicas)) {
        store_replica_free(container_of(store->replicas.next, struct store_replica, link));
    }
    generation_free(store->active);
    generation_free(store->frozen);
    generation_free(store->released);
    if (store->env) {
        mdb_env_close(store->env);
    }
    mem_free((void *)store->config.directory);
    mem_free(store);
}
