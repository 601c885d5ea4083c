"""Who asks for whose MAC, by ARP or neighbour discovery, as it is heard here.

hear FILE: writes down each question that comes in, until it is killed: its target, and by whom. heard FILE MAC ADDRESS...: fails unless
this machine has asked for each of these. none FILE MAC ADDRESS...: fails when it has asked for one of them."""

import json
import os
import socket
import sys

sys.path.append(os.path.join(os.path.dirname(__file__), os.pardir))
from hearing import write_down

OUTGOING = 4


def note(heard, frame, sender, _):
    kind, rest, target = frame[12:14], frame[14:], None
    if kind == b"\x08\x06" and rest[6:8] == b"\0\1":
        target = socket.inet_ntop(socket.AF_INET, rest[24:28])
    if kind == b"\x86\xdd" and rest[6] == 58 and rest[40] == 135:
        target = socket.inet_ntop(socket.AF_INET6, rest[48:64])
    if target and sender[2] != OUTGOING:
        heard.setdefault(target, []).append(frame[6:12].hex(":"))


def hear(file):
    write_down(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)), file, note)


def asked(file, mac, addresses):
    questions = json.load(open(file))
    print(questions)
    return [mac in questions.get(address, []) for address in addresses]


def heard(file, mac, *addresses):
    sys.exit(not all(asked(file, mac, addresses)))


def none(file, mac, *addresses):
    sys.exit(any(asked(file, mac, addresses)))


act, *words = sys.argv[1:]
{"hear": hear, "heard": heard, "none": none}[act](*words)
