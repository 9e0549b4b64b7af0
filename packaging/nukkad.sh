#!/bin/sh
# The command line of an installed box: runs as the user whose state it is, with the settings of the service.
set -eu

if [ "${1:-}" = node ]; then
    user=nukkad-node state=/var/lib/nukkad/node settings=/etc/nukkad/node.env
    export NUKKAD_NODE_STATE="$state"
else
    user=nukkad state=/var/lib/nukkad/box settings=/etc/nukkad/box.env
    export NUKKAD_STATE="$state"
fi

if [ "$(id -un)" != "$user" ] && [ "$(id -u)" != 0 ]; then
    echo "nukkad: $state is private to the user $user; run: sudo nukkad $*" >&2
    exit 77
fi

# Read as systemd reads it: a value is the rest of its line, and nothing in it is run.
if [ -r "$settings" ]; then
    while IFS= read -r line || [ -n "$line" ]; do
        case $line in NUKKAD_*=*) export "${line?}" ;; esac
    done <"$settings"
fi

export HOME="$state" NUKKAD_CACHE="$state/cache" PYTHONSAFEPATH=1
if [ "$(id -u)" = 0 ]; then
    exec runuser -u "$user" -- /opt/nukkad/current/bin/nukkad "$@"
fi
exec /opt/nukkad/current/bin/nukkad "$@"
