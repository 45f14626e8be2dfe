#!/bin/sh
# Installs what is missing to build and test Cairn. Prints the line first; asks before sudo on a terminal; without one stops with
# exit 2. Starts no service and makes no PostgreSQL cluster.
set -eu

packages="build-essential pkg-config libuv1-dev liblmdb-dev libprotobuf-c-dev protobuf-c-compiler protobuf-compiler
libxxhash-dev libfuse3-dev fuse3 attr libpq-dev postgresql-15 postgresql-server-dev-15 libcmocka-dev libjansson-dev perl valgrind"
[ "${1:-}" = fuzz ] && packages="$packages clang libclang-rt-14-dev"
[ "${1:-}" = bench ] && packages="$packages libnghttp2-dev redis-server etcd-server etcd-client strace linux-perf"

missing=
for package in $packages; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

echo "missing packages; this installs them:"
echo "    apt-get install -y --no-install-recommends$missing"

as_root=
if [ "$(id -u)" != 0 ]; then
    if [ ! -t 0 ] || ! command -v sudo >/dev/null; then
        echo "not root and no terminal to ask on: run the line above as root, then again" >&2
        exit 2
    fi
    printf 'run it with sudo? [y/N] '
    read -r answer
    [ "$answer" = y ] || [ "$answer" = Y ] || exit 2
    as_root=sudo
fi

export DEBIAN_FRONTEND=noninteractive
apt="$as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get"
$apt update -q >/dev/null

# Debian makes and starts a cluster when the server is installed, unless this file says no; it is put back afterwards.
config=/etc/postgresql-common/createcluster.conf
case " $missing " in *" postgresql-15 "*)
    $apt install -yq --no-install-recommends postgresql-common >/dev/null
    $as_root cp -p $config $config.cairn-saved
    echo 'create_main_cluster = false' | $as_root tee $config >/dev/null
    trap '$as_root mv $config.cairn-saved $config' EXIT
    ;;
esac
# shellcheck disable=SC2086
$apt install -yq --no-install-recommends $missing >/dev/null
echo "installed"
