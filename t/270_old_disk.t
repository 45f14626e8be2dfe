#!/usr/bin/perl
# A node whose data folder is put back to an earlier state, as from a snapshot: it is told what it has forgotten, makes itself whole
# without an operator, says so, and no write that was acknowledged meanwhile is lost, whoever is gone afterwards.
use strict;
use warnings;
use Test::More;
use File::Path qw(remove_tree);
use Cairn::Cluster qw(wait_until);

my $cluster = Cairn::Cluster->new(nodes => 3, args => ['--partitions', '16', '--flush-idle-ms', '200']);
$cluster->wait_settled;

sub counter {
    my ($n, $name) = @_;
    my ($exit, $out) = $cluster->cairn('-o', 'json', 'status', "n$n");
    return ($out =~ /"$name"\s*:\s*"?(\d+)/)[0] // -1;
}

sub put_all {
    my ($round) = @_;
    my $input = join '', map { sprintf "key%03d\t%s %03d\n", $_, $round, $_ } 1 .. 200;
    is(($cluster->cairn('mput', { input => $input }))[0], 0, "writes: $round");
}

sub copy_folder {
    my ($from, $to) = @_;
    remove_tree($to);
    system('cp', '-a', $from, $to) == 0 or die "cp: $?";
}

my $folder = $cluster->folder(2);

# --- A snapshot of the same start: the others remember what it acknowledged since.
put_all('first');
$cluster->kill9(2);
copy_folder($folder, "$folder.image");
$cluster->start(2);
$cluster->wait_ready;
$cluster->wait_settled;
put_all('second');
my $second = ($cluster->cairn('scan'))[1];
$cluster->kill9(2);
copy_folder("$folder.image", $folder);
$cluster->start(2);
wait_until('the node to say that its disk is older', sub { counter(2, 'disks_older') > 0 }, 30);
wait_until('it to be whole', sub { counter(2, 'replicas_suspect') == 0 }, 60);
like($cluster->log_text(2), qr/this disk is older than the node's last start/, 'the log says it too');
$cluster->wait_settled;
$cluster->kill9(1);
is(($cluster->cairn('scan'))[1], $second, 'without another node nothing is missing: it counts for what it promised');
$cluster->start(1);
$cluster->wait_ready;

# --- A copy of a running node: its next start is known to nobody, but its promises are.
$cluster->wait_settled;
copy_folder($folder, "$folder.image");
put_all('third');
my $third = ($cluster->cairn('scan'))[1];
$cluster->kill9(2);
copy_folder("$folder.image", $folder);
$cluster->start(2);
wait_until('it to be told what it has forgotten', sub { counter(2, 'promises_recalled') > 0 }, 30);
is(counter(2, 'disks_older'), 0, 'its start was not one that the others know');
$cluster->wait_settled;
$cluster->kill9(3);
is(($cluster->cairn('scan'))[1], $third, 'nothing is missing');
$cluster->start(3);
$cluster->wait_ready;

# --- A restart that lost nothing is told nothing.
$cluster->kill9(2);
$cluster->start(2);
$cluster->wait_ready;
is(counter(2, 'disks_older') + counter(2, 'promises_recalled') + counter(2, 'replicas_suspect'), 0, 'an honest restart is believed');
is(($cluster->cairn('scan'))[1], $third, 'with everything');

remove_tree("$folder.image");
$cluster->stop($_) for $cluster->nodes;
done_testing;
