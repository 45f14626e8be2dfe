#!/usr/bin/perl
# Shows that what concurrent clients see is linearizable while nodes are killed with kill -9, one after the other and all at once:
# eight clients on five keys (t/lib/history.c), their history judged by the simulator's checker. FAULTS_SECONDS makes it longer (make faults).
use strict;
use warnings;
use Test::More;
use Time::HiRes qw(time);
use Cairn::Cluster qw(wait_until);
use Cairn::History;

my $cluster = Cairn::Cluster->new(nodes => 3, args => ['--partitions', '16']);
my $end = time + ($ENV{FAULTS_SECONDS} // 0);
$cluster->wait_settled;
my $history = Cairn::History->start($cluster, 'kill');
my $kills = 0;
do {
    for my $victim (1 .. 3) {
        $history->wait_progress(200);
        $cluster->kill9($victim);
        $history->wait_progress(300);    # most of it after the failover
        $cluster->start($victim);
        $cluster->wait_settled;
        $kills++;
    }
    $history->wait_progress(200);
    $cluster->kill9($_) for $cluster->nodes;
    $cluster->start($_) for $cluster->nodes;
    $cluster->wait_settled;
    $kills += 3;
} while time < $end;
$history->wait_progress(200);
my $said = $history->stop;
cmp_ok($said->{ok}, '>', 500, "$kills kills: $said->{operations} operations, $said->{unknown} with unknown outcome");
is($history->verdict, '', 'the history is linearizable');
cmp_ok($said->{gap_ms}, '<', 10000, "the longest time without an acknowledged write was $said->{gap_ms} ms");
done_testing;
