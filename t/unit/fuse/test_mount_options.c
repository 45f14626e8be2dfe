/* The command line as people, fstab and mount(8) write it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "../../../fuse/mount_options.h"

static struct mount_options options;
static char error[MOUNT_OPTIONS_ERROR_MAX];

/* Words with blanks between. */
static bool parse(const char *line)
{
    static char text[1024];
    char *argv[32];
    int argc = 0;
    strcpy(text, line);
    for (char *word = strtok(text, " "); word != NULL; word = strtok(NULL, " ")) {
        argv[argc++] = word;
    }
    error[0] = 0;
    return mount_options_parse(argc, argv, &options, error);
}

static void test_by_hand(void **state)
{
    assert_true(parse("cairn-fuse /mnt"));
    assert_string_equal(options.mountpoint, "/mnt");
    assert_string_equal(options.endpoints, "");
    assert_int_equal(options.timeout_ms, 5000);
    assert_false(options.is_foreground);
    assert_true(parse("build/bin/cairn-fuse -f n1:7400,n2:7400/users /mnt -o "
                      "timeout=500ms,uid=5,gid=6,umask=077"));
    assert_true(options.is_foreground);
    assert_string_equal(options.endpoints, "n1:7400,n2:7400");
    assert_int_equal(options.mapping.prefix_size, 6);
    assert_memory_equal(options.mapping.prefix, "users/", 6);
    assert_int_equal(options.timeout_ms, 500);
    assert_int_equal(options.uid, 5);
    assert_int_equal(options.gid, 6);
    assert_int_equal(options.umask, 077);
}

static void test_prefixes(void **state)
{
    assert_true(parse("cairn-fuse h:1/ /mnt"));
    assert_int_equal(options.mapping.prefix_size, 0);
    assert_true(parse("cairn-fuse h:1/a/b/ /mnt"));
    assert_memory_equal(options.mapping.prefix, "a/b/", options.mapping.prefix_size);
    assert_true(parse("cairn-fuse [::1]:7400/a /mnt"));
    assert_string_equal(options.endpoints, "[::1]:7400");
}

static void test_as_mount_calls_it(void **state)
{
    assert_true(parse("/sbin/mount.cairn n1:7400 /mnt -o "
                      "rw,_netdev,nofail,x-systemd.automount,allow_other,nosuid,noatime"));
    assert_false(options.is_foreground);
    assert_string_equal(options.kernel, ",allow_other,nosuid,noatime");
    assert_true(parse("/sbin/mount.fuse.cairn n1:7400 /mnt -sfnv -t fuse.cairn -o ro"));
    assert_true(options.is_fake);
    assert_string_equal(options.kernel, ",ro");
}

static void test_wrong_ones_are_named(void **state)
{
    static const char *const bad[][2] = {
        { "cairn-fuse", "MOUNTPOINT is missing" },
        { "cairn-fuse a:1 /mnt more", "\"more\"" },
        { "cairn-fuse nohost /mnt", "\"nohost\" is not HOST:PORT" },
        { "cairn-fuse h:0 /mnt", "HOST:PORT" },
        { "cairn-fuse h:70000 /mnt", "HOST:PORT" },
        { "cairn-fuse h:1,,g:2 /mnt", "HOST:PORT" },
        { "cairn-fuse :1 /mnt", "HOST:PORT" },
        { "cairn-fuse h:1x /mnt", "HOST:PORT" },
        { "cairn-fuse /mnt -o", "-o needs a value" },
        { "cairn-fuse /mnt -o nonsense", "unknown option -o nonsense" },
        { "cairn-fuse /mnt -o timeout=0", "timeout=0" },
        { "cairn-fuse /mnt -o timeout=-5s", "timeout=-5s" },
        { "cairn-fuse /mnt -o timeout=5y", "timeout=5y" },
        { "cairn-fuse /mnt -o timeout=99999999999999999999", "timeout=" },
        { "cairn-fuse /mnt -o uid=me", "uid=me" },
        { "cairn-fuse /mnt -o umask=8", "umask=8" },
        { "cairn-fuse /mnt -x", "unknown option -x" },
        { "cairn-fuse /mnt -n", "unknown option -n" },
        { "cairn-fuse /mnt --nonsense", "unknown option --nonsense" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_false(parse(bad[i][0]));
        assert_non_null(strstr(error, bad[i][1]));
    }
    assert_true(parse("cairn-fuse --help"));
    assert_true(options.is_help);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_by_hand),
        cmocka_unit_test(test_prefixes),
        cmocka_unit_test(test_as_mount_calls_it),
        cmocka_unit_test(test_wrong_ones_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
