"""Frames for everybody on a segment. send COUNT RATE [MAC]: numbered ones, of the machine's own MAC or another. hear FILE: writes down
which came, how often, until killed. first FILE: waits for one, and writes down when it came. later BEGIN FILE FROM TO: fails unless that
was so many seconds after. macs COUNT RATE: to nobody, each of another MAC. number NAME: what a host's status says. marks FILE: writes
down what hosts say of who bridges here, until killed. again FILE TIMES: says it again.
once FILE COUNT: fails unless almost each came, and none twice. atmost FILE COUNT: fails when more
came."""
import json
import os
import socket
import struct
import sys
import time

sys.path.append(os.path.join(os.path.dirname(__file__), os.pardir))
from hearing import write_down

TYPE = int(os.environ.get("TYPE", "0x88b6"), 16)


def send(count, rate, mac=None):
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    s.bind(("eth0", 0))
    source = bytes.fromhex(mac.replace(":", "")) if mac else s.getsockname()[4]
    begin = time.monotonic()
    for number in range(int(count)):
        s.send(b"\xff" * 6 + source + struct.pack("!HI", TYPE, number) + bytes(42))
        time.sleep(max(0, begin + (number + 1) / float(rate) - time.monotonic()))


def macs(count, rate):
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    s.bind(("eth0", 0))
    begin = time.monotonic()
    for number in range(int(count)):
        s.send(b"\x02\xed\0\0\0\1\x02\xef" + struct.pack("!IHI", number, TYPE, number) + bytes(42))
        if number % 50 == 0:
            time.sleep(max(0, begin + number / float(rate) - time.monotonic()))
    print(count, "in", time.monotonic() - begin, "s")


def marks(file):
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88B5))
    heard = []
    while True:
        heard.append(s.recv(2000).hex())
        with open(file, "w") as out:
            json.dump(heard, out)


def again(file, times):
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    s.bind(("eth0", 0))
    frames = json.load(open(file))
    for _ in range(int(times)):
        for frame in frames:
            s.send(bytes.fromhex(frame))
            time.sleep(0.05)
    print(len(frames), "said again")
    sys.exit(len(frames) < 3)


def unconnected(peer):
    sys.exit(json.load(sys.stdin)["vnets"]["peers"][peer]["connected"])


def number(name):
    print(json.load(sys.stdin)["vnets"]["counters"].get(name, 0))


def hear(file):
    def note(heard, frame, *_):
        number = struct.unpack("!I", frame[14:18])[0]
        heard[number] = heard.get(number, 0) + 1

    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(TYPE))
    write_down(s, file, note)


def first(file):
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(TYPE)).recv(100)
    with open(file, "w") as out:
        out.write(str(time.time()))


def later(begin, file, least, most):
    after = float(open(file).read()) - float(open(begin).read())
    print("after", after, "s")
    sys.exit(not float(least) <= after <= float(most))


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
