#!/usr/bin/perl
# Shows that every key has its path and every path its key, through a real mount: awkward keys made by the command line are files of the
# documented names, files of such names are those keys, and names that are no key's are refused.
use strict;
use warnings;
use Test::More;
use Fcntl;
use Cairn::Cluster qw(run_command bin);
use Cairn::Mount qw(read_bytes write_bytes names error_of);

plan skip_all => 'no /dev/fuse here' unless -e '/dev/fuse';

my $cluster = Cairn::Cluster->new(standalone => 1);
my $mount = Cairn::Mount->new(source => $cluster->endpoints);
my $root = $mount->root;

sub get { my ($exit, $out) = $cluster->cairn('get', '--', @_); return $exit eq '0' ? $out : "exit $exit"; }
sub put { my ($exit, $out, $err) = $cluster->cairn('put', '--', @_); return $exit eq '0' ? 1 : "exit $exit $err"; }

# key => path. Arguments of a process can't hold NUL; the unit test covers it.
my $long = 'l' x 300;
my %keys = (
    'plain'            => 'plain',
    'with space/x y'   => 'with space/x y',
    "line\nfeed"       => "line\nfeed",
    "latin \xe9\xff"   => "latin \xe9\xff",
    '.'                => '%2E',
    '..'               => '%2E%2E',
    'a/../b'           => 'a/%2E%2E/b',
    'slash/'           => 'slash/%E',
    '//'               => '%E/%E/%E',
    'two//slashes'     => 'two/%E/slashes',
    '100%'             => '100%',
    'a%b'              => 'a%b',
    '%00'              => '%2500',
    '%E'               => '%25E',
    'x%+'              => 'x%25+',
    'v/%V'             => 'v/%25V',
    '-rf'              => '-rf',
    $long              => ('l' x 253) . '%+/' . ('l' x 47),
    "$long/$long"      => undef,    # below: it makes the former a directory
    ('m' x 254)        => 'm' x 254,
    ('m' x 255)        => 'm' x 255,
    ('m' x 253) . '..' => ('m' x 253) . '..',
    ('k' x 506) . '.'  => ('k' x 253) . '%+/' . ('k' x 253) . '%+/%2E',
    ('d/' x 255) . 'x' => ('d/' x 255) . 'x',
);
delete $keys{"$long/$long"};

# --- Keys are files
for my $key (sort keys %keys) {
    my $name = length $key > 40 ? substr($key, 0, 20) . '… (' . length($key) . ' bytes)' : $key =~ s/([^ -~])/sprintf '\\x%02x', ord $1/ger;
    is(put($key, "value of $key"), 1, "put '$name'");
    is(read_bytes("$root/$keys{$key}"), "value of $key", 'is the file of the documented name');
}
my ($exit, $found) = run_command(['find', $root, '-type', 'f', '-printf', '%P\0']);
is(join("\0", sort split /\0/, $found), join("\0", sort values %keys), 'find finds these files and no others');

# --- Files are keys
is((run_command(['sh', '-c', "rm -rf -- '$root'/* '$root'/.[!.]*; ls -A '$root'"]))[1], '', 'rm -r removes them all');
my (undef, $left) = $cluster->cairn('ls', '-R', '-0');
is($left, '', 'no key is left') or diag $left =~ s/\0/\n/gr;
for my $key (sort keys %keys) {
    my @parts = split m{/}, $keys{$key};
    for my $i (0 .. $#parts - 1) {
        my $folder = join '/', $root, @parts[0 .. $i];
        next if -d $folder;
        mkdir $folder or fail("mkdir $folder: $!");
    }
    is(write_bytes("$root/$keys{$key}", "file of $key"), 1, 'a file is written') or diag $keys{$key};
    is(get($key), "file of $key", 'and is its key');
}

# --- A value beside keys below it
is(put('both', 'own'), 1, 'put both');
is(put('both/below', 'below'), 1, 'put both/below');
is(names("$root/both"), '%V below', 'a key with keys below it is a directory');
is(read_bytes("$root/both/%V"), 'own', 'its value is %V');
is(write_bytes("$root/both/%V", 'changed'), 1, 'which can be written');
is(get('both'), 'changed', 'and is the key');
is(put('both-too', 'x'), 1, 'put both-too');
is(scalar(grep { $_ eq 'both' } split ' ', names($root)), 1, 'it is listed once, whatever stands between');
ok(unlink("$root/both/below"), 'when nothing is below');
is(names("$root/both"), '%V', 'the directory stays');
ok(unlink("$root/both/%V") && rmdir("$root/both"), 'until it is removed');
is(error_of(sub { open my $f, '>', "$root/%V" }), 'EINVAL', 'no %V at the root');
mkdir "$root/novalue";
is(error_of(sub { open my $f, '>', "$root/novalue/%V" }), 'EINVAL', 'no %V is made beside files');

# --- Markers
mkdir "$root/marked";
is(names("$root/marked"), '', 'a directory made by mkdir is empty');
is(get('marked/'), '', 'its marker is a key');
is(put('foreign/', 'f'), 1, 'a foreign key of that form');
is(names("$root/foreign"), '%E', 'is a file');
is(put('foreign/a', 'f'), 1, 'put foreign/a');
ok(unlink("$root/foreign/a"), 'rm foreign/a');
ok(unlink("$root/foreign/%E"), 'rm foreign/%E');
ok(-d "$root/foreign", 'the directory stays even then');
is(names("$root/foreign"), '', 'empty');
is(write_bytes("$root/foreign/%E", 'g'), 1, 'the file can come back');
is(get('foreign/'), 'g', 'as the key');
ok(unlink("$root/foreign/%E") && rmdir("$root/foreign"), 'and go');
is(get('foreign/'), 'exit 3', 'the marker too');

# --- Other names
for my $name ('x%2E', '%25', 'x%E', 'x%V', '%+', 'short%+', '%00%25x') {
    is(error_of(sub { open my $f, '<', "$root/$name" }), 'ENOENT', "'$name' is no key's name");
    is(error_of(sub { open my $f, '>', "$root/$name" }), 'EINVAL', 'and can not be created');
}
is(error_of(sub { mkdir "$root/x%E" }), 'EINVAL', 'nor made a directory');
write_bytes("$root/source", 'x');
is(error_of(sub { rename "$root/source", "$root/x%E" }), 'EINVAL', 'nor be renamed to');
is(error_of(sub { open my $f, '<', "$root/" . 'n' x 256 }), 'ENAMETOOLONG', 'a name is too long');
my $piece = 'l' x 253 . '%+';
is(error_of(sub { mkdir "$root/$piece" }), 'EEXIST', 'a piece is a directory already');
ok(unlink("$root/$piece/" . 'l' x 47), 'the file in it goes');
ok(rmdir("$root/$piece"), 'then the piece');
is(error_of(sub { stat "$root/$piece" }), 'ENOENT', 'and is gone');

# --- A prefix
my $users = Cairn::Mount->new(source => $cluster->endpoints . '/users');
is(names($users->root), '', 'a mount of an absent prefix is empty');
is(write_bytes($users->path('42'), 'Ada'), 1, 'a file written there');
is(get('users/42'), 'Ada', 'is a key below the prefix');
put('users/', 'foreign'), put('users/a/b', 'c');
is(names($users->root), '%E 42 a', 'what is below is shown');
ok(unlink($users->path('%E')), 'the key that is the prefix itself is a file like others');
is(names($users->root), '42 a', 'and can be removed');

done_testing();
