"""A TCP connection over which somebody says something all the time, and hears it back.

serve PORT: says back what it hears, to everybody. call ADDRESS PORT FILE SECONDS: says a number every 20 ms; in the end the file has
how many were said and heard, and the longest silence in milliseconds."""
import socket
import sys
import threading
import time


def serve(port):
    listener = socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)

    def answer(connection):
        while data := connection.recv(4096):
            connection.sendall(data)

    while True:
        threading.Thread(target=answer, args=listener.accept()[:1], daemon=True).start()


def call(address, port, file, seconds):
    connection = socket.create_connection((address, port))
    heard, silence, last = 0, 0.0, time.monotonic()

    def listen():
        nonlocal heard, silence, last
        while data := connection.recv(4096):
            now = time.monotonic()
            silence, last = max(silence, now - last), now
            heard += data.count(b"\n")

    threading.Thread(target=listen, daemon=True).start()
    said, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        connection.sendall(b"%d\n" % said)
        said += 1
        time.sleep(0.02)
    time.sleep(3)
    with open(file, "w") as result:
        result.write(f"said {said} heard {heard} silence {int(silence * 1000)}\n")


if sys.argv[1] == "serve":
    serve(int(sys.argv[2]))
else:
    call(sys.argv[2], int(sys.argv[3]), sys.argv[4], float(sys.argv[5]))
