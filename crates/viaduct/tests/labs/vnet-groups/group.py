"""join FILE GROUP...: joins and writes down what is said there. say WORD GROUP...: says it there. ask ADDRESS: asks as a router does
(IGMPv2)."""
import socket
import struct
import sys
import threading

PORT = 7777
lock = threading.Lock()


def family(group):
    return socket.AF_INET6 if ":" in group else socket.AF_INET


def join(path, groups):
    file = open(path, "w")

    def hear(group):
        ear = socket.socket(family(group), socket.SOCK_DGRAM)
        ear.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if ":" in group:
            index = socket.if_nametoindex("eth0")
            ear.bind((group, PORT, 0, index))
            member = socket.inet_pton(socket.AF_INET6, group) + struct.pack("@I", index)
            ear.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, member)
        else:
            ear.bind((group, PORT))
            member = struct.pack("@4s4si", socket.inet_aton(group), b"\0" * 4, socket.if_nametoindex("eth0"))
            ear.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        while True:
            data, _ = ear.recvfrom(2048)
            with lock:
                file.write(f"{group} {data.decode()}\n")
                file.flush()

    threads = [threading.Thread(target=hear, args=(group,)) for group in groups]
    for thread in threads:
        thread.start()


def say(word, groups):
    for group in groups:
        mouth = socket.socket(family(group), socket.SOCK_DGRAM)
        index = socket.if_nametoindex("eth0")
        if ":" in group:
            mouth.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
            mouth.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 5)
            mouth.sendto(word.encode(), (group, PORT, 0, index))
        else:
            mouth.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("@4s4si", b"", b"", index))
            mouth.sendto(word.encode(), (group, PORT))


def ask(address):
    question = bytes([0x11, 100, 0, 0, 0, 0, 0, 0])
    total = sum(struct.unpack("!4H", question))
    question = question[:2] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + question[4:]
    mouth = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_IGMP)
    mouth.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
    mouth.sendto(question, ("224.0.0.1", 0))


if sys.argv[1] == "join":
    join(sys.argv[2], sys.argv[3:])
elif sys.argv[1] == "say":
    say(sys.argv[2], sys.argv[3:])
else:
    ask(sys.argv[2])
