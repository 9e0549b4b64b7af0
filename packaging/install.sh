#!/bin/sh
# Installs a Nukkad box, and with --with-node a billing node, as systemd services. Safe to run again: nothing is done twice.
#
#   /opt/nukkad/releases/VERSION-HASH   one complete installation: its own Python environment, units and command line
#   /opt/nukkad/current                 link to the release that runs; its units and command line are switched with it
#   /var/lib/nukkad                     state: ledger, packages, keys; never touched here
#   /etc/nukkad                         settings; written once, then yours
#   /usr/local/bin/nukkad               the command line, run as the box's user
set -eu
umask 022 # The services' users must be able to read what root writes here.

usage() {
    cat <<'USAGE'
Usage: packaging/install.sh [--with-node] [--wheels DIR] [--python PATH] [--root DIR] [--no-start]

  --with-node    also run a billing node on this machine; one that is set up here is upgraded also without this
  --wheels DIR   take all Python packages from this folder and nothing from the network; fill it with
                 pip download --require-hashes --no-deps --only-binary=:all: -r locks/box.txt -d DIR
  --python PATH  the Python 3.11 to use (default: python3.11, else python3)
  --root DIR     install into the Debian system below DIR; implies --no-start
  --no-start     do not start or restart the services
USAGE
}

fail() {
    echo "install: $1" >&2
    echo "  next: $2" >&2
    exit 1
}

source=$(cd "$(dirname "$0")/.." && pwd)
root='' wheels='' python='' node='' start=yes
while [ $# -gt 0 ]; do
    case $1 in
    --root | --wheels | --python)
        [ $# -gt 1 ] || fail "$1 needs a value" "packaging/install.sh --help"
        [ "$1" != --root ] || [ -n "${2%/}" ] || fail "--root must name a folder below which a system lies" "leave it out for this machine"
        case $1 in --root) root=${2%/} ;; --wheels) wheels=$2 ;; --python) python=$2 ;; esac
        shift
        ;;
    --with-node) node=yes ;;
    --no-start) start='' ;;
    -h | --help) usage && exit 0 ;;
    *) fail "unknown option $1" "packaging/install.sh --help" ;;
    esac
    shift
done
[ -z "$root" ] || start=''

[ "$(id -u)" = 0 ] || fail "must run as root, for it adds a user and services" "sudo packaging/install.sh"
[ -z "$root" ] || [ -d "$root/etc" ] || fail "--root $root holds no system" "make one with debootstrap"
if [ -n "$wheels" ]; then
    [ -d "$wheels" ] || fail "--wheels $wheels is no folder" "packaging/install.sh --help"
    wheels=$(cd "$wheels" && pwd)
fi
[ -s "$source/locks/box.txt" ] || fail "locks/box.txt is missing from $source" "fetch the whole source tree again"

# Commands that belong to the installed system.
inside() {
    if [ -n "$root" ]; then
        chroot "$root" "$@"
    else
        "$@"
    fi
}

if [ -z "$python" ]; then
    python=$(inside sh -c 'command -v python3.11 || command -v python3' || true)
    [ -n "$python" ] || fail "no Python found" "apt-get install python3 python3-venv"
fi
inside "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' ||
    fail "$python is not Python 3.11, which locks/box.txt is made for" "give one: --python /path/to/python3.11"
case $(inside "$python" -c 'import os, sys; print(os.path.realpath(sys.executable).lstrip("/"))') in
home/* | root/* | tmp/*) fail "$python lies in a home folder, which services do not see" "apt-get install python3 python3-venv, or --python /usr/bin/python3" ;;
esac
inside "$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "$python cannot make environments" "apt-get install python3-venv"

# Two at once would build and remove the same folders. The kernel lets go of the lock however this script ends.
mkdir -p "$root/opt/nukkad"
exec 9>"$root/opt/nukkad/install.lock"
flock -n 9 || fail "another install or uninstall is at work" "wait until it has ended, then run this again"

wants="$root/etc/systemd/system/multi-user.target.wants"
[ ! -L "$wants/nukkad-node.service" ] || node=yes

free_kib=$(df -Pk "$root/opt" | awk 'NR == 2 { print $4 }')
[ "$free_kib" -ge 1500000 ] || fail "$((free_kib / 1024)) MiB free in $root/opt; 1,500 are needed" "free some space"

# The engine's own operators are compiled here; a machine without a compiler does without them.
cd "$source"
"$(command -v python3.11 || command -v python3 || echo "$python")" -m kernels.compile ||
    echo "  next, for three times the speed of chat: apt-get install gcc libc6-dev, then run this again" >&2

# A release is named by its version and by what went into it, so the same sources are the same release.
version=$(sed -n 's/^version = "\([0-9A-Za-z.+-]*\)"$/\1/p' pyproject.toml | head -n 1)
[ -n "$version" ] || fail "no version in pyproject.toml" "fetch the whole source tree again"
parts='appliance kernels models quantize sync packaging/systemd packaging/nukkad.sh locks/box.txt pyproject.toml README.md LICENSE'
hash=$(find $parts -type f ! -path '*/__pycache__/*' -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -c 1-8)
release=/opt/nukkad/releases/$version-$hash

build() {
    echo "Building $release"
    rm -rf "$root$release"
    mkdir -p "$root$release/source"
    tar -cf - --exclude=__pycache__ $parts | tar -xf - -C "$root$release/source" --no-same-owner
    from=''
    if [ -n "$wheels" ]; then
        cp -R "$wheels" "$root$release/wheels" # for --root: what is outside cannot be seen from inside
        from="--isolated --no-index --find-links $release/wheels"
    fi
    inside "$python" -m venv "$release"
    pip="inside $release/bin/python -m pip --disable-pip-version-check --no-input"
    $pip install --quiet --no-cache-dir --no-deps --require-hashes --only-binary=:all: $from -r "$release/source/locks/box.txt" ||
        fail "the Python packages could not be installed (see above)" "check the network or use --wheels, then run this again"
    $pip install --quiet --no-cache-dir --no-deps --no-build-isolation --no-index "$release/source" ||
        fail "Nukkad itself could not be installed (see above)" "fetch the whole source tree again"
    if ! trial=$(inside runuser -u nukkad -- "$release/bin/nukkad" --help 2>&1); then
        echo "$trial" >&2
        fail "the service's user cannot run the new release (see above)" "nothing was switched; what ran before still runs"
    fi
    cp -R README.md LICENSE packaging/systemd packaging/nukkad.sh "$root$release/"
    rm -rf "$root$release/source" "$root$release/wheels"
    sync
    : >"$root$release/complete"
}

add_user() {
    inside id -u "$1" >/dev/null 2>&1 ||
        inside useradd --system --user-group --no-create-home --home-dir "$2" --shell /usr/sbin/nologin "$1"
}
add_user nukkad /var/lib/nukkad/box
add_user nukkad-node /var/lib/nukkad/node

if [ -e "$root$release/complete" ]; then
    echo "$release is complete already"
else
    build
fi

install -d -m 0755 "$root/var/lib/nukkad" "$root/etc/nukkad" "$root/etc/systemd/system" "$root/usr/local/bin"
inside install -d -m 0700 -o nukkad -g nukkad /var/lib/nukkad/box
inside install -d -m 0700 -o nukkad-node -g nukkad-node /var/lib/nukkad/node

# Settings may hold a database's password: readable by root and the service alone, and never overwritten.
add_settings() {
    [ -e "$root/etc/nukkad/$1" ] && return
    install -m 0640 "packaging/systemd/$1" "$root/etc/nukkad/$1"
    inside chgrp "$2" "/etc/nukkad/$1"
}
add_settings box.env nukkad
add_settings node.env nukkad-node

# A release brings the units and the command line that go with it.
switch() {
    install -m 0644 "$root$1/systemd/nukkad.service" "$root$1/systemd/nukkad-node.service" "$root/etc/systemd/system/"
    install -m 0755 "$root$1/nukkad.sh" "$root/usr/local/bin/nukkad"
    ln -sfn "$1" "$root/opt/nukkad/current.new"
    mv -T "$root/opt/nukkad/current.new" "$root/opt/nukkad/current"
}
before=$(readlink "$root/opt/nukkad/current" || true)
switch "$release"

# The release before stays, to go back to, and so does one that a process still runs (services that were not restarted);
# older ones make room.
is_running() {
    grep -qsF "$1/" /proc/[0-9]*/cmdline /proc/[0-9]*/maps
}
for old in "$root"/opt/nukkad/releases/*; do
    case ${old#"$root"} in "$release" | "$before") continue ;; esac
    is_running "${old#"$root"}" || rm -rf "$old"
done

units="nukkad.service${node:+ nukkad-node.service}"
for unit in $units; do
    install -d "$wants"
    ln -sfn "/etc/systemd/system/$unit" "$wants/$unit"
done

# Whether the node has its database, asked at the address that the running service was given.
node_is_ready() {
    node_pid=$(systemctl show -p MainPID --value nukkad-node.service)
    /opt/nukkad/current/bin/python -I - "/proc/$node_pid/environ" <<'PYTHON'
import sys
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

from sync.node.settings import read_settings

entries = Path(sys.argv[1]).read_text().split("\0")
url = read_settings(dict(entry.split("=", 1) for entry in entries if "=" in entry)).url
build_opener(ProxyHandler({})).open(f"{url}/readyz", timeout=5)
PYTHON
}

# Whether a service starts anew and answers within a minute; one that dies again and again is given up.
# A node whose process lives is waited for ten minutes more: it may migrate its database or wait for the lock to do so.
comes_up() {
    systemctl reset-failed "$1" 2>/dev/null || true
    systemctl restart "$1" || return 1
    deadline=$(($(date +%s) + 60))
    while [ "$(date +%s)" -lt "$deadline" ] || {
        [ "$1" = nukkad-node.service ] && [ "$(date +%s)" -lt $((deadline + 600)) ] &&
            [ "$(systemctl show -p MainPID --value "$1")" != 0 ]
    }; do
        sleep 1
        [ "$(systemctl show -p NRestarts --value "$1")" -lt 2 ] || return 1
        case $1 in
        nukkad.service) /usr/local/bin/nukkad status ;;
        nukkad-node.service) node_is_ready ;;
        esac >/dev/null 2>&1 && return 0
    done
    return 1
}

# Puts the release before in the place of one whose service $1 did not come up, looks what answers then, and ends.
go_back() {
    failed="$1 of $release does not answer"
    [ -n "$before" ] && [ "$before" != "$release" ] || fail "$failed" "journalctl -u $1"
    rm -f "$release/complete" # so that it is built anew, should it be tried again
    switch "$before" || true  # as far as it goes: what counts is what answers
    systemctl daemon-reload || true
    silent='' since=$(date +%s)
    for unit in $units; do
        comes_up "$unit" || silent="$silent $unit"
    done
    [ -n "$silent" ] || fail "$failed; $before runs again and answers" "journalctl -u $1"
    failed="$failed; $before is back in place, but does not answer:$silent"
    if journalctl -q -u nukkad-node.service --since "@$since" | grep -q 'which this node does not know'; then
        fail "$failed. The new node has migrated the database, which the old one cannot read" \
            "put back the copy of the database from before this install, or install a mended newer release (docs/install.md)"
    fi
    fail "$failed" "journalctl -u nukkad -u nukkad-node"
}

if [ -n "$start" ] && [ -d /run/systemd/system ]; then
    systemctl daemon-reload || true # if it cannot, what follows tells
    # The box first: once the new node has migrated the database there is no way back, so it starts when all else is well.
    for unit in $units; do
        comes_up "$unit" || go_back "$unit"
    done
    echo "Running: $units"
else
    echo "Not started. On the running system: systemctl daemon-reload && systemctl restart $units"
fi
echo "Installed $version ($release). Settings: /etc/nukkad  State: /var/lib/nukkad"
echo "Next: nukkad status; a package from a file: nukkad models install PATH; all commands: nukkad --help"
