"""Where frames are lost that no vnet loses: in sockets whose programme is late, and in taps whose worker is.

note FILE: writes down how many there are in each of the lab's networks that somebody's process is in. since FILE: prints what came
to them after that, at most."""
import glob
import json
import os
import sys


def rows(path):
    with open(path) as lines:
        return [line.split() for line in lines]


def losses(process):
    udp = [row for row in rows(f"{process}/net/snmp") if row[0] == "Udp:"]
    counters = dict(zip(*udp))
    lost = {"udp sockets": int(counters["RcvbufErrors"]) + int(counters["SndbufErrors"])}
    for name, count in (row[:2] for row in rows(f"{process}/net/snmp6") if len(row) > 1):
        if name in ("Udp6RcvbufErrors", "Udp6SndbufErrors"):
            lost["udp sockets"] += int(count)
    for row in rows(f"{process}/net/dev")[2:]:
        if row[0].startswith("vnet-"):
            lost[row[0].rstrip(":")] = int(row[12])
    # Those of a host take datagrams joined, up to 64 of a flow, and the kernel counts them as one (UDP_GRO).
    if len(lost) > 1:
        lost["udp sockets"] *= 64
    return lost


def networks():
    found = {}
    for process in glob.glob("/proc/[0-9]*"):
        try:
            network = os.readlink(f"{process}/ns/net")
            if network not in found:
                found[network] = losses(process)
        except OSError:
            pass  # It has ended.
    return found


def note(file):
    with open(file, "w") as out:
        json.dump(networks(), out)


def since(file):
    """How many frames were lost there; says where."""
    with open(file) as before:
        before = json.load(before)
    total = 0
    for network, lost in networks().items():
        for place, count in lost.items():
            more = count - before.get(network, {}).get(place, 0)
            if more > 0:
                print(f"{more} lost in {place} of {network}")
                total += more
    return total


if __name__ == "__main__":
    {"note": note, "since": since}[sys.argv[1]](sys.argv[2])
