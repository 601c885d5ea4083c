"""What is heard is written down as JSON, again and again until who hears is killed."""
import json
import os
import socket
import struct
import time

SO_RCVBUFFORCE = 33
SO_TIMESTAMPNS = 35


def write_down(ear, file, note):
    """Receives, lets `note` put what came from whom, and when, into what was heard, and never leaves half a file."""
    ear.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
    # When it came, not when it was looked at: writing takes its time.
    ear.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    ear.settimeout(0.2)
    heard, written, took = {}, 0, 0
    while True:
        try:
            data, told, _, sender = ear.recvmsg(100, 64)
            seconds, nanoseconds = struct.unpack("qq", told[0][2][:16])
            note(heard, data, sender, seconds + nanoseconds / 1e9)
        except socket.timeout:
            pass
        begun = time.monotonic()
        if begun - written > max(0.3, 5 * took):
            with open(file + ".new", "w") as out:
                json.dump(heard, out)
            os.rename(file + ".new", file)
            written = time.monotonic()
            took = written - begun
