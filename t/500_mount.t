#!/usr/bin/perl
# Shows that a mount of a three-node cluster behaves as a file system: shell commands, editors' ways of saving, appending, attributes, bad
# input, two mounts side by side, a cluster that is gone, and coming back after a remount.
use strict;
use warnings;
use Test::More;
use Fcntl;
use IO::Handle;
use POSIX ();
use Time::HiRes qw(time);
use Cairn::Cluster qw(run_command bin wait_until);
use Cairn::Mount qw(read_bytes write_bytes names error_of xattr);

plan skip_all => 'no /dev/fuse here' unless -e '/dev/fuse';

my $cluster = Cairn::Cluster->new(nodes => 3);
my $mount = Cairn::Mount->new(source => $cluster->endpoints, options => 'timeout=2s');
my $root = $mount->root;

# A shell command in the mount: its output and what it said, "exit N" behind when it failed.
sub sh {
    my ($command) = @_;
    my ($exit, $out, $err) = run_command(['sh', '-c', "cd $root && $command"]);
    return $out . $err . ($exit eq '0' ? '' : "exit $exit");
}

sub get { my ($exit, $out) = $cluster->cairn('get', @_); return $exit eq '0' ? $out : "exit $exit"; }
sub put { my ($exit, $out, $err) = $cluster->cairn('put', @_); chomp $out; return $exit eq '0' ? $out : "exit $exit $err"; }

# --- One keyspace behind both doors
put('users/42', 'Ada');
is(read_bytes("$root/users/42"), 'Ada', 'a key stored by the command line is a file');
is(write_bytes("$root/users/43", "Grace\n"), 1, 'a file written');
is(get('users/43'), "Grace\n", 'is a key when close has returned');
put('users/42', 'Ada Lovelace');
is(read_bytes("$root/users/42"), 'Ada Lovelace', 'a change elsewhere is seen at once');
is(-s "$root/users/42", 12, 'and its size');
names("$root/users");
put('users/42', 'Augusta Ada King, Countess of Lovelace');
is(read_bytes("$root/users/42"), 'Augusta Ada King, Countess of Lovelace', 'a listing just before cuts nothing');
$cluster->cairn('del', 'users/42');
is(error_of(sub { open my $f, '<', "$root/users/42" }), 'ENOENT', 'a deletion elsewhere too');
is(names($root), 'users', 'directories come from keys');

# --- Commands
is(sh('mkdir d && echo one > d/a && cat d/a'), "one\n", 'mkdir, echo, cat');
is(sh('cp d/a d/b && mv d/b d/c && ls d'), "a\nc\n", 'cp, mv, ls');
is(sh('echo two >> d/a && cat d/a'), "one\ntwo\n", 'appending');
is(get('d/a'), "one\ntwo\n", 'is stored');
is(sh('find . -type f | sort'), "./d/a\n./d/c\n./users/43\n", 'find');
is(sh('grep -r two .'), "./d/a:two\n", 'grep -r');
like(sh('ls -l d'), qr/^-rw-r--r-- 1 root +root +8 .* a$/m, 'ls -l shows size and mode');
is(sh('rm d/a d/c && ls d && rmdir d && ls'), "users\n", 'rm leaves an empty directory, rmdir removes it');
is(sh('mkdir -p p/q/r && echo deep > p/q/r/s && mv p/q/r/s p/t && ls -R p'), "p:\nq\nt\n\np/q:\nr\n\np/q/r:\n", 'mv out of a deep directory leaves it');
is(sh('mv p/q/r p/r2 && ls p'), "q\nr2\nt\n", 'an empty directory can be renamed');
is(sh('mv p p2 && find p2 | sort'), "p2\np2/q\np2/r2\np2/t\n", 'mv of a full one copies');
is(sh('rm -r p2 && ls'), "users\n", 'rm -r');
is(sh('seq 1 5 > n && dd if=/dev/zero of=n bs=1 count=1 seek=2 conv=notrunc status=none && od -An -c n | tr -d " \n"'), '1\n\0\n3\n4\n5\n', 'dd in the middle');
is(sh('truncate -s 3 n && stat -c %s n && truncate -s 6 n && od -An -c n | tr -d " \n" && rm n'), "3\n1\\n\\0\\0\\0\\0", 'truncate down and up');
is(sh('{ echo a; sh -c "echo b"; echo c; } > e && cat e && rm e'), "a\nb\nc\n", 'one descriptor shared by processes');
is(sh(': > e && stat -c %s e && rm e'), "0\n", 'an empty file');
is(sh('git init -q g && cd g && echo x > f && git add f && git -c user.name=t -c user.email=t@t commit -qm m && git log --oneline | wc -l'), "1\n", 'git works in it');
is(sh('rm -rf g && ls'), "users\n", 'and can be removed');

# --- Saving as editors do
is(sh('echo old > f && echo new > .f.tmp && mv .f.tmp f && cat f && ls -A'), "new\nf\nusers\n", 'replacing by rename');
is(sh('cat > f.new < f && ln f f~ 2>/dev/null || cp f f~ && mv -f f.new f && cat f~ f && rm f~'), "new\nnew\n", 'with a backup');
is(sh('sed -i s/new/newer/ f && cat f'), "newer\n", 'sed -i');
is(get('f'), "newer\n", 'is stored');

# What a shell writes with > is one version: readers never see it empty.
my $before = put('atomic', 'before');
sh('echo after > atomic');
my ($exit, $meta) = $cluster->cairn('get', '--version', 'atomic');
chomp $meta;
isnt($meta, $before, 'echo > file makes a new version');
{
    my $zero = 0;
    my $pid = fork // die;
    if ($pid == 0) {
        system('sh', '-c', "cd $root; for i in 1 2 3 4 5 6 7 8 9 10; do echo value-\$i > atomic; done");
        POSIX::_exit(0);
    }
    while (waitpid($pid, POSIX::WNOHANG()) == 0) {
        my ($status, $bytes) = $cluster->cairn('get', 'atomic');
        $zero++ if $status ne '0' || $bytes eq '';
    }
    is($zero, 0, 'a file that is replaced is never seen empty by others');
}

# --- Attributes
is(sh('echo x > a && chmod 640 a && stat -c %a a'), "640\n", 'chmod');
is(sh('chown 12:34 a && stat -c %u:%g a'), "12:34\n", 'chown');
is(sh('touch -d "2020-02-03 04:05:06 UTC" a && stat -c %Y a'), "1580702706\n", 'touch -d');
is(sh('echo y >> a && test $(( $(date +%s) - $(stat -c %Y a) )) -lt 60 && echo now'), "now\n", 'writing makes it new');
is(sh('cp -p a b && stat -c "%a %u:%g" b'), "640 12:34\n", 'cp -p');
is(sh('mv b c && stat -c "%a %u:%g" c'), "640 12:34\n", 'mv keeps them');
is(sh('mkdir m && chmod 700 m && stat -c %a m && rmdir m'), "700\n", 'a directory has them too');
is(sh('umask 077 && echo x > private && stat -c %a private'), "600\n", 'the umask counts');
like(xattr("$root/a", 'user.cairn.version') // "error: $!", qr/^\d+$/, 'user.cairn.version');
is(xattr("$root/a", 'user.cairn.version'), do { my ($e, $v) = $cluster->cairn('get', '--version', 'a'); chomp $v; $v }, 'is the version');
is(xattr("$root/a", 'user.cairn.size'), '4', 'user.cairn.size');
is(error_of(sub { defined xattr("$root/a", 'user.other') }), 'ENODATA', 'no others');
is(error_of(sub { my @given = ("$root/a", 'user.other', 'x'); syscall(188, @given, 1, 0) == 0 }), 'EOPNOTSUPP', 'none can be set');
sh('rm a c private');

# --- Big values
my $random = do { open my $f, '<:raw', '/dev/urandom' or die; my $b; read $f, $b, 1 << 20; $b };
is(write_bytes("$root/random", $random), 1, '1 MiB of random bytes');
ok(get('random') eq $random, 'is read back by the command line');
ok(read_bytes("$root/random") eq $random, 'and as a file');
my $limit = 8 << 20;
is(write_bytes("$root/limit", 'x' x $limit), 1, 'a value of the greatest size');
is(-s "$root/limit", $limit, 'is stored');
like(write_bytes("$root/limit", 'y', O_WRONLY | O_APPEND), qr/File too large/, 'one byte more is EFBIG');
is(error_of(sub { truncate "$root/limit", $limit + 1 }), 'EFBIG', 'by truncate as well');
is(-s "$root/limit", $limit, 'and what was there stays');
sh('rm limit random');

# --- Errors
is(error_of(sub { open my $f, '<', "$root/nothing" }), 'ENOENT', 'no such file');
is(error_of(sub { open my $f, '>', "$root/f/x" }), 'ENOTDIR', 'nothing is created below a file');
is(error_of(sub { mkdir "$root/f" }), 'EEXIST', 'mkdir over a file');
is(error_of(sub { mkdir "$root/users" }), 'EEXIST', 'mkdir over a directory');
is(error_of(sub { rmdir "$root/users" }), 'ENOTEMPTY', 'rmdir of a full directory');
is(error_of(sub { rmdir "$root/f" }), 'ENOTDIR', 'rmdir of a file');
is(error_of(sub { unlink "$root/users" }), 'EISDIR', 'unlink of a directory');
is(error_of(sub { open my $f, '>', "$root/" . 'n' x 256 }), 'ENAMETOOLONG', 'a name of 256 bytes');
is(error_of(sub { open my $f, '>', "$root/" . join('/', ('n' x 250) x 3) }), 'ENOENT', 'a path without its directories');
is(error_of(sub { mkdir "$root/" . 'd' x 255 and mkdir "$root/" . 'd' x 255 . '/' . 'e' x 254 and open my $f, '>', "$root/" . 'd' x 255 . '/' . 'e' x 254 . '/x' }), 'ENAMETOOLONG', 'a key of 512 bytes');
sh('rm -r dddd*');
is(error_of(sub { open my $f, '>', "$root/x%V" }), 'EINVAL', 'a name that is no key\'s');
is(error_of(sub { symlink "a", "$root/link" }), 'EPERM', 'no symbolic links');
is(error_of(sub { link "$root/f", "$root/link" }), 'EPERM', 'no hard links');
is(error_of(sub { rename "$root/nothing", "$root/x" }), 'ENOENT', 'rename of nothing');
is(error_of(sub { sysopen my $f, "$root/f", O_WRONLY | O_CREAT | O_EXCL }), 'EEXIST', 'O_EXCL on an existing file');

# --- Open files
{
    sysopen my $file, "$root/gone", O_RDWR | O_CREAT or die "$!";
    syswrite $file, 'still here';
    ok(unlink("$root/gone"), 'an open file can be deleted');
    sysseek $file, 0, 0;
    sysread $file, my $bytes, 100;
    is($bytes, 'still here', 'and goes on for who has it open');
    ok(close $file, 'close');
    is(get('gone'), 'exit 3', 'nothing comes back');
}
{
    sysopen my $file, "$root/log", O_WRONLY | O_CREAT or die "$!";
    syswrite $file, 'x';
    is(names($root), 'atomic f log users', 'a file being created is listed');
    ok($file->sync, 'fsync');
    is(get('log'), 'x', 'stores it');
    close $file;
}

# --- Two mounts
my $other = Cairn::Mount->new(source => $cluster->endpoints);
is(read_bytes($other->path('log')), 'x', 'another mount sees it');
{
    # No fork meanwhile: a child closes what it inherits, and that commits.
    sysopen my $file, $mount->path('new'), O_WRONLY | O_CREAT or die "$!";
    syswrite $file, 'new';
    is(error_of(sub { open my $f, '<', $other->path('new') }), 'ENOENT', 'others see a new file only');
    close $file;
    is(read_bytes($other->path('new')), 'new', 'when it is closed, and whole');
}
{
    my @files = map { sysopen(my $f, $_->path('log'), O_WRONLY | O_APPEND) or die "$!"; $f } $mount, $other;
    syswrite $files[0], "first\n";
    syswrite $files[1], "second\n";
    ok(close $files[1], 'one closes');
    ok(close $files[0], 'the other closes');
    is(get('log'), "xsecond\nfirst\n", 'appends of two mounts both stay');
}
{
    my @files = map { sysopen(my $f, $_->path('log'), O_RDWR) or die "$!"; $f } $mount, $other;
    syswrite $files[0], "F";
    syswrite $files[1], "S";
    ok(close $files[1], 'one writes in the middle and closes');
    is(error_of(sub { close $files[0] }), 'ESTALE', 'the other is told that its change met another');
    like(get('log'), qr/^Ssecond/, 'nothing is lost silently');
}
{
    my @created = map { (sysopen my $f, $_->path('lock'), O_WRONLY | O_CREAT | O_EXCL) ? 1 : 0 } $mount, $other, $mount;
    is("@created", '1 0 0', 'O_EXCL succeeds once');
}
is(write_bytes($mount->path('moved'), 'm'), 1, 'a file to move');
ok(rename($other->path('moved'), $other->path('moved2')), 'renamed in one mount');
is(error_of(sub { open my $f, '<', $mount->path('moved') }), 'ENOENT', 'gone in the other');
is(read_bytes($mount->path('moved2')), 'm', 'and there under its new name');
is($other->unmount, 0, 'umount: the daemon ends with 0');

# --- Big directories
{
    my $count = 3000;
    my ($status, $out, $err) = run_command(['sh', '-c', "cd $root && mkdir many && cd many && seq 1 $count | split -l 1 -a 4 -d - k"], timeout => 120);
    is($status, 0, "$count files made by split") or diag $err;
    is(sh('ls many | wc -l'), "$count\n", 'all are listed');
    my $start = time;
    is(sh('ls -l many | grep -c "^-"'), "$count\n", 'with attributes');
    cmp_ok(time - $start, '<', 20, sprintf 'ls -l took %.2f s', time - $start);
    is(sh('rm -r many && ls -d many 2>/dev/null || echo gone'), "gone\n", 'rm -r of it');
}

# --- The cluster doesn't answer
{
    my $patient = Cairn::Mount->new(source => $cluster->endpoints, options => 'timeout=60s');
    $cluster->pause($_) for $cluster->nodes;
    my $start = time;
    for my $command ("cat " . $patient->path('f'), "ls " . $patient->root, "echo x > " . $patient->path('f')) {
        my ($exit) = run_command(['timeout', '-k', '20', '-s', 'TERM', '0.3', 'sh', '-c', "exec $command"]);
        is($exit, 124, "'" . ($command =~ s/ .*//r) . "' that waits can be interrupted");
    }
    cmp_ok(time - $start, '<', 10, sprintf 'at once (%.1f s)', time - $start);
    $cluster->resume($_) for $cluster->nodes;
    wait_until('the cluster to go on', sub { read_bytes($patient->path('f')) eq "newer\n" });
    is($patient->unmount, 0, 'umount');
}

# --- The cluster goes
$cluster->kill9($_) for $cluster->nodes;
my $start = time;
is(error_of(sub { open my $f, '<', "$root/f" }), 'EIO', 'no cluster: EIO');
cmp_ok(time - $start, '<', 10, sprintf 'within the timeout (%.1f s)', time - $start);
$start = time;
is(error_of(sub { opendir my $d, $root or return 0; my @all = readdir $d; @all > 0 }), 'EIO', 'for listings too');
cmp_ok(time - $start, '<', 10, sprintf 'within the timeout (%.1f s)', time - $start);
($exit, my $out, my $err) = run_command([bin('cairn-fuse'), '-o', 'timeout=1s', $cluster->endpoints, '/tmp']);
is($exit, 5, 'a mount of an unreachable cluster: exit 5') or diag $err;
like($err, qr/^cairn-fuse: .*\(ERR_\w+\)$/m, 'with a line that says so');
$cluster->start($_) for $cluster->nodes;
$cluster->wait_ready;
wait_until('the mount to work again', sub { read_bytes("$root/f") eq "newer\n" });
pass('when the cluster is back, so is the mount');
is(write_bytes("$root/f", "again\n"), 1, 'for writing too');

# --- Ending
{
    sysopen my $file, "$root/unclosed", O_WRONLY | O_CREAT or die "$!";
    syswrite $file, 'saved';
    kill 'TERM', $mount->pid;
    is($mount->reap, 0, 'SIGTERM: exit 0');
    ok(!Cairn::Mount::is_mounted($root), 'unmounted');
    is(get('unclosed'), 'saved', 'what was written is committed before');
    no warnings 'io';
    close $file;
}
$mount->mount;
is(read_bytes("$root/f"), "again\n", 'after a remount everything is there');
is($mount->unmount, 0, 'umount: exit 0');

# --- Options
for my $case (['-o nonsense' => '-o', 'nonsense', '127.0.0.1:1', $root], ['SOURCE without a port' => 'host', $root], ['no mountpoint']) {
    my ($name, @arguments) = @$case;
    ($exit, $out, $err) = run_command([bin('cairn-fuse'), @arguments]);
    is($exit, 2, "$name: exit 2");
    like($err, qr/^cairn-fuse: /, 'with a line that says so');
}
($exit, $out, $err) = run_command([bin('cairn-fuse'), $cluster->endpoints, '/nonexistent']);
is($exit, 1, 'a mountpoint that is not there: exit 1');

{
    # In the background, as mount(8) starts it: back when the mount stands.
    my ($status, undef, $text) = run_command([bin('cairn-fuse'), '-o', 'ro,uid=7,gid=8,umask=027', $cluster->endpoints . '/users/', $root]);
    is($status, 0, 'in the background: exit 0') or diag $text;
    is(read_bytes("$root/43"), "Grace\n", 'and the mount stands, with a prefix');
    is(error_of(sub { open my $f, '>', "$root/44" }), 'EROFS', 'ro');
    put('users/45', 'x');
    is(join(' ', map { sprintf '%d:%d %o', @{ [stat "$root/45"] }[4, 5], (stat _)[2] & 0777 } 1), '7:8 640', 'uid, gid, umask');
    is(system('umount', $root), 0, 'umount');
    wait_until('the daemon to end', sub { !grep { -l "/proc/$_/exe" && (readlink("/proc/$_/exe") // '') eq bin('cairn-fuse') && do { open my $c, '<', "/proc/$_/cmdline"; (<$c> // '') =~ /\Q$root\E/ } } grep { /^\d+$/ } map { s{.*/}{}r } glob '/proc/[0-9]*' });
    pass('the daemon ended');
}

done_testing();
