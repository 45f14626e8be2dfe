/* Verbs on single keys (get, put, delete, setattr) and multi, which is many of them in one frame.
 * All become operations; each goes to its partition here, or with others of its kind to the node
 * that leads it.
 *
 *   NEW → WRITING → DONE                   the partition here leads: proposed, applied
 *   NEW → READING → READABLE → (DONE)      leadership confirmed, or the leader has told a follower here to
 *                                          where it must have applied; read when the whole request is answered
 *   NEW → FORWARDED → DONE                 another node answered
 *   … → NEW                                no primary, or the wrong one: parked, dispatched again
 *
 * A read's value is taken at the very end, for all operations at once: what the store holds then is
 * committed and no older than what was confirmed, and spans borrowed from the store need not
 * outlive the turn.
 *
 * Reads by lease and stale ones need no leave of others (NEW → READABLE at once, is_alone). Whether
 * they had the right to is judged again after the read, with the clock of that moment: a process
 * that slept between finds out there. Who had not, and who is staler than allowed, goes the
 * linearizable way instead.
 *
 * Here: what an operation goes through. verb_kv_take.c takes requests apart, verb_kv_forward.c asks other
 * nodes and hears them, verb_kv_answer.c reads what may be read, judges it and answers. */
#include <stdio.h>

#include "base/check.h"
#include "node/verb_kv_private.h"

void kv_finish(struct operation *operation, int status)
{
    CHECK(operation->state != OPERATION_DONE && operation->state != OPERATION_READABLE);
    bool is_answer = status == 0 || status == ERR_NOT_FOUND || status == ERR_EXISTS ||
                     status == ERR_CONDITION_FAILED;
    if (operation->maybe_applied && !is_answer) {
        status = ERR_UNKNOWN_OUTCOME;
    }
    operation->status = status;
    operation->state = status == 0 && kv_is_read(operation) && !operation->has_record
                           ? OPERATION_READABLE
                           : OPERATION_DONE;
    operation->request->unfinished--;
}

void kv_ask_again(struct operation *operation)
{
    if (kv_is_stale_read(operation)) {
        kv_bar_weak_way(operation);
        operation->text = NULL; /* the replica that was asked is not heard */
    }
    operation->state = OPERATION_NEW;
    request_park(operation->request);
}

/* --- To the partitions */

static void on_write_done(struct partition_write *write, int status,
                          const struct store_result *result)
{
    struct operation *operation = container_of(write, struct operation, write);
    operation->partition = NULL;
    if (status == ERR_NOT_PRIMARY || (status == ERR_UNKNOWN_OUTCOME && operation->has_session)) {
        /* With a session the retry is harmless whatever became of the first try. */
        operation->maybe_applied = operation->maybe_applied || status == ERR_UNKNOWN_OUTCOME;
        operation->state = OPERATION_NEW;
        request_park(operation->request);
        return;
    }
    if (status == 0) {
        operation->result = *result;
        status = result->status;
    }
    kv_finish(operation, status);
    kv_settle(operation->request);
}

static void on_read_done(struct partition_read *read, int status)
{
    struct operation *operation = container_of(read, struct operation, read);
    operation->partition = NULL;
    if (status == ERR_NOT_PRIMARY) {
        operation->is_led_only = true;
        operation->state = OPERATION_NEW;
        request_park(operation->request);
        return;
    }
    kv_finish(operation, status);
    kv_settle(operation->request);
}

/* A command that was proposed before may still be on its way somewhere; proposing stamps a new
 * time, so it needs its own copy. False: there is no memory for that. */
static bool own_command(struct operation *operation)
{
    if (operation->command->references > 1) {
        struct mem_gate *gate = env_gate(operation->request->node->env, MEM_REQUEST);
        struct blob *copy = blob_try_new(gate, operation->command->size);
        if (!copy) {
            return false;
        }
        memcpy(copy->data, operation->command->data, copy->size);
        blob_unref(operation->command);
        operation->command = copy;
    }
    return true;
}

bool kv_may_read_alone(struct operation *operation, const struct partition *partition)
{
    if (!kv_is_stale_read(operation)) {
        return partition_has_lease(partition);
    }
    operation->staleness_ms = partition_staleness_ms(partition);
    return partition_is_readable(partition) &&
           (operation->max_staleness_ms == 0 ||
            operation->staleness_ms <= operation->max_staleness_ms);
}

static const char *tell_staleness(struct operation *operation)
{
    enum { TEXT_BYTES = 160 };
    char *text = request_try_alloc(operation->request, TEXT_BYTES);
    if (!text) {
        return "the replica asked is too stale, and no primary could be reached";
    }
    if (operation->staleness_ms == UINT64_MAX) {
        snprintf(text, TEXT_BYTES,
                 "how stale the replica asked is, is not known, %lu ms were allowed, and no "
                 "primary could be "
                 "reached",
                 operation->max_staleness_ms);
    } else {
        snprintf(text, TEXT_BYTES,
                 "the replica asked is %lu ms stale, %lu ms were allowed, and no primary could be "
                 "reached",
                 operation->staleness_ms, operation->max_staleness_ms);
    }
    return text;
}

void kv_bar_weak_way(struct operation *operation)
{
    if (kv_is_stale_read(operation) && operation->max_staleness_ms != 0) {
        operation->text = tell_staleness(operation);
    }
    operation->consistency = CAIRN__V1__CONSISTENCY__LINEARIZABLE;
    operation->staleness_ms = 0;
    operation->is_alone = false;
}

static void start_read(struct operation *operation, struct partition *partition,
                       void (*begin)(struct partition *partition, struct partition_read *read))
{
    operation->partition = partition;
    operation->state = OPERATION_READING;
    operation->read = (struct partition_read){ .done = on_read_done };
    begin(partition, &operation->read);
}

/* Stays new when there is no memory. */
static void start_here(struct operation *operation, struct partition *partition)
{
    if (kv_is_read(operation)) {
        start_read(operation, partition, partition_read);
    } else if (own_command(operation)) {
        operation->partition = partition;
        operation->request->may_have_written = true;
        operation->state = OPERATION_WRITING;
        operation->write = (struct partition_write){ .payload = blob_ref(operation->command),
                                                     .ack_all = operation->ack_all,
                                                     .done = on_write_done };
        partition_write(partition, &operation->write);
    }
}

/* The replica here follows, and may answer with its leader's word. */
static bool may_follow(const struct operation *operation, const struct partition *partition)
{
    return kv_is_read(operation) && !operation->is_led_only && partition_may_follow(partition);
}

/* Begins what the replicas here can do. */
static void dispatch_here(struct request *request)
{
    for (size_t i = 0; i < request->operation_count; i++) {
        struct operation *operation = &request->operations[i];
        struct partition *partition = node_find_partition(request->node, operation->group);
        if (operation->state != OPERATION_NEW || !partition) {
            continue;
        }
        if (kv_is_weak_read(operation) && kv_may_read_alone(operation, partition)) {
            operation->is_alone = true;
            kv_finish(operation, 0);
            continue;
        }
        if (kv_is_stale_read(operation)) {
            kv_bar_weak_way(operation);
        }
        if (partition_is_primary(partition)) {
            start_here(operation, partition);
        } else if (may_follow(operation, partition)) {
            start_read(operation, partition, partition_follow);
        }
    }
}

void kv_dispatch(struct request *request)
{
    bool must_park = false;
    dispatch_here(request);
    for (size_t i = 0; i < request->operation_count; i++) {
        struct operation *operation = &request->operations[i];
        if (operation->state != OPERATION_NEW) {
            continue;
        }
        int status;
        struct link *link = kv_choose_link(operation, &status);
        if (status != 0) {
            kv_finish(operation, operation->maybe_applied ? ERR_UNKNOWN_OUTCOME : status);
        } else if (link && !kv_forward_to(request, link, i)) {
            must_park = true; /* what is still new gets another try */
            break;
        } else if (link) {
            continue;
        } else if (operation->text && kv_is_read(operation)) {
            kv_finish(operation,
                      ERR_UNAVAILABLE); /* too stale here: another replica may do better */
        } else {
            must_park = true;
        }
    }
    if (must_park) {
        request_park(request);
    }
    kv_settle(request);
}

/* --- The end */

/* The deadline passed: what is not finished becomes unavailable, or unknown if it may have been
 * applied. */
void kv_expire(struct request *request)
{
    for (size_t i = 0; i < request->operation_count; i++) {
        struct operation *operation = &request->operations[i];
        int status = operation->maybe_applied ? ERR_UNKNOWN_OUTCOME : ERR_UNAVAILABLE;
        switch (operation->state) {
        case OPERATION_WRITING:
            if (operation->write.index != 0) {
                status = ERR_UNKNOWN_OUTCOME;
            }
            if (operation->write.is_applied) {
                operation->text =
                    "applied by a majority; not every reachable replica confirmed in time";
            }
            partition_write_forget(operation->partition, &operation->write);
            break;
        case OPERATION_READING:
            partition_read_forget(operation->partition, &operation->read);
            break;
        case OPERATION_FORWARDED:
            status = kv_is_read(operation) ? ERR_UNAVAILABLE : ERR_UNKNOWN_OUTCOME;
            break;
        case OPERATION_NEW:
            break;
        case OPERATION_READABLE:
        case OPERATION_DONE:
            continue;
        }
        kv_finish(operation, status);
    }
    struct list *taken;
    while ((taken = list_take_first(&request->forwards))) {
        container_of(taken, struct forward, link_in_request)->request = NULL;
    }
    kv_settle(request);
}

void kv_drop(struct request *request)
{
    for (size_t i = 0; i < request->operation_count; i++) {
        struct operation *operation = &request->operations[i];
        if (operation->state == OPERATION_WRITING) {
            partition_write_forget(operation->partition, &operation->write);
        } else if (operation->state == OPERATION_READING) {
            partition_read_forget(operation->partition, &operation->read);
        }
        blob_unref(operation->command);
        operation->command = NULL;
    }
    request->operation_count = 0;
}
