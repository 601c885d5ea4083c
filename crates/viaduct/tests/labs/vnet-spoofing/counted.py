"""counted.py BEFORE REASON... by GUEST...: whether just for these reasons more of each guest's frames were dropped since that
status was written, in its host's `status --json` by standard input. What the IP filter refuses aside."""

import json
import sys

before, *words = sys.argv[1:]
at = words.index("by")
reasons, guests = set(words[:at]), words[at + 1 :]
IP_FILTER = {"host", "in", "out"}


def drops(status, guest):
    nic = status["guests"][guest]["nics"][0]
    return {reason: (count["packets"], count["bytes"]) for reason, count in nic["drops"].items()}


then, now = json.load(open(before)), json.load(sys.stdin)
for guest in guests:
    old, new = drops(then, guest), drops(now, guest)
    more = {reason for reason in new if all(n > o for n, o in zip(new[reason], old.get(reason, (0, 0))))}
    print(guest, old, new)
    if more - IP_FILTER != reasons:
        sys.exit(f"{guest}: dropped for {sorted(more)}")
