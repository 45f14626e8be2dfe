#!/usr/bin/perl
# Shows that the production code survives simulated faults: the simulator's own tests pass, a few hundred seeds (as many as fit into
# SIM_SECONDS, 45 by default) run without a violation, a seed gives the same trace twice, and disks that forget what was synced are
# noticed. Runs the simulator's binary on all cores; whole clusters, virtual time, no real processes.
use strict;
use warnings;
use Test::More;

my $build = $ENV{BUILD} // 'build';
my $sim   = "$build/t/sim";
die "$sim is not built: make $sim\n" unless -x $sim;

# The output and exit status of one call.
sub sim {
    my @arguments = @_;
    open my $pipe, '-|', $sim, @arguments or die "$sim: $!";
    my @lines = <$pipe>;
    close $pipe;
    return ($? >> 8, @lines);
}

my ($status, @lines) = sim('--self-test');
is $status, 0, 'the simulator passes its own tests' or diag grep { /^not/ } @lines;

# Seeds that found bugs, then fresh ones.
my @kept;
if (open my $file, '<', 't/sim/seeds.txt') {
    @kept = map { /^(\d+)/ ? $1 : () } <$file>;
}
for my $seed (@kept) {
    ($status, @lines) = sim('--seed', $seed);
    is $status, 0, "seed $seed, which once found a bug" or diag @lines;
}

($status, @lines) = sim('--first', 1000, '--seeds', $ENV{SIM_SEEDS} // 300, '--seconds', $ENV{SIM_SECONDS} // 45);
is $status, 0, 'seeds run without a violation' or diag @lines;
ok scalar(grep { /^determinism: [1-9]/ } @lines), 'some of them twice, with the same trace';
like "@lines", qr/^ ?\d+ of \d+ cells visited, 0 of them in runs that failed$/m, 'it tells which faults met which workloads';
is $lines[-1], "violations: 0\n", 'the last line says so';

($status, @lines) = sim('--first', 2000, '--seeds', 4, '--twice');
is $status, 0, 'a seed gives the same trace hash twice' or diag @lines;

($status, @lines) = sim('--first', 1, '--seeds', 40, '--break-sync', '--expect-violation');
is $status, 0, 'a build whose fdatasync does nothing is caught by power loss' or diag @lines;
like "@lines", qr/^\s*found with \d+ seeds$/m, 'and it says with how many seeds';

done_testing;
