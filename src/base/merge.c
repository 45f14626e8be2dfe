/* A tree of losers whose matches are decided by numbers.
 *
 * Each source has a leaf; each inner node holds who lost the match between the winners of its two
 * halves; the winner of all is the first. When the winner's source moves on, the matches from its
 * leaf to the root are played again: one comparison a level, where a heap takes two.
 *
 * Keys are not compared byte by byte but by codes: what tells a key from another one that comes
 * before both rivals (its base), as a number. A key counts as columns of seven bytes, filled up with
 * zeroes for ever, and its length behind them. The code is the first column in which key and base
 * differ: (127 - column) in the upper byte, the key's column in the lower seven; of two keys the one
 * with the smaller code comes first. In reverse the column's bits are turned over. (Conner,
 * "Offset-value coding", 1977; Graefe and Do, "Offset-value coding in database query processing",
 * 2023.)
 *
 * Invariants
 *   I1  A match's loser has its code by the winner of that match. So all who lost against the first
 *       have their code by the same base, and the first's next key gets its own by that, too. Where
 *       codes differ, the loser's code by the winner is the one that it has.
 *   I2  Equal codes say that both keys are equal up to and with that column: only then keys are
 *       read, and the loser gets a new code.
 *   I3  Code 0 is nobody's but of keys that equal their base; CODE_END is the code of those that
 *       have ended. */
#include "base/merge.h"

#include "base/check.h"
#include "base/limits.h"

enum { COLUMN_BYTES = 7, COLUMN_LENGTH = (LIMIT_KEY_BYTES + COLUMN_BYTES - 1) / COLUMN_BYTES };
#define COLUMN_MASK ((UINT64_C(1) << 56) - 1)
#define CODE_EQUAL 0
#define CODE_END UINT64_MAX

_Static_assert(COLUMN_LENGTH < 126,
               "a column's number fits the code, and no code is 0 or CODE_END");

struct merge_match {
    uint64_t code;
    uint32_t who; /* the loser's leaf; of match 0 the first's */
};

size_t merge_room(size_t count)
{
    return count * (sizeof(struct merge_match) + sizeof(struct span));
}

void merge_init(struct merge *merge, void *room, size_t count, bool is_reverse)
{
    CHECK(count > 0 && count <= INT32_MAX);
    struct merge_match *matches = room;
    *merge =
        (struct merge){ matches, (struct span *)(matches + count), (uint32_t)count, is_reverse };
    memset(merge->keys, 0, count * sizeof *merge->keys);
}

/* --- Codes */

static uint64_t load_big(const uint8_t *at)
{
    return __builtin_bswap64(get_u64(at));
}

/* The key's bytes from `at` on: a column's, zeroes behind the end. */
static uint64_t column_at(struct span key, size_t at)
{
    if (at >= key.size) {
        return 0;
    }
    size_t left = key.size - at;
    if (left >= 8) {
        return load_big(key.data + at) >> 8;
    }
    if (key.size >= 8) { /* the last eight, without those before */
        return load_big(key.data + key.size - 8) << 8 * (8 - left) >> 8;
    }
    uint64_t bytes = 0;
    for (size_t i = 0; i < left; i++) {
        bytes |= (uint64_t)key.data[at + i] << 8 * (7 - i);
    }
    return bytes >> 8;
}

/* Where the two differ first, from `at` on, in the bytes that both have; else how many these are. */
static size_t first_difference(struct span a, struct span b, size_t at)
{
    size_t common = a.size < b.size ? a.size : b.size;
    for (; at + 8 <= common; at += 8) {
        uint64_t differ = get_u64(a.data + at) ^ get_u64(b.data + at);
        if (differ != 0) {
            return at + (size_t)__builtin_ctzll(differ) / 8;
        }
    }
    for (; at < common && a.data[at] == b.data[at]; at++) {
    }
    return at;
}

static uint64_t make_code(const struct merge *merge, size_t column, uint64_t value)
{
    return (uint64_t)(127 - column) << 56 | (merge->is_reverse ? value ^ COLUMN_MASK : value);
}

/* The key's code by the base, which is the same in the first `from` bytes. */
static uint64_t code_by(const struct merge *merge, struct span key, struct span base, size_t from)
{
    size_t at = first_difference(key, base, from);
    if (at == key.size ||
        at == base.size) { /* one begins with the other: zeroes don't tell them apart */
        struct span longer = key.size > base.size ? key : base;
        while (at < longer.size && longer.data[at] == 0) {
            at++;
        }
        if (at == longer.size) {
            return key.size == base.size ? CODE_EQUAL : make_code(merge, COLUMN_LENGTH, key.size);
        }
    }
    size_t column = at / COLUMN_BYTES;
    return make_code(merge, column, column_at(key, column * COLUMN_BYTES));
}

/* --- Matches */

/* Both rivals have the same code: I2. Whether `a` comes first; the other one's code is *code then. */
static bool play_equals(const struct merge *merge, uint32_t a, uint32_t b, uint64_t *code)
{
    struct span a_key = merge->keys[a], b_key = merge->keys[b];
    size_t column = 127 - (size_t)(*code >> 56), from = (column + 1) * COLUMN_BYTES;
    size_t least = a_key.size < b_key.size ? a_key.size : b_key.size;
    from = *code == CODE_EQUAL || from > least ? 0 : from;
    int order = span_compare(a_key, b_key);
    bool is_first = merge->is_reverse ? order > 0 : order < 0;
    *code = is_first ? code_by(merge, b_key, a_key, from) : code_by(merge, a_key, b_key, from);
    return is_first;
}

/* Plays the matches from the leaf of `who` upward. */
static void play(struct merge *merge, uint32_t who, uint64_t code)
{
    for (uint32_t at = (merge->count + who) / 2; at > 0; at /= 2) {
        struct merge_match *match = &merge->matches[at];
        uint64_t other_code = match->code;
        uint32_t other = match->who;
        if (other_code == code && code != CODE_END) {
            if (play_equals(merge, who, other, &other_code)) {
                match->code = other_code;
            } else {
                match->code = other_code;
                match->who = who;
                who = other;
            }
            continue;
        }
        /* Without a branch: nobody can foresee who wins. */
        bool is_first = code <= other_code;
        match->code = is_first ? other_code : code;
        match->who = is_first ? other : who;
        code = is_first ? code : other_code;
        who = is_first ? who : other;
    }
    merge->matches[0] = (struct merge_match){ code, who };
}

void merge_enter(struct merge *merge, uint32_t source, struct span key)
{
    CHECK(source < merge->count && key.size > 0 && key.size <= LIMIT_KEY_BYTES);
    merge->keys[source] = key;
}

/* The winner of what lies below node `at`; its code, by something that comes before all keys and
 * differs from each in its first column, into *code. */
static uint32_t make_tree(struct merge *merge, uint32_t at, uint64_t *code)
{
    if (at >= merge->count) {
        uint32_t who = at - merge->count;
        struct span key = merge->keys[who];
        *code = key.size == 0 ? CODE_END : make_code(merge, 0, column_at(key, 0));
        return who;
    }
    uint64_t codes[2];
    uint32_t whos[2] = { make_tree(merge, 2 * at, &codes[0]),
                         make_tree(merge, 2 * at + 1, &codes[1]) };
    unsigned winner = codes[1] < codes[0];
    uint64_t loser_code = codes[1 - winner];
    if (codes[0] == codes[1] && codes[0] != CODE_END) {
        winner = !play_equals(merge, whos[0], whos[1], &loser_code);
    }
    merge->matches[at] = (struct merge_match){ loser_code, whos[1 - winner] };
    *code = codes[winner];
    return whos[winner];
}

void merge_begin(struct merge *merge)
{
    uint64_t code;
    uint32_t who = make_tree(merge, 1, &code);
    merge->matches[0] = (struct merge_match){ code, who };
}

uint32_t merge_first(const struct merge *merge)
{
    return merge->matches[0].code == CODE_END ? MERGE_NONE : merge->matches[0].who;
}

struct span merge_key(const struct merge *merge, uint32_t source)
{
    return merge->keys[source];
}

void merge_next(struct merge *merge, struct span key)
{
    uint32_t who = merge->matches[0].who;
    uint64_t code = code_by(merge, key, merge->keys[who], 0);
    merge->keys[who] = key;
    play(merge, who, code);
}

void merge_end(struct merge *merge)
{
    play(merge, merge->matches[0].who, CODE_END);
}
