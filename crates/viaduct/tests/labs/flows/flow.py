"""Connections that live for long, and what becomes of them.

flow.py serve PORT...           answers each byte of TCP, and each datagram, with itself; ports above 9000 send without
                                being asked as well, as a server of anything live does
flow.py hold NAME HOST PORT [udp] [quiet]
                                keeps a flow busy for ever, or listens only; /run/NAME is touched with each byte that
                                comes
flow.py sink NAME PORT          takes datagrams, which nobody answers; /run/NAME is touched with each
flow.py alive NAME...           they are alive, and have been all the time
flow.py ended NAME...           they have ended
flow.py forget                  makes this host forget all flows, as one is that a guest has just moved to
"""

import os, select, socket, struct, sys, threading, time

GAP = 0.6       # seconds: silence that somebody would notice; more than a busy machine's own
DEAD = 2.5      # seconds: silence after which nothing will come any more, retransmissions included


def chatter(connection, asked_only):
    while True:
        ready, _, _ = select.select([connection], [], [], 0.05)
        try:
            if ready:
                data = connection.recv(100)
                if not data:
                    return
                connection.send(data)
            elif not asked_only:
                connection.send(b"!")
        except OSError:
            return


def serve_tcp(port):
    server = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    while True:
        connection, _ = server.accept()
        threading.Thread(target=chatter, args=(connection, port < 9000)).start()


def serve_udp(port):
    server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    server.bind(("::", port))
    while True:
        data, client = server.recvfrom(100)
        server.sendto(data, client)


class Pulse:
    """What /run/NAME says: when something came last, and the longest silence before that."""

    def __init__(self, name):
        self.name, self.last, self.gap = name, None, 0.0

    def beat(self):
        now = time.monotonic()
        self.gap, self.last = max(self.gap, now - (self.last or now)), now
        with open(f"/run/{self.name}.new", "w") as file:
            file.write(f"{now} {self.gap}")
        os.rename(f"/run/{self.name}.new", f"/run/{self.name}")


def sink(name, port):
    server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    server.bind(("::", port))
    pulse = Pulse(name)
    while True:
        server.recv(100)
        pulse.beat()


def hold(name, host, port, *rest):
    kind = socket.SOCK_DGRAM if "udp" in rest else socket.SOCK_STREAM
    flow = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind)
    flow.settimeout(3)
    for attempt in range(20):
        try:
            flow.connect((host, port))
            break
        except OSError:
            time.sleep(0.1)
    flow.settimeout(0.1)
    pulse = Pulse(name)
    while True:
        try:
            if "quiet" not in rest:
                flow.send(b"?")
            if not flow.recv(100):
                break
            pulse.beat()
        except TimeoutError:
            pass
        except OSError:
            break
        time.sleep(0.05)


def state(name):
    last, gap = map(float, open(f"/run/{name}").read().split())
    return time.monotonic() - last, gap


def alive(name):
    silence, gap = state(name)
    if silence > GAP or gap > GAP:
        sys.exit(f"{name}: silent for {silence:.1f} s, for {gap:.1f} s before")


def ended(name):
    until = time.monotonic() + 2 * DEAD
    while state(name)[0] < DEAD:
        if time.monotonic() > until:
            sys.exit(f"{name}: still alive")
        time.sleep(0.05)


def forget():
    """NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_DELETE of everything (linux/netfilter/nfnetlink_conntrack.h)."""
    netfilter = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
    request, acknowledge = 1, 4
    netfilter.send(struct.pack("=IHHII", 20, 1 << 8 | 2, request | acknowledge, 0, 0) + bytes(4))
    answer = netfilter.recv(1000)
    if struct.unpack_from("=i", answer, 16)[0]:
        sys.exit("the kernel does not forget")


what, *rest = sys.argv[1:]
if what == "serve":
    for port in map(int, rest):
        threading.Thread(target=serve_tcp, args=(port,)).start()
        threading.Thread(target=serve_udp, args=(port,)).start()
elif what == "forget":
    forget()
elif what == "sink":
    sink(rest[0], int(rest[1]))
elif what == "hold":
    hold(rest[0], rest[1], int(rest[2]), *rest[3:])
else:
    time.sleep(0.3)     # for a flow to say something after the change
    for name in rest:
        {"alive": alive, "ended": ended}[what](name)
