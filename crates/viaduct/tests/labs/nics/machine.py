"""A virtual machine's monitor: carries frames between a tap and a device that stands for the card inside.

machine.py TAP DEVICE
"""

import fcntl, os, select, socket, struct, sys

TUNSETIFF = 0x400454CA
IFF_TAP_NO_PI = 0x1002

name, device = sys.argv[1:]
tap = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP_NO_PI))
card = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
card.bind((device, 3))
while True:
    for ready in select.select([tap, card], [], [])[0]:
        if ready is card:
            frame, origin = card.recvfrom(65536)
            if origin[2] != socket.PACKET_OUTGOING:
                os.write(tap, frame)
        else:
            card.send(os.read(tap, 65536))
