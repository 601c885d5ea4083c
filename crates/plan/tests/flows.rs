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

/// A host with a network of each of two uplinks, where a, b and c are.
fn networks(public: &str, guests: &str, here: &[&str]) -> Ruleset {
    let text = format!(
        "[host]\nname = \"h\"\n[uplinks.wan]\ninterface = \"eth0\"\n\
         [uplinks.other]\ninterface = \"eth1\"\naddresses = [\"192.0.2.2/24\"]\n\
         [networks.public]\nmode = \"routed\"\npool = [\"198.51.100.0/24\"]\n{public}\n{guests}\n"
    );
    let config = config(&text);
    let mut host = host();
    host.hardware(&"eth1".parse().unwrap(), Some("52:54:00:12:34:57".parse().unwrap()));
    let mut attachments = attach_all(&mut host, &config);
    attachments.retain(|nic, _| here.contains(&nic.guest.as_str()));
    look(&mut host, &config, &attachments).1.nft
}

fn guest(name: &str, address: &str, lines: &str) -> String {
    format!(
        "[guests.{name}]\n{lines}\n[[guests.{name}.nics]]\nnetwork = \"public\"\naddresses = [\"{address}\"]\n"
    )
}

const A: &str = "198.51.100.10";
const B: &str = "198.51.100.11";

#[test]
fn a_permission_ends_flows_of_guests_that_are_away() {
    let [a, b] = [guest("a", A, ""), guest("b", B, "")];
    let flow = tcp(A, B, 22);
    let of = |public: &str, guests: &[&str], here| networks(public, &guests.concat(), here);
    let (open, shut) =
        ("uplink = \"wan\"\nbetween-guests = \"allow\"", "uplink = \"wan\"\nbetween-guests = \"deny\"");
    let (all, away) = (["a", "b"], ["a"]);
    assert!(ends(&of(open, &[&a, &b], &all), &of(shut, &[&a, &b], &all), &flow));
    assert!(ends(&of(open, &[&a, &b], &away), &of(shut, &[&a, &b], &away), &flow));
    // That somebody goes or comes takes no permission away.
    assert!(!ends(&of(open, &[&a, &b], &all), &of(open, &[&a, &b], &away), &flow));
    assert!(!ends(&of(open, &[&a, &b], &away), &of(open, &[&a, &b], &all), &flow));
    // Lists of either side.
    let closed_in = guest("b", B, "allow-in = []");
    let closed_out = guest("a", A, "allow-out = []");
    for here in [&all[..], &away[..]] {
        assert!(ends(&of(open, &[&a, &b], here), &of(open, &[&a, &closed_in], here), &flow), "{here:?}");
        assert!(ends(&of(open, &[&a, &b], here), &of(open, &[&closed_out, &b], here), &flow), "{here:?}");
    }
}

#[test]
fn a_permission_from_outside_ends_flows_of_guests_that_are_away() {
    let flow = tcp(OUTSIDE, B, 22);
    let of = |inbound: &str, lines: &str, here: &[&str]| {
        networks(&format!("uplink = \"wan\"\ninbound = \"{inbound}\""), &guest("b", B, lines), here)
    };
    let some = "allow-in = [{ from = \"any\", ports = [\"22/tcp\"] }]";
    for here in [&["b"][..], &[]] {
        for (before, after) in [
            (("deny", some), ("deny", "allow-in = []")),
            (("deny", some), ("deny", "")),
            (("allow", ""), ("deny", "")),
            (("allow", ""), ("allow", "allow-in = []")),
        ] {
            let [before, after] = [before, after].map(|(inbound, lines)| of(inbound, lines, here));
            assert!(ends(&before, &after, &flow), "{here:?}");
        }
        for (before, after) in [(("deny", some), ("allow", some)), (("deny", some), ("allow", ""))] {
            let [before, after] = [before, after].map(|(inbound, lines)| of(inbound, lines, here));
            assert!(!ends(&before, &after, &flow), "{here:?}");
        }
    }
    // That it goes or comes takes no permission away.
    assert!(!ends(&of("deny", some, &["b"]), &of("deny", some, &[]), &flow));
    assert!(!ends(&of("deny", some, &[]), &of("deny", some, &["b"]), &flow));
}

#[test]
fn what_may_come_in_by_one_uplink_does_not_go_on_by_another() {
    let guests = guest("a", A, "");
    let by = |uplink: &str| networks(&format!("uplink = \"{uplink}\"\ninbound = \"allow\""), &guests, &["a"]);
    assert!(ends(&by("wan"), &by("other"), &tcp(OUTSIDE, A, 22)));
    assert!(!ends(&by("wan"), &by("other"), &tcp(A, OUTSIDE, 22)));
    assert!(!ends(&by("wan"), &by("wan"), &tcp(OUTSIDE, A, 22)));
}

#[test]
fn a_published_port_is_not_outlived_by_what_else_the_guest_allows() {
    let of = |publish: &str| {
        networks(
            "uplink = \"wan\"\ninbound = \"allow\"",
            &guest("a", A, &format!("publish = [{publish}]")),
            &["a"],
        )
    };
    let mut flow = tcp(OUTSIDE, "203.0.113.2", 80);
    flow.reply.source = A.parse().unwrap();
    for published in ["\"203.0.113.2:80:80/tcp\"", "\"203.0.113.2:80-90:80-90/tcp\""] {
        assert!(ends(&of(published), &of(""), &flow), "{published}");
        assert!(!ends(&of(published), &of(published), &flow), "{published}");
    }
}

#[test]
fn a_filter_that_comes_or_goes_leaves_nothing_behind() {
    let nothing = Ruleset::default();
    let closed = filter("allow-in = []");
    let open = filter("allow-in = [{ from = \"any\" }]");
    let flow = tcp(OUTSIDE, GUEST, 22);
    assert!(ends(&nothing, &closed, &flow) && !ends(&nothing, &open, &flow));
    assert!(ends(&open, &nothing, &flow));
    // What is not our guests' is not ours.
    let other = tcp(OUTSIDE, "192.0.2.99", 22);
    assert!(!ends(&nothing, &closed, &other) && !ends(&open, &nothing, &other));
}

#[test]
fn a_datagram_flow_to_a_port_that_is_published_now_is_led_there() {
    let of = |publish: &str| {
        networks("uplink = \"wan\"", &guest("a", A, &format!("publish = [{publish}]")), &["a"])
    };
    let to_host = |protocol, port| Flow { protocol, ..tcp(OUTSIDE, "203.0.113.2", port) };
    let (none, published) = (of(""), of("\"203.0.113.2:53:53/udp\", \"203.0.113.2:22:22/tcp\""));
    assert!(
        ends(&none, &published, &to_host(17, 53)) && ends(&Ruleset::default(), &published, &to_host(17, 53))
    );
    assert!(!ends(&published, &published, &to_host(17, 53)) && !ends(&none, &published, &to_host(17, 54)));
    // Nobody loses the connection by which they publish the port.
    assert!(!ends(&none, &published, &to_host(6, 22)));
    let mut there = to_host(17, 53);
    there.reply.source = A.parse().unwrap();
    assert!(!ends(&none, &published, &there));
    // In ranges as well.
    assert!(ends(&none, &of("\"203.0.113.2:50-60:50-60/udp\""), &to_host(17, 53)));
}
