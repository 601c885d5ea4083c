"""Many flows at once, each of numbered datagrams, and what a host says of the ports that they go by.

send ADDRESS PORT FLOWS ROUNDS RATE: sends them from so many ports, so many of each, at so many rounds a second. hear PORT FILE: writes
down what came of which. check FILE FLOWS ROUNDS MISSING: fails unless each flow came in order and nothing of it twice, with no
more than so many in a row and all in all missing of any. ports PEER COUNT WHY: reads `peer list --json`, fails unless frames go to so many of the
peer's threads' ports, or, where there is a reason for it, to its first one. came PEER PORTS LEAST: reads the same, fails unless at so many
ports of threads at least so many datagrams have come from the peer."""
import json
import os
import socket
import sys
import time

sys.path.append(os.path.join(os.path.dirname(__file__), os.pardir))
from hearing import write_down

FIRST = 1798


def send(address, port, flows, rounds, rate):
    sockets = []
    for _ in range(flows):
        s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        s.connect((address, port))
        sockets.append(s)
    begin = time.monotonic()
    for number in range(rounds):
        for s in sockets:
            try:
                s.send(b"%d" % number)
            except OSError:
                pass  # Nobody listened for a moment.
        time.sleep(max(0, begin + (number + 1) / rate - time.monotonic()))


def hear(port, file):
    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    s.bind(("", port))
    write_down(s, file, lambda heard, data, sender, _: heard.setdefault("%s %d" % sender[:2], []).append(int(data)))


def check(file, flows, rounds, most):
    heard, good = json.load(open(file)), True
    for sender, numbers in sorted(heard.items()):
        missing = sorted(set(range(rounds)) - set(numbers))
        ordered, twice = numbers == sorted(numbers), len(numbers) - len(set(numbers))
        if missing or not ordered or twice:
            print(sender, "missing", len(missing), missing[:3], missing[-3:], "in order" if ordered else "not in order", "twice", twice)
        good = good and len(missing) <= most and ordered and not twice
    print(len(heard), "flows")
    sys.exit(not good or len(heard) != flows)


def peer(name):
    return json.load(sys.stdin)[name]["ports"]


def ports(name, count, why=""):
    told = peer(name)
    print(told)
    good = told["one"] is None and FIRST not in told["to"] if not why else why in (told["one"] or "")
    sys.exit(not (len(told["to"]) == count and good))


def came(name, count, least):
    told = peer(name)
    print(told)
    own = [received for received in told["received"] if received["port"] != FIRST]
    sys.exit(sum(received["datagrams"] >= least for received in own) < count)


WORDS = {
    "send": lambda a: send(a[0], *map(int, a[1:])),
    "hear": lambda a: hear(int(a[0]), a[1]),
    "check": lambda a: check(a[0], *map(int, a[1:])),
    "ports": lambda a: ports(a[0], int(a[1]), *a[2:]),
    "came": lambda a: came(a[0], int(a[1]), int(a[2])),
}
WORDS[sys.argv[1]](sys.argv[2:])
