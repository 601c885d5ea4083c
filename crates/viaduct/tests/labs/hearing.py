"""What is heard is written down as JSON, again and again until who hears is killed."""
import json
import os
import socket
import time


def write_down(ear, file, note):
    """Receives, lets `note` put what came from whom into what was heard, and never leaves half a file."""
    ear.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE
    ear.settimeout(0.2)
    heard, written = {}, 0
    while True:
        try:
            note(heard, *ear.recvfrom(100))
        except socket.timeout:
            pass
        if time.monotonic() - written > 0.3:
            with open(file + ".new", "w") as out:
                json.dump(heard, out)
            os.rename(file + ".new", file)
            written = time.monotonic()
