"""Datagrams with numbers, to see which of them arrive where.

send ADDRESS COUNT RATE: sends them, and goes on where there is no way to it for a while. hear FILE: writes down which came
from whom, and when. each FILE COUNT SENDER... [LEDGER]: fails unless all of each came, and none twice. merge THERE HERE COUNT LEDGER:
fails unless all of each came in two places together, and none twice; senders are on the host where who moved was, on the one where it
is, and on a third. What the ledger knows to be lost elsewhere (`ledger.py`) may be missing. soon MOVES IDLE OTHERS ODD EVEN: of the
moves, whose times are lines of MOVES, fails unless at each of them all hosts' frames came to who moved (to ODD and EVEN in turn) and
its own to OTHERS in less than 200 ms, but for time in which no processor was idle, of which `idle FILE` keeps a record until it is killed. swallow COUNT FILE: takes what so many connections bring, and writes down how much each did. pour
SECONDS ADDRESS...: fills one to each. poured FILE COUNT LEAST: fails unless so many brought that much.
announce ADDRESS: says by gratuitous ARP that this address is here. advertise ADDRESS: the same by an unsolicited neighbour advertisement.
rarp: says by RARP that this machine is here. rarps COUNT FILE: makes a file when so many have come."""
import json
import os
import signal
import socket
import struct
import sys
import threading
import time

import idle
from hearing import write_down
from ledger import since

PORT = 4000
STREAM = 5001


def send(address, count, rate):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    begin = time.monotonic()
    for number in range(count):
        try:
            s.sendto(b"%d" % number, (address, PORT))
        except OSError:
            pass
        time.sleep(max(0, begin + (number + 1) / rate - time.monotonic()))


def hear(file):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind(("", PORT))
    write_down(s, file, lambda heard, data, sender, when: heard.setdefault(sender[0], []).append((int(data), when)))


def each(file, count, *senders):
    heard = json.load(open(file))
    ledger = [senders[-1]] if "/" in senders[-1] else []
    lost = 0
    for sender in senders[: len(senders) - len(ledger)]:
        numbers = [number for number, _ in heard.get(sender, [])]
        missing, twice = sorted(set(range(count)) - set(numbers)), len(numbers) - len(set(numbers))
        print(f"{sender}: {len(missing)} missing {missing[:20]}, {twice} twice")
        lost = lost + len(missing) if numbers and not twice else count * len(senders)
    sys.exit(lost > sum(since(file) for file in ledger))


def merge(before, after, count, ledger):
    before, after = (json.load(open(f)) for f in (before, after))
    senders = set(before) | set(after)
    good, lost = len(senders) == 3, 0
    for sender in sorted(senders):
        old, new = before.get(sender, []), after.get(sender, [])
        numbers = [n for n, _ in old] + [n for n, _ in new]
        missing, twice = sorted(set(range(count)) - set(numbers)), len(numbers) - len(set(numbers))
        print(f"{sender}: {len(old)} there, {len(new)} here, {twice} twice, {len(missing)} missing: {missing[:20]}")
        good, lost = bool(good and old and new and not twice), lost + len(missing)
    sys.exit(not good or lost > since(ledger))


def record_idle(file):
    ended = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
    record = []
    while not ended:
        record.append((time.time(), idle.now()))
        time.sleep(0.01)
    with open(file, "w") as out:
        json.dump(record, out)


def soon(moves, record, others, *places):
    moves = [float(line) for line in open(moves)]
    record, others, places = json.load(open(record)), json.load(open(others)), [json.load(open(f)) for f in places]
    gaps, waited = [], []
    for number, then in enumerate(moves):
        after = lambda heard: min((t for _, t in heard if t > then), default=then + 60) - then
        here, back = places[number % 2], after([came for heard in others.values() for came in heard])
        to = [after(heard) for heard in here.values()] + [60] * (3 - len(here))
        print(f"move {number}: to it after", *(f"{round(gap * 1000)} ms," for gap in to), f"from it after {round(back * 1000)} ms")
        gaps.append(max(*to, back))
        before = max((at for at in record if at[0] <= then), default=record[0])
        until = min((at for at in record if at[0] >= then + gaps[-1]), default=record[-1])
        # Each is known within 10 ms, and looked at as often.
        waited.append(min(gaps[-1], idle.between(before[1], until[1]) - 0.02))
        print(f"  of which a processor was idle for {round(waited[-1] * 1000)} ms")
    sys.exit(len(moves) < 5 or max(gaps) > 30 or max(waited) > 0.2)


def swallow(count, file):
    brought = {}

    def take(connection):
        while data := connection.recv(1 << 20):
            brought[connection.getpeername()[0]] = brought.get(connection.getpeername()[0], 0) + len(data)

    with socket.create_server(("", STREAM), backlog=count) as server:
        threads = [threading.Thread(target=take, args=(server.accept()[0],)) for _ in range(count)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
    with open(file, "w") as out:
        json.dump(brought, out)


def pour(seconds, *addresses):
    def fill(connection):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            connection.sendall(bytes(1 << 16))
        connection.close()

    threads = [threading.Thread(target=fill, args=(socket.create_connection((address, STREAM)),)) for address in addresses]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]


def poured(file, count, least):
    brought = json.load(open(file))
    print(brought)
    sys.exit(len(brought) != count or min(brought.values()) < least)


def say(kind, packet):
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    s.bind(("eth0", 0))
    own = s.getsockname()[4]
    s.send(b"\xff" * 6 + own + kind + packet(own) + bytes(18))


def announce(address):
    ip = socket.inet_aton(address)
    say(b"\x08\x06", lambda own: b"\0\1\x08\0\6\4\0\1" + own + ip + bytes(6) + ip)


def advertise(address):
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    s.bind(("eth0", 0))
    own, to = s.getsockname()[4], socket.inet_pton(socket.AF_INET6, "ff02::1")
    target = socket.inet_pton(socket.AF_INET6, address)
    # Override, and who it is of (RFC 4861, sections 4.4 and 7.2.6).
    said = b"\x20\0\0\0" + target + b"\2\1" + own
    around = target + to + struct.pack("!II", 4 + len(said), 58) + b"\x88\0\0\0" + said
    total = sum(struct.unpack(f"!{len(around) // 2}H", around))
    total = (total >> 16) + (total & 0xFFFF)
    total = ~(total + (total >> 16)) & 0xFFFF
    header = struct.pack("!IHBB", 6 << 28, 4 + len(said), 58, 255) + target + to
    s.send(b"\x33\x33\0\0\0\1" + own + b"\x86\xdd" + header + struct.pack("!BBH", 136, 0, total) + said)


def rarp():
    say(b"\x80\x35", lambda own: b"\0\1\x08\0\6\4\0\3" + own + bytes(4) + own + bytes(4))


def rarps(count, file):
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x8035))
    open(file + ".begun", "w").close()
    for _ in range(count):
        s.recv(100)
    open(file, "w").close()


if sys.argv[1] == "send":
    send(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
elif sys.argv[1] == "hear":
    hear(sys.argv[2])
elif sys.argv[1] == "each":
    each(sys.argv[2], int(sys.argv[3]), *sys.argv[4:])
elif sys.argv[1] == "merge":
    merge(sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5])
elif sys.argv[1] == "swallow":
    swallow(int(sys.argv[2]), sys.argv[3])
elif sys.argv[1] == "pour":
    pour(float(sys.argv[2]), *sys.argv[3:])
elif sys.argv[1] == "poured":
    poured(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
elif sys.argv[1] == "soon":
    soon(*sys.argv[2:])
elif sys.argv[1] == "rarps":
    rarps(int(sys.argv[2]), sys.argv[3])
elif sys.argv[1] == "idle":
    record_idle(sys.argv[2])
elif sys.argv[1] == "announce":
    announce(sys.argv[2])
elif sys.argv[1] == "advertise":
    advertise(sys.argv[2])
else:
    rarp()
