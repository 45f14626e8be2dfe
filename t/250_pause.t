#!/usr/bin/perl
# Shows that a primary that stands still (SIGSTOP: a machine that hangs, a debugger, a suspended guest) is replaced, that writes go on,
# and that it answers nothing stale when it wakes: what was written meanwhile is read through it. Beside that, concurrent clients, some
# of them through the sleeper, record a history over all pauses and wakings, which must be linearizable.
use strict;
use warnings;
use Test::More;
use Time::HiRes qw(time sleep);
use Cairn::Cluster qw(run_command wait_until bin);
use Cairn::History;

my $cluster = Cairn::Cluster->new(nodes => 3, args => ['--partitions', '16']);

# cairn with one node as its only endpoint.
sub through {
    my ($n, @args) = @_;
    return run_command([bin('cairn'), '--endpoints', $cluster->address($n), @args]);
}

# Keys that a node leads.
sub keys_led_by {
    my ($n, $count) = @_;
    my @keys;
    for (my $i = 0; @keys < $count && $i < 500; $i++) {
        push @keys, "key$i" if $cluster->primary_of("key$i") == $n;
    }
    return @keys;
}

$cluster->wait_settled;
my $history = Cairn::History->start($cluster, 'pause');
for my $round (1 .. 2) {
    $cluster->wait_settled;
    my $sleeper = $round;
    my @keys = keys_led_by($sleeper, 5);
    is(scalar(@keys), 5, "round $round: five keys led by n$sleeper");
    $cluster->cairn('put', $_, "old $round") for @keys;

    $cluster->pause($sleeper);
    my $asleep = time;
    my @others = grep { $_ != $sleeper } $cluster->nodes;
    for my $key (@keys) {
        my ($exit, $out, $err) = run_command([bin('cairn'), '--endpoints', join(',', map { $cluster->address($_) } @others), 'put', $key, "new $round"]);
        is($exit, 0, "$key is written while its primary sleeps") or diag $err;
    }
    my $took = time - $asleep;
    cmp_ok($took, '<', 3, sprintf 'writes went on after %.1f s', $took);
    # A client that has only the sleeper as its endpoint gets an error in time, not an old value.
    my ($exit, $out) = through($sleeper, '--timeout', '500ms', 'get', $keys[0]);
    is("$exit $out", '5 ', 'who asks only the sleeper hears that it is not there');
    my $left = 3 - (time - $asleep);
    sleep $left if $left > 0;

    # Clients wait at its door before it wakes: they are among the first things that it sees.
    my @readers;
    for my $i (0 .. $#keys) {
        pipe my $in, my $outlet or die;
        my $pid = fork // die;
        if ($pid == 0) {
            my ($code, $value) = through($sleeper, '--timeout', '10s', 'get', $keys[$i]);
            print $outlet "$code $value";
            close $outlet;
            POSIX::_exit(0);
        }
        close $outlet;
        push @readers, [$pid, $in, $keys[$i]];
    }
    sleep 0.3;
    $cluster->resume($sleeper);
    for my $reader (@readers) {
        my ($pid, $in, $key) = @$reader;
        my $said = do { local $/; <$in> };
        waitpid $pid, 0;
        is($said, "0 new $round", "a read of $key that waited in the woken node sees the new value");
    }
    my $stale = 0;
    for (1 .. 5) {
        for my $key (@keys) {
            my ($code, $value) = through($sleeper, 'get', $key);
            $stale++ if "$code $value" ne "0 new $round";
        }
    }
    is($stale, 0, 'nor does any later one see an old value');
    is((through($sleeper, 'put', $keys[0], "again $round"))[0], 0, 'a write through the woken node succeeds');
    is(($cluster->cairn('get', $keys[0]))[1], "again $round", 'and is everybody\'s');
    wait_until("n$sleeper to lead again", sub { $cluster->primary_of($keys[1]) == $sleeper });
    pass('leadership comes back to it');
}

# Short naps: the primary wakes about when it is deposed, with requests in its sockets.
for my $nap (1 .. 6) {
    my $sleeper = 1 + $nap % 3;
    $history->wait_progress(100);
    $cluster->pause($sleeper);
    sleep 0.5 + 0.1 * $nap;
    $cluster->resume($sleeper);
}
$history->wait_progress(200);
my $said = $history->stop;
cmp_ok($said->{ok}, '>', 500, "clients went on: $said->{operations} operations, $said->{unknown} with unknown outcome");
is($history->verdict, '', 'what they saw is linearizable');

# All but one, for a moment: nothing is acknowledged, and nothing breaks.
$cluster->pause($_) for 2, 3;
my ($exit) = through(1, '--timeout', '1s', 'put', 'alone', 'x');
like($exit, qr/^[56]$/, "one node awake acknowledges nothing (exit $exit)");
($exit) = through(1, '--timeout', '1s', 'get', 'key0');
is($exit, 5, 'and reads nothing that might be old');
$cluster->resume($_) for 2, 3;
$cluster->wait_ready;
is(($cluster->cairn('put', 'alone', 'y'))[0], 0, 'when they wake, writes go on');
is(($cluster->cairn('get', 'alone'))[1], 'y', 'and the last one stands');

done_testing;
