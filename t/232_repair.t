#!/usr/bin/perl
# Shows that a node whose store is damaged on disk is repaired by the others while the cluster serves, and says so: one rotten record is
# found when it is needed, its partition alone is replaced by an image; a store that cannot be opened at all is moved aside and every
# partition comes back. What is read meanwhile and afterwards is right, also from the repaired node. A node without others says that
# nothing can repair it, and goes on with the rest.
use strict;
use warnings;
use Test::More;
use JSON::PP qw(decode_json);
use POSIX qw(WNOHANG);
use Cairn::Cluster qw(run_command wait_until bin);

sub slurp { my ($path) = @_; open my $f, '<:raw', $path or return ''; local $/; return scalar <$f>; }

sub overwrite {
    my ($path, $offset, $bytes) = @_;
    open my $f, '+<:raw', $path or die "$path: $!";
    sysseek $f, $offset, 0;
    syswrite $f, $bytes;
    close $f;
}

# Flips a bit wherever the text stands in a node's store.
sub damage_text {
    my ($path, $text) = @_;
    my ($content, $at, $count) = (slurp($path), -1, 0);
    while (($at = index $content, $text, $at + 1) >= 0) {
        overwrite($path, $at + 3, chr(ord(substr $content, $at + 3, 1) ^ 1));
        $count++;
    }
    return $count;
}

sub status {
    my ($cluster, $n) = @_;
    my ($exit, $out) = $cluster->cairn('-o', 'json', 'status', "n$n");
    my $status = $exit == 0 ? decode_json($out) : {};
    return $status->{nodes} ? $status->{nodes}[0] : $status;
}

sub counter { my ($cluster, $n, $name) = @_; return status($cluster, $n)->{counters}{$name} // 0; }

my @args = ('--partitions', '16', '--election-timeout-ms', '300', '--heartbeat-ms', '50', '--flush-idle-ms', '50');
my $cluster = Cairn::Cluster->new(nodes => 3, args => \@args);
my $rotten = 'a value whose copy on one disk is going to rot';
$cluster->cairn('mput', { input => join '', map { sprintf "key%04d\tvalue %04d %s\n", $_, $_, 'x' x 100 } 1 .. 2000 });
my ($exit, $version) = $cluster->cairn('put', 'victim', $rotten);
is($exit, 0, 'written');
chomp $version;
my $store = $cluster->folder(3) . '/store/data.mdb';
wait_until('the value to be flushed', sub { index(slurp($store), $rotten) >= 0 });

# --- One record
is($cluster->stop(3), 0, 'n3 stops');
cmp_ok(damage_text($store, $rotten), '>=', 1, 'and the record rots');
$cluster->start(3);
$cluster->wait_ready;
is(($cluster->cairn('put', '--if-version', $version, 'victim', 'written when it was there'))[0], 0, 'a write that has to look at it succeeds');
wait_until('n3 to be repaired', sub { counter($cluster, 3, 'replicas_repaired') >= 1 });
is(counter($cluster, 3, 'replicas_damaged'), 1, 'one replica was damaged');
is(counter($cluster, 3, 'images_received'), 1, 'and one image came for it');
is(counter($cluster, 3, 'replicas_in_repair'), 0, 'nothing is left to repair');
like($cluster->log_text(3), qr/warn.*the store is damaged.*\n(.*\n)*.*warn.*whole again/, 'the log tells both');

# --- One record that nobody looks at
my $forgotten = 'a value that nobody reads, so that only the scrub finds it rotten';
$cluster->cairn('put', 'forgotten', $forgotten);
wait_until('the value to be flushed', sub { index(slurp($store), $forgotten) >= 0 });
is($cluster->stop(3), 0, 'n3 stops');
cmp_ok(damage_text($store, $forgotten), '>=', 1, 'another record rots');
$cluster->start(3, '--scrub-interval-ms', '1000');
$cluster->wait_ready;
wait_until('the scrub to find it and n3 to be repaired', sub { counter($cluster, 3, 'replicas_repaired') >= 1 });
cmp_ok(counter($cluster, 3, 'scrub_failures'), '>=', 1, 'the scrub found it');
is($cluster->stop(3), 0, 'n3 stops');
$cluster->start(3, '--scrub-interval-ms', '1000');
$cluster->wait_ready;
wait_until('a whole round', sub { counter($cluster, 3, 'scrubs') >= 17 });
is(counter($cluster, 3, 'scrub_failures'), 0, 'all is fine now');
my $differed = 0;
$differed += counter($cluster, $_, 'digests_differed') for $cluster->nodes;
my $compared = 0;
$compared += counter($cluster, $_, 'digests_compared') for $cluster->nodes;
is($differed, 0, 'no replica differs from its primary');
cmp_ok($compared, '>', 0, 'and they were compared');

# --- All of it
is($cluster->stop(3), 0, 'n3 stops');
overwrite($store, 0, "\xa5" x 16384);
$cluster->start(3);
$cluster->wait_ready;
is(($cluster->cairn('put', 'later', 'while n3 is being repaired'))[0], 0, 'the cluster serves meanwhile');
wait_until('n3 to be whole', sub {
    my $status = status($cluster, 3);
    return $status->{groups} && @{ $status->{groups} } >= 16 && !grep { $_->{damaged} || $_->{applied_index} < $_->{commit_index} } @{ $status->{groups} };
});
like($cluster->log_text(3), qr/begins anew/, 'its log says what happened');
ok(-d $cluster->folder(3) . '/store.damaged-1', 'the damaged store was moved aside');
$cluster->stop(1);
my $out;
($exit, $out) = $cluster->cairn('--timeout', '20s', 'scan', '--limit', '5000', '--keys-only');
my $count = () = $out =~ /^key\d{4}/mg;
is("$exit $count", '0 2000', 'with n1 gone, n2 and n3 have every key');
is(($cluster->cairn('get', 'victim'))[1], 'written when it was there', 'and its newest value');
is($cluster->stop($_), 0, "n$_ stops") for 2, 3;

# --- What one replica alone has lost, with its checksums, count and digest in order, under a load that never ends
my $busy = Cairn::Cluster->new(nodes => 3, args => [@args[0 .. 5], '--flush-idle-ms', '200', '--scrub-interval-ms', '1000']);
$busy->cairn('put', 'lost', 'on n3 alone');
wait_until('the value to be flushed', sub { index(slurp($busy->folder(3) . '/store/data.mdb'), 'on n3 alone') >= 0 });
is($busy->stop(3), 0, 'n3 stops');
is(system(($ENV{BUILD} // 'build') . '/t/forget', $busy->folder(3) . '/store', 'lost'), 0, 'and forgets a record');
my $writer = fork // die;
if ($writer == 0) {
    open STDOUT, '>', '/dev/null';
    { no warnings; exec +($ENV{BUILD} // 'build') . '/t/writer', $busy->endpoints, 'load/', 2000000, 4, 20000; }
    exit 127;
}
my %flushes = map { $_ => counter($busy, $_, 'store_flushes') } 1, 2;
wait_until('the others to know no more what they held then', sub { !grep { counter($busy, $_, 'store_flushes') < $flushes{$_} + 12 } 1, 2 });
$busy->start(3);
$busy->wait_ready;
wait_until('its peers to find it and n3 to be repaired', sub { counter($busy, 3, 'replicas_repaired') >= 1 }, 60);
is(waitpid($writer, WNOHANG), 0, 'while the load went on');
kill 'TERM', $writer;
waitpid $writer, 0;
is(counter($busy, 3, 'scrub_failures'), 0, 'it could not see that by itself');
like($busy->log_text(3), qr/a majority of the replicas holds other content/, 'it was told');
is(counter($busy, $_, 'replicas_damaged'), 0, "n$_ was not blamed") for 1, 2;
is($busy->stop($_), 0, "n$_ stops") for 1, 2, 3;

# --- Alone
my $alone = Cairn::Cluster->new(standalone => 1, args => \@args);
($exit, $version) = $alone->cairn('put', 'victim', $rotten);
chomp $version;
$alone->cairn('put', "other$_", 'whole') for 1 .. 20;
$store = $alone->folder(1) . '/store/data.mdb';
wait_until('the value to be flushed', sub { index(slurp($store), $rotten) >= 0 });
is($alone->stop(1), 0, 'a node without others stops');
damage_text($store, $rotten);
$alone->start(1);
$alone->wait_ready;
my $err;
($exit, $out, $err) = $alone->cairn('--timeout', '5s', 'put', '--if-version', $version, 'victim', 'x');
isnt($exit, 0, 'a write that has to look at a rotten record fails');
like($err, qr/ERR_CORRUPT|ERR_UNKNOWN_OUTCOME/, 'with an error');
like($alone->log_text(1), qr/no other replica to repair it from/, 'the log says that nothing can repair it');
my $whole = grep { ($alone->cairn('get', "other$_"))[1] eq 'whole' } 1 .. 20;
cmp_ok($whole, '>=', 10, 'the keys of other partitions are there');
is($alone->stop(1), 0, 'and the daemon lived');

done_testing;
