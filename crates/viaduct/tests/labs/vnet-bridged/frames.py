"""Frames for everybody on a segment. send COUNT RATE [MAC]: numbered ones, of the machine's own MAC or another. hear FILE: writes down
which came, how often, until killed. once FILE COUNT: fails unless almost each came, and none twice. atmost FILE COUNT: fails when more
came."""
import json
import os
import socket
import struct
import sys
import time

TYPE = 0x88B6


def send(count, rate, mac=None):
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    s.bind(("eth0", 0))
    source = bytes.fromhex(mac.replace(":", "")) if mac else s.getsockname()[4]
    begin = time.monotonic()
    for number in range(int(count)):
        s.send(b"\xff" * 6 + source + struct.pack("!HI", TYPE, number) + bytes(42))
        time.sleep(max(0, begin + (number + 1) / float(rate) - time.monotonic()))


def hear(file):
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(TYPE))
    s.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE
    s.settimeout(0.2)
    heard, written = {}, 0
    while True:
        try:
            number = struct.unpack("!I", s.recv(100)[14:18])[0]
            heard[number] = heard.get(number, 0) + 1
        except socket.timeout:
            pass
        if time.monotonic() - written > 0.3:
            with open(file + ".new", "w") as out:
                json.dump(heard, out)
            os.rename(file + ".new", file)
            written = time.monotonic()


def once(file, count):
    heard = json.load(open(file))
    print(len(heard), "of", count, "most often", max(heard.values(), default=0))
    sys.exit(not (len(heard) >= int(count) * 0.8 and max(heard.values()) == 1))


def atmost(file, count):
    total = sum(json.load(open(file)).values())
    print(total, "came")
    sys.exit(not 0 < total <= int(count))


act, *words = sys.argv[1:]
globals()[act](*words)
