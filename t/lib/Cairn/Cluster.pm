package Cairn::Cluster;

# A cluster of real cairnd processes for a test: free ports, a temporary folder, everything ended and removed at the end, also after
# failure. Signals go only to processes that were started here.
#
#   my $cluster = Cairn::Cluster->new(nodes => 3);   # started and ready
#   my ($exit, $out, $err) = $cluster->cairn('put', 'a', 'b');
#   $cluster->kill9(1); $cluster->start(1); $cluster->wait_ready;
#
# Nodes are counted from 1. Options of new: nodes (3), args (more options for every cairnd), standalone, folder (kept by the caller),
# start (1; 0: the caller starts), network (a Cairn::Network: each node in its own namespace), shims (1: each node under t/lib/shim.c,
# see the methods clock_offset, disk_delay and store_hangs).
use strict;
use warnings;
use Carp;
use Cwd qw(abs_path);
use Exporter 'import';
use Fcntl qw(O_RDWR O_CREAT);
use File::Path qw(remove_tree);
use File::Temp qw(tempdir);
use IO::Socket::INET;
use JSON::PP qw(decode_json);
use POSIX qw(:sys_wait_h);
use Time::HiRes qw(time sleep);

our @EXPORT_OK = qw(run_command wait_until free_ports bin);

my @clusters;    # to be ended whatever happens
my $owner = $$;

sub bin {
    my ($name) = @_;
    return abs_path($ENV{BUILD} // 'build') . "/bin/$name";
}

# As many free ports of loopback as asked; they were free a moment ago.
sub free_ports {
    my ($count) = @_;
    my @sockets = map { IO::Socket::INET->new(Listen => 1, LocalAddr => '127.0.0.1', LocalPort => 0) || die "socket: $!" } 1 .. $count;
    return map { $_->sockport } @sockets;
}

# Runs a command to its end: (exit code, stdout, stderr). Options: input => bytes, timeout => seconds (60). A command that is late
# is killed, and exit is 'timeout'.
sub run_command {
    my ($command, %options) = @_;
    my $folder = File::Temp->newdir;    # removed when this returns, in whichever process
    if (defined $options{input}) {
        open my $file, '>:raw', "$folder/in" or die;
        print $file $options{input};
        close $file;
    }
    my $pid = fork // die "fork: $!";
    if ($pid == 0) {
        open STDIN, '<', defined $options{input} ? "$folder/in" : '/dev/null' or POSIX::_exit(126);
        open STDOUT, '>', "$folder/out" or POSIX::_exit(126);
        open STDERR, '>', "$folder/err" or POSIX::_exit(126);
        { no warnings; exec @$command; }
        POSIX::_exit(127);
    }
    my $deadline = time + ($options{timeout} // 60);
    my $exit;
    while (1) {
        if (waitpid($pid, WNOHANG) == $pid) {
            $exit = $? & 127 ? 'signal ' . ($? & 127) : $? >> 8;
            last;
        }
        if (time > $deadline) {
            kill 'KILL', $pid;
            waitpid $pid, 0;
            $exit = 'timeout';
            last;
        }
        sleep 0.002;
    }
    my @texts;
    for my $name (qw(out err)) {
        open my $file, '<:raw', "$folder/$name" or die;
        local $/;
        push @texts, scalar(<$file>) // '';
    }
    return ($exit, @texts);
}

# Waits until the code returns true; croaks with what it waited for after the deadline (seconds, 30).
sub wait_until {
    my ($what, $code, $seconds) = @_;
    my $deadline = time + ($seconds // 30);
    while (1) {
        my $value = $code->();
        return $value if $value;
        croak "waited too long for $what" if time > $deadline;
        sleep 0.02;
    }
}

sub new {
    my ($class, %options) = @_;
    my $count = $options{standalone} ? 1 : $options{nodes} // 3;
    my $self = bless {
        count  => $count,
        args   => $options{args} // [],
        folder => $options{folder} // tempdir('cairn-XXXXXX', DIR => '/tmp'),
        pids   => [],
        kept   => defined $options{folder},
    }, $class;
    $self->{standalone} = $options{standalone};
    $self->{network} = $options{network};
    $self->{shims} = $options{shims};
    $self->{ports} = [free_ports($count)];
    push @clusters, $self;
    if ($options{start} // 1) {
        $self->start($_) for 1 .. $count;
        $self->wait_ready;
    }
    return $self;
}

sub address {
    my ($self, $n) = @_;
    return $self->{network} ? $self->{network}->address($n) : "127.0.0.1:$self->{ports}[$n - 1]";
}
sub folder  { my ($self, $n) = @_; return defined $n ? "$self->{folder}/n$n" : $self->{folder}; }
sub pid     { my ($self, $n) = @_; return $self->{pids}[$n]; }
sub nodes   { my ($self) = @_; return 1 .. $self->{count}; }

sub endpoints {
    my ($self) = @_;
    return join ',', map { $self->address($_) } $self->nodes;
}

sub bootstrap {
    my ($self) = @_;
    return join ',', map { "n$_=" . $self->address($_) } $self->nodes;
}

# Starts one node; does not wait for it.
sub start {
    my ($self, $n, @more) = @_;
    croak "node $n runs already" if $self->{pids}[$n];
    my @how = $self->{standalone} ? ('--standalone') : ('--bootstrap', $self->bootstrap);
    my @command = (bin('cairnd'), '--name', "n$n", '--data', $self->folder($n), '--listen', $self->address($n), @how, @{ $self->{args} }, @more);
    unshift @command, $self->{network}->enter($n) if $self->{network};
    $self->shim($n) if $self->{shims};
    my $pid = fork // die "fork: $!";
    if ($pid == 0) {
        @ENV{qw(LD_PRELOAD CAIRN_SHIM)} = (abs_path($ENV{BUILD} // 'build') . '/t/shim.so', "$self->{folder}/n$n.shim") if $self->{shims};
        open STDIN, '<', '/dev/null';
        open STDOUT, '>>', "$self->{folder}/n$n.log" or POSIX::_exit(126);
        open STDERR, '>&', \*STDOUT or POSIX::_exit(126);
        { no warnings; exec @command; }
        POSIX::_exit(127);
    }
    $self->{pids}[$n] = $pid;
    return $pid;
}

# Waits until every running node knows a primary for each of its partitions, as a client sees it.
sub wait_ready {
    my ($self, $seconds) = @_;
    wait_until("the cluster to answer (see $self->{folder})", sub {
        my ($exit) = $self->cairn('--timeout', '2s', 'ls', '--limit', '1');
        return $exit eq '0';
    }, $seconds // 60);
}

# Waits until every partition is led by its preferred replica, the first that the topology names. Before that, who leads is chance.
sub wait_settled {
    my ($self, $seconds) = @_;
    return if eval { wait_until('primaries to be at their preferred nodes', sub { is_settled($self->endpoints) }, $seconds // 60) };
    my $why = $@;
    croak join "\n", $why, map { join ' ', grep {defined} ($self->cairn('--timeout', '10s', @$_))[1, 2] } ['status'], ['partition', 'list'];
}

sub is_settled {
    my ($endpoints) = @_;
    my ($exit, $out) = run_command([bin('cairn'), '--endpoints', $endpoints, '--timeout', '2s', 'partition', 'list', '-o', 'json']);
    my $list = $exit eq '0' ? eval { decode_json($out) } : undef;
    return $list && !grep { $_->{group} && ($_->{primary} // '') ne $_->{replicas}[0]{node} } @$list;
}

# cairn with this cluster's endpoints.
sub cairn {
    my ($self, @args) = @_;
    my %options = ref $args[-1] eq 'HASH' ? %{ pop @args } : ();
    return run_command([bin('cairn'), '--endpoints', $self->endpoints, @args], %options);
}

# The node that leads a key's partition. `locate` tells what one node knows at that moment, which is nobody for some milliseconds
# (some tens on a busy machine) whenever leadership passes from one to another; how long it may take is for other tests to say.
sub primary_of {
    my ($self, $key) = @_;
    return wait_until("a primary of $key", sub { ($self->cairn('locate', $key))[1] =~ /^n(\d+)/ ? $1 : 0 });
}

sub signal {
    my ($self, $n, $signal) = @_;
    my $pid = $self->{pids}[$n] or croak "node $n does not run";
    kill $signal, $pid or croak "kill: $!";
}

sub reap {
    my ($self, $n, $seconds) = @_;
    my $pid = $self->{pids}[$n] or return;
    my $status;
    wait_until("node $n to end", sub { waitpid($pid, WNOHANG) == $pid and defined($status = $?) }, $seconds // 20);
    $self->{pids}[$n] = undef;
    return $status & 127 ? 'signal ' . ($status & 127) : $status >> 8;
}

# Returns at once when the process is gone.
sub kill9 { my ($self, $n) = @_; $self->signal($n, 'KILL'); return $self->reap($n); }
# SIGTERM; returns the exit code.
sub stop   { my ($self, $n) = @_; $self->signal($n, 'TERM'); return $self->reap($n); }
sub pause  { my ($self, $n) = @_; $self->signal($n, 'STOP'); }
sub resume { my ($self, $n) = @_; $self->signal($n, 'CONT'); }
sub is_running { my ($self, $n) = @_; my $pid = $self->{pids}[$n]; return $pid && waitpid($pid, WNOHANG) == 0; }

# What the shim of a node does from now on: (clock offset, delay of syncs, delay of writes), all in µs, whether syncs of the store hang; kept over restarts.
sub shim {
    my ($self, $n, %change) = @_;
    my $values = $self->{shim}[$n] //= { clock => 0, sync => 0, write => 0, hang => 0 };
    %$values = (%$values, %change);
    sysopen my $file, "$self->{folder}/n$n.shim", O_RDWR | O_CREAT or die "$self->{folder}/n$n.shim: $!";
    syswrite($file, pack('q4', @$values{qw(clock sync write hang)})) == 32 or die;
}
sub clock_offset { my ($self, $n, $seconds) = @_; $self->shim($n, clock => int($seconds * 1e6)); }
sub disk_delay   { my ($self, $n, $seconds) = @_; $self->shim($n, sync => int($seconds * 1e6), write => int($seconds * 1e5)); }
sub store_hangs  { my ($self, $n, $hangs) = @_; $self->shim($n, hang => $hangs ? 1 : 0); }

sub log_text {
    my ($self, $n) = @_;
    open my $file, '<', "$self->{folder}/n$n.log" or return '';
    local $/;
    return scalar(<$file>) // '';
}

sub destroy {
    my ($self) = @_;
    for my $n ($self->nodes) {
        my $pid = $self->{pids}[$n] or next;
        kill 'CONT', $pid;
        kill 'KILL', $pid;
        waitpid $pid, 0;
        $self->{pids}[$n] = undef;
    }
    remove_tree($self->{folder}) unless $self->{kept} || $ENV{CAIRN_KEEP};
}

END {
    if ($$ == $owner) {
        my $status = $?;
        $_->destroy for @clusters;
        $? = $status;
    }
}
$SIG{INT} = $SIG{TERM} = sub { exit 1 };

1;
