#!/bin/sh
# The tour: starts a cluster with a mount and a private PostgreSQL, then shows each way in. Every line that it prints behind a prompt
# has just been executed; it stops at the first that fails. Leaves everything running.
set -eu
dir=${1:-.cairn}
bin=$(dirname "$0")/../build/bin
"$bin/cairn" dev up --dir "$dir" --mount --pg

# From here on as a user would: with the environment that `dev up` wrote.
. "$dir/env"
mnt=$dir/mnt

bold='' plain=''
if [ -t 1 ]; then
    bold=$(printf '\033[1m') plain=$(printf '\033[0m')
fi

show() {
    printf '\n%s$ %s%s\n' "$bold" "$1" "$plain"
    sh -c "$1"
}

# A second tour begins like the first.
cairn del --prefix tour/ >/dev/null

echo
echo "== A key that the command line stores is a file."
show "cairn put tour/hello 'from the command line'"
show "cat $mnt/tour/hello; echo"

echo
echo "== A file is a key, and a row."
show "echo 'from a file' > $mnt/tour/file"
show "psql -X -c \"SELECT key, value, version FROM kv WHERE key LIKE 'tour/%' ORDER BY key\""

echo
echo "== A row is a key."
show "psql -X -c \"INSERT INTO kv (key, value) VALUES ('tour/row', 'from SQL')\""
show "cairn get tour/row; echo"

echo
echo "== The primary of a key dies; the next write succeeds."
primary=$(cairn locate tour/hello)
show "cairn locate tour/hello"
show "cairn dev kill $primary --dir $dir"
show "cairn put tour/hello 'written after its primary was killed'"
show "cat $mnt/tour/hello; echo"
show "cairn dev start $primary --dir $dir"

cat <<TEXT

The cluster, the mount and PostgreSQL are running. Go on with:

    . $dir/env          # PATH, CAIRN_ENDPOINTS, PGHOST, PGUSER, PGDATABASE
    cairn ls -l
    ls -l $mnt
    psql
    make stop           # ends all of it; the data stays
TEXT
