"""What somebody between two hosts, or anywhere else, can do to what they send each other.

capture FILE: writes down what goes out of this router's interfaces for UDP ports of vnets, until killed. replay FILE TIMES: sends all of it
again. flip FILE COUNT: sends pieces of it with a bit changed. mangle FILE ADDRESS: sends to a host what it was sent before, with numbers
that it has not seen, cut off, longer, and in runs whose parts are of other lengths. garbage ADDRESS COUNT: sends bytes of all lengths, and runs of
datagrams that arrive joined. dropped NAME MORE-THAN: reads a host's status, fails unless so many were dropped for that. atmost NAME COUNT: fails when more
were; both exit with 2 when it is no status, or has no such counter. more NAME BEFORE MORE-THAN: as dropped, since an earlier status.
spis FILE MORE-THAN: fails unless that many different keys were used. count FILE SENDER COUNT PERCENT: fails unless of so many
numbered datagrams that share came, and each once. lost FILE SENDER COUNT
BEFORE AFTER LEDGER: fails when all of them came, and when more are missing than a wire lost between these two reports of it and than
the ledger knows to be lost elsewhere (`ledger.py`)."""
import json
import os
import random
import socket
import struct
import sys
import threading
import time

from ledger import since

ETH_P_ALL = 3
PACKET_OUTGOING = 4
UDP_SEGMENT = 103


def is_ours(frame):
    if frame[12:14] == b"\x08\x00" and frame[23] == 17:
        at = 14 + (frame[14] & 15) * 4
    elif frame[12:14] == b"\x86\xdd" and frame[20] == 17:
        at = 54
    else:
        return None
    # The first port, and those of the further threads.
    return at if any(port in (1798, *range(1800, 1808)) for port in struct.unpack("!HH", frame[at : at + 4])) else None


def capture(file):
    lock = threading.Lock()
    with open(file, "wb") as out:

        def of(interface):
            s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
            s.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)  # SO_RCVBUFFORCE
            s.bind((interface, ETH_P_ALL))
            while True:
                frame, (_, _, kind, _, _) = s.recvfrom(65536)
                if kind == PACKET_OUTGOING and is_ours(frame):
                    with lock:
                        out.write(interface.encode() + struct.pack("!H", len(frame)) + frame)
                        out.flush()

        threads = [threading.Thread(target=of, args=(name,)) for name in sorted(os.listdir("/sys/class/net")) if name.startswith("eth")]
        [thread.start() for thread in threads]
        open(file + ".begun", "w").close()
        [thread.join() for thread in threads]


def captured(file):
    data, at, frames = open(file, "rb").read(), 0, []
    while at + 6 <= len(data):
        interface, length = data[at : at + 4].decode(), int.from_bytes(data[at + 4 : at + 6], "big")
        if at + 6 + length > len(data):
            break
        frames.append((interface, data[at + 6 : at + 6 + length]))
        at += 6 + length
    return frames


def send_all(frames, rate=5000):
    sockets = {}
    begin = time.monotonic()
    for number, (interface, frame) in enumerate(frames):
        if interface not in sockets:
            sockets[interface] = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            sockets[interface].bind((interface, 0))
        sockets[interface].send(frame)
        if number % 50 == 0:
            time.sleep(max(0, begin + number / rate - time.monotonic()))


def replay(file, times):
    frames = captured(file)
    for _ in range(times):
        send_all(frames)
    print(len(frames), "sent again", times, "times")
    sys.exit(len(frames) < 1000)


def flip(file, count):
    chance = random.Random(7)
    frames = captured(file)

    def flipped():
        for _ in range(count):
            interface, frame = chance.choice(frames)
            at = is_ours(frame)
            frame = bytearray(frame)
            bit = chance.randrange((at + 8) * 8, len(frame) * 8)
            frame[bit // 8] ^= 1 << bit % 8
            # Without a checksum of UDP's, which would drop it before anybody looks (RFC 768).
            frame[at + 6 : at + 8] = b"\0\0"
            yield interface, bytes(frame)

    send_all(flipped())


def mangle(file, address):
    chance = random.Random(9)
    of_host = [frame for _, frame in captured(file) if frame[30:34] == socket.inet_aton(address)]
    esp = [frame for frame in of_host if not frame[is_ours(frame) + 8] & 0x40 and len(frame) > is_ours(frame) + 40]
    begin, sent = time.monotonic(), 0
    for frame in chance.sample(esp, 60):
        at = is_ours(frame)
        port = int.from_bytes(frame[at + 2 : at + 4], "big")
        datagram = frame[at + 8 : at + int.from_bytes(frame[at + 4 : at + 6], "big")]

        def fresh():
            # So far ahead that nothing of it was there before: it has to be opened to see that it is not genuine.
            return datagram[:4] + struct.pack("!I", chance.randrange(1 << 20, 1 << 31)) + datagram[8:]

        parts = [fresh()[:length] for length in range(0, len(datagram), 7)]
        parts += [fresh() + chance.randbytes(more) for more in (1, 2, 3, 4, 16, 500, 7000, 60000)]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            for part in parts:
                s.sendto(part, (address, port))
        for length in (7, 25, len(datagram) - 1, len(datagram), len(datagram) + 1, 1000):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
                s.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, length)
                run = b"".join(fresh() for _ in range(20))
                s.sendto(run[: 60 * length], (address, port))
        sent += len(parts) + 100
        time.sleep(max(0, begin + sent / 3000 - time.monotonic()))
    print(sent, "sent, of", len(esp))


def garbage(address, count):
    chance = random.Random(8)
    begin = time.monotonic()
    for number in range(count // 50):
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        if number % 2:
            length = chance.choice([1, 4, 7, 8, 9, 24, 25, 26, 40, 500, 1200, 1400])
            s.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, length)
            run = bytearray(chance.randbytes(length * 40))
            if number % 4 == 1:
                # Of which each looks as if QUIC began (RFC 9000, section 17.2.2).
                run[::length] = bytes([0xC3]) * 40
            s.sendto(run, (address, 1798))
        else:
            for _ in range(50):
                length = chance.choice([0, 1, 3, 8, 20, 1200, 1472, 3000, 9000, 60000] if number % 20 == 0 else [0, 1, 3, 8, 20, 1200])
                s.sendto(chance.randbytes(length), (address, 1798))
        s.close()
        time.sleep(max(0, begin + number / 100 - time.monotonic()))


def find(value, name):
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == name and isinstance(inner, int):
                yield inner
            yield from find(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from find(inner, name)


def counted(name):
    try:
        status = json.load(sys.stdin)
    except ValueError as error:
        print("no status:", error)
        sys.exit(2)
    counts = list(find(status, name))
    # Of these, a process that carries vnets tells only when there were some.
    is_untold = name in ("forged", "replayed", "unknown_spi") and any(find(status, "engine"))
    if not counts and not is_untold:
        print("no counter", name)
        sys.exit(2)
    print(name, sum(counts))
    return sum(counts)


def dropped(name, more_than):
    sys.exit(counted(name) <= more_than)


def atmost(name, most):
    sys.exit(counted(name) > most)


def more(name, before, more_than):
    with open(before) as file:
        count = sum(find(json.load(sys.stdin), name)) - sum(find(json.load(file), name))
    print(name, count)
    sys.exit(count <= more_than)


def spis(file, more_than):
    seen = set()
    for _, frame in captured(file):
        payload = frame[is_ours(frame) + 8 :]
        if len(payload) >= 8 and not payload[0] & 0x40:
            seen.add(payload[:4])
    print(len(seen), "keys")
    sys.exit(len(seen) <= more_than)


def count(file, sender, wanted, percent=90):
    numbers = [number for number, _ in json.load(open(file)).get(sender, [])]
    print(len(numbers), "came,", len(set(numbers)), "different, of", wanted)
    # A machine that does much else loses frames now and then; none may come twice.
    sys.exit(not (len(numbers) == len(set(numbers)) >= wanted * percent / 100))


def lost(file, sender, sent, before, after, ledger):
    missing = sent - len({number for number, _ in json.load(open(file)).get(sender, [])})
    before, after = (int(open(f).read().split()[3]) for f in (before, after))
    elsewhere = since(ledger)
    print(missing, "of", sent, "missing;", after - before, "lost by the wire, of which some were others'")
    sys.exit(not (0 < missing <= after - before + elsewhere and after - before <= missing * 1.5))


act, *words = sys.argv[1:]
globals()[act](*(int(word) if word.isdigit() else word for word in words))
