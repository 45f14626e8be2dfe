# `cairn dev`: a cluster by its folder alone. up, status, kill, start, pause, resume, down and up again with the data, destroy; taken ports move
# on; a reused pid is never signalled; all nodes in one process; wrong use is told with exit 2.
use strict;
use warnings;
use lib 't/lib';
use Test::More;
use Cairn::Cluster qw(run_command free_ports bin);
use File::Temp qw(tempdir);

my $temp   = tempdir(CLEANUP => 1);
our $dir   = "$temp/one";
my ($base) = free_ports(1);
$base = 20000 + $base % 30000;
my @made = ($dir);

sub dev {
    my @words = @_;
    return run_command([ bin('cairn'), 'dev', @words, '--dir', $dir ], timeout => 120);
}

sub slurp {
    open my $file, '<', $_[0] or return '';
    local $/;
    return scalar <$file>;
}

END {
    my $status = $?;
    run_command([ bin('cairn'), 'dev', 'destroy', '--dir', $_ ], timeout => 120) for grep { -e "$_/state" } @made;
    $? = $status;
}

my ($exit, $out, $err) = dev('status');
is($exit, 3, 'no folder, no status');
like($err, qr/`cairn dev up` makes/, 'and it says what to do');

($exit, $out, $err) = dev('up', '--port-base', $base);
is($exit, 0, 'a cluster of three starts') or diag($out, $err);
my ($first) = slurp("$dir/state") =~ /^port-base = (\d+)/m;
like($out, qr/n3 +127\.0\.0\.1:@{[$first + 2]} +running/, 'it says what runs');
my ($endpoints) = slurp("$dir/env") =~ /CAIRN_ENDPOINTS='([^']*)'/;
is($endpoints, join(',', map { '127.0.0.1:' . ($first + $_) } 0 .. 2), 'the environment names all nodes');

sub cairn { return run_command([ bin('cairn'), '--endpoints', $endpoints, @_ ], timeout => 30); }
($exit) = cairn('put', 'dev/key', 'value');
is($exit, 0, 'it takes a key');

my ($pid) = slurp("$dir/run/n1.pid") =~ /^(\d+)/;
($exit) = dev('up');
is($exit, 0, 'up again does no harm');
like(slurp("$dir/run/n1.pid"), qr/^$pid /, 'and restarts nothing');
($exit, $out, $err) = dev('up', '--nodes', 5);
is($exit, 2, 'another number of nodes is refused');

($exit) = dev('kill', 'n2');
is($exit, 0, 'a node is killed');
($exit, $out) = dev('status');
like($out, qr/n2 .* stopped/, 'status sees it');
($exit, $out, $err) = dev('kill', '2');
is($exit, 3, 'killing it again: there is none');
($exit) = dev('start', '2');
is($exit, 0, 'it starts again');
($exit) = dev('pause', 'n3');
($exit, $out) = dev('status');
like($out, qr/n3 .* paused/, 'a paused node is seen as such');
($exit) = dev('resume', 'n3');
($exit, $out) = dev('status');
unlike($out, qr/paused|stopped/, 'all run');

# Pid files that name a process which is not ours: this test itself, with another start time.
my $saved = slurp("$dir/run/n3.pid");
for my $foreign ("$$ 1\n", "1 1\n", "garbage\n", "999999999 5\n", '') {
    open my $file, '>', "$dir/run/n3.pid" or die;
    print $file $foreign;
    close $file;
    ($exit) = dev('kill', 'n3');
    is($exit, 3, "pid file '" . ($foreign =~ s/\n//r) . "': nobody is signalled");
}
open my $file, '>', "$dir/run/n3.pid" or die;
print $file $saved;
close $file;

# A second cluster finds the ports taken.
{
    local $dir = "$temp/two";
    push @made, $dir;
    ($exit, $out, $err) = run_command([ bin('cairn'), 'dev', 'up', '--in-process', '--port-base', $first, '--dir', $dir ], timeout => 120);
    is($exit, 0, 'a second cluster starts, in one process') or diag($out, $err);
    like($out, qr/ports from $first are taken; using \d+/, 'its ports moved on, and it says so');
    my ($second) = slurp("$dir/env") =~ /CAIRN_ENDPOINTS='([^']*)'/;
    ($exit) = run_command([ bin('cairn'), '--endpoints', $second, 'put', 'a', 'b' ]);
    is($exit, 0, 'it takes a key');
    ($exit, $out, $err) = run_command([ bin('cairn'), 'dev', 'kill', 'n1', '--dir', $dir ]);
    like($err, qr/ERR_UNSUPPORTED/, 'one of its nodes can\'t be killed alone');
    ($exit) = run_command([ bin('cairn'), 'dev', 'destroy', '--dir', $dir ], timeout => 120);
    is($exit, 0, 'it is destroyed');
    ok(!-e $dir, 'nothing is left of it');
}

($exit) = dev('down');
is($exit, 0, 'down');
is(join(' ', glob "$dir/run/*"), '', 'nothing runs');
($exit, $out, $err) = dev('up');
is($exit, 0, 'up again') or diag($out, $err);
($exit, $out) = cairn('get', 'dev/key');
is($out, 'value', 'the data is there');

open my $own, '>', "$dir/my-notes" or die;
close $own;
($exit) = dev('destroy');
is($exit, 0, 'destroy');
ok(!-e "$dir/data", 'the data is gone');
ok(-e "$dir/my-notes", 'files that are not the cluster\'s stay');

for my $wrong ([], ['fly'], ['up', '--nodes', '0'], ['up', '--nodes', '10'], ['up', '--speed', '9'], ['kill'], ['up', 'n1'], ['down', '--mount'],
    ['up', '--port-base', 'x']) {
    ($exit, $out, $err) = dev(@$wrong);
    is($exit, 2, "dev @$wrong: exit 2");
}
done_testing();
