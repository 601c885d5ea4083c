//! Configurations of every shape, and what must hold whatever is done with them.

use std::fmt::Write as _;

use proptest::{collection::vec, prelude::*, sample::Index};
use viaduct_plan::{GROUP, Observed, nft::Family, sim::Host};
use viaduct_types::{Ipv6Net, MacAddr};

/// One guest: which network of those there are, and what else.
#[derive(Clone, Debug)]
pub(crate) struct GuestShape {
    pub(crate) network: Index,
    pub(crate) published: bool,
    pub(crate) narrowed_in: bool,
    pub(crate) narrowed_out: bool,
    pub(crate) second_nic: Option<Index>,
    /// Publishes on every address.
    pub(crate) everywhere: bool,
    /// Lets another guest in.
    pub(crate) lets_in: Option<Index>,
    /// Has further addresses.
    pub(crate) more: bool,
    /// Its MACs are written, and its IPv6 addresses are made of them.
    pub(crate) by_mac: bool,
    /// Has no addresses of its own where it is lent some, and no lists.
    pub(crate) lent: bool,
}

/// A configuration's shape: which kinds of networks, and guests.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) networks: Vec<(u8, bool, bool)>,
    /// Of each of them, whether guests are answered DHCP there, whether names, and whether they get prefixes.
    pub(crate) served: [(bool, bool, bool); 4],
    pub(crate) guests: Vec<GuestShape>,
    /// How many namespaces are shared, each with one device more than the one before.
    pub(crate) shared: usize,
}

pub(crate) fn shape() -> impl Strategy<Value = Shape> {
    let networks = vec((0u8..5, any::<bool>(), any::<bool>()), 1..5);
    (networks, any::<[(bool, bool, bool); 4]>(), vec(guest(), 0..7), 0usize..3)
        .prop_map(|(networks, served, guests, shared)| Shape { networks, served, guests, shared })
}

/// A shared namespace's table.
pub(crate) fn namespace_table(n: usize) -> String {
    let device = |index| {
        let host = 100 + 10 * n + index;
        let kind = if index == 0 { "\"macvlan\"".to_owned() } else { format!("\"vlan\"\nvlan = {host}") };
        format!(
            "[[namespaces.s{n}.interfaces]]\nname = \"d{index}\"\nparent = \"wan\"\ntype = {kind}\n\
             addresses = [\"203.0.113.{host}/24\", \"2001:db8:5::{host}/64\"]\ngateways = [\"203.0.113.1\"]\n"
        )
    };
    // One has a device of the host's, too, and a cable to somebody's bridge.
    let further = if n == 1 {
        "[[namespaces.s1.interfaces]]\nname = \"moved\"\ntype = \"device\"\ndevice = \"card1\"\naddresses = [\"192.0.2.9/24\"]\n\
         [[namespaces.s1.interfaces]]\nname = \"cable\"\ntype = \"veth\"\nbridge = \"theirs\"\naddresses = [\"192.0.3.9/24\"]\n"
    } else {
        ""
    };
    let rules = if n == 1 {
        "rules = [\"from 192.0.2.9 table 7\", \"table 8\"]\nsysctls = { \"net.ipv4.ip_forward\" = 1, \"net.ipv4.conf.d0.rp_filter\" = 2 }\n"
    } else {
        ""
    };
    format!("[namespaces.s{n}]\n{rules}{}{further}", (0..=n).map(device).collect::<String>())
}

pub(crate) fn guest() -> impl Strategy<Value = GuestShape> {
    (any::<Index>(), any::<[bool; 7]>(), any::<Option<Index>>(), any::<Option<Index>>()).prop_map(
        |(
            network,
            [published, narrowed_in, narrowed_out, everywhere, more, by_mac, lent],
            second_nic,
            lets_in,
        )| {
            GuestShape {
                network,
                published,
                narrowed_in,
                narrowed_out,
                second_nic,
                everywhere,
                lets_in,
                more,
                by_mac,
                lent,
            }
        },
    )
}

impl Shape {
    /// The kind of a network; only the first bridged one is on the uplink's own segment, others on VLANs of it.
    pub(crate) fn kind(&self, n: usize) -> u8 {
        let first_bridged = self.networks.iter().position(|(kind, ..)| *kind == 4);
        match self.networks[n].0 {
            4 if first_bridged != Some(n) => 5,
            kind => kind,
        }
    }

    /// Whether NICs without addresses are lent some in a network.
    fn lends(&self, n: usize) -> bool {
        self.served[n].0 && self.kind(n) < 4
    }

    pub(crate) fn toml(&self) -> String {
        let (network, guests) = self.tables();
        format!(
            "[host]\nname = \"h\"\n[uplinks.wan]\ninterface = \"eth0\"\n{}{}{}",
            network.concat(),
            guests.concat(),
            (0..self.shared).map(namespace_table).collect::<String>()
        )
    }

    /// The tables of networks and of guests.
    pub(crate) fn tables(&self) -> (Vec<String>, Vec<String>) {
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
                4 => writeln!(text, "mode = \"bridged\"\nuplink = \"wan\""),
                _ => writeln!(text, "mode = \"bridged\"\nuplink = \"wan\"\nvlan = {}", 50 + n),
            };
            if self.kind(n) >= 4 && v6 {
                text.push_str("vlans = [2, 3]\n");
            }
            if allow {
                text.push_str("between-guests = \"allow\"\n");
            }
            let (dhcp, dns, delegates) = self.served[n];
            let _ = writeln!(text, "dhcp = {dhcp}");
            // Of an uplink's own segment, others know the names.
            if dns && self.kind(n) < 4 {
                text.push_str("dns = true\n");
            }
            if delegates && dhcp && matches!(self.kind(n), 1 | 2) {
                let _ = writeln!(text, "delegate-pool = [\"2001:db8:a{n}00::/40\"]");
            }
            if self.lends(n) && matches!(self.kind(n), 1 | 2) {
                let _ = writeln!(text, "install-pool = \"172.30.{n}.0/24\"");
            }
            text
        });
        let guests = self.guests.iter().enumerate().map(|(g, guest)| {
            let nic = |index: usize, network: usize| {
                let host = 20 + 2 * g + index;
                let v6 = self.networks[network].1 && self.kind(network) < 4;
                let (v4, six) = match self.kind(network) {
                    0 => (format!("10.0.{network}.{host}"), format!("fd00:{network}::{host}")),
                    1 | 2 => (format!("198.51.100.{}", network * 16 + 2 * g + index), format!("2001:db8:{network}::{host}")),
                    3 => (format!("10.1.{network}.{host}"), format!("fd01:{network}::{host}")),
                    _ => (format!("203.0.113.{host}/24"), String::new()),
                };
                let mac = format!("02:00:00:0{network}:{g:02}:0{index}");
                let six = if guest.by_mac && v6 { made_of(&mac, &six) } else { six };
                let mut addresses = if v6 { format!("{v4:?}, {six:?}") } else { format!("{v4:?}") };
                if guest.more && v6 {
                    let _ = write!(addresses, ", {:?}", six.replace("::", "::ff:"));
                }
                let vlan = match (self.kind(network) >= 4 && self.networks[network].1, index) {
                    (false, _) => "",
                    (true, 0) => "vlan = 2\n",
                    (true, _) => "trunk = [2, 3]\n",
                };
                let mut text = format!("[[guests.g{g}.nics]]\nnetwork = \"n{network}\"\n{vlan}");
                if guest.by_mac {
                    let _ = writeln!(text, "mac = \"{mac}\"");
                }
                let is_plain = !guest.published && !guest.everywhere && !guest.narrowed_in && !guest.narrowed_out;
                if !(guest.lent && is_plain && guest.lets_in.is_none() && self.lends(network)) {
                    let _ = writeln!(text, "addresses = [{addresses}]");
                }
                text
            };
            let first = guest.network.index(self.networks.len());
            let second = guest.second_nic.map(|i| i.index(self.networks.len()));
            let filtered = [Some(first), second].iter().flatten().all(|n| self.kind(*n) < 4);
            let mut text = format!("[guests.g{g}]\n");
            let mut publish = Vec::new();
            if guest.published && filtered {
                publish.push(format!("203.0.113.2:{}:80/tcp", 8000 + g));
                publish.push(format!("203.0.113.9:{}:81/tcp", 8000 + g));
                publish.push(format!("{}-{}:{}-{}/udp", 9000 + 10 * g, 9003 + 10 * g, 9000 + 10 * g, 9003 + 10 * g));
            }
            if guest.everywhere && filtered {
                publish.push(format!("{}:82/tcp", 8100 + g));
            }
            if !publish.is_empty() {
                let _ = writeln!(text, "publish = {publish:?}");
            }
            let mut allow_in = String::new();
            if guest.narrowed_in && filtered {
                allow_in.push_str("{ from = \"192.0.2.0/24\", ports = [\"22/tcp\"] }, { from = \"any\", icmp = true, ports = [\"20-30\"] }, ");
            }
            if let Some(other) = guest.lets_in.filter(|_| filtered) {
                let _ = write!(allow_in, "{{ from = \"guest:g{}\", ports = [\"99/tcp\"] }}", other.index(self.guests.len()));
            }
            if !allow_in.is_empty() {
                let _ = writeln!(text, "allow-in = [{}]", allow_in.trim_end_matches(", "));
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

/// The address that a NIC makes for itself in the prefix of an address.
fn made_of(mac: &str, address: &str) -> String {
    let prefix = Ipv6Net::new_assert(address.parse().unwrap(), 64);
    mac.parse::<MacAddr>().unwrap().slaac(prefix).unwrap().to_string()
}

/// The state without what differs from run to run: the kernel's numbers.
pub(crate) fn comparable(host: &Host) -> Observed {
    let mut state = host.state.clone();
    for link in state.links.values_mut() {
        (link.index, link.peer_index) = (0, 0);
    }
    // A device that was away when forwarding was switched on was not there to be changed for that.
    state.journal.retain(|key, _| key.link() != Some("card1"));
    state
}

/// What must hold at any moment, also between two steps.
pub(crate) fn check_safe(host: &Host) {
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
    // What goes to somebody else's bridge is no guest's, whatever group it came into being in.
    let is_guests =
        |link: &viaduct_plan::Link| link.group == GROUP && !link.alias.starts_with("viaduct:cable:");
    for (name, link) in state.links.iter().filter(|(_, l)| is_guests(l) && l.up) {
        assert!(filtered, "{name} is up and nothing filters");
        let bridged = link.master.is_some();
        assert!(
            !bridged || state.nft.tables.contains_key(&Family::Bridge),
            "{name} is a port and nothing guards it"
        );
    }
}
