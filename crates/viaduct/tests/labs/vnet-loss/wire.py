"""A wire between two network cards that loses frames, brings some late, and changes others; it knows of no kernel's help for that.

wire.py CARD CARD: carries. How many of a hundred it loses, how many it holds back until two others have passed, how long IP
packets may be, and, if a fourth number is there, in how many of a hundred datagrams of ESP it changes a bit, it reads from /run/wire,
whenever that changes. What it did is in /run/wire.done."""
import os
import random
import select
import socket
import sys
import threading
import time

PACKET_OUTGOING = 4
chance = random.Random(5)
loss, late, longest, changes = 0.0, 0.0, 1500.0, 0.0
done = {"carried": 0, "lost": 0, "late": 0, "changed": 0}


def card(name):
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    s.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)  # SO_RCVBUFFORCE
    s.bind((name, 3))
    return s


def altered(frame):
    """The frame with a bit of what UDP carries to a port of vnets changed, if that is ESP (RFC 3948); it has not passed before."""
    port = int.from_bytes(frame[36:38], "big")
    if frame[12:14] != b"\x08\0" or frame[23] != 17 or port not in (1798, *range(1800, 1808)) or frame[42] & 0x40:
        return frame
    done["changed"] += 1
    frame = bytearray(frame)
    # What Ethernet has filled up is nobody's.
    bit = chance.randrange(42 * 8, (14 + int.from_bytes(frame[16:18], "big")) * 8)
    frame[bit // 8] ^= 1 << bit % 8
    # Without a checksum of UDP's, which would drop it before anybody looks (RFC 768).
    frame[40:42] = b"\0\0"
    return bytes(frame)


def carry(into, out):
    held = []
    while True:
        readable, _, _ = select.select([into], [], [], 0.01 if held else None)
        if not readable:
            # Nothing follows that it could be later than.
            for frame, _ in held:
                out.send(frame)
            held.clear()
            continue
        frame, (_, _, kind, _, _) = into.recvfrom(65536)
        if kind == PACKET_OUTGOING:
            continue
        draw = chance.random() * 100
        # Without a word, as many do.
        if draw < loss or len(frame) > longest + 14:
            done["lost"] += 1
            continue
        if draw < loss + late:
            done["late"] += 1
            held.append([frame, 2])
            continue
        if chance.random() * 100 < changes:
            frame = altered(frame)
        try:
            out.send(frame)
        except OSError:
            done["lost"] += 1
        done["carried"] += 1
        for waiting in held:
            waiting[1] -= 1
        for waiting in [w for w in held if w[1] == 0]:
            out.send(waiting[0])
            held.remove(waiting)


one, other = (card(name) for name in sys.argv[1:])
for way in ((one, other), (other, one)):
    threading.Thread(target=carry, args=way, daemon=True).start()
read = None
while True:
    try:
        written = os.stat("/run/wire").st_mtime_ns
        if written != read:
            loss, late, longest, changes, *_ = *(float(word) for word in open("/run/wire").read().split()), 0.0
            read = written
    except (OSError, ValueError):
        pass
    with open("/run/wire.new", "w") as out:
        out.write(" ".join(f"{name} {count}" for name, count in done.items()) + "\n")
    os.rename("/run/wire.new", "/run/wire.done")
    time.sleep(0.1)
