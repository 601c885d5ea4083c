"""What a guest says the moment it is attached, and how soon it is answered. Each line of the standard input, an address, is asked for once:
an echo request is sent there by the kernel, which has to find out first by ARP or neighbour discovery where that is. At the end it
fails when one was answered late, or not at all."""

import select
import socket
import struct
import sys
import time

# Who asks by ARP or neighbour discovery once more does so after a second.
SOON = 0.9


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def asks(address, number):
    is_v6 = ":" in address
    family, protocol = (socket.AF_INET6, socket.IPPROTO_ICMPV6) if is_v6 else (socket.AF_INET, socket.IPPROTO_ICMP)
    request, reply, before = (128, 129, 0) if is_v6 else (8, 0, 20)
    with socket.socket(family, socket.SOCK_RAW, protocol) as sock:
        echo = struct.pack("!BBHHH", request, 0, 0, 0x4242, number)
        # Of ICMPv6 the kernel sets the checksum.
        if not is_v6:
            echo = struct.pack("!BBHHH", request, 0, checksum(echo), 0x4242, number)
        until = time.monotonic() + SOON
        sock.sendto(echo, (address, 0))
        while (left := until - time.monotonic()) > 0 and select.select([sock], [], [], left)[0]:
            answer = sock.recv(2048)[before:]
            if answer[0] == reply and answer[4:8] == struct.pack("!HH", 0x4242, number):
                return True
    return False


late = []
count = 0
for line in iter(sys.stdin.readline, ""):
    count += 1
    if not asks(line.strip(), count):
        late.append(f"{count}: {line.strip()}")
print(f"{count} asked, {len(late)} not answered at once {late}")
sys.exit(bool(late) or not count)
