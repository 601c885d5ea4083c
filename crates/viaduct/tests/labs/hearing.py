"""What is heard is written down as JSON, again and again until who hears is killed, and then once more, with all that has come."""
import json
import os
import signal
import socket
import struct
import sys
import time

SO_RCVBUFFORCE = 33
SO_TIMESTAMPNS = 35


def write_down(ear, file, note):
    """Receives, lets `note` put what came from whom, and when, into what was heard, and never leaves half a file."""
    ear.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
    # When it came, not when it was looked at: writing takes its time.
    ear.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    ear.settimeout(0.2)
    ended = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
    heard, next_time = {}, 0
    while True:
        try:
            data, told, _, sender = ear.recvmsg(100, 64)
            seconds, nanoseconds = struct.unpack("qq", told[0][2][:16])
            note(heard, data, sender, seconds + nanoseconds / 1e9)
            is_empty = False
        except socket.timeout:
            is_empty = True
        begun = time.monotonic()
        if begun > next_time or ended and is_empty:
            with open(file + ".new", "w") as out:
                json.dump(heard, out)
            os.rename(file + ".new", file)
            if ended and is_empty:
                sys.exit()
            next_time = time.monotonic() + 0.3
