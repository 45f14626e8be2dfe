#!/usr/bin/perl
# Shows what a full store and a full disk do: writes are refused with an error that says which, reads and the daemon go on, nothing that was
# acknowledged is lost, also over a crash; deletes make room in a full store; a full disk works again as soon as it has room, without
# a restart.
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
SKIP: {
    $room = tempdir('cairn-full-XXXXXX', DIR => '/tmp');
    skip 'no tmpfs can be mounted here', 12 unless system('mount', '-t', 'tmpfs', '-o', 'size=220m', 'cairn-test', $room) == 0;
    open my $ballast, '>', "$room/ballast" or die;
    print $ballast 'x' x 1048576 for 1 .. 60;
    close $ballast or die;
    my $full = Cairn::Cluster->new(standalone => 1, folder => $room, args => [@fast, '--flush-bytes', '16MiB']);
    push @clusters, $full;
    ($keys, $exit, $err) = fill($full, 'c', 10000, 200);
    $count = @$keys;
    cmp_ok($count, '>', 1000, "a disk of 160 MB takes $count values of 10 kB");
    is($exit, 5, 'then writes are refused: exit 5, nothing was applied');
    like($err, qr/ERR_DISK_FULL/, 'as a full disk');
    like($full->log_text(1), qr/warn .*(no room|No space)/i, 'the log says so');
    is(lost($full, 'c', $keys, 10000), 0, 'all that was acknowledged is read');
    ($exit) = $full->cairn('status', 'n1');
    is($exit, 0, 'the daemon lives');
    sleep 1;    # it tries again and again to write what it holds
    ok($full->is_running(1), 'and goes on living');
    $full->kill9(1);
    $full->start(1);
    $full->wait_ready;
    is(lost($full, 'c', $keys, 10000), 0, 'all is there after a crash with a full disk');
    ok($full->is_running(1), 'on which it started');
    unlink "$room/ballast" or die;
    wait_until('writes to work again', sub { put_works($full) });
    pass('with room again writes work, without a restart');
    ok($full->is_running(1), 'of the same process');
    is(lost($full, 'c', $keys, 10000), 0, 'and all is there');
    is($full->stop(1), 0, 'it stops in order');
}

done_testing;
