"""A router that advertises itself and a prefix on eth0, once a second: advertise.py PREFIX"""

import socket, struct, sys, time

prefix = socket.inet_pton(socket.AF_INET6, sys.argv[1])
message = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0)
message += struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 86400, 14400, 0) + prefix
router = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
router.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
to_all = ("ff02::1", 0, 0, socket.if_nametoindex("eth0"))
while True:
    router.sendto(message, to_all)
    time.sleep(1)
