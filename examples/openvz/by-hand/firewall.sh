#!/bin/sh
iptables -t nat -A POSTROUTING -s 192.168.1.0/24 -o eth0 -j MASQUERADE

# LDAP
iptables -A PREROUTING -t nat -i eth0 -p tcp -d 203.0.113.10 --dport 389 -j DNAT --to 192.168.1.3:389
iptables -A PREROUTING -t nat -i eth0 -p tcp -d 203.0.113.10 --dport 636 -j DNAT --to 192.168.1.3:636
iptables -A PREROUTING -t nat -i eth0 -p tcp -d 203.0.113.10 --dport 9722 -j DNAT --to 192.168.1.3:22

# TACACS+
iptables -A PREROUTING -t nat -i eth0 -p tcp -d 203.0.113.10 --dport 49 -j DNAT --to 192.168.1.4:49
iptables -A PREROUTING -t nat -i eth0 -p tcp -d 203.0.113.10 --dport 9723 -j DNAT --to 192.168.1.4:22

# RADIUS
iptables -A PREROUTING -t nat -i eth0 -p udp -d 203.0.113.10 --dport 1812 -j DNAT --to 192.168.1.5:1812
iptables -A PREROUTING -t nat -i eth0 -p udp -d 203.0.113.10 --dport 1813 -j DNAT --to 192.168.1.5:1813
iptables -A PREROUTING -t nat -i eth0 -p udp -d 203.0.113.10 --dport 1645 -j DNAT --to 192.168.1.5:1645
iptables -A PREROUTING -t nat -i eth0 -p udp -d 203.0.113.10 --dport 1646 -j DNAT --to 192.168.1.5:1646
iptables -A PREROUTING -t nat -i eth0 -p tcp -d 203.0.113.10 --dport 9724 -j DNAT --to 192.168.1.5:22
