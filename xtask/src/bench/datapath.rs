//! What a packet costs: from outside through the host to the last of so many guests, by several ways.

use std::{collections::BTreeMap, net::SocketAddrV4};

use super::{
    Options,
    cost::{run, viaduct},
    guests::{GATEWAY, Guests, HOST, Kind, OUTSIDE, PORT},
    sandbox::{Machine, Sandbox, Service, output},
    table::{Page, Sample, count, number},
    traffic::WORK,
};

const ROUNDS: u32 = 9;
const QUICK_ROUNDS: u32 = 3;
/// Milliseconds of one measurement. Short ones that take turns see the same disturbances.
const SLICE: u32 = 250;
const QUICK_SLICE: u32 = 120;

/// How packets get through the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Forwarding only.
    Plain,
    /// With a rule that needs the state of the connection.
    Tracked,
    /// The same, one DNAT rule, the guest's, and one MASQUERADE rule.
    TrackedDnat,
    /// A list of rules for each guest, as written by hand.
    Linear,
    /// Routed guests only, so that there is nothing to translate.
    ViaductRouted,
    Viaduct,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain routing",
            Self::Tracked => "routing with conntrack",
            Self::TrackedDnat => "conntrack and one DNAT rule",
            Self::Linear => "linear iptables",
            Self::ViaductRouted => "Viaduct, nothing to translate",
            Self::Viaduct => "Viaduct",
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Tracked => "tracked",
            Self::TrackedDnat => "dnat",
            Self::Linear => "linear",
            Self::ViaductRouted => "routed",
            Self::Viaduct => "viaduct",
        }
    }

    /// What it is to be measured by: the kernel's own work for the same.
    fn measure(self) -> Option<Self> {
        match self {
            Self::ViaductRouted => Some(Self::Tracked),
            Self::Viaduct => Some(Self::TrackedDnat),
            Self::Plain | Self::Tracked | Self::TrackedDnat | Self::Linear => None,
        }
    }
}

/// The ways that are compared for each kind of guest.
const SERIES: [(Kind, &[Way]); 2] = [
    (
        Kind::Routed,
        &[Way::Plain, Way::Linear, Way::Tracked, Way::ViaductRouted, Way::TrackedDnat, Way::Viaduct],
    ),
    (Kind::Translated, &[Way::Linear, Way::TrackedDnat, Way::Viaduct]),
];

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Metric {
    Connections,
    Answered,
    OneWay,
    Sent,
    RoundTrip,
}

impl Metric {
    const ALL: [Self; 5] = [Self::Connections, Self::Answered, Self::OneWay, Self::Sent, Self::RoundTrip];

    /// What its numbers are.
    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Connections => &[
                "New TCP connections per second",
                "The same: µs of the processors per connection, with both ends",
            ],
            Self::Answered => &[
                "UDP, frames of 64 bytes, of a flow that was answered once: thousands per second",
                "The same: ns of the sender's processor per datagram, with the way to the guest's socket",
            ],
            Self::OneWay => &[
                "UDP, frames of 64 bytes, of a flow that is never answered: thousands per second",
                "The same: ns of the sender's processor per datagram, with the way to the guest's socket",
            ],
            Self::Sent => &[
                "The other way, from the guest to the outside, answered once: thousands per second",
                "The same: ns of the sender's processor per datagram, with the way to the outside's socket",
            ],
            Self::RoundTrip => &["Round trip of a UDP datagram, µs"],
        }
    }

    /// The word for the one who does it.
    fn word(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Answered | Self::Sent => "answered",
            Self::OneWay => "one-way",
            Self::RoundTrip => "round-trip",
        }
    }
}

/// By metric and which of its numbers, number of guests, kind and way.
type Samples = BTreeMap<(Metric, usize, u32, &'static str, &'static str), Sample>;

pub(super) fn measure(sandbox: &Sandbox, options: &Options, page: &mut Page) -> Result<(), String> {
    let sizes = options.sizes();
    let (rounds, slice) = if options.quick { (QUICK_ROUNDS, QUICK_SLICE) } else { (ROUNDS, SLICE) };
    let mut paths = Vec::new();
    for &size in sizes {
        eprintln!("datapath: hosts with {} guests", count(size));
        let ways =
            [Way::Plain, Way::Tracked, Way::TrackedDnat, Way::Linear, Way::ViaductRouted, Way::Viaduct];
        for way in ways {
            paths.push(Host::build(sandbox, way, Guests(size))?);
        }
    }
    let mut samples = Samples::new();
    for round in 0..rounds {
        eprintln!("datapath: round {} of {rounds}", round + 1);
        for &size in sizes {
            for (kind, ways) in SERIES {
                let hosts = ways
                    .iter()
                    .filter_map(|way| paths.iter().find(|host| host.way == *way && host.guests.0 == size));
                let mut hosts: Vec<&Host> = hosts.collect();
                // Nobody is always first.
                let shift = usize::try_from(round).unwrap_or(0) % hosts.len().max(1);
                hosts.rotate_left(shift);
                for metric in Metric::ALL {
                    for host in &hosts {
                        for (which, value) in
                            host.traffic(sandbox, metric, kind, slice)?.into_iter().enumerate()
                        {
                            let key = (metric, which, size, word(kind), host.way.word());
                            samples.entry(key).or_default().add(value);
                        }
                    }
                }
            }
        }
    }
    report(&samples, sizes, rounds, slice, page);
    Ok(())
}

fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Routed => "routed",
        Kind::Translated => "translated",
    }
}

fn report(samples: &Samples, sizes: &[u32], rounds: u32, slice: u32, page: &mut Page) {
    page.section(
        "What packets cost",
        &format!(
            "From outside through the host to the last of so many guests; {rounds} rounds of {slice} ms for each cell. \
             Linear iptables has a DNAT rule and two rules in FORWARD for each guest, in the guests' order; plain routing \
             and routing with conntrack have nothing that depends on the number of guests, so that what differs in their \
             rows is the machine's unrest. The host with one DNAT rule has one MASQUERADE rule, too. Where there is NAT, the \
             kernel has work for it with each new flow, also one that nobody translates: Viaduct, where it has \
             ports to publish, is measured by that host; with routed guests only, by the one without NAT. Each \
             host has the last of the guests for real. A new connection is opened, accepted, closed by the server and seen closed."
        ),
    );
    for (kind, ways) in SERIES {
        page.paragraph(match kind {
            Kind::Routed => "### To a routed guest's own address",
            Kind::Translated => "### To a published port of a guest on a bridge",
        });
        let numbers =
            Metric::ALL.into_iter().flat_map(|metric| (0..).zip(metric.names()).map(move |n| (metric, n)));
        for (metric, (which, name)) in numbers {
            page.paragraph(&format!("{name}:"));
            let of = |way: Way, size: u32| samples.get(&(metric, which, size, word(kind), way.word()));
            let sample = |way: Way, size: u32| of(way, size).cloned().unwrap_or_default();
            let (Some(&least), Some(&most)) = (sizes.first(), sizes.last()) else { continue };
            let head = sizes.iter().map(|size| count(*size));
            let last = format!("{} ÷ {}", count(most), count(least));
            let mut rows: Vec<Vec<String>> =
                vec![std::iter::once("guests".to_owned()).chain(head).chain([last]).collect()];
            for &way in ways {
                let cells = sizes.iter().map(|size| sample(way, *size).cell());
                let flat = number(sample(way, most).over(&sample(way, least)).median());
                rows.push(std::iter::once(way.name().to_owned()).chain(cells).chain([flat]).collect());
            }
            for (&way, measure) in ways.iter().filter_map(|way| Some((way, way.measure()?))) {
                let ratio = |size: &u32| sample(way, *size).over(&sample(measure, *size)).cell();
                let name = format!("**{} ÷ {}**", way.name(), measure.name());
                rows.push(
                    std::iter::once(name).chain(sizes.iter().map(ratio)).chain([String::new()]).collect(),
                );
            }
            page.table(&rows);
        }
    }
}

/// A host between the outside and two guests.
struct Host {
    way: Way,
    guests: Guests,
    outside: Machine,
    routed: Machine,
    translated: Machine,
    _host: Machine,
    _services: Vec<Service>,
}

impl Host {
    fn build(sandbox: &Sandbox, way: Way, guests: Guests) -> Result<Self, String> {
        let name = |what: &str| format!("{}-{}-{what}", way.word(), guests.0);
        let (outside, host) = (sandbox.machine(&name("outside"))?, sandbox.machine(&name("host"))?);
        outside.run(&format!("ip link add eth0 type veth peer name eth0 netns {}", host.name))?;
        outside.run(&format!("ip address add {OUTSIDE}/24 dev eth0"))?;
        outside.run("ip link set eth0 up")?;
        host.run(&format!("ip address add {HOST}/24 dev eth0"))?;
        host.run("ip link set eth0 up")?;
        outside.run(&format!("ip route add 198.18.0.0/16 via {HOST}"))?;
        host.run(&format!("ip route add default via {OUTSIDE}"))?;
        let routed = sandbox.machine(&name("routed"))?;
        let translated = sandbox.machine(&name("bridged"))?;
        let configuration = match way {
            Way::Viaduct => Some(guests.configuration()),
            Way::ViaductRouted => Some(guests.routed_configuration()),
            Way::Plain | Way::Tracked | Way::TrackedDnat | Way::Linear => None,
        };
        if let Some(configuration) = configuration {
            let file = sandbox.file(&name("viaduct.toml"), &configuration)?;
            run(&mut viaduct(sandbox, &host, &file, &["apply"]))?;
            let all = [(Kind::Routed, &routed), (Kind::Translated, &translated)];
            let here = if way == Way::ViaductRouted { &all[..1] } else { &all };
            for &(kind, machine) in here {
                let guest = guests.last(kind).name();
                run(&mut viaduct(sandbox, &host, &file, &["attach", &guest, "--netns", &machine.name]))?;
            }
        } else {
            connect_by_hand(&host, &routed, &translated, guests)?;
            rules_by_hand(way, &host, guests)?;
            host.forward()?;
        }
        let mut services = Vec::new();
        for end in [&outside, &routed, &translated] {
            services.push(Service::start(end.command(&sandbox.xtask).args([WORK, "serve"]))?);
        }
        Ok(Self { way, guests, outside, routed, translated, _host: host, _services: services })
    }

    fn traffic(&self, sandbox: &Sandbox, metric: Metric, kind: Kind, slice: u32) -> Result<Vec<f64>, String> {
        let guest = self.guests.last(kind);
        let published =
            u16::try_from(guest.published()).map_err(|_| "there are not so many ports".to_owned())?;
        let (from, place) = match (metric, kind) {
            (Metric::Sent, Kind::Routed) => (&self.routed, SocketAddrV4::new(OUTSIDE, PORT)),
            (Metric::Sent, Kind::Translated) => (&self.translated, SocketAddrV4::new(OUTSIDE, PORT)),
            (_, Kind::Routed) => (&self.outside, SocketAddrV4::new(guest.address(), PORT)),
            (_, Kind::Translated) => (&self.outside, SocketAddrV4::new(HOST, published)),
        };
        let mut command = from.command(&sandbox.xtask);
        command.args([WORK, metric.word(), &place.to_string(), &slice.to_string()]);
        let said = output(&mut command).map_err(|error| format!("{}: {error}", self.way.name()))?;
        said.lines().map(|line| line.parse().map_err(|_| format!("what is \"{line}\"?"))).collect()
    }
}

/// Links and addresses as Viaduct makes them: a link of its own for the routed guest, a bridge for the other.
fn connect_by_hand(
    host: &Machine,
    routed: &Machine,
    translated: &Machine,
    guests: Guests,
) -> Result<(), String> {
    let address = guests.last(Kind::Routed).address();
    host.run(&format!("ip link add routed type veth peer name eth0 netns {}", routed.name))?;
    host.run("ip address add 169.254.1.1/32 dev lo")?;
    host.run("sysctl -qw net.ipv4.conf.routed.proxy_arp=1 net.ipv4.neigh.routed.proxy_delay=0")?;
    host.run("ip link set routed up")?;
    host.run(&format!("ip route add {address}/32 dev routed"))?;
    routed.run(&format!("ip address add {address}/32 dev eth0"))?;
    routed.run("ip link set eth0 up")?;
    routed.run("ip route add 169.254.1.1 dev eth0")?;
    routed.run("ip route add default via 169.254.1.1")?;

    let address = guests.last(Kind::Translated).address();
    host.run("ip link add br0 type bridge")?;
    host.run(&format!("ip address add {GATEWAY}/16 dev br0"))?;
    host.run("ip link set br0 up")?;
    host.run(&format!("ip link add bridged type veth peer name eth0 netns {}", translated.name))?;
    host.run("ip link set bridged master br0 up")?;
    translated.run(&format!("ip address add {address}/16 dev eth0"))?;
    translated.run("ip link set eth0 up")?;
    translated.run(&format!("ip route add default via {GATEWAY}"))?;
    Ok(())
}

fn rules_by_hand(way: Way, host: &Machine, guests: Guests) -> Result<(), String> {
    let track = "table ip tracked {\n chain forward {\n  type filter hook forward priority 0;\n  \
                 ct state invalid drop\n }\n}\n";
    match way {
        Way::Plain | Way::ViaductRouted | Way::Viaduct => Ok(()),
        Way::Tracked => host.feed("nft -f -", track),
        Way::TrackedDnat => {
            let guest = guests.last(Kind::Translated);
            let (port, address) = (guest.published(), guest.address());
            let translate = format!(
                "table ip translated {{\n chain published {{\n  type nat hook prerouting priority -100;\n  \
                 ip daddr {HOST} tcp dport {port} dnat to {address}:{PORT}\n  \
                 ip daddr {HOST} udp dport {port} dnat to {address}:{PORT}\n }}\n \
                 chain leaving {{\n  type nat hook postrouting priority 100\n  \
                 oifname eth0 ip saddr 10.64.0.0/16 masquerade\n }}\n}}\n"
            );
            host.feed("nft -f -", &format!("{track}{translate}"))
        }
        Way::Linear => host.feed("iptables-restore", &guests.restore()),
    }
}
