#!/usr/bin/perl
# The pg_regress suite of the foreign data wrapper (sql/regress) passes against a standalone cairnd, from an empty cluster and in a private
# PostgreSQL.
use strict;
use warnings;
use lib 't/lib';
use Cairn::Cluster qw(run_command);
use File::Temp qw(tempdir);
use Test::More;

my $build   = $ENV{BUILD} // 'build';
my $cluster = Cairn::Cluster->new(standalone => 1);
my $output  = tempdir(CLEANUP => 1);
$ENV{CAIRN_ENDPOINTS} = $cluster->endpoints;
my ($exit, $out, $err) = run_command(['t/lib/pg-regress', $output, "$build/pgext"], timeout => 300);
is($exit, 0, 'pg_regress passes') or diag $out, $err;
like($out, qr/All \d+ tests passed/, 'all tests were run') or diag $out;
done_testing;
