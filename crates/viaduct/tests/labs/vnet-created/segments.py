"""segments.py ADDRESS PORT MOST: fails unless what TCP sends there at a time is so many bytes at most, from the beginning."""
import socket
import sys

address, port, most = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
largest = socket.create_connection((address, port), timeout=5).getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
print(largest)
sys.exit(largest > most)
