# A nat bridge without any protection, so that whatever is made up gets through.
apply() {
    ip link add br0 type bridge forward_delay 0
    ip addr add 192.168.1.1/24 dev br0
    ip addr add fd00:1::1/64 dev br0
    ip link set br0 up
    echo 1 > /proc/sys/net/ipv4/ip_forward
    echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
    nft -f - <<'NFT'
table inet stand-in {
    chain pre {
        type nat hook prerouting priority dstnat
        ip daddr 203.0.113.2 tcp dport 8080 dnat ip to 192.168.1.3:80
        ip daddr 203.0.113.2 udp dport 53 dnat ip to 192.168.1.3:53
    }
    chain post {
        type nat hook postrouting priority srcnat
        oifname eth0 ip saddr 192.168.1.0/24 masquerade
    }
    chain forward {
        type filter hook forward priority filter
        ip daddr 192.168.1.4 tcp dport 22 reject with icmp type admin-prohibited
        ip daddr 192.168.1.4 tcp dport 23 reject with tcp reset
        ip daddr 192.168.1.4 tcp dport 24 drop
        ip6 daddr fd00:1::4 udp dport 22 reject with icmpv6 type admin-prohibited
    }
}
NFT
}

# attach GUEST.N --netns NAME
attach() {
    case $1 in
    web.0) number=3 ;;
    mallory.0) number=4 ;;
    *) echo "no such guest: $1" >&2; exit 1 ;;
    esac
    ip link add "tap$number" type veth peer name eth0 netns "$3" address 02:00:00:00:00:0$number
    ip link set "tap$number" master br0 up
    ip -n "$3" addr add "192.168.1.$number/24" dev eth0
    ip -n "$3" addr add "fd00:1::$number/64" dev eth0
    ip -n "$3" link set eth0 up
    ip -n "$3" route add default via 192.168.1.1
    ip -n "$3" route add default via fd00:1::1
}

# What a host remembers, and where.
remember() { echo "$1" > /run/viaduct/note; echo "$1" >> "$dir/viaduct.toml"; }
recall() { cat /run/viaduct/note; tail -n 1 "$dir/viaduct.toml"; }
