package Cairn::Mount;

# A cairn-fuse mount for a test: a temporary mountpoint, unmounted and removed at the end, also after failure.
#
#   my $mount = Cairn::Mount->new(source => $cluster->endpoints . '/users', options => 'timeout=2s');
#   write_bytes($mount->path('42'), 'Ada');
#   is($mount->unmount, 0);                       # exit code of the daemon
#
# Runs the daemon in the foreground as a child of the test, so that its end is seen.
use strict;
use warnings;
use Carp;
use Exporter 'import';
use Fcntl;
use File::Temp qw(tempdir);
use POSIX qw(:sys_wait_h :errno_h);
use Time::HiRes qw(time sleep);
use Cairn::Cluster qw(bin run_command wait_until);

our @EXPORT_OK = qw(read_bytes write_bytes names error_of xattr);

my @mounts;
my $owner = $$;

sub new {
    my ($class, %options) = @_;
    my $self = bless { folder => tempdir('cairn-mount-XXXXXX', DIR => '/tmp'), %options }, $class;
    mkdir "$self->{folder}/mnt" or die "mkdir: $!";
    push @mounts, $self;
    $self->mount;
    return $self;
}

sub mount {
    my ($self) = @_;
    my @command = (bin('cairn-fuse'), '-f', defined $self->{options} ? ('-o', $self->{options}) : (), $self->{source}, $self->root);
    my $pid = fork // die "fork: $!";
    if ($pid == 0) {
        open STDIN, '<', '/dev/null';
        open STDOUT, '>>', "$self->{folder}/log" or POSIX::_exit(126);
        open STDERR, '>&', \*STDOUT or POSIX::_exit(126);
        { no warnings; exec @command; }
        POSIX::_exit(127);
    }
    $self->{pid} = $pid;
    wait_until('the mount to stand', sub {
        croak "cairn-fuse ended: " . $self->log_text if waitpid($pid, WNOHANG) == $pid;
        return is_mounted($self->root);
    });
}

sub is_mounted {
    my ($path) = @_;
    open my $file, '<', '/proc/mounts' or die;
    return scalar grep { (split / /)[1] eq $path } <$file>;
}

sub root { my ($self) = @_; return "$self->{folder}/mnt"; }
sub path { my ($self, @names) = @_; return join '/', $self->root, @names; }
sub pid  { my ($self) = @_; return $self->{pid}; }

sub log_text {
    my ($self) = @_;
    open my $file, '<:raw', "$self->{folder}/log" or return '';
    local $/;
    return scalar(<$file>) // '';
}

# Waits for the daemon; its exit code, or 'signal N'.
sub reap {
    my ($self) = @_;
    my $status;
    wait_until('cairn-fuse to end', sub { waitpid($self->{pid}, WNOHANG) == $self->{pid} and defined($status = $?) });
    $self->{pid} = undef;
    return $status & 127 ? 'signal ' . ($status & 127) : $status >> 8;
}

sub unmount {
    my ($self) = @_;
    system('umount', $self->root) == 0 or system('umount', '-l', $self->root);
    return $self->reap;
}

sub destroy {
    my ($self) = @_;
    if ($self->{pid}) {
        kill 'KILL', $self->{pid};
        waitpid $self->{pid}, 0;
    }
    system('umount', '-l', $self->root) if is_mounted($self->root);
    rmdir $self->root;
    unlink "$self->{folder}/log";
    rmdir $self->{folder};
}

# --- Small helpers; each says "error: …" instead of dying, so that a test shows it.

sub read_bytes {
    my ($path) = @_;
    sysopen(my $file, $path, O_RDONLY) or return "error: $!";
    my ($bytes, $got) = ('', 0);
    while ($got = sysread $file, $bytes, 1 << 17, length $bytes) { }
    return defined $got ? $bytes : "error: $!";
}

# Creates or replaces; true, or "error: …" (which is true too: compare with 1).
sub write_bytes {
    my ($path, $bytes, $flags) = @_;
    sysopen(my $file, $path, $flags // (O_WRONLY | O_CREAT | O_TRUNC)) or return "error: $!";
    my $written = 0;
    while ($written < length $bytes) {
        my $count = syswrite $file, $bytes, length($bytes) - $written, $written;
        return "error: $!" unless defined $count;
        $written += $count;
    }
    return close($file) ? 1 : "error: $!";
}

sub names {
    my ($path) = @_;
    opendir my $folder, $path or return "error: $!";
    return join ' ', sort grep { !/^\.\.?$/ } readdir $folder;
}

# The name of the error that the code leaves in $! when it returns false; 'none' when it returns true.
sub error_of {
    my ($code) = @_;
    $! = 0;
    return 'none' if $code->();
    for my $name (qw(ENOENT EINVAL ENAMETOOLONG EFBIG ENOTDIR EISDIR ENOTEMPTY EEXIST EIO EXDEV ESTALE EPERM EROFS EACCES ENODATA EOPNOTSUPP ENOTCONN EBUSY)) {
        return $name if $!{$name};
    }
    return "$!";
}

# An extended attribute's value, undef (and $!) without.
sub xattr {
    my ($path, $name) = @_;
    my $bytes = "\0" x 256;
    my $size = syscall(191, $path, $name, $bytes, 256);    # getxattr
    return $size < 0 ? undef : substr $bytes, 0, $size;
}

END {
    if ($$ == $owner) {
        my $status = $?;
        $_->destroy for @mounts;
        $? = $status;
    }
}

1;
