/* Scans over three nodes: whatever the pages, bounds, direction and failures, exactly the keys of
 * the range come, in order. */
#include "fake_cluster.h"

enum { COUNT = 900 };

static void fill(struct fake *fake)
{
    char key[32], value[32];
    for (int i = 0; i < COUNT; i++) {
        snprintf(key, sizeof key, "%s%04d", i % 3 ? "dir/" : "other/", i);
        snprintf(value, sizeof value, "value %d", i);
        fake_store(fake, span_of_string(key), span_of_string(value));
    }
}

struct fetched {
    bool is_done;
    int status, calls;
};

static void fetch_done(void *arg, int status)
{
    struct fetched *fetched = arg;
    fetched->is_done = true;
    fetched->status = status;
    fetched->calls++;
}

/* cairn_scan_next over virtual time. */
static int next(struct fake *fake, struct core_scan *scan, struct cairn_entry *entry)
{
    int status;
    while ((status = core_scan_try(scan, entry)) == ERR_BUSY) {
        struct fetched fetched = { 0 };
        assert_int_equal(core_scan_fetch(scan, fetch_done, &fetched, fake->now_us), 0);
        fake_run(fake, &fetched.is_done, 60000);
        assert_true(fetched.is_done);
        assert_int_equal(fetched.calls, 1);
    }
    return status;
}

static bool in_range(const struct fake_key *key, const struct cairn_scan_options *options)
{
    struct span bytes = span_of(key->key, key->key_size);
    return span_compare(bytes, span_of(options->from, options->from_size)) >= 0 &&
           (!options->to_size || span_compare(bytes, span_of(options->to, options->to_size)) < 0) &&
           span_has_prefix(bytes, span_of(options->prefix, options->prefix_size));
}

/* Runs the scan and compares with the store; `at` is called before every entry. Returns the number
 * of entries. */
static uint64_t check_scan(struct fake *fake, const struct cairn_scan_options *options,
                           void (*at)(struct fake *fake, uint64_t number))
{
    struct core_scan *scan;
    struct cairn_entry entry;
    assert_int_equal(core_scan_open(fake->core, options, fake->now_us, &scan), 0);
    uint64_t found = 0;
    int status = 1;
    for (size_t i = 0; i < fake->key_count; i++) {
        const struct fake_key *key = &fake->keys[options->reverse ? fake->key_count - 1 - i : i];
        if (!in_range(key, options) || (options->limit && found == options->limit)) {
            continue;
        }
        if (at) {
            at(fake, found);
        }
        status = next(fake, scan, &entry);
        assert_int_equal(status, 1);
        assert_int_equal(entry.key_size, key->key_size);
        assert_memory_equal(entry.key, key->key, key->key_size);
        if (options->keys_only || options->meta_only) {
            assert_null(entry.value);
        } else {
            assert_int_equal(entry.value_size, key->value_size);
            assert_memory_equal(entry.value, key->value, key->value_size);
        }
        assert_int_equal(entry.meta.version, options->keys_only ? 0 : key->version);
        found++;
    }
    assert_int_equal(next(fake, scan, &entry), 0);
    assert_int_equal(next(fake, scan, &entry), 0); /* stays at its end */
    core_scan_close(scan);
    return found;
}

static void every_page_size_direction_and_bound(void **state)
{
    static const uint32_t pages[] = { 1, 2, 7, 100, 4096, 0, 1000000 };
    struct fake *fake = fake_new();
    fill(fake);
    for (size_t i = 0; i < sizeof pages / sizeof pages[0]; i++) {
        for (int reverse = 0; reverse < 2; reverse++) {
            struct cairn_scan_options all = { .page_entries = pages[i], .reverse = reverse };
            assert_int_equal(check_scan(fake, &all, NULL), COUNT);
            struct cairn_scan_options prefix = { .page_entries = pages[i],
                                                 .reverse = reverse,
                                                 .prefix = "dir/",
                                                 .prefix_size = 4,
                                                 .keys_only = true };
            assert_int_equal(check_scan(fake, &prefix, NULL), COUNT - COUNT / 3);
            struct cairn_scan_options range = { .page_entries = pages[i],
                                                .reverse = reverse,
                                                .from = "dir/0100",
                                                .from_size = 8,
                                                .to = "dir/0200",
                                                .to_size = 8,
                                                .meta_only = true };
            assert_int_equal(check_scan(fake, &range, NULL), 67);
            struct cairn_scan_options limited = { .page_entries = pages[i],
                                                  .reverse = reverse,
                                                  .limit = 50,
                                                  .prefix = "other/",
                                                  .prefix_size = 6 };
            assert_int_equal(check_scan(fake, &limited, NULL), 50);
        }
    }
    struct cairn_scan_options empty = { .from = "b", .from_size = 1, .to = "b", .to_size = 1 };
    assert_int_equal(check_scan(fake, &empty, NULL), 0);
    struct cairn_scan_options upside_down = {
        .from = "z", .from_size = 1, .to = "b", .to_size = 1
    };
    assert_int_equal(check_scan(fake, &upside_down, NULL), 0);
    struct cairn_scan_options outside = {
        .from = "other/", .from_size = 6, .prefix = "dir/", .prefix_size = 4
    };
    assert_int_equal(check_scan(fake, &outside, NULL), 0);
    fake_free(fake);
}

/* Successors at the edges: longest keys, keys of 0xff bytes, a prefix without an end. */
static void keys_at_the_edges(void **state)
{
    struct fake *fake = fake_new();
    char key[LIMIT_KEY_BYTES];
    struct span value = span_of_string("v");
    memset(key, 0xff, sizeof key);
    for (size_t size = LIMIT_KEY_BYTES - 3; size <= LIMIT_KEY_BYTES; size++) {
        fake_store(fake, span_of(key, size), value);
    }
    memset(key, 'a', sizeof key);
    for (size_t size = LIMIT_KEY_BYTES - 3; size <= LIMIT_KEY_BYTES; size++) {
        fake_store(fake, span_of(key, size), value);
    }
    key[LIMIT_KEY_BYTES - 1] = (char)0xff;
    fake_store(fake, span_of(key, sizeof key), value);
    key[LIMIT_KEY_BYTES - 2] = 'b';
    key[LIMIT_KEY_BYTES - 1] = '\0';
    fake_store(fake, span_of(key, sizeof key), value);
    for (int reverse = 0; reverse < 2; reverse++) {
        struct cairn_scan_options all = { .page_entries = 1, .reverse = reverse };
        assert_int_equal(check_scan(fake, &all, NULL), 10);
        struct cairn_scan_options high = {
            .page_entries = 1, .reverse = reverse, .prefix = "\xff\xff", .prefix_size = 2
        };
        assert_int_equal(check_scan(fake, &high, NULL), 4);
    }
    fake_free(fake);
}

static void lose_a_node(struct fake *fake, uint64_t number)
{
    if (number != 100) {
        return;
    }
    fake_kill(fake, 1);
    for (uint32_t i = 1; i <= FAKE_PARTITIONS; i++) {
        fake->leaders[i] = fake->leaders[i] == 1 ? (int)(i % 2) * 2 : fake->leaders[i];
    }
}

static void a_node_dies_in_the_middle(void **state)
{
    for (int reverse = 0; reverse < 2; reverse++) {
        struct fake *fake = fake_new();
        fill(fake);
        struct cairn_scan_options all = { .page_entries = 8, .reverse = reverse };
        assert_int_equal(check_scan(fake, &all, lose_a_node), COUNT);
        fake_free(fake);
    }
}

static int lose_and_refuse(struct fake *fake, int node, const struct frame *frame)
{
    static const int actions[] = { FAKE_SERVE, FAKE_SERVE,      FAKE_CLOSE, FAKE_SERVE_AND_CLOSE,
                                   ERR_BUSY,   ERR_UNAVAILABLE, FAKE_SERVE, FAKE_GARBAGE };
    return frame->verb == VERB_SCAN ? actions[fake_random(fake) % 8] : FAKE_SERVE;
}

static void pages_fail_at_random(void **state)
{
    for (uint64_t seed = 0; seed < 20; seed++) {
        struct fake *fake = fake_new();
        fake->random = seed * 1000;
        fill(fake);
        fake->rule = lose_and_refuse;
        struct cairn_scan_options all = { .page_entries = 16,
                                          .reverse = seed % 2,
                                          .timeout_ms = 60000 };
        assert_int_equal(check_scan(fake, &all, NULL), COUNT);
        fake_free(fake);
    }
}

static void change_partitions(struct fake *fake, uint64_t number)
{
    if (number != 200) {
        return;
    }
    /* As after a split: the same keys under other groups. Every later answer tells the new epoch.
     */
    struct topology *topology = fake_make_topology();
    topology->epoch = 2;
    topology->hash_seed = 77;
    topology_unref(fake->topology);
    fake->topology = topology;
    for (size_t i = 1; i < topology->partition_count; i++) {
        topology->partitions[i].group =
            (uint32_t)(topology->partition_count - i); /* other numbers in another order */
    }
}

static int wrong_partition(struct fake *fake, int node, const struct frame *frame)
{
    /* From then on pages of the old topology are refused. */
    return frame->verb == VERB_SCAN && frame->epoch != fake->topology->epoch ? ERR_WRONG_PARTITION
                                                                             : FAKE_SERVE;
}

static void partitions_change_in_the_middle(void **state)
{
    struct fake *fake = fake_new();
    fill(fake);
    fake->rule = wrong_partition;
    fake->forwards = true;
    struct cairn_scan_options all = { .page_entries = 8 };
    assert_int_equal(check_scan(fake, &all, change_partitions), COUNT);
    assert_int_equal(core_topology(fake->core)->epoch, 2);
    fake_free(fake);
}

static int drop_scans(struct fake *fake, int node, const struct frame *frame)
{
    return frame->verb == VERB_SCAN ? fake->rule_state : FAKE_SERVE;
}

static void what_can_not_be_had_ends_the_scan(void **state)
{
    static const struct {
        int action, status;
    } rows[] = { { FAKE_DROP, CAIRN_TIMEOUT },
                 { ERR_UNAVAILABLE, CAIRN_UNAVAILABLE },
                 { ERR_CORRUPT, CAIRN_CORRUPT },
                 { FAKE_CLOSE, CAIRN_UNAVAILABLE } };
    for (size_t i = 0; i < 4; i++) {
        struct fake *fake = fake_new();
        fill(fake);
        fake->rule = drop_scans;
        fake->rule_state = rows[i].action;
        struct core_scan *scan;
        struct cairn_entry entry;
        struct cairn_scan_options all = { .timeout_ms = 1500 };
        uint64_t begin = fake->now_us;
        assert_int_equal(core_scan_open(fake->core, &all, fake->now_us, &scan), 0);
        assert_int_equal(next(fake, scan, &entry), rows[i].status);
        assert_int_equal(next(fake, scan, &entry), rows[i].status); /* it is over */
        assert_true(fake->now_us - begin < 2000000);
        core_scan_close(scan);
        fake_free(fake);
    }
    struct fake *fake = fake_new_with("10.9.9.9:1", 800, NULL);
    struct core_scan *scan;
    struct cairn_entry entry;
    struct cairn_scan_options all = { 0 };
    assert_int_equal(core_scan_open(fake->core, &all, fake->now_us, &scan), 0);
    assert_int_equal(next(fake, scan, &entry), CAIRN_CONNECT);
    core_scan_close(scan);
    fake_free(fake);
}

/* A page of the right form that breaks the order, the bounds, or goes nowhere. */
static int bad_page(struct fake *fake, int node, const struct frame *frame)
{
    if (frame->verb != VERB_SCAN || fake->rule_state < 0) {
        return FAKE_SERVE;
    }
    uint64_t link = 0;
    for (uint64_t i = 0; i < FAKE_LINKS; i++) {
        link = fake->links[i].is_open && fake->links[i].node == node ? i : link;
    }
    Cairn__V1__ScanResponse response = CAIRN__V1__SCAN_RESPONSE__INIT;
    const uint8_t whole = SCAN_PAGE_META | SCAN_PAGE_VALUE;
    struct scan_page_entry one = { .flags = whole, .key = span_of_string("dir/b") };
    struct scan_page_entry two = { .flags = whole, .key = span_of_string("dir/c") };
    struct buf page = { 0 };
    uint16_t flags = 0;
    switch (fake->rule_state) {
    case 0: /* not in order */
        two.key = span_of_string("dir/a");
        break;
    case 1: /* twice */
        two.key = one.key;
        break;
    case 2: /* outside */
        two.key = span_of_string("elsew");
        break;
    case 5: /* without meta */
        one.flags = 0;
        break;
    case 8: /* without the value */
        two.flags = SCAN_PAGE_META;
        break;
    }
    scan_page_add(&page, &one);
    scan_page_add(&page, &two);
    switch (fake->rule_state) {
    case 3: /* without a key */
        put_u16(page.data, 0);
        break;
    case 4: /* a value that is longer than the page */
        put_u64(page.data + page.size / 2 + 20, 1000000);
        break;
    case 6: /* more to come, from nowhere */
        buf_clear(&page);
        flags = FRAME_MORE;
        break;
    case 7: /* a payload that nobody spoke of */
        buf_append(&page, "x", 1);
        break;
    }
    fake_answer(fake, link, frame, 0, flags, &response.base, buf_span(&page));
    buf_fini(&page);
    return FAKE_DROP;
}

static void bad_pages_are_refused(void **state)
{
    for (int i = 0; i < 9; i++) {
        struct fake *fake = fake_new();
        fill(fake);
        fake->rule = bad_page;
        fake->rule_state = i;
        struct core_scan *scan;
        struct cairn_entry entry;
        struct cairn_scan_options options = { .timeout_ms = 1000,
                                              .prefix = "dir/",
                                              .prefix_size = 4 };
        assert_int_equal(core_scan_open(fake->core, &options, fake->now_us, &scan), 0);
        assert_int_equal(next(fake, scan, &entry),
                         CAIRN_UNAVAILABLE); /* every node spoke nonsense, again and again */
        core_scan_close(scan);
        fake->rule_state = -1;
        assert_int_equal(check_scan(fake, &options, NULL), COUNT - COUNT / 3);
        fake_free(fake);
    }
}

struct chain {
    struct core_scan *scan;
    struct fake *fake;
    int left;
    bool is_done;
};

static void fetch_again(void *arg, int status)
{
    struct chain *chain = arg;
    if (chain->left-- > 0) {
        assert_int_equal(core_scan_fetch(chain->scan, fetch_again, chain, chain->fake->now_us), 0);
    } else {
        chain->is_done = true;
    }
}

static void a_callback_may_fetch_again(void **state)
{
    struct fake *fake = fake_new();
    fill(fake);
    struct cairn_scan_options all = { 0 };
    struct chain chain = { .fake = fake, .left = 20 };
    assert_int_equal(core_scan_open(fake->core, &all, fake->now_us, &chain.scan), 0);
    assert_int_equal(core_scan_fetch(chain.scan, fetch_again, &chain, fake->now_us), 0);
    fake_run(fake, &chain.is_done, 1000);
    assert_true(chain.is_done);
    core_scan_close(chain.scan);
    fake_free(fake);
}

static void bad_options_are_refused(void **state)
{
    struct fake *fake = fake_new();
    struct core_scan *scan;
    char key[600] = { 0 };
    struct cairn_scan_options strange = { .consistency = CAIRN_STALE + 1 };
    assert_int_equal(core_scan_open(fake->core, &strange, 0, &scan), CAIRN_USAGE);
    struct cairn_scan_options bounded = { .consistency = CAIRN_LEASE, .max_staleness_ms = 1 };
    assert_int_equal(core_scan_open(fake->core, &bounded, 0, &scan), CAIRN_USAGE);
    struct cairn_scan_options too_long = { .prefix = key, .prefix_size = 512 };
    assert_int_equal(core_scan_open(fake->core, &too_long, 0, &scan), CAIRN_KEY_TOO_LONG);
    struct cairn_scan_options nothing = { .from_size = 3 };
    assert_int_equal(core_scan_open(fake->core, &nothing, 0, &scan), CAIRN_USAGE);
    fake_free(fake);
}

static void a_scan_may_be_closed_at_any_time(void **state)
{
    for (uint64_t turns = 0; turns < 40; turns++) {
        struct fake *fake = fake_new();
        fill(fake);
        struct core_scan *scan;
        struct fetched fetched = { 0 };
        struct cairn_scan_options all = { .page_entries = 4 };
        assert_int_equal(core_scan_open(fake->core, &all, fake->now_us, &scan), 0);
        assert_int_equal(core_scan_fetch(scan, fetch_done, &fetched, fake->now_us), 0);
        assert_int_equal(core_scan_fetch(scan, fetch_done, &fetched, fake->now_us),
                         ERR_USAGE); /* one at a time */
        struct cairn_entry entry;
        for (uint64_t i = 0; i < turns; i++) {
            core_step(fake->core, fake->now_us);
            fake_advance(fake, fake->now_us + 1000000);
            core_scan_try(scan, &entry);
        }
        int calls = fetched.calls;
        core_scan_close(scan);
        bool never = false;
        fake_run(fake, &never, 100);
        assert_int_equal(fetched.calls, calls);
        assert_int_equal(fake_put(fake, "a", "1"), 0);
        fake_free(fake);
    }
}

static void pages_ahead_are_bounded(void **state)
{
    struct fake *fake = fake_new();
    fill(fake);
    struct core_scan *scan;
    struct cairn_entry entry;
    struct cairn_scan_options all = { .page_entries = 8 };
    assert_int_equal(core_scan_open(fake->core, &all, fake->now_us, &scan), 0);
    assert_int_equal(next(fake, scan, &entry), 1);
    bool never = false;
    fake_run(fake, &never,
             60000); /* an idle reader: no further page is asked for, and nothing times out */
    assert_int_equal(fake->frames[VERB_SCAN], FAKE_NODES);
    assert_true(fake->scan_bytes <= LIMIT_SCAN_PAGE_BYTES);
    uint64_t left = 1;
    while (next(fake, scan, &entry) == 1) {
        left++;
    }
    assert_int_equal(left, COUNT);
    core_scan_close(scan);
    fake_free(fake);
}

/* What a page may lack concerns its own keys; who has read several pages hears the worst of them. */
static void a_stale_scan_tells_the_worst_of_its_pages(void **state)
{
    struct fake *fake = fake_new();
    fill(fake);
    struct core_scan *scan;
    struct cairn_entry entry;
    struct cairn_scan_options stale = { .page_entries = 8, .consistency = CAIRN_STALE };
    assert_int_equal(core_scan_open(fake->core, &stale, fake->now_us, &scan), 0);
    assert_int_equal(core_scan_staleness_ms(scan), 0);
    fake->scan_staleness_ms = 100;
    assert_int_equal(next(fake, scan, &entry), 1);
    assert_int_equal(core_scan_staleness_ms(scan), 100);
    fake->scan_staleness_ms = 40;
    for (int i = 0; i < COUNT / 2; i++) {
        assert_int_equal(next(fake, scan, &entry), 1);
    }
    assert_int_equal(core_scan_staleness_ms(scan), 100);
    fake->scan_staleness_ms = CAIRN_STALENESS_UNKNOWN;
    while (next(fake, scan, &entry) == 1) {
    }
    assert_true(core_scan_staleness_ms(scan) == CAIRN_STALENESS_UNKNOWN);
    core_scan_close(scan);
    fake_free(fake);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_page_size_direction_and_bound),
        cmocka_unit_test(keys_at_the_edges),
        cmocka_unit_test(a_node_dies_in_the_middle),
        cmocka_unit_test(pages_fail_at_random),
        cmocka_unit_test(partitions_change_in_the_middle),
        cmocka_unit_test(what_can_not_be_had_ends_the_scan),
        cmocka_unit_test(bad_pages_are_refused),
        cmocka_unit_test(a_callback_may_fetch_again),
        cmocka_unit_test(bad_options_are_refused),
        cmocka_unit_test(a_scan_may_be_closed_at_any_time),
        cmocka_unit_test(pages_ahead_are_bounded),
        cmocka_unit_test(a_stale_scan_tells_the_worst_of_its_pages),
    };
    return cmocka_run_group_tests_name("client scan", tests, NULL, NULL);
}
