# cairnd as a process: wrong options, --check-config, the three sources of options, one folder for one process, readiness told to a service
# manager, signals, three nodes configured by the environment alone.
use strict;
use warnings;
use lib 't/lib';
use Test::More;
use Cairn::Cluster qw(run_command wait_until free_ports bin);
use File::Temp qw(tempdir);
use IO::Select;
use IO::Socket::UNIX;
use POSIX qw(:sys_wait_h);
use Socket;
use Time::HiRes qw(time sleep);

my $temp   = tempdir(CLEANUP => 1);
my $cairnd = bin('cairnd');
my %running;
delete $ENV{$_} for grep { /^CAIRN_/ } keys %ENV;

END {
    my $status = $?;
    for my $pid (keys %running) { kill 'KILL', $pid; waitpid $pid, 0; }
    $? = $status;
}

sub slurp {
    open my $file, '<', $_[0] or return '';
    local $/;
    return scalar(<$file>) // '';
}

# Starts a daemon; its output goes to a file.
sub start {
    my ($log, $environment, @arguments) = @_;
    my $pid = fork // die;
    if (!$pid) {
        $ENV{$_} = $environment->{$_} for keys %$environment;
        open STDERR, '>>', $log or POSIX::_exit(126);
        { no warnings; exec $cairnd, @arguments; }
        POSIX::_exit(127);
    }
    $running{$pid} = 1;
    return $pid;
}

sub ends {
    my ($pid) = @_;
    my $status;
    my $deadline = time + 60;
    while (time < $deadline) {
        if (waitpid($pid, WNOHANG) == $pid) { $status = $?; last; }
        sleep 0.01;
    }
    delete $running{$pid} if defined $status;
    return $status;
}

sub logged {
    my ($log, $pattern) = @_;
    my $deadline = time + 60;
    while (time < $deadline) {
        return 1 if slurp($log) =~ $pattern;
        sleep 0.01;
    }
    diag(substr slurp($log), -1000);
    return 0;
}

# --- Options
my @standalone = ('--standalone', '--data', "$temp/a");
for my $case (
    [ qr/one of --bootstrap/ ],
    [ qr/did you mean listen\?/,      @standalone, '--lisen', '127.0.0.1:1' ],
    [ qr/not a loopback/,             @standalone, '--listen', '0.0.0.0:7400' ],
    [ qr/--http: .*not supported yet/, @standalone, '--http', '127.0.0.1:7480' ],
    [ qr/--join: .*not supported yet/, '--data', "$temp/a", '--join', '127.0.0.1:7400' ],
    [ qr/16 to 4096/,                 @standalone, '--partitions', '7' ],
    [ qr/nosuch\.conf/,               '--config', "$temp/nosuch.conf" ],
  )
{
    my ($pattern, @arguments) = @$case;
    my ($exit, $out, $err) = run_command([ $cairnd, @arguments ]);
    is($exit, 2, "exit 2: @arguments");
    like($err, $pattern, 'with the reason');
    is(() = $err =~ /\n/g, 1, 'in one line');
}
my ($exit, $out, $err) = run_command([ $cairnd, '--help' ]);
is($exit, 0, '--help');
like($out, qr/--election-timeout-ms MS.*\n.*CAIRN_ELECTION_TIMEOUT_MS; default 600/, 'names options, variables, defaults');
open my $file, '>', "$temp/conf" or die;
print $file "cluster-name = file\nreplicas = 5 # of some\n";
close $file;
{
    local $ENV{CAIRN_REPLICAS} = '1';
    ($exit, $out, $err) = run_command([ $cairnd, '--config', "$temp/conf", @standalone, '--check-config' ]);
}
is($exit, 0, '--check-config') or diag($err);
like($out, qr/^cluster-name = file  # file$/m, 'from the file');
like($out, qr/^replicas = 1  # environment$/m, 'the environment wins');
ok(!-e "$temp/a", 'and nothing was made');

# --- One node, told ready, with signals
my ($port) = free_ports(1);
my $socket = IO::Socket::UNIX->new(Type => SOCK_DGRAM, Local => "$temp/notify") or die;
my $log    = "$temp/a.log";
open my $config, '>', "$temp/live.conf" or die;
print $config "log-level = info\n";
close $config;
my @one = (@standalone, '--listen', "127.0.0.1:$port", '--config', "$temp/live.conf");
my $pid = start($log, { NOTIFY_SOCKET => "$temp/notify" }, @one);
ok(IO::Select->new($socket)->can_read(60), 'the service manager hears') or diag(slurp($log));
$socket->recv(my $said, 100);
is($said, 'READY=1', 'that it is ready');
($exit) = run_command([ bin('cairn'), '--endpoints', "127.0.0.1:$port", 'put', 'k', 'v' ]);
is($exit, 0, 'and it is');

my $second = start("$temp/second.log", {}, @one);
my $status = ends($second);
is($status, 1 << 8, 'a second daemon on the folder ends with 1');
like(slurp("$temp/second.log"), qr/in use by another process/, 'and says why');

kill 'USR1', $pid;
ok(logged($log, qr/^node n1 .*\n.*group 0: leader/ms), 'SIGUSR1 prints the state as a tree');
open $config, '>', "$temp/live.conf" or die;
print $config "log-level = debug\nreplicas = 2\n";
close $config;
kill 'HUP', $pid;
ok(logged($log, qr/reloaded log-level=debug/), 'SIGHUP reloads the level');
ok(logged($log, qr/restart is needed for replicas/), 'and names what needs a restart');
open $config, '>', "$temp/live.conf" or die;
print $config "log-level = loud\n";
close $config;
kill 'HUP', $pid;
ok(logged($log, qr/reload: .*loud.*nothing was changed/), 'a wrong file changes nothing');
kill 'TERM', $pid;
is(ends($pid), 0, 'SIGTERM: exit 0');
like(slurp($log), qr/signal 15: stopping/, 'with a line about it');

# --- Three nodes by the environment alone
my @ports     = free_ports(3);
my $bootstrap = join ',', map { "n$_=127.0.0.1:$ports[$_ - 1]" } 1 .. 3;
my @pids;
for my $n (1 .. 3) {
    push @pids,
      start("$temp/n$n.log",
        {
            CAIRN_NAME      => "n$n",
            CAIRN_DATA      => "$temp/n$n",
            CAIRN_LISTEN    => "127.0.0.1:$ports[$n - 1]",
            CAIRN_BOOTSTRAP => $bootstrap,
            CAIRN_PARTITIONS => 16
        });
}
ok(logged("$temp/n$_.log", qr/ ready nodes=1/), "n$_ is ready") for 1 .. 3;
($exit) = run_command([ bin('cairn'), '--endpoints', "127.0.0.1:$ports[2]", 'put', 'k', 'v' ]);
is($exit, 0, 'they take a key');
kill 'INT', @pids;
for my $n (1 .. 3) {
    is(ends($pids[$n - 1]), 0, "SIGINT: n$n exits with 0") or diag(substr slurp("$temp/n$n.log"), -3000);
}

# --- Data of another cluster
my $stranger = start("$temp/stranger.log", {}, '--name', 'n1', '--data', "$temp/a", '--listen', "127.0.0.1:$port", '--bootstrap',
    "n1=127.0.0.1:$port,n9=127.0.0.1:1");
is(ends($stranger), 1 << 8, 'another cluster\'s data: exit 1');
like(slurp("$temp/stranger.log"), qr/ERR_CLUSTER_MISMATCH/, 'named as such');
done_testing();
