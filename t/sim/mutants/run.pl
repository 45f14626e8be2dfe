#!/usr/bin/perl
# Proves that the simulator finds planted bugs: `make mutants`. See README.md beside this file.
#
#   run.pl [--build DIR] [--only NNN[,NNN…]] [--seconds N] [--first N] [--jobs N] [--sim-flags '…'] [--dir DIR]
#          [--no-baseline] [--keep] [--brief] [--check]
#
# For each NNN-name.patch here: copies sources and objects to DIR/mutants/NNN, applies the patch, lets make rebuild what hangs on it,
# and runs the simulator over the seeds from --first on (1) until a run fails or the budget ends: processor time, so that a machine that
# is shared does not matter. One line a mutant; the last line says how many of how many were found. --keep leaves the copies, --brief
# holds to --seconds also where a patch asks for more. --check only says, as TAP, whether every patch still applies; it needs no build.
#
# Exit 0: all found (or all apply); 1: not so; 2: usage, or something else went wrong.
use strict;
use warnings;
use File::Basename qw(dirname);
use File::Path qw(make_path remove_tree);
use Errno;
use Getopt::Long;
use Time::HiRes qw(time);

my %option = (
    build => $ENV{BUILD} // 'build', seconds => 60, first => 1, jobs => 1, dir => dirname(__FILE__), 'sim-flags' => '', only => '',
    'build-seconds' => 300,    # of one mutant's build, which takes a few
    'patience'      => 60,     # of processor time that one run may take: mutants hang
    'elapsed'       => 1800,   # at most, of one mutant
);
GetOptions(\%option, 'build=s', 'only=s', 'seconds=i', 'first=i', 'jobs=i', 'sim-flags=s', 'dir=s', 'check', 'baseline!', 'keep', 'brief') && !@ARGV
  or die_usage();

sub die_usage {
    print STDERR "usage: run.pl [--build DIR] [--only NNN,…] [--seconds N] [--first N] [--jobs N] [--sim-flags F] [--no-baseline] [--keep] [--brief] [--check]\n";
    exit 2;
}

# --- Patches: unified diffs behind a few lines of comment

# { number, name, path, bug, flags, bias, seconds, hunks => [ { file, before, after } … ] }; dies with a text when it is malformed.
sub mutant_read {
    my ($path) = @_;
    my ($number, $name) = $path =~ m{(\d{3})-([a-z0-9-]+)\.patch$} or die "$path: the name is not NNN-name.patch\n";
    my %mutant = (number => $number, name => $name, path => $path, flags => '', bias => '', seconds => 0, hunks => []);
    open my $in, '<', $path or die "$path: $!\n";
    my ($file, $hunk);
    while (my $line = <$in>) {
        if (!defined $file && $line =~ /^# (bug|row|effect|flags|bias|seconds): (.*\S)/) {
            $mutant{$1} = $2;
        } elsif ($line =~ m{^--- a/}) {
            undef $hunk;
        } elsif (!$hunk && $line =~ m{^\+\+\+ b/(\S+)}) {
            $file = $1;
        } elsif ($line =~ /^@@ /) {
            defined $file or die "$path:$.: a hunk without a file\n";
            push @{ $mutant{hunks} }, $hunk = { file => $file, before => '', after => '' };
        } elsif ($hunk && $line =~ /^([ +-])(.*\n)/) {
            $hunk->{before} .= $2 if $1 ne '+';
            $hunk->{after}  .= $2 if $1 ne '-';
        } elsif ($line !~ /^(#|diff |index |--- |$)/) {
            die "$path:$.: neither comment nor diff\n";
        }
    }
    for my $field (qw(bug row effect)) {
        defined $mutant{$field} or die "$path: no \"# $field:\" line\n";
    }
    @{ $mutant{hunks} } or die "$path: it changes nothing\n";
    return \%mutant;
}

# Changes the files under $root, or only sees whether it could. Goes by text, not by line number: what a hunk replaces must stand in
# its file exactly once, so a patch either does what it was made for or fails loudly.
sub mutant_apply {
    my ($mutant, $root, $is_dry) = @_;
    my %text;
    for my $hunk (@{ $mutant->{hunks} }) {
        my $file = $hunk->{file};
        if (!defined $text{$file}) {
            open my $in, '<', "$root/$file" or die "$mutant->{path}: $file: $!\n";
            local $/;
            $text{$file} = <$in>;
        }
        my $count = () = $text{$file} =~ /\Q$hunk->{before}\E/g;
        $count == 1 or die "$mutant->{path} does not apply any more: $file has its text $count times\n";
        $text{$file} =~ s/\Q$hunk->{before}\E/$hunk->{after}/;
    }
    for my $file ($is_dry ? () : sort keys %text) {
        open my $out, '>', "$root/$file" or die "$root/$file: $!\n";
        print {$out} $text{$file};
        close $out or die "$root/$file: $!\n";
    }
}

# --- Building

# What runs below this process: ended with it.
my %below;
$SIG{INT} = $SIG{TERM} = sub { kill TERM => keys %below; exit 2 };

sub run_quietly {
    my ($seconds, @command) = @_;
    my $pid = open my $pipe, '-|';
    defined $pid or die "fork: $!\n";
    if ($pid == 0) {
        open STDERR, '>&', \*STDOUT;
        exec 'timeout', '--kill-after=5', $seconds, @command or exit 127;
    }
    $below{$pid} = 1;
    my @lines = <$pipe>;
    close $pipe;
    delete $below{$pid};
    return ($? >> 8, @lines);
}

# A tree in which make finds everything as it left it, times included, so that it rebuilds only what a patch touches. (Objects are
# copied, not linked: the compiler writes .d files in place.)
sub tree_make {
    my ($tree) = @_;
    my $build = $option{build};
    remove_tree($tree);
    make_path("$tree/$build/t");
    my @shared = grep { -e } qw(Makefile mk proto t);
    symlink absolute($_), "$tree/$_" or die "$tree/$_: $!\n" for @shared;
    system('cp', '-a', 'src', "$tree/src") == 0 or die "cannot copy src\n";
    for my $part (qw(obj lib proto)) {
        system('cp', '-a', "$build/$part", "$tree/$build/$part") == 0 or die "cannot copy $build/$part: build first\n";
    }
}

sub absolute {
    my ($path) = @_;
    return $path =~ m{^/} ? $path : "$ENV{PWD}/$path";
}

sub tree_build {
    my ($tree) = @_;
    my @san = $ENV{SAN} ? "SAN=$ENV{SAN}" : "BUILD=$option{build}";
    my ($status, @lines) = run_quietly($option{'build-seconds'}, 'make', '-s', '-C', $tree, @san, "$option{build}/t/sim");
    die "it does not build:\n", @lines > 20 ? @lines[-20 .. -1] : @lines if $status != 0;
}

# --- Running

# The folders of runs that were ended from outside: named after their process, which is gone.
sub scratch_remove {
    for my $folder (glob('/dev/shm/cairn-sim-* /tmp/cairn-sim-*')) {
        remove_tree($folder) if $folder =~ /cairn-sim-(\d+)-\d+$/ && !kill(0, $1) && $!{ESRCH};
    }
}

# What the simulator said: ($seeds, $seconds of processor time, $what); $what is undef when nothing was found.
sub simulate {
    my ($binary, $seconds, $flags) = @_;
    my ($user, $system) = (times)[2, 3];
    my ($status, @lines) = run_quietly($option{elapsed}, 'nice', $binary, '--jobs', 1, '--first', $option{first}, '--cpu', $seconds,
        '--patience', $option{patience}, '--expect-violation', split(' ', "$flags $option{'sim-flags'}"));
    my $took = (times)[2] - $user + (times)[3] - $system;
    scratch_remove();
    my ($panic) = grep { /^PANIC: |Sanitizer|runtime error/ } @lines;
    my ($place) = map { /^  at (\S+ in \w+)/ ? " ($1)" : () } @lines;
    my ($found) = grep { /^seed \d+: (?:VIOLATION|PANIC)/ } @lines;
    my ($runs)  = map { /^(\d+) seeds in/ ? $1 : () } @lines;
    die $status == 124 || $status == 137 ? "the simulator took more than $option{elapsed} s\n" : "the simulator says:\n", @lines
      if !defined $runs;
    return ($runs, $took, undef) if !$found;
    my ($seed, $text) = $found =~ /^seed (\d+): (?:VIOLATION )?(.*)/;
    $text =~ s/^at [\d.]+ s: //;
    $text = $panic =~ s/\n//r . ($place // "") if $text =~ /^PANIC/ && defined $panic;
    $text =~ s/\s+$//;
    return ($runs, $took, "seed $seed: $text");
}

# One line about one mutant; 'found', 'survived' or 'error'.
sub mutant_run {
    my ($mutant) = @_;
    my $tree    = "$option{build}/mutants/$mutant->{number}";
    my $label   = "$mutant->{number} $mutant->{name}";
    my $seconds = $mutant->{seconds} > $option{seconds} && !$option{brief} ? $mutant->{seconds} : $option{seconds};
    my ($verdict, $line) = ('error', '');
    eval {
        tree_make($tree);
        mutant_apply($mutant, $tree, 0);
        tree_build($tree);
        my $bias = $mutant->{bias} ? "--bias $mutant->{bias}" : '';
        my ($seeds, $took, $what) = simulate("$tree/$option{build}/t/sim", $seconds, "$mutant->{flags} $bias");
        $verdict = defined $what ? 'found' : 'survived';
        $line = sprintf defined $what ? "%s: found with %d seeds in %.1f s by %s" : "%s: SURVIVED %d seeds in %.1f s", $label, $seeds,
          $took, $what // ();
        1;
    } or $line = "$label: ERROR $@";
    remove_tree($tree) if !$option{keep};
    $line =~ s/\s+$//;
    return ($verdict, "$line\n");
}

# Runs all, `jobs` at a time, each in a process of its own; prints in the order in which they end.
sub run_all {
    my @left = @_;
    my (%running, %count);
    while (@left || %running) {
        while (@left && keys %running < $option{jobs}) {
            my $mutant = shift @left;
            my $pid    = fork;
            defined $pid or die "fork: $!\n";
            if ($pid == 0) {
                %below = ();
                my ($verdict, $line) = mutant_run($mutant);
                print $line;
                exit($verdict eq 'found' ? 0 : $verdict eq 'survived' ? 1 : 3);
            }
            $running{$pid} = $below{$pid} = 1;
        }
        my $pid = waitpid -1, 0;
        next if !delete $running{$pid};
        delete $below{$pid};
        $count{ $? == 0 ? 'found' : $? >> 8 == 1 ? 'survived' : 'error' }++;
    }
    return \%count;
}

# --- Check

sub check_all {
    my @paths  = @_;
    my $number = 0;
    my $failed = 0;
    print '1..', scalar @paths, "\n";
    for my $path (@paths) {
        my $fine = eval { mutant_apply(mutant_read($path), '.', 1); 1 };
        print $fine ? 'ok ' : 'not ok ', ++$number, " - $path applies\n", $fine ? '' : "# $@";
        $failed ||= !$fine;
    }
    return $failed ? 1 : 0;
}

# --- All of it

$| = 1;
my %wanted = map { $_ => 1 } split /,/, $option{only};
my @paths = grep { !%wanted || (m{(\d{3})-[^/]*$} && $wanted{$1}) } sort glob "$option{dir}/*.patch";
@paths or die "no such mutant\n";
exit check_all(@paths) if $option{check};

my @mutants = map { mutant_read($_) } @paths;
-x "$option{build}/t/sim" or die "$option{build}/t/sim is not built\n";
if ($option{baseline} // 1) {
    my ($seeds, $took, $what) = simulate("$option{build}/t/sim", $option{seconds}, '');
    printf "000 no bug planted: %s %d seeds in %.0f s%s\n", defined $what ? 'VIOLATION after' : 'clean over', $seeds, $took,
      defined $what ? ", $what" : '';
    exit 2 if defined $what;
}
my $begin = time;
my $count = run_all(@mutants);
my $found = $count->{found} // 0;
printf "%d survived, %d errors, %.0f s\n", $count->{survived} // 0, $count->{error} // 0, time - $begin;
printf "found %d of %d\n", $found, scalar @mutants;
exit($found == @mutants ? 0 : 1);
