# Cairn and its peers as clusters on loopback, each with its data below the scratch folder. A system is a hash: name, pids, endpoint
# (of its own tool), preload(keys), load(row, seconds, rate) → figures as `cairn bench` names them, and stop.
package Bench::Systems;
use strict;
use warnings;
use utf8;
use Exporter 'import';
use File::Path qw(make_path);
use Time::HiRes qw(sleep time);
use Bench::Process qw(spawn stop_children free_port run_json run_text);

our @EXPORT_OK = qw(start_cairn start_system);

my $WARMUP_S = 1;

# with: nodes, replicas, partitions, shim (a library to preload; the figures that it reads stand in $system->{shims}[i])
sub start_cairn {
    my ($bench, $name, %with) = @_;
    my ($programs, $scratch, $count) = (@$bench{qw(programs scratch)}, $with{nodes} || 3);
    my @ports = map { free_port() } 1 .. $count;
    my $list  = join ',', map {"n$_=127.0.0.1:$ports[$_ - 1]"} 1 .. $count;
    my (@pids, @shims);
    for my $i (1 .. $count) {
        my %environment;
        if ($with{shim}) {
            push @shims, "$scratch/$name$i.shim";
            open my $file, '>', $shims[-1] or die "$shims[-1]: $!\n";
            print $file pack 'q3', 0, 0, 0;
            close $file;
            %environment = (LD_PRELOAD => $with{shim}, CAIRN_SHIM => $shims[-1]);
        }
        push @pids, spawn("$scratch/$name$i.log", \%environment, "$programs/bin/cairnd", '--name', "n$i", '--data', "$scratch/$name$i",
            '--listen', "127.0.0.1:$ports[$i - 1]", '--bootstrap', $list,
            map { ("--$_", $with{$_}) } grep { $with{$_} } qw(partitions replicas));
    }
    my $endpoints = join ',', map {"127.0.0.1:$_"} @ports;
    my @cairn     = ("$programs/bin/cairn", '--endpoints', $endpoints);
    my $deadline  = time + 60;
    while ((run_text([@cairn, 'put', 'probe', 'x'], scratch => $scratch, timeout => 10))[0] != 0) {
        die "$name does not form, see $scratch/$name*.log\n" if time > $deadline;
        sleep 0.2;
    }
    my $system = { name => $name, pids => \@pids, endpoint => $endpoints, shims => \@shims, cairn => \@cairn, nodes => $count };
    $system->{stop}    = sub { stop_children(@pids) };
    $system->{preload} = sub {
        run_json([@cairn, 'bench', '--keys', $_[0], '--value-size', 256, '--preload', '--duration', '100ms', '--warmup', '100ms'],
            scratch => $scratch, timeout => 120 + $_[0] / 3000);
    };
    $system->{load} = sub {
        my ($row, $seconds, $rate, $warmup) = @_;
        $warmup //= $WARMUP_S;
        my $figures = run_json([@cairn, $row->{lease} ? ('--consistency', 'lease') : (), 'bench', '--clients', $row->{clients},
                '--pipeline', $row->{pipeline}, '--keys', $row->{keys} || $bench->{keys}, '--value-size', $row->{size}, '--read-share',
                $row->{reads} ? 1 : 0, '--duration', int($seconds * 1000) . 'ms', '--warmup', int($warmup * 1000) . 'ms',
                $rate ? ('--rate', $rate) : ()],
            scratch => $scratch, timeout => $seconds + $warmup + 60);
        my $errors = 0;
        $errors += $_ for values %{ $figures->{errors} };
        return { %$figures, errors => $errors, answered => $figures->{ops} * ($seconds + $warmup) / $seconds,
            bench_cpu_s => $figures->{bench_cpu_user_s} + $figures->{bench_cpu_system_s}, bench_s => $seconds + $warmup };
    };
    return $system;
}

sub peer {
    my ($bench, $name, $driver, $endpoint, $pids) = @_;
    my @load = ("$bench->{build}/bench/load", '--driver', $driver, '--endpoints', $endpoint);
    return {
        name => $name, pids => $pids, endpoint => $endpoint,
        stop    => sub { stop_children(@$pids) },
        preload => sub { run_json([@load, '--keys', $_[0], '--preload'], scratch => $bench->{scratch}, timeout => 120 + $_[0] / 1000) },
        load => sub {
            my ($row, $seconds, $rate) = @_;
            my $figures = run_json([@load, '--clients', $row->{clients}, '--pipeline', $row->{pipeline}, '--keys', $row->{keys},
                    '--value-size', $row->{size}, '--read-share', $row->{reads} ? 1 : 0, '--duration', $seconds, '--warmup', $WARMUP_S,
                    $rate ? ('--rate', $rate) : ()],
                scratch => $bench->{scratch}, timeout => $seconds + 60);
            return { %$figures, bench_s => $seconds + $WARMUP_S };
        },
    };
}

sub start_redis {
    my ($bench) = @_;
    my $scratch = $bench->{scratch};
    my @ports = map { free_port() } 1 .. 3;
    my @pids;
    for my $i (1 .. 3) {
        make_path("$scratch/redis$i");
        push @pids, spawn("$scratch/redis$i.log", 'redis-server', '--port', $ports[ $i - 1 ], '--bind', '127.0.0.1', '--dir',
            "$scratch/redis$i", '--appendonly', 'yes', '--appendfsync', 'always', '--save', '', '--daemonize', 'no',
            $i > 1 ? ('--replicaof', "127.0.0.1 $ports[0]") : ());
    }
    my $deadline = time + 60;
    while ((run_text(['redis-cli', '-p', $ports[0], 'wait', 2, 100], scratch => $scratch, timeout => 10))[1] !~ /^2/) {
        die "Redis has no replicas, see $scratch/redis*.log\n" if time > $deadline;
        sleep 0.2;
    }
    return { %{ peer($bench, 'redis', 'redis', "127.0.0.1:$ports[0]", \@pids) }, port => $ports[0] };
}

sub start_etcd {
    my ($bench, $name, $gogc) = @_;
    my $scratch = $bench->{scratch};
    my @ports = map { [free_port(), free_port()] } 1 .. 3;
    my $list  = join ',', map {"e$_=http://127.0.0.1:$ports[$_ - 1][1]"} 1 .. 3;
    my @pids;
    for my $i (1 .. 3) {
        my ($client, $peer) = map {"http://127.0.0.1:$_"} @{ $ports[ $i - 1 ] };
        push @pids, spawn("$scratch/$name$i.log", { GOGC => $gogc }, 'etcd', '--name', "e$i", '--data-dir', "$scratch/$name$i",
            '--listen-client-urls', $client, '--advertise-client-urls', $client, '--listen-peer-urls', $peer,
            '--initial-advertise-peer-urls', $peer, '--initial-cluster', $list, '--initial-cluster-state', 'new',
            '--quota-backend-bytes', 16 << 30, '--log-level', 'error');
    }
    my $deadline = time + 60;
    while (time < $deadline) {
        sleep 0.3;
        for my $endpoint (map {"127.0.0.1:$_->[0]"} @ports) {
            my (undef, $status) = run_text(['env', 'ETCDCTL_API=3', 'etcdctl', '--endpoints', $endpoint, 'endpoint', 'status', '-w', 'fields'],
                scratch => $scratch, timeout => 10);
            my ($member) = $status =~ /"MemberID" : (\d+)/;
            my ($leader) = $status =~ /"Leader" : (\d+)/;
            return peer($bench, $name, 'etcd', $endpoint, \@pids) if $leader && $leader eq ($member // '');
        }
    }
    die "etcd elects no leader, see $scratch/$name*.log\n";
}

sub start_system {
    my ($bench, $name) = @_;
    return $name eq 'cairn' ? start_cairn($bench, 'cairn') : $name eq 'redis' ? start_redis($bench)
        : $name eq 'etcd' ? start_etcd($bench, 'etcd', 100) : $name eq 'etcd-gogc400' ? start_etcd($bench, $name, 400)
        :                   die "$name: no such system\n";
}

1;
