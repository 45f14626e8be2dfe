#!/usr/bin/perl
# Shows what a request may choose: reads by lease and stale ones with a bound, writes that every replica within reach acknowledges. A
# primary that slept (SIGSTOP) answers nothing old by lease when it wakes, a replica without a majority answers stale reads and says how
# stale, and no further than allowed; --ack all waits for a replica that is slow, not for one that is gone.
use strict;
use warnings;
use JSON::PP qw(decode_json);
use Test::More;
use Time::HiRes qw(time sleep);
use Cairn::Cluster qw(run_command wait_until bin);

my $cluster = Cairn::Cluster->new(nodes => 3, args => ['--partitions', '16']);
$cluster->wait_settled;

sub through {
    my ($n, @args) = @_;
    return run_command([bin('cairn'), '--endpoints', $cluster->address($n), @args]);
}

sub key_led_by {
    my ($n) = @_;
    for my $i (1 .. 500) {
        return "key$i" if $cluster->primary_of("key$i") == $n;
    }
    die "n$n leads nothing";
}

# Usage.
for my $bad (['--consistency', 'eventual', 'get', 'a'], ['--max-staleness', '1s', 'get', 'a'], ['--consistency', 'lease', '--max-staleness', '1s', 'get', 'a'],
    ['--consistency', 'stale', '--max-staleness', '0s', 'get', 'a'], ['--ack', 'most', 'put', 'a', 'b']) {
    my ($exit) = $cluster->cairn(@$bad);
    is($exit, 2, "refused: @$bad");
}

# All is well.
{
    my @got = $cluster->cairn('put', 'a', 'one');
    is($got[0], 0, 'a is written');
    @got = $cluster->cairn('--consistency', 'lease', 'get', 'a');
    is("$got[0] $got[1]", '0 one', 'a lease read sees it');
    @got = $cluster->cairn('--consistency', 'lease', 'get', 'absent');
    is($got[0], 3, 'and sees what is not there');
    ok(wait_until('the write to be seen everywhere', sub { my @seen = map { (through($_, '--consistency', 'stale', 'get', 'a'))[1] } $cluster->nodes; "@seen" eq 'one one one' }),
        'a stale read through any node sees it soon');
    for my $n ($cluster->nodes) {
        my ($exit, $out) = through($n, '--consistency', 'stale', '-o', 'json', 'get', 'a');
        my $known = eval { decode_json($out)->{staleness_ms} };
        ok(defined $known && $known < 5000, "n$n tells how stale it is: " . ($known // $out));
        my ($strict, $strict_out) = through($n, '--consistency', 'stale', '--max-staleness', '1ms', '-o', 'json', 'get', 'a');
        cmp_ok(eval { decode_json($strict_out)->{staleness_ms} } // 'nothing', '<=', 1, "and a bound of 1 ms holds through n$n");
    }
    my ($exit, $out) = $cluster->cairn('--consistency', 'stale', 'get', '--meta', 'a');
    like($out, qr/^staleness\s+(\d+ ms|unknown)$/m, 'get --meta shows it');
    $cluster->cairn('put', "scan/$_", $_) for 1 .. 20;
    for my $how (['lease'], ['stale', '--max-staleness', '1ms']) {
        my ($code, $lines) = $cluster->cairn('--consistency', @$how, 'scan', 'scan/', '--keys-only');
        is(scalar(split /\n/, $lines), 20, "a scan by @$how sees all that was written before");
    }
    for my $list (['scan', 'scan/'], ['ls', 'scan/'], ['ls', '']) {
        my ($code, $lines) = $cluster->cairn('--consistency', 'stale', '-o', 'jsonl', @$list);
        my @told = map { decode_json($_) } split /\n/, $lines;
        ok(@told && !(grep { !exists $_->{staleness_ms} || ($_->{staleness_ms} // 0) > 5000 } @told), "each entry of a stale @$list tells how stale it is");
    }
    unlike(($cluster->cairn('-o', 'jsonl', 'scan', 'scan/'))[1], qr/staleness/, 'others do not');
}

# A primary that sleeps has no lease when it wakes, whatever it believed before.
for my $sleeper (1, 2) {
    $cluster->wait_settled;
    my $key = key_led_by($sleeper);
    $cluster->cairn('put', $key, 'old');
    is((through($sleeper, '--consistency', 'lease', 'get', $key))[1], 'old', "n$sleeper answers by lease");
    $cluster->pause($sleeper);
    my $asleep = time;
    my @awake = map { $cluster->address($_) } grep { $_ != $sleeper } $cluster->nodes;
    my ($exit, $out, $err) = run_command([bin('cairn'), '--endpoints', join(',', @awake), '--timeout', '10s', 'put', $key, 'new']);
    is($exit, 0, 'its key is written elsewhere') or diag $err;
    # Clients wait at its door, so that reads are the first that it sees.
    my @readers;
    for my $how ('lease', 'lease', 'lease', 'stale') {
        my @options = $how eq 'stale' ? ('--max-staleness', '200ms') : ();
        sleep 0.3;
        pipe my $in, my $outlet or die;
        my $pid = fork // die;
        if ($pid == 0) {
            my ($code, $value) = through($sleeper, '--timeout', '10s', '--consistency', $how, @options, 'get', $key);
            print $outlet "$code $value";
            close $outlet;
            POSIX::_exit(0);
        }
        close $outlet;
        push @readers, [$pid, $in, $how];
    }
    # The write was over for longer than any bound here.
    sleep 0.5;
    $cluster->resume($sleeper);
    for my $reader (@readers) {
        my ($pid, $in, $how) = @$reader;
        my $said = do { local $/; <$in> };
        waitpid $pid, 0;
        is($said, '0 new', "a read ($how) that waited in the woken node sees the new value");
    }
    is((through($sleeper, '--consistency', 'lease', 'get', $key))[1], 'new', 'and so do later ones');
}

# Writes that all acknowledge.
{
    $cluster->wait_settled;
    my $key = key_led_by(1);
    my ($exit, $out, $err) = $cluster->cairn('--ack', 'all', 'put', $key, 'all');
    is($exit, 0, 'a put by all') or diag $err;
    is(($cluster->cairn('--ack', 'all', 'put', '--if-absent', $key, 'x'))[0], 4, 'conditions are judged as ever');
    is(($cluster->cairn('--ack', 'all', 'del', $key))[0], 0, 'a delete by all');

    $cluster->pause(3);
    my $begin = time;
    ($exit, $out, $err) = $cluster->cairn('--ack', 'majority', 'put', $key, 'most');
    is($exit, 0, 'a put by a majority does not care for a replica that stands still');
    ($exit, $out, $err) = through(1, '--ack', 'all', '--timeout', '10s', 'put', $key, 'those within reach');
    is($exit, 0, 'a put by all is answered once that replica counts as out of reach') or diag $err;
    cmp_ok(time - $begin, '<', 8, 'in time');
    is(($cluster->cairn('get', $key))[1], 'those within reach', 'and is there');
    $cluster->resume(3);
    $cluster->kill9(3);
    is(($cluster->cairn('--ack', 'all', '--timeout', '10s', 'put', $key, 'two'))[0], 0, 'nor does a dead one count');
    $cluster->start(3);
    $cluster->wait_settled;
    is(($cluster->cairn('--ack', 'all', '--timeout', '10s', 'put', $key, 'three'))[0], 0, 'it comes back and is waited for again');
}

# A replica that stands still within a long election timeout is within reach: who waits for all hears that the outcome is open.
{
    my $patient = Cairn::Cluster->new(nodes => 3, args => ['--partitions', '16', '--election-timeout-ms', '4000']);
    $patient->wait_settled;
    $patient->cairn('--ack', 'all', 'put', 'k', 'before');
    $patient->pause(3);
    my ($exit, $out, $err) = $patient->cairn('--ack', 'all', '--timeout', '1500ms', 'put', 'k', 'after');
    is($exit, 6, 'the outcome is unknown when one within reach does not confirm') or diag $err;
    $patient->resume(3);
    is(($patient->cairn('get', 'k'))[1], 'after', 'here it was applied');
    is(($patient->cairn('--ack', 'all', '--timeout', '10s', 'put', 'k', 'again'))[0], 0, 'and the next is acknowledged by all');
    $patient->destroy;
}

# Without a majority: stale reads go on, and tell the truth.
{
    my $key = key_led_by(2);
    # Twice: what all acknowledge is on all disks, but only the next write (or heartbeat) tells the others that it is committed.
    is(($cluster->cairn('--ack', 'all', '--timeout', '10s', 'put', $key, 'last'))[0], 0, 'written') for 1 .. 2;
    $cluster->kill9(2);
    $cluster->kill9(3);
    sleep 1.5;
    is((through(1, '--timeout', '1s', 'get', $key))[0], 5, 'alone n1 answers no linearizable read');
    is((through(1, '--timeout', '1s', '--consistency', 'lease', 'get', $key))[0], 5, 'nor one by lease');
    my ($exit, $out) = through(1, '--consistency', 'stale', '-o', 'json', 'get', $key);
    my $record = eval { decode_json($out) } // {};
    is($record->{value}, 'last', 'but a stale one');
    cmp_ok($record->{staleness_ms} // 0, '>=', 1400, 'which says how stale it is');
    my $err;
    ($exit, $out, $err) = through(1, '--timeout', '1s', '--consistency', 'stale', '--max-staleness', '1s', 'get', $key);
    is($exit, 5, 'and not beyond its bound');
    like($err, qr/\d+ ms stale, 1000 ms were allowed.*ERR_UNAVAILABLE/, 'with a word why');
    ($exit) = through(1, '--consistency', 'stale', '--max-staleness', '10m', 'get', $key);
    is($exit, 0, 'within it, it answers');
    $cluster->start($_) for 2, 3;
    $cluster->wait_ready;
    is(($cluster->cairn('--timeout', '10s', '--consistency', 'lease', 'get', $key))[1], 'last', 'with a majority all is as before');
}

done_testing;
