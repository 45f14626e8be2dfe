#!/usr/bin/perl
# Shows that a node whose store has no room for the images that it needs says so, hurts nobody, and becomes whole where there is room. A node
# of three loses its store, and comes back with a map (--map-bytes) that holds a part of what the others have: it takes the images that
# fit, gives up others on the way, counts that (images_without_room), and flushes what is written meanwhile. With the usual map it
# gets all that is missing.
use strict;
use warnings;
use Test::More;
use JSON::PP qw(decode_json);
use Cairn::Cluster qw(run_command wait_until);

use constant { VALUES => 240, VALUE_BYTES => 100_000 };

sub status {
    my ($cluster, $n) = @_;
    my ($exit, $out) = $cluster->cairn('-o', 'json', 'status', "n$n");
    my $status = $exit == 0 ? decode_json($out) : {};
    return $status->{nodes} ? $status->{nodes}[0] : $status;
}

sub counter { my ($cluster, $n, $name) = @_; return status($cluster, $n)->{counters}{$name} // 0; }

my $cluster = Cairn::Cluster->new(nodes => 3, args => ['--partitions', '16', '--election-timeout-ms', '500', '--heartbeat-ms', '50',
    '--flush-idle-ms', '50', '--flush-bytes', '1MiB', '--log-bytes', '2MiB']);
my $failed = 0;
for my $n (1 .. VALUES) {
    my ($exit) = $cluster->cairn('put', sprintf('key%04d', $n), '-', { input => chr(ord('a') + $n % 26) x VALUE_BYTES });
    $failed += $exit ne '0';
}
is($failed, 0, 'written');
is($cluster->stop(3), 0, 'n3 stops');
open my $file, '+<:raw', $cluster->folder(3) . '/store/data.mdb' or die $!;
syswrite $file, "\xa5" x 16384;
close $file;

$cluster->start(3, '--map-bytes', '8MiB');
$cluster->wait_ready;
wait_until('n3 to give an image up', sub { counter($cluster, 3, 'images_without_room') >= 1 });
wait_until('those begun before it to become whole', sub { counter($cluster, 3, 'images_received') >= 1 });
pass('others had room');
like($cluster->log_text(3), qr/given up with \d+ bytes: the store has no room for it/, 'the log tells');
my $flushes = counter($cluster, 3, 'store_flushes');
$failed = 0;
for my $n (1 .. 64) {
    my ($exit) = $cluster->cairn('put', "small$n", '-', { input => 'written meanwhile' });
    $failed += $exit ne '0';
}
is($failed, 0, 'small writes to all partitions succeed meanwhile');
wait_until('n3 to flush its part of them', sub { counter($cluster, 3, 'store_flushes') > $flushes });
unlike($cluster->log_text(3), qr/no room for a flush/, 'flushes have room');

is($cluster->stop(3), 0, 'n3 stops');
$cluster->start(3);
wait_until('n3 to be whole', sub {
    my $status = status($cluster, 3);
    return $status->{groups} && @{ $status->{groups} } >= 16 && !grep { $_->{damaged} || $_->{applied_index} < $_->{commit_index} } @{ $status->{groups} };
}, 60);
is(counter($cluster, 3, 'images_without_room'), 0, 'with a larger map nothing is given up');
$cluster->stop(1);
my ($exit, $out) = $cluster->cairn('--timeout', '20s', 'scan', '--limit', '1000', '--keys-only');
my $count = () = $out =~ /^(?:key\d{4}|small\d+)/mg;
is("$exit $count", '0 ' . (VALUES + 64), 'with n1 gone, n2 and n3 have every key');
is($cluster->stop($_), 0, "n$_ stops") for 2, 3;
done_testing;
