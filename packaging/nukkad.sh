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

# What the file sets goes before this, as with the service.
export HOME="$state" NUKKAD_CACHE="$state/cache" PYTHONSAFEPATH=1

# The command is put together before the file is read, so that no name in the file changes what is run, or as whom.
set -- /opt/nukkad/current/bin/nukkad "$@"
if [ "$(id -u)" = 0 ]; then
    set -- "$(command -v runuser)" -u "$user" -- "$@"
fi

# Read as systemd reads it: spaces around name and value, and one pair of quotes around the value, do not belong to them,
# and nothing in a value is run. What systemd would read in yet another way is refused, not guessed.
odd() {
    echo "nukkad: $settings: $name: write the value plainly or in one pair of quotes, without \\ or another quote" >&2
    exit 78
}
if [ -r "$settings" ]; then
    while IFS=' 	' read -r line || [ -n "$line" ]; do # read takes the spaces off both ends
        case $line in [#\;]*) continue ;; *=*) ;; *) continue ;; esac
        name=${line%%=*} value=${line#*=}
        name=${name%"${name##*[! 	]}"} value=${value#"${value%%[! 	]*}"}
        case $name in '' | [0-9]* | *[!A-Za-z0-9_]*) continue ;; esac # systemd passes these over too
        case $value in
        \"*\")
            value=${value#?} value=${value%?}
            case $value in *[\\\"]*) odd ;; esac
            ;;
        \'*\')
            value=${value#?} value=${value%?}
            case $value in *\'*) odd ;; esac
            ;;
        *[\\\"\']*) odd ;;
        esac
        export "$name=$value"
    done <"$settings"
fi

exec "$@"
