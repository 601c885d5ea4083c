# ESP in UDP, written from the RFCs: 4303 (ESP, with extended sequence numbers), 4106 and 8750 (AES-GCM, implicit IV), 7634
# and 8750 (ChaCha20-Poly1305), 4543 (GMAC). Lines on standard input:
#     open CIPHER KEY-AND-SALT HIGH DATAGRAM        prints the frame
#     try CIPHER KEY-AND-SALT HIGH DATAGRAM         prints the frame, or "forged"
#     seal CIPHER KEY-AND-SALT SPI NUMBER FRAME     prints the datagram
import struct
import sys

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305


def parts(cipher, material):
    key, salt = material[:-4], material[-4:]
    aead = ChaCha20Poly1305(key) if cipher.startswith("chacha20") else AESGCM(key)
    return aead, salt, cipher.endswith("gmac")


def opened(cipher, material, high, datagram):
    aead, salt, plain = parts(cipher, material)
    spi, low = struct.unpack("!II", datagram[:8])
    number = high << 32 | low
    additional = struct.pack("!IQ", spi, number)
    if plain:
        iv, rest = datagram[8:16], datagram[16:]
        text, check = rest[:-16], rest[-16:]
        assert aead.decrypt(salt + iv, check, additional + iv + text) == b""
    else:
        text = aead.decrypt(salt + struct.pack("!Q", number), datagram[8:], additional)
    assert len(text) % 4 == 0, "the trailer ends at a multiple of four"
    pad_length, next_header = text[-2:]
    assert next_header == 143
    padding = text[len(text) - 2 - pad_length : -2]
    assert padding == bytes(range(1, pad_length + 1)), padding
    return text[: len(text) - 2 - pad_length]


def sealed(cipher, material, spi, number, frame):
    aead, salt, plain = parts(cipher, material)
    pad_length = -(len(frame) + 2) % 4
    text = frame + bytes(range(1, pad_length + 1)) + bytes([pad_length, 143])
    additional = struct.pack("!IQ", spi, number)
    iv = struct.pack("!Q", number)
    header = struct.pack("!II", spi, number & 0xFFFFFFFF)
    if plain:
        return header + iv + text + aead.encrypt(salt + iv, b"", additional + iv + text)
    return header + aead.encrypt(salt + iv, text, additional)


for line in sys.stdin:
    verb, cipher, material, *rest = line.split()
    material = bytes.fromhex(material)
    if verb in ("open", "try"):
        try:
            result = opened(cipher, material, int(rest[0]), bytes.fromhex(rest[1]))
        except InvalidTag:
            if verb == "open":
                raise
            print("forged")
            continue
    else:
        result = sealed(cipher, material, int(rest[0]), int(rest[1]), bytes.fromhex(rest[2]))
    print(result.hex())
