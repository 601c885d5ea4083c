//! Hosts with many guests: as a configuration of Viaduct, and as the rules that people write by hand.
//!
//! Guests with even numbers are routed and have an IPv6 address, too; those with odd numbers stand behind the host's
//! address on a bridge. Each has a list of who may come in, and a published port.

use std::{
    fmt::Write as _,
    net::{Ipv4Addr, Ipv6Addr},
};

/// The outside's address, and the host's, on the uplink.
pub(super) const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
pub(super) const HOST: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
/// The host on the bridge.
pub(super) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 1);
/// What the guests serve, by TCP and UDP.
pub(super) const PORT: u16 = 80;

/// How a guest is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// By a link of its own, with an address of its own.
    Routed,
    /// By a bridge, behind the host's address.
    Translated,
}

/// One of the guests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Guest {
    pub(super) number: u32,
}

impl Guest {
    pub(super) fn kind(self) -> Kind {
        if self.number.is_multiple_of(2) { Kind::Routed } else { Kind::Translated }
    }

    pub(super) fn name(self) -> String {
        format!("g{}", self.number)
    }

    pub(super) fn address(self) -> Ipv4Addr {
        let base = match self.kind() {
            Kind::Routed => Ipv4Addr::new(198, 18, 0, 2),
            Kind::Translated => Ipv4Addr::new(10, 64, 0, 2),
        };
        Ipv4Addr::from(u32::from(base) + self.number)
    }

    /// A routed guest's other address.
    pub(super) fn address6(self) -> Ipv6Addr {
        let base = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);
        Ipv6Addr::from(u128::from(base) + u128::from(self.number))
    }

    /// The port of the host's address that leads to it.
    pub(super) fn published(self) -> u32 {
        20_000 + self.number
    }

    /// Another port of the host's address for it, which the configuration does not have.
    pub(super) fn further_port(self) -> String {
        format!("{HOST}:{}:{PORT}/tcp", 40_000 + self.number)
    }
}

/// A host with so many guests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Guests(pub(super) u32);

impl Guests {
    pub(super) fn all(self) -> impl Iterator<Item = Guest> {
        (0..self.0).map(|number| Guest { number })
    }

    /// The last one that is connected in a way.
    pub(super) fn last(self, kind: Kind) -> Guest {
        let number = match kind {
            Kind::Routed => self.0 - 2,
            Kind::Translated => self.0 - 1,
        };
        Guest { number }
    }

    /// Those that are real: their namespaces exist, and they are attached.
    pub(super) fn real(self) -> [Guest; 3] {
        [Guest { number: 0 }, self.last(Kind::Routed), self.last(Kind::Translated)]
    }

    /// viaduct.toml.
    pub(super) fn configuration(self) -> String {
        configuration(self.all(), Some(self.last(Kind::Translated)))
    }

    /// The same, where guests are answered DHCP and names.
    pub(super) fn served_configuration(self) -> String {
        let served =
            |text: String, mode: &str| text.replace(mode, &format!("{mode}\ndhcp = true\ndns = true"));
        ["mode = \"routed\"", "mode = \"nat\""].into_iter().fold(self.configuration(), served)
    }

    /// viaduct.toml of a host with as many, all of them routed, and nothing to translate.
    pub(super) fn routed_configuration(self) -> String {
        let guests = (0..2 * self.0).step_by(2).map(|number| Guest { number });
        guests.fold(HEAD.to_owned(), |text, guest| text + &section(guest, ""))
    }

    /// What a script calls iptables with: a translation and two permissions for each guest, in IPv4.
    pub(super) fn rules(self) -> Vec<Rule> {
        let mut rules = Vec::new();
        for guest in self.all() {
            rules.extend(guest_rules(guest));
        }
        let last = self.last(Kind::Translated);
        rules.push(Rule::nat(format!("PREROUTING -i eth0 -d {HOST} {}", to(last, "udp", PORT))));
        rules.push(Rule::nat("POSTROUTING -s 10.64.0.0/16 -o eth0 -j MASQUERADE".to_owned()));
        rules
    }

    /// The same for iptables-restore.
    pub(super) fn restore(self) -> String {
        let rules = self.rules();
        let mut text = String::new();
        for table in ["nat", "filter"] {
            let _ = writeln!(text, "*{table}");
            if table == "filter" {
                text += ":FORWARD DROP [0:0]\n";
            }
            for rule in rules.iter().filter(|rule| rule.table == table) {
                let _ = writeln!(text, "-A {}", rule.text);
            }
            text += "COMMIT\n";
        }
        text
    }

    /// The same as a file for `nft -f`, as somebody writes it who knows maps.
    pub(super) fn maps(self) -> String {
        let list = |each: &dyn Fn(Guest) -> String| self.all().map(each).collect::<Vec<_>>().join(",\n   ");
        let published = list(&|g| format!("tcp . {} : {} . {PORT}", g.published(), g.address()));
        let guests = list(&|g| g.address().to_string());
        format!(
            "table ip hand {{\n \
             map published {{\n  type inet_proto . inet_service : ipv4_addr . inet_service\n  \
             elements = {{ {published} }}\n }}\n \
             set guests {{\n  type ipv4_addr\n  elements = {{ {guests} }}\n }}\n \
             chain prerouting {{\n  type nat hook prerouting priority -100\n  \
             iifname eth0 ip daddr {HOST} dnat ip to meta l4proto . th dport map @published\n }}\n \
             chain postrouting {{\n  type nat hook postrouting priority 100\n  \
             oifname eth0 ip saddr 10.64.0.0/16 masquerade\n }}\n \
             chain forward {{\n  type filter hook forward priority 0; policy drop\n  \
             iifname eth0 ip daddr @guests accept\n  oifname eth0 ip saddr @guests accept\n }}\n}}\n"
        )
    }
}

/// viaduct.toml of a host with these guests, of which one has a port of UDP, too.
pub(super) fn configuration(guests: impl Iterator<Item = Guest>, udp: Option<Guest>) -> String {
    let mut text = format!(
        "{HEAD}\n[networks.private]\nmode = \"nat\"\nuplink = \"wan\"\nsubnets = [\"10.64.0.0/16\"]\n\
         gateways = [\"{GATEWAY}\"]\n"
    );
    let udp = udp.map(|guest| guest.number);
    for guest in guests {
        let published = guest.published();
        let mut ports = format!("\"{HOST}:{published}:{PORT}/tcp\"");
        if Some(guest.number) == udp {
            let _ = write!(ports, ", \"{HOST}:{published}:{PORT}/udp\"");
        }
        text += &section(guest, &format!("publish = [{ports}]\n"));
    }
    text
}

const HEAD: &str = r#"[host]
name = "bench"

[uplinks.wan]
interface = "eth0"

[networks.public]
mode = "routed"
uplink = "wan"
pool = ["198.18.0.0/16", "2001:db8:1::/64"]
"#;

fn section(guest: Guest, publish: &str) -> String {
    let address = guest.address();
    let (network, addresses) = match guest.kind() {
        Kind::Routed => ("public", format!("\"{address}\", \"{}\"", guest.address6())),
        Kind::Translated => ("private", format!("\"{address}\"")),
    };
    format!(
        "\n[guests.{name}]\nid = {id}\n{publish}\
         allow-in = [{{ from = \"203.0.113.0/24\", ports = [\"{PORT}/tcp\", \"{PORT}/udp\"] }}]\n\
         [[guests.{name}.nics]]\nnetwork = \"{network}\"\naddresses = [{addresses}]\n",
        name = guest.name(),
        id = guest.number + 1,
    )
}

/// A rule, after `-A`.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) table: &'static str,
    pub(super) text: String,
}

impl Rule {
    fn nat(text: String) -> Self {
        Self { table: "nat", text }
    }

    fn filter(text: String) -> Self {
        Self { table: "filter", text }
    }
}

/// The rules of one guest.
pub(super) fn guest_rules(guest: Guest) -> [Rule; 3] {
    let address = guest.address();
    [
        Rule::nat(format!("PREROUTING -i eth0 -d {HOST} {}", to(guest, "tcp", PORT))),
        Rule::filter(format!("FORWARD -i eth0 -d {address} -j ACCEPT")),
        Rule::filter(format!("FORWARD -s {address} -o eth0 -j ACCEPT")),
    ]
}

fn to(guest: Guest, protocol: &str, port: u16) -> String {
    let (published, address) = (guest.published(), guest.address());
    format!("-p {protocol} --dport {published} -j DNAT --to-destination {address}:{port}")
}
