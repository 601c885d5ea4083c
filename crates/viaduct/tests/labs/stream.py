"""A TCP connection that never rests, and of which each byte is looked at.

serve PORT: says back what it hears, to everybody. call ADDRESS PORT FILE RATE: says so many bytes a second, no two parts of which are
alike, until FILE.stop is there, and compares what comes back; FILE.so-far has how many came back right, and in the end FILE has `said SO
MANY, heard SO MANY`, or what was wrong. goes-on FILE MORE: waits until so many more have come back."""
import os
import random
import socket
import sys
import threading
import time

PART = 1 << 14


def serve(port):
    listener = socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)

    def answer(connection):
        while data := connection.recv(1 << 16):
            connection.sendall(data)
        connection.close()

    while True:
        threading.Thread(target=answer, args=listener.accept()[:1], daemon=True).start()


def write(file, text):
    with open(file + ".new", "w") as out:
        out.write(text)
    os.rename(file + ".new", file)


def call(address, port, file, rate):
    connection = socket.create_connection((address, port))
    said, begun = 0, time.monotonic()

    def say():
        nonlocal said
        own = random.Random(1)
        while not os.path.exists(file + ".stop"):
            connection.sendall(own.randbytes(PART))
            said += PART
            time.sleep(max(0, begun + said / rate - time.monotonic()))
        connection.shutdown(socket.SHUT_WR)

    saying = threading.Thread(target=say)
    saying.start()
    expected, heard, told = random.Random(1), 0, 0.0
    while data := connection.recv(PART, socket.MSG_WAITALL):
        if data != expected.randbytes(PART)[: len(data)]:
            write(file, f"what came after {heard} bytes was never said\n")
            os._exit(1)
        heard += len(data)
        if time.monotonic() - told > 0.1:
            write(file + ".so-far", f"{heard}\n")
            told = time.monotonic()
    saying.join()
    write(file, f"said {said}, heard {heard}\n")


def goes_on(file, more):
    def so_far():
        return int(open(file + ".so-far").read())

    patience = time.monotonic() + 60
    while not os.path.exists(file + ".so-far") and time.monotonic() < patience:
        time.sleep(0.05)
    until = so_far() + more
    while so_far() < until:
        if time.monotonic() > patience:
            sys.exit(f"{so_far()} bytes have come back, and were to be {until}")
        time.sleep(0.05)


if sys.argv[1] == "serve":
    serve(int(sys.argv[2]))
elif sys.argv[1] == "call":
    call(sys.argv[2], int(sys.argv[3]), sys.argv[4], int(sys.argv[5]))
else:
    goes_on(sys.argv[2], int(sys.argv[3]))
