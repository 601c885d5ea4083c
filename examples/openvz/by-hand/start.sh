#!/bin/sh
echo 1 > /proc/sys/net/ipv4/ip_forward
echo 1 > /proc/sys/net/ipv4/conf/veth1000.0/forwarding
echo 1 > /proc/sys/net/ipv4/conf/eth0/forwarding
echo 1 > /proc/sys/net/ipv4/conf/veth1000.0/proxy_arp
echo 1 > /proc/sys/net/ipv4/conf/eth0/proxy_arp
ip route add 203.0.113.77 dev veth1000.0
