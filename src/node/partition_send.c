/* Messages to other replicas, with the payloads of their entries: from the log's memory, or read for those who lag behind. */
#include "node/partition_private.h"

#include <stddef.h>

#include "base/check.h"

/* Payloads of an append: just read from disk (fetched, beginning with index fetched_first), or in
 * the log's memory. */
static bool find_payloads(struct partition *partition, const struct raft_message *message,
                          struct blob **fetched, uint64_t fetched_first, uint32_t fetched_count)
{
    for (uint32_t i = 0; i < message->count; i++) {
        uint64_t index = message->index + 1 + i;
        partition->host->scratch->terms[i] = raft_term_at(&partition->raft, index);
        if (fetched && index >= fetched_first && index < fetched_first + fetched_count) {
            partition->host->scratch->blobs[i] = fetched[index - fetched_first];
        } else {
            partition->host->scratch->blobs[i] =
                log_peek(partition->host->log, partition->group.group, index);
        }
        if (!partition->host->scratch->blobs[i]) {
            return false;
        }
    }
    return true;
}

void partition_send_messages(struct partition *partition, struct blob **fetched,
                             uint64_t fetched_first, uint32_t fetched_count)
{
    struct raft *raft = &partition->raft;
    for (size_t i = 0; i < raft->out.message_count; i++) {
        const struct raft_message *message = &raft->out.messages[i];
        uint64_t node_id = partition_node_of(partition, message->to);
        CHECK(node_id != 0 && message->count <= LIMIT_RAFT_APPEND_ENTRIES);
        /* An append of a term that is over may name entries that were replaced since. */
        if (message->count > 0 &&
            (message->term != raft->term ||
             !find_payloads(partition, message, fetched, fetched_first, fetched_count))) {
            continue; /* Raft repeats */
        }
        partition->host->send(partition->host->ctx, node_id, message,
                              partition->host->scratch->terms, partition->host->scratch->blobs);
    }
    raft->out.message_count = 0;
}

static void fetch_done(void *ctx, int status, uint64_t first, struct blob **payloads,
                       uint32_t count)
{
    struct partition_fetch *fetch = ctx;
    struct partition *partition = fetch->partition;
    uint32_t bytes = 0;
    for (uint32_t i = 0; i < count; i++) {
        bytes += payloads[i]->size;
    }
    fetch->is_active = false;
    if (status != 0) {
        LOG_WARN(partition->host->logger, "part=%u index=%lu cannot read the log for a replica: %s",
                 partition->group.group, first, err_info(status)->name);
        count = 0;
    }
    partition_tell_time(partition);
    raft_fetched(&partition->raft, fetch->to, first, count, bytes);
    partition_settle(partition);
    partition_send_messages(partition, payloads, first, count);
    for (uint32_t i = 0; i < count; i++) {
        blob_unref(payloads[i]);
    }
}

/* NULL: all are reading. */
static struct partition_fetch *free_fetch(struct partition *partition)
{
    for (int i = 0; i < LIMIT_REPLICAS; i++) {
        if (!partition->fetches[i].is_active) {
            return &partition->fetches[i];
        }
    }
    return NULL;
}

static void fill_done(void *ctx, int status, uint64_t first, struct blob **payloads, uint32_t count)
{
    struct partition_fetch *fetch = ctx;
    struct partition *partition = fetch->partition;
    fetch->is_active = false;
    if (count > 0 && raft_fill_send(&partition->raft, fetch->to, first)) {
        partition_send_messages(partition, payloads, first, count);
    }
    for (uint32_t i = 0; i < count; i++) {
        blob_unref(payloads[i]);
    }
}

void partition_start_fills(struct partition *partition)
{
    struct raft_effects *out = &partition->raft.out;
    for (int i = 0; i < out->fill_count; i++) {
        uint64_t index = out->fills[i].index;
        struct partition_fetch *fetch = free_fetch(partition);
        if (!fetch) {
            break;
        }
        *fetch = (struct partition_fetch){ partition, out->fills[i].to, true };
        fetch->is_active = log_read(partition->host->log, partition->group.group, index, 1,
                                    LIMIT_RAFT_APPEND_BYTES, fill_done, fetch) == 0;
    }
    out->fill_count = 0;
}

void partition_start_fetches(struct partition *partition)
{
    struct raft_effects *out = &partition->raft.out;
    for (int i = 0; i < out->fetch_count; i++) {
        struct partition_fetch *fetch = free_fetch(partition);
        if (!fetch) {
            raft_fetched(&partition->raft, out->fetches[i].to, out->fetches[i].first, 0, 0);
            continue;
        }
        *fetch = (struct partition_fetch){ partition, out->fetches[i].to, true };
        fetch->is_active =
            log_read(partition->host->log, partition->group.group, out->fetches[i].first,
                     LIMIT_RAFT_APPEND_ENTRIES, LIMIT_RAFT_APPEND_BYTES, fetch_done, fetch) == 0;
        if (!fetch->is_active) {
            raft_fetched(&partition->raft, out->fetches[i].to, out->fetches[i].first, 0, 0);
        }
    }
    out->fetch_count = 0;
}
