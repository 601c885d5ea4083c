//! What holds for every configuration: a plan leads where it should, the next one is empty, the way there is closed
//! and the host stays reachable, and what is ours goes without a trace.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::fmt::Write as _;

use common::{attach_all, config, converge, host, look, namespace};
use proptest::{collection::vec, prelude::*, sample::Index};
use viaduct_plan::{Apply, GROUP, Observed, nft::Family, sim::Host};

/// One guest: which network of those there are, and what else.
#[derive(Clone, Debug)]
struct GuestShape {
    network: Index,
    published: bool,
    narrowed_in: bool,
    narrowed_out: bool,
    second_nic: Option<Index>,
}

/// A configuration's shape: which kinds of networks, and guests.
#[derive(Clone, Debug)]
struct Shape {
    networks: Vec<(u8, bool, bool)>,
    guests: Vec<GuestShape>,
}

fn shape() -> impl Strategy<Value = Shape> {
    let guest = (any::<Index>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<Option<Index>>())
        .prop_map(|(network, published, narrowed_in, narrowed_out, second_nic)| GuestShape {
            network,
            published,
            narrowed_in,
            narrowed_out,
            second_nic,
        });
    (vec((0u8..5, any::<bool>(), any::<bool>()), 1..5), vec(guest, 0..7))
        .prop_map(|(networks, guests)| Shape { networks, guests })
}

impl Shape {
    /// The kind of a network; only the first bridged one is, as an uplink has one bridge.
    fn kind(&self, n: usize) -> u8 {
        let first_bridged = self.networks.iter().position(|(kind, ..)| *kind == 4);
        match self.networks[n].0 {
            4 if first_bridged != Some(n) => 0,
            kind => kind,
        }
    }

    fn toml(&self) -> String {
        let (network, guests) = self.tables();
        format!(
            "[host]\nname = \"h\"\n[uplinks.wan]\ninterface = \"eth0\"\n{}{}",
            network.concat(),
            guests.concat()
        )
    }

    /// The tables of networks and of guests.
    fn tables(&self) -> (Vec<String>, Vec<String>) {
        let networks = (0..self.networks.len()).map(|n| {
            let (_, v6, allow) = self.networks[n];
            let mut text = format!("[networks.n{n}]\n");
            let list =
                |v4: String, six: String| if v6 { format!("[{v4:?}, {six:?}]") } else { format!("[{v4:?}]") };
            let _ = match self.kind(n) {
                0 => writeln!(
                    text,
                    "mode = \"nat\"\nuplink = \"wan\"\nsubnets = {}",
                    list(format!("10.0.{n}.0/24"), format!("fd00:{n}::/64"))
                ),
                1 | 2 => writeln!(
                    text,
                    "mode = \"routed\"\nuplink = \"wan\"\nproxy = {allow}\npool = {}",
                    list(format!("198.51.100.{}/28", n * 16), format!("2001:db8:{n}::/64"))
                ),
                3 => writeln!(
                    text,
                    "mode = \"isolated\"\nsubnets = {}",
                    list(format!("10.1.{n}.0/24"), format!("fd01:{n}::/64"))
                ),
                _ => writeln!(text, "mode = \"bridged\"\nuplink = \"wan\""),
            };
            if allow {
                text.push_str("between-guests = \"allow\"\n");
            }
            text
        });
        let guests = self.guests.iter().enumerate().map(|(g, guest)| {
            let nic = |index: usize, network: usize| {
                let host = 20 + 2 * g + index;
                let v6 = self.networks[network].1 && self.kind(network) != 4;
                let (v4, six) = match self.kind(network) {
                    0 => (format!("10.0.{network}.{host}"), format!("fd00:{network}::{host}")),
                    1 | 2 => (format!("198.51.100.{}", network * 16 + 2 * g + index), format!("2001:db8:{network}::{host}")),
                    3 => (format!("10.1.{network}.{host}"), format!("fd01:{network}::{host}")),
                    _ => (format!("203.0.113.{host}/24"), String::new()),
                };
                let addresses = if v6 { format!("{v4:?}, {six:?}") } else { format!("{v4:?}") };
                format!("[[guests.g{g}.nics]]\nnetwork = \"n{network}\"\naddresses = [{addresses}]\n")
            };
            let first = guest.network.index(self.networks.len());
            let second = guest.second_nic.map(|i| i.index(self.networks.len()));
            let filtered = [Some(first), second].iter().flatten().all(|n| self.kind(*n) != 4);
            let mut text = format!("[guests.g{g}]\n");
            if guest.published && filtered {
                let _ = writeln!(text, "publish = [\"203.0.113.2:{}:80/tcp\", \"{}-{}:{}-{}/udp\"]", 8000 + g, 9000 + 10 * g, 9003 + 10 * g, 9000 + 10 * g, 9003 + 10 * g);
            }
            if guest.narrowed_in && filtered {
                text.push_str("allow-in = [{ from = \"192.0.2.0/24\", ports = [\"22/tcp\"] }, { from = \"any\", icmp = true, ports = [\"20-30\"] }]\n");
            }
            if guest.narrowed_out && filtered {
                text.push_str("allow-out = [{ to = \"any\", ports = [\"53/udp\", \"443\"] }]\n");
            }
            text.push_str(&nic(0, first));
            if let Some(second) = second {
                text.push_str(&nic(1, second));
            }
            text
        });
        (networks.collect(), guests.collect())
    }
}

/// The state without what differs from run to run: the kernel's numbers.
fn comparable(host: &Host) -> Observed {
    let mut state = host.state.clone();
    for link in state.links.values_mut() {
        (link.index, link.peer_index) = (0, 0);
    }
    state
}

/// What must hold at any moment, also between two steps.
fn check_safe(host: &Host) {
    let state = &host.state;
    let reachable = |link: &str| {
        state
            .addresses
            .keys()
            .any(|a| a.link.as_str() == link && a.address.addr().to_string() == "203.0.113.2")
    };
    let bridge = state.links.iter().find(|(n, _)| n.as_str() == "eth0").and_then(|(_, l)| l.master.clone());
    assert!(
        reachable("eth0") || bridge.is_some_and(|b| reachable(b.as_str())),
        "the host's own address is nowhere that packets come in"
    );
    let filtered = state.nft.tables.contains_key(&Family::Inet);
    for (name, link) in state.links.iter().filter(|(_, l)| l.group == GROUP && l.up) {
        assert!(filtered, "{name} is up and nothing filters");
        let bridged = link.master.is_some();
        assert!(
            !bridged || state.nft.tables.contains_key(&Family::Bridge),
            "{name} is a port and nothing guards it"
        );
    }
}

/// Every prefix of a plan leaves the host closed and manageable.
fn converge_step_by_step(
    host: &mut Host,
    config: &viaduct_model::Config,
    attachments: &viaduct_plan::Attachments,
) {
    for _ in 0..3 {
        let (.., plan) = look(host, config, attachments);
        // A carried address is put on the bridge and taken from the uplink in one send, before anything else happens.
        for op in &plan.ops {
            for result in host.apply(std::slice::from_ref(op), &|_| true, &mut |_| ()) {
                result.unwrap();
            }
            check_safe(host);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_plan_leads_there_and_the_next_is_empty(shape in shape()) {
        let config = config(&shape.toml());
        let mut host = host();
        let attachments = attach_all(&mut host, &config);
        converge(&mut host, &config, &attachments);
        let (observed, desired, _, plan) = look(&mut host, &config, &attachments);
        prop_assert!(plan.is_empty());
        prop_assert_eq!(&observed.nft, &desired.nft);
        for (name, link) in &desired.links {
            let now = &observed.links[name];
            prop_assert!(now.master == link.master && (now.up || !link.up));
        }
        for route in desired.routes.iter().filter(|r| r.via.is_none()) {
            prop_assert!(observed.routes.contains(route));
        }
        for (nic, guest) in &desired.guests {
            prop_assert_eq!(&observed.guests[nic].addresses, &guest.addresses);
            prop_assert_eq!(&observed.guests[nic].routes, &guest.routes);
        }
    }

    #[test]
    fn any_prefix_is_closed_and_reachable(before in shape(), after in shape()) {
        let mut host = host();
        for shape in [&before, &after] {
            let config = config(&shape.toml());
            let attachments = attach_all(&mut host, &config);
            converge_step_by_step(&mut host, &config, &attachments);
        }
    }

    #[test]
    fn where_one_comes_from_does_not_matter(before in shape(), after in shape()) {
        let (old, new) = (config(&before.toml()), config(&after.toml()));
        let (mut by_way, mut direct) = (host(), host());
        let attachments = attach_all(&mut by_way, &old);
        converge(&mut by_way, &old, &attachments);
        let attachments = attach_all(&mut by_way, &new);
        converge(&mut by_way, &new, &attachments);
        let attachments = attach_all(&mut direct, &new);
        converge(&mut direct, &new, &attachments);
        let (by_way, direct) = (comparable(&by_way), comparable(&direct));
        prop_assert_eq!(by_way.nft, direct.nft);
        prop_assert_eq!(by_way.links, direct.links);
        prop_assert_eq!(by_way.addresses, direct.addresses);
        prop_assert_eq!(by_way.routes, direct.routes);
        prop_assert_eq!(by_way.proxies, direct.proxies);
        prop_assert_eq!(by_way.journal, direct.journal);
    }

    #[test]
    fn what_is_ours_goes_without_a_trace(shape in shape()) {
        let config = config(&shape.toml());
        let mut host = host();
        let before = comparable(&host);
        let attachments = attach_all(&mut host, &config);
        converge(&mut host, &config, &attachments);
        let observed = viaduct_plan::Observe::observe(&mut host, &Default::default()).unwrap();
        let plan = viaduct_plan::plan(&observed, &Default::default());
        for result in host.apply(&plan.ops, &|_| true, &mut |_| ()) {
            result.unwrap();
        }
        prop_assert_eq!(comparable(&host), before);
    }

    #[test]
    fn the_order_of_the_file_does_not_matter(shape in shape(), seed in any::<u64>()) {
        let (mut networks, mut guests) = shape.tables();
        let networks_by = usize::try_from(seed % 7).unwrap() % networks.len().max(1);
        networks.rotate_left(networks_by);
        guests.reverse();
        let text = format!("{}{}[uplinks.wan]\ninterface = \"eth0\"\n[host]\nname = \"h\"\n", guests.concat(), networks.concat());
        let (straight, turned) = (config(&shape.toml()), config(&text));
        let mut host = host();
        let attachments = attach_all(&mut host, &straight);
        let (.., plan) = look(&mut host, &straight, &attachments);
        let (.., turned) = look(&mut host, &turned, &attachments);
        prop_assert_eq!(plan.to_string(), turned.to_string());
    }

    #[test]
    fn a_failed_step_heals(shape in shape(), at in 0usize..60) {
        let config = config(&shape.toml());
        let mut host = host();
        let attachments = attach_all(&mut host, &config);
        host.fail_at = Some(at);
        for _ in 0..4 {
            let (.., plan) = look(&mut host, &config, &attachments);
            let _ = host.apply(&plan.ops, &|_| true, &mut |_| ());
        }
        host.fail_at = None;
        converge(&mut host, &config, &attachments);
    }
}

#[test]
fn a_guest_that_dies_takes_its_links_and_comes_back() {
    let text = include_str!("../../../examples/openvz/viaduct.toml");
    let config = config(text);
    let mut host = host();
    let attachments = attach_all(&mut host, &config);
    converge(&mut host, &config, &attachments);
    let nic = "ldap".parse().unwrap();
    host.remove_namespace(&namespace(&nic));
    let (_, desired, notices, plan) = look(&mut host, &config, &attachments);
    assert!(!plan.is_empty() && !desired.links.keys().any(|l| l.as_str() == "v-ldap.0"));
    assert!(notices.iter().any(|n| n.text.contains("/run/netns/ldap")), "{notices:?}");
    converge(&mut host, &config, &attachments);
    host.namespace(&namespace(&nic));
    converge(&mut host, &config, &attachments);
    assert!(host.state.links.keys().any(|l| l.as_str() == "v-ldap.0"));
}
