#!/usr/bin/perl
# Shows that the verbs work from the command line against three real nodes: put, get, del, conditions, ls and scan over all
# partitions, exit codes and error names, and that any node answers any request.
use strict;
use warnings;
use Test::More;
use Cairn::Cluster qw(run_command bin);

my $cluster = Cairn::Cluster->new(nodes => 3);

my ($exit, $out, $err) = $cluster->cairn('put', 'users/42', 'Ada');
is($exit, 0, 'put succeeds') or diag $err;
like($out, qr/^\d+\n$/, 'and prints the version');
chomp(my $version = $out);

($exit, $out) = $cluster->cairn('get', 'users/42');
is($exit, 0, 'get succeeds');
is($out, 'Ada', 'and prints the bytes, nothing added');

($exit, $out) = $cluster->cairn('get', '--version', 'users/42');
is($out, "$version\n", 'get --version prints the version') ;

for my $n ($cluster->nodes) {
    ($exit, $out, $err) = run_command([bin('cairn'), '--endpoints', $cluster->address($n), 'get', 'users/42']);
    is("$exit $out", '0 Ada', "node $n answers for a key wherever its primary is") or diag $err;
}

($exit, $out, $err) = $cluster->cairn('get', 'absent');
is($exit, 3, 'an absent key: exit 3');
like($err, qr/^cairn: .*\(ERR_NOT_FOUND\)$/m, 'and says so');

($exit, $out, $err) = $cluster->cairn('put', '--if-absent', 'users/42', 'Bob');
is($exit, 4, 'put --if-absent on a present key: exit 4');
like($err, qr/ERR_EXISTS/, 'named');
($exit) = $cluster->cairn('put', '--if-version', $version + 1000, 'users/42', 'Bob');
is($exit, 4, 'put --if-version with another version: exit 4');
($exit, $out) = $cluster->cairn('put', '--if-version', $version, 'users/42', 'Bob');
is($exit, 0, 'with the right one it succeeds');
cmp_ok($out, '>', $version, 'and the version grows');
($exit, $out) = $cluster->cairn('get', 'users/42');
is($out, 'Bob', 'the value is the new one');

my $bytes = join '', map { chr } 0 .. 255;
($exit) = $cluster->cairn('put', 'binary', '-', { input => $bytes x 4096 });
is($exit, 0, '1 MiB from stdin');
($exit, $out) = $cluster->cairn('get', 'binary');
ok($out eq $bytes x 4096, 'comes back equal');
($exit) = $cluster->cairn('put', 'empty', '-', { input => '' });
($exit, $out) = $cluster->cairn('get', 'empty');
is("$exit|$out", '0|', 'an empty value is a value');

$cluster->cairn('put', sprintf('many/%03d', $_), "v$_") for 1 .. 60;
($exit, $out) = $cluster->cairn('ls', '-R', 'many/');
is($out, join('', map { sprintf "many/%03d\n", $_ } 1 .. 60), 'ls gives all keys of all partitions in order');
($exit, $out) = $cluster->cairn('ls', '-R', '--reverse', '--limit', '3', 'many/');
is($out, "many/060\nmany/059\nmany/058\n", 'reverse, with a limit');
($exit, $out) = $cluster->cairn('scan', '--from', 'many/010', '--to', 'many/012', '-o', 'jsonl');
is(scalar(split /\n/, $out), 2, 'scan takes from and to (not included)') or diag $out;

($exit, $out) = $cluster->cairn('del', 'users/42', 'absent');
is("$exit $out", "0 1\n", 'del prints how many there were');
($exit) = $cluster->cairn('get', 'users/42');
is($exit, 3, 'the deleted key is gone');
($exit, $out) = $cluster->cairn('del', '--prefix', 'many/');
is("$exit $out", "0 60\n", 'del --prefix');
($exit) = $cluster->cairn('del', '--prefix', '');
is($exit, 2, 'an empty prefix needs --yes');

($exit, $out, $err) = $cluster->cairn('put', '', 'x');
is($exit, 2, 'an empty key: exit 2');
like($err, qr/ERR_KEY_EMPTY/, 'named');
($exit) = $cluster->cairn('put', 'k' x 511, 'x');
is($exit, 0, 'a key of 511 bytes');
($exit, $out, $err) = $cluster->cairn('put', 'k' x 512, 'x');
is($exit, 2, 'one more byte: exit 2');
like($err, qr/ERR_KEY_TOO_LONG/, 'named');
($exit, $out, $err) = $cluster->cairn('put', 'large', '-', { input => 'x' x ((8 << 20) + 1) });
is($exit, 1, 'a value over the limit: exit 1');
like($err, qr/ERR_VALUE_TOO_LARGE/, 'named');
($exit) = $cluster->cairn('put', 'large', '-', { input => 'x' x (8 << 20) });
is($exit, 0, 'a value at the limit');

($exit, $out, $err) = $cluster->cairn('watch', 'x');
is($exit, 1, 'what is still to come is refused');
like($err, qr/ERR_UNSUPPORTED/, 'by name');
($exit) = $cluster->cairn('putt', 'x');
is($exit, 2, 'an unknown command: exit 2');
($exit) = $cluster->cairn('put', '--nonsense', 'x', 'y');
is($exit, 2, 'an unknown option: exit 2');

for my $n ($cluster->nodes) {
    is($cluster->stop($n), 0, "SIGTERM ends node $n with exit 0");
}
($exit, $out, $err) = $cluster->cairn('--timeout', '1s', 'get', 'users/42');
is($exit, 5, 'all nodes down: exit 5');
like($err, qr/ERR_(CONNECT|UNAVAILABLE)/, 'named');

for my $command ([qw(inspect --help)], [qw(help inspect)]) {
    ($exit, $out, $err) = run_command([bin('cairn'), @$command]);
    is("$exit $err", '0 ', "cairn @$command");
    like($out, qr/^usage: cairn .*inspect FILE/, 'explains the command');
}

done_testing;
