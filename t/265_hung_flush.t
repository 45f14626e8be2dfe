#!/usr/bin/perl
# Shows that a node whose store's disk stands still while its log's is well hands its primaries over once its log is full for that, that all
# keys can be written meanwhile, and that it gets its primaries back when its disk is well again. A library preloaded into the daemon
# lets the store's syncs hang (t/lib/shim.c). The log is full at twice its least budget, 640 MiB: so values are large.
use strict;
use warnings;
use Test::More;
use JSON::PP qw(decode_json);
use Time::HiRes qw(time);
use Cairn::Cluster qw(wait_until);

use constant VALUE_BYTES => 8 << 20;
use constant PUTS_MAX    => 150;

my $cluster = Cairn::Cluster->new(nodes => 3, shims => 1, args => ['--partitions', '16', '--log-bytes', '64M']);
$cluster->wait_settled;

# How many partitions n1 leads; undef while that can't be told of one of them.
sub led {
    my ($status, $out) = $cluster->cairn('partition', 'list', '-o', 'json');
    my $list = $status eq '0' ? eval { decode_json($out) } : undef;
    my @data = grep { $_->{group} } @{ $list // [] };
    return undef if !@data || grep { !$_->{primary} } @data;
    return scalar grep { $_->{primary} eq 'n1' } @data;
}

my $value = 'x' x VALUE_BYTES;

# Few keys, so that the stores stay small.
sub put { return ($cluster->cairn('put', "large/$_[0]", '-', { input => $value }))[0] }

cmp_ok(led(), '>', 0, 'n1 leads some partitions');
$cluster->store_hangs(1, 1);
my ($puts, $full, $failed) = (0, 0, 0);
while (!$full && $puts < PUTS_MAX) {
    $failed += put($puts++ % 8) ne '0';
    $full = $cluster->log_text(1) =~ /event=flush_slow/;
}
ok($full, sprintf 'n1 says that its flush hangs, after %d MiB', $puts * VALUE_BYTES >> 20);
wait_until('n1 to lead nothing', sub { (led() // -1) == 0 }, 20);
my $begin = time;
$failed += put($_) ne '0' for 0 .. 3;
ok(1, sprintf '32 MiB more were written while it hangs, in %.1f s', time - $begin);
is($failed, 0, 'no put has failed');
is(led(), 0, 'n1 leads nothing');
like(($cluster->cairn('status'))[1], qr/^n1 .* slow flushes$/m, 'cairn status says why');
$cluster->store_hangs(1, 0);
wait_until('n1 to lead again', sub { led() }, 120);
like($cluster->log_text(1), qr/event=flush_well/, 'n1 leads again now that its disk is well');
done_testing;
