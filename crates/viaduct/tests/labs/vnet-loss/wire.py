"""A wire between two network cards that loses frames, and brings some late; it knows of no kernel's help for that.

wire.py CARD CARD: carries. How many of a hundred it loses, how many it holds back until two others have passed, and how long IP
packets may be, it reads from /run/wire, whenever that changes. What it did is in /run/wire.done."""
import os
import random
import select
import socket
import sys
import threading
import time

PACKET_OUTGOING = 4
chance = random.Random(5)
loss, late, longest = 0.0, 0.0, 1500.0
done = {"carried": 0, "lost": 0, "late": 0}


def card(name):
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    s.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)  # SO_RCVBUFFORCE
    s.bind((name, 3))
    return s


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
        changed = os.stat("/run/wire").st_mtime_ns
        if changed != read:
            loss, late, longest = (float(word) for word in open("/run/wire").read().split())
            read = changed
    except (OSError, ValueError):
        pass
    with open("/run/wire.new", "w") as out:
        out.write(" ".join(f"{name} {count}" for name, count in done.items()) + "\n")
    os.rename("/run/wire.new", "/run/wire.done")
    time.sleep(0.1)
