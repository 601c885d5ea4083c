#!/bin/sh
# Prepares this machine for `make demo`, `test`, `bench`, `check`, `install` or `deb`: installs the Debian packages that
# are lacking, says which and what for, and looks whether Rust is there. Asks nothing.
set -eu

purpose=${1:?"usage: $0 demo|test|bench|check|install|deb|ci"}
cd "$(dirname "$0")/.."
PATH=$PATH:${HOME:-/root}/.cargo/bin:/usr/sbin:/sbin

fail() {
    printf '%s\n' "$@" >&2
    exit 1
}

case $purpose in
demo | test | bench | ci)
    [ "$(id -u)" -eq 0 ] || fail "\`make $purpose\` needs root: it makes network namespaces and changes what is in them." \
        "The machine's own network is not touched. Try: sudo -E make $purpose"
    ;;
check | install | deb) ;;
*) fail "$0: what is \"$purpose\"?" ;;
esac

lacking=
# need PACKAGE COMMAND WHY: a package without a command of its own has "-" for it.
need() {
    if [ "$2" != - ] && command -v "$2" >/dev/null; then return; fi
    # shellcheck disable=SC2016
    if [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; then return; fi
    if [ "$2" = - ] && ! command -v dpkg-query >/dev/null; then return; fi
    [ -n "$lacking" ] || echo "Lacking here:"
    echo "  $1: $3"
    lacking="$lacking $1"
}

need gcc cc "links Rust programs"
need libc6-dev - "what they are linked to"
need ca-certificates - "lets cargo trust whom it fetches crates from"
case $purpose in demo | test | bench | ci)
    need iproute2 ip "sets up the machines of labs and tests"
    need iputils-ping ping "what people and labs look for each other with"
    need udhcpc udhcpc "plays guests that ask for their configuration"
    need isc-dhcp-client dhclient "does so for IPv6"
    need nftables nft "shows the filter; in tests, the second opinion about every rule"
    ;;
esac
case $purpose in test | ci)
    need procps kill "ends processes in tests"
    need conntrack conntrack "lets a router forget what it translated, in a test of vnets"
    need faketime faketime "lets the clocks of hosts jump in tests, and nobody else's"
    need ethtool ethtool "takes offloads away in tests of vnets"
    need tshark tshark "reads the datagrams of vnets, as a second opinion about every byte"
    need python3-cryptography - "does so, too, for what it does not know"
    need util-linux unshare "gives tests namespaces of their own"
    need mount mount "gives tests a /run of their own"
    need iptables iptables "makes the rules of others in tests: as Docker has them, by both kinds of iptables"
    need ufw ufw "is one of those others"
    need python3 python3 "plays servers, attackers and virtual machines in tests"
    need dhcpcd-base dhcpcd "plays such guests, too"
    need systemd /lib/systemd/systemd-networkd "and another"
    need bind9-dnsutils dig "asks for names in tests"
    need ndisc6 rdisc6 "shows what routers advertise"
    need debootstrap debootstrap "makes the Debian that a test boots"
    need systemd-container systemd-nspawn "boots it"
    need qemu-system-x86 qemu-system-x86_64 "runs virtual machines in tests; needs no KVM"
    need ipxe-qemu - "is in their network cards, from which a machine without a system boots"
    need ovmf - "is another firmware that does"
    need dnsmasq-base dnsmasq "has the files that they load, by TFTP"
    need busybox busybox "is what these machines are made of"
    need libvirt-daemon libvirtd "starts and ends virtual machines in a test, which our hook attaches"
    need libvirt-daemon-driver-qemu - "with QEMU"
    need libvirt-clients virsh "tells it to"
    need libseccomp2 - "lets LXC's programs run, which tests unpack without installing them"
    need libapparmor1 - "does so, too"
    need kmod depmod "knows what modules of their kernel need each other"
    need strace strace "kills a run at a chosen system call"
    ;;
esac

case $purpose in bench)
    need iptables iptables "the hand-made way that is measured beside ours"
    need procps sysctl "sets up the hosts that are measured"
    need netavark /usr/lib/podman/netavark "what Podman connects its guests with, measured beside ours"
    need containernetworking-plugins /usr/lib/cni/bridge "what container runtimes connect theirs with"
    need libvirt-daemon libvirtd "libvirt's filter, measured beside ours; only its driver nwfilter is started"
    need libvirt-daemon-config-nwfilter - "the filters that are examples of it"
    need libvirt-clients virsh "drives it"
    need iperf3 iperf3 "fills tunnels between hosts"
    need iputils-ping ping "says what is left for others then"
    need conntrack conntrack "lets a router forget what it translated, in a test of vnets"
    need faketime faketime "lets the clocks of hosts jump in tests, and nobody else's"
    need ethtool ethtool "takes offloads away"
    need openvpn openvpn "a tunnel that ours is measured beside"
    need openssl openssl "makes its keys"
    need tinc tincd "another one"
    need fastd fastd "another one"
    need nebula nebula "another one"
    need wireguard-go wireguard-go "another one"
    need wireguard-tools wg "sets it up"
    need dnsmasq-base dnsmasq "answers guests, measured beside ours"
    need python3 python3 "plays a thousand guests"
    need strace strace "kills runs at chosen system calls"
    need util-linux unshare "gives measurements namespaces of their own"
    need mount mount "gives measurements a /run of their own"
    ;;
esac

case $purpose in deb | test | ci)
    need dpkg-dev dpkg-shlibdeps "says what a Debian package depends on"
    ;;
esac

if [ -n "$lacking" ]; then
    command -v apt-get >/dev/null || fail "This is no Debian: install what these packages hold, and try again."
    [ "$(id -u)" -eq 0 ] || fail "Only root may install them. Try: sudo apt-get install$lacking"
    echo "Installing$lacking"
    export DEBIAN_FRONTEND=noninteractive
    # The lists of a fresh machine are old or not there; a package that is in none of them is told by the second command.
    apt-get -qq update || echo "The lists of packages could not be brought up to date."
    # shellcheck disable=SC2086
    apt-get -qq install --yes --no-install-recommends $lacking </dev/null ||
        fail "These packages could not be installed:$lacking"
fi

wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
how="https://rustup.rs has it: apt-get install curl; curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y"
command -v cargo >/dev/null || fail "Rust $wanted or newer is needed, and there is none here (Debian 12's own is too old)." \
    "$how" "Under sudo, this has to be root's, or PATH has to lead to yours."
found=$(rustc --version | cut -d' ' -f2)
oldest=$(printf '%s\n%s\n' "$wanted" "${found%%-*}" | sort -V | head -n 1)
[ "$oldest" = "$wanted" ] || fail "Rust $wanted or newer is needed; $(command -v rustc) is $found." \
    "With rustup: rustup update stable. Without it: $how"
case $purpose in check | ci)
    for component in fmt clippy; do
        cargo $component --version >/dev/null 2>&1 && continue
        echo "Installing cargo $component"
        rustup component add "$(echo $component | sed s/fmt/rustfmt/)" || fail "cargo $component is needed."
    done
    ;;
esac
case $purpose in bench)
    # Not installed, for Kea's servers need not be there: the program that makes the load of many clients.
    log=$(apt-cache depends kea-common 2>/dev/null | sed -n 's/^ *Depends: \(liblog4cplus.*\)/\1/p')
    # shellcheck disable=SC2086
    scripts/unpack.sh "${CARGO_TARGET_DIR:-target}/tmp/kea" kea-admin kea-common $log ||
        echo "perfdhcp could not be fetched: what guests are told is measured without it."
    # Tunnels that Debian has no packages of.
    # tunnel NAME PROGRAM CRATE VERSION
    tunnel() {
        root=${CARGO_TARGET_DIR:-target}/tmp/$2
        [ -x "$root/bin/$2" ] || cargo install --quiet --locked --root "$root" --version "$4" "$3" ||
            echo "$1 could not be built: tunnels are measured without it."
    }
    tunnel VpnCloud vpncloud vpncloud '^2.3'
    tunnel GotaTun gotatun gotatun-cli '^0.10'
    ;;
esac
case $purpose in deb | test | ci)
    if ! cargo deb --version >/dev/null 2>&1; then
        echo "Installing cargo-deb, which makes Debian packages"
        # Without optimization: it is built sooner, and a package is made as fast.
        cargo install --quiet --locked --debug --version '^3.8' cargo-deb || fail "cargo-deb is needed."
    fi
    ;;
esac
case $purpose in test | ci)
    tests=${CARGO_TARGET_DIR:-target}/tmp
    scripts/debian.sh "$tests/debian" || fail "A Debian to boot in a test could not be made."
    # Not installed, for both would begin to manage this machine: LXC, which starts containers in a test, and Xen's scripts,
    # which ours stands on.
    scripts/unpack.sh "$tests/lxc" lxc liblxc1 liblxc-common busybox-static && scripts/unpack.sh "$tests/xen" xen-utils-common ||
        fail "Debian packages that tests look into could not be fetched."
    ;;
esac
