#!/bin/sh
# What busybox's DHCP client does with what it was told: the address, then routes, option 121 before option 3.
case $1 in
deconfig)
    ip address flush dev "$interface" scope global
    ip link set "$interface" up
    ;;
bound | renew)
    ip address flush dev "$interface" scope global
    ip address add "$ip/${mask:-32}" dev "$interface"
    [ -z "$mtu" ] || ip link set "$interface" mtu "$mtu"
    if [ -n "$staticroutes" ]; then
        # shellcheck disable=SC2086
        set -- $staticroutes
        while [ $# -ge 2 ]; do
            if [ "$2" = 0.0.0.0 ]; then
                ip route replace "$1" dev "$interface"
            else
                ip route replace "$1" via "$2" dev "$interface" onlink
            fi
            shift 2
        done
    else
        for address in $router; do
            ip route replace default via "$address" dev "$interface" onlink
        done
    fi
    : >/etc/resolv.conf
    for address in $dns; do
        echo "nameserver $address" >>/etc/resolv.conf
    done
    ;;
esac
