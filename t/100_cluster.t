#!/usr/bin/perl
# Shows how clusters begin, end and begin again: standalone, options from the environment alone, data that stays over restarts, primaries
# that return to their preferred nodes, and starts that are refused: another cluster's data, a node that lost its disk, a folder in
# use, an address that is not loopback.
use strict;
use warnings;
use Test::More;
use File::Path qw(remove_tree);
use File::Temp qw(tempdir);
use JSON::PP;
use Cairn::Cluster qw(run_command wait_until free_ports bin);

# Standalone: the same code with one node.
my $one = Cairn::Cluster->new(standalone => 1);
my ($exit, $out, $err) = $one->cairn('put', 'a', 'standalone');
is($exit, 0, 'standalone: put') or diag $err;
is($one->stop(1), 0, 'SIGTERM: exit 0');
$one->start(1);
$one->wait_ready;
($exit, $out) = $one->cairn('get', 'a');
is($out, 'standalone', 'the data is there after a restart');
$one->kill9(1);
$one->start(1);
$one->wait_ready;
($exit, $out) = $one->cairn('get', 'a');
is($out, 'standalone', 'and after kill -9');

($exit, $out, $err) = run_command([bin('cairnd'), '--name', 'n1', '--data', $one->folder(1), '--listen', '127.0.0.1:0', '--standalone'], timeout => 10);
is($exit, 1, 'a folder that is in use: exit 1');
like($err, qr/in use|lock|ERR_BUSY/i, 'with a clear word') or diag $err;

# Three nodes by environment variables alone.
my @ports = free_ports(3);
my $folder = tempdir(CLEANUP => 1);
my $list = join ',', map { "n$_=127.0.0.1:$ports[$_ - 1]" } 1 .. 3;
my %pids;
sub start_by_environment {
    my ($n, %more) = @_;
    my $pid = fork // die;
    if ($pid == 0) {
        open STDERR, '>>', "$folder/n$n.log";
        %ENV = (PATH => $ENV{PATH}, CAIRN_NAME => "n$n", CAIRN_DATA => "$folder/n$n", CAIRN_LISTEN => "127.0.0.1:$ports[$n - 1]",
            CAIRN_BOOTSTRAP => $list, CAIRN_PARTITIONS => 16, %more);
        { no warnings; exec bin('cairnd'); }
        POSIX::_exit(127);
    }
    return $pid;
}
sub slurp { open my $in, '<', $_[0] or return ''; local $/; return scalar <$in> // '' }
my $endpoints = join ',', map { "127.0.0.1:$_" } @ports;
sub cairn { return run_command([bin('cairn'), '--endpoints', $endpoints, @_]) }
END { kill 'KILL', values %pids if %pids; }

$pids{$_} = start_by_environment($_) for 1 .. 2;
sleep 1;
($exit, $out, $err) = run_command([bin('cairn'), '--endpoints', "127.0.0.1:$ports[0]", '--timeout', '1s', 'put', 'a', 'b']);
is($exit, 5, 'before all first nodes were heard the cluster serves nothing: exit 5') or diag $err;
$pids{3} = start_by_environment(3);
wait_until('the cluster', sub { (cairn('--timeout', '1s', 'put', 'a', 'b'))[0] eq '0' });
pass('three nodes from the environment alone');

sub leaders {
    my ($exit, $out) = cairn('status', '-o', 'json');
    return () if $exit;
    my $status = eval { decode_json($out) } or return ();
    return map { $_->{name} => scalar grep { $_->{role} eq 'leader' && $_->{group} != 0 } @{ $_->{groups} // [] } } @{ $status->{nodes} // [] };
}
wait_until('primaries to be at their preferred nodes', sub { Cairn::Cluster::is_settled($endpoints) }, 60);
my %spread;
wait_until('the nodes to say so', sub { %spread = leaders(); join(',', sort { $a <=> $b } values %spread) eq '5,5,6' }, 20);
is(join(',', sort { $a <=> $b } values %spread), '5,5,6', 'sixteen primaries on three nodes: 5, 5, 6');
kill 'TERM', $pids{2};
waitpid $pids{2}, 0;
is($? >> 8, 0, 'a node stops in order');
($exit) = cairn('put', 'while/n2/is/down', 'x');
is($exit, 0, 'writes go on without it');
$pids{2} = start_by_environment(2);
my %again;
wait_until('primaries to return', sub { %again = leaders(); %again && join(',', map { "$_=$again{$_}" } sort keys %again) eq join(',', map { "$_=$spread{$_}" } sort keys %spread) }, 60);
is_deeply(\%again, \%spread, 'primaries return to their preferred node after a restart');

# A node that lost its disk may not vote under its old name.
kill 'TERM', $pids{3};
waitpid $pids{3}, 0;
remove_tree("$folder/n3");
$pids{3} = start_by_environment(3);
waitpid $pids{3}, 0;
is($? >> 8, 1, 'a node whose data is gone stops: exit 1');
delete $pids{3};
like(slurp("$folder/n3.log"), qr/formed with another node of the name n3/, 'and says why');
($exit, $out) = cairn('get', 'while/n2/is/down');
is("$exit $out", '0 x', 'the others go on');

# Another cluster's data.
kill 'TERM', values %pids;
waitpid $_, 0 for values %pids;
%pids = ();
($exit, $out, $err) = run_command([bin('cairnd'), '--name', 'n9', '--data', "$folder/n1", '--listen', '127.0.0.1:0', '--standalone'], timeout => 10);
is($exit, 1, 'data of another node: exit 1') or diag $err;

($exit, $out, $err) = run_command([bin('cairnd'), '--name', 'n1', '--data', "$folder/x", '--listen', '0.0.0.0:0', '--standalone'], timeout => 10);
is($exit, 2, 'an address that is not loopback: exit 2');
like($err, qr/--insecure/, 'and it names the option that allows it');
($exit, $out, $err) = run_command([bin('cairnd'), '--bootstrap', 'n1'], timeout => 10);
is($exit, 2, 'a malformed list: exit 2');
($exit, $out) = run_command([bin('cairnd'), '--help'], timeout => 10);
is($exit, 0, '--help');
like($out, qr/--bootstrap/, 'names the options');

done_testing;
