#!/usr/bin/perl
# Shows that nodes give back what a load made them take: 200,000 keys of 256 bytes make each node's overlay, caches and LMDB's page
# lists grow beyond 64 MiB of anonymous memory; once all is flushed and nothing more is written, each is below that again.
use strict;
use warnings;
use Test::More;
use Cairn::Cluster qw(wait_until);

use constant MIB => 1024 * 1024;

my $cluster = Cairn::Cluster->new(nodes => 3);

sub anonymous {
    my ($n) = @_;
    open my $in, '<', '/proc/' . $cluster->pid($n) . '/status' or die "status of node $n: $!";
    my ($kib) = join('', <$in>) =~ /^RssAnon:\s+(\d+)/m or die 'no RssAnon';
    return $kib * 1024;
}

my ($exit, undef, $err) = $cluster->cairn(qw(bench --preload --keys 200000 --clients 20 --duration 100ms --warmup 0s));
is $exit, 0, 'loaded' or diag $err;
cmp_ok anonymous($_), '>', 64 * MIB, "node $_ took memory for it" for $cluster->nodes;
for my $n ($cluster->nodes) {
    ok wait_until("node $n to give it back", sub { anonymous($n) <= 64 * MIB }, 120), "node $n gave it back";
}

done_testing;
