#!/bin/sh
# Makes a minimal Debian with systemd under a directory, for tests that boot it; does nothing when it is there and has the same packages.
# $VIADUCT_TEST_MIRROR says where from, if not from Debian's own.
set -eu

root=${1:?"usage: $0 DIRECTORY"}
mirror=${VIADUCT_TEST_MIRROR:-http://deb.debian.org/debian}
PATH=$PATH:/usr/sbin:/sbin

mkdir -p "$(dirname "$root")"
exec 9>"$root.lock"
flock 9
packages=systemd,systemd-sysv,systemd-container,dbus,nftables,iproute2,iputils-ping,libpam-systemd,firewalld,netbase
if [ "$(cat "$root/etc/viaduct-test-packages" 2>/dev/null)" = "$packages" ]; then exit; fi
echo "Making a Debian to boot in $root"
rm -rf "$root" "$root.new"
debootstrap --variant=minbase --include="$packages" \
    bookworm "$root.new" "$mirror" >"$root.log" 2>&1 9>&- || {
    tail -n 5 "$root.log" >&2
    exit 1
}
# Installed for the test that starts it; no other has it.
chroot "$root.new" systemctl disable --quiet firewalld
rm -rf "$root.new"/var/cache/apt/archives/*.deb "$root.new"/var/lib/apt/lists/*
echo "$packages" >"$root.new/etc/viaduct-test-packages"
mv "$root.new" "$root"
