#!/usr/bin/perl
# Shows that a node whose disk gets a hundred times slower than the others' hands its primaries over within some seconds of load, gets none
# while it is slow, and gets them back when it has been well for a while, though nobody writes any more. The disk is slowed by a library
# preloaded into the daemon (t/lib/shim.c).
use strict;
use warnings;
use Test::More;
use JSON::PP qw(decode_json);
use Time::HiRes qw(time);
use Cairn::Cluster qw(wait_until);
use Cairn::History;

my $cluster = Cairn::Cluster->new(nodes => 3, shims => 1, args => ['--partitions', '16']);
$cluster->wait_settled;
my $history = Cairn::History->start($cluster, 'slow', timeout_ms => 10000);
$history->wait_progress(200);

# How many partitions n1 leads; undef while that can't be told of one of them.
sub led {
    my ($status, $out) = $cluster->cairn('partition', 'list', '-o', 'json');
    my $list = $status eq '0' ? eval { decode_json($out) } : undef;
    my @data = grep { $_->{group} } @{ $list // [] };
    return undef if !@data || grep { !$_->{primary} } @data;
    return scalar grep { $_->{primary} eq 'n1' } @data;
}

cmp_ok(led(), '>', 0, 'n1 leads some partitions');
my $begin = time;
$cluster->disk_delay(1, 0.4);
wait_until('n1 to lead nothing', sub { (led() // -1) == 0 }, 20);
ok(1, sprintf 'n1 has handed over %.1f s after its disk got slow', time - $begin);
like($cluster->log_text(1), qr/event=disk_slow/, 'and says why');
$history->wait_progress(300, 60);
is(led(), 0, 'it leads nothing while its disk is slow');
my $said = $history->stop;
$cluster->disk_delay(1, 0);
wait_until('n1 to lead again', sub { led() }, 120);
like($cluster->log_text(1), qr/event=disk_well/, 'n1 leads again now that its disk is well');
is($history->verdict, '', "the history of $said->{operations} operations is linearizable");
done_testing;
