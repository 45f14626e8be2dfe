#!/usr/bin/perl
# Shows what each door says when all nodes are gone: its documented error, within its timeout, never a hang; also when the nodes are
# there but answer nothing. When they are back, mount and SQL sessions work again by themselves.
use strict;
use warnings;
use Test::More;
use Fcntl;
use IO::Handle;
use Time::HiRes qw(time sleep);
use Cairn::Cluster qw(run_command wait_until bin);
use Cairn::Mount qw(read_bytes write_bytes names error_of);
use Cairn::Postgres;

plan skip_all => 'no /dev/fuse here' unless -e '/dev/fuse';

my $cluster = Cairn::Cluster->new(nodes => 3);
my $postgres = Cairn::Postgres->new(endpoints => $cluster->endpoints, options => "timeout '500ms', commit_timeout '500ms'");
my $mount = Cairn::Mount->new(source => $cluster->endpoints, options => 'timeout=500ms');
my $session = $postgres->session;

# Runs the code; it must be done within the timeout of 500 ms, and some more for a loaded machine.
sub in_time {
    my ($what, $code) = @_;
    my $start = time;
    my @said = $code->();
    my $took = time - $start;
    cmp_ok($took, '<', 5, sprintf '%s: answered after %.1f s', $what, $took);
    return wantarray ? @said : $said[0];
}

sub all_work {
    my ($when) = @_;
    my ($exit, undef, $err) = $cluster->cairn('put', 'a', $when);
    is($exit, 0, "$when: a put") or diag $err;
    is(read_bytes($mount->path('a')), $when, 'is a file');
    is($session->ask("SELECT value FROM kv WHERE key = 'a'"), "$when\n", 'and a row for a session that was there before');
    is(write_bytes($mount->path('b'), $when), 1, 'a file is written');
    is($session->ask("UPDATE kv SET value = value || '!' WHERE key = 'b'"), '', 'changed as a row');
    is(($cluster->cairn('get', 'b'))[1], "$when!", 'and read');
}

my @commands = (
    ['get', 'a'], ['put', 'a', 'x'], ['put', '--if-absent', 'n', 'x'], ['del', 'a'], ['ls'], ['scan', 'a'], ['mget', 'a' .. 'z'],
    ['mput', { input => join '', map { "$_\tx\n" } 'a' .. 'z' }], ['locate', 'a'], ['status'], ['node', 'list'], ['partition', 'list'], ['topology', 'show'],
);

sub all_refuse {
    for my $command (@commands) {
        my @words = grep { !ref } @$command;
        my @options = grep { ref } @$command;
        my ($exit, undef, $err) = in_time("cairn @words", sub { $cluster->cairn('--timeout', '500ms', @words, { timeout => 20, %{ $options[0] // {} } }) });
        is($exit, 5, 'exit 5');
        like($err, qr/ERR_(CONNECT|UNAVAILABLE|TIMEOUT|UNKNOWN_OUTCOME)/, 'with the error\'s name');
    }
    for my $statement ("SELECT value FROM kv WHERE key = 'a'", "SELECT count(*) FROM kv", "SELECT * FROM kv WHERE key IN ('a', 'b')",
        "INSERT INTO kv (key, value) VALUES ('i', 'x')", "UPDATE kv SET value = 'x' WHERE key = 'a'", "DELETE FROM kv WHERE key = 'a'") {
        like(in_time("old session: $statement", sub { $session->ask($statement) }), qr/^ERROR:  08\w\w\w:/m, 'SQLSTATE 08…');
    }
    like(in_time('a new session', sub { $postgres->value('SELECT count(*) FROM kv') }), qr/ERROR:  08\w\w\w:/, 'SQLSTATE 08…');
    is($session->ask('SELECT 1 + 1'), "2\n", 'the session lives');
    my %operations = (
        open   => sub { open my $f, '<', $mount->path('a') },
        stat   => sub { my @s = stat $mount->path('b'); @s > 0 },
        list   => sub { opendir my $d, $mount->root or return 0; $! = 0; my @all = readdir $d; !$! },
        create => sub { write_bytes($mount->path('new'), 'x') eq '1' },
        unlink => sub { unlink $mount->path('a') },
        mkdir  => sub { mkdir $mount->path('folder') },
        rename => sub { rename $mount->path('a'), $mount->path('c') },
    );
    for my $name (sort keys %operations) {
        is(in_time("mount: $name", sub { error_of($operations{$name}) }), 'EIO', 'EIO');
    }
}

all_work('at first');

# --- Gone
$session->ask('BEGIN');
$session->ask("INSERT INTO kv (key, value) VALUES ('buffered', 'x')");
$cluster->kill9($_) for $cluster->nodes;
like(in_time('COMMIT of buffered rows', sub { $session->ask('COMMIT') }), qr/^ERROR:  08\w\w\w:/m, 'SQLSTATE 08…');
all_refuse();
$cluster->start($_) for $cluster->nodes;
$cluster->wait_ready;
is(($cluster->cairn('get', 'buffered'))[0], 3, 'the refused commit left nothing');
all_work('after a restart of all');

# --- There, but dumb
$cluster->pause($_) for $cluster->nodes;
my ($exit, undef, $err) = in_time('cairn get', sub { $cluster->cairn('--timeout', '500ms', 'get', 'a') });
is($exit, 5, 'nodes that answer nothing: exit 5');
like($err, qr/ERR_/, 'with the error\'s name');
($exit) = in_time('cairn put', sub { $cluster->cairn('--timeout', '500ms', 'put', 'dumb', 'x') });
like($exit, qr/^[56]$/, "a put: exit $exit");
like(in_time('an old session', sub { $session->ask("SELECT value FROM kv WHERE key = 'a'") }), qr/^ERROR:  08\w\w\w:/m, 'SQLSTATE 08…');
like(in_time('its insert', sub { $session->ask("INSERT INTO kv (key, value) VALUES ('j', 'x')") }), qr/^ERROR:  08\w\w\w:/m, 'SQLSTATE 08…');
is(in_time('mount: read', sub { error_of(sub { open my $f, '<', $mount->path('a') }) }), 'EIO', 'EIO');
is(in_time('mount: write', sub { error_of(sub { write_bytes($mount->path('new'), 'x') eq '1' }) }), 'EIO', 'EIO');
$cluster->resume($_) for $cluster->nodes;
$cluster->wait_ready;
all_work('after all went on');

# --- A minority of one: no majority is no answer, and no wrong one
sysopen my $open, $mount->path('open'), O_RDWR | O_CREAT or die "$!";
syswrite $open, 'written before';
$cluster->kill9($_) for 2, 3;
is(in_time('fsync of an open file', sub { error_of(sub { $open->sync }) }), 'EIO', 'EIO');
($exit) = in_time('get of a minority', sub { $cluster->cairn('--timeout', '500ms', 'get', 'a') });
is($exit, 5, 'one node of three: a get says unavailable');
($exit) = in_time('put of a minority', sub { $cluster->cairn('--timeout', '500ms', 'put', 'minority', 'x') });
like($exit, qr/^[56]$/, "a put: exit $exit");
is(in_time('mount: read', sub { error_of(sub { open my $f, '<', $mount->path('a') }) }), 'EIO', 'EIO');
like(in_time('SQL', sub { $session->ask("SELECT value FROM kv WHERE key = 'a'") }), qr/^ERROR:  08\w\w\w:/m, 'SQLSTATE 08…');
$cluster->start($_) for 2, 3;
$cluster->wait_ready;
ok($open->sync, 'the open file can be synced when they are back');
ok(close $open, 'and closed');
is(($cluster->cairn('get', 'open'))[1], 'written before', 'nothing of it is lost');
all_work('with a majority again');
$session->close;

done_testing;
