#!/bin/sh
# Removes Nukkad's services and programs. The data (ledger, keys, packages, settings) stay, unless --purge-data is given.
set -eu

fail() {
    echo "uninstall: $1" >&2
    echo "  next: $2" >&2
    exit 1
}

root='' purge=''
while [ $# -gt 0 ]; do
    case $1 in
    --root)
        [ $# -gt 1 ] || fail "--root needs a value" "packaging/uninstall.sh --help"
        root=${2%/}
        [ -n "$root" ] || fail "--root must name a folder below which a system lies" "leave it out for this machine"
        shift
        ;;
    --purge-data) purge=yes ;;
    -h | --help)
        echo "Usage: packaging/uninstall.sh [--purge-data] [--root DIR]"
        exit 0
        ;;
    *) fail "unknown option $1" "packaging/uninstall.sh --help" ;;
    esac
    shift
done
[ "$(id -u)" = 0 ] || fail "must run as root" "sudo packaging/uninstall.sh"

inside() {
    if [ -n "$root" ]; then
        chroot "$root" "$@"
    else
        "$@"
    fi
}

if [ -d "$root/opt/nukkad" ]; then
    exec 9>"$root/opt/nukkad/install.lock"
    flock -n 9 || fail "another install or uninstall is at work" "wait until it has ended, then run this again"
fi

if [ -z "$root" ] && [ -d /run/systemd/system ]; then
    for unit in nukkad.service nukkad-node.service; do
        [ ! -e "/etc/systemd/system/$unit" ] || systemctl stop "$unit"
    done
fi
for unit in nukkad.service nukkad-node.service; do
    rm -f "$root/etc/systemd/system/$unit" "$root/etc/systemd/system/multi-user.target.wants/$unit"
done
[ -n "$root" ] || [ ! -d /run/systemd/system ] || systemctl daemon-reload
rm -rf "$root/opt/nukkad" "$root/usr/local/bin/nukkad"

if [ -n "$purge" ]; then
    rm -rf "$root/var/lib/nukkad" "$root/etc/nukkad"
    for user in nukkad nukkad-node; do
        ! inside id -u "$user" >/dev/null 2>&1 || inside userdel "$user"
    done
    echo "Nukkad and all its data are gone."
else
    # The users stay with the data: files of a removed user may fall to the next one who gets its number.
    echo "Nukkad is removed. Its data are kept: $root/var/lib/nukkad (state), $root/etc/nukkad (settings)."
    echo "To delete them too: packaging/uninstall.sh --purge-data"
fi
