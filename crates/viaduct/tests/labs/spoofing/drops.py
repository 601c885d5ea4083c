"""Whether a guest's drops have just these reasons besides those of the IP filter, each counted."""

import json, sys

guest, *reasons = sys.argv[1:]
nic = json.load(open("/run/status.json"))["guests"][guest]["nics"][0]
# What the IP filter refuses, and what is not IP at all, comes of any made-up frame.
drops = {reason: count for reason, count in nic["drops"].items() if reason not in ("host", "in", "out", "type")}
if set(drops) != set(reasons) or not all(count["packets"] and count["bytes"] for count in drops.values()):
    sys.exit(f"{guest}: {drops}")
