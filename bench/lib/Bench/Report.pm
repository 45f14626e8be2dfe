# What a run found, as RESULTS.md, two SVGs and the raw figures. A goal is a row of text, figure and verdict; one whose figures were not
# measured in this run says so.
package Bench::Report;
use strict;
use warnings;
use utf8;
use JSON::PP;
use POSIX qw(strftime);

my ($bench, $rows, $results);

sub median { my @sorted = sort { $a <=> $b } @_; return ($sorted[$#sorted / 2] + $sorted[@sorted / 2]) / 2 }

# The median over the rounds of a row's figure; undef: not measured.
sub figure {
    my ($row, $system, $key) = @_;
    my @found = grep {defined} map { $_->{$key} } @{ $results->{rows}{$row}{$system} || [] };
    return @found ? median(@found) : undef;
}

# Of etcd's rows (GOGC 100 and 400) the better one.
sub best_etcd {
    my ($row, $key) = @_;
    my ($best) = sort { figure($row, $b, 'ops_per_s') <=> figure($row, $a, 'ops_per_s') } grep { defined figure($row, $_, 'ops_per_s') } qw(etcd etcd-gogc400);
    return $best ? figure($row, $best, $key || 'ops_per_s') : undef;
}

sub ratio { my ($a, $b) = @_; return defined $a && $b ? $a / $b : undef }
sub cell  { my ($format, $value) = @_; return defined $value ? sprintf $format, $value : '–' }
sub mib   { my ($bytes) = @_; return defined $bytes ? $bytes / (1 << 20) : undef }

# --- Goals: [what, goal, the figure as text (undef: not measured), is it met?, the profile that shows why]

sub because { my ($profile, @goals) = @_; $_->[4] = $profile for @goals; return @goals }

sub at_least { my ($what, $goal, $format, $value) = @_; return [$what, sprintf("≥ $format", $goal), cell($format, $value), defined $value ? $value >= $goal : undef] }
sub at_most  { my ($what, $goal, $format, $value) = @_; return [$what, sprintf("≤ $format", $goal), cell($format, $value), defined $value ? $value <= $goal : undef] }

sub against {
    my ($row, $what, $redis, $etcd, $own) = @_;
    my $rate = figure($own || $row, 'cairn', 'ops_per_s');
    return (defined $redis ? at_least("$what: of Redis", $redis, '%.2f ×', ratio($rate, figure($row, 'redis', 'ops_per_s'))) : (),
        defined $etcd ? at_least("$what: of etcd's better row", $etcd, '%.1f ×', ratio($rate, best_etcd($row))) : ());
}

sub cpu_goal {
    my ($row, $what, $goal) = @_;
    my $redis = figure($row, 'redis', 'cpu_us');
    my $made  = at_most("CPU a put, all servers, $what", $goal, '%.1f µs', figure($row, 'cairn', 'cpu_us'));
    $made->[2] .= sprintf ' (Redis, same run: %.1f µs)', $redis if defined $redis;
    return because($row, $made);
}

sub shape_cpu {
    my ($section, $name, $row) = @_;
    my $list = $results->{$section}{$name}{$row} or return undef;
    return median(map { $_->{cpu_us} } @$list);
}

sub shape_goal {
    my ($section, $row, $from, $to, $goal, $what) = @_;
    my ($before, $after) = map { shape_cpu($section, $_, $row) } $from, $to;
    my $made = at_most($what, $goal, '%.2f ×', ratio($after, $before));
    $made->[2] .= sprintf ' (%.1f → %.1f µs)', $before, $after if $before && $after;
    return because($to, $made);
}

sub ten_goal {
    my ($row, $goal, $what) = @_;
    my $ten = $results->{ten} or return [$what, sprintf('≥ %.2f ×', $goal), '–', undef];
    my ($few, $many) = map { median(map { $_->{ops_per_s} } @{ $ten->{$row}{$_} }) } $ten->{keys}, 10 * $ten->{keys};
    return at_least($what, $goal, '%.2f ×', ratio($many, $few));
}

sub first_put_goals {
    my $floor = $results->{floor} or return;
    my $p50   = figure('put-1', 'cairn', 'p50');
    my $limit = 1.3 * ($floor->{fdatasync_three_us} + 2 * $floor->{loopback_us});
    my $made  = at_most('put, 1 client: p50 against 1.3 × (fdatasync with three writers + two loopback round trips)', $limit, '%.0f µs', $p50);
    my @peers = grep { defined $_->[1] } ['Redis', figure('put-1', 'redis', 'p50')], ['etcd', best_etcd('put-1', 'p50')];
    return ($made, map { at_most("put, 1 client: p50 against ${\$_->[0]}'s", $_->[1], '%.0f µs', $p50) } @peers);
}

sub slow_goals {
    my $slow = $results->{slow} || {};
    my $made = at_most('a disk 100 × slower: cluster p99 of puts from 5 s on, of healthy', 2, '%.1f ×', ratio($slow->{slow}{p99}, $slow->{healthy}{p99}));
    my $left = $slow->{primaries_slow};
    return ($made, ['a slow primary hands over: partitions that it leads 5 s later and on', '0',
        defined $left ? sprintf('%d of %d', $left, $slow->{primaries_before} // 0) : '–', defined $left ? $left == 0 : undef]);
}

sub goals {
    my ($scan, $idle) = @$results{qw(scan rest)};
    my $fresh = $results->{partitions}{'128 partitions'}{rest};
    my $grown = $scan && ($scan->{keys}{grown_bytes} > $scan->{values}{grown_bytes} ? $scan->{keys} : $scan->{values})->{grown_bytes};
    return (first_put_goals(),
        because('put-50', against('put-50', 'put, 50 clients', 1.5, 3)), because('put-200', against('put-200', 'put, 200 clients', 1.4, 3.5)),
        because('put-50x16', against('put-50x16', 'put, 50 × pipeline 16', 1)), because('put-50-10k', against('put-50-10k', 'put 10 KB, 50 clients', 2),
            at_least('put 10 KB, five nodes, 50 clients', 8000, '%.0f/s', $results->{five} ? $results->{five}{ops_per_s} : undef)),
        because('get-50', against('get-50', 'get, 50 clients', 0.75, 8), against('get-50', 'get by lease, 50 clients', 0.9, undef, 'lease-50')),
        because('get-50x16', against('get-50x16', 'get, 50 × pipeline 16', 0.5)),
        because('scan-keys', at_least('scan of all keys, keys only', 2e6, '%.0f/s', $scan && $scan->{keys}{per_s})),
        because('scan-values', at_least('scan of all keys, with values', 1e6, '%.0f/s', $scan && $scan->{values}{per_s})),
        at_most('scan: anonymous memory of the servers grows by', 64, '%.1f MiB', mib($grown)),
        cpu_goal('put-50', '50 clients', 28), cpu_goal('put-200', '200 clients', 22), cpu_goal('put-50x16', '50 × pipeline 16', 14),
        because('put-200', at_most('syncs a put, all servers, 200 clients', 0.1, '%.3f', $results->{syncs}{'put-200'}{cairn})),
        because('put-50x16', at_most('syncs a put, all servers, 50 × pipeline 16', 0.02, '%.3f', $results->{syncs}{'put-50x16'}{cairn})),
        because('put-50', at_most('written per user byte and replica, 256 B random', 8, '%.1f', figure('put-50', 'cairn', 'amplification'))),
        because('put-50-10k', at_most('written per user byte and replica, 10 KB', 2.5, '%.1f', figure('put-50-10k', 'cairn', 'amplification'))),
        ten_goal('get-50', 0.75, '10 M keys of 1 M keys: gets/s'), ten_goal('put-50', 0.5, '10 M keys of 1 M keys: puts/s'),
        map({ shape_goal('partitions', $_, '128 partitions', '1024 partitions', 1.10, "128 → 1,024 partitions: CPU a put, $_") } qw(put-50 put-200)),
        shape_goal('nodes', 'put-50', '3 nodes, 3 replicas', '7 nodes, 3 replicas', 1.0, '3 → 7 nodes, three replicas: CPU a put'),
        shape_goal('nodes', 'put-50', '3 nodes, 3 replicas', '7 nodes, 7 replicas', 7 / 3, '3 → 7 nodes, as many replicas: CPU a put'),
        because('rest', at_most('at rest after the load: share of a core a node', 1, '%.2f %%', $idle && 100 * $idle->{cpu_share})),
        at_most('at rest after the load: anonymous memory of the largest node', 64, '%.1f MiB', $idle && mib($idle->{anonymous_bytes})),
        because('rest', at_most('at rest, few keys: share of a core a node', 1, '%.2f %%', $fresh && 100 * $fresh->{cpu_share})),
        at_most('at rest, few keys: anonymous memory of the largest node', 64, '%.1f MiB', $fresh && mib($fresh->{anonymous_bytes})),
        slow_goals());
}

# --- Tables

sub table {
    my ($md, @lines) = @_;
    my $head = shift @lines;
    print $md '| ', join(' | ', @$head), " |\n|", '---|' x @$head, "\n";
    print $md '| ', join(' | ', @$_), " |\n" for @lines;
    print $md "\n";
}

sub write_head {
    my ($md) = @_;
    my $commit = $results->{commit};
    my ($cpu)  = `grep -m1 'model name' /proc/cpuinfo` =~ /: (.*)/;
    my $cores  = `nproc`;
    chomp $cores;
    my $of = $bench->{programs} =~ m{/release/?$} ? 'the release build (decisions/014)' : "the programs of $bench->{programs}";
    print $md "# Results\n\nMade by `make bench`; don't edit. Commit $commit, $of, ", strftime('%Y-%m-%d', gmtime), ", $cores cores (", $cpu // '?', "), ",
        "$bench->{keys} keys, $bench->{rounds} rounds, $bench->{seconds} s a row that must run with flushes in balance, medians. All servers and the load\n",
        "share the cores; the machine's speed changes within minutes, so ratios within a row count, not the figures. How it is measured: [README.md](README.md).\n\n";
    if (my $floor = $results->{floor}) {
        printf $md "Floor: fdatasync %d µs alone, %d µs with three writers; loopback round trip %.0f µs; LMDB put %.1f µs (1,000 a transaction), "
            . "%.1f µs (10,000), get %.1f µs.\n\n", @$floor{qw(fdatasync_us fdatasync_three_us loopback_us lmdb_put_1k_us lmdb_put_10k_us lmdb_get_us)};
    }
    print $md "**$_ failed**: $results->{failed}{$_}\n\n" for sort keys %{ $results->{failed} || {} };
}

sub write_goals {
    my ($md) = @_;
    print $md "## Goals\n\nCPU is as measured on this machine at that time; Redis' of the same run stands beside it. The profile of a goal that is missed shows what it pays for.\n\n";
    table($md, ['what', 'goal', 'measured', 'met', 'profile'], map { [@$_[0 .. 2], !defined $_->[3] ? 'not measured' : $_->[3] ? 'yes' : '**no**', link_to(@$_[4, 3])] } goals());
}

sub write_rows {
    my ($md) = @_;
    my @lines;
    for my $row (@$rows) {
        for my $name (grep { $results->{rows}{ $row->{name} }{$_} } split /,/, $bench->{systems}) {
            my $get = sub { figure($row->{name}, $name, $_[0]) };
            push @lines, [$row->{what}, $name, (map { sprintf '%d', $get->($_) } qw(ops_per_s p50 p99 p999)), sprintf('%.1f', $get->('cpu_us')),
                sprintf('%.0f %%', 100 * $get->('load_share')), sprintf('%.0f %%', 100 * $get->('host_share')), $row->{reads} ? '–' : cell('%.1f', $get->('amplification')),
                cell('%.3f', $results->{syncs}{ $row->{name} }{$name})];
        }
    }
    return unless @lines;
    print $md "## Rows\n\n";
    table($md, ['row', 'system', 'ops/s', 'p50 µs', 'p99 µs', 'p99.9 µs', 'CPU µs/op, all servers', 'load generator, of a core', 'host took',
        'written per byte and replica', 'syncs per put, all servers'], @lines);
    print $md "## Ratios\n\n";
    table($md, ['row', 'Cairn / Redis', 'Cairn / etcd (its better row)'], map {
            my ($row, $peer) = ($_, $_->{name} =~ s/^lease-/get-/r);
            my $own = figure($row->{name}, 'cairn', 'ops_per_s');
            [$row->{what}, cell('%.2f', ratio($own, figure($peer, 'redis', 'ops_per_s'))), cell('%.1f', ratio($own, best_etcd($peer)))]
    } grep { !$_->{rate_of} && figure($_->{name}, 'cairn', 'ops_per_s') } @$rows);
}

sub write_scans {
    my ($md) = @_;
    my $scan = $results->{scan} or return;
    print $md "## Scans of the whole key space\n\n";
    table($md, ['what', 'entries', 'entries/s', 'CPU µs an entry, all servers', 'the client, of a core', 'servers grow by'], map {
            my $of = $scan->{$_};
            [$_, $of->{entries}, sprintf('%d', $of->{per_s}), sprintf('%.2f', $of->{cpu_us}), sprintf('%.0f %%', 100 * $of->{load_share}),
                sprintf('%.1f MiB', mib($of->{grown_bytes}))]
    } qw(keys values));
}

sub write_shapes {
    my ($md) = @_;
    my @lines;
    for my $section (qw(partitions nodes)) {
        for my $name (sort { length $a <=> length $b || $a cmp $b } keys %{ $results->{$section} || {} }) {
            my $of = $results->{$section}{$name};
            push @lines, map { my $row = $_; [$name, $row, map({ my $key = $_; sprintf '%.1f', median(map { $_->{$key} } @{ $of->{$row} }) } qw(ops_per_s cpu_us)),
                sprintf('%.2f %%', 100 * $of->{rest}{cpu_share}), sprintf('%.1f MiB', mib($of->{rest}{anonymous_bytes}))] } sort grep { !/^(?:rest|profile)$/ } keys %$of;
        }
    }
    return unless @lines;
    print $md "## Clusters of other shapes\n\n";
    table($md, ['cluster', 'row', 'ops/s', 'CPU µs/op, all servers', 'at rest: of a core a node', 'at rest: anonymous memory'], @lines);
}

sub write_slow {
    my ($md) = @_;
    my $slow = $results->{slow} or return;
    printf $md "## A slow disk\n\nPuts at %d/s over three nodes; every sync of n1 then takes %.1f ms longer.\n\n", $slow->{rate}, $slow->{delay_us} / 1000;
    table($md, ['', 'ops/s', 'p50 µs', 'p99 µs', 'errors', 'partitions that n1 leads at the end'], map {
            my $of = $slow->{$_};
            [{ healthy => 'healthy', slow => 'slow, from 5 s on', 'slow later' => 'slow, later', healed => 'well again, from 5 s on' }->{$_},
                map({ sprintf '%d', $of->{$_} } qw(ops_per_s p50 p99 errors)), cell('%d', $slow->{"primaries_$_"})]
    } grep { $slow->{$_} } 'healthy', 'slow', 'slow later', 'healed');
}

sub write_ten {
    my ($md) = @_;
    my $ten = $results->{ten} or return;
    print $md "## Ten times as many keys\n\n";
    table($md, ['row', 'keys', 'ops/s', 'p50 µs', 'p99 µs', 'CPU µs/op, all servers', 'written per byte and replica'], map { my $row = $_; map {
            my $list = $ten->{$row}{$_};
            [$row, $_, map({ my $key = $_; sprintf '%d', median(map { $_->{$key} } @$list) } qw(ops_per_s p50 p99)),
                sprintf('%.1f', median(map { $_->{cpu_us} } @$list)), $row =~ /^get/ ? '–' : cell('%.1f', median(map { $_->{amplification} // 0 } @$list))]
    } $ten->{keys}, 10 * $ten->{keys} } qw(get-50 put-50));
}

sub write_others {
    my ($md) = @_;
    if (my $tools = $results->{tools}) {
        print $md "## The peers by their own tools\n\n";
        table($md, ['tool', 'says'], map { [$_, $tools->{$_}] } sort keys %$tools);
    }
    if (my $doors = $results->{doors}) {
        print $md "## Doors\n\nOne caller, one after another; no goals yet.\n\n";
        table($md, ['what', 'µs'], map { [$_, sprintf '%.0f', 1e6 * $doors->{$_}] } sort keys %$doors);
    }
}

# --- Profiles: { objects => { name => percent }, functions => { name => { object => percent } } } by name

sub profiles {
    my %all = %{ $results->{profile} || {} };
    for my $section (qw(partitions nodes)) {
        my $of = $results->{$section} || {};
        $all{$_} = $of->{$_}{profile} for grep { $of->{$_}{profile} } keys %$of;
    }
    return \%all;
}

sub anchor { my ($name) = @_; return lc("profile $name") =~ s/[^\w -]//gr =~ s/ /-/gr }

# Of a goal that was missed.
sub link_to {
    my ($name, $is_met) = @_;
    return '' if !defined $is_met || $is_met || !defined $name;
    return profiles()->{$name} ? "[$name](#" . anchor($name) . ')' : '–';
}

sub write_profiles {
    my ($md) = @_;
    my $all = profiles();
    print $md "## Profiles\n\nWhat Cairn's servers do under a load, in percent of their time; functions by what they take themselves, from 1.5 % on. "
        . "`make flame` draws who calls them.\n\n" if %$all;
    for my $name (sort keys %$all) {
        my ($objects, $functions) = @{ $all->{$name} }{qw(objects functions)};
        my @lines;
        for my $function (keys %$functions) {
            push @lines, map { [$functions->{$function}{$_}, $function, $_] } grep { $functions->{$function}{$_} >= 1.5 } keys %{ $functions->{$function} };
        }
        print $md "### Profile $name\n\n", join(', ', map { sprintf '%s %.0f %%', $_, $objects->{$_} } grep { $objects->{$_} >= 1 }
              sort { $objects->{$b} <=> $objects->{$a} } keys %$objects), "\n\n";
        table($md, ['%', 'function', 'of'], map { [sprintf('%.1f', $_->[0]), "`$_->[1]`", $_->[2]] } sort { $b->[0] <=> $a->[0] || $a->[1] cmp $b->[1] } @lines);
    }
}

# --- Plots

sub escaped { my ($text) = @_; $text =~ s/&/&amp;/g; $text =~ s/</&lt;/g; return $text }

# One SVG: groups of horizontal bars.
sub write_bars {
    my ($file, $title, @names) = @_;
    my %colour  = (cairn => '#0b6e4f', redis => '#c44536', etcd => '#3d5a80', 'etcd-gogc400' => '#98c1d9');
    my @systems = split /,/, $bench->{systems};
    my ($y, $body, $most) = (40, '', 1);
    for my $row (@names) {
        for (map { figure($row->{name}, $_, 'ops_per_s') } @systems) { $most = $_ if defined && $_ > $most }
    }
    for my $row (@names) {
        $body .= sprintf qq{<text x="8" y="%d" font-weight="bold">%s</text>\n}, $y + 12, escaped($row->{what});
        $y += 18;
        for my $system (@systems) {
            my $rate = figure($row->{name}, $system, 'ops_per_s') // next;
            $body .= sprintf qq{<rect x="120" y="%d" width="%.1f" height="13" fill="%s"/><text x="8" y="%d">%s</text><text x="%.1f" y="%d">%d/s</text>\n},
                $y, 480 * $rate / $most, $colour{$system} // '#888', $y + 11, $system, 126 + 480 * $rate / $most, $y + 11, $rate;
            $y += 17;
        }
        $y += 6;
    }
    open my $svg, '>:encoding(UTF-8)', $file or die "$file: $!\n";
    printf $svg qq{<?xml version="1.0" encoding="UTF-8"?>\n<svg xmlns="http://www.w3.org/2000/svg" width="720" height="%d" font-family="sans-serif" font-size="12">\n}
        . qq{<rect width="100%%" height="100%%" fill="white"/><text x="8" y="20" font-size="15">%s</text>\n%s</svg>\n}, $y, escaped($title), $body;
    close $svg or die "$file: $!\n";
}

# What makes runs of one kind.
sub options_of { my ($bench) = @_; return { map { $_ => "$bench->{$_}" } qw(keys rounds seconds systems programs) } }

# The figures of the last run; undef: there are none, or it was of another kind.
sub read_raw {
    my ($bench) = @_;
    open my $raw, '<', "$bench->{build}/bench/results.json" or return undef;
    local $/;
    my $found = eval { JSON::PP->new->utf8->decode(scalar <$raw>) } or return undef;
    my ($then, $now) = map { JSON::PP->new->canonical->encode($_) } delete $found->{options}, options_of($bench);
    return $then eq $now ? $found : undef;
}

sub write_all {
    ($bench, $rows, $results) = @_;
    open my $raw, '>', "$bench->{build}/bench/results.json" or die "results.json: $!\n";
    print $raw JSON::PP->new->canonical->pretty->utf8->encode({ %$results, options => options_of($bench) });
    close $raw or die "results.json: $!\n";
    my @measured = grep { !$_->{rate_of} && $results->{rows}{ $_->{name} } } @$rows;
    my %plots    = (puts => [grep { !$_->{reads} } @measured], gets => [grep { $_->{reads} } @measured]);
    open my $md, '>:encoding(UTF-8)', "$bench->{out}/RESULTS.md" or die "$bench->{out}/RESULTS.md: $!\n";
    $_->($md) for \&write_head, \&write_goals, \&write_rows, \&write_scans, \&write_shapes, \&write_slow, \&write_ten, \&write_others, \&write_profiles;
    for my $plot (grep { @{ $plots{$_} } } qw(puts gets)) {
        write_bars("$bench->{out}/$plot.svg", ucfirst($plot) . ' per second', @{ $plots{$plot} });
        print $md "![$plot]($plot.svg)\n\n";
    }
    close $md or die "$bench->{out}/RESULTS.md: $!\n";
}

1;
