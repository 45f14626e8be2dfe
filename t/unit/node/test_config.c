/* Options: precedence of the four sources, every kind of value right and wrong, what excludes what,
 * surfaces to come, suggestions, the file's syntax, nodes of one process, reloading. */
#include "node/config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mem.h"
#include "env/env_uv.h"

struct fixture {
    struct env *env;
    char path[64];
};

static int setup(void **state)
{
    struct fixture *fixture = MEM_NEW(struct fixture);
    struct err err;

    assert_int_equal(env_uv_new(&fixture->env, &err), 0);
    strcpy(fixture->path, "/tmp/test_config.XXXXXX");
    int fd = mkstemp(fixture->path);
    assert_true(fd >= 0);
    close(fd);
    *state = fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;

    env_uv_free(fixture->env);
    unlink(fixture->path);
    mem_free(fixture);
    return 0;
}

static void write_file(struct fixture *fixture, const char *text)
{
    FILE *file = fopen(fixture->path, "w");

    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

/* Loads with a command line in one string, cut at blanks. */
static int load(struct fixture *fixture, const char *line, char *const *environment,
                struct config *config, enum config_action *action, struct err *err)
{
    char *copy = mem_printf("cairnd %s", line);
    char *argv[40];
    int argc = 0;
    char *rest = NULL;

    for (char *word = strtok_r(copy, " ", &rest); word; word = strtok_r(NULL, " ", &rest)) {
        argv[argc++] = word;
    }
    argv[argc] = NULL;
    int status = config_load(fixture->env, argc, argv, environment, config, action, err);
    mem_free(copy);
    return status;
}

static char *no_environment[] = { NULL };

static void assert_loads(struct fixture *fixture, const char *line, char *const *environment,
                         struct config *config)
{
    enum config_action action;
    struct err err = { 0 };

    int status = load(fixture, line, environment, config, &action, &err);
    if (status) {
        fail_msg("%s", err.text);
    }
    assert_int_equal(action, CONFIG_RUN);
}

static void assert_refused(struct fixture *fixture, const char *line, char *const *environment,
                           int expected, const char *text)
{
    struct config config;
    enum config_action action;
    struct err err = { 0 };

    assert_int_equal(load(fixture, line, environment, &config, &action, &err), expected);
    if (!strstr(err.text, text)) {
        fail_msg("'%s' does not say '%s'", err.text, text);
    }
}

static void a_standalone_node_needs_a_folder_only(void **state)
{
    struct config config;
    struct node_config node;

    assert_loads(*state, "--standalone --data /d", no_environment, &config);
    config_to_node(&config, &node);
    assert_string_equal(node.name, "n1");
    assert_string_equal(node.data, "/d");
    assert_string_equal(node.listen, "127.0.0.1:7400");
    assert_string_equal(node.advertise, "127.0.0.1:7400");
    assert_true(node.standalone);
    assert_null(node.bootstrap);
    assert_int_equal(node.partitions, 128);
    assert_int_equal(node.replicas, 3);
    assert_int_equal(node.election_timeout_ms, 600);
    assert_int_equal(node.heartbeat_ms, 100);
    assert_int_equal(node.flush_bytes, 256 << 20);
    assert_int_equal(node.flush_idle_ms, 2000);
    assert_int_equal(node.log_bytes, 512 << 20);
    assert_int_equal(node.overlay_bytes, 768 << 20);
    assert_true(node.map_bytes == 64ull << 30);
    assert_int_equal(config.log_level, LOGGER_INFO);
    config_fini(&config);
}

static void each_source_wins_over_the_one_before(void **state)
{
    struct fixture *fixture = *state;
    struct config config;
    char line[200], file_variable[100];
    char *environment[] = { "PATH=/bin",
                            "CAIRN_ADVERTISE=environment:1",
                            "CAIRN_NAME=environment",
                            "CAIRN_REPLICAS=",
                            "CAIRN_ENDPOINTS=127.0.0.1:7401",
                            "CAIRN_ELECTION_TIMEOUT_MS=2s",
                            file_variable,
                            NULL };

    write_file(fixture, "# a comment\n"
                        "cluster-name = file # another\n"
                        "advertise=file:1\n"
                        "\n"
                        "  name = file\r\n"
                        "replicas = 7\n"
                        "data = \"/with blank # and hash\"\n"
                        "standalone = yes");
    snprintf(file_variable, sizeof file_variable, "CAIRN_CONFIG=%s", fixture->path);
    for (int by_environment = 0; by_environment < 2; by_environment++) {
        environment[6] = by_environment ? file_variable : NULL;
        snprintf(line, sizeof line, "--name=command %s%s", by_environment ? "" : "--config ",
                 by_environment ? "" : fixture->path);
        assert_loads(fixture, line, environment, &config);
        assert_string_equal(config.cluster_name, "file");
        assert_string_equal(config.advertise, "environment:1");
        assert_string_equal(config.name, "command");
        assert_string_equal(config.data, "/with blank # and hash");
        assert_int_equal(config.replicas, 7);
        assert_int_equal(config.election_timeout_ms, 2000);
        assert_true(config.standalone);
        assert_int_equal(config.sources[CONFIG_cluster_name], CONFIG_FILE);
        assert_int_equal(config.sources[CONFIG_advertise], CONFIG_ENVIRONMENT);
        assert_int_equal(config.sources[CONFIG_name], CONFIG_COMMAND_LINE);
        assert_int_equal(config.sources[CONFIG_listen], CONFIG_DEFAULT);
        config_fini(&config);
    }
}

static void three_nodes_by_environment_alone(void **state)
{
    struct config config;
    struct node_config node;
    char *environment[] = { "CAIRN_NAME=n2", "CAIRN_DATA=/d", "CAIRN_LISTEN=127.0.0.1:7402",
                            "CAIRN_BOOTSTRAP=n1=127.0.0.1:7401,n2=127.0.0.1:7402,n3=127.0.0.1:7403",
                            NULL };

    assert_loads(*state, "", environment, &config);
    config_to_node(&config, &node);
    assert_string_equal(node.name, "n2");
    assert_string_equal(node.advertise, "127.0.0.1:7402");
    config_fini(&config);
}

static void others_are_told_what_the_list_says(void **state)
{
    struct config config;
    struct node_config node;

    assert_loads(*state,
                 "--name b --data /d --insecure --listen 0.0.0.0:7400 --bootstrap "
                 "a=hosta:7400,b=hostb:7400,c=[::1]:1",
                 no_environment, &config);
    config_to_node(&config, &node);
    assert_string_equal(node.advertise, "hostb:7400");
    assert_string_equal(node.listen, "0.0.0.0:7400");
    assert_true(node.insecure);
    config_fini(&config);
    assert_loads(*state, /* the longest name */
                 "--name 012345678901234567890123456789012345678901234567890123456789abc --data /d "
                 "--bootstrap "
                 "012345678901234567890123456789012345678901234567890123456789abc=h:1",
                 no_environment, &config);
    config_fini(&config);
}

static void values_are_judged(void **state)
{
    static const struct {
        const char *line, *text;
    } bad[] = {
        { "--partitions 100", "power of two" },
        { "--partitions 8", "16 to 4096" },
        { "--partitions 8192", "16 to 4096" },
        { "--partitions many", "not a number" },
        { "--partitions 12x", "not a number" },
        { "--partitions -16", "not a number" },
        { "--partitions 99999999999999999999999", "not a number" },
        { "--partitions=", "not a number" },
        { "--replicas 10", "1 to 9" },
        { "--replicas 0", "1 to 9" },
        { "--flush-bytes 1TB", "with K, M, G" },
        { "--flush-bytes 99999999999GiB", "not a number" },
        { "--flush-bytes 800MiB", "--overlay-bytes" },
        { "--heartbeat-ms 5d", "with ms, s, m or h" },
        { "--heartbeat-ms 201", "three times" },
        { "--log-level loud", "error, warn, info or debug" },
        { "--insecure=perhaps", "neither yes nor no" },
        { "--cluster-name=", "1 to 63 bytes" },
        { "--cluster-name 0123456789012345678901234567890123456789012345678901234567890123",
          "1 to 63 bytes" },
        { "--listen 127.0.0.1", "not HOST:PORT" },
        { "--listen 127.0.0.1:", "not HOST:PORT" },
        { "--listen 127.0.0.1:70000", "not HOST:PORT" },
        { "--listen ::1:7400", "not HOST:PORT" },
        { "--advertise x", "not HOST:PORT" },
        { "--listen 0.0.0.0:7400", "--insecure" },
        { "--listen 10.0.0.1:7400", "not a loopback" },
        { "--listen [::]:7400", "not a loopback" },
        { "--name n/1", "letters" },
    };
    char line[200];

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        snprintf(line, sizeof line, "--standalone --data /d %s", bad[i].line);
        assert_refused(*state, line, no_environment, ERR_USAGE, bad[i].text);
    }
    static const char *const good[] = { "--listen [::1]:0",         "--listen localhost:1",
                                        "--listen 127.9.9.9:65535", "--flush-bytes 64KiB",
                                        "--flush-bytes 1M",         "--heartbeat-ms 200ms",
                                        "--partitions 4096",        "--insecure=no",
                                        "--log-level=debug" };
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        struct config config;
        snprintf(line, sizeof line, "--standalone --data /d %s", good[i]);
        assert_loads(*state, line, no_environment, &config);
        config_fini(&config);
    }
    struct config config;
    assert_loads(*state, "--standalone --data /d --scrub-interval-ms 2h", no_environment, &config);
    assert_int_equal(config.scrub_interval_ms, 2 * 3600 * 1000);
    config_fini(&config);
}

static void a_node_comes_to_its_cluster_in_one_way(void **state)
{
    assert_refused(*state, "--data /d", no_environment, ERR_USAGE, "one of --bootstrap");
    assert_refused(*state, "--standalone", no_environment, ERR_USAGE, "--data is needed");
    assert_refused(*state, "--standalone --data /d --bootstrap n1=h:1", no_environment, ERR_USAGE,
                   "exclude");
    assert_refused(*state, "--data /d --bootstrap n1=h:1", no_environment, ERR_USAGE,
                   "--name is needed");
    assert_refused(*state, "--data /d --name n --bootstrap n1=h:1", no_environment, ERR_USAGE,
                   "does not list");
    assert_refused(*state, "--data /d --name n1 --bootstrap n1", no_environment, ERR_USAGE,
                   "NAME=HOST:PORT");
    assert_refused(*state, "--data /d --name n1 --bootstrap n1=h", no_environment, ERR_USAGE,
                   "not HOST:PORT");
    assert_refused(*state,
                   "--data /d --name n1 --bootstrap n1=h:1,"
                   "0123456789012345678901234567890123456789012345678901234567890123=h:2",
                   no_environment, ERR_USAGE, "a name has 63 bytes at most");
    assert_refused(*state, "--data /d --name n1 --bootstrap n1=h:1,", no_environment, ERR_USAGE,
                   "NAME=HOST:PORT");
    assert_refused(*state, "--data /d --name n1 --bootstrap =h:1", no_environment, ERR_USAGE,
                   "NAME=HOST:PORT");
    assert_refused(*state, "--data /d --in-process 3 --standalone", no_environment, ERR_USAGE,
                   "--in-process chooses");
    assert_refused(*state, "--data /d --in-process 10", no_environment, ERR_USAGE, "0 to 9");
}

static void unknown_options_get_a_suggestion(void **state)
{
    char *environment[] = { "CAIRN_PARTITIONS=x", NULL };

    assert_refused(*state, "--boostrap n1=h:1", no_environment, ERR_USAGE,
                   "did you mean bootstrap?");
    assert_refused(*state, "--listne=h:1", no_environment, ERR_USAGE, "did you mean listen?");
    assert_refused(*state, "--loglevel debug", no_environment, ERR_USAGE,
                   "did you mean log-level?");
    assert_refused(*state, "--elec 5", no_environment, ERR_USAGE,
                   "did you mean election-timeout-ms?");
    assert_refused(*state, "--check", no_environment, ERR_USAGE, "did you mean check-config?");
    assert_refused(*state, "--xyzzyplugh", no_environment, ERR_USAGE, "see cairnd --help");
    assert_refused(*state, "start", no_environment, ERR_USAGE, "'start' is not an option");
    assert_refused(*state, "--", no_environment, ERR_USAGE, "is not an option");
    assert_refused(*state, "-x", no_environment, ERR_USAGE, "is not an option");
    assert_refused(*state, "--data", no_environment, ERR_USAGE, "--data: needs a value");
    assert_refused(*state, "--standalone --data /d", environment, ERR_USAGE,
                   "environment CAIRN_PARTITIONS: ");
}

static void surfaces_to_come_are_refused_by_name(void **state)
{
    struct fixture *fixture = *state;
    char *environment[] = { "CAIRN_HTTP=127.0.0.1:7480", NULL };
    char line[128];

    assert_refused(fixture, "--standalone --data /d --http 127.0.0.1:7480", no_environment,
                   ERR_UNSUPPORTED, "--http");
    assert_refused(fixture, "--join h:1 --data /d", no_environment, ERR_UNSUPPORTED, "--join");
    assert_refused(fixture, "--tls-cert=c", no_environment, ERR_UNSUPPORTED, "--tls-cert");
    assert_refused(fixture, "--standalone --data /d", environment, ERR_UNSUPPORTED, "CAIRN_HTTP");
    write_file(fixture, "standalone = yes\n\nauth = users.db\n");
    snprintf(line, sizeof line, "--data /d --config %s", fixture->path);
    assert_refused(fixture, line, no_environment, ERR_UNSUPPORTED, ":3: auth");
}

static void the_file_is_judged_with_its_line(void **state)
{
    static const struct {
        const char *file, *text;
    } bad[] = {
        { "standalone = yes\nname\n", ":2: must be `name = value`" },
        { "naem = z\n", ":1: naem: no such option; did you mean name?" },
        { "name = a\nname = b\n", ":2: name: stands in the file twice" },
        { "name = \"a\n", ":1: name: the quoted value has no end" },
        { "\n\nreplicas = 12\n", ":3: replicas: '12'" },
        { "name =\n", ":1: name: must be 1 to" },
        { "= x\n", ":1: " },
    };
    struct fixture *fixture = *state;
    char line[128];

    snprintf(line, sizeof line, "--standalone --data /d --config %s", fixture->path);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        write_file(fixture, bad[i].file);
        assert_refused(fixture, line, no_environment, ERR_USAGE, bad[i].text);
    }
    assert_refused(fixture, "--config /nowhere/at/all", no_environment, ERR_NOT_FOUND, "--config");

    char *large = mem_alloc(70000);
    memset(large, '#', 69999);
    large[69999] = '\0';
    write_file(fixture, large);
    mem_free(large);
    assert_refused(fixture, line, no_environment, ERR_USAGE, "larger than");
}

static void help_and_version_need_nothing_else(void **state)
{
    static const struct {
        const char *line;
        enum config_action action;
    } lines[] = {
        { "--help", CONFIG_HELP },
        { "-h", CONFIG_HELP },
        { "--version --nonsense", CONFIG_VERSION },
        { "--replicas 99 --help", CONFIG_HELP },
        { "--standalone --data /d --check-config", CONFIG_CHECK },
        { "--check-config --standalone --data /d", CONFIG_CHECK },
    };
    struct config config;
    struct err err;

    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        enum config_action action = CONFIG_RUN;
        assert_int_equal(load(*state, lines[i].line, no_environment, &config, &action, &err), 0);
        assert_int_equal(action, lines[i].action);
        config_fini(&config);
    }
    assert_refused(*state, "--check-config --standalone", no_environment, ERR_USAGE, "--data");
}

static void help_names_every_option(void **state)
{
    static const char *const names[] = {
#define PARAM(field, name, ...) "--" name " ",
#include "tbl/params.def"
        "--config ",
        "--check-config ",
        "CAIRN_ELECTION_TIMEOUT_MS",
    };
    struct buf out = { 0 };

    config_print_help(&out);
    buf_append(&out, "", 1);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (!strstr((char *)out.data, names[i])) {
            fail_msg("%s is missing", names[i]);
        }
    }
    buf_fini(&out);
}

/* What --check-config prints is a file that gives the same configuration. */
static void what_is_printed_can_be_read_again(void **state)
{
    struct fixture *fixture = *state;
    struct config config, again;
    struct buf out = { 0 };
    char line[128];

    write_file(fixture, "data = \"/with # blank\"\nname = z\nheartbeat-ms = 50ms\n");
    snprintf(line, sizeof line, "--config %s --standalone --replicas 5", fixture->path);
    assert_loads(fixture, line, no_environment, &config);
    config_print(&config, &out);
    buf_append(&out, "", 1);
    write_file(fixture, (char *)out.data);
    snprintf(line, sizeof line, "--config %s", fixture->path);
    assert_loads(fixture, line, no_environment, &again);
    for (int i = 0; i < CONFIG_PARAMS; i++) {
        assert_string_equal(config.texts[i], again.texts[i]);
    }
    config_fini(&config);
    config_fini(&again);
    buf_fini(&out);
}

static void nodes_of_one_process_are_a_cluster(void **state)
{
    struct config config, member;
    struct node_config node;

    assert_loads(*state, "--in-process 3 --data /d --port-base 9000 --partitions 32",
                 no_environment, &config);
    config_of_member(&config, 2, &member);
    config_to_node(&member, &node);
    assert_string_equal(node.name, "n2");
    assert_string_equal(node.data, "/d/n2");
    assert_string_equal(node.listen, "127.0.0.1:9001");
    assert_string_equal(node.advertise, "127.0.0.1:9001");
    assert_string_equal(node.bootstrap, "n1=127.0.0.1:9000,n2=127.0.0.1:9001,n3=127.0.0.1:9002");
    assert_int_equal(node.partitions, 32);
    config_fini(&member);
    config_fini(&config);
}

static void only_what_is_live_is_reloaded(void **state)
{
    struct config config, newer;
    struct buf rest = { 0 };

    assert_loads(*state, "--standalone --data /d", no_environment, &config);
    assert_loads(*state, "--standalone --data /e --log-level debug --replicas 2", no_environment,
                 &newer);
    config_reload(&config, &newer, &rest);
    assert_int_equal(config.log_level, LOGGER_DEBUG);
    assert_string_equal(config.data, "/d");
    assert_int_equal(config.replicas, 3);
    assert_true(span_equal(buf_span(&rest), span_of_string("data, replicas")));
    buf_clear(&rest);
    config_reload(&config, &config, &rest);
    assert_int_equal(rest.size, 0);
    config_fini(&config);
    config_fini(&newer);
    buf_fini(&rest);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_standalone_node_needs_a_folder_only),
        TEST(each_source_wins_over_the_one_before),
        TEST(three_nodes_by_environment_alone),
        TEST(others_are_told_what_the_list_says),
        TEST(values_are_judged),
        TEST(a_node_comes_to_its_cluster_in_one_way),
        TEST(unknown_options_get_a_suggestion),
        TEST(surfaces_to_come_are_refused_by_name),
        TEST(the_file_is_judged_with_its_line),
        TEST(help_and_version_need_nothing_else),
        TEST(help_names_every_option),
        TEST(what_is_printed_can_be_read_again),
        TEST(nodes_of_one_process_are_a_cluster),
        TEST(only_what_is_live_is_reloaded),
    };
    return cmocka_run_group_tests_name("config", tests, NULL, NULL);
}
