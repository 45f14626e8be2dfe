#!/usr/bin/perl
# Shows that a mount behaves like a local folder: thousands of random operations done in both, with the same results, the same errors and
# the same trees. SEED=n repeats a run, OPERATIONS=n makes it longer.
use strict;
use warnings;
use Test::More;
use Fcntl qw(:DEFAULT :mode);
use File::Temp qw(tempdir);
use File::Path qw(remove_tree);
use Cairn::Cluster;
use Cairn::Mount;

plan skip_all => 'no /dev/fuse here' unless -e '/dev/fuse';

my $seed = $ENV{SEED} // int(rand 1e9);
my $operations = $ENV{OPERATIONS} // 1500;
diag "SEED=$seed";
srand $seed;

my $cluster = Cairn::Cluster->new(standalone => 1);
my $mount = Cairn::Mount->new(source => $cluster->endpoints);
my $shadow = tempdir('cairn-shadow-XXXXXX', DIR => '/tmp', CLEANUP => 1);
umask 022;

my @names = ('a', 'b', 'c', 'd', 'e%', 'x y', 'one', 'two', '.h');
sub pick { return $_[rand @_] }
sub random_path { return join '/', map { pick(@names) } 0 .. int rand 3 }
sub random_bytes { return join '', map { chr int rand 256 } 1 .. int rand 3000 }

# Opens, does, closes; undef and $! at the first failure.
sub with_file {
    my ($path, $flags, $code, $mode) = @_;
    sysopen(my $file, $path, $flags, $mode // 0666) or return;
    my $result = $code->($file);
    my $error = $!;
    close $file or return;
    $! = $error;
    return $result;
}

sub put_at {
    my ($file, $bytes, $offset) = @_;
    defined sysseek($file, $offset, 0) or return;
    length $bytes or return 1;
    return syswrite($file, $bytes) == length $bytes;
}

sub all_of {
    my ($file) = @_;
    my $bytes = '';
    sysseek $file, 0, 0;
    while (sysread $file, $bytes, 65536, length $bytes) { }
    return $bytes;
}

# Each gets path, other path, bytes, offset; weights in front.
my @actions = (
    [14, replace => sub { my ($p, undef, $b) = @_; with_file($p, O_WRONLY | O_CREAT | O_TRUNC, sub { put_at($_[0], $b, 0) }) }],
    [10, append => sub { my ($p, undef, $b) = @_; with_file($p, O_WRONLY | O_CREAT | O_APPEND, sub { put_at($_[0], $b, 0) }) }],
    [8, change => sub { my ($p, undef, $b, $o) = @_; with_file($p, O_RDWR, sub { put_at($_[0], $b, $o) && truncate($_[0], $o + 10) && all_of($_[0]) }) }],
    [10, read => sub { with_file($_[0], O_RDONLY, sub { -d $_[0] ? 'directory' : all_of($_[0]) }) }],
    [5, exclusive => sub { my ($p, undef, $b) = @_; with_file($p, O_WRONLY | O_CREAT | O_EXCL, sub { put_at($_[0], $b, 0) }, 0640) }],
    [3, unlink_open => sub { my ($p) = @_; with_file($p, O_RDWR, sub { unlink($p) && put_at($_[0], 'zz', 0) && all_of($_[0]) }) }],
    [3, rename_open => sub { my ($p, $q) = @_; -d $q ? 'directory' : with_file($p, O_RDWR, sub { put_at($_[0], 'before', 0) && rename($p, $q) && put_at($_[0], 'after', 3) }) }],
    [10, unlink => sub { unlink $_[0] }],
    [10, mkdir => sub { mkdir $_[0] }],
    [8, rmdir => sub { rmdir $_[0] }],
    [4, truncate => sub { truncate $_[0], $_[3] }],
    [4, chmod => sub { chmod 0600 + $_[3] % 64, $_[0] }],
    [5, stat => sub { my @s = stat $_[0] or return; sprintf '%o %d', $s[2], S_ISDIR($s[2]) ? 0 : $s[7] }],
    [8, list => sub { opendir my $d, $_[0] or return; join ' ', sort readdir $d }],
    [8, rename => sub { -d $_[0] || -d $_[1] ? 'directory' : rename $_[0], $_[1] }],
);
my @bag = map { ($_) x $_->[0] } @actions;

sub outcome {
    my ($code, @arguments) = @_;
    $! = 0;
    my $result = $code->(@arguments);
    return defined $result && $result ne '' && $result ne '0' ? "result $result" : 'error ' . ($!+0);
}

sub tree {
    my ($base, $path) = @_;
    my $text = '';
    opendir my $d, "$base$path" or return "$path: $!\n";
    for my $name (sort grep { !/^\.\.?$/ } readdir $d) {
        my $full = "$base$path/$name";
        my @s = stat $full;
        $text .= sprintf "%s/%s %o ", $path, $name, $s[2];
        $text .= -d _ ? "\n" . tree($base, "$path/$name") : with_file($full, O_RDONLY, \&all_of) . "\n";
    }
    return $text;
}

my $same = 1;
for my $n (1 .. $operations) {
    my ($path, $other, $bytes, $offset) = (random_path(), random_path(), random_bytes(), int rand 4000);
    my (undef, $name, $code) = @{ pick(@bag) };
    my ($here, $there) = map { outcome($code, "$_/$path", "$_/$other", $bytes, $offset) } $mount->root, $shadow;
    if ($here ne $there) {
        fail("operation $n: $name($path, $other, " . length($bytes) . " bytes, $offset)");
        diag 'mount:  ', substr($here, 0, 200), "\nfolder: ", substr($there, 0, 200);
        $same = 0;
        last;
    }
}
ok($same, "$operations random operations have the same results") or diag "repeat with SEED=$seed";
my ($here, $there) = map { tree($_, '') } $mount->root, $shadow;
ok($here eq $there, 'and leave the same trees');
is($mount->unmount, 0, 'umount');
$mount->mount;
ok(tree($mount->root, '') eq $there, 'which are there after a remount');

done_testing();
