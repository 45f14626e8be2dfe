/* The background scrub: see scrub.h.
 *
 *   waiting ─time─▶ open ─step, step, …─▶ closed ─▶ waiting for the next partition's time
 *
 * One step reads SCRUB_STEP_BYTES in a job; the next begins SCRUB_PAUSE_US later, so that a scrub
 * takes a small part of the disk whatever the size of the store. It pins LMDB's pages like an
 * image: what is not done by SCRUB_AGE_US is given up and taken up again in the next round. */
#include "node/scrub.h"

#include "base/check.h"
#include "node/node_private.h"

enum {
    SCRUB_STEP_BYTES = 1 << 20,
    SCRUB_PAUSE_US = 50 * 1000,
    SCRUB_AGE_US = 30 * 60 * 1000 * 1000,
};

struct scrub {
    struct node *node;
    struct store_scrub *open; /* NULL: waits for next_us */
    bool is_stepping;
    uint32_t group;   /* open, or looked at last */
    uint32_t hurried; /* to be looked at next; UINT32_MAX: none */
    uint64_t next_us; /* when the next replica's turn comes */
    uint64_t opened_us, step_us;
};

struct scrub *scrub_new(struct node *node)
{
    struct scrub *scrub = MEM_NEW(struct scrub);
    scrub->node = node;
    scrub->hurried = UINT32_MAX;
    scrub->next_us = env_now_us(node->env);
    return scrub;
}

void scrub_free(struct scrub *scrub)
{
    if (scrub) {
        store_scrub_close(scrub->open);
        mem_free(scrub);
    }
}

void scrub_hurry(struct scrub *scrub, uint32_t group)
{
    if (!scrub->open || scrub->group != group) {
        scrub->hurried = group;
    }
}

static uint64_t pause_between_us(const struct node *node)
{
    uint64_t count = 0;
    for (size_t i = 0; i < node->partition_count; i++) {
        count += node->partitions[i] != NULL;
    }
    return node->config.scrub_interval_ms * 1000 / (count ? count : 1);
}

static void close_it(struct scrub *scrub)
{
    store_scrub_close(scrub->open);
    scrub->open = NULL;
}

bool scrub_give_way(struct scrub *scrub, uint64_t before_us)
{
    if (!scrub->open || scrub->opened_us >= before_us) {
        return false;
    }
    LOG_WARN(scrub->node->logger, "part=%u scrub given up: it keeps pages that writes need",
             scrub->group);
    scrub->node->counters.images_given_up++;
    scrub->is_stepping = false; /* a step under way is not told */
    close_it(scrub);
    return true;
}

static void on_step(void *ctx, int status, const struct err *err)
{
    struct scrub *scrub = ctx;
    struct node *node = scrub->node;
    uint64_t now_us = env_now_us(node->env);
    scrub->is_stepping = false;
    if (status != 0) {
        LOG_WARN(node->logger, "part=%u scrub failed: %s", scrub->group, err->text);
        node->counters.scrub_failures++;
        close_it(scrub);
    } else if (store_scrub_is_complete(scrub->open)) {
        LOG_DEBUG(node->logger, "part=%u scrub index=%lu fine", scrub->group,
                  store_scrub_index(scrub->open));
        node->counters.scrubs++;
        close_it(scrub);
    } else if (now_us - scrub->opened_us > SCRUB_AGE_US) {
        close_it(scrub);
    } else {
        scrub->step_us = now_us + SCRUB_PAUSE_US;
    }
}

/* The next replica here, in order of group numbers. */
static struct partition *next_partition(struct scrub *scrub)
{
    struct node *node = scrub->node;
    if (scrub->hurried != UINT32_MAX) {
        struct partition *hurried = node_find_partition(node, scrub->hurried);
        scrub->hurried = UINT32_MAX;
        if (hurried) {
            return hurried;
        }
    }
    for (size_t i = 1; i <= node->partition_count; i++) {
        struct partition *partition = node->partitions[(scrub->group + i) % node->partition_count];
        if (partition) {
            return partition;
        }
    }
    return NULL;
}

static void begin(struct scrub *scrub)
{
    struct node *node = scrub->node;
    struct partition *partition = next_partition(scrub);
    uint64_t now_us = env_now_us(node->env);
    scrub->next_us = now_us + pause_between_us(node);
    if (!partition) {
        return;
    }
    struct err err;
    partition_mark(partition);
    scrub->group = partition_group(partition);
    scrub->opened_us = scrub->step_us = now_us;
    if (store_scrub_open(partition_store(partition), &scrub->open, &err) != 0) {
        scrub->open = NULL; /* empty, or damaged already: then it is being repaired */
    }
}

void scrub_tick(struct scrub *scrub)
{
    uint64_t now_us = env_now_us(scrub->node->env);
    if (!scrub->open && (now_us >= scrub->next_us || scrub->hurried != UINT32_MAX)) {
        begin(scrub);
    }
    if (scrub->open && !scrub->is_stepping && now_us >= scrub->step_us) {
        scrub->is_stepping = true;
        store_scrub_step(scrub->open, SCRUB_STEP_BYTES, on_step, scrub);
    }
}
