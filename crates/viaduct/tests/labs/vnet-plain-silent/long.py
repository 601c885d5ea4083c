"""What is as long as the kernel knows to get there, and never in fragments.

hear PORT: answers datagrams and what comes by TCP with a few bytes, until killed. talk ADDRESS PORT FILE SECONDS: sends a datagram
every 20 ms, makes FILE.begun when one is answered, and writes to FILE.done how long the first and the last were, how long it took at most until one was answered, and how many of the last
were not. stream ADDRESS PORT FILE SECONDS: the same with TCP, as much as it takes. cut ADDRESS PORT LENGTH: sends one of IPv4 that
may be cut, and fails unless it is answered. within MOST FILE…: fails unless each of these took
so many seconds at most, and the last were answered."""
import errno
import os
import socket
import sys
import threading
import time

DO = 2


def of(address):
    if ":" in address:
        return socket.AF_INET6, socket.IPPROTO_IPV6, 23, 24, 48
    return socket.AF_INET, socket.IPPROTO_IP, 10, 14, 28


def write(file, *words):
    with open(file + ".part", "w") as out:
        print(*words, file=out)
    os.rename(file + ".part", file + ".done")


def longest(begun, times):
    times = [begun, *times, time.monotonic()]
    return round(max(later - before for before, later in zip(times, times[1:])), 2)


def hear(port):
    listener = socket.create_server(("::", int(port)), family=socket.AF_INET6, dualstack_ipv6=True)
    threading.Thread(target=hear_streams, args=(listener,)).start()
    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    s.bind(("::", int(port)))
    while True:
        datagram, sender = s.recvfrom(65536)
        s.sendto(datagram[:4], sender)


def hear_streams(listener):
    def answer(connection):
        while connection.recv(65536):
            connection.send(b".")

    while True:
        threading.Thread(target=answer, args=(listener.accept()[0],)).start()


def talk(address, port, file, seconds):
    family, level, discover, mtu, headers = of(address)
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.setsockopt(level, discover, DO)
    s.connect((address, int(port)))
    begun = time.monotonic()
    answered, sizes = [], []
    while (now := time.monotonic()) < begun + float(seconds):
        size = s.getsockopt(level, mtu)
        try:
            s.send(len(sizes).to_bytes(4, "big") + bytes(size - headers - 4))
            sizes.append(size)
        except OSError as error:
            assert error.errno == errno.EMSGSIZE, error
        while (left := now + 0.02 - time.monotonic()) > 0:
            s.settimeout(left)
            try:
                answered.append((time.monotonic(), int.from_bytes(s.recv(100), "big")))
                if len(answered) == 1:
                    open(file + ".begun", "w").close()
            except TimeoutError:
                pass
            except OSError as error:
                # That a packet was too long may be told here.
                assert error.errno == errno.EMSGSIZE, error
    last = set(range(len(sizes) - 60, len(sizes) - 10))
    lost = len(last - {number for _, number in answered})
    write(file, "first", sizes[0], "last", sizes[-1], "longest", longest(begun, [at for at, _ in answered]), "lost", lost)


def cut(address, port, length):
    family, level, discover, *_ = of(address)
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.setsockopt(level, discover, 0)
    s.settimeout(2)
    for number in range(5):
        s.sendto(number.to_bytes(4, "big") + os.urandom(int(length) - 4), (address, int(port)))
        assert s.recv(100) == number.to_bytes(4, "big")


def stream(address, port, file, seconds):
    s = socket.create_connection((address, int(port)))
    begun = time.monotonic()
    first = s.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
    times = []
    s.setblocking(False)
    while time.monotonic() < begun + float(seconds):
        try:
            s.send(bytes(30000))
        except BlockingIOError:
            pass
        time.sleep(0.02)
        try:
            if s.recv(1000):
                times.append(time.monotonic())
                if len(times) == 1:
                    open(file + ".begun", "w").close()
        except BlockingIOError:
            pass
    last = s.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
    write(file, "first", first, "last", last, "longest", longest(begun, times), "lost", 0)


def within(most, *files):
    found = []
    for file in files:
        words = open(file).read().split()
        print(file, *words)
        found.append(int(words[1]) > int(words[3]) and float(words[5]) <= float(most) and words[7] == "0")
    sys.exit(not all(found))


act, *words = sys.argv[1:]
globals()[act](*words)
