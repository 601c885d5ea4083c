"""A virtual machine's monitor whose machine moves from host to host: carries frames between its card and the tap of the host where it is.

vmm.py CARD TAP MACHINE HOST...: all of them processes, in whose networks the taps are: the card in that of MACHINE, one called TAP in that
of each HOST. The machine begins at the first of these, and with each SIGUSR1 goes to the next, where a tap has to be by then: it is held,
gets what has come for it until then, and says by RARP at the new place that it has arrived, as QEMU does."""
import ctypes
import fcntl
import os
import select
import signal
import struct
import sys
import time

TUNSETIFF = 0x400454CA
IFF_TAP_NO_PI = 0x1002
CLONE_NEWNET = 0x40000000
LONGEST = 1 << 16
# After how many seconds it is said again that a machine has arrived, as QEMU does by itself: the first may be lost.
ANNOUNCED = [0.05, 0.1, 0.1, 0.1]


def open_tap(process, name):
    network = os.open(f"/proc/{process}/ns/net", os.O_RDONLY)
    if ctypes.CDLL(None, use_errno=True).setns(network, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
    os.close(network)
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP_NO_PI))
    return tap


def carry(from_tap, to_tap):
    """What has come; says whether there may come more."""
    while True:
        try:
            frame = os.read(from_tap, LONGEST)
        except BlockingIOError:
            return True
        except OSError:
            # It was taken away.
            return False
        put(to_tap, frame)


def put(tap, frame):
    try:
        os.write(tap, frame)
    except OSError:
        # As a card does with what nobody takes.
        pass


def arrived(mac):
    return b"\xff" * 6 + mac + b"\x80\x35" + b"\0\1\x08\0\6\4\0\3" + mac + bytes(4) + mac + bytes(4 + 18)


def main(card, tap, machine, hosts):
    # A signal ends what is waited for.
    woken, wake = os.pipe2(os.O_NONBLOCK)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGUSR1, lambda *_: None)
    inside = open_tap(machine, card)
    mac = None
    places = iter(hosts)
    here = open_tap(next(places), tap)
    print("ready", flush=True)
    is_there, announced, due = True, [], None
    while True:
        wait = None if due is None else max(0, due - time.monotonic())
        ready = select.select([inside, woken] + [here] * is_there, [], [], wait)[0]
        if woken in ready:
            os.read(woken, 100)
            carry(here, inside)
            os.close(here)
            here, is_there = open_tap(next(places), tap), True
            announced, due = list(ANNOUNCED), time.monotonic()
            print("arrived", flush=True)
        if due is not None and time.monotonic() >= due:
            put(here, arrived(mac))
            due = time.monotonic() + announced.pop(0) if announced else None
        if inside in ready:
            if mac is None:
                mac = fcntl.ioctl(inside, 0x8927, struct.pack("16s24x", card.encode()))[18:24]
            carry(inside, here)
        if is_there and here in ready:
            is_there = carry(here, inside)


main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:])
