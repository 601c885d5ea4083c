"""What is said by UDP on each segment, and who joins which group there.

hear FILE: writes down where each host's datagrams go, by interface and MAC, and which groups it asks for, until it is killed.
beacons FILE INTERFACE MAC COUNT ADDRESS PORT: fails unless so many of it went there by that segment, and nothing else to any group.
nothing FILE INTERFACE MAC: fails when a datagram of it, or a wish to be in a group beyond the own link's, was heard there. joined [INTERFACE GROUP]...:
fails unless these, and only these, are the groups beyond the own link's that the kernel has on interfaces outside (proc_net(5))."""

import ipaddress
import json
import os
import socket
import struct
import sys

sys.path.append(os.path.join(os.path.dirname(__file__), os.pardir))
from hearing import write_down

# Of the own link, which systems and their bridges join by themselves.
OWN_LINK = [ipaddress.ip_network("224.0.0.0/24"), ipaddress.ip_network("ff02::/16"), ipaddress.ip_network("ff01::/16")]


def is_beyond(group):
    address = ipaddress.ip_address(group)
    return not any(address in net for net in OWN_LINK if net.version == address.version)


def wishes(report, each, size):
    """Groups of a report of IGMPv3 or MLDv2 (RFC 3376, RFC 3810), as far as it was taken."""
    return [report[at + 4 : at + 4 + size] for at in range(8, len(report) - each + 1, each)]


def note(heard, frame, sender, _):
    kind, rest, what = frame[12:14], frame[14:], []
    if kind == b"\x08\x00":
        to, inner = rest[16:20], rest[(rest[0] & 15) * 4 :]
        protocol = rest[9]
    elif kind == b"\x86\xdd":
        to, inner = rest[24:40], rest[40:]
        protocol = rest[6]
        if protocol == 0:  # hop-by-hop options, as reports have them
            protocol, inner = inner[0], inner[(inner[1] + 1) * 8 :]
    else:
        return
    if protocol == 17:
        what = [f"{ipaddress.ip_address(to)} {struct.unpack('!H', inner[2:4])[0]}"]
    if protocol == 2 and inner[0] == 0x22:
        what = [f"joins {ipaddress.ip_address(group)}" for group in wishes(inner, 8, 4)]
    if protocol == 58 and inner[0] == 143:
        what = [f"joins {ipaddress.ip_address(group)}" for group in wishes(inner, 20, 16)]
    for words in what:
        of = heard.setdefault(f"{sender[0]} {frame[6:12].hex(':')}", {})
        of[words] = of.get(words, 0) + 1


def hear(file):
    write_down(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)), file, note)


def of(file, interface, mac):
    said = json.load(open(file)).get(f"{interface} {mac}", {})
    print(interface, mac, said)
    return {words: count for words, count in said.items() if words.split()[0] != "joins"}, {
        words.split()[1] for words in said if words.split()[0] == "joins"
    }


def beacons(file, interface, mac, count, address, port):
    datagrams, _ = of(file, interface, mac)
    groups = {words for words in datagrams if ipaddress.ip_address(words.split()[0]).is_multicast}
    families = {words for words in groups if (":" in words) == (":" in address)}
    sys.exit(families != {f"{address} {port}"} or datagrams[f"{address} {port}"] < int(count))


def nothing(file, interface, mac):
    datagrams, groups = of(file, interface, mac)
    sys.exit(bool(datagrams or any(map(is_beyond, groups))))


def joined(*wanted):
    groups, device = set(), ""
    for line in open("/proc/net/igmp").read().splitlines()[1:]:
        words = line.split()
        if line[0] != "\t":
            device = words[1]
        elif device.startswith("eth"):
            # As the machine has it in its memory.
            groups.add(f"{device} {ipaddress.ip_address(struct.pack('=I', int(words[0], 16)))}")
    for words in map(str.split, open("/proc/net/igmp6")):
        if words[1].startswith("eth"):
            groups.add(f"{words[1]} {ipaddress.ip_address(bytes.fromhex(words[2]))}")
    assert any(group.endswith("224.0.0.1") for group in groups), groups
    groups = {group for group in groups if is_beyond(group.split()[1])}
    print(groups)
    sys.exit(groups != {" ".join(pair) for pair in zip(wanted[::2], wanted[1::2])})


act, *words = sys.argv[1:]
{"hear": hear, "beacons": beacons, "nothing": nothing, "joined": joined}[act](*words)
