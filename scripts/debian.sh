#!/bin/sh
# Makes a minimal Debian with systemd under a directory, for tests that boot it; does nothing when it is there.
# $VIADUCT_TEST_MIRROR says where from, if not from Debian's own.
set -eu

root=${1:?"usage: $0 DIRECTORY"}
mirror=${VIADUCT_TEST_MIRROR:-http://deb.debian.org/debian}
PATH=$PATH:/usr/sbin:/sbin

mkdir -p "$(dirname "$root")"
exec 9>"$root.lock"
flock 9
if [ -d "$root" ]; then exit; fi
echo "Making a Debian to boot in $root"
rm -rf "$root.new"
debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,nftables,iproute2,iputils-ping \
    bookworm "$root.new" "$mirror" >"$root.log" 2>&1 9>&- || {
    tail -n 5 "$root.log" >&2
    exit 1
}
rm -rf "$root.new"/var/cache/apt/archives/*.deb "$root.new"/var/lib/apt/lists/*
mv "$root.new" "$root"
