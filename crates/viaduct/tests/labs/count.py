"""Datagrams with numbers, to see which of them arrive where.

send ADDRESS COUNT RATE: sends them. hear FILE: writes down which came from whom, and when. merge THERE HERE COUNT OWN: fails
unless each around the move came once, first there and then here; but for three of OWN, who is on the host here itself. since HERE FILE: how long after FILE was written something came here.
announce ADDRESS: says by gratuitous ARP that this address is here. rarp: says by RARP that this machine is here. rarps COUNT FILE: makes a file when so many have come."""
import json
import os
import socket
import sys
import time

from hearing import write_down

PORT = 4000


def send(address, count, rate):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    begin = time.monotonic()
    for number in range(count):
        s.sendto(b"%d" % number, (address, PORT))
        time.sleep(max(0, begin + (number + 1) / rate - time.monotonic()))


def hear(file):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind(("", PORT))
    write_down(s, file, lambda heard, data, sender: heard.setdefault(sender[0], []).append((int(data), time.time())))


def merge(before, after, count, own):
    before, after = (json.load(open(f)) for f in (before, after))
    good = True
    for sender in sorted(set(before) | set(after)):
        old, new = before.get(sender, []), after.get(sender, [])
        numbers = [n for n, _ in old] + [n for n, _ in new]
        missing = sorted(set(range(count)) - set(numbers))
        # A machine that does much else loses frames now and then; what counts is what the move loses.
        move = max((n for n, _ in old), default=0)
        by_move = [n for n in missing if abs(n - move) < 100]
        twice = len(numbers) - len(set(numbers))
        late = max(t for _, t in old) - min(t for _, t in new) if old and new else 0
        print(sender, "there", len(old), "here", len(new), "missing", missing[:10], len(missing), "twice", twice,
              "overlap ms", round(late * 1000, 1))
        good = good and old and new and len(missing) < count / 10 and len(by_move) + twice <= (3 if sender == own else 0)
    sys.exit(not good or len(set(before) | set(after)) < 3)


def since(here, file):
    heard = json.load(open(here))
    then = os.stat(file).st_mtime
    for sender, numbers in heard.items():
        gap = min(t for _, t in numbers) - then
        print(f"{sender}: {round(gap * 1000)} ms after")
        if gap > 2:
            sys.exit(1)


def say(kind, packet):
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    s.bind(("eth0", 0))
    own = s.getsockname()[4]
    s.send(b"\xff" * 6 + own + kind + packet(own) + bytes(18))


def announce(address):
    ip = socket.inet_aton(address)
    say(b"\x08\x06", lambda own: b"\0\1\x08\0\6\4\0\1" + own + ip + bytes(6) + ip)


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
elif sys.argv[1] == "merge":
    merge(sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5])
elif sys.argv[1] == "since":
    since(sys.argv[2], sys.argv[3])
elif sys.argv[1] == "rarps":
    rarps(int(sys.argv[2]), sys.argv[3])
elif sys.argv[1] == "announce":
    announce(sys.argv[2])
else:
    rarp()
