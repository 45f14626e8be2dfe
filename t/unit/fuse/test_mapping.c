/* The mapping between keys and paths, both ways: every key has a path that the kernel can walk and
 * that leads back to it; every other path leads nowhere. Examples for each rule, all short strings
 * over a nasty alphabet, and random long ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <errno.h>
#include <cmocka.h>

#include "../../../fuse/mapping.h"

static const struct mapping everything;
static const struct mapping users = { .prefix = "users/", .prefix_size = 6 };

static const char alphabet[] = { '/', '.', '%', 'E', 'V', '2', '5', '+', '0', 0, (char)0xff, 'a' };

static void assert_walkable(const struct mapping_path *path)
{
    size_t name = 0;
    for (size_t i = 0; i <= path->size; i++) {
        if (i < path->size && path->text[i] != '/') {
            assert_int_not_equal(path->text[i], 0);
            continue;
        }
        size_t size = i - name;
        assert_in_range(size, 1, MAPPING_NAME_MAX);
        assert_false(path->text[name] == '.' &&
                     (size == 1 || (size == 2 && path->text[name + 1] == '.')));
        name = i + 1;
    }
}

/* The path leads back to the key, as a file and as a directory with a value, and so does every
 * entry on the way. */
static void assert_round_trip(const struct mapping *mapping, const void *key, size_t size)
{
    static struct mapping_path path;
    static struct mapping_target target;
    static struct mapping_entry entry;
    for (int has_below = 0; has_below < 2; has_below++) {
        assert_true(mapping_key_to_path(mapping, key, size, has_below, &path));
        assert_walkable(&path);
        assert_int_equal(mapping_path_to_key(mapping, path.text, path.size, &target), 0);
        assert_int_equal(target.kind, has_below ? MAPPING_VALUE : MAPPING_PLAIN);
        assert_int_equal(target.key_size, size);
        assert_memory_equal(target.key, key, size);
    }
    assert_true(mapping_key_to_path(mapping, key, size, false, &path));
    for (size_t at = 0;;) {
        assert_true(mapping_entry_of(mapping, path.text, at == 0 ? 0 : at - 1, key, size, &entry));
        assert_memory_equal(entry.name, path.text + at, entry.name_size);
        at += entry.name_size;
        assert_int_equal(entry.is_directory, at < path.size);
        if (at == path.size) {
            break;
        }
        assert_int_equal(mapping_path_to_key(mapping, path.text, at, &target), 0);
        assert_int_equal(target.kind, entry.is_piece ? MAPPING_PIECE : MAPPING_PLAIN);
        assert_int_equal(target.key_size, entry.covered);
        size_t prefix_size = mapping_directory_prefix(&target);
        assert_true(prefix_size <= size);
        assert_memory_equal(target.key, key, prefix_size);
        at++;
    }
}

/* A path that is accepted as a file is the path of the key that it names. */
static bool assert_canonical_or_refused(const struct mapping *mapping, const char *text,
                                        size_t size)
{
    static struct mapping_path path;
    static struct mapping_target target;
    int status = mapping_path_to_key(mapping, text, size, &target);
    if (status != 0) {
        assert_true(status == -ENOENT || status == -ENAMETOOLONG);
        return false;
    }
    if (target.kind == MAPPING_ROOT || target.kind == MAPPING_PIECE || target.key_size == 0) {
        return true;
    }
    assert_true(mapping_key_to_path(mapping, target.key, target.key_size,
                                    target.kind == MAPPING_VALUE, &path));
    assert_int_equal(path.size, size);
    assert_memory_equal(path.text, text, size);
    return true;
}

static void assert_path_sized(const void *key, size_t size, const char *text)
{
    static struct mapping_path path;
    assert_true(mapping_key_to_path(&everything, key, size, false, &path));
    path.text[path.size] = 0;
    assert_string_equal(path.text, text);
    assert_round_trip(&everything, key, size);
}

static void assert_path(const char *key, const char *text)
{
    assert_path_sized(key, strlen(key), text);
}

static int status_of(const char *path)
{
    struct mapping_target target;
    return mapping_path_to_key(&everything, path, strlen(path), &target);
}

static void test_components_are_shown_as_they_are(void **state)
{
    assert_path("users/42", "users/42");
    assert_path("a b/\xff\xfe", "a b/\xff\xfe");
    assert_path("100%", "100%");
    assert_path("a%b", "a%b");
    assert_path("...", "...");
    assert_path("a.b", "a.b");
    assert_path("line\nfeed", "line\nfeed");
}

static void test_what_a_name_cannot_hold_is_escaped(void **state)
{
    assert_path(".", "%2E");
    assert_path("..", "%2E%2E");
    assert_path("a/../b", "a/%2E%2E/b");
    assert_path("a/", "a/%E");
    assert_path("/", "%E/%E");
    assert_path("/a", "%E/a");
    assert_path("a//b", "a/%E/b");
    assert_path_sized("a\0b", 3, "a%00b");
    assert_path_sized("\0", 1, "%00");
}

static void test_percent_is_escaped_only_before_a_token(void **state)
{
    assert_path("%00", "%2500");
    assert_path("%25", "%2525");
    assert_path("%2E", "%252E");
    assert_path("%2e", "%2e");
    assert_path("%E", "%25E");
    assert_path("%V", "%25V");
    assert_path("x%+", "x%25+");
    assert_path("%Ex", "%Ex");
    assert_path("%%25", "%%2525");
    assert_path("%%", "%%");
    assert_path("a%V/b", "a%25V/b");
    assert_path("2%25%", "2%2525%");
}

static void test_other_forms_are_refused(void **state)
{
    static const char *const bad[] = { "%25",     "%41%25",    "x%E",  "x%V",  "%2E",   "a%2E",
                                       "%2Ea",    "%2E%2E%2E", "ab%+", "%+",   "%V",    "%V/a",
                                       "a/%V/b",  "a//b",      "a/",   "/a",   "a/./b", "a/..",
                                       "%00%25x", "%E%E",      "%25a", "%255", "a%25" };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        bool is_fine = strcmp(bad[i], "%2E") == 0;
        assert_int_equal(status_of(bad[i]), is_fine ? 0 : -ENOENT);
    }
}

static void test_a_value_beside_children(void **state)
{
    struct mapping_target target;
    struct mapping_path path;
    assert_true(mapping_key_to_path(&everything, "a", 1, true, &path));
    assert_int_equal(path.size, 4);
    assert_memory_equal(path.text, "a/%V", 4);
    assert_int_equal(mapping_path_to_key(&everything, "a/%V", 4, &target), 0);
    assert_int_equal(target.kind, MAPPING_VALUE);
    assert_int_equal(mapping_path_to_key(&everything, "a/%E/%V", 7, &target), 0);
    assert_int_equal(target.kind, MAPPING_VALUE);
    assert_memory_equal(target.key, "a/", target.key_size);
    assert_int_equal(status_of("%E/%V"), -ENOENT);
}

static void test_long_components_are_cut(void **state)
{
    uint8_t key[CAIRN_KEY_BYTES_MAX];
    struct mapping_path path;
    memset(key, 'a', sizeof key);
    assert_true(mapping_key_to_path(&everything, key, 255, false, &path));
    assert_int_equal(path.size, 255);
    assert_true(mapping_key_to_path(&everything, key, 256, false, &path));
    assert_int_equal(path.size, 253 + 3 + 3);
    assert_memory_equal(path.text + 253, "%+/aaa", 6);
    for (size_t size = 250; size <= sizeof key; size++) {
        assert_round_trip(&everything, key, size);
    }
    key[506] = '.';
    assert_true(mapping_key_to_path(&everything, key, 507, false, &path));
    assert_memory_equal(path.text + path.size - 6, "%+/%2E", 6);
    assert_round_trip(&everything, key, 507);
    memset(key, 0, sizeof key);
    assert_true(mapping_key_to_path(&everything, key, sizeof key, false, &path));
    assert_round_trip(&everything, key, sizeof key);
    memset(key, '/', sizeof key);
    assert_round_trip(&everything, key, sizeof key);
}

/* Tokens of three bytes at every distance from the cut, and '%' whose meaning the next piece
 * decides. */
static void test_cuts_beside_tokens(void **state)
{
    static const char *const middles[] = { "%00", "%25", "%2E", "%",  "%2",
                                           "%+",  "%E",  "..",  "%%", "%0" };
    static const char *const ends[] = { "0a", "5",  "E",  "V", "+", ".",
                                        "..", "00", "25", "",  "%", "%E" };
    uint8_t key[CAIRN_KEY_BYTES_MAX];
    for (size_t at = 240; at < 262; at++) {
        for (size_t m = 0; m < sizeof middles / sizeof *middles; m++) {
            for (size_t e = 0; e < sizeof ends / sizeof *ends; e++) {
                for (size_t fill = 0; fill < 250; fill += 31) {
                    size_t size = at;
                    memset(key, 'a', at);
                    memcpy(key + size, middles[m], strlen(middles[m]));
                    size += strlen(middles[m]);
                    memset(key + size, fill % 2 ? 0 : 'b', fill / 2);
                    size += fill / 2;
                    memcpy(key + size, ends[e], strlen(ends[e]));
                    assert_round_trip(&everything, key, size + strlen(ends[e]));
                }
            }
        }
    }
}

static void test_pieces_that_lead_nowhere_are_refused(void **state)
{
    static char text[600];
    memset(text, 'a', sizeof text);
    memcpy(text + 250, "%+", 3);
    assert_int_equal(status_of(text), -ENOENT);    /* too short to be a piece */
    for (size_t size = 251; size <= 253; size++) { /* what follows may be a token of three */
        memset(text, 'a', sizeof text);
        memcpy(text + size, "%+", 3);
        assert_int_equal(status_of(text), 0);
    }
    memset(text, 'a', sizeof text);
    memcpy(text + 253, "%+/a", 5);
    assert_int_equal(status_of(text), -ENOENT); /* 254 bytes need no cut */
    memcpy(text + 253, "%+/%E", 6);
    assert_int_equal(status_of(text), -ENOENT);
    memcpy(text + 253, "%+/%V", 6);
    assert_int_equal(status_of(text), -ENOENT);
    memcpy(text + 252, "%+/aaaa", 8);
    assert_int_equal(status_of(text), -ENOENT); /* a byte more would have fitted */
    memset(text, 'a', sizeof text);
    text[256] = 0;
    assert_int_equal(status_of(text), -ENAMETOOLONG);
}

static void test_a_prefix_is_hidden(void **state)
{
    struct mapping_path path;
    struct mapping_target target;
    assert_true(mapping_key_to_path(&users, "users/42", 8, false, &path));
    assert_int_equal(path.size, 2);
    assert_memory_equal(path.text, "42", 2);
    assert_false(mapping_key_to_path(&users, "user", 4, false, &path));
    assert_false(mapping_key_to_path(&users, "users", 5, false, &path));
    assert_true(mapping_key_to_path(&users, "users/", 6, false, &path));
    assert_memory_equal(path.text, "%E", path.size);
    assert_int_equal(mapping_path_to_key(&users, "", 0, &target), 0);
    assert_int_equal(target.kind, MAPPING_ROOT);
    assert_int_equal(mapping_directory_prefix(&target), 6);
    assert_round_trip(&users, "users//", 7);
    assert_round_trip(&users, "users/a/b", 9);
    assert_int_equal(mapping_path_to_key(&users, "%V", 2, &target), -ENOENT);
}

static void test_keys_have_a_size(void **state)
{
    static char path[1024];
    struct mapping_path shown;
    char key[512] = { 0 };
    assert_false(mapping_key_to_path(&everything, key, 512, false, &shown));
    assert_false(mapping_key_to_path(&everything, key, 0, false, &shown));
    for (size_t i = 0; i < 1024; i++) {
        path[i] = i % 100 == 99 ? '/' : 'a';
    }
    struct mapping_target target;
    assert_int_equal(mapping_path_to_key(&everything, path, 511, &target), 0);
    assert_int_equal(mapping_path_to_key(&everything, path, 512, &target), -ENAMETOOLONG);
    assert_int_equal(mapping_path_to_key(&users, path, 505, &target), 0);
    assert_int_equal(mapping_path_to_key(&users, path, 506, &target), -ENAMETOOLONG);
    path[399] = 'a', path[511] = 'a';
    assert_int_equal(mapping_directory_prefix(&target) <= CAIRN_KEY_BYTES_MAX + 1, true);
}

static void test_entries_of_a_directory(void **state)
{
    struct mapping_entry entry;
    assert_true(mapping_entry_of(&everything, "", 0, "a/b/c", 5, &entry));
    assert_string_equal(entry.name, "a");
    assert_true(entry.is_directory);
    assert_int_equal(entry.covered, 1);
    assert_true(mapping_entry_of(&everything, "a", 1, "a/b/c", 5, &entry));
    assert_string_equal(entry.name, "b");
    assert_int_equal(entry.covered, 3);
    assert_true(mapping_entry_of(&everything, "a/b", 3, "a/b/c", 5, &entry));
    assert_string_equal(entry.name, "c");
    assert_false(entry.is_directory);
    assert_false(mapping_entry_of(&everything, "a/b", 3, "a/bc", 4, &entry));
    assert_false(mapping_entry_of(&everything, "a", 1, "a", 1, &entry));
}

/* All strings up to four bytes (thousands of keys), as keys and as paths. Distinct keys have
 * distinct paths because each leads back. */
static void test_all_short_strings(void **state)
{
    size_t letters = sizeof alphabet, accepted = 0;
    for (size_t size = 1; size <= 4; size++) {
        size_t count = 1;
        for (size_t i = 0; i < size; i++) {
            count *= letters;
        }
        for (size_t n = 0; n < count; n++) {
            char text[8];
            for (size_t i = 0, rest = n; i < size; i++, rest /= letters) {
                text[i] = alphabet[rest % letters];
            }
            assert_round_trip(&everything, text, size);
            accepted += assert_canonical_or_refused(&everything, text, size);
        }
    }
    assert_true(accepted > 1000);
}

static uint64_t next_random(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

/* Random keys with long runs, so that components pass 255 bytes; their paths with one byte changed,
 * dropped or doubled. */
static void test_random_strings(void **state)
{
    uint64_t seed = 0x9e3779b97f4a7c15;
    static struct mapping_path path;
    char key[CAIRN_KEY_BYTES_MAX];
    size_t refused = 0;
    for (size_t n = 0; n < 5000; n++) {
        size_t size = 1 + next_random(&seed) % sizeof key, at = 0;
        size_t few = 2 + next_random(&seed) % (sizeof alphabet - 2);
        while (at < size) {
            size_t run = next_random(&seed) % 8 == 0 ? next_random(&seed) % 300 : 1;
            char byte = alphabet[1 + next_random(&seed) % few];
            byte = next_random(&seed) % 60 == 0 ? '/' : byte;
            for (; run > 0 && at < size; run--) {
                key[at++] = byte;
            }
        }
        assert_round_trip(&everything, key, size);
        assert_true(
            mapping_key_to_path(&everything, key, size, next_random(&seed) % 4 == 0, &path));
        size_t place = next_random(&seed) % path.size;
        switch (next_random(&seed) % 3) {
        case 0:
            path.text[place] = alphabet[next_random(&seed) % sizeof alphabet];
            break;
        case 1:
            memmove(path.text + place, path.text + place + 1, --path.size - place);
            break;
        default:
            memmove(path.text + place + 1, path.text + place, path.size++ - place);
        }
        static struct mapping_path changed;
        changed = path;
        refused += !assert_canonical_or_refused(&everything, changed.text, changed.size);
    }
    assert_true(refused > 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_components_are_shown_as_they_are),
        cmocka_unit_test(test_what_a_name_cannot_hold_is_escaped),
        cmocka_unit_test(test_percent_is_escaped_only_before_a_token),
        cmocka_unit_test(test_other_forms_are_refused),
        cmocka_unit_test(test_a_value_beside_children),
        cmocka_unit_test(test_long_components_are_cut),
        cmocka_unit_test(test_cuts_beside_tokens),
        cmocka_unit_test(test_pieces_that_lead_nowhere_are_refused),
        cmocka_unit_test(test_a_prefix_is_hidden),
        cmocka_unit_test(test_keys_have_a_size),
        cmocka_unit_test(test_entries_of_a_directory),
        cmocka_unit_test(test_all_short_strings),
        cmocka_unit_test(test_random_strings),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
