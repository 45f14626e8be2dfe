package Cairn::Network;

# Nodes in network namespaces of their own, so that a test can drop what one sends to another, in one direction too. Needs root; changes
# nothing outside the test's own namespace, which goes with its processes.
#
#   Cairn::Network->unshare_or_skip;                 # first of all: runs the test again in a fresh namespace
#   my $network = Cairn::Network->new(3);
#   my $cluster = Cairn::Cluster->new(nodes => 3, network => $network, args => ['--insecure']);
#   $network->drop(1, 2);                            # packets from node 1 to node 2 vanish
#   $network->cut(1);                                # all between node 1 and other nodes; clients still reach it
#   $network->heal;
#
# The test's namespace is the router: node n has 10.77.n.2 at the end of a pair of virtual links, clients run in the router. Dropping is a
# routing rule there (blackhole), so packets vanish on their way, without an error to either side.
use strict;
use warnings;
use Test::More;
use Cairn::Cluster qw(run_command wait_until);

my @holders;
my $owner = $$;

sub unshare_or_skip {
    return if $ENV{CAIRN_NETWORK};
    plan skip_all => 'no network namespaces here (needs root and unshare)' if system('unshare -n true >/dev/null 2>&1') != 0;
    local $ENV{CAIRN_NETWORK} = 1;
    exec 'unshare', '-n', $^X, (map { "-I$_" } @INC), $0, @ARGV or die "unshare: $!";
}

sub ip {
    my (@arguments) = @_;
    my ($exit, undef, $err) = run_command(['ip', @arguments]);
    die "ip @arguments: $err" if $exit ne '0';
}

sub new {
    my ($class, $count) = @_;
    my $self = bless { count => $count, holders => [], rules => {} }, $class;
    ip(qw(link set lo up));
    open my $forward, '>', '/proc/sys/net/ipv4/ip_forward' or die;
    print $forward 1;
    close $forward;
    $self->add($_) for 1 .. $count;
    return $self;
}

sub add {
    my ($self, $n) = @_;
    pipe my $in, my $outlet or die;
    my $pid = fork // die;
    if ($pid == 0) {    # holds the namespace until the test ends, however it ends
        open STDIN, '<&', $in;
        close $outlet;
        exec 'unshare', '-n', 'cat' or POSIX::_exit(127);
    }
    close $in;
    push @holders, $pid;
    $self->{holders}[$n] = [$pid, $outlet];
    my $own = readlink '/proc/self/ns/net';
    wait_until('a namespace', sub { my $there = readlink "/proc/$pid/ns/net"; $there && $there ne $own && `cat /proc/$pid/comm` eq "cat\n" });
    ip('link', 'add', "r$n", 'type', 'veth', 'peer', 'name', "e$n");
    ip('link', 'set', "e$n", 'netns', $pid);
    ip('addr', 'add', "10.77.$n.1/24", 'dev', "r$n");
    ip('link', 'set', "r$n", 'up');
    for my $command ("ip link set lo up", "ip addr add 10.77.$n.2/24 dev e$n", "ip link set e$n up", "ip route add default via 10.77.$n.1") {
        my ($exit, undef, $err) = run_command([$self->enter($n), split / /, $command]);
        die "$command: $err" if $exit ne '0';
    }
}

sub address { my ($self, $n) = @_; return "10.77.$n.2:7400"; }
sub enter { my ($self, $n) = @_; return ('nsenter', '-n', '-t', $self->{holders}[$n][0]); }

sub drop {
    my ($self, $from, $to) = @_;
    return if $self->{rules}{"$from $to"}++;
    ip('rule', 'add', 'from', "10.77.$from.2", 'to', "10.77.$to.2", 'blackhole');
}

sub cut {
    my ($self, $n) = @_;
    for my $other (grep { $_ != $n } 1 .. $self->{count}) {
        $self->drop($n, $other);
        $self->drop($other, $n);
    }
}

sub heal {
    my ($self) = @_;
    for my $rule (keys %{ $self->{rules} }) {
        my ($from, $to) = split / /, $rule;
        ip('rule', 'del', 'from', "10.77.$from.2", 'to', "10.77.$to.2", 'blackhole');
    }
    $self->{rules} = {};
}

END {
    if ($$ == $owner) {
        my $status = $?;
        kill 'KILL', @holders;
        waitpid $_, 0 for @holders;
        $? = $status;
    }
}

1;
