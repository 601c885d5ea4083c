"""Guests that boot at the same moment, one on each of this namespace's devices: DHCP (RFC 2131), a router solicitation, and
DHCPv6 (RFC 8415) as soon as a router says so, over one packet socket.

Arguments: how many seconds all of it may take, and after how many without an answer a client asks again. On standard
input: a line for each, with its device and its MAC. On standard output: a line of JSON, when all have what they asked for or
the time is over. Who asked again has lost something, or waited for so long.
"""

import ctypes
import heapq
import ipaddress
import json
import random
import select
import socket
import struct
import sys
import time

SO_ATTACH_FILTER, SO_RCVBUFFORCE = 26, 33
COOKIE = bytes([99, 130, 83, 99])
DISCOVER, OFFER, REQUEST, ACK = 1, 2, 3, 5
SOLICIT, ADVERTISE, REQUEST6, REPLY = 1, 2, 3, 7
ROUTERS, SERVERS = "ff02::2", "ff02::1:2"


def interesting():
    """What is sent to clients, and not by them: UDP to port 68 or 546, and router advertisements."""
    program = [
        (0x28, 0, 0, 0xFFFFF004),  # how the packet goes
        (0x15, 14, 0, 4),
        (0x28, 0, 0, 12),
        (0x15, 0, 5, 0x0800),
        (0x30, 0, 0, 23),
        (0x15, 0, 10, 17),
        (0xB1, 0, 0, 14),
        (0x48, 0, 0, 16),
        (0x15, 6, 7, 68),
        (0x30, 0, 0, 20),
        (0x15, 2, 0, 58),
        (0x28, 0, 0, 56),
        (0x15, 2, 3, 546),
        (0x30, 0, 0, 54),
        (0x15, 0, 1, 134),
        (0x06, 0, 0, 0xFFFF),
        (0x06, 0, 0, 0),
    ]
    steps = b"".join(struct.pack("HBBI", *step) for step in program)
    buffer = ctypes.create_string_buffer(steps)
    return struct.pack("HL", len(program), ctypes.addressof(buffer)), buffer


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def over_ip4(mac, payload):
    udp = struct.pack("!HHHH", 68, 67, 8 + len(payload), 0) + payload
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, bytes(4), b"\xff" * 4)
    ip = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
    return b"\xff" * 6 + mac + b"\x08\x00" + ip + udp


def over_ip6(mac, to, kind, content, place):
    """With the checksum, whose place in the content is given."""
    to = ipaddress.IPv6Address(to).packed
    source = link_local(mac)
    sum_ = checksum(source + to + struct.pack("!II", len(content), kind) + content) or 0xFFFF
    content = content[:place] + struct.pack("!H", sum_) + content[place + 2 :]
    packet = struct.pack("!IHBB", 6 << 28, len(content), kind, 255) + source + to + content
    return b"\x33\x33" + to[12:] + mac + b"\x86\xdd" + packet


def link_local(mac):
    return bytes.fromhex("fe80000000000000") + bytes([mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:]


def options4(data):
    found = {}
    while data and data[0] != 255:
        if data[0] == 0:
            data = data[1:]
            continue
        found[data[0]] = data[2 : 2 + data[1]]
        data = data[2 + data[1] :]
    return found


def options6(data):
    found = {}
    while len(data) >= 4:
        code, length = struct.unpack("!HH", data[:4])
        found.setdefault(code, data[4 : 4 + length])
        data = data[4 + length :]
    return found


class Client:
    def __init__(self, device, mac):
        self.device, self.mac = device, bytes.fromhex(mac.replace(":", ""))
        self.xid = random.randbytes(4)
        self.duid = b"\0\x03\0\x01" + self.mac
        self.address = self.address6 = None
        # What waits for an answer in each family, and since when.
        self.said = {}
        self.kind = {}

    def begin(self):
        yield self.say(4, DISCOVER, self.dhcp4(DISCOVER))
        solicitation = b"\x85\0\0\0" + bytes(4) + b"\x01\x01" + self.mac
        yield self.say(6, "router", over_ip6(self.mac, ROUTERS, 58, solicitation, 2))

    def say(self, family, kind, frame):
        self.kind[family], self.said[family] = kind, (frame, time.monotonic())
        return frame

    def dhcp4(self, kind, more=b""):
        head = struct.pack("!BBBB4sHH", 1, 1, 6, 0, self.xid, 0, 0) + bytes(16) + self.mac + bytes(10 + 64 + 128)
        options = bytes([53, 1, kind, 61, 7, 1]) + self.mac + bytes([55, 5, 1, 3, 6, 26, 121]) + more + b"\xff"
        return over_ip4(self.mac, head + COOKIE + options)

    def dhcp6(self, kind, more=b""):
        options = struct.pack("!HH", 1, len(self.duid)) + self.duid + more
        options += struct.pack("!HHIII", 3, 12, 1, 0, 0) + struct.pack("!HHHHHH", 8, 2, 0, 6, 2, 23)
        content = bytes([kind]) + self.xid[:3] + options
        udp = struct.pack("!HHHH", 546, 547, 8 + len(content), 0) + content
        return over_ip6(self.mac, SERVERS, 17, udp, 6)

    def hear(self, frame):
        """What it says to that."""
        if frame[:6] != self.mac and not frame[0] & 1:
            return None
        if frame[12:14] == b"\x08\x00":
            return self.hear4(frame[14 + (frame[14] & 15) * 4 + 8 :])
        if frame[20] == 58:
            # A router that says that addresses are told.
            if self.kind.get(6) == "router" and frame[59] & 0x80:
                return self.say(6, SOLICIT, self.dhcp6(SOLICIT))
            return None
        return self.hear6(frame[62:])

    def hear4(self, message):
        if message[4:8] != self.xid:
            return None
        found = options4(message[240:])
        kind, given = found.get(53, b"\0")[0], message[16:20]
        if kind == OFFER and self.kind.get(4) == DISCOVER:
            more = b"\x36\x04" + found[54] + b"\x32\x04" + given
            return self.say(4, REQUEST, self.dhcp4(REQUEST, more))
        if kind == ACK and self.kind.get(4) == REQUEST:
            self.address = str(ipaddress.IPv4Address(given))
            self.kind[4] = None
        return None

    def hear6(self, message):
        if message[1:4] != self.xid[:3]:
            return None
        found = options6(message[4:])
        if message[0] == ADVERTISE and self.kind.get(6) == SOLICIT and 3 in found:
            more = struct.pack("!HH", 2, len(found[2])) + found[2]
            return self.say(6, REQUEST6, self.dhcp6(REQUEST6, more))
        if message[0] == REPLY and self.kind.get(6) == REQUEST6:
            given = options6(found.get(3, b"")[12:]).get(5)
            if given:
                self.address6 = str(ipaddress.IPv6Address(given[:16]))
                self.kind[6] = None
        return None

    def is_done(self):
        return self.address is not None and self.address6 is not None


def main():
    limit, again = float(sys.argv[1]), float(sys.argv[2])
    clients = {}
    for line in sys.stdin:
        device, mac = line.split()
        clients[device] = Client(device, mac)
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))  # ETH_P_ALL, on every device
    wire.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 256 << 20)
    program, _steps = interesting()
    wire.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
    wire.setblocking(False)
    resent, waiting, done = [], len(clients), {}
    begin = time.monotonic()
    queue = []

    def send(client, frame, family):
        wire.sendto(frame, (client.device, 0))
        heapq.heappush(queue, (time.monotonic() + again, client.device, family))

    def listen():
        nonlocal waiting
        while True:
            try:
                frame, (device, _, _, _, _) = wire.recvfrom(2048)
            except BlockingIOError:
                return
            client = clients.get(device)
            if client is None or client.is_done():
                continue
            answer = client.hear(frame)
            if answer:
                send(client, answer, 4 if answer[12:14] == b"\x08\x00" else 6)
            if client.is_done():
                done[device] = time.monotonic() - begin
                waiting -= 1

    for client in clients.values():
        for frame in client.begin():
            send(client, frame, 4 if frame[12:14] == b"\x08\x00" else 6)
    while waiting and time.monotonic() < begin + limit:
        now = time.monotonic()
        while queue and queue[0][0] <= now:
            _, device, family = heapq.heappop(queue)
            client = clients[device]
            frame, since = client.said[family]
            if client.kind[family] is not None and since + again <= now:
                resent.append(f"{device}, IPv{family}: {client.kind[family]}")
                client.said[family] = (frame, now)
                send(client, frame, family)
        select.select([wire], [], [], max(0.0, min(queue[0][0] - now if queue else 1.0, begin + limit - now)))
        listen()
    all_ = clients.values()
    print(
        json.dumps(
            {
                "configured": len(done),
                "seconds": max(done.values(), default=0.0),
                "resent": resent,
                "addresses": {client.device: [client.address, client.address6] for client in all_},
            }
        )
    )


main()
