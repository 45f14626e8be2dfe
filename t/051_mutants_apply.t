#!/usr/bin/perl
# Shows that every planted bug of t/sim/mutants still applies to the sources: what a patch replaces stands there, exactly once. Whether
# the simulator finds them is `make mutants`'s business, which takes long. Also: a patch that does not apply is noticed.
use strict;
use warnings;
use File::Temp qw(tempdir);
use Test::More;

sub check {
    my ($folder) = @_;
    my @lines = `t/sim/mutants/run.pl --check --dir $folder 2>&1`;
    return ($? >> 8, @lines);
}

my ($status, @lines) = check('t/sim/mutants');
for (@lines) {
    ok !/^not/, $1 if /^(?:not )?ok \d+ - (.*)/;
    diag $_ if /^#/;
}
is $status, 0, 'all apply';
cmp_ok scalar(grep { /^ok/ } @lines), '>=', 40, 'and they are at least 40';

my $folder = tempdir(CLEANUP => 1);
open my $out, '>', "$folder/001-stale.patch" or die $!;
print {$out} <<'END';
# bug: none
# row: none
# effect: none
--- a/src/raft/raft.c
+++ b/src/raft/raft.c
@@ -1,1 +1,1 @@
-a line that is nowhere
+another
END
close $out;
($status, @lines) = check($folder);
is $status, 1, 'a patch whose text is gone is refused';
like join('', @lines), qr/^not ok 1/m, 'and named';

done_testing;
