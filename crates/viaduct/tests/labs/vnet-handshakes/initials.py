"""Begins handshakes that never go on, each with the first few bytes of a ClientHello. spoofed ADDRESS RATE: each from another address
that is nobody's. real ADDRESS RATE: each from another port of this machine, and shows that it is there when it is asked to. network
ADDRESS RATE PREFIX: the same, each from another address of a network of this machine's. Until killed."""
import random
import socket
import struct
import sys
import time

from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

# RFC 9001, section 5.2.
SALT = bytes.fromhex("38762cf7f55934b34d179ae6a4c80cadccbb7f0a")
PORT = 1798
chance = random.Random(9)


def expand(secret, label, length):
    # RFC 8446, section 7.1.
    label = b"tls13 " + label
    info = struct.pack("!HB", length, len(label)) + label + b"\0"
    return HKDFExpand(hashes.SHA256(), length, info).derive(secret)


def variable(number):
    return struct.pack("!H", 0x4000 | number)


def initial(destination, source, token=b""):
    extract = hmac.HMAC(SALT, hashes.SHA256())
    extract.update(destination)
    secret = expand(extract.finalize(), b"client in", 32)
    key, iv, hp = expand(secret, b"quic key", 16), expand(secret, b"quic iv", 12), expand(secret, b"quic hp", 16)
    # A ClientHello of 512 bytes, of which the first 64 are here: it is waited for the rest.
    crypto = b"\x06\x00" + variable(64) + b"\x01\x00\x02\x00\x03\x03" + chance.randbytes(58)
    head = b"\xc3\0\0\0\x01" + bytes([len(destination)]) + destination + bytes([len(source)]) + source
    head += variable(len(token)) + token
    length = 1200 - len(head) - 2
    head += variable(length) + b"\0\0\0\0"
    plain = crypto.ljust(length - 4 - 16, b"\0")
    packet = bytearray(head + AESGCM(key).encrypt(iv, plain, head))
    at = len(head) - 4
    mask = Cipher(algorithms.AES(hp), modes.ECB()).encryptor().update(bytes(packet[at + 4 : at + 20]))
    packet[0] ^= mask[0] & 0x0F
    for index in range(4):
        packet[at + index] ^= mask[1 + index]
    return bytes(packet)


def at_rate(rate):
    begin, number = time.monotonic(), 0
    while True:
        yield number
        number += 1
        time.sleep(max(0, begin + number / rate - time.monotonic()))


def spoofed(address, rate):
    # Made before, as it takes longer than to send it.
    packets = [initial(chance.randbytes(8), chance.randbytes(8)) for _ in range(2000)]
    if ":" in address:
        for number in at_rate(rate):
            s = free(socket.AF_INET6, "2001:db8:bad:%x::1" % chance.getrandbits(16))
            s.sendto(packets[number % len(packets)], (address, PORT))
            s.close()
    s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    for number in at_rate(rate):
        packet = packets[number % len(packets)]
        udp = struct.pack("!HHHH", chance.randrange(1024, 65536), PORT, 8 + len(packet), 0) + packet
        source = bytes([198, 18 + chance.getrandbits(1), chance.getrandbits(8), chance.getrandbits(8)])
        ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0) + source + socket.inet_aton(address)
        s.sendto(ip + udp, (address, 0))


def free(family, address=None):
    s = socket.socket(family, socket.SOCK_DGRAM)
    if address:
        s.setsockopt(socket.IPPROTO_IPV6, 78, 1)  # IPV6_FREEBIND
        s.bind((address, 0))
    return s


def asking(address, rate, source):
    """Asks, and again with what it is given when it has to show that it is there (RFC 9000, section 17.2.5)."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    waiting, counts = {}, [0, 0]
    for number in at_rate(rate):
        s = free(family, source())
        s.setblocking(False)
        s.sendto(initial(chance.randbytes(8), b"mine"), (address, PORT))
        waiting[number] = s
        counts[0] += 1
        for old in list(waiting):
            try:
                answer = waiting[old].recv(2000)
            except BlockingIOError:
                if old < number - rate:
                    waiting.pop(old).close()
                continue
            if answer[0] & 0xF0 == 0xF0:
                at = 6 + answer[5]
                theirs = answer[at + 1 : at + 1 + answer[at]]
                token = answer[at + 1 + answer[at] : -16]
                waiting[old].sendto(initial(theirs, b"mine", token), (address, PORT))
                counts[1] += 1
        if number % 100 == 0:
            with open("/run/asked-" + act, "w") as out:
                print(*counts, file=out)


def real(address, rate):
    asking(address, rate, lambda: None)


def network(address, rate, prefix):
    asking(address, rate, lambda: "%s%x:%x" % (prefix, chance.getrandbits(16), chance.getrandbits(16)))


act, *words = sys.argv[1:]
globals()[act](*(int(word) if word.isdigit() else word for word in words))
