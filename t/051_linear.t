#!/usr/bin/perl
# Shows that build/t/linear reads histories of real clients and judges them: good and bad ones, several files and keys, unknown outcomes,
# malformed lines. Writes small files and looks at output and exit status. (What the checker itself finds, self_test_linear.c shows.)
use strict;
use warnings;
use Test::More;
use File::Temp qw(tempdir);

my $build  = $ENV{BUILD} // 'build';
my $linear = "$build/t/linear";
die "$linear is not built: make $linear\n" unless -x $linear;
my $folder = tempdir(CLEANUP => 1);
my $files  = 0;

# Writes each text to a file; the exit status and the output of `linear` over all of them.
sub judge {
    my @paths;
    for my $text (@_) {
        my $path = "$folder/" . ++$files;
        open my $out, '>', $path or die "$path: $!";
        print $out $text;
        close $out;
        push @paths, $path;
    }
    my $output = `$linear @paths 2>&1`;
    return ($? >> 8, $output);
}

my $first = <<'END';
# two clients, two keys
c1 put    users/42 -       a 7 100 200 ok
c2 put    users/42 =7      b 9 210 300 ok
c2 put    users/43 absent  x 3 310 320 ok
c2 delete users/43 -       - 3 330 340 ok
c2 get    users/43 -       - - 350 360 absent
END

my ($status, $output) = judge($first, "c1 get users/42 - b 9 310 350 ok\n");
is $status, 0, 'a good history';
is $output, "linearizable: 2 keys, 6 operations\n", 'says so';

($status, $output) = judge($first, "c1 get users/42 - a 7 310 350 ok\n");
is $status, 1, 'a stale read in a second file';
like $output, qr/^key users\/42: 3 operations, no order explains the answer at 350$/m, 'the key and the place';
like $output, qr/^=> .*c1 get users\/42 - a 7/m, 'the operation';
like $output, qr/^not linearizable: 1 of 2 keys\n\z/m, 'the last line';

($status, $output) = judge($first, "c1 get users/42 - a 7 310 350 ok\nc1 put users/42 - c - 305 - unknown\n");
is $status, 1, 'an unknown write does not explain it';
($status, $output) = judge($first, "c1 put users/42 - c - 305 - unknown\nc1 get users/42 - c 11 310 350 ok\n");
is $status, 0, 'an unknown write that was seen happened';
($status, $output) = judge($first, "c1 put users/42 - c - 305 - nothing\nc1 get users/42 - c 11 310 350 ok\n");
is $status, 1, 'one that certainly did not happen is not seen';

for my $bad (
    ['c1 put k - a 1 2 1',             'nine fields'],
    ['c1 put k - a 1 2 1 ok',          'before the call'],
    ['c1 append k - a 1 1 2 ok',       'kind'],
    ['c1 put k =x a 1 1 2 ok',         'condition'],
    ['c1 put k - a x 1 2 ok',          'version'],
    ['c1 put k - a 1 1 - ok',          'without its time'],
    ['c1 put k - - 1 1 2 ok',          'value'],
    ['c1 put k - a 1 1 2 refused',     'without a condition'],
    ['c1 put k - a 1 1 2 perhaps',     'outcome'],
    ["c1 put k - a 1 1 2 ok\nc1 put k - a 2 3 4 ok", 'same value'],
) {
    ($status, $output) = judge("$bad->[0]\n");
    is $status, 2, "malformed: $bad->[0]";
    like $output, qr/$bad->[1]/, 'and the reason';
}

is system("$linear >/dev/null 2>&1") >> 8, 2, 'no file: usage';
is system("$linear $folder/absent >/dev/null 2>&1") >> 8, 2, 'an absent file';

done_testing;
