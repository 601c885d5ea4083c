"""Writes down what comes in by eth0 for groups, whoever has joined: the group, and the word or the protocol."""
import socket
import sys

ear = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
ear.bind(("eth0", 3))
# PACKET_ADD_MEMBERSHIP with PACKET_MR_ALLMULTI (packet(7)): the device is not to drop what nobody has joined.
index = socket.if_nametoindex("eth0")
ear.setsockopt(263, 1, index.to_bytes(4, sys.byteorder) + (2).to_bytes(2, sys.byteorder) + bytes(10))
with open(sys.argv[1], "w") as heard:
    while True:
        frame, (_, _, kind, *_) = ear.recvfrom(65536)
        # What this guest sends itself (PACKET_OUTGOING) is no news.
        if kind == 4 or not frame[0] & 1:
            continue
        if frame[12:14] == b"\x08\x00" and frame[30] >> 4 == 14:
            group, protocol = socket.inet_ntop(socket.AF_INET, frame[30:34]), frame[23]
            payload = frame[14 + (frame[14] & 15) * 4 :]
        elif frame[12:14] == b"\x86\xdd" and frame[38] == 255:
            group, protocol, payload = socket.inet_ntop(socket.AF_INET6, frame[38:54]), frame[20], frame[54:]
        else:
            continue
        if protocol == 17:
            heard.write(f"{group} {payload[8:].decode(errors='replace')}\n")
        else:
            heard.write(f"{group} {'igmp' if protocol == 2 else protocol}\n")
        heard.flush()
