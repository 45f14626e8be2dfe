/* The client's heart against a cluster of memory: routing, hints, retries with sessions, unknown
 * outcomes, deadlines, cancelling, batches, malformed servers. Virtual time; every test tells one
 * story. */
#include "fake_cluster.h"

/* --- Routing */

static void keys_go_straight_to_their_primaries(void **state)
{
    struct fake *fake = fake_new();
    char key[32];
    for (int i = 0; i < 60; i++) {
        snprintf(key, sizeof key, "key%d", i);
        assert_int_equal(fake_put(fake, key, "value"), 0);
        struct cairn_request get = fake_request(CAIRN_GET, key, NULL);
        struct cairn_result result;
        assert_int_equal(fake_call(fake, &get, &result), 0);
        assert_memory_equal(result.value, "value", 5);
        assert_int_equal(result.meta.size, 5);
        assert_int_equal(result.meta.time_us, 1000000 + result.meta.version);
        cairn_result_free(&result);
    }
    assert_int_equal(fake->frames[VERB_TOPOLOGY], 1);
    assert_int_equal(fake->frames[VERB_PUT],
                     60); /* none was sent twice: each to the right node at once */
    assert_int_equal(fake->frames[VERB_GET], 60);
    for (int i = 0; i < FAKE_NODES; i++) {
        assert_true(fake->asked[i] > 10);
    }
    fake_free(fake);
}

static void a_wrong_primary_costs_one_redirect(void **state)
{
    struct fake *fake = fake_new();
    fake->tells_hints = false;
    uint32_t group = fake_group(fake, span_of_string("moved"));
    fake->leaders[group] = (fake->leaders[group] + 1) % FAKE_NODES;
    uint64_t begin = fake->now_us;
    assert_int_equal(fake_put(fake, "moved", "1"), 0);
    assert_int_equal(fake->frames[VERB_PUT], 2);
    assert_true(fake->now_us - begin < 20000); /* the hint was followed without waiting */
    assert_int_equal(fake_put(fake, "moved", "2"), 0);
    assert_int_equal(fake->frames[VERB_PUT], 3); /* and remembered */
    fake_free(fake);
}

static void a_newer_epoch_is_fetched(void **state)
{
    struct fake *fake = fake_new();
    assert_int_equal(fake_put(fake, "a", "1"), 0);
    fake->topology->epoch = 9;
    assert_int_equal(fake_put(fake, "a", "2"), 0);
    bool never = false;
    fake_run(fake, &never, 500);
    assert_int_equal(core_topology(fake->core)->epoch, 9);
    assert_int_equal(fake->frames[VERB_TOPOLOGY], 2);
    fake_free(fake);
}

/* One copy, as long as the epochs are equal; each goes on when others close. */
static void cores_beside_each_other_hold_one_topology(void **state)
{
    struct fake *first = fake_new(), *second = fake_new_beside(first->core);
    struct fake *third = fake_new_beside(first->core), *stranger = fake_new();
    assert_int_equal(fake_put(first, "a", "1"), 0);
    assert_int_equal(fake_put(second, "a", "1"), 0);
    assert_int_equal(fake_put(stranger, "a", "1"), 0);
    assert_ptr_equal(core_topology(first->core), core_topology(second->core));
    assert_ptr_not_equal(core_topology(first->core), core_topology(stranger->core));
    fake_free(first);
    third->topology->epoch = 9;
    assert_int_equal(fake_put(third, "a", "1"), 0);
    assert_int_equal(core_topology(third->core)->epoch, 9);
    assert_int_not_equal(core_topology(second->core)->epoch, 9);
    second->topology->epoch = 9;
    assert_int_equal(fake_put(second, "a", "2"), 0);
    bool never = false;
    fake_run(second, &never, 500);
    assert_ptr_equal(core_topology(second->core), core_topology(third->core));
    fake_free(third);
    assert_int_equal(fake_put(second, "a", "3"), 0);
    fake_free(second);
    fake_free(stranger);
}

static void another_clusters_node_is_refused(void **state)
{
    struct fake *fake = fake_new();
    assert_int_equal(fake_put(fake, "a", "1"), 0);
    fake_kill(fake, 0);
    fake_kill(fake, 1);
    fake_kill(fake, 2);
    bool never = false;
    fake_run(fake, &never, 100);
    for (int i = 0; i < FAKE_NODES;
         i++) { /* somebody else's cluster sits at the same addresses now */
        fake->is_down[i] = false;
        memset(fake->cluster_ids[i], 9, 16);
    }
    struct cairn_request put = fake_request(CAIRN_PUT, "a", "2");
    put.timeout_ms = 1000;
    struct cairn_result result;
    assert_int_equal(fake_call(fake, &put, &result), CAIRN_UNAVAILABLE);
    assert_non_null(strstr(core_last_error(fake->core), "another cluster"));
    assert_int_equal(fake->applied, 1);
    fake_free(fake);
}

static void endpoints_are_tried_in_turn(void **state)
{
    struct fake *fake = fake_new_with("10.9.9.9:1,10.0.0.2:7400", 5000, NULL);
    uint64_t begin = fake->now_us;
    assert_int_equal(fake_put(fake, "a", "1"), 0);
    assert_true(fake->now_us - begin < 100000);
    fake_free(fake);
}

static void malformed_endpoints_are_told(void **state)
{
    static const char *const bad[] = { "",           "host",     ":7400",    "host:", "host:0",
                                       "host:65536", "host:12x", "a:1,,b:2", "a:1,b" };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char **list;
        size_t count;
        struct err err = { 0 };
        assert_int_equal(core_parse_endpoints(bad[i], &list, &count, &err), ERR_USAGE);
        assert_true(err.text[0]);
    }
    char **list;
    size_t count;
    assert_int_equal(core_parse_endpoints("a:1,[::1]:65535", &list, &count, NULL), 0);
    assert_int_equal(count, 2);
    assert_string_equal(list[1], "[::1]:65535");
    mem_free(list);
}

/* --- Retries */

static int lose_first_answer(struct fake *fake, int node, const struct frame *frame)
{
    return frame->verb == VERB_PUT && fake->rule_state++ == 0 ? FAKE_SERVE_AND_CLOSE : FAKE_SERVE;
}

static void a_lost_answer_is_asked_for_again_under_the_same_number(void **state)
{
    struct fake *fake = fake_new();
    fake->forwards = true;
    assert_int_equal(fake_put(fake, "before", "x"), 0);
    fake->rule = lose_first_answer;
    assert_int_equal(fake_put(fake, "a", "1"), 0);
    assert_int_equal(fake->write_count, 3);
    const struct fake_write *first = &fake->writes[1], *second = &fake->writes[2];
    assert_int_equal(first->number, second->number);
    assert_int_equal(first->session, second->session);
    assert_int_equal(first->client_time,
                     second->client_time); /* of the first sending, though time went on */
    assert_true(first->client_time > 0);
    assert_int_equal(fake->applied, 2);
    assert_int_equal(fake_put(fake, "b", "1"), 0);
    assert_int_equal(fake->writes[3].number, fake->writes[2].number + 1);
    fake_free(fake);
}

/* Servers refuse as unknown what is far past its client's time: an idle handle must not hold an old
 * one. */
static void a_write_after_a_long_rest_carries_a_recent_time(void **state)
{
    struct fake *fake = fake_new();
    bool never = false;
    assert_int_equal(fake_put(fake, "a", "1"), 0);
    fake_run(fake, &never, 600 * 1000);
    fake->time += hlc_from_us(600ull * 1000 * 1000);
    uint64_t recent = fake->time;
    assert_int_equal(fake_put(fake, "a", "2"), 0);
    assert_true(fake->writes[0].client_time < recent);
    assert_true(fake->writes[1].client_time >= recent);
    int topologies = fake->frames[VERB_TOPOLOGY];
    assert_int_equal(fake_put(fake, "a", "3"), 0);
    assert_int_equal(fake->frames[VERB_TOPOLOGY], topologies); /* asked for once */
    fake_free(fake);
}

/* While it waits for a link the cluster's time may go on by more than that, as when a clock jumps. */
static void a_write_that_waited_for_a_link_carries_the_time_of_its_sending(void **state)
{
    struct fake *fake = fake_new();
    assert_int_equal(fake_put(fake, "a", "1"), 0);
    for (int i = 0; i < FAKE_NODES; i++) {
        fake_kill(fake, i);
    }
    bool never = false;
    fake_run(fake, &never, 10);
    struct cairn_request request = fake_request(CAIRN_PUT, "a", "2");
    struct fake_call call;
    fake_submit(fake, &request, &call);
    fake_run(fake, &call.is_done, 50);
    assert_false(call.is_done);
    fake->time += hlc_from_us(600ull * 1000 * 1000);
    uint64_t recent = fake->time;
    for (int i = 0; i < FAKE_NODES; i++) {
        fake->is_down[i] = false;
    }
    fake_run(fake, &call.is_done, 60000);
    assert_int_equal(call.result.status, 0);
    assert_true(fake->writes[1].client_time >= recent);
    fake_free(fake);
}

/* As the servers do: too long after its time, a write can't be told from a repetition. */
static int refuse_late_writes(struct fake *fake, struct span key)
{
    uint64_t client_time = fake->writes[fake->write_count - 1].client_time;
    return fake->time > client_time + hlc_from_us(300ull * 1000 * 1000) ? ERR_LATE : 0;
}

/* The clock of the node that leads had leapt, and its client had not heard of it. */
static void a_write_refused_as_late_gets_a_newer_time(void **state)
{
    struct fake *fake = fake_new();
    assert_int_equal(fake_put(fake, "a", "1"), 0);
    fake->operation_rule = refuse_late_writes;
    fake->time += hlc_from_us(600ull * 1000 * 1000);
    assert_int_equal(fake_put(fake, "a", "2"), 0);
    assert_int_equal(fake->applied, 2);
    assert_int_equal(fake->write_count, 3);
    assert_int_equal(fake->writes[2].number, fake->writes[1].number);
    assert_true(fake->writes[2].client_time > fake->writes[1].client_time);
    fake_free(fake);
}

static int hang_up_on_the_first_put(struct fake *fake, int node, const struct frame *frame)
{
    return frame->verb == VERB_PUT && fake->rule_state++ == 0 ? FAKE_CLOSE : FAKE_SERVE;
}

static void a_repetition_refused_as_late_keeps_its_time_and_is_unknown(void **state)
{
    struct fake *fake = fake_new();
    assert_int_equal(fake_put(fake, "a", "1"), 0);
    fake->rule = hang_up_on_the_first_put; /* applied or not: the client can't know */
    fake->operation_rule = refuse_late_writes;
    fake->time += hlc_from_us(600ull * 1000 * 1000);
    uint64_t recent = fake->time, begin_us = fake->now_us;
    assert_int_equal(fake_put(fake, "a", "2"), CAIRN_UNKNOWN_OUTCOME);
    assert_true(fake->now_us - begin_us < 500000); /* nobody will ever know: why wait */
    assert_int_equal(fake->write_count, 2);
    assert_true(fake->writes[1].client_time < recent);
    assert_int_equal(fake->applied, 1);
    fake_free(fake);
}

static int drop_puts(struct fake *fake, int node, const struct frame *frame)
{
    return frame->verb == VERB_PUT || frame->verb == VERB_GET ? FAKE_DROP : FAKE_SERVE;
}

static void silence_is_unknown_for_writes_and_a_timeout_for_reads(void **state)
{
    struct fake *fake = fake_new();
    assert_int_equal(fake_put(fake, "a", "1"), 0);
    fake->rule = drop_puts;
    uint64_t begin = fake->now_us;
    assert_int_equal(fake_put(fake, "a", "2"), CAIRN_UNKNOWN_OUTCOME);
    assert_in_range(fake->now_us - begin, 4900000, 5200000);
    struct cairn_request get = fake_request(CAIRN_GET, "a", NULL);
    get.timeout_ms = 1000;
    begin = fake->now_us;
    assert_int_equal(fake_call(fake, &get, NULL), CAIRN_TIMEOUT);
    assert_in_range(fake->now_us - begin, 990000, 1100000);
    fake_free(fake);
}

static int drop_at_node(struct fake *fake, int node, const struct frame *frame)
{
    return node == fake->rule_state && frame->verb != VERB_TOPOLOGY && frame->type == FRAME_REQUEST
               ? FAKE_DROP
               : FAKE_SERVE;
}

static int drop_all_at_node(struct fake *fake, int node, const struct frame *frame)
{
    return node == fake->rule_state ? FAKE_DROP : FAKE_SERVE;
}

static int drop_puts_of_a(struct fake *fake, int node, const struct frame *frame)
{
    return frame->verb == VERB_PUT ? FAKE_DROP : FAKE_SERVE;
}

static void note_done(void *arg, struct cairn_result *result)
{
    *(bool *)arg = true;
}

static uint64_t core_frames(struct fake *fake)
{
    struct cairn_stats stats;
    core_stats(fake->core, &stats);
    return stats.frames_sent;
}

static void a_node_that_does_not_answer_is_passed_by(void **state)
{
    struct fake *fake = fake_new();
    fake->forwards = true;
    assert_int_equal(fake_put(fake, "a", "1"), 0);
    fake->rule_state = fake->leaders[fake_group(fake, span_of_string("a"))];
    fake->rule = drop_at_node;
    uint64_t begin = fake->now_us;
    assert_int_equal(fake_put(fake, "a", "2"), 0); /* another node forwards it */
    assert_true(fake->now_us - begin <
                400000); /* a silent link: soon, not after a third of the timeout */
    assert_int_equal(fake->writes[fake->write_count - 1].number, 2);
    fake_free(fake);
}

/* A machine that stands still accepts connections and says nothing, not even hello. */
static void a_new_client_passes_by_a_node_that_stands_still(void **state)
{
    struct fake *fake = fake_new_with("10.0.0.1:7400,10.0.0.2:7400,10.0.0.3:7400", 5000, NULL);
    fake->forwards = true;
    fake->rule_state = 0;
    fake->rule = drop_all_at_node;
    uint64_t begin = fake->now_us;
    for (int i = 0; i < 8; i++) { /* some of them led by the sleeper */
        char key[2] = { (char)('a' + i), 0 };
        assert_int_equal(fake_put(fake, key, "1"), 0);
    }
    assert_true(fake->now_us - begin < 1500000);
    fake_free(fake);
}

/* A node that answers others and only takes long for one is asked once, until a third of the
 * timeout. */
static void a_slow_answer_is_waited_for(void **state)
{
    struct fake *fake = fake_new();
    assert_int_equal(fake_put(fake, "a", "1"), 0);
    fake->rule_state = fake->leaders[fake_group(fake, span_of_string("a"))];
    fake->rule = drop_puts_of_a;
    struct cairn_request put = fake_request(CAIRN_PUT, "a", "2");
    bool is_done = false;
    assert_int_equal(core_submit(fake->core, &put, note_done, &is_done, fake->now_us, NULL), 0);
    uint64_t frames = core_frames(fake);
    for (int i = 0; i < 10; i++) {
        struct cairn_request get = fake_request(CAIRN_GET, "a", NULL);
        struct cairn_result result;
        assert_int_equal(fake_call(fake, &get, &result), 0);
        cairn_result_free(&result);
        bool never = false;
        fake_run(fake, &never, 100);
    }
    assert_int_equal(core_frames(fake) - frames, 11);
    assert_false(is_done);
    fake_free(fake);
}

static int refuse_busy(struct fake *fake, int node, const struct frame *frame)
{
    return frame->verb == VERB_PUT && fake->rule_state-- > 0 ? ERR_BUSY : FAKE_SERVE;
}

static void busy_is_repeated_with_growing_pauses(void **state)
{
    struct fake *fake = fake_new();
    fake->rule = refuse_busy;
    fake->rule_state = 6;
    uint64_t begin = fake->now_us;
    assert_int_equal(fake_put(fake, "a", "1"), 0);
    assert_int_equal(fake->frames[VERB_PUT], 7);
    assert_in_range(fake->now_us - begin, 100000,
                    600000); /* 5, 10, 20, 40, 80, 160 ms, half of it jitter */
    fake->rule_state = 1000000;
    assert_int_equal(fake_put(fake, "a", "2"),
                     CAIRN_BUSY); /* nothing was applied: the server said so each time */
    assert_non_null(strstr(core_last_error(fake->core), "refused by the fake"));
    fake_free(fake);
}

static int lose_then_refuse(struct fake *fake, int node, const struct frame *frame)
{
    if (frame->verb != VERB_PUT) {
        return FAKE_SERVE;
    }
    return fake->rule_state++ == 0 ? FAKE_SERVE_AND_CLOSE : ERR_DISK_FULL;
}

static void a_refusal_says_nothing_of_an_earlier_attempt(void **state)
{
    struct fake *fake = fake_new();
    fake->rule = lose_then_refuse;
    assert_int_equal(fake_put(fake, "a", "1"), CAIRN_UNKNOWN_OUTCOME);
    assert_int_equal(fake_put(fake, "a", "1"),
                     CAIRN_DISK_FULL); /* while alone it is believed at once */
    assert_int_equal(fake->frames[VERB_PUT], 3);
    fake_free(fake);
}

static void the_dead_are_told_apart_from_the_never_reached(void **state)
{
    struct fake *fake = fake_new();
    for (int i = 0; i < FAKE_NODES; i++) {
        fake->is_down[i] = true;
    }
    struct cairn_request get = fake_request(CAIRN_GET, "a", NULL);
    get.timeout_ms = 700;
    uint64_t begin = fake->now_us;
    assert_int_equal(fake_call(fake, &get, NULL), CAIRN_CONNECT);
    assert_in_range(fake->now_us - begin, 690000, 800000);
    assert_non_null(strstr(core_last_error(fake->core), "connection refused"));
    for (int i = 0; i < FAKE_NODES; i++) {
        fake->is_down[i] = false;
    }
    assert_int_equal(fake_put(fake, "a", "1"), 0); /* the same handle recovers */
    for (int i = 0; i < FAKE_NODES; i++) {
        fake_kill(fake, i);
    }
    assert_int_equal(fake_call(fake, &get, NULL), CAIRN_UNAVAILABLE);
    fake_free(fake);
}

static void writes_go_on_when_a_primary_dies(void **state)
{
    struct fake *fake = fake_new();
    assert_int_equal(fake_put(fake, "a", "1"), 0);
    uint32_t group = fake_group(fake, span_of_string("a"));
    int dead = fake->leaders[group];
    fake_kill(fake, dead);
    for (uint32_t i = 1; i <= FAKE_PARTITIONS; i++) {
        fake->leaders[i] = fake->leaders[i] == dead ? (dead + 1) % FAKE_NODES : fake->leaders[i];
    }
    uint64_t begin = fake->now_us;
    assert_int_equal(fake_put(fake, "a", "2"), 0);
    assert_true(fake->now_us - begin < 300000);
    fake_free(fake);
}

/* An answer without a hint says that whoever gave it leads: the next get goes there at once. */
static void who_answers_a_get_without_a_hint_leads(void **state)
{
    struct fake *fake = fake_new();
    struct cairn_result result;
    char key[32];
    fake->tells_hints = false;
    for (int i = 0; i < 40; i++) {
        snprintf(key, sizeof key, "key%d", i);
        assert_int_equal(fake_put(fake, key, "1"), 0);
    }
    fake_kill(fake, 0);
    for (uint32_t i = 1; i <= FAKE_PARTITIONS; i++) {
        fake->leaders[i] = fake->leaders[i] == 0 ? 1 : fake->leaders[i];
    }
    for (int round = 0; round < 2; round++) {
        int before = fake->frames[VERB_GET];
        for (int i = 0; i < 40; i++) {
            snprintf(key, sizeof key, "key%d", i);
            struct cairn_request get = fake_request(CAIRN_GET, key, NULL);
            assert_int_equal(fake_call(fake, &get, &result), 0);
            cairn_result_free(&result);
        }
        assert_true(round == 0 || fake->frames[VERB_GET] == before + 40);
        bool never = false;
        fake->is_down[0] = false;
        fake_run(fake, &never, 3000);
    }
    fake_free(fake);
}

static int say_unknown_once(struct fake *fake, int node, const struct frame *frame)
{
    return frame->verb == VERB_PUT && fake->rule_state++ == 0 ? ERR_UNKNOWN_OUTCOME : FAKE_SERVE;
}

static void the_servers_unknown_is_resolved_by_repeating(void **state)
{
    struct fake *fake = fake_new();
    fake->rule = say_unknown_once;
    assert_int_equal(fake_put(fake, "a", "1"), 0);
    assert_int_equal(fake->applied, 1);
    fake_free(fake);
}

/* --- Results */

static void conditions_tell_the_present_version(void **state)
{
    struct fake *fake = fake_new();
    struct cairn_result result;
    struct cairn_request put = fake_request(CAIRN_PUT, "a", "1");
    put.condition = CAIRN_IF_ABSENT;
    assert_int_equal(fake_call(fake, &put, &result), 0);
    uint64_t version = result.meta.version;
    assert_int_equal(fake_call(fake, &put, &result), CAIRN_EXISTS);
    assert_int_equal(result.meta.version, version);
    put.condition = CAIRN_IF_VERSION;
    put.version = version + 5;
    assert_int_equal(fake_call(fake, &put, &result), CAIRN_CONDITION_FAILED);
    assert_int_equal(result.meta.version, version);
    struct cairn_request delete = fake_request(CAIRN_DELETE, "a", NULL);
    assert_int_equal(fake_call(fake, &delete, &result), 0);
    assert_true(result.existed);
    assert_int_equal(fake_call(fake, &delete, &result), 0);
    assert_false(result.existed);
    struct cairn_request get = fake_request(CAIRN_GET, "a", NULL);
    assert_int_equal(fake_call(fake, &get, &result), CAIRN_NOT_FOUND);
    fake_free(fake);
}

static void empty_and_largest_values_come_back_in_pieces(void **state)
{
    struct fake *fake = fake_new();
    fake->chunk = 4001;
    char *large = mem_alloc(LIMIT_VALUE_BYTES + 1);
    for (size_t i = 0; i <= LIMIT_VALUE_BYTES; i++) {
        large[i] = (char)(i * 7 + i / 251);
    }
    struct cairn_request put = fake_request(CAIRN_PUT, "large", NULL);
    put.value = large;
    put.value_size = LIMIT_VALUE_BYTES;
    assert_int_equal(fake_call(fake, &put, NULL), 0);
    struct cairn_result result;
    struct cairn_request get = fake_request(CAIRN_GET, "large", NULL);
    assert_int_equal(fake_call(fake, &get, &result), 0);
    assert_int_equal(result.value_size, LIMIT_VALUE_BYTES);
    assert_memory_equal(result.value, large, LIMIT_VALUE_BYTES);
    cairn_result_free(&result);
    put.value_size = LIMIT_VALUE_BYTES + 1;
    assert_int_equal(core_submit(fake->core, &put, fake_done, NULL, fake->now_us, NULL),
                     CAIRN_VALUE_TOO_LARGE);
    fake->chunk = 1;
    assert_int_equal(fake_put(fake, "empty", ""), 0);
    get = fake_request(CAIRN_GET, "empty", NULL);
    assert_int_equal(fake_call(fake, &get, &result), 0);
    assert_int_equal(result.value_size, 0);
    assert_non_null(result.value);
    cairn_result_free(&result);
    mem_free(large);
    fake_free(fake);
}

static void bad_requests_are_refused_at_once(void **state)
{
    struct fake *fake = fake_new();
    char key[513];
    memset(key, 'k', sizeof key);
    struct cairn_request request = { .verb = CAIRN_PUT, .key = key, .key_size = 0 };
    assert_int_equal(core_submit(fake->core, &request, fake_done, NULL, 0, NULL), CAIRN_KEY_EMPTY);
    request.key_size = 512;
    assert_int_equal(core_submit(fake->core, &request, fake_done, NULL, 0, NULL),
                     CAIRN_KEY_TOO_LONG);
    request.key_size = 511;
    request.value_size = 1;
    assert_int_equal(core_submit(fake->core, &request, fake_done, NULL, 0, NULL),
                     CAIRN_USAGE); /* value NULL */
    request.value_size = 0;
    request.attributes.mask = 64;
    assert_int_equal(core_submit(fake->core, &request, fake_done, NULL, 0, NULL), CAIRN_USAGE);
    request.attributes.mask = 0;
    request.verb = CAIRN_GET;
    request.consistency = CAIRN_STALE + 1;
    assert_int_equal(core_submit(fake->core, &request, fake_done, NULL, 0, NULL), CAIRN_USAGE);
    request.consistency = CAIRN_LEASE;
    request.max_staleness_ms = 1; /* only stale reads have a bound */
    assert_int_equal(core_submit(fake->core, &request, fake_done, NULL, 0, NULL), CAIRN_USAGE);
    request.max_staleness_ms = 0;
    request.ack = CAIRN_ACK_ALL + 1;
    assert_int_equal(core_submit(fake->core, &request, fake_done, NULL, 0, NULL), CAIRN_USAGE);
    request.ack = CAIRN_ACK_MAJORITY;
    request.consistency = CAIRN_LINEARIZABLE;
    request.condition = CAIRN_IF_ABSENT;
    assert_int_equal(core_submit(fake->core, &request, fake_done, NULL, 0, NULL), CAIRN_USAGE);
    request.verb = CAIRN_PUT;
    request.condition = CAIRN_ALWAYS;
    assert_int_equal(fake_call(fake, &request, NULL), 0);
    fake_free(fake);
}

/* --- Cancelling and closing */

static void a_cancelled_request_ends_with_the_next_step(void **state)
{
    struct fake *fake = fake_new();
    assert_int_equal(fake_put(fake, "a", "1"), 0);
    struct cairn_request put = fake_request(CAIRN_PUT, "a", "2");
    struct fake_call call = { 0 };
    uint64_t id;
    assert_int_equal(core_submit(fake->core, &put, fake_done, &call, fake->now_us, &id), 0);
    core_step(fake->core, fake->now_us); /* sent */
    assert_int_equal(fake->frames[VERB_PUT], 2);
    core_cancel(fake->core, id);
    assert_false(call.is_done); /* not inside the call */
    core_step(fake->core, fake->now_us);
    assert_true(call.is_done);
    assert_int_equal(call.result.status, CAIRN_CANCELLED);
    core_cancel(fake->core, id); /* an unknown id by now */
    bool never = false;
    fake_run(fake, &never, 1000); /* the late answer finds nobody */
    assert_int_equal(call.calls, 1);
    assert_int_equal(fake_put(fake, "a", "3"), 0);
    assert_int_equal(fake->writes[fake->write_count - 1].lowest,
                     3); /* the number given up counts as answered */
    fake_free(fake);
}

static void closing_calls_back_what_is_open(void **state)
{
    struct fake *fake = fake_new();
    fake->rule = drop_puts;
    struct cairn_request put = fake_request(CAIRN_PUT, "a", "2");
    struct fake_call sent, fresh;
    fake_submit(fake, &put, &sent);
    bool never = false;
    fake_run(fake, &never, 100);
    fake_submit(fake, &put, &fresh);
    core_close(fake->core);
    fake->core = NULL;
    assert_int_equal(sent.calls + fresh.calls, 2);
    assert_int_equal(sent.result.status, CAIRN_CANCELLED);
    assert_int_equal(fresh.result.status, CAIRN_CANCELLED);
    fake_free(fake);
}

/* --- Batches */

struct many {
    bool is_done;
    size_t count;
    struct cairn_result *results;
};

static void many_done(void *arg, struct cairn_result *results, size_t count)
{
    struct many *many = arg;
    many->is_done = true;
    many->count = count;
    many->results = mem_dup(results, count * sizeof *results);
    memset(results, 0, count * sizeof *results);
}

static void many_free(struct many *many)
{
    for (size_t i = 0; i < many->count; i++) {
        cairn_result_free(&many->results[i]);
    }
    mem_free(many->results);
    memset(many, 0, sizeof *many);
}

static char (*many_keys(size_t count))[16]
{
    char(*keys)[16] = mem_zalloc(count * sizeof *keys);
    for (size_t i = 0; i < count; i++) {
        snprintf(keys[i], sizeof keys[i], "key%06zu", i);
    }
    return keys;
}

static void many_call(struct fake *fake, enum cairn_verb verb, char (*keys)[16], size_t count,
                      const char *value, size_t value_size, struct many *many)
{
    struct cairn_request *requests = mem_zalloc(count * sizeof *requests);
    for (size_t i = 0; i < count; i++) {
        requests[i] = (struct cairn_request){
            .verb = verb, .key = keys[i], .key_size = 9, .value = value, .value_size = value_size
        };
    }
    memset(many, 0, sizeof *many);
    assert_int_equal(
        core_submit_many(fake->core, requests, count, many_done, many, fake->now_us, NULL), 0);
    mem_free(requests);
    fake_run(fake, &many->is_done, 60000);
    assert_true(many->is_done);
    assert_int_equal(many->count, count);
}

static void many_are_sent_by_primary_in_frames_of_bounded_size(void **state)
{
    struct fake *fake = fake_new();
    enum { COUNT = 6000 };
    char(*keys)[16] = many_keys(COUNT);
    struct many many;
    many_call(fake, CAIRN_PUT, keys, COUNT, "v", 1, &many);
    for (size_t i = 0; i < COUNT; i++) {
        assert_int_equal(many.results[i].status, 0);
    }
    many_free(&many);
    assert_int_equal(fake->frames[VERB_PUT], 0);
    assert_int_equal(fake->applied, COUNT);
    assert_true(fake->frames[VERB_MULTI] <
                60); /* the session's window lets 1024 writes go at once */
    fake->frames[VERB_MULTI] = 0;
    many_call(fake, CAIRN_GET, keys, COUNT, NULL, 0, &many);
    for (size_t i = 0; i < COUNT; i++) {
        assert_int_equal(many.results[i].status, 0);
        assert_int_equal(many.results[i].value_size, 1);
    }
    many_free(&many);
    assert_int_equal(fake->multi_count_max, LIMIT_MULTI_OPERATIONS);
    assert_in_range(fake->frames[VERB_MULTI], 6, 9);
    many_call(fake, CAIRN_GET, keys, 0, NULL, 0, &many); /* nothing is done at once */
    many_free(&many);
    mem_free(keys);
    fake_free(fake);
}

static void many_refused_as_late_get_a_newer_time(void **state)
{
    struct fake *fake = fake_new();
    enum { COUNT = 40 };
    char(*keys)[16] = many_keys(COUNT);
    struct many many;
    assert_int_equal(fake_put(fake, "a", "1"), 0);
    fake->operation_rule = refuse_late_writes;
    fake->time += hlc_from_us(600ull * 1000 * 1000);
    many_call(fake, CAIRN_PUT, keys, COUNT, "v", 1, &many);
    for (size_t i = 0; i < COUNT; i++) {
        assert_int_equal(many.results[i].status, 0);
    }
    assert_int_equal(fake->applied, 1 + COUNT);
    many_free(&many);
    mem_free(keys);
    fake_free(fake);
}

static void large_values_are_spread_over_frames(void **state)
{
    struct fake *fake = fake_new();
    enum { COUNT = 40, SIZE = 300 << 10 };
    char(*keys)[16] = many_keys(COUNT);
    char *value = mem_zalloc(SIZE);
    struct many many;
    many_call(fake, CAIRN_PUT, keys, COUNT, value, SIZE, &many);
    many_free(&many);
    assert_int_equal(fake->applied, COUNT);
    assert_true(fake->multi_bytes_max <= 1 << 20);
    many_call(fake, CAIRN_GET, keys, COUNT, NULL, 0, &many);
    for (size_t i = 0; i < COUNT; i++) {
        assert_int_equal(many.results[i].value_size, SIZE);
    }
    many_free(&many);
    mem_free(value);
    mem_free(keys);
    fake_free(fake);
}

static int busy_first_time(struct fake *fake, struct span key)
{
    bool is_chosen = key.data[key.size - 1] == '7';
    return is_chosen && fake->rule_state++ < 30 ? ERR_BUSY : 0;
}

static void only_refused_operations_of_a_batch_are_repeated(void **state)
{
    struct fake *fake = fake_new();
    enum { COUNT = 300 };
    char(*keys)[16] = many_keys(COUNT);
    fake->operation_rule = busy_first_time;
    struct many many;
    many_call(fake, CAIRN_PUT, keys, COUNT, "v", 1, &many);
    for (size_t i = 0; i < COUNT; i++) {
        assert_int_equal(many.results[i].status, 0);
    }
    many_free(&many);
    assert_int_equal(fake->write_count, COUNT + 30);
    assert_int_equal(fake->applied, COUNT);
    mem_free(keys);
    fake_free(fake);
}

static int too_much_together(struct fake *fake, struct span key)
{
    return fake->rule_state ? 0 : ERR_LIMIT;
}

static int note_single(struct fake *fake, int node, const struct frame *frame)
{
    fake->rule_state = frame->verb == VERB_GET;
    return FAKE_SERVE;
}

static void what_does_not_fit_a_common_answer_is_asked_alone(void **state)
{
    struct fake *fake = fake_new();
    char(*keys)[16] = many_keys(10);
    struct many many;
    many_call(fake, CAIRN_PUT, keys, 10, "v", 1, &many);
    many_free(&many);
    fake->rule = note_single;
    fake->operation_rule = too_much_together;
    many_call(fake, CAIRN_GET, keys, 10, NULL, 0, &many);
    for (size_t i = 0; i < 10; i++) {
        assert_int_equal(many.results[i].status, 0);
    }
    many_free(&many);
    assert_int_equal(fake->frames[VERB_GET], 10);
    mem_free(keys);
    fake_free(fake);
}

static int stall_one_key(struct fake *fake, struct span key)
{
    return key.size == 5 && memcmp(key.data, "stuck", 5) == 0 && fake->rule_state == 0
               ? ERR_UNAVAILABLE
               : 0;
}

static void a_stuck_write_holds_the_window(void **state)
{
    struct fake *fake = fake_new();
    enum { COUNT = 3000 };
    char(*keys)[16] = many_keys(COUNT);
    fake->operation_rule = stall_one_key;
    struct fake_call stuck;
    struct cairn_request put = fake_request(CAIRN_PUT, "stuck", "v");
    put.timeout_ms = 2000;
    fake_submit(fake, &put, &stuck);
    bool never = false;
    fake_run(fake, &never, 50);
    struct many many;
    many_call(fake, CAIRN_PUT, keys, COUNT, "v", 1,
              &many); /* that no number leaves the window is asserted at every write */
    for (size_t i = 0; i < COUNT; i++) {
        assert_int_equal(many.results[i].status, 0);
    }
    many_free(&many);
    assert_true(stuck.is_done); /* the others had to wait for its end */
    assert_int_equal(stuck.result.status, CAIRN_UNAVAILABLE);
    assert_int_equal(fake->applied, COUNT);
    mem_free(keys);
    fake_free(fake);
}

/* --- Servers that speak nonsense */

static int garbage_from_first(struct fake *fake, int node, const struct frame *frame)
{
    return frame->type == FRAME_REQUEST && frame->verb != VERB_TOPOLOGY && fake->rule_state-- > 0
               ? FAKE_GARBAGE
               : FAKE_SERVE;
}

static void garbage_closes_the_link_and_the_request_goes_on(void **state)
{
    struct fake *fake = fake_new();
    fake->forwards = true;
    fake->rule = garbage_from_first;
    fake->rule_state = 2;
    assert_int_equal(fake_put(fake, "a", "1"), 0);
    assert_int_equal(fake->writes[fake->write_count - 1].number, 1);
    struct cairn_stats stats;
    core_stats(fake->core, &stats);
    assert_int_equal(stats.reconnects, 2);
    fake_free(fake);
}

/* Answers of the right form and the wrong content. */
static int nonsense(struct fake *fake, int node, const struct frame *frame)
{
    if (frame->verb != VERB_MULTI && frame->verb != VERB_GET) {
        return FAKE_SERVE;
    }
    if (fake->rule_state-- <= 0) {
        return FAKE_SERVE;
    }
    uint64_t link = 0;
    for (uint64_t i = 0; i < FAKE_LINKS; i++) {
        link = fake->links[i].is_open && fake->links[i].node == node ? i : link;
    }
    Cairn__V1__MultiResponse response =
        CAIRN__V1__MULTI_RESPONSE__INIT; /* no results; for a get: no meta */
    fake_answer(fake, link, frame, 0, 0, &response.base, span_of("x", 1));
    return FAKE_DROP;
}

static void answers_that_do_not_fit_the_question_are_refused(void **state)
{
    struct fake *fake = fake_new();
    fake->forwards = true;
    char(*keys)[16] = many_keys(20);
    fake->rule = nonsense;
    fake->rule_state = 4;
    struct many many;
    many_call(fake, CAIRN_PUT, keys, 20, "v", 1, &many);
    for (size_t i = 0; i < 20; i++) {
        assert_int_equal(many.results[i].status, 0);
    }
    many_free(&many);
    assert_int_equal(fake->applied, 20);
    fake->rule_state = 2;
    struct cairn_request get = fake_request(CAIRN_GET, "key000003", NULL);
    assert_int_equal(fake_call(fake, &get, NULL), 0);
    mem_free(keys);
    fake_free(fake);
}

enum { GETS = 600 };

struct gets {
    struct fake_call calls[GETS];
    char (*keys)[16];
};

static void gets_submit(struct fake *fake, struct gets *gets, int count)
{
    memset(gets->calls, 0, sizeof gets->calls);
    for (int i = 0; i < count; i++) {
        struct cairn_request get =
            fake_request(i % 5 == 4 ? CAIRN_GET_META : CAIRN_GET, gets->keys[i], NULL);
        fake_submit(fake, &get, &gets->calls[i]);
    }
}

/* Every other key is there. */
static void gets_finish(struct fake *fake, struct gets *gets, int count)
{
    for (int i = 0; i < count; i++) {
        struct fake_call *call = &gets->calls[i];
        fake_run(fake, &call->is_done, 60000);
        assert_true(call->is_done && call->calls == 1);
        assert_int_equal(call->result.status, i % 2 ? CAIRN_NOT_FOUND : 0);
        bool has_value = i % 2 == 0 && i % 5 != 4;
        assert_int_equal(call->result.value_size, has_value ? 5 : 0);
        assert_true(!has_value || memcmp(call->result.value, "value", 5) == 0);
        assert_int_equal(call->result.meta.size, i % 2 ? 0 : 5);
        assert_true(i % 2 || call->result.meta.time_us == 1000000 + call->result.meta.version);
        cairn_result_free(&call->result);
    }
}

static struct gets *gets_new(struct fake *fake)
{
    struct gets *gets = MEM_NEW(struct gets);
    gets->keys = many_keys(GETS);
    for (int i = 0; i < GETS; i += 2) {
        assert_int_equal(fake_put(fake, gets->keys[i], "value"), 0);
    }
    return gets;
}

static void gets_free(struct gets *gets)
{
    mem_free(gets->keys);
    mem_free(gets);
}

/* They go to one node, whoever leads. */
static void gets_that_leave_together_share_a_frame(void **state)
{
    struct fake *fake = fake_new();
    struct gets *gets = gets_new(fake);
    for (int round = 0; round < 2; round++) {
        fake->gets_alone = round == 1;
        fake->frames[VERB_GETS] = 0;
        gets_submit(fake, gets, 60);
        gets_finish(fake, gets, 60);
        assert_int_equal(fake->frames[VERB_GETS], 1);
        assert_int_equal(fake->gets_count_max, 60);
        assert_int_equal(fake->frames[VERB_GET], 0);
    }
    gets_submit(fake, gets, 1);
    gets_finish(fake, gets, 1);
    assert_int_equal(fake->frames[VERB_GET], 1);                 /* one needs no page */
    assert_int_equal(fake_put(fake, gets->keys[0], "value"), 0); /* knows of what was read */
    assert_true(fake->writes[fake->write_count - 1].client_time > hlc_from_us(1000000));
    gets_submit(fake, gets, GETS);
    gets_finish(fake, gets, GETS);
    assert_true(fake->gets_count_max <= GETS_PAGE_QUESTIONS);
    gets_free(gets);
    fake_free(fake);
}

static int note_node(struct fake *fake, int node, const struct frame *frame)
{
    if (frame->verb == VERB_GET || frame->verb == VERB_GETS) {
        fake->rule_state |= 1 << node;
    }
    return FAKE_SERVE;
}

/* One get after another goes to each key's primary; as soon as a second one is under way, the later ones go to the handle's home. */
static void a_lone_get_goes_to_the_primary(void **state)
{
    struct fake *fake = fake_new();
    struct gets *gets = gets_new(fake);
    fake->rule = note_node;
    fake->rule_state = 0;
    for (int i = 0; i < 60; i++) {
        struct cairn_request get = fake_request(CAIRN_GET, gets->keys[i], NULL);
        fake_call(fake, &get, NULL);
    }
    assert_int_equal(fake->rule_state, (1 << FAKE_NODES) - 1);
    fake->rule_state = 0;
    gets_submit(fake, gets, 60);
    gets_finish(fake, gets, 60);
    assert_int_equal(__builtin_popcount((unsigned)fake->rule_state), 1);
    gets_free(gets);
    fake_free(fake);
}

static void one_node_gets_no_longer_frames_than_it_takes(void **state)
{
    struct fake *fake = fake_new();
    struct gets *gets = gets_new(fake);
    for (int i = 1; i <= FAKE_PARTITIONS; i++) {
        fake->leaders[i] = 1;
    }
    gets_submit(fake, gets, GETS); /* learns that */
    fake->forwards = true;
    gets_finish(fake, gets, GETS);
    fake->frames[VERB_GETS] = 0;
    gets_submit(fake, gets, GETS);
    gets_finish(fake, gets, GETS);
    assert_int_equal(fake->frames[VERB_GETS],
                     (GETS + GETS_PAGE_QUESTIONS - 1) / GETS_PAGE_QUESTIONS);
    assert_int_equal(fake->gets_count_max, GETS_PAGE_QUESTIONS);
    gets_free(gets);
    fake_free(fake);
}

static int refuse_page(struct fake *fake, int node, const struct frame *frame)
{
    return frame->verb == VERB_GETS && fake->rule_state-- > 0 ? ERR_BAD_REQUEST : FAKE_SERVE;
}

static void refused_pages_of_gets_close_the_link_and_the_gets_go_on(void **state)
{
    struct fake *fake = fake_new();
    struct gets *gets = gets_new(fake);
    fake->forwards = fake->refuses_pages = true;
    fake->rule = refuse_page;
    fake->rule_state = 1;
    gets_submit(fake, gets, 60);
    core_cancel(fake->core, gets->calls[6].id);
    fake_run(fake, &gets->calls[6].is_done, 1000);
    assert_int_equal(gets->calls[6].result.status, CAIRN_CANCELLED);
    for (int i = 0; i < 60; i++) {
        fake_run(fake, &gets->calls[i].is_done, 60000);
        assert_true(gets->calls[i].is_done && gets->calls[i].calls == 1);
        assert_true(i == 6 || gets->calls[i].result.status == (i % 2 ? CAIRN_NOT_FOUND : 0));
        cairn_result_free(&gets->calls[i].result);
    }
    struct cairn_stats stats;
    core_stats(fake->core, &stats);
    assert_int_equal(stats.reconnects, 1);
    gets_free(gets);
    fake_free(fake);
}

/* A page that names a get which nobody asked, and one without a value that was asked for. */
static int bend_page(struct fake *fake, int node, const struct frame *frame)
{
    if (frame->verb != VERB_GETS || fake->rule_state <= 0) {
        return FAKE_SERVE;
    }
    uint64_t link = 0;
    for (uint64_t i = 0; i < FAKE_LINKS; i++) {
        link = fake->links[i].is_open && fake->links[i].node == node ? i : link;
    }
    struct gets_page_answer answer = { .get = { .size = 5 } };
    struct span page = frame->payload;
    struct get_question question;
    gets_page_next_question(&page, &answer.request_id, &question);
    answer.request_id += fake->rule_state-- == 2 ? 1000000 : 0;
    uint8_t bytes[64];
    gets_page_answer(bytes, &answer);
    fake_answer(fake, link, frame, 0, 0, NULL, span_of(bytes, gets_page_answer_size(&answer)));
    return FAKE_DROP;
}

static void pages_that_do_not_fit_the_question_are_refused(void **state)
{
    struct fake *fake = fake_new();
    struct gets *gets = gets_new(fake);
    fake->forwards = true;
    fake->rule = bend_page;
    fake->rule_state = 2;
    for (int round = 0; round < 2; round++) {
        gets_submit(fake, gets, 40);
        gets_finish(fake, gets, 40);
    }
    struct cairn_stats stats;
    core_stats(fake->core, &stats);
    assert_int_equal(stats.reconnects, 2);
    gets_free(gets);
    fake_free(fake);
}

static void unasked_answers_close_the_link(void **state)
{
    struct fake *fake = fake_new();
    assert_int_equal(fake_put(fake, "a", "1"), 0);
    struct frame request = { .type = FRAME_REQUEST, .verb = VERB_PUT, .request_id = 987654 };
    Cairn__V1__PutResponse put = CAIRN__V1__PUT_RESPONSE__INIT;
    fake_answer(fake, 1, &request, 0, 0, &put.base, span_of(NULL, 0));
    bool never = false;
    fake_run(fake, &never, 20);
    assert_false(fake->links[1].is_open);
    assert_int_equal(fake_put(fake, "a", "2"), 0);
    fake_free(fake);
}

/* --- Questions */

struct answer {
    bool is_done;
    int status;
};

static void answer_came(void *arg, int status, const struct frame *frame)
{
    struct answer *answer = arg;
    answer->is_done = true;
    answer->status = status;
    assert_true((status == 0) == (frame != NULL));
}

static void one_node_is_asked_for_its_status(void **state)
{
    struct fake *fake = fake_new();
    static const struct {
        const char *node;
        int status;
    } rows[] = {
        { "n2", 0 }, { "10.0.0.3:7400", 0 }, { "nobody", ERR_USAGE }, { "n1", ERR_UNAVAILABLE }
    };
    for (size_t i = 0; i < 4; i++) {
        struct answer answer = { 0 };
        fake->is_down[0] = i == 3;
        if (i == 3) {
            fake_kill(fake, 0);
            bool never = false;
            fake_run(fake, &never, 5);
        }
        assert_int_equal(core_ask(fake->core, rows[i].node, VERB_STATUS, answer_came, &answer, 0,
                                  fake->now_us, NULL),
                         0);
        assert_true(fake_run(fake, &answer.is_done, 6000) < 100);
        assert_true(answer.is_done);
        assert_int_equal(answer.status, rows[i].status);
    }
    assert_int_equal(
        core_ask(fake->core, "a:b", VERB_STATUS, answer_came, NULL, 0, fake->now_us, NULL),
        ERR_USAGE);
    fake_free(fake);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_go_straight_to_their_primaries),
        cmocka_unit_test(a_wrong_primary_costs_one_redirect),
        cmocka_unit_test(a_newer_epoch_is_fetched),
        cmocka_unit_test(cores_beside_each_other_hold_one_topology),
        cmocka_unit_test(another_clusters_node_is_refused),
        cmocka_unit_test(endpoints_are_tried_in_turn),
        cmocka_unit_test(malformed_endpoints_are_told),
        cmocka_unit_test(a_lost_answer_is_asked_for_again_under_the_same_number),
        cmocka_unit_test(a_write_after_a_long_rest_carries_a_recent_time),
        cmocka_unit_test(a_write_that_waited_for_a_link_carries_the_time_of_its_sending),
        cmocka_unit_test(a_write_refused_as_late_gets_a_newer_time),
        cmocka_unit_test(a_repetition_refused_as_late_keeps_its_time_and_is_unknown),
        cmocka_unit_test(silence_is_unknown_for_writes_and_a_timeout_for_reads),
        cmocka_unit_test(a_node_that_does_not_answer_is_passed_by),
        cmocka_unit_test(a_new_client_passes_by_a_node_that_stands_still),
        cmocka_unit_test(a_slow_answer_is_waited_for),
        cmocka_unit_test(busy_is_repeated_with_growing_pauses),
        cmocka_unit_test(a_refusal_says_nothing_of_an_earlier_attempt),
        cmocka_unit_test(the_dead_are_told_apart_from_the_never_reached),
        cmocka_unit_test(writes_go_on_when_a_primary_dies),
        cmocka_unit_test(who_answers_a_get_without_a_hint_leads),
        cmocka_unit_test(the_servers_unknown_is_resolved_by_repeating),
        cmocka_unit_test(conditions_tell_the_present_version),
        cmocka_unit_test(empty_and_largest_values_come_back_in_pieces),
        cmocka_unit_test(bad_requests_are_refused_at_once),
        cmocka_unit_test(a_cancelled_request_ends_with_the_next_step),
        cmocka_unit_test(closing_calls_back_what_is_open),
        cmocka_unit_test(many_are_sent_by_primary_in_frames_of_bounded_size),
        cmocka_unit_test(many_refused_as_late_get_a_newer_time),
        cmocka_unit_test(large_values_are_spread_over_frames),
        cmocka_unit_test(only_refused_operations_of_a_batch_are_repeated),
        cmocka_unit_test(what_does_not_fit_a_common_answer_is_asked_alone),
        cmocka_unit_test(a_stuck_write_holds_the_window),
        cmocka_unit_test(garbage_closes_the_link_and_the_request_goes_on),
        cmocka_unit_test(answers_that_do_not_fit_the_question_are_refused),
        cmocka_unit_test(gets_that_leave_together_share_a_frame),
        cmocka_unit_test(a_lone_get_goes_to_the_primary),
        cmocka_unit_test(one_node_gets_no_longer_frames_than_it_takes),
        cmocka_unit_test(refused_pages_of_gets_close_the_link_and_the_gets_go_on),
        cmocka_unit_test(pages_that_do_not_fit_the_question_are_refused),
        cmocka_unit_test(unasked_answers_close_the_link),
        cmocka_unit_test(one_node_is_asked_for_its_status),
    };
    return cmocka_run_group_tests_name("client core", tests, NULL, NULL);
}
