# What is measured besides the rows: scans, rest, how cost grows, a slow disk, the doors, the peers' own tools. Each returns a hash of
# figures that Bench::Report knows by name.
package Bench::Sections;
use strict;
use warnings;
use utf8;
use Exporter 'import';
use Time::HiRes qw(sleep time);
use Bench::Process qw(run_text run_json at_end cpu_of anonymous_of host_took settle);
use Bench::Systems qw(start_cairn);

our @EXPORT_OK = qw(measure scans rest own_tools five_nodes partitions nodes slow_disk doors ten_times profiles);

my %PUT_50  = (name => 'put-50',  clients => 50,  pipeline => 1, size => 256);
my %PUT_200 = (name => 'put-200', clients => 200, pipeline => 1, size => 256);
my %GET_50  = (name => 'get-50',  clients => 50,  pipeline => 1, size => 256, reads => 1);

my $HOST_MAX = 0.05;    # of the processors' time
my %HAS_GOAL = map { $_ => 1 } qw(put-1 put-50 put-200 put-50x16 put-50-10k get-50 get-50x16 lease-50);

# One row on one system. Where the host gave more of the processors' time to others than $HOST_MAX, a row with a goal is measured again, three
# times at most and as long as $bench->{again} seconds last for all; the measurement from which the host took least counts.
sub measure {
    my ($bench, $system, $systems, $row, @with) = @_;
    my $best;
    for my $attempt (1 .. 3) {
        my $begin   = time;
        my $figures = measure_once($bench, $system, $systems, $row, @with);
        my $took    = time - $begin;
        $best = $figures if !$best || $figures->{host_share} < $best->{host_share};
        last if $best->{host_share} <= $HOST_MAX || !$HAS_GOAL{ $row->{name} } || $attempt == 3 || $took > $bench->{again};
        printf "  %.0f/s, but the host took %.0f %%: again\n", $figures->{ops_per_s}, 100 * $figures->{host_share};
        $bench->{again} -= $took;
    }
    return $best;
}

# All in @$systems were quiet before and are after, within bounds. What the servers wrote and computed after the load had ended (flushes) counts
# too, less what they take at rest.
sub measure_once {
    my ($bench, $system, $systems, $row, $seconds, $rate) = @_;
    my $cpu     = cpu_of(@{ $system->{pids} });
    my $written = Bench::Process::bytes_written($bench->{scratch});
    my ($taken, $all) = host_took();
    my $figures = $system->{load}->($row, $seconds, $rate);
    my ($taken_then, $all_then) = host_took();
    my $rest = settle($systems, scratch => $bench->{scratch}, at_most => $bench->{settle}, quiet => $bench->{quiet});
    my $answered = $figures->{answered} || 1;
    my $spent = cpu_of(@{ $system->{pids} }) - $cpu - $rest->{idle}{ $system->{name} } * $rest->{seconds};
    my $user  = $answered * ($row->{size} + 18) * ($system->{replicas} || 3);
    return {
        ops_per_s => $figures->{ops_per_s}, errors => $figures->{errors},
        p50 => $figures->{latency_us}{p50}, p99 => $figures->{latency_us}{p99}, p999 => $figures->{latency_us}{p999},
        cpu_us => 1e6 * $spent / $answered,
        load_share => ($figures->{bench_cpu_s} || 0) / $figures->{bench_s},
        amplification => defined $written ? (Bench::Process::bytes_written($bench->{scratch}) - $written) / $user : undef,
        host_share => ($taken_then - $taken) / ($all_then - $all || 1),
        settled_s => $rest->{seconds}, settled => $rest->{is_quiet} ? 1 : 0,
    };
}

sub told {
    my ($what, $figures) = @_;
    printf "  %-28s %9.0f/s  p50 %7d  p99 %7d µs  cpu %6.1f µs  host %2.0f %%%s\n", $what, @$figures{qw(ops_per_s p50 p99 cpu_us)},
        100 * $figures->{host_share}, $figures->{errors} ? "  errors $figures->{errors}" : '';
    return $figures;
}

# A cluster of its own with its keys stored, quiet.
sub fresh {
    my ($bench, $name, $keys, %with) = @_;
    my $system = start_cairn($bench, $name, %with);
    $system->{replicas} = $with{replicas} || 3;
    $system->{preload}->($keys);
    settle([$system], scratch => $bench->{scratch}, at_most => $bench->{settle} * 3, quiet => $bench->{quiet});
    return $system;
}

sub fewer_keys { my ($bench) = @_; return $bench->{keys} < 100_000 ? $bench->{keys} : 100_000 }

# --- On the cluster of the rows

sub scans {
    my ($bench, $system) = @_;
    my %result;
    for my $what (qw(keys values)) {
        my $before = anonymous_of(@{ $system->{pids} });
        my $most   = $before;
        my $cpu    = cpu_of(@{ $system->{pids} });
        my $found  = run_json(["$bench->{programs}/bench/scan", $system->{endpoint}, $what], scratch => $bench->{scratch}, timeout => 300,
            poll => sub { my $now = anonymous_of(@{ $system->{pids} }); $most = $now if $now > $most });
        $result{$what} = {
            entries => $found->{entries}, per_s => $found->{entries} / $found->{seconds}, grown_bytes => $most - $before,
            cpu_us => 1e6 * (cpu_of(@{ $system->{pids} }) - $cpu) / $found->{entries}, load_share => $found->{bench_cpu_s} / $found->{seconds},
        };
        printf "  scan %-7s %9.0f/s of %d, servers grew by %.1f MiB\n", $what, @{ $result{$what} }{qw(per_s entries)},
            $result{$what}{grown_bytes} / (1 << 20);
    }
    return \%result;
}

sub rest {
    my ($bench, $system, $seconds) = @_;
    my $cpu = cpu_of(@{ $system->{pids} });
    sleep $seconds;
    my %result = (cpu_share => (cpu_of(@{ $system->{pids} }) - $cpu) / $seconds / $system->{nodes}, anonymous_bytes => anonymous_of(@{ $system->{pids} }));
    printf "  at rest: %.2f %% of a core a node, %.1f MiB of anonymous memory\n", 100 * $result{cpu_share}, $result{anonymous_bytes} / (1 << 20);
    return \%result;
}

sub own_tools {
    my ($bench, %systems) = @_;
    my %result;
    if ($systems{redis}) {
        my (undef, $text) = run_text(['redis-benchmark', '-p', $systems{redis}{port}, '-c', 50, '-n', 200_000, '-d', 256, '-r', $bench->{keys},
                '-t', 'set,get', '--csv'], scratch => $bench->{scratch}, timeout => 60);
        while ($text =~ /^"(SET|GET)","([\d.]+)",(?:"[\d.]+",){2}"([\d.]+)",(?:"[\d.]+",)"([\d.]+)"/mg) {
            $result{"redis-benchmark, 50 clients: $1" . ($1 eq 'SET' ? ' (without WAIT, which it can\'t do)' : '')} = sprintf '%d/s, p50 %d µs, p99 %d µs',
                $2, $3 * 1000, $4 * 1000;
        }
    }
    if ($systems{etcd}) {
        my $load = $bench->{seconds} < 10 ? 's' : 'xl';
        my (undef, $text, $more) = run_text(['env', 'ETCDCTL_API=3', 'etcdctl', '--endpoints', $systems{etcd}{endpoint}, 'check', 'perf', "--load=$load"],
            scratch => $bench->{scratch}, timeout => 120);
        my @lines = grep {/^(?:PASS|FAIL|Slowest|.*hroughput)/} map { s/.*\r//r } split /\n/, ($text // '') . ($more // '');
        $result{"etcdctl check perf --load=$load (its rate is limited)"} = join '; ', @lines if @lines;
    }
    print "  $_: $result{$_}\n" for sort keys %result;
    return \%result;
}

# --- On clusters of their own

sub five_nodes {
    my ($bench, $seconds) = @_;
    my $system = fresh($bench, 'five', 1000, nodes => 5);
    my $figures = told('five nodes, put 10 KB', measure($bench, $system, [$system],
            { name => 'put-50-10k', clients => 50, pipeline => 1, size => 10240, keys => fewer_keys($bench) }, $seconds));
    $system->{stop}->();
    return $figures;
}

# CPU per put by shape of the cluster, in turn; the median of the rounds.
sub shapes {
    my ($bench, $seconds, $rows, @shapes) = @_;
    my %result;
    my $sample = $seconds < 5 ? $seconds : 5;
    for my $round (1 .. $bench->{rounds}) {
        for my $shape (@shapes) {
            my ($name, %with) = @$shape;
            my $system = fresh($bench, "shape$round" . $name =~ s/\W+/-/gr, fewer_keys($bench), %with);
            $result{$name}{rest} ||= rest($bench, $system, $seconds > 20 ? 20 : $seconds);
            for my $row (@$rows) {
                push @{ $result{$name}{ $row->{name} } }, told("$name, $row->{name}",
                    measure($bench, $system, [$system], { %$row, keys => fewer_keys($bench) }, $seconds));
            }
            $result{$name}{profile} ||= sampled($bench, $system, $sample, sub { $system->{load}->({ %{ $rows->[0] }, keys => fewer_keys($bench) }, $sample + 1) });
            $system->{stop}->();
        }
    }
    return \%result;
}

sub partitions {
    my ($bench, $seconds) = @_;
    return shapes($bench, $seconds, [\%PUT_50, \%PUT_200], map { ["$_ partitions", partitions => $_] } 128, 1024);
}

sub nodes {
    my ($bench, $seconds) = @_;
    return shapes($bench, $seconds, [\%PUT_50], ['3 nodes, 3 replicas', nodes => 3, replicas => 3],
        ['7 nodes, 3 replicas', nodes => 7, replicas => 3], ['7 nodes, 7 replicas', nodes => 7, replicas => 7]);
}

sub count_primaries {
    my ($bench, $system, $node) = @_;
    my ($status, $text) = run_text([@{ $system->{cairn} }, '-o', 'json', 'status'], scratch => $bench->{scratch}, timeout => 20);
    my $all = eval { JSON::PP::decode_json($text) } or return undef;
    return scalar grep { ($_->{primary} // '') eq $node } @{ $all->{partitions} || [] };
}

# The disk of n1 gets a hundred times slower under an open loop of half the load that the healthy cluster takes.
sub slow_disk {
    my ($bench, $seconds, $sync_us) = @_;
    my $shim   = `readlink -f $bench->{build}/t/shim.so`;
    chomp $shim;
    my $keys   = fewer_keys($bench);
    my $system = fresh($bench, 'slow', $keys, shim => $shim);
    my $row    = { %PUT_50, keys => $keys };
    my $rate   = int($system->{load}->($row, $seconds)->{ops_per_s} / 2) || 1;
    my %result = (rate => $rate, delay_us => 99 * $sync_us, primaries_before => count_primaries($bench, $system, 'n1'));
    my $set = sub {
        open my $file, '+<', $system->{shims}[0] or die "$system->{shims}[0]: $!\n";
        syswrite $file, pack('q3', 0, @_) or die "$system->{shims}[0]: $!\n";
    };
    my $window = sub {
        my ($what, $warmup) = @_;
        my $figures = $system->{load}->($row, $seconds, $rate, $warmup);
        $result{$what} = { ops_per_s => $figures->{ops_per_s}, errors => $figures->{errors}, p50 => $figures->{latency_us}{p50}, p99 => $figures->{latency_us}{p99} };
        $result{"primaries_$what"} = count_primaries($bench, $system, 'n1');
        printf "  %-28s %9.0f/s  p50 %7d  p99 %7d µs  primaries there %s%s\n", $what, @{ $result{$what} }{qw(ops_per_s p50 p99)},
            $result{"primaries_$what"} // '?', $figures->{errors} ? "  errors $figures->{errors}" : '';
    };
    $window->('healthy', 5);
    $set->(99 * $sync_us, 10 * $sync_us);    # a write into the page cache that has to wait for room there
    $window->('slow', 5);
    $window->('slow later', 0);
    $set->(0, 0);
    $window->('healed', 5);
    $system->{stop}->();
    return \%result;
}

# Ten times as many keys, side by side.
sub ten_times {
    my ($bench, $seconds, $keys) = @_;
    my @systems;
    for my $count ($keys, 10 * $keys) {
        print "  storing $count keys\n";
        my $system = start_cairn($bench, "keys$count");
        $system->{preload}->($count);
        push @systems, { %$system, keys => $count };
    }
    settle(\@systems, scratch => $bench->{scratch}, at_most => 300, quiet => $bench->{quiet});
    my %result = (keys => $keys);
    for my $round (1 .. $bench->{rounds}) {
        for my $row (\%GET_50, \%PUT_50) {
            for my $system (@systems) {
                push @{ $result{ $row->{name} }{ $system->{keys} } }, told("$system->{keys} keys, $row->{name}",
                    measure($bench, $system, \@systems, { %$row, keys => $system->{keys} }, $seconds));
            }
        }
    }
    $_->{stop}->() for @systems;
    return \%result;
}

# --- Where the servers' time goes, sampled by perf while the load runs

# Runs $load, which takes $seconds and some more. Shares in percent: of programs and libraries, and of functions by what they take themselves.
# LMDB's own functions bear no names in Debian's library: they are one line. undef: there is no perf.
sub sampled {
    my ($bench, $system, $seconds, $load) = @_;
    return undef if system('which perf >/dev/null 2>&1') != 0;
    my $file = "$bench->{scratch}/perf.data";
    unlink $file;
    my $perf = Bench::Process::spawn("$bench->{scratch}/perf.log", 'perf', 'record', '-q', '-e', 'cpu-clock', '-F', 499, '-o', $file,
        '-p', join(',', @{ $system->{pids} }), '--', 'sleep', $seconds);
    $load->();
    my $deadline = time + 20;
    sleep 0.1 while !Bench::Process::reap($perf) && time < $deadline;
    my %found;
    my (undef, $text) = run_text(['perf', 'report', '-i', $file, '--no-children', '--stdio', '-q', '--sort', 'dso,symbol', '--percent-limit', 0.05],
        scratch => $bench->{scratch}, timeout => 60);
    for (split /\n/, $text // '') {
        my ($percent, $of, $kind, $name) = /^\s+([\d.]+)%\s+(\S+)\s+\[(.)\]\s+(\S+)/ or next;
        $of = 'kernel' if $kind eq 'k';
        $found{objects}{$of} += $percent;
        $found{functions}{ $name =~ /^0x/ ? 'without a name' : $name }{$of} += $percent;
    }
    return \%found;
}

sub profiles {
    my ($bench, $system, $seconds) = @_;
    my %result;
    my @rows = (\%PUT_50, \%PUT_200, { %PUT_50, name => 'put-50x16', pipeline => 16 }, \%GET_50, { %GET_50, name => 'get-50x16', pipeline => 16 },
        { %PUT_50, name => 'put-50-10k', size => 10240, keys => fewer_keys($bench) });    # last: it leaves large values behind
    my %todo = map { my $row = $_; $row->{name} => sub { $system->{load}->($row, $seconds + 1) } } @rows;
    for my $what (qw(keys values)) {
        $todo{"scan-$what"} = sub { run_text(["$bench->{programs}/bench/scan", $system->{endpoint}, $what], scratch => $bench->{scratch}, timeout => 300) };
    }
    $todo{rest} = sub { sleep 4 * $seconds };    # few samples a second
    my %lasts = ('scan-keys' => 1, 'scan-values' => 1, rest => 4 * $seconds);
    for my $name ('rest', 'scan-keys', 'scan-values', map { $_->{name} } @rows) {
        $result{$name} = sampled($bench, $system, $lasts{$name} // $seconds, $todo{$name}) or return {};
    }
    return \%result;
}

# The doors: files on the mount, SQL by pgbench; one caller, one after another. Seconds each.
sub doors {
    my ($bench) = @_;
    my ($programs, $scratch, $directory) = (@$bench{qw(programs scratch)}, "$bench->{scratch}/doors");
    my $is_up = 1;
    my $end = sub { system("$programs/bin/cairn dev destroy --dir $directory >>$scratch/doors.log 2>&1") if $is_up; $is_up = 0 };
    at_end($end);
    if (system("timeout 120 $programs/bin/cairn dev up --nodes 3 --dir $directory --mount --pg >$scratch/doors.log 2>&1") != 0) {
        print "  not measured, see $scratch/doors.log\n";
        $end->();
        return undef;
    }
    my ($count, $value, %figures) = (2000, 'x' x 1024);
    my $begin = time;
    for my $i (1 .. $count) {
        open my $file, '>', "$directory/mnt/bench-$i" or die "mount: $!\n";
        syswrite $file, $value;
        close $file or die "mount: $!\n";
    }
    $figures{'file: create, write 1 KB, close'} = (time - $begin) / $count;
    $begin = time;
    for my $i (1 .. $count) {
        open my $file, '<', "$directory/mnt/bench-$i" or die "mount: $!\n";
        sysread($file, my $read, 4096) == 1024 or die "mount: a short file\n";
        close $file;
    }
    $figures{'file: open, read 1 KB, close'} = (time - $begin) / $count;
    my %environment;
    if (open my $env, '<', "$directory/env") {
        while (defined(my $line = <$env>)) { $environment{$1} = $2 while $line =~ /\b(PG\w+)='?([^'\s]*)/g }
    }
    local @ENV{ keys %environment } = values %environment;
    my ($pgbench) = grep {-x} glob '/usr/lib/postgresql/*/bin/pgbench';
    my %scripts = (
        'SQL: SELECT by key' => "\\set n random(1, $count)\nSELECT value FROM kv WHERE key = 'bench-' || :n;\n",
        'SQL: INSERT'        => "INSERT INTO kv (key, value) VALUES ('sql/' || gen_random_uuid(), repeat('x', 256));\n",
    );
    for my $name (sort keys %scripts) {
        my $script = "$scratch/pgbench.sql";
        open my $file, '>', $script or die "$script: $!\n";
        print $file $scripts{$name};
        close $file;
        my (undef, $text) = run_text([$pgbench, '-n', '-f', $script, '-T', 5], scratch => $scratch, timeout => 60);
        $text =~ /latency average = ([\d.]+) ms/ or die "pgbench: $text\n";
        $figures{$name} = $1 / 1000;
    }
    $end->();
    printf "  %-36s %6.0f µs\n", $_, 1e6 * $figures{$_} for sort keys %figures;
    return \%figures;
}

1;
