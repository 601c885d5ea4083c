"""Fails unless this host's clock, as the process that carries vnets sees it, is so many days ahead of the machine's at least."""
import json
import sys
import time

written = json.load(open("/run/viaduct/vnet-sequences.json"))
latest = max(number for macs in written.values() for number in macs.values())
days = (latest / 1000 - time.time()) / 86400
print(days, "days ahead")
sys.exit(days < float(sys.argv[1]))
