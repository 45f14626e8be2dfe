#!/usr/bin/perl
# Shows that kill -9 of any one node of three loses no acknowledged write and that writes resume within 2 s: ten thousand writes run
# while nodes are killed and started again, twenty times; then every acknowledged write is read back. Then all three nodes are killed at
# once under load and started again: the same.
use strict;
use warnings;
use Test::More;
use Cairn::Cluster qw(run_command wait_until bin);

my $writer = ($ENV{BUILD} // 'build') . '/t/writer';
my $cluster = Cairn::Cluster->new(nodes => 3);

# Starts the writer; returns its pid and output file.
sub start_writer {
    my ($prefix, $count, $concurrency) = @_;
    my $file = $cluster->folder . "/$prefix.out";
    my $pid = fork // die;
    if ($pid == 0) {
        open STDOUT, '>', $file;
        { no warnings; exec $writer, $cluster->endpoints, "$prefix/", $count, $concurrency, 20000; }
        exit 127;
    }
    return ($pid, $file);
}

sub read_answers {
    my ($file) = @_;
    my %answers = (ok => {}, unknown => {}, failed => {});
    open my $in, '<', $file or die;
    while (<$in>) {
        next unless /\n\z/;    # the writer was killed within this line
        my ($what, $key, $more) = split;
        $answers{$what}{$key} = $more;
    }
    return \%answers;
}

sub count_ok {
    my ($file) = @_;
    open my $in, '<', $file or return 0;
    my $count = grep { /^ok / } <$in>;
    return $count;
}

# Every acknowledged key, read by a scan.
sub lost_keys {
    my ($prefix, $answers) = @_;
    my ($exit, $out, $err) = $cluster->cairn('ls', '-R', "$prefix/", { timeout => 60 });
    is($exit, 0, "the keys of $prefix are listed") or diag $err;
    my %present = map { $_ => 1 } split /\n/, $out;
    return grep { !$present{$_} } keys %{ $answers->{ok} };
}

my $rounds = 20;
my @gaps;
my (%ok_total, $lost_total);
for my $round (1 .. $rounds) {
    my $victim = 1 + $round % 3;
    my ($pid, $file) = start_writer("round$round", 500, 16);
    wait_until('some writes', sub { count_ok($file) > 100 });
    $cluster->kill9($victim);
    my $done = wait_until("the writer of round $round", sub { waitpid($pid, 1) == $pid ? 1 : 0 }, 60);
    my $answers = read_answers($file);
    push @gaps, (keys %{ $answers->{gap} // {} })[0] // do { open my $in, '<', $file; my ($g) = map { /^gap (\d+)/ ? $1 : () } <$in>; $g };
    is(scalar(keys %{ $answers->{ok} }), 500, "round $round: all 500 writes were acknowledged though node $victim was killed")
        or diag join ' ', %{ $answers->{failed} };
    $cluster->start($victim);
    $cluster->wait_ready;
    # The killed node must be a full member again before the next one dies, else a majority is gone.
    wait_until("node $victim to catch up", sub {
        my ($exit) = run_command([bin('cairn'), '--endpoints', $cluster->address($victim), '--timeout', '1s', 'get', "round$round/00000000"]);
        return $exit eq '0';
    });
}
my @lost = map { lost_keys("round$_", read_answers($cluster->folder . "/round$_.out")) } 1 .. $rounds;
is(scalar(@lost), 0, 'no acknowledged write is lost after twenty kills');
my ($longest) = sort { $b <=> $a } @gaps;
cmp_ok($longest, '<=', 2000, "writes resumed within 2 s each time (longest pause $longest ms)");
diag 'pauses in ms: ' . join ' ', @gaps;

# All at once.
for my $round (1 .. 3) {
    my ($pid, $file) = start_writer("all$round", 100000, 32);
    wait_until('some writes', sub { count_ok($file) > 1000 });
    $cluster->kill9($_) for $cluster->nodes;
    kill 'KILL', $pid;
    waitpid $pid, 0;
    $cluster->start($_) for $cluster->nodes;
    $cluster->wait_ready;
    my $answers = read_answers($file);
    my @gone = lost_keys("all$round", $answers);
    is(scalar(@gone), 0, 'all nodes killed at once: ' . scalar(keys %{ $answers->{ok} }) . ' acknowledged writes, none lost')
        or diag "@gone[0 .. ($#gone < 5 ? $#gone : 5)]";
}

done_testing;
