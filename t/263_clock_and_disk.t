#!/usr/bin/perl
# Shows that what concurrent clients see stays linearizable, and that they get on, while wall clocks jump by hours on one node and on all, and
# while a disk takes long for every write and sync. Both by a library preloaded into the daemons (t/lib/shim.c says what it models).
# FAULTS_SECONDS makes it longer (make faults).
use strict;
use warnings;
use Test::More;
use Time::Local qw(timegm);
use Time::HiRes qw(time);
use Cairn::Cluster qw(wait_until);
use Cairn::History;

my $cluster = Cairn::Cluster->new(nodes => 3, shims => 1, args => ['--partitions', '16', '--flush-idle-ms', '100']);
my $end = time + ($ENV{FAULTS_SECONDS} // 0);
$cluster->wait_settled;
my $history = Cairn::History->start($cluster, 'shim', timeout_ms => 10000);

sub under {
    my ($what, $operations) = @_;
    my $begin = time;
    $history->wait_progress($operations, 60);
    ok(1, sprintf '%s: clients got on (%d operations in %.1f s)', $what, $operations, time - $begin);
}

# How far a node's newest log line is off the test's clock, in seconds: proof that the clock is moved.
sub clock_error {
    my ($n) = @_;
    my ($y, $mon, $d, $h, $m, $s) = ($cluster->log_text($n) =~ /^(\d+)-(\d+)-(\d+)T(\d+):(\d+):(\d+)/mg)[-6 .. -1];
    return timegm($s, $m, $h, $d, $mon - 1, $y) - time;
}

do {
    $history->wait_progress(200);
    $cluster->clock_offset(1, 3 * 3600);
    under('the clock of n1 three hours ahead', 500);
    $cluster->clock_offset(1, -3 * 3600);
    under('then three hours behind', 500);
    $cluster->kill9(1);    # others go on from the times that it gave
    under('then n1 is killed', 500);
    $cluster->start(1);
    $cluster->wait_settled;
    cmp_ok(abs(clock_error(1) + 3 * 3600), '<', 600, 'it is three hours behind, as its log says');
    $cluster->clock_offset($_, -86400) for $cluster->nodes;
    under('all clocks a day behind', 500);
    $cluster->clock_offset($_, 0) for $cluster->nodes;
    under('all clocks right again', 500);

    $cluster->disk_delay(2, 0.1);
    under('the disk of n2 takes 100 ms for a sync', 500);
    $cluster->disk_delay($_, 0.1) for $cluster->nodes;
    under('all disks do', 100);
    $cluster->kill9(3);
    under('and n3 is killed meanwhile', 100);
    $cluster->disk_delay($_, 0) for $cluster->nodes;
    $cluster->start(3);
    $cluster->wait_settled;
    under('all disks quick again', 500);
} while time < $end;
my $said = $history->stop;
cmp_ok($said->{ok}, '>', 500, "$said->{operations} operations, $said->{unknown} with unknown outcome, gap $said->{gap_ms} ms");
is($history->verdict, '', 'the history is linearizable');
done_testing;
