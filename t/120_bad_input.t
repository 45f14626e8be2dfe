#!/usr/bin/perl
# Shows that rubbish on the wire costs the sender its connection, gets a line in the log, and nothing else: raw sockets send malformed
# headers, oversized lengths, wrong checksums, unknown verbs and types, requests before hello, truncated frames, and random bytes;
# after each the daemon still answers.
use strict;
use warnings;
use Test::More;
use IO::Select;
use IO::Socket::INET;
use Cairn::Cluster qw(wait_until);

my $cluster = Cairn::Cluster->new(standalone => 1);
my $address = $cluster->address(1);
$cluster->cairn('put', 'canary', 'alive');

my @crc_table = map {
    my $c = $_;
    $c = $c & 1 ? 0x82f63b78 ^ ($c >> 1) : $c >> 1 for 1 .. 8;
    $c;
} 0 .. 255;

sub crc32c {
    my $crc = 0xffffffff;
    $crc = $crc_table[($crc ^ ord) & 255] ^ ($crc >> 8) for split //, $_[0];
    return $crc ^ 0xffffffff;
}

# A frame by field; every field may be set wrong on purpose.
sub frame {
    my (%f) = (magic => 'CRN1', version => 1, type => 3, verb => 1, flags => 0, hops => 0, zero => 0, status => 0, id => 7, deadline => 1000,
        message => '', payload => '', @_);
    my $head = pack('a4CCvvCCVVVQ<VVQ<Q<Q<V', $f{magic}, $f{version}, $f{type}, $f{verb}, $f{flags}, $f{hops}, $f{zero}, $f{status} & 0xffffffff,
        $f{message_size} // length $f{message}, $f{payload_size} // length $f{payload}, $f{id}, $f{deadline},
        $f{crc} // crc32c($f{message} . $f{payload}), 0, 0, 0, 0);
    return $head . pack('V', $f{head_crc} // crc32c($head)) . $f{message} . $f{payload};
}

my $hello = frame(type => 1, verb => 0, message => "\x08\x01\x10\x01");

sub dial {
    return IO::Socket::INET->new(PeerAddr => $address, Timeout => 5) || die "connect: $!";
}

# Reads what comes within a moment: (bytes, closed?).
sub answer {
    my ($socket, $seconds) = @_;
    my ($bytes, $select) = ('', IO::Select->new($socket));
    while ($select->can_read($seconds // 2)) {
        my $got = sysread $socket, my $part, 65536;
        return ($bytes, 1) unless $got;
        $bytes .= $part;
        last if length $bytes >= 72 && length $bytes >= 72 + unpack('V', substr $bytes, 16, 4) + unpack('V', substr $bytes, 20, 4);
    }
    return ($bytes, 0);
}

sub status_of { return unpack 'l<', substr $_[0], 12, 4 }

sub alive {
    my ($what) = @_;
    my ($exit, $out) = $cluster->cairn('get', 'canary');
    is("$exit $out", '0 alive', "the daemon lives after $what");
}

my %closing = (
    'a wrong magic'               => frame(magic => 'HTTP'),
    'an unknown protocol version' => frame(version => 9),
    'an unknown frame type'       => frame(type => 77),
    'a wrong header checksum'     => frame(head_crc => 1),
    'a wrong payload checksum'    => $hello . frame(message => "\x0a\x01a", crc => 1),
    'an oversized message'        => frame(message_size => 0x7fffffff),
    'an oversized payload'        => frame(payload_size => 0xffffffff),
    'a response nobody asked for' => $hello . frame(type => 4),
    'Raft from a stranger'        => $hello . frame(type => 5, payload => "\xff" x 100),
    'random bytes'                => join('', map { chr int rand 256 } 1 .. 5000),
);
for my $what (sort keys %closing) {
    my $socket = dial();
    syswrite $socket, $closing{$what};
    my ($bytes, $closed) = answer($socket);
    if (!$closed && $closing{$what} =~ /^\Q$hello\E./s) {
        (undef, $closed) = answer($socket);
    }
    ok($closed, "$what: the connection is closed");
    alive($what);
}

sub get_of { return pack 'Q<vCC a*', $_[0], length $_[1], 0, 0, $_[1] }

my %refused = (
    'an unknown verb'            => [frame(verb => 999), -28],
    'a malformed message'        => [frame(verb => 2, message => "\xff\xff\xff\xff"), -27],
    'an empty key'               => [frame(verb => 1, message => ''), -20],
    'a key that is too long'     => [frame(verb => 1, message => "\x0a\x80\x04" . 'k' x 512), -21],
    'a multi without operations' => [frame(verb => 5), -27],
    'values that do not add up'  => [frame(verb => 5, message => "\x0a\x07\x08\x01\x12\x01a\x18\x09", payload => 'x'), -27],
    'gets without a get'         => [frame(verb => 9), -27],
    'gets of which one is cut'   => [frame(verb => 9, payload => get_of(1, 'canary') . substr get_of(2, 'canary'), 0, 17), -27],
    'gets with a key of nothing' => [frame(verb => 9, payload => get_of(1, 'canary') . get_of(2, '')), -27],
    'gets with a message'        => [frame(verb => 9, message => 'x', payload => get_of(1, 'canary')), -27],
    'too many gets'              => [frame(verb => 9, payload => join '', map { get_of($_, 'canary') } 1 .. 257), -26],
    'an unknown partition'       => [frame(verb => 6, message => "\x4a\x02\xff\x7f"), -44],
    'a bound that is too long'   => [frame(verb => 6, message => "\x0a\x84\x04" . 'k' x 516), -21],
);
for my $what (sort keys %refused) {
    my ($bytes, $want) = @{ $refused{$what} };
    my $socket = dial();
    syswrite $socket, $hello;
    my ($greeting) = answer($socket);
    is(ord substr($greeting, 5, 1), 2, 'greeted');
    syswrite $socket, $bytes;
    my ($answered) = answer($socket);
    is(length $answered >= 72 ? status_of($answered) : 'nothing', $want, "$what gets its error");
    syswrite $socket, frame(verb => 1, message => "\x0a\x06canary");
    ($answered) = answer($socket);
    is(status_of($answered), 0, 'and the connection goes on') if length $answered >= 72;
}

my $both = dial();
syswrite $both, $hello;
answer($both);
syswrite $both, frame(verb => 9, payload => get_of(7, 'canary') . get_of(8, 'absent') . get_of(9, 'canary'));
my (%found, %alone, $stream);
while (keys(%found) + keys(%alone) < 3) {
    my ($more, $closed) = length($stream // '') >= 72 ? ('', 0) : answer($both);
    $stream .= $more;
    last if $closed || length $stream < 72;
    my ($verb, $id) = (unpack('v', substr $stream, 6, 2), unpack 'Q<', substr $stream, 24, 8);
    my ($message_size, $payload_size) = unpack 'VV', substr $stream, 16, 8;
    $alone{$id} = status_of($stream) if $verb == 1;
    my $payload = substr $stream, 72 + $message_size, $payload_size;
    $stream = substr $stream, 72 + $message_size + $payload_size;
    while ($verb == 9 && length $payload >= 32) {
        my ($one, undef, undef, $size, $flags) = unpack 'Q<Q<Q<VV', $payload;
        my $at = 32 + ($flags & 2 ? 12 : 0);
        $found{$one} = substr $payload, $at, $size;
        $payload = substr $payload, $at + $size;
    }
}
is_deeply([\%found, \%alone], [{ 7 => 'alive', 9 => 'alive' }, { 8 => -23 }], 'gets that came together are answered each');

my $early = dial();
syswrite $early, frame(verb => 1, message => "\x0a\x06canary");
my ($bytes) = answer($early);
is(status_of($bytes), -80, 'a request before hello is a protocol error');

# A frame that never ends, and one cut off at every byte.
my $slow = dial();
syswrite $slow, substr $hello, 0, 30;
my $whole = $hello . frame(verb => 1, message => "\x0a\x06canary");
for my $cut (1, 5, 24, 71, 72, 75, length($hello) + 10) {
    my $socket = dial();
    syswrite $socket, substr $whole, 0, $cut;
    close $socket;
}
alive('truncated frames');
my $byte_by_byte = dial();
$byte_by_byte->autoflush(1);
for my $byte (split //, $whole) {
    syswrite $byte_by_byte, $byte;
}
my ($first) = answer($byte_by_byte);
($first) = answer($byte_by_byte) if ord(substr $first, 5, 1) == 2 && length $first <= 200;
is(status_of($first), 0, 'a frame that arrives byte by byte is understood');

like($cluster->log_text(1), qr/warn.*(ERR_PROTOCOL|ERR_CHECKSUM|ERR_FRAME_TOO_LARGE)/, 'the log names what was refused');
is($cluster->stop(1), 0, 'and it stops in order');

done_testing;
