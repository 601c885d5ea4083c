"""What is for all and for groups, to see how often each arrives.

say COUNT: says so many numbers by broadcast and to a group of each family. hear FILE: joins the groups, and writes down what comes.
once FILE LEAST: fails when something came twice, or less than that of one kind."""
import collections
import socket
import struct
import sys
import threading
import time

PORT = 7777
BROADCAST, GROUP4, GROUP6 = "10.97.0.255", "239.1.2.3", "ff15::97"
KINDS = ["broadcast", "group4", "group6"]


def say(count):
    index = socket.if_nametoindex("eth0")
    v4 = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    v4.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    v4.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("@4s4si", bytes(4), bytes(4), index))
    v4.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 5)
    v6 = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    v6.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
    v6.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 5)
    begin = time.monotonic()
    for number in range(count):
        v4.sendto(b"broadcast %d" % number, (BROADCAST, PORT))
        v4.sendto(b"group4 %d" % number, (GROUP4, PORT))
        v6.sendto(b"group6 %d" % number, (GROUP6, PORT, 0, index))
        time.sleep(max(0, begin + (number + 1) / 100 - time.monotonic()))


def hear(path):
    index, lock = socket.if_nametoindex("eth0"), threading.Lock()
    v4 = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    v4.bind(("", PORT))
    v4.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, struct.pack("@4s4si", socket.inet_aton(GROUP4), bytes(4), index))
    v6 = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    v6.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    v6.bind(("::", PORT))
    v6.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, socket.inet_pton(socket.AF_INET6, GROUP6) + struct.pack("@I", index))
    with open(path, "w") as out:

        def take(ear):
            while True:
                data = ear.recv(100)
                with lock:
                    out.write(data.decode() + "\n")
                    out.flush()

        [threading.Thread(target=take, args=(ear,)).start() for ear in (v4, v6)]
        threading.Event().wait()


def once(path, least):
    came = collections.Counter(open(path).read().splitlines())
    twice = [line for line, times in came.items() if times > 1]
    kinds = collections.Counter(line.split()[0] for line in came)
    print(dict(kinds), "twice", twice[:10], len(twice))
    sys.exit(bool(twice) or any(kinds[kind] < least for kind in KINDS))


act, *words = sys.argv[1:]
globals()[act](*(int(word) if word.isdigit() else word for word in words))
