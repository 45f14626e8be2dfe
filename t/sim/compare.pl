#!/usr/bin/perl
# Runs the same seeds in two builds of the simulator, each seed twice in each, and sees that all traces are the same: `make sim-sanitized`.
#
#   compare.pl [--first N] [--seeds N] [--jobs N] [--bias NAME] PLAIN SANITIZED
#
# What hangs on an address, on memory that nobody wrote or on the optimizer gives other traces in a build with sanitizers, whose heap
# and stack lie elsewhere. Exit 0: all the same, no violation, nothing said by a sanitizer, leaks included; 1: not so; 2: usage.
use strict;
use warnings;
use Getopt::Long;

my %option = (first => time % 1_000_000 * 1000, seeds => 20, jobs => 1, bias => '');
GetOptions(\%option, 'first=i', 'seeds=i', 'jobs=i', 'bias=s') && @ARGV == 2 && $option{seeds} > 0
  or do { print STDERR "usage: compare.pl [--first N] [--seeds N] [--jobs N] [--bias NAME] PLAIN SANITIZED\n"; exit 2 };

# A finding ends the run, and so does a leak when it ends.
$ENV{ASAN_OPTIONS}  //= 'detect_leaks=1:detect_stack_use_after_return=1:strict_string_checks=1';
$ENV{UBSAN_OPTIONS} //= 'print_stacktrace=1';

# By seed: the trace's hash. Prints what a run has to say besides.
sub run {
    my ($binary) = @_;
    my @arguments = ('--twice', map { ("--$_", $option{$_}) } grep { $option{$_} ne '' } sort keys %option);
    print "$binary @arguments\n";
    open my $pipe, '-|', $binary, @arguments or die "$binary: $!\n";
    my %hash;
    while (my $line = <$pipe>) {
        $hash{$1} = $2 if $line =~ /^seed (\d+): hash ([0-9a-f]+)/;
        print $line if $line =~ /VIOLATION|PANIC|replay|^\d+ seeds|^determinism|^violations/;
    }
    my $is_fine = close $pipe;
    return ($is_fine, \%hash);
}

$| = 1;
my ($is_plain_fine, $plain)         = run($ARGV[0]);
my ($is_sanitized_fine, $sanitized) = run($ARGV[1]);
my $same = 0;
for my $seed (sort { $a <=> $b } keys %$plain) {
    my $other = $sanitized->{$seed} // 'none';
    $plain->{$seed} eq $other ? $same++ : print "seed $seed: trace $plain->{$seed}, with sanitizers $other\n";
}
printf "%d of %d traces the same\n", $same, $option{seeds};
exit($is_plain_fine && $is_sanitized_fine && $same == $option{seeds} ? 0 : 1);
