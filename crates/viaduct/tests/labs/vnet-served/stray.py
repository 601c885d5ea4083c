"""What servers of DHCP and routers say, and who it is.

hear FILE: writes down each such frame, by the MAC of who has sent it. only FILE GATEWAY WORDS...: fails unless all of it was sent by
the machine that has this address, and something beginning with each of these words is among
it."""
import json
import os
import re
import socket
import subprocess
import sys

sys.path.append(os.path.join(os.path.dirname(__file__), os.pardir))
from hearing import write_down


def note(heard, frame, *_):
    kind, rest = frame[12:14], frame[14:]
    said = None
    if kind == b"\x08\x00" and rest[9] == 17 and rest[20:22] == b"\x00\x43":
        said = "dhcp4"
    if kind == b"\x86\xdd" and rest[6] == 17 and rest[40:42] == b"\x02\x23":
        said = "dhcp6"
    if kind == b"\x86\xdd" and rest[6] == 58 and rest[40] == 134:
        said = "router-to-all" if frame[0] & 1 else "router"
    if said:
        heard.setdefault(frame[6:12].hex(":"), []).append(said)


def hear(file):
    write_down(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)), file, note)


def only(file, gateway, *words):
    neighbour = subprocess.run(["ip", "neighbour", "show", gateway], capture_output=True, text=True, check=True)
    mac = re.search("lladdr ([0-9a-f:]+)", neighbour.stdout).group(1)
    heard = json.load(open(file))
    print(mac, heard)
    assert set(heard) == {mac}
    assert all(any(said.startswith(word) for said in heard[mac]) for word in words)


{"hear": hear, "only": only}[sys.argv[1]](*sys.argv[2:])
