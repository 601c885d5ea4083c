//! Networks in namespaces: every stack gets its own, and nothing of another's.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use viaduct_plan::{Apply, Attachments, Desired, Kind, Observe, Op, ask, nft::Family, plan, sim};
use viaduct_types::NamespaceName;

use crate::common::{attach_all, config, converge, host, look};

/// Two stacks with one subnet, and guests of equal addresses; beside them the host's own network.
const ZONES: &str = r#"
[uplinks.wan]
interface = "eth0"
[uplinks.red]
interface = "out"
namespace = "red"
[uplinks.blue]
interface = "out"
namespace = "blue"

[[namespaces.red.interfaces]]
name = "out"
type = "macvlan"
parent = "wan"
addresses = ["203.0.113.10/24", "2001:db8::10/64"]
gateways = ["203.0.113.1"]
[[namespaces.blue.interfaces]]
name = "out"
type = "macvlan"
parent = "wan"
addresses = ["203.0.113.11/24"]

[networks.red]
mode = "nat"
uplink = "red"
namespace = "red"
subnets = ["10.0.0.0/24", "fd00::/64"]
[networks.blue]
mode = "nat"
uplink = "blue"
namespace = "blue"
subnets = ["10.0.0.0/24"]
[networks.lan]
mode = "nat"
uplink = "wan"
subnets = ["10.1.0.0/24"]

[guests.one]
publish = ["80:80"]
[[guests.one.nics]]
network = "red"
addresses = ["10.0.0.5", "fd00::5"]
[guests.two]
publish = ["80:80"]
[[guests.two.nics]]
network = "blue"
addresses = ["10.0.0.5"]
[guests.three]
publish = ["80:80"]
[[guests.three.nics]]
network = "lan"
addresses = ["10.1.0.5"]
"#;

fn name(text: &str) -> NamespaceName {
    text.parse().unwrap()
}

#[test]
fn each_stack_has_its_own() {
    let (mut host, config) = (host(), config(ZONES));
    let attachments = attach_all(&mut host, &config);
    converge(&mut host, &config, &attachments);
    let red = &host.stacks[&name("red")].state;
    let blue = &host.stacks[&name("blue")].state;
    for (stack, bridge) in [(red, "br-red"), (blue, "br-blue"), (&host.state, "br-lan")] {
        let bridges: Vec<&str> = stack
            .links
            .iter()
            .filter(|(_, link)| link.kind == Kind::Bridge && link.is_ours())
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(bridges, [bridge]);
        assert!(stack.nft.tables.contains_key(&Family::Inet));
        let ports = stack.links.values().filter(|link| link.kind == Kind::Veth).count();
        assert_eq!(ports, 1, "{bridge}");
    }
    // What the host says of the namespaces' interfaces is not taken away by the stacks.
    assert!(red.addresses.keys().any(|a| a.address.to_string() == "203.0.113.10/24"));
    assert_eq!(host.state.namespaces[&name("red")].devices.len(), 1);
}

/// What is in stacks is in no way different on a host that has others, too.
#[test]
fn a_stack_does_not_know_of_others() {
    let (mut host, config) = (host(), config(ZONES));
    let attachments = attach_all(&mut host, &config);
    converge(&mut host, &config, &attachments);
    let (_, wanted, ..) = look(&mut host, &config, &attachments);
    let stack = |of: &str| wanted.stack(&name(of)).unwrap().nft.to_string();
    for (own, others) in [("red", ["blue", "lan", "two"]), ("blue", ["red", "lan", "one"])] {
        let text = stack(own);
        assert!(text.contains("10.0.0.5"), "{text}");
        others.iter().for_each(|other| assert!(!text.contains(&format!("br-{other}")), "{text}"));
    }
    let own = wanted.nft.to_string();
    assert!(own.contains("10.1.0.5") && !own.contains("10.0.0.5"), "{own}");
}

/// Stopped after any step, the next run goes on; nothing is left when nothing is wanted.
#[test]
fn any_stop_is_gone_on_from() {
    let config = config(ZONES);
    let mut whole = host();
    let attachments = attach_all(&mut whole, &config);
    let (.., first) = look(&mut whole, &config, &attachments);
    for stop in 0..first.ops.len() {
        let mut host = host();
        attach_all(&mut host, &config);
        let before = host.observe(&ask(&config, &Attachments::new())).unwrap();
        for result in host.apply(&first.ops[..stop], &|_, _| true, &mut |_| ()) {
            result.unwrap();
        }
        converge(&mut host, &config, &attachments);
        nothing(&mut host);
        let after = host.observe(&ask(&config, &Attachments::new())).unwrap();
        assert_eq!((&before.links.len(), &before.journal), (&after.links.len(), &after.journal));
        assert!(after.namespaces.is_empty() && after.nft.tables.is_empty());
    }
}

fn nothing(host: &mut sim::Host) {
    let observed = host.observe(&ask(&config(""), &Attachments::new())).unwrap();
    let plan = plan(&observed, &Desired::default());
    for result in host.apply(&plan.ops, &|_, _| true, &mut |_| ()) {
        result.unwrap();
    }
}

/// In each stack, the filter comes before its first link.
#[test]
fn a_stack_is_closed_before_anybody_is_in_it() {
    let (mut host, config) = (host(), config(ZONES));
    let attachments = attach_all(&mut host, &config);
    let (.., plan) = look(&mut host, &config, &attachments);
    for stack in ["red", "blue"] {
        let stack = name(stack);
        let steps: Vec<&Op> =
            plan.ops.iter().filter(|op| op.place().0 == Some(&stack)).map(|op| op.place().1).collect();
        let filter = steps.iter().position(|op| matches!(op, Op::Nft(_))).unwrap();
        let link = steps.iter().position(|op| matches!(op, Op::AddLink { .. })).unwrap();
        assert!(filter < link);
    }
    let text = plan.to_string();
    assert_eq!(text.matches("in namespace red:\n").count(), 1, "{text}");
}

/// A guest goes to a network in another stack, and back to the host's; no step of it is refused.
#[test]
fn guests_move_between_stacks() {
    let mut host = host();
    let texts = [ZONES.to_owned(), moved("red"), moved("blue"), ZONES.to_owned()];
    for text in texts {
        let config = config(&text);
        let attachments = attach_all(&mut host, &config);
        converge(&mut host, &config, &attachments);
    }
}

fn moved(network: &str) -> String {
    ZONES
        .replace(
            "network = \"lan\"\naddresses = [\"10.1.0.5\"]",
            &format!("network = \"{network}\"\naddresses = [\"10.0.0.6\"]"),
        )
        .replace("[guests.three]\npublish = [\"80:80\"]", "[guests.three]\npublish = [\"81:80\"]")
}

/// A stack whose way out is a network of another stack is made after that.
#[test]
fn a_stack_behind_another_one() {
    let text = r#"
[uplinks.a]
interface = "eth0"
namespace = "a"
[uplinks.b]
interface = "out"
namespace = "b"
[[namespaces.b.interfaces]]
name = "out"
type = "macvlan"
parent = "eth0"
addresses = ["203.0.113.10/24"]
[[namespaces.a.interfaces]]
name = "eth0"
type = "veth"
network = "outer"
addresses = ["10.0.0.2"]
[networks.outer]
mode = "nat"
uplink = "b"
namespace = "b"
subnets = ["10.0.0.0/24"]
[networks.inner]
mode = "nat"
uplink = "a"
namespace = "a"
subnets = ["10.9.0.0/24"]
[guests.g.nics]
"#
    .replace("[guests.g.nics]\n", "");
    let (mut host, config) = (host(), config(&text));
    let attachments = viaduct_plan::attached_namespaces(&config);
    converge(&mut host, &config, &attachments);
    assert!(host.stacks[&name("a")].state.links.contains_key("br-inner"));
    nothing(&mut host);
    assert!(host.state.namespaces.is_empty());
}
