#!/usr/bin/perl
# Shows that the command line, files and rows are doors to one keyspace, on three real nodes: what goes in by one comes out by all, bytes
# and awkward keys included; and that writes through the mount and SQL go on while nodes are killed, each acknowledged one being there
# afterwards from every door.
use strict;
use warnings;
use Test::More;
use Digest::MD5 qw(md5_hex);
use POSIX ();
use Cairn::Cluster qw(run_command wait_until bin);
use Cairn::Mount qw(read_bytes write_bytes names error_of);
use Cairn::Postgres;

plan skip_all => 'no /dev/fuse here' unless -e '/dev/fuse';

my $cluster = Cairn::Cluster->new(nodes => 3);
my $postgres = Cairn::Postgres->new(endpoints => $cluster->endpoints, options => "timeout '10s', commit_timeout '10s'");
my $mount = Cairn::Mount->new(source => $cluster->endpoints, options => 'timeout=10s');

sub get { my ($exit, $out) = $cluster->cairn('get', '--', @_); return $exit eq '0' ? $out : "exit $exit"; }
sub row { my ($key) = @_; return pack 'H*', $postgres->value('SELECT encode(value, \'hex\') FROM kvb WHERE key = ' . Cairn::Postgres::bytes($key)); }
sub insert { my ($key, $value) = @_; return $postgres->value("INSERT INTO kvb VALUES (" . Cairn::Postgres::bytes($key) . ', ' . Cairn::Postgres::bytes($value) . ')'); }
sub shown { my ($bytes) = @_; return length $bytes > 30 ? substr($bytes, 0, 10) . '… (' . length($bytes) . ' bytes)' : $bytes =~ s/([^ -~])/sprintf '\\x%02x', ord $1/ger; }

# --- 1 MiB of random bytes, in by each door, out by all
for my $door ('file', 'command line', 'row') {
    my $random = do { open my $f, '<:raw', '/dev/urandom' or die; local $/ = \(1 << 20); scalar <$f> };
    my $key = "random by $door";
    my $said = $door eq 'file' ? write_bytes($mount->path($key), $random)
        : $door eq 'row'       ? insert($key, $random) eq ''
        :                        ($cluster->cairn('put', $key, '-', { input => $random }))[0] eq '0';
    is($said, 1, "1 MiB of random bytes as $door");
    is(length get($key), 1 << 20, 'has its size');
    ok(get($key) eq $random, 'is read back equal by the command line');
    ok(read_bytes($mount->path($key)) eq $random, 'as a file');
    ok(row($key) eq $random, 'as a row');
    is($postgres->value("SELECT md5(value) FROM kvb WHERE key = '$key'"), md5_hex($random), 'and inside the database');
}

# --- Keys that make awkward file names, through all doors: key => path. (No process takes NUL in an argument.)
my $long = 'l' x 300;
my %keys = (
    'plain'           => 'plain',
    '..'              => '%2E%2E',
    'a/../b'          => 'a/%2E%2E/b',
    'slash/'          => 'slash/%E',
    '//'              => '%E/%E/%E',
    'with space/x y'  => 'with space/x y',
    '100%'            => '100%',
    '%00'             => '%2500',
    '%E'              => '%25E',
    "line\nfeed"      => "line\nfeed",
    "latin \xe9\xff"  => "latin \xe9\xff",
    "it's \\x"        => "it's \\x",
    $long             => ('l' x 253) . '%+/' . ('l' x 47),
    ('k' x 506) . '.' => ('k' x 253) . '%+/' . ('k' x 253) . '%+/%2E',
);
for my $key (sort keys %keys) {
    my $name = shown($key);
    is(($cluster->cairn('put', '--', $key, "put $name"))[0], 0, "put '$name'");
    is(read_bytes($mount->path($keys{$key})), "put $name", 'is a file');
    is(row($key), "put $name", 'and a row');
    is(write_bytes($mount->path($keys{$key}), "file $name"), 1, 'the file is changed');
    is(get($key), "file $name", 'so is the key');
    is(row($key), "file $name", 'and the row');
    $postgres->value('DELETE FROM kvb WHERE key = ' . Cairn::Postgres::bytes($key));
    is(get($key), 'exit 3', 'the row is deleted, so is the key');
    is(error_of(sub { open my $f, '<', $mount->path($keys{$key}) }), 'ENOENT', 'and the file');
    is(insert($key, "row $name"), '', 'inserted again as a row');
    is(read_bytes($mount->path($keys{$key})), "row $name", 'it is a file');
    is(get($key), "row $name", 'and a key');
}
my ($exit, $listed) = $cluster->cairn('ls', '-R', '-0');
is($exit, 0, 'all keys are listed');
my @listed = grep { !/^random by/ } split /\0/, $listed;
is_deeply(\@listed, [sort keys %keys], 'by the command line, in byte order');
is($postgres->value("SELECT string_agg(encode(key, 'hex'), ' ' ORDER BY key) FROM kvb WHERE key NOT BETWEEN 'random ' AND 'random z'"),
    join(' ', map { unpack 'H*', $_ } sort keys %keys), 'and by SQL');

# --- What no door takes
($exit, undef, my $err) = $cluster->cairn('put', '', 'x');
is($exit, 2, 'an empty key: exit 2');
like($postgres->value("INSERT INTO kvb VALUES ('', 'x')"), qr/22023/, '22023 by SQL');
($exit, undef, $err) = $cluster->cairn('put', 'k' x 512, 'x');
is($exit, 2, 'a key of 512 bytes: exit 2');
like($postgres->value("INSERT INTO kvb VALUES (repeat('k', 512)::bytea, 'x')"), qr/54000/, '54000 by SQL');
my $huge = 'x' x ((8 << 20) + 1);
($exit, undef, $err) = $cluster->cairn('put', 'huge', '-', { input => $huge });
is($exit, 1, 'a value that is one byte too large: exit 1');
like($err, qr/ERR_VALUE_TOO_LARGE/, 'with its name');
like($postgres->value("INSERT INTO kvb VALUES ('huge', repeat('x', (8 << 20) + 1)::bytea)"), qr/54000/, '54000 by SQL');
is(length get('huge'), length 'exit 3', 'and nothing is there');
like(write_bytes($mount->path('huge'), $huge), qr/File too large/, 'EFBIG by the mount, as by a file system: at the write that goes too far');
unlink $mount->path('huge');
$cluster->cairn('put', 'canary', 'alive');
is(get('canary'), 'alive', 'the daemons live');

# --- Nodes are killed while the mount and SQL write
my %writers;
my $folder = $cluster->folder;

# A child that writes one key after the other until it is told to stop, and notes each that was acknowledged.
sub start_writer {
    my ($name, $write) = @_;
    my $pid = fork // die;
    if ($pid == 0) {
        open my $notes, '>', "$folder/$name.notes" or POSIX::_exit(1);
        $notes->autoflush(1);
        for (my $i = 0; !-e "$folder/stop" && $i < 100000; $i++) {
            my $key = sprintf '%s/%06d', $name, $i;
            my $problem = $write->($key, "value of $key");
            print $notes $problem eq '' ? "ok $key\n" : "failed $key $problem\n";
        }
        POSIX::_exit(0);
    }
    $writers{$name} = $pid;
}

END {
    if (defined $folder && %writers) { kill 'KILL', values %writers; }
}

sub notes {
    my ($name) = @_;
    open my $file, '<', "$folder/$name.notes" or return;
    return <$file>;
}

mkdir $mount->path('mounted') or die "mkdir: $!";
start_writer('mounted', sub {
    my ($key, $value) = @_;
    my $said = write_bytes($mount->path($key), $value);
    return $said eq '1' ? '' : $said;
});
my $session;
start_writer('inserted', sub {
    my ($key, $value) = @_;
    $session //= $postgres->session;
    return $session->ask("INSERT INTO kv (key, value) VALUES ('$key', '$value')") =~ s/\n/ /gr;
});
sub ok_count { my ($name) = @_; return scalar grep { /^ok/ } notes($name); }
for my $victim ($cluster->nodes) {
    my %before = map { $_ => ok_count($_) } keys %writers;
    wait_until('writes before the kill', sub { !grep { ok_count($_) < $before{$_} + 30 } keys %writers });
    $cluster->kill9($victim);
    %before = map { $_ => ok_count($_) } keys %writers;
    wait_until("writes without node $victim", sub { !grep { ok_count($_) < $before{$_} + 60 } keys %writers });
    pass("files and rows are written while node $victim is dead");
    $cluster->start($victim);
    wait_until("node $victim to be back", sub {
        my ($done) = run_command([bin('cairn'), '--endpoints', $cluster->address($victim), '--timeout', '1s', 'get', 'canary']);
        return $done eq '0';
    });
}
open my $stop, '>', "$folder/stop" or die;    # no signal: it would interrupt a write, which then fails with EINTR
waitpid $_, 0 for values %writers;
for my $name (sort keys %writers) {
    delete $writers{$name};
    my @notes = notes($name);
    my %ok = map { /^ok (\S+)/ ? ($1 => 1) : () } @notes;
    my $count = keys %ok;
    is(join('', grep { !/^ok/ } @notes), '', "$count keys under $name/, none refused");

    my (undef, $keys) = $cluster->cairn('ls', '-R', "$name/");
    my %there = map { $_ => 1 } split /\n/, $keys;
    is(join(' ', grep { !$there{$_} } sort keys %ok), '', 'all are there by the command line');
    my (undef, $found) = run_command(['sh', '-c', 'cd "$1" && grep -r . "$2"', 'sh', $mount->root, $name]);
    %there = map { /^([^:]+):value of \1$/ ? ($1 => 1) : () } split /\n/, $found;
    is(join(' ', grep { !$there{$_} } sort keys %ok), '', 'as files with their values');
    my $rows = $postgres->value("SELECT key FROM kv WHERE key LIKE '$name/%' AND value = 'value of ' || key");
    %there = map { $_ => 1 } split /\n/, $rows;
    is(join(' ', grep { !$there{$_} } sort keys %ok), '', 'and as rows');
}

done_testing;
