"""What goes by outside in VXLAN, and what does not belong there.

capture FILE: writes down what goes out of this router for UDP port 1799, until killed. holds FILE VNI TEXT: fails unless there
is VXLAN of that number with that text inside, over both families, and none of another number. inject ADDRESS MAC-TO MAC-FROM VNI:
sends a frame in VXLAN as somebody who is no member. fragments FILE: fails when there are IP fragments. sealed FILE FAMILY COUNT LENGTH:
fails unless so many IP packets of that length and longer carry what other vnets' hosts send each other as ESP in UDP, over that family."""
import os
import socket
import struct
import sys
import threading

PORT = 1799
VNETS = (1798, *range(1800, 1808))


def capture(file):
    lock = threading.Lock()
    with open(file, "wb") as out:

        def of(interface):
            s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            s.bind((interface, 3))
            while True:
                frame, (_, _, kind, _, _) = s.recvfrom(65536)
                if kind == 4:
                    with lock:
                        out.write(struct.pack("!I", len(frame)) + frame)
                        out.flush()

        threads = [threading.Thread(target=of, args=(name,)) for name in os.listdir("/sys/class/net") if name.startswith("eth")]
        [thread.start() for thread in threads]
        open(file + ".begun", "w").close()
        [thread.join() for thread in threads]


def captured(file):
    data, at = open(file, "rb").read(), 0
    while at + 4 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : at + 4 + length]
        at += 4 + length


def vxlan(file):
    for frame in captured(file):
        if frame[12:14] == b"\x08\x00" and frame[23] == 17:
            family, at = 4, 14 + (frame[14] & 15) * 4
        elif frame[12:14] == b"\x86\xdd" and frame[20] == 17:
            family, at = 6, 54
        else:
            continue
        if int.from_bytes(frame[at + 2 : at + 4], "big") == PORT:
            assert frame[at + 8] == 8, "no VXLAN header"
            yield family, int.from_bytes(frame[at + 12 : at + 15], "big"), frame[at + 16 :]


def holds(file, vni, text):
    seen = {(family, number) for family, number, _ in vxlan(file)}
    told = {family for family, _, frame in vxlan(file) if text.encode() in frame}
    print("seen", seen, "text over", told)
    sys.exit(seen != {(4, int(vni)), (6, int(vni))} or told != {4, 6})


def fragments(file):
    parts = [f for f in captured(file) if f[12:14] == b"\x08\x00" and int.from_bytes(f[20:22], "big") & 0x3FFF or f[12:14] == b"\x86\xdd" and f[20] == 44]
    print(len(parts), "fragments")
    sys.exit(bool(parts))


def sealed(file, family, count, length):
    found = 0
    for frame in captured(file):
        if frame[12:14] == b"\x08\x00" and frame[23] == 17:
            of, at, long = 4, 14 + (frame[14] & 15) * 4, int.from_bytes(frame[16:18], "big")
        elif frame[12:14] == b"\x86\xdd" and frame[20] == 17:
            of, at, long = 6, 54, 40 + int.from_bytes(frame[18:20], "big")
        else:
            continue
        # What has this bit is QUIC's.
        is_esp = int.from_bytes(frame[at + 2 : at + 4], "big") in VNETS and not frame[at + 8] & 0x40
        found += of == int(family) and is_esp and long >= int(length)
    print(found, "of that length")
    sys.exit(found < int(count))


def inject(address, to, source, vni):
    def mac(text):
        return bytes.fromhex(text.replace(":", ""))

    frame = mac(to) + mac(source) + b"\x88\xb5" + bytes(46)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    s = socket.socket(family, socket.SOCK_DGRAM)
    for _ in range(10):
        s.sendto(b"\x08\0\0\0" + int(vni).to_bytes(3, "big") + b"\0" + frame, (address, PORT))


act, *words = sys.argv[1:]
globals()[act](*words)
