#!/usr/bin/perl
# Shows that no hot path (put, get, replicate, apply, …) takes over 10 % more instructions than bench/hotpath.tsv says, and that the
# comparison notices if one does. Counts once under callgrind, then judges the same counts by altered tables.
use strict;
use warnings;
use Test::More;
use File::Temp qw(tempdir);

my $build = $ENV{BUILD} // 'build';
plan skip_all => 'instruction counts say nothing about a build with sanitizers' if $build =~ m{/san-};
my $table  = 'bench/hotpath.tsv';
my $folder = tempdir(CLEANUP => 1);

sub judge {
    my ($by) = @_;
    my $output = `timeout 300 bench/hotpath --build $build --dumps $folder --table $by 2>&1`;
    return ($?, $output);
}

sub altered {
    my ($name, $factor) = @_;
    open my $in,  '<', $table or die "$table: $!";
    open my $out, '>', "$folder/table" or die "$folder/table: $!";
    while (<$in>) {
        s/^(\Q$name\E\t)(\d+)/$1 . int($2 * $factor)/e;
        print $out $_;
    }
    close $out or die "$folder/table: $!";
    return "$folder/table";
}

my ($status, $output) = judge($table);
is $status, 0, 'no hot path grew by more than 10 %' or diag $output;
like $output, qr/^put\s+\d+\s+\d+/m, 'it counted';

my ($counted, $known) = $output =~ /^put\s+(\d+)\s+(\d+)/m;
my $ratio = $counted / $known;
($status, $output) = judge(altered('put', $ratio / 1.09));
is $status, 0, '9 % more passes';
($status, $output) = judge(altered('put', $ratio / 1.11));
isnt $status, 0, '11 % more does not';
like $output, qr/^put .*GREW$/m, 'and the row is named';
like $output, qr/make hotpath RENEW=/, 'and how to renew the table';

done_testing;
