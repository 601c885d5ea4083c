"""refused.py KEY COUNT [PEER]: whether this key, and no other one, was refused more than COUNT times where PEER's was expected or,
without PEER, as nobody's, by `status --json` in /run/refused.json and `status` for people, written after it, in /run/refused.text. Says
how often; status 3 when it was not more often yet."""

import json
import re
import sys

key, more_than, *peer = sys.argv[1:]
vnets = json.load(open("/run/refused.json"))["vnets"]
text = open("/run/refused.text").read()
if peer:
    seen = vnets["peers"][peer[0]]
    said = [(seen["seen_key"], seen["refused"])] if seen.get("seen_key") else []
    told = re.findall(rf"^{peer[0]} +wrong key (\S+) \((\d+) times\)", text, re.MULTILINE)
else:
    said = [(stranger["key"], stranger["refused"]) for stranger in vnets["strangers"]]
    told = re.findall(r"^Refused: \S+ with the key (\S+) \((\d+) times\)", text, re.MULTILINE)
others = {seen for seen, _ in said + told} - {key}
if others:
    sys.exit(f"not {key}, but {others}")
if not said or not told:
    sys.exit(3)
[(_, count)], [(_, for_people)] = said, told
assert int(for_people) >= count, (count, for_people)
print(count)
sys.exit(0 if count > int(more_than) else 3)
