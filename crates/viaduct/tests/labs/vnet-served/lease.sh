#!/bin/sh
# What udhcpc was told: shown, and done.
[ "$1" = bound ] || exit 0
echo "server=$serverid address=$ip/$mask router=$router dns=$dns domain=$domain mtu=$mtu"
ip -4 address replace "$ip/$mask" dev "$interface"
[ -z "$mtu" ] || ip link set "$interface" mtu "$mtu"
[ -z "$router" ] || ip -4 route replace default via "$router"
