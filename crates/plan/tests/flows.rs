//! Which flows a change of the configuration ends.
#![expect(clippy::unwrap_used, reason = "what a test stands on either works or ends it")]

mod common;

use common::{attach_all, config, host, look};
use viaduct_plan::{Flow, Tuple, ends, nft::Ruleset};

const OUTSIDE: &str = "192.0.2.7";
const GUEST: &str = "198.51.100.9";

/// The filter of a host with one routed guest, whose table has these lines.
fn filter(lines: &str) -> Ruleset {
    let text = format!(
        "[host]\nname = \"h\"\n[uplinks.wan]\ninterface = \"eth0\"\n\
         [networks.public]\nmode = \"routed\"\nuplink = \"wan\"\npool = [\"198.51.100.0/24\"]\n\
         [guests.g]\n{lines}\n[[guests.g.nics]]\nnetwork = \"public\"\naddresses = [\"{GUEST}\"]\n"
    );
    let config = config(&text);
    let mut host = host();
    let attachments = attach_all(&mut host, &config);
    look(&mut host, &config, &attachments).1.nft
}

fn tcp(from: &str, to: &str, port: u16) -> Flow {
    let tuple = |source: &str, source_port, destination: &str, destination_port| Tuple {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
        source_port,
        destination_port,
    };
    Flow { protocol: 6, original: tuple(from, 40_000, to, port), reply: tuple(to, port, from, 40_000) }
}

#[test]
fn a_flow_ends_when_its_permission_goes() {
    let nothing = filter("allow-in = []\nallow-out = []");
    let (inward, outward) = (tcp(OUTSIDE, GUEST, 22), tcp(GUEST, OUTSIDE, 22));
    for permission in [
        "= \"192.0.2.7\", ports = [\"22/tcp\"]",
        "= \"192.0.2.0/24\", ports = [\"22/tcp\"]",
        "= \"192.0.2.0/24\", ports = [\"20-30/tcp\"]",
        "= \"any\"",
    ] {
        let into = filter(&format!("allow-in = [{{ from {permission} }}]\nallow-out = []"));
        let out = filter(&format!("allow-in = []\nallow-out = [{{ to {permission} }}]"));
        assert!(ends(&into, &nothing, &inward), "from {permission}");
        assert!(ends(&out, &nothing, &outward), "to {permission}");
        assert!(!ends(&into, &into, &inward) && !ends(&out, &out, &outward), "{permission}");
        // What was not let through is not ours to end.
        assert!(!ends(&into, &nothing, &outward) && !ends(&out, &nothing, &inward), "{permission}");
    }
    let ssh = filter("allow-in = [{ from = \"192.0.2.0/24\", ports = [\"22/tcp\"] }]");
    assert!(!ends(&ssh, &nothing, &tcp(OUTSIDE, GUEST, 23)));
}
