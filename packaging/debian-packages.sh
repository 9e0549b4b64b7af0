#!/bin/sh
# Installs the Debian packages that the tests use as outside oracles. Returns at once when all are there.
set -eu

packages='chromium curl debootstrap fonts-noto-core iproute2 skopeo systemd'
missing=''
for package in $packages; do
    case $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) in installed) ;; *) missing="$missing $package" ;; esac
done
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null; then
    echo "debian-packages: this is not Debian; install what stands for$missing, or run only: make unit" >&2
    exit 1
fi
as_root=''
if [ "$(id -u)" != 0 ]; then
    as_root='sudo -n'
    if ! sudo -n true 2>/dev/null; then
        echo "debian-packages: missing$missing" >&2
        echo "  next: sudo apt-get install --no-install-recommends$missing   (or run only: make unit)" >&2
        exit 1
    fi
fi
echo "Installing Debian packages for the tests:$missing"
$as_root apt-get -q update >/dev/null
$as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y install --no-install-recommends $missing >/dev/null
