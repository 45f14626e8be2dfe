#!/usr/bin/perl
# Shows that the layers hold: a folder includes only itself and what stands to its right, each library has one owner, and no object
# outside env/ (and the client's sockets, the programs) uses a clock, random numbers, threads, sockets or files. Reads the sources'
# #include lines and the objects' undefined symbols (nm).
use strict;
use warnings;
use Test::More;

my $build = $ENV{BUILD} // 'build';

# What each folder may include besides itself.
my %may = (
    'src/base'    => [qw(tbl)],
    'src/env'     => [qw(base)],
    'src/wire'    => [qw(env base tbl proto)],
    'src/cluster' => [qw(base tbl proto)],
    'src/store'   => [qw(env base tbl)],
    'src/raft'    => [qw(wire env base tbl)],
    'src/node'    => [qw(raft store cluster wire env base tbl proto)],
    'src/server'  => [qw(node wire env base tbl proto)],
    'src/client'  => [qw(wire cluster base tbl proto)],
    'src/tools'   => [qw(client base tbl raft env)],
    'fuse'        => [qw(client)],
    'pgext'       => [qw(client)],
);
my %owner = (
    'uv.h' => qr{^src/env/env_uv\w*\.[ch]$}, 'lmdb.h' => qr{^src/store/store\w*\.[ch]$}, 'nghttp2/nghttp2.h' => qr{^src/server/http\.c$},
    'openssl/ssl.h' => qr{^src/wire/tls\.c$},
);

my %ours = map { $_ => 1 } qw(tbl proto fuse pgext), map { m{^src/(.*)} ? $1 : () } keys %may;

my @wrong;
for my $folder (sort keys %may) {
    my ($own) = $folder =~ m{([^/]+)$};
    my %ok = map { $_ => 1 } $own, @{ $may{$folder} };
    for my $file (glob "$folder/*.[ch]") {
        open my $in, '<', $file or die "$file: $!";
        while (<$in>) {
            if (/^#include "([a-z]+)\/([^"]+)"/ && $ours{$1}) {
                push @wrong, "$file:$. includes $1/$2" unless $ok{$1};
                push @wrong, "$file:$. sees more than cairn.h" if $folder =~ /^(fuse|pgext)$/ && $1 eq 'client' && $2 ne 'cairn.h';
            } elsif (/^#include <([^>]+)>/ && $owner{$1} && $file !~ $owner{$1}) {
                push @wrong, "$file:$. includes <$1>, which only files like $owner{$1} may";
            }
        }
    }
}
is("@wrong", '', 'every folder includes only what stands to its right') or diag join "\n", @wrong;

my %seen;
my @twice = grep { m{([^/]+)$} && $seen{$1}++ } grep { !m{^(t|pgext|fuse)/.*(README|Makefile)} } split /\n/, `git ls-files 'src/*' 'fuse/*' 'pgext/*'`;
is("@twice", '', 'file names are unique');

# The outside world, by symbol. The store may know LMDB, which goes round env.
my $outside = qr/^(?:clock_gettime|gettimeofday|time|rand|random|srand|getrandom|pthread_create|socket|connect|accept|bind|open|open64|openat|
    fopen|fopen64|read|pread|pread64|write|pwrite|pwrite64|fsync|fdatasync|getenv|secure_getenv|usleep|sleep|nanosleep|epoll_wait|poll|select)$/x;
my %allowed = ('src/client/sockets.o' => 1, 'src/base/check.o' => 1);
my @reach;
for my $folder (qw(base wire cluster store raft node server client)) {
    for my $object (glob "$build/obj/src/$folder/*.o") {
        (my $name = $object) =~ s{^\Q$build/obj/\E}{};
        next if $allowed{$name};
        for (split /\n/, `nm -u $object`) {
            s/^\s*U\s+//;
            s/\@.*//;
            push @reach, "$name uses $_" if $_ =~ $outside;
        }
    }
}
is("@reach", '', 'no clock, random, thread, socket or file outside env/') or diag join "\n", @reach;

# Mutable globals: symbols in writable sections. Constants that hold addresses lie in .data.rel.ro, which is not writable once loaded.
my @globals;
for my $object (glob("$build/obj/src/{base,env,wire,cluster,store,raft,node,server,client}/*.o")) {
    (my $name = $object) =~ s{^\Q$build/obj/\E}{};
    for (split /\n/, `objdump -t $object`) {
        my ($section, $symbol) = /^\S+ .{7} (\.data\S*|\.bss\S*|\*COM\*)\t\S+\s+(\S+)$/ or next;
        push @globals, "$name: $symbol" unless $section =~ /^\.data\.rel\.ro/ || $symbol =~ /^\.(data|bss)|^__(asan|ubsan|odr)/;
    }
}
is("@globals", '', 'no mutable globals') or diag join "\n", @globals;

done_testing;
