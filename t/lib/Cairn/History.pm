package Cairn::History;

# Concurrent clients (t/lib/history.c) whose history is judged at the end (build/t/linear), for tests of faults.
#
#   my $history = Cairn::History->start($cluster, 'pause');          # the keys are pause/0 …
#   $history->wait_progress(200);                                    # that many more operations were answered
#   … a fault …
#   my $said = $history->stop;                                       # { operations, ok, unknown, failed, gap_ms }
#   is($history->verdict, '', 'linearizable');                       # '' or what linear says
#
# Options of start: clients (8), keys (5), timeout_ms (5000), endpoints (the cluster's), seed (drawn and told by diag on failure).
use strict;
use warnings;
use Carp;
use Cairn::Cluster qw(run_command wait_until);

my @running;
my $owner = $$;

sub program { return ($ENV{BUILD} // 'build') . "/t/$_[0]" }

sub start {
    my ($class, $cluster, $name, %options) = @_;
    my $seed = $options{seed} // $ENV{SEED} // int rand 1e9;
    my $self = bless { file => $cluster->folder . "/$name.history", out => $cluster->folder . "/$name.said", seed => $seed }, $class;
    my @command = (program('history'), $options{endpoints} // $cluster->endpoints, "$name/", $options{clients} // 8, $options{keys} // 5,
        $options{timeout_ms} // 5000, $seed, $self->{file});
    my $pid = fork // die "fork: $!";
    if ($pid == 0) {
        open STDIN, '<', '/dev/null';
        open STDOUT, '>', $self->{out} or POSIX::_exit(126);
        { no warnings; exec @command; }
        POSIX::_exit(127);
    }
    $self->{pid} = $pid;
    push @running, $self;
    return $self;
}

sub count {
    my ($self) = @_;
    open my $in, '<', $self->{file} or return 0;
    my $count = 0;
    $count++ while <$in>;
    return $count;
}

# Waits until so many more operations have been answered.
sub wait_progress {
    my ($self, $more, $seconds) = @_;
    my $goal = $self->count + $more;
    wait_until("$more more operations", sub { $self->count >= $goal }, $seconds // 30);
}

sub stop {
    my ($self) = @_;
    kill 'TERM', $self->{pid};
    wait_until('the clients to end', sub { waitpid($self->{pid}, 1) == $self->{pid} ? 1 : 0 }, 60);
    my $status = $?;
    $self->{pid} = undef;
    open my $in, '<', $self->{out} or die;
    my $said = <$in> // '';
    croak "history ended with $status: $said" if $status != 0;
    return {$said =~ /(\w+) (\d+)/g};
}

# '' when the history is linearizable, else what the checker says; undecided is not good enough either.
sub verdict {
    my ($self) = @_;
    my ($exit, $out, $err) = run_command([program('linear'), $self->{file}], timeout => 120);
    return $exit eq '0' ? '' : "seed $self->{seed}, exit $exit:\n$out$err";
}

END {
    if ($$ == $owner) {
        my $status = $?;
        for my $history (@running) {
            kill 'KILL', $history->{pid} if $history->{pid};
            waitpid $history->{pid}, 0 if $history->{pid};
        }
        $? = $status;
    }
}

1;
