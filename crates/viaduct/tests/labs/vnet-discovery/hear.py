"""listen FILE: writes down what is said on the group, a line of hex each. replay FILE FROM: says again what was first heard from
there: as it was, with another port, with a later time, and cut off."""
import socket
import struct
import sys

GROUP, PORT = "224.10.0.1", 1798


def listen(path):
    ear = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    ear.bind((GROUP, PORT))
    ear.setsockopt(
        socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(GROUP) + socket.inet_aton("10.1.0.66")
    )
    with open(path, "w") as heard:
        while True:
            data, (address, _) = ear.recvfrom(2048)
            heard.write(f"{address} {data.hex()}\n")
            heard.flush()


def replay(path, wanted):
    with open(path) as heard:
        lines = [line.split() for line in heard if line.endswith("\n")]
    first = next((bytes.fromhex(data) for address, data in lines if address == wanted), None)
    if first is None:
        sys.exit(1)
    mouth = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    mouth.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("10.1.0.66"))
    port, time = struct.unpack("!HQ", first[6:16])
    later = lambda port, by: first[:6] + struct.pack("!HQ", port, time + by) + first[16:]
    for said in [first, later(port + 1, 0), later(port, 200_000), later(9, 201_000), first[:-1], first + b"x", b"", b"\0" * 400]:
        mouth.sendto(said, (GROUP, PORT))


listen(sys.argv[2]) if sys.argv[1] == "listen" else replay(sys.argv[2], sys.argv[3])
