#!/bin/sh
# Unpacks Debian packages under a directory without installing them, for tests of what works with other programs; does
# nothing when that was done for the same packages.
set -eu

root=${1:?"usage: $0 DIRECTORY PACKAGE..."}
shift

mkdir -p "$(dirname "$root")"
exec 9>"$root.lock"
flock 9
if [ "$(cat "$root/packages" 2>/dev/null)" = "$*" ]; then exit; fi
echo "Unpacking $* in $root"
rm -rf "$root" "$root.new"
mkdir "$root.new"
cd "$root.new"
# The user that apt fetches by may not write here.
apt-get -qq -o APT::Sandbox::User=root download "$@"
for package in *.deb; do
    dpkg-deb --extract "$package" .
done
rm ./*.deb
echo "$*" >packages
cd - >/dev/null
mv "$root.new" "$root"
