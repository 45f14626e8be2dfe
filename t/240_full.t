#!/usr/bin/perl
# Shows what a full store and a full disk do: writes are refused with an error that says which, reads and the daemon go on, nothing that was
# acknowledged is lost, also over a crash; deletes go on and make room, in a full store and on a full disk; both work again as soon as
# there is room, without a restart. The disk is a tmpfs of 220 MB that the node fills, and then something else.
use strict;
use warnings;
use Test::More;
use File::Temp qw(tempdir);
use Time::HiRes qw(sleep);
use Cairn::Cluster qw(run_command wait_until bin);

my @fast = ('--election-timeout-ms', '200', '--heartbeat-ms', '50', '--partitions', '16', '--flush-idle-ms', '100');
my $room;
my @clusters;

END {
    my $status = $?;
    $_->destroy for @clusters;
    if (defined $room) {
        system('umount', '-l', $room) if is_mounted();
        rmdir $room;
    }
    $? = $status;
}

sub is_mounted { open my $f, '<', '/proc/mounts' or die; return scalar grep { (split / /)[1] eq $room } <$f>; }

# Puts batches of values of a size until one is refused: (keys of acknowledged batches, exit, error). Bounded.
sub fill {
    my ($cluster, $prefix, $size, $batches_max) = @_;
    my @acknowledged;
    for my $batch (1 .. $batches_max) {
        my @keys = map { sprintf '%s/%04d-%03d', $prefix, $batch, $_ } 1 .. 200;
        my ($exit, undef, $err) = $cluster->cairn('--timeout', '2s', 'mput', { input => join '', map { "$_\t$_ " . 'x' x $size . "\n" } @keys });
        return (\@acknowledged, $exit, $err) if $exit ne '0';
        push @acknowledged, @keys;
    }
    return (\@acknowledged, 0, 'never full');
}

# The keys that are not there, with their values, of those that were acknowledged.
sub lost {
    my ($cluster, $prefix, $acknowledged, $size) = @_;
    my ($exit, $out, $err) = $cluster->cairn('scan', "$prefix/", { timeout => 60 });
    diag $err if $exit ne '0';
    my $want = 'x' x $size;
    my %there = map { my ($key, $value) = split /\t/; $value eq "$key $want" ? ($key => 1) : () } split /\n/, $out;
    return scalar grep { !$there{$_} } @$acknowledged;
}

sub put_works { my ($cluster) = @_; return ($cluster->cairn('--timeout', '1s', 'put', 'probe', 'x' x 20000))[0] eq '0'; }

# --- The store's size
my $small = Cairn::Cluster->new(standalone => 1, args => [@fast, '--map-bytes', '64MiB']);
push @clusters, $small;
my ($keys, $exit, $err) = fill($small, 'a', 10000, 60);
my $count = @$keys;
cmp_ok($count, '>', 2000, "a store of 64 MiB takes $count values of 10 kB");
is($exit, 5, 'then writes are refused: exit 5, nothing was applied');
like($err, qr/ERR_STORE_FULL/, 'as a full store');
like($err, qr/the store has reached its configured size/, 'in words');
is(lost($small, 'a', $keys, 10000), 0, 'all that was acknowledged is read');
($exit, undef, $err) = $small->cairn('put', 'one', 'x' x 20000);
like("$exit $err", qr/^5 .*ERR_STORE_FULL/, 'still full');
like(($small->cairn('status'))[1], qr/^n1 .* store full$/m, 'and cairn status says so');
$small->kill9(1);
$small->start(1);
$small->wait_ready;
is(lost($small, 'a', $keys, 10000), 0, 'all is there after a crash');
my @gone = splice @$keys, 0, 1000;
($exit, undef, $err) = $small->cairn('del', @gone);
is($exit, 0, 'keys can be deleted') or diag $err;
wait_until('writes to work again', sub { put_works($small) });
pass('and then writes work again');
is(lost($small, 'a', $keys, 10000), 0, 'what was not deleted stays');
is(lost($small, 'a', \@gone, 10000), 1000, 'what was deleted is gone');

# Filled and emptied again and again: pages come back.
for my $round (1 .. 3) {
    my ($more, $status, $text) = fill($small, "r$round", 10000, 60);
    like("$status $text", qr/^5 .*ERR_STORE_FULL/, "round $round: full after " . @$more . ' more');
    is(lost($small, "r$round", $more, 10000), 0, 'nothing lost');
    is(($small->cairn('del', '--prefix', "r$round/"))[0], 0, 'deleted');
    wait_until('writes to work again', sub { put_works($small) });
}
is($small->stop(1), 0, 'it stops in order');
$small->destroy;

# Values that take twice their size in pages: the map itself may become full while a flush runs.
my $tight = Cairn::Cluster->new(standalone => 1, args => [@fast, '--map-bytes', '32MiB', '--flush-bytes', '8MiB']);
push @clusters, $tight;
($keys, $exit, $err) = fill($tight, 'b', 4100, 60);
like("$exit $err", qr/^5 .*ERR_STORE_FULL/, 'a full map: the same error, after ' . @$keys . ' values');
is(lost($tight, 'b', $keys, 4100), 0, 'all that was acknowledged is read');
$tight->kill9(1);
$tight->start(1);
$tight->wait_ready;
is(lost($tight, 'b', $keys, 4100), 0, 'also after a crash');
is($tight->stop(1), 0, 'it stops in order');
$tight->start(1, '--map-bytes', '128MiB');
$tight->wait_ready;
wait_until('writes to work again', sub { put_works($tight) });
is(lost($tight, 'b', $keys, 4100), 0, 'with a larger map everything is there, and writes work');
$tight->destroy;

# --- The disk
sub eat {
    my ($file, $bytes) = @_;
    open my $out, '>>', $file or die;
    for (my $done = 0; $done < $bytes; $done += 65536) {
        syswrite($out, 'x' x 65536) // last;
    }
    close $out;
}

sub free_bytes { my ($kb) = `df -k --output=avail $room` =~ /(\d+)\s*\z/; return $kb * 1024; }

SKIP: {
    $room = tempdir('cairn-full-XXXXXX', DIR => '/tmp');
    skip 'no tmpfs can be mounted here', 12 unless system('mount', '-t', 'tmpfs', '-o', 'size=220m', 'cairn-test', $room) == 0;
    my $full = Cairn::Cluster->new(standalone => 1, folder => $room, args => [@fast, '--flush-bytes', '16MiB', '--reserve-bytes', '16MiB']);
    push @clusters, $full;
    wait_until('the reserve to be made', sub { -s "$room/n1/reserve" });

    # The node fills it: refused while there still is room for all that was admitted.
    eat("$room/ballast", 30 << 20);
    ($keys, $exit, $err) = fill($full, 'c', 10000, 200);
    $count = @$keys;
    cmp_ok($count, '>', 1000, "a disk of 190 MB takes $count values of 10 kB");
    is($exit, 5, 'then writes are refused: exit 5, nothing was applied');
    like($err, qr/ERR_DISK_FULL/, 'as a full disk');
    is(lost($full, 'c', $keys, 10000), 0, 'all that was acknowledged is read');
    unlike($full->log_text(1), qr/reserve_spent/, 'the reserve was not needed for that');
    my @first = splice @$keys, 0, 200;
    is(($full->cairn('del', @first))[0], 0, 'deletes go on');
    is(lost($full, 'c', \@first, 10000), 200, 'and what was deleted is gone');

    # Something else takes all that is left. Writes go on being refused, until the log or a flush needs room that isn't there: then the
    # reserve is given back. Deletes and reads never stop.
    eat("$room/ballast2", 300 << 20);
    cmp_ok(free_bytes(), '<', 1 << 20, 'not a megabyte is left');
    my @second = splice @$keys, 0, 600;
    for my $part (0 .. 5) {
        is(($full->cairn('--timeout', '5s', 'del', @second[$part * 100 .. $part * 100 + 99]))[0], 0, 'a hundred deletes');
    }
    ($exit, undef, $err) = $full->cairn('--timeout', '5s', 'put', 'one', 'x' x 20000);
    is(lost($full, 'c', $keys, 10000), 0, 'all that was not deleted is read');
    is(lost($full, 'c', \@second, 10000), 600, 'what was deleted is gone');

    # What deletes freed inside the store's file may be written again: until that is full, too, status shows no trouble.
    wait_until('cairn status to tell of the full disk', sub { fill($full, 'e', 10000, 60); ($full->cairn('status'))[1] =~ /^n1 .* disk full$/m });
    pass('the daemon lives, and cairn status says that the disk is full');

    # It starts there too.
    $full->kill9(1);
    $full->start(1);
    $full->wait_ready;
    is(lost($full, 'c', $keys, 10000), 0, 'all is there after a crash with a full disk');
    is(($full->cairn('--timeout', '5s', 'del', splice @$keys, 0, 100))[0], 0, 'and deletes go on');
    my ($more) = fill($full, 'd', 10000, 60);
    eat("$room/ballast3", 300 << 20);
    ok($full->is_running(1), 'it goes on living');
    is(lost($full, 'd', $more, 10000), 0, 'what deletes made room for, ' . @$more . ' more values, is read');

    like($full->log_text(1), qr/reserve_spent/, 'the reserve was given back for that');
    unlink "$room/ballast", "$room/ballast2", "$room/ballast3";
    wait_until('writes to work again', sub { put_works($full) });
    pass('with room again writes work, without a restart');
    wait_until('the reserve to be there again', sub { (-s "$room/n1/reserve" // 0) >= 4 << 20 });
    pass('and the reserve is made again');
    ok($full->is_running(1), 'of the same process');
    is(lost($full, 'c', $keys, 10000), 0, 'and all is there');
    is($full->stop(1), 0, 'it stops in order');
}

done_testing;
