# What a reboot does to a host: every process ends, and everything in the kernel and under /run is gone. What is on the disk stays.
set -e
kill -9 $(grep -o '"\(pid\|engine\)": *[0-9]*' /run/status.json | grep -o '[0-9]*$')
nft flush ruleset
ip -o link | sed -n 's/^[0-9]*: \([^:@]*\).*/\1/p' | grep -v '^lo$\|^eth0$' | while read -r link; do ip link delete "$link" 2>/dev/null || true; done
ip link set eth0 alias ''
ip route flush proto 86
ip -6 route flush proto 86
for family in ipv4 ipv6; do echo 0 >/proc/sys/net/$family/conf/all/forwarding; done
rm -rf "$1"/*
test "$(ip -o link | wc -l)" = 2 && test -z "$(nft list ruleset)"
