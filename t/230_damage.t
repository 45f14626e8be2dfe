#!/usr/bin/perl
# Shows that damage on disk is told from what a crash leaves, and named: a flipped byte in the log, the identity, the topology or the store
# stops the node at its start with one line that says where, and nothing on disk is changed by the attempt; a torn tail is cut; a damaged
# value is an error to its reader only.
use strict;
use warnings;
use Test::More;
use Digest::MD5 qw(md5_hex);
use File::Path qw(remove_tree);
use Cairn::Cluster qw(run_command wait_until bin);

sub slurp { my ($path) = @_; open my $f, '<:raw', $path or return; local $/; return scalar <$f>; }

sub patch {
    my ($path, $offset, $bytes) = @_;
    open my $f, '+<:raw', $path or die "$path: $!";
    sysseek $f, $offset, 0;
    my $before;
    sysread $f, $before, length $bytes;
    sysseek $f, $offset, 0;
    syswrite $f, $bytes;
    close $f;
    return $before;
}

sub flip {
    my ($path, $offset) = @_;
    my $byte = substr slurp($path), $offset, 1;
    patch($path, $offset, chr(ord($byte) ^ 1));
}

# Every file's content, as a text to compare.
sub state_of {
    my ($folder) = @_;
    my ($exit, $out) = run_command(['sh', '-c', 'cd "$1" && find . -type f ! -name lock ! -name lock.mdb | sort | xargs -d "\n" md5sum', 'sh', $folder]);
    return $out;
}

# Starts a node that must refuse: it ends with 1, says a line that matches, and leaves its folder as it was.
sub refuses {
    my ($cluster, $n, $what, @patterns) = @_;
    my $before = state_of($cluster->folder($n));
    my $said = length $cluster->log_text($n);
    $cluster->start($n);
    is($cluster->reap($n, 20), 1, "$what: exit 1");
    my $text = substr $cluster->log_text($n), $said;
    my ($line) = $text =~ /^(.*error.*)$/m;
    like($line // $text, $_, 'with a line that says why') for @patterns;
    is(state_of($cluster->folder($n)), $before, 'and nothing on disk was touched');
    return $text;
}

# The last place of a text in the node's log files, `skip` bytes into it: (path, offset). Behind the header, each sector of 512 bytes has
# a tag of 8 at both ends, so a text may lie in two.
sub find_in_log {
    my ($folder, $text, $skip) = @_;
    for my $path (reverse sort glob "$folder/log/*.log") {
        my $content = join '', map { substr $_, 8, 496 } unpack 'x512 (a512)*', slurp($path);
        my $at = rindex $content, $text;
        next if $at < 0;
        $at += $skip // 0;
        return ($path, (1 + int($at / 496)) * 512 + 8 + $at % 496);
    }
    die "no '$text' in the log";
}

sub keys_of { my ($cluster) = @_; return (split /\n/, ($cluster->cairn('ls', '-R'))[1]); }

# Nodes that stand alone and are started often: no need to wait long for others.
my @fast = ('--election-timeout-ms', '200', '--heartbeat-ms', '50');

# --- The log
my $cluster = Cairn::Cluster->new(standalone => 1, args => [@fast, '--flush-idle-ms', '600000', '--partitions', '16']);
my $folder = $cluster->folder(1);
$cluster->cairn('mput', { input => join '', map { sprintf "key%04d\tvalue %04d %s\n", $_, $_, 'x' x 200 } 1 .. 1000 });
$cluster->cairn('put', "single$_", "single value $_ " . 'y' x 3000) for 1 .. 20;
$cluster->kill9(1);

my ($path, $at) = find_in_log($folder, 'value 0500', 2);
flip($path, $at);
my $segment = ($path =~ m{/0*([0-9a-f]+)\.log$})[0];
my $text = refuses($cluster, 1, 'a flipped byte in the middle of the log', qr/log damaged: segment 0*$segment offset \d+: /, qr/ERR_CORRUPT/);
my ($offset) = $text =~ /offset (\d+)/;
cmp_ok($offset // -1, '<=', $at, 'the offset is that of the batch');
cmp_ok($at - ($offset // 0), '<', 2 << 20, 'that holds the byte');
my ($exit, $out, $err) = run_command([bin('cairn'), 'inspect', $path]);
like("$out$err", qr/damage/i, 'cairn inspect finds it too');
is($exit, 1, 'with exit 1');
flip($path, $at);
$cluster->start(1);
$cluster->wait_ready;
is(scalar(keys_of($cluster)), 1020, 'with the byte put right, it starts and has everything');

# A torn tail: of the last batch only the first sectors arrived, or a sector's half.
for my $case (['zeroes behind its first sectors', 1536, "\0" x 65536], ['zeroes from the middle of a sector', 1536 + 256, "\0" x 65536], ['what an older segment holds at that place', 1024, undef]) {
    my ($name, $from, $bytes) = @$case;
    $cluster->cairn('put', 'before', "before $name");
    $cluster->cairn('put', 'tail', "tail of $name " . 'z' x 4000);
    $cluster->kill9(1);
    ($path, $at) = find_in_log($folder, "tail of $name");
    my $sector = $at - $at % 512;
    $bytes //= substr slurp((sort glob "$folder/log/*.log")[0]), $sector + $from, 2048;    # as in a file that is used again
    patch($path, $sector + $from, $bytes);
    $cluster->start(1);
    $cluster->wait_ready;
    is(($cluster->cairn('get', 'before'))[1], "before $name", "torn tail, $name: the write before is there");
    my ($status, $value) = $cluster->cairn('get', 'tail');
    unlike($value, qr/^tail of $name/, 'the torn one was cut');
    is(($cluster->cairn('put', 'tail', 'written again'))[0], 0, 'and can be written again');
}
$cluster->kill9(1);
$cluster->start(1);
$cluster->wait_ready;
is(($cluster->cairn('get', 'tail'))[1], 'written again', 'which another crash does not undo');
is(scalar(keys_of($cluster)), 1022, 'all other keys are there');
$cluster->kill9(1);

# A lost segment.
my ($current) = find_in_log($folder, 'written again');
rename $current, "$folder/kept" or die;
refuses($cluster, 1, 'a missing segment', qr/log damaged: .*(missing|no segment)|the log begins|the log ends/);
rename "$folder/kept", $current or die;

# --- Identity and topology
my $identity = slurp("$folder/identity");
flip("$folder/identity", length($identity) - 3);
refuses($cluster, 1, 'a flipped byte in the identity', qr{identity: checksum does not match \(ERR_CORRUPT\)});
flip("$folder/identity", length($identity) - 3);
flip("$folder/identity", 0);
refuses($cluster, 1, 'another magic', qr{identity: not such a file \(ERR_CORRUPT\)});
flip("$folder/identity", 0);
truncate "$folder/identity", 10;
refuses($cluster, 1, 'a short identity', qr{identity: .*\(ERR_CORRUPT\)});
truncate "$folder/identity", 0;
patch("$folder/identity", 0, $identity);
my $topology = slurp("$folder/topology");
flip("$folder/topology", 100);
refuses($cluster, 1, 'a flipped byte in the topology', qr{topology: checksum does not match \(ERR_CORRUPT\)});
flip("$folder/topology", 100);
patch("$folder/topology", 4, pack 'V', 77);
refuses($cluster, 1, 'a topology of a later build', qr{topology: format 77.*\(ERR_FORMAT\)});
patch("$folder/topology", 0, $topology);
$cluster->start(1);
$cluster->wait_ready;
is(scalar(keys_of($cluster)), 1022, 'with the files put right, it starts and has everything');
$cluster->stop(1);

# An identity that is gone: the data of this node must not be taken for another's.
rename "$folder/identity", "$folder.identity" or die;
refuses($cluster, 1, 'data without an identity', qr/its file identity is missing/);
rename "$folder.identity", "$folder/identity" or die;

# --- A value in the store
my $two = Cairn::Cluster->new(standalone => 1, args => [@fast, '--flush-idle-ms', '50', '--partitions', '16']);
my $data = $two->folder(1) . '/store/data.mdb';
my $marked = 'a value to be damaged, which stands in the map as it is';
$two->cairn('put', 'victim', $marked);
$two->cairn('put', 'other', 'whole');
wait_until('the value to be flushed', sub { index(slurp($data), $marked) >= 0 });
is($two->stop(1), 0, 'stopped');
$at = index slurp($data), $marked;
while ($at >= 0) { flip($data, $at + 5); $at = index slurp($data), $marked, $at + 1; }
$two->start(1);
$two->wait_ready;
($exit, $out, $err) = $two->cairn('get', 'victim');
is($exit, 1, 'a damaged value: exit 1');
like($err, qr/ERR_CORRUPT/, 'and its error');
is($out, '', 'nothing of it is shown');
($exit, $out, $err) = $two->cairn('scan');
like("$exit $err", qr/^1 .*ERR_CORRUPT/, 'a scan over it says so too');
($exit, $out) = $two->cairn('get', 'other');
is("$exit $out", '0 whole', 'other keys are read');
($exit, $out) = $two->cairn('mget', 'other', 'victim');
like($out, qr/^other\twhole$/m, 'also in one request with it');
isnt($exit, 0, 'which does not pass for success');
($exit, $out) = $two->cairn('-o', 'json', 'status', 'n1');
my ($failures) = $out =~ /store_checksum_failures"?\s*:\s*"?(\d+)/;
cmp_ok($failures // 0, '>=', 2, 'status counts them');
like($two->log_text(1), qr/error.*replica damaged group=\d+/, 'the log names the partition');
is(($two->cairn('put', 'victim', 'new'))[0], 0, 'the key can be written');
is(($two->cairn('get', 'victim'))[1], 'new', 'and is whole again');
is($two->stop(1), 0, 'the daemon lived through all this');

# --- The log of one of three
my $healing = Cairn::Cluster->new(nodes => 3, args => ['--partitions', '16', '--flush-idle-ms', '600000']);
$healing->wait_settled;
my $counter = sub {
    my ($n, $name) = @_;
    my ($exit, $out) = $healing->cairn('-o', 'json', 'status', "n$n");
    return ($out =~ /"$name"\s*:\s*"?(\d+)/)[0] // -1;
};
my $all = sub { return ($healing->cairn('scan'))[1]; };
$healing->cairn('mput', { input => join '', map { sprintf "key%04d\tpayload %04d %s\n", $_, $_, 'x' x 200 } 1 .. 1000 });
my $whole = $all->();
is(scalar(split /\n/, $whole), 1000, 'three nodes hold a thousand keys');
$healing->wait_settled;
$healing->kill9(2);
for my $n (100, 500, 900) {
    my ($path, $at) = find_in_log($healing->folder(2), sprintf('payload %04d', $n), 9);
    flip($path, $at);
}
$healing->start(2);
wait_until('the damaged entries to be given back', sub { $counter->(2, 'log_holes_filled') >= 3 }, 30);
is($counter->(2, 'log_holes_filled'), $counter->(2, 'log_holes'), 'flipped bits in three payloads: every hole was filled by a peer');
is($counter->(2, 'replicas_suspect'), 0, 'no replica is suspect for that');
like($healing->log_text(2), qr/event=log_hole group=\d+ index=\d+/, 'the log names the entries');
$healing->kill9(1);
is($all->(), $whole, 'without another node nothing is missing, and nothing is wrong');
$healing->start(1);
$healing->wait_ready;

# The head of the last batch: what it held nobody knows.
$healing->wait_settled;
$healing->cairn('put', "late$_", "late value $_") for 1 .. 50;
my $with_late = $all->();
$healing->kill9(3);
my ($late_path) = find_in_log($healing->folder(3), 'late value');
my $bytes = slurp($late_path);
my $number = hex(($late_path =~ m{([0-9a-f]+)\.log$})[0]);
my $last = 0;
for (my $i = 512; $i + 512 <= length $bytes; $i += 512) {
    $last = $i if substr($bytes, $i, 4) eq pack('V', $number) and substr($bytes, $i + 8, 4) eq 'CBT1';
}
flip($late_path, $last + 30);
$healing->start(3);
wait_until('the suspect replicas to heal', sub { $counter->(3, 'replicas_healed') > 0 and $counter->(3, 'replicas_suspect') == 0 }, 30);
like($healing->log_text(3), qr/event=log_headers_lost segment=0*\w+ offset=\d+/, 'a lost record header: the log says where');
like($healing->log_text(3), qr/event=replica_suspect group=\d+/, 'and whom it may concern');
$healing->wait_settled;
$healing->kill9(2);
is($all->(), $with_late, 'once healed, the node counts: without another one nothing is missing');
$healing->start(2);
$healing->wait_ready;
$healing->kill9(3);
$healing->start(3);
$healing->wait_ready;
is($all->(), $with_late, 'with everything');
$healing->stop($_) for $healing->nodes;

# --- A store and a log of others
my $stranger = $two->folder(1);
for my $part ('store', 'log') {
    rename "$folder/$part", "$folder.own-$part" or die;
    system('cp', '-r', "$stranger/$part", "$folder/$part") == 0 or die;
    refuses($cluster, 1, "the $part of another cluster", qr/another cluster|belongs to|other cluster|another node/, qr/ERR_CLUSTER_MISMATCH|ERR_CORRUPT/);
    remove_tree("$folder/$part");
    rename "$folder.own-$part", "$folder/$part" or die;
}
my $three = Cairn::Cluster->new(nodes => 3, args => ['--partitions', '16']);
is(($three->cairn('put', 'a', 'b'))[0], 0, 'three nodes');
is($three->stop($_), 0, "n$_ stops") for $three->nodes;
for my $part ('store', 'log') {
    my ($one, $other) = map { $three->folder($_) . "/$part" } 1, 2;
    rename $one, "$one.own" or die;
    system('cp', '-r', $other, $one) == 0 or die;
    refuses($three, 1, "the $part of another node of the cluster", qr/belongs to|another node/);
    remove_tree($one);
    rename "$one.own", $one or die;
}
$three->start($_) for $three->nodes;
$three->wait_ready;
is(($three->cairn('get', 'a'))[1], 'b', 'with their own they start');

$cluster->start(1);
$cluster->wait_ready;
is(scalar(keys_of($cluster)), 1022, 'so does the first');

done_testing;
