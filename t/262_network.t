#!/usr/bin/perl
# Shows that what concurrent clients see stays linearizable, and that they get on, while the network fails: each node in a network
# namespace of its own (t/lib/Cairn/Network.pm), packets between nodes vanish. A node that leads is cut off from the others while clients
# still reach it (it must not serve what is stale), hears but isn't heard, is heard but doesn't hear, two nodes that see each other only
# through the third, a link that flaps. FAULTS_SECONDS makes it longer (make faults).
use strict;
use warnings;
use Test::More;
use Time::HiRes qw(time sleep);
use Cairn::Network;
Cairn::Network->unshare_or_skip;
use JSON::PP qw(decode_json);
use Cairn::Cluster qw(run_command wait_until bin);
use Cairn::History;

my $network = Cairn::Network->new(3);
my $cluster = Cairn::Cluster->new(nodes => 3, network => $network, args => ['--insecure', '--partitions', '16']);
my $end = time + ($ENV{FAULTS_SECONDS} // 0);
$cluster->wait_settled;
my $history = Cairn::History->start($cluster, 'network');
my $victim = 0;

# The fault lasts until clients got on for so many operations; then it is healed, and primaries return.
sub under {
    my ($what, $fault, $operations) = @_;
    $victim = 1 + $victim % 3;
    my ($other, $third) = grep { $_ != $victim } 1 .. 3;
    $history->wait_progress(100);
    my $begin = time;
    $fault->($victim, $other, $third);
    $history->wait_progress($operations // 1000, 40);
    my $took = time - $begin;
    $network->heal;
    $cluster->wait_settled;
    ok(1, sprintf '%s: clients got on (%.1f s)', $what, $took);
}

# Whether a node knows that another one leads nothing.
sub is_deposed {
    my ($node, $witness) = @_;
    my ($exit, $out) = run_command([bin('cairn'), '--endpoints', $cluster->address($witness), 'partition', 'list', '-o', 'json']);
    return $exit eq '0' && !grep { ($_->{primary} // '') eq "n$node" } @{ decode_json($out) };
}

do {
    under('a node cut off from the others', sub {
        my ($node, $other) = @_;
        $network->cut($node);
        wait_until("n$node to be deposed", sub { is_deposed($node, $other) });
    });
    under('a node that hears and isn\'t heard', sub { $network->drop($_[0], $_) for @_[1, 2] });
    under('a node that is heard and doesn\'t hear', sub { $network->drop($_, $_[0]) for @_[1, 2] });
    under('two nodes that don\'t see each other', sub { $network->drop(@_[0, 1]); $network->drop(@_[1, 0]) });
    under('a link that flaps', sub {
        my ($node) = @_;
        for my $time (0.1, 0.3, 0.7, 0.2, 0.9) {
            $network->cut($node);
            sleep $time;
            $network->heal;
            sleep 0.2;
        }
    });
} while time < $end;
my $said = $history->stop;
cmp_ok($said->{ok}, '>', 1000, "$said->{operations} operations, $said->{unknown} with unknown outcome, gap $said->{gap_ms} ms");
is($history->verdict, '', 'the history is linearizable');
done_testing;
