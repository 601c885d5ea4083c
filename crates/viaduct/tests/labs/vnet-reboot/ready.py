"""ready.py SOCKET FILE: writes down which links there are at the moment at which the daemon says that it is ready (sd_notify(3))."""
import os
import socket
import subprocess
import sys

place, file = sys.argv[1:]
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(place)
while b"READY=1" not in s.recv(4096).split(b"\n"):
    pass
links = subprocess.run(["ip", "-o", "link"], capture_output=True, check=True).stdout
with open(file + ".new", "wb") as out:
    out.write(links)
os.rename(file + ".new", file)
