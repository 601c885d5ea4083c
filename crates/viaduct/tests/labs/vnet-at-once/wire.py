"""A wire between two hosts that lets both dial at the same moment.

wire.py CARD CARD: carries, each frame some time later. For each round that is asked for in /run/rounds (how many), it kills what
carries vnets on both hosts, holds back what the two that follow say until each has dialled, and lets both be heard. It fails unless
they agree on one connection: what either sends by QUIC is of one, for longer than connections keep silent. In /run/done is a line for
each round that did not fail, and says how many more connections either spoke by at first; a last one says why one did."""
import collections
import os
import signal
import socket
import sys
import threading
import time

PACKET_OUTGOING = 4
ARP = b"\x08\x06"
# The form of QUIC's first packets (RFC 9000, section 17.2.2).
INITIAL = 0xC0
LATE = 0.03
# Connections say something every two seconds, and of one that has ended nothing comes after that.
QUIET = 2.5
PATIENCE = 60

lock = threading.Lock()
holds = False
held = []
dialled = [0, 0]
heard = collections.deque()


def card(name):
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    s.bind((name, 3))
    return s


def quic(frame):
    """What UDP carries to the port of vnets, if it is QUIC's (RFC 9000, section 17)."""
    if frame[12:14] != b"\x08\0" or frame[23] != 17 or frame[36:38] != (1798).to_bytes(2, "big"):
        return b""
    return frame[42:] if frame[42] & 0x40 else b""


def carry(side, into, out):
    while True:
        frame, (_, _, kind, _, _) = into.recvfrom(65536)
        if kind == PACKET_OUTGOING:
            continue
        said = quic(frame)
        with lock:
            # The first packet of whoever dials.
            dialled[side] += said != b"" and said[0] & 0xF0 == INITIAL
            if said and not said[0] & 0x80:
                # Its first bytes name the connection as its receiver knows it.
                heard.append((time.monotonic(), side, said[1:9]))
            if holds and frame[12:14] != ARP:
                # What was meant for those who are gone is lost with them.
                if said and said[0] & 0xF0 == INITIAL:
                    held.append((out, frame))
                continue
        threading.Timer(LATE, out.send, [frame]).start()


def processes(word):
    found = set()
    for number in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = open(f"/proc/{number}/cmdline").read().split("\0")
        except OSError:
            continue
        if word in words and words[0].endswith("viaduct"):
            found.add(int(number))
    return found


def until(what, is_so):
    end = time.monotonic() + PATIENCE
    while not is_so():
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(0.01)


def names(since):
    """By which names either side calls the other's end, in what was said since then."""
    with lock:
        return [{name for when, side, name in heard if side == of and when > since} for of in (0, 1)]


def at_once(report):
    global holds
    before = processes("carry-vnets")
    assert len(before) == 2, before
    with lock:
        holds = True
        dialled[:] = [0, 0]
    for process in before:
        os.kill(process, signal.SIGKILL)
    until("both dial", lambda: all(dialled))
    with lock:
        holds, begin = False, time.monotonic()
        for out, frame in held:
            threading.Timer(LATE, out.send, [frame]).start()
        held.clear()
    until("both speak", lambda: all(names(begin)))
    settled = time.monotonic()
    lately = lambda: names(time.monotonic() - QUIET)
    until("they agree", lambda: time.monotonic() > settled + QUIET and all(len(of) == 1 for of in lately()))
    after = processes("carry-vnets")
    assert len(after) == 2 and not after & before, after
    more = [len(of) - 1 for of in names(begin)]
    report.write(f"{more[0]} {more[1]} more at first, {time.monotonic() - begin - QUIET:.2f} s\n")


one, other = (card(name) for name in sys.argv[1:])
threading.Thread(target=carry, args=(0, one, other), daemon=True).start()
threading.Thread(target=carry, args=(1, other, one), daemon=True).start()
while not os.path.exists("/run/rounds"):
    time.sleep(0.05)
with open("/run/done", "w", buffering=1) as done:
    try:
        for _ in range(int(open("/run/rounds").read())):
            at_once(done)
    except Exception as error:
        done.write(f"failed: {error!r}, {names(time.monotonic() - QUIET)}\n")
while True:
    time.sleep(60)
