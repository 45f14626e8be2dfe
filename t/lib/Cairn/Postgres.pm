package Cairn::Postgres;

# A private PostgreSQL with cairn_fdw for a test, ended and removed at the end, also after failure.
#
#   my $postgres = Cairn::Postgres->new(endpoints => $cluster->endpoints, options => "timeout '2s'");
#   is($postgres->value("SELECT count(*) FROM kv"), '0');
#   my $session = $postgres->session;      # a psql that stays connected
#   like($session->ask("SELECT 1/0"), qr/22012/);
#
# Tables: kv (key text, value text, version), kvb (key bytea, value bytea), both over all keys.
use strict;
use warnings;
use Carp;
use File::Temp qw(tempdir);
use Cairn::Cluster qw(run_command);

my @started;
my $owner = $$;

sub new {
    my ($class, %options) = @_;
    my $build = $ENV{BUILD} // 'build';
    my $self = bless { folder => tempdir('cpgXXXXXX', DIR => '/tmp') }, $class;
    chmod 0755, $self->{folder};
    push @started, $self;
    my ($exit, $out, $err) = run_command(['t/lib/private-pg', $self->{folder}, 'start', "$build/pgext"], timeout => 120);
    croak "private-pg: $out$err" if $exit ne '0';
    my %environment = $out =~ /(PG\w+)=(\S+)/g;
    @ENV{ keys %environment } = values %environment;
    my $more = $options{options} ? ", $options{options}" : '';
    ($exit, $out, $err) = $self->run(<<SQL);
CREATE EXTENSION cairn_fdw;
CREATE SERVER cairn FOREIGN DATA WRAPPER cairn_fdw OPTIONS (endpoints '$options{endpoints}'$more);
CREATE FOREIGN TABLE kv (key text COLLATE "C" NOT NULL, value text, version bigint) SERVER cairn;
CREATE FOREIGN TABLE kvb (key bytea NOT NULL, value bytea) SERVER cairn;
SQL
    croak "tables: $err" if $exit ne '0';
    return $self;
}

# One psql run: (exit, stdout, stderr), with SQLSTATEs.
sub run {
    my ($self, $sql, %options) = @_;
    return run_command(['psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-v', 'VERBOSITY=verbose'], input => $sql, timeout => 60, %options);
}

# What a statement prints; its error text when it fails.
sub value {
    my ($self, $sql) = @_;
    my ($exit, $out, $err) = $self->run($sql);
    chomp $out;
    return $exit eq '0' ? $out : $err;
}

sub session { return Cairn::Postgres::Session->new; }

# A literal for bytea.
sub bytes { my ($bytes) = @_; return "'\\x" . unpack('H*', $bytes) . "'"; }

sub destroy {
    my ($self) = @_;
    system('t/lib/private-pg', $self->{folder}, 'destroy') if -d $self->{folder};
}

END {
    if ($$ == $owner) {
        my $status = $?;
        $_->destroy for @started;
        $? = $status;
    }
}

package Cairn::Postgres::Session;

use IPC::Open3 ();

sub new {
    my ($class) = @_;
    my $pid = IPC::Open3::open3(my $in, my $out, undef, 'psql', '-XqAt', '-v', 'VERBOSITY=verbose');
    $in->autoflush(1);
    return bless { pid => $pid, in => $in, out => $out, mark => 0 }, $class;
}

# The answer to one statement: rows, notices and errors.
sub ask {
    my ($self, $sql) = @_;
    my $mark = 'mark' . ++$self->{mark};
    print { $self->{in} } "$sql;\n\\echo $mark\n";
    my $text = '';
    local $SIG{ALRM} = sub { die "a session did not answer: $text" };
    alarm 60;
    while (defined(my $line = readline $self->{out})) {
        last if $line eq "$mark\n";
        $text .= $line;
    }
    alarm 0;
    return $text;
}

sub close { my ($self) = @_; close $self->{in}; waitpid $self->{pid}, 0; }

1;
