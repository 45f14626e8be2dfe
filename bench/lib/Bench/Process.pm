# Processes of a benchmark: started in groups of their own and ended whatever happens; what they took; when they are quiet.
package Bench::Process;
use strict;
use warnings;
use utf8;
use Exporter 'import';
use IO::Socket::INET;
use JSON::PP;
use POSIX qw(:sys_wait_h);
use Time::HiRes qw(sleep time);

our @EXPORT_OK = qw(spawn end_children stop_children free_port run_text run_json at_end cpu_of anonymous_of bytes_written host_took settle);

my %children;    # pid => 1
my @last_wishes;
my $owner = $$;
my $ticks = POSIX::sysconf(POSIX::_SC_CLK_TCK());

# Starts a command; its output goes to the file. A hash before the command is added to its environment.
sub spawn {
    my ($output, @command) = @_;
    my %environment = ref $command[0] ? %{ shift @command } : ();
    my $pid = fork() // die "fork: $!";
    if ($pid == 0) {
        setpgrp(0, 0);
        $ENV{$_} = $environment{$_} for keys %environment;
        open STDIN,  '<',  '/dev/null' or POSIX::_exit(126);
        open STDOUT, '>>', $output     or POSIX::_exit(126);
        open STDERR, '>&', \*STDOUT    or POSIX::_exit(126);
        { no warnings; exec @command; }
        POSIX::_exit(127);
    }
    $children{$pid} = 1;
    return $pid;
}

sub reap { my ($pid) = @_; return delete $children{$pid} if waitpid($pid, WNOHANG) != 0; return undef }

# Ends these, by force after 15 s.
sub stop_children {
    my @left = grep { $children{$_} } @_;
    kill TERM => @left if @left;
    my $deadline = time + 15;
    while (@left && time < $deadline) {
        @left = grep { !reap($_) } @left;
        sleep 0.05;
    }
    kill KILL => map { -$_ } @left if @left;
    for (@left) { waitpid $_, 0; delete $children{$_} }
}
sub end_children { stop_children(keys %children) }
# Called before the end, also after a failure.
sub at_end { push @last_wishes, @_ }

$SIG{INT} = $SIG{TERM} = $SIG{HUP} = sub { exit 1 };
END {
    if ($$ == $owner) {
        my $status = $?;
        $_->() for splice @last_wishes;
        end_children();
        $? = $status;
    }
}

my %taken;
sub free_port {
    for (1 .. 1000) {
        my $socket = IO::Socket::INET->new(Listen => 1, LocalAddr => '127.0.0.1', LocalPort => 0) or die "port: $!\n";
        my $port = $socket->sockport;
        return $port unless $taken{$port}++;
    }
    die "no free port\n";
}

# Runs a command to its end: (status, output, error output apart). Killed when it is late. `poll` is called every 20 ms.
sub run_text {
    my ($command, %with) = @_;
    my $file = "$with{scratch}/output.$$";
    unlink $file, "$file.error";
    my $pid = spawn($file, 'sh', '-c', 'exec "$@" 2>"$0"', "$file.error", @$command);
    my $deadline = time + ($with{timeout} || 120);
    my $status;
    while (!defined $status) {
        if (waitpid($pid, WNOHANG) == $pid) {
            $status = $?;
        } elsif (time > $deadline) {
            kill KILL => -$pid;
            waitpid $pid, 0;
            $status = -1;
        } else {
            $with{poll}->() if $with{poll};
            sleep 0.02;
        }
    }
    delete $children{$pid};
    my @texts;
    for my $path ($file, "$file.error") {
        open my $in, '<', $path or next;
        local $/;
        push @texts, scalar(<$in>) // '';
    }
    unlink $file, "$file.error";
    return ($status, @texts);
}

sub run_json {
    my ($command, %with) = @_;
    my ($status, $text, $errors) = run_text($command, %with);
    my ($line) = grep {/^\{/} split /\n/, $text // '';
    die "no figures from: @$command\n" . ($errors // '') unless $status == 0 && $line;
    return decode_json($line);
}

# --- What processes took

sub cpu_of {    # seconds, user and system
    my $sum = 0;
    for my $pid (@_) {
        open my $stat, '<', "/proc/$pid/stat" or die "process $pid is gone\n";
        my $text = <$stat>;
        $text =~ s/^.*\) //s;
        my @fields = split ' ', $text;
        $sum += ($fields[11] + $fields[12]) / $ticks;
    }
    return $sum;
}

sub anonymous_of {    # bytes, of the largest
    my $most = 0;
    for my $pid (@_) {
        open my $in, '<', "/proc/$pid/status" or die "process $pid is gone\n";
        while (defined(my $line = <$in>)) { $most = $1 * 1024 if $line =~ /^RssAnon:\s+(\d+)/ && $1 * 1024 > $most }
    }
    return $most;
}

# Time of all processors so far, in ticks: (what the host gave to others while work was waiting for it, all). Nothing the first outside virtual
# machines.
sub host_took {
    open my $in, '<', '/proc/stat' or return (0, 1);
    my @ticks = (split ' ', scalar <$in>)[1 .. 8];
    my $all = 0;
    $all += $_ // 0 for @ticks;
    return ($ticks[7] // 0, $all || 1);
}

# Bytes written so far to the device that holds a folder, as the device counts; undef where none is told (tmpfs, overlays).
sub bytes_written {
    my ($folder) = @_;
    my $device = (stat $folder)[0] // return undef;
    my ($major, $minor) = ($device >> 8 & 0xfff, $device & 0xff | $device >> 12 & 0xfff00);
    open my $in, '<', '/proc/diskstats' or return undef;
    while (defined(my $line = <$in>)) {
        my @fields = split ' ', $line;
        return $fields[9] * 512 if $fields[0] == $major && $fields[1] == $minor;
    }
    return undef;
}

# Waits until disk and servers are quiet for some seconds, or the time is over. Returns how long it took and what each system takes at
# rest: { seconds, is_quiet, idle => { name => CPU seconds a second } }.
sub settle {
    my ($systems, %with) = @_;
    my ($quiet, $begin, %idle, $last_bytes, %last_cpu) = (0, time);
    my $count = $with{quiet} || 3;
    my $look = sub {
        $last_bytes = bytes_written($with{scratch}) // 0;
        %last_cpu = map { $_->{name} => cpu_of(@{ $_->{pids} }) } @$systems;
    };
    $look->();
    while ($quiet < $count && time - $begin < $with{at_most}) {
        my ($before, %before, $cpu) = ($last_bytes, %last_cpu);
        sleep 1;
        $look->();
        my $busy = 0;
        $busy += $last_cpu{$_} - $before{$_} for keys %before;
        $quiet = $last_bytes - $before < 256 * 1024 && $busy < 0.25 ? $quiet + 1 : 0;
        for (keys %before) {
            $idle{$_} = $quiet > 1 ? ($idle{$_} * ($quiet - 1) + $last_cpu{$_} - $before{$_}) / $quiet : $last_cpu{$_} - $before{$_};
        }
    }
    return { seconds => time - $begin, is_quiet => $quiet >= $count, idle => \%idle };
}

1;
