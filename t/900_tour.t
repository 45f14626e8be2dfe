#!/usr/bin/perl
# Shows that README stays true: runs the tour itself in a scratch folder, twice, compares the commands that README prints with those that were
# executed, then ends everything as `make stop` does and looks that nothing is left running.
use strict;
use warnings;
use Test::More;
use File::Temp qw(tempdir);
use Cairn::Cluster qw(run_command bin);

my $dir = tempdir('cairn-tour-XXXXXX', DIR => '/tmp') . '/t';
my $done;
END {
    if (!$done) {
        my $status = $?;
        run_command([bin('cairn'), 'dev', 'destroy', '--dir', $dir], timeout => 60);
        $? = $status;
    }
}

# A process that has ended but was not waited for by its parent does not run.
sub is_running {
    open my $in, '<', "/proc/$_[0]/stat" or return 0;
    return scalar(<$in>) !~ /\) Z /;
}

sub tour {
    my ($which) = @_;
    my ($exit, $out, $err) = run_command(['sh', 'mk/tour.sh', $dir], timeout => 180);
    is($exit, 0, "the $which tour succeeds") or diag $out, $err;
    return $out;
}

my $out = tour('first');
$out =~ s/\Q$dir\E/.cairn/g;

open my $in, '<', 'README.md' or die;
my ($section) = do { local $/; <$in> } =~ /^## Five minutes\n(.*?)^## /ms;
my @promised = $section =~ /^\$ (.*)$/mg;
cmp_ok(scalar @promised, '>=', 8, 'README shows commands');
my %executed = map { $_ => 1 } $out =~ /^\$ (.*)$/mg;
for my $command (@promised) {
    # Which node is the primary differs from run to run.
    my $found = $executed{$command} || grep { (my $any = $_) =~ s/\bn\d\b/n2/g; $any eq $command } keys %executed;
    ok($found, "README's `$command` was executed");
}
like($out, qr/^from the command line$/m, 'the put is read as a file');
like($out, qr/tour\/file\s*\|\s*from a file/, 'the file is read as a row');
like($out, qr/^from SQL$/m, 'the row is read by the command line');
like($out, qr/^written after its primary was killed$/m, 'the write after the kill is there');

tour('second');

my ($exit, $status) = run_command([bin('cairn'), 'dev', 'status', '--dir', $dir], timeout => 30);
is($exit, 0, 'dev status');
my @pids = $status =~ /pid (\d+)/g;
cmp_ok(scalar @pids, '>=', 5, 'three nodes, the mount and PostgreSQL are left running') or diag $status;

my $stopped;
($exit, $stopped) = run_command([bin('cairn'), 'dev', 'down', '--dir', $dir], timeout => 60);
is($exit, 0, 'make stop ends it') or diag $stopped;
is(scalar(grep { is_running($_) } @pids), 0, 'nothing is left running');
ok(-d "$dir/data/n1", 'the data stays');
($exit) = run_command([bin('cairn'), 'dev', 'destroy', '--dir', $dir], timeout => 60);
is($exit, 0, 'destroy');
ok(!-e $dir, 'and the data is gone');
$done = 1;

done_testing;
