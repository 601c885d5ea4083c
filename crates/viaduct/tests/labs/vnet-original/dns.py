"""dns.py NAME=ADDRESS…: a name server that knows these names, by UDP; others do not exist."""
import socket
import sys

names = dict(word.split("=") for word in sys.argv[1:])
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", 53))
while True:
    question, who = s.recvfrom(512)
    labels, at = [], 12
    while question[at]:
        labels.append(question[at + 1 : at + 1 + question[at]].decode())
        at += 1 + question[at]
    asked, kind = question[12 : at + 5], question[at + 2]
    address = names.get(".".join(labels))
    answer = b""
    if address and kind == 1:
        answer = b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04" + socket.inet_aton(address)
    flags = b"\x81\x80" if address else b"\x81\x83"
    s.sendto(question[:2] + flags + b"\0\x01\0" + bytes([len(answer) > 0]) + b"\0\0\0\0" + asked + answer, who)
