#!/bin/sh
# Everything about a host's network that somebody could find changed afterwards.
set -e
{
    ip -o address | sed 's/valid_lft.*//'
    # The state of a link, and whose it is; not its counters and queues.
    ip -o -d link | sed 's/qlen .*link\/ether/link\/ether/'
    ip -4 route show table all | sort
    ip -6 route show table all | sed 's/expires [0-9]*sec/expires/' | grep -v '^multicast' | sort
    ip rule
    ip -6 rule
    ip neighbour show proxy
    ip maddress show dev eth0 | grep link || true
    nft list ruleset
    # Others than ours change these: the kernel's own count, and what a time in use has brought about.
    sysctl -a 2>/dev/null | grep '^net\.' | grep -vE 'nf_conntrack_count|\.(base_reachable|retrans)_time|stable_secret'
} > "$1"
