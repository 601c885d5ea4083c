#!/bin/sh
# Makes a Debian package of the program as it was built: `scripts/deb.sh release` what `cargo build --release` left,
# `scripts/deb.sh dev` what `cargo build` did. A second word says where to; its place is the last line of what is said.
set -eu

profile=${1:?"usage: $0 release|dev [FILE]"}
cd "$(dirname "$0")/.."
PATH=$PATH:${HOME:-/root}/.cargo/bin
case $profile in
dev)
    # For tests, which have it made again and again.
    built=debug
    speed=--fast
    ;;
*)
    built=$profile
    speed=
    ;;
esac
built=${CARGO_TARGET_DIR:-target}/$built
made=$built/packaging

# One after the other: what is packed lies in one place.
mkdir -p "$built"
exec 9>"$made.lock"
flock 9
rm -rf "$made"
"$built/viaduct" man "$made/man"
gzip --best --no-name "$made"/man/*
gzip --best --no-name <CHANGELOG.md >"$made/changelog.gz"
# Whoever wants the commands that Xen had for vnets has this directory in the PATH; nobody finds them otherwise.
mkdir -p "$made/lib/viaduct/xen-compat" "$made/bin"
ln -s "$(readlink -f "$built/viaduct")" "$made/bin/viaduct"
for name in xm vn; do
    ln -s ../../../bin/viaduct "$made/lib/viaduct/xen-compat/$name"
done
for shell in bash zsh fish; do
    "$built/viaduct" completions $shell >"$made/viaduct.$shell"
done
# shellcheck disable=SC2086
exec cargo deb $speed --package viaduct --no-build --profile "$profile" --strip --no-dbgsym --locked \
    --output "${2:-${CARGO_TARGET_DIR:-target}/debian/}"
